//! What mgmt keeps: the running configuration, candidates, and the store behind both. No waiting for others here.
//!
//! ```text
//!   candidates (trees in memory) ──saved with each edit──┐
//!   running (tree and plan) ────────committed────────────┴── Store
//! ```

mod candidates;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use culvert_model::config::{self, Config};
use culvert_model::decode::DecodeErrors;
use culvert_model::plan::{Before, DigestKey, Kept, Plan, PlanErrors, plan_after};
use culvert_model::tree::{self, Tree, TreeError};

use super::caller::Caller;
use super::encoded::Encoded;
use super::refusal::Refusal;
use super::throttle::Throttle;
use crate::store::{
    Committed, Moment, NewAuditEntry, NewRevision, Revision, RevisionNumber, Secret, SessionId,
    Source, Store, StoreError,
};
use crate::syslog::{Syslog, Targets, Weight};
use candidates::Held;
#[cfg(test)]
pub use candidates::{EXCLUSIVE, IDLE};

/// Tells the time by both clocks.
type Clock = Arc<dyn Fn() -> Result<Moment, StoreError> + Send + Sync>;

/// What runs.
#[derive(Clone)]
pub struct Running {
    /// Its revision.
    pub number: RevisionNumber,
    /// With secrets.
    pub tree: Tree,
    /// The same as generated structs.
    pub config: Arc<Config>,
    /// What the parts shall hold.
    pub plan: Arc<Plan>,
    /// For the next plan.
    kept: Arc<Kept>,
    /// Who may come in: each request asks.
    pub users: Arc<[config::User]>,
    /// Of the gateway; empty: it has none.
    pub host_name: Arc<str>,
    /// Who is told of what is done.
    targets: Arc<Targets>,
}

impl Running {
    /// A configuration that was found good.
    pub fn new(number: RevisionNumber, tree: Tree, valid: Valid) -> Self {
        let targets = Arc::new(Targets::of(&valid.config));
        let system = valid.config.system.clone().unwrap_or_default();
        Self {
            number,
            tree,
            config: Arc::new(valid.config),
            plan: valid.plan,
            kept: Arc::new(valid.kept),
            host_name: system.host_name().into(),
            users: system.users.into(),
            targets,
        }
    }
}

/// A configuration that can be applied.
pub struct Valid {
    /// As generated structs.
    pub config: config::Config,
    /// What the parts shall hold.
    pub plan: Arc<Plan>,
    /// For the next plan.
    kept: Kept,
}

/// Why a configuration cannot be applied.
#[derive(Debug)]
pub enum Invalid {
    /// By the schema.
    Schema(DecodeErrors),
    /// What does not fit together.
    Plan(PlanErrors),
    /// A digest without its secret.
    Digest(String),
}

impl Invalid {
    /// Each with its path.
    pub fn problems(&self) -> Vec<(String, String)> {
        match self {
            Self::Schema(errors) => errors
                .0
                .iter()
                .map(|error| (error.path.clone(), error.reason.to_string()))
                .collect(),
            Self::Plan(errors) => errors
                .0
                .iter()
                .map(|error| (error.path.clone(), error.reason.to_string()))
                .collect(),
            Self::Digest(text) => vec![(String::new(), text.clone())],
        }
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self
            .problems()
            .into_iter()
            .map(|(path, message)| format!("{path}: {message}"))
            .collect();
        lines.join("; ")
    }
}

/// All that is kept.
pub struct Records {
    /// On disk.
    pub store: Store,
    /// For secrets.
    pub digests: DigestKey,
    /// What runs.
    pub running: Running,
    /// Of the revision that was made last.
    encoded: Encoded,
    /// Those that were used since this process began.
    candidates: HashMap<SessionId, Held>,
    /// Is told what the audit trail is told.
    syslog: Option<Syslog>,
    /// Refusals are written down one by one only up to a point.
    refusals: Throttle,
    clock: Clock,
}

