//! SHA-1 compression of sixteen messages at once, a message a lane (as drawn in [`super::sha256`]).
//!
//! A round is eight instructions for sixteen messages, and only one rotation and one addition of them wait for the round
//! before: five registers of state and sixteen of message leave the rest to let rounds overlap.

use core::arch::x86_64::{
    _mm512_add_epi32, _mm512_mask_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_ternarylogic_epi32, _mm512_xor_si512,
};

use super::lanes::{Lanes16, load_16};

/// Exclusive or of three.
const PARITY: i32 = 0x96;
/// The second where the first is one, else the third.
const CHOOSE: i32 = 0xca;
/// What two of three say.
const MAJORITY: i32 = 0xe8;

/// One round; the new `a` is in `e`.
macro_rules! round {
    ($a:ident $b:ident $c:ident $d:ident $e:ident, $function:ident, $k:ident, $w:expr) => {
        let fed = _mm512_add_epi32($e, _mm512_add_epi32($w, $k));
        let mixed = _mm512_add_epi32(fed, _mm512_ternarylogic_epi32::<$function>($b, $c, $d));
        $e = _mm512_add_epi32(mixed, _mm512_rol_epi32::<5>($a));
        $b = _mm512_rol_epi32::<30>($b);
    };
}

/// The message word sixteen rounds on.
macro_rules! extend {
    ($w:ident, $at:expr) => {{
        let three = _mm512_ternarylogic_epi32::<PARITY>(
            $w[$at & 15],
            $w[($at + 2) & 15],
            $w[($at + 8) & 15],
        );
        $w[$at & 15] = _mm512_rol_epi32::<1>(_mm512_xor_si512(three, $w[($at + 13) & 15]));
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
macro_rules! block {
    ($state:ident, $w:ident, $active:expr) => {
        let [mut a, mut b, mut c, mut d, mut e, ..] = $state;
        let k = _mm512_set1_epi32(0x5a82_7999);
        five!(a b c d e, CHOOSE, k, $w[0], $w[1], $w[2], $w[3], $w[4]);
        five!(a b c d e, CHOOSE, k, $w[5], $w[6], $w[7], $w[8], $w[9]);
        five!(a b c d e, CHOOSE, k, $w[10], $w[11], $w[12], $w[13], $w[14]);
        five!(
            a b c d e, CHOOSE, k,
            $w[15], extend!($w, 16), extend!($w, 17), extend!($w, 18), extend!($w, 19)
        );
        let k = _mm512_set1_epi32(0x6ed9_eba1);
        extended!(a b c d e, PARITY, k, $w, 20);
        extended!(a b c d e, PARITY, k, $w, 25);
        extended!(a b c d e, PARITY, k, $w, 30);
        extended!(a b c d e, PARITY, k, $w, 35);
        let k = _mm512_set1_epi32(0x8f1b_bcdc_u32.cast_signed());
        extended!(a b c d e, MAJORITY, k, $w, 40);
        extended!(a b c d e, MAJORITY, k, $w, 45);
        extended!(a b c d e, MAJORITY, k, $w, 50);
        extended!(a b c d e, MAJORITY, k, $w, 55);
        let k = _mm512_set1_epi32(0xca62_c1d6_u32.cast_signed());
        extended!(a b c d e, PARITY, k, $w, 60);
        extended!(a b c d e, PARITY, k, $w, 65);
        extended!(a b c d e, PARITY, k, $w, 70);
        extended!(a b c d e, PARITY, k, $w, 75);
        for (state, change) in $state.iter_mut().zip([a, b, c, d, e]) {
            *state = _mm512_mask_add_epi32(*state, $active, *state, change);
        }
    };
}

/// Hashes `blocks` blocks of each lane on; lanes out of `active` are read but stay as they are.
///
/// # Safety
/// The CPU has AVX-512 F and BW, and `blocks * 64` bytes can be read at each of `lanes`.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn compress(
    states: &mut Lanes16,
    lanes: &[*const u8; 16],
    blocks: usize,
    active: u16,
) {
    let mut state = states.load();
    for at in 0..blocks {
        // SAFETY: as the caller promises, for at < blocks.
        let mut w = unsafe { load_16(lanes, at * 64) };
        block!(state, w, active);
    }
    states.store(&state);
}

/// The outer hash of an HMAC: `outer` states over the digests that `inner` holds. No message is transposed: the digests'
/// words are in lanes already.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn finish(inner: &Lanes16, outer: &mut Lanes16) {
    let mut state = outer.load();
    let mut w = [_mm512_setzero_si512(); 16];
    for (register, word) in w.iter_mut().zip(inner.load()).take(5) {
        *register = word;
    }
    w[5] = _mm512_set1_epi32(i32::MIN);
    w[15] = _mm512_set1_epi32((64 + 20) * 8);
    block!(state, w, 0xffff);
    outer.store(&state);
}
