//! SHA-1 and SHA-256 by the CPU's SHA instructions, some messages at a time.
//!
//! One message alone waits for the latency of each instruction; with two or more the CPU always has another message's
//! instruction to start. A full set of lanes ([`super::sha1`], [`super::sha256`]) is faster still: this is for the packets
//! that do not fill one.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_extract_epi32, _mm_loadu_si128,
    _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128, _mm_sha1msg1_epu32, _mm_sha1msg2_epu32,
    _mm_sha1nexte_epu32, _mm_sha1rnds4_epu32, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32,
    _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_storeu_si128, _mm_xor_si128,
};

use super::sha256::K;

/// The four words at `from`, the first one highest.
///
/// # Safety
/// 16 bytes can be read.
#[inline]
#[target_feature(enable = "sse2,ssse3")]
unsafe fn load_reversed(from: *const u8) -> __m128i {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    // SAFETY: as the caller promises.
    _mm_shuffle_epi8(unsafe { _mm_loadu_si128(from.cast()) }, order)
}

/// The four words at `from`, the first one lowest.
///
/// # Safety
/// 16 bytes can be read.
#[inline]
#[target_feature(enable = "sse2,ssse3")]
unsafe fn load_words(from: *const u8) -> __m128i {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    // SAFETY: as the caller promises.
    _mm_shuffle_epi8(unsafe { _mm_loadu_si128(from.cast()) }, order)
}

/// Hashes `blocks` blocks of `N` messages on by SHA-1.
///
/// # Safety
/// The CPU has the SHA extensions and SSE4.1, and `blocks * 64` bytes can be read at each of `messages`.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) unsafe fn sha1<const N: usize>(
    states: [&mut [u32; 8]; N],
    messages: [*const u8; N],
    blocks: usize,
) {
    let mut abcd = [_mm_setzero_si128(); N];
    let mut e = [_mm_setzero_si128(); N];
    for n in 0..N {
        let [a, b, c, d, fifth, ..] = states[n].map(u32::cast_signed);
        abcd[n] = _mm_set_epi32(a, b, c, d);
        e[n] = _mm_set_epi32(fifth, 0, 0, 0);
    }
    for at in 0..blocks {
        let (abcd_before, e_before) = (abcd, e);
        let mut w = [[_mm_setzero_si128(); 4]; N];
        let mut other = e;
        // Four rounds: `$now` has the e that goes in, `$next` becomes the one of the next four.
        macro_rules! four {
            ($function:literal, $at:literal, $now:ident, $next:ident) => {
                for n in 0..N {
                    if $at < 4 {
                        let from = messages[n].wrapping_add(at * 64 + $at * 16);
                        // SAFETY: within the block that the caller promises.
                        w[n][$at & 3] = unsafe { load_reversed(from) };
                    } else {
                        let mixed = _mm_xor_si128(
                            _mm_sha1msg1_epu32(w[n][$at & 3], w[n][($at + 1) & 3]),
                            w[n][($at + 2) & 3],
                        );
                        w[n][$at & 3] = _mm_sha1msg2_epu32(mixed, w[n][($at + 3) & 3]);
                    }
                    $now[n] = if $at == 0 {
                        _mm_add_epi32($now[n], w[n][0])
                    } else {
                        _mm_sha1nexte_epu32($now[n], w[n][$at & 3])
                    };
                    $next[n] = abcd[n];
                    abcd[n] = _mm_sha1rnds4_epu32::<$function>(abcd[n], $now[n]);
                }
            };
        }
        four!(0, 0, e, other);
        four!(0, 1, other, e);
        four!(0, 2, e, other);
        four!(0, 3, other, e);
        four!(0, 4, e, other);
        four!(1, 5, other, e);
        four!(1, 6, e, other);
        four!(1, 7, other, e);
        four!(1, 8, e, other);
        four!(1, 9, other, e);
        four!(2, 10, e, other);
        four!(2, 11, other, e);
        four!(2, 12, e, other);
        four!(2, 13, other, e);
        four!(2, 14, e, other);
        four!(3, 15, other, e);
        four!(3, 16, e, other);
        four!(3, 17, other, e);
        four!(3, 18, e, other);
        four!(3, 19, other, e);
        for n in 0..N {
            e[n] = _mm_sha1nexte_epu32(e[n], e_before[n]);
            abcd[n] = _mm_add_epi32(abcd[n], abcd_before[n]);
        }
    }
    for (n, state) in states.into_iter().enumerate() {
        // SAFETY: the first 16 of 32 bytes are written.
        unsafe {
            _mm_storeu_si128(
                state.as_mut_ptr().cast(),
                _mm_shuffle_epi32::<0b00_01_10_11>(abcd[n]),
            );
        }
        state[4] = _mm_extract_epi32::<3>(e[n]).cast_unsigned();
    }
}

