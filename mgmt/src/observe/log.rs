//! What the processes have written down: the end of `ROOT/var/log/NAME.log`, and what comes to it.
//!
//! Logs hold no secrets. They do hold what strangers say (identities of peers, names of clients), which is why nothing in a
//! line can move the cursor of whoever reads it.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Of a file, at a time: some ten thousand lines.
const MOST_BYTES: u64 = 1 << 20;
/// Lines that are asked for at most.
pub const MOST_LINES: u32 = 10_000;
/// The rest of a longer line is left out.
const LONGEST_LINE: usize = 4096;
/// Names of processes are short.
const LONGEST_NAME: usize = 32;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nobody of that name writes one.
    #[error("{name:?} has no log; there are those of {}", there.join(", "))]
    Unknown {
        /// As asked for.
        name: String,
        /// Who has.
        there: Vec<String>,
    },
    /// It cannot be read.
    #[error("the log of {name} cannot be read: {source}")]
    Read {
        /// Whose.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The logs of one gateway.
#[derive(Debug, Clone)]
pub struct Logs {
    folder: PathBuf,
}

impl Logs {
    /// Of the gateway with this root.
    pub fn new(root: &Path) -> Self {
        Self {
            folder: root.join("var/log"),
        }
    }

    /// Who has one.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                Some(name.strip_suffix(".log")?.to_owned())
            })
            .filter(|name| is_name(name))
            .collect();
        names.sort();
        names
    }

    /// Opens one log, or all.
    pub fn open(&self, name: &str) -> Result<Vec<Tail>, LogError> {
        let there = self.names();
        let names = if name.is_empty() {
            there
        } else if there.iter().any(|other| other == name) {
            vec![name.to_owned()]
        } else {
            return Err(LogError::Unknown {
                name: name.to_owned(),
                there,
            });
        };
        names
            .into_iter()
            .map(|name| {
                let path = self.folder.join(format!("{name}.log"));
                File::open(&path)
                    .map(|file| Tail {
                        name: name.clone(),
                        path,
                        file,
                        at: 0,
                        begun: Vec::new(),
                    })
                    .map_err(|source| LogError::Read { name, source })
            })
            .collect()
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && name.bytes().all(plain)
}

/// A log from some place on.
#[derive(Debug)]
pub struct Tail {
    /// Whose.
    pub name: String,
    path: PathBuf,
    file: File,
    at: u64,
    /// Of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Tail {
    /// The last lines; what comes behind them is read next.
    pub fn last(&mut self, lines: usize) -> Result<Vec<String>, LogError> {
        let length = self.length()?;
        self.at = length.saturating_sub(MOST_BYTES);
        let cut = self.at > 0;
        let mut all = self.read(length)?;
        if cut && !all.is_empty() {
            // Where it begins is somewhere in a line.
            all.remove(0);
        }
        Ok(all.split_off(all.len().saturating_sub(lines)))
    }

    /// Lines that have come since the last time. A file that was begun anew is read from its beginning.
    pub fn more(&mut self) -> Result<Vec<String>, LogError> {
        let mut length = self.length()?;
        if let Ok(anew) = File::open(&self.path)
            && !same(&self.file, &anew)
        {
            self.file = anew;
            self.at = 0;
            length = self.length()?;
        }
        if length < self.at {
            self.at = 0;
        }
        if length - self.at > MOST_BYTES {
            self.at = length - MOST_BYTES;
            self.begun.clear();
        }
        if length == self.at {
            return Ok(Vec::new());
        }
        self.read(length)
    }

    fn read(&mut self, end: u64) -> Result<Vec<String>, LogError> {
        let mut bytes = std::mem::take(&mut self.begun);
        self.file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| {
                (&mut self.file)
                    .take(end.saturating_sub(self.at))
                    .read_to_end(&mut bytes)
            })
            .map_err(|source| LogError::Read {
                name: self.name.clone(),
                source,
            })?;
        self.at = end;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.begun = bytes.split_off(whole);
        if self.begun.len() > LONGEST_LINE {
            self.begun.truncate(LONGEST_LINE);
        }
        Ok(bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(readable)
            .collect())
    }

    fn length(&self) -> Result<u64, LogError> {
        let metadata = self.file.metadata().map_err(|source| LogError::Read {
            name: self.name.clone(),
            source,
        })?;
        Ok(metadata.len())
    }
}

fn same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => true,
    }
}

/// What a terminal would obey is not in it.
fn readable(line: &[u8]) -> String {
    let shown = line.get(..LONGEST_LINE).unwrap_or(line);
    let mut text: String = String::from_utf8_lossy(shown)
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    if shown.len() < line.len() {
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write as _;

    use super::*;

    struct Place {
        root: tempfile::TempDir,
        logs: Logs,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("var/log")).unwrap();
            let logs = Logs::new(root.path());
            Self { root, logs }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.root.path().join("var/log").join(name);
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    #[test]
    fn the_end_of_a_log_is_read_and_followed() {
        let place = Place::new();
        place.write("mgmt.log", "one\ntwo\nthree\nfo");
        let mut tail = place.logs.open("mgmt").unwrap().remove(0);
        assert_eq!(tail.last(2).unwrap(), ["two", "three"]);
        assert_eq!(tail.more().unwrap(), [""; 0]);
        place.write("mgmt.log", "ur\nfive\n");
        assert_eq!(tail.more().unwrap(), ["four", "five"]);
        // Begun anew, by its name and in its place.
        let path = place.root.path().join("var/log/mgmt.log");
        fs::rename(&path, path.with_extension("old")).unwrap();
        place.write("mgmt.log", "six\n");
        assert_eq!(tail.more().unwrap(), ["six"]);
        fs::write(&path, "7\n").unwrap();
        assert_eq!(tail.more().unwrap(), ["7"]);
    }

    #[test]
    fn a_long_log_is_read_from_its_end_and_long_lines_are_cut() {
        let place = Place::new();
        let line = "x".repeat(999);
        let many = format!("{line}\n").repeat(3000);
        place.write("dataplane.log", &many);
        place.write("dataplane.log", &format!("{}\n", "y".repeat(9000)));
        let mut tail = place.logs.open("dataplane").unwrap().remove(0);
        let all = tail.last(MOST_LINES as usize).unwrap();
        assert!(all.len() > 900 && all.len() < 1100, "{}", all.len());
        assert!(all[0] == line);
        assert_eq!(all.last().unwrap().len(), LONGEST_LINE + 4);
    }

    #[test]
    fn only_logs_are_read() {
        let place = Place::new();
        place.write("mgmt.log", "m\n");
        place.write("charon.stderr.log", "c\n");
        place.write("secret", "s\n");
        fs::write(place.root.path().join("var/other.log"), "o\n").unwrap();
        assert_eq!(place.logs.names(), ["charon.stderr", "mgmt"]);
        for name in [
            "../other",
            "secret",
            "/etc/passwd",
            "..",
            ".mgmt",
            "mgmt.log",
        ] {
            let error = place.logs.open(name).unwrap_err().to_string();
            assert!(error.contains("charon.stderr, mgmt"), "{error}");
        }
        assert_eq!(place.logs.open("").unwrap().len(), 2);
    }

    #[test]
    fn a_line_cannot_move_the_cursor() {
        assert_eq!(
            readable(b"id \x1b[2J\tevil\r\xff"),
            "id \u{fffd}[2J evil\u{fffd}\u{fffd}"
        );
    }
}
