//! Fragments where ports decide: all of a packet go where it would go whole, in any order, and nobody else's with them.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_crypto::Suite;
use culvert_net::{Flow, PortRange, Protocol, Selector};
use proptest::prelude::*;

use super::esp_tests::{Tunnel, any as everything, keys, payloads, policy, spec};
use super::policy_tests::{FAR, Gateway, between, is_esp, selector};
use super::workbench::{
    FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, LAN, ROUTER_IP, ROUTER_MAC, TO_HOST, TO_ROUTER, WAN,
    WAN_IP, WAN_MAC, frame, from_host, packet4_with, packet6,
};
use super::{fragment_ports, tunnels};
use crate::buffer::flags;
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::sa::{Configured, Guard, PolicyAction, SaDirection};

const SPI: u32 = 0xc000_0001;
const SECOND: u64 = 1_000_000_000;
/// Bytes of payload of each fragment.
const PIECE: usize = 16;

/// One of `pieces` fragments of a packet from port 9.
fn fragment4(
    addresses: (Ipv4Addr, Ipv4Addr),
    (protocol, port): (u8, u16),
    identification: u16,
    (piece, pieces): (usize, usize),
) -> Vec<u8> {
    let mut payload = vec![0; PIECE];
    if piece == 0 {
        payload[..4].copy_from_slice(&[[0, 9], port.to_be_bytes()].concat());
    }
    let more = if piece + 1 < pieces { 0x2000 } else { 0 };
    packet4_with(addresses.0, addresses.1, protocol, &payload, |header| {
        header.identification = identification;
        header.flags_fragment = more | (piece * PIECE / 8) as u16;
    })
}

fn fragment6(
    addresses: (Ipv6Addr, Ipv6Addr),
    port: u16,
    identification: u8,
    (piece, pieces): (usize, usize),
) -> Vec<u8> {
    // Behind destination options, which only the first fragment shows to be no transport.
    let mut payload = vec![17, 0, 1, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 24, 0, 0];
    payload[10..12].copy_from_slice(&port.to_be_bytes());
    if piece > 0 {
        payload.fill(7);
    }
    let more = u8::from(piece + 1 < pieces);
    let place = (piece * PIECE) as u8 | more;
    let header = [60, 0, 0, place, 0, 0, 0, identification];
    let rest = [&header[..], &payload].concat();
    packet6(addresses.0, addresses.1, 44, 64, &rest)
}

fn fragment(v6: bool, port: u16, identification: u8, piece: usize) -> Vec<u8> {
    if v6 {
        fragment6((HOST_IP6, FAR_IP6), port, identification, (piece, 3))
    } else {
        let addresses = (HOST_IP, FAR_IP);
        fragment4(addresses, (17, port), identification.into(), (piece, 3))
    }
}

fn web(v6: bool) -> Selector {
    Selector {
        protocol: Some(Protocol::UDP),
        destination_ports: PortRange::new(0, 1000).unwrap(),
        ..everything(v6)
    }
}

