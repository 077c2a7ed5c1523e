//! Source addresses that nobody behind the interface can have (BCP 38; RFC 3704 sections 2.2 and 2.4).
//!
//! ```text
//!   ip4-input, ip6-input -> reverse-path -> ip4-lookup, ip6-lookup      a route leads back to the source
//!                                     '--> dropped                      none does, or not by the same interface
//! ```
//!
//! Packets pass by this node only while some interface checks. As in Linux and VPP a default route is a route: `loose`
//! behind one keeps out what is routed to a blackhole (RFC 5635) and the box's own addresses, nothing else. Spread over
//! several next hops, a route leads back by each of them. What comes from no address yet (`0.0.0.0`, `::`) or from the
//! link itself (`fe80::/10`) cannot be looked up and is never forwarded; it passes. So does what is to everybody on the
//! link (`255.255.255.255`): a DHCP server answers a box that has no route to it yet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::together::forward_or_drop;
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::tables::{AdjacencyKind, Interface, ReversePath, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::ReversePath,
    next: &[NodeId::Ip4Lookup, NodeId::Ip6Lookup],
};

/// Adjacencies that are looked at for one source: next hops of a spread route, and where routes lead on.
const MOST_LOOKS: u32 = 256;

/// See the module.
pub struct ReversePathCheck;

impl Node for ReversePathCheck {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut known: Option<&Interface> = None;
        forward_or_drop(context, vector, |context, packet| {
            let meta = context.buffers.meta(packet);
            let (index, vrf) = (meta.rx_interface, meta.vrf);
            let source = source(context.buffers.data(packet)).ok_or(DropReason::Ip4Malformed)?;
            if known.is_none_or(|interface| interface.index != index) {
                known = tables.interfaces.get(index).map(AsRef::as_ref);
            }
            let interface = known.ok_or(DropReason::InterfaceDown)?;
            if !passes(tables, interface, vrf, source)
                && !is_to_everybody(context.buffers.data(packet))
            {
                return Err(DropReason::ReversePath);
            }
            Ok(if source.is_ipv4() {
                NodeId::Ip4Lookup
            } else {
                NodeId::Ip6Lookup
            })
        });
    }
}

/// The source address of a packet whose header has been checked.
#[inline(always)]
fn source(packet: &[u8]) -> Option<IpAddr> {
    if packet.first()? >> 4 == 4 {
        Some(Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?).into())
    } else {
        Some(Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?).into())
    }
}

/// The limited broadcast of IPv4, which nobody forwards.
#[cold]
fn is_to_everybody(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
        && packet.get(16..20).is_some_and(|to| to == [0xff; 4])
}

#[inline(always)]
fn passes(tables: &Tables, interface: &Interface, vrf: u32, source: IpAddr) -> bool {
    if interface.reverse_path == ReversePath::Off {
        return true;
    }
    let of_the_link = match source {
        IpAddr::V4(source) => source.is_unspecified(),
        IpAddr::V6(source) => source.is_unspecified() || source.is_unicast_link_local(),
    };
    let mut looks = MOST_LOOKS;
    of_the_link
        || leads_back(
            tables,
            interface,
            source,
            tables.lookup(vrf, source),
            &mut looks,
        )
}

