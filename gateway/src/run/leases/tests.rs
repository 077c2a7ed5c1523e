//! One server, two servers, and what is there already.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::bus::value::Kind;
use culvert_model::plan::{DigestKey, Key, plan as plan_configured};
use culvert_model::{decode, types};
use ipnet::IpNet;

use super::*;

fn configured(more: &str) -> Plan {
    let text = format!(
        r#"{{"interfaces": [
            {{"name": "wan", "dhcp_client": {{"enabled": true}}}},
            {{"name": "lan", "addresses": [{{"address": "10.1.0.1/24"}}]}}
        ], "tunnels": [{{"name": "ipsec0", "if_id": 1}}] {more}}}"#
    );
    let config = decode::config_from_json(text.as_bytes()).unwrap();
    plan_configured(&config, &DigestKey::new([0; 32])).unwrap()
}

fn prefix(text: &str) -> types::IpPrefix {
    text.parse::<IpNet>().unwrap().into()
}

fn address(text: &str) -> types::IpAddress {
    text.parse::<IpAddr>().unwrap().into()
}

fn client(own: &str, routes: &[(&str, &str)]) -> bus::DhcpClientState {
    bus::DhcpClientState {
        interface: "wan".to_owned(),
        state: State::Bound.into(),
        lease: Some(bus::DhcpLease {
            address: Some(prefix(own)),
            server: Some(address("192.0.2.1")),
            routes: routes
                .iter()
                .map(|(destination, gateway)| bus::DhcpRoute {
                    destination: Some(prefix(destination)),
                    gateway: (!gateway.is_empty()).then(|| address(gateway)),
                })
                .collect(),
            dns_servers: vec![address("9.9.9.9")],
            domain: "example.com".to_owned(),
            expire_s: 60,
            ..bus::DhcpLease::default()
        }),
        ..bus::DhcpClientState::default()
    }
}

fn keys(client: bus::DhcpClientState, configured: &Plan, learnt: &Plan) -> Vec<String> {
    let mut leases = Leases::default();
    assert!(leases.heard(vec![client], configured, Instant::now()));
    let plan = leases.plan(configured, learnt);
    for planned in plan.values() {
        for need in &planned.needs {
            assert!(
                configured.contains_key(need) || plan.contains_key(need),
                "{need}"
            );
        }
    }
    plan.keys().map(Key::to_string).collect()
}

const DEFAULT: (&str, &str) = ("0.0.0.0/0", "192.0.2.1");

#[test]
fn a_lease_is_an_address_routes_and_name_servers() {
    let of = |routes: &[(&str, &str)], more: &str| {
        keys(
            client("192.0.2.10/24", routes),
            &configured(more),
            &Plan::new(),
        )
    };
    let own = [
        "address/wan/192.0.2.10/24",
        "linux/address/wan/192.0.2.10/24",
    ];
    assert_eq!(of(&[], ""), [own[0], own[1], "linux/resolver"]);
    assert_eq!(
        of(&[DEFAULT], ""),
        [
            own[0],
            own[1],
            "linux/resolver",
            "linux/route/0.0.0.0/0",
            "obtained/default/0.0.0.0/0",
        ]
    );
    // Configured name servers come first.
    let dns = r#", "system": {"dns_servers": [{"address": "8.8.8.8"}]}"#;
    assert_eq!(of(&[], dns), own);
    // A gateway that nothing of the lease has on the link is none.
    assert_eq!(of(&[("10.9.0.0/16", "10.9.0.1")], dns), own);
}

