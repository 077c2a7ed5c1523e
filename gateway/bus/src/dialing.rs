//! A connecting socket that goes on trying.
//!
//! NNG connects again by itself when a connection breaks or nobody listens. But when the other process dies
//! between the connection and its greeting, NNG 1.4 takes the broken pipe for its own socket being closed and
//! gives up for good. Whoever waits for the connection notices and has it dialled anew.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nng::options::{Options, ReconnectMaxTime, ReconnectMinTime, RecvMaxSize};
use nng::{Dialer, PipeEvent, Socket};
use tokio::time::Instant;

use crate::MESSAGE_LIMIT;
use crate::address::Address;

/// NNG's pauses between attempts: the first, doubled up to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Longer than NNG needs when it is still trying and somebody is there.
pub(crate) const REDIAL: Duration = Duration::from_secs(2);

/// The dialler of one socket.
pub(crate) struct Dialing {
    address: Address,
    socket: Socket,
    connections: Arc<AtomicUsize>,
    /// With when it began; none: nobody has asked for a connection yet.
    dialer: Mutex<Option<(Dialer, Instant)>>,
}

impl Dialing {
    /// Ready to connect; options of the protocol are set before.
    pub(crate) fn new(socket: &Socket, address: &Address) -> Result<Self, nng::Error> {
        socket.set_opt::<RecvMaxSize>(MESSAGE_LIMIT)?;
        socket.set_opt::<ReconnectMinTime>(Some(RECONNECT.0))?;
        socket.set_opt::<ReconnectMaxTime>(Some(RECONNECT.1))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        socket.pipe_notify(move |_, event| match event {
            PipeEvent::AddPost => {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            PipeEvent::RemovePost => {
                counted.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        })?;
        Ok(Self {
            address: address.clone(),
            socket: socket.clone(),
            connections,
            dialer: Mutex::new(None),
        })
    }

    /// Begins to connect, if it has not yet. Who is never asked anything may never be there: it is not dialled all the
    /// time for nothing.
    pub(crate) fn begin(&self) -> Result<(), nng::Error> {
        let mut dialer = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        if dialer.is_none() {
            *dialer = Some((self.dial()?, Instant::now()));
        }
        Ok(())
    }

    fn dial(&self) -> Result<Dialer, nng::Error> {
        Dialer::new(&self.socket, self.address.url(), true)
    }

    /// Dials anew if there is no connection and the last dialling was a while ago.
    pub(crate) fn redial(&self) {
        if self.connections.load(Ordering::Relaxed) > 0 {
            return;
        }
        let mut dialer = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let recent =
            |(_, begun): &(Dialer, Instant)| now.saturating_duration_since(*begun) < REDIAL;
        if dialer.as_ref().is_some_and(recent) {
            return;
        }
        tracing::debug!(path = ?self.address, "dialling anew");
        match self.dial() {
            Ok(fresh) => {
                if let Some((old, _)) = dialer.replace((fresh, now)) {
                    old.close();
                }
            }
            Err(error) => tracing::warn!(path = ?self.address, %error, "cannot dial anew"),
        }
    }
}
