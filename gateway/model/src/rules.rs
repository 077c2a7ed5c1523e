//! What the schema says of each field, read once from the descriptors' options.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use regex::Regex;

use crate::options::FieldRules;
use crate::schema;

/// The rules of one field, ready for use.
#[derive(Debug, Default)]
pub struct Rules {
    /// As they stand in the schema.
    pub field: FieldRules,
    /// `pattern`, anchored at both ends.
    pub pattern: Option<Regex>,
    /// `ref`, as full names of list fields.
    pub references: Vec<String>,
    /// `built_in`, as keys.
    pub built_in: Vec<String>,
}

impl Rules {
    /// Most items of a list.
    pub fn max_items(&self) -> usize {
        self.field.max_items.unwrap_or(4096) as usize
    }

    /// Longest text, in bytes.
    pub fn max_length(&self) -> usize {
        self.field.max_length.unwrap_or(255) as usize
    }
}

/// The rules of a field; those of a field without any are empty.
pub fn of(field: &FieldDescriptor) -> &'static Rules {
    static ALL: OnceLock<(HashMap<String, Rules>, Rules)> = OnceLock::new();
    let (all, none) = ALL.get_or_init(|| (read_all(), Rules::default()));
    all.get(field.full_name()).unwrap_or(none)
}

fn read_all() -> HashMap<String, Rules> {
    let pool = schema::pool();
    let mut all = HashMap::new();
    let Some(extension) = pool.get_extension_by_name("culvert.field") else {
        return all;
    };
    for message in pool.all_messages() {
        for field in message.fields() {
            let options = field.options();
            if !options.has_extension(&extension) {
                continue;
            }
            let value = options.get_extension(&extension);
            let Some(Ok(rules)) = value
                .as_message()
                .map(prost_reflect::DynamicMessage::transcode_to::<FieldRules>)
            else {
                continue;
            };
            all.insert(field.full_name().to_owned(), prepare(rules));
        }
    }
    all
}

fn prepare(field: FieldRules) -> Rules {
    let split = |text: &str| -> Vec<String> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Rules {
        // A pattern that does not compile is caught by the lint test of the schema.
        pattern: (!field.pattern.is_empty())
            .then(|| Regex::new(&format!("^(?:{})$", field.pattern)).ok())
            .flatten(),
        references: split(&field.r#ref),
        built_in: split(&field.built_in),
        field,
    }
}

/// The fields that tell items of a list of `message` apart.
pub fn key_fields(message: &MessageDescriptor) -> impl Iterator<Item = FieldDescriptor> + '_ {
    message.fields().filter(|field| of(field).field.key)
}

/// How people write this value; `None` for the zero that means absent.
pub fn keyword(value: &EnumValueDescriptor) -> Option<String> {
    let extension = schema::pool().get_extension_by_name("culvert.keyword")?;
    let options = value.options();
    if !options.has_extension(&extension) {
        return None;
    }
    match options.get_extension(&extension).as_ref() {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// All keywords of an enum, in the order of the schema.
pub fn keywords(enumeration: &EnumDescriptor) -> Vec<String> {
    enumeration
        .values()
        .filter_map(|value| keyword(&value))
        .collect()
}

/// The help text of a field: its comment in the schema.
pub fn help(field: &FieldDescriptor) -> Option<String> {
    let file = field.parent_message().parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info
        .location
        .iter()
        .find(|location| location.path == field.path())?;
    let text = location.leading_comments().trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a field is a message or a list of them, and not a leaf.
pub fn is_branch(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(_))
}
