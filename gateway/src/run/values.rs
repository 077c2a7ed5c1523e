//! The configured values of the gateway: the scheduler, spoken to in the bus's words and the loop's clock.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use culvert_model::bus::{self, operation, unsettled::Standing as Told};
use culvert_model::plan::keys::NTP;
use culvert_model::plan::{Key, Part, Plan};
use culvert_scheduler::{
    BatchId, Cause, Change, Failure, Gateway, GatewayScheduler, HOPELESS, History, SetPlanError,
    Standing, Status, Verb,
};
use culvert_tap_inject::mirror::LearntRoute;

use super::leases::{self, Leases};
use super::status::ValuesStatus;
use super::{graph, history, learnt};

/// Of these many pending values the status file tells; of more only that they are.
const TOLD: usize = 100;
/// Of these many the one who set the plan is told.
const TOLD_BY_BUS: usize = 1000;

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
    /// Values that are not there, and that the gateway is whole without.
    aside: usize,
    standings: BTreeMap<Told, u32>,
}

/// All values of the gateway.
pub struct Values {
    scheduler: GatewayScheduler,
    start: Instant,
    underway: BTreeMap<BatchId, Vec<Key>>,
    configured: Arc<Plan>,
    learnt: Vec<LearntRoute>,
    leases: Leases,
    /// Who has something to hold by the configuration.
    parts: BTreeSet<Part>,
    summary: OnceCell<Summary>,
    history: History<Part>,
}

impl Values {
    /// None planned; every part is away.
    pub fn new(now: Instant) -> Self {
        Self {
            scheduler: GatewayScheduler::new(),
            start: now,
            underway: BTreeMap::new(),
            configured: Arc::default(),
            learnt: Vec::new(),
            leases: Leases::default(),
            parts: BTreeSet::new(),
            summary: OnceCell::new(),
            history: History::new(),
        }
    }

    /// Planned so from now on, as a revision has it.
    pub fn set_plan(&mut self, revision: u64, plan: Arc<Plan>) -> Result<(), SetPlanError<Key>> {
        self.began(Cause::Commit(revision));
        let before = std::mem::replace(&mut self.configured, plan);
        let outcome = self.schedule();
        if outcome.is_ok() {
            self.parts = self.configured.values().map(|one| one.part).collect();
        } else {
            self.configured = before;
        }
        outcome
    }

    /// These routes of others are in Linux from now on.
    pub fn set_learnt(&mut self, routes: Vec<LearntRoute>) -> Result<(), SetPlanError<Key>> {
        self.learnt = routes;
        self.surroundings_changed()
    }

    /// What DHCP clients say of their leases.
    pub fn set_leases(
        &mut self,
        clients: Vec<bus::DhcpClientState>,
        now: Instant,
    ) -> Result<(), SetPlanError<Key>> {
        if self.leases.heard(clients, &self.configured, now) {
            self.surroundings_changed()
        } else {
            Ok(())
        }
    }

    /// Takes away what is over, should nobody have said so.
    pub fn expire_leases(&mut self, now: Instant) -> Result<(), SetPlanError<Key>> {
        if self.leases.expire(now) {
            self.surroundings_changed()
        } else {
            Ok(())
        }
    }

    fn surroundings_changed(&mut self) -> Result<(), SetPlanError<Key>> {
        self.began(Cause::Surroundings);
        self.schedule()
    }

