//! Transactions, and which of them wait for the disk.
//!
//! | what | waits | after a crash of the process | after a power cut |
//! | --- | --- | --- | --- |
//! | commits, confirmations, the audit trail, keys | once | it is there | it is there |
//! | candidates, a longer exclusive hold | no | it is there | as it was at some moment since the last of the others |
//!
//! All of them go into one log, one after the other, and a start reads it up to where it is whole: what waited makes
//! durable all that was written before it, and what did not can never be there without what it was built on.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::Store;
use super::error::StoreError;
use super::key_file::Keys;
use super::limits::Limits;
use super::open::set;

/// `SQLite`'s `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synchronous {
    /// The end of a transaction waits until its part of the log is on the disk.
    Full,
    /// Only copying the log into the database does.
    Normal,
    /// A level that no database is ever found at.
    #[cfg(test)]
    Unknown,
}

impl Synchronous {
    /// The connection is at this level from now on, or the error says at which it is.
    pub(super) fn take(self, connection: &Connection) -> Result<(), StoreError> {
        let (value, wanted) = match self {
            Self::Full => ("FULL", "2"),
            Self::Normal => ("NORMAL", "1"),
            #[cfg(test)]
            Self::Unknown => ("NORMAL", "9"),
        };
        set(connection, "synchronous", value, wanted)
    }
}

/// At which level the connection is.
#[derive(Debug)]
pub(super) struct Pace {
    /// Where it shall be but for candidates.
    durable: Synchronous,
    /// It is not certain that it is there.
    eased: bool,
}

impl Pace {
    /// Of a connection that is at this level.
    pub(super) fn new(durable: Synchronous) -> Self {
        Self {
            durable,
            eased: false,
        }
    }
}

impl Store {
    /// One transaction: all of the work, or nothing of it; durable when this returns.
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Keys, &Limits) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.wait_again()?;
        self.transact(work)
    }

    /// The same, durable with the next one that is.
    pub(super) fn write_without_waiting<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Keys, &Limits) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !self.read_only {
            self.pace.eased = true;
            Synchronous::Normal.take(&self.connection)?;
        }
        let done = self.transact(work);
        if let Err(error) = self.wait_again() {
            tracing::error!(%error, "nothing is committed until commits wait for the disk again");
        }
        done
    }

    /// What comes next waits for the disk; as long as that cannot be had nothing durable is begun.
    pub(super) fn wait_again(&mut self) -> Result<(), StoreError> {
        if self.pace.eased {
            self.pace.durable.take(&self.connection)?;
            self.pace.eased = false;
        }
        Ok(())
    }

    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Keys, &Limits) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let transact = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction, &self.keys, &self.limits)?;
            transaction.commit()?;
            Ok(done)
        };
        transact().map_err(|error| self.explain(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::super::tests::{at, new_revision, place, recorded, start_recording, syncs_recorded};
    use super::super::{NewAuditEntry, SessionId};
    use super::*;

    fn save(store: &mut Store, content: &[u8]) {
        let session = SessionId::new("one").unwrap();
        store
            .save_candidate(&session, "ann", None, content, &[], &at(1))
            .unwrap();
    }

    #[test]
    fn only_what_is_durable_waits() {
        let place = place();
        let mut store = recorded(&place.path().join("mgmt"));
        let session = SessionId::new("one").unwrap();
        save(&mut store, b"first");
        start_recording();
        save(&mut store, b"second");
        store.touch_candidate(&session, &at(2)).unwrap();
        assert_eq!(syncs_recorded(), 0);
        let minute = Duration::from_mins(1);
        let held = store
            .lock_exclusively(&session, "ann", minute, &at(2))
            .unwrap();
        start_recording();
        store.prolong_exclusive_lock(held, minute, &at(50)).unwrap();
        assert_eq!(syncs_recorded(), 0);
        let held = store.exclusive_lock(&at(100)).unwrap().unwrap();
        assert_eq!(held.remaining(&at(100)), Duration::from_secs(10));
        start_recording();
        store
            .commit(new_revision(None, b"one"), None, &at(3))
            .unwrap();
        assert_eq!(syncs_recorded(), 1);
        start_recording();
        store.discard_candidate(&session).unwrap();
        assert_eq!(syncs_recorded(), 0);
    }

    #[test]
    fn nothing_durable_is_begun_unless_it_would_wait() {
        let place = place();
        let mut store = recorded(&place.path().join("mgmt"));
        let entry = NewAuditEntry {
            who: "ann".into(),
            origin: "console".into(),
            what: "commit".into(),
            result: "applied".into(),
        };
        let is_setting = |error: StoreError| {
            matches!(
                error,
                StoreError::Setting {
                    name: "synchronous",
                    ..
                }
            )
        };
        store.pace.durable = Synchronous::Unknown;
        save(&mut store, b"typed");
        let new = || new_revision(None, b"one");
        assert!(is_setting(store.commit(new(), None, &at(1)).unwrap_err()));
        assert!(is_setting(store.audit(&entry, &at(1)).unwrap_err()));
        assert!(is_setting(store.rotate_key().unwrap_err()));
        assert_eq!(store.newest().unwrap(), None);
        // What can be had again is taken.
        store.pace.durable = Synchronous::Full;
        start_recording();
        store.commit(new(), None, &at(1)).unwrap();
        assert_eq!(syncs_recorded(), 1);
    }
}
