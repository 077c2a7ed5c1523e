//! A configuration as a tree: what the command line, JSON and every other way in and out works on.
//!
//! ```text
//!  set lines --+                                                  +--> set lines, JSON, text
//!  JSON -------+--> Tree --set, delete, rename, copy, merge--> Tree --> canonical bytes, hash
//!  bytes ------+      |                                           +--> differences
//!                     +--validate--> errors      --to_config--> Config --> plan()
//! ```
//!
//! In a tree each leaf is right on its own, items are told apart by their keys, and everything has one
//! spelling. What must be there and what refers to what is a matter of [`Tree::validate`], so that a tree can
//! be written piece by piece. A copy of a tree shares everything with it until one of the two is changed.
//!
//! The words of places are described at [`location`]. What a secret is can be replaced by its digest: such a
//! tree can be shown, stored and compared by anybody, and take its secrets back.
//!
//! ```
//! use culvert_model::tree::{Location, Setting, Show, Tree, words};
//!
//! let mut tree = Tree::empty();
//! for line in ["interfaces lan0 addresses 10.1.0.1/24", "routes 10.2.0.0/16 next-hops 10.1.0.2"] {
//!     tree.set(&Setting::parse(&words::split(line)?, &Location::root())?)?;
//! }
//! assert!(tree.validate().is_ok());
//! assert_eq!(
//!     tree.to_set_lines(&Location::root(), &Show::PLAIN).as_str(),
//!     "set interfaces lan0 addresses 10.1.0.1/24\nset routes 10.2.0.0/16 next_hops 10.1.0.2\n"
//! );
//! let line = words::split("interfaces lan0 mut 1400")?;
//! let error = Setting::parse(&line, &Location::root()).unwrap_err();
//! assert_eq!(error.word, 2);
//! assert!(error.to_string().starts_with(r#""mut" is not known here; is "mtu" meant?"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod after;
mod complete;
mod diff;
mod edit;
mod error;
mod leaf;
mod load;
mod locate;
pub mod location;
mod merge;
mod node;
mod notes;
mod part;
mod patch;
mod rename;
mod secrets;
mod shape;
mod show;
mod stored;
mod validate;
mod wire;
pub mod words;

use std::fmt;
use std::sync::Arc;

use prost::Message as _;
use prost_reflect::DynamicMessage;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use complete::{Candidate, CandidateKind, Purpose, complete};
pub use diff::{Change, Verb, diff};
pub use edit::Position;
pub use error::{TreeError, WordError, WordReason};
pub use leaf::Leaf;
pub use load::{Edit, FaultReason, LineFault, VERBS};
pub use location::{Location, Place, Setting};
pub use merge::{Conflict, MergeError, merge};
pub use patch::Patch;
pub use secrets::Secret;
pub use show::Show;
pub use wire::Secrets;

use crate::config::Config;
use crate::decode::{self, DecodeErrors, MAX_BYTES, MAX_VALUES, Reason};
use crate::plan::DigestKey;
use node::{Branch, List, Node, Weight};
use shape::{Field, FieldKind, Message};
use wire::Sink;

/// A configuration.
#[derive(Clone)]
pub struct Tree {
    root: Arc<Branch>,
    /// Kept below the bounds of a document, so that what can be written can be read again.
    weight: Weight,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Arc::default(),
            weight: Weight::ROOT,
        }
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || self.root == other.root
    }
}

impl Eq for Tree {}

