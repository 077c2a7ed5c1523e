//! What mgmt asks of `culvert run`: to follow a plan, how far it is, who runs, and to restart a process.
//!
//! ```text
//!   mgmt --SetPlan, SetPlan ... last--> [assembly] --> Asked::Follow --> the loop --> what it restarts, or why not
//!        --ShowPlan------------------------------------> Asked::Show --> the loop --> what is not as planned
//!        --Resynchronise, ShowTransactions, ShowGraph--> Asked::... ---> the loop
//!        --ShowProcesses-------------------------------> Asked::Processes --> the loop --> who runs
//!        --ShowClock-----------------------------------> Asked::Clock --> the loop --> a task that asks chronyd
//!        --RestartProcess------------------------------> Asked::Restart --> the loop --> the supervisor
//! ```
//!
//! Plans hold keys: they come by a socket for secrets.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_bus::{BusError, Router, Running, Server, refuse};
use culvert_model::bus::{
    Refusal, RestartProcessReply, RestartProcessRequest, ResynchroniseReply, ResynchroniseRequest,
    SetPlanReply, SetPlanRequest, ShowClockReply, ShowClockRequest, ShowGraphReply,
    ShowGraphRequest, ShowPlanReply, ShowPlanRequest, ShowProcessesReply, ShowProcessesRequest,
    ShowTransactionsReply, ShowTransactionsRequest, refusal,
};
use culvert_model::plan::{Assembled, Assembly, PieceError};
use tokio::sync::oneshot;

use super::supervisor::Process;

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
    /// Ask all parts what they hold, and put right what differs.
    Resynchronise {
        /// That it has begun.
        answer: oneshot::Sender<ResynchroniseReply>,
    },
    /// Say what was done.
    Transactions {
        /// At most so many.
        limit: usize,
        /// Newest first.
        answer: oneshot::Sender<ShowTransactionsReply>,
    },
    /// Draw the values and what they depend on.
    Graph {
        /// Of their keys.
        prefix: String,
        /// At most so many.
        limit: usize,
        /// The drawing.
        answer: oneshot::Sender<ShowGraphReply>,
    },
    /// Say who runs.
    Processes {
        /// All of them.
        answer: oneshot::Sender<ShowProcessesReply>,
    },
    /// Say how the clock stands.
    Clock {
        /// All of it, or why that is not known.
        answer: oneshot::Sender<Result<ShowClockReply, String>>,
    },
    /// End a process and start it again.
    Restart {
        /// Which.
        process: Process,
        /// It was told to end, or why not.
        answer: oneshot::Sender<Result<(), String>>,
    },
}

/// Answers mgmt; what it asks is handed to `ask`, which says whether anybody listens.
pub fn serve<F>(path: &Path, ask: F) -> Result<Running, BusError>
where
    F: Fn(Asked) -> bool + Clone + Send + Sync + 'static,
{
    let assembly = Arc::new(Mutex::new(Assembly::new()));
    let follow = ask.clone();
    let router = Router::new("run")
        .on(move |request: SetPlanRequest, _context| {
            let (assembly, ask) = (Arc::clone(&assembly), follow.clone());
            async move { set_plan(&assembly, &ask, request).await }
        })
        .on({
            let ask = ask.clone();
            move |_: ShowPlanRequest, _context| {
                let ask = ask.clone();
                async move {
                    let (answer, receiver) = oneshot::channel();
                    asked(&ask, Asked::Show { answer }, receiver).await
                }
            }
        })
        .on({
            let ask = ask.clone();
            move |_: ResynchroniseRequest, _context| {
                let ask = ask.clone();
                async move {
                    let (answer, receiver) = oneshot::channel();
                    asked(&ask, Asked::Resynchronise { answer }, receiver).await
                }
            }
        })
        .on({
            let ask = ask.clone();
            move |request: ShowTransactionsRequest, _context| {
                let ask = ask.clone();
                async move {
                    let (answer, receiver) = oneshot::channel();
                    let limit = most(request.limit);
                    asked(&ask, Asked::Transactions { limit, answer }, receiver).await
                }
            }
        })
        .on({
            let ask = ask.clone();
            move |request: ShowGraphRequest, _context| {
                let ask = ask.clone();
                async move {
                    let (answer, receiver) = oneshot::channel();
                    let what = Asked::Graph {
                        prefix: request.prefix,
                        limit: most(request.limit),
                        answer,
                    };
                    asked(&ask, what, receiver).await
                }
            }
        })
        .on({
            let ask = ask.clone();
            move |_: ShowProcessesRequest, _context| {
                let ask = ask.clone();
                async move { show_processes(&ask).await }
            }
        })
        .on({
            let ask = ask.clone();
            move |_: ShowClockRequest, _context| {
                let ask = ask.clone();
                async move {
                    let (answer, receiver) = oneshot::channel();
                    let clock = asked(&ask, Asked::Clock { answer }, receiver).await?;
                    clock.map_err(|reason| refuse(refusal::Code::Unavailable, reason))
                }
            }
        })
        .on(move |request: RestartProcessRequest, _context| {
            let ask = ask.clone();
            async move { restart(&ask, &request).await }
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
        .map_err(|error| {
            let code = match error {
                PieceError::UnknownBase { .. } => refusal::Code::NotFound,
                _ => refusal::Code::Malformed,
            };
            refuse(code, error.to_string())
        })?;
    let Some(plan) = taken else {
        return Ok(SetPlanReply::default());
    };
    let number = plan.number;
    let (answer, receiver) = oneshot::channel();
    match asked(ask, Asked::Follow { plan, answer }, receiver).await? {
        Ok(restarts) => Ok(SetPlanReply { restarts, number }),
        Err(reason) => Err(refuse(refusal::Code::Unsupported, reason)),
    }
}

/// 0 stands for no limit of the one who asks.
fn most(limit: u32) -> usize {
    match limit {
        0 => usize::MAX,
        limit => limit as usize,
    }
}

async fn show_processes(ask: &impl Fn(Asked) -> bool) -> Result<ShowProcessesReply, Refusal> {
    let (answer, receiver) = oneshot::channel();
    asked(ask, Asked::Processes { answer }, receiver).await
}

async fn restart(
    ask: &impl Fn(Asked) -> bool,
    request: &RestartProcessRequest,
) -> Result<RestartProcessReply, Refusal> {
    let named = Process::ALL
        .into_iter()
        .find(|process| process.name() == request.process);
    let process = named.ok_or_else(|| {
        let reason = format!("there is no process {:?}", request.process);
        refuse(refusal::Code::NotFound, reason)
    })?;
    let (answer, receiver) = oneshot::channel();
    match asked(ask, Asked::Restart { process, answer }, receiver).await? {
        Ok(()) => Ok(RestartProcessReply {}),
        Err(reason) => Err(refuse(refusal::Code::Unsupported, reason)),
    }
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
