//! Prints what the portable engine costs in clocks for each packet, beside the bare libraries.
//!
//! ```text
//! cargo run --release -p culvert-crypto --example cipher_clocks
//! ```
//!
//! The AEAD table compares `seal_batch` and `open_batch` with ring's own seal of the same
//! payloads in the same buffers. The CBC table compares them with the same work composed from
//! `cbc` and either ring's or RustCrypto's HMAC, one packet at a time: the measurement behind the
//! choice in the module `mac`. Rounds of all contenders alternate and the median counts, so that
//! a busy machine disturbs them alike.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

use aes::cipher::{Array, BlockModeEncrypt, InnerIvInit, KeyInit};
use culvert_crypto::{
    Cipher, Engine, Integrity, KeyBits, KeyMaterial, OpenOp, Portable, SaKey, SealOp, Suite,
};
use hmac::Mac;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

/// Packets in a batch: a whole vector of the dataplane.
const BATCH: usize = 256;
/// Room for each packet, as in the dataplane's small buffers.
const ROOM: usize = 2048;
/// Rounds of which the median is taken.
const ROUNDS: usize = 401;
/// Payloads in bytes, the trailer included: whole blocks, so that bare libraries can take them.
const PAYLOADS: [usize; 3] = [64, 512, 1408];

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

/// Does its work once on a batch of packets of some length, and says how many clocks that took.
type Contender<'a> = Box<dyn FnMut(&mut [[u8; ROOM]], usize) -> u64 + 'a>;

/// How many clocks `work` takes.
fn clocks(work: impl FnOnce()) -> u64 {
    let start = clock();
    work();
    clock() - start
}

/// Median clocks a packet of each contender.
fn race(contenders: &mut [(&str, Contender<'_>)], length: usize) -> Vec<f64> {
    let mut buffers = vec![[0x5a; ROOM]; BATCH];
    let mut clocks = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, work), clocks) in contenders.iter_mut().zip(&mut clocks) {
            clocks.push(work(&mut buffers, length));
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
fn print(title: &str, contenders: &mut [(&str, Contender<'_>)]) {
    let columns: Vec<_> = PAYLOADS
        .iter()
        .map(|length| race(contenders, *length))
        .collect();
    for (row, (name, _)) in contenders.iter().enumerate() {
        print!("{title:<18} {name:<22}");
        for column in &columns {
            if let (Some(clocks), Some(first)) = (column.get(row), column.first()) {
                print!(
                    " {clocks:>9.1} {:>+8.1} {:>6.3}",
                    clocks - first,
                    clocks / first
                );
            }
        }
        println!();
    }
}

fn key(suite: Suite) -> SaKey {
    let encryption: Vec<u8> = (0..suite.encryption_key_len()).map(|at| at as u8).collect();
    let integrity: Vec<u8> = (0..suite.integrity_key_len()).map(|at| at as u8).collect();
    let material = KeyMaterial {
        suite,
        encryption: &encryption,
        integrity: &integrity,
        esn: false,
    };
    Portable
        .key(&material)
        .expect("the lengths are the suite's own")
}

/// `seal_batch` over whole packets.
fn engine_seal(key: &SaKey) -> Contender<'_> {
    let mut seq = 0;
    Box::new(move |buffers, length| {
        let whole = key.suite().header_len() + length + key.suite().icv_len();
        let mut ops: [SealOp<'_>; BATCH] = batch(buffers, |buffer| {
            seq += 1;
            SealOp::new(key, seq, &mut buffer[..whole])
        });
        let clocks = clocks(|| Portable.seal_batch(&mut ops));
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not sealed"
        );
        clocks
    })
}

/// `open_batch` over packets that verify; a copy puts the sealed ones back outside of the clock.
fn engine_open(key: &SaKey) -> Contender<'_> {
    let mut sealed: Vec<[u8; ROOM]> = Vec::new();
    let mut length_of_sealed = 0;
    Box::new(move |buffers, length| {
        let whole = key.suite().header_len() + length + key.suite().icv_len();
        if length_of_sealed != length {
            length_of_sealed = length;
            engine_seal(key)(buffers, length);
            sealed.clone_from(&buffers.to_vec());
        }
        buffers.copy_from_slice(&sealed);
        let mut ops: [OpenOp<'_>; BATCH] =
            batch(buffers, |buffer| OpenOp::new(key, 1, &mut buffer[..whole]));
        let clocks = clocks(|| Portable.open_batch(&mut ops));
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not opened"
        );
        clocks
    })
}

/// One operation for each buffer, on the stack as the dataplane's nodes have them.
fn batch<'a, Op>(
    buffers: &'a mut [[u8; ROOM]],
    mut op: impl FnMut(&'a mut [u8; ROOM]) -> Op,
) -> [Op; BATCH] {
    let mut buffers = buffers.iter_mut();
    std::array::from_fn(|_| op(buffers.next().expect("as many buffers as operations")))
}

