//! Sealing of secrets: AES-256-GCM, a random nonce of 96 bits for each, and what it is for as associated data.
//!
//! ```text
//!  "culvert store" | purpose | revision | path ──┐ associated data
//!                            secret ── key ──> AES-256-GCM ──> nonce | text | tag
//! ```
//!
//! A sealed secret that is moved to another path, another revision or a candidate does not open. A nonce drawn at
//! random repeats with probability 2^-32 after 2^32 seals of one key (NIST SP 800-38D, 8.3): a million commits of
//! 1,000 secrets stay below; rotate the key on boxes that see more.
//!
//! RustCrypto's `aes-gcm` is used because it wipes its expanded key, which ring does not.

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::error::StoreError;
use super::wire::{Reader, put_bytes, put_u64};

pub(super) const KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 12;
const TAG_LENGTH: usize = 16;

/// One secret of a configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Where in the configuration it belongs.
    pub path: String,
    /// Its bytes.
    pub value: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// A secret of this path.
    pub fn new(path: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            value: Zeroizing::new(value.into()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secret")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What a sealed value is for, and of which number: part of what is authenticated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A secret of a revision.
    Revision(u64),
    /// The candidate of a session, as a whole.
    Candidate(&'a str),
}

impl Place<'_> {
    fn associated_data(self, path: &str) -> Vec<u8> {
        let mut data = Vec::with_capacity(64 + path.len());
        put_bytes(&mut data, b"culvert store");
        match self {
            Self::Revision(number) => {
                put_bytes(&mut data, b"revision");
                put_u64(&mut data, number);
            }
            Self::Candidate(session) => {
                put_bytes(&mut data, b"candidate");
                put_bytes(&mut data, session.as_bytes());
            }
        }
        put_bytes(&mut data, path.as_bytes());
        data
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(number) => write!(formatter, "revision {number}"),
            Self::Candidate(session) => write!(formatter, "the candidate of session {session}"),
        }
    }
}

/// A key that seals and opens.
pub(super) struct SealingKey {
    generation: u32,
    bytes: Zeroizing<[u8; KEY_LENGTH]>,
    cipher: Aes256Gcm,
}

impl SealingKey {
    pub(super) fn new(generation: u32, bytes: Zeroizing<[u8; KEY_LENGTH]>) -> Self {
        let cipher = Aes256Gcm::new((&*bytes).into());
        Self {
            generation,
            bytes,
            cipher,
        }
    }

    pub(super) fn draw(generation: u32) -> Result<Self, StoreError> {
        Ok(Self::new(generation, random()?))
    }

    /// Counts the rotations.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.bytes
    }

    /// Appends nonce, text and tag.
    pub(super) fn seal(
        &self,
        place: Place<'_>,
        path: &str,
        value: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let nonce: Zeroizing<[u8; NONCE_LENGTH]> = random()?;
        self.seal_by(*nonce, place, path, value, to)
    }

    fn seal_by(
        &self,
        nonce: [u8; NONCE_LENGTH],
        place: Place<'_>,
        path: &str,
        value: &[u8],
        to: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        to.extend_from_slice(&nonce);
        // Room for the tag before the text, so that the clear text never stays behind in a buffer that moved.
        to.reserve(value.len() + TAG_LENGTH);
        let start = to.len();
        to.extend_from_slice(value);
        let text = to.get_mut(start..).unwrap_or_default();
        let sealed = self.cipher.encrypt_inout_detached(
            &Nonce::from(nonce),
            &place.associated_data(path),
            text.into(),
        );
        if let Ok(tag) = sealed {
            to.extend_from_slice(&tag);
            return Ok(());
        }
        // Only a text of 64 GiB gets here.
        to.truncate(start);
        Err(StoreError::TooLarge {
            bytes: value.len() as u64,
            limit: u64::from(u32::MAX),
        })
    }

    /// Opens nonce, text and tag.
    pub(super) fn open(
        &self,
        place: Place<'_>,
        path: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let unopened = || StoreError::SecretUnopened {
            of: place.to_string(),
            path: path.to_owned(),
        };
        let (nonce, rest) = sealed.split_first_chunk().ok_or_else(unopened)?;
        let (text, tag) = rest.split_last_chunk().ok_or_else(unopened)?;
        let nonce: &[u8; NONCE_LENGTH] = nonce;
        let tag: &[u8; TAG_LENGTH] = tag;
        let mut value = Zeroizing::new(text.to_vec());
        self.cipher
            .decrypt_inout_detached(
                &Nonce::from(*nonce),
                &place.associated_data(path),
                value.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| unopened())?;
        Ok(value)
    }

    /// Seals a revision's secrets, sorted by path: path and sealed value one after the other.
    pub(super) fn seal_all(
        &self,
        revision: u64,
        secrets: &[Secret],
    ) -> Result<Vec<u8>, StoreError> {
        let mut sorted: Vec<&Secret> = secrets.iter().collect();
        sorted.sort_unstable_by(|one, two| one.path.cmp(&two.path));
        for pair in sorted.windows(2) {
            if let [one, two] = pair
                && one.path == two.path
            {
                return Err(StoreError::DuplicateSecret(one.path.clone()));
            }
        }
        // One question to the kernel, not one for each.
        let mut nonces = vec![[0; NONCE_LENGTH]; sorted.len()];
        fill(nonces.as_flattened_mut())?;
        let mut all = Vec::new();
        let mut one = Vec::new();
        for (secret, nonce) in sorted.into_iter().zip(nonces) {
            one.clear();
            let (place, path) = (Place::Revision(revision), &secret.path);
            self.seal_by(nonce, place, path, &secret.value, &mut one)?;
            put_bytes(&mut all, secret.path.as_bytes());
            put_bytes(&mut all, &one);
        }
        Ok(all)
    }

    /// Opens what [`seal_all`](Self::seal_all) made.
    pub(super) fn open_all(&self, revision: u64, sealed: &[u8]) -> Result<Vec<Secret>, StoreError> {
        let mut reader = Reader::new(sealed);
        let mut secrets = Vec::new();
        while !reader.is_empty() {
            let (path, sealed) = reader
                .text()
                .and_then(|path| Some((path, reader.bytes()?)))
                .ok_or_else(|| StoreError::damaged(format!("secrets of revision {revision}")))?;
            let value = self.open(Place::Revision(revision), path, sealed)?;
            secrets.push(Secret {
                path: path.to_owned(),
                value,
            });
        }
        Ok(secrets)
    }
}

