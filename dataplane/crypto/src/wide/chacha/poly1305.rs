//! Poly1305 of eight messages, each in a lane of 64 bits (RFC 8439 section 2.5).
//!
//! A number has three limbs of 44, 44 and 42 bits, and each register one limb of eight packets. The 52-bit multiplication
//! gives the lower and the upper half of each product in two instructions that also add:
//!
//! ```text
//!   (h0 + m0, h1 + m1, h2 + m2) * (r0, r1, r2)    limb 0   h0 r0 + h1 20 r2 + h2 20 r1
//!                                                 limb 1   h0 r1 + h1 r0    + h2 20 r2
//!                                                 limb 2   h0 r2 + h1 r1    + h2 r0
//! ```
//!
//! What passes bit 132 comes back times 20, since 2^130 is 5 and 132 is two bits more. The upper halves stand at bit 52,
//! so 8 bits up in the next limb, and 10 where a limb has 42.
//!
//! Bounds: limbs of h are under 2^45, with a message's under 2^46; r's under 2^44, times 20 under 2^49. Three upper halves
//! make less than 2^45, so every carry fits 64 bits, and what the multiplication reads of h fits its 52.

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256,
    _mm512_cmplt_epu64_mask, _mm512_cvtepu32_epi64, _mm512_extracti64x4_epi64,
    _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_mov_epi64, _mm512_mask_sub_epi64,
    _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_ternarylogic_epi64, _mm512_test_epi64_mask,
};

/// The lower 44 bits.
const LIMB: i64 = (1 << 44) - 1;
/// The lower 42 bits.
const LAST: i64 = (1 << 42) - 1;

/// The state of eight messages, and their keys.
#[derive(Clone, Copy)]
pub(super) struct Poly {
    h: [__m512i; 3],
    r: [__m512i; 3],
    /// The limbs 1 and 2 of r times 20.
    r20: [__m512i; 2],
    /// What is added at the end: lower and upper half.
    pad: [__m512i; 2],
}

