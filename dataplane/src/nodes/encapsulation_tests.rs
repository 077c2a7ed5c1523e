//! Tunnels of GRE and IPIP as a whole: encapsulate, decapsulate and what is around them, plain and protected.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_crypto::{Portable, Suite};
use culvert_net::{
    AddressRange, EspHeader, Flow, Icmpv4Type, Icmpv6Type, Ipv4View, Ipv6View, PortRange, Protocol,
    Selector, Spi, checksum, icmpv4, icmpv6,
};

use super::workbench::{
    FAR_IP, FAR_IP6, GLEAN_WAN, HOST_IP, HOST_IP6, LAN, ROUTER_IP, ROUTER_IP6, TO_HOST, TO_ROUTER,
    TO_ROUTER6, WAN, WAN_IP, WAN_IP6, Workbench, packet4, packet4_with, packet6,
};
use crate::buffer::{Metadata, flags};
use crate::drop_reason::DropReason;
use crate::encapsulation::{Ends, Mode};
use crate::event::Event;
use crate::graph::NodeId;
use crate::path_mtu::{PathMtuTable, TunnelTooBig, Verdict};
use crate::sa::{
    Limits, OuterRules, PolicyAction, PolicyId, PolicySpec, SaDirection, SaKeyId, SaManager,
    SaMode, SaSpec,
};
use crate::tables::{AdjacencyKind, Interface, InterfaceKind, MssClamp, ReversePath};

pub(super) const GRE: u32 = 20;
const IF_ID: u32 = 77;
/// The VRF of the packets inside.
const INSIDE: u32 = 5;

pub(super) const MODES: [Mode; 3] = [Mode::Gre(None), Mode::Gre(Some(0xfeed_0001)), Mode::IpIp];

pub(super) struct Tunnel {
    pub(super) bench: Workbench,
    mode: Mode,
}

impl Tunnel {
    pub(super) fn new(mode: Mode, outer_v6: bool, protection: Option<u32>) -> Self {
        let mut nodes = super::tunnels();
        nodes.push(Box::<super::ip4_local::Ip4Local>::default());
        nodes.push(Box::<super::ip6_local::Ip6Local>::default());
        nodes.push(Box::<super::ip_fragment::IpFragment>::default());
        nodes.push(Box::<super::ip_reassembly::IpReassembly>::default());
        let mut bench = Workbench::with(nodes);
        let (local, remote): (IpAddr, IpAddr) = if outer_v6 {
            (WAN_IP6.into(), ROUTER_IP6.into())
        } else {
            (WAN_IP.into(), ROUTER_IP.into())
        };
        let interface = Interface {
            index: GRE,
            name: "gre0".into(),
            kind: InterfaceKind::Encapsulation {
                underlay_vrf: 0,
                fixed_mtu: None,
                protection,
                outer: OuterRules::default(),
            },
            vrf: INSIDE,
            mtu: 1400,
            admin_up: true,
            mss_clamp: MssClamp::FromMtu,
            reverse_path: ReversePath::Off,
            tap: None,
            addresses4: Arc::default(),
            addresses6: Arc::default(),
        };
        bench.tables.interfaces.set(GRE, Some(Arc::new(interface)));
        let ends = Ends {
            underlay_vrf: 0,
            local,
            remote,
            mode,
        };
        bench.tables.encapsulations.set(GRE, Some(ends));
        if let Some(if_id) = protection {
            bench.tables.sas.tunnels.set(if_id, Some(GRE));
        }
        Self { bench, mode }
    }

    /// What becomes of packets that a route sends into the tunnel.
    pub(super) fn send(&mut self, packets: &[Vec<u8>]) -> Arrivals {
        for bytes in packets {
            self.bench.put(NodeId::Encapsulate, LAN, bytes, |meta| {
                meta.tx_interface = GRE;
                meta.vrf = INSIDE;
            });
        }
        self.bench.run();
        self.arrivals()
    }

    /// What becomes of packets for the box.
    pub(super) fn receive(&mut self, packets: &[Vec<u8>]) -> Arrivals {
        for bytes in packets {
            let node = if bytes[0] >> 4 == 6 {
                NodeId::Ip6Local
            } else {
                NodeId::Ip4Local
            };
            self.bench.put(node, WAN, bytes, |_| {});
        }
        self.bench.run();
        self.arrivals()
    }

