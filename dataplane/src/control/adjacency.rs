//! Adjacencies: who needs which, and which index each has.
//!
//! Routes that go the same way share one adjacency, so what happens to a neighbour or a link is written in one place,
//! however many routes it concerns. An index that nothing uses any more rests for a while before it stands for something
//! else: a worker may still hold it.

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use crate::drop_reason::DropReason;
use crate::tables::ADJACENCY_LOCAL;

/// Time that an index rests: far longer than a worker's round.
const REST_NS: u64 = 2_000_000_000;

/// What an adjacency is for; its content follows from that and from the state of interfaces and neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Straight out of this interface: the destination is on the link, or behind the tunnel.
    Link(u32),
    /// By this neighbour.
    Neighbour(u32, IpAddr),
    /// By this gateway, wherever the routes of this VRF find it.
    Gateway(u32, IpAddr),
    /// By the routes of this VRF.
    Lookup(u32),
    /// Spread over these adjacencies.
    Multipath(Vec<u32>),
    /// Nowhere, for this reason.
    Drop(DropReason),
}

#[derive(Debug)]
struct Entry {
    key: Key,
    users: u32,
}

/// Indexes of adjacencies by something else.
type Index = HashMap<u32, BTreeSet<u32>>;

/// The indexes of all adjacencies in use.
#[derive(Debug, Default)]
pub(super) struct Adjacencies {
    entries: HashMap<u32, Entry>,
    by_key: HashMap<Key, u32>,
    /// Gateways by index: few, and looked at again with each change of routes.
    gateways: BTreeSet<u32>,
    /// Those that lead out of an interface, by the interface's index.
    by_interface: Index,
    /// Those that spread over another, by that one's index.
    by_member: Index,
    resting: VecDeque<(u64, u32)>,
    highest: u32,
}

impl Adjacencies {
    /// One more user of `key`: its index, and whether it is new. A multipath adjacency takes over the uses of its members
    /// that the caller holds.
    pub(super) fn acquire(&mut self, key: Key, now: u64) -> (u32, bool) {
        if let Some(index) = self.by_key.get(&key) {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.users += 1;
            }
            let index = *index;
            if let Key::Multipath(members) = key {
                for member in members {
                    self.release(member, now);
                }
            }
            return (index, false);
        }
        let rested = self.resting.pop_front_if(|(until, _)| *until <= now);
        let index = if let Some((_, index)) = rested {
            index
        } else {
            self.highest = self.highest.max(ADJACENCY_LOCAL) + 1;
            self.highest
        };
        match &key {
            Key::Link(interface) | Key::Neighbour(interface, _) => {
                enter(&mut self.by_interface, *interface, index);
            }
            Key::Gateway(..) => {
                self.gateways.insert(index);
            }
            Key::Multipath(members) => {
                for member in members {
                    enter(&mut self.by_member, *member, index);
                }
            }
            Key::Drop(_) | Key::Lookup(_) => {}
        }
        self.by_key.insert(key.clone(), index);
        self.entries.insert(index, Entry { key, users: 1 });
        (index, true)
    }

    /// One user less.
    pub(super) fn release(&mut self, index: u32, now: u64) {
        let Some(entry) = self.entries.get_mut(&index) else {
            return;
        };
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        if let Some(entry) = self.entries.remove(&index) {
            self.by_key.remove(&entry.key);
            self.resting.push_back((now + REST_NS, index));
            match entry.key {
                Key::Link(interface) | Key::Neighbour(interface, _) => {
                    leave(&mut self.by_interface, interface, index);
                }
                Key::Gateway(..) => {
                    self.gateways.remove(&index);
                }
                Key::Multipath(members) => {
                    for member in members {
                        leave(&mut self.by_member, member, index);
                        self.release(member, now);
                    }
                }
                Key::Drop(_) | Key::Lookup(_) => {}
            }
        }
    }

    /// What an index is for.
    pub(super) fn key(&self, index: u32) -> Option<&Key> {
        self.entries.get(&index).map(|entry| &entry.key)
    }

    /// The index of what is in use.
    pub(super) fn index(&self, key: &Key) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Routes lead by this neighbour, besides the one that it has itself.
    pub(super) fn is_next_hop(&self, interface: u32, address: IpAddr) -> bool {
        let users = self
            .by_key
            .get(&Key::Neighbour(interface, address))
            .and_then(|index| self.entries.get(index))
            .map_or(0, |entry| entry.users);
        let is_gateway = |index| match self.key(index) {
            Some(Key::Gateway(_, gateway)) => *gateway == address,
            _ => false,
        };
        users > 1 || self.gateways.iter().any(|index| is_gateway(*index))
    }

    /// A route of some VRF leads into this one.
    pub(super) fn lead_into(&self, vrf: u32) -> bool {
        self.by_key.keys().any(|key| match key {
            Key::Gateway(other, _) | Key::Lookup(other) => *other == vrf,
            _ => false,
        })
    }

    /// Those that lead out of an interface.
    pub(super) fn of_interface(&self, interface: u32) -> impl Iterator<Item = u32> {
        self.by_interface
            .get(&interface)
            .into_iter()
            .flatten()
            .copied()
    }

    /// Those that spread over another.
    pub(super) fn spread_over(&self, member: u32) -> impl Iterator<Item = u32> {
        self.by_member.get(&member).into_iter().flatten().copied()
    }

    /// All indexes in use.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.entries.keys().copied()
    }

    /// Those of gateways.
    pub(super) fn gateways(&self) -> &BTreeSet<u32> {
        &self.gateways
    }
}

fn enter(index: &mut Index, key: u32, adjacency: u32) {
    index.entry(key).or_default().insert(adjacency);
}

fn leave(index: &mut Index, key: u32, adjacency: u32) {
    if let Place::Occupied(mut place) = index.entry(key) {
        place.get_mut().remove(&adjacency);
        if place.get().is_empty() {
            place.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn indexes_are_shared_and_rest_before_they_are_used_again() {
        let mut all = Adjacencies::default();
        let (lan, is_new) = all.acquire(Key::Link(1), 0);
        assert!(is_new && lan > ADJACENCY_LOCAL);
        assert_eq!(all.acquire(Key::Link(1), 0), (lan, false));
        let (wan, _) = all.acquire(Key::Link(2), 0);
        let (both, _) = all.acquire(Key::Multipath(vec![lan, wan]), 0);
        assert!(all.spread_over(wan).eq([both]) && all.of_interface(2).eq([wan]));
        all.release(lan, 0);
        assert_eq!(all.key(lan), Some(&Key::Link(1)), "the multipath uses it");
        all.release(both, 5);
        assert_eq!(
            (all.key(lan), all.key(wan), all.key(both)),
            (None, None, None)
        );
        assert!(all.spread_over(wan).next().is_none() && all.of_interface(2).next().is_none());
        let (other, _) = all.acquire(Key::Drop(DropReason::RouteBlackhole), 5 + REST_NS - 1);
        assert!(![lan, wan, both].contains(&other));
        let (reused, _) = all.acquire(Key::Link(7), 5 + REST_NS);
        assert!([lan, wan, both].contains(&reused));
        assert_eq!(all.index(&Key::Link(7)), Some(reused));
    }
}
