//! Proofs that this CPU has the instructions of a level.
//!
//! A kernel takes one by value. It has no size, and it is made by detection only: whoever holds one may call what is
//! compiled for its instructions.

/// 512-bit registers with everything the widest kernels use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits512(());

/// 256-bit registers: VAES and VPCLMULQDQ without AVX-512.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits256(());

impl Bits512 {
    /// `None`: this CPU (or its operating system) lacks something.
    pub(crate) fn detect() -> Option<Self> {
        (Bits256::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma"))
        .then_some(Self(()))
    }
}

impl Bits256 {
    /// `None`: this CPU (or its operating system) lacks something.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2"))
        .then_some(Self(()))
    }
}
