//! Commands as data: each word that may come, what it is for, and what may follow.
//!
//! ```text
//!   commit ─┬─ check
//!           ├─ confirmed ── MINUTES ─┐      the same table says what a line means,
//!           ├─ comment ── TEXT ──────┤      what can be written next, what is wrong
//!           └─ and-quit              │      with a word, and prints the help
//!           ^────────────────────────┘
//! ```
//!
//! Keywords may be shortened as long as they stay unique. Words of the configuration are not known here: a *location* takes
//! the rest of the line, and the server knows what is right in it.

use std::net::IpAddr;
use std::ops::Range;

use culvert_model::api::complete_request::Verb;

use crate::commands::Action;
use crate::words::Word;

/// What may stand at a place.
#[derive(Debug)]
pub struct Node {
    /// Which words fit.
    pub token: Token,
    /// A phrase for people.
    pub help: &'static str,
    /// What the line then does, unless a later word says something else.
    pub action: Option<Action>,
    /// The line may end here.
    pub ends: bool,
    /// What may follow.
    pub next: Nodes,
}

/// What may come at one place.
pub type Nodes = &'static [&'static Node];

/// Which words fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// This one.
    Keyword(&'static str),
    /// Any that its kind allows.
    Value(&'static str, Kind),
    /// Words of the configuration, for this command; at least one.
    Location(Verb),
}

/// What a value must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Text,
    /// A regular expression.
    Pattern,
    /// From and to, both included.
    Number(u64, u64),
    /// IPv4 or IPv6.
    Address,
    /// An address or a name.
    Host,
    /// With the length of its prefix.
    Network,
}

/// A word that leads nowhere, and what the table calls it.
pub const fn keyword(name: &'static str, help: &'static str) -> Node {
    Node {
        token: Token::Keyword(name),
        help,
        action: None,
        ends: false,
        next: &[],
    }
}

/// A value with which a line may end.
pub const fn value(name: &'static str, kind: Kind, help: &'static str) -> Node {
    Node {
        token: Token::Value(name, kind),
        help,
        action: None,
        ends: true,
        next: &[],
    }
}

/// Words of the configuration, with which a line may end.
pub const fn location(verb: Verb, help: &'static str) -> Node {
    Node {
        token: Token::Location(verb),
        help,
        action: None,
        ends: true,
        next: &[],
    }
}

impl Node {
    /// What the line does; it may end here.
    pub const fn does(mut self, action: Action) -> Self {
        self.action = Some(action);
        self.ends = true;
        self
    }

    /// What the line does, with more words.
    pub const fn wants(mut self, action: Action) -> Self {
        self.action = Some(action);
        self.ends = false;
        self
    }

    /// A line may end here.
    pub const fn ending(mut self) -> Self {
        self.ends = true;
        self
    }

    /// A line does not end here.
    pub const fn unfinished(mut self) -> Self {
        self.ends = false;
        self
    }

    /// What may follow.
    pub const fn then(mut self, next: Nodes) -> Self {
        self.next = next;
        self
    }

    fn is_keyword(&self, text: &str) -> bool {
        matches!(self.token, Token::Keyword(name) if name == text)
    }

    /// As help writes it.
    pub fn name(&self) -> &'static str {
        match self.token {
            Token::Keyword(name) | Token::Value(name, _) => name,
            Token::Location(_) => "LOCATION",
        }
    }
}

/// A line that was understood.
#[derive(Debug)]
pub struct Parsed {
    /// What it does.
    pub action: Action,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    node: &'static Node,
    words: Range<usize>,
}

impl Parsed {
    /// The keyword was written, in full or not.
    pub fn has(&self, name: &str) -> bool {
        self.steps.iter().any(|step| step.node.is_keyword(name))
    }

    /// The word that was written for a value.
    pub fn value<'w>(&self, name: &str, words: &'w [Word]) -> Option<&'w str> {
        let step = self
            .steps
            .iter()
            .find(|step| matches!(step.node.token, Token::Value(written, _) if written == name))?;
        words.get(step.words.start).map(|word| word.text.as_str())
    }

    /// The number that was written for a value.
    pub fn number(&self, name: &str, words: &[Word]) -> Option<u64> {
        self.value(name, words)?.parse().ok()
    }

    /// The words of the n-th location.
    pub fn location(&self, n: usize) -> Range<usize> {
        self.steps
            .iter()
            .filter(|step| matches!(step.node.token, Token::Location(_)))
            .nth(n)
            .map_or(0..0, |step| step.words.clone())
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which word; one beyond the last: something is missing.
    pub word: usize,
    /// What would be right.
    pub message: String,
}

/// Where a line stands after some words.
#[derive(Debug)]
pub struct Place {
    /// What may follow.
    pub next: Nodes,
    /// It may end here.
    pub ends: bool,
    /// A location is being written, of these words.
    pub location: Option<(Verb, Range<usize>)>,
}

