//! The answering side of request/reply.
//!
//! ```text
//!  clients ==ipc==> nng contexts, one a request --> handler, a task of its own
//!                        ^  more are made as all         |
//!                        |  become busy                  v
//!                        +------- reply ------ remembered under the request's id
//! ```
//!
//! Whatever arrives is answered: bytes that are no request with `CODE_MALFORMED`, a method nobody handles with
//! `CODE_UNKNOWN_METHOD`, a handler that panics with `CODE_INTERNAL`, one that takes longer than the caller waits
//! with `CODE_DEADLINE`.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use culvert_model::bus::{self, refusal, reply};
use futures::FutureExt as _;
use nng::{Message, Protocol, Socket};
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroize;

use crate::address::Address;
use crate::answers::{Answers, Known};
use crate::call::HELLO;
use crate::door::{Door, Speaks};
use crate::lane::Lane;
use crate::router::{Answer, Context, Route, Router, refuse};
use crate::wiped::Wiped;
use crate::{BusError, Incarnation, MESSAGE_LIMIT, VERSION};

/// A handler that is still busy so long after its caller's deadline is stopped.
pub const GRACE: Duration = Duration::from_secs(30);

/// nng contexts to begin with.
const FIRST_LANES: usize = 8;

/// The most of them: requests that are answered at the same time. Further ones wait in their connections.
const LANES: usize = 1024;

/// A socket on which requests are answered; it listens from [`bind`](Self::bind) on and answers from
/// [`spawn`](Self::spawn) on.
#[derive(Debug)]
pub struct Server {
    door: Door,
    socket: Socket,
    incarnation: Incarnation,
    carries_secrets: bool,
    router: Router,
}

/// A server at work. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    incarnation: Incarnation,
    stop: CancellationToken,
    closer: Option<JoinHandle<()>>,
}

struct Desk {
    router: Router,
    incarnation: Incarnation,
    carries_secrets: bool,
    answers: Mutex<Answers>,
    stop: CancellationToken,
    tasks: TaskTracker,
    socket: Socket,
    lanes: AtomicUsize,
    /// Lanes that wait for a request.
    waiting: AtomicUsize,
}

impl Server {
    /// Listens at `path`, mode 0600. The socket file of a process that is gone is replaced; that of one that
    /// lives is refused.
    pub fn bind(path: &Path, router: Router) -> Result<Self, BusError> {
        Self::open(path, router, false)
    }

    /// As [`bind`](Self::bind); what was received is overwritten in memory after decoding.
    pub fn bind_for_secrets(path: &Path, router: Router) -> Result<Self, BusError> {
        Self::open(path, router, true)
    }

    fn open(path: &Path, router: Router, carries_secrets: bool) -> Result<Self, BusError> {
        let address = Address::new(path)?;
        let socket = Socket::new(Protocol::Rep0).map_err(|error| address.failed(error))?;
        let door = Door::open(&socket, address, Speaks::Rep)?;
        let incarnation = Incarnation::draw();
        Ok(Self {
            door,
            socket,
            incarnation,
            carries_secrets,
            router,
        })
    }

