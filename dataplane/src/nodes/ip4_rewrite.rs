//! The last look at an IPv4 packet before it leaves (RFC 1812 section 5.3): MTU, TTL, checksums, link header.
//!
//! ```text
//!   ip4-lookup, esp-encrypt -> ip4-rewrite -> interface-output
//!                                       |--> ip-fragment    (too big: comes back in fragments)
//!                                       '--> icmp-error     (too big and not to be fragmented, TTL run out)
//! ```
//!
//! The box's own packets (of Linux, of its tunnels, its ICMP errors) keep their TTL.

use culvert_net::{Ipv4Mut, MacAddr};

use super::dispatch::is_own;
use super::icmp_error;
use super::ip_fragment;
use super::together::{forward_rest, ready};
use super::way_out::{Refusal, WayOut, complete, finish};
use crate::buffer::{BufferPool, IcmpCause, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};
use crate::nodes::mss_clamp;

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::Ip4Rewrite,
    next: &[
        NodeId::InterfaceOutput,
        NodeId::IpFragment,
        NodeId::IcmpError,
    ],
};

/// See the module.
#[derive(Default)]
pub struct Ip4Rewrite;

impl Node for Ip4Rewrite {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        let tables = context.tables;
        let mut way = WayOut::NONE;
        let mut detour = false;
        let buffers = &*context.buffers;
        let done = ready(buffers, vector, NodeId::InterfaceOutput, |packet| {
            let adjacency = buffers.meta(packet).adjacency;
            if adjacency != way.adjacency {
                way = WayOut::of(tables, adjacency, false);
            }
            is_rewritten(buffers, packet, &way)
        });
        forward_rest(
            context,
            vector,
            done,
            |context, packet| {
                let adjacency = context.buffers.meta(packet).adjacency;
                if adjacency != way.adjacency {
                    way = WayOut::of(tables, adjacency, false);
                }
                let next = rewrite(context.buffers, packet, &way, detour);
                detour |= next == Ok(NodeId::IpFragment);
                next
            },
            |context, packet, refusal| match refusal {
                Refusal::Drop(reason) => context.drop(packet, reason),
                Refusal::Icmp(cause) => icmp_error::refuse(context, packet, cause),
            },
        );
    }
}

#[inline(always)]
fn rewrite(
    buffers: &BufferPool,
    packet: &mut Packet,
    way: &WayOut,
    detour: bool,
) -> Result<NodeId, Refusal> {
    if !detour && is_rewritten(buffers, packet, way) {
        return Ok(NodeId::InterfaceOutput);
    }
    rewrite_closely(buffers, packet, way, detour)
}

/// Rewrites a packet as most are: it fits, has a hop left, its checksum is its sender's, and its way has a link header.
/// Any other is left as it is.
#[inline(always)]
fn is_rewritten(buffers: &BufferPool, packet: &mut Packet, way: &WayOut) -> bool {
    let (meta, data) = buffers.parts_mut(packet);
    let forwarded = !is_own(meta.flags);
    if meta.len() > usize::from(way.usual)
        || meta.flags & flags::CHECKSUM_PARTIAL != 0
        || meta.offset() < way.usual_header().len()
    {
        return false;
    }
    let Some(header) = data.first_chunk_mut::<20>() else {
        return false;
    };
    if forwarded {
        if header[8] <= 1 {
            return false;
        }
        Ipv4Mut::from_array(header).decrement_ttl();
        if let Some(mss) = way.mss {
            mss_clamp::clamp(data, false, mss);
        }
    }
    finish(buffers, packet, way.interface, way.usual_header()).is_ok()
}

