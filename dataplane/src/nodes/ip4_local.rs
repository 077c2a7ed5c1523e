//! IPv4 packets for the box (RFC 1122 section 3.2.1): ESP for the dataplane, all else for Linux.
//!
//! ```text
//!   ip4-lookup -> ip4-local -> esp-decrypt      protocol 50; UDP 4500 without marker (RFC 3948)
//!                         |--> decapsulate      GRE and IPIP, once there is a tunnel of such
//!                         |--> ip-reassembly    fragments of any of these; whole they come back
//!                         '--> punt             all else, fragments too: Linux puts them together
//! ```
//!
//! Packets go on with their view at the IP header and `l4_offset` at the transport's: ESP, UDP, GRE or the inner header.

use culvert_net::udp::NatTraversal;
use culvert_net::{Icmpv4Type, Protocol};

use super::esp_errors::{EspErrors, Surroundings};
use super::together::forward_or_drop;
use crate::buffer::{Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip4Local,
    next: &[
        NodeId::EspDecrypt,
        NodeId::Decapsulate,
        NodeId::IpReassembly,
        NodeId::Punt,
    ],
};

/// UDP port of IKE and ESP behind a NAT (RFC 3948).
pub(super) const NAT_TRAVERSAL: u16 = 4500;

/// See the module.
#[derive(Default)]
pub struct Ip4Local {
    errors: EspErrors,
}

impl Node for Ip4Local {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let mut detour = false;
        forward_or_drop(context, vector, |context, packet| {
            let next = whose(context, packet, &mut self.errors)?;
            detour |= next == NodeId::IpReassembly;
            // ESP and GRE behind a fragment take the same way, or it would overtake what is put together.
            Ok(
                if detour && matches!(next, NodeId::EspDecrypt | NodeId::Decapsulate) {
                    NodeId::IpReassembly
                } else {
                    next
                },
            )
        });
    }
}

#[inline(always)]
fn whose(
    context: &Context<'_>,
    packet: &mut Packet,
    errors: &mut EspErrors,
) -> Result<NodeId, DropReason> {
    let (meta, data) = context.buffers.parts_mut(packet);
    // Linux keeps what is for itself; what it sends back to us would come for ever.
    if meta.flags & flags::INJECTED != 0 {
        return Err(DropReason::IpBadDestination);
    }
    let header = data.first_chunk::<20>().ok_or(DropReason::Ip4Malformed)?;
    let transport = usize::from(header[0] & 0x0f) * 4;
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + transport) as u16;
    let fragment = header[6] & 0x3f != 0 || header[7] != 0;
    let payload = data.get(transport..).ok_or(DropReason::Ip4Malformed)?;
    match Protocol(header[9]) {
        Protocol::ESP | Protocol::UDP if fragment => Ok(NodeId::IpReassembly),
        Protocol::ESP => Ok(NodeId::EspDecrypt),
        Protocol::UDP => {
            let (next, length) = nat_traversal(payload)?;
            if let Some(length) = length {
                meta.set_len(transport + length)
                    .map_err(|_| DropReason::Ip4Malformed)?;
            }
            Ok(next)
        }
        Protocol::ICMP if !fragment && is_error(payload) => errors
            .take4(&around(context, meta.vrf), payload)
            .map_or(Ok(NodeId::Punt), Err),
        Protocol::GRE | Protocol::IPV4 | Protocol::IPV6
            if !context.tables.encapsulations.is_empty() =>
        {
            Ok(if fragment {
                NodeId::IpReassembly
            } else {
                NodeId::Decapsulate
            })
        }
        _ => Ok(NodeId::Punt),
    }
}

/// What an ICMP error may be about.
pub(super) fn around<'a>(context: &'a Context<'_>, vrf: u32) -> Surroundings<'a> {
    Surroundings {
        events: context.events,
        tunnels: &context.tables.encapsulations,
        vrf,
        now: context.now,
    }
}

/// An ICMP message that quotes another packet.
#[inline(always)]
fn is_error(message: &[u8]) -> bool {
    message.first().is_some_and(|kind| {
        Icmpv4Type::is_error(Icmpv4Type {
            kind: *kind,
            code: 0,
        })
    })
}

