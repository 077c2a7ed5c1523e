//! Both nodes against a graph without threads: what Linux sends, what reaches Linux.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use culvert_crypto::Portable;
use culvert_dataplane::buffer::{BufferPool, Metadata, flags};
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::event;
use culvert_dataplane::graph::{Context, Graph, Node, NodeId, NodeSpec, Surroundings, Vector};
use culvert_dataplane::port::{Port, Ports, tap_port};
use culvert_dataplane::sa::OuterRules;
use culvert_dataplane::tables::{
    Interface, InterfaceAddress, InterfaceKind, MssClamp, ReversePath, Tables,
};
use culvert_net::nd::{self, NeighbourAdvert, NeighbourSolicit};
use culvert_net::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, EthernetView, Icmpv6View, Ipv4Header,
    Ipv6Header, Ipv6View, MacAddr, Protocol,
};

use super::DATAPLANE_MAC;

const WAN: u32 = 1;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

type Seen = Arc<Mutex<Vec<(NodeId, Metadata, Vec<u8>)>>>;

/// Stands for every other node.
struct Rest(&'static NodeSpec, Seen);

impl Node for Rest {
    fn spec(&self) -> &'static NodeSpec {
        self.0
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            let seen = (
                self.0.id,
                *context.buffers.meta(&packet),
                context.buffers.data(&packet).to_vec(),
            );
            self.1.lock().unwrap().push(seen);
            context.buffers.free(packet);
        }
    }
}

/// Stands for Linux.
struct Linux(Arc<Mutex<Vec<Vec<u8>>>>);

impl Port for Linux {
    fn input_node(&self) -> NodeId {
        NodeId::Inject
    }

    fn receive(&mut self, _: &mut BufferPool, _: &WorkerCounters, _: &mut Vector) {}

