//! The fragments that wait for the rest of their packets: one table for each worker. Another one like it has those of
//! packets on their way elsewhere, which wait only until their first fragment has shown its ports.
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
//! A fragment waits in the buffer in which it came, so the limit on fragments is one on bytes, too: 4,096 of them (the
//! default) hold 8 MiB in buffers of 2 KiB, a quarter of a worker's. Nothing is allocated after [`Table::new`].

mod context;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use arrayvec::ArrayVec;
use culvert_net::Protocol;
use culvert_net::fragment::Place;

use self::context::Context;

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
    /// From the first fragment of an IPv4 packet to its last, in nanoseconds.
    pub timeout4: u64,
    /// The same of IPv6.
    pub timeout6: u64,
}

/// Half of the least that RFC 1122 section 3.3.2 recommends, as in Linux: 16 bits of identification come round sooner than
/// that on any fast link, and what is still there then is put together with what is not its own (RFC 4963).
const TIMEOUT4: u64 = 30_000_000_000;
/// What RFC 8200 section 4.5 says; 32 bits of identification last longer.
const TIMEOUT6: u64 = 60_000_000_000;

impl Limits {
    /// How long the fragments of a packet may wait for the last one.
    const fn timeout(&self, key: &Key) -> u64 {
        if key.source.is_ipv4() {
            self.timeout4
        } else {
            self.timeout6
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packets: 1024,
            fragments: 4096,
            timeout4: TIMEOUT4,
            timeout6: TIMEOUT6,
        }
    }
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the VRF.
    pub vrf: u32,
    /// What else packets of different origins do not share.
    pub origin: u64,
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Of IPv4 only: fragments of IPv6 packets do not have it in common (RFC 8200 section 4.5).
    pub protocol: u8,
    /// Which packet.
    pub identification: u32,
}

/// What the first fragment of a packet says of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Behind IPv6's extension headers.
    pub protocol: Protocol,
    /// Source and destination port in the high and the low half; 0 where there are none, or nobody asks.
    pub ports: u32,
}

/// What is to become of the packet, as far as this fragment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It is put together; it may have so many bytes of payload.
    Collect(usize),
    /// Its fragments go on as they are. No two of its fragments may say different things here.
    Pass(Transport),
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
    Passed(Transport),
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
        // What passes at once takes nobody's room.
        let known = self.contexts.get(slot).and_then(Option::as_ref);
        let passes = known.map_or(intent, |context| context.intent);
        let waits = !matches!(
            (passes, intent),
            (Intent::Pass(_), _) | (_, Intent::Pass(_))
        );
        if waits && self.waiting >= self.limits.fragments as usize {
            self.give_room(slot, gone);
        }
        let full = waits && self.waiting >= self.limits.fragments as usize;
        let Some(context) = self.contexts.get_mut(slot) else {
            return Outcome::Refused(packet, Why::Crowded);
        };
        let context = match context {
            Some(context) => context,
            None if full => return Outcome::Refused(packet, Why::Crowded),
            None => {
                self.packets += 1;
                let at = now + self.limits.timeout(&key).max(SEARCH_INTERVAL);
                self.search_at = Some(self.search_at.map_or(at, |sooner| sooner.min(at)));
                self.born += 1;
                context.insert(Context::new(key, now, self.born))
            }
        };
        let before = context.pieces.len();
        let outcome = if full && context.given_up.is_none() {
            Outcome::Refused(packet, Why::Crowded)
        } else {
            context.take(place, intent, packet, gone)
        };
        let after = context.pieces.len();
        let over = matches!(outcome, Outcome::Whole(_)) || context.is_through();
        self.waiting = self.waiting + after - before;
        if let Some(held) = self.held.get_mut(slot / WAYS) {
            *held = *held + after - before;
        }
        if over {
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
        let mut next: Option<u64> = None;
        for slot in 0..self.contexts.len() {
            let Some(Some(context)) = self.contexts.get_mut(slot) else {
                continue;
            };
            let until = context.since + self.limits.timeout(&context.key);
            if now < until {
                next = Some(next.map_or(until, |sooner| sooner.min(until)));
                continue;
            }
            self.waiting -= context.pieces.len();
            if let Some(held) = self.held.get_mut(slot / WAYS) {
                *held -= context.pieces.len();
            }
            context.pieces.drain(..).for_each(&mut gone);
            self.remove(slot);
        }
        self.search_at = next.map(|until| until.max(now + SEARCH_INTERVAL));
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
