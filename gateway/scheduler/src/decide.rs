//! Which operations can be sent now.
//!
//! ```text
//! unsupported   planned, but what it needs is in no plan
//! leaving       held, and to be deleted or on its way: in no plan, unsupported, to be built anew,
//!               or in need of something that is leaving
//! delete        leaving, and nothing held that depends on it is still to leave or to be updated
//! update        held in another form, and all that it needs is there to stay
//! create        not held, and all that it needs and comes after is there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Attempt, Difference, Entry, Held, PartState, Underway};
use crate::scheduler::Scheduler;
use crate::{Batch, BatchId, Change, Domain, Operation};

/// Most operations of a batch: a few megabytes in the largest kind of value, and few rounds for a full
/// table of routes.
const MAX_OPERATIONS: usize = 16_384;

/// The keys that something depends on, with what depends on them.
type Dependents<'a, K> = BTreeMap<&'a K, Vec<&'a K>>;

/// The changes of one part, by key.
type Changes<K> = Vec<(K, Change<()>)>;

/// What holds of all entries at one moment.
struct View<'a, D: Domain> {
    entries: &'a BTreeMap<D::Key, Entry<D>>,
    unsupported: BTreeSet<&'a D::Key>,
    leaving: BTreeSet<&'a D::Key>,
    /// Of held values, by the plan that they were made from.
    held_dependents: Dependents<'a, D::Key>,
}

impl<'a, D: Domain> View<'a, D> {
    fn new(entries: &'a BTreeMap<D::Key, Entry<D>>) -> Self {
        let mut needed_by: Dependents<'a, D::Key> = BTreeMap::new();
        let mut held_dependents: Dependents<'a, D::Key> = BTreeMap::new();
        for (key, entry) in entries {
            for need in entry.planned.iter().flat_map(|planned| &planned.needs) {
                needed_by.entry(need).or_default().push(key);
            }
            if entry.is_present() {
                for dependency in entry.held_dependencies() {
                    held_dependents.entry(dependency).or_default().push(key);
                }
            }
        }
        let without_need = entries.iter().filter(|(_, entry)| {
            let mut needs = entry.planned.iter().flat_map(|planned| &planned.needs);
            needs.any(|need| {
                entries
                    .get(need)
                    .is_none_or(|other| other.planned.is_none())
            })
        });
        let unsupported = spread(without_need.map(|(key, _)| key), &needed_by, |_| true);
        let origins = entries.iter().filter(|(key, entry)| {
            entry.is_present()
                && (entry.planned.is_none()
                    || entry.is_being_deleted()
                    || unsupported.contains(key)
                    || (entry.difference() == Difference::Recreate && !entry.is_failed()))
        });
        let leaving = spread(origins.map(|(key, _)| key), &needed_by, |key| {
            entries.get(key).is_some_and(Entry::is_present)
        });
        Self {
            entries,
            unsupported,
            leaving,
            held_dependents,
        }
    }

    /// Whether something that exists may go on needing this.
    fn stays(&self, key: &D::Key) -> bool {
        let known_absent = self
            .entries
            .get(key)
            .is_none_or(|entry| matches!(entry.held, Held::Absent));
        !known_absent && !self.leaving.contains(key)
    }

    /// Whether something new may be built on this.
    fn is_there(&self, key: &D::Key) -> bool {
        self.entries.get(key).is_some_and(Entry::is_present) && !self.leaving.contains(key)
    }

    /// Whether a held value must go or change before `key` can go.
    fn is_depended_on(&self, key: &D::Key) -> bool {
        let dependents = self.held_dependents.get(key).into_iter().flatten();
        dependents
            .filter(|other| **other != key)
            .filter_map(|other| Some((other, self.entries.get(*other)?)))
            .filter(|(_, entry)| !entry.is_failed())
            .any(|(other, entry)| {
                self.leaving.contains(*other)
                    || entry.is_underway()
                    || entry.difference() != Difference::None
            })
    }

    /// What can be done to an entry now.
    fn change(&self, key: &D::Key, entry: &Entry<D>) -> Option<Change<()>> {
        if self.leaving.contains(key) {
            return (!self.is_depended_on(key)).then_some(Change::Delete);
        }
        let planned = entry.planned.as_ref()?;
        if self.unsupported.contains(key) {
            return None;
        }
        match entry.held {
            Held::Present(_) => {
                let wanted = entry.difference() == Difference::Update;
                let supported = planned.needs.iter().all(|need| self.stays(need));
                (wanted && supported).then_some(Change::Update(()))
            }
            Held::Absent => {
                let mut waits = planned.needs.iter().chain(&planned.after);
                waits
                    .all(|other| self.is_there(other))
                    .then_some(Change::Create(()))
            }
            Held::Unknown => None,
        }
    }
}

