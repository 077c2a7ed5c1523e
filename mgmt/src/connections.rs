//! Connections of the northbound socket: how many there are, whose, and when a session begins and ends.
//!
//! ```text
//!   accept ── uid ──> House ──┬─ a seat: requests are answered; the first whose caller is known begins a session
//!                             ├─ a place at the door: each request is refused with the reason, then it is closed
//!                             └─ nothing: closed at once
//!   close ──> the seat is free, the session has ended
//! ```
//!
//! Everybody on the box may connect, so that whoever has no business here is told so. What that costs is bounded: seats in
//! all, seats for those who come by the login shell, so that root always finds one, a few for strangers, and a time
//! within which somebody must have said who he is.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;

use crate::agent::{Accounts, Caller};

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// Of those who come by the login shell.
    pub shell: usize,
    /// Of one of them, by name.
    pub principal: usize,
    /// Of all who have no business here.
    pub strangers: usize,
    /// Of one account of theirs.
    pub stranger: usize,
    /// Who are told that there is no room.
    pub door: usize,
    /// Within it somebody must have said who he is.
    pub silence: Duration,
    /// For a refusal to be read.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: 64,
            shell: 48,
            principal: 16,
            strangers: 8,
            stranger: 2,
            door: 16,
            silence: Duration::from_secs(30),
            farewell: Duration::from_secs(2),
        }
    }
}

/// What an account is to the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Trusted,
    Shell,
    Stranger,
    /// At the door, whoever it is.
    TurnedAway,
}

#[derive(Debug, Default)]
struct Counts {
    trusted: usize,
    shell: usize,
    strangers: HashMap<u32, usize>,
    turned_away: usize,
    principals: HashMap<String, usize>,
}

/// All connections of a socket.
#[derive(Debug)]
pub struct House {
    accounts: Accounts,
    limits: Limits,
    counts: Mutex<Counts>,
    ended: UnboundedSender<Caller>,
}

