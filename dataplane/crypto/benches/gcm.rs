//! Prints what the engines' AES-GCM costs in clocks for each packet, beside ring's own seal.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench gcm [-- TEXT]
//! ```
//!
//! Each contender takes a whole batch of packets of one length, of lengths mixed as on the Internet, or of a random one
//! of 10,000 SAs each. Rounds of all contenders alternate and the median counts, so that a busy machine disturbs them
//! alike; the ratio is to the first. With a text only rows whose name contains it, and the first of each suite.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

use culvert_crypto::{
    Cipher, Engine, KeyBits, KeyMaterial, OpenOp, Portable, SaKey, SealOp, Suite, Wide,
};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Packets in a batch: a whole vector of the dataplane.
const BATCH: usize = 256;
/// Room for each packet, as in the dataplane's small buffers.
const ROOM: usize = 2048;
/// Rounds of which the median is taken.
const ROUNDS: usize = 301;
/// SAs of the rows with many.
const MANY: usize = 10_000;

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

/// Does its work once on a batch of packets of some lengths, and says how many clocks that took.
type Contender<'a> = Box<dyn FnMut(&mut [[u8; ROOM]], &[usize; BATCH]) -> u64 + 'a>;

/// How many clocks `work` takes.
fn clocks(work: impl FnOnce()) -> u64 {
    let start = clock();
    work();
    clock() - start
}

/// Median clocks a packet of each contender.
fn race(contenders: &mut [(String, Contender<'_>)], lengths: &[usize; BATCH]) -> Vec<f64> {
    let mut buffers = vec![[0x5a; ROOM]; BATCH];
    let mut clocks = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, work), clocks) in contenders.iter_mut().zip(&mut clocks) {
            clocks.push(work(&mut buffers, lengths));
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

/// Prints one suite's rows: clocks, and the ratio to the first contender.
fn print(title: &str, contenders: &mut [(String, Contender<'_>)], columns: &[[usize; BATCH]]) {
    let columns: Vec<_> = columns
        .iter()
        .map(|lengths| race(contenders, lengths))
        .collect();
    for (row, (name, _)) in contenders.iter().enumerate() {
        print!("{title:<26} {name:<22}");
        for column in &columns {
            if let (Some(clocks), Some(first)) = (column.get(row), column.first()) {
                print!(" {clocks:>9.1} {:>6.3}", clocks / first);
            }
        }
        println!();
    }
}

fn keys_of(engine: &dyn Engine, suite: Suite, count: usize) -> Vec<SaKey> {
    (0..count)
        .map(|number| {
            let encryption: Vec<u8> = (0..suite.encryption_key_len())
                .map(|at| at as u8 ^ (number >> (at % 2 * 8)) as u8)
                .collect();
            engine
                .key(&KeyMaterial {
                    suite,
                    encryption: &encryption,
                    integrity: &[],
                    esn: false,
                })
                .expect("the lengths are the suite's own")
        })
        .collect()
}

/// A number that looks random.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize
}

/// One operation for each buffer, on the stack as the dataplane's nodes have them.
fn batch<'a, Op>(
    buffers: &'a mut [[u8; ROOM]],
    mut op: impl FnMut(usize, &'a mut [u8; ROOM]) -> Op,
) -> [Op; BATCH] {
    let mut buffers = buffers.iter_mut();
    std::array::from_fn(|at| op(at, buffers.next().expect("as many buffers as operations")))
}

/// `seal_batch` over whole packets, each of a random one of the SAs.
fn seal<'a>(engine: &'a dyn Engine, keys: &'a [SaKey], seed: u64) -> Contender<'a> {
    let (mut seq, mut state) = (0, seed);
    Box::new(move |buffers, lengths| {
        let mut ops: [SealOp<'_>; BATCH] = batch(buffers, |at, buffer| {
            seq += 1;
            let key = &keys[next(&mut state) % keys.len()];
            let suite = key.suite();
            let whole = suite.header_len() + lengths[at] + suite.icv_len();
            SealOp::new(key, seq, &mut buffer[40..40 + whole])
        });
        let clocks = clocks(|| engine.seal_batch(&mut ops));
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not sealed"
        );
        clocks
    })
}

/// `open_batch` over packets that verify; sealing them, under keys in other memory, is outside of the clock.
fn open<'a>(
    engine: &'a dyn Engine,
    keys: &'a [SaKey],
    peers: &'a [SaKey],
    seed: u64,
) -> Contender<'a> {
    let (mut seq, mut state) = (0, seed);
    Box::new(move |buffers, lengths| {
        let before = (seq, state);
        let mut ops: [SealOp<'_>; BATCH] = batch(buffers, |at, buffer| {
            seq += 1;
            let key = &peers[next(&mut state) % keys.len()];
            let suite = key.suite();
            let whole = suite.header_len() + lengths[at] + suite.icv_len();
            SealOp::new(key, seq, &mut buffer[40..40 + whole])
        });
        Portable.seal_batch(&mut ops);
        (seq, state) = before;
        let mut ops: [OpenOp<'_>; BATCH] = batch(buffers, |at, buffer| {
            seq += 1;
            let key = &keys[next(&mut state) % keys.len()];
            let suite = key.suite();
            let whole = suite.header_len() + lengths[at] + suite.icv_len();
            OpenOp::new(key, seq, &mut buffer[40..40 + whole])
        });
        let clocks = clocks(|| engine.open_batch(&mut ops));
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not opened"
        );
        clocks
    })
}

