//! What routing daemons of Linux need: routes that they wrote, and link-local addresses at both ends of a tunnel.

use super::*;
use crate::nodes::ip6_lookup::scoped;

fn learnt(prefix: &str, hops: &[&str]) -> (String, Kind) {
    let (_, kind) = route(prefix, hops);
    let Kind::Route(route) = kind else {
        panic!("no route")
    };
    let kind = Kind::Route(bus::Route {
        learnt: true,
        ..route
    });
    (format!("learnt/default/{prefix}"), kind)
}

#[test]
fn what_was_learnt_comes_behind_what_is_configured_and_connected() {
    let mut gateway = Box::network();
    gateway.create(tunnel("ipsec0", 1));
    gateway.create(learnt("10.2.0.0/24", &["%ipsec0"]));
    gateway.create(learnt("10.1.0.0/24", &["%ipsec0"]));
    assert_eq!(gateway.kind("10.2.0.9"), AdjacencyKind::Tunnel);
    assert_eq!(gateway.kind("10.1.0.9"), AdjacencyKind::Glean);
    gateway.create(no_way("10.2.0.0/24", bus::route::Action::Blackhole));
    let blackhole = AdjacencyKind::Drop(DropReason::RouteBlackhole);
    assert_eq!(gateway.kind("10.2.0.9"), blackhole);
    // Either goes without the other.
    gateway.delete("learnt/default/10.2.0.0/24");
    assert_eq!(gateway.kind("10.2.0.9"), blackhole);
    gateway.create(learnt("10.2.0.0/24", &["%ipsec0"]));
    gateway.delete("route/default/10.2.0.0/24");
    assert_eq!(gateway.kind("10.2.0.9"), AdjacencyKind::Tunnel);
    gateway.delete("learnt/default/10.2.0.0/24");
    assert_eq!(
        gateway.kind("10.2.0.9"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
    let keys: Vec<String> = gateway
        .plane
        .retrieve()
        .into_iter()
        .map(|value| value.key)
        .filter(|key| key.starts_with("learnt/"))
        .collect();
    assert_eq!(keys, ["learnt/default/10.1.0.0/24"]);
}

#[test]
fn link_local_destinations_out_of_a_gre_tunnel_are_for_linux() {
    let mut gateway = Box::network();
    let kind = |tap: &str| {
        Kind::IpTunnel(bus::IpTunnel {
            name: "gre0".into(),
            mode: bus::ip_tunnel::Mode::Gre.into(),
            local: Some(ip("203.0.113.1").into()),
            remote: Some(ip("198.51.100.2").into()),
            vrf: "default".into(),
            underlay_vrf: "default".into(),
            admin_up: true,
            tap: tap.into(),
            ..bus::IpTunnel::default()
        })
    };
    gateway.create(("ip_tunnel/gre0".into(), kind("gre0")));
    let index = gateway.plane.interface_index("gre0").unwrap();
    let here = |gateway: &Box| {
        let all = "fe80::63:74ff:fe75:6e6c".parse().unwrap();
        gateway.kind(&scoped(all, index).to_string()) == AdjacencyKind::Local
    };
    assert!(here(&gateway));
    // A link-local address of a link is none of the tunnel's.
    assert!(gateway.kind("fe80::7") != AdjacencyKind::Local);
    let update = |gateway: &mut Box, tap: &str| {
        gateway
            .operate(Verb::Update, "ip_tunnel/gre0", Some(kind(tap)))
            .unwrap();
    };
    update(&mut gateway, "");
    assert!(!here(&gateway));
    update(&mut gateway, "gre0");
    update(&mut gateway, "gre0");
    assert!(here(&gateway));
    gateway.delete("ip_tunnel/gre0");
    assert!(!here(&gateway));
}
