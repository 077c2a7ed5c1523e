//! AES-CTR (RFC 3686) or no encryption at all (RFC 2410), with an HMAC over all but the ICV (RFC 4303 section 3.3.2).

use zeroize::ZeroizeOnDrop;

use super::cbc_hmac::AesKey;
use super::{KeyedSuite, counter, wrong_length};
use crate::engine::{OpenError, OpenOp, SealError, SealOp};
use crate::key::{KeyError, KeyMaterial, Salt};
use crate::mac::{Mac, same_icv};
use crate::suite::{Cipher, ESP_HEADER_LEN, ESP_TRAILER_LEN, KeyBits};

/// What encrypts by exclusive or, or not at all: engines with an HMAC of their own use it, too.
pub(crate) trait Keystream: Send + Sync {
    /// Encrypts or decrypts the packet with this IV.
    fn apply(&self, iv: u64, text: &mut [u8]);
}

/// A cipher that needs no padding.
pub(super) trait Stream: Keystream + Sized + 'static {
    /// Bytes of the IV on the wire.
    const IV: usize;

    /// From the encryption key with its salt.
    fn new(encryption: &[u8]) -> Option<Self>;
}

/// Nothing is encrypted.
pub(super) struct Clear;

impl Stream for Clear {
    const IV: usize = 0;

    fn new(encryption: &[u8]) -> Option<Self> {
        encryption.is_empty().then_some(Self)
    }
}

impl Keystream for Clear {
    #[inline]
    fn apply(&self, _: u64, _: &mut [u8]) {}
}

/// AES in counter mode. The IV is the sequence number: RFC 3686 section 3.1 asks for uniqueness only.
#[derive(ZeroizeOnDrop)]
pub(super) struct Counter<C: ZeroizeOnDrop> {
    cipher: C,
    salt: Salt,
}

/// The keystream of AES-CTR suites.
pub(crate) fn keystream(material: &KeyMaterial<'_>) -> Option<Box<dyn Keystream>> {
    fn boxed<C: AesKey>(encryption: &[u8]) -> Option<Box<dyn Keystream>> {
        let counter: Counter<C> = Stream::new(encryption)?;
        Some(Box::new(counter))
    }
    match material.suite.cipher() {
        Cipher::AesCtr(KeyBits::B128) => boxed::<aes::Aes128>(material.encryption),
        Cipher::AesCtr(KeyBits::B192) => boxed::<aes::Aes192>(material.encryption),
        Cipher::AesCtr(KeyBits::B256) => boxed::<aes::Aes256>(material.encryption),
        _ => None,
    }
}

impl<C: AesKey> Stream for Counter<C> {
    const IV: usize = 8;

    fn new(encryption: &[u8]) -> Option<Self> {
        let (key, salt) = Salt::split(encryption)?;
        Some(Self {
            cipher: C::new_from_slice(key).ok()?,
            salt,
        })
    }
}

impl<C: AesKey> Keystream for Counter<C> {
    #[inline]
    fn apply(&self, iv: u64, text: &mut [u8]) {
        counter::apply(&self.cipher, self.salt.nonce(iv), 1, text);
    }
}

/// The keys of a suite.
pub(super) struct StreamHmac<S, M> {
    stream: S,
    mac: M,
    esn: bool,
}

impl<S: Stream, M: Mac> StreamHmac<S, M> {
    pub(super) fn boxed(material: &KeyMaterial<'_>) -> Result<Box<dyn KeyedSuite>, KeyError> {
        let wrong_mac = KeyError::IntegrityLength {
            suite: material.suite,
            have: material.integrity.len(),
        };
        Ok(Box::new(Self {
            stream: S::new(material.encryption).ok_or(wrong_length(material))?,
            mac: M::new(material.integrity).ok_or(wrong_mac)?,
            esn: material.esn,
        }))
    }

    #[inline]
    fn digest(&self, covered: &[u8], seq: u64) -> [u8; 64] {
        let [high @ .., _, _, _, _] = seq.to_be_bytes();
        self.mac.digest(covered, self.esn.then_some(high))
    }
}

/// What the ICV covers, and the ICV; `None` when there is no room for a trailer.
fn split<S: Stream, M: Mac>(packet: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let covered = packet.len().checked_sub(M::ICV)?;
    (covered >= ESP_HEADER_LEN + S::IV + ESP_TRAILER_LEN)
        .then(|| packet.split_at_mut_checked(covered))
        .flatten()
}

impl<S: Stream, M: Mac> KeyedSuite for StreamHmac<S, M> {
    #[inline]
    fn seal(&self, op: &mut SealOp<'_>) -> Result<(), SealError> {
        let (covered, icv) = split::<S, M>(op.packet).ok_or(SealError::Length)?;
        let (header, rest) = covered
            .split_first_chunk_mut::<ESP_HEADER_LEN>()
            .ok_or(SealError::Length)?;
        if let Some(to) = header.last_chunk_mut::<4>() {
            *to = (op.seq as u32).to_be_bytes();
        }
        let (iv, text) = rest.split_at_mut_checked(S::IV).ok_or(SealError::Length)?;
        if let Some(to) = iv.first_chunk_mut::<8>() {
            *to = op.seq.to_be_bytes();
        }
        self.stream.apply(op.seq, text);
        let digest = self.digest(covered, op.seq);
        for (to, from) in icv.iter_mut().zip(digest) {
            *to = from;
        }
        Ok(())
    }

    #[inline]
    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), OpenError> {
        let (covered, icv) = split::<S, M>(op.packet).ok_or(OpenError::Malformed)?;
        let digest = self.digest(covered, op.seq);
        if !same_icv(icv, digest.get(..M::ICV).unwrap_or_default()) {
            return Err(OpenError::BadIcv);
        }
        let (iv, text) = covered
            .get_mut(ESP_HEADER_LEN..)
            .and_then(|rest| rest.split_at_mut_checked(S::IV))
            .ok_or(OpenError::Malformed)?;
        let iv = iv.first_chunk().map_or(0, |iv| u64::from_be_bytes(*iv));
        self.stream.apply(iv, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// RFC 3686 section 6, test vectors 1 and 2.
    #[test]
    fn counter_mode_is_that_of_the_rfc() {
        let one = u128::to_be_bytes;
        let stream = |key: u128, nonce: u32| {
            let encryption = [&one(key)[..], &nonce.to_be_bytes()].concat();
            Counter::<aes::Aes128>::new(&encryption).unwrap()
        };
        let mut text = *b"Single block msg";
        stream(0xae68_52f8_1210_67cc_4bf7_a576_5577_f39e, 0x30).apply(0, &mut text);
        assert_eq!(text, one(0xe409_5d4f_b7a7_b379_2d61_75a3_2613_11b8));
        let mut text: [u8; 32] = std::array::from_fn(|at| at as u8);
        stream(0x7e24_0678_17fa_e0d7_43d6_ce1f_3253_9163, 0x006c_b6db)
            .apply(0xc054_3b59_da48_d90b, &mut text);
        assert_eq!(text[..16], one(0x5104_a106_168a_72d9_790d_41ee_8eda_d388));
        assert_eq!(text[16..], one(0xeb2e_1efc_46da_57c8_fce6_30df_9141_be28));
    }
}
