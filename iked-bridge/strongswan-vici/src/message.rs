//! The tree that VICI packets carry: named values, lists and sections, in order.
//!
//! ```text
//!   version = 2
//!   remote_addrs = [ 192.0.2.1, 192.0.2.2 ]
//!   children {
//!     net { mode = tunnel }
//!   }
//! ```

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroize;

/// Deepest nesting of sections that is read or written; charon's own messages go to five.
pub const MAX_DEPTH: usize = 32;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// Why bytes are not a message, or a message cannot become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes end inside an element.
    #[error("the message ends inside an element")]
    Truncated,
    /// An element type that does not exist.
    #[error("element type {0}")]
    ElementType(u8),
    /// An element where it may not stand, as a section inside a list.
    #[error("element type {0} where it may not stand")]
    Misplaced(u8),
    /// A name that is not UTF-8.
    #[error("a name that is not text")]
    Name,
    /// Sections or lists left open at the end.
    #[error("{0} sections or lists left open")]
    Unbalanced(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("sections nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A name longer than 255 bytes, or a value longer than 65535.
    #[error("a name or value of {0} bytes")]
    TooLong(usize),
}

/// What a name in a message stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Element {
    /// One value; charon's are text, numbers too.
    Value(Vec<u8>),
    /// Values without names.
    List(Vec<Vec<u8>>),
    /// A message within the message.
    Section(Message),
}

impl Drop for Element {
    fn drop(&mut self) {
        match self {
            Self::Value(value) => value.zeroize(),
            Self::List(items) => items.zeroize(),
            Self::Section(_) => {}
        }
    }
}

