//! Whatever the portable engine does with a batch, each level of the wide one does, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use crate::{
    Cipher, Engine, KeyMaterial, OpenError, OpenOp, Portable, SaKey, SealError, SealOp, Suite, Wide,
};

/// The longest payload of a packet: what the 10 KiB buffers are for.
const LONGEST: usize = 9200;

/// AEAD suites that go to a kernel.
fn aead_suites() -> Vec<Suite> {
    Suite::ALL
        .into_iter()
        .filter(|suite| {
            matches!(
                suite.cipher(),
                Cipher::AesGcm16(_)
                    | Cipher::AesGcm12(_)
                    | Cipher::AesGcm8(_)
                    | Cipher::ChaCha20Poly1305
            )
        })
        .collect()
}

fn key(engine: &dyn Engine, suite: Suite, esn: bool, seed: u8) -> SaKey {
    let bytes = |length: usize, factor: u8| -> Vec<u8> {
        (0..length)
            .map(|at| (at as u8).wrapping_mul(factor).wrapping_add(seed))
            .collect()
    };
    engine
        .key(&KeyMaterial {
            suite,
            encryption: &bytes(suite.encryption_key_len(), 29),
            integrity: &bytes(suite.integrity_key_len(), 17),
            esn,
        })
        .unwrap()
}

