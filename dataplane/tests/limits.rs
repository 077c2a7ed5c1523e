//! What tables may take at their largest: VRFs, routes, memory, and the time of one change among a million.
//!
//! One test, for it looks at the memory of the whole process. What a change takes is counted in processor time of the
//! thread that makes it: on a busy machine the clock on the wall says how busy it is. The figures are printed: `cargo test --test limits --
//! --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use culvert_dataplane::control::{ApplyError, ControlPlane, DetectionTiming};
use culvert_dataplane::fib::{Fib4Writer, Fib6Writer};
use culvert_dataplane::tables::{Publisher, Tables};
use culvert_model::bus::{self, operation::Verb, value::Kind};
use culvert_net::{Ipv4Prefix, Ipv6Prefix};

const VRFS: usize = 4096;
/// Bytes of an empty VRF at most.
const EMPTY_VRF: usize = 16 << 10;
const ROUTES4: usize = 1_000_000;
/// Bytes of a million IPv4 routes at most.
const MILLION_ROUTES: usize = 128 << 20;
/// All that a box takes, in as many times the bytes of a million.
const ROUTES4_IN_ALL: usize = 2_000_000;
const ROUTES6: usize = 500_000;
/// Bytes of half a million IPv6 routes at most.
const ALL_ROUTES6: usize = 224 << 20;
/// Distinct /16 that the Internet's routes are spread over, roughly.
const REGIONS: u64 = 40_000;
/// One change is visible in this time, while a million routes are loaded.
const CHANGE: Duration = Duration::from_millis(10);

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// What this thread has calculated so far.
fn processor_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).unwrap().into()
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A length as often as the Internet's table of 2024 has it: three of five are /24.
    fn length(&mut self) -> u8 {
        match self.next() % 100 {
            0..=59 => 24,
            60..=69 => 22,
            70..=79 => 23,
            80..=84 => 21,
            85..=89 => 20,
            90..=94 => 19,
            95..=97 => 18,
            98 => 17,
            _ => 16,
        }
    }
}

/// Distinct prefixes of the Internet's shape.
fn internet(count: usize) -> Vec<Ipv4Prefix> {
    let mut numbers = Numbers(1);
    let regions: Vec<u32> = (0..REGIONS)
        .map(|_| {
            ((1 + (numbers.next() % 222) as u32) << 24) | ((numbers.next() % 256) as u32 * 65536)
        })
        .collect();
    let mut seen = std::collections::HashSet::with_capacity(count);
    while seen.len() < count {
        let region = regions[(numbers.next() % REGIONS) as usize];
        let address = Ipv4Addr::from_bits(region | (numbers.next() as u32 & 0xffff));
        // Where all the short ones are taken there is room for long ones.
        let length = numbers.length();
        seen.insert(Ipv4Prefix::covering(address, length).unwrap());
    }
    seen.into_iter().collect()
}

fn operation(verb: Verb, key: &str, kind: Option<Kind>) -> bus::Operation {
    bus::Operation {
        verb: verb.into(),
        key: key.to_owned(),
        value: kind.map(|kind| bus::Value { kind: Some(kind) }),
    }
}

fn vrf(number: usize) -> bus::Operation {
    let name = format!("vrf-{number}");
    let key = format!("vrf/{name}");
    operation(Verb::Create, &key, Some(Kind::Vrf(bus::Vrf { name })))
}

fn route(prefix: Ipv4Prefix) -> bus::Operation {
    let kind = Kind::Route(bus::Route {
        vrf: "default".to_owned(),
        destination: Some(culvert_model::types::IpPrefix {
            address: Some(std::net::IpAddr::V4(prefix.address()).into()),
            length: u32::from(prefix.length()),
        }),
        next_hops: vec![bus::NextHop {
            interface: "wan".to_owned(),
            ..bus::NextHop::default()
        }],
        ..bus::Route::default()
    });
    operation(Verb::Create, &format!("route/default/{prefix}"), Some(kind))
}

fn vrfs_of_a_box() {
    let tables = Publisher::new(Tables::default());
    let mut plane = ControlPlane::new(tables.clone(), DetectionTiming::default());
    let before = resident();
    for number in 1..VRFS {
        plane.apply(&vrf(number), &|_| None, 0).unwrap();
    }
    let each = resident().saturating_sub(before) / (VRFS - 1);
    println!("an empty VRF: {each} bytes");
    assert!(each <= EMPTY_VRF, "{each} bytes");
    assert_eq!(tables.current().vrfs.iter().count(), VRFS);
    assert_eq!(
        plane.apply(&vrf(VRFS), &|_| None, 0),
        Err(ApplyError::TooManyVrfs(VRFS as u32))
    );
    let gone = operation(Verb::Delete, "vrf/vrf-7", None);
    plane.apply(&gone, &|_| None, 0).unwrap();
    plane.apply(&vrf(VRFS), &|_| None, 0).unwrap();
}

