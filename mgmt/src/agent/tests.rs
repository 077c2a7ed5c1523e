//! The agent with hands that only remember: what is committed, refused, merged and taken back.

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

mod going_on;
mod keys;
mod secrets;
mod trail;
mod trial;
mod wwan;

/// What hands were told, and how they shall behave.
#[derive(Default)]
struct Told {
    followed: Vec<(u64, Plan)>,
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
        plan: &Plan,
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
            told.followed.push((revision, plan.clone()));
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
        let records = Arc::clone(&agent.records);
        drop(agent);
        // What is done after an answer is still being done, perhaps.
        while Arc::strong_count(&records) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(records);
        let agent = agent_in(&place.path().join("mgmt"), &hands);
        Self {
            place,
            hands,
            agent,
        }
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

#[tokio::test]
async fn what_is_committed_is_stored_followed_and_read_back() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(&candidate, &[WAN, "interfaces wan mtu 1400"])
        .await;
    assert_eq!(bench.running().await, "");
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
    assert!(
        reply
            .changes
            .iter()
            .any(|change| change.key == "interface/wan")
    );
    assert_eq!(bench.hands.revision(), 2);
    assert!(
        bench
            .running()
            .await
            .contains("set interfaces wan mtu 1400")
    );
    let again = bench.commit(&candidate).await;
    assert_eq!((again.outcome(), again.revision), (Outcome::Unchanged, 2));
    assert_eq!(bench.hands.told().followed.len(), 1);
}

#[tokio::test]
async fn all_edits_or_none_and_the_wrong_word_is_named() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let problems = bench
        .try_set(&candidate, &[WAN, "interfaces wan mut 1400"])
        .await;
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].edit, problems[0].word), (Some(1), Some(2)));
    assert!(problems[0].message.contains("mtu"), "{problems:?}");
    assert_eq!(
        bench
            .text(api::source::Which::Candidate(candidate.clone()))
            .await,
        ""
    );
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused_and_nothing_changes() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(&candidate, &[WAN, "interfaces wan vrf nowhere"])
        .await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Refused, 1));
    assert!(
        reply.problems[0].path.contains("interfaces[wan]"),
        "{reply:?}"
    );
    assert_eq!(bench.hands.told().followed.len(), 0);
    bench.set(&candidate, &["delete interfaces wan vrf"]).await;
    bench.hands.told().refusal = Some("there is no device wan".to_owned());
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Refused, 1));
    assert_eq!(reply.problems[0].message, "there is no device wan");
}

#[tokio::test]
async fn a_check_says_what_would_happen_and_changes_nothing() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let request = api::CommitRequest {
        candidate,
        check: true,
        ..api::CommitRequest::default()
    };
    let reply = bench.agent.commit(&root(), request).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Checked, 1));
    assert!(!reply.changes.is_empty());
    assert_eq!(bench.hands.told().followed.len(), 0);
}

#[tokio::test]
async fn two_at_once_are_merged_unless_they_change_the_same() {
    let bench = Bench::new();
    let (one, two, three) = (bench.open().await, bench.open().await, bench.open().await);
    bench.set(&one, &[WAN, "interfaces wan mtu 1400"]).await;
    bench
        .set(&two, &["interfaces lan addresses 10.1.0.1/24"])
        .await;
    bench.set(&three, &[WAN, "interfaces wan mtu 1300"]).await;
    assert_eq!(bench.commit(&one).await.outcome(), Outcome::Applied);
    assert_eq!(bench.commit(&two).await.outcome(), Outcome::Applied);
    let running = bench.running().await;
    assert!(running.contains("wan mtu 1400") && running.contains("lan addresses"));
    let reply = bench.commit(&three).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Conflict, 3));
    let conflict = &reply.conflicts[0];
    assert!(conflict.path.contains("mtu"), "{conflict:?}");
    assert_eq!(conflict.theirs.as_deref(), Some("1400"));
    assert_eq!(conflict.ours.as_deref(), Some("1300"));
}