/// The paths in what [`SealingKey::seal_all`] made.
pub(super) fn paths(sealed: &[u8]) -> Option<Vec<&str>> {
    let mut reader = Reader::new(sealed);
    let mut paths = Vec::new();
    while !reader.is_empty() {
        paths.push(reader.text()?);
        reader.bytes()?;
    }
    Some(paths)
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, StoreError> {
    let mut bytes = Zeroizing::new([0; N]);
    fill(&mut *bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), StoreError> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| StoreError::Random)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn key(seed: u8) -> SealingKey {
        SealingKey::new(1, Zeroizing::new([seed; KEY_LENGTH]))
    }

    #[test]
    fn a_secret_opens_only_where_it_belongs_and_unchanged() {
        let mut sealed = Vec::new();
        let place = Place::Revision(7);
        key(1)
            .seal(place, "a[b].secret", b"hunter2", &mut sealed)
            .unwrap();
        assert_eq!(sealed.len(), NONCE_LENGTH + 7 + TAG_LENGTH);
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        let open = |key: &SealingKey, place, path: &str, sealed: &[u8]| {
            key.open(place, path, sealed).map(|value| value.to_vec())
        };
        assert_eq!(
            open(&key(1), place, "a[b].secret", &sealed).unwrap(),
            b"hunter2"
        );
        assert!(open(&key(2), place, "a[b].secret", &sealed).is_err());
        assert!(open(&key(1), Place::Revision(8), "a[b].secret", &sealed).is_err());
        assert!(open(&key(1), Place::Candidate("7"), "a[b].secret", &sealed).is_err());
        assert!(open(&key(1), place, "a[c].secret", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key(1), place, "a[b].secret", &changed).is_err());
            assert!(open(&key(1), place, "a[b].secret", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let secrets = [Secret::new("b", "two"), Secret::new("a", "one")];
        let (one, two) = (
            key(1).seal_all(3, &secrets).unwrap(),
            key(1).seal_all(3, &secrets).unwrap(),
        );
        assert_ne!(one, two);
        assert_eq!(paths(&one).unwrap(), ["a", "b"]);
        let opened = key(1).open_all(3, &one).unwrap();
        assert_eq!(opened, [Secret::new("a", "one"), Secret::new("b", "two")]);
        assert!(matches!(
            key(1).seal_all(3, &[Secret::new("a", ""), Secret::new("a", "")]),
            Err(StoreError::DuplicateSecret(_))
        ));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Secret::new("a.b", "hunter2"));
        assert!(shown.contains("a.b") && !shown.contains("hunter") && !shown.contains("104"));
    }
}
