//! Arithmetic on words in lanes, of `N` registers at once.
//!
//! Every vector instruction takes two clocks to its result, and the rounds of a hash wait for each other. Two registers
//! side by side, of sixteen messages each, fill the time.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_add_epi64, _mm512_rol_epi32, _mm512_ror_epi32,
    _mm512_ror_epi64, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_srli_epi64,
    _mm512_ternarylogic_epi32, _mm512_xor_si512,
};

/// `N` registers.
pub(super) type Words<const N: usize> = [__m512i; N];

macro_rules! unary {
    ($(#[$doc:meta])* $name:ident, $instruction:ident, $amount:ty) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn $name<const AMOUNT: $amount, const N: usize>(x: Words<N>) -> Words<N> {
            let mut words = [_mm512_setzero_si512(); N];
            for (word, x) in words.iter_mut().zip(x) {
                *word = $instruction::<AMOUNT>(x);
            }
            words
        }
    };
}

macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $instruction:ident) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn $name<const N: usize>(x: Words<N>, y: Words<N>) -> Words<N> {
            let mut words = [_mm512_setzero_si512(); N];
            for ((word, x), y) in words.iter_mut().zip(x).zip(y) {
                *word = $instruction(x, y);
            }
            words
        }
    };
}

macro_rules! ternary {
    ($(#[$doc:meta])* $name:ident, $table:literal) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn $name<const N: usize>(x: Words<N>, y: Words<N>, z: Words<N>) -> Words<N> {
            let mut words = [_mm512_setzero_si512(); N];
            for (((word, x), y), z) in words.iter_mut().zip(x).zip(y).zip(z) {
                *word = _mm512_ternarylogic_epi32::<$table>(x, y, z);
            }
            words
        }
    };
}

unary!(
    /// Rotates 32-bit words to the left.
    rol_32, _mm512_rol_epi32, i32
);
unary!(
    /// Rotates 32-bit words to the right.
    ror_32, _mm512_ror_epi32, i32
);
unary!(
    /// Shifts 32-bit words to the right.
    shr_32, _mm512_srli_epi32, u32
);
unary!(
    /// Rotates 64-bit words to the right.
    ror_64, _mm512_ror_epi64, i32
);
unary!(
    /// Shifts 64-bit words to the right.
    shr_64, _mm512_srli_epi64, u32
);
binary!(
    /// Adds 32-bit words.
    add_32, _mm512_add_epi32
);
binary!(
    /// Adds 64-bit words.
    add_64, _mm512_add_epi64
);
binary!(
    /// Exclusive or.
    xor, _mm512_xor_si512
);
ternary!(
    /// Exclusive or of three.
    parity, 0x96
);
ternary!(
    /// The second where the first is one, else the third.
    choose, 0xca
);
ternary!(
    /// What two of three say.
    majority, 0xe8
);
