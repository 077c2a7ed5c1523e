//! Getting back what a database lost, from the exports beside it.
//!
//! ```text
//!  damaged:         store.db ──> store.db.damaged      exports ──> all of a new store.db
//!  end of log gone: store.db up to 40                  exports ──> 41, 42 at its end
//! ```
//!
//! Both can be begun again after a crash: what takes the place of the old is one transaction.

use std::time::Duration;

use rusqlite::Connection;

use super::clock::{BootId, Moment};
use super::confirm::{self, Pending};
use super::directory::Directory;
use super::error::StoreError;
use super::export;
use super::head::Head;
use super::limits::Limits;
use super::open::{DATABASE, LOG};
use super::revision::{RevisionNumber, Stored, newest_confirmed};

const DAMAGED: &str = "store.db.damaged";
const DAMAGED_LOG: &str = "store.db.damaged-wal";

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

/// Takes a damaged database out of the way. The database goes first: a log without one is never taken for part of
/// another, but a database without its log could pass for an older, sound one.
pub(super) fn put_aside(directory: &Directory) -> Result<(), StoreError> {
    directory.remove(DAMAGED_LOG)?;
    directory.rename(DATABASE, DAMAGED)?;
    directory.sync()?;
    if directory.length(LOG)?.is_some() {
        directory.rename(LOG, DAMAGED_LOG)?;
    }
    directory.sync()
}

/// Puts back what the exports know and the database lost: revisions, and that one was confirmed. A log whose end is
/// damaged reads like one that ends earlier; but an export is written only after what it says is durable, so it is
/// never ahead by itself.
pub(super) fn complete(
    connection: &mut Connection,
    exports: &Directory,
    limits: &Limits,
) -> Result<Option<Replacement>, StoreError> {
    let head = Head::load(connection)?;
    let found = export::read_all(exports, limits)?;
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
pub(super) fn restore(
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
