//! IPv4: a trie of four 8-bit strides, routes pushed to the leaves.
//!
//! ```text
//!   root slot -> node, 256 slots, bits 0-7 -> node, bits 8-15 -> node, bits 16-23 -> node, bits 24-31
//!                       each slot: an adjacency index, or the line of the next node
//! ```
//!
//! A /24 of the Internet table is found with three loads after the root's. A node exists only while a route longer
//! than the bits before it lies below; an empty table has no node at all.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use culvert_net::Ipv4Prefix;

use super::Change;
use super::pool::{Base, Line, Pool, PoolExhausted};
use crate::tables::ADJACENCY_NO_ROUTE;

/// The slot leads to a node; else it is an adjacency index.
const CHILD: u32 = 1 << 31;
/// Lines of a node: 256 slots of 4 bytes, and for the writer the prefix length of each.
const LINES: u32 = 20;
/// Where the lengths begin in a node.
const LENGTHS: usize = 1024;
/// Nodes of all tables of the process: two million routes of the Internet's shape need some 150,000.
const NODES: u32 = 1 << 20;

static POOL: LazyLock<Option<Pool>> = LazyLock::new(|| Pool::reserve(LINES, NODES).ok());

/// Bytes of the nodes of all IPv4 tables of the process.
pub fn node_bytes4() -> usize {
    POOL.as_ref().map_or(0, Pool::bytes_in_use)
}

/// IPv4 routes of one VRF: address to adjacency index. Changed by its [`Fib4Writer`] only.
pub struct Fib4 {
    root: AtomicU32,
    base: Option<Base>,
}

impl Default for Fib4 {
    fn default() -> Self {
        Self {
            root: AtomicU32::new(ADJACENCY_NO_ROUTE),
            base: POOL.as_ref().map(Pool::base),
        }
    }
}

impl Fib4 {
    /// The adjacency of the longest prefix that contains `address`;
    /// [`ADJACENCY_NO_ROUTE`] when there is none.
    #[inline(always)]
    pub fn lookup(&self, address: Ipv4Addr) -> u32 {
        let entry = self.root.load(Ordering::Acquire);
        let Some(base) = self.base else { return entry };
        let [a, b, c, d] = address.octets();
        let entry = step(base, entry, a);
        let entry = step(base, entry, b);
        let entry = step(base, entry, c);
        step(base, entry, d)
    }

    /// Looks up each of `addresses`; the results lie in `adjacencies` at the same places.
    #[inline]
    pub fn lookup_batch(&self, addresses: &[Ipv4Addr], adjacencies: &mut [u32]) {
        for (address, place) in addresses.iter().zip(&mut *adjacencies) {
            *place = address.to_bits();
        }
        self.lookup_in_place(adjacencies);
    }

    /// Puts its adjacency in the place of each address, which is given as a number. The loads of eight addresses overlap,
    /// which is what counts when the table is larger than the cache.
    #[inline]
    pub fn lookup_in_place(&self, addresses: &mut [u32]) {
        let root = self.root.load(Ordering::Acquire);
        let Some(base) = self.base.filter(|_| root & CHILD != 0) else {
            addresses.fill(root);
            return;
        };
        let (groups, rest) = addresses.as_chunks_mut::<8>();
        for group in groups {
            let mut entries = [root; 8];
            for octet in 0..4 {
                for (entry, address) in entries.iter_mut().zip(&*group) {
                    *entry = step(base, *entry, address.to_be_bytes()[octet]);
                }
            }
            *group = entries;
        }
        for address in rest {
            *address = self.lookup(Ipv4Addr::from_bits(*address));
        }
    }
}

/// From a slot's content to that of the slot below it; an adjacency stays what it is.
#[inline(always)]
fn step(base: Base, entry: u32, octet: u8) -> u32 {
    if entry & CHILD == 0 {
        entry
    } else {
        base.words::<256>(Line(entry & !CHILD))[octet as usize].load(Ordering::Acquire)
    }
}

