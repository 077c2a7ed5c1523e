//! Duplicate address detection: nobody else uses an address before we do (RFC 5227, RFC 4862 section 5.4).
//!
//! ```text
//!   IPv4: probe, probe, probe, wait -> ready, announced twice     IPv6: solicitation, wait -> ready, announced
//!   somebody claims it meanwhile    -> duplicate, tried again after a minute
//!   somebody claims it later        -> defended, once in ten seconds
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_net::MacAddr;

use super::timers::Timers;

const SECOND: u64 = 1_000_000_000;

/// How long an address is checked, in nanoseconds.
///
/// RFC 5227 section 1.1 takes 1 s of random delay, three probes 1 to 2 s apart and 2 s more: up to 7 s, made for hosts that
/// are switched on together behind slow bridges. A gateway must forward again within a second of a restart, so it
/// keeps the number of probes and shortens the pauses; a station on an Ethernet answers in a millisecond. RFC 4862 section
/// 5.1 has one solicitation and `RETRANS_TIMER`, 1 s, which RFC 4861 section 6.3.4 lets the link set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectionTiming {
    /// ARP probes (`PROBE_NUM`).
    pub arp_probes: u8,
    /// Between two of them.
    pub arp_interval: u64,
    /// From the last one to the first use.
    pub arp_wait: u64,
    /// From the neighbour solicitation to the first use.
    pub nd_wait: u64,
}

impl Default for DetectionTiming {
    fn default() -> Self {
        Self {
            arp_probes: 3,
            arp_interval: SECOND / 5,
            arp_wait: SECOND * 2 / 5,
            nd_wait: SECOND,
        }
    }
}

/// Announcements of a new address, and between two of them: `ANNOUNCE_NUM`, `ANNOUNCE_INTERVAL`, RFC 5227 section 1.1.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_NS: u64 = 2 * SECOND;
/// Between two defences: `DEFEND_INTERVAL` there.
const DEFEND_NS: u64 = 10 * SECOND;
/// Before a duplicate address is tried again: `RATE_LIMIT_INTERVAL` there.
const RETRY_NS: u64 = 60 * SECOND;

/// Interface and address.
pub(super) type AddressId = (u32, IpAddr);

#[derive(Clone, Copy, Debug)]
enum State {
    Probing {
        sent: u8,
    },
    Ready {
        announced: u8,
        defended: Option<u64>,
    },
    Duplicate,
}

/// What is to be done for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask whether anybody has it.
    Probe(AddressId),
    /// From now on it is used, and everybody is told.
    Ready(AddressId),
    /// Tell everybody (again).
    Announce(AddressId),
}

/// The addresses of all Ethernet interfaces.
#[derive(Debug)]
pub(super) struct Detection {
    timing: DetectionTiming,
    states: HashMap<AddressId, State>,
    timers: Timers<AddressId>,
}

impl Detection {
    pub(super) fn new(timing: DetectionTiming) -> Self {
        Self {
            timing,
            states: HashMap::new(),
            timers: Timers::default(),
        }
    }

    /// Begins (again); the first probe is due at once.
    pub(super) fn begin(&mut self, id: AddressId, now: u64) {
        self.set(id, State::Probing { sent: 0 }, Some(now));
    }

    /// The address is ours no more, or its link is down.
    pub(super) fn end(&mut self, id: AddressId) {
        self.states.remove(&id);
        self.timers.set(id, None);
    }

    /// Somebody else claims the address: what to do at once. Whether it was in use before does not change.
    pub(super) fn conflict(&mut self, id: AddressId, mac: MacAddr, now: u64) -> Option<Due> {
        match self.states.get(&id)? {
            State::Probing { .. } => {
                tracing::warn!(interface = id.0, address = %id.1, %mac, "address is in use by another station");
                self.set(id, State::Duplicate, Some(now + RETRY_NS));
                None
            }
            State::Ready {
                announced,
                defended,
            } if defended.is_none_or(|at| now >= at + DEFEND_NS) => {
                tracing::warn!(interface = id.0, address = %id.1, %mac, "another station claims our address");
                let state = State::Ready {
                    announced: *announced,
                    defended: Some(now),
                };
                self.states.insert(id, state);
                Some(Due::Announce(id))
            }
            State::Ready { .. } | State::Duplicate => None,
        }
    }

