//! A commit whose answer was that it waits: what the parts refuse for good only later is taken back, too.
//!
//! ```text
//!   commit ── told as pending ── on trial ──┬ nothing more happens by itself ────────> stays
//!                                           ├ TRIAL has passed since it was told ────> stays, and what fails is shown
//!                                           └ refused, or a value failed for good ───> a revision with the content of
//!                                                                                      the last one that was in place
//! ```
//!
//! What was committed meanwhile was built on it and goes with it: the last one that was in place is all that is known
//! to work. Each commit is on trial for its own time: once that is over it is what those after it go back to. The revision that takes its place is on no trial. If it fails, too, that is shown; nobody goes back and
//! forth. Nor is a revision on trial where it is not known that the one before it was in place, and after a new start
//! of mgmt none is.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_model::api::Problem;
use culvert_model::bus::ShowPlanReply;

use super::commit::{failed, failures, problem};
use super::hands::{Hands, HandsError};
use super::{Agent, Refusal};
use crate::store::{RevisionNumber, SessionId, StoreError};

/// A part that was away has come back by then and said what it does not like; what fails later has other causes than
/// the commit.
pub(super) const TRIAL: Duration = Duration::from_mins(5);

/// Of so many commits the edits become edits again; those of older ones are in the history.
const MOST_COMMITS: usize = 32;

/// A revision that may yet be taken back.
#[derive(Clone)]
pub(super) struct Trial {
    revision: RevisionNumber,
    /// Whose candidates it and those before it were that would go with it, oldest first.
    commits: Vec<Tried>,
    /// The last one that was in place.
    to: RevisionNumber,
    /// What had failed there: not this one's fault.
    known: BTreeSet<String>,
}

/// A commit that would be taken back.
#[derive(Clone)]
struct Tried {
    session: SessionId,
    revision: RevisionNumber,
    follows: RevisionNumber,
    /// What the session's candidate begins with since.
    base: RevisionNumber,
    /// Since when the gateway follows it.
    told: Option<Instant>,
}

/// A session, its candidate's base, and its commits, each after the revision that it followed.
type Edits = (
    SessionId,
    RevisionNumber,
    Vec<(RevisionNumber, RevisionNumber)>,
);

impl Trial {
    /// Commits stay whose time is over: it is gone back only to the last of them. None: all of them stay.
    fn after(mut self, trying: Duration) -> Option<Self> {
        let over = |one: &&Tried| one.told.is_some_and(|told| told.elapsed() >= trying);
        let stay = self.commits.iter().take_while(over).count();
        if let Some(last) = self.commits.drain(..stay).next_back() {
            self.to = last.revision;
        }
        (!self.commits.is_empty()).then_some(self)
    }

    /// What came after this revision is gone. None: nothing of what is left is on trial.
    fn until(mut self, newest: RevisionNumber) -> Option<Self> {
        self.commits.retain(|one| one.revision <= newest);
        (!self.commits.is_empty()).then_some(self)
    }

    /// Whether all is as it shall be.
    fn is_settled(&self, standing: &ShowPlanReply) -> bool {
        standing.settled && failures(standing, &self.known).is_empty()
    }
}

impl<H: Hands> Agent<H> {
    fn trial(&self) -> std::sync::MutexGuard<'_, Option<Trial>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new revision is on trial, if it is known what was in place `before`. Gives the trial of the revision that it
    /// follows.
    pub(super) fn try_out(
        &self,
        revision: RevisionNumber,
        session: &SessionId,
        follows: RevisionNumber,
        before: Option<&ShowPlanReply>,
    ) -> Option<Trial> {
        let mut trial = self.trial();
        let in_place = before.filter(|before| before.revision == follows.get());
        let earlier = trial
            .take()
            .filter(|earlier| earlier.revision == follows)
            .and_then(|earlier| earlier.after(self.trying))
            .filter(|earlier| !in_place.is_some_and(|before| earlier.is_settled(before)));
        let mut tried = match (&earlier, in_place) {
            (Some(earlier), _) => earlier.clone(),
            (None, Some(before)) => Trial {
                revision,
                commits: Vec::new(),
                to: follows,
                known: failed(before),
            },
            (None, None) => return None,
        };
        tried.revision = revision;
        if tried.commits.len() >= MOST_COMMITS {
            tried.commits.remove(0);
        }
        for one in &mut tried.commits {
            if one.session == *session {
                one.base = revision;
            }
        }
        tried.commits.push(Tried {
            session: session.clone(),
            revision,
            follows,
            base: revision,
            told: None,
        });
        *trial = Some(tried);
        earlier
    }

    /// What was tried out was taken back at once: a trial goes on with the revision that has its content again.
    pub(super) fn try_again(&self, earlier: Option<Trial>, revision: RevisionNumber) {
        *self.trial() = earlier.map(|earlier| Trial {
            revision,
            ..earlier
        });
    }

