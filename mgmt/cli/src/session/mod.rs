//! One person's session: which mode it is in, which candidate it has, and what a line does.
//!
//! ```text
//!   line ──lex──> words ──grammar──> Action ──┬─ looking     questions to the gateway, text of revisions
//!                                             ├─ changing    edits of the candidate
//!                                             └─ committing  check, commit, confirm, roll back
//!        <── pipes <── Output ────────────────┘
//! ```
//!
//! It owns no terminal: what must be asked is asked through [`Console`].

mod certificates;
mod changing;
mod committing;
mod looking;
mod operating;
mod programs;
mod sealing;
mod standing;

use std::sync::Arc;

use culvert_model::api;
use zeroize::Zeroizing;

pub use self::changing::{edit_of, word_of};
pub use self::operating::{Cleared, Stop};
use crate::client::{Client, Service};
use crate::commands::{Action, CONFIGURATION_MODE, OPERATIONAL_MODE};
use crate::error::CliError;
use crate::grammar::{Mistake, Nodes, Parsed, parse};
use crate::moment::Zone;
use crate::pipes::Pipes;
use crate::words::{Line, Word, join, lex};

/// Whoever can be asked for more than a line.
pub trait Console {
    /// The answer to a question; none: there is nobody to answer, or they did not want to.
    fn ask(&mut self, question: &str) -> Result<Option<String>, CliError>;

    /// The same of what nobody may see; none: nothing was given.
    fn secret(&mut self, question: &str) -> Result<Option<Zeroizing<String>>, CliError>;

    /// All lines until the end of a text.
    fn text(&mut self) -> Result<Zeroizing<String>, CliError>;

    /// The next so many bytes, all of them or an error.
    fn exactly(&mut self, bytes: u64) -> Result<Zeroizing<String>, CliError>;

    /// Writes something now; false: nobody reads any more.
    fn tell(&mut self, bytes: &[u8]) -> Result<bool, CliError>;

    /// A person sits there.
    fn is_person(&self) -> bool;
}

/// What a line came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// To be read.
    pub text: String,
    /// A sentence beside it, which no pipe takes away.
    pub note: Option<String>,
    /// Lines begin with `+`, `-` or `~`.
    pub changes: bool,
    /// All at once.
    pub no_more: bool,
    /// The session is over.
    pub leave: bool,
    /// The text says for programs what is wrong: nothing more is done.
    pub failed: bool,
}

impl Output {
    /// Text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A sentence alone.
    pub fn note(note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..Self::default()
        }
    }
}

/// What did not work, and which byte of the line is to blame.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: CliError,
    /// Where.
    pub column: Option<usize>,
}

/// In configuration mode.
#[derive(Debug, Clone)]
pub struct Configuring {
    /// The candidate's id.
    pub candidate: String,
    /// The revision that it began with.
    pub base: u64,
    /// Nobody else may commit meanwhile.
    pub exclusive: bool,
    /// Where it stands.
    pub at: Vec<String>,
}

/// One person's session.
pub struct Session {
    client: Client,
    /// Files may be read and written: for the local administrator alone.
    files: bool,
    /// Waiting is shown.
    progress: bool,
    configuring: Option<Configuring>,
    stop: Arc<Stop>,
}

/// What a line says, before it is done.
pub struct Understood {
    /// Its words.
    pub line: Line,
    /// What they mean.
    pub parsed: Parsed,
    /// What stands behind.
    pub pipes: Pipes,
}

impl Session {
    /// In operational mode.
    pub fn new(client: Client, files: bool, progress: bool) -> Self {
        Self {
            client,
            files,
            progress,
            configuring: None,
            stop: Arc::default(),
        }
    }

    /// Says that somebody is there; mgmt says where.
    pub async fn greet(&mut self) -> Result<api::WhoAmIReply, CliError> {
        let request = api::WhoAmIRequest {};
        let reply = self.service().await?.who_am_i(request).await?;
        Ok(reply.into_inner())
    }

    /// In configuration mode: where.
    pub fn configuring(&self) -> Option<&Configuring> {
        self.configuring.as_ref()
    }

    /// The commands of the mode.
    pub fn commands(&self) -> Nodes {
        if self.configuring.is_some() {
            CONFIGURATION_MODE
        } else {
            OPERATIONAL_MODE
        }
    }

