//! What is due when: a set of deadlines that can be moved.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// One deadline for each `K`, in nanoseconds of the caller's clock.
#[derive(Debug)]
pub(super) struct Timers<K> {
    by_time: BTreeSet<(u64, K)>,
    due: HashMap<K, u64>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            due: HashMap::new(),
        }
    }
}

impl<K: Copy + Ord + Hash> Timers<K> {
    /// Sets the deadline of `key`; `None`: it has none.
    pub(super) fn set(&mut self, key: K, at: Option<u64>) {
        let old = match at {
            Some(at) => self.due.insert(key, at),
            None => self.due.remove(&key),
        };
        if let Some(old) = old {
            self.by_time.remove(&(old, key));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one whose deadline has come.
    pub(super) fn pop(&mut self, now: u64) -> Option<K> {
        let (_, key) = *self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.set(key, None);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn deadlines_move_and_come_in_order() {
        let mut timers = Timers::default();
        timers.set('a', Some(30));
        timers.set('b', Some(10));
        timers.set('c', Some(20));
        timers.set('b', Some(40));
        timers.set('c', None);
        assert_eq!(timers.next(), Some(30));
        assert_eq!(
            (timers.pop(29), timers.pop(30), timers.pop(39)),
            (None, Some('a'), None)
        );
        assert_eq!(
            (timers.pop(99), timers.pop(99), timers.next()),
            (Some('b'), None, None)
        );
    }
}
