//! Prints what the engines' suites with an HMAC cost in clocks for each packet: AES-CBC, AES-CTR and NULL.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench cbc [-- TEXT]
//! ```
//!
//! Rows whose name contains TEXT: `aes128-sha1`, `x4` ... The first contender is the portable engine, and each other has
//! its ratio to it. Rounds of all contenders alternate and the median counts, so that a busy machine disturbs them alike.
//! NULL suites show what the HMAC costs alone, so that the difference to the CBC suite is what the cipher does. Small
//! batches (`x1` to `x8`) and packets of 1000 SAs in turn have rows of their own.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

use std::fmt::Write as _;

use culvert_crypto::{Engine, KeyMaterial, OpenOp, Portable, SaKey, SealOp, Suite, Wide};

/// Packets in a full batch: a whole vector of the dataplane.
const BATCH: usize = 256;
/// Room for each packet, as in the dataplane's small buffers.
const ROOM: usize = 2048;
/// Rounds of which the median is taken.
const ROUNDS: usize = 101;
/// SAs of the rows with many.
const MANY: usize = 1000;
/// Bytes of the IP packets inside.
const SIZES: [usize; 3] = [64, 512, 1400];

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

/// What a row measures.
#[derive(Clone, Copy)]
struct Scene {
    suite: Suite,
    /// Packets in a call.
    packets: usize,
    sas: usize,
}

fn keys(engine: &dyn Engine, scene: Scene) -> Vec<SaKey> {
    (0..scene.sas)
        .map(|number| {
            let bytes = |length| -> Vec<u8> {
                (0..length)
                    .map(|at| at as u8 ^ (number >> (at % 2 * 8)) as u8)
                    .collect()
            };
            engine
                .key(&KeyMaterial {
                    suite: scene.suite,
                    encryption: &bytes(scene.suite.encryption_key_len()),
                    integrity: &bytes(scene.suite.integrity_key_len()),
                    esn: false,
                })
                .expect("the lengths are the suite's own")
        })
        .collect()
}

/// Seals the buffers' packets once, and opens them; clocks of both.
fn round(
    engine: &dyn Engine,
    keys: &[SaKey],
    scene: Scene,
    buffers: &mut [[u8; ROOM]],
    seq: u64,
    size: usize,
) -> [u64; 2] {
    let length = scene.suite.sealed_len(size);
    let key = |at: usize| &keys[at % keys.len()];
    let mut ops: Vec<_> = buffers
        .iter_mut()
        .enumerate()
        .map(|(at, buffer)| SealOp::new(key(at), seq + at as u64, &mut buffer[64..64 + length]))
        .collect();
    let start = clock();
    for ops in ops.chunks_mut(scene.packets) {
        engine.seal_batch(ops);
    }
    let sealed = clock() - start;
    assert!(ops.iter().all(|op| op.result.is_ok()), "not sealed");
    let mut ops: Vec<_> = buffers
        .iter_mut()
        .enumerate()
        .map(|(at, buffer)| OpenOp::new(key(at), seq + at as u64, &mut buffer[64..64 + length]))
        .collect();
    let start = clock();
    for ops in ops.chunks_mut(scene.packets) {
        engine.open_batch(ops);
    }
    let opened = clock() - start;
    assert!(ops.iter().all(|op| op.result.is_ok()), "not opened");
    [sealed, opened]
}

fn median(mut clocks: Vec<u64>) -> f64 {
    clocks.sort_unstable();
    clocks.get(clocks.len() / 2).copied().unwrap_or(0) as f64 / BATCH as f64
}

fn print(title: &str, scene: Scene, engines: &[Box<dyn Engine>]) {
    let keys: Vec<_> = engines
        .iter()
        .map(|engine| keys(&**engine, scene))
        .collect();
    let mut buffers = vec![[0x5a; ROOM]; BATCH];
    let mut rows = vec![String::new(); engines.len()];
    for size in SIZES {
        let mut clocks = vec![[const { Vec::new() }; 2]; engines.len()];
        for seq in 0..ROUNDS as u64 {
            for ((engine, keys), clocks) in engines.iter().zip(&keys).zip(&mut clocks) {
                let taken = round(&**engine, keys, scene, &mut buffers, seq * 1000, size);
                for (clocks, taken) in clocks.iter_mut().zip(taken) {
                    clocks.push(taken);
                }
            }
        }
        let mut first = None;
        for (row, clocks) in rows.iter_mut().zip(clocks) {
            let clocks = clocks.map(median);
            let first = first.get_or_insert(clocks);
            for (clocks, first) in clocks.iter().zip(first) {
                let _ = write!(row, " {clocks:>8.1} {:>5.3}", clocks / *first);
            }
        }
    }
    for (row, engine) in rows.iter().zip(engines) {
        println!("{title:<22} {:<9}{row}", engine.name());
    }
}

fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Portable)];
    for wide in Wide::levels().into_iter().rev() {
        engines.push(Box::new(wide));
    }
    print!("{:<31}", "clocks a packet, ratio");
    for size in SIZES {
        print!(
            " {:>14} {:>14}",
            format!("seal {size} B"),
            format!("open {size} B")
        );
    }
    println!();
    let mut scenes: Vec<(String, Scene)> = Vec::new();
    let mut scene = |name: &str, packets, sas| {
        let suite: Suite = name.parse().expect("a suite's name");
        let mut title = format!("{name} x{packets}");
        if sas > 1 {
            let _ = write!(title, " {sas} SAs");
        }
        scenes.push((
            title,
            Scene {
                suite,
                packets,
                sas,
            },
        ));
    };
    for name in [
        "aes128-sha1",
        "aes256-sha256",
        "aes256-sha384",
        "aes256-sha512",
        "aes128ctr-sha1",
        "null-sha1",
        "null-sha256",
        "null-sha512",
    ] {
        scene(name, BATCH, 1);
    }
    for name in ["aes128-sha1", "aes256-sha256", "aes256-sha512"] {
        scene(name, BATCH, MANY);
        for packets in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32] {
            scene(name, packets, 1);
        }
    }
    for (title, scene) in scenes {
        if title.contains(&only) {
            print(&title, scene, &engines);
        }
    }
}
