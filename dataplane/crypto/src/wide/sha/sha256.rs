//! SHA-256 compression of sixteen messages at once, a message a lane, or of two such sets.
//!
//! ```text
//!   message 0 | w0 w1 ... w15 |                 | w0 of 0 | w0 of 1 | ... | w0 of 15 |  one register
//!   message 1 | w0 w1 ... w15 |   transpose ->  | w1 of 0 | w1 of 1 | ... | w1 of 15 |
//!      ...                                         ...
//!   message15 | w0 w1 ... w15 |                 | w15of 0 | ...                      |
//! ```
//!
//! Eight registers of state and sixteen of message leave eight for what is between, so that one set needs the stack
//! rarely, and two keep half of their messages there. A round is eighteen instructions for sixteen messages: rotations are
//! one each, and every function of three words is one ternary logic.

use core::arch::x86_64::{_mm512_mask_add_epi32, _mm512_set1_epi32, _mm512_setzero_si512};

use super::lanes::{Lanes16, load_16};
use super::words::{Words, add_32, choose, majority, parity, ror_32, shr_32};

/// The round constants (FIPS 180-4 section 4.2.2).
pub(super) const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// One round; the new `e` is in `d`, the new `a` in `h`. One addition more than needed lets each wait
/// for a rotation, a function and an addition of the round before, and for nothing else.
macro_rules! round {
    ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $w:expr, $k:expr) => {
        let fed = add_32($h, add_32($w, [_mm512_set1_epi32($k.cast_signed()); N]));
        let chosen = choose($e, $f, $g);
        let sum1 = parity(ror_32::<6, N>($e), ror_32::<11, N>($e), ror_32::<25, N>($e));
        let sum0 = parity(ror_32::<2, N>($a), ror_32::<13, N>($a), ror_32::<22, N>($a));
        $d = add_32(add_32(add_32($d, fed), chosen), sum1);
        let first = add_32(add_32(fed, chosen), sum1);
        $h = add_32(add_32(first, majority($a, $b, $c)), sum0);
    };
}

/// The message word sixteen rounds on.
macro_rules! extend {
    ($w:ident, $at:literal) => {{
        let near = $w[($at + 1) & 15];
        let far = $w[($at + 14) & 15];
        let sigma0 = parity(
            ror_32::<7, N>(near),
            ror_32::<18, N>(near),
            shr_32::<3, N>(near),
        );
        let sigma1 = parity(
            ror_32::<17, N>(far),
            ror_32::<19, N>(far),
            shr_32::<10, N>(far),
        );
        $w[$at] = add_32(add_32($w[$at], $w[($at + 9) & 15]), add_32(sigma0, sigma1));
        $w[$at]
    }};
}

/// Sixteen rounds, after which every variable has its own place again.
macro_rules! sixteen {
    ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $word:ident, $k:ident) => {
        round!($a $b $c $d $e $f $g $h, $word!(0), $k[0]);
        round!($h $a $b $c $d $e $f $g, $word!(1), $k[1]);
        round!($g $h $a $b $c $d $e $f, $word!(2), $k[2]);
        round!($f $g $h $a $b $c $d $e, $word!(3), $k[3]);
        round!($e $f $g $h $a $b $c $d, $word!(4), $k[4]);
        round!($d $e $f $g $h $a $b $c, $word!(5), $k[5]);
        round!($c $d $e $f $g $h $a $b, $word!(6), $k[6]);
        round!($b $c $d $e $f $g $h $a, $word!(7), $k[7]);
        round!($a $b $c $d $e $f $g $h, $word!(8), $k[8]);
        round!($h $a $b $c $d $e $f $g, $word!(9), $k[9]);
        round!($g $h $a $b $c $d $e $f, $word!(10), $k[10]);
        round!($f $g $h $a $b $c $d $e, $word!(11), $k[11]);
        round!($e $f $g $h $a $b $c $d, $word!(12), $k[12]);
        round!($d $e $f $g $h $a $b $c, $word!(13), $k[13]);
        round!($c $d $e $f $g $h $a $b, $word!(14), $k[14]);
        round!($b $c $d $e $f $g $h $a, $word!(15), $k[15]);
    };
}

/// The state after a block, with lanes out of `active` as they were.
#[inline]
#[target_feature(enable = "avx512f")]
fn block<const N: usize>(state: &mut [Words<N>; 8], w: &mut [Words<N>; 16], active: [u16; N]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    macro_rules! given {
        ($at:literal) => {
            w[$at]
        };
    }
    macro_rules! extended {
        ($at:literal) => {
            extend!(w, $at)
        };
    }
    let (constants, _) = K.as_chunks::<16>();
    let [first, rest @ ..] = constants else {
        return;
    };
    sixteen!(a b c d e f g h, given, first);
    for k in rest {
        sixteen!(a b c d e f g h, extended, k);
    }
    for (state, change) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
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
        for (w, word) in w.iter_mut().zip(set.0.load()) {
            w[n] = word;
        }
    }
    w[8] = [_mm512_set1_epi32(i32::MIN); N];
    w[15] = [_mm512_set1_epi32((64 + 32) * 8); N];
    let outer = sets.map(|set| &mut set.1);
    let mut state = Lanes16::load_all(&outer);
    block(&mut state, &mut w, [0xffff; N]);
    Lanes16::store_all(outer, &state);
}
