//! Brings what the parts of a gateway hold to what the plan says, and keeps it there.
//!
//! ```text
//!   plan --set_plan--> +-----------+ --next_batches--> dataplane, linux, iked
//!                      | Scheduler |                        |
//!   status <---------- +-----------+ <--completed-----------+
//!                            ^ <------retrieved, part_up, part_down
//! ```
//!
//! A pure state machine: no I/O, no clock (time is the `now` that is passed in), no threads. Whoever drives
//! it sends the batches, reports what came of them, and asks again.
//!
//! Values are compared with what a part *holds*, never with what was sent before: a part that restarts is
//! asked for its values ([`Scheduler::parts_to_retrieve`]), and exactly the difference is sent. Values are
//! created in the order of their dependencies and deleted in the reverse one. A value whose dependencies
//! are missing is *pending*; an error that may pass is tried again after 0.1 s, 0.2 s, 0.4 s ... 30 s; one
//! that will not leaves the value *failed*, or *invalid* if the part names the fields that it refuses, until
//! its plan changes or its part restarts. [`History`] remembers what was done, and why.
//!
//! A value *needs* others: without them it cannot exist, and it is taken away before they are. It comes
//! *after* others: they must be there when it is created, but it stays when one of them goes away.

mod circle;
mod decide;
mod entry;
mod gateway;
mod history;
mod scheduler;
mod status;
mod view;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

pub use decide::HOPELESS;
pub use gateway::{Gateway, GatewayScheduler};
pub use history::{Cause, History, Tally, Transaction, Verb};
pub use scheduler::{Scheduler, SetPlanError};
pub use status::{Dependencies, Standing, Status};

/// What a scheduler must know of the values it handles.
pub trait Domain {
    /// Tells values apart.
    type Key: Clone + Ord + Hash + Debug;
    /// Who holds values.
    type Part: Copy + Ord + Debug;
    /// What is held.
    type Value: Clone + Debug;

    /// Whether a part holds what was planned. Of a secret only a digest can be compared.
    fn same(planned: &Self::Value, held: &Self::Value) -> bool;

    /// Whether a part can turn one value into the other; otherwise it is deleted and created.
    fn updates_in_place(held: &Self::Value, planned: &Self::Value) -> bool;

    /// Whether a planned value comes from the surroundings, and not from anybody's configuration.
    fn is_obtained(value: &Self::Value) -> bool {
        let _ = value;
        false
    }

    /// A place in the order of creation, for values that are found in a part and are in no plan: nothing
    /// else tells what they depend on. They are deleted from the highest to the lowest.
    fn rank(key: &Self::Key) -> u32;
}

/// A value as it should be.
pub type Planned<D> =
    culvert_model::plan::Planned<<D as Domain>::Key, <D as Domain>::Part, <D as Domain>::Value>;

/// All values as they should be. What a plan shares with the one before it is not looked at again.
pub type Plan<D> = BTreeMap<<D as Domain>::Key, Arc<Planned<D>>>;

/// Names a batch until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Operations for one part, to be done in this order. Each is answered on its own.
#[derive(Debug, Clone)]
pub struct Batch<D: Domain> {
    /// To be given to [`Scheduler::completed`].
    pub id: BatchId,
    /// Who does it.
    pub part: D::Part,
    /// None depends on another of the same batch.
    pub operations: Vec<Operation<D>>,
}

/// One change of one value.
#[derive(Debug, Clone)]
pub struct Operation<D: Domain> {
    /// Which value.
    pub key: D::Key,
    /// What is done to it.
    pub change: Change<D::Value>,
}

/// What is done to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<V> {
    /// It is not there, and should be.
    Create(V),
    /// It is there in another form.
    Update(V),
    /// It is there, and should not be.
    Delete,
}

/// Why an operation was not done.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The same operation may succeed later without a change of the plan.
    pub retriable: bool,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The fields of the value that the part refuses; none: it is not the value that is wrong.
    pub fields: Vec<String>,
}
