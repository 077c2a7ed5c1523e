//! Prints what the dataplane's tables cost by themselves: lookups, insertions, replay windows, hashes of flows, checksums.
//!
//! ```text
//! cargo bench -p culvert-dataplane --bench tables [-- TEXT]
//! ```
//!
//! Each has beside it a yardstick from the same rounds: for lookups one step of 256 chases of pointers through as many
//! cache lines as there are routes, for all else a sum of the bytes that are worked on. Compare ratios, not clocks. With a
//! text only rows whose name contains it. Insertions are timed once, when the table is built, by the processor time that
//! they took.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

mod internet;

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_crypto::{ReplayWindow, Verdict};
use culvert_dataplane::clock;
use culvert_dataplane::driver::generator::Random;
use culvert_net::{Flow, Ipv4Header, Ipv6Header, Protocol, checksum};
use nix::time::{ClockId, clock_gettime};

use internet::{Internet4, Internet6, address4, address6};

/// Operations of a round: a vector's.
const BATCH: usize = 256;
/// Rounds of which the median is taken.
const ROUNDS: usize = 1001;
/// What every route leads to.
const ADJACENCY: u32 = 7;
/// Words of a cache line.
const LINE: usize = 16;
/// Packets of the replay window.
const WINDOW: u32 = 1024;

/// Median clocks of one operation of `work` and of `yardstick`; `prepare` comes before each and is not timed.
fn race<S>(
    state: &mut S,
    prepare: impl Fn(&mut S),
    mut work: impl FnMut(&mut S),
    mut yardstick: impl FnMut(&mut S),
) -> [f64; 2] {
    let mut clocks = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
    for _ in 0..ROUNDS {
        prepare(state);
        let before = clock::clocks();
        work(state);
        let between = clock::clocks();
        clocks[0].push(between.wrapping_sub(before));
        prepare(state);
        let before = clock::clocks();
        yardstick(state);
        clocks[1].push(clock::clocks().wrapping_sub(before));
    }
    clocks.map(|mut clocks| {
        clocks.sort_unstable();
        clocks[ROUNDS / 2] as f64 / BATCH as f64
    })
}

fn print(name: &str, [clocks, yardstick]: [f64; 2]) {
    println!(
        "{name:<32}{clocks:>9.1}{yardstick:>11.1}{:>8.2}",
        clocks / yardstick
    );
}

/// A ring of cache lines in random order, each of which says which is the next.
struct Chase {
    lines: Vec<[u32; LINE]>,
    /// As many walkers as a vector has packets: their misses overlap, as those of lookups do.
    at: Vec<u32>,
}

impl Chase {
    fn new(lines: usize) -> Self {
        let lines = lines.max(BATCH);
        let mut order: Vec<u32> = (0..lines as u32).collect();
        let mut random = Random::new(1);
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        let mut ring = vec![[0; LINE]; lines];
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            ring[*from as usize][0] = *to;
        }
        Self {
            lines: ring,
            at: (0..BATCH)
                .map(|walker| order[walker * lines / BATCH])
                .collect(),
        }
    }

    /// Each walker takes one step.
    fn step(&mut self) {
        for at in &mut self.at {
            *at = self.lines[*at as usize][0];
        }
    }
}

/// What lookups work on.
struct Lookups<A> {
    random: Random,
    addresses: [A; BATCH],
    found: [u32; BATCH],
    chase: Chase,
}

impl<A: Copy> Lookups<A> {
    fn new(routes: usize, none: A) -> Self {
        Self {
            random: Random::new(2),
            addresses: [none; BATCH],
            found: [0; BATCH],
            chase: Chase::new(routes),
        }
    }

    fn check(&self) {
        let right = self.found.iter().all(|found| *found == ADJACENCY);
        assert!(right, "an address has not found its route");
    }
}

fn tables4(routes: usize) {
    let began = processor_time();
    let internet = Internet4::new(routes, ADJACENCY);
    insertions("v4", routes, began);
    let fib = internet.fib.fib();
    let mut lookups = Lookups::new(routes, Ipv4Addr::UNSPECIFIED);
    let figure = race(
        &mut lookups,
        |lookups| {
            for address in &mut lookups.addresses {
                *address = address4(internet.numbers, &mut lookups.random);
            }
        },
        |lookups| fib.lookup_batch(&lookups.addresses, &mut lookups.found),
        |lookups| lookups.chase.step(),
    );
    lookups.check();
    print(&format!("lookup v4, {routes} routes"), figure);
}

fn tables6(routes: usize) {
    let began = processor_time();
    let internet = Internet6::new(routes, ADJACENCY);
    insertions("v6", routes, began);
    let fib = internet.fib.fib();
    let mut lookups = Lookups::new(routes, Ipv6Addr::UNSPECIFIED);
    let figure = race(
        &mut lookups,
        |lookups| {
            for address in &mut lookups.addresses {
                *address = address6(internet.numbers, &mut lookups.random);
            }
        },
        |lookups| fib.lookup_batch(&lookups.addresses, &mut lookups.found),
        |lookups| lookups.chase.step(),
    );
    lookups.check();
    print(&format!("lookup v6, {routes} routes"), figure);
}

/// Of this thread: what others do on the machine does not count.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a thread has a clock")
        .into()
}

