//! Secrets apart from the rest: taken out and put back, with digests in their place.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::leaf::{Leaf, Scalar, SecretText};
use super::location::Location;
use super::node::{Branch, Node};
use super::shape::{self, Field, FieldKind, Message};
use super::{Tree, TreeError};
use crate::plan::DigestKey;

/// A secret, and where it belongs: the words of its place.
pub type Secret = (String, Zeroizing<Vec<u8>>);

impl Tree {
    /// The tree with a digest for each secret, and the secrets.
    pub fn take_secrets(&self, digests: &DigestKey) -> (Self, Vec<Secret>) {
        let mut taken = Vec::new();
        let tree = self.with_secrets(&mut |location, field, leaf| match &leaf.0 {
            Scalar::Secret(secret) => {
                let bytes = Zeroizing::new(secret.as_str().as_bytes().to_vec());
                taken.push((location.to_string(), bytes));
                Some(digested(field, secret, digests))
            }
            _ => None,
        });
        (tree, taken)
    }

    /// The tree with a digest for each secret.
    #[must_use]
    pub fn without_secrets(&self, digests: &DigestKey) -> Self {
        self.with_secrets(&mut |_, field, leaf| match &leaf.0 {
            Scalar::Secret(secret) => Some(digested(field, secret, digests)),
            _ => None,
        })
    }

    /// Puts secrets that were taken in the place of their digests. All digests must have theirs, each secret
    /// its own digest, and none may be left over.
    pub fn put_secrets<'a>(
        &self,
        secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        digests: &DigestKey,
    ) -> Result<Self, TreeError> {
        let mut secrets: HashMap<&str, &[u8]> = secrets.into_iter().collect();
        let mut wrong = None;
        let tree = self.with_secrets(&mut |location, field, leaf| {
            let Scalar::Digest(digest) = &leaf.0 else {
                return None;
            };
            let path = location.to_string();
            let found = secrets
                .remove(path.as_str())
                .filter(|secret| digests.secret(&field.full_name, secret) == *digest)
                .and_then(|secret| std::str::from_utf8(secret).ok());
            match found {
                Some(secret) => Some(Leaf(Scalar::Secret(SecretText::shared(secret)))),
                None => {
                    wrong.get_or_insert(TreeError::UnknownDigest { path });
                    None
                }
            }
        });
        if let Some(path) = secrets.keys().min() {
            let path = (*path).to_owned();
            wrong.get_or_insert(TreeError::NotThere { path });
        }
        wrong.map_or(Ok(tree), Err)
    }

    /// Puts the secrets of the trees in `present` in the place of their digests: what was read can be written back.
    /// Where a secret is in them does not matter, but it must have been in a field of that kind.
    pub fn with_present_secrets(
        &self,
        present: &[&Self],
        digests: &DigestKey,
    ) -> Result<Self, TreeError> {
        if self.first_digest().is_none() {
            return Ok(self.clone());
        }
        let mut known = HashMap::new();
        for tree in present {
            tree.with_secrets(&mut |_, field, leaf| {
                if let Scalar::Secret(secret) = &leaf.0 {
                    let digest = digests.secret(&field.full_name, secret.as_str().as_bytes());
                    known.insert(digest, leaf.clone());
                }
                None
            });
        }
        let mut wrong = None;
        let tree = self.with_secrets(&mut |location, _, leaf| {
            let Scalar::Digest(digest) = &leaf.0 else {
                return None;
            };
            let found = known.get(digest).cloned();
            if found.is_none() {
                let path = location.to_string();
                wrong.get_or_insert(TreeError::UnknownDigest { path });
            }
            found
        });
        wrong.map_or(Ok(tree), Err)
    }

    /// Where a digest stands for a secret.
    pub fn first_digest(&self) -> Option<Location> {
        let mut first = None;
        self.with_secrets(&mut |location, _, leaf| {
            if let Scalar::Digest(_) = leaf.0 {
                first.get_or_insert_with(|| location.clone());
            }
            None
        });
        first
    }

    /// The tree with other leaves where its secrets are.
    fn with_secrets(&self, replace: &mut Replace<'_>) -> Self {
        let root = in_branch(shape::root(), &self.root, &Location::root(), replace);
        Self {
            root: root.map_or_else(|| self.root.clone(), Arc::new),
            // A secret weighs at least what its digest does: the bound holds either way.
            weight: self.weight,
        }
    }
}

fn digested(field: &Field, secret: &SecretText, digests: &DigestKey) -> Leaf {
    Leaf(Scalar::Digest(
        digests.secret(&field.full_name, secret.as_str().as_bytes()),
    ))
}

type Replace<'a> = dyn FnMut(&Location, &Field, &Leaf) -> Option<Leaf> + 'a;

/// A branch with other leaves; `None`: with none.
fn in_branch(
    message: &'static Message,
    branch: &Branch,
    at: &Location,
    replace: &mut Replace<'_>,
) -> Option<Branch> {
    if !message.secrets {
        return None;
    }
    let mut rewritten: Option<Branch> = None;
    for field in &message.fields {
        let Some(node) = branch.get(field.number) else {
            continue;
        };
        let new = match (node, &field.kind) {
            (Node::Leaf(leaf), _) if field.secret() => {
                replace(&at.field(field), field, leaf).map(Node::Leaf)
            }
            (Node::Branch(inner), FieldKind::Branch(message)) => {
                in_branch(message, inner, &at.field(field), replace)
                    .map(|inner| Node::Branch(Arc::new(inner)))
            }
            (Node::List(list), FieldKind::List(item)) if item.secrets => {
                let at = at.field(field);
                let mut rewritten = None;
                for (key, inner) in &list.items {
                    if let Some(inner) = in_branch(item, inner, &at.item(key), replace) {
                        rewritten
                            .get_or_insert_with(|| list.as_ref().clone())
                            .items
                            .insert(key.clone(), Arc::new(inner));
                    }
                }
                rewritten.map(|list| Node::List(Arc::new(list)))
            }
            _ => None,
        };
        if let Some(new) = new {
            rewritten
                .get_or_insert_with(|| branch.clone())
                .put(field.number, new);
        }
    }
    rewritten
}
