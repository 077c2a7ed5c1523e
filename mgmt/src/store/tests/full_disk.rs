//! A disk that takes no more: changes are refused by name, all else goes on.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rusqlite::ffi;

use super::super::open::Durability;
use super::recording_vfs::{self, Fault, fail};
use super::*;

/// Runs in a thread of its own with its own mounts, and a small memory file system in it.
pub(crate) fn on_a_small_disk(kibibytes: u32, work: impl FnOnce(&Path) + Send + 'static) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    let done = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = format!("size={kibibytes}k,mode=700");
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .unwrap();
        work(&path);
    });
    done.join().unwrap();
}

/// Not a byte is left for anything, until the file that this gives goes.
pub(crate) fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut filler = std::fs::File::create(&path).unwrap();
    while std::io::Write::write(&mut filler, &[0; 512]).is_ok() {}
    path
}

fn remount(path: &Path, flags: MsFlags) {
    let none: Option<&str> = None;
    mount(none, path, none, MsFlags::MS_REMOUNT | flags, none).unwrap();
}

fn next(store: &Store, content: &[u8]) -> NewRevision {
    new_revision(store.newest().unwrap().map(|newest| newest.number), content)
}

#[test]
fn a_full_disk_refuses_commits_and_answers_reads() {
    on_a_small_disk(4096, |disk| {
        let path = disk.join("mgmt");
        let mut store = Store::open(&path).unwrap().store;
        let mut good = Vec::new();
        let refused = loop {
            let content = Random(good.len() as u64).bytes(100_000);
            let new = next(&store, &content);
            match store.commit(new, None, &at(1)) {
                Ok(_) => good.push(content),
                Err(error) => break error,
            }
            assert!(good.len() < 100);
        };
        assert!(matches!(refused, StoreError::DiskFull), "{refused}");
        assert!(good.len() > 5);
        let filler = fill(disk);
        let check = |store: &Store| {
            let list = store.list(..).unwrap();
            assert_eq!(list.len(), good.len());
            for (revision, content) in list.iter().zip(&good) {
                assert_eq!(store.revision(revision.number).unwrap().content, *content);
            }
            assert_eq!(
                store.running().unwrap().unwrap().content,
                *good.last().unwrap()
            );
        };
        check(&store);
        assert!(matches!(store.maintain(), Err(StoreError::DiskFull)));
        assert!(matches!(store.rotate_key(), Err(StoreError::DiskFull)));
        let session = SessionId::new("one").unwrap();
        let saved = store.save_candidate(&session, "ann", None, &vec![0; 150_000], &[], &at(1));
        assert!(matches!(saved, Err(StoreError::DiskFull)));
        check(&store);
        drop(store);
        // A start finds it as it was.
        let Opened {
            mut store,
            condition,
        } = Store::open(&path).unwrap();
        assert_eq!(condition, Condition::Sound);
        check(&store);
        let new = next(&store, &vec![1; 200_000]);
        assert!(matches!(
            store.commit(new, None, &at(1)),
            Err(StoreError::DiskFull)
        ));
        check(&store);
        // With room again all goes on.
        std::fs::remove_file(filler).unwrap();
        for revision in 1..good.len() as u64 {
            let _ =
                std::fs::remove_file(path.join(format!("exports/revision-{revision:010}.export")));
        }
        let new = next(&store, b"small");
        store.commit(new, None, &at(1)).unwrap();
        assert_eq!(store.running().unwrap().unwrap().content, b"small");
    });
}

