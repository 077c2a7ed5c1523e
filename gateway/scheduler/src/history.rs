//! What was done, and why: the last transactions.
//!
//! ```text
//!   commit 7 ────────> [transaction 12]  12 operations to dataplane and Linux      <- began, sent, completed, at_rest
//!   dataplane is up ─> [transaction 13]  all its values again
//!   (nothing new) ───> [transaction 14]  retry of what failed, three times
//! ```
//!
//! A transaction begins with its cause and ends when nothing more is to be done, or with the next cause. An operation
//! belongs to the newest cause there was when it was sent. What the surroundings cause again and again, with the same
//! operations, is counted and not repeated: a value that fails for an hour does not push commits out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{BatchId, Change, Failure};

/// So many are remembered.
const REMEMBERED: usize = 100;
/// Of these many operations that failed it is remembered why.
const MESSAGES: usize = 5;

/// Why something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<P> {
    /// The configuration of a revision is followed.
    Commit(u64),
    /// A part came up, perhaps with nothing.
    PartUp(P),
    /// Every part is asked what it holds.
    Resynchronisation,
    /// What is obtained from the surroundings is different.
    Surroundings,
    /// What failed is tried again.
    Retry,
}

impl<P> Cause<P> {
    /// Whether it may come up any number of times without anybody's doing.
    const fn is_idle(&self) -> bool {
        matches!(self, Self::Surroundings | Self::Retry)
    }
}

/// What is done to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// It comes.
    Create,
    /// It becomes another.
    Update,
    /// It goes.
    Delete,
}

impl<V> From<&Change<V>> for Verb {
    fn from(change: &Change<V>) -> Self {
        match change {
            Change::Create(_) => Self::Create,
            Change::Update(_) => Self::Update,
            Change::Delete => Self::Delete,
        }
    }
}

/// What came of operations of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u32,
    /// Carried out.
    pub done: u32,
    /// Refused.
    pub failed: u32,
}

/// All that was done for one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction<P> {
    /// Counted from 1.
    pub number: u64,
    /// Why.
    pub cause: Cause<P>,
    /// When.
    pub began: Duration,
    /// From then until the last answer.
    pub took: Duration,
    /// It ended with nothing more to be done.
    pub finished: bool,
    /// By kind of value.
    pub operations: BTreeMap<(String, Verb), Tally>,
    /// Of operations that failed, the first few.
    pub messages: Vec<String>,
    /// How often the same came once more.
    pub repeats: u32,
}

impl<P> Transaction<P> {
    fn sum(&self, of: impl Fn(&Tally) -> u32) -> u32 {
        self.operations.values().map(of).sum()
    }

    /// Operations that were sent.
    pub fn sent(&self) -> u32 {
        self.sum(|tally| tally.sent)
    }

    /// Operations that failed.
    pub fn failed(&self) -> u32 {
        self.sum(|tally| tally.failed)
    }
}

/// The last transactions.
#[derive(Debug)]
pub struct History<P> {
    kept: VecDeque<Transaction<P>>,
    next: u64,
    /// The newest one goes on.
    open: bool,
    /// Of each batch under way: whose it is, and what it holds.
    batches: BTreeMap<BatchId, (u64, Vec<(String, Verb)>)>,
}