    /// When [`Detection::due`] has something.
    pub(super) fn next(&self) -> Option<u64> {
        self.timers.next()
    }

    /// One thing whose time has come.
    pub(super) fn due(&mut self, now: u64) -> Option<Due> {
        let id = self.timers.pop(now)?;
        let timing = self.timing;
        let v4 = id.1.is_ipv4();
        let (probes, interval, wait) = if v4 {
            (timing.arp_probes, timing.arp_interval, timing.arp_wait)
        } else {
            (1, 0, timing.nd_wait)
        };
        match *self.states.get(&id)? {
            State::Duplicate => {
                self.begin(id, now);
                self.due(now)
            }
            State::Probing { sent } if sent < probes => {
                let sent = sent + 1;
                let pause = if sent == probes { wait } else { interval };
                self.set(id, State::Probing { sent }, Some(now + pause));
                Some(Due::Probe(id))
            }
            State::Probing { .. } => {
                let state = State::Ready {
                    announced: 1,
                    defended: None,
                };
                self.set(id, state, v4.then_some(now + ANNOUNCE_NS));
                Some(Due::Ready(id))
            }
            State::Ready {
                announced,
                defended,
            } => {
                let announced = announced + 1;
                let state = State::Ready {
                    announced,
                    defended,
                };
                let next = (announced < ANNOUNCEMENTS).then_some(now + ANNOUNCE_NS);
                self.set(id, state, next);
                Some(Due::Announce(id))
            }
        }
    }

    fn set(&mut self, id: AddressId, state: State, due: Option<u64>) {
        self.states.insert(id, state);
        self.timers.set(id, due);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const V4: AddressId = (1, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const V6: AddressId = (1, IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    const OTHER: MacAddr = MacAddr([2; 6]);

    /// What is due until the clock stands at `end`, with the time in milliseconds.
    fn run(detection: &mut Detection, end: u64) -> Vec<(u64, Due)> {
        let mut seen = Vec::new();
        while let Some(at) = detection.next().filter(|at| *at <= end) {
            seen.extend(detection.due(at).map(|due| (at / 1_000_000, due)));
        }
        seen
    }

    #[test]
    fn three_probes_or_one_solicitation_and_within_a_second_the_address_is_ready() {
        let mut detection = Detection::new(DetectionTiming::default());
        detection.begin(V4, 0);
        assert_eq!(
            run(&mut detection, 100 * SECOND),
            [
                (0, Due::Probe(V4)),
                (200, Due::Probe(V4)),
                (400, Due::Probe(V4)),
                (800, Due::Ready(V4)),
                (2800, Due::Announce(V4))
            ]
        );
        detection.begin(V6, 0);
        assert_eq!(
            run(&mut detection, 100 * SECOND),
            [(0, Due::Probe(V6)), (1000, Due::Ready(V6))]
        );
    }

    #[test]
    fn a_duplicate_is_never_ready_and_tried_again() {
        let mut detection = Detection::new(DetectionTiming::default());
        detection.begin(V4, 0);
        run(&mut detection, SECOND / 2);
        assert_eq!(detection.conflict(V4, OTHER, SECOND / 2), None);
        assert!(run(&mut detection, 60 * SECOND).is_empty());
        let later = run(&mut detection, 62 * SECOND);
        assert_eq!(later.first(), Some(&(60_500, Due::Probe(V4))));
        assert_eq!(later.last(), Some(&(61_300, Due::Ready(V4))));
    }

    #[test]
    fn a_ready_address_is_defended_but_not_in_a_storm() {
        let mut detection = Detection::new(DetectionTiming::default());
        detection.begin(V4, 0);
        run(&mut detection, 10 * SECOND);
        let announce = Some(Due::Announce(V4));
        assert_eq!(detection.conflict(V4, OTHER, 10 * SECOND), announce);
        assert_eq!(detection.conflict(V4, OTHER, 11 * SECOND), None);
        assert_eq!(detection.conflict(V4, OTHER, 20 * SECOND), announce);
        detection.end(V4);
        assert_eq!(detection.conflict(V4, OTHER, 40 * SECOND), None);
    }
}
