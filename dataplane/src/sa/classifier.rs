//! Which of many selectors matches a packet first, without trying one after the other (RFC 4301 section 4.4.1).
//!
//! ```text
//!   destination trie      source trie           protocol, destination port, source port: likewise
//!        /0 ----------------> /0 -----> [few]
//!       /  \                 /  \
//!  10.1/16  10.2/16 -> [few]     10.9/16 -> [few]          [few]: at most 8, compared whole, in the order of rank
//! ```
//!
//! A trie for each field of a packet, one inside the other: a node stands for a prefix of the field's bits and leads on
//! to the selectors that have this prefix there. A group becomes a trie only when it has more members than a comparison
//! with each is worth, so the usual selectors, which differ in an address, lie in one trie. A range that is no prefix is
//! covered by two; what is found is compared whole, so that covering too much costs time only. Every subtree knows its
//! best rank, and none is entered that cannot better what was found.
//!
//! Nodes are shared between versions: a change makes new ones along one path for each of the at most sixteen places of
//! a selector (four prefixes of addresses, four of ports) and leaves the others as they are, so adding one of ten
//! thousand costs what adding the first one does.

use std::cmp::Reverse;
use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_net::{AddressRange, Addresses, Flow, PortRange, Selector};

/// Selectors of a group that are compared one by one.
const FEW: usize = 8;
/// Fields of a packet that tell selectors apart.
const FIELDS: usize = 5;

/// Where a selector stands: the lowest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Lower comes first, before all else.
    pub priority: u32,
    /// Behind its equals: what has no SA yet.
    pub last: bool,
    /// Newest first among equals.
    pub number: Reverse<u32>,
}

impl Rank {
    /// Behind all others.
    const WORST: Self = Self {
        priority: u32::MAX,
        last: true,
        number: Reverse(0),
    };
}

/// What is found by a selector.
pub trait Selects {
    /// Which packets.
    fn selector(&self) -> &Selector;
    /// Where it stands; no two have the same.
    fn rank(&self) -> Rank;
}

/// Selectors of both families; a clone shares everything.
#[derive(Debug)]
pub struct Classifier<T> {
    v4: Group<T>,
    v6: Group<T>,
}

impl<T> Clone for Classifier<T> {
    fn clone(&self) -> Self {
        Self {
            v4: self.v4.clone(),
            v6: self.v6.clone(),
        }
    }
}

impl<T> Default for Classifier<T> {
    fn default() -> Self {
        Self {
            v4: Group::default(),
            v6: Group::default(),
        }
    }
}

impl<T: Selects> Classifier<T> {
    /// Puts one in.
    pub fn insert(&mut self, item: &Arc<T>) {
        let selector = item.selector();
        let group = self.of_family_mut(is_v6(selector));
        for place in places(selector) {
            *group = group.with(&place, 0, item);
        }
    }

    /// Takes out the best with this selector for which `which` holds.
    pub fn remove(&mut self, selector: &Selector, which: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let places = places(selector);
        let group = self.of_family_mut(is_v6(selector));
        let found = group
            .at(places.first()?)
            .iter()
            .find(|held| held.item.selector() == selector && which(&held.item))?;
        let (item, rank) = (Arc::clone(&found.item), found.rank);
        for place in &places {
            *group = group.without(place, 0, rank);
        }
        Some(item)
    }

    /// The first that matches.
    #[inline]
    pub fn find(&self, flow: &Flow) -> Option<&Arc<T>> {
        let (group, [destination, source]) = match flow.addresses {
            Addresses::V4 {
                source,
                destination,
            } => (
                &self.v4,
                [destination, source].map(|address| left(address.to_bits().into(), 32)),
            ),
            Addresses::V6 {
                source,
                destination,
            } => (
                &self.v6,
                [destination, source].map(std::net::Ipv6Addr::to_bits),
            ),
        };
        // Without ports only whole ranges match, and those lie at the prefix of no bits.
        let (from, to) = flow.ports.unwrap_or_default();
        let keys = [
            destination,
            source,
            left(flow.protocol.0.into(), 8),
            left(to.into(), 16),
            left(from.into(), 16),
        ];
        let mut best = None;
        group.search(flow, &keys, &mut best);
        best.map(|held| &held.item)
    }

