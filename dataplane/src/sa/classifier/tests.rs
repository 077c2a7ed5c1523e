//! The classifier against a list that is gone through from its beginning.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_net::Protocol;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Item {
    selector: Selector,
    rank: Rank,
}

impl Selects for Item {
    fn selector(&self) -> &Selector {
        &self.selector
    }

    fn rank(&self) -> Rank {
        self.rank
    }
}

/// The slow way: in order.
fn first_of<'i>(items: &'i [Item], flow: &Flow) -> Option<&'i Item> {
    let matching = items.iter().filter(|item| item.selector.matches(flow));
    matching.min_by_key(|item| item.rank)
}

fn range<A: Ord + Copy + Into<IpAddr>>(a: A, b: A) -> AddressRange {
    AddressRange::new(a.min(b).into(), a.max(b).into()).unwrap()
}

/// Ranges that begin and end where others do, one short of it, or one behind it.
fn numbers(width: u32) -> impl Strategy<Value = u128> {
    let most = u128::MAX >> (128 - width);
    (0..=width, any::<u128>(), 0u128..3).prop_map(move |(shift, some, more)| {
        let edge = (some & 3).checked_shl(shift).unwrap_or(0);
        edge.wrapping_add(more).wrapping_sub(1) & most
    })
}

fn address_range(v6: bool) -> BoxedStrategy<AddressRange> {
    if v6 {
        prop_oneof![
            2 => Just(AddressRange::ALL_V6),
            8 => (numbers(128), numbers(128))
                .prop_map(|(a, b)| range(Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b))),
        ]
        .boxed()
    } else {
        prop_oneof![
            2 => Just(AddressRange::ALL_V4),
            8 => (numbers(32), numbers(32)).prop_map(|(a, b)| range(
                Ipv4Addr::from_bits(a as u32),
                Ipv4Addr::from_bits(b as u32)
            )),
        ]
        .boxed()
    }
}

fn port_range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        1 => Just(PortRange::ANY),
        1 => (numbers(16), numbers(16))
            .prop_map(|(a, b)| PortRange::new(a.min(b) as u16, a.max(b) as u16).unwrap()),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    any::<bool>().prop_flat_map(|v6| {
        (
            address_range(v6),
            address_range(v6),
            proptest::option::of(0u8..3),
            port_range(),
            port_range(),
        )
            .prop_map(|(source, destination, protocol, from, to)| Selector {
                source,
                destination,
                protocol: protocol.map(Protocol),
                source_ports: from,
                destination_ports: to,
            })
    })
}

fn flow() -> impl Strategy<Value = Flow> {
    let addresses = any::<bool>().prop_flat_map(|v6| {
        let width = if v6 { 128 } else { 32 };
        (numbers(width), numbers(width)).prop_map(move |(a, b)| {
            if v6 {
                Addresses::V6 {
                    source: Ipv6Addr::from_bits(a),
                    destination: Ipv6Addr::from_bits(b),
                }
            } else {
                Addresses::V4 {
                    source: Ipv4Addr::from_bits(a as u32),
                    destination: Ipv4Addr::from_bits(b as u32),
                }
            }
        })
    });
    let port = || numbers(16).prop_map(|port| port as u16);
    (addresses, 0u8..3, proptest::option::of((port(), port()))).prop_map(
        |(addresses, protocol, ports)| Flow {
            addresses,
            protocol: Protocol(protocol),
            ports,
        },
    )
}

