use super::*;

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

#[test]
fn deleting_takes_what_holds_nothing_any_more() {
    let mut tree = Tree::empty();
    set(&mut tree, "routes 10.0.0.0/8 vrf blue next_hops 10.1.0.1");
    set(&mut tree, "system login idle_timeout 60");
    tree.delete(&at("system login idle_timeout")).unwrap();
    tree.delete(&at("routes 10.0.0.0/8 vrf blue next_hops 10.1.0.1"))
        .unwrap();
    assert_eq!(lines(&tree), "set routes 10.0.0.0/8 vrf blue\n");
    assert_eq!(
        tree.delete(&at("routes 10.0.0.0/8"))
            .unwrap_err()
            .to_string(),
        "routes 10.0.0.0/8: not there"
    );
    tree.delete(&at("routes 10.0.0.0/8 vrf blue")).unwrap();
    assert_eq!(tree, Tree::empty());
    assert_eq!(tree.weight, Tree::empty().weight);
}

#[test]
fn renaming_takes_what_refers_along() {
    let mut tree = from_lines(
        "set vrfs blue description sea\n\
         set interfaces lan0 vrf blue\n\
         set interfaces lan0 mtu 1400\n\
         set tunnels ipsec0 underlay_vrf blue\n\
         set routes 10.0.0.0/8 vrf blue next_hops interface lan0\n\
         set routes 10.0.0.0/8 vrf blue action forward\n\
         set routes 11.0.0.0/8 next_hops 10.1.0.1 vrf blue",
    );
    let changed = tree.rename(&at("vrfs blue"), &at("vrfs red")).unwrap();
    assert_eq!(
        lines(&tree),
        "set vrfs red description sea\n\
         set interfaces lan0 vrf red\n\
         set interfaces lan0 mtu 1400\n\
         set tunnels ipsec0 underlay_vrf red\n\
         set routes 11.0.0.0/8 next_hops 10.1.0.1 vrf red\n\
         set routes 10.0.0.0/8 vrf red next_hops interface lan0\n\
         set routes 10.0.0.0/8 vrf red action forward\n"
    );
    let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
    assert_eq!(
        changed,
        [
            "interfaces lan0 vrf",
            "tunnels ipsec0 underlay_vrf",
            "routes 11.0.0.0/8 next_hops 10.1.0.1 vrf red",
            "routes 10.0.0.0/8 vrf red"
        ]
    );
    let before = tree.clone();
    tree.rename(
        &at("interfaces lan0"),
        &at("interfaces").sibling(&["lan1"]).unwrap(),
    )
    .unwrap();
    assert!(lines(&tree).contains("next_hops interface lan1\n"));
    assert_eq!(
        tree.weight,
        Tree::bounded(tree.root.as_ref().clone()).unwrap().weight
    );
    tree.rename(&at("interfaces lan1"), &at("interfaces lan0"))
        .unwrap();
    assert_eq!(tree, before);
    // A name that another list has as well is that one's as much.
    set(&mut tree, "ip_tunnels lan0");
    assert_eq!(
        tree.rename(&at("interfaces lan0"), &at("interfaces lan1"))
            .unwrap(),
        []
    );
    assert!(lines(&tree).contains("next_hops interface lan0\n"));

    assert_eq!(
        tree.rename(&at("interfaces lan1"), &at("tunnels x"))
            .unwrap_err()
            .to_string(),
        "tunnels x: an item keeps to its list"
    );
    set(&mut tree, "interfaces lan2");
    assert_eq!(
        tree.rename(&at("interfaces lan1"), &at("interfaces lan2"))
            .unwrap_err()
            .to_string(),
        "interfaces lan2: there already"
    );
    assert_eq!(
        at("interfaces lan1")
            .sibling(&["lan2", "mtu"])
            .unwrap_err()
            .word,
        2
    );
}

