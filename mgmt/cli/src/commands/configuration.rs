//! What changes a candidate.

use culvert_model::api::complete_request::Verb;

use super::operating::{CAPTURE, CLEAR, MONITOR, PING, RESTART, TRACE, TRACEROUTE};
use super::show::SHOW;
use super::{
    Action, BACK, BACK_TO, CONFIRM, EXIT, HELP, LARGEST_TEXT, QUIT, SAVE_FILE, SAVE_TERMINAL,
    TO_REVISION,
};
use crate::grammar::{Kind, Node, Nodes, keyword, location, value};

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
