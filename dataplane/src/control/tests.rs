//! The control plane from outside: operations, events and the clock in, tables, routes and actions out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod announcements;
mod listing;
mod routing_daemons;
mod sub_interfaces;
mod ten_thousand;

use std::net::IpAddr;

use culvert_model::bus::{self, operation::Verb, value::Kind};
use culvert_net::{ArpPacket, EthernetView, IpPrefix, MacAddr};
use proptest::prelude::*;

use super::*;
use crate::nodes::link_frames;
use crate::nodes::workbench::{Workbench, from_host, packet4};
use crate::port::tap_port;
use crate::tables::{InterfaceKind, MssClamp, Tables};

const SECOND: u64 = 1_000_000_000;
const WAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const LAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wire_prefix(text: &str) -> culvert_model::types::IpPrefix {
    let (address, length) = text.split_once('/').unwrap();
    culvert_model::types::IpPrefix {
        address: Some(ip(address).into()),
        length: length.parse().unwrap(),
    }
}

fn interface(name: &str) -> (String, Kind) {
    let kind = Kind::Interface(bus::Interface {
        driver: bus::interface::Driver::Default.into(),
        name: name.into(),
        device: format!("{name}-device"),
        vrf: "default".into(),
        mtu: 1500,
        admin_up: true,
        mss_clamp: Some(0),
        reverse_path: 0,
        tap: name.into(),
        parent: String::new(),
        vlan: 0,
        outer_vlan: 0,
    });
    (format!("interface/{name}"), kind)
}

fn tunnel(name: &str, if_id: u32) -> (String, Kind) {
    let kind = Kind::Tunnel(bus::Tunnel {
        name: name.into(),
        if_id,
        vrf: "default".into(),
        underlay_vrf: "default".into(),
        mtu: None,
        admin_up: true,
        mss_clamp: None,
        reverse_path: 0,
        tap: String::new(),
        fragment_after: false,
        ignore_path_mtu: false,
        outer_header: None,
    });
    (format!("tunnel/{name}"), kind)
}

fn address(interface: &str, prefix: &str) -> (String, Kind) {
    let kind = Kind::Address(bus::Address {
        interface: interface.into(),
        address: Some(wire_prefix(prefix)),
    });
    (format!("address/{interface}/{prefix}"), kind)
}

/// `hops`: `gateway`, `%interface` or `gateway%interface`.
fn route(prefix: &str, hops: &[&str]) -> (String, Kind) {
    let next_hops = hops
        .iter()
        .map(|hop| {
            let (gateway, interface) = hop.split_once('%').unwrap_or((hop, ""));
            bus::NextHop {
                gateway: (!gateway.is_empty()).then(|| ip(gateway).into()),
                interface: interface.into(),
                vrf: String::new(),
            }
        })
        .collect();
    let kind = Kind::Route(bus::Route {
        action: bus::route::Action::Forward.into(),
        vrf: "default".into(),
        destination: Some(wire_prefix(prefix)),
        next_hops,
        learnt: false,
    });
    (format!("route/default/{prefix}"), kind)
}

fn device(name: &str) -> Option<MacAddr> {
    match name {
        "wan-device" => Some(WAN_MAC),
        "lan-device" => Some(LAN_MAC),
        _ => None,
    }
}

struct Box {
    plane: ControlPlane,
    tables: Publisher,
    now: u64,
}

impl Box {
    fn empty() -> Self {
        let tables = Publisher::new(Tables::default());
        Self {
            plane: ControlPlane::new(tables.clone(), DetectionTiming::default()),
            tables,
            now: 10 * SECOND,
        }
    }

    /// `wan` 203.0.113.1/24 and `lan` 10.1.0.1/24, addresses ready.
    fn network() -> Self {
        let mut this = Self::empty();
        for value in [
            interface("wan"),
            interface("lan"),
            address("wan", "203.0.113.1/24"),
            address("wan", "2001:db8:ff::1/64"),
            address("lan", "10.1.0.1/24"),
        ] {
            this.create(value);
        }
        this.wait(5 * SECOND);
        this
    }

