//! Neighbours: who is on a link with which MAC address, and whether they are still there (RFC 4861 section 7.3; the same
//! for IPv4, RFC 1122 section 2.3.2.1).
//!
//! ```text
//!   wanted -> incomplete --seen--> reachable --60 s--> probe --answer--> reachable
//!                 '--5 s--> gone       ^  | news            '--three questions, no answer--> gone
//!                                      |  '--> delay --5 s--> probe
//! ```
//!
//! Only what a packet wants is entered, whoever answers or announces what (RFC 4861 section 7.2.5). Workers ask for
//! neighbours that are not there; here only those that were are asked whether they still are.
//!
//! The table is bounded, in all and for each interface, and who is being resolved takes no place from who has answered
//! (RFC 6583 section 4). Where it is full, the station that answers for the most addresses gives up its oldest ones, and
//! where none answers for many, the oldest of all makes room: what is still wanted is resolved again at once, what is not
//! stays away. Next hops of routes stay, and one interface gives up so many a second at most.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use culvert_net::MacAddr;

use super::timers::Timers;
use crate::nodes::token_bucket::TokenBucket;

/// Neighbours that have answered, of all interfaces and of one: whoever answers for every address of a large network
/// there keeps nobody elsewhere out.
const ANSWERED: Bound = Bound {
    in_all: 16_384,
    of_one: 4096,
};
/// Neighbours that are being resolved.
const INCOMPLETE: Bound = Bound {
    in_all: 4096,
    of_one: 1024,
};
/// Neighbours a second, and at once after a pause, that a full interface gives up for others that answer: a link with
/// more stations than that keeps working, and one that invents them does not keep the control thread busy.
const EVICTIONS: (u64, u64) = (100, 256);
/// Addresses for which one station answers without being the first to give way: a router may answer for some.
const MANY: usize = 64;
/// Addresses that a station gives up at once, for it takes a look at all to find it.
const AT_ONCE: usize = 64;
/// Neighbours that are looked at to find one to give up.
const TRIES: usize = 16;
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

struct Bound {
    in_all: usize,
    of_one: usize,
}

/// How much is known of a neighbour, by the names of RFC 4861 section 7.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// It is being resolved: no MAC address is known.
    Incomplete,
    /// It has answered within the last minute.
    Reachable(MacAddr),
    /// It has shown another MAC address unasked, and will be asked whether that is true.
    Delay(MacAddr),
    /// It is being asked whether it is still there.
    Probe {
        /// As it was.
        mac: MacAddr,
        /// How often.
        asked: u8,
    },
}

impl NeighbourState {
    /// The MAC address that packets go to.
    pub const fn mac(self) -> Option<MacAddr> {
        match self {
            Self::Incomplete => None,
            Self::Reachable(mac) | Self::Delay(mac) | Self::Probe { mac, .. } => Some(mac),
        }
    }
}

/// A neighbour as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// How much is known of it.
    pub state: NeighbourState,
    /// When it answered last, or was wanted first, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// Its place among those of its interface that are incomplete, or that are not.
    turn: u64,
}

/// What time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The neighbour is to be asked, at its last known address, whether it is still there.
    Ask(NeighbourId, MacAddr),
    /// It does not answer any more.
    Gone(NeighbourId),
}

/// The neighbours of one interface, oldest first.
struct Share {
    incomplete: BTreeMap<u64, IpAddr>,
    answered: BTreeMap<u64, IpAddr>,
    evictions: TokenBucket,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            incomplete: BTreeMap::new(),
            answered: BTreeMap::new(),
            evictions: TokenBucket::new(EVICTIONS.0, EVICTIONS.1),
        }
    }
}

impl Share {
    fn of(&mut self, state: NeighbourState) -> &mut BTreeMap<u64, IpAddr> {
        match state {
            NeighbourState::Incomplete => &mut self.incomplete,
            _ => &mut self.answered,
        }
    }
}

/// All neighbours.
#[derive(Default)]
pub(super) struct NeighbourTable {
    all: HashMap<NeighbourId, Neighbour>,
    shares: HashMap<u32, Share>,
    incomplete: usize,
    turns: u64,
    timers: Timers<NeighbourId>,
    evicted: Vec<NeighbourId>,
}

impl NeighbourTable {
    /// Packets wait for it.
    pub(super) fn wanted(&mut self, id: NeighbourId, now: u64) {
        if self.all.contains_key(&id) {
            return;
        }
        let crowded = if self.count(id.0, |share| share.incomplete.len()) >= INCOMPLETE.of_one {
            Some(id.0)
        } else if self.incomplete >= INCOMPLETE.in_all {
            self.largest(|share| share.incomplete.len())
        } else {
            None
        };
        let oldest = crowded.and_then(|interface| {
            let (_, address) = self.shares.get(&interface)?.incomplete.first_key_value()?;
            Some((interface, *address))
        });
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
        self.set(id, NeighbourState::Incomplete, now, now + INCOMPLETE_NS);
    }

