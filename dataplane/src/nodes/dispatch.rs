//! From the adjacency that a lookup has found to the node that carries it out; the same for both families.
//!
//! ```text
//!   adjacency index -- multipath? choose by flow --> Local     -> ip4-local, ip6-local
//!                      lookup? in another VRF        Rewrite   -> ip4-rewrite, ip6-rewrite
//!                                                    Glean, Unresolved -> neighbour-resolve
//!                                                    Tunnel    -> tunnel-output
//!                                                    Encapsulation -> encapsulate
//!                                                    Drop      -> counted; no route, unreachable, prohibited: icmp-error
//! ```
//!
//! Where policies decide what leaves in the clear, policy-output stands before all of these but the local nodes, tunnels
//! and drops, and dispatches itself what they let through. No route is a way out, too: into a tunnel none is needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_net::Flow;

use super::icmp_error;
use crate::buffer::{IcmpCause, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, NodeId, Vector};
use crate::prefetch;
use crate::tables::{AdjacencyKind, Tables};

/// The nodes of one family.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) local: NodeId,
    pub(super) rewrite: NodeId,
    pub(super) v6: bool,
}

pub(super) const IP4: Family = Family {
    local: NodeId::Ip4Local,
    rewrite: NodeId::Ip4Rewrite,
    v6: false,
};

pub(super) const IP6: Family = Family {
    local: NodeId::Ip6Local,
    rewrite: NodeId::Ip6Rewrite,
    v6: true,
};

/// Where packets of one adjacency go: the same for all of a vector, so found once for each run of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Node {
        node: NodeId,
        interface: u32,
    },
    Drop(DropReason),
    NoRoute,
    /// A route says so.
    Refused(IcmpCause),
    /// To be followed for each packet.
    Onward,
}

/// No table has an adjacency of this index.
const NONE: u32 = u32::MAX;

/// Sends packets on their ways and remembers the last one.
pub(super) struct Dispatch<'t> {
    tables: &'t Tables,
    family: Family,
    /// What leaves in the clear has to be asked for.
    policies: bool,
    adjacency: u32,
    way: Way,
}

impl<'t> Dispatch<'t> {
    pub(super) fn new(tables: &'t Tables, family: Family) -> Self {
        Self {
            tables,
            family,
            policies: tables.policy_based.is_some(),
            adjacency: NONE,
            way: Way::Drop(DropReason::NoRoute),
        }
    }

    /// For packets that policies let through.
    pub(super) fn past_policies(tables: &'t Tables, family: Family) -> Self {
        Self {
            tables,
            family,
            policies: false,
            adjacency: NONE,
            way: Way::Drop(DropReason::NoRoute),
        }
    }

    /// Asks for the adjacencies that the packets of a vector are sent by, so that their misses overlap.
    #[inline]
    pub(super) fn look_ahead(&self, adjacencies: &[u32]) {
        for adjacency in adjacencies {
            if let Some(found) = self.tables.adjacencies.get(*adjacency) {
                prefetch::line(&**found);
            }
        }
    }

    /// Sends a packet the way of its adjacency.
    #[inline(always)]
    pub(super) fn send(&mut self, context: &mut Context<'_>, mut packet: Packet, adjacency: u32) {
        if adjacency != self.adjacency {
            self.way = way(self.tables, self.family, self.policies, adjacency);
            self.adjacency = adjacency;
        }
        if let Way::Node { node, interface } = self.way {
            let meta = context.buffers.meta_mut(&mut packet);
            meta.adjacency = adjacency;
            meta.tx_interface = interface;
            context.send(node, packet);
        } else {
            self.send_otherwise(context, packet, adjacency);
        }
    }

    /// Sends all packets of a vector the way of one adjacency.
    #[inline]
    pub(super) fn send_all(
        &mut self,
        context: &mut Context<'_>,
        vector: &mut Vector,
        adjacency: u32,
    ) {
        if let Way::Node { node, interface } =
            way(self.tables, self.family, self.policies, adjacency)
        {
            for packet in vector.iter_mut() {
                let meta = context.buffers.meta_mut(packet);
                meta.adjacency = adjacency;
                meta.tx_interface = interface;
            }
            context.send_all(node, vector);
        } else {
            for packet in vector.drain(..) {
                self.send(context, packet, adjacency);
            }
        }
    }

    #[cold]
    fn send_otherwise(&mut self, context: &mut Context<'_>, mut packet: Packet, adjacency: u32) {
        match self.way {
            Way::NoRoute => {
                icmp_error::refuse(context, packet, IcmpCause::no_route(self.family.v6));
            }
            Way::Refused(cause) => {
                context.buffers.meta_mut(&mut packet).flags |= flags::REFUSED_BY_ROUTE;
                icmp_error::refuse(context, packet, cause);
            }
            Way::Drop(reason) => context.drop(packet, reason),
            Way::Onward => {
                let data = context.buffers.data(&packet);
                let found = destination(data).and_then(|destination| {
                    self.tables.follow(adjacency, destination, || {
                        Flow::spread_of(data).unwrap_or(0)
                    })
                });
                match found {
                    Some(index) => Self {
                        tables: self.tables,
                        family: self.family,
                        policies: self.policies,
                        adjacency: index,
                        way: way(self.tables, self.family, self.policies, index),
                    }
                    .send(context, packet, index),
                    None => context.drop(packet, DropReason::RouteLoop),
                }
            }
            Way::Node { .. } => context.drop(packet, DropReason::NoRoute),
        }
    }
}

