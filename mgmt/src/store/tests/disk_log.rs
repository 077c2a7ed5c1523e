//! What a thread's store does to the disk, in order, when someone asked for it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// One change of the disk, or a mark between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Event {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    /// The test begins or ends something.
    Mark(u64),
}

thread_local! {
    static LOG: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Starts to listen to this thread.
pub(super) fn start() {
    LOG.set(Some(Vec::new()));
}

/// What happened since.
pub(super) fn take() -> Vec<Event> {
    LOG.take().unwrap_or_default()
}

pub(super) fn note(event: impl FnOnce() -> Event) {
    LOG.with_borrow_mut(|log| {
        if let Some(log) = log {
            log.push(event());
        }
    });
}

pub(super) fn mark(value: u64) {
    note(|| Event::Mark(value));
}

pub(in crate::store) fn created(path: &Path) {
    note(|| Event::Create(path.to_owned()));
}

pub(in crate::store) fn wrote(path: &Path, offset: u64, bytes: &[u8]) {
    note(|| Event::Write(path.to_owned(), offset, bytes.to_vec()));
}

pub(in crate::store) fn synced(path: &Path) {
    note(|| Event::Sync(path.to_owned()));
}

pub(in crate::store) fn renamed(from: &Path, to: &Path) {
    note(|| Event::Rename(from.to_owned(), to.to_owned()));
}

pub(in crate::store) fn removed(path: &Path) {
    note(|| Event::Remove(path.to_owned()));
}

pub(in crate::store) fn synced_directory(path: &Path) {
    note(|| Event::SyncDirectory(path.to_owned()));
}
