//! HMAC (RFC 2104) over the hash functions' compression steps.
//!
//! An SA's HMAC key is kept as the two states that the hash has after the inner and the outer
//! pad: nothing is hashed twice, a packet's whole blocks are compressed where they lie, and an
//! engine that hashes many packets at once starts its lanes from the same states.
//!
//! ```text
//!   inner state --compress--> packet blocks --compress--> rest, high sequence half, length
//!                                                             |
//!   outer state --compress--> inner digest, length ------> ICV (its front)
//! ```
//!
//! Why RustCrypto's compression functions and not ring's `hmac`: clocks for each packet of
//! AES-128-CBC with each HMAC, both cloned from an expanded key, on a CPU with SHA instructions
//! and AVX2 (the example `cipher_clocks` prints this table):
//!
//! | | 64 B | 512 B | 1408 B |
//! | --- | --- | --- | --- |
//! | SHA-1 through ring | 1427 | 4698 | 11485 |
//! | SHA-1 through RustCrypto | 594 | 2236 | 5587 |
//! | SHA-256 through ring | 755 | 2434 | 5795 |
//! | SHA-256 through RustCrypto | 620 | 2169 | 5516 |
//! | SHA-512 through ring | 1294 | 4107 | 9237 |
//! | SHA-512 through RustCrypto | 1143 | 3835 | 8986 |
//!
//! RustCrypto's own `Hmac` type costs the same as the states here, which also make the IV.

use zeroize::ZeroizeOnDrop;

/// An expanded HMAC key.
pub(crate) trait Mac: Send + Sync + Sized + 'static {
    /// Bytes of the ICV.
    const ICV: usize;

    /// Expands a key; one longer than a block of the hash is refused (no suite has one).
    fn new(key: &[u8]) -> Option<Self>;

    /// The digest of `data` and, with ESN, the high half of the sequence number behind it; the
    /// ICV is its first [`ICV`](Self::ICV) bytes.
    fn digest(&self, data: &[u8], high: Option<[u8; 4]>) -> [u8; 64];
}

/// The longest ICV, in bytes.
pub(crate) const MAX_ICV: usize = 32;

