//! Revisions: what they say, and how they lie in the database.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::RangeBounds;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Store;
use super::candidate::SessionId;
use super::checksum::{Fields, Sum, sha256};
use super::clock::WallTime;
use super::error::StoreError;
use super::key_file::Keys;
use super::seal::{Secret, paths};

/// A revision's number: 1 for the first, one more for each after it; given again only if the revision was lost with a
/// damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionNumber(NonZeroU64);

impl RevisionNumber {
    /// A number as people type it; 0 is none.
    pub fn new(number: u64) -> Option<Self> {
        // The column is signed.
        i64::try_from(number).ok()?;
        NonZeroU64::new(number).map(Self)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RevisionNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl ToSql for RevisionNumber {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.get() as i64))
    }
}

impl FromSql for RevisionNumber {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number)
            .ok()
            .and_then(Self::new)
            .ok_or(FromSqlError::OutOfRange(number))
    }
}

/// What a commit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The command line.
    Cli,
    /// A file at the first start.
    Import,
    /// An operator went back to an older revision.
    Rollback,
    /// The box went back by itself: not confirmed in time, or it could not be applied.
    Revert,
    /// A northbound service.
    Api,
    /// The fleet's controller.
    Controller,
}

impl Source {
    const ALL: [Self; 6] = [
        Self::Cli,
        Self::Import,
        Self::Rollback,
        Self::Revert,
        Self::Api,
        Self::Controller,
    ];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Import => "import",
            Self::Rollback => "rollback",
            Self::Revert => "revert",
            Self::Api => "api",
            Self::Controller => "controller",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

impl FromSql for Source {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_name(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

/// What is to be committed.
#[derive(Clone)]
pub struct NewRevision {
    /// The newest revision as the committer knows it; the commit is refused if there is a newer one.
    pub parent: Option<RevisionNumber>,
    /// The principal who commits.
    pub author: String,
    /// Where from.
    pub source: Source,
    /// The revision whose content this repeats: of a rollback or a revert.
    pub origin: Option<RevisionNumber>,
    /// What the author says of it, or the cause of a revert.
    pub comment: String,
    /// The configuration's canonical bytes, without secrets.
    pub content: Vec<u8>,
    /// The secrets, by path; no path twice.
    pub secrets: Vec<Secret>,
    /// The session whose candidate this is: in the same transaction the candidate begins anew with this revision.
    pub candidate: Option<SessionId>,
}

/// A committed revision, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number.
    pub number: RevisionNumber,
    /// The revision that was the newest before it.
    pub parent: Option<RevisionNumber>,
    /// The revision whose content it repeats.
    pub origin: Option<RevisionNumber>,
    /// Where it came from.
    pub source: Source,
    /// Who committed it.
    pub author: String,
    /// What was said of it.
    pub comment: String,
    /// When.
    pub time: WallTime,
    /// SHA-256 of its content.
    pub content_hash: Sum,
    /// Bytes of content and sealed secrets.
    pub bytes: u64,
    /// Kept whatever the history's bounds.
    pub pinned: bool,
    /// Whether it is one to start with.
    pub confirmed: bool,
}

/// A committed revision with its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Committed {
    /// All but the content.
    pub revision: Revision,
    /// The configuration's canonical bytes.
    pub content: Vec<u8>,
    /// The secrets, sorted by path.
    pub secrets: Vec<Secret>,
}

/// A configuration has thousands of lines, and none of them belongs into a log.
impl fmt::Debug for NewRevision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NewRevision")
            .field("parent", &self.parent)
            .field("author", &self.author)
            .field("source", &self.source)
            .field("origin", &self.origin)
            .field("comment", &self.comment)
            .field("bytes", &self.content.len())
            .field("secrets", &self.secrets.len())
            .field("candidate", &self.candidate)
            .finish()
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Committed")
            .field("revision", &self.revision)
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

/// A whole revision as it lies in the database and in exports: its secrets are sealed.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Stored {
    pub(super) revision: Revision,
    /// Over the secrets' paths: which secrets there are never changes, how they are sealed does.
    pub(super) secret_paths: Sum,
    pub(super) previous: Sum,
    pub(super) chain: Sum,
    /// Of the key that sealed the secrets.
    pub(super) generation: u32,
    pub(super) sealed: Vec<u8>,
    pub(super) content: Vec<u8>,
}

