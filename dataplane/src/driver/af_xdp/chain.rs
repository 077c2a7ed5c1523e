//! Frames that come in several buffers, copied together into a large one.
//!
//! ```text
//!   received ring:  | 1920, continued | 1920, continued | 1400 |     -> one large buffer with 5240 bytes
//!                          '-----------------'------------'--------- -> back to the pool, from there to the fill ring
//! ```
//!
//! A frame may begin in one round and end in a later one. What it cannot have (a large buffer, or room in it) costs the
//! frame, never the one behind it: its other parts are passed over up to the last.

use crate::buffer::{BufferPool, Packet};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;

/// How far the frame that is coming in has come.
#[derive(Default)]
pub struct Chain {
    state: State,
}

#[derive(Default)]
enum State {
    /// The next buffer begins a frame.
    #[default]
    Between,
    /// This much of a frame has come.
    Inside(Packet),
    /// The rest of a frame is passed over, which is counted already.
    Lost,
}

impl Chain {
    /// Whether the next buffer belongs to the frame of the one before.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Between)
    }

    /// Takes the next buffer of a frame; gives the frame in a large one when it was the `last`.
    pub fn add(
        &mut self,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        part: Packet,
        last: bool,
    ) -> Option<Packet> {
        let whole = match std::mem::take(&mut self.state) {
            State::Between => Some(buffers.allocate_large().ok_or(DropReason::NoBuffer)),
            State::Inside(whole) => Some(Ok(whole)),
            State::Lost => None,
        };
        let longer = whole.map(|whole| append(buffers, whole?, &part));
        buffers.free(part);
        let longer = match longer {
            Some(Ok(longer)) => Some(longer),
            Some(Err(reason)) => {
                counters.drop(reason).add(1);
                None
            }
            None => None,
        };
        if last {
            return longer;
        }
        self.state = longer.map_or(State::Lost, State::Inside);
        None
    }

    /// Gives up the frame that is coming in, or the one that begins: a part of it is not where the kernel says.
    pub fn spoil(&mut self, buffers: &mut BufferPool, counters: &WorkerCounters) {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Lost => return,
            State::Inside(whole) => buffers.free(whole),
            State::Between => {}
        }
        counters.drop(DropReason::EthernetTruncated).add(1);
    }

    /// Gives back what has come of a frame that is not going to end.
    pub fn release(self, buffers: &mut BufferPool) {
        if let State::Inside(whole) = self.state {
            buffers.free(whole);
        }
    }
}

