//! The client of one interface: what RFC 2131 figure 5 draws, without sockets and clocks.
//!
//! ```text
//!                 +--------------------------------- NAK, lease over, no answer ---------+
//!                 v                                                                      |
//!    start --> Init --> Selecting --OFFER--> Requesting --ACK--> Bound --T1--> Renewing --T2--> Rebinding
//!      |                 (DISCOVER)           (REQUEST)           ^  ^            |ACK            |ACK
//!      |                                                          |  +------------+---------------+
//!      '-- a lease of before --> Rebooting (REQUEST) --ACK--------+
//!                                    '-- no answer: the lease holds (RFC 2131 section 3.2) --> Bound
//!                                        (but one that nobody knows the age of does not --> Init)
//! ```
//!
//! The first offer that can be used is taken. What a message may be is decided by the state: its transaction, its server
//! and its address must be those that were asked for.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::message::{Kind, Reply, Request, Said};
use crate::refusal::Refusal;
use crate::terms::Terms;

/// Who asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the interface.
    pub mac: [u8; 6],
    /// Option 61, its type first; never empty.
    pub client_id: Vec<u8>,
    /// Option 12; empty: none.
    pub host_name: String,
    /// Name servers are wanted.
    pub dns: bool,
}

/// To be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// `0.0.0.0`: there is no address yet.
    pub source: Ipv4Addr,
    /// A server, or everybody.
    pub destination: Ipv4Addr,
    /// The message.
    pub payload: Vec<u8>,
}

/// Times are since a moment of the caller's choice.
pub type Time = Duration;

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What was lent.
    pub terms: Terms,
    /// T1.
    pub renew_at: Time,
    /// T2.
    pub rebind_at: Time,
    /// Its end.
    pub expire_at: Time,
}

/// Where a client is; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Waits to begin.
    Init,
    /// Looks for a server.
    Selecting,
    /// Wants what was offered.
    Requesting,
    /// Asks whether the lease of before still holds.
    Rebooting,
    /// Holds a lease.
    Bound,
    /// Holds a lease, and asks its server for another term.
    Renewing,
    /// The same, and asks every server.
    Rebinding,
}

#[derive(Clone, Debug)]
enum State {
    Init { at: Time },
    Selecting(Asking),
    Requesting(Asking, Terms),
    Rebooting(Asking, Held),
    Bound(Held),
    Renewing(Asking, Held),
    Rebinding(Asking, Held),
}

/// A question, as often as it takes.
#[derive(Clone, Copy, Debug)]
struct Asking {
    transaction: u32,
    /// The first question of all that led here.
    first: Time,
    /// What is lent runs from then.
    began: Time,
    tries: u32,
    /// When it is asked again.
    at: Time,
}

/// Numbers that nobody can guess.
pub type Random = Box<dyn FnMut() -> u32 + Send>;

/// See the module.
pub struct Machine {
    settings: Settings,
    state: State,
    /// The lease of before may be over already.
    doubtful: bool,
    /// Since the last lease.
    failures: u32,
    random: Random,
    outgoing: Vec<Outgoing>,
    refusals: BTreeMap<Refusal, u64>,
    sent: u64,
    received: u64,
}

// RFC 2131 section 4.1: 4 s, then twice as long each time, at most 64 s; each with up to one second less or more.
const FIRST_PAUSE: u64 = 4;
const LONGEST_PAUSE: u64 = 64;
/// Before it looks for a server again (RFC 2131 section 3.1, item 5): after one minute.
const REQUESTS: u32 = 4;
/// A server that is there answers; the lease is used again soon if there is none.
const REBOOT_REQUESTS: u32 = 2;
/// RFC 2131 section 4.4.5: renewals are not asked for more often; but for leases that are over before that.
const RENEWAL_PAUSE: Duration = Duration::from_mins(1);
/// Of these.
const SHORTEST_RENEWAL_PAUSE: Duration = Duration::from_secs(2);

/// After it was released.
const NEVER: Time = Time::MAX;

impl Machine {
    /// A client that begins now, with what is left of a lease of before.
    pub fn new(settings: Settings, before: Option<Held>, now: Time, mut random: Random) -> Self {
        let state = match before.filter(|held| held.expire_at > now) {
            Some(held) => State::Rebooting(Asking::new(now, &mut random), held),
            None => State::Init { at: now },
        };
        Self {
            settings,
            state,
            doubtful: false,
            failures: 0,
            random,
            outgoing: Vec::new(),
            refusals: BTreeMap::new(),
            sent: 0,
            received: 0,
        }
    }

