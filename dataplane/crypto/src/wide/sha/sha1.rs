//! SHA-1 compression of sixteen messages at once, a message a lane (as drawn in [`super::sha256`]), or of two such sets.
//!
//! A round is eight instructions for sixteen messages, and only one rotation and one addition of them wait for the round
//! before.

use core::arch::x86_64::{_mm512_mask_add_epi32, _mm512_set1_epi32, _mm512_setzero_si512};

use super::lanes::{Lanes16, load_16};
use super::words::{Words, add_32, choose, majority, parity, rol_32, xor};

/// One round; the new `a` is in `e`.
macro_rules! round {
    ($a:ident $b:ident $c:ident $d:ident $e:ident, $function:ident, $k:ident, $w:expr) => {
        let fed = add_32($e, add_32($w, $k));
        let mixed = add_32(fed, $function($b, $c, $d));
        $b = rol_32::<30, N>($b);
        $e = add_32(rol_32::<5, N>($a), mixed);
    };
}

/// The message word sixteen rounds on.
macro_rules! extend {
    ($w:ident, $at:expr) => {{
        let three = parity($w[$at & 15], $w[($at + 2) & 15], $w[($at + 8) & 15]);
        $w[$at & 15] = rol_32::<1, N>(xor(three, $w[($at + 13) & 15]));
        $w[$at & 15]
    }};
}

/// Five rounds, after which every variable has its own place again.
macro_rules! five {
    ($a:ident $b:ident $c:ident $d:ident $e:ident, $function:ident, $k:ident, $w0:expr, $w1:expr, $w2:expr, $w3:expr, $w4:expr) => {
        round!($a $b $c $d $e, $function, $k, $w0);
        round!($e $a $b $c $d, $function, $k, $w1);
        round!($d $e $a $b $c, $function, $k, $w2);
        round!($c $d $e $a $b, $function, $k, $w3);
        round!($b $c $d $e $a, $function, $k, $w4);
    };
}

/// Five rounds of extended words.
macro_rules! extended {
    ($a:ident $b:ident $c:ident $d:ident $e:ident, $function:ident, $k:ident, $w:ident, $at:literal) => {
        five!(
            $a $b $c $d $e, $function, $k,
            extend!($w, $at), extend!($w, $at + 1), extend!($w, $at + 2), extend!($w, $at + 3), extend!($w, $at + 4)
        );
    };
}

/// The state after a block, with lanes out of `active` as they were.
#[inline]
#[target_feature(enable = "avx512f")]
fn block<const N: usize>(state: &mut [Words<N>; 8], w: &mut [Words<N>; 16], active: [u16; N]) {
    let [mut a, mut b, mut c, mut d, mut e, ..] = *state;
    let k = [_mm512_set1_epi32(0x5a82_7999); N];
    five!(a b c d e, choose, k, w[0], w[1], w[2], w[3], w[4]);
    five!(a b c d e, choose, k, w[5], w[6], w[7], w[8], w[9]);
    five!(a b c d e, choose, k, w[10], w[11], w[12], w[13], w[14]);
    five!(
        a b c d e, choose, k,
        w[15], extend!(w, 16), extend!(w, 17), extend!(w, 18), extend!(w, 19)
    );
    let k = [_mm512_set1_epi32(0x6ed9_eba1); N];
    extended!(a b c d e, parity, k, w, 20);
    extended!(a b c d e, parity, k, w, 25);
    extended!(a b c d e, parity, k, w, 30);
    extended!(a b c d e, parity, k, w, 35);
    let k = [_mm512_set1_epi32(0x8f1b_bcdc_u32.cast_signed()); N];
    extended!(a b c d e, majority, k, w, 40);
    extended!(a b c d e, majority, k, w, 45);
    extended!(a b c d e, majority, k, w, 50);
    extended!(a b c d e, majority, k, w, 55);
    let k = [_mm512_set1_epi32(0xca62_c1d6_u32.cast_signed()); N];
    extended!(a b c d e, parity, k, w, 60);
    extended!(a b c d e, parity, k, w, 65);
    extended!(a b c d e, parity, k, w, 70);
    extended!(a b c d e, parity, k, w, 75);
    for (state, change) in state.iter_mut().zip([a, b, c, d, e]) {
        for ((state, change), active) in state.iter_mut().zip(change).zip(active) {
            *state = _mm512_mask_add_epi32(*state, active, *state, change);
        }
    }
}

/// Hashes `blocks` blocks of each lane of `N` registers on; lanes out of `active` are read but stay as they are.
///
/// # Safety
/// The CPU has AVX-512 F and BW, and `blocks * 64` bytes can be read at each of `from`.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn compress<const N: usize>(
    states: [&mut Lanes16; N],
    from: [&[*const u8; 16]; N],
    blocks: usize,
    active: [u16; N],
) {
    let mut state = Lanes16::load_all(&states);
    for at in 0..blocks {
        let mut w = [[_mm512_setzero_si512(); N]; 16];
        for n in 0..N {
            // SAFETY: as the caller promises, for at < blocks.
            let words = unsafe { load_16(from[n], at * 64) };
            for (w, word) in w.iter_mut().zip(words) {
                w[n] = word;
            }
        }
        block(&mut state, &mut w, active);
    }
    Lanes16::store_all(states, &state);
}

/// The outer hash of an HMAC: `outer` states over the digests that the inner ones are. No message is transposed: the digests'
/// words are in lanes already.
#[target_feature(enable = "avx512f")]
pub(super) fn finish<const N: usize>(sets: [&mut (Lanes16, Lanes16); N]) {
    let mut w = [[_mm512_setzero_si512(); N]; 16];
    for (n, set) in sets.iter().enumerate() {
        for (w, word) in w.iter_mut().zip(set.0.load()).take(5) {
            w[n] = word;
        }
    }
    w[5] = [_mm512_set1_epi32(i32::MIN); N];
    w[15] = [_mm512_set1_epi32((64 + 20) * 8); N];
    let outer = sets.map(|set| &mut set.1);
    let mut state = Lanes16::load_all(&outer);
    block(&mut state, &mut w, [0xffff; N]);
    Lanes16::store_all(outer, &state);
}
