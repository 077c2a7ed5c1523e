//! Lines to words and back.
//!
//! Words stand apart by spaces. A word in quotation marks may hold anything: `\"`, `\\`, `\n`, `\r`, `\t` and
//! `\u{41}` stand for what they do in other languages. A word that begins with `#` begins a comment, which
//! goes on to the end of the line.

use std::ops::Range;

use zeroize::Zeroizing;

/// A word of a line.
#[derive(Clone, PartialEq, Eq)]
pub struct Word {
    /// What it says. Wiped on drop, for it may be a secret.
    pub text: Zeroizing<String>,
    /// Where it stands, in bytes of the line.
    pub span: Range<usize>,
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Word({:?})", self.span)
    }
}

/// A line that is not made of words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LineError {
    /// Where, in bytes of the line.
    pub span: Range<usize>,
    /// What.
    pub reason: LineReason,
}

/// What is wrong with quotation marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineReason {
    /// They do not end.
    #[error("the quotation mark has no other; end the text with \"")]
    Unended,
    /// A word goes on after them.
    #[error("a space belongs after the closing quotation mark")]
    NoSpace,
    /// A quotation mark in the middle of a word.
    #[error("a word with quotation marks begins with one; within it write \\\"")]
    InsideWord,
    /// A backslash before something else.
    #[error("no such escape; there are \\\" \\\\ \\n \\r \\t and \\u{{41}}")]
    Escape,
}

/// The words of a line.
pub fn split(line: &str) -> Result<Vec<Word>, LineError> {
    let mut words = Vec::new();
    let mut letters = line.char_indices().peekable();
    while let Some((start, letter)) = letters.next() {
        if letter.is_whitespace() {
            continue;
        }
        if letter == '#' {
            break;
        }
        // No word is longer than the line: the text never moves and leaves nothing behind.
        let mut text = Zeroizing::new(String::with_capacity(line.len() - start));
        if letter != '"' {
            text.push(letter);
            let mut end = start + letter.len_utf8();
            while let Some((at, letter)) = letters.next_if(|(_, letter)| !letter.is_whitespace()) {
                end = at + letter.len_utf8();
                if letter == '"' {
                    return Err(wrong(at..end, LineReason::InsideWord));
                }
                text.push(letter);
            }
            words.push(Word {
                text,
                span: start..end,
            });
            continue;
        }
        let end = loop {
            match letters.next() {
                None => return Err(wrong(start..line.len(), LineReason::Unended)),
                Some((at, '"')) => break at + 1,
                Some((at, '\\')) => text.push(escape(&mut letters, at)?),
                Some((_, letter)) => text.push(letter),
            }
        };
        if let Some((at, letter)) = letters.peek()
            && !letter.is_whitespace()
        {
            return Err(wrong(*at..at + letter.len_utf8(), LineReason::NoSpace));
        }
        words.push(Word {
            text,
            span: start..end,
        });
    }
    Ok(words)
}

fn escape(
    letters: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
    start: usize,
) -> Result<char, LineError> {
    let mut end = start + 1;
    let mut next = || {
        let (at, letter) = letters.next()?;
        end = at + letter.len_utf8();
        Some(letter)
    };
    let meant = match next() {
        Some('"') => Some('"'),
        Some('\\') => Some('\\'),
        Some('n') => Some('\n'),
        Some('r') => Some('\r'),
        Some('t') => Some('\t'),
        Some('u') if next() == Some('{') => {
            let mut number = Some(0_u32);
            loop {
                match next() {
                    Some('}') => break number.and_then(char::from_u32),
                    Some(letter) => {
                        number = number
                            .zip(letter.to_digit(16))
                            .and_then(|(number, digit)| Some(number.checked_mul(16)? + digit));
                        if number.is_none() {
                            break None;
                        }
                    }
                    None => break None,
                }
            }
        }
        _ => None,
    };
    meant.ok_or_else(|| wrong(start..end, LineReason::Escape))
}

fn wrong(span: Range<usize>, reason: LineReason) -> LineError {
    LineError { span, reason }
}

/// Writes a word so that [`split`] reads it back.
pub(crate) fn quote(word: &str, mut push: impl FnMut(&str)) {
    let plain = !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/%@+=,*$[]<>".contains(&byte));
    if plain {
        push(word);
        return;
    }
    push("\"");
    let mut buffer = [0; 4];
    for letter in word.chars() {
        match letter {
            '"' => push("\\\""),
            '\\' => push("\\\\"),
            '\n' => push("\\n"),
            '\r' => push("\\r"),
            '\t' => push("\\t"),
            letter if letter.is_control() => push(&format!("\\u{{{:x}}}", u32::from(letter))),
            letter => push(letter.encode_utf8(&mut buffer)),
        }
    }
    push("\"");
}

/// A word as it is written in a line.
pub fn quoted(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    quote(word, |part| text.push_str(part));
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        let words = split(line).unwrap();
        words.iter().map(|word| word.text.to_string()).collect()
    }

    #[test]
    fn words_stand_apart_by_spaces() {
        assert_eq!(texts("  set a\t\"b c\"  # d"), ["set", "a", "b c"]);
        assert_eq!(texts(r#""" "\"\\\n\u{e9}""#), ["", "\"\\\n\u{e9}"]);
        assert_eq!(texts("a#b # \"c"), ["a#b"]);
        assert_eq!(split("ab \"c\"").unwrap()[1].span, 3..6);
    }

    #[test]
    fn quotation_marks_that_do_not_fit_are_pointed_at() {
        let error = |line| split(line).unwrap_err();
        assert_eq!(error("a \"b"), wrong(2..4, LineReason::Unended));
        assert_eq!(error("\"b\"c"), wrong(3..4, LineReason::NoSpace));
        assert_eq!(error("b\"c\""), wrong(1..2, LineReason::InsideWord));
        assert_eq!(error("\"\\x\""), wrong(1..3, LineReason::Escape));
        assert_eq!(error("\"\\u{110000}\"").reason, LineReason::Escape);
        assert_eq!(error("\"\\u{ffffffffff}\"").reason, LineReason::Escape);
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_one_word_again(word in any::<String>(), other in "[ -~]*") {
            let line = format!("{} {}", quoted(&word), quoted(&other));
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(texts(&line), vec![word, other]);
        }

        #[test]
        fn no_line_panics(line in any::<String>(), other in "[\"\\\\u{}a1# ]*") {
            let _ = split(&line);
            let _ = split(&other);
        }
    }
}