proptest! {
    #[test]
    fn finds_what_trying_one_after_the_other_finds(
        changes in proptest::collection::vec(
            (proptest::option::weighted(0.75, selector()), 0u32..4, any::<bool>(), any::<prop::sample::Index>()),
            0..120,
        ),
        flows in proptest::collection::vec(flow(), 40),
    ) {
        let (mut classifier, mut model) = (Classifier::default(), Vec::<Item>::new());
        let mut older = Vec::new();
        for (number, (selector, priority, last, which)) in (0..).zip(changes) {
            older.push((classifier.clone(), model.clone()));
            if let Some(selector) = selector {
                // Every fourth stands beside one with the same selector.
                let selector = match model.get(which.index(4 * model.len().max(1))) {
                    Some(same) => same.selector,
                    None => selector,
                };
                let rank = Rank { priority, last, number: Reverse(number) };
                classifier.insert(&Arc::new(Item { selector, rank }));
                model.push(Item { selector, rank });
            } else if !model.is_empty() {
                let gone = model.remove(which.index(model.len()));
                let found = classifier.remove(&gone.selector, |item| item.rank == gone.rank);
                prop_assert_eq!(found.as_deref(), Some(&gone));
                prop_assert!(classifier.remove(&gone.selector, |item| item.rank == gone.rank).is_none());
            }
        }
        older.push((classifier.clone(), model.clone()));
        // Old versions are what they were.
        let some = older.iter().rev().step_by(13);
        for (classifier, model) in some {
            for flow in &flows {
                prop_assert_eq!(classifier.find(flow).map(AsRef::as_ref), first_of(model, flow));
            }
            for v6 in [false, true] {
                let first = model.iter().filter(|item| is_v6(&item.selector) == v6).min_by_key(|item| item.rank);
                prop_assert_eq!(classifier.first(v6).map(AsRef::as_ref), first);
            }
        }
        for gone in &model {
            prop_assert!(classifier.remove(&gone.selector, |item| item.rank == gone.rank).is_some());
        }
        prop_assert!(classifier.is_empty());
    }

    #[test]
    fn a_range_is_covered_and_by_less_than_twice_as_much(a in numbers(16), b in numbers(16), within in any::<u128>()) {
        let (first, last) = (a.min(b), a.max(b));
        let prefixes = cover(left(first, 16), left(last, 16), 16);
        let inside = left(first + within % (last - first + 1), 16);
        prop_assert!(prefixes.iter().any(|prefix| prefix.covers(inside)));
        let covered: u128 = prefixes.iter().map(|prefix| 1 << (16 - prefix.length)).sum();
        prop_assert!(covered < 2 * (last - first + 1), "{first} to {last}: {prefixes:?}");
    }
}

/// Ten thousand that differ in a destination, in a port, in both ends: each is added one by one, and each lookup
/// looks at a few only. What a scan would cost is counted beside it, in comparisons.
#[test]
fn ten_thousand_are_not_tried_one_after_the_other() {
    let host = |number: u32| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        range(address, address)
    };
    let base = Selector {
        source: AddressRange::ALL_V4,
        destination: AddressRange::ALL_V4,
        protocol: None,
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
    };
    let kinds: [fn(Selector, u32, AddressRange) -> Selector; 4] = [
        |base, _, destination| Selector {
            destination,
            ..base
        },
        |base, _, source| Selector { source, ..base },
        |base, number, _| Selector {
            protocol: Some(Protocol::UDP),
            destination_ports: PortRange::one(number as u16),
            ..base
        },
        |base, number, _| Selector {
            protocol: Some(Protocol::UDP),
            source_ports: PortRange::new(number as u16 * 3, number as u16 * 3 + 2).unwrap(),
            ..base
        },
    ];
    for kind in kinds {
        let began = std::time::Instant::now();
        let mut classifier = Classifier::default();
        for number in 0..10_000 {
            let selector = kind(base, number, host(number));
            let rank = Rank {
                priority: 1,
                last: false,
                number: Reverse(number),
            };
            classifier.insert(&Arc::new(Item { selector, rank }));
        }
        let built = began.elapsed();
        let began = std::time::Instant::now();
        for number in 0..10_000_u32 {
            let of = number.wrapping_mul(7919) % 10_000;
            let flow = Flow {
                addresses: Addresses::V4 {
                    source: Ipv4Addr::from_bits(0x0a00_0000 + of),
                    destination: Ipv4Addr::from_bits(0x0a00_0000 + of),
                },
                protocol: Protocol::UDP,
                ports: Some((of as u16 * 3, of as u16)),
            };
            let found = classifier.find(&flow).unwrap();
            assert_eq!(found.rank.number, Reverse(of));
        }
        println!(
            "built in {built:?}, 10,000 lookups in {:?}",
            began.elapsed()
        );
        assert!(deepest(&classifier.v4) < 64, "{}", deepest(&classifier.v4));
        assert_eq!(largest(&classifier.v4), 1);
    }
}

/// Nodes on the longest way through one field.
fn deepest(group: &Group<Item>) -> usize {
    fn of(node: &Node<Item>) -> usize {
        let below = node.longer.iter().flatten().map(|node| of(node));
        let here = node.here.as_ref().map(deepest);
        1 + below.chain(here).max().unwrap_or(0)
    }
    match group {
        Group::Few(_) => 0,
        Group::Trie(node) => of(node),
    }
}

/// Members of the largest group that is compared one by one.
fn largest(group: &Group<Item>) -> usize {
    fn of(node: &Node<Item>) -> usize {
        let below = node.longer.iter().flatten().map(|node| of(node));
        let here = node.here.as_ref().map(largest);
        below.chain(here).max().unwrap_or(0)
    }
    match group {
        Group::Few(few) => few.len(),
        Group::Trie(node) => of(node),
    }
}
