//! Secrets that tests use so that they can be looked for afterwards: in no log, database, bundle, core or capture may
//! they stand, however they are spelled.
//!
//! ```text
//!   folder of a laboratory ── search ──┐ (when it is torn down, without its inputs)
//!   output of the suite ───────────────┴──> reports ──> examples/canary: how much was searched, what was found
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memmem::Finder;

/// The pre-shared key of every laboratory: it protects nothing.
pub const PRE_SHARED_KEY: &str = "whole-box tests protect nothing";

/// The private key of every gateway that proves by a certificate who it is: ECDSA on P-256, as RFC 5915 has it.
pub const PRIVATE_KEY: &str = "-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEIGl9SdlyzMRe+EDeODUqPJd8abMNdNi7bZU22XwzMd3NoAoGCCqGSM49\n\
AwEHoUQDQgAEwEI+aa5NnX21cTfdMfF1GRBtppP+XPc8rMbfRg1oJuTAul8VdAb9\n\
T3C6nBNrFCDZvazbKWGbrtkGgZdxCN8IfA==\n\
-----END EC PRIVATE KEY-----\n";

/// Where the number of the private key lies in its DER: SEQUENCE, version, then the head of an OCTET STRING of 32.
const SCALAR: std::ops::Range<usize> = 7..39;

/// Names the folder of reports; without it nothing is searched.
pub const REPORTS: &str = "CULVERT_CANARY";

/// A secret in one of its spellings.
pub struct Needle {
    /// Which secret.
    pub secret: &'static str,
    /// How it is written.
    pub spelling: &'static str,
    finder: Finder<'static>,
}

/// Everything that is looked for.
pub fn needles() -> Vec<Needle> {
    let scalar = base64_decoded(PRIVATE_KEY);
    let scalar = scalar.get(SCALAR).unwrap_or_default();
    let mut needles = Vec::new();
    for (secret, bytes) in [
        ("the pre-shared key", PRE_SHARED_KEY.as_bytes()),
        ("the private key", scalar),
    ] {
        let mut add = |spelling, text: Vec<u8>| {
            needles.push(Needle {
                secret,
                spelling,
                finder: Finder::new(&text).into_owned(),
            });
        };
        add("as it is", bytes.to_vec());
        for (spelling, between) in [
            ("in hexadecimal", ""),
            ("in hexadecimal with blanks", " "),
            ("in hexadecimal with colons", ":"),
        ] {
            let lower = joined(bytes, between, |byte| format!("{byte:02x}"));
            add(spelling, lower.to_uppercase().into_bytes());
            add(spelling, lower.into_bytes());
        }
        for between in [",", ", "] {
            let list = joined(bytes, between, ToString::to_string);
            add("as a list of numbers", list.into_bytes());
        }
        for before in 0..3 {
            // One line of PEM holds the whole number: there is no line end in it.
            let standard = base64_within(bytes, before);
            let for_addresses = standard.replace('+', "-").replace('/', "_");
            if for_addresses != standard {
                add("in base64 for addresses", for_addresses.into_bytes());
            }
            add("in base64", standard.into_bytes());
        }
    }
    needles
}

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many files.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// Files by the end of their names.
    pub kinds: BTreeMap<String, u64>,
    /// Where which secret was found, and how it was written.
    pub hits: Vec<String>,
}

impl Report {
    /// Searches all files below a path, or the file; not those that `is_input` says a secret belongs in.
    pub fn search(&mut self, path: &Path, is_input: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let needles = needles();
        let mut paths = vec![path.to_owned()];
        while let Some(path) = paths.pop() {
            if is_input(&path) {
                continue;
            }
            let kind = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata.file_type(),
                // A socket or a temporary file of somebody who is just leaving.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if kind.is_dir() {
                for entry in fs::read_dir(&path)? {
                    paths.push(entry?.path());
                }
            } else if kind.is_file() {
                self.file(&path, &needles)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, needles: &[Needle]) -> io::Result<()> {
        let bytes = fs::read(path)?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        let kind = path
            .extension()
            .map_or("-".into(), |end| end.to_string_lossy());
        *self.kinds.entry(kind.into_owned()).or_default() += 1;
        for needle in needles {
            if let Some(at) = needle.finder.find(&bytes) {
                self.hits.push(format!(
                    "{}, byte {at}: {} {}",
                    path.display(),
                    needle.secret,
                    needle.spelling
                ));
            }
        }
        Ok(())
    }

    /// Adds what another one found.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind.clone()).or_default() += count;
        }
        self.hits.extend(other.hits.iter().cloned());
    }

    /// Keeps it as a file of its own.
    pub fn save(&self, folder: &Path) -> io::Result<PathBuf> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut text = format!("{} {}\n", self.files, self.bytes);
        for (kind, count) in &self.kinds {
            let _ = writeln!(text, "kind {count} {kind}");
        }
        for hit in &self.hits {
            let _ = writeln!(text, "hit {hit}");
        }
        let path = folder.join(format!("{}-{number}.report", process::id()));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// One that was kept; none: it is no report.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (files, bytes) = lines.next()?.split_once(' ')?;
        let mut report = Self {
            files: files.parse().ok()?,
            bytes: bytes.parse().ok()?,
            ..Self::default()
        };
        for line in lines {
            match line.split_once(' ')? {
                ("kind", rest) => {
                    let (count, kind) = rest.split_once(' ')?;
                    report.kinds.insert(kind.to_owned(), count.parse().ok()?);
                }
                ("hit", rest) => report.hits.push(rest.to_owned()),
                _ => return None,
            }
        }
        Some(report)
    }
}

