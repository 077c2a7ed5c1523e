//! Which operations are sent now: those that the view of all values allows, to parts that are free.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Attempt, Difference, Entry, PartState, Underway};
use crate::scheduler::Scheduler;
use crate::view::View;
use crate::{Batch, BatchId, Change, Domain, Operation};

/// Most operations of a batch: a few megabytes in the largest kind of value, and few rounds for a full
/// table of routes.
const MAX_OPERATIONS: usize = 16_384;

/// What failed as often as this since it last succeeded is not what others wait for: what is wrong with it lasts.
pub const HOPELESS: u32 = 5;

/// The changes of one part, by key.
type Changes<K> = Vec<(K, Change<()>)>;

impl<D: Domain> Scheduler<D> {
    /// What can be sent now: at most one batch a part, and none to a part with one under way.
    pub fn next_batches(&mut self, now: Duration) -> Vec<Batch<D>> {
        for entry in self.entries.values_mut() {
            if matches!(entry.attempt, Attempt::Waiting(until) if until <= now) {
                entry.attempt = Attempt::Ready;
                self.dirty = true;
            }
        }
        if !std::mem::take(&mut self.dirty) || self.is_all_in_place() {
            return Vec::new();
        }
        let decided = self.decide_or_break_up();
        decided
            .into_iter()
            .map(|(part, changes)| self.batch(part, changes))
            .collect()
    }

    /// Every value is as planned, or is being made so: there is nothing to decide.
    fn is_all_in_place(&self) -> bool {
        let in_place = |entry: &Entry<D>| match &entry.attempt {
            Attempt::Ready => entry.is_settled(),
            Attempt::Underway(_) => entry.is_being_made_as_planned(),
            Attempt::Waiting(_) | Attempt::Failed => false,
        };
        self.supported && self.entries.values().all(in_place)
    }

    /// Where nothing can be done although nothing is under way, values that were made from different plans wait for each
    /// other. Those that block others are built anew, and then those that block these.
    fn decide_or_break_up(&mut self) -> BTreeMap<D::Part, Changes<D::Key>> {
        loop {
            let view = View::new(&self.entries);
            let supported = view.is_supported();
            let decided = self.decide(&view);
            let is_stuck = decided.is_empty() && self.is_at_rest();
            let blocking = if is_stuck {
                blocking(&view)
            } else {
                BTreeSet::new()
            };
            if blocking.is_empty() {
                let decided = if is_stuck {
                    self.delete_circles(&view)
                } else {
                    decided
                };
                self.supported = supported;
                return decided;
            }
            self.rebuild(&blocking);
        }
    }

    fn decide(&self, view: &View<'_, D>) -> BTreeMap<D::Part, Changes<D::Key>> {
        let mut changes: BTreeMap<D::Part, Changes<&D::Key>> = BTreeMap::new();
        let mut leaving_parts = BTreeSet::new();
        for node in &view.nodes {
            let part = node.entry.part;
            if !self.is_free(part) || !node.is_ready() {
                continue;
            }
            if node.leaving {
                leaving_parts.insert(part);
            }
            if let Some(change) = view.change(node) {
                changes.entry(part).or_default().push((node.key, change));
            }
        }
        let mut decided = BTreeMap::new();
        for (part, mut list) in changes {
            // What is new may want the place of what leaves.
            let has_other = list
                .iter()
                .any(|(_, change)| !matches!(change, Change::Create(())));
            if leaving_parts.contains(&part) && has_other {
                list.retain(|(_, change)| !matches!(change, Change::Create(())));
            }
            // Deletions first, from the highest rank to the lowest.
            list.sort_by_key(|(key, change)| match change {
                Change::Delete => (0, u32::MAX - D::rank(key)),
                Change::Update(()) => (1, 0),
                Change::Create(()) => (2, D::rank(key)),
            });
            list.truncate(MAX_OPERATIONS);
            let list = list.into_iter().map(|(key, change)| (key.clone(), change));
            decided.insert(part, list.collect());
        }
        decided
    }

    fn rebuild(&mut self, keys: &BTreeSet<D::Key>) {
        for key in keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.rebuild = true;
            }
        }
    }

    /// Values of different plans that hold each other up: all of them go, in whatever order.
    fn delete_circles(&self, view: &View<'_, D>) -> BTreeMap<D::Part, Changes<D::Key>> {
        let mut decided: BTreeMap<D::Part, Changes<D::Key>> = BTreeMap::new();
        for node in &view.nodes {
            if node.leaving && node.is_ready() && self.is_free(node.entry.part) {
                let list = decided.entry(node.entry.part).or_default();
                list.push((node.key.clone(), Change::Delete));
            }
        }
        decided
    }

    fn is_free(&self, part: D::Part) -> bool {
        self.parts.get(&part).is_some_and(PartState::is_free)
    }

    /// Nothing is under way, nothing is about to be tried again with success, and no part is about to say what it holds.
    fn is_at_rest(&self) -> bool {
        let rests = |entry: &Entry<D>| match entry.attempt {
            Attempt::Ready | Attempt::Failed => true,
            Attempt::Waiting(_) => entry.failures >= HOPELESS,
            Attempt::Underway(_) => false,
        };
        self.parts.values().all(|part| !part.up || part.is_free())
            && self.entries.values().all(rests)
    }

    fn batch(&mut self, part: D::Part, changes: Changes<D::Key>) -> Batch<D> {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let mut operations = Vec::with_capacity(changes.len());
        let mut keys = Vec::with_capacity(changes.len());
        for (key, change) in changes {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let full = match (&change, &entry.planned) {
                (Change::Create(()), Some(planned)) => Change::Create(planned.value.clone()),
                (Change::Update(()), Some(planned)) => Change::Update(planned.value.clone()),
                _ => Change::Delete,
            };
            entry.attempt = Attempt::Underway(Underway {
                change,
                planned: entry.planned.as_ref().map(Arc::clone),
            });
            keys.push(key.clone());
            operations.push(Operation { key, change: full });
        }
        self.parts.entry(part).or_default().underway = Some(id);
        self.batches.insert(id, (part, keys));
        Batch {
            id,
            part,
            operations,
        }
    }
}

/// The values that keep others from leaving and cannot be updated, since what they need now waits for those others.
fn blocking<D: Domain>(view: &View<'_, D>) -> BTreeSet<D::Key> {
    let leaving = view.nodes.iter().filter(|node| node.leaving);
    leaving
        .flat_map(|node| view.blockers(node))
        .filter(|node| !node.leaving && node.difference == Difference::Update)
        .map(|node| node.key.clone())
        .collect()
}
