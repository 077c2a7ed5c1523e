//! The asking side of request/reply.
//!
//! ```text
//!  call() --> greeting (once a connection: version, incarnation)
//!         --> free lane --> nng context --> server
//!         <-- reply of this request's id, decoded
//! ```
//!
//! The connection is made and made again in the background by nng. nng's own repetition of requests is switched
//! off: a request goes out once, and if the connection breaks before the reply, the client greets whoever
//! answers next. The same incarnation is asked again with the same id and gives its first answer; another
//! incarnation is asked only if the request reads and nothing else, or if the first one cannot have got it.

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_model::bus::{self, refusal, reply};
use nng::options::Options;
use nng::options::protocol::reqrep::ResendTime;
use nng::{Context, Message, Protocol, Socket};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroize;

use crate::address::Address;
use crate::call::HELLO;
use crate::dialing::{Dialing, REDIAL};
use crate::incarnation::random_number;
use crate::lane::Lane;
use crate::wiped::Wiped;
use crate::{BusError, Call, CallError, MESSAGE_LIMIT, Undecodable, VERSION};

/// So many requests of one client are under way at a time; more wait their turn within their deadline.
const IN_FLIGHT: usize = 1024;

/// Tells a request from every other one that the server remembers.
///
/// Drawn by [`Client::draw_id`]. To ask with the id of a call that timed out is to ask for that call's answer:
/// the server does not carry the request out again, and no successor of that server is asked.
#[derive(Debug)]
pub struct RequestId {
    number: u64,
    /// The incarnation of the process that may have carried it out.
    may_be_at: Option<u64>,
}

/// Calls one process. Clones share the connection.
///
/// Make it after the process has dropped its privileges: nng's threads start with the first socket.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    carries_secrets: bool,
    next_id: AtomicU64,
    session: Mutex<Option<Session>>,
    /// Held while the greeting is under way, so that many callers wait for one.
    greeting: tokio::sync::Mutex<()>,
    turns: Semaphore,
    idle: Mutex<Vec<Wire>>,
    dialing: Dialing,
    /// After what uses it: fields are dropped in order.
    socket: Socket,
}

/// A lane with the nng context that it works for.
struct Wire {
    lane: Lane,
    context: Context,
}

/// Who is at the other end, as its greeting said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// Name of the process.
    pub process: String,
    /// Its process id.
    pub pid: u32,
    /// Another number than at the last look: it has restarted.
    pub incarnation: u64,
}

/// How a request on the wire ended, if not with a reply.
enum Broken {
    /// It never left: nobody is connected.
    Unsent,
    /// It left; no reply came before the deadline.
    Unanswered,
    /// It left; the connection broke.
    Reset,
    Failed(nng::Error),
}

impl Client {
    /// A client of the process that listens, or will listen, at `path`. It connects
    /// when that process is asked for the first time, and from then on again and again when it ends.
    pub fn new(path: &Path) -> Result<Self, BusError> {
        Self::open(path, false)
    }

    /// A client that overwrites each request and reply of its own in memory after use.
    ///
    /// nng keeps a copy of a request until its reply is there and frees it as it is; that copy cannot be
    /// reached from here.
    pub fn for_secrets(path: &Path) -> Result<Self, BusError> {
        Self::open(path, true)
    }

