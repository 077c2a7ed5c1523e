//! The portable engine: one packet after the other, on every CPU.
//!
//! | suite | through |
//! | --- | --- |
//! | AES-128/256-GCM, ChaCha20-Poly1305 | `ring` |
//! | AES-192-GCM (ring has no 192-bit keys) | `aes-gcm` |
//! | AES-CBC with HMAC | `aes` and `cbc`, HMAC on the compression functions of `sha1` and `sha2` |
//!
//! The engine's own work is dispatch, once for each run of packets with the same key, and the
//! framing of RFC 4303: sequence number, IV, nonce, associated data, ICV.

mod aead;
mod cbc_hmac;
mod gcm192;
#[cfg(test)]
mod round_trip;

use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

use crate::engine::{Engine, OpenOp, SealOp};
use crate::key::{KeyError, KeyMaterial, SaKey};
use crate::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, Mac};
use crate::suite::{Cipher, ESP_HEADER_LEN, Integrity, KeyBits};

use aead::RingAead;
use cbc_hmac::{AesKey, CbcHmac};
use gcm192::Gcm192;

/// An SA's keys with the code that uses them: one virtual call for each run of packets.
pub(crate) trait KeyedSuite: Send + Sync {
    fn seal_run(&self, ops: &mut [SealOp<'_>]);
    fn open_run(&self, ops: &mut [OpenOp<'_>]);
}

/// The portable engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Engine for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn key(&self, material: &KeyMaterial<'_>) -> Result<SaKey, KeyError> {
        material.check()?;
        Ok(SaKey {
            suite: material.suite,
            esn: material.esn,
            portable: expand(material)?,
        })
    }

    #[inline]
    fn seal_batch(&self, ops: &mut [SealOp<'_>]) {
        for run in ops.chunk_by_mut(|left, right| std::ptr::eq(left.key, right.key)) {
            if let Some(first) = run.first() {
                first.key.portable.seal_run(run);
            }
        }
    }

    #[inline]
    fn open_batch(&self, ops: &mut [OpenOp<'_>]) {
        for run in ops.chunk_by_mut(|left, right| std::ptr::eq(left.key, right.key)) {
            if let Some(first) = run.first() {
                first.key.portable.open_run(run);
            }
        }
    }
}

/// The portable expansion of keys whose lengths were checked.
fn expand(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
    match material.suite.cipher() {
        Cipher::AesGcm16(KeyBits::B128) => RingAead::boxed(&AES_128_GCM, material),
        Cipher::AesGcm16(KeyBits::B192) => Gcm192::boxed(material),
        Cipher::AesGcm16(KeyBits::B256) => RingAead::boxed(&AES_256_GCM, material),
        Cipher::ChaCha20Poly1305 => RingAead::boxed(&CHACHA20_POLY1305, material),
        Cipher::AesCbc(KeyBits::B128) => with_mac::<aes::Aes128>(material),
        Cipher::AesCbc(KeyBits::B192) => with_mac::<aes::Aes192>(material),
        Cipher::AesCbc(KeyBits::B256) => with_mac::<aes::Aes256>(material),
    }
}

fn with_mac<C: AesKey>(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
    fn boxed<C: AesKey, M: Mac>(
        material: &KeyMaterial<'_>,
    ) -> Result<Box<dyn KeyedSuite>, KeyError> {
        Ok(Box::new(CbcHmac::<C, M>::new(material)?))
    }
    match material.suite.integrity() {
        Integrity::HmacSha1_96 => boxed::<C, HmacSha1>(material),
        Integrity::HmacSha2_256_128 => boxed::<C, HmacSha256>(material),
        Integrity::HmacSha2_384_192 => boxed::<C, HmacSha384>(material),
        Integrity::HmacSha2_512_256 => boxed::<C, HmacSha512>(material),
        Integrity::Aead => Err(wrong_length(material)),
    }
}

/// What a constructor of the libraries below means when it refuses a key.
fn wrong_length(material: &KeyMaterial<'_>) -> KeyError {
    KeyError::EncryptionLength {
        suite: material.suite,
        have: material.encryption.len(),
    }
}

/// The associated data of an AEAD suite (RFC 4106 section 5): SPI and sequence number, with ESN
/// all 64 bits of it.
#[derive(Clone, Copy)]
struct Associated {
    bytes: [u8; 12],
    length: usize,
}

impl Associated {
    #[inline]
    fn new(header: [u8; ESP_HEADER_LEN], seq: u64, esn: bool) -> Self {
        let [a, b, c, d, l0, l1, l2, l3] = header;
        if esn {
            let [h0, h1, h2, h3, ..] = seq.to_be_bytes();
            Self {
                bytes: [a, b, c, d, h0, h1, h2, h3, l0, l1, l2, l3],
                length: 12,
            }
        } else {
            Self {
                bytes: [a, b, c, d, l0, l1, l2, l3, 0, 0, 0, 0],
                length: 8,
            }
        }
    }
}

impl AsRef<[u8]> for Associated {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A packet of an AEAD suite in its parts.
struct AeadParts<'a> {
    header: &'a mut [u8; ESP_HEADER_LEN],
    iv: &'a mut [u8; 8],
    /// Ciphertext and ICV.
    rest: &'a mut [u8],
}

impl<'a> AeadParts<'a> {
    /// Bytes of the ICV.
    const ICV: usize = 16;

    /// `None` when there is no room for trailer and ICV.
    #[inline]
    fn split(packet: &'a mut [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk_mut()?;
        let (iv, rest) = rest.split_first_chunk_mut()?;
        (rest.len() >= Self::ICV + crate::suite::ESP_TRAILER_LEN).then_some(Self {
            header,
            iv,
            rest,
        })
    }

    /// Writes sequence number and IV (the whole sequence number: RFC 4106 section 3.1 asks for
    /// uniqueness only).
    #[inline]
    fn number(&mut self, seq: u64) {
        let wide = seq.to_be_bytes();
        let [_, _, _, _, low @ ..] = wide;
        if let Some(to) = self.header.last_chunk_mut::<4>() {
            *to = low;
        }
        *self.iv = wide;
    }
}