#[test]
fn copying_leaves_references_and_order_alone() {
    let mut tree = example();
    tree.copy(&at("interfaces wan0"), &at("interfaces wan1"))
        .unwrap();
    assert_eq!(
        tree.value(&at("interfaces wan1 device")),
        Some("eth1".to_owned())
    );
    assert_eq!(tree.items(&at("interfaces")).len(), 3);
    assert!(
        tree.copy(&at("interfaces wan0"), &at("interfaces wan1"))
            .is_err()
    );
    assert_eq!(
        tree.value(&at("credentials pre_shared_keys hq secret")),
        None
    );

    let proposals = at("connections to-b proposals");
    let words = |tree: &Tree| -> Vec<String> {
        tree.items(&proposals)
            .iter()
            .map(|item| item.words()[3].clone())
            .collect()
    };
    for proposal in ["b-one", "a-two"] {
        set(&mut tree, &format!("connections to-b proposals {proposal}"));
    }
    assert_eq!(
        words(&tree),
        ["aes128gcm16-prfsha256-ecp256", "b-one", "a-two"]
    );
    let item = |name: &str| Location::parse(&[name], &proposals).unwrap();
    tree.reorder(&item("a-two"), &Position::First).unwrap();
    tree.reorder(
        &item("aes128gcm16-prfsha256-ecp256"),
        &Position::After(item("b-one")),
    )
    .unwrap();
    assert_eq!(
        words(&tree),
        ["a-two", "b-one", "aes128gcm16-prfsha256-ecp256"]
    );
    tree.reorder(&item("b-one"), &Position::Before(item("a-two")))
        .unwrap();
    tree.rename(&item("a-two"), &item("c")).unwrap();
    assert_eq!(words(&tree), ["b-one", "c", "aes128gcm16-prfsha256-ecp256"]);
    assert!(
        tree.reorder(&at("interfaces wan0"), &Position::First)
            .is_err()
    );
}

#[test]
fn bounds_hold_for_set_lines_as_for_documents() {
    let mut tree = Tree::empty();
    for number in 0..256 {
        set(
            &mut tree,
            &format!("interfaces lan0 addresses 10.0.{number}.1/24"),
        );
    }
    let one_more = Setting::parse(
        &split("interfaces lan0 addresses 10.1.0.1/24").unwrap(),
        &Location::root(),
    )
    .unwrap();
    assert_eq!(
        tree.set(&one_more).unwrap_err().to_string(),
        "interfaces lan0 addresses: 257 items; at most 256 are taken"
    );
    assert_eq!(tree.items(&at("interfaces lan0 addresses")).len(), 256);
    assert!(
        tree.copy(
            &at("interfaces lan0 addresses 10.0.0.1/24"),
            one_more.location()
        )
        .is_err()
    );

    // 16 MiB in certificates of 64 KiB; what fits can be written and read again.
    let mut tree = Tree::empty();
    let pem = format!("-----BEGIN CERTIFICATE-----{}", "A".repeat(60_000));
    let mut count = 0;
    loop {
        let words = [
            "credentials".to_owned(),
            "certificates".to_owned(),
            format!("c{count}"),
            "pem".to_owned(),
            pem.clone(),
        ];
        match tree.set(&Setting::parse(&words, &Location::root()).unwrap()) {
            Ok(()) => count += 1,
            Err(error) => {
                assert!(
                    error.to_string().contains("at most 16777216 are taken"),
                    "{error}"
                );
                break;
            }
        }
    }
    assert!((270..280).contains(&count), "{count}");
    let before = tree.clone();
    assert!(
        tree.copy(
            &at("credentials certificates c0"),
            &at("credentials certificates d")
        )
        .is_err()
    );
    assert_eq!(tree, before);
    let json = tree.to_json(&Location::root(), &Show::PLAIN);
    assert_eq!(Tree::from_json(json.as_bytes()).unwrap(), tree);
    assert!(deepest(shape::root()) < crate::decode::MAX_DEPTH);
}

/// How deep JSON nests, brackets of lists and braces of items included.
fn deepest(message: &Message) -> usize {
    let fields = message.fields.iter().map(|field| match &field.kind {
        FieldKind::Branch(inner) => deepest(inner),
        FieldKind::List(inner) => 1 + deepest(inner),
        _ => 0,
    });
    1 + fields.max().unwrap_or(0)
}

