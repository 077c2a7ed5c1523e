//! Leases that outlive the process, in ROOT/var/dhcp: what RFC 2131 section 3.2 asks for again after a restart.
//!
//! What is lost here is asked for anew, so a file that cannot be read is put aside, loudly, and a new one begun; where
//! there can be none, leases are kept in memory.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_model::bus;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::moment::{Age, Moment};
use crate::terms::Terms;

/// Why leases cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Their folder.
    #[error("{}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

/// Of this layout.
const VERSION: u32 = 2;

impl Store {
    /// Opens or makes it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Folder {
            path: folder.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let path = folder.join("leases.db");
        Self::at(&path).or_else(|error| {
            tracing::error!(path = %path.display(), %error, "leases cannot be read; beginning anew");
            fs::rename(&path, folder.join("leases.db.damaged")).map_err(failed)?;
            Self::at(&path)
        })
    }

    /// Opens it, or else one that ends with the process: a disk that is full or cannot be written to keeps no interface
    /// from its address.
    pub fn open_or_in_memory(folder: &Path) -> Result<Self, StoreError> {
        Self::open(folder).or_else(|error| {
            tracing::error!(%error, "leases cannot be kept on disk: they do not outlive this process");
            Self::at(Path::new(":memory:"))
        })
    }

    fn at(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != VERSION {
            connection.execute_batch(&format!(
                "BEGIN;
                 DROP TABLE IF EXISTS leases;
                 CREATE TABLE leases (
                     interface TEXT PRIMARY KEY,
                     client BLOB NOT NULL,
                     lease BLOB NOT NULL,
                     boot TEXT NOT NULL,
                     began_boot_ms INTEGER NOT NULL,
                     began_unix_ms INTEGER NOT NULL
                 ) STRICT;
                 PRAGMA user_version = {VERSION};
                 COMMIT;"
            ))?;
        }
        // Damage shows itself here rather than later.
        connection.query_row("SELECT count(*) FROM leases", [], |row| {
            row.get::<_, u32>(0)
        })?;
        Ok(Self { connection })
    }

    /// Keeps the lease of an interface, that `client` was given when it began.
    pub fn keep(
        &self,
        interface: &str,
        client: &[u8],
        terms: &Terms,
        began: &Moment,
    ) -> Result<(), StoreError> {
        let lease = terms.on_the_bus(terms.renew, terms.rebind, terms.duration);
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.connection.execute(
            "INSERT OR REPLACE INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                interface,
                client,
                lease.encode_to_vec(),
                began.boot,
                milliseconds(began.since_boot),
                milliseconds(began.unix),
            ],
        )?;
        Ok(())
    }

    /// Forgets the lease of an interface.
    pub fn forget(&self, interface: &str) -> Result<(), StoreError> {
        self.connection
            .execute("DELETE FROM leases WHERE interface = ?1", [interface])?;
        Ok(())
    }

    /// The lease of an interface that this client was given, and how old it is at this moment.
    pub fn find(
        &self,
        interface: &str,
        client: &[u8],
        now: &Moment,
    ) -> Result<Option<(Terms, Age)>, StoreError> {
        let row: Option<(Vec<u8>, String, i64, i64)> = self
            .connection
            .query_row(
                "SELECT lease, boot, began_boot_ms, began_unix_ms FROM leases
                 WHERE interface = ?1 AND client = ?2",
                params![interface, client],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .optional()?;
        Ok(row.and_then(|(lease, boot, since_boot, unix)| {
            let lease = bus::DhcpLease::decode(lease.as_slice()).ok()?;
            let time = |milliseconds| u64::try_from(milliseconds).map(Duration::from_millis).ok();
            let began = Moment {
                boot,
                since_boot: time(since_boot)?,
                unix: time(unix)?,
            };
            Some((Terms::from_stored(&lease)?, now.since(&began)))
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::terms::Offered;

    fn terms() -> Terms {
        Offered {
            address: Some([192, 0, 2, 10].into()),
            server: Some([192, 0, 2, 1].into()),
            mask: Some([255, 255, 255, 0].into()),
            duration: Some(3600),
            routers: vec![[192, 0, 2, 1].into()],
            ..Offered::default()
        }
        .check()
        .unwrap()
    }

    #[test]
    fn a_lease_outlives_the_process_for_the_same_client_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("dhcp")).unwrap();
        let now = Moment::now();
        let began = now.clone().earlier(Duration::from_millis(100_500));
        store.keep("wan", b"me", &terms(), &began).unwrap();
        drop(store);
        let store = Store::open(&folder.path().join("dhcp")).unwrap();
        let find = |interface, client, now| store.find(interface, client, now).unwrap();
        let (kept, age) = find("wan", b"me".as_slice(), &now).unwrap();
        assert_eq!(kept, terms());
        let Age::Known(age) = age else {
            panic!("of this boot");
        };
        // Milliseconds are stored.
        assert!((100_500..=100_501).contains(&age.as_millis()), "{age:?}");
        assert!(find("wan", b"another", &now).is_none());
        assert!(find("lan", b"me", &now).is_none());
        // Another boot, with a clock that stands at its beginning.
        let reset = Moment {
            boot: "another".to_owned(),
            unix: Duration::ZERO,
            ..now.clone()
        };
        assert_eq!(find("wan", b"me", &reset), Some((terms(), Age::Unknown)));
        store.forget("wan").unwrap();
        assert!(find("wan", b"me", &now).is_none());
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.db");
        fs::write(
            &path,
            b"no database at all, and long enough to be taken for one",
        )
        .unwrap();
        let store = Store::open(folder.path()).unwrap();
        let now = Moment::now();
        store.keep("wan", b"me", &terms(), &now).unwrap();
        assert!(store.find("wan", b"me", &now).unwrap().is_some());
        assert!(folder.path().join("leases.db.damaged").exists());
    }

    #[test]
    fn without_a_disk_leases_are_kept_as_long_as_the_process() {
        let folder = tempfile::tempdir().unwrap();
        // A file stands where the folder would be; or what cannot be a database can also not be put aside.
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let stuck = folder.path().join("stuck");
        fs::create_dir_all(stuck.join("leases.db")).unwrap();
        fs::create_dir_all(stuck.join("leases.db.damaged/full")).unwrap();
        for place in [file.join("dhcp"), stuck] {
            assert!(Store::open(&place).is_err());
            let store = Store::open_or_in_memory(&place).unwrap();
            let now = Moment::now();
            store.keep("wan", b"me", &terms(), &now).unwrap();
            assert!(store.find("wan", b"me", &now).unwrap().is_some());
            let another = Store::open_or_in_memory(&place).unwrap();
            assert!(another.find("wan", b"me", &now).unwrap().is_none());
        }
        // Where there is a disk it is used.
        let good = folder.path().join("good");
        let now = Moment::now();
        let store = Store::open_or_in_memory(&good).unwrap();
        store.keep("wan", b"me", &terms(), &now).unwrap();
        let store = Store::open(&good).unwrap();
        assert!(store.find("wan", b"me", &now).unwrap().is_some());
    }
}
