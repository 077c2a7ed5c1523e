//! ESP in (RFC 4303 section 3.4): SA, replay, authentication, decryption, selectors. For transport mode, see
//! `esp_transport`.
//!
//! ```text
//!   ip4-local, ip6-local -> esp-decrypt -> ip4-input, ip6-input   (as if received by the tunnel interface)
//!                                     '-> fragment-ports          (the same, of fragments, if the SA looks at ports)
//! ```
//!
//! The window is looked at before authentication, to save the work, and again when it is updated, for a duplicate may
//! stand in the same vector. A packet whose ICV is wrong never moves it.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use culvert_crypto::{Framing, OpenError, OpenOp, Verdict};
use culvert_net::{Flow, HeaderPlace, Ipv4Header, Ipv6Header, Protocol, esp};

use crate::buffer::{BufferPool, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::event::Event;
use crate::graph::{Context, Node, NodeId, NodeSpec, VECTOR, Vector};
use crate::nodes::together::forward_or_drop;
use crate::nodes::{esp_transport, fragment_ports, mss_clamp};
use crate::sa::{LimitKind, OuterRules, Sa, UdpPorts};
use crate::tables::{AdjacencyKind, Interface, InterfaceKind, MOST_STEPS, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::EspDecrypt,
    next: &[NodeId::FragmentPorts, NodeId::Ip4Input, NodeId::Ip6Input],
};

/// Bytes of a UDP header.
const UDP: usize = 8;
/// Packets ahead of which the headers are asked for.
const AHEAD: usize = 4;

/// See the module.
#[derive(Default)]
pub struct EspDecrypt;

/// What one packet is to its SA.
struct Place<'t> {
    sa: &'t Sa,
    seq: u64,
    /// Offset of the ESP header in the area, and bytes from there to the end of the ICV.
    esp: u16,
    length: u16,
    /// Traffic class of the outer header.
    class: u8,
    /// The outer source is not what the SA knows: a NAT on the way may have changed its mapping.
    elsewhere: bool,
    verdict: Result<(), DropReason>,
}

impl Node for EspDecrypt {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut last = None;
        // Filled where it is: collected, it would be built elsewhere and copied, six kilobytes for a single packet.
        let mut places = ArrayVec::<Result<Place<'_>, DropReason>, VECTOR>::new();
        places.extend(vector.iter().enumerate().map(|(at, packet)| {
            if let Some(ahead) = vector.get(at + AHEAD) {
                context.buffers.prefetch(ahead);
            }
            locate(context, tables, packet, &mut last)
        }));
        check_windows(&mut places);
        open(context, vector, &mut places);
        update_windows(context, vector, &mut places);
        let mut inside = None;
        let mut places = places.iter();
        let mut detour = false;
        forward_or_drop(context, vector, |context, packet| {
            let place = places.next().ok_or(DropReason::EspUnknownSpi)?;
            let place = place.as_ref().map_err(|reason| *reason)?;
            place.verdict?;
            let inside = Inside::of(&mut inside, context, tables, place.sa)?;
            let node = deliver(context, tables, packet, place, inside)?;
            if detour && node != NodeId::FragmentPorts {
                fragment_ports::pass(context.buffers.meta_mut(packet), node);
                return Ok(NodeId::FragmentPorts);
            }
            detour |= node == NodeId::FragmentPorts;
            Ok(node)
        });
        if let Some(inside) = inside {
            inside.count(context);
        }
    }
}

