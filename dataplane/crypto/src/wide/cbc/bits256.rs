//! AES-CBC in registers of 256 bits: two lanes each.

use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm_storeu_si128, _mm256_aesdec_epi128, _mm256_aesdeclast_epi128,
    _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_broadcastsi128_si256,
    _mm256_castsi256_si128, _mm256_load_si256, _mm256_loadu_si256, _mm256_permute2x128_si256,
    _mm256_setzero_si256, _mm256_store_si256, _mm256_storeu_si256, _mm256_xor_si256,
    _mm256_zextsi128_si256,
};

use super::round_keys::RoundKeys;
use super::{Blocks, LANES, Run, Text};

/// Blocks of a lane that one load takes.
pub(super) const CHUNK: usize = 2;

/// Rows to columns of 128 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 2]) -> [__m256i; 2] {
    let [a, b] = rows;
    [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x31>(a, b),
    ]
}

/// One block in both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(block: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes, at any alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
}

/// One or two blocks.
///
/// # Safety
/// `blocks` of them, at least one, can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, blocks: usize) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        if blocks == 1 {
            _mm256_zextsi128_si256(_mm_loadu_si128(from.cast()))
        } else {
            _mm256_loadu_si256(from.cast())
        }
    }
}

/// One or two blocks.
///
/// # Safety
/// `blocks` of them, at least one, can be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut u8, blocks: usize, text: __m256i) {
    // SAFETY: as the caller promises.
    unsafe {
        if blocks == 1 {
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(text));
        } else {
            _mm256_storeu_si256(to.cast(), text);
        }
    }
}

/// The key of a round for register `r`: that of its two lanes, or the one that all share.
///
/// # Safety
/// Behind `keys` is a [`Blocks`] for each round when `OWN`, else a block for each.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn key<const OWN: bool>(keys: *const u8, round: usize, r: usize) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        if OWN {
            _mm256_loadu_si256(keys.add(16 * (LANES * round + 2 * r)).cast())
        } else {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(keys.add(16 * round).cast()))
        }
    }
}

/// Encrypts a block of every lane of `R` registers.
///
/// # Safety
/// As [`key`], for `rounds + 1` rounds.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn encrypt_block<const R: usize, const OWN: bool>(
    state: &mut [__m256i; R],
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
    round!(_mm256_xor_si256, 0);
    round!(_mm256_aesenc_epi128, 1);
    round!(_mm256_aesenc_epi128, 2);
    round!(_mm256_aesenc_epi128, 3);
    round!(_mm256_aesenc_epi128, 4);
    round!(_mm256_aesenc_epi128, 5);
    round!(_mm256_aesenc_epi128, 6);
    round!(_mm256_aesenc_epi128, 7);
    round!(_mm256_aesenc_epi128, 8);
    round!(_mm256_aesenc_epi128, 9);
    if rounds >= 12 {
        round!(_mm256_aesenc_epi128, 10);
        round!(_mm256_aesenc_epi128, 11);
    }
    if rounds >= 14 {
        round!(_mm256_aesenc_epi128, 12);
        round!(_mm256_aesenc_epi128, 13);
    }
    round!(_mm256_aesenclast_epi128, rounds);
}

/// Encrypts one block of each lane of the first `R` registers under a key that they share: the IVs.
///
/// # Safety
/// The CPU has AVX2 and VAES; `keys` as in [`Run`].
#[target_feature(enable = "avx2,vaes")]
pub(super) unsafe fn encrypt_each<const R: usize>(
    keys: *const u8,
    rounds: usize,
    blocks: &mut Blocks,
) {
    let mut state = [_mm256_setzero_si256(); R];
    for (r, state) in state.iter_mut().enumerate() {
        // SAFETY: R is at most eight; the type is aligned to 64.
        *state = unsafe { _mm256_load_si256(blocks.0.as_ptr().add(2 * r).cast()) };
    }
    // SAFETY: as the caller promises.
    unsafe { encrypt_block::<R, false>(&mut state, keys, rounds) };
    for (r, state) in state.iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm256_store_si256(blocks.0.as_mut_ptr().add(2 * r).cast(), *state) };
    }
}