    fn transmit(&mut self, buffers: &mut BufferPool, _: &WorkerCounters, vector: &mut Vector) {
        for packet in vector.drain(..) {
            self.0.lock().unwrap().push(buffers.data(&packet).to_vec());
            buffers.free(packet);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[derive(Default)]
struct Outcome {
    /// What went on in the graph.
    onward: Vec<(NodeId, Metadata, Vec<u8>)>,
    /// What Linux received.
    linux: Vec<Vec<u8>>,
    dropped: Vec<DropReason>,
}

/// Lets one packet wait for `node`, as if received by `rx`.
fn run(node: NodeId, rx: u32, bytes: &[u8], change: impl FnOnce(&mut Metadata)) -> Outcome {
    let ethernet = InterfaceKind::Ethernet { mac: MAC };
    run_on(ethernet, node, rx, bytes, change)
}

/// The same where the interface is of this kind.
fn run_on(
    kind: InterfaceKind,
    node: NodeId,
    rx: u32,
    bytes: &[u8],
    change: impl FnOnce(&mut Metadata),
) -> Outcome {
    let seen = Seen::default();
    let rest = NodeId::ALL.iter().map(|id| {
        let spec = Box::leak(Box::new(NodeSpec { id: *id, next: &[] }));
        Box::new(Rest(spec, Arc::clone(&seen))) as Box<dyn Node>
    });
    let mut graph = Graph::new(rest.chain(super::nodes()));
    let mut tables = Tables::default();
    let interface = Interface {
        index: WAN,
        name: "wan".into(),
        kind,
        vrf: 3,
        mtu: 1500,
        admin_up: true,
        mss_clamp: MssClamp::Off,
        reverse_path: ReversePath::Off,
        tap: Some(tap_port(WAN)),
        addresses4: [InterfaceAddress {
            address: OWN,
            length: 24,
            tentative: false,
        }]
        .into(),
        addresses6: [InterfaceAddress {
            address: OWN6,
            length: 64,
            tentative: false,
        }]
        .into(),
    };
    tables.interfaces.set(WAN, Some(Arc::new(interface)));
    let linux = Arc::default();
    let mut ports = Ports::default();
    ports.insert(tap_port(WAN), Box::new(Linux(Arc::clone(&linux))));
    let mut buffers = BufferPool::new(64).unwrap();
    let counters = WorkerCounters::default();
    let (events, _receiver) = event::channel();
    let mut packet = buffers.allocate().unwrap();
    buffers.meta_mut(&mut packet).set_len(bytes.len()).unwrap();
    let (meta, data) = buffers.parts_mut(&mut packet);
    data.copy_from_slice(bytes);
    meta.rx_interface = rx;
    change(meta);
    let mut vector = Vector::new();
    vector.push(packet);
    let mut around = Surroundings {
        buffers: &mut buffers,
        tables: &tables,
        counters: &counters,
        ports: &mut ports,
        events: &events,
        engine: &Portable,
        now: 1,
        worker: 0,
    };
    graph.enqueue(node, &mut vector, &mut around);
    graph.run(&mut around);
    ports.flush(&mut buffers, &counters);
    assert_eq!(buffers.available(), buffers.capacity(), "a buffer was lost");
    let dropped = DropReason::ALL
        .iter()
        .copied()
        .filter(|reason| counters.drop(*reason).get() > 0);
    Outcome {
        onward: std::mem::take(&mut seen.lock().unwrap()),
        linux: std::mem::take(&mut linux.lock().unwrap()),
        dropped: dropped.collect(),
    }
}

fn from_linux(bytes: &[u8]) -> Outcome {
    run(NodeId::Inject, tap_port(WAN), bytes, |_| {})
}

fn frame(destination: MacAddr, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = EthernetHeader {
        destination,
        source: MAC,
        ether_type,
    };
    [header.to_bytes().as_slice(), payload].concat()
}

fn ip4(protocol: Protocol, destination: Ipv4Addr) -> Vec<u8> {
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: 28,
        identification: 1,
        flags_fragment: 0,
        ttl: 64,
        protocol,
        source: OWN,
        destination,
    };
    [header.to_bytes().as_slice(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat()
}

fn ip6(next_header: Protocol, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header,
        hop_limit: 255,
        source,
        destination,
    };
    [header.to_bytes().as_slice(), payload].concat()
}

#[test]
fn unicast_of_linux_is_looked_up_in_the_vrf_of_its_interface() {
    let packet = ip4(Protocol::UDP, PEER);
    let outcome = from_linux(&frame(DATAPLANE_MAC, EtherType::IPV4, &packet));
    let [(node, meta, bytes)] = outcome.onward.as_slice() else {
        panic!("not one packet")
    };
    assert_eq!(
        (*node, meta.rx_interface, meta.vrf),
        (NodeId::Ip4Lookup, WAN, 3)
    );
    assert_eq!(meta.flags, flags::INJECTED);
    assert_eq!(*bytes, packet);
    let packet = ip6(Protocol::UDP, OWN6, PEER6, &[0; 8]);
    let outcome = from_linux(&frame(DATAPLANE_MAC, EtherType::IPV6, &packet));
    assert!(
        matches!(outcome.onward.as_slice(), [(NodeId::Ip6Lookup, _, bytes)] if *bytes == packet)
    );
}

#[test]
fn multicast_of_linux_leaves_by_its_interface_as_it_is() {
    let group = Ipv4Addr::new(224, 0, 0, 5);
    let sent = frame(
        MacAddr::of_ipv4_multicast(group),
        EtherType::IPV4,
        &ip4(Protocol(89), group),
    );
    let outcome = from_linux(&sent);
    assert!(matches!(
        outcome.onward.as_slice(),
        [(NodeId::InterfaceOutput, meta, bytes)] if meta.tx_interface == WAN && *bytes == sent
    ));
}

#[test]
fn what_is_for_whoever_is_at_the_other_end_of_a_gre_tunnel_goes_into_it() {
    let gre = || InterfaceKind::Encapsulation {
        underlay_vrf: 0,
        fixed_mtu: None,
        protection: None,
        outer: OuterRules::default(),
    };
    let own: Ipv6Addr = "fe80::1".parse().unwrap();
    let far: Ipv6Addr = "fe80::2".parse().unwrap();
    let group: Ipv6Addr = "ff02::5".parse().unwrap();
    let group4 = Ipv4Addr::new(224, 0, 0, 5);
    let ospf = Protocol(89);
    for (ether_type, to, packet, node) in [
        (
            EtherType::IPV4,
            MacAddr::of_ipv4_multicast(group4),
            ip4(ospf, group4),
            NodeId::Encapsulate,
        ),
        (
            EtherType::IPV6,
            MacAddr::of_ipv6_multicast(group),
            ip6(ospf, own, group, &[0; 8]),
            NodeId::Encapsulate,
        ),
        (
            EtherType::IPV6,
            DATAPLANE_MAC,
            ip6(ospf, own, far, &[0; 8]),
            NodeId::Encapsulate,
        ),
        (
            EtherType::IPV6,
            DATAPLANE_MAC,
            ip6(ospf, OWN6, PEER6, &[0; 8]),
            NodeId::Ip6Lookup,
        ),
    ] {
        let sent = frame(to, ether_type, &packet);
        let outcome = run_on(gre(), NodeId::Inject, tap_port(WAN), &sent, |_| {});
        let [(onward, meta, bytes)] = outcome.onward.as_slice() else {
            panic!("{to} went nowhere: {:?}", outcome.dropped)
        };
        assert_eq!((*onward, meta.vrf), (node, 3));
        assert_eq!(*bytes, packet);
        if node == NodeId::Encapsulate {
            assert_eq!(meta.tx_interface, WAN);
        }
    }
}

/// What goes around the routes must be what no route can cover.
#[test]
fn unicast_in_a_frame_to_a_group_goes_nowhere() {
    let frames = [
        frame(
            MacAddr::BROADCAST,
            EtherType::IPV4,
            &ip4(Protocol::UDP, PEER),
        ),
        frame(
            MacAddr::BROADCAST,
            EtherType::IPV6,
            &ip6(Protocol::UDP, OWN6, PEER6, &[0; 8]),
        ),
    ];
    for sent in frames {
        let outcome = from_linux(&sent);
        assert!(outcome.onward.is_empty());
        assert_eq!(outcome.dropped, [DropReason::InjectMalformed]);
    }
    for broadcast in [Ipv4Addr::BROADCAST, Ipv4Addr::new(192, 0, 2, 255)] {
        let packet = ip4(Protocol::UDP, broadcast);
        let outcome = from_linux(&frame(MacAddr::BROADCAST, EtherType::IPV4, &packet));
        assert!(matches!(
            outcome.onward.as_slice(),
            [(NodeId::InterfaceOutput, ..)]
        ));
    }
}

#[test]
fn what_follows_the_packet_in_its_frame_is_cut_off() {
    let packet = ip4(Protocol::UDP, PEER);
    let mut sent = frame(DATAPLANE_MAC, EtherType::IPV4, &packet);
    sent.resize(1800, 0xee);
    let outcome = from_linux(&sent);
    assert!(
        matches!(outcome.onward.as_slice(), [(NodeId::Ip4Lookup, _, bytes)] if *bytes == packet)
    );
}

#[test]
fn linux_finds_everything_behind_the_dataplane() {
    let asked = ArpPacket::request(MAC, OWN, PEER);
    let mut body = [0; ArpPacket::LEN];
    asked.write(&mut body);
    let outcome = from_linux(&frame(MacAddr::BROADCAST, EtherType::ARP, &body));
    let [answer] = outcome.linux.as_slice() else {
        panic!("not one answer")
    };
    let view = EthernetView::parse(answer).unwrap();
    assert_eq!((view.destination(), view.source()), (MAC, DATAPLANE_MAC));
    let reply = ArpPacket::parse(view.payload()).unwrap();
    assert_eq!(reply.operation, ArpOperation::Reply);
    assert_eq!((reply.sender_mac, reply.sender_ip), (DATAPLANE_MAC, PEER));
    assert_eq!((reply.target_mac, reply.target_ip), (MAC, OWN));
    assert!(outcome.onward.is_empty());

    let group = nd::solicited_node(PEER6);
    let mut message = [0; NeighbourSolicit::LEN];
    let length = NeighbourSolicit {
        target: PEER6,
        source_link: Some(MAC),
    }
    .write(OWN6, group, &mut message);
    let packet = ip6(Protocol::ICMPV6, OWN6, group, &message[..length]);
    let outcome = from_linux(&frame(
        MacAddr::of_ipv6_multicast(group),
        EtherType::IPV6,
        &packet,
    ));
    let [answer] = outcome.linux.as_slice() else {
        panic!("not one answer")
    };
    let view = EthernetView::parse(answer).unwrap();
    assert_eq!((view.destination(), view.source()), (MAC, DATAPLANE_MAC));
    let ip = Ipv6View::parse(view.payload()).unwrap();
    assert_eq!(
        (ip.source(), ip.destination(), ip.hop_limit()),
        (PEER6, OWN6, 255)
    );
    Icmpv6View::verify(ip.payload(), ip.source(), ip.destination()).unwrap();
    let advert = NeighbourAdvert::parse(ip.payload()).unwrap();
    assert_eq!(
        (advert.target, advert.target_link),
        (PEER6, Some(DATAPLANE_MAC))
    );
}

#[test]
fn what_linux_says_of_its_own_addresses_stays_here() {
    let mut frames = Vec::new();
    for (sender, target) in [(Ipv4Addr::UNSPECIFIED, OWN), (OWN, OWN)] {
        let mut body = [0; ArpPacket::LEN];
        ArpPacket::request(MAC, sender, target).write(&mut body);
        frames.push(frame(MacAddr::BROADCAST, EtherType::ARP, &body));
    }
    // A query: nobody here routes multicast.
    let all = Ipv4Addr::new(224, 0, 0, 1);
    frames.push(frame(
        MacAddr::of_ipv4_multicast(all),
        EtherType::IPV4,
        &igmp(0x11, all),
    ));
    let all = nd::ALL_ROUTERS;
    for kind in [130, 133, 134, 136, 137] {
        let packet = ip6(Protocol::ICMPV6, OWN6, all, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        frames.push(frame(
            MacAddr::of_ipv6_multicast(all),
            EtherType::IPV6,
            &packet,
        ));
    }
    for sent in frames {
        let outcome = from_linux(&sent);
        assert!(
            outcome.onward.is_empty() && outcome.linux.is_empty(),
            "{sent:02x?}"
        );
        assert_eq!(outcome.dropped, [DropReason::InjectAnswered], "{sent:02x?}");
    }
}

fn igmp(kind: u8, group: Ipv4Addr) -> Vec<u8> {
    let mut packet = ip4(Protocol(2), group);
    packet[20] = kind;
    packet
}

/// IGMP (RFC 3376) and MLD (RFC 3810), as they are: the router at the other end has to believe their checksums.
#[test]
fn the_groups_that_linux_joins_are_told_to_the_link() {
    let routers = Ipv4Addr::new(224, 0, 0, 22);
    let mut frames: Vec<_> = [0x12, 0x16, 0x17, 0x22]
        .map(|kind| {
            let to = MacAddr::of_ipv4_multicast(routers);
            frame(to, EtherType::IPV4, &igmp(kind, routers))
        })
        .into();
    let routers: Ipv6Addr = "ff02::16".parse().unwrap();
    for kind in [131, 132, 143] {
        // Behind a router alert.
        let message = [58, 0, 5, 2, 0, 0, 1, 0, kind, 0, 0, 0, 0, 0, 0, 0];
        let packet = ip6(Protocol::HOP_BY_HOP, OWN6, routers, &message);
        let to = MacAddr::of_ipv6_multicast(routers);
        frames.push(frame(to, EtherType::IPV6, &packet));
    }
    for sent in frames {
        let outcome = from_linux(&sent);
        assert!(
            matches!(
                outcome.onward.as_slice(),
                [(NodeId::InterfaceOutput, meta, bytes)] if meta.tx_interface == WAN && *bytes == sent
            ),
            "{sent:02x?}"
        );
    }
}

#[test]
fn rubbish_from_linux_is_counted() {
    let whole = frame(DATAPLANE_MAC, EtherType::IPV4, &ip4(Protocol::UDP, PEER));
    for length in 1..whole.len() {
        let outcome = from_linux(&whole[..length]);
        assert!(
            outcome.onward.is_empty() && outcome.linux.is_empty(),
            "{length}"
        );
        assert_eq!(outcome.dropped, [DropReason::InjectMalformed], "{length}");
    }
    let outcome = run(NodeId::Inject, tap_port(7), &whole, |_| {});
    assert_eq!(outcome.dropped, [DropReason::InterfaceDown]);
}

#[test]
fn what_is_for_the_box_reaches_linux_as_a_frame_for_its_tap() {
    let packet = ip4(Protocol::UDP, OWN);
    for rx in [WAN, 5] {
        // Interface 5 has no TAP (a tunnel): the address tells whose the packet is.
        let outcome = run(NodeId::Punt, rx, &packet, |_| {});
        let [received] = outcome.linux.as_slice() else {
            panic!("not one frame")
        };
        let view = EthernetView::parse(received).unwrap();
        assert_eq!((view.destination(), view.source()), (MAC, DATAPLANE_MAC));
        assert_eq!(
            (view.ether_type(), view.payload()),
            (EtherType::IPV4, packet.as_slice())
        );
    }
    let outcome = run(NodeId::Punt, 5, &ip4(Protocol::UDP, PEER), |_| {});
    assert_eq!(outcome.dropped, [DropReason::PuntNoTap]);
}

#[test]
fn multicast_reaches_linux_at_the_address_of_its_group() {
    let packet = ip6(Protocol::UDP, PEER6, nd::ALL_NODES, &[0; 8]);
    let outcome = run(NodeId::Punt, WAN, &packet, |_| {});
    let view = EthernetView::parse(&outcome.linux[0]).unwrap();
    assert_eq!(view.destination(), MacAddr([0x33, 0x33, 0, 0, 0, 1]));
}

#[test]
fn an_unfilled_checksum_is_filled_before_linux_sees_it() {
    let mut packet = ip4(Protocol::UDP, OWN);
    // As a sender leaves it: the pseudo header's sum.
    let partial = culvert_net::checksum::pseudo_v4(OWN, OWN, Protocol::UDP, 8).folded();
    packet[26..28].copy_from_slice(&partial.to_be_bytes());
    let outcome = run(NodeId::Punt, WAN, &packet, |meta| {
        meta.flags = flags::CHECKSUM_PARTIAL;
        (meta.checksum_start, meta.checksum_offset) = (20, 6);
    });
    let datagram = &outcome.linux[0][14 + 20..];
    let sum = culvert_net::checksum::pseudo_v4(OWN, OWN, Protocol::UDP, 8).add_bytes(datagram);
    assert_eq!(sum.folded(), 0xffff);
}
