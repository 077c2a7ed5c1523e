//! The audit trail: who did what, from where, with which result.
//!
//! ```text
//!  dropped ── ... ── n-1 ──chain──> n ──chain──> n+1 = head
//! ```
//!
//! Entries are only ever added; each carries the sum of the one before, so that one that was changed or taken out
//! shows. When there are too many the oldest go, and how many went is kept.

use rusqlite::{Connection, Transaction, params};

use super::Store;
use super::checksum::{Fields, Sum};
use super::clock::{Moment, WallTime};
use super::error::StoreError;
use super::head::Head;
use super::limits::Limits;

/// Longer texts are cut: an entry is never lost because someone typed much.
const LONGEST_TEXT: usize = 4096;

/// What is to be remembered. None of it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAuditEntry {
    /// The principal.
    pub who: String,
    /// The address or terminal.
    pub origin: String,
    /// The command or event.
    pub what: String,
    /// What came of it.
    pub result: String,
}

/// One entry of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number; without gaps.
    pub number: u64,
    /// When, by the wall clock.
    pub time: WallTime,
    /// What was remembered.
    pub entry: NewAuditEntry,
}

/// A stretch of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditTrail {
    /// How many entries were removed from the start of the whole trail.
    pub dropped: u64,
    /// The entries, oldest first.
    pub entries: Vec<AuditEntry>,
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST_TEXT))
        .unwrap_or(text)
}

fn link(previous: &Sum, number: u64, time: WallTime, entry: &NewAuditEntry) -> Sum {
    Fields::of("audit")
        .bytes(previous)
        .number(number)
        .number(time.0)
        .text(&entry.who)
        .text(&entry.origin)
        .text(&entry.what)
        .text(&entry.result)
        .sum()
}

/// Adds an entry and drops the oldest ones over the bound; the caller saves the head.
pub(super) fn append(
    transaction: &Transaction<'_>,
    head: &mut Head,
    entry: &NewAuditEntry,
    limits: &Limits,
    now: &Moment,
) -> Result<u64, StoreError> {
    let entry = NewAuditEntry {
        who: cut(&entry.who).to_owned(),
        origin: cut(&entry.origin).to_owned(),
        what: cut(&entry.what).to_owned(),
        result: cut(&entry.result).to_owned(),
    };
    let number = head.audit_newest + 1;
    let chain = link(&head.audit_chain, number, now.wall, &entry);
    transaction
        .prepare_cached(
            "INSERT INTO audit (number, time, who, origin, what, result, previous, chain)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            number,
            now.wall.0,
            entry.who,
            entry.origin,
            entry.what,
            entry.result,
            head.audit_chain,
            chain,
        ])?;
    head.audit_newest = number;
    head.audit_chain = chain;
    let over = number.saturating_sub(limits.audit);
    if over > head.audit_dropped {
        transaction
            .prepare_cached("DELETE FROM audit WHERE number <= ?1")?
            .execute([over])?;
        head.audit_dropped = over;
    }
    Ok(number)
}

/// Checks every entry against the chain and the head.
pub(super) fn verify(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    let mut statement = connection.prepare(
        "SELECT number, time, who, origin, what, result, previous, chain FROM audit ORDER BY number",
    )?;
    let mut rows = statement.query([])?;
    let mut expected = head.audit_dropped;
    let mut before: Option<Sum> = None;
    while let Some(row) = rows.next()? {
        let entry = entry_of(row)?;
        let (previous, chain): (Sum, Sum) = (row.get(6)?, row.get(7)?);
        expected += 1;
        let fits = entry.number == expected
            && before.is_none_or(|before| before == previous)
            && link(&previous, entry.number, entry.time, &entry.entry) == chain;
        if !fits {
            return Err(StoreError::damaged(format!(
                "audit entry {expected}: its link in the chain is wrong"
            )));
        }
        before = Some(chain);
    }
    let whole =
        expected == head.audit_newest && before.is_none_or(|before| before == head.audit_chain);
    if whole {
        Ok(())
    } else {
        Err(StoreError::damaged(
            "the audit trail does not end at its head",
        ))
    }
}

fn entry_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        number: row.get(0)?,
        time: WallTime(row.get(1)?),
        entry: NewAuditEntry {
            who: row.get(2)?,
            origin: row.get(3)?,
            what: row.get(4)?,
            result: row.get(5)?,
        },
    })
}

impl Store {
    /// Adds an entry to the trail; durable when this returns. What belongs to a commit goes with the commit.
    pub fn audit(&mut self, entry: &NewAuditEntry, now: &Moment) -> Result<u64, StoreError> {
        let number = self.write(|transaction, _, limits| {
            let mut head = Head::load(transaction)?;
            let number = append(transaction, &mut head, entry, limits, now)?;
            head.save(transaction)?;
            Ok(number)
        })?;
        self.bound_log();
        Ok(number)
    }

    /// The last `count` entries, oldest first.
    pub fn last_audit_entries(&self, count: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, time, who, origin, what, result FROM audit
             ORDER BY number DESC LIMIT ?1",
        )?;
        let entries = statement.query_map(params![count], entry_of)?;
        let mut entries: Vec<AuditEntry> = entries.collect::<Result<_, _>>()?;
        entries.reverse();
        Ok(entries)
    }

    /// At most `count` entries, from this number on.
    pub fn audit_trail(&self, from: u64, count: u32) -> Result<AuditTrail, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, time, who, origin, what, result FROM audit
             WHERE number >= ?1 ORDER BY number LIMIT ?2",
        )?;
        let from = from.min(i64::MAX as u64);
        let entries = statement.query_map(params![from, count], entry_of)?;
        Ok(AuditTrail {
            dropped: Head::load(&self.connection)?.audit_dropped,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}
