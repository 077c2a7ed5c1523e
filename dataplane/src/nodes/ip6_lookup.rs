//! IPv6 longest-prefix match in the packet's VRF (RFC 8200), within the scope of its addresses (RFC 4007).
//!
//! ```text
//!   ip6-input, inject, esp-encrypt, icmp-error -> ip6-lookup -> ip6-local | ip6-rewrite | neighbour-resolve
//!                                                               | tunnel-output | icmp-error
//! ```
//!
//! Every link has an `fe80::/64` of its own, and a VRF has one table. So the routes of a link lie under an address that
//! carries the interface's index in the 32 bits that are zero in every link-local address ([`scoped`]); on the wire
//! they stay zero.

use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::dispatch::{Dispatch, IP6, is_own};
use crate::buffer::{BufferPool, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};
use crate::tables::{ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip6Lookup,
    next: &[
        NodeId::Ip6Local,
        NodeId::Ip6Rewrite,
        NodeId::PolicyOutput,
        NodeId::NeighbourResolve,
        NodeId::TunnelOutput,
        NodeId::Encapsulate,
        NodeId::IcmpError,
    ],
};

/// Packets ahead of which the headers are asked for.
const AHEAD: usize = 4;

/// See the module.
#[derive(Default)]
pub struct Ip6Lookup;

impl Node for Ip6Lookup {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut found = ArrayVec::<u32, VECTOR>::new();
        found.extend(std::iter::repeat_n(ADJACENCY_NO_ROUTE, vector.len()));
        let ordinary = look_up(context.buffers, tables, vector, &mut found);
        let mut dispatch = Dispatch::new(tables, IP6);
        if ordinary
            && let Some((first, rest)) = found.split_first()
            && rest.iter().all(|other| other == first)
        {
            dispatch.send_all(context, vector, *first);
            return;
        }
        dispatch.look_ahead(&found);
        for (packet, adjacency) in vector.drain(..).zip(&found) {
            let adjacency = if ordinary {
                Ok(*adjacency)
            } else {
                within_scope(tables, context.buffers, &packet, *adjacency)
            };
            match adjacency {
                Ok(adjacency) => dispatch.send(context, packet, adjacency),
                Err(reason) => context.drop(packet, reason),
            }
        }
    }
}

/// What becomes of a packet whose addresses may be of one link only, or of many.
fn within_scope(
    tables: &Tables,
    buffers: &BufferPool,
    packet: &Packet,
    adjacency: u32,
) -> Result<u32, DropReason> {
    let meta = buffers.meta(packet);
    let addresses = addresses(buffers.data(packet));
    let (source, destination) = addresses.ok_or(DropReason::Ip6Malformed)?;
    if destination.is_multicast() {
        // Link scope, RFC 4291 section 2.7, and what Linux has joined where it came in; there is no multicast routing.
        let link = destination.octets()[1] & 0x0f == 2;
        let wanted = || {
            tables
                .groups
                .contains(meta.rx_interface, destination.into())
        };
        return if link || wanted() {
            Ok(ADJACENCY_LOCAL)
        } else {
            Err(DropReason::IpBadDestination)
        };
    }
    // Nothing of the link leaves it (RFC 4291 section 2.5.6), and nobody answers to `::`.
    if adjacency != ADJACENCY_LOCAL && !is_own(meta.flags) {
        if destination.is_unicast_link_local() {
            return Err(DropReason::IpBadDestination);
        }
        if source.is_unicast_link_local() || source.is_unspecified() {
            return Err(DropReason::IpBadSource);
        }
    }
    Ok(adjacency)
}

/// The destinations of a whole vector are collected first and looked up together, so that their misses overlap. Whether
/// no packet has an address that means something special.
#[inline(always)]
fn look_up(buffers: &BufferPool, tables: &Tables, vector: &Vector, found: &mut [u32]) -> bool {
    let vrf_of = |packet: &Packet| buffers.meta(packet).vrf;
    let mut ordinary = true;
    // Filled in place: collected, four kilobytes would be moved for a single packet, too.
    let mut keys = ArrayVec::<Ipv6Addr, VECTOR>::new();
    for (at, packet) in vector.iter().enumerate() {
        if let Some(ahead) = vector.get(at + AHEAD) {
            buffers.prefetch(ahead);
        }
        let unknown = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let (source, destination) = addresses(buffers.data(packet)).unwrap_or(unknown);
        ordinary &= is_ordinary(source, destination);
        keys.push(if destination.is_unicast_link_local() {
            scoped(destination, buffers.meta(packet).rx_interface)
        } else {
            destination
        });
    }
    let (mut keys, mut found) = (keys.as_slice(), found);
    // Most vectors are of one VRF.
    for run in vector.chunk_by(|one, next| vrf_of(one) == vrf_of(next)) {
        let Some((addresses, others)) = keys.split_at_checked(run.len()) else {
            break;
        };
        let Some((results, rest)) = found.split_at_mut_checked(run.len()) else {
            break;
        };
        (keys, found) = (others, rest);
        if let Some(vrf) = run
            .first()
            .and_then(|packet| tables.vrfs.get(vrf_of(packet)))
        {
            vrf.fib6.lookup_batch(addresses, results);
        }
    }
    ordinary
}