#[test]
fn a_read_only_file_system_can_be_started_from() {
    on_a_small_disk(4096, |disk| {
        let path = disk.join("mgmt");
        let mut store = Store::open(&path).unwrap().store;
        let one = commit(&mut store, b"one").number;
        let two = commit(&mut store, b"two");
        // In the log only, as after a crash.
        let crashed = disk.join("crashed");
        std::fs::create_dir(&crashed).unwrap();
        for name in ["store.db", "store.db-wal", "store.key", "store.lock"] {
            std::fs::copy(path.join(name), crashed.join(name)).unwrap();
        }
        std::fs::create_dir(crashed.join("exports")).unwrap();
        drop(store);
        remount(disk, MsFlags::MS_RDONLY);
        for path in [&path, &crashed] {
            let Opened {
                mut store,
                condition,
            } = Store::open(path).unwrap();
            assert_eq!(condition, Condition::Sound);
            assert!(store.is_read_only());
            assert_eq!(store.newest().unwrap().unwrap(), two);
            assert_eq!(store.running().unwrap().unwrap().content, b"two");
            assert_eq!(store.revision(one).unwrap().content, b"one");
            let new = next(&store, b"three");
            assert!(matches!(
                store.commit(new, None, &at(1)),
                Err(StoreError::ReadOnly)
            ));
            assert!(matches!(store.rotate_key(), Err(StoreError::ReadOnly)));
            assert!(matches!(Store::open(path), Err(StoreError::InUse(_))));
            store.maintain().unwrap();
        }
        remount(disk, MsFlags::empty());
        let mut store = Store::open(&path).unwrap().store;
        assert_eq!(commit(&mut store, b"three").number.get(), 3);
    });
}

#[test]
fn a_damaged_store_without_room_for_another_is_read_from_its_exports() {
    on_a_small_disk(2048, |disk| {
        let path = disk.join("mgmt");
        let mut store = Store::open(&path).unwrap().store;
        for step in 0..3 {
            commit(&mut store, &Random(step).bytes(50_000));
        }
        store.maintain().unwrap();
        let (list, running) = (store.list(..).unwrap(), store.running().unwrap());
        drop(store);
        let database = path.join("store.db");
        let length = std::fs::metadata(&database).unwrap().len() as usize;
        std::fs::write(&database, vec![0x55; length]).unwrap();
        let mut filler = std::fs::File::create(disk.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[0; 512]).is_ok() {}
        drop(filler);
        let check = || {
            let Opened {
                mut store,
                condition,
            } = Store::open(&path).unwrap();
            assert!(matches!(condition, Condition::Replaced(_)));
            assert_eq!(store.list(..).unwrap(), list);
            assert_eq!(store.running().unwrap(), running);
            (store.is_read_only(), {
                let new = next(&store, b"more");
                store.commit(new, None, &at(1))
            })
        };
        // The damaged one is aside by the second start.
        for _ in 0..2 {
            let (read_only, outcome) = check();
            assert!(read_only);
            assert!(matches!(outcome, Err(StoreError::ReadOnly)));
        }
        remount(disk, MsFlags::MS_RDONLY);
        assert!(check().0);
        remount(disk, MsFlags::empty());
        std::fs::remove_file(disk.join("filler")).unwrap();
        let (read_only, outcome) = check();
        assert!(!read_only);
        assert_eq!(outcome.unwrap().number.get(), 4);
    });
}

#[test]
fn a_commit_that_fails_at_any_write_leaves_everything_as_it_was() {
    recording_vfs::register();
    let durability = Durability {
        vfs: Some(recording_vfs::NAME),
        ..Durability::default()
    };
    let codes = [
        ffi::SQLITE_FULL,
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
    ];
    for (code, count) in codes.into_iter().flat_map(|code| [(code, 1), (code, 1000)]) {
        let place = place();
        let path = place.path().join("mgmt");
        let mut store = Store::open_as(&path, Limits::default(), &durability)
            .unwrap()
            .store;
        let mut newest = commit(&mut store, b"first");
        let mut refused = 0;
        for after in 0.. {
            let content = Random(u64::from(after)).bytes(10_000);
            let new = next(&store, &content);
            fail(Some(Fault { after, count, code }));
            let outcome = store.commit(new, None, &at(1));
            fail(None);
            match outcome {
                Err(error) => {
                    assert_eq!(
                        matches!(error, StoreError::DiskFull),
                        code == ffi::SQLITE_FULL
                    );
                    assert_eq!(store.newest().unwrap().unwrap(), newest);
                    refused += 1;
                }
                Ok(committed) => {
                    assert_eq!(store.running().unwrap().unwrap().content, content);
                    newest = committed;
                    break;
                }
            }
            // In between it works, and what failed leaves nothing behind.
            if after % 3 == 0 {
                newest = commit(&mut store, &after.to_be_bytes());
            }
        }
        assert!(refused > 5, "{refused}");
        let list = store.list(..).unwrap();
        drop(store);
        let Opened { store, condition } = Store::open(&path).unwrap();
        assert_eq!(condition, Condition::Sound);
        assert_eq!(store.list(..).unwrap(), list);
    }
}
