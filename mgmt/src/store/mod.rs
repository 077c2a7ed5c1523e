//! The store: where revisions of the configuration lie, and what a start loads.
//!
//! ```text
//!                    commit ── one transaction, one fsync ──┐
//!  service ── Store ─┤                                      v
//!  (one thread)      │   var/mgmt/            0700   store.db, store.db-wal     WAL, synchronous=FULL
//!                    │                      0600 |   store.key                  seals all secrets
//!                    └ maintain ─────────────────|   exports/revision-N.export  the last ten, to fall back on
//!                                                |   store.lock                 one process at a time
//! ```
//!
//! It knows nothing of what a configuration means: a revision is canonical bytes without secrets, and a list of
//! secrets by path. It promises that
//!
//! - what [`commit`](Store::commit) returned is there after any crash or power cut, whole; what it refused is not,
//!   unless the disk failed while it was made durable: then the next start may find it;
//! - revisions follow each other: a commit on anything but the newest one is refused ([`StoreError::Moved`]);
//! - [`running`](Store::running) is what a start must load: the last confirmed revision ([`confirm`]);
//! - a candidate is there after a crash of this process, and after a power cut as it was at some moment since the last
//!   commit;
//! - a secret lies on the disk sealed only, bound to its revision and path ([`seal`]);
//! - damage is found when the store is opened or the thing is read, and the exports take the place of a damaged
//!   database, loudly ([`Condition::Replaced`]);
//! - a full disk or a read-only file system refuses changes by a typed error while everything can still be read;
//! - nothing grows without bound ([`Limits`]).
//!
//! Calls block. [`maintain`](Store::maintain) belongs after the answer to each commit: it writes the exports and
//! copies the log into the database, none of which a commit waits for.

mod audit;
mod candidate;
mod checksum;
mod clock;
mod commit;
pub mod confirm;
mod directory;
mod error;
mod exclusive;
mod export;
mod head;
mod key_file;
mod limits;
mod open;
mod recover;
mod revision;
mod rotate;
mod schema;
pub mod seal;
mod transaction;
mod verify;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;

use rusqlite::Connection;
use zeroize::Zeroizing;

use directory::Directory;
use key_file::Keys;
use transaction::Pace;

pub use audit::{AuditEntry, AuditTrail, NewAuditEntry};
pub use candidate::{Candidate, CandidateInfo, SessionId};
pub use checksum::Sum;
pub use clock::{BootId, Moment, WallTime};
pub use confirm::PendingConfirmation;
pub use error::StoreError;
pub use exclusive::ExclusiveLock;
pub use limits::Limits;
pub use open::{Condition, Opened};
pub use recover::Replacement;
pub use revision::{Committed, NewRevision, Revision, RevisionNumber, Source};
pub use seal::Secret;

/// From this length on a commit itself copies the log into the database, if nobody called [`Store::maintain`].
const LONGEST_LOG: u64 = 64 << 20;

/// An open store; its directory belongs to it alone.
pub struct Store {
    connection: Connection,
    keys: Keys,
    directory: Directory,
    exports: Directory,
    limits: Limits,
    read_only: bool,
    /// Revisions whose export is missing or out of date.
    exports_due: BTreeSet<RevisionNumber>,
    pace: Pace,
    /// Held for as long as the store is open.
    _lock: File,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("path", &self.directory.path())
            .field("keys", &self.keys)
            .field("read_only", &self.read_only)
            .field("exports_due", &self.exports_due)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Whether nothing can be changed in this life: the file system was read-only when the store was opened, or had no
    /// room for what takes the place of a damaged database.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The key of the digests that stand for secrets in what people read; the same for the life of the store.
    pub fn digest_key(&self) -> &Zeroizing<[u8; 32]> {
        self.keys.digest_key()
    }

    /// What can wait until a commit was answered: writes the exports that are due, and copies the log into the
    /// database. What could not be done is done by the next call.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        if self.read_only {
            return Ok(());
        }
        let exported = self.write_exports();
        // On a full disk the log is what may give room back.
        let copied = self.checkpoint();
        exported.and(copied).map_err(|error| self.explain(error))
    }

    /// A file system that went read-only under an open file gives but an I/O error.
    fn explain(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Database(_) | StoreError::File { .. } if self.directory.is_read_only() => {
                StoreError::ReadOnly
            }
            other => other,
        }
    }

    /// Exports that nobody wrote since the last commit. One that cannot be written does not stop a commit.
    fn keep_up(&mut self) {
        if !self.read_only
            && let Err(error) = self.write_exports()
        {
            tracing::warn!(%error, "exports of the configuration are behind");
        }
    }

    /// Keeps the log from growing without end if [`maintain`](Self::maintain) is never called.
    fn bound_log(&mut self) {
        let long = self
            .directory
            .length(open::LOG)
            .is_ok_and(|length| length.unwrap_or(0) > LONGEST_LOG);
        if long && let Err(error) = self.checkpoint() {
            tracing::warn!(%error, "the configuration database's log cannot be copied");
        }
    }

    /// Leaves an empty log: what stayed in it could, damaged, hide newer pages of the database.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.wait_again()?;
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}
