//! The fragments that wait for the rest of their packets: one table for each worker.
//!
//! ```text
//!   key (VRF, source, destination, protocol, identification) --hash of VRF and source--> one set of WAYS contexts
//!                                                                                       tag | context
//!   a context:  | 0..1480 | 1480..2960 |  (gap)  | 4440..4600, last |   in order, no two overlap
//! ```
//!
//! All fragments of a packet come to one worker: the kernel and the NIC hash them by addresses and protocol alone.
//!
//! A source owns the contexts of its set and no others, so that one that sends fragments without end pushes out its own
//! (and those of the few sources in its set), the oldest first, and leaves everybody else's alone. Sources are spread by
//! a hash with a key of the process, so none can choose its set.
//!
//! When no more fragments may wait, the set that holds the most gives up its oldest packet: a few sources with many
//! fragments a packet cannot take what all share, and whoever holds less than they do loses nothing.
//!
//! Fragments that overlap are no accident: the whole packet is given up, and what comes of it later too (RFC 5722, and
//! the same for IPv4). An exact copy of a fragment that is there is dropped alone (RFC 8200 section 4.5).
//!
//! Nothing is allocated after [`Table::new`].

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use arrayvec::ArrayVec;
use culvert_net::fragment::Place;

/// Fragments of one packet, at most: 65,535 bytes over links of 1,280 take 52.
pub const MOST_PIECES: usize = 64;
/// Contexts of one set.
const WAYS: usize = 32;
/// Between two searches for contexts whose time is up, in nanoseconds.
const SEARCH_INTERVAL: u64 = 100_000_000;

/// How much may wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets of which fragments wait, on each worker; rounded up to whole sets.
    pub packets: u32,
    /// Fragments that wait, on each worker.
    pub fragments: u32,
    /// From the first fragment of a packet to its last, in nanoseconds.
    pub timeout: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packets: 1024,
            fragments: 4096,
            timeout: 30_000_000_000,
        }
    }
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the VRF.
    pub vrf: u32,
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Of IPv4 only: fragments of IPv6 packets do not have it in common (RFC 8200 section 4.5).
    pub protocol: u8,
    /// Which packet.
    pub identification: u32,
}

/// What is to become of the packet, as far as this fragment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It is put together; it may have so many bytes of payload.
    Collect(usize),
    /// Its fragments go on as they are.
    Pass,
    /// Another fragment will tell.
    Unknown,
}

/// One fragment.
#[derive(Debug, PartialEq, Eq)]
pub struct Fragment<T> {
    /// Where its payload belongs.
    pub place: Place,
    /// What holds its bytes.
    pub packet: T,
}

/// Why a fragment does not wait any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A fragment of the packet overlaps another, or contradicts it about the packet's length.
    Overlap,
    /// A fragment that is there already.
    Duplicate,
    /// The packet would be longer than can be put together.
    TooLarge,
    /// The packet has more fragments than [`MOST_PIECES`].
    TooMany,
    /// Another packet took its place, or no more fragments may wait.
    Crowded,
    /// The rest of the packet did not come in time.
    TimedOut,
    /// The packet is passed on in fragments.
    Passed,
}

/// What has become of a fragment.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It waits.
    Waits,
    /// The packet is whole: its fragments in order, without gaps.
    Whole(ArrayVec<Fragment<T>, MOST_PIECES>),
    /// It does not wait.
    Refused(T, Why),
}

/// Fragments that others have pushed out: all of one context at most, twice.
pub type Gone<T> = ArrayVec<(T, Why), { 2 * MOST_PIECES }>;

struct Context<T> {
    key: Key,
    since: u64,
    /// How many contexts there were before it: many have the same time.
    born: u64,
    intent: Intent,
    /// Given up; what comes of it is refused for this reason until its time is up.
    given_up: Option<Why>,
    /// Bytes of the whole payload, once the last fragment is there.
    total: Option<usize>,
    bytes: usize,
    pieces: ArrayVec<Fragment<T>, MOST_PIECES>,
}