/// A tunnel whose only SA, both ways, is for one selector.
fn tunnel(selector: Selector, v6: bool) -> Tunnel {
    let mut out = spec(Suite::AES128GCM16, v6, false, true, SPI);
    out.selectors = vec![selector];
    let mut nodes = tunnels();
    nodes.push(Box::<fragment_ports::FragmentPorts>::default());
    let mut tunnel = Tunnel::bare_among(out, nodes);
    let (encryption, integrity) = keys(tunnel.out.suite, 1);
    let sas = &mut tunnel.bench.tables.sas;
    for direction in [SaDirection::In, SaDirection::Out] {
        let mut spec = tunnel.out.clone();
        spec.id.direction = direction;
        let manager = &mut tunnel.manager;
        manager.add(sas, spec, &encryption, &integrity).unwrap();
    }
    let policy = policy(selector, SPI, 1);
    tunnel.manager.add_policy(sas, policy).unwrap();
    tunnel.bench.tables.generation += 1;
    tunnel.bench.tick();
    tunnel
}

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// In any order, at once or one by one, at both ends of an SA about ports.
#[test]
fn all_fragments_of_what_an_sa_carries_are_carried() {
    for v6 in [false, true] {
        let mut tunnel = tunnel(web(v6), v6);
        let (rewrite, input) = if v6 {
            (NodeId::Ip6Rewrite, NodeId::Ip6Input)
        } else {
            (NodeId::Ip4Rewrite, NodeId::Ip4Input)
        };
        for (number, order) in (1..).zip(ORDERS) {
            let fragments = order.map(|piece| fragment(v6, 80, number, piece));
            let mut sent = Vec::new();
            if number % 2 == 0 {
                sent = tunnel.send(&fragments);
            } else {
                for one in fragments {
                    sent.extend(tunnel.send(&[one]));
                }
            }
            assert_eq!(sent.len(), 3, "{order:?}");
            assert!(sent.iter().all(|(node, ..)| *node == rewrite));
            // As a network would mix them.
            let mut sealed = payloads(&sent);
            sealed.rotate_left(usize::from(number) % 3);
            let received = tunnel.receive(&sealed);
            let mut offsets: Vec<_> = received
                .iter()
                .map(|(node, meta, bytes)| {
                    assert_eq!(*node, input);
                    assert_eq!(meta.flags & flags::DECRYPTED, flags::DECRYPTED);
                    if v6 { bytes[43] } else { bytes[7] }
                })
                .collect();
            offsets.sort_unstable();
            let expected = if v6 { [1, 17, 32] } else { [0, 2, 4] };
            assert_eq!(offsets, expected);
        }
        assert_eq!(tunnel.bench.graph.held(), 0);
        assert_eq!(tunnel.bench.counters.ports_packets.get(), 0);
        tunnel.bench.finish();
    }
}

#[test]
fn no_fragment_of_what_an_sa_does_not_carry_is() {
    for v6 in [false, true] {
        let mut tunnel = tunnel(web(v6), v6);
        let mut peer = Tunnel::looped(spec(Suite::AES128GCM16, v6, false, true, SPI));
        for (number, order) in (1..).zip(ORDERS) {
            let fragments = order.map(|piece| fragment(v6, 2000, number, piece));
            for (node, ..) in tunnel.send(&fragments) {
                assert_eq!(node, NodeId::IcmpError);
            }
            // A peer that sends them all the same: nobody's ports are learnt from what the SA does not carry.
            let sealed = payloads(&peer.send(&fragments));
            assert_eq!(sealed.len(), 3);
            assert!(tunnel.receive(&sealed).is_empty());
        }
        let drops = |reason| tunnel.bench.drops(reason);
        assert_eq!(drops(DropReason::EspSelectorMismatch), 6);
        assert_eq!(tunnel.bench.graph.held(), 12);
        tunnel.bench.now += 61 * SECOND;
        tunnel.bench.tick();
        assert_eq!(tunnel.bench.drops(DropReason::ReassemblyTimedOut), 12);
        assert_eq!(tunnel.bench.graph.held(), 0);
        tunnel.bench.finish();
        peer.bench.finish();
    }
}

/// Nor do whole packets overtake fragments whose ports are found.
#[test]
fn the_order_of_a_vector_is_kept() {
    let mut tunnel = tunnel(web(false), false);
    let whole = |length: usize| {
        let payload = [&[0, 9, 0, 80][..], &vec![0; length]].concat();
        packet4_with(HOST_IP, FAR_IP, 17, &payload, |_| {})
    };
    let packets = [
        whole(100),
        fragment(false, 80, 1, 0),
        whole(200),
        fragment(false, 80, 1, 1),
        fragment(false, 80, 1, 2),
        whole(300),
    ];
    let lengths: Vec<_> = packets.iter().map(Vec::len).collect();
    let sealed = payloads(&tunnel.send(&packets));
    assert_eq!(sealed.len(), 6);
    let received = payloads(&tunnel.receive(&sealed));
    let order: Vec<_> = received.iter().map(Vec::len).collect();
    assert_eq!(order, lengths);
    tunnel.bench.finish();
}

