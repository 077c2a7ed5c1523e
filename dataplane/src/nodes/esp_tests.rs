//! Tunnels as a whole: tunnel-output, esp-encrypt and esp-decrypt together, for every suite.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_crypto::{Portable, Suite};
use culvert_net::{
    AddressRange, EspHeader, IpPrefix, Ipv4Header, Ipv4View, Ipv6Header, Ipv6View, PortRange,
    Protocol, Selector, Spi, UdpView,
};

use super::workbench::{INTO_TUNNEL, LAN, TO_ROUTER, TUNNEL, WAN, Workbench};
use crate::buffer::{IcmpCause, Metadata, flags};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Node, NodeId};
use crate::sa::{
    Limits, PolicyAction, PolicyId, PolicySpec, SaDirection, SaError, SaKeyId, SaManager, SaMode,
    SaSpec, UdpPorts,
};
use crate::tables::{
    ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Fragmentation, Interface, InterfaceKind,
    MssClamp, ReversePath,
};

pub(super) const IF_ID: u32 = 42;

pub(super) struct Tunnel {
    pub(super) bench: Workbench,
    pub(super) manager: SaManager,
    pub(super) out: SaSpec,
}

pub(super) fn any(v6: bool) -> Selector {
    let all = if v6 {
        AddressRange::ALL_V6
    } else {
        AddressRange::ALL_V4
    };
    Selector {
        source: all,
        destination: all,
        protocol: None,
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
    }
}

pub(super) fn keys(suite: Suite, seed: u8) -> (Vec<u8>, Vec<u8>) {
    let key = |length: usize, seed: u8| {
        (0..length)
            .map(|at| seed.wrapping_mul(31).wrapping_add(at as u8))
            .collect()
    };
    (
        key(suite.encryption_key_len(), seed),
        key(suite.integrity_key_len(), seed ^ 0x55),
    )
}

pub(super) fn spec(suite: Suite, v6: bool, udp: bool, esn: bool, spi: u32) -> SaSpec {
    let address = |last: u8| -> IpAddr {
        if v6 {
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].into()
        } else {
            [192, 0, 2, last].into()
        }
    };
    SaSpec {
        id: SaKeyId {
            spi: Spi::new(spi).unwrap(),
            direction: SaDirection::Out,
            destination: address(2),
        },
        source: address(1),
        mode: SaMode::Tunnel,
        suite,
        esn,
        replay_window: 128,
        udp: udp.then_some(UdpPorts {
            source: 4500,
            destination: 4500,
        }),
        if_id: IF_ID,
        selectors: vec![any(false), any(true)],
        limits: Limits::NONE,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: true,
        tfc_padding: 0,
        reqid: 1,
        timers: [0; 3],
    }
}

pub(super) fn policy(selector: Selector, spi: u32, priority: u32) -> PolicySpec {
    let id = PolicyId {
        outbound: true,
        forward: false,
        if_id: IF_ID,
        selector,
        spi,
    };
    PolicySpec {
        id,
        action: PolicyAction::Protect,
        priority,
        reqid: 7,
        tunnel: None,
    }
}

impl Tunnel {
    /// A tunnel interface without SAs.
    pub(super) fn bare(out: SaSpec) -> Self {
        Self::bare_among(out, super::tunnels())
    }

    pub(super) fn bare_among(out: SaSpec, nodes: Vec<Box<dyn Node>>) -> Self {
        let mut bench = Workbench::with(nodes);
        let tunnel = Interface {
            index: TUNNEL,
            name: "ipsec0".into(),
            kind: InterfaceKind::Tunnel {
                if_id: IF_ID,
                underlay_vrf: 0,
                fixed_mtu: None,
                fragmentation: Fragmentation::Before,
                learn_path_mtu: true,
                outer: None,
            },
            vrf: 5,
            mtu: 1400,
            admin_up: true,
            mss_clamp: MssClamp::FromMtu,
            reverse_path: ReversePath::Off,
            tap: None,
            addresses4: Arc::default(),
            addresses6: Arc::default(),
        };
        bench.tables.interfaces.set(TUNNEL, Some(Arc::new(tunnel)));
        let adjacency = |kind, interface, mtu| Adjacency {
            kind,
            interface,
            mtu,
        };
        // The peer is reached by what no other route covers.
        let underlay = adjacency(AdjacencyKind::Rewrite([0; 14]), WAN, 1500);
        bench.set_adjacency(ADJACENCY_NO_ROUTE, underlay);
        bench.set_adjacency(INTO_TUNNEL, adjacency(AdjacencyKind::Tunnel, TUNNEL, 1400));
        bench.tables.sas.tunnels.set(IF_ID, Some(TUNNEL));
        Self {
            bench,
            manager: SaManager::new(Arc::new(Portable)).unwrap(),
            out,
        }
    }

