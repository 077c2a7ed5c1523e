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
use culvert_net::Ipv4Header;

use super::dispatch::{Dispatch, IP4};
use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};
use crate::tables::{ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Tables, VRF_DEFAULT};

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

/// The first multicast address.
const FIRST_GROUP: u32 = 224 << 24;
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
        let mut found = ArrayVec::new();
        let seen = Seen::of(context.buffers, vector, &mut found);
        let mut dispatch = Dispatch::new(tables, IP4);
        if seen.one_destination
            && !seen.several_vrfs
            && !seen.unrouted
            && let Some(vrf) = tables.vrfs.get(seen.vrf)
        {
            let found = vrf.fib4.lookup(Ipv4Addr::from_bits(seen.destination));
            return dispatch.send_all(context, vector, found);
        }
        if seen.several_vrfs {
            let vrf_of = |packet: &Packet| context.buffers.meta(packet).vrf;
            let mut rest = found.as_mut_slice();
            for run in vector.chunk_by(|one, next| vrf_of(one) == vrf_of(next)) {
                let Some((places, others)) = rest.split_at_mut_checked(run.len()) else {
                    break;
                };
                rest = others;
                look_up(tables, run.first().map_or(VRF_DEFAULT, vrf_of), places);
            }
        } else {
            look_up(tables, seen.vrf, &mut found);
        }
        if seen.unrouted {
            for (packet, adjacency) in vector.iter().zip(&mut found) {
                let to = destination(context.buffers.data(packet));
                if to >= FIRST_GROUP {
                    *adjacency = unrouted(context, packet, Ipv4Addr::from_bits(to));
                }
            }
        }
        if let Some((first, rest)) = found.split_first()
            && rest
                .iter()
                .fold(0, |differ, other| differ | (other ^ first))
                == 0
            && *first != NOWHERE
        {
            dispatch.send_all(context, vector, *first);
            return;
        }
        dispatch.look_ahead(&found);
        for (packet, adjacency) in vector.drain(..).zip(&found) {
            if *adjacency == NOWHERE {
                context.drop(packet, DropReason::IpBadDestination);
            } else {
                dispatch.send(context, packet, *adjacency);
            }
        }
    }
}

/// What the packets of a vector ask for.
struct Seen {
    /// VRF and destination of the first.
    vrf: u32,
    destination: u32,
    /// That of all others, too: so it is with ESP packets, and with what one neighbour says to another.
    one_destination: bool,
    several_vrfs: bool,
    /// One at least is multicast or broadcast.
    unrouted: bool,
}

impl Seen {
    /// Writes the destination of each packet to `destinations`, too.
    #[inline(always)]
    fn of(buffers: &BufferPool, vector: &Vector, destinations: &mut ArrayVec<u32, VECTOR>) -> Self {
        let (vrf, first) = vector.first().map_or((VRF_DEFAULT, 0), |packet| {
            (buffers.meta(packet).vrf, destination(buffers.data(packet)))
        });
        let (mut other_vrfs, mut others, mut highest) = (0, 0, 0);
        destinations.extend(vector.iter().map(|packet| {
            let to = destination(buffers.data(packet));
            other_vrfs |= buffers.meta(packet).vrf ^ vrf;
            others |= to ^ first;
            highest = highest.max(to);
            to
        }));
        Self {
            vrf,
            destination: first,
            one_destination: others == 0,
            several_vrfs: other_vrfs != 0,
            unrouted: highest >= FIRST_GROUP,
        }
    }
}

/// Of an IPv4 packet.
#[inline(always)]
fn destination(packet: &[u8]) -> u32 {
    packet
        .first_chunk::<{ Ipv4Header::LEN }>()
        .map_or(0, |header| {
            let [.., a, b, c, d] = *header;
            u32::from_be_bytes([a, b, c, d])
        })
}

/// Puts adjacencies in the places of destinations.
#[inline(always)]
fn look_up(tables: &Tables, vrf: u32, places: &mut [u32]) {
    match tables.vrfs.get(vrf) {
        Some(vrf) => vrf.fib4.lookup_in_place(places),
        None => places.fill(ADJACENCY_NO_ROUTE),
    }
}

/// Multicast and broadcast are not routed: what the box may want of them goes to it.
#[cold]
fn unrouted(context: &Context<'_>, packet: &Packet, to: Ipv4Addr) -> u32 {
    let link = to.is_broadcast() || to.octets()[..3] == [224, 0, 0];
    let rx = context.buffers.meta(packet).rx_interface;
    if link || context.tables.groups.contains(rx, to.into()) {
        ADJACENCY_LOCAL
    } else {
        NOWHERE
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

    /// Vectors of one VRF or of two, of one destination or several, with a group among them or not.
    #[test]
    fn a_vector_goes_where_its_packets_would_go_alone() {
        let mut bench = Workbench::only(Box::new(Ip4Lookup));
        let destinations: [Ipv4Addr; 7] = [
            [10, 1, 0, 1].into(),
            [10, 1, 0, 77].into(),
            [10, 2, 3, 4].into(),
            [198, 51, 100, 1].into(),
            [192, 0, 2, 1].into(),
            [224, 0, 0, 5].into(),
            [239, 1, 2, 3].into(),
        ];
        let mut random = crate::driver::generator::Random::new(6);
        let ask = |bench: &mut Workbench, packets: &[(Ipv4Addr, u32)]| {
            let (before, refused) = (
                bench.arrived().len(),
                bench.drops(DropReason::IpBadDestination),
            );
            for (to, vrf) in packets {
                let packet = packet4(HOST_IP, *to, 17, &[1, 2, 3, 4]);
                bench.put(NodeId::Ip4Lookup, LAN, &packet, |meta| meta.vrf = *vrf);
            }
            bench.run();
            let mut ways: Vec<_> = bench.arrived()[before..]
                .iter()
                .map(|arrived| (arrived.bytes.clone(), arrived.meta.vrf, arrived.node))
                .collect();
            ways.sort();
            (ways, bench.drops(DropReason::IpBadDestination) - refused)
        };
        for round in 0..60 {
            let count = [1, 2, 7, 8, 9, 40][random.below(6) as usize];
            let (kinds, vrfs) = (1 + random.below(7), [1, 2][random.below(2) as usize]);
            let packets: Vec<_> = (0..count)
                .map(|_| {
                    let to = destinations[(random.below(kinds) as usize + round) % 7];
                    (to, random.below(vrfs) as u32 * 77)
                })
                .collect();
            let together = ask(&mut bench, &packets);
            let mut alone = (Vec::new(), 0);
            for packet in packets {
                let (ways, refused) = ask(&mut bench, &[packet]);
                alone.0.extend(ways);
                alone.1 += refused;
            }
            alone.0.sort();
            assert_eq!(together, alone);
        }
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
