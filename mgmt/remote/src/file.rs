//! Files of the engineer's machine: read within bounds, and written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a file is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system.
    #[error("{}: {source}", file.display())]
    System {
        /// Which.
        file: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// It is no configuration.
    #[error("{}: {} bytes or more; at most {} are taken", .0.display(), .1 + 1, .1)]
    TooLarge(PathBuf, usize),
    /// It names a folder.
    #[error("{}: this is no name of a file", .0.display())]
    NoName(PathBuf),
}

fn failed(file: &Path) -> impl FnOnce(io::Error) -> FileError {
    let file = file.to_owned();
    move |source| FileError::System { file, source }
}

/// All of a file, or of standard input (`-`).
pub fn read(file: &Path, largest: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut source: Box<dyn io::Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(failed(file))?)
    };
    let mut text = Zeroizing::new(Vec::new());
    // There may be secrets in it: when it grows, what was there is wiped with it.
    let mut piece = Zeroizing::new(vec![0; 64 << 10]);
    loop {
        let more = match source.read(&mut piece) {
            Ok(0) => return Ok(text),
            Ok(more) => more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(file)(error)),
        };
        if text.len() + more > largest {
            return Err(FileError::TooLarge(file.to_owned(), largest));
        }
        if text.len() + more > text.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * (text.len() + more)));
            larger.extend_from_slice(&text);
            text = larger;
        }
        text.extend_from_slice(piece.get(..more).unwrap_or_default());
    }
}

/// Makes a file hold this, for its owner alone; whatever happens, it holds all of it or what it held before.
pub fn write(file: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let name = file
        .file_name()
        .ok_or_else(|| FileError::NoName(file.to_owned()))?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    new.push(format!(".{}.new", std::process::id()));
    let new = file.with_file_name(new);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut opened| {
            opened.write_all(bytes)?;
            opened.sync_all()
        })
        .and_then(|()| fs::rename(&new, file))
        .and_then(|()| {
            let folder = file
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed(file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        write(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // A folder is in the way: nothing is left behind.
        fs::create_dir(folder.path().join("there")).unwrap();
        write(&folder.path().join("there"), b"new").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        write(Path::new("/"), b"").unwrap_err();
    }

    #[test]
    fn a_file_is_read_up_to_what_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let text = vec![b'x'; 300_000];
        fs::write(&file, &text).unwrap();
        assert_eq!(read(&file, 300_000).unwrap().as_slice(), text);
        assert!(matches!(read(&file, 299_999), Err(FileError::TooLarge(..))));
        assert!(matches!(
            read(&folder.path().join("none"), 1),
            Err(FileError::System { .. })
        ));
    }
}
