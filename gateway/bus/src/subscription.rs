//! The listening side of publish/subscribe: the snapshot first, then the events after it.
//!
//! ```text
//!   publisher ==ipc==> SUB socket --> numbers in order? --yes--> Update::Event
//!                                          | no
//!   server <== request/reply == snapshot() +-------------------> Update::Snapshot
//! ```
//!
//! While the snapshot is on its way publications wait in the socket; those it includes already are dropped by
//! their numbers.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use culvert_model::bus::Publication;
use futures::Stream;
use nng::options::protocol::pubsub::Subscribe;
use nng::options::{Options, RecvBufferSize};
use nng::{Protocol, Socket};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use crate::BusError;
use crate::address::Address;
use crate::dialing::Dialing;
use crate::follower::{Follower, Resync, Verdict};
use crate::lane::Lane;

/// A publisher that says nothing for so long may be gone: three of its heartbeats.
pub const SILENCE: Duration = Duration::from_secs(3);

/// Publications that wait in nng while the snapshot is taken or the reader is busy; nng allows 8192.
const QUEUE: i32 = 4096;

/// Pauses between attempts to take the snapshot: the first, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// All there is, as of one publication.
#[derive(Clone, Debug)]
pub struct Snapshot<S> {
    /// What the process answered.
    pub state: S,
    /// Number of the last publication that it includes.
    pub published: u64,
    /// Of the publisher whose number that is.
    pub incarnation: u64,
}

/// What a follower learns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Update<S, E> {
    /// Everything; what was known before is replaced by it.
    Snapshot(S),
    /// The next thing that happened.
    Event(E),
}

type Taking<S> = Pin<Box<dyn Future<Output = Option<Snapshot<S>>> + Send>>;

/// Follows one publisher. Events come in order, each once, none missing: what PUB lost is covered by a new
/// snapshot.
pub struct Subscription<S, E> {
    path: PathBuf,
    socket: Socket,
    dialing: Dialing,
    lane: Lane,
    take: Box<dyn FnMut() -> Taking<S> + Send>,
    /// Kept here, so that giving up on [`next`](Self::next) loses nothing.
    taking: Option<Taking<S>>,
    taken: Instant,
    pause: Duration,
    follower: Follower,
    reason: Resync,
    heard: Instant,
    events: PhantomData<fn() -> E>,
}

impl<S: 'static, E: prost::Message + Default> Subscription<S, E> {
    /// Follows the publisher that listens, or will listen, at `path`. `snapshot` asks its process for all there
    /// is; it is asked again when it fails, with growing pauses, and whenever publications were missed.
    ///
    /// The process must read its publisher's number *before* the state that it answers with.
    pub fn follow<F, T, X>(path: &Path, mut snapshot: F) -> Result<Self, BusError>
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<Snapshot<S>, X>> + Send + 'static,
        X: fmt::Display,
    {
        let address = Address::new(path)?;
        let open = || -> Result<(Socket, Dialing, Lane), nng::Error> {
            let socket = Socket::new(Protocol::Sub0)?;
            socket.set_opt::<Subscribe>(Vec::new())?;
            socket.set_opt::<RecvBufferSize>(QUEUE)?;
            let dialing = Dialing::new(&socket, &address)?;
            dialing.begin()?;
            Ok((socket, dialing, Lane::new()?))
        };
        let (socket, dialing, lane) = open().map_err(|error| address.failed(error))?;
        let logged = path.to_owned();
        let take = move || -> Taking<S> {
            let asked = snapshot();
            let path = logged.clone();
            Box::pin(async move {
                asked
                    .await
                    .inspect_err(|error| tracing::debug!(?path, %error, "no snapshot yet"))
                    .ok()
            })
        };
        Ok(Self {
            path: path.to_owned(),
            socket,
            dialing,
            lane,
            take: Box::new(take),
            taking: None,
            taken: Instant::now(),
            pause: Duration::ZERO,
            follower: Follower::new(),
            reason: Resync::First,
            heard: Instant::now(),
            events: PhantomData,
        })
    }

    /// The next update, whenever it comes; the first is a snapshot. May be given up and called again.
    pub async fn next(&mut self) -> Update<S, E> {
        loop {
            if let Follower::NeedsSnapshot { why, .. } = self.follower {
                if let Some(snapshot) = self.take_snapshot().await {
                    if why != Resync::First {
                        tracing::info!(path = ?self.path, %why, "took the snapshot again");
                    }
                    self.reason = why;
                    self.follower
                        .snapshot(snapshot.published, snapshot.incarnation);
                    return Update::Snapshot(snapshot.state);
                }
            } else if let Some(event) = self.take_publication().await {
                return Update::Event(event);
            }
        }
    }

    /// Why the last snapshot was taken.
    pub fn last_resync(&self) -> Resync {
        self.reason
    }

    /// As a stream without end.
    pub fn into_stream(self) -> impl Stream<Item = Update<S, E>> + Send
    where
        S: Send,
    {
        futures::stream::unfold(self, |mut subscription| async move {
            let update = subscription.next().await;
            Some((update, subscription))
        })
    }

    async fn take_snapshot(&mut self) -> Option<Snapshot<S>> {
        if self.taking.is_none() {
            let asking = (self.take)();
            let not_before = self.taken + self.pause;
            self.taking = Some(Box::pin(async move {
                tokio::time::sleep_until(not_before).await;
                asking.await
            }));
        }
        let snapshot = self.taking.as_mut()?.await;
        self.taking = None;
        let now = Instant::now();
        self.taken = now;
        self.heard = now;
        self.pause = match snapshot {
            Some(_) => RETRY.0,
            None => (self.pause * 2).clamp(RETRY.0, RETRY.1),
        };
        snapshot
    }

    async fn take_publication(&mut self) -> Option<E> {
        let heard = timeout_at(self.heard + SILENCE, self.lane.resume_recv(&self.socket)).await;
        let message = match heard {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => {
                tracing::warn!(path = ?self.path, %error, "a publication could not be received");
                // It may not pass by itself; nothing here may spin.
                tokio::time::sleep(RETRY.1).await;
                return None;
            }
            Err(_elapsed) => {
                self.follower.lost(Resync::Silence);
                self.dialing.redial();
                return None;
            }
        };
        self.heard = Instant::now();
        let publication = match Publication::decode(message.as_slice()) {
            Ok(publication) => publication,
            Err(error) => return self.undecodable(&error),
        };
        let Publication {
            number,
            incarnation,
            body,
        } = publication;
        match (
            self.follower.heard(number, incarnation, body.is_some()),
            body,
        ) {
            (Verdict::Deliver, Some(body)) => match E::decode(body.as_slice()) {
                Ok(event) => Some(event),
                Err(error) => self.undecodable(&error),
            },
            _ => None,
        }
    }

    fn undecodable(&mut self, error: &prost::DecodeError) -> Option<E> {
        tracing::warn!(path = ?self.path, %error, "a publication does not decode");
        self.follower.lost(Resync::Undecodable);
        None
    }
}

impl<S, E> fmt::Debug for Subscription<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("path", &self.path)
            .field("follower", &self.follower)
            .finish_non_exhaustive()
    }
}
