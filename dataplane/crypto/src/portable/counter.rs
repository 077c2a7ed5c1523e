//! AES in counter mode: the keystream of CTR and GCM.

use aes::cipher::{Array, InnerIvInit, StreamCipherCore};

use super::cbc_hmac::AesKey;

/// Adds the keystream to `text`. Block `first` of it comes first (RFC 3686 section 4 begins with 1, GCM with 2).
#[inline]
pub(super) fn apply<C: AesKey>(cipher: &C, nonce: [u8; 12], first: u32, text: &mut [u8]) {
    ctr::CtrCore::<&C, ctr::flavors::Ctr32BE>::inner_iv_init(cipher, &block(nonce, first))
        .apply_keystream_partial(text.into());
}

/// A counter block.
#[inline]
pub(super) fn block(nonce: [u8; 12], number: u32) -> Array<u8, aes::cipher::consts::U16> {
    let mut block = [0; 16];
    if let Some((to, counter)) = block.split_first_chunk_mut::<12>() {
        *to = nonce;
        counter.copy_from_slice(&number.to_be_bytes());
    }
    Array(block)
}