    /// One whose traffic, sent back to itself, is accepted.
    pub(super) fn looped(out: SaSpec) -> Self {
        Self::looped_among(out, super::tunnels())
    }

    /// The same with these nodes.
    pub(super) fn looped_among(out: SaSpec, nodes: Vec<Box<dyn Node>>) -> Self {
        let mut tunnel = Self::bare_among(out, nodes);
        let (encryption, integrity) = keys(tunnel.out.suite, 1);
        let mut inbound = tunnel.out.clone();
        inbound.id.direction = SaDirection::In;
        let sas = &mut tunnel.bench.tables.sas;
        tunnel
            .manager
            .add(sas, inbound, &encryption, &integrity)
            .unwrap();
        tunnel
            .manager
            .add(sas, tunnel.out.clone(), &encryption, &integrity)
            .unwrap();
        for v6 in [false, true] {
            tunnel
                .manager
                .add_policy(sas, policy(any(v6), tunnel.out.id.spi.get(), 1))
                .unwrap();
        }
        tunnel
    }

    pub(super) fn send(&mut self, packets: &[Vec<u8>]) -> Arrivals {
        for bytes in packets {
            self.bench.put(NodeId::TunnelOutput, WAN, bytes, |meta| {
                meta.adjacency = INTO_TUNNEL;
            });
        }
        self.bench.run();
        self.arrivals()
    }

    pub(super) fn receive<'p>(
        &mut self,
        packets: impl IntoIterator<Item = &'p Vec<u8>>,
    ) -> Arrivals {
        let header = if self.out.source.is_ipv4() { 20 } else { 40 };
        for bytes in packets {
            self.bench.put(NodeId::EspDecrypt, WAN, bytes, |meta| {
                meta.l4_offset = (meta.offset() + header) as u16;
            });
        }
        self.bench.run();
        self.arrivals()
    }

    fn tick(&mut self) -> Arrivals {
        self.bench.tick();
        self.arrivals()
    }

    fn arrivals(&mut self) -> Arrivals {
        let arrived = self.bench.take_arrived().into_iter();
        arrived.map(|one| (one.node, one.meta, one.bytes)).collect()
    }
}

/// What left the nodes of tunnels: to which node, with what metadata and bytes.
pub(super) type Arrivals = Vec<(NodeId, Metadata, Vec<u8>)>;

pub(super) fn inner4(length: usize, class: u8, df: bool) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| at as u8).collect();
    Ipv4Header {
        traffic_class: class,
        total_len: length as u16,
        identification: 7,
        flags_fragment: if df { Ipv4Header::DONT_FRAGMENT } else { 0 },
        ttl: 9,
        protocol: Protocol::UDP,
        source: [10, 1, 0, 10].into(),
        destination: [10, 2, 0, 10].into(),
    }
    .write(packet.first_chunk_mut().unwrap());
    packet
}

pub(super) fn inner6(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| at as u8).collect();
    Ipv6Header {
        traffic_class: 0xb8,
        flow_label: 5,
        payload_len: (length - 40) as u16,
        next_header: Protocol::UDP,
        hop_limit: 9,
        source: [0xfd; 16].into(),
        destination: [0xfe; 16].into(),
    }
    .write(packet.first_chunk_mut().unwrap());
    packet
}

/// As it must come out: one hop less.
pub(super) fn one_hop_less(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
    } else {
        culvert_net::Ipv4Mut::new(&mut packet)
            .unwrap()
            .decrement_ttl();
    }
    packet
}

pub(super) fn payloads(arrivals: &Arrivals) -> Vec<Vec<u8>> {
    arrivals.iter().map(|(_, _, bytes)| bytes.clone()).collect()
}

