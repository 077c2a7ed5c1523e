use proptest::prelude::*;

use super::*;
use crate::tree::sample::{forks, trees};

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
            (Err(MergeError::Bounds(_)), Err(MergeError::Bounds(_))) => {}
            (one, other) => prop_assert!(false, "{one:?} but {other:?}"),
        }
    }

    #[test]
    fn the_decoder_finds_the_same_faults(tree in trees()) {
        // The decoder knows nothing of notes.
        let tree = tree.effective();
        let bytes = tree.canonical_bytes();
        let descriptor = crate::decode::config_descriptor().unwrap();
        let message = prost_reflect::DynamicMessage::decode(descriptor, bytes.as_slice()).unwrap();
        let mut expected = crate::decode::faults(&message);
        // The decoder stops at 100 of both kinds together.
        prop_assume!(expected.len() < crate::decode::MAX_ERRORS);
        let mut found = tree.validate().err().map_or(Vec::new(), |errors| errors.0);
        for errors in [&mut expected, &mut found] {
            errors.sort_by(|left, right| left.path.cmp(&right.path));
        }
        prop_assert_eq!(found, expected);
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
            // Refused where a list would be too long.
            let _ = tree.set(&Setting::parse(&words, &Location::root()).unwrap());
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn paths_lead_back_to_their_places(tree in trees()) {
        for place in tree.places() {
            let path = place.path();
            // Paths say keys without their names, and long ones shortened: those of two items may read
            // the same.
            let found = tree.locate(&path);
            prop_assert_eq!(found.path(), path);
            prop_assert_eq!(found.place(), place.place());
        }
    }

    #[test]
    fn no_words_panic(words in proptest::collection::vec("[a-z_0-9./]{0,12}|interfaces|routes|next_hops|vrf|0.0.0.0/0|lan0|to|set|insert", 0..8)) {
        let tree = example();
        let _ = Edit::parse(&words, &Location::root());
        let _ = tree.locate(&words.join("."));
        for purpose in [Purpose::Set, Purpose::Existing, Purpose::Edit] {
            let _ = complete(&words, "", &Location::root(), &tree, purpose);
        }
        let _ = tree.load(&words.join(" "), &Location::root());
    }
}

#[test]
fn trees_may_go_between_threads() {
    fn both<T: Send + Sync>() {}
    both::<Tree>();
    both::<Location>();
    both::<Vec<Change>>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The short way back reads what the strict decoder reads and writes the same again, and nothing else.
    #[test]
    fn stored_bytes_are_read_as_the_decoder_reads_them(
        tree in trees(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..3_u8, any::<u8>()), 0..3),
    ) {
        let mut bytes = tree.canonical_bytes().to_vec();
        for (place, what, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match what {
                0 => bytes[place] = byte,
                1 => { bytes.remove(place); }
                _ => bytes.insert(place, byte),
            }
        }
        let strict = Tree::from_binary(&bytes)
            .ok()
            .filter(|tree| tree.canonical_bytes().as_slice() == bytes.as_slice());
        prop_assert_eq!(Tree::from_canonical_bytes(&bytes).ok(), strict);
    }
}

#[test]
fn stored_bytes_in_another_order_or_spelling_are_refused() {
    // routes { vrf: "default" destination: "10.0.0.0/8" }: the default is left out.
    let mut bytes = vec![0x2a, 21, 0x0a, 7];
    bytes.extend_from_slice(b"default");
    bytes.extend_from_slice(&[0x12, 10]);
    bytes.extend_from_slice(b"10.0.0.0/8");
    assert!(Tree::from_binary(&bytes).is_ok());
    assert_eq!(
        Tree::from_canonical_bytes(&bytes),
        Err(TreeError::NotCanonical)
    );
    // An empty group; vrfs before system; a key that is missing.
    assert_eq!(
        Tree::from_canonical_bytes(&[0x0a, 0]),
        Err(TreeError::NotCanonical)
    );
    let bytes = [0x12, 3, 0x0a, 1, b'b', 0x12, 3, 0x0a, 1, b'a'];
    assert!(Tree::from_binary(&bytes).is_ok());
    assert_eq!(
        Tree::from_canonical_bytes(&bytes),
        Err(TreeError::NotCanonical)
    );
    assert!(matches!(
        Tree::from_canonical_bytes(&[0x12, 0]),
        Err(TreeError::Decode(_))
    ));
}
