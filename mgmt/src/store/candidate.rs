//! Candidates: what each session edits, apart from all others, until it commits or goes away.
//!
//! They outlive a dropped connection and a restart, and are sealed as a whole: what someone typed but did not commit
//! is nobody else's to read. A candidate keeps its base revision in the history, as a commit merges against it.
//!
//! ```text
//!   saved:      base 7, sealed "what was typed on it"
//!   committed:  base 8, sealed ""                       as revision 8 is
//! ```
//!
//! A commit says in its own transaction that its candidate begins anew with what was committed. It does not write that
//! down a second time: nothing, sealed, stands for the base revision, and nobody without the key can make it stand there.

use std::fmt;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use zeroize::{Zeroize, Zeroizing};

use super::Store;
use super::checksum::{Fields, Sum};
use super::clock::{BootId, Moment, WallTime, as_millis};
use super::error::StoreError;
use super::key_file::Keys;
use super::limits::{Limits, check_text};
use super::revision::{Committed, RevisionNumber};
use super::seal::{Place, Secret};
use super::wire::{Reader, put_bytes};

/// What a candidate's sealed bytes are bound to beside its session.
const SEALED_AS: &str = "candidate";
/// What is sealed of a candidate that is as its base is; of any other at least a length is.
const AS_ITS_BASE: &[u8] = &[];

/// A session's name, drawn by the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// A session's name of at most 256 bytes.
    pub fn new(name: impl Into<String>) -> Result<Self, StoreError> {
        let name = name.into();
        check_text("session", &name, Limits::NAME)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Whose candidate, and how old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateInfo {
    /// The session that edits it.
    pub session: SessionId,
    /// Whose session that is.
    pub principal: String,
    /// The revision that it started from; none in an empty store.
    pub base: Option<RevisionNumber>,
    /// When it was made.
    pub created: WallTime,
    /// When it was last saved or touched.
    pub last_used: Moment,
}

/// A candidate with what is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Candidate {
    /// All but the content.
    pub info: CandidateInfo,
    /// Bytes that mean something to the service.
    pub content: Vec<u8>,
    /// The secrets in it.
    pub secrets: Vec<Secret>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Candidate")
            .field("info", &self.info)
            .field("bytes", &self.content.len())
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

/// A row of `candidates`.
pub(super) struct Row {
    id: i64,
    info: CandidateInfo,
    generation: u32,
    sealed: Vec<u8>,
}

impl Row {
    fn checksum(&self) -> Sum {
        Fields::of("candidate")
            .text(self.info.session.as_str())
            .text(&self.info.principal)
            .number(self.info.base.map_or(0, RevisionNumber::get))
            .number(self.info.created.0)
            .number(self.info.last_used.wall.0)
            .bytes(self.info.last_used.boot.bytes())
            .number(as_millis(self.info.last_used.since_boot))
            .number(u64::from(self.generation))
            .bytes(&self.sealed)
            .sum()
    }

    fn save(&self, connection: &Connection) -> Result<(), StoreError> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO candidates
                     (id, session, principal, base, created, wall, boot, since_boot, generation, checksum, sealed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                self.id,
                self.info.session.as_str(),
                self.info.principal,
                self.info.base.map_or(0, RevisionNumber::get),
                self.info.created.0,
                self.info.last_used.wall.0,
                self.info.last_used.boot.bytes(),
                as_millis(self.info.last_used.since_boot),
                self.generation,
                self.checksum(),
                self.sealed,
            ])?;
        Ok(())
    }

    /// Seals it again with the newest key.
    pub(super) fn reseal(&mut self, keys: &Keys) -> Result<(), StoreError> {
        let mut clear = self.unseal(keys)?;
        self.sealed.clear();
        let key = keys.sealing();
        let place = Place::Candidate(self.info.session.as_str());
        key.seal(place, SEALED_AS, &clear, &mut self.sealed)?;
        clear.zeroize();
        self.generation = key.generation();
        Ok(())
    }

    fn unseal(&self, keys: &Keys) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let place = Place::Candidate(self.info.session.as_str());
        keys.of(self.generation)
            .ok_or_else(|| StoreError::SecretUnopened {
                of: place.to_string(),
                path: SEALED_AS.to_owned(),
            })?
            .open(place, SEALED_AS, &self.sealed)
    }
}

fn parse(clear: &[u8]) -> Option<(Vec<u8>, Vec<Secret>)> {
    let mut reader = Reader::new(clear);
    let content = reader.bytes()?.to_vec();
    let mut secrets = Vec::new();
    while !reader.is_empty() {
        let path = reader.text()?;
        secrets.push(Secret::new(path, reader.bytes()?));
    }
    Some((content, secrets))
}

