//! Changes of a tree: each is done whole or not at all.

use std::sync::Arc;

use super::leaf::Leaf;
use super::location::{Location, Place, Setting, Step};
use super::node::{Branch, ItemKey, List, Node, Weight};
use super::shape::{self, Field, FieldKind, Message};
use super::{Tree, TreeError, within_bounds, within_count};

/// Where an item goes in a list whose order is the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Right before another item.
    Before(Location),
    /// Right after another item.
    After(Location),
}

impl Tree {
    /// Sets a leaf, or sees to it that an item is there; what leads there comes to be.
    pub fn set(&mut self, setting: &Setting) -> Result<(), TreeError> {
        let Setting { location, value } = setting;
        let (more, less) = self.growth(location, value.as_ref())?;
        let weight = (self.weight + more).less(less);
        within_bounds(weight)?;
        put(
            Arc::make_mut(&mut self.root),
            &location.steps,
            value.as_ref(),
        );
        self.weight = weight;
        Ok(())
    }

    /// Takes away a leaf, an item, or all of a group or list; groups and lists that hold nothing any more
    /// go, too, and so do notes about what is taken away.
    pub fn delete(&mut self, location: &Location) -> Result<(), TreeError> {
        if location.is_root() {
            *self = Self::empty();
            return Ok(());
        }
        self.remove(location)?;
        self.forget_notes(location)
    }

    /// Takes away what is at a place other than the root, and nothing else.
    pub(super) fn remove(&mut self, location: &Location) -> Result<(), TreeError> {
        if !self.contains(location) {
            return Err(not_there(location));
        }
        let root = Arc::make_mut(&mut self.root);
        if let Some(removed) = take(root, shape::root(), &location.steps) {
            self.weight = self.weight.less(removed);
        }
        Ok(())
    }

    /// Makes an item like another of its list, with what is noted about it. What refers to the other still does.
    pub fn copy(&mut self, from: &Location, to: &Location) -> Result<(), TreeError> {
        let mut tree = self.clone();
        tree.copy_item(from, to)?;
        tree.copy_notes(from, to)?;
        *self = tree;
        Ok(())
    }

    fn copy_item(&mut self, from: &Location, to: &Location) -> Result<(), TreeError> {
        let (list, key) = self.new_sibling(from, to)?;
        let Some(item) = self.item_at(from).cloned() else {
            return Err(not_there(from));
        };
        let Some((field, shape)) = list.last_field().zip(list.message()) else {
            return Err(not_there(from));
        };
        let count = self.list(&list).map_or(0, |list| list.items.len());
        within_count(field, count + 1, &list)?;
        let weight = self.weight + Weight::of_item(shape, &key, &item);
        within_bounds(weight)?;
        if let Some(items) = list_mut(Arc::make_mut(&mut self.root), &list.steps) {
            items.put(field, key, item);
            self.weight = weight;
        }
        Ok(())
    }

    /// Moves an item to another place of a list whose order is the user's.
    pub fn reorder(&mut self, item: &Location, position: &Position) -> Result<(), TreeError> {
        let list = item.parent();
        let ordered = list.last_field().is_some_and(Field::ordered);
        let (Place::Item, true, Some(Step::Item(key))) = (item.place(), ordered, item.steps.last())
        else {
            return Err(TreeError::Misplaced {
                path: item.to_string(),
                expected: "only the items of a list that is kept in order can be moved",
            });
        };
        if !self.contains(item) {
            return Err(not_there(item));
        }
        let beside = match position {
            Position::First | Position::Last => None,
            Position::Before(other) | Position::After(other) => match other.steps.last() {
                Some(Step::Item(key)) if other.parent() == list && self.contains(other) => {
                    Some(key)
                }
                _ => return Err(not_there(other)),
            },
        };
        if beside == Some(key) {
            return Ok(());
        }
        let Some(items) = list_mut(Arc::make_mut(&mut self.root), &list.steps) else {
            return Err(not_there(item));
        };
        items.order.retain(|other| other != key);
        let found = items
            .order
            .iter()
            .position(|other| Some(other) == beside)
            .unwrap_or(items.order.len());
        let at = match position {
            Position::First => 0,
            Position::Last => items.order.len(),
            Position::Before(_) => found,
            Position::After(_) => (found + 1).min(items.order.len()),
        };
        items.order.insert(at, key.clone());
        Ok(())
    }