impl Drop for Fib4 {
    /// The last owner is gone, so nobody reads: its nodes are free at once.
    fn drop(&mut self) {
        fn free(pool: &Pool, entry: u32) {
            if entry & CHILD != 0 {
                let line = Line(entry & !CHILD);
                for slot in pool.base().words::<256>(line) {
                    free(pool, slot.load(Ordering::Relaxed));
                }
                pool.free(line);
            }
        }
        if let Some(pool) = POOL.as_ref() {
            free(pool, *self.root.get_mut());
        }
    }
}

/// A slot with the length of the prefix that its leaf comes from.
#[derive(Clone, Copy)]
struct Slot<'a> {
    entry: &'a AtomicU32,
    length: &'a AtomicU8,
}

impl Slot<'_> {
    fn node(self) -> Option<Line> {
        let entry = self.entry.load(Ordering::Relaxed);
        (entry & CHILD != 0).then_some(Line(entry & !CHILD))
    }

    fn set_leaf(self, adjacency: u32, length: u8) {
        self.length.store(length, Ordering::Relaxed);
        self.entry.store(adjacency & !CHILD, Ordering::Release);
    }
}

fn slots(base: Base, line: Line) -> impl Iterator<Item = Slot<'static>> {
    let entries = base.words::<256>(line).iter();
    let lengths = base.bytes::<256>(line, LENGTHS).iter();
    entries
        .zip(lengths)
        .map(|(entry, length)| Slot { entry, length })
}

fn slot(base: Base, line: Line, octet: u8) -> Slot<'static> {
    Slot {
        entry: &base.words::<256>(line)[octet as usize],
        length: &base.bytes::<256>(line, LENGTHS)[octet as usize],
    }
}

/// The one that changes a [`Fib4`].
pub struct Fib4Writer {
    fib: Arc<Fib4>,
    root_length: AtomicU8,
    /// What is left when a route goes; the trie alone cannot tell.
    routes: HashMap<Ipv4Prefix, u32>,
}

impl Default for Fib4Writer {
    fn default() -> Self {
        Self {
            fib: Arc::default(),
            root_length: AtomicU8::new(0),
            routes: HashMap::new(),
        }
    }
}

impl Fib4Writer {
    /// What workers read.
    pub fn fib(&self) -> &Arc<Fib4> {
        &self.fib
    }

    /// The adjacency of exactly this prefix.
    pub fn get(&self, prefix: Ipv4Prefix) -> Option<u32> {
        self.routes.get(&prefix).copied()
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Leads what `prefix` covers, and no longer prefix does, to `adjacency` (below 2^31); replaces what the prefix led
    /// to before. Workers see it at once. Nothing has changed when the pool is exhausted.
    pub fn insert(&mut self, prefix: Ipv4Prefix, adjacency: u32) -> Result<(), PoolExhausted> {
        let pool = POOL.as_ref().ok_or(PoolExhausted)?;
        let _change = Change;
        let mut path = Path::new(self.root());
        while path.bits() < prefix.length() {
            let octet = prefix.address().octets()[path.len - 1];
            if let Err(full) = path.descend(pool, octet) {
                path.collapse(pool);
                return Err(full);
            }
        }
        path.covered(pool.base(), prefix, |slot| {
            if slot.length.load(Ordering::Relaxed) <= prefix.length() {
                slot.set_leaf(adjacency, prefix.length());
            }
        });
        self.routes.insert(prefix, adjacency);
        Ok(())
    }

    /// Takes the route of exactly `prefix` away; the adjacency that it led to, if it was there.
    pub fn remove(&mut self, prefix: Ipv4Prefix) -> Option<u32> {
        let pool = POOL.as_ref()?;
        let _change = Change;
        let adjacency = self.routes.remove(&prefix)?;
        let (below, below_length) = (0..prefix.length())
            .rev()
            .filter_map(|length| Ipv4Prefix::covering(prefix.address(), length).ok())
            .find_map(|cover| Some((*self.routes.get(&cover)?, cover.length())))
            .unwrap_or((ADJACENCY_NO_ROUTE, 0));
        let mut path = Path::new(self.root());
        while path.bits() < prefix.length() {
            let octet = prefix.address().octets()[path.len - 1];
            path.descend(pool, octet).ok()?;
        }
        path.covered(pool.base(), prefix, |slot| {
            if slot.length.load(Ordering::Relaxed) == prefix.length() {
                slot.set_leaf(below, below_length);
            }
        });
        path.collapse(pool);
        Some(adjacency)
    }

    fn root(&self) -> Slot<'_> {
        Slot {
            entry: &self.fib.root,
            length: &self.root_length,
        }
    }
}

