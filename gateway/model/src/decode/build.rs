//! From the tree to a message: every name must be one of the schema, every value of its type.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use super::error::{DecodeError, Reason, nearest};
use super::json::Node;
use super::{MAX_ERRORS, leaf, path};
use crate::options::FieldType;
use crate::rules;

/// Builds what can be built, and tells what cannot.
pub(super) fn message(
    descriptor: &MessageDescriptor,
    tree: Node,
) -> (DynamicMessage, Vec<DecodeError>) {
    let mut builder = Builder { errors: Vec::new() };
    let message = builder.message(descriptor, tree, "");
    let message = message.unwrap_or_else(|| DynamicMessage::new(descriptor.clone()));
    (message, builder.errors)
}

struct Builder {
    errors: Vec<DecodeError>,
}

impl Builder {
    fn refuse(&mut self, path: &str, reason: Reason) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(DecodeError {
                path: path.to_owned(),
                reason,
            });
        }
    }

    fn wrong_type(&mut self, path: &str, found: &Node, expected: &'static str) {
        self.refuse(
            path,
            Reason::WrongType {
                found: found.called(),
                expected,
            },
        );
    }

    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        node: Node,
        at: &str,
    ) -> Option<DynamicMessage> {
        let Node::Object(entries) = node else {
            self.wrong_type(at, &node, "an object");
            return None;
        };
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen = std::collections::HashSet::new();
        for (name, value) in entries {
            let path = path::field(at, &name);
            let Some(field) = descriptor.get_field_by_name(&name) else {
                let reason = match descriptor.get_field_by_json_name(&name) {
                    Some(field) => Reason::OtherSpelling {
                        right: field.name().to_owned(),
                    },
                    None => Reason::UnknownField {
                        nearest: nearest(
                            &name,
                            descriptor
                                .fields()
                                .collect::<Vec<_>>()
                                .iter()
                                .map(FieldDescriptor::name),
                        ),
                    },
                };
                self.refuse(&path, reason);
                continue;
            };
            if !seen.insert(field.number()) {
                self.refuse(&path, Reason::GivenTwice);
                continue;
            }
            if let Some(value) = self.field(&field, value, &path) {
                message.set_field(&field, value);
            }
        }
        Some(message)
    }

    fn field(&mut self, field: &FieldDescriptor, node: Node, path: &str) -> Option<Value> {
        if !field.is_list() {
            return self.single(field, node, path);
        }
        let Node::List(items) = node else {
            self.wrong_type(path, &node, "a list");
            return None;
        };
        let max = rules::of(field).max_items();
        if items.len() > max {
            self.refuse(
                path,
                Reason::TooMany {
                    count: items.len(),
                    max,
                },
            );
            return None;
        }
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let item_path = path::item(path, &keys(field, &item), index);
            list.extend(self.single(field, item, &item_path));
        }
        Some(Value::List(list))
    }

    fn single(&mut self, field: &FieldDescriptor, node: Node, path: &str) -> Option<Value> {
        match (field.kind(), node) {
            (Kind::Message(inner), node) => self.message(&inner, node, path).map(Value::Message),
            (Kind::Enum(inner), Node::Text(text)) => self.keyword(&inner, &text, path),
            // Numbers are for the wire: as with any other word that is none, those that there are help more.
            (Kind::Enum(inner), Node::Unsigned(number)) => {
                self.keyword(&inner, &number.to_string(), path)
            }
            (Kind::Bool, Node::Bool(value)) => Some(Value::Bool(value)),
            (Kind::String, Node::Text(text)) => Some(Value::String(text.as_str().to_owned())),
            (Kind::Uint32, Node::Unsigned(number)) => {
                if let Ok(number) = u32::try_from(number) {
                    Some(Value::U32(number))
                } else {
                    let range = leaf::check_number(rules::of(field), number, u64::from(u32::MAX));
                    self.refuse(path, range.err()?);
                    None
                }
            }
            (Kind::Uint64, Node::Unsigned(number)) => Some(Value::U64(number)),
            (kind, node) => {
                self.wrong_type(path, &node, expected(&kind));
                None
            }
        }
    }

    fn keyword(&mut self, inner: &EnumDescriptor, text: &str, path: &str) -> Option<Value> {
        let found = inner
            .values()
            .find(|value| rules::keyword(value).as_deref() == Some(text));
        if let Some(value) = found {
            return Some(Value::EnumNumber(value.number()));
        }
        let known = rules::keywords(inner);
        self.refuse(
            path,
            Reason::UnknownKeyword {
                given: leaf::shortened(text),
                nearest: nearest(text, known.iter().map(String::as_str)),
                known,
            },
        );
        None
    }
}

/// What belongs where a value of this kind is.
fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::String => "text",
        Kind::Enum(_) => "one of the words of the schema",
        Kind::Message(_) => "an object",
        _ => "a whole number from 0",
    }
}

/// The keys of an item, for its path.
fn keys(list: &FieldDescriptor, item: &Node) -> Vec<String> {
    let (Kind::Message(descriptor), Node::Object(entries)) = (list.kind(), item) else {
        return Vec::new();
    };
    rules::key_fields(&descriptor)
        .filter_map(|key| {
            let rules = &rules::of(&key).field;
            let written = entries.iter().find(|(name, _)| name == key.name());
            match (written, key.kind()) {
                (Some((_, Node::Text(text))), Kind::String) => {
                    let kind = FieldType::try_from(rules.r#type).unwrap_or_default();
                    Some(leaf::normalised(kind, text))
                }
                (Some((_, Node::Unsigned(number))), Kind::Uint32 | Kind::Uint64) => {
                    Some(number.to_string())
                }
                (Some(_), _) => None,
                (None, _) => rules.default_value.clone(),
            }
        })
        .collect()
}
