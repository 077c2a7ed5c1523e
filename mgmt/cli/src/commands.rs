//! The commands: which there are, in which mode, and what each is for.
//!
//! Operational commands look, configuration commands change a candidate. Who may do what is decided by the server alone.

use culvert_model::api::complete_request::Verb;

use crate::grammar::{Kind, Node, Nodes, keyword, location, value};
use crate::session::Cleared;
use crate::views::Topic;

/// What a line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What the processes have written down; behind `monitor`: what they write.
    ShowLog,
    /// Echo requests.
    Ping,
    /// The way to somebody.
    Traceroute,
    /// Packets as they pass.
    Capture,
    /// What nodes do with packets.
    Trace,
    /// End what has been learnt, counted or negotiated.
    Clear(Cleared),
    /// End a process, which is started again.
    Restart,
    /// Look again and again.
    Monitor(Topic),
    /// Enter configuration mode.
    Configure,
    /// Ask the gateway.
    Show(Topic),
    /// Text of the running configuration.
    ShowConfiguration,
    /// Text of an older one.
    ShowRevision,
    /// The list of revisions.
    ShowRevisions,
    /// How far the gateway is.
    ShowStatus,
    /// What was done to bring it there.
    ShowTransactions,
    /// What depends on what.
    ShowGraph,
    /// Ask all parts, and put right what differs.
    Resynchronise,
    /// What differs from a revision.
    ShowDifferences,
    /// Who did what.
    ShowAudit,
    /// Whose certificates there are, and until when.
    ShowCertificates,
    /// An earlier revision runs again.
    RollbackRunning,
    /// Keep what is on probation.
    Confirm,
    /// Leave the mode.
    Exit,
    /// Leave it all.
    Quit,
    /// What there is.
    Help,
    /// Set a leaf, or make an item.
    Set,
    /// Remove a leaf, an item or more.
    Delete,
    /// Go into a part.
    Edit,
    /// Go one level out.
    Up,
    /// Go all the way out.
    Top,
    /// Another name.
    Rename,
    /// Another one like it.
    Copy,
    /// A private key, in the candidate.
    GenerateKey,
    /// What an authority makes a certificate of.
    RequestCertificate,
    /// It stays and takes no effect.
    Deactivate,
    /// It takes effect again.
    Activate,
    /// A comment about something.
    Annotate,
    /// Another place in a list.
    Insert,
    /// Text of the candidate.
    ShowCandidate,
    /// What the candidate changes.
    Compare,
    /// Make it run.
    Commit,
    /// The candidate becomes an earlier revision.
    Rollback,
    /// Text in.
    Load,
    /// Text out.
    Save,
    /// A new key for what is secret on the disk.
    RotateKey,
    /// Forget the changes.
    Discard,
    /// About this candidate, and how far the gateway is.
    Status,
}

/// The largest text that is loaded, in bytes: that of a configuration.
pub const LARGEST_TEXT: u64 = 16 << 20;

// Values and endings that several commands have.

static ALL: Node = keyword("all", "rows that are all zero, too").ending();
static NEWEST_FIRST: Node = value("NUMBER", Kind::Number(1, 10_000), "how many; by default 20");

// show

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
static DROPS: Node = keyword("drops", "packets dropped, by reason")
    .does(Action::Show(Topic::Drops))
    .then(&[&ALL]);
static NODES: Node = keyword("nodes", "what each node of the packet graph has cost")
    .does(Action::Show(Topic::Nodes))
    .then(&[&ALL]);

static REVISIONS: Node = keyword("revisions", "revisions, newest first")
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
static LOG_LAST: Node = keyword("last", "so many lines of the end").then(&[&LOG_LINES]);
static LOG_OF: Node = value(
    "PROCESS",
    Kind::Text,
    "name of a process; without one: of all",
)
.then(&[&LOG_LAST]);
static LOG: Node = keyword("log", "the end of what the processes write down")
    .does(Action::ShowLog)
    .then(&[&LOG_LAST, &LOG_OF]);

