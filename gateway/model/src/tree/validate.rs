//! What a tree lacks as a whole: fields that must be there, and what references lead to. That each leaf is
//! right was seen to when it came in.

use std::collections::{HashMap, HashSet};

use super::Tree;
use super::complete::find_list;
use super::leaf::{Leaf, Scalar};
use super::location::{Location, Step};
use super::node::{Branch, Node};
use super::shape::{self, Field, FieldKind, Message};
use crate::decode::error::nearest;
use crate::decode::leaf::shortened;
use crate::decode::{DecodeError, DecodeErrors, MAX_ERRORS, Reason};

impl Tree {
    /// All that is wrong by the schema: what is missing, and references to nothing. What does not fit together
    /// across fields is found by [`plan`](crate::plan::plan).
    ///
    /// What is inactive is not looked at; notes must be about something.
    pub fn validate(&self) -> Result<(), DecodeErrors> {
        let effective = self.effective();
        let mut walk = Walk {
            tree: &effective,
            at: Vec::new(),
            missing: Vec::new(),
            dangling: Vec::new(),
            keys: HashMap::new(),
        };
        walk.branch(shape::root(), &effective.root);
        let mut errors = walk.missing;
        errors.append(&mut walk.dangling);
        errors.append(&mut self.idle_notes());
        errors.truncate(MAX_ERRORS);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(DecodeErrors(errors))
        }
    }
}

impl Tree {
    /// Notes about nothing.
    pub(super) fn idle_notes(&self) -> Vec<DecodeError> {
        let notes = self.notes();
        let idle = notes.iter().filter(|note| {
            !note
                .about()
                .is_some_and(|place| !place.is_root() && self.contains(&place))
        });
        idle.take(MAX_ERRORS)
            .map(|note| DecodeError {
                path: format!("{}.place", note.own.path()),
                reason: Reason::Dangling {
                    given: shortened(note.place),
                    lists: vec!["the configuration".to_owned()],
                    nearest: None,
                },
            })
            .collect()
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    at: Vec<Step>,
    missing: Vec<DecodeError>,
    dangling: Vec<DecodeError>,
    /// The keys of each list that is referred to, by its full name.
    keys: HashMap<&'static str, HashSet<&'a str>>,
}

impl<'a> Walk<'a> {
    fn branch(&mut self, message: &'static Message, branch: &'a Branch) {
        for field in &message.fields {
            // An item has its keys, or it would not be there.
            if field.key.is_some() {
                continue;
            }
            self.at.push(Step::Field(field));
            match (branch.get(field.number), &field.kind) {
                (None, _) if field.rules.field.required => self.missing(),
                (Some(Node::Leaf(leaf)), _) => self.reference(field, leaf),
                (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                    self.branch(message, inner);
                }
                (Some(Node::List(list)), FieldKind::List(item)) => {
                    for (key, inner) in list.entries(field) {
                        self.at.push(Step::Item(key.clone()));
                        for field in item.keys() {
                            if let Some(leaf) = key.get(field) {
                                self.at.push(Step::Field(field));
                                self.reference(field, leaf);
                                self.at.pop();
                            }
                        }
                        self.branch(item, inner);
                        self.at.pop();
                    }
                }
                _ => {}
            }
            self.at.pop();
        }
    }

    fn missing(&mut self) {
        if self.missing.len() < MAX_ERRORS {
            let error = self.error(Reason::Missing);
            self.missing.push(error);
        }
    }

    fn reference(&mut self, field: &'static Field, leaf: &Leaf) {
        let (Scalar::Text(text), false) = (&leaf.0, field.rules.references.is_empty()) else {
            return;
        };
        let lists = &field.rules.references;
        for list in lists {
            if self.keys_of(list).contains(text.as_ref()) {
                return;
            }
        }
        // To look for the nearest of many names takes a while: not for more than are told.
        if self.dangling.len() >= MAX_ERRORS {
            return;
        }
        let known = lists.iter().filter_map(|list| {
            let mut keys: Vec<&str> = self.keys.get(list.as_str())?.iter().copied().collect();
            keys.sort_unstable();
            Some(keys)
        });
        let known = known.flatten();
        let reason = Reason::Dangling {
            given: shortened(text),
            lists: lists
                .iter()
                .map(|list| list.rsplit('.').next().unwrap_or(list).to_owned())
                .collect(),
            nearest: nearest(text, known),
        };
        let error = self.error(reason);
        self.dangling.push(error);
    }

    /// The keys of a list that is not in an item, those that need not be written among them.
    fn keys_of(&mut self, full_name: &'static str) -> &HashSet<&'a str> {
        let tree = self.tree;
        self.keys.entry(full_name).or_insert_with(|| {
            let Some((at, field)) = find_list(shape::root(), &Location::root(), full_name) else {
                return HashSet::new();
            };
            let built_in = field.rules.built_in.iter().map(String::as_str);
            let items = tree
                .list(&at)
                .into_iter()
                .flat_map(|list| list.items.keys());
            let written = items.filter_map(|key| match key.single() {
                Some(Leaf(Scalar::Text(text))) => Some(text.as_ref()),
                _ => None,
            });
            built_in.chain(written).collect()
        })
    }

    fn error(&self, reason: Reason) -> DecodeError {
        let location = Location {
            steps: self.at.clone(),
        };
        DecodeError {
            path: location.path(),
            reason,
        }
    }
}
