//! A directory whose files come and go whole.
//!
//! ```text
//! write NAME.new ── sync the file ── rename to NAME ── sync the directory
//! ```
//!
//! A power cut leaves the old file or the new one under the name, never a part. Directories are 0700, files 0600.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, StatVfsMountFlags, fstatvfs};

use super::error::StoreError;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const MODE_BITS: u32 = 0o7777;

/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".new";

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens the directory, makes it if there is none, and takes other users' rights from it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::file(path, source);
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
                    File::open(parent)
                        .and_then(|parent| parent.sync_all())
                        .map_err(failed)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // On a read-only file system this is said before it is looked whether the directory exists.
            Err(_) if path.is_dir() => {}
            Err(error) => return Err(failed(error)),
        }
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32)
            .open(path)
            .map_err(failed)?;
        let directory = Self {
            path: path.to_owned(),
            handle,
        };
        let mode = directory.handle.metadata().map_err(failed)?.mode() & MODE_BITS;
        if mode != DIRECTORY_MODE && !directory.is_read_only() {
            tracing::warn!(path = %path.display(), mode = format_args!("{mode:04o}"), "taking other users' rights from a directory");
            fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE))
                .map_err(failed)?;
        }
        Ok(directory)
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file system takes no writes at all.
    pub(super) fn is_read_only(&self) -> bool {
        fstatvfs(&self.handle).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Makes what was created, renamed and removed durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.handle
            .sync_all()
            .map_err(|source| StoreError::file(&self.path, source))?;
        #[cfg(test)]
        super::tests::disk_log::synced_directory(&self.path);
        Ok(())
    }

    /// The file's length, or `None` if there is no such file.
    pub(super) fn length(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let path = self.path_of(name);
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::file(path, error)),
        }
    }

    /// The mode bits of a file, and whether it is a plain file.
    pub(super) fn mode(&self, name: &str) -> Result<(u32, bool), StoreError> {
        let path = self.path_of(name);
        let found = fs::symlink_metadata(&path).map_err(|source| StoreError::file(path, source))?;
        Ok((found.mode() & MODE_BITS, found.is_file()))
    }

    /// Takes other users' rights from a file.
    pub(super) fn make_private(&self, name: &str) -> Result<(), StoreError> {
        if self.mode(name)?.0 != FILE_MODE && !self.is_read_only() {
            let path = self.path_of(name);
            tracing::warn!(path = %path.display(), "taking other users' rights from a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(FILE_MODE))
                .map_err(|source| StoreError::file(path, source))?;
        }
        Ok(())
    }

    /// Reads a whole file of at most `limit` bytes into the buffer; `false` if there is no such file.
    pub(super) fn read_into(
        &self,
        name: &str,
        limit: u64,
        to: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let path = self.path_of(name);
        let failed = |source| StoreError::file(&path, source);
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        // Grown once, so that a key leaves no copy behind in a buffer that was too small.
        let length = file.metadata().map_err(failed)?.len().min(limit);
        to.reserve_exact(length as usize + 1);
        file.take(limit).read_to_end(to).map_err(failed)?;
        Ok(true)
    }

    /// The names of all files.
    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::file(&self.path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// An open file that did not exist before, for its owner alone.
    fn create(&self, name: &str) -> Result<File, StoreError> {
        let path = self.path_of(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(|source| StoreError::file(&path, source))?;
        #[cfg(test)]
        super::tests::disk_log::created(&path);
        Ok(file)
    }

    /// Makes an empty file, durably.
    pub(super) fn create_empty(&self, name: &str) -> Result<(), StoreError> {
        let file = self.create(name)?;
        self.sync_file(name, &file)?;
        self.sync()
    }

    /// Writes a file under a name that nothing has yet or that is replaced, all or nothing.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let unfinished = format!("{name}{UNFINISHED}");
        // Left by a crash: nothing refers to it.
        self.remove(&unfinished)?;
        let written = self.write_unfinished(&unfinished, bytes);
        if let Err(error) = written {
            // There may be no room even for a part of it.
            let _ = self.remove(&unfinished);
            return Err(error);
        }
        self.rename(&unfinished, name)?;
        self.sync()
    }

    fn write_unfinished(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = self.create(name)?;
        file.write_all(bytes)
            .map_err(|source| StoreError::file(self.path_of(name), source))?;
        #[cfg(test)]
        super::tests::disk_log::wrote(&self.path_of(name), 0, bytes);
        self.sync_file(name, &file)
    }

    fn sync_file(&self, name: &str, file: &File) -> Result<(), StoreError> {
        let path = self.path_of(name);
        file.sync_all()
            .map_err(|source| StoreError::file(&path, source))?;
        #[cfg(test)]
        super::tests::disk_log::synced(&path);
        Ok(())
    }

    /// Renames a file; durable after [`sync`](Self::sync).
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (from, to) = (self.path_of(from), self.path_of(to));
        fs::rename(&from, &to).map_err(|source| StoreError::file(&from, source))?;
        #[cfg(test)]
        super::tests::disk_log::renamed(&from, &to);
        Ok(())
    }

    /// Removes a file if there is one; durable after [`sync`](Self::sync).
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Ok(()) => {
                #[cfg(test)]
                super::tests::disk_log::removed(&path);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::file(path, error)),
        }
    }
}