/// The slots from the root's to the last one entered.
struct Path<'a> {
    slots: [Slot<'a>; 5],
    len: usize,
}

impl<'a> Path<'a> {
    fn new(root: Slot<'a>) -> Self {
        Self {
            slots: [root; 5],
            len: 1,
        }
    }

    /// Bits that one slot at the end of the path stands for.
    fn bits(&self) -> u8 {
        (self.len as u8 - 1) * 8
    }

    /// Enters the slot `octet` of the node below, which is made when there is none.
    fn descend(&mut self, pool: &Pool, octet: u8) -> Result<(), PoolExhausted> {
        let above = self.slots[self.len - 1];
        let node = if let Some(node) = above.node() {
            node
        } else {
            let node = pool.allocate()?;
            let (leaf, length) = (
                above.entry.load(Ordering::Relaxed),
                above.length.load(Ordering::Relaxed),
            );
            for slot in slots(pool.base(), node) {
                slot.set_leaf(leaf, length);
            }
            above.entry.store(CHILD | node.0, Ordering::Release);
            node
        };
        self.slots[self.len] = slot(pool.base(), node, octet);
        self.len += 1;
        Ok(())
    }

    /// Calls `change` with every leaf that `prefix`, which ends in the node of the last slot, covers.
    fn covered(&self, base: Base, prefix: Ipv4Prefix, mut change: impl FnMut(Slot<'_>)) {
        fn leaves(base: Base, at: Slot<'_>, change: &mut impl FnMut(Slot<'_>)) {
            match at.node() {
                Some(node) => slots(base, node).for_each(|below| leaves(base, below, change)),
                None => change(at),
            }
        }
        if self.len == 1 {
            return leaves(base, self.slots[0], &mut change);
        }
        let Some(node) = self.slots[self.len - 2].node() else {
            return;
        };
        let first = prefix.address().octets()[self.len - 2] as usize;
        let count = 1 << (self.bits() - prefix.length());
        for at in slots(base, node).skip(first).take(count) {
            leaves(base, at, &mut change);
        }
    }