impl Records {
    /// Begins with what is kept. An empty store begins with an empty configuration, or with that of `import`.
    pub fn begin(mut store: Store, import: Option<&Tree>, now: &Moment) -> Result<Self, Refusal> {
        let digests = DigestKey::new(**store.digest_key());
        let committed = match store.running()? {
            Some(committed) => committed,
            None => {
                let tree = import.cloned().unwrap_or_default();
                let (content, secrets) = apart(&tree, &digests);
                let new = NewRevision {
                    parent: None,
                    author: "culvert".to_owned(),
                    source: Source::Import,
                    origin: None,
                    comment: match import {
                        Some(_) => "imported at the first start".to_owned(),
                        None => "the first start".to_owned(),
                    },
                    content,
                    secrets,
                    candidate: None,
                };
                let revision = store.commit(new, None, now)?;
                store.revision(revision.number)?
            }
        };
        let running = running_of(&committed, &digests)?;
        Ok(Self {
            store,
            digests,
            running,
            encoded: Encoded::default(),
            candidates: HashMap::new(),
            clock: Arc::new(Moment::now),
            syslog: None,
            refusals: Throttle::default(),
        })
    }

    /// Tells syslog, too, what is done from now on.
    #[must_use]
    pub fn with_syslog(mut self, syslog: Syslog) -> Self {
        self.syslog = Some(syslog);
        self
    }

    /// By another clock than the machine's.
    #[cfg(test)]
    #[must_use]
    pub fn with_clock(
        mut self,
        clock: impl Fn() -> Result<Moment, StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.set_clock(clock);
        self
    }

    /// From now on.
    #[cfg(test)]
    pub fn set_clock(
        &mut self,
        clock: impl Fn() -> Result<Moment, StoreError> + Send + Sync + 'static,
    ) {
        self.clock = Arc::new(clock);
    }

    /// What time it is.
    pub fn now(&self) -> Result<Moment, StoreError> {
        (self.clock)()
    }

    /// A configuration as the parts would have it, or everything that is wrong with it. Where it is what runs it is not
    /// looked at again.
    pub fn valid(&self, tree: &Tree) -> Result<Valid, Invalid> {
        valid(Some(&self.running), tree, &self.digests)
    }

    /// The configuration that a revision is.
    pub fn revision(&self, number: u64) -> Result<(Revision, Tree), Refusal> {
        let wanted = numbered(number)?;
        if wanted == self.running.number {
            let newest = self.store.newest()?;
            if let Some(newest) = newest.filter(|newest| newest.number == wanted) {
                return Ok((newest, self.running.tree.clone()));
            }
        }
        let committed = self.store.revision(wanted)?;
        let tree = together(&committed.content, &committed.secrets, &self.digests)
            .map_err(|source| Refusal::Unreadable { number, source })?;
        Ok((committed.revision, tree))
    }

    /// What a commit stores.
    pub fn new_revision(
        &mut self,
        tree: &Tree,
        author: &str,
        source: Source,
        comment: &str,
    ) -> Result<NewRevision, Refusal> {
        let (content, secrets) = self.encoded.apart(tree, &self.digests);
        Ok(NewRevision {
            parent: self.store.newest()?.map(|newest| newest.number),
            author: author.to_owned(),
            source,
            origin: None,
            comment: comment.to_owned(),
            content,
            secrets,
            candidate: None,
        })
    }

    /// A stored revision runs from now on.
    pub fn run(&mut self, number: RevisionNumber) -> Result<&Running, Refusal> {
        let committed = self.store.revision(number)?;
        self.running = running_of(&committed, &self.digests)?;
        Ok(&self.running)
    }

    /// The window of what waits for its confirmation is over.
    pub fn go_back(&mut self, cause: &str, now: &Moment) -> Result<Revision, Refusal> {
        let audit = revert_entry(cause);
        let back = self.store.expire_confirmation(cause, Some(&audit), now)?;
        self.told(&audit, Weight::Warning, now);
        Ok(back)
    }

    /// Remembers what somebody did.
    pub fn audit(&mut self, caller: &Caller, what: &str, result: &str, now: &Moment) {
        self.remember(&audit_entry(caller, what, result), Weight::Notice, now);
    }

    /// Remembers what somebody was refused, unless there is too much of that from `key`: then it is counted.
    pub fn refused(&mut self, key: &str, caller: &Caller, what: &str, why: &str, now: &Moment) {
        if self.refusals.writes(key, Instant::now()) {
            let result = format!("refused: {why}");
            self.remember(&audit_entry(caller, what, &result), Weight::Warning, now);
        }
    }

