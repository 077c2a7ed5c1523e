//! What may come next on a line.

use super::Tree;
use super::location::{Cursor, Location, State, key_words};
use super::node::Node;
use super::shape::{self, Field, FieldKind, Message};
use crate::options::{Effect, FieldType};

/// A word that may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The word; of a [`CandidateKind::Hint`] what belongs there, in angle brackets.
    pub text: String,
    /// What it means, in a line.
    pub help: String,
    /// What it is.
    pub kind: CandidateKind,
}

/// What a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandidateKind {
    /// The name of a field.
    Keyword,
    /// The key of an item that is there.
    Item,
    /// The key of something that may be referred to.
    Reference,
    /// A value.
    Value,
    /// Not a word: it says what a word would have to be.
    Hint,
}

/// What the words are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To write: all that may be there.
    Set,
    /// To delete, rename, copy or show: what is there, without values.
    Existing,
    /// To go somewhere: groups and lists, whether there or not.
    Edit,
}

/// All words that may follow `words` and begin with `partial`, sorted; none if `words` lead nowhere.
pub fn complete<W: AsRef<str>>(
    words: &[W],
    partial: &str,
    at: &Location,
    tree: &Tree,
    purpose: Purpose,
) -> Vec<Candidate> {
    let Ok(cursor) = Cursor::walk(words, at) else {
        return Vec::new();
    };
    let mut found = Found {
        tree,
        purpose,
        partial: partial.replace('-', "_"),
        plain: partial,
        candidates: Vec::new(),
    };
    match &cursor.state {
        State::Message(message) => found.fields(&cursor, message),
        State::List(list) => found.keys(&cursor, list),
        State::Key(list, key) => found.key(&cursor, list, key),
        State::Leaf(field) if purpose == Purpose::Set => found.values(field),
        State::Leaf(_) | State::Full(_) => {}
    }
    let mut candidates = found.candidates;
    candidates.sort_by(|left, right| (left.kind, &left.text).cmp(&(right.kind, &right.text)));
    candidates.dedup_by(|left, right| left.text == right.text);
    candidates
}

struct Found<'a> {
    tree: &'a Tree,
    purpose: Purpose,
    /// With the names' own spelling of `-`.
    partial: String,
    plain: &'a str,
    candidates: Vec<Candidate>,
}

impl Found<'_> {
    fn offer(&mut self, text: &str, help: &str, kind: CandidateKind) {
        let fits = match kind {
            CandidateKind::Hint => self.plain.is_empty(),
            CandidateKind::Keyword => text.starts_with(&self.partial),
            _ => text.starts_with(self.plain),
        };
        if fits {
            self.candidates.push(Candidate {
                text: text.to_owned(),
                help: help.to_owned(),
                kind,
            });
        }
    }

    fn fields(&mut self, cursor: &Cursor, message: &'static Message) {
        let existing = (self.purpose == Purpose::Existing)
            .then(|| self.tree.branch(&cursor.location))
            .flatten();
        for field in cursor.fields(message) {
            let wanted = match self.purpose {
                Purpose::Set => true,
                Purpose::Edit => !field.is_leaf() || field.key.is_some(),
                Purpose::Existing => match existing {
                    Some(branch) if field.key.is_none() => branch.get(field.number).is_some(),
                    _ => field.key.is_some(),
                },
            };
            if wanted && self.purpose == Purpose::Set {
                self.offer(&field.name, &mark_effect(field), CandidateKind::Keyword);
            } else if wanted {
                self.offer(&field.name, &field.help, CandidateKind::Keyword);
            }
        }
    }

    /// The first word of the keys of the items that are there.
    fn keys(&mut self, cursor: &Cursor, list: &'static Field) {
        let Some(item) = list.inner() else { return };
        if let Some(items) = self.tree.list(&cursor.location) {
            for (key, branch) in items.entries(list) {
                let mut first = None;
                key_words(item, key, |word| {
                    first.get_or_insert_with(|| word.to_owned());
                });
                let named =
                    first.filter(|word| item.field(word).is_none_or(|field| field.key.is_none()));
                if let Some(first) = named {
                    self.offer(&first, &described(item, branch), CandidateKind::Item);
                }
            }
        }
        let required = item.keys().find(|key| key.rules.field.required);
        if required.is_none() {
            for key in item.keys() {
                self.offer(&key.name, &key.help, CandidateKind::Keyword);
            }
        }
        if let Some(key) = required.or_else(|| item.keys().next())
            && self.purpose != Purpose::Existing
        {
            self.values(key);
        }
    }

    /// Values that a key of an item has, together with those given already.
    fn key(&mut self, cursor: &Cursor, list: &'static Field, key: &'static Field) {
        let mut at = cursor.location.clone();
        if at
            .last_field()
            .is_some_and(|field| std::ptr::eq(field, list))
            && at.place() == super::Place::Item
        {
            at = at.parent();
        }
        if let (Some(items), Some(open)) = (self.tree.list(&at), &cursor.open) {
            for other in items.items.keys() {
                let left: Vec<_> = open.left().collect();
                let same = open.item.keys().all(|field| {
                    left.iter().any(|other| std::ptr::eq(*other, field))
                        || field
                            .key
                            .and_then(|index| open.values.get(index))
                            .is_some_and(|value| value.as_ref() == other.get(field))
                });
                if let (true, Some(value)) = (same, other.get(key)) {
                    self.offer(&value.word(key), "", CandidateKind::Item);
                }
            }
        }
        if self.purpose != Purpose::Existing {
            self.values(key);
        }
    }

    fn values(&mut self, field: &'static Field) {
        match &field.kind {
            FieldKind::Bool => {
                for word in ["true", "false"] {
                    self.offer(word, &mark_default(field, word, ""), CandidateKind::Value);
                }
            }
            FieldKind::Keyword(known) => {
                for keyword in known {
                    let help = mark_default(field, &keyword.word, &keyword.help);
                    self.offer(&keyword.word, &help, CandidateKind::Value);
                }
            }
            _ => {
                for list in &field.rules.references {
                    for (key, help) in self.tree.referable(list) {
                        self.offer(&key, &help, CandidateKind::Reference);
                    }
                }
                let text = format!("<{}>", hint(field));
                self.offer(&text, &mark_effect(field), CandidateKind::Hint);
            }
        }
    }
}

