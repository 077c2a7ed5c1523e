//! `commit confirmed`: who says in time that it is good keeps it; else the box goes back by itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_model::api;

use super::caller::{Caller, Role, allowed};
use super::hands::{Hands, HandsError};
use super::records::audit_entry;
use super::{Agent, Refusal};
use crate::store::RevisionNumber;
use crate::syslog::Weight;

/// How late a revert may be.
const TICK: Duration = Duration::from_millis(500);
/// Between tries to tell whoever carries out plans what runs.
const AGAIN: Duration = Duration::from_secs(2);
/// How late a candidate goes that was idle for too long.
const SWEEP: Duration = Duration::from_mins(1);

impl<H: Hands> Agent<H> {
    /// Keeps the revision that waits.
    pub async fn confirm(
        &self,
        caller: &Caller,
        request: api::ConfirmRequest,
    ) -> Result<api::ConfirmReply, Refusal> {
        allowed(caller, Role::Admin)?;
        let _one_at_a_time = self.commits.lock().await;
        let who = caller.clone();
        let revision = self
            .with(move |records| {
                let now = records.now()?;
                let waiting = records.store.pending_confirmation(&now)?;
                let number = match (RevisionNumber::new(request.revision), waiting) {
                    (Some(number), _) => number,
                    (None, Some(waiting)) => waiting.revision,
                    (None, None) => {
                        return Err(Refusal::Malformed(
                            "no revision waits for a confirmation".to_owned(),
                        ));
                    }
                };
                let audit = audit_entry(&who, "confirm", &format!("revision {number}"));
                records.store.confirm(number, Some(&audit), &now)?;
                records.told(&audit, Weight::Notice, &now);
                Ok(number.get())
            })
            .await?;
        self.maintain();
        Ok(api::ConfirmReply { revision })
    }

    /// Goes back when a window is over or what is on trial fails, and keeps telling whoever carries out plans until
    /// they follow what runs; ends candidates that nobody uses. Ends never.
    pub async fn watch(&self) {
        self.begin().await;
        let mut swept: Option<Instant> = None;
        loop {
            tokio::time::sleep(TICK).await;
            if swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
                swept = Some(Instant::now());
                if let Err(error) = self.sweep().await {
                    tracing::warn!(%error, "idle candidates are kept");
                }
            }
            if let Err(error) = self.go_back_in_time().await {
                tracing::error!(%error, "cannot go back to the confirmed configuration");
                tokio::time::sleep(AGAIN).await;
            }
            if let Err(error) = self.catch_up().await {
                tracing::warn!(%error, "the gateway does not follow");
                tokio::time::sleep(AGAIN).await;
            }
            if let Err(error) = self.judge().await {
                tracing::error!(%error, "cannot go back to what was in place");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Ends candidates that nobody used for too long.
    pub(super) async fn sweep(&self) -> Result<(), Refusal> {
        self.with(|records| records.expire(&records.now()?)).await
    }

    /// Tells what runs again if it is not certain that it is followed.
    pub(super) async fn catch_up(&self) -> Result<(), Refusal> {
        if !self.behind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _one_at_a_time = self.commits.lock().await;
        // The commit that this waited for may have told.
        if !self.behind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let running = self.with(|records| Ok(records.running.clone())).await?;
        let number = running.number;
        match self.hands.follow(number.get(), &running.plan, false).await {
            Ok(_) => self.was_told(number.get()),
            Err(HandsError::Refused(reason)) if self.refused_late(number, &reason).await? => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.behind.store(false, Ordering::Relaxed);
        tracing::info!(revision = %number, "followed after all");
        Ok(())
    }

    /// Whoever carries out plans is told what runs. A revision that still waits goes on waiting only if it is followed
    /// already, that is, if nothing but this process began anew: a box that starts does so on the confirmed one.
    async fn begin(&self) {
        loop {
            match self.begin_once().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "the gateway does not follow yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(super) async fn begin_once(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.commits.lock().await;
        let followed = self.hands.standing().await?.revision;
        let running = self
            .with(move |records| {
                let now = records.now()?;
                if let Some(waiting) = records.store.pending_confirmation(&now)? {
                    if !waiting.remaining.is_zero() && waiting.revision.get() == followed {
                        records.run(waiting.revision)?;
                    } else {
                        let cause = format!(
                            "revision {} was not confirmed before the gateway started anew",
                            waiting.revision
                        );
                        let back = records.go_back(&cause, &now)?;
                        records.run(back.number)?;
                        tracing::warn!(cause, "went back");
                    }
                }
                Ok(records.running.clone())
            })
            .await?;
        self.let_in().await;
        self.hands
            .follow(running.number.get(), &running.plan, false)
            .await?;
        // Whatever happened while nobody watched is put right; what agrees is not touched.
        self.hands.resynchronise().await?;
        tracing::info!(revision = %running.number, "running");
        Ok(())
    }

    pub(super) async fn go_back_in_time(&self) -> Result<(), Refusal> {
        let over = |records: &mut super::Records| {
            let waiting = records.store.pending_confirmation(&records.now()?)?;
            Ok(waiting.filter(|waiting| waiting.remaining.is_zero()))
        };
        if self.with(over).await?.is_none() {
            return Ok(());
        }
        let _one_at_a_time = self.commits.lock().await;
        let back = self
            .with(move |records| {
                // Somebody may have confirmed or committed while this waited for its turn.
                let Some(waiting) = over(records)? else {
                    return Ok(None);
                };
                let cause = format!("revision {} was not confirmed in time", waiting.revision);
                tracing::warn!(cause, "going back");
                let now = records.now()?;
                let back = records.go_back(&cause, &now)?;
                let running = records.run(back.number)?.clone();
                Ok(Some((waiting.restore, running)))
            })
            .await?;
        if let Some((restored, back)) = back {
            self.try_below(restored, back.number);
            if let Err(causes) = self.apply(back.number.get(), &back.plan, None).await {
                tracing::error!(?causes, "the old configuration is not all in place");
            }
            self.maintain();
        }
        Ok(())
    }
}