#[test]
fn what_went_in_comes_out_for_every_suite_family_and_encapsulation() {
    for suite in Suite::ALL {
        for (v6, udp, esn) in [
            (false, false, false),
            (false, true, true),
            (true, false, true),
            (true, true, false),
        ] {
            let mut tunnel = Tunnel::looped(spec(suite, v6, udp, esn, 0xc000_0001));
            let inner: Vec<_> = [28, 29, 64, 500, 1200]
                .into_iter()
                .map(|length| inner4(length, 0, true))
                .chain([inner6(60), inner6(1200)])
                .collect();
            let sent = tunnel.send(&inner);
            assert_eq!(sent.len(), inner.len());
            for (number, (node, meta, bytes)) in sent.iter().enumerate() {
                assert_eq!(
                    *node,
                    if v6 {
                        NodeId::Ip6Rewrite
                    } else {
                        NodeId::Ip4Rewrite
                    }
                );
                assert_ne!(meta.flags & flags::ENCRYPTED, 0);
                let payload = if v6 {
                    let view = Ipv6View::parse(bytes).unwrap();
                    assert_eq!(
                        (view.source(), view.total_len()),
                        (
                            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into(),
                            bytes.len()
                        )
                    );
                    view.payload()
                } else {
                    Ipv4View::verify(bytes).unwrap().payload()
                };
                let esp = if udp {
                    UdpView::parse(payload).unwrap().payload()
                } else {
                    payload
                };
                let header = EspHeader::parse(esp).unwrap();
                assert_eq!(
                    (header.spi, header.sequence),
                    (0xc000_0001, number as u32 + 1)
                );
                assert!(
                    !suite.cipher().is_confidential()
                        || !bytes
                            .windows(16)
                            .any(|window| window == &inner4(64, 0, true)[32..48]),
                    "{suite}: cleartext"
                );
            }
            let back = tunnel.receive(&payloads(&sent));
            assert_eq!(
                payloads(&back),
                inner.into_iter().map(one_hop_less).collect::<Vec<_>>(),
                "{suite}"
            );
            for (_, meta, bytes) in &back {
                assert_eq!(
                    (meta.rx_interface, meta.vrf, meta.flags),
                    (TUNNEL, 5, flags::DECRYPTED)
                );
                assert_eq!(bytes.len(), meta.len());
            }
            let usage = tunnel
                .manager
                .get(
                    &tunnel.bench.tables.sas,
                    SaKeyId {
                        direction: SaDirection::In,
                        ..tunnel.out.id
                    },
                )
                .unwrap()
                .state
                .usage();
            assert_eq!(usage.packets, 7);
        }
    }
}

#[test]
fn replays_forgeries_and_strangers_are_told_apart() {
    // Without ESN: with it an old number is taken for one of the next 2^32, and its ICV is wrong.
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, false, false, 0xc000_0001));
    let sent = payloads(&tunnel.send(&vec![inner4(100, 0, true); 200]));
    // The 200th first: the window of 128 makes the first 72 late.
    assert_eq!(tunnel.receive(&sent[199..]).len(), 1);
    assert_eq!(tunnel.receive(&sent).len(), 127);
    assert_eq!(
        (
            tunnel.bench.drops(DropReason::EspLate),
            tunnel.bench.drops(DropReason::EspReplayed)
        ),
        (72, 1)
    );
    // A duplicate within one vector passes once.
    let fresh = payloads(&tunnel.send(&[inner4(100, 0, true)]));
    assert_eq!(tunnel.receive([&fresh[0], &fresh[0], &fresh[0]]).len(), 1);
    assert_eq!(tunnel.bench.drops(DropReason::EspReplayed), 3);
    // A forged packet neither passes nor moves the window.
    let next = payloads(&tunnel.send(&[inner4(100, 0, true)]));
    for at in 20..next[0].len() {
        let mut forged = next[0].clone();
        forged[at] ^= 1;
        assert!(tunnel.receive([&forged]).is_empty(), "byte {at}");
    }
    assert_eq!(tunnel.receive(&next).len(), 1);
    let mut stranger = next[0].clone();
    stranger[20] = 0xd0;
    assert!(tunnel.receive([&stranger]).is_empty());
    assert!(tunnel.bench.drops(DropReason::EspUnknownSpi) >= 1);
    for length in 20..60 {
        assert!(tunnel.receive([&next[0][..length].to_vec()]).is_empty());
    }
}

