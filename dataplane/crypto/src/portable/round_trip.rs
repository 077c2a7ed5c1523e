//! What one side seals the other opens, and nothing else opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use crate::{Engine, KeyMaterial, OpenError, OpenOp, Portable, SaKey, SealError, SealOp, Suite};

/// The longest payload of a packet: what the 10 KiB buffers are for.
const LONGEST: usize = 9200;

fn key(suite: Suite, esn: bool, seed: u8) -> SaKey {
    let encryption: Vec<u8> = (0..suite.encryption_key_len())
        .map(|at| (at as u8).wrapping_mul(29) ^ seed)
        .collect();
    let integrity: Vec<u8> = (0..suite.integrity_key_len())
        .map(|at| (at as u8).wrapping_mul(17) ^ seed)
        .collect();
    Portable
        .key(&KeyMaterial {
            suite,
            encryption: &encryption,
            integrity: &integrity,
            esn,
        })
        .unwrap()
}

/// A packet with its SPI, payload, padding and trailer in place.
fn packet(suite: Suite, payload: usize, seed: u8) -> Vec<u8> {
    let mut packet = vec![0xa5; suite.sealed_len(payload)];
    packet[..4].copy_from_slice(&[0xc0, 0, 0, seed]);
    for (at, byte) in packet[suite.ciphertext(suite.sealed_len(payload)).unwrap()]
        .iter_mut()
        .enumerate()
    {
        *byte = (at as u8).wrapping_mul(31) ^ seed;
    }
    packet
}

fn seal(key: &SaKey, seq: u64, packet: &mut [u8]) -> Result<(), SealError> {
    let mut ops = [SealOp::new(key, seq, packet)];
    Portable.seal_batch(&mut ops);
    ops[0].result
}

fn open(key: &SaKey, seq: u64, packet: &mut [u8]) -> Result<(), OpenError> {
    let mut ops = [OpenOp::new(key, seq, packet)];
    Portable.open_batch(&mut ops);
    ops[0].result
}

fn round_trip(suite: Suite, esn: bool, payload: usize, seq: u64) {
    let key = key(suite, esn, 1);
    let plain = packet(suite, payload, 7);
    let mut bytes = plain.clone();
    seal(&key, seq, &mut bytes).unwrap();
    let inside = suite.ciphertext(bytes.len()).unwrap();
    assert_eq!(bytes[..4], plain[..4], "the SPI is the caller's");
    assert_eq!(bytes[4..8], (seq as u32).to_be_bytes());
    assert_eq!(
        bytes[inside.clone()] != plain[inside.clone()],
        suite.cipher().is_confidential()
    );
    let sealed = bytes.clone();
    open(&key, seq, &mut bytes).unwrap();
    assert_eq!(bytes[inside.clone()], plain[inside.clone()]);
    assert_eq!(bytes[..inside.start], sealed[..inside.start]);
    assert_eq!(bytes[inside.end..], sealed[inside.end..]);
    if esn {
        let mut bytes = sealed;
        assert_eq!(
            open(&key, seq ^ 1 << 32, &mut bytes),
            Err(OpenError::BadIcv),
            "the high half is authenticated"
        );
    }
}

#[test]
fn every_suite_opens_what_it_seals_at_every_short_length() {
    for suite in Suite::ALL {
        for esn in [false, true] {
            for payload in 0..=160 {
                round_trip(suite, esn, payload, 0x1_0000_0007);
            }
        }
    }
}

#[test]
fn iv_of_an_aead_suite_is_the_sequence_number() {
    for suite in [
        Suite::AES128GCM16,
        Suite::AES192GCM16,
        Suite::AES256GCM16,
        Suite::CHACHA20POLY1305,
    ] {
        let mut bytes = packet(suite, 60, 0);
        seal(&key(suite, true, 1), 0x0123_4567_89ab_cdef, &mut bytes).unwrap();
        assert_eq!(
            bytes[4..16],
            [
                0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef
            ]
        );
    }
}

#[test]
fn iv_of_a_cbc_suite_differs_for_every_packet_and_every_key() {
    let suite: Suite = "aes128-sha1".parse().unwrap();
    let (one, other) = (key(suite, false, 1), key(suite, false, 1));
    let mut seen = std::collections::HashSet::new();
    for seq in 1..=1000 {
        for key in [&one, &other] {
            let mut bytes = packet(suite, 60, 0);
            seal(key, seq, &mut bytes).unwrap();
            assert!(seen.insert(bytes[8..24].to_vec()));
        }
    }
}