impl<P: Copy + PartialEq> Default for History<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Copy + PartialEq> History<P> {
    /// Nothing was done yet.
    pub fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            next: 1,
            open: false,
            batches: BTreeMap::new(),
        }
    }

    /// There is something to be done, or to be looked at.
    pub fn began(&mut self, cause: Cause<P>, now: Duration) {
        self.fold();
        if self.kept.len() == REMEMBERED {
            self.forget_one();
        }
        self.kept.push_back(Transaction {
            number: self.next,
            cause,
            began: now,
            took: Duration::ZERO,
            finished: false,
            operations: BTreeMap::new(),
            messages: Vec::new(),
            repeats: 0,
        });
        self.next += 1;
        self.open = true;
    }

    /// What comes up by itself goes first, as long as it is more than half of all.
    fn forget_one(&mut self) {
        let idle = |one: &Transaction<P>| one.cause.is_idle();
        let many = self.kept.iter().filter(|one| idle(one)).count() > REMEMBERED / 2;
        let oldest = self.kept.iter().position(|one| !many || idle(one));
        if let Some(oldest) = oldest {
            self.kept.remove(oldest);
        }
    }

    /// A batch goes out.
    pub fn sent<'a>(
        &mut self,
        id: BatchId,
        operations: impl IntoIterator<Item = (&'a str, Verb)>,
        now: Duration,
    ) {
        if !self.open {
            self.began(Cause::Retry, now);
        }
        let Some(newest) = self.kept.back_mut() else {
            return;
        };
        let operations: Vec<(String, Verb)> = operations
            .into_iter()
            .map(|(kind, verb)| (kind.to_owned(), verb))
            .collect();
        for operation in &operations {
            newest.operations.entry(operation.clone()).or_default().sent += 1;
        }
        self.batches.insert(id, (newest.number, operations));
    }

    /// What came of a batch, in the order of its operations. Nothing: it is not known.
    pub fn completed<'a>(
        &mut self,
        id: BatchId,
        results: impl IntoIterator<Item = Result<(), &'a Failure>>,
        now: Duration,
    ) {
        let Some((number, operations)) = self.batches.remove(&id) else {
            return;
        };
        let found = self.kept.iter_mut().rfind(|one| one.number == number);
        let Some(transaction) = found else {
            return;
        };
        transaction.took = now.saturating_sub(transaction.began);
        for (operation, result) in operations.into_iter().zip(results) {
            let tally = transaction.operations.entry(operation).or_default();
            match result {
                Ok(()) => tally.done += 1,
                Err(failure) => {
                    tally.failed += 1;
                    if transaction.messages.len() < MESSAGES {
                        transaction.messages.push(failure.message.clone());
                    }
                }
            }
        }
    }

    /// Nothing is under way, and nothing is to be sent: whatever comes next has another cause.
    pub fn at_rest(&mut self, now: Duration) {
        if !self.open {
            return;
        }
        if let Some(newest) = self.kept.back_mut() {
            newest.finished = true;
            if newest.operations.is_empty() {
                newest.took = now.saturating_sub(newest.began);
            }
        }
        self.open = false;
        self.fold();
    }

    /// Counts the newest one as one more of the one before it, if it is that.
    fn fold(&mut self) {
        let Some(newest) = self.kept.pop_back() else {
            return;
        };
        if let Some(before) = self.kept.back_mut()
            && newest.finished
            && newest.cause.is_idle()
            && before.cause == newest.cause
            && before.operations == newest.operations
        {
            before.repeats = before.repeats.saturating_add(1);
            before.took = newest.took;
            self.next = newest.number;
        } else {
            self.kept.push_back(newest);
        }
    }

    /// Newest first.
    pub fn transactions(&self) -> impl Iterator<Item = &Transaction<P>> {
        self.kept.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn failure() -> Failure {
        Failure {
            retriable: true,
            message: "no".to_owned(),
            ..Failure::default()
        }
    }

    fn retry(history: &mut History<u8>, batch: u64, now: u64) {
        history.sent(BatchId(batch), [("route", Verb::Create)], at(now));
        history.completed(BatchId(batch), [Err(&failure())], at(now + 2));
        history.at_rest(at(now + 2));
    }

    #[test]
    fn operations_are_counted_by_kind_and_belong_to_what_caused_them() {
        let mut history = History::<u8>::new();
        history.began(Cause::Commit(7), at(100));
        history.sent(
            BatchId(1),
            [
                ("route", Verb::Create),
                ("route", Verb::Create),
                ("vrf", Verb::Delete),
            ],
            at(101),
        );
        // Another cause, before the answer is there.
        history.began(Cause::PartUp(2), at(110));
        let no = failure();
        history.completed(BatchId(1), [Ok(()), Err(&no), Ok(())], at(130));
        history.at_rest(at(140));
        let [part, commit] = history.transactions().collect::<Vec<_>>()[..] else {
            panic!("{history:?}");
        };
        assert_eq!((commit.number, commit.cause), (1, Cause::Commit(7)));
        assert_eq!((commit.took, commit.finished), (at(30), false));
        assert_eq!((commit.sent(), commit.failed()), (3, 1));
        assert_eq!(commit.messages, ["no"]);
        let routes = commit.operations[&("route".to_owned(), Verb::Create)];
        assert_eq!((routes.sent, routes.done, routes.failed), (2, 1, 1));
        assert_eq!((part.cause, part.sent()), (Cause::PartUp(2), 0));
        assert!(part.finished);
    }

    #[test]
    fn the_same_retry_again_and_again_is_one_row() {
        let mut history = History::<u8>::new();
        history.began(Cause::Commit(1), at(0));
        history.at_rest(at(0));
        for round in 0..50 {
            retry(&mut history, round, 100 * round);
        }
        let rows: Vec<_> = history.transactions().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].cause, rows[0].repeats), (Cause::Retry, 49));
        assert_eq!((rows[0].number, rows[1].number), (2, 1));
    }

    #[test]
    fn what_comes_by_itself_pushes_no_commit_out() {
        let mut history = History::<u8>::new();
        history.began(Cause::Commit(1), at(0));
        history.at_rest(at(0));
        for round in 0..1000 {
            let cause = [Cause::Surroundings, Cause::Retry][round as usize % 2];
            history.began(cause, at(round));
            history.sent(BatchId(round), [("route", Verb::Create)], at(round));
            history.completed(BatchId(round), [Ok(())], at(round));
            history.at_rest(at(round));
        }
        assert_eq!(history.transactions().count(), REMEMBERED);
        let oldest = history.transactions().last().unwrap();
        assert_eq!(oldest.cause, Cause::Commit(1));
        for revision in 2..200 {
            history.began(Cause::Commit(revision), at(2000));
            history.at_rest(at(2000));
        }
        assert_eq!(history.transactions().count(), REMEMBERED);
        let newest = history.transactions().next().unwrap();
        assert_eq!(newest.cause, Cause::Commit(199));
    }

    #[test]
    fn an_answer_that_never_comes_leaves_a_gap() {
        let mut history = History::<u8>::new();
        history.began(Cause::Resynchronisation, at(0));
        history.sent(BatchId(1), [("route", Verb::Update)], at(1));
        history.completed(BatchId(1), [], at(9));
        // A second answer to the same is nobody's.
        history.completed(BatchId(1), [Ok(())], at(9));
        let one = history.transactions().next().unwrap();
        let routes = one.operations[&("route".to_owned(), Verb::Update)];
        assert_eq!((routes.sent, routes.done, routes.failed), (1, 0, 0));
    }
}
