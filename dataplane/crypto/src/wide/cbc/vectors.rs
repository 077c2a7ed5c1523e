//! Ciphertexts that others published, in every lane and beside texts of other lengths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{Blocks, Keys, LANES, OwnKeys, RoundKeys, Text, decrypt, encrypt};
use crate::wide::{Level, Wide};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap())
        .collect()
}

/// A text with its IV before it.
fn text(bytes: &mut [u8]) -> Text {
    Text {
        blocks: bytes.len() / 16 - 1,
        first: bytes[16..].as_mut_ptr(),
    }
}

/// The text in `place` of `count` lanes, those before it longer and those behind it shorter.
fn check_lane(
    level: Level,
    keys: Keys<'_>,
    plain: &[u8],
    sealed: &[u8],
    count: usize,
    place: usize,
) {
    let mut bytes: Vec<Vec<u8>> = (0..count)
        .map(|lane| match lane {
            _ if lane == place => plain.to_vec(),
            _ if lane < place => vec![lane as u8; plain.len() + 16 * (place - lane)],
            _ => {
                vec![lane as u8; (plain.len() - 16 * (lane - place).min(plain.len() / 16)).max(32)]
            }
        })
        .collect();
    let mut chain = Blocks::ZERO;
    for (chain, bytes) in chain.0.iter_mut().zip(&bytes) {
        chain.copy_from_slice(&bytes[..16]);
    }
    let texts: Vec<_> = bytes.iter_mut().map(|bytes| text(bytes)).collect();
    // SAFETY: each text is in a vector of its own, and there are at most sixteen.
    unsafe { encrypt(level, keys, &texts, &mut chain) };
    assert_eq!(bytes[place], sealed, "{level:?}: {place} of {count}");
}

fn check(key: &str, iv: &str, plain: &[u8], sealed: &str) {
    let (key, iv) = (unhex(key), unhex(iv));
    let plain = [&iv, plain].concat();
    let sealed = [iv, unhex(sealed)].concat();
    for wide in Wide::levels() {
        let level = wide.level;
        let keys = RoundKeys::expand(level, &key).unwrap();
        let other = RoundKeys::expand(level, &vec![7; key.len()]).unwrap();
        for count in 1..=LANES {
            for place in 0..count {
                check_lane(level, Keys::Shared(&keys), &plain, &sealed, count, place);
                let mut own = vec![&other; count];
                own[place] = &keys;
                let own = OwnKeys::new(&own);
                check_lane(level, Keys::Own(&own), &plain, &sealed, count, place);
            }
        }
        let mut bytes = sealed.clone();
        // SAFETY: the text is in a vector of its own.
        unsafe { decrypt(level, &keys, &[text(&mut bytes)]) };
        assert_eq!(bytes, plain, "{level:?}");
    }
}

#[test]
fn rfc_3602() {
    check(
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        b"Single block msg",
        "e353779c1079aeb82708942dbe77181a",
    );
    check(
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        b"This is a 48-byte message (exactly 3 AES blocks)",
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5
         021c19216bad525c8579695d83ba2684",
    );
    check(
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        &(0xa0..=0xdf).collect::<Vec<u8>>(),
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
         35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    );
}

#[test]
fn nist_sp_800_38a() {
    let plain = unhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
         30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    let iv = "000102030405060708090a0b0c0d0e0f";
    check(
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        iv,
        &plain,
        "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a
         571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
    );
    check(
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        iv,
        &plain,
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d
         39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
    );
}