/// Whose a UDP datagram is, and when it is ESP, its length.
#[inline(always)]
pub(super) fn nat_traversal(datagram: &[u8]) -> Result<(NodeId, Option<usize>), DropReason> {
    // One too short for its header is Linux's to refuse.
    let Some((&[_, _, port0, port1, length0, length1, _, _], rest)) =
        datagram.split_first_chunk::<8>()
    else {
        return Ok((NodeId::Punt, None));
    };
    if u16::from_be_bytes([port0, port1]) != NAT_TRAVERSAL {
        return Ok((NodeId::Punt, None));
    }
    let length = usize::from(u16::from_be_bytes([length0, length1]));
    let payload = length
        .checked_sub(8)
        .and_then(|length| rest.get(..length))
        .ok_or(DropReason::PuntBadMarker)?;
    match NatTraversal::of(payload) {
        NatTraversal::Esp(_) => Ok((NodeId::EspDecrypt, Some(length))),
        NatTraversal::Ike(_) => Ok((NodeId::Punt, None)),
        NatTraversal::Keepalive => Err(DropReason::NatKeepalive),
        NatTraversal::Malformed => Err(DropReason::PuntBadMarker),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::nodes::workbench::{LAN, ROUTER_IP, WAN_IP, Workbench, packet4, packet4_with};

    pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x11, 0x94];
        bytes.extend(port.to_be_bytes());
        bytes.extend((8 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn outcome(bytes: &[u8]) -> (Workbench, Option<NodeId>) {
        let mut bench = Workbench::only(Box::<Ip4Local>::default());
        bench.put(NodeId::Ip4Local, LAN, bytes, |_| {});
        bench.run();
        let node = bench.arrived().first().map(|arrived| arrived.node);
        bench.finish();
        (bench, node)
    }

    fn node_of(protocol: u8, payload: &[u8]) -> Option<NodeId> {
        outcome(&packet4(ROUTER_IP, WAN_IP, protocol, payload)).1
    }

    #[test]
    fn esp_is_ours_and_everything_else_is_for_linux() {
        let esp = [0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9];
        assert_eq!(node_of(50, &esp), Some(NodeId::EspDecrypt));
        assert_eq!(node_of(17, &udp(4500, &esp)), Some(NodeId::EspDecrypt));
        assert_eq!(
            node_of(17, &udp(4500, &[0, 0, 0, 0, 1, 2, 3])),
            Some(NodeId::Punt)
        );
        assert_eq!(node_of(17, &udp(500, &esp)), Some(NodeId::Punt));
        assert_eq!(node_of(1, &[8, 0, 0, 0, 0, 0, 0, 0]), Some(NodeId::Punt));
        assert_eq!(node_of(6, &[]), Some(NodeId::Punt));
        assert_eq!(node_of(17, &[1, 2, 3]), Some(NodeId::Punt));
    }

    #[test]
    fn what_port_4500_cannot_carry_is_counted() {
        for (payload, reason) in [
            (&[0xff][..], DropReason::NatKeepalive),
            (&[0xfe], DropReason::PuntBadMarker),
            (&[], DropReason::PuntBadMarker),
            (&[0, 0, 1, 0, 1], DropReason::PuntBadMarker),
        ] {
            let (bench, node) = outcome(&packet4(ROUTER_IP, WAN_IP, 17, &udp(4500, payload)));
            assert_eq!(node, None);
            assert_eq!(bench.drops(reason), 1);
        }
        let mut long = udp(4500, &[1; 20]);
        long[5] += 1;
        let (bench, _) = outcome(&packet4(ROUTER_IP, WAN_IP, 17, &long));
        assert_eq!(bench.drops(DropReason::PuntBadMarker), 1);
    }

    #[test]
    fn the_transport_is_marked_and_what_follows_a_datagram_is_cut_off() {
        let mut payload = udp(4500, &[1; 20]);
        payload.extend([7; 6]);
        let (bench, _) = outcome(&packet4(ROUTER_IP, WAN_IP, 17, &payload));
        let arrived = bench.arrived();
        assert_eq!(arrived[0].bytes.len(), 20 + 28);
        assert_eq!(arrived[0].meta.l4_offset - arrived[0].meta.l3_offset, 20);
    }

    #[test]
    fn fragments_of_esp_and_udp_are_put_together_and_others_are_for_linux() {
        let fragment = |protocol, flags| {
            let bytes = packet4_with(ROUTER_IP, WAN_IP, protocol, &[1; 16], |header| {
                header.flags_fragment = flags;
            });
            outcome(&bytes).1
        };
        for flags in [0x2000, 0x0001, 0x0100, 0x2010] {
            assert_eq!(fragment(50, flags), Some(NodeId::IpReassembly));
            assert_eq!(fragment(17, flags), Some(NodeId::IpReassembly));
            assert_eq!(fragment(1, flags), Some(NodeId::Punt));
        }
        assert_eq!(fragment(50, 0x4000), Some(NodeId::EspDecrypt));
    }

    #[test]
    fn what_linux_sent_does_not_come_back() {
        let mut bench = Workbench::only(Box::<Ip4Local>::default());
        let bytes = packet4(ROUTER_IP, WAN_IP, 17, &udp(500, &[1]));
        bench.put(NodeId::Ip4Local, LAN, &bytes, |meta| {
            meta.flags |= flags::INJECTED;
        });
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadDestination), 1);
        bench.finish();
    }
}
