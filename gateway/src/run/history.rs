//! Transactions of the scheduler in the bus's words.

use culvert_model::bus::{self, operation, transaction};
use culvert_model::plan::Part;
use culvert_scheduler::{Cause, Transaction, Verb};

/// A transaction that began so many milliseconds after 1970.
pub fn on_the_bus(one: &Transaction<Part>, unix_ms: u64) -> bus::Transaction {
    let (cause, revision, part) = match one.cause {
        Cause::Commit(revision) => (transaction::Cause::Commit, revision, None),
        Cause::PartUp(part) => (transaction::Cause::PartUp, 0, Some(part)),
        Cause::Resynchronisation => (transaction::Cause::Resynchronisation, 0, None),
        Cause::Surroundings => (transaction::Cause::Surroundings, 0, None),
        Cause::Retry => (transaction::Cause::Retry, 0, None),
    };
    let operations = one.operations.iter();
    bus::Transaction {
        number: one.number,
        cause: cause.into(),
        revision,
        part: part.map(|part| part.to_string()).unwrap_or_default(),
        unix_ms,
        took_us: one.took.as_micros() as u64,
        finished: one.finished,
        operations: operations
            .map(|((kind, verb), tally)| transaction::Tally {
                kind: kind.clone(),
                verb: match verb {
                    Verb::Create => operation::Verb::Create,
                    Verb::Update => operation::Verb::Update,
                    Verb::Delete => operation::Verb::Delete,
                }
                .into(),
                sent: tally.sent,
                done: tally.done,
                failed: tally.failed,
            })
            .collect(),
        messages: one.messages.clone(),
        repeats: one.repeats,
    }
}
