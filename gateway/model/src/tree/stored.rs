//! Reads the canonical form back, without the detour by messages that tell all that is wrong.
//!
//! What is not right is only said not to be; the caller asks the strict decoder why. Field numbers, types and
//! each leaf are checked here; that nothing stands twice, in another order or in another spelling shows when
//! what was read is written again.

use std::sync::Arc;

use super::leaf::{Leaf, Scalar};
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{Field, FieldKind, Message};
use crate::decode::leaf::{check_number, check_secret, check_text};

/// A branch and, of an item, its key.
pub(crate) fn decode(message: &Message, bytes: &[u8]) -> Option<(Branch, ItemKey)> {
    let mut branch = Branch::default();
    let mut values = vec![None; message.keys().count()];
    let mut left = bytes;
    while !left.is_empty() {
        let tag = varint(&mut left)?;
        let field = message.numbered(u32::try_from(tag >> 3).ok()?)?;
        let delimited = matches!(
            field.kind,
            FieldKind::Text | FieldKind::Branch(_) | FieldKind::List(_)
        );
        if tag & 7 != if delimited { 2 } else { 0 } {
            return None;
        }
        match &field.kind {
            FieldKind::Branch(inner) => {
                let (child, _) = decode(inner, slice(&mut left)?)?;
                if !child.is_empty() {
                    branch.put(field.number, Node::Branch(Arc::new(child)));
                }
            }
            FieldKind::List(item) => {
                let (child, key) = decode(item, slice(&mut left)?)?;
                if !complete(item, &key) {
                    return None;
                }
                if let Some(Node::List(list)) = branch.get_mut(field.number) {
                    // No one else has it yet: nothing is copied.
                    Arc::make_mut(list).put(field, key, Arc::new(child));
                } else {
                    let mut list = List::default();
                    list.put(field, key, Arc::new(child));
                    branch.put(field.number, Node::List(Arc::new(list)));
                }
            }
            _ => {
                let leaf = leaf(field, &mut left)?;
                match field.key {
                    // What holds without being said is left out of keys.
                    Some(_) if field.default() == Some(leaf.word(field).as_ref()) => {}
                    Some(index) => *values.get_mut(index)? = Some(leaf),
                    None => {
                        branch.put(field.number, Node::Leaf(leaf));
                    }
                }
            }
        }
    }
    Some((branch, ItemKey(values.into())))
}

/// Whether a key has what it must.
fn complete(item: &Message, key: &ItemKey) -> bool {
    let given = |field: &Field| key.get(field).is_some();
    item.keys()
        .all(|field| !field.rules.field.required || given(field))
        && item.keys().any(given)
}

fn leaf(field: &Field, left: &mut &[u8]) -> Option<Leaf> {
    Some(match &field.kind {
        FieldKind::Bool => Leaf(Scalar::Bool(match varint(left)? {
            0 => false,
            1 => true,
            _ => return None,
        })),
        FieldKind::Number(most) => {
            let number = varint(left)?;
            check_number(field.rules, number, *most).ok()?;
            Leaf(Scalar::Number(number))
        }
        FieldKind::Keyword(_) => {
            let number = i32::try_from(varint(left)?).ok()?;
            field.keyword(number)?;
            Leaf(Scalar::Keyword(number))
        }
        FieldKind::Text => {
            let text = std::str::from_utf8(slice(left)?).ok()?;
            if field.secret() {
                check_secret(field.rules, text, true).ok()?;
                Leaf::secret(text)
            } else {
                check_text(field.rules, text).ok()?;
                Leaf::text(field, text)
            }
        }
        FieldKind::Branch(_) | FieldKind::List(_) => return None,
    })
}

fn varint(left: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = left.split_first()?;
        *left = rest;
        let part = u64::from(byte & 0x7f);
        if part.leading_zeros() < shift {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn slice<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(left)?).ok()?;
    let (part, rest) = left.split_at_checked(length)?;
    *left = rest;
    Some(part)
}
