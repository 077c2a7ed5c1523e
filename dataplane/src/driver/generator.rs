//! The packet generator: a port that makes packets instead of receiving them, and its counterpart that takes them away.
//!
//! ```text
//!   Source::fill -> Generator (fresh buffers) -> graph -> Sink (counts, frees)
//!                                                          '-> Taken: counters, and a random sample to look at
//! ```
//!
//! Benchmarks and tests drive the graph with it: no socket, no kernel, and what comes in is known to the byte.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::{BufferPool, Packet};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, VECTOR, Vector};
use crate::port::Port;

/// Where a generator's packets come from.
pub trait Source: Send {
    /// Writes the next packets. Their views are empty and behind the headroom before, and the packet after. Gives how
    /// many of them, from the first on, have been written; fewer than there are means that no more come.
    fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize;
}

/// A port whose packets a [`Source`] writes.
pub struct Generator<S> {
    source: S,
    input: NodeId,
    vector: usize,
    /// Each so many packets a large buffer.
    large: Option<usize>,
}

impl<S: Source> Generator<S> {
    /// Makes up to `vector` packets at once (1 to 256), for the node `input`.
    pub fn new(source: S, input: NodeId, vector: usize) -> Self {
        Self {
            source,
            input,
            vector: vector.clamp(1, VECTOR),
            large: None,
        }
    }

    /// The source gets a large buffer, as long as there are some, for every `each` packets.
    #[must_use]
    pub fn with_large(mut self, each: usize) -> Self {
        self.large = Some(each);
        self
    }
}

impl<S: Source> Port for Generator<S> {
    fn input_node(&self) -> NodeId {
        self.input
    }

    fn receive(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        vector: &mut Vector,
    ) {
        while vector.len() < self.vector {
            let large = self
                .large
                .filter(|each| vector.len().is_multiple_of(*each))
                .and_then(|_| buffers.allocate_large());
            let Some(packet) = large.or_else(|| buffers.allocate()) else {
                counters
                    .drop(DropReason::NoBuffer)
                    .add((self.vector - vector.len()) as u64);
                break;
            };
            if let Err(full) = vector.try_push(packet) {
                buffers.free(full.element());
                break;
            }
        }
        let written = self.source.fill(buffers, vector);
        buffers.free_all(vector.drain(written.min(vector.len())..));
    }

    /// A generator's interface has no wire: what is sent to it is gone.
    fn transmit(&mut self, buffers: &mut BufferPool, _: &WorkerCounters, vector: &mut Vector) {
        buffers.free_all(vector.drain(..));
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a [`Sink`] has taken.
#[derive(Debug, Default)]
pub struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
    sample: Mutex<Vec<Vec<u8>>>,
}

impl Taken {
    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The sampled frames since the last look.
    pub fn sample(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sample.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A port that never receives, and counts and frees what it is given.
pub struct Sink {
    taken: Arc<Taken>,
    random: Random,
    /// Of 2^16 frames so many are kept.
    share: u64,
}

impl Sink {
    /// Keeps the bytes of a random share of the frames, in 65,536ths: 0 keeps none, 655 one of a hundred.
    pub fn new(share: u16, seed: u64) -> Self {
        Self {
            taken: Arc::default(),
            random: Random::new(seed),
            share: u64::from(share),
        }
    }

    /// What it has taken.
    pub fn taken(&self) -> &Arc<Taken> {
        &self.taken
    }
}

impl Port for Sink {
    fn input_node(&self) -> NodeId {
        NodeId::EthernetInput
    }

    fn receive(&mut self, _: &mut BufferPool, _: &WorkerCounters, _: &mut Vector) {}

    fn transmit(&mut self, buffers: &mut BufferPool, _: &WorkerCounters, vector: &mut Vector) {
        let mut bytes = 0;
        for packet in vector.iter() {
            bytes += buffers.meta(packet).len() as u64;
            if self.random.below(1 << 16) < self.share {
                self.taken
                    .sample
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(buffers.data(packet).to_vec());
            }
        }
        self.taken
            .frames
            .fetch_add(vector.len() as u64, Ordering::Relaxed);
        self.taken.bytes.fetch_add(bytes, Ordering::Relaxed);
        buffers.free_all(vector.drain(..));
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Numbers that look random and are the same for the same seed (Marsaglia's xorshift of 64 bits): for test traffic,
/// never for keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero; neighbouring seeds shall differ in many bits.
        Self((seed ^ 0x6a09_e667_f3bc_c908).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which is at most 2^32; 0 if `limit` is 0.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        ((self.bits() >> 32) * limit) >> 32
    }

    /// Fills `to`.
    pub fn fill(&mut self, to: &mut [u8]) {
        for chunk in to.chunks_mut(8) {
            let bytes = self.bits().to_le_bytes();
            chunk
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Frames of 60 bytes that carry their number, `self.0` of them.
    struct Numbered(u64, u64);

    impl Source for Numbered {
        fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize {
            let count = packets.len().min((self.0 - self.1) as usize);
            for packet in &mut packets[..count] {
                buffers.meta_mut(packet).set_len(60).unwrap();
                let data = buffers.data_mut(packet);
                data.fill(0);
                data[..8].copy_from_slice(&self.1.to_be_bytes());
                self.1 += 1;
            }
            count
        }
    }

    #[test]
    fn what_the_source_writes_arrives_at_the_sink_and_no_buffer_is_lost() {
        let mut buffers = BufferPool::new(300).unwrap();
        let counters = WorkerCounters::default();
        let mut generator = Generator::new(Numbered(1000, 0), NodeId::Ip4Input, 256);
        let mut sink = Sink::new(u16::MAX, 1);
        let mut vector = Vector::new();
        let mut sizes = Vec::new();
        loop {
            generator.receive(&mut buffers, &counters, &mut vector);
            if vector.is_empty() {
                break;
            }
            sizes.push(vector.len());
            sink.transmit(&mut buffers, &counters, &mut vector);
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
        assert_eq!(
            (sink.taken().frames(), sink.taken().bytes()),
            (1000, 60_000)
        );
        let sample = sink.taken().sample();
        assert!(sample.len() > 990 && sample.is_sorted(), "{}", sample.len());
        assert_eq!(buffers.available(), buffers.capacity());
    }

    #[test]
    fn a_pool_that_is_empty_makes_no_packets() {
        let mut buffers = BufferPool::new(10).unwrap();
        let counters = WorkerCounters::default();
        let mut generator = Generator::new(Numbered(1000, 0), NodeId::Ip4Input, 64);
        let mut vector = Vector::new();
        generator.receive(&mut buffers, &counters, &mut vector);
        assert_eq!(vector.len(), 10);
        assert_eq!(counters.drop(DropReason::NoBuffer).get(), 54);
        generator.transmit(&mut buffers, &counters, &mut vector);
        assert_eq!(buffers.available(), buffers.capacity());
    }

    #[test]
    fn a_share_is_a_share() {
        let mut buffers = BufferPool::new(256).unwrap();
        let counters = WorkerCounters::default();
        let mut generator = Generator::new(Numbered(u64::MAX, 0), NodeId::Ip4Input, 256);
        let mut sink = Sink::new(655, 7);
        let mut vector = Vector::new();
        for _ in 0..400 {
            generator.receive(&mut buffers, &counters, &mut vector);
            sink.transmit(&mut buffers, &counters, &mut vector);
        }
        let kept = sink.taken().sample().len();
        assert!((800..1250).contains(&kept), "{kept} of 102,400");
    }
}
