//! Takes packets out of a vector while the headers of those a few places behind are fetched from memory.

use arrayvec::Drain;

use crate::buffer::{BufferPool, Packet};
use crate::graph::{VECTOR, Vector};

/// Packets between the one worked on and the one asked for: enough work to cover a miss of the second-level cache.
const DISTANCE: usize = 4;

/// See the module.
pub struct Ahead<'v> {
    rest: Drain<'v, Packet, VECTOR>,
    fetched: [Option<Packet>; DISTANCE],
    turn: usize,
}

impl<'v> Ahead<'v> {
    /// Begins with the first packet of `vector`, which is empty afterwards.
    #[inline(always)]
    pub fn new(vector: &'v mut Vector, buffers: &BufferPool) -> Self {
        let mut rest = vector.drain(..);
        let fetched = std::array::from_fn(|_| fetch(&mut rest, buffers));
        Self {
            rest,
            fetched,
            turn: 0,
        }
    }

    /// The next packet, in the vector's order.
    #[inline(always)]
    pub fn next(&mut self, buffers: &BufferPool) -> Option<Packet> {
        let place = &mut self.fetched[self.turn % DISTANCE];
        self.turn += 1;
        std::mem::replace(place, fetch(&mut self.rest, buffers))
    }
}

#[inline(always)]
fn fetch(rest: &mut Drain<'_, Packet, VECTOR>, buffers: &BufferPool) -> Option<Packet> {
    rest.next().inspect(|packet| buffers.prefetch(packet))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn packets_come_in_order_and_none_is_left() {
        for count in [0, 1, 3, 4, 5, VECTOR] {
            let mut pool = BufferPool::new(VECTOR).unwrap();
            let mut vector = Vector::new();
            for number in 0..count {
                let mut packet = pool.allocate().unwrap();
                pool.meta_mut(&mut packet).scratch = number as u64;
                vector.push(packet);
            }
            let mut ahead = Ahead::new(&mut vector, &pool);
            let mut taken = Vec::new();
            while let Some(packet) = ahead.next(&pool) {
                assert_eq!(pool.meta(&packet).scratch, taken.len() as u64);
                taken.push(packet);
            }
            drop(ahead);
            assert!(vector.is_empty());
            assert_eq!(taken.len(), count);
            pool.free_all(taken);
        }
    }
}
