//! What is noted about places: comments, and that something takes no effect for now.
//!
//! Notes are configuration like any other (`notes`, by the words of their places): stored, compared and merged
//! with it. What is noted as inactive stays in the tree and is not in [`Tree::effective`]; neither are notes.
//! They follow what is renamed, and go with what is deleted. A note about nothing is a fault, because somebody
//! may rely on it: [`Tree::validate`] tells it.

use super::leaf::{Leaf, Scalar};
use super::location::{Location, Place, Setting};
use super::node::{Branch, ItemKey, Node};
use super::rename::rekey;
use super::shape::{self, Field};
use super::words::split;
use super::{Tree, TreeError};

/// The fields of the schema that hold notes.
#[derive(Clone, Copy)]
struct Schema {
    list: &'static Field,
    place: &'static Field,
    comment: &'static Field,
    inactive: &'static Field,
}

fn schema() -> Option<Schema> {
    let list = shape::root().field("notes")?;
    let item = list.inner()?;
    Some(Schema {
        list,
        place: item.field("place")?,
        comment: item.field("comment")?,
        inactive: item.field("inactive")?,
    })
}

/// One note of a tree.
pub(super) struct Note<'a> {
    /// Where it is kept.
    pub(super) own: Location,
    /// As written.
    pub(super) place: &'a str,
    branch: &'a Branch,
}

impl Note<'_> {
    /// The place that it is about; `None`: its words lead nowhere, or to it in another spelling.
    pub(super) fn about(&self) -> Option<Location> {
        let location = Location::parse(&split(self.place).ok()?, &Location::root()).ok()?;
        (location.to_string() == self.place).then_some(location)
    }

    pub(super) fn inactive(&self) -> bool {
        schema().is_some_and(|schema| {
            self.branch.get(schema.inactive.number) == Some(&Node::Leaf(Leaf(Scalar::Bool(true))))
        })
    }
}

impl Note<'_> {
    pub(super) fn comment(&self) -> Option<String> {
        let field = schema()?.comment;
        match self.branch.get(field.number)? {
            Node::Leaf(leaf) => Some(leaf.word(field).into_owned()),
            _ => None,
        }
    }
}

