//! Finds the ports of fragments, where policies or selectors look at ports (RFC 4301 section 7): virtual reassembly.
//!
//! ```text
//!   policy-input, policy-output, tunnel-output -> fragment-ports -> back to who asked, with the ports beside the packet
//!   esp-decrypt, of an SA about ports          -> fragment-ports -> ip4-input, ip6-input: if the SA carries it
//! ```
//!
//! The first fragment of a packet shows its ports, and they are kept for the others: by addresses, protocol and
//! identification, and by where the packet came from, so that nobody lends ports to another's fragments. What comes
//! before the first waits for it, as in the reassembly of packets for the box, of which the limits are (of fragments
//! that wait a part: most come in order). Nothing is put together.
//!
//! A first fragment that is too short to show its ports is dropped, and one that begins a packet anew with other ports
//! takes the whole packet with it (RFC 1858, RFC 3128, RFC 7112): no fragment ever goes as what it does not belong to.
//!
//! Whoever sends one packet here sends all later packets of its vector here, too (`pass`): the order within a flow is
//! kept.

use std::net::IpAddr;

use culvert_net::fragment::Place;
use culvert_net::{Flow, FlowError, Ipv4View, Ipv6View, Protocol};

use crate::buffer::{BufferPool, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::reassembly::{Gone, Intent, Key, Limits, Outcome, Table, Transport, Why};
use crate::sa::Sa;
use crate::tables::Tables;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::FragmentPorts,
    next: &[
        NodeId::Ip4Input,
        NodeId::Ip6Input,
        NodeId::PolicyInput,
        NodeId::PolicyOutput,
        NodeId::TunnelOutput,
    ],
};

/// Of the fragments that may wait for the box's own packets, one in so many may wait here as well.
const SHARE: u32 = 4;
/// In [`Metadata::scratch`], beside the node that goes on: no ports are asked for.
const PASS: u64 = 1 << 8;
/// There, too: the SA whose SPI is in [`Metadata::sa`] has to carry the packet.
const CHECK: u64 = 1 << 9;

/// Asks for the ports of a fragment, and says who takes it then.
#[inline]
pub(super) fn ask(meta: &mut Metadata, next: NodeId) {
    meta.scratch = next as u64;
}

/// The same of one that has come by an SA, whose selectors have to be looked at then.
#[inline]
pub(super) fn ask_for_sa(meta: &mut Metadata, sa: &Sa, next: NodeId) {
    meta.sa = sa.spi.get();
    meta.scratch = next as u64 | CHECK;
}

/// Says that nothing is to be found out, only that the packet is not to overtake those before it.
#[inline]
pub(super) fn pass(meta: &mut Metadata, next: NodeId) {
    meta.scratch = next as u64 | PASS;
}

/// The packet is a fragment, and its ports have not been asked for.
#[inline(always)]
pub(super) fn are_unknown(meta: &Metadata, data: &[u8]) -> bool {
    meta.flags & flags::PORTS_KNOWN == 0 && is_fragment(data)
}

/// Part of a packet, the first one too; an IPv6 packet that is whole behind a fragment header is none (RFC 6946).
#[inline(always)]
pub(super) fn is_fragment(data: &[u8]) -> bool {
    match data {
        [first, ..] if first >> 4 == 6 => is_fragment6(data),
        [_, _, _, _, _, _, high, low, ..] => (high & 0x3f) | low != 0,
        _ => false,
    }
}

fn is_fragment6(data: &[u8]) -> bool {
    let next = data.get(6).map(|next| Protocol(*next));
    if next.is_none_or(|next| Flow::has_ports(next) || next == Protocol::ESP) {
        return false;
    }
    Ipv6View::parse(data)
        .ok()
        .and_then(|view| view.upper_layer().ok()?.fragment)
        .is_some_and(|fragment| fragment.more || fragment.offset != 0)
}

