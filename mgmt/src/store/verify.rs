//! Whether a database is sound: the tree by `SQLite`'s `quick_check`, every value by our own sums and chains.

use rusqlite::Connection;

use super::audit;
use super::candidate;
use super::checksum::{NO_SUM, Sum};
use super::confirm;
use super::error::StoreError;
use super::exclusive;
use super::head::Head;
use super::revision::{RevisionNumber, Stored, numbers};
use super::schema;

/// Reads everything once; the error says what is wrong.
pub(super) fn verify(connection: &Connection) -> Result<(), StoreError> {
    let version = schema::version(connection)?;
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != schema::APPLICATION_ID {
        return Err(StoreError::damaged(
            "it is not marked as a store of Culvert",
        ));
    }
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(StoreError::Damaged(verdict));
    }
    let head = Head::load(connection).map_err(missing_is_damage)?;
    if head.schema != version {
        return Err(StoreError::damaged(format!(
            "it says schema {version} in one place and {} in another",
            head.schema
        )));
    }
    // Older ones are upgraded once they are known to be sound; a newer one is not ours to judge.
    if version > schema::NEWEST {
        return Err(StoreError::NewerSchema {
            found: version,
            known: schema::NEWEST,
        });
    }
    contents(connection, &head).map_err(missing_is_damage)
}

/// A header that names another format, a statement that the schema does not carry, a row that is not there: what
/// should be in the database is not.
pub(super) fn missing_is_damage(error: StoreError) -> StoreError {
    match error {
        StoreError::Database(
            error @ (rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error {
                    code: rusqlite::ErrorCode::Unknown,
                    ..
                },
                _,
            )
            | rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::QueryReturnedNoRows),
        ) => StoreError::Damaged(error.to_string()),
        other => other,
    }
}

fn contents(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    revisions(connection, head)?;
    if let Some(pending) = confirm::load(connection)? {
        let restore = Stored::load(connection, pending.restore)?;
        let whole = pending.revision.get() == head.newest
            && restore.is_some_and(|restore| restore.revision.confirmed);
        if !whole {
            return Err(StoreError::damaged(
                "the confirmation names the wrong revisions",
            ));
        }
    }
    candidate::load_all(connection)?;
    exclusive::load(connection)?;
    audit::verify(connection, head)
}

fn revisions(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    let mut before: Option<(RevisionNumber, Sum)> = None;
    let (mut count, mut bytes) = (0, 0);
    for number in numbers(connection)? {
        let stored = Stored::load(connection, number)?.ok_or_else(|| {
            StoreError::damaged(format!("revision {number}: a part of it is missing"))
        })?;
        let follows = before.is_none_or(|(earlier, chain)| {
            earlier.get() + 1 != number.get() || stored.previous == chain
        });
        if !follows {
            return Err(StoreError::damaged(format!(
                "revision {number}: it does not follow the one before"
            )));
        }
        count += 1;
        bytes += stored.revision.bytes;
        before = Some((number, stored.chain));
    }
    let (newest, chain) = before.map_or((0, NO_SUM), |(number, chain)| (number.get(), chain));
    let whole = newest == head.newest
        && chain == head.chain
        && count == head.revisions
        && bytes == head.bytes;
    let states: u64 =
        connection.query_row("SELECT count(*) FROM revision_state", [], |row| row.get(0))?;
    if whole && states == count {
        Ok(())
    } else {
        Err(StoreError::damaged(format!(
            "there are {count} revisions up to {newest}; there should be {} up to {}",
            head.revisions, head.newest
        )))
    }
}
