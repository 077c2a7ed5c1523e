//! Keys of an SA: as IKE hands them over, and expanded.

use ring::hmac;
use zeroize::ZeroizeOnDrop;

use crate::portable::KeyedSuite;
use crate::suite::Suite;
use crate::wide::WideKey;

/// Keys as IKE hands them over. Borrowed: the owner wipes them.
#[derive(Clone, Copy)]
pub struct KeyMaterial<'a> {
    /// What they are for.
    pub suite: Suite,
    /// The encryption key, with the salt at its end where the suite has one.
    pub encryption: &'a [u8],
    /// The integrity key; empty when the cipher authenticates by itself.
    pub integrity: &'a [u8],
    /// Sequence numbers have 64 bits (RFC 4303 section 2.2.1).
    pub esn: bool,
}

/// Why keys were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The encryption key (with its salt) has another length.
    #[error("{suite} takes an encryption key of {} bytes, not {have}", suite.encryption_key_len())]
    EncryptionLength {
        /// For which suite.
        suite: Suite,
        /// Bytes given.
        have: usize,
    },
    /// The integrity key has another length.
    #[error("{suite} takes an integrity key of {} bytes, not {have}", suite.integrity_key_len())]
    IntegrityLength {
        /// For which suite.
        suite: Suite,
        /// Bytes given.
        have: usize,
    },
    /// The system gave no random numbers (a CBC key needs some for its IVs).
    #[error("the system's random number generator failed")]
    Random,
}

impl KeyMaterial<'_> {
    /// Checks both lengths.
    pub(crate) fn check(&self) -> Result<(), KeyError> {
        let suite = self.suite;
        if self.encryption.len() != suite.encryption_key_len() {
            return Err(KeyError::EncryptionLength {
                suite,
                have: self.encryption.len(),
            });
        }
        if self.integrity.len() != suite.integrity_key_len() {
            return Err(KeyError::IntegrityLength {
                suite,
                have: self.integrity.len(),
            });
        }
        Ok(())
    }

    /// What recognises the same encryption key and salt when they come again.
    ///
    /// The suite is left out: GCM under the same key is the same GCM, whatever else differs. Where nothing is encrypted
    /// the integrity key is what there is.
    pub fn identity(&self, under: &IdentityKey) -> KeyIdentity {
        let key = if self.encryption.is_empty() {
            self.integrity
        } else {
            self.encryption
        };
        let tag = hmac::sign(&under.0, key);
        let mut identity = [0; 16];
        for (to, from) in identity.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        KeyIdentity(identity)
    }

    /// The keyed fingerprint of encryption key and salt, for tests that prove over a capture
    /// that no (key, IV) pair came twice.
    #[cfg(feature = "fingerprint")]
    pub fn fingerprint(&self, test_key: &[u8; 32]) -> Fingerprint {
        Fingerprint(
            self.identity(&IdentityKey(hmac::Key::new(hmac::HMAC_SHA256, test_key)))
                .0,
        )
    }
}

/// A secret of the running process, under which keys are recognised without being kept.
pub struct IdentityKey(hmac::Key);

impl IdentityKey {
    /// A random one.
    pub fn random() -> Result<Self, KeyError> {
        hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())
            .map(Self)
            .map_err(|_| KeyError::Random)
    }
}

/// Tells keys apart without being one: to keep, compare and hash, not to show.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyIdentity([u8; 16]);

/// What a test build shows of a key.
#[cfg(feature = "fingerprint")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

#[cfg(feature = "fingerprint")]
impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The keys of an SA, expanded once, wiped on drop. Neither shown nor cloned.
///
/// Reading it needs no lock: share it between workers by reference.
pub struct SaKey {
    pub(crate) suite: Suite,
    pub(crate) esn: bool,
    pub(crate) portable: Box<dyn KeyedSuite>,
    /// What the wide engine's kernels need, if it made the key.
    pub(crate) wide: WideKey,
}