    /// The first of a family, whatever it matches.
    pub fn first(&self, v6: bool) -> Option<&Arc<T>> {
        let mut group = if v6 { &self.v6 } else { &self.v4 };
        let rank = group.best()?;
        loop {
            match group {
                Group::Few(few) => return few.first().map(|held| &held.item),
                Group::Trie(node) => group = node.group_of(rank)?,
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.best().is_none() && self.v6.best().is_none()
    }

    fn of_family_mut(&mut self, v6: bool) -> &mut Group<T> {
        if v6 { &mut self.v6 } else { &mut self.v4 }
    }
}

/// Selectors that have the same prefixes in all fields looked at so far.
#[derive(Debug)]
enum Group<T> {
    /// In the order of their ranks.
    Few(Arc<[Held<T>]>),
    /// By the next field.
    Trie(Arc<Node<T>>),
}

/// One selector with its rank at hand.
#[derive(Debug)]
struct Held<T> {
    rank: Rank,
    item: Arc<T>,
}

/// A prefix of a field.
#[derive(Debug)]
struct Node<T> {
    prefix: Prefix,
    /// Of all below.
    best: Rank,
    /// Those that have this very prefix; `None` where two longer ones part.
    here: Option<Group<T>>,
    /// Those of longer prefixes, by their next bit.
    longer: [Option<Arc<Node<T>>>; 2],
}

/// The first `length` bits of a field; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    bits: u128,
    length: u8,
}

/// The prefixes of a selector in each field.
type Place = [Prefix; FIELDS];

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Few(few) => Self::Few(Arc::clone(few)),
            Self::Trie(node) => Self::Trie(Arc::clone(node)),
        }
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self {
            rank: self.rank,
            item: Arc::clone(&self.item),
        }
    }
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        Self {
            prefix: self.prefix,
            best: self.best,
            here: self.here.clone(),
            longer: self.longer.clone(),
        }
    }
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self::Few(Arc::new([]))
    }
}

impl<T: Selects> Group<T> {
    /// Its best rank; `None`: it is empty.
    fn best(&self) -> Option<Rank> {
        match self {
            Self::Few(few) => few.first().map(|held| held.rank),
            Self::Trie(node) => Some(node.best),
        }
    }

    /// With one more in the place that its prefixes name from `field` on. Doing it twice does it once.
    fn with(&self, place: &Place, field: usize, item: &Arc<T>) -> Self {
        let (few, prefix) = match (self, place.get(field)) {
            (Self::Trie(node), Some(prefix)) => {
                let node = Node::with(Some(node), *prefix, &|here| {
                    here.with(place, field + 1, item)
                });
                return Self::Trie(node);
            }
            // No field is left at the end: a trie never stands there.
            (Self::Trie(_), None) => return self.clone(),
            (Self::Few(few), prefix) => (few, prefix),
        };
        let rank = item.rank();
        let at = few.partition_point(|held| held.rank < rank);
        if few.get(at).is_some_and(|held| held.rank == rank) {
            return self.clone();
        }
        if few.len() >= FEW && prefix.is_some() {
            return self.by_field(few, place, field).with(place, field, item);
        }
        let (before, behind) = few.split_at(at);
        let item = Held {
            rank,
            item: Arc::clone(item),
        };
        let all = before.iter().cloned().chain([item]);
        Self::Few(all.chain(behind.iter().cloned()).collect())
    }

    /// The same members, told apart by a field. `place` is that of any of them up to there.
    fn by_field(&self, few: &[Held<T>], place: &Place, field: usize) -> Self {
        let mut root = None;
        for held in few {
            for own in places(held.item.selector()) {
                // Those of its places that are of this group.
                if own.get(..field) == place.get(..field)
                    && let Some(prefix) = own.get(field)
                {
                    let change = |here: &Self| here.with(&own, field + 1, &held.item);
                    root = Some(Node::with(root.as_ref(), *prefix, &change));
                }
            }
        }
        root.map_or_else(|| self.clone(), Self::Trie)
    }

