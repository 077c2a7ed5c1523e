//! Puts fragments for the box together, where the dataplane itself needs the whole packet (RFC 791 section 3.2,
//! RFC 8200 section 4.5).
//!
//! ```text
//!   ip4-local, ip6-local -> ip-reassembly -> ip4-local, ip6-local    whole again: ESP, native or in UDP
//!                                       |--> punt                    what is Linux's, in fragments as it came
//!                                       '--> icmp-error              the time is up, and the first fragment is here;
//!                                                                    or an IPv6 fragment cannot be one
//! ```
//!
//! Which of the two a UDP packet is its first fragment tells; until then its other fragments wait. Fragments of IKE,
//! whose certificates can make it longer than a buffer, are left to Linux.

use arrayvec::ArrayVec;
use culvert_net::fragment::{FragmentError, Place};
use culvert_net::{
    HeaderPlace, Icmpv6Type, Ipv4View, Ipv6Fragment, Ipv6Header, Ipv6View, Protocol, checksum,
};

use crate::buffer::{BufferPool, IcmpCause, LARGE_DATA, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::icmp_error;
use crate::nodes::ip4_local::NAT_TRAVERSAL;
use crate::reassembly::{
    Fragment, Gone, Intent, Key, Limits, MOST_PIECES, Outcome, Table, Transport, Why,
};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::IpReassembly,
    next: &[
        NodeId::Ip4Local,
        NodeId::Ip6Local,
        NodeId::Punt,
        NodeId::IcmpError,
    ],
};

/// Bytes of payload for which a large buffer surely has room, whatever header stands before it: the longest is that of an
/// IPv4 packet with all options, or an IPv6 one with some extension headers.
const ROOM: usize = LARGE_DATA - 128;

/// In the VRF of a key: the fragments came by an SA.
const PROTECTED: u32 = 1 << 31;

/// See the module.
pub struct IpReassembly {
    table: Table<Packet>,
    generation: u64,
}

impl Default for IpReassembly {
    fn default() -> Self {
        Self {
            table: Table::new(Limits::default()),
            generation: 0,
        }
    }
}

impl Node for IpReassembly {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let mut gone = Gone::new();
        for packet in vector.drain(..) {
            let meta = context.buffers.meta(&packet);
            // What came protected is never put together with what did not.
            let vrf = if meta.flags & flags::DECRYPTED == 0 {
                meta.vrf
            } else {
                meta.vrf | PROTECTED
            };
            if let Some(next) = whole(context.buffers.data(&packet)) {
                context.send(next, packet);
                continue;
            }
            let (key, place, intent) = match read(context.buffers.data(&packet), vrf) {
                Ok(read) => read,
                Err(error) => {
                    refuse(context, packet, error);
                    continue;
                }
            };
            // Those that wait leave some for those that pass.
            if context.buffers.is_large(&packet) && context.buffers.large_are_scarce() {
                context.drop(packet, DropReason::ReassemblyCrowded);
                continue;
            }
            let now = context.now;
            let outcome = self
                .table
                .insert(key, place, intent, packet, now, &mut gone);
            for (packet, why) in gone.drain(..) {
                give_up(context, packet, why);
            }
            match outcome {
                Outcome::Waits => {}
                Outcome::Refused(packet, why) => give_up(context, packet, why),
                Outcome::Whole(pieces) => finish(context, pieces),
            }
        }
        self.show(context);
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        if context.tables.generation != self.generation {
            self.generation = context.tables.generation;
            let limits = context.tables.reassembly;
            if limits != self.table.limits() {
                self.table
                    .clear(|packet| context.drop(packet, DropReason::ReassemblyCrowded));
                self.table = Table::new(limits);
            }
        }
        let now = context.now;
        self.table.expire(now, |piece| {
            let v6 = is_v6(context.buffers.data(&piece.packet));
            if piece.place.offset == 0 {
                // Counted there, under the same reason.
                icmp_error::refuse(context, piece.packet, IcmpCause::reassembly_timed_out(v6));
            } else {
                context.drop(piece.packet, DropReason::ReassemblyTimedOut);
            }
        });
        self.show(context);
    }

    fn next_tick(&self) -> Option<u64> {
        self.table.next_search()
    }

    fn held(&self) -> usize {
        self.table.waiting()
    }

    fn release(&mut self, buffers: &mut BufferPool) {
        self.table.clear(|packet| buffers.free(packet));
    }
}

