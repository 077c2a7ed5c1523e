//! What the store does as a whole, on real files.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::super::*;
use super::{at, commit, new_revision, number, place};

fn open(place: &TempDir) -> Opened {
    Store::open(&place.path().join("mgmt")).unwrap()
}

fn entry(what: &str) -> NewAuditEntry {
    NewAuditEntry {
        who: "ann".into(),
        origin: "192.0.2.9".into(),
        what: what.into(),
        result: "done".into(),
    }
}

#[test]
fn what_was_committed_is_there_after_it_was_opened_again() {
    let place = place();
    let Opened {
        mut store,
        condition,
    } = open(&place);
    assert_eq!(condition, Condition::New);
    assert_eq!(store.running().unwrap(), None);
    assert_eq!(store.newest().unwrap(), None);
    let first = commit(&mut store, b"one");
    let second = store
        .commit(
            new_revision(Some(first.number), b"two"),
            Some(&entry("commit")),
            &at(2),
        )
        .unwrap();
    assert_eq!((first.number.get(), second.number.get()), (1, 2));
    assert_eq!(second.parent, Some(first.number));
    store.maintain().unwrap();
    drop(store);

    let Opened { store, condition } = open(&place);
    assert_eq!(condition, Condition::Sound);
    assert_eq!(store.list(..).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(
        store.list(number(2)..).unwrap(),
        std::slice::from_ref(&second)
    );
    assert_eq!(store.list(..number(2)).unwrap(), [first]);
    let running = store.running().unwrap().unwrap();
    assert_eq!(running.revision, second);
    assert_eq!(running.content, b"two");
    assert_eq!(running.secrets, new_revision(None, b"").secrets);
    let trail = store.audit_trail(0, 10).unwrap();
    assert_eq!(trail.dropped, 0);
    assert_eq!(trail.entries.len(), 1);
    assert_eq!(trail.entries[0].entry, entry("commit"));
}

#[test]
fn a_commit_on_an_older_revision_is_refused() {
    let place = place();
    let mut store = open(&place).store;
    commit(&mut store, b"one");
    let refused = store.commit(new_revision(None, b"two"), None, &at(1));
    assert!(matches!(
        refused,
        Err(StoreError::Moved { expected: None, newest: Some(newest) }) if newest.get() == 1
    ));
    assert_eq!(store.list(..).unwrap().len(), 1);
}

#[test]
fn an_unconfirmed_revision_is_never_started_with() {
    let place = place();
    let mut store = open(&place).store;
    let window = Duration::from_mins(10);
    let none = store.commit_confirmed(new_revision(None, b"x"), window, None, &at(0));
    assert!(matches!(none, Err(StoreError::NothingToReturnTo)));
    let good = commit(&mut store, b"good").number;
    let risky = store
        .commit_confirmed(new_revision(Some(good), b"risky"), window, None, &at(100))
        .unwrap();
    assert!(!risky.confirmed);
    store.maintain().unwrap();
    drop(store);

    let mut store = open(&place).store;
    assert_eq!(store.newest().unwrap().unwrap(), risky);
    assert_eq!(store.running().unwrap().unwrap().content, b"good");
    let pending = |now: &Moment, store: &Store| store.pending_confirmation(now).unwrap().unwrap();
    assert_eq!(pending(&at(400), &store).remaining, Duration::from_mins(5));
    assert_eq!(pending(&at(400), &store).restore, good);
    let a_day_back = Moment {
        wall: WallTime(at(400).wall.0 - 86_400_000),
        ..at(400)
    };
    assert_eq!(
        pending(&a_day_back, &store).remaining,
        Duration::from_mins(5)
    );
    let other_boot = Moment {
        boot: BootId::new([2; 16]),
        ..at(101)
    };
    assert_eq!(pending(&other_boot, &store).remaining, Duration::ZERO);
    assert!(matches!(
        store.confirm(risky.number, None, &other_boot),
        Err(StoreError::TooLate(_))
    ));
    assert!(matches!(
        store.confirm(good, None, &at(101)),
        Err(StoreError::NotPending(_))
    ));
    let back = store
        .expire_confirmation("not confirmed within 10 minutes", None, &other_boot)
        .unwrap();
    assert_eq!((back.number.get(), back.origin), (3, Some(good)));
    assert_eq!(
        (back.source, back.author.as_str()),
        (Source::Revert, confirm::REVERTED_BY)
    );
    assert_eq!(back.comment, "not confirmed within 10 minutes");
    assert!(!store.revision(risky.number).unwrap().revision.confirmed);
    let running = store.running().unwrap().unwrap();
    assert_eq!(
        (running.content.as_slice(), &running.revision),
        (&b"good"[..], &back)
    );
    assert_eq!(running.secrets, new_revision(None, b"").secrets);
    assert_eq!(store.pending_confirmation(&other_boot).unwrap(), None);
    assert!(matches!(
        store.expire_confirmation("again", None, &at(1)),
        Err(StoreError::NothingPending)
    ));
}

#[test]
fn a_confirmation_or_a_commit_on_top_makes_it_good() {
    let place = place();
    let mut store = open(&place).store;
    let window = Duration::from_mins(1);
    let one = commit(&mut store, b"one").number;
    let two = store
        .commit_confirmed(new_revision(Some(one), b"two"), window, None, &at(0))
        .unwrap()
        .number;
    store
        .confirm(two, Some(&entry("confirm")), &at(59))
        .unwrap();
    assert_eq!(store.running().unwrap().unwrap().content, b"two");
    let three = store
        .commit_confirmed(new_revision(Some(two), b"three"), window, None, &at(60))
        .unwrap()
        .number;
    let four = store
        .commit_confirmed(new_revision(Some(three), b"four"), window, None, &at(100))
        .unwrap()
        .number;
    let pending = store.pending_confirmation(&at(110)).unwrap().unwrap();
    assert_eq!((pending.revision, pending.restore), (four, two));
    assert_eq!(pending.remaining, Duration::from_secs(50));
    let five = store
        .commit(new_revision(Some(four), b"five"), None, &at(120))
        .unwrap();
    assert_eq!(store.pending_confirmation(&at(121)).unwrap(), None);
    assert_eq!(store.running().unwrap().unwrap().revision, five);
    let confirmed: Vec<bool> = store
        .list(..)
        .unwrap()
        .iter()
        .map(|one| one.confirmed)
        .collect();
    assert_eq!(confirmed, [true, true, false, true, true]);
}

#[test]
fn a_revert_confirms_nothing_and_a_rollback_ends_the_window() {
    let place = place();
    let mut store = open(&place).store;
    let window = Duration::from_mins(1);
    let good = commit(&mut store, b"good").number;
    let risk = |store: &mut Store, below: RevisionNumber, content: &[u8], now: u64| {
        let new = new_revision(Some(below), content);
        let stored = store.commit_confirmed(new, window, None, &at(now));
        stored.unwrap().number
    };
    let risky = risk(&mut store, good, b"risky", 0);
    let failing = risk(&mut store, risky, b"failing", 10);
    let revert = |store: &mut Store, origin| {
        let source = Source::Revert;
        store.commit_again(origin, source, confirm::REVERTED_BY, "", None, &at(20))
    };
    let back = revert(&mut store, risky).unwrap();
    assert!(!back.confirmed && failing < back.number);
    let pending = store.pending_confirmation(&at(30)).unwrap().unwrap();
    assert_eq!((pending.revision, pending.restore), (back.number, good));
    assert_eq!(pending.remaining, Duration::from_secs(40));
    store.maintain().unwrap();
    drop(store);

    // A start is on what was confirmed, and the one that came back may be.
    let Opened {
        mut store,
        condition,
    } = open(&place);
    assert_eq!(condition, Condition::Sound);
    assert_eq!(store.running().unwrap().unwrap().content, b"good");
    let failing = risk(&mut store, back.number, b"failing", 30);
    let back = revert(&mut store, risky).unwrap().number;
    assert!(failing < back);
    store.confirm(back, None, &at(40)).unwrap();
    assert_eq!(store.running().unwrap().unwrap().content, b"risky");

    // Back to what was confirmed: nothing waits any more; nor does it after a rollback by somebody.
    let failing = risk(&mut store, back, b"failing", 50);
    assert!(revert(&mut store, back).unwrap().confirmed && back < failing);
    assert_eq!(store.pending_confirmation(&at(50)).unwrap(), None);
    let newest = store.newest().unwrap().unwrap().number;
    let risky = risk(&mut store, newest, b"risky too", 60);
    risk(&mut store, risky, b"riskier", 60);
    let rollback = store
        .commit_again(risky, Source::Rollback, "ann", "", None, &at(61))
        .unwrap();
    assert!(rollback.confirmed);
    assert_eq!(store.pending_confirmation(&at(61)).unwrap(), None);
}

#[test]
fn the_history_is_bounded_and_keeps_what_it_must() {
    let place = place();
    let limits = Limits {
        revisions: 8,
        bytes: 4000,
        pinned: 2,
        ..Limits::default()
    };
    let mut store = Store::open_with(&place.path().join("mgmt"), limits)
        .unwrap()
        .store;
    let session = SessionId::new("s1").unwrap();
    for _ in 0..3 {
        commit(&mut store, b"early");
    }
    store.pin(number(1), true).unwrap();
    store
        .save_candidate(&session, "ann", Some(number(3)), b"", &[], &at(1))
        .unwrap();
    for step in 0..20_u8 {
        commit(&mut store, &[step; 10]);
    }
    let left = |store: &Store| -> Vec<u64> {
        store
            .list(..)
            .unwrap()
            .iter()
            .map(|one| one.number.get())
            .collect()
    };
    assert_eq!(left(&store), [1, 3, 18, 19, 20, 21, 22, 23]);
    assert!(matches!(
        store.revision(number(17)),
        Err(StoreError::NoSuchRevision(_))
    ));
    store.discard_candidate(&session).unwrap();
    let risky = store
        .commit_confirmed(
            new_revision(Some(number(23)), &[9; 2000]),
            Duration::from_mins(1),
            None,
            &at(5),
        )
        .unwrap()
        .number;
    let again = store
        .commit_confirmed(
            new_revision(Some(risky), &[9; 3900]),
            Duration::from_mins(1),
            None,
            &at(5),
        )
        .unwrap()
        .number;
    // The pinned one, the confirmed one, the newest and what it was built on, although they are too much.
    assert_eq!(left(&store), [1, 23, risky.get(), again.get()]);
    store.pin(again, true).unwrap_err();
    store.pin(number(23), true).unwrap();
    assert!(matches!(
        store.pin(again, true),
        Err(StoreError::TooManyPinned { count: 2, .. })
    ));
    store.maintain().unwrap();
    drop(store);
    assert_eq!(open(&place).condition, Condition::Sound);
}

#[test]
fn candidates_outlive_a_restart_and_not_an_idle_hour() {
    let place = place();
    let limits = Limits {
        candidates: 2,
        candidate_bytes: 1000,
        ..Limits::default()
    };
    let path = place.path().join("mgmt");
    let mut store = Store::open_with(&path, limits.clone()).unwrap().store;
    let session = |name: &str| SessionId::new(name).unwrap();
    let secrets = [Secret::new("a.b", *b"canary-hunter2-canary")];
    let base = commit(&mut store, b"base").number;
    let save = |store: &mut Store, name: &str, content: &[u8], now| {
        store.save_candidate(&session(name), "ann", Some(base), content, &secrets, &now)
    };
    save(&mut store, "one", b"first", at(0)).unwrap();
    save(&mut store, "two", b"second", at(10)).unwrap();
    assert!(matches!(
        save(&mut store, "three", b"", at(10)),
        Err(StoreError::TooManyCandidates(2))
    ));
    assert!(matches!(
        save(&mut store, "one", &[0; 900], at(10)),
        Err(StoreError::TooLarge { limit: 1000, .. })
    ));
    save(&mut store, "one", b"first, longer", at(20)).unwrap();
    drop(store);
    let mut store = Store::open_with(&path, limits).unwrap().store;
    let one = store.candidate(&session("one")).unwrap();
    assert_eq!(
        (one.content.as_slice(), one.secrets.as_slice()),
        (&b"first, longer"[..], &secrets[..])
    );
    assert_eq!((one.info.created, one.info.last_used), (at(0).wall, at(20)));
    let hour = Duration::from_hours(1);
    store.touch_candidate(&session("one"), &at(600)).unwrap();
    assert_eq!(store.expire_candidates(hour, &at(3609)).unwrap(), []);
    let gone = store.expire_candidates(hour, &at(3610)).unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].session, session("two"));
    assert!(matches!(
        store.candidate(&session("two")),
        Err(StoreError::NoSuchCandidate(_))
    ));
    // In another boot the wall clock is all there is; set back, it makes nothing older.
    let back = Moment {
        boot: BootId::new([2; 16]),
        ..at(0)
    };
    assert_eq!(store.expire_candidates(hour, &back).unwrap(), []);
}