#[test]
fn no_route_of_a_lease_leads_away_what_another_route_leads() {
    let route = |to: &str, by: &str| {
        format!(
            r#", "routes": [{{"destination": "{to}", "next_hops": [{{"interface": "{by}"}}]}}]"#
        )
    };
    let tunnel = configured(&route("10.2.0.0/16", "ipsec0"));
    let told = [
        ("10.2.0.0/16", "192.0.2.1"),
        ("10.2.3.0/24", "192.0.2.1"),
        ("10.1.0.128/25", "192.0.2.1"),
        ("10.3.0.0/16", "192.0.2.1"),
    ];
    let taken = |configured: &Plan, learnt: &Plan| {
        let all = keys(client("192.0.2.10/24", &told), configured, learnt);
        all.into_iter()
            .filter(|key| key.starts_with("obtained/"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        taken(&tunnel, &Plan::new()),
        ["obtained/default/10.3.0.0/16"]
    );
    // Everything goes by the tunnel.
    let everything = configured(&route("0.0.0.0/0", "ipsec0"));
    assert!(taken(&everything, &Plan::new()).is_empty());
    // A routing daemon knows better, too.
    let key = Key::from("route/default/10.2.0.0/16");
    let learnt = Plan::from([(key.clone(), tunnel[&key].clone())]);
    assert_eq!(
        taken(&configured(""), &learnt),
        ["obtained/default/10.3.0.0/16"]
    );
}

#[test]
fn a_network_of_a_lease_is_nobody_elses() {
    let tunnel = configured(
        r#", "routes": [{"destination": "10.2.0.0/16", "next_hops": [{"interface": "ipsec0"}]}]"#,
    );
    let of = |own: &str, learnt: &Plan| {
        let mut all = keys(client(own, &[]), &tunnel, learnt);
        all.retain(|key| key != "linux/resolver");
        all
    };
    let none = Plan::new();
    // Of the tunnel's networks, and of the LAN: no address at all.
    assert!(of("10.2.0.10/24", &none).is_empty());
    assert!(of("10.2.0.10/8", &none).is_empty());
    assert!(of("10.1.0.10/25", &none).is_empty());
    assert!(of("10.0.0.10/8", &none).is_empty());
    assert_eq!(of("10.3.0.10/24", &none).len(), 2);
    // Within what was learnt.
    let key = Key::from("route/default/10.2.0.0/16");
    let mut learnt = tunnel[&key].as_ref().clone();
    if let Some(Kind::Route(route)) = &mut learnt.value.kind {
        route.destination = Some(prefix("10.7.0.0/16"));
        route.learnt = true;
    }
    let learnt = Plan::from([(Key::from("learnt/default/10.7.0.0/16"), Arc::new(learnt))]);
    assert!(of("10.7.3.10/24", &learnt).is_empty());
    // Where all goes into the tunnel a link is small; beside another way out in the clear it need not be.
    let by = |port: &str| {
        configured(&format!(
            r#", "routes": [{{"destination": "0.0.0.0/0", "next_hops": [{{"interface": "{port}"}}]}}]"#
        ))
    };
    let used = |own: &str, plan: &Plan| !keys(client(own, &[]), plan, &none).is_empty();
    assert!(used("172.16.0.10/16", &by("ipsec0")));
    assert!(!used("172.16.0.10/15", &by("ipsec0")));
    assert!(used("172.16.0.10/15", &by("lan")));
}

#[test]
fn a_default_route_of_the_other_family_is_in_nobodys_way() {
    let six = |by: &str| {
        configured(&format!(
            r#", "routes": [{{"destination": "::/0", "next_hops": [{{"interface": "{by}"}}]}}]"#
        ))
    };
    let told = [DEFAULT, ("10.9.0.0/16", "192.0.2.1")];
    for by in ["lan", "ipsec0"] {
        let all = keys(client("192.0.2.10/8", &told), &six(by), &Plan::new());
        let routes: Vec<_> = all
            .iter()
            .filter(|key| key.starts_with("obtained/"))
            .collect();
        assert_eq!(
            routes,
            ["obtained/default/0.0.0.0/0", "obtained/default/10.9.0.0/16"],
            "{by}"
        );
    }
}

#[test]
fn no_lease_makes_a_protected_default_route_one_in_the_clear() {
    let tunnel = configured(
        r#", "routes": [
            {"destination": "10.99.0.1/32", "next_hops": [{"interface": "ipsec0"}]},
            {"destination": "0.0.0.0/0", "next_hops": [{"gateway": "10.99.0.1"}]}
        ]"#,
    );
    let lease = client("10.99.0.50/24", &[("64.0.0.0/8", ""), ("65.1.0.0/16", "")]);
    let all = keys(lease, &tunnel, &Plan::new());
    let routes: Vec<_> = all
        .iter()
        .filter(|key| key.starts_with("obtained/"))
        .collect();
    assert_eq!(routes, ["obtained/default/65.1.0.0/16"]);
}

#[test]
fn of_two_leases_the_older_comes_first() {
    let text = r#"{"interfaces": [
        {"name": "guest", "dhcp_client": {"enabled": true}},
        {"name": "wan", "dhcp_client": {"enabled": true}}
    ]}"#;
    let config = decode::config_from_json(text.as_bytes()).unwrap();
    let both = plan_configured(&config, &DigestKey::new([0; 32])).unwrap();
    let of = |interface: &str, own: &str, routes: &[(&str, &str)]| bus::DhcpClientState {
        interface: interface.to_owned(),
        ..client(own, routes)
    };
    let wan = of("wan", "192.0.2.10/24", &[DEFAULT]);
    let now = Instant::now();
    let obtained = |guest: bus::DhcpClientState| {
        let mut leases = Leases::default();
        assert!(leases.heard(vec![wan.clone()], &both, now));
        assert!(leases.heard(vec![guest, wan.clone()], &both, now));
        let plan = leases.plan(&both, &Plan::new());
        plan.iter()
            .filter(|(_, planned)| planned.origins == ["DHCP on guest"])
            .map(|(key, _)| key.to_string())
            .filter(|key| !key.starts_with("linux/"))
            .collect::<Vec<_>>()
    };
    for taken in [
        "192.0.2.66/24",
        "192.0.2.10/24",
        "192.0.2.66/25",
        "192.0.1.66/16",
    ] {
        assert!(obtained(of("guest", taken, &[])).is_empty(), "{taken}");
    }
    let told = [
        ("192.0.2.0/25", "198.51.100.1"),
        ("0.0.0.0/0", "198.51.100.1"),
        ("203.0.113.0/24", "198.51.100.1"),
    ];
    assert_eq!(
        obtained(of("guest", "198.51.100.9/24", &told)),
        [
            "address/guest/198.51.100.9/24",
            "obtained/default/203.0.113.0/24"
        ]
    );
}

