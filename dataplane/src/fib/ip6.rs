//! IPv6: a path-compressed trie of 4-bit strides.
//!
//! ```text
//!   node (two lines):  | prefix 16 | depth | fallback | lengths of 16 leaves |  | 16 slots |
//!
//!   root slot -> node at depth 0 -> node at depth 8 -> leaf        2001:db8::/32 among fc00::/7
//! ```
//!
//! A node at depth `d` has checked `d` nibbles and decides by the next one; nibbles in which all routes below agree
//! are skipped, so the way to a route is as long as the number of places where it differs from others. A slot holds a
//! leaf, a node, or nothing. The leaf of a slot that holds a node lies in that node as its *fallback*: what counts
//! when nothing below fits. A route of length `L` lies in the node at depth `(L - 1) / 4`, in all slots that it covers.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use culvert_net::Ipv6Prefix;

use super::Change;
use super::pool::{Base, Line, Pool, PoolExhausted};
use crate::prefetch;
use crate::tables::ADJACENCY_NO_ROUTE;

/// The slot leads to a node; else it is a leaf (an adjacency index plus one) or nothing (zero).
const CHILD: u32 = 1 << 31;
/// Lines of a node.
const LINES: u32 = 2;
/// Nodes of all tables of the process: some two for each of 500,000 routes, with as much again in hand.
const NODES: u32 = 1 << 21;
/// Words of a node: the prefix takes four.
const DEPTH: usize = 4;
const FALLBACK: usize = 5;
const SLOTS: usize = 16;
/// Bytes before the lengths.
const LENGTHS: usize = 32;
/// Addresses of a batch that go down together: as many misses as a core has under way, or more.
const TOGETHER: usize = 16;
/// More steps than there are nibbles means that the reader has been overtaken by the reuse of a node.
const MOST_STEPS: usize = 33;

static POOL: LazyLock<Option<Pool>> = LazyLock::new(|| Pool::reserve(LINES, NODES).ok());

/// Bytes of the nodes of all IPv6 tables of the process.
pub fn node_bytes6() -> usize {
    POOL.as_ref().map_or(0, Pool::bytes_in_use)
}

/// IPv6 routes of one VRF: address to adjacency index. Changed by its [`Fib6Writer`] only.
pub struct Fib6 {
    root: AtomicU32,
    base: Option<Base>,
}

impl Default for Fib6 {
    fn default() -> Self {
        Self {
            root: AtomicU32::new(0),
            base: POOL.as_ref().map(Pool::base),
        }
    }
}

impl Fib6 {
    /// The adjacency of the longest prefix that contains `address`;
    /// [`ADJACENCY_NO_ROUTE`] when there is none.
    #[inline(always)]
    pub fn lookup(&self, address: Ipv6Addr) -> u32 {
        let key = address.to_bits();
        let mut walk = Walk::from(self.root.load(Ordering::Acquire));
        if let Some(base) = self.base {
            for _ in 0..MOST_STEPS {
                if walk.entry & CHILD == 0 {
                    break;
                }
                walk.step(base, key);
            }
        }
        walk.adjacency()
    }

    /// Looks up each of `addresses`; the results lie in `adjacencies` at the same places. Sixteen go down together, a node
    /// at a time, so that their misses overlap: alone each would wait for every node on its way.
    pub fn lookup_batch(&self, addresses: &[Ipv6Addr], adjacencies: &mut [u32]) {
        let root = self.root.load(Ordering::Acquire);
        let Some(base) = self.base.filter(|_| root & CHILD != 0) else {
            adjacencies.fill(Walk::from(root).adjacency());
            return;
        };
        if let ([address], [adjacency]) = (addresses, &mut *adjacencies) {
            *adjacency = self.lookup(*address);
            return;
        }
        let groups = addresses.chunks(TOGETHER);
        for (addresses, adjacencies) in groups.zip(adjacencies.chunks_mut(TOGETHER)) {
            let mut walks = [Walk::from(root); TOGETHER];
            for _ in 0..MOST_STEPS {
                let mut on = 0;
                for (walk, address) in walks.iter_mut().zip(addresses) {
                    if walk.entry & CHILD != 0 {
                        walk.step(base, address.to_bits());
                        on |= walk.entry & CHILD;
                    }
                }
                if on == 0 {
                    break;
                }
            }
            for (walk, adjacency) in walks.iter().zip(adjacencies) {
                *adjacency = walk.adjacency();
            }
        }
    }
}

