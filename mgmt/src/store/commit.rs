//! Committing, and keeping the history within its bounds.
//!
//! ```text
//! BEGIN ── seal the secrets ── revision ── confirmation ── candidate ── prune ── audit entry ── head ── COMMIT (one fsync)
//! ```
//!
//! All of it is one transaction: it is there as a whole once the commit returns, or not at all.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::{Transaction, params};

use super::Store;
use super::audit::{self, NewAuditEntry};
use super::candidate;
use super::checksum::{Sum, sha256};
use super::clock::Moment;
use super::confirm::{self, Pending};
use super::error::StoreError;
use super::head::Head;
use super::key_file::Keys;
use super::limits::{Limits, check_text};
use super::revision::{
    NewRevision, Revision, RevisionNumber, Source, Stored, newest_confirmed, sum_of_paths,
};

/// What a commit means for a revision that waits for its confirmation.
#[derive(Clone, Copy)]
enum Settles {
    /// It is confirmed: the new one was built on it.
    Confirming,
    /// It is left behind unconfirmed.
    Leaving,
    /// What this one had came back: where that was not confirmed either, the new one waits in its place.
    Returning(RevisionNumber),
    /// The new one takes its place and waits.
    Within(Duration),
}

impl Store {
    /// Stores a revision that is good to start with; durable when this returns. A revision that waits for its
    /// confirmation is confirmed by it, as its content is what the new one was built on.
    pub fn commit(
        &mut self,
        new: NewRevision,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<Revision, StoreError> {
        self.commit_as(new, Settles::Confirming, audit, now)
    }

    /// Stores a revision that must be confirmed within the window; until then a start loads the last confirmed one. If
    /// another one waits already, the window starts again and the place to return to stays.
    pub fn commit_confirmed(
        &mut self,
        new: NewRevision,
        window: Duration,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<Revision, StoreError> {
        self.commit_as(new, Settles::Within(window), audit, now)
    }

    /// Commits the content and secrets of an older revision again: a rollback, or a revert with its cause as comment. A
    /// revision that waits for its confirmation waits no longer, and is not confirmed. But nobody confirmed anything by
    /// a revert: if it goes back only to what came after the place to return to, the new revision waits for what is left
    /// of the window.
    pub fn commit_again(
        &mut self,
        origin: RevisionNumber,
        source: Source,
        author: &str,
        comment: &str,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<Revision, StoreError> {
        let old = self.revision(origin)?;
        let new = NewRevision {
            parent: self.newest()?.map(|newest| newest.number),
            author: author.to_owned(),
            source,
            origin: Some(origin),
            comment: comment.to_owned(),
            content: old.content,
            secrets: old.secrets,
            candidate: None,
        };
        let settles = match source {
            Source::Revert => Settles::Returning(origin),
            _ => Settles::Leaving,
        };
        self.commit_as(new, settles, audit, now)
    }

    /// Keeps a revision whatever the history's bounds, or lets it go again.
    pub fn pin(&mut self, number: RevisionNumber, pinned: bool) -> Result<(), StoreError> {
        self.write(|transaction, _, limits| {
            let mut stored =
                Stored::load(transaction, number)?.ok_or(StoreError::NoSuchRevision(number))?;
            if stored.revision.pinned == pinned {
                return Ok(());
            }
            if pinned {
                let (count, bytes): (u64, u64) = transaction.query_row(
                    "SELECT count(*), coalesce(sum(bytes), 0) FROM revision_state WHERE pinned = 1",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?;
                if count >= limits.pinned || bytes + stored.revision.bytes > limits.bytes / 2 {
                    return Err(StoreError::TooManyPinned { count, bytes });
                }
            }
            stored.revision.pinned = pinned;
            stored.save_state(transaction)
        })?;
        self.exports_due.insert(number);
        Ok(())
    }

    fn commit_as(
        &mut self,
        mut new: NewRevision,
        settles: Settles,
        audit: Option<&NewAuditEntry>,
        now: &Moment,
    ) -> Result<Revision, StoreError> {
        check_text("author", &new.author, Limits::NAME)?;
        check_text("comment", &new.comment, Limits::COMMENT)?;
        // One that was not written in its turn: a store must not run ahead of what it falls back on.
        self.keep_up();
        let content_hash = sha256(&new.content);
        let session = new.candidate.take();
        let (revision, confirmed) = self.write(|transaction, keys, limits| {
            let mut head = Head::load(transaction)?;
            let expected = new.parent;
            let newest = RevisionNumber::new(head.newest);
            if expected != newest {
                return Err(StoreError::Moved { expected, newest });
            }
            // Where to return to, and when.
            let waits = match settles {
                Settles::Confirming | Settles::Leaving => None,
                Settles::Returning(origin) => {
                    let pending = confirm::load(transaction)?;
                    pending
                        .filter(|pending| pending.restore < origin)
                        .map(|pending| (pending.restore, pending.deadline))
                }
                Settles::Within(window) => {
                    let restore = newest_confirmed(transaction)?;
                    let restore = restore.ok_or(StoreError::NothingToReturnTo)?;
                    Some((restore, now.after(window)))
                }
            };
            let stored = next(&head, new, waits.is_none(), content_hash, keys, limits, now)?;
            stored.insert(transaction)?;
            head.newest = stored.revision.number.get();
            head.chain = stored.chain;
            head.revisions += 1;
            head.bytes += stored.revision.bytes;
            let confirmed = match (settles, waits) {
                (Settles::Confirming, _) => confirm::settle(transaction)?,
                (_, Some((restore, deadline))) => {
                    let pending = Pending {
                        revision: stored.revision.number,
                        restore,
                        deadline,
                    };
                    pending.save(transaction)?;
                    None
                }
                (_, None) => {
                    confirm::forget(transaction)?;
                    None
                }
            };
            // Before the history is shortened: what it began with until now need not stay for its sake.
            if let Some(session) = &session {
                candidate::begin_anew(transaction, session, stored.revision.number, keys, now)?;
            }
            prune(transaction, &mut head, stored.revision.parent, limits)?;
            if let Some(entry) = audit {
                audit::append(transaction, &mut head, entry, limits, now)?;
            }
            head.save(transaction)?;
            Ok((stored.revision, confirmed))
        })?;
        self.exports_due.insert(revision.number);
        self.exports_due.extend(confirmed);
        self.bound_log();
        Ok(revision)
    }
}

/// The revision that comes after the head.
fn next(
    head: &Head,
    new: NewRevision,
    confirmed: bool,
    content_hash: Sum,
    keys: &Keys,
    limits: &Limits,
    now: &Moment,
) -> Result<Stored, StoreError> {
    let number = head
        .newest
        .checked_add(1)
        .and_then(RevisionNumber::new)
        .ok_or_else(|| StoreError::damaged("there are no revision numbers left"))?;
    let secrets: usize = new
        .secrets
        .iter()
        .map(|secret| secret.path.len() + secret.value.len())
        .sum();
    let bytes = (new.content.len() + secrets) as u64;
    if bytes > limits.content {
        return Err(StoreError::TooLarge {
            bytes,
            limit: limits.content,
        });
    }
    let key = keys.sealing();
    let sealed = key.seal_all(number.get(), &new.secrets)?;
    let mut stored = Stored {
        revision: Revision {
            number,
            parent: new.parent,
            origin: new.origin,
            source: new.source,
            author: new.author,
            comment: new.comment,
            time: now.wall,
            content_hash,
            bytes: (new.content.len() + sealed.len()) as u64,
            pinned: false,
            confirmed,
        },
        secret_paths: sum_of_paths(&sealed)
            .ok_or_else(|| StoreError::damaged("sealed secrets cannot be taken apart"))?,
        previous: head.chain,
        chain: head.chain,
        generation: key.generation(),
        sealed,
        content: new.content,
    };
    stored.chain = stored.link();
    Ok(stored)
}

/// Removes the oldest revisions until the history is within its bounds. What stays: pinned ones, the newest and
/// what it was built on, which comes back if it fails; the last confirmed one, the one that waits and the one to return
/// to; and those that candidates are based on.
fn prune(
    transaction: &Transaction<'_>,
    head: &mut Head,
    parent: Option<RevisionNumber>,
    limits: &Limits,
) -> Result<(), StoreError> {
    if head.revisions <= limits.revisions && head.bytes <= limits.bytes {
        return Ok(());
    }
    let mut kept = BTreeSet::from([head.newest]);
    kept.extend(parent.map(RevisionNumber::get));
    kept.extend(newest_confirmed(transaction)?.map(RevisionNumber::get));
    if let Some(pending) = confirm::load(transaction)? {
        kept.extend([pending.revision.get(), pending.restore.get()]);
    }
    kept.extend(candidate::bases(transaction)?);
    let mut removed = Vec::new();
    {
        let mut statement = transaction.prepare_cached(
            "SELECT number, bytes FROM revision_state WHERE pinned = 0 ORDER BY number",
        )?;
        let mut rows = statement.query([])?;
        while head.revisions > limits.revisions || head.bytes > limits.bytes {
            let Some(row) = rows.next()? else { break };
            let (number, bytes): (u64, u64) = (row.get(0)?, row.get(1)?);
            if !kept.contains(&number) {
                head.revisions = head.revisions.saturating_sub(1);
                head.bytes = head.bytes.saturating_sub(bytes);
                removed.push(number);
            }
        }
    }
    // The state goes with it (ON DELETE CASCADE).
    let mut statement = transaction.prepare_cached("DELETE FROM revisions WHERE number = ?1")?;
    for number in removed {
        statement.execute(params![number])?;
    }
    Ok(())
}