impl Poly {
    /// Of the first words of key streams, 16 lanes each: one state for each half of the lanes.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn pair(words: &[__m512i; 16]) -> [Self; 2] {
        let [a, b, c, d, e, f, g, h, ..] = *words;
        let low = |low, high| {
            join(
                _mm512_cvtepu32_epi64(_mm512_castsi512_si256(low)),
                _mm512_cvtepu32_epi64(_mm512_castsi512_si256(high)),
            )
        };
        let high = |low, high| {
            join(
                _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64::<1>(low)),
                _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64::<1>(high)),
            )
        };
        [
            Self::new([low(a, b), low(c, d)], [low(e, f), low(g, h)]),
            Self::new([high(a, b), high(c, d)], [high(e, f), high(g, h)]),
        ]
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn new([low, high]: [__m512i; 2], pad: [__m512i; 2]) -> Self {
        let low = _mm512_and_si512(low, _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(high, _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let r = limbs(low, high);
        let times_20 =
            |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        let zero = _mm512_setzero_si512();
        Self {
            h: [zero; 3],
            r,
            r20: [times_20(r[1]), times_20(r[2])],
            pad,
        }
    }

    /// A block of 16 bytes of each message, of those lanes only that are active. Direction and caller make instances.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn block<const OPEN: bool, const CALLER: u8>(
        &mut self,
        active: __mmask8,
        low: __m512i,
        high: __m512i,
    ) {
        let [m0, m1, m2] = limbs(low, high);
        // RFC 8439 adds a byte of one behind each block.
        let m2 = _mm512_or_si512(m2, _mm512_set1_epi64(1 << 40));
        let a0 = _mm512_add_epi64(self.h[0], m0);
        let a1 = _mm512_add_epi64(self.h[1], m1);
        let a2 = _mm512_add_epi64(self.h[2], m2);
        let [r0, r1, r2] = self.r;
        let [s1, s2] = self.r20;
        let (low0, high0) = products([(a0, r0), (a1, s2), (a2, s1)]);
        let (low1, high1) = products([(a0, r1), (a1, r0), (a2, s2)]);
        let (low2, high2) = products([(a0, r2), (a1, r1), (a2, r0)]);
        let limb = _mm512_set1_epi64(LIMB);
        let low1 = _mm512_add_epi64(low1, _mm512_slli_epi64::<8>(high0));
        let low2 = _mm512_add_epi64(low2, _mm512_slli_epi64::<8>(high1));
        let h0 = _mm512_and_si512(low0, limb);
        let low1 = _mm512_add_epi64(low1, _mm512_srli_epi64::<44>(low0));
        let h1 = _mm512_and_si512(low1, limb);
        let low2 = _mm512_add_epi64(low2, _mm512_srli_epi64::<44>(low1));
        let h2 = _mm512_and_si512(low2, _mm512_set1_epi64(LAST));
        let over = _mm512_add_epi64(
            _mm512_srli_epi64::<42>(low2),
            _mm512_slli_epi64::<10>(high2),
        );
        let h0 = _mm512_add_epi64(h0, times_5(over));
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        let h0 = _mm512_and_si512(h0, limb);
        for (h, new) in self.h.iter_mut().zip([h0, h1, h2]) {
            *h = _mm512_mask_mov_epi64(*h, active, new);
        }
    }

    /// The tags: lower and upper halves.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn tags(&self) -> [__m512i; 2] {
        let (limb, last) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(LAST));
        let carried = |[h0, h1, h2]: [__m512i; 3]| {
            let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
            let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
            [_mm512_and_si512(h0, limb), _mm512_and_si512(h1, limb), h2]
        };
        let folded = |[h0, h1, h2]: [__m512i; 3]| {
            let over = _mm512_srli_epi64::<42>(h2);
            [
                _mm512_add_epi64(h0, times_5(over)),
                h1,
                _mm512_and_si512(h2, last),
            ]
        };
        // After two rounds the number is under 2^130: of what is left over the first time next to nothing is the second.
        let h = carried(folded(carried(folded(carried(self.h)))));
        // The number less the prime, if that is not negative.
        let [h0, h1, h2] = h;
        let less = carried([_mm512_add_epi64(h0, _mm512_set1_epi64(5)), h1, h2]);
        let over = _mm512_test_epi64_mask(less[2], _mm512_set1_epi64(1 << 42));
        let mut chosen = h;
        for (h, less) in chosen.iter_mut().zip(less) {
            *h = _mm512_mask_mov_epi64(*h, over, less);
        }
        let [h0, h1, h2] = chosen;
        let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
        let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
        let [pad_low, pad_high] = self.pad;
        let low = _mm512_add_epi64(low, pad_low);
        let carry = _mm512_cmplt_epu64_mask(low, pad_low);
        let high = _mm512_add_epi64(high, pad_high);
        let high = _mm512_mask_sub_epi64(high, carry, high, _mm512_set1_epi64(-1));
        [low, high]
    }
}

/// Of the 32-bit halves of numbers, in lanes of 64 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn join(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(low, _mm512_slli_epi64::<32>(high))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn times_5(number: __m512i) -> __m512i {
    _mm512_add_epi64(number, _mm512_slli_epi64::<2>(number))
}

/// Of numbers of 128 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn limbs(low: __m512i, high: __m512i) -> [__m512i; 3] {
    let limb = _mm512_set1_epi64(LIMB);
    [
        _mm512_and_si512(low, limb),
        // (a | b) & c
        _mm512_ternarylogic_epi64::<0xa8>(
            _mm512_srli_epi64::<44>(low),
            _mm512_slli_epi64::<20>(high),
            limb,
        ),
        _mm512_srli_epi64::<24>(high),
    ]
}

/// The sums of the lower 52 bits and of the others of three products.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn products([a, b, c]: [(__m512i, __m512i); 3]) -> (__m512i, __m512i) {
    let zero = _mm512_setzero_si512();
    let low = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, a.0, a.1), b.0, b.1);
    let high = _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(zero, a.0, a.1), b.0, b.1);
    // The last product waits for neither.
    (
        _mm512_add_epi64(low, _mm512_madd52lo_epu64(zero, c.0, c.1)),
        _mm512_add_epi64(high, _mm512_madd52hi_epu64(zero, c.0, c.1)),
    )
}