    fn arrivals(&mut self) -> Arrivals {
        let arrived = self.bench.take_arrived().into_iter();
        arrived.map(|one| (one.node, one.meta, one.bytes)).collect()
    }

    /// Between outer IP header and inner packet.
    fn between(&self, inner: &[u8]) -> Vec<u8> {
        let kind = if inner[0] >> 4 == 6 {
            [0x86, 0xdd]
        } else {
            [8, 0]
        };
        match self.mode {
            Mode::Gre(None) => [&[0, 0][..], &kind].concat(),
            Mode::Gre(Some(key)) => [&[0x20, 0][..], &kind, &key.to_be_bytes()].concat(),
            Mode::IpIp => Vec::new(),
        }
    }
}

pub(super) type Arrivals = Vec<(NodeId, Metadata, Vec<u8>)>;

/// As the other end would have sent it: the sum over the header stays what it is.
pub(super) fn mirrored(outer: &[u8]) -> Vec<u8> {
    let mut bytes = outer.to_vec();
    if bytes[0] >> 4 == 6 {
        for at in 8..24 {
            bytes.swap(at, at + 16);
        }
    } else {
        for at in 12..16 {
            bytes.swap(at, at + 4);
        }
    }
    bytes
}

fn inner4(payload: usize) -> Vec<u8> {
    packet4_with(HOST_IP, FAR_IP, 253, &vec![0x5a; payload], |header| {
        header.traffic_class = 0xb9;
        header.flags_fragment = 0x4000;
    })
}

fn inner6(payload: usize) -> Vec<u8> {
    let mut bytes = packet6(HOST_IP6, FAR_IP6, 253, 64, &vec![0x5a; payload]);
    (bytes[0], bytes[1]) = (0x6b, 0x90);
    bytes
}

fn one_hop_less(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
    } else {
        culvert_net::Ipv4Mut::new(&mut packet)
            .unwrap()
            .decrement_ttl();
    }
    packet
}

#[test]
fn every_mode_and_family_is_byte_for_byte_what_the_rfcs_say() {
    for mode in MODES {
        for outer_v6 in [false, true] {
            let mut tunnel = Tunnel::new(mode, outer_v6, None);
            for inner in [inner4(0), inner4(100), inner6(0), inner6(700)] {
                let sent = tunnel.send(std::slice::from_ref(&inner));
                let (node, meta, bytes) = &sent[0];
                let inner = one_hop_less(inner);
                let payload = [tunnel.between(&inner), inner.clone()].concat();
                let inside = mode.protocol(inner[0] >> 4 == 6);
                if outer_v6 {
                    assert_eq!((*node, meta.adjacency), (NodeId::Ip6Rewrite, TO_ROUTER6));
                    let view = Ipv6View::parse(bytes).unwrap();
                    assert_eq!((view.source(), view.destination()), (WAN_IP6, ROUTER_IP6));
                    assert_eq!((view.next_header(), view.hop_limit()), (inside, 64));
                    assert_eq!((view.traffic_class(), view.payload()), (0xb9, &payload[..]));
                } else {
                    assert_eq!((*node, meta.adjacency), (NodeId::Ip4Rewrite, TO_ROUTER));
                    let view = Ipv4View::verify(bytes).unwrap();
                    assert_eq!((view.source(), view.destination()), (WAN_IP, ROUTER_IP));
                    assert_eq!((view.protocol(), view.ttl()), (inside, 64));
                    assert_eq!((view.traffic_class(), view.payload()), (0xb9, &payload[..]));
                    assert_eq!(view.dont_fragment(), inner[0] >> 4 == 4);
                }
                assert_eq!(meta.vrf, 0);
                assert_ne!(meta.flags & flags::ENCAPSULATED, 0);
                let back = tunnel.receive(&[mirrored(bytes)]);
                let (node, meta, bytes) = &back[0];
                let input = if inner[0] >> 4 == 6 {
                    NodeId::Ip6Input
                } else {
                    NodeId::Ip4Input
                };
                assert_eq!((*node, bytes), (input, &inner));
                assert_eq!((meta.rx_interface, meta.vrf, meta.flags), (GRE, INSIDE, 0));
            }
            let counters = tunnel.bench.counters.interface(GRE);
            assert_eq!(
                (counters.tx_packets.get(), counters.rx_packets.get()),
                (4, 4)
            );
            tunnel.bench.finish();
        }
    }
}

