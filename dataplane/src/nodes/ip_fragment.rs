//! Cuts packets that are larger than the link or tunnel that they leave by (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! ```text
//!   ip4-rewrite, ip6-rewrite -> ip-fragment -> ip4-rewrite, ip6-rewrite     larger than the link's MTU
//!              tunnel-output -> ip-fragment -> esp-encrypt                  larger than the tunnel's, before encryption
//! ```
//!
//! Who sends one packet here sends all later packets of its vector here, too (`pass`): the order within a flow is
//! kept, for a whole packet must not overtake one that is cut.
//!
//! Whoever sends a packet here has seen that it may be cut: of IPv4 those without DF, of IPv6 only what we send
//! ourselves. The metadata says for which MTU, and who takes the fragments.

use arrayvec::ArrayVec;
use culvert_net::Protocol;
use culvert_net::fragment::{FragmentError, Ipv4Cut, Ipv6Cut, Piece};

use crate::buffer::{BufferPool, HEADROOM, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::{Context, Node, NodeId, NodeSpec, Vector};

const SPEC: NodeSpec = NodeSpec {
    id: NodeId::IpFragment,
    next: &[
        NodeId::Ip4Rewrite,
        NodeId::Ip6Rewrite,
        NodeId::Ip4Lookup,
        NodeId::Ip6Lookup,
        NodeId::EspEncrypt,
        NodeId::Encapsulate,
        NodeId::IcmpError,
    ],
};

/// Fragments that one packet can become: 10 KiB in pieces of 213 bytes, where IPv4 asks for 68 and links have 576.
const MOST: usize = 48;
/// Bytes of the longest header of a fragment.
const LONGEST_HEADER: usize = 60;
/// Where the answer to [`ask`] stands in [`Metadata::scratch`]; the lower half is left to the node after.
const MTU_SHIFT: u32 = 32;
const NEXT_SHIFT: u32 = 48;
/// No packet is larger: it is passed on as it is.
const WHOLE: u16 = u16::MAX;
/// Bits of an IPv6 identification that a worker counts by itself; above them is its number, so that no two workers
/// give the same to packets between the same addresses.
const COUNTED_BITS: u32 = 24;

/// Says how the packet is to be cut, and which node takes the fragments, their metadata as the packet's is now.
#[inline]
pub(super) fn ask(meta: &mut Metadata, mtu: u16, next: NodeId) {
    let kept = meta.scratch & u64::from(u32::MAX);
    meta.scratch = kept | u64::from(mtu) << MTU_SHIFT | (next as u64) << NEXT_SHIFT;
}

/// Says that the packet is not to be cut, only not to overtake those that are, and which node takes it.
#[inline]
pub(super) fn pass(meta: &mut Metadata, next: NodeId) {
    ask(meta, WHOLE, next);
}

fn asked(meta: &Metadata) -> (u16, NodeId) {
    let number = meta.scratch >> NEXT_SHIFT;
    let next = SPEC.next.iter().find(|next| **next as u64 == number);
    let next = next.copied().unwrap_or(NodeId::Ip4Rewrite);
    ((meta.scratch >> MTU_SHIFT) as u16, next)
}

/// See the module.
#[derive(Default)]
pub struct IpFragment {
    /// For IPv6 packets, which have no identification before they are cut. Unpredictable is what matters between hosts
    /// (RFC 7739); between gateways the ICV is.
    counted: u32,
}

impl Node for IpFragment {
    fn spec(&self) -> &'static NodeSpec {
        &SPEC
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            let (mtu, next) = asked(context.buffers.meta(&packet));
            if mtu == WHOLE {
                context.send(next, packet);
                continue;
            }
            self.counted = self.counted.wrapping_add(1) & ((1 << COUNTED_BITS) - 1);
            let identification = context.worker << COUNTED_BITS | self.counted;
            match cut(context.buffers, &packet, mtu, identification) {
                Ok(fragments) => {
                    context.counters.fragments.add(fragments.len() as u64);
                    for fragment in fragments {
                        context.send(next, fragment);
                    }
                    context.counters.drop(DropReason::Fragmented).add(1);
                    context.note_drop(&packet, DropReason::Fragmented);
                    context.buffers.free(packet);
                }
                Err(reason) => context.drop(packet, reason),
            }
        }
    }
}

/// One of both families.
enum Cut<'a> {
    Four(Ipv4Cut<'a>),
    Six(Ipv6Cut<'a>),
}

impl<'a> Cut<'a> {
    fn new(packet: &'a [u8], mtu: u16, identification: u32) -> Result<Self, FragmentError> {
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            Ipv6Cut::new(packet, mtu, identification).map(Self::Six)
        } else {
            Ipv4Cut::new(packet, mtu).map(Self::Four)
        }
    }

    fn pieces(&self) -> Result<ArrayVec<Piece, MOST>, DropReason> {
        let mut pieces = ArrayVec::new();
        let mut add = |piece| pieces.try_push(piece).map_err(|_| DropReason::MtuExceeded);
        match self {
            Self::Four(cut) => cut.pieces().try_for_each(&mut add)?,
            Self::Six(cut) => cut.pieces().try_for_each(&mut add)?,
        }
        Ok(pieces)
    }

    fn write(&self, packet: &[u8], piece: Piece, to: &mut [u8]) -> Option<usize> {
        match self {
            Self::Four(cut) => cut.write(packet, piece, to),
            Self::Six(cut) => cut.write(piece, to),
        }
    }
}