#[test]
fn one_session_holds_the_configuration_until_its_time_is_over() {
    let place = place();
    let mut store = open(&place).store;
    let (one, two) = (
        SessionId::new("one").unwrap(),
        SessionId::new("two").unwrap(),
    );
    let minute = Duration::from_mins(1);
    store.lock_exclusively(&one, "ann", minute, &at(0)).unwrap();
    assert!(matches!(
        store.lock_exclusively(&two, "bob", minute, &at(59)),
        Err(StoreError::HeldExclusively { principal, .. }) if principal == "ann"
    ));
    store
        .lock_exclusively(&one, "ann", minute, &at(50))
        .unwrap();
    drop(store);
    let mut store = open(&place).store;
    assert_eq!(
        store.exclusive_lock(&at(109)).unwrap().unwrap().session,
        one
    );
    assert_eq!(store.exclusive_lock(&at(110)).unwrap(), None);
    let rebooted = Moment {
        boot: BootId::new([2; 16]),
        ..at(51)
    };
    assert_eq!(store.exclusive_lock(&rebooted).unwrap(), None);
    store.unlock(&two).unwrap();
    assert!(store.exclusive_lock(&at(109)).unwrap().is_some());
    store.unlock(&one).unwrap();
    store
        .lock_exclusively(&two, "bob", minute, &at(60))
        .unwrap();
}