#[test]
fn a_lease_stays_while_nothing_is_said_and_goes_with_its_time() {
    let now = Instant::now();
    let plan = configured("");
    let mut leases = Leases::default();
    let lease = client("192.0.2.10/24", &[DEFAULT]);
    assert!(leases.heard(vec![lease.clone()], &plan, now));
    // The same again, renewed.
    assert!(!leases.heard(vec![lease.clone()], &plan, now + GRACE));
    // The process is new: first it has no client yet, then one that asks whether the lease holds.
    assert!(!leases.heard(Vec::new(), &plan, now));
    let without = |state: State| bus::DhcpClientState {
        state: state.into(),
        lease: None,
        ..lease.clone()
    };
    assert!(!leases.heard(vec![without(State::Rebooting)], &plan, now));
    assert!(leases.heard(vec![without(State::Init)], &plan, now));
    assert!(leases.heard(vec![lease.clone()], &plan, now));
    // Nobody wants it any more.
    assert!(leases.heard(Vec::new(), &Plan::new(), now));
    assert!(leases.heard(vec![lease], &plan, now));
    let over = leases.deadline().unwrap();
    assert_eq!(over, now + Duration::from_mins(1) + GRACE);
    assert!(!leases.expire(now + Duration::from_mins(1)));
    assert!(leases.expire(over));
    assert!(leases.plan(&plan, &Plan::new()).is_empty());
}
