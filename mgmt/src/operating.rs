//! The northbound service of the gateway itself: what it does, and what it is told to do, by whoever is known and may.
//!
//! ```text
//!   read-only   show, logs, ping, traceroute
//!   operator    clear, restart, capture, trace: they change what passes, or show what people say to each other
//! ```
//!
//! What changes something is in the audit trail, and so is who was refused. What is told bit by bit goes by an
//! [`Outlet`]: readers who are slow, gone or many keep nothing and nobody.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use culvert_bus::CallError;
use culvert_mgmt_api::Gateway;
use culvert_model::api;
use culvert_model::bus::refusal;
use tonic::{Code, Request, Response, Status};

use crate::agent::{Agent, Caller, Hands, Role};
use crate::observe::log::{LogError, MOST_LINES, Tail};
use crate::observe::outlet::{Outlet, Place, Places, Replies};
use crate::observe::probing::{Asking, Seeking};
use crate::observe::{ObserveError, Observer};
use crate::service::{caller_of, status as refused};

/// Lines of a log unless more are asked for.
const LINES: u32 = 20;
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(250);
/// Of one reply.
const LINES_TOLD: usize = 200;

/// Serves what is observed to whom the agent knows.
pub struct Operating<H> {
    agent: Arc<Agent<H>>,
    observer: Arc<Observer>,
    places: Places,
}

impl<H: Hands> Operating<H> {
    /// Of this agent's gateway.
    pub fn new(agent: Arc<Agent<H>>, observer: Arc<Observer>, places: Places) -> Self {
        Self {
            agent,
            observer,
            places,
        }
    }

    /// Who asks for what, if they may.
    async fn allowed<T>(
        &self,
        request: Request<T>,
        takes: Role,
        what: impl FnOnce(&T) -> String,
    ) -> Result<(Caller, String, T), Status> {
        let (caller, request) = caller_of(&self.agent, request).await?;
        let what = what(&request);
        self.agent
            .may(&caller, takes, &what)
            .await
            .map_err(|refusal| refused(&refusal))?;
        Ok((caller, what, request))
    }

    fn place(&self, caller: &Caller) -> Result<Place, Status> {
        self.places.take(&caller.name).ok_or_else(|| {
            Status::resource_exhausted("too much is being watched at a time: end something first")
        })
    }

    /// Does something to the gateway, and writes down what came of it.
    async fn effect<T>(
        &self,
        caller: &Caller,
        what: String,
        work: impl Future<Output = Result<T, ObserveError>>,
    ) -> Result<T, Status> {
        let outcome = work.await;
        let result = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        self.agent.note(caller, &what, result).await;
        outcome.map_err(|error| status(&error))
    }
}

#[tonic::async_trait]
impl<H: Hands> Gateway for Operating<H> {
    async fn show(
        &self,
        request: Request<api::ShowRequest>,
    ) -> Result<Response<api::ShowReply>, Status> {
        let (_, request) = caller_of(&self.agent, request).await?;
        let reply = self.observer.show(&request).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    type ReadLogStream = Replies<api::ReadLogReply>;

    async fn read_log(
        &self,
        request: Request<api::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let (caller, request) = caller_of(&self.agent, request).await?;
        let (outlet, replies) = Outlet::new(self.place(&caller)?);
        let tails = self
            .observer
            .logs()
            .open(&request.process)
            .map_err(|error| of_log(&error))?;
        // It waits for disks, and between two looks.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_logs(tails, &request, &outlet) {
                outlet.fail_blocking(of_log(&error));
            }
        });
        Ok(Response::new(replies))
    }

    type PingStream = Replies<api::PingReply>;

    async fn ping(
        &self,
        request: Request<api::PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        let (caller, request) = caller_of(&self.agent, request).await?;
        let (outlet, replies) = Outlet::new(self.place(&caller)?);
        let ping = Asking::of(&request).map_err(|error| status(&error))?;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = ping.run(&outlet) {
                outlet.fail_blocking(status(&error));
            }
        });
        Ok(Response::new(replies))
    }

    type TracerouteStream = Replies<api::TracerouteReply>;

    async fn traceroute(
        &self,
        request: Request<api::TracerouteRequest>,
    ) -> Result<Response<Self::TracerouteStream>, Status> {
        let (caller, request) = caller_of(&self.agent, request).await?;
        let (outlet, replies) = Outlet::new(self.place(&caller)?);
        let way = Seeking::of(&request).map_err(|error| status(&error))?;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = way.run(&outlet) {
                outlet.fail_blocking(status(&error));
            }
        });
        Ok(Response::new(replies))
    }

    type CaptureStream = Replies<api::CaptureReply>;

    async fn capture(
        &self,
        request: Request<api::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let (caller, what, request) = self.allowed(request, Role::Operator, captured).await?;
        let (outlet, replies) = Outlet::new(self.place(&caller)?);
        let begun = self.observer.start_capture(request);
        let capture = self.effect(&caller, what, begun).await?;
        let observer = Arc::clone(&self.observer);
        tokio::spawn(async move {
            if let Err(error) = observer.record(capture, &outlet).await {
                outlet.fail(status(&error)).await;
            }
        });
        Ok(Response::new(replies))
    }

    type TraceStream = Replies<api::TraceReply>;

    async fn trace(
        &self,
        request: Request<api::TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        let what = |request: &api::TraceRequest| format!("trace {:?}", request.filter);
        let (caller, what, request) = self.allowed(request, Role::Operator, what).await?;
        let (outlet, replies) = Outlet::new(self.place(&caller)?);
        let begun = self.observer.start_trace(request);
        let trace = self.effect(&caller, what, begun).await?;
        let observer = Arc::clone(&self.observer);
        tokio::spawn(async move {
            if let Err(error) = observer.follow(trace, &outlet).await {
                outlet.fail(status(&error)).await;
            }
        });
        Ok(Response::new(replies))
    }

    async fn clear(
        &self,
        request: Request<api::ClearRequest>,
    ) -> Result<Response<api::ClearReply>, Status> {
        let (caller, what, request) = self.allowed(request, Role::Operator, cleared).await?;
        let work = self.observer.clear(&request);
        let matches = self.effect(&caller, what, work).await?;
        Ok(Response::new(api::ClearReply { matches }))
    }

    async fn restart(
        &self,
        request: Request<api::RestartRequest>,
    ) -> Result<Response<api::RestartReply>, Status> {
        let what = |request: &api::RestartRequest| format!("restart {:?}", request.process);
        let (caller, what, request) = self.allowed(request, Role::Operator, what).await?;
        // Before: it may be this process that ends.
        self.agent.note(&caller, &what, "begun".to_owned()).await;
        let work = self.observer.restart(&request.process);
        self.effect(&caller, what, work).await?;
        Ok(Response::new(api::RestartReply {}))
    }
}

