//! Two changed copies of a tree become one.
//!
//! Merged by leaf and by key: what only one side changed is taken from it, what both changed in the same way
//! is so, anything else is a conflict. The order of a list that is the user's counts as one value.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::location::Location;
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{self, Field, FieldKind, Message};
use super::show::set_lines_of_item;
use super::words::quoted;
use super::{Tree, TreeError};

/// Something that both sides changed, and not to the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub location: Location,
    /// What was there before either; `None`: nothing.
    pub base: Option<String>,
    /// What is there on the first side.
    pub ours: Option<String>,
    /// What is there on the second side.
    pub theirs: Option<String>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
        write!(
            f,
            "{}: ours: {}; theirs: {}; before: {}",
            self.location,
            text(&self.ours),
            text(&self.theirs),
            text(&self.base)
        )
    }
}

/// Why two trees do not become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Both changed the same.
    #[error("{} changed on both sides: {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Conflicts(Vec<Conflict>),
    /// Together they are more than is taken.
    #[error("{0}")]
    Bounds(TreeError),
}

/// What both sides made of `base`. All three must hold their secrets, or all three digests of them.
pub fn merge(base: &Tree, ours: &Tree, theirs: &Tree) -> Result<Tree, MergeError> {
    let mut conflicts = Vec::new();
    let root = branches(
        shape::root(),
        &base.root,
        &ours.root,
        &theirs.root,
        &Location::root(),
        &mut conflicts,
    );
    if conflicts.is_empty() {
        Tree::bounded(root.as_ref().clone()).map_err(MergeError::Bounds)
    } else {
        Err(MergeError::Conflicts(conflicts))
    }
}

fn branches(
    message: &'static Message,
    base: &Arc<Branch>,
    ours: &Arc<Branch>,
    theirs: &Arc<Branch>,
    at: &Location,
    conflicts: &mut Vec<Conflict>,
) -> Arc<Branch> {
    if let Some(decided) = decided(base, ours, theirs) {
        return decided.clone();
    }
    let mut merged = Branch::default();
    let (no_branch, no_list) = (Arc::default(), Arc::default());
    for field in &message.fields {
        let sides = [base, ours, theirs].map(|side| side.get(field.number));
        let node = match (decided(&sides[0], &sides[1], &sides[2]), &field.kind) {
            (Some(decided), _) => decided.cloned(),
            (None, FieldKind::Branch(inner)) => {
                let [base, ours, theirs] = sides.map(|node| match node {
                    Some(Node::Branch(branch)) => branch,
                    _ => &no_branch,
                });
                let at = at.field(field);
                Some(Node::Branch(branches(
                    inner, base, ours, theirs, &at, conflicts,
                )))
            }
            (None, FieldKind::List(item)) => {
                let [base, ours, theirs] = sides.map(|node| match node {
                    Some(Node::List(list)) => list,
                    _ => &no_list,
                });
                let at = at.field(field);
                let list = lists(field, item, [base, ours, theirs], &at, conflicts);
                Some(Node::List(Arc::new(list)))
            }
            (None, _) => {
                let text = |node: Option<&Node>| match node {
                    Some(Node::Leaf(leaf)) if leaf.is_secret() => Some("<secret>".to_owned()),
                    Some(Node::Leaf(leaf)) => Some(leaf.word(field).into_owned()),
                    _ => None,
                };
                conflicts.push(Conflict {
                    location: at.field(field),
                    base: text(sides[0]),
                    ours: text(sides[1]),
                    theirs: text(sides[2]),
                });
                None
            }
        };
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            merged.put(field.number, node);
        }
    }
    Arc::new(merged)
}

/// What the sides come to without looking inside.
fn decided<'a, T: PartialEq>(base: &'a T, ours: &'a T, theirs: &'a T) -> Option<&'a T> {
    if ours == theirs || theirs == base {
        Some(ours)
    } else if ours == base {
        Some(theirs)
    } else {
        None
    }
}

fn lists(
    field: &'static Field,
    item: &'static Message,
    [base, ours, theirs]: [&Arc<List>; 3],
    at: &Location,
    conflicts: &mut Vec<Conflict>,
) -> List {
    let mut merged = List::default();
    let keys: BTreeSet<&ItemKey> = [ours, theirs]
        .iter()
        .flat_map(|side| side.items.keys())
        .collect();
    for key in keys {
        let sides = [base, ours, theirs].map(|side| side.items.get(key));
        let kept = match (decided(&sides[0], &sides[1], &sides[2]), sides) {
            (Some(decided), _) => decided.cloned(),
            (None, [base, Some(ours), Some(theirs)]) => {
                let empty = Arc::default();
                let at = at.item(key);
                let base = base.unwrap_or(&empty);
                Some(branches(item, base, ours, theirs, &at, conflicts))
            }
            // Taken away on one side and changed on the other.
            (None, [base, ours, theirs]) => {
                let text = |side: Option<&Arc<Branch>>| {
                    let lines = set_lines_of_item(item, side?, "");
                    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
                    let text = lines.join(", ");
                    Some(if text.is_empty() {
                        "there".to_owned()
                    } else {
                        text
                    })
                };
                conflicts.push(Conflict {
                    location: at.item(key),
                    base: text(base),
                    ours: text(ours),
                    theirs: text(theirs),
                });
                None
            }
        };
        if let Some(branch) = kept {
            merged.items.insert(key.clone(), branch);
        }
    }
    if field.ordered() {
        match decided(&base.order, &ours.order, &theirs.order) {
            Some(order) => merged.order.clone_from(order),
            None => {
                let text = |side: &Arc<List>| {
                    let keys: Vec<String> = side
                        .order
                        .iter()
                        .map(|key| {
                            let mut words = Vec::new();
                            super::location::key_words(item, key, |word| words.push(quoted(word)));
                            words.join(" ")
                        })
                        .collect();
                    (!keys.is_empty()).then(|| keys.join(", "))
                };
                conflicts.push(Conflict {
                    location: at.clone(),
                    base: text(base),
                    ours: text(ours),
                    theirs: text(theirs),
                });
            }
        }
    }
    merged
}
