//! Candidates: private trees, each saved with every edit, and one that may hold the configuration for itself.

use std::time::Duration;

use culvert_model::tree::{Tree, merge};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::super::caller::Caller;
use super::super::refusal::Refusal;
use super::super::written::Written;
use super::Records;
use crate::store::{Candidate, CandidateInfo, Moment, RevisionNumber, SessionId, StoreError};

/// A candidate that nobody used for so long goes.
pub const IDLE: Duration = Duration::from_hours(24);
/// `configure exclusive` lasts so long after it was last used.
pub const EXCLUSIVE: Duration = Duration::from_mins(30);
/// So much of it passes before a use is written down.
const RENEWAL: Duration = Duration::from_mins(1);

/// A candidate as it is worked on.
pub struct Held {
    principal: String,
    base: RevisionNumber,
    /// What the base is.
    began: Tree,
    tree: Tree,
    /// It holds the configuration, or did and was not told yet that it does no more.
    exclusive: bool,
    /// The revision that it was made like as a whole, and what it was then.
    rolled_back: Option<(RevisionNumber, Tree)>,
}

impl Records {
    /// Candidates go that nobody used for too long. Nothing is written where there are none.
    pub fn expire(&mut self, now: &Moment) -> Result<(), Refusal> {
        for gone in self.store.expire_candidates(IDLE, now)? {
            self.candidates.remove(&gone.session);
            let CandidateInfo {
                session, principal, ..
            } = gone;
            tracing::info!(%session, principal, "a candidate was idle for too long");
        }
        Ok(())
    }