/// As the audit trail has it.
fn captured(request: &api::CaptureRequest) -> String {
    use api::capture_request::Point;
    let point = match &request.point {
        Some(Point::Interface(name)) => format!("interface {name:?}"),
        Some(Point::Node(name)) => format!("node {name:?}"),
        Some(Point::Drops(_)) => "drops".to_owned(),
        None => "nothing".to_owned(),
    };
    format!("capture {point} {:?}", request.filter)
}

fn cleared(request: &api::ClearRequest) -> String {
    use api::clear_request::What;
    match &request.what {
        Some(What::Counters(which)) => {
            let parts = [
                (which.interfaces, " interfaces"),
                (which.drops, " drops"),
                (which.nodes, " nodes"),
                (which.tunnels, " tunnels"),
            ];
            let named = parts.iter().filter(|(named, _)| *named);
            named.fold("clear counters".to_owned(), |text, (_, part)| text + part)
        }
        Some(What::Neighbours(which)) => {
            format!("clear neighbours {:?} {:?}", which.interface, which.address)
        }
        Some(What::Ike(name)) => format!("clear ike {name:?}"),
        Some(What::Ipsec(name)) => format!("clear ipsec {name:?}"),
        None => "clear nothing".to_owned(),
    }
}

/// The end of logs, and what comes to them.
fn read_logs(
    mut tails: Vec<Tail>,
    request: &api::ReadLogRequest,
    outlet: &Outlet<api::ReadLogReply>,
) -> Result<(), LogError> {
    let last = match request.last {
        0 => LINES,
        last => last.min(MOST_LINES),
    };
    let mut first = true;
    while !outlet.is_closed() {
        let mut lines = Vec::new();
        for tail in &mut tails {
            let texts = if first {
                tail.last(last as usize)?
            } else {
                tail.more()?
            };
            lines.extend(texts.into_iter().map(|text| api::LogLine {
                process: tail.name.clone(),
                text,
            }));
        }
        // Of several logs: in the order of the times with which lines begin.
        if tails.len() > 1 {
            lines.sort_by(|one, two| moment(&one.text).cmp(moment(&two.text)));
            if first {
                lines.drain(..lines.len().saturating_sub(last as usize));
            }
        }
        let mut lines = lines.into_iter().peekable();
        while lines.peek().is_some() {
            let reply = api::ReadLogReply {
                lines: lines.by_ref().take(LINES_TOLD).collect(),
            };
            if !outlet.tell_blocking(reply) {
                return Ok(());
            }
        }
        if !request.follow {
            return Ok(());
        }
        first = false;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The time with which a line begins, to the second: `2026-11-21T16:15:44`.
fn moment(line: &str) -> &str {
    line.get(..19).unwrap_or(line)
}

fn of_log(error: &LogError) -> Status {
    let code = match error {
        LogError::Unknown { .. } => Code::NotFound,
        LogError::Read { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn status(error: &ObserveError) -> Status {
    let code = match error {
        ObserveError::Question(_) => Code::InvalidArgument,
        ObserveError::Busy => Code::ResourceExhausted,
        ObserveError::Echo(_) => Code::FailedPrecondition,
        ObserveError::Name { .. } => Code::NotFound,
        ObserveError::Call { source, .. } => match source {
            CallError::Refused { code, message, .. } => {
                return Status::new(code_of(*code), message.clone());
            }
            _ => Code::Unavailable,
        },
    };
    Status::new(code, error.to_string())
}

fn code_of(code: refusal::Code) -> Code {
    match code {
        refusal::Code::Malformed => Code::InvalidArgument,
        refusal::Code::NotFound => Code::NotFound,
        refusal::Code::Exists => Code::AlreadyExists,
        refusal::Code::Unsupported => Code::FailedPrecondition,
        refusal::Code::Limit => Code::ResourceExhausted,
        refusal::Code::Internal | refusal::Code::Unspecified => Code::Internal,
        refusal::Code::Unavailable
        | refusal::Code::Deadline
        | refusal::Code::Restarted
        | refusal::Code::Version
        | refusal::Code::UnknownMethod => Code::Unavailable,
    }
}
