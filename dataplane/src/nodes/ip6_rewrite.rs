//! The last look at an IPv6 packet before it leaves (RFC 8200): MTU, hop limit, checksums, link header.
//!
//! ```text
//!   ip6-lookup, esp-encrypt -> ip6-rewrite -> interface-output
//!                                       '--> icmp-error     (too big, hop limit run out)
//! ```
//!
//! The box's own packets (of Linux, of its tunnels, its ICMP errors) keep their hop limit. Routers never fragment IPv6.

use super::dispatch::is_own;
use super::icmp_error;
use super::ip_fragment;
use super::together::forward;
use super::way_out::{Refusal, WayOut, complete, finish};
use crate::buffer::{BufferPool, IcmpCause, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::mss_clamp;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip6Rewrite,
    next: &[NodeId::InterfaceOutput, NodeId::IcmpError],
};

/// See the module.
#[derive(Default)]
pub struct Ip6Rewrite;

impl Node for Ip6Rewrite {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut way = WayOut::NONE;
        let mut detour = false;
        forward(
            context,
            vector,
            |context, packet| {
                let adjacency = context.buffers.meta(packet).adjacency;
                if adjacency != way.adjacency {
                    way = WayOut::of(tables, adjacency, true);
                }
                let next = rewrite(context.buffers, packet, &way, detour);
                detour |= next == Ok(NodeId::IpFragment);
                next
            },
            |context, packet, refusal| match refusal {
                Refusal::Drop(reason) => context.drop(packet, reason),
                Refusal::Icmp(cause) => icmp_error::refuse(context, packet, cause),
            },
        );
    }
}

#[inline(always)]
fn rewrite(
    buffers: &BufferPool,
    packet: &mut Packet,
    way: &WayOut,
    detour: bool,
) -> Result<NodeId, Refusal> {
    let mut link = way.header()?;
    let (meta, data) = buffers.parts_mut(packet);
    complete(meta, data)?;
    let header = data
        .first_chunk_mut::<40>()
        .ok_or(Refusal::Drop(DropReason::Ip6Malformed))?;
    if way.multicast {
        let [.., a, b, c, d] = *header;
        for (to, from) in link.iter_mut().zip([0x33, 0x33, a, b, c, d]) {
            *to = from;
        }
    }
    let forwarded = !is_own(meta.flags);
    if forwarded && header[7] <= 1 {
        return Err(Refusal::Icmp(IcmpCause::time_exceeded(true)));
    }
    if meta.len() > usize::from(way.mtu) {
        // What we have encapsulated begins here, so that it may be fragmented here (RFC 8200 section 5).
        if meta.flags & (flags::ENCRYPTED | flags::ENCAPSULATED) != 0
            && ip_fragment::may_be_cut6(header)
        {
            ip_fragment::ask(meta, way.mtu, NodeId::Ip6Rewrite);
            return Ok(NodeId::IpFragment);
        }
        return Err(Refusal::Icmp(IcmpCause::too_big(true, way.mtu)));
    }
    if detour {
        // A packet before it is cut first. It comes here again, behind the fragments.
        ip_fragment::pass(meta, NodeId::Ip6Rewrite);
        return Ok(NodeId::IpFragment);
    }
    if forwarded {
        header[7] -= 1;
        if let Some(mss) = way.mss {
            mss_clamp::clamp(data, true, mss);
        }
    }
    finish(buffers, packet, way.interface, &link)?;
    Ok(NodeId::InterfaceOutput)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::MacAddr;

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP6, HOST_IP6, LAN, ROUTER_MAC, TO_ROUTER6, WAN, WAN_MAC, Workbench, packet6,
    };
    use crate::tables::{Adjacency, AdjacencyKind};

    fn put(bench: &mut Workbench, bytes: &[u8], flags: u32) {
        bench.put(NodeId::Ip6Rewrite, LAN, bytes, |meta| {
            meta.adjacency = TO_ROUTER6;
            meta.flags |= flags;
        });
    }

    #[test]
    fn a_forwarded_packet_gets_its_link_header_and_loses_one_hop() {
        let mut bench = Workbench::only(Box::new(Ip6Rewrite));
        put(&mut bench, &packet6(HOST_IP6, FAR_IP6, 17, 64, b"data"), 0);
        put(
            &mut bench,
            &packet6(HOST_IP6, FAR_IP6, 17, 1, b"data"),
            flags::INJECTED,
        );
        bench.run();
        for (arrived, hops) in bench.arrived().iter().zip([63, 1]) {
            assert_eq!(arrived.node, NodeId::InterfaceOutput);
            assert_eq!(arrived.meta.tx_interface, WAN);
            let mut expected = ROUTER_MAC.0.to_vec();
            expected.extend(WAN_MAC.0);
            expected.extend([0x86, 0xdd]);
            expected.extend(packet6(HOST_IP6, FAR_IP6, 17, hops, b"data"));
            assert_eq!(arrived.bytes, expected);
        }
        bench.finish();
    }

    #[test]
    fn the_sender_hears_of_what_is_too_big_or_too_old() {
        let mut bench = Workbench::only(Box::new(Ip6Rewrite));
        put(&mut bench, &packet6(HOST_IP6, FAR_IP6, 17, 1, &[]), 0);
        put(
            &mut bench,
            &packet6(HOST_IP6, FAR_IP6, 17, 9, &[0; 1461]),
            0,
        );
        bench.run();
        let causes: Vec<_> = bench
            .arrived()
            .iter()
            .map(|arrived| (arrived.node, arrived.meta.icmp))
            .collect();
        let expected = [
            IcmpCause::time_exceeded(true),
            IcmpCause::too_big(true, 1500),
        ];
        assert_eq!(causes, expected.map(|cause| (NodeId::IcmpError, cause)));
        bench.finish();
    }

    #[test]
    fn a_group_is_reached_by_its_own_link_address() {
        let mut bench = Workbench::only(Box::new(Ip6Rewrite));
        bench.set_adjacency(
            TO_ROUTER6,
            Adjacency {
                kind: AdjacencyKind::Multicast,
                interface: WAN,
                mtu: 1500,
            },
        );
        let group = "ff02::1:ff00:7".parse().unwrap();
        put(
            &mut bench,
            &packet6(HOST_IP6, group, 17, 1, &[]),
            flags::INJECTED,
        );
        bench.run();
        let arrived = bench.arrived().pop().unwrap();
        assert_eq!(arrived.bytes[..6], [0x33, 0x33, 0xff, 0, 0, 7]);
        assert_eq!(MacAddr::of_ipv6_multicast(group).0, arrived.bytes[..6]);
        bench.finish();
    }
}
