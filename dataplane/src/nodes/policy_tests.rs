//! Protection by policies alone: what leaves in the clear and what comes in the clear, through the whole graph.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use culvert_crypto::{Portable, Suite};
use culvert_net::{AddressRange, Flow, IpPrefix, Ipv4View, PortRange, Protocol, Selector, Spi};
use proptest::prelude::*;

use super::workbench::{
    HOST_IP, HOST_IP6, HOST_MAC, INTO_TUNNEL, LAN, LAN_IP, LAN_MAC, ROUTER_IP, ROUTER_MAC, TUNNEL,
    WAN, WAN_IP, WAN_MAC, Workbench, frame, from_host, packet4, packet4_with, packet6,
};
use super::{layer3, tunnels};
use crate::buffer::flags;
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::NodeId;
use crate::sa::{
    Configured, ConfiguredPolicy, Guard, PolicyAction, PolicyId, PolicySpec, SaDirection, SaKeyId,
    SaManager, SaSpec,
};
use crate::tables::{InterfaceKind, PolicyBased};

pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 9);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const UDP: &[u8] = &[0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];

pub(super) struct Gateway {
    pub(super) bench: Workbench,
    manager: SaManager,
}

pub(super) fn between(from: &str, to: &str) -> Selector {
    let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
    Selector::between(prefix(from), prefix(to))
}

impl Gateway {
    pub(super) fn new() -> Self {
        let mut bench = Workbench::with(layer3().into_iter().chain(tunnels()).collect());
        bench.change_interface(TUNNEL, |tunnel| {
            if let InterfaceKind::Tunnel { if_id, .. } = &mut tunnel.kind {
                *if_id = 0;
            }
        });
        bench.tables.sas.tunnels.set(0, Some(TUNNEL));
        bench.tables.policy_based = Some(PolicyBased {
            vrf: 0,
            adjacency: INTO_TUNNEL,
        });
        Self {
            bench,
            manager: SaManager::new(Arc::new(Portable)).unwrap(),
        }
    }

    pub(super) fn guard(&mut self, selectors: &[Selector]) {
        let guards = selectors.iter().map(|selector| Guard {
            selector: *selector,
        });
        self.configure("guard", &Configured::Guards(guards.collect()));
    }

    pub(super) fn let_be(
        &mut self,
        name: &str,
        action: PolicyAction,
        priority: u16,
        selector: Selector,
    ) {
        let policy = ConfiguredPolicy {
            selector,
            action,
            priority,
        };
        self.configure(name, &Configured::Policies(vec![policy]));
    }

    pub(super) fn configure(&mut self, name: &str, configured: &Configured) {
        let sas = &mut self.bench.tables.sas;
        self.manager.configure(sas, name, Some(configured)).unwrap();
        self.bench.tables.generation += 1;
        self.bench.tick();
    }

    /// What charon does: both SAs, and the policies of all three directions.
    pub(super) fn negotiate(&mut self, selector: Selector, spi: u32) {
        let (ours, theirs) = (IpAddr::V4(WAN_IP), IpAddr::V4(ROUTER_IP));
        for direction in [SaDirection::In, SaDirection::Out] {
            let outbound = direction == SaDirection::Out;
            let (source, destination) = if outbound {
                (ours, theirs)
            } else {
                (theirs, ours)
            };
            let spec = SaSpec {
                id: SaKeyId {
                    spi: Spi::new(spi).unwrap(),
                    direction,
                    destination,
                },
                source,
                if_id: 0,
                selectors: vec![if outbound {
                    selector
                } else {
                    selector.reversed()
                }],
                ..super::esp_tests::spec(Suite::AES128GCM16, false, false, false, spi)
            };
            let key = vec![(spi >> 8) as u8 ^ spi as u8; Suite::AES128GCM16.encryption_key_len()];
            let sas = &mut self.bench.tables.sas;
            self.manager.add(sas, spec, &key, &[]).unwrap();
        }
        self.policies(selector, spi, 1);
    }

    fn policies(&mut self, selector: Selector, spi: u32, class: u32) {
        for (outbound, forward) in [(true, false), (false, false), (false, true)] {
            let spec = PolicySpec {
                id: PolicyId {
                    outbound,
                    forward,
                    if_id: 0,
                    selector: if outbound {
                        selector
                    } else {
                        selector.reversed()
                    },
                    spi: if outbound { spi } else { 0 },
                },
                action: PolicyAction::Protect,
                priority: class,
                reqid: 9,
                tunnel: None,
            };
            let sas = &mut self.bench.tables.sas;
            self.manager.add_policy(sas, spec).unwrap();
        }
        self.bench.tables.generation += 1;
        self.bench.tick();
    }

