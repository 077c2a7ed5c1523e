//! A commit, from the candidate to what came of it.
//!
//! | step | what can end it |
//! | --- | --- |
//! | merge with what was committed since the candidate began | both changed the same: conflict |
//! | validate, plan | problems with their paths |
//! | ask the machine | a NIC that is not there |
//! | store: durable, numbered | a full disk: nothing has changed |
//! | follow, wait | a value that fails for good: the old content comes back as a revision of its own |

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use culvert_model::api::{self, CommitReply, Problem, commit_reply::Outcome};
use culvert_model::bus::{ShowPlanReply, unsettled};
use culvert_model::plan::Plan;
use culvert_model::tree::{Conflict, Location, MergeError, Tree, diff, merge};
use tokio::time::Instant;

use super::caller::{Caller, Role, allowed};
use super::hands::{Hands, HandsError};
use super::records::{Records, Running, Valid, audit_entry, revert_entry};
use super::{Agent, Refusal, away, changes, waiting};
use crate::store::{Moment, Revision, RevisionNumber, SessionId, Source};
use crate::syslog::Weight;

/// Between two looks at how far they are: the first is soon, since most changes are done in milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Of these many revisions a conflict finds out who changed what.
const REVISIONS_READ: usize = 50;
/// Bounds of `commit confirmed`.
const PROBATION: std::ops::RangeInclusive<u32> = 1..=86_400;

/// A candidate that could be committed.
struct Ready {
    session: SessionId,
    /// What the candidate is.
    ours: Tree,
    /// Merged with what runs.
    tree: Tree,
    valid: Valid,
    changes: Vec<api::PlannedChange>,
    /// Because of them, in sentences.
    interrupts: Vec<String>,
    old_number: RevisionNumber,
    dangers: Vec<String>,
}

impl<H: Hands> Agent<H> {
    /// Makes a candidate the running configuration, or says why not.
    pub async fn commit(
        &self,
        caller: &Caller,
        request: api::CommitRequest,
    ) -> Result<CommitReply, Refusal> {
        allowed(caller, Role::Admin)?;
        if request.confirm_seconds > 0 && !PROBATION.contains(&request.confirm_seconds) {
            return Err(Refusal::Malformed(format!(
                "a commit waits for its confirmation for {} to {} seconds",
                PROBATION.start(),
                PROBATION.end()
            )));
        }
        let _one_at_a_time = self.commits.lock().await;
        let (who, name, check) = (caller.clone(), request.candidate.clone(), request.check);
        let prepared = self
            .with(move |records| prepare(records, &who, &name, check))
            .await?;
        let ready = match prepared {
            Ok(ready) => ready,
            Err(reply) => return Ok(reply),
        };
        let number = ready.old_number.get() + 1;
        let restarts = match self.hands.follow(number, &ready.valid.plan, true).await {
            Ok(restarts) => restarts,
            Err(HandsError::Refused(reason)) => {
                return Ok(refused(ready.old_number, vec![problem("", &reason)]));
            }
            Err(error @ HandsError::Away(_)) => return Err(error.into()),
        };
        let mut reply = CommitReply {
            revision: ready.old_number.get(),
            interrupts: changes::restarting(&restarts)
                .into_iter()
                .chain(ready.interrupts.iter().cloned())
                .collect(),
            changes: ready.changes.clone(),
            ..CommitReply::default()
        };
        if !ready.dangers.is_empty() {
            reply.problems = ready
                .dangers
                .iter()
                .map(|danger| problem("", danger))
                .collect();
            // Within a window it is taken back unless whoever is cut off comes in again and confirms it.
            let nevertheless = request.confirmed || request.confirm_seconds > 0;
            if !request.check && !nevertheless {
                reply.set_outcome(Outcome::Dangerous);
                return Ok(reply);
            }
        }
        if request.check {
            reply.set_outcome(Outcome::Checked);
            return Ok(reply);
        }
        self.carry_out(caller, &request, ready, reply).await
    }