#[tokio::test]
async fn a_conflict_names_who_changed_it_and_not_who_came_last() {
    let bench = Bench::new();
    let late = bench.open().await;
    bench.set(&late, &[WAN, "interfaces wan mtu 1300"]).await;
    let as_one = async |name: &str, lines: &[&str]| {
        let candidate = bench.open().await;
        bench.set(&candidate, lines).await;
        let who = Caller {
            name: name.to_owned(),
            ..root()
        };
        let id = {
            let mut records = bench.agent.records.lock().unwrap();
            let (_, _, tree) = records.candidate(&root(), &candidate).unwrap();
            let now = Moment::now().unwrap();
            let id = records.new_candidate(&who, &now).unwrap();
            let base = records.running.number;
            records.save(&id, name, base, tree, &now).unwrap();
            id
        };
        let request = api::CommitRequest {
            candidate: id.to_string(),
            ..api::CommitRequest::default()
        };
        let reply = bench.agent.commit(&who, request).await.unwrap();
        assert_eq!(reply.outcome(), Outcome::Applied);
    };
    as_one("alice", &["interfaces lan addresses 10.1.0.1/24"]).await;
    as_one("bob", &[WAN, "interfaces wan mtu 1400"]).await;
    as_one("carol", &["interfaces lan mtu 1450"]).await;
    let reply = bench.commit(&late).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Conflict, 4));
    let conflict = &reply.conflicts[0];
    assert!(conflict.path.contains("mtu"), "{conflict:?}");
    assert_eq!((conflict.author.as_str(), conflict.revision), ("bob", 3));
    assert!(conflict.unix_ms > 0);
}

#[tokio::test]
async fn what_fails_for_good_is_taken_back_as_a_revision_of_its_own() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    let before = bench.running().await;
    bench
        .hands
        .told()
        .failing
        .insert("interface/lan".to_owned(), true);
    bench
        .set(&candidate, &["interfaces lan addresses 10.1.0.1/24"])
        .await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Reverted, 4));
    assert_eq!(reply.problems[0].message, "it does not like it");
    assert_eq!(bench.running().await, before);
    assert_eq!(bench.hands.revision(), 4);
    let revisions = bench
        .agent
        .revisions(&root(), api::ListRevisionsRequest::default())
        .await
        .unwrap()
        .revisions;
    let sources: Vec<&str> = revisions.iter().map(|one| one.source.as_str()).collect();
    assert_eq!(sources, ["revert", "cli", "cli", "import"]);
    assert!(revisions[0].comment.contains("it does not like it"));
    // Once the cause is gone the same candidate is committed again.
    bench.hands.told().failing.clear();
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 5));
    assert!(bench.running().await.contains("interfaces lan"));
}

#[tokio::test]
async fn what_waits_is_told_and_stays() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .hands
        .told()
        .failing
        .insert("interface/wan".to_owned(), false);
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    assert_eq!(reply.waiting[0].key, "interface/wan");
}

