//! The forwarding tables alone: how fast the control thread loads them, what they take, what a lookup costs.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use culvert_dataplane::clock;
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::fib::{Fib4Writer, Fib6Writer, node_bytes4, node_bytes6};
use culvert_net::{Ipv4Prefix, Ipv6Prefix};

use super::BenchError;
use super::measure::{WINDOWS, median, times};
use super::report::Loaded;
use super::scene;

/// Addresses of a batch, as many as a vector has packets.
const BATCH: usize = 256;
/// Addresses that are looked up in a window.
const LOOKUPS: usize = 64 * BATCH;
/// Distinct /16 that the Internet's routes are spread over, roughly.
const REGIONS: usize = 40_000;

/// A table to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// /24 networks one beside the other, in random order.
    Networks(u32),
    /// Prefixes as long and as scattered as the Internet's.
    Internet(usize),
    /// IPv6 networks of /48 and /44 under many providers.
    Providers(usize),
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Networks(100_000),
        Self::Networks(1_000_000),
        Self::Internet(1_000_000),
        Self::Providers(500_000),
    ];

    /// As in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Networks(100_000) => "table IPv4, 100000 /24",
            Self::Networks(_) => "table IPv4, 1000000 /24",
            Self::Internet(_) => "table IPv4, 1000000 of the Internet's lengths",
            Self::Providers(_) => "table IPv6, 500000 /48 and /44",
        }
    }

    /// Loads it and looks up random addresses of its routes.
    pub fn measure(self) -> Result<Loaded, BenchError> {
        match self {
            Self::Networks(count) => {
                let mut prefixes: Vec<_> = (0..count)
                    .filter_map(|number| match scene::network_of(false, number) {
                        IpAddr::V4(address) => Ipv4Prefix::covering(address, 24).ok(),
                        IpAddr::V6(_) => None,
                    })
                    .collect();
                shuffle(&mut prefixes);
                self.load4(&prefixes)
            }
            Self::Internet(count) => self.load4(&internet(count)),
            Self::Providers(count) => self.load6(&providers(count)),
        }
    }

    fn load4(self, prefixes: &[Ipv4Prefix]) -> Result<Loaded, BenchError> {
        let mut writer = Fib4Writer::default();
        let before = (node_bytes4(), resident());
        let loading = Loading::begin();
        for (number, prefix) in (2..).zip(prefixes) {
            writer.insert(*prefix, number & 0x3ff)?;
        }
        let took = loading.end();
        let nodes = node_bytes4() - before.0;
        let addresses = addresses(prefixes, |prefix, random| {
            let hosts = u64::from(u32::MAX >> prefix.length());
            Ipv4Addr::from_bits(prefix.address().to_bits() + random.below(hosts + 1) as u32)
        });
        let fib = writer.fib();
        let clocks = lookup_clocks(&addresses, |batch, found| fib.lookup_batch(batch, found));
        Ok(self.loaded(writer.len(), took, nodes, before.1, clocks))
    }

    fn load6(self, prefixes: &[Ipv6Prefix]) -> Result<Loaded, BenchError> {
        let mut writer = Fib6Writer::default();
        let before = (node_bytes6(), resident());
        let loading = Loading::begin();
        for (number, prefix) in (2..).zip(prefixes) {
            writer.insert(*prefix, number & 0x3ff)?;
        }
        let took = loading.end();
        let nodes = node_bytes6() - before.0;
        let addresses = addresses(prefixes, |prefix, random| {
            let low = u128::from(random.bits());
            Ipv6Addr::from_bits(prefix.address().to_bits() | low)
        });
        let fib = writer.fib();
        let clocks = lookup_clocks(&addresses, |batch, found| {
            for (address, to) in batch.iter().zip(found) {
                *to = fib.lookup(*address);
            }
        });
        Ok(self.loaded(writer.len(), took, nodes, before.1, clocks))
    }

    fn loaded(
        self,
        routes: usize,
        took: [Duration; 2],
        nodes: usize,
        resident_before: usize,
        clocks: f64,
    ) -> Loaded {
        let [processor, wall] = took;
        Loaded {
            name: self.name(),
            routes,
            routes_per_second: routes as f64 / processor.as_secs_f64(),
            routes_per_second_by_the_wall: routes as f64 / wall.as_secs_f64(),
            node_bytes: nodes,
            process_bytes: resident().saturating_sub(resident_before),
            lookup_clk: clocks,
        }
    }
}

