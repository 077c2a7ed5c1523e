//! What can go wrong with a line, in words for the one who wrote it.

use std::fmt::Write as _;
use std::io;

use culvert_mgmt_api::ConnectError;
use culvert_model::api::Problem;
use tonic::{Code, Status};

use crate::grammar::Mistake;
use crate::pipes::PipeMistake;
use crate::words::{LexError, Line};

/// Why a line did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// It cannot be taken apart.
    #[error(transparent)]
    Lex(#[from] LexError),
    /// A word of it is wrong.
    #[error("{}", .0.message)]
    Usage(Mistake),
    /// A word behind a pipe is wrong.
    #[error("{}", .0.mistake.message)]
    Pipe(PipeMistake),
    /// Something is wrong with the configuration.
    #[error("{}", sentences(.0))]
    Problems(Vec<Problem>),
    /// mgmt is not reached.
    #[error(transparent)]
    NotReached(#[from] ConnectError),
    /// mgmt refused.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// It was not possible now, or not so.
    #[error("{0}")]
    Not(String),
    /// The answer itself says what is wrong, for programs.
    #[error("the answer says what is wrong")]
    Answered,
    /// Ctrl-C.
    #[error("stopped waiting")]
    Interrupted,
    /// A file or the terminal.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        source: io::Error,
    },
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl CliError {
    /// A file or the terminal.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether mgmt does not know, or no longer knows, who this is: then there is nothing more to be asked.
    pub fn ends_the_session(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::Unauthenticated)
    }

    /// Everything that is to be said: the error and its causes.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }

    /// The byte of the line that it is about.
    pub fn column(&self, line: &Line) -> Option<usize> {
        match self {
            Self::Lex(error) => Some(error.at()),
            Self::Usage(mistake) => word_at(&line.words, mistake.word),
            Self::Pipe(wrong) => word_at(line.pipes.get(wrong.pipe)?, wrong.mistake.word),
            _ => None,
        }
    }
}

/// Where a word begins; behind the last one: one blank after it.
fn word_at(words: &[crate::words::Word], number: usize) -> Option<usize> {
    match words.get(number) {
        Some(word) => Some(word.start),
        None => words.last().map(|word| word.end + 1),
    }
}

fn refusal(status: &Status) -> String {
    let said = status.message();
    match status.code() {
        // Said by the connection, not by mgmt.
        _ if std::error::Error::source(status).is_some() => {
            format!("mgmt does not answer now: {said}; try again")
        }
        Code::Unimplemented => "this gateway's mgmt does not know how to do that".to_owned(),
        _ if said.is_empty() => format!("refused: {}", status.code().description()),
        _ => said.to_owned(),
    }
}

fn sentences(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(sentence).collect();
    lines.join("\n")
}

/// A problem, with where it is.
pub fn sentence(problem: &Problem) -> String {
    let mut text = String::new();
    if let Some(line) = problem.line {
        let _ = write!(text, "line {line}: ");
    }
    if !problem.path.is_empty() {
        let _ = write!(text, "{}: ", problem.path);
    }
    text.push_str(&problem.message);
    text
}
