//! What drivers show the kernel of packet buffers (`AF_XDP` calls it UMEM), and which buffers it has.
//!
//! ```text
//!   region | ordinary buffers ... | large buffers ... |
//!          '------ Memory --------'- with_large ------'       a large buffer is lent in pieces
//! ```

use std::ptr::NonNull;
use std::sync::Arc;

use super::{FOR_EACH_LARGE, LARGE_STRIDE, LINE, Packet, STRIDE};
use crate::mapping::Mapping;

/// The memory of the buffers of a pool, for a driver that lets the kernel read and write packets in place: the ordinary
/// ones, or with them the large ones behind them ([`Memory::with_large`]).
#[derive(Clone)]
pub struct Memory {
    region: Arc<Mapping>,
    count: usize,
    /// Large buffers that belong to it.
    large: usize,
}

impl Memory {
    /// That of the `count` ordinary buffers with which the region begins.
    pub(super) fn new(region: Arc<Mapping>, count: usize) -> Self {
        Self {
            region,
            count,
            large: 0,
        }
    }

    /// Where it begins.
    pub fn start(&self) -> NonNull<u8> {
        self.region.base()
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.count * STRIDE + self.large * LARGE_STRIDE
    }

    /// The same with the large buffers. They take memory from when the kernel is told of them, used or not.
    #[must_use]
    pub fn with_large(&self) -> Self {
        Self {
            large: self.count / FOR_EACH_LARGE,
            ..self.clone()
        }
    }

    /// Whether large buffers belong to it.
    pub fn has_large(&self) -> bool {
        self.large > 0
    }

    /// Whether each buffer is in one huge page, so that it is contiguous for a NIC too.
    pub fn huge_pages(&self) -> bool {
        self.region.huge_pages()
    }

    /// Nothing is lent yet.
    pub fn lend_none(&self) -> Lent {
        Lent {
            packets: std::iter::repeat_with(|| None).take(self.count).collect(),
            large: std::iter::repeat_with(|| None).take(self.large).collect(),
            count: 0,
        }
    }
}

/// The packets whose buffers the kernel has. Nobody reads or writes them until it has given them back.
pub struct Lent {
    packets: Box<[Option<Packet>]>,
    /// Large ones, each with how many of its pieces the kernel has not given back.
    large: Box<[Option<(Packet, usize)>]>,
    count: usize,
}

impl Lent {
    /// How many pieces the kernel has; an ordinary buffer is one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the kernel has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lends a buffer; gives the address of its area in the memory. A large one is given back: it is lent in pieces.
    #[inline]
    pub fn lend(&mut self, packet: Packet) -> Result<u64, Packet> {
        let start = packet.line() * LINE;
        match self.packets.get_mut(start / STRIDE) {
            Some(place) => {
                *place = Some(packet);
                self.count += 1;
                Ok((start + LINE) as u64)
            }
            None => Err(packet),
        }
    }

    /// Lends a large buffer in as many pieces; gives the address of its area in the memory. One that does not belong to
    /// the memory is given back.
    pub fn lend_large(&mut self, packet: Packet, pieces: usize) -> Result<u64, Packet> {
        let start = packet.line() * LINE;
        let Some(place) = self.large_place(start) else {
            return Err(packet);
        };
        *place = Some((packet, pieces));
        self.count += pieces;
        Ok((start + LINE) as u64)
    }

    /// Takes the buffer back in which this address is, with the address's offset in the area. `None` if it was not lent,
    /// and for all pieces of a large one but the last that comes.
    #[inline]
    pub fn take_back(&mut self, address: u64) -> Option<(Packet, usize)> {
        let address = usize::try_from(address).ok()?;
        let Some(place) = self.packets.get_mut(address / STRIDE) else {
            return self.take_piece_back(address);
        };
        let packet = place.take()?;
        self.count -= 1;
        Some((packet, (address % STRIDE).saturating_sub(LINE)))
    }

    #[cold]
    fn take_piece_back(&mut self, address: usize) -> Option<(Packet, usize)> {
        let offset = address.checked_sub(self.packets.len() * STRIDE)? % LARGE_STRIDE;
        let place = self.large_place(address)?;
        let (_, left) = place.as_mut()?;
        *left = left.saturating_sub(1);
        let packet = if *left == 0 { place.take() } else { None };
        self.count -= 1;
        Some((packet?.0, offset.saturating_sub(LINE)))
    }

