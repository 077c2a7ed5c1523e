//! Packets that a route sends into a GRE or IPIP tunnel (RFC 2784, RFC 2003, RFC 2473): MTU, hops, MSS, outer header.
//!
//! ```text
//!   ip4-lookup, ip6-lookup, inject -> encapsulate -> ip4-rewrite, ip6-rewrite, ip4-lookup, ip6-lookup   (underlay)
//!                                          |-> tunnel-output  (a protected one: SA, and no way around it)
//!                                          |-> ip-fragment    (too big, and may be cut: comes back in fragments)
//!                                          '-> icmp-error     (too big, TTL)
//! ```
//!
//! What is too big is cut before it is encapsulated: the far end does not put it together. DSCP and ECN go over to the
//! outer header (RFC 6040 section 4.1), and so does DF. A tunnel inside a tunnel inside a tunnel, or one whose own peer
//! is reached by itself, carries nothing.

use std::net::IpAddr;

use culvert_net::{EtherType, GreHeader, Ipv4Header, Ipv4Mut, Ipv6Header, Ipv6Mut};

use super::dispatch::is_own;
use super::tunnel_output::underlay;
use super::way_out::{Refusal, complete};
use super::{icmp_error, ip_fragment, mss_clamp, together};
use crate::buffer::{BufferPool, IcmpCause, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::encapsulation::{Ends, Mode};
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::sa::{IPV6_MINIMUM_MTU, OuterRules};
use crate::tables::{AdjacencyKind, InterfaceKind, PROTECTION, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Encapsulate,
    next: &[
        NodeId::Ip4Rewrite,
        NodeId::Ip6Rewrite,
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::TunnelOutput,
        NodeId::IpFragment,
        NodeId::IcmpError,
    ],
};

/// See the module.
#[derive(Default)]
pub struct Encapsulate {
    /// Of IPv4 packets that may be cut on their way (RFC 6864).
    identification: u16,
}

/// The way of the packets of one tunnel and family.
struct Way {
    interface: u32,
    v6: bool,
    ends: Ends,
    inner_mtu: u16,
    /// Of the path to the far end, as far as it is known to take less than the link.
    path_mtu: u16,
    mss: Option<u16>,
    next: NodeId,
    /// Of the outer packet.
    adjacency: u32,
    protected: bool,
    rules: OuterRules,
}

impl Node for Encapsulate {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut way: Option<Way> = None;
        together::forward(
            context,
            vector,
            |context, packet| {
                let (interface, v6) = {
                    let (meta, data) = context.buffers.parts_mut(packet);
                    (
                        meta.tx_interface,
                        data.first().is_some_and(|byte| byte >> 4 == 6),
                    )
                };
                let way = match &mut way {
                    Some(way) if way.interface == interface && way.v6 == v6 => &*way,
                    last => last.insert(find_way(tables, interface, v6).map_err(Refusal::Drop)?),
                };
                let length = context.buffers.meta(packet).len();
                let mut node = ready(context.buffers, packet, way)?;
                if node != NodeId::IpFragment {
                    self.identification = self.identification.wrapping_add(1);
                    put_header(context.buffers, packet, way, self.identification)
                        .ok_or(Refusal::Drop(DropReason::NoRoom))?;
                    if !way.protected {
                        let counters = context.counters.interface(interface);
                        counters.tx_packets.add(1);
                        counters.tx_bytes.add(length as u64);
                    }
                    if way.path_mtu != u16::MAX && is_cut(context.buffers, packet, way) {
                        node = NodeId::IpFragment;
                    }
                }
                Ok(node)
            },
            |context, packet, refusal| match refusal {
                Refusal::Drop(reason) => context.drop(packet, reason),
                Refusal::Icmp(cause) => icmp_error::refuse(context, packet, cause),
            },
        );
    }
}

/// The way of packets of one family into a tunnel.
fn find_way(tables: &Tables, index: u32, v6: bool) -> Result<Way, DropReason> {
    let down = DropReason::TunnelDown;
    let interface = tables.interfaces.get(index).ok_or(down)?;
    let InterfaceKind::Encapsulation {
        fixed_mtu,
        protection,
        outer,
        ..
    } = interface.kind
    else {
        return Err(down);
    };
    if !interface.admin_up {
        return Err(down);
    }
    if !tables.forwarding {
        return Err(DropReason::ForwardingDisabled);
    }
    let ends = *tables.encapsulations.get(index).ok_or(down)?;
    let spread = || ends.spread(v6);
    let (underlay, _) = underlay(tables, ends.underlay_vrf, ends.remote, spread);
    let adjacency = tables.adjacencies.get(underlay);
    if adjacency.is_some_and(|adjacency| adjacency.interface == index) {
        return Err(DropReason::TunnelRecursion);
    }
    let outer_v6 = ends.remote.is_ipv6();
    // Policies are asked behind a lookup.
    let rewrite = tables.policy_based.is_none()
        && matches!(
            adjacency.map(|adjacency| &adjacency.kind),
            Some(AdjacencyKind::Rewrite(_))
        );
    let (next, adjacency) = match (protection, rewrite, outer_v6) {
        (Some(_), ..) => (NodeId::TunnelOutput, PROTECTION | index),
        (None, true, false) => (NodeId::Ip4Rewrite, underlay),
        (None, true, true) => (NodeId::Ip6Rewrite, underlay),
        (None, false, false) => (NodeId::Ip4Lookup, underlay),
        (None, false, true) => (NodeId::Ip6Lookup, underlay),
    };
    let fitting = ends.inner_mtu(tables, protection, v6);
    let mut inner_mtu = fixed_mtu.map_or(fitting, |fixed| fixed.min(fitting));
    if v6 {
        // Where so much does not fit, the outer packet is cut (RFC 2473 section 7.1).
        inner_mtu = inner_mtu.max(IPV6_MINIMUM_MTU);
    }
    let path_mtu = tables.path_mtus.get(ends.underlay_vrf, ends.remote);
    Ok(Way {
        interface: index,
        v6,
        ends,
        inner_mtu,
        // ESP sees to it by itself.
        path_mtu: path_mtu
            .filter(|_| protection.is_none())
            .unwrap_or(u16::MAX),
        mss: interface.mss_clamp.most(|| inner_mtu.min(fitting), v6),
        next,
        adjacency,
        protected: protection.is_some(),
        rules: outer,
    })
}

