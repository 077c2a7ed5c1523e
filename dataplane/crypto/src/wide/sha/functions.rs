//! The hash functions, each with its kernels.

use super::lanes::{Lanes8, Lanes16};
use super::{Digest, FEW, Hash, LANES, instructions, sha1, sha256, sha512};
use crate::wide::cpu::Bits512;

macro_rules! hash_32 {
    ($(#[$doc:meta])* $name:ident, $words:literal, $worth:literal, $lanes:ident, $few:ident, $portable:expr) => {
        $(#[$doc])*
        pub(in crate::wide) struct $name;

        impl Hash for $name {
            type Word = u32;
            type Lanes = Lanes16;
            const BLOCK: usize = 64;
            const WORDS: usize = $words;
            const LANES: usize = 16;
            const WORTH_LANES: usize = $worth;

            #[inline]
            fn keyed(_: Bits512, keys: &[&[u32; 16]; LANES]) -> (Lanes16, Lanes16) {
                // SAFETY: there is a proof that the CPU has the instructions.
                unsafe { Lanes16::of_keys(keys) }
            }

            #[inline]
            unsafe fn compress<const N: usize>(
                _: Bits512,
                states: [&mut Lanes16; N],
                from: &[[*const u8; LANES]; N],
                blocks: usize,
                active: [u16; N],
            ) {
                // SAFETY: there is a proof that the CPU has the instructions; pointers as the caller promises.
                unsafe { $lanes::compress(states, from.each_ref(), blocks, active) };
            }

            #[inline]
            fn finish<const N: usize>(_: Bits512, sets: [&mut (Lanes16, Lanes16); N]) {
                // SAFETY: there is a proof that the CPU has the instructions.
                unsafe { $lanes::finish(sets) };
            }

            #[inline]
            fn digests(_: Bits512, outer: &Lanes16, digests: &mut [Digest]) {
                // SAFETY: there is a proof that the CPU has the instructions.
                unsafe { outer.digests(digests) };
            }

            fn lane(states: &Lanes16, lane: usize) -> [u32; 8] {
                states.0.map(|word| word[lane])
            }

            fn set_lane(states: &mut Lanes16, lane: usize, state: [u32; 8]) {
                for (words, word) in states.0.iter_mut().zip(state) {
                    words[lane] = word;
                }
            }

            #[inline]
            unsafe fn few(states: &mut [[u32; 8]], from: &[*const u8; FEW], blocks: usize) {
                if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
                    let [one, two, three, four] = *from;
                    // SAFETY: the CPU has the instructions; pointers as the caller promises.
                    unsafe {
                        match states {
                            [a] => instructions::$few([a], [one], blocks),
                            [a, b] => instructions::$few([a, b], [one, two], blocks),
                            [a, b, c] => instructions::$few([a, b, c], [one, two, three], blocks),
                            [a, b, c, d] => instructions::$few([a, b, c, d], [one, two, three, four], blocks),
                            _ => {}
                        }
                    }
                } else {
                    for (state, from) in states.iter_mut().zip(from) {
                        // SAFETY: as the caller promises; bytes have no alignment.
                        let blocks = unsafe { core::slice::from_raw_parts(from.cast::<[u8; 64]>(), blocks) };
                        $portable(state, blocks);
                    }
                }
            }

            #[inline]
            fn bytes(state: &[u32; 8]) -> [u8; 64] {
                let mut bytes = [0; 64];
                for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
                    *to = word.to_be_bytes();
                }
                bytes
            }
        }
    };
}

hash_32!(
    /// SHA-1.
    Sha1,
    5,
    8,
    sha1,
    sha1,
    |state: &mut [u32; 8], blocks: &[[u8; 64]]| {
        if let Some(state) = state.first_chunk_mut() {
            ::sha1::block_api::compress(state, blocks);
        }
    }
);
hash_32!(
    /// SHA-256.
    Sha256,
    8,
    9,
    sha256,
    sha256,
    ::sha2::block_api::compress256
);

/// SHA-384 (`WORDS` is 6) and SHA-512 (8).
pub(in crate::wide) struct Sha512<const WORDS: usize>;

impl<const WORDS: usize> Hash for Sha512<WORDS> {
    type Word = u64;
    type Lanes = Lanes8;
    const BLOCK: usize = 128;
    const WORDS: usize = WORDS;
    const LANES: usize = 8;
    const WORTH_LANES: usize = 2;

    #[inline]
    fn keyed(_: Bits512, keys: &[&[u64; 16]; LANES]) -> (Lanes8, Lanes8) {
        let [a, b, c, d, e, f, g, h, ..] = *keys;
        // SAFETY: there is a proof that the CPU has the instructions.
        unsafe { Lanes8::of_keys(&[a, b, c, d, e, f, g, h]) }
    }

    #[inline]
    unsafe fn compress<const N: usize>(
        _: Bits512,
        states: [&mut Lanes8; N],
        from: &[[*const u8; LANES]; N],
        blocks: usize,
        active: [u16; N],
    ) {
        // SAFETY: there is a proof that the CPU has the instructions; pointers as the caller promises.
        unsafe { sha512::compress(states, from.each_ref(), blocks, active) };
    }

    #[inline]
    fn finish<const N: usize>(_: Bits512, sets: [&mut (Lanes8, Lanes8); N]) {
        // SAFETY: there is a proof that the CPU has the instructions.
        unsafe { sha512::finish::<WORDS, N>(sets) };
    }

    #[inline]
    fn digests(_: Bits512, outer: &Lanes8, digests: &mut [Digest]) {
        // SAFETY: there is a proof that the CPU has the instructions.
        unsafe { outer.digests(digests) };
    }

    fn lane(states: &Lanes8, lane: usize) -> [u64; 8] {
        states.0.map(|word| word[lane])
    }

    fn set_lane(states: &mut Lanes8, lane: usize, state: [u64; 8]) {
        for (words, word) in states.0.iter_mut().zip(state) {
            words[lane] = word;
        }
    }

    unsafe fn few(states: &mut [[u64; 8]], from: &[*const u8; FEW], blocks: usize) {
        for (state, from) in states.iter_mut().zip(from) {
            // SAFETY: as the caller promises; bytes have no alignment.
            let blocks = unsafe { core::slice::from_raw_parts(from.cast::<[u8; 128]>(), blocks) };
            ::sha2::block_api::compress512(state, blocks);
        }
    }

    fn bytes(state: &[u64; 8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
            *to = word.to_be_bytes();
        }
        bytes
    }
}
