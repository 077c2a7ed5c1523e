//! What makes one tree another: by leaf, and by item where a whole one comes or goes.

use std::fmt;
use std::sync::Arc;

use super::leaf::Leaf;
use super::location::{Location, Place, Step};
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{self, Field, FieldKind, Message};
use super::show::set_lines_of_item;
use super::words::quoted;
use super::{Found, Tree, TreeError};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    location: Location,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Leaf {
        before: Option<Leaf>,
        after: Option<Leaf>,
    },
    /// An item as a whole.
    Added(Arc<Branch>),
    Removed(Arc<Branch>),
    /// The order of a list that is the user's.
    Order {
        before: Vec<ItemKey>,
        after: Vec<ItemKey>,
    },
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It was not there.
    Added,
    /// It is there no longer.
    Removed,
    /// It has another value.
    Changed,
    /// The items of a list stand in another order.
    Reordered,
}

impl Change {
    /// Where: a leaf, an item, or a list whose order changes.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// What it does.
    pub fn verb(&self) -> Verb {
        match &self.what {
            What::Leaf { before: None, .. } | What::Added(_) => Verb::Added,
            What::Leaf { after: None, .. } | What::Removed(_) => Verb::Removed,
            What::Leaf { .. } => Verb::Changed,
            What::Order { .. } => Verb::Reordered,
        }
    }

    /// Whether it is a leaf whose values nobody may read.
    pub fn is_secret(&self) -> bool {
        match &self.what {
            What::Leaf { .. } => self.location.last_field().is_some_and(Field::secret),
            _ => false,
        }
    }

    /// The value before, of a leaf that is not secret.
    pub fn before(&self) -> Option<String> {
        match &self.what {
            What::Leaf { before, .. } => self.readable(before.as_ref()),
            _ => None,
        }
    }

    /// The value after, of a leaf that is not secret.
    pub fn after(&self) -> Option<String> {
        match &self.what {
            What::Leaf { after, .. } => self.readable(after.as_ref()),
            _ => None,
        }
    }

    fn readable(&self, leaf: Option<&Leaf>) -> Option<String> {
        leaf.filter(|leaf| !leaf.is_secret())
            .zip(self.location.last_field())
            .map(|(leaf, field)| leaf.word(field).into_owned())
    }

    /// The change as lines, each begun by `+`, `-` or `~` (a secret that changed, an order that did) and a space.
    /// No line tells of a secret more than that it is there.
    pub fn lines(&self) -> Vec<String> {
        let leaf = |sign: &str, leaf: &Leaf| {
            let field = self.location.last_field();
            let value = match field {
                Some(field) if !leaf.is_secret() => quoted(&leaf.word(field)),
                _ => "<secret>".to_owned(),
            };
            format!("{sign} {} {value}", self.location)
        };
        match &self.what {
            What::Leaf {
                before: Some(_),
                after: Some(_),
            } if self.is_secret() => vec![format!("~ {} changed", self.location)],
            What::Leaf { before, after } => {
                let before = before.as_ref().map(|value| leaf("-", value));
                before
                    .into_iter()
                    .chain(after.as_ref().map(|value| leaf("+", value)))
                    .collect()
            }
            What::Added(item) => self.item_lines("+", item),
            What::Removed(item) => self.item_lines("-", item),
            What::Order { after, .. } => {
                let place = |key: &ItemKey| {
                    let words = self.location.item(key).words();
                    let own = self.location.words().len();
                    let key: Vec<String> =
                        words.iter().skip(own).map(|word| quoted(word)).collect();
                    key.join(" ")
                };
                let order: Vec<String> = after.iter().map(place).collect();
                vec![format!(
                    "~ {} in the order {}",
                    self.location,
                    order.join(", ")
                )]
            }
        }
    }

    /// Puts what is there after it into a tree, and says whether anything is. `None`: it changes an order.
    pub(super) fn put_into(&self, tree: &mut Tree) -> Option<bool> {
        match &self.what {
            What::Leaf {
                after: Some(leaf), ..
            } => tree.put_leaf(&self.location, leaf),
            What::Added(item) => tree.put_item(&self.location, item.clone()),
            What::Leaf { after: None, .. } | What::Removed(_) => return Some(false),
            What::Order { .. } => return None,
        }
        Some(true)
    }

