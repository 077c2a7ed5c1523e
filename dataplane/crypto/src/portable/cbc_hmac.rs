//! AES-CBC (RFC 3602) with an HMAC over header, IV and ciphertext (RFC 4303 section 3.3.2).

use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit,
    KeyInit, consts::U16,
};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{KeyedSuite, wrong_length};
use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial};
use crate::mac::{MAX_ICV, Mac, same_icv};
use crate::suite::ESP_HEADER_LEN;

/// AES of any key length.
pub(super) trait AesKey:
    KeyInit
    + BlockCipherEncrypt
    + BlockCipherDecrypt
    + aes::cipher::BlockSizeUser<BlockSize = U16>
    + ZeroizeOnDrop
    + Send
    + Sync
    + 'static
{
}

impl AesKey for aes::Aes128 {}
impl AesKey for aes::Aes192 {}
impl AesKey for aes::Aes256 {}

/// Bytes of a block, and of the IV.
const BLOCK: usize = 16;

/// The keys of a CBC suite.
///
/// The IV must be unpredictable (RFC 3602 section 3). It is the sequence number encrypted under a
/// random key of its own: never the same twice, and no more predictable than AES (NIST SP 800-38A
/// appendix C, first method, with a key that protects nothing else).
pub(super) struct CbcHmac<C, M> {
    cipher: C,
    iv: aes::Aes128,
    /// That of `iv`, for other engines to make the same IVs.
    iv_key: Zeroizing<[u8; BLOCK]>,
    mac: M,
    esn: bool,
}

impl<C: AesKey, M: Mac> CbcHmac<C, M> {
    pub(super) fn new(material: &KeyMaterial<'_>) -> Result<Self, KeyError> {
        let cipher = C::new_from_slice(material.encryption).map_err(|_| wrong_length(material))?;
        let wrong_mac = KeyError::IntegrityLength {
            suite: material.suite,
            have: material.integrity.len(),
        };
        let mac = M::new(material.integrity).ok_or(wrong_mac)?;
        let mut iv_key = Zeroizing::new([0; BLOCK]);
        SystemRandom::new()
            .fill(iv_key.as_mut_slice())
            .map_err(|_| KeyError::Random)?;
        Ok(Self {
            cipher,
            iv: aes::Aes128::new(Array::cast_from_core(&iv_key)),
            iv_key,
            mac,
            esn: material.esn,
        })
    }

    /// The IV of the packet with this number.
    #[inline]
    fn iv(&self, seq: u64) -> Array<u8, U16> {
        let mut block = Array(u128::from(seq).to_be_bytes());
        self.iv.encrypt_block(&mut block);
        block
    }

    #[inline]
    fn high(&self, seq: u64) -> Option<[u8; 4]> {
        let [high @ .., _, _, _, _] = seq.to_be_bytes();
        self.esn.then_some(high)
    }

    #[inline]
    pub(super) fn seal_with_iv(
        &self,
        op: &mut SealOp<'_>,
        iv: Array<u8, U16>,
    ) -> Result<(), SealError> {
        let covered = op
            .packet
            .len()
            .checked_sub(M::ICV)
            .ok_or(SealError::Length)?;
        let (covered, icv) = op
            .packet
            .split_at_mut_checked(covered)
            .ok_or(SealError::Length)?;
        {
            let (header, rest) = covered
                .split_first_chunk_mut::<ESP_HEADER_LEN>()
                .ok_or(SealError::Length)?;
            let (to, plaintext) = rest
                .split_first_chunk_mut::<BLOCK>()
                .ok_or(SealError::Length)?;
            let (blocks, rest) = Array::slice_as_chunks_mut(plaintext);
            if blocks.is_empty() || !rest.is_empty() {
                return Err(SealError::Length);
            }
            if let Some(to) = header.last_chunk_mut::<4>() {
                *to = (op.seq as u32).to_be_bytes();
            }
            *to = iv.0;
            cbc::Encryptor::inner_iv_init(&self.cipher, &iv).encrypt_blocks(blocks);
        }
        let digest = self.mac.digest(covered, self.high(op.seq));
        for (to, from) in icv.iter_mut().zip(digest) {
            *to = from;
        }
        Ok(())
    }
}

impl<C: AesKey, M: Mac> KeyedSuite for CbcHmac<C, M> {
    fn iv_key(&self) -> Option<&[u8; BLOCK]> {
        Some(&self.iv_key)
    }

    #[inline]
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError> {
        self.seal_with_iv(op, self.iv(op.seq))
    }

    #[inline]
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError> {
        let covered = op
            .packet
            .len()
            .checked_sub(M::ICV)
            .ok_or(OpenError::Malformed)?;
        let (covered, icv) = op
            .packet
            .split_at_mut_checked(covered)
            .ok_or(OpenError::Malformed)?;
        match covered.len().checked_sub(ESP_HEADER_LEN + BLOCK) {
            Some(length) if length > 0 && length.is_multiple_of(BLOCK) => {}
            _ => return Err(OpenError::Malformed),
        }
        let digest: [u8; 64] = self.mac.digest(covered, self.high(op.seq));
        const { assert!(M::ICV <= MAX_ICV) };
        if !same_icv(icv, digest.get(..M::ICV).unwrap_or_default()) {
            return Err(OpenError::BadIcv);
        }
        let (_, rest) = covered
            .split_first_chunk_mut::<ESP_HEADER_LEN>()
            .ok_or(OpenError::Malformed)?;
        let (iv, ciphertext) = rest
            .split_first_chunk_mut::<BLOCK>()
            .ok_or(OpenError::Malformed)?;
        let (blocks, _) = Array::slice_as_chunks_mut(ciphertext);
        cbc::Decryptor::inner_iv_init(&self.cipher, &Array(*iv)).decrypt_blocks(blocks);
        Ok(())
    }
}