/// Finds the SA of a packet by its SPI, and checks that the packet came the SA's way: to its address, in the VRF of its
/// tunnel's underlay. VRFs may have the same addresses.
#[inline(always)]
fn locate<'t>(
    context: &Context<'_>,
    tables: &'t Tables,
    packet: &Packet,
    last: &mut Option<Known<'t>>,
) -> Result<Place<'t>, DropReason> {
    let meta = context.buffers.meta(packet);
    let data = context.buffers.data(packet);
    if let Some(known) = last
        && let Some(place) = known.locate(meta, data)
    {
        return Ok(place);
    }
    let transport = usize::from(meta.l4_offset)
        .checked_sub(meta.offset())
        .ok_or(DropReason::EspTruncated)?;
    let (source, destination, class, protocol) = outer(data).ok_or(DropReason::EspTruncated)?;
    let mut at = transport;
    let mut ports = None;
    if protocol == Protocol::UDP {
        let header = data
            .get(transport..)
            .and_then(|rest| rest.first_chunk::<UDP>())
            .ok_or(DropReason::EspTruncated)?;
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        ports = Some(UdpPorts {
            source: port(0),
            destination: port(2),
        });
        at += UDP;
    }
    let header = data
        .get(at..)
        .and_then(|rest| rest.first_chunk::<8>())
        .ok_or(DropReason::EspTruncated)?;
    let [s0, s1, s2, s3, n0, n1, n2, n3] = *header;
    let spi = u32::from_be_bytes([s0, s1, s2, s3]);
    let Known { sa, underlay, .. } = match last {
        Some(known) if known.sa.spi.get() == spi => known,
        _ => {
            let index = *tables
                .sas
                .inbound
                .get(spi)
                .ok_or(DropReason::EspUnknownSpi)?;
            let found: &Sa = tables.sas.sas.get(index).ok_or(DropReason::EspUnknownSpi)?;
            last.insert(Known::new(tables, found))
        }
    };
    let (sa, underlay) = (*sa, *underlay);
    if underlay.is_some_and(|underlay| underlay != meta.vrf)
        && !leads_into(tables, meta.vrf, underlay, destination)
    {
        return Err(DropReason::EspWrongSa);
    }
    if sa.endpoints.destination != destination || sa.endpoints.udp.is_some() != ports.is_some() {
        return Err(DropReason::EspWrongSa);
    }
    if sa.state.is_dead() {
        return Err(refuse(context, sa));
    }
    let known = sa.endpoints.udp.map(|ports| ports.source);
    Ok(Place {
        sa,
        seq: u64::from(u32::from_be_bytes([n0, n1, n2, n3])),
        esp: (meta.offset() + at) as u16,
        length: (data.len() - at) as u16,
        class,
        elsewhere: sa.endpoints.source != source || known != ports.map(|ports| ports.source),
        verdict: Ok(()),
    })
}

/// The SA of the packet before: most packets of a vector are of the same.
struct Known<'t> {
    sa: &'t Sa,
    /// See [`underlay_of`].
    underlay: Option<u32>,
    /// Source and destination of its IPv4 packets, as they stand in the header, if they are in no UDP.
    plain_v4: Option<u64>,
}

impl<'t> Known<'t> {
    fn new(tables: &Tables, sa: &'t Sa) -> Self {
        let plain_v4 = match (sa.endpoints.source, sa.endpoints.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let both = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                sa.endpoints.udp.is_none().then_some(both)
            }
            _ => None,
        };
        Self {
            sa,
            underlay: underlay_of(tables, sa),
            plain_v4,
        }
    }

    /// The place of a packet that is as most are: IPv4 without options around ESP, of this SA, from where it was. `None`:
    /// it is not, and has to be looked at closer.
    #[inline(always)]
    fn locate(&self, meta: &Metadata, data: &[u8]) -> Option<Place<'t>> {
        const ESP: usize = Ipv4Header::LEN;
        let header = data.first_chunk::<{ ESP + 8 }>()?;
        let addresses = u64::from_be_bytes(*header[12..].first_chunk()?);
        let spi = u32::from_be_bytes(*header[ESP..].first_chunk()?);
        let sequence = u32::from_be_bytes(*header[ESP + 4..].first_chunk()?);
        let usual = header[0] == 0x45
            && header[9] == Protocol::ESP.0
            && usize::from(meta.l4_offset) == meta.offset() + ESP
            && self.plain_v4 == Some(addresses)
            && self.sa.spi.get() == spi
            && self.underlay.is_none_or(|underlay| underlay == meta.vrf)
            && !self.sa.state.is_dead();
        usual.then(|| Place {
            sa: self.sa,
            seq: u64::from(sequence),
            esp: (meta.offset() + ESP) as u16,
            length: (data.len() - ESP) as u16,
            class: header[1],
            elsewhere: false,
            verdict: Ok(()),
        })
    }
}

/// The VRF in which the packets of an SA travel; `None` if its tunnel is gone, which its packets find out later.
fn underlay_of(tables: &Tables, sa: &Sa) -> Option<u32> {
    let tunnel = *tables.sas.tunnels.get(sa.spec.if_id)?;
    Some(underlay_vrf(tables.interfaces.get(tunnel)?))
}

/// The route of a VRF to an address of the box leads into another VRF, of which the address is.
#[cold]
fn leads_into(tables: &Tables, vrf: u32, other: Option<u32>, address: IpAddr) -> bool {
    let mut vrf = vrf;
    for _ in 0..MOST_STEPS {
        let adjacency = tables.adjacencies.get(tables.lookup(vrf, address));
        match adjacency.map(|adjacency| &adjacency.kind) {
            Some(AdjacencyKind::Lookup(next)) if other == Some(*next) => return true,
            Some(AdjacencyKind::Lookup(next)) => vrf = *next,
            _ => return false,
        }
    }
    false
}

