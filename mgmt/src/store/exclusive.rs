//! `configure exclusive`: one session keeps all others from committing, until it lets go or its time is over.
//!
//! The store only remembers who holds it; the service asks before it takes a commit.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::candidate::SessionId;
use super::checksum::{Fields, Sum};
use super::clock::{BootId, Moment, WallTime, as_millis};
use super::error::StoreError;
use super::limits::{Limits, check_text};

/// Who holds the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExclusiveLock {
    /// In which session.
    pub session: SessionId,
    /// Who.
    pub principal: String,
    /// Until when; it does not outlive the boot.
    pub until: Moment,
}

impl ExclusiveLock {
    /// How long it lasts yet.
    pub fn remaining(&self, now: &Moment) -> Duration {
        self.until.remaining(now)
    }

    fn save(&self, connection: &Connection) -> Result<(), StoreError> {
        connection.execute(
            "INSERT OR REPLACE INTO exclusive
                 (id, session, principal, wall, boot, since_boot, checksum)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                self.session.as_str(),
                self.principal,
                self.until.wall.0,
                self.until.boot.bytes(),
                as_millis(self.until.since_boot),
                self.checksum(),
            ],
        )?;
        Ok(())
    }

    fn checksum(&self) -> Sum {
        Fields::of("exclusive")
            .text(self.session.as_str())
            .text(&self.principal)
            .number(self.until.wall.0)
            .bytes(self.until.boot.bytes())
            .number(as_millis(self.until.since_boot))
            .sum()
    }
}

/// Reads and checks the row, whether its time is over or not.
pub(super) fn load(connection: &Connection) -> Result<Option<ExclusiveLock>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT session, principal, wall, boot, since_boot, checksum FROM exclusive",
        )?
        .query_row([], |row| {
            let session: String = row.get(0)?;
            let checksum: Sum = row.get(5)?;
            Ok((
                session,
                row.get(1)?,
                Moment {
                    wall: WallTime(row.get(2)?),
                    boot: BootId::new(row.get(3)?),
                    since_boot: Duration::from_millis(row.get(4)?),
                },
                checksum,
            ))
        })
        .optional()?;
    let Some((session, principal, until, checksum)) = found else {
        return Ok(None);
    };
    let lock = ExclusiveLock {
        session: SessionId::new(session)?,
        principal,
        until,
    };
    if lock.checksum() == checksum {
        Ok(Some(lock))
    } else {
        Err(StoreError::damaged(
            "the check sum of the exclusive lock is wrong",
        ))
    }
}

impl Store {
    /// Who holds the configuration exclusively now.
    pub fn exclusive_lock(&self, now: &Moment) -> Result<Option<ExclusiveLock>, StoreError> {
        Ok(load(&self.connection)?.filter(|lock| !lock.until.remaining(now).is_zero()))
    }

    /// Takes the configuration for a session, or prolongs what it has; refused while another session holds it.
    pub fn lock_exclusively(
        &mut self,
        session: &SessionId,
        principal: &str,
        window: Duration,
        now: &Moment,
    ) -> Result<ExclusiveLock, StoreError> {
        check_text("principal", principal, Limits::NAME)?;
        if let Some(held) = self.exclusive_lock(now)?
            && held.session != *session
        {
            return Err(StoreError::HeldExclusively {
                principal: held.principal,
                session: held.session,
            });
        }
        let lock = ExclusiveLock {
            session: session.clone(),
            principal: principal.to_owned(),
            until: now.after(window),
        };
        self.write(|transaction, _, _| lock.save(transaction))?;
        Ok(lock)
    }

    /// Who held the configuration last, also if their time is over.
    pub fn last_exclusive_lock(&self) -> Result<Option<ExclusiveLock>, StoreError> {
        load(&self.connection)
    }

    /// Prolongs what a session has, without waiting for the disk: no hold outlives a power cut.
    pub fn prolong_exclusive_lock(
        &mut self,
        lock: ExclusiveLock,
        window: Duration,
        now: &Moment,
    ) -> Result<(), StoreError> {
        let lock = ExclusiveLock {
            until: now.after(window),
            ..lock
        };
        self.write_without_waiting(|transaction, _, _| lock.save(transaction))
    }

    /// Lets go, if this session holds it.
    pub fn unlock(&mut self, session: &SessionId) -> Result<(), StoreError> {
        self.write(|transaction, _, _| {
            transaction.execute(
                "DELETE FROM exclusive WHERE session = ?1",
                [session.as_str()],
            )?;
            Ok(())
        })
    }
}
