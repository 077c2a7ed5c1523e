//! What mgmt asks of `culvert run`: to follow a plan, and how far it is.
//!
//! ```text
//!   mgmt --SetPlan, SetPlan ... last--> [assembly] --> Asked::Follow --> the loop --> what it restarts, or why not
//!        --ShowPlan------------------------------------> Asked::Show --> the loop --> what is not as planned
//! ```
//!
//! Plans hold keys: they come by a socket for secrets.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_bus::{BusError, Router, Running, Server, refuse};
use culvert_model::bus::{
    Refusal, SetPlanReply, SetPlanRequest, ShowPlanReply, ShowPlanRequest, refusal,
};
use culvert_model::plan::{Assembled, Assembly};
use tokio::sync::oneshot;

/// What the loop is asked.
#[derive(Debug)]
pub enum Asked {
    /// Follow a plan from now on, or only say whether it could be followed.
    Follow {
        /// Whole.
        plan: Assembled,
        /// The processes that it restarts, or why it cannot be followed.
        answer: oneshot::Sender<Result<Vec<String>, String>>,
    },
    /// Say how far the parts are.
    Show {
        /// All of it.
        answer: oneshot::Sender<ShowPlanReply>,
    },
}

/// Answers mgmt; what it asks is handed to `ask`, which says whether anybody listens.
pub fn serve<F>(path: &Path, ask: F) -> Result<Running, BusError>
where
    F: Fn(Asked) -> bool + Clone + Send + Sync + 'static,
{
    let assembly = Arc::new(Mutex::new(Assembly::default()));
    let follow = ask.clone();
    let router = Router::new("run")
        .on(move |request: SetPlanRequest, _context| {
            let (assembly, ask) = (Arc::clone(&assembly), follow.clone());
            async move { set_plan(&assembly, &ask, request).await }
        })
        .on(move |_: ShowPlanRequest, _context| {
            let ask = ask.clone();
            async move { show_plan(&ask).await }
        });
    Server::bind_for_secrets(path, router)?.spawn()
}

async fn set_plan(
    assembly: &Mutex<Assembly>,
    ask: &impl Fn(Asked) -> bool,
    request: SetPlanRequest,
) -> Result<SetPlanReply, Refusal> {
    let taken = assembly
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(request)
        .map_err(|error| refuse(refusal::Code::Malformed, error.to_string()))?;
    let Some(plan) = taken else {
        return Ok(SetPlanReply::default());
    };
    let (answer, receiver) = oneshot::channel();
    match asked(ask, Asked::Follow { plan, answer }, receiver).await? {
        Ok(restarts) => Ok(SetPlanReply { restarts }),
        Err(reason) => Err(refuse(refusal::Code::Unsupported, reason)),
    }
}

async fn show_plan(ask: &impl Fn(Asked) -> bool) -> Result<ShowPlanReply, Refusal> {
    let (answer, receiver) = oneshot::channel();
    asked(ask, Asked::Show { answer }, receiver).await
}

async fn asked<T>(
    ask: &impl Fn(Asked) -> bool,
    what: Asked,
    answer: oneshot::Receiver<T>,
) -> Result<T, Refusal> {
    let stopping = || refuse(refusal::Code::Unavailable, "the gateway is stopping");
    if !ask(what) {
        return Err(stopping());
    }
    answer.await.map_err(|_| stopping())
}
