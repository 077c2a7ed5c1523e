//! A damaged file is found, or the damage changes nothing that anyone can read.

use std::fs;
use std::path::Path;

use super::*;

const PAGE: usize = 4096;

/// All that can be read from a store.
#[derive(Debug, PartialEq, Eq)]
struct Everything {
    revisions: Vec<Committed>,
    running: Option<Committed>,
    candidates: Vec<Candidate>,
    pending: Option<PendingConfirmation>,
    exclusive: Option<ExclusiveLock>,
    audit: AuditTrail,
}

fn everything(store: &Store) -> Result<Everything, StoreError> {
    Ok(Everything {
        revisions: store
            .list(..)?
            .iter()
            .map(|revision| store.revision(revision.number))
            .collect::<Result<_, _>>()?,
        running: store.running()?,
        candidates: store
            .candidates()?
            .iter()
            .map(|info| store.candidate(&info.session))
            .collect::<Result<_, _>>()?,
        pending: store.pending_confirmation(&at(20))?,
        exclusive: store.exclusive_lock(&at(20))?,
        audit: store.audit_trail(0, 1000)?,
    })
}

/// A store with some of everything.
fn furnish(path: &Path) -> Store {
    let mut store = Store::open(path).unwrap().store;
    let mut random = Random(5);
    let session = SessionId::new("one").unwrap();
    for step in 0..14 {
        let size = 1 << (5 + random.below(10));
        commit(&mut store, &random.bytes(size));
        let entry = NewAuditEntry {
            who: "ann".into(),
            origin: "console".into(),
            what: format!("commit {step}"),
            result: "applied".into(),
        };
        store.audit(&entry, &at(step)).unwrap();
    }
    store.pin(number(2), true).unwrap();
    let other = SessionId::new("two").unwrap();
    let base = Some(number(14));
    store
        .save_candidate(&other, "ann", base, b"typed", &[], &at(1))
        .unwrap();
    let new = committed_by(&other, base, &random.bytes(500));
    store.commit(new, None, &at(1)).unwrap();
    store
        .save_candidate(
            &session,
            "ann",
            Some(number(3)),
            &random.bytes(6000),
            &[],
            &at(1),
        )
        .unwrap();
    store
        .lock_exclusively(&session, "ann", Duration::from_mins(10), &at(1))
        .unwrap();
    let new = new_revision(Some(number(15)), &random.bytes(3000));
    store
        .commit_confirmed(new, Duration::from_mins(10), None, &at(2))
        .unwrap();
    store.maintain().unwrap();
    store
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap() {
        let path = found.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Changes some bytes within one page, as media and stray writes do.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) -> String {
    let pages = bytes.len() / PAGE;
    let page = random.below(pages);
    let start = page * PAGE;
    let inside = start + random.below(PAGE);
    let kind = random.below(7);
    match kind {
        0 => bytes[inside] ^= 1 << random.below(8),
        1 => {
            let end = (inside + 1 + random.below(64)).min(bytes.len());
            let noise = random.bytes(end - inside);
            bytes[inside..end].copy_from_slice(&noise);
        }
        2 => bytes[start..start + PAGE].fill(0),
        3 => {
            let noise = random.bytes(PAGE);
            bytes[start..start + PAGE].copy_from_slice(&noise);
        }
        4 => {
            let other = random.below(pages) * PAGE;
            bytes.copy_within(other..other + PAGE, start);
        }
        5 => {
            let sector = start + random.below(PAGE / 512) * 512;
            bytes[sector..sector + 512].fill(0xff);
        }
        _ => bytes.truncate(inside),
    }
    format!("kind {kind} in page {page} at {inside}")
}

#[test]
fn a_thousand_damaged_databases_are_found_out_or_harmless() {
    let place = place();
    let sound = place.path().join("sound");
    let store = furnish(&sound);
    let before = everything(&store).unwrap();
    assert_eq!(before.revisions.len(), 16);
    drop(store);
    assert_eq!(fs::metadata(sound.join("store.db-wal")).unwrap().len(), 0);
    let database = fs::read(sound.join("store.db")).unwrap();
    assert!(database.len() > 20 * PAGE);
    let mut random = Random(2);
    let (mut found_out, mut harmless) = (0, 0);
    for round in 0..1000 {
        let place = super::place();
        let path = place.path().join("mgmt");
        copy(&sound, &path);
        let mut bytes = database.clone();
        let what = damage(&mut random, &mut bytes);
        fs::write(path.join("store.db"), bytes).unwrap();
        let Opened { store, condition } =
            Store::open(&path).unwrap_or_else(|error| panic!("{round}: {what}: {error}"));
        let after = everything(&store).unwrap();
        match condition {
            Condition::Sound => {
                assert_eq!(after, before, "{round}: {what}");
                harmless += 1;
            }
            Condition::Replaced(replacement) => {
                assert_eq!(after.running, before.running, "{round}: {what}");
                assert_eq!(after.revisions, before.revisions[6..], "{round}: {what}");
                assert_eq!(replacement.bad_exports, 0);
                assert_eq!(after.pending.unwrap().remaining, Duration::ZERO);
                found_out += 1;
            }
            other => panic!("{round}: {what}: {other:?}"),
        }
    }
    println!("{found_out} found out, {harmless} harmless");
    assert!(found_out > 500 && harmless > 0);
}

#[test]
fn a_log_that_lost_its_end_is_completed_from_the_exports() {
    let place = place();
    let path = place.path().join("sound");
    let mut store = furnish(&path);
    let mut random = Random(6);
    for _ in 0..4 {
        let parent = store.newest().unwrap().map(|newest| newest.number);
        let new = new_revision(parent, &random.bytes(5000));
        store.commit(new, None, &at(3)).unwrap();
    }
    // All but copying the log into the database.
    store.write_exports().unwrap();
    let before = everything(&store).unwrap();
    // As a crash leaves it.
    let crashed = place.path().join("crashed");
    copy(&path, &crashed);
    drop(store);
    let log = fs::read(crashed.join("store.db-wal")).unwrap();
    let (mut completed, mut harmless) = (0, 0);
    for round in 0..100 {
        let place = super::place();
        let path = place.path().join("mgmt");
        copy(&crashed, &path);
        let mut bytes = log.clone();
        let what = damage(&mut random, &mut bytes);
        fs::write(path.join("store.db-wal"), bytes).unwrap();
        let Opened { store, condition } =
            Store::open(&path).unwrap_or_else(|error| panic!("{round}: {what}: {error}"));
        let after = everything(&store).unwrap();
        assert_eq!(after.running, before.running, "{round}: {what}");
        match condition {
            Condition::Sound => harmless += 1,
            Condition::Completed(_) => completed += 1,
            other => panic!("{round}: {what}: {other:?}"),
        }
        assert_eq!(after.revisions, before.revisions, "{round}: {what}");
        drop(store);
        assert_eq!(Store::open(&path).unwrap().condition, Condition::Sound);
    }
    println!("{completed} completed, {harmless} harmless");
    assert!(completed > 20);
}
