//! What `show` tells.

use culvert_model::api::complete_request::Verb;

use super::{ALL, Action, NEWEST_FIRST};
use crate::grammar::{Kind, Node, keyword, location, value};
use crate::views::Topic;

static LIMIT_NUMBER: Node =
    value("LIMIT", Kind::Number(1, 10_000_000), "at most so many").then(&ROUTE_CHOICES);
static LIMIT: Node = keyword("limit", "how many at most; by default 1000").then(&[&LIMIT_NUMBER]);
static TOWARDS: Node = value("ADDRESS", Kind::Address, "the destination").then(&ROUTE_CHOICES);
static TO_ADDRESS: Node =
    keyword("to", "the route by which an address is reached").then(&[&TOWARDS]);
static NETWORK: Node = value("NETWORK", Kind::Network, "the network").then(&ROUTE_CHOICES);
static PREFIX: Node = keyword("prefix", "routes within a network").then(&[&NETWORK]);
static VRF_NAME: Node =
    value("VRF", Kind::Text, "name of the routing instance").then(&ROUTE_CHOICES);
static VRF: Node = keyword("vrf", "of one routing instance").then(&[&VRF_NAME]);
static ROUTE_CHOICES: [&Node; 4] = [&VRF, &PREFIX, &TO_ADDRESS, &LIMIT];

static SYSTEM: Node = keyword(
    "system",
    "processes, and how far the gateway is with its configuration",
)
.does(Action::Show(Topic::System));
static NTP: Node =
    keyword("ntp", "the clock, and the servers that it is set by").does(Action::Show(Topic::Clock));
static INTERFACES: Node = keyword("interfaces", "interfaces and tunnels with their counters")
    .does(Action::Show(Topic::Interfaces));
static TUNNELS: Node =
    keyword("tunnels", "what is up: the same as ipsec").does(Action::Show(Topic::Children));
static ROUTES: Node = keyword(
    "routes",
    "routes as packets find them, with what they lead to",
)
.does(Action::Show(Topic::Routes))
.then(&ROUTE_CHOICES);
static NEIGHBOURS: Node = keyword("neighbours", "neighbours with what is known of them")
    .does(Action::Show(Topic::Neighbours));
static IKE: Node = keyword("ike", "IKE_SAs").does(Action::Show(Topic::Ike));
static SAS: Node =
    keyword("sas", "security associations of the dataplane").does(Action::Show(Topic::Sas));
static POLICIES: Node =
    keyword("policies", "policies of the dataplane").does(Action::Show(Topic::Policies));
static IPSEC: Node = keyword("ipsec", "CHILD_SAs with their selectors")
    .does(Action::Show(Topic::Children))
    .then(&[&SAS, &POLICIES]);
static REASSEMBLY: Node = keyword(
    "reassembly",
    "fragments that wait for the rest of their packets",
)
.does(Action::Show(Topic::Reassembly));
static PATHS: Node = keyword(
    "paths",
    "paths that take less than the link by which they begin",
)
.does(Action::Show(Topic::Paths));
static TOO_BIG: Node = keyword(
    "too-big",
    "messages of routers that ESP packets were too big",
)
.does(Action::Show(Topic::TooBig));
static DHCP: Node = keyword(
    "dhcp",
    "addresses that DHCP servers have lent, by interface",
)
.does(Action::Show(Topic::Dhcp));
static DROPS: Node = keyword("drops", "packets dropped, by reason")
    .does(Action::Show(Topic::Drops))
    .then(&[&ALL]);
static NODES: Node = keyword("nodes", "what each node of the packet graph has cost")
    .does(Action::Show(Topic::Nodes))
    .then(&[&ALL]);

static REVISIONS: Node = keyword("revisions", "revisions, newest first, and which are pinned")
    .does(Action::ShowRevisions)
    .then(&[&NEWEST_FIRST]);
static STATUS_OF: Node = keyword(
    "status",
    "how far the gateway is with it: values by state, and what those that are not as configured wait for",
)
.does(Action::ShowStatus);
static TRANSACTIONS: Node = keyword(
    "transactions",
    "what was sent to the parts of the gateway, and why, newest first",
)
.does(Action::ShowTransactions)
.then(&[&NEWEST_FIRST]);
static GRAPH_LIMIT_NUMBER: Node =
    value("LIMIT", Kind::Number(1, 2000), "at most so many values").then(&GRAPH_CHOICES);
static GRAPH_LIMIT: Node = keyword("limit", "how many values at most").then(&[&GRAPH_LIMIT_NUMBER]);
static VALUE_KEY: Node = value("KEY", Kind::Text, "as `route/default/`").then(&GRAPH_CHOICES);
static KEYS: Node = keyword("prefix", "values whose keys begin so").then(&[&VALUE_KEY]);
static GRAPH_CHOICES: [&Node; 2] = [&GRAPH_LIMIT, &KEYS];
static GRAPH: Node = keyword(
    "graph",
    "values with their states and what they depend on, for Graphviz",
)
.does(Action::ShowGraph)
.then(&GRAPH_CHOICES);
static SINCE: Node = value(
    "REVISION",
    Kind::Number(1, u64::MAX),
    "number of a revision",
);
static DIFFERENCES: Node = keyword(
    "differences",
    "what the newest revision changed, or all since one",
)
.does(Action::ShowDifferences)
.then(&[&SINCE]);
static PART: Node = location(Verb::Location, "a part of it");
static OLD: Node = value("REVISION", Kind::Number(1, u64::MAX), "its number").then(&[&PART]);
static REVISION: Node = keyword("revision", "an older one")
    .wants(Action::ShowRevision)
    .then(&[&OLD]);
static CONFIGURATION: Node = keyword("configuration", "what is configured")
    .does(Action::ShowConfiguration)
    .then(&[
        &REVISIONS,
        &REVISION,
        &STATUS_OF,
        &DIFFERENCES,
        &GRAPH,
        &TRANSACTIONS,
        &PART,
    ]);
static AUDIT: Node = keyword("audit", "who did what, newest last")
    .does(Action::ShowAudit)
    .then(&[&NEWEST_FIRST]);

static CERTIFICATES: Node = keyword(
    "certificates",
    "certificates: whose, until when, with which key",
)
.does(Action::ShowCertificates);

static VERSION: Node =
    keyword("version", "which firmware runs, and for how long").does(Action::Show(Topic::Version));

static LOG_LINES: Node = value("LINES", Kind::Number(1, 10_000), "how many; by default 20");
pub(super) static LOG_LAST: Node = keyword("last", "so many lines of the end").then(&[&LOG_LINES]);
pub(super) static LOG_OF: Node = value(
    "PROCESS",
    Kind::Text,
    "name of a process; without one: of all",
)
.then(&[&LOG_LAST]);
static LOG: Node = keyword("log", "the end of what the processes write down")
    .does(Action::ShowLog)
    .then(&[&LOG_LAST, &LOG_OF]);

static SHOWN: [&Node; 19] = [
    &AUDIT,
    &CERTIFICATES,
    &CONFIGURATION,
    &DHCP,
    &DROPS,
    &IKE,
    &INTERFACES,
    &IPSEC,
    &LOG,
    &NEIGHBOURS,
    &NODES,
    &NTP,
    &PATHS,
    &REASSEMBLY,
    &ROUTES,
    &SYSTEM,
    &TOO_BIG,
    &TUNNELS,
    &VERSION,
];
pub(super) static SHOW: Node = keyword("show", "what the gateway knows and does").then(&SHOWN);
