//! One line, word by word: the only place where quotes, escapes and pipes are understood.
//!
//! ```text
//!   set a "b c" d\|e | match x      words  [set] [a] [b c] [d|e]      pipes  [[match] [x]]
//! ```
//!
//! A word ends at a blank or at `|`. Within `"..."` both are characters like others, and `\"`, `\\`, `\n`, `\t` and `\r` mean
//! what they mean in most languages; within `'...'` every character is itself. Outside of quotes a backslash takes
//! the next character as it is. A word that begins with `#` begins a comment, which goes on to the end of the line.

use std::fmt;
use std::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A word, and where it stands in its line. It may be a secret: it is wiped when dropped, and never formatted.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Word {
    /// Without quotes and escapes.
    pub text: String,
    /// First byte in the line.
    pub start: usize,
    /// One beyond the last byte in the line.
    pub end: usize,
    /// Some of it was quoted or escaped: it is not a keyword.
    pub quoted: bool,
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Word({}..{})", self.start, self.end)
    }
}

/// A line: a command, and the pipes behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The command's words; none of an empty line or a comment.
    pub words: Vec<Word>,
    /// Of each pipe.
    pub pipes: Vec<Vec<Word>>,
}

/// A line up to the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Whole words of the part that the cursor is in.
    pub words: Vec<Word>,
    /// The word at the cursor: empty after a blank.
    pub partial: Word,
    /// Which quotes the cursor is in.
    pub quote: Option<char>,
    /// The cursor is behind a `|`.
    pub in_pipe: bool,
    /// The cursor is in a comment.
    pub comment: bool,
}

/// Why a line cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// Quotes that are never closed.
    #[error("the quotes that begin here are not closed")]
    OpenQuote {
        /// Where they begin.
        at: usize,
    },
    /// Nothing follows a backslash.
    #[error("a backslash stands before the character that is meant as it is: nothing follows")]
    Escape {
        /// Of the backslash.
        at: usize,
    },
    /// Nothing stands before or behind a pipe.
    #[error(
        "a command stands before '|' and a filter behind it: match, except, count, last, display, no-more"
    )]
    EmptyPipe {
        /// Of the pipe.
        at: usize,
    },
}

impl LexError {
    /// The byte of the line that it is about.
    pub fn at(&self) -> usize {
        match *self {
            Self::OpenQuote { at } | Self::Escape { at } | Self::EmptyPipe { at } => at,
        }
    }
}

/// Takes a line apart.
pub fn lex(line: &str) -> Result<Line, LexError> {
    let scan = Scan::over(line);
    if let Some((at, _)) = scan.quote {
        return Err(LexError::OpenQuote { at });
    }
    if let Some(at) = scan.escape {
        return Err(LexError::Escape { at });
    }
    if let Some(at) = scan.empty_pipe() {
        return Err(LexError::EmptyPipe { at });
    }
    let mut parts = scan.parts.into_iter();
    Ok(Line {
        words: parts.next().unwrap_or_default(),
        pipes: parts.collect(),
    })
}

/// Takes apart what stands before the cursor.
pub fn lex_beginning(before_cursor: &str) -> Beginning {
    let mut scan = Scan::over(before_cursor);
    let mut words = scan.parts.pop().unwrap_or_default();
    let end = before_cursor.len();
    let open = scan.quote.is_some() || scan.escape.is_some();
    let partial = match words.last() {
        Some(last) if last.end == end || open => words.pop(),
        _ => None,
    };
    Beginning {
        words,
        partial: partial.unwrap_or(Word {
            text: String::new(),
            start: end,
            end,
            quoted: false,
        }),
        quote: scan.quote.map(|(_, quote)| quote),
        in_pipe: !scan.parts.is_empty(),
        comment: scan.comment,
    }
}

/// A word as it is written: [`lex`] gives it back.
pub fn quote(word: &str) -> String {
    let plain = !word.is_empty()
        && !word.starts_with('#')
        && !word
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "|\"'\\".contains(c));
    if plain {
        return word.to_owned();
    }
    let mut text = String::with_capacity(word.len() + 2);
    text.push('"');
    escape_into(&mut text, word);
    text.push('"');
    text
}

/// Within double quotes.
fn escape_into(text: &mut String, part: &str) {
    for c in part.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            _ => text.push(c),
        }
    }
}

