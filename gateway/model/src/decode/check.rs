//! What a message must satisfy, whichever way it came: ranges, required fields, keys, references.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use super::error::{DecodeError, Reason, nearest};
use super::{MAX_DEPTH, MAX_ERRORS, leaf, path};
use crate::options::FieldType;
use crate::rules::{self, Rules};

/// How much of a message is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Each leaf, and the keys: of what is still being written.
    Leaves,
    /// Also that nothing is missing.
    Complete,
    /// Also that references lead to something.
    Whole,
}

/// What is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) extent: Extent,
    /// Whether the digest of a secret may stand for it.
    pub(super) digests: bool,
}

/// All that is wrong with a message.
pub(super) fn message(message: &DynamicMessage, admission: Admission) -> Vec<DecodeError> {
    let mut checker = Checker {
        errors: Vec::new(),
        keys: BTreeMap::new(),
        references: Vec::new(),
        admission,
    };
    checker.message(message, "", 1);
    if admission.extent == Extent::Whole {
        checker.references();
    }
    checker.errors
}

struct Checker {
    admission: Admission,
    errors: Vec<DecodeError>,
    /// Keys of each list, by the full name of the list field.
    keys: BTreeMap<String, BTreeSet<String>>,
    references: Vec<Reference>,
}

struct Reference {
    path: String,
    given: String,
    rules: &'static Rules,
}

impl Checker {
    fn refuse(&mut self, path: &str, reason: Reason) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(DecodeError {
                path: path.to_owned(),
                reason,
            });
        }
    }

    fn message(&mut self, message: &DynamicMessage, at: &str, depth: usize) {
        if depth > MAX_DEPTH {
            self.refuse(at, Reason::TooDeep { limit: MAX_DEPTH });
            return;
        }
        for unknown in message.unknown_fields() {
            let number = unknown.number();
            self.refuse(at, Reason::UnknownNumber { number });
        }
        for field in message.descriptor().fields() {
            let rules = rules::of(&field);
            let path = path::field(at, field.name());
            if !message.has_field(&field) {
                if field.is_list() {
                    self.built_in(&field, rules);
                }
                let wanted = self.admission.extent != Extent::Leaves || rules.field.key;
                if rules.field.required && wanted {
                    self.refuse(&path, Reason::Missing);
                }
                continue;
            }
            match message.get_field(&field).as_ref() {
                Value::List(items) => self.list(&field, items, &path, depth),
                value => self.single(&field, value, &path, depth),
            }
        }
    }

    fn built_in(&mut self, field: &FieldDescriptor, rules: &Rules) {
        if !rules.built_in.is_empty() {
            self.keys
                .entry(field.full_name().to_owned())
                .or_default()
                .extend(rules.built_in.iter().cloned());
        }
    }

    fn list(&mut self, field: &FieldDescriptor, items: &[Value], at: &str, depth: usize) {
        let rules = rules::of(field);
        if items.len() > rules.max_items() {
            self.refuse(
                at,
                Reason::TooMany {
                    count: items.len(),
                    max: rules.max_items(),
                },
            );
            return;
        }
        self.built_in(field, rules);
        let mut seen: HashMap<Vec<Option<String>>, usize> = HashMap::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Value::Message(item) = item else {
                self.single(field, item, &path::place(at, index), depth);
                continue;
            };
            let keys = keys_of(item);
            let present: Vec<String> = keys.iter().flatten().cloned().collect();
            let item_path = path::item(at, &present, index);
            self.message(item, &item_path, depth + 1);
            if present.is_empty() {
                self.without_key(item, &item_path);
                continue;
            }
            if let [Some(key)] = keys.as_slice() {
                self.keys
                    .entry(field.full_name().to_owned())
                    .or_default()
                    .insert(key.clone());
            }
            if let Some(first) = seen.get(&keys) {
                let first = path::place(at, *first);
                self.refuse(&item_path, Reason::DuplicateKey { first });
            } else {
                seen.insert(keys, index);
            }
        }
    }

    /// An item of which no key is given. A single key is required anyway and was told as missing.
    fn without_key(&mut self, item: &DynamicMessage, at: &str) {
        let descriptor = item.descriptor();
        let keys: Vec<String> = rules::key_fields(&descriptor)
            .filter(|key| !rules::of(key).field.required)
            .map(|key| key.name().to_owned())
            .collect();
        if keys.len() > 1 {
            self.refuse(at, Reason::NoKey { keys });
        }
    }

    fn single(&mut self, field: &FieldDescriptor, value: &Value, at: &str, depth: usize) {
        let rules = rules::of(field);
        let result = match value {
            Value::Message(inner) => {
                self.message(inner, at, depth + 1);
                Ok(())
            }
            Value::String(text) => {
                let result = if rules.field.secret {
                    leaf::check_secret(rules, text, self.admission.digests)
                } else {
                    leaf::check_text(rules, text)
                };
                if result.is_ok() && !rules.references.is_empty() {
                    self.references.push(Reference {
                        path: at.to_owned(),
                        given: text.clone(),
                        rules,
                    });
                }
                result
            }
            Value::U32(number) => {
                leaf::check_number(rules, u64::from(*number), u64::from(u32::MAX))
            }
            Value::U64(number) => leaf::check_number(rules, *number, u64::MAX),
            Value::EnumNumber(number) => declared(field, *number),
            _ => Ok(()),
        };
        if let Err(reason) = result {
            self.refuse(at, reason);
        }
    }

    fn references(&mut self) {
        let references = std::mem::take(&mut self.references);
        for reference in references {
            let lists = &reference.rules.references;
            let known = || {
                lists
                    .iter()
                    .filter_map(|list| self.keys.get(list))
                    .flatten()
            };
            let found = lists
                .iter()
                .filter_map(|list| self.keys.get(list))
                .any(|keys| keys.contains(&reference.given));
            if found {
                continue;
            }
            // To look for the nearest of many names takes a while: not for more than are told.
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
            let nearest = nearest(&reference.given, known().map(String::as_str));
            let lists = lists
                .iter()
                .map(|list| list.rsplit('.').next().unwrap_or(list).to_owned())
                .collect();
            self.refuse(
                &reference.path,
                Reason::Dangling {
                    given: leaf::shortened(&reference.given),
                    lists,
                    nearest,
                },
            );
        }
    }
}

fn declared(field: &FieldDescriptor, number: i32) -> Result<(), Reason> {
    let Kind::Enum(inner) = field.kind() else {
        return Ok(());
    };
    // The zero has no keyword: absent is said by being absent.
    let declared = inner
        .get_value(number)
        .is_some_and(|value| rules::keyword(&value).is_some());
    if declared {
        Ok(())
    } else {
        Err(Reason::UndeclaredEnum {
            number,
            known: rules::keywords(&inner),
        })
    }
}

/// The values of an item's key fields in one spelling; `None`: absent and without a default.
fn keys_of(item: &DynamicMessage) -> Vec<Option<String>> {
    let descriptor = item.descriptor();
    rules::key_fields(&descriptor)
        .map(|key| {
            let rules = &rules::of(&key).field;
            if !item.has_field(&key) {
                return rules.default_value.clone();
            }
            match item.get_field(&key).as_ref() {
                Value::String(text) => {
                    let kind = FieldType::try_from(rules.r#type).unwrap_or_default();
                    Some(leaf::normalised(kind, text))
                }
                Value::U32(number) => Some(number.to_string()),
                Value::U64(number) => Some(number.to_string()),
                _ => None,
            }
        })
        .collect()
}
