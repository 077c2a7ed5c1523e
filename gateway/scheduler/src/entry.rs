//! What is known of one value, and of one part.

use std::sync::Arc;
use std::time::Duration;

use crate::{BatchId, Change, Domain, Failure, Planned};

/// The first retry; each further one waits twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// No retry waits longer: an operator who repaired something should not wait longer to see it.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What a part holds under a key.
pub(crate) enum Held<D: Domain> {
    /// The part is away, or was not asked yet.
    Unknown,
    Absent,
    /// As it was planned at some time.
    AsPlanned(Arc<Planned<D>>),
    /// As the part told, and no plan agreed.
    Found(D::Value),
}

impl<D: Domain> Held<D> {
    fn value(&self) -> Option<&D::Value> {
        match self {
            Self::Unknown | Self::Absent => None,
            Self::AsPlanned(planned) => Some(&planned.value),
            Self::Found(value) => Some(value),
        }
    }
}

/// How the last operation on a value went.
pub(crate) enum Attempt<D: Domain> {
    /// Nothing stands against the next one.
    Ready,
    /// It is under way.
    Underway(Underway<D>),
    /// It failed and is tried again at this time.
    Waiting(Duration),
    /// It failed for good.
    Failed,
}

/// An operation that was sent.
pub(crate) struct Underway<D: Domain> {
    pub(crate) change: Change<()>,
    /// What the value was to become.
    pub(crate) planned: Option<Arc<Planned<D>>>,
}

/// All that is known of one value.
pub(crate) struct Entry<D: Domain> {
    pub(crate) part: D::Part,
    /// `None`: it should not be there.
    pub(crate) planned: Option<Arc<Planned<D>>>,
    pub(crate) held: Held<D>,
    /// The plan that the held value was made from: its dependencies order its deletion.
    pub(crate) made_from: Option<Arc<Planned<D>>>,
    /// It could be updated in place, but what it needs cannot come before what it was made from goes.
    pub(crate) rebuild: bool,
    pub(crate) attempt: Attempt<D>,
    /// Since the last success.
    pub(crate) failures: u32,
    /// Of the last failure.
    pub(crate) message: String,
    /// The fields that it named.
    pub(crate) fields: Vec<String>,
}

impl<D: Domain> Entry<D> {
    pub(crate) fn new(part: D::Part) -> Self {
        Self {
            part,
            planned: None,
            held: Held::Unknown,
            made_from: None,
            rebuild: false,
            attempt: Attempt::Ready,
            failures: 0,
            message: String::new(),
            fields: Vec::new(),
        }
    }

    pub(crate) fn is_present(&self) -> bool {
        self.held.value().is_some()
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.attempt, Attempt::Failed)
    }

    pub(crate) fn is_underway(&self) -> bool {
        matches!(self.attempt, Attempt::Underway(_))
    }

    /// Whether its deletion was sent: why it was sent may have passed since.
    pub(crate) fn is_being_deleted(&self) -> bool {
        matches!(&self.attempt, Attempt::Underway(underway) if underway.change == Change::Delete)
    }

    /// Whether what was sent makes it what is planned now.
    pub(crate) fn is_being_made_as_planned(&self) -> bool {
        let Attempt::Underway(underway) = &self.attempt else {
            return false;
        };
        let same = match (&underway.planned, &self.planned) {
            (Some(sent), Some(planned)) => Arc::ptr_eq(sent, planned),
            _ => false,
        };
        same && underway.change != Change::Delete
    }

    /// Whether the part holds what is planned.
    pub(crate) fn is_settled(&self) -> bool {
        match (&self.planned, &self.held) {
            (Some(planned), Held::AsPlanned(held)) if Arc::ptr_eq(planned, held) => true,
            (Some(planned), held) => held
                .value()
                .is_some_and(|held| D::same(&planned.value, held)),
            (None, held) => matches!(held, Held::Absent),
        }
    }

    /// The part was found to hold this.
    pub(crate) fn find(&mut self, value: D::Value) {
        self.held = Held::Found(value);
        if self.is_settled() {
            self.settle();
        } else if let Some(planned) = &self.planned {
            self.made_from = Some(Arc::clone(planned));
        }
    }

    /// What is held is as planned: it depends on what the plan says.
    pub(crate) fn settle(&mut self) {
        if let Some(planned) = &self.planned {
            self.held = Held::AsPlanned(Arc::clone(planned));
            self.made_from = Some(Arc::clone(planned));
        }
    }

    /// The part did this with it.
    pub(crate) fn made(&mut self, planned: Arc<Planned<D>>) {
        self.held = Held::AsPlanned(Arc::clone(&planned));
        self.made_from = Some(planned);
        // The plan may have changed meanwhile in its dependencies alone.
        if self.is_settled() {
            self.settle();
        }
    }

    /// Whether it is there in another form, and what to do about that.
    pub(crate) fn difference(&self) -> Difference {
        match (&self.planned, self.held.value()) {
            (Some(_), Some(_)) if self.is_settled() => Difference::None,
            (Some(planned), Some(held)) => {
                if !self.rebuild && D::updates_in_place(held, &planned.value) {
                    Difference::Update
                } else {
                    Difference::Recreate
                }
            }
            _ => Difference::None,
        }
    }

    /// What the value depends on as it was made, or as it is being made.
    pub(crate) fn dependencies_now(&self) -> impl Iterator<Item = &D::Key> {
        let made_from = self.made_from.as_ref().filter(|_| self.is_present());
        let being_made = match &self.attempt {
            Attempt::Underway(underway) if underway.change != Change::Delete => {
                underway.planned.as_ref()
            }
            _ => None,
        };
        made_from
            .into_iter()
            .chain(being_made)
            .flat_map(|planned| planned.needs.iter().chain(&planned.after))
    }

    pub(crate) fn succeed(&mut self) {
        self.attempt = Attempt::Ready;
        self.rebuild = false;
        self.failures = 0;
        self.message.clear();
        self.fields.clear();
    }

    pub(crate) fn fail(&mut self, retriable: bool, failure: Failure, now: Duration) {
        self.message = failure.message;
        self.fields = failure.fields;
        self.attempt = if retriable {
            let wait = FIRST_RETRY
                .saturating_mul(1 << self.failures.min(16))
                .min(LAST_RETRY);
            self.failures = self.failures.saturating_add(1);
            Attempt::Waiting(now.saturating_add(wait))
        } else {
            Attempt::Failed
        };
    }
}

/// How a held value differs from the planned one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    Update,
    Recreate,
}

/// All that is known of one part.
#[derive(Default)]
pub(crate) struct PartState {
    pub(crate) up: bool,
    /// It told what it holds since it came up.
    pub(crate) retrieved: bool,
    /// One batch at a time: the next is decided on what came of it.
    pub(crate) underway: Option<BatchId>,
}

impl PartState {
    /// Whether it can be given a batch.
    pub(crate) fn is_free(&self) -> bool {
        self.up && self.retrieved && self.underway.is_none()
    }
}
