//! A gateway from an engineer's machine: `culvert remote`, over SSH.
//!
//! ```text
//!   culvert remote --host ADDR ──ssh2──> sshd ── culvert cli, as the user whose key it is ── mgmt
//!                                │
//!                 known_hosts ───┤   show WORDS             a line, its answer
//!                 agent, key ────┤   config pull | push     a file each way, through a channel of the connection
//!                                └── support-bundle         many lines, one archive
//! ```
//!
//! It says nothing that `ssh culvert@ADDR` could not: a second way in would be a second thing to keep shut. There is one
//! Unix account for everybody, so the key alone tells who speaks.
//!
//! Every wait ends (`--timeout`), every answer is bounded, and a file is written whole or not at all. The exit status is
//! 0 when it is done, 1 when it was refused or failed, 2 when it was asked for wrongly.

mod bundle;
mod configuration;
mod connection;
mod deadline;
mod destination;
mod file;
mod identity;
mod known_hosts;
mod progress;
mod terminal;

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::connection::{Connection, ConnectionError, Question, Trust, printable};
use crate::deadline::Deadline;
use crate::destination::Destination;
use crate::file::FileError;
use crate::progress::Progress;

/// The most that `show` may answer: a table of routes is long.
const LARGEST: usize = 256 << 20;
/// What clap ends with, too.
const USAGE: u8 = 2;

/// What `culvert remote` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The gateway: ADDR or ADDR:PORT, an IPv6 address before a port in brackets
    #[arg(long, value_name = "ADDR[:PORT]")]
    host: Destination,
    // Help is for people at a terminal, who see no marks of documentation.
    #[allow(clippy::doc_markdown)]
    /// The private key to log in with [default: those of the agent, else ~/.ssh/id_ed25519, id_ecdsa, id_rsa]
    #[arg(long, value_name = "FILE", global = true)]
    identity: Option<PathBuf>,
    #[allow(clippy::doc_markdown)]
    /// Where the keys of gateways are kept [default: ~/.ssh/known_hosts, and those of the machine]
    #[arg(long, value_name = "FILE", global = true)]
    known_hosts: Option<PathBuf>,
    /// Add the key of a gateway that is not known yet, instead of refusing it.
    #[arg(long, global = true)]
    accept_new: bool,
    /// How long it may take in all.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, global = true,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Look: what `show WORDS...` says at the gateway's own command line, pipes included.
    Show {
        /// The words behind `show`, for example: routes vrf blue
        words: Vec<String>,
    },
    /// The configuration as a file.
    #[command(subcommand)]
    Config(configuration::Action),
    /// What somebody who helps wants to see, without secrets, in one file (tar, gzip).
    SupportBundle {
        /// The file.
        file: PathBuf,
    },
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    /// It was asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// The gateway said no.
    #[error("{0}")]
    Refused(String),
    /// The gateway is not reached, or did not answer.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// It is not known whether it was done.
    #[error("{0}; `show configuration revisions` tells whether it was committed nevertheless")]
    InDoubt(#[source] ConnectionError),
    /// A file of this machine.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is cut off.
    #[error("the gateway's answer is not whole; nothing was written")]
    Incomplete,
    /// It speaks otherwise.
    #[error(
        "the gateway's answer is not understood: it may be of another version; `show configuration revisions` tells what came of it"
    )]
    Unclear,
    /// Standard output.
    #[error("the answer could not be written: {0}")]
    Output(#[source] io::Error),
}

