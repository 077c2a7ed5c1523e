//! From charon's transform identifiers to the algorithms of the dataplane.
//!
//! charon hands its backend IKEv2 transform numbers (RFC 7296 section 3.3.2) and keys that include the salt. What the
//! dataplane does not have is refused here by name, so that charon's log says which proposal to leave out.

use culvert_model::bus::{EncryptionAlgorithm, IntegrityAlgorithm};
use culvert_plugin_wire::algorithm as id;

/// An SA that cannot be installed because of its algorithms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlgorithmError {
    /// The dataplane has no such encryption.
    #[error("encryption algorithm {name} ({id}) is not supported")]
    Encryption {
        /// As people call it.
        name: &'static str,
        /// Transform number.
        id: u32,
    },
    /// The dataplane has no such integrity algorithm.
    #[error("integrity algorithm {name} ({id}) is not supported")]
    Integrity {
        /// As people call it.
        name: &'static str,
        /// Transform number.
        id: u32,
    },
    /// A combined-mode algorithm with a separate integrity algorithm, or the other way round.
    #[error("{encryption} does not go with integrity algorithm {integrity}")]
    Combination {
        /// As people call it.
        encryption: &'static str,
        /// As people call it.
        integrity: &'static str,
    },
    /// A key of a length that the algorithm does not have.
    #[error("{name} with a key of {length} bytes")]
    KeyLength {
        /// As people call it.
        name: &'static str,
        /// Bytes, salt included.
        length: usize,
    },
}

/// Algorithms of one SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transforms {
    /// Encryption.
    pub encryption: EncryptionAlgorithm,
    /// Of the encryption key, in bits, without the salt.
    pub encryption_key_bits: u32,
    /// Integrity.
    pub integrity: IntegrityAlgorithm,
}

impl Transforms {
    /// Checks what charon handed over. Lengths are those of the keys in bytes.
    pub fn from_charon(
        encryption: u32,
        integrity: u32,
        encryption_key: usize,
        integrity_key: usize,
    ) -> Result<Self, AlgorithmError> {
        let encryption_name = encryption_name(encryption);
        let integrity_name = integrity_name(integrity);
        let (algorithm, salt, lengths): (_, usize, &[usize]) = match encryption {
            id::ENCR_AES_CBC => (EncryptionAlgorithm::AesCbc, 0, &[16, 24, 32]),
            id::ENCR_AES_GCM_16 => (EncryptionAlgorithm::AesGcm16, 4, &[20, 28, 36]),
            id::ENCR_AES_GCM_12 => (EncryptionAlgorithm::AesGcm12, 4, &[20, 28, 36]),
            id::ENCR_AES_GCM_8 => (EncryptionAlgorithm::AesGcm8, 4, &[20, 28, 36]),
            id::ENCR_NULL_AUTH_AES_GMAC => (EncryptionAlgorithm::AesGmac, 4, &[20, 28, 36]),
            id::ENCR_AES_CTR => (EncryptionAlgorithm::AesCtr, 4, &[20, 28, 36]),
            id::ENCR_NULL => (EncryptionAlgorithm::Null, 0, &[0]),
            id::ENCR_CHACHA20_POLY1305 => (EncryptionAlgorithm::Chacha20Poly1305, 4, &[36]),
            _ => {
                return Err(AlgorithmError::Encryption {
                    name: encryption_name,
                    id: encryption,
                });
            }
        };
        if !lengths.contains(&encryption_key) {
            return Err(AlgorithmError::KeyLength {
                name: encryption_name,
                length: encryption_key,
            });
        }
        let (authentication, length) = match integrity {
            // charon says "undefined" for AEAD; none at all is the same thing spelt otherwise.
            id::AUTH_UNDEFINED | 0 => (IntegrityAlgorithm::Aead, 0),
            id::AUTH_HMAC_SHA1_96 => (IntegrityAlgorithm::HmacSha196, 20),
            id::AUTH_HMAC_SHA2_256_128 => (IntegrityAlgorithm::HmacSha2256128, 32),
            id::AUTH_HMAC_SHA2_384_192 => (IntegrityAlgorithm::HmacSha2384192, 48),
            id::AUTH_HMAC_SHA2_512_256 => (IntegrityAlgorithm::HmacSha2512256, 64),
            _ => {
                return Err(AlgorithmError::Integrity {
                    name: integrity_name,
                    id: integrity,
                });
            }
        };
        // Encryption without integrity is refused: RFC 8221 section 4.
        let is_aead = salt > 0 && algorithm != EncryptionAlgorithm::AesCtr;
        if is_aead != (authentication == IntegrityAlgorithm::Aead) {
            return Err(AlgorithmError::Combination {
                encryption: encryption_name,
                integrity: integrity_name,
            });
        }
        if integrity_key != length {
            return Err(AlgorithmError::KeyLength {
                name: integrity_name,
                length: integrity_key,
            });
        }
        Ok(Self {
            encryption: algorithm,
            encryption_key_bits: (encryption_key - salt) as u32 * 8,
            integrity: authentication,
        })
    }
}

