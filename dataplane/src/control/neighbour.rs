//! Neighbours: who is on a link with which MAC address, and whether they are still there (RFC 4861 section 7.3; the same
//! for IPv4, RFC 1122 section 2.3.2.1).
//!
//! ```text
//!   wanted -> incomplete --seen--> reachable --60 s--> probing --answer--> reachable
//!                 '--5 s--> gone                          '--three questions, no answer--> gone
//! ```
//!
//! Workers ask for neighbours that are not there; here only those that were are asked whether they still are. The
//! table is bounded, in all and for each interface: where it is full it gives up what is incomplete first, and takes
//! nobody new while all that it has do answer.

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_net::MacAddr;

use super::timers::Timers;

/// Neighbours of all interfaces.
const MOST: usize = 16_384;
/// Neighbours of one interface: whoever answers for every address of a large network there keeps nobody elsewhere out.
const MOST_OF_ONE: usize = 4096;
/// Without an answer from there, an incomplete neighbour is forgotten: somewhat longer than the workers ask.
const INCOMPLETE_NS: u64 = 5_000_000_000;
/// Between two checks of a neighbour that answers: RFC 1122 section 2.3.2.1 has the order of a minute for ARP; for IPv6
/// it takes the place of `REACHABLE_TIME`, 30 s, since nothing here says that a neighbour is idle.
const REACHABLE_NS: u64 = 60_000_000_000;
/// Before a MAC address that nobody asked for is checked: `DELAY_FIRST_PROBE_TIME`, RFC 4861 section 10.
const DELAY_NS: u64 = 5_000_000_000;
/// Questions to a neighbour that was there, and between two of them: `MAX_UNICAST_SOLICIT`, `RETRANS_TIMER`.
const PROBES: u8 = 3;
const PROBE_NS: u64 = 1_000_000_000;

/// Interface and address.
pub(super) type NeighbourId = (u32, IpAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete,
    Reachable(MacAddr),
    Probing { mac: MacAddr, asked: u8 },
}

impl State {
    fn mac(self) -> Option<MacAddr> {
        match self {
            Self::Incomplete => None,
            Self::Reachable(mac) | Self::Probing { mac, .. } => Some(mac),
        }
    }
}

/// What time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The neighbour is to be asked, at its last known address, whether it is still there.
    Ask(NeighbourId, MacAddr),
    /// It does not answer any more.
    Gone(NeighbourId),
}

/// All neighbours.
#[derive(Debug, Default)]
pub(super) struct NeighbourTable {
    states: HashMap<NeighbourId, State>,
    /// How many of each interface.
    counts: HashMap<u32, usize>,
    timers: Timers<NeighbourId>,
}

impl NeighbourTable {
    /// Packets wait for it.
    pub(super) fn wanted(&mut self, id: NeighbourId, now: u64) {
        if !self.states.contains_key(&id) && self.make_room(id.0) {
            self.set(id, State::Incomplete, now + INCOMPLETE_NS);
        }
    }

    /// It has shown a MAC address; `solicited`: in answer to us. Whether that changes what workers must know.
    pub(super) fn seen(
        &mut self,
        id: NeighbourId,
        mac: MacAddr,
        solicited: bool,
        now: u64,
    ) -> bool {
        let Some(state) = self.states.get(&id).copied() else {
            if !solicited || !self.make_room(id.0) {
                return false;
            }
            self.set(id, State::Reachable(mac), now + REACHABLE_NS);
            return true;
        };
        let news = state.mac() != Some(mac);
        if solicited {
            self.set(id, State::Reachable(mac), now + REACHABLE_NS);
        } else if news {
            // It may be a lie: see whether the station answers under that address.
            self.set(id, State::Reachable(mac), now + DELAY_NS);
        }
        news
    }

    /// Its MAC address.
    pub(super) fn mac(&self, id: &NeighbourId) -> Option<MacAddr> {
        self.states.get(id)?.mac()
    }

