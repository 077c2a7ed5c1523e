//! What the kernels' benchmarks share: batches of packets, contenders that take turns at them, and the table.
//!
//! ```text
//!   round 1 | contender 1, a batch | contender 2, a batch | ...      clocks of each call, all else outside
//!   round 2 | contender 1, a batch | contender 2, a batch | ...      the median of a contender's rounds counts
//! ```
//!
//! Rounds of all contenders alternate, so that a busy machine disturbs them alike; what is printed beside the clocks is the
//! ratio to another contender of the same rounds.

// Each benchmark uses a part of it.
#![allow(dead_code)]

use culvert_crypto::{Engine, KeyMaterial, OpenOp, Portable, SaKey, SealOp, Suite, Wide};
use ring::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

/// Packets in a round: a whole vector of the dataplane.
pub const BATCH: usize = 256;
/// Room for each packet, as in the dataplane's small buffers.
pub const ROOM: usize = 2048;
/// Where packets begin in it.
const START: usize = 40;
/// Rounds of which the median is taken.
const ROUNDS: usize = 201;

#[cfg(target_arch = "x86_64")]
fn clock() -> u64 {
    #[allow(unsafe_code)]
    // SAFETY: every x86-64 CPU has the instruction, and it touches no memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

/// Nanoseconds where there is no time-stamp counter.
#[cfg(not(target_arch = "x86_64"))]
fn clock() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// How many clocks `work` takes.
fn clocks(work: impl FnOnce()) -> u64 {
    let start = clock();
    work();
    clock() - start
}

/// Bytes of the IP packets of a batch.
pub type Sizes = [usize; BATCH];

/// Packets of one size.
pub const fn all(size: usize) -> Sizes {
    [size; BATCH]
}

/// Seven of twelve small, four in the middle, one large: as on the Internet.
pub fn mixed() -> Sizes {
    let mut state = 1;
    std::array::from_fn(|_| match next(&mut state) % 12 {
        0..7 => 40,
        7..11 => 576,
        _ => 1400,
    })
}

/// Up to 1400 bytes.
pub fn any() -> Sizes {
    let mut state = 2;
    std::array::from_fn(|_| next(&mut state) % 1401)
}

/// Does its work once on a batch of packets, and says how many clocks that took.
pub type Work<'a> = Box<dyn FnMut(&mut [[u8; ROOM]], &Sizes) -> u64 + 'a>;

/// A row of the table.
pub struct Contender<'a> {
    pub name: String,
    /// The number of the row to which the ratio is printed.
    pub against: usize,
    pub work: Work<'a>,
}

/// Median clocks a packet of each contender.
fn race(contenders: &mut [Contender<'_>], sizes: &Sizes) -> Vec<f64> {
    let mut buffers = vec![[0x5a; ROOM]; BATCH];
    let mut clocks = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for _ in 0..ROUNDS {
        for (contender, clocks) in contenders.iter_mut().zip(&mut clocks) {
            clocks.push((contender.work)(&mut buffers, sizes));
        }
    }
    clocks
        .into_iter()
        .map(|mut clocks| {
            clocks.sort_unstable();
            clocks.get(ROUNDS / 2).copied().unwrap_or(0) as f64 / BATCH as f64
        })
        .collect()
}

/// The columns' titles.
pub fn head(columns: &[(&str, Sizes)]) {
    print!("{:<49}", "clocks for each packet, ratio");
    for (title, _) in columns {
        print!(" {title:>16}");
    }
    println!();
}

/// Prints one suite's rows: clocks, and the ratio to another row.
pub fn print(title: &str, contenders: &mut [Contender<'_>], columns: &[(&str, Sizes)]) {
    let columns: Vec<_> = columns
        .iter()
        .map(|(_, sizes)| race(contenders, sizes))
        .collect();
    for (row, contender) in contenders.iter().enumerate() {
        print!("{title:<26} {:<22}", contender.name);
        for column in &columns {
            if let (Some(clocks), Some(other)) = (column.get(row), column.get(contender.against)) {
                print!(" {clocks:>9.1} {:>6.3}", clocks / other);
            }
        }
        println!();
    }
}

/// What stands on the command line: rows that are asked for.
pub fn only() -> String {
    std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default()
}

/// The portable engine, then the wide one in all its widths.
pub fn engines() -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Portable)];
    for wide in Wide::levels() {
        engines.push(Box::new(wide));
    }
    engines
}

/// Keys of so many SAs.
pub fn keys_of(engine: &dyn Engine, suite: Suite, count: usize) -> Vec<SaKey> {
    (0..count)
        .map(|number| {
            let bytes = |length| -> Vec<u8> {
                (0..length)
                    .map(|at| at as u8 ^ (number >> (at % 2 * 8)) as u8)
                    .collect()
            };
            engine
                .key(&KeyMaterial {
                    suite,
                    encryption: &bytes(suite.encryption_key_len()),
                    integrity: &bytes(suite.integrity_key_len()),
                    esn: false,
                })
                .expect("the lengths are the suite's own")
        })
        .collect()
}

/// A number that looks random.
pub fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize
}

