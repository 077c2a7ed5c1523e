use super::*;

/// The word an error points at, and what it says.
fn wrong(words: &str) -> (usize, String) {
    let error = Setting::parse(&split(words).unwrap(), &Location::root()).unwrap_err();
    (error.word, error.to_string())
}

#[test]
fn errors_point_at_the_word_and_say_what_would_be_right() {
    let starts = |words: &str, word: usize, text: &str| {
        let (at, said) = wrong(words);
        assert!(at == word && said.starts_with(text), "{words}: {at} {said}");
    };
    starts(
        "interfacse lan0",
        0,
        r#""interfacse" is not known here; is "interfaces" meant?; there is system, vrfs,"#,
    );
    starts(
        "routes 10.0.0.0/8 nexthops",
        2,
        r#""nexthops" is not known here; is "next_hops" meant?; there is vrf, next_hops, action"#,
    );
    starts(
        "interfaces lan0 mtu 99999",
        3,
        "99999 is not between 576 and 9216 bytes",
    );
    starts(
        "interfaces lan0 mtu -1",
        3,
        r#""-1" is not a whole number from 0"#,
    );
    starts(
        "interfaces lan0 mtu 99999999999999999999",
        3,
        r#""99999999999999999999" is not a whole number"#,
    );
    starts(
        "interfaces lan0 enabled yes",
        3,
        r#""yes" is not one of true, false"#,
    );
    starts(
        "interfaces lan0 driver af_xdp",
        3,
        r#""af_xdp" is not one of af-packet, af-xdp; is "af-xdp" meant?"#,
    );
    starts(
        "interfaces lan0 mtu 1400 more",
        4,
        "nothing belongs here: interfaces lan0 mtu is complete",
    );
    starts(
        "interfaces lan0 mtu",
        3,
        "mtu: 576..9216 bytes, default 1500 belongs here",
    );
    starts(
        "interfaces",
        1,
        "the name of one of interfaces belongs here",
    );
    starts(
        "interfaces lan0 name lan1",
        2,
        "name tells this item from the others; use rename to change it",
    );
    starts(
        "routes 10.0.0.1/8",
        1,
        r#""10.0.0.1/8" has bits beyond its length; the network is 10.0.0.0/8"#,
    );
    starts(
        "routes 10.0.0.0/8 vrf blue vrf red",
        4,
        "vrf is given already",
    );
    starts(
        "routes 10.0.0.0/8 vrf",
        3,
        "vrf: name, default default belongs here",
    );
    starts(
        "routes 10.0.0.0/8 next_hops interface",
        4,
        "interface: name of an interface belongs here",
    );
    starts("system", 1, "one of host_name, time_zone,");
    starts("", 0, "one of system, vrfs,");
    let (at, said) = wrong("credentials pre_shared_keys hq secret 0xcanary");
    assert_eq!(at, 4);
    assert!(!said.contains("canary"), "{said}");
    assert!(
        wrong("credentials pre_shared_keys hq secret $digest:12")
            .1
            .contains("64 hexadecimal digits")
    );
}

#[test]
fn places_are_read_from_where_one_is() {
    let lan = at("interfaces lan0");
    let setting = Setting::parse(&["mtu", "1400"], &lan).unwrap();
    assert_eq!(setting.location().to_string(), "interfaces lan0 mtu");
    assert_eq!(setting.location().path(), "interfaces[lan0].mtu");
    assert_eq!(lan.parent(), at("interfaces"));
    assert_eq!(Location::parse(&["lan0"], &at("interfaces")).unwrap(), lan);
    assert!(lan.contains(setting.location()) && !lan.contains(&at("interfaces")));
    // One key has one spelling, whatever was written.
    for (written, right, path) in [
        (
            "routes 10.0.0.0/8 vrf default",
            "routes 10.0.0.0/8",
            "routes[default,10.0.0.0/8]",
        ),
        (
            "routes 2001:DB8:0::/32 vrf blue",
            "routes 2001:db8::/32 vrf blue",
            "routes[blue,2001:db8::/32]",
        ),
        (
            "routes ::/0 next-hops interface wan0 gateway FE80::1",
            "routes ::/0 next_hops fe80::1 interface wan0",
            "routes[default,::/0].next_hops[fe80::1,wan0]",
        ),
        (
            "system syslog-targets Log.example.com port 514",
            "system syslog_targets log.example.com",
            "system.syslog_targets[log.example.com,514]",
        ),
        (
            "credentials pre_shared_keys hq identities \"C=CH, CN=a\"",
            "credentials pre_shared_keys hq identities \"C=CH, CN=a\"",
            "credentials.pre_shared_keys[hq].identities[C=CH, CN=a]",
        ),
    ] {
        let place = at(written);
        assert_eq!(place.to_string(), right);
        assert_eq!(place.path(), path);
        assert_eq!(at(right), place);
    }
    // In an item its key is settled.
    let route = at("routes 10.0.0.0/8");
    assert_eq!(
        Location::parse(&["vrf", "blue"], &route)
            .unwrap_err()
            .reason,
        WordReason::Key {
            name: "vrf".to_owned()
        }
    );
}

fn candidates(words: &str, partial: &str, tree: &Tree, purpose: Purpose) -> Vec<String> {
    let found = complete(
        &split(words).unwrap(),
        partial,
        &Location::root(),
        tree,
        purpose,
    );
    found.into_iter().map(|candidate| candidate.text).collect()
}