fn encryption_name(number: u32) -> &'static str {
    match number {
        3 => "3DES-CBC",
        id::ENCR_NULL => "NULL",
        id::ENCR_AES_CBC => "AES-CBC",
        id::ENCR_AES_CTR => "AES-CTR",
        14..=16 => "AES-CCM",
        id::ENCR_AES_GCM_8 => "AES-GCM-8",
        id::ENCR_AES_GCM_12 => "AES-GCM-12",
        id::ENCR_AES_GCM_16 => "AES-GCM-16",
        id::ENCR_NULL_AUTH_AES_GMAC => "AES-GMAC",
        23..=27 => "Camellia",
        id::ENCR_CHACHA20_POLY1305 => "ChaCha20-Poly1305",
        _ => "unknown",
    }
}

fn integrity_name(number: u32) -> &'static str {
    match number {
        0 => "none",
        1 => "HMAC-MD5-96",
        id::AUTH_HMAC_SHA1_96 => "HMAC-SHA1-96",
        5 => "AES-XCBC-96",
        8 => "AES-CMAC-96",
        id::AUTH_HMAC_SHA2_256_128 => "HMAC-SHA2-256-128",
        id::AUTH_HMAC_SHA2_384_192 => "HMAC-SHA2-384-192",
        id::AUTH_HMAC_SHA2_512_256 => "HMAC-SHA2-512-256",
        id::AUTH_UNDEFINED => "of the AEAD itself",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_supported_pair_is_mapped() {
        for (length, bits) in [(20, 128), (28, 192), (36, 256)] {
            assert_eq!(
                Transforms::from_charon(20, 1024, length, 0).unwrap(),
                Transforms {
                    encryption: EncryptionAlgorithm::AesGcm16,
                    encryption_key_bits: bits,
                    integrity: IntegrityAlgorithm::Aead
                }
            );
        }
        assert_eq!(
            Transforms::from_charon(28, 1024, 36, 0)
                .unwrap()
                .encryption_key_bits,
            256
        );
        for (number, algorithm) in [
            (18, EncryptionAlgorithm::AesGcm8),
            (19, EncryptionAlgorithm::AesGcm12),
            (21, EncryptionAlgorithm::AesGmac),
        ] {
            let got = Transforms::from_charon(number, 1024, 28, 0).unwrap();
            assert_eq!((got.encryption, got.encryption_key_bits), (algorithm, 192));
        }
        for (integrity, key) in [(2, 20), (12, 32), (13, 48), (14, 64)] {
            let null = Transforms::from_charon(11, integrity, 0, key).unwrap();
            assert_eq!(
                (null.encryption, null.encryption_key_bits),
                (EncryptionAlgorithm::Null, 0)
            );
            let counter = Transforms::from_charon(13, integrity, 20, key).unwrap();
            assert_eq!(
                (counter.encryption, counter.encryption_key_bits),
                (EncryptionAlgorithm::AesCtr, 128)
            );
            for length in [16, 24, 32] {
                let got = Transforms::from_charon(12, integrity, length, key).unwrap();
                assert_eq!(got.encryption, EncryptionAlgorithm::AesCbc);
                assert_eq!(got.encryption_key_bits as usize, length * 8);
            }
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let refusal = |encryption, integrity, length, key| {
            Transforms::from_charon(encryption, integrity, length, key)
                .unwrap_err()
                .to_string()
        };
        assert!(refusal(23, 12, 16, 32).contains("Camellia"));
        assert!(refusal(14, 1024, 19, 0).contains("AES-CCM"));
        assert!(refusal(11, 1024, 0, 0).contains("does not go"));
        assert!(refusal(13, 1024, 20, 0).contains("does not go"));
        assert!(refusal(21, 12, 20, 32).contains("does not go"));
        assert!(refusal(12, 8, 16, 16).contains("AES-CMAC-96"));
        assert!(refusal(12, 1024, 16, 0).contains("does not go"));
        assert!(refusal(20, 12, 20, 32).contains("does not go"));
        assert!(refusal(20, 1024, 16, 0).contains("16 bytes"));
        assert!(refusal(12, 12, 16, 20).contains("20 bytes"));
        assert!(refusal(999, 1024, 16, 0).contains("999"));
    }
}
