//! Opening: whoever holds the lock looks at what is there and brings it up.
//!
//! ```text
//!                      ┌ nothing, no exports ─────────> new
//! lock ── key ── store ┼ sound ───────────────────────> (upgrade, end a rotation) ──> sound
//!                      ├ behind its exports ── append ─> loudly ─────────────────────> completed
//!                      └ missing or damaged ── aside ─> from the exports, loudly ───> replaced
//! ```
//!
//! A sound store is opened without a single write, so a full disk keeps nobody from his configuration, and a read-only
//! one neither.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Store;
use super::clock::{BootId, Moment};
use super::confirm::{self, Pending};
use super::directory::Directory;
use super::error::StoreError;
use super::export::{self, Found};
use super::head::Head;
use super::key_file::Keys;
use super::limits::Limits;
use super::revision::{RevisionNumber, Stored, newest_confirmed};
use super::schema;
use super::verify::{missing_is_damage, verify};

pub(super) const DATABASE: &str = "store.db";
pub(super) const LOG: &str = "store.db-wal";
const JOURNAL: &str = "store.db-journal";
const LOCK: &str = "store.lock";
const DAMAGED: &str = "store.db.damaged";
const DAMAGED_LOG: &str = "store.db.damaged-wal";

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

/// What took the place of a damaged database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// What was wrong with it.
    pub cause: String,
    /// The newest revision there is now; none if no export was good.
    pub newest: Option<RevisionNumber>,
    /// How many revisions came back.
    pub revisions: usize,
    /// How many exports were damaged as well.
    pub bad_exports: usize,
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
    pub(super) synchronous: &'static str,
    pub(super) vfs: Option<&'static str>,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            synchronous: "FULL",
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
                let mut store = parts.store(connection, keys, lock);
                store.catch_up()?;
                Ok(Opened { store, condition })
            }
            Ok(None) => parts.fresh(None, durability, lock),
            Err(StoreError::Damaged(cause)) => {
                parts.put_aside()?;
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
    fn store(self, connection: Connection, keys: Keys, lock: File) -> Store {
        Store {
            connection,
            keys,
            directory: self.directory,
            exports: self.exports,
            limits: self.limits,
            read_only: self.read_only,
            exports_due: BTreeSet::new(),
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
            if let Some(completion) = self.complete(&mut connection)? {
                condition = Condition::Completed(completion);
            }
        }
        Ok(Some((connection, keys, condition)))
    }

    /// Puts back what the exports know and the database lost: revisions, and that one was confirmed. A log whose end is
    /// damaged reads like one that ends earlier; but an export is written only after what it says is durable, so it is
    /// never ahead by itself.
    fn complete(&self, connection: &mut Connection) -> Result<Option<Replacement>, StoreError> {
        let head = Head::load(connection)?;
        let found = export::read_all(&self.exports, &self.limits)?;
        let (known, newer): (Vec<_>, Vec<_>) = found
            .good
            .into_iter()
            .partition(|stored| stored.revision.number.get() <= head.newest);
        let mut chain = head.chain;
        let mut next = head.newest;
        let follows = newer.iter().all(|stored| {
            next += 1;
            let follows = stored.revision.number.get() == next && stored.previous == chain;
            chain = stored.chain;
            follows
        });
        let cause = format!("its log ends with revision {}", head.newest);
        if !follows {
            return Err(StoreError::Damaged(cause));
        }
        let transaction = connection.transaction()?;
        let confirmed = reconfirm(&transaction, &known)?;
        let restored = restore(&transaction, newer)?;
        if restored.is_empty() && confirmed == 0 {
            return Ok(None);
        }
        transaction.commit()?;
        let completion = Replacement {
            cause,
            newest: restored
                .last()
                .copied()
                .or(RevisionNumber::new(head.newest)),
            revisions: restored.len(),
            bad_exports: found.bad,
        };
        tracing::error!(
            cause = completion.cause,
            newest = completion.newest.map(RevisionNumber::get),
            revisions = completion.revisions,
            "the configuration database had lost its end; the exports gave it back"
        );
        Ok(Some(completion))
    }

    /// Takes a damaged database out of the way. The database goes first: a log without one is never taken for part of
    /// another, but a database without its log could pass for an older, sound one.
    fn put_aside(&self) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        self.directory.remove(DAMAGED_LOG)?;
        self.directory.rename(DATABASE, DAMAGED)?;
        self.directory.sync()?;
        if self.directory.length(LOG)?.is_some() {
            self.directory.rename(LOG, DAMAGED_LOG)?;
        }
        self.directory.sync()
    }

    /// A new database with what the exports hold.
    fn fresh(
        self,
        cause: Option<String>,
        durability: &Durability,
        lock: File,
    ) -> Result<Opened, StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
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
        // Whatever lies there belongs to no database.
        for name in [LOG, JOURNAL] {
            self.directory.remove(name)?;
        }
        if self.directory.length(DATABASE)?.is_none() {
            self.directory.create_empty(DATABASE)?;
        }
        self.directory.make_private(DATABASE)?;
        let mut connection = connect(&self.directory, durability, false)?;
        let found = match &cause {
            None => Found {
                good: Vec::new(),
                bad: 0,
            },
            Some(_) => export::read_all(&self.exports, &self.limits)?,
        };
        let transaction = connection.transaction()?;
        schema::create(&transaction)?;
        let restored = restore(&transaction, found.good)?;
        transaction.commit()?;
        let condition = match cause {
            None => Condition::New,
            Some(cause) => {
                let replacement = Replacement {
                    cause,
                    newest: restored.last().copied(),
                    revisions: restored.len(),
                    bad_exports: found.bad,
                };
                tracing::error!(
                    cause = replacement.cause,
                    newest = replacement.newest.map(RevisionNumber::get),
                    revisions = replacement.revisions,
                    bad_exports = replacement.bad_exports,
                    "the configuration database was damaged; it was replaced by its exports"
                );
                Condition::Replaced(replacement)
            }
        };
        let mut store = self.store(connection, keys, lock);
        store.catch_up()?;
        Ok(Opened { store, condition })
    }
}

