//! The audit trail: sessions, and what came of what was asked.
//!
//! | what | result |
//! | --- | --- |
//! | `connect` | a stranger was refused |
//! | `session` | opened, with the role; is to end, because its user is none any more; ended |
//! | `commit`, `confirm`, `revert` | stored with the revision; or refused, with why |
//! | `read secrets`, `load a sealed configuration`, `rotate key` | done or refused |
//! | `pin`, `unpin` | which revision, or why not |
//! | `generate private-key`, `request certificate` | done, with which key |
//! | `clear`, `restart`, `capture`, `trace`, with of what | done, or why not |
//! | any method | refused: not this role |
//! | `refusals` | how many more there were than are written one by one |

use std::time::Duration;

use culvert_model::api::{self, commit_reply::Outcome};
use tokio::sync::mpsc::UnboundedReceiver;

use super::caller::{Caller, Role, allowed};
use super::hands::Hands;
use super::{Agent, Refusal};

/// Between two looks at what was only counted.
const COUNTING: Duration = Duration::from_secs(5);

/// Names and filters are as long as whoever asks likes.
const LONGEST: usize = 200;

fn shortened(what: &str) -> String {
    what.chars().take(LONGEST).collect()
}

impl<H: Hands> Agent<H> {
    /// Somebody is there.
    pub async fn session_begins(&self, caller: &Caller) -> Result<(), Refusal> {
        self.done(
            caller,
            "session",
            format!("opened as {}", caller.role.name()),
        )
        .await
    }

    /// Writes down which sessions end, and how many refusals were only counted. Ends never.
    pub async fn keep_trail(&self, mut ended: UnboundedReceiver<Caller>) {
        let mut counting = tokio::time::interval(COUNTING);
        loop {
            let kept = tokio::select! {
                Some(caller) = ended.recv() => {
                    self.done(&caller, "session", "ended".to_owned()).await
                }
                _ = counting.tick() => self.with(|records| {
                    records.count_refusals(&records.now()?);
                    Ok(())
                }).await,
            };
            if let Err(error) = kept {
                tracing::error!(%error, "the audit trail cannot be written");
            }
        }
    }

    /// What somebody asked for was refused: that of no consequence is not written down.
    pub async fn note_refusal(&self, caller: &Caller, what: &'static str, refusal: &Refusal) {
        if matches!(refusal, Refusal::Role { .. } | Refusal::Held(_)) || what == "commit" {
            self.refused(caller, what, refusal.to_string()).await;
        }
    }

    /// A commit that changed nothing, or was taken back.
    pub async fn note_commit(&self, caller: &Caller, reply: &api::CommitReply) {
        let first = |problems: &[api::Problem]| {
            let said = problems.first().map(|one| {
                let colon = if one.path.is_empty() { "" } else { ": " };
                format!("{}{colon}{}", one.path, one.message)
            });
            said.unwrap_or_default()
        };
        let why = match reply.outcome() {
            Outcome::Refused => first(&reply.problems),
            Outcome::Dangerous => format!("unconfirmed: {}", first(&reply.problems)),
            Outcome::Reverted => format!("taken back: {}", first(&reply.problems)),
            Outcome::Conflict => {
                let path = reply.conflicts.first().map(|one| one.path.as_str());
                format!("conflict at {}", path.unwrap_or_default())
            }
            _ => return,
        };
        self.refused(caller, "commit", why).await;
    }

    /// Whether somebody may do something to the gateway; a refusal is written down.
    pub async fn may(&self, caller: &Caller, takes: Role, what: &str) -> Result<(), Refusal> {
        let outcome = allowed(caller, takes);
        if let Err(refusal) = &outcome {
            self.refused(caller, &shortened(what), refusal.to_string())
                .await;
        }
        outcome
    }

    /// Keeps in mind what somebody did to the gateway, and what came of it.
    pub async fn note(&self, caller: &Caller, what: &str, result: String) {
        let (caller, what) = (caller.clone(), shortened(what));
        let noted = self
            .with(move |records| {
                records.audit(&caller, &what, &result, &records.now()?);
                Ok(())
            })
            .await;
        if let Err(error) = noted {
            tracing::error!(%error, "the audit trail cannot be written");
        }
    }

    async fn refused(&self, caller: &Caller, what: &str, why: String) {
        let what = what.to_owned();
        let caller = caller.clone();
        let noted = self
            .with(move |records| {
                records.refused(&caller.name, &caller, &what, &why, &records.now()?);
                Ok(())
            })
            .await;
        if let Err(error) = noted {
            tracing::error!(%error, "the audit trail cannot be written");
        }
    }

    /// Keeps in mind what somebody did.
    pub(super) async fn done(
        &self,
        caller: &Caller,
        what: &'static str,
        result: String,
    ) -> Result<(), Refusal> {
        let caller = caller.clone();
        self.with(move |records| {
            records.audit(&caller, what, &result, &records.now()?);
            Ok(())
        })
        .await
    }
}
