//! A million damaged frames through the whole graph: nothing panics, and nothing goes unaccounted.
//!
//! ```text
//!   in + questions asked + fragments made = out + drops by reason - packets that became ICMP errors + held
//! ```
//!
//! A packet that is turned into an ICMP error is counted under its reason and lives on as the error, hence the third
//! term. Punted packets arrive at a stand-in for the TAP's node, which counts them as `sink`.

use std::sync::Arc;

use culvert_crypto::{Portable, Suite};
use culvert_net::{
    ArpPacket, EtherType, EthernetView, IpPrefix, Ipv4View, Ipv6View, PortRange, Protocol,
    Selector, Spi,
};

use super::hostile_traffic::{Hostile, PEERS, Peer, REMOTE, REMOTE6};
use super::workbench::{HOST_MAC, LAN, LAN_MAC, TO_HOST, TUNNEL, WAN, WAN_MAC, Workbench};
use super::{esp_decrypt, esp_encrypt, layer3, tunnel_output};
use crate::driver::generator::Generator;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector};
use crate::port::Port;
use crate::sa::{
    FlowLabel, Limits, OuterRules, PolicyAction, PolicyId, PolicySpec, SaDirection, SaKeyId,
    SaManager, SaMode, SaSpec, UdpPorts,
};
use crate::tables::{InterfaceKind, ReversePath};
use crate::vlan::{OnLink, Tags, VlanId, Vlans};

/// Frames for each of the two interfaces.
const FRAMES: usize = 500_000;
/// Another one makes other frames; a failure names it.
const SEED: u64 = 0x0c01_7e57;
const IF_ID: u32 = 1;

/// Every reason that this traffic must meet at least once; a node that is never reached proves nothing.
const MET: &[DropReason] = &[
    DropReason::EthernetTruncated,
    DropReason::EthernetNotForUs,
    DropReason::EthernetUnknownType,
    DropReason::VlanUnknown,
    DropReason::ReversePath,
    DropReason::ArpMalformed,
    DropReason::ArpConsumed,
    DropReason::ArpNotForUs,
    DropReason::NdMalformed,
    DropReason::NdConsumed,
    DropReason::NdNotForUs,
    DropReason::NeighbourQueueFull,
    DropReason::NeighbourUnresolved,
    DropReason::Ip4Malformed,
    DropReason::Ip4BadChecksum,
    DropReason::Ip4TtlExpired,
    DropReason::Ip6Malformed,
    DropReason::Ip6HopLimitExpired,
    DropReason::IpBadSource,
    DropReason::IpBadDestination,
    DropReason::NoRoute,
    DropReason::RouteBlackhole,
    DropReason::MtuExceeded,
    DropReason::IcmpRateLimited,
    DropReason::IcmpNotAllowed,
    DropReason::PuntBadMarker,
    DropReason::NatKeepalive,
    DropReason::TunnelNoPolicy,
    DropReason::TunnelNoSa,
    DropReason::EspTruncated,
    DropReason::EspUnknownSpi,
    DropReason::EspWrongSa,
    DropReason::EspReplayed,
    DropReason::EspLate,
    DropReason::EspBadIcv,
    DropReason::EspBadPadding,
    DropReason::EspBadInner,
    DropReason::EspSelectorMismatch,
    DropReason::EspCongestion,
    DropReason::EspDummy,
    DropReason::EspTooBig,
    DropReason::EspTooBigLimited,
    DropReason::EspIcmpError,
    DropReason::Ip6ParameterProblem,
    DropReason::Fragmented,
    DropReason::ReassemblyMalformed,
    DropReason::ReassemblyOverlap,
    DropReason::ReassemblyTooLarge,
    DropReason::ReassemblyCrowded,
    DropReason::ReassemblyTimedOut,
    DropReason::Sink,
];

fn selectors(near: &str, far: &str) -> Selector {
    let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
    Selector::between(prefix(near), prefix(far))
}