#[test]
fn the_audit_trail_is_bounded_and_counts_what_it_dropped() {
    let place = place();
    let limits = Limits {
        audit: 5,
        ..Limits::default()
    };
    let mut store = Store::open_with(&place.path().join("mgmt"), limits)
        .unwrap()
        .store;
    for step in 1..=12 {
        assert_eq!(
            store.audit(&entry(&step.to_string()), &at(step)).unwrap(),
            step
        );
    }
    let long = "ä".repeat(5000);
    store.audit(&entry(&long), &at(13)).unwrap();
    let trail = store.audit_trail(0, 100).unwrap();
    assert_eq!(trail.dropped, 8);
    let numbers: Vec<u64> = trail.entries.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [9, 10, 11, 12, 13]);
    assert_eq!(trail.entries[4].entry.what.len(), 4096);
    assert_eq!(
        store.audit_trail(11, 1).unwrap().entries[0].entry.what,
        "11"
    );
    drop(store);
    assert_eq!(open(&place).condition, Condition::Sound);
}

#[test]
fn no_secret_lies_in_any_file_and_all_files_are_private() {
    let place = place();
    let mut store = open(&place).store;
    let session = SessionId::new("one").unwrap();
    for step in 0..3_u8 {
        let base = commit(&mut store, &[step]).number;
        let secrets = new_revision(None, b"").secrets;
        store
            .save_candidate(
                &session,
                "ann",
                Some(base),
                b"typed-canary",
                &secrets,
                &at(1),
            )
            .unwrap();
        store.maintain().unwrap();
    }
    let mut directories = vec![place.path().join("mgmt")];
    let mut seen = Vec::new();
    while let Some(directory) = directories.pop() {
        let mode = fs::metadata(&directory).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{}", directory.display());
        for found in fs::read_dir(directory).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", path.display());
            let bytes = fs::read(&path).unwrap();
            for secret in [&b"hunter2"[..], b"typed-canary"] {
                assert!(
                    !bytes.windows(secret.len()).any(|window| window == secret),
                    "{}",
                    path.display()
                );
            }
            seen.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "revision-0000000001.export",
            "revision-0000000002.export",
            "revision-0000000003.export",
            "store.db",
            "store.db-wal",
            "store.key",
            "store.lock"
        ]
    );
}

