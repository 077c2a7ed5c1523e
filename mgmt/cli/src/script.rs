//! Lines from a file, a pipe or another machine: `ssh box 'show ipsec'`, a heredoc of `set` lines.
//!
//! The first line that fails ends it. What was not committed then is forgotten, so that a script changes the gateway by its
//! `commit` or not at all. Edits that are there together are sent together.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;

use culvert_model::api;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::commands::{Action, CONFIGURATION_MODE, LARGEST_TEXT};
use crate::error::{CliError, sentence};
use crate::screen::Screen;
use crate::secrets::may_hold_secret;
use crate::session::{Console, Failure, Session, edit_of};
use crate::words::{LexError, lex};

/// Edits that are sent together, at most.
const TOGETHER: usize = 500;

/// A longer line is none.
const LONGEST_LINE: u64 = 16 << 20;
/// Of standard input, beside a command.
const LONGEST_SECRET: u64 = 4096;

/// Lines, and where each begins.
struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
    /// What nobody may see stands elsewhere.
    beside: bool,
}

/// One line, which quotes may have made of several.
struct Numbered {
    number: u64,
    text: Zeroizing<String>,
}

/// Reads and does lines until the end or the first mistake, which is told with the number of its line where there are several. What
/// nobody may see is among the lines, or `beside` them on standard input.
pub fn run(
    runtime: &Runtime,
    session: &mut Session,
    screen: Screen,
    input: impl Read,
    numbered: bool,
    beside: bool,
) -> ExitCode {
    let mut lines = Lines {
        reader: BufReader::new(input),
        number: 0,
        beside,
    };
    let mut waiting = VecDeque::new();
    let outcome = all(runtime, session, screen, &mut lines, &mut waiting);
    let left = runtime.block_on(async {
        match session.uncommitted().await {
            Ok(0) | Err(_) => None,
            Ok(changes) => Some(changes),
        }
    });
    let dropped = runtime.block_on(session.drop_candidate());
    match outcome {
        Err((_, _, failure)) if matches!(failure.error, CliError::Answered) => ExitCode::FAILURE,
        Err((number, line, failure)) => {
            let number = numbered.then_some(number);
            screen.complain(&describe(number, &line, &failure));
            if left.is_some() {
                screen.complain("nothing of what came before it is committed");
            }
            ExitCode::FAILURE
        }
        Ok(()) => match (left, dropped) {
            (Some(changes), _) => {
                screen.complain(&format!(
                    "{changes} changes were not committed: the last line should be `commit`"
                ));
                ExitCode::FAILURE
            }
            // It went with its commit, or mgmt will forget it by itself.
            (None, _) => ExitCode::SUCCESS,
        },
    }
}

type Wrong = (u64, Zeroizing<String>, Failure);

fn all(
    runtime: &Runtime,
    session: &mut Session,
    screen: Screen,
    lines: &mut Lines<impl Read>,
    waiting: &mut VecDeque<(Numbered, api::Edit)>,
) -> Result<(), Wrong> {
    loop {
        if !waiting.is_empty() && (waiting.len() >= TOGETHER || !lines.more_is_there()) {
            send(runtime, session, waiting)?;
        }
        let Some(line) = lines.next()? else {
            return send(runtime, session, waiting);
        };
        let failed = |line: &Numbered, failure| (line.number, line.text.clone(), failure);
        if session.configuring().is_none() && is_change(&line.text) {
            runtime.block_on(session.open()).map_err(|error| {
                failed(
                    &line,
                    Failure {
                        error,
                        column: None,
                    },
                )
            })?;
        }
        let understood = session
            .understand(&line.text)
            .map_err(|failure| failed(&line, failure));
        let understood = match understood {
            Ok(understood) => understood,
            Err(wrong) => {
                // A mistake before this one comes first.
                send(runtime, session, waiting)?;
                return Err(wrong);
            }
        };
        let Some(understood) = understood else {
            continue;
        };
        if let Some(edit) = edit_of(&understood.parsed, &understood.line.words) {
            waiting.push_back((line, edit));
            continue;
        }
        send(runtime, session, waiting)?;
        let mut console = Pipe(lines);
        let output = runtime
            .block_on(session.execute(&line.text, &mut console))
            .map_err(|failure| failed(&line, failure))?;
        let (leave, wrong) = (output.leave, output.failed);
        match screen.show(&output) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            shown => shown
                .map_err(CliError::io("cannot write the answer"))
                .map_err(|error| {
                    failed(
                        &line,
                        Failure {
                            error,
                            column: None,
                        },
                    )
                })?,
        }
        if wrong {
            return Err(failed(
                &line,
                Failure {
                    error: CliError::Answered,
                    column: None,
                },
            ));
        }
        if leave {
            return Ok(());
        }
    }
}

