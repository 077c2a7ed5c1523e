//! The client of one interface: its machine, with socket, clock and store.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_model::bus;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::oneshot;

use crate::clients::Shared;
use crate::frame;
use crate::machine::{Held, Machine, Outgoing, Place, Settings, Time};
use crate::message::LONGEST;
use crate::moment::Age;
use crate::packet_socket::PacketSocket;
use crate::refusal::Refusal;
use crate::terms::Terms;

/// Before a socket that failed is opened again: its TAP may be about to come back.
const PAUSE: Duration = Duration::from_secs(1);
/// So much younger than its lease may be what is stored.
const LONGEST_SLACK: Duration = Duration::from_mins(1);
/// Of IPv4 without options, and UDP.
const HEADERS: usize = 28;
/// RFC 2132 section 9.14: the identifier is the Ethernet address.
const TYPE_ETHERNET: u8 = 1;

/// How a client ends; who said so is told when it has.
#[derive(Debug)]
pub enum End {
    /// It gives its lease back.
    Release(oneshot::Sender<()>),
    /// Another goes on with what it has.
    HandOver(oneshot::Sender<Before>),
}

/// What a client begins with.
#[derive(Clone, Debug)]
pub enum Before {
    /// What is stored.
    Stored,
    /// What the client before it had; none: no lease.
    Handed(Option<Box<Handed>>),
}

/// A lease of a client that goes on with another socket, or other settings.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Whose.
    identifier: Vec<u8>,
    held: Held,
    /// From when its times count.
    origin: Instant,
    doubtful: bool,
}

/// What is known of a client from outside, at any time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    place: Place,
    lease: Option<(Held, Instant)>,
    refusals: BTreeMap<Refusal, u64>,
    sent: u64,
    received: u64,
}

impl Default for Snapshot {
    /// Of one that has not begun: whether it has a lease of before is not known yet.
    fn default() -> Self {
        Self {
            place: Place::Rebooting,
            lease: None,
            refusals: BTreeMap::new(),
            sent: 0,
            received: 0,
        }
    }
}

impl Snapshot {
    /// Others want to know of the difference.
    pub fn differs(&self, other: &Self) -> bool {
        (self.place, &self.lease) != (other.place, &other.lease)
    }

    /// As it is at this moment.
    pub fn on_the_bus(&self, interface: &str) -> bus::DhcpClientState {
        use bus::dhcp_client_state::State;
        let lease = self.lease.as_ref().map(|(held, origin)| {
            let left = |at: Time| at.saturating_sub(origin.elapsed());
            held.terms.on_the_bus(
                left(held.renew_at),
                left(held.rebind_at),
                left(held.expire_at),
            )
        });
        bus::DhcpClientState {
            interface: interface.to_owned(),
            state: match self.place {
                Place::Init => State::Init,
                Place::Selecting => State::Selecting,
                Place::Requesting => State::Requesting,
                Place::Rebooting => State::Rebooting,
                Place::Bound => State::Bound,
                Place::Renewing => State::Renewing,
                Place::Rebinding => State::Rebinding,
            }
            .into(),
            lease,
            refusals: self
                .refusals
                .iter()
                .map(|(reason, count)| bus::DhcpRefusals {
                    reason: reason.to_string(),
                    count: *count,
                })
                .collect(),
            sent: self.sent,
            received: self.received,
        }
    }
}

/// Works until it is told to end, or nobody can say so any more.
pub async fn run(
    wanted: bus::DhcpClient,
    shared: Arc<Shared>,
    mut before: Before,
    mut end: oneshot::Receiver<End>,
) {
    loop {
        let opened = PacketSocket::open(&wanted.tap);
        let failed = match opened.map(|socket| Client::new(&wanted, &shared, socket, &before)) {
            Ok(mut client) => tokio::select! {
                error = client.work() => {
                    before = client.hand_over();
                    error
                }
                end = &mut end => {
                    match end {
                        Ok(End::Release(done)) => {
                            client.release();
                            let _ = done.send(());
                        }
                        Ok(End::HandOver(to)) => {
                            let _ = to.send(client.hand_over());
                        }
                        Err(_) => {}
                    }
                    return;
                }
            },
            Err(error) => error,
        };
        tracing::warn!(interface = wanted.interface, error = %failed, "cannot listen; opening anew");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            end = &mut end => {
                match end {
                    Ok(End::Release(done)) => {
                        // Without a socket there is nobody to tell.
                        shared.forget(&wanted.interface);
                        let _ = done.send(());
                    }
                    Ok(End::HandOver(to)) => {
                        let _ = to.send(before);
                    }
                    Err(_) => {}
                }
                return;
            }
        }
    }
}

