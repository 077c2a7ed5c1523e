#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::sample::{forks, trees};
use super::words::split;
use super::*;

const EXAMPLE: &str = include_str!("../../tests/data/gateway.json");

fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn example() -> Tree {
    Tree::from_json(EXAMPLE.as_bytes()).unwrap()
}

fn at(words: &str) -> Location {
    Location::parse(&split(words).unwrap(), &Location::root()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn set(tree: &mut Tree, words: &str) {
    let setting = Setting::parse(&split(words).unwrap(), &Location::root());
    tree.set(&setting.unwrap_or_else(|error| panic!("{words}: {error}")))
        .unwrap();
}

fn from_lines(lines: &str) -> Tree {
    let mut tree = Tree::empty();
    for line in lines.lines() {
        set(&mut tree, line.strip_prefix("set ").unwrap());
    }
    tree
}

fn lines(tree: &Tree) -> String {
    tree.to_set_lines(&Location::root(), &Show::PLAIN)
        .to_string()
}

#[test]
fn the_example_reads_as_set_lines() {
    let text = example().to_set_lines(&Location::root(), &Show::digests(&key()));
    let digest =
        leaf::digest_text(&key().secret("culvert.config.v1.PreSharedKey.secret", b"0x6b6579"));
    let expected = format!(
        "\
set system host_name gateway-a
set interfaces lan0 addresses 10.1.0.1/24
set interfaces lan0 addresses 2001:db8:1::1/64
set interfaces wan0 device eth1
set interfaces wan0 mtu 1500
set interfaces wan0 addresses 192.0.2.1/24
set tunnels ipsec0 if_id 1
set tunnels ipsec0 addresses 169.254.0.1/30
set routes 0.0.0.0/0 next_hops 192.0.2.254
set routes 10.2.0.0/24 next_hops interface ipsec0
set connections to-b local_address 192.0.2.1
set connections to-b remote_address 198.51.100.2
set connections to-b proposals aes128gcm16-prfsha256-ecp256
set connections to-b local method psk
set connections to-b local identity gateway-a
set connections to-b remote method psk
set connections to-b remote identity gateway-b
set connections to-b children net tunnel ipsec0
set connections to-b children net proposals aes128gcm16
set connections to-b children net start_action start
set credentials pre_shared_keys hq identities gateway-a
set credentials pre_shared_keys hq identities gateway-b
set credentials pre_shared_keys hq secret {digest}
"
    );
    assert_eq!(text.as_str(), expected);
    assert!(example().validate().is_ok());
    assert_eq!(
        example().to_config().unwrap(),
        crate::decode::config_from_json(EXAMPLE.as_bytes()).unwrap()
    );
}

#[test]
fn json_is_pretty_and_the_same_again() {
    let json = example().to_json(&Location::root(), &Show::PLAIN);
    assert!(
        json.contains("\n    { \"destination\": \"0.0.0.0/0\", \"next_hops\": [{ \"gateway\": \"192.0.2.254\" }] },\n"),
        "{}", *json
    );
    assert_eq!(Tree::from_json(json.as_bytes()).unwrap(), example());
    let lan = example().to_json(&at("interfaces lan0 addresses"), &Show::PLAIN);
    assert_eq!(
        lan.as_str(),
        "[{ \"address\": \"10.1.0.1/24\" }, { \"address\": \"2001:db8:1::1/64\" }]\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_form_reads_back_as_the_same_tree(tree in trees()) {
        let text = lines(&tree);
        prop_assert_eq!(&from_lines(&text), &tree, "{}", text);
        let json = tree.to_json(&Location::root(), &Show::PLAIN);
        prop_assert_eq!(&Tree::from_json(json.as_bytes()).unwrap(), &tree);
        let compact = tree.json(&Location::root(), &Show::PLAIN, true);
        prop_assert_eq!(&Tree::from_json(compact.as_bytes()).unwrap(), &tree);
        let bytes = tree.canonical_bytes();
        let again = Tree::from_canonical_bytes(&bytes).unwrap();
        prop_assert_eq!(&again, &tree);
        prop_assert_eq!(again.hash(&key()), tree.hash(&key()));
    }
}

#[test]
fn differences_are_by_leaf_and_by_item() {
    let before = example();
    let mut after = before.clone();
    set(&mut after, "interfaces wan0 mtu 1400");
    set(&mut after, "interfaces lan1 addresses 10.3.0.1/24");
    set(&mut after, "interfaces lan1 mtu 1400");
    set(&mut after, "credentials pre_shared_keys hq secret other");
    set(&mut after, "credentials pre_shared_keys x secret third");
    set(
        &mut after,
        "connections to-b children net proposals aes256-sha256",
    );
    after.delete(&at("routes 10.2.0.0/24")).unwrap();
    after.delete(&at("system")).unwrap();
    let changes = diff(&before, &after);
    let lines: Vec<String> = changes.iter().flat_map(Change::lines).collect();
    assert_eq!(
        lines,
        [
            "- system host_name gateway-a",
            "+ interfaces lan1 mtu 1400",
            "+ interfaces lan1 addresses 10.3.0.1/24",
            "- interfaces wan0 mtu 1500",
            "+ interfaces wan0 mtu 1400",
            "- routes 10.2.0.0/24 next_hops interface ipsec0",
            "+ connections to-b children net proposals aes256-sha256",
            "~ credentials pre_shared_keys hq secret changed",
            "+ credentials pre_shared_keys x secret <secret>",
        ]
    );
    assert_eq!(before.apply(&changes).unwrap(), after);
    assert!(after.apply(&changes).is_err(), "made twice");

    let mut reordered = after.clone();
    let list = at("connections to-b children net proposals");
    let first = reordered.items(&list)[0].clone();
    reordered.reorder(&first, &Position::Last).unwrap();
    let changes = diff(&after, &reordered);
    assert_eq!(changes.len(), 1);
    assert_eq!(
        changes[0].to_string(),
        "~ connections to-b children net proposals in the order aes256-sha256, aes128gcm16"
    );
    assert_eq!(after.apply(&changes).unwrap(), reordered);
}

#[test]
fn merging_takes_both_sides_and_names_what_does_not_fit() {
    let base = example();
    let (mut ours, mut theirs) = (base.clone(), base.clone());
    set(&mut ours, "interfaces wan0 mtu 1400");
    set(&mut ours, "interfaces lan1");
    set(&mut theirs, "interfaces wan0 enabled false");
    set(&mut theirs, "interfaces lan2 mtu 1300");
    theirs.delete(&at("routes 10.2.0.0/24")).unwrap();
    let merged = merge(&base, &ours, &theirs).unwrap();
    let mut expected = base.clone();
    for line in [
        "interfaces wan0 mtu 1400",
        "interfaces lan1",
        "interfaces wan0 enabled false",
        "interfaces lan2 mtu 1300",
    ] {
        set(&mut expected, line);
    }
    expected.delete(&at("routes 10.2.0.0/24")).unwrap();
    assert_eq!(merged, expected);

    set(&mut theirs, "interfaces wan0 mtu 1300");
    set(&mut ours, "routes 10.2.0.0/24 action blackhole");
    set(
        &mut ours,
        "credentials pre_shared_keys hq secret one-canary",
    );
    set(
        &mut theirs,
        "credentials pre_shared_keys hq secret two-canary",
    );
    set(&mut ours, "connections to-b proposals aes256-sha256-ecp256");
    set(
        &mut theirs,
        "connections to-b proposals aes192-sha256-ecp256",
    );
    let Err(MergeError::Conflicts(conflicts)) = merge(&base, &ours, &theirs) else {
        panic!("merged");
    };
    let texts: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "interfaces wan0 mtu: ours: 1400; theirs: 1300; before: 1500",
            "routes 10.2.0.0/24: ours: next_hops interface ipsec0, action blackhole; theirs: not there; before: next_hops interface ipsec0",
            "connections to-b proposals: ours: aes128gcm16-prfsha256-ecp256, aes256-sha256-ecp256; theirs: aes128gcm16-prfsha256-ecp256, aes192-sha256-ecp256; before: aes128gcm16-prfsha256-ecp256",
            "credentials pre_shared_keys hq secret: ours: <secret>; theirs: <secret>; before: <secret>",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_difference_applied_is_the_other(before in trees(), after in trees(), (base, ours, _) in forks()) {
        for (before, after) in [(&before, &after), (&base, &ours), (&ours, &base)] {
            let changes = diff(before, after);
            prop_assert_eq!(&before.apply(&changes).unwrap(), after);
            prop_assert_eq!(changes.is_empty(), before == after);
            for change in &changes {
                prop_assert!(!change.lines().is_empty());
            }
        }
    }

    #[test]
    fn merging_is_fair((base, ours, theirs) in forks()) {
        prop_assert_eq!(&merge(&base, &ours, &ours).unwrap(), &ours);
        prop_assert_eq!(&merge(&base, &ours, &base).unwrap(), &ours);
        prop_assert_eq!(&merge(&base, &base, &theirs).unwrap(), &theirs);
        match (merge(&base, &ours, &theirs), merge(&base, &theirs, &ours)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(&one, &other);
                // What only one side changed is as that side has it.
                let (mine, yours) = (diff(&base, &ours), diff(&base, &theirs));
                let left = diff(&one, &ours);
                let unrelated = |change: &Change, others: &[Change]| {
                    !others.iter().any(|other| {
                        other.location().contains(change.location())
                            || change.location().contains(other.location())
                    })
                };
                for change in mine.iter().filter(|change| unrelated(change, &yours)) {
                    prop_assert!(unrelated(change, &left), "{change} is lost");
                }
            }
            (Err(MergeError::Conflicts(one)), Err(MergeError::Conflicts(other))) => {
                prop_assert_eq!(one.len(), other.len());
            }
            (one, other) => prop_assert!(false, "{one:?} but {other:?}"),
        }
    }

    #[test]
    fn weights_are_kept_through_all_changes((base, ours, _) in forks()) {
        // What set and delete count is what a whole count gives.
        let mut tree = base;
        for place in ours.places() {
            let mut words = place.words();
            if let Some(Found::Leaf(leaf)) = ours.find(&place) {
                words.push(leaf.word(place.last_field().unwrap()).into_owned());
            }
            tree.set(&Setting::parse(&words, &Location::root()).unwrap()).unwrap();
            prop_assert_eq!(tree.weight, Tree::bounded(tree.root.as_ref().clone()).unwrap().weight);
        }
        for place in ours.places() {
            if tree.contains(&place) {
                tree.delete(&place).unwrap();
                prop_assert_eq!(tree.weight, Tree::bounded(tree.root.as_ref().clone()).unwrap().weight);
            }
        }
        // The weight is at least what JSON takes.
        let compact = ours.json(&Location::root(), &Show::PLAIN, true);
        prop_assert!(ours.weight.bytes + 1 >= compact.len(), "{:?} {}", ours.weight, compact.len());
    }
}
