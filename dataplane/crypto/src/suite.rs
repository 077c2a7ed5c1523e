//! Which algorithms protect an SA, and how long everything then is.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Bytes of the ESP header: SPI and sequence number (RFC 4303 section 2).
pub const ESP_HEADER_LEN: usize = 8;

/// Bytes of pad length and next header, the end of every plaintext (RFC 4303 section 2).
pub const ESP_TRAILER_LEN: usize = 2;

/// The key length of AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyBits {
    /// 128 bits.
    B128,
    /// 192 bits.
    B192,
    /// 256 bits.
    B256,
}

impl KeyBits {
    /// In bits.
    pub const fn bits(self) -> u16 {
        match self {
            Self::B128 => 128,
            Self::B192 => 192,
            Self::B256 => 256,
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.bits() as usize / 8
    }
}

/// The encryption algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// AES-GCM with an ICV of 16 bytes (RFC 4106).
    AesGcm16(KeyBits),
    /// AES-GCM with an ICV of 12 bytes (RFC 4106).
    AesGcm12(KeyBits),
    /// AES-GCM with an ICV of 8 bytes (RFC 4106).
    AesGcm8(KeyBits),
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-GMAC: authenticates and encrypts nothing (RFC 4543).
    AesGmac(KeyBits),
    /// AES-CBC (RFC 3602).
    AesCbc(KeyBits),
    /// AES in counter mode (RFC 3686).
    AesCtr(KeyBits),
    /// Encrypts nothing (RFC 2410).
    Null,
}

impl Cipher {
    /// Whether it authenticates by itself.
    pub const fn is_aead(self) -> bool {
        match self {
            Self::AesGcm16(_)
            | Self::AesGcm12(_)
            | Self::AesGcm8(_)
            | Self::ChaCha20Poly1305
            | Self::AesGmac(_) => true,
            Self::AesCbc(_) | Self::AesCtr(_) | Self::Null => false,
        }
    }

    /// Whether what it seals cannot be read.
    pub const fn is_confidential(self) -> bool {
        !matches!(self, Self::AesGmac(_) | Self::Null)
    }

    /// Its key length, where it has the choice.
    pub const fn key_bits(self) -> Option<KeyBits> {
        match self {
            Self::AesGcm16(bits)
            | Self::AesGcm12(bits)
            | Self::AesGcm8(bits)
            | Self::AesGmac(bits)
            | Self::AesCbc(bits)
            | Self::AesCtr(bits) => Some(bits),
            Self::ChaCha20Poly1305 | Self::Null => None,
        }
    }
}

/// The integrity algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Integrity {
    /// Part of the cipher.
    Aead,
    /// HMAC-SHA1-96 (RFC 2404).
    HmacSha1_96,
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha2_256_128,
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha2_384_192,
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha2_512_256,
}

/// Why a cipher and an integrity algorithm make no suite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// A cipher that authenticates needs no other integrity algorithm.
    #[error("{0:?} authenticates by itself and takes no {1:?}")]
    Superfluous(Cipher, Integrity),
    /// A cipher that does not authenticate needs an integrity algorithm.
    #[error("{0:?} needs an integrity algorithm")]
    Missing(Cipher),
    /// No suite has this name.
    #[error("{0:?} is no ESP suite: aes128gcm16, aes256-sha256, chacha20poly1305 ... are")]
    Name(String),
}

/// A cipher with the integrity it needs; every value is a valid combination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suite {
    cipher: Cipher,
    integrity: Integrity,
}

impl Suite {
    /// AES-128-GCM.
    pub const AES128GCM16: Self = Self::aead(Cipher::AesGcm16(KeyBits::B128));
    /// AES-192-GCM.
    pub const AES192GCM16: Self = Self::aead(Cipher::AesGcm16(KeyBits::B192));
    /// AES-256-GCM.
    pub const AES256GCM16: Self = Self::aead(Cipher::AesGcm16(KeyBits::B256));
    /// ChaCha20-Poly1305.
    pub const CHACHA20POLY1305: Self = Self::aead(Cipher::ChaCha20Poly1305);