    /// Without the one of this rank in the place that its prefixes name from `field` on.
    fn without(&self, place: &Place, field: usize, rank: Rank) -> Self {
        match (self, place.get(field)) {
            (Self::Few(few), _) => {
                if few.iter().any(|held| held.rank == rank) {
                    let rest = few.iter().filter(|held| held.rank != rank);
                    Self::Few(rest.cloned().collect())
                } else {
                    self.clone()
                }
            }
            (Self::Trie(node), Some(prefix)) => {
                let change = |here: &Self| here.without(place, field + 1, rank);
                Node::without(node, *prefix, &change).map_or_else(Self::default, Self::Trie)
            }
            (Self::Trie(_), None) => self.clone(),
        }
    }

    /// The members in the place that these prefixes name.
    fn at(&self, place: &Place) -> &[Held<T>] {
        let mut group = self;
        let mut prefixes = place.iter();
        loop {
            match group {
                Self::Few(few) => return few,
                Self::Trie(node) => {
                    let next = prefixes.next().and_then(|prefix| node.at(*prefix));
                    let Some(here) = next else { return &[] };
                    group = here;
                }
            }
        }
    }

    /// Leaves the first that matches in `best`, if it comes before what is there. `keys` are the fields of the flow
    /// that the group has not been told apart by.
    fn search<'g>(&'g self, flow: &Flow, keys: &[u128], best: &mut Option<&'g Held<T>>) {
        let betters = |rank: Rank, best: Option<&Held<T>>| best.is_none_or(|best| rank < best.rank);
        match self {
            Self::Few(few) => {
                for held in few.iter() {
                    if !betters(held.rank, *best) {
                        return;
                    }
                    if held.item.selector().matches(flow) {
                        *best = Some(held);
                        return;
                    }
                }
            }
            Self::Trie(root) => {
                let Some((key, keys)) = keys.split_first() else {
                    return;
                };
                let mut next = Some(root);
                while let Some(node) = next {
                    if !betters(node.best, *best) || !node.prefix.covers(*key) {
                        return;
                    }
                    if let Some(here) = &node.here {
                        here.search(flow, keys, best);
                    }
                    next = node.longer[bit(*key, node.prefix.length)].as_ref();
                }
            }
        }
    }
}

impl<T: Selects> Node<T> {
    fn new(prefix: Prefix, here: Option<Group<T>>, longer: [Option<Arc<Self>>; 2]) -> Arc<Self> {
        let below = longer.iter().flatten().map(|node| node.best);
        let best = here.as_ref().and_then(Group::best);
        Arc::new(Self {
            prefix,
            best: below.chain(best).min().unwrap_or(Rank::WORST),
            here,
            longer,
        })
    }

    /// The tree with the group of a prefix changed.
    fn with(
        node: Option<&Arc<Self>>,
        prefix: Prefix,
        change: &dyn Fn(&Group<T>) -> Group<T>,
    ) -> Arc<Self> {
        let alone = || Some(change(&Group::default()));
        let Some(node) = node else {
            return Self::new(prefix, alone(), [None, None]);
        };
        let common = node.prefix.common(prefix);
        let mut longer = [None, None];
        if common == node.prefix.length && common == prefix.length {
            let here = node
                .here
                .as_ref()
                .map_or_else(alone, |here| Some(change(here)));
            return Self::new(prefix, here, node.longer.clone());
        }
        if common == node.prefix.length {
            longer.clone_from(&node.longer);
            let side = &mut longer[bit(prefix.bits, common)];
            *side = Some(Self::with(side.as_ref(), prefix, change));
            return Self::new(node.prefix, node.here.clone(), longer);
        }
        longer[bit(node.prefix.bits, common)] = Some(Arc::clone(node));
        if common == prefix.length {
            return Self::new(prefix, alone(), longer);
        }
        longer[bit(prefix.bits, common)] = Some(Self::new(prefix, alone(), [None, None]));
        Self::new(Prefix::new(prefix.bits, common), None, longer)
    }

    /// The tree with less in the group of a prefix; nodes that hold nothing any more are gone.
    fn without(
        node: &Arc<Self>,
        prefix: Prefix,
        change: &dyn Fn(&Group<T>) -> Group<T>,
    ) -> Option<Arc<Self>> {
        if node.prefix.common(prefix) < node.prefix.length {
            return Some(Arc::clone(node));
        }
        let (mut here, mut longer) = (node.here.clone(), node.longer.clone());
        if node.prefix == prefix {
            here = here
                .map(|here| change(&here))
                .filter(|here| here.best().is_some());
        } else {
            let side = &mut longer[bit(prefix.bits, node.prefix.length)];
            *side = side
                .as_ref()
                .and_then(|below| Self::without(below, prefix, change));
        }
        match (&here, &longer) {
            (None, [None, None]) => None,
            (None, [Some(only), None] | [None, Some(only)]) => Some(Arc::clone(only)),
            _ => Some(Self::new(node.prefix, here, longer)),
        }
    }