/// Of a packet whose header has been checked.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    if packet.first()? >> 4 == 4 {
        Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into())
    } else {
        Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into())
    }
}

/// An index that this version of the tables does not have yet counts as no route: its packets are lost in the one
/// round in which a worker still uses the version before.
fn way(tables: &Tables, family: Family, policies: bool, adjacency: u32) -> Way {
    let Some(found) = tables.adjacencies.get(adjacency) else {
        return Way::Drop(DropReason::NoRoute);
    };
    let node = match &found.kind {
        AdjacencyKind::Local => {
            return Way::Node {
                node: family.local,
                interface: 0,
            };
        }
        AdjacencyKind::Drop(DropReason::NoRoute) if policies && tables.forwarding => {
            NodeId::PolicyOutput
        }
        AdjacencyKind::Drop(DropReason::NoRoute) => return Way::NoRoute,
        AdjacencyKind::Drop(reason) => {
            return IcmpCause::of_route(family.v6, *reason)
                .map_or(Way::Drop(*reason), Way::Refused);
        }
        _ if !tables.forwarding => return Way::Drop(DropReason::ForwardingDisabled),
        AdjacencyKind::Rewrite(_)
        | AdjacencyKind::Multicast
        | AdjacencyKind::Glean
        | AdjacencyKind::Unresolved(_)
            if policies =>
        {
            NodeId::PolicyOutput
        }
        AdjacencyKind::Rewrite(_) | AdjacencyKind::Multicast => family.rewrite,
        AdjacencyKind::Glean | AdjacencyKind::Unresolved(_) => NodeId::NeighbourResolve,
        AdjacencyKind::Tunnel => NodeId::TunnelOutput,
        AdjacencyKind::Encapsulation => NodeId::Encapsulate,
        AdjacencyKind::Multipath(_) | AdjacencyKind::Lookup(_) => return Way::Onward,
    };
    Way::Node {
        node,
        interface: found.interface,
    }
}

/// The packet is the box's own, not on its way from one of its neighbours to another.
#[inline(always)]
pub(super) fn is_own(flags: u32) -> bool {
    const OWN: u32 = flags::INJECTED | flags::ORIGINATED | flags::ENCRYPTED | flags::ENCAPSULATED;
    flags & OWN != 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::nodes::workbench::{FAR_IP, HOST_IP, packet4};

    #[test]
    fn a_flow_has_one_hash_and_flows_spread() {
        let mut counts = [0u32; 3];
        for port in 0..3000u16 {
            let [high, low] = port.to_be_bytes();
            let packet = packet4(HOST_IP, FAR_IP, 6, &[high, low, 0, 80, 0, 0]);
            let hash = Flow::of(&packet).unwrap().spread();
            assert_eq!(hash, Flow::of(&packet).unwrap().spread());
            counts[((u64::from(hash) * 3) >> 32) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn packets_are_led_through_the_tables_of_vrfs_and_not_round_in_them() {
        use crate::graph::NodeId;
        use crate::nodes::workbench::{LAN, TO_ROUTER, Workbench};
        use crate::tables::{Adjacency, VRF_DEFAULT};
        const BLUE: u32 = 30;
        const BACK: u32 = 31;
        const SPREAD: u32 = 32;
        let mut bench = Workbench::only(Box::<crate::nodes::ip4_lookup::Ip4Lookup>::default());
        let mut blue = crate::fib::Fib4Writer::default();
        let vrf = crate::tables::Vrf {
            name: "blue".into(),
            fib4: std::sync::Arc::clone(blue.fib()),
            fib6: std::sync::Arc::default(),
        };
        bench.tables.vrfs.set(3, Some(std::sync::Arc::new(vrf)));
        for (index, kind) in [
            (BLUE, AdjacencyKind::Lookup(3)),
            (BACK, AdjacencyKind::Lookup(VRF_DEFAULT)),
            (SPREAD, AdjacencyKind::Multipath([BLUE, BLUE].into())),
        ] {
            bench.set_adjacency(
                index,
                Adjacency {
                    kind,
                    interface: 0,
                    mtu: u16::MAX,
                },
            );
        }
        for (prefix, here, there) in [
            ("192.0.2.0/25", BLUE, TO_ROUTER),
            ("192.0.2.128/25", SPREAD, TO_ROUTER),
            ("100.64.0.0/16", BLUE, BACK),
        ] {
            let prefix = prefix.parse().unwrap();
            bench.fib4.insert(prefix, here).unwrap();
            blue.insert(prefix, there).unwrap();
        }
        for to in [[192, 0, 2, 1], [192, 0, 2, 200], [100, 64, 0, 1]] {
            let packet = packet4(HOST_IP, to.into(), 17, b"12345678");
            bench.put(NodeId::Ip4Lookup, LAN, &packet, |_| {});
        }
        bench.run();
        let arrived = bench.arrived();
        assert_eq!(arrived.len(), 2);
        for arrived in arrived {
            assert_eq!(arrived.node, NodeId::Ip4Rewrite);
            assert_eq!(arrived.meta.adjacency, TO_ROUTER);
        }
        assert_eq!(bench.drops(DropReason::RouteLoop), 1);
        bench.finish();
    }
}