/// A line that is for configuration mode alone.
fn is_change(line: &str) -> bool {
    let Ok(line) = lex(line) else {
        return false;
    };
    crate::grammar::parse(CONFIGURATION_MODE, &line.words).is_ok_and(|parsed| {
        matches!(
            parsed.action,
            Action::Set
                | Action::Delete
                | Action::Rename
                | Action::Copy
                | Action::Load
                | Action::Edit
                | Action::GenerateKey
                | Action::RequestCertificate
                | Action::Deactivate
                | Action::Activate
                | Action::Annotate
                | Action::Insert
        )
    })
}

fn send(
    runtime: &Runtime,
    session: &mut Session,
    waiting: &mut VecDeque<(Numbered, api::Edit)>,
) -> Result<(), Wrong> {
    let (lines, edits): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
    let Some(first) = lines.first() else {
        return Ok(());
    };
    let failed = |line: &Numbered, failure| (line.number, line.text.clone(), failure);
    let found = runtime.block_on(session.edit_all(edits)).map_err(|error| {
        failed(
            first,
            Failure {
                error,
                column: None,
            },
        )
    })?;
    let Some(problem) = found.first() else {
        return Ok(());
    };
    let line = problem
        .edit
        .and_then(|edit| lines.get(usize::try_from(edit).ok()?))
        .unwrap_or(first);
    let column = problem.word.and_then(|word| {
        let understood = session.understand(&line.text).ok()??;
        let word = crate::session::word_of(&understood.parsed, usize::try_from(word).ok()?);
        understood.line.words.get(word).map(|word| word.start)
    });
    let error = CliError::Not(if column.is_some() {
        problem.message.clone()
    } else {
        sentence(problem)
    });
    Err(failed(line, Failure { error, column }))
}

/// Names the line, shows it with the word that is wrong, unless it may hold a secret.
fn describe(number: Option<u64>, line: &str, failure: &Failure) -> String {
    let mut text = number.map_or_else(String::new, |number| format!("line {number}: "));
    text.push_str(&failure.error.sentence());
    let single = line.trim_end();
    if may_hold_secret(line) || single.contains('\n') || single.is_empty() {
        return text;
    }
    let _ = write!(text, "\n  {single}");
    if let Some(column) = failure.column {
        let before = line
            .get(..column)
            .map_or_else(|| line.chars().count() + 1, |before| before.chars().count());
        let _ = write!(text, "\n  {}^", " ".repeat(before));
    }
    text
}

