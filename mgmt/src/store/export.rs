//! Exports: the last revisions as files beside the database, to fall back on when it is damaged.
//!
//! ```text
//! exports/revision-0000000042.export
//!   "culvert export 1\n" | the revision's row | its state | sealed secrets | content | SHA-256 of all this
//! ```
//!
//! Each file comes under its name whole (see [`directory`](super::directory)) and says itself whether it is good.
//! Secrets are sealed in it as in the database, so it is worth nothing without the key file.

use super::Store;
use super::checksum::{Fields, Sum, sha256};
use super::clock::WallTime;
use super::directory::Directory;
use super::error::StoreError;
use super::limits::Limits;
use super::revision::{Revision, RevisionNumber, Source, Stored, newest_confirmed, numbers};
use super::wire::{Reader, put_bytes, put_u32, put_u64};

pub(super) const DIRECTORY: &str = "exports";
const MAGIC: &[u8] = b"culvert export 1\n";
const PREFIX: &str = "revision-";
const SUFFIX: &str = ".export";
const SUM_LENGTH: usize = 32;

/// Room for what stands beside content and secrets in a file.
const MOST_BESIDE: u64 = 64 << 10;

fn name(number: RevisionNumber) -> String {
    format!("{PREFIX}{:010}{SUFFIX}", number.get())
}

fn number(name: &str) -> Option<RevisionNumber> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    RevisionNumber::new(digits.parse().ok()?)
}

fn encode(stored: &Stored) -> Vec<u8> {
    let revision = &stored.revision;
    let none = |number: Option<RevisionNumber>| number.map_or(0, RevisionNumber::get);
    let mut file = Vec::with_capacity(stored.content.len() + stored.sealed.len() + 1024);
    file.extend_from_slice(MAGIC);
    put_u64(&mut file, revision.number.get());
    put_u64(&mut file, none(revision.parent));
    put_u64(&mut file, none(revision.origin));
    put_bytes(&mut file, revision.source.name().as_bytes());
    put_bytes(&mut file, revision.author.as_bytes());
    put_bytes(&mut file, revision.comment.as_bytes());
    put_u64(&mut file, revision.time.0);
    put_bytes(&mut file, &revision.content_hash);
    put_bytes(&mut file, &stored.secret_paths);
    put_bytes(&mut file, &stored.previous);
    put_bytes(&mut file, &stored.chain);
    put_u32(&mut file, u32::from(revision.pinned));
    put_u32(&mut file, u32::from(revision.confirmed));
    put_u32(&mut file, stored.generation);
    put_bytes(&mut file, &stored.sealed);
    put_bytes(&mut file, &stored.content);
    let sum = sha256(&file);
    file.extend_from_slice(&sum);
    file
}

/// The revision in a file, if all of it is as it was written.
fn decode(file: &[u8]) -> Option<Stored> {
    let (body, sum) = file.split_last_chunk::<SUM_LENGTH>()?;
    if sha256(body) != *sum {
        return None;
    }
    let mut reader = Reader::new(body);
    if reader.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let sum = |reader: &mut Reader<'_>| -> Option<Sum> { reader.bytes()?.try_into().ok() };
    let mut stored = Stored {
        revision: Revision {
            number: RevisionNumber::new(reader.u64()?)?,
            parent: RevisionNumber::new(reader.u64()?),
            origin: RevisionNumber::new(reader.u64()?),
            source: Source::from_name(reader.text()?)?,
            author: reader.text()?.to_owned(),
            comment: reader.text()?.to_owned(),
            time: WallTime(reader.u64()?),
            content_hash: sum(&mut reader)?,
            bytes: 0,
            pinned: false,
            confirmed: false,
        },
        secret_paths: sum(&mut reader)?,
        previous: sum(&mut reader)?,
        chain: sum(&mut reader)?,
        generation: 0,
        sealed: Vec::new(),
        content: Vec::new(),
    };
    stored.revision.pinned = reader.flag()?;
    stored.revision.confirmed = reader.flag()?;
    stored.generation = reader.u32()?;
    stored.sealed = reader.bytes()?.to_vec();
    stored.content = reader.bytes()?.to_vec();
    stored.revision.bytes = (stored.sealed.len() + stored.content.len()) as u64;
    (reader.is_empty() && stored.fault().is_none()).then_some(stored)
}

fn read(directory: &Directory, name: &str, limits: &Limits) -> Result<Option<Stored>, StoreError> {
    let mut file = Vec::new();
    // Sealing adds some bytes to each secret; a configuration is never made of secrets alone.
    let limit = 2 * limits.content + MOST_BESIDE;
    if !directory.read_into(name, limit, &mut file)? {
        return Ok(None);
    }
    Ok(decode(&file))
}