#[test]
fn outer_packets_of_one_tunnel_take_one_of_several_ways() {
    let mut seen = [0; 2];
    for key in 0..40 {
        let mut tunnel = Tunnel::new(Mode::Gre(Some(key)), false, None);
        let mut route = |kind| {
            let adjacency = crate::tables::Adjacency {
                kind,
                interface: WAN,
                mtu: 1500,
            };
            tunnel.bench.set_adjacency(TO_ROUTER, adjacency);
        };
        route(AdjacencyKind::Multipath([TO_HOST, GLEAN_WAN].into()));
        let sent = tunnel.send(&[inner4(50), inner4(60)]);
        let ways: Vec<_> = sent.iter().map(|(_, meta, _)| meta.adjacency).collect();
        assert_eq!(ways[0], ways[1]);
        let way = [TO_HOST, GLEAN_WAN].iter().position(|way| *way == ways[0]);
        seen[way.unwrap()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
    // Whoever looks at the packet itself, here or on the next box, sees the same flow.
    for mode in MODES {
        for outer_v6 in [false, true] {
            let mut tunnel = Tunnel::new(mode, outer_v6, None);
            let ends = *tunnel.bench.tables.encapsulations.get(GRE).unwrap();
            for inner in [inner4(50), inner6(50)] {
                let bytes = tunnel.send(std::slice::from_ref(&inner)).remove(0).2;
                let spread = ends.spread(inner[0] >> 4 == 6);
                assert_eq!(Flow::spread_of(&bytes), Ok(spread), "{mode:?}");
            }
        }
    }
}

#[test]
fn what_another_sends_is_dropped_by_name() {
    let mut tunnel = Tunnel::new(Mode::Gre(Some(9)), false, None);
    let own = tunnel.send(&[inner4(50)]).remove(0).2;
    let good = mirrored(&own);
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(tunnel.receive(std::slice::from_ref(&good)).len(), 1);
    for (bytes, reason) in [
        (own.clone(), DropReason::TunnelUnknownPeer),
        // Another source, another key, no key, IPIP instead of GRE.
        (changed(15, 77), DropReason::TunnelUnknownPeer),
        (changed(27, 10), DropReason::TunnelUnknownPeer),
        (changed(20, 0), DropReason::TunnelUnknownPeer),
        (changed(9, 4), DropReason::TunnelUnknownPeer),
        // Version 1, an Ethernet frame inside, a version that is not the type's.
        (changed(21, 1), DropReason::TunnelMalformed),
        (changed(22, 0x65), DropReason::TunnelUnknownType),
        (changed(28, 0x65), DropReason::TunnelMalformed),
        (good[..26].to_vec(), DropReason::TunnelMalformed),
    ] {
        let before = tunnel.bench.drops(reason);
        assert!(tunnel.receive(&[bytes]).is_empty(), "{}", reason.name());
        assert_eq!(tunnel.bench.drops(reason), before + 1, "{}", reason.name());
    }
    // A checksum is checked, a sequence number is none of our business.
    let mut summed = good[..20].to_vec();
    summed.extend([0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7]);
    summed.extend(&good[28..]);
    let sum = checksum::Sum::of(&summed[20..]).finish();
    summed[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(
        tunnel.receive(std::slice::from_ref(&summed))[0].2,
        good[28..]
    );
    summed[40] ^= 1;
    assert!(tunnel.receive(&[summed]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::TunnelBadChecksum), 1);
    tunnel
        .bench
        .change_interface(GRE, |interface| interface.admin_up = false);
    assert!(tunnel.receive(&[good]).is_empty());
    assert!(tunnel.send(&[inner4(50)]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::TunnelDown), 2);
    tunnel.bench.finish();
}

#[test]
fn congestion_is_carried_inwards() {
    let mut tunnel = Tunnel::new(Mode::Gre(None), false, None);
    let mut outer = mirrored(&tunnel.send(&[inner4(50)]).remove(0).2);
    outer[1] |= 3;
    let back = tunnel.receive(std::slice::from_ref(&outer));
    assert_eq!(Ipv4View::verify(&back[0].2).unwrap().traffic_class(), 0xbb);
    // A sender that knows no ECN is told by loss.
    let not_capable = packet4(HOST_IP, FAR_IP, 253, &[1]);
    let mut outer = mirrored(&tunnel.send(&[not_capable]).remove(0).2);
    outer[1] |= 3;
    assert!(tunnel.receive(&[outer]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::EspCongestion), 1);
}

/// An ICMP error of a router about a packet that this box has sent.
fn error_about(outer: &[u8], too_big: Option<u16>) -> Vec<u8> {
    // As little as RFC 792 asks for, and more than enough of IPv6.
    let v6 = outer[0] >> 4 == 6;
    let mut message = vec![0; 8];
    message.extend(&outer[..if v6 { 60 } else { 28 }]);
    if v6 {
        let kind = too_big.map_or(Icmpv6Type::NO_ROUTE, |_| Icmpv6Type::PACKET_TOO_BIG);
        let mtu = too_big.map_or(0, u32::from);
        icmpv6::seal(&mut message, kind, mtu, FAR_IP6, WAN_IP6).unwrap();
        packet6(FAR_IP6, WAN_IP6, 58, 64, &message)
    } else {
        let kind = too_big.map_or(Icmpv4Type::PORT_UNREACHABLE, |_| {
            Icmpv4Type::FRAGMENTATION_NEEDED
        });
        icmpv4::seal(&mut message, kind, too_big.map_or(0, u32::from)).unwrap();
        packet4(FAR_IP, WAN_IP, 1, &message)
    }
}

/// A path that takes less than the link: what a router says of it is believed of tunnels that are there, packets inside
/// are made to fit, and where those of IPv6 cannot be, the outer packet is cut.
#[test]
fn what_routers_say_of_the_path_is_kept_to() {
    for mode in MODES {
        for outer_v6 in [false, true] {
            let path = if outer_v6 { 1280 } else { 1000 };
            let mut tunnel = Tunnel::new(mode, outer_v6, None);
            let ends = *tunnel.bench.tables.encapsulations.get(GRE).unwrap();
            let overhead = ends.overhead();
            let outer = tunnel.send(&[inner4(1480 - overhead)]).remove(0).2;
            assert_eq!(outer.len(), 1500);
            let mut foreign = outer.clone();
            foreign[if outer_v6 { 39 } else { 19 }] ^= 1;
            let punted = tunnel.receive(&[error_about(&foreign, Some(path))]);
            assert_eq!(punted[0].0, NodeId::Punt, "of a tunnel that is not there");
            assert!(tunnel.receive(&[error_about(&outer, None)]).is_empty());
            assert_eq!(tunnel.bench.drops(DropReason::TunnelIcmpError), 1);
            assert!(tunnel.bench.events().is_empty());
            let error = error_about(&outer, Some(path));
            assert!(tunnel.receive(&[error]).is_empty());
            assert_eq!(tunnel.bench.drops(DropReason::TunnelTooBig), 1);
            let message = TunnelTooBig {
                mtu: path.into(),
                ends,
                length: 1500,
            };
            assert_eq!(tunnel.bench.events(), [Event::TunnelTooBig(message)]);
            let mut table = PathMtuTable::default();
            let verdict = table.hear_tunnel(&message, Some(1500), 0);
            assert_eq!(verdict, Verdict::Learnt);
            tunnel.bench.tables.path_mtus = table.published();
            let fits = usize::from(path) - overhead;
            let sent = tunnel.send(&[inner4(fits - 20), inner4(fits - 19)]);
            let mut sent: Vec<_> = sent
                .iter()
                .map(|(node, meta, bytes)| (bytes.len(), *node, meta.icmp.mtu))
                .collect();
            sent.sort_unstable();
            let refused = (fits + 1, NodeId::IcmpError, fits as u16);
            let rewrite = if outer_v6 {
                NodeId::Ip6Rewrite
            } else {
                NodeId::Ip4Rewrite
            };
            assert_eq!(sent, [refused, (usize::from(path), rewrite, 0)]);
            // The smallest MTU of IPv6 is not taken from those inside.
            let pieces = tunnel.send(&[inner6(1240)]);
            assert_eq!(pieces.len(), 2, "{mode:?}");
            let fits = |(node, _, bytes): &(NodeId, Metadata, Vec<u8>)| {
                *node == rewrite && bytes.len() <= usize::from(path)
            };
            assert!(pieces.iter().all(fits));
            let headers = if outer_v6 { 48 } else { 20 };
            let carried: usize = pieces.iter().map(|piece| piece.2.len() - headers).sum();
            assert_eq!(carried, 1280 + mode.len());
            tunnel.bench.finish();
        }
    }
}

#[test]
fn what_does_not_fit_is_told_or_cut_and_the_far_end_puts_outer_fragments_together() {
    for mode in MODES {
        for outer_v6 in [false, true] {
            let mut tunnel = Tunnel::new(mode, outer_v6, None);
            let room = 1500 - if outer_v6 { 40 } else { 20 } - mode.len();
            let lengths = |arrivals: &Arrivals| -> Vec<_> {
                let seen = arrivals.iter();
                seen.map(|(node, meta, bytes)| (*node, bytes.len(), meta.icmp.mtu))
                    .collect()
            };
            let rewrite = if outer_v6 {
                NodeId::Ip6Rewrite
            } else {
                NodeId::Ip4Rewrite
            };
            let sent = tunnel.send(&[inner4(room - 20), inner4(room - 19), inner6(room - 39)]);
            let mut lengths_sent = lengths(&sent);
            lengths_sent.sort_unstable();
            let mut expected = vec![
                (rewrite, 1500, 0),
                (NodeId::IcmpError, room + 1, room as u16),
                (NodeId::IcmpError, room + 1, room as u16),
            ];
            expected.sort_unstable();
            assert_eq!(lengths_sent, expected, "{mode:?}");
            let may_be_cut = packet4(HOST_IP, FAR_IP, 253, &vec![7; 1600]);
            let sent = tunnel.send(&[may_be_cut]);
            assert_eq!(sent.len(), 2);
            assert!(
                sent.iter()
                    .all(|(node, _, bytes)| *node == rewrite && bytes.len() <= 1500)
            );
            tunnel.bench.finish();
        }
    }
    let mut tunnel = Tunnel::new(Mode::IpIp, false, None);
    let inner = inner4(1000);
    let whole = mirrored(&tunnel.send(std::slice::from_ref(&inner)).remove(0).2);
    let piece = |range: std::ops::Range<usize>, more: bool| {
        let offset = ((range.start - 20) as u16 / 8) | if more { 0x2000 } else { 0 };
        packet4_with(ROUTER_IP, WAN_IP, 4, &whole[range], |header| {
            header.flags_fragment = offset;
            header.traffic_class = 0xb9;
        })
    };
    let back = tunnel.receive(&[piece(820..whole.len(), false), piece(20..820, true)]);
    assert_eq!(back[0].2, one_hop_less(inner));
    tunnel.bench.finish();
}

#[test]
fn a_tunnel_does_not_lead_to_itself() {
    let mut tunnel = Tunnel::new(Mode::Gre(None), false, None);
    let adjacency = crate::tables::Adjacency {
        kind: crate::tables::AdjacencyKind::Encapsulation,
        interface: GRE,
        mtu: 1476,
    };
    tunnel.bench.set_adjacency(TO_ROUTER, adjacency);
    assert!(tunnel.send(&[inner4(10)]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::TunnelRecursion), 1);
    // Round by way of others it ends, too.
    tunnel
        .bench
        .put(NodeId::Encapsulate, LAN, &inner4(10), |meta| {
            meta.tx_interface = GRE;
            meta.flags = flags::ENCAPSULATED | flags::NESTED;
        });
    tunnel.bench.run();
    assert_eq!(tunnel.bench.drops(DropReason::TunnelRecursion), 2);
    tunnel.bench.finish();
}

/// Policies and, if wanted, SAs in both directions between the two ends.
fn protect(tunnel: &mut Tunnel, manager: &mut SaManager, mode: SaMode, sas: bool) {
    let (here, there): (IpAddr, IpAddr) = (WAN_IP.into(), ROUTER_IP.into());
    let between = |from: IpAddr, to: IpAddr| Selector {
        source: AddressRange::new(from, from).unwrap(),
        destination: AddressRange::new(to, to).unwrap(),
        protocol: Some(Protocol::GRE),
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
    };
    let tables = &mut tunnel.bench.tables.sas;
    let suite = Suite::AES128GCM16;
    for (direction, source, destination) in [
        (SaDirection::Out, here, there),
        (SaDirection::In, there, here),
    ] {
        let spec = SaSpec {
            id: SaKeyId {
                spi: Spi::new(0x1000).unwrap(),
                direction,
                destination,
            },
            source,
            mode,
            suite,
            esn: true,
            replay_window: 128,
            udp: None,
            if_id: IF_ID,
            selectors: vec![between(source, destination)],
            limits: Limits::NONE,
            copy_df: true,
            copy_ecn: true,
            copy_dscp: true,
            tfc_padding: 0,
            reqid: 1,
            timers: [0; 3],
        };
        if sas {
            manager.add(tables, spec, &[7; 20], &[]).unwrap();
        }
    }
    let id = PolicyId {
        outbound: true,
        forward: false,
        if_id: IF_ID,
        selector: between(here, there),
        spi: if sas { 0x1000 } else { 0 },
    };
    let policy = PolicySpec {
        id,
        action: PolicyAction::Protect,
        priority: 1,
        reqid: 7,
        tunnel: None,
    };
    manager.add_policy(tables, policy).unwrap();
    tunnel.bench.tables.generation += 1;
}

#[test]
fn a_protected_tunnel_sends_and_takes_nothing_in_the_clear() {
    for mode in [SaMode::Transport, SaMode::Tunnel] {
        let mut tunnel = Tunnel::new(Mode::Gre(None), false, Some(IF_ID));
        let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
        let inner = inner4(100);
        // Without a policy.
        assert!(tunnel.send(std::slice::from_ref(&inner)).is_empty());
        assert_eq!(tunnel.bench.drops(DropReason::TunnelNoPolicy), 1);
        // With a trap: the packet waits, and the peer is asked for.
        protect(&mut tunnel, &mut manager, mode, false);
        assert!(tunnel.send(std::slice::from_ref(&inner)).is_empty());
        assert_eq!(tunnel.bench.graph.held(), 1);
        assert!(tunnel.bench.events().iter().any(
            |event| matches!(event, Event::Acquire { flow, .. } if flow.protocol == Protocol::GRE)
        ));
        protect(&mut tunnel, &mut manager, mode, true);
        tunnel.bench.tick();
        let sent = tunnel.arrivals();
        let (node, meta, bytes) = &sent[0];
        assert_eq!((*node, meta.vrf), (NodeId::Ip4Rewrite, 0));
        let view = Ipv4View::verify(bytes).unwrap();
        assert_eq!(
            (view.source(), view.destination(), view.protocol()),
            (WAN_IP, ROUTER_IP, Protocol::ESP)
        );
        assert_eq!(EspHeader::parse(view.payload()).unwrap().spi, 0x1000);
        let expected = match mode {
            SaMode::Transport => 20 + 8 + 8 + 4 + 120 + 2 + 2 + 16,
            SaMode::Tunnel => 20 + 8 + 8 + 20 + 4 + 120 + 2 + 2 + 16,
        };
        assert_eq!(bytes.len(), expected);
        assert!(!bytes.windows(16).any(|window| window == [0x5a; 16]));
        // The other end's would have other addresses inside: build it with a tunnel that stands there.
        let clear = {
            let mut plain = Tunnel::new(Mode::Gre(None), false, None);
            mirrored(&plain.send(std::slice::from_ref(&inner)).remove(0).2)
        };
        assert!(tunnel.receive(std::slice::from_ref(&clear)).is_empty());
        assert_eq!(tunnel.bench.drops(DropReason::TunnelUnprotected), 1);
        // What its SA has brought in goes on.
        tunnel.bench.put(NodeId::Ip4Local, GRE, &clear, |meta| {
            meta.flags = flags::DECRYPTED;
        });
        // What another's has, not.
        tunnel.bench.put(NodeId::Ip4Local, WAN, &clear, |meta| {
            meta.flags = flags::DECRYPTED;
        });
        tunnel.bench.run();
        let back = tunnel.arrivals();
        assert_eq!(back.len(), 1);
        assert_eq!(back[0].2, one_hop_less(inner.clone()));
        assert_eq!(back[0].1.flags, flags::DECRYPTED);
        assert_eq!(tunnel.bench.drops(DropReason::TunnelUnprotected), 2);
        // What fits is what ESP leaves.
        let ends = *tunnel.bench.tables.encapsulations.get(GRE).unwrap();
        let mtu = usize::from(ends.inner_mtu(&tunnel.bench.tables, Some(IF_ID), false));
        let sent = tunnel.send(&[inner4(mtu - 20), inner4(mtu - 19)]);
        let mut nodes: Vec<_> = sent.iter().map(|(node, ..)| *node).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, [NodeId::IcmpError, NodeId::Ip4Rewrite]);
        let longest = sent.iter().find(|(node, ..)| *node == NodeId::Ip4Rewrite);
        assert!((1497..=1500).contains(&longest.unwrap().2.len()));
        tunnel.bench.finish();
    }
}