/// See the module.
pub struct Table<T> {
    limits: Limits,
    hasher: RandomState,
    tags: Box<[u64]>,
    contexts: Box<[Option<Context<T>>]>,
    waiting: usize,
    /// Of those that wait, how many in each set.
    held: Box<[usize]>,
    packets: usize,
    born: u64,
    search_at: Option<u64>,
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        let slots = (limits.packets as usize).max(1).next_multiple_of(WAYS);
        Self {
            limits,
            hasher: RandomState::new(),
            tags: std::iter::repeat_n(0, slots).collect(),
            contexts: std::iter::repeat_with(|| None).take(slots).collect(),
            waiting: 0,
            held: std::iter::repeat_n(0, slots / WAYS).collect(),
            packets: 0,
            born: 0,
            search_at: None,
        }
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Fragments that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Packets of which something is known.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Takes a fragment in; those that have to go for it are put into `gone`.
    pub fn insert(
        &mut self,
        key: Key,
        place: Place,
        intent: Intent,
        packet: T,
        now: u64,
        gone: &mut Gone<T>,
    ) -> Outcome<T> {
        let slot = self.slot(&key, gone);
        if self.waiting >= self.limits.fragments as usize {
            self.give_room(slot, gone);
        }
        let full = self.waiting >= self.limits.fragments as usize;
        let Some(context) = self.contexts.get_mut(slot) else {
            return Outcome::Refused(packet, Why::Crowded);
        };
        let context = match context {
            Some(context) => context,
            None if full => return Outcome::Refused(packet, Why::Crowded),
            None => {
                self.packets += 1;
                self.search_at
                    .get_or_insert(now + self.limits.timeout.max(SEARCH_INTERVAL));
                self.born += 1;
                context.insert(Context::new(key, now, self.born))
            }
        };
        let before = context.pieces.len();
        let outcome = if full && context.given_up.is_none() && context.intent != Intent::Pass {
            Outcome::Refused(packet, Why::Crowded)
        } else {
            context.take(place, intent, packet, gone)
        };
        let after = context.pieces.len();
        self.waiting = self.waiting + after - before;
        if let Some(held) = self.held.get_mut(slot / WAYS) {
            *held = *held + after - before;
        }
        if matches!(outcome, Outcome::Whole(_)) {
            self.remove(slot);
        }
        outcome
    }

    /// When [`Table::expire`] has something to do.
    pub fn next_search(&self) -> Option<u64> {
        self.search_at
    }

    /// Gives up the packets whose time is up: each of their fragments, the first of a packet first.
    pub fn expire(&mut self, now: u64, mut gone: impl FnMut(Fragment<T>)) {
        if self.search_at.is_none_or(|at| now < at) {
            return;
        }
        let mut oldest: Option<u64> = None;
        for slot in 0..self.contexts.len() {
            let Some(Some(context)) = self.contexts.get_mut(slot) else {
                continue;
            };
            if now.saturating_sub(context.since) < self.limits.timeout {
                oldest = Some(oldest.map_or(context.since, |oldest| oldest.min(context.since)));
                continue;
            }
            self.waiting -= context.pieces.len();
            if let Some(held) = self.held.get_mut(slot / WAYS) {
                *held -= context.pieces.len();
            }
            context.pieces.drain(..).for_each(&mut gone);
            self.remove(slot);
        }
        self.search_at =
            oldest.map(|oldest| (oldest + self.limits.timeout).max(now + SEARCH_INTERVAL));
    }

    /// Gives up everything.
    pub fn clear(&mut self, mut gone: impl FnMut(T)) {
        for slot in 0..self.contexts.len() {
            if let Some(Some(context)) = self.contexts.get_mut(slot) {
                context
                    .pieces
                    .drain(..)
                    .for_each(|piece| gone(piece.packet));
                self.remove(slot);
            }
        }
        self.waiting = 0;
        self.held.fill(0);
        self.search_at = None;
    }

