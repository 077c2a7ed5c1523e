//! Packet buffers: one region of memory, cut into equal buffers that are referred to by a small token.
//!
//! ```text
//!  region  | buffer 0 | buffer 1 | ...                       (huge pages when there are some)
//!  buffer  | Metadata, 1 line | headroom 128 B | data 2048 B  |
//!                               ^ outer headers  ^ frame as received ... padding and ICV fit behind
//! ```
//!
//! A [`Packet`] is the only way to a buffer. It can be neither copied nor made outside this module, so whoever
//! holds it is the only one who reads or writes that buffer: nodes pass packets on by value, and the accessors
//! of [`BufferPool`] need no lock. Each worker has a pool of its own; a buffer returns to the pool that it came from.
//!
//! The stride is an odd number of cache lines: with a power of two the metadata of a whole vector would
//! compete for two sets of the first-level cache.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::ptr::NonNull;

use thiserror::Error;

use crate::mapping::{Mapping, Pages};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes before a received frame: outer Ethernet, IPv6, UDP and ESP headers with their IV fit (14 + 40 + 8 + 8 + 16).
pub const HEADROOM: usize = 128;
/// Bytes of the data area behind the headroom: a 1518-byte frame with tunnel overhead, padding and ICV.
pub const DATA: usize = 2048;
/// Bytes from one buffer to the next: 35 lines.
const STRIDE: usize = size_of::<Metadata>() + HEADROOM + DATA;
/// Bytes of the area that headers and payload share.
pub const AREA: usize = HEADROOM + DATA;

const _: () = assert!(size_of::<Metadata>() == LINE);
const _: () = assert!(STRIDE.is_multiple_of(LINE) && (STRIDE / LINE) % 2 == 1);

/// The sole reference to one buffer; worth its weight: dropping it leaks the buffer, so it is passed on or freed.
#[derive(PartialEq, Eq)]
#[must_use = "a packet is passed on or freed, or its buffer is lost"]
pub struct Packet(NonZeroU32);

impl Packet {
    /// Number of its buffer, below the pool's capacity.
    pub(crate) const fn number(&self) -> u32 {
        self.0.get() - 1
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packet({})", self.number())
    }
}

/// What a packet carries beside its bytes from node to node: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Metadata {
    /// Offset of the first byte of the current view in the area.
    offset: u16,
    /// Bytes of the current view.
    length: u16,
    /// Offset of the network header from the start of the area; set by the IP input nodes.
    pub l3_offset: u16,
    /// Offset of the transport header from the start of the area; set where it is known.
    pub l4_offset: u16,
    /// What is known of the packet, see [`flags`].
    pub flags: u32,
    /// Index of the interface (or tunnel interface) by which it came in.
    pub rx_interface: u32,
    /// Index of the interface by which it leaves.
    pub tx_interface: u32,
    /// Index of the VRF in which it is looked up.
    pub vrf: u32,
    /// Index of the adjacency that the lookup found.
    pub adjacency: u32,
    /// Index of the SA that it is for.
    pub sa: u32,
    /// Where what the L4 checksum covers begins (`PACKET_VNET_HDR`): from the driver to ethernet-input relative to the
    /// frame, from then on relative to the network header.
    pub checksum_start: u16,
    /// Offset of the checksum field from `checksum_start`.
    pub checksum_offset: u16,
    /// Hash of the flow, for ECMP.
    pub flow_hash: u32,
    /// Error to send, see the ICMP error node: type, code and a 16-bit parameter.
    pub icmp: IcmpCause,
    /// Node-private scratch between a node and its successor.
    pub scratch: u64,
    /// Number of the trace that it belongs to, when [`flags::TRACED`] is set.
    pub trace: u32,
    reserved: u32,
}

/// Which ICMP error a packet has caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IcmpCause {
    /// Type, in the numbers of the packet's own family.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Next-hop MTU where the type has one; of a parameter problem, where in the packet it is.
    pub mtu: u16,
}

/// Bits of [`Metadata::flags`].
pub mod flags {
    /// The kernel has left the L4 checksum to us (`checksum_start` and `checksum_offset` hold).
    pub const CHECKSUM_PARTIAL: u32 = 1 << 0;
    /// Came out of a TAP: the box's own traffic.
    pub const INJECTED: u32 = 1 << 1;
    /// Came out of a tunnel.
    pub const DECRYPTED: u32 = 1 << 2;
    /// Written by ourselves (ICMP error, neighbour solicitation).
    pub const ORIGINATED: u32 = 1 << 3;
    /// Is ESP that we have made: never encrypted again by the same tunnel, sent in the underlay.
    pub const ENCRYPTED: u32 = 1 << 4;
    /// Sent by the link layer to more than us.
    pub const LINK_MULTICAST: u32 = 1 << 5;
    /// Every node's view of it is recorded.
    pub const TRACED: u32 = 1 << 6;
    /// The ICMP error that it has caused is what a route says of its destination.
    pub const REFUSED_BY_ROUTE: u32 = 1 << 7;
}

