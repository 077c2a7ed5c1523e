//! A person at a terminal.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::completion::{Completer, View};
use crate::editor::{LineEditor, Read};
use crate::error::CliError;
use crate::idle::Idle;
use crate::screen::{NoStopping, Screen, Unseen, size};
use crate::session::{Console, Failure, Output, Session};
use crate::words::lex_beginning;

/// How a session begins.
pub struct Beginning {
    /// Of the prompt, before the `@`.
    pub name: String,
    /// Of the prompt, behind the `@`.
    pub host: String,
    /// Where lines are kept.
    pub history: Option<PathBuf>,
    /// When it ends without anybody.
    pub idle: Option<Duration>,
}

/// Reads and does lines until the end.
pub fn run(
    runtime: &Runtime,
    mut session: Session,
    screen: Screen,
    beginning: Beginning,
) -> Result<ExitCode, CliError> {
    let no_stopping = NoStopping::begin(screen.capable);
    let idle = Idle::begin();
    if let Some(limit) = beginning.idle {
        idle.end_after(limit, no_stopping.before());
    }
    let completer = Arc::new(Completer::new(runtime.handle().clone(), view(&session)));
    let mut editor = LineEditor::new(&completer, beginning.history, &idle)?;
    let mut begun: Option<(Zeroizing<String>, Zeroizing<String>)> = None;
    loop {
        if let Some(place) = session.place().filter(|_| begun.is_none()) {
            println!("{place}");
        }
        let sign = if session.configuring().is_some() {
            '#'
        } else {
            '>'
        };
        let plain = format!("{}@{}{sign} ", beginning.name, beginning.host);
        let prompt = (plain.clone(), screen.prompt(&plain));
        completer.stands(view(&session));
        let initial = begun
            .as_ref()
            .map(|(before, behind)| (before.as_str(), behind.as_str()));
        // From here on Ctrl-C ends what this line does, and not the session.
        let guard = runtime.enter();
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(CliError::io("cannot wait for Ctrl-C"))?;
        drop(guard);
        let read = editor.read(&prompt, initial)?;
        idle.touch();
        begun = None;
        let line = match read {
            Read::Line(line) => line,
            Read::Asked {
                list,
                before,
                behind,
            } => {
                print!("{list}");
                begun = Some((before, behind));
                continue;
            }
            Read::Interrupted => continue,
            // The same as the word, where there is still somebody to be asked.
            Read::End => Zeroizing::new("exit".to_owned()),
        };
        if let Some(before) = asks(&line) {
            print!("{}", completer.offers(before).list());
            continue;
        }
        editor.remember(&line);
        let outcome = idle.while_busy(|| {
            let mut console = Person {
                screen,
                editor: &mut editor,
            };
            runtime.block_on(until_interrupted(
                &mut session,
                &line,
                &mut console,
                &mut interrupt,
            ))
        });
        match outcome {
            Ok(output) => {
                let leave = output.leave;
                match screen.show(&output) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(ExitCode::SUCCESS);
                    }
                    shown => shown.map_err(CliError::io("cannot write to the terminal"))?,
                }
                if leave {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Err(failure) => {
                complain(screen, &failure, plain.chars().count(), &line);
                if failure.error.ends_the_session() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
}

async fn until_interrupted(
    session: &mut Session,
    line: &str,
    console: &mut dyn Console,
    interrupt: &mut Signal,
) -> Result<Output, Failure> {
    let stop = session.stop();
    let mut work = std::pin::pin!(session.execute(line, console));
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            // What goes on without an end comes to one, and says what it has to say.
            _ = interrupt.recv() => if !stop.ask() {
                return Err(Failure { error: CliError::Interrupted, column: None });
            },
        }
    }
}

fn view(session: &Session) -> View {
    View {
        commands: session.commands(),
        client: session.client().clone(),
        configuring: session
            .configuring()
            .map(|configuring| (configuring.candidate.clone(), configuring.at.clone())),
    }
}

/// A terminal without keys of its own sends `?` as the last character of a line.
fn asks(line: &str) -> Option<&str> {
    let before = line.trim_end().strip_suffix('?')?;
    lex_beginning(before).quote.is_none().then_some(before)
}

/// Points at the word when the line is still where it was typed, and says what is wrong.
fn complain(screen: Screen, failure: &Failure, prompt: usize, line: &str) {
    if let Some(column) = failure.column {
        let chars = line
            .get(..column)
            .map_or_else(|| line.chars().count() + 1, |before| before.chars().count());
        let (_, columns) = size();
        if prompt + line.chars().count() < columns {
            screen.complain(&format!("{}^", " ".repeat(prompt + chars)));
        }
    }
    screen.complain(&failure.error.sentence());
}

/// Whoever sits there.
struct Person<'a> {
    screen: Screen,
    editor: &'a mut LineEditor,
}

impl Console for Person<'_> {
    fn ask(&mut self, question: &str) -> Result<Option<String>, CliError> {
        // A prompt is one line.
        let (above, prompt) = question.rsplit_once('\n').unwrap_or(("", question));
        if !above.is_empty() {
            println!("{above}");
        }
        let answer = self.editor.plain(prompt)?;
        Ok(Some(
            answer.map_or_else(String::new, |answer| answer.to_string()),
        ))
    }

    fn secret(&mut self, question: &str) -> Result<Option<Zeroizing<String>>, CliError> {
        // A terminal that the editor cannot paint shows by itself what is typed.
        let _unseen = (!self.screen.capable).then(Unseen::begin);
        self.editor.secret(question)
    }

    fn text(&mut self) -> Result<Zeroizing<String>, CliError> {
        println!("Type or paste; Ctrl-D or a line with a dot alone ends it, Ctrl-C forgets it.");
        let _ = io::stdout().flush();
        let mut text = Zeroizing::new(String::new());
        while let Some(line) = self.editor.plain("")? {
            if line.as_str() == "." {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }

    fn exactly(&mut self, _: u64) -> Result<Zeroizing<String>, CliError> {
        Err(CliError::Not(
            "a number of bytes is for programs: `terminal` alone takes what is typed".to_owned(),
        ))
    }

    fn tell(&mut self, bytes: &[u8]) -> Result<bool, CliError> {
        Screen::write_now(bytes).map_err(CliError::io("cannot write to the terminal"))
    }

    fn is_person(&self) -> bool {
        self.screen.person
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_question_mark_at_the_end_asks() {
        assert_eq!(asks("show ?"), Some("show "));
        assert_eq!(asks("sh? "), Some("sh"));
        assert_eq!(asks("set comment \"why?"), None);
        assert_eq!(asks("show"), None);
    }
}
