//! The tables, and how an older database becomes one of today's.
//!
//! ```text
//! head            one row: what is newest, how much there is, the ends of both chains
//! revisions       what was committed; never changed                 number ── previous/chain ──> number + 1
//! revision_state  what may change of it: pinned, confirmed, secrets (re-sealed with a new key)
//! confirmation    at most one row: which revision waits until when, and what to return to
//! candidates      what sessions edit, sealed
//! exclusive       at most one row: who holds the configuration alone
//! audit           who did what; only ever added at the end, removed at the start
//! ```
//!
//! Every table is an integer-keyed tree without further indexes, so that `quick_check` walks all there is.

use rusqlite::{Connection, Transaction};

use super::error::StoreError;
use super::head::Head;

/// "CLVT": marks the file as a store of Culvert.
pub(super) const APPLICATION_ID: i32 = 0x434c_5654;

/// Each takes the schema from its index to the next version. Released ones never change.
const STEPS: &[&str] = &["
    CREATE TABLE head (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        schema INTEGER NOT NULL,
        newest INTEGER NOT NULL,
        chain BLOB NOT NULL,
        revisions INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        audit_newest INTEGER NOT NULL,
        audit_chain BLOB NOT NULL,
        audit_dropped INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE revisions (
        number INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        origin INTEGER NOT NULL,
        source TEXT NOT NULL,
        author TEXT NOT NULL,
        comment TEXT NOT NULL,
        time INTEGER NOT NULL,
        content_hash BLOB NOT NULL,
        secret_paths BLOB NOT NULL,
        previous BLOB NOT NULL,
        chain BLOB NOT NULL,
        content BLOB NOT NULL
    ) STRICT;
    CREATE TABLE revision_state (
        number INTEGER PRIMARY KEY REFERENCES revisions (number) ON DELETE CASCADE,
        pinned INTEGER NOT NULL,
        confirmed INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        secrets BLOB NOT NULL
    ) STRICT;
    CREATE TABLE confirmation (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL REFERENCES revisions (number),
        restore INTEGER NOT NULL REFERENCES revisions (number),
        wall INTEGER NOT NULL,
        boot BLOB NOT NULL,
        since_boot INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE candidates (
        id INTEGER PRIMARY KEY,
        session TEXT NOT NULL,
        principal TEXT NOT NULL,
        base INTEGER NOT NULL,
        created INTEGER NOT NULL,
        wall INTEGER NOT NULL,
        boot BLOB NOT NULL,
        since_boot INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        sealed BLOB NOT NULL
    ) STRICT;
    CREATE TABLE exclusive (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        session TEXT NOT NULL,
        principal TEXT NOT NULL,
        wall INTEGER NOT NULL,
        boot BLOB NOT NULL,
        since_boot INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        time INTEGER NOT NULL,
        who TEXT NOT NULL,
        origin TEXT NOT NULL,
        what TEXT NOT NULL,
        result TEXT NOT NULL,
        previous BLOB NOT NULL,
        chain BLOB NOT NULL
    ) STRICT;
"];

/// The version that this program writes.
pub(super) const NEWEST: u32 = STEPS.len() as u32;

/// Whether nothing was ever put into this database.
pub(super) fn is_empty(connection: &Connection) -> Result<bool, StoreError> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(version(connection)? == 0 && tables == 0)
}

/// The version that the database says it has.
pub(super) fn version(connection: &Connection) -> Result<u32, StoreError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Makes all tables in an empty database.
pub(super) fn create(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    upgrade(transaction, STEPS, 0)?;
    Head::first().insert(transaction)
}

/// Takes a sound database of an older version to today's, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found = version(connection)?;
    if found == NEWEST {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    upgrade(&transaction, STEPS, found)?;
    let mut head = Head::load(&transaction)?;
    head.schema = NEWEST;
    head.save(&transaction)?;
    transaction.commit()?;
    tracing::info!(from = found, to = NEWEST, "upgraded the store");
    Ok(())
}

fn upgrade(transaction: &Transaction<'_>, steps: &[&str], from: u32) -> Result<(), StoreError> {
    for step in steps.iter().skip(from as usize) {
        transaction.execute_batch(step)?;
    }
    Ok(transaction.pragma_update(None, "user_version", steps.len() as u32)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn steps_are_taken_from_where_a_database_stands_and_all_or_none() {
        let steps = [
            "CREATE TABLE one (a INTEGER) STRICT;",
            "ALTER TABLE one ADD COLUMN b INTEGER;",
            "CREATE TABLE three (c INTEGER) STRICT; INSERT INTO one VALUES (1, 2);",
        ];
        let mut connection = Connection::open_in_memory().unwrap();
        let to = |connection: &mut Connection, steps: &[&str]| {
            let from = version(connection).unwrap();
            let transaction = connection.transaction().unwrap();
            upgrade(&transaction, steps, from)?;
            transaction.commit().map_err(StoreError::from)
        };
        assert!(is_empty(&connection).unwrap());
        to(&mut connection, &steps[..1]).unwrap();
        assert_eq!(version(&connection).unwrap(), 1);
        assert!(!is_empty(&connection).unwrap());
        let broken = [steps[0], steps[1], "CREATE TABLE one (again INTEGER)"];
        assert!(to(&mut connection, &broken).is_err());
        assert_eq!(version(&connection).unwrap(), 1);
        to(&mut connection, &steps).unwrap();
        assert_eq!(version(&connection).unwrap(), 3);
        let sum: i64 = connection
            .query_row("SELECT a + b FROM one", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sum, 3);
    }
}
