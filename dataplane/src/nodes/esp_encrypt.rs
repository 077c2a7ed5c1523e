//! ESP out (RFC 4303 section 3.3): trailer, outer header, sequence number, encryption. For transport mode, see
//! `esp_transport`.
//!
//! ```text
//!   | outer IP | UDP? | SPI seq | IV | inner packet | padding, length, next header | ICV |
//!   ^ template of the SA  ^ engine     ^ came in here ^ written here                 ^ engine
//! ```
//!
//! Sequence numbers are reserved for a whole run of packets of one SA with one atomic addition; the engine gets all
//! packets of a vector in one batch.

use arrayvec::ArrayVec;
use culvert_crypto::{Framing, SealOp};
use culvert_net::{Protocol, esp};

use crate::buffer::{BufferPool, Packet, flags};
use crate::counters::WorkerCounters;
use crate::driver::ORDINARY_MTU;
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};
use crate::nodes::{esp_transport, ip_fragment};
use crate::prefetch;
use crate::sa::{LimitKind, OuterRules, Sa};
use crate::tables::{AdjacencyKind, Fragmentation, InterfaceKind, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::EspEncrypt,
    next: &[
        NodeId::Ip4Rewrite,
        NodeId::Ip6Rewrite,
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::IpFragment,
    ],
};

/// Packets ahead of which the headers are asked for.
const AHEAD: usize = 4;
/// Packets ahead of which their SA is asked for, and what is behind it.
const SA_AHEAD: usize = 12;
const STATE_AHEAD: usize = 6;

/// What is known of a packet and does not hold of its ESP packet.
pub(super) const OF_INNER: u32 = flags::DECRYPTED | flags::CHECKSUM_PARTIAL | flags::PORTS_KNOWN;

/// See the module.
#[derive(Default)]
pub struct EspEncrypt;

/// Packets of one vector that follow each other and have the same SA.
struct Run {
    end: usize,
    next: NodeId,
    /// Bytes of the largest packet that the path to the peer takes, if it is less than the link takes.
    path_mtu: Option<u16>,
}

impl Node for EspEncrypt {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut runs = ArrayVec::<Run, VECTOR>::new();
        let mut refused = ArrayVec::<(usize, DropReason), VECTOR>::new();
        {
            let buffers: &BufferPool = context.buffers;
            let mut ops = ArrayVec::<SealOp<'_>, VECTOR>::new();
            let mut rest = vector.as_mut_slice();
            let mut place = 0;
            let mixed = has_many_sas(buffers, rest);
            while let Some(first) = rest.first() {
                let index = buffers.meta(first).sa;
                if mixed {
                    look_ahead(buffers, tables, context.counters, rest);
                }
                let (mut count, mut bytes) = (0, 0);
                while let Some(packet) = rest.get(count)
                    && buffers.meta(packet).sa == index
                {
                    if let Some(ahead) = rest.get(count + AHEAD) {
                        buffers.prefetch(ahead);
                    }
                    bytes += buffers.meta(packet).len() as u64;
                    count += 1;
                }
                let (run, later) = rest.split_at_mut(count);
                rest = later;
                let mut outcome = Run {
                    end: place + count,
                    next: NodeId::Ip4Lookup,
                    path_mtu: None,
                };
                match tables.sas.sas.get(index) {
                    None => {
                        refused
                            .extend((place..place + count).map(|at| (at, DropReason::EspSaGone)));
                    }
                    Some(sa) => {
                        let lengths = run.iter().map(|packet| buffers.meta(packet).len() as u64);
                        let reservation = sa.state.reserve(count, bytes, lengths, context.now);
                        if let Some(kind) = reservation.report {
                            let hard = kind == LimitKind::Hard;
                            let _ = context.events.try_send(Event::SaLimit {
                                sa: sa.spec.id,
                                hard,
                            });
                        }
                        let (granted, over) = run.split_at_mut(reservation.granted.min(count));
                        let beyond = place + granted.len()..place + granted.len() + over.len();
                        refused.extend(beyond.map(|at| (at, DropReason::EspLimit)));
                        let (next, tunnel) = next_node(buffers, tables, sa, granted.first());
                        outcome.next = next;
                        let counters = context.counters.interface(tunnel);
                        counters.tx_packets.add(granted.len() as u64);
                        counters.tx_bytes.add(reservation.bytes);
                        let mut underlay = Underlay::of(tables, tunnel, sa);
                        outcome.path_mtu = underlay.path_mtu;
                        if sa.tfc_padding != 0 {
                            underlay.pad_to =
                                pad_to(buffers, tables, sa, granted.first(), underlay.path_mtu);
                        }
                        let framing = sa.state.key().suite().framing();
                        let numbered = granted.iter_mut().enumerate();
                        ops.extend(numbered.filter_map(|(offset, packet)| {
                            let seq = reservation.first + offset as u64;
                            let op = prepare(buffers, sa, packet, seq, &underlay, framing);
                            if op.is_none() {
                                refused.push((place + offset, DropReason::NoRoom));
                            }
                            op
                        }));
                    }
                }
                place += count;
                runs.push(outcome);
            }
            context.engine.seal_batch(&mut ops);
            if ops.iter().any(|op| op.result.is_err()) {
                refuse_unsealed(&ops, place, &mut refused);
            }
        }
        refused.sort_unstable_by_key(|(place, _)| *place);
        dispatch(context, vector, &runs, &refused);
    }
}