/// What lies in the export directory.
pub(super) struct Found {
    /// The good ones, oldest first.
    pub(super) good: Vec<Stored>,
    /// How many were not.
    pub(super) bad: usize,
}

/// Reads all exports.
pub(super) fn read_all(directory: &Directory, limits: &Limits) -> Result<Found, StoreError> {
    let mut found = Found {
        good: Vec::new(),
        bad: 0,
    };
    for name in directory.names()? {
        let Some(number) = number(&name) else {
            continue;
        };
        match read(directory, &name, limits) {
            Ok(Some(stored)) if stored.revision.number == number => found.good.push(stored),
            Ok(_) | Err(StoreError::File { .. }) => {
                tracing::warn!(name, "an export is damaged");
                found.bad += 1;
            }
            Err(error) => return Err(error),
        }
    }
    found
        .good
        .sort_unstable_by_key(|stored| stored.revision.number);
    Ok(found)
}

/// Whether there is any export, good or not.
pub(super) fn any(directory: &Directory) -> Result<bool, StoreError> {
    Ok(directory.names()?.iter().any(|name| number(name).is_some()))
}

/// What an export of a revision would differ in from another one.
fn state(stored: &Stored) -> Sum {
    Fields::of("export")
        .bytes(&stored.chain)
        .bytes(&stored.state_sum())
        .sum()
}

impl Store {
    /// The revisions that are to lie beside the database: the last ones, and the confirmed one.
    fn exported(&self) -> Result<Vec<RevisionNumber>, StoreError> {
        let mut wanted = numbers(&self.connection)?;
        wanted.drain(..wanted.len().saturating_sub(self.limits.exports));
        if let Some(confirmed) = newest_confirmed(&self.connection)?
            && !wanted.contains(&confirmed)
        {
            wanted.push(confirmed);
        }
        Ok(wanted)
    }

    /// Notes which exports are missing, damaged or out of date.
    pub(super) fn compare_exports(&mut self) -> Result<(), StoreError> {
        for number in self.exported()? {
            let Some(stored) = Stored::load(&self.connection, number)? else {
                continue;
            };
            // One that cannot be read is as good as none.
            let export = read(&self.exports, &name(number), &self.limits)
                .ok()
                .flatten();
            if export.is_none_or(|export| state(&export) != state(&stored)) {
                self.exports_due.insert(number);
            }
        }
        Ok(())
    }

    /// Writes the exports that are due and removes those that are no longer wanted.
    pub(super) fn write_exports(&mut self) -> Result<(), StoreError> {
        if self.exports_due.is_empty() {
            return Ok(());
        }
        let wanted = self.exported()?;
        // Where the history is pruned, an older revision comes back among the last ones.
        let there: Vec<_> = self
            .exports
            .names()?
            .iter()
            .filter_map(|name| number(name))
            .collect();
        self.exports_due
            .extend(wanted.iter().filter(|number| !there.contains(number)));
        while let Some(number) = self.exports_due.first().copied() {
            if wanted.contains(&number)
                && let Some(stored) = Stored::load(&self.connection, number)?
            {
                self.exports.write(&name(number), &encode(&stored))?;
            }
            self.exports_due.remove(&number);
        }
        let mut removed = false;
        for found in self.exports.names()? {
            if number(&found).is_none_or(|number| !wanted.contains(&number)) {
                self.exports.remove(&found)?;
                removed = true;
            }
        }
        if removed {
            self.exports.sync()?;
        }
        Ok(())
    }

    /// Writes every export again, and removes all others.
    pub(super) fn renew_exports(&mut self) -> Result<(), StoreError> {
        self.exports_due.extend(self.exported()?);
        self.write_exports()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_file_comes_back_and_every_changed_bit_shows() {
        let content = b"some configuration".to_vec();
        let mut stored = Stored {
            revision: Revision {
                number: RevisionNumber::new(42).unwrap(),
                parent: RevisionNumber::new(41),
                origin: None,
                source: Source::Rollback,
                author: "ann".into(),
                comment: "as it was".into(),
                time: WallTime(1_700_000_000_000),
                content_hash: sha256(&content),
                bytes: content.len() as u64,
                pinned: true,
                confirmed: false,
            },
            secret_paths: super::super::revision::sum_of_paths(&[]).unwrap(),
            previous: [7; 32],
            chain: [0; 32],
            generation: 3,
            sealed: Vec::new(),
            content,
        };
        stored.chain = stored.link();
        let file = encode(&stored);
        assert_eq!(decode(&file), Some(stored));
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            assert_eq!(decode(&changed), None);
            assert_eq!(decode(&file[..at]), None);
        }
        assert_eq!(
            number(&name(RevisionNumber::new(42).unwrap()))
                .unwrap()
                .get(),
            42
        );
        assert_eq!(number("revision-0.export"), None);
        assert_eq!(number("revision-42.export.new"), None);
    }
}
