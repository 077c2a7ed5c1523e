//! The configuration of a gateway as a file here: pulled, pushed, kept.
//!
//! ```text
//!   pull   show configuration | display json ──────────────────────────────> FILE, whole
//!   push   configure
//!          load override terminal bytes 812 | display json   {"outcome":"loaded",...}
//!          ...the file, exactly so many bytes...
//!          commit confirmed 10 | display json                {"outcome":"applied","revision":8,...}
//!          exit
//! ```
//!
//! The script of a push travels by standard input: nothing of it is in the arguments of any process. A connection that
//! breaks before its end has brought too few bytes, and changes nothing.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Deserializer, Value};
use zeroize::Zeroizing;

use crate::connection::{Connection, ConnectionError, Question, printable};
use crate::deadline::Deadline;
use crate::file;
use crate::progress::Progress;
use crate::terminal;
use crate::{Outcome, RemoteError};

/// The largest configuration, in bytes.
const LARGEST: usize = 16 << 20;
/// As text for people and programs it is longer.
const LARGEST_TEXT: usize = 64 << 20;
/// How a configuration with secrets begins that `save with-secrets` wrote: its passphrase comes in the line behind it.
const SEALED: &[u8] = b"-----BEGIN CULVERT SEALED CONFIGURATION-----";
/// What came of a push.
const LARGEST_OUTCOME: usize = 16 << 20;

/// What is done with it.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Write the running configuration to a file, or to standard output; in place of secrets there are digests.
    Pull(Pull),
    /// Make a file, set lines or JSON, the configuration, and commit it.
    Push(Push),
    /// Keep the revision that is on probation after `push --confirmed`.
    Confirm,
}

/// `config pull`
#[derive(Debug, Args)]
pub struct Pull {
    /// The file; absent: standard output.
    file: Option<PathBuf>,
    /// Which form it shall have [default: json if FILE ends so, else set]
    #[arg(long, value_name = "FORM")]
    format: Option<Form>,
}

/// How a configuration is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// As commands.
    Set,
    /// For programs.
    Json,
}

/// `config push`
#[derive(Debug, Args)]
pub struct Push {
    /// The file; `-`: standard input.
    file: PathBuf,
    /// Say what it would do, and change nothing.
    #[arg(long, conflicts_with_all = ["confirmed", "comment", "force"])]
    check: bool,
    /// Taken back after so many minutes unless `config confirm` follows.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=1440))]
    confirmed: Option<u32>,
    /// Why; kept with the revision.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Set what is in the file, and leave all else as it is; otherwise the file is the whole configuration.
    #[arg(long)]
    merge: bool,
    /// Even if it cuts off the one who asks.
    #[arg(long)]
    force: bool,
}

/// What goes to the gateway.
#[derive(Default)]
pub struct Pushed {
    text: Zeroizing<Vec<u8>>,
    /// Of a sealed file.
    passphrase: Option<Zeroizing<String>>,
}

impl Pull {
    fn form(&self) -> Form {
        let json = self
            .file
            .as_ref()
            .and_then(|file| file.extension())
            .is_some_and(|extension| extension == "json");
        self.format
            .unwrap_or(if json { Form::Json } else { Form::Set })
    }

    /// Writes it.
    pub fn run(
        &self,
        connection: &Connection,
        deadline: Deadline,
        json: bool,
        progress: &Progress,
    ) -> Result<Outcome, RemoteError> {
        let form = self.form();
        let answer = connection.ask(
            Question {
                line: Some(match form {
                    Form::Set => "show configuration | display set",
                    Form::Json => "show configuration | display json",
                }),
                input: &[],
                largest: LARGEST_TEXT,
                deadline,
            },
            |_, came| progress.step(&format!("{} KiB of the configuration", came >> 10)),
        )?;
        if answer.status != 0 {
            return Err(RemoteError::refused(&answer.complaint));
        }
        let whole = match form {
            Form::Set => answer.text.is_empty() || answer.text.ends_with(b"\n"),
            Form::Json => serde_json::from_slice::<Value>(&answer.text).is_ok(),
        };
        if !whole {
            return Err(RemoteError::Incomplete);
        }
        let Some(name) = &self.file else {
            return Ok(Outcome::Text(answer.text));
        };
        file::write(name, &answer.text)?;
        Ok(Outcome::Said(if json {
            serde_json::json!({ "file": name, "bytes": answer.text.len() }).to_string()
        } else {
            format!("{}: {} bytes", name.display(), answer.text.len())
        }))
    }
}

