//! `commit confirmed`: a revision that a start does not load until someone said that it is good.
//!
//! ```text
//!             commit_confirmed(N min)
//!  confirmed ────────────────────────> waiting ── confirm ──────────────> confirmed
//!      ^                                 │ │ └─── commit (built on it) ──> confirmed
//!      └── new revision, old content ────┘ └── rollback ──> left behind, unconfirmed
//!          (window over, or a start after a crash or power cut)
//! ```
//!
//! A revert of a failed commit to what waited before it confirms nothing: its revision waits for what is left.
//!
//! The one outcome of a crash: as long as the row is there, [`Store::running`] is the last confirmed revision, so
//! every start loads that one. [`Store::pending_confirmation`] then tells what is left of the window by the clock that
//! nobody can set, and nothing in any other boot than the one in which it was opened; a wall clock that is set back
//! prolongs nothing. A service that starts with something left may go on waiting; with nothing left it calls
//! [`Store::expire_confirmation`], which makes running and newest equal again.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use super::audit::{self, NewAuditEntry};
use super::checksum::{Fields, Sum};
use super::clock::{BootId, Moment, WallTime, as_millis};
use super::error::StoreError;
use super::head::Head;
use super::revision::{Revision, RevisionNumber, Source, Stored};

/// Whom a revert names as its author.
pub const REVERTED_BY: &str = "culvert";

/// A revision that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingConfirmation {
    /// The revision, always the newest one.
    pub revision: RevisionNumber,
    /// The confirmed revision whose content comes back if nobody confirms.
    pub restore: RevisionNumber,
    /// When the window ends, by the wall clock of when it was opened.
    pub deadline: WallTime,
    /// How much of it is left; nothing in another boot.
    pub remaining: Duration,
}

/// The only row of `confirmation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) revision: RevisionNumber,
    pub(super) restore: RevisionNumber,
    pub(super) deadline: Moment,
}

impl Pending {
    fn checksum(&self) -> Sum {
        Fields::of("confirmation")
            .number(self.revision.get())
            .number(self.restore.get())
            .number(self.deadline.wall.0)
            .bytes(self.deadline.boot.bytes())
            .number(as_millis(self.deadline.since_boot))
            .sum()
    }

    pub(super) fn save(&self, connection: &Connection) -> Result<(), StoreError> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO confirmation
                     (id, revision, restore, wall, boot, since_boot, checksum)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                self.revision,
                self.restore,
                self.deadline.wall.0,
                self.deadline.boot.bytes(),
                as_millis(self.deadline.since_boot),
                self.checksum(),
            ])?;
        Ok(())
    }
}

/// Reads and checks the row.
pub(super) fn load(connection: &Connection) -> Result<Option<Pending>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT revision, restore, wall, boot, since_boot, checksum FROM confirmation",
        )?
        .query_row([], |row| {
            let pending = Pending {
                revision: row.get(0)?,
                restore: row.get(1)?,
                deadline: Moment {
                    wall: WallTime(row.get(2)?),
                    boot: BootId::new(row.get(3)?),
                    since_boot: Duration::from_millis(row.get(4)?),
                },
            };
            let checksum: Sum = row.get(5)?;
            Ok((pending, checksum))
        })
        .optional()?;
    match found {
        Some((pending, checksum)) if pending.checksum() != checksum => Err(StoreError::damaged(
            "the check sum of the confirmation is wrong",
        )),
        found => Ok(found.map(|(pending, _)| pending)),
    }
}

/// Confirms the revision that waits, if there is one.
pub(super) fn settle(connection: &Connection) -> Result<Option<RevisionNumber>, StoreError> {
    let Some(pending) = load(connection)? else {
        return Ok(None);
    };
    let mut stored = Stored::load(connection, pending.revision)?
        .ok_or_else(|| StoreError::damaged("the revision that waits is missing"))?;
    stored.revision.confirmed = true;
    stored.save_state(connection)?;
    forget(connection)?;
    Ok(Some(pending.revision))
}

/// Nothing waits any longer.
pub(super) fn forget(connection: &Connection) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM confirmation")?
        .execute([])?;
    Ok(())
}

impl Store {
    /// The revision that waits for its confirmation.
    pub fn pending_confirmation(
        &self,
        now: &Moment,
    ) -> Result<Option<PendingConfirmation>, StoreError> {
        Ok(load(&self.connection)?.map(|pending| PendingConfirmation {
            revision: pending.revision,
            restore: pending.restore,
            deadline: pending.deadline.wall,
            remaining: pending.deadline.remaining(now),
        }))
    }

    /// Says that the revision which waits is good.
    pub fn confirm(
        &mut self,
        number: RevisionNumber,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<(), StoreError> {
        self.write(|transaction, _, limits| {
            let pending = load(transaction)?.ok_or(StoreError::NothingPending)?;
            if pending.revision != number {
                return Err(StoreError::NotPending(number));
            }
            if pending.deadline.remaining(now).is_zero() {
                return Err(StoreError::TooLate(number));
            }
            settle(transaction)?;
            if let Some(entry) = audit {
                let mut head = Head::load(transaction)?;
                audit::append(transaction, &mut head, entry, limits, now)?;
                head.save(transaction)?;
            }
            Ok(())
        })?;
        self.exports_due.insert(number);
        Ok(())
    }

    /// Goes back: a new revision with the content of the last confirmed one and the cause as its comment. Whether the
    /// window is over is the caller's to know: he may have other reasons.
    pub fn expire_confirmation(
        &mut self,
        cause: &str,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<Revision, StoreError> {
        let pending = load(&self.connection)?.ok_or(StoreError::NothingPending)?;
        self.commit_again(
            pending.restore,
            Source::Revert,
            REVERTED_BY,
            cause,
            audit,
            now,
        )
    }
}