    fn open(path: &Path, carries_secrets: bool) -> Result<Self, BusError> {
        let address = Address::new(path)?;
        let (socket, dialing) = connect(&address).map_err(|error| address.failed(error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                address,
                carries_secrets,
                next_id: AtomicU64::new(random_number()),
                session: Mutex::new(None),
                greeting: tokio::sync::Mutex::new(()),
                turns: Semaphore::new(IN_FLIGHT),
                idle: Mutex::new(Vec::new()),
                dialing,
                socket,
            }),
        })
    }

    /// Sends a request and waits for its reply, `within` at most.
    pub async fn call<C: Call>(
        &self,
        request: &C,
        within: Duration,
    ) -> Result<C::Reply, CallError> {
        self.call_as(&mut self.draw_id(), request, within).await
    }

    /// The id of a request that may have to be repeated after [`CallError::TimedOut`].
    pub fn draw_id(&self) -> RequestId {
        RequestId {
            number: self.draw_number(),
            may_be_at: None,
        }
    }

    fn draw_number(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// As [`call`](Self::call), with an id drawn before. With the id of an earlier call of the same request the
    /// reply is the first one's.
    pub async fn call_as<C: Call>(
        &self,
        id: &mut RequestId,
        request: &C,
        within: Duration,
    ) -> Result<C::Reply, CallError> {
        let deadline = deadline_after(within);
        let method = C::METHOD;
        let size = request.encoded_len();
        if size > MESSAGE_LIMIT - ENVELOPE_ROOM {
            let limit = MESSAGE_LIMIT - ENVELOPE_ROOM;
            return Err(CallError::TooLarge {
                method,
                bytes: size,
                limit,
            });
        }
        let mut envelope = Envelope {
            request: bus::Request {
                id: id.number,
                method: method.to_owned(),
                body: request.encode_to_vec(),
                ..bus::Request::default()
            },
            wipe: self.inner.carries_secrets,
        };
        loop {
            let session = match self.greeted(method, deadline, within).await {
                Err(CallError::Unreachable { .. }) if id.may_be_at.is_some() => {
                    return Err(CallError::TimedOut { method, within });
                }
                session => session?,
            };
            let before = id.may_be_at;
            if before.is_some_and(|first| first != session.incarnation) && !C::READS_ONLY {
                return Err(CallError::Restarted { method });
            }
            envelope.request.incarnation = session.incarnation;
            // From here on, also if this future is dropped.
            id.may_be_at = Some(session.incarnation);
            let message = match self.exchange(&mut envelope, deadline).await {
                Ok(message) => message,
                Err(Broken::Reset) => {
                    self.forget(session.incarnation);
                    continue;
                }
                Err(Broken::Unsent) => {
                    id.may_be_at = before;
                    return Err(match before {
                        Some(_) => CallError::TimedOut { method, within },
                        None => self.unreachable(method),
                    });
                }
                Err(Broken::Unanswered) => return Err(CallError::TimedOut { method, within }),
                Err(Broken::Failed(source)) => return Err(CallError::Socket { method, source }),
            };
            match self.open_reply(method, id.number, message)? {
                reply::Outcome::Body(body) => {
                    let decoded = Wiped::new(body, self.inner.carries_secrets).decode();
                    return decoded.map_err(|error| CallError::Undecodable {
                        method,
                        reason: error.into(),
                    });
                }
                reply::Outcome::Refusal(refusal) if refusal.code() == refusal::Code::Restarted => {
                    // It reached a successor only, and was not carried out there.
                    id.may_be_at = before;
                    self.forget(session.incarnation);
                }
                reply::Outcome::Refusal(refusal) => {
                    return Err(CallError::Refused {
                        code: refusal.code(),
                        message: refusal.message,
                        method,
                    });
                }
            }
        }
    }

    /// Waits, `within` at most, until the process answers, and says who it is.
    ///
    /// Always asks: a process that has restarted since the last call is seen.
    pub async fn hello(&self, within: Duration) -> Result<Session, CallError> {
        if let Some(known) = self.session() {
            self.forget(known.incarnation);
        }
        self.greeted(HELLO, deadline_after(within), within).await
    }

    /// Who was there at the last greeting.
    pub fn session(&self) -> Option<Session> {
        self.inner
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn forget(&self, incarnation: u64) {
        let mut session = self
            .inner
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if session
            .as_ref()
            .is_some_and(|known| known.incarnation == incarnation)
        {
            *session = None;
        }
    }

    fn unreachable(&self, method: &'static str) -> CallError {
        CallError::Unreachable {
            method,
            path: self.inner.address.path().to_owned(),
        }
    }

    async fn greeted(
        &self,
        method: &'static str,
        deadline: Instant,
        within: Duration,
    ) -> Result<Session, CallError> {
        if let Some(session) = self.session() {
            return Ok(session);
        }
        let Ok(_turn) = timeout_at(deadline, self.inner.greeting.lock()).await else {
            return Err(self.unreachable(method));
        };
        loop {
            if let Some(session) = self.session() {
                return Ok(session);
            }
            let mut envelope = Envelope {
                request: bus::Request {
                    id: self.draw_number(),
                    method: HELLO.to_owned(),
                    body: bus::HelloRequest { version: VERSION }.encode_to_vec(),
                    ..bus::Request::default()
                },
                wipe: false,
            };
            let message = match self.exchange(&mut envelope, deadline).await {
                Ok(message) => message,
                Err(Broken::Reset) => continue,
                Err(Broken::Unsent) => return Err(self.unreachable(method)),
                Err(Broken::Unanswered) => return Err(CallError::TimedOut { method, within }),
                Err(Broken::Failed(source)) => return Err(CallError::Socket { method, source }),
            };
            let hello =
                match self.open_reply(HELLO, envelope.request.id, message)? {
                    reply::Outcome::Body(body) => bus::HelloReply::decode(body.as_slice())
                        .map_err(|error| CallError::Undecodable {
                            method: HELLO,
                            reason: error.into(),
                        })?,
                    reply::Outcome::Refusal(refusal) => {
                        return Err(CallError::Refused {
                            code: refusal.code(),
                            message: refusal.message,
                            method: HELLO,
                        });
                    }
                };
            if hello.version != VERSION {
                return Err(CallError::Version {
                    path: self.inner.address.path().to_owned(),
                    ours: VERSION,
                    theirs: hello.version,
                });
            }
            let session = Session {
                process: hello.process,
                pid: hello.pid,
                incarnation: hello.incarnation,
            };
            tracing::debug!(path = ?self.inner.address, ?session, "greeted");
            *self
                .inner
                .session
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
            return Ok(session);
        }
    }

    /// One request out, one message back.
    async fn exchange(
        &self,
        envelope: &mut Envelope,
        deadline: Instant,
    ) -> Result<Message, Broken> {
        let turn = timeout_at(deadline, self.inner.turns.acquire()).await;
        let _turn = match turn {
            Ok(Ok(turn)) => turn,
            Ok(Err(_closed)) => return Err(Broken::Failed(nng::Error::Closed)),
            Err(_elapsed) => return Err(Broken::Unsent),
        };
        let mut borrowed = self.borrow_wire().map_err(Broken::Failed)?;
        let Some(wire) = borrowed.wire.as_mut() else {
            return Err(Broken::Failed(nng::Error::Closed));
        };
        let left = deadline
            .saturating_duration_since(Instant::now())
            .as_millis();
        envelope.request.deadline_ms = u32::try_from(left).unwrap_or(u32::MAX);
        let message = envelope.to_message();
        let sending = wire.lane.send(&wire.context, message);
        match timeout_at(deadline, self.inner.with_connection(sending)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Broken::Failed(error)),
            // It may have left at the last moment.
            Err(_elapsed) if wire.lane.withdraw().await => return Err(Broken::Unsent),
            Err(_elapsed) => return Err(Broken::Unanswered),
        }
        match timeout_at(deadline, wire.lane.recv(&wire.context)).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(nng::Error::ConnectionReset)) => Err(Broken::Reset),
            Ok(Err(error)) => Err(Broken::Failed(error)),
            Err(_elapsed) => Err(Broken::Unanswered),
        }
    }

    fn open_reply(
        &self,
        method: &'static str,
        expected: u64,
        message: Message,
    ) -> Result<reply::Outcome, CallError> {
        let decoded =
            Wiped::from_message(message, self.inner.carries_secrets).decode::<bus::Reply>();
        let undecodable = |reason| CallError::Undecodable { method, reason };
        let reply = decoded.map_err(|error| undecodable(error.into()))?;
        match reply.outcome {
            None => Err(undecodable(Undecodable::NoOutcome)),
            // Who cannot read a request cannot tell its id either.
            Some(outcome @ reply::Outcome::Refusal(_)) if reply.id == 0 => Ok(outcome),
            Some(outcome) if reply.id == expected => Ok(outcome),
            Some(_) => Err(undecodable(Undecodable::AnotherRequest {
                expected,
                got: reply.id,
            })),
        }
    }

    fn borrow_wire(&self) -> Result<Borrowed<'_>, nng::Error> {
        let idle = self
            .inner
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let wire = match idle {
            Some(wire) => wire,
            None => Wire {
                lane: Lane::new()?,
                context: Context::new(&self.inner.socket)?,
            },
        };
        Ok(Borrowed {
            idle: &self.inner.idle,
            wire: Some(wire),
        })
    }
}