impl fmt::Debug for Tree {
    /// The whole of it; of secrets their lengths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

/// What a place holds.
enum Found<'a> {
    Branch(&'a Branch),
    List(&'a List),
    Leaf(&'a Leaf),
}

impl Tree {
    /// The configuration that says nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// From JSON, by the strict decoder. What is missing, and references, are left to [`Tree::validate`].
    pub fn from_json(text: &[u8]) -> Result<Self, TreeError> {
        let message = decode::config_descriptor()
            .and_then(|descriptor| decode::json_in_part(&descriptor, text))
            .map_err(TreeError::Decode)?;
        Self::from_message(message)
    }

    /// From the protobuf encoding of a configuration, in any order of its lists.
    pub fn from_binary(bytes: &[u8]) -> Result<Self, TreeError> {
        let message = decode::config_descriptor()
            .and_then(|descriptor| decode::binary_in_part(&descriptor, bytes))
            .map_err(TreeError::Decode)?;
        Self::from_message(message)
    }

    /// From what [`Tree::canonical_bytes`] gave, and nothing else.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, TreeError> {
        let same = |tree: &Self| tree.canonical_bytes().as_slice() == bytes;
        let read = (bytes.len() <= MAX_BYTES)
            .then(|| stored::decode(shape::root(), bytes))
            .flatten();
        match read.map(|(root, _)| Self::bounded(root)) {
            Some(Ok(tree)) if same(&tree) => Ok(tree),
            // The strict decoder says what is wrong, if it is not the spelling only.
            _ => Self::from_binary(bytes).and(Err(TreeError::NotCanonical)),
        }
    }

    /// From a configuration that was read before.
    pub fn from_config(config: &Config) -> Result<Self, TreeError> {
        let bytes = Zeroizing::new(config.encode_to_vec());
        Self::from_binary(&bytes)
    }

    /// The configuration as [`plan`](crate::plan::plan) takes it: what is [effective](Tree::effective) of it.
    /// Every secret must be there, and every note about something.
    pub fn to_config(&self) -> Result<Config, TreeError> {
        // What somebody took for inactive would take effect.
        let idle = self.idle_notes();
        if !idle.is_empty() {
            return Err(TreeError::Decode(DecodeErrors(idle)));
        }
        if let Some(location) = self.first_digest() {
            return Err(TreeError::UnknownDigest {
                path: location.to_string(),
            });
        }
        Config::decode(self.effective().canonical_bytes().as_slice())
            .map_err(|error| wire_error(&error.to_string()))
    }

    /// The one binary form of this configuration. Secrets are in it; of those that only a digest stands for,
    /// the digest.
    pub fn canonical_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.encoded(Secrets::Plain)
    }

    fn encoded(&self, secrets: Secrets<'_>) -> Zeroizing<Vec<u8>> {
        let mut out = Sink::with_capacity(self.weight.bytes);
        wire::encode(&mut out, shape::root(), &self.root, None, secrets);
        out.into_bytes()
    }

    /// Each field of the whole on its own. Their canonical forms one after the other are that of the whole.
    pub fn fields(&self) -> Vec<Self> {
        let fields = self.root.entries(shape::root());
        fields
            .map(|(field, node)| {
                let mut root = Branch::default();
                root.put(field.number, node.clone());
                Self {
                    root: Arc::new(root),
                    // At most.
                    weight: self.weight,
                }
            })
            .collect()
    }

    /// SHA-256 over the canonical form with digests in the place of secrets: the same with secrets and
    /// without, and it tells nothing of them.
    pub fn hash(&self, digests: &DigestKey) -> [u8; 32] {
        Sha256::digest(self.encoded(Secrets::Digests(digests)).as_slice()).into()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Whether something is there. The root always is.
    pub fn contains(&self, location: &Location) -> bool {
        location.is_root() || self.find(location).is_some()
    }

    /// The value of a leaf, if it is there, as it would be written; of a secret nothing.
    pub fn value(&self, location: &Location) -> Option<String> {
        let field = location.last_field()?;
        match self.find(location)? {
            Found::Leaf(leaf) if !leaf.is_secret() => Some(leaf.word(field).into_owned()),
            _ => None,
        }
    }

    /// The items of a list, in the order in which they are shown.
    pub fn items(&self, list: &Location) -> Vec<Location> {
        let (Some(items), Some(field)) = (self.list(list), list.last_field()) else {
            return Vec::new();
        };
        items.keys(field).map(|key| list.item(key)).collect()
    }

    pub(crate) fn from_message(mut message: DynamicMessage) -> Result<Self, TreeError> {
        let root = wire::from_message(shape::root(), &message);
        decode::wipe(&mut message);
        Self::bounded(root)
    }

    /// A tree of parts that are right, if it is not too large.
    fn bounded(root: Branch) -> Result<Self, TreeError> {
        within_counts(shape::root(), &root, &Location::root())?;
        let weight = Weight::ROOT + Weight::of_branch(shape::root(), &root);
        within_bounds(weight)?;
        Ok(Self {
            root: Arc::new(root),
            weight,
        })
    }

    fn find(&self, location: &Location) -> Option<Found<'_>> {
        let mut found = Found::Branch(&self.root);
        for step in &location.steps {
            found = match (found, step) {
                (Found::Branch(branch), location::Step::Field(field)) => {
                    match branch.get(field.number)? {
                        Node::Leaf(leaf) => Found::Leaf(leaf),
                        Node::Branch(inner) => Found::Branch(inner),
                        Node::List(list) => Found::List(list),
                    }
                }
                (Found::List(list), location::Step::Item(key)) => {
                    Found::Branch(list.items.get(key)?)
                }
                _ => return None,
            };
        }
        Some(found)
    }

    /// What is in a branch or an item.
    fn branch(&self, location: &Location) -> Option<&Branch> {
        match self.find(location)? {
            Found::Branch(branch) => Some(branch),
            _ => None,
        }
    }

    fn list(&self, location: &Location) -> Option<&List> {
        match self.find(location)? {
            Found::List(list) => Some(list),
            _ => None,
        }
    }
}

fn wire_error(message: &str) -> TreeError {
    TreeError::Decode(DecodeErrors(vec![decode::DecodeError {
        path: String::new(),
        reason: Reason::Wire {
            message: message.to_owned(),
        },
    }]))
}

/// Whether a document of that weight is taken.
fn within_bounds(weight: Weight) -> Result<(), TreeError> {
    if weight.bytes > MAX_BYTES {
        Err(TreeError::TooLarge(Reason::TooLarge {
            bytes: weight.bytes,
            limit: MAX_BYTES,
        }))
    } else if weight.values >= MAX_VALUES {
        Err(TreeError::TooLarge(Reason::TooManyValues {
            limit: MAX_VALUES,
        }))
    } else {
        Ok(())
    }
}

/// Whether a list may have so many items.
fn within_count(field: &Field, count: usize, at: &Location) -> Result<(), TreeError> {
    let max = field.rules.max_items();
    if count > max {
        return Err(TreeError::TooMany {
            path: at.to_string(),
            count,
            max,
        });
    }
    Ok(())
}

/// Whether no list in a branch is too long.
fn within_counts(
    message: &'static Message,
    branch: &Branch,
    at: &Location,
) -> Result<(), TreeError> {
    for field in &message.fields {
        match (branch.get(field.number), &field.kind) {
            (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                within_counts(message, inner, &at.field(field))?;
            }
            (Some(Node::List(list)), FieldKind::List(item)) => {
                let at = at.field(field);
                within_count(field, list.items.len(), &at)?;
                if item.fields.iter().any(|field| !field.is_leaf()) {
                    for (key, inner) in &list.items {
                        within_counts(item, inner, &at.item(key))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