/// Refuses what the engine did not take. The operations are those of the places that were not refused, in order.
#[cold]
fn refuse_unsealed(
    ops: &[SealOp<'_>],
    places: usize,
    refused: &mut ArrayVec<(usize, DropReason), VECTOR>,
) {
    let mut unsealed = ArrayVec::<usize, VECTOR>::new();
    let prepared = (0..places).filter(|place| refused.iter().all(|(at, _)| at != place));
    unsealed.extend(
        prepared
            .zip(ops)
            .filter_map(|(place, op)| op.result.is_err().then_some(place)),
    );
    refused.extend(
        unsealed
            .into_iter()
            .map(|place| (place, DropReason::NoRoom)),
    );
}

/// Whether the packets of a vector seem to be of many SAs.
fn has_many_sas(buffers: &BufferPool, vector: &[Packet]) -> bool {
    let sa = |at: usize| vector.get(at).map(|packet| buffers.meta(packet).sa);
    let last = vector.len().wrapping_sub(1);
    sa(0) != sa(last) || sa(0) != sa(last / 2)
}

/// Asks for what later packets of a vector of many SAs need: one pointer after the other, a few packets apart.
#[inline(always)]
fn look_ahead(buffers: &BufferPool, tables: &Tables, counters: &WorkerCounters, rest: &[Packet]) {
    if let Some(packet) = rest.get(SA_AHEAD) {
        let meta = buffers.meta(packet);
        if let Some(sa) = tables.sas.sas.get(meta.sa) {
            prefetch::whole(&**sa);
        }
        if let Some(interface) = tables.interfaces.get(meta.tx_interface) {
            prefetch::whole(&**interface);
        }
        prefetch::line(counters.interface(meta.tx_interface));
    }
    if let Some(packet) = rest.get(STATE_AHEAD)
        && let Some(sa) = tables.sas.sas.get(buffers.meta(packet).sa)
    {
        sa.state.prefetch();
    }
}

/// Where packets of this SA go, straight to the rewrite of the adjacency that tunnel-output found, and their tunnel.
fn next_node(
    buffers: &BufferPool,
    tables: &Tables,
    sa: &Sa,
    first: Option<&Packet>,
) -> (NodeId, u32) {
    let v6 = sa.outer.is_v6();
    let lookup = if v6 {
        NodeId::Ip6Lookup
    } else {
        NodeId::Ip4Lookup
    };
    let Some(meta) = first.map(|packet| buffers.meta(packet)) else {
        return (lookup, 0);
    };
    let next = match tables
        .adjacencies
        .get(meta.scratch as u32)
        .map(|adjacency| &adjacency.kind)
    {
        Some(AdjacencyKind::Rewrite(_)) if v6 => NodeId::Ip6Rewrite,
        Some(AdjacencyKind::Rewrite(_)) => NodeId::Ip4Rewrite,
        _ => lookup,
    };
    (next, meta.tx_interface)
}

/// What a tunnel says of its ESP packets.
#[derive(Clone, Copy)]
struct Underlay {
    vrf: u32,
    /// They may be cut on their way, whatever the packet inside says.
    may_be_cut: bool,
    /// See [`Run::path_mtu`].
    path_mtu: Option<u16>,
    /// What their outer headers take from the packets inside.
    rules: OuterRules,
    /// Bytes up to which shorter packets are padded.
    pad_to: usize,
}

impl Underlay {
    fn of(tables: &Tables, tunnel: u32, sa: &Sa) -> Self {
        match tables
            .interfaces
            .get(tunnel)
            .map(|interface| interface.kind)
        {
            Some(InterfaceKind::Tunnel {
                underlay_vrf,
                fragmentation,
                learn_path_mtu,
                outer,
                ..
            }) => Self {
                vrf: underlay_vrf,
                may_be_cut: fragmentation == Fragmentation::After,
                path_mtu: tables
                    .path_mtus
                    .get(underlay_vrf, sa.endpoints.destination)
                    .filter(|_| learn_path_mtu),
                rules: outer.unwrap_or(sa.rules),
                pad_to: 0,
            },
            Some(InterfaceKind::Encapsulation { underlay_vrf, .. }) => Self {
                vrf: underlay_vrf,
                may_be_cut: false,
                path_mtu: tables.path_mtus.get(underlay_vrf, sa.endpoints.destination),
                rules: sa.rules,
                pad_to: 0,
            },
            _ => Self {
                vrf: crate::tables::VRF_DEFAULT,
                may_be_cut: false,
                path_mtu: None,
                rules: sa.rules,
                pad_to: 0,
            },
        }
    }
}

/// Bytes up to which packets of this SA are padded: what it asks for, as far as the way to the peer takes it in one
/// piece.
fn pad_to(
    buffers: &BufferPool,
    tables: &Tables,
    sa: &Sa,
    first: Option<&Packet>,
    path_mtu: Option<u16>,
) -> usize {
    let adjacency = first
        .map(|packet| buffers.meta(packet).scratch as u32)
        .and_then(|index| tables.adjacencies.get(index));
    let Some(adjacency) = adjacency else { return 0 };
    let mtu = path_mtu.map_or(adjacency.mtu, |path| path.min(adjacency.mtu));
    // What is in an ordinary buffer stays in it.
    let most = sa.inner_mtu(mtu).min(ORDINARY_MTU);
    (sa.tfc_padding as usize).min(usize::from(most))
}

/// Makes an ESP packet of an inner packet, but for its encryption. `None` if it does not fit its buffer.
#[inline(always)]
fn prepare<'b>(
    buffers: &'b BufferPool,
    sa: &'b Sa,
    packet: &'b mut Packet,
    seq: u64,
    underlay: &Underlay,
    framing: Framing,
) -> Option<SealOp<'b>> {
    if sa.transport {
        return esp_transport::prepare(buffers, sa, packet, seq, underlay.vrf);
    }
    let (meta, area) = buffers.area_mut(packet);
    let (start, inner) = (meta.offset(), meta.len());
    let payload = inner.max(underlay.pad_to);
    let pad = framing.pad_len(payload);
    let sealed = framing.sealed_len(payload);
    let esp = start.checked_sub(framing.header)?;
    let outer = esp.checked_sub(sa.outer.len())?;
    let packet = area.get(start..start + inner)?;
    let next = match packet.first()? >> 4 {
        6 => Protocol::IPV6,
        _ => Protocol::IPV4,
    };
    // Told apart from that of other SAs with the same peer: their packets may be cut at the same time.
    let identification = (seq as u16).wrapping_add(sa.spi.get() as u16);
    let rules = &underlay.rules;
    let mut inherited = rules.inherit(packet, sa.outer.is_v6(), identification);
    inherited.dont_fragment &= !underlay.may_be_cut;
    if payload > inner {
        area.get_mut(start + inner..start + payload)?.fill(0);
    }
    let trailer = start + payload;
    if framing.block == 4 {
        // Its last bytes are of the ICV, which has at least eight and is not there yet.
        *area.get_mut(trailer..)?.first_chunk_mut()? = esp::short_trailer(pad, next);
    } else {
        esp::write_trailer(area.get_mut(trailer..trailer + pad + 2)?, next).ok()?;
    }
    let (before, from_esp) = area.split_at_mut_checked(esp)?;
    sa.outer.write(before.get_mut(outer..)?, sealed, inherited);
    let packet = from_esp.get_mut(..sealed)?;
    *packet.first_chunk_mut::<4>()? = sa.spi.get().to_be_bytes();
    meta.set_view(outer, sa.outer.len() + sealed).ok()?;
    meta.l3_offset = outer as u16;
    meta.l4_offset = (outer + sa.outer.len()) as u16;
    meta.flags = meta.flags & !OF_INNER | flags::ENCRYPTED;
    meta.vrf = underlay.vrf;
    meta.adjacency = meta.scratch as u32;
    Some(SealOp::new(sa.state.key(), seq, packet))
}

