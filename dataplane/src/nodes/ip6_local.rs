//! IPv6 packets for the box (RFC 8200 section 4): ESP and neighbour discovery for the dataplane, all else for Linux.
//!
//! ```text
//!   ip6-lookup -> ip6-local -> esp-decrypt      next header 50; UDP 4500 without marker (RFC 3948)
//!                         |--> decapsulate      GRE and IPIP, once there is a tunnel of such
//!                         |--> nd-input         neighbour discovery (RFC 4861)
//!                         |--> ip-reassembly    fragments of ESP and UDP; whole they come back
//!                         '--> punt             all else, fragments too: Linux puts them together
//! ```
//!
//! Packets go on with their view at the IP header and `l4_offset` at the transport's: ESP, UDP or ICMPv6. What routers ask
//! about multicast listeners is Linux's to answer, and the control thread's where an interface has no TAP.

use culvert_net::{Ipv6View, Protocol};

use super::esp_errors::EspErrors;
use super::ip4_local::{around, nat_traversal};
use super::ip6_options::{self, Objection};
use super::together::forward_or_drop;
use crate::buffer::{BufferPool, Packet, flags};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip6Local,
    next: &[
        NodeId::EspDecrypt,
        NodeId::Decapsulate,
        NodeId::NdInput,
        NodeId::IpReassembly,
        NodeId::IcmpError,
        NodeId::Punt,
    ],
};

/// See the module.
#[derive(Default)]
pub struct Ip6Local {
    errors: EspErrors,
}

