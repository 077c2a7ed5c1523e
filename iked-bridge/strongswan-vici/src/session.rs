//! Commands: [`Session`] is one connection, [`Vici`] as many as are needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::connection::Connection;
use crate::error::ViciError;
use crate::message::Message;
use crate::packet::{Incoming, Outgoing};

/// How long a command may take when the caller sets nothing else: long enough for a charon that sets up thousands of
/// tunnels, short enough that a hung one is noticed.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections kept open for the next command.
const MAX_IDLE: usize = 4;

/// One connection for commands, one command at a time.
pub struct Session {
    connection: Connection,
    /// A command was sent and its answer has not been read.
    in_flight: bool,
}

impl Session {
    /// Connects to charon's VICI socket.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ViciError> {
        Ok(Self {
            connection: Connection::open(path.as_ref()).await?,
            in_flight: false,
        })
    }

    /// Sends a command and waits for its answer.
    ///
    /// An answer `success = no` is [`ViciError::Refused`]. After any error but `Refused` and `UnknownCommand`, and
    /// after the future was dropped before it ended, the session answers [`ViciError::Abandoned`] from then on.
    pub async fn request(
        &mut self,
        command: &str,
        message: &Message,
    ) -> Result<Message, ViciError> {
        self.begin()?;
        self.connection
            .send(&Outgoing::Request { command, message })
            .await?;
        let answer = match self.connection.receive().await? {
            Incoming::Response(answer) => Ok(answer),
            Incoming::UnknownCommand => Err(ViciError::UnknownCommand(command.to_owned())),
            _ => return Err(ViciError::Unexpected("an answer")),
        };
        self.in_flight = false;
        accepted(command, answer?)
    }

    /// Sends a command that answers by a stream of events, and gives each one to `each`.
    pub async fn stream(
        &mut self,
        command: &str,
        event: &str,
        message: &Message,
        mut each: impl FnMut(Message) + Send,
    ) -> Result<Message, ViciError> {
        self.begin()?;
        self.connection.send(&Outgoing::Register { event }).await?;
        match self.connection.receive().await? {
            Incoming::EventConfirmed => {}
            Incoming::UnknownEvent => {
                self.in_flight = false;
                return Err(ViciError::UnknownEvent(event.to_owned()));
            }
            _ => return Err(ViciError::Unexpected("a confirmation")),
        }
        self.connection
            .send(&Outgoing::Request { command, message })
            .await?;
        let answer = loop {
            match self.connection.receive().await? {
                Incoming::Event { name, message } if name == event => each(message),
                Incoming::Response(answer) => break Ok(answer),
                Incoming::UnknownCommand => {
                    break Err(ViciError::UnknownCommand(command.to_owned()));
                }
                _ => return Err(ViciError::Unexpected("a streamed answer")),
            }
        };
        self.connection
            .send(&Outgoing::Unregister { event })
            .await?;
        loop {
            match self.connection.receive().await? {
                // Another client's listing may still be under way: events of ours until the confirmation.
                Incoming::Event { .. } => {}
                Incoming::EventConfirmed | Incoming::UnknownEvent => break,
                _ => return Err(ViciError::Unexpected("a confirmation")),
            }
        }
        self.in_flight = false;
        accepted(command, answer?)
    }

    fn begin(&mut self) -> Result<(), ViciError> {
        if self.in_flight {
            return Err(ViciError::Abandoned);
        }
        self.in_flight = true;
        Ok(())
    }

    fn is_reusable(&self) -> bool {
        !self.in_flight && self.connection.is_idle()
    }
}

fn accepted(command: &str, answer: Message) -> Result<Message, ViciError> {
    if answer.value("success") == Some(b"no") {
        let message = answer
            .text("errmsg")
            .unwrap_or("no reason given")
            .to_owned();
        return Err(ViciError::Refused {
            command: command.to_owned(),
            message,
        });
    }
    Ok(answer)
}

/// charon, as one that commands can be sent to at any time: connects when needed, again after charon was restarted.
///
/// Cheap to clone; all clones share the connections. Commands run side by side. A command that fails because charon
/// went away is not repeated: only the caller knows whether the new charon should do it.
#[derive(Clone)]
pub struct Vici {
    path: Arc<Path>,
    idle: Arc<Mutex<Vec<Session>>>,
    timeout: Duration,
}

impl Vici {
    /// A handle on the charon that listens, or will listen, at `path`. Does not connect yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into().into(),
            idle: Arc::default(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same handle with another time limit for commands; commands that wait for a negotiation add their own.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// Where charon listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a command and waits for its answer; see [`Session::request`].
    pub async fn request(&self, command: &str, message: &Message) -> Result<Message, ViciError> {
        self.request_within(self.timeout, command, message).await
    }

    /// [`Self::request`] with a time limit of its own.
    pub async fn request_within(
        &self,
        limit: Duration,
        command: &str,
        message: &Message,
    ) -> Result<Message, ViciError> {
        self.within(limit, command, async {
            let mut session = self.take().await?;
            let answer = session.request(command, message).await;
            self.give_back(session);
            answer
        })
        .await
    }

    /// Sends a command that answers by a stream of events, and collects them.
    pub async fn stream(
        &self,
        command: &str,
        event: &str,
        message: &Message,
    ) -> Result<Vec<Message>, ViciError> {
        self.within(self.timeout, command, async {
            let mut session = self.take().await?;
            let mut messages = Vec::new();
            let answer = session
                .stream(command, event, message, |message| messages.push(message))
                .await;
            self.give_back(session);
            answer.map(|_| messages)
        })
        .await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        command: &str,
        work: impl Future<Output = Result<T, ViciError>>,
    ) -> Result<T, ViciError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(ViciError::Timeout {
                command: command.to_owned(),
                after: limit,
            }),
        }
    }

    async fn take(&self) -> Result<Session, ViciError> {
        loop {
            let session = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            match session {
                Some(session) if session.is_reusable() => return Ok(session),
                Some(_) => {}
                None => return Session::connect(&self.path).await,
            }
        }
    }

    fn give_back(&self, session: Session) {
        if session.is_reusable() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE {
                idle.push(session);
            }
        }
    }
}