/// To a network of the peer DNS in the clear, everything else protected.
fn dns_in_the_clear() -> Gateway {
    let mut gateway = Gateway::new();
    let fib = &mut gateway.bench.fib4;
    fib.insert("10.7.0.0/16".parse().unwrap(), TO_ROUTER)
        .unwrap();
    let all = between("10.1.0.0/24", "10.7.0.0/16");
    gateway.guard(&[all]);
    let dns = Selector {
        protocol: Some(Protocol::UDP),
        destination_ports: PortRange::one(53),
        ..all
    };
    gateway.let_be("dns", PolicyAction::Bypass, 10, dns);
    gateway
}

fn piece(port: u16, identification: u16, piece: usize) -> Vec<u8> {
    fragment4((HOST_IP, FAR), (17, port), identification, (piece, 3))
}

/// RFC 1858, RFC 3128: what begins anew with other ports takes no fragment into the clear, whichever comes first.
#[test]
fn a_second_beginning_smuggles_nothing() {
    let mut gateway = dns_in_the_clear();
    let clear = |gateway: &mut Gateway, packet: Vec<u8>| {
        let (_, wan) = gateway.send(&packet);
        wan.iter().filter(|frame| !is_esp(frame)).count()
    };
    // Honest.
    for at in 0..3 {
        assert_eq!(clear(&mut gateway, piece(53, 1, at)), 1);
    }
    let overlaps = |gateway: &Gateway| gateway.bench.drops(DropReason::ReassemblyOverlap);
    for (number, ports) in (2..).zip([[53, 54], [54, 53]]) {
        let before = overlaps(&gateway);
        let begins = clear(&mut gateway, piece(ports[0], number, 0));
        assert_eq!(begins, usize::from(ports[0] == 53));
        assert_eq!(clear(&mut gateway, piece(ports[1], number, 0)), 0);
        assert_eq!(clear(&mut gateway, piece(0, number, 1)), 0);
        assert_eq!(clear(&mut gateway, piece(53, number, 0)), 0);
        assert_eq!(overlaps(&gateway) - before, 3);
    }
    // Nor does one who is elsewhere lend his ports.
    let stranger = frame(WAN_MAC.0, ROUTER_MAC.0, 0x0800, &piece(53, 9, 0));
    gateway.bench.receive(WAN, &stranger);
    gateway.run();
    assert_eq!(clear(&mut gateway, piece(0, 9, 1)), 0);
    assert_eq!(clear(&mut gateway, piece(54, 9, 0)), 0);
    assert_eq!(clear(&mut gateway, piece(0, 9, 2)), 0);
    // A beginning that ends before its ports.
    let short = packet4_with(HOST_IP, FAR, 17, &[0, 9], |header| {
        header.flags_fragment = 0x2000;
    });
    assert_eq!(clear(&mut gateway, short), 0);
    assert_eq!(gateway.bench.drops(DropReason::ReassemblyMalformed), 1);
    gateway.bench.finish();
}

#[test]
fn those_without_a_first_fragment_wait_in_a_bounded_place_and_are_counted() {
    let mut gateway = dns_in_the_clear();
    gateway.bench.tables.reassembly.fragments = 40;
    gateway.bench.tables.generation += 1;
    gateway.bench.tick();
    for number in 0..100 {
        gateway.bench.receive(LAN, &from_host(&piece(0, number, 1)));
        gateway.bench.run();
    }
    let counters = &gateway.bench.counters;
    assert_eq!(counters.ports_fragments.get(), 10);
    assert_eq!(gateway.bench.graph.held(), 10);
    assert_eq!(gateway.bench.drops(DropReason::ReassemblyCrowded), 90);
    // The last ten are there still.
    let (_, wan) = gateway.send(&piece(53, 99, 0));
    assert_eq!(wan.len(), 2);
    gateway.bench.now += 31 * SECOND;
    gateway.bench.tick();
    assert_eq!(gateway.bench.drops(DropReason::ReassemblyTimedOut), 9);
    let counters = &gateway.bench.counters;
    assert_eq!(
        (counters.ports_packets.get(), counters.ports_fragments.get()),
        (0, 0)
    );
    gateway.bench.finish();
}

