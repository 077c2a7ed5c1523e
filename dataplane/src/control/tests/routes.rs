//! Routes and what they lead to: neighbours, other routes, tunnels, other tables, nothing.

use super::*;

#[test]
fn a_route_by_a_gateway_follows_its_neighbour() {
    let mut gateway = Box::network();
    gateway.create(route("0.0.0.0/0", &["203.0.113.2"]));
    gateway.create(route("192.0.2.0/24", &["203.0.113.2%wan"]));
    let unresolved = AdjacencyKind::Unresolved(ip("203.0.113.2"));
    assert_eq!(gateway.kind("8.8.8.8"), unresolved);
    assert_eq!(gateway.kind("192.0.2.1"), unresolved);
    let index = gateway.adjacency_index("8.8.8.8");
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    for to in ["8.8.8.8", "192.0.2.1", "203.0.113.2"] {
        assert_eq!(gateway.kind(to), rewrite(ROUTER_MAC, WAN_MAC), "{to}");
    }
    assert_eq!(
        gateway.adjacency_index("8.8.8.8"),
        index,
        "no route has moved"
    );
    let wan = gateway.index("wan");
    let key = (wan, ip("203.0.113.2"));
    assert_eq!(
        gateway.tables.current().neighbours.get(&key),
        Some(&ROUTER_MAC)
    );
    // Another router takes over the address.
    gateway.seen("wan", "203.0.113.2", LAN_MAC, false);
    assert_eq!(gateway.kind("8.8.8.8"), rewrite(LAN_MAC, WAN_MAC));
    // It is asked before long, and does not answer.
    let actions = gateway.wait(10 * SECOND);
    let question = link_frames::arp_request(
        WAN_MAC,
        [203, 0, 113, 1].into(),
        [203, 0, 113, 2].into(),
        Some(LAN_MAC),
    );
    let question = Action::Emit {
        interface: wan,
        frame: question.to_vec(),
    };
    assert_eq!(actions, [question.clone(), question.clone(), question]);
    for to in ["8.8.8.8", "192.0.2.1"] {
        assert_eq!(gateway.kind(to), unresolved);
    }
    assert_eq!(gateway.kind("203.0.113.2"), AdjacencyKind::Glean);
    assert!(gateway.tables.current().neighbours.is_empty());
}

