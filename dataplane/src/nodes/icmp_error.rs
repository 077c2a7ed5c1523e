//! Turns a packet into the ICMP error about it (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3.2, RFC 4443).
//!
//! ```text
//!   ip4-lookup, ip6-lookup, tunnel-output, neighbour-resolve, rewrite -> icmp-error -> ip4-lookup, ip6-lookup
//!
//!   | headroom | IP packet ... |   becomes   | IP header | ICMP | the packet as it came, cut to fit |
//! ```
//!
//! Whoever refuses a packet says why in [`Metadata::icmp`](crate::buffer::Metadata); the drop is counted here under the
//! reason that belongs to it. Whether the sender also hears of it is another matter: `icmp-rate-limited` and
//! `icmp-not-allowed` count errors that were *not* sent, on top of the drop itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_net::icmpv4::{self, Icmpv4Type};
use culvert_net::icmpv6::{self, Icmpv6Type};
use culvert_net::{Ipv4Header, Ipv4View, Ipv6Header, Ipv6View, Protocol};

use super::dispatch::is_own;
use super::token_bucket::TokenBucket;
use super::way_out::complete;
use crate::buffer::{BufferPool, IcmpCause, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::tables::{ADJACENCY_LOCAL, Interface, InterfaceKind, Tables};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::IcmpError,
    next: &[NodeId::Ip4Lookup, NodeId::Ip6Lookup],
};

/// Errors a second and worker, and as many again that say what would fit: a scan of addresses that nobody has must not
/// keep path MTU discovery from its answers, without which connections hang. RFC 1812 section 4.3.2.8 and RFC 4443 section 2.4 (f) ask for a limit and leave it open;
/// this keeps traceroutes and path MTU discovery of hundreds of hosts going and is under a thousandth of the packets
/// that a worker forwards.
const RATE: u32 = 1000;
/// Errors that may be sent at once after a pause: a traceroute of three probes over sixteen hops.
const BURST: u32 = 50;
/// Bytes of an IPv4 error at most (RFC 1812 section 4.3.2.3).
const LONGEST4: usize = 576;
/// Bytes of an IPv6 error at most: the least MTU (RFC 4443 section 2.4 (c)).
const LONGEST6: usize = 1280;
/// Hops of our errors, what hosts begin with (RFC 1700).
const HOPS: u8 = 64;
/// Internetwork control (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

impl IcmpCause {
    /// No route covers the destination.
    pub const fn no_route(v6: bool) -> Self {
        Self::of(v6, Icmpv4Type::NET_UNREACHABLE, Icmpv6Type::NO_ROUTE, 0)
    }

    /// The next hop does not answer.
    pub const fn host_unreachable(v6: bool) -> Self {
        Self::of(
            v6,
            Icmpv4Type::HOST_UNREACHABLE,
            Icmpv6Type::ADDRESS_UNREACHABLE,
            0,
        )
    }

    /// The packet came with its last hop and is not for us.
    pub const fn time_exceeded(v6: bool) -> Self {
        Self::of(
            v6,
            Icmpv4Type::TTL_EXCEEDED,
            Icmpv6Type::HOP_LIMIT_EXCEEDED,
            0,
        )
    }

    /// The rest of a fragmented packet did not come in time.
    pub const fn reassembly_timed_out(v6: bool) -> Self {
        Self {
            kind: if v6 { 3 } else { 11 },
            code: 1,
            mtu: 0,
        }
    }

    /// A field or option at this place of an IPv6 packet is wrong or unknown (RFC 4443 section 3.4).
    pub const fn parameter_problem(code: u8, pointer: u16) -> Self {
        Self {
            kind: Icmpv6Type::BAD_FIELD.kind,
            code,
            mtu: pointer,
        }
    }

    /// What a route of this kind tells the sender; `None`: nothing.
    pub const fn of_route(v6: bool, reason: DropReason) -> Option<Self> {
        match reason {
            DropReason::RouteUnreachable => Some(Self::of(
                v6,
                Icmpv4Type::HOST_UNREACHABLE,
                Icmpv6Type::ADDRESS_UNREACHABLE,
                0,
            )),
            DropReason::RouteProhibited => Some(Self::prohibited(v6)),
            _ => None,
        }
    }

    /// The packet is larger than `mtu` bytes and must not be fragmented.
    pub const fn too_big(v6: bool, mtu: u16) -> Self {
        Self::of(
            v6,
            Icmpv4Type::FRAGMENTATION_NEEDED,
            Icmpv6Type::PACKET_TOO_BIG,
            mtu,
        )
    }

