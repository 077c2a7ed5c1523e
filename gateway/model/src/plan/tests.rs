#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::bus::value::Kind;
use crate::decode::config_from_json;

const GATEWAY: &str = include_str!("../../tests/data/gateway.json");

fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn plan_of(text: &str) -> Result<Plan, PlanErrors> {
    plan(
        &config_from_json(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")),
        &key(),
    )
}

fn errors(text: &str) -> Vec<String> {
    plan_of(text)
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// What the fixture says with one piece of its text replaced.
fn changed(from: &str, to: &str) -> String {
    let text = GATEWAY.replace(from, to);
    assert_ne!(text, GATEWAY, "{from} is not in the fixture");
    text
}

#[test]
fn a_gateway_is_planned_whole() {
    let plan = plan_of(GATEWAY).unwrap();
    let keys: Vec<&str> = plan.keys().map(Key::as_str).collect();
    assert_eq!(
        keys,
        [
            "address/ipsec0/169.254.0.1/30",
            "address/lan0/10.1.0.1/24",
            "address/lan0/2001:db8:1::1/64",
            "address/wan0/192.0.2.1/24",
            "connection/to-b",
            "credential/hq",
            "forwarding",
            "interface/lan0",
            "interface/wan0",
            "linux/address/ipsec0/169.254.0.1/30",
            "linux/address/lan0/10.1.0.1/24",
            "linux/address/lan0/2001:db8:1::1/64",
            "linux/address/wan0/192.0.2.1/24",
            "linux/link/ipsec0",
            "linux/link/lan0",
            "linux/link/wan0",
            "linux/route/0.0.0.0/0",
            "linux/route/10.2.0.0/24",
            "route/default/0.0.0.0/0",
            "route/default/10.2.0.0/24",
            "tunnel/ipsec0",
            "vrf/default",
        ]
    );
    let connection = &plan[&Key::from("connection/to-b")];
    let texts = |keys: &[Key]| keys.iter().map(Key::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(&connection.needs),
        ["credential/hq", "linux/address/wan0/192.0.2.1/24"]
    );
    assert_eq!(
        texts(&connection.after),
        ["forwarding", "linux/route/0.0.0.0/0"]
    );
    assert_eq!(connection.origins, ["connections[to-b]"]);
    let Some(Kind::Connection(value)) = &connection.value.kind else {
        panic!("{connection:?}");
    };
    assert_eq!(value.children[0].if_id, 1);
    assert_eq!(value.children[0].local_selectors, ["0.0.0.0/0", "::/0"]);
    assert_eq!(value.dpd_delay, 30);

    let default_route = &plan[&Key::from("route/default/0.0.0.0/0")];
    assert_eq!(
        texts(&default_route.needs),
        ["address/wan0/192.0.2.1/24", "interface/wan0", "vrf/default"]
    );
    let Some(Kind::Interface(wan)) = &plan[&Key::from("interface/wan0")].value.kind else {
        panic!();
    };
    assert_eq!((wan.device.as_str(), wan.tap.as_str()), ("eth1", "wan0"));
}

/// Every key that a value waits for is in the plan, and no value waits for itself by any way.
#[test]
fn dependencies_are_closed_and_without_circles() {
    let plan = plan_of(GATEWAY).unwrap();
    let mut done: std::collections::BTreeSet<&Key> = std::collections::BTreeSet::new();
    while done.len() < plan.len() {
        let before = done.len();
        for (key, planned) in &plan {
            let mut waits = planned.needs.iter().chain(&planned.after);
            if waits.all(|other| done.contains(other)) {
                done.insert(key);
            }
        }
        assert!(done.len() > before, "stuck at {done:?}");
    }
}

#[test]
fn forwarding_comes_after_all_of_the_dataplane() {
    let plan = plan_of(GATEWAY).unwrap();
    let after = &plan[&Key::from("forwarding")].after;
    for (key, planned) in &plan {
        let waits = planned.part == Part::Dataplane && key.as_str() != "forwarding";
        assert_eq!(after.contains(key), waits, "{key}");
    }
}

#[test]
fn an_empty_configuration_forwards_nothing_and_is_right() {
    let plan = plan_of("{}").unwrap();
    let keys: Vec<&str> = plan.keys().map(Key::as_str).collect();
    assert_eq!(keys, ["forwarding", "vrf/default"]);
}

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
fn what_does_not_fit_together_is_refused() {
    for (text, expected) in [
        (
            changed(
                r#""name": "ipsec0", "if_id""#,
                r#""name": "ipsec0", "mtu": 600, "if_id""#,
            )
            .replace("169.254.0.1/30", "2001:db8:9::1/64"),
            "tunnels[ipsec0].mtu: 600 bytes with an IPv6 address; IPv6 needs at least 1280",
        ),
        (
            changed("192.0.2.254", "203.0.113.1"),
            "routes[default,0.0.0.0/0].next_hops[203.0.113.1]: 203.0.113.1 is on no network of VRF default; name its interface, or add an address or route that reaches it",
        ),
        (
            changed("192.0.2.254", "2001:db8:1::2"),
            "routes[default,0.0.0.0/0].next_hops[2001:db8:1::2]: 2001:db8:1::2 is not of the same family as 0.0.0.0/0",
        ),
        (
            changed("169.254.0.1/30", "10.1.0.129/25"),
            "tunnels[ipsec0].addresses[10.1.0.129/25]: 10.1.0.128/25 overlaps 10.1.0.0/24 of interfaces[lan0].addresses[10.1.0.1/24]",
        ),
        (
            changed("169.254.0.1/30", "169.254.0.3/30"),
            "tunnels[ipsec0].addresses[169.254.0.3/30]: 169.254.0.3/30 is a broadcast address; an interface has an address of its own",
        ),
        (
            changed(r#""device": "eth1""#, r#""device": "lan0""#),
            r"interfaces[wan0].device: lan0 is also that of interfaces[lan0]; each has its own",
        ),
        (
            changed("10.2.0.0/24", "10.1.0.0/24"),
            "routes[default,10.1.0.0/24].destination: 10.1.0.0/24 is on the link of lan0 already",
        ),
        (
            changed(
                r#""remote_address": "198.51.100.2""#,
                r#""remote_address": "2001:db8::2""#,
            ),
            "connections[to-b].remote_address: 2001:db8::2 is not of the same family as 192.0.2.1",
        ),
        (
            changed(
                r#"[{ "identity": "gateway-a" }, { "identity": "gateway-b" }]"#,
                r#"[{ "identity": "gateway-c" }]"#,
            ),
            r#"connections[to-b].local: no pre-shared key belongs to "gateway-a" or "gateway-b""#,
        ),
        (
            changed(
                r#""start_action": "start""#,
                r#""rekey_time": 600, "life_time": 300"#,
            ),
            "connections[to-b].children[net].life_time: 300 is not above 600 of rekey_time: the SA would end before it is rekeyed",
        ),
        (
            changed(r#""mtu": 1500"#, r#""mss": 1400"#),
            "interfaces[wan0].mss: has no effect without mss_clamp; set mss_clamp to true",
        ),
        (
            changed(
                r#""method": "psk", "identity": "gateway-a""#,
                r#""method": "certificate""#,
            ),
            "connections[to-b].local.certificates: must name the certificate that this gateway shows",
        ),
    ] {
        let errors = errors(&text);
        assert!(
            errors.contains(&expected.to_owned()),
            "{expected}\nnot in\n{errors:#?}"
        );
    }
}

#[test]
fn names_are_shared_by_interfaces_and_tunnels() {
    let text = r#"{"interfaces": [{"name": "x0"}, {"name": "lo"}], "tunnels": [{"name": "x0", "if_id": 1}, {"name": "y0", "if_id": 1}]}"#;
    assert_eq!(
        errors(text),
        [
            r#"interfaces[lo].name: "lo" means something else to Linux; choose another name"#,
            "tunnels[x0].name: x0 is also that of interfaces[x0]; each has its own",
        ]
    );
    let text = r#"{"tunnels": [{"name": "x0", "if_id": 1}, {"name": "y0", "if_id": 1}]}"#;
    assert_eq!(
        errors(text),
        ["tunnels[y0].if_id: 1 is also that of tunnels[x0]; each has its own"]
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
fn a_second_underlay_is_refused() {
    let text = changed(
        r#""tunnels": ["#,
        r#""vrfs": [{"name": "blue"}], "tunnels": [{"name": "ipsec1", "if_id": 2, "underlay_vrf": "blue"}, "#,
    );
    let second = r#"{
          "name": "other",
          "tunnel": "ipsec1"
        },
        {
          "name": "net","#;
    let text = text.replace("{\n          \"name\": \"net\",", second);
    let errors = errors(&text);
    assert!(
        errors.contains(
            &"connections[to-b].children[net].tunnel: IKE runs in VRF blue already, because of connections[to-b].children[other]; one underlay VRF is supported".to_owned()
        ),
        "{errors:#?}"
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

#[test]
fn digests_tell_credentials_apart_and_nothing_else() {
    let credential = |text: &str, key: &DigestKey| {
        let config = config_from_json(text.as_bytes()).unwrap();
        let plan = plan(&config, key).unwrap();
        plan[&Key::from("credential/hq")].value.clone()
    };
    let first = credential(GATEWAY, &key());
    let again = credential(GATEWAY, &key());
    let other = credential(&changed("0x6b6579", "0x6b657a"), &key());
    let elsewhere = credential(GATEWAY, &DigestKey::new([8; 32]));
    assert!(same(&first, &again));
    assert!(!same(&first, &other));
    assert!(!same(&first, &elsewhere));
    // What a part gives back: no secret.
    let Some(Kind::Credential(full)) = first.kind.clone() else {
        panic!();
    };
    let held = bus::Value {
        kind: Some(Kind::Credential(bus::Credential { kind: None, ..full })),
    };
    assert!(same(&first, &held));
    assert!(!same(&other, &held));
}

#[test]
fn the_order_of_lists_means_nothing() {
    let config = config_from_json(GATEWAY.as_bytes()).unwrap();
    let mut turned = config.clone();
    turned.interfaces.reverse();
    turned.routes.reverse();
    turned.interfaces[1].addresses.reverse();
    assert_eq!(
        plan(&config, &key()).unwrap(),
        plan(&turned, &key()).unwrap()
    );
}

#[test]
fn certificates_become_der() {
    let pem = "-----BEGIN EC PARAMETERS-----\\nBggqhkjOPQMBBw==\\n-----END EC PARAMETERS-----\\n-----BEGIN EC PRIVATE KEY-----\\nAAEC\\n-----END EC PRIVATE KEY-----\\n";
    let text =
        format!(r#"{{"credentials": {{"private_keys": [{{"name": "a", "pem": "{pem}"}}]}}}}"#);
    let plan = plan_of(&text).unwrap();
    let Some(Kind::Credential(credential)) = &plan[&Key::from("credential/a")].value.kind else {
        panic!();
    };
    let Some(bus::credential::Kind::PrivateKey(private)) = &credential.kind else {
        panic!();
    };
    assert_eq!(private.secret, [0, 1, 2]);
    let text =
        format!(r#"{{"credentials": {{"certificates": [{{"name": "a", "pem": "{pem}"}}]}}}}"#);
    assert_eq!(
        errors(&text),
        [
            "credentials.certificates[a].pem: not PEM of a certificate: only EC PARAMETERS, EC PRIVATE KEY"
        ]
    );
}

/// A configuration that did not come through the decoder is refused, not planned in part.
#[test]
fn texts_that_nobody_checked_are_refused() {
    let mut config = config_from_json(GATEWAY.as_bytes()).unwrap();
    config.routes[0].destination = Some("anywhere".to_owned());
    config.routes[1].next_hops[0].gateway = Some("there".to_owned());
    config.interfaces[0].addresses[0].address = Some("here".to_owned());
    config.connections[0].local_address = Some("me".to_owned());
    let errors: Vec<String> = plan(&config, &key())
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        errors,
        [
            r#"interfaces[lan0].addresses[here]: "here" is not an address with the length of its network"#,
            r#"routes[default,anywhere]: "anywhere" is not a network"#,
            r#"routes[default,10.2.0.0/24].next_hops[there,ipsec0]: "there" is not an address"#,
            r#"connections[to-b].local_address: "me" is not an address"#,
        ]
    );
}

#[test]
fn a_connection_without_a_local_address_comes_after_the_one_it_will_use() {
    let text = changed(r#""local_address": "192.0.2.1","#, "");
    let plan = plan_of(&text).unwrap();
    let connection = &plan[&Key::from("connection/to-b")];
    let texts = |keys: &[Key]| keys.iter().map(Key::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&connection.needs), ["credential/hq"]);
    assert_eq!(
        texts(&connection.after),
        [
            "forwarding",
            "linux/address/wan0/192.0.2.1/24",
            "linux/route/0.0.0.0/0"
        ]
    );
}

/// Random small configurations of few names and networks, so that they often meet.
fn configurations() -> impl proptest::strategy::Strategy<Value = Config> {
    use proptest::prelude::*;
    let port = prop_oneof![Just("a0"), Just("b0"), Just("t0"), Just("t1")];
    let vrf = prop_oneof![Just(None), Just(Some("blue".to_owned()))];
    let prefix = (
        0_u8..4,
        1_u8..4,
        prop_oneof![Just(8_u8), Just(24), Just(32)],
    )
        .prop_map(|(network, host, length)| format!("10.{network}.0.{host}/{length}"));
    let interface = (
        port.clone(),
        vrf.clone(),
        any::<Option<bool>>(),
        proptest::collection::vec(prefix.clone(), 0..3),
    );
    let route = (
        vrf,
        prefix,
        proptest::option::of((0_u8..4, 1_u8..9)),
        proptest::option::of(port.clone()),
    );
    let child = (port, prop_oneof![Just(None), Just(Some("blue".to_owned()))]);
    (
        proptest::collection::vec(interface.clone(), 0..3),
        proptest::collection::vec((interface, 1_u32..4), 0..3),
        proptest::collection::vec(route, 0..5),
        proptest::collection::vec(child, 0..3),
    )
        .prop_map(|(interfaces, tunnels, routes, children)| {
            let list = |texts: Vec<String>| {
                texts
                    .into_iter()
                    .map(|text| crate::config::InterfaceAddress {
                        address: Some(text),
                    })
                    .collect::<Vec<_>>()
            };
            Config {
                vrfs: vec![crate::config::Vrf {
                    name: Some("blue".to_owned()),
                    description: None,
                }],
                interfaces: interfaces
                    .into_iter()
                    .map(
                        |(name, vrf, self_traffic, addresses)| crate::config::Interface {
                            name: Some(name.to_owned()),
                            vrf,
                            self_traffic,
                            addresses: list(addresses),
                            ..Default::default()
                        },
                    )
                    .collect(),
                tunnels: tunnels
                    .into_iter()
                    .map(|((name, vrf, _, addresses), if_id)| crate::config::Tunnel {
                        name: Some(name.to_owned()),
                        vrf,
                        if_id: Some(if_id),
                        addresses: list(addresses),
                        ..Default::default()
                    })
                    .collect(),
                routes: routes
                    .into_iter()
                    .map(
                        |(vrf, destination, gateway, interface)| crate::config::Route {
                            action: None,
                            vrf,
                            destination: Some(destination),
                            next_hops: vec![crate::config::NextHop {
                                gateway: gateway
                                    .map(|(network, host)| format!("10.{network}.0.{host}")),
                                interface: interface.map(str::to_owned),
                                vrf: None,
                            }],
                        },
                    )
                    .collect(),
                connections: children
                    .into_iter()
                    .enumerate()
                    .map(|(place, (tunnel, _))| crate::config::Connection {
                        name: Some(format!("c{place}")),
                        remote_address: Some("10.1.0.9".to_owned()),
                        children: vec![crate::config::Child {
                            name: Some(format!("n{place}")),
                            tunnel: Some(tunnel.to_owned()),
                            ..Default::default()
                        }],
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }
        })
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

/// `wan0` in `default`, `lan0` in `inner`; each leads into the other.
const LEAKING: &str = r#"{
  "vrfs": [{ "name": "inner" }],
  "interfaces": [
    { "name": "wan0", "addresses": [{ "address": "192.0.2.1/24" }] },
    { "name": "lan0", "vrf": "inner", "addresses": [{ "address": "10.1.0.1/24" }] }
  ],
  "routes": [
    { "vrf": "inner", "destination": "0.0.0.0/0", "next_hops": [{ "gateway": "192.0.2.254", "vrf": "default" }] },
    { "vrf": "inner", "destination": "198.51.100.0/24",
      "next_hops": [{ "gateway": "203.0.113.9", "interface": "wan0", "vrf": "default" }] },
    { "destination": "10.1.0.0/24", "next_hops": [{ "vrf": "inner" }] }
  ]
}"#;

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

/// charon's own default offers what the dataplane does not have.
#[test]
fn without_proposals_only_algorithms_of_the_dataplane_are_offered() {
    let offered = |text: &str| {
        let plan = plan_of(text).unwrap();
        match &plan[&Key::from("connection/to-b")].value.kind {
            Some(Kind::Connection(connection)) => connection.children[0].esp_proposals.clone(),
            other => panic!("{other:?}"),
        }
    };
    let (aead, classic) = (
        "aes128gcm16-aes192gcm16-aes256gcm16",
        "aes128-aes192-aes256-sha256-sha384-sha512-sha1",
    );
    let with = |proposals: &str| {
        let named = format!(r#""proposals": [{proposals}]"#);
        offered(&changed(
            r#""proposals": [{ "proposal": "aes128gcm16" }]"#,
            &named,
        ))
    };
    assert_eq!(with(""), [aead, classic]);
    assert_eq!(with(r#"{ "proposal": "null-sha256" }"#), ["null-sha256"]);
    let last = r#"{ "proposal": "aes256-sha512" }, { "proposal": "default" }"#;
    assert_eq!(with(last), ["aes256-sha512", aead, classic]);
}

#[test]
fn a_child_without_a_tunnel_is_guarded_by_its_selectors() {
    let text = changed(
        r#""tunnel": "ipsec0""#,
        r#""local_selectors": [{ "selector": "10.1.0.0/24" }]"#,
    );
    let text = text.replacen(
        r#""routes":"#,
        r#""policies": [{ "name": "lan", "action": "bypass", "local_selectors": [{ "selector": "10.1.0.0/24" }],
            "remote_selectors": [{ "selector": "10.1.0.0/24[tcp/22]" }] }],
        "routes":"#,
        1,
    );
    let plan = plan_of(&text).unwrap();
    let Some(Kind::Tunnel(tunnel)) = &plan[&Key::from("tunnel/policies")].value.kind else {
        panic!();
    };
    assert_eq!(
        (tunnel.if_id, tunnel.vrf.as_str(), tunnel.admin_up),
        (0, "default", true)
    );
    let policy = |key: &str| {
        let planned = &plan[&Key::from(key)];
        assert_eq!(planned.needs, [Key::from("tunnel/policies")]);
        assert!(
            plan[&Key::from("forwarding")]
                .after
                .contains(&Key::from(key))
        );
        match &planned.value.kind {
            Some(Kind::Policy(policy)) => policy.clone(),
            other => panic!("{other:?}"),
        }
    };
    let guard = policy("guard/net");
    assert_eq!(guard.action(), bus::traffic_policy::Action::Protect);
    // Everything of both families is what the selectors of the other side are without any.
    assert_eq!((guard.local.len(), guard.remote.len()), (1, 2));
    let bypass = policy("policy/lan");
    assert_eq!(bypass.action(), bus::traffic_policy::Action::Bypass);
    assert_eq!(
        (
            bypass.priority,
            bypass.remote[0].first_port,
            bypass.remote[0].protocol
        ),
        (1000, 22, 6)
    );
    let Some(Kind::Connection(connection)) = &plan[&Key::from("connection/to-b")].value.kind else {
        panic!();
    };
    assert_eq!(connection.children[0].if_id, 0);
    assert!(
        !plan_of(GATEWAY)
            .unwrap()
            .contains_key(&Key::from("tunnel/policies"))
    );
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

#[test]
fn a_key_is_one_persons_and_nobody_is_root() {
    let key = format!("ssh-ed25519 {}", "A".repeat(68));
    let user = |name: &str, comment: &str| {
        format!(
            r#"{{"name":"{name}","role":"operator","ssh_keys":[{{"name":"laptop","public_key":"{key}{comment}"}}]}}"#
        )
    };
    let config = |users: &[String]| format!(r#"{{"system":{{"users":[{}]}}}}"#, users.join(","));
    plan_of(&config(&[user("alice", "")])).unwrap();
    let errors_of = |users: &[String]| errors(&config(users));
    let both = errors_of(&[user("alice", " at home"), user("bob", "")]);
    assert_eq!(
        both,
        [
            "system.users[bob].ssh_keys[laptop].public_key: this key is also that of system.users[alice].ssh_keys[laptop].public_key; each has its own"
        ]
    );
    let root = errors_of(&[user("root", "")]);
    assert_eq!(root.len(), 1, "{root:?}");
    assert!(root[0].starts_with("system.users[root].name: "), "{root:?}");
}

/// The fixture with one piece of the connection replaced, and EAP secrets.
fn with_eap(changes: &[(&str, &str)]) -> String {
    let mut text = changed(
        r#""credentials": {"#,
        r#""credentials": { "eap_secrets": [{ "name": "me", "identities": [{ "identity": "branch" }], "secret": "pass" }],"#,
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in the fixture");
        text = text.replace(from, to);
    }
    text
}

const LOCAL: &str = r#""local": { "method": "psk", "identity": "gateway-a" }"#;
const REMOTE: &str = r#""remote": { "method": "psk", "identity": "gateway-b" }"#;
const START: &str = r#""start_action": "start""#;

fn connection_of(plan: &Plan) -> (&bus::Connection, &[Key]) {
    let planned = &plan[&Key::from("connection/to-b")];
    let Some(Kind::Connection(connection)) = &planned.value.kind else {
        panic!("{planned:?}");
    };
    (connection, &planned.needs)
}

#[test]
fn eap_on_either_side_is_planned_with_its_password() {
    let own = r#""local": { "method": "eap-mschapv2", "identity": "gateway-a", "eap_identity": "branch" }"#;
    let plan = plan_of(&with_eap(&[(LOCAL, own)])).unwrap();
    let (connection, needs) = connection_of(&plan);
    let local = connection.local.as_ref().unwrap();
    assert_eq!(
        (
            local.method.as_str(),
            local.identity.as_str(),
            local.eap_identity.as_str()
        ),
        ("eap-mschapv2", "gateway-a", "branch")
    );
    // The peer's key, and the password.
    assert_eq!(
        needs
            .iter()
            .filter(|key| key.as_str().starts_with("credential/"))
            .count(),
        2
    );
    assert!(needs.contains(&Key::from("credential/me")));
    let credential = &plan[&Key::from("credential/me")];
    let Some(Kind::Credential(credential)) = &credential.value.kind else {
        panic!("no credential");
    };
    let Some(bus::credential::Kind::Eap(password)) = &credential.kind else {
        panic!("no password");
    };
    assert_eq!(password.secret, b"pass");
    assert!(!credential.digest.is_empty());

    // The peer proves itself: it is asked for its name, and begins.
    let theirs = r#""remote": { "method": "eap-md5" }"#;
    let waits = r#""start_action": "none""#;
    let plan = plan_of(&with_eap(&[(REMOTE, theirs), (START, waits)])).unwrap();
    let (connection, needs) = connection_of(&plan);
    let remote = connection.remote.as_ref().unwrap();
    assert_eq!(
        (
            remote.method.as_str(),
            remote.identity.as_str(),
            remote.eap_identity.as_str()
        ),
        ("eap-md5", "", "%any")
    );
    assert!(
        needs.contains(&Key::from("credential/me")) && needs.contains(&Key::from("credential/hq"))
    );
}

#[test]
fn eap_that_cannot_work_is_refused() {
    let eap = |side: &str, rest: &str| format!(r#""{side}": {{ "method": "eap-mschapv2"{rest} }}"#);
    let waits = r#""start_action": "none""#;
    for (changes, expected) in [
        (
            vec![
                (LOCAL, eap("local", r#", "identity": "branch""#)),
                (REMOTE, eap("remote", "")),
            ],
            "connections[to-b].remote.method: one side at most uses EAP (RFC 7296 section 2.16): the one that begins",
        ),
        (
            vec![(REMOTE, eap("remote", ""))],
            "connections[to-b].children[net].start_action: the peer proves who it is by EAP, so it begins; none is possible",
        ),
        (
            vec![(LOCAL, eap("local", ""))],
            "connections[to-b].local.eap_identity: must be given, or the identity: the user name by which this gateway proves who it is",
        ),
        (
            vec![(LOCAL, eap("local", r#", "identity": "other""#))],
            r#"connections[to-b].local: no EAP secret belongs to "other""#,
        ),
        (
            vec![
                (REMOTE, eap("remote", r#", "eap_identity": "other""#)),
                (START, waits.to_owned()),
            ],
            r#"connections[to-b].remote: no EAP secret belongs to "other""#,
        ),
        (
            vec![
                (LOCAL, eap("local", r#", "identity": "branch""#)),
                (
                    r#""remote_address": "198.51.100.2""#,
                    r#""remote_address": "%any""#.to_owned(),
                ),
            ],
            "connections[to-b].remote_address: this gateway proves who it is by EAP, so it begins: one peer must be named",
        ),
        (
            vec![
                (
                    REMOTE,
                    r#""remote": { "method": "eap-tls", "identity": "b" }"#.to_owned(),
                ),
                (START, waits.to_owned()),
            ],
            "connections[to-b].local.method: a peer that uses eap-tls wants a certificate of this gateway",
        ),
        (
            vec![(
                LOCAL,
                r#""local": { "method": "eap-tls", "identity": "gateway-a" }"#.to_owned(),
            )],
            "connections[to-b].local.certificates: must name the certificate that this gateway shows",
        ),
        (
            vec![(
                LOCAL,
                LOCAL.replace(" }", r#", "eap_identity": "branch" }"#),
            )],
            "connections[to-b].local.eap_identity: means something with EAP only",
        ),
        (
            vec![(
                REMOTE,
                REMOTE.replace(" }", r#", "aaa_identity": "branch" }"#),
            )],
            "connections[to-b].remote.aaa_identity: means something with eap-tls of the local side only",
        ),
    ] {
        let changes: Vec<(&str, &str)> = changes
            .iter()
            .map(|(from, to)| (*from, to.as_str()))
            .collect();
        let errors = errors(&with_eap(&changes));
        assert!(
            errors.contains(&expected.to_owned()),
            "{expected}\nnot in\n{errors:#?}"
        );
    }
}

#[test]
fn reauthentication_comes_after_rekeying() {
    let times = |text: &str| changed(r#""name": "to-b","#, &format!(r#""name": "to-b", {text},"#));
    let plan = plan_of(&times(r#""reauth_time": 3600, "rekey_time": 600"#)).unwrap();
    let (connection, _) = connection_of(&plan);
    assert_eq!(
        (connection.reauth_time, connection.rekey_time),
        (3600, Some(600))
    );
    for right in [
        r#""reauth_time": 0, "rekey_time": 600"#,
        r#""reauth_time": 600, "rekey_time": 0"#,
    ] {
        plan_of(&times(right)).unwrap();
    }
    assert_eq!(
        errors(&times(r#""reauth_time": 600, "rekey_time": 600"#)),
        [
            "connections[to-b].reauth_time: 600 s is not above the rekey_time of 600 s: the IKE_SA would never be rekeyed"
        ]
    );
}

#[test]
fn names_are_looked_up_where_the_configuration_says_before_a_peer_is_called() {
    let text = changed(
        r#""host_name": "gateway-a""#,
        r#""dns_servers": [{ "address": "192.0.2.53" }, { "address": "2001:db8::53" }],
           "search_domains": [{ "domain": "example.com" }]"#,
    );
    let key = Key::from("linux/resolver");
    let plan = plan_of(&text).unwrap();
    let Some(Kind::Resolver(resolver)) = &plan[&key].value.kind else {
        panic!("no resolver");
    };
    assert_eq!(resolver.servers, ["192.0.2.53", "2001:db8::53"]);
    assert_eq!(resolver.domains, ["example.com"]);
    assert_eq!(
        plan[&key].origins,
        ["system.dns_servers", "system.search_domains"]
    );
    assert!(!plan[&Key::from("connection/to-b")].after.contains(&key));
    let named = text.replace(
        r#""remote_address": "198.51.100.2""#,
        r#""remote_address": "hq.example.com""#,
    );
    let plan = plan_of(&named).unwrap();
    assert!(plan[&Key::from("connection/to-b")].after.contains(&key));

    assert_eq!(
        errors(&changed(
            r#""host_name": "gateway-a""#,
            r#""search_domains": [{ "domain": "example.com" }]"#
        )),
        ["system.search_domains: has an effect only together with dns_servers"]
    );
}

#[test]
fn only_zones_of_the_tz_database_are_taken() {
    let zone = |name: &str| {
        changed(
            r#""host_name": "gateway-a""#,
            &format!(r#""time_zone": "{name}""#),
        )
    };
    for right in [
        "UTC",
        "Europe/Zurich",
        "America/Argentina/Buenos_Aires",
        "Etc/GMT+5",
    ] {
        plan_of(&zone(right)).unwrap_or_else(|errors| panic!("{errors}"));
    }
    assert_eq!(
        errors(&zone("Europe/Zürich".replace('ü', "ue").as_str())),
        [r#"system.time_zone: "Europe/Zuerich" is not in the tz database; there is Europe/Zurich"#]
    );
    assert!(errors(&zone("Xyz"))[0].contains("there is UTC, "));
}
