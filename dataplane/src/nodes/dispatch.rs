//! From the adjacency that a lookup has found to the node that carries it out; the same for both families.
//!
//! ```text
//!   adjacency index -- multipath? choose by flow --> Local     -> ip4-local, ip6-local
//!                                                    Rewrite   -> ip4-rewrite, ip6-rewrite
//!                                                    Glean, Unresolved -> neighbour-resolve
//!                                                    Tunnel    -> tunnel-output
//!                                                    Drop      -> counted; no route, unreachable, prohibited: icmp-error
//! ```

use culvert_net::{Addresses, Flow};

use super::icmp_error;
use crate::buffer::{IcmpCause, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, NodeId, Vector};
use crate::tables::{ADJACENCY_NO_ROUTE, AdjacencyKind, Tables};

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
    Multipath,
}

/// Sends packets on their ways and remembers the last one.
pub(super) struct Dispatch<'t> {
    tables: &'t Tables,
    family: Family,
    adjacency: u32,
    way: Way,
}

impl<'t> Dispatch<'t> {
    pub(super) fn new(tables: &'t Tables, family: Family) -> Self {
        Self {
            tables,
            family,
            adjacency: ADJACENCY_NO_ROUTE,
            way: Way::NoRoute,
        }
    }

    /// Sends a packet the way of its adjacency.
    #[inline(always)]
    pub(super) fn send(&mut self, context: &mut Context<'_>, mut packet: Packet, adjacency: u32) {
        if adjacency != self.adjacency {
            self.way = way(self.tables, self.family, adjacency);
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
        if let Way::Node { node, interface } = way(self.tables, self.family, adjacency) {
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
            Way::Multipath => {
                let hash = flow_hash(context.buffers.data(&packet));
                let member = self.tables.adjacencies.get(adjacency).and_then(|found| {
                    let AdjacencyKind::Multipath(members) = &found.kind else {
                        return None;
                    };
                    // The high half of the product spreads a 32-bit hash evenly over any number of members.
                    let place = (u64::from(hash) * members.len() as u64) >> 32;
                    members.get(place as usize).copied()
                });
                match member.map(|index| (index, way(self.tables, self.family, index))) {
                    Some((index, way)) if way != Way::Multipath => {
                        Self {
                            tables: self.tables,
                            family: self.family,
                            adjacency: index,
                            way,
                        }
                        .send(context, packet, index);
                    }
                    _ => context.drop(packet, DropReason::NoRoute),
                }
            }
            Way::Node { .. } => context.drop(packet, DropReason::NoRoute),
        }
    }
}

/// An index that this version of the tables does not have yet counts as no route: its packets are lost in the one
/// round in which a worker still uses the version before.
fn way(tables: &Tables, family: Family, adjacency: u32) -> Way {
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
        AdjacencyKind::Drop(DropReason::NoRoute) => return Way::NoRoute,
        AdjacencyKind::Drop(reason) => {
            return IcmpCause::of_route(family.v6, *reason)
                .map_or(Way::Drop(*reason), Way::Refused);
        }
        _ if !tables.forwarding => return Way::Drop(DropReason::ForwardingDisabled),
        AdjacencyKind::Rewrite(_) | AdjacencyKind::Multicast => family.rewrite,
        AdjacencyKind::Glean | AdjacencyKind::Unresolved(_) => NodeId::NeighbourResolve,
        AdjacencyKind::Tunnel => NodeId::TunnelOutput,
        AdjacencyKind::Multipath(_) => return Way::Multipath,
    };
    Way::Node {
        node,
        interface: found.interface,
    }
}

/// The packet is the box's own, not on its way from one of its neighbours to another.
#[inline(always)]
pub(super) fn is_own(flags: u32) -> bool {
    flags & (flags::INJECTED | flags::ORIGINATED | flags::ENCRYPTED) != 0
}

/// The same for all packets of a flow: addresses, protocol and ports (RFC 2992). Fragments have no ports and may go
/// another way than the rest of their flow.
fn flow_hash(packet: &[u8]) -> u32 {
    let Ok(flow) = Flow::of(packet) else { return 0 };
    let mut hash = u64::from(flow.protocol.0);
    let mut mix = |value: u64| {
        // Multiplication by an odd constant moves every bit upwards, the shift brings the high ones down again.
        hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    };
    match flow.addresses {
        Addresses::V4 {
            source,
            destination,
        } => mix(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())),
        Addresses::V6 {
            source,
            destination,
        } => {
            for bits in [source.to_bits(), destination.to_bits()] {
                mix((bits >> 64) as u64);
                mix(bits as u64);
            }
        }
    }
    if let Some((source, destination)) = flow.ports {
        mix(u64::from(source) << 16 | u64::from(destination));
    }
    mix(0);
    hash as u32
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
            let hash = flow_hash(&packet);
            assert_eq!(hash, flow_hash(&packet));
            counts[((u64::from(hash) * 3) >> 32) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