    /// Nobody knows how old the lease of before is: without an answer it does not hold.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        Self {
            doubtful: true,
            ..self
        }
    }

    /// See [`Self::in_doubt`].
    pub fn doubts(&self) -> bool {
        self.doubtful
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        match &self.state {
            State::Init { .. } => Place::Init,
            State::Selecting(_) => Place::Selecting,
            State::Requesting(..) => Place::Requesting,
            State::Rebooting(..) => Place::Rebooting,
            State::Bound(_) => Place::Bound,
            State::Renewing(..) => Place::Renewing,
            State::Rebinding(..) => Place::Rebinding,
        }
    }

    /// The lease that may be used.
    pub fn lease(&self) -> Option<&Held> {
        match &self.state {
            State::Bound(held) | State::Renewing(_, held) | State::Rebinding(_, held) => Some(held),
            State::Init { .. }
            | State::Selecting(_)
            | State::Requesting(..)
            | State::Rebooting(..) => None,
        }
    }

    /// The lease that may be used, or that is asked about.
    pub fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Rebooting(_, held) => Some(held),
            _ => self.lease(),
        }
    }

    /// Messages taken no notice of.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    /// Messages sent, and received that were an answer.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// A frame that was not even a message.
    pub fn refuse(&mut self, refusal: Refusal) {
        *self.refusals.entry(refusal).or_default() += 1;
    }

    /// When [`Self::poll`] has something to do.
    pub fn deadline(&self) -> Time {
        match &self.state {
            State::Init { at } => *at,
            State::Selecting(asking) | State::Requesting(asking, _) => asking.at,
            State::Rebooting(asking, held) | State::Rebinding(asking, held) => {
                asking.at.min(held.expire_at)
            }
            State::Bound(held) => held.renew_at,
            State::Renewing(asking, held) => asking.at.min(held.rebind_at),
        }
    }

    /// Does what is due; gives what is to be sent.
    pub fn poll(&mut self, now: Time) -> Vec<Outgoing> {
        // Each step leaves a state whose deadline is later, or one that is further on.
        while self.deadline() <= now {
            self.step(now);
        }
        std::mem::take(&mut self.outgoing)
    }

    /// What gives the lease back; after it nothing more is asked.
    pub fn release(&mut self, now: Time) -> Option<Outgoing> {
        // One that is asked about has not been given up yet.
        let held = self.held()?.clone();
        let asking = Asking::new(now, &mut self.random);
        let request = Request {
            kind: Kind::Release,
            current: Some(held.terms.address.addr()),
            server: Some(held.terms.server),
            ..self.request(&asking, now)
        };
        let payload = request.write()?;
        self.state = State::Init { at: NEVER };
        Some(Outgoing {
            source: held.terms.address.addr(),
            destination: held.terms.server,
            payload,
        })
    }

    /// Takes in a message.
    pub fn receive(&mut self, message: &[u8], now: Time) {
        let outcome =
            Reply::read(message, self.settings.mac).and_then(|reply| self.take(reply, now));
        match outcome {
            Ok(()) => self.received += 1,
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn take(&mut self, reply: Reply, now: Time) -> Result<(), Refusal> {
        let asking = match &self.state {
            State::Init { .. } | State::Bound(_) => return Err(Refusal::Unexpected),
            State::Selecting(asking)
            | State::Requesting(asking, _)
            | State::Rebooting(asking, _)
            | State::Renewing(asking, _)
            | State::Rebinding(asking, _) => *asking,
        };
        if reply.transaction != asking.transaction {
            return Err(Refusal::OtherTransaction);
        }
        let server = reply.server;
        // Whom it must be from, and what it must lend.
        let (by, address) = match &self.state {
            State::Requesting(_, terms) => (Some(terms.server), Some(terms.address.addr())),
            State::Renewing(_, held) => (Some(held.terms.server), Some(held.terms.address.addr())),
            State::Rebooting(_, held) | State::Rebinding(_, held) => {
                (None, Some(held.terms.address.addr()))
            }
            State::Init { .. } | State::Bound(_) | State::Selecting(_) => (None, None),
        };
        if by.is_some() && server != by {
            return Err(Refusal::OtherServer);
        }
        match (reply.said, address) {
            (Said::Offer(offered), None) => {
                let terms = offered.check()?;
                let asking = Asking {
                    began: now,
                    tries: 0,
                    at: now,
                    ..asking
                };
                self.state = State::Requesting(asking, terms);
            }
            (Said::Ack(offered), Some(address)) => {
                let terms = offered.check()?;
                if terms.address.addr() != address {
                    return Err(Refusal::BadAddress);
                }
                self.failures = 0;
                self.doubtful = false;
                self.state = State::Bound(self.hold(terms, asking.began));
            }
            (Said::Nak, Some(_)) => {
                // RFC 2131 table 3: it must say who it is.
                server.ok_or(Refusal::OtherServer)?;
                self.begin_again(now);
            }
            (Said::Offer(_), Some(_)) | (Said::Ack(_) | Said::Nak, None) => {
                return Err(Refusal::Unexpected);
            }
        }
        Ok(())
    }

    /// A lease runs from when it was requested (RFC 2131 section 4.4.1), however long a server was looked for. Clients that began together do not renew
    /// together: a little earlier each.
    fn hold(&mut self, terms: Terms, began: Time) -> Held {
        let mut earlier = |time: Duration| time.saturating_sub(time / 64 * ((self.random)() % 4));
        Held {
            renew_at: began + earlier(terms.renew),
            rebind_at: began + terms.rebind,
            expire_at: began + terms.duration,
            terms,
        }
    }

    fn step(&mut self, now: Time) {
        match &self.state {
            State::Init { .. } => {
                self.state = State::Selecting(Asking::new(now, &mut self.random));
            }
            State::Requesting(asking, _) if asking.tries >= REQUESTS => self.begin_again(now),
            State::Rebooting(_, held) if held.expire_at <= now => self.begin_again(now),
            State::Rebooting(asking, held) if asking.tries >= REBOOT_REQUESTS => {
                self.state = if self.doubtful {
                    State::Init { at: now }
                } else {
                    State::Bound(held.clone())
                };
                self.doubtful = false;
            }
            State::Bound(held) => {
                let held = held.clone();
                self.state = State::Renewing(Asking::new(now, &mut self.random), held);
            }
            State::Renewing(_, held) if held.rebind_at <= now => {
                let held = held.clone();
                self.state = State::Rebinding(Asking::new(now, &mut self.random), held);
            }
            State::Rebinding(_, held) if held.expire_at <= now => {
                self.state = State::Init { at: now };
            }
            State::Selecting(_)
            | State::Requesting(..)
            | State::Rebooting(..)
            | State::Renewing(..)
            | State::Rebinding(..) => self.ask(now),
        }
    }

    /// Not at once: a server that refuses always is not to be asked all the time.
    fn begin_again(&mut self, now: Time) {
        let seconds = (1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.doubtful = false;
        self.state = State::Init {
            at: now + Duration::from_secs(seconds),
        };
    }

    /// Sends the question of the state, and says when it is asked again.
    fn ask(&mut self, now: Time) {
        let chance = (self.random)();
        let (source, destination, request, pause) = match &self.state {
            State::Init { .. } | State::Bound(_) => return,
            State::Selecting(asking) => {
                let request = self.request(asking, now);
                let pause = asking.pause(chance);
                (None, Ipv4Addr::BROADCAST, request, pause)
            }
            State::Requesting(asking, terms) => {
                let request = Request {
                    kind: Kind::Request,
                    requested: Some(terms.address.addr()),
                    server: Some(terms.server),
                    ..self.request(asking, now)
                };
                (None, Ipv4Addr::BROADCAST, request, asking.pause(chance))
            }
            State::Rebooting(asking, held) => {
                let request = Request {
                    kind: Kind::Request,
                    requested: Some(held.terms.address.addr()),
                    ..self.request(asking, now)
                };
                (None, Ipv4Addr::BROADCAST, request, asking.pause(chance))
            }
            State::Renewing(asking, held) => {
                let own = held.terms.address.addr();
                let request = Request {
                    kind: Kind::Request,
                    current: Some(own),
                    ..self.request(asking, now)
                };
                let pause = renewal_pause(held, held.rebind_at, now);
                (Some(own), held.terms.server, request, pause)
            }
            State::Rebinding(asking, held) => {
                let own = held.terms.address.addr();
                let request = Request {
                    kind: Kind::Request,
                    current: Some(own),
                    ..self.request(asking, now)
                };
                let pause = renewal_pause(held, held.expire_at, now);
                (Some(own), Ipv4Addr::BROADCAST, request, pause)
            }
        };
        if let Some(payload) = request.write() {
            self.sent += 1;
            self.outgoing.push(Outgoing {
                source: source.unwrap_or(Ipv4Addr::UNSPECIFIED),
                destination,
                payload,
            });
        }
        if let State::Selecting(asking)
        | State::Requesting(asking, _)
        | State::Rebooting(asking, _)
        | State::Renewing(asking, _)
        | State::Rebinding(asking, _) = &mut self.state
        {
            asking.tries = asking.tries.saturating_add(1);
            asking.at = now + pause;
        }
    }

    /// A DISCOVER, to be changed.
    fn request(&self, asking: &Asking, now: Time) -> Request<'_> {
        let seconds = now.saturating_sub(asking.first).as_secs();
        Request {
            kind: Kind::Discover,
            transaction: asking.transaction,
            seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
            mac: self.settings.mac,
            current: None,
            requested: None,
            server: None,
            client_id: &self.settings.client_id,
            host_name: &self.settings.host_name,
            dns: self.settings.dns,
        }
    }
}

impl Asking {
    fn new(now: Time, random: &mut Random) -> Self {
        Self {
            transaction: random(),
            first: now,
            began: now,
            tries: 0,
            at: now,
        }
    }

    fn pause(&self, chance: u32) -> Duration {
        let seconds = (FIRST_PAUSE << self.tries.min(8)).min(LONGEST_PAUSE);
        Duration::from_millis(seconds * 1000 - 1000 + u64::from(chance % 2001))
    }
}

/// Half of what is left until `end` (RFC 2131 section 4.4.5).
fn renewal_pause(held: &Held, end: Time, now: Time) -> Duration {
    let shortest = RENEWAL_PAUSE
        .min(held.terms.duration / 16)
        .max(SHORTEST_RENEWAL_PAUSE);
    (end.saturating_sub(now) / 2).max(shortest)
}

#[cfg(test)]
mod tests;