impl Push {
    /// What is wrong with the command line of this, before anybody is asked.
    pub fn check(&self) -> Result<(), RemoteError> {
        match &self.comment {
            Some(comment) if comment.chars().any(char::is_control) => Err(RemoteError::Usage(
                "a comment is one line without control characters".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Reads the file, and asks for its passphrase if it has one: before anybody is connected to.
    pub fn read(&self) -> Result<Pushed, RemoteError> {
        let text = file::read(&self.file, LARGEST)?;
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(RemoteError::Usage(format!(
                "{} is empty: a gateway without any configuration lets nobody in",
                self.file.display()
            )));
        }
        let passphrase = if text.trim_ascii_start().starts_with(SEALED) {
            let question = format!("Passphrase of {}: ", self.file.display());
            let typed = terminal::secret(&question).map_err(|_| {
                RemoteError::Usage(format!(
                    "{} is sealed, and there is no terminal to ask for its passphrase",
                    self.file.display()
                ))
            })?;
            Some(typed)
        } else {
            None
        };
        Ok(Pushed { text, passphrase })
    }

    /// The lines before and behind the text.
    fn script(&self, bytes: usize) -> (String, String) {
        let mode = if self.merge { "merge" } else { "override" };
        let before = format!("configure\nload {mode} terminal bytes {bytes} | display json\n");
        let mut commit = "commit".to_owned();
        if self.check {
            commit.push_str(" check");
        }
        if let Some(minutes) = self.confirmed {
            let _ = write!(commit, " confirmed {minutes}");
        }
        if let Some(comment) = &self.comment {
            let _ = write!(commit, " comment {}", quoted(comment));
        }
        if self.force {
            commit.push_str(" force");
        }
        let behind = if self.check {
            "discard\nexit\n"
        } else {
            "exit\n"
        };
        (before, format!("{commit} | display json\n{behind}"))
    }

    /// Pushes it.
    pub fn run(
        &self,
        pushed: &Pushed,
        connection: &Connection,
        deadline: Deadline,
        json: bool,
        progress: &Progress,
    ) -> Result<Outcome, RemoteError> {
        let (before, behind) = self.script(pushed.text.len());
        let mut parts = vec![before.as_bytes(), &pushed.text];
        if let Some(passphrase) = &pushed.passphrase {
            parts.extend([passphrase.as_bytes(), b"\n"]);
        }
        parts.push(behind.as_bytes());
        // All at once: nothing of it is left behind where it was too small.
        let whole = parts.iter().map(|part| part.len()).sum();
        let mut input = Zeroizing::new(Vec::with_capacity(whole));
        for part in &parts {
            input.extend_from_slice(part);
        }
        let doing = if self.check { "checking" } else { "committing" };
        let answer = connection
            .ask(
                Question {
                    line: None,
                    input: &input,
                    largest: LARGEST_OUTCOME,
                    deadline,
                },
                |sent, _| {
                    if sent < input.len() {
                        progress.bytes("sending", sent, input.len());
                    } else {
                        progress.step(doing);
                    }
                },
            )
            .map_err(|error| match error {
                ConnectionError::Late(_)
                | ConnectionError::Broken(_)
                | ConnectionError::Killed(_)
                    if !self.check =>
                {
                    RemoteError::InDoubt(error)
                }
                error => error.into(),
            })?;
        let answers: Vec<Value> = Deserializer::from_slice(&answer.text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|_| RemoteError::Unclear)?;
        let Some(last) = answers.last() else {
            return Err(RemoteError::refused(&answer.complaint));
        };
        // A load that is refused is the only answer; a load that is not says nothing of the commit.
        if last["outcome"] == "loaded" {
            return Err(RemoteError::refused(&answer.complaint));
        }
        let good = matches!(
            last["outcome"].as_str(),
            Some("applied" | "pending" | "unchanged" | "checked")
        );
        let said = if json {
            last.to_string()
        } else {
            self.told(last, good)
        };
        match (good && answer.status == 0, json) {
            (true, _) => Ok(Outcome::Said(said)),
            (false, true) => Ok(Outcome::Failed(said)),
            (false, false) => Err(RemoteError::Refused(said)),
        }
    }

    /// In words; what is wrong with the file is said as compilers do.
    fn told(&self, answer: &Value, good: bool) -> String {
        let text = |value: &Value| printable(value.as_str().unwrap_or_default());
        let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
        let mut lines = Vec::new();
        if good {
            lines.push(text(&answer["message"]));
        } else if answer["outcome"] == "refused" {
            lines.push(
                "the gateway does not take this configuration; nothing is changed".to_owned(),
            );
            for problem in list("problems") {
                let mut line = self.file.display().to_string();
                if let Some(number) = problem["line"].as_u64() {
                    let _ = write!(line, ":{number}");
                }
                for part in [&problem["path"], &problem["message"]] {
                    match text(part) {
                        part if part.is_empty() => {}
                        part => {
                            let _ = write!(line, ": {part}");
                        }
                    }
                }
                lines.push(line);
            }
        } else {
            lines.push(text(&answer["message"]));
        }
        if good {
            for change in list("changes") {
                lines.push(format!(
                    "{:<8} {}",
                    text(&change["verb"]),
                    text(&change["value"])
                ));
            }
            for interrupt in list("interrupts") {
                lines.push(format!("! {}", text(&interrupt)));
            }
            for value in list("waiting") {
                lines.push(format!(
                    "{}: {}: {}",
                    text(&value["value"]),
                    text(&value["standing"]),
                    text(&value["reason"])
                ));
            }
        }
        lines.join("\n")
    }
}

/// Keeps what is on probation.
pub fn confirm(
    connection: &Connection,
    deadline: Deadline,
    json: bool,
) -> Result<Outcome, RemoteError> {
    let answer = connection.ask(
        Question {
            line: None,
            input: b"configure\nconfirm\nexit\n",
            largest: LARGEST_OUTCOME,
            deadline,
        },
        |_, _| {},
    )?;
    if answer.status != 0 {
        return Err(RemoteError::refused(&answer.complaint));
    }
    let said = answer.complaint.trim_end().to_owned();
    Ok(Outcome::Said(if json {
        serde_json::json!({ "outcome": "confirmed", "message": said }).to_string()
    } else {
        said
    }))
}

/// As one word of a line.
fn quoted(text: &str) -> String {
    let mut word = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            word.push('\\');
        }
        word.push(c);
    }
    word.push('"');
    word
}

/// To standard output: as it is for programs, without control characters for a person.
pub fn print(text: &[u8], person: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = if person {
        out.write_all(printable(&String::from_utf8_lossy(text)).as_bytes())
    } else {
        out.write_all(text)
    };
    match written.and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Whether this is a folder that a file could be written to: known before a gateway is asked for a long answer.
pub fn writable(file: &Path) -> Result<(), RemoteError> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(RemoteError::Usage(format!(
            "{}: there is no such folder",
            folder.display()
        ))),
        _ if file.is_dir() => Err(RemoteError::Usage(format!(
            "{}: this is a folder",
            file.display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn push() -> Push {
        Push {
            file: PathBuf::from("branch.set"),
            check: false,
            confirmed: None,
            comment: None,
            merge: false,
            force: false,
        }
    }

    #[test]
    fn a_push_is_a_script() {
        let (before, behind) = push().script(812);
        assert_eq!(
            before,
            "configure\nload override terminal bytes 812 | display json\n"
        );
        assert_eq!(behind, "commit | display json\nexit\n");
        let (before, behind) = Push {
            merge: true,
            confirmed: Some(10),
            comment: Some("say \"hi\" \\ bye".to_owned()),
            force: true,
            ..push()
        }
        .script(1);
        assert!(before.contains("load merge terminal"));
        assert_eq!(
            behind,
            "commit confirmed 10 comment \"say \\\"hi\\\" \\\\ bye\" force | display json\nexit\n"
        );
        let (_, behind) = Push {
            check: true,
            ..push()
        }
        .script(1);
        assert_eq!(behind, "commit check | display json\ndiscard\nexit\n");
    }

    #[test]
    fn a_comment_is_one_line() {
        let comment = Some("a\ncommit".to_owned());
        Push { comment, ..push() }.check().unwrap_err();
        push().check().unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let refused = json!({ "outcome": "refused", "problems": [
            { "path": "interfaces wan mtu", "message": "1 is below 68", "line": 14 },
            { "path": "", "message": "no admin has a key\u{1b}[2J", "line": null },
        ]});
        let told = push().told(&refused, false);
        assert!(
            told.contains("branch.set:14: interfaces wan mtu: 1 is below 68"),
            "{told}"
        );
        assert!(
            told.ends_with("branch.set: no admin has a key[2J"),
            "{told}"
        );
        let applied = json!({ "outcome": "applied", "message": "applied: revision 8" });
        assert_eq!(push().told(&applied, true), "applied: revision 8");
    }

    #[test]
    fn the_name_of_a_file_says_its_form() {
        let pull = |file: Option<&str>, format| Pull {
            file: file.map(PathBuf::from),
            format,
        };
        assert_eq!(pull(None, None).form(), Form::Set);
        assert_eq!(pull(Some("a.json"), None).form(), Form::Json);
        assert_eq!(pull(Some("a.json"), Some(Form::Set)).form(), Form::Set);
        assert_eq!(pull(Some("a.conf"), None).form(), Form::Set);
    }
}