    fn operate(
        &mut self,
        verb: Verb,
        key: &str,
        kind: Option<Kind>,
    ) -> Result<Vec<Action>, ApplyError> {
        let operation = bus::Operation {
            verb: verb.into(),
            key: key.into(),
            value: kind.map(|kind| bus::Value { kind: Some(kind) }),
        };
        self.plane.apply(&operation, &device, self.now)
    }

    fn create(&mut self, (key, kind): (String, Kind)) -> Vec<Action> {
        self.operate(Verb::Create, &key, Some(kind)).unwrap()
    }

    fn delete(&mut self, key: &str) -> Vec<Action> {
        self.operate(Verb::Delete, key, None).unwrap()
    }

    fn wait(&mut self, time: u64) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while let Some(at) = self.plane.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            actions.extend(self.plane.tick(self.now));
        }
        self.now = end;
        actions
    }

    fn seen(&mut self, interface: &str, address: &str, mac: MacAddr, solicited: bool) {
        let (interface, address) = (self.index(interface), ip(address));
        let wanted = Event::NeighbourWanted { interface, address };
        let seen = Event::NeighbourSeen {
            interface,
            address,
            mac,
            solicited,
        };
        // Only who was asked for answers.
        let events = solicited.then_some(&wanted).into_iter().chain([&seen]);
        assert!(self.plane.handle(events, self.now).is_empty());
    }

    fn index(&self, name: &str) -> u32 {
        self.plane.interface_index(name).unwrap()
    }

    fn adjacency_index(&self, address: &str) -> u32 {
        let rib = &self.plane.ribs[&VRF_DEFAULT];
        match ip(address) {
            IpAddr::V4(address) => rib.fib4.fib().lookup(address),
            IpAddr::V6(address) => rib.fib6.fib().lookup(address),
        }
    }

    /// What workers do with packets for an address.
    fn adjacency(&self, address: &str) -> Adjacency {
        let tables = self.tables.current();
        let vrf = tables.vrfs.get(VRF_DEFAULT).unwrap();
        let index = match ip(address) {
            IpAddr::V4(address) => vrf.fib4.lookup(address),
            IpAddr::V6(address) => vrf.fib6.lookup(address),
        };
        tables.adjacencies.get(index).unwrap().as_ref().clone()
    }

    fn kind(&self, address: &str) -> AdjacencyKind {
        self.adjacency(address).kind
    }
}

fn rewrite(to: MacAddr, from: MacAddr) -> AdjacencyKind {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&[8, 0]);
    AdjacencyKind::Rewrite(header)
}