#[test]
fn what_is_inactive_is_kept_and_takes_no_effect() {
    let load = |tree: &Tree, text: &str| {
        tree.load(text, &Location::root())
            .unwrap_or_else(|faults| panic!("{faults:?}"))
    };
    let config = |tree: &Tree| tree.to_config().unwrap();
    let base = load(
        &example(),
        "set vrfs blue\nset routes 10.9.0.0/16 vrf blue next_hops vrf default",
    );
    let tree = load(
        &base,
        "deactivate routes 10.2.0.0/24\n\
         annotate routes 10.2.0.0/24 with \"until March\"\n\
         deactivate interfaces wan0 mtu\n\
         deactivate routes 10.9.0.0/16 vrf blue next_hops vrf default",
    );
    assert!(tree.is_inactive(&at("routes 10.2.0.0/24 next_hops")));
    assert!(!tree.is_inactive(&at("routes 0.0.0.0/0")));
    assert_eq!(
        tree.comment(&at("routes 10.2.0.0/24")),
        Some("until March".to_owned())
    );
    assert!(tree.contains(&at("routes 10.2.0.0/24")));
    assert_eq!(config(&tree).routes.len(), config(&base).routes.len() - 1);
    assert!(config(&tree).notes.is_empty());
    assert_eq!(config(&tree).interfaces[1].mtu, None);
    assert!(tree.validate().is_ok());
    // Every form carries it, and the strict decoder knows what is left.
    let text = lines(&tree);
    assert!(
        text.contains("set notes \"routes 10.2.0.0/24\" inactive true\n"),
        "{text}"
    );
    assert_eq!(from_lines(&text), tree);
    let json = tree.to_json(&Location::root(), &Show::PLAIN);
    let decoded = crate::decode::config_from_json(json.as_bytes()).unwrap();
    assert_eq!(decoded, config(&tree));
    let decoded = crate::decode::config_from_binary(&tree.canonical_bytes()).unwrap();
    assert_eq!(decoded, config(&tree));
    assert_eq!(base.apply(&diff(&base, &tree)).unwrap(), tree);
    assert_eq!(tree.apply(&diff(&tree, &base)).unwrap(), base);

    // It follows what is renamed, for its own sake or another's, and what is copied.
    let renamed = load(
        &tree,
        "rename routes 10.2.0.0/24 to 10.3.0.0/24\nrename vrfs blue to red\ncopy routes 10.3.0.0/24 to 10.4.0.0/24",
    );
    assert!(renamed.is_inactive(&at("routes 10.3.0.0/24")));
    assert!(renamed.is_inactive(&at("routes 10.4.0.0/24")));
    assert!(renamed.is_inactive(&at("routes 10.9.0.0/16 vrf red next_hops vrf default")));
    assert_eq!(renamed.notes().len(), 4);
    assert!(renamed.validate().is_ok());
    // It goes with what is deleted, and stays with what is written again.
    let mut gone = load(&tree, "delete routes");
    assert_eq!(gone.notes().len(), 1);
    let route = at("routes 10.2.0.0/24");
    let part = Tree::from_json_at(&route, br#"{"destination": "10.2.0.0/24"}"#).unwrap();
    let mut again = tree.clone();
    again.replace(&route, &part).unwrap();
    assert!(again.is_inactive(&route));

    assert!(gone.activate(&route).is_err());
    assert!(gone.deactivate(&route).is_err());
    assert!(gone.deactivate(&Location::root()).is_err());
    gone.activate(&at("interfaces wan0 mtu")).unwrap();
    assert_eq!(gone.notes().len(), 0);
    let mut plain = tree.clone();
    plain.annotate(&route, "").unwrap();
    plain.activate(&route).unwrap();
    assert_eq!(plain.notes().len(), 2);
    // A note about nothing is told, and so is one in another spelling.
    let wrong = load(
        &base,
        "set notes \"interfaces lan9\" inactive true\nset notes \"interfaces  lan0\" comment x",
    );
    let errors = wrong.validate().unwrap_err().to_string();
    assert_eq!(
        errors,
        "notes[interfaces  lan0].place: \"interfaces  lan0\" is not in the configuration\n\
         notes[interfaces lan9].place: \"interfaces lan9\" is not in the configuration"
    );
    assert!(
        wrong.to_config().is_err(),
        "what somebody took for inactive is not"
    );
    assert!(crate::decode::config_from_binary(&wrong.canonical_bytes()).is_err());
}