/// Of the thread's processor time and of the clock on the wall: on a busy machine the latter says how busy it is.
struct Loading {
    processor: u64,
    wall: Instant,
}

impl Loading {
    fn begin() -> Self {
        Self {
            processor: times().1,
            wall: Instant::now(),
        }
    }

    fn end(&self) -> [Duration; 2] {
        [
            Duration::from_nanos(times().1 - self.processor),
            self.wall.elapsed(),
        ]
    }
}

fn shuffle<T>(all: &mut [T]) {
    let mut random = Random::new(all.len() as u64);
    for last in (1..all.len()).rev() {
        all.swap(last, random.below(last as u64 + 1) as usize);
    }
}

fn addresses<P: Copy, A>(prefixes: &[P], host: impl Fn(P, &mut Random) -> A) -> Vec<A> {
    let mut random = Random::new(5);
    (0..LOOKUPS * WINDOWS)
        .filter_map(|_| {
            let at = random.below(prefixes.len() as u64) as usize;
            Some(host(*prefixes.get(at)?, &mut random))
        })
        .collect()
}

/// Clocks of one lookup, median of the windows; each address is looked up once.
fn lookup_clocks<A>(addresses: &[A], mut lookup: impl FnMut(&[A], &mut [u32])) -> f64 {
    let mut found = [0; BATCH];
    let windows = addresses.chunks(LOOKUPS).map(|window| {
        let before = clock::clocks();
        for batch in window.chunks_exact(BATCH) {
            lookup(batch, &mut found);
        }
        clock::clocks().wrapping_sub(before) as f64 / window.len() as f64
    });
    median(windows.collect())
}

/// Distinct prefixes of the Internet's shape: three of five are /24.
fn internet(count: usize) -> Vec<Ipv4Prefix> {
    let mut random = Random::new(1);
    let regions: Vec<u32> = (0..REGIONS)
        .map(|_| {
            let first = 1 + random.below(222) as u32;
            (first << 24) | ((random.below(256) as u32) << 16)
        })
        .collect();
    let mut seen = HashSet::with_capacity(count);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let region = regions
            .get(random.below(REGIONS as u64) as usize)
            .copied()
            .unwrap_or_default();
        let address = Ipv4Addr::from_bits(region | random.below(1 << 16) as u32);
        let length = match random.below(100) {
            0..=59 => 24,
            60..=69 => 22,
            70..=79 => 23,
            80..=84 => 21,
            85..=89 => 20,
            90..=94 => 19,
            95..=97 => 18,
            98 => 17,
            _ => 16,
        };
        let prefix = Ipv4Prefix::covering(address, length);
        all.extend(prefix.ok().filter(|prefix| seen.insert(*prefix)));
    }
    all
}

/// `2000::/3` as registries hand it out: /32 to providers, /44 and /48 below.
fn providers(count: usize) -> Vec<Ipv6Prefix> {
    let mut random = Random::new(2);
    let mut seen = HashSet::with_capacity(count);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let provider = u128::from(0x2001_0000 + random.below(60_000));
        let site = u128::from(random.below(1 << 16));
        let length = if random.below(2) == 0 { 48 } else { 44 };
        let prefix = Ipv6Prefix::covering((provider << 96 | site << 80).into(), length);
        all.extend(prefix.ok().filter(|prefix| seen.insert(*prefix)));
    }
    all
}

/// Bytes of the process that are in memory.
fn resident() -> usize {
    const PAGE: usize = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse().ok());
    pages.unwrap_or(0_usize) * PAGE
}