/// What is left of a lease at `now`, by a clock that begins then; whether it may be over all the same.
fn left(
    before: &Before,
    identifier: &[u8],
    now: Instant,
    stored: impl FnOnce() -> Option<(Terms, Age)>,
) -> Option<(Held, bool)> {
    match before {
        Before::Stored => {
            let (terms, age) = stored()?;
            let (age, doubtful) = match age {
                Age::Known(age) => (age, false),
                Age::Unknown => (Duration::ZERO, true),
            };
            let held = Held {
                renew_at: terms.renew.saturating_sub(age),
                rebind_at: terms.rebind.saturating_sub(age),
                expire_at: terms.duration.saturating_sub(age),
                terms,
            };
            Some((held, doubtful))
        }
        Before::Handed(handed) => {
            // An interface with another Ethernet address is another client.
            let handed = handed.as_ref().filter(|one| one.identifier == identifier)?;
            let age = now.saturating_duration_since(handed.origin);
            let held = Held {
                renew_at: handed.held.renew_at.saturating_sub(age),
                rebind_at: handed.held.rebind_at.saturating_sub(age),
                expire_at: handed.held.expire_at.saturating_sub(age),
                terms: handed.held.terms.clone(),
            };
            Some((held, handed.doubtful))
        }
    }
}

/// What is stored of a lease.
#[derive(Debug)]
enum Row {
    /// Something, by another clock or not the latest.
    Unknown,
    /// Nothing that this client would find.
    None,
    Lease(Terms, Time),
}

impl Row {
    /// A restart would not find this lease, or not with its time: the disk is spared what makes no difference.
    fn is_behind(&self, held: &Held) -> bool {
        match self {
            Self::Unknown | Self::None => true,
            Self::Lease(terms, expire_at) => {
                let slack = LONGEST_SLACK.min(terms.duration / 8);
                *terms != held.terms || held.expire_at.abs_diff(*expire_at) > slack
            }
        }
    }
}

struct Client<'a> {
    wanted: &'a bus::DhcpClient,
    shared: &'a Shared,
    socket: PacketSocket,
    origin: Instant,
    /// What the server knows it by (RFC 2132 section 9.14).
    identifier: Vec<u8>,
    machine: Machine,
    row: Row,
}

impl<'a> Client<'a> {
    fn new(
        wanted: &'a bus::DhcpClient,
        shared: &'a Shared,
        socket: PacketSocket,
        before: &Before,
    ) -> Self {
        let origin = Instant::now();
        let mac = socket.mac();
        let client_id = if wanted.client_id.is_empty() {
            std::iter::once(TYPE_ETHERNET).chain(mac).collect()
        } else {
            wanted.client_id.clone()
        };
        let stored = || shared.find(&wanted.interface, &client_id);
        let left = left(before, &client_id, origin, stored);
        let doubtful = left.as_ref().is_some_and(|(_, doubtful)| *doubtful);
        let held = left.map(|(held, _)| held);
        let settings = Settings {
            mac,
            client_id: client_id.clone(),
            host_name: wanted.host_name.clone(),
            dns: wanted.dns,
        };
        let random = SystemRandom::new();
        let draw = move || {
            let mut bytes = [0; 4];
            // Linux gives numbers once it has begun to; without them a clock is better than nothing.
            if random.fill(&mut bytes).is_err() {
                return origin.elapsed().subsec_nanos();
            }
            u32::from_be_bytes(bytes)
        };
        let mut machine = Machine::new(settings, held.clone(), Time::ZERO, Box::new(draw));
        if doubtful {
            machine = machine.in_doubt();
        }
        Self {
            wanted,
            shared,
            socket,
            origin,
            identifier: client_id,
            machine,
            row: if held.is_some() {
                Row::Unknown
            } else {
                Row::None
            },
        }
    }

    /// What another client goes on with.
    fn hand_over(&self) -> Before {
        let hand = |held: &Held| {
            Box::new(Handed {
                identifier: self.identifier.clone(),
                held: held.clone(),
                origin: self.origin,
                doubtful: self.machine.doubts(),
            })
        };
        Before::Handed(self.machine.held().map(hand))
    }

    /// Until the socket fails.
    async fn work(&mut self) -> io::Error {
        let mut buffer = [0; LONGEST as usize + HEADERS];
        loop {
            let deadline = self.origin + self.advance();
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {}
                length = self.socket.receive(&mut buffer) => match length {
                    Ok(length) => self.take(buffer.get(..length).unwrap_or_default()),
                    Err(error) => return error,
                }
            }
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let now = self.origin.elapsed();
        match frame::unwrap(packet) {
            Ok(None) => {}
            Ok(Some(message)) => self.machine.receive(message, now),
            Err(refusal) => self.machine.refuse(refusal),
        }
    }

    /// Does what is due, and tells of it; when more is due.
    fn advance(&mut self) -> Time {
        let outgoing = self.machine.poll(self.origin.elapsed());
        for message in &outgoing {
            self.send(message);
        }
        self.tell();
        self.machine.deadline()
    }

