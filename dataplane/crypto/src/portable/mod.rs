//! The portable engine: one packet after the other, on every CPU.
//!
//! | suite | through |
//! | --- | --- |
//! | AES-128/256-GCM, ChaCha20-Poly1305 | `ring` |
//! | AES-192-GCM (ring has no 192-bit keys) | `aes-gcm` |
//! | AES-GCM with an ICV of 8 or 12 bytes, AES-GMAC | `aes`, `ctr` and `ghash` |
//! | AES-CTR and NULL with HMAC | `aes` and `ctr`, HMAC as below |
//! | AES-CBC with HMAC | `aes` and `cbc`, HMAC on the compression functions of `sha1` and `sha2` |
//!
//! The engine's own work is dispatch, once for each run of packets with the same key, and the
//! framing of RFC 4303: sequence number, IV, nonce, associated data, ICV.

mod aead;
mod cbc_hmac;
mod counter;
mod gcm192;
#[cfg(test)]
mod outside_vectors;
#[cfg(test)]
mod round_trip;
mod short_gcm;
mod stream_hmac;
#[cfg(test)]
mod vectors;

use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

use crate::engine::{Engine, OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial, SaKey, Salt};
use crate::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, Mac};
use crate::suite::{Cipher, ESP_HEADER_LEN, Integrity, KeyBits};
use crate::wide::WideKey;

use aead::RingAead;
use cbc_hmac::{AesKey, CbcHmac};
use gcm192::Gcm192;
use short_gcm::ShortGcm;
use stream_hmac::{Clear, Counter, Stream, StreamHmac};
pub(crate) use stream_hmac::{Keystream, keystream};

/// An SA's keys with the code that uses them: one virtual call for each run of packets.
///
/// The loops over a run are made anew for each suite, so that its work on a packet is inlined into them.
pub(crate) trait KeyedSuite: Send + Sync {
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError>;
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError>;

    /// The AES-128 key that makes IVs of sequence numbers, where a suite has one: every engine makes the same.
    fn iv_key(&self) -> Option<&[u8; 16]> {
        None
    }

    fn seal_run(&self, ops: &mut [SealOp<'_>]) {
        for op in ops {
            op.result = self.seal(op);
        }
    }

    fn open_run(&self, ops: &mut [OpenOp<'_>]) {
        for op in ops {
            op.result = self.open(op);
        }
    }
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
            wide: WideKey::None,
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
        Cipher::AesGcm12(bits) | Cipher::AesGcm8(bits) | Cipher::AesGmac(bits) => match bits {
            KeyBits::B128 => ShortGcm::<aes::Aes128>::boxed(material),
            KeyBits::B192 => ShortGcm::<aes::Aes192>::boxed(material),
            KeyBits::B256 => ShortGcm::<aes::Aes256>::boxed(material),
        },
        Cipher::AesCtr(KeyBits::B128) => stream_with_mac::<Counter<aes::Aes128>>(material),
        Cipher::AesCtr(KeyBits::B192) => stream_with_mac::<Counter<aes::Aes192>>(material),
        Cipher::AesCtr(KeyBits::B256) => stream_with_mac::<Counter<aes::Aes256>>(material),
        Cipher::Null => stream_with_mac::<Clear>(material),
    }
}

fn stream_with_mac<S: Stream>(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
    match material.suite.integrity() {
        Integrity::HmacSha1_96 => StreamHmac::<S, HmacSha1>::boxed(material),
        Integrity::HmacSha2_256_128 => StreamHmac::<S, HmacSha256>::boxed(material),
        Integrity::HmacSha2_384_192 => StreamHmac::<S, HmacSha384>::boxed(material),
        Integrity::HmacSha2_512_256 => StreamHmac::<S, HmacSha512>::boxed(material),
        Integrity::Aead => Err(wrong_length(material)),
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

/// What an AEAD takes besides the plaintext, made from numbers in registers: bytes that were just
/// stored in pieces are slow to load as a whole.
struct Inputs {
    nonce: [u8; 12],
    associated: Associated,
}

/// The associated data (RFC 4106 section 5, RFC 7634 section 2.1): SPI and sequence number, with
/// ESN all 64 bits of it.
struct Associated {
    bytes: [u8; 16],
    length: usize,
}

impl Associated {
    #[inline]
    fn new(spi: [u8; 4], seq: u64, esn: bool) -> Self {
        let spi = u128::from(u32::from_be_bytes(spi)) << 96;
        if esn {
            Self {
                bytes: (spi | u128::from(seq) << 32).to_be_bytes(),
                length: 12,
            }
        } else {
            Self {
                bytes: (spi | u128::from(seq as u32) << 64).to_be_bytes(),
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
    text: &'a mut [u8],
    icv: &'a mut [u8; 16],
}

impl<'a> AeadParts<'a> {
    /// `None` when there is no room for trailer and ICV.
    #[inline]
    fn split(packet: &'a mut [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk_mut()?;
        let (iv, rest) = rest.split_first_chunk_mut()?;
        let (text, icv) = rest.split_last_chunk_mut()?;
        (text.len() >= crate::suite::ESP_TRAILER_LEN).then_some(Self {
            header,
            iv,
            text,
            icv,
        })
    }

    /// Writes sequence number and IV. The IV is the whole sequence number: RFC 4106 section 3.1
    /// asks for uniqueness only.
    #[inline]
    fn number(&mut self, seq: u64, salt: &Salt, esn: bool) -> Inputs {
        let [spi @ .., _, _, _, _] = *self.header;
        *self.header =
            (u64::from(u32::from_be_bytes(spi)) << 32 | u64::from(seq as u32)).to_be_bytes();
        *self.iv = seq.to_be_bytes();
        Inputs {
            nonce: salt.nonce(seq),
            associated: Associated::new(spi, seq, esn),
        }
    }

    /// The inputs of a packet that came in; `seq` has the inferred high half, the low one is the
    /// packet's own.
    #[inline]
    fn read(&self, seq: u64, salt: &Salt, esn: bool) -> Inputs {
        let [spi @ .., a, b, c, d] = *self.header;
        let seq = seq & !0xffff_ffff | u64::from(u32::from_be_bytes([a, b, c, d]));
        Inputs {
            nonce: salt.nonce(u64::from_be_bytes(*self.iv)),
            associated: Associated::new(spi, seq, esn),
        }
    }
}