/// ring's own seal of each payload in place, nothing else.
fn ring_seal(key: &LessSafeKey) -> Contender<'_> {
    let mut seq = 0u64;
    Box::new(move |buffers, lengths| {
        clocks(|| {
            for (buffer, length) in buffers.iter_mut().zip(lengths) {
                seq += 1;
                let mut nonce = [7; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(
                    nonce,
                    Aad::from([1; 8]),
                    &mut buffer[56..56 + length],
                );
                let _ = std::hint::black_box(tag.expect("the payload is short enough"));
            }
        })
    })
}

fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench")
        .unwrap_or_default();
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Portable)];
    for wide in Wide::levels() {
        engines.push(Box::new(wide));
    }
    let mut state = 1;
    // Seven of twelve small, four in the middle, one large.
    let mixed = std::array::from_fn(|_| match next(&mut state) % 12 {
        0..7 => 44,
        7..11 => 580,
        _ => 1404,
    });
    let any = std::array::from_fn(|_| next(&mut state) % 1401 + 4);
    let columns = [[68; BATCH], [516; BATCH], [1404; BATCH], mixed, any];
    println!("clocks for each packet, ratio to the first row of a suite; {BATCH} packets a batch");
    print!("{:<49}", "");
    for title in ["64 B", "512 B", "1400 B", "mixed", "4-1404 B"] {
        print!(" {title:>16}");
    }
    println!();
    for (bits, algorithm) in [
        (KeyBits::B128, Some(&AES_128_GCM)),
        (KeyBits::B192, None),
        (KeyBits::B256, Some(&AES_256_GCM)),
    ] {
        let suite = Suite::new(Cipher::AesGcm16(bits), culvert_crypto::Integrity::Aead)
            .expect("GCM needs nothing else");
        let bare = algorithm.map(|algorithm| {
            let bytes: Vec<u8> = (0..algorithm.key_len()).map(|at| at as u8).collect();
            LessSafeKey::new(
                UnboundKey::new(algorithm, &bytes).expect("the length is the algorithm's own"),
            )
        });
        for count in [1, MANY] {
            let keys = keys_of(
                engines.last().expect("there is the portable one").as_ref(),
                suite,
                count,
            );
            let peers = keys_of(&Portable, suite, count);
            let mut contenders: Vec<_> = bare
                .iter()
                .map(|key| ("ring seal".to_owned(), ring_seal(key)))
                .collect();
            // Each has random SAs of its own: none finds the keys in the cache that another has just used.
            for (engine, seed) in engines.iter().zip(1..) {
                let (engine, name) = (engine.as_ref(), engine.name());
                let random = seed * 88_172_645_463_325_252;
                contenders.push((format!("{name} seal"), seal(engine, &keys, random)));
                contenders.push((format!("{name} open"), open(engine, &keys, &peers, !random)));
            }
            let mut first = true;
            contenders.retain(|(name, _)| std::mem::take(&mut first) || name.contains(&only));
            print(&format!("{suite}, SAs: {count}"), &mut contenders, &columns);
        }
    }
}
