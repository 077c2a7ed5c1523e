//! Changes as lines: what the command line takes, what a file of set lines holds.
//!
//! ```text
//! set SETTING                         delete PLACE
//! rename PLACE to KEY                 copy PLACE to KEY
//! insert PLACE before|after KEY       insert PLACE first|last
//! deactivate PLACE                    activate PLACE
//! annotate PLACE with COMMENT
//! ```

use std::fmt;
use std::ops::Range;

use super::error::{TreeError, WordError, WordReason};
use super::location::{Cursor, Location, Place, Setting, State};
use super::words::{LineReason, split};
use super::{Position, Tree};
use crate::decode::MAX_ERRORS;
use crate::decode::error::nearest;
use crate::decode::leaf::shortened;

/// One change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// [`Tree::set`].
    Set(Setting),
    /// [`Tree::delete`].
    Delete(Location),
    /// [`Tree::rename`].
    Rename {
        /// The item.
        from: Location,
        /// What it is to be.
        to: Location,
    },
    /// [`Tree::copy`].
    Copy {
        /// The item.
        from: Location,
        /// What is to be like it.
        to: Location,
    },
    /// [`Tree::deactivate`].
    Deactivate(Location),
    /// [`Tree::activate`].
    Activate(Location),
    /// [`Tree::annotate`].
    Annotate {
        /// What it is about.
        place: Location,
        /// The comment.
        comment: String,
    },
    /// [`Tree::reorder`].
    Insert {
        /// The item.
        item: Location,
        /// Where it goes.
        position: Position,
    },
}

/// The words that a change begins with.
pub const VERBS: [&str; 8] = [
    "activate",
    "annotate",
    "copy",
    "deactivate",
    "delete",
    "insert",
    "rename",
    "set",
];

impl Edit {
    /// From the words of a line, the verb among them, at `at`.
    pub fn parse<W: AsRef<str>>(words: &[W], at: &Location) -> Result<Self, WordError> {
        let Some((verb, rest)) = words.split_first() else {
            return Err(missing(0, &format!("one of {}", VERBS.join(", "))));
        };
        let edit = match verb.as_ref() {
            "set" => Setting::parse(rest, at).map(Self::Set),
            "delete" => Location::parse(rest, at).map(Self::Delete),
            "rename" => two_keys(rest, at, &["to"]).map(|(from, _, to)| Self::Rename { from, to }),
            "copy" => two_keys(rest, at, &["to"]).map(|(from, _, to)| Self::Copy { from, to }),
            "insert" => insertion(rest, at),
            "deactivate" => Location::parse(rest, at).map(Self::Deactivate),
            "activate" => Location::parse(rest, at).map(Self::Activate),
            "annotate" => annotation(rest, at),
            other => {
                return Err(WordError {
                    word: 0,
                    reason: WordReason::Unknown {
                        given: shortened(other),
                        nearest: nearest(other, VERBS),
                        known: VERBS.map(str::to_owned).to_vec(),
                    },
                });
            }
        };
        edit.map_err(|error| WordError {
            word: error.word + 1,
            ..error
        })
    }
}

fn missing(word: usize, expected: &str) -> WordError {
    WordError {
        word,
        reason: WordReason::Missing {
            expected: expected.to_owned(),
        },
    }
}

