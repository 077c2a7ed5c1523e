//! What a tree is made of. Trees share what they have in common: a copy costs nothing until it is changed.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};
use std::sync::Arc;

use super::leaf::{Leaf, Scalar};
use super::shape::{Field, FieldKind, Message};

/// The fields of a message that are there, but for the keys of an item: those are in [`ItemKey`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Branch {
    /// By number.
    fields: Vec<(u32, Node)>,
}

/// What a field holds. A branch or list that holds nothing is not there.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Leaf(Leaf),
    Branch(Arc<Branch>),
    List(Arc<List>),
}

/// The items of a list by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) items: BTreeMap<ItemKey, Arc<Branch>>,
    /// The order of the items, where it is the user's; else empty.
    pub(crate) order: Vec<ItemKey>,
}

/// What tells an item from the others of its list: a value for each key field. `None`: absent, or what
/// holds when it is absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ItemKey(pub(crate) Arc<[Option<Leaf>]>);

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(own), Self::Leaf(other)) => own == other,
            (Self::Branch(own), Self::Branch(other)) => Arc::ptr_eq(own, other) || own == other,
            (Self::List(own), Self::List(other)) => Arc::ptr_eq(own, other) || own == other,
            _ => false,
        }
    }
}

impl Eq for Node {}

impl Branch {
    pub(crate) fn get(&self, number: u32) -> Option<&Node> {
        let at = self.place(number).ok()?;
        self.fields.get(at).map(|(_, node)| node)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Node> {
        let at = self.place(number).ok()?;
        self.fields.get_mut(at).map(|(_, node)| node)
    }

    pub(crate) fn put(&mut self, number: u32, node: Node) -> Option<Node> {
        match self.place(number) {
            Ok(at) => self
                .fields
                .get_mut(at)
                .map(|(_, old)| std::mem::replace(old, node)),
            Err(at) => {
                self.fields.insert(at, (number, node));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<Node> {
        let at = self.place(number).ok()?;
        Some(self.fields.remove(at).1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields with what they hold.
    pub(crate) fn entries<'a>(
        &'a self,
        message: &'a Message,
    ) -> impl Iterator<Item = (&'a Field, &'a Node)> {
        self.fields
            .iter()
            .filter_map(|(number, node)| Some((message.numbered(*number)?, node)))
    }

    fn place(&self, number: u32) -> Result<usize, usize> {
        self.fields.binary_search_by_key(&number, |(own, _)| *own)
    }
}

impl Node {
    /// Whether it is a branch or list that holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(_) => false,
            Self::Branch(branch) => branch.is_empty(),
            Self::List(list) => list.items.is_empty(),
        }
    }
}

impl List {
    /// The keys in the order in which items are shown.
    pub(crate) fn keys<'a>(&'a self, field: &Field) -> Box<dyn Iterator<Item = &'a ItemKey> + 'a> {
        if field.ordered() {
            Box::new(self.order.iter())
        } else {
            Box::new(self.items.keys())
        }
    }

    /// The items in the order in which they are shown.
    pub(crate) fn entries<'a>(
        &'a self,
        field: &Field,
    ) -> impl Iterator<Item = (&'a ItemKey, &'a Arc<Branch>)> + use<'a> {
        self.keys(field)
            .filter_map(|key| self.items.get_key_value(key))
    }

    /// Puts an item in its place, a new one at the end of an order that is the user's.
    pub(crate) fn put(&mut self, field: &Field, key: ItemKey, item: Arc<Branch>) {
        if self.items.insert(key.clone(), item).is_none() && field.ordered() {
            self.order.push(key);
        }
    }

    pub(crate) fn remove(&mut self, key: &ItemKey) -> Option<Arc<Branch>> {
        let removed = self.items.remove(key)?;
        self.order.retain(|other| other != key);
        Some(removed)
    }
}

impl ItemKey {
    /// The value of a key field.
    pub(crate) fn get(&self, field: &Field) -> Option<&Leaf> {
        self.0.get(field.key?)?.as_ref()
    }

    /// The only value of a key of one field.
    pub(crate) fn single(&self) -> Option<&Leaf> {
        match self.0.as_ref() {
            [only] => only.as_ref(),
            _ => None,
        }
    }
}

/// How much of the bounds of a document something takes: bytes of JSON without spaces, and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) bytes: usize,
    pub(crate) values: usize,
}

impl Add for Weight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            values: self.values.saturating_add(other.values),
        }
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Weight {
    /// Without what was taken away.
    pub(crate) fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            values: self.values.saturating_sub(other.values),
        }
    }

    /// Of the braces of the whole.
    pub(crate) const ROOT: Self = Self {
        bytes: 2,
        values: 1,
    };

    /// Of the braces of an item, with its comma.
    const ITEM: Self = Self {
        bytes: 3,
        values: 1,
    };

    /// Of the name of a field and the brackets after it, with the comma.
    pub(crate) fn of_container(field: &Field) -> Self {
        Self {
            bytes: field.name.len() + 6,
            values: 1,
        }
    }

    /// Of the name of a field and its value, with the comma.
    pub(crate) fn of_leaf(field: &Field, leaf: &Leaf) -> Self {
        let value = match &leaf.0 {
            Scalar::Bool(_) => 5,
            Scalar::Number(number) => number.checked_ilog10().unwrap_or(0) as usize + 1,
            Scalar::Keyword(_) => leaf.word(field).len() + 2,
            Scalar::Text(text) => json_length(text),
            // A digest stands where the secret would, whichever is longer.
            Scalar::Secret(secret) => json_length(secret.as_str()).max(74),
            Scalar::Digest(_) => 74,
        };
        Self {
            bytes: field.name.len() + 4 + value,
            values: 1,
        }
    }

    /// Of an item without what is in it.
    pub(crate) fn of_key(item: &Message, key: &ItemKey) -> Self {
        item.keys()
            .filter_map(|field| Some(Self::of_leaf(field, key.get(field)?)))
            .fold(Self::ITEM, Self::add)
    }

    pub(crate) fn of_item(item: &Message, key: &ItemKey, branch: &Branch) -> Self {
        Self::of_key(item, key) + Self::of_branch(item, branch)
    }

    /// Of what is in a branch.
    pub(crate) fn of_branch(message: &Message, branch: &Branch) -> Self {
        branch
            .entries(message)
            .map(|(field, node)| Self::of_node(field, node))
            .fold(Self::default(), Self::add)
    }

    pub(crate) fn of_node(field: &Field, node: &Node) -> Self {
        match (node, &field.kind) {
            (Node::Leaf(leaf), _) => Self::of_leaf(field, leaf),
            (Node::Branch(branch), FieldKind::Branch(inner)) => {
                Self::of_container(field) + Self::of_branch(inner, branch)
            }
            (Node::List(list), FieldKind::List(item)) => list
                .items
                .iter()
                .map(|(key, branch)| Self::of_item(item, key, branch))
                .fold(Self::of_container(field), Self::add),
            _ => Self::default(),
        }
    }
}

/// Length of a text in JSON, with its quotation marks.
fn json_length(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
            0..=31 => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
}
