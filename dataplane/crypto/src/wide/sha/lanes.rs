//! Words of many messages in the lanes of registers, and back.

use core::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm256_storeu_si256, _mm512_castsi512_si256,
    _mm512_extracti32x4_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
    _mm512_set4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_store_si512,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::super::transpose::{transpose_8, transpose_16};
use super::words::Words;

/// Hash states of sixteen messages of 32-bit words: word by word, in each the sixteen lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::wide) struct Lanes16(pub(super) [[u32; 16]; 8]);

/// Hash states of eight messages of 64-bit words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::wide) struct Lanes8(pub(super) [[u64; 8]; 8]);

/// Turns the bytes of every 32-bit word around.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap_32(words: __m512i) -> __m512i {
    _mm512_shuffle_epi8(
        words,
        _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203),
    )
}

/// Turns the bytes of every 64-bit word around.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap_64(words: __m512i) -> __m512i {
    _mm512_shuffle_epi8(
        words,
        _mm512_set4_epi32(0x0809_0a0b, 0x0c0d_0e0f, 0x0001_0203, 0x0405_0607),
    )
}

/// The big-endian words of a block of 64 bytes at `offset` of each lane: in register `i`, word `i` of every lane.
///
/// # Safety
/// 64 bytes can be read at `offset` of each of `lanes`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn load_16(lanes: &[*const u8; 16], offset: usize) -> [__m512i; 16] {
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        // SAFETY: as the caller promises.
        *row = swap_32(unsafe { _mm512_loadu_si512(lane.add(offset).cast()) });
    }
    transpose_16(&rows)
}

/// The big-endian words of a block of 128 bytes at `offset` of each lane: in register `i`, word `i` of every lane.
///
/// # Safety
/// 128 bytes can be read at `offset` of each of the first eight of `lanes`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn load_8(lanes: &[*const u8; 16], offset: usize) -> [__m512i; 16] {
    let mut words = [_mm512_setzero_si512(); 16];
    let (halves, _) = words.as_chunks_mut::<8>();
    for (half, offset) in halves.iter_mut().zip([offset, offset + 64]) {
        let mut rows = [_mm512_setzero_si512(); 8];
        for (row, lane) in rows.iter_mut().zip(lanes) {
            // SAFETY: as the caller promises.
            *row = swap_64(unsafe { _mm512_loadu_si512(lane.add(offset).cast()) });
        }
        *half = transpose_8(&rows);
    }
    words
}

/// Copies fewer bytes than `length`, a multiple of 64, with zeros behind them.
///
/// # Safety
/// `length` bytes can be written at `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn copy_padded(rest: &[u8], to: *mut u8, length: usize) {
    for at in (0..length).step_by(64) {
        let left = rest.len().saturating_sub(at);
        let mask = if left < 64 { (1 << left) - 1 } else { u64::MAX };
        // SAFETY: the mask has the bytes that are left; the rest is as the caller promises.
        unsafe {
            let bytes = _mm512_maskz_loadu_epi8(mask, rest.as_ptr().wrapping_add(at).cast());
            _mm512_storeu_si512(to.add(at).cast(), bytes);
        }
    }
}