/// Neither of one link, nor of many, nor of nobody.
#[inline(always)]
const fn is_ordinary(source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    !(source.is_unspecified()
        || source.is_unicast_link_local()
        || destination.is_unicast_link_local()
        || destination.is_multicast())
}

/// Under which address the routes of a link-local address lie.
#[inline]
pub const fn scoped(address: Ipv6Addr, interface: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() | (interface as u128) << 80)
}

#[inline(always)]
fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = packet.first_chunk::<40>()?;
    let source = header.get(8..24)?.first_chunk::<16>()?;
    let destination = header.last_chunk::<16>()?;
    Some((
        Ipv6Addr::from_octets(*source),
        Ipv6Addr::from_octets(*destination),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::buffer::flags;
    use crate::nodes::workbench::{HOST_IP6, LAN, LAN_MAC, WAN, Workbench, packet6};
    use crate::tables::Groups;

    fn put(bench: &mut Workbench, from: &str, to: &str, own: bool) {
        let packet = packet6(from.parse().unwrap(), to.parse().unwrap(), 17, 64, &[0; 8]);
        bench.put(NodeId::Ip6Lookup, LAN, &packet, |meta| {
            meta.flags |= if own { flags::INJECTED } else { 0 };
        });
    }

    #[test]
    fn groups_are_the_boxs_where_linux_has_joined_them() {
        let mut bench = Workbench::only(Box::new(Ip6Lookup));
        let group = |text: &str| text.parse().unwrap();
        bench.tables.groups = Groups::new([(LAN, group("ff05::7")), (WAN, group("ff05::8"))]);
        for (to, local, dropped) in [
            ("ff02::5", 1, 0),
            ("ff05::7", 2, 0),
            ("ff05::8", 2, 1),
            ("ff0e::7", 2, 2),
        ] {
            put(&mut bench, "2001:db8:1::2", to, false);
            bench.run();
            let arrived = bench.arrived();
            assert!(arrived.iter().all(|one| one.node == NodeId::Ip6Local));
            assert_eq!(arrived.len(), local, "{to}");
            assert_eq!(bench.drops(DropReason::IpBadDestination), dropped, "{to}");
        }
        bench.finish();
    }

    #[test]
    fn the_index_of_the_link_lies_where_a_link_local_address_is_zero() {
        assert_eq!(
            scoped("fe80::1".parse().unwrap(), 0x12),
            "fe80:0:12::1".parse::<Ipv6Addr>().unwrap()
        );
        assert_eq!(
            scoped("fe80::1".parse().unwrap(), 0x1_0002),
            "fe80:1:2::1".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn each_kind_of_adjacency_has_its_node() {
        let mut bench = Workbench::only(Box::new(Ip6Lookup));
        let host = HOST_IP6.to_string();
        let own = LAN_MAC.link_local().to_string();
        for (to, from_us, node, interface) in [
            ("2001:db8:1::1", false, NodeId::Ip6Local, 0),
            ("ff02::1", false, NodeId::Ip6Local, 0),
            (own.as_str(), false, NodeId::Ip6Local, 0),
            ("fe80::7", true, NodeId::NeighbourResolve, LAN),
            ("2001:db8:1::77", false, NodeId::NeighbourResolve, LAN),
            ("2001:db8:2::1", false, NodeId::TunnelOutput, 3),
            ("2001:db8:ffff::1", false, NodeId::Ip6Rewrite, WAN),
            ("2001:db8:3::1", false, NodeId::IcmpError, 0),
        ] {
            let before = bench.arrived().len();
            put(&mut bench, &host, to, from_us);
            bench.run();
            let arrived = bench.arrived();
            assert_eq!(arrived.len(), before + 1, "{to}");
            let last = arrived.last().unwrap();
            assert_eq!(
                (last.node, last.meta.tx_interface),
                (node, interface),
                "{to}"
            );
        }
        bench.finish();
    }

    #[test]
    fn nothing_of_a_link_leaves_it() {
        let mut bench = Workbench::only(Box::new(Ip6Lookup));
        put(&mut bench, "2001:db8:1::2", "fe80::7", false);
        put(&mut bench, "2001:db8:1::2", "ff05::2", false);
        put(&mut bench, "2001:db8:1::2", "ff0e::2", false);
        put(&mut bench, "fe80::7", "2001:db8:ffff::1", false);
        put(&mut bench, "::", "2001:db8:ffff::1", false);
        bench.run();
        assert_eq!(bench.drops(DropReason::IpBadDestination), 3);
        assert_eq!(bench.drops(DropReason::IpBadSource), 2);
        assert!(bench.arrived().is_empty());
        bench.finish();
    }
}