/// The rest of a word whose beginning stands there already, within `quote` or without, as it is typed.
pub fn continuation(rest: &str, quote: Option<char>) -> String {
    let mut text = String::with_capacity(rest.len());
    match quote {
        Some('"') => escape_into(&mut text, rest),
        Some(_) => text.push_str(rest),
        None => {
            for c in rest.chars() {
                if c.is_whitespace() || "|\"'\\".contains(c) {
                    text.push('\\');
                }
                text.push(c);
            }
        }
    }
    text
}

/// Words joined as they are written.
pub fn join<S: AsRef<str>>(words: &[S]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&quote(word.as_ref()));
    }
    text
}

/// The texts of some words.
pub fn texts(words: &[Word], range: Range<usize>) -> Vec<String> {
    words
        .get(range)
        .unwrap_or_default()
        .iter()
        .map(|word| word.text.clone())
        .collect()
}

/// What was found, whole or not.
struct Scan {
    /// Words between pipes; at least one part.
    parts: Vec<Vec<Word>>,
    /// Where the pipes are.
    bars: Vec<usize>,
    /// Open at the end: where it began, and which.
    quote: Option<(usize, char)>,
    /// A backslash at the end.
    escape: Option<usize>,
    comment: bool,
}

impl Scan {
    fn over(line: &str) -> Self {
        let mut scan = Self {
            parts: vec![Vec::new()],
            bars: Vec::new(),
            quote: None,
            escape: None,
            comment: false,
        };
        let mut word: Option<Word> = None;
        let mut done = 0;
        for (at, c) in line.char_indices() {
            let behind = at + c.len_utf8();
            if at < done {
                continue;
            }
            if scan.escape.take().is_some() {
                if let (Some(_), 'u', Some((letter, length))) =
                    (scan.quote, c, line.get(behind..).and_then(by_number))
                {
                    done = behind + length;
                    grow(&mut word, at, done, Some(letter));
                    continue;
                }
                let plain = match (scan.quote, c) {
                    (Some(_), 'n') => '\n',
                    (Some(_), 't') => '\t',
                    (Some(_), 'r') => '\r',
                    _ => c,
                };
                grow(&mut word, at, behind, Some(plain));
                continue;
            }
            match (scan.quote, c) {
                (Some((_, quote)), _) if c == quote => {
                    scan.quote = None;
                    grow(&mut word, at, behind, None);
                }
                (None | Some((_, '"')), '\\') => {
                    scan.escape = Some(at);
                    grow(&mut word, at, behind, None).quoted = true;
                }
                (None, '"' | '\'') => {
                    scan.quote = Some((at, c));
                    grow(&mut word, at, behind, None).quoted = true;
                }
                (None, '#') if word.is_none() => {
                    scan.comment = true;
                    break;
                }
                (None, '|') => {
                    scan.keep(word.take());
                    scan.parts.push(Vec::new());
                    scan.bars.push(at);
                }
                (None, _) if c.is_whitespace() => scan.keep(word.take()),
                _ => {
                    grow(&mut word, at, behind, Some(c));
                }
            }
        }
        scan.keep(word);
        scan
    }

    fn keep(&mut self, word: Option<Word>) {
        if let (Some(part), Some(word)) = (self.parts.last_mut(), word) {
            part.push(word);
        }
    }

    /// The first pipe without anything before or behind it.
    fn empty_pipe(&self) -> Option<usize> {
        self.bars
            .iter()
            .zip(self.parts.iter().zip(self.parts.iter().skip(1)))
            .find(|(_, (before, behind))| before.is_empty() || behind.is_empty())
            .map(|(&at, _)| at)
    }
}

/// `{41}` as the letter of that number, and how long it is.
fn by_number(text: &str) -> Option<(char, usize)> {
    let digits = text.strip_prefix('{')?;
    let end = digits.find('}').filter(|end| *end <= 6)?;
    let number = u32::from_str_radix(digits.get(..end)?, 16).ok()?;
    Some((char::from_u32(number)?, end + 2))
}

