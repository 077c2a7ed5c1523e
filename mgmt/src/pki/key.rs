//! Private keys: made, and read in the three forms that people have them in.

use rcgen::KeyPair;
use ring::error::Unspecified;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::rand_core::OsRng;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::PkiError;

/// What kind of key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// On the curve P-256.
    EcdsaP256,
    /// On the curve P-384.
    EcdsaP384,
    /// Of 3072 bits.
    Rsa3072,
    /// RFC 8032.
    Ed25519,
}

impl Algorithm {
    /// As the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa3072 => "rsa-3072",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// As strong as a curve of 256 bits (NIST SP 800-57, table 2).
const RSA_BITS: usize = 3072;

/// What stands before the 32 bytes of a key of Ed25519 (RFC 8410 section 7).
const ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// rsaEncryption, without parameters.
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// id-ecPublicKey on prime256v1.
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// id-ecPublicKey on secp384r1.
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

const INTEGER_ZERO: &[u8] = &[0x02, 0x01, 0x00];
const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;

/// A new key, as PEM of PKCS#8.
pub fn generate(algorithm: Algorithm) -> Result<Zeroizing<String>, PkiError> {
    let random = SystemRandom::new();
    let elliptic = |curve: &'static EcdsaSigningAlgorithm| {
        let made = EcdsaKeyPair::generate_pkcs8(curve, &random);
        made.map(|key| Zeroizing::new(key.as_ref().to_vec()))
    };
    let der: Result<Zeroizing<Vec<u8>>, Unspecified> = match algorithm {
        Algorithm::EcdsaP256 => elliptic(&ECDSA_P256_SHA256_ASN1_SIGNING),
        Algorithm::EcdsaP384 => elliptic(&ECDSA_P384_SHA384_ASN1_SIGNING),
        // ring makes none of RSA. The key is only made by this crate: it never signs or decrypts, which it does in a time that
        // depends on the key.
        Algorithm::Rsa3072 => RsaPrivateKey::new(&mut OsRng, RSA_BITS)
            .ok()
            .and_then(|key| key.to_pkcs8_der().ok())
            .map(|document| document.to_bytes())
            .ok_or(Unspecified),
        Algorithm::Ed25519 => {
            // ring writes the second version of the format, which charon's parser does not take.
            let mut seed = Zeroizing::new([0; 32]);
            random.fill(&mut *seed).map(|()| {
                let mut der = Zeroizing::new(ED25519.to_vec());
                der.reserve_exact(seed.len());
                der.extend_from_slice(&*seed);
                der
            })
        }
    };
    let der = der.map_err(|_| PkiError::Generate)?;
    let ending = pem_rfc7468::LineEnding::LF;
    pem_rfc7468::encode_string("PRIVATE KEY", ending, &der)
        .map(Zeroizing::new)
        .map_err(|_| PkiError::Generate)
}

/// A key in PKCS#8, PKCS#1 or SEC1.
pub(super) fn read(der: &[u8]) -> Result<KeyPair, PkiError> {
    let pair = |der: &[u8]| KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).ok();
    pair(der)
        .or_else(|| {
            // The older forms do not all say of what algorithm they are.
            [RSA, P256, P384]
                .into_iter()
                .find_map(|algorithm| pair(&wrapped(der, algorithm)))
        })
        .ok_or(PkiError::Key)
}

/// An older form within PKCS#8 (RFC 5208 section 5).
fn wrapped(key: &[u8], algorithm: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = element(OCTET_STRING, key);
    let mut content = Zeroizing::new(Vec::with_capacity(64 + key.len()));
    for part in [INTEGER_ZERO, algorithm, &key] {
        content.extend_from_slice(part);
    }
    element(SEQUENCE, &content)
}

/// Tag, length and content (X.690 section 8.1).
fn element(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut all = Zeroizing::new(Vec::with_capacity(content.len() + 10));
    all.push(tag);
    let length = content.len().to_be_bytes();
    let first = length.iter().position(|byte| *byte != 0);
    let length = length
        .get(first.unwrap_or(length.len() - 1)..)
        .unwrap_or(&[]);
    if content.len() >= 0x80 {
        all.push(0x80 | length.len() as u8);
    }
    all.extend_from_slice(length);
    all.extend_from_slice(content);
    all
}