    /// Of this server; drawn when it was bound.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Begins to answer, in tasks of the current tokio runtime.
    pub fn spawn(self) -> Result<Running, BusError> {
        let door = self.door;
        if Handle::try_current().is_err() {
            let path = door.address().path().to_owned();
            return Err(BusError::NoRuntime { path });
        }
        let stop = CancellationToken::new();
        let desk = Arc::new(Desk {
            router: self.router,
            incarnation: self.incarnation,
            carries_secrets: self.carries_secrets,
            answers: Mutex::new(Answers::new()),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
            socket: self.socket,
            lanes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        for _ in 0..FIRST_LANES {
            desk.add_lane()
                .map_err(|error| door.address().failed(error))?;
        }
        let closer = tokio::spawn(close_when_stopped(desk, Arc::new(door)));
        Ok(Running {
            incarnation: self.incarnation,
            stop,
            closer: Some(closer),
        })
    }

    /// Answers until `stop`, then closes the socket.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BusError> {
        let running = self.spawn()?;
        stop.cancelled().await;
        running.stop().await;
        Ok(())
    }
}

impl Running {
    /// Of this server; drawn when it was bound.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Ends the handlers under way, closes the socket and removes its file.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(closer) = self.closer.take() {
            // Only a runtime that shuts down cancels it, and then it drops the socket.
            let _ = closer.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn close_when_stopped(desk: Arc<Desk>, door: Arc<Door>) {
    tokio::select! {
        () = desk.stop.cancelled() => {}
        () = door.keep() => {}
    }
    door.shut();
    desk.tasks.close();
    desk.tasks.wait().await;
    close(desk.socket.clone()).await;
}

/// Closing waits for nng's threads: not on a thread of tokio.
pub(crate) async fn close(socket: Socket) {
    let closed = tokio::task::spawn_blocking(move || socket.close()).await;
    if let Err(error) = closed {
        tracing::warn!(%error, "a socket did not close in order");
    }
}

impl Desk {
    fn add_lane(self: &Arc<Self>) -> Result<(), nng::Error> {
        let context = nng::Context::new(&self.socket)?;
        let lane = Lane::new()?;
        self.lanes.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let desk = Arc::clone(self);
        self.tasks
            .spawn(async move { desk.work(lane, context).await });
        Ok(())
    }