fn zero_if_none(number: Option<RevisionNumber>) -> u64 {
    number.map_or(0, RevisionNumber::get)
}

/// The sum over the paths of sealed secrets.
pub(super) fn sum_of_paths(sealed: &[u8]) -> Option<Sum> {
    let fields = paths(sealed)?
        .into_iter()
        .fold(Fields::of("secret paths"), Fields::text);
    Some(fields.sum())
}

impl Stored {
    /// The link of the chain that this revision makes.
    pub(super) fn link(&self) -> Sum {
        let Revision {
            number,
            parent,
            origin,
            source,
            author,
            comment,
            time,
            content_hash,
            ..
        } = &self.revision;
        Fields::of("revision")
            .bytes(&self.previous)
            .number(number.get())
            .number(zero_if_none(*parent))
            .number(zero_if_none(*origin))
            .text(source.name())
            .text(author)
            .text(comment)
            .number(time.0)
            .bytes(content_hash)
            .bytes(&self.secret_paths)
            .sum()
    }

    /// The sum over what may change.
    pub(super) fn state_sum(&self) -> Sum {
        Fields::of("revision state")
            .number(self.revision.number.get())
            .flag(self.revision.pinned)
            .flag(self.revision.confirmed)
            .number(self.revision.bytes)
            .number(u64::from(self.generation))
            .bytes(&self.sealed)
            .sum()
    }

    /// What is wrong with it, if anything.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if sha256(&self.content) != self.revision.content_hash {
            Some("its content is not what was committed")
        } else if sum_of_paths(&self.sealed) != Some(self.secret_paths) {
            Some("its secrets are not those that were committed")
        } else if self.link() != self.chain {
            Some("its link in the chain is wrong")
        } else if (self.content.len() + self.sealed.len()) as u64 != self.revision.bytes {
            Some("its size is wrong")
        } else {
            None
        }
    }

    pub(super) fn insert(&self, connection: &Connection) -> Result<(), StoreError> {
        let revision = &self.revision;
        connection
            .prepare_cached(
                "INSERT INTO revisions
                     (number, parent, origin, source, author, comment, time,
                      content_hash, secret_paths, previous, chain, content)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                revision.number,
                zero_if_none(revision.parent),
                zero_if_none(revision.origin),
                revision.source.name(),
                revision.author,
                revision.comment,
                revision.time.0,
                revision.content_hash,
                self.secret_paths,
                self.previous,
                self.chain,
                self.content,
            ])?;
        connection
            .prepare_cached(
                "INSERT INTO revision_state
                     (number, pinned, confirmed, bytes, generation, checksum, secrets)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                revision.number,
                revision.pinned,
                revision.confirmed,
                revision.bytes,
                self.generation,
                self.state_sum(),
                self.sealed,
            ])?;
        Ok(())
    }

    /// Writes what may change.
    pub(super) fn save_state(&self, connection: &Connection) -> Result<(), StoreError> {
        connection
            .prepare_cached(
                "UPDATE revision_state
                 SET pinned = ?2, confirmed = ?3, bytes = ?4, generation = ?5, checksum = ?6, secrets = ?7
                 WHERE number = ?1",
            )?
            .execute(params![
                self.revision.number,
                self.revision.pinned,
                self.revision.confirmed,
                self.revision.bytes,
                self.generation,
                self.state_sum(),
                self.sealed,
            ])?;
        Ok(())
    }

    /// Reads and checks one revision; `None` if there is no such.
    pub(super) fn load(
        connection: &Connection,
        number: RevisionNumber,
    ) -> Result<Option<Self>, StoreError> {
        let found = connection
            .prepare_cached(&format!(
                "SELECT {REVISION_COLUMNS}, secret_paths, previous, chain, generation, secrets, content, checksum
                 FROM revisions JOIN revision_state USING (number) WHERE number = ?1"
            ))?
            .query_row([number], |row| {
                let stored = Self {
                    revision: revision_of(row)?,
                    secret_paths: row.get(11)?,
                    previous: row.get(12)?,
                    chain: row.get(13)?,
                    generation: row.get(14)?,
                    sealed: row.get(15)?,
                    content: row.get(16)?,
                };
                let checksum: Sum = row.get(17)?;
                Ok((stored, checksum))
            })
            .optional()?;
        let Some((stored, checksum)) = found else {
            return Ok(None);
        };
        let fault = if stored.state_sum() == checksum {
            stored.fault()
        } else {
            Some("the check sum of its state is wrong")
        };
        match fault {
            None => Ok(Some(stored)),
            Some(fault) => Err(StoreError::damaged(format!("revision {number}: {fault}"))),
        }
    }

    /// With its secrets opened.
    pub(super) fn open(self, keys: &Keys) -> Result<Committed, StoreError> {
        let number = self.revision.number;
        let secrets = if self.sealed.is_empty() {
            Vec::new()
        } else {
            keys.of(self.generation)
                .ok_or_else(|| StoreError::SecretUnopened {
                    of: format!("revision {number}"),
                    path: "*".to_owned(),
                })?
                .open_all(number.get(), &self.sealed)?
        };
        Ok(Committed {
            revision: self.revision,
            content: self.content,
            secrets,
        })
    }
}