/// What policies look at, with the ports that were found out.
#[inline(always)]
pub(super) fn flow(meta: &Metadata, data: &[u8]) -> Result<Flow, FlowError> {
    let mut flow = Flow::of(data)?;
    if meta.flags & flags::PORTS_KNOWN != 0 {
        flow.protocol = Protocol(meta.fragment_protocol);
        let ports = meta.fragment_ports;
        flow.ports = Flow::has_ports(flow.protocol).then_some(((ports >> 16) as u16, ports as u16));
    }
    Ok(flow)
}

/// See the module.
#[derive(Default)]
pub struct FragmentPorts {
    /// There only while something looks at ports.
    table: Option<Table<Packet>>,
    generation: u64,
}

impl Node for FragmentPorts {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            let meta = context.buffers.meta(&packet);
            if meta.scratch & PASS != 0 {
                let next = asker(meta);
                context.send(next, packet);
            } else {
                self.take(context, packet);
            }
        }
        self.show(context);
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let tables = context.tables;
        if tables.generation != self.generation {
            self.generation = tables.generation;
            let wanted = tables.sas.looks_at_ports || tables.policy_based.is_some();
            let wanted = wanted.then_some(Limits {
                fragments: (tables.reassembly.fragments / SHARE).max(1),
                ..tables.reassembly
            });
            if wanted != self.table.as_ref().map(Table::limits) {
                if let Some(table) = &mut self.table {
                    table.clear(|packet| context.drop(packet, DropReason::ReassemblyCrowded));
                }
                self.table = wanted.map(Table::new);
            }
        }
        if let Some(table) = &mut self.table {
            // The first fragment is not here, so nobody is told (RFC 792).
            table.expire(context.now, |piece| {
                context.drop(piece.packet, DropReason::ReassemblyTimedOut);
            });
        }
        self.show(context);
    }

    fn next_tick(&self) -> Option<u64> {
        self.table.as_ref().and_then(Table::next_search)
    }

    fn held(&self) -> usize {
        self.table.as_ref().map_or(0, Table::waiting)
    }

    fn release(&mut self, buffers: &mut BufferPool) {
        if let Some(table) = &mut self.table {
            table.clear(|packet| buffers.free(packet));
        }
    }
}

impl FragmentPorts {
    fn take(&mut self, context: &mut Context<'_>, packet: Packet) {
        let (meta, data) = (context.buffers.meta(&packet), context.buffers.data(&packet));
        let Some((key, place, intent)) = read(context.tables, meta, data) else {
            return context.drop(packet, DropReason::ReassemblyMalformed);
        };
        // Before its ports are kept for others: it may not be the peer's to send.
        if intent != Intent::Unknown
            && let Err(reason) = admit(context.tables, meta, data)
        {
            return context.drop(packet, reason);
        }
        let scarce = context.buffers.is_large(&packet) && context.buffers.large_are_scarce();
        let Some(table) = self.table.as_mut().filter(|_| !scarce) else {
            return context.drop(packet, DropReason::ReassemblyCrowded);
        };
        let mut gone = Gone::new();
        match table.insert(key, place, intent, packet, context.now, &mut gone) {
            Outcome::Waits => {}
            Outcome::Refused(packet, why) => go_on(context, packet, why),
            // Nothing is collected here.
            Outcome::Whole(pieces) => {
                for piece in pieces {
                    context.drop(piece.packet, DropReason::ReassemblyMalformed);
                }
            }
        }
        for (packet, why) in gone {
            go_on(context, packet, why);
        }
    }

    fn show(&self, context: &Context<'_>) {
        let (packets, fragments) = self
            .table
            .as_ref()
            .map_or((0, 0), |table| (table.packets(), table.waiting()));
        context.counters.ports_packets.set(packets as u64);
        context.counters.ports_fragments.set(fragments as u64);
    }
}

