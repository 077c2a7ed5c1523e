//! The control plane from outside: operations, events and the clock in, tables, routes and actions out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod announcements;
mod interfaces;
mod listing;
mod routes;
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
        obtained: false,
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

/// A route without a way out, in the form that `action` says.
fn no_way(prefix: &str, action: bus::route::Action) -> (String, Kind) {
    let (key, mut kind) = route(prefix, &[]);
    if let Kind::Route(route) = &mut kind {
        route.set_action(action);
    }
    (key, kind)
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