impl Tree {
    pub(super) fn notes(&self) -> Vec<Note<'_>> {
        let Some(schema) = schema() else {
            return Vec::new();
        };
        let at = Location::root().field(schema.list);
        let Some(list) = self.list(&at) else {
            return Vec::new();
        };
        let notes = list.items.iter().filter_map(|(key, branch)| {
            let Some(Leaf(Scalar::Text(place))) = key.single() else {
                return None;
            };
            Some(Note {
                own: at.item(key),
                place,
                branch,
            })
        });
        notes.collect()
    }

    /// The configuration that takes effect: without what is inactive, and without notes.
    #[must_use]
    pub fn effective(&self) -> Self {
        let mut tree = self.clone();
        for note in self.notes().iter().filter(|note| note.inactive()) {
            if let Some(place) = note.about().filter(|place| tree.contains(place)) {
                // It is there.
                let _ = tree.remove(&place);
            }
        }
        if let Some(schema) = schema() {
            let notes = Location::root().field(schema.list);
            if tree.contains(&notes) {
                let _ = tree.remove(&notes);
            }
        }
        tree
    }

    /// Sees to it that what is at a place takes no effect.
    pub fn deactivate(&mut self, at: &Location) -> Result<(), TreeError> {
        self.note(at, |schema| Ok((schema.inactive, Leaf(Scalar::Bool(true)))))
    }

    /// Sees to it that what is at a place takes effect, unless something around it is inactive.
    pub fn activate(&mut self, at: &Location) -> Result<(), TreeError> {
        self.unnote(at, |schema| schema.inactive)
    }

    /// Notes a comment about a place; an empty one takes it away.
    pub fn annotate(&mut self, at: &Location, comment: &str) -> Result<(), TreeError> {
        if comment.is_empty() {
            return self.unnote(at, |schema| schema.comment);
        }
        self.note(at, |schema| {
            let leaf = Leaf::from_word(schema.comment, comment);
            Ok((schema.comment, leaf.map_err(|reason| wrong(at, reason))?))
        })
    }

    /// The comment about a place.
    pub fn comment(&self, at: &Location) -> Option<String> {
        let (schema, own) = note_of(at).ok()?;
        self.value(&own.field(schema.comment))
    }

    /// Whether what is at a place takes no effect, because it or something around it is inactive.
    pub fn is_inactive(&self, at: &Location) -> bool {
        self.notes()
            .iter()
            .filter(|note| note.inactive())
            .filter_map(Note::about)
            .any(|place| place.contains(at))
    }

    fn note(
        &mut self,
        at: &Location,
        what: impl FnOnce(Schema) -> Result<(&'static Field, Leaf), TreeError>,
    ) -> Result<(), TreeError> {
        let (schema, own) = note_of(at)?;
        let about_note = Location::root().field(schema.list).contains(at);
        if at.place() == Place::Root || about_note {
            return Err(TreeError::Misplaced {
                path: at.to_string(),
                expected: "notes are about what is in the configuration",
            });
        }
        if !self.contains(at) {
            return Err(super::edit::not_there(at));
        }
        let (field, value) = what(schema)?;
        self.set(&Setting {
            location: own.field(field),
            value: Some(value),
        })
    }

    fn unnote(
        &mut self,
        at: &Location,
        which: impl FnOnce(Schema) -> &'static Field,
    ) -> Result<(), TreeError> {
        let (schema, own) = note_of(at)?;
        let field = own.field(which(schema));
        if !self.contains(&field) {
            return Err(TreeError::NotThere {
                path: field.to_string(),
            });
        }
        self.remove(&field)?;
        if self.branch(&own).is_some_and(Branch::is_empty) {
            self.remove(&own)?;
        }
        Ok(())
    }

    /// Takes away the notes about a place and what was in it.
    pub(super) fn forget_notes(&mut self, at: &Location) -> Result<(), TreeError> {
        for own in self.notes_within(at) {
            self.remove(&own)?;
        }
        Ok(())
    }

    /// Where the notes about a place and what is in it are kept.
    fn notes_within(&self, at: &Location) -> Vec<Location> {
        let notes = self.notes();
        let within = notes
            .iter()
            .filter(|note| note.about().is_some_and(|about| at.contains(&about)));
        within.map(|note| note.own.clone()).collect()
    }

    /// Lets notes follow what moved, one move after the other.
    pub(super) fn move_notes(&mut self, moves: &[(Location, Location)]) -> Result<(), TreeError> {
        self.rewrite_notes(moves, false)
    }

    /// Notes about a copy what is noted about the original.
    pub(super) fn copy_notes(&mut self, from: &Location, to: &Location) -> Result<(), TreeError> {
        self.rewrite_notes(&[(from.clone(), to.clone())], true)
    }

    fn rewrite_notes(
        &mut self,
        moves: &[(Location, Location)],
        keep: bool,
    ) -> Result<(), TreeError> {
        let Some(schema) = schema() else {
            return Ok(());
        };
        let mut rewritten: Vec<(ItemKey, ItemKey)> = Vec::new();
        for note in self.notes() {
            let Some(before) = note.about() else { continue };
            let mut about = before.clone();
            for (from, to) in moves {
                if from.contains(&about) {
                    let below = about.steps.split_off(from.steps.len());
                    about.steps.clone_from(&to.steps);
                    about.steps.extend(below);
                }
            }
            if about != before {
                rewritten.push((key_of(schema, &before)?, key_of(schema, &about)?));
            }
        }
        if rewritten.is_empty() {
            return Ok(());
        }
        let mut root = self.root.as_ref().clone();
        let at = Location::root().field(schema.list);
        if let Some(list) = super::edit::list_mut(&mut root, &at.steps) {
            for (before, after) in rewritten {
                if !keep {
                    rekey(list, &before, after);
                } else if let Some(note) = list.items.get(&before).cloned() {
                    list.put(schema.list, after, note);
                }
            }
        }
        *self = Self::bounded(root)?;
        Ok(())
    }
}

/// Where the note about a place is kept.
fn note_of(at: &Location) -> Result<(Schema, Location), TreeError> {
    let schema = schema().ok_or_else(|| super::edit::not_there(at))?;
    let key = key_of(schema, at)?;
    Ok((schema, Location::root().field(schema.list).item(&key)))
}

fn key_of(schema: Schema, at: &Location) -> Result<ItemKey, TreeError> {
    let place = Leaf::from_word(schema.place, &at.to_string());
    let place = place.map_err(|reason| wrong(at, reason))?;
    Ok(ItemKey([Some(place)].into()))
}

fn wrong(at: &Location, reason: crate::decode::Reason) -> TreeError {
    TreeError::Value {
        path: at.to_string(),
        reason,
    }
}
