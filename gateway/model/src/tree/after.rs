//! A tree that differs in a few places from one that was found good: what is the same in both is not looked at again.
//!
//! ```text
//!   before (good) --shares all but a few places with--> after
//!      |                                                  |
//!   config                                      only these places are walked, and
//!      '------- taken over, where nothing differs --- only their fields read
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::complete::find_list;
use super::leaf::{Leaf, Scalar};
use super::location::Location;
use super::node::{Branch, ItemKey, List, Node};
use super::shape::{self, Field, FieldKind, Message};
use super::{Tree, TreeError};
use crate::config::Config;
use crate::decode::DecodeErrors;

impl Tree {
    /// What [`Tree::validate`] says, where `before` is known to be valid.
    pub fn validate_after(&self, before: &Self) -> Result<(), DecodeErrors> {
        if self.is_good_after(before) {
            return Ok(());
        }
        self.validate()
    }

    /// What [`Tree::to_config`] gives, where `before` was made into `config`.
    pub fn to_config_after(&self, before: &Self, config: &Config) -> Result<Config, TreeError> {
        if self.has_notes() || before.has_notes() {
            return self.to_config();
        }
        let mut changed = Vec::new();
        let mut root = Branch::default();
        for field in &shape::root().fields {
            let [own, old] = [self, before].map(|tree| tree.root.get(field.number));
            if !shared(own, old) {
                changed.push(field.number);
                if let Some(node) = own {
                    root.put(field.number, node.clone());
                }
            }
        }
        let part = Self {
            root: Arc::new(root),
            weight: self.weight,
        };
        Ok(filled(part.to_config()?, config, &changed))
    }

    /// Whether nothing is wrong with what differs, and nothing that did not change refers to what is gone. What cannot be
    /// told so is not good.
    fn is_good_after(&self, before: &Self) -> bool {
        let kept = |place: &Location| match (before.list(place), self.list(place)) {
            (Some(old), Some(new)) => has_all(new, old),
            (Some(_), None) => false,
            (None, _) => true,
        };
        !self.has_notes()
            && !before.has_notes()
            && referred_to().iter().all(kept)
            && self.good_branch(shape::root(), &self.root, Some(&before.root))
    }

    fn good_branch(&self, message: &Message, branch: &Branch, before: Option<&Branch>) -> bool {
        // An item has its keys, or it would not be there.
        let fields = message.fields.iter().filter(|field| field.key.is_none());
        fields.into_iter().all(|field| {
            let own = branch.get(field.number);
            let old = before.and_then(|before| before.get(field.number));
            match (own, &field.kind) {
                (None, _) => !field.rules.field.required,
                (Some(_), _) if shared(own, old) => true,
                (Some(Node::Leaf(leaf)), _) => self.good_leaf(field, leaf),
                (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                    let old = match old {
                        Some(Node::Branch(old)) => Some(old.as_ref()),
                        _ => None,
                    };
                    self.good_branch(message, inner, old)
                }
                (Some(Node::List(list)), FieldKind::List(item)) => {
                    let old = match old {
                        Some(Node::List(old)) => Some(old.as_ref()),
                        _ => None,
                    };
                    self.good_list(item, list, old)
                }
                _ => false,
            }
        })
    }

    fn good_list(&self, item: &Message, list: &List, before: Option<&List>) -> bool {
        let none = BTreeMap::new();
        let mut old = before
            .map_or(&none, |before| &before.items)
            .iter()
            .peekable();
        list.items.iter().all(|(key, inner)| {
            while old.next_if(|(old, _)| *old < key).is_some() {}
            match old.next_if(|(old, _)| *old == key) {
                Some((_, old)) => {
                    Arc::ptr_eq(inner, old) || self.good_branch(item, inner, Some(old))
                }
                None => self.good_key(item, key) && self.good_branch(item, inner, None),
            }
        })
    }

    fn good_key(&self, item: &Message, key: &ItemKey) -> bool {
        let mut given = item
            .keys()
            .filter_map(|field| Some((field, key.get(field)?)));
        given.all(|(field, leaf)| self.good_leaf(field, leaf))
    }

