//! What a commit costs, beside a bare `SQLite` transaction of the same bytes on the same disk.
//!
//! ```text
//! cargo bench -p culvert-mgmt --bench store [DIRECTORY]
//! ```
//!
//! Medians of 21, both taken in turn; only ratios mean something on another machine. The disk is that of DIRECTORY, or
//! of the build.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_mgmt::store::{
    Limits, Moment, NewAuditEntry, NewRevision, RevisionNumber, Secret, Source, Store,
};
use rusqlite::Connection;

const ROUNDS: usize = 21;
/// 10,000 routes of some 100 bytes.
const CONTENT: usize = 1_000_000;
const SECRETS: usize = 1000;

fn content(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..CONTENT)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        })
        .collect()
}

fn revision(parent: Option<RevisionNumber>, seed: u64, secrets: usize) -> NewRevision {
    NewRevision {
        parent,
        author: "bench".into(),
        source: Source::Api,
        origin: None,
        comment: String::new(),
        content: content(seed),
        secrets: (0..secrets)
            .map(|index| Secret::new(format!("credentials.keys[{index}].secret"), [7; 32]))
            .collect(),
    }
}

fn bare(path: &std::path::Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .unwrap();
    connection
        .pragma_update(None, "synchronous", "FULL")
        .unwrap();
    connection
        .pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
        .unwrap();
    connection
        .execute_batch("CREATE TABLE revisions (number INTEGER PRIMARY KEY, content BLOB)")
        .unwrap();
    connection
}

fn timed(times: &mut Vec<Duration>, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    times.push(start.elapsed());
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let directory = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let place = directory.join(format!("culvert-store-bench-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let now = Moment::now().unwrap();
    let yardstick = bare(&place.join("bare.db"));
    let mut store = Store::open(&place.join("mgmt")).unwrap().store;
    let entry = NewAuditEntry {
        who: "bench".into(),
        origin: "console".into(),
        what: "commit".into(),
        result: "applied".into(),
    };
    let mut times: [Vec<Duration>; 5] = Default::default();
    let [transaction, commit, with_secrets, audit, maintain] = &mut times;
    let mut parent = None;
    for round in 0..ROUNDS as u64 {
        let bytes = content(round);
        timed(transaction, || {
            yardstick
                .execute("INSERT INTO revisions (content) VALUES (?1)", [&bytes])
                .unwrap();
        });
        yardstick
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        let new = revision(parent, round, 0);
        timed(commit, || {
            parent = Some(store.commit(new, None, &now).unwrap().number);
        });
        timed(maintain, || store.maintain().unwrap());
        let new = revision(parent, round, SECRETS);
        timed(with_secrets, || {
            parent = Some(store.commit(new, Some(&entry), &now).unwrap().number);
        });
        store.maintain().unwrap();
        timed(audit, || {
            store.audit(&entry, &now).unwrap();
        });
        store.maintain().unwrap();
    }
    let [transaction, commit, with_secrets, audit, maintain] =
        times.each_mut().map(|times| median(times));
    let ratio = |time: Duration| time.as_secs_f64() / transaction.as_secs_f64();
    println!("bare transaction of {CONTENT} bytes     {transaction:>10.2?}");
    println!(
        "commit of the same                  {commit:>10.2?}  {:.2}",
        ratio(commit)
    );
    println!(
        "commit with {SECRETS} secrets, audited    {with_secrets:>10.2?}  {:.2}",
        ratio(with_secrets)
    );
    println!(
        "maintain after it                   {maintain:>10.2?}  {:.2}",
        ratio(maintain)
    );
    println!(
        "audit entry                         {audit:>10.2?}  {:.2}",
        ratio(audit)
    );

    // As full as it gets.
    let limits = Limits::default();
    while store.newest().unwrap().unwrap().number.get() < limits.bytes / CONTENT as u64 + 5 {
        let new = revision(parent, 1, 0);
        parent = Some(store.commit(new, None, &now).unwrap().number);
    }
    let mut full = Vec::new();
    for round in 0..ROUNDS as u64 {
        let new = revision(parent, round, 0);
        timed(&mut full, || {
            parent = Some(store.commit(new, None, &now).unwrap().number);
        });
        store.maintain().unwrap();
    }
    let full = median(&mut full);
    println!(
        "commit that prunes a full history   {full:>10.2?}  {:.2}",
        ratio(full)
    );
    drop(store);
    let start = Instant::now();
    let store = Store::open(&place.join("mgmt")).unwrap().store;
    println!(
        "open and verify {} revisions       {:>10.2?}",
        store.list(..).unwrap().len(),
        start.elapsed()
    );
    drop(store);
    std::fs::remove_dir_all(&place).unwrap();
}
