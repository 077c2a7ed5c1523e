//! The terminal, if there is one: colours, its size, and a page at a time.
//!
//! Nothing here starts a program: the pager is a loop over lines and keys.

use std::env;
use std::io::{self, IsTerminal as _, Read as _, Write};

use rustix::termios::{self, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::session::Output;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// Where output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// A person reads and types.
    pub person: bool,
    /// The terminal moves its cursor when told to.
    pub capable: bool,
    /// It shows colours, and they are wanted.
    pub colours: bool,
}

impl Screen {
    /// As the environment has it.
    pub fn of_process() -> Self {
        let person = io::stdin().is_terminal() && io::stdout().is_terminal();
        let capable =
            person && env::var("TERM").is_ok_and(|term| !matches!(term.as_str(), "" | "dumb"));
        Self {
            person,
            capable,
            // https://no-color.org: any value but the empty one.
            colours: capable && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Writes what a line came to: text to standard output, sentences beside it where programs do not take them for the answer.
    pub fn show(self, output: &Output) -> io::Result<()> {
        let text = if output.changes && self.colours {
            coloured(&output.text)
        } else {
            output.text.clone()
        };
        if self.capable && !output.no_more {
            page(&text)?;
        } else {
            io::stdout().write_all(text.as_bytes())?;
        }
        if let Some(note) = &output.note {
            if self.person {
                writeln!(io::stdout(), "{note}")?;
            } else {
                io::stdout().flush()?;
                writeln!(io::stderr(), "{note}")?;
            }
        }
        io::stdout().flush()
    }

    /// Writes something at once; false: nobody reads any more.
    pub fn write_now(bytes: &[u8]) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Writes what is wrong.
    pub fn complain(self, sentence: &str) {
        // Nobody is left to be told when this fails.
        let _ = if self.colours {
            writeln!(io::stderr(), "{RED}{sentence}{RESET}")
        } else {
            writeln!(io::stderr(), "{sentence}")
        };
    }

    /// The prompt as it is shown.
    pub fn prompt(self, plain: &str) -> String {
        if self.colours {
            format!("\x1b[1m{plain}{RESET}")
        } else {
            plain.to_owned()
        }
    }
}

/// Rows and columns; what a terminal without any is taken for.
pub fn size() -> (usize, usize) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        }
        _ => (24, 80),
    }
}

fn coloured(text: &str) -> String {
    let mut painted = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let colour = match line.as_bytes().first() {
            Some(b'+') => GREEN,
            Some(b'-') => RED,
            Some(b'~' | b'!') => YELLOW,
            _ => "",
        };
        painted.push_str(colour);
        painted.push_str(line);
        if !colour.is_empty() {
            painted.push_str(RESET);
        }
        painted.push('\n');
    }
    painted
}

/// How many rows a line takes; escape sequences take none.
fn rows_of(line: &str, columns: usize) -> usize {
    let mut width = 0_usize;
    let mut escape = false;
    for c in line.chars() {
        match c {
            '\x1b' => escape = true,
            _ if escape => escape = !c.is_ascii_alphabetic(),
            '\t' => width = (width / 8 + 1) * 8,
            _ => width += 1,
        }
    }
    width.div_ceil(columns).max(1)
}

/// A page at a time: space shows the next one, return the next line, `G` the rest, `q` no more.
fn page(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = text.lines().peekable();
    let (rows, columns) = size();
    let total: usize = text.lines().map(|line| rows_of(line, columns)).sum();
    if total < rows {
        return out.write_all(text.as_bytes());
    }
    let _unseen = Keys::begin()?;
    let (mut shown, all) = (0, text.lines().count());
    let mut room = rows - 1;
    while let Some(line) = lines.peek() {
        let (rows, columns) = size();
        let height = rows_of(line, columns);
        // A line higher than the screen is shown all the same.
        if height <= room || room == rows - 1 {
            writeln!(out, "{line}")?;
            room = room.saturating_sub(height);
            shown += 1;
            lines.next();
            continue;
        }
        write!(
            out,
            "-- more -- ({} %) space, return, G, q",
            shown * 100 / all.max(1)
        )?;
        out.flush()?;
        let key = next_key()?;
        write!(out, "\r\x1b[K")?;
        room = match key {
            b' ' | b'f' => rows - 1,
            b'\r' | b'\n' | b'j' => height,
            b'd' => (rows - 1) / 2,
            b'G' | b'>' => usize::MAX,
            b'q' | b'Q' | 3 | 4 => return out.flush(),
            _ => 0,
        };
    }
    out.flush()
}

/// Keys one by one, unseen; the terminal is as before when this is dropped.
struct Keys(Termios);

impl Keys {
    fn begin() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut now = before.clone();
        now.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        now.special_codes[SpecialCodeIndex::VMIN] = 1;
        now.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        Ok(Self(before))
    }
}

/// The next key.
fn next_key() -> io::Result<u8> {
    let mut key = [0];
    match io::stdin().lock().read(&mut key)? {
        // The terminal is gone.
        0 => Ok(b'q'),
        _ => Ok(key[0]),
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Keys are not shown as long as this is there.
pub struct Unseen(Option<Termios>);

impl Unseen {
    /// From now on.
    pub fn begin() -> Self {
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            now.local_modes.remove(LocalModes::ECHO);
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &now);
        }
        Self(before)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
            // The end of the line was not shown either.
            let _ = writeln!(io::stdout());
        }
    }
}

/// Ctrl-Z and Ctrl-\ do nothing as long as this is there: there is nothing behind the session to go to.
///
/// Keys that are pressed while a command runs wait for the line editor as they are, unseen.
pub struct NoStopping(Option<Termios>);

impl NoStopping {
    /// From now on; a terminal that is not capable goes on to edit lines itself.
    pub fn begin(capable: bool) -> Self {
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            // 0 is _POSIX_VDISABLE on Linux.
            now.special_codes[SpecialCodeIndex::VSUSP] = 0;
            now.special_codes[SpecialCodeIndex::VQUIT] = 0;
            if capable {
                now.local_modes
                    .remove(LocalModes::ICANON | LocalModes::ECHO);
                now.input_modes.remove(InputModes::ICRNL);
                now.special_codes[SpecialCodeIndex::VMIN] = 1;
                now.special_codes[SpecialCodeIndex::VTIME] = 0;
            }
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &now);
        }
        Self(before)
    }

    /// What the terminal was like.
    pub fn before(&self) -> Option<Termios> {
        self.0.clone()
    }
}

impl Drop for NoStopping {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rows_are_counted_as_the_terminal_does() {
        assert_eq!(rows_of("", 80), 1);
        assert_eq!(rows_of(&"x".repeat(80), 80), 1);
        assert_eq!(rows_of(&"x".repeat(81), 80), 2);
        assert_eq!(rows_of("\x1b[31mred\x1b[0m", 3), 1);
    }

    #[test]
    fn what_came_and_went_is_told_apart_by_colour() {
        assert_eq!(
            coloured("+ a\n- b\nc\n"),
            "\x1b[32m+ a\x1b[0m\n\x1b[31m- b\x1b[0m\nc\n"
        );
    }
}