/// A packet of an SA that has ended. Its end is told again after a while: the first event may have been lost.
#[cold]
fn refuse(context: &Context<'_>, sa: &Sa) -> DropReason {
    if sa.state.remind(context.now).is_some() {
        let _ = context.events.try_send(Event::SaLimit {
            sa: sa.spec.id,
            hard: true,
        });
    }
    DropReason::EspLimit
}

/// Source, destination, traffic class and transport of an outer header.
#[inline(always)]
fn outer(data: &[u8]) -> Option<(IpAddr, IpAddr, u8, Protocol)> {
    if data.first()? >> 4 == 4 {
        let header = data.first_chunk::<20>()?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Some((
            [s0, s1, s2, s3].into(),
            [d0, d1, d2, d3].into(),
            header[1],
            Protocol(header[9]),
        ))
    } else {
        let header = data.first_chunk::<40>()?;
        let source = *header.get(8..)?.first_chunk::<16>()?;
        let destination = *header.last_chunk::<16>()?;
        let protocol = match Protocol(header[6]) {
            known @ (Protocol::UDP | Protocol::ESP) => known,
            // Extension headers stand between only in packets that ip6-local has walked already.
            _ => HeaderPlace::find(data, |_, _| true).ok()?.protocol,
        };
        Some((
            source.into(),
            destination.into(),
            header[0] << 4 | header[1] >> 4,
            protocol,
        ))
    }
}

/// Runs of places with the same SA.
fn runs<'p, 't>(
    places: &'p mut [Result<Place<'t>, DropReason>],
) -> impl Iterator<Item = &'p mut [Result<Place<'t>, DropReason>]> {
    places.chunk_by_mut(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => std::ptr::eq(a.sa, b.sa),
        (Err(_), Err(_)) => true,
        _ => false,
    })
}

/// Infers the high half of every sequence number, and drops what is old or was here before: one lock a run.
fn check_windows(places: &mut [Result<Place<'_>, DropReason>]) {
    for run in runs(places) {
        let Some(Ok(first)) = run.first() else {
            continue;
        };
        let sa = first.sa;
        let window = sa.state.window();
        for place in run.iter_mut().flatten() {
            match window.check(place.seq as u32) {
                Verdict::Ok(seq) => place.seq = seq,
                Verdict::Replayed => place.verdict = Err(DropReason::EspReplayed),
                Verdict::Late => place.verdict = Err(DropReason::EspLate),
            }
        }
    }
}

/// Authenticates and decrypts everything that is left, in one batch.
fn open(context: &Context<'_>, vector: &mut Vector, places: &mut [Result<Place<'_>, DropReason>]) {
    let buffers: &BufferPool = context.buffers;
    let mut ops = ArrayVec::<OpenOp<'_>, VECTOR>::new();
    let waiting = vector.iter_mut().zip(places.iter_mut());
    ops.extend(waiting.filter_map(|(packet, place)| {
        let place = place.as_mut().ok().filter(|place| place.verdict.is_ok())?;
        let (_, area) = buffers.area_mut(packet);
        let esp = usize::from(place.esp);
        let Some(bytes) = area.get_mut(esp..esp + usize::from(place.length)) else {
            place.verdict = Err(DropReason::EspTruncated);
            return None;
        };
        Some(OpenOp::new(place.sa.state.key(), place.seq, bytes))
    }));
    context.engine.open_batch(&mut ops);
    if ops.iter().all(|op| op.result.is_ok()) {
        return;
    }
    let opened = places.iter_mut().flatten();
    for (place, op) in opened.filter(|place| place.verdict.is_ok()).zip(&ops) {
        place.verdict = op.result.map_err(|error| match error {
            OpenError::BadIcv => DropReason::EspBadIcv,
            OpenError::Malformed => DropReason::EspTruncated,
        });
    }
}

