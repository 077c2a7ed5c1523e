//! The agent with hands that only remember.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_model::api::{self, Edit, commit_reply::Outcome, edit::Change};
use culvert_model::bus::{self, ShowPlanReply, Unsettled, unsettled};
use culvert_model::plan::Plan;

use super::*;
use crate::store::{Moment, Store};

mod away;
mod candidates;
mod committing;
mod exclusive;
mod full_disk;
mod going_on;
mod idle;
mod keys;
mod people;
mod probation;
mod secrets;
mod trail;
mod trial;
mod wwan;

/// What hands were told, and how they shall behave.
#[derive(Default)]
struct Told {
    followed: Vec<(u64, Arc<Plan>)>,
    /// Keys that fail, and whether for good.
    failing: BTreeMap<String, bool>,
    refusal: Option<String>,
    /// Plans with this key are refused when they are to be followed.
    refused: Option<String>,
    /// Something is still about to happen.
    restless: bool,
    /// How often all parts were to be asked.
    resynchronised: u32,
    away: bool,
    /// Checks are answered, and plans are not taken.
    deaf: bool,
    /// Plans are taken, and how far they are is not said.
    mute: bool,
    /// Whoever asks for a check says so here, and waits until they may go on.
    gate: Option<Arc<Gate>>,
}

/// Something happens in the middle of a commit.
#[derive(Default)]
struct Gate {
    reached: tokio::sync::Notify,
    open: tokio::sync::Notify,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Told>>);

impl Fake {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    fn revision(&self) -> u64 {
        self.told()
            .followed
            .last()
            .map_or(0, |(revision, _)| *revision)
    }
}

impl Hands for Fake {
    async fn follow(
        &self,
        revision: u64,
        plan: &Arc<Plan>,
        check: bool,
    ) -> Result<Vec<String>, HandsError> {
        let gate = if check { self.told().gate.take() } else { None };
        if let Some(gate) = gate {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
        let mut told = self.told();
        if told.away {
            return Err(HandsError::Away("asleep".to_owned()));
        }
        if let Some(refusal) = &told.refusal {
            return Err(HandsError::Refused(refusal.clone()));
        }
        if !check {
            if told.deaf {
                return Err(HandsError::Away("deaf".to_owned()));
            }
            if let Some(key) = &told.refused
                && plan.keys().any(|planned| planned.as_str() == key)
            {
                return Err(HandsError::Refused(format!("there is no {key}")));
            }
            told.followed.push((revision, Arc::clone(plan)));
        }
        Ok(Vec::new())
    }

    async fn standing(&self) -> Result<ShowPlanReply, HandsError> {
        let told = self.told();
        if told.away || (told.mute && !told.followed.is_empty()) {
            return Err(HandsError::Away("asleep".to_owned()));
        }
        let Some((revision, plan)) = told.followed.last() else {
            return Ok(ShowPlanReply::default());
        };
        let unsettled: Vec<Unsettled> = told
            .failing
            .iter()
            .filter(|(key, _)| plan.keys().any(|planned| planned.as_str() == key.as_str()))
            .map(|(key, for_good)| {
                let standing = if *for_good {
                    unsettled::Standing::Failed
                } else {
                    unsettled::Standing::Pending
                };
                Unsettled {
                    key: key.clone(),
                    standing: standing.into(),
                    reason: "it does not like it".to_owned(),
                    origins: vec!["interfaces[wan]".to_owned()],
                    ..Unsettled::default()
                }
            })
            .collect();
        let lacking = plan.iter().filter_map(|(key, planned)| {
            let missing = planned.needs.iter().filter(|need| !plan.contains_key(need));
            let missing: Vec<String> = missing.map(ToString::to_string).collect();
            (!missing.is_empty()).then(|| Unsettled {
                key: key.to_string(),
                standing: unsettled::Standing::Pending.into(),
                missing,
                ..Unsettled::default()
            })
        });
        let unsettled: Vec<Unsettled> = unsettled.into_iter().chain(lacking).collect();
        Ok(ShowPlanReply {
            revision: *revision,
            settled: !told.restless,
            wanted: plan.len() as u32,
            applied: (plan.len() - unsettled.len()) as u32,
            unsettled,
            ready: true,
            standings: Vec::new(),
        })
    }

    async fn resynchronise(&self) -> Result<(), HandsError> {
        self.told().resynchronised += 1;
        Ok(())
    }

    async fn transactions(&self, limit: u32) -> Result<Vec<bus::Transaction>, HandsError> {
        let commit = |revision| bus::Transaction {
            cause: bus::transaction::Cause::Commit.into(),
            revision,
            ..bus::Transaction::default()
        };
        let told = self.told();
        let newest = told
            .followed
            .iter()
            .rev()
            .map(|(number, _)| commit(*number));
        Ok(newest.take(limit as usize).collect())
    }

    async fn graph(&self, prefix: &str, _limit: u32) -> Result<bus::ShowGraphReply, HandsError> {
        Ok(bus::ShowGraphReply {
            dot: prefix.to_owned(),
            ..bus::ShowGraphReply::default()
        })
    }
}

const ACCOUNTS: Accounts = Accounts {
    own: 0,
    shell: Some(900),
};

fn agent_in(folder: &Path, hands: &Fake) -> Agent<Fake> {
    let opened = Store::open(folder).unwrap();
    let records = Records::begin(opened.store, None, &Moment::now().unwrap()).unwrap();
    Agent::new(records, hands.clone(), ACCOUNTS, String::new())
}

/// Both clocks of a machine, in the hands of a test.
#[derive(Clone)]
struct Clocks(Arc<Mutex<Moment>>);

impl Clocks {
    const A_DAY: u64 = 86_400_000;

