//! Another key for an item, and for all that refers to it.

use std::sync::Arc;

use super::complete::find_list;
use super::edit::{list_mut, not_there};
use super::leaf::Leaf;
use super::location::{Location, Step};
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{self, Field, FieldKind, Message};
use super::{Tree, TreeError};

impl Tree {
    /// Gives an item another key, in its place if the order is the user's. What refers to it refers to the
    /// new key then; gives back where.
    pub fn rename(&mut self, from: &Location, to: &Location) -> Result<Vec<Location>, TreeError> {
        let (list, new) = self.new_sibling(from, to)?;
        let (Some(Step::Item(old)), Some(field)) = (from.steps.last(), list.last_field()) else {
            return Err(not_there(from));
        };
        let mut renaming = Renaming {
            list: field,
            words: None,
            changed: Vec::new(),
            moved: Vec::new(),
        };
        let referable = find_list(shape::root(), &Location::root(), &field.full_name)
            .is_some_and(|(place, _)| place == list);
        if let (true, Some(key), Some(before), Some(after)) = (
            referable,
            field.inner().and_then(|item| item.keys().next()),
            old.single(),
            new.single(),
        ) {
            renaming.words = Some((before.word(key).into_owned(), after.word(key).into_owned()));
        }
        let mut root = self.root.as_ref().clone();
        if renaming.words.is_some()
            && let Some(rewritten) =
                renaming.branch(self, shape::root(), &root, &Location::root())?
        {
            root = rewritten;
        }
        let Some(items) = list_mut(&mut root, &list.steps) else {
            return Err(not_there(from));
        };
        rekey(items, old, new);
        let mut tree = Self::bounded(root)?;
        renaming.moved.push((from.clone(), to.clone()));
        tree.move_notes(&renaming.moved)?;
        *self = tree;
        Ok(renaming.changed)
    }
}

/// Gives an item of a list another key, in its place.
pub(super) fn rekey(list: &mut List, old: &ItemKey, new: ItemKey) {
    if let Some(item) = list.items.remove(old) {
        if let Some(place) = list.order.iter_mut().find(|key| *key == old) {
            *place = new.clone();
        }
        list.items.insert(new, item);
    }
}

struct Renaming {
    list: &'static Field,
    /// Before and after.
    words: Option<(String, String)>,
    changed: Vec<Location>,
    /// Items with another key because of it, from where to where; what is around before what is inside.
    moved: Vec<(Location, Location)>,
}

impl Renaming {
    /// The new value of a leaf that refers to the item.
    fn leaf(&self, tree: &Tree, field: &Field, leaf: &Leaf) -> Option<Leaf> {
        let (before, after) = self.words.as_ref()?;
        let references = &field.rules.references;
        if !references.contains(&self.list.full_name) || leaf.word(field) != before.as_str() {
            return None;
        }
        // Where several lists are meant, the name may be that of another's item.
        let others = references
            .iter()
            .filter(|list| **list != self.list.full_name);
        let ambiguous = others
            .filter_map(|list| find_list(shape::root(), &Location::root(), list))
            .any(|(at, _)| {
                tree.list(&at).is_some_and(|list| {
                    list.items.keys().any(|key| {
                        key.single()
                            .is_some_and(|key| key.word(field) == before.as_str())
                    })
                })
            });
        (!ambiguous).then(|| Leaf::text(field, after))
    }

    /// A branch with what refers to the item changed; `None`: nothing in it does.
    fn branch(
        &mut self,
        tree: &Tree,
        message: &'static Message,
        branch: &Branch,
        at: &Location,
    ) -> Result<Option<Branch>, TreeError> {
        let mut rewritten: Option<Branch> = None;
        for field in &message.fields {
            let Some(node) = branch.get(field.number) else {
                continue;
            };
            let new = match (node, &field.kind) {
                (Node::Leaf(leaf), _) => self.leaf(tree, field, leaf).map(|leaf| {
                    self.changed.push(at.field(field));
                    Node::Leaf(leaf)
                }),
                (Node::Branch(inner), FieldKind::Branch(message)) => self
                    .branch(tree, message, inner, &at.field(field))?
                    .map(|inner| Node::Branch(Arc::new(inner))),
                (Node::List(list), FieldKind::List(item)) => self
                    .items(tree, item, list, &at.field(field))?
                    .map(|list| Node::List(Arc::new(list))),
                _ => None,
            };
            if let Some(new) = new {
                rewritten
                    .get_or_insert_with(|| branch.clone())
                    .put(field.number, new);
            }
        }
        Ok(rewritten)
    }

    fn items(
        &mut self,
        tree: &Tree,
        item: &'static Message,
        list: &List,
        at: &Location,
    ) -> Result<Option<List>, TreeError> {
        let mut rewritten: Option<List> = None;
        for (key, branch) in &list.items {
            let new_key = self.key(tree, item, key);
            let place = at.item(new_key.as_ref().unwrap_or(key));
            if new_key.is_some() {
                self.changed.push(place.clone());
                self.moved.push((at.item(key), place.clone()));
            }
            let new_branch = self.branch(tree, item, branch, &place)?;
            if new_key.is_none() && new_branch.is_none() {
                continue;
            }
            let list = rewritten.get_or_insert_with(|| list.clone());
            if let Some(new) = new_branch {
                list.items.insert(key.clone(), Arc::new(new));
            }
            if let Some(new) = new_key {
                if list.items.contains_key(&new) {
                    return Err(TreeError::Taken {
                        path: place.to_string(),
                    });
                }
                rekey(list, key, new);
            }
        }
        Ok(rewritten)
    }

    /// The key of an item with what refers to the renamed item changed.
    fn key(&self, tree: &Tree, item: &Message, key: &ItemKey) -> Option<ItemKey> {
        let mut values: Option<Vec<Option<Leaf>>> = None;
        for field in item.keys() {
            let Some((index, new)) = field
                .key
                .zip(key.get(field).and_then(|leaf| self.leaf(tree, field, leaf)))
            else {
                continue;
            };
            let values = values.get_or_insert_with(|| key.0.to_vec());
            if let Some(slot) = values.get_mut(index) {
                *slot = (Some(new.word(field).as_ref()) != field.default()).then_some(new);
            }
        }
        values.map(|values| ItemKey(values.into()))
    }
}