static SHOWN: [&Node; 17] = [
    &AUDIT,
    &CERTIFICATES,
    &CONFIGURATION,
    &DROPS,
    &IKE,
    &INTERFACES,
    &IPSEC,
    &LOG,
    &NEIGHBOURS,
    &NODES,
    &PATHS,
    &REASSEMBLY,
    &ROUTES,
    &SYSTEM,
    &TOO_BIG,
    &TUNNELS,
    &VERSION,
];
static SHOW: Node = keyword("show", "what the gateway knows and does").then(&SHOWN);

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
static PING: Node = keyword("ping", "ask a host whether it is there")
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
static TRACEROUTE: Node = keyword("traceroute", "the routers on the way to a host")
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
static CAPTURE: Node = keyword("capture", "packets as they pass; for operators")
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
static TRACE: Node = keyword("trace", "what nodes do with packets; for operators")
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
static CLEAR: Node = keyword("clear", "end what was learnt or negotiated; for operators").then(&[
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
static RESTART: Node = keyword(
    "restart",
    "end a process, and start it again; for operators",
)
.wants(Action::Restart)
.then(&[&RESTARTED]);

// monitor

static PAUSE: Node = value("SECONDS", Kind::Number(1, 3600), "by default 2");
static EVERY: [&Node; 1] = [&keyword("every", "so many seconds").then(&[&PAUSE])];
static MONITOR: Node = keyword("monitor", "look again and again, until Ctrl-C").then(&[
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

// The others of operational mode.

static EXCLUSIVE: Node = keyword("exclusive", "nobody else may commit meanwhile").ending();
static CANDIDATE_ID: Node = value("ID", Kind::Text, "as `configure` and `status` tell it");
static CANDIDATE: Node =
    keyword("candidate", "go on with one that was left").then(&[&CANDIDATE_ID]);
static CONFIGURE: Node = keyword("configure", "change the configuration")
    .does(Action::Configure)
    .then(&[&EXCLUSIVE, &CANDIDATE]);
static BACK: Node = value(
    "STEPS",
    Kind::Number(0, 10_000),
    "how many revisions back; 1: what ran before the last commit",
);
static BACK_TO: Node = value("REVISION", Kind::Number(1, u64::MAX), "its number");
static TO_REVISION: Node = keyword("revision", "to the revision of a number").then(&[&BACK_TO]);
static ROLLBACK_RUNNING: Node = keyword("rollback", "make an earlier revision run again")
    .wants(Action::RollbackRunning)
    .then(&[&BACK, &TO_REVISION]);
static CONFIRM: Node =
    keyword("confirm", "keep the revision that is on probation").does(Action::Confirm);
static RESYNCHRONISE: Node = keyword(
    "resynchronise",
    "ask every part of the gateway what it holds, and put right what differs",
)
.does(Action::Resynchronise);
static HELP: Node = keyword("help", "what there is").does(Action::Help);
static EXIT: Node = keyword("exit", "leave").does(Action::Exit);
static QUIT: Node = keyword("quit", "leave").does(Action::Quit);

static OPERATIONAL: [&Node; 16] = [
    &CAPTURE,
    &CLEAR,
    &CONFIGURE,
    &EXIT,
    &HELP,
    &MONITOR,
    &PING,
    &QUIT,
    &RESTART,
    &RESYNCHRONISE,
    &ROLLBACK_RUNNING,
    &ROTATE,
    &SAVE_RUNNING,
    &SHOW,
    &TRACE,
    &TRACEROUTE,
];

/// Commands of operational mode.
pub static OPERATIONAL_MODE: Nodes = &OPERATIONAL;

// What may be written away in both modes.

static WITH_SECRETS: Node = keyword(
    "with-secrets",
    "secrets, too, all sealed with a passphrase that is asked for",
)
.ending();
static SAVE_FILE: Node =
    value("FILE", Kind::Text, "name of a new file; JSON if it ends so").then(&[&WITH_SECRETS]);
static SAVE_TERMINAL: Node =
    keyword("terminal", "to this terminal or to standard output").then(&[&WITH_SECRETS]);
static SAVE_RUNNING: Node = keyword(
    "save",
    "write the running configuration to a file; for the local administrator",
)
.wants(Action::Save)
.then(&[&SAVE_TERMINAL, &SAVE_FILE]);
static STORE_KEY: Node = keyword(
    "store-key",
    "the key that secrets are sealed with on the disk",
)
.does(Action::RotateKey);
static ROTATE: Node =
    keyword("rotate", "draw a new key and use it from now on").then(&[&STORE_KEY]);

// Configuration mode.

static SET_WHAT: Node = location(Verb::Set, "what, and its value");
static SET: Node = keyword("set", "set a value, or make an item of a list")
    .wants(Action::Set)
    .then(&[&SET_WHAT]);
static DELETE_WHAT: Node = location(Verb::Delete, "what");
static DELETE: Node = keyword(
    "delete",
    "remove a value, an item of a list or a whole part",
)
.wants(Action::Delete)
.then(&[&DELETE_WHAT]);
static EDIT_WHERE: Node = location(Verb::Location, "where to");
static EDIT: Node = keyword("edit", "go into a part: what follows is about it")
    .wants(Action::Edit)
    .then(&[&EDIT_WHERE]);
static LEVELS: Node = value("LEVELS", Kind::Number(1, 64), "how many levels");
static UP: Node = keyword("up", "go one level out")
    .does(Action::Up)
    .then(&[&LEVELS]);
static TOP: Node = keyword("top", "go all the way out").does(Action::Top);
static NEW_KEY: Node = value("NAME", Kind::Text, "its new name").then(&[&NEW_KEY]);
static TO: Node = keyword("to", "how the other one is called").then(&[&NEW_KEY]);
static MOVED: Node = location(Verb::Location, "an item of a list")
    .unfinished()
    .then(&[&TO]);
static RENAME: Node = keyword("rename", "call an item of a list something else")
    .wants(Action::Rename)
    .then(&[&MOVED]);
static COPY: Node = keyword("copy", "make another item like one that is there")
    .wants(Action::Copy)
    .then(&[&MOVED]);
static INACTIVE: Node = location(Verb::Delete, "what");
static DEACTIVATE: Node = keyword("deactivate", "something stays and takes no effect")
    .wants(Action::Deactivate)
    .then(&[&INACTIVE]);
static ACTIVATE: Node = keyword("activate", "something takes effect again")
    .wants(Action::Activate)
    .then(&[&INACTIVE]);
static NOTE: Node = value("TEXT", Kind::Text, "in quotes; empty: none any more");
static NOTED: Node = location(Verb::Delete, "what it is about")
    .unfinished()
    .then(&[&keyword("comment", "what is to be said about it").then(&[&NOTE])]);
static ANNOTATE: Node = keyword("annotate", "keep a comment about something")
    .wants(Action::Annotate)
    .then(&[&NOTED]);
static OTHER_KEY: Node = value("NAME", Kind::Text, "the other item's name").then(&[&OTHER_KEY]);
static INSERTED: Node = location(Verb::Location, "an item of a list that is kept in order")
    .unfinished()
    .then(&[
        &keyword("after", "right behind another item").then(&[&OTHER_KEY]),
        &keyword("before", "right before another item").then(&[&OTHER_KEY]),
        &keyword("first", "before all others").ending(),
        &keyword("last", "behind all others").ending(),
    ]);
static INSERT: Node = keyword("insert", "another place for an item of a list")
    .wants(Action::Insert)
    .then(&[&INSERTED]);
static CANDIDATE_PART: Node = location(Verb::Location, "a part of it");
static SHOW_CANDIDATE: Node = keyword("show", "the candidate, or a part of it")
    .does(Action::ShowCandidate)
    .then(&[&CANDIDATE_PART]);
static COMPARE_ROLLBACK: Node = keyword("rollback", "with so many revisions back").then(&[&BACK]);
static COMPARE_REVISION: Node =
    keyword("revision", "with the revision of a number").then(&[&BACK_TO]);
static COMPARE: Node = keyword("compare", "what the candidate changes")
    .does(Action::Compare)
    .then(&[&COMPARE_REVISION, &COMPARE_ROLLBACK]);

static COMMENT_TEXT: Node = value("TEXT", Kind::Text, "in quotes").then(&COMMIT_OPTIONS);
static COMMENT: Node = keyword("comment", "why; kept with the revision").then(&[&COMMENT_TEXT]);
static MINUTES: Node =
    value("MINUTES", Kind::Number(1, 1440), "how long; by default 10").then(&COMMIT_OPTIONS);
static CONFIRMED: Node = keyword(
    "confirmed",
    "taken back unless `confirm` or `commit` follows in time, whatever the wall clock is set to meanwhile",
)
.ending()
.then(&[&MINUTES, &COMMENT, &AND_QUIT, &FORCE]);
static AND_QUIT: Node = keyword("and-quit", "then leave configuration mode")
    .ending()
    .then(&COMMIT_OPTIONS);
static FORCE: Node = keyword("force", "even if it cuts off the one who asks")
    .ending()
    .then(&COMMIT_OPTIONS);
static COMMIT_OPTIONS: [&Node; 4] = [&AND_QUIT, &COMMENT, &CONFIRMED, &FORCE];
static CHECK: Node = keyword("check", "say what it would do, and change nothing").ending();
static COMMIT: Node = keyword("commit", "make the candidate the running configuration")
    .does(Action::Commit)
    .then(&[&AND_QUIT, &CHECK, &COMMENT, &CONFIRMED, &FORCE]);
static ROLLBACK: Node = keyword(
    "rollback",
    "make the candidate what an earlier revision was",
)
.wants(Action::Rollback)
.then(&[&BACK, &TO_REVISION]);

static LOAD_FILE: Node = value(
    "FILE",
    Kind::Text,
    "name of a file; for the local administrator",
);
static BYTES_NUMBER: Node = value("BYTES", Kind::Number(0, LARGEST_TEXT), "how many");
static BYTES: Node = keyword(
    "bytes",
    "exactly so many, whatever they are: for programs, whose connection may break",
)
.then(&[&BYTES_NUMBER]);
static LOAD_TERMINAL: Node = keyword(
    "terminal",
    "what is typed or pasted, until Ctrl-D or a line with a dot alone",
)
.ending()
.then(&[&BYTES]);
static MERGE: Node =
    keyword("merge", "what is in it is set, all else stays").then(&[&LOAD_TERMINAL, &LOAD_FILE]);
static OVERRIDE: Node =
    keyword("override", "it becomes the whole configuration").then(&[&LOAD_TERMINAL, &LOAD_FILE]);
static LOAD: Node = keyword(
    "load",
    "take in set lines, JSON, or what was saved with secrets",
)
.wants(Action::Load)
.then(&[&MERGE, &OVERRIDE]);
static SAVE: Node = keyword(
    "save",
    "write the candidate to a file; for the local administrator",
)
.wants(Action::Save)
.then(&[&SAVE_TERMINAL, &SAVE_FILE]);
static DISCARD: Node =
    keyword("discard", "forget all changes of this candidate").does(Action::Discard);
static STATUS: Node =
    keyword("status", "about this candidate, others, and the gateway").does(Action::Status);
static P256: Node = keyword("ecdsa-p256", "ECDSA on the curve P-256, as by default").ending();
static P384: Node = keyword("ecdsa-p384", "ECDSA on the curve P-384").ending();
static ED25519: Node = keyword("ed25519", "Ed25519").ending();
static RSA: Node = keyword("rsa-3072", "RSA of 3072 bits").ending();
static KEY_NAME: Node =
    value("NAME", Kind::Text, "what it is called").then(&[&P256, &P384, &ED25519, &RSA]);
static PRIVATE_KEY: Node = keyword(
    "private-key",
    "a private key, in the candidate; nobody sees it",
)
.wants(Action::GenerateKey)
.then(&[&KEY_NAME]);
static OTHER_NAMES: Node = value(
    "NAMES",
    Kind::Text,
    "host names, addresses and mail addresses, with commas between them",
);
static ALTERNATIVE: Node =
    keyword("subject-alternative-name", "other names of the same").then(&[&OTHER_NAMES]);
static SUBJECT_NAME: Node = value(
    "SUBJECT",
    Kind::Text,
    "for example \"CN=branch.example.com, O=Example\"",
)
.then(&[&ALTERNATIVE]);
static SUBJECT: Node = keyword("subject", "whose certificate it shall be").then(&[&SUBJECT_NAME]);
static KEY_OF: Node = value("KEY", Kind::Text, "its name")
    .unfinished()
    .then(&[&SUBJECT]);
static KEY: Node =
    keyword("key", "the private key of the candidate that it is for").then(&[&KEY_OF]);
static CERTIFICATE_REQUEST: Node = keyword(
    "certificate-request",
    "what an authority makes a certificate of",
)
.wants(Action::RequestCertificate)
.then(&[&KEY]);
static GENERATE: Node = keyword("generate", "make a private key, or ask for its certificate")
    .then(&[&CERTIFICATE_REQUEST, &PRIVATE_KEY]);
static RUN: Node = keyword("run", "an operational command").then(&RUNNABLE);
static RUNNABLE: [&Node; 8] = [
    &CAPTURE,
    &CLEAR,
    &MONITOR,
    &PING,
    &RESTART,
    &SHOW,
    &TRACE,
    &TRACEROUTE,
];

static CONFIGURING: [&Node; 25] = [
    &ACTIVATE,
    &ANNOTATE,
    &COMMIT,
    &COMPARE,
    &CONFIRM,
    &COPY,
    &DEACTIVATE,
    &DELETE,
    &DISCARD,
    &EDIT,
    &EXIT,
    &GENERATE,
    &HELP,
    &INSERT,
    &LOAD,
    &QUIT,
    &RENAME,
    &ROLLBACK,
    &RUN,
    &SAVE,
    &SET,
    &SHOW_CANDIDATE,
    &STATUS,
    &TOP,
    &UP,
];

/// Commands of configuration mode.
pub static CONFIGURATION_MODE: Nodes = &CONFIGURING;

// Behind a pipe.

static REGEX: Node = value("REGEX", Kind::Pattern, "a regular expression");
static MATCH: Node = keyword("match", "lines in which it occurs").then(&[&REGEX]);
static EXCEPT: Node = keyword("except", "lines in which it does not occur").then(&[&REGEX]);
static COUNT: Node = keyword("count", "how many lines").ending();
static NO_MORE: Node = keyword("no-more", "all at once, without stopping at each page").ending();
static LINES: Node = value("LINES", Kind::Number(1, 1_000_000), "how many");
static LAST: Node = keyword("last", "the last lines").then(&[&LINES]);
static AS_SET: Node = keyword("set", "as commands").ending();
static AS_JSON: Node = keyword("json", "for programs").ending();
static AS_PCAPNG: Node = keyword("pcapng", "a capture, for other programs").ending();
static AS_TEXT: Node = keyword("text", "for people").ending();
static DEFAULTS: Node = keyword("defaults", "with what holds without being written").ending();
static DISPLAY: Node = keyword("display", "in another form")
    .then(&[&DEFAULTS, &AS_JSON, &AS_PCAPNG, &AS_SET, &AS_TEXT]);
static FILTERS: [&Node; 6] = [&COUNT, &DISPLAY, &EXCEPT, &LAST, &MATCH, &NO_MORE];

/// What may stand behind `|`.
pub static PIPES: Nodes = &FILTERS;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::grammar::Token;

    /// Every node, once, with whether a line may end there without meaning anything.
    fn visit(nodes: Nodes, acts: bool, seen: &mut Vec<(*const Node, bool)>) {
        for node in nodes {
            let acts = acts || node.action.is_some();
            let key = (std::ptr::from_ref::<Node>(node), acts);
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            assert!(!node.help.is_empty(), "{} has no help", node.name());
            assert!(
                acts || !node.ends,
                "a line may end with {} and does nothing",
                node.name()
            );
            assert!(
                node.ends || !node.next.is_empty(),
                "{} leads nowhere",
                node.name()
            );
            let mut names: Vec<_> = node.next.iter().map(|next| next.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(
                names.len(),
                node.next.len(),
                "two ways behind {}",
                node.name()
            );
            visit(node.next, acts, seen);
        }
    }

    #[test]
    fn every_line_that_may_end_does_something() {
        for (mode, acts) in [
            (OPERATIONAL_MODE, false),
            (CONFIGURATION_MODE, false),
            (PIPES, true),
        ] {
            visit(mode, acts, &mut Vec::new());
            let names: Vec<_> = mode.iter().map(|node| node.name()).collect();
            assert!(names.is_sorted(), "{names:?}");
            assert!(
                mode.iter()
                    .all(|node| matches!(node.token, Token::Keyword(_)))
            );
        }
    }
}
