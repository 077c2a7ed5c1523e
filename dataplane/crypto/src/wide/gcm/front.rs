//! What is made of a packet's number: header, nonce and the hash's first block (RFC 4106 sections 3 to 5).
//!
//! ```text
//!   header      | SPI | low half of the number | IV: seal, the whole number |
//!   nonce       | salt | IV                            | counter, still zero |
//!   associated  | SPI | number, low half or both       | zero                |   bytes in the hash's order
//! ```

use core::arch::x86_64::{
    __m128i, _mm_insert_epi32, _mm_loadu_si128, _mm_set_epi64x, _mm_shuffle_epi8, _mm_xor_si128,
};

use super::super::direction::Direction;
use super::job::Job;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Front {
    /// As it is in the packet, or will be.
    pub(super) header: __m128i,
    /// The nonce with the first round key added.
    pub(super) base: __m128i,
    /// The hash's first block.
    pub(super) associated: __m128i,
}

/// Puts zero where it stands in an order of bytes.
const ZERO: u8 = 0x80;

/// The IV to where the nonce has it.
const NONCE: [u8; 16] = [
    ZERO, ZERO, ZERO, ZERO, 8, 9, 10, 11, 12, 13, 14, 15, ZERO, ZERO, ZERO, ZERO,
];

/// SPI and number to the associated data, with swapped bytes: without and with the number's high half, which stands
/// where the IV begins.
const ASSOCIATED: [[u8; 16]; 2] = [
    [
        ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, 7, 6, 5, 4, 3, 2, 1, 0,
    ],
    [ZERO, ZERO, ZERO, ZERO, 7, 6, 5, 4, 11, 10, 9, 8, 3, 2, 1, 0],
];

impl Front {
    /// Of a packet that has not changed yet.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn new<D: Direction>(job: &Job<'_, D>) -> Self {
        let order = |bytes: &[u8; 16]| {
            #[allow(unsafe_code)]
            // SAFETY: 16 bytes are read of 16.
            unsafe {
                _mm_loadu_si128(bytes.as_ptr().cast())
            }
        };
        let (header, numbered) = if D::OPEN {
            #[allow(unsafe_code)]
            // SAFETY: a job's packet has more than the 16 bytes of its header.
            let header = unsafe { _mm_loadu_si128(job.start().cast()) };
            let high = ((job.seq() >> 32) as u32).swap_bytes();
            (header, _mm_insert_epi32::<2>(header, high as i32))
        } else {
            let number = job.seq().swap_bytes();
            #[allow(unsafe_code)]
            // SAFETY: a job's packet has more than the 4 bytes of its SPI.
            let spi = unsafe { job.start().cast::<u32>().read_unaligned() };
            let first = number & !0xffff_ffff | u64::from(spi);
            let header = _mm_set_epi64x(number as i64, first as i64);
            (header, header)
        };
        let associated = &ASSOCIATED[usize::from(job.key.esn)];
        Self {
            header,
            base: _mm_xor_si128(
                _mm_shuffle_epi8(header, order(&NONCE)),
                job.key.first_round(),
            ),
            associated: _mm_shuffle_epi8(numbered, order(associated)),
        }
    }
}
