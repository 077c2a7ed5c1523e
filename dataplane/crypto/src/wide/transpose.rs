//! Rows of packets to columns of lanes, and back.

// Rows are counted by constants, which the compiler sees.
#![allow(clippy::indexing_slicing)]

use core::arch::x86_64::{
    __m512i, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Row `i` of what comes back has element `i` of every row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_16(r: &[__m512i; 16]) -> [__m512i; 16] {
    // Within each quarter: 32-bit elements of two rows, then 64-bit pairs of four rows.
    let mut q = [_mm512_setzero_si512(); 16];
    let mut at = 0;
    while at < 16 {
        let low01 = _mm512_unpacklo_epi32(r[at], r[at + 1]);
        let high01 = _mm512_unpackhi_epi32(r[at], r[at + 1]);
        let low23 = _mm512_unpacklo_epi32(r[at + 2], r[at + 3]);
        let high23 = _mm512_unpackhi_epi32(r[at + 2], r[at + 3]);
        q[at] = _mm512_unpacklo_epi64(low01, low23);
        q[at + 1] = _mm512_unpackhi_epi64(low01, low23);
        q[at + 2] = _mm512_unpacklo_epi64(high01, high23);
        q[at + 3] = _mm512_unpackhi_epi64(high01, high23);
        at += 4;
    }
    // Then the quarters of four such groups.
    let mut t = [_mm512_setzero_si512(); 16];
    let mut at = 0;
    while at < 4 {
        let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(q[at], q[at + 4]);
        let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(q[at], q[at + 4]);
        let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(q[at + 8], q[at + 12]);
        let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(q[at + 8], q[at + 12]);
        t[at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
        t[at + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
        t[at + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
        t[at + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
        at += 1;
    }
    t
}

/// The same for eight rows of eight elements of 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_8(r: &[__m512i; 8]) -> [__m512i; 8] {
    let mut q = [_mm512_setzero_si512(); 8];
    let mut at = 0;
    while at < 8 {
        q[at] = _mm512_unpacklo_epi64(r[at], r[at + 1]);
        q[at + 1] = _mm512_unpackhi_epi64(r[at], r[at + 1]);
        at += 2;
    }
    let mut t = [_mm512_setzero_si512(); 8];
    let mut at = 0;
    while at < 2 {
        let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(q[at], q[at + 2]);
        let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(q[at], q[at + 2]);
        let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(q[at + 4], q[at + 6]);
        let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(q[at + 4], q[at + 6]);
        t[at] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
        t[at + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
        t[at + 2] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
        t[at + 6] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
        at += 1;
    }
    t
}
