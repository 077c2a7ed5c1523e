//! AES-CBC in registers of 512 bits: four lanes each.

use core::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_aesdec_epi128, _mm512_aesdeclast_epi128, _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128, _mm512_alignr_epi64, _mm512_broadcast_i32x4, _mm512_load_si512,
    _mm512_loadu_si512, _mm512_mask_storeu_epi64, _mm512_maskz_loadu_epi64, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_store_si512, _mm512_storeu_si512, _mm512_xor_si512,
};

use super::round_keys::RoundKeys;
use super::{Blocks, LANES, Run, Text};

/// Blocks of a lane that one load takes.
pub(super) const CHUNK: usize = 4;

/// Rows to columns of 128 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = rows;
    let low_ab = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
    let high_ab = _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
    let low_cd = _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d);
    let high_cd = _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d);
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(low_ab, low_cd),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(low_ab, low_cd),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(high_ab, high_cd),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(high_ab, high_cd),
    ]
}

/// One block in every quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(block: &[u8; 16]) -> __m512i {
    // SAFETY: 16 bytes, at any alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
}

/// The key of a round for register `r`: that of its four lanes, or the one that all share.
///
/// # Safety
/// Behind `keys` is a [`Blocks`] for each round when `OWN`, else a block for each.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn key<const OWN: bool>(keys: *const u8, round: usize, r: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        if OWN {
            _mm512_loadu_si512(keys.add(16 * (LANES * round + 4 * r)).cast())
        } else {
            _mm512_broadcast_i32x4(_mm_loadu_si128(keys.add(16 * round).cast()))
        }
    }
}

/// Encrypts a block of every lane of `R` registers. The sixteen lanes of AES-128, -192 and -256 differ in predictable
/// branches only.
///
/// # Safety
/// As [`key`], for `rounds + 1` rounds.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt_block<const R: usize, const OWN: bool>(
    state: &mut [__m512i; R],
    keys: *const u8,
    rounds: usize,
) {
    macro_rules! round {
        ($step:ident, $round:expr) => {
            for r in 0..R {
                // SAFETY: as the caller promises.
                state[r] = $step(state[r], unsafe { key::<OWN>(keys, $round, r) });
            }
        };
    }
    round!(_mm512_xor_si512, 0);
    round!(_mm512_aesenc_epi128, 1);
    round!(_mm512_aesenc_epi128, 2);
    round!(_mm512_aesenc_epi128, 3);
    round!(_mm512_aesenc_epi128, 4);
    round!(_mm512_aesenc_epi128, 5);
    round!(_mm512_aesenc_epi128, 6);
    round!(_mm512_aesenc_epi128, 7);
    round!(_mm512_aesenc_epi128, 8);
    round!(_mm512_aesenc_epi128, 9);
    if rounds >= 12 {
        round!(_mm512_aesenc_epi128, 10);
        round!(_mm512_aesenc_epi128, 11);
    }
    if rounds >= 14 {
        round!(_mm512_aesenc_epi128, 12);
        round!(_mm512_aesenc_epi128, 13);
    }
    round!(_mm512_aesenclast_epi128, rounds);
}

/// Encrypts one block of each lane under a key that they share: the IVs.
///
/// # Safety
/// The CPU has AVX-512 F and VAES; `keys` as in [`Run`].
#[target_feature(enable = "avx512f,vaes")]
pub(super) unsafe fn encrypt_each<const R: usize>(
    keys: *const u8,
    rounds: usize,
    blocks: &mut Blocks,
) {
    let mut state = [_mm512_setzero_si512(); R];
    for (r, state) in state.iter_mut().enumerate() {
        // SAFETY: R is at most four; the type is aligned to 64.
        *state = unsafe { _mm512_load_si512(blocks.0.as_ptr().add(4 * r).cast()) };
    }
    // SAFETY: as the caller promises.
    unsafe { encrypt_block::<R, false>(&mut state, keys, rounds) };
    for (r, state) in state.iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_store_si512(blocks.0.as_mut_ptr().add(4 * r).cast(), *state) };
    }
}

