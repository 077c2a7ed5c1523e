//! What somebody who helps wants to see of a gateway, in one file: the answers to a fixed list of questions.
//!
//! ```text
//!   culvert-10.1.0.1-1795276800/
//!     manifest.json        what was asked, how long it took, and what could not be answered
//!     configuration.txt    as set lines, with digests in place of secrets
//!     interfaces.txt ...
//! ```
//!
//! It holds what `show` answers and nothing else: no file of the gateway is read, and mgmt tells nobody a secret. A
//! question that is not answered, or not in time, is noted and the next one asked: of a gateway in trouble as much as
//! there is.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::connection::{Connection, ConnectionError, Question};
use crate::deadline::Deadline;
use crate::destination::Destination;
use crate::progress::Progress;
use crate::{Outcome, RemoteError, file};

/// How long one question may take.
const EACH: Duration = Duration::from_secs(20);
/// How much one answer may hold.
const LARGEST: usize = 16 << 20;

/// Name in the bundle, and what is asked.
const QUESTIONS: [(&str, &str); 21] = [
    ("configuration", "show configuration | display set"),
    ("revisions", "show configuration revisions 100"),
    ("differences", "show configuration differences"),
    ("status", "show configuration status"),
    ("audit", "show audit 200"),
    ("system", "show system"),
    ("interfaces", "show interfaces"),
    ("routes", "show routes"),
    ("neighbours", "show neighbours"),
    ("ike", "show ike"),
    ("ipsec", "show ipsec"),
    ("sas", "show ipsec sas"),
    ("policies", "show ipsec policies"),
    ("reassembly", "show reassembly"),
    ("paths", "show paths"),
    ("too-big", "show too-big"),
    ("drops", "show drops all"),
    ("nodes", "show nodes"),
    ("ntp", "show ntp"),
    ("dhcp", "show dhcp"),
    ("log", "show log"),
];

/// One answer, or why there is none.
struct Answered {
    name: &'static str,
    line: &'static str,
    milliseconds: u128,
    text: Vec<u8>,
    status: Option<i32>,
    complaint: String,
}

/// Asks all of it, and writes the file.
pub fn run(
    name: &Path,
    destination: &Destination,
    connection: &Connection,
    deadline: Deadline,
    json: bool,
    progress: &Progress,
) -> Result<Outcome, RemoteError> {
    let mut answers = Vec::new();
    for (number, (file, line)) in QUESTIONS.into_iter().enumerate() {
        progress.items(line, number, QUESTIONS.len());
        answers.push(asked(
            file,
            line,
            |deadline| {
                connection.ask(
                    Question {
                        line: Some(line),
                        input: &[],
                        largest: LARGEST,
                        deadline,
                    },
                    |_, _| {},
                )
            },
            deadline,
        ));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let manifest = manifest(destination, now, &answers);
    let bytes = archive(destination, now, &manifest, &answers).map_err(|source| {
        RemoteError::File(file::FileError::System {
            file: name.to_owned(),
            source,
        })
    })?;
    file::write(name, &bytes)?;
    let missing = answers
        .iter()
        .filter(|answer| answer.status != Some(0))
        .count();
    Ok(Outcome::Said(if json {
        json!({ "file": name, "bytes": bytes.len(), "answers": manifest["answers"] }).to_string()
    } else {
        format!(
            "{}: {} of {} questions answered, {} bytes{}",
            name.display(),
            answers.len() - missing,
            answers.len(),
            bytes.len(),
            if missing > 0 {
                "; manifest.json in it says why the others are not"
            } else {
                ""
            }
        )
    }))
}

fn asked(
    name: &'static str,
    line: &'static str,
    ask: impl FnOnce(Deadline) -> Result<crate::connection::Answer, ConnectionError>,
    deadline: Deadline,
) -> Answered {
    let begin = Instant::now();
    let outcome = match deadline.left() {
        Err(late) => Err(late.into()),
        Ok(_) => ask(deadline.at_most(EACH)),
    };
    let milliseconds = begin.elapsed().as_millis();
    match outcome {
        Ok(answer) => Answered {
            name,
            line,
            milliseconds,
            text: answer.text.to_vec(),
            status: Some(answer.status),
            complaint: answer.complaint,
        },
        Err(error) => Answered {
            name,
            line,
            milliseconds,
            text: Vec::new(),
            status: None,
            complaint: error.to_string(),
        },
    }
}

fn manifest(destination: &Destination, now: u64, answers: &[Answered]) -> Value {
    let answers: Vec<Value> = answers
        .iter()
        .map(|answer| {
            json!({
                "file": format!("{}.txt", answer.name),
                "asked": answer.line,
                "status": answer.status,
                "milliseconds": answer.milliseconds,
                "bytes": answer.text.len(),
                "said": answer.complaint.trim_end(),
            })
        })
        .collect();
    json!({
        "gateway": destination.to_string(),
        "made_unix": now,
        "made_by": concat!("culvert remote ", env!("CARGO_PKG_VERSION")),
        "answers": answers,
    })
}

fn archive(
    destination: &Destination,
    now: u64,
    manifest: &Value,
    answers: &[Answered],
) -> io::Result<Vec<u8>> {
    let host: String = destination
        .host
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, format!("culvert-{host}-{now}/{name}"), bytes)
    };
    add("manifest.json", format!("{manifest:#}\n").as_bytes())?;
    for answer in answers {
        add(&format!("{}.txt", answer.name), &answer.text)?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use zeroize::Zeroizing;

    use super::*;
    use crate::connection::Answer;

    #[test]
    fn the_archive_holds_every_answer_and_says_what_is_missing() {
        let destination: Destination = "[2001:db8::1]:2222".parse().unwrap();
        let deadline = Deadline::after(Duration::from_mins(1));
        let good = asked(
            "routes",
            "show routes",
            |_| {
                Ok(Answer {
                    text: Zeroizing::new(b"10.0.0.0/8\n".to_vec()),
                    complaint: String::new(),
                    status: 0,
                })
            },
            deadline,
        );
        let bad = asked(
            "log",
            "show log",
            |_| Err(ConnectionError::TooLarge(LARGEST)),
            deadline,
        );
        let late = asked(
            "ike",
            "show ike",
            |_| panic!("its time was over before it was asked"),
            Deadline::after(Duration::ZERO),
        );
        let answers = [good, bad, late];
        let manifest = manifest(&destination, 7, &answers);
        let bytes = archive(&destination, 7, &manifest, &answers).unwrap();
        let mut files = BTreeMap::new();
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(files.len(), 4);
        assert_eq!(files["culvert-2001-db8--1-7/routes.txt"], "10.0.0.0/8\n");
        let told: Value =
            serde_json::from_str(&files["culvert-2001-db8--1-7/manifest.json"]).unwrap();
        assert_eq!(told["answers"][0]["status"], 0);
        assert_eq!(told["answers"][1]["status"], Value::Null);
        assert_eq!(
            told["answers"][1]["said"],
            "the answer is larger than 16 MiB"
        );
        assert_eq!(told["answers"][2]["said"], "no answer within 0 s");
    }

    #[test]
    fn every_question_looks_and_has_a_file_of_its_own() {
        let mut names: Vec<_> = QUESTIONS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), QUESTIONS.len());
        assert!(QUESTIONS.iter().all(|(_, line)| line.starts_with("show ")));
    }
}