/// All keys that can be reached from `from` by `edges`, going on only over those that `passes`.
fn spread<'a, K: Ord>(
    from: impl Iterator<Item = &'a K>,
    edges: &Dependents<'a, K>,
    passes: impl Fn(&K) -> bool,
) -> BTreeSet<&'a K> {
    let mut queue: Vec<&K> = from.collect();
    let mut reached: BTreeSet<&K> = queue.iter().copied().collect();
    while let Some(key) = queue.pop() {
        for next in edges.get(key).into_iter().flatten() {
            if passes(next) && reached.insert(next) {
                queue.push(next);
            }
        }
    }
    reached
}

impl<D: Domain> Scheduler<D> {
    /// What can be sent now: at most one batch a part, and none to a part with one under way.
    pub fn next_batches(&mut self, now: Duration) -> Vec<Batch<D>> {
        for entry in self.entries.values_mut() {
            if matches!(entry.attempt, Attempt::Waiting(until) if until <= now) {
                entry.attempt = Attempt::Ready;
                self.dirty = true;
            }
        }
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut decided = self.decide();
        if decided.is_empty() && self.is_at_rest() {
            decided = if self.rebuild_what_blocks() {
                self.decide()
            } else {
                self.delete_circles()
            };
        }
        decided
            .into_iter()
            .map(|(part, changes)| self.batch(part, changes))
            .collect()
    }

    fn decide(&self) -> BTreeMap<D::Part, Changes<D::Key>> {
        let view = View::new(&self.entries);
        let mut changes: BTreeMap<D::Part, Changes<&D::Key>> = BTreeMap::new();
        let mut leaving_parts = BTreeSet::new();
        for (key, entry) in &self.entries {
            if !self.is_free(entry.part) || !matches!(entry.attempt, Attempt::Ready) {
                continue;
            }
            if view.leaving.contains(key) {
                leaving_parts.insert(entry.part);
            }
            if let Some(change) = view.change(key, entry) {
                changes.entry(entry.part).or_default().push((key, change));
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

    /// Marks the values that keep others from leaving and cannot be updated, since what they need now waits
    /// for those others. Whether there are any.
    fn rebuild_what_blocks(&mut self) -> bool {
        let view = View::new(&self.entries);
        let blocking: BTreeSet<D::Key> = view
            .leaving
            .iter()
            .filter_map(|key| view.held_dependents.get(*key))
            .flatten()
            .filter(|key| !view.leaving.contains(**key))
            .filter(|key| {
                self.entries.get(**key).is_some_and(|entry| {
                    !entry.is_failed() && entry.difference() == Difference::Update
                })
            })
            .map(|key| (*key).clone())
            .collect();
        for key in &blocking {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.rebuild = true;
            }
        }
        !blocking.is_empty()
    }

    /// Values of different plans that hold each other up: all of them go, in whatever order.
    fn delete_circles(&self) -> BTreeMap<D::Part, Changes<D::Key>> {
        let view = View::new(&self.entries);
        let mut decided: BTreeMap<D::Part, Changes<D::Key>> = BTreeMap::new();
        for (key, entry) in &self.entries {
            let deletable = view.leaving.contains(key)
                && matches!(entry.attempt, Attempt::Ready)
                && self.is_free(entry.part);
            if deletable {
                let list = decided.entry(entry.part).or_default();
                list.push((key.clone(), Change::Delete));
            }
        }
        decided
    }

    fn is_free(&self, part: D::Part) -> bool {
        self.parts.get(&part).is_some_and(PartState::is_free)
    }

    /// Nothing is under way and nothing waits to be tried again.
    fn is_at_rest(&self) -> bool {
        self.entries
            .values()
            .all(|entry| matches!(entry.attempt, Attempt::Ready | Attempt::Failed))
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
            let value = entry.planned.as_ref().map(|planned| planned.value.clone());
            let full = match (&change, value) {
                (Change::Create(()), Some(value)) => Change::Create(value),
                (Change::Update(()), Some(value)) => Change::Update(value),
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