    /// From a host of the LAN; gives what leaves, by interface.
    pub(super) fn send(&mut self, packet: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.bench.receive(LAN, &from_host(packet));
        self.run()
    }

    /// From the router of the WAN.
    pub(super) fn receive(&mut self, packet: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let frame = frame(WAN_MAC.0, ROUTER_MAC.0, kind, packet);
        self.bench.receive(WAN, &frame);
        self.run()
    }

    pub(super) fn run(&mut self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.bench.run();
        self.bench.tick();
        self.bench.run();
        (self.bench.sent(LAN), self.bench.sent(WAN))
    }
}

pub(super) fn is_esp(frame: &[u8]) -> bool {
    Ipv4View::parse(&frame[14..]).unwrap().protocol() == Protocol::ESP
}

#[test]
fn what_the_configuration_wants_protected_waits_for_an_sa_and_goes_by_no_route() {
    let mut gateway = Gateway::new();
    let protected = between("10.1.0.0/24", "10.7.0.0/16");
    gateway.guard(&[protected]);
    let packet = packet4(HOST_IP, FAR, 17, UDP);
    // Also by a route into the clear.
    for route in [None, Some("10.7.0.0/16")] {
        if let Some(route) = route {
            let to_router = super::workbench::TO_ROUTER;
            gateway
                .bench
                .fib4
                .insert(route.parse().unwrap(), to_router)
                .unwrap();
        }
        assert_eq!(gateway.send(&packet), (vec![], vec![]));
    }
    let asked = gateway.bench.events();
    let [Event::Acquire { policy, flow }] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert_eq!(gateway.manager.policy(*policy).unwrap().id.if_id, 0);
    assert!(protected.matches(flow));
    assert_eq!(gateway.bench.graph.held(), 2);
    // What no policy covers goes as its route says.
    let (_, other) = gateway.send(&packet4(HOST_IP, ELSEWHERE, 17, UDP));
    assert!(other.len() == 1 && !is_esp(&other[0]));

    gateway.negotiate(protected, 0x1000);
    let (lan, wan) = gateway.run();
    assert_eq!((lan.len(), wan.len()), (0, 2), "both that waited");
    assert!(wan.iter().all(|frame| is_esp(frame)));
    let (_, wan) = gateway.send(&packet);
    assert!(wan.len() == 1 && is_esp(&wan[0]));
    // The same, as the peer would send it: its source and destination are the wrong way round for the SA.
    let mut back = wan[0][14..].to_vec();
    let (source, destination) = back[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    assert_eq!(gateway.receive(&back), (vec![], vec![]));
    assert_eq!(gateway.bench.drops(DropReason::EspSelectorMismatch), 1);

    // charon is gone and so are its SAs: what is configured stays.
    gateway.manager.flush(&mut gateway.bench.tables.sas);
    gateway.bench.tables.generation += 1;
    assert_eq!(gateway.manager.policies().count(), 0);
    assert_eq!(gateway.send(&packet), (vec![], vec![]));
    gateway
        .manager
        .configure(&mut gateway.bench.tables.sas, "guard", None)
        .unwrap();
    assert!(gateway.bench.tables.sas.policies.get(0).is_none());
    assert!(gateway.bench.tables.sas.inbound_policies.is_empty());
    let (_, wan) = gateway.send(&packet);
    assert!(
        wan.iter().any(|frame| !is_esp(frame)),
        "nothing is protected any more"
    );
    gateway.bench.finish();
}

#[test]
fn what_came_out_of_an_sa_is_forwarded_and_the_same_in_the_clear_is_not() {
    let mut gateway = Gateway::new();
    // A peer that is this box itself: what is sealed for FAR is opened as if it came from there.
    let near = between("10.1.0.0/24", "10.7.0.0/16");
    gateway.guard(&[near]);
    gateway.negotiate(near, 0x1000);
    let mut far_end = Gateway::new();
    far_end.negotiate(near.reversed(), 0x1000);
    far_end.bench.fib4.remove("10.1.0.0/24".parse().unwrap());
    let request = packet4(FAR, HOST_IP, 17, UDP);
    let (_, wan) = far_end.send(&request);
    assert!(wan.len() == 1 && is_esp(&wan[0]));
    let mut sealed = wan[0][14..].to_vec();
    let (source, destination) = sealed[12..20].split_at_mut(4);
    source.swap_with_slice(destination);

    let (lan, wan) = gateway.receive(&sealed);
    assert!(wan.is_empty());
    assert_eq!(lan.len(), 1);
    assert_eq!(lan[0][..12], [HOST_MAC.0, LAN_MAC.0].concat());
    let inner = Ipv4View::verify(&lan[0][14..]).unwrap();
    assert_eq!(
        (inner.source(), inner.destination(), inner.ttl()),
        (FAR, HOST_IP, 62)
    );

    for (clear, reason) in [
        (request.clone(), DropReason::PolicyUnprotected),
        (packet4(FAR, LAN_IP, 17, UDP), DropReason::PolicyUnprotected),
    ] {
        let before = gateway.bench.drops(reason);
        assert_eq!(gateway.receive(&clear), (vec![], vec![]));
        assert_eq!(gateway.bench.drops(reason), before + 1);
    }
    // Nobody wants this from a tunnel.
    let (lan, _) = gateway.receive(&packet4(ELSEWHERE, HOST_IP, 17, UDP));
    assert_eq!(lan.len(), 1);
    gateway.bench.finish();
    far_end.bench.finish();
}

#[test]
fn with_everything_protected_keying_and_what_is_of_the_link_still_pass() {
    let mut gateway = Gateway::new();
    gateway.guard(&[between("0.0.0.0/0", "0.0.0.0/0"), between("::/0", "::/0")]);
    let udp = |to: u16| [&[0x30, 0x39], &to.to_be_bytes()[..], &UDP[4..]].concat();
    let esp = [0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9];
    for (packet, punted, decrypted) in [
        (packet4(ROUTER_IP, WAN_IP, 17, &udp(500)), 1, 0),
        (packet4(ROUTER_IP, WAN_IP, 50, &esp), 0, 1),
        (packet4(ROUTER_IP, WAN_IP, 17, &udp(501)), 0, 0),
        (packet4(ROUTER_IP, HOST_IP, 17, &udp(500)), 0, 0),
        (packet4(ROUTER_IP, [255; 4].into(), 17, &udp(67)), 1, 0),
    ] {
        let before = gateway.bench.drops(DropReason::EspUnknownSpi);
        gateway.bench.take_arrived();
        assert_eq!(gateway.receive(&packet), (vec![], vec![]));
        assert_eq!(gateway.bench.take_arrived().len(), punted);
        assert_eq!(
            gateway.bench.drops(DropReason::EspUnknownSpi) - before,
            decrypted
        );
    }
    assert_eq!(gateway.bench.drops(DropReason::PolicyUnprotected), 2);
    // The box's own IKE leaves, its other traffic waits.
    for (from, leaves) in [(500u16, 1), (4500, 1), (4501, 0)] {
        let datagram = [&from.to_be_bytes()[..], &500u16.to_be_bytes(), &UDP[4..]].concat();
        let packet = packet4(WAN_IP, ROUTER_IP, 17, &datagram);
        gateway.bench.put(NodeId::Ip4Lookup, WAN, &packet, |meta| {
            meta.flags |= flags::INJECTED;
        });
        assert_eq!(gateway.run().1.len(), leaves, "from port {from}");
        // From a host it is no IKE of ours.
        assert_eq!(
            gateway
                .send(&packet4(HOST_IP, ROUTER_IP, 17, &datagram))
                .1
                .len(),
            0
        );
    }
    assert_eq!(
        gateway
            .send(&packet6(HOST_IP6, super::workbench::FAR_IP6, 17, 64, UDP))
            .1
            .len(),
        0
    );
    // A host asks for the box's own address.
    gateway.let_be(
        "lan",
        PolicyAction::Bypass,
        10,
        between("10.1.0.0/24", "10.1.0.0/24"),
    );
    gateway.bench.take_arrived();
    gateway.send(&packet4(HOST_IP, LAN_IP, 17, UDP));
    assert_eq!(gateway.bench.take_arrived().len(), 1);
    gateway.bench.finish();
}

/// IKE and the configuration name type and code on both sides or on one (RFC 7296 section 3.13.1); the packet has them
/// once, whichever way it goes.
#[test]
fn policies_about_icmp_hold_both_ways() {
    let echo = PortRange::one(0x0800);
    let request = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let reply = [0, 0, 0xff, 0xff, 0, 0, 0, 0];
    for (local, remote) in [(echo, echo), (echo, PortRange::ANY), (PortRange::ANY, echo)] {
        let pings = Selector {
            protocol: Some(Protocol::ICMP),
            source_ports: local,
            destination_ports: remote,
            ..between("10.1.0.0/24", "198.51.100.0/24")
        };
        let mut discarding = Gateway::new();
        discarding.let_be("no pings", PolicyAction::Discard, 10, pings);
        let mut protecting = Gateway::new();
        protecting.guard(&[pings]);
        protecting.negotiate(pings, 0x1000);
        for gateway in [&mut discarding, &mut protecting] {
            let (_, wan) = gateway.send(&packet4(HOST_IP, ELSEWHERE, 1, &request));
            assert!(
                wan.iter().all(|frame| is_esp(frame)),
                "{local:?} {remote:?}"
            );
            assert_eq!(
                gateway.receive(&packet4(ELSEWHERE, HOST_IP, 1, &request)),
                (vec![], vec![]),
                "{local:?} {remote:?}"
            );
            // Another type is nobody's.
            let (_, wan) = gateway.send(&packet4(HOST_IP, ELSEWHERE, 1, &reply));
            assert!(wan.len() == 1 && !is_esp(&wan[0]));
            let (lan, _) = gateway.receive(&packet4(ELSEWHERE, HOST_IP, 1, &reply));
            assert_eq!(lan.len(), 1);
        }
        let drops = |gateway: &Gateway, reason| gateway.bench.drops(reason);
        assert_eq!(drops(&discarding, DropReason::PolicyDiscard), 2);
        assert_eq!(drops(&protecting, DropReason::PolicyUnprotected), 1);
        let (_, wan) = protecting.send(&packet4(HOST_IP, ELSEWHERE, 1, &request));
        assert_eq!(wan.len(), 1, "the SA carries it");
        discarding.bench.finish();
        protecting.bench.finish();
    }
}

#[test]
fn the_order_is_configured_then_narrow_then_new() {
    let mut gateway = Gateway::new();
    let wide = between("10.1.0.0/24", "10.0.0.0/8");
    let narrow = between("10.1.0.0/24", "10.7.0.0/16");
    gateway.negotiate(narrow, 0x2000);
    gateway.negotiate(wide, 0x1000);
    let spi = |gateway: &mut Gateway, to: Ipv4Addr| {
        let (_, wan) = gateway.send(&packet4(HOST_IP, to, 17, UDP));
        wan.first().map(|frame| {
            let packet = Ipv4View::parse(&frame[14..]).unwrap();
            u32::from_be_bytes(packet.payload()[..4].try_into().unwrap())
        })
    };
    assert_eq!(spi(&mut gateway, FAR), Some(0x2000));
    assert_eq!(spi(&mut gateway, [10, 8, 0, 1].into()), Some(0x1000));
    // A rekey.
    gateway.negotiate(narrow, 0x3000);
    assert_eq!(spi(&mut gateway, FAR), Some(0x3000));
    // The narrow one is down and trapped: its packets wait, and do not go to the other peer.
    for old in [0x2000, 0x3000] {
        let id = PolicyId {
            outbound: true,
            forward: false,
            if_id: 0,
            selector: narrow,
            spi: old,
        };
        gateway
            .manager
            .delete_policy(&mut gateway.bench.tables.sas, id)
            .unwrap();
    }
    gateway.policies(narrow, 0, 2);
    assert_eq!(spi(&mut gateway, FAR), None);
    assert_eq!(gateway.bench.graph.held(), 1);
    gateway.let_be(
        "stop",
        PolicyAction::Discard,
        7,
        between("10.1.0.0/24", "10.7.0.0/24"),
    );
    assert_eq!(spi(&mut gateway, FAR), None);
    assert_eq!(
        gateway.bench.drops(DropReason::PolicyDiscard),
        2,
        "with the one that waited"
    );
    gateway.let_be(
        "go",
        PolicyAction::Bypass,
        6,
        between("10.1.0.2/32", "10.7.0.9/32"),
    );
    let to_router = super::workbench::TO_ROUTER;
    gateway
        .bench
        .fib4
        .insert("10.7.0.0/16".parse().unwrap(), to_router)
        .unwrap();
    let (_, wan) = gateway.send(&packet4(HOST_IP, FAR, 17, UDP));
    assert!(wan.len() == 1 && !is_esp(&wan[0]));
    // Only the first fragment shows its port: another, of which there was no first, waits.
    let port = Selector {
        protocol: Some(Protocol::UDP),
        destination_ports: PortRange::one(53),
        ..between("10.1.0.2/32", "10.7.0.9/32")
    };
    gateway.let_be("port", PolicyAction::Discard, 5, port);
    for (fragment, leaves) in [(0, 0), (1, 0)] {
        let packet = packet4_with(HOST_IP, FAR, 17, &[UDP, &[0; 12]].concat(), |header| {
            header.flags_fragment = fragment;
        });
        assert_eq!(gateway.send(&packet).1.len(), leaves);
    }
    gateway.bench.finish();
}

/// A small world, so that policies overlap and packets hit them.
pub(super) fn selector() -> impl Strategy<Value = Selector> {
    let range = |network: u8| {
        (0u8..8, 0u8..8).prop_map(move |(a, b)| {
            let address = |last| IpAddr::from([10, network, 0, last]);
            AddressRange::new(address(a.min(b)), address(a.max(b))).unwrap()
        })
    };
    let ports = prop_oneof![
        2 => Just(PortRange::ANY),
        1 => (0u16..4, 0u16..4).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
    ];
    (
        range(1),
        range(7),
        proptest::option::of(prop_oneof![Just(6u8), Just(17)]),
        ports,
    )
        .prop_map(
            |(source, destination, protocol, destination_ports)| Selector {
                source,
                destination,
                protocol: protocol.map(Protocol),
                source_ports: PortRange::ANY,
                destination_ports,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is configured and negotiated, what leaves in the clear is what the first policy lets through.
    #[test]
    fn nothing_that_is_covered_leaves_or_comes_in_the_clear(
        policies in proptest::collection::vec((selector(), 0u8..4, 1u16..6), 0..12),
        packets in proptest::collection::vec((0u8..9, 0u8..9, prop_oneof![Just(6u8), Just(17)], 0u16..5, 0u8..4), 64),
    ) {
        let mut gateway = Gateway::new();
        gateway.bench.fib4.insert("10.7.0.0/16".parse().unwrap(), super::workbench::TO_ROUTER).unwrap();
        gateway.bench.fib4.insert("10.1.0.0/24".parse().unwrap(), super::workbench::TO_HOST).unwrap();
        for last in [1, 2, 255] {
            let prefix = format!("10.1.0.{last}/32");
            gateway.bench.fib4.insert(prefix.parse().unwrap(), super::workbench::TO_HOST).unwrap();
        }
        // The slow way: those of the configuration by priority, newest first; then what is protected.
        let (mut configured, mut protected) = (Vec::new(), Vec::new());
        for (number, (selector, action, priority)) in (0u32..).zip(policies) {
            match action {
                0 => {
                    gateway.configure(&format!("{number}"), &Configured::Guards(vec![Guard { selector }]));
                    protected.push(selector);
                }
                1 => {
                    gateway.negotiate(selector, 0x1000 + number);
                    protected.push(selector);
                }
                _ => {
                    let action = if action == 2 { PolicyAction::Bypass } else { PolicyAction::Discard };
                    gateway.let_be(&format!("{number}"), action, priority, selector);
                    configured.push((priority, std::cmp::Reverse(number), selector, action));
                }
            }
        }
        configured.sort_by_key(|(priority, number, ..)| (*priority, *number));
        let expected = |flow: &Flow| {
            let first = configured.iter().find(|(_, _, selector, _)| selector.matches(flow));
            match first {
                Some((_, _, _, action)) => *action,
                None if protected.iter().any(|selector| selector.matches(flow)) => PolicyAction::Protect,
                None => PolicyAction::Bypass,
            }
        };
        for (from, to, protocol, port, kind) in packets {
            let (near, far) = (Ipv4Addr::new(10, 1, 0, from), Ipv4Addr::new(10, 7, 0, to));
            let transport = [&[0u8, 9][..], &port.to_be_bytes(), &[0; 16]].concat();
            let inbound = kind == 0;
            let (source, destination) = if inbound { (far, near) } else { (near, far) };
            let reversed = [&port.to_be_bytes()[..], &[0, 9], &[0; 16]].concat();
            let packet = packet4(source, destination, protocol, if inbound { &reversed } else { &transport });
            let outward = packet4(near, far, protocol, &transport);
            let action = expected(&Flow::of(&outward).unwrap());
            let (lan, wan) = if inbound { gateway.receive(&packet) } else { gateway.send(&packet) };
            if inbound {
                prop_assert_eq!(lan.len(), usize::from(action == PolicyAction::Bypass));
                prop_assert!(wan.is_empty());
            } else {
                prop_assert!(lan.is_empty());
                let clear = wan.iter().filter(|frame| !is_esp(frame)).count();
                prop_assert_eq!(clear, usize::from(action == PolicyAction::Bypass));
                prop_assert!(action == PolicyAction::Protect || wan.len() == clear);
            }
        }
        gateway.bench.finish();
    }
}