    /// No policy lets the packet pass.
    pub const fn prohibited(v6: bool) -> Self {
        Self::of(v6, Icmpv4Type::PROHIBITED, Icmpv6Type::PROHIBITED, 0)
    }

    const fn of(v6: bool, four: Icmpv4Type, six: Icmpv6Type, mtu: u16) -> Self {
        let (kind, code) = if v6 {
            (six.kind, six.code)
        } else {
            (four.kind, four.code)
        };
        Self { kind, code, mtu }
    }

    /// Under which reason the packet is counted.
    const fn reason(self, v6: bool, by_route: bool) -> DropReason {
        match (v6, self.kind, self.code) {
            (false, 3, 1) | (true, 1, 3) if by_route => DropReason::RouteUnreachable,
            (false, 3, 13) | (true, 1, 1) if by_route => DropReason::RouteProhibited,
            (false, 11, 1) | (true, 3, 1) => DropReason::ReassemblyTimedOut,
            (false, 11, _) => DropReason::Ip4TtlExpired,
            (true, 3, _) => DropReason::Ip6HopLimitExpired,
            (true, 4, _) => DropReason::Ip6ParameterProblem,
            (false, 3, 4) | (true, 2, _) => DropReason::MtuExceeded,
            (false, 3, 1) | (true, 1, 3) => DropReason::NeighbourUnresolved,
            (false, 3, 13) | (true, 1, 1) => DropReason::TunnelNoPolicy,
            _ => DropReason::NoRoute,
        }
    }
}

/// Gives a packet up and tells its sender why.
pub fn refuse(context: &mut Context<'_>, mut packet: Packet, cause: IcmpCause) {
    context.buffers.meta_mut(&mut packet).icmp = cause;
    context.send(NodeId::IcmpError, packet);
}

/// How many errors a worker sends: so many of those that say what size would fit, and so many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, in the long run; not 0.
    pub rate: u32,
    /// At once, after a pause; not 0.
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            rate: RATE,
            burst: BURST,
        }
    }
}

impl Rate {
    fn bucket(self) -> TokenBucket {
        TokenBucket::new(self.rate.into(), self.burst.into())
    }
}

/// See the module.
pub struct IcmpError {
    rate: Rate,
    bucket: TokenBucket,
    /// For fragmentation needed and packet too big.
    too_big: TokenBucket,
    identification: u16,
}

impl Default for IcmpError {
    fn default() -> Self {
        let rate = Rate::default();
        Self {
            rate,
            bucket: rate.bucket(),
            too_big: rate.bucket(),
            identification: 0,
        }
    }
}

impl Node for IcmpError {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let rate = context.tables.icmp_errors;
        if rate != self.rate {
            (self.rate, self.bucket, self.too_big) = (rate, rate.bucket(), rate.bucket());
        }
        for packet in vector.drain(..) {
            self.answer(context, packet);
        }
    }
}

impl IcmpError {
    fn answer(&mut self, context: &mut Context<'_>, mut packet: Packet) {
        let meta = *context.buffers.meta(&packet);
        let v6 = context
            .buffers
            .data(&packet)
            .first()
            .is_some_and(|first| first >> 4 == 6);
        let by_route = meta.flags & flags::REFUSED_BY_ROUTE != 0;
        let reason = meta.icmp.reason(v6, by_route);
        context.counters.drop(reason).add(1);
        context.note_drop(&packet, reason);
        context.counters.interface(meta.rx_interface).drops.add(1);
        let data = context.buffers.data(&packet);
        let Some(destination) = receiver(context.tables, &meta, data, v6) else {
            return give_up(context, packet, DropReason::IcmpNotAllowed);
        };
        let bucket = if reason == DropReason::MtuExceeded {
            &mut self.too_big
        } else {
            &mut self.bucket
        };
        // Before the search for an address, which may take a look at every interface.
        if !bucket.take(context.now) {
            return give_up(context, packet, DropReason::IcmpRateLimited);
        }
        let Some(source) = own_address(context.tables, &meta, destination) else {
            return give_up(context, packet, DropReason::IcmpNotAllowed);
        };
        self.identification = self.identification.wrapping_add(1);
        let built = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(to)) => build4(
                context.buffers,
                &mut packet,
                source,
                to,
                self.identification,
            ),
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                build6(context.buffers, &mut packet, source, to)
            }
            _ => None,
        };
        match built {
            Some(next) => context.send(next, packet),
            None => give_up(context, packet, DropReason::IcmpNotAllowed),
        }
    }
}