impl RemoteError {
    /// In the words of the gateway.
    fn refused(complaint: &str) -> Self {
        Self::Refused(match complaint.trim_end() {
            "" => "the gateway refused, and said nothing".to_owned(),
            said => format!("the gateway says: {said}"),
        })
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An answer, as it came.
    Text(Zeroizing<Vec<u8>>),
    /// A sentence, or JSON.
    Said(String),
    /// JSON about what was refused.
    Failed(String),
}

/// Does it, and says what is wrong.
pub fn execute(arguments: &Arguments) -> ExitCode {
    run(arguments).unwrap_or_else(|error| {
        // Each error names its cause already.
        eprintln!("culvert: {error}");
        match error {
            RemoteError::Usage(_) => ExitCode::from(USAGE),
            _ => ExitCode::FAILURE,
        }
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, RemoteError> {
    let deadline = Deadline::after(Duration::from_secs(arguments.timeout));
    // Whatever is wrong here is told before there is a connection.
    let line = match &arguments.action {
        Action::Show { words } => Some(line(words, arguments.json)?),
        Action::SupportBundle { file } => {
            configuration::writable(file)?;
            None
        }
        Action::Config(_) => None,
    };
    let pushed = match &arguments.action {
        Action::Config(configuration::Action::Push(push)) => {
            push.check()?;
            push.read()?
        }
        _ => configuration::Pushed::default(),
    };
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let trust = Trust {
        identity: arguments.identity.as_deref(),
        known_hosts: arguments.known_hosts.as_deref(),
        accept_new: arguments.accept_new,
        home: &home,
    };
    let connection = Connection::open(&arguments.host, trust, deadline)?;
    if let Some(added) = &connection.added {
        eprintln!(
            "{} is known from now on by {} ({})",
            added.name,
            added.fingerprint,
            added.file.display()
        );
    }
    let progress = Progress::begin(&format!("asking {}", arguments.host));
    let json = arguments.json;
    let outcome = match &arguments.action {
        Action::Show { .. } => show(
            line.as_deref().unwrap_or("show"),
            &connection,
            deadline,
            progress,
        ),
        Action::Config(configuration::Action::Pull(pull)) => {
            pull.run(&connection, deadline, json, &progress)
        }
        Action::Config(configuration::Action::Push(push)) => {
            push.run(&pushed, &connection, deadline, json, &progress)
        }
        Action::Config(configuration::Action::Confirm) => {
            configuration::confirm(&connection, deadline, json)
        }
        Action::SupportBundle { file } => bundle::run(
            file,
            &arguments.host,
            &connection,
            deadline,
            json,
            &progress,
        ),
    }?;
    let person = io::stdout().is_terminal();
    let (bytes, status) = match &outcome {
        Outcome::Text(text) => (Zeroizing::new(text.to_vec()), ExitCode::SUCCESS),
        Outcome::Said(said) => (
            Zeroizing::new(format!("{said}\n").into_bytes()),
            ExitCode::SUCCESS,
        ),
        Outcome::Failed(said) => (
            Zeroizing::new(format!("{said}\n").into_bytes()),
            ExitCode::FAILURE,
        ),
    };
    configuration::print(&bytes, person).map_err(RemoteError::Output)?;
    Ok(status)
}

/// As ssh does: with a blank between words.
fn line(words: &[String], json: bool) -> Result<String, RemoteError> {
    let mut line = format!("show {}", words.join(" "));
    if line.chars().any(char::is_control) {
        return Err(RemoteError::Usage(
            "`show` is one line without control characters".to_owned(),
        ));
    }
    if json {
        line.push_str(" | display json");
    }
    Ok(line)
}

fn show(
    line: &str,
    connection: &Connection,
    deadline: Deadline,
    progress: Progress,
) -> Result<Outcome, RemoteError> {
    let answer = connection.ask(
        Question {
            line: Some(line),
            input: &[],
            largest: LARGEST,
            deadline,
        },
        |_, came| progress.step(&format!("{} KiB", came >> 10)),
    )?;
    drop(progress);
    if answer.status != 0 {
        return Err(RemoteError::refused(&answer.complaint));
    }
    eprint!("{}", printable(&answer.complaint));
    Ok(Outcome::Text(answer.text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        remote: Arguments,
    }

    fn parsed(words: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("remote").chain(words.split(' '));
        Alone::try_parse_from(words).map(|alone| alone.remote)
    }

    #[test]
    fn arguments_are_understood_or_refused_as_usage() {
        Alone::command().debug_assert();
        let arguments =
            parsed("--host 10.1.0.1:2222 --identity k config push f --confirmed 10 --merge --json")
                .unwrap();
        assert!(arguments.json && arguments.host.port == 2222);
        parsed("--host box show routes vrf blue --timeout 5").unwrap();
        parsed("--host box config pull").unwrap();
        parsed("--host box support-bundle b.tar.gz --accept-new").unwrap();
        for wrong in [
            "show routes",
            "--host a@b show",
            "--host box:0 show",
            "--host box config push",
            "--host box config push f --confirmed 0",
            "--host box config push f --check --confirmed 5",
            "--host box config pull --format xml",
            "--host box --timeout 0 show",
            "--host box",
        ] {
            assert_eq!(
                parsed(wrong).unwrap_err().exit_code(),
                i32::from(USAGE),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_line_is_what_ssh_would_send() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        assert_eq!(
            line(&words("routes | match 10"), false).unwrap(),
            "show routes | match 10"
        );
        assert_eq!(
            line(&words("ike"), true).unwrap(),
            "show ike | display json"
        );
        line(&["a\nconfigure".to_owned()], false).unwrap_err();
    }
}
