//! Takes what Linux sends on a TAP into the graph.
//!
//! ```text
//!   Linux -> TAP -> inject -> ip4-lookup, ip6-lookup   unicast: the box's own traffic may use a tunnel
//!                      |----> interface-output         link scope and multicast
//!                      |----> encapsulate              the same by a tunnel of GRE or IPIP
//!                      '----> TAP                      ARP and NS: Linux finds everything behind one neighbour
//! ```
//!
//! The dataplane owns neighbours and duplicate detection: what Linux says of them stays here. What groups Linux listens to
//! goes out, so that switches and routers send them here; where there is nobody to tell, behind an IPsec tunnel, it stays.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_dataplane::buffer::{BufferPool, Packet, flags};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::{Context, Node, NodeId, NodeSpec, Vector};
use culvert_dataplane::port::interface_of_tap;
use culvert_dataplane::tables::{Interface, InterfaceKind, Tables};
use culvert_net::nd::{NeighbourAdvert, NeighbourSolicit};
use culvert_net::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, EthernetView, Icmpv6Type, Ipv4Prefix,
    Ipv4View, Ipv6Header, Ipv6View, MacAddr, Protocol,
};

use super::DATAPLANE_MAC;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Inject,
    next: &[
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::InterfaceOutput,
        NodeId::Encapsulate,
    ],
};

/// See the module.
pub struct Inject;

/// What becomes of a frame.
enum Way {
    Node(NodeId),
    /// Back to Linux: the packet holds the answer.
    Answer,
}

impl Node for Inject {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for mut packet in vector.drain(..) {
            let port = context.buffers.meta(&packet).rx_interface;
            match take(context.buffers, context.tables, port, &mut packet) {
                Ok(Way::Node(node)) => context.send(node, packet),
                Ok(Way::Answer) => {
                    context
                        .ports
                        .transmit(port, packet, context.buffers, context.counters);
                }
                Err(reason) => context.drop(packet, reason),
            }
        }
    }
}

fn take(
    buffers: &BufferPool,
    tables: &Tables,
    port: u32,
    packet: &mut Packet,
) -> Result<Way, DropReason> {
    let malformed = DropReason::InjectMalformed;
    let interface = interface_of_tap(port)
        .and_then(|index| tables.interfaces.get(index))
        .ok_or(DropReason::InterfaceDown)?;
    let view = EthernetView::parse(buffers.data(packet)).map_err(|_| malformed)?;
    let (ether_type, group) = (view.ether_type(), view.destination().is_multicast());
    let (way, length) = match ether_type {
        EtherType::ARP => return answer_arp(buffers, interface, packet),
        EtherType::IPV4 => {
            let ip = Ipv4View::parse(view.payload()).map_err(|_| malformed)?;
            if ip.protocol() == IGMP && !(group && hears(interface) && is_igmp_report(&ip)) {
                return Err(DropReason::InjectAnswered);
            }
            // Only what no route may cover passes by the routes: a unicast address in a frame to a group is none.
            if group && !is_group4(interface, ip.destination()) {
                return Err(malformed);
            }
            let way = if group {
                NodeId::InterfaceOutput
            } else {
                NodeId::Ip4Lookup
            };
            (way, usize::from(ip.total_len()))
        }
        EtherType::IPV6 => {
            let ip = Ipv6View::parse(view.payload()).map_err(|_| malformed)?;
            let way = match icmpv6_kind(&ip) {
                Some(kind) if kind == Icmpv6Type::NEIGHBOUR_SOLICIT.kind => {
                    return answer_solicit(buffers, interface, packet);
                }
                // Multicast listener reports (RFC 2710, RFC 3810).
                Some(131 | 132 | 143)
                    if group && hears(interface) && ip.destination().is_multicast() =>
                {
                    NodeId::InterfaceOutput
                }
                // Neighbour and router discovery; there is no multicast routing that would ask for listeners.
                Some(130..=137 | 143) => return Err(DropReason::InjectAnswered),
                _ if group && !ip.destination().is_multicast() => return Err(malformed),
                _ if group => NodeId::InterfaceOutput,
                // So is what is for the other end by its link-local address.
                _ if ip.destination().is_unicast_link_local()
                    && matches!(interface.kind, InterfaceKind::Encapsulation { .. }) =>
                {
                    NodeId::InterfaceOutput
                }
                _ => NodeId::Ip6Lookup,
            };
            (way, ip.total_len())
        }
        _ => return Err(malformed),
    };
    if !interface.admin_up {
        return Err(DropReason::InterfaceDown);
    }
    let meta = buffers.meta_mut(packet);
    // What follows the packet in its frame is not sent on.
    meta.set_len(EthernetHeader::LEN + length)
        .map_err(|_| malformed)?;
    meta.rx_interface = interface.index;
    meta.flags |= flags::INJECTED;
    meta.vrf = interface.vrf;
    // What is for a group goes to the one listener that is at the other end of such a tunnel.
    let way = match interface.kind {
        InterfaceKind::Encapsulation { .. } if way == NodeId::InterfaceOutput => {
            meta.tx_interface = interface.index;
            NodeId::Encapsulate
        }
        _ => way,
    };
    if way == NodeId::InterfaceOutput {
        if interface.mac().is_none() {
            // Of an IPsec tunnel the selectors say what it carries: no multicast of the box's own.
            return Err(DropReason::IpBadDestination);
        }
        if length > usize::from(interface.mtu) {
            return Err(DropReason::MtuExceeded);
        }
        meta.tx_interface = interface.index;
    } else {
        meta.pull_front(EthernetHeader::LEN)
            .map_err(|_| malformed)?;
        meta.l3_offset = meta.offset() as u16;
    }
    Ok(Way::Node(way))
}

