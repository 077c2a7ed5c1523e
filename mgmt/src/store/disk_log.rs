//! Where the files beside the database are said to have changed, for tests that follow; nothing listens here.
use std::path::Path;
pub(super) fn made_directory(_: &Path) {}
pub(super) fn synced_directory(_: &Path) {}
pub(super) fn created(_: &Path) {}
pub(super) fn wrote(_: &Path, _: u64, _: &[u8]) {}
pub(super) fn synced(_: &Path) {}
pub(super) fn renamed(_: &Path, _: &Path) {}
pub(super) fn removed(_: &Path) {}
