use super::*;

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

#[test]
fn everything_that_is_missing_or_dangling_is_told() {
    let tree = from_lines(
        "set interfaces lan0 vrf bleu\nset vrfs blue\nset tunnels ipsec0\nset connections hq",
    );
    let errors: Vec<String> = tree
        .validate()
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        errors,
        [
            "tunnels[ipsec0].if_id: missing; it must be given",
            "connections[hq].remote_address: missing; it must be given",
            "connections[hq].local: missing; it must be given",
            "connections[hq].remote: missing; it must be given",
            "connections[hq].children: missing; it must be given",
            r#"interfaces[lan0].vrf: "bleu" is not in vrfs; is "blue" meant?"#,
        ]
    );
}

#[test]
fn defaults_are_shown_where_they_are_asked_for() {
    let tree = from_lines("set interfaces lan0 mtu 1400");
    let show = Show::PLAIN.with_defaults();
    let text = tree.to_text(&at("interfaces"), &show);
    assert!(text.starts_with("interfaces lan0 {\n    vrf default; # default\n    enabled true; # default\n    mtu 1400;\n"), "{}", *text);
    let text = tree.to_set_lines(&Location::root(), &show);
    assert!(
        text.contains("set icmp_errors rate 1000 # default\n"),
        "{}",
        *text
    );
    let again = from_lines(&text);
    assert_eq!(
        again
            .to_set_lines(&Location::root(), &Show::PLAIN)
            .replace('\n', " # default\n")
            .matches('\n')
            .count(),
        text.matches('\n').count()
    );
    let json = tree.to_json(&Location::root(), &show);
    assert_eq!(Tree::from_json(json.as_bytes()).unwrap(), again);
    assert_eq!(
        example().to_text(&at("routes"), &Show::PLAIN).as_str(),
        "routes 0.0.0.0/0 {\n    next_hops 192.0.2.254;\n}\nroutes 10.2.0.0/24 {\n    next_hops interface ipsec0;\n}\n"
    );
    assert_eq!(
        example()
            .to_text(&at("connections to-b local"), &Show::PLAIN)
            .as_str(),
        "method psk;\nidentity gateway-a;\n"
    );
}

#[test]
fn secrets_leave_and_come_back() {
    const CANARY: &str = "canary-psk-\u{fc}";
    let mut tree = example();
    set(
        &mut tree,
        &format!("credentials pre_shared_keys hq secret {CANARY}"),
    );
    let (sealed, secrets) = tree.take_secrets(&key());
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0].0, "credentials pre_shared_keys hq secret");
    assert_eq!(secrets[0].1.as_slice(), CANARY.as_bytes());
    assert_eq!(sealed, tree.without_secrets(&key()));
    // The same with and without, and another with another.
    assert_eq!(sealed.hash(&key()), tree.hash(&key()));
    assert_ne!(tree.hash(&key()), example().hash(&key()));
    assert_ne!(tree.hash(&key()), tree.hash(&DigestKey::new([8; 32])));
    // Nothing tells it.
    let digests = key();
    let shown = Show::digests(&digests);
    for text in [
        format!("{tree:?}{:?}", diff(&example(), &tree)),
        format!("{sealed:?}"),
        lines(&sealed),
        tree.to_set_lines(&Location::root(), &shown).to_string(),
        tree.to_json(&Location::root(), &shown).to_string(),
        tree.to_text(&Location::root(), &shown).to_string(),
        diff(&example(), &tree)
            .iter()
            .map(ToString::to_string)
            .collect(),
        diff(&Tree::empty(), &tree)
            .iter()
            .map(ToString::to_string)
            .collect(),
        String::from_utf8_lossy(&sealed.canonical_bytes()).into_owned(),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
    // A digest takes no effect.
    assert!(sealed.to_config().is_err());
    let json = tree.to_json(&Location::root(), &shown);
    let error = crate::decode::config_from_json(json.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("here the secret itself is needed"),
        "{error}"
    );
    let stored = sealed.canonical_bytes();
    assert!(crate::decode::config_from_binary(&stored).is_err());
    // They come back from where they were kept.
    let secrets = || {
        secrets
            .iter()
            .map(|(path, secret)| (path.as_str(), secret.as_slice()))
    };
    let again = Tree::from_canonical_bytes(&stored).unwrap();
    assert_eq!(again.put_secrets(secrets(), &key()).unwrap(), tree);
    assert!(again.put_secrets(None, &key()).is_err());
    assert!(
        again
            .put_secrets(
                [("credentials pre_shared_keys hq secret", &b"other"[..])],
                &key()
            )
            .is_err()
    );
    assert!(
        again
            .put_secrets(secrets().chain([("elsewhere", &b"x"[..])]), &key())
            .is_err()
    );
    // What was shown can be written back, and elsewhere; what nobody knows cannot.
    let shown = Tree::from_json(json.as_bytes()).unwrap();
    assert_eq!(shown.with_present_secrets(&[&tree], &key()).unwrap(), tree);
    let mut moved = shown.clone();
    moved
        .rename(
            &at("credentials pre_shared_keys hq"),
            &at("credentials pre_shared_keys b"),
        )
        .unwrap();
    let back = moved.with_present_secrets(&[&tree], &key()).unwrap();
    assert!(lines(&back).contains("pre_shared_keys b secret \"canary"));
    assert!(shown.with_present_secrets(&[&example()], &key()).is_err());
    assert!(
        sealed.validate().is_ok(),
        "a digest stands for a secret that is there"
    );
}