fn mark_default(field: &Field, word: &str, help: &str) -> String {
    match (field.default() == Some(word), help.is_empty()) {
        (true, true) => "the default".to_owned(),
        (true, false) => format!("{help} (the default)"),
        (false, _) => help.to_owned(),
    }
}

/// What a field is, and what a change of it does to what is there.
fn mark_effect(field: &Field) -> String {
    let effect = match field.rules.field.effect() {
        Effect::Unspecified | Effect::Live => return field.help.clone(),
        Effect::Rekey => "what is negotiated next uses it",
        Effect::Recreate => "a change builds it anew",
    };
    format!("{} ({effect})", field.help)
}

/// What its user says an item is.
fn described(item: &Message, branch: &super::node::Branch) -> String {
    let described = item.field("description").and_then(|field| {
        let Node::Leaf(leaf) = branch.get(field.number)? else {
            return None;
        };
        Some(leaf.word(field).into_owned())
    });
    described.unwrap_or_default()
}

impl Tree {
    /// The keys of a list by its full name, with their descriptions; lists in groups, not in items.
    fn referable(&self, full_name: &str) -> Vec<(String, String)> {
        let Some((location, list)) = find_list(shape::root(), &Location::root(), full_name) else {
            return Vec::new();
        };
        let built_in = list.rules.built_in.iter();
        let mut keys: Vec<(String, String)> = built_in
            .map(|key| (key.clone(), "always there".to_owned()))
            .collect();
        if let (Some(items), Some(item)) = (self.list(&location), list.inner()) {
            keys.extend(items.entries(list).filter_map(|(key, branch)| {
                let word = key.single()?.word(item.keys().next()?).into_owned();
                Some((word, described(item, branch)))
            }));
        }
        keys
    }
}

/// The list of that full name.
pub(crate) fn find_list(
    message: &'static Message,
    at: &Location,
    full_name: &str,
) -> Option<(Location, &'static Field)> {
    message.fields.iter().find_map(|field| match &field.kind {
        FieldKind::List(_) if field.full_name == full_name => Some((at.field(field), field)),
        FieldKind::Branch(inner) => find_list(inner, &at.field(field), full_name),
        _ => None,
    })
}

/// What belongs in a field: type, unit, range.
pub(crate) fn hint(field: &Field) -> String {
    match &field.kind {
        FieldKind::Bool => "true or false".to_owned(),
        FieldKind::Number(type_max) => {
            let rules = &field.rules.field;
            let min = rules.min.unwrap_or(0);
            let max = rules.max.unwrap_or(*type_max);
            let unit = crate::decode::error::unit_text(&rules.unit);
            let default = field.default().map(|text| format!(", default {text}"));
            format!("{min}..{max}{unit}{}", default.unwrap_or_default())
        }
        FieldKind::Keyword(known) => {
            let words: Vec<&str> = known.iter().map(|keyword| keyword.word.as_str()).collect();
            words.join("|")
        }
        FieldKind::Text => {
            let kind = match field.text_type() {
                FieldType::Name => "name",
                FieldType::InterfaceName => "name of an interface",
                FieldType::HostName => "host name",
                FieldType::Ip => "address",
                FieldType::Prefix => "network/length",
                FieldType::InterfaceAddress => "address/length",
                FieldType::Peer => "address, name, network or %any",
                FieldType::Selector => "network[protocol/port]",
                FieldType::Proposal => "proposal",
                FieldType::Identity => "identity",
                FieldType::Pem => "PEM",
                FieldType::File => "file",
                FieldType::KeyText => "secret",
                FieldType::Mac => "Ethernet address",
                FieldType::Host => "host name or address",
                _ => "text",
            };
            match field.default() {
                Some(default) => format!("{kind}, default {default}"),
                None => kind.to_owned(),
            }
        }
        FieldKind::Branch(_) | FieldKind::List(_) => field.name.clone(),
    }
}