#[tokio::test]
async fn an_unconfirmed_commit_is_taken_back_in_time_and_a_confirmed_one_stays() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    assert_eq!(
        bench.commit_for(&candidate, 1).await.outcome(),
        Outcome::Applied
    );
    assert!(bench.running().await.contains("wan"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.agent.go_back_in_time().await.unwrap();
    assert_eq!(bench.running().await, "");
    assert_eq!(bench.hands.revision(), 3);

    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit_for(&candidate, 1).await;
    let reply = bench
        .agent
        .confirm(&root(), api::ConfirmRequest::default())
        .await
        .unwrap();
    assert_eq!(reply.revision, 4);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    let late = bench
        .agent
        .confirm(&root(), api::ConfirmRequest::default())
        .await;
    assert!(matches!(late, Err(Refusal::Malformed(_))));
}

#[tokio::test]
async fn a_new_mgmt_goes_on_waiting_and_a_new_box_starts_on_the_confirmed_revision() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit_for(&candidate, 600).await;
    // mgmt alone: the parts follow the revision already.
    let bench = bench.restart().await;
    bench.agent.begin_once().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    assert_eq!(bench.hands.revision(), 2);
    assert_eq!(bench.hands.told().resynchronised, 1);
    // The whole box: nobody follows anything yet.
    let bench = bench.restart().await;
    bench.hands.told().followed.clear();
    bench.agent.begin_once().await.unwrap();
    assert_eq!(bench.running().await, "");
    assert_eq!(bench.hands.revision(), 3);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_moves_no_deadline_whoever_dies() {
    let clocks = Clocks::new();
    let probation = async |bench: &Bench| {
        let asked = api::StatusRequest::default();
        let status = bench.agent.status(&root(), asked).await.unwrap();
        status.probation_seconds
    };
    let on_probation = async |bench: &Bench| {
        let candidate = bench.open().await;
        bench.set(&candidate, &[WAN]).await;
        let reply = bench.commit_for(&candidate, 600).await;
        assert_eq!(reply.outcome(), Outcome::Applied);
    };
    let bench = Bench::new().by(&clocks);
    on_probation(&bench).await;

    // A day back, and mgmt is killed: the window goes on where it was.
    clocks.pass(Duration::from_secs(100));
    clocks.set_a_day_back();
    let bench = bench.restart().await.by(&clocks);
    clocks.pass(Duration::from_secs(200));
    bench.agent.begin_once().await.unwrap();
    assert_eq!(probation(&bench).await, Some(300));
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    // It ends when it would have ended, and not a day later.
    clocks.pass(Duration::from_secs(299));
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    clocks.pass(Duration::from_secs(1));
    bench.agent.go_back_in_time().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 3)
    );

    // It ends while mgmt is away: a new one goes back at once.
    on_probation(&bench).await;
    clocks.set_a_day_back();
    let bench = bench.restart().await.by(&clocks);
    clocks.pass(Duration::from_secs(601));
    bench.agent.begin_once().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 5)
    );

    // The machine starts anew with the clock of the day before: it starts on what was confirmed.
    on_probation(&bench).await;
    let bench = bench.restart().await.by(&clocks);
    bench.hands.told().followed.clear();
    clocks.set_a_day_back();
    clocks.boot();
    bench.agent.begin_once().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 7)
    );
    assert_eq!(probation(&bench).await, None);
}

#[tokio::test]
async fn candidates_outlive_mgmt_and_are_private() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let secret = "credentials pre_shared_keys k secret correct-horse-battery";
    bench
        .set(
            &candidate,
            &[WAN, "credentials pre_shared_keys k identities a", secret],
        )
        .await;
    let bench = bench.restart().await;
    let text = bench
        .text(api::source::Which::Candidate(candidate.clone()))
        .await;
    assert!(text.contains("wan") && !text.contains("horse"), "{text}");
    let alice = Caller {
        name: "alice".to_owned(),
        ..root()
    };
    let request = api::EditRequest {
        candidate: candidate.clone(),
        ..api::EditRequest::default()
    };
    assert!(matches!(
        bench.agent.edit(&alice, request).await,
        Err(Refusal::NoCandidate(_))
    ));
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let told = bench.hands.told();
    let plan = &told.followed.last().unwrap().1;
    let credential = plan
        .values()
        .find_map(|planned| match &planned.value.kind {
            Some(culvert_model::bus::value::Kind::Credential(credential)) => Some(credential),
            _ => None,
        })
        .unwrap();
    assert!(matches!(
        &credential.kind,
        Some(culvert_model::bus::credential::Kind::Psk(psk)) if psk.secret == b"correct-horse-battery"
    ));
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let bench = Bench::new();
    for role in [Role::ReadOnly, Role::Operator] {
        let caller = Caller {
            name: "bob".to_owned(),
            role,
            origin: "console".to_owned(),
        };
        let open = bench.agent.open(&caller, api::OpenRequest::default()).await;
        assert!(matches!(open, Err(Refusal::Role { .. })));
        let commit = bench
            .agent
            .commit(&caller, api::CommitRequest::default())
            .await;
        assert!(matches!(commit, Err(Refusal::Role { .. })));
        let confirm = bench
            .agent
            .confirm(&caller, api::ConfirmRequest::default())
            .await;
        assert!(matches!(confirm, Err(Refusal::Role { .. })));
    }
}