    /// It is gone back from what was built on this revision: what of it is on trial still goes on with the one that has
    /// its content again.
    pub(super) fn try_below(&self, restored: RevisionNumber, revision: RevisionNumber) {
        let mut trial = self.trial();
        let below = trial.take().and_then(|trial| trial.until(restored));
        *trial = below.map(|below| Trial { revision, ..below });
    }

    /// The gateway follows a revision from now on.
    pub(super) fn was_told(&self, revision: u64) {
        let mut trial = self.trial();
        if let Some(trial) = trial.as_mut()
            && trial.revision.get() == revision
        {
            for one in &mut trial.commits {
                one.told.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Whatever fails of a revision from now on is not its fault.
    pub(super) fn stays(&self, revision: RevisionNumber) {
        let mut trial = self.trial();
        if trial
            .as_ref()
            .is_some_and(|trial| trial.revision == revision)
        {
            *trial = None;
        }
    }

    /// The gateway refuses to follow a revision; true: it was on trial, and is taken back.
    pub(super) async fn refused_late(
        &self,
        revision: RevisionNumber,
        reason: &str,
    ) -> Result<bool, Refusal> {
        let trial = self.trial().clone();
        let Some(trial) = trial.filter(|trial| trial.revision == revision) else {
            return Ok(false);
        };
        let Some(trial) = trial.after(self.trying) else {
            self.stays(revision);
            return Ok(false);
        };
        self.take_back(trial, &[problem("", reason)]).await?;
        Ok(true)
    }

    /// All that is on trial was told so much earlier.
    #[cfg(test)]
    pub(super) fn told_earlier(&self, by: Duration) {
        if let Some(trial) = self.trial().as_mut() {
            for one in &mut trial.commits {
                one.told = one.told.and_then(|told| told.checked_sub(by));
            }
        }
    }

    /// Looks how far a revision on trial is.
    pub(super) async fn judge(&self) -> Result<(), Refusal> {
        // Whoever has not been told is told first.
        if self.trial().is_none() || self.behind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let standing = match self.hands.standing().await {
            Ok(standing) => standing,
            Err(HandsError::Away(_) | HandsError::Refused(_)) => return Ok(()),
        };
        let _one_at_a_time = self.commits.lock().await;
        let Some(trial) = self.trial().clone() else {
            return Ok(());
        };
        let running = self.with(|records| Ok(records.running.number)).await?;
        if trial.revision != running {
            // It was taken back already.
            self.stays(trial.revision);
        } else if trial.revision.get() == standing.revision {
            let Some(trial) = trial.after(self.trying) else {
                self.stays(running);
                return Ok(());
            };
            let causes = failures(&standing, &trial.known);
            if !causes.is_empty() {
                self.take_back(trial, &causes).await?;
            } else if standing.settled {
                self.stays(trial.revision);
            }
        } else {
            // It has begun anew with another one, perhaps.
            self.behind.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn take_back(&self, trial: Trial, causes: &[Problem]) -> Result<(), Refusal> {
        let Trial {
            revision,
            commits,
            to,
            ..
        } = trial;
        let texts: Vec<&str> = causes.iter().map(|one| one.message.as_str()).collect();
        let cause = format!("revision {revision} failed later: {}", texts.join("; "));
        tracing::warn!(%revision, %to, cause, "going back");
        for (session, base, commits) in by_session(commits) {
            let again = self.with(move |records| {
                let now = records.now()?;
                records.begin_before(&session, &commits, base, to, &now)
            });
            if let Err(error) = again.await {
                tracing::warn!(%error, "what a session committed is but in the history");
            }
        }
        let back = match self.go_back(to, cause).await {
            Ok(back) => back,
            Err(error) => {
                // Anything but that may be better the next time.
                if let Refusal::Store(StoreError::NoSuchRevision(_)) = error {
                    self.stays(revision);
                }
                return Err(error);
            }
        };
        self.stays(revision);
        let plan = self
            .with(|records| Ok(records.running.plan.clone()))
            .await?;
        if let Err(causes) = self.apply(back.number.get(), &plan, None).await {
            tracing::error!(?causes, "the old configuration is not all in place");
        }
        self.maintain();
        Ok(())
    }
}

/// The commits of each session, with what its candidate begins with since.
fn by_session(commits: Vec<Tried>) -> Vec<Edits> {
    let mut sessions: Vec<Edits> = Vec::new();
    for one in commits {
        let commit = (one.follows, one.revision);
        match sessions
            .iter_mut()
            .find(|(session, ..)| *session == one.session)
        {
            Some((_, _, commits)) => commits.push(commit),
            None => sessions.push((one.session, one.base, vec![commit])),
        }
    }
    sessions
}