    /// Takes the buffer back in which this address is, with how many pieces of it the kernel had: it gives none of them
    /// back any more. `None` if it was not lent.
    pub fn take_whole_back(&mut self, address: u64) -> Option<(Packet, usize)> {
        let address = usize::try_from(address).ok()?;
        let taken = match self.packets.get_mut(address / STRIDE) {
            Some(place) => (place.take()?, 1),
            None => self.large_place(address)?.take()?,
        };
        self.count -= taken.1;
        Some(taken)
    }

    /// Takes everything back.
    pub fn take_all_back(&mut self) -> impl Iterator<Item = Packet> {
        self.count = 0;
        let large = self.large.iter_mut().filter_map(Option::take);
        self.packets
            .iter_mut()
            .filter_map(Option::take)
            .chain(large.map(|(packet, _)| packet))
    }

    fn large_place(&mut self, address: usize) -> Option<&mut Option<(Packet, usize)>> {
        let inside = address.checked_sub(self.packets.len() * STRIDE)?;
        self.large.get_mut(inside / LARGE_STRIDE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::buffer::{BufferPool, HEADROOM, LARGE_AREA};

    #[test]
    fn what_is_lent_comes_back_once() {
        let mut pool = BufferPool::new(16).unwrap();
        let mut lent = pool.memory().lend_none();
        let packets: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        let addresses: Vec<u64> = packets
            .into_iter()
            .map(|packet| lent.lend(packet).unwrap())
            .collect();
        assert_eq!(lent.len(), 16);
        for (number, address) in addresses.iter().enumerate() {
            let (packet, offset) = lent.take_back(address + number as u64).unwrap();
            assert_eq!(offset, number);
            pool.free(packet);
            assert!(lent.take_back(*address).is_none());
        }
        for outside in [16 * STRIDE as u64, u64::MAX] {
            assert!(lent.take_back(outside).is_none());
        }
        let large = pool.allocate_large().unwrap();
        pool.free(lent.lend(large).unwrap_err());
        assert!(lent.is_empty());
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn a_large_buffer_comes_back_with_its_last_piece() {
        let mut pool = BufferPool::new(16).unwrap();
        let memory = pool.memory().with_large();
        assert_eq!(memory.bytes(), 16 * STRIDE + 2 * LARGE_STRIDE);
        let mut lent = memory.lend_none();
        let (first, second) = (
            pool.allocate_large().unwrap(),
            pool.allocate_large().unwrap(),
        );
        let first = lent.lend_large(first, 3).unwrap();
        let second = lent.lend_large(second, 5).unwrap();
        assert_eq!(second - first, LARGE_STRIDE as u64);
        assert_eq!(lent.len(), 8);
        assert!(lent.take_back(first + HEADROOM as u64).is_none());
        assert!(lent.take_back(first + 3000).is_none());
        assert_eq!(lent.len(), 6);
        let (packet, offset) = lent.take_back(first + LARGE_AREA as u64 - 1).unwrap();
        assert_eq!((offset, lent.len()), (LARGE_AREA - 1, 5));
        assert!(pool.is_large(&packet));
        pool.free(packet);
        assert!(lent.take_back(first).is_none());
        // The kernel skips what is left of the other.
        assert!(lent.take_back(second).is_none());
        let (packet, pieces) = lent.take_whole_back(second + 4000).unwrap();
        assert_eq!((pieces, lent.len()), (4, 0));
        assert!(lent.take_whole_back(second).is_none());
        pool.free(packet);
        let (ordinary, large) = (pool.allocate().unwrap(), pool.allocate_large().unwrap());
        let ordinary = lent.lend(ordinary).unwrap();
        assert_eq!(
            lent.take_whole_back(ordinary).map(|(packet, pieces)| {
                pool.free(packet);
                pieces
            }),
            Some(1)
        );
        lent.lend_large(large, 2).unwrap();
        assert!(lent.take_back(memory.bytes() as u64).is_none());
        pool.free_all(lent.take_all_back());
        assert!(lent.is_empty());
        assert_eq!(pool.available(), pool.capacity());
        // They belong to it only where that is asked for.
        let large = pool.allocate_large().unwrap();
        let mut ordinary_alone = pool.memory().lend_none();
        pool.free(ordinary_alone.lend_large(large, 1).unwrap_err());
    }
}