impl IpReassembly {
    fn show(&self, context: &Context<'_>) {
        let counters = context.counters;
        counters.reassembly_packets.set(self.table.packets() as u64);
        counters
            .reassembly_fragments
            .set(self.table.waiting() as u64);
    }
}

/// Where a packet goes that is here only because it came behind a fragment: back, behind what is put together. Next
/// time there is no fragment before it.
fn whole(packet: &[u8]) -> Option<NodeId> {
    if is_v6(packet) {
        let layer = Ipv6View::parse(packet).ok()?.upper_layer().ok()?;
        let whole = |fragment: Ipv6Fragment| fragment.offset == 0 && !fragment.more;
        layer.fragment.is_none_or(whole).then_some(NodeId::Ip6Local)
    } else {
        matches!(packet, [_, _, _, _, _, _, flags, 0, ..] if flags & 0x3f == 0)
            .then_some(NodeId::Ip4Local)
    }
}

fn is_v6(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6)
}

fn give_up(context: &mut Context<'_>, packet: Packet, why: Why) {
    let reason = match why {
        Why::Passed(_) => return context.send(NodeId::Punt, packet),
        Why::Overlap => DropReason::ReassemblyOverlap,
        Why::Duplicate => DropReason::ReassemblyDuplicate,
        Why::TooLarge | Why::TooMany => DropReason::ReassemblyTooLarge,
        Why::Crowded => DropReason::ReassemblyCrowded,
        Why::TimedOut => DropReason::ReassemblyTimedOut,
    };
    context.drop(packet, reason);
}

/// Drops a fragment that no packet has; the sender of an IPv6 one is told what is wrong with it (RFC 8200 section 4.5).
#[cold]
fn refuse(context: &mut Context<'_>, packet: Packet, error: FragmentError) {
    const PAYLOAD_LENGTH: u16 = 4;
    let data = context.buffers.data(&packet);
    let pointer = match error {
        FragmentError::Length(length) if length > 0 && is_v6(data) => Some(PAYLOAD_LENGTH),
        FragmentError::Beyond(_) if is_v6(data) => {
            HeaderPlace::find(data, |protocol, _| protocol != Protocol::FRAGMENT)
                .ok()
                .map(|header| header.offset as u16 + 2)
        }
        _ => None,
    };
    match pointer {
        Some(pointer) => {
            let cause = IcmpCause::parameter_problem(Icmpv6Type::BAD_FIELD.code, pointer);
            icmp_error::refuse(context, packet, cause);
        }
        None => context.drop(packet, DropReason::ReassemblyMalformed),
    }
}

/// Whose fragment it is, where it belongs, and what it tells of its packet.
fn read(packet: &[u8], vrf: u32) -> Result<(Key, Place, Intent), FragmentError> {
    let header = FragmentError::Header;
    let (place, source, destination, protocol) = if is_v6(packet) {
        let view = Ipv6View::parse(packet).map_err(|_| header)?;
        let place = Place::of_ipv6(packet)?;
        (place, view.source().into(), view.destination().into(), 0)
    } else {
        let view = Ipv4View::parse(packet).map_err(|_| header)?;
        let place = Place::of_ipv4(packet)?;
        let protocol = place.protocol.0;
        (
            place,
            view.source().into(),
            view.destination().into(),
            protocol,
        )
    };
    let key = Key {
        vrf,
        origin: 0,
        source,
        destination,
        protocol,
        identification: place.identification,
    };
    let start = usize::from(place.header);
    let payload = packet.get(start..start + usize::from(place.length));
    let payload = payload.ok_or(header)?;
    Ok((key, place, intent(&place, payload)))
}

