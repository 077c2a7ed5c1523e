//! What a worker remembers of the ways into tunnels.
//!
//! ```text
//!   adjacency -> interface -> policies -> SA -> route to the peer -> its adjacency      a dozen lines of memory
//!        '-----------------------------------------------------------------> [Way]      half a line
//! ```
//!
//! With one tunnel the way of the packet before is the way of the next. With thousands, each packet of a vector may go
//! another way, and following it costs more than encrypting a small packet. Here lies what came out the last time. It
//! holds until anything changes that it came from: the tables have a generation, the routes count their changes. A way
//! that depends on more than family and tunnel, because a policy looks into the packet, is not remembered.

use crate::fib;
use crate::prefetch;
use crate::tables::{PROTECTION, Tables};

/// Ways of each family that are remembered; two with the same low bits of their adjacencies push each other out.
const PLACES: usize = 1 << 14;

/// What a tunnel does with all packets of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The tunnel.
    pub interface: u32,
    /// Index of the SA.
    pub sa: u32,
    /// The adjacency by which ESP packets leave.
    pub underlay: u32,
    /// Bytes of the largest packet that goes in whole.
    pub inner_mtu: u16,
    /// What the MSS of TCP SYNs is lowered to.
    pub mss: Option<u16>,
    /// The SA is of transport mode.
    pub transport: bool,
}

/// See the module.
pub struct Ways {
    places: Box<[Place]>,
    /// Those that were filled since the last change have this number.
    epoch: u32,
    /// Of tables and routes.
    versions: (u64, u64),
}

/// Two lie in a cache line.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Place {
    epoch: u32,
    adjacency: u32,
    v6: bool,
    way: Way,
}

/// Nothing is remembered with this epoch.
const NEVER: u32 = 0;

const EMPTY: Place = Place {
    epoch: NEVER,
    adjacency: 0,
    v6: false,
    way: Way {
        interface: 0,
        sa: 0,
        underlay: 0,
        inner_mtu: 0,
        mss: None,
        transport: false,
    },
};

impl Default for Ways {
    fn default() -> Self {
        const { assert!(size_of::<Place>() == 32) };
        Self {
            places: vec![EMPTY; 2 * PLACES].into(),
            epoch: NEVER + 1,
            versions: (0, 0),
        }
    }
}

impl Ways {
    /// Forgets everything if anything has changed. To be called before what is remembered is looked up.
    #[inline(always)]
    pub fn keep_up(&mut self, tables: &Tables) {
        let versions = (tables.generation, fib::changes());
        if self.versions != versions {
            self.versions = versions;
            self.forget();
        }
    }

    /// The way of packets of this family and adjacency.
    #[inline(always)]
    pub fn get(&self, adjacency: u32, v6: bool) -> Option<&Way> {
        let place = self.places.get(place_of(adjacency, v6))?;
        (place.epoch == self.epoch && place.adjacency == adjacency && place.v6 == v6)
            .then_some(&place.way)
    }

    /// Keeps a way that was found since [`keep_up`](Self::keep_up).
    #[inline]
    pub fn put(&mut self, adjacency: u32, v6: bool, way: Way) {
        if let Some(place) = self.places.get_mut(place_of(adjacency, v6)) {
            *place = Place {
                epoch: self.epoch,
                adjacency,
                v6,
                way,
            };
        }
    }

    /// Asks for what is remembered of packets of this family and adjacency.
    #[inline(always)]
    pub fn prefetch(&self, adjacency: u32, v6: bool) {
        if let Some(place) = self.places.get(place_of(adjacency, v6)) {
            prefetch::line(place);
        }
    }

    #[cold]
    fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == NEVER {
            // What was remembered four thousand million changes ago would look new.
            self.places.fill(EMPTY);
            self.epoch = NEVER + 1;
        }
    }
}

#[inline(always)]
fn place_of(adjacency: u32, v6: bool) -> usize {
    (adjacency & !PROTECTION) as usize % PLACES + if v6 { PLACES } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::Ipv4Prefix;

    use super::*;
    use crate::fib::Fib4Writer;

    const WAY: Way = Way {
        interface: 3,
        sa: 5,
        underlay: 7,
        inner_mtu: 1400,
        mss: Some(1360),
        transport: false,
    };

    #[test]
    fn a_way_holds_until_tables_or_routes_change() {
        let mut ways = Ways::default();
        let mut tables = Tables::default();
        let mut routes = Fib4Writer::default();
        let prefix = Ipv4Prefix::new([10, 0, 0, 0].into(), 8).unwrap();
        for change in 0..3 {
            ways.keep_up(&tables);
            ways.put(9, false, WAY);
            assert_eq!(ways.get(9, false), Some(&WAY));
            match change {
                0 => tables.generation += 1,
                1 => routes.insert(prefix, 9).unwrap(),
                _ => assert_eq!(routes.remove(prefix), Some(9)),
            }
            ways.keep_up(&tables);
            assert_eq!(ways.get(9, false), None);
        }
    }

    #[test]
    fn families_and_adjacencies_are_told_apart() {
        let mut ways = Ways::default();
        ways.put(9, false, WAY);
        let twin = 9 + PLACES as u32;
        for (adjacency, v6) in [
            (9, true),
            (9 | PROTECTION, false),
            (twin, false),
            (10, false),
        ] {
            assert_eq!(ways.get(adjacency, v6), None, "{adjacency:#x} {v6}");
        }
        ways.put(9, true, Way { sa: 6, ..WAY });
        assert_eq!(ways.get(9, false), Some(&WAY));
        ways.put(twin, false, WAY);
        assert_eq!(ways.get(9, false), None);
        assert_eq!(ways.get(9, true).unwrap().sa, 6);
    }

    #[test]
    fn epochs_that_come_round_bring_nothing_back() {
        let mut ways = Ways::default();
        ways.put(9, false, WAY);
        ways.epoch = u32::MAX;
        ways.forget();
        assert_eq!(ways.get(9, false), None);
        assert!(ways.places.iter().all(|place| place.epoch == NEVER));
    }
}
