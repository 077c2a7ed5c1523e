//! What keeping a revision costs, beside a bare `SQLite` transaction of the same bytes on the same disk, in turns.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_mgmt::store::{
    Limits, Moment, NewAuditEntry, NewRevision, RevisionNumber, Secret, Source, Store, StoreError,
};
use culvert_model::plan::DigestKey;
use culvert_model::tree::Tree;
use rusqlite::Connection;

use super::{Figure, Table, Times};

/// Measures the store in a folder of its own below `folder`.
pub fn measure(
    tree: &Tree,
    rounds: u16,
    folder: &Path,
    table: &mut Table<'_>,
) -> anyhow::Result<()> {
    let place = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot use {}", folder.display()))?;
    let yardstick = bare(&place.path().join("bare.db"))?;
    let path = place.path().join("mgmt");
    let mut store = Store::open(&path)?.store;
    let now = Moment::now()?;
    let (bare_tree, secrets) = tree.take_secrets(&DigestKey::new(**store.digest_key()));
    let content = bare_tree.canonical_bytes().to_vec();
    let revision = |parent: Option<RevisionNumber>, round: u16, whole: bool| {
        // No two are the same: what is kept already would not be written.
        let mut content = content.clone();
        content.extend_from_slice(&round.to_be_bytes());
        let secrets = secrets.iter().take(if whole { usize::MAX } else { 0 });
        NewRevision {
            parent,
            author: "bench".to_owned(),
            source: Source::Api,
            origin: None,
            comment: String::new(),
            content,
            secrets: secrets
                .map(|(path, value)| Secret::new(path.clone(), value.to_vec()))
                .collect(),
            candidate: None,
        }
    };
    let entry = NewAuditEntry {
        who: "bench".to_owned(),
        origin: "console".to_owned(),
        what: "commit".to_owned(),
        result: "applied".to_owned(),
    };
    let mut times: [Times; 6] = Default::default();
    let [transaction, larger, commit, with_secrets, audit, maintain] = &mut times;
    let bare = |times: &mut Times, content: &[u8]| {
        let insert = "INSERT INTO revisions (content) VALUES (?1)";
        times.take(|| yardstick.execute(insert, [content]))?;
        yardstick.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    let mut parent = None;
    for round in 0..rounds {
        let new = revision(parent, 2 * round, false);
        bare(transaction, &new.content)?;
        parent = Some(commit.take(|| store.commit(new, None, &now))?.number);
        maintain.take(|| store.maintain())?;
        let new = revision(parent, 2 * round + 1, true);
        let mut bytes = new.content.clone();
        let kept = with_secrets.take(|| store.commit(new, Some(&entry), &now))?;
        parent = Some(kept.number);
        store.maintain()?;
        bytes.resize(usize::try_from(kept.bytes)?, 0);
        bare(larger, &bytes)?;
        audit.take(|| store.audit(&entry, &now))?;
        store.maintain()?;
    }
    let transaction = rows(times, table);
    full(
        &mut store,
        revision,
        [2 * rounds, rounds],
        transaction,
        table,
    )?;
    drop(store);
    let begin = Instant::now();
    drop(Store::open(&path)?);
    table.add(
        "open and verify a full history",
        Figure::Time(begin.elapsed()),
        None,
        "",
    );
    Ok(())
}

/// Adds them to the table, each beside the bare transaction of as many bytes; gives the smaller of these.
fn rows(times: [Times; 6], table: &mut Table<'_>) -> Duration {
    let [transaction, larger, commit, with_secrets, audit, maintain] = times;
    let (transaction, larger) = (transaction.median(), larger.median());
    let mut row = |name, times: Times, bare: Duration, goal| {
        let time = times.median();
        let ratio = time.as_secs_f64() / bare.as_secs_f64();
        table.add(name, Figure::Time(time), Some(ratio), goal);
    };
    let goal = "1.5 of bare";
    row("store, without its secrets", commit, transaction, goal);
    row(
        "store, with secrets sealed and audited",
        with_secrets,
        larger,
        goal,
    );
    row(
        "export and log, after the answer",
        maintain,
        transaction,
        "",
    );
    row("audit entry", audit, transaction, "");
    for (name, time) in [
        ("bare transaction", transaction),
        ("bare transaction, of as much as with secrets", larger),
    ] {
        let ratio = time.as_secs_f64() / transaction.as_secs_f64();
        table.add(name, Figure::Time(time), Some(ratio), "");
    }
    transaction
}

/// Fills the history as far as it goes, and measures what one more costs.
fn full(
    store: &mut Store,
    revision: impl Fn(Option<RevisionNumber>, u16, bool) -> NewRevision,
    [mut number, rounds]: [u16; 2],
    transaction: Duration,
    table: &mut Table<'_>,
) -> anyhow::Result<()> {
    let now = Moment::now()?;
    let limits = Limits::default();
    let newest = |store: &Store| Ok::<_, StoreError>(store.newest()?.map(|newest| newest.number));
    let mut parent = newest(store)?;
    let size = revision(parent, number, false).content.len();
    let most = (limits.bytes / size.max(1) as u64).min(limits.revisions) + 5;
    let mut times = Times::default();
    let mut next = |store: &mut Store, times: Option<&mut Times>| {
        number = number.wrapping_add(1);
        let new = revision(parent, number, false);
        let mut unkept = Times::default();
        let times = times.unwrap_or(&mut unkept);
        parent = Some(times.take(|| store.commit(new, None, &now))?.number);
        Ok::<_, StoreError>(())
    };
    while newest(store)?.is_none_or(|newest| newest.get() < most) {
        next(store, None)?;
    }
    for _ in 0..rounds {
        next(store, Some(&mut times))?;
        store.maintain()?;
    }
    let time = times.median();
    let ratio = time.as_secs_f64() / transaction.as_secs_f64();
    table.add(
        "store into a full history",
        Figure::Time(time),
        Some(ratio),
        "",
    );
    Ok(())
}

fn bare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection
        .execute_batch("CREATE TABLE revisions (number INTEGER PRIMARY KEY, content BLOB)")?;
    Ok(connection)
}