/// Encrypts `run.chunks` chunks of the first `2 * R` lanes; when `MASKED`, only as many blocks of each as `run.left` says.
///
/// # Safety
/// The CPU has AVX2 and VAES; `run` keeps its promises.
#[target_feature(enable = "avx2,vaes")]
pub(super) unsafe fn encrypt<const R: usize, const OWN: bool, const MASKED: bool>(
    run: &Run<'_>,
    chain: &mut Blocks,
) {
    let mut state = [_mm256_setzero_si256(); R];
    for (r, state) in state.iter_mut().enumerate() {
        // SAFETY: R is at most eight; the type is aligned to 64.
        *state = unsafe { _mm256_load_si256(chain.0.as_ptr().add(2 * r).cast()) };
    }
    let (lanes, _) = run.lanes.as_chunks::<2>();
    let (left, _) = run.left.as_chunks::<2>();
    for at in 0..run.chunks {
        let at = at * 16 * CHUNK;
        let mut text = [[_mm256_setzero_si256(); 2]; R];
        for r in 0..R {
            let mut rows = [_mm256_setzero_si256(); 2];
            for lane in 0..2 {
                let left = if MASKED { left[r][lane] } else { 2 };
                if left > 0 {
                    // SAFETY: the run promises a whole chunk, or as many blocks as are left.
                    rows[lane] = unsafe { load(lanes[r][lane].add(at), left.into()) };
                }
            }
            text[r] = transpose(rows);
        }
        macro_rules! step {
            ($block:literal) => {
                if !MASKED || run.steps > $block {
                    for r in 0..R {
                        state[r] = _mm256_xor_si256(state[r], text[r][$block]);
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
        for r in 0..R {
            let rows = transpose(text[r]);
            for lane in 0..2 {
                let left = if MASKED { left[r][lane] } else { 2 };
                if left > 0 {
                    // SAFETY: as for the loads; the lanes are packets that do not overlap.
                    unsafe { store(lanes[r][lane].add(at), left.into(), rows[lane]) };
                }
            }
        }
    }
    for (r, state) in state.iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm256_store_si256(chain.0.as_mut_ptr().add(2 * r).cast(), *state) };
    }
}

/// Decrypts `R` registers of a text, of the last one only `last` blocks.
///
/// # Safety
/// They can be read and written at `text`.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn decrypt_some<const R: usize>(
    keys: &[[u8; 16]; 15],
    rounds: usize,
    text: *mut u8,
    before: &mut __m256i,
    last: usize,
) {
    let blocks = |r| if r == R - 1 { last } else { 2 };
    let mut cipher = [_mm256_setzero_si256(); R];
    for (r, cipher) in cipher.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *cipher = unsafe { load(text.add(32 * r), blocks(r)) };
    }
    let mut state = cipher;
    macro_rules! round {
        ($step:ident, $round:expr) => {
            let key = broadcast(&keys[$round]);
            for state in &mut state {
                *state = $step(*state, key);
            }
        };
    }
    round!(_mm256_xor_si256, 0);
    round!(_mm256_aesdec_epi128, 1);
    round!(_mm256_aesdec_epi128, 2);
    round!(_mm256_aesdec_epi128, 3);
    round!(_mm256_aesdec_epi128, 4);
    round!(_mm256_aesdec_epi128, 5);
    round!(_mm256_aesdec_epi128, 6);
    round!(_mm256_aesdec_epi128, 7);
    round!(_mm256_aesdec_epi128, 8);
    round!(_mm256_aesdec_epi128, 9);
    if rounds >= 12 {
        round!(_mm256_aesdec_epi128, 10);
        round!(_mm256_aesdec_epi128, 11);
    }
    if rounds >= 14 {
        round!(_mm256_aesdec_epi128, 12);
        round!(_mm256_aesdec_epi128, 13);
    }
    round!(_mm256_aesdeclast_epi128, rounds);
    for (r, (state, cipher)) in state.iter().zip(cipher).enumerate() {
        // The block before each: the last one of the register before and the first of this one.
        let plain = _mm256_xor_si256(*state, _mm256_permute2x128_si256::<0x21>(*before, cipher));
        *before = cipher;
        // SAFETY: as the caller promises.
        unsafe { store(text.add(32 * r), blocks(r), plain) };
    }
}

/// Decrypts texts of one key, one after the other. Texts do not depend on each other, so that the CPU overlaps the end of
/// one with the beginning of the next.
///
/// # Safety
/// The CPU has AVX2 and VAES; the blocks of each text and the IV before them can be read and written.
#[target_feature(enable = "avx2,vaes")]
pub(super) unsafe fn decrypt(keys: &RoundKeys, texts: &[Text]) {
    for text in texts {
        let (mut at, mut left) = (text.first, text.blocks);
        // SAFETY: the IV is the block before the first; then as the caller promises, `left` blocks from `at` on.
        unsafe {
            let iv = _mm_loadu_si128(at.sub(16).cast_const().cast());
            let mut before = _mm256_broadcastsi128_si256(iv);
            while left > 12 {
                decrypt_some::<6>(&keys.decrypt, keys.rounds, at, &mut before, 2);
                at = at.add(192);
                left -= 12;
            }
            let last = 2 - (left & 1);
            match left.div_ceil(CHUNK) {
                1 => decrypt_some::<1>(&keys.decrypt, keys.rounds, at, &mut before, last),
                2 => decrypt_some::<2>(&keys.decrypt, keys.rounds, at, &mut before, last),
                3 => decrypt_some::<3>(&keys.decrypt, keys.rounds, at, &mut before, last),
                4 => decrypt_some::<4>(&keys.decrypt, keys.rounds, at, &mut before, last),
                5 => decrypt_some::<5>(&keys.decrypt, keys.rounds, at, &mut before, last),
                6 => decrypt_some::<6>(&keys.decrypt, keys.rounds, at, &mut before, last),
                _ => {}
            }
        }
    }
}