/// Marks what is authentic as received, drops duplicates within the vector, and counts: one lock a run.
fn update_windows(
    context: &Context<'_>,
    vector: &Vector,
    places: &mut [Result<Place<'_>, DropReason>],
) {
    let mut at = 0;
    for run in runs(places) {
        let began = at;
        at += run.len();
        let Some(Ok(first)) = run.first() else {
            continue;
        };
        let sa = first.sa;
        let (mut good, mut bytes) = (0, 0);
        let (mut replayed, mut late, mut bad_icv) = (0, 0, 0);
        let mut moved = None;
        let top;
        {
            let mut window = sa.state.window();
            for (offset, place) in run.iter_mut().enumerate() {
                let Ok(place) = place else { continue };
                if place.verdict.is_ok() {
                    match window.update(place.seq) {
                        Verdict::Ok(_) => {
                            good += 1;
                            bytes += u64::from(place.length);
                            if place.elsewhere && place.seq >= window.top() {
                                moved = vector.get(began + offset);
                            }
                        }
                        Verdict::Replayed => place.verdict = Err(DropReason::EspReplayed),
                        Verdict::Late => place.verdict = Err(DropReason::EspLate),
                    }
                }
                match place.verdict {
                    Err(DropReason::EspReplayed) => replayed += 1,
                    Err(DropReason::EspLate) => late += 1,
                    Err(DropReason::EspBadIcv) => bad_icv += 1,
                    _ => {}
                }
            }
            sa.state.left_behind(&window);
            top = window.top();
        }
        sa.state.refused(replayed, late, bad_icv);
        if good > 0 {
            let overhead = sa.state.key().suite().header_len() + sa.state.key().suite().icv_len();
            let inner = bytes.saturating_sub((good * overhead) as u64);
            if let Some(kind) = sa.state.received(good, inner, top, context.now) {
                let _ = context.events.try_send(Event::SaLimit {
                    sa: sa.spec.id,
                    hard: kind == LimitKind::Hard,
                });
            }
        }
        // Known only after a good ICV.
        if let Some(packet) = moved
            && let Some((source, port)) = sender(context.buffers, packet)
            && sa.state.may_report_mapping(context.now)
        {
            let _ = context.events.try_send(Event::MappingChanged {
                sa: sa.spec.id,
                source,
                port,
            });
        }
    }
}

/// Who sent an ESP packet: outer source address and UDP port (0 without encapsulation).
fn sender(buffers: &BufferPool, packet: &Packet) -> Option<(IpAddr, u16)> {
    let meta = buffers.meta(packet);
    let data = buffers.data(packet);
    let (source, _, _, protocol) = outer(data)?;
    if protocol != Protocol::UDP {
        return Some((source, 0));
    }
    let transport = usize::from(meta.l4_offset).checked_sub(meta.offset())?;
    let port = data.get(transport..)?.first_chunk()?;
    Some((source, u16::from_be_bytes(*port)))
}

/// What the packets of one SA come to when they are out.
struct Inside<'t> {
    sa: &'t Sa,
    index: u32,
    interface: &'t Interface,
    rules: &'t OuterRules,
    vrf: u32,
    framing: Framing,
    packets: u64,
    bytes: u64,
}

impl<'t> Inside<'t> {
    /// That of an SA: the last one, or a new one in its place.
    #[inline(always)]
    fn of<'l>(
        last: &'l mut Option<Self>,
        context: &Context<'_>,
        tables: &'t Tables,
        sa: &'t Sa,
    ) -> Result<&'l mut Self, DropReason> {
        let known = last
            .as_ref()
            .is_some_and(|known| std::ptr::eq(known.sa, sa));
        if !known {
            let next = Self::new(tables, sa)?;
            if let Some(before) = last.replace(next) {
                before.count(context);
            }
        }
        last.as_mut().ok_or(DropReason::EspWrongSa)
    }

    fn new(tables: &'t Tables, sa: &'t Sa) -> Result<Self, DropReason> {
        let (index, interface) = tunnel_of(tables, sa.spec.if_id)?;
        Ok(Self {
            sa,
            index,
            interface,
            rules: match &interface.kind {
                InterfaceKind::Tunnel {
                    outer: Some(rules), ..
                } => rules,
                _ => &sa.rules,
            },
            vrf: match interface.kind {
                // What is inside has yet another header to lose.
                InterfaceKind::Encapsulation { underlay_vrf, .. } => underlay_vrf,
                _ => interface.vrf,
            },
            framing: sa.state.key().suite().framing(),
            packets: 0,
            bytes: 0,
        })
    }

    /// Counts what has come in by the tunnel.
    fn count(&self, context: &Context<'_>) {
        let counters = context.counters.interface(self.index);
        counters.rx_packets.add(self.packets);
        counters.rx_bytes.add(self.bytes);
    }
}