    /// Puts all that another tree says over this one; what it does not say stays.
    pub fn overlay(&mut self, other: &Self) -> Result<(), TreeError> {
        let mut tree = self.clone();
        tree.lay_over(other);
        *self = Self::bounded(tree.root.as_ref().clone())?;
        Ok(())
    }

    /// The same, whatever it comes to.
    pub(super) fn lay_over(&mut self, other: &Self) {
        lay_over(Arc::make_mut(&mut self.root), shape::root(), &other.root);
    }

    /// The list and the key of an item that is to be made like `from`.
    pub(super) fn new_sibling(
        &self,
        from: &Location,
        to: &Location,
    ) -> Result<(Location, ItemKey), TreeError> {
        let list = from.parent();
        match to.steps.last() {
            Some(Step::Item(_)) if from.place() != Place::Item || to.parent() != list => {
                Err(TreeError::Misplaced {
                    path: to.to_string(),
                    expected: "an item keeps to its list",
                })
            }
            Some(Step::Item(key)) => {
                if !self.contains(from) {
                    Err(not_there(from))
                } else if self.contains(to) {
                    Err(TreeError::Taken {
                        path: to.to_string(),
                    })
                } else {
                    Ok((list, key.clone()))
                }
            }
            _ => Err(TreeError::Misplaced {
                path: to.to_string(),
                expected: "only items of lists have keys",
            }),
        }
    }

    pub(super) fn item_at(&self, location: &Location) -> Option<&Arc<Branch>> {
        let Some(Step::Item(key)) = location.steps.last() else {
            return None;
        };
        self.list(&location.parent())?.items.get(key)
    }

    /// What a setting adds, and what it takes the place of.
    fn growth(
        &self,
        location: &Location,
        value: Option<&Leaf>,
    ) -> Result<(Weight, Weight), TreeError> {
        let (mut more, mut less) = (Weight::default(), Weight::default());
        // What is there so far; absent from where on things come to be.
        let mut branch = Some(self.root.as_ref());
        let mut list: Option<&List> = None;
        let mut field: Option<&'static Field> = None;
        for (index, step) in location.steps.iter().enumerate() {
            match step {
                Step::Field(next) => {
                    field = Some(next);
                    let node = branch.and_then(|branch| branch.get(next.number));
                    branch = None;
                    list = None;
                    match (node, value) {
                        (Some(Node::Leaf(old)), Some(value)) => {
                            more += Weight::of_leaf(next, value);
                            less += Weight::of_leaf(next, old);
                        }
                        (Some(Node::Branch(inner)), _) => branch = Some(inner.as_ref()),
                        (Some(Node::List(inner)), _) => list = Some(inner.as_ref()),
                        (None, Some(value)) if next.is_leaf() => {
                            more += Weight::of_leaf(next, value);
                        }
                        _ => more += Weight::of_container(next),
                    }
                }
                Step::Item(key) => {
                    let there = list.and_then(|list| list.items.get(key));
                    branch = there.map(AsRef::as_ref);
                    if let (None, Some(field)) = (there, field)
                        && let Some(item) = field.inner()
                    {
                        let count = list.map_or(0, |list| list.items.len()) + 1;
                        if count > field.rules.max_items() {
                            let at = Location {
                                steps: location.steps.get(..index).unwrap_or_default().to_vec(),
                            };
                            within_count(field, count, &at)?;
                        }
                        more += Weight::of_key(item, key);
                    }
                    list = None;
                }
            }
        }
        Ok((more, less))
    }
}

pub(super) fn not_there(location: &Location) -> TreeError {
    TreeError::NotThere {
        path: location.to_string(),
    }
}

