//! What is done to a gateway that runs: hosts are asked, packets looked at, things cleared and ended, all again and again.

use super::Action;
use super::show::{LOG_LAST, LOG_OF};
use crate::grammar::{Kind, Node, keyword, value};
use crate::session::Cleared;
use crate::views::Topic;

// ping and traceroute

static PING_COUNT: Node =
    value("COUNT", Kind::Number(1, 10_000), "how many; by default 5").then(&PING_CHOICES);
static PING_SIZE: Node = value(
    "BYTES",
    Kind::Number(0, 65_499),
    "behind the ICMP header; by default 56",
)
.then(&PING_CHOICES);
static PING_SOURCE: Node =
    value("SOURCE", Kind::Address, "one of the gateway's own").then(&PING_CHOICES);
static PING_INTERVAL: Node = value(
    "MILLISECONDS",
    Kind::Number(10, 60_000),
    "between two requests; by default 1000",
)
.then(&PING_CHOICES);
static PING_CHOICES: [&Node; 4] = [
    &keyword("count", "so many requests").then(&[&PING_COUNT]),
    &keyword("interval", "time between two requests").then(&[&PING_INTERVAL]),
    &keyword("size", "so many bytes").then(&[&PING_SIZE]),
    &keyword("source", "from this address").then(&[&PING_SOURCE]),
];
static PING_TO: Node = value("DESTINATION", Kind::Host, "who is asked").then(&PING_CHOICES);
pub(super) static PING: Node = keyword("ping", "ask a host whether it is there")
    .wants(Action::Ping)
    .then(&[&PING_TO]);

static WAY_SOURCE: Node =
    value("SOURCE", Kind::Address, "one of the gateway's own").then(&WAY_CHOICES);
static WAY_HOPS: Node =
    value("HOPS", Kind::Number(1, 64), "at most; by default 30").then(&WAY_CHOICES);
static WAY_CHOICES: [&Node; 2] = [
    &keyword("hops", "so far").then(&[&WAY_HOPS]),
    &keyword("source", "from this address").then(&[&WAY_SOURCE]),
];
static WAY_TO: Node = value("DESTINATION", Kind::Host, "where to").then(&WAY_CHOICES);
pub(super) static TRACEROUTE: Node = keyword("traceroute", "the routers on the way to a host")
    .wants(Action::Traceroute)
    .then(&[&WAY_TO]);

// capture and trace

static FILTER_HELP: &str = "in quotes, as pcap-filter(7) has it: \"icmp and host 192.0.2.1\"";
static CAPTURE_FILTER: Node = value("FILTER", Kind::Text, FILTER_HELP).then(&CAPTURE_CHOICES);
static CAPTURE_COUNT: Node = value(
    "COUNT",
    Kind::Number(1, 1_000_000),
    "how many; by default 1000",
)
.then(&CAPTURE_CHOICES);
static CAPTURE_BYTES: Node =
    value("BYTES", Kind::Number(14, 65_535), "of each packet at most").then(&CAPTURE_CHOICES);
static CAPTURE_SECONDS: Node =
    value("SECONDS", Kind::Number(1, 3600), "by default 60").then(&CAPTURE_CHOICES);
static CAPTURE_CHOICES: [&Node; 6] = [
    &keyword("bytes", "so much of each packet").then(&[&CAPTURE_BYTES]),
    &keyword("count", "so many packets").then(&[&CAPTURE_COUNT]),
    &keyword("filter", "only packets that match").then(&[&CAPTURE_FILTER]),
    &keyword("for", "so many seconds").then(&[&CAPTURE_SECONDS]),
    &keyword("in", "packets that come in")
        .ending()
        .then(&CAPTURE_CHOICES),
    &keyword("out", "packets that leave")
        .ending()
        .then(&CAPTURE_CHOICES),
];
static CAPTURE_INTERFACE: Node =
    value("INTERFACE", Kind::Text, "name of an interface or tunnel").then(&CAPTURE_CHOICES);
static CAPTURE_NODE: Node =
    value("NODE", Kind::Text, "as `show nodes all` names it").then(&CAPTURE_CHOICES);
pub(super) static CAPTURE: Node = keyword("capture", "packets as they pass; for operators")
    .wants(Action::Capture)
    .then(&[
        &keyword("drops", "what is dropped, and why")
            .ending()
            .then(&CAPTURE_CHOICES),
        &keyword("interface", "what passes an interface").then(&[&CAPTURE_INTERFACE]),
        &keyword("node", "what a node of the packet graph is given").then(&[&CAPTURE_NODE]),
    ]);

