//! The conversation with iked-bridge: calls go out, answers and upcalls come in, connections come and go.
//!
//! ```text
//!   charon thread ── call() ──> outbox ──> writer thread ══> bridge
//!        ▲                                                     ║
//!        └──────── answer ◄── pending ◄── reader thread ◄══════╝
//!                                              └── upcall ──> charon
//! ```
//!
//! A charon thread waits for its own answer only; any number of calls are under way. A call stays in `pending` until it
//! is answered or given up, so that a new connection begins with everything that is still open, oldest first, under the
//! ids it had: the bridge does nothing twice. A delete is never given up: charon is told that it worked and the bridge
//! hears of it whenever it is back.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_plugin_wire::{
    Acquire, Answer, Call, Expire, Hello, Mapping, PROTOCOL_VERSION, ToBridge, ToPlugin, WireError,
    encode, read_frame, write_frame,
};
use zeroize::Zeroizing;

/// How long a charon thread waits for an answer, a missing bridge's return included. IKE retransmits for longer, so a
/// bridge that restarts within it costs a negotiation nothing.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a query of counters may take. charon asks for them while it holds an IKE SA, and can do without.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between attempts to reach a bridge that is not there. Half of it is what a restart of the bridge costs on
/// average beyond the restart itself.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Longest silence of the bridge at the start of a connection, and longest time it may leave our bytes unread.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// Deletes remembered for a bridge that is away. It reconciles with charon's own list when it is back, so the oldest
/// may be dropped beyond this.
const MAX_REMEMBERED: usize = 65_536;

/// What the client calls when the bridge speaks of its own accord. Implemented by charon, and by a fake in the tests.
pub(crate) trait Daemon: Send + Sync + 'static {
    /// Traffic wants an SA.
    fn acquire(&self, acquire: &Acquire);
    /// An SA reached a limit.
    fn expire(&self, expire: &Expire);
    /// The peer moved.
    fn mapping(&self, mapping: &Mapping);
    /// A line for the log. Carries no secret.
    fn log(&self, line: &str);
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing within the time limit.
    #[error("no answer from iked-bridge")]
    Timeout,
    /// charon is on its way out.
    #[error("the plugin is closing")]
    Closing,
    /// The bridge is away, and the call does not wait for it.
    #[error("no connection to iked-bridge")]
    Away,
    /// The call does not fit into a message.
    #[error("the call is too long")]
    TooLong,
}

/// What happens to a call when the bridge is away, or does not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenAway {
    /// It waits for the bridge, up to [`CALL_TIMEOUT`], then fails.
    Wait,
    /// It fails at once.
    Fail,
    /// It is remembered and counts as done.
    Remember,
}

/// A call that has not been answered.
struct Pending {
    /// Encoded, keys and all; wiped with the last of its holders.
    frame: Arc<Zeroizing<Vec<u8>>>,
    answer: Option<Answer>,
    /// Nobody waits for the answer.
    remembered: bool,
}

#[derive(Default)]
struct State {
    last_id: u64,
    pending: BTreeMap<u64, Pending>,
    /// Ids to write to the connection there is.
    outbox: VecDeque<u64>,
    /// The socket there is, perhaps not yet greeted.
    stream: Option<Arc<UnixStream>>,
    /// The bridge has accepted the greeting.
    ready: bool,
    closing: bool,
}

/// One end of the socket to iked-bridge, for the life of charon.
pub(crate) struct Client {
    path: PathBuf,
    epoch: u64,
    version: &'static str,
    state: Mutex<State>,
    /// For those who wait for an answer, or for the connection to change.
    answered: Condvar,
    /// For the writer.
    outgoing: Condvar,
    /// For the pause between attempts to connect.
    stopped: Condvar,
    daemon: Arc<dyn Daemon>,
    /// Held while charon is called. Closed before charon's kernel interface goes away.
    upcalls_open: Mutex<bool>,
}