#[tokio::test]
async fn whoever_holds_the_configuration_keeps_others_from_committing() {
    let bench = Bench::new();
    let other = bench.open().await;
    let held = bench
        .agent
        .open(
            &root(),
            api::OpenRequest {
                exclusive: true,
                ..api::OpenRequest::default()
            },
        )
        .await
        .unwrap()
        .candidate;
    bench.set(&other, &[WAN]).await;
    let request = api::CommitRequest {
        candidate: other.clone(),
        ..api::CommitRequest::default()
    };
    assert!(matches!(
        bench.agent.commit(&root(), request).await,
        Err(Refusal::Held(_))
    ));
    let discard = api::DiscardRequest {
        candidate: held,
        keep: false,
    };
    bench.agent.discard(&root(), discard).await.unwrap();
    assert_eq!(bench.commit(&other).await.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn gone_hands_are_told_later() {
    let bench = Bench::new();
    bench.hands.told().away = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    // Nobody can say whether the machine has what it takes: nothing is stored.
    assert!(matches!(
        bench.agent.commit(&root(), request).await,
        Err(Refusal::Hands(HandsError::Away(_)))
    ));
    assert_eq!(bench.running().await, "");
}

/// An edit and a commit on a thread that writes down what happens to the disk.
#[test]
fn a_commit_of_one_line_waits_for_the_disk_once() {
    use crate::store::tests::{recorded, start_recording, syncs_recorded};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = recorded(&place.path().join("mgmt"));
    let records = Records::begin(store, None, &Moment::now().unwrap()).unwrap();
    let hands = Fake::default();
    let agent = Agent::new(records, hands.clone(), ACCOUNTS, String::new());
    let bench = Bench {
        place,
        hands,
        agent,
    };
    runtime.block_on(async {
        let candidate = bench.open().await;
        bench.set(&candidate, &[WAN]).await;
        bench.commit(&candidate).await;
        let mut counts = Vec::new();
        for mtu in [1400, 1401, 1402] {
            // What follows an answer is not part of the next one.
            let maintain = |records: &mut Records| Ok(records.store.maintain()?);
            bench.agent.with(maintain).await.unwrap();
            tokio::task::spawn_blocking(start_recording).await.unwrap();
            let line = format!("interfaces wan mtu {mtu}");
            bench.set(&candidate, &[&line]).await;
            let edit = tokio::task::spawn_blocking(syncs_recorded).await.unwrap();
            tokio::task::spawn_blocking(start_recording).await.unwrap();
            let reply = bench.commit(&candidate).await;
            let commit = tokio::task::spawn_blocking(syncs_recorded);
            assert_eq!(reply.outcome(), Outcome::Applied);
            counts.push((edit, commit.await.unwrap()));
        }
        // The first to write after the log was emptied syncs its beginning; what is typed does not wait otherwise.
        assert!(counts.iter().all(|count| *count == (1, 1)), "{counts:?}");
        let maintain = |records: &mut Records| Ok(records.store.maintain()?);
        bench.agent.with(maintain).await.unwrap();
        for mtu in 1403..1420 {
            let line = format!("interfaces wan mtu {mtu}");
            bench.set(&candidate, &[&line]).await;
            if mtu == 1403 {
                tokio::task::spawn_blocking(start_recording).await.unwrap();
            }
        }
        let edits = tokio::task::spawn_blocking(syncs_recorded).await.unwrap();
        assert_eq!(edits, 0);
    });
}

#[tokio::test]
async fn who_does_not_take_a_plan_is_told_again_until_they_do() {
    let bench = Bench::new();
    bench.hands.told().deaf = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    assert_eq!(reply.waiting.len(), 1);
    let reason = &reply.waiting[0].reason;
    assert!(reason.contains("does not answer"), "{reason}");
    assert_eq!(bench.hands.revision(), 0);
    assert!(bench.agent.catch_up().await.is_err());
    let status = async || {
        let asked = api::StatusRequest::default();
        bench.agent.status(&root(), asked).await.unwrap()
    };
    let behind = status().await;
    assert!(!behind.settled && behind.waiting[0].standing == "away");

    bench.hands.told().deaf = false;
    bench.agent.catch_up().await.unwrap();
    assert_eq!(bench.hands.revision(), 2);
    let after = status().await;
    assert!(after.settled && after.waiting.is_empty());
    // Once is enough.
    bench.agent.catch_up().await.unwrap();
    assert_eq!(bench.hands.told().followed.len(), 1);
}

#[tokio::test]
async fn who_falls_silent_after_a_plan_has_not_applied_it() {
    let mut bench = Bench::new();
    bench.agent.patience = Duration::from_millis(30);
    bench.hands.told().mute = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    let reason = &reply.waiting[0].reason;
    assert!(reason.contains("does not answer"), "{reason}");
    // It may have begun anew with another plan: it is told again.
    bench.hands.told().mute = false;
    bench.agent.catch_up().await.unwrap();
    assert_eq!(bench.hands.told().followed.len(), 2);
}

#[tokio::test]
async fn a_revision_comes_back_by_rollback_and_differences_are_told() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    bench.set(&candidate, &["interfaces wan mtu 1400"]).await;
    let which = |which| Some(api::Source { which: Some(which) });
    let compare = api::CompareRequest {
        from: which(api::source::Which::Revision(2)),
        to: which(api::source::Which::Candidate(candidate.clone())),
        at: Vec::new(),
    };
    let differences = bench
        .agent
        .compare(&root(), compare)
        .await
        .unwrap()
        .differences;
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].after.as_deref(), Some("1400"));
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![edit(Change::Rollback(1))],
    };
    assert_eq!(
        bench.agent.edit(&root(), request).await.unwrap().problems,
        []
    );
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert_eq!(bench.running().await, "");
}