    /// Something is configured for this part.
    pub fn is_configured(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn schedule(&mut self) -> Result<(), SetPlanError<Key>> {
        self.summary.take();
        let learnt = learnt::plan(&self.learnt, &self.configured);
        let lent = self.leases.plan(&self.configured, &learnt);
        if learnt.is_empty() && lent.is_empty() {
            return self.scheduler.set_plan(&self.configured);
        }
        let all = self.configured.iter().chain(&learnt).chain(&lent);
        let all = all.map(|(key, planned)| (key.clone(), Arc::clone(planned)));
        self.scheduler.set_plan(&all.collect())
    }

    /// A part is there.
    pub fn part_up(&mut self, part: Part) {
        self.began(Cause::PartUp(part));
        self.changed().part_up(part);
    }

    /// A part is away.
    pub fn part_down(&mut self, part: Part) {
        self.changed().part_down(part);
    }

    /// Asks these parts anew what they hold.
    pub fn resynchronise(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.began(Cause::Resynchronisation);
        for part in parts {
            self.changed().resynchronise(part);
        }
    }

    /// It is not known what became of a batch: its part is to be asked.
    pub fn lost(&mut self, batch: BatchId) {
        self.underway.remove(&batch);
        self.history.completed(batch, [], self.start.elapsed());
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
            if self.scheduler.is_idle() {
                self.history.at_rest(now);
            }
            return Vec::new();
        }
        self.summary.take();
        batches
            .into_iter()
            .map(|batch| {
                let verbs = batch.operations.iter();
                let verbs = verbs.map(|one| (one.key.kind(), Verb::from(&one.change)));
                self.history.sent(batch.id, verbs, now);
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
        let results: Vec<Result<(), Failure>> = results
            .iter()
            .map(|result| match &result.error {
                None => Ok(()),
                Some(error) => Err(Failure {
                    retriable: error.retriable,
                    message: error.message.clone(),
                    fields: error.fields.clone(),
                }),
            })
            .collect();
        let now = self.time(now);
        let told = results.iter().map(|one| one.as_ref().copied());
        self.history.completed(batch, told, now);
        self.changed().completed(batch, results, now);
    }

    /// When something is tried again.
    pub fn deadline(&self) -> Option<Instant> {
        let wakeup = self.scheduler.next_wakeup();
        let wakeup = wakeup.map(|wakeup| self.start + wakeup);
        wakeup.into_iter().chain(self.leases.deadline()).min()
    }

    /// Every part holds what is planned, but for what the gateway is whole without, and nothing else.
    pub fn is_converged(&self) -> bool {
        let summary = self.summary();
        summary.status.applied + summary.aside == summary.status.wanted
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

    /// How many values stand how.
    pub fn standings(&self) -> Vec<bus::StandingCount> {
        let counts = self.summary().standings.iter();
        counts
            .map(|(standing, count)| bus::StandingCount {
                standing: (*standing).into(),
                count: *count,
            })
            .collect()
    }

    /// What was done, and why, newest first.
    pub fn transactions(&self, limit: usize) -> Vec<bus::Transaction> {
        let (elapsed, wall) = (self.start.elapsed(), SystemTime::now());
        self.history
            .transactions()
            .take(limit)
            .map(|one| {
                // By the wall clock of now: it may have been wrong then.
                let began = wall - elapsed.saturating_sub(one.began);
                let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
                history::on_the_bus(one, since.as_millis() as u64)
            })
            .collect()
    }

    /// Values whose keys begin so, at most so many, with what they depend on.
    pub fn graph(&self, prefix: &str, limit: usize) -> bus::ShowGraphReply {
        graph::draw(&self.scheduler, prefix, limit)
    }

    /// For the status file.
    pub fn status(&self) -> ValuesStatus {
        self.summary().status.clone()
    }

    fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| {
            let mut summary = Summary::default();
            for value in self.scheduler.status() {
                *summary.standings.entry(told(&value.standing)).or_default() += 1;
                if summary.unsettled.len() < TOLD_BY_BUS {
                    summary.unsettled.extend(unsettled(&value));
                }
                let aside = is_aside(&value);
                let (applied, restless, why) = describe(value.standing);
                summary.aside += usize::from(aside && !applied);
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
            let removed = self.scheduler.removed().len();
            if removed > 0 {
                summary.standings.insert(Told::Removed, removed as u32);
            }
            summary
        })
    }

    fn began(&mut self, cause: Cause<Part>) {
        self.history.began(cause, self.start.elapsed());
    }

    fn changed(&mut self) -> &mut GatewayScheduler {
        self.summary.take();
        &mut self.scheduler
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

/// Whether the gateway is whole without it: a modem that may be plugged in or not, the clock, and what strangers lend.
fn is_aside(value: &Status<'_, Gateway>) -> bool {
    let lent = |origin: &String| origin.starts_with(leases::ORIGIN);
    match value.part {
        Part::Lte => matches!(value.standing, Standing::Pending { .. }),
        Part::Dhcp => true,
        _ => value.key.as_str() == NTP || value.origins.iter().any(lent),
    }
}

/// Whether it is there, whether something is about to happen to it, and what keeps it.
fn describe(standing: Standing<Key>) -> (bool, bool, Option<String>) {
    match standing {
        Standing::Configured | Standing::Obtained | Standing::Removed => (true, false, None),
        Standing::Applying => (false, true, Some("being applied".to_owned())),
        Standing::Removing => (false, true, Some("being removed".to_owned())),
        Standing::Discovered => {
            let why = "found, and planned by nobody: being removed";
            (false, true, Some(why.to_owned()))
        }
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
        Standing::Invalid { fields, message } => {
            let why = format!("invalid ({}): {message}", fields.join(", "));
            (false, false, Some(why))
        }
    }
}

fn told(standing: &Standing<Key>) -> Told {
    match standing {
        Standing::Configured => Told::Configured,
        Standing::Obtained => Told::Obtained,
        Standing::Discovered => Told::Discovered,
        Standing::Applying => Told::Applying,
        Standing::PartAway => Told::PartAway,
        Standing::Pending { .. } => Told::Pending,
        Standing::Retrying { .. } => Told::Retrying,
        Standing::Failed { .. } => Told::Failed,
        Standing::Invalid { .. } => Told::Invalid,
        Standing::Removing => Told::Removing,
        Standing::Removed => Told::Removed,
    }
}

/// What the one who set the plan is told of a value that is not as planned.
fn unsettled(value: &Status<'_, Gateway>) -> Option<bus::Unsettled> {
    let mut unsettled = bus::Unsettled {
        key: value.key.to_string(),
        standing: told(&value.standing).into(),
        origins: value.origins.to_vec(),
        ..bus::Unsettled::default()
    };
    match &value.standing {
        Standing::Configured | Standing::Obtained | Standing::Removed => return None,
        Standing::Applying | Standing::Removing | Standing::PartAway | Standing::Discovered => {}
        Standing::Pending { missing } => {
            unsettled.missing = missing.iter().map(Key::to_string).collect();
        }
        Standing::Retrying { message, .. } | Standing::Failed { message } => {
            unsettled.reason.clone_from(message);
        }
        Standing::Invalid { fields, message } => {
            unsettled.reason.clone_from(message);
            unsettled.fields.clone_from(fields);
        }
    }
    Some(unsettled)
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
    use culvert_model::bus::transaction;
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
            .set_plan(
                7,
                Arc::new(plan(&config, &DigestKey::new([0; 32])).unwrap()),
            )
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

        // Who caused what can be read afterwards; asking again with nothing wrong sends nothing.
        values.resynchronise([Part::Dataplane, Part::Linux]);
        for part in [Part::Dataplane, Part::Linux] {
            let plan = values.configured.iter();
            let held = plan.filter(|(_, planned)| planned.part == part);
            let held = held.map(|(key, planned)| bus::KeyedValue {
                key: key.to_string(),
                value: Some(planned.value.clone()),
            });
            values.retrieved(part, held.collect());
        }
        assert_eq!(drive(&mut values, now), Vec::<String>::new());
        let transactions = values.transactions(10);
        let told: Vec<(transaction::Cause, u32, bool)> = transactions
            .iter()
            .map(|one| {
                let sent = one.operations.iter().map(|tally| tally.sent).sum();
                (one.cause(), sent, one.finished)
            })
            .collect();
        let (all, again) = (keys.len() as u32, again.len() as u32);
        assert_eq!(told[0], (transaction::Cause::Resynchronisation, 0, true));
        assert_eq!(told[1], (transaction::Cause::PartUp, again, true));
        assert_eq!(told[2], (transaction::Cause::PartUp, all, true));
        assert_eq!(told[4], (transaction::Cause::Commit, 0, false));
        assert_eq!(transactions[4].revision, 7);
        let counts = values.standings();
        assert_eq!(counts.len(), 1);
        assert_eq!(
            (counts[0].standing(), counts[0].count),
            (Told::Configured, all)
        );
    }

    #[test]
    fn a_mobile_network_waits_for_its_modem_and_keeps_nobody_waiting() {
        let now = Instant::now();
        let text = r#"{ "interfaces": [{ "name": "wan", "addresses": [{ "address": "192.0.2.1/24" }] }],
            "wwan_interfaces": [{ "name": "mobile", "device": "wwan0", "pin": "83619" }] }"#;
        let config = decode::config_from_json(text.as_bytes()).unwrap();
        let mut values = Values::new(now);
        let planned = plan(&config, &DigestKey::new([7; 32])).unwrap();
        values.set_plan(1, Arc::new(planned)).unwrap();
        assert!(!values.is_settled(Part::Lte));
        for part in [Part::Linux, Part::Dataplane, Part::Lte] {
            values.part_up(part);
            values.retrieved(part, Vec::new());
        }
        let keys = drive(&mut values, now);
        assert!(keys.contains(&"forwarding".to_owned()), "{keys:?}");
        assert!(!keys.contains(&"wwan/mobile".to_owned()), "{keys:?}");
        assert!(values.is_settled(Part::Lte) && values.is_converged());
        let unsettled = values.unsettled();
        assert_eq!(unsettled.len(), 1);
        assert_eq!(unsettled[0].key, "wwan/mobile");
        assert_eq!(unsettled[0].missing, ["modem/wwan0"]);
        assert_eq!(unsettled[0].standing(), Told::Pending);
        let why = &values.status().pending["wwan/mobile"];
        assert_eq!(why, "waits for modem/wwan0 (wwan_interfaces[mobile])");
        assert!(!format!("{unsettled:?}{:?}", values.configured).contains("83619"));
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
                                fields: Vec::new(),
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