/// Encrypts `run.chunks` chunks of the first `4 * R` lanes; when `MASKED`, only as many blocks of each as `run.left` says.
///
/// # Safety
/// The CPU has AVX-512 F and VAES; `run` keeps its promises.
#[target_feature(enable = "avx512f,vaes")]
pub(super) unsafe fn encrypt<const R: usize, const OWN: bool, const MASKED: bool>(
    run: &Run<'_>,
    chain: &mut Blocks,
) {
    let mut state = [_mm512_setzero_si512(); R];
    for (r, state) in state.iter_mut().enumerate() {
        // SAFETY: R is at most four; the type is aligned to 64.
        *state = unsafe { _mm512_load_si512(chain.0.as_ptr().add(4 * r).cast()) };
    }
    let (lanes, _) = run.lanes.as_chunks::<4>();
    let (left, _) = run.left.as_chunks::<4>();
    // Two 64-bit elements a block.
    let mask = |left: u8| ((1u16 << (2 * left)) - 1) as u8;
    for at in 0..run.chunks {
        let at = at * 16 * CHUNK;
        let mut text = [[_mm512_setzero_si512(); 4]; R];
        for r in 0..R {
            let mut rows = [_mm512_setzero_si512(); 4];
            for lane in 0..4 {
                // SAFETY: the run promises a whole chunk, or as many blocks as are left where the mask has elements.
                rows[lane] = unsafe {
                    let from = lanes[r][lane].add(at).cast_const();
                    if MASKED {
                        _mm512_maskz_loadu_epi64(mask(left[r][lane]), from.cast())
                    } else {
                        _mm512_loadu_si512(from.cast())
                    }
                };
            }
            text[r] = transpose(rows);
        }
        macro_rules! step {
            ($block:literal) => {
                if !MASKED || run.steps > $block {
                    for r in 0..R {
                        state[r] = _mm512_xor_si512(state[r], text[r][$block]);
                    }
                    // Without this, keys of the first step are copied to the stack for the next ones.
                    let keys = if OWN {
                        core::hint::black_box(run.keys)
                    } else {
                        run.keys
                    };
                    // SAFETY: as the run promises.
                    unsafe { encrypt_block::<R, OWN>(&mut state, keys, run.rounds) };
                    for r in 0..R {
                        text[r][$block] = state[r];
                    }
                }
            };
        }
        step!(0);
        step!(1);
        step!(2);
        step!(3);
        for r in 0..R {
            let rows = transpose(text[r]);
            for lane in 0..4 {
                // SAFETY: as for the loads; the lanes are packets that do not overlap.
                unsafe {
                    let to = lanes[r][lane].add(at);
                    if MASKED {
                        _mm512_mask_storeu_epi64(to.cast(), mask(left[r][lane]), rows[lane]);
                    } else {
                        _mm512_storeu_si512(to.cast(), rows[lane]);
                    }
                }
            }
        }
    }
    for (r, state) in state.iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_store_si512(chain.0.as_mut_ptr().add(4 * r).cast(), *state) };
    }
}