impl Inner {
    /// Waits for something that needs a connection, and sees to it that there is one.
    async fn with_connection<T>(&self, waiting: impl Future<Output = T>) -> T {
        let mut waiting = pin!(waiting);
        if let Err(error) = self.dialing.begin() {
            tracing::warn!(path = ?self.address, %error, "cannot dial");
        }
        loop {
            match timeout(REDIAL, &mut waiting).await {
                Ok(done) => return done,
                Err(_elapsed) => self.dialing.redial(),
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("path", &self.inner.address)
            .finish_non_exhaustive()
    }
}

/// What the envelope adds to a body: numbers, the method's name, lengths.
pub(crate) const ENVELOPE_ROOM: usize = 1024;

fn connect(address: &Address) -> Result<(Socket, Dialing), nng::Error> {
    let socket = Socket::new(Protocol::Req0)?;
    socket.set_opt::<ResendTime>(None)?;
    let dialing = Dialing::new(&socket, address)?;
    Ok((socket, dialing))
}

/// A wait without end is one of a year.
fn deadline_after(within: Duration) -> Instant {
    const YEAR: Duration = Duration::from_hours(365 * 24);
    Instant::now() + within.min(YEAR)
}

/// A wire on loan; it goes back however the call ends.
struct Borrowed<'a> {
    idle: &'a Mutex<Vec<Wire>>,
    wire: Option<Wire>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.lane.cancel();
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(wire);
        }
    }
}

/// A request that is overwritten when it is done with.
struct Envelope {
    request: bus::Request,
    wipe: bool,
}

impl Envelope {
    fn to_message(&self) -> Message {
        let mut encoded = self.request.encode_to_vec();
        let message = Message::from(encoded.as_slice());
        if self.wipe {
            encoded.zeroize();
        }
        message
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        if self.wipe {
            self.request.body.zeroize();
        }
    }
}