/// Understands a line.
pub fn parse(root: Nodes, words: &[Word]) -> Result<Parsed, Mistake> {
    let (steps, place) = walk(root, words)?;
    let action = steps.iter().rev().find_map(|step| step.node.action);
    match action {
        Some(action) if place.ends => Ok(Parsed { action, steps }),
        _ => Err(missing(words.len(), place.next)),
    }
}

/// A line that ends too early.
pub fn missing(word: usize, next: Nodes) -> Mistake {
    Mistake {
        word,
        message: format!("something is missing here: {}", choices(next)),
    }
}

/// The names of what the words stand for.
pub fn steps(root: Nodes, words: &[Word]) -> Result<Vec<&'static str>, Mistake> {
    walk(root, words).map(|(steps, _)| steps.iter().map(|step| step.node.name()).collect())
}

/// Where a line stands after whole words.
pub fn place(root: Nodes, words: &[Word]) -> Result<Place, Mistake> {
    walk(root, words).map(|(_, place)| place)
}

fn walk(root: Nodes, words: &[Word]) -> Result<(Vec<Step>, Place), Mistake> {
    let mut steps = Vec::new();
    let mut place = Place {
        next: root,
        ends: false,
        location: None,
    };
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let node = choose(place.next, word).map_err(|message| Mistake { word: at, message })?;
        let end = match node.token {
            Token::Location(_) => end_of_location(node, words, at),
            _ => at + 1,
        };
        place = Place {
            next: node.next,
            ends: node.ends,
            location: match node.token {
                Token::Location(verb) if end == words.len() => Some((verb, at..end)),
                _ => None,
            },
        };
        steps.push(Step {
            node,
            words: at..end,
        });
        at = end;
    }
    Ok((steps, place))
}

/// A location goes on to the last keyword that may follow it: what stands before is a name, whatever it is.
fn end_of_location(node: &Node, words: &[Word], start: usize) -> usize {
    words
        .iter()
        .enumerate()
        .skip(start + 1)
        .rev()
        .find(|(_, word)| !word.quoted && node.next.iter().any(|next| next.is_keyword(&word.text)))
        .map_or(words.len(), |(at, _)| at)
}

/// The node that a word is for, or what would be right instead.
fn choose(next: Nodes, word: &Word) -> Result<&'static Node, String> {
    let text = word.text.as_str();
    let find = |fits: &dyn Fn(&Node) -> bool| next.iter().copied().find(|node| fits(node));
    let location = find(&|node| matches!(node.token, Token::Location(_)));
    if !word.quoted {
        if let Some(node) = find(&|node| node.is_keyword(text)) {
            return Ok(node);
        }
        if location.is_none() && !text.is_empty() {
            let begun = |node: &&&Node| matches!(node.token, Token::Keyword(name) if name.starts_with(text));
            let mut several = next.iter().filter(begun);
            match (several.next(), several.next()) {
                (Some(node), None) => return Ok(node),
                (Some(_), Some(_)) => {
                    let names: Vec<_> = next.iter().filter(begun).map(|node| node.name()).collect();
                    return Err(format!("{text:?} may be {}", names.join(" or ")));
                }
                _ => {}
            }
        }
    }
    if let Some(node) = location {
        return Ok(node);
    }
    let mut complaint = None;
    for node in next {
        if let Token::Value(name, kind) = node.token {
            match kind.check(text) {
                Ok(()) => return Ok(node),
                Err(wants) => complaint = Some(format!("{name} is {wants}")),
            }
        }
    }
    if next.is_empty() {
        return Err("nothing more is expected here".to_owned());
    }
    let near = next
        .iter()
        .filter_map(|node| match node.token {
            Token::Keyword(name) => Some((strsim::jaro_winkler(name, text), name)),
            _ => None,
        })
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Err(match (near, complaint) {
        (Some((_, name)), _) => format!("{text:?} is not known here: is {name:?} meant?"),
        (None, Some(complaint)) => complaint,
        (None, None) => format!("{text:?} is not known here: {}", choices(next)),
    })
}

/// What may come, in words.
fn choices(next: Nodes) -> String {
    let names: Vec<_> = next.iter().map(|node| node.name()).collect();
    match names.as_slice() {
        [one] => format!("{one} is expected"),
        _ => format!("one of {} is expected", names.join(", ")),
    }
}