/// ring's own seal of each payload in place, nothing else.
fn ring_seal(key: &LessSafeKey) -> Contender<'_> {
    let mut seq = 0u64;
    Box::new(move |buffers, length| {
        clocks(|| {
            for buffer in buffers {
                seq += 1;
                let mut nonce = [7; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(
                    nonce,
                    Aad::from([1; 8]),
                    &mut buffer[16..16 + length],
                );
                let _ = std::hint::black_box(tag.expect("the payload is short enough"));
            }
        })
    })
}

/// CBC through `cbc` with the HMAC that `sign` computes, one packet at a time.
fn composed<'a>(
    cipher: &'a aes::Aes128,
    icv: usize,
    sign: impl Fn(&[u8], &mut [u8]) + 'a,
) -> Contender<'a> {
    Box::new(move |buffers, length| {
        clocks(|| {
            for buffer in buffers {
                let (covered, rest) = buffer.split_at_mut(24 + length);
                let (blocks, _) = Array::slice_as_chunks_mut(&mut covered[24..]);
                cbc::Encryptor::inner_iv_init(cipher, &Array([9; 16])).encrypt_blocks(blocks);
                sign(covered, &mut rest[..icv]);
            }
        })
    })
}

fn main() {
    println!(
        "clocks for each packet, difference and ratio to the first row of a suite; {BATCH} packets a batch"
    );
    print!("{:<41}", "");
    for payload in PAYLOADS {
        print!(" {:>25}", format!("{payload} B"));
    }
    println!();
    for (suite, algorithm) in [
        (Suite::AES128GCM16, &AES_128_GCM),
        (Suite::AES256GCM16, &AES_256_GCM),
        (Suite::CHACHA20POLY1305, &CHACHA20_POLY1305),
    ] {
        let bytes: Vec<u8> = (0..algorithm.key_len()).map(|at| at as u8).collect();
        let bare = LessSafeKey::new(
            UnboundKey::new(algorithm, &bytes).expect("the length is the algorithm's own"),
        );
        let key = key(suite);
        print(
            &suite.to_string(),
            &mut [
                ("ring seal", ring_seal(&bare)),
                ("engine seal_batch", engine_seal(&key)),
                ("engine open_batch", engine_open(&key)),
            ],
        );
    }
    let key192 = key(Suite::AES192GCM16);
    print(
        "aes192gcm16",
        &mut [
            ("engine seal_batch", engine_seal(&key192)),
            ("engine open_batch", engine_open(&key192)),
        ],
    );
    let cipher = aes::Aes128::new(&Array([3; 16]));
    for (integrity, algorithm) in [
        (
            Integrity::HmacSha1_96,
            ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        ),
        (Integrity::HmacSha2_256_128, ring::hmac::HMAC_SHA256),
        (Integrity::HmacSha2_384_192, ring::hmac::HMAC_SHA384),
        (Integrity::HmacSha2_512_256, ring::hmac::HMAC_SHA512),
    ] {
        let suite =
            Suite::new(Cipher::AesCbc(KeyBits::B128), integrity).expect("CBC takes any HMAC");
        let key = key(suite);
        let ring_key = ring::hmac::Key::new(algorithm, &vec![1; suite.integrity_key_len()]);
        let ring_sign = |covered: &[u8], icv: &mut [u8]| {
            let length = icv.len();
            icv.copy_from_slice(&ring::hmac::sign(&ring_key, covered).as_ref()[..length]);
        };
        print(
            &suite.to_string(),
            &mut [
                (
                    "cbc + ring hmac",
                    composed(&cipher, suite.icv_len(), ring_sign),
                ),
                (
                    "cbc + RustCrypto hmac",
                    match integrity {
                        Integrity::HmacSha1_96 => {
                            composed_hmac::<hmac::Hmac<sha1::Sha1>>(&cipher, suite)
                        }
                        Integrity::HmacSha2_384_192 => {
                            composed_hmac::<hmac::Hmac<sha2::Sha384>>(&cipher, suite)
                        }
                        Integrity::HmacSha2_512_256 => {
                            composed_hmac::<hmac::Hmac<sha2::Sha512>>(&cipher, suite)
                        }
                        Integrity::HmacSha2_256_128 | Integrity::Aead => {
                            composed_hmac::<hmac::Hmac<sha2::Sha256>>(&cipher, suite)
                        }
                    },
                ),
                ("engine seal_batch", engine_seal(&key)),
                ("engine open_batch", engine_open(&key)),
            ],
        );
    }
}

/// RustCrypto's HMAC, cloned from an expanded key.
fn composed_hmac<M: Mac + KeyInit + Clone + 'static>(
    cipher: &aes::Aes128,
    suite: Suite,
) -> Contender<'_> {
    let expanded = <M as KeyInit>::new_from_slice(&vec![1; suite.integrity_key_len()])
        .expect("any length will do");
    composed(cipher, suite.icv_len(), move |covered, icv| {
        let mut mac = expanded.clone();
        mac.update(covered);
        let length = icv.len();
        icv.copy_from_slice(&mac.finalize().into_bytes()[..length]);
    })
}