    /// Whether what it refers to is there.
    fn good_leaf(&self, field: &Field, leaf: &Leaf) -> bool {
        let lists = &field.rules.references;
        let (Scalar::Text(text), false) = (&leaf.0, lists.is_empty()) else {
            return true;
        };
        let key = ItemKey([Some(leaf.clone())].into());
        lists.iter().any(|name| {
            let found = find_list(shape::root(), &Location::root(), name);
            found.is_some_and(|(place, field)| {
                let mut built_in = field.rules.built_in.iter();
                built_in.any(|name| **name == **text)
                    || self
                        .list(&place)
                        .is_some_and(|list| list.items.contains_key(&key))
            })
        })
    }

    fn has_notes(&self) -> bool {
        let notes = shape::root().field("notes");
        notes.is_none_or(|notes| self.root.get(notes.number).is_some())
    }
}

/// Whether two nodes are one, or the same leaf.
fn shared(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(Node::Leaf(one)), Some(Node::Leaf(other))) => one == other,
        (Some(Node::Branch(one)), Some(Node::Branch(other))) => Arc::ptr_eq(one, other),
        (Some(Node::List(one)), Some(Node::List(other))) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Whether a list has every key of another.
fn has_all(list: &List, keys: &List) -> bool {
    if std::ptr::eq(list, keys) {
        return true;
    }
    let mut own = list.items.keys();
    keys.items.keys().all(|key| own.any(|own| own == key))
}

/// The places of lists that something refers to.
fn referred_to() -> &'static [Location] {
    static ALL: OnceLock<Vec<Location>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut names = Vec::new();
        references(shape::root(), &mut names);
        names.sort_unstable();
        names.dedup();
        let found = |name: &str| Some(find_list(shape::root(), &Location::root(), name)?.0);
        names.into_iter().filter_map(found).collect()
    })
}

fn references(message: &'static Message, names: &mut Vec<&'static str>) {
    for field in &message.fields {
        names.extend(field.rules.references.iter().map(String::as_str));
        if let FieldKind::Branch(inner) | FieldKind::List(inner) = &field.kind {
            references(inner, names);
        }
    }
}