#[test]
fn too_big_packets_cause_the_icmp_error_with_the_inner_mtu() {
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, false, true, 0xc000_0001));
    let fits = Suite::AES128GCM16.max_payload(1480).unwrap();
    let arrivals = tunnel.send(&[
        inner4(fits, 0, true),
        inner4(fits + 1, 0, true),
        inner6(fits + 1),
    ]);
    let seen: Vec<_> = arrivals
        .iter()
        .map(|(node, meta, bytes)| (*node, meta.icmp, bytes.len()))
        .collect();
    let error = |kind, code| IcmpCause {
        kind,
        code,
        mtu: fits as u16,
    };
    assert!(
        seen.contains(&(NodeId::IcmpError, error(3, 4), fits + 1)),
        "{seen:?}"
    );
    assert!(
        seen.contains(&(NodeId::IcmpError, error(2, 0), fits + 1)),
        "{seen:?}"
    );
    let whole = seen
        .iter()
        .find(|(node, ..)| *node == NodeId::Ip4Rewrite)
        .unwrap();
    assert!(whole.2 <= 1500 && whole.2 > 1496);
}

#[test]
fn the_outer_header_inherits_class_and_df_and_congestion_comes_back() {
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, false, true, 0xc000_0001));
    let mut sent = payloads(&tunnel.send(&[inner4(100, 0xb8 | 2, true), inner4(100, 0x20, false)]));
    let outer: Vec<_> = sent
        .iter()
        .map(|bytes| {
            Ipv4View::verify(bytes)
                .map(|view| (view.traffic_class(), view.dont_fragment()))
                .unwrap()
        })
        .collect();
    assert_eq!(outer, [(0xba, true), (0x20, false)]);
    for bytes in &mut sent {
        culvert_net::Ipv4Mut::new(bytes)
            .unwrap()
            .set_traffic_class(0xbb);
    }
    let back = tunnel.receive(&sent);
    assert_eq!(back.len(), 1, "congestion on a packet without ECN drops it");
    assert_eq!(Ipv4View::verify(&back[0].2).unwrap().traffic_class(), 0xbb);
    assert_eq!(tunnel.bench.drops(DropReason::EspCongestion), 1);
}

#[test]
fn the_tunnel_says_what_crosses_between_inner_and_outer_header() {
    use crate::sa::{DontFragment, FlowLabel, OuterRules};
    let rules = OuterRules {
        dont_fragment: DontFragment::Clear,
        hop_limit: 7,
        flow_label: FlowLabel::Copy,
        dscp_inward: true,
        ..OuterRules::default().dscp(Some(46)).ecn(false)
    };
    for v6 in [false, true] {
        let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, v6, false, true, 0xc000_0001));
        tunnel.bench.change_interface(TUNNEL, |interface| {
            if let InterfaceKind::Tunnel { outer, .. } = &mut interface.kind {
                *outer = Some(rules);
            }
        });
        let sent = payloads(&tunnel.send(&[inner4(100, 0x22, true), inner6(100)]));
        for (bytes, label) in sent.iter().zip([0, 5]) {
            if v6 {
                let view = Ipv6View::parse(bytes).unwrap();
                let seen = (view.traffic_class(), view.hop_limit(), view.flow_label());
                assert_eq!(seen, (0xb8, 7, label));
            } else {
                let view = Ipv4View::verify(bytes).unwrap();
                let seen = (view.traffic_class(), view.ttl(), view.dont_fragment());
                assert_eq!(seen, (0xb8, 7, false));
            }
        }
        let back = payloads(&tunnel.receive(&sent));
        assert_eq!(
            Ipv4View::verify(&back[0]).unwrap().traffic_class(),
            0xb8 | 2
        );
        assert_eq!(Ipv6View::parse(&back[1]).unwrap().traffic_class(), 0xb8);
    }
}

#[test]
fn a_packet_waits_for_its_sa_and_leaves_encrypted() {
    let mut tunnel = Tunnel::bare(spec(Suite::AES256GCM16, false, false, true, 0xc000_0001));
    tunnel
        .manager
        .add_policy(&mut tunnel.bench.tables.sas, policy(any(false), 0, 2))
        .unwrap();
    assert!(tunnel.send(&vec![inner4(100, 0, true); 70]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::TunnelNoSa), 6);
    let heard = tunnel.bench.events();
    assert!(
        matches!(heard.as_slice(), [Event::Acquire { policy: 1, .. }]),
        "{heard:?}"
    );
    let (encryption, integrity) = keys(tunnel.out.suite, 1);
    let sas = &mut tunnel.bench.tables.sas;
    tunnel
        .manager
        .add(sas, tunnel.out.clone(), &encryption, &integrity)
        .unwrap();
    tunnel
        .manager
        .add_policy(sas, policy(any(false), tunnel.out.id.spi.get(), 1))
        .unwrap();
    tunnel.bench.tables.generation += 1;
    let sent = tunnel.tick();
    assert_eq!(sent.len(), 64);
    assert!(
        sent.iter().all(
            |(node, meta, _)| *node == NodeId::Ip4Rewrite && meta.flags & flags::ENCRYPTED != 0
        )
    );
}