/// Puts a leaf or, where the steps end at an item, an empty item that is not there yet.
pub(super) fn put(branch: &mut Branch, steps: &[Step], value: Option<&Leaf>) {
    let Some((Step::Field(field), rest)) = steps.split_first() else {
        return;
    };
    match &field.kind {
        FieldKind::Branch(_) => {
            let mut inner = match branch.remove(field.number) {
                Some(Node::Branch(inner)) => inner,
                _ => Arc::default(),
            };
            put(Arc::make_mut(&mut inner), rest, value);
            branch.put(field.number, Node::Branch(inner));
        }
        FieldKind::List(_) => {
            let Some((Step::Item(key), rest)) = rest.split_first() else {
                return;
            };
            let mut list = match branch.remove(field.number) {
                Some(Node::List(list)) => list,
                _ => Arc::default(),
            };
            let items = Arc::make_mut(&mut list);
            match items.items.get_mut(key) {
                Some(item) => put(Arc::make_mut(item), rest, value),
                None => {
                    let mut item = Branch::default();
                    put(&mut item, rest, value);
                    items.put(field, key.clone(), Arc::new(item));
                }
            }
            branch.put(field.number, Node::List(list));
        }
        _ => {
            if let Some(value) = value {
                branch.put(field.number, Node::Leaf(value.clone()));
            }
        }
    }
}

/// Takes away what is at the end of the steps, and what then holds nothing. Gives the weight of all of it.
fn take(branch: &mut Branch, message: &'static Message, steps: &[Step]) -> Option<Weight> {
    let (Step::Field(field), rest) = steps.split_first()? else {
        return None;
    };
    if rest.is_empty() {
        let node = branch.remove(field.number)?;
        return Some(Weight::of_node(field, &node));
    }
    let inner = message.numbered(field.number)?.inner()?;
    let node = branch.get_mut(field.number)?;
    let removed = match node {
        Node::Branch(child) => take(Arc::make_mut(child), inner, rest)?,
        Node::List(list) => {
            let (Step::Item(key), rest) = rest.split_first()? else {
                return None;
            };
            let items = Arc::make_mut(list);
            if rest.is_empty() {
                let item = items.remove(key)?;
                Weight::of_item(inner, key, &item)
            } else {
                take(Arc::make_mut(items.items.get_mut(key)?), inner, rest)?
            }
        }
        Node::Leaf(_) => return None,
    };
    if node.is_empty() {
        branch.remove(field.number);
        return Some(removed + Weight::of_container(field));
    }
    Some(removed)
}

/// The list at the end of the steps, if it is there.
pub(super) fn list_mut<'a>(branch: &'a mut Branch, steps: &[Step]) -> Option<&'a mut List> {
    let (Step::Field(field), rest) = steps.split_first()? else {
        return None;
    };
    match branch.get_mut(field.number)? {
        Node::Branch(inner) => list_mut(Arc::make_mut(inner), rest),
        Node::List(list) => match rest.split_first() {
            None => Some(Arc::make_mut(list)),
            Some((Step::Item(key), rest)) => {
                let item = Arc::make_mut(list).items.get_mut(key)?;
                list_mut(Arc::make_mut(item), rest)
            }
            Some(_) => None,
        },
        Node::Leaf(_) => None,
    }
}

fn lay_over(branch: &mut Branch, message: &Message, other: &Branch) {
    for (field, theirs) in other.entries(message) {
        match (branch.get_mut(field.number), theirs, &field.kind) {
            (Some(Node::Branch(own)), Node::Branch(theirs), FieldKind::Branch(inner)) => {
                lay_over(Arc::make_mut(own), inner, theirs);
            }
            (Some(Node::List(own)), Node::List(theirs), FieldKind::List(item)) => {
                let own = Arc::make_mut(own);
                for (key, theirs) in theirs.entries(field) {
                    match own.items.get_mut(key) {
                        Some(own) => lay_over(Arc::make_mut(own), item, theirs),
                        None => own.put(field, key.clone(), theirs.clone()),
                    }
                }
            }
            _ => {
                branch.put(field.number, theirs.clone());
            }
        }
    }
}
