//! A part of a configuration as JSON: what is sent to one place of it.

use std::sync::Arc;

use prost_reflect::MessageDescriptor;

use super::location::{Location, Place, Step};
use super::node::{Branch, Node};
use super::shape::FieldKind;
use super::show::json_of_keys;
use super::wire::{self, Sink};
use super::{Tree, TreeError};
use crate::decode::{self, DecodeErrors, path};
use crate::schema;

impl Tree {
    /// A tree that holds at `at` what JSON says, and nothing beside it: an object for a group or an item, its
    /// keys in it; a list for a list; a value for a leaf.
    pub fn from_json_at(at: &Location, text: &[u8]) -> Result<Self, TreeError> {
        // A list or a leaf is read as the only field of what it is in.
        let around = match at.place() {
            Place::Root => return Self::from_json(text),
            Place::Branch | Place::Item => at.clone(),
            Place::List | Place::Leaf => at.parent(),
        };
        let (Some(shape), Some(descriptor)) = (around.message(), descriptor(&around)) else {
            return Err(nothing_there(at));
        };
        let key = match around.steps.last() {
            Some(Step::Item(key)) => Some(key),
            _ => None,
        };
        let mut wrapped = Sink::default();
        if let (true, Some(field)) = (around != *at, at.last_field()) {
            wrapped.push(b"{");
            if let Some(key) = key {
                wrapped.push(json_of_keys(shape, key).as_bytes());
            }
            wrapped.push(format!("\"{}\":", field.name).as_bytes());
            wrapped.push(text);
            wrapped.push(b"}");
        } else {
            wrapped.push(text);
        }
        let mut message = decode::json_in_part(&descriptor, &wrapped.into_bytes())
            .map_err(|errors| TreeError::Decode(below(&around, errors)))?;
        let inside = wire::from_message(shape, &message);
        let own_key = wire::from_keys(shape, &message);
        decode::wipe(&mut message);
        if key.is_some_and(|key| *key != own_key) {
            return Err(TreeError::Misplaced {
                path: at.to_string(),
                expected: "the keys in an object must be those of its place",
            });
        }
        let only = at.last_field().filter(|_| around != *at);
        if only.is_some_and(|only| {
            inside
                .entries(shape)
                .any(|(field, _)| field.number != only.number)
        }) {
            return Err(TreeError::Misplaced {
                path: at.to_string(),
                expected: "only the value belongs here",
            });
        }
        if inside.is_empty() && key.is_none() {
            return Ok(Self::empty());
        }
        let mut root = Branch::default();
        graft(&mut root, &around.steps, inside);
        Self::bounded(root)
    }

    /// Puts what another tree holds at a place, or nothing if it holds nothing, in the place of what is there.
    pub fn replace(&mut self, at: &Location, other: &Self) -> Result<(), TreeError> {
        let mut tree = self.clone();
        // Notes stay: what is inactive does not begin to take effect by being written once more.
        if at.is_root() {
            tree = Self::empty();
        } else if tree.contains(at) {
            tree.remove(at)?;
        }
        tree.overlay(other)?;
        *self = tree;
        Ok(())
    }
}

fn nothing_there(at: &Location) -> TreeError {
    TreeError::NotThere {
        path: at.to_string(),
    }
}

/// What the schema calls what is in a group or an item.
fn descriptor(at: &Location) -> Option<MessageDescriptor> {
    schema::message(&at.message()?.full_name)
}

/// Errors of a part with their paths in the whole.
fn below(at: &Location, errors: DecodeErrors) -> DecodeErrors {
    let parent = at.path();
    let mut errors = errors.0;
    for error in &mut errors {
        error.path = match (parent.is_empty(), error.path.is_empty()) {
            (true, _) => std::mem::take(&mut error.path),
            (false, true) => parent.clone(),
            (false, false) => path::join(&parent, &error.path),
        };
    }
    DecodeErrors(errors)
}

/// Puts a branch at the end of the steps; what leads there comes to be.
fn graft(branch: &mut Branch, steps: &[Step], inside: Branch) {
    let Some((Step::Field(field), rest)) = steps.split_first() else {
        *branch = inside;
        return;
    };
    let mut child = Branch::default();
    match (&field.kind, rest.split_first()) {
        (FieldKind::List(_), Some((Step::Item(key), rest))) => {
            graft(&mut child, rest, inside);
            let mut list = super::List::default();
            list.put(field, key.clone(), Arc::new(child));
            branch.put(field.number, Node::List(Arc::new(list)));
        }
        (FieldKind::Branch(_), _) => {
            graft(&mut child, rest, inside);
            branch.put(field.number, Node::Branch(Arc::new(child)));
        }
        _ => {}
    }
}