/// Packets of this adjacency leave, and where that is asked for by this interface.
fn leads_back(
    tables: &Tables,
    interface: &Interface,
    source: IpAddr,
    adjacency: u32,
    looks: &mut u32,
) -> bool {
    let Some(left) = looks.checked_sub(1) else {
        return false;
    };
    *looks = left;
    let mut onward = |adjacency| leads_back(tables, interface, source, adjacency, looks);
    let Some(adjacency) = tables.adjacencies.get(adjacency) else {
        return false;
    };
    match &adjacency.kind {
        AdjacencyKind::Drop(_) | AdjacencyKind::Local => false,
        AdjacencyKind::Multipath(members) => members.iter().copied().any(onward),
        AdjacencyKind::Lookup(vrf) => onward(tables.lookup(*vrf, source)),
        _ => interface.reverse_path == ReversePath::Loose || adjacency.interface == interface.index,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::*;
    use crate::fib::Fib4Writer;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, LAN, LAN_IP, TO_HOST, TO_ROUTER, TUNNEL, WAN, WAN_IP,
        Workbench, packet4, packet6,
    };
    use crate::tables::{Adjacency, VRF_DEFAULT, Vrf};

    const SPREAD: u32 = 20;

    fn bench() -> Workbench {
        let mut bench = Workbench::only(Box::new(ReversePathCheck));
        bench.set_adjacency(
            SPREAD,
            Adjacency {
                kind: AdjacencyKind::Multipath([TO_HOST, TO_ROUTER].into()),
                interface: 0,
                mtu: 1500,
            },
        );
        let spread = "192.0.2.0/24".parse().unwrap();
        bench.fib4.insert(spread, SPREAD).unwrap();
        bench
    }

    /// What of this passes when it comes in by this interface.
    fn passes(mode: ReversePath, interface: u32, source: IpAddr) -> bool {
        let mut bench = bench();
        bench.change_interface(interface, |interface| interface.reverse_path = mode);
        let packet = match source {
            IpAddr::V4(source) => packet4(source, FAR_IP, 17, b"12345678"),
            IpAddr::V6(source) => packet6(source, FAR_IP6, 17, 64, b"12345678"),
        };
        bench.put(NodeId::ReversePath, interface, &packet, |_| {});
        bench.run();
        let arrived = bench.arrived();
        let passed = !arrived.is_empty();
        if passed {
            let node = if source.is_ipv4() {
                NodeId::Ip4Lookup
            } else {
                NodeId::Ip6Lookup
            };
            assert_eq!((arrived[0].node, &arrived[0].bytes), (node, &packet));
        }
        assert_eq!(bench.drops(DropReason::ReversePath), u64::from(!passed));
        bench.finish();
        passed
    }

    #[test]
    fn each_mode_keeps_out_what_it_should() {
        // Source, where it comes in, whether loose and strict let it in.
        for (source, interface, loose, strict) in [
            ("10.1.0.2", LAN, true, true),
            ("10.1.0.2", WAN, true, false),
            ("10.1.0.77", LAN, true, true),
            ("198.51.100.9", WAN, true, true),
            ("198.51.100.9", LAN, true, false),
            ("10.2.3.4", TUNNEL, true, true),
            ("10.2.3.4", WAN, true, false),
            ("10.1.0.2", TUNNEL, true, false),
            // Spread over both.
            ("192.0.2.1", LAN, true, true),
            ("192.0.2.1", WAN, true, true),
            ("192.0.2.1", TUNNEL, true, false),
            // Nowhere, a blackhole, the box itself.
            ("100.64.0.1", WAN, false, false),
            ("10.66.0.1", WAN, false, false),
            ("203.0.113.1", WAN, false, false),
            ("10.1.0.255", LAN, false, false),
            ("2001:db8:1::2", LAN, true, true),
            ("2001:db8:1::2", WAN, true, false),
            ("2001:db8:ffff::9", WAN, true, true),
            ("2001:db8:2::9", TUNNEL, true, true),
            ("2001:db8:9999::9", WAN, false, false),
            ("2001:db8:1::1", LAN, false, false),
            // No address yet, and of the link.
            ("0.0.0.0", LAN, true, true),
            ("::", LAN, true, true),
            ("fe80::1234", WAN, true, true),
        ] {
            let source: IpAddr = source.parse().unwrap();
            for (mode, expected) in [
                (ReversePath::Off, true),
                (ReversePath::Loose, loose),
                (ReversePath::Strict, strict),
            ] {
                let passed = passes(mode, interface, source);
                assert_eq!(passed, expected, "{source} by {interface}, {mode:?}");
            }
        }
    }

    #[test]
    fn a_default_route_is_a_route_back() {
        let mut bench = bench();
        bench
            .fib4
            .insert("0.0.0.0/0".parse().unwrap(), TO_ROUTER)
            .unwrap();
        for (interface, mode) in [
            (LAN, ReversePath::Loose),
            (WAN, ReversePath::Strict),
            (LAN, ReversePath::Strict),
        ] {
            bench.change_interface(interface, |interface| interface.reverse_path = mode);
            let packet = packet4([100, 64, 0, 1].into(), FAR_IP, 17, b"12345678");
            bench.put(NodeId::ReversePath, interface, &packet, |_| {});
            bench.run();
        }
        assert_eq!(bench.arrived().len(), 2);
        assert_eq!(bench.drops(DropReason::ReversePath), 1);
        bench.finish();
    }

    #[test]
    fn what_is_to_everybody_on_the_link_comes_from_anywhere() {
        let mut bench = bench();
        for mode in [ReversePath::Loose, ReversePath::Strict] {
            bench.change_interface(WAN, |interface| interface.reverse_path = mode);
            for last in [254, 255] {
                let to = [255, 255, 255, last].into();
                let packet = packet4([100, 64, 0, 1].into(), to, 17, b"12345678");
                bench.put(NodeId::ReversePath, WAN, &packet, |_| {});
            }
            bench.run();
        }
        let arrived = bench.arrived();
        assert_eq!(arrived.len(), 2);
        assert!(arrived.iter().all(|one| one.bytes[16..20] == [255; 4]));
        assert_eq!(bench.drops(DropReason::ReversePath), 2);
        bench.finish();
    }

    #[test]
    fn routes_into_other_tables_are_followed_and_circles_end() {
        const INTO_OTHER: u32 = 21;
        const BACK: u32 = 22;
        let mut bench = bench();
        let mut other = Fib4Writer::default();
        let vrf = Vrf {
            name: "other".into(),
            fib4: Arc::clone(other.fib()),
            fib6: Arc::default(),
        };
        bench.tables.vrfs.set(7, Some(Arc::new(vrf)));
        for (index, vrf) in [(INTO_OTHER, 7), (BACK, VRF_DEFAULT)] {
            bench.set_adjacency(
                index,
                Adjacency {
                    kind: AdjacencyKind::Lookup(vrf),
                    interface: 0,
                    mtu: 1500,
                },
            );
        }
        for (prefix, inside) in [("100.64.0.0/16", TO_ROUTER), ("100.65.0.0/16", BACK)] {
            let prefix = prefix.parse().unwrap();
            bench.fib4.insert(prefix, INTO_OTHER).unwrap();
            other.insert(prefix, inside).unwrap();
        }
        for interface in [LAN, WAN] {
            bench.change_interface(interface, |one| one.reverse_path = ReversePath::Strict);
            for network in [64, 65] {
                let source = [100, network, 0, 1].into();
                let packet = packet4(source, FAR_IP, 17, b"12345678");
                bench.put(NodeId::ReversePath, interface, &packet, |_| {});
            }
            bench.run();
        }
        let arrived = bench.arrived();
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].meta.rx_interface, WAN);
        assert_eq!(arrived[0].bytes[12..16], [100, 64, 0, 1]);
        assert_eq!(bench.drops(DropReason::ReversePath), 3);
        bench.finish();
    }

    #[test]
    fn the_graph_passes_by_the_node_only_while_an_interface_checks() {
        for (checks, expected) in [(false, 1), (true, 0)] {
            let mut bench = Workbench::layer3();
            bench.tables.reverse_path = checks;
            bench.change_interface(WAN, |wan| wan.reverse_path = ReversePath::Strict);
            let forged = packet4(HOST_IP, LAN_IP, 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
            let honest = packet4(FAR_IP, WAN_IP, 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
            let forged6 = packet6(HOST_IP6, FAR_IP6, 17, 64, b"12345678");
            for packet in [&forged, &honest] {
                bench.put(NodeId::Ip4Input, WAN, packet, |_| {});
            }
            bench.put(NodeId::Ip6Input, WAN, &forged6, |_| {});
            bench.run();
            let punted = bench.arrived();
            assert_eq!(punted.len(), 1 + expected);
            assert_eq!(punted[expected].bytes, honest);
            assert_eq!(bench.drops(DropReason::ReversePath), 2 * u64::from(checks));
            bench.finish();
        }
    }
}