/// SAs of every kind from the peers, one to them for each family, and a trap. Gives the peers' ends.
fn tunnels(bench: &mut Workbench) -> Vec<Peer> {
    let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
    bench.change_interface(TUNNEL, |interface| {
        if let InterfaceKind::Tunnel { outer, .. } = &mut interface.kind {
            *outer = Some(OuterRules {
                flow_label: FlowLabel::Hash,
                dscp_inward: true,
                ..OuterRules::default()
            });
        }
    });
    let sas = &mut bench.tables.sas;
    sas.tunnels.set(IF_ID, Some(TUNNEL));
    let near = [
        selectors("10.1.0.0/24", "10.2.0.0/16"),
        selectors("2001:db8:1::/64", "2001:db8:2::/48"),
    ];
    let far = [
        selectors("10.2.0.0/16", "10.1.0.0/24"),
        selectors("2001:db8:2::/48", "2001:db8:1::/64"),
    ];
    let mut peers = Vec::new();
    for (number, suite) in Suite::ALL.into_iter().enumerate() {
        let (source, destination, udp) = PEERS[number % PEERS.len()];
        let key = |length: usize, add: usize| -> Vec<u8> {
            (0..length)
                .map(|at| (at * 7 + number * 31 + add) as u8)
                .collect()
        };
        let mut spec = SaSpec {
            id: SaKeyId {
                spi: Spi::new(0x1000 + number as u32).unwrap(),
                direction: SaDirection::In,
                destination,
            },
            source,
            mode: SaMode::Tunnel,
            suite,
            esn: number % 3 == 1,
            replay_window: 64,
            udp: udp.then_some(UdpPorts {
                source: 4500,
                destination: 4500,
            }),
            if_id: IF_ID,
            selectors: far.to_vec(),
            limits: Limits::NONE,
            copy_df: true,
            copy_ecn: true,
            copy_dscp: true,
            // The second one that carries what goes out pads it.
            tfc_padding: if number == 1 { 700 } else { 0 },
            reqid: 1,
            timers: [0; 3],
        };
        // Some look at ports, so that fragments have to be asked for theirs.
        if number % 4 == 3 {
            for selector in &mut spec.selectors {
                selector.destination_ports = PortRange::new(0, 40_000).unwrap();
            }
        }
        let (encryption, integrity) = (
            key(suite.encryption_key_len(), 0),
            key(suite.integrity_key_len(), 1),
        );
        peers.push(Peer::new(&spec, &encryption, &integrity));
        manager
            .add(sas, spec.clone(), &encryption, &integrity)
            .unwrap();
        // The first two carry what goes out: v4 outside and native, v4 outside and in UDP.
        if let Some(selector) = near.get(number) {
            let encryption = key(suite.encryption_key_len(), 2);
            (spec.source, spec.id.destination) = (destination, source);
            spec.id.direction = SaDirection::Out;
            spec.selectors = vec![*selector];
            let spi = spec.id.spi.get();
            manager.add(sas, spec, &encryption, &integrity).unwrap();
            manager.add_policy(sas, policy(*selector, spi, 2)).unwrap();
        }
    }
    let trap = selectors("10.1.0.0/24", "10.2.9.0/24");
    manager.add_policy(sas, policy(trap, 0, 1)).unwrap();
    for selector in near {
        let selector = Selector {
            destination_ports: PortRange::one(9),
            ..selector
        };
        let discard = PolicySpec {
            action: PolicyAction::Discard,
            ..policy(selector, 0, 1)
        };
        manager.add_policy(sas, discard).unwrap();
    }
    assert!(near[0].source_ports == PortRange::ANY);
    peers
}

/// Index, link and tags.
const SUB_INTERFACES: [(u32, u32, &[u8]); 2] = [
    (40, LAN, &[0x81, 0, 0, 100]),
    (41, WAN, &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 100]),
];

/// Sub-interfaces that check sources, and a neighbour on one of them.
fn sub_interfaces(bench: &mut Workbench) {
    const BEHIND: u32 = 50;
    let vlan = |number| VlanId::new(number).unwrap();
    let mut places = Vec::new();
    for (index, parent, tags) in SUB_INTERFACES {
        let mut one = bench
            .tables
            .interfaces
            .get(parent)
            .unwrap()
            .as_ref()
            .clone();
        (one.index, one.reverse_path) = (index, ReversePath::Loose);
        bench.tables.interfaces.set(index, Some(Arc::new(one)));
        let tags = Tags {
            outer: (tags.len() > 4).then(|| vlan(5)),
            vlan: vlan(100),
        };
        places.push((index, OnLink { parent, tags }));
    }
    bench.tables.vlans = Arc::new(Vlans::new(places));
    bench.tables.reverse_path = true;
    let mut behind = bench
        .tables
        .adjacencies
        .get(TO_HOST)
        .unwrap()
        .as_ref()
        .clone();
    behind.interface = 40;
    bench.set_adjacency(BEHIND, behind);
    let network = "10.50.0.0/16".parse().unwrap();
    bench.fib4.insert(network, BEHIND).unwrap();
}

fn policy(selector: Selector, spi: u32, priority: u32) -> PolicySpec {
    PolicySpec {
        id: PolicyId {
            outbound: true,
            forward: false,
            if_id: IF_ID,
            selector,
            spi,
        },
        action: PolicyAction::Protect,
        priority,
        reqid: 1,
        tunnel: None,
    }
}

/// What has left, by kind.
#[derive(Debug, Default)]
struct Out {
    frames: u64,
    questions: u64,
    esp: u64,
    to_host: u64,
    tagged: u64,
}