/// The packet itself is counted already.
fn give_up(context: &mut Context<'_>, packet: Packet, why: DropReason) {
    context.counters.drop(why).add(1);
    context.buffers.free(packet);
}

/// Who may be told: nobody of an error (it would never end), of what went to many, or of what nobody sent.
fn receiver(tables: &Tables, meta: &Metadata, data: &[u8], v6: bool) -> Option<IpAddr> {
    // Our own: errors (never again), and ESP, whose sender we are.
    if meta.flags & (flags::ORIGINATED | flags::ENCRYPTED) != 0 {
        return None;
    }
    let many = meta.flags & flags::LINK_MULTICAST != 0;
    if v6 {
        let IcmpCause { kind, code, .. } = meta.icmp;
        // Path MTU discovery works for groups too, and a sender may ask what a group knows (RFC 4443 section 2.4 (e.3)).
        let many_are_told = kind == Icmpv6Type::PACKET_TOO_BIG.kind
            || Icmpv6Type { kind, code } == Icmpv6Type::UNKNOWN_OPTION;
        let view = Ipv6View::parse(data).ok()?;
        let (source, destination) = (view.source(), view.destination());
        if (many || destination.is_multicast()) && !many_are_told
            || source.is_multicast()
            || source.is_unspecified()
        {
            return None;
        }
        let layer = view.upper_layer().ok()?;
        let error = layer.protocol == Protocol::ICMPV6
            && (!layer.has_transport_header()
                // Errors, and redirects (RFC 4443 section 2.4 (e.1) and (e.2)).
                || layer.payload.first().is_none_or(|kind| matches!(kind, ..128 | 137)));
        // What is wrong with a later fragment only it shows.
        let shown = layer.has_transport_header() || kind == Icmpv6Type::BAD_FIELD.kind;
        (shown && !error).then_some(source.into())
    } else {
        let view = Ipv4View::parse(data).ok()?;
        let (source, destination) = (view.source(), view.destination());
        // Another's packet cannot come from what leads to the box: its addresses, and the broadcast addresses of its
        // links, which are no single host's (RFC 1812 section 4.3.2.7).
        let own = is_own(meta.flags);
        if many
            || destination.is_multicast()
            || destination.is_broadcast()
            || source.is_multicast()
            || source.is_broadcast()
            || source.is_unspecified()
            || source.is_loopback()
            || view.fragment_offset() != 0
            || !own && tables.lookup(meta.vrf, source.into()) == ADJACENCY_LOCAL
        {
            return None;
        }
        let error = view.protocol() == Protocol::ICMP
            && view.payload().first().is_none_or(|kind| {
                Icmpv4Type {
                    kind: *kind,
                    code: 0,
                }
                .is_error()
            });
        (!error).then_some(source.into())
    }
}

/// From which address: of the interface by which the packet came; of one that has none of its own, of the first loopback
/// of its VRF that has, else of any interface there. RFC 1812 section 4.3.2.4 would have it from the interface by which
/// the error leaves; that is the same one unless ways there and back differ, and then this one says where the packet
/// was, which is what traceroute is for (and RFC 4443 section 2.2 (b) allows).
fn own_address(tables: &Tables, meta: &Metadata, to: IpAddr) -> Option<IpAddr> {
    let came_by = tables.interfaces.get(meta.rx_interface);
    let address_of = |interface: &Interface| match to {
        IpAddr::V4(_) => interface.source4().map(IpAddr::V4),
        IpAddr::V6(_) => interface.source6().map(IpAddr::V6),
    };
    if let IpAddr::V6(to) = to
        && to.is_unicast_link_local()
    {
        return came_by?.link_local().map(IpAddr::V6);
    }
    came_by
        .and_then(|interface| address_of(interface))
        .or_else(|| {
            let addressed = |wanted: fn(&InterfaceKind) -> bool| {
                tables
                    .interfaces
                    .iter()
                    .filter(|(_, one)| one.vrf == meta.vrf && wanted(&one.kind))
                    .find_map(|(_, one)| address_of(one))
            };
            addressed(|kind| *kind == InterfaceKind::Loopback).or_else(|| addressed(|_| true))
        })
}

