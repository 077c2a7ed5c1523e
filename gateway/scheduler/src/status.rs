//! Where each value stands, for people.

use std::time::Duration;

use crate::Domain;
use crate::entry::{Attempt, Entry, Held};
use crate::scheduler::Scheduler;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<K> {
    /// The part holds it as planned.
    Configured,
    /// It is being sent, or will be with the next batch.
    Applying,
    /// Its part is away, or has not said yet what it holds.
    PartAway,
    /// What it waits for.
    Pending {
        /// The keys that are not there.
        missing: Vec<K>,
    },
    /// It failed and is tried again.
    Retrying {
        /// When.
        at: Duration,
        /// How often it failed since it last succeeded.
        failures: u32,
        /// Why.
        message: String,
    },
    /// It failed for good: its plan must change, or its part restart.
    Failed {
        /// Why.
        message: String,
    },
    /// It is in no plan and is being removed.
    Removing,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Status<D: Domain> {
    /// Which value.
    pub key: D::Key,
    /// Who holds it.
    pub part: D::Part,
    /// Where it stands.
    pub standing: Standing<D::Key>,
    /// The paths of the configuration that it comes from.
    pub origins: Vec<String>,
}

impl<D: Domain> Scheduler<D> {
    /// All values, by key.
    pub fn status(&self) -> Vec<Status<D>> {
        self.entries
            .iter()
            .map(|(key, entry)| Status {
                key: key.clone(),
                part: entry.part,
                standing: self.standing(entry),
                origins: entry
                    .planned
                    .as_ref()
                    .or(entry.made_from.as_ref())
                    .map(|planned| planned.origins.clone())
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// Whether every part holds what is planned and nothing else.
    pub fn is_converged(&self) -> bool {
        self.batches.is_empty() && self.entries.values().all(Entry::is_settled)
    }

    /// Whether nothing more will happen by itself: what is not configured is failed, pending on something
    /// that failed or is in no plan, or held by a part that is away.
    pub fn is_at_end(&self) -> bool {
        !self.dirty
            && self.batches.is_empty()
            && self.next_wakeup().is_none()
            && self.parts_to_retrieve().is_empty()
    }

    fn standing(&self, entry: &Entry<D>) -> Standing<D::Key> {
        match &entry.attempt {
            Attempt::Underway(_) => return Standing::Applying,
            Attempt::Waiting(at) => {
                return Standing::Retrying {
                    at: *at,
                    failures: entry.failures,
                    message: entry.message.clone(),
                };
            }
            Attempt::Failed => {
                return Standing::Failed {
                    message: entry.message.clone(),
                };
            }
            Attempt::Ready => {}
        }
        let Some(planned) = &entry.planned else {
            return Standing::Removing;
        };
        if matches!(entry.held, Held::Unknown) {
            return Standing::PartAway;
        }
        if entry.is_settled() {
            return Standing::Configured;
        }
        let missing: Vec<D::Key> = planned
            .needs
            .iter()
            .chain(&planned.after)
            .filter(|key| !self.entries.get(key).is_some_and(Entry::is_present))
            .cloned()
            .collect();
        if missing.is_empty() {
            Standing::Applying
        } else {
            Standing::Pending { missing }
        }
    }
}
