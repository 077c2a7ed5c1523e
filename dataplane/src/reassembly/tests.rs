//! The table against what RFC 5722 says byte by byte, and against senders without manners.

use std::collections::BTreeMap;

use culvert_net::Protocol;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn key(source: u8, identification: u32) -> Key {
    Key {
        vrf: 0,
        origin: 0,
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
        timeout4: 30 * SECOND,
        timeout6: 60 * SECOND,
    })
}

const UDP: Transport = Transport {
    protocol: Protocol::UDP,
    ports: 0x1234_0035,
};

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
            matches!(outcome, Outcome::Refused(_, Why::Passed(says)) if says == UDP),
            gone.to_vec(),
        )
    };
    assert_eq!(
        put(place(1480, 1480, true), Intent::Unknown, 0),
        (false, vec![])
    );
    assert_eq!(
        put(place(0, 1480, true), Intent::Pass(UDP), 1),
        (true, vec![(0, Why::Passed(UDP))])
    );
    assert_eq!(
        put(place(2960, 100, false), Intent::Unknown, 2),
        (true, vec![])
    );
    assert_eq!(table.packets(), 0, "all of it has passed");
}

/// RFC 1858: what follows a second beginning with other ports goes as neither of the two.
#[test]
fn a_packet_that_begins_twice_with_other_ports_is_given_up() {
    let other = Transport { ports: 9, ..UDP };
    for (second, passes) in [(UDP, true), (other, false)] {
        let mut table = table(32, 100);
        let mut gone = Gone::new();
        let mut put = |place, intent| {
            let outcome = table.insert(key(1, 7), place, intent, 0, SECOND, &mut gone);
            match outcome {
                Outcome::Refused(_, why) => why,
                other => panic!("{other:?}"),
            }
        };
        let first = place(0, 1480, true);
        assert_eq!(put(first, Intent::Pass(UDP)), Why::Passed(UDP));
        let expected = if passes {
            Why::Passed(UDP)
        } else {
            Why::Overlap
        };
        assert_eq!(put(first, Intent::Pass(second)), expected);
        assert_eq!(put(place(1480, 8, true), Intent::Unknown), expected);
        assert_eq!(put(first, Intent::Pass(UDP)), expected);
        assert_eq!(put(place(1488, 8, false), Intent::Unknown), expected);
    }
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

#[test]
fn a_packet_of_the_smallest_fragments_is_put_together_up_to_the_limit() {
    let pieces = |count: u16, last: u16| {
        (0..count).map(move |number| {
            let more = number + 1 < count;
            place(number * 8, if more { 8 } else { last }, more)
        })
    };
    // The last of one byte.
    let mut table = table(32, 1000);
    let mut whole = None;
    for (number, piece) in (0..).zip(pieces(MOST_PIECES as u16, 1)) {
        assert!(whole.is_none());
        whole = order(&put(&mut table, key(1, 7), piece, number).0);
    }
    assert_eq!(whole, Some((0..MOST_PIECES as u32).collect()));
    // One more than there may be: the packet goes, and what comes of it later, but nothing else.
    put(&mut table, key(1, 9), place(0, 8, true), 1000);
    let mut refused = 0;
    for (number, piece) in (0..).zip(pieces(MOST_PIECES as u16 + 10, 8)) {
        let (outcome, gone) = put(&mut table, key(1, 8), piece, number);
        refused += gone.len();
        if let Outcome::Refused(_, why) = outcome {
            assert_eq!(why, Why::TooMany);
            refused += 1;
        }
    }
    assert_eq!(refused, MOST_PIECES + 10);
    assert_eq!(table.waiting(), 1);
}

#[test]
fn whichever_end_is_missing_the_rest_waits_and_times_out() {
    let all = [place(0, 8, true), place(8, 8, true), place(16, 8, false)];
    for missing in 0..all.len() {
        let mut table = table(32, 100);
        for (number, piece) in (0..).zip(all) {
            if number as usize != missing {
                let (outcome, gone) = put(&mut table, key(1, 7), piece, number);
                assert!(matches!(outcome, Outcome::Waits) && gone.is_empty());
            }
        }
        let mut gone = Vec::new();
        table.expire(32 * SECOND, |piece| gone.push(piece.packet as usize));
        let expected: Vec<_> = (0..all.len()).filter(|number| *number != missing).collect();
        assert_eq!(gone, expected);
        assert_eq!((table.waiting(), table.packets()), (0, 0));
    }
}

#[test]
fn each_family_has_its_time() {
    let six = |identification| Key {
        source: [0xfd; 16].into(),
        destination: [0xfe; 16].into(),
        ..key(1, identification)
    };
    let (start, end) = (SECOND, 31 * SECOND);
    // The longer time must not hide the shorter one, whichever begins.
    for keys in [[six(1), key(1, 2)], [key(1, 2), six(1)]] {
        let mut table = table(32, 100);
        for (key, number) in keys.into_iter().zip(0..) {
            put(&mut table, key, place(0, 8, true), number);
        }
        let mut gone = |now| {
            let mut gone = Vec::new();
            table.expire(now, |piece| gone.push(keys[piece.packet as usize]));
            (gone, table.next_search())
        };
        assert_eq!(gone(end - 1), (vec![], Some(end)));
        assert_eq!(gone(end), (vec![key(1, 2)], Some(start + 60 * SECOND)));
        assert_eq!(gone(start + 60 * SECOND - 1).0, []);
        assert_eq!(gone(start + 60 * SECOND), (vec![six(1)], None));
    }
    // A link of 1 Gbit/s: 65,536 packets of 1,500 bytes take less than a second.
    assert!(65_536 * 1500 * 8 / 1_000_000_000 < Limits::default().timeout4 / SECOND);
}