impl<R: Read> Lines<R> {
    /// Without waiting.
    fn more_is_there(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// The next line; quotes that are open at its end go on in the one behind.
    fn next(&mut self) -> Result<Option<Numbered>, Wrong> {
        let mut text = Zeroizing::new(String::new());
        let number = self.number + 1;
        loop {
            let wrong = |error| {
                (
                    number,
                    Zeroizing::new(String::new()),
                    Failure {
                        error,
                        column: None,
                    },
                )
            };
            let more = self.read_line(&mut text).map_err(wrong)?;
            let open = matches!(lex(trimmed(&text)), Err(LexError::OpenQuote { .. }));
            if !more && text.is_empty() {
                return Ok(None);
            }
            if !more || !open {
                let whole = Zeroizing::new(trimmed(&text).to_owned());
                return Ok(Some(Numbered {
                    number,
                    text: whole,
                }));
            }
        }
    }

    /// The next bytes, of which none may be missing: a connection that breaks makes no shorter text.
    fn exactly(&mut self, bytes: u64) -> Result<Zeroizing<String>, CliError> {
        let whole = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > LARGEST_TEXT {
            return Err(CliError::Not(format!(
                "a text has {} MiB at most",
                LARGEST_TEXT >> 20
            )));
        }
        let mut text = Zeroizing::new(vec![0; whole]);
        let mut there = 0;
        while let Some(room) = text.get_mut(there..).filter(|room| !room.is_empty()) {
            match self.reader.read(room) {
                Ok(0) => {
                    return Err(CliError::Not(format!(
                        "the text ended after {there} of {bytes} bytes"
                    )));
                }
                Ok(more) => there += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CliError::io("cannot read the text")(error)),
            }
        }
        self.number += text.split(|byte| *byte == b'\n').skip(1).count() as u64;
        match String::from_utf8(std::mem::take(&mut *text)) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(wrong) => {
                let at = wrong.utf8_error().valid_up_to();
                drop(Zeroizing::new(wrong.into_bytes()));
                Err(CliError::Not(format!("byte {at} of the text is no UTF-8")))
            }
        }
    }

    /// Whether there was one.
    fn read_line(&mut self, text: &mut String) -> Result<bool, CliError> {
        let room = LONGEST_LINE.saturating_sub(text.len() as u64);
        let read = (&mut self.reader)
            .take(room)
            .read_line(text)
            .map_err(CliError::io("cannot read the lines"))?;
        self.number += u64::from(read > 0);
        if text.len() as u64 >= LONGEST_LINE {
            return Err(CliError::Not(format!(
                "a line has {} bytes or more; at most {LONGEST_LINE} are taken",
                text.len()
            )));
        }
        Ok(read > 0)
    }
}

fn trimmed(text: &str) -> &str {
    text.strip_suffix('\n')
        .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

/// Nobody is asked; a text comes from the lines behind.
struct Pipe<'a, R>(&'a mut Lines<R>);

impl<R: Read> Console for Pipe<'_, R> {
    fn ask(&mut self, _: &str) -> Result<Option<String>, CliError> {
        Ok(None)
    }

    /// The next line; of a command, which other users may see, that of standard input.
    fn secret(&mut self, _: &str) -> Result<Option<Zeroizing<String>>, CliError> {
        let mut line = Zeroizing::new(String::new());
        let read = if self.0.beside {
            io::stdin()
                .lock()
                .take(LONGEST_SECRET)
                .read_line(&mut line)
                .map_err(CliError::io("cannot read standard input"))?
                > 0
        } else {
            self.0.read_line(&mut line)?
        };
        Ok(read.then(|| Zeroizing::new(trimmed(&line).to_owned())))
    }

    fn text(&mut self) -> Result<Zeroizing<String>, CliError> {
        let mut text = Zeroizing::new(String::new());
        let mut line = Zeroizing::new(String::new());
        while self.0.read_line(&mut line)? {
            if trimmed(&line) == "." {
                break;
            }
            text.push_str(&line);
            line.clear();
            if text.len() as u64 > LONGEST_LINE {
                return Err(CliError::Not(format!(
                    "the text has {} bytes or more; at most {LONGEST_LINE} are taken",
                    text.len()
                )));
            }
        }
        Ok(text)
    }

    fn exactly(&mut self, bytes: u64) -> Result<Zeroizing<String>, CliError> {
        self.0.exactly(bytes)
    }

    fn tell(&mut self, bytes: &[u8]) -> Result<bool, CliError> {
        Screen::write_now(bytes).map_err(CliError::io("cannot write the answer"))
    }

    fn is_person(&self) -> bool {
        false
    }
}