#[test]
fn a_new_key_opens_everything_and_the_old_one_nothing() {
    let place = place();
    let mut store = open(&place).store;
    let session = SessionId::new("one").unwrap();
    let secrets = new_revision(None, b"").secrets;
    for step in 0..3_u8 {
        commit(&mut store, &[step]);
    }
    store
        .save_candidate(&session, "ann", None, b"typed", &secrets, &at(1))
        .unwrap();
    let path = place.path().join("mgmt");
    let old_key = fs::read(path.join("store.key")).unwrap();
    let digest_key = store.digest_key().clone();
    store.rotate_key().unwrap();
    store.rotate_key().unwrap();
    let check = |store: &Store| {
        for revision in store.list(..).unwrap() {
            assert_eq!(store.revision(revision.number).unwrap().secrets, secrets);
        }
        assert_eq!(store.candidate(&session).unwrap().secrets, secrets);
        assert_eq!(*store.digest_key(), digest_key);
    };
    check(&store);
    drop(store);
    check(&open(&place).store);
    // The exports were sealed again, too.
    fs::remove_file(path.join("store.db")).unwrap();
    let Opened { store, condition } = open(&place);
    assert!(matches!(condition, Condition::Replaced(_)));
    assert_eq!(store.running().unwrap().unwrap().secrets, secrets);
    drop(store);
    fs::write(path.join("store.key"), old_key).unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::SecretUnopened { .. })
    ));
}