/// One address on its way down.
#[derive(Clone, Copy)]
struct Walk {
    /// What the slot before holds.
    entry: u32,
    /// The leaf of the longest route so far.
    best: u32,
}

impl Walk {
    #[inline(always)]
    const fn from(root: u32) -> Self {
        Self {
            entry: root,
            best: ADJACENCY_NO_ROUTE + 1,
        }
    }

    /// Through the node that `entry` leads to.
    #[inline(always)]
    fn step(&mut self, base: Base, key: u128) {
        let node = View::at(base, Line(self.entry & !CHILD));
        let fallback = node.words[FALLBACK].load(Ordering::Acquire);
        if fallback != 0 {
            self.best = fallback;
        }
        let depth = node.words[DEPTH].load(Ordering::Relaxed);
        self.entry = if differs(key, node.prefix(), depth) {
            0
        } else {
            node.words[SLOTS + nibble(key, depth)].load(Ordering::Acquire)
        };
        if self.entry & CHILD != 0 {
            let next = View::at(base, Line(self.entry & !CHILD));
            prefetch::whole(next.words);
        }
    }

    /// What was found. Whoever still stands before a node was overtaken by the reuse of one, and has what was best so far.
    #[inline(always)]
    fn adjacency(self) -> u32 {
        let found = self.entry != 0 && self.entry & CHILD == 0;
        (if found { self.entry } else { self.best }) - 1
    }
}

/// The two differ in one of the first `depth` nibbles.
#[inline(always)]
fn differs(a: u128, b: u128, depth: u32) -> bool {
    (a ^ b).leading_zeros() < depth * 4
}

/// Nibble number `depth`, from the left, as a place in a node's slots.
#[inline(always)]
fn nibble(key: u128, depth: u32) -> usize {
    (key >> (124 - depth.min(31) * 4)) as usize & 15
}

/// A node.
#[derive(Clone, Copy)]
struct View {
    line: Line,
    words: &'static [AtomicU32; 32],
    base: Base,
}

impl View {
    #[inline(always)]
    fn at(base: Base, line: Line) -> Self {
        Self {
            line,
            words: base.words(line),
            base,
        }
    }

    #[inline(always)]
    fn prefix(&self) -> u128 {
        let [high, low] = self.base.longs::<2>(self.line);
        u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed))
    }

    fn depth(&self) -> u32 {
        self.words[DEPTH].load(Ordering::Relaxed)
    }

    fn fallback(&self) -> u32 {
        self.words[FALLBACK].load(Ordering::Relaxed)
    }

    fn lengths(&self) -> &'static [AtomicU8; 16] {
        self.base.bytes(self.line, LENGTHS)
    }

    fn slot(&self, place: usize) -> Slot<'static> {
        Slot {
            entry: &self.words[SLOTS + place % 16],
            length: &self.lengths()[place % 16],
        }
    }

    fn slots(&self) -> impl Iterator<Item = Slot<'static>> + use<> {
        let this = *self;
        (0..16).map(move |place| this.slot(place))
    }

    /// Writes everything but the slots, which are emptied.
    fn fill(&self, prefix: u128, depth: u32, fallback: u32) {
        let [high, low] = self.base.longs::<2>(self.line);
        high.store((prefix >> 64) as u64, Ordering::Relaxed);
        low.store(prefix as u64, Ordering::Relaxed);
        self.words[DEPTH].store(depth, Ordering::Relaxed);
        self.words[FALLBACK].store(fallback, Ordering::Relaxed);
        for slot in self.slots() {
            slot.entry.store(0, Ordering::Relaxed);
            slot.length.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Fib6 {
    /// The last owner is gone, so nobody reads: its nodes are free at once.
    fn drop(&mut self) {
        fn free(pool: &Pool, entry: u32) {
            if entry & CHILD != 0 {
                let node = View::at(pool.base(), Line(entry & !CHILD));
                for slot in node.slots() {
                    free(pool, slot.entry.load(Ordering::Relaxed));
                }
                pool.free(node.line);
            }
        }
        if let Some(pool) = POOL.as_ref() {
            free(pool, *self.root.get_mut());
        }
    }
}

/// A slot, with the prefix length of its leaf (zero: none, but at the root the default route).
#[derive(Clone, Copy)]
struct Slot<'a> {
    entry: &'a AtomicU32,
    length: &'a AtomicU8,
}

impl Slot<'_> {
    fn node(self, base: Base) -> Option<View> {
        let entry = self.entry.load(Ordering::Relaxed);
        (entry & CHILD != 0).then(|| View::at(base, Line(entry & !CHILD)))
    }

    /// Sets the leaf (zero: none), which lies in the node below if there is one.
    fn set_leaf(self, base: Base, leaf: u32, length: u8) {
        self.length.store(length, Ordering::Relaxed);
        match self.node(base) {
            Some(below) => below.words[FALLBACK].store(leaf, Ordering::Release),
            None => self.entry.store(leaf, Ordering::Release),
        }
    }

    fn lead_to(self, node: View) {
        self.entry.store(CHILD | node.line.0, Ordering::Release);
    }
}

