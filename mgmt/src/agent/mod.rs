//! The agent: sessions with private candidates, commits that are never half done, and the way back.
//!
//! ```text
//!            open       edit             commit
//!   caller ───────> candidate ───> merge ─> validate ─> plan ─> check ─> store ─> follow ─> wait
//!                   (private)      with what was          with the       │                    │
//!                                  committed meanwhile    machine        v                    v
//!                                                                    revision N      applied, pending, or
//!                                                                                    N+1 with the old content
//! ```
//!
//! What is pending stays on trial: refused for good later on, it is taken back, too.
//!
//! Records are kept behind one lock, held for a moment at a time; a commit holds another one for as long as it lasts, so
//! that reading and editing go on meanwhile.

mod caller;
mod candidates;
mod changes;
mod commit;
mod encoded;
mod hands;
mod keys;
mod probation;
mod records;
mod refusal;
mod secrets;
mod standing;
#[cfg(test)]
mod tests;
mod throttle;
mod trail;
mod trial;
mod written;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_model::api;
use tokio::sync::watch;

pub use caller::{Accounts, Caller, Claim, Peer, Role, Stranger};
pub use hands::{Hands, HandsError, Run};
pub use records::Records;
pub use refusal::Refusal;

use standing::{away, waiting};
use trial::{TRIAL, Trial};

use crate::login::Writer;

/// How long an answer waits for the parts; what is not done by then is done later, or told as pending.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everything that can be asked of mgmt.
pub struct Agent<H> {
    hands: H,
    accounts: Accounts,
    records: Arc<Mutex<Records>>,
    /// One commit, confirmation or revert at a time.
    commits: tokio::sync::Mutex<()>,
    /// It is not certain that the gateway follows what runs: it is told again until it says so.
    behind: AtomicBool,
    /// What was committed last, if it may yet turn out to be refused.
    trial: Mutex<Option<Trial>>,
    patience: Duration,
    /// How long a revision is on trial.
    trying: Duration,
    /// One key is derived from a passphrase at a time.
    sealing: tokio::sync::Mutex<()>,
    /// What is wrong with the store; empty: nothing.
    warning: String,
    /// Tells sshd who comes in.
    login: Option<Writer>,
    /// Other users may be known from now on; false: mgmt ends.
    told: watch::Sender<bool>,
}

impl<H: Hands> Agent<H> {
    /// Of what is kept and who carries it out.
    pub fn new(records: Records, hands: H, accounts: Accounts, warning: String) -> Self {
        Self {
            hands,
            accounts,
            records: Arc::new(Mutex::new(records)),
            commits: tokio::sync::Mutex::new(()),
            behind: AtomicBool::new(false),
            trial: Mutex::new(None),
            patience: PATIENCE,
            trying: TRIAL,
            sealing: tokio::sync::Mutex::new(()),
            warning,
            login: None,
            told: watch::Sender::new(true),
        }
    }

    /// Tells sshd who comes in, as well, whenever another revision runs.
    #[must_use]
    pub fn with_login(mut self, login: Writer) -> Self {
        self.login = Some(login);
        self
    }

    /// sshd and those who are logged in know of the running configuration's users from now on.
    async fn let_in(&self) {
        self.told.send_if_modified(|goes_on| *goes_on);
        let Some(login) = self.login.clone() else {
            return;
        };
        let told = self.with(move |records| {
            match login.write(&records.running.config) {
                Ok(true) => tracing::info!("sshd's files are new"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "nobody can log in over SSH"),
            }
            Ok(())
        });
        if let Err(error) = told.await {
            tracing::error!(%error, "sshd's files are those of before");
        }
    }

    /// The accounts that are believed.
    pub fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// Whoever attends is answered: mgmt ends.
    pub fn dismiss(&self) {
        self.told.send_replace(false);
    }

    /// Waits for as long as somebody is somebody here.
    pub async fn attend(
        &self,
        caller: &Caller,
        peer: Peer,
        claim: Claim,
    ) -> Result<api::AttendReply, Refusal> {
        let mut told = self.told.subscribe();
        let accounts = self.accounts;
        loop {
            let (caller, claim) = (caller.clone(), claim.clone());
            self.with(move |records| {
                let outcome = accounts.identify(peer, claim, &records.running.users);
                if let Err(stranger) = &outcome {
                    let result = format!("is to end: {stranger}");
                    records.audit(&caller, "session", &result, &records.now()?);
                }
                Ok(outcome.map(drop)?)
            })
            .await?;
            if told.changed().await.is_err() || !*told.borrow_and_update() {
                return Ok(api::AttendReply {});
            }
        }
    }