/// Readies the bytes to be quoted and makes room for `headers` bytes before at most `quote` of them.
fn frame(
    buffers: &BufferPool,
    packet: &mut Packet,
    headers: usize,
    longest: usize,
) -> Option<IcmpCause> {
    let (meta, data) = buffers.parts_mut(packet);
    complete(meta, data).ok()?;
    let quote = meta.len().min(longest - headers);
    meta.set_len(quote).ok()?;
    meta.push_front(headers).ok()?;
    meta.flags = meta.flags & flags::TRACED | flags::ORIGINATED;
    meta.l3_offset = meta.offset() as u16;
    Some(meta.icmp)
}

fn build4(
    buffers: &BufferPool,
    packet: &mut Packet,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    identification: u16,
) -> Option<NodeId> {
    let cause = frame(buffers, packet, 20 + 8, LONGEST4)?;
    let data = buffers.data_mut(packet);
    let header = Ipv4Header {
        traffic_class: PRECEDENCE,
        total_len: data.len() as u16,
        identification,
        flags_fragment: 0,
        ttl: HOPS,
        protocol: Protocol::ICMP,
        source,
        destination,
    };
    let (front, message) = data.split_first_chunk_mut()?;
    header.write(front);
    let kind = Icmpv4Type {
        kind: cause.kind,
        code: cause.code,
    };
    icmpv4::seal(message, kind, u32::from(cause.mtu)).ok()?;
    Some(NodeId::Ip4Lookup)
}