    fn item_lines(&self, sign: &str, item: &Branch) -> Vec<String> {
        let text = match self.location.message() {
            Some(message) => set_lines_of_item(message, item, &self.location.to_string()),
            None => String::new(),
        };
        text.lines().map(|line| format!("{sign} {line}")).collect()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// The changes that make `before` into `after`, in the order of the schema and of the keys. Both must hold
/// their secrets, or both digests of them.
pub fn diff(before: &Tree, after: &Tree) -> Vec<Change> {
    let mut changes = Vec::new();
    in_branch(
        shape::root(),
        &before.root,
        &after.root,
        &Location::root(),
        &mut changes,
    );
    changes
}

fn in_branch(
    message: &'static Message,
    before: &Branch,
    after: &Branch,
    at: &Location,
    changes: &mut Vec<Change>,
) {
    let (no_branch, no_list) = (Arc::default(), Arc::default());
    for field in &message.fields {
        let (old, new) = (before.get(field.number), after.get(field.number));
        if old == new {
            continue;
        }
        let at = at.field(field);
        match &field.kind {
            FieldKind::Branch(inner) => {
                let [old, new] = [old, new].map(|node| match node {
                    Some(Node::Branch(branch)) => branch,
                    _ => &no_branch,
                });
                in_branch(inner, old, new, &at, changes);
            }
            FieldKind::List(item) => {
                let [old, new] = [old, new].map(|node| match node {
                    Some(Node::List(list)) => list,
                    _ => &no_list,
                });
                in_list(field, item, old, new, &at, changes);
            }
            _ => {
                let [before, after] = [old, new].map(|node| match node {
                    Some(Node::Leaf(leaf)) => Some(leaf.clone()),
                    _ => None,
                });
                changes.push(Change {
                    location: at,
                    what: What::Leaf { before, after },
                });
            }
        }
    }
}

fn in_list(
    field: &'static Field,
    item: &'static Message,
    before: &List,
    after: &List,
    at: &Location,
    changes: &mut Vec<Change>,
) {
    // Both are sorted: one walk over the two finds what is in either.
    let mut old = before.items.iter().peekable();
    let mut new = after.items.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        let left = if order.is_le() { old.next() } else { None };
        let right = if order.is_ge() { new.next() } else { None };
        match (left, right) {
            (Some((key, left)), Some((_, right))) => {
                if !Arc::ptr_eq(left, right) && left != right {
                    in_branch(item, left, right, &at.item(key), changes);
                }
            }
            (Some((key, left)), None) => changes.push(Change {
                location: at.item(key),
                what: What::Removed(left.clone()),
            }),
            (None, Some((key, right))) => changes.push(Change {
                location: at.item(key),
                what: What::Added(right.clone()),
            }),
            (None, None) => break,
        }
    }
    if field.ordered() && before.order != after.order {
        // What stays keeps its order, what comes goes to the end: only another order needs saying.
        let stays = before
            .order
            .iter()
            .filter(|key| after.items.contains_key(key));
        let comes = after
            .items
            .keys()
            .filter(|key| !before.items.contains_key(key));
        if !stays.chain(comes).eq(after.order.iter()) {
            changes.push(Change {
                location: at.clone(),
                what: What::Order {
                    before: before.order.clone(),
                    after: after.order.clone(),
                },
            });
        }
    }
}

impl Tree {
    /// The tree with changes made. What they say was there before must be there.
    pub fn apply(&self, changes: &[Change]) -> Result<Self, TreeError> {
        let mut tree = self.clone();
        for change in changes {
            tree.make(change)?;
        }
        Self::bounded(tree.root.as_ref().clone())
    }

    fn make(&mut self, change: &Change) -> Result<(), TreeError> {
        let location = &change.location;
        let differs = || TreeError::Changed {
            path: location.to_string(),
        };
        match &change.what {
            What::Leaf { before, after } => {
                let present = match self.find(location) {
                    Some(Found::Leaf(leaf)) => Some(leaf),
                    _ => None,
                };
                if present != before.as_ref() {
                    return Err(differs());
                }
                match after {
                    Some(leaf) => self.put_leaf(location, leaf),
                    None => self.remove(location)?,
                }
            }
            What::Added(item) => {
                if self.contains(location) {
                    return Err(differs());
                }
                self.put_item(location, item.clone());
            }
            What::Removed(item) => {
                if self.item_at(location) != Some(item) {
                    return Err(differs());
                }
                self.remove(location)?;
            }
            What::Order { after, .. } => {
                let mut sorted = after.clone();
                sorted.sort();
                let root = Arc::make_mut(&mut self.root);
                let list = super::edit::list_mut(root, &location.steps).ok_or_else(differs)?;
                if !sorted.iter().eq(list.items.keys()) {
                    return Err(differs());
                }
                list.order.clone_from(after);
            }
        }
        Ok(())
    }

    fn put_leaf(&mut self, location: &Location, leaf: &Leaf) {
        let root = Arc::make_mut(&mut self.root);
        super::edit::put(root, &location.steps, Some(leaf));
    }

    fn put_item(&mut self, location: &Location, item: Arc<Branch>) {
        let root = Arc::make_mut(&mut self.root);
        super::edit::put(root, &location.steps, None);
        let (Some(Step::Item(key)), Place::Item) = (location.steps.last(), location.place()) else {
            return;
        };
        if let Some(list) = super::edit::list_mut(root, &location.parent().steps)
            && let Some(place) = list.items.get_mut(key)
        {
            *place = item;
        }
    }
}