/// Whose ports are known goes on, the others are dropped.
fn go_on(context: &mut Context<'_>, mut packet: Packet, why: Why) {
    let reason = match why {
        Why::Passed(transport) => {
            let meta = context.buffers.meta_mut(&mut packet);
            meta.fragment_protocol = transport.protocol.0;
            meta.fragment_ports = transport.ports;
            meta.flags |= flags::PORTS_KNOWN;
            let (meta, data) = (context.buffers.meta(&packet), context.buffers.data(&packet));
            let next = asker(meta);
            match admit(context.tables, meta, data) {
                Ok(()) => return context.send(next, packet),
                Err(reason) => reason,
            }
        }
        Why::Overlap => DropReason::ReassemblyOverlap,
        Why::Duplicate => DropReason::ReassemblyDuplicate,
        Why::TooLarge | Why::TooMany => DropReason::ReassemblyTooLarge,
        Why::Crowded => DropReason::ReassemblyCrowded,
        Why::TimedOut => DropReason::ReassemblyTimedOut,
    };
    context.drop(packet, reason);
}

fn asker(meta: &Metadata) -> NodeId {
    let number = meta.scratch & 0xff;
    let next = SPEC.next.iter().find(|next| **next as u64 == number);
    next.copied().unwrap_or(NodeId::PolicyOutput)
}

/// Whether the SA that the packet came by carries it, if that is to be asked. The SA is found by its SPI: its place in
/// the table may be another's by now.
fn admit(tables: &Tables, meta: &Metadata, data: &[u8]) -> Result<(), DropReason> {
    if meta.scratch & CHECK == 0 {
        return Ok(());
    }
    let sa = inbound(tables, meta.sa).ok_or(DropReason::EspSaGone)?;
    let v6 = data.first().is_some_and(|byte| byte >> 4 == 6);
    if sa.carries(v6, || flow(meta, data).ok()) {
        Ok(())
    } else {
        Err(DropReason::EspSelectorMismatch)
    }
}

fn inbound(tables: &Tables, spi: u32) -> Option<&Sa> {
    let index = *tables.sas.inbound.get(spi)?;
    tables.sas.sas.get(index).map(AsRef::as_ref)
}

/// Whose fragment it is, where it belongs, and what it tells of its packet's ports.
fn read(tables: &Tables, meta: &Metadata, data: &[u8]) -> Option<(Key, Place, Intent)> {
    let v6 = data.first().is_some_and(|byte| byte >> 4 == 6);
    let (place, source, destination): (_, IpAddr, IpAddr) = if v6 {
        let view = Ipv6View::parse(data).ok()?;
        let place = Place::of_ipv6(data).ok()?;
        (place, view.source().into(), view.destination().into())
    } else {
        let view = Ipv4View::parse(data).ok()?;
        let place = Place::of_ipv4(data).ok()?;
        (place, view.source().into(), view.destination().into())
    };
    let intent = if place.offset > 0 {
        Intent::Unknown
    } else {
        let flow = Flow::of(data).ok()?;
        let ports = match flow.ports {
            Some((from, to)) => u32::from(from) << 16 | u32::from(to),
            None if Flow::has_ports(flow.protocol) => return None,
            None => 0,
        };
        Intent::Pass(Transport {
            protocol: flow.protocol,
            ports,
        })
    };
    let key = Key {
        vrf: meta.vrf,
        origin: origin(tables, meta),
        source,
        destination,
        protocol: if v6 { 0 } else { place.protocol.0 },
        identification: place.identification,
    };
    Some((key, place, intent))
}

/// By which interface a packet came, whether protected, and of which `CHILD_SA` it has to be: old and new SA of a rekey
/// have its number in common.
fn origin(tables: &Tables, meta: &Metadata) -> u64 {
    let decrypted = u64::from(meta.flags & flags::DECRYPTED != 0);
    let child = if meta.scratch & CHECK == 0 {
        0
    } else {
        let reqid = inbound(tables, meta.sa).map_or(0, |sa| sa.spec.reqid);
        if reqid == 0 { meta.sa } else { reqid }
    };
    u64::from(child) << 32 | u64::from(meta.rx_interface) << 1 | decrypted
}
