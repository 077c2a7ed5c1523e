//! The scheduler's entrances: what is planned, what is held, what came of a batch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Attempt, Entry, Held, PartState};
use crate::{BatchId, Change, Domain, Failure, Plan, Planned, circle};

/// So many values that are gone are remembered.
const REMEMBERED: usize = 256;

/// Why a plan is refused. The one before it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetPlanError<K> {
    /// Values that wait for each other.
    #[error("these values wait for each other: {keys:?}")]
    Circle {
        /// All values that can never be created.
        keys: Vec<K>,
    },
    /// A key that another part holds already.
    #[error("{key:?} is held by another part")]
    OtherPart {
        /// The key.
        key: K,
    },
}

/// See the crate's front page.
pub struct Scheduler<D: Domain> {
    pub(crate) entries: BTreeMap<D::Key, Entry<D>>,
    pub(crate) parts: BTreeMap<D::Part, PartState>,
    pub(crate) batches: BTreeMap<BatchId, (D::Part, Vec<D::Key>)>,
    pub(crate) next_batch: u64,
    /// Values that were removed because no plan had them any longer, the newest last.
    pub(crate) removed: VecDeque<Removed<D>>,
    /// Something happened since batches were last decided on.
    pub(crate) dirty: bool,
    /// No planned value needs what is in no plan; false: that is not known.
    pub(crate) supported: bool,
}

/// What is known of a value that is gone.
pub(crate) struct Removed<D: Domain> {
    pub(crate) key: D::Key,
    pub(crate) part: D::Part,
    pub(crate) origins: Vec<String>,
}

impl<D: Domain> Default for Scheduler<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Domain> Scheduler<D> {
    /// Nothing is planned, and every part is away.
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            parts: BTreeMap::new(),
            batches: BTreeMap::new(),
            next_batch: 0,
            removed: VecDeque::new(),
            dirty: false,
            supported: true,
        }
    }

    /// What should be, from now on. Values that failed are tried again if they differ from before.
    pub fn set_plan(&mut self, plan: &Plan<D>) -> Result<(), SetPlanError<D::Key>> {
        let changes = PlanChanges::between(&self.entries, plan)?;
        if circle::is_reached::<D>(plan, &changes.relinked) {
            let keys = circle::stuck::<D>(plan);
            return Err(SetPlanError::Circle { keys });
        }
        self.dirty = true;
        self.supported &= changes.are_supported(plan);
        self.removed.retain(|gone| !plan.contains_key(&gone.key));
        for key in &changes.dropped {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.planned = None;
                retry_now(entry);
            }
        }
        for (key, planned) in changes.new {
            self.plan(key, planned);
        }
        self.forget_what_is_gone();
        Ok(())
    }

    fn plan(&mut self, key: D::Key, planned: Arc<Planned<D>>) {
        let part = planned.part;
        let retrieved = self.parts.entry(part).or_default().retrieved;
        let entry = self.entries.entry(key).or_insert_with(|| {
            let mut entry = Entry::new(part);
            if retrieved {
                entry.held = Held::Absent;
            }
            entry
        });
        let changed = entry.planned.as_ref().is_none_or(|before| {
            !D::same(&planned.value, &before.value)
                || before.needs != planned.needs
                || before.after != planned.after
        });
        entry.planned = Some(planned);
        if changed {
            retry_now(entry);
        }
        // Nothing will be sent for a value that is right.
        if entry.is_settled() {
            entry.settle();
        }
    }

    /// A part is there. It is to be asked what it holds before it is told anything.
    pub fn part_up(&mut self, part: D::Part) {
        self.part_down(part);
        self.parts.entry(part).or_default().up = true;
    }

    /// A part is away; what it holds is not known any longer. What depends on its values stays as it is.
    pub fn part_down(&mut self, part: D::Part) {
        self.dirty = true;
        self.forget_held(part);
        let state = self.parts.entry(part).or_default();
        state.up = false;
    }

    /// What became of a batch is not known: its part is asked again.
    pub fn batch_lost(&mut self, id: BatchId) {
        if let Some((part, _)) = self.batches.get(&id) {
            let part = *part;
            self.dirty = true;
            self.forget_held(part);
        }
    }

    /// Asks a part again, once what is under way is done.
    pub fn resynchronise(&mut self, part: D::Part) {
        self.dirty = true;
        self.parts.entry(part).or_default().retrieved = false;
    }

    fn forget_held(&mut self, part: D::Part) {
        let state = self.parts.entry(part).or_default();
        state.retrieved = false;
        state.underway = None;
        self.batches.retain(|_, (of, _)| *of != part);
        for entry in self.entries.values_mut().filter(|entry| entry.part == part) {
            entry.held = Held::Unknown;
            retry_now(entry);
        }
    }

    /// The parts that are up and must say what they hold: answer with [`Scheduler::retrieved`].
    pub fn parts_to_retrieve(&self) -> Vec<D::Part> {
        self.parts
            .iter()
            .filter(|(_, state)| state.up && !state.retrieved && state.underway.is_none())
            .map(|(part, _)| *part)
            .collect()
    }

    /// All that a part holds. Values that are in no plan will be deleted. A key that is planned for another
    /// part is passed over.
    pub fn retrieved(
        &mut self,
        part: D::Part,
        values: impl IntoIterator<Item = (D::Key, D::Value)>,
    ) {
        let state = self.parts.entry(part).or_default();
        if !state.up || state.underway.is_some() {
            // An answer from before the part went away, or to nobody's question.
            return;
        }
        state.retrieved = true;
        self.dirty = true;
        for entry in self.entries.values_mut().filter(|entry| entry.part == part) {
            entry.held = Held::Absent;
            retry_now(entry);
        }
        for (key, value) in values {
            let entry = self.entries.entry(key).or_insert_with(|| Entry::new(part));
            if entry.part != part {
                continue;
            }
            entry.find(value);
        }
        self.forget_what_is_gone();
    }

    /// What came of a batch: one result for each operation, in the same order. Results that are missing
    /// count as failures that may pass. A batch that is not under way any longer is passed over.
    pub fn completed(
        &mut self,
        id: BatchId,
        results: impl IntoIterator<Item = Result<(), Failure>>,
        now: Duration,
    ) {
        let Some((part, keys)) = self.batches.remove(&id) else {
            return;
        };
        self.dirty = true;
        self.parts.entry(part).or_default().underway = None;
        let mut results = results.into_iter();
        for key in keys {
            let result = results.next().unwrap_or_else(|| {
                Err(Failure {
                    retriable: true,
                    message: "the part did not answer this operation".to_owned(),
                    fields: Vec::new(),
                })
            });
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let attempt = std::mem::replace(&mut entry.attempt, Attempt::Ready);
            let Attempt::Underway(underway) = attempt else {
                entry.attempt = attempt;
                continue;
            };
            match result {
                Ok(()) => {
                    entry.succeed();
                    match (underway.change, underway.planned) {
                        (Change::Delete, _) | (_, None) => {
                            entry.held = Held::Absent;
                            let made_from = entry.made_from.take();
                            if entry.planned.is_none() {
                                if self.removed.len() == REMEMBERED {
                                    self.removed.pop_front();
                                }
                                self.removed.push_back(Removed {
                                    key,
                                    part,
                                    origins: made_from
                                        .map(|planned| planned.origins.clone())
                                        .unwrap_or_default(),
                                });
                            }
                        }
                        (_, Some(planned)) => entry.made(planned),
                    }
                }
                Err(failure) => {
                    // What failed was planned otherwise: what is planned now deserves its own attempt.
                    let outdated = match (&underway.planned, &entry.planned) {
                        (Some(sent), Some(planned)) => !Arc::ptr_eq(sent, planned),
                        (None, None) => false,
                        _ => true,
                    };
                    entry.fail(failure.retriable || outdated, failure, now);
                }
            }
        }
        self.forget_what_is_gone();
    }

    /// When something will be tried again without anything else happening.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.entries
            .values()
            .filter_map(|entry| match entry.attempt {
                Attempt::Waiting(until) => Some(until),
                _ => None,
            })
            .min()
    }

    fn forget_what_is_gone(&mut self) {
        self.entries.retain(|_, entry| {
            entry.planned.is_some() || !matches!(entry.held, Held::Absent) || entry.is_underway()
        });
    }
}

