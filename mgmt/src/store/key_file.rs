//! The key file beside the database, mode 0600.
//!
//! ```text
//! "culvert keys 1\n" | digest key | count | (generation | key) x count | SHA-256 of all this
//! ```
//!
//! There is one sealing key; two while a rotation goes on, of which the newer one seals. The digest key makes the
//! digests that stand for secrets in what people read; it is drawn once and no rotation changes it, so that the same
//! secret keeps its digest.

use std::fmt;

use zeroize::Zeroizing;

use super::checksum::sha256;
use super::directory::Directory;
use super::error::StoreError;
use super::seal::{KEY_LENGTH, SealingKey, random};
use super::wire::{Reader, put_u32};

pub(super) const NAME: &str = "store.key";
const MAGIC: &[u8] = b"culvert keys 1\n";
const MODE: u32 = 0o600;

/// At most one rotation goes on at a time.
const MOST_KEYS: usize = 2;
const SUM_LENGTH: usize = 32;
const LONGEST: usize = MAGIC.len() + KEY_LENGTH + 4 + MOST_KEYS * (4 + KEY_LENGTH) + SUM_LENGTH;

/// What the key file holds.
pub(super) struct Keys {
    digest: Zeroizing<[u8; KEY_LENGTH]>,
    /// Never empty; the last one seals.
    older: Option<SealingKey>,
    newest: SealingKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keys")
            .field("generation", &self.newest.generation())
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Draws keys and writes them where there is no key file.
    pub(super) fn create(directory: &Directory) -> Result<Self, StoreError> {
        let keys = Self {
            digest: random()?,
            older: None,
            newest: SealingKey::draw(1)?,
        };
        keys.write(directory)?;
        Ok(keys)
    }

    /// Reads the key file; `None` if there is none.
    pub(super) fn read(directory: &Directory) -> Result<Option<Self>, StoreError> {
        if directory.length(NAME)?.is_none() {
            return Ok(None);
        }
        let path = directory.path_of(NAME);
        let (mode, plain) = directory.mode(NAME)?;
        if mode & !MODE != 0 || !plain {
            return Err(StoreError::KeyExposed { path, mode });
        }
        let mut bytes = Zeroizing::new(Vec::new());
        directory.read_into(NAME, LONGEST as u64 + 1, &mut bytes)?;
        parse(&bytes)
            .map(Some)
            .map_err(|what| StoreError::KeyDamaged { path, what })
    }

    fn write(&self, directory: &Directory) -> Result<(), StoreError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&*self.digest);
        put_u32(&mut bytes, self.each().count() as u32);
        for key in self.each() {
            put_u32(&mut bytes, key.generation());
            bytes.extend_from_slice(key.bytes());
        }
        let sum = sha256(&bytes);
        bytes.extend_from_slice(&sum);
        directory.write(NAME, &bytes)
    }

    /// The key that seals.
    pub(super) fn sealing(&self) -> &SealingKey {
        &self.newest
    }

    /// The key of this generation.
    pub(super) fn of(&self, generation: u32) -> Option<&SealingKey> {
        self.each().find(|key| key.generation() == generation)
    }

    /// Whether an older key is still kept, because something may be sealed with it.
    pub(super) fn is_rotating(&self) -> bool {
        self.older.is_some()
    }

    pub(super) fn digest_key(&self) -> &Zeroizing<[u8; KEY_LENGTH]> {
        &self.digest
    }

    /// The same with a fresh key that seals, on the disk, too.
    pub(super) fn begin_rotation(&mut self, directory: &Directory) -> Result<(), StoreError> {
        let fresh = SealingKey::draw(self.newest.generation().wrapping_add(1))?;
        let before = std::mem::replace(&mut self.newest, fresh);
        self.older = Some(before);
        let written = self.write(directory);
        if written.is_err()
            && let Some(before) = self.older.take()
        {
            self.newest = before;
        }
        written
    }

    /// Drops the older key once nothing is sealed with it.
    pub(super) fn finish_rotation(&mut self, directory: &Directory) -> Result<(), StoreError> {
        let older = self.older.take();
        let written = self.write(directory);
        if written.is_err() {
            self.older = older;
        }
        written
    }

    fn each(&self) -> impl Iterator<Item = &SealingKey> {
        self.older.iter().chain([&self.newest])
    }
}

fn parse(bytes: &[u8]) -> Result<Keys, &'static str> {
    const NOT_ONE: &str = "not a key file";
    let (body, sum) = bytes.split_last_chunk::<SUM_LENGTH>().ok_or(NOT_ONE)?;
    if sha256(body) != *sum {
        return Err("its check sum is wrong");
    }
    let mut reader = Reader::new(body);
    if reader.take(MAGIC.len()) != Some(MAGIC) {
        return Err(NOT_ONE);
    }
    let digest = Zeroizing::new(reader.array().ok_or(NOT_ONE)?);
    let count = reader.u32().ok_or(NOT_ONE)?;
    let mut next = || {
        let generation = reader.u32()?;
        Some(SealingKey::new(generation, Zeroizing::new(reader.array()?)))
    };
    let (older, newest) = match count {
        1 => (None, next().ok_or(NOT_ONE)?),
        2 => (Some(next().ok_or(NOT_ONE)?), next().ok_or(NOT_ONE)?),
        _ => return Err("it holds a number of keys that it cannot"),
    };
    if !reader.is_empty() {
        return Err(NOT_ONE);
    }
    Ok(Keys {
        digest,
        older,
        newest,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_come_back_and_a_rotation_keeps_the_older_until_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(&place.path().join("mgmt")).unwrap();
        assert!(Keys::read(&directory).unwrap().is_none());
        let mut keys = Keys::create(&directory).unwrap();
        let digest = keys.digest_key().clone();
        let first = *keys.sealing().bytes();
        keys.begin_rotation(&directory).unwrap();
        let read = Keys::read(&directory).unwrap().unwrap();
        assert!(read.is_rotating());
        assert_eq!(read.of(1).unwrap().bytes(), &first);
        assert_eq!(read.sealing().generation(), 2);
        keys.finish_rotation(&directory).unwrap();
        let read = Keys::read(&directory).unwrap().unwrap();
        assert!(!read.is_rotating() && read.of(1).is_none());
        assert_eq!(read.sealing().bytes(), keys.sealing().bytes());
        assert_ne!(read.sealing().bytes(), &first);
        assert_eq!(*read.digest_key(), digest);
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_changed_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(&place.path().join("mgmt")).unwrap();
        Keys::create(&directory).unwrap();
        let path = directory.path_of(NAME);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        for wide in [0o640, 0o604, 0o660, 0o700, 0o4600] {
            mode(wide);
            assert!(matches!(
                Keys::read(&directory),
                Err(StoreError::KeyExposed { mode, .. }) if mode == wide
            ));
        }
        mode(0o600);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            fs::write(&path, &changed).unwrap();
            assert!(matches!(
                Keys::read(&directory),
                Err(StoreError::KeyDamaged { .. })
            ));
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(matches!(
                Keys::read(&directory),
                Err(StoreError::KeyDamaged { .. })
            ));
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(
            Keys::read(&directory),
            Err(StoreError::KeyExposed { .. })
        ));
    }

    #[test]
    fn keys_are_not_shown() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(&place.path().join("mgmt")).unwrap();
        let keys = Keys::create(&directory).unwrap();
        assert_eq!(format!("{keys:?}"), "Keys { generation: 1, .. }");
    }
}