    /// Every suite there is.
    pub const ALL: [Self; 41] = [
        Self::AES128GCM16,
        Self::AES192GCM16,
        Self::AES256GCM16,
        Self::CHACHA20POLY1305,
        Self::aead(Cipher::AesGcm12(KeyBits::B128)),
        Self::aead(Cipher::AesGcm12(KeyBits::B192)),
        Self::aead(Cipher::AesGcm12(KeyBits::B256)),
        Self::aead(Cipher::AesGcm8(KeyBits::B128)),
        Self::aead(Cipher::AesGcm8(KeyBits::B192)),
        Self::aead(Cipher::AesGcm8(KeyBits::B256)),
        Self::aead(Cipher::AesGmac(KeyBits::B128)),
        Self::aead(Cipher::AesGmac(KeyBits::B192)),
        Self::aead(Cipher::AesGmac(KeyBits::B256)),
        Self::cbc(KeyBits::B128, Integrity::HmacSha1_96),
        Self::cbc(KeyBits::B128, Integrity::HmacSha2_256_128),
        Self::cbc(KeyBits::B128, Integrity::HmacSha2_384_192),
        Self::cbc(KeyBits::B128, Integrity::HmacSha2_512_256),
        Self::cbc(KeyBits::B192, Integrity::HmacSha1_96),
        Self::cbc(KeyBits::B192, Integrity::HmacSha2_256_128),
        Self::cbc(KeyBits::B192, Integrity::HmacSha2_384_192),
        Self::cbc(KeyBits::B192, Integrity::HmacSha2_512_256),
        Self::cbc(KeyBits::B256, Integrity::HmacSha1_96),
        Self::cbc(KeyBits::B256, Integrity::HmacSha2_256_128),
        Self::cbc(KeyBits::B256, Integrity::HmacSha2_384_192),
        Self::cbc(KeyBits::B256, Integrity::HmacSha2_512_256),
        Self::ctr(KeyBits::B128, Integrity::HmacSha1_96),
        Self::ctr(KeyBits::B128, Integrity::HmacSha2_256_128),
        Self::ctr(KeyBits::B128, Integrity::HmacSha2_384_192),
        Self::ctr(KeyBits::B128, Integrity::HmacSha2_512_256),
        Self::ctr(KeyBits::B192, Integrity::HmacSha1_96),
        Self::ctr(KeyBits::B192, Integrity::HmacSha2_256_128),
        Self::ctr(KeyBits::B192, Integrity::HmacSha2_384_192),
        Self::ctr(KeyBits::B192, Integrity::HmacSha2_512_256),
        Self::ctr(KeyBits::B256, Integrity::HmacSha1_96),
        Self::ctr(KeyBits::B256, Integrity::HmacSha2_256_128),
        Self::ctr(KeyBits::B256, Integrity::HmacSha2_384_192),
        Self::ctr(KeyBits::B256, Integrity::HmacSha2_512_256),
        Self {
            cipher: Cipher::Null,
            integrity: Integrity::HmacSha1_96,
        },
        Self {
            cipher: Cipher::Null,
            integrity: Integrity::HmacSha2_256_128,
        },
        Self {
            cipher: Cipher::Null,
            integrity: Integrity::HmacSha2_384_192,
        },
        Self {
            cipher: Cipher::Null,
            integrity: Integrity::HmacSha2_512_256,
        },
    ];

    const fn aead(cipher: Cipher) -> Self {
        Self {
            cipher,
            integrity: Integrity::Aead,
        }
    }

    const fn cbc(bits: KeyBits, integrity: Integrity) -> Self {
        Self {
            cipher: Cipher::AesCbc(bits),
            integrity,
        }
    }

    const fn ctr(bits: KeyBits, integrity: Integrity) -> Self {
        Self {
            cipher: Cipher::AesCtr(bits),
            integrity,
        }
    }

    /// Refuses a cipher without integrity, and integrity twice.
    pub const fn new(cipher: Cipher, integrity: Integrity) -> Result<Self, SuiteError> {
        match (cipher.is_aead(), integrity) {
            (false, Integrity::Aead) => Err(SuiteError::Missing(cipher)),
            (false, _) | (true, Integrity::Aead) => Ok(Self { cipher, integrity }),
            (true, _) => Err(SuiteError::Superfluous(cipher, integrity)),
        }
    }

    /// The encryption algorithm.
    pub const fn cipher(self) -> Cipher {
        self.cipher
    }

    /// The integrity algorithm.
    pub const fn integrity(self) -> Integrity {
        self.integrity
    }

    /// Bytes of the IV on the wire.
    #[inline]
    pub const fn iv_len(self) -> usize {
        match self.cipher {
            Cipher::AesCbc(_) => 16,
            Cipher::Null => 0,
            _ => 8,
        }
    }