/// Takes the past off an entry, unless something is under way.
fn retry_now<D: Domain>(entry: &mut Entry<D>) {
    if !entry.is_underway() || matches!(entry.held, Held::Unknown) {
        entry.succeed();
    }
}

/// What a plan changes of the one before it.
struct PlanChanges<D: Domain> {
    /// In the one before only.
    dropped: Vec<D::Key>,
    /// What the two do not share.
    new: Vec<(D::Key, Arc<Planned<D>>)>,
    /// Of these, those that depend on other keys than before.
    relinked: Vec<D::Key>,
}

impl<D: Domain> PlanChanges<D> {
    /// Both are walked through in the order of their keys.
    fn between(
        entries: &BTreeMap<D::Key, Entry<D>>,
        plan: &Plan<D>,
    ) -> Result<Self, SetPlanError<D::Key>> {
        let mut changes = Self {
            dropped: Vec::new(),
            new: Vec::new(),
            relinked: Vec::new(),
        };
        let mut entries = entries.iter().peekable();
        for (key, planned) in plan {
            while let Some((other, entry)) = entries.next_if(|(other, _)| *other < key) {
                changes.gone(other, entry);
            }
            let entry = entries.next_if(|(other, _)| *other == key);
            let entry = entry.map(|(_, entry)| entry);
            if entry.is_some_and(|entry| entry.part != planned.part) {
                return Err(SetPlanError::OtherPart { key: key.clone() });
            }
            changes.add(key, planned, entry.and_then(|entry| entry.planned.as_ref()));
        }
        for (other, entry) in entries {
            changes.gone(other, entry);
        }
        Ok(changes)
    }

    /// Whether no value of the plan lacks what it needs because of them, as far as is known without looking at all.
    fn are_supported(&self, plan: &Plan<D>) -> bool {
        let mut needs = self
            .relinked
            .iter()
            .filter_map(|key| plan.get(key))
            .flat_map(|planned| &planned.needs);
        self.dropped.is_empty() && needs.all(|need| plan.contains_key(need))
    }

    fn gone(&mut self, key: &D::Key, entry: &Entry<D>) {
        if entry.planned.is_some() {
            self.dropped.push(key.clone());
        }
    }

    fn add(&mut self, key: &D::Key, planned: &Arc<Planned<D>>, before: Option<&Arc<Planned<D>>>) {
        if before.is_some_and(|before| Arc::ptr_eq(before, planned)) {
            return;
        }
        self.new.push((key.clone(), Arc::clone(planned)));
        let alike = |before: &Arc<Planned<D>>| {
            before.needs == planned.needs && before.after == planned.after
        };
        if !before.is_some_and(alike) {
            self.relinked.push(key.clone());
        }
    }
}