#[test]
fn packets_that_wait_too_long_are_dropped() {
    let mut tunnel = Tunnel::bare(spec(Suite::AES256GCM16, false, false, true, 0xc000_0001));
    tunnel
        .manager
        .add_policy(&mut tunnel.bench.tables.sas, policy(any(false), 0, 2))
        .unwrap();
    tunnel.send(&[inner4(100, 0, true)]);
    assert_eq!(tunnel.bench.events().len(), 1);
    // The peer is asked again after five seconds, which keeps the first packet no longer than ten.
    tunnel.bench.now += 6_000_000_000;
    tunnel.send(&[inner4(100, 0, true)]);
    tunnel.send(&[inner4(100, 0, true)]);
    assert_eq!(tunnel.bench.events().len(), 1);
    tunnel.bench.now += 5_000_000_000;
    assert!(tunnel.tick().is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::TunnelNoSa), 3);
}

#[test]
fn selectors_hold_in_both_directions() {
    let between = |a: [u8; 4], b: [u8; 4]| {
        let prefix = |address: [u8; 4]| IpPrefix::new(address.into(), 24).unwrap();
        Selector::between(prefix(a), prefix(b))
    };
    let mut out = spec(Suite::AES128GCM16, false, false, true, 0xc000_0001);
    out.selectors = vec![between([10, 1, 0, 0], [10, 2, 0, 0])];
    let mut tunnel = Tunnel::looped(out.clone());
    let mut outside = inner4(100, 0, true);
    culvert_net::Ipv4Mut::new(&mut outside)
        .unwrap()
        .set_source([10, 9, 0, 10].into());
    let sent = payloads(&tunnel.send(&[inner4(100, 0, true), outside]));
    assert_eq!(tunnel.receive(&sent).len(), 1);
    assert_eq!(tunnel.bench.drops(DropReason::EspSelectorMismatch), 1);
    // No policy for it: nothing leaves, an ICMP error is due.
    let mut strict = Tunnel::bare(out);
    strict
        .manager
        .add_policy(
            &mut strict.bench.tables.sas,
            policy(between([10, 1, 0, 0], [10, 3, 0, 0]), 1, 1),
        )
        .unwrap();
    let arrivals = strict.send(&[inner4(100, 0, true)]);
    assert!(
        matches!(arrivals.as_slice(), [(NodeId::IcmpError, meta, _)] if meta.icmp.kind == 3 && meta.icmp.code == 13)
    );
}

#[test]
fn limits_hold_within_the_vector_and_are_told_once() {
    let mut out = spec(Suite::AES128GCM16, false, false, true, 0xc000_0001);
    out.limits = Limits {
        soft_packets: 5,
        hard_packets: 12,
        ..Limits::NONE
    };
    let mut tunnel = Tunnel::bare(out.clone());
    let (encryption, integrity) = keys(out.suite, 1);
    let sas = &mut tunnel.bench.tables.sas;
    tunnel
        .manager
        .add(sas, out.clone(), &encryption, &integrity)
        .unwrap();
    tunnel
        .manager
        .add_policy(sas, policy(any(false), out.id.spi.get(), 1))
        .unwrap();
    let packets = vec![inner4(100, 0, true); 10];
    assert_eq!(tunnel.send(&packets).len(), 10);
    assert_eq!(
        tunnel.bench.events(),
        [Event::SaLimit {
            sa: out.id,
            hard: false
        }]
    );
    assert_eq!(tunnel.send(&packets).len(), 2);
    assert_eq!(
        tunnel.bench.events(),
        [Event::SaLimit {
            sa: out.id,
            hard: true
        }]
    );
    assert_eq!(tunnel.send(&packets).len(), 0);
    assert_eq!(tunnel.bench.events(), []);
    assert_eq!(tunnel.bench.drops(DropReason::EspLimit), 18);
}