#[test]
fn any_changed_byte_is_a_bad_icv() {
    for suite in Suite::ALL {
        for esn in [false, true] {
            let key = key(suite, esn, 1);
            let mut sealed = packet(suite, 45, 3);
            seal(&key, 9, &mut sealed).unwrap();
            for at in 0..sealed.len() {
                for bit in 0..8 {
                    let mut bytes = sealed.clone();
                    bytes[at] ^= 1 << bit;
                    let before = bytes.clone();
                    assert_eq!(
                        open(&key, 9, &mut bytes),
                        Err(OpenError::BadIcv),
                        "{suite} byte {at}"
                    );
                    if suite.iv_len() == 16 {
                        assert_eq!(bytes, before, "CBC verifies before it decrypts");
                    }
                }
            }
        }
    }
}

#[test]
fn another_key_is_a_bad_icv() {
    for suite in Suite::ALL {
        let mut bytes = packet(suite, 45, 3);
        seal(&key(suite, false, 1), 9, &mut bytes).unwrap();
        assert_eq!(
            open(&key(suite, false, 2), 9, &mut bytes),
            Err(OpenError::BadIcv),
            "{suite}"
        );
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused_untouched() {
    for suite in Suite::ALL {
        let key = key(suite, true, 1);
        for length in 0..=200 {
            let bytes = vec![0x11; length];
            let fits = suite.ciphertext(length).is_some();
            let (mut sealed, mut opened) = (bytes.clone(), bytes.clone());
            assert_eq!(
                seal(&key, 1, &mut sealed),
                if fits { Ok(()) } else { Err(SealError::Length) },
                "{suite} {length}"
            );
            let error = if fits {
                OpenError::BadIcv
            } else {
                OpenError::Malformed
            };
            assert_eq!(open(&key, 1, &mut opened), Err(error), "{suite} {length}");
            if !fits {
                assert_eq!((&sealed, &opened), (&bytes, &bytes));
            }
        }
    }
}

#[test]
fn keys_of_other_lengths_are_refused() {
    for suite in Suite::ALL {
        for (encryption, integrity) in [(1, 0), (0, 1)] {
            let material = KeyMaterial {
                suite,
                encryption: &vec![0; suite.encryption_key_len() + encryption],
                integrity: &vec![0; suite.integrity_key_len() + integrity],
                esn: false,
            };
            let error = Portable.key(&material).err().unwrap().to_string();
            assert!(error.starts_with(&format!("{suite} takes an")), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_suite_opens_what_it_seals(
        suite in proptest::sample::select(&Suite::ALL), esn: bool, payload in 0..=LONGEST, seq in 1u64..,
    ) {
        round_trip(suite, esn, payload, seq);
    }

    #[test]
    fn a_batch_of_many_keys_is_its_packets_one_by_one(
        packets in proptest::collection::vec((0usize..6, 0usize..300, any::<bool>()), 1..=256),
        suites in proptest::collection::vec(proptest::sample::select(&Suite::ALL), 6),
    ) {
        let keys: Vec<_> = suites.iter().zip(0..).map(|(suite, seed)| key(*suite, seed % 2 == 0, seed)).collect();
        let mut together: Vec<_> =
            packets.iter().map(|(index, payload, _)| packet(suites[*index], *payload, *index as u8)).collect();
        let mut alone = together.clone();
        let mut ops: Vec<_> = together
            .iter_mut()
            .zip(&packets)
            .zip(1..)
            .map(|((bytes, (index, ..)), seq)| SealOp::new(&keys[*index], seq, bytes))
            .collect();
        Portable.seal_batch(&mut ops);
        prop_assert!(ops.iter().all(|op| op.result.is_ok()));
        for ((bytes, (index, ..)), seq) in alone.iter_mut().zip(&packets).zip(1..) {
            seal(&keys[*index], seq, bytes).unwrap();
        }
        prop_assert_eq!(&together, &alone);
        for (bytes, (.., forged)) in together.iter_mut().zip(&packets) {
            if *forged {
                *bytes.last_mut().unwrap() ^= 1;
            }
        }
        let mut ops: Vec<_> = together
            .iter_mut()
            .zip(&packets)
            .zip(1..)
            .map(|((bytes, (index, ..)), seq)| OpenOp::new(&keys[*index], seq, bytes))
            .collect();
        Portable.open_batch(&mut ops);
        for (op, (.., forged)) in ops.iter().zip(&packets) {
            prop_assert_eq!(op.result, if *forged { Err(OpenError::BadIcv) } else { Ok(()) });
        }
        for (bytes, (index, payload, forged)) in together.iter().zip(&packets) {
            if !forged {
                let inside = suites[*index].ciphertext(bytes.len()).unwrap();
                prop_assert_eq!(&bytes[inside.clone()], &packet(suites[*index], *payload, *index as u8)[inside]);
            }
        }
    }
}
