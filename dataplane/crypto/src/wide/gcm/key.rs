//! What an SA's GCM kernels need of its keys: round keys and powers of the hash key.
//!
//! ```text
//!   H^40 ... H^2 H^1 | ICV, ESN | round keys        in this order, without gaps, 14 cache lines
//!             '-------- a short packet reads only this -------'
//! ```
//!
//! A packet of m hash blocks reads m powers from H^m on, in whole registers: up to three blocks past H^1, which it
//! multiplies by zero.

use core::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si128, _mm_prefetch,
};

use zeroize::ZeroizeOnDrop;

use super::super::Level;
use super::super::cbc::RoundKeys;
use crate::key::{KeyMaterial, Salt};

/// Powers of the hash key that are kept.
pub(super) const POWERS: usize = 40;

/// Operations ahead of which their keys are asked for: with fewer a short packet still waits, more gain nothing.
pub(super) const AHEAD: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The last constant of the reduction: x^127 + x^126 + x^121, its upper half.
pub(super) const POLYNOMIAL: u64 = 0xc200_0000_0000_0000;

/// See the module. Wiped on drop.
#[derive(ZeroizeOnDrop)]
#[repr(C, align(64))]
pub(crate) struct GcmKey {
    /// From the highest to H itself, as the kernels multiply them (see [`field`]).
    pub(super) powers: [u128; POWERS],
    /// Bits that the associated data has: SPI and 32 or 64 bits of the sequence number.
    pub(super) associated_bits: u64,
    /// A bit for each byte of the ICV.
    pub(super) icv_mask: u16,
    /// Bytes of the ICV.
    pub(super) icv: u8,
    /// Sequence numbers have 64 bits.
    pub(super) esn: bool,
    reserved: [u8; 4],
    /// As many as the key's length asks for. The salt is added to the first: it stands in the nonce, to which that is added.
    pub(super) rounds: [u128; 15],
}

impl GcmKey {
    /// `None` if the key has a length that AES has not.
    pub(in crate::wide) fn new(level: Level, material: &KeyMaterial<'_>) -> Option<Box<Self>> {
        let (key, salt) = Salt::split(material.encryption)?;
        let keys = RoundKeys::expand(level, key)?;
        let mut this = Box::new(Self {
            powers: [0; POWERS],
            associated_bits: if material.esn { 96 } else { 64 },
            icv_mask: (u32::MAX >> (32 - material.suite.icv_len())) as u16,
            icv: material.suite.icv_len() as u8,
            esn: material.esn,
            reserved: [0; 4],
            rounds: [0; 15],
        });
        for (to, from) in this.rounds.iter_mut().zip(keys.encrypting()) {
            *to = u128::from_le_bytes(*from);
        }
        #[allow(unsafe_code)]
        // SAFETY: each level is a proof that the CPU has AES and PCLMULQDQ instructions.
        unsafe {
            this.raise(keys.rounds())?;
        }
        if let Some(first) = this.rounds.first_mut() {
            *first ^= u128::from(salt.in_memory());
        }
        Some(this)
    }

    /// Asks for what a packet of so many bytes needs.
    #[inline]
    pub(super) fn prefetch(&self, length: usize) {
        let start: *const i8 = std::ptr::from_ref(self).cast();
        // The powers that it needs are the last ones.
        let first = POWERS.saturating_sub(length / 16 + 1) * size_of::<u128>() / LINE;
        for line in first..size_of::<Self>() / LINE {
            #[allow(unsafe_code)]
            // SAFETY: a prefetch may be given any address, and this one is in the key.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(LINE * line));
            }
        }
    }

    /// The first round key and the salt.
    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn first_round(&self) -> __m128i {
        #[allow(unsafe_code)]
        // SAFETY: there are 15 round keys of 16 bytes.
        unsafe {
            _mm_loadu_si128(self.rounds.as_ptr().cast())
        }
    }

    /// The powers of the hash key, which is a block of zeros encrypted.
    #[target_feature(enable = "aes,pclmulqdq")]
    fn raise(&mut self, rounds: usize) -> Option<()> {
        let (first, rest) = self.rounds.get(..=rounds)?.split_first()?;
        let (last, rest) = rest.split_last()?;
        let mut block = field::from(*first);
        for round in rest {
            block = _mm_aesenc_si128(block, field::from(*round));
        }
        let block = field::into(_mm_aesenclast_si128(block, field::from(*last)));
        let hash_key = field::from(field::times_x(block.swap_bytes()));
        let mut power = hash_key;
        for to in self.powers.iter_mut().rev() {
            *to = field::into(power);
            power = field::multiply(power, hash_key);
        }
        Some(())
    }
}

