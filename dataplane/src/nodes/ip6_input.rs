//! IPv6 packets that nobody has looked at yet (RFC 8200, RFC 4291 section 2).
//!
//! ```text
//!   ethernet-input, esp-decrypt -> ip6-input -> [policy-input] -> [reverse-path] -> ip6-lookup
//! ```
//!
//! Behind this node a packet's version and length hold, link padding is cut off, and its addresses may be a sender's
//! and a receiver's; where an interface bounds the MSS of what comes in by it, that is done. Extension headers are looked at by whoever the packet is for.

use culvert_net::Ipv6View;

use super::mss_clamp::clamp_arriving;
use super::together::forward_or_drop;
use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip6Input,
    next: &[NodeId::Ip6Lookup, NodeId::PolicyInput, NodeId::ReversePath],
};

/// See the module.
#[derive(Default)]
pub struct Ip6Input;

impl Node for Ip6Input {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let next = if context.tables.policy_based.is_some() {
            NodeId::PolicyInput
        } else if context.tables.reverse_path {
            NodeId::ReversePath
        } else {
            NodeId::Ip6Lookup
        };
        let clamps = context.tables.mss_arriving;
        let mut arriving = None;
        forward_or_drop(context, vector, |context, packet| {
            check(context.buffers, packet)?;
            if clamps {
                clamp_arriving(context.tables, context.buffers, packet, true, &mut arriving)?;
            }
            Ok(next)
        });
    }
}

#[inline(always)]
fn check(buffers: &BufferPool, packet: &mut Packet) -> Result<(), DropReason> {
    let (meta, data) = buffers.parts_mut(packet);
    let view = Ipv6View::parse(data).map_err(|_| DropReason::Ip6Malformed)?;
    let (source, destination) = (view.source(), view.destination());
    // `::` is the source of duplicate detection (RFC 4862) only; it is never forwarded (see ip6-lookup).
    if source.is_multicast() || source.is_loopback() || source == destination {
        return Err(DropReason::IpBadSource);
    }
    // ff00::/16 and ff01::/16 do not leave a node.
    let hidden = destination.is_multicast() && destination.octets()[1] & 0x0f <= 1;
    if destination.is_unspecified() || destination.is_loopback() || hidden {
        return Err(DropReason::IpBadDestination);
    }
    let total = view.total_len();
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + 40) as u16;
    meta.set_len(total).map_err(|_| DropReason::Ip6Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::Ipv6Addr;

    use super::*;
    use crate::nodes::workbench::{FAR_IP6, HOST_IP6, LAN, Workbench, packet6};

    #[test]
    fn a_good_packet_goes_on_without_its_padding_and_bad_ones_are_counted() {
        let mut bench = Workbench::only(Box::new(Ip6Input));
        let packet = packet6(HOST_IP6, FAR_IP6, 17, 64, b"data");
        let mut padded = packet.clone();
        padded.extend([0xaa; 9]);
        bench.put(NodeId::Ip6Input, LAN, &padded, |_| {});
        for length in 0..packet.len() {
            bench.put(NodeId::Ip6Input, LAN, &packet[..length], |_| {});
        }
        let mut bad = packet.clone();
        bad[0] = 0x45;
        bench.put(NodeId::Ip6Input, LAN, &bad, |_| {});
        bench.run();
        let arrived = bench.arrived();
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].bytes, packet);
        assert_eq!(
            bench.drops(DropReason::Ip6Malformed),
            packet.len() as u64 + 1
        );
        bench.finish();
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        let mut bench = Workbench::only(Box::new(Ip6Input));
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        for (source, destination) in [
            ("::1", "2001:db8::1"),
            ("ff02::1", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let bytes = packet6(address(source), address(destination), 17, 64, &[]);
            bench.put(NodeId::Ip6Input, LAN, &bytes, |_| {});
        }
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadSource), 3);
        for destination in ["::", "::1", "ff01::1", "ff10::1"] {
            let bytes = packet6(HOST_IP6, address(destination), 17, 64, &[]);
            bench.put(NodeId::Ip6Input, LAN, &bytes, |_| {});
        }
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadDestination), 4);
        assert!(bench.arrived().is_empty());
        bench.finish();
    }
}