impl Client {
    /// A client that has not started. `epoch` tells one charon from the next.
    pub(crate) fn new(
        path: PathBuf,
        epoch: u64,
        version: &'static str,
        daemon: Arc<dyn Daemon>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path,
            epoch,
            version,
            state: Mutex::default(),
            answered: Condvar::new(),
            outgoing: Condvar::new(),
            stopped: Condvar::new(),
            daemon,
            upcalls_open: Mutex::new(true),
        })
    }

    /// Starts the two threads. The caller sees to their signal mask.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let reader = Arc::clone(self);
        std::thread::Builder::new()
            .name("culvert-read".into())
            .spawn(move || reader.run_reader())?;
        let writer = Arc::clone(self);
        std::thread::Builder::new()
            .name("culvert-write".into())
            .spawn(move || writer.run_writer())?;
        Ok(())
    }

    /// Makes a call and waits for its answer.
    pub(crate) fn call(
        &self,
        call: Call,
        limit: Duration,
        when_away: WhenAway,
    ) -> Result<Answer, CallError> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        if state.closing {
            return Err(CallError::Closing);
        }
        if !state.ready && when_away == WhenAway::Fail {
            return Err(CallError::Away);
        }
        state.last_id += 1;
        let id = state.last_id;
        let frame = encode(&ToBridge {
            id,
            call: Some(call),
        })
        .map_err(|_| CallError::TooLong)?;
        let pending = Pending {
            frame: Arc::new(frame),
            answer: None,
            remembered: false,
        };
        state.pending.insert(id, pending);
        if state.ready {
            state.outbox.push_back(id);
            self.outgoing.notify_one();
        }
        let failure = loop {
            if let Some(answer) = state
                .pending
                .get_mut(&id)
                .and_then(|pending| pending.answer.take())
            {
                state.pending.remove(&id);
                return Ok(answer);
            }
            if state.closing {
                break CallError::Closing;
            }
            if !state.ready && when_away != WhenAway::Wait {
                break CallError::Away;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break CallError::Timeout;
            }
            state = self
                .answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        if when_away == WhenAway::Remember {
            if let Some(pending) = state.pending.get_mut(&id) {
                pending.remembered = true;
            }
            state.forget_the_oldest();
            return Ok(Answer::done());
        }
        state.pending.remove(&id);
        Err(failure)
    }

    /// Ends the conversation. When this returns, charon is not called any more.
    pub(crate) fn close(&self) {
        *self
            .upcalls_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = false;
        let mut state = self.lock();
        state.closing = true;
        state.disconnect();
        self.answered.notify_all();
        self.outgoing.notify_all();
        self.stopped.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_reader(&self) {
        let mut complained = false;
        while !self.lock().closing {
            let error = match self.converse(&mut complained) {
                Ok(()) => return,
                Err(error) => error,
            };
            self.lock().disconnect();
            self.answered.notify_all();
            if !complained {
                complained = true;
                self.tell(|daemon| daemon.log(&format!("no session with iked-bridge: {error}")));
            }
            let state = self.lock();
            if !state.closing {
                drop(self.stopped.wait_timeout(state, RECONNECT_PAUSE));
            }
        }
    }

    /// One connection from its beginning to its end. Does not end well but when the plugin closes.
    fn converse(&self, complained: &mut bool) -> Result<(), SessionError> {
        let stream = Arc::new(UnixStream::connect(&self.path).map_err(SessionError::Connect)?);
        stream
            .set_read_timeout(Some(SOCKET_TIMEOUT))
            .map_err(SessionError::Connect)?;
        stream
            .set_write_timeout(Some(SOCKET_TIMEOUT))
            .map_err(SessionError::Connect)?;
        let hello_id = {
            let mut state = self.lock();
            if state.closing {
                return Ok(());
            }
            state.stream = Some(Arc::clone(&stream));
            state.last_id += 1;
            state.last_id
        };
        let hello = Call::Hello(Hello {
            epoch: self.epoch,
            pid: std::process::id(),
            protocol_version: PROTOCOL_VERSION,
            charon_version: self.version.to_owned(),
        });
        write_frame(
            &mut &*stream,
            &ToBridge {
                id: hello_id,
                call: Some(hello),
            },
        )?;
        loop {
            match read_frame::<ToPlugin>(&mut &*stream)? {
                ToPlugin {
                    id,
                    answer: Some(Answer::Done(_)),
                } if id == hello_id => break,
                ToPlugin {
                    id,
                    answer: Some(Answer::Failed(failed)),
                } if id == hello_id => {
                    return Err(SessionError::Refused(failed.message));
                }
                // An upcall of a bridge in a hurry would be lost on calls that it has not heard of yet.
                _ => {}
            }
        }
        stream
            .set_read_timeout(None)
            .map_err(SessionError::Connect)?;
        {
            let mut state = self.lock();
            state.ready = !state.closing;
            let open = state
                .pending
                .iter()
                .filter(|(_, pending)| pending.answer.is_none());
            state.outbox = open.map(|(id, _)| *id).collect();
            self.outgoing.notify_one();
        }
        *complained = false;
        self.tell(|daemon| daemon.log("session with iked-bridge is up"));
        loop {
            self.receive(read_frame(&mut &*stream)?);
        }
    }

    fn receive(&self, message: ToPlugin) {
        let ToPlugin {
            id,
            answer: Some(answer),
        } = message
        else {
            return;
        };
        if id == 0 {
            self.tell(|daemon| match &answer {
                Answer::Acquire(acquire) => daemon.acquire(acquire),
                Answer::Expire(expire) => daemon.expire(expire),
                Answer::Mapping(mapping) => daemon.mapping(mapping),
                Answer::Done(_) | Answer::Spi(_) | Answer::Usage(_) | Answer::Failed(_) => {}
            });
            return;
        }
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(&id) else {
            return;
        };
        if pending.remembered {
            state.pending.remove(&id);
        } else {
            pending.answer = Some(answer);
            self.answered.notify_all();
        }
    }

    fn run_writer(&self) {
        let mut state = self.lock();
        while !state.closing {
            let next = if state.ready {
                state.outbox.pop_front()
            } else {
                None
            };
            let Some(id) = next else {
                state = self
                    .outgoing
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (Some(pending), Some(stream)) = (state.pending.get(&id), &state.stream) else {
                continue;
            };
            let (frame, stream) = (Arc::clone(&pending.frame), Arc::clone(stream));
            drop(state);
            let written = io::Write::write_all(&mut &*stream, &frame);
            drop(frame);
            if written.is_err() {
                // The reader sees the end of the stream and begins anew; this call is still pending.
                let _ = stream.shutdown(Shutdown::Both);
            }
            state = self.lock();
        }
    }

    /// Calls charon, unless it is closing. A panic stays here: the session goes on.
    fn tell(&self, what: impl FnOnce(&dyn Daemon)) {
        let open = self
            .upcalls_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *open {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(&*self.daemon)));
        }
    }
}

impl State {
    fn disconnect(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.ready = false;
        self.outbox.clear();
    }

    fn forget_the_oldest(&mut self) {
        if self.pending.len() > MAX_REMEMBERED {
            let oldest = self
                .pending
                .iter()
                .find(|(_, pending)| pending.remembered)
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.pending.remove(&oldest);
            }
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("it refused the session: {0}")]
    Refused(String),
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