    /// All, with their MAC addresses as far as known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NeighbourId, Option<MacAddr>)> {
        self.states.iter().map(|(id, state)| (*id, state.mac()))
    }

    /// Forgets those that `of` says; gives those that workers know.
    pub(super) fn forget(&mut self, of: impl Fn(&NeighbourId) -> bool) -> Vec<NeighbourId> {
        let gone: Vec<_> = self
            .states
            .iter()
            .filter(|(id, _)| of(id))
            .map(|(id, state)| (*id, state.mac().is_some()))
            .collect();
        for (id, _) in &gone {
            self.remove(*id);
        }
        gone.into_iter()
            .filter_map(|(id, known)| known.then_some(id))
            .collect()
    }

    /// When [`NeighbourTable::due`] has something.
    pub(super) fn next(&self) -> Option<u64> {
        self.timers.next()
    }

    /// One thing whose time has come.
    pub(super) fn due(&mut self, now: u64) -> Option<Due> {
        loop {
            let id = self.timers.pop(now)?;
            let asked = match self.states.get(&id)? {
                State::Incomplete => {
                    self.remove(id);
                    continue;
                }
                State::Reachable(_) => 0,
                State::Probing { asked, .. } => *asked,
            };
            let mac = self.mac(&id).filter(|_| asked < PROBES);
            let Some(mac) = mac else {
                self.remove(id);
                return Some(Due::Gone(id));
            };
            let state = State::Probing {
                mac,
                asked: asked + 1,
            };
            self.set(id, state, now + PROBE_NS);
            return Some(Due::Ask(id, mac));
        }
    }

    fn set(&mut self, id: NeighbourId, state: State, due: u64) {
        if self.states.insert(id, state).is_none() {
            *self.counts.entry(id.0).or_default() += 1;
        }
        self.timers.set(id, Some(due));
    }

    fn remove(&mut self, id: NeighbourId) {
        if self.states.remove(&id).is_some()
            && let Some(count) = self.counts.get_mut(&id.0)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&id.0);
            }
        }
        self.timers.set(id, None);
    }

    /// Room for one more of an interface, if need be in the place of one that is incomplete.
    fn make_room(&mut self, interface: u32) -> bool {
        let own = self.counts.get(&interface).copied().unwrap_or_default();
        let crowded = own >= MOST_OF_ONE;
        if !crowded && self.states.len() < MOST {
            return true;
        }
        let incomplete = self
            .states
            .iter()
            .find(|(id, state)| **state == State::Incomplete && (!crowded || id.0 == interface));
        let id = incomplete.map(|(id, _)| *id);
        if let Some(id) = id {
            self.remove(id);
        }
        id.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const MAC: MacAddr = MacAddr([2; 6]);
    const SECOND: u64 = 1_000_000_000;

    fn id(last: u32) -> NeighbourId {
        (1, IpAddr::V4((0x0a00_0000 + last).into()))
    }

    #[test]
    fn a_neighbour_is_checked_each_minute_and_gone_after_three_questions() {
        let mut table = NeighbourTable::default();
        table.wanted(id(1), 0);
        assert_eq!(table.mac(&id(1)), None);
        assert!(table.seen(id(1), MAC, true, SECOND));
        assert!(!table.seen(id(1), MAC, true, 2 * SECOND));
        assert_eq!(table.due(62 * SECOND - 1), None);
        assert_eq!(table.due(62 * SECOND), Some(Due::Ask(id(1), MAC)));
        assert_eq!(table.mac(&id(1)), Some(MAC), "it is used while it is asked");
        assert!(!table.seen(id(1), MAC, true, 62 * SECOND));
        for second in [122, 123, 124] {
            assert_eq!(table.due(second * SECOND), Some(Due::Ask(id(1), MAC)));
            assert_eq!(table.due(second * SECOND), None);
        }
        assert_eq!(table.due(125 * SECOND), Some(Due::Gone(id(1))));
        assert_eq!((table.mac(&id(1)), table.next()), (None, None));
    }

    #[test]
    fn news_that_nobody_asked_for_only_change_what_is_known_and_are_checked_soon() {
        let mut table = NeighbourTable::default();
        assert!(!table.seen(id(1), MAC, false, 0));
        assert_eq!(table.mac(&id(1)), None);
        table.seen(id(1), MAC, true, 0);
        let other = MacAddr([4; 6]);
        assert!(table.seen(id(1), other, false, SECOND));
        assert_eq!(table.due(6 * SECOND), Some(Due::Ask(id(1), other)));
        table.wanted(id(2), 0);
        assert!(table.seen(id(2), MAC, false, 0));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_answers() {
        let mut table = NeighbourTable::default();
        let one = MOST_OF_ONE as u32;
        for number in 0..2 * one {
            table.wanted(id(number), 0);
        }
        assert_eq!(table.iter().count(), MOST_OF_ONE);
        for number in 0..2 * one {
            table.seen(id(number), MAC, true, 0);
        }
        let known = |table: &NeighbourTable| table.iter().filter(|(_, mac)| mac.is_some()).count();
        assert_eq!(known(&table), MOST_OF_ONE);
        table.wanted(id(100_000), 0);
        assert_eq!(table.iter().count(), MOST_OF_ONE);
        // The crowd on one link keeps nobody off another.
        let elsewhere = (2, IpAddr::V4([192, 0, 2, 1].into()));
        table.wanted(elsewhere, 0);
        assert!(table.seen(elsewhere, MAC, true, 0));
        // All links together have a bound, too.
        for interface in 3..3 + MOST as u32 / one {
            for number in 0..one {
                table.seen((interface, id(number).1), MAC, true, 0);
            }
        }
        assert_eq!(known(&table), MOST);
        assert_eq!(table.forget(|id| id.0 == 1).len(), MOST_OF_ONE);
        assert!(table.seen(id(100_000), MAC, true, 0));
        assert_eq!(table.forget(|_| true).len(), MOST - MOST_OF_ONE + 1);
        assert_eq!((table.iter().count(), table.next()), (0, None));
        assert!(table.counts.is_empty());
    }

    #[test]
    fn what_never_answers_is_forgotten() {
        let mut table = NeighbourTable::default();
        table.wanted(id(1), 0);
        assert_eq!(table.due(INCOMPLETE_NS), None);
        assert_eq!(table.iter().count(), 0);
    }
}
