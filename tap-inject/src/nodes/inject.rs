//! Takes what Linux sends on a TAP into the graph.
//!
//! ```text
//!   Linux -> TAP -> inject -> ip4-lookup, ip6-lookup   unicast: the box's own traffic may use a tunnel
//!                      |----> interface-output         link scope and multicast
//!                      '----> TAP                      ARP and NS: Linux finds everything behind one neighbour
//! ```
//!
//! The dataplane owns neighbours, duplicate detection and group membership: what Linux says of them stays here.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_dataplane::buffer::{BufferPool, Packet, flags};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::{Context, Node, NodeId, NodeSpec, Vector};
use culvert_dataplane::port::interface_of_tap;
use culvert_dataplane::tables::{Interface, Tables};
use culvert_net::nd::{NeighbourAdvert, NeighbourSolicit};
use culvert_net::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, EthernetView, Icmpv6Type, Ipv4View,
    Ipv6Header, Ipv6View, MacAddr, Protocol,
};

use super::DATAPLANE_MAC;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Inject,
    next: &[
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::InterfaceOutput,
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
    let way = match ether_type {
        EtherType::ARP => return answer_arp(buffers, interface, packet),
        EtherType::IPV4 => {
            let ip = Ipv4View::parse(view.payload()).map_err(|_| malformed)?;
            match (group, ip.protocol()) {
                // Group membership (IGMP) is the dataplane's.
                (_, Protocol(2)) => return Err(DropReason::InjectAnswered),
                (true, _) => NodeId::InterfaceOutput,
                (false, _) => NodeId::Ip4Lookup,
            }
        }
        EtherType::IPV6 => {
            let ip = Ipv6View::parse(view.payload()).map_err(|_| malformed)?;
            match icmpv6_kind(&ip) {
                Some(kind) if kind == Icmpv6Type::NEIGHBOUR_SOLICIT.kind => {
                    return answer_solicit(buffers, interface, packet);
                }
                // Neighbour and router discovery, multicast listener reports (RFC 2710, RFC 3810).
                Some(130..=137 | 143) => return Err(DropReason::InjectAnswered),
                _ if group => NodeId::InterfaceOutput,
                _ => NodeId::Ip6Lookup,
            }
        }
        _ => return Err(malformed),
    };
    if !interface.admin_up {
        return Err(DropReason::InterfaceDown);
    }
    let meta = buffers.meta_mut(packet);
    meta.rx_interface = interface.index;
    meta.flags |= flags::INJECTED;
    meta.vrf = interface.vrf;
    if way == NodeId::InterfaceOutput {
        if interface.mac().is_none() {
            // A tunnel carries no multicast of the box's own.
            return Err(DropReason::IpBadDestination);
        }
        meta.tx_interface = interface.index;
    } else {
        meta.pull_front(EthernetHeader::LEN)
            .map_err(|_| malformed)?;
        meta.l3_offset = meta.offset() as u16;
    }
    Ok(Way::Node(way))
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
