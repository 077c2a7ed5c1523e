//! What every field of configuration and state must say of itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use culvert_model::options::FieldType;
use culvert_model::{rules, schema};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

const PACKAGES: [&str; 2] = ["culvert.config.v1", "culvert.state.v1"];

fn messages() -> Vec<MessageDescriptor> {
    let messages: Vec<_> = schema::pool()
        .all_messages()
        .filter(|message| PACKAGES.contains(&message.package_name()))
        .collect();
    assert!(messages.len() > 20, "is the pool empty?");
    messages
}

fn fields() -> Vec<FieldDescriptor> {
    messages()
        .iter()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .collect()
}

/// What is wrong with a field.
fn faults(field: &FieldDescriptor) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |text: &str| faults.push(format!("{}: {text}", field.full_name()));
    let entry = rules::of(field);
    let text = &entry.field;
    if rules::help(field).is_none() {
        fault("no help comment");
    }
    if field.is_map() {
        fault("a map");
    }
    if field.is_list() {
        match field.kind() {
            Kind::Message(item) if rules::key_fields(&item).next().is_none() => {
                fault("a list without keys");
            }
            Kind::Message(_) => {}
            // State is not merged.
            Kind::String if field.full_name().starts_with("culvert.state") => {}
            _ => fault("a list of scalars: it has no keys to merge by"),
        }
        return faults;
    }
    if !rules::is_branch(field) && !field.supports_presence() {
        fault("absent and zero are the same: make it optional");
    }
    match field.kind() {
        Kind::Message(_) | Kind::Bool | Kind::Enum(_) => {}
        Kind::String => {
            if matches!(
                text.r#type(),
                FieldType::Unspecified | FieldType::Number | FieldType::Duration
            ) {
                fault("text without a type");
            }
        }
        Kind::Uint32 | Kind::Uint64 => {
            if !matches!(text.r#type(), FieldType::Number | FieldType::Duration) {
                fault("a number without a type");
            }
            if text.unit.is_empty() {
                fault("a number without a unit");
            }
            if field.full_name().starts_with("culvert.config") && text.max.is_none() {
                fault("a number without a range");
            }
            if let Some(default) = &text.default_value {
                let number: u64 = default.parse().unwrap_or(u64::MAX);
                if number < text.min.unwrap_or(0) || number > text.max.unwrap_or(u64::MAX) {
                    fault("its default is out of range");
                }
            }
        }
        kind => fault(&format!("{kind:?} is not used here")),
    }
    if !text.pattern.is_empty() && entry.pattern.is_none() {
        fault("its pattern does not compile");
    }
    if text.key && !text.required && text.default_value.is_none() {
        let siblings = rules::key_fields(field.parent_message()).count();
        if field.full_name().starts_with("culvert.config") && siblings < 2 {
            fault("a single key that may be absent");
        }
    }
    faults
}

#[test]
fn every_field_says_what_it_must() {
    let faults: Vec<String> = fields().iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_reference_resolves() {
    let lists: BTreeSet<String> = fields()
        .iter()
        .filter(|field| field.is_list())
        .map(|field| field.full_name().to_owned())
        .collect();
    let mut followed = 0;
    for field in fields() {
        for reference in &rules::of(&field).references {
            assert!(
                lists.contains(reference),
                "{} -> {reference}",
                field.full_name()
            );
            let (message, name) = reference.rsplit_once('.').unwrap();
            let list = schema::message(message)
                .unwrap()
                .get_field_by_name(name)
                .unwrap();
            let Kind::Message(item) = list.kind() else {
                panic!("{reference} is not a list of messages");
            };
            assert_eq!(
                rules::key_fields(&item).count(),
                1,
                "{reference} has not one key"
            );
            followed += 1;
        }
    }
    assert!(followed > 5, "no references: are the options there?");
}

#[test]
fn every_enum_has_a_zero_and_keywords() {
    let mut enums: Vec<EnumDescriptor> = schema::pool().all_enums().collect();
    enums.retain(|item| PACKAGES.contains(&item.package_name()));
    assert!(!enums.is_empty());
    for item in enums {
        let zero = item.get_value(0).unwrap();
        assert!(
            zero.name().ends_with("_UNSPECIFIED"),
            "{}",
            item.full_name()
        );
        assert_eq!(rules::keyword(&zero), None, "{}", item.full_name());
        let mut seen = BTreeSet::new();
        for value in item.values().filter(|value| value.number() != 0) {
            let keyword = rules::keyword(&value);
            let keyword = keyword.unwrap_or_else(|| panic!("{} has no keyword", value.full_name()));
            assert!(
                seen.insert(keyword),
                "{} says a keyword twice",
                item.full_name()
            );
        }
    }
}

#[test]
fn secrets_are_marked() {
    let secret: BTreeSet<String> = fields()
        .iter()
        .filter(|field| rules::of(field).field.secret)
        .map(|field| field.full_name().to_owned())
        .collect();
    assert_eq!(
        secret.into_iter().collect::<Vec<_>>(),
        [
            "culvert.config.v1.EapSecret.secret",
            "culvert.config.v1.PreSharedKey.secret",
            "culvert.config.v1.PrivateKey.pem",
            "culvert.config.v1.WwanInterface.password",
            "culvert.config.v1.WwanInterface.pin"
        ]
    );
}