    /// Remembers how much was only counted.
    pub fn count_refusals(&mut self, now: &Moment) {
        for (who, more) in self.refusals.over(Instant::now()) {
            let entry = NewAuditEntry {
                who,
                origin: "console".to_owned(),
                what: "refusals".to_owned(),
                result: format!("{more} more refused"),
            };
            self.remember(&entry, Weight::Warning, now);
        }
    }

    fn remember(&mut self, entry: &NewAuditEntry, weight: Weight, now: &Moment) {
        self.told(entry, weight, now);
        if let Err(error) = self.store.audit(entry, now) {
            tracing::error!(%error, "the audit trail cannot be written");
        }
    }

    /// Says what the trail knows, or will know in a moment.
    pub fn told(&self, entry: &NewAuditEntry, weight: Weight, now: &Moment) {
        let NewAuditEntry {
            who,
            origin,
            what,
            result,
        } = entry;
        tracing::info!(target: "audit", who, from = origin, what, result);
        if let Some(syslog) = &self.syslog {
            syslog.tell(entry, weight, now.wall, &self.running.targets);
        }
    }
}

/// The number of a revision.
pub(super) fn numbered(number: u64) -> Result<RevisionNumber, Refusal> {
    RevisionNumber::new(number)
        .ok_or_else(|| Refusal::Malformed("revisions are counted from 1".to_owned()))
}

/// An entry about the box itself: it went back to what it was.
pub fn revert_entry(cause: &str) -> NewAuditEntry {
    NewAuditEntry {
        who: crate::store::confirm::REVERTED_BY.to_owned(),
        origin: "console".to_owned(),
        what: "revert".to_owned(),
        result: cause.to_owned(),
    }
}

/// An entry about somebody.
pub fn audit_entry(caller: &Caller, what: &str, result: &str) -> NewAuditEntry {
    NewAuditEntry {
        who: caller.name.clone(),
        origin: caller.place().to_owned(),
        what: what.to_owned(),
        result: result.to_owned(),
    }
}

/// A configuration as the parts would have it, or everything that is wrong with it.
fn valid(before: Option<&Running>, tree: &Tree, digests: &DigestKey) -> Result<Valid, Invalid> {
    match before {
        Some(before) => tree.validate_after(&before.tree),
        None => tree.validate(),
    }
    .map_err(Invalid::Schema)?;
    let config = match before {
        Some(before) => tree.to_config_after(&before.tree, &before.config),
        None => tree.to_config(),
    }
    .map_err(|error| Invalid::Digest(error.to_string()))?;
    let known = before.map(|before| Before {
        config: &before.config,
        kept: &before.kept,
    });
    let (plan, kept) = plan_after(known, &config, digests).map_err(Invalid::Plan)?;
    Ok(Valid {
        config,
        plan: Arc::new(plan),
        kept,
    })
}

fn running_of(committed: &Committed, digests: &DigestKey) -> Result<Running, Refusal> {
    let number = committed.revision.number;
    let tree = together(&committed.content, &committed.secrets, digests).map_err(|source| {
        Refusal::Unreadable {
            number: number.get(),
            source,
        }
    })?;
    let valid = valid(None, &tree, digests).map_err(|invalid| Refusal::Invalid {
        number: number.get(),
        reason: invalid.text(),
    })?;
    Ok(Running::new(number, tree, valid))
}

/// Content and secrets, as they are stored.
pub(super) fn apart(tree: &Tree, digests: &DigestKey) -> (Vec<u8>, Vec<Secret>) {
    let (tree, secrets) = tree.take_secrets(digests);
    (tree.canonical_bytes().to_vec(), secrets_of(secrets))
}

pub(super) fn secrets_of(taken: Vec<tree::Secret>) -> Vec<Secret> {
    let secret = |(path, value)| Secret { path, value };
    taken.into_iter().map(secret).collect()
}

pub(super) fn together(
    content: &[u8],
    secrets: &[Secret],
    digests: &DigestKey,
) -> Result<Tree, TreeError> {
    let secrets = secrets
        .iter()
        .map(|secret| (secret.path.as_str(), secret.value.as_slice()));
    Tree::from_canonical_bytes(content)?.put_secrets(secrets, digests)
}
