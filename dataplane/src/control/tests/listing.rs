//! Routes as they are shown: what stands behind each, in pages.

use culvert_net::IpPrefix;

use super::RouteSource::{Configured, Connected, Local, Neighbour};
use super::*;

fn all(gateway: &Box, filter: &RouteFilter, most: usize) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut after = None;
    for _ in 0..10_000 {
        let page = gateway.plane.routes(filter, after, most);
        routes.extend(page.routes);
        after = page.next;
        if after.is_none() {
            return routes;
        }
    }
    panic!("the pages do not end");
}

fn shown(gateway: &Box, prefix: &str) -> Vec<(RouteSource, bool, Vec<String>)> {
    let filter = RouteFilter {
        within: Some(prefix.parse().unwrap()),
        ..RouteFilter::default()
    };
    let of = |route: &Route| route.destination == prefix.parse().unwrap();
    let line = |hop: &RouteHop| {
        let gateway = hop
            .gateway
            .map_or("-".to_owned(), |gateway| gateway.to_string());
        let words = [&hop.interface, &hop.vrf].map(|word| word.as_deref().unwrap_or("-"));
        let mac = hop.mac.map_or("-".to_owned(), |mac| mac.to_string());
        format!("{gateway} {} {} {mac} {}", words[0], words[1], hop.state)
    };
    all(gateway, &filter, 100)
        .iter()
        .filter(|route| of(route))
        .map(|route| {
            (
                route.source,
                route.active,
                route.hops.iter().map(line).collect(),
            )
        })
        .collect()
}

#[test]
fn every_kind_of_route_says_where_it_leads_and_what_keeps_it_from_it() {
    let mut gateway = Box::network();
    gateway.create((
        "vrf/blue".into(),
        Kind::Vrf(bus::Vrf {
            name: "blue".into(),
        }),
    ));
    gateway.create(tunnel("ipsec0", 7));
    gateway.create(route("10.2.0.0/16", &["%ipsec0"]));
    gateway.create(route("10.3.0.0/16", &["203.0.113.2"]));
    gateway.create(route("10.4.0.0/16", &["198.51.100.9"]));
    gateway.create(route("10.5.0.0/16", &["203.0.113.2%wan", "10.1.0.7%lan"]));
    gateway.create(route("10.1.0.0/24", &["203.0.113.2"]));
    gateway.create(route("10.6.0.0/16", &["%gone"]));
    gateway.create(no_way("10.7.0.0/16", bus::route::Action::Blackhole));
    let into = bus::NextHop {
        vrf: "blue".into(),
        ..bus::NextHop::default()
    };
    gateway.create(route_in("default", "10.8.0.0/16", into));
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    let one = |source, active, hops: &[&str]| {
        (
            source,
            active,
            hops.iter().map(|hop| (*hop).to_owned()).collect::<Vec<_>>(),
        )
    };
    let router = "203.0.113.2 wan - 02:00:00:00:02:02 resolved";
    for (prefix, expected) in [
        ("10.1.0.1/32", vec![one(Local, true, &[])]),
        ("10.1.0.255/32", vec![one(Local, true, &[])]),
        (
            "10.1.0.0/24",
            vec![
                one(Connected, true, &["- lan - - on-link"]),
                one(Configured, false, &[router]),
            ],
        ),
        ("203.0.113.2/32", vec![one(Neighbour, true, &[router])]),
        (
            "10.2.0.0/16",
            vec![one(Configured, true, &["- ipsec0 - - tunnel"])],
        ),
        ("10.3.0.0/16", vec![one(Configured, true, &[router])]),
        (
            "10.4.0.0/16",
            vec![one(Configured, true, &["198.51.100.9 - - - no-route"])],
        ),
        (
            "10.5.0.0/16",
            vec![one(
                Configured,
                true,
                &[router, "10.1.0.7 lan - - unresolved"],
            )],
        ),
        (
            "10.6.0.0/16",
            vec![one(Configured, true, &["- gone - - interface-down"])],
        ),
        (
            "10.7.0.0/16",
            vec![one(Configured, true, &["- - - - route-blackhole"])],
        ),
        (
            "10.8.0.0/16",
            vec![one(Configured, true, &["- - blue - lookup"])],
        ),
        (
            "fe80::/64",
            vec![
                one(Connected, true, &["- wan - - on-link"]),
                one(Connected, true, &["- lan - - on-link"]),
            ],
        ),
    ] {
        let mut found = shown(&gateway, prefix);
        for (_, _, hops) in &mut found {
            hops.sort_by_key(|hop| !hop.contains("resolved") || hop.contains("unresolved"));
        }
        assert_eq!(found, expected, "{prefix}");
    }
    let towards = |address: &str| {
        let filter = RouteFilter {
            towards: Some(ip(address)),
            vrf: Some("default".into()),
            ..RouteFilter::default()
        };
        let found = all(&gateway, &filter, 10);
        found.first().map(|route| route.destination.to_string())
    };
    assert_eq!(towards("10.5.6.7").as_deref(), Some("10.5.0.0/16"));
    assert_eq!(towards("203.0.113.2").as_deref(), Some("203.0.113.2/32"));
    assert_eq!(towards("8.8.8.8"), None);
}

#[test]
fn pages_of_any_size_give_every_route_once_and_in_order() {
    let mut gateway = Box::network();
    gateway.create((
        "vrf/blue".into(),
        Kind::Vrf(bus::Vrf {
            name: "blue".into(),
        }),
    ));
    for number in 0..200u32 {
        let gateway_of = |vrf: &str| bus::NextHop {
            vrf: vrf.into(),
            ..bus::NextHop::default()
        };
        let prefix = format!("100.64.{}.0/24", (number * 37) % 200);
        let (vrf, into) = if number % 2 == 0 {
            ("default", "blue")
        } else {
            ("blue", "default")
        };
        gateway.create(route_in(vrf, &prefix, gateway_of(into)));
        let prefix = format!("2001:db8:{:x}::/48", (number * 91) % 200);
        gateway.create(route_in(vrf, &prefix, gateway_of(into)));
    }
    let everything = RouteFilter::default();
    let whole = all(&gateway, &everything, 100_000);
    assert!(whole.len() > 400);
    for most in [1, 7, 64, 413] {
        assert_eq!(all(&gateway, &everything, most), whole, "{most} a page");
    }
    let key = |route: &Route| (route.vrf == "blue", route.destination);
    let configured = |route: &&Route| route.source == RouteSource::Configured;
    let order: Vec<_> = whole.iter().filter(configured).map(key).collect();
    assert!(order.is_sorted() && order.len() == 400);
    let blue = RouteFilter {
        vrf: Some("blue".into()),
        within: Some("100.64.0.0/10".parse::<IpPrefix>().unwrap()),
        towards: None,
    };
    let blue = all(&gateway, &blue, 9);
    assert_eq!(blue.len(), 100);
    assert!(blue.iter().all(|route| route.vrf == "blue"));
}