    /// One lane: a request at a time, until the server stops.
    async fn work(self: Arc<Self>, mut lane: Lane, context: nng::Context) {
        loop {
            let message = tokio::select! {
                () = self.stop.cancelled() => break,
                message = lane.recv(&context) => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(nng::Error::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "a request could not be received");
                    // It may not pass by itself; nothing here may spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1
                && self.lanes.load(Ordering::Relaxed) < LANES
                && let Err(error) = self.add_lane()
            {
                tracing::warn!(%error, "no further request can be taken at the same time");
            }
            let reply = tokio::select! {
                () = self.stop.cancelled() => break,
                reply = self.answer(message) => reply,
            };
            if let Err(error) = lane.send(&context, reply).await {
                tracing::debug!(%error, "a reply could not be sent");
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        lane.settle().await;
    }

    /// The message that answers a message, whatever that one holds.
    async fn answer(self: &Arc<Self>, message: Message) -> Message {
        let wipe = self.carries_secrets;
        let decoded = Wiped::from_message(message, wipe).decode::<bus::Request>();
        let (id, method, answer) = match decoded {
            Ok(mut request) => {
                let id = request.id;
                let body = Wiped::new(std::mem::take(&mut request.body), wipe);
                let answer = self.dispatch(&request, body).await;
                (id, std::mem::take(&mut request.method), answer)
            }
            Err(error) => {
                tracing::warn!(%error, "a message came that is no request");
                let text = format!("the message is no request: {error}");
                (
                    0,
                    String::new(),
                    Arc::new(Err(refuse(refusal::Code::Malformed, text))),
                )
            }
        };
        if let Err(refusal) = answer.as_ref() {
            tracing::debug!(id, %method, code = ?refusal.code(), message = %refusal.message, "refused");
        }
        self.seal(id, &method, &answer)
    }

    fn seal(&self, id: u64, method: &str, answer: &Answer) -> Message {
        let outcome = match answer {
            Ok(body) => reply::Outcome::Body(body.clone()),
            Err(refusal) => reply::Outcome::Refusal(refusal.clone()),
        };
        let mut envelope = bus::Reply {
            id,
            outcome: Some(outcome),
        };
        let bytes = envelope.encoded_len();
        if bytes > MESSAGE_LIMIT {
            tracing::warn!(method, bytes, "a reply is too large to be sent");
            let text =
                format!("the reply to {method} has {bytes} bytes; {MESSAGE_LIMIT} are allowed");
            let refusal = refuse(refusal::Code::Limit, text);
            envelope.outcome = Some(reply::Outcome::Refusal(refusal));
        }
        let mut encoded = envelope.encode_to_vec();
        let message = Message::from(encoded.as_slice());
        if self.carries_secrets {
            encoded.zeroize();
            if let Some(reply::Outcome::Body(body)) = envelope.outcome.as_mut() {
                body.zeroize();
            }
        }
        message
    }

    async fn dispatch(self: &Arc<Self>, request: &bus::Request, body: Wiped) -> Arc<Answer> {
        let id = request.id;
        let refused = |code, text: String| Arc::new(Err(refuse(code, text)));
        if request.method == HELLO {
            return Arc::new(self.greet(&body));
        }
        let Some(route) = self.router.route(&request.method) else {
            let text = format!(
                "{} has no method {:?}",
                self.router.process(),
                request.method
            );
            return refused(refusal::Code::UnknownMethod, text);
        };
        if request.incarnation != self.incarnation.get() {
            let text = format!(
                "{} is not the process this was meant for",
                self.router.process()
            );
            return refused(refusal::Code::Restarted, text);
        }
        let deadline = Instant::now() + Duration::from_millis(u64::from(request.deadline_ms));
        let context = Context { id, deadline };
        let too_late = || {
            let text = format!(
                "{} is not done after {} ms",
                request.method, request.deadline_ms
            );
            refused(refusal::Code::Deadline, text)
        };
        if route.reads_only {
            let work = Work(tokio::spawn(self.carry_out(route, body, context)));
            return match timeout_at(deadline, work).await {
                Ok(answer) => Arc::new(answer),
                Err(_elapsed) => too_late(),
            };
        }
        let pending = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let fingerprint = answers.fingerprint(&request.method, body.as_slice());
            match answers.look_up(id, fingerprint, now) {
                Known::Before(pending) => pending,
                Known::Clash => {
                    let text = format!("id {id} was that of another request");
                    return refused(refusal::Code::Malformed, text);
                }
                Known::No if !answers.make_room() => {
                    let text = format!("{} has too much to do", self.router.process());
                    return refused(refusal::Code::Limit, text);
                }
                Known::No => {
                    let work = Work(tokio::spawn(self.carry_out(route, body, context)));
                    let pending = work.map(Arc::new).boxed().shared();
                    answers.remember(id, fingerprint, pending.clone(), now);
                    pending
                }
            }
        };
        match timeout_at(deadline, pending).await {
            Ok(answer) => answer,
            Err(_elapsed) => too_late(),
        }
    }

    /// The work of one handler, whatever becomes of the one who asked.
    fn carry_out(
        self: &Arc<Self>,
        route: &Route,
        body: Wiped,
        context: Context,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let desk = Arc::clone(self);
        let handler = Arc::clone(&route.handler);
        let reads_only = route.reads_only;
        async move {
            let work = AssertUnwindSafe(async move { handler(body, context).await });
            let answer = tokio::select! {
                () = desk.stop.cancelled() => Err(refuse(refusal::Code::Unavailable, "stopping")),
                ended = timeout_at(context.deadline + GRACE, work.catch_unwind()) => match ended {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_panic)) => Err(refuse(refusal::Code::Internal, "the handler failed")),
                    Err(_elapsed) => Err(refuse(refusal::Code::Deadline, "the handler was stopped")),
                },
            };
            if !reads_only {
                let mut answers = desk.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.finished(context.id, &answer);
            }
            answer
        }
    }

    fn greet(&self, body: &Wiped) -> Answer {
        let hello = body.decode::<bus::HelloRequest>().map_err(|error| {
            refuse(
                refusal::Code::Malformed,
                format!("the greeting does not decode: {error}"),
            )
        })?;
        if hello.version != VERSION {
            tracing::warn!(
                theirs = hello.version,
                ours = VERSION,
                "a client of another bus version"
            );
        }
        let reply = bus::HelloReply {
            version: VERSION,
            process: self.router.process().to_owned(),
            pid: std::process::id(),
            incarnation: self.incarnation.get(),
        };
        Ok(reply.encode_to_vec())
    }
}

/// A task whose result nobody can ask for any more is stopped.
struct Work(JoinHandle<Answer>);

impl Future for Work {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, waker: &mut task::Context<'_>) -> Poll<Answer> {
        self.0.poll_unpin(waker).map(|ended| {
            // Panics are caught inside; what is left is a runtime that shuts down.
            ended.unwrap_or_else(|_| Err(refuse(refusal::Code::Unavailable, "stopping")))
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}