#[tokio::test]
async fn cutting_off_ones_own_session_takes_a_second_word() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    bench.set(&candidate, &["delete interfaces wan"]).await;
    let remote = Caller {
        origin: "198.51.100.7 50000 192.0.2.1 22".to_owned(),
        ..root()
    };
    let mut request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    let reply = bench.agent.commit(&remote, request.clone()).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Dangerous, 2));
    request.confirmed = true;
    let reply = bench.agent.commit(&remote, request).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 3));
}

#[tokio::test]
async fn who_is_removed_is_unknown_from_then_on() {
    let mut bench = Bench::new();
    bench.agent = bench.agent.with_login(Writer::new(bench.place.path()));
    let keys = bench.place.path().join("etc/ssh/authorized_keys");
    let asks = async || {
        let claim = Claim {
            principal: Some("carol".to_owned()),
            origin: Some("198.51.100.7 50000 192.0.2.1 22".to_owned()),
            key: None,
        };
        bench.agent.identify(Peer { uid: 900 }, claim).await
    };
    let candidate = bench.open().await;
    let mut key = words("system users carol ssh_keys laptop public_key");
    key.words.push(format!("ssh-ed25519 {}", "A".repeat(68)));
    bench
        .set(&candidate, &["system users carol role read-only"])
        .await;
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![edit(Change::Set(key))],
    };
    let edited = bench.agent.edit(&root(), request).await.unwrap();
    assert_eq!(edited.problems, []);
    assert!(!keys.exists(), "before the commit");
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let text = std::fs::read_to_string(&keys).unwrap();
    assert!(text.contains("--principal carol --key "), "{text}");
    assert_eq!(asks().await.unwrap().role, Role::ReadOnly);

    let candidate = bench.open().await;
    bench.set(&candidate, &["delete system users carol"]).await;
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let text = std::fs::read_to_string(&keys).unwrap();
    assert!(!text.contains("carol"), "{text}");
    assert!(matches!(asks().await, Err(Refusal::Stranger(_))));

    // Where it came from is remembered.
    let trail = bench
        .agent
        .audit_trail(&root(), api::ListAuditRequest::default())
        .await
        .unwrap();
    let refused = trail.entries.iter().find(|entry| entry.what == "connect");
    let refused = refused.unwrap();
    assert_eq!(
        (refused.principal.as_str(), refused.from.as_str()),
        ("carol", "198.51.100.7")
    );
}

