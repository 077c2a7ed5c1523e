//! The canonical form: the protobuf encoding of the configuration with fields by number, items by key,
//! each value in its one spelling, and nothing that holds anyway.

use std::sync::Arc;

use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use super::leaf::{Leaf, Scalar, digest_text};
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{Field, FieldKind, Message};
use crate::plan::DigestKey;

/// What stands where secrets are.
#[derive(Debug, Clone, Copy)]
pub enum Secrets<'a> {
    /// They themselves.
    Plain,
    /// Their digests by this key. A digest that stands for a secret already stays.
    Digests(&'a DigestKey),
    /// A mark that there is one: it cannot be written back.
    Hidden,
}

impl Secrets<'_> {
    /// What is written of a leaf.
    pub(crate) fn word<'b>(&self, field: &'b Field, leaf: &'b Leaf) -> std::borrow::Cow<'b, str> {
        match (self, &leaf.0) {
            (Self::Digests(key), Scalar::Secret(secret)) => {
                digest_text(&key.secret(&field.full_name, secret.as_str().as_bytes())).into()
            }
            (Self::Hidden, _) if leaf.is_secret() => "<secret>".into(),
            _ => leaf.word(field),
        }
    }
}

/// Bytes that leave no copy behind when they grow.
#[derive(Default)]
pub(crate) struct Sink(Zeroizing<Vec<u8>>);

impl Sink {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub(crate) fn push(&mut self, part: &[u8]) {
        let length = self.0.len() + part.len();
        if length > self.0.capacity() {
            let capacity = length.max(2 * self.0.capacity()).max(256);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(part);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    fn varint(&mut self, number: u64) {
        let (bytes, length) = varint(number);
        self.push(bytes.get(..length).unwrap_or_default());
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        self.varint(u64::from(number << 3 | wire_type));
    }

    /// Puts the length of what was written since `start` before it.
    fn delimit(&mut self, start: usize) {
        let end = self.0.len();
        let (bytes, length) = varint((end - start) as u64);
        let bytes = bytes.get(..length).unwrap_or_default();
        self.push(bytes);
        self.0.copy_within(start..end, start + length);
        for (slot, byte) in self.0.iter_mut().skip(start).zip(bytes) {
            *slot = *byte;
        }
    }
}

fn varint(mut number: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    for slot in &mut bytes {
        length += 1;
        *slot = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            break;
        }
        *slot |= 0x80;
    }
    (bytes, length)
}

const VARINT: u32 = 0;
const DELIMITED: u32 = 2;

/// Writes what is in a branch, of an item with its key.
pub(crate) fn encode(
    out: &mut Sink,
    message: &Message,
    branch: &Branch,
    key: Option<&ItemKey>,
    secrets: Secrets<'_>,
) {
    for field in &message.fields {
        if field.key.is_some() {
            if let Some(value) = key.and_then(|key| key.get(field)) {
                encode_leaf(out, field, value, secrets);
            }
            continue;
        }
        match (branch.get(field.number), &field.kind) {
            (Some(Node::Leaf(leaf)), _) => encode_leaf(out, field, leaf, secrets),
            (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                out.tag(field.number, DELIMITED);
                let start = out.len();
                encode(out, message, inner, None, secrets);
                out.delimit(start);
            }
            (Some(Node::List(list)), FieldKind::List(item)) => {
                for (key, inner) in list.entries(field) {
                    out.tag(field.number, DELIMITED);
                    let start = out.len();
                    encode(out, item, inner, Some(key), secrets);
                    out.delimit(start);
                }
            }
            _ => {}
        }
    }
}

fn encode_leaf(out: &mut Sink, field: &Field, leaf: &Leaf, secrets: Secrets<'_>) {
    match &leaf.0 {
        Scalar::Bool(value) => {
            out.tag(field.number, VARINT);
            out.varint(u64::from(*value));
        }
        Scalar::Number(value) => {
            out.tag(field.number, VARINT);
            out.varint(*value);
        }
        Scalar::Keyword(value) => {
            out.tag(field.number, VARINT);
            out.varint(i64::from(*value).cast_unsigned());
        }
        Scalar::Text(_) | Scalar::Secret(_) | Scalar::Digest(_) => {
            let text = secrets.word(field, leaf);
            out.tag(field.number, DELIMITED);
            out.varint(text.len() as u64);
            out.push(text.as_bytes());
        }
    }
}

/// What is in a message of which each leaf was checked.
pub(crate) fn from_message(shape: &Message, message: &DynamicMessage) -> Branch {
    let mut branch = Branch::default();
    for field in &shape.fields {
        if field.key.is_some() || !message.has_field_by_number(field.number) {
            continue;
        }
        let Some(value) = message.get_field_by_number(field.number) else {
            continue;
        };
        if let Some(node) = from_value(field, value.as_ref()).filter(|node| !node.is_empty()) {
            branch.put(field.number, node);
        }
    }
    branch
}

fn from_value(field: &Field, value: &Value) -> Option<Node> {
    Some(match (value, &field.kind) {
        (Value::Message(message), FieldKind::Branch(inner)) => {
            Node::Branch(Arc::new(from_message(inner, message)))
        }
        (Value::List(items), FieldKind::List(item)) => {
            let mut list = List::default();
            for message in items.iter().filter_map(Value::as_message) {
                let inner = Arc::new(from_message(item, message));
                list.put(field, from_keys(item, message), inner);
            }
            Node::List(Arc::new(list))
        }
        (value, _) => Node::Leaf(from_scalar(field, value)?),
    })
}

/// The key of an item from its message.
pub(crate) fn from_keys(item: &Message, message: &DynamicMessage) -> ItemKey {
    let values: Vec<Option<Leaf>> = item
        .keys()
        .map(|field| {
            if !message.has_field_by_number(field.number) {
                return None;
            }
            let value = message.get_field_by_number(field.number)?;
            let leaf = from_scalar(field, value.as_ref())?;
            // What holds without being said is left out: there is one spelling of a key.
            (Some(leaf.word(field).as_ref()) != field.default()).then_some(leaf)
        })
        .collect();
    ItemKey(values.into())
}

fn from_scalar(field: &Field, value: &Value) -> Option<Leaf> {
    Some(match value {
        Value::Bool(value) => Leaf(Scalar::Bool(*value)),
        Value::U32(value) => Leaf(Scalar::Number(u64::from(*value))),
        Value::U64(value) => Leaf(Scalar::Number(*value)),
        Value::EnumNumber(value) => Leaf(Scalar::Keyword(*value)),
        Value::String(text) if field.secret() => Leaf::secret(text),
        Value::String(text) => Leaf::text(field, text),
        _ => return None,
    })
}