/// Content and secrets in one run of bytes; made at its full size at once, so that nothing is left in a buffer that
/// was too small.
fn clear_bytes(
    content: &[u8],
    secrets: &[Secret],
    limit: u64,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let of_secrets: usize = secrets
        .iter()
        .map(|secret| 8 + secret.path.len() + secret.value.len())
        .sum();
    let length = 4 + content.len() + of_secrets;
    let bytes = length as u64;
    if bytes > limit {
        return Err(StoreError::TooLarge { bytes, limit });
    }
    let mut clear = Zeroizing::new(Vec::with_capacity(length));
    put_bytes(&mut clear, content);
    for secret in secrets {
        put_bytes(&mut clear, secret.path.as_bytes());
        put_bytes(&mut clear, &secret.value);
    }
    Ok(clear)
}

const COLUMNS: &str =
    "id, session, principal, base, created, wall, boot, since_boot, generation, sealed, checksum";

fn info_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<CandidateInfo> {
    Ok(CandidateInfo {
        session: SessionId(row.get(1)?),
        principal: row.get(2)?,
        base: RevisionNumber::new(row.get(3)?),
        created: WallTime(row.get(4)?),
        last_used: Moment {
            wall: WallTime(row.get(5)?),
            boot: BootId::new(row.get(6)?),
            since_boot: Duration::from_millis(row.get(7)?),
        },
    })
}

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, Sum)> {
    let found = Row {
        id: row.get(0)?,
        info: info_of(row)?,
        generation: row.get(8)?,
        sealed: row.get(9)?,
    };
    Ok((found, row.get(10)?))
}

fn checked((row, checksum): (Row, Sum)) -> Result<Row, StoreError> {
    if row.checksum() == checksum {
        Ok(row)
    } else {
        Err(StoreError::damaged(format!(
            "the check sum of candidate {} is wrong",
            row.id
        )))
    }
}

/// Reads and checks all candidates.
pub(super) fn load_all(connection: &Connection) -> Result<Vec<Row>, StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM candidates ORDER BY id"))?;
    let rows = statement.query_map([], row_of)?;
    rows.map(|row| checked(row?)).collect()
}

/// All candidates without what is in them, unchecked.
fn infos(connection: &Connection) -> Result<Vec<CandidateInfo>, StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM candidates ORDER BY id"))?;
    let infos = statement.query_map([], info_of)?;
    Ok(infos.collect::<Result<_, _>>()?)
}

fn load(connection: &Connection, session: &SessionId) -> Result<Option<Row>, StoreError> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM candidates WHERE session = ?1"
        ))?
        .query_row([session.as_str()], row_of)
        .optional()?
        .map(checked)
        .transpose()
}

/// A session's candidate, if it has one still, is as this revision is.
pub(super) fn begin_anew(
    connection: &Connection,
    session: &SessionId,
    base: RevisionNumber,
    keys: &Keys,
    now: &Moment,
) -> Result<(), StoreError> {
    let Some(mut row) = load(connection, session)? else {
        return Ok(());
    };
    let key = keys.sealing();
    row.info.base = Some(base);
    row.info.last_used = *now;
    row.generation = key.generation();
    row.sealed.clear();
    let place = Place::Candidate(session.as_str());
    key.seal(place, SEALED_AS, AS_ITS_BASE, &mut row.sealed)?;
    row.save(connection)
}

/// The revisions that candidates are based on.
pub(super) fn bases(connection: &Connection) -> Result<Vec<u64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT base FROM candidates")?;
    let bases = statement.query_map([], |row| row.get(0))?;
    Ok(bases.collect::<Result<_, _>>()?)
}

/// Seals every candidate that an older key sealed again.
pub(super) fn reseal_all(connection: &Connection, keys: &Keys) -> Result<(), StoreError> {
    for mut row in load_all(connection)? {
        if row.generation != keys.sealing().generation() {
            row.reseal(keys)?;
            row.save(connection)?;
        }
    }
    Ok(())
}