#[test]
fn completion_offers_what_fits() {
    let mut tree = example();
    set(&mut tree, "vrfs blue description \"the sea\"");
    let set = |words, partial| candidates(words, partial, &tree, Purpose::Set);
    assert_eq!(set("", "r"), ["reassembly", "routes"]);
    assert_eq!(
        set("interfaces", ""),
        ["lan0", "wan0", "<name of an interface>"]
    );
    assert_eq!(set("interfaces", "w"), ["wan0"]);
    assert_eq!(set("interfaces lan0", "ms"), ["mss", "mss_clamp"]);
    assert_eq!(set("interfaces lan0", "mss-"), ["mss_clamp"]);
    assert_eq!(
        set("interfaces lan0 mtu", ""),
        ["<576..9216 bytes, default 1500>"]
    );
    assert_eq!(set("interfaces lan0 enabled", ""), ["false", "true"]);
    assert_eq!(
        set("interfaces lan0 vrf", ""),
        ["blue", "default", "<name, default default>"]
    );
    assert_eq!(set("routes 0.0.0.0/0", ""), ["action", "next_hops", "vrf"]);
    assert_eq!(
        set("routes 0.0.0.0/0 vrf blue", ""),
        ["action", "next_hops"]
    );
    assert_eq!(
        set("routes 10.2.0.0/24 next_hops", ""),
        ["gateway", "interface", "vrf", "<address>"]
    );
    assert_eq!(
        set("routes 10.2.0.0/24 next_hops interface", ""),
        ["ipsec0", "lan0", "wan0", "<name of an interface>"]
    );
    assert_eq!(
        set("connections to-b children net tunnel", ""),
        ["ipsec0", "<name of an interface>"]
    );
    assert_eq!(
        set("connections to-b children net start_action", "t"),
        ["trap"]
    );
    assert_eq!(set("interfaces nothing wrong", ""), Vec::<String>::new());

    let existing = |words, partial| candidates(words, partial, &tree, Purpose::Existing);
    assert_eq!(
        existing("", ""),
        [
            "connections",
            "credentials",
            "interfaces",
            "routes",
            "system",
            "tunnels",
            "vrfs"
        ]
    );
    assert_eq!(
        existing("interfaces wan0", ""),
        ["addresses", "device", "mtu"]
    );
    assert_eq!(existing("interfaces", ""), ["lan0", "wan0"]);
    assert_eq!(existing("interfaces wan0 mtu", ""), Vec::<String>::new());
    assert_eq!(
        candidates("interfaces lan0", "", &tree, Purpose::Edit),
        ["addresses", "dhcp_client"]
    );

    let found = complete(&["vrfs"], "", &Location::root(), &tree, Purpose::Existing);
    assert_eq!(found[0].help, "the sea");
    let found = complete(
        &["interfaces", "lan0"],
        "mtu",
        &Location::root(),
        &tree,
        Purpose::Set,
    );
    assert_eq!(found[0].help, "Longest IP packet it sends.");
    let words = ["interfaces", "lan0", "reverse_path"];
    let found = complete(&words, "o", &Location::root(), &tree, Purpose::Set);
    assert_eq!(found[0].help, "It is not. (the default)");
}

fn faults(text: &str) -> Vec<String> {
    let faults = example().load(text, &Location::root()).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn lines_are_taken_all_or_none_and_each_fault_is_told() {
    let tree = Tree::empty()
        .load(
            "# A comment\n\n\
             set interfaces lan0 mtu 1400 # and another\n\
             set interfaces wan0\n\
             copy interfaces lan0 to lan1\n\
             rename interfaces wan0 to to\n\
             rename interfaces to to wan1\n\
             set connections hq proposals a\n\
             set connections hq proposals b\n\
             insert connections hq proposals b before a\n\
             insert connections hq proposals b last\n\
             insert connections hq proposals b first\n\
             delete interfaces lan0\n",
            &Location::root(),
        )
        .unwrap();
    assert_eq!(
        lines(&tree),
        "set interfaces lan1 mtu 1400\nset interfaces wan1\nset connections hq proposals b\nset connections hq proposals a\n"
    );
    let lan = at("interfaces lan1");
    let tree = tree
        .load("set mtu 1300\ndelete mtu\nset vrf blue", &lan)
        .unwrap();
    assert_eq!(
        tree.value(&at("interfaces lan1 vrf")),
        Some("blue".to_owned())
    );

    assert_eq!(
        faults(
            "set interfaces lan0 mtu 1\n\
             sett interfaces\n\
             set interfaces \"lan0\n\
             delete interfaces lan9\n\
             rename interfaces lan0\n\
             rename interfaces lan0 to wan0\n\
             rename interfaces to lan0\n\
             insert interfaces lan0 first\n\
             insert connections to-b proposals x last more\n\
             delete interfaces lan0 mtu 1500"
        ),
        [
            "line 1, column 25: 1 is not between 576 and 9216 bytes",
            "line 2, column 1: \"sett\" is not known here; is \"set\" meant?; there is activate, annotate, copy, deactivate, delete, insert, rename, set",
            "line 3, column 16: the quotation mark has no other; end the text with \"",
            "line 4, column 1: interfaces lan9: not there",
            "line 5, column 23: to belongs here",
            "line 6, column 1: interfaces wan0: there already",
            "line 7, column 22: \"lan0\" is not known here; is \"vlan\" meant?; there is description, device, vrf, enabled, mtu, addresses, self_traffic, mss_clamp, mss, reverse_path, driver, parent, vlan, outer_vlan, dhcp_client",
            "line 8, column 1: interfaces lan0: only the items of a list that is kept in order can be moved",
            "line 9, column 42: nothing belongs here: last is complete",
            "line 10, column 28: nothing belongs here: interfaces lan0 mtu is complete",
        ]
    );
}