    /// Bytes of the ICV at the packet's end.
    #[inline]
    pub const fn icv_len(self) -> usize {
        match self.integrity {
            Integrity::Aead => match self.cipher {
                Cipher::AesGcm8(_) => 8,
                Cipher::AesGcm12(_) => 12,
                _ => 16,
            },
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha2_256_128 => 16,
            Integrity::HmacSha2_384_192 => 24,
            Integrity::HmacSha2_512_256 => 32,
        }
    }

    /// What the plaintext with its trailer is padded to a multiple of, in bytes: the cipher's
    /// block, at least 4 (RFC 4303 section 2.4).
    #[inline]
    pub const fn block(self) -> usize {
        match self.cipher {
            Cipher::AesCbc(_) => 16,
            _ => 4,
        }
    }

    /// Bytes of the salt at the end of the encryption key (RFC 4106 section 8.1, RFC 7634
    /// section 2; RFC 3686 section 5.1 calls it a nonce).
    pub const fn salt_len(self) -> usize {
        match self.cipher {
            Cipher::AesCbc(_) | Cipher::Null => 0,
            _ => 4,
        }
    }

    /// Bytes of the encryption key as IKE hands it over, salt included.
    pub const fn encryption_key_len(self) -> usize {
        let key = match (self.cipher.key_bits(), self.cipher) {
            (Some(bits), _) => bits.bytes(),
            (None, Cipher::Null) => 0,
            (None, _) => 32,
        };
        key + self.salt_len()
    }

    /// Bytes of the integrity key; zero when the cipher authenticates by itself.
    pub const fn integrity_key_len(self) -> usize {
        match self.integrity {
            Integrity::Aead => 0,
            Integrity::HmacSha1_96 => 20,
            Integrity::HmacSha2_256_128 => 32,
            Integrity::HmacSha2_384_192 => 48,
            Integrity::HmacSha2_512_256 => 64,
        }
    }

    /// Bytes before the ciphertext: ESP header and IV.
    #[inline]
    pub const fn header_len(self) -> usize {
        ESP_HEADER_LEN + self.iv_len()
    }

    /// Its lengths, to calculate with for many packets.
    #[inline]
    pub const fn framing(self) -> Framing {
        Framing {
            header: self.header_len(),
            icv: self.icv_len(),
            block: self.block(),
        }
    }

    /// Bytes of padding behind a payload of `payload` bytes, not counting the trailer's two.
    #[inline]
    pub const fn pad_len(self, payload: usize) -> usize {
        self.framing().pad_len(payload)
    }

    /// Bytes of the whole ESP packet, from its header to the end of its ICV.
    #[inline]
    pub const fn sealed_len(self, payload: usize) -> usize {
        self.framing().sealed_len(payload)
    }

    /// The most that ESP adds to any payload, in bytes; outer IP and UDP headers not counted.
    pub const fn overhead(self) -> usize {
        self.header_len() + self.block() - 1 + ESP_TRAILER_LEN + self.icv_len()
    }

    /// The longest payload whose ESP packet is at most `room` bytes long; `None` when not even
    /// an empty one fits.
    ///
    /// A tunnel's MTU is this of the path's MTU less the outer IP header (20 or 40 bytes) and
    /// less 8 bytes of UDP where that encapsulates.
    pub const fn max_payload(self, room: usize) -> Option<usize> {
        let Some(ciphertext) = room.checked_sub(self.header_len() + self.icv_len()) else {
            return None;
        };
        (ciphertext & !(self.block() - 1)).checked_sub(ESP_TRAILER_LEN)
    }

    /// Where the ciphertext of an ESP packet of `packet` bytes is: payload, padding and trailer.
    /// `None` when it is shorter than a trailer or no whole number of CBC blocks.
    #[inline]
    pub const fn ciphertext(self, packet: usize) -> Option<Range<usize>> {
        let start = self.header_len();
        let Some(end) = packet.checked_sub(self.icv_len()) else {
            return None;
        };
        let whole = match self.cipher {
            Cipher::AesCbc(_) => (end.wrapping_sub(start)).is_multiple_of(16),
            _ => true,
        };
        if whole && end >= start + ESP_TRAILER_LEN {
            Some(start..end)
        } else {
            None
        }
    }
}