/// The columns that [`revision_of`] reads.
const REVISION_COLUMNS: &str = "number, parent, origin, source, author, comment, time, content_hash, \
     revision_state.bytes, pinned, confirmed";

fn revision_of(row: &Row<'_>) -> rusqlite::Result<Revision> {
    Ok(Revision {
        number: row.get(0)?,
        parent: RevisionNumber::new(row.get(1)?),
        origin: RevisionNumber::new(row.get(2)?),
        source: row.get(3)?,
        author: row.get(4)?,
        comment: row.get(5)?,
        time: WallTime(row.get(6)?),
        content_hash: row.get(7)?,
        bytes: row.get(8)?,
        pinned: row.get(9)?,
        confirmed: row.get(10)?,
    })
}

/// The numbers of all revisions, in order.
pub(super) fn numbers(connection: &Connection) -> Result<Vec<RevisionNumber>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT number FROM revisions ORDER BY number")?;
    let numbers = statement.query_map([], |row| row.get(0))?;
    Ok(numbers.collect::<Result<_, _>>()?)
}

/// The newest confirmed revision's number.
pub(super) fn newest_confirmed(
    connection: &Connection,
) -> Result<Option<RevisionNumber>, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT number FROM revision_state WHERE confirmed = 1 ORDER BY number DESC LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?)
}

impl Store {
    /// The newest revision, confirmed or not.
    pub fn newest(&self) -> Result<Option<Revision>, StoreError> {
        Ok(self
            .connection
            .prepare_cached(&format!(
                "SELECT {REVISION_COLUMNS} FROM revisions JOIN revision_state USING (number)
                 ORDER BY number DESC LIMIT 1"
            ))?
            .query_row([], revision_of)
            .optional()?)
    }

    /// A revision with its content and secrets, checked against its hash.
    pub fn revision(&self, number: RevisionNumber) -> Result<Committed, StoreError> {
        Stored::load(&self.connection, number)?
            .ok_or(StoreError::NoSuchRevision(number))?
            .open(&self.keys)
    }

    /// The revisions of a range of numbers, oldest first; pruned ones are missing.
    pub fn list(
        &self,
        range: impl RangeBounds<RevisionNumber>,
    ) -> Result<Vec<Revision>, StoreError> {
        use std::ops::Bound;
        let from = match range.start_bound() {
            Bound::Included(number) => number.get(),
            Bound::Excluded(number) => number.get().saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(number) => number.get(),
            Bound::Excluded(number) => number.get() - 1,
            Bound::Unbounded => i64::MAX as u64,
        };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {REVISION_COLUMNS} FROM revisions JOIN revision_state USING (number)
             WHERE number BETWEEN ?1 AND ?2 ORDER BY number"
        ))?;
        let revisions = statement.query_map([from, to], revision_of)?;
        Ok(revisions.collect::<Result<_, _>>()?)
    }

    /// What a start must load: the newest confirmed revision, which is the newest one unless that one waits for its
    /// confirmation.
    pub fn running(&self) -> Result<Option<Committed>, StoreError> {
        newest_confirmed(&self.connection)?
            .map(|number| self.revision(number))
            .transpose()
    }
}
