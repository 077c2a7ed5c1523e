//! Frames of a driver (IEEE 802.3, RFC 894, RFC 2464): are they for us, and what do they carry.
//!
//! ```text
//!   driver -> ethernet-input -> ip4-input | ip6-input | arp-input
//! ```
//!
//! Tags of VLANs are taken off here, and the packet goes on as having come in by the sub-interface (see [`crate::vlan`]).
//! From here on a packet's view begins at its network header, and its checksum fields, which the driver gave relative
//! to the frame, are relative to that header.

use culvert_net::EtherType;

use crate::buffer::{Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::together::forward_or_drop;
use crate::tables::{Interface, Tables};
use crate::vlan::{is_tag, take_tags};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::EthernetInput,
    next: &[NodeId::Ip4Input, NodeId::Ip6Input, NodeId::ArpInput],
};

/// Bytes of the link header.
const HEADER: usize = 14;

/// See the module.
#[derive(Default)]
pub struct EthernetInput;

/// What has come in by one interface since the last look at its counters.
struct Run<'t> {
    index: u32,
    interface: Option<&'t Interface>,
    packets: u64,
    bytes: u64,
}

impl Node for EthernetInput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut run = Run::new(tables, 0);
        forward_or_drop(context, vector, |context, packet| {
            let meta = context.buffers.meta(packet);
            if meta.rx_interface != run.index {
                run.count(context);
                run = Run::new(tables, meta.rx_interface);
            }
            run.packets += 1;
            run.bytes += meta.len() as u64;
            accept(context, packet, run.interface)
        });
        run.count(context);
    }
}

impl<'t> Run<'t> {
    fn new(tables: &'t Tables, index: u32) -> Self {
        Self {
            index,
            interface: tables.interfaces.get(index).map(AsRef::as_ref),
            packets: 0,
            bytes: 0,
        }
    }

    fn count(&self, context: &Context<'_>) {
        if self.packets > 0 {
            let counters = context.counters.interface(self.index);
            counters.rx_packets.add(self.packets);
            counters.rx_bytes.add(self.bytes);
        }
    }
}

#[inline(always)]
fn accept(
    context: &Context<'_>,
    packet: &mut Packet,
    interface: Option<&Interface>,
) -> Result<NodeId, DropReason> {
    let buffers = &*context.buffers;
    let (meta, data) = buffers.parts_mut(packet);
    let interface = interface.ok_or(DropReason::InterfaceDown)?;
    let mac = interface.mac().ok_or(DropReason::InterfaceDown)?;
    let Some(&[d0, d1, d2, d3, d4, d5, .., t0, t1]) = data.first_chunk::<HEADER>() else {
        return Err(DropReason::EthernetTruncated);
    };
    if !interface.admin_up {
        return Err(DropReason::InterfaceDown);
    }
    if d0 & 1 == 1 {
        meta.flags |= flags::LINK_MULTICAST;
    } else if mac.0 != [d0, d1, d2, d3, d4, d5] {
        return Err(DropReason::EthernetNotForUs);
    }
    meta.pull_front(HEADER)
        .map_err(|_| DropReason::EthernetTruncated)?;
    if meta.flags & flags::CHECKSUM_PARTIAL != 0 {
        meta.checksum_start = meta
            .checksum_start
            .checked_sub(HEADER as u16)
            .ok_or(DropReason::EthernetTruncated)?;
    }
    meta.l3_offset = meta.offset() as u16;
    meta.vrf = interface.vrf;
    match EtherType(u16::from_be_bytes([t0, t1])) {
        EtherType::IPV4 => Ok(NodeId::Ip4Input),
        EtherType::IPV6 => Ok(NodeId::Ip6Input),
        EtherType::ARP => Ok(NodeId::ArpInput),
        tag if is_tag(tag) => accept_tagged(context, packet, interface.index, tag),
        _ => Err(DropReason::EthernetUnknownType),
    }
}