    fn send(&self, message: &Outgoing) {
        let everybody = message.destination == Ipv4Addr::BROADCAST;
        let Some(packet) = frame::wrap(message.source, message.destination, &message.payload)
        else {
            return;
        };
        if let Err(error) = self.socket.send(&packet, everybody) {
            // It is sent again in its time.
            tracing::debug!(interface = self.wanted.interface, %error, "cannot send");
        }
    }

    fn tell(&mut self) {
        let machine = &self.machine;
        let (interface, place) = (&self.wanted.interface, machine.place());
        let lease = machine.lease();
        match lease {
            Some(held) if self.row.is_behind(held) => {
                let server = held.terms.server;
                tracing::info!(interface, %server, seconds = held.terms.duration.as_secs(), "lease");
                let age =
                    (self.origin.elapsed() + held.terms.duration).saturating_sub(held.expire_at);
                self.shared
                    .keep(interface, &self.identifier, &held.terms, age);
                self.row = Row::Lease(held.terms.clone(), held.expire_at);
            }
            None if place != Place::Rebooting && !matches!(self.row, Row::None) => {
                tracing::warn!(interface, "the lease is gone");
                self.shared.forget(interface);
                self.row = Row::None;
            }
            Some(_) | None => {}
        }
        let (sent, received) = machine.counts();
        let snapshot = Snapshot {
            place,
            lease: lease.map(|held| (held.clone(), self.origin)),
            refusals: machine.refusals().clone(),
            sent,
            received,
        };
        self.shared.tell(interface, snapshot);
    }

    fn release(&mut self) {
        let now = self.origin.elapsed();
        if let Some(message) = self.machine.release(now) {
            tracing::info!(interface = self.wanted.interface, "giving the lease back");
            self.send(&message);
        }
        self.shared.forget(&self.wanted.interface);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::terms::Offered;

    fn terms() -> Terms {
        Offered {
            address: Some([192, 0, 2, 10].into()),
            server: Some([192, 0, 2, 1].into()),
            mask: Some([255, 255, 255, 0].into()),
            duration: Some(3600),
            ..Offered::default()
        }
        .check()
        .unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_renewal_is_stored_when_it_makes_a_difference() {
        let held = |terms: &Terms, expire_at| Held {
            renew_at: seconds(0),
            rebind_at: seconds(0),
            expire_at: seconds(expire_at),
            terms: terms.clone(),
        };
        let terms = terms();
        for row in [Row::Unknown, Row::None] {
            assert!(row.is_behind(&held(&terms, 3600)));
        }
        let row = Row::Lease(terms.clone(), seconds(3600));
        assert!(!row.is_behind(&held(&terms, 3600)));
        assert!(!row.is_behind(&held(&terms, 3660)));
        assert!(row.is_behind(&held(&terms, 3661)));
        let other = Terms {
            domain: "example.com".to_owned(),
            ..terms.clone()
        };
        assert!(row.is_behind(&held(&other, 3600)));
        // A short lease that is renewed early would be over by what is stored before it is stored again.
        let short = Terms {
            duration: seconds(40),
            ..terms
        };
        let row = Row::Lease(short.clone(), seconds(40));
        assert!(!row.is_behind(&held(&short, 45)));
        assert!(row.is_behind(&held(&short, 46)));
    }

    #[test]
    fn a_stored_lease_of_unknown_age_is_whole_and_doubtful() {
        let stored = |age| {
            let found = || Some((terms(), age));
            let (held, doubtful) = left(&Before::Stored, b"me", Instant::now(), found).unwrap();
            (held.renew_at, held.expire_at, doubtful)
        };
        assert_eq!(
            stored(Age::Known(seconds(2000))),
            (seconds(0), seconds(1600), false)
        );
        assert_eq!(
            stored(Age::Known(seconds(4000))),
            (seconds(0), seconds(0), false)
        );
        assert_eq!(stored(Age::Unknown), (seconds(1800), seconds(3600), true));
    }

    #[test]
    fn a_lease_that_is_handed_over_counts_and_what_is_stored_does_not() {
        let origin = Instant::now();
        let handed = Handed {
            identifier: b"me".to_vec(),
            held: Held {
                renew_at: seconds(1900),
                rebind_at: seconds(3250),
                expire_at: seconds(3700),
                terms: terms(),
            },
            origin,
            doubtful: false,
        };
        let before = Before::Handed(Some(Box::new(handed)));
        let now = origin + seconds(1000);
        let (held, doubtful) = left(&before, b"me", now, || panic!("not asked")).unwrap();
        assert_eq!(
            (held.renew_at, held.rebind_at, held.expire_at, doubtful),
            (seconds(900), seconds(2250), seconds(2700), false)
        );
        assert!(left(&before, b"another", now, || panic!("not asked")).is_none());
        let none = Before::Handed(None);
        assert!(left(&none, b"me", now, || panic!("not asked")).is_none());
    }
}