impl SaKey {
    /// What the keys are for.
    #[inline]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Sequence numbers have 64 bits.
    #[inline]
    pub const fn esn(&self) -> bool {
        self.esn
    }
}

/// Four bytes that make a nonce of an IV; wiped on drop.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Salt(u32);

impl Salt {
    /// Splits the salt off the end of an AEAD's encryption key.
    pub(crate) fn split(encryption: &[u8]) -> Option<(&[u8], Self)> {
        let (key, salt) = encryption.split_last_chunk()?;
        Some((key, Self(u32::from_be_bytes(*salt))))
    }

    /// Its bytes, in the order of a nonce's memory on a little-endian CPU.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn in_memory(&self) -> u32 {
        self.0.swap_bytes()
    }

    /// Salt and IV (RFC 4106 section 4, RFC 7634 section 2).
    #[inline]
    pub(crate) const fn nonce(&self, iv: u64) -> [u8; 12] {
        let [nonce @ .., _, _, _, _] = ((self.0 as u128) << 96 | (iv as u128) << 32).to_be_bytes();
        nonce
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::{Engine, Portable};

    #[test]
    fn identity_tells_key_and_salt_apart_and_nothing_else() {
        let under = IdentityKey::random().unwrap();
        let material = |suite, encryption, esn| KeyMaterial {
            suite,
            encryption,
            integrity: &[],
            esn,
        };
        let (one, other) = ([7; 20], [7; 36]);
        let mut salted = one;
        salted[19] = 8;
        let identity = |material: KeyMaterial<'_>| material.identity(&under);
        let first = identity(material(Suite::AES128GCM16, &one, false));
        assert!(
            first == identity(material(Suite::AES128GCM16, &one, true)),
            "ESN does not make a key another one"
        );
        assert!(first != identity(material(Suite::AES128GCM16, &salted, false)));
        assert!(first != identity(material(Suite::AES256GCM16, &other, false)));
        assert!(
            first
                != material(Suite::AES128GCM16, &one, false)
                    .identity(&IdentityKey::random().unwrap())
        );
    }

    #[test]
    fn keys_are_shared_between_threads_and_wiped_on_drop() {
        const fn shared<T: Send + Sync>() {}
        const fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        shared::<SaKey>();
        wiped::<Salt>();
        wiped::<aes::Aes128>();
        wiped::<aes::Aes192>();
        wiped::<aes::Aes256>();
        wiped::<aes_gcm::AesGcm<aes::Aes192, aes_gcm::aead::consts::U12>>();
        wiped::<crate::mac::HmacSha1>();
        wiped::<crate::mac::HmacSha256>();
        wiped::<crate::mac::HmacSha384>();
        wiped::<crate::mac::HmacSha512>();
    }

    #[test]
    fn errors_name_lengths_and_no_key_bytes() {
        let suite = Suite::AES128GCM16;
        let material = KeyMaterial {
            suite,
            encryption: &[0xab; 16],
            integrity: &[],
            esn: false,
        };
        let error = Portable.key(&material).err().unwrap();
        assert_eq!(
            error.to_string(),
            "aes128gcm16 takes an encryption key of 20 bytes, not 16"
        );
    }

    #[cfg(feature = "fingerprint")]
    #[test]
    fn fingerprint_is_the_hmac_of_key_and_salt() {
        use ::hmac::{KeyInit, Mac};

        let material = KeyMaterial {
            suite: Suite::AES128GCM16,
            encryption: &[7; 20],
            integrity: &[],
            esn: false,
        };
        let mut mac = ::hmac::Hmac::<sha2::Sha256>::new_from_slice(&[1; 32]).unwrap();
        mac.update(&[7; 20]);
        assert_eq!(
            material.fingerprint(&[1; 32]).0[..],
            mac.finalize().into_bytes()[..16]
        );
        assert_eq!(material.fingerprint(&[1; 32]).to_string().len(), 32);
    }
}