#[test]
fn exports_take_the_place_of_a_lost_or_ruined_database() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = open(&place).store;
    for step in 0..15_u8 {
        commit(&mut store, &[step]);
        store.maintain().unwrap();
    }
    let list = store.list(number(6)..).unwrap();
    drop(store);
    fs::write(path.join("store.db"), b"this is no database").unwrap();
    let Opened {
        mut store,
        condition,
    } = open(&place);
    let Condition::Replaced(replacement) = condition else {
        panic!("{condition:?}");
    };
    assert_eq!(replacement.newest, Some(number(15)));
    assert_eq!((replacement.revisions, replacement.bad_exports), (10, 0));
    assert_eq!(store.list(..).unwrap(), list);
    assert_eq!(store.running().unwrap().unwrap().content, [14]);
    assert_eq!(
        fs::read(path.join("store.db.damaged")).unwrap(),
        b"this is no database"
    );
    // It goes on from there, and a bad export is passed over.
    assert_eq!(commit(&mut store, b"more").number, number(16));
    store.maintain().unwrap();
    drop(store);
    fs::remove_file(path.join("store.db")).unwrap();
    let newest = path.join("exports/revision-0000000016.export");
    let mut bytes = fs::read(&newest).unwrap();
    bytes[100] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let Opened { store, condition } = open(&place);
    let Condition::Replaced(replacement) = condition else {
        panic!("{condition:?}");
    };
    assert_eq!(
        (replacement.newest, replacement.bad_exports),
        (Some(number(15)), 1)
    );
    drop(store);
    // Nothing can open the secrets without the key: that is for people to decide.
    fs::remove_file(path.join("store.key")).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::KeyMissing(_))));
}

#[test]
fn a_newer_schema_is_left_alone_and_a_forged_one_is_damage() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = open(&place).store;
    commit(&mut store, b"one");
    store.maintain().unwrap();
    store
        .connection
        .pragma_update(None, "user_version", 9)
        .unwrap();
    drop(store);
    assert!(matches!(open(&place).condition, Condition::Replaced(_)));
    let mut store = open(&place).store;
    store
        .write(|transaction, _, _| {
            let mut head = head::Head::load(transaction)?;
            head.schema = 9;
            head.save(transaction)?;
            Ok(transaction.pragma_update(None, "user_version", 9)?)
        })
        .unwrap();
    drop(store);
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::NewerSchema { found: 9, .. })
    ));
}