/// The fields of these numbers from `part`, and all others from `whole`.
fn filled(part: Config, whole: &Config, changed: &[u32]) -> Config {
    macro_rules! fields {
        ($($number:literal => $field:ident,)*) => {
            Config {
                $($field: if changed.contains(&$number) {
                    part.$field
                } else {
                    whole.$field.clone()
                },)*
            }
        };
    }
    fields! {
        1 => system,
        2 => vrfs,
        3 => interfaces,
        4 => tunnels,
        5 => routes,
        6 => connections,
        7 => credentials,
        8 => reassembly,
        9 => ip_tunnels,
        10 => loopbacks,
        11 => policies,
        12 => icmp_errors,
        13 => notes,
        14 => wwan_interfaces,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;
    use crate::plan::DigestKey;
    use crate::tree::{Setting, words};

    fn set(tree: &mut Tree, line: &str) {
        let words = words::split(line).unwrap();
        let setting = Setting::parse(&words, &Location::root()).unwrap();
        tree.set(&setting).unwrap();
    }

    fn delete(tree: &mut Tree, line: &str) {
        let words = words::split(line).unwrap();
        tree.remove(&Location::parse(&words, &Location::root()).unwrap())
            .unwrap();
    }

    #[test]
    fn what_refers_to_what_is_gone_is_found() {
        let mut before = Tree::empty();
        for line in [
            "vrfs red description r",
            "vrfs blue description b",
            "interfaces lan vrf red",
            "interfaces wan mtu 1400",
        ] {
            set(&mut before, line);
        }
        assert!(before.validate().is_ok());
        let after = |change: &dyn Fn(&mut Tree)| {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(after.validate_after(&before), after.validate());
            after.is_good_after(&before)
        };
        assert!(after(&|tree| set(tree, "interfaces wan mtu 1300")));
        assert!(after(&|tree| set(tree, "interfaces wan vrf blue")));
        assert!(after(&|tree| set(tree, "interfaces wan vrf default")));
        assert!(!after(&|tree| set(tree, "interfaces wan vrf green")));
        assert!(!after(&|tree| set(
            tree,
            "routes 10.0.0.0/8 vrf green action blackhole"
        )));
        assert!(after(&|tree| set(
            tree,
            "routes 10.0.0.0/8 vrf blue action blackhole"
        )));
        assert!(!after(&|tree| delete(tree, "vrfs red")));
        // Nothing refers to it, but that is for the whole walk to see.
        assert!(!after(&|tree| delete(tree, "vrfs blue")));
        // What must be there.
        assert!(!after(&|tree| set(tree, "tunnels t mtu 1400")));
        assert!(after(&|tree| set(tree, "tunnels t if_id 7")));
    }

    #[test]
    fn every_field_is_taken_from_where_it_belongs() {
        let descriptor = crate::decode::config_descriptor().unwrap();
        for field in descriptor.fields() {
            let json = match field.name() {
                "system" => r#"{"system": {"host_name": "a"}}"#,
                "vrfs" => r#"{"vrfs": [{"name": "red"}]}"#,
                "interfaces" => r#"{"interfaces": [{"name": "wan"}]}"#,
                "tunnels" => r#"{"tunnels": [{"name": "t", "if_id": 1}]}"#,
                "routes" => r#"{"routes": [{"destination": "10.0.0.0/8", "action": "blackhole"}]}"#,
                "connections" => r#"{"connections": [{"name": "a"}]}"#,
                "credentials" => {
                    r#"{"credentials": {"pre_shared_keys": [{"name": "k", "secret": "protects nothing"}]}}"#
                }
                "reassembly" => r#"{"reassembly": {"packets": 77}}"#,
                "ip_tunnels" => r#"{"ip_tunnels": [{"name": "g"}]}"#,
                "loopbacks" => r#"{"loopbacks": [{"name": "lo0"}]}"#,
                "policies" => r#"{"policies": [{"name": "p"}]}"#,
                "icmp_errors" => r#"{"icmp_errors": {"rate": 7}}"#,
                "wwan_interfaces" => {
                    r#"{"wwan_interfaces": [{"name": "wwan0", "apn": "internet"}]}"#
                }
                // With notes nothing is taken over.
                "notes" => continue,
                other => panic!("say what {other} may hold"),
            };
            let tree = Tree::from_json(json.as_bytes()).unwrap();
            let (config, none) = (tree.to_config().unwrap(), Tree::empty());
            let alone = none.to_config().unwrap();
            assert_ne!(config, alone);
            assert_eq!(tree.to_config_after(&none, &alone).unwrap(), config);
            assert_eq!(
                tree.to_config_after(&tree.clone(), &config).unwrap(),
                config
            );
            assert_eq!(none.to_config_after(&tree, &config).unwrap(), alone);
        }
    }

    proptest! {
        #[test]
        fn after_another_tree_nothing_else_comes_out(
            before in sample::trees(), other in sample::trees(), take: [bool; 16],
        ) {
            let mut after = before.clone();
            // Some parts of another tree.
            for (field, take) in shape::root().fields.iter().zip(take) {
                if take {
                    let root = Arc::make_mut(&mut after.root);
                    root.remove(field.number);
                    if let Some(node) = other.root.get(field.number) {
                        root.put(field.number, node.clone());
                    }
                }
            }
            if before.validate().is_ok() {
                prop_assert_eq!(after.validate_after(&before), after.validate());
            }
            let digests = DigestKey::new([1; 32]);
            if let Ok(config) = before.to_config() {
                prop_assert_eq!(after.to_config_after(&before, &config), after.to_config());
            }
            let hidden = before.without_secrets(&digests);
            if let Ok(config) = before.to_config() {
                prop_assert_eq!(hidden.to_config_after(&before, &config), hidden.to_config());
            }
        }
    }
}