/// Takes the inner packet out, checks it against the SA, and lets it come in by the tunnel interface.
#[inline(always)]
fn deliver(
    context: &Context<'_>,
    tables: &Tables,
    packet: &mut Packet,
    place: &Place<'_>,
    inside: &mut Inside<'_>,
) -> Result<NodeId, DropReason> {
    let sa = place.sa;
    let (meta, area) = context.buffers.area_mut(packet);
    let esp = usize::from(place.esp);
    let start = esp + inside.framing.header;
    let end = (esp + usize::from(place.length)).saturating_sub(inside.framing.icv);
    let plaintext = area.get_mut(start..end).ok_or(DropReason::EspTruncated)?;
    let (next, length) = esp::read_trailer(plaintext).map_err(|_| DropReason::EspBadPadding)?;
    if sa.transport {
        let node = esp_transport::deliver(meta, area, sa, start, length, next)?;
        meta.rx_interface = inside.index;
        meta.vrf = underlay_vrf(inside.interface);
        inside.packets += 1;
        inside.bytes += meta.len() as u64;
        return Ok(node);
    }
    let v6 = match next {
        Protocol::IPV4 => false,
        Protocol::IPV6 => true,
        Protocol::NO_NEXT => return Err(DropReason::EspDummy),
        _ => return Err(DropReason::EspBadInner),
    };
    let inner = plaintext
        .get_mut(..length)
        .ok_or(DropReason::EspBadPadding)?;
    if inner
        .first()
        .is_none_or(|byte| byte >> 4 != if v6 { 6 } else { 4 })
    {
        return Err(DropReason::EspBadInner);
    }
    // What is behind the packet inside is padding against traffic analysis (RFC 4303 section 2.7).
    let length = length.min(ip_length(inner, v6));
    let inner = inner.get_mut(..length).ok_or(DropReason::EspBadInner)?;
    let hides_ports = sa.looks_at_ports(v6) && fragment_ports::is_fragment(inner);
    if !hides_ports && !sa.carries(v6, || Flow::of(inner).ok()) {
        return Err(DropReason::EspSelectorMismatch);
    }
    if inside.rules.touches(place.class) {
        inside.rules.carry_inwards(inner, place.class)?;
    }
    mss_clamp::clamp_lazily(inner, v6, inside.interface.mss_clamp, || {
        mss_clamp::way_back(tables, inside.interface, sa)
    });
    meta.set_view(start, length)
        .map_err(|_| DropReason::EspTruncated)?;
    meta.rx_interface = inside.index;
    meta.vrf = inside.vrf;
    meta.l3_offset = start as u16;
    meta.flags = meta.flags & flags::TRACED | flags::DECRYPTED;
    inside.packets += 1;
    inside.bytes += length as u64;
    let next = if v6 {
        NodeId::Ip6Input
    } else {
        NodeId::Ip4Input
    };
    if hides_ports {
        fragment_ports::ask_for_sa(meta, sa, next);
        return Ok(NodeId::FragmentPorts);
    }
    Ok(next)
}

/// Bytes of an IP packet, as its header has it.
#[inline(always)]
fn ip_length(packet: &[u8], v6: bool) -> usize {
    match packet {
        [_, _, _, _, high, low, ..] if v6 => {
            Ipv6Header::LEN + usize::from(u16::from_be_bytes([*high, *low]))
        }
        [_, _, high, low, ..] if !v6 => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

/// The VRF in which the ESP packets of a tunnel travel: in transport mode what is inside stays there.
fn underlay_vrf(interface: &Interface) -> u32 {
    match interface.kind {
        InterfaceKind::Tunnel { underlay_vrf, .. }
        | InterfaceKind::Encapsulation { underlay_vrf, .. } => underlay_vrf,
        InterfaceKind::Ethernet { .. } | InterfaceKind::Loopback => interface.vrf,
    }
}

/// The tunnel interface of an `if_id`: index and entry.
fn tunnel_of(tables: &Tables, if_id: u32) -> Result<(u32, &Interface), DropReason> {
    let index = *tables
        .sas
        .tunnels
        .get(if_id)
        .ok_or(DropReason::EspWrongSa)?;
    let interface = tables.interfaces.get(index).ok_or(DropReason::EspWrongSa)?;
    match interface.kind {
        InterfaceKind::Tunnel { .. } | InterfaceKind::Encapsulation { .. }
            if interface.admin_up =>
        {
            Ok((index, interface))
        }
        InterfaceKind::Tunnel { .. } | InterfaceKind::Encapsulation { .. } => {
            Err(DropReason::TunnelDown)
        }
        InterfaceKind::Ethernet { .. } | InterfaceKind::Loopback => Err(DropReason::EspWrongSa),
    }
}