    /// It has shown a MAC address; `solicited`: in answer to us. Whether that changes what workers must know. `stays` are
    /// those that no other may displace.
    pub(super) fn seen(
        &mut self,
        id: NeighbourId,
        mac: MacAddr,
        solicited: bool,
        now: u64,
        stays: impl Fn(NeighbourId) -> bool,
    ) -> bool {
        let Some(known) = self.all.get(&id).copied() else {
            return false;
        };
        let news = known.state.mac() != Some(mac);
        if known.state == NeighbourState::Incomplete && !self.make_room(id.0, now, stays) {
            return false;
        }
        if solicited {
            self.set(id, NeighbourState::Reachable(mac), now, now + REACHABLE_NS);
        } else if news {
            // It may be a lie: see whether the station answers under that address.
            self.set(id, NeighbourState::Delay(mac), known.since, now + DELAY_NS);
        }
        news
    }

    /// Its MAC address.
    pub(super) fn mac(&self, id: &NeighbourId) -> Option<MacAddr> {
        self.all.get(id)?.state.mac()
    }

    /// All.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NeighbourId, &Neighbour)> {
        self.all.iter().map(|(id, neighbour)| (*id, neighbour))
    }

    /// Those that workers know and that have made room for others since the last call.
    pub(super) fn take_evicted(&mut self) -> Vec<NeighbourId> {
        std::mem::take(&mut self.evicted)
    }

    /// Forgets those that `of` says; gives those that workers know.
    pub(super) fn forget(&mut self, of: impl Fn(&NeighbourId) -> bool) -> Vec<NeighbourId> {
        let gone: Vec<_> = self
            .all
            .iter()
            .filter(|(id, _)| of(id))
            .map(|(id, neighbour)| (*id, neighbour.state.mac().is_some()))
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
            let known = *self.all.get(&id)?;
            let asked = match known.state {
                NeighbourState::Incomplete => {
                    self.remove(id);
                    continue;
                }
                NeighbourState::Reachable(_) | NeighbourState::Delay(_) => 0,
                NeighbourState::Probe { asked, .. } => asked,
            };
            let mac = known.state.mac().filter(|_| asked < PROBES);
            let Some(mac) = mac else {
                self.remove(id);
                return Some(Due::Gone(id));
            };
            let asked = asked + 1;
            let state = NeighbourState::Probe { mac, asked };
            self.set(id, state, known.since, now + PROBE_NS);
            return Some(Due::Ask(id, mac));
        }
    }

    fn set(&mut self, id: NeighbourId, state: NeighbourState, since: u64, due: u64) {
        let incomplete = |state| state == NeighbourState::Incomplete;
        let old = self.all.get(&id).copied();
        let turn = match old {
            Some(old) if incomplete(old.state) == incomplete(state) => old.turn,
            _ => {
                self.leave(id, old);
                self.turns += 1;
                self.shares
                    .entry(id.0)
                    .or_default()
                    .of(state)
                    .insert(self.turns, id.1);
                self.incomplete += usize::from(incomplete(state));
                self.turns
            }
        };
        let neighbour = Neighbour { state, since, turn };
        self.all.insert(id, neighbour);
        self.timers.set(id, Some(due));
    }

    fn remove(&mut self, id: NeighbourId) {
        let old = self.all.remove(&id);
        self.leave(id, old);
        self.timers.set(id, None);
        // What interfaces that are no more had is gone when their last neighbour is.
        if self
            .shares
            .get(&id.0)
            .is_some_and(|share| share.incomplete.is_empty() && share.answered.is_empty())
        {
            self.shares.remove(&id.0);
        }
    }

    /// Takes a neighbour out of the order of its interface.
    fn leave(&mut self, id: NeighbourId, old: Option<Neighbour>) {
        if let Some(old) = old
            && let Some(share) = self.shares.get_mut(&id.0)
        {
            share.of(old.state).remove(&old.turn);
            self.incomplete -= usize::from(old.state == NeighbourState::Incomplete);
        }
    }

    fn count(&self, interface: u32, of: impl Fn(&Share) -> usize) -> usize {
        self.shares.get(&interface).map_or(0, of)
    }

    fn largest(&self, of: impl Fn(&Share) -> usize) -> Option<u32> {
        let largest = self.shares.iter().max_by_key(|(_, share)| of(share));
        largest.map(|(interface, _)| *interface)
    }

    /// The oldest addresses of the station of an interface that answers for the most, if those are many.
    fn of_greedy_station(&self, interface: u32) -> Vec<NeighbourId> {
        let answered = |share: &Share| -> Vec<(NeighbourId, Option<MacAddr>)> {
            let ids = share.answered.values().map(|address| (interface, *address));
            ids.map(|id| (id, self.mac(&id))).collect()
        };
        let answered = self.shares.get(&interface).map_or_else(Vec::new, answered);
        let mut stations = HashMap::<_, usize>::new();
        for (_, mac) in &answered {
            *stations.entry(*mac).or_default() += 1;
        }
        match stations.into_iter().max_by_key(|(_, count)| *count) {
            Some((greedy, count)) if count > MANY => {
                let own = answered.into_iter().filter(|(_, mac)| *mac == greedy);
                own.map(|(id, _)| id).take(AT_ONCE).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Room for one more of an interface that has answered, if need be in the place of others.
    fn make_room(&mut self, interface: u32, now: u64, stays: impl Fn(NeighbourId) -> bool) -> bool {
        let own = self.count(interface, |share| share.answered.len());
        let crowded = if own >= ANSWERED.of_one {
            interface
        } else if self.all.len() - self.incomplete >= ANSWERED.in_all {
            match self.largest(|share| share.answered.len()) {
                Some(largest) => largest,
                None => return false,
            }
        } else {
            return true;
        };
        let Some(share) = self.shares.get_mut(&crowded) else {
            return false;
        };
        // Among equals there is no hurry; who has less than another gets its place.
        if crowded == interface && !share.evictions.take(now) {
            return false;
        }
        let before = self.evicted.len();
        for id in self.of_greedy_station(crowded) {
            if !stays(id) {
                self.remove(id);
                self.evicted.push(id);
            }
        }
        if self.evicted.len() > before {
            return true;
        }
        let Some(share) = self.shares.get_mut(&crowded) else {
            return false;
        };
        for _ in 0..TRIES {
            let Some((turn, address)) = share.answered.pop_first() else {
                return false;
            };
            let id = (crowded, address);
            if stays(id) {
                self.turns += 1;
                share.answered.insert(self.turns, address);
                if let Some(neighbour) = self.all.get_mut(&id) {
                    neighbour.turn = self.turns;
                }
                continue;
            }
            share.answered.insert(turn, address);
            self.remove(id);
            self.evicted.push(id);
            return true;
        }
        false
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

    fn seen(table: &mut NeighbourTable, id: NeighbourId, mac: MacAddr, now: u64) -> bool {
        table.seen(id, mac, true, now, |_| false)
    }

    /// Each address has a station of its own.
    fn station((_, address): NeighbourId) -> MacAddr {
        let [a, b, c, d] = match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => *address.octets().last_chunk().unwrap(),
        };
        MacAddr([2, 9, a, b, c, d])
    }

    fn resolve(table: &mut NeighbourTable, id: NeighbourId, now: u64) -> bool {
        table.wanted(id, now);
        seen(table, id, station(id), now)
    }

    fn answered(table: &NeighbourTable) -> usize {
        let known = |(_, one): &(NeighbourId, &Neighbour)| one.state.mac().is_some();
        table.iter().filter(known).count()
    }

    #[test]
    fn a_neighbour_is_checked_each_minute_and_gone_after_three_questions() {
        let mut table = NeighbourTable::default();
        table.wanted(id(1), 0);
        assert_eq!(table.mac(&id(1)), None);
        assert!(seen(&mut table, id(1), MAC, SECOND));
        assert!(!seen(&mut table, id(1), MAC, 2 * SECOND));
        assert_eq!(table.due(62 * SECOND - 1), None);
        assert_eq!(table.due(62 * SECOND), Some(Due::Ask(id(1), MAC)));
        assert_eq!(table.mac(&id(1)), Some(MAC), "it is used while it is asked");
        let asked = table.all[&id(1)];
        assert_eq!(asked.state, NeighbourState::Probe { mac: MAC, asked: 1 });
        assert_eq!(asked.since, 2 * SECOND);
        assert!(!seen(&mut table, id(1), MAC, 62 * SECOND));
        for second in [122, 123, 124] {
            assert_eq!(table.due(second * SECOND), Some(Due::Ask(id(1), MAC)));
            assert_eq!(table.due(second * SECOND), None);
        }
        assert_eq!(table.due(125 * SECOND), Some(Due::Gone(id(1))));
        assert_eq!((table.mac(&id(1)), table.next()), (None, None));
    }

    #[test]
    fn nobody_is_entered_whom_no_packet_wants() {
        let mut table = NeighbourTable::default();
        for solicited in [true, false] {
            assert!(!table.seen(id(1), MAC, solicited, 0, |_| false));
        }
        assert_eq!((table.iter().count(), table.next()), (0, None));
    }

    #[test]
    fn news_that_nobody_asked_for_only_change_what_is_known_and_are_checked_soon() {
        let mut table = NeighbourTable::default();
        resolve(&mut table, id(1), 0);
        let other = MacAddr([4; 6]);
        assert!(table.seen(id(1), other, false, SECOND, |_| false));
        assert_eq!(table.all[&id(1)].state, NeighbourState::Delay(other));
        assert_eq!(table.due(6 * SECOND), Some(Due::Ask(id(1), other)));
        table.wanted(id(2), 0);
        assert!(table.seen(id(2), MAC, false, 0, |_| false));
    }

    #[test]
    fn what_never_answers_displaces_only_its_like() {
        let mut table = NeighbourTable::default();
        let most = ANSWERED.of_one as u32;
        for number in 0..most {
            assert!(resolve(&mut table, id(number), 0));
        }
        for number in most..4 * most {
            table.wanted(id(number), 0);
        }
        assert_eq!((answered(&table), table.incomplete), (4096, 1024));
        // The newest are looked for.
        assert!(table.all.contains_key(&id(4 * most - 1)));
        assert!(!table.all.contains_key(&id(3 * most - 1)));
        assert!(table.take_evicted().is_empty());
        // The crowd on one link keeps nobody off another, and in all there is a bound, too.
        for interface in 2..20 {
            for number in 0..INCOMPLETE.of_one as u32 {
                table.wanted((interface, id(number).1), 0);
            }
        }
        assert_eq!(table.incomplete, INCOMPLETE.in_all);
        assert!(
            (2..20).all(|interface| table.count(interface, |share| share.incomplete.len()) > 0)
        );
        while table.due(INCOMPLETE_NS).is_some() {}
        assert_eq!((table.iter().count(), table.incomplete), (4096, 0));
    }

    #[test]
    fn who_answers_for_many_gives_way_to_those_who_answer_for_themselves() {
        let mut table = NeighbourTable::default();
        let honest = 500;
        for number in 0..honest {
            assert!(resolve(&mut table, id(number), 0));
        }
        // Every address of a large network, each wanted by somebody, and all by one station.
        for number in honest..40_000 {
            let now = u64::from(number) * SECOND / 5000;
            table.wanted(id(number), now);
            seen(&mut table, id(number), MAC, now);
        }
        assert!(answered(&table) > ANSWERED.of_one - AT_ONCE);
        assert!((0..honest).all(|number| table.mac(&id(number)) == Some(station(id(number)))));
        assert!(resolve(&mut table, id(50_000), 20 * SECOND));
    }

    #[test]
    fn who_is_wanted_finds_a_place_among_those_that_answer() {
        let mut table = NeighbourTable::default();
        let most = ANSWERED.of_one as u32;
        for number in 0..most {
            resolve(&mut table, id(number), 0);
        }
        let gateway = id(0);
        let mut places = 0;
        for number in most..2 * most {
            table.wanted(id(number), SECOND);
            places += u64::from(
                table.seen(id(number), station(id(number)), true, SECOND, |id| {
                    id == gateway
                }),
            );
        }
        assert_eq!(places, EVICTIONS.1, "so many at once");
        let evicted = table.take_evicted();
        assert_eq!(evicted.len() as u64, places);
        assert_eq!(evicted[0], id(1), "the oldest but for the next hop");
        assert_eq!(table.mac(&gateway), Some(station(gateway)));
        assert_eq!(answered(&table), ANSWERED.of_one);
        assert!(resolve(&mut table, id(1), 2 * SECOND));
        // Who floods one link takes nothing of what those on others need.
        let elsewhere = (2, id(1).1);
        assert!(resolve(&mut table, elsewhere, SECOND));
        for interface in 3..3 + (ANSWERED.in_all / ANSWERED.of_one) as u32 {
            for number in 0..most {
                resolve(&mut table, (interface, id(number).1), SECOND);
            }
        }
        assert_eq!(answered(&table), ANSWERED.in_all);
        assert_eq!(table.mac(&elsewhere), Some(station(elsewhere)));
        assert!(resolve(&mut table, (90, id(1).1), SECOND));
        assert_eq!(answered(&table), ANSWERED.in_all);
        let known = answered(&table);
        assert_eq!(table.forget(|_| true).len(), known);
        assert_eq!((table.iter().count(), table.next()), (0, None));
        assert!(table.shares.is_empty() && table.incomplete == 0);
    }

    #[test]
    fn what_never_answers_is_forgotten() {
        let mut table = NeighbourTable::default();
        table.wanted(id(1), 0);
        assert_eq!(table.due(INCOMPLETE_NS), None);
        assert_eq!(table.iter().count(), 0);
    }
}
