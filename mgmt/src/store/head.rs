//! The head: one row with the ends of both chains and how much there is.
//!
//! A row that vanished from the middle leaves the chains whole to left and right of it, as pruning does; the counts
//! here tell the two apart.

use rusqlite::{Connection, params};

use super::checksum::{Fields, NO_SUM, Sum};
use super::error::StoreError;
use super::schema;

/// The only row of `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The schema's version, as in `user_version`, but under the check sum.
    pub(super) schema: u32,
    /// The newest revision's number, 0 if none.
    pub(super) newest: u64,
    /// Its link in the chain.
    pub(super) chain: Sum,
    /// How many revisions there are.
    pub(super) revisions: u64,
    /// How many bytes of content and sealed secrets they have.
    pub(super) bytes: u64,
    /// The newest audit entry's number, 0 if none.
    pub(super) audit_newest: u64,
    /// Its link in the chain.
    pub(super) audit_chain: Sum,
    /// How many audit entries were removed from the start, which is also the number of the last of them.
    pub(super) audit_dropped: u64,
}

impl Head {
    /// Of a store with nothing in it.
    pub(super) fn first() -> Self {
        Self {
            schema: schema::NEWEST,
            newest: 0,
            chain: NO_SUM,
            revisions: 0,
            bytes: 0,
            audit_newest: 0,
            audit_chain: NO_SUM,
            audit_dropped: 0,
        }
    }

    fn checksum(&self) -> Sum {
        Fields::of("head")
            .number(u64::from(self.schema))
            .number(self.newest)
            .bytes(&self.chain)
            .number(self.revisions)
            .number(self.bytes)
            .number(self.audit_newest)
            .bytes(&self.audit_chain)
            .number(self.audit_dropped)
            .sum()
    }

    pub(super) fn load(connection: &Connection) -> Result<Self, StoreError> {
        let mut statement = connection.prepare_cached(
            "SELECT schema, newest, chain, revisions, bytes, audit_newest, audit_chain, audit_dropped, checksum
             FROM head WHERE id = 1",
        )?;
        let (head, checksum): (Self, Sum) = statement
            .query_row([], |row| {
                let head = Self {
                    schema: row.get(0)?,
                    newest: row.get(1)?,
                    chain: row.get(2)?,
                    revisions: row.get(3)?,
                    bytes: row.get(4)?,
                    audit_newest: row.get(5)?,
                    audit_chain: row.get(6)?,
                    audit_dropped: row.get(7)?,
                };
                Ok((head, row.get(8)?))
            })
            .map_err(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => StoreError::damaged("the head is missing"),
                other => other.into(),
            })?;
        if head.checksum() != checksum {
            return Err(StoreError::damaged("the head's check sum is wrong"));
        }
        Ok(head)
    }

    pub(super) fn insert(&self, connection: &Connection) -> Result<(), StoreError> {
        connection.execute(
            "INSERT INTO head VALUES (1, 0, 0, x'', 0, 0, 0, x'', 0, x'')",
            [],
        )?;
        self.save(connection)
    }

    pub(super) fn save(&self, connection: &Connection) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached(
            "UPDATE head SET schema = ?1, newest = ?2, chain = ?3, revisions = ?4, bytes = ?5,
                 audit_newest = ?6, audit_chain = ?7, audit_dropped = ?8, checksum = ?9
             WHERE id = 1",
        )?;
        let changed = statement.execute(params![
            self.schema,
            self.newest,
            self.chain,
            self.revisions,
            self.bytes,
            self.audit_newest,
            self.audit_chain,
            self.audit_dropped,
            self.checksum(),
        ])?;
        if changed == 1 {
            Ok(())
        } else {
            Err(StoreError::damaged("the head is missing"))
        }
    }
}