#[test]
fn what_is_too_large_is_refused_as_a_whole() {
    let place = place();
    let limits = Limits {
        content: 100,
        ..Limits::default()
    };
    let mut store = Store::open_with(&place.path().join("mgmt"), limits)
        .unwrap()
        .store;
    assert!(matches!(
        store.commit(new_revision(None, &[0; 100]), None, &at(1)),
        Err(StoreError::TooLarge { limit: 100, .. })
    ));
    let mut long = new_revision(None, b"");
    long.comment = "x".repeat(5000);
    assert!(matches!(
        store.commit(long, None, &at(1)),
        Err(StoreError::TextTooLong {
            field: "comment",
            ..
        })
    ));
    let mut twice = new_revision(None, b"");
    twice.secrets = vec![Secret::new("a", "1"), Secret::new("a", "2")];
    assert!(matches!(
        store.commit(twice, None, &at(1)),
        Err(StoreError::DuplicateSecret(path)) if path == "a"
    ));
    assert_eq!(store.newest().unwrap(), None);
}

#[test]
fn a_rotation_that_was_broken_off_is_ended_by_the_next_start() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = open(&place).store;
    let secrets = new_revision(None, b"").secrets;
    for step in 0..3_u8 {
        commit(&mut store, &[step]);
    }
    store.maintain().unwrap();
    let before = fs::metadata(path.join("store.key")).unwrap().len();
    store.keys.begin_rotation(&store.directory).unwrap();
    // Sealed with the new key already, while the others are not.
    commit(&mut store, b"between");
    drop(store);
    assert!(fs::metadata(path.join("store.key")).unwrap().len() > before);
    let Opened { store, condition } = open(&place);
    assert_eq!(condition, Condition::Sound);
    assert!(!store.keys.is_rotating());
    assert_eq!(fs::metadata(path.join("store.key")).unwrap().len(), before);
    for revision in store.list(..).unwrap() {
        assert_eq!(store.revision(revision.number).unwrap().secrets, secrets);
    }
}

#[test]
fn a_store_can_be_handed_to_another_thread() {
    fn sent<T: Send>() {}
    sent::<Store>();
    sent::<StoreError>();
}

#[test]
fn without_a_good_export_a_damaged_store_is_empty_and_says_so() {
    let place = place();
    let path = place.path().join("mgmt");
    let mut store = open(&place).store;
    commit(&mut store, b"one");
    commit(&mut store, b"two");
    store.maintain().unwrap();
    drop(store);
    fs::write(path.join("store.db"), b"this is no database").unwrap();
    for number in 1..=2 {
        let export = path.join(format!("exports/revision-{number:010}.export"));
        fs::write(export, b"nor is this an export").unwrap();
    }
    let Opened {
        mut store,
        condition,
    } = open(&place);
    let Condition::Replaced(replacement) = condition else {
        panic!("{condition:?}");
    };
    assert_eq!((replacement.newest, replacement.bad_exports), (None, 2));
    assert_eq!(store.running().unwrap(), None);
    commit(&mut store, b"anew");
    store.maintain().unwrap();
    drop(store);
    // The ruined exports are gone, and do not count as newer than what there is.
    let Opened { store, condition } = open(&place);
    assert_eq!(condition, Condition::Sound);
    assert_eq!(store.running().unwrap().unwrap().content, b"anew");
    assert_eq!(fs::read_dir(path.join("exports")).unwrap().count(), 1);
}

#[test]
fn rights_of_others_are_taken_away() {
    let place = place();
    let path = place.path().join("mgmt");
    drop(open(&place));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let widen = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    widen(&path, 0o755);
    widen(&path.join("exports"), 0o777);
    widen(&path.join("store.db"), 0o644);
    drop(open(&place));
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("exports")), 0o700);
    assert_eq!(mode(&path.join("store.db")), 0o600);
    widen(&path.join("store.key"), 0o644);
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::KeyExposed { mode: 0o644, .. })
    ));
}
