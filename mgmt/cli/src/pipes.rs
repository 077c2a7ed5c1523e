//! What stands behind `|`: lines are chosen, counted, or asked for in another form.

use culvert_model::api::Format;
use regex::Regex;

use crate::commands::PIPES;
use crate::grammar::{Mistake, place};
use crate::words::Word;

/// All pipes of a line.
#[derive(Debug, Default)]
pub struct Pipes {
    /// In which form the command shall answer.
    pub format: Option<Format>,
    /// With what holds without being written.
    pub defaults: bool,
    /// As a capture file.
    pub pcapng: bool,
    /// All at once.
    pub no_more: bool,
    filters: Vec<Filter>,
}

#[derive(Debug)]
enum Filter {
    Match(Regex),
    Except(Regex),
    Count,
    Last(usize),
}

/// What is wrong, in which pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeMistake {
    /// Of the pipe, counted from 0.
    pub pipe: usize,
    /// In it.
    pub mistake: Mistake,
}

impl Pipes {
    /// Understands them.
    pub fn parse(parts: &[Vec<Word>]) -> Result<Self, PipeMistake> {
        let mut pipes = Self::default();
        for (pipe, words) in parts.iter().enumerate() {
            pipes
                .add(words)
                .map_err(|mistake| PipeMistake { pipe, mistake })?;
        }
        Ok(pipes)
    }

    fn add(&mut self, words: &[Word]) -> Result<(), Mistake> {
        let steps = crate::grammar::steps(PIPES, words)?;
        let end = place(PIPES, words)?;
        if !end.ends {
            return Err(crate::grammar::missing(words.len(), end.next));
        }
        let written = |n: usize| words.get(n).map_or("", |word| word.text.as_str());
        let regex = || {
            Regex::new(written(1)).map_err(|error| Mistake {
                word: 1,
                message: error.to_string(),
            })
        };
        match steps.as_slice() {
            ["match", ..] => self.filters.push(Filter::Match(regex()?)),
            ["except", ..] => self.filters.push(Filter::Except(regex()?)),
            ["last", ..] => self
                .filters
                .push(Filter::Last(written(1).parse().unwrap_or(usize::MAX))),
            ["display", "set", ..] => self.format = Some(Format::Set),
            ["display", "json", ..] => self.format = Some(Format::Json),
            ["display", "text", ..] => self.format = Some(Format::Text),
            ["display", "pcapng", ..] => self.pcapng = true,
            ["display", ..] => self.defaults = true,
            ["no-more", ..] => self.no_more = true,
            // The one that is left.
            _ => self.filters.push(Filter::Count),
        }
        Ok(())
    }

    /// Each line is chosen or not by itself: nothing waits for the end.
    pub fn choose_lines(&self) -> bool {
        self.filters
            .iter()
            .all(|filter| matches!(filter, Filter::Match(_) | Filter::Except(_)))
    }

    /// Whether a line is chosen.
    pub fn keeps(&self, line: &str) -> bool {
        self.filters.iter().all(|filter| match filter {
            Filter::Match(regex) => regex.is_match(line),
            Filter::Except(regex) => !regex.is_match(line),
            Filter::Count | Filter::Last(_) => true,
        })
    }

    /// What the filters leave of a text.
    pub fn apply(&self, text: String) -> String {
        if self.filters.is_empty() {
            return text;
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for filter in &self.filters {
            match filter {
                Filter::Match(regex) => lines.retain(|line| regex.is_match(line)),
                Filter::Except(regex) => lines.retain(|line| !regex.is_match(line)),
                Filter::Last(most) => drop(lines.drain(..lines.len().saturating_sub(*most))),
                Filter::Count => lines = vec![format!("{} lines", lines.len())],
            }
        }
        let mut left = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            left.push_str(&line);
            left.push('\n');
        }
        left
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::words::lex;

    fn pipes(line: &str) -> Result<Pipes, PipeMistake> {
        Pipes::parse(&lex(line).unwrap().pipes)
    }

    fn filtered(line: &str) -> String {
        pipes(line).unwrap().apply("one\ntwo\nthree\nfour\n".into())
    }

    #[test]
    fn lines_are_chosen_and_counted() {
        assert_eq!(filtered("x | match o"), "one\ntwo\nfour\n");
        assert_eq!(filtered("x | match '^(one|two)$' | except ne"), "two\n");
        assert_eq!(filtered("x | last 1"), "four\n");
        assert_eq!(filtered("x | last 9"), "one\ntwo\nthree\nfour\n");
        assert_eq!(filtered("x | match o | count"), "3 lines\n");
        assert_eq!(filtered("x | match nothing"), "");
        assert_eq!(filtered("x | no-more"), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn forms_are_remembered() {
        let both = pipes("x | display json | display defaults").unwrap();
        assert_eq!(both.format, Some(Format::Json));
        assert!(both.defaults && !both.no_more);
    }

    #[test]
    fn mistakes_name_pipe_and_word() {
        let wrong = pipes("x | count | match (").unwrap_err();
        assert_eq!((wrong.pipe, wrong.mistake.word), (1, 1));
        let wrong = pipes("x | match").unwrap_err();
        assert_eq!((wrong.pipe, wrong.mistake.word), (0, 1));
        let wrong = pipes("x | display xml").unwrap_err();
        assert_eq!((wrong.pipe, wrong.mistake.word), (0, 1));
    }
}