    /// Who that is.
    pub async fn identify(&self, peer: Peer, claim: Claim) -> Result<Caller, Refusal> {
        let accounts = self.accounts;
        self.with(move |records| {
            let outcome = accounts.identify(peer, claim.clone(), &records.running.users);
            if let Err(stranger) = &outcome {
                let caller = Caller {
                    name: claim
                        .principal
                        .unwrap_or_else(|| format!("uid {}", peer.uid)),
                    role: Role::ReadOnly,
                    origin: claim.origin.unwrap_or_else(|| "console".to_owned()),
                };
                let key = format!("uid {}", peer.uid);
                let why = stranger.to_string();
                records.refused(&key, &caller, "connect", &why, &records.now()?);
            }
            Ok(outcome?)
        })
        .await
    }

    /// Does something with the records, where it may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Records) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let records = Arc::clone(&self.records);
        tokio::task::spawn_blocking(move || {
            work(&mut records.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|error| Refusal::Inside(error.to_string()))?
    }

    /// Who asks, and whom.
    pub async fn who_am_i(
        &self,
        caller: &Caller,
        _request: api::WhoAmIRequest,
    ) -> Result<api::WhoAmIReply, Refusal> {
        let host_name = self
            .with(|records| Ok(Arc::clone(&records.running.host_name)))
            .await?;
        Ok(api::WhoAmIReply {
            principal: caller.name.clone(),
            role: caller.role.name().to_owned(),
            host_name: host_name.to_string(),
        })
    }

    /// Revisions, newest first.
    pub async fn revisions(
        &self,
        _caller: &Caller,
        request: api::ListRevisionsRequest,
    ) -> Result<api::ListRevisionsReply, Refusal> {
        /// At most so many in one reply.
        const MOST: u32 = 1000;
        self.with(move |records| {
            let now = records.now()?;
            let pending = records.store.pending_confirmation(&now)?;
            let before = match request.before {
                0 => u64::MAX >> 1,
                number => number,
            };
            let Some(last) = crate::store::RevisionNumber::new(before.saturating_sub(1)) else {
                return Ok(api::ListRevisionsReply::default());
            };
            let limit = match request.limit {
                0 => MOST,
                limit => limit.min(MOST),
            };
            let revisions = records
                .store
                .list(..=last)?
                .into_iter()
                .rev()
                .take(limit as usize)
                .map(|revision| api::Revision {
                    number: revision.number.get(),
                    author: revision.author,
                    source: revision.source.name().to_owned(),
                    unix_ms: revision.time.0,
                    comment: revision.comment,
                    hash: revision.content_hash.to_vec(),
                    probation_seconds: pending
                        .filter(|pending| pending.revision == revision.number)
                        .map(|pending| pending.remaining.as_secs()),
                    pinned: revision.pinned,
                })
                .collect();
            Ok(api::ListRevisionsReply { revisions })
        })
        .await
    }

    /// Keeps a revision however long the history becomes, or lets it go again.
    pub async fn pin(
        &self,
        caller: &Caller,
        request: api::PinRequest,
    ) -> Result<api::PinReply, Refusal> {
        caller::allowed(caller, Role::Admin)?;
        let who = caller.clone();
        self.with(move |records| {
            let number = records::numbered(request.revision)?;
            let pinned = records.store.pin(number, !request.off);
            let what = if request.off { "unpin" } else { "pin" };
            let result = match &pinned {
                Ok(()) => format!("revision {number}"),
                Err(error) => format!("revision {number}: {error}"),
            };
            records.audit(&who, what, &result, &records.now()?);
            Ok(pinned?)
        })
        .await?;
        self.maintain();
        Ok(api::PinReply {})
    }

    /// The end of the audit trail.
    pub async fn audit_trail(
        &self,
        caller: &Caller,
        request: api::ListAuditRequest,
    ) -> Result<api::ListAuditReply, Refusal> {
        const MOST: u32 = 1000;
        caller::allowed(caller, Role::Operator)?;
        self.with(move |records| {
            let count = match request.limit {
                0 => 100,
                limit => limit.min(MOST),
            };
            let entries = records
                .store
                .last_audit_entries(count)?
                .into_iter()
                .map(|entry| api::AuditEntry {
                    number: entry.number,
                    unix_ms: entry.time.0,
                    principal: entry.entry.who,
                    from: entry.entry.origin,
                    what: entry.entry.what,
                    result: entry.entry.result,
                })
                .collect();
            Ok(api::ListAuditReply { entries })
        })
        .await
    }
}