    /// Gives up the nodes of the path in which no route of their own is left.
    fn collapse(&mut self, pool: &Pool) {
        while self.len > 1 {
            self.len -= 1;
            let above = self.slots[self.len - 1];
            let Some(node) = above.node() else { return };
            let bits = self.bits();
            let used = slots(pool.base(), node)
                .any(|slot| slot.node().is_some() || slot.length.load(Ordering::Relaxed) > bits);
            if used {
                return;
            }
            let any = slot(pool.base(), node, 0);
            above.set_leaf(
                any.entry.load(Ordering::Relaxed),
                any.length.load(Ordering::Relaxed),
            );
            pool.retire(node);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;
    use crate::fib::epoch;

    fn prefix(text: &str) -> Ipv4Prefix {
        text.parse().unwrap()
    }

    fn slow(model: &BTreeMap<Ipv4Prefix, u32>, address: Ipv4Addr) -> u32 {
        model
            .iter()
            .filter(|(prefix, _)| prefix.contains(address))
            .max_by_key(|(prefix, _)| prefix.length())
            .map_or(ADJACENCY_NO_ROUTE, |(_, adjacency)| *adjacency)
    }

    /// Addresses of few distinct bits, so that prefixes nest and share nodes.
    fn address() -> impl Strategy<Value = u32> {
        (any::<u32>(), any::<u32>())
            .prop_map(|(a, b)| (a & 0x0303_0303) | (b & 0x8080_8080 & (a << 1)))
    }

    #[test]
    fn the_longest_prefix_wins_and_its_removal_uncovers_the_next() {
        let mut writer = Fib4Writer::default();
        let fib = Arc::clone(writer.fib());
        let of = |text: &str| fib.lookup(text.parse().unwrap());
        assert_eq!(of("10.1.2.3"), ADJACENCY_NO_ROUTE);
        writer.insert(prefix("10.1.2.3/32"), 5).unwrap();
        writer.insert(prefix("0.0.0.0/0"), 2).unwrap();
        writer.insert(prefix("10.1.0.0/16"), 4).unwrap();
        writer.insert(prefix("10.0.0.0/7"), 3).unwrap();
        assert_eq!(
            ["10.1.2.3", "10.1.2.4", "11.0.0.0", "12.0.0.0"].map(of),
            [5, 4, 3, 2]
        );
        assert_eq!(writer.remove(prefix("10.1.0.0/16")), Some(4));
        assert_eq!(writer.remove(prefix("10.1.0.0/16")), None);
        assert_eq!(["10.1.2.3", "10.1.2.4"].map(of), [5, 3]);
        assert_eq!(writer.remove(prefix("10.1.2.3/32")), Some(5));
        assert_eq!(writer.remove(prefix("10.0.0.0/7")), Some(3));
        assert_eq!(of("10.1.2.3"), 2);
        assert_eq!(
            fib.root.load(Ordering::Relaxed),
            2,
            "no node is left when only the default route is"
        );
    }

    proptest! {
        #[test]
        fn behaves_like_a_slow_model(
            changes in proptest::collection::vec((address(), 0u8..=32, proptest::option::of(1u32..100)), 1..120),
            questions in proptest::collection::vec(address(), 60),
        ) {
            let (mut writer, mut model) = (Fib4Writer::default(), BTreeMap::new());
            let fib = Arc::clone(writer.fib());
            let addresses: Vec<_> = questions.into_iter().map(Ipv4Addr::from_bits).collect();
            for (bits, length, adjacency) in changes {
                let prefix = Ipv4Prefix::covering(Ipv4Addr::from_bits(bits), length).unwrap();
                if let Some(adjacency) = adjacency {
                    writer.insert(prefix, adjacency).unwrap();
                    model.insert(prefix, adjacency);
                } else {
                    prop_assert_eq!(writer.remove(prefix), model.remove(&prefix));
                }
                prop_assert_eq!(fib.lookup(prefix.address()), slow(&model, prefix.address()));
                prop_assert_eq!(fib.lookup(prefix.last()), slow(&model, prefix.last()));
            }
            let mut batch = vec![u32::MAX; addresses.len()];
            fib.lookup_batch(&addresses, &mut batch);
            for (address, found) in addresses.iter().zip(batch) {
                prop_assert_eq!(found, slow(&model, *address));
                prop_assert_eq!(fib.lookup(*address), found);
            }
            for prefix in model.keys() {
                writer.remove(*prefix);
            }
            prop_assert_eq!(fib.root.load(Ordering::Relaxed), ADJACENCY_NO_ROUTE, "all nodes are given back");
        }
    }

    /// Of readers between two quiescent points, and of the writer; fewer where each instruction is interpreted.
    const LOOKUPS: usize = if cfg!(miri) { 5 } else { 1000 };
    const CHANGES: usize = if cfg!(miri) { 40 } else { 20_000 };

    #[test]
    fn readers_see_old_or_new_and_never_anything_else() {
        let mut writer = Fib4Writer::default();
        let fib = Arc::clone(writer.fib());
        writer.insert(prefix("10.0.0.0/8"), 8).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..2u32 {
                let (fib, stop) = (&fib, &stop);
                scope.spawn(move || {
                    let worker = epoch::Participant::register();
                    let mut random = seed;
                    while !stop.load(Ordering::Relaxed) {
                        worker.quiescent();
                        for _ in 0..LOOKUPS {
                            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            let [x, y, ..] = random.to_be_bytes();
                            // Every address stays covered by the /8, and longer routes lead to their length.
                            let found = fib.lookup(Ipv4Addr::new(10, 0, x & 3, y));
                            assert!(matches!(found, 8 | 16..=32), "{found}");
                            let other = fib.lookup(Ipv4Addr::new(10, 9, x, y));
                            assert_eq!(other, 8);
                        }
                    }
                });
            }
            let mut random = 7u32;
            for _ in 0..CHANGES {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [x, y, z, _] = random.to_be_bytes();
                let length = 16 + z % 17;
                let route = Ipv4Prefix::covering(Ipv4Addr::new(10, 0, x & 3, y), length).unwrap();
                if writer.remove(route).is_none() {
                    writer.insert(route, u32::from(length)).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