impl Node for Ip6Local {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let mut detour = false;
        forward_or_drop(context, vector, |context, packet| {
            let next = whose(context, packet, &mut self.errors)?;
            let next = unobjected(context.buffers, packet, next)?;
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

/// Looks at extension headers of what Linux does not get to see; a fragment header alone has nothing to say.
#[inline(always)]
fn unobjected(
    buffers: &BufferPool,
    packet: &mut Packet,
    next: NodeId,
) -> Result<NodeId, DropReason> {
    let (meta, data) = buffers.parts_mut(packet);
    let ours = matches!(next, NodeId::EspDecrypt | NodeId::IpReassembly);
    let plain = [Protocol::ESP, Protocol::UDP, Protocol::FRAGMENT];
    if !ours
        || data
            .get(6)
            .is_none_or(|next| plain.contains(&Protocol(*next)))
    {
        return Ok(next);
    }
    match ip6_options::objection(data) {
        None => Ok(next),
        Some(Objection::Silent(reason)) => Err(reason),
        Some(Objection::Told(cause)) => {
            meta.icmp = cause;
            Ok(NodeId::IcmpError)
        }
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
    let view = Ipv6View::parse(data).map_err(|_| DropReason::Ip6Malformed)?;
    let layer = view.upper_layer().map_err(|_| DropReason::Ip6Malformed)?;
    let transport = 40 + layer.offset;
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + transport) as u16;
    let opaque = !layer.has_transport_header();
    let fragment = layer
        .fragment
        .is_some_and(|fragment| fragment.offset != 0 || fragment.more);
    match layer.protocol {
        Protocol::ESP | Protocol::UDP if fragment => Ok(NodeId::IpReassembly),
        Protocol::ESP => Ok(NodeId::EspDecrypt),
        Protocol::UDP if !opaque => {
            let (next, length) = nat_traversal(layer.payload)?;
            if let Some(length) = length {
                meta.set_len(transport + length)
                    .map_err(|_| DropReason::Ip6Malformed)?;
            }
            Ok(next)
        }
        Protocol::ICMPV6 if !opaque => match layer.payload.first() {
            // A fragmented one is dropped (RFC 6980 section 5); nd-input takes none with extension headers.
            Some(133..=137) if layer.fragment.is_some() => Err(DropReason::NdMalformed),
            Some(133..=137) => Ok(NodeId::NdInput),
            Some(130)
                if view.hop_limit() == 1
                    && view.source().is_unicast_link_local()
                    && is_without_linux(context, meta.rx_interface) =>
            {
                let interface = meta.rx_interface;
                let _ = context.events.try_send(Event::ListenerQuery { interface });
                Err(DropReason::NdConsumed)
            }
            Some(..128) if layer.fragment.is_none() => {
                let ends = (view.source(), view.destination());
                errors
                    .take6(&around(context, meta.vrf), ends, layer.payload)
                    .map_or(Ok(NodeId::Punt), Err)
            }
            _ => Ok(NodeId::Punt),
        },
        Protocol::GRE | Protocol::IPV4 | Protocol::IPV6
            if !context.tables.encapsulations.is_empty() && fragment =>
        {
            Ok(NodeId::IpReassembly)
        }
        Protocol::GRE | Protocol::IPV4 | Protocol::IPV6
            if !context.tables.encapsulations.is_empty() && !opaque =>
        {
            Ok(NodeId::Decapsulate)
        }
        _ => Ok(NodeId::Punt),
    }
}

/// An Ethernet interface without a TAP: what routers ask about it is for the dataplane to answer.
#[cold]
fn is_without_linux(context: &Context<'_>, interface: u32) -> bool {
    let interface = context.tables.interfaces.get(interface);
    interface.is_some_and(|interface| interface.mac().is_some() && interface.tap.is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::Ipv6Addr;

    use super::*;
    use crate::nodes::workbench::{LAN, ROUTER_IP6, WAN_IP6, Workbench, packet6};

    fn outcome(next: u8, payload: &[u8]) -> (Workbench, Option<NodeId>) {
        let mut bench = Workbench::only(Box::<Ip6Local>::default());
        let bytes = packet6(ROUTER_IP6, WAN_IP6, next, 64, payload);
        bench.put(NodeId::Ip6Local, LAN, &bytes, |_| {});
        bench.run();
        let node = bench.arrived().first().map(|arrived| arrived.node);
        bench.finish();
        (bench, node)
    }

    fn udp(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 2, 0x11, 0x94, 0, 8 + payload.len() as u8, 0, 0];
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn esp_and_neighbour_discovery_are_ours_and_everything_else_is_for_linux() {
        let esp = [0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9];
        assert_eq!(outcome(50, &esp).1, Some(NodeId::EspDecrypt));
        assert_eq!(outcome(17, &udp(&esp)).1, Some(NodeId::EspDecrypt));
        assert_eq!(outcome(17, &udp(&[0; 12])).1, Some(NodeId::Punt));
        let (bench, _) = outcome(17, &udp(&[0xff]));
        assert_eq!(bench.drops(DropReason::NatKeepalive), 1);
        for (kind, node) in [
            (135, NodeId::NdInput),
            (136, NodeId::NdInput),
            (133, NodeId::NdInput),
            (128, NodeId::Punt),
            (1, NodeId::Punt),
        ] {
            assert_eq!(outcome(58, &[kind, 0, 0, 0, 0, 0, 0, 0]).1, Some(node));
        }
        assert_eq!(outcome(6, &[]).1, Some(NodeId::Punt));
    }

    #[test]
    fn listener_queries_are_answered_for_interfaces_that_linux_does_not_know() {
        let ask = |tap: Option<u32>, from: Ipv6Addr, hops: u8| {
            let mut bench = Workbench::only(Box::<Ip6Local>::default());
            bench.change_interface(LAN, |interface| interface.tap = tap);
            let mut query = vec![58, 0, 5, 2, 0, 0, 1, 0];
            query.extend([130, 0, 0, 0, 0, 0, 0, 0]);
            let bytes = packet6(from, "ff02::1".parse().unwrap(), 0, hops, &query);
            bench.put(NodeId::Ip6Local, LAN, &bytes, |_| {});
            bench.run();
            let node = bench.arrived().first().map(|arrived| arrived.node);
            let heard = bench.events() == [Event::ListenerQuery { interface: LAN }];
            bench.finish();
            (node, heard)
        };
        let router = "fe80::1".parse().unwrap();
        assert_eq!(ask(None, router, 1), (None, true));
        for (tap, from, hops) in [
            (Some(9), router, 1),
            (None, router, 64),
            (None, ROUTER_IP6, 1),
        ] {
            assert_eq!(ask(tap, from, hops), (Some(NodeId::Punt), false));
        }
    }

    #[test]
    fn options_that_must_be_known_are_refused_where_linux_does_not_look() {
        let unknown = |next: u8| [&[next, 0, 0x81, 4, 0, 0, 0, 0], &[1; 16][..]].concat();
        let (bench, node) = outcome(60, &unknown(50));
        assert_eq!(node, Some(NodeId::IcmpError));
        let icmp = bench.arrived()[0].meta.icmp;
        assert_eq!((icmp.kind, icmp.code, icmp.mtu), (4, 2, 42));
        assert_eq!(outcome(60, &unknown(6)).1, Some(NodeId::Punt));
        let mut silent = unknown(50);
        silent[2] = 0x41;
        let (bench, node) = outcome(60, &silent);
        assert_eq!(node, None);
        assert_eq!(bench.drops(DropReason::Ip6ParameterProblem), 1);
        let mut fragment = vec![60, 0, 0, 1, 0, 0, 0, 1];
        fragment.extend(unknown(50));
        assert_eq!(outcome(44, &fragment).1, Some(NodeId::IpReassembly));
    }

    #[test]
    fn extension_headers_are_walked() {
        let mut bytes = vec![50, 0, 1, 4, 0, 0, 0, 0];
        bytes.extend([0, 0, 1, 0, 0, 0, 0, 1]);
        let (bench, node) = outcome(60, &bytes);
        assert_eq!(node, Some(NodeId::EspDecrypt));
        let meta = bench.arrived()[0].meta;
        assert_eq!(meta.l4_offset - meta.l3_offset, 48);
        let (bench, _) = outcome(60, &[50, 9, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bench.drops(DropReason::Ip6Malformed), 1);
    }

    #[test]
    fn fragments_of_esp_and_udp_are_put_together_and_others_are_for_linux() {
        let with = |next: u8, offset: [u8; 2], payload: &[u8]| {
            let mut bytes = vec![next, 0, offset[0], offset[1], 0, 0, 0, 1];
            bytes.extend(payload);
            outcome(44, &bytes)
        };
        for offset in [[0, 1], [0, 8], [1, 1]] {
            assert_eq!(with(50, offset, &[1; 16]).1, Some(NodeId::IpReassembly));
            assert_eq!(with(17, offset, &[1; 16]).1, Some(NodeId::IpReassembly));
        }
        assert_eq!(with(50, [0, 0], &[1; 16]).1, Some(NodeId::EspDecrypt));
        let (bench, _) = with(58, [0, 0], &[135, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bench.drops(DropReason::NdMalformed), 1);
        assert_eq!(with(6, [0, 1], &[1; 16]).1, Some(NodeId::Punt));
    }
}