fn build6(
    buffers: &BufferPool,
    packet: &mut Packet,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<NodeId> {
    let cause = frame(buffers, packet, 40 + 8, LONGEST6)?;
    let data = buffers.data_mut(packet);
    let header = Ipv6Header {
        traffic_class: PRECEDENCE,
        flow_label: 0,
        payload_len: (data.len() - 40) as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: HOPS,
        source,
        destination,
    };
    let (front, message) = data.split_first_chunk_mut()?;
    header.write(front);
    let kind = Icmpv6Type {
        kind: cause.kind,
        code: cause.code,
    };
    icmpv6::seal(message, kind, u32::from(cause.mtu), source, destination).ok()?;
    Some(NodeId::Ip6Lookup)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Icmpv4View, Icmpv6View};

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, HOST_MAC, LAN, LAN_IP, LAN_IP6, LAN_MAC, TUNNEL, WAN,
        WAN_IP, Workbench, from_host, packet4, packet4_with, packet6,
    };
    use crate::tables::{InterfaceAddress, VRF_DEFAULT};

    #[test]
    fn the_sender_of_an_expired_packet_is_told_from_the_address_it_sent_to() {
        let mut bench = Workbench::layer3();
        let packet = packet4_with(HOST_IP, FAR_IP, 17, &[7; 1000], |header| header.ttl = 1);
        bench.receive(LAN, &from_host(&packet));
        bench.run();
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].len(), 14 + 576);
        assert_eq!(
            (&sent[0][..6], &sent[0][6..12]),
            (&HOST_MAC.0[..], &LAN_MAC.0[..])
        );
        let ip = Ipv4View::verify(&sent[0][14..]).unwrap();
        assert_eq!((ip.source(), ip.destination()), (LAN_IP, HOST_IP));
        assert_eq!(ip.ttl(), 64);
        let icmp = Icmpv4View::verify(ip.payload()).unwrap();
        assert_eq!(icmp.kind(), Icmpv4Type::TTL_EXCEEDED);
        assert_eq!(icmp.body(), &packet[..548]);
        assert_eq!(bench.drops(DropReason::Ip4TtlExpired), 1);
        bench.finish();
    }

    #[test]
    fn ipv6_errors_quote_what_fits_the_least_mtu() {
        let mut bench = Workbench::layer3();
        let big = packet6(HOST_IP6, FAR_IP6, 17, 64, &[7; 1461]);
        bench.receive(LAN, &from_host(&big));
        let lost = packet6(HOST_IP6, "2001:db8:3::1".parse().unwrap(), 17, 64, b"x");
        bench.receive(LAN, &from_host(&lost));
        bench.run();
        let sent = bench.sent(LAN);
        assert_eq!(sent.len(), 2);
        for (frame, kind, rest, body) in [
            (&sent[1], Icmpv6Type::PACKET_TOO_BIG, 1500, &big[..1232]),
            (&sent[0], Icmpv6Type::NO_ROUTE, 0, &lost[..]),
        ] {
            let ip = Ipv6View::parse(&frame[14..]).unwrap();
            assert_eq!((ip.source(), ip.destination()), (LAN_IP6, HOST_IP6));
            let icmp = Icmpv6View::verify(ip.payload(), LAN_IP6, HOST_IP6).unwrap();
            assert_eq!((icmp.kind(), icmp.rest(), icmp.body()), (kind, rest, body));
        }
        assert_eq!(bench.drops(DropReason::MtuExceeded), 1);
        assert_eq!(bench.drops(DropReason::NoRoute), 1);
        bench.finish();
    }

    #[test]
    fn no_error_is_sent_about_what_must_not_have_one() {
        let mut bench = Workbench::only(Box::<IcmpError>::default());
        let icmp = |kind| [kind, 0, 0, 0, 0, 0, 0, 0];
        let piece = |offset: u8, kind| {
            let mut bytes = vec![58, 0, 0, offset | 1, 0, 0, 0, 7];
            bytes.extend(icmp(kind));
            bytes
        };
        let group = "ff02::1".parse().unwrap();
        let cases = [
            (packet4(HOST_IP, FAR_IP, 1, &icmp(3)), 0, false),
            (packet4(HOST_IP, FAR_IP, 1, &icmp(11)), 0, false),
            (packet4(HOST_IP, FAR_IP, 1, &icmp(8)), 0, true),
            (packet4(HOST_IP, FAR_IP, 1, &[]), 0, false),
            (
                packet4(HOST_IP, FAR_IP, 17, &[]),
                flags::LINK_MULTICAST,
                false,
            ),
            (packet4(HOST_IP, FAR_IP, 17, &[]), flags::ORIGINATED, false),
            (packet4(HOST_IP, FAR_IP, 50, &[]), flags::ENCRYPTED, false),
            (packet4(HOST_IP, FAR_IP, 17, &[]), flags::INJECTED, true),
            (packet4([0; 4].into(), FAR_IP, 17, &[]), 0, false),
            // The broadcast address of a link, and our own from outside and from inside.
            (packet4([10, 1, 0, 255].into(), FAR_IP, 17, &[]), 0, false),
            (packet4(LAN_IP, FAR_IP, 17, &[]), 0, false),
            (packet4(LAN_IP, FAR_IP, 17, &[]), flags::INJECTED, true),
            (packet4(HOST_IP, [255; 4].into(), 17, &[]), 0, false),
            (packet4(HOST_IP, [224, 0, 0, 1].into(), 17, &[]), 0, false),
            (
                packet4_with(HOST_IP, FAR_IP, 17, &[1; 8], |header| {
                    header.flags_fragment = 1;
                }),
                0,
                false,
            ),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(1)), 0, false),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(127)), 0, false),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(128)), 0, true),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(136)), 0, true),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(137)), 0, false),
            (packet6(HOST_IP6, FAR_IP6, 58, 9, &icmp(138)), 0, true),
            // The first fragment shows what it is, a later one might be an error.
            (packet6(HOST_IP6, FAR_IP6, 44, 9, &piece(0, 128)), 0, true),
            (packet6(HOST_IP6, FAR_IP6, 44, 9, &piece(0, 1)), 0, false),
            (packet6(HOST_IP6, FAR_IP6, 44, 9, &piece(8, 128)), 0, false),
            (packet6(HOST_IP6, group, 17, 9, &[]), 0, false),
            (
                packet6(Ipv6Addr::UNSPECIFIED, FAR_IP6, 17, 9, &[]),
                0,
                false,
            ),
        ];
        let mut refused = 0;
        for (number, (bytes, bits, allowed)) in cases.iter().enumerate() {
            let v6 = bytes[0] >> 4 == 6;
            let before = bench.arrived().len();
            bench.put(NodeId::IcmpError, LAN, bytes, |meta| {
                meta.flags |= bits;
                meta.icmp = IcmpCause::no_route(v6);
            });
            bench.run();
            assert_eq!(bench.arrived().len() > before, *allowed, "case {number}");
            refused += u64::from(!allowed);
        }
        assert_eq!(bench.drops(DropReason::IcmpNotAllowed), refused);
        assert_eq!(bench.drops(DropReason::NoRoute), cases.len() as u64);
        bench.put(
            NodeId::IcmpError,
            LAN,
            &packet6(HOST_IP6, group, 17, 9, &[]),
            |meta| meta.icmp = IcmpCause::too_big(true, 1400),
        );
        bench.run();
        assert_eq!(bench.arrived().pop().unwrap().node, NodeId::Ip6Lookup);
        bench.finish();
    }

    #[test]
    fn what_came_out_of_a_tunnel_without_address_is_answered_from_its_vrf() {
        let mut bench = Workbench::only(Box::<IcmpError>::default());
        let bytes = packet4(FAR_IP, HOST_IP, 17, &[]);
        bench.put(NodeId::IcmpError, TUNNEL, &bytes, |meta| {
            meta.flags |= flags::DECRYPTED;
            meta.icmp = IcmpCause::host_unreachable(false);
        });
        bench.run();
        let arrived = bench.arrived().pop().unwrap();
        let source = Ipv4View::verify(&arrived.bytes).unwrap().source();
        assert!([LAN_IP, WAN_IP].contains(&source));
        assert_eq!(arrived.meta.flags, flags::ORIGINATED);
        bench.finish();
    }

    #[test]
    fn an_interface_without_address_borrows_that_of_a_loopback_of_its_vrf() {
        const LOOPBACK: u32 = 9;
        let mut bench = Workbench::only(Box::<IcmpError>::default());
        let mut loopback = bench.tables.interfaces.get(WAN).unwrap().as_ref().clone();
        loopback.kind = InterfaceKind::Loopback;
        loopback.addresses4 = [InterfaceAddress {
            address: [192, 0, 2, 7].into(),
            length: 32,
            tentative: false,
        }]
        .into();
        for (vrf, expected) in [(VRF_DEFAULT, true), (5, false)] {
            loopback.vrf = vrf;
            let one = Some(std::sync::Arc::new(loopback.clone()));
            bench.tables.interfaces.set(LOOPBACK, one);
            // One with addresses of its own does not borrow.
            for (interface, borrows) in [(TUNNEL, expected), (LAN, false)] {
                let bytes = packet4(FAR_IP, HOST_IP, 17, &[]);
                bench.put(NodeId::IcmpError, interface, &bytes, |meta| {
                    meta.icmp = IcmpCause::host_unreachable(false);
                });
                bench.run();
                let arrived = bench.arrived().pop().unwrap();
                let source = Ipv4View::verify(&arrived.bytes).unwrap().source();
                assert_eq!(
                    source.octets() == [192, 0, 2, 7],
                    borrows,
                    "{interface} {vrf}"
                );
            }
        }
        bench.finish();
    }

    #[test]
    fn errors_are_limited_and_the_limit_recovers() {
        let mut bench = Workbench::only(Box::<IcmpError>::default());
        let send = |bench: &mut Workbench, count: usize| {
            let before = bench.arrived().len();
            for _ in 0..count {
                let bytes = packet4(HOST_IP, FAR_IP, 17, &[]);
                bench.put(NodeId::IcmpError, LAN, &bytes, |meta| {
                    meta.icmp = IcmpCause::no_route(false);
                });
                bench.run();
            }
            bench.arrived().len() - before
        };
        assert_eq!(send(&mut bench, 200), BURST as usize);
        assert_eq!(bench.drops(DropReason::IcmpRateLimited), 150);
        bench.now += 10_000_000;
        assert_eq!(send(&mut bench, 200), 10);
        bench.now += 3_600_000_000_000;
        assert_eq!(send(&mut bench, 200), BURST as usize);
        // A scan has used up its share; path MTU discovery has its own.
        let before = bench.arrived().len();
        for _ in 0..100 {
            for (bytes, cause) in [
                (
                    packet4(HOST_IP, FAR_IP, 17, &[]),
                    IcmpCause::too_big(false, 1400),
                ),
                (
                    packet6(HOST_IP6, FAR_IP6, 17, 64, &[]),
                    IcmpCause::too_big(true, 1400),
                ),
            ] {
                bench.put(NodeId::IcmpError, LAN, &bytes, |meta| meta.icmp = cause);
                bench.run();
            }
        }
        assert_eq!(bench.arrived().len() - before, BURST as usize);
        assert_eq!(send(&mut bench, 1), 0);
        // As configured.
        bench.tables.icmp_errors = Rate { rate: 10, burst: 3 };
        assert_eq!(send(&mut bench, 200), 3);
        bench.now += 200_000_000;
        assert_eq!(send(&mut bench, 200), 2);
        bench.finish();
    }
}
