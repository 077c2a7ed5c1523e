//! Interfaces, routes and tunnels.

use super::*;

#[test]
fn interfaces_without_self_traffic_are_not_in_linux() {
    let text = changed(r#""device": "eth1""#, r#""self_traffic": false"#);
    let errors = errors(&text);
    assert_eq!(
        errors,
        [
            "connections[to-b].local_address: no interface of VRF default with self_traffic has 192.0.2.1; there is 10.1.0.1, 2001:db8:1::1"
        ]
    );
}

#[test]
fn a_route_leads_somewhere_or_says_why_not() {
    let routes = |text: &str| format!(r#"{{"routes": [{{"destination": "10.9.0.0/16"{text}}}]}}"#);
    for action in ["blackhole", "unreachable", "prohibit"] {
        let plan = plan_of(&routes(&format!(r#", "action": "{action}""#))).unwrap();
        let Some(Kind::Route(route)) = &plan[&Key::from("route/default/10.9.0.0/16")].value.kind
        else {
            panic!("no route");
        };
        assert_eq!(
            route.action().as_str_name().to_lowercase(),
            format!("action_{action}")
        );
        assert!(!plan.contains_key(&Key::from("linux/route/10.9.0.0/16")));
    }
    assert_eq!(
        errors(&routes("")),
        [
            "routes[default,10.9.0.0/16].next_hops: a route that forwards needs a next hop; one that drops has the action blackhole, unreachable or prohibit"
        ]
    );
    assert_eq!(
        errors(&routes(
            r#", "action": "blackhole", "next_hops": [{"gateway": "10.1.0.2"}]"#
        )),
        ["routes[default,10.9.0.0/16].next_hops: a route that drops packets has no next hops"]
    );
}

#[test]
fn the_same_network_in_two_vrfs_stays_out_of_linux() {
    let text = |more: &str| {
        format!(
            r#"{{"vrfs": [{{"name": "blue"}}], "interfaces": [
                {{"name": "a0", "addresses": [{{"address": "10.0.0.1/24"}}]}},
                {{"name": "b0", "vrf": "blue", "addresses": [{{"address": "10.0.0.2/24"}}] {more}}}]}}"#
        )
    };
    assert_eq!(
        errors(&text("")),
        [
            "interfaces[b0].addresses[10.0.0.2/24]: 10.0.0.0/24 overlaps that of interfaces[a0].addresses[10.0.0.1/24] in another VRF; set self_traffic to false on one of the two"
        ]
    );
    let plan = plan_of(&text(r#", "self_traffic": false"#)).unwrap();
    assert!(!plan.contains_key(&Key::from("linux/link/b0")));
    assert!(plan.contains_key(&Key::from("address/b0/10.0.0.2/24")));
}

#[test]
fn a_gateway_behind_another_route_is_resolved_for_linux() {
    let text = changed(
        r#""routes": ["#,
        r#""routes": [{"destination": "10.9.0.0/16", "next_hops": [{"gateway": "203.0.113.9"}]}, "#,
    );
    let plan = plan_of(&text).unwrap();
    let Some(Kind::LinuxRoute(route)) = &plan[&Key::from("linux/route/10.9.0.0/16")].value.kind
    else {
        panic!();
    };
    assert_eq!(route.tap, "wan0");
    assert_eq!(route.gateway.as_ref().unwrap().address, [192, 0, 2, 254]);
}

proptest::proptest! {
    /// No configuration makes planning panic or loop; what is planned can be created.
    #[test]
    fn any_plan_is_closed_and_without_circles(config in configurations()) {
        if let Ok(plan) = plan(&config, &key()) {
            let mut done: std::collections::BTreeSet<&Key> = std::collections::BTreeSet::new();
            loop {
                let before = done.len();
                for (key, planned) in &plan {
                    if planned.needs.iter().chain(&planned.after).all(|other| done.contains(other)) {
                        done.insert(key);
                    }
                }
                if done.len() == before {
                    break;
                }
            }
            proptest::prop_assert_eq!(done.len(), plan.len());
        }
    }
}

#[test]
fn the_reverse_path_check_is_off_unless_configured() {
    let mode = |text: &str, key: &str| match &plan_of(text).unwrap()[&Key::from(key)].value.kind {
        Some(Kind::Interface(interface)) => interface.reverse_path(),
        Some(Kind::Tunnel(tunnel)) => tunnel.reverse_path(),
        other => panic!("{other:?}"),
    };
    assert_eq!(mode(GATEWAY, "interface/wan0"), bus::ReversePath::Off);
    assert_eq!(mode(GATEWAY, "tunnel/ipsec0"), bus::ReversePath::Off);
    let text = changed(
        r#""device": "eth1""#,
        r#""device": "eth1", "reverse_path": "strict""#,
    );
    assert_eq!(mode(&text, "interface/wan0"), bus::ReversePath::Strict);
    let text = changed(
        r#""name": "ipsec0", "#,
        r#""name": "ipsec0", "reverse_path": "loose", "#,
    );
    assert_eq!(mode(&text, "tunnel/ipsec0"), bus::ReversePath::Loose);
}

#[test]
fn routers_are_believed_about_paths_unless_configured() {
    let ignored = |text: &str| {
        let plan = plan_of(text).unwrap();
        match &plan[&Key::from("tunnel/ipsec0")].value.kind {
            Some(Kind::Tunnel(tunnel)) => tunnel.ignore_path_mtu,
            other => panic!("{other:?}"),
        }
    };
    let set = |keyword: &str| {
        let with = format!(r#""name": "ipsec0", "path_mtu": "{keyword}", "#);
        changed(r#""name": "ipsec0", "#, &with)
    };
    assert!(!ignored(GATEWAY) && !ignored(&set("learn")));
    assert!(ignored(&set("ignore")));
}

#[test]
fn routes_lead_into_other_vrfs() {
    let plan = plan_of(LEAKING).unwrap();
    let hops = |key: &str| {
        let planned = &plan[&Key::from(key)];
        let Some(Kind::Route(route)) = &planned.value.kind else {
            panic!("{planned:?}");
        };
        let texts: Vec<_> = planned.needs.iter().map(Key::to_string).collect();
        (route.next_hops.clone(), texts)
    };
    let (by_gateway, needs) = hops("route/inner/0.0.0.0/0");
    assert_eq!(by_gateway[0].vrf, "default");
    assert_eq!(
        needs,
        [
            "address/wan0/192.0.2.1/24",
            "interface/wan0",
            "vrf/default",
            "vrf/inner"
        ]
    );
    let (lookup, needs) = hops("route/default/10.1.0.0/24");
    assert_eq!(
        lookup,
        [bus::NextHop {
            vrf: "inner".to_owned(),
            ..bus::NextHop::default()
        }]
    );
    assert_eq!(needs, ["vrf/default", "vrf/inner"]);
    // What the gateway itself sends there leaves by the TAP of the other VRF's interface.
    let Some(Kind::LinuxRoute(linux)) = &plan[&Key::from("linux/route/10.1.0.0/24")].value.kind
    else {
        panic!();
    };
    assert_eq!((linux.tap.as_str(), &linux.gateway), ("lan0", &None));
}

#[test]
fn routes_that_lead_nowhere_are_refused() {
    for (from, to, expected) in [
        (
            r#"[{ "vrf": "inner" }]"#,
            r#"[{ "vrf": "default" }]"#,
            "routes[default,10.1.0.0/24].next_hops[default]: names neither a gateway nor an interface nor another VRF than that of the route",
        ),
        (
            r#"[{ "vrf": "inner" }]"#,
            r#"[{ "interface": "lan0" }]"#,
            "routes[default,10.1.0.0/24].next_hops[lan0]: lan0 is in VRF inner, not in default; a next hop in another VRF than its route's names it as vrf",
        ),
        (
            r#"[{ "vrf": "inner" }]"#,
            r#"[{ "interface": "lan0", "vrf": "inner" }]"#,
            "routes[default,10.1.0.0/24].next_hops[lan0,inner]: the hosts on lan0 are found by the routes of VRF inner: leave the interface out, or name a gateway",
        ),
        (
            r#""gateway": "192.0.2.254", "vrf": "default""#,
            r#""gateway": "192.0.2.254""#,
            "routes[inner,0.0.0.0/0].next_hops[192.0.2.254]: 192.0.2.254 is on no network of VRF inner; name its interface, or add an address or route that reaches it",
        ),
    ] {
        let text = LEAKING.replace(from, to);
        assert_ne!(text, LEAKING);
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn outer_headers_are_what_the_tunnel_says() {
    let outer = |text: &str| {
        let text = changed(
            r#""name": "ipsec0", "#,
            &format!(r#""name": "ipsec0", "outer_header": {text}, "#),
        );
        match &plan_of(&text).unwrap()[&Key::from("tunnel/ipsec0")]
            .value
            .kind
        {
            Some(Kind::Tunnel(tunnel)) => tunnel.outer_header.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        outer("{}"),
        bus::OuterHeader {
            hop_limit: 64,
            ..bus::OuterHeader::default()
        }
    );
    for (text, dscp) in [
        ("copy", None),
        ("clear", Some(0)),
        ("be", Some(0)),
        ("ef", Some(46)),
        ("cs5", Some(40)),
        ("af41", Some(34)),
        ("af13", Some(14)),
        ("0", Some(0)),
        ("63", Some(63)),
    ] {
        assert_eq!(outer(&format!(r#"{{ "dscp": "{text}" }}"#)).dscp, dscp);
    }
    assert_eq!(
        outer(
            r#"{ "dscp": "cs1", "dscp_inward": true, "ecn": "compatibility", "dont_fragment": "clear",
                 "hop_limit": 7, "flow_label": "hash" }"#
        ),
        bus::OuterHeader {
            dscp: Some(8),
            dscp_inward: true,
            no_ecn: true,
            dont_fragment: bus::outer_header::DontFragment::Clear.into(),
            hop_limit: 7,
            flow_label: bus::outer_header::FlowLabel::Hash.into(),
        }
    );
    match &plan_of(GATEWAY).unwrap()[&Key::from("tunnel/ipsec0")]
        .value
        .kind
    {
        Some(Kind::Tunnel(tunnel)) => assert_eq!(tunnel.outer_header, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_loopback_has_addresses_and_nothing_behind_them() {
    let with = |loopback: &str| {
        changed(
            r#""tunnels": ["#,
            &format!(r#""loopbacks": [{loopback}], "tunnels": ["#),
        )
    };
    let text = with(r#"{ "name": "lo0", "addresses": [{ "address": "203.0.113.7/32" }, { "address": "2001:db8::7/128" }] }"#)
        .replace(r#""local_address": "192.0.2.1""#, r#""local_address": "203.0.113.7""#);
    let plan = plan_of(&text).unwrap();
    for key in [
        "loopback/lo0",
        "address/lo0/203.0.113.7/32",
        "address/lo0/2001:db8::7/128",
        "linux/link/lo0",
        "linux/address/lo0/203.0.113.7/32",
    ] {
        assert!(plan.contains_key(&Key::from(key)), "{key}");
    }
    // IKE may run from there.
    let needs = &plan[&Key::from("connection/to-b")].needs;
    assert!(needs.contains(&Key::from("linux/address/lo0/203.0.113.7/32")));
    let quiet = with(
        r#"{ "name": "lo0", "self_traffic": false, "addresses": [{ "address": "203.0.113.7/32" }] }"#,
    );
    let plan = plan_of(&quiet).unwrap();
    assert!(!plan.contains_key(&Key::from("linux/link/lo0")));
    for (text, expected) in [
        (
            with(r#"{ "name": "lo0", "addresses": [{ "address": "203.0.113.7/24" }] }"#),
            "loopbacks[lo0].addresses[203.0.113.7/24]: 203.0.113.7/24: nothing is behind a loopback; its addresses have the length 32",
        ),
        (
            with(r#"{ "name": "lo" }"#),
            r#"loopbacks[lo].name: "lo" means something else to Linux; choose another name"#,
        ),
        (
            with(r#"{ "name": "lan0" }"#),
            "loopbacks[lan0].name: lan0 is also that of interfaces[lan0]; each has its own",
        ),
    ] {
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn another_action_makes_another_route() {
    let of = |action| {
        let route = bus::Route {
            action,
            ..bus::Route::default()
        };
        bus::Value {
            kind: Some(Kind::Route(route)),
        }
    };
    assert!(same(&of(1), &of(1)));
    assert!(!same(&of(1), &of(2)));
}

#[test]
fn limits_that_are_not_configured_are_those_of_the_dataplane() {
    let planned = |text: &str, key: &str| -> Option<Kind> {
        let plan = plan_of(text).unwrap_or_else(|errors| panic!("{errors:?}"));
        plan.get(&Key::from(key))?.value.kind.clone()
    };
    let reassembly = |text: &str| match planned(text, "reassembly") {
        Some(Kind::Reassembly(limits)) => (limits.timeout_ms, limits.timeout6_ms, limits.packets),
        other => panic!("{other:?}"),
    };
    assert_eq!(planned("{}", "reassembly"), None);
    let only_packets = r#"{ "reassembly": { "packets": 64 } }"#;
    assert_eq!(reassembly(only_packets), (30_000, 60_000, 64));
    let time = r#"{ "reassembly": { "timeout": 5 } }"#;
    assert_eq!(reassembly(time), (5000, 5000, 1024));
    let errors = |text: &str| match planned(text, "icmp-errors") {
        Some(Kind::IcmpErrors(limits)) => (limits.rate, limits.burst),
        other => panic!("{other:?}"),
    };
    assert_eq!(planned("{}", "icmp-errors"), None);
    assert_eq!(errors(r#"{ "icmp_errors": { "rate": 5 } }"#), (5, 50));
    assert_eq!(errors(r#"{ "icmp_errors": { "burst": 5 } }"#), (1000, 5));
}
