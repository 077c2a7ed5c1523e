//! A message as JSON, field by field in the order of the schema. What is absent is `null`, and numbers are numbers.

use culvert_model::state::State;
use culvert_model::{rules, schema};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, ReflectMessage as _, Value, prost};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::rows::dynamic;

/// A message, and what is worked out from its fields.
pub(super) struct Message<'a> {
    pub(super) message: &'a DynamicMessage,
    pub(super) derived: Vec<(&'static str, Option<f64>)>,
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.message.descriptor().fields() {
            let value = self.message.get_field(&field);
            if !field.is_list() && field.supports_presence() && !self.message.has_field(&field) {
                map.serialize_entry(field.name(), &())?;
                continue;
            }
            let kind = field.kind();
            map.serialize_entry(field.name(), &Leaf(&value, &kind))?;
        }
        for (name, value) in &self.derived {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Leaf<'a>(&'a Value, &'a Kind);

impl Serialize for Leaf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::U64(value) => serializer.serialize_u64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(bytes) => serializer.collect_str(&format_args!("{bytes:02x}")),
            Value::EnumNumber(number) => match self.1 {
                Kind::Enum(of) => serializer.serialize_str(&keyword(of, *number)),
                _ => serializer.serialize_i32(*number),
            },
            Value::Message(message) => Message {
                message,
                derived: Vec::new(),
            }
            .serialize(serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Leaf(item, self.1))?;
                }
                list.end()
            }
            // There are no others: a test of the schema says so.
            _ => serializer.serialize_none(),
        }
    }
}

/// As configuration would write it.
pub(super) fn keyword(of: &EnumDescriptor, number: i32) -> String {
    of.get_value(number)
        .and_then(|value| rules::keyword(&value))
        .unwrap_or_else(|| "-".to_owned())
}

/// An answer of the service, by the name of its message.
pub fn answer(name: &str, answer: &impl prost::Message) -> String {
    let Some(of) = schema::message(&format!("culvert.api.v1.{name}")) else {
        return String::new();
    };
    let mut message = DynamicMessage::new(of);
    if message.transcode_from(answer).is_err() {
        return String::new();
    }
    let whole = Message {
        message: &message,
        derived: Vec::new(),
    };
    // A map with text keys can be written.
    let mut text = serde_json::to_string_pretty(&whole).unwrap_or_default();
    text.push('\n');
    text
}

/// All that there is of a state.
pub(super) fn state(state: &State) -> String {
    struct Whole(DynamicMessage);
    impl Serialize for Whole {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            for (field, value) in self.0.fields() {
                map.serialize_entry(field.name(), &Leaf(value, &field.kind()))?;
            }
            map.end()
        }
    }
    // A map with text keys can be written.
    dynamic(state).map_or_else(String::new, |message| {
        serde_json::to_string_pretty(&Whole(message)).unwrap_or_default()
    })
}
