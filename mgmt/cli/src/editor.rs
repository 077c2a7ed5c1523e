//! The line editor: history, TAB and `?`.
//!
//! It is rustyline: it needs no answers from the terminal (a serial console gives none), lets a key look at the line
//! before it means something (`?` within quotes is a character), starts no programs and reads no files of the user.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustyline::completion::Completer as Completes;
use rustyline::config::Configurer as _;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    Helper, KeyCode, KeyEvent, Modifiers, RepeatCount,
};
use zeroize::Zeroizing;

use crate::completion::{Completer, Tab};
use crate::error::CliError;
use crate::idle::Idle;
use crate::secrets::may_hold_secret;
use crate::words::lex_beginning;

/// Lines that are kept.
const HISTORY: usize = 1000;

/// What came of reading.
pub enum Read {
    /// A line.
    Line(Zeroizing<String>),
    /// A list of what can be written next was asked for, with the line up to the cursor and behind it.
    Asked {
        /// The list.
        list: String,
        /// Before the cursor.
        before: Zeroizing<String>,
        /// Behind it.
        behind: Zeroizing<String>,
    },
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D on an empty line, or the terminal is gone.
    End,
}

/// Reads lines from a person.
pub struct LineEditor {
    editor: Editor<Mask, FileHistory>,
    history: Option<PathBuf>,
    asked: Arc<Mutex<Option<Asked>>>,
    plain: Arc<AtomicBool>,
}

struct Asked {
    list: String,
    before: Zeroizing<String>,
    behind: Zeroizing<String>,
}

impl LineEditor {
    /// With the lines of this file, if it can be kept.
    pub fn new(
        completer: &Arc<Completer>,
        history: Option<PathBuf>,
        idle: &Idle,
    ) -> Result<Self, CliError> {
        let config = settings();
        let lines = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, lines).map_err(terminal)?;
        editor.set_helper(Some(Mask::default()));
        let asked = Arc::new(Mutex::new(None));
        let plain = Arc::new(AtomicBool::new(false));
        for (key, meaning) in [('\t', Key::Tab), ('?', Key::Help)] {
            let event = match meaning {
                Key::Tab => KeyEvent(KeyCode::Tab, Modifiers::NONE),
                Key::Help => KeyEvent(KeyCode::Char(key), Modifiers::NONE),
            };
            let handler = Guide {
                meaning,
                completer: Arc::clone(completer),
                asked: Arc::clone(&asked),
                plain: Arc::clone(&plain),
                idle: idle.clone(),
            };
            editor.bind_sequence(event, EventHandler::Conditional(Box::new(handler)));
        }
        for key in ['Z', '\\'] {
            editor.bind_sequence(KeyEvent::ctrl(key), Cmd::Noop);
        }
        editor.bind_sequence(
            Event::Any,
            EventHandler::Conditional(Box::new(Awake(idle.clone()))),
        );
        let history = history.filter(|path| {
            path.parent()
                .is_some_and(|folder| private_folder(folder).is_ok())
        });
        if let Some(path) = &history {
            // There may be none yet.
            let _ = editor.load_history(path);
        }
        Ok(Self {
            editor,
            history,
            asked,
            plain,
        })
    }

    /// Reads a line, or goes on with one.
    pub fn read(
        &mut self,
        prompt: &(String, String),
        begun: Option<(&str, &str)>,
    ) -> Result<Read, CliError> {
        let read = match begun {
            Some(begun) => self.editor.readline_with_initial(prompt, begun),
            None => self.editor.readline(prompt),
        };
        let asked = self.asked.lock().ok().and_then(|mut asked| asked.take());
        Ok(match (read, asked) {
            (Ok(line), Some(asked)) => {
                drop(Zeroizing::new(line));
                Read::Asked {
                    list: asked.list,
                    before: asked.before,
                    behind: asked.behind,
                }
            }
            (Ok(line), None) => Read::Line(Zeroizing::new(line)),
            (Err(ReadlineError::Interrupted | ReadlineError::Signal(_)), _) => Read::Interrupted,
            (Err(ReadlineError::Eof), _) => Read::End,
            (Err(error), _) => return Err(terminal(error)),
        })
    }

    /// One answer, or a line of a text, where TAB and `?` are characters; none: Ctrl-D. It is in no history.
    ///
    /// The same editor reads it, since it may hold keys that were pressed before they were asked for.
    pub fn plain(&mut self, prompt: &str) -> Result<Option<Zeroizing<String>>, CliError> {
        self.plain.store(true, Ordering::Relaxed);
        let read = self.editor.readline(prompt);
        self.plain.store(false, Ordering::Relaxed);
        match read {
            Ok(line) => Ok(Some(Zeroizing::new(line))),
            Err(ReadlineError::Eof) => Ok(None),
            Err(ReadlineError::Interrupted) => Err(CliError::Interrupted),
            Err(error) => Err(terminal(error)),
        }
    }

    /// The same, and nobody sees what is typed.
    pub fn secret(&mut self, prompt: &str) -> Result<Option<Zeroizing<String>>, CliError> {
        let shown = self.editor.config_mut().color_mode();
        self.mask(true);
        // Not for its colours: what is typed is painted, and the paint hides it.
        self.editor.set_color_mode(ColorMode::Forced);
        let read = self.plain(prompt);
        self.editor.set_color_mode(shown);
        self.mask(false);
        read
    }

    fn mask(&mut self, on: bool) {
        if let Some(mask) = self.editor.helper_mut() {
            mask.0 = on;
        }
    }

    /// Keeps a line, unless it may hold a secret.
    pub fn remember(&mut self, line: &str) {
        if line.trim().is_empty() || may_hold_secret(line) {
            return;
        }
        // A history that cannot be written is none to stop for.
        if self.editor.add_history_entry(line).is_ok_and(|added| added)
            && let Some(path) = &self.history
        {
            let _ = self.editor.append_history(path);
        }
    }
}

