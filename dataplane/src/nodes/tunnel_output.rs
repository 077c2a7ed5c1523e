//! Packets that a route sends into a tunnel: which SA they get, and whether they fit (RFC 4301 sections 5.1 and 8).
//!
//! ```text
//!   ip4-lookup, ip6-lookup, encapsulate -> tunnel-output -> esp-encrypt
//!                                  |-> ip-fragment  (too big, and may be cut: on to esp-encrypt in fragments)
//!                                  |-> icmp-error   (too big, TTL, nobody to send it to)
//!                                  |-> fragment-ports (a fragment, and policies look at ports: back from there with them)
//!                                  '-> held         (no SA yet: at most 64 a policy, the peer is being asked)
//! ```
//!
//! Nothing leaves here in the clear: what no policy covers is dropped, and so is what waits too long.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

use culvert_net::{Flow, Ipv4Mut, Ipv6Mut};

use crate::buffer::{BufferPool, IcmpCause, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::ways::{Way, Ways};
use crate::nodes::{esp_transport, fragment_ports, ip_fragment, mss_clamp, way_out};
use crate::sa::{Choice, IPV6_MINIMUM_MTU, PolicySet};
use crate::tables::{
    ADJACENCY_NO_ROUTE, Fragmentation, InterfaceKind, MTU_AFTER, PROTECTION, Tables,
};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::TunnelOutput,
    next: &[
        NodeId::EspEncrypt,
        NodeId::IpFragment,
        NodeId::IcmpError,
        NodeId::TunnelOutput,
        NodeId::FragmentPorts,
    ],
};

/// Packets ahead of which the headers are asked for.
const AHEAD: usize = 8;
/// Packets ahead of which is asked for what is remembered of their ways.
const WAY_AHEAD: usize = 4;
/// Packets held for one policy while its SA is negotiated (RFC 4301 leaves it open; a TCP handshake needs one).
const HELD_PER_POLICY: usize = 64;
/// Policies for which packets are held at one time.
const HELD_POLICIES: usize = 256;
/// One acquire a policy in this time.
const ACQUIRE_INTERVAL_NS: u64 = 5_000_000_000;
/// Packets are held for two acquires at most.
const HOLD_NS: u64 = 2 * ACQUIRE_INTERVAL_NS;

/// See the module.
#[derive(Default)]
pub struct TunnelOutput {
    waiting: HashMap<u32, Waiting>,
    generation: u64,
    ways: Ways,
}

struct Waiting {
    /// When the first of the packets came.
    since: u64,
    /// When the peer was last asked for.
    asked_at: u64,
    packets: Vec<Packet>,
}

/// The way of the packet before: most packets of a vector go the same way.
struct Last<'t> {
    adjacency: u32,
    v6: bool,
    way: Way,
    /// Asked for each packet; `None`: all of this family and adjacency go this way.
    policies: Option<&'t PolicySet>,
}

/// What becomes of a packet that does not go on to encryption.
enum Refusal {
    Drop(DropReason),
    Icmp(IcmpCause),
    Acquire(u32, Flow),
    /// Readied for encryption but too long for it.
    Fragment,
    /// A fragment whose ports have to be found first.
    Ports,
}

