//! Packet buffers: one region of memory, cut into buffers of two sizes that are referred to by a small token.
//!
//! ```text
//!  region  | buffer | buffer | ...   | large buffer | ...     (huge pages when there are some)
//!  buffer  | Metadata, 1 line | headroom 128 B | data 2048 B  |          large: data 10,240 B
//!                               ^ outer headers  ^ frame as received ... padding and ICV fit behind
//! ```
//!
//! Large buffers are for jumbo frames and for what reassembly makes; a packet is in one piece wherever it is. They cost
//! address space until they are used, and the one that was given back last is used first.
//!
//! A [`Packet`] is the only way to a buffer. It can be neither copied nor made outside this module, so whoever
//! holds it is the only one who reads or writes that buffer: nodes pass packets on by value, and the accessors
//! of [`BufferPool`] need no lock. Each worker has a pool of its own; a buffer returns to the pool that it came from.
//!
//! The stride is an odd number of cache lines: with a power of two the metadata of a whole vector would
//! compete for two sets of the first-level cache.
//!
//! The region is also what `AF_XDP` calls UMEM ([`Memory`], [`Lent`]): the kernel writes frames where the graph reads them.
#![allow(unsafe_code)]

mod lent;

use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;

use thiserror::Error;

pub use self::lent::{Lent, Memory};
use crate::mapping::{HUGE, Mapping, Pages};
use crate::prefetch;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes before a received frame: outer Ethernet, IPv6, UDP and ESP headers with their IV fit (14 + 40 + 8 + 8 + 16).
pub const HEADROOM: usize = 128;
/// Bytes of the data area behind the headroom: a 1518-byte frame with tunnel overhead, padding and ICV.
pub const DATA: usize = 2048;
/// The same of a large buffer: a frame of a 9216-byte MTU, or a packet of ten fragments of an ordinary one.
pub const LARGE_DATA: usize = 10_240;
/// Bytes of the area that headers and payload share.
pub const AREA: usize = HEADROOM + DATA;
/// The same of a large buffer.
pub const LARGE_AREA: usize = HEADROOM + LARGE_DATA;
/// Bytes from one buffer to the next: 35 lines.
const STRIDE: usize = LINE + AREA;
/// The same of large buffers: 163 lines.
const LARGE_STRIDE: usize = LINE + LARGE_AREA;
/// Ordinary buffers for each large one.
const FOR_EACH_LARGE: usize = 8;
/// Bytes that the largest frame for an ordinary buffer leaves for padding and ICV.
const TAILROOM: usize = 128;

const _: () = assert!(size_of::<Metadata>() == LINE);
const _: () = assert!(STRIDE.is_multiple_of(LINE) && (STRIDE / LINE) % 2 == 1);
const _: () = assert!(LARGE_STRIDE.is_multiple_of(LINE) && (LARGE_STRIDE / LINE) % 2 == 1);

/// The sole reference to one buffer: the number of its first line in the region, from 1. Worth its weight: dropping it
/// leaks the buffer, so it is passed on or freed.
#[derive(PartialEq, Eq)]
#[must_use = "a packet is passed on or freed, or its buffer is lost"]
pub struct Packet(NonZeroU32);

impl Packet {
    /// Number of its buffer: that of its first line, from 0.
    #[inline(always)]
    pub(crate) const fn number(&self) -> u32 {
        self.0.get() - 1
    }

    #[inline(always)]
    const fn line(&self) -> usize {
        self.number() as usize
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
    /// Source and destination port of a fragment, in the high and the low half, when [`flags::PORTS_KNOWN`] is set.
    pub fragment_ports: u32,
    /// Error to send, see the ICMP error node: type, code and a 16-bit parameter.
    pub icmp: IcmpCause,
    /// Node-private scratch between a node and its successor.
    pub scratch: u64,
    /// Bytes of the area beyond those of an ordinary buffer.
    extra: u16,
    /// The transport of a fragment, behind IPv6's extension headers, when [`flags::PORTS_KNOWN`] is set.
    pub fragment_protocol: u8,
    reserved: u8,
    /// Number of the trace that it belongs to, when [`flags::TRACED`] is set.
    pub trace: u32,
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
    /// It is a fragment, and its first fragment has told its ports (or that it has none).
    pub const PORTS_KNOWN: u32 = 1 << 8;
    /// Has an outer header that we have put on it (GRE, IPIP): the box's own, sent in the underlay.
    pub const ENCAPSULATED: u32 = 1 << 9;
    /// Has two of them.
    pub const NESTED: u32 = 1 << 10;
}

impl Metadata {
    /// Bytes of the area.
    #[inline(always)]
    fn area(&self) -> usize {
        AREA + self.extra as usize
    }