fn grow(word: &mut Option<Word>, at: usize, behind: usize, c: Option<char>) -> &mut Word {
    let word = word.get_or_insert_with(|| Word {
        text: String::new(),
        start: at,
        end: at,
        quoted: false,
    });
    word.end = behind;
    word.text.extend(c);
    word
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn all(line: &str) -> Vec<String> {
        let words = lex(line).unwrap().words;
        words.iter().map(|word| word.text.clone()).collect()
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(
            all(r#"set a "b c" d\ e 'f\n"' """#),
            ["set", "a", "b c", "d e", "f\\n\"", ""]
        );
        assert_eq!(all(r#"a"b"'c'd"#), ["abcd"]);
        assert_eq!(all(r#""\"\\\n\t\|" x\n"#), ["\"\\\n\t|", "xn"]);
        assert_eq!(all("  # set a b"), Vec::<String>::new());
        assert_eq!(all("set a#b #c \"d | e"), ["set", "a#b"]);
        assert_eq!(all(r#""\u{e9}\u{}\u{41" \u{41}"#), ["éu{}u{41", "u{41}"]);
    }

    #[test]
    fn pipes_stand_for_themselves_only_when_quoted() {
        let line = lex(r#"show a|match "x|y"|count"#).unwrap();
        assert_eq!(texts(&line.words, 0..2), ["show", "a"]);
        assert_eq!(texts(&line.pipes[0], 0..2), ["match", "x|y"]);
        assert_eq!(texts(&line.pipes[1], 0..1), ["count"]);
    }

    #[test]
    fn what_is_open_is_pointed_at() {
        assert_eq!(lex(r#"set a "b c"#), Err(LexError::OpenQuote { at: 6 }));
        assert_eq!(lex("set a 'b"), Err(LexError::OpenQuote { at: 6 }));
        assert_eq!(lex(r"set a\"), Err(LexError::Escape { at: 5 }));
        assert_eq!(lex("show |"), Err(LexError::EmptyPipe { at: 5 }));
        assert_eq!(lex("| count"), Err(LexError::EmptyPipe { at: 0 }));
        assert_eq!(lex("show | | count"), Err(LexError::EmptyPipe { at: 5 }));
    }

    #[test]
    fn words_know_where_they_stand() {
        let line = lex(r#"  set "a b" ü c"#).unwrap();
        let spans: Vec<_> = line.words.iter().map(|w| (w.start, w.end)).collect();
        assert_eq!(spans, [(2, 5), (6, 11), (12, 14), (15, 16)]);
        assert!(line.words[1].quoted && !line.words[0].quoted);
    }

    #[test]
    fn the_word_at_the_cursor() {
        let at = lex_beginning("set inter");
        assert_eq!((at.words.len(), at.partial.text.as_str()), (1, "inter"));
        let at = lex_beginning("set ");
        assert_eq!((at.words.len(), at.partial.text.as_str()), (1, ""));
        let at = lex_beginning("set \"a b");
        assert_eq!(
            (at.words.len(), at.partial.text.as_str(), at.quote),
            (1, "a b", Some('"'))
        );
        let at = lex_beginning("set \"a b ");
        assert_eq!((at.words.len(), at.partial.text.as_str()), (1, "a b "));
        assert!(lex_beginning("set # wh").comment);
        let at = lex_beginning("show x | co");
        assert!(at.in_pipe);
        assert_eq!((at.words.len(), at.partial.text.as_str()), (0, "co"));
    }

    #[test]
    fn words_are_never_formatted() {
        let line = lex("set secret hunter2").unwrap();
        assert!(!format!("{line:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn quote_then_lex_gives_the_same_words(words in prop::collection::vec(any::<String>(), 1..6)) {
            // A word of a line is never a comment, since a verb stands before it.
            let line = format!("set {}", join(&words));
            let lexed = lex(&line).unwrap();
            prop_assert!(lexed.pipes.is_empty());
            prop_assert_eq!(texts(&lexed.words, 1..lexed.words.len()), words);
        }

        #[test]
        fn a_word_can_be_finished_where_it_stands(
            begun in "[a-z]{0,4}", rest in any::<String>(), quote in prop::sample::select(vec![None, Some('"')]),
        ) {
            prop_assume!(!begun.is_empty() || !rest.is_empty());
            prop_assume!(quote.is_some() || !rest.chars().any(char::is_control));
            let line = match quote {
                None => format!("set {begun}{}", continuation(&rest, quote)),
                Some(c) => format!("set {c}{begun}{}{c}", continuation(&rest, quote)),
            };
            let lexed = lex(&line).unwrap();
            prop_assert_eq!(texts(&lexed.words, 1..lexed.words.len()), [format!("{begun}{rest}")]);
        }

        #[test]
        fn no_line_is_too_odd(line in any::<String>()) {
            let _ = lex(&line);
            let at = lex_beginning(&line);
            prop_assert!(at.partial.end <= line.len());
        }
    }
}
