//! JSON text to a tree, keeping what ordinary readers lose: names that are given twice.
//!
//! Size, depth and number of values are bounded before anything is built from them.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::error::Reason;
use super::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};

/// A JSON value as it was written.
pub(super) enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Below zero, or not whole: nothing of ours is either.
    OtherNumber,
    /// Wiped on drop, for it may be a secret.
    Text(Zeroizing<String>),
    List(Vec<Node>),
    /// In the order of the text; a name may stand twice.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// As an error calls it.
    pub(super) fn called(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Unsigned(_) => "a number",
            Self::OtherNumber => "a number below zero or not whole",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads a document.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, Reason> {
    if bytes.len() > MAX_BYTES {
        return Err(Reason::TooLarge {
            bytes: bytes.len(),
            limit: MAX_BYTES,
        });
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Reason::Syntax {
            message: format!("not UTF-8 at byte {}", error.valid_up_to()),
        });
    }
    if depth(bytes) > MAX_DEPTH {
        return Err(Reason::TooDeep { limit: MAX_DEPTH });
    }
    let left = Cell::new(MAX_VALUES);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let node = NodeSeed { left: &left }
        .deserialize(&mut reader)
        .and_then(|node| reader.end().map(|()| node));
    node.map_err(|error| {
        if left.get() == 0 {
            Reason::TooManyValues { limit: MAX_VALUES }
        } else {
            Reason::Syntax {
                message: error.to_string(),
            }
        }
    })
}

/// How deep brackets nest outside of texts. Of what is not JSON some number that does no harm.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in bytes {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads one value, counting down what may still be read.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Node, D::Error> {
        let left = self.left.get().saturating_sub(1);
        self.left.set(left);
        if left == 0 {
            return Err(D::Error::custom("too many values"));
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or(Node::OtherNumber, Node::Unsigned))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            object.push((name, entries.next_value_seed(self)?));
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        assert_eq!(depth(br#"{"a[[[": ["\"[[", {}]}"#), 3);
        assert_eq!(depth(b"]]]]"), 0);
    }

    #[test]
    fn limits_hold() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert!(matches!(
            parse(deep.as_bytes()),
            Err(Reason::TooDeep { .. })
        ));
        let long = vec![b' '; MAX_BYTES + 1];
        assert!(matches!(parse(&long), Err(Reason::TooLarge { .. })));
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(matches!(
            parse(many.as_bytes()),
            Err(Reason::TooManyValues { .. })
        ));
    }

    #[test]
    fn what_follows_the_document_is_refused() {
        assert!(matches!(parse(b"{} {}"), Err(Reason::Syntax { .. })));
    }
}
