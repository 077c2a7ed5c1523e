//! Hands the box's own traffic to Linux, by the TAP of the interface that it came in by.
//!
//! ```text
//!   ip4-local, ip6-local -> punt -> TAP -> Linux
//! ```
//!
//! What came out of a tunnel without a TAP of its own goes by the TAP of the interface that has its destination.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_dataplane::buffer::{BufferPool, Packet, flags};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::graph::{Context, Node, NodeId, NodeSpec, Vector};
use culvert_dataplane::tables::{Interface, Tables};
use culvert_net::{EtherType, EthernetHeader, MacAddr, checksum};

use super::{DATAPLANE_MAC, TUNNEL_MAC};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Punt,
    next: &[],
};

/// See the module.
pub struct Punt;

impl Node for Punt {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for mut packet in vector.drain(..) {
            match frame(context.buffers, context.tables, &mut packet) {
                Ok(port) => context
                    .ports
                    .transmit(port, packet, context.buffers, context.counters),
                Err(reason) => context.drop(packet, reason),
            }
        }
    }
}

/// Makes a frame of an IP packet, for the port that is returned.
fn frame(buffers: &BufferPool, tables: &Tables, packet: &mut Packet) -> Result<u32, DropReason> {
    let (meta, data) = buffers.parts_mut(packet);
    let destination = destination(data).ok_or(DropReason::PuntNoTap)?;
    let arrived = tables.interfaces.get(meta.rx_interface);
    let interface = match arrived.filter(|interface| interface.tap.is_some()) {
        Some(interface) => interface,
        None => owner(tables, destination).ok_or(DropReason::PuntNoTap)?,
    };
    let port = interface.tap.ok_or(DropReason::PuntNoTap)?;
    if meta.flags & flags::CHECKSUM_PARTIAL != 0 {
        let (start, offset) = (
            usize::from(meta.checksum_start),
            usize::from(meta.checksum_offset),
        );
        checksum::complete_l4(data, start, offset).map_err(|_| DropReason::Ip4Malformed)?;
        meta.flags &= !flags::CHECKSUM_PARTIAL;
    }
    let own = interface.mac().unwrap_or(TUNNEL_MAC);
    let (ether_type, destination) = match destination {
        IpAddr::V4(group) if group.is_multicast() => {
            (EtherType::IPV4, MacAddr::of_ipv4_multicast(group))
        }
        IpAddr::V4(all) if all.is_broadcast() => (EtherType::IPV4, MacAddr::BROADCAST),
        IpAddr::V4(_) => (EtherType::IPV4, own),
        IpAddr::V6(group) if group.is_multicast() => {
            (EtherType::IPV6, MacAddr::of_ipv6_multicast(group))
        }
        IpAddr::V6(_) => (EtherType::IPV6, own),
    };
    let header = EthernetHeader {
        destination,
        source: DATAPLANE_MAC,
        ether_type,
    };
    meta.push_front(EthernetHeader::LEN)
        .map_err(|_| DropReason::NoRoom)?;
    let room = buffers
        .data_mut(packet)
        .first_chunk_mut()
        .ok_or(DropReason::NoRoom)?;
    header.write(room);
    Ok(port)
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    if packet.first()? >> 4 == 4 {
        Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into())
    } else {
        Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into())
    }
}

/// The interface with a TAP that has this address.
fn owner(tables: &Tables, address: IpAddr) -> Option<&Interface> {
    let owns = |interface: &Interface| match address {
        IpAddr::V4(address) => interface
            .addresses4
            .iter()
            .any(|own| own.address == address),
        IpAddr::V6(address) => interface
            .addresses6
            .iter()
            .any(|own| own.address == address),
    };
    tables
        .interfaces
        .iter()
        .map(|(_, interface)| interface.as_ref())
        .find(|interface| interface.tap.is_some() && owns(interface))
}
