//! AES-GCM with short ICVs (RFC 4106) and AES-GMAC (RFC 4543), which no AEAD library offers, on the parts of one:
//! RustCrypto's `ghash` and `ctr`.
//!
//! ```text
//!   GCM:   SPI seq | IV | ciphertext | ICV     GHASH over (SPI seq), padded, and ciphertext, padded
//!   GMAC:  SPI seq | IV | plaintext  | ICV     GHASH over all that stands before the ICV, padded
//! ```

use aes::cipher::{Array, consts::U16};
use ghash::{GHash, universal_hash::UniversalHash};

use super::cbc_hmac::AesKey;
use super::{Associated, KeyedSuite, counter, wrong_length};
use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial, Salt};
use crate::mac::same_icv;
use crate::suite::{Cipher, ESP_HEADER_LEN, ESP_TRAILER_LEN};

/// ESP header and IV.
const HEADER: usize = ESP_HEADER_LEN + 8;

/// A key with its salt; each part wipes itself.
pub(super) struct ShortGcm<C> {
    cipher: C,
    hash: GHash,
    salt: Salt,
    esn: bool,
    icv: usize,
    /// GMAC: nothing is encrypted.
    clear: bool,
}

impl<C: AesKey> ShortGcm<C> {
    pub(super) fn boxed(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
        let (key, salt) = Salt::split(material.encryption).ok_or(wrong_length(material))?;
        let icv = material.suite.icv_len();
        let clear = matches!(material.suite.cipher(), Cipher::AesGmac(_));
        Self::new(key, salt, material.esn, icv, clear)
            .map(|this| Box::new(this) as Box<dyn KeyedSuite>)
            .ok_or(wrong_length(material))
    }

    fn new(key: &[u8], salt: Salt, esn: bool, icv: usize, clear: bool) -> Option<Self> {
        let cipher = C::new_from_slice(key).ok()?;
        let mut hash_key = Array::<u8, U16>::default();
        cipher.encrypt_block(&mut hash_key);
        let hash = <GHash as ghash::universal_hash::KeyInit>::new(&hash_key);
        zeroize::Zeroize::zeroize(&mut hash_key.0);
        Some(Self {
            cipher,
            hash,
            salt,
            esn,
            icv,
            clear,
        })
    }

    /// The whole tag of a packet without its ICV.
    fn tag(&self, covered: &[u8], nonce: [u8; 12], seq: u64) -> [u8; 16] {
        let mut hash = self.hash.clone();
        let (header, text) = covered.split_at_checked(HEADER).unwrap_or_default();
        let spi = header.first_chunk().copied().unwrap_or_default();
        let associated = Associated::new(spi, seq, self.esn);
        let (associated_bytes, text_bytes) = if self.clear {
            // One string, header and payload without padding between. With ESN its first block ends inside the IV.
            let before = associated.as_ref();
            let iv = header.get(ESP_HEADER_LEN..).unwrap_or_default();
            if self.esn {
                let mut first = [0; 16];
                for (to, from) in first.iter_mut().zip(before.iter().chain(iv)) {
                    *to = *from;
                }
                hash.update(&[Array(first)]);
                hash.update_padded(covered.get(ESP_HEADER_LEN + 4..).unwrap_or_default());
            } else {
                hash.update_padded(covered);
            }
            (before.len() + iv.len() + text.len(), 0)
        } else {
            hash.update_padded(associated.as_ref());
            hash.update_padded(text);
            (associated.as_ref().len(), text.len())
        };
        self.finish(hash, associated_bytes, text_bytes, nonce)
    }

    /// The tag behind what `hash` has taken in, so many bytes of both kinds.
    #[inline]
    fn finish(
        &self,
        mut hash: GHash,
        associated_bytes: usize,
        text_bytes: usize,
        nonce: [u8; 12],
    ) -> [u8; 16] {
        let lengths = ((associated_bytes as u128 * 8) << 64) | (text_bytes as u128 * 8);
        hash.update(&[Array(lengths.to_be_bytes())]);
        let mut mask = counter::block(nonce, 1);
        self.cipher.encrypt_block(&mut mask);
        let sum = u128::from_be_bytes(hash.finalize().0) ^ u128::from_be_bytes(mask.0);
        sum.to_be_bytes()
    }
}

/// GCM without ESP's framing.
#[cfg(test)]
impl<C: AesKey> ShortGcm<C> {
    #[allow(clippy::unwrap_used)]
    pub(super) fn bare(key: &[u8]) -> Self {
        let (_, salt) = Salt::split(&[0; 4]).unwrap();
        Self::new(key, salt, false, 16, false).unwrap()
    }

    pub(super) fn tag_over(&self, nonce: [u8; 12], associated: &[u8], text: &[u8]) -> [u8; 16] {
        let mut hash = self.hash.clone();
        hash.update_padded(associated);
        hash.update_padded(text);
        self.finish(hash, associated.len(), text.len(), nonce)
    }

    pub(super) fn apply(&self, nonce: [u8; 12], text: &mut [u8]) {
        counter::apply(&self.cipher, nonce, 2, text);
    }
}