/// What we have encrypted begins here, so IPv6 may be cut, too (RFC 8200 section 5).
fn may_be_cut(outer: &[u8]) -> bool {
    match outer {
        [first, ..] if first >> 4 == 6 => outer.first_chunk().is_some_and(ip_fragment::may_be_cut6),
        [_, _, _, _, _, _, flags, ..] => flags & 0x40 == 0,
        _ => false,
    }
}

fn dispatch(
    context: &mut Context<'_>,
    vector: &mut Vector,
    runs: &[Run],
    refused: &[(usize, DropReason)],
) {
    if let ([first, rest @ ..], []) = (runs, refused)
        && first.path_mtu.is_none()
        && rest
            .iter()
            .all(|run| run.next == first.next && run.path_mtu.is_none())
    {
        return context.send_all(first.next, vector);
    }
    let mut runs = runs.iter();
    let mut run = runs.next();
    let mut refused = refused.iter().peekable();
    let mut detour = false;
    for (place, mut packet) in vector.drain(..).enumerate() {
        while let Some(ended) = run
            && place >= ended.end
        {
            run = runs.next();
        }
        if let Some((_, reason)) = refused.next_if(|(at, _)| *at == place) {
            context.drop(packet, *reason);
        } else if let Some(run) = run {
            let (meta, data) = context.buffers.parts_mut(&mut packet);
            let next = match run.path_mtu {
                Some(mtu) if data.len() > usize::from(mtu) && may_be_cut(data) => {
                    detour = true;
                    ip_fragment::ask(meta, mtu, run.next);
                    NodeId::IpFragment
                }
                _ if detour => {
                    ip_fragment::pass(meta, run.next);
                    NodeId::IpFragment
                }
                _ => run.next,
            };
            context.send(next, packet);
        } else {
            context.drop(packet, DropReason::EspSaGone);
        }
    }
}
