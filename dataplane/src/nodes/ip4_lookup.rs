//! IPv4 longest-prefix match in the packet's VRF (RFC 1812 section 5.2.4).
//!
//! ```text
//!   ip4-input, inject, esp-encrypt, icmp-error -> ip4-lookup -> ip4-local | ip4-rewrite | neighbour-resolve
//!                                                               | tunnel-output | icmp-error
//! ```
//!
//! The destinations of a whole vector are collected first and looked up together, so that the misses of one overlap
//! the work on others. Multicast and broadcast are not routed: what the box may want of them goes to it, link scope and
//! the groups that Linux has joined where the packet came in.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::dispatch::{Dispatch, IP4};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};
use crate::tables::{ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip4Lookup,
    next: &[
        NodeId::Ip4Local,
        NodeId::Ip4Rewrite,
        NodeId::PolicyOutput,
        NodeId::NeighbourResolve,
        NodeId::TunnelOutput,
        NodeId::Encapsulate,
        NodeId::IcmpError,
    ],
};

/// In the place of an adjacency: of a group that nobody here is in.
const NOWHERE: u32 = u32::MAX;

/// See the module.
#[derive(Default)]
pub struct Ip4Lookup;

impl Node for Ip4Lookup {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut destinations = ArrayVec::<(Ipv4Addr, u32), VECTOR>::new();
        for packet in vector.iter() {
            let destination = match context.buffers.data(packet) {
                [
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    a,
                    b,
                    c,
                    d,
                    ..,
                ] => Ipv4Addr::new(*a, *b, *c, *d),
                _ => Ipv4Addr::UNSPECIFIED,
            };
            destinations.push((destination, context.buffers.meta(packet).vrf));
        }
        let mut found = [ADJACENCY_NO_ROUTE; VECTOR];
        let mut at = 0;
        // Most vectors are of one VRF.
        for run in destinations.chunk_by(|one, next| one.1 == next.1) {
            let addresses: ArrayVec<Ipv4Addr, VECTOR> = run.iter().map(|(to, _)| *to).collect();
            if let Some((_, vrf)) = run.first()
                && let Some(vrf) = tables.vrfs.get(*vrf)
                && let Some(results) = found.get_mut(at..at + run.len())
            {
                vrf.fib4.lookup_batch(&addresses, results);
            }
            at += run.len();
        }
        let mut dispatch = Dispatch::new(tables, IP4);
        let (destinations, found) = (destinations.as_slice(), &mut found[..destinations.len()]);
        // Multicast and broadcast are not routed: what the box may want of them goes to it.
        for (place, ((destination, _), adjacency)) in
            destinations.iter().zip(found.iter_mut()).enumerate()
        {
            if destination.octets()[0] >= 224 {
                let link = destination.is_broadcast() || destination.octets()[..3] == [224, 0, 0];
                let is_wanted = || {
                    let packet = vector.get(place);
                    packet.is_some_and(|packet| {
                        let rx = context.buffers.meta(packet).rx_interface;
                        tables.groups.contains(rx, (*destination).into())
                    })
                };
                *adjacency = if link || is_wanted() {
                    ADJACENCY_LOCAL
                } else {
                    NOWHERE
                };
            }
        }
        if let Some((first, rest)) = found.split_first()
            && rest.iter().all(|other| other == first)
            && *first != NOWHERE
        {
            dispatch.send_all(context, vector, *first);
            return;
        }
        dispatch.look_ahead(found);
        for (packet, adjacency) in vector.drain(..).zip(found) {
            if *adjacency == NOWHERE {
                context.drop(packet, DropReason::IpBadDestination);
            } else {
                dispatch.send(context, packet, *adjacency);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::buffer::flags;
    use crate::nodes::workbench::{HOST_IP, LAN, TO_HOST, TO_ROUTER, WAN, Workbench, packet4};
    use crate::tables::{Adjacency, AdjacencyKind, Groups};

    fn put(bench: &mut Workbench, destination: &str) {
        let packet = packet4(HOST_IP, destination.parse().unwrap(), 17, &[1, 2, 3, 4]);
        bench.put(NodeId::Ip4Lookup, LAN, &packet, |_| {});
    }

    #[test]
    fn each_kind_of_adjacency_has_its_node() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        for (destination, node, interface) in [
            ("10.1.0.1", NodeId::Ip4Local, 0),
            ("10.1.0.255", NodeId::Ip4Local, 0),
            ("224.0.0.5", NodeId::Ip4Local, 0),
            ("255.255.255.255", NodeId::Ip4Local, 0),
            ("10.1.0.77", NodeId::NeighbourResolve, LAN),
            ("10.2.3.4", NodeId::TunnelOutput, 3),
            ("198.51.100.1", NodeId::Ip4Rewrite, WAN),
            ("192.0.2.1", NodeId::IcmpError, 0),
        ] {
            let before = bench.arrived().len();
            put(&mut bench, destination);
            bench.run();
            let arrived = bench.arrived();
            assert_eq!(arrived.len(), before + 1, "{destination}");
            let last = arrived.last().unwrap();
            assert_eq!(
                (last.node, last.meta.tx_interface),
                (node, interface),
                "{destination}"
            );
        }
        assert_eq!(bench.arrived().last().unwrap().meta.icmp.kind, 3);
        put(&mut bench, "10.66.0.1");
        put(&mut bench, "239.1.2.3");
        bench.run();
        assert_eq!(bench.drops(DropReason::RouteBlackhole), 1);
        assert_eq!(bench.drops(DropReason::IpBadDestination), 1);
        bench.finish();
    }

    #[test]
    fn groups_are_the_boxs_where_linux_has_joined_them() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        let group = |text: &str| text.parse().unwrap();
        bench.tables.groups = Groups::new([(LAN, group("239.1.2.3")), (WAN, group("239.1.2.4"))]);
        for destination in ["239.1.2.3", "239.1.2.4", "10.2.3.4"] {
            put(&mut bench, destination);
        }
        bench.run();
        let nodes: Vec<_> = bench.arrived().iter().map(|arrived| arrived.node).collect();
        assert_eq!(nodes.len(), 2);
        assert!(nodes.contains(&NodeId::Ip4Local) && nodes.contains(&NodeId::TunnelOutput));
        assert_eq!(bench.drops(DropReason::IpBadDestination), 1);
        bench.finish();
    }