/// Hashes `blocks` blocks of `N` messages on by SHA-256.
///
/// # Safety
/// As [`fn@sha1`].
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) unsafe fn sha256<const N: usize>(
    states: [&mut [u32; 8]; N],
    messages: [*const u8; N],
    blocks: usize,
) {
    let mut abef = [_mm_setzero_si128(); N];
    let mut cdgh = [_mm_setzero_si128(); N];
    for n in 0..N {
        let [a, b, c, d, e, f, g, h] = states[n].map(u32::cast_signed);
        abef[n] = _mm_set_epi32(a, b, e, f);
        cdgh[n] = _mm_set_epi32(c, d, g, h);
    }
    let (constants, _) = K.as_chunks::<4>();
    for at in 0..blocks {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut w = [[_mm_setzero_si128(); 4]; N];
        macro_rules! four {
            ($at:literal) => {
                // SAFETY: sixteen bytes, at any alignment.
                let k = unsafe { _mm_loadu_si128(constants[$at].as_ptr().cast()) };
                for n in 0..N {
                    if $at < 4 {
                        let from = messages[n].wrapping_add(at * 64 + $at * 16);
                        // SAFETY: within the block that the caller promises.
                        w[n][$at & 3] = unsafe { load_words(from) };
                    } else {
                        let near = _mm_sha256msg1_epu32(w[n][$at & 3], w[n][($at + 1) & 3]);
                        let middle = _mm_alignr_epi8::<4>(w[n][($at + 3) & 3], w[n][($at + 2) & 3]);
                        w[n][$at & 3] =
                            _mm_sha256msg2_epu32(_mm_add_epi32(near, middle), w[n][($at + 3) & 3]);
                    }
                    let fed = _mm_add_epi32(w[n][$at & 3], k);
                    cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], fed);
                    let fed = _mm_shuffle_epi32::<0b00_00_11_10>(fed);
                    abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], fed);
                }
            };
        }
        four!(0);
        four!(1);
        four!(2);
        four!(3);
        four!(4);
        four!(5);
        four!(6);
        four!(7);
        four!(8);
        four!(9);
        four!(10);
        four!(11);
        four!(12);
        four!(13);
        four!(14);
        four!(15);
        for n in 0..N {
            abef[n] = _mm_add_epi32(abef[n], abef_before[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], cdgh_before[n]);
        }
    }
    for (n, state) in states.into_iter().enumerate() {
        let feba = _mm_shuffle_epi32::<0b00_01_10_11>(abef[n]);
        let dchg = _mm_shuffle_epi32::<0b10_11_00_01>(cdgh[n]);
        // SAFETY: both halves of 32 bytes are written.
        unsafe {
            let to = state.as_mut_ptr();
            _mm_storeu_si128(to.cast(), _mm_blend_epi16::<0xf0>(feba, dchg));
            _mm_storeu_si128(to.add(4).cast(), _mm_alignr_epi8::<8>(dchg, feba));
        }
    }
}