/// Whether the packet may go in, and what is changed in its own headers when it does.
fn ready(buffers: &BufferPool, packet: &mut Packet, way: &Way) -> Result<NodeId, Refusal> {
    let (meta, data) = buffers.parts_mut(packet);
    let v6 = way.v6;
    if meta.flags & flags::NESTED != 0 {
        return Err(Refusal::Drop(DropReason::TunnelRecursion));
    }
    complete(meta, data)?;
    let hops = data.get(if v6 { 7 } else { 8 }).copied().unwrap_or(0);
    let forwarded = !is_own(meta.flags);
    if forwarded && hops <= 1 {
        return Err(Refusal::Icmp(IcmpCause::time_exceeded(v6)));
    }
    if meta.len() > usize::from(way.inner_mtu) {
        if v6 || data.get(6).is_none_or(|flags| flags & 0x40 != 0) {
            return Err(Refusal::Icmp(IcmpCause::too_big(v6, way.inner_mtu)));
        }
        ip_fragment::ask(meta, way.inner_mtu, NodeId::Encapsulate);
        return Ok(NodeId::IpFragment);
    }
    if forwarded {
        if v6 {
            let header = Ipv6Mut::new(data).map_err(|_| Refusal::Drop(DropReason::Ip6Malformed));
            header?.decrement_hop_limit();
        } else {
            let header = Ipv4Mut::new(data).map_err(|_| Refusal::Drop(DropReason::Ip4Malformed));
            header?.decrement_ttl();
        }
    }
    if let Some(mss) = way.mss {
        mss_clamp::clamp(data, v6, mss);
    }
    Ok(way.next)
}

/// Puts the outer header before a packet. `None` if there is no room.
fn put_header(
    buffers: &BufferPool,
    packet: &mut Packet,
    way: &Way,
    identification: u16,
) -> Option<()> {
    let ends = &way.ends;
    let (meta, data) = buffers.parts_mut(packet);
    let inherited = way
        .rules
        .inherit(data, ends.local.is_ipv6(), identification);
    meta.push_front(ends.overhead()).ok()?;
    let total = u16::try_from(meta.len()).ok()?;
    mark(meta, ends, way.adjacency);
    let data = buffers.data_mut(packet);
    let protocol = ends.mode.protocol(way.v6);
    let rest = match (ends.local, ends.remote) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (front, rest) = data.split_first_chunk_mut()?;
            let header = Ipv4Header {
                traffic_class: inherited.traffic_class,
                total_len: total,
                identification,
                flags_fragment: if inherited.dont_fragment {
                    Ipv4Header::DONT_FRAGMENT
                } else {
                    0
                },
                ttl: inherited.hop_limit,
                protocol,
                source,
                destination,
            };
            header.write(front);
            rest
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (front, rest) = data.split_first_chunk_mut()?;
            let header = Ipv6Header {
                traffic_class: inherited.traffic_class,
                flow_label: inherited.flow_label,
                payload_len: total.checked_sub(40)?,
                next_header: protocol,
                hop_limit: inherited.hop_limit,
                source,
                destination,
            };
            header.write(front);
            rest
        }
        _ => return None,
    };
    if let Mode::Gre(key) = ends.mode {
        let protocol = if way.v6 {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        };
        GreHeader { protocol, key }.write(rest)?;
    }
    Some(())
}

/// Whether an outer packet has to be cut for its path: IPv6 inside takes no less than 1,280 bytes, whatever the path does
/// (RFC 2473 section 7.1). IPv4 routers on the way would cut as well; once the path is known they need not.
fn is_cut(buffers: &BufferPool, packet: &mut Packet, way: &Way) -> bool {
    let (meta, data) = buffers.parts_mut(packet);
    let may_be_cut = match data.first_chunk::<40>() {
        Some(header) if header[0] >> 4 == 6 => ip_fragment::may_be_cut6(header),
        _ => data.get(6).is_some_and(|flags| flags & 0x40 == 0),
    };
    let too_big = meta.len() > usize::from(way.path_mtu);
    if too_big && may_be_cut {
        ip_fragment::ask(meta, way.path_mtu, way.next);
    }
    too_big && may_be_cut
}

/// Says of a packet that it is an outer one now.
fn mark(meta: &mut Metadata, ends: &Ends, adjacency: u32) {
    let header = ends.overhead() - ends.mode.len();
    meta.l3_offset = meta.offset() as u16;
    meta.l4_offset = (meta.offset() + header) as u16;
    meta.vrf = ends.underlay_vrf;
    meta.adjacency = adjacency;
    let depth = if meta.flags & flags::ENCAPSULATED == 0 {
        flags::ENCAPSULATED
    } else {
        flags::NESTED
    };
    meta.flags =
        meta.flags & !(flags::DECRYPTED | flags::LINK_MULTICAST | flags::PORTS_KNOWN) | depth;
}