    /// What a line means in this mode; none of an empty one.
    pub fn understand(&self, text: &str) -> Result<Option<Understood>, Failure> {
        let line = lex(text).map_err(|error| Failure {
            column: Some(error.at()),
            error: error.into(),
        })?;
        if line.words.is_empty() {
            return Ok(None);
        }
        let parsed = parse(self.commands(), &line.words).map_err(|mistake| {
            let mistake = self.of_the_other_mode(mistake, &line.words);
            failure(CliError::Usage(mistake), &line)
        })?;
        let pipes =
            Pipes::parse(&line.pipes).map_err(|wrong| failure(CliError::Pipe(wrong), &line))?;
        Ok(Some(Understood {
            line,
            parsed,
            pipes,
        }))
    }

    /// Does what a line says.
    pub async fn execute(
        &mut self,
        text: &str,
        console: &mut dyn Console,
    ) -> Result<Output, Failure> {
        let Some(understood) = self.understand(text)? else {
            return Ok(Output::default());
        };
        let mut output = self
            .act(&understood, console)
            .await
            .map_err(|error| failure(error, &understood.line))?;
        output.text = understood.pipes.apply(output.text);
        output.no_more = understood.pipes.no_more;
        Ok(output)
    }

    async fn act(
        &mut self,
        line: &Understood,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let (parsed, words, pipes) = (&line.parsed, line.line.words.as_slice(), &line.pipes);
        // Only texts of configurations and answers of the gateway have several forms.
        let odd = if pipes.pcapng {
            parsed.action != Action::Capture
        } else {
            (pipes.format.is_some() || pipes.defaults) && !has_forms(parsed.action)
        };
        if odd {
            return Err(CliError::Not(
                "this form is not for this: `| display` is for configurations and what the gateway shows, pcapng for `capture`".to_owned(),
            ));
        }
        if answers_programs(parsed.action)
            && (pipes.defaults || json(pipes) != pipes.format.is_some())
        {
            return Err(CliError::Not(
                "this is told in words, or with `| display json`".to_owned(),
            ));
        }
        match parsed.action {
            Action::Show(topic) => self.ask_gateway(topic, parsed, words, pipes).await,
            Action::ShowConfiguration => {
                let source = api::source::Which::Running(api::Running {});
                self.text_of(source, words, parsed, pipes).await
            }
            Action::ShowRevision => {
                let number = parsed.number("REVISION", words).unwrap_or_default();
                let source = api::source::Which::Revision(number);
                self.text_of(source, words, parsed, pipes).await
            }
            Action::ShowRevisions => self.list_revisions(parsed, words, json(pipes)).await,
            Action::ShowStatus => self.show_status(json(pipes)).await,
            Action::ShowTransactions => self.show_transactions(parsed, words, json(pipes)).await,
            Action::ShowGraph => self.show_graph(parsed, words).await,
            Action::Resynchronise => self.resynchronise().await,
            Action::ShowDifferences => self.show_differences(parsed, words, json(pipes)).await,
            Action::ShowAudit => self.show_audit(parsed, words, json(pipes)).await,
            Action::ShowCertificates => self.show_certificates(json(pipes)).await,
            Action::GenerateKey => self.generate_key(parsed, words).await,
            Action::RequestCertificate => self.request_certificate(parsed, words).await,
            Action::ShowLog => self.show_log(parsed, words, pipes, console).await,
            Action::Ping => self.ping(parsed, words, pipes, console).await,
            Action::Traceroute => self.traceroute(parsed, words, pipes, console).await,
            Action::Capture => self.capture(parsed, words, pipes, console).await,
            Action::Trace => self.trace(parsed, words, pipes, console).await,
            Action::Clear(what) => self.clear(what, parsed, words).await,
            Action::Restart => self.restart(parsed, words, console).await,
            Action::Monitor(topic) => self.monitor(topic, parsed, words, pipes, console).await,
            Action::Configure => self.configure(parsed, words).await,
            Action::RollbackRunning => self.roll_back_running(parsed, words, console).await,
            Action::Confirm => self.confirm().await,
            Action::Pin => self.pin(parsed, words).await,
            Action::Exit if self.configuring.is_some() => self.leave_configuration(console).await,
            Action::Quit if self.configuring.is_some() => {
                let mut output = self.leave_configuration(console).await?;
                output.leave = self.configuring.is_none();
                Ok(output)
            }
            Action::Exit | Action::Quit => Ok(Output {
                leave: true,
                ..Output::default()
            }),
            Action::Help => Ok(Output::text(self.help())),
            Action::Set
            | Action::Delete
            | Action::Rename
            | Action::Copy
            | Action::Deactivate
            | Action::Activate
            | Action::Annotate
            | Action::Insert => self.edit(parsed, words).await,
            Action::Edit => self.go_into(parsed, words).await,
            Action::Up => self.go_out(parsed.number("LEVELS", words).unwrap_or(1)),
            Action::Top => self.go_out(u64::MAX),
            Action::ShowCandidate => self.text_of_candidate(words, parsed, pipes).await,
            Action::Compare => self.compare(parsed, words, json(pipes)).await,
            Action::Commit => self.commit(parsed, words, json(pipes), console).await,
            Action::Rollback => self.roll_back(parsed, words).await,
            Action::Load => self.load(parsed, words, json(pipes), console).await,
            Action::Save if parsed.has("with-secrets") => {
                self.save_sealed(parsed, words, console).await
            }
            Action::Save => self.save(parsed, words).await,
            Action::RotateKey => self.rotate_key().await,
            Action::Discard => self.discard().await,
            Action::Status => self.status().await,
        }
    }