/// The packet with the bytes of another behind its own. No frame is longer than a large buffer.
fn append(
    buffers: &mut BufferPool,
    mut whole: Packet,
    part: &Packet,
) -> Result<Packet, DropReason> {
    let bytes = buffers.data(part);
    let meta = buffers.meta_mut(&mut whole);
    let before = meta.len();
    if meta.set_len(before + bytes.len()).is_err() {
        buffers.free(whole);
        return Err(DropReason::FrameTooLarge);
    }
    if let Some(room) = buffers.data_mut(&mut whole).get_mut(before..) {
        room.copy_from_slice(bytes);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::buffer::{DATA, LARGE_DATA};

    fn part(buffers: &mut BufferPool, bytes: &[u8]) -> Packet {
        let mut packet = buffers.allocate().unwrap();
        buffers.meta_mut(&mut packet).set_len(bytes.len()).unwrap();
        buffers.data_mut(&mut packet).copy_from_slice(bytes);
        packet
    }

    /// Gives the parts of a frame one by one, as if each came in a round of its own.
    fn feed(
        chain: &mut Chain,
        buffers: &mut BufferPool,
        counters: &WorkerCounters,
        frame: &[u8],
        size: usize,
    ) -> Option<Packet> {
        let mut parts = frame.chunks(size).peekable();
        while let Some(bytes) = parts.next() {
            let last = parts.peek().is_none();
            let packet = part(buffers, bytes);
            let whole = chain.add(buffers, counters, packet, last);
            assert_eq!(chain.is_open(), !last);
            if last {
                return whole;
            }
            assert!(whole.is_none());
        }
        None
    }

    #[test]
    fn parts_of_any_size_become_the_frame() {
        let mut buffers = BufferPool::new(16).unwrap();
        let (counters, mut chain) = (WorkerCounters::default(), Chain::default());
        let bytes: Vec<u8> = (0..LARGE_DATA).map(|at| (at * 7 / 3) as u8).collect();
        for length in [1, 2, 1920, 1921, 3840, 9230, LARGE_DATA] {
            for size in [1, 14, 1000, 1920, DATA] {
                let frame = &bytes[..length];
                let whole = feed(&mut chain, &mut buffers, &counters, frame, size).unwrap();
                assert!(buffers.data(&whole) == frame, "{length} in {size}");
                assert!(buffers.is_large(&whole));
                buffers.free(whole);
            }
        }
        assert_eq!(buffers.available(), buffers.capacity());
        for reason in DropReason::ALL {
            assert_eq!(counters.drop(*reason).get(), 0, "{}", reason.name());
        }
    }

    #[test]
    fn a_frame_without_a_buffer_or_room_is_counted_once_and_the_next_one_passes() {
        let mut buffers = BufferPool::new(16).unwrap();
        let (counters, mut chain) = (WorkerCounters::default(), Chain::default());
        let bytes = vec![5; 3 * LARGE_DATA];
        for length in [LARGE_DATA + 1, 3 * LARGE_DATA] {
            let none = feed(&mut chain, &mut buffers, &counters, &bytes[..length], 1920);
            assert!(none.is_none());
        }
        assert_eq!(counters.drop(DropReason::FrameTooLarge).get(), 2);
        let taken: Vec<_> = std::iter::from_fn(|| buffers.allocate_large()).collect();
        assert!(feed(&mut chain, &mut buffers, &counters, &bytes[..9000], 1920).is_none());
        assert_eq!(counters.drop(DropReason::NoBuffer).get(), 1);
        buffers.free_all(taken);
        let whole = feed(&mut chain, &mut buffers, &counters, &bytes[..9000], 1920).unwrap();
        assert_eq!(buffers.data(&whole).len(), 9000);
        buffers.free(whole);
        assert_eq!(counters.drop(DropReason::FrameTooLarge).get(), 2);
        assert_eq!(counters.drop(DropReason::NoBuffer).get(), 1);
        assert_eq!(buffers.available(), buffers.capacity());
    }

    #[test]
    fn a_spoilt_frame_is_counted_once_and_the_next_one_passes() {
        let mut buffers = BufferPool::new(16).unwrap();
        let (counters, mut chain) = (WorkerCounters::default(), Chain::default());
        for before in 0..3 {
            for _ in 0..before {
                let some = part(&mut buffers, &[1; 1920]);
                assert!(chain.add(&mut buffers, &counters, some, false).is_none());
            }
            chain.spoil(&mut buffers, &counters);
            chain.spoil(&mut buffers, &counters);
            let end = part(&mut buffers, &[1; 100]);
            assert!(chain.add(&mut buffers, &counters, end, true).is_none());
            assert_eq!(
                counters.drop(DropReason::EthernetTruncated).get(),
                before + 1
            );
            let whole = feed(&mut chain, &mut buffers, &counters, &[2; 2000], 1920).unwrap();
            assert_eq!(buffers.data(&whole), [2; 2000]);
            buffers.free(whole);
        }
        assert_eq!(buffers.available(), buffers.capacity());
    }

    #[test]
    fn half_a_frame_is_given_back() {
        let mut buffers = BufferPool::new(16).unwrap();
        let (counters, mut chain) = (WorkerCounters::default(), Chain::default());
        let first = part(&mut buffers, &[1; 1920]);
        assert!(chain.add(&mut buffers, &counters, first, false).is_none());
        assert_eq!(buffers.available(), buffers.capacity() - 1);
        chain.release(&mut buffers);
        assert_eq!(buffers.available(), buffers.capacity());
    }
}