impl Node for TunnelOutput {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        self.ways.keep_up(tables);
        let mut last = None;
        let mut ready = 0;
        let mut refusal = None;
        for at in 0..vector.len() {
            if let Some(ahead) = vector.get(at + AHEAD) {
                context.buffers.prefetch(ahead);
            }
            if let Some(ahead) = vector.get(at + WAY_AHEAD) {
                self.look_ahead(context.buffers, ahead, last.as_ref());
            }
            let Some(packet) = vector.get_mut(at) else {
                break;
            };
            context.buffers.prefetch_headroom(packet);
            if let Err(why) = prepare(context.buffers, tables, &mut self.ways, packet, &mut last) {
                refusal = Some(why);
                break;
            }
            ready += 1;
        }
        if refusal.is_none() {
            return context.send_all(NodeId::EspEncrypt, vector);
        }
        let mut detour = false;
        let mut behind = false;
        for (at, mut packet) in vector.drain(..).enumerate() {
            if behind {
                ask_or_pass(context, tables, packet);
                continue;
            }
            let refused = match at.cmp(&ready) {
                Ordering::Less => None,
                Ordering::Equal => refusal.take(),
                Ordering::Greater => prepare(
                    context.buffers,
                    tables,
                    &mut self.ways,
                    &mut packet,
                    &mut last,
                )
                .err(),
            };
            match refused {
                None if detour => {
                    ip_fragment::pass(context.buffers.meta_mut(&mut packet), NodeId::EspEncrypt);
                    context.send(NodeId::IpFragment, packet);
                }
                None => context.send(NodeId::EspEncrypt, packet),
                Some(Refusal::Drop(reason)) => context.drop(packet, reason),
                Some(Refusal::Icmp(_)) if protects(context, &packet) => {
                    // Its sender is the box itself.
                    context.drop(packet, DropReason::TunnelNoPolicy);
                }
                Some(Refusal::Icmp(cause)) => {
                    context.buffers.meta_mut(&mut packet).icmp = cause;
                    context.send(NodeId::IcmpError, packet);
                }
                Some(Refusal::Fragment) => {
                    detour = true;
                    context.send(NodeId::IpFragment, packet);
                }
                Some(Refusal::Ports) => {
                    behind = true;
                    ask_or_pass(context, tables, packet);
                }
                Some(Refusal::Acquire(policy, flow)) => self.hold(context, packet, policy, flow),
            }
        }
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        for waiting in self.waiting.values_mut() {
            if now.saturating_sub(waiting.since) >= HOLD_NS {
                for packet in waiting.packets.drain(..) {
                    context.drop(packet, DropReason::TunnelNoSa);
                }
            }
        }
        self.waiting
            .retain(|_, waiting| now.saturating_sub(waiting.since) < HOLD_NS);
        if context.tables.generation != self.generation {
            self.generation = context.tables.generation;
            // Whoever still has no SA comes back and is held again, without a new acquire.
            for waiting in self.waiting.values_mut() {
                for packet in waiting.packets.drain(..) {
                    context.send(NodeId::TunnelOutput, packet);
                }
            }
        }
    }

    fn next_tick(&self) -> Option<u64> {
        self.waiting
            .values()
            .map(|waiting| waiting.since + HOLD_NS)
            .min()
    }

    fn held(&self) -> usize {
        self.waiting
            .values()
            .map(|waiting| waiting.packets.len())
            .sum()
    }

    fn release(&mut self, buffers: &mut BufferPool) {
        for (_, waiting) in self.waiting.drain() {
            buffers.free_all(waiting.packets);
        }
    }
}

/// Sends a packet, as it came, round by the node that finds ports: it has none to find, or is behind one that has.
#[cold]
fn ask_or_pass(context: &mut Context<'_>, tables: &Tables, mut packet: Packet) {
    let (meta, data) = context.buffers.parts_mut(&mut packet);
    let v6 = data.first().is_some_and(|byte| byte >> 4 == 6);
    let policies = if_id(tables, meta).and_then(|if_id| tables.sas.policies.get(if_id));
    if policies.is_some_and(|policies| policies.looks_at_ports(v6))
        && fragment_ports::are_unknown(meta, data)
    {
        fragment_ports::ask(meta, NodeId::TunnelOutput);
    } else {
        fragment_ports::pass(meta, NodeId::TunnelOutput);
    }
    context.send(NodeId::FragmentPorts, packet);
}

/// The number of the policies of a packet's tunnel.
fn if_id(tables: &Tables, meta: &Metadata) -> Option<u32> {
    let protects = meta.adjacency & PROTECTION != 0;
    let index = if protects {
        meta.adjacency & !PROTECTION
    } else {
        tables.adjacencies.get(meta.adjacency)?.interface
    };
    match tables.interfaces.get(index)?.kind {
        InterfaceKind::Tunnel { if_id, .. } => Some(if_id),
        InterfaceKind::Encapsulation { protection, .. } if protects => protection,
        _ => None,
    }
}

/// The packet is the outer one of a tunnel that is protected.
fn protects(context: &Context<'_>, packet: &Packet) -> bool {
    context.buffers.meta(packet).adjacency & PROTECTION != 0
}

impl TunnelOutput {
    /// Asks for what is remembered of the way of a later packet, unless it is that of this one.
    #[inline(always)]
    fn look_ahead(&self, buffers: &BufferPool, packet: &Packet, last: Option<&Last<'_>>) {
        let adjacency = buffers.meta(packet).adjacency;
        if last.is_some_and(|last| last.adjacency != adjacency) {
            self.ways.prefetch(adjacency, is_v6(buffers.data(packet)));
        }
    }

    fn hold(&mut self, context: &mut Context<'_>, packet: Packet, policy: u32, flow: Flow) {
        let full = self.waiting.len() >= HELD_POLICIES;
        let waiting = match self.waiting.entry(policy) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if full => {
                return context.drop(packet, DropReason::TunnelNoSa);
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                // The control thread bounds how often charon hears of it, over all workers.
                let _ = context.events.try_send(Event::Acquire { policy, flow });
                entry.insert(Waiting {
                    since: context.now,
                    asked_at: context.now,
                    packets: Vec::with_capacity(HELD_PER_POLICY),
                })
            }
        };
        if context.now.saturating_sub(waiting.asked_at) >= ACQUIRE_INTERVAL_NS {
            waiting.asked_at = context.now;
            let _ = context.events.try_send(Event::Acquire { policy, flow });
        }
        if waiting.packets.is_empty() {
            waiting.since = context.now;
        }
        if waiting.packets.len() < HELD_PER_POLICY {
            waiting.packets.push(packet);
        } else {
            context.drop(packet, DropReason::TunnelNoSa);
        }
    }
}

