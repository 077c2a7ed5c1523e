//! Packets that others published: draft-mcgrew-gcm-test-01, RFC 7634, RFC 3602, NIST SP 800-38A.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use aes::cipher::Array;
use hmac::{KeyInit, Mac as _};

use super::cbc_hmac::{AesKey, CbcHmac};
use crate::choice::every_engine;
use crate::mac::HmacSha1;
use crate::{Engine, KeyMaterial, OpenError, OpenOp, Portable, SealOp, Suite};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .collect();
    assert!(digits.len().is_multiple_of(2));
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

/// Opens a whole ESP packet; with ESN, the wrong high half does not.
fn opens(suite: Suite, key: &str, seq: u64, esn: bool, packet: &str, plaintext: &str) {
    let key = unhex(key);
    for engine in every_engine() {
        let name = engine.name();
        let key = engine
            .key(&KeyMaterial {
                suite,
                encryption: &key,
                integrity: &[],
                esn,
            })
            .unwrap();
        let sealed = unhex(packet);
        // Alone, and beside itself: that takes other kernels.
        for packets in [1, 16] {
            let mut packets = vec![sealed.clone(); packets];
            let mut ops: Vec<_> = packets
                .iter_mut()
                .map(|packet| OpenOp::new(&key, seq, packet))
                .collect();
            engine.open_batch(&mut ops);
            for op in &ops {
                assert_eq!(op.result, Ok(()), "{suite} {name}");
            }
            for bytes in packets {
                assert_eq!(
                    bytes[suite.ciphertext(bytes.len()).unwrap()],
                    unhex(plaintext),
                    "{suite} {name}"
                );
            }
        }
        if esn {
            let mut bytes = sealed;
            let mut ops = [OpenOp::new(&key, seq & 0xffff_ffff, &mut bytes)];
            engine.open_batch(&mut ops);
            assert_eq!(ops[0].result, Err(OpenError::BadIcv), "{name}");
        }
    }
}

#[test]
fn aes_128_gcm_with_esn() {
    opens(
        Suite::AES128GCM16,
        "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
        0x8765_4321_0000_0000,
        true,
        "00004321 00000000 4956ed7e3b244cfe
         fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
         cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
         61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4",
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
         00000000045f736970045f756470037369700963796265726369747902646b00
         0021000101020201",
    );
}

#[test]
fn aes_192_gcm() {
    opens(
        Suite::AES192GCM16,
        "feffe9928665731c6d6a8f9467308308feffe9928665731c cafebabe",
        10,
        false,
        "0000a5f8 0000000a facedbaddecaf888
         a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0
         315b27452144cc77 95457b9652037f5318027b5b4cd7a636",
        "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e
         501016d075680001",
    );
}

#[test]
fn aes_256_gcm() {
    opens(
        Suite::AES256GCM16,
        "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
        2,
        false,
        "4a2cbfe3 00000002 0102030405060708
         ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
         748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c49
         15956c96",
        "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
         7002400020bf0000020405b40101040201020201",
    );
}

/// RFC 8439 section 2.8.2, whose associated data are those of an ESP packet with ESN.
#[test]
fn chacha20_poly1305_with_esn() {
    opens(
        Suite::CHACHA20POLY1305,
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f 07000000",
        0xc0c1_c2c3_c4c5_c6c7,
        true,
        "50515253 c4c5c6c7 4041424344454647
         d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
         3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
         92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
         3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691",
        "4c616469657320616e642047656e746c656d656e206f662074686520636c6173
         73206f66202739393a204966204920636f756c64206f6666657220796f75206f
         6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73
         637265656e20776f756c642062652069742e",
    );
}

#[test]
fn chacha20_poly1305() {
    opens(
        Suite::CHACHA20POLY1305,
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f a0a1a2a3",
        5,
        false,
        "01020304 00000005 1011121314151617
         24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
         14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
         cbec163fac469b502773f6fb94e664da9165b82829f641e0
         76aaa8266b7fb0f7b11b369907e1ad43",
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
         0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
         2425262728292a2b2c2d2e2f3031323334353637 01020204",
    );
}

/// Seals under a given IV, and checks ciphertext and ICV; then opens it again.
fn cbc<C: AesKey>(suite: &str, key: &str, iv: &str, plaintext: &[u8], ciphertext: &str) {
    let suite: Suite = suite.parse().unwrap();
    let (key, ciphertext, iv) = (unhex(key), unhex(ciphertext), unhex(iv));
    for esn in [false, true] {
        let material = KeyMaterial {
            suite,
            encryption: &key,
            integrity: &[0x0b; 20],
            esn,
        };
        let direct = CbcHmac::<C, HmacSha1>::new(&material).unwrap();
        let sa = Portable.key(&material).unwrap();
        let mut packet = unhex("00004321 00000000");
        packet.extend(&iv);
        packet.extend(plaintext);
        packet.extend([0; 12]);
        let seq = 0x1234_5678_9abc_def0;
        let mut op = SealOp::new(&sa, seq, &mut packet);
        direct
            .seal_with_iv(&mut op, Array::try_from(&iv[..]).unwrap())
            .unwrap();
        let (covered, icv) = packet.split_at(packet.len() - 12);
        assert_eq!(covered[..8], unhex("00004321 9abcdef0"));
        assert_eq!(covered[8..24], iv);
        assert_eq!(covered[24..], ciphertext);
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(&[0x0b; 20]).unwrap();
        mac.update(covered);
        if esn {
            mac.update(&unhex("12345678"));
        }
        assert_eq!(icv, &mac.finalize().into_bytes()[..12]);
        for engine in every_engine() {
            let sa = engine.key(&material).unwrap();
            let mut packet = packet.clone();
            let mut ops = [OpenOp::new(&sa, seq, &mut packet)];
            engine.open_batch(&mut ops);
            assert_eq!(ops[0].result, Ok(()), "{}", engine.name());
            assert_eq!(&packet[24..24 + plaintext.len()], plaintext);
        }
    }
}

#[test]
fn aes_128_cbc_of_rfc_3602() {
    cbc::<aes::Aes128>(
        "aes128-sha1",
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        b"Single block msg",
        "e353779c1079aeb82708942dbe77181a",
    );
    cbc::<aes::Aes128>(
        "aes128-sha1",
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        b"This is a 48-byte message (exactly 3 AES blocks)",
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5
         021c19216bad525c8579695d83ba2684",
    );
    cbc::<aes::Aes128>(
        "aes128-sha1",
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        &(0xa0..=0xdf).collect::<Vec<u8>>(),
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
         35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    );
}

#[test]
fn aes_192_and_256_cbc_of_sp_800_38a() {
    let plaintext = unhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
         30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    );
    cbc::<aes::Aes192>(
        "aes192-sha1",
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        "000102030405060708090a0b0c0d0e0f",
        &plaintext,
        "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a
         571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
    );
    cbc::<aes::Aes256>(
        "aes256-sha1",
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "000102030405060708090a0b0c0d0e0f",
        &plaintext,
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d
         39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
    );
}