/// Says how fast a table was built. The packet path has no part in it, so there are no clocks.
fn insertions(family: &str, routes: usize, began: Duration) {
    let took = processor_time().saturating_sub(began);
    if routes > 1 {
        let rate = routes as f64 / took.as_secs_f64() / 1e6;
        println!("insert {family}, {routes} routes: {rate:.2} M routes a second");
    }
}

/// Packets as bytes: a header is found where it always is.
type Packets = [[u8; 64]; BATCH];

/// What every operation on a packet does at least: it reads all of it.
fn sums(packets: &Packets) -> u64 {
    let words = packets.iter().flat_map(|packet| packet.chunks_exact(8));
    words.fold(0, |sum: u64, word| {
        sum.wrapping_add(u64::from_ne_bytes(word.try_into().unwrap_or_default()))
    })
}

fn windows() {
    // As by two ways of unequal length: an eighth of the packets have changed places with others sixteen behind.
    let mut order: Vec<u64> = (0..BATCH as u64).collect();
    for group in order.chunks_exact_mut(32) {
        (0..16).step_by(8).for_each(|at| group.swap(at, at + 16));
    }
    for (name, late, esn) in [
        ("replay window, in order", false, false),
        ("replay window, some late", true, false),
        ("replay window, some late, ESN", true, true),
    ] {
        let window = ReplayWindow::new(WINDOW, esn);
        let mut state = (window, 1u64, 0u64, packets(false));
        let figure = race(
            &mut state,
            |_| {},
            |(window, first, accepted, _)| {
                for (at, place) in (0..).zip(&order) {
                    let number = *first + if late { *place } else { at };
                    if let Verdict::Ok(number) = window.check(number as u32) {
                        *accepted += u64::from(window.update(number) == Verdict::Ok(number));
                    }
                }
                *first += BATCH as u64;
            },
            |(_, _, _, packets)| {
                black_box(sums(black_box(packets)));
            },
        );
        assert_eq!(state.2, (BATCH * ROUNDS) as u64, "a new number was refused");
        print(name, figure);
    }
}

fn packets(v6: bool) -> Box<Packets> {
    let mut random = Random::new(3);
    let mut packets = Box::new([[0; 64]; BATCH]);
    for packet in packets.iter_mut() {
        random.fill(packet);
        if v6 {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: 24,
                next_header: Protocol::UDP,
                hop_limit: 64,
                source: Ipv6Addr::from_bits(u128::from(random.bits())),
                destination: Ipv6Addr::from_bits(u128::from(random.bits())),
            };
            header.write(packet.first_chunk_mut().expect("there is room for it"));
        } else {
            let header = Ipv4Header {
                traffic_class: 0,
                total_len: 64,
                identification: random.bits() as u16,
                flags_fragment: 0,
                ttl: 64,
                protocol: Protocol::UDP,
                source: Ipv4Addr::from_bits(random.bits() as u32),
                destination: Ipv4Addr::from_bits(random.bits() as u32),
            };
            header.write(packet.first_chunk_mut().expect("there is room for it"));
            // A right checksum would make all sums the same.
            packet[10] ^= random.bits() as u8;
        }
    }
    packets
}

/// A row whose operation reads packets and gives a number, which must not be the same for all.
fn on_packets(name: &str, v6: bool, operation: impl Fn(&[u8; 64]) -> u32) {
    let mut packets = packets(v6);
    let mut results = [0; BATCH];
    let figure = race(
        &mut packets,
        |packets| {
            black_box(packets);
        },
        |packets| {
            for (packet, result) in packets.iter().zip(&mut results) {
                *result = operation(packet);
            }
            black_box(&results);
        },
        |packets| {
            black_box(sums(packets));
        },
    );
    let first = results[0];
    assert!(
        results.iter().any(|result| *result != first),
        "{name}: all alike"
    );
    print(name, figure);
}

fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench")
        .unwrap_or_default();
    println!("{:<32}{:>9}{:>11}{:>8}", "", "clocks", "yardstick", "ratio");
    let wanted = |name: &str| name.contains(&only);
    if wanted("v4") {
        [1, 100_000, 1_000_000].into_iter().for_each(tables4);
    }
    if wanted("v6") {
        [1, 100_000, 500_000].into_iter().for_each(tables6);
    }
    if wanted("replay window") {
        windows();
    }
    let spread = |packet: &[u8; 64]| Flow::spread_of(packet).unwrap_or(0);
    for (name, v6) in [("flow hash, IPv4", false), ("flow hash, IPv6", true)] {
        if wanted(name) {
            on_packets(name, v6, spread);
        }
    }
    if wanted("checksum") {
        on_packets("checksum of an IPv4 header", false, |packet| {
            u32::from(checksum::ipv4_header(
                packet.first_chunk().unwrap_or(&[0; 20]),
            ))
        });
        on_packets("checksum of 64 bytes", false, |packet| {
            u32::from(checksum::Sum::of(packet).finish())
        });
        on_packets("checksum mended for a TTL", false, |packet| {
            let field = u16::from_be_bytes([packet[10], packet[11]]);
            let word = u16::from_be_bytes([packet[8], packet[9]]);
            u32::from(checksum::update(field, word, word - 0x100))
        });
    }
}