    #[test]
    fn before_the_configuration_is_whole_only_the_box_is_reached() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        bench.tables.forwarding = false;
        put(&mut bench, "10.1.0.1");
        for destination in ["10.1.0.77", "10.2.3.4", "198.51.100.1"] {
            put(&mut bench, destination);
            let packet = packet4(HOST_IP, destination.parse().unwrap(), 17, &[0; 4]);
            bench.put(NodeId::Ip4Lookup, LAN, &packet, |meta| {
                meta.flags |= flags::INJECTED;
            });
        }
        bench.run();
        assert_eq!(bench.drops(DropReason::ForwardingDisabled), 6);
        assert_eq!(bench.arrived().len(), 1);
        bench.finish();
    }

    #[test]
    fn a_flow_stays_on_one_of_several_ways() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        bench.set_adjacency(
            20,
            Adjacency {
                kind: AdjacencyKind::Multipath([TO_HOST, TO_ROUTER].into()),
                interface: 0,
                mtu: 1500,
            },
        );
        bench
            .fib4
            .insert("10.3.0.0/16".parse().unwrap(), 20)
            .unwrap();
        for round in 0..2 {
            for last in 0..100 {
                let to = [10, 3, 0, last].into();
                let packet = packet4(HOST_IP, to, 17, &[1, 2, 3, 4]);
                bench.put(NodeId::Ip4Lookup, LAN, &packet, |_| {});
            }
            bench.run();
            assert_eq!(bench.arrived().len(), (round + 1) * 100);
        }
        let ways: Vec<_> = bench
            .arrived()
            .iter()
            .map(|arrived| arrived.meta.adjacency)
            .collect();
        assert_eq!(ways[..100], ways[100..]);
        let first = ways[..100].iter().filter(|way| **way == TO_HOST).count();
        assert!((25..75).contains(&first), "{first}");
        bench.finish();
    }

    #[test]
    fn an_unknown_vrf_has_no_routes() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        let packet = packet4(HOST_IP, [10, 1, 0, 1].into(), 17, &[0; 4]);
        bench.put(NodeId::Ip4Lookup, LAN, &packet, |meta| meta.vrf = 77);
        bench.put(NodeId::Ip4Lookup, LAN, &packet, |_| {});
        bench.run();
        let nodes: Vec<_> = bench.arrived().iter().map(|a| a.node).collect();
        assert_eq!(nodes, [NodeId::Ip4Local, NodeId::IcmpError]);
        bench.finish();
    }
}