impl Kind {
    /// Whether a text is one; else what would be.
    pub fn check(self, text: &str) -> Result<(), String> {
        let wanted = match self {
            Self::Text => return Ok(()),
            Self::Pattern => {
                return regex::Regex::new(text)
                    .map(drop)
                    .map_err(|error| format!("a regular expression: {error}"));
            }
            Self::Number(low, high) => {
                if text
                    .parse::<u64>()
                    .is_ok_and(|number| (low..=high).contains(&number))
                {
                    return Ok(());
                }
                if high == u64::MAX {
                    format!("a number from {low} on")
                } else {
                    format!("a number from {low} to {high}")
                }
            }
            Self::Address => {
                if text.parse::<IpAddr>().is_ok() {
                    return Ok(());
                }
                "an address, for example 192.0.2.1 or 2001:db8::1".to_owned()
            }
            Self::Host => {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                let name = text.bytes().any(|byte| byte.is_ascii_alphabetic())
                    && text.bytes().all(known)
                    && !text.starts_with(['-', '.']);
                if name || text.parse::<IpAddr>().is_ok() {
                    return Ok(());
                }
                "an address or a name, for example 192.0.2.1 or host.example.com".to_owned()
            }
            Self::Network => {
                let fits = text.split_once('/').is_some_and(|(address, length)| {
                    let most = match address.parse::<IpAddr>() {
                        Ok(IpAddr::V4(_)) => 32,
                        Ok(IpAddr::V6(_)) => 128,
                        Err(_) => return false,
                    };
                    length.parse::<u8>().is_ok_and(|length| length <= most)
                });
                if fits {
                    return Ok(());
                }
                "a network, for example 192.0.2.0/24 or 2001:db8::/32".to_owned()
            }
        };
        Err(wanted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::words::lex;

    static MINUTES: Node = value("MINUTES", Kind::Number(1, 60), "how long").then(&OPTIONS);
    static CONFIRMED: Node = keyword("confirmed", "on probation")
        .ending()
        .then(&[&MINUTES, &COMMENT]);
    static TEXT: Node = value("TEXT", Kind::Text, "why").then(&OPTIONS);
    static COMMENT: Node = keyword("comment", "why").then(&[&TEXT]);
    static OPTIONS: [&Node; 2] = [&CONFIRMED, &COMMENT];
    static COMMIT: Node = keyword("commit", "make it so")
        .does(Action::Commit)
        .then(&OPTIONS);
    static NAME: Node = value("NAME", Kind::Text, "of the new one");
    static TO: Node = keyword("to", "the new name").then(&[&NAME]);
    static FROM: Node = location(Verb::Location, "which").unfinished().then(&[&TO]);
    static RENAME: Node = keyword("rename", "call it something else")
        .wants(Action::Rename)
        .then(&[&FROM]);
    static ROOT: [&Node; 2] = [&COMMIT, &RENAME];

    fn read(line: &str) -> Result<(Parsed, Vec<Word>), Mistake> {
        let words = lex(line).unwrap().words;
        parse(&ROOT, &words).map(|parsed| (parsed, words))
    }

    fn message(line: &str) -> (usize, String) {
        let mistake = read(line).unwrap_err();
        (mistake.word, mistake.message)
    }

    #[test]
    fn options_come_in_any_order_and_words_may_be_short() {
        let (parsed, words) = read("com confirmed 5 comm 'a b'").unwrap();
        assert_eq!(parsed.action, Action::Commit);
        assert_eq!(parsed.number("MINUTES", &words), Some(5));
        assert_eq!(parsed.value("TEXT", &words), Some("a b"));
        let (parsed, words) = read("commit comment x confirmed").unwrap();
        assert!(parsed.has("confirmed"));
        assert_eq!(parsed.number("MINUTES", &words), None);
    }

    #[test]
    fn a_location_ends_before_its_last_keyword() {
        let (parsed, _) = read("rename interfaces to to wan1").unwrap();
        assert_eq!(parsed.location(0), 1..3);
        let (parsed, _) = read("rename interfaces a to \"to\"").unwrap();
        assert_eq!(parsed.location(0), 1..3);
    }

    #[test]
    fn a_mistake_names_the_word_and_what_would_be_right() {
        assert_eq!(
            message("comit"),
            (
                0,
                "\"comit\" is not known here: is \"commit\" meant?".into()
            )
        );
        assert_eq!(
            message("commit confirmed 99"),
            (2, "MINUTES is a number from 1 to 60".into())
        );
        assert_eq!(
            message("commit co"),
            (1, "\"co\" may be confirmed or comment".into())
        );
        assert_eq!(
            message("commit comment"),
            (2, "something is missing here: TEXT is expected".into())
        );
        assert_eq!(message("rename a b").0, 3);
        assert_eq!(
            message("rename a to b c"),
            (4, "nothing more is expected here".into())
        );
        assert_eq!(message("\"commit\"").0, 0);
    }

    #[test]
    fn kinds_know_what_they_want() {
        assert!(Kind::Network.check("10.0.0.0/8").is_ok());
        assert!(Kind::Network.check("10.0.0.0/33").is_err());
        assert!(Kind::Network.check("10.0.0.0").is_err());
        assert!(Kind::Network.check("2001:db8::/128").is_ok());
        assert!(Kind::Address.check("2001:db8::1").is_ok());
        assert!(Kind::Address.check("wan0").is_err());
        for host in ["2001:db8::1", "10.0.0.1", "wan0", "host.example.com"] {
            assert!(Kind::Host.check(host).is_ok(), "{host}");
        }
        for none in ["10.0.0", "10.0.0.0/8", "a b", "-a", "", "$a"] {
            assert!(Kind::Host.check(none).is_err(), "{none}");
        }
        assert!(Kind::Pattern.check("a(").is_err());
    }
}