/// All into one table, for what a table gives back stays with the process.
fn routes4(prefixes: &[Ipv4Prefix]) {
    let before = resident();
    let begin = processor_time();
    let mut writer = Fib4Writer::default();
    for (million, part) in (1..).zip(prefixes.chunks(ROUTES4)) {
        for (number, prefix) in part.iter().enumerate() {
            writer.insert(*prefix, 2 + number as u32 % 1000).unwrap();
        }
        let took = processor_time().saturating_sub(begin);
        let bytes = resident().saturating_sub(before);
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        let count = writer.len();
        println!("{count} IPv4 routes: {mebibytes:.1} MiB, {took:?} of processor time");
        assert!(bytes <= MILLION_ROUTES * million, "{mebibytes:.1} MiB");
        assert_eq!(count, ROUTES4 * million);
    }
    let longest = prefixes
        .iter()
        .find(|prefix| prefix.length() == 24)
        .unwrap();
    let found = writer.fib().lookup(longest.address());
    assert_eq!(Some(found), writer.get(*longest));
}

fn half_a_million_routes6() {
    let mut numbers = Numbers(2);
    let before = resident();
    let begin = processor_time();
    let mut writer = Fib6Writer::default();
    while writer.len() < ROUTES6 {
        // 2000::/3 as registries hand it out: /32 to providers, /48 below.
        let provider = 0x2001_0000 + numbers.next() % 60_000;
        let bits = u128::from(provider) << 96 | u128::from(numbers.next() as u16) << 80;
        let length = if numbers.next().is_multiple_of(2) {
            48
        } else {
            44
        };
        let prefix = Ipv6Prefix::covering(bits.into(), length).unwrap();
        writer.insert(prefix, 7).unwrap();
    }
    let bytes = resident().saturating_sub(before);
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let took = processor_time().saturating_sub(begin);
    println!("{ROUTES6} IPv6 routes: {mebibytes:.1} MiB, {took:?} of processor time");
    assert!(bytes <= ALL_ROUTES6, "{mebibytes:.1} MiB");
}

/// As the process does it: a batch is carried out slice by slice, and whoever has one change comes between two slices.
fn one_change_among_many(prefixes: &[Ipv4Prefix]) {
    let tables = Publisher::new(Tables::default());
    let mut plane = ControlPlane::new(tables.clone(), DetectionTiming::default());
    let before = resident();
    let (begin, worked) = (Instant::now(), processor_time());
    let (mut longest, mut worst, mut costs) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let slice = culvert_dataplane::process::SLICE;
    for (number, batch) in prefixes.chunks(slice).enumerate() {
        let (arrived, start) = (Instant::now(), processor_time());
        let batch: Vec<_> = batch.iter().map(|prefix| route(*prefix)).collect();
        for operation in &batch {
            plane.apply(operation, &|_| None, 0).unwrap();
        }
        // One that came at the worst moment: when the slice began.
        let single = Ipv4Prefix::covering(Ipv4Addr::from_bits(0xdf00_0000 + number as u32), 32);
        plane.apply(&route(single.unwrap()), &|_| None, 0).unwrap();
        let adjacency = tables
            .current()
            .lookup(0, Ipv4Addr::from_bits(0xdf00_0000 + number as u32).into());
        assert_ne!(adjacency, 0);
        longest = longest.max(arrived.elapsed());
        let cost = processor_time().saturating_sub(start);
        worst = worst.max(cost);
        costs.push(cost);
    }
    costs.sort_unstable();
    // Of a hundred, one may have met a table that grows.
    let nearly_all = costs[costs.len() * 99 / 100];
    let median = costs[costs.len() / 2];
    let mebibytes = resident().saturating_sub(before) as f64 / f64::from(1 << 20);
    println!(
        "{} routes by the control plane: {:?} of processor time in {:?}, {mebibytes:.0} MiB with their values",
        prefixes.len(),
        processor_time().saturating_sub(worked),
        begin.elapsed()
    );
    println!(
        "one change meanwhile: median {median:?} of processor time, 99 of 100 in {nearly_all:?}, worst {worst:?}; by the clock {longest:?} at most"
    );
    assert!(nearly_all <= CHANGE, "{nearly_all:?}");
}

#[test]
fn tables_hold_what_they_promise() {
    vrfs_of_a_box();
    let prefixes = internet(ROUTES4_IN_ALL);
    routes4(&prefixes);
    half_a_million_routes6();
    one_change_among_many(&prefixes[..ROUTES4]);
}
