//! Tests of the store as a whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour;
mod candidates;
mod damage;
mod disk;
pub(super) mod disk_log;
pub(crate) mod full_disk;
mod kill;
mod model;
mod power_cut;
mod recording_vfs;

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// A place on a memory file system if there is one: these tests sync much.
pub(super) fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// A store whose disk is written down by each thread for itself.
pub(crate) fn recorded(path: &Path) -> Store {
    recording_vfs::register();
    let durability = open::Durability {
        vfs: Some(recording_vfs::NAME),
        ..open::Durability::default()
    };
    Store::open_as(path, Limits::default(), &durability)
        .unwrap()
        .store
}

/// Writes down what this thread does to the disk from now on.
pub(crate) fn start_recording() {
    disk_log::start();
}

/// How often this thread waited for the disk since.
pub(crate) fn syncs_recorded() -> usize {
    let is_sync = |event: &disk_log::Event| {
        matches!(
            event,
            disk_log::Event::Sync(_) | disk_log::Event::SyncDirectory(_)
        )
    };
    disk_log::take()
        .iter()
        .filter(|event| is_sync(event))
        .count()
}

/// How much this thread did to the disk since.
pub(crate) fn events_recorded() -> usize {
    disk_log::take().len()
}

pub(super) fn at(seconds: u64) -> Moment {
    Moment {
        wall: WallTime(1_700_000_000_000 + seconds * 1000),
        boot: BootId::new([1; 16]),
        since_boot: Duration::from_secs(seconds),
    }
}

pub(super) fn number(number: u64) -> RevisionNumber {
    RevisionNumber::new(number).unwrap()
}

pub(super) fn new_revision(parent: Option<RevisionNumber>, content: &[u8]) -> NewRevision {
    NewRevision {
        parent,
        author: "ann".into(),
        source: Source::Cli,
        origin: None,
        comment: "why not".into(),
        content: content.to_vec(),
        secrets: vec![Secret::new("keys[hq].secret", *b"canary-hunter2-canary")],
        candidate: None,
    }
}

/// The same, as a session's candidate.
pub(super) fn committed_by(
    session: &SessionId,
    parent: Option<RevisionNumber>,
    content: &[u8],
) -> NewRevision {
    NewRevision {
        candidate: Some(session.clone()),
        ..new_revision(parent, content)
    }
}

pub(super) fn commit(store: &mut Store, content: &[u8]) -> Revision {
    let parent = store.newest().unwrap().map(|newest| newest.number);
    store
        .commit(new_revision(parent, content), None, &at(1))
        .unwrap()
}

/// Random numbers that are the same in every run (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