    fn new() -> Self {
        let since_boot = Duration::from_secs(1000);
        let now = Moment::now().unwrap();
        Self(Arc::new(Mutex::new(Moment { since_boot, ..now })))
    }

    /// Time passes.
    fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        now.wall.0 += time.as_millis() as u64;
        now.since_boot += time;
    }

    /// Somebody sets the wall clock back; the other one cannot be set.
    fn set_a_day_back(&self) {
        self.0.lock().unwrap().wall.0 -= Self::A_DAY;
    }

    /// The machine starts anew.
    fn boot(&self) {
        let mut now = self.0.lock().unwrap();
        now.boot = crate::store::BootId::new([7; 16]);
        now.since_boot = Duration::from_secs(10);
    }
}

struct Bench {
    place: tempfile::TempDir,
    hands: Fake,
    agent: Agent<Fake>,
}

impl Bench {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let hands = Fake::default();
        let agent = agent_in(&place.path().join("mgmt"), &hands);
        Self {
            place,
            hands,
            agent,
        }
    }

    fn by(mut self, clocks: &Clocks) -> Self {
        let clocks = clocks.clone();
        let records = self.agent.records;
        let records = Arc::into_inner(records).unwrap().into_inner().unwrap();
        let records = records.with_clock(move || Ok(*clocks.0.lock().unwrap()));
        self.agent = Agent::new(records, self.hands.clone(), ACCOUNTS, String::new());
        self
    }

    /// mgmt dies and comes back.
    async fn restart(self) -> Self {
        let Self {
            place,
            hands,
            agent,
        } = self;
        rest(&agent).await;
        drop(agent);
        let agent = agent_in(&place.path().join("mgmt"), &hands);
        Self {
            place,
            hands,
            agent,
        }
    }
}

/// Waits until what is done after an answer is done.
async fn rest(agent: &Agent<Fake>) {
    while Arc::strong_count(&agent.records) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn root() -> Caller {
    Caller {
        name: "root".to_owned(),
        role: Role::Admin,
        origin: "console".to_owned(),
    }
}

fn words(line: &str) -> api::Words {
    api::Words {
        words: line.split_ascii_whitespace().map(str::to_owned).collect(),
    }
}

fn edit(change: Change) -> Edit {
    Edit {
        change: Some(change),
    }
}

impl Bench {
    async fn open(&self) -> String {
        let reply = self
            .agent
            .open(&root(), api::OpenRequest::default())
            .await
            .unwrap();
        reply.candidate
    }

    async fn try_set(&self, candidate: &str, lines: &[&str]) -> Vec<api::Problem> {
        let request = api::EditRequest {
            candidate: candidate.to_owned(),
            at: Vec::new(),
            edits: lines
                .iter()
                .map(|line| match line.strip_prefix("delete ") {
                    Some(line) => edit(Change::Delete(words(line))),
                    None => edit(Change::Set(words(line))),
                })
                .collect(),
        };
        self.agent.edit(&root(), request).await.unwrap().problems
    }

    async fn set(&self, candidate: &str, lines: &[&str]) {
        assert_eq!(self.try_set(candidate, lines).await, []);
    }

    async fn commit(&self, candidate: &str) -> api::CommitReply {
        self.commit_for(candidate, 0).await
    }

    async fn applies(&self, candidate: &str) {
        assert_eq!(self.commit(candidate).await.outcome(), Outcome::Applied);
    }

    async fn commit_for(&self, candidate: &str, confirm_seconds: u32) -> api::CommitReply {
        let request = api::CommitRequest {
            candidate: candidate.to_owned(),
            comment: "why not".to_owned(),
            confirm_seconds,
            face: api::Face::CommandLine.into(),
            ..api::CommitRequest::default()
        };
        self.agent.commit(&root(), request).await.unwrap()
    }

    async fn text(&self, which: api::source::Which) -> String {
        let request = api::GetRequest {
            source: Some(api::Source { which: Some(which) }),
            format: api::Format::Set.into(),
            ..api::GetRequest::default()
        };
        self.agent.get(&root(), request).await.unwrap().text
    }

    async fn running(&self) -> String {
        self.text(api::source::Which::Running(api::Running {}))
            .await
    }
}

const WAN: &str = "interfaces wan addresses 192.0.2.1/24";