/// One operation for each buffer, on the stack as the dataplane's nodes have them.
fn batch<'a, Op>(
    buffers: &'a mut [[u8; ROOM]],
    sizes: &Sizes,
    keys: &'a [SaKey],
    state: &mut u64,
    op: impl Fn(&'a SaKey, u64, &'a mut [u8]) -> Op,
) -> [Op; BATCH] {
    let mut buffers = buffers.iter_mut();
    std::array::from_fn(|at| {
        let buffer = buffers.next().expect("as many buffers as operations");
        let random = next(state);
        let key = &keys[random % keys.len()];
        let length = key.suite().sealed_len(sizes[at]);
        // Its upper half is the same for all, so that each has another number.
        op(
            key,
            (random as u64) << 8 | at as u64,
            &mut buffer[START..START + length],
        )
    })
}

/// `seal_batch` over whole packets, `packets` in a call, each of a random one of the SAs.
pub fn seal<'a>(engine: &'a dyn Engine, keys: &'a [SaKey], packets: usize, seed: u64) -> Work<'a> {
    let mut state = seed;
    Box::new(move |buffers, sizes| {
        let mut ops = batch(buffers, sizes, keys, &mut state, SealOp::new);
        let clocks = clocks(|| {
            for ops in ops.chunks_mut(packets) {
                engine.seal_batch(ops);
            }
        });
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not sealed"
        );
        clocks
    })
}

/// `open_batch` over packets that verify; sealing them, under the same keys in other memory, is outside of the clock.
pub fn open<'a>(
    engine: &'a dyn Engine,
    keys: &'a [SaKey],
    peers: &'a [SaKey],
    packets: usize,
    seed: u64,
) -> Work<'a> {
    let mut state = seed;
    Box::new(move |buffers, sizes| {
        let before = state;
        Portable.seal_batch(&mut batch(buffers, sizes, peers, &mut state, SealOp::new));
        state = before;
        let mut ops = batch(buffers, sizes, keys, &mut state, OpenOp::new);
        let clocks = clocks(|| {
            for ops in ops.chunks_mut(packets) {
                engine.open_batch(ops);
            }
        });
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not opened"
        );
        clocks
    })
}

/// ring's own seal of each packet's text in place under one key, nothing else.
pub fn ring_seal(algorithm: &'static Algorithm, suite: Suite) -> Work<'static> {
    let bytes: Vec<u8> = (0..algorithm.key_len()).map(|at| at as u8).collect();
    let key = UnboundKey::new(algorithm, &bytes).expect("the length is the algorithm's own");
    let key = LessSafeKey::new(key);
    let front = suite.header_len();
    let around = front + suite.icv_len();
    let mut seq = 0u64;
    Box::new(move |buffers, sizes| {
        clocks(|| {
            for (buffer, size) in buffers.iter_mut().zip(sizes) {
                seq += 1;
                let mut nonce = [7; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let text = suite.sealed_len(*size) - around;
                let tag = key.seal_in_place_separate_tag(
                    nonce,
                    Aad::from([1; 8]),
                    &mut buffer[START + front..START + front + text],
                );
                let _ = std::hint::black_box(tag.expect("the payload is short enough"));
            }
        })
    })
}

/// A suite, and how it is used.
#[derive(Clone, Copy)]
pub struct Scene {
    pub suite: Suite,
    /// The algorithm whose seal by ring is the first row, if there is one.
    pub yardstick: Option<&'static Algorithm>,
    /// Packets in a call.
    pub packets: usize,
    pub sas: usize,
}

impl Scene {
    /// Prints the rows of all engines whose name has the text in it, or all where the title has; the ratios are to ring's
    /// seal, else to the portable engine's seal and open.
    pub fn print(self, only: &str, columns: &[(&str, Sizes)]) {
        let title = format!("{} x{}, SAs: {}", self.suite, self.packets, self.sas);
        let engines = engines();
        let keys: Vec<_> = engines
            .iter()
            .map(|engine| keys_of(engine.as_ref(), self.suite, self.sas))
            .collect();
        let peers = keys_of(&Portable, self.suite, self.sas);
        let mut contenders = Vec::new();
        if let Some(algorithm) = self.yardstick {
            contenders.push(Contender {
                name: "ring seal".to_owned(),
                against: 0,
                work: ring_seal(algorithm, self.suite),
            });
        }
        // Each has random SAs of its own: none finds the keys in the cache that another has just used.
        for ((engine, keys), seed) in engines.iter().zip(&keys).zip(1..) {
            let engine = engine.as_ref();
            let random = seed * 88_172_645_463_325_252;
            for (against, (name, work)) in [
                ("seal", seal(engine, keys, self.packets, random)),
                ("open", open(engine, keys, &peers, self.packets, !random)),
            ]
            .into_iter()
            .enumerate()
            {
                contenders.push(Contender {
                    name: format!("{} {name}", engine.name()),
                    against: if self.yardstick.is_some() { 0 } else { against },
                    work,
                });
            }
        }
        if !title.contains(only) {
            let mut number = 0;
            contenders.retain(|contender| {
                number += 1;
                // What the others are measured by stays.
                number <= if self.yardstick.is_some() { 1 } else { 2 }
                    || contender.name.contains(only)
            });
            if contenders.len() <= 2 && !contenders.iter().any(|row| row.name.contains(only)) {
                return;
            }
        }
        print(&title, &mut contenders, columns);
    }
}
