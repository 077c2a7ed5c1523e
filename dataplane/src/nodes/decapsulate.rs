//! GRE and IPIP for the box (RFC 2784, RFC 2003, RFC 2473): which tunnel it is of, and what is inside.
//!
//! ```text
//!   ip4-local, ip6-local -> decapsulate -> ip4-input, ip6-input   (as if received by the tunnel interface)
//! ```
//!
//! The tunnel is found by both outer addresses, the VRF and the GRE key: what another sends is nobody's. To a protected
//! tunnel only what its own SAs have brought in is let through. Congestion marks of the outer header go over to the
//! inner one (RFC 6040 section 4.2).

use std::net::IpAddr;

use culvert_net::{EtherType, GreError, GreHeader, Protocol};

use super::together::forward_or_drop;
use crate::buffer::{BufferPool, Packet, flags};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Ends, Mode};
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::mss_clamp;
use crate::tables::{InterfaceKind, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Decapsulate,
    next: &[NodeId::Ip4Input, NodeId::Ip6Input],
};

/// See the module.
#[derive(Default)]
pub struct Decapsulate;

impl Node for Decapsulate {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut last = None;
        forward_or_drop(context, vector, |context, packet| {
            take_out(context.buffers, context.counters, tables, packet, &mut last)
        });
    }
}

/// An outer header, as far as it matters here.
struct Outer {
    ends: Ends,
    class: u8,
    /// Bytes before the inner packet.
    length: usize,
    inner_v6: bool,
}

fn take_out(
    buffers: &BufferPool,
    counters: &WorkerCounters,
    tables: &Tables,
    packet: &mut Packet,
    last: &mut Option<(Ends, u32)>,
) -> Result<NodeId, DropReason> {
    let (meta, data) = buffers.parts_mut(packet);
    let transport = usize::from(meta.l4_offset)
        .checked_sub(meta.offset())
        .ok_or(DropReason::TunnelMalformed)?;
    let outer = read(data, transport, meta.vrf)?;
    let index = match last {
        Some((ends, index)) if *ends == outer.ends => *index,
        _ => {
            let index = tables
                .encapsulations
                .find(&outer.ends)
                .ok_or(DropReason::TunnelUnknownPeer)?;
            *last = Some((outer.ends, index));
            index
        }
    };
    let interface = tables
        .interfaces
        .get(index)
        .ok_or(DropReason::TunnelUnknownPeer)?;
    let InterfaceKind::Encapsulation {
        protection,
        outer: rules,
        ..
    } = interface.kind
    else {
        return Err(DropReason::TunnelUnknownPeer);
    };
    if !interface.admin_up {
        return Err(DropReason::TunnelDown);
    }
    let protected = protection.is_some();
    // esp-decrypt says by which interface's SA it came.
    let by_own_sa = meta.flags & flags::DECRYPTED != 0 && meta.rx_interface == index;
    if protected && !by_own_sa {
        return Err(DropReason::TunnelUnprotected);
    }
    let inner = data
        .get_mut(outer.length..)
        .ok_or(DropReason::TunnelMalformed)?;
    let v6 = outer.inner_v6;
    if inner
        .first()
        .is_none_or(|byte| byte >> 4 != if v6 { 6 } else { 4 })
    {
        return Err(DropReason::TunnelMalformed);
    }
    if rules.touches(outer.class) {
        rules.carry_inwards(inner, outer.class)?;
    }
    mss_clamp::clamp_lazily(inner, v6, interface.mss_clamp, || {
        let ends = tables.encapsulations.get(index);
        let fitting = ends.map(|ends| ends.inner_mtu(tables, protection, v6));
        fitting.map_or(interface.mtu, |fitting| fitting.min(interface.mtu))
    });
    meta.pull_front(outer.length)
        .map_err(|_| DropReason::TunnelMalformed)?;
    meta.rx_interface = index;
    meta.vrf = interface.vrf;
    meta.l3_offset = meta.offset() as u16;
    let kept = flags::TRACED | if protected { flags::DECRYPTED } else { 0 };
    meta.flags &= kept;
    if !protected {
        let counters = counters.interface(index);
        counters.rx_packets.add(1);
        counters.rx_bytes.add(meta.len() as u64);
    }
    Ok(if v6 {
        NodeId::Ip6Input
    } else {
        NodeId::Ip4Input
    })
}

/// Reads the outer header of a packet whose transport begins at `transport`.
fn read(data: &[u8], transport: usize, underlay_vrf: u32) -> Result<Outer, DropReason> {
    let malformed = DropReason::TunnelMalformed;
    let (source, destination, class, protocol): (IpAddr, IpAddr, u8, Protocol) =
        if data.first().is_some_and(|byte| byte >> 4 == 6) {
            let header = data.first_chunk::<40>().ok_or(malformed)?;
            let [
                ..,
                d0,
                d1,
                d2,
                d3,
                d4,
                d5,
                d6,
                d7,
                d8,
                d9,
                da,
                db,
                dc,
                dd,
                de,
                df,
            ] = *header;
            let destination = [
                d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, da, db, dc, dd, de, df,
            ];
            let source = *data
                .get(8..)
                .and_then(<[u8]>::first_chunk::<16>)
                .ok_or(malformed)?;
            let protocol = if transport == header.len() {
                Protocol(header[6])
            } else {
                culvert_net::HeaderPlace::find(data, |_, offset| offset < transport)
                    .map_err(|_| malformed)?
                    .protocol
            };
            (
                source.into(),
                destination.into(),
                header[0] << 4 | header[1] >> 4,
                protocol,
            )
        } else {
            let header = data.first_chunk::<20>().ok_or(malformed)?;
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            (
                [s0, s1, s2, s3].into(),
                [d0, d1, d2, d3].into(),
                header[1],
                Protocol(header[9]),
            )
        };
    let payload = data.get(transport..).ok_or(malformed)?;
    let (mode, length, inner_v6) = match protocol {
        Protocol::IPV4 => (Mode::IpIp, 0, false),
        Protocol::IPV6 => (Mode::IpIp, 0, true),
        Protocol::GRE => {
            let (gre, length) = GreHeader::parse(payload).map_err(|error| match error {
                GreError::Checksum => DropReason::TunnelBadChecksum,
                GreError::Truncated(_) | GreError::Unknown(_) => malformed,
            })?;
            let inner_v6 = match gre.protocol {
                EtherType::IPV4 => false,
                EtherType::IPV6 => true,
                _ => return Err(DropReason::TunnelUnknownType),
            };
            (Mode::Gre(gre.key), length, inner_v6)
        }
        _ => return Err(malformed),
    };
    Ok(Outer {
        ends: Ends {
            underlay_vrf,
            local: destination,
            remote: source,
            mode,
        },
        class,
        length: transport + length,
        inner_v6,
    })
}