    /// The group of a prefix.
    fn at(&self, prefix: Prefix) -> Option<&Group<T>> {
        let mut node = self;
        while node.prefix != prefix {
            if node.prefix.common(prefix) < node.prefix.length {
                return None;
            }
            node = node.longer[bit(prefix.bits, node.prefix.length)].as_deref()?;
        }
        node.here.as_ref()
    }

    /// The group that holds the member of a rank.
    fn group_of(&self, rank: Rank) -> Option<&Group<T>> {
        let mut node = self;
        loop {
            if let Some(here) = &node.here
                && here.best() == Some(rank)
            {
                return Some(here);
            }
            let mut longer = node.longer.iter().flatten();
            node = longer.find(|below| below.best == rank)?;
        }
    }
}

impl Prefix {
    const ALL: Self = Self { bits: 0, length: 0 };

    fn new(bits: u128, length: u8) -> Self {
        let ones = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        Self {
            bits: bits & !ones,
            length,
        }
    }

    #[inline(always)]
    fn covers(self, key: u128) -> bool {
        (self.bits ^ key).leading_zeros() >= u32::from(self.length)
    }

    /// Bits at the beginning that both have.
    fn common(self, other: Self) -> u8 {
        let same = (self.bits ^ other.bits).leading_zeros() as u8;
        same.min(self.length).min(other.length)
    }
}

/// A field of `width` bits as the first bits of a key.
#[inline(always)]
const fn left(field: u128, width: u32) -> u128 {
    field << (128 - width)
}

/// The bit of a key behind its first `length`.
#[inline(always)]
fn bit(key: u128, length: u8) -> usize {
    (key.checked_shl(length.into()).unwrap_or(0) >> 127) as usize
}

/// At most two prefixes that cover a range of keys, and together less than twice as much.
fn cover(first: u128, last: u128, width: u8) -> ArrayVec<Prefix, 2> {
    // Bits behind the field are all in the range.
    let last = last | u128::MAX.checked_shr(width.into()).unwrap_or(0);
    let common = (first ^ last).leading_zeros() as u8;
    let whole = Prefix::new(first, common);
    let ones = u128::MAX.checked_shr(common.into()).unwrap_or(0);
    if first & ones == 0 && last & ones == ones {
        return ArrayVec::from_iter([whole]);
    }
    // The range goes over the middle of `whole`: to the end of the lower half, from the start of the upper one.
    let middle = whole.bits | ((ones >> 1) + 1);
    let below = (first ^ (middle - 1)).leading_zeros() as u8;
    let above = (middle ^ last).leading_zeros() as u8;
    ArrayVec::from([Prefix::new(first, below), Prefix::new(last, above)])
}

/// Every place of a selector: at most sixteen.
fn places(selector: &Selector) -> ArrayVec<Place, 16> {
    let addresses = |range: &AddressRange| match range {
        AddressRange::V4 { first, last } => cover(
            left(first.to_bits().into(), 32),
            left(last.to_bits().into(), 32),
            32,
        ),
        AddressRange::V6 { first, last } => cover(first.to_bits(), last.to_bits(), 128),
    };
    let ports = |range: PortRange| {
        cover(
            left(range.first().into(), 16),
            left(range.last().into(), 16),
            16,
        )
    };
    let protocol = selector.protocol.map_or(Prefix::ALL, |protocol| {
        Prefix::new(left(protocol.0.into(), 8), 8)
    });
    let mut places = ArrayVec::new();
    for destination in addresses(&selector.destination) {
        for source in addresses(&selector.source) {
            for to in ports(selector.destination_ports) {
                for from in ports(selector.source_ports) {
                    places.push([destination, source, protocol, to, from]);
                }
            }
        }
    }
    places
}

fn is_v6(selector: &Selector) -> bool {
    matches!(selector.destination, AddressRange::V6 { .. })
}

#[cfg(test)]
mod tests;
