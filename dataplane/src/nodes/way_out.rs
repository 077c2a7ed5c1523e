//! What all packets of one adjacency share when they leave, and how a frame is finished.

use culvert_net::{EtherType, checksum};

use crate::buffer::{BufferPool, IcmpCause, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::tables::{AdjacencyKind, Tables};

/// Why a packet does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Drop(DropReason),
    Icmp(IcmpCause),
}

/// The way of the packets of one adjacency.
pub(super) struct WayOut {
    pub(super) adjacency: u32,
    pub(super) interface: u32,
    pub(super) mtu: u16,
    /// The largest MSS of forwarded TCP SYNs.
    pub(super) mss: Option<u16>,
    /// The link destination follows from the packet's.
    pub(super) multicast: bool,
    /// The largest packet that needs nothing but the header below: 0 if others than large ones need more.
    pub(super) usual: u16,
    header: [u8; 14],
    refused: Option<DropReason>,
}

impl WayOut {
    /// Of no adjacency.
    pub(super) const NONE: Self = Self {
        adjacency: u32::MAX,
        interface: 0,
        mtu: 0,
        mss: None,
        multicast: false,
        usual: 0,
        header: [0; 14],
        refused: Some(DropReason::NoRoute),
    };

    pub(super) fn of(tables: &Tables, index: u32, v6: bool) -> Self {
        let none = Self {
            adjacency: index,
            ..Self::NONE
        };
        let Some(adjacency) = tables.adjacencies.get(index) else {
            return none;
        };
        let Some(interface) = tables.interfaces.get(adjacency.interface) else {
            return none;
        };
        let way = Self {
            interface: adjacency.interface,
            mtu: adjacency.mtu,
            mss: interface.mss_clamp.most(|| adjacency.mtu, v6),
            ..none
        };
        if !interface.admin_up {
            return Self {
                refused: Some(DropReason::InterfaceDown),
                ..way
            };
        }
        match (&adjacency.kind, interface.mac()) {
            (AdjacencyKind::Rewrite(header), _) => Self {
                usual: adjacency.mtu,
                header: *header,
                refused: None,
                ..way
            },
            (AdjacencyKind::Multicast, Some(mac)) => {
                let mut header = [0; 14];
                let kind = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
                let rest = mac.0.into_iter().chain(kind.0.to_be_bytes());
                header
                    .iter_mut()
                    .skip(6)
                    .zip(rest)
                    .for_each(|(to, from)| *to = from);
                Self {
                    header,
                    refused: None,
                    multicast: true,
                    ..way
                }
            }
            _ => way,
        }
    }

    /// The link header, or why there is none.
    #[inline(always)]
    pub(super) fn header(&self) -> Result<[u8; 14], Refusal> {
        match self.refused {
            Some(reason) => Err(Refusal::Drop(reason)),
            None => Ok(self.header),
        }
    }

    /// The link header of packets that are not larger than [`usual`](Self::usual).
    #[inline(always)]
    pub(super) fn usual_header(&self) -> &[u8; 14] {
        &self.header
    }
}

/// Completes a checksum that was left to us. Comes before every other change of what it covers: until then the field
/// holds a sum of the pseudo header, which cannot be mended incrementally.
#[inline(always)]
pub(super) fn complete(meta: &mut Metadata, data: &mut [u8]) -> Result<(), Refusal> {
    if meta.flags & flags::CHECKSUM_PARTIAL == 0 {
        return Ok(());
    }
    let (start, offset) = (
        usize::from(meta.checksum_start),
        usize::from(meta.checksum_offset),
    );
    meta.flags &= !flags::CHECKSUM_PARTIAL;
    let behind_header = match data.first() {
        Some(first) if first >> 4 == 6 => 40,
        first => first
            .map_or(0, |first| usize::from(first & 0x0f) * 4)
            .max(20),
    };
    // What the kernel said of the frame does not fit it, or would change addresses that have been looked up already: the
    // packet is damaged.
    if start < behind_header || checksum::complete_l4(data, start, offset).is_err() {
        return Err(Refusal::Drop(DropReason::TxError));
    }
    Ok(())
}

/// Puts the link header before the packet.
#[inline(always)]
pub(super) fn finish(
    buffers: &BufferPool,
    packet: &mut Packet,
    interface: u32,
    link: &[u8; 14],
) -> Result<(), Refusal> {
    let (meta, area) = buffers.area_mut(packet);
    meta.tx_interface = interface;
    meta.push_front(link.len())
        .map_err(|_| Refusal::Drop(DropReason::NoRoom))?;
    let front = area
        .get_mut(meta.offset()..)
        .and_then(<[u8]>::first_chunk_mut);
    if let Some(front) = front {
        *front = *link;
    }
    Ok(())
}