    /// Stores and applies.
    async fn carry_out(
        &self,
        caller: &Caller,
        request: &api::CommitRequest,
        ready: Ready,
        mut reply: CommitReply,
    ) -> Result<CommitReply, Refusal> {
        let Ready {
            session,
            ours,
            tree,
            valid,
            old_number,
            ..
        } = ready;
        // What is wrong already is not the new configuration's fault.
        let before = self.hands.standing().await.ok();
        let (who, order) = (caller.clone(), request.clone());
        let candidate = session.clone();
        let (Running { number, plan, .. }, old) = self
            .with(move |records| {
                let now = records.now()?;
                let still = records.is_still(&candidate, &ours);
                let from = still.then_some(&candidate);
                let Revision { number, .. } = store(records, &who, &order, &tree, from, &now)?;
                let running = Running::new(number, tree.clone(), valid);
                let old = std::mem::replace(&mut records.running, running.clone());
                if still {
                    records.begin_anew(&candidate, number, tree);
                } else {
                    records.carry_over(&candidate, &ours, number, &tree, &now);
                }
                Ok((running, old))
            })
            .await?;
        let earlier = self.try_out(number, &session, old_number, before.as_ref());
        reply.revision = number.get();
        let outcome = self.apply(number.get(), &plan, before.as_ref()).await;
        if matches!(outcome, Ok(Progress { settled: true, .. })) {
            self.stays(number);
        }
        match outcome {
            Ok(Progress { done: true, .. }) => reply.set_outcome(Outcome::Applied),
            Ok(Progress { waiting, .. }) => {
                reply.waiting = waiting;
                reply.set_outcome(Outcome::Pending);
            }
            Err(causes) => {
                let text: Vec<&str> = causes.iter().map(|one| one.message.as_str()).collect();
                let cause = format!("revision {number} failed: {}", text.join("; "));
                tracing::warn!(%number, cause, "going back");
                // First: whatever happens in between, its edits are not lost.
                self.with(move |records| {
                    let now = records.now()?;
                    let commits = [(old_number, number)];
                    records.begin_before(&session, &commits, number, old_number, &now)
                })
                .await?;
                let back = self.go_back(old_number, cause).await?;
                self.try_again(earlier, back.number);
                reply.revision = back.number.get();
                reply.problems = causes;
                reply.set_outcome(Outcome::Reverted);
                let _ = self.apply(back.number.get(), &old.plan, None).await;
            }
        }
        // A large configuration takes a while to take apart.
        tokio::task::spawn_blocking(move || drop(old));
        self.maintain();
        Ok(reply)
    }

    /// A new revision with the content of an older one, which runs from now on.
    pub(super) async fn go_back(
        &self,
        to: RevisionNumber,
        cause: String,
    ) -> Result<Revision, Refusal> {
        self.with(move |records| {
            let author = crate::store::confirm::REVERTED_BY;
            let (audit, now) = (revert_entry(&cause), records.now()?);
            let revision = records.store.commit_again(
                to,
                Source::Revert,
                author,
                &cause,
                Some(&audit),
                &now,
            )?;
            records.told(&audit, Weight::Warning, &now);
            records.run(revision.number)?;
            Ok(revision)
        })
        .await
    }

    /// Hands a plan on and waits for the parts; gives how far they are, or what failed for good because of it. Who does
    /// not answer is told again by [`Agent::watch`].
    pub(super) async fn apply(
        &self,
        revision: u64,
        plan: &Arc<Plan>,
        before: Option<&ShowPlanReply>,
    ) -> Result<Progress, Vec<Problem>> {
        self.let_in().await;
        self.behind.store(true, Ordering::Relaxed);
        match self.hands.follow(revision, plan, false).await {
            Ok(_) => self.was_told(revision),
            Err(refused @ HandsError::Refused(_)) => {
                return Err(vec![problem("", &refused.to_string())]);
            }
            Err(HandsError::Away(reason)) => {
                tracing::warn!(revision, reason, "not told yet");
                return Ok(Progress::unknown(&reason));
            }
        }
        let known = before.map(failed).unwrap_or_default();
        let deadline = Instant::now() + self.patience;
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let over = Instant::now() >= deadline;
            let standing = match self.hands.standing().await {
                Ok(standing) => standing,
                Err(error) if over => {
                    tracing::warn!(revision, %error, "how far it is is not known");
                    return Ok(Progress::unknown(&error.to_string()));
                }
                Err(_) => continue,
            };
            if standing.revision == revision {
                self.behind.store(false, Ordering::Relaxed);
                let new = failures(&standing, &known);
                if !new.is_empty() {
                    return Err(new);
                }
                if standing.settled || over {
                    return Ok(Progress::of(&standing));
                }
            } else if over {
                let reason = format!("it follows revision {} still", standing.revision);
                return Ok(Progress::unknown(&reason));
            }
        }
    }

    /// What can wait until after an answer.
    pub(super) fn maintain(&self) {
        let records = Arc::clone(&self.records);
        tokio::spawn(async move {
            let work = move || {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records.store.maintain()
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "exports of the configuration are behind"),
                Err(error) => tracing::warn!(%error, "exports of the configuration are behind"),
            }
        });
    }
}