/// An item, the word after it, and the place of that word. No field has such a name, so that the first that
/// stands where a field could is meant.
fn item_until<W: AsRef<str>>(
    words: &[W],
    at: &Location,
    until: &[&'static str],
) -> Result<(Location, &'static str, usize), WordError> {
    let mut cursor = Cursor::at(at);
    for (index, word) in words.iter().enumerate() {
        let found = until.iter().find(|end| **end == word.as_ref());
        if let (Some(end), State::Message(_), Place::Item) =
            (found, &cursor.state, cursor.location.place())
        {
            return Ok((cursor.location, end, index));
        }
        cursor.step(word.as_ref()).map_err(|reason| WordError {
            word: index,
            reason,
        })?;
    }
    let expected = if cursor.location.place() == Place::Item {
        until.join(" or ")
    } else {
        "an item of a list".to_owned()
    };
    Err(missing(words.len(), &expected))
}

/// An item, a word, and an item of the same list.
fn two_keys<W: AsRef<str>>(
    words: &[W],
    at: &Location,
    between: &[&'static str],
) -> Result<(Location, &'static str, Location), WordError> {
    let (from, word, index) = item_until(words, at, between)?;
    let rest = words.get(index + 1..).unwrap_or_default();
    let to = from.sibling(rest).map_err(|error| WordError {
        word: index + 1 + error.word,
        ..error
    })?;
    Ok((from, word, to))
}

/// A place, `with`, and a comment. A value never follows: the last `with` but one word is meant.
fn annotation<W: AsRef<str>>(words: &[W], at: &Location) -> Result<Edit, WordError> {
    let Some(([place @ .., with], comment)) = words.split_last().map(|(last, rest)| (rest, last))
    else {
        return Err(missing(words.len(), "a place, with, and a comment"));
    };
    if with.as_ref() != "with" {
        return Err(missing(words.len(), "with and a comment"));
    }
    Ok(Edit::Annotate {
        place: Location::parse(place, at)?,
        comment: comment.as_ref().to_owned(),
    })
}

fn insertion<W: AsRef<str>>(words: &[W], at: &Location) -> Result<Edit, WordError> {
    let (item, word, index) = item_until(words, at, &["before", "after", "first", "last"])?;
    let position = match word {
        "before" | "after" => {
            let (_, _, other) = two_keys(words, at, &["before", "after"])?;
            if word == "before" {
                Position::Before(other)
            } else {
                Position::After(other)
            }
        }
        _ if words.len() > index + 1 => {
            return Err(WordError {
                word: index + 1,
                reason: WordReason::Extra {
                    after: word.to_owned(),
                },
            });
        }
        "first" => Position::First,
        _ => Position::Last,
    };
    Ok(Edit::Insert { item, position })
}

/// What is wrong with one of several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFault {
    /// Which line, counted from 1.
    pub line: usize,
    /// Where in it, in bytes.
    pub span: Range<usize>,
    /// What.
    pub reason: FaultReason,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line,
            self.span.start + 1,
            self.reason
        )
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultReason {
    /// It is not made of words.
    #[error("{0}")]
    Line(LineReason),
    /// One of its words is not right.
    #[error("{0}")]
    Word(WordReason),
    /// It cannot be done.
    #[error("{0}")]
    Tree(TreeError),
}

impl Tree {
    /// Makes one change. Gives back what else changed with it: what refers to a renamed item.
    pub fn edit(&mut self, edit: &Edit) -> Result<Vec<Location>, TreeError> {
        match edit {
            Edit::Set(setting) => self.set(setting)?,
            Edit::Delete(location) => self.delete(location)?,
            Edit::Rename { from, to } => return self.rename(from, to),
            Edit::Copy { from, to } => self.copy(from, to)?,
            Edit::Deactivate(place) => self.deactivate(place)?,
            Edit::Activate(place) => self.activate(place)?,
            Edit::Annotate { place, comment } => self.annotate(place, comment)?,
            Edit::Insert { item, position } => self.reorder(item, position)?,
        }
        Ok(Vec::new())
    }

    /// The tree with all changes of a text made, a line each, from `at` on. Empty lines and comments are passed
    /// over. If anything is wrong all that is, up to 100 lines, is told and nothing is changed.
    pub fn load(&self, text: &str, at: &Location) -> Result<Self, Vec<LineFault>> {
        let mut tree = self.clone();
        let mut faults = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if faults.len() >= MAX_ERRORS {
                break;
            }
            if let Err((span, reason)) = tree.load_line(line, at) {
                faults.push(LineFault {
                    line: index + 1,
                    span,
                    reason,
                });
            }
        }
        if faults.is_empty() {
            Ok(tree)
        } else {
            Err(faults)
        }
    }

    fn load_line(&mut self, line: &str, at: &Location) -> Result<(), (Range<usize>, FaultReason)> {
        let words = split(line).map_err(|error| (error.span, FaultReason::Line(error.reason)))?;
        let (Some(first), Some(last)) = (words.first(), words.last()) else {
            return Ok(());
        };
        let whole = first.span.start..last.span.end;
        let edit = Edit::parse(&words, at).map_err(|error| {
            let span = words.get(error.word).map(|word| word.span.clone());
            let span = span.unwrap_or(last.span.end..last.span.end);
            (span, FaultReason::Word(error.reason))
        })?;
        match self.edit(&edit) {
            Ok(_) => Ok(()),
            Err(error) => Err((whole, FaultReason::Tree(error))),
        }
    }
}
