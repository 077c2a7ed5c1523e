//! Digests that tell whether two credentials are the same without telling what they are.

use hmac::{Hmac, KeyInit, Mac};
use prost::Message as _;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::bus::Credential;

/// The key of this box's digests: without it a digest says nothing about a weak secret.
///
/// Draw it at random once and keep it for as long as digests are compared.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// HMAC-SHA-256 over a secret of the configuration, the same wherever a field of that name holds it.
    pub fn secret(&self, field: &str, secret: &[u8]) -> [u8; 32] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            // HMAC takes keys of any length.
            return [0; 32];
        };
        // Apart from the digests of credentials, which begin with the tag of a protobuf field.
        mac.update(b"\0secret\0");
        mac.update(field.as_bytes());
        mac.update(b"\0");
        mac.update(secret);
        mac.finalize().into_bytes().into()
    }

    /// HMAC-SHA-256 over several secrets of one value, each apart from the others.
    pub(super) fn secrets<const N: usize>(&self, fields: [(&str, &[u8]); N]) -> Vec<u8> {
        let each = fields.map(|(field, secret)| self.secret(field, secret));
        self.secret("together", each.as_flattened()).to_vec()
    }

    /// HMAC-SHA-256 over all of the credential but its digest.
    pub fn digest(&self, credential: &Credential) -> Vec<u8> {
        let plain = Credential {
            digest: Vec::new(),
            ..credential.clone()
        };
        let bytes = Zeroizing::new(plain.encode_to_vec());
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            // HMAC takes keys of any length.
            return Vec::new();
        };
        mac.update(&bytes);
        mac.finalize().into_bytes().to_vec()
    }
}

impl Drop for DigestKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}