/// For nobody else to look into.
fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Where a principal's lines are kept; a name that is no file name has none.
pub fn history_of(root: &Path, principal: &str) -> Option<PathBuf> {
    let plain = !principal.is_empty()
        && principal.len() <= 64
        && !principal.starts_with('.')
        && principal
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    plain.then(|| root.join("var/cli").join(format!("history-{principal}")))
}

fn settings() -> Config {
    let builder = Config::builder()
        .auto_add_history(false)
        .history_ignore_space(true);
    // Neither of the two refuses what is given here.
    let builder = match builder.clone().max_history_size(HISTORY) {
        Ok(sized) => sized,
        Err(_) => builder,
    };
    builder.build()
}

fn terminal(error: ReadlineError) -> CliError {
    CliError::io("cannot read from the terminal")(match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other.to_string()),
    })
}

/// Paints blanks over what is typed.
#[derive(Default)]
struct Mask(bool);

impl Highlighter for Mask {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if self.0 {
            Cow::Owned(" ".repeat(line.chars().count()))
        } else {
            Cow::Borrowed(line)
        }
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        self.0 && kind != CmdKind::MoveCursor
    }
}

impl Completes for Mask {
    type Candidate = String;
}

impl Hinter for Mask {
    type Hint = String;
}

impl Validator for Mask {}

impl Helper for Mask {}

#[derive(Clone, Copy)]
enum Key {
    Tab,
    Help,
}

/// What TAB and `?` do.
struct Guide {
    meaning: Key,
    completer: Arc<Completer>,
    asked: Arc<Mutex<Option<Asked>>>,
    plain: Arc<AtomicBool>,
    idle: Idle,
}

impl ConditionalEventHandler for Guide {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        self.idle.touch();
        if self.plain.load(Ordering::Relaxed) {
            return match self.meaning {
                Key::Tab => Some(Cmd::Insert(1, "\t".to_owned())),
                Key::Help => None,
            };
        }
        let (before, behind) = context.line().split_at_checked(context.pos())?;
        let help = match self.meaning {
            Key::Tab => false,
            // Within quotes, and in comments, it is a character.
            Key::Help => {
                let beginning = lex_beginning(before);
                if beginning.quote.is_some() || beginning.comment {
                    return None;
                }
                true
            }
        };
        let offers = self.completer.offers(before);
        if !help && let Tab::Insert(text) = offers.tab() {
            return Some(Cmd::Insert(1, text));
        }
        if let Ok(mut asked) = self.asked.lock() {
            *asked = Some(Asked {
                list: offers.list(),
                before: Zeroizing::new(before.to_owned()),
                behind: Zeroizing::new(behind.to_owned()),
            });
        }
        Some(Cmd::AcceptLine)
    }
}

/// Any key shows that somebody is there.
struct Awake(Idle);

impl ConditionalEventHandler for Awake {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext) -> Option<Cmd> {
        self.0.touch();
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_principal_leads_to_no_other_file() {
        let root = Path::new("/r");
        assert_eq!(
            history_of(root, "ada.l-1@hq"),
            Some(PathBuf::from("/r/var/cli/history-ada.l-1@hq"))
        );
        for name in ["", "../ada", "a/b", ".x", "a b", "ü"] {
            assert_eq!(history_of(root, name), None, "{name}");
        }
    }
}
