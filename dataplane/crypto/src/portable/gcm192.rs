//! AES-192-GCM through RustCrypto's `aes-gcm`, which wipes its keys itself.

use aes_gcm::aead::{AeadInOut, KeyInit, consts::U12};
use aes_gcm::{AesGcm, Nonce, Tag};

use super::{AeadParts, Inputs, KeyedSuite, wrong_length};
use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial, Salt};

/// A key with its salt.
pub(super) struct Gcm192 {
    key: AesGcm<aes::Aes192, U12>,
    salt: Salt,
    esn: bool,
}

impl Gcm192 {
    pub(super) fn boxed(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
        let (key, salt) = Salt::split(material.encryption).ok_or(wrong_length(material))?;
        let key = AesGcm::new_from_slice(key).map_err(|_| wrong_length(material))?;
        Ok(Box::new(Self {
            key,
            salt,
            esn: material.esn,
        }))
    }
}

impl KeyedSuite for Gcm192 {
    #[inline]
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError> {
        let mut parts = AeadParts::split(op.packet).ok_or(SealError::Length)?;
        let Inputs { nonce, associated } = parts.number(op.seq, &self.salt, self.esn);
        let tag = self
            .key
            .encrypt_inout_detached(&Nonce::from(nonce), associated.as_ref(), parts.text.into())
            .map_err(|_| SealError::Cipher)?;
        *parts.icv = tag.into();
        Ok(())
    }

    #[inline]
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError> {
        let parts = AeadParts::split(op.packet).ok_or(OpenError::Malformed)?;
        let Inputs { nonce, associated } = parts.read(op.seq, &self.salt, self.esn);
        self.key
            .decrypt_inout_detached(
                &Nonce::from(nonce),
                associated.as_ref(),
                parts.text.into(),
                &Tag::from(*parts.icv),
            )
            .map_err(|_| OpenError::BadIcv)
    }
}
