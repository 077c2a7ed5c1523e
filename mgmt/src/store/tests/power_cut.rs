//! The power goes at any moment; the next start finds what was promised.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::super::open::Durability;
use super::super::transaction::Synchronous;
use super::disk::Disk;
use super::disk_log::{self, Event};
use super::*;

/// What a start may find: the newest revision's number and that of the one to run, 0 if none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    newest: u64,
    running: u64,
}

/// A run of the store, written down.
struct Run {
    log: Vec<Event>,
    /// What each revision held.
    contents: BTreeMap<u64, Vec<u8>>,
    /// Marks count these: before the first step, and after each.
    states: Vec<Seen>,
    /// What the candidate held, one after the other; nothing: there was none.
    typed: Vec<Vec<u8>>,
    /// How many of these there were at each mark.
    typed_at: Vec<usize>,
}

fn limits() -> Limits {
    Limits {
        revisions: 6,
        exports: 3,
        audit: 4,
        ..Limits::default()
    }
}

fn entry() -> NewAuditEntry {
    NewAuditEntry {
        who: "ann".into(),
        origin: "console".into(),
        what: "commit".into(),
        result: "applied".into(),
    }
}

/// Does what a box does in its life, in small.
fn run(path: &Path, synchronous: Synchronous) -> Run {
    recording_vfs::register();
    let durability = Durability {
        synchronous,
        vfs: Some(recording_vfs::NAME),
    };
    let mut random = Random(3);
    let mut contents = BTreeMap::new();
    let mut states = vec![Seen {
        newest: 0,
        running: 0,
    }];
    disk_log::start();
    let mut store = Store::open_as(path, limits(), &durability).unwrap().store;
    let session = SessionId::new("one").unwrap();
    let mut typed = vec![Vec::new()];
    let mut typed_at = vec![1];
    for step in 1..=14 {
        let before = *states.last().unwrap();
        let parent = RevisionNumber::new(before.newest);
        // Some of a few bytes, some of several pages.
        let size = 1 << random.below(15);
        let content = random.bytes(size);
        contents.insert(before.newest + 1, content.clone());
        let mut after = Seen {
            newest: before.newest + 1,
            running: before.newest + 1,
        };
        let new = new_revision(parent, &content);
        match step {
            5 | 9 => {
                let window = Duration::from_mins(5);
                store
                    .commit_confirmed(new, window, None, &at(step))
                    .unwrap();
                after.running = before.running;
            }
            6 => {
                store
                    .confirm(number(before.newest), Some(&entry()), &at(step))
                    .unwrap();
                after.newest = before.newest;
                after.running = before.newest;
            }
            10 => {
                let old = contents[&before.running].clone();
                contents.insert(after.newest, old);
                store
                    .expire_confirmation("not confirmed", None, &at(step))
                    .unwrap();
            }
            4 | 8 | 11 => {
                let new = committed_by(&session, parent, &content);
                store.commit(new, Some(&entry()), &at(step)).unwrap();
                typed.push(content.clone());
            }
            _ => {
                store.commit(new, Some(&entry()), &at(step)).unwrap();
            }
        }
        states.push(after);
        typed_at.push(typed.len());
        disk_log::mark(step);
        match step {
            2 | 4 | 6 | 11 => store.maintain().unwrap(),
            3 | 7 | 10 => {
                // Just before the log is copied, too, and several times.
                for size in [20, 9000, 300] {
                    let content = random.bytes(size);
                    store
                        .save_candidate(&session, "ann", parent, &content, &[], &at(step))
                        .unwrap();
                    typed.push(content);
                }
            }
            8 => store.rotate_key().unwrap(),
            12 => {
                drop(store);
                store = Store::open_as(path, limits(), &durability).unwrap().store;
            }
            _ => {}
        }
    }
    drop(store);
    Run {
        log: disk_log::take(),
        contents,
        states,
        typed,
        typed_at,
    }
}