/// Confirms the revisions whose exports say that they were; tells how many.
fn reconfirm(connection: &Connection, exported: &[Stored]) -> Result<usize, StoreError> {
    let mut count = 0;
    for export in exported.iter().filter(|export| export.revision.confirmed) {
        let number = export.revision.number;
        let Some(mut stored) = Stored::load(connection, number)? else {
            continue;
        };
        if stored.chain == export.chain && !stored.revision.confirmed {
            stored.revision.confirmed = true;
            stored.save_state(connection)?;
            count += 1;
            if confirm::load(connection)?.is_some_and(|pending| pending.revision == number) {
                confirm::forget(connection)?;
            }
        }
    }
    Ok(count)
}

/// Puts exported revisions at the end of a database. One that waited for its confirmation still does, with nothing left
/// of its window.
fn restore(
    connection: &Connection,
    mut revisions: Vec<Stored>,
) -> Result<Vec<RevisionNumber>, StoreError> {
    let confirmed_before = newest_confirmed(connection)?;
    let confirmed = revisions
        .iter()
        .rfind(|stored| stored.revision.confirmed)
        .map(|stored| stored.revision.number)
        .or(confirmed_before);
    let Some(newest) = revisions.last_mut() else {
        return Ok(Vec::new());
    };
    if confirmed.is_none() {
        tracing::error!(
            revision = newest.revision.number.get(),
            "no export was confirmed: the newest one counts as such"
        );
        newest.revision.confirmed = true;
    }
    let pending = match confirmed {
        Some(restore) if !newest.revision.confirmed => Some(Pending {
            revision: newest.revision.number,
            restore,
            deadline: Moment {
                wall: newest.revision.time,
                boot: BootId::NEVER,
                since_boot: Duration::ZERO,
            },
        }),
        _ => None,
    };
    let mut head = Head::load(connection)?;
    head.newest = newest.revision.number.get();
    head.chain = newest.chain;
    for stored in &revisions {
        stored.insert(connection)?;
        head.revisions += 1;
        head.bytes += stored.revision.bytes;
    }
    head.save(connection)?;
    confirm::forget(connection)?;
    if let Some(pending) = pending {
        pending.save(connection)?;
    }
    Ok(revisions
        .iter()
        .map(|stored| stored.revision.number)
        .collect())
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
    let synchronous = match durability.synchronous {
        "FULL" => "2",
        _ => "1",
    };
    set(
        &connection,
        "synchronous",
        durability.synchronous,
        synchronous,
    )?;
    set(&connection, "foreign_keys", "ON", "1")?;
    set(&connection, "cell_size_check", "ON", "1")?;
    set(&connection, "temp_store", "MEMORY", "2")?;
    // The log is copied into the database by `maintain`, not in the middle of somebody's commit.
    set(&connection, "wal_autocheckpoint", "0", "0")?;
    set(&connection, "journal_size_limit", "4194304", "4194304")?;
    Ok(connection)
}

fn set(
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