/// Names and what they stand for, in order. Values are wiped when it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    entries: Vec<(String, Element)>,
}

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    pub fn set(&mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(name, Element::Value(value.as_ref().to_vec()))
    }

    /// Adds a list.
    pub fn set_list<V: AsRef<[u8]>>(
        &mut self,
        name: impl Into<String>,
        items: impl IntoIterator<Item = V>,
    ) -> &mut Self {
        self.push(
            name,
            Element::List(
                items
                    .into_iter()
                    .map(|item| item.as_ref().to_vec())
                    .collect(),
            ),
        )
    }

    /// Adds a section.
    pub fn set_section(&mut self, name: impl Into<String>, section: Message) -> &mut Self {
        self.push(name, Element::Section(section))
    }

    /// [`Self::set`] for building in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.set(name, value);
        self
    }

    /// [`Self::with`] for a value that may be absent; absent values are not sent at all.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value.to_string()),
            None => self,
        }
    }

    /// [`Self::set_list`] for building in one expression.
    #[must_use]
    pub fn with_list<V: AsRef<[u8]>>(
        mut self,
        name: impl Into<String>,
        items: impl IntoIterator<Item = V>,
    ) -> Self {
        self.set_list(name, items);
        self
    }

    /// [`Self::set_section`] for building in one expression.
    #[must_use]
    pub fn with_section(mut self, name: impl Into<String>, section: Message) -> Self {
        self.set_section(name, section);
        self
    }

    /// Adds an element.
    pub fn push(&mut self, name: impl Into<String>, element: Element) -> &mut Self {
        self.entries.push((name.into(), element));
        self
    }

    /// The first element of that name.
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.entries
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, element)| element)
    }

    /// The value of that name.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        match self.get(name)? {
            Element::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The value of that name, as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.value(name)?).ok()
    }

    /// The value of that name, parsed.
    pub fn parse<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// Whether the value of that name is `yes`.
    pub fn is_yes(&self, name: &str) -> bool {
        self.value(name) == Some(b"yes")
    }

    /// The items of the list of that name that are text; none if there is no such list.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        let items = match self.get(name) {
            Some(Element::List(items)) => items.as_slice(),
            _ => &[],
        };
        items
            .iter()
            .filter_map(|item| std::str::from_utf8(item).ok())
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&Message> {
        match self.get(name)? {
            Element::Section(section) => Some(section),
            _ => None,
        }
    }

    /// All sections, with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Message)> {
        self.entries
            .iter()
            .filter_map(|(name, element)| match element {
                Element::Section(section) => Some((name.as_str(), section)),
                _ => None,
            })
    }

    /// All elements, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Element)> {
        self.entries
            .iter()
            .map(|(name, element)| (name.as_str(), element))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes [`Self::encode`] writes.
    pub(crate) fn encoded_len(&self) -> usize {
        self.entries
            .iter()
            .map(|(name, element)| {
                2 + name.len()
                    + match element {
                        Element::Value(value) => 2 + value.len(),
                        Element::List(items) => {
                            1 + items.iter().map(|item| 3 + item.len()).sum::<usize>()
                        }
                        Element::Section(section) => 1 + section.encoded_len(),
                    }
            })
            .sum()
    }

    /// Appends the message as VICI carries it, without the packet around it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        self.encode_at(out, 0)
    }

    fn encode_at(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), MessageError> {
        if depth > MAX_DEPTH {
            return Err(MessageError::TooDeep);
        }
        for (name, element) in &self.entries {
            match element {
                Element::Value(value) => {
                    put_name(out, KEY_VALUE, name)?;
                    put_value(out, value)?;
                }
                Element::List(items) => {
                    put_name(out, LIST_START, name)?;
                    for item in items {
                        out.push(LIST_ITEM);
                        put_value(out, item)?;
                    }
                    out.push(LIST_END);
                }
                Element::Section(section) => {
                    put_name(out, SECTION_START, name)?;
                    section.encode_at(out, depth + 1)?;
                    out.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// Reads a whole message, as [`Self::encode`] writes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader { rest: bytes };
        let mut root = Self::new();
        // Sections still open, innermost last, with their names.
        let mut open: Vec<(String, Self)> = Vec::new();
        while let Some(kind) = reader.next_kind() {
            match kind {
                SECTION_START => {
                    if open.len() == MAX_DEPTH {
                        return Err(MessageError::TooDeep);
                    }
                    open.push((reader.name()?, Self::new()));
                }
                SECTION_END => {
                    let (name, section) = open.pop().ok_or(MessageError::Misplaced(kind))?;
                    let parent = open.last_mut().map_or(&mut root, |(_, parent)| parent);
                    parent.set_section(name, section);
                }
                KEY_VALUE => {
                    let element = (reader.name()?, Element::Value(reader.value()?.to_vec()));
                    open.last_mut()
                        .map_or(&mut root, |(_, section)| section)
                        .entries
                        .push(element);
                }
                LIST_START => {
                    let element = (reader.name()?, Element::List(reader.list()?));
                    open.last_mut()
                        .map_or(&mut root, |(_, section)| section)
                        .entries
                        .push(element);
                }
                LIST_ITEM | LIST_END => return Err(MessageError::Misplaced(kind)),
                other => return Err(MessageError::ElementType(other)),
            }
        }
        if open.is_empty() {
            Ok(root)
        } else {
            Err(MessageError::Unbalanced(open.len()))
        }
    }
}

/// Shows names and sizes, never a value: it may be a secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, element) in &self.entries {
            map.entry(&format_args!("{name}"), element);
        }
        map.finish()
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "<{} bytes>", value.len()),
            Self::List(items) => write!(f, "[{} items]", items.len()),
            Self::Section(section) => section.fmt(f),
        }
    }
}

