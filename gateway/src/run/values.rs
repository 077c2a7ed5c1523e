//! The configured values of the gateway: the scheduler, spoken to in the bus's words and the loop's clock.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use culvert_model::bus::{self, operation};
use culvert_model::plan::{Key, Part, Plan};
use culvert_scheduler::{
    BatchId, Change, Failure, Gateway, GatewayScheduler, Planned, SetPlanError, Standing, Status,
};
use culvert_tap_inject::mirror::LearntRoute;

use super::learnt;
use super::status::ValuesStatus;

/// Of these many pending values the status file tells; of more only that they are.
const TOLD: usize = 100;
/// Of these many the one who set the plan is told.
const TOLD_BY_BUS: usize = 1000;
/// A value that failed as often as this is not what the others wait for: what is wrong with it lasts.
const HOPELESS: u32 = 5;

/// Operations for a part, with the number to complete them by.
#[derive(Debug)]
pub struct Batch {
    /// For [`Values::completed`].
    pub id: BatchId,
    /// Who does it.
    pub part: Part,
    /// In this order.
    pub operations: Vec<bus::Operation>,
}

/// What is said of all values at one moment.
#[derive(Debug, Default)]
struct Summary {
    status: ValuesStatus,
    restless: BTreeSet<Part>,
    unsettled: Vec<bus::Unsettled>,
}

/// All values of the gateway.
pub struct Values {
    scheduler: GatewayScheduler,
    start: Instant,
    underway: BTreeMap<BatchId, Vec<Key>>,
    configured: Plan,
    learnt: Vec<LearntRoute>,
    summary: OnceCell<Summary>,
}

impl Values {
    /// None planned; every part is away.
    pub fn new(now: Instant) -> Self {
        Self {
            scheduler: GatewayScheduler::new(),
            start: now,
            underway: BTreeMap::new(),
            configured: Plan::new(),
            learnt: Vec::new(),
            summary: OnceCell::new(),
        }
    }

    /// Planned so from now on.
    pub fn set_plan(&mut self, plan: Plan) -> Result<(), SetPlanError<Key>> {
        let learnt = std::mem::take(&mut self.learnt);
        let outcome = self.schedule(&plan, &learnt);
        self.learnt = learnt;
        if outcome.is_ok() {
            self.configured = plan;
        }
        outcome
    }

    /// These routes of others are in Linux from now on.
    pub fn set_learnt(&mut self, routes: Vec<LearntRoute>) -> Result<(), SetPlanError<Key>> {
        let configured = std::mem::take(&mut self.configured);
        let outcome = self.schedule(&configured, &routes);
        self.configured = configured;
        self.learnt = routes;
        outcome
    }

    fn schedule(
        &mut self,
        configured: &Plan,
        learnt: &[LearntRoute],
    ) -> Result<(), SetPlanError<Key>> {
        let plan = configured
            .clone()
            .into_iter()
            .chain(learnt::plan(learnt, configured))
            .map(|(key, planned)| (key, Planned::<Gateway>::from(planned)))
            .collect();
        self.changed().set_plan(plan)
    }

    /// A part is there.
    pub fn part_up(&mut self, part: Part) {
        self.changed().part_up(part);
    }

    /// A part is away.
    pub fn part_down(&mut self, part: Part) {
        self.changed().part_down(part);
    }

    /// Asks a part anew what it holds.
    pub fn resynchronise(&mut self, part: Part) {
        self.changed().resynchronise(part);
    }

    /// It is not known what became of a batch: its part is to be asked.
    pub fn lost(&mut self, batch: BatchId) {
        self.underway.remove(&batch);
        self.changed().batch_lost(batch);
    }

    /// The parts to ask what they hold.
    pub fn parts_to_retrieve(&self) -> Vec<Part> {
        self.scheduler.parts_to_retrieve()
    }

    /// What a part holds. A key without a value is not held.
    pub fn retrieved(&mut self, part: Part, values: Vec<bus::KeyedValue>) {
        let held = values
            .into_iter()
            .filter_map(|keyed| Some((Key::from(keyed.key), keyed.value?)));
        self.changed().retrieved(part, held);
    }