fn is_v6(data: &[u8]) -> bool {
    data.first().is_some_and(|byte| byte >> 4 == 6)
}

/// Finds the way of a packet and readies its bytes for encryption.
#[inline(always)]
fn prepare<'t>(
    buffers: &BufferPool,
    tables: &'t Tables,
    ways: &mut Ways,
    packet: &mut Packet,
    last: &mut Option<Last<'t>>,
) -> Result<(), Refusal> {
    let (meta, data) = buffers.parts_mut(packet);
    let v6 = is_v6(data);
    let way = match last {
        Some(last)
            if last.adjacency == meta.adjacency && last.v6 == v6 && last.takes(meta, data) =>
        {
            &last.way
        }
        _ => &last.insert(recall(tables, ways, meta, data, v6)?).way,
    };
    if way.transport {
        let sa = tables.sas.sas.get(way.sa);
        let sa = sa.ok_or(Refusal::Drop(DropReason::EspSaGone))?;
        esp_transport::admit(&sa.endpoints, data).map_err(Refusal::Drop)?;
    }
    let excess = meta.len() > usize::from(way.inner_mtu);
    if excess && (v6 || data.get(6).is_none_or(|flags| flags & 0x40 != 0)) {
        return Err(too_big(v6, way.inner_mtu));
    }
    // Before anything that it covers is changed: until then the field holds a sum that cannot be mended.
    way_out::complete(meta, data).map_err(|_| Refusal::Drop(DropReason::EspBadInner))?;
    if meta.flags & (flags::INJECTED | flags::ORIGINATED | flags::ENCAPSULATED) == 0 {
        take_hop(data, v6)?;
    }
    if let Some(mss) = way.mss {
        mss_clamp::clamp(data, v6, mss);
    }
    meta.sa = way.sa;
    meta.tx_interface = way.interface;
    meta.scratch = u64::from(way.underlay);
    // In transport mode whole packets are encrypted, and their ESP packets cut.
    if excess && !way.transport {
        // After the choice of the SA: of the fragments only the first would show its ports (RFC 4301 section 7).
        ip_fragment::ask(meta, way.inner_mtu, NodeId::EspEncrypt);
        return Err(Refusal::Fragment);
    }
    Ok(())
}

impl Last<'_> {
    /// Whether a packet of this family and adjacency goes this way, too.
    #[inline(always)]
    fn takes(&self, meta: &Metadata, data: &[u8]) -> bool {
        self.policies.is_none_or(|policies| {
            !(policies.looks_at_ports(self.v6) && fragment_ports::are_unknown(meta, data))
                && policies.choose(self.v6, || fragment_ports::flow(meta, data).ok())
                    == Choice::Sa(self.way.sa)
        })
    }
}

/// The way of a packet that does not go that of the one before.
#[inline(always)]
fn recall<'t>(
    tables: &'t Tables,
    ways: &mut Ways,
    meta: &Metadata,
    data: &[u8],
    v6: bool,
) -> Result<Last<'t>, Refusal> {
    if let Some(way) = ways.get(meta.adjacency, v6) {
        return Ok(Last {
            adjacency: meta.adjacency,
            v6,
            way: *way,
            policies: None,
        });
    }
    let found = find_way(tables, meta, data, v6)?;
    if found.policies.is_none() {
        ways.put(meta.adjacency, v6, found.way);
    }
    Ok(found)
}

