//! What carries out a plan: `culvert run`, over the bus.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_bus::{BusError, CallError, Client};
use culvert_model::bus::{
    ResynchroniseRequest, SetPlanReply, SetPlanRequest, ShowGraphReply, ShowGraphRequest,
    ShowPlanReply, ShowPlanRequest, ShowTransactionsRequest, Transaction, refusal,
};
use culvert_model::plan::{Base, Plan, pieces};

/// Taking a full table in, and moving NICs.
const TAKE: Duration = Duration::from_secs(30);
/// A short question.
const ASK: Duration = Duration::from_secs(5);

/// Why a plan is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// The machine does not have what it asks for.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers, or not in time: what became of it is not known.
    #[error("the gateway does not answer: {0}")]
    Away(String),
}

/// Carries out plans.
pub trait Hands: Send + Sync + 'static {
    /// Follows a plan from now on, or with `check` only says whether it could; gives the processes that it restarts.
    fn follow(
        &self,
        revision: u64,
        plan: &Arc<Plan>,
        check: bool,
    ) -> impl Future<Output = Result<Vec<String>, HandsError>> + Send;

    /// How far it is.
    fn standing(&self) -> impl Future<Output = Result<ShowPlanReply, HandsError>> + Send;

    /// Asks the parts what they hold, and puts right what differs.
    fn resynchronise(&self) -> impl Future<Output = Result<(), HandsError>> + Send;

    /// What was done, and why, newest first; 0: all that is remembered.
    fn transactions(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Transaction>, HandsError>> + Send;

    /// Values with what they depend on.
    fn graph(
        &self,
        prefix: &str,
        limit: u32,
    ) -> impl Future<Output = Result<ShowGraphReply, HandsError>> + Send;
}

/// `culvert run`.
pub struct Run {
    client: Client,
    /// What it follows: the next plan is told as the difference to it.
    told: Mutex<Option<Base>>,
}

impl Run {
    /// By its socket; it need not listen yet.
    pub fn new(path: &Path) -> Result<Self, BusError> {
        Ok(Self {
            client: Client::for_secrets(path)?,
            told: Mutex::new(None),
        })
    }

    fn told(&self) -> MutexGuard<'_, Option<Base>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, pieces: Vec<SetPlanRequest>) -> Result<SetPlanReply, CallError> {
        let mut reply = SetPlanReply::default();
        for piece in pieces {
            reply = self.client.call(&piece, TAKE).await?;
        }
        Ok(reply)
    }
}

impl Hands for Run {
    async fn follow(
        &self,
        revision: u64,
        plan: &Arc<Plan>,
        check: bool,
    ) -> Result<Vec<String>, HandsError> {
        // Whatever becomes of a plan that is to be followed: without an answer its number is not known.
        let mut base = self.told().take();
        let mut outcome = self
            .send(pieces(plan, base.as_ref(), revision, check))
            .await;
        if base.is_some() && outcome.as_ref().is_err_and(has_another_base) {
            base = None;
            outcome = self.send(pieces(plan, None, revision, check)).await;
        }
        if check {
            // Nothing has changed there.
            *self.told() = base;
        } else if let Ok(reply) = &outcome {
            *self.told() = Some(Base {
                number: reply.number,
                plan: Arc::clone(plan),
            });
        }
        outcome.map(|reply| reply.restarts).map_err(error)
    }

    async fn standing(&self) -> Result<ShowPlanReply, HandsError> {
        self.client
            .call(&ShowPlanRequest {}, ASK)
            .await
            .map_err(error)
    }

    async fn resynchronise(&self) -> Result<(), HandsError> {
        let asked = self.client.call(&ResynchroniseRequest {}, ASK).await;
        asked.map(|_| ()).map_err(error)
    }

    async fn transactions(&self, limit: u32) -> Result<Vec<Transaction>, HandsError> {
        let request = ShowTransactionsRequest { limit };
        let reply = self.client.call(&request, ASK).await.map_err(error)?;
        Ok(reply.transactions)
    }

    async fn graph(&self, prefix: &str, limit: u32) -> Result<ShowGraphReply, HandsError> {
        let request = ShowGraphRequest {
            prefix: prefix.to_owned(),
            limit,
        };
        self.client.call(&request, ASK).await.map_err(error)
    }
}

/// It began anew.
fn has_another_base(error: &CallError) -> bool {
    matches!(error, CallError::Refused { code, .. } if *code == refusal::Code::NotFound)
}

fn error(error: CallError) -> HandsError {
    match error {
        CallError::Refused { code, message, .. }
            if code == refusal::Code::Unsupported || code == refusal::Code::Malformed =>
        {
            HandsError::Refused(message)
        }
        other => HandsError::Away(other.to_string()),
    }
}
