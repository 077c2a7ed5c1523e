//! SHA-512 compression of eight messages at once, a message a lane (as drawn in [`super::sha256`], with words of 64 bits
//! in eight lanes), or of two such sets. SHA-384 is the same with other initial states, and gives six words.

use core::arch::x86_64::{_mm512_mask_add_epi64, _mm512_set1_epi64, _mm512_setzero_si512};

use super::lanes::{Lanes8, load_8};
use super::words::{Words, add_64, choose, majority, parity, ror_64, shr_64};

/// The round constants (FIPS 180-4 section 4.2.3).
const K: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];

/// One round; the new `e` is in `d`, the new `a` in `h`. One addition more than needed lets each wait
/// for a rotation, a function and an addition of the round before, and for nothing else.
macro_rules! round {
    ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $w:expr, $k:expr) => {
        let fed = add_64($h, add_64($w, [_mm512_set1_epi64($k.cast_signed()); N]));
        let chosen = choose($e, $f, $g);
        let sum1 = parity(
            ror_64::<14, N>($e),
            ror_64::<18, N>($e),
            ror_64::<41, N>($e),
        );
        let sum0 = parity(
            ror_64::<28, N>($a),
            ror_64::<34, N>($a),
            ror_64::<39, N>($a),
        );
        $d = add_64(add_64(add_64($d, fed), chosen), sum1);
        let first = add_64(add_64(fed, chosen), sum1);
        $h = add_64(add_64(first, majority($a, $b, $c)), sum0);
    };
}

/// The message word sixteen rounds on.
macro_rules! extend {
    ($w:ident, $at:literal) => {{
        let near = $w[($at + 1) & 15];
        let far = $w[($at + 14) & 15];
        let sigma0 = parity(
            ror_64::<1, N>(near),
            ror_64::<8, N>(near),
            shr_64::<7, N>(near),
        );
        let sigma1 = parity(
            ror_64::<19, N>(far),
            ror_64::<61, N>(far),
            shr_64::<6, N>(far),
        );
        $w[$at] = add_64(add_64($w[$at], $w[($at + 9) & 15]), add_64(sigma0, sigma1));
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
fn block<const N: usize>(state: &mut [Words<N>; 8], w: &mut [Words<N>; 16], active: [u8; N]) {
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
            *state = _mm512_mask_add_epi64(*state, active, *state, change);
        }
    }
}

/// Hashes `blocks` blocks of each lane of `N` registers on; lanes out of `active` are read but stay as they are.
///
/// # Safety
/// The CPU has AVX-512 F and BW, and `blocks * 128` bytes can be read at each of the first eight of each of `from`.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn compress<const N: usize>(
    states: [&mut Lanes8; N],
    from: [&[*const u8; 16]; N],
    blocks: usize,
    active: [u16; N],
) {
    let mut state = Lanes8::load_all(&states);
    for at in 0..blocks {
        let mut w = [[_mm512_setzero_si512(); N]; 16];
        for n in 0..N {
            // SAFETY: as the caller promises, for at < blocks.
            let words = unsafe { load_8(from[n], at * 128) };
            for (w, word) in w.iter_mut().zip(words) {
                w[n] = word;
            }
        }
        block(&mut state, &mut w, active.map(|active| active as u8));
    }
    Lanes8::store_all(states, &state);
}

/// The outer hash of an HMAC whose digests have `WORDS` words (6 for SHA-384, 8 for SHA-512): `outer` states over the
/// digests that `inner` holds. No message is transposed: the digests' words are in lanes already.
#[target_feature(enable = "avx512f")]
pub(super) fn finish<const WORDS: usize, const N: usize>(sets: [&mut (Lanes8, Lanes8); N]) {
    let mut w = [[_mm512_setzero_si512(); N]; 16];
    for (n, set) in sets.iter().enumerate() {
        for (w, word) in w.iter_mut().zip(set.0.load()).take(WORDS) {
            w[n] = word;
        }
    }
    w[WORDS] = [_mm512_set1_epi64(i64::MIN); N];
    w[15] = [_mm512_set1_epi64((128 + WORDS as i64 * 8) * 8); N];
    let outer = sets.map(|set| &mut set.1);
    let mut state = Lanes8::load_all(&outer);
    block(&mut state, &mut w, [0xff; N]);
    Lanes8::store_all(outer, &state);
}