fn joined(bytes: &[u8], between: &str, write: impl Fn(&u8) -> String) -> String {
    let parts: Vec<String> = bytes.iter().map(write).collect();
    parts.join(between)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What base64 makes of bytes that stand behind so many others, without the characters that belong to what is around
/// them.
fn base64_within(bytes: &[u8], before: usize) -> String {
    let whole = [&[0; 3][..before], bytes].concat();
    let bit = |at: usize| whole.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let first = (before * 8).div_ceil(6);
    (first..whole.len() * 8 / 6)
        .map(|character| {
            let value = (0..6).fold(0, |value, at| value << 1 | bit(character * 6 + at));
            char::from(ALPHABET[usize::from(value)])
        })
        .collect()
}

/// The bytes of a PEM text.
fn base64_decoded(pem: &str) -> Vec<u8> {
    let body = pem.lines().filter(|line| !line.starts_with("-----"));
    let values = body
        .flat_map(str::bytes)
        .filter_map(|letter| ALPHABET.iter().position(|one| *one == letter));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_usize, 0);
    for value in values {
        bits = (bits << 6 | value) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn nowhere(_: &Path) -> bool {
        false
    }

    fn found_in(bytes: &[u8]) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("log")).unwrap();
        fs::write(place.path().join("log/gateway.log"), bytes).unwrap();
        let mut report = Report::default();
        report.search(place.path(), &nowhere).unwrap();
        assert_eq!((report.files, report.bytes), (1, bytes.len() as u64));
        assert_eq!(report.kinds["log"], 1);
        report.hits
    }

    #[test]
    fn the_key_is_one() {
        let der = base64_decoded(PRIVATE_KEY);
        assert_eq!(der[..7], [0x30, 0x77, 2, 1, 1, 4, 32]);
        assert_eq!(der.len(), 121);
    }

    #[test]
    fn what_is_planted_is_found_however_it_is_spelled() {
        let psk = PRE_SHARED_KEY.as_bytes();
        let der = base64_decoded(PRIVATE_KEY);
        let scalar = &der[SCALAR];
        let with = |inside: &[u8]| [b"before ".as_slice(), inside, b" behind\n"].concat();
        let hexadecimal = |bytes: &[u8]| joined(bytes, "", |byte| format!("{byte:02x}"));
        let found = |bytes: &[u8]| {
            let hits = found_in(&with(bytes));
            assert!(!hits.is_empty(), "{}", String::from_utf8_lossy(bytes));
            assert!(hits[0].contains("gateway.log, byte "), "{hits:?}");
        };
        found(psk);
        found(scalar);
        found(PRIVATE_KEY.as_bytes());
        found(PRIVATE_KEY.replace('\n', "\\n").as_bytes());
        found(hexadecimal(psk).as_bytes());
        found(hexadecimal(scalar).to_uppercase().as_bytes());
        found(joined(scalar, ":", |byte| format!("{byte:02x}")).as_bytes());
        found(joined(psk, " ", |byte| format!("{byte:02X}")).as_bytes());
        found(format!("{psk:?}").as_bytes());
        // Wherever in a longer text it stood before that was encoded.
        for before in 0..7 {
            for bytes in [psk, scalar] {
                let whole = [&[0x5a; 7][..before], bytes, b"and more"].concat();
                found(base64_within(&whole, 0).as_bytes());
            }
        }
        // A database's pages, half of it, and its like.
        assert_eq!(found_in(&with(&psk[1..])), [""; 0]);
        assert_eq!(found_in(&with(&[0; 4096])), [""; 0]);
    }

    #[test]
    fn inputs_are_left_out_and_reports_add_up() {
        let place = tempfile::tempdir().unwrap();
        let input = place.path().join("gateway.json");
        fs::write(&input, PRE_SHARED_KEY).unwrap();
        fs::write(place.path().join("b.pcap"), "nothing").unwrap();
        let mut report = Report::default();
        report.search(place.path(), &|path| path == input).unwrap();
        assert_eq!((report.files, report.bytes, report.hits.len()), (1, 7, 0));
        report.search(&input, &nowhere).unwrap();
        assert_eq!(report.hits.len(), 1);
        let file = report.save(place.path()).unwrap();
        let again = Report::parse(&fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(again, report);
        let mut sum = Report::default();
        sum.add(&again);
        sum.add(&again);
        assert_eq!((sum.files, sum.bytes, sum.hits.len()), (4, 76, 2));
        assert_eq!(Report::parse("not one"), None);
    }
}