macro_rules! mac {
    ($(#[$doc:meta])* $name:ident, $word:ty, $words:literal, $block:literal, $digest:literal, $icv:literal,
     $compress:path, $initial:expr) => {
        $(#[$doc])*
        #[derive(ZeroizeOnDrop)]
        pub(crate) struct $name {
            inner: [$word; $words],
            outer: [$word; $words],
        }

        impl $name {
            /// Bytes of the message length at the end of the last block.
            const LENGTH: usize = $block / 8;

            /// The states after the inner and the outer pad, each with zeros up to eight words: what lanes begin with.
            pub(crate) fn states(&self) -> [$word; 16] {
                let mut states = [0; 16];
                let (halves, _) = states.as_chunks_mut::<8>();
                for (half, state) in halves.iter_mut().zip([&self.inner, &self.outer]) {
                    half[..$words].copy_from_slice(state);
                }
                states
            }

            /// The state's words as bytes.
            #[inline]
            fn bytes(state: &[$word; $words]) -> [u8; 64] {
                const WORD: usize = size_of::<$word>();
                let mut bytes = [0; 64];
                let (to, _) = bytes.as_chunks_mut::<WORD>();
                for (to, word) in to.iter_mut().zip(state) {
                    *to = word.to_be_bytes();
                }
                bytes
            }
        }

        impl Mac for $name {
            const ICV: usize = $icv;

            fn new(key: &[u8]) -> Option<Self> {
                let mut pads = [[0x36; $block], [0x5c; $block]];
                let mut states = [$initial; 2];
                for (pad, state) in pads.iter_mut().zip(&mut states) {
                    for (byte, key) in pad.get_mut(..key.len())?.iter_mut().zip(key) {
                        *byte ^= key;
                    }
                    $compress(state, std::slice::from_ref(pad));
                }
                zeroize::Zeroize::zeroize(&mut pads);
                let [inner, outer] = states;
                Some(Self { inner, outer })
            }

            #[inline]
            fn digest(&self, data: &[u8], high: Option<[u8; 4]>) -> [u8; 64] {
                let mut state = self.inner;
                let (blocks, rest) = data.as_chunks::<$block>();
                if !blocks.is_empty() {
                    $compress(&mut state, blocks);
                }
                let mut tail = [[0; $block]; 2];
                let bytes = tail.as_flattened_mut();
                let mut end = rest.len();
                for (to, from) in bytes.iter_mut().zip(rest) {
                    *to = *from;
                }
                let mut length = $block + data.len();
                if let Some(high) = high {
                    for (to, from) in bytes.iter_mut().skip(end).zip(high) {
                        *to = from;
                    }
                    end += 4;
                    length += 4;
                }
                if let Some(byte) = bytes.get_mut(end) {
                    *byte = 0x80;
                }
                let bits = (length as u64 * 8).to_be_bytes();
                let [first, second] = &mut tail;
                if end + 1 + Self::LENGTH <= $block {
                    first[$block - 8..].copy_from_slice(&bits);
                    $compress(&mut state, std::slice::from_ref(first));
                } else {
                    second[$block - 8..].copy_from_slice(&bits);
                    $compress(&mut state, &tail);
                }
                let inner = Self::bytes(&state);
                let mut last = [0; $block];
                last[..$digest].copy_from_slice(&inner[..$digest]);
                last[$digest] = 0x80;
                last[$block - 8..].copy_from_slice(&(($block as u64 + $digest) * 8).to_be_bytes());
                let mut state = self.outer;
                $compress(&mut state, std::slice::from_ref(&last));
                Self::bytes(&state)
            }
        }
    };
}

mac!(
    /// HMAC-SHA1-96 (RFC 2404).
    HmacSha1, u32, 5, 64, 20, 12, sha1::block_api::compress,
    [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0]
);
mac!(
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha256, u32, 8, 64, 32, 16, sha2::block_api::compress256,
    [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
);
mac!(
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha384, u64, 8, 128, 48, 24, sha2::block_api::compress512,
    [
        0xcbbb_9d5d_c105_9ed8, 0x629a_292a_367c_d507, 0x9159_015a_3070_dd17, 0x152f_ecd8_f70e_5939,
        0x6733_2667_ffc0_0b31, 0x8eb4_4a87_6858_1511, 0xdb0c_2e0d_64f9_8fa7, 0x47b5_481d_befa_4fa4,
    ]
);
mac!(
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha512, u64, 8, 128, 64, 32, sha2::block_api::compress512,
    [
        0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1, 0x9b05_688c_2b3e_6c1f, 0x1f83_d9ab_fb41_bd6b, 0x5be0_cd19_137e_2179,
    ]
);

/// Whether both are the same, in a time that depends on their length only.
#[inline]
pub(crate) fn same_icv(left: &[u8], right: &[u8]) -> bool {
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |all, (left, right)| all | (left ^ right));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use hmac::{Hmac, KeyInit};
    use proptest::prelude::*;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap())
            .collect()
    }

    fn check<M: Mac>(key: &[u8], data: &[u8], digest: &str) {
        let digest = unhex(digest);
        let mac = M::new(key).unwrap().digest(data, None);
        assert_eq!(mac[..digest.len()], digest);
        assert!(M::ICV <= digest.len() && M::ICV <= MAX_ICV);
    }

    #[test]
    fn rfc_2202() {
        check::<HmacSha1>(
            &[0x0b; 20],
            b"Hi There",
            "b617318655057264e28bc0b6fb378c8ef146be00",
        );
        let question = b"what do ya want for nothing?";
        check::<HmacSha1>(
            b"Jefe",
            question,
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
        );
        check::<HmacSha1>(
            &[0xaa; 20],
            &[0xdd; 50],
            "125d7342b9ac11cd91a39af48aa17b4f63f175d3",
        );
    }

    #[test]
    fn rfc_4231() {
        let (key, data) = ([0x0b; 20], b"Hi There");
        check::<HmacSha256>(
            &key,
            data,
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        );
        check::<HmacSha384>(
            &key,
            data,
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        );
        check::<HmacSha512>(
            &key,
            data,
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde\
             daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        );
        let (key, data) = (b"Jefe", b"what do ya want for nothing?");
        check::<HmacSha256>(
            key,
            data,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check::<HmacSha384>(
            key,
            data,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        );
        check::<HmacSha512>(
            key,
            data,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        );
    }

    #[test]
    fn keys_over_a_block_are_refused() {
        assert!(HmacSha256::new(&[1; 64]).is_some() && HmacSha256::new(&[1; 65]).is_none());
        assert!(HmacSha512::new(&[1; 128]).is_some() && HmacSha512::new(&[1; 129]).is_none());
    }

    #[test]
    fn comparison_sees_every_bit() {
        let icv = [0x5a; 32];
        assert!(same_icv(&icv, &icv) && !same_icv(&icv, &icv[..31]));
        for at in 0..32 {
            for bit in 0..8 {
                let mut other = icv;
                other[at] ^= 1 << bit;
                assert!(!same_icv(&icv, &other));
            }
        }
    }

    fn agrees<M: Mac, R: hmac::Mac + KeyInit>(key: &[u8], data: &[u8], high: Option<[u8; 4]>) {
        let mut reference = <R as KeyInit>::new_from_slice(key).unwrap();
        reference.update(data);
        if let Some(high) = high {
            reference.update(&high);
        }
        let want = reference.finalize().into_bytes();
        assert_eq!(
            M::new(key).unwrap().digest(data, high)[..want.len()],
            want[..]
        );
    }

    #[test]
    fn every_length_around_the_blocks_agrees_with_rustcrypto() {
        let data: Vec<u8> = (0..600).map(|at| (at * 7) as u8).collect();
        for length in 0..data.len() {
            for high in [None, Some([1, 2, 3, 4])] {
                agrees::<HmacSha1, Hmac<sha1::Sha1>>(&[3; 20], &data[..length], high);
                agrees::<HmacSha256, Hmac<sha2::Sha256>>(&[3; 32], &data[..length], high);
                agrees::<HmacSha384, Hmac<sha2::Sha384>>(&[3; 48], &data[..length], high);
                agrees::<HmacSha512, Hmac<sha2::Sha512>>(&[3; 64], &data[..length], high);
            }
        }
    }

    proptest! {
        #[test]
        fn any_data_agrees_with_rustcrypto(
            key in proptest::collection::vec(any::<u8>(), 0..=64), data in proptest::collection::vec(any::<u8>(), 0..9300),
            high: Option<[u8; 4]>,
        ) {
            agrees::<HmacSha1, Hmac<sha1::Sha1>>(&key, &data, high);
            agrees::<HmacSha256, Hmac<sha2::Sha256>>(&key, &data, high);
            agrees::<HmacSha384, Hmac<sha2::Sha384>>(&key, &data, high);
            agrees::<HmacSha512, Hmac<sha2::Sha512>>(&key, &data, high);
        }
    }
}