#[test]
fn only_the_underlay_of_its_tunnel_brings_in_the_packets_of_an_sa() {
    const OTHER: u32 = 3;
    const LEAK: u32 = 30;
    for (v6, mode) in [
        (false, SaMode::Tunnel),
        (true, SaMode::Tunnel),
        (false, SaMode::Transport),
    ] {
        let mut out = spec(Suite::AES128GCM16, v6, false, true, 0xc000_0001);
        let inner = if mode == SaMode::Transport {
            let mut packet = inner4(100, 0, true);
            packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
            packet[10..12].fill(0);
            let sum = culvert_net::checksum::Sum::of(&packet[..20]).finish();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        } else {
            inner4(100, 0, true)
        };
        out.mode = mode;
        let mut tunnel = Tunnel::looped(out);
        let sent = payloads(&tunnel.send(&vec![inner; 4]));
        assert_eq!(sent.len(), 4);
        let header = if v6 { 40 } else { 20 };
        let receive = |tunnel: &mut Tunnel, bytes: &[u8], vrf: u32| {
            tunnel.bench.put(NodeId::EspDecrypt, WAN, bytes, |meta| {
                meta.l4_offset = (meta.offset() + header) as u16;
                meta.vrf = vrf;
            });
            tunnel.bench.run();
            tunnel.arrivals().len()
        };
        // By another VRF that has the same address, or by one that is not there: not looked at any further.
        for vrf in [OTHER, 77] {
            assert_eq!(receive(&mut tunnel, &sent[0], vrf), 0);
        }
        assert_eq!(tunnel.bench.drops(DropReason::EspWrongSa), 2);
        assert_eq!(receive(&mut tunnel, &sent[0], 0), 1);
        // A route leads from there to the address in the underlay.
        let (mut fib4, mut fib6) = (
            crate::fib::Fib4Writer::default(),
            crate::fib::Fib6Writer::default(),
        );
        fib4.insert("192.0.2.0/24".parse().unwrap(), LEAK).unwrap();
        fib6.insert("2001:db8::/64".parse().unwrap(), LEAK).unwrap();
        let vrf = crate::tables::Vrf {
            name: "other".into(),
            fib4: Arc::clone(fib4.fib()),
            fib6: Arc::clone(fib6.fib()),
        };
        tunnel.bench.tables.vrfs.set(OTHER, Some(Arc::new(vrf)));
        for (into, passes) in [(0, 1), (OTHER, 0), (5, 0)] {
            let adjacency = Adjacency {
                kind: AdjacencyKind::Lookup(into),
                interface: 0,
                mtu: u16::MAX,
            };
            tunnel.bench.set_adjacency(LEAK, adjacency);
            assert_eq!(receive(&mut tunnel, &sent[1], OTHER), passes, "{into}");
        }
        assert_eq!(tunnel.bench.drops(DropReason::EspWrongSa), 4);
        tunnel.bench.finish();
    }
}

#[test]
fn limits_of_bytes_hold_within_the_vector_and_count_what_went() {
    let mut out = spec(Suite::AES128GCM16, false, false, true, 0xc000_0001);
    out.limits = Limits {
        soft_bytes: 450,
        hard_bytes: 1_150,
        ..Limits::NONE
    };
    let limit = |id, hard| [Event::SaLimit { sa: id, hard }];
    let mut tunnel = Tunnel::looped(out.clone());
    let packets = |count| vec![inner4(100, 0, true); count];
    let mut sent = tunnel.send(&packets(4));
    assert_eq!((sent.len(), tunnel.bench.events()), (4, vec![]));
    sent.extend(tunnel.send(&packets(1)));
    assert_eq!(tunnel.bench.events(), limit(out.id, false));
    // The twelfth reaches the limit; the others are in the same vector and stay.
    sent.extend(tunnel.send(&packets(10)));
    assert_eq!(sent.len(), 12);
    assert_eq!(tunnel.bench.events(), limit(out.id, true));
    assert!(tunnel.send(&packets(3)).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::EspLimit), 6);
    let usage = tunnel
        .manager
        .get(&tunnel.bench.tables.sas, out.id)
        .unwrap()
        .state
        .usage();
    assert_eq!((usage.packets, usage.bytes), (12, 1200));
    let counters = tunnel.bench.counters.interface(TUNNEL);
    assert_eq!(
        (counters.tx_packets.get(), counters.tx_bytes.get()),
        (12, 1200)
    );
    // The receiver has limits of its own.
    let inbound = SaKeyId {
        direction: SaDirection::In,
        ..out.id
    };
    let packets = payloads(&sent);
    assert_eq!(tunnel.receive(&packets[..4]).len(), 4);
    assert_eq!(tunnel.bench.events(), []);
    assert_eq!(tunnel.receive(&packets[4..5]).len(), 1);
    assert_eq!(tunnel.bench.events(), limit(inbound, false));
    assert_eq!(tunnel.receive(&packets[5..12]).len(), 7);
    assert_eq!(tunnel.bench.events(), limit(inbound, true));
    assert!(tunnel.receive(&packets[..1]).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::EspLimit), 7);
}

