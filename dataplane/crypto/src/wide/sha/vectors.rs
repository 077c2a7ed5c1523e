//! HMACs that others published, in every place of a group and beside messages of other lengths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{GROUP, Hash, Message, Sha1, Sha256, Sha512, hmac};
use crate::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, Mac};
use crate::wide::Wide;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap())
        .collect()
}

/// The message in any place of groups of every size, among others that are shorter or longer.
fn check<H: Hash>(key: &[H::Word; 16], data: &[u8], digest: &str) {
    let digest = unhex(digest);
    // Lanes give as much as an ICV needs.
    let digest = &digest[..digest
        .len()
        .min(if size_of::<H::Word>() == 4 { 16 } else { 32 })];
    let other = [0x5a; 1000];
    for wide in Wide::levels() {
        for count in 1..=GROUP {
            for place in [0, count / 2, count - 1] {
                for length in [data.len(), 0, 300, 1000] {
                    let message = |at| Message {
                        data: if at == place {
                            data
                        } else {
                            &other[..length.saturating_sub(at)]
                        },
                        high: (at % 3 == 1 && at != place).then_some([1, 2, 3, 4]),
                        key,
                    };
                    let messages: Vec<_> = (0..count).map(message).collect();
                    let mut digests = [[0; 32]; GROUP];
                    hmac::<H>(wide.level, &messages, &mut digests);
                    assert_eq!(
                        digests[place][..digest.len()],
                        *digest,
                        "{wide:?}: {place} of {count} beside {length} bytes"
                    );
                }
            }
        }
    }
}

fn sha1(key: &[u8], data: &[u8], digest: &str) {
    check::<Sha1>(&HmacSha1::new(key).unwrap().states(), data, digest);
}

fn sha256(key: &[u8], data: &[u8], digest: &str) {
    check::<Sha256>(&HmacSha256::new(key).unwrap().states(), data, digest);
}

fn sha384(key: &[u8], data: &[u8], digest: &str) {
    check::<Sha512<6>>(&HmacSha384::new(key).unwrap().states(), data, digest);
}

fn sha512(key: &[u8], data: &[u8], digest: &str) {
    check::<Sha512<8>>(&HmacSha512::new(key).unwrap().states(), data, digest);
}

const QUESTION: &[u8] = b"what do ya want for nothing?";

#[test]
fn rfc_2202() {
    sha1(
        &[0x0b; 20],
        b"Hi There",
        "b617318655057264e28bc0b6fb378c8ef146be00",
    );
    sha1(
        b"Jefe",
        QUESTION,
        "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
    );
    sha1(
        &[0xaa; 20],
        &[0xdd; 50],
        "125d7342b9ac11cd91a39af48aa17b4f63f175d3",
    );
}

#[test]
fn rfc_4231() {
    let (key, data) = ([0x0b; 20], b"Hi There");
    sha256(
        &key,
        data,
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    );
    sha384(
        &key,
        data,
        "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
    );
    sha512(
        &key,
        data,
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde\
         daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
    );
    let key = b"Jefe";
    sha256(
        key,
        QUESTION,
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    );
    sha384(
        key,
        QUESTION,
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    );
    sha512(
        key,
        QUESTION,
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
         9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    );
}