/// Opens what the power cut left; the error says what is wrong with it.
fn check(run: &Run, found: &Path, step: usize) -> Result<(), String> {
    let Opened { store, condition } =
        Store::open_with(found, limits()).map_err(|error| error.to_string())?;
    if let Condition::Replaced(replacement) | Condition::Completed(replacement) = condition {
        return Err(format!("damaged: {}", replacement.cause));
    }
    let list = store.list(..).map_err(|error| error.to_string())?;
    for revision in &list {
        let committed = store
            .revision(revision.number)
            .map_err(|error| error.to_string())?;
        if committed.content != run.contents[&revision.number.get()] {
            return Err(format!("revision {} holds something else", revision.number));
        }
        if committed.secrets != new_revision(None, b"").secrets {
            return Err(format!("revision {} has other secrets", revision.number));
        }
    }
    let running = store.running().map_err(|error| error.to_string())?;
    let seen = Seen {
        newest: list.last().map_or(0, |newest| newest.number.get()),
        running: running.map_or(0, |running| running.revision.number.get()),
    };
    // A commit makes durable what was typed before it.
    let least = run.typed_at[step] - 1;
    let most = run.typed_at.get(step + 1).unwrap_or(&run.typed.len()) - 1;
    let typed = match store.candidate(&SessionId::new("one").unwrap()) {
        Ok(candidate) => candidate.content,
        Err(StoreError::NoSuchCandidate(_)) => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    if !run.typed[least..=most].contains(&typed) {
        return Err(format!(
            "the candidate holds {} bytes of another time",
            typed.len()
        ));
    }
    let acknowledged = run.states[step];
    let begun = run.states.get(step + 1).copied().unwrap_or(acknowledged);
    if seen == acknowledged || seen == begun {
        Ok(())
    } else {
        Err(format!("{seen:?}, not {acknowledged:?} or {begun:?}"))
    }
}

/// Cuts the power after each event of the log, `samples` times differently, and lets the process die there once.
/// Gives what went wrong, and how many starts there were.
fn cut_everywhere(run: &Run, from: &Path, samples: usize) -> (Vec<String>, usize) {
    let (mut faults, mut starts) = (Vec::new(), 0);
    let mut disk = Disk::default();
    let mut step = 0;
    let mut random = Random(11);
    for (index, event) in run.log.iter().enumerate() {
        disk.apply(event);
        if let Event::Mark(value) = event {
            step = *value as usize;
        }
        for sample in 0..=samples {
            let place = place();
            let to = place.path().join("mgmt");
            match sample {
                0 => disk.after_a_crash(from, &to),
                _ => disk.after_a_power_cut(&mut random, from, &to),
            }
            starts += 1;
            if let Err(fault) = check(run, &to, step) {
                faults.push(format!(
                    "event {index} ({}), sample {sample}: {fault}",
                    kind(event)
                ));
            }
        }
    }
    (faults, starts)
}

fn kind(event: &Event) -> String {
    match event {
        Event::Write(path, offset, bytes) => {
            format!("write {} {offset}+{}", path.display(), bytes.len())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_acknowledged() {
    let place = place();
    let path = place.path().join("mgmt");
    let run = run(&path, Synchronous::Full);
    assert_eq!(run.states.len(), 15);
    let (faults, starts) = cut_everywhere(&run, &path, 4);
    assert!(
        faults.is_empty(),
        "{} of {starts}: {}",
        faults.len(),
        faults[..faults.len().min(5)].join("\n")
    );
    println!("{} events, {starts} starts", run.log.len());
    assert!(starts > 1000);
}

#[test]
fn the_same_finds_what_a_store_without_full_syncs_loses() {
    let place = place();
    let path = place.path().join("mgmt");
    let run = run(&path, Synchronous::Normal);
    let (faults, starts) = cut_everywhere(&run, &path, 1);
    println!("{} of {starts}", faults.len());
    assert!(
        faults.iter().any(|fault| fault.contains("Seen")),
        "none of {starts} starts had lost a revision"
    );
}

#[test]
fn a_power_cut_while_exports_take_the_place_of_a_database_loses_none_of_them() {
    recording_vfs::register();
    let durability = Durability {
        vfs: Some(recording_vfs::NAME),
        ..Durability::default()
    };
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = Store::open(&path).unwrap().store;
    for step in 0..7 {
        commit(&mut store, &Random(step).bytes(3000));
    }
    let new = new_revision(Some(number(7)), b"not confirmed");
    store
        .commit_confirmed(new, Duration::from_mins(5), None, &at(1))
        .unwrap();
    store.maintain().unwrap();
    let list = store.list(..).unwrap();
    let running = store.running().unwrap();
    // Something is in the log, too, which belongs to no other database.
    store.pin(number(2), true).unwrap();
    drop(store);
    let mut database = std::fs::read(path.join("store.db")).unwrap();
    database[5000..9000].fill(0xaa);
    std::fs::write(path.join("store.db"), database).unwrap();
    let mut disk = Disk::load(&path);
    disk_log::start();
    let opened = Store::open_as(&path, Limits::default(), &durability).unwrap();
    assert!(matches!(opened.condition, Condition::Replaced(_)));
    let log = disk_log::take();
    assert!(log.len() > 30);
    let mut random = Random(8);
    for (index, event) in log.iter().enumerate() {
        disk.apply(event);
        for sample in 0..6 {
            let place = super::place();
            let to = place.path().join("mgmt");
            match sample {
                0 => disk.after_a_crash(&path, &to),
                _ => disk.after_a_power_cut(&mut random, &path, &to),
            }
            let Opened { store, .. } = Store::open(&to).unwrap_or_else(|error| {
                panic!("event {index} ({}): {error}", kind(event));
            });
            assert_eq!(
                store.list(..).unwrap(),
                list,
                "event {index} ({})",
                kind(event)
            );
            assert_eq!(store.running().unwrap(), running);
            assert!(store.pending_confirmation(&at(1)).unwrap().is_some());
        }
    }
}

#[test]
fn a_commit_syncs_at_most_twice_and_a_later_one_once() {
    recording_vfs::register();
    let place = place();
    let durability = Durability {
        vfs: Some(recording_vfs::NAME),
        ..Durability::default()
    };
    let mut store = Store::open_as(&place.path().join("mgmt"), Limits::default(), &durability)
        .unwrap()
        .store;
    let syncs = |log: &[Event]| {
        log.iter()
            .filter(|event| matches!(event, Event::Sync(_) | Event::SyncDirectory(_)))
            .count()
    };
    let content = Random(1).bytes(100_000);
    let mut counts = Vec::new();
    for step in 0..6 {
        disk_log::start();
        let parent = store.newest().unwrap().map(|newest| newest.number);
        store
            .commit(new_revision(parent, &content), Some(&entry()), &at(step))
            .unwrap();
        counts.push(syncs(&disk_log::take()));
        store.maintain().unwrap();
    }
    assert!(counts[1..].iter().all(|&count| count <= 2), "{counts:?}");
    disk_log::start();
    store.audit(&entry(), &at(9)).unwrap();
    store.maintain().unwrap();
    disk_log::take();
    disk_log::start();
    store.audit(&entry(), &at(9)).unwrap();
    store.audit(&entry(), &at(9)).unwrap();
    let both = syncs(&disk_log::take());
    assert!(both <= 3, "{both}");
}
