//! Where the gateway stands with what runs: states of values, what was done and why, what depends on what.

use std::sync::atomic::Ordering;

use culvert_model::api;
use culvert_model::bus::{self, ShowPlanReply, operation, transaction, unsettled};

use super::caller::{Caller, Role, allowed};
use super::hands::Hands;
use super::{Agent, Refusal};

impl<H: Hands> Agent<H> {
    /// How far the gateway is.
    pub async fn status(
        &self,
        _caller: &Caller,
        _request: api::StatusRequest,
    ) -> Result<api::StatusReply, Refusal> {
        let (probation_seconds, exclusive) = self
            .with(|records| {
                let now = records.now()?;
                let pending = records.store.pending_confirmation(&now)?;
                let probation = pending.map(|pending| pending.remaining.as_secs());
                let lock = records.store.exclusive_lock(&now)?;
                let exclusive = lock.map(|lock| api::ExclusiveHold {
                    seconds: lock.remaining(&now).as_secs(),
                    candidate: lock.session.to_string(),
                    principal: lock.principal,
                });
                Ok((probation, exclusive))
            })
            .await?;
        let standing = self.hands.standing().await?;
        let mut waiting = waiting(&standing);
        let behind = self.behind.load(Ordering::Relaxed);
        if behind {
            waiting.insert(0, away("it is told again until it does"));
        }
        Ok(api::StatusReply {
            revision: standing.revision,
            settled: standing.settled && !behind,
            ready: standing.ready,
            wanted: standing.wanted,
            applied: standing.applied,
            waiting,
            store_warning: self.warning.clone(),
            probation_seconds,
            exclusive,
            standings: standing
                .standings
                .iter()
                .map(|one| api::StandingCount {
                    standing: name(one.standing()).to_owned(),
                    count: one.count,
                })
                .collect(),
        })
    }

    /// What was done to bring the gateway there, newest first.
    pub async fn transactions(
        &self,
        _caller: &Caller,
        request: api::ListTransactionsRequest,
    ) -> Result<api::ListTransactionsReply, Refusal> {
        let transactions = self.hands.transactions(request.limit).await?;
        Ok(api::ListTransactionsReply {
            transactions: transactions.into_iter().map(for_people).collect(),
        })
    }

    /// Values with what they depend on.
    pub async fn graph(
        &self,
        _caller: &Caller,
        request: api::GraphRequest,
    ) -> Result<api::GraphReply, Refusal> {
        let reply = self.hands.graph(&request.prefix, request.limit).await?;
        Ok(api::GraphReply {
            dot: reply.dot,
            shown: reply.shown,
            matching: reply.matching,
        })
    }

    /// Asks the parts what they hold, and puts right what differs.
    pub async fn resynchronise(
        &self,
        caller: &Caller,
        _request: api::ResynchroniseRequest,
    ) -> Result<api::ResynchroniseReply, Refusal> {
        allowed(caller, Role::Operator)?;
        self.hands.resynchronise().await?;
        let who = caller.clone();
        self.with(move |records| {
            records.audit(&who, "resynchronise", "begun", &records.now()?);
            Ok(())
        })
        .await?;
        Ok(api::ResynchroniseReply {})
    }
}

/// Everything waits: the gateway has not said that it follows what runs.
pub(super) fn away(reason: &str) -> api::Waiting {
    api::Waiting {
        key: String::new(),
        standing: "away".to_owned(),
        reason: format!("the gateway does not answer: {reason}"),
        origins: Vec::new(),
    }
}

/// What is not as planned, for people.
pub(super) fn waiting(standing: &ShowPlanReply) -> Vec<api::Waiting> {
    standing
        .unsettled
        .iter()
        .map(|value| {
            let reason = match (value.missing.as_slice(), value.fields.as_slice()) {
                ([], []) => value.reason.clone(),
                ([], fields) => format!("{}: {}", fields.join(", "), value.reason),
                (missing, _) => format!("waits for {}", missing.join(", ")),
            };
            api::Waiting {
                key: value.key.clone(),
                standing: name(value.standing()).to_owned(),
                reason,
                origins: value.origins.clone(),
            }
        })
        .collect()
}

fn name(standing: unsettled::Standing) -> &'static str {
    match standing {
        unsettled::Standing::Configured => "configured",
        unsettled::Standing::Obtained => "obtained",
        unsettled::Standing::Discovered => "discovered",
        unsettled::Standing::Pending => "pending",
        unsettled::Standing::Invalid => "invalid",
        unsettled::Standing::Failed => "failed",
        unsettled::Standing::Retrying => "retrying",
        unsettled::Standing::Applying | unsettled::Standing::Unspecified => "applying",
        unsettled::Standing::Removing => "removing",
        unsettled::Standing::Removed => "removed",
        unsettled::Standing::PartAway => "away",
    }
}

fn for_people(one: bus::Transaction) -> api::Transaction {
    let cause = match one.cause() {
        transaction::Cause::Commit => format!("revision {}", one.revision),
        transaction::Cause::PartUp => format!("{} came up", one.part),
        transaction::Cause::Resynchronisation => "resynchronisation".to_owned(),
        transaction::Cause::Surroundings => "routes of others".to_owned(),
        transaction::Cause::Retry => "retry".to_owned(),
        transaction::Cause::Unspecified => String::new(),
    };
    let tally = |one: &transaction::Tally| api::Tally {
        kind: one.kind.clone(),
        verb: match one.verb() {
            operation::Verb::Create => "create",
            operation::Verb::Update => "update",
            operation::Verb::Delete => "delete",
            operation::Verb::Unspecified => "",
        }
        .to_owned(),
        sent: one.sent,
        done: one.done,
        failed: one.failed,
    };
    api::Transaction {
        number: one.number,
        cause,
        unix_ms: one.unix_ms,
        took_us: one.took_us,
        finished: one.finished,
        operations: one.operations.iter().map(tally).collect(),
        messages: one.messages,
        repeats: one.repeats,
    }
}
