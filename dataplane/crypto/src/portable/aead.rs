//! AES-GCM and ChaCha20-Poly1305 through ring (RFC 4106, RFC 7634).

use ring::aead::{Aad, Algorithm, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{AeadParts, Inputs, KeyedSuite, wrong_length};
use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial, Salt};

/// A key of ring's with its salt.
pub(super) struct RingAead {
    key: LessSafeKey,
    salt: Salt,
    esn: bool,
}

impl RingAead {
    pub(super) fn boxed(
        algorithm: &'static Algorithm,
        material: &KeyMaterial<'_>,
    ) -> Result<Box<dyn KeyedSuite>, KeyError> {
        let (key, salt) = Salt::split(material.encryption).ok_or(wrong_length(material))?;
        let key = UnboundKey::new(algorithm, key).map_err(|_| wrong_length(material))?;
        Ok(Box::new(Self {
            key: LessSafeKey::new(key),
            salt,
            esn: material.esn,
        }))
    }

    /// Puts the key of zeros over the key.
    ///
    /// ring does not wipe its keys. Assigning another key of the same algorithm overwrites every
    /// byte of the old one where it lies, and `black_box` keeps the assignment from being left
    /// out as dead.
    fn overwrite(&mut self) {
        let algorithm = self.key.algorithm();
        let zeros = [0; 32];
        if let Some(Ok(key)) = zeros
            .get(..algorithm.key_len())
            .map(|key| UnboundKey::new(algorithm, key))
        {
            self.key = LessSafeKey::new(key);
        }
        std::hint::black_box(&mut self.key);
    }
}

impl KeyedSuite for RingAead {
    #[inline]
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError> {
        let mut parts = AeadParts::split(op.packet).ok_or(SealError::Length)?;
        let Inputs { nonce, associated } = parts.number(op.seq, &self.salt, self.esn);
        let nonce = Nonce::assume_unique_for_key(nonce);
        // By reference: moving the tag out copies it through the stack in overlapping pieces, and
        // loading those stalls.
        match &self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(associated), parts.text)
        {
            Ok(tag) => {
                parts.icv.copy_from_slice(tag.as_ref());
                Ok(())
            }
            Err(_) => Err(SealError::Cipher),
        }
    }

    #[inline]
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError> {
        let parts = AeadParts::split(op.packet).ok_or(OpenError::Malformed)?;
        let Inputs { nonce, associated } = parts.read(op.seq, &self.salt, self.esn);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = Tag::from(*parts.icv);
        match self.key.open_in_place_separate_tag(
            nonce,
            Aad::from(associated),
            tag,
            parts.text,
            0..,
        ) {
            Ok(_) => Ok(()),
            Err(_) => Err(OpenError::BadIcv),
        }
    }
}

impl Drop for RingAead {
    fn drop(&mut self) {
        self.overwrite();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

    use super::*;

    #[test]
    fn an_overwritten_key_is_the_key_of_zeros() {
        for algorithm in [&AES_128_GCM, &AES_256_GCM, &CHACHA20_POLY1305] {
            let length = algorithm.key_len();
            let key = |byte: u8| {
                LessSafeKey::new(UnboundKey::new(algorithm, &vec![byte; length]).unwrap())
            };
            let tag = |key: &LessSafeKey| {
                let nonce = Nonce::assume_unique_for_key([7; 12]);
                key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut [1; 40])
                    .unwrap()
                    .as_ref()
                    .to_vec()
            };
            let (_, salt) = Salt::split(&[9; 4]).unwrap();
            let mut aead = RingAead {
                key: key(5),
                salt,
                esn: false,
            };
            assert_eq!(tag(&aead.key), tag(&key(5)));
            aead.overwrite();
            assert_eq!(tag(&aead.key), tag(&key(0)));
        }
    }
}