    async fn service(&mut self) -> Result<&mut Service, CliError> {
        self.client.service().await
    }

    /// How times are shown: as the running configuration says, and in UTC where it does not say or is not told.
    async fn zone(&mut self) -> Zone {
        let request = api::GetRequest {
            source: Some(api::Source {
                which: Some(api::source::Which::Running(api::Running {})),
            }),
            at: vec!["system".to_owned(), "time_zone".to_owned()],
            format: api::Format::Set.into(),
            defaults: false,
        };
        let Ok(service) = self.service().await else {
            return Zone::utc();
        };
        match service.get(request).await {
            Ok(reply) => Zone::of_configuration(&reply.into_inner().text),
            Err(_) => Zone::utc(),
        }
    }

    /// The way to mgmt, for whoever asks beside the session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn candidate(&self) -> Result<&Configuring, CliError> {
        self.configuring
            .as_ref()
            .ok_or_else(|| CliError::Not("`configure` first enters configuration mode".to_owned()))
    }

    /// The line that stands above the prompt in configuration mode.
    pub fn place(&self) -> Option<String> {
        let configuring = self.configuring.as_ref()?;
        Some(if configuring.at.is_empty() {
            "[edit]".to_owned()
        } else {
            format!("[edit {}]", join(&configuring.at))
        })
    }

    fn help(&self) -> String {
        let rows: Vec<_> = self
            .commands()
            .iter()
            .map(|node| (node.name().to_owned(), node.help.to_owned()))
            .collect();
        let mut text = crate::table::two_columns(&rows);
        text.push_str(
            "\nTAB completes a word, ? says what can come next. Behind a command: | match, except, count, last, display, no-more.\n",
        );
        text
    }

    /// A command that is known, but not here.
    fn of_the_other_mode(&self, mistake: Mistake, words: &[Word]) -> Mistake {
        let Some(first) = words.first().filter(|_| mistake.word == 0) else {
            return mistake;
        };
        let known = |nodes: Nodes| nodes.iter().any(|node| node.name() == first.text);
        let message = match self.configuring {
            None if known(CONFIGURATION_MODE) => {
                format!(
                    "{:?} is for configuration mode: `configure` enters it",
                    first.text
                )
            }
            Some(_) if known(OPERATIONAL_MODE) => {
                format!(
                    "{:?} is for operational mode: `exit` leads there",
                    first.text
                )
            }
            _ => return mistake,
        };
        Mistake { word: 0, message }
    }
}

/// Where a line is to blame.
fn failure(error: CliError, line: &Line) -> Failure {
    Failure {
        column: error.column(line),
        error,
    }
}

fn has_forms(action: Action) -> bool {
    matches!(
        action,
        Action::Show(_)
            | Action::Trace
            | Action::ShowConfiguration
            | Action::ShowRevision
            | Action::ShowCandidate
    ) || answers_programs(action)
}

/// Actions that answer in words, or as JSON if asked to; a commit and a load whether it is good or bad.
fn answers_programs(action: Action) -> bool {
    matches!(
        action,
        Action::Commit
            | Action::Load
            | Action::ShowStatus
            | Action::ShowTransactions
            | Action::ShowRevisions
            | Action::ShowDifferences
            | Action::Compare
            | Action::ShowAudit
            | Action::ShowCertificates
    )
}

fn json(pipes: &Pipes) -> bool {
    pipes.format == Some(api::Format::Json)
}

/// What a reply's problems say of the words of one line, of which the configuration's begin at `offset`.
fn problems(problems: Vec<api::Problem>, word_of: impl Fn(usize) -> usize) -> CliError {
    match problems.as_slice() {
        [one] if one.line.is_none() => match one.word {
            Some(word) => CliError::Usage(Mistake {
                word: word_of(usize::try_from(word).unwrap_or(usize::MAX)),
                message: one.message.clone(),
            }),
            None => CliError::Problems(problems),
        },
        _ => CliError::Problems(problems),
    }
}