impl fmt::Display for Suite {
    /// As strongSwan writes it in a proposal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cipher {
            Cipher::AesGcm16(bits) => write!(f, "aes{}gcm16", bits.bits())?,
            Cipher::AesGcm12(bits) => write!(f, "aes{}gcm12", bits.bits())?,
            Cipher::AesGcm8(bits) => write!(f, "aes{}gcm8", bits.bits())?,
            Cipher::AesGmac(bits) => write!(f, "aes{}gmac", bits.bits())?,
            Cipher::AesCbc(bits) => write!(f, "aes{}", bits.bits())?,
            Cipher::AesCtr(bits) => write!(f, "aes{}ctr", bits.bits())?,
            Cipher::Null => f.write_str("null")?,
            Cipher::ChaCha20Poly1305 => f.write_str("chacha20poly1305")?,
        }
        f.write_str(match self.integrity {
            Integrity::Aead => "",
            Integrity::HmacSha1_96 => "-sha1",
            Integrity::HmacSha2_256_128 => "-sha256",
            Integrity::HmacSha2_384_192 => "-sha384",
            Integrity::HmacSha2_512_256 => "-sha512",
        })
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Suite {
    type Err = SuiteError;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self, SuiteError> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.to_string() == name)
            .ok_or_else(|| SuiteError::Name(name.to_owned()))
    }
}

/// How a suite's packets are laid out, ready to calculate with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Bytes before the ciphertext: ESP header and IV.
    pub header: usize,
    /// Bytes of the ICV.
    pub icv: usize,
    /// What the ciphertext is a multiple of: 4 or 16 bytes.
    pub block: usize,
}

impl Framing {
    /// Bytes of padding behind a payload, not counting the trailer's two.
    #[inline(always)]
    pub const fn pad_len(self, payload: usize) -> usize {
        (payload + ESP_TRAILER_LEN).wrapping_neg() & (self.block - 1)
    }

    /// Bytes of the whole ESP packet.
    #[inline(always)]
    pub const fn sealed_len(self, payload: usize) -> usize {
        self.header + payload + self.pad_len(payload) + ESP_TRAILER_LEN + self.icv
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_strongswans_and_come_back() {
        let names: Vec<_> = Suite::ALL.iter().map(ToString::to_string).collect();
        for name in [
            "aes128gcm16",
            "aes192gcm16",
            "aes256gcm16",
            "chacha20poly1305",
            "aes128-sha1",
            "aes256-sha256",
        ] {
            assert!(names.contains(&name.to_owned()), "{name}");
        }
        for (suite, name) in Suite::ALL.iter().zip(&names) {
            assert_eq!(name.parse(), Ok(*suite));
            assert_eq!(Suite::new(suite.cipher(), suite.integrity()), Ok(*suite));
        }
        assert_eq!(
            "aes128".parse::<Suite>(),
            Err(SuiteError::Name("aes128".to_owned()))
        );
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let (gcm, cbc) = (
            Cipher::AesGcm16(KeyBits::B128),
            Cipher::AesCbc(KeyBits::B128),
        );
        assert_eq!(
            Suite::new(cbc, Integrity::Aead),
            Err(SuiteError::Missing(cbc))
        );
        let sha1 = Integrity::HmacSha1_96;
        assert_eq!(
            Suite::new(gcm, sha1),
            Err(SuiteError::Superfluous(gcm, sha1))
        );
    }

    #[test]
    fn known_sizes() {
        // 1500 - 20 outer IP - 8 ESP - 8 IV - 16 ICV leaves 1448, a multiple of 4, less 2.
        assert_eq!(Suite::AES128GCM16.max_payload(1480), Some(1446));
        // 1500 - 20 - 8 - 16 - 16 = 1440, a multiple of 16.
        let cbc: Suite = "aes256-sha256".parse().unwrap();
        assert_eq!(cbc.max_payload(1480), Some(1438));
        assert_eq!(
            (cbc.encryption_key_len(), cbc.integrity_key_len()),
            (32, 32)
        );
        assert_eq!(Suite::CHACHA20POLY1305.encryption_key_len(), 36);
        assert_eq!(Suite::AES128GCM16.max_payload(33), None);
        assert_eq!(Suite::AES128GCM16.max_payload(36), Some(2));
    }

    proptest! {
        #[test]
        fn lengths_agree_with_each_other(suite in proptest::sample::select(&Suite::ALL), payload in 0usize..9300) {
            let sealed = suite.sealed_len(payload);
            let ciphertext = suite.ciphertext(sealed).unwrap();
            prop_assert_eq!(ciphertext.len() % suite.block(), 0);
            prop_assert_eq!(ciphertext.len(), payload + suite.pad_len(payload) + ESP_TRAILER_LEN);
            prop_assert!(suite.pad_len(payload) < suite.block() && sealed <= payload + suite.overhead());
            let longest = suite.max_payload(sealed).unwrap();
            prop_assert!(longest >= payload && suite.sealed_len(longest) <= sealed);
            prop_assert!(suite.sealed_len(longest + 1) > sealed);
        }
    }
}