    /// What can be done now.
    pub fn next_batches(&mut self, now: Instant) -> Vec<Batch> {
        let now = self.time(now);
        let batches: Vec<_> = self.scheduler.next_batches(now);
        if batches.is_empty() {
            return Vec::new();
        }
        self.summary.take();
        batches
            .into_iter()
            .map(|batch| {
                let keys = batch.operations.iter().map(|one| one.key.clone()).collect();
                self.underway.insert(batch.id, keys);
                Batch {
                    id: batch.id,
                    part: batch.part,
                    operations: batch.operations.into_iter().map(on_the_bus).collect(),
                }
            })
            .collect()
    }

    /// What came of a batch.
    pub fn completed(&mut self, batch: BatchId, results: &[bus::OperationResult], now: Instant) {
        let keys = self.underway.remove(&batch).unwrap_or_default();
        for (key, result) in keys.iter().zip(results) {
            if let Some(error) = &result.error {
                tracing::warn!(%key, retriable = error.retriable, reason = error.message, "not applied");
            }
        }
        let results = results.iter().map(|result| match &result.error {
            None => Ok(()),
            Some(error) => Err(Failure {
                retriable: error.retriable,
                message: error.message.clone(),
            }),
        });
        let now = self.time(now);
        self.changed().completed(batch, results, now);
    }

    /// When something is tried again.
    pub fn deadline(&self) -> Option<Instant> {
        let wakeup = self.scheduler.next_wakeup()?;
        Some(self.start + wakeup)
    }

    /// Every part holds what is planned and nothing else.
    pub fn is_converged(&self) -> bool {
        self.scheduler.is_converged()
    }

    /// As far as this part is concerned nothing more is about to happen: each value is there, or something lasting is
    /// wrong with it. What comes later in the start does not wait for what is wrong.
    pub fn is_settled(&self, part: Part) -> bool {
        !self.summary().restless.contains(&part)
    }

    /// What is not as planned, for whoever set the plan.
    pub fn unsettled(&self) -> Vec<bus::Unsettled> {
        self.summary().unsettled.clone()
    }

    /// For the status file.
    pub fn status(&self) -> ValuesStatus {
        self.summary().status.clone()
    }

    fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| {
            let mut summary = Summary::default();
            for value in self.scheduler.status() {
                if summary.unsettled.len() < TOLD_BY_BUS {
                    summary.unsettled.extend(unsettled(&value));
                }
                let (applied, restless, why) = describe(value.standing);
                summary.status.wanted += 1;
                summary.status.applied += usize::from(applied);
                if restless {
                    summary.restless.insert(value.part);
                }
                if let Some(why) = why
                    && summary.status.pending.len() < TOLD
                {
                    let key = value.key.to_string();
                    let why = match value.origins.first() {
                        Some(origin) => format!("{why} ({origin})"),
                        None => why,
                    };
                    summary.status.pending.insert(key, why);
                }
            }
            summary
        })
    }

    fn changed(&mut self) -> &mut GatewayScheduler {
        self.summary.take();
        &mut self.scheduler
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

/// Whether it is there, whether something is about to happen to it, and what keeps it.
fn describe(standing: Standing<Key>) -> (bool, bool, Option<String>) {
    match standing {
        Standing::Configured => (true, false, None),
        Standing::Applying => (false, true, Some("being applied".to_owned())),
        Standing::Removing => (false, true, Some("being removed".to_owned())),
        Standing::PartAway => (false, true, Some("its part is away".to_owned())),
        Standing::Pending { missing } => {
            let missing: Vec<String> = missing.iter().map(Key::to_string).collect();
            (
                false,
                false,
                Some(format!("waits for {}", missing.join(", "))),
            )
        }
        Standing::Retrying {
            failures, message, ..
        } => (
            false,
            failures < HOPELESS,
            Some(format!("failed {failures} times: {message}")),
        ),
        Standing::Failed { message } => (false, false, Some(format!("failed: {message}"))),
    }
}

/// What the one who set the plan is told of a value that is not as planned.
fn unsettled(value: &Status<Gateway>) -> Option<bus::Unsettled> {
    use bus::unsettled::Standing as Told;
    let (standing, missing, reason) = match &value.standing {
        Standing::Configured => return None,
        Standing::Applying => (Told::Applying, Vec::new(), String::new()),
        Standing::Removing => (Told::Removing, Vec::new(), String::new()),
        Standing::PartAway => (Told::PartAway, Vec::new(), String::new()),
        Standing::Pending { missing } => {
            let missing = missing.iter().map(Key::to_string).collect();
            (Told::Pending, missing, String::new())
        }
        Standing::Retrying { message, .. } => (Told::Retrying, Vec::new(), message.clone()),
        Standing::Failed { message } => (Told::Failed, Vec::new(), message.clone()),
    };
    Some(bus::Unsettled {
        key: value.key.to_string(),
        standing: standing.into(),
        missing,
        reason,
        origins: value.origins.clone(),
    })
}

fn on_the_bus(operation: culvert_scheduler::Operation<Gateway>) -> bus::Operation {
    let (verb, value) = match operation.change {
        Change::Create(value) => (operation::Verb::Create, Some(value)),
        Change::Update(value) => (operation::Verb::Update, Some(value)),
        Change::Delete => (operation::Verb::Delete, None),
    };
    bus::Operation {
        verb: verb.into(),
        key: operation.key.into(),
        value,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::decode;
    use culvert_model::plan::{DigestKey, plan};

    use super::*;

    fn values(now: Instant) -> Values {
        let config = decode::config_from_json(
            br#"{"interfaces": [{"name": "wan", "addresses": [{"address": "192.0.2.1/24"}]}]}"#,
        )
        .unwrap();
        let mut values = Values::new(now);
        values
            .set_plan(plan(&config, &DigestKey::new([0; 32])).unwrap())
            .unwrap();
        values
    }

    fn done(batch: &Batch) -> Vec<bus::OperationResult> {
        vec![bus::OperationResult { error: None }; batch.operations.len()]
    }

    /// Carries out whatever is due of these parts, until nothing is.
    fn drive(values: &mut Values, now: Instant) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            let batches = values.next_batches(now);
            if batches.is_empty() {
                return keys;
            }
            for batch in batches {
                keys.extend(
                    batch
                        .operations
                        .iter()
                        .map(|operation| operation.key.clone()),
                );
                values.completed(batch.id, &done(&batch), now);
            }
        }
    }

    #[test]
    fn a_part_is_restless_until_it_holds_what_is_planned() {
        let now = Instant::now();
        let mut values = values(now);
        assert!(!values.is_settled(Part::Dataplane));
        assert!(!values.is_settled(Part::Linux));
        for part in [Part::Linux, Part::Dataplane] {
            values.part_up(part);
            assert!(values.parts_to_retrieve().contains(&part));
            values.retrieved(part, Vec::new());
        }
        let keys = drive(&mut values, now);
        let place = |key: &str| keys.iter().position(|found| found == key).unwrap();
        assert!(place("interface/wan") < place("address/wan/192.0.2.1/24"));
        assert!(place("address/wan/192.0.2.1/24") < place("linux/address/wan/192.0.2.1/24"));
        assert!(values.is_settled(Part::Dataplane) && values.is_settled(Part::Linux));
        assert!(values.is_converged());
        let status = values.status();
        assert_eq!((status.applied, status.pending.len()), (keys.len(), 0));

        // A dataplane that comes back empty gets its share again, and Linux nothing.
        values.part_down(Part::Dataplane);
        assert!(!values.is_settled(Part::Dataplane) && values.is_settled(Part::Linux));
        values.part_up(Part::Dataplane);
        values.retrieved(Part::Dataplane, Vec::new());
        let again = drive(&mut values, now);
        assert!(again.contains(&"forwarding".to_owned()));
        assert!(
            again.iter().all(|key| !key.starts_with("linux/")),
            "{again:?}"
        );
    }

    #[test]
    fn what_fails_for_good_keeps_nobody_waiting() {
        let now = Instant::now();
        let mut values = values(now);
        values.part_up(Part::Linux);
        values.part_up(Part::Dataplane);
        values.retrieved(Part::Linux, Vec::new());
        values.retrieved(Part::Dataplane, Vec::new());
        for _ in 0..10 {
            for batch in values.next_batches(now) {
                let results: Vec<bus::OperationResult> = batch
                    .operations
                    .iter()
                    .map(|operation| bus::OperationResult {
                        error: operation
                            .key
                            .starts_with("address/")
                            .then(|| bus::OperationError {
                                retriable: false,
                                message: "someone else has it".to_owned(),
                            }),
                    })
                    .collect();
                values.completed(batch.id, &results, now);
            }
        }
        assert!(values.is_settled(Part::Dataplane) && values.is_settled(Part::Linux));
        assert!(!values.is_converged());
        let pending = values.status().pending;
        assert!(pending["address/wan/192.0.2.1/24"].contains("someone else has it"));
        assert!(pending["linux/address/wan/192.0.2.1/24"].contains("waits for"));
    }
}
