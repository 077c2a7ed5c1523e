//! The first answer, again: what a request with a known id is answered with.
//!
//! ```text
//!  id not seen     -> carry out, remember
//!  id under way    -> wait for the same end
//!  id done         -> the same answer
//!  id, other body  -> clash
//! ```
//!
//! Only replies are kept, for a short while and within a bound; of a request only a keyed hash.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::router::Answer;

/// An answer is kept so long after its request came: longer than any caller repeats one.
const KEEP: Duration = Duration::from_secs(30);

/// So many answers, the oldest go first.
const ENTRIES: usize = 1024;

/// Finished answers together take this many bytes at most, but for the newest.
const BYTES: usize = 4 << 20;

/// The end of a request under way, for as many as wait for it.
pub(crate) type Pending = Shared<BoxFuture<'static, Arc<Answer>>>;

/// Answers by request id.
pub(crate) struct Answers {
    by_id: HashMap<u64, Entry>,
    /// In order of arrival.
    order: VecDeque<(Instant, u64)>,
    /// Of finished answers that were weighed.
    bytes: usize,
    keys: RandomState,
}

struct Entry {
    fingerprint: u64,
    pending: Pending,
    /// Bytes of the answer, once it is done and counted.
    weight: Option<usize>,
}

/// What is known of an id.
pub(crate) enum Known {
    /// It was asked before: this is its answer.
    Before(Pending),
    /// The id belongs to another request.
    Clash,
    No,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            keys: RandomState::new(),
        }
    }

    /// Tells requests apart without keeping them. Keyed anew at each start, so it says nothing of a secret.
    pub(crate) fn fingerprint(&self, method: &str, body: &[u8]) -> u64 {
        self.keys.hash_one((method, body))
    }

    pub(crate) fn look_up(&mut self, id: u64, fingerprint: u64, now: Instant) -> Known {
        self.forget_old(now);
        match self.by_id.get(&id) {
            Some(entry) if entry.fingerprint == fingerprint => Known::Before(entry.pending.clone()),
            Some(_) => Known::Clash,
            None => Known::No,
        }
    }

    /// Makes room for one more. False: everything here is under way; the request must be refused.
    pub(crate) fn make_room(&mut self) -> bool {
        self.by_id.len() < ENTRIES || self.forget_oldest_done()
    }

    /// Remembers a request that is now being carried out.
    pub(crate) fn remember(&mut self, id: u64, fingerprint: u64, pending: Pending, now: Instant) {
        self.by_id.insert(
            id,
            Entry {
                fingerprint,
                pending,
                weight: None,
            },
        );
        self.order.push_back((now, id));
    }

    /// Counts a finished answer, and makes room for it.
    pub(crate) fn finished(&mut self, id: u64, answer: &Answer) {
        let bytes = match answer {
            Ok(body) => body.len(),
            Err(refusal) => refusal.message.len(),
        };
        if let Some(entry) = self.by_id.get_mut(&id)
            && entry.weight.is_none()
        {
            entry.weight = Some(bytes);
            self.bytes += bytes;
        }
        while self.bytes > BYTES && self.order.len() > 1 && self.forget_oldest_done() {}
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front().copied() {
            if now.saturating_duration_since(at) < KEEP {
                break;
            }
            if !self.is_done(id) {
                // Stopped by the server before long; its place in the order is its age then.
                self.order.pop_front();
                self.order.push_back((now, id));
                break;
            }
            self.order.pop_front();
            self.drop_entry(id);
        }
    }

    fn forget_oldest_done(&mut self) -> bool {
        let Some(index) = self.order.iter().position(|(_, id)| self.is_done(*id)) else {
            return false;
        };
        if let Some((_, id)) = self.order.remove(index) {
            self.drop_entry(id);
        }
        true
    }

    fn is_done(&self, id: u64) -> bool {
        self.by_id
            .get(&id)
            .is_none_or(|entry| entry.weight.is_some())
    }

    fn drop_entry(&mut self, id: u64) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.bytes = self.bytes.saturating_sub(entry.weight.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use futures::FutureExt as _;

    use super::*;

    fn done(bytes: usize) -> (Pending, Answer) {
        let answer: Answer = Ok(vec![7; bytes]);
        let kept = Arc::new(answer.clone());
        (futures::future::ready(kept).boxed().shared(), answer)
    }

    fn finish(answers: &mut Answers, id: u64, bytes: usize, now: Instant) {
        let (pending, answer) = done(bytes);
        assert!(answers.make_room());
        answers.remember(id, 1, pending, now);
        answers.finished(id, &answer);
    }

    #[tokio::test]
    async fn a_known_id_has_its_first_answer() {
        let now = Instant::now();
        let mut answers = Answers::new();
        finish(&mut answers, 5, 3, now);
        let Known::Before(pending) = answers.look_up(5, 1, now) else {
            panic!("forgotten");
        };
        assert_eq!(pending.await.as_ref(), &Ok(vec![7; 3]));
        assert!(matches!(answers.look_up(5, 2, now), Known::Clash));
        assert!(matches!(answers.look_up(6, 1, now), Known::No));
    }

    #[tokio::test]
    async fn answers_are_forgotten_by_age_number_and_size() {
        let start = Instant::now();
        let mut answers = Answers::new();
        finish(&mut answers, 1, 10, start);
        let later = start + KEEP;
        assert!(matches!(answers.look_up(1, 1, later), Known::No));
        assert_eq!(answers.bytes, 0);

        for id in 0..=ENTRIES as u64 {
            finish(&mut answers, id, 1, later);
        }
        assert!(matches!(answers.look_up(0, 1, later), Known::No));
        assert!(matches!(answers.look_up(1, 1, later), Known::Before(_)));
        assert_eq!(answers.by_id.len(), ENTRIES);

        finish(&mut answers, 5000, BYTES, later);
        assert_eq!(answers.by_id.len(), 1);
        assert_eq!(answers.bytes, BYTES);
    }

    #[tokio::test]
    async fn what_is_under_way_is_never_forgotten() {
        let start = Instant::now();
        let mut answers = Answers::new();
        for id in 0..ENTRIES as u64 {
            let pending = futures::future::pending().boxed().shared();
            assert!(answers.make_room());
            answers.remember(id, 1, pending, start);
        }
        assert!(matches!(
            answers.look_up(0, 1, start + KEEP * 2),
            Known::Before(_)
        ));
        let (_, answer) = done(1);
        assert!(!answers.make_room());
        answers.finished(3, &answer);
        assert!(answers.make_room());
        assert!(matches!(answers.look_up(3, 1, start), Known::No));
    }

    #[test]
    fn bodies_are_told_apart() {
        let answers = Answers::new();
        assert_eq!(
            answers.fingerprint("A", b"x"),
            answers.fingerprint("A", b"x")
        );
        assert_ne!(
            answers.fingerprint("A", b"x"),
            answers.fingerprint("A", b"y")
        );
        assert_ne!(
            answers.fingerprint("A", b"x"),
            answers.fingerprint("B", b"x")
        );
        assert_ne!(
            answers.fingerprint("A", b"x"),
            Answers::new().fingerprint("A", b"x")
        );
    }
}