/// The way of a packet.
fn find_way<'t>(
    tables: &'t Tables,
    meta: &Metadata,
    data: &[u8],
    v6: bool,
) -> Result<Last<'t>, Refusal> {
    let drop = Refusal::Drop;
    let protects = meta.adjacency & PROTECTION != 0;
    let index = if protects {
        meta.adjacency & !PROTECTION
    } else {
        let adjacency = tables.adjacencies.get(meta.adjacency);
        adjacency.ok_or(drop(DropReason::NoRoute))?.interface
    };
    let interface = tables
        .interfaces
        .get(index)
        .ok_or(drop(DropReason::TunnelDown))?;
    let (if_id, underlay_vrf, fixed_mtu, fragmentation, learn_path_mtu) = match interface.kind {
        InterfaceKind::Tunnel {
            if_id,
            underlay_vrf,
            fixed_mtu,
            fragmentation,
            learn_path_mtu,
            ..
        } => (
            if_id,
            underlay_vrf,
            fixed_mtu,
            fragmentation,
            learn_path_mtu,
        ),
        // What is too big for it was told before the packet got its outer header.
        InterfaceKind::Encapsulation {
            underlay_vrf,
            protection: Some(if_id),
            ..
        } if protects => (
            if_id,
            underlay_vrf,
            Some(u16::MAX),
            Fragmentation::After,
            true,
        ),
        _ => return Err(drop(DropReason::TunnelDown)),
    };
    if !interface.admin_up {
        return Err(drop(DropReason::TunnelDown));
    }
    let mut whole_family = true;
    let read_flow = || {
        whole_family = false;
        fragment_ports::flow(meta, data).ok()
    };
    let policies = tables.sas.policies.get(if_id).ok_or(prohibited(v6))?;
    if policies.looks_at_ports(v6) && fragment_ports::are_unknown(meta, data) {
        return Err(Refusal::Ports);
    }
    let sa = match policies.choose(v6, read_flow) {
        Choice::Sa(index) => tables
            .sas
            .sas
            .get(index)
            .ok_or(drop(DropReason::EspSaGone))?,
        Choice::Acquire(policy) => {
            let flow =
                fragment_ports::flow(meta, data).map_err(|_| drop(DropReason::EspBadInner))?;
            return Err(Refusal::Acquire(policy.number, flow));
        }
        Choice::Discard => return Err(drop(DropReason::PolicyDiscard)),
        Choice::None => return Err(prohibited(v6)),
    };
    let peer = sa.endpoints.destination;
    let (underlay, link_mtu) = underlay(tables, underlay_vrf, peer, || sa.spread);
    let path_mtu = tables
        .path_mtus
        .get(underlay_vrf, peer)
        .filter(|_| learn_path_mtu);
    let fitting = sa.inner_mtu(path_mtu.map_or(link_mtu, |path| path.min(link_mtu)));
    let inner_mtu = match fragmentation {
        Fragmentation::Before => fixed_mtu.map_or(fitting, |fixed| fixed.min(fitting)),
        Fragmentation::After => fixed_mtu.unwrap_or(MTU_AFTER),
    };
    // No IPv6 packet of up to 1,280 bytes is refused: where it does not fit, its ESP packet is cut (RFC 2473 section 7.1).
    let inner_mtu = if v6 {
        inner_mtu.max(IPV6_MINIMUM_MTU)
    } else {
        inner_mtu
    };
    let mss = interface
        .mss_clamp
        .most(|| inner_mtu.min(fitting), v6)
        .filter(|_| !protects);
    Ok(Last {
        adjacency: meta.adjacency,
        v6,
        way: Way {
            interface: index,
            sa: sa.index,
            underlay,
            inner_mtu,
            mss,
            transport: sa.transport,
        },
        policies: (!whole_family).then_some(policies),
    })
}

/// The adjacency by which packets to the peer leave, and its MTU. `spread` is the hash of their flow.
#[inline]
pub fn underlay(tables: &Tables, vrf: u32, peer: IpAddr, spread: impl Fn() -> u32) -> (u32, u16) {
    let index = tables
        .follow(tables.lookup(vrf, peer), peer, spread)
        .unwrap_or(ADJACENCY_NO_ROUTE);
    let adjacency = tables.adjacencies.get(index);
    (index, adjacency.map_or(u16::MAX, |adjacency| adjacency.mtu))
}

/// Takes one off TTL or hop limit; a packet whose last hop this is stays as it is, to be quoted.
#[inline(always)]
fn take_hop(data: &mut [u8], v6: bool) -> Result<(), Refusal> {
    let expired = |kind| {
        Refusal::Icmp(IcmpCause {
            kind,
            code: 0,
            mtu: 0,
        })
    };
    if v6 {
        if data.get(7).is_none_or(|hops| *hops <= 1) {
            return Err(expired(3));
        }
        let mut header = Ipv6Mut::new(data).map_err(|_| Refusal::Drop(DropReason::Ip6Malformed))?;
        header.decrement_hop_limit();
    } else {
        if data.get(8).is_none_or(|hops| *hops <= 1) {
            return Err(expired(11));
        }
        let mut header = Ipv4Mut::new(data).map_err(|_| Refusal::Drop(DropReason::Ip4Malformed))?;
        header.decrement_ttl();
    }
    Ok(())
}

/// Fragmentation needed (RFC 1191) or packet too big (RFC 8201).
fn too_big(v6: bool, mtu: u16) -> Refusal {
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    Refusal::Icmp(IcmpCause { kind, code, mtu })
}

/// Destination unreachable, communication administratively prohibited: no policy covers the packet.
fn prohibited(v6: bool) -> Refusal {
    let (kind, code) = if v6 { (1, 1) } else { (3, 13) };
    Refusal::Icmp(IcmpCause { kind, code, mtu: 0 })
}