impl Out {
    /// Looks at a frame that leaves: it is ours, its lengths and checksum hold, and nothing for the peer is in the clear.
    fn look(&mut self, interface: u32, frame: &[u8]) {
        self.frames += 1;
        let bare = match SUB_INTERFACES
            .iter()
            .find(|(_, on, tags)| *on == interface && frame[12..].starts_with(tags))
        {
            Some((_, _, tags)) => [&frame[..12], &frame[12 + tags.len()..]].concat(),
            None => frame.to_vec(),
        };
        self.tagged += u64::from(bare.len() < frame.len());
        let frame = &bare[..];
        let view = EthernetView::parse(frame).unwrap();
        let own = if interface == LAN { LAN_MAC } else { WAN_MAC };
        assert_eq!(view.source(), own);
        self.to_host += u64::from(view.destination() == HOST_MAC);
        match view.ether_type() {
            EtherType::IPV4 => {
                let packet = Ipv4View::verify(view.payload()).unwrap();
                assert_eq!(usize::from(packet.total_len()), view.payload().len());
                assert!(
                    packet.destination().octets()[..2] != REMOTE.octets()[..2],
                    "in the clear: {frame:02x?}"
                );
                self.esp += u64::from(interface == WAN && packet.protocol() == Protocol::ESP);
            }
            EtherType::IPV6 => {
                let packet = Ipv6View::parse(view.payload()).unwrap();
                assert_eq!(packet.total_len(), view.payload().len());
                assert!(
                    packet.destination().octets()[..6] != REMOTE6.octets()[..6],
                    "in the clear: {frame:02x?}"
                );
                let solicit = packet.next_header() == Protocol::ICMPV6
                    && packet.payload().first() == Some(&135);
                // A forwarded one has lost a hop.
                self.questions += u64::from(solicit && packet.hop_limit() == 255);
            }
            EtherType::ARP => {
                let packet = ArpPacket::parse(view.payload()).unwrap();
                self.questions += u64::from(packet.operation == culvert_net::ArpOperation::Request);
            }
            other => panic!("a frame of type {:#06x} left", other.0),
        }
    }
}

#[test]
fn a_million_hostile_frames_are_forwarded_or_counted() {
    println!("seed {SEED:#x}");
    let mut nodes = layer3();
    nodes.push(Box::<tunnel_output::TunnelOutput>::default());
    nodes.push(Box::<esp_encrypt::EspEncrypt>::default());
    nodes.push(Box::<esp_decrypt::EspDecrypt>::default());
    let mut bench = Workbench::with(nodes);
    let peers = tunnels(&mut bench);
    sub_interfaces(&mut bench);
    bench.tables.reassembly.timeout4 = 500_000_000;
    bench.tables.reassembly.timeout6 = 500_000_000;
    let mut ports = [
        (LAN, Hostile::new(LAN, Vec::new(), SEED, FRAMES)),
        (WAN, Hostile::new(WAN, peers, SEED + 1, FRAMES)),
    ]
    .map(|(interface, source)| {
        (
            interface,
            Generator::new(source, NodeId::EthernetInput, VECTOR).with_large(16),
        )
    });
    let mut out = Out::default();
    let (mut sent, mut punted) = (0, 0);
    loop {
        let mut vector = Vector::new();
        let mut received = 0;
        for (interface, port) in &mut ports {
            port.receive(&mut bench.buffers, &bench.counters, &mut vector);
            received += vector.len() as u64;
            for packet in &mut vector {
                bench.buffers.meta_mut(packet).rx_interface = *interface;
            }
            bench.around(|graph, around| {
                graph.enqueue(NodeId::EthernetInput, &mut vector, around);
            });
            bench.run();
        }
        sent += received;
        // Last comes silence: while the flood lasts nobody waits long enough for a neighbour to be told that it is gone.
        bench.now += if received == 0 {
            4_000_000_000
        } else {
            2_000_000
        };
        bench.tick();
        for interface in [LAN, WAN] {
            for frame in bench.sent(interface) {
                out.look(interface, &frame);
            }
        }
        for arrived in bench.take_arrived() {
            assert_eq!(arrived.node, NodeId::Punt);
            punted += 1;
        }
        bench.events();
        if received == 0 {
            break;
        }
    }
    assert_eq!(sent, 2 * FRAMES as u64);
    let drops: u64 = DropReason::ALL
        .iter()
        .map(|reason| bench.drops(*reason))
        .sum();
    let errors = bench.counters.node(NodeId::IcmpError).packets.get();
    let held = bench.graph.held() as u64;
    let made = bench.counters.fragments.get();
    for reason in DropReason::ALL {
        println!("{:>24} {}", reason.name(), bench.drops(*reason));
    }
    println!("{out:?}, {punted} punted, {errors} refused, {held} held");
    assert_eq!(
        sent + out.questions + errors + made,
        out.frames + drops + held
    );
    assert_eq!(bench.drops(DropReason::Sink), punted);
    for reason in MET {
        assert!(
            bench.drops(*reason) > 0,
            "no packet was dropped for {}",
            reason.name()
        );
    }
    let asked = bench.counters.node(NodeId::FragmentPorts).packets.get();
    assert!(asked > 1000, "{asked} packets were asked for their ports");
    assert!(out.esp > 10_000, "{} packets were encrypted", out.esp);
    assert!(
        out.to_host > 50_000,
        "{} packets reached the host",
        out.to_host
    );
    assert!(out.tagged > 1000, "{} frames left tagged", out.tagged);
    bench.finish();
}