/// IKE in fragments, whose later ones look like any datagram: it is never protected by what it is to negotiate.
#[test]
fn fragments_of_ike_pass_where_everything_is_protected() {
    let mut gateway = Gateway::new();
    gateway.guard(&[between("0.0.0.0/0", "0.0.0.0/0")]);
    for (number, order) in (1..).zip(ORDERS) {
        for (port, passes) in [(500, 3), (501, 0)] {
            let mut left = 0;
            gateway.bench.take_arrived();
            for at in order {
                let numbered = number * 2 + port % 2;
                // From us, and to us.
                let mut own = fragment4((WAN_IP, ROUTER_IP), (17, 9), numbered, (at, 3));
                if at == 0 {
                    own[20..22].copy_from_slice(&port.to_be_bytes());
                }
                gateway.bench.put(NodeId::Ip4Lookup, WAN, &own, |meta| {
                    meta.flags |= flags::INJECTED;
                });
                left += gateway.run().1.len();
                let theirs = fragment4((ROUTER_IP, WAN_IP), (17, port), numbered, (at, 3));
                gateway.receive(&theirs);
            }
            assert_eq!(left, passes, "{port} {order:?}");
            assert_eq!(
                gateway.bench.take_arrived().len(),
                passes,
                "{port} {order:?}"
            );
        }
    }
    assert!(gateway.bench.sent(LAN).is_empty());
    gateway.bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// As whole packets, whatever is configured and negotiated, and however they are mixed.
    #[test]
    fn fragments_go_the_way_of_their_packet(
        policies in proptest::collection::vec((selector(), 0u8..4, 1u16..6), 1..9),
        packets in proptest::collection::vec((0u8..9, 0u8..9, prop_oneof![Just(6u8), Just(17)], 0u16..5, any::<bool>()), 8),
        order in Just((0usize..32).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut gateway = Gateway::new();
        let fib = &mut gateway.bench.fib4;
        fib.insert("10.7.0.0/16".parse().unwrap(), TO_ROUTER).unwrap();
        for network in ["10.1.0.0/24", "10.1.0.1/32", "10.1.0.2/32", "10.1.0.255/32"] {
            fib.insert(network.parse().unwrap(), TO_HOST).unwrap();
        }
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
        let passes = |flow: &Flow| {
            let first = configured.iter().find(|(_, _, selector, _)| selector.matches(flow));
            match first {
                Some((_, _, _, action)) => *action == PolicyAction::Bypass,
                None => !protected.iter().any(|selector| selector.matches(flow)),
            }
        };
        let mut clear = [0; 8];
        for one in order {
            let (number, at) = (one / 4, one % 4);
            let (near, far, protocol, port, inbound) = packets[number];
            let (near, far) = (Ipv4Addr::new(10, 1, 0, near), Ipv4Addr::new(10, 7, 0, far));
            let mut bytes = fragment4((near, far), (protocol, port), number as u16, (at, 4));
            let (lan, wan) = if inbound {
                bytes = fragment4((far, near), (protocol, 9), number as u16, (at, 4));
                if at == 0 {
                    bytes[20..22].copy_from_slice(&port.to_be_bytes());
                }
                gateway.receive(&bytes)
            } else {
                gateway.send(&bytes)
            };
            for frame in lan.iter().chain(&wan).filter(|frame| !is_esp(frame)) {
                let identification = u16::from_be_bytes([frame[18], frame[19]]);
                clear[usize::from(identification)] += 1;
            }
        }
        for (number, (near, far, protocol, port, _)) in packets.into_iter().enumerate() {
            let (near, far) = (Ipv4Addr::new(10, 1, 0, near), Ipv4Addr::new(10, 7, 0, far));
            let whole = fragment4((near, far), (protocol, port), 0, (0, 1));
            let expected = if passes(&Flow::of(&whole).unwrap()) { 4 } else { 0 };
            prop_assert_eq!(clear[number], expected, "{}", number);
        }
        prop_assert_eq!(gateway.bench.counters.ports_fragments.get(), 0);
        gateway.bench.finish();
    }
}
