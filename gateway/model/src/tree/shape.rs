//! The schema as a tree walks it: read once from the descriptors, with names, help and rules at hand.

use std::sync::OnceLock;

use prost_reflect::{EnumValueDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::decode::MAX_DEPTH;
use crate::options::FieldType;
use crate::rules::{self, Rules};
use crate::schema;

/// A message of the configuration, in one place of it.
#[derive(Debug)]
pub(crate) struct Message {
    /// As the schema calls it.
    pub(crate) full_name: String,
    /// Its fields by number.
    pub(crate) fields: Vec<Field>,
    /// Whether something secret is in it, however deep.
    pub(crate) secrets: bool,
}

impl Message {
    const EMPTY: Self = Self {
        full_name: String::new(),
        fields: Vec::new(),
        secrets: false,
    };
}

/// A field of the configuration, in one place of it.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) full_name: String,
    pub(crate) number: u32,
    /// The comment in the schema.
    pub(crate) help: String,
    pub(crate) rules: &'static Rules,
    pub(crate) kind: FieldKind,
    /// Which of the keys of its message it is.
    pub(crate) key: Option<usize>,
}

/// What a field holds.
#[derive(Debug)]
pub(crate) enum FieldKind {
    Bool,
    /// With the most that its type holds.
    Number(u64),
    Keyword(Vec<Keyword>),
    Text,
    Branch(Message),
    List(Message),
}

/// A value of an enum.
#[derive(Debug)]
pub(crate) struct Keyword {
    pub(crate) number: i32,
    pub(crate) word: String,
    pub(crate) help: String,
}

impl Message {
    /// The field that a word names; `-` is as good as `_`.
    pub(crate) fn field(&self, word: &str) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| same_name(&field.name, word))
    }

    /// The field of that number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Field> {
        let at = self
            .fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()?;
        self.fields.get(at)
    }

    /// The fields that tell items of a list apart, in the order of their numbers.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.key.is_some())
    }
}

/// Whether a word is a name; `-` is as good as `_`.
pub(crate) fn same_name(name: &str, word: &str) -> bool {
    name.len() == word.len()
        && name
            .bytes()
            .zip(word.bytes())
            .all(|(own, given)| own == given || (own == b'_' && given == b'-'))
}

impl Field {
    /// What its text is.
    pub(crate) fn text_type(&self) -> FieldType {
        self.rules.field.r#type()
    }

    /// What is inside, of a branch or an item.
    pub(crate) fn inner(&self) -> Option<&Message> {
        match &self.kind {
            FieldKind::Branch(inner) | FieldKind::List(inner) => Some(inner),
            _ => None,
        }
    }

    /// Whether it holds one value.
    pub(crate) fn is_leaf(&self) -> bool {
        self.inner().is_none()
    }

    /// Whether it is a list of items with keys.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.kind, FieldKind::List(_))
    }

    /// Whether the order of its items is its own.
    pub(crate) fn ordered(&self) -> bool {
        self.rules.field.ordered_by_user
    }

    /// Whether its value is never shown.
    pub(crate) fn secret(&self) -> bool {
        self.rules.field.secret
    }

    /// What holds when it is absent.
    pub(crate) fn default(&self) -> Option<&str> {
        self.rules.field.default_value.as_deref()
    }

    /// The keyword of an enum value.
    pub(crate) fn keyword(&self, number: i32) -> Option<&Keyword> {
        match &self.kind {
            FieldKind::Keyword(known) => known.iter().find(|keyword| keyword.number == number),
            _ => None,
        }
    }
}

/// The whole configuration.
pub(crate) fn root() -> &'static Message {
    static ROOT: OnceLock<Message> = OnceLock::new();
    ROOT.get_or_init(|| match schema::message("culvert.config.v1.Config") {
        Some(config) => message(&config, 1),
        None => Message::EMPTY,
    })
}

fn message(descriptor: &MessageDescriptor, depth: usize) -> Message {
    // A message that held itself would go on for ever; what is deeper is not taken anyway.
    if depth > MAX_DEPTH {
        return Message::EMPTY;
    }
    let mut fields: Vec<Field> = descriptor
        .fields()
        .filter_map(|descriptor| field(&descriptor, depth))
        .collect();
    fields.sort_by_key(|field| field.number);
    let keys = fields.iter_mut().filter(|field| field.rules.field.key);
    for (index, key) in keys.enumerate() {
        key.key = Some(index);
    }
    let secrets = fields
        .iter()
        .any(|field| field.secret() || field.inner().is_some_and(|inner| inner.secrets));
    Message {
        full_name: descriptor.full_name().to_owned(),
        fields,
        secrets,
    }
}

/// `None`: of a type that the lint of the schema does not let in.
fn field(descriptor: &FieldDescriptor, depth: usize) -> Option<Field> {
    let kind = match descriptor.kind() {
        Kind::Bool => FieldKind::Bool,
        Kind::Uint32 => FieldKind::Number(u64::from(u32::MAX)),
        Kind::Uint64 => FieldKind::Number(u64::MAX),
        Kind::String => FieldKind::Text,
        Kind::Enum(values) => FieldKind::Keyword(
            values
                .values()
                .filter_map(|value| keyword(&value))
                .collect(),
        ),
        Kind::Message(inner) if descriptor.is_list() => FieldKind::List(message(&inner, depth + 1)),
        Kind::Message(inner) => FieldKind::Branch(message(&inner, depth + 1)),
        _ => return None,
    };
    Some(Field {
        name: descriptor.name().to_owned(),
        full_name: descriptor.full_name().to_owned(),
        number: descriptor.number(),
        help: one_line(&rules::help(descriptor).unwrap_or_default()),
        rules: rules::of(descriptor),
        kind,
        key: None,
    })
}

fn keyword(value: &EnumValueDescriptor) -> Option<Keyword> {
    let file = value.parent_enum().parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let help = info
        .and_then(|info| {
            info.location
                .iter()
                .find(|location| location.path == value.path())
        })
        .map(|location| one_line(location.leading_comments()))
        .unwrap_or_default();
    Some(Keyword {
        number: value.number(),
        word: rules::keyword(value)?,
        help,
    })
}

/// A comment as one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