#[test]
fn an_interface_brings_its_port_its_routes_and_its_addresses_when_nobody_has_them() {
    let mut gateway = Box::empty();
    let actions = gateway.create(interface("wan"));
    let wan = gateway.index("wan");
    assert_eq!(
        actions,
        [
            Action::OpenPort {
                port: wan,
                device: "wan-device".into(),
                driver: None,
                mtu: 1500,
            },
            Action::OpenTap {
                port: tap_port(wan),
                tap: "wan".into()
            }
        ]
    );
    gateway.wait(5 * SECOND);
    gateway.create(address("wan", "203.0.113.1/24"));
    assert_eq!(gateway.kind("203.0.113.1"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("203.0.113.255"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("203.0.113.9"), AdjacencyKind::Glean);
    assert_eq!(gateway.adjacency("203.0.113.9").mtu, 1500);
    assert_eq!(
        gateway.kind(&format!("fe80:0:{wan:x}::9")),
        AdjacencyKind::Glean
    );
    assert!(!gateway.plane.addresses_ready(wan));
    let started = gateway.now;
    let frames: Vec<_> = gateway
        .wait(SECOND)
        .into_iter()
        .map(|action| match action {
            Action::Emit { interface, frame } if interface == wan => {
                ArpPacket::parse(EthernetView::parse(&frame).unwrap().payload()).unwrap()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(gateway.now - started, SECOND);
    assert_eq!(frames.len(), 4);
    assert!(frames[..3].iter().all(ArpPacket::is_probe));
    assert!(frames[3].is_announcement() && frames[3].sender_mac == WAN_MAC);
    assert!(gateway.plane.addresses_ready(wan));
    let tables = gateway.tables.current();
    let published = tables.interfaces.get(wan).unwrap();
    assert_eq!(published.source4(), Some([203, 0, 113, 1].into()));
    assert_eq!(published.link_local(), Some(WAN_MAC.link_local()));
    assert_eq!(published.tap, Some(tap_port(wan)));
    assert_eq!(published.mss_clamp, MssClamp::FromMtu);
    assert!(tables.mss_arriving);
    let (key, mut kind) = interface("wan");
    if let Kind::Interface(wan) = &mut kind {
        wan.mss_clamp = None;
    }
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert!(!gateway.tables.current().mss_arriving);
}

#[test]
fn a_rate_of_icmp_errors_holds_until_it_is_taken_back() {
    let mut gateway = Box::empty();
    let kind = Kind::IcmpErrors(bus::IcmpErrors { rate: 7, burst: 3 });
    gateway.create(("icmp-errors".into(), kind));
    let seen = gateway.tables.current().icmp_errors;
    assert_eq!((seen.rate, seen.burst), (7, 3));
    gateway.delete("icmp-errors");
    let seen = gateway.tables.current().icmp_errors;
    assert_eq!((seen.rate, seen.burst), (1000, 50));
}

#[test]
fn an_address_that_another_has_is_never_used() {
    let mut gateway = Box::empty();
    gateway.create(interface("wan"));
    gateway.create(address("wan", "203.0.113.1/24"));
    let wan = gateway.index("wan");
    let conflict = Event::AddressConflict {
        interface: wan,
        address: ip("203.0.113.1"),
        mac: ROUTER_MAC,
    };
    assert!(gateway.plane.handle([&conflict], gateway.now).is_empty());
    gateway.wait(10 * SECOND);
    assert!(!gateway.plane.addresses_ready(wan));
    assert_eq!(
        gateway
            .tables
            .current()
            .interfaces
            .get(wan)
            .unwrap()
            .source4(),
        None
    );
    gateway.wait(60 * SECOND);
    assert!(gateway.plane.addresses_ready(wan));
    // From now on it is defended.
    let actions = gateway.plane.handle([&conflict], gateway.now);
    let own = link_frames::arp_announcement(WAN_MAC, [203, 0, 113, 1].into());
    assert_eq!(
        actions,
        [Action::Emit {
            interface: wan,
            frame: own.to_vec()
        }]
    );
}

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
fn an_interface_that_moves_to_another_vrf_takes_its_routes_along() {
    let mut gateway = Box::network();
    gateway.seen("lan", "10.1.0.2", ROUTER_MAC, true);
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(lan) = &mut kind {
        lan.vrf = "blue".into();
    }
    assert_eq!(
        gateway.operate(Verb::Update, &key, Some(kind.clone())),
        Err(ApplyError::UnknownVrf("blue".into()))
    );
    gateway.create((
        "vrf/blue".into(),
        Kind::Vrf(bus::Vrf {
            name: "blue".into(),
        }),
    ));
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    for to in ["10.1.0.1", "10.1.0.2", "10.1.0.9"] {
        assert_eq!(
            gateway.kind(to),
            AdjacencyKind::Drop(DropReason::NoRoute),
            "{to}"
        );
    }
    let blue = gateway.plane.vrf_names["blue"];
    let tables = gateway.tables.current();
    let fib = &tables.vrfs.get(blue).unwrap().fib4;
    assert_eq!(fib.lookup([10, 1, 0, 1].into()), ADJACENCY_LOCAL);
    assert_ne!(fib.lookup([10, 1, 0, 2].into()), ADJACENCY_NO_ROUTE);
    assert!(matches!(
        gateway.operate(Verb::Delete, "vrf/blue", None),
        Err(ApplyError::InUse { .. })
    ));
}

#[test]
fn what_was_applied_is_retrieved_and_can_be_repeated() {
    let mut gateway = Box::empty();
    let values = [
        interface("wan"),
        address("wan", "203.0.113.1/24"),
        tunnel("ipsec0", 7),
        route("10.2.0.0/24", &["%ipsec0"]),
        (
            "forwarding".into(),
            Kind::Forwarding(bus::Forwarding { enabled: true }),
        ),
    ];
    for value in &values {
        gateway.create(value.clone());
        assert!(gateway.create(value.clone()).is_empty());
    }
    assert!(gateway.tables.current().forwarding);
    let mut held: Vec<_> = gateway
        .plane
        .retrieve()
        .into_iter()
        .map(|held| (held.key, held.value.unwrap().kind.unwrap()))
        .collect();
    let mut expected = values.to_vec();
    held.sort_by(|one, two| one.0.cmp(&two.0));
    expected.sort_by(|one, two| one.0.cmp(&two.0));
    assert_eq!(held, expected);
    gateway.delete("forwarding");
    gateway.delete("forwarding");
    assert!(!gateway.tables.current().forwarding);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut gateway = Box::network();
    let refuse = |gateway: &mut Box, (key, kind): (String, Kind)| {
        let before = gateway.plane.retrieve();
        let error = gateway.operate(Verb::Create, &key, Some(kind)).unwrap_err();
        assert_eq!(gateway.plane.retrieve(), before);
        error
    };
    let error = refuse(&mut gateway, interface("dmz"));
    assert_eq!(error, ApplyError::NoDevice("dmz-device".into()));
    assert!(error.is_retriable());
    let error = refuse(&mut gateway, address("dmz", "10.5.0.1/24"));
    assert_eq!(error, ApplyError::UnknownInterface("dmz".into()));
    assert!(error.is_retriable());
    let error = refuse(&mut gateway, address("lan", "224.0.0.1/24"));
    assert_eq!(error, ApplyError::BadAddress("224.0.0.1".into()));
    assert!(!error.is_retriable());
    let error = refuse(&mut gateway, route("10.0.0.0/8", &["2001:db8::1"]));
    assert!(matches!(error, ApplyError::Family(_)));
    let error = refuse(&mut gateway, route("10.0.0.0/33", &["10.1.0.2"]));
    assert!(matches!(error, ApplyError::Prefix(_)));
    let error = refuse(&mut gateway, route("2001:db8::/32", &["fe80::1"]));
    assert!(matches!(error, ApplyError::NoName(_)));
    gateway.create(tunnel("ipsec0", 7));
    let error = refuse(&mut gateway, tunnel("ipsec1", 7));
    assert!(matches!(error, ApplyError::IfIdTaken { .. }) && error.is_retriable());
    let error = refuse(&mut gateway, tunnel("lan", 9));
    assert_eq!(error, ApplyError::OtherKind("lan".into()));
    let link = Kind::LinuxLink(bus::LinuxLink::default());
    let error = refuse(&mut gateway, ("linux/link/lan".into(), link));
    assert!(matches!(error, ApplyError::NotOurs(_)));
    let in_use = gateway.operate(Verb::Delete, "interface/lan", None);
    assert!(matches!(in_use, Err(ApplyError::InUse { .. })));
}

#[test]
fn a_new_device_gets_a_new_port_and_a_new_link_local_address() {
    let mut gateway = Box::network();
    let lan = gateway.index("lan");
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(interface) = &mut kind {
        interface.device = "wan-device".into();
        interface.tap = String::new();
    }
    let actions = gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert_eq!(
        actions,
        [
            Action::ClosePort { port: lan },
            Action::OpenPort {
                port: lan,
                device: "wan-device".into(),
                driver: None,
                mtu: 1500,
            },
            Action::ClosePort {
                port: tap_port(lan)
            }
        ]
    );
    assert!(!gateway.plane.addresses_ready(lan));
    gateway.wait(2 * SECOND);
    let tables = gateway.tables.current();
    let published = tables.interfaces.get(lan).unwrap();
    assert_eq!(published.link_local(), Some(WAN_MAC.link_local()));
    assert_eq!(published.addresses6.len(), 1);
    assert_eq!(published.source4(), Some([10, 1, 0, 1].into()));
}

#[test]
fn a_crowd_on_a_link_takes_neither_its_gateway_nor_what_others_need() {
    const CROWD: u32 = 5000;
    let mut gateway = Box::network();
    gateway.create(address("lan", "10.64.0.1/12"));
    gateway.create(route("10.9.0.0/16", &["10.64.0.9"]));
    gateway.wait(10 * SECOND);
    let lan = gateway.index("lan");
    let seen = |address| Event::NeighbourSeen {
        interface: lan,
        address,
        mac: ROUTER_MAC,
        solicited: true,
    };
    // Answers that nobody asked for say nothing.
    let crowd: Vec<IpAddr> = (0..CROWD)
        .map(|n| IpAddr::V4((0x0a40_0100 + n).into()))
        .collect();
    let answers: Vec<_> = crowd.iter().map(|address| seen(*address)).collect();
    gateway.plane.handle(&answers, gateway.now);
    assert_eq!(gateway.plane.neighbours().count(), 0);
    gateway.seen("lan", "10.64.0.9", ROUTER_MAC, true);
    gateway.seen("lan", "10.64.0.10", ROUTER_MAC, true);
    let asked_and_answered: Vec<_> = crowd
        .iter()
        .flat_map(|address| {
            let (interface, address) = (lan, *address);
            [Event::NeighbourWanted { interface, address }, seen(address)]
        })
        .collect();
    gateway.plane.handle(&asked_and_answered, gateway.now);
    let known = gateway.tables.current().neighbours.len();
    // One station answers for all of them, and gives up some at once.
    assert!((4096 - 64..=4096).contains(&known), "{known}");
    let by_router = rewrite(ROUTER_MAC, LAN_MAC);
    assert_eq!(gateway.kind("10.9.0.1"), by_router);
    assert_eq!(gateway.kind("10.64.0.9"), by_router);
    assert_eq!(
        gateway.kind("10.64.0.10"),
        AdjacencyKind::Glean,
        "the oldest"
    );
    // It comes back when it is wanted, and others never went.
    gateway.wait(SECOND);
    gateway.seen("lan", "10.64.0.10", ROUTER_MAC, true);
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    assert_eq!(gateway.kind("10.64.0.10"), by_router);
    assert_eq!(gateway.tables.current().neighbours.len(), known + 2);
    gateway.delete("route/default/10.9.0.0/16");
}

/// A packet for a host nobody has talked to: held, asked for, answered, forwarded.
#[test]
fn graph_and_control_plane_resolve_a_neighbour_together() {
    let mut gateway = Box::network();
    gateway.create((
        "forwarding".into(),
        Kind::Forwarding(bus::Forwarding { enabled: true }),
    ));
    let (wan, lan) = (gateway.index("wan"), gateway.index("lan"));
    // The workbench has ports at indexes 1 and 2 as well.
    assert_eq!((wan, lan), (1, 2));
    let mut bench = Workbench::layer3();
    bench.tables = Tables::clone(&gateway.tables.current());
    bench.tick();
    let packet = packet4(
        [203, 0, 113, 7].into(),
        [10, 1, 0, 2].into(),
        17,
        b"payload",
    );
    let mut frame = from_host(&packet);
    frame[..6].copy_from_slice(&WAN_MAC.0);
    bench.receive(wan, &frame);
    bench.run();
    let asked = bench.sent(lan);
    let question = EthernetView::parse(&asked[0]).unwrap();
    let question = ArpPacket::parse(question.payload()).unwrap();
    gateway.plane.handle(&bench.events(), gateway.now);
    let mut reply = question.reply_from(ROUTER_MAC);
    reply.target_mac = LAN_MAC;
    bench.receive(lan, &link_frames::arp(LAN_MAC, &reply));
    bench.run();
    gateway.plane.handle(&bench.events(), gateway.now);
    bench.tables = Tables::clone(&gateway.tables.current());
    bench.tick();
    let sent = bench.sent(lan);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][..6], ROUTER_MAC.0);
    assert_eq!(&sent[0][34..], b"payload");
    bench.finish();
}

/// A route without a way out, in the form that `action` says.
fn no_way(prefix: &str, action: bus::route::Action) -> (String, Kind) {
    let (key, mut kind) = route(prefix, &[]);
    if let Kind::Route(route) = &mut kind {
        route.set_action(action);
    }
    (key, kind)
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

/// One of the values that the test below plays with.
fn some_value(number: usize) -> (String, Kind) {
    let values = [
        interface("wan"),
        interface("lan"),
        tunnel("ipsec0", 1),
        address("wan", "203.0.113.1/24"),
        address("wan", "203.0.113.3/25"),
        address("lan", "10.1.0.1/24"),
        address("lan", "fe80::1/64"),
        address("ipsec0", "169.254.0.1/30"),
        route("0.0.0.0/0", &["203.0.113.2"]),
        route("0.0.0.0/0", &["10.1.0.2%lan", "203.0.113.2"]),
        route("10.1.0.2/32", &["%ipsec0"]),
        route("10.1.0.0/24", &["203.0.113.2"]),
        route("203.0.113.0/25", &[]),
        route("::/0", &["fe80::2%wan"]),
    ];
    values[number % values.len()].clone()
}

proptest! {
    #[test]
    fn whatever_was_done_can_be_undone_to_nothing(steps in proptest::collection::vec((0usize..14, 0u8..4), 0..60)) {
        let mut gateway = Box::empty();
        for (number, action) in steps {
            let (key, kind) = some_value(number);
            match action {
                0 | 1 => drop(gateway.operate(Verb::Create, &key, Some(kind))),
                2 => drop(gateway.operate(Verb::Delete, &key, None)),
                _ => {
                    for (interface, address) in [(1, "203.0.113.2"), (2, "10.1.0.2"), (1, "fe80::2")] {
                        let address = ip(address);
                        let wanted = Event::NeighbourWanted { interface, address };
                        let seen = Event::NeighbourSeen {
                            interface, address, mac: ROUTER_MAC, solicited: number % 2 == 0,
                        };
                        gateway.plane.handle([&wanted, &seen], gateway.now);
                    }
                    gateway.wait(number as u64 * 7 * SECOND);
                }
            }
            // What workers read is always what the reasons say.
            let tables = gateway.tables.current();
            for index in gateway.plane.adjacencies.all() {
                let content = gateway.plane.content(gateway.plane.adjacencies.key(index).unwrap());
                prop_assert_eq!(tables.adjacencies.get(index).unwrap().as_ref(), &content);
            }
        }
        for _ in 0..2 {
            for number in (0..14).rev() {
                let (key, _) = some_value(number);
                drop(gateway.operate(Verb::Delete, &key, None));
            }
        }
        prop_assert!(gateway.plane.retrieve().is_empty());
        prop_assert_eq!(gateway.plane.adjacencies.all().count(), 0);
        prop_assert!(gateway.plane.ribs[&VRF_DEFAULT].is_empty());
        prop_assert!(gateway.plane.ribs[&VRF_DEFAULT].fib4.is_empty());
        prop_assert!(gateway.plane.ribs[&VRF_DEFAULT].fib6.is_empty());
        prop_assert_eq!(gateway.plane.neighbours().count(), 0);
        prop_assert_eq!(gateway.plane.next_timer(), None);
        prop_assert!(gateway.tables.current().neighbours.is_empty());
    }
}

#[test]
fn a_prefix_is_read_with_or_without_host_bits() {
    let covering = IpPrefix::covering(ip("10.2.3.4"), 16).unwrap();
    let mut gateway = Box::network();
    gateway.create(route("10.2.3.4/16", &["203.0.113.2"]));
    assert!(gateway.plane.ribs[&VRF_DEFAULT].reasons(covering).is_some());
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

fn route_in(vrf: &str, prefix: &str, hop: bus::NextHop) -> (String, Kind) {
    let (_, kind) = route(prefix, &[]);
    let Kind::Route(mut route) = kind else {
        panic!()
    };
    route.vrf = vrf.into();
    route.next_hops = vec![hop];
    (format!("route/{vrf}/{prefix}"), Kind::Route(route))
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

#[test]
fn a_tunnel_says_what_its_outer_headers_are_like() {
    use crate::sa::{DontFragment, FlowLabel, OuterRules};
    let mut gateway = Box::network();
    let with = |header: bus::OuterHeader| {
        let (key, mut kind) = tunnel("ipsec7", 77);
        if let Kind::Tunnel(tunnel) = &mut kind {
            tunnel.outer_header = Some(header);
        }
        (key, kind)
    };
    let header = bus::OuterHeader {
        dscp: Some(46),
        dscp_inward: true,
        no_ecn: true,
        dont_fragment: bus::outer_header::DontFragment::Set.into(),
        hop_limit: 200,
        flow_label: bus::outer_header::FlowLabel::Copy.into(),
    };
    gateway.create(with(header));
    let tables = gateway.tables.current();
    let index = gateway.index("ipsec7");
    let InterfaceKind::Tunnel { outer, .. } = tables.interfaces.get(index).unwrap().kind else {
        panic!("no tunnel");
    };
    assert_eq!(
        outer,
        Some(OuterRules {
            class_kept: 0,
            class_set: 46 << 2,
            dont_fragment: DontFragment::Set,
            hop_limit: 200,
            flow_label: FlowLabel::Copy,
            dscp_inward: true,
        })
    );
    for (wrong, message) in [
        (
            bus::OuterHeader {
                dscp: Some(64),
                ..header
            },
            "64 is no DSCP",
        ),
        (
            bus::OuterHeader {
                hop_limit: 0,
                ..header
            },
            "0 is no hop limit",
        ),
    ] {
        let (key, kind) = with(wrong);
        let value = bus::Value { kind: Some(kind) };
        let refused = super::values::Spec::read(&key, &value).unwrap_err();
        assert!(refused.to_string().contains(message), "{refused}");
    }
}

#[test]
fn a_loopback_is_up_at_once_and_leads_nowhere() {
    let mut gateway = Box::network();
    let loopback = Kind::Loopback(bus::Loopback {
        name: "lo0".into(),
        vrf: "default".into(),
        tap: "lo0".into(),
    });
    let actions = gateway.create(("loopback/lo0".into(), loopback));
    let index = gateway.index("lo0");
    assert_eq!(
        actions,
        [Action::OpenTap {
            port: tap_port(index),
            tap: "lo0".into()
        }]
    );
    gateway.create(address("lo0", "198.51.100.7/32"));
    gateway.create(address("lo0", "2001:db8::7/128"));
    assert!(gateway.plane.addresses_ready(index));
    assert_eq!(gateway.kind("198.51.100.7"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("2001:db8::7"), AdjacencyKind::Local);
    let published = gateway.tables.current();
    let published = published.interfaces.get(index).unwrap();
    assert!(published.admin_up);
    assert_eq!(published.source4(), Some([198, 51, 100, 7].into()));
    assert_eq!(published.link_local(), None);
    gateway.create(route("192.0.2.0/24", &["%lo0"]));
    assert_eq!(
        gateway.kind("192.0.2.1"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
    gateway.delete("address/lo0/198.51.100.7/32");
    gateway.delete("address/lo0/2001:db8::7/128");
    gateway.delete("loopback/lo0");
    assert_eq!(
        gateway.kind("198.51.100.7"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
}