/// The one that changes a [`Fib6`].
pub struct Fib6Writer {
    fib: Arc<Fib6>,
    root_length: AtomicU8,
    /// What is left when a route goes.
    routes: HashMap<Ipv6Prefix, u32>,
}

impl Default for Fib6Writer {
    fn default() -> Self {
        Self {
            fib: Arc::default(),
            root_length: AtomicU8::new(0),
            routes: HashMap::new(),
        }
    }
}

impl Fib6Writer {
    /// What workers read.
    pub fn fib(&self) -> &Arc<Fib6> {
        &self.fib
    }

    /// The adjacency of exactly this prefix.
    pub fn get(&self, prefix: Ipv6Prefix) -> Option<u32> {
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

    fn root(&self) -> Slot<'_> {
        Slot {
            entry: &self.fib.root,
            length: &self.root_length,
        }
    }

    /// Leads what `prefix` covers, and no longer prefix does, to `adjacency` (below 2^31 - 1); replaces what the prefix
    /// led to before. Workers see it at once. No lookup has changed when the pool is exhausted.
    pub fn insert(&mut self, prefix: Ipv6Prefix, adjacency: u32) -> Result<(), PoolExhausted> {
        let pool = POOL.as_ref().ok_or(PoolExhausted)?;
        let _change = Change;
        let base = pool.base();
        let leaf = adjacency + 1;
        let Some(depth) = depth_of(prefix) else {
            self.root().set_leaf(base, leaf, 0);
            self.routes.insert(prefix, adjacency);
            return Ok(());
        };
        let node = make(pool, self.root(), prefix, depth)?;
        for place in places(prefix, depth) {
            let slot = node.slot(place);
            if slot.length.load(Ordering::Relaxed) <= prefix.length() {
                slot.set_leaf(base, leaf, prefix.length());
            }
        }
        self.routes.insert(prefix, adjacency);
        Ok(())
    }

    /// Takes the route of exactly `prefix` away; the adjacency that it led to, if it was there.
    pub fn remove(&mut self, prefix: Ipv6Prefix) -> Option<u32> {
        let pool = POOL.as_ref()?;
        let _change = Change;
        let base = pool.base();
        let adjacency = self.routes.remove(&prefix)?;
        let Some(depth) = depth_of(prefix) else {
            self.root().set_leaf(base, 0, 0);
            return Some(adjacency);
        };
        let key = prefix.address().to_bits();
        let mut above = vec![self.root()];
        let node = loop {
            let slot = *above.last()?;
            let node = slot.node(base)?;
            if node.depth() == depth {
                break node;
            }
            above.push(node.slot(nibble(key, node.depth())));
        };
        // Shorter prefixes that lie in other nodes are their slots' business.
        let (leaf, length) = (depth as u8 * 4 + 1..prefix.length())
            .rev()
            .filter_map(|length| Ipv6Prefix::covering(prefix.address(), length).ok())
            .find_map(|cover| Some((*self.routes.get(&cover)? + 1, cover.length())))
            .unwrap_or((0, 0));
        for place in places(prefix, depth) {
            let slot = node.slot(place);
            if slot.length.load(Ordering::Relaxed) == prefix.length() {
                slot.set_leaf(base, leaf, length);
            }
        }
        while let Some(slot) = above.pop() {
            if !shrink(pool, slot) {
                break;
            }
        }
        Some(adjacency)
    }
}

/// The depth of the node in which a route lies; none for the default route.
fn depth_of(prefix: Ipv6Prefix) -> Option<u32> {
    Some((u32::from(prefix.length()).checked_sub(1)?) / 4)
}