/// How far the parts are.
pub(super) struct Progress {
    /// Everything is as configured.
    done: bool,
    /// Nothing more is about to happen by itself.
    settled: bool,
    /// Else what is not; never empty.
    waiting: Vec<api::Waiting>,
}

impl Progress {
    fn of(standing: &ShowPlanReply) -> Self {
        let mut waiting = waiting(standing);
        let done = standing.settled && waiting.is_empty();
        if !done && waiting.is_empty() {
            waiting.push(api::Waiting {
                standing: "applying".to_owned(),
                reason: "the gateway is not done yet".to_owned(),
                ..api::Waiting::default()
            });
        }
        Self {
            done,
            settled: standing.settled,
            waiting,
        }
    }

    fn unknown(reason: &str) -> Self {
        Self {
            done: false,
            settled: false,
            waiting: vec![away(reason)],
        }
    }
}

/// Everything that happens before the machine is asked.
fn prepare(
    records: &mut Records,
    caller: &Caller,
    name: &str,
    check: bool,
) -> Result<Result<Ready, CommitReply>, Refusal> {
    let now = records.now()?;
    let (session, base, ours) = records.candidate(caller, name)?;
    if !check {
        records.may_commit(&session, &now)?;
    }
    let running = records.running.clone();
    let tree = if base == running.number {
        ours.clone()
    } else {
        let began = records.began(&session, base)?;
        match merge(&began, &ours, &running.tree) {
            Ok(tree) => tree,
            Err(MergeError::Conflicts(conflicts)) => {
                return Ok(Err(conflict(records, (base, began), conflicts)?));
            }
            Err(MergeError::Bounds(error)) => {
                return Ok(Err(refused(
                    running.number,
                    vec![problem("", &error.to_string())],
                )));
            }
        }
    };
    if tree == running.tree {
        let mut reply = CommitReply {
            revision: running.number.get(),
            ..CommitReply::default()
        };
        reply.set_outcome(Outcome::Unchanged);
        return Ok(Err(reply));
    }
    let valid = match records.valid(&tree) {
        Ok(valid) => valid,
        Err(invalid) => {
            let problems = invalid
                .problems()
                .iter()
                .map(|(path, message)| problem(path, message))
                .collect();
            return Ok(Err(refused(running.number, problems)));
        }
    };
    let changes = changes::changes(&running.plan, &valid.plan);
    Ok(Ok(Ready {
        session,
        ours,
        tree,
        interrupts: changes::interrupts(&changes, &running.plan, &valid.plan),
        changes,
        dangers: changes::dangers(&running.config, &valid.config, caller.entrance()),
        valid,
        old_number: running.number,
    }))
}