#[test]
fn keys_are_never_installed_twice() {
    let out = spec(Suite::AES128GCM16, false, false, true, 0xc000_0001);
    let mut tunnel = Tunnel::bare(out.clone());
    let (encryption, integrity) = keys(out.suite, 1);
    let sas = &mut tunnel.bench.tables.sas;
    let first = tunnel
        .manager
        .add(sas, out.clone(), &encryption, &integrity)
        .unwrap();
    // The answer was lost and the request is repeated: nothing changes.
    assert_eq!(
        tunnel
            .manager
            .add(sas, out.clone(), &encryption, &integrity),
        Ok(first)
    );
    let (other, _) = keys(out.suite, 2);
    assert_eq!(
        tunnel.manager.add(sas, out.clone(), &other, &integrity),
        Err(SaError::Exists(out.id))
    );
    tunnel.manager.delete(sas, out.id).unwrap();
    assert_eq!(
        tunnel
            .manager
            .add(sas, out.clone(), &encryption, &integrity),
        Err(SaError::KeysUsed(out.id))
    );
    tunnel.manager.flush(sas);
    let mut renamed = out.clone();
    renamed.id.spi = Spi::new(0xc000_0002).unwrap();
    assert_eq!(
        tunnel
            .manager
            .add(sas, renamed.clone(), &encryption, &integrity),
        Err(SaError::KeysUsed(renamed.id))
    );
    assert!(tunnel.manager.add(sas, renamed, &other, &integrity).is_ok());
}

#[test]
fn an_update_moves_the_tunnel_and_nothing_else() {
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, true, true, 0xc000_0001));
    let first = payloads(&tunnel.send(&[inner4(100, 0, true)]));
    assert_eq!(tunnel.receive(&first).len(), 1);
    // The peer's NAT has given it another port: told once, and only after a good ICV.
    let mut moved = payloads(&tunnel.send(&vec![inner4(100, 0, true); 2]));
    for bytes in &mut moved {
        bytes[20..22].copy_from_slice(&40_000u16.to_be_bytes());
    }
    let mut forged = moved[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(tunnel.receive([&forged]).is_empty());
    assert_eq!(tunnel.bench.events(), []);
    assert_eq!(tunnel.receive(&moved).len(), 2);
    let inbound = SaKeyId {
        direction: SaDirection::In,
        ..tunnel.out.id
    };
    assert_eq!(
        tunnel.bench.events(),
        [Event::MappingChanged {
            sa: inbound,
            source: [192, 0, 2, 1].into(),
            port: 40_000
        }]
    );
    let ports = Some(UdpPorts {
        source: 4500,
        destination: 40_000,
    });
    let (source, destination) = (tunnel.out.source, [192, 0, 2, 77].into());
    tunnel
        .manager
        .update(
            &mut tunnel.bench.tables.sas,
            tunnel.out.id,
            source,
            destination,
            ports,
        )
        .unwrap();
    let after = payloads(&tunnel.send(&[inner4(100, 0, true)]));
    let view = Ipv4View::verify(&after[0]).unwrap();
    let udp = UdpView::parse(view.payload()).unwrap();
    assert_eq!(
        (view.destination(), udp.destination_port()),
        ([192, 0, 2, 77].into(), 40_000)
    );
    assert_eq!(
        EspHeader::parse(udp.payload()).unwrap().sequence,
        4,
        "the sequence goes on"
    );
    // The SA is for 192.0.2.2 still: the inbound one was not moved.
    assert!(tunnel.receive(&after).is_empty());
    assert_eq!(tunnel.bench.drops(DropReason::EspWrongSa), 1);
}