static TRACE_FILTER: Node = value("FILTER", Kind::Text, FILTER_HELP).then(&TRACE_CHOICES);
static TRACE_INTERFACE: Node =
    value("INTERFACE", Kind::Text, "name of an interface or tunnel").then(&TRACE_CHOICES);
static TRACE_COUNT: Node =
    value("COUNT", Kind::Number(1, 1000), "how many; by default 10").then(&TRACE_CHOICES);
static TRACE_SECONDS: Node =
    value("SECONDS", Kind::Number(1, 3600), "by default 60").then(&TRACE_CHOICES);
static TRACE_CHOICES: [&Node; 5] = [
    &keyword("bytes", "the first bytes of each packet, too")
        .ending()
        .then(&TRACE_CHOICES),
    &keyword("count", "so many packets").then(&[&TRACE_COUNT]),
    &keyword("filter", "only packets that match").then(&[&TRACE_FILTER]),
    &keyword("for", "so many seconds").then(&[&TRACE_SECONDS]),
    &keyword("interface", "only packets that come in by one").then(&[&TRACE_INTERFACE]),
];
pub(super) static TRACE: Node = keyword("trace", "what nodes do with packets; for operators")
    .does(Action::Trace)
    .then(&TRACE_CHOICES);

// clear and restart

static CLEARED_INTERFACE: Node =
    value("INTERFACE", Kind::Text, "name of an interface").then(&NEIGHBOUR_CHOICES);
static CLEARED_ADDRESS: Node =
    value("ADDRESS", Kind::Address, "of a neighbour").then(&NEIGHBOUR_CHOICES);
static NEIGHBOUR_CHOICES: [&Node; 2] = [
    &keyword("address", "this one").then(&[&CLEARED_ADDRESS]),
    &keyword("interface", "on one interface").then(&[&CLEARED_INTERFACE]),
];
static COUNTER_CHOICES: [&Node; 4] = [
    &keyword("drops", "packets dropped, by reason").ending(),
    &keyword("interfaces", "of interfaces and tunnels").ending(),
    &keyword("nodes", "what nodes of the packet graph have cost").ending(),
    &keyword("tunnels", "of tunnels and security associations").ending(),
];
static CONNECTION_NAME: Node = value("NAME", Kind::Text, "of a connection");
static CHILD_NAME: Node = value("NAME", Kind::Text, "of a child");
pub(super) static CLEAR: Node =
    keyword("clear", "end what was learnt or negotiated; for operators").then(&[
        &keyword("counters", "what is counted is shown from zero again")
            .does(Action::Clear(Cleared::Counters))
            .then(&COUNTER_CHOICES),
        &keyword(
            "ike",
            "the IKE_SAs of a connection end, with their CHILD_SAs",
        )
        .wants(Action::Clear(Cleared::Ike))
        .then(&[&CONNECTION_NAME]),
        &keyword("ipsec", "the CHILD_SAs of a child end")
            .wants(Action::Clear(Cleared::Ipsec))
            .then(&[&CHILD_NAME]),
        &keyword("neighbours", "they are forgotten, and asked for anew")
            .does(Action::Clear(Cleared::Neighbours))
            .then(&NEIGHBOUR_CHOICES),
    ]);
static RESTART_FORCE: Node = keyword("force", "without asking").ending();
static RESTARTED: Node =
    value("PROCESS", Kind::Text, "as `show system` names it").then(&[&RESTART_FORCE]);
pub(super) static RESTART: Node = keyword(
    "restart",
    "end a process, and start it again; for operators",
)
.wants(Action::Restart)
.then(&[&RESTARTED]);

// monitor

static PAUSE: Node = value("SECONDS", Kind::Number(1, 3600), "by default 2");
static EVERY: [&Node; 1] = [&keyword("every", "so many seconds").then(&[&PAUSE])];
pub(super) static MONITOR: Node = keyword("monitor", "look again and again, until Ctrl-C").then(&[
    &keyword("drops", "packets dropped, by reason")
        .does(Action::Monitor(Topic::Drops))
        .then(&EVERY),
    &keyword("ike", "IKE_SAs")
        .does(Action::Monitor(Topic::Ike))
        .then(&EVERY),
    &keyword("interfaces", "interfaces and tunnels with their counters")
        .does(Action::Monitor(Topic::Interfaces))
        .then(&EVERY),
    &keyword("ipsec", "CHILD_SAs")
        .does(Action::Monitor(Topic::Children))
        .then(&EVERY),
    &keyword("log", "what the processes write down")
        .does(Action::ShowLog)
        .then(&[&LOG_LAST, &LOG_OF]),
    &keyword("system", "processes, and how far the gateway is")
        .does(Action::Monitor(Topic::System))
        .then(&EVERY),
]);
