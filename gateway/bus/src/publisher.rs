//! The telling side of publish/subscribe.
//!
//! ```text
//!  publish(event) --> number --+--> PUB socket ==ipc==> subscribers
//!  every second: last number --+
//! ```
//!
//! PUB loses messages when a subscriber lags, and says nothing. The numbers let the subscriber see it, the last
//! one repeated every second even when it was the very last message that was lost.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_model::bus::Publication;
use nng::options::{Options, SendBufferSize};
use nng::{Message, PipeEvent, Protocol, Socket};
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::address::Address;
use crate::client::ENVELOPE_ROOM;
use crate::door::{Door, Speaks};
use crate::server::close;
use crate::{BusError, Incarnation, MESSAGE_LIMIT};

/// How often a publisher repeats its last number.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Messages that wait for a subscriber in nng before the oldest is dropped; nng allows 8192.
const QUEUE: i32 = 4096;

/// Publishes events of one type at one path.
///
/// [`publish`](Self::publish) may be called from any thread and never waits for a subscriber.
#[derive(Debug)]
pub struct Publisher<E> {
    shared: Arc<Shared>,
    heartbeat: AbortHandle,
    door: Arc<Door>,
    keeper: AbortHandle,
    events: PhantomData<fn(&E)>,
}

#[derive(Debug)]
struct Shared {
    socket: Socket,
    incarnation: Incarnation,
    /// Of the last publication. Held while it is handed to nng, so that numbers leave in order.
    last: Mutex<u64>,
}

impl<E: prost::Message> Publisher<E> {
    /// Listens at `path`, mode 0600, under the rules of [`Server::bind`](crate::Server::bind). Its heartbeat is a
    /// task of the current tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BusError> {
        let address = Address::new(path)?;
        let Ok(runtime) = Handle::try_current() else {
            return Err(BusError::NoRuntime {
                path: path.to_owned(),
            });
        };
        let socket = Socket::new(Protocol::Pub0).map_err(|error| address.failed(error))?;
        socket
            .set_opt::<SendBufferSize>(QUEUE)
            .map_err(|error| address.failed(error))?;
        let newcomer = Arc::new(Notify::new());
        let joined = Arc::clone(&newcomer);
        socket
            .pipe_notify(move |_, event| {
                if event == PipeEvent::AddPost {
                    joined.notify_one();
                }
            })
            .map_err(|error| address.failed(error))?;
        let door = Arc::new(Door::open(&socket, address, Speaks::Pub)?);
        let shared = Arc::new(Shared {
            socket,
            incarnation: Incarnation::draw(),
            last: Mutex::new(0),
        });
        let heartbeat = runtime
            .spawn(beat(Arc::clone(&shared), newcomer))
            .abort_handle();
        let kept = Arc::clone(&door);
        let keeper = runtime
            .spawn(async move { kept.keep().await })
            .abort_handle();
        Ok(Self {
            shared,
            heartbeat,
            door,
            keeper,
            events: PhantomData,
        })
    }

    /// Tells all who follow; returns the event's number. What it says must already be in the snapshot that the
    /// process gives from now on.
    ///
    /// An event too large for a message takes its number and is not sent: followers see the gap and take the
    /// snapshot.
    pub fn publish(&self, event: &E) -> u64 {
        let mut last = self
            .shared
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let bytes = event.encoded_len();
        if bytes > MESSAGE_LIMIT - ENVELOPE_ROOM {
            tracing::warn!(number = *last, bytes, "an event is too large to be sent");
        } else {
            self.shared.send(*last, Some(event.encode_to_vec()));
        }
        *last
    }

    /// Number of the last event; 0 before the first. A snapshot that holds everything up to it says so with this
    /// number.
    pub fn last_number(&self) -> u64 {
        *self
            .shared
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Of this publisher; drawn when it was bound. A snapshot names it beside the number.
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// Closes the socket and removes its file, without keeping a thread of tokio waiting as dropping does.
    pub async fn close(self) {
        self.heartbeat.abort();
        self.keeper.abort();
        self.door.shut();
        close(self.shared.socket.clone()).await;
    }
}

impl<E> Drop for Publisher<E> {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.keeper.abort();
        self.door.shut();
        self.shared.socket.close();
    }
}

impl Shared {
    fn send(&self, number: u64, body: Option<Vec<u8>>) {
        let publication = Publication {
            number,
            incarnation: self.incarnation.get(),
            body,
        };
        let message = Message::from(publication.encode_to_vec().as_slice());
        // PUB takes every message at once, whoever listens.
        if let Err((_, error)) = self.socket.try_send(message) {
            tracing::debug!(%error, number, "a publication was not sent");
        }
    }
}

/// Repeats the last number every second, and at once for a subscriber that has just connected: it may have missed
/// what was published since its snapshot.
async fn beat(shared: Arc<Shared>, newcomer: Arc<Notify>) {
    let mut second = tokio::time::interval(HEARTBEAT);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = second.tick() => {}
            () = newcomer.notified() => {}
        }
        let last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        shared.send(*last, None);
    }
}