impl Metadata {
    /// Bytes of the current view.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether the current view has no bytes.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Offset of the current view from the start of the area.
    #[inline(always)]
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    /// Moves the start of the view `bytes` towards the headroom; refused when there is no room.
    #[inline(always)]
    pub fn push_front(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes > self.offset as usize {
            return Err(NoRoom);
        }
        self.offset -= bytes as u16;
        self.length += bytes as u16;
        Ok(())
    }

    /// Moves the start of the view `bytes` into it; refused when it is shorter.
    #[inline(always)]
    pub fn pull_front(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes > self.length as usize {
            return Err(NoRoom);
        }
        self.offset += bytes as u16;
        self.length -= bytes as u16;
        Ok(())
    }

    /// Makes the view end `length` bytes after its start; refused when the area is shorter.
    #[inline(always)]
    pub fn set_len(&mut self, length: usize) -> Result<(), NoRoom> {
        if length > AREA - self.offset as usize {
            return Err(NoRoom);
        }
        self.length = length as u16;
        Ok(())
    }

    /// Puts the view at `offset..offset + length` of the area; refused when that is outside.
    #[inline(always)]
    pub fn set_view(&mut self, offset: usize, length: usize) -> Result<(), NoRoom> {
        if offset > AREA || length > AREA - offset {
            return Err(NoRoom);
        }
        self.offset = offset as u16;
        self.length = length as u16;
        Ok(())
    }
}

/// The buffer has no room for that many bytes there.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the buffer has no room for this")]
pub struct NoRoom;

/// Why there are no buffers.
#[derive(Debug, Error)]
pub enum RegionError {
    /// The kernel gave no memory.
    #[error("cannot map {bytes} bytes for packet buffers: {source}")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// More buffers than a token can name.
    #[error("{0} buffers are too many")]
    TooMany(usize),
}

/// The buffers of one worker and the list of those that are free.
pub struct BufferPool {
    region: Mapping,
    free: Vec<Packet>,
    count: usize,
}

impl BufferPool {
    /// Maps and threads `count` buffers.
    pub fn new(count: usize) -> Result<Self, RegionError> {
        if u32::try_from(count).is_err() || count == u32::MAX as usize {
            return Err(RegionError::TooMany(count));
        }
        let bytes = count
            .checked_mul(STRIDE)
            .ok_or(RegionError::TooMany(count))?;
        let region = Mapping::new(bytes, Pages::Huge)
            .map_err(|source| RegionError::Map { bytes, source })?;
        let free = (1..=count as u32)
            .rev()
            .filter_map(NonZeroU32::new)
            .map(Packet)
            .collect();
        Ok(Self {
            region,
            free,
            count,
        })
    }

    /// Buffers in the pool, free or not.
    pub fn capacity(&self) -> usize {
        self.count
    }

    /// Buffers that are free now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Whether the region got huge pages of its own (else the kernel was asked for transparent ones).
    pub fn huge_pages(&self) -> bool {
        self.region.huge_pages()
    }

    /// A buffer with an empty view behind the headroom; `None` when all are in use.
    #[inline(always)]
    pub fn allocate(&mut self) -> Option<Packet> {
        let mut packet = self.free.pop()?;
        *self.meta_mut(&mut packet) = Metadata {
            offset: HEADROOM as u16,
            ..Metadata::default()
        };
        Some(packet)
    }

    /// Gives a buffer back.
    #[inline(always)]
    pub fn free(&mut self, packet: Packet) {
        self.free.push(packet);
    }

    /// Gives all of these back.
    #[inline]
    pub fn free_all(&mut self, packets: impl IntoIterator<Item = Packet>) {
        self.free.extend(packets);
    }

    #[inline(always)]
    fn at(&self, packet: &Packet) -> NonNull<u8> {
        let index = packet.0.get() as usize - 1;
        debug_assert!(index < self.count);
        // SAFETY: packets are made in `new` only, with indexes below `count`, and `map` mapped `count * STRIDE` bytes.
        // A process has one pool a worker, and a packet stays with its worker.
        unsafe { self.region.base().add(index * STRIDE) }
    }