/// Internet Group Management Protocol.
const IGMP: Protocol = Protocol(2);

/// Somebody is there to be told which groups Linux listens to.
fn hears(interface: &Interface) -> bool {
    matches!(
        interface.kind,
        InterfaceKind::Ethernet { .. } | InterfaceKind::Encapsulation { .. }
    )
}

/// A report or a leave, of any version (RFC 1112, RFC 2236, RFC 3376); not a query.
fn is_igmp_report(ip: &Ipv4View<'_>) -> bool {
    matches!(ip.payload().first(), Some(0x12 | 0x16 | 0x17 | 0x22))
}

/// A destination that every listener on the link hears: multicast, or a broadcast of one of its networks.
fn is_group4(interface: &Interface, destination: Ipv4Addr) -> bool {
    destination.is_multicast()
        || destination.is_broadcast()
        || interface.addresses4.iter().any(|own| {
            Ipv4Prefix::covering(own.address, own.length)
                .is_ok_and(|network| network.last() == destination)
        })
}

/// The ICMPv6 type of a packet, also behind the hop-by-hop header of listener reports.
fn icmpv6_kind(ip: &Ipv6View<'_>) -> Option<u8> {
    let layer = ip.upper_layer().ok()?;
    (layer.protocol == Protocol::ICMPV6)
        .then(|| layer.payload.first().copied())
        .flatten()
}

/// Linux asks for a neighbour: it is the dataplane. Probes and announcements of its own addresses get no answer.
fn answer_arp(
    buffers: &BufferPool,
    interface: &Interface,
    packet: &mut Packet,
) -> Result<Way, DropReason> {
    let data = buffers.data(packet);
    let body = data
        .get(EthernetHeader::LEN..)
        .ok_or(DropReason::InjectMalformed)?;
    let asked = ArpPacket::parse(body).map_err(|_| DropReason::InjectMalformed)?;
    let own = |address: Ipv4Addr| {
        interface
            .addresses4
            .iter()
            .any(|own| own.address == address)
    };
    if asked.operation != ArpOperation::Request
        || asked.is_probe()
        || asked.is_announcement()
        || own(asked.target_ip)
    {
        return Err(DropReason::InjectAnswered);
    }
    let header = EthernetHeader {
        destination: asked.sender_mac,
        source: DATAPLANE_MAC,
        ether_type: EtherType::ARP,
    };
    buffers
        .meta_mut(packet)
        .set_len(EthernetHeader::LEN + ArpPacket::LEN)
        .map_err(|_| DropReason::NoRoom)?;
    let (front, rest) = buffers
        .data_mut(packet)
        .split_first_chunk_mut()
        .ok_or(DropReason::NoRoom)?;
    header.write(front);
    asked
        .reply_from(DATAPLANE_MAC)
        .write(rest.first_chunk_mut().ok_or(DropReason::NoRoom)?);
    Ok(Way::Answer)
}

/// The same for IPv6 (RFC 4861 section 7.2.4).
fn answer_solicit(
    buffers: &BufferPool,
    interface: &Interface,
    packet: &mut Packet,
) -> Result<Way, DropReason> {
    const LENGTH: usize = EthernetHeader::LEN + Ipv6Header::LEN + NeighbourAdvert::LEN;
    let malformed = DropReason::InjectMalformed;
    let view = EthernetView::parse(buffers.data(packet)).map_err(|_| malformed)?;
    let linux = view.source();
    let ip = Ipv6View::parse(view.payload()).map_err(|_| malformed)?;
    let asked = NeighbourSolicit::parse(ip.payload()).map_err(|_| malformed)?;
    let sender = ip.source();
    let own = |address: Ipv6Addr| {
        interface
            .addresses6
            .iter()
            .any(|own| own.address == address)
    };
    if sender.is_unspecified() || own(asked.target) {
        return Err(DropReason::InjectAnswered);
    }
    buffers
        .meta_mut(packet)
        .set_len(LENGTH)
        .map_err(|_| DropReason::NoRoom)?;
    advertise(buffers.data_mut(packet), asked.target, sender, linux).ok_or(DropReason::NoRoom)?;
    Ok(Way::Answer)
}

/// Writes a frame in which `target` says to `asker` that it is the dataplane.
fn advertise(frame: &mut [u8], target: Ipv6Addr, asker: Ipv6Addr, linux: MacAddr) -> Option<()> {
    let (ethernet, rest) = frame.split_first_chunk_mut()?;
    let (ip, rest) = rest.split_first_chunk_mut()?;
    EthernetHeader {
        destination: linux,
        source: DATAPLANE_MAC,
        ether_type: EtherType::IPV6,
    }
    .write(ethernet);
    let advert = NeighbourAdvert {
        target,
        target_link: Some(DATAPLANE_MAC),
        router: true,
        solicited: true,
        overrides: true,
    };
    let length = advert.write(target, asker, rest.first_chunk_mut()?);
    Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: length as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: culvert_net::nd::HOP_LIMIT,
        source: target,
        destination: asker,
    }
    .write(ip);
    Some(())
}