    /// A new candidate, like what runs.
    pub fn new_candidate(&mut self, caller: &Caller, now: &Moment) -> Result<SessionId, Refusal> {
        self.expire(now)?;
        let mut bytes = [0; 8];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| Refusal::Inside("no random bytes from the kernel".to_owned()))?;
        let session = SessionId::new(format!("{:016x}", u64::from_be_bytes(bytes)))?;
        let (number, tree) = (self.running.number, self.running.tree.clone());
        self.save(&session, &caller.name, number, tree, now)?;
        Ok(session)
    }

    /// A candidate that the caller may use, with the revision it began with.
    pub fn candidate(
        &mut self,
        caller: &Caller,
        name: &str,
    ) -> Result<(SessionId, RevisionNumber, Tree), Refusal> {
        let missing = || Refusal::NoCandidate(name.to_owned());
        let session = SessionId::new(name).map_err(|_| missing())?;
        if !self.candidates.contains_key(&session) {
            let held = self.read_candidate(&session)?.ok_or_else(missing)?;
            self.candidates.insert(session.clone(), held);
        }
        let held = self.candidates.get(&session).ok_or_else(missing)?;
        // Nobody edits what is another's, and only root may look into it.
        if held.principal != caller.name && caller.name != "root" {
            return Err(missing());
        }
        Ok((session, held.base, held.tree.clone()))
    }

    fn read_candidate(&self, session: &SessionId) -> Result<Option<Held>, Refusal> {
        let Candidate {
            info,
            content,
            secrets,
        } = match self.store.candidate(session) {
            Ok(candidate) => candidate,
            Err(StoreError::NoSuchCandidate(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Nobody has looked since.
        if self.now()?.since(&info.last_used) >= IDLE {
            return Ok(None);
        }
        let Some(base) = info.base else {
            return Ok(None);
        };
        let (_, began) = self.revision(base.get())?;
        let written = Written { content, secrets };
        let tree = written
            .read(&began, &self.digests)
            .map_err(|source| Refusal::Unreadable {
                number: base.get(),
                source,
            })?;
        Ok(Some(Held {
            principal: info.principal,
            base,
            began,
            tree,
            exclusive: false,
            rolled_back: None,
        }))
    }

    /// What a candidate on this base began with.
    pub fn began(&self, session: &SessionId, base: RevisionNumber) -> Result<Tree, Refusal> {
        match self.candidates.get(session) {
            Some(held) if held.base == base => Ok(held.began.clone()),
            _ if self.running.number == base => Ok(self.running.tree.clone()),
            _ => Ok(self.revision(base.get())?.1),
        }
    }

    /// Keeps what a candidate has become.
    pub fn save(
        &mut self,
        session: &SessionId,
        principal: &str,
        base: RevisionNumber,
        tree: Tree,
        now: &Moment,
    ) -> Result<(), Refusal> {
        // It stays whose it was, also when root lends a hand.
        let (principal, exclusive, rolled_back) = match self.candidates.get_mut(session) {
            Some(held) => (
                held.principal.clone(),
                held.exclusive,
                held.rolled_back.take(),
            ),
            None => (principal.to_owned(), false, None),
        };
        let began = self.began(session, base)?;
        let Written { content, secrets } = Written::of(&began, &tree, &self.digests);
        self.store
            .save_candidate(session, &principal, Some(base), &content, &secrets, now)?;
        let held = Held {
            principal,
            base,
            began,
            tree,
            exclusive,
            rolled_back,
        };
        self.candidates.insert(session.clone(), held);
        Ok(())
    }

    /// A candidate is as this revision was, and because of that alone.
    pub fn rolled_back(&mut self, session: &SessionId, to: RevisionNumber) {
        if let Some(held) = self.candidates.get_mut(session) {
            held.rolled_back = Some((to, held.tree.clone()));
        }
    }

    /// The revision whose content `tree` repeats, if this candidate was rolled back to it and nothing else.
    pub fn rollback_of(&self, session: &str, tree: &Tree) -> Option<RevisionNumber> {
        let session = SessionId::new(session).ok()?;
        let (to, was) = self.candidates.get(&session)?.rolled_back.as_ref()?;
        (was == tree).then_some(*to)
    }

    /// Whether nobody has edited a candidate since it was this.
    pub fn is_still(&self, session: &SessionId, was: &Tree) -> bool {
        self.candidates
            .get(session)
            .is_some_and(|held| held.tree == *was)
    }

    /// A candidate begins anew with the revision that it became; the commit has written that already.
    pub fn begin_anew(&mut self, session: &SessionId, base: RevisionNumber, tree: Tree) {
        if let Some(held) = self.candidates.get_mut(session) {
            held.base = base;
            held.began = tree.clone();
            held.tree = tree;
        }
    }

    /// A candidate was edited while what it had been was committed: those edits go on from there. Where they do not fit
    /// it stays as it is, and its next commit says so.
    pub fn carry_over(
        &mut self,
        session: &SessionId,
        was: &Tree,
        base: RevisionNumber,
        committed: &Tree,
        now: &Moment,
    ) {
        let Some(held) = self.candidates.get(session) else {
            return;
        };
        // It was made like what ran: there are no edits, and least of all one that undoes the commit.
        let carried = if held.tree == held.began {
            committed.clone()
        } else if let Ok(tree) = merge(was, &held.tree, committed) {
            tree
        } else {
            return;
        };
        let principal = held.principal.clone();
        if let Err(error) = self.save(session, &principal, base, carried, now) {
            tracing::warn!(%session, %error, "a candidate stays on its old base");
        }
    }

    /// A candidate that became revisions which are about to be taken back goes on from what comes `back`: what they
    /// changed is an edit again, to be mended and committed once more. `commits` are those revisions, each with the one
    /// that it followed, oldest first; a candidate that does not begin with `base` any more has gone on without them.
    pub fn begin_before(
        &mut self,
        session: &SessionId,
        commits: &[(RevisionNumber, RevisionNumber)],
        base: RevisionNumber,
        back: RevisionNumber,
        now: &Moment,
    ) -> Result<(), Refusal> {
        let found = self.candidates.get(session);
        let Some(held) = found.filter(|held| held.base == base) else {
            return Ok(());
        };
        let principal = held.principal.clone();
        let mut reached = back;
        let alone = commits.iter().all(|&(follows, revision)| {
            let on = follows == reached;
            reached = revision;
            on
        });
        let tree = if alone && reached == base {
            held.tree.clone()
        } else {
            // Others have committed in between.
            let (_, mut tree) = self.revision(back.get())?;
            for (follows, revision) in commits {
                let (_, before) = self.revision(follows.get())?;
                let (_, after) = self.revision(revision.get())?;
                // What was built on others' changes that go, too, is but in the history.
                if let Ok(merged) = merge(&before, &after, &tree) {
                    tree = merged;
                }
            }
            let Ok(tree) = merge(&held.began, &held.tree, &tree) else {
                return Ok(());
            };
            tree
        };
        if let Err(error) = self.save(session, &principal, back, tree.clone(), now) {
            tracing::warn!(%session, %error, "a candidate's edits are kept in memory only");
            let (_, began) = self.revision(back.get())?;
            if let Some(held) = self.candidates.get_mut(session) {
                held.base = back;
                held.began = began;
                held.tree = tree;
            }
        }
        Ok(())
    }

    /// Ends a candidate.
    pub fn discard(&mut self, session: &SessionId) -> Result<(), Refusal> {
        self.candidates.remove(session);
        self.store.unlock(session)?;
        self.store.discard_candidate(session)?;
        Ok(())
    }

    /// Keeps others from committing for a while.
    pub fn hold(
        &mut self,
        session: &SessionId,
        caller: &Caller,
        now: &Moment,
    ) -> Result<(), Refusal> {
        match self
            .store
            .lock_exclusively(session, &caller.name, EXCLUSIVE, now)
        {
            Ok(_) => {
                if let Some(held) = self.candidates.get_mut(session) {
                    held.exclusive = true;
                }
                Ok(())
            }
            Err(StoreError::HeldExclusively { principal, .. }) => Err(Refusal::Held(format!(
                "{principal} holds the configuration exclusively"
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// A session is used: if it holds the configuration it goes on holding it. If it did, and its time is over, it is
    /// told so, once: others may have committed what it does not know of.
    pub fn renew(&mut self, session: &SessionId, now: &Moment) -> Result<(), Refusal> {
        let held = self.candidates.get(session);
        let believes = held.is_some_and(|held| held.exclusive);
        let last = self.store.last_exclusive_lock()?;
        let (own, other) = match last {
            Some(lock) if lock.session == *session => (Some(lock), None),
            other => (None, other),
        };
        if let Some(lock) = own {
            let left = lock.remaining(now);
            if !left.is_zero() {
                if left + RENEWAL <= EXCLUSIVE {
                    self.store.prolong_exclusive_lock(lock, EXCLUSIVE, now)?;
                }
                return Ok(());
            }
            self.store.unlock(session)?;
        } else if !believes {
            return Ok(());
        }
        if let Some(held) = self.candidates.get_mut(session) {
            held.exclusive = false;
        }
        let other = other.filter(|lock| !lock.remaining(now).is_zero());
        Err(Refusal::HoldOver {
            now_of: other.map(|lock| lock.principal),
        })
    }

    /// Whether this session may commit; the one who holds the configuration goes on holding it.
    pub fn may_commit(&mut self, session: &SessionId, now: &Moment) -> Result<(), Refusal> {
        self.renew(session, now)?;
        match self.store.exclusive_lock(now)? {
            Some(lock) if lock.session == *session => Ok(()),
            Some(lock) => Err(Refusal::Held(format!(
                "{} holds the configuration exclusively; commit when they let go",
                lock.principal
            ))),
            None => Ok(()),
        }
    }

    /// All candidates, and which of them holds the configuration.
    pub fn candidates(
        &self,
        now: &Moment,
    ) -> Result<(Vec<CandidateInfo>, Option<SessionId>), Refusal> {
        let holder = self.store.exclusive_lock(now)?.map(|lock| lock.session);
        Ok((self.store.candidates()?, holder))
    }
}