fn intent(place: &Place, payload: &[u8]) -> Intent {
    let pass = Intent::Pass(Transport {
        protocol: place.protocol,
        ports: 0,
    });
    match place.protocol {
        Protocol::ESP | Protocol::GRE | Protocol::IPV4 | Protocol::IPV6 => Intent::Collect(ROOM),
        Protocol::UDP if place.offset > 0 => Intent::Unknown,
        // Ports, and behind the header the SPI, or four zeros before IKE (RFC 3948 section 2.2).
        Protocol::UDP => match payload.first_chunk::<12>() {
            Some(&[_, _, port0, port1, .., a, b, c, d])
                if u16::from_be_bytes([port0, port1]) == NAT_TRAVERSAL
                    && [a, b, c, d] != [0; 4] =>
            {
                Intent::Collect(ROOM)
            }
            // Too short to tell: nobody who sends ESP cuts it there.
            _ => pass,
        },
        _ => pass,
    }
}

/// The packet in a buffer that takes `length` bytes: its own, or a large one. Its view is as long then.
fn lengthen(buffers: &mut BufferPool, mut packet: Packet, length: usize) -> Result<Packet, Packet> {
    let view = buffers.data(&packet).len();
    if buffers.meta_mut(&mut packet).set_len(length).is_ok() {
        return Ok(packet);
    }
    let Some(mut large) = buffers.allocate_large() else {
        return Err(packet);
    };
    let meta = buffers.meta_mut(&mut large);
    meta.inherit(buffers.meta(&packet));
    meta.l3_offset = meta.offset() as u16;
    if meta.set_len(length).is_err() {
        buffers.free(large);
        return Err(packet);
    }
    if let Some(to) = buffers.data_mut(&mut large).get_mut(..view) {
        to.copy_from_slice(buffers.data(&packet));
    }
    buffers.free(packet);
    Ok(large)
}

/// Makes one packet of its fragments, in the buffer of the first if they fit.
fn finish(context: &mut Context<'_>, pieces: ArrayVec<Fragment<Packet>, MOST_PIECES>) {
    let mut pieces = pieces.into_iter();
    let Some(mut first) = pieces.next() else {
        return;
    };
    let v6 = is_v6(context.buffers.data(&first.packet));
    let mut ecn = Ecn::default();
    ecn.add(context.buffers.data(&first.packet));
    let header = usize::from(first.place.header);
    let mut length = header + usize::from(first.place.length);
    let whole = pieces.as_slice().iter();
    let whole = length
        + whole
            .map(|piece| usize::from(piece.place.length))
            .sum::<usize>();
    let room = match lengthen(context.buffers, first.packet, whole) {
        Ok(packet) => {
            first.packet = packet;
            true
        }
        Err(packet) => {
            first.packet = packet;
            false
        }
    };
    for piece in pieces {
        let (start, more) = (
            usize::from(piece.place.header),
            usize::from(piece.place.length),
        );
        ecn.add(context.buffers.data(&piece.packet));
        let buffers: &BufferPool = context.buffers;
        let from = buffers.data(&piece.packet).get(start..start + more);
        let to = buffers.data_mut(&mut first.packet).get_mut(length..);
        if let (true, Some(from), Some(to)) = (room, from, to)
            && let Some(to) = to.get_mut(..more)
        {
            to.copy_from_slice(from);
        }
        length += more;
        context.counters.drop(DropReason::Reassembled).add(1);
        context.note_drop(&piece.packet, DropReason::Reassembled);
        context.buffers.free(piece.packet);
    }
    let class = match ecn.of_whole() {
        Ok(class) => class,
        Err(reason) => return context.drop(first.packet, reason),
    };
    let mended = room
        .then(|| {
            if v6 {
                mend6(context.buffers, &mut first.packet, header, class)
            } else {
                mend4(context.buffers, &mut first.packet, header, class)
            }
        })
        .flatten();
    match mended {
        Some(()) if v6 => context.send(NodeId::Ip6Local, first.packet),
        Some(()) => context.send(NodeId::Ip4Local, first.packet),
        None => context.drop(first.packet, DropReason::ReassemblyTooLarge),
    }
}