    /// The slot of the packet's context, or an empty one for it: the oldest of the set has to go if there is none.
    fn slot(&mut self, key: &Key, gone: &mut Gone<T>) -> usize {
        let sets = self.contexts.len() / WAYS;
        let set = self.hasher.hash_one((key.vrf, key.source)) as usize % sets.max(1);
        // The lowest bit tells a tag from that of an empty slot.
        let tag = self.hasher.hash_one(key) | 1;
        let first = set * WAYS;
        let mut free = None;
        let mut oldest = (u64::MAX, first);
        for slot in first..first + WAYS {
            match (self.tags.get(slot), self.contexts.get(slot)) {
                (Some(have), Some(Some(context))) => {
                    if *have == tag && context.key == *key {
                        return slot;
                    }
                    if context.born < oldest.0 {
                        oldest = (context.born, slot);
                    }
                }
                _ => free = free.or(Some(slot)),
            }
        }
        let slot = free.unwrap_or_else(|| {
            self.evict(oldest.1, gone);
            oldest.1
        });
        if let Some(place) = self.tags.get_mut(slot) {
            *place = tag;
        }
        slot
    }

    /// Pushes out the oldest other context that holds anything of the set that holds the most.
    fn give_room(&mut self, slot: usize, gone: &mut Gone<T>) {
        let own = slot / WAYS;
        let fullest = self
            .held
            .iter()
            .enumerate()
            .max_by_key(|(set, held)| (**held, *set == own))
            .map_or(own, |(set, _)| set);
        let first = fullest * WAYS;
        let oldest = (first..first + WAYS)
            .filter(|other| *other != slot)
            .filter_map(|other| {
                let context = self.contexts.get(other)?.as_ref()?;
                (!context.pieces.is_empty()).then_some((context.born, other))
            })
            .min();
        if let Some((_, other)) = oldest {
            self.evict(other, gone);
        }
    }

    fn evict(&mut self, slot: usize, gone: &mut Gone<T>) {
        if let Some(Some(context)) = self.contexts.get_mut(slot) {
            self.waiting -= context.pieces.len();
            if let Some(held) = self.held.get_mut(slot / WAYS) {
                *held -= context.pieces.len();
            }
            context.give_up(Why::Crowded, gone);
        }
        self.remove(slot);
    }

    fn remove(&mut self, slot: usize) {
        if let Some(context) = self.contexts.get_mut(slot)
            && context.take().is_some()
        {
            self.packets -= 1;
        }
        if let Some(tag) = self.tags.get_mut(slot) {
            *tag = 0;
        }
    }
}

impl<T> Context<T> {
    fn new(key: Key, since: u64, born: u64) -> Self {
        Self {
            key,
            since,
            born,
            intent: Intent::Unknown,
            given_up: None,
            total: None,
            bytes: 0,
            pieces: ArrayVec::new(),
        }
    }

    fn take(&mut self, place: Place, intent: Intent, packet: T, gone: &mut Gone<T>) -> Outcome<T> {
        if self.intent == Intent::Unknown {
            self.intent = intent;
        }
        if self.intent == Intent::Pass {
            self.give_up(Why::Passed, gone);
            return Outcome::Refused(packet, Why::Passed);
        }
        if let Some(why) = self.given_up {
            return Outcome::Refused(packet, why);
        }
        let (start, end) = (usize::from(place.offset), place.end());
        let at = self
            .pieces
            .partition_point(|piece| piece.place.offset < place.offset);
        let twin = self.pieces.get(at).map(|piece| piece.place);
        if twin.is_some_and(|twin| {
            twin.offset == place.offset && twin.length == place.length && twin.more == place.more
        }) {
            return Outcome::Refused(packet, Why::Duplicate);
        }
        let behind = twin.is_some_and(|next| usize::from(next.offset) < end);
        let before = at
            .checked_sub(1)
            .and_then(|at| self.pieces.get(at))
            .is_some_and(|piece| piece.place.end() > start);
        let total = if place.more { self.total } else { Some(end) };
        let contradicts = self.total.is_some() && total != self.total
            || total.is_some_and(|total| end > total)
            || !place.more
                && self
                    .pieces
                    .last()
                    .is_some_and(|last| last.place.end() > end);
        let furthest = self
            .pieces
            .last()
            .map_or(0, |last| last.place.end())
            .max(end);
        let why = if behind || before || contradicts {
            Why::Overlap
        } else if matches!(self.intent, Intent::Collect(most) if furthest > most) {
            Why::TooLarge
        } else if self.pieces.is_full() {
            Why::TooMany
        } else {
            self.total = total;
            self.bytes += usize::from(place.length);
            self.pieces.insert(at, Fragment { place, packet });
            let whole = self.total == Some(self.bytes) && self.intent != Intent::Unknown;
            return if whole {
                Outcome::Whole(std::mem::take(&mut self.pieces))
            } else {
                Outcome::Waits
            };
        };
        self.give_up(why, gone);
        Outcome::Refused(packet, why)
    }