fn put_name(out: &mut Vec<u8>, kind: u8, name: &str) -> Result<(), MessageError> {
    let length = u8::try_from(name.len()).map_err(|_| MessageError::TooLong(name.len()))?;
    out.push(kind);
    out.push(length);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &[u8]) -> Result<(), MessageError> {
    let length = u16::try_from(value.len()).map_err(|_| MessageError::TooLong(value.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next_kind(&mut self) -> Option<u8> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*kind)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], MessageError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(MessageError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn name(&mut self) -> Result<String, MessageError> {
        let length = self.next_kind().ok_or(MessageError::Truncated)?;
        let name = self.take(length.into())?;
        std::str::from_utf8(name)
            .map(str::to_owned)
            .map_err(|_| MessageError::Name)
    }

    fn value(&mut self) -> Result<&'a [u8], MessageError> {
        let (length, rest) = self
            .rest
            .split_first_chunk::<2>()
            .ok_or(MessageError::Truncated)?;
        self.rest = rest;
        self.take(u16::from_be_bytes(*length).into())
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, MessageError> {
        let mut items = Vec::new();
        loop {
            match self.next_kind().ok_or(MessageError::Truncated)? {
                LIST_ITEM => items.push(self.value()?.to_vec()),
                LIST_END => return Ok(items),
                other => return Err(MessageError::Misplaced(other)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out).unwrap();
        assert_eq!(out.len(), message.encoded_len());
        out
    }

    /// The example in the protocol's own description.
    #[test]
    fn the_protocols_example_encodes_as_it_says() {
        let message = Message::new().with("key1", "value1").with_section(
            "section1",
            Message::new()
                .with_section("sub-section", Message::new().with("key2", "value2"))
                .with_list("list1", ["item1", "item2"]),
        );
        let expected: &[u8] = b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\x00\x06value2\
            \x02\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";
        assert_eq!(encoded(&message), expected);
        assert_eq!(Message::decode(expected).unwrap(), message);
    }

    #[test]
    fn what_is_out_of_place_is_refused() {
        for (bytes, error) in [
            (&b"\x02"[..], MessageError::Misplaced(2)),
            (b"\x05\x00\x00", MessageError::Misplaced(5)),
            (b"\x06", MessageError::Misplaced(6)),
            (b"\x04\x01l\x01\x01s", MessageError::Misplaced(1)),
            (b"\x01\x01s", MessageError::Unbalanced(1)),
            (b"\x04\x01l", MessageError::Truncated),
            (b"\x03\x01k\x00\x02x", MessageError::Truncated),
            (b"\x03\x01\xff\x00\x00", MessageError::Name),
            (b"\x09", MessageError::ElementType(9)),
        ] {
            assert_eq!(Message::decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn depth_is_bounded_both_ways() {
        let mut message = Message::new();
        for _ in 0..MAX_DEPTH {
            message = Message::new().with_section("s", message);
        }
        assert_eq!(Message::decode(&encoded(&message)).unwrap(), message);
        let deeper = Message::new().with_section("s", message);
        assert_eq!(deeper.encode(&mut Vec::new()), Err(MessageError::TooDeep));
        assert_eq!(
            Message::decode(&b"\x01\x00".repeat(100_000)),
            Err(MessageError::TooDeep)
        );
    }

    #[test]
    fn names_and_values_too_long_are_refused() {
        let name = Message::new().with("n".repeat(256), "");
        assert_eq!(
            name.encode(&mut Vec::new()),
            Err(MessageError::TooLong(256))
        );
        let value = Message::new().with("n", vec![0; 65536]);
        assert_eq!(
            value.encode(&mut Vec::new()),
            Err(MessageError::TooLong(65536))
        );
    }

    #[test]
    fn formatting_shows_no_value() {
        let message = Message::new()
            .with("data", "swordfish")
            .with_list("owners", ["swordfish"]);
        let shown = format!("{message:?}");
        assert!(!shown.contains("swordfish"), "{shown}");
        assert_eq!(shown, "{data: <9 bytes>, owners: [1 items]}");
    }

    fn messages() -> impl Strategy<Value = Message> {
        let value = proptest::collection::vec(any::<u8>(), 0..40);
        let leaf = prop_oneof![
            value.clone().prop_map(Element::Value),
            proptest::collection::vec(value, 0..4).prop_map(Element::List),
        ];
        let element = leaf.prop_recursive(4, 32, 5, |inner| {
            proptest::collection::vec(("[a-z0-9-]{0,12}", inner), 0..5)
                .prop_map(|entries| Element::Section(Message { entries }))
        });
        proptest::collection::vec(("[a-z0-9-]{0,12}", element), 0..6)
            .prop_map(|entries| Message { entries })
    }

    proptest! {
        #[test]
        fn a_message_survives_the_way_there_and_back(message in messages()) {
            prop_assert_eq!(Message::decode(&encoded(&message)), Ok(message));
        }

        #[test]
        fn junk_never_panics_and_what_decodes_encodes_to_the_same(
            junk in proptest::collection::vec(prop_oneof![4 => 0_u8..8, 1 => any::<u8>()], 0..200)
        ) {
            if let Ok(message) = Message::decode(&junk) {
                prop_assert_eq!(encoded(&message), junk);
            }
        }

        #[test]
        fn a_truncated_message_is_never_read_as_another_whole_one(message in messages(), cut in any::<prop::sample::Index>()) {
            let whole = encoded(&message);
            if !whole.is_empty() {
                let end = cut.index(whole.len());
                if let Ok(shorter) = Message::decode(&whole[..end]) {
                    prop_assert!(shorter.entries.len() < message.entries.len());
                }
            }
        }
    }
}