#[test]
fn every_default_is_a_right_value() {
    fn walk(message: &Message, seen: &mut usize) {
        for field in &message.fields {
            if let Some(default) = field.default() {
                let leaf = Leaf::from_word(field, default);
                assert!(leaf.is_ok(), "{}: {leaf:?}", field.full_name);
                *seen += 1;
            }
            if let Some(inner) = field.inner() {
                walk(inner, seen);
            }
        }
    }
    let mut seen = 0;
    walk(shape::root(), &mut seen);
    assert!(seen > 30, "{seen}");
}

#[test]
fn a_part_is_read_at_its_place() {
    let tree = example();
    for place in [
        "interfaces",
        "interfaces wan0",
        "interfaces wan0 mtu",
        "interfaces lan0 addresses",
        "routes 10.2.0.0/24 next_hops interface ipsec0",
        "connections to-b local",
        "connections to-b children net start_action",
        "credentials pre_shared_keys hq secret",
        "system",
    ] {
        let place = at(place);
        let json = tree.to_json(&place, &Show::PLAIN);
        let part = Tree::from_json_at(&place, json.as_bytes())
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(
            part.to_set_lines(&Location::root(), &Show::PLAIN),
            tree.to_set_lines(&place, &Show::PLAIN)
        );
        let mut again = tree.clone();
        again.replace(&place, &part).unwrap();
        assert_eq!(again, tree);
        again.replace(&place, &Tree::empty()).unwrap();
        assert!(!again.contains(&place));
    }
    let error = |place: &str, json: &str| {
        Tree::from_json_at(&at(place), json.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("interfaces lan0", r#"{"name": "lan0", "mtuu": 1}"#),
        r#"interfaces[lan0].mtuu: no such field; is "mtu" meant?"#
    );
    assert_eq!(
        error("interfaces lan0 mtu", "1"),
        "interfaces[lan0].mtu: 1 is not between 576 and 9216 bytes"
    );
    assert_eq!(
        error("interfaces lan0", r#"{"name": "lan1"}"#),
        "interfaces lan0: the keys in an object must be those of its place"
    );
    // Nothing is smuggled in beside the value.
    assert!(error("interfaces lan0 mtu", r#"1400, "vrf": "blue""#).contains("only the value"));
    assert_eq!(
        Tree::from_json_at(&at("system"), b"{}").unwrap(),
        Tree::empty()
    );
}

#[test]
fn notes_stand_where_they_belong() {
    let tree = example()
        .load(
            "deactivate routes 10.2.0.0/24 next_hops interface ipsec0\n\
             annotate routes 10.2.0.0/24 with \"until\\nMarch\"\n\
             deactivate connections to-b local\n\
             deactivate connections to-b remote identity",
            &Location::root(),
        )
        .unwrap();
    assert_eq!(
        tree.to_text(&at("routes"), &Show::PLAIN).as_str(),
        "routes 0.0.0.0/0 {\n    next_hops 192.0.2.254;\n}\n\
         # until\n# March\nroutes 10.2.0.0/24 {\n    inactive: next_hops interface ipsec0;\n}\n"
    );
    let text = tree.to_text(&at("connections to-b"), &Show::PLAIN);
    assert!(
        text.contains("\ninactive: local {\n    method psk;\n"),
        "{}",
        *text
    );
    assert!(
        text.contains("\n    inactive: identity gateway-b;\n"),
        "{}",
        *text
    );
}