impl House {
    /// An empty one; sessions that end are told to `ended`.
    pub fn new(accounts: Accounts, limits: Limits, ended: UnboundedSender<Caller>) -> Arc<Self> {
        Arc::new(Self {
            accounts,
            limits,
            counts: Mutex::default(),
            ended,
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for an account, or a place at the door, or nothing.
    fn admit(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let limits = &self.limits;
        let mut counts = self.counts();
        let strangers: usize = counts.strangers.values().sum();
        let all = counts.trusted + counts.shell + strangers;
        let (kind, refusal) = if uid == 0 || uid == self.accounts.own {
            (Kind::Trusted, None)
        } else if self.accounts.shell == Some(uid) {
            let full = counts.shell >= limits.shell;
            (
                Kind::Shell,
                full.then(|| format!("{} sessions come by the login shell", counts.shell)),
            )
        } else {
            let own = counts.strangers.get(&uid).copied().unwrap_or_default();
            let full = own >= limits.stranger || strangers >= limits.strangers;
            (
                Kind::Stranger,
                full.then(|| format!("the account {uid} has no business here")),
            )
        };
        let refusal =
            refusal.or_else(|| (all >= limits.all).then(|| format!("there are {all} connections")));
        let kind = match &refusal {
            Some(_) if counts.turned_away >= limits.door => return None,
            Some(_) => Kind::TurnedAway,
            None => kind,
        };
        match kind {
            Kind::Trusted => counts.trusted += 1,
            Kind::Shell => counts.shell += 1,
            Kind::Stranger => *counts.strangers.entry(uid).or_default() += 1,
            Kind::TurnedAway => counts.turned_away += 1,
        }
        drop(counts);
        Some(Seat(Arc::new(Place {
            house: Arc::clone(self),
            uid,
            kind,
            refusal: refusal
                .map(|reason| format!("{reason} already: try again when one has ended")),
            session: Mutex::new(None),
        })))
    }

    fn leave(&self, place: &Place) {
        let mut counts = self.counts();
        let count = match place.kind {
            Kind::Trusted => &mut counts.trusted,
            Kind::Shell => &mut counts.shell,
            Kind::TurnedAway => &mut counts.turned_away,
            Kind::Stranger => {
                if let Some(count) = counts.strangers.get_mut(&place.uid) {
                    *count -= 1;
                    if *count == 0 {
                        counts.strangers.remove(&place.uid);
                    }
                }
                return;
            }
        };
        *count = count.saturating_sub(1);
    }

    fn end(&self, caller: Caller) {
        let mut counts = self.counts();
        if let Some(count) = counts.principals.get_mut(&caller.name) {
            *count -= 1;
            if *count == 0 {
                counts.principals.remove(&caller.name);
            }
        }
        drop(counts);
        // Nobody is left to write it down when the process ends.
        let _ = self.ended.send(caller);
    }
}

/// One connection's place; it is free when the last copy is gone.
#[derive(Clone, Debug)]
pub struct Seat(Arc<Place>);

#[derive(Debug)]
struct Place {
    house: Arc<House>,
    uid: u32,
    kind: Kind,
    refusal: Option<String>,
    session: Mutex<Option<Caller>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.leave(self);
        let session = self
            .session
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = session.take() {
            self.house.end(caller);
        }
    }
}

impl Seat {
    /// Who is at the other end, by the kernel's word.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Why nothing is answered here.
    pub fn refusal(&self) -> Option<&str> {
        self.0.refusal.as_deref()
    }

    /// The caller of a request: whether a session begins with it, or why there can be no more of his.
    pub fn begins(&self, caller: &Caller) -> Result<bool, String> {
        let mut session = self.session();
        if session
            .as_ref()
            .is_some_and(|before| before.name == caller.name && before.origin == caller.origin)
        {
            return Ok(false);
        }
        let house = &self.0.house;
        {
            let mut counts = house.counts();
            let count = counts.principals.entry(caller.name.clone()).or_default();
            if self.0.kind == Kind::Shell && *count >= house.limits.principal {
                return Err(format!(
                    "{} has {count} sessions already: try again when one has ended",
                    caller.name
                ));
            }
            *count += 1;
        }
        if let Some(before) = session.replace(caller.clone()) {
            house.end(before);
        }
        Ok(true)
    }

    fn session(&self) -> MutexGuard<'_, Option<Caller>> {
        self.0
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn stays(&self) -> bool {
        self.session().is_some()
    }
}

/// A connection that has a seat.
pub struct Connection {
    stream: UnixStream,
    seat: Seat,
    /// Who is not known by then goes.
    until: Pin<Box<Sleep>>,
}

/// Connections as they come.
pub fn incoming(
    listener: UnixListener,
    house: Arc<House>,
) -> impl Stream<Item = io::Result<Connection>> {
    UnixListenerStream::new(listener).filter_map(move |stream| {
        let connected = stream.and_then(|stream| {
            let uid = stream.peer_cred()?.uid();
            Ok(house.admit(uid).map(|seat| {
                let until = if seat.refusal().is_some() {
                    house.limits.farewell
                } else {
                    house.limits.silence
                };
                Connection {
                    stream,
                    seat,
                    until: Box::pin(sleep(until)),
                }
            }))
        });
        connected.transpose()
    })
}

impl Connected for Connection {
    type ConnectInfo = Seat;

    fn connect_info(&self) -> Seat {
        self.seat.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seat.stays() && self.until.as_mut().poll(context).is_ready() {
            // As if the other end had closed.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::agent::Role;

    const SHELL: u32 = 900;

    fn house() -> (Arc<House>, UnboundedReceiver<Caller>) {
        let (ended, sessions) = unbounded_channel();
        let accounts = Accounts {
            own: 0,
            shell: Some(SHELL),
        };
        (House::new(accounts, Limits::default(), ended), sessions)
    }

    fn caller(name: &str) -> Caller {
        Caller {
            name: name.to_owned(),
            role: Role::Admin,
            origin: "console".to_owned(),
        }
    }

    fn seated(house: &Arc<House>, uid: u32, count: usize) -> Vec<Seat> {
        let seats = (0..count).map(|_| house.admit(uid).unwrap());
        let seats: Vec<Seat> = seats.collect();
        assert!(seats.iter().all(|seat| seat.refusal().is_none()));
        seats
    }

    #[test]
    fn root_finds_a_seat_whoever_else_is_there() {
        let (house, _sessions) = house();
        let shell = seated(&house, SHELL, 48);
        let strangers = [1000, 1001, 1002, 1003].map(|uid| seated(&house, uid, 2));
        let door: Vec<_> = std::iter::from_fn(|| house.admit(SHELL)).collect();
        assert_eq!(door.len(), 16, "then they are closed at once");
        assert!(
            door.iter()
                .all(|seat| seat.refusal().unwrap().contains("48 sessions"))
        );
        let root = seated(&house, 0, 8);
        // Nobody is left out for ever.
        drop((door, strangers));
        let full = seated(&house, 0, 8);
        assert!(
            house
                .admit(0)
                .unwrap()
                .refusal()
                .unwrap()
                .contains("64 connections")
        );
        drop((shell, root));
        seated(&house, SHELL, 48);
        drop(full);
        let counts = house.counts();
        assert_eq!(
            (counts.trusted, counts.shell, counts.turned_away),
            (0, 0, 0)
        );
        assert!(counts.strangers.is_empty());
    }

    #[test]
    fn a_stranger_has_few() {
        let (house, _sessions) = house();
        let _own = seated(&house, 1000, 2);
        assert!(
            house
                .admit(1000)
                .unwrap()
                .refusal()
                .unwrap()
                .contains("no business")
        );
    }

    #[test]
    fn sessions_begin_once_and_end_with_their_connection() {
        let (house, mut sessions) = house();
        let mut seats = seated(&house, SHELL, 17);
        let last = seats.pop().unwrap();
        for seat in &seats {
            assert_eq!(seat.begins(&caller("alice")), Ok(true));
            assert_eq!(seat.begins(&caller("alice")), Ok(false));
        }
        let refused = last.begins(&caller("alice")).unwrap_err();
        assert!(refused.contains("alice has 16 sessions"), "{refused}");
        assert_eq!(last.begins(&caller("bob")), Ok(true));
        assert!(sessions.try_recv().is_err());
        drop(seats);
        for _ in 0..16 {
            assert_eq!(sessions.try_recv().unwrap().name, "alice");
        }
        // A connection that speaks for another from now on.
        assert_eq!(last.begins(&caller("alice")), Ok(true));
        assert_eq!(sessions.try_recv().unwrap().name, "bob");
        drop(last);
        assert_eq!(sessions.try_recv().unwrap().name, "alice");
        assert!(house.counts().principals.is_empty());
    }
}