/// The field of GHASH as the kernels calculate in it: bits of a block reversed (its bytes are swapped, and its bits are
/// taken as they are), every factor once more multiplied by x, and each product divided by x^128 (RFC 8452 appendix A).
pub(super) mod field {
    use core::arch::x86_64::{
        __m128i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_shuffle_epi32,
        _mm_xor_si128,
    };

    use super::POLYNOMIAL;

    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn from(number: u128) -> __m128i {
        _mm_set_epi64x((number >> 64) as i64, number as i64)
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn into(number: __m128i) -> u128 {
        let low = _mm_cvtsi128_si64(number) as u64;
        let high = _mm_cvtsi128_si64(_mm_shuffle_epi32::<0x4e>(number)) as u64;
        u128::from(low) | u128::from(high) << 64
    }

    /// Without a branch: the number is a secret.
    pub(super) const fn times_x(number: u128) -> u128 {
        let carry = (number >> 127).wrapping_neg();
        (number << 1) ^ (carry & (((POLYNOMIAL as u128) << 64) | 1))
    }

    #[target_feature(enable = "pclmulqdq")]
    #[inline]
    pub(super) fn multiply(left: __m128i, right: __m128i) -> __m128i {
        let low = _mm_clmulepi64_si128::<0x00>(left, right);
        let middle = _mm_xor_si128(
            _mm_clmulepi64_si128::<0x01>(left, right),
            _mm_clmulepi64_si128::<0x10>(left, right),
        );
        let high = _mm_clmulepi64_si128::<0x11>(left, right);
        reduce(low, middle, high)
    }

    /// Divides by x^64 twice, each time after adding the multiple of the polynomial that makes the lower half zero.
    #[target_feature(enable = "pclmulqdq")]
    #[inline]
    pub(super) fn reduce(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
        let polynomial = _mm_set_epi64x(0, POLYNOMIAL as i64);
        let middle = _mm_xor_si128(
            _mm_xor_si128(middle, _mm_shuffle_epi32::<0x4e>(low)),
            _mm_clmulepi64_si128::<0x00>(low, polynomial),
        );
        _mm_xor_si128(
            _mm_xor_si128(high, _mm_shuffle_epi32::<0x4e>(middle)),
            _mm_clmulepi64_si128::<0x00>(middle, polynomial),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::{Suite, Wide};

    /// The hash keys of test cases 1, 13 and 4 of the GCM specification, and powers by shifting and adding.
    #[test]
    fn powers_are_those_of_the_slow_multiplication() {
        fn slow(left: u128, right: u128) -> u128 {
            let (mut sum, mut factor) = (0, right);
            for bit in (0..128).rev() {
                sum ^= factor & (left >> bit & 1).wrapping_neg();
                factor = (factor >> 1) ^ (0xe1 << 120 & (factor & 1).wrapping_neg());
            }
            sum
        }
        let Some(wide) = Wide::detect() else { return };
        for (suite, key, hash_key) in [
            (
                Suite::AES128GCM16,
                vec![0; 16],
                0x66e9_4bd4_ef8a_2c3b_884c_fa59_ca34_2b2e,
            ),
            (
                Suite::AES256GCM16,
                vec![0; 32],
                0xdc95_c078_a240_8989_ad48_a214_9284_2087,
            ),
            (
                Suite::AES128GCM16,
                0xfeff_e992_8665_731c_6d6a_8f94_6730_8308_u128
                    .to_be_bytes()
                    .to_vec(),
                0xb83b_5337_08bf_535d_0aa6_e529_80d5_3b78,
            ),
        ] {
            let encryption = [&key[..], &[1, 2, 3, 4]].concat();
            let material = KeyMaterial {
                suite,
                encryption: &encryption,
                integrity: &[],
                esn: false,
            };
            let key = GcmKey::new(wide.level, &material).unwrap();
            let mut power: u128 = hash_key;
            for stored in key.powers.iter().rev() {
                assert_eq!(*stored, field::times_x(power));
                power = slow(power, hash_key);
            }
        }
    }

    #[test]
    fn what_lies_behind_the_powers_belongs_to_the_key() {
        assert_eq!(size_of::<GcmKey>(), 14 * 64);
        assert_eq!(std::mem::offset_of!(GcmKey, powers), 0);
        assert_eq!(std::mem::offset_of!(GcmKey, associated_bits), 16 * POWERS);
        assert_eq!(std::mem::offset_of!(GcmKey, rounds), 16 * (POWERS + 1));
    }

    #[test]
    fn keys_are_wiped_on_drop() {
        const fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<GcmKey>();
    }
}