    /// The metadata of a packet.
    #[inline(always)]
    pub fn meta<'a>(&'a self, packet: &'a Packet) -> &'a Metadata {
        // SAFETY: `at` points to a buffer whose first line is a `Metadata`, aligned since the mapping is and the
        // stride is a multiple of the line; any bit pattern is a valid one. The packet is borrowed, so nobody writes.
        unsafe { self.at(packet).cast().as_ref() }
    }

    /// The metadata of a packet, to write.
    #[inline(always)]
    pub fn meta_mut<'a>(&'a self, packet: &'a mut Packet) -> &'a mut Metadata {
        // SAFETY: as in `meta`; the packet is borrowed mutably and is the only reference to its buffer.
        unsafe { self.at(packet).cast().as_mut() }
    }

    /// The bytes of the current view.
    #[inline(always)]
    pub fn data<'a>(&'a self, packet: &'a Packet) -> &'a [u8] {
        let meta = self.meta(packet);
        // SAFETY: the view lies inside the area (every method of Metadata that moves it checks), which lies behind the
        // metadata in the same buffer; the packet is borrowed, so nobody writes.
        unsafe {
            let start = self.at(packet).add(LINE + meta.offset as usize);
            std::slice::from_raw_parts(start.as_ptr(), meta.length as usize)
        }
    }

    /// The metadata and the bytes of the current view, to write.
    #[inline(always)]
    pub fn parts_mut<'a>(&'a self, packet: &'a mut Packet) -> (&'a mut Metadata, &'a mut [u8]) {
        let base = self.at(packet);
        // SAFETY: as in `meta_mut` and `data`; metadata and area do not overlap, and the packet is the only way to both.
        unsafe {
            let meta: &mut Metadata = base.cast().as_mut();
            let start = base.add(LINE + meta.offset as usize);
            let data = std::slice::from_raw_parts_mut(start.as_ptr(), meta.length as usize);
            (meta, data)
        }
    }

    /// The bytes of the current view, to write.
    #[inline(always)]
    pub fn data_mut<'a>(&'a self, packet: &'a mut Packet) -> &'a mut [u8] {
        self.parts_mut(packet).1
    }

    /// The metadata and the whole area (headroom, data, tailroom), to write. `Metadata::offset` says where the view is.
    #[inline(always)]
    pub fn area_mut<'a>(
        &'a self,
        packet: &'a mut Packet,
    ) -> (&'a mut Metadata, &'a mut [u8; AREA]) {
        let base = self.at(packet);
        // SAFETY: as in `parts_mut`; the area has AREA bytes behind the metadata.
        unsafe { (base.cast().as_mut(), base.add(LINE).cast().as_mut()) }
    }

    /// Asks the processor for the metadata and the first line of the headers of a packet that is worked on soon.
    #[inline(always)]
    pub fn prefetch(&self, packet: &Packet) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let base = self.at(packet).as_ptr().cast::<i8>();
            // SAFETY: a prefetch touches nothing that the program can see, and the addresses are inside the region.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(base);
                _mm_prefetch::<_MM_HINT_T0>(base.add(LINE + HEADROOM));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn buffers_are_distinct_and_all_come_back() {
        let count = if cfg!(miri) { 6 } else { 600 };
        let mut pool = BufferPool::new(count).unwrap();
        let mut packets: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(packets.len(), count);
        for (number, packet) in packets.iter_mut().enumerate() {
            let meta = pool.meta_mut(packet);
            assert_eq!((meta.offset(), meta.len()), (HEADROOM, 0));
            meta.push_front(HEADROOM).unwrap();
            meta.set_len(AREA).unwrap();
            pool.data_mut(packet).fill(number as u8);
        }
        for (number, packet) in packets.iter().enumerate() {
            assert!(
                pool.data(packet).iter().all(|byte| *byte == number as u8),
                "buffer {number} was overwritten"
            );
        }
        pool.free_all(packets);
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn a_view_never_leaves_its_area() {
        let mut pool = BufferPool::new(1).unwrap();
        let mut packet = pool.allocate().unwrap();
        let meta = pool.meta_mut(&mut packet);
        assert_eq!(meta.push_front(HEADROOM + 1), Err(NoRoom));
        assert_eq!(meta.pull_front(1), Err(NoRoom));
        assert_eq!(meta.set_len(DATA + 1), Err(NoRoom));
        meta.set_len(DATA).unwrap();
        assert_eq!(meta.set_view(AREA, 1), Err(NoRoom));
        assert_eq!(meta.set_view(1, AREA), Err(NoRoom));
        meta.set_view(0, AREA).unwrap();
        assert_eq!(pool.data(&packet).len(), AREA);
        pool.free(packet);
    }
}
