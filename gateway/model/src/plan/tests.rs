//! Configurations and the plans that come of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ike;
mod network;

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
            "linux/host_name",
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

const LOCAL: &str = r#""local": { "method": "psk", "identity": "gateway-a" }"#;

const REMOTE: &str = r#""remote": { "method": "psk", "identity": "gateway-b" }"#;

const START: &str = r#""start_action": "start""#;

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
fn the_clock_is_set_by_the_servers_of_the_configuration() {
    let text = changed(
        r#""host_name": "gateway-a""#,
        r#""ntp_servers": [{ "host": "192.0.2.123" }, { "host": "ntp.example.com", "prefer": true }]"#,
    );
    let plan = plan_of(&text).unwrap();
    let planned = &plan[&Key::from("linux/ntp")];
    let Some(Kind::Ntp(ntp)) = &planned.value.kind else {
        panic!("no servers");
    };
    let servers: Vec<_> = ntp
        .servers
        .iter()
        .map(|server| (server.host.as_str(), server.prefer))
        .collect();
    assert_eq!(servers, [("192.0.2.123", false), ("ntp.example.com", true)]);
    assert_eq!(planned.origins, ["system.ntp_servers"]);
    assert_eq!(planned.part, Part::Linux);
    assert!(!plan.contains_key(&Key::from("linux/host_name")));
}

#[test]
fn the_gateway_is_called_as_configured() {
    let plan = plan_of(GATEWAY).unwrap();
    let planned = &plan[&Key::from("linux/host_name")];
    let Some(Kind::HostName(name)) = &planned.value.kind else {
        panic!("no name");
    };
    assert_eq!(name.name, "gateway-a");
    assert_eq!(planned.origins, ["system.host_name"]);
    assert!(!plan.contains_key(&Key::from("linux/ntp")));
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
