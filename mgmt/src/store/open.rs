//! Opening: whoever holds the lock looks at what is there and brings it up.
//!
//! ```text
//!                      ┌ nothing, no exports ─────────> new
//! lock ── key ── store ┼ sound ───────────────────────> (upgrade, end a rotation) ──> sound
//!                      ├ behind its exports ── append ─> loudly ─────────────────────> completed
//!                      └ missing or damaged ── aside ─> from the exports, loudly ───> replaced
//!                                                       (in memory where there is no room)
//! ```
//!
//! A sound store is opened without a single write, so a full disk keeps nobody from his configuration, and a read-only
//! one neither.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Store;
use super::directory::Directory;
use super::error::StoreError;
use super::export::{self, Found};
use super::key_file::Keys;
use super::limits::Limits;
use super::recover::{Replacement, complete, put_aside, restore};
use super::revision::RevisionNumber;
use super::schema;
use super::transaction::{Pace, Synchronous};
use super::verify::{missing_is_damage, verify};

pub(super) const DATABASE: &str = "store.db";
pub(super) const LOG: &str = "store.db-wal";
const JOURNAL: &str = "store.db-journal";
const LOCK: &str = "store.lock";

/// Reads through no locks: for a read-only file system, where nobody else can write either.
const WITHOUT_LOCKS: &str = "unix-none";

/// How a store was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There was none; this one is empty.
    New,
    /// All of it is as it was written.
    Sound,
    /// The database's log had lost its end; the exports gave those revisions back. What went with them beside
    /// revisions (candidates, audit entries) is lost.
    Completed(Replacement),
    /// The database was damaged or gone; the exports took its place. What was newer than them is lost, with the audit
    /// trail and all candidates. The damaged one lies beside it as `store.db.damaged`.
    Replaced(Replacement),
}

/// A store and how it was found.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// How it was found.
    pub condition: Condition,
}

/// How durable, and through which file system: what tests change.
#[derive(Clone, Debug)]
pub(super) struct Durability {
    pub(super) synchronous: Synchronous,
    pub(super) vfs: Option<&'static str>,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            vfs: None,
        }
    }
}

impl Store {
    /// Opens the store in this directory, or makes one; the directory's parent must exist. It belongs to this process
    /// until it is dropped.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        Self::open_with(path, Limits::default())
    }

    /// The same with other bounds.
    pub fn open_with(path: &Path, limits: Limits) -> Result<Opened, StoreError> {
        Self::open_as(path, limits, &Durability::default())
    }

    pub(super) fn open_as(
        path: &Path,
        limits: Limits,
        durability: &Durability,
    ) -> Result<Opened, StoreError> {
        let directory = Directory::open(path)?;
        let read_only = directory.is_read_only();
        let lock = lock(&directory, read_only)?;
        let exports = Directory::open(&directory.path_of(export::DIRECTORY))?;
        let parts = Parts {
            directory,
            exports,
            limits,
            read_only,
        };
        match parts.existing(durability) {
            Ok(Some((connection, keys, condition))) => {
                let mut store =
                    parts.store(connection, keys, Pace::new(durability.synchronous), lock);
                store.catch_up()?;
                Ok(Opened { store, condition })
            }
            Ok(None) => parts.fresh(None, durability, lock),
            Err(StoreError::Damaged(cause)) => {
                if !read_only {
                    put_aside(&parts.directory)?;
                }
                parts.fresh(Some(cause), durability, lock)
            }
            Err(error) => Err(error),
        }
    }

    /// What a sound store still owes from its last life.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        // Proves the key, too.
        if let Some(newest) = self.newest()? {
            self.revision(newest.number)?;
        }
        self.compare_exports()?;
        if !self.read_only && self.keys.is_rotating() {
            // There is a key for everything either way; a full disk must not keep the box from starting.
            if let Err(error) = self.finish_rotation() {
                tracing::warn!(%error, "the rotation of the key is not ended yet");
            }
        }
        Ok(())
    }
}

/// What is known before there is a database.
struct Parts {
    directory: Directory,
    exports: Directory,
    limits: Limits,
    read_only: bool,
}

impl Parts {
    fn store(self, connection: Connection, keys: Keys, pace: Pace, lock: File) -> Store {
        Store {
            connection,
            keys,
            directory: self.directory,
            exports: self.exports,
            limits: self.limits,
            read_only: self.read_only,
            exports_due: BTreeSet::new(),
            pace,
            _lock: lock,
        }
    }

    /// The sound database that is there; none if there is nothing yet.
    fn existing(
        &self,
        durability: &Durability,
    ) -> Result<Option<(Connection, Keys, Condition)>, StoreError> {
        if self.directory.length(DATABASE)?.unwrap_or(0) == 0 {
            return Ok(None);
        }
        self.directory.make_private(DATABASE)?;
        let mut connection =
            connect(&self.directory, durability, self.read_only).map_err(missing_is_damage)?;
        if schema::is_empty(&connection).map_err(missing_is_damage)? {
            return Ok(None);
        }
        verify(&connection)?;
        let keys = Keys::read(&self.directory)?
            .ok_or_else(|| StoreError::KeyMissing(self.directory.path_of(super::key_file::NAME)))?;
        let mut condition = Condition::Sound;
        if !self.read_only {
            schema::migrate(&mut connection)?;
            if let Some(completion) = complete(&mut connection, &self.exports, &self.limits)? {
                condition = Condition::Completed(completion);
            }
        }
        Ok(Some((connection, keys, condition)))
    }