/// Bytes that differ from packet to packet.
fn filled(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Bytes around each packet that nobody may touch.
const FENCE: usize = 64;

/// A packet somewhere in memory.
#[derive(Clone)]
struct Placed {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Placed {
    /// `offset` bytes behind a cache line's start, of any contents and length.
    fn new(length: usize, offset: usize, seed: u64) -> Self {
        let memory = filled(length + 2 * FENCE + 64, seed);
        let start = FENCE + memory.as_ptr().wrapping_add(FENCE).align_offset(64) % 64 + offset % 64;
        let start = start.min(memory.len() - FENCE - length);
        Self {
            memory,
            start,
            length,
        }
    }

    fn packet(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// One packet of a batch.
#[derive(Clone, Debug)]
struct Plan {
    key: usize,
    length: usize,
    offset: usize,
    seq: u64,
    /// Which bit of it is turned over between sealing and opening.
    forged: Option<usize>,
}

/// Seals and opens the batch with both, the wide one with keys of either; compares every byte of memory.
fn agree(wide: Wide, suites: &[(Suite, bool)], plans: &[Plan]) {
    let keys = |engine: &dyn Engine| -> Vec<SaKey> {
        suites
            .iter()
            .zip(0..)
            .map(|((suite, esn), seed)| key(engine, *suite, *esn, seed))
            .collect()
    };
    let (ours, theirs) = (keys(&wide), keys(&Portable));
    let mut ours_memory: Vec<_> = plans
        .iter()
        .zip(0..)
        .map(|(plan, seed)| Placed::new(plan.length, plan.offset, seed))
        .collect();
    let mut theirs_memory = ours_memory.clone();
    let sealed = |engine: &dyn Engine, keys: &[SaKey], memory: &mut [Placed]| {
        let mut ops: Vec<_> = memory
            .iter_mut()
            .zip(plans)
            .map(|(placed, plan)| SealOp::new(&keys[plan.key], plan.seq, placed.packet()))
            .collect();
        for op in &mut ops {
            op.result = Err(SealError::Cipher);
        }
        engine.seal_batch(&mut ops);
        ops.iter().map(|op| op.result).collect::<Vec<_>>()
    };
    // CBC's IVs are random: its packets are sealed once.
    let repeatable = |plan: &Plan| !matches!(suites[plan.key].0.cipher(), Cipher::AesCbc(_));
    let results = sealed(&wide, &ours, &mut ours_memory);
    assert_eq!(results, sealed(&Portable, &theirs, &mut theirs_memory));
    for ((mine, other), plan) in ours_memory.iter_mut().zip(&theirs_memory).zip(plans) {
        if repeatable(plan) {
            assert!(
                mine.memory == other.memory,
                "sealed: {} {plan:?}",
                suites[plan.key].0
            );
        } else {
            mine.memory.clone_from(&other.memory);
        }
    }
    for ((mine, other), plan) in ours_memory.iter_mut().zip(&mut theirs_memory).zip(plans) {
        if let Some(bit) = plan.forged
            && plan.length > 0
        {
            let bit = bit % (8 * plan.length);
            mine.packet()[bit / 8] ^= 1 << (bit % 8);
            other.packet()[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let before: Vec<_> = ours_memory.clone();
    let opened = |engine: &dyn Engine, keys: &[SaKey], memory: &mut [Placed]| {
        let mut ops: Vec<_> = memory
            .iter_mut()
            .zip(plans)
            .map(|(placed, plan)| OpenOp::new(&keys[plan.key], plan.seq, placed.packet()))
            .collect();
        for op in &mut ops {
            op.result = Err(OpenError::Malformed);
        }
        engine.open_batch(&mut ops);
        ops.iter().map(|op| op.result).collect::<Vec<_>>()
    };
    let results = opened(&wide, &ours, &mut ours_memory);
    assert_eq!(results, opened(&Portable, &theirs, &mut theirs_memory));
    for ((((mine, other), before), plan), result) in ours_memory
        .iter_mut()
        .zip(&theirs_memory)
        .zip(before)
        .zip(plans)
        .zip(results)
    {
        let suite = suites[plan.key].0;
        if plan.forged.is_some() {
            assert!(result.is_err());
        }
        if result == Err(OpenError::BadIcv)
            && suite.cipher().is_aead()
            && let Some(text) = suite.ciphertext(plan.length)
        {
            // What is left of the text is the engine's affair, but that it is no plaintext.
            if aead_suites().contains(&suite) {
                assert!(
                    mine.packet()[text.clone()].iter().all(|byte| *byte == 0)
                        || plan.length > 10_200
                );
            }
            let text = mine.start + text.start..mine.start + text.end;
            assert!(mine.memory[..text.start] == before.memory[..text.start]);
            assert!(mine.memory[text.end..] == before.memory[text.end..]);
        } else {
            assert!(mine.memory == other.memory, "opened: {suite} {plan:?}");
        }
    }
}

#[test]
fn every_short_length_at_once() {
    for wide in Wide::levels() {
        for suite in aead_suites() {
            for esn in [false, true] {
                let plans: Vec<_> = (0..=1200)
                    .map(|length| Plan {
                        key: 0,
                        length,
                        offset: length * 7,
                        seq: length as u64 | 0x1_ffff_ff00,
                        forged: (length % 5 == 0).then_some(length * 11),
                    })
                    .collect();
                agree(wide, &[(suite, esn)], &plans);
            }
        }
    }
}

#[test]
fn the_same_length_again_and_again() {
    for wide in Wide::levels() {
        for length in (0..=700).chain([1440, 1500, 9200, 10_199, 10_200, 10_201, 12_000]) {
            let plans: Vec<_> = (0..9)
                .map(|number| Plan {
                    key: number % 2,
                    length,
                    offset: number * 9,
                    seq: number as u64,
                    forged: (number == 7).then_some(length * 3),
                })
                .collect();
            for suite in [Suite::AES128GCM16, Suite::CHACHA20POLY1305] {
                agree(wide, &[(suite, false), (suite, true)], &plans);
            }
        }
    }
}

#[test]
fn keys_of_either_engine_work_with_the_other() {
    for wide in Wide::levels() {
        let engines: [&dyn Engine; 2] = [&wide, &Portable];
        for suite in aead_suites() {
            for (sealing, opening) in [(0, 1), (1, 0)] {
                let keys = engines.map(|engine| key(engine, suite, true, 3));
                let plain = filled(suite.sealed_len(700), 5);
                for (made, other) in [(0, 1), (1, 0)] {
                    let mut packet = plain.clone();
                    let mut ops = [SealOp::new(&keys[made], 1 << 32, &mut packet)];
                    engines[sealing].seal_batch(&mut ops);
                    assert_eq!(ops[0].result, Ok(()));
                    let mut ops = [OpenOp::new(&keys[other], 1 << 32, &mut packet)];
                    engines[opening].open_batch(&mut ops);
                    assert_eq!(ops[0].result, Ok(()));
                    let text = suite.ciphertext(plain.len()).unwrap();
                    assert_eq!(packet[text.clone()], plain[text]);
                }
            }
        }
    }
}

fn plans(keys: usize) -> impl Strategy<Value = Vec<Plan>> {
    let plan = (
        0..keys,
        prop_oneof![0..300_usize, 0..=LONGEST + 64],
        0..64_usize,
        any::<u64>(),
        proptest::option::weighted(0.2, any::<usize>()),
    );
    proptest::collection::vec(
        plan.prop_map(|(key, length, offset, seq, forged)| Plan {
            key,
            length,
            offset,
            seq,
            forged,
        }),
        1..=256,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_of_mixed_suites_and_lengths(
        suites in proptest::collection::vec((proptest::sample::select(&Suite::ALL), any::<bool>()), 8),
        plans in plans(8),
    ) {
        for wide in Wide::levels() {
            agree(wide, &suites, &plans);
        }
    }

    #[test]
    fn batches_of_aeads(
        suites in proptest::collection::vec((proptest::sample::select(aead_suites()), any::<bool>()), 8),
        plans in plans(8),
    ) {
        for wide in Wide::levels() {
            agree(wide, &suites, &plans);
        }
    }

    #[test]
    fn batches_of_chacha20(esn in proptest::array::uniform8(any::<bool>()), plans in plans(8)) {
        for wide in Wide::levels() {
            agree(wide, &esn.map(|esn| (Suite::CHACHA20POLY1305, esn)), &plans);
        }
    }

    #[test]
    fn small_batches_of_chacha20(plans in plans(2), packets in 1..40_usize, longest in 0..600_usize) {
        let plans: Vec<_> = plans
            .into_iter()
            .take(packets)
            .map(|plan| Plan { length: plan.length.min(longest), ..plan })
            .collect();
        for wide in Wide::levels() {
            agree(wide, &[(Suite::CHACHA20POLY1305, false), (Suite::CHACHA20POLY1305, true)], &plans);
        }
    }
}
