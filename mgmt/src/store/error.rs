//! What the store refuses, and why: one variant for each thing that a caller answers differently.

use std::io;
use std::path::PathBuf;

use super::candidate::SessionId;
use super::revision::RevisionNumber;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has this store open.
    #[error("the store in {0} is in use by another process")]
    InUse(PathBuf),
    /// The file system has no room; nothing was changed.
    #[error("the disk is full: nothing was stored, the running configuration is as it was")]
    DiskFull,
    /// The file system is mounted read-only; nothing was changed.
    #[error(
        "the file system is read-only: nothing was stored, the running configuration is as it was"
    )]
    ReadOnly,
    /// `SQLite` did not take a setting that durability rests on.
    #[error("the database has {name} = {found}, not {wanted}")]
    Setting {
        /// The pragma.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A newer Culvert wrote this store.
    #[error("the store has schema {found}; this version knows {known} and leaves it alone")]
    NewerSchema {
        /// The version that the database carries.
        found: u32,
        /// The newest one this program knows.
        known: u32,
    },
    /// What was read is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The key file may be read or written by others than its owner.
    #[error("{path} has mode {mode:04o}; a key must be 0600 and a file of its own")]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There are sealed secrets, but no key.
    #[error("{0} is missing: the secrets of this store cannot be opened")]
    KeyMissing(PathBuf),
    /// The key file is not one, or was changed.
    #[error("{path}: {what}")]
    KeyDamaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No key opens this secret: it was sealed with another key, for another place, or was changed.
    #[error("the secret {path} of {of} cannot be opened with the key of this store")]
    SecretUnopened {
        /// Where it belongs: a revision or a candidate.
        of: String,
        /// Its configuration path.
        path: String,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel")]
    Random,
    /// There is no such revision, or it was pruned.
    #[error("there is no revision {0}; the oldest ones are removed when the history is full")]
    NoSuchRevision(RevisionNumber),
    /// Someone committed in between.
    #[error("the newest revision is {}, not {}", number_or_none(*newest), number_or_none(*expected))]
    Moved {
        /// The revision that the caller built on.
        expected: Option<RevisionNumber>,
        /// The newest one.
        newest: Option<RevisionNumber>,
    },
    /// Content and secrets together are larger than the store takes, or all candidates are.
    #[error("{bytes} bytes are more than the {limit} that the store takes")]
    TooLarge {
        /// How much it was.
        bytes: u64,
        /// How much it may be.
        limit: u64,
    },
    /// A text is longer than the store takes.
    #[error("the {field} has {bytes} bytes; at most {limit} are kept")]
    TextTooLong {
        /// Which text.
        field: &'static str,
        /// How long it was.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The same path appears twice among the secrets.
    #[error("the secret {0} is given twice")]
    DuplicateSecret(String),
    /// Pinned revisions may fill at most a part of the history.
    #[error("{count} revisions with {bytes} bytes are pinned already; unpin one first")]
    TooManyPinned {
        /// How many there are.
        count: u64,
        /// How much room they take.
        bytes: u64,
    },
    /// A `commit confirmed` needs a confirmed revision to return to.
    #[error("there is no confirmed revision to return to")]
    NothingToReturnTo,
    /// This revision does not wait for a confirmation.
    #[error("revision {0} does not wait for a confirmation")]
    NotPending(RevisionNumber),
    /// No revision waits for a confirmation.
    #[error("no revision waits for a confirmation")]
    NothingPending,
    /// A confirmation came after its window.
    #[error("the time to confirm revision {0} is over")]
    TooLate(RevisionNumber),
    /// All places for candidates are taken.
    #[error("{0} sessions have candidates already")]
    TooManyCandidates(u64),
    /// The session has no candidate: it never had one, or was idle for too long.
    #[error("session {0} has no candidate")]
    NoSuchCandidate(SessionId),
    /// Another session holds the configuration exclusively.
    #[error("{principal} (session {session}) holds the configuration exclusively")]
    HeldExclusively {
        /// Who.
        principal: String,
        /// In which session.
        session: SessionId,
    },
    /// A file beside the database could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database failed in another way.
    #[error("the database: {0}")]
    Database(#[source] rusqlite::Error),
}

fn number_or_none(number: Option<RevisionNumber>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

impl StoreError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// An error of a file beside the database; a full disk or a read-only one is told apart.
    pub(super) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::File {
                path: path.into(),
                source,
            },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ErrorCode, ffi};
        match &error {
            Error::SqliteFailure(failure, _) => match (failure.code, failure.extended_code) {
                (ErrorCode::DiskFull, _) => Self::DiskFull,
                (ErrorCode::ReadOnly, _) => Self::ReadOnly,
                // The medium gives nothing back: as good as changed.
                (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)
                | (
                    _,
                    ffi::SQLITE_IOERR_READ
                    | ffi::SQLITE_IOERR_SHORT_READ
                    | ffi::SQLITE_IOERR_CORRUPTFS
                    | ffi::SQLITE_IOERR_DATA,
                ) => Self::Damaged(error.to_string()),
                _ => Self::Database(error),
            },
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::InvalidColumnIndex(..)
            | Error::InvalidColumnName(..) => Self::Damaged(error.to_string()),
            _ => Self::Database(error),
        }
    }
}