#[cold]
#[inline(never)]
fn rewrite_closely(
    buffers: &BufferPool,
    packet: &mut Packet,
    way: &WayOut,
    detour: bool,
) -> Result<NodeId, Refusal> {
    let mut link = way.header()?;
    let (meta, data) = buffers.parts_mut(packet);
    complete(meta, data)?;
    let header = data
        .first_chunk_mut::<20>()
        .ok_or(Refusal::Drop(DropReason::Ip4Malformed))?;
    if way.multicast {
        let [.., d0, d1, d2, d3] = *header;
        let group = std::net::Ipv4Addr::new(d0, d1, d2, d3);
        let MacAddr(mac) = if group.is_multicast() {
            MacAddr::of_ipv4_multicast(group)
        } else {
            MacAddr::BROADCAST
        };
        link.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
    }
    let forwarded = !is_own(meta.flags);
    if forwarded && header[8] <= 1 {
        return Err(Refusal::Icmp(IcmpCause::time_exceeded(false)));
    }
    // Before the TTL is changed: an error quotes the packet as it came, and fragments come here again.
    if meta.len() > usize::from(way.mtu) {
        if header[6] & 0x40 != 0 {
            return Err(Refusal::Icmp(IcmpCause::too_big(false, way.mtu)));
        }
        ip_fragment::ask(meta, way.mtu, NodeId::Ip4Rewrite);
        return Ok(NodeId::IpFragment);
    }
    if detour {
        // A packet before it is cut first. It comes here again, behind the fragments.
        ip_fragment::pass(meta, NodeId::Ip4Rewrite);
        return Ok(NodeId::IpFragment);
    }
    if forwarded {
        Ipv4Mut::from_array(header).decrement_ttl();
        if let Some(mss) = way.mss {
            mss_clamp::clamp(data, false, mss);
        }
    }
    finish(buffers, packet, way.interface, &link)?;
    Ok(NodeId::InterfaceOutput)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Ipv4View, TcpView, checksum};

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP, HOST_IP, LAN, ROUTER_MAC, TO_ROUTER, WAN, WAN_MAC, Workbench, packet4, packet4_with,
    };
    use crate::tables::{Adjacency, AdjacencyKind, MssClamp};

    fn put(bench: &mut Workbench, bytes: &[u8], flags: u32) {
        bench.put(NodeId::Ip4Rewrite, LAN, bytes, |meta| {
            meta.adjacency = TO_ROUTER;
            meta.flags |= flags;
        });
    }

    #[test]
    fn a_forwarded_packet_gets_its_link_header_and_loses_one_hop() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        for ttl in 2..=255 {
            let bytes = packet4_with(HOST_IP, FAR_IP, 17, b"data", |header| header.ttl = ttl);
            put(&mut bench, &bytes, 0);
            bench.run();
            let arrived = bench.arrived().pop().unwrap();
            assert_eq!(arrived.node, NodeId::InterfaceOutput);
            assert_eq!(arrived.meta.tx_interface, WAN);
            assert_eq!(arrived.bytes[..6], ROUTER_MAC.0);
            assert_eq!(arrived.bytes[6..12], WAN_MAC.0);
            assert_eq!(arrived.bytes[12..14], [8, 0]);
            let view = Ipv4View::verify(&arrived.bytes[14..]).unwrap();
            assert_eq!(view.ttl(), ttl - 1);
            assert_eq!(view.payload(), b"data");
        }
        bench.finish();
    }

    /// What is rewritten at once is what the close look makes of it; what is not is left for it as it came.
    #[test]
    fn both_looks_agree() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        let mut random = crate::driver::generator::Random::new(5);
        let mut at_once = 0;
        for number in 0..2000u32 {
            if number % 10 == 0 {
                bench.change_interface(WAN, |interface| {
                    interface.mss_clamp =
                        [MssClamp::Off, MssClamp::Fixed(900)][random.below(2) as usize];
                });
            }
            let way = WayOut::of(&bench.tables, TO_ROUTER, false);
            let segment = [
                &[
                    0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff,
                ][..],
                &[0, 0, 0, 0, 2, 4, 5, 0xb4],
                &vec![7; [0, 10, 1456, 1457][random.below(4) as usize]],
            ]
            .concat();
            let bytes = packet4_with(HOST_IP, FAR_IP, 6, &segment, |header| {
                header.ttl = [0, 1, 2, 64, 255][random.below(5) as usize];
                header.identification = random.below(1 << 16) as u16;
            });
            let own = [0, 0, flags::ENCRYPTED, flags::CHECKSUM_PARTIAL][random.below(4) as usize];
            let mut pool = BufferPool::new(8).unwrap();
            let mut twins = [pool.allocate().unwrap(), pool.allocate().unwrap()];
            for packet in &mut twins {
                let meta = pool.meta_mut(packet);
                meta.set_len(bytes.len()).unwrap();
                meta.flags = own;
                (meta.checksum_start, meta.checksum_offset) = (20, 16);
                pool.data_mut(packet).copy_from_slice(&bytes);
            }
            let [one, other] = &mut twins;
            if is_rewritten(&pool, one, &way) {
                at_once += 1;
                let node = rewrite_closely(&pool, other, &way, false);
                assert_eq!(node, Ok(NodeId::InterfaceOutput));
                assert_eq!(pool.data(one), pool.data(other));
            } else {
                assert_eq!(pool.data(one), bytes);
            }
            let metas = [&*one, &*other].map(|packet| format!("{:?}", pool.meta(packet)));
            assert_eq!(metas[0], metas[1]);
            pool.free_all(twins);
        }
        assert!((500..1500).contains(&at_once), "{at_once}");
        bench.finish();
    }

    #[test]
    fn own_packets_keep_their_ttl_and_the_last_hop_ends_here() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        let last = packet4_with(HOST_IP, FAR_IP, 17, &[], |header| header.ttl = 1);
        for own in [flags::INJECTED, flags::ORIGINATED, flags::ENCRYPTED] {
            put(&mut bench, &last, own);
            bench.run();
            let arrived = bench.arrived().pop().unwrap();
            assert_eq!(arrived.node, NodeId::InterfaceOutput);
            assert_eq!(arrived.bytes[14..], last);
        }
        put(&mut bench, &last, flags::DECRYPTED);
        bench.run();
        let arrived = bench.arrived().pop().unwrap();
        assert_eq!(arrived.node, NodeId::IcmpError);
        assert_eq!((arrived.meta.icmp.kind, arrived.bytes), (11, last));
        bench.finish();
    }

    #[test]
    fn what_is_too_big_is_told_to_its_sender_or_cut() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        let big = |df: bool, length: usize| {
            packet4_with(HOST_IP, FAR_IP, 17, &vec![0; length - 20], |header| {
                header.flags_fragment = if df { 0x4000 } else { 0 };
            })
        };
        put(&mut bench, &big(true, 1500), 0);
        put(&mut bench, &big(false, 1501), 0);
        put(&mut bench, &big(true, 1501), 0);
        bench.run();
        let arrived = bench.arrived();
        assert_eq!(arrived.len(), 3);
        let whole = arrived
            .iter()
            .find(|arrived| arrived.node == NodeId::IpFragment)
            .unwrap();
        assert_eq!(
            whole.bytes,
            big(false, 1501),
            "hops are taken from the fragments"
        );
        let error = arrived
            .iter()
            .find(|arrived| arrived.node == NodeId::IcmpError)
            .unwrap();
        let icmp = error.meta.icmp;
        assert_eq!((icmp.kind, icmp.code, icmp.mtu), (3, 4, 1500));
        bench.finish();
    }

    /// Source, destination and pseudo header are those of the packet; the kernel left the checksum to us.
    #[test]
    fn a_checksum_that_was_left_to_us_is_filled_in_and_the_mss_is_bounded() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        bench.change_interface(WAN, |interface| interface.mss_clamp = MssClamp::FromMtu);
        bench.set_adjacency(
            TO_ROUTER,
            Adjacency {
                mtu: 1400,
                ..bench
                    .tables
                    .adjacencies
                    .get(TO_ROUTER)
                    .unwrap()
                    .as_ref()
                    .clone()
            },
        );
        let mut segment = [
            0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5,
            0xb4,
        ];
        let pseudo = checksum::pseudo_v4(HOST_IP, FAR_IP, culvert_net::Protocol::TCP, 24);
        segment[16..18].copy_from_slice(&pseudo.folded().to_be_bytes());
        bench.put(
            NodeId::Ip4Rewrite,
            LAN,
            &packet4(HOST_IP, FAR_IP, 6, &segment),
            |meta| {
                meta.adjacency = TO_ROUTER;
                meta.flags |= flags::CHECKSUM_PARTIAL;
                (meta.checksum_start, meta.checksum_offset) = (20, 16);
            },
        );
        bench.run();
        let arrived = bench.arrived().pop().unwrap();
        let tcp = &arrived.bytes[34..];
        assert_eq!(TcpView::parse(tcp).unwrap().mss(), Some(1360));
        assert_eq!(pseudo.add_bytes(tcp).finish(), 0);
        bench.finish();
    }

    #[test]
    fn a_group_is_reached_by_its_own_link_address() {
        let mut bench = Workbench::only(Box::new(Ip4Rewrite));
        bench.set_adjacency(
            TO_ROUTER,
            Adjacency {
                kind: AdjacencyKind::Multicast,
                interface: WAN,
                mtu: 1500,
            },
        );
        let bytes = packet4(HOST_IP, [224, 0, 0, 5].into(), 89, &[]);
        put(&mut bench, &bytes, flags::INJECTED);
        bench.run();
        let arrived = bench.arrived().pop().unwrap();
        assert_eq!(arrived.bytes[..6], [1, 0, 0x5e, 0, 0, 5]);
        assert_eq!(arrived.bytes[6..12], WAN_MAC.0);
        bench.change_interface(WAN, |interface| interface.admin_up = false);
        put(&mut bench, &bytes, flags::INJECTED);
        bench.run();
        assert_eq!(bench.drops(DropReason::InterfaceDown), 1);
        bench.finish();
    }
}