    /// Becomes what is known of another packet, but for the view: that belongs to the buffer.
    #[inline]
    pub fn inherit(&mut self, other: &Self) {
        *self = Self {
            offset: self.offset,
            length: self.length,
            extra: self.extra,
            ..*other
        };
    }

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
        if length > self.area() - self.offset as usize {
            return Err(NoRoom);
        }
        self.length = length as u16;
        Ok(())
    }

    /// Makes the view end `length` bytes after its start, if it is longer.
    #[inline(always)]
    pub fn truncate(&mut self, length: u16) {
        self.length = self.length.min(length);
    }

    /// Puts the view at `offset..offset + length` of the area; refused when that is outside.
    #[inline(always)]
    pub fn set_view(&mut self, offset: usize, length: usize) -> Result<(), NoRoom> {
        if offset > self.area() || length > self.area() - offset {
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

/// The buffers of one worker and the lists of those that are free.
pub struct BufferPool {
    region: Arc<Mapping>,
    /// Where the region begins: asked for with every packet, so it does not lie behind a pointer.
    start: Start,
    free: Vec<Packet>,
    free_large: Vec<Packet>,
    /// Lines of the ordinary buffers; packets with a higher number are large.
    lines: u32,
    /// Ordinary buffers.
    count: usize,
    capacity: usize,
}

/// The address of a region's first byte.
struct Start(NonNull<u8>);

// SAFETY: an address is a number; the region behind it goes with its pool to another thread, as `Mapping` may.
unsafe impl Send for Start {}
// SAFETY: as above; nothing can be done with it but through the pool.
unsafe impl Sync for Start {}

impl BufferPool {
    /// Maps and threads `count` ordinary buffers, and one large one for every eight of them.
    pub fn new(count: usize) -> Result<Self, RegionError> {
        Self::made_of(count, Pages::Huge)
    }

    /// The same in pages of 4 KiB, whatever the kernel has: to measure what huge ones bring.
    pub fn in_small_pages(count: usize) -> Result<Self, RegionError> {
        Self::made_of(count, Pages::Small)
    }

    fn made_of(count: usize, pages: Pages) -> Result<Self, RegionError> {
        let large = count / FOR_EACH_LARGE;
        let lines = count
            .checked_mul(STRIDE / LINE)
            .ok_or(RegionError::TooMany(count))?;
        let all = lines
            .checked_add(large * (LARGE_STRIDE / LINE))
            .filter(|all| *all < u32::MAX as usize)
            .ok_or(RegionError::TooMany(count))?;
        let bytes = all * LINE;
        let region =
            Mapping::new(bytes, pages).map_err(|source| RegionError::Map { bytes, source })?;
        let packet = |line: usize| NonZeroU32::new(line as u32 + 1).map(Packet);
        // What is not contiguous for a NIC is left out: less than one in 900, of large ones in 200.
        let crosses = |line: &usize, stride: usize| {
            let start = line * LINE;
            region.huge_pages() && start / HUGE != (start + stride - 1) / HUGE
        };
        let free: Vec<Packet> = (0..count)
            .rev()
            .map(|number| number * (STRIDE / LINE))
            .filter(|line| !crosses(line, STRIDE))
            .filter_map(packet)
            .collect();
        let free_large: Vec<Packet> = (0..large)
            .rev()
            .map(|number| lines + number * (LARGE_STRIDE / LINE))
            .filter(|line| !crosses(line, LARGE_STRIDE))
            .filter_map(packet)
            .collect();
        Ok(Self {
            start: Start(region.base()),
            region: Arc::new(region),
            capacity: free.len() + free_large.len(),
            free,
            free_large,
            lines: lines as u32,
            count,
        })
    }

    /// Buffers in the pool of either size, free or not.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Buffers of either size that are free now.
    pub fn available(&self) -> usize {
        self.free.len() + self.free_large.len()
    }

    /// Ordinary buffers, free or not.
    pub fn ordinary(&self) -> usize {
        self.count
    }

    /// Ordinary buffers that are free now.
    #[inline(always)]
    pub fn available_ordinary(&self) -> usize {
        self.free.len()
    }

    /// Large buffers that are free now.
    pub fn available_large(&self) -> usize {
        self.free_large.len()
    }

    /// Whether so few large buffers are free that none is to wait for long.
    pub fn large_are_scarce(&self) -> bool {
        self.free_large.len() * 4 < self.count / FOR_EACH_LARGE
    }

    /// Whether the region got huge pages of its own (else the kernel was asked for transparent ones).
    pub fn huge_pages(&self) -> bool {
        self.region.huge_pages()
    }

    /// The memory of the ordinary buffers.
    pub fn memory(&self) -> Memory {
        Memory::new(Arc::clone(&self.region), self.count)
    }

    /// An ordinary buffer with an empty view behind the headroom; `None` when all are in use.
    #[inline(always)]
    pub fn allocate(&mut self) -> Option<Packet> {
        let mut packet = self.free.pop()?;
        self.renew(&mut packet);
        Some(packet)
    }

    /// A large buffer with an empty view behind the headroom; `None` when all are in use.
    #[inline(never)]
    pub fn allocate_large(&mut self) -> Option<Packet> {
        let mut packet = self.free_large.pop()?;
        self.renew(&mut packet);
        Some(packet)
    }

    /// A buffer in which a packet of `length` bytes has room for padding and ICV behind it.
    #[inline(always)]
    pub fn allocate_for(&mut self, length: usize) -> Option<Packet> {
        if length <= DATA - TAILROOM {
            self.allocate()
        } else {
            self.allocate_large()
        }
    }

    /// Makes the packet forget everything: an empty view behind the headroom.
    #[inline(always)]
    pub fn renew(&self, packet: &mut Packet) {
        let extra = (self.area(packet) - AREA) as u16;
        *self.meta_mut(packet) = Metadata {
            offset: HEADROOM as u16,
            extra,
            ..Metadata::default()
        };
    }

    /// Gives a buffer back.
    #[inline(always)]
    pub fn free(&mut self, packet: Packet) {
        if self.is_large(&packet) {
            self.free_large.push(packet);
        } else {
            self.free.push(packet);
        }
    }

    /// Gives all of these back.
    #[inline]
    pub fn free_all(&mut self, packets: impl IntoIterator<Item = Packet>) {
        for packet in packets {
            self.free(packet);
        }
    }

    /// Whether the buffer is a large one.
    #[inline(always)]
    pub fn is_large(&self, packet: &Packet) -> bool {
        packet.0.get() > self.lines
    }

    /// Bytes of the packet's area.
    #[inline(always)]
    fn area(&self, packet: &Packet) -> usize {
        if self.is_large(packet) {
            LARGE_AREA
        } else {
            AREA
        }
    }

    #[inline(always)]
    fn at(&self, packet: &Packet) -> NonNull<u8> {
        debug_assert!(packet.line() * LINE < self.region.bytes());
        // SAFETY: packets are made in `new` only, one for each buffer, and the region has room for all of them.
        // A process has one pool a worker, and a packet stays with its worker.
        unsafe { self.start.0.add(packet.line() * LINE) }
    }

    /// Where the view is in the area of this packet. Metadata that was written over as a whole, with that of a larger
    /// buffer, shows nothing.
    #[inline(always)]
    fn view(&self, packet: &Packet, meta: &Metadata) -> (usize, usize) {
        let (offset, length) = (meta.offset as usize, meta.length as usize);
        // What fits an ordinary buffer fits every one: only a large one needs a closer look.
        if offset + length > AREA && self.is_outside(packet, offset + length) {
            return (0, 0);
        }
        (offset, length)
    }

    #[cold]
    fn is_outside(&self, packet: &Packet, end: usize) -> bool {
        end > self.area(packet)
    }

    /// The metadata of a packet.
    #[inline(always)]
    pub fn meta<'a>(&'a self, packet: &'a Packet) -> &'a Metadata {
        // SAFETY: `at` points to a buffer whose first line is a `Metadata`, aligned since the mapping is and buffers
        // begin with a line; any bit pattern is a valid one. The packet is borrowed, so nobody writes.
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
        let (offset, length) = self.view(packet, self.meta(packet));
        // SAFETY: the view lies inside the area (`view` checks), which lies behind the metadata in the same buffer; the
        // packet is borrowed, so nobody writes.
        unsafe {
            let start = self.at(packet).add(LINE + offset);
            std::slice::from_raw_parts(start.as_ptr(), length)
        }
    }

    /// The bytes of the current view and `before` bytes before it; `None` if the area begins behind that.
    pub(crate) fn data_from<'a>(&'a self, packet: &'a Packet, before: usize) -> Option<&'a [u8]> {
        let meta = self.meta(packet);
        let start = usize::from(meta.offset).checked_sub(before)?;
        // SAFETY: as in `data`; the slice begins earlier, but not before the area.
        Some(unsafe {
            let start = self.at(packet).add(LINE + start);
            std::slice::from_raw_parts(start.as_ptr(), usize::from(meta.length) + before)
        })
    }

    /// The metadata and the bytes of the current view, to write.
    #[inline(always)]
    pub fn parts_mut<'a>(&'a self, packet: &'a mut Packet) -> (&'a mut Metadata, &'a mut [u8]) {
        let (offset, length) = self.view(packet, self.meta(packet));
        let base = self.at(packet);
        // SAFETY: as in `meta_mut` and `data`; metadata and area do not overlap, and the packet is the only way to both.
        unsafe {
            let meta: &mut Metadata = base.cast().as_mut();
            let start = base.add(LINE + offset);
            let data = std::slice::from_raw_parts_mut(start.as_ptr(), length);
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
    pub fn area_mut<'a>(&'a self, packet: &'a mut Packet) -> (&'a mut Metadata, &'a mut [u8]) {
        let (base, bytes) = (self.at(packet), self.area(packet));
        // SAFETY: as in `parts_mut`; the area has that many bytes behind the metadata.
        unsafe {
            let area = std::slice::from_raw_parts_mut(base.add(LINE).as_ptr(), bytes);
            (base.cast().as_mut(), area)
        }
    }

    /// Asks the processor for the metadata and the first line of the headers of a packet that is worked on soon.
    #[inline(always)]
    pub fn prefetch(&self, packet: &Packet) {
        let base = self.at(packet).as_ptr();
        prefetch::line_at(base);
        prefetch::line_at(base.wrapping_add(LINE + HEADROOM));
    }

    /// Asks for the line before the headers, where the outer ones of a tunnel are going to be: nobody has touched it.
    #[inline(always)]
    pub fn prefetch_headroom(&self, packet: &Packet) {
        prefetch::line_at(self.at(packet).as_ptr().wrapping_add(HEADROOM));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn buffers_are_distinct_and_all_come_back() {
        let count = if cfg!(miri) { 8 } else { 600 };
        let mut pool = BufferPool::new(count).unwrap();
        let mut packets: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(packets.len(), count);
        packets.extend(std::iter::from_fn(|| pool.allocate_large()));
        assert_eq!((packets.len(), pool.available()), (count * 9 / 8, 0));
        for (number, packet) in packets.iter_mut().enumerate() {
            let area = if number < count { AREA } else { LARGE_AREA };
            let meta = pool.meta_mut(packet);
            assert_eq!((meta.offset(), meta.len()), (HEADROOM, 0));
            meta.push_front(HEADROOM).unwrap();
            assert_eq!(meta.set_len(area + 1), Err(NoRoom));
            meta.set_len(area).unwrap();
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
        assert_eq!(pool.available_large(), count / 8);
    }

    #[test]
    fn what_does_not_fit_an_ordinary_buffer_gets_a_large_one() {
        let mut pool = BufferPool::new(8).unwrap();
        let small = pool.allocate_for(1920).unwrap();
        let large = pool.allocate_for(1921).unwrap();
        assert!(!pool.is_large(&small) && pool.is_large(&large));
        assert!(pool.allocate_for(1921).is_none());
        pool.free_all([small, large]);
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn metadata_of_a_large_buffer_opens_no_way_out_of_a_small_one() {
        let mut pool = BufferPool::new(8).unwrap();
        let (mut small, mut large) = (pool.allocate().unwrap(), pool.allocate_large().unwrap());
        let meta = pool.meta_mut(&mut large);
        meta.set_len(9000).unwrap();
        meta.vrf = 7;
        *pool.meta_mut(&mut small) = *pool.meta(&large);
        assert!(pool.data(&small).is_empty());
        assert_eq!(pool.area_mut(&mut small).1.len(), AREA);
        pool.renew(&mut small);
        pool.meta_mut(&mut small).inherit(pool.meta(&large));
        let meta = pool.meta_mut(&mut small);
        assert_eq!((meta.vrf, meta.len(), meta.offset()), (7, 0, HEADROOM));
        assert_eq!(meta.set_len(DATA + 1), Err(NoRoom));
        pool.free_all([small, large]);
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
        meta.truncate(DATA as u16 + 1);
        assert_eq!(meta.len(), DATA);
        meta.truncate(7);
        assert_eq!(meta.len(), 7);
        assert_eq!(meta.set_view(AREA, 1), Err(NoRoom));
        assert_eq!(meta.set_view(1, AREA), Err(NoRoom));
        meta.set_view(0, AREA).unwrap();
        assert_eq!(pool.data(&packet).len(), AREA);
        pool.free(packet);
    }
}