/// What stands before the ICV, and the ICV; `None` when there is no room for a trailer.
fn split(packet: &mut [u8], icv: usize) -> Option<(&mut [u8], &mut [u8])> {
    let covered = packet.len().checked_sub(icv)?;
    (covered >= HEADER + ESP_TRAILER_LEN)
        .then(|| packet.split_at_mut_checked(covered))
        .flatten()
}

impl<C: AesKey> KeyedSuite for ShortGcm<C> {
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError> {
        let (covered, icv) = split(op.packet, self.icv).ok_or(SealError::Length)?;
        let (header, text) = covered
            .split_first_chunk_mut::<HEADER>()
            .ok_or(SealError::Length)?;
        let spi = header.first_chunk::<4>().copied().unwrap_or_default();
        let numbered = u128::from(u32::from_be_bytes(spi)) << 96
            | u128::from(op.seq as u32) << 64
            | u128::from(op.seq);
        *header = numbered.to_be_bytes();
        let nonce = self.salt.nonce(op.seq);
        if !self.clear {
            counter::apply(&self.cipher, nonce, 2, text);
        }
        let tag = self.tag(covered, nonce, op.seq);
        for (to, from) in icv.iter_mut().zip(tag) {
            *to = from;
        }
        Ok(())
    }

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError> {
        let (covered, icv) = split(op.packet, self.icv).ok_or(OpenError::Malformed)?;
        let header = covered
            .first_chunk::<HEADER>()
            .ok_or(OpenError::Malformed)?;
        let header = u128::from_be_bytes(*header);
        let seq = op.seq & !0xffff_ffff | u64::from((header >> 64) as u32);
        let nonce = self.salt.nonce(header as u64);
        let tag = self.tag(covered, nonce, seq);
        if !same_icv(icv, tag.get(..self.icv).unwrap_or_default()) {
            return Err(OpenError::BadIcv);
        }
        if !self.clear
            && let Some(text) = covered.get_mut(HEADER..)
        {
            counter::apply(&self.cipher, nonce, 2, text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;
    use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use crate::{Engine, KeyMaterial, Portable, SealOp, Suite};

    fn seal(suite: &str, key: &[u8], esn: bool, seq: u64, payload: &[u8]) -> Vec<u8> {
        let suite: Suite = suite.parse().unwrap();
        let material = KeyMaterial {
            suite,
            encryption: key,
            integrity: &[],
            esn,
        };
        let key = Portable.key(&material).unwrap();
        let mut packet = vec![0; suite.header_len()];
        packet[..4].copy_from_slice(&[0xc1, 2, 3, 4]);
        packet.extend(payload);
        packet.resize(packet.len() + suite.icv_len(), 0);
        let mut ops = [SealOp::new(&key, seq, &mut packet)];
        Portable.seal_batch(&mut ops);
        ops[0].result.unwrap();
        packet
    }

    proptest! {
        /// ring's tag, cut off.
        #[test]
        fn a_short_icv_is_the_front_of_the_long_one(
            key: [u8; 36],
            wide: bool,
            esn: bool,
            seq: u64,
            payload in prop::collection::vec(any::<u8>(), 2..300),
        ) {
            let (bits, key) = if wide { (256, &key[..]) } else { (128, &key[..20]) };
            let long = seal(&format!("aes{bits}gcm16"), key, esn, seq, &payload);
            for short in [8, 12] {
                let sealed = seal(&format!("aes{bits}gcm{short}"), key, esn, seq, &payload);
                prop_assert_eq!(&sealed[..], &long[..long.len() - 16 + short]);
            }
        }

        /// RFC 4543 section 3.3: GCM of nothing, with everything as associated data.
        #[test]
        fn gmac_is_gcm_of_nothing(
            key: [u8; 36],
            wide: bool,
            esn: bool,
            seq: u64,
            payload in prop::collection::vec(any::<u8>(), 2..300),
        ) {
            let (bits, key, algorithm) = if wide {
                (256, &key[..], &AES_256_GCM)
            } else {
                (128, &key[..20], &AES_128_GCM)
            };
            let sealed = seal(&format!("aes{bits}gmac"), key, esn, seq, &payload);
            let (key, salt) = key.split_at(key.len() - 4);
            let mut associated = vec![0xc1, 2, 3, 4];
            let numbers = seq.to_be_bytes();
            associated.extend(if esn { &numbers[..] } else { &numbers[4..] });
            associated.extend(numbers);
            associated.extend(&payload);
            let nonce: Vec<u8> = salt.iter().chain(&numbers).copied().collect();
            let tag = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())
                .seal_in_place_separate_tag(
                    Nonce::try_assume_unique_for_key(&nonce).unwrap(),
                    Aad::from(&associated),
                    &mut [],
                )
                .unwrap();
            prop_assert_eq!(&sealed[16..16 + payload.len()], &payload[..], "it is in the clear");
            prop_assert_eq!(&sealed[16 + payload.len()..], tag.as_ref());
        }
    }
}