impl Lanes16 {
    /// The registers of `N` sets: word by word.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load_all<const N: usize>(sets: &[&mut Self; N]) -> [Words<N>; 8] {
        let mut words = [[_mm512_setzero_si512(); N]; 8];
        for (n, set) in sets.iter().enumerate() {
            for (words, word) in words.iter_mut().zip(set.load()) {
                words[n] = word;
            }
        }
        words
    }

    /// Keeps the registers of `N` sets.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store_all<const N: usize>(sets: [&mut Self; N], words: &[Words<N>; 8]) {
        for (n, set) in sets.into_iter().enumerate() {
            set.store(&words.map(|words| words[n]));
        }
    }

    /// All zero.
    pub(super) const ZERO: Self = Self([[0; 16]; 8]);

    /// The registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(&self) -> [__m512i; 8] {
        let mut registers = [_mm512_setzero_si512(); 8];
        for (register, words) in registers.iter_mut().zip(&self.0) {
            // SAFETY: 64 bytes, aligned to as many as the type is.
            *register = unsafe { _mm512_load_si512(words.as_ptr().cast()) };
        }
        registers
    }

    /// Keeps the registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store(&mut self, registers: &[__m512i; 8]) {
        for (register, words) in registers.iter().zip(&mut self.0) {
            // SAFETY: 64 bytes, aligned to as many as the type is.
            unsafe { _mm512_store_si512(words.as_mut_ptr().cast(), *register) };
        }
    }

    /// Inner and outer states of sixteen keys, each of which has them one behind the other.
    #[target_feature(enable = "avx512f")]
    pub(super) fn of_keys(keys: &[&[u32; 16]; 16]) -> (Self, Self) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, key) in rows.iter_mut().zip(keys) {
            // SAFETY: 64 bytes, of any alignment.
            *row = unsafe { _mm512_loadu_si512(key.as_ptr().cast()) };
        }
        let words = transpose_16(&rows);
        let (mut inner, mut outer) = (Self::ZERO, Self::ZERO);
        if let ([first, second], _) = words.as_chunks::<8>() {
            inner.store(first);
            outer.store(second);
        }
        (inner, outer)
    }

    /// The first four words of every lane as the bytes of a digest.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn digests(&self, digests: &mut [[u8; 32]]) {
        let [a, b, c, d, ..] = self.load();
        let low01 = _mm512_unpacklo_epi32(a, b);
        let high01 = _mm512_unpackhi_epi32(a, b);
        let low23 = _mm512_unpacklo_epi32(c, d);
        let high23 = _mm512_unpackhi_epi32(c, d);
        let columns = [
            swap_32(_mm512_unpacklo_epi64(low01, low23)),
            swap_32(_mm512_unpackhi_epi64(low01, low23)),
            swap_32(_mm512_unpacklo_epi64(high01, high23)),
            swap_32(_mm512_unpackhi_epi64(high01, high23)),
        ];
        // Quarter q of column c is lane 4q + c.
        for (lane, digest) in digests.iter_mut().enumerate().take(16) {
            let column = columns[lane % 4];
            let quarter = match lane / 4 {
                0 => _mm512_extracti32x4_epi32::<0>(column),
                1 => _mm512_extracti32x4_epi32::<1>(column),
                2 => _mm512_extracti32x4_epi32::<2>(column),
                _ => _mm512_extracti32x4_epi32::<3>(column),
            };
            // SAFETY: 16 bytes at the front of 32, of any alignment.
            unsafe { _mm_storeu_si128(digest.as_mut_ptr().cast(), quarter) };
        }
    }
}

impl Lanes8 {
    /// The registers of `N` sets: word by word.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load_all<const N: usize>(sets: &[&mut Self; N]) -> [Words<N>; 8] {
        let mut words = [[_mm512_setzero_si512(); N]; 8];
        for (n, set) in sets.iter().enumerate() {
            for (words, word) in words.iter_mut().zip(set.load()) {
                words[n] = word;
            }
        }
        words
    }

    /// Keeps the registers of `N` sets.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store_all<const N: usize>(sets: [&mut Self; N], words: &[Words<N>; 8]) {
        for (n, set) in sets.into_iter().enumerate() {
            set.store(&words.map(|words| words[n]));
        }
    }

    /// All zero.
    pub(super) const ZERO: Self = Self([[0; 8]; 8]);

    /// The registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(&self) -> [__m512i; 8] {
        let mut registers = [_mm512_setzero_si512(); 8];
        for (register, words) in registers.iter_mut().zip(&self.0) {
            // SAFETY: 64 bytes, aligned to as many as the type is.
            *register = unsafe { _mm512_load_si512(words.as_ptr().cast()) };
        }
        registers
    }

    /// Keeps the registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store(&mut self, registers: &[__m512i; 8]) {
        for (register, words) in registers.iter().zip(&mut self.0) {
            // SAFETY: 64 bytes, aligned to as many as the type is.
            unsafe { _mm512_store_si512(words.as_mut_ptr().cast(), *register) };
        }
    }

    /// Inner and outer states of eight keys, each of which has them one behind the other.
    #[target_feature(enable = "avx512f")]
    pub(super) fn of_keys(keys: &[&[u64; 16]; 8]) -> (Self, Self) {
        let (mut inner, mut outer) = (Self::ZERO, Self::ZERO);
        for (at, states) in [&mut inner, &mut outer].into_iter().enumerate() {
            let mut rows = [_mm512_setzero_si512(); 8];
            for (row, key) in rows.iter_mut().zip(keys) {
                // SAFETY: 64 bytes at the front or the back of 128, of any alignment.
                *row = unsafe { _mm512_loadu_si512(key.as_ptr().add(at * 8).cast()) };
            }
            states.store(&transpose_8(&rows));
        }
        (inner, outer)
    }

    /// The first four words of every lane as the bytes of a digest.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn digests(&self, digests: &mut [[u8; 32]]) {
        let rows = transpose_8(&self.load());
        for (row, digest) in rows.into_iter().zip(digests) {
            let bytes = _mm512_castsi512_si256(swap_64(row));
            // SAFETY: 32 bytes, of any alignment.
            unsafe { _mm256_storeu_si256(digest.as_mut_ptr().cast(), bytes) };
        }
    }
}