/// The slots that a route covers in its node.
fn places(prefix: Ipv6Prefix, depth: u32) -> std::ops::Range<usize> {
    let first = nibble(prefix.address().to_bits(), depth);
    first..first + (1 << (depth * 4 + 4 - u32::from(prefix.length())))
}

/// The node at `depth` on the way of `prefix` below `slot`, made when there is none.
fn make(
    pool: &Pool,
    root: Slot<'_>,
    prefix: Ipv6Prefix,
    depth: u32,
) -> Result<View, PoolExhausted> {
    let base = pool.base();
    let key = prefix.address().to_bits();
    let mut slot = Slot { ..root };
    loop {
        let Some(node) = slot.node(base) else {
            let made = View::at(base, pool.allocate()?);
            made.fill(key, depth, slot.entry.load(Ordering::Relaxed));
            slot.lead_to(made);
            return Ok(made);
        };
        let common = ((key ^ node.prefix()).leading_zeros() / 4)
            .min(depth)
            .min(node.depth());
        if common == node.depth() {
            if common == depth {
                return Ok(node);
            }
            slot = node.slot(nibble(key, common));
            continue;
        }
        // The ways part before that node: one more goes between. The node's fallback is the new one's then, and as a
        // reader may stand between the two, the node is not changed but replaced.
        let between = View::at(base, pool.allocate()?);
        let copy = match pool.allocate() {
            Ok(line) => View::at(base, line),
            Err(full) => {
                pool.free(between.line);
                return Err(full);
            }
        };
        between.fill(key, common, node.fallback());
        copy.fill(node.prefix(), node.depth(), 0);
        for (from, to) in node.slots().zip(copy.slots()) {
            to.entry
                .store(from.entry.load(Ordering::Relaxed), Ordering::Relaxed);
            to.length
                .store(from.length.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        between.slot(nibble(node.prefix(), common)).lead_to(copy);
        slot.lead_to(between);
        pool.retire(node.line);
        if common == depth {
            return Ok(between);
        }
        slot = between.slot(nibble(key, common));
    }
}

/// Gives up the node below `slot` if it has become needless: whether the node above may have, too.
fn shrink(pool: &Pool, slot: Slot<'_>) -> bool {
    let base = pool.base();
    let Some(node) = slot.node(base) else {
        return true;
    };
    if node
        .slots()
        .any(|slot| slot.length.load(Ordering::Relaxed) != 0)
    {
        return false;
    }
    let mut below = node.slots().filter_map(|slot| slot.node(base));
    match (below.next(), below.next()) {
        (None, _) => {
            slot.entry.store(node.fallback(), Ordering::Release);
            pool.retire(node.line);
            true
        }
        (Some(only), None) => {
            // For a reader that comes through the old node this changes nothing.
            only.words[FALLBACK].store(node.fallback(), Ordering::Release);
            slot.lead_to(only);
            pool.retire(node.line);
            false
        }
        _ => false,
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

    fn slow(model: &BTreeMap<Ipv6Prefix, u32>, address: Ipv6Addr) -> u32 {
        model
            .iter()
            .filter(|(prefix, _)| prefix.contains(address))
            .max_by_key(|(prefix, _)| prefix.length())
            .map_or(ADJACENCY_NO_ROUTE, |(_, adjacency)| *adjacency)
    }

    /// Few distinct addresses, so that prefixes nest, split and share nodes.
    fn address() -> impl Strategy<Value = u128> {
        (any::<u128>(), any::<bool>()).prop_map(|(bits, wide)| {
            let mask = if wide {
                0x1000_0300_0000_0000_0100_0000_0000_0007
            } else {
                0xc000_0000_0000_0001_0000_0000_0000_8001
            };
            bits & mask
        })
    }

    #[test]
    fn link_local_and_documentation_prefixes_are_told_apart() {
        let mut writer = Fib6Writer::default();
        let fib = Arc::clone(writer.fib());
        for (adjacency, prefix) in [
            "::/0",
            "fe80::/10",
            "2001:db8::/32",
            "2001:db8:1::/48",
            "2001:db8:1::5/128",
        ]
        .iter()
        .enumerate()
        {
            writer
                .insert(prefix.parse().unwrap(), adjacency as u32 + 10)
                .unwrap();
        }
        let of = |text: &str| fib.lookup(text.parse().unwrap());
        assert_eq!(
            [
                "2001:db8:1::5",
                "2001:db8:1::6",
                "2001:db8:2::5",
                "febf::1",
                "fec0::1",
                "2001:db9::"
            ]
            .map(of),
            [14, 13, 12, 11, 10, 10]
        );
        writer.remove("2001:db8:1::/48".parse().unwrap());
        assert_eq!(["2001:db8:1::5", "2001:db8:1::6"].map(of), [14, 12]);
        writer.remove("::/0".parse().unwrap());
        assert_eq!(
            ["2001:db8:1::5", "::1", "fec0::1"].map(of),
            [14, ADJACENCY_NO_ROUTE, ADJACENCY_NO_ROUTE]
        );
    }

    proptest! {
        #[test]
        fn behaves_like_a_slow_model(
            changes in proptest::collection::vec((address(), 0u8..=128, proptest::option::weighted(0.7, 0u32..100)), 1..120),
            questions in proptest::collection::vec(address(), 0..60),
        ) {
            let (mut writer, mut model) = (Fib6Writer::default(), BTreeMap::new());
            let fib = Arc::clone(writer.fib());
            for (bits, length, adjacency) in changes {
                let prefix = Ipv6Prefix::covering(Ipv6Addr::from_bits(bits), length).unwrap();
                if let Some(adjacency) = adjacency {
                    writer.insert(prefix, adjacency).unwrap();
                    model.insert(prefix, adjacency);
                } else {
                    prop_assert_eq!(writer.remove(prefix), model.remove(&prefix));
                }
                prop_assert_eq!(fib.lookup(prefix.address()), slow(&model, prefix.address()));
                prop_assert_eq!(fib.lookup(prefix.last()), slow(&model, prefix.last()));
            }
            let questions: Vec<_> = questions.into_iter().map(Ipv6Addr::from_bits).collect();
            let mut together = vec![u32::MAX; questions.len()];
            fib.lookup_batch(&questions, &mut together);
            for (address, found) in questions.into_iter().zip(together) {
                prop_assert_eq!(fib.lookup(address), slow(&model, address));
                prop_assert_eq!(found, slow(&model, address));
            }
            let all: Vec<_> = model.keys().copied().collect();
            for prefix in all {
                writer.remove(prefix);
                model.remove(&prefix);
                prop_assert_eq!(fib.lookup(prefix.address()), slow(&model, prefix.address()));
            }
            prop_assert_eq!(fib.root.load(Ordering::Relaxed), 0, "all nodes are given back");
        }
    }

    /// Of readers between two quiescent points, and of the writer; fewer where each instruction is interpreted.
    const LOOKUPS: usize = if cfg!(miri) { 5 } else { 1000 };
    const CHANGES: usize = if cfg!(miri) { 40 } else { 20_000 };

    #[test]
    fn readers_see_old_or_new_and_never_anything_else() {
        let mut writer = Fib6Writer::default();
        let fib = Arc::clone(writer.fib());
        writer.insert("2001:db8::/32".parse().unwrap(), 32).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..2u32 {
                let (fib, stop) = (&fib, &stop);
                scope.spawn(move || {
                    let worker = epoch::Participant::register();
                    let mut random = seed;
                    let mut asked = [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0); 2 * TOGETHER];
                    while !stop.load(Ordering::Relaxed) {
                        worker.quiescent();
                        for _ in 0..LOOKUPS {
                            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            let [x, y, z, _] =
                                random.to_be_bytes().map(|byte| u16::from(byte & 0x13));
                            let address = Ipv6Addr::new(0x2001, 0xdb8, x, 0, y, 0, 0, z);
                            let found = fib.lookup(address);
                            assert!(matches!(found, 32..=128), "{found}");
                            asked.rotate_left(1);
                            asked[0] = address;
                        }
                        let mut found = [0; 2 * TOGETHER];
                        fib.lookup_batch(&asked, &mut found);
                        assert!(found.iter().all(|one| matches!(one, 32..=128)), "{found:?}");
                    }
                });
            }
            let mut random = 7u32;
            for _ in 0..CHANGES {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [x, y, z, w] = random.to_be_bytes();
                let [x, y, z] = [x, y, z].map(|byte| u16::from(byte & 0x13));
                let length = 33 + w % 96;
                let address = Ipv6Addr::new(0x2001, 0xdb8, x, 0, y, 0, 0, z);
                let route = Ipv6Prefix::covering(address, length).unwrap();
                if writer.remove(route).is_none() {
                    writer.insert(route, u32::from(length)).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
