//! Grace periods: when nothing can still read what the control thread has unlinked.
//!
//! ```text
//!   worker:   quiescent()  round ...  quiescent()  round ...  sleep()  (poll)  quiescent() ...
//!   control:       unlink node, advance() -> 7 ............. passed(7)? not before each worker said "7" or sleeps
//! ```
//!
//! A worker holds no reference into a forwarding table at a quiescent point, which is the beginning of each of its
//! rounds. A worker that sleeps in poll counts as quiescent. There is one clock for the process.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What a sleeping worker shows.
const ASLEEP: u64 = u64::MAX;

static CLOCK: AtomicU64 = AtomicU64::new(1);
static WORKERS: Mutex<Vec<Weak<Place>>> = Mutex::new(Vec::new());

/// What one worker shows, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Place(AtomicU64);

/// One reader's part in the protocol. It begins asleep.
#[derive(Debug)]
pub struct Participant(Arc<Place>);

impl Participant {
    /// Takes part from now on; leaves when dropped.
    pub fn register() -> Self {
        let place = Arc::new(Place(AtomicU64::new(ASLEEP)));
        let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| worker.strong_count() > 0);
        workers.push(Arc::downgrade(&place));
        Self(place)
    }

    /// Holds no reference at this moment and may take some from now on: the beginning of a round.
    #[inline]
    pub fn quiescent(&self) {
        let now = CLOCK.load(Ordering::Acquire);
        if self.0.0.load(Ordering::Relaxed) != now {
            self.0.0.store(now, Ordering::Release);
            // Loads of the round must not be done before the store is seen: the writer would think that we sleep.
            fence(Ordering::SeqCst);
        }
    }

    /// Holds no reference until the next [`Participant::quiescent`].
    #[inline]
    pub fn sleep(&self) {
        self.0.0.store(ASLEEP, Ordering::Release);
    }
}

/// Begins a new epoch; what was unlinked before may be reused once [`passed`] says so of the result.
pub fn advance() -> u64 {
    fence(Ordering::SeqCst);
    CLOCK.fetch_add(1, Ordering::SeqCst) + 1
}

/// The oldest epoch that a reader may still be in: everything tagged with this or less is free.
pub fn oldest() -> u64 {
    fence(Ordering::SeqCst);
    let mut oldest = CLOCK.load(Ordering::SeqCst);
    let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    workers.retain(|worker| {
        worker.upgrade().is_some_and(|place| {
            oldest = oldest.min(place.0.load(Ordering::Acquire));
            true
        })
    });
    oldest
}

/// Every reader has been quiescent since [`advance`] gave `epoch`, or sleeps.
pub fn passed(epoch: u64) -> bool {
    oldest() >= epoch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_epoch_passes_when_every_worker_was_quiescent_or_sleeps() {
        let (one, two) = (Participant::register(), Participant::register());
        one.quiescent();
        two.quiescent();
        let epoch = advance();
        assert!(!passed(epoch));
        one.quiescent();
        assert!(
            !passed(epoch),
            "the second worker is still in the old epoch"
        );
        two.sleep();
        // Other tests of this process take part too, but never for long.
        for _ in 0..1000 {
            if passed(epoch) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(passed(epoch));
        two.quiescent();
        let epoch = advance();
        one.quiescent();
        assert!(!passed(epoch));
        drop(two);
        drop(one);
    }
}
