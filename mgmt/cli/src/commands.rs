//! The commands: which there are, in which mode, and what each is for.
//!
//! Operational commands look, configuration commands change a candidate. Who may do what is decided by the server alone.

mod configuration;
mod operating;
mod show;

pub use self::configuration::CONFIGURATION_MODE;
use self::operating::{CAPTURE, CLEAR, MONITOR, PING, RESTART, TRACE, TRACEROUTE};
use self::show::SHOW;
use crate::grammar::{Kind, Node, Nodes, keyword, value};
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
    /// Keep a revision, or let it go.
    Pin,
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
static UNPIN: Node = keyword("off", "it may go again").ending();
static PINNED: Node = value("REVISION", Kind::Number(1, u64::MAX), "its number").then(&[&UNPIN]);
static PIN_REVISION: Node = keyword(
    "revision",
    "the one of a number, as `show configuration revisions` tells it",
)
.then(&[&PINNED]);
static PIN: Node = keyword("pin", "keep a revision however long the history becomes")
    .wants(Action::Pin)
    .then(&[&PIN_REVISION]);
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

static OPERATIONAL: [&Node; 17] = [
    &CAPTURE,
    &CLEAR,
    &CONFIGURE,
    &EXIT,
    &HELP,
    &MONITOR,
    &PIN,
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