impl Store {
    /// Makes or replaces a session's candidate.
    pub fn save_candidate(
        &mut self,
        session: &SessionId,
        principal: &str,
        base: Option<RevisionNumber>,
        content: &[u8],
        secrets: &[Secret],
        now: &Moment,
    ) -> Result<(), StoreError> {
        check_text("principal", principal, Limits::NAME)?;
        let clear = clear_bytes(content, secrets, self.limits.content)?;
        self.write_without_waiting(|transaction, keys, limits| {
            let (count, next): (u64, i64) = transaction
                .prepare_cached("SELECT count(*), coalesce(max(id), 0) + 1 FROM candidates")?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let before = load(transaction, session)?;
            if before.is_none() && count >= limits.candidates {
                return Err(StoreError::TooManyCandidates(count));
            }
            let others: u64 = transaction
                .prepare_cached(
                    "SELECT coalesce(sum(length(sealed)), 0) FROM candidates WHERE session <> ?1",
                )?
                .query_row([session.as_str()], |row| row.get(0))?;
            let bytes = others + clear.len() as u64;
            if bytes > limits.candidate_bytes {
                let limit = limits.candidate_bytes;
                return Err(StoreError::TooLarge { bytes, limit });
            }
            if let Some(base) = base {
                let there: bool = transaction
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM revisions WHERE number = ?1)")?
                    .query_row([base], |row| row.get(0))?;
                if !there {
                    return Err(StoreError::NoSuchRevision(base));
                }
            }
            let key = keys.sealing();
            let mut sealed = Vec::new();
            let place = Place::Candidate(session.as_str());
            key.seal(place, SEALED_AS, &clear, &mut sealed)?;
            Row {
                id: before.as_ref().map_or(next, |before| before.id),
                info: CandidateInfo {
                    session: session.clone(),
                    principal: principal.to_owned(),
                    base,
                    created: before.map_or(now.wall, |before| before.info.created),
                    last_used: *now,
                },
                generation: key.generation(),
                sealed,
            }
            .save(transaction)
        })?;
        self.bound_log();
        Ok(())
    }

    /// A session's candidate.
    pub fn candidate(&self, session: &SessionId) -> Result<Candidate, StoreError> {
        let row = load(&self.connection, session)?
            .ok_or_else(|| StoreError::NoSuchCandidate(session.clone()))?;
        let clear = row.unseal(&self.keys)?;
        let (content, secrets) = if clear.as_slice() == AS_ITS_BASE {
            let base = row
                .info
                .base
                .ok_or_else(|| StoreError::damaged("a candidate is as no revision is"))?;
            let Committed {
                content, secrets, ..
            } = self.revision(base)?;
            (content, secrets)
        } else {
            parse(&clear).ok_or_else(|| StoreError::damaged("a candidate cannot be taken apart"))?
        };
        Ok(Candidate {
            info: row.info,
            content,
            secrets,
        })
    }

    /// All candidates, without what is in them.
    pub fn candidates(&self) -> Result<Vec<CandidateInfo>, StoreError> {
        Ok(load_all(&self.connection)?
            .into_iter()
            .map(|row| row.info)
            .collect())
    }

    /// Says that a session is still there.
    pub fn touch_candidate(&mut self, session: &SessionId, now: &Moment) -> Result<(), StoreError> {
        self.write_without_waiting(|transaction, _, _| {
            let mut row = load(transaction, session)?
                .ok_or_else(|| StoreError::NoSuchCandidate(session.clone()))?;
            row.info.last_used = *now;
            row.save(transaction)
        })
    }

    /// Removes a session's candidate if it has one.
    pub fn discard_candidate(&mut self, session: &SessionId) -> Result<(), StoreError> {
        self.write_without_waiting(|transaction, _, _| {
            transaction
                .prepare_cached("DELETE FROM candidates WHERE session = ?1")?
                .execute([session.as_str()])?;
            Ok(())
        })
    }

    /// Removes the candidates that nobody used for so long, and says whose they were.
    pub fn expire_candidates(
        &mut self,
        idle: Duration,
        now: &Moment,
    ) -> Result<Vec<CandidateInfo>, StoreError> {
        let old = |info: &CandidateInfo| now.since(&info.last_used) >= idle;
        // Most times there is nothing to do; then nothing is written, and no candidate read as a whole.
        if !infos(&self.connection)?.iter().any(old) {
            return Ok(Vec::new());
        }
        self.write_without_waiting(|transaction, _, _| {
            let mut removed = Vec::new();
            for row in load_all(transaction)? {
                if old(&row.info) {
                    transaction.execute("DELETE FROM candidates WHERE id = ?1", [row.id])?;
                    removed.push(row.info);
                }
            }
            Ok(removed)
        })
    }
}

/// Makes the check sum fit what somebody wrote.
#[cfg(test)]
pub(super) fn sum_again(connection: &Connection, session: &SessionId) {
    let sql = format!("SELECT {COLUMNS} FROM candidates WHERE session = ?1");
    let found = connection.query_row(&sql, [session.as_str()], row_of);
    if let Ok((row, _)) = found {
        let _ = row.save(connection);
    }
}
