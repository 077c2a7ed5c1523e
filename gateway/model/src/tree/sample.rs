//! Random trees, made by walking the schema: each leaf right, each key there, references as they fall.
//!
//! What is chosen comes from a tape of random numbers, so that proptest makes what fails shorter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use proptest::prelude::*;

use super::Tree;
use super::leaf::Leaf;
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{self, Field, FieldKind, Message};

/// Texts of every kind; a field takes those that are right for it.
const TEXTS: &[&str] = &[
    "default",
    "blue",
    "red",
    "lan0",
    "wan0",
    "ipsec0",
    "hq",
    "a",
    "gateway",
    "interface",
    "vrf",
    "a.b-c_d",
    "gw-a.example.com",
    "UTC",
    "Europe/Zurich",
    "192.0.2.1",
    "10.0.0.1",
    "2001:db8::1",
    "fe80::1",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.2.0.0/16",
    "2001:db8::/32",
    "::/0",
    "10.0.0.1/24",
    "2001:DB8:0::1/64",
    "%any",
    "dynamic",
    "10.1.0.0/24[tcp/443]",
    "2001:DB8:0::5-2001:db8::9",
    "aes128gcm16",
    "aes256-sha256-ecp256",
    "aes128gcm16-prfsha256-ecp256",
    "C=CH, CN=gateway",
    "with \"quotes\" and \\ and\ttab",
    "two\nlines",
    "ü # | ; {}",
    "",
    "0",
    "mtu",
    "1400",
    "0042",
    "copy",
    "ef",
    "0x6b6579",
    "0sAAEC",
    "control \u{1} \u{7f}",
    "$digest",
    "02:00:00:00:00:0A",
    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "/etc/key.pem",
    "Log.example.com",
    "branch.example.com",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a@b",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJm",
];

/// The values that are tried for a field.
fn values(field: &'static Field) -> Arc<Vec<Leaf>> {
    static KNOWN: OnceLock<Mutex<HashMap<usize, Arc<Vec<Leaf>>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let mut known = known.lock().unwrap();
    let place = std::ptr::from_ref(field) as usize;
    known
        .entry(place)
        .or_insert_with(|| {
            let rules = &field.rules.field;
            let mut words: Vec<String> = match &field.kind {
                FieldKind::Bool => vec!["true".into(), "false".into()],
                FieldKind::Keyword(known) => known.iter().map(|item| item.word.clone()).collect(),
                FieldKind::Number(most) => {
                    let (min, max) = (rules.min.unwrap_or(0), rules.max.unwrap_or(*most));
                    [min, min + (max - min) / 2, max]
                        .map(|number| number.to_string())
                        .to_vec()
                }
                _ => TEXTS.iter().map(|text| (*text).to_owned()).collect(),
            };
            words.extend(rules.default_value.clone());
            let leaves: Vec<Leaf> = words
                .iter()
                .filter_map(|word| Leaf::from_word(field, word).ok())
                .collect();
            assert!(
                leaves.len() > 1,
                "few values for {}: add to TEXTS",
                field.full_name
            );
            Arc::new(leaves)
        })
        .clone()
}

/// Random numbers, then zeros.
struct Tape<'a>(std::slice::Iter<'a, u16>);

impl Tape<'_> {
    fn next(&mut self, below: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % below.max(1)
    }

    fn leaf(&mut self, field: &'static Field) -> Leaf {
        let values = values(field);
        values[self.next(values.len())].clone()
    }

    fn branch(&mut self, message: &'static Message) -> Branch {
        let mut branch = Branch::default();
        for field in &message.fields {
            if field.key.is_some() || self.next(3) == 0 {
                continue;
            }
            let node = match &field.kind {
                FieldKind::Branch(inner) => Node::Branch(Arc::new(self.branch(inner))),
                FieldKind::List(item) => Node::List(Arc::new(self.list(field, item))),
                _ => Node::Leaf(self.leaf(field)),
            };
            if !node.is_empty() {
                branch.put(field.number, node);
            }
        }
        branch
    }

    fn list(&mut self, field: &'static Field, item: &'static Message) -> List {
        let mut list = List::default();
        for _ in 0..self.next(4).min(field.rules.max_items()) {
            let mut values: Vec<Option<Leaf>> = item
                .keys()
                .map(|key| {
                    let leaf = self.leaf(key);
                    let wanted = key.rules.field.required || self.next(2) == 1;
                    (wanted && Some(leaf.word(key).as_ref()) != key.default()).then_some(leaf)
                })
                .collect();
            if values.iter().all(Option::is_none) {
                values[0] = Some(self.leaf(item.keys().next().unwrap()));
            }
            let branch = Arc::new(self.branch(item));
            list.put(field, ItemKey(values.into()), branch);
        }
        list
    }
}

/// Any tree of the schema.
pub(super) fn trees() -> impl Strategy<Value = Tree> {
    proptest::collection::vec(any::<u16>(), 0..600).prop_map(|tape| from_tape(&tape))
}

/// A tree and two that were made from it by changes.
pub(super) fn forks() -> impl Strategy<Value = (Tree, Tree, Tree)> {
    let side = || proptest::collection::vec(any::<u16>(), 0..60);
    (trees(), side(), side()).prop_map(|(base, ours, theirs)| {
        let ours = changed(&base, &ours);
        let theirs = changed(&base, &theirs);
        (base, ours, theirs)
    })
}

fn from_tape(tape: &[u16]) -> Tree {
    let root = Tape(tape.iter()).branch(shape::root());
    Tree::bounded(root).unwrap()
}

/// Deletes some of what is there, and lays something else over it.
fn changed(base: &Tree, tape: &[u16]) -> Tree {
    let mut tree = base.clone();
    let (deletions, additions) = tape.split_at(tape.len().min(6));
    let mut tape = Tape(deletions.iter());
    for _ in 0..tape.next(4) {
        let places = tree.places();
        if places.is_empty() {
            break;
        }
        tree.delete(&places[tape.next(places.len())]).unwrap();
    }
    // Refused where a list would be too long; the tree is as it was then.
    let _ = tree.overlay(&from_tape(additions));
    tree
}

impl Tree {
    /// Every place of a leaf or item.
    pub(super) fn places(&self) -> Vec<super::Location> {
        fn walk(
            message: &'static Message,
            branch: &Branch,
            at: &super::Location,
            places: &mut Vec<super::Location>,
        ) {
            for field in &message.fields {
                let place = at.field(field);
                match (branch.get(field.number), &field.kind) {
                    (Some(Node::Leaf(_)), _) => places.push(place),
                    (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                        walk(message, inner, &place, places);
                    }
                    (Some(Node::List(list)), FieldKind::List(item)) => {
                        for (key, inner) in &list.items {
                            places.push(place.item(key));
                            walk(item, inner, &place.item(key), places);
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut places = Vec::new();
        walk(
            shape::root(),
            &self.root,
            &super::Location::root(),
            &mut places,
        );
        places
    }
}
