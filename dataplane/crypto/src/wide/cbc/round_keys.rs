//! AES key schedules (FIPS 197 section 5.2), for encryption and for decryption.

use core::arch::x86_64::{
    _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aesimc_si128, _mm_aeskeygenassist_si128,
    _mm_cvtsi128_si32, _mm_loadu_si128, _mm_set1_epi32, _mm_storeu_si128, _mm_xor_si128,
};

use super::super::Level;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The most round keys a key has.
pub(super) const MOST: usize = 15;

/// Round keys in the order of their use, for both directions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(in crate::wide) struct RoundKeys {
    /// For the encrypting instructions.
    pub(super) encrypt: [[u8; 16]; MOST],
    /// For the decrypting instructions (the equivalent inverse cipher, FIPS 197 section 5.3.5).
    pub(super) decrypt: [[u8; 16]; MOST],
    /// 10, 12 or 14.
    pub(super) rounds: usize,
}

impl RoundKeys {
    /// 10, 12 or 14.
    #[inline]
    pub(in crate::wide) const fn rounds(&self) -> usize {
        self.rounds
    }

    /// For the encrypting instructions.
    #[inline]
    pub(in crate::wide) const fn encrypting(&self) -> &[[u8; 16]; MOST] {
        &self.encrypt
    }

    /// Expands a key of 16, 24 or 32 bytes; `None` for other lengths.
    pub(in crate::wide) fn expand(_: Level, key: &[u8]) -> Option<Self> {
        // SAFETY: each level is a proof that the CPU has AES instructions.
        unsafe { Self::expand_by_instructions(key) }
    }

    /// Encrypts a block; those of several keys are independent, and the CPU overlaps them.
    #[inline]
    pub(in crate::wide) fn encrypt_block(&self, _: Level, block: &mut [u8; 16]) {
        // SAFETY: each level is a proof that the CPU has AES instructions.
        unsafe { self.encrypt_by_instructions(block) };
    }

    #[inline]
    #[target_feature(enable = "aes")]
    fn encrypt_by_instructions(&self, block: &mut [u8; 16]) {
        let [first, rest @ ..] = &self.encrypt;
        // SAFETY: 16 bytes each, at any alignment.
        unsafe {
            let load = |block: &[u8; 16]| _mm_loadu_si128(block.as_ptr().cast());
            let mut state = _mm_xor_si128(load(block), load(first));
            for key in rest.iter().take(self.rounds - 1) {
                state = _mm_aesenc_si128(state, load(key));
            }
            state = _mm_aesenclast_si128(state, load(&self.encrypt[self.rounds]));
            _mm_storeu_si128(block.as_mut_ptr().cast(), state);
        }
    }

    #[target_feature(enable = "aes")]
    fn expand_by_instructions(key: &[u8]) -> Option<Self> {
        let (given, rest) = key.as_chunks::<4>();
        let words = given.len();
        if !matches!(words, 4 | 6 | 8) || !rest.is_empty() {
            return None;
        }
        let rounds = words + 6;
        let mut keys = Self {
            encrypt: [[0; 16]; MOST],
            decrypt: [[0; 16]; MOST],
            rounds,
        };
        let (schedule, _) = keys.encrypt.as_flattened_mut().as_chunks_mut::<4>();
        for (to, from) in schedule.iter_mut().zip(given) {
            *to = *from;
        }
        let mut constant = 1u8;
        for at in words..4 * (rounds + 1) {
            let mut word = u32::from_le_bytes(schedule[at - 1]);
            if at % words == 0 {
                word = substitute(word).rotate_right(8) ^ u32::from(constant);
                constant = (constant << 1) ^ ((constant >> 7) * 0x1b);
            } else if words == 8 && at % 8 == 4 {
                word = substitute(word);
            }
            schedule[at] = (word ^ u32::from_le_bytes(schedule[at - words])).to_le_bytes();
        }
        for at in 0..=rounds {
            let from = &keys.encrypt[rounds - at];
            // SAFETY: 16 bytes are read and 16 are written, at any alignment.
            unsafe {
                let key = _mm_loadu_si128(from.as_ptr().cast());
                let key = if at == 0 || at == rounds {
                    key
                } else {
                    _mm_aesimc_si128(key)
                };
                _mm_storeu_si128(keys.decrypt[at].as_mut_ptr().cast(), key);
            }
        }
        Some(keys)
    }
}

/// The S-box on each byte, without a table.
#[target_feature(enable = "aes")]
fn substitute(word: u32) -> u32 {
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(
        word.cast_signed(),
    )))
    .cast_unsigned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::super::Wide;
    use super::*;

    /// The last round keys of FIPS 197 appendix A.
    #[test]
    fn schedules_are_those_of_fips_197() {
        let Some(wide) = Wide::detect() else { return };
        let expand = |key: &[u8]| RoundKeys::expand(wide.level, key).unwrap();
        let bytes = |number: u128| number.to_be_bytes();
        let key = bytes(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c);
        let keys = expand(&key);
        assert_eq!(keys.encrypt[0], key);
        assert_eq!(
            keys.encrypt[10],
            bytes(0xd014_f9a8_c9ee_2589_e13f_0cc8_b663_0ca6)
        );
        assert_eq!((keys.decrypt[0], keys.decrypt[10]), (keys.encrypt[10], key));
        let key: Vec<u8> = [
            bytes(0x8e73_b0f7_da0e_6452_c810_f32b_8090_79e5),
            bytes(0x62f8_ead2_522c_6b7b_0000_0000_0000_0000),
        ]
        .concat();
        let keys = expand(&key[..24]);
        assert_eq!(
            keys.encrypt[12],
            bytes(0xe98b_a06f_448c_773c_8ecc_7204_0100_2202)
        );
        let key: Vec<u8> = [
            bytes(0x603d_eb10_15ca_71be_2b73_aef0_857d_7781),
            bytes(0x1f35_2c07_3b61_08d7_2d98_10a3_0914_dff4),
        ]
        .concat();
        let keys = expand(&key);
        assert_eq!(
            keys.encrypt[14],
            bytes(0xfe48_90d1_e618_8d0b_046d_f344_706c_631e)
        );
    }
}
