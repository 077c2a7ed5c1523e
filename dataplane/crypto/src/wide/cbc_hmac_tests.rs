//! The wide engine's suites with an HMAC give the portable engine's bytes, whatever shares a batch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::Wide;
use crate::{
    Cipher, Engine, KeyMaterial, OpenError, OpenOp, Portable, SaKey, SealError, SealOp, Suite,
};

/// The longest payload of a packet.
const LONGEST: usize = 9200;

/// All suites that are made of a cipher and an HMAC.
fn suites() -> Vec<Suite> {
    Suite::ALL
        .into_iter()
        .filter(|suite| !suite.cipher().is_aead())
        .collect()
}

fn key(engine: &impl Engine, suite: Suite, esn: bool, seed: u8) -> SaKey {
    let bytes = |length: usize, step: u8| -> Vec<u8> {
        (0..length)
            .map(|at| (at as u8).wrapping_mul(step) ^ seed)
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

/// What a packet of a batch is.
#[derive(Clone, Debug)]
struct Plan {
    sa: usize,
    payload: usize,
    /// Bytes before it in its buffer: its alignment.
    before: usize,
    /// Bit to turn around before it is opened, if any.
    forged: Option<usize>,
    seq: u64,
}

/// A buffer with a packet in it, and a pattern before and behind it that nobody may touch.
fn buffer(suite: Suite, plan: &Plan) -> Vec<u8> {
    let length = suite.sealed_len(plan.payload);
    let mut buffer = vec![0xa5; plan.before + length + 64];
    let packet = &mut buffer[plan.before..][..length];
    packet[..4].copy_from_slice(&[0xc0, 0, 0, plan.sa as u8]);
    for (at, byte) in packet[suite.ciphertext(length).unwrap()]
        .iter_mut()
        .enumerate()
    {
        *byte = (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ plan.seq as u8;
    }
    buffer
}

fn packet<'a>(buffer: &'a mut [u8], plan: &Plan) -> &'a mut [u8] {
    let end = buffer.len() - 64;
    &mut buffer[plan.before..end]
}

fn seal(engine: &impl Engine, sas: &[SaKey], plans: &[Plan], buffers: &mut [Vec<u8>]) {
    let mut ops: Vec<_> = buffers
        .iter_mut()
        .zip(plans)
        .map(|(buffer, plan)| SealOp::new(&sas[plan.sa], plan.seq, packet(buffer, plan)))
        .collect();
    engine.seal_batch(&mut ops);
    assert!(ops.iter().all(|op| op.result == Ok(())));
}

fn open(
    engine: &impl Engine,
    sas: &[SaKey],
    plans: &[Plan],
    buffers: &mut [Vec<u8>],
) -> Vec<Result<(), OpenError>> {
    let mut ops: Vec<_> = buffers
        .iter_mut()
        .zip(plans)
        .map(|(buffer, plan)| OpenOp::new(&sas[plan.sa], plan.seq, packet(buffer, plan)))
        .collect();
    engine.open_batch(&mut ops);
    ops.iter().map(|op| op.result).collect()
}

/// Seals and opens by the level and by the portable engine, and compares every byte of every buffer.
fn compare(wide: Wide, sas: &[SaKey], plans: &[Plan]) {
    let plain: Vec<_> = plans
        .iter()
        .map(|plan| buffer(sas[plan.sa].suite(), plan))
        .collect();
    let (mut ours, mut theirs) = (plain.clone(), plain.clone());
    seal(&wide, sas, plans, &mut ours);
    seal(&Portable, sas, plans, &mut theirs);
    for ((plan, ours), theirs) in plans.iter().zip(&ours).zip(&theirs) {
        assert!(ours == theirs, "{} {plan:?} sealed", sas[plan.sa].suite());
    }
    for (plan, bytes) in plans.iter().zip(&mut ours) {
        if let Some(bit) = plan.forged {
            let packet = packet(bytes, plan);
            let bit = bit % (packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let forged = ours.clone();
    let results = open(&wide, sas, plans, &mut ours);
    for (((plan, bytes), (plain, forged)), result) in plans
        .iter()
        .zip(&mut ours)
        .zip(plain.iter().zip(forged))
        .zip(results)
    {
        let suite = sas[plan.sa].suite();
        if plan.forged.is_some() {
            assert_eq!(result, Err(OpenError::BadIcv), "{suite} {plan:?}");
            if matches!(suite.cipher(), Cipher::AesCbc(_)) {
                assert!(*bytes == forged, "{suite} {plan:?} was touched");
            }
        } else {
            assert_eq!(result, Ok(()), "{suite} {plan:?}");
            let inside = suite.ciphertext(suite.sealed_len(plan.payload)).unwrap();
            let inside = inside.start + plan.before..inside.end + plan.before;
            assert!(
                bytes[inside.clone()] == plain[inside.clone()],
                "{suite} {plan:?} opened"
            );
            let mut bytes = bytes.clone();
            bytes[inside.clone()].copy_from_slice(&forged[inside]);
            assert!(bytes == forged, "{suite} {plan:?} outside");
        }
    }
}

#[test]
fn keys_are_wiped_on_drop() {
    const fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<super::cbc::RoundKeys>();
    wiped::<super::cbc_hmac::KeyMac>();
}

#[test]
fn every_short_length_at_every_alignment_is_as_the_portable_engine_does_it() {
    for wide in Wide::levels() {
        for suite in suites() {
            for esn in [false, true] {
                let sas = [key(&wide, suite, esn, 3)];
                let plans: Vec<_> = (0..300)
                    .map(|payload| Plan {
                        sa: 0,
                        payload,
                        before: payload % 64,
                        forged: (payload % 5 == 0).then_some(payload * 7),
                        seq: 0xffff_ff80 + payload as u64,
                    })
                    .collect();
                compare(wide, &sas, &plans);
            }
        }
    }
}

#[test]
fn batches_of_every_size_are_as_the_portable_engine_does_them() {
    for wide in Wide::levels() {
        for suite in [
            "aes128-sha1",
            "aes256-sha256",
            "aes192-sha384",
            "aes256-sha512",
            "null-sha1",
        ] {
            let suite = suite.parse().unwrap();
            let sas = [key(&wide, suite, false, 5), key(&wide, suite, true, 6)];
            for size in (1..=40).chain([63, 64, 65, 255, 256, 257, 300]) {
                for (sas_used, spread) in [(1, 0), (2, 0), (1, 17), (2, 17)] {
                    let plans: Vec<_> = (0..size)
                        .map(|at| Plan {
                            sa: at % sas_used,
                            payload: 70 + at * spread % 1400,
                            before: at % 8,
                            forged: (at % 7 == 3).then_some(at),
                            seq: at as u64 + 1,
                        })
                        .collect();
                    compare(wide, &sas, &plans);
                }
            }
        }
    }
}

#[test]
fn one_long_packet_among_short_ones_is_as_the_portable_engine_does_it() {
    for wide in Wide::levels() {
        for suite in suites() {
            let sas = [key(&wide, suite, true, 9)];
            for long in 0..20 {
                let plans: Vec<_> = (0..20)
                    .map(|at| Plan {
                        sa: 0,
                        payload: if at == long || at == 7 {
                            LONGEST - at
                        } else {
                            40 + at % 3
                        },
                        before: at,
                        forged: None,
                        seq: at as u64,
                    })
                    .collect();
                compare(wide, &sas, &plans);
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused_untouched_and_disturb_no_other() {
    for wide in Wide::levels() {
        for suite in suites() {
            let key = key(&wide, suite, true, 1);
            let before: Vec<Vec<u8>> = (0..=200).map(|length| vec![0x11; length]).collect();
            let fits: Vec<_> = (0..=200)
                .map(|length| suite.ciphertext(length).is_some())
                .collect();
            let (mut sealed, mut opened) = (before.clone(), before.clone());
            let mut ops: Vec<_> = sealed
                .iter_mut()
                .map(|bytes| SealOp::new(&key, 1, bytes))
                .collect();
            wide.seal_batch(&mut ops);
            for (op, fits) in ops.iter().zip(&fits) {
                assert_eq!(
                    op.result,
                    if *fits {
                        Ok(())
                    } else {
                        Err(SealError::Length)
                    }
                );
            }
            let mut ops: Vec<_> = opened
                .iter_mut()
                .map(|bytes| OpenOp::new(&key, 1, bytes))
                .collect();
            wide.open_batch(&mut ops);
            for (op, fits) in ops.iter().zip(&fits) {
                let error = if *fits {
                    OpenError::BadIcv
                } else {
                    OpenError::Malformed
                };
                assert_eq!(op.result, Err(error), "{suite} {}", op.packet.len());
            }
            for ((before, fits), (sealed, opened)) in
                before.iter().zip(fits).zip(sealed.iter().zip(&opened))
            {
                assert_eq!(before, opened);
                assert_eq!(fits, before != sealed, "{suite} {}", before.len());
                if fits {
                    let mut want = before.clone();
                    Portable.seal_batch(&mut [SealOp::new(&key, 1, &mut want)]);
                    assert_eq!(*sealed, want);
                }
            }
        }
    }
}

fn plan(sas: usize) -> impl Strategy<Value = Plan> {
    let length = prop_oneof![4 => 0usize..200, 3 => 1300usize..1440, 1 => 0..=LONGEST];
    (
        0..sas,
        length,
        0usize..64,
        proptest::option::weighted(0.2, any::<usize>()),
        any::<u64>(),
    )
        .prop_map(|(sa, payload, before, forged, seq)| Plan {
            sa,
            payload,
            before,
            forged,
            seq,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_mix_is_as_the_portable_engine_does_it(
        used in proptest::collection::vec((proptest::sample::select(suites()), any::<bool>()), 6),
        plans in proptest::collection::vec(plan(6), 1..=256),
    ) {
        for wide in Wide::levels() {
            let sas: Vec<_> = used.iter().zip(0..).map(|((suite, esn), seed)| key(&wide, *suite, *esn, seed)).collect();
            compare(wide, &sas, &plans);
        }
    }

    #[test]
    fn any_lengths_of_one_suite_are_as_the_portable_engine_does_them(
        suite in proptest::sample::select(suites()), esn: bool, plans in proptest::collection::vec(plan(1), 1..=64),
    ) {
        for wide in Wide::levels() {
            compare(wide, &[key(&wide, suite, esn, 2)], &plans);
        }
    }
}

/// Pages of which every other one faults when it is read or written.
#[allow(unsafe_code)]
mod guarded {
    use std::ffi::c_void;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    pub const PAGE: usize = 4096;

    pub struct Pages {
        start: NonNull<c_void>,
        length: usize,
    }

    impl Pages {
        /// So many pages, each between two that fault.
        pub fn new(count: usize) -> Self {
            let length = (2 * count + 1) * PAGE;
            // SAFETY: a new mapping, of which only the pages that are made accessible are used.
            let start = unsafe {
                let start = mmap_anonymous(
                    None,
                    NonZeroUsize::new(length).unwrap(),
                    ProtFlags::PROT_NONE,
                    MapFlags::MAP_PRIVATE,
                )
                .unwrap();
                for page in 0..count {
                    let page = start.byte_add((2 * page + 1) * PAGE);
                    mprotect(page, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).unwrap();
                }
                start
            };
            Self { start, length }
        }

        /// The pages that do not fault.
        pub fn pages(&mut self) -> Vec<&mut [u8]> {
            (0..self.length / PAGE / 2)
                .map(|page| {
                    // SAFETY: a page of the mapping, which is borrowed for as long as the slices are.
                    unsafe {
                        let page = self.start.byte_add((2 * page + 1) * PAGE);
                        std::slice::from_raw_parts_mut(page.as_ptr().cast(), PAGE)
                    }
                })
                .collect()
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping of `new`, which nobody borrows any more.
            unsafe { munmap(self.start, self.length) }.unwrap();
        }
    }
}

/// Packets begin and end where memory does, so that any access out of them ends the test.
#[test]
fn nothing_out_of_a_packet_is_read_or_written() {
    const COUNT: usize = 37;
    let mut memory = guarded::Pages::new(COUNT);
    for wide in Wide::levels() {
        for suite in suites() {
            let sas = [key(&wide, suite, false, 1), key(&wide, suite, true, 2)];
            for (used, shortest, step) in [(1, 0, 1), (2, 40, 3), (1, 490, 0), (2, 100, 97)] {
                let plans: Vec<_> = (0..COUNT)
                    .map(|at| Plan {
                        sa: at % used,
                        payload: shortest + at * step,
                        before: 0,
                        forged: None,
                        seq: at as u64,
                    })
                    .collect();
                let plain: Vec<_> = plans
                    .iter()
                    .map(|plan| buffer(sas[plan.sa].suite(), plan))
                    .collect();
                let mut theirs = plain.clone();
                seal(&Portable, &sas, &plans, &mut theirs);
                let mut packets: Vec<&mut [u8]> = memory
                    .pages()
                    .into_iter()
                    .zip(&plain)
                    .enumerate()
                    .map(|(at, (page, plain))| {
                        let length = plain.len() - 64;
                        let (front, back) = if at % 2 == 0 {
                            page.split_at_mut(length)
                        } else {
                            page.split_at_mut(guarded::PAGE - length)
                        };
                        let packet = if at % 2 == 0 { front } else { back };
                        packet.copy_from_slice(&plain[..length]);
                        packet
                    })
                    .collect();
                let mut ops: Vec<_> = packets
                    .iter_mut()
                    .zip(&plans)
                    .map(|(packet, plan)| SealOp::new(&sas[plan.sa], plan.seq, packet))
                    .collect();
                wide.seal_batch(&mut ops);
                assert!(ops.iter().all(|op| op.result == Ok(())));
                for (packet, theirs) in packets.iter().zip(&theirs) {
                    assert!(**packet == theirs[..packet.len()], "{suite}");
                }
                let mut ops: Vec<_> = packets
                    .iter_mut()
                    .zip(&plans)
                    .map(|(packet, plan)| OpenOp::new(&sas[plan.sa], plan.seq, packet))
                    .collect();
                wide.open_batch(&mut ops);
                assert!(ops.iter().all(|op| op.result == Ok(())), "{suite}");
            }
        }
    }
}
