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
    /// The part holds it, and it comes from the surroundings and not from anybody's configuration.
    Obtained,
    /// It was found in a part, and nobody planned it: it is to be removed.
    Discovered,
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
    /// The part refuses it for good, and names the fields that it refuses: its plan must change.
    Invalid {
        /// Of the value.
        fields: Vec<String>,
        /// What is wrong with them.
        message: String,
    },
    /// It is in no plan any longer and is being removed.
    Removing,
    /// It was in a plan, or was found, and is gone.
    Removed,
}

impl<K> Standing<K> {
    /// As people read it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Obtained => "obtained",
            Self::Discovered => "discovered",
            Self::Applying => "applying",
            Self::PartAway => "away",
            Self::Pending { .. } => "pending",
            Self::Retrying { .. } => "retrying",
            Self::Failed { .. } => "failed",
            Self::Invalid { .. } => "invalid",
            Self::Removing => "removing",
            Self::Removed => "removed",
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Status<'a, D: Domain> {
    /// Which value.
    pub key: &'a D::Key,
    /// Who holds it.
    pub part: D::Part,
    /// Where it stands.
    pub standing: Standing<D::Key>,
    /// The paths of the configuration that it comes from.
    pub origins: &'a [String],
}

/// What a value depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependencies<K> {
    /// It cannot exist without these.
    pub needs: Vec<K>,
    /// These must be there when it is created.
    pub after: Vec<K>,
}

impl<K> Default for Dependencies<K> {
    fn default() -> Self {
        Self {
            needs: Vec::new(),
            after: Vec::new(),
        }
    }
}

impl<D: Domain> Scheduler<D> {
    /// All values, by key.
    pub fn status(&self) -> impl Iterator<Item = Status<'_, D>> {
        self.entries.iter().map(|(key, entry)| Status {
            key,
            part: entry.part,
            standing: self.standing(entry),
            origins: entry
                .planned
                .as_ref()
                .or(entry.made_from.as_ref())
                .map(|planned| planned.origins.as_slice())
                .unwrap_or_default(),
        })
    }

    /// Values that are gone, the last one last; only the newest are remembered.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = Status<'_, D>> {
        self.removed.iter().map(|gone| Status {
            key: &gone.key,
            part: gone.part,
            standing: Standing::Removed,
            origins: &gone.origins,
        })
    }

    /// What a value is planned to depend on, or was made to.
    pub fn dependencies(&self, key: &D::Key) -> Dependencies<D::Key> {
        let entry = self.entries.get(key);
        let planned = entry.and_then(|entry| entry.planned.as_ref().or(entry.made_from.as_ref()));
        planned
            .map(|planned| Dependencies {
                needs: planned.needs.clone(),
                after: planned.after.clone(),
            })
            .unwrap_or_default()
    }

    /// Whether every part holds what is planned and nothing else.
    pub fn is_converged(&self) -> bool {
        self.batches.is_empty() && self.entries.values().all(Entry::is_settled)
    }

    /// Whether nothing is under way, nobody is asked, and nothing is to be sent before the next retry.
    pub fn is_idle(&self) -> bool {
        !self.dirty && self.batches.is_empty() && self.parts_to_retrieve().is_empty()
    }

    /// Whether nothing more will happen by itself: what is not configured is failed, pending on something
    /// that failed or is in no plan, or held by a part that is away.
    pub fn is_at_end(&self) -> bool {
        self.is_idle() && self.next_wakeup().is_none()
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
            Attempt::Failed if !entry.fields.is_empty() => {
                return Standing::Invalid {
                    fields: entry.fields.clone(),
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
            return if entry.is_present() && entry.made_from.is_none() {
                Standing::Discovered
            } else {
                Standing::Removing
            };
        };
        if matches!(entry.held, Held::Unknown) {
            return Standing::PartAway;
        }
        if entry.is_settled() {
            return if D::is_obtained(&planned.value) {
                Standing::Obtained
            } else {
                Standing::Configured
            };
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