#[test]
fn gateways_are_found_through_other_routes_and_loops_end() {
    let mut gateway = Box::network();
    gateway.create(route("10.9.0.0/16", &["10.8.0.1"]));
    assert_eq!(
        gateway.kind("10.9.0.1"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
    gateway.create(route("10.8.0.0/16", &["203.0.113.2"]));
    assert_eq!(
        gateway.kind("10.9.0.1"),
        AdjacencyKind::Unresolved(ip("203.0.113.2"))
    );
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    assert_eq!(gateway.kind("10.9.0.1"), rewrite(ROUTER_MAC, WAN_MAC));
    gateway.create(route("10.8.0.0/16", &["10.9.0.1"]));
    for to in ["10.9.0.1", "10.8.0.1"] {
        assert_eq!(gateway.kind(to), AdjacencyKind::Drop(DropReason::NoRoute));
    }
    gateway.delete("route/default/10.8.0.0/16");
    assert_eq!(
        gateway.kind("10.8.0.1"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
}

#[test]
fn packets_are_spread_over_the_ways_that_are_there() {
    let mut gateway = Box::network();
    gateway.create(route(
        "10.9.0.0/16",
        &["203.0.113.2", "10.1.0.2%lan", "%ipsec0"],
    ));
    let members = |gateway: &Box| match gateway.kind("10.9.0.1") {
        AdjacencyKind::Multipath(members) => members.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(members(&gateway), 2);
    gateway.create(tunnel("ipsec0", 7));
    assert_eq!(members(&gateway), 3);
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(lan) = &mut kind {
        lan.admin_up = false;
    }
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert_eq!(members(&gateway), 2);
}

#[test]
fn several_ways_do_not_count_as_gateways() {
    let mut gateway = Box::network();
    // Each leads on to the next, by two gateways that are found by the one behind it.
    gateway.create(route("10.20.0.0/16", &["10.21.0.1", "10.21.0.2"]));
    gateway.create(route("10.21.0.0/16", &["10.22.0.1", "10.22.0.2"]));
    gateway.create(route("10.22.0.0/16", &["203.0.113.2", "10.1.0.2"]));
    let ends = |gateway: &Box| {
        let tables = gateway.tables.current();
        let first = tables.lookup(0, ip("10.20.0.1"));
        let mut ends = std::collections::BTreeMap::new();
        for flow in 0..1000u32 {
            let end = tables.follow(first, ip("10.20.0.1"), || flow).unwrap();
            let kind = &tables.adjacencies.get(end).unwrap().kind;
            *ends.entry(format!("{kind:?}")).or_insert(0) += 1;
        }
        ends
    };
    let name = |address| format!("{:?}", AdjacencyKind::Unresolved(ip(address)));
    let both = ends(&gateway);
    assert!(
        both.keys()
            .eq([name("10.1.0.2"), name("203.0.113.2")].iter())
    );
    assert!(both.values().all(|flows| *flows > 400), "{both:?}");
    // Three gateways behind the first are found, four are not.
    gateway.create(route("10.30.0.0/16", &["10.20.0.1", "10.20.0.2"]));
    assert_eq!(ends(&gateway), both);
    assert!(matches!(
        gateway.kind("10.30.0.1"),
        AdjacencyKind::Multipath(_)
    ));
    gateway.create(route("10.31.0.0/16", &["10.30.0.1", "10.30.0.2"]));
    let nowhere = AdjacencyKind::Drop(DropReason::NoRoute);
    assert_eq!(gateway.kind("10.31.0.1"), nowhere);
    // Where one of the ways at the end shuts, all flows take the other; where both do, there is no route.
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(lan) = &mut kind {
        lan.admin_up = false;
    }
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert!(ends(&gateway).keys().eq([name("203.0.113.2")].iter()));
    gateway.delete("route/default/10.22.0.0/16");
    assert_eq!(gateway.kind("10.20.0.1"), nowhere);
}

#[test]
fn many_gateways_that_lead_to_each_other_end() {
    let mut gateway = Box::network();
    let hops: Vec<_> = (1..=64).map(|last| format!("10.9.0.{last}")).collect();
    let hops: Vec<_> = hops.iter().map(String::as_str).collect();
    // Without an end, this is the 4th power of 64 questions for each of the gateways.
    let started = std::time::Instant::now();
    gateway.create(route("10.9.0.0/16", &hops));
    assert_eq!(
        gateway.kind("10.9.0.1"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
    gateway.create(route("10.9.0.0/24", &["203.0.113.2"]));
    assert!(matches!(
        gateway.kind("10.9.1.1"),
        AdjacencyKind::Multipath(ways) if ways.len() == 64
    ));
}

#[test]
fn routes_by_a_tunnel_stay_shut_when_it_vanishes() {
    let mut gateway = Box::network();
    gateway.create(route("0.0.0.0/0", &["203.0.113.2"]));
    gateway.create(route("10.2.0.0/24", &["%ipsec0"]));
    let shut = AdjacencyKind::Drop(DropReason::InterfaceDown);
    assert_eq!(gateway.kind("10.2.0.1"), shut);
    gateway.create(tunnel("ipsec0", 7));
    assert_eq!(gateway.kind("10.2.0.1"), AdjacencyKind::Tunnel);
    assert_eq!(
        gateway.adjacency("10.2.0.1").interface,
        gateway.index("ipsec0")
    );
    assert_eq!(gateway.plane.tunnel_index(7), Some(gateway.index("ipsec0")));
    gateway.plane.set_tunnel_mtu(7, 1438);
    assert_eq!(gateway.adjacency("10.2.0.1").mtu, 1438);
    gateway.delete("tunnel/ipsec0");
    assert_eq!(gateway.kind("10.2.0.1"), shut);
    gateway.create(tunnel("ipsec0", 8));
    assert_eq!(gateway.kind("10.2.0.1"), AdjacencyKind::Tunnel);
    gateway.delete("route/default/10.2.0.0/24");
    assert_eq!(
        gateway.kind("10.2.0.1"),
        AdjacencyKind::Unresolved(ip("203.0.113.2"))
    );
}

#[test]
fn a_gateway_behind_a_tunnel_is_not_looked_for_by_the_default_route() {
    let mut gateway = Box::network();
    gateway.create(route("0.0.0.0/0", &["203.0.113.2"]));
    gateway.create(tunnel("ipsec0", 7));
    gateway.create(address("ipsec0", "169.254.0.1/30"));
    gateway.create(route("10.2.0.0/24", &["169.254.0.2"]));
    assert_eq!(gateway.kind("10.2.0.1"), AdjacencyKind::Tunnel);
    gateway.delete("address/ipsec0/169.254.0.1/30");
    gateway.delete("tunnel/ipsec0");
    let shut = AdjacencyKind::Drop(DropReason::NoRoute);
    assert_eq!(gateway.kind("10.2.0.1"), shut);
}

#[test]
fn a_neighbour_takes_nothing_out_of_a_tunnel() {
    let mut gateway = Box::network();
    gateway.create(tunnel("ipsec0", 7));
    gateway.create(route("10.1.0.128/25", &["%ipsec0"]));
    gateway.seen("lan", "10.1.0.200", ROUTER_MAC, true);
    gateway.seen("lan", "10.1.0.2", ROUTER_MAC, true);
    assert_eq!(gateway.kind("10.1.0.200"), AdjacencyKind::Tunnel);
    assert_eq!(gateway.kind("10.1.0.2"), rewrite(ROUTER_MAC, LAN_MAC));
    gateway.delete("route/default/10.1.0.128/25");
    assert_eq!(gateway.kind("10.1.0.200"), rewrite(ROUTER_MAC, LAN_MAC));
    gateway.create(route("10.1.0.0/30", &["%ipsec0"]));
    assert_eq!(gateway.kind("10.1.0.2"), AdjacencyKind::Tunnel);
    // The box itself is never routed away.
    assert_eq!(gateway.kind("10.1.0.1"), AdjacencyKind::Local);
    gateway.delete("address/lan/10.1.0.1/24");
    assert_eq!(
        gateway.kind("10.1.0.200"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
}

#[test]
fn routes_that_drop_tell_the_sender_what_they_say() {
    use bus::route::Action;
    let mut gateway = Box::network();
    gateway.create((
        "forwarding".into(),
        Kind::Forwarding(bus::Forwarding { enabled: true }),
    ));
    let wan = gateway.index("wan");
    for (action, told, reason) in [
        (Action::Blackhole, None, DropReason::RouteBlackhole),
        (
            Action::Unreachable,
            Some([3, 1]),
            DropReason::RouteUnreachable,
        ),
        (Action::Prohibit, Some([3, 13]), DropReason::RouteProhibited),
    ] {
        // Leads elsewhere without a gap: the same route takes each form in turn.
        gateway.create(no_way("10.99.0.0/16", action));
        let mut bench = Workbench::layer3();
        gateway.seen("wan", "203.0.113.7", ROUTER_MAC, true);
        bench.tables = Tables::clone(&gateway.tables.current());
        bench.tick();
        let packet = packet4(
            [203, 0, 113, 7].into(),
            [10, 99, 0, 2].into(),
            17,
            b"payload",
        );
        let mut frame = from_host(&packet);
        frame[..6].copy_from_slice(&WAN_MAC.0);
        bench.receive(wan, &frame);
        bench.run();
        assert_eq!(bench.drops(reason), 1, "{action:?}");
        let errors: Vec<[u8; 2]> = bench
            .sent(wan)
            .iter()
            .map(|frame| [frame[34], frame[35]])
            .collect();
        assert_eq!(errors, told.into_iter().collect::<Vec<_>>(), "{action:?}");
        bench.graph.release(&mut bench.buffers);
        bench.finish();
    }
}

#[test]
fn packets_pass_by_the_reverse_path_check_while_an_interface_asks_for_it() {
    let mut gateway = Box::network();
    assert!(!gateway.tables.current().reverse_path);
    let checked = |mode: bus::ReversePath| {
        let (key, mut kind) = interface("wan");
        if let Kind::Interface(wan) = &mut kind {
            wan.reverse_path = mode.into();
        }
        (key, kind)
    };
    for (mode, expected) in [
        (bus::ReversePath::Strict, true),
        (bus::ReversePath::Loose, true),
        (bus::ReversePath::Off, false),
    ] {
        gateway.create(checked(mode));
        assert_eq!(gateway.tables.current().reverse_path, expected);
        // What else changes leaves it as it is.
        gateway.create(address("lan", "10.9.0.1/24"));
        gateway.delete("address/lan/10.9.0.1/24");
        assert_eq!(gateway.tables.current().reverse_path, expected);
    }
}

fn hop(vrf: &str, gateway: &str) -> bus::NextHop {
    bus::NextHop {
        gateway: (!gateway.is_empty()).then(|| ip(gateway).into()),
        interface: String::new(),
        vrf: vrf.into(),
    }
}

/// Where a packet of a VRF goes in the end.
fn end(gateway: &Box, vrf: &str, address: &str) -> Option<AdjacencyKind> {
    let tables = gateway.tables.current();
    let first = tables.lookup(gateway.plane.vrf_names[vrf], ip(address));
    let last = tables.follow(first, ip(address), || 0)?;
    Some(tables.adjacencies.get(last).unwrap().kind.clone())
}

#[test]
fn routes_lead_into_the_tables_of_other_vrfs_and_to_gateways_there() {
    let mut gateway = Box::network();
    let vrf = |name: &str| {
        let value = Kind::Vrf(bus::Vrf { name: name.into() });
        (format!("vrf/{name}"), value)
    };
    // Nothing of it without the VRF.
    let (key, early) = route_in("default", "172.16.0.0/16", hop("blue", ""));
    assert_eq!(
        gateway.operate(Verb::Create, &key, Some(early)),
        Err(ApplyError::UnknownVrf("blue".into()))
    );
    gateway.create(vrf("blue"));
    gateway.create(route_in(
        "blue",
        "198.51.100.0/24",
        hop("default", "203.0.113.2"),
    ));
    gateway.create(route_in("blue", "10.1.0.0/24", hop("default", "")));
    let unresolved = AdjacencyKind::Unresolved(ip("203.0.113.2"));
    assert_eq!(end(&gateway, "blue", "198.51.100.9"), Some(unresolved));
    assert_eq!(
        end(&gateway, "blue", "10.1.0.9"),
        Some(AdjacencyKind::Glean)
    );
    assert_eq!(
        end(&gateway, "blue", "10.1.0.1"),
        Some(AdjacencyKind::Local)
    );
    // The neighbours of the other VRF count.
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    gateway.seen("lan", "10.1.0.9", ROUTER_MAC, true);
    let to_router = rewrite(ROUTER_MAC, WAN_MAC);
    assert_eq!(
        end(&gateway, "blue", "198.51.100.9"),
        Some(to_router.clone())
    );
    assert_eq!(
        end(&gateway, "blue", "10.1.0.9"),
        Some(rewrite(ROUTER_MAC, LAN_MAC))
    );
    // A gateway that the VRF finds by way of another one's table.
    gateway.create(route_in("blue", "203.0.113.0/24", hop("default", "")));
    gateway.create(route_in("blue", "192.0.2.0/24", hop("", "203.0.113.2")));
    assert_eq!(end(&gateway, "blue", "192.0.2.1"), Some(to_router));
    // A circle has no end, and no packet goes round it for ever.
    gateway.create(route_in("default", "172.16.0.0/16", hop("blue", "")));
    gateway.create(route_in("blue", "172.16.0.0/16", hop("default", "")));
    assert_eq!(end(&gateway, "blue", "172.16.1.1"), None);
    // A VRF that others lead into stays.
    for key in [
        "route/blue/198.51.100.0/24",
        "route/blue/10.1.0.0/24",
        "route/blue/203.0.113.0/24",
        "route/blue/192.0.2.0/24",
        "route/blue/172.16.0.0/16",
    ] {
        gateway.delete(key);
    }
    assert_eq!(
        gateway.operate(Verb::Delete, "vrf/blue", None),
        Err(ApplyError::InUse {
            what: "VRF blue".into(),
            by: "routes of other VRFs".into()
        })
    );
    gateway.delete("route/default/172.16.0.0/16");
    gateway.delete("vrf/blue");
}
