//! What an SA's GCM kernels need of its keys: round keys and powers of the hash key.
//!
//! ```text
//!   H^40 ... H^2 H^1 | salt, ICV, ESN | round keys        in this order, without gaps, 14 cache lines
//!             '-------- a short packet reads only this -------'
//! ```
//!
//! A packet of m hash blocks reads m powers from H^m on, in whole registers: up to three blocks past H^1, which it
//! multiplies by zero.

use core::arch::x86_64::{
    _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_cvtsi128_si32,
    _mm_set1_epi32,
};

use zeroize::ZeroizeOnDrop;

use super::super::cpu::Bits256;
use crate::key::{KeyMaterial, Salt};

/// Powers of the hash key that are kept.
pub(super) const POWERS: usize = 40;

/// The last constant of the reduction: x^127 + x^126 + x^121, its upper half.
pub(super) const POLYNOMIAL: u64 = 0xc200_0000_0000_0000;

/// See the module. Wiped on drop.
#[derive(ZeroizeOnDrop)]
#[repr(C, align(64))]
pub(crate) struct GcmKey {
    /// From the highest to H itself, as the kernels multiply them (see [`field`]).
    pub(super) powers: [u128; POWERS],
    /// As it stands in the nonce's memory.
    pub(super) salt: u32,
    /// Bytes of the ICV.
    pub(super) icv: u8,
    /// Sequence numbers have 64 bits.
    pub(super) esn: bool,
    reserved: [u8; 10],
    /// As many as the key's length asks for.
    pub(super) rounds: [u128; 15],
}

impl GcmKey {
    /// `None` if the key has a length that AES has not.
    pub(crate) fn new(cpu: Bits256, material: &KeyMaterial<'_>) -> Option<Box<Self>> {
        let (key, salt) = Salt::split(material.encryption)?;
        let mut this = Box::new(Self {
            powers: [0; POWERS],
            salt: salt.in_memory(),
            icv: material.suite.icv_len() as u8,
            esn: material.esn,
            reserved: [0; 10],
            rounds: [0; 15],
        });
        let _ = cpu;
        #[allow(unsafe_code)]
        // SAFETY: the token says that this CPU has what the function is compiled for.
        unsafe {
            this.expand(key)?;
        }
        Some(this)
    }

    /// Bits that the associated data has: SPI and 32 or 64 bits of the sequence number.
    #[inline]
    pub(super) const fn associated_bits(&self) -> u64 {
        if self.esn { 96 } else { 64 }
    }

    /// FIPS 197 section 5.2, then the powers.
    #[target_feature(enable = "aes,pclmulqdq")]
    fn expand(&mut self, key: &[u8]) -> Option<()> {
        let (given, []) = key.as_chunks::<4>() else {
            return None;
        };
        let count = given.len();
        let rounds = match count {
            4 | 6 | 8 => count + 6,
            _ => return None,
        };
        let mut words = zeroize::Zeroizing::new([0_u32; 60]);
        for (to, from) in words.iter_mut().zip(given) {
            *to = u32::from_le_bytes(*from);
        }
        let mut constant = 1_u32;
        for at in count..4 * (rounds + 1) {
            let mut word = *words.get(at - 1)?;
            if at % count == 0 {
                word = substitute(word).rotate_right(8) ^ constant;
                constant = constant << 1 ^ if constant & 0x80 == 0 { 0 } else { 0x11b };
            } else if count == 8 && at % count == 4 {
                word = substitute(word);
            }
            *words.get_mut(at)? = *words.get(at - count)? ^ word;
        }
        let (blocks, _) = words.as_chunks::<4>();
        for (to, [a, b, c, d]) in self.rounds.iter_mut().zip(blocks) {
            *to =
                u128::from(*a) | u128::from(*b) << 32 | u128::from(*c) << 64 | u128::from(*d) << 96;
        }
        self.raise(rounds)
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

/// The S-box over the bytes of a word.
#[target_feature(enable = "aes")]
#[inline]
fn substitute(word: u32) -> u32 {
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32
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