    /// A new database with what the exports hold. Where there is no room for one it lies in memory, and can only be
    /// read: a box with a full disk and a damaged database still starts.
    fn fresh(
        mut self,
        cause: Option<String>,
        durability: &Durability,
        lock: File,
    ) -> Result<Opened, StoreError> {
        let cause = match cause {
            None if export::any(&self.exports)? => Some("it is missing".to_owned()),
            cause => cause,
        };
        let keys = match Keys::read(&self.directory)? {
            Some(keys) => keys,
            None if cause.is_none() => Keys::create(&self.directory)?,
            None => {
                let path = self.directory.path_of(super::key_file::NAME);
                return Err(StoreError::KeyMissing(path));
            }
        };
        let on_disk = if self.read_only {
            Err(StoreError::ReadOnly)
        } else {
            self.empty_database(durability)
                .and_then(|connection| self.fill(connection, cause.is_some()))
        };
        let filled = match on_disk {
            Err(StoreError::DiskFull | StoreError::ReadOnly) if cause.is_some() => {
                self.read_only = true;
                self.fill(Connection::open_in_memory()?, true)?
            }
            on_disk => on_disk?,
        };
        let condition = match cause {
            None => Condition::New,
            Some(cause) => {
                let replacement = Replacement {
                    cause,
                    newest: filled.restored.last().copied(),
                    revisions: filled.restored.len(),
                    bad_exports: filled.bad_exports,
                };
                tracing::error!(
                    cause = replacement.cause,
                    newest = replacement.newest.map(RevisionNumber::get),
                    revisions = replacement.revisions,
                    bad_exports = replacement.bad_exports,
                    read_only = self.read_only,
                    "the configuration database was damaged; it was replaced by its exports"
                );
                Condition::Replaced(replacement)
            }
        };
        let mut store = self.store(
            filled.connection,
            keys,
            Pace::new(durability.synchronous),
            lock,
        );
        store.catch_up()?;
        // From now on a database without tables is one that was lost, not one that was never begun.
        if !store.read_only
            && let Err(error) = store.checkpoint()
        {
            tracing::warn!(%error, "the configuration database's log cannot be copied");
        }
        Ok(Opened { store, condition })
    }

    /// An open database file without anything in it.
    fn empty_database(&self, durability: &Durability) -> Result<Connection, StoreError> {
        // Whatever lies there belongs to no database.
        for name in [LOG, JOURNAL] {
            self.directory.remove(name)?;
        }
        if self.directory.length(DATABASE)?.is_none() {
            self.directory.create_empty(DATABASE)?;
        }
        self.directory.make_private(DATABASE)?;
        connect(&self.directory, durability, false)
    }

    /// Makes the tables, and puts into them what the exports hold.
    fn fill(&self, mut connection: Connection, from_exports: bool) -> Result<Filled, StoreError> {
        let found = if from_exports {
            export::read_all(&self.exports, &self.limits)?
        } else {
            Found {
                good: Vec::new(),
                bad: 0,
            }
        };
        let transaction = connection.transaction()?;
        schema::create(&transaction)?;
        let restored = restore(&transaction, found.good)?;
        transaction.commit()?;
        Ok(Filled {
            connection,
            restored,
            bad_exports: found.bad,
        })
    }
}

/// A new database and what went into it.
struct Filled {
    connection: Connection,
    restored: Vec<RevisionNumber>,
    bad_exports: usize,
}

fn lock(directory: &Directory, read_only: bool) -> Result<File, StoreError> {
    let path = directory.path_of(LOCK);
    let failed = |source| StoreError::file(&path, source);
    let file = if read_only {
        File::open(&path).map_err(failed)?
    } else {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.path().to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the database file and makes it durable; each setting is read back.
fn connect(
    directory: &Directory,
    durability: &Durability,
    read_only: bool,
) -> Result<Connection, StoreError> {
    let path = directory.path_of(DATABASE);
    let access = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let vfs = durability.vfs.or(read_only.then_some(WITHOUT_LOCKS));
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    // A damaged database is kept as it was found, with its log; and the log stays where it is in any case, as without
    // one SQLite cannot read a database from a read-only file system.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // One process at a time: the log's index stays in memory, and nobody else gets in between.
    set(&connection, "locking_mode", "EXCLUSIVE", "exclusive")?;
    set(&connection, "journal_mode", "WAL", "wal")?;
    durability.synchronous.take(&connection)?;
    set(&connection, "foreign_keys", "ON", "1")?;
    set(&connection, "cell_size_check", "ON", "1")?;
    set(&connection, "temp_store", "MEMORY", "2")?;
    // The log is copied into the database by `maintain`, not in the middle of somebody's commit.
    set(&connection, "wal_autocheckpoint", "0", "0")?;
    set(&connection, "journal_size_limit", "4194304", "4194304")?;
    Ok(connection)
}

/// Changes a setting and reads it back.
pub(super) fn set(
    connection: &Connection,
    name: &'static str,
    value: &'static str,
    wanted: &'static str,
) -> Result<(), StoreError> {
    let as_text = |row: &rusqlite::Row<'_>| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str()?.to_owned(),
        })
    };
    // Some answer when they are set, some do not.
    connection
        .pragma_update_and_check(None, name, value, |_| Ok(()))
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(()),
            other => Err(other),
        })?;
    let found = connection.pragma_query_value(None, name, as_text)?;
    if found == wanted {
        Ok(())
    } else {
        Err(StoreError::Setting {
            name,
            wanted,
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_setting_that_is_not_taken_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        set(&connection, "synchronous", "FULL", "2").unwrap();
        // A database in memory has no log.
        assert!(matches!(
            set(&connection, "journal_mode", "WAL", "wal"),
            Err(StoreError::Setting { name: "journal_mode", found, .. }) if found == "memory"
        ));
        assert!(matches!(
            set(&connection, "synchronous", "NORMAL", "2"),
            Err(StoreError::Setting { found, .. }) if found == "1"
        ));
    }
}