#[test]
fn what_is_remembered_of_a_tunnel_ends_with_the_route_that_it_came_from() {
    let mut tunnel = Tunnel::looped(spec(Suite::AES128GCM16, false, false, false, 0x1000));
    let leaves_by = |tunnel: &mut Tunnel| {
        for _ in 0..3 {
            let packet = inner4(100, 0, false);
            tunnel
                .bench
                .put(NodeId::TunnelOutput, LAN, &packet, |meta| {
                    meta.adjacency = INTO_TUNNEL;
                });
        }
        tunnel.bench.run_again();
        let arrivals = tunnel.arrivals();
        let way = |arrival: &(NodeId, Metadata, Vec<u8>)| (arrival.0, arrival.1.adjacency);
        assert_eq!(arrivals.len(), 3);
        assert!(arrivals.iter().all(|other| way(other) == way(&arrivals[0])));
        way(&arrivals[0])
    };
    tunnel.bench.run();
    assert_eq!(
        leaves_by(&mut tunnel),
        (NodeId::Ip4Rewrite, ADJACENCY_NO_ROUTE)
    );
    assert_eq!(
        leaves_by(&mut tunnel),
        (NodeId::Ip4Rewrite, ADJACENCY_NO_ROUTE)
    );
    let prefix = "192.0.2.2/32".parse().unwrap();
    tunnel.bench.fib4.insert(prefix, TO_ROUTER).unwrap();
    assert_eq!(leaves_by(&mut tunnel), (NodeId::Ip4Rewrite, TO_ROUTER));
    tunnel.bench.fib4.remove(prefix).unwrap();
    assert_eq!(
        leaves_by(&mut tunnel),
        (NodeId::Ip4Rewrite, ADJACENCY_NO_ROUTE)
    );
    tunnel.bench.finish();
}

#[test]
fn transport_mode_keeps_extension_headers_also_in_udp() {
    let mut out = spec(Suite::ALL[0], true, true, false, 0xc000_0001);
    out.mode = SaMode::Transport;
    let mut tunnel = Tunnel::looped(out);
    let (source, destination) = match (tunnel.out.source, tunnel.out.id.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => (source, destination),
        other => panic!("{other:?}"),
    };
    let packets: Vec<_> = [&[][..], &[0], &[60], &[0, 60, 43, 60]]
        .into_iter()
        .map(|chain| {
            let mut behind = Vec::new();
            for at in 0..chain.len() {
                behind.extend([
                    chain.get(at + 1).copied().unwrap_or(253),
                    0,
                    1,
                    4,
                    0,
                    0,
                    0,
                    0,
                ]);
            }
            behind.extend([0x77; 21]);
            let header = Ipv6Header {
                traffic_class: 1,
                flow_label: 2,
                payload_len: behind.len() as u16,
                next_header: Protocol(chain.first().copied().unwrap_or(253)),
                hop_limit: 9,
                source,
                destination,
            };
            [&header.to_bytes()[..], &behind].concat()
        })
        .collect();
    let sent = tunnel.send(&packets);
    assert_eq!(sent.len(), packets.len());
    for ((_, meta, bytes), outside) in sent.iter().zip([0, 8, 8, 24]) {
        let layer = Ipv6View::parse(bytes).unwrap().upper_layer().unwrap();
        assert_eq!((layer.protocol, layer.offset), (Protocol::UDP, outside));
        let datagram = UdpView::parse(layer.payload).unwrap();
        assert_eq!(datagram.header().checksum, 0);
        assert_eq!(
            EspHeader::parse(datagram.payload()).unwrap().spi,
            0xc000_0001
        );
        assert_eq!(usize::from(meta.l4_offset - meta.l3_offset), 40 + outside);
    }
    for ((_, meta, bytes), expected) in sent.iter().zip(&packets) {
        tunnel.bench.put(NodeId::EspDecrypt, WAN, bytes, |fresh| {
            fresh.l4_offset = fresh.offset() as u16 + meta.l4_offset - meta.l3_offset;
        });
        tunnel.bench.run();
        let back = tunnel.arrivals();
        let (node, meta, bytes) = &back[0];
        assert_eq!(*bytes, one_hop_less(expected.clone()));
        assert_eq!(
            (*node, meta.rx_interface, meta.vrf, meta.flags),
            (NodeId::Ip6Input, TUNNEL, 0, flags::DECRYPTED),
            "what is inside stays in the underlay"
        );
    }
}