/// Decrypts the last `R` registers of a text, whose end may be masked, or `R` whole ones.
///
/// # Safety
/// `R` registers, of the last one only `mask`, can be read and written at `text`.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn decrypt_some<const R: usize>(
    keys: &[__m512i; 15],
    rounds: usize,
    text: *mut u8,
    before: &mut __m512i,
    mask: u8,
) {
    let mut cipher = [_mm512_setzero_si512(); R];
    for (r, cipher) in cipher.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *cipher = unsafe {
            let from = text.add(64 * r).cast_const();
            if r == R - 1 {
                _mm512_maskz_loadu_epi64(mask, from.cast())
            } else {
                _mm512_loadu_si512(from.cast())
            }
        };
    }
    let mut state = cipher;
    macro_rules! round {
        ($step:ident, $round:expr) => {
            for state in &mut state {
                *state = $step(*state, keys[$round]);
            }
        };
    }
    round!(_mm512_xor_si512, 0);
    round!(_mm512_aesdec_epi128, 1);
    round!(_mm512_aesdec_epi128, 2);
    round!(_mm512_aesdec_epi128, 3);
    round!(_mm512_aesdec_epi128, 4);
    round!(_mm512_aesdec_epi128, 5);
    round!(_mm512_aesdec_epi128, 6);
    round!(_mm512_aesdec_epi128, 7);
    round!(_mm512_aesdec_epi128, 8);
    round!(_mm512_aesdec_epi128, 9);
    if rounds >= 12 {
        round!(_mm512_aesdec_epi128, 10);
        round!(_mm512_aesdec_epi128, 11);
    }
    if rounds >= 14 {
        round!(_mm512_aesdec_epi128, 12);
        round!(_mm512_aesdec_epi128, 13);
    }
    round!(_mm512_aesdeclast_epi128, 14);
    for (r, (state, cipher)) in state.iter().zip(cipher).enumerate() {
        // The block before each: three of this register and the last one of the register before.
        let plain = _mm512_xor_si512(*state, _mm512_alignr_epi64::<6>(cipher, *before));
        *before = cipher;
        // SAFETY: as the caller promises.
        unsafe {
            let to = text.add(64 * r);
            if r == R - 1 {
                _mm512_mask_storeu_epi64(to.cast(), mask, plain);
            } else {
                _mm512_storeu_si512(to.cast(), plain);
            }
        }
    }
}

/// Decrypts texts of one key, one after the other, each in whole registers of four blocks. Texts do not depend on each
/// other, so that the CPU overlaps the end of one with the beginning of the next.
///
/// # Safety
/// The CPU has AVX-512 F and VAES; the blocks of each text and the IV before them can be read and written.
#[target_feature(enable = "avx512f,vaes")]
pub(super) unsafe fn decrypt(keys: &RoundKeys, texts: &[Text]) {
    let mut wide = [_mm512_setzero_si512(); 15];
    for (wide, key) in wide.iter_mut().zip(&keys.decrypt) {
        *wide = broadcast(key);
    }
    // The last round's key has a place of its own, whatever the number of rounds.
    wide[14] = broadcast(&keys.decrypt[keys.rounds]);
    for text in texts {
        let (mut at, mut left) = (text.first, text.blocks);
        // SAFETY: the IV is the block before the first; then as the caller promises, `left` blocks from `at` on.
        unsafe {
            let mut before =
                _mm512_broadcast_i32x4(_mm_loadu_si128(at.sub(16).cast_const().cast()));
            while left > 32 {
                decrypt_some::<8>(&wide, keys.rounds, at, &mut before, 0xff);
                at = at.add(512);
                left -= 32;
            }
            let mask = (0xff_u8) >> (2 * (left.wrapping_neg() & 3));
            match left.div_ceil(CHUNK) {
                1 => decrypt_some::<1>(&wide, keys.rounds, at, &mut before, mask),
                2 => decrypt_some::<2>(&wide, keys.rounds, at, &mut before, mask),
                3 => decrypt_some::<3>(&wide, keys.rounds, at, &mut before, mask),
                4 => decrypt_some::<4>(&wide, keys.rounds, at, &mut before, mask),
                5 => decrypt_some::<5>(&wide, keys.rounds, at, &mut before, mask),
                6 => decrypt_some::<6>(&wide, keys.rounds, at, &mut before, mask),
                7 => decrypt_some::<7>(&wide, keys.rounds, at, &mut before, mask),
                8 => decrypt_some::<8>(&wide, keys.rounds, at, &mut before, mask),
                _ => {}
            }
        }
    }
}