/// From here on the packet has come in by the sub-interface whose tags it has.
fn accept_tagged(
    context: &Context<'_>,
    packet: &mut Packet,
    parent: u32,
    tag: EtherType,
) -> Result<NodeId, DropReason> {
    let tables = context.tables;
    let frame = HEADER + context.buffers.meta(packet).len();
    let (ether_type, tags) = take_tags(context.buffers, packet, tag)?;
    let meta = context.buffers.meta_mut(packet);
    meta.l3_offset = meta.offset() as u16;
    if let Some(tags) = tags {
        let index = tables
            .vlans
            .with_tags(parent, tags)
            .ok_or(DropReason::VlanUnknown)?;
        meta.rx_interface = index;
        let counters = context.counters.interface(index);
        counters.rx_packets.add(1);
        counters.rx_bytes.add(frame as u64);
        let interface = tables
            .interfaces
            .get(index)
            .filter(|interface| interface.admin_up)
            .ok_or(DropReason::InterfaceDown)?;
        meta.vrf = interface.vrf;
    }
    match ether_type {
        EtherType::IPV4 => Ok(NodeId::Ip4Input),
        EtherType::IPV6 => Ok(NodeId::Ip6Input),
        EtherType::ARP => Ok(NodeId::ArpInput),
        _ => Err(DropReason::EthernetUnknownType),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::*;
    use crate::nodes::workbench::{LAN, LAN_MAC, Workbench, frame};
    use crate::vlan::{OnLink, Tags, VlanId, Vlans};

    #[test]
    fn frames_for_us_go_on_without_their_link_header_and_others_are_counted() {
        let mut bench = Workbench::only(Box::new(EthernetInput));
        let other = [2, 0, 0, 0, 9, 9];
        for (destination, ether_type) in [
            (LAN_MAC.0, 0x0800),
            ([0xff; 6], 0x0806),
            ([0x33, 0x33, 0, 0, 0, 1], 0x86dd),
            (other, 0x0800),
            (LAN_MAC.0, 0x88cc),
        ] {
            bench.receive(LAN, &frame(destination, other, ether_type, b"payload"));
        }
        bench.receive(LAN, &[0; 13]);
        bench.receive(99, &frame(LAN_MAC.0, other, 0x0800, b"payload"));
        bench.run();
        let ids: Vec<_> = bench.arrived().iter().map(|a| a.node).collect();
        assert_eq!(ids, [NodeId::ArpInput, NodeId::Ip4Input, NodeId::Ip6Input]);
        for arrived in bench.arrived() {
            assert_eq!(arrived.bytes, b"payload");
            assert_eq!(arrived.meta.l3_offset as usize, arrived.meta.offset());
            assert_eq!(
                arrived.meta.flags & flags::LINK_MULTICAST != 0,
                arrived.node != NodeId::Ip4Input
            );
        }
        for reason in [
            DropReason::EthernetNotForUs,
            DropReason::EthernetUnknownType,
            DropReason::EthernetTruncated,
            DropReason::InterfaceDown,
        ] {
            assert_eq!(bench.drops(reason), 1, "{}", reason.name());
        }
        assert_eq!(bench.counters.interface(LAN).rx_packets.get(), 6);
        assert_eq!(bench.counters.interface(LAN).rx_bytes.get(), 5 * 21 + 13);
        bench.finish();
    }

    #[test]
    fn the_partial_checksum_is_counted_from_the_network_header() {
        let mut bench = Workbench::only(Box::new(EthernetInput));
        bench.receive_with(LAN, &frame(LAN_MAC.0, [2; 6], 0x0800, &[0; 60]), |meta| {
            meta.flags |= flags::CHECKSUM_PARTIAL;
            meta.checksum_start = 34;
            meta.checksum_offset = 16;
        });
        bench.run();
        assert_eq!(bench.arrived()[0].meta.checksum_start, 20);
        bench.finish();
    }

    #[test]
    fn tagged_frames_come_in_by_their_sub_interface() {
        const SUB: u32 = 40;
        const DOUBLE: u32 = 41;
        const DOWN: u32 = 42;
        let mut bench = Workbench::only(Box::new(EthernetInput));
        let vlan = |number| VlanId::new(number).unwrap();
        let place = |outer, number| OnLink {
            parent: LAN,
            tags: Tags {
                outer,
                vlan: vlan(number),
            },
        };
        bench.tables.vlans = Arc::new(Vlans::new([
            (SUB, place(None, 100)),
            (DOUBLE, place(Some(vlan(200)), 100)),
            (DOWN, place(None, 7)),
        ]));
        let lan = bench.tables.interfaces.get(LAN).unwrap().as_ref().clone();
        for (index, vrf) in [(SUB, 3), (DOUBLE, 4), (DOWN, 5)] {
            let one = Interface {
                index,
                vrf,
                admin_up: index != DOWN,
                ..lan.clone()
            };
            bench.tables.interfaces.set(index, Some(Arc::new(one)));
        }
        let single = |number: u8, kind: u8| vec![0, number, kind, 0, 1, 2, 3, 4];
        let double = [&[0, 200, 0x81, 0][..], &single(100, 8)].concat();
        for (destination, kind, rest) in [
            (LAN_MAC.0, 0x8100, single(100, 8)),
            (LAN_MAC.0, 0x88a8, double),
            // For another, a VLAN that is down, one that nobody has, priority only, and of a type that nobody takes.
            ([2, 0, 0, 0, 9, 9], 0x8100, single(100, 8)),
            (LAN_MAC.0, 0x8100, single(7, 8)),
            (LAN_MAC.0, 0x8100, single(101, 8)),
            (LAN_MAC.0, 0x8100, single(0, 8)),
            (LAN_MAC.0, 0x8100, single(100, 0x88)),
        ] {
            bench.receive(LAN, &frame(destination, [2; 6], kind, &rest));
        }
        bench.run();
        let arrived: Vec<_> = bench
            .arrived()
            .into_iter()
            .map(|one| {
                assert_eq!(
                    (one.node, &one.bytes[..4]),
                    (NodeId::Ip4Input, &[1, 2, 3, 4][..])
                );
                assert_eq!(one.meta.l3_offset as usize, one.meta.offset());
                (one.meta.rx_interface, one.meta.vrf)
            })
            .collect();
        assert_eq!(arrived, [(SUB, 3), (DOUBLE, 4), (LAN, 0)]);
        for reason in [
            DropReason::EthernetNotForUs,
            DropReason::InterfaceDown,
            DropReason::VlanUnknown,
            DropReason::EthernetUnknownType,
        ] {
            assert_eq!(bench.drops(reason), 1, "{}", reason.name());
        }
        // The link has carried them all; each sub-interface its own.
        assert_eq!(bench.counters.interface(LAN).rx_packets.get(), 7);
        assert_eq!(bench.counters.interface(SUB).rx_packets.get(), 2);
        assert_eq!(bench.counters.interface(DOUBLE).rx_bytes.get(), 26);
        bench.finish();
    }

    #[test]
    fn the_partial_checksum_of_a_tagged_frame_is_counted_from_the_network_header_too() {
        let mut bench = Workbench::only(Box::new(EthernetInput));
        let mut rest = vec![0, 0, 8, 0];
        rest.extend([0; 60]);
        bench.receive_with(LAN, &frame(LAN_MAC.0, [2; 6], 0x8100, &rest), |meta| {
            meta.flags |= flags::CHECKSUM_PARTIAL;
            meta.checksum_start = 38;
            meta.checksum_offset = 16;
        });
        bench.run();
        assert_eq!(bench.arrived()[0].meta.checksum_start, 20);
        bench.finish();
    }
}