    fn give_up(&mut self, why: Why, gone: &mut Gone<T>) {
        self.given_up = Some(why);
        gone.extend(self.pieces.drain(..).map(|piece| (piece.packet, why)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use culvert_net::Protocol;
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(source: u8, identification: u32) -> Key {
        Key {
            vrf: 0,
            source: IpAddr::from([192, 0, 2, source]),
            destination: IpAddr::from([198, 51, 100, 1]),
            protocol: 50,
            identification,
        }
    }

    fn place(offset: u16, length: u16, more: bool) -> Place {
        Place {
            offset,
            length,
            more,
            identification: 0,
            protocol: Protocol::ESP,
            header: 20,
        }
    }

    fn table(packets: u32, fragments: u32) -> Table<u32> {
        Table::new(Limits {
            packets,
            fragments,
            timeout: 30 * SECOND,
        })
    }

    const COLLECT: Intent = Intent::Collect(65_535);

    fn put(
        table: &mut Table<u32>,
        key: Key,
        place: Place,
        number: u32,
    ) -> (Outcome<u32>, Vec<(u32, Why)>) {
        let mut gone = Gone::new();
        let outcome = table.insert(key, place, COLLECT, number, SECOND, &mut gone);
        (outcome, gone.into_iter().collect())
    }

    fn order(outcome: &Outcome<u32>) -> Option<Vec<u32>> {
        match outcome {
            Outcome::Whole(pieces) => Some(pieces.iter().map(|piece| piece.packet).collect()),
            _ => None,
        }
    }

    #[test]
    fn a_packet_is_whole_when_nothing_is_missing_in_any_order() {
        for order_of in [
            [0, 1, 2],
            [2, 1, 0],
            [1, 2, 0],
            [2, 0, 1],
            [0, 2, 1],
            [1, 0, 2],
        ] {
            let mut table = table(32, 100);
            let all = [place(0, 8, true), place(8, 16, true), place(24, 1, false)];
            let mut whole = None;
            for number in order_of {
                assert!(whole.is_none());
                let (outcome, gone) = put(&mut table, key(1, 7), all[number as usize], number);
                assert!(gone.is_empty());
                whole = order(&outcome);
            }
            assert_eq!(whole, Some(vec![0, 1, 2]));
            assert_eq!((table.waiting(), table.packets()), (0, 0));
        }
    }

    #[test]
    fn an_overlap_gives_the_packet_up_and_a_copy_does_not() {
        let mut table = table(32, 100);
        put(&mut table, key(1, 7), place(8, 16, true), 0);
        let (outcome, gone) = put(&mut table, key(1, 7), place(8, 16, true), 1);
        assert!(matches!(outcome, Outcome::Refused(1, Why::Duplicate)) && gone.is_empty());
        let (outcome, gone) = put(&mut table, key(1, 7), place(16, 16, true), 2);
        assert!(matches!(outcome, Outcome::Refused(2, Why::Overlap)));
        assert_eq!(gone, [(0, Why::Overlap)]);
        for (number, later) in [place(0, 8, true), place(24, 8, false)]
            .into_iter()
            .enumerate()
        {
            let (outcome, _) = put(&mut table, key(1, 7), later, number as u32);
            assert!(
                matches!(outcome, Outcome::Refused(_, Why::Overlap)),
                "it stays given up"
            );
        }
        assert_eq!((table.waiting(), table.packets()), (0, 1));
    }

    #[test]
    fn two_ends_contradict_each_other() {
        for second in [place(0, 8, false), place(24, 8, false), place(32, 8, true)] {
            let mut table = table(32, 100);
            put(&mut table, key(1, 7), place(8, 8, false), 0);
            let (outcome, _) = put(&mut table, key(1, 7), second, 1);
            assert!(
                matches!(outcome, Outcome::Refused(1, Why::Overlap)),
                "{second:?}"
            );
        }
    }

    #[test]
    fn a_source_pushes_out_its_own_oldest_and_nobody_elses() {
        let mut table = table(64 * WAYS as u32, 1_000_000);
        let set = |table: &Table<u32>, source| {
            table.hasher.hash_one((0_u32, key(source, 0).source)) as usize % 64
        };
        let honest = (2..=255)
            .find(|source| set(&table, *source) != set(&table, 1))
            .unwrap();
        put(&mut table, key(honest, 7), place(0, 8, true), 0);
        for number in 0..100_000 {
            let (_, gone) = put(&mut table, key(1, number), place(0, 8, true), number);
            let pushed = number.checked_sub(WAYS as u32);
            assert_eq!(
                gone,
                pushed
                    .map(|old| (old, Why::Crowded))
                    .into_iter()
                    .collect::<Vec<_>>()
            );
        }
        let (outcome, _) = put(&mut table, key(honest, 7), place(8, 8, false), 1);
        assert_eq!(order(&outcome), Some(vec![0, 1]));
    }

    #[test]
    fn sources_that_fill_the_table_do_not_keep_others_out() {
        let mut table = table(32 * WAYS as u32, 4096);
        let flood = |table: &mut Table<u32>, from: u32| {
            for source in 1..=10 {
                for number in from..from + 40 {
                    for at in 0..60 {
                        put(table, key(source, number), place(at * 8, 8, true), 9);
                        assert!(table.waiting() <= 4096);
                    }
                }
            }
            assert!(table.waiting() > 4096 - MOST_PIECES, "the table is full");
        };
        flood(&mut table, 0);
        let set = |source| table.hasher.hash_one((0_u32, key(source, 0).source)) as usize % 32;
        // Nothing waits in the sets of these, so that there they could push nobody out.
        let honest: Vec<u8> = (11..=255)
            .filter(|source| (1..=10).all(|bad| set(*source) != set(bad)))
            .take(20)
            .collect();
        assert_eq!(honest.len(), 20);
        for (number, source) in honest.into_iter().enumerate() {
            let key = self::key(source, 7);
            let (first, _) = put(&mut table, key, place(0, 1480, true), 0);
            assert!(matches!(first, Outcome::Waits), "{source}: {first:?}");
            for bad in 1..=3 {
                for packet in 0..40 {
                    for at in 0..60 {
                        let key = self::key(bad, 1000 + 40 * number as u32 + packet);
                        put(&mut table, key, place(at * 8, 8, true), 9);
                    }
                }
            }
            let (last, _) = put(&mut table, key, place(1480, 100, false), 1);
            assert_eq!(order(&last), Some(vec![0, 1]), "{source}");
        }
        assert_eq!(table.held.iter().sum::<usize>(), table.waiting());
    }

    #[test]
    fn no_more_fragments_wait_than_may() {
        let mut table = table(32, 10);
        for number in 0..100 {
            put(&mut table, key(1, number), place(0, 8, true), number);
            assert!(table.waiting() <= 10);
        }
        let mut table = self::table(32, 4);
        for number in 0..10 {
            let (outcome, _) = put(
                &mut table,
                key(1, 7),
                place(number * 8, 8, true),
                number.into(),
            );
            assert_eq!(matches!(outcome, Outcome::Waits), number < 4);
        }
    }

    #[test]
    fn time_runs_out_from_the_first_fragment_on() {
        let mut table = table(32, 100);
        let mut gone = Gone::new();
        table.insert(key(1, 7), place(8, 8, true), COLLECT, 1, SECOND, &mut gone);
        table.insert(
            key(1, 7),
            place(0, 8, true),
            COLLECT,
            0,
            20 * SECOND,
            &mut gone,
        );
        table.insert(
            key(1, 8),
            place(0, 8, true),
            COLLECT,
            2,
            20 * SECOND,
            &mut gone,
        );
        assert_eq!(table.next_search(), Some(31 * SECOND));
        let mut late = Vec::new();
        table.expire(31 * SECOND - 1, |piece| late.push(piece.packet));
        assert!(late.is_empty());
        table.expire(31 * SECOND, |piece| late.push(piece.packet));
        assert_eq!(late, [0, 1]);
        assert_eq!(table.next_search(), Some(50 * SECOND));
        table.expire(50 * SECOND, |piece| late.push(piece.packet));
        assert_eq!((late, table.next_search()), (vec![0, 1, 2], None));
        assert_eq!((table.waiting(), table.packets()), (0, 0));
    }

    #[test]
    fn what_is_not_to_be_put_together_passes_once_that_is_known() {
        let mut table = table(32, 100);
        let mut gone = Gone::new();
        let mut put = |place, intent, number| {
            gone.clear();
            let outcome = table.insert(key(1, 7), place, intent, number, SECOND, &mut gone);
            (
                matches!(outcome, Outcome::Refused(_, Why::Passed)),
                gone.to_vec(),
            )
        };
        assert_eq!(
            put(place(1480, 1480, true), Intent::Unknown, 0),
            (false, vec![])
        );
        assert_eq!(
            put(place(0, 1480, true), Intent::Pass, 1),
            (true, vec![(0, Why::Passed)])
        );
        assert_eq!(
            put(place(2960, 100, false), Intent::Unknown, 2),
            (true, vec![])
        );
    }

    #[test]
    fn a_packet_that_is_too_large_is_given_up_at_its_first_excess() {
        let mut table = table(32, 100);
        let mut gone = Gone::new();
        let intent = Intent::Collect(2000);
        table.insert(
            key(1, 7),
            place(0, 1480, true),
            intent,
            0,
            SECOND,
            &mut gone,
        );
        let outcome = table.insert(
            key(1, 7),
            place(1480, 528, false),
            intent,
            1,
            SECOND,
            &mut gone,
        );
        assert!(matches!(outcome, Outcome::Refused(1, Why::TooLarge)));
        assert_eq!(gone.as_slice(), [(0, Why::TooLarge)]);
    }

    /// What RFC 5722 says, byte by byte.
    #[derive(Default)]
    struct Model {
        bytes: BTreeMap<usize, u32>,
        seen: Vec<Place>,
        end: Option<usize>,
        bad: bool,
    }

    impl Model {
        fn take(&mut self, place: Place, number: u32) -> Option<Vec<u32>> {
            if self.bad || self.seen.contains(&place) {
                return None;
            }
            self.seen.push(place);
            let range = usize::from(place.offset)..place.end();
            self.bad |= range.clone().any(|at| self.bytes.contains_key(&at));
            self.bytes.extend(range.map(|at| (at, number)));
            if !place.more {
                self.bad |= self.end.is_some_and(|end| end != place.end());
                self.end = Some(place.end());
            }
            let furthest = self.bytes.keys().next_back().copied().unwrap_or(0) + 1;
            self.bad |= self.end.is_some_and(|end| furthest > end);
            self.bad |= self.seen.len() > MOST_PIECES;
            (!self.bad && self.end == Some(self.bytes.len())).then(|| {
                let mut order: Vec<u32> = self.bytes.values().copied().collect();
                order.dedup();
                order
            })
        }
    }

    proptest! {
        #[test]
        fn the_table_does_what_the_model_does(
            offers in prop::collection::vec((0u16..12, 1u16..5, prop::bool::weighted(0.8), 0u16..8), 1..60),
        ) {
            let mut table = table(32, 1000);
            let mut model = Model::default();
            for (number, (offset, units, more, short)) in offers.into_iter().enumerate() {
                let length = if more { units * 8 } else { units * 8 - short };
                let place = place(offset * 8, length, more);
                let (outcome, gone) = put(&mut table, key(1, 7), place, number as u32);
                let expected = model.take(place, number as u32);
                let whole = order(&outcome);
                prop_assert_eq!(&whole, &expected);
                if expected.is_some() {
                    model = Model::default();
                }
                prop_assert!(gone.len() <= MOST_PIECES);
                prop_assert!(!model.bad || table.waiting() == 0);
            }
        }
    }
}