/// The header of the first fragment becomes that of the whole.
fn mend4(buffers: &BufferPool, packet: &mut Packet, header: usize, ecn: u8) -> Option<()> {
    buffers.meta_mut(packet).flags &= !flags::PORTS_KNOWN;
    let data = buffers.data_mut(packet);
    let total = u16::try_from(data.len()).ok()?;
    let head = data.get_mut(..header)?;
    let fixed = head.first_chunk_mut::<20>()?;
    fixed[1] = fixed[1] & !3 | ecn;
    [fixed[2], fixed[3]] = total.to_be_bytes();
    [fixed[6], fixed[7], fixed[10], fixed[11]] = [0; 4];
    let sum = checksum::Sum::of(head).finish();
    head.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The same without the fragment header, which stands at the end of `header`.
fn mend6(buffers: &BufferPool, packet: &mut Packet, header: usize, ecn: u8) -> Option<()> {
    let data = buffers.data_mut(packet);
    let kept = header.checked_sub(Ipv6Fragment::LEN)?;
    let carried = *data.get(kept)?;
    // Which field names the fragment header: the fixed one, or that of the last extension header before it.
    let (mut field, mut at) = (6, Ipv6Header::LEN);
    while at < kept {
        field = at;
        at += usize::from(*data.get(at + 1)?) * 8 + 8;
    }
    *data.get_mut(field)? = carried;
    data.copy_within(..kept, Ipv6Fragment::LEN);
    let (meta, _) = buffers.parts_mut(packet);
    meta.flags &= !flags::PORTS_KNOWN;
    meta.pull_front(Ipv6Fragment::LEN).ok()?;
    let (meta, data) = buffers.parts_mut(packet);
    meta.l3_offset = meta.offset() as u16;
    let payload = u16::try_from(data.len().checked_sub(Ipv6Header::LEN)?).ok()?;
    let fixed = data.first_chunk_mut::<40>()?;
    fixed[1] = fixed[1] & 0xcf | ecn << 4;
    [fixed[4], fixed[5]] = payload.to_be_bytes();
    Some(())
}

/// Congestion marks of the fragments (RFC 3168 section 5.3).
#[derive(Default)]
struct Ecn {
    /// A bit for each of the four codepoints that was seen.
    seen: u8,
    first: Option<u8>,
}

impl Ecn {
    fn add(&mut self, packet: &[u8]) {
        let codepoint = match packet {
            [first, second, ..] if first >> 4 == 6 => second >> 4 & 3,
            [_, second, ..] => second & 3,
            _ => 0,
        };
        self.seen |= 1 << codepoint;
        self.first.get_or_insert(codepoint);
    }

    /// The whole packet's: marked if any fragment is. A mark among fragments of a sender that knows none would be lost,
    /// so that packet is lost instead.
    fn of_whole(&self) -> Result<u8, DropReason> {
        const MARKED: u8 = 1 << 3;
        const NOT_CAPABLE: u8 = 1 << 0;
        match (self.seen & MARKED != 0, self.seen & NOT_CAPABLE != 0) {
            (true, true) => Err(DropReason::ReassemblyEcn),
            (true, false) => Ok(3),
            _ => Ok(self.first.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::Icmpv6View;
    use proptest::prelude::*;

    use super::*;
    use crate::nodes::ip_fragment::{self, IpFragment};
    use crate::nodes::workbench::{
        Arrived, ROUTER_IP, ROUTER_IP6, WAN, WAN_IP, WAN_IP6, Workbench, packet4, packet4_with,
        packet6,
    };

    /// The fragments of a packet, made by the other node.
    fn fragments(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut bench = Workbench::only(Box::<IpFragment>::default());
        bench.put(NodeId::IpFragment, WAN, packet, |meta| {
            ip_fragment::ask(meta, mtu, NodeId::Ip4Rewrite);
        });
        bench.run();
        let fragments = bench.take_arrived();
        bench.finish();
        fragments.into_iter().map(|arrived| arrived.bytes).collect()
    }

    fn bench() -> Workbench {
        Workbench::only(Box::<IpReassembly>::default())
    }

    fn take(bench: &mut Workbench, fragment: &[u8]) -> Vec<Arrived> {
        bench.put(NodeId::IpReassembly, WAN, fragment, |_| {});
        bench.run();
        bench.take_arrived()
    }

    fn esp4(length: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        packet4(ROUTER_IP, WAN_IP, 50, &payload)
    }

    proptest! {
        #[test]
        fn what_was_cut_is_the_same_packet_again(
            length in 1481usize..10_000,
            mtu in 576u16..1500,
            v6: bool,
            udp: bool,
            turn in 0usize..6,
        ) {
            let mut payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            if udp {
                payload[..12].copy_from_slice(&[0x11, 0x94, 0x11, 0x94, 7, 0, 0, 0, 0, 0, 1, 2]);
            }
            let protocol = if udp { 17 } else { 50 };
            let packet = if v6 {
                packet6(ROUTER_IP6, WAN_IP6, protocol, 64, &payload)
            } else {
                packet4(ROUTER_IP, WAN_IP, protocol, &payload)
            };
            let mut pieces = fragments(&packet, mtu);
            prop_assert!(pieces.len() > 1);
            let turn = turn % pieces.len();
            pieces.rotate_left(turn);
            let mut bench = bench();
            let last = pieces.pop().unwrap();
            for piece in pieces {
                prop_assert!(take(&mut bench, &piece).is_empty());
            }
            let arrived = take(&mut bench, &last);
            prop_assert_eq!(arrived.len(), 1);
            prop_assert_eq!(arrived[0].node, if v6 { NodeId::Ip6Local } else { NodeId::Ip4Local });
            prop_assert_eq!(&arrived[0].bytes, &packet);
            bench.finish();
        }
    }

    #[test]
    fn extension_headers_before_the_fragment_header_stay() {
        let fragment = |offset: u16, more: u8, payload: &[u8]| {
            let mut rest = vec![44, 0, 1, 4, 0, 0, 0, 0];
            let [high, low] = offset.to_be_bytes();
            rest.extend([50, 0, high, low | more, 0, 0, 0, 9]);
            rest.extend(payload);
            packet6(ROUTER_IP6, WAN_IP6, 60, 64, &rest)
        };
        let mut bench = bench();
        assert!(take(&mut bench, &fragment(8, 0, &[2; 5])).is_empty());
        let arrived = take(&mut bench, &fragment(0, 1, &[1; 8]));
        let mut whole = vec![50, 0, 1, 4, 0, 0, 0, 0];
        whole.extend([1; 8]);
        whole.extend([2; 5]);
        assert_eq!(
            arrived[0].bytes,
            packet6(ROUTER_IP6, WAN_IP6, 60, 64, &whole)
        );
        bench.finish();
    }

    #[test]
    fn fragments_of_ike_go_on_as_they_came() {
        let mut ike = vec![0x11, 0x94, 0x11, 0x94, 9, 0, 0, 0, 0, 0, 0, 0];
        ike.resize(1800, 3);
        let pieces = fragments(&packet4(ROUTER_IP, WAN_IP, 17, &ike), 900);
        let mut bench = bench();
        assert!(take(&mut bench, &pieces[1]).is_empty(), "nobody knows yet");
        let arrived = take(&mut bench, &pieces[0]);
        let bytes: Vec<_> = arrived.iter().map(|arrived| &arrived.bytes).collect();
        assert_eq!(bytes, [&pieces[1], &pieces[0]]);
        assert!(arrived.iter().all(|arrived| arrived.node == NodeId::Punt));
        assert_eq!(take(&mut bench, &pieces[2])[0].node, NodeId::Punt);
        bench.finish();
    }

    #[test]
    fn a_first_fragment_whose_rest_does_not_come_is_told_of() {
        let pieces = fragments(&esp4(1800), 900);
        let mut bench = bench();
        for piece in &pieces[..2] {
            assert!(take(&mut bench, piece).is_empty());
        }
        bench.now += 30_000_000_000;
        bench.tick();
        let arrived = bench.take_arrived();
        assert_eq!(arrived.len(), 1);
        let icmp = arrived[0].meta.icmp;
        assert_eq!(
            (arrived[0].node, icmp.kind, icmp.code),
            (NodeId::IcmpError, 11, 1)
        );
        assert_eq!(arrived[0].bytes, pieces[0]);
        assert_eq!(bench.drops(DropReason::ReassemblyTimedOut), 1);
        bench.finish();
    }

    #[test]
    fn damage_is_counted_by_name() {
        let fragment = |flags: u16, payload: &[u8]| {
            packet4_with(ROUTER_IP, WAN_IP, 50, payload, |header| {
                header.flags_fragment = flags;
            })
        };
        let mut bench = bench();
        for (bytes, reason) in [
            (fragment(0x2000, &[0; 9]), DropReason::ReassemblyMalformed),
            (fragment(0x2000, &[]), DropReason::ReassemblyMalformed),
            (fragment(0x1fff, &[0; 9]), DropReason::ReassemblyMalformed),
            (fragment(0x1000, &[0; 9]), DropReason::ReassemblyTooLarge),
        ] {
            let before = bench.drops(reason);
            assert!(take(&mut bench, &bytes).is_empty());
            assert_eq!(bench.drops(reason), before + 1);
        }
        bench.finish();
    }

    /// RFC 8200 section 4.5: which field is wrong, and rate-limited as every error.
    #[test]
    fn the_sender_of_an_ipv6_fragment_that_cannot_be_one_is_told() {
        let fragment = |before: &[u8], offset: u16, more: u8, length: usize| {
            let [high, low] = offset.to_be_bytes();
            let mut rest = before.to_vec();
            rest.extend([50, 0, high, low | more, 0, 0, 0, 9]);
            rest.extend(vec![1; length]);
            packet6(
                ROUTER_IP6,
                WAN_IP6,
                if before.is_empty() { 44 } else { 60 },
                64,
                &rest,
            )
        };
        let pad = [44, 0, 1, 4, 0, 0, 0, 0];
        for (bytes, pointer) in [
            (fragment(&[], 0, 1, 9), Some(4)),
            (fragment(&[], 800, 1, 15), Some(4)),
            (fragment(&[], 0xfff8, 0, 9), Some(42)),
            (fragment(&pad, 0xfff8, 0, 9), Some(50)),
            (fragment(&[], 0xfff8, 1, 8), Some(42)),
            (fragment(&[], 8, 1, 0), None),
        ] {
            let mut bench = Workbench::with(vec![
                Box::<IpReassembly>::default(),
                Box::<icmp_error::IcmpError>::default(),
            ]);
            let arrived = take(&mut bench, &bytes);
            let Some(pointer) = pointer else {
                assert!(arrived.is_empty());
                assert_eq!(bench.drops(DropReason::ReassemblyMalformed), 1);
                continue;
            };
            assert_eq!(arrived.len(), 1);
            assert_eq!(arrived[0].node, NodeId::Ip6Lookup);
            let ip = Ipv6View::parse(&arrived[0].bytes).unwrap();
            assert_eq!(ip.destination(), ROUTER_IP6);
            let icmp = Icmpv6View::verify(ip.payload(), ip.source(), ip.destination()).unwrap();
            assert_eq!(
                (icmp.kind(), icmp.rest(), icmp.body()),
                (Icmpv6Type::BAD_FIELD, pointer, &bytes[..])
            );
            assert_eq!(bench.drops(DropReason::Ip6ParameterProblem), 1);
            bench.finish();
        }
        // Never about what may be an error itself.
        let mut bench = Workbench::only(Box::<icmp_error::IcmpError>::default());
        let mut error = fragment(&[], 0xfff8, 0, 9);
        error[40] = 58;
        bench.put(NodeId::IcmpError, WAN, &error, |meta| {
            meta.icmp = IcmpCause::parameter_problem(0, 42);
        });
        bench.run();
        assert_eq!(bench.drops(DropReason::IcmpNotAllowed), 1);
        bench.finish();
    }

    #[test]
    fn an_ipv6_packet_whose_rest_does_not_come_is_told_of_too() {
        let packet = packet6(ROUTER_IP6, WAN_IP6, 50, 64, &[7; 1700]);
        let pieces = fragments(&packet, 1280);
        for (given, told) in [(0, true), (1, false)] {
            let mut bench = bench();
            take(&mut bench, &pieces[given]);
            bench.now += 60_000_000_000;
            bench.tick();
            let arrived = bench.take_arrived();
            assert_eq!(arrived.len(), usize::from(told));
            if let Some(first) = arrived.first() {
                let icmp = first.meta.icmp;
                assert_eq!((icmp.kind, icmp.code), (3, 1));
            }
            bench.finish();
        }
    }

    /// RFC 6946: it is whole, and no part of what waits under the same identification.
    #[test]
    fn an_atomic_fragment_has_nothing_to_do_with_others() {
        let fragment = |offset: u16, more: u8, payload: &[u8]| {
            let [high, low] = offset.to_be_bytes();
            let mut rest = vec![50, 0, high, low | more, 0, 0, 0, 9];
            rest.extend(payload);
            packet6(ROUTER_IP6, WAN_IP6, 44, 64, &rest)
        };
        let mut bench = Workbench::with(vec![
            Box::<crate::nodes::ip6_local::Ip6Local>::default(),
            Box::<IpReassembly>::default(),
        ]);
        // Also behind a fragment, in the same vector.
        for bytes in [
            fragment(0, 1, &[1; 8]),
            fragment(0, 0, &[7; 24]),
            fragment(8, 0, &[2; 24]),
        ] {
            bench.put(NodeId::Ip6Local, WAN, &bytes, |_| {});
        }
        bench.run();
        let arrived = bench.take_arrived();
        assert_eq!(arrived.len(), 2);
        assert!(arrived.iter().all(|one| one.node == NodeId::EspDecrypt));
        let esp = |arrived: &Arrived| {
            let at = arrived.meta.l4_offset - arrived.meta.l3_offset;
            arrived.bytes[usize::from(at)..].to_vec()
        };
        assert_eq!(esp(&arrived[0]), [7; 24]);
        assert_eq!(esp(&arrived[1]), [&[1; 8][..], &[2; 24]].concat());
        assert_eq!(bench.drops(DropReason::ReassemblyOverlap), 0);
        bench.finish();
    }

    #[test]
    fn a_mark_of_congestion_outlives_its_fragment() {
        let both = |first: u8, second: u8| {
            let fragment = |class, flags: u16, payload: &[u8]| {
                packet4_with(ROUTER_IP, WAN_IP, 50, payload, |header| {
                    header.traffic_class = class;
                    header.flags_fragment = flags;
                })
            };
            let mut bench = bench();
            take(&mut bench, &fragment(first, 0x2000, &[1; 8]));
            let arrived = take(&mut bench, &fragment(second, 1, &[1; 8]));
            bench.finish();
            (
                arrived.first().map(|whole| whole.bytes[1]),
                bench.drops(DropReason::ReassemblyEcn),
            )
        };
        assert_eq!(both(0xb8, 0xb8), (Some(0xb8), 0));
        assert_eq!(both(0xba, 0xbb), (Some(0xbb), 0));
        assert_eq!(both(0xbb, 0xba), (Some(0xbb), 0));
        assert_eq!(both(0xb8, 0xbb), (None, 1));
    }

    #[test]
    fn limits_are_taken_over_and_what_waited_is_counted() {
        let mut bench = bench();
        take(&mut bench, &fragments(&esp4(1800), 900)[0]);
        bench.tables.reassembly.timeout4 = 1_000_000_000;
        bench.tables.reassembly.timeout6 = 1_000_000_000;
        bench.tables.generation += 1;
        bench.tick();
        assert_eq!(bench.drops(DropReason::ReassemblyCrowded), 1);
        take(&mut bench, &fragments(&esp4(1800), 900)[1]);
        bench.now += 1_000_000_000;
        bench.tick();
        assert_eq!(bench.drops(DropReason::ReassemblyTimedOut), 1);
        bench.finish();
    }
}