fn cut(
    buffers: &mut BufferPool,
    packet: &Packet,
    mtu: u16,
    identification: u32,
) -> Result<ArrayVec<Packet, MOST>, DropReason> {
    let refuse = |_| DropReason::MtuExceeded;
    let pieces = Cut::new(buffers.data(packet), mtu, identification)
        .map_err(refuse)?
        .pieces()?;
    let mut fragments = ArrayVec::<Packet, MOST>::new();
    for piece in &pieces {
        // With the header, which is at most as long as all of IPv4's, or as that of an IPv6 packet that may be cut.
        let Some(fragment) = buffers.allocate_for(piece.length + LONGEST_HEADER) else {
            buffers.free_all(fragments);
            return Err(DropReason::NoBuffer);
        };
        fragments.push(fragment);
    }
    let written = fill(
        buffers,
        packet,
        mtu,
        identification,
        &pieces,
        &mut fragments,
    );
    if written.is_none() {
        buffers.free_all(fragments);
        return Err(DropReason::NoRoom);
    }
    Ok(fragments)
}

fn fill(
    buffers: &BufferPool,
    packet: &Packet,
    mtu: u16,
    identification: u32,
    pieces: &[Piece],
    fragments: &mut [Packet],
) -> Option<()> {
    let data = buffers.data(packet);
    let like = buffers.meta(packet);
    let cut = Cut::new(data, mtu, identification).ok()?;
    for (piece, fragment) in pieces.iter().zip(fragments) {
        let (meta, area) = buffers.area_mut(fragment);
        let length = cut.write(data, *piece, area.get_mut(HEADROOM..)?)?;
        meta.inherit(like);
        meta.set_view(HEADROOM, length).ok()?;
        meta.l3_offset = HEADROOM as u16;
        meta.flags &= !flags::CHECKSUM_PARTIAL;
    }
    Some(())
}

/// Whether a packet of ours may be cut: IPv6 without extension headers that fragments would have to repeat.
#[inline]
pub(super) fn may_be_cut6(header: &[u8; 40]) -> bool {
    matches!(
        Protocol(header[6]),
        Protocol::ESP | Protocol::UDP | Protocol::GRE | Protocol::IPV4 | Protocol::IPV6
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Ipv4View, Ipv6View};

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, LAN, TO_ROUTER, Workbench, packet4, packet6,
    };

    #[test]
    fn fragments_take_the_packets_metadata_along() {
        let mut bench = Workbench::only(Box::<IpFragment>::default());
        let payload: Vec<u8> = (0..1800).map(|at| at as u8).collect();
        for (bytes, next) in [
            (packet4(HOST_IP, FAR_IP, 17, &payload), NodeId::EspEncrypt),
            (
                packet6(HOST_IP6, FAR_IP6, 50, 64, &payload),
                NodeId::Ip6Rewrite,
            ),
        ] {
            bench.put(NodeId::IpFragment, LAN, &bytes, |meta| {
                meta.adjacency = TO_ROUTER;
                meta.scratch = 77;
                meta.sa = 5;
                ask(meta, 1280, next);
            });
            bench.run();
            let arrived = bench.take_arrived();
            assert_eq!(arrived.len(), 2);
            let mut made = Vec::new();
            for fragment in &arrived {
                assert_eq!(fragment.node, next);
                assert!(fragment.bytes.len() <= 1280);
                let meta = &fragment.meta;
                assert_eq!(
                    (meta.adjacency, meta.sa, meta.scratch as u32),
                    (TO_ROUTER, 5, 77)
                );
                match Ipv4View::verify(&fragment.bytes) {
                    Ok(view) => made.extend_from_slice(view.payload()),
                    Err(_) => made.extend_from_slice(
                        &Ipv6View::parse(&fragment.bytes).unwrap().payload()[8..],
                    ),
                }
            }
            assert_eq!(made, payload);
        }
        assert_eq!(bench.drops(DropReason::Fragmented), 2);
        assert_eq!(bench.counters.fragments.get(), 4);
        bench.finish();
    }

    #[test]
    fn without_buffers_the_whole_packet_is_dropped() {
        let mut bench = Workbench::only(Box::<IpFragment>::default());
        let bytes = packet4(HOST_IP, FAR_IP, 17, &[7; 1000]);
        bench.put(NodeId::IpFragment, LAN, &bytes, |meta| {
            ask(meta, 576, NodeId::Ip4Rewrite);
        });
        let taken: Vec<_> = std::iter::from_fn(|| bench.buffers.allocate()).collect();
        bench.run();
        assert_eq!(bench.drops(DropReason::NoBuffer), 1);
        assert!(bench.take_arrived().is_empty());
        bench.buffers.free_all(taken);
        bench.finish();
    }
}