/// Makes a tree the newest revision, and what the candidate that it comes from begins with.
fn store(
    records: &mut Records,
    caller: &Caller,
    order: &api::CommitRequest,
    tree: &Tree,
    candidate: Option<&SessionId>,
    now: &Moment,
) -> Result<Revision, Refusal> {
    let (source, origin) = match records.rollback_of(&order.candidate, tree) {
        Some(to) => (Source::Rollback, Some(to)),
        None if order.face() == api::Face::CommandLine => (Source::Cli, None),
        None => (Source::Api, None),
    };
    let mut new = records.new_revision(tree, &caller.name, source, &order.comment)?;
    new.origin = origin;
    new.candidate = candidate.cloned();
    let audit = audit_entry(caller, "commit", &format!("stored: {}", order.comment));
    let stored = match order.confirm_seconds {
        0 => records.store.commit(new, Some(&audit), now)?,
        seconds => {
            let window = Duration::from_secs(u64::from(seconds));
            records
                .store
                .commit_confirmed(new, window, Some(&audit), now)?
        }
    };
    records.told(&audit, Weight::Notice, now);
    Ok(stored)
}

/// Who was faster, and where.
fn conflict(
    records: &Records,
    base: (RevisionNumber, Tree),
    conflicts: Vec<Conflict>,
) -> Result<CommitReply, Refusal> {
    let locations: Vec<&Location> = conflicts.iter().map(|one| &one.location).collect();
    let changed_by = last_changes(records, base, &locations)?;
    let running = records.running.number;
    let mut reply = CommitReply {
        revision: running.get(),
        conflicts: conflicts
            .into_iter()
            .zip(changed_by)
            .map(|(conflict, by)| {
                let by = by.as_ref();
                api::Conflict {
                    path: conflict.location.to_string(),
                    theirs: conflict.theirs,
                    ours: conflict.ours,
                    author: by.map(|by| by.author.clone()).unwrap_or_default(),
                    revision: by.map_or(running.get(), |by| by.number.get()),
                    unix_ms: by.map_or(0, |by| by.time.0),
                }
            })
            .collect(),
        ..CommitReply::default()
    };
    reply.set_outcome(Outcome::Conflict);
    Ok(reply)
}

/// The last revision after `base` that changed each location. Of a candidate that is behind by more than
/// [`REVISIONS_READ`] only the newest ones are read: what none of them changed is that of the oldest of them.
fn last_changes(
    records: &Records,
    (base, began): (RevisionNumber, Tree),
    locations: &[&Location],
) -> Result<Vec<Option<Revision>>, Refusal> {
    let mut since = records
        .store
        .list((Bound::Excluded(base), Bound::Unbounded))?;
    let unread = since.len().saturating_sub(REVISIONS_READ);
    let mut before = began;
    let mut found = vec![None; locations.len()];
    for revision in since.split_off(unread) {
        let (_, after) = records.revision(revision.number.get())?;
        for change in diff(&before, &after) {
            let at = change.location();
            for (location, found) in locations.iter().zip(&mut found) {
                // A whole item that comes or goes takes along what is in it.
                if at.contains(location) || location.contains(at) {
                    *found = Some(revision.clone());
                }
            }
        }
        before = after;
    }
    Ok(found)
}

fn refused(running: RevisionNumber, problems: Vec<Problem>) -> CommitReply {
    let mut reply = CommitReply {
        revision: running.get(),
        problems,
        ..CommitReply::default()
    };
    reply.set_outcome(Outcome::Refused);
    reply
}

/// Something wrong at a path.
pub(super) fn problem(path: &str, message: &str) -> Problem {
    Problem {
        path: path.to_owned(),
        message: message.to_owned(),
        ..Problem::default()
    }
}

/// What failed for good, but for what had failed before.
pub(super) fn failures(standing: &ShowPlanReply, known: &BTreeSet<String>) -> Vec<Problem> {
    standing
        .unsettled
        .iter()
        .filter(|value| is_for_good(value.standing()))
        .filter(|value| !known.contains(&value.key))
        .map(|value| {
            let origin = value.origins.first().map_or("", String::as_str);
            problem(origin, &value.reason)
        })
        .collect()
}

fn is_for_good(standing: unsettled::Standing) -> bool {
    use unsettled::Standing::{Failed, Invalid};
    matches!(standing, Failed | Invalid)
}

/// The keys of what failed for good.
pub(super) fn failed(standing: &ShowPlanReply) -> BTreeSet<String> {
    standing
        .unsettled
        .iter()
        .filter(|value| is_for_good(value.standing()))
        .map(|value| value.key.clone())
        .collect()
}