#[tokio::test]
async fn whoever_attends_hears_of_their_end_and_of_nothing_else() {
    let bench = Bench::new();
    let claim = |name: &str| Claim {
        principal: Some(name.to_owned()),
        origin: None,
        key: None,
    };
    let candidate = bench.open().await;
    let users = [
        "system users alice role operator",
        "system users carol role read-only",
    ];
    bench.set(&candidate, &users).await;
    bench.commit(&candidate).await;
    let attend = async |name| {
        let peer = Peer { uid: 900 };
        let caller = bench.agent.identify(peer, claim(name)).await?;
        bench.agent.attend(&caller, peer, claim(name)).await
    };
    assert!(matches!(attend("bob").await, Err(Refusal::Stranger(_))));

    let (mut alice, mut carol) = (Box::pin(attend("alice")), Box::pin(attend("carol")));
    let soon = Duration::from_millis(50);
    let quiet = async |one: &mut (dyn Future<Output = _> + Unpin)| {
        tokio::time::timeout(soon, one).await.is_err()
    };
    assert!(quiet(&mut alice).await && quiet(&mut carol).await);
    // Another role is no end.
    bench
        .set(&candidate, &["system users alice role read-only", WAN])
        .await;
    bench.commit(&candidate).await;
    assert!(quiet(&mut alice).await && quiet(&mut carol).await);
    bench.set(&candidate, &["delete system users carol"]).await;
    bench.commit(&candidate).await;
    assert!(matches!(carol.await, Err(Refusal::Stranger(_))));
    assert!(quiet(&mut alice).await);
    // mgmt does not wait for those who only attend.
    bench.agent.dismiss();
    alice.await.unwrap();
}

#[tokio::test]
async fn what_is_inactive_stays_and_is_not_followed() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let lan = "interfaces lan addresses 10.1.0.1/24";
    bench.set(&candidate, &[WAN, lan]).await;
    let change = async |candidate: &str, change: Change| {
        let request = api::EditRequest {
            candidate: candidate.to_owned(),
            at: Vec::new(),
            edits: vec![edit(change)],
        };
        let reply = bench.agent.edit(&root(), request).await.unwrap();
        reply.problems
    };
    let lan = || words("interfaces lan");
    assert_eq!(change(&candidate, Change::Deactivate(lan())).await, []);
    let note = |comment: &str| {
        Change::Annotate(api::Annotation {
            words: lan().words,
            comment: comment.to_owned(),
        })
    };
    assert_eq!(change(&candidate, note("being rebuilt")).await, []);
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let follows = |key: &str| {
        let told = bench.hands.told();
        let (_, plan) = told.followed.last().unwrap();
        plan.keys().any(|planned| planned.as_str() == key)
    };
    assert!(follows("interface/wan") && !follows("interface/lan"));
    let text = bench.running().await;
    assert!(
        text.contains("interfaces lan addresses") && text.contains("being rebuilt"),
        "{text}"
    );

    let candidate = bench.open().await;
    assert_eq!(change(&candidate, Change::Activate(lan())).await, []);
    assert_eq!(change(&candidate, note("")).await, []);
    // A second time there is nothing to take away, and nowhere a place for what has no order.
    for wrong in [
        Change::Activate(lan()),
        Change::Deactivate(words("interfaces nowhere")),
        Change::Insert(api::Insertion {
            words: lan().words,
            position: Some(api::insertion::Position::First(true)),
        }),
        Change::Insert(api::Insertion {
            words: lan().words,
            position: None,
        }),
    ] {
        assert_eq!(
            change(&candidate, wrong.clone()).await.len(),
            1,
            "{wrong:?}"
        );
    }
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert!(follows("interface/lan"));
    assert!(!bench.running().await.contains("being rebuilt"));
}
