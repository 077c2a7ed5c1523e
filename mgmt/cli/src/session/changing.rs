//! Changing: edits of the candidate, and going about in it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use culvert_mgmt_api::SEALED;
use culvert_model::api::complete_request::Verb;
use culvert_model::api::{self, Format, edit, load, source};
use zeroize::Zeroizing;

use super::{Configuring, Console, Output, Session, problems, programs};
use crate::commands::{Action, LARGEST_TEXT};
use crate::error::CliError;
use crate::grammar::{Mistake, Parsed};
use crate::table::span;
use crate::words::{Word, texts};

/// The edit that a line says, if it says one that needs nothing else.
pub fn edit_of(parsed: &Parsed, words: &[Word]) -> Option<api::Edit> {
    let location = parsed.location(0);
    let change = match parsed.action {
        Action::Set => edit::Change::Set(api::Words {
            words: texts(words, location),
        }),
        Action::Delete => edit::Change::Delete(api::Words {
            words: texts(words, location),
        }),
        Action::Rename => edit::Change::Rename(moved(parsed, words)),
        Action::Copy => edit::Change::Copy(moved(parsed, words)),
        Action::Deactivate => edit::Change::Deactivate(api::Words {
            words: texts(words, location),
        }),
        Action::Activate => edit::Change::Activate(api::Words {
            words: texts(words, location),
        }),
        Action::Annotate => edit::Change::Annotate(api::Annotation {
            words: texts(words, location),
            comment: parsed.value("TEXT", words).unwrap_or_default().to_owned(),
        }),
        Action::Insert => edit::Change::Insert(inserted(parsed, words)),
        _ => return None,
    };
    Some(api::Edit {
        change: Some(change),
    })
}

/// `ITEM first`, `ITEM last`, `ITEM before KEY...`, `ITEM after KEY...`
fn inserted(parsed: &Parsed, words: &[Word]) -> api::Insertion {
    use api::insertion::Position;
    let item = parsed.location(0);
    let key = || api::Words {
        words: texts(words, (item.end + 1).min(words.len())..words.len()),
    };
    api::Insertion {
        position: Some(if parsed.has("first") {
            Position::First(true)
        } else if parsed.has("last") {
            Position::Last(true)
        } else if parsed.has("before") {
            Position::Before(key())
        } else {
            Position::After(key())
        }),
        words: texts(words, item.clone()),
    }
}

/// `FROM to KEY...`
fn moved(parsed: &Parsed, words: &[Word]) -> api::Move {
    let from = parsed.location(0);
    api::Move {
        to: texts(words, (from.end + 1).min(words.len())..words.len()),
        from: texts(words, from),
    }
}

/// Which word of a line a problem's word is: those of the configuration begin behind the verb, and `to` is none of them.
pub fn word_of(parsed: &Parsed, word: usize) -> usize {
    let location = parsed.location(0);
    if word < location.len() {
        location.start + word
    } else {
        location.end + 1 + word - location.len()
    }
}

impl Session {
    pub(super) async fn configure(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let exclusive = parsed.has("exclusive");
        let request = api::OpenRequest {
            candidate: parsed.value("ID", words).unwrap_or_default().to_owned(),
            exclusive,
        };
        let reply = self.service().await?.open(request).await?.into_inner();
        let mut notes = Vec::new();
        for other in reply
            .others
            .iter()
            .filter(|other| other.id != reply.candidate)
        {
            notes.push(format!(
                "{} has a candidate, too: {} on revision {}, last used {} ago{}",
                other.principal,
                other.id,
                other.base,
                span(other.idle_seconds),
                if other.exclusive { ", exclusive" } else { "" }
            ));
        }
        self.configuring = Some(Configuring {
            candidate: reply.candidate,
            base: reply.base,
            exclusive,
            at: Vec::new(),
        });
        Ok(Output {
            note: (!notes.is_empty()).then(|| notes.join("\n")),
            ..Output::default()
        })
    }

    /// Without a line: for scripts.
    pub async fn open(&mut self) -> Result<(), CliError> {
        let request = api::OpenRequest::default();
        let reply = self.service().await?.open(request).await?.into_inner();
        self.configuring = Some(Configuring {
            candidate: reply.candidate,
            base: reply.base,
            exclusive: false,
            at: Vec::new(),
        });
        Ok(())
    }

    pub(super) async fn edit(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let Some(edit) = edit_of(parsed, words) else {
            return Ok(Output::default());
        };
        let found = self.edit_all(vec![edit]).await?;
        if found.is_empty() {
            Ok(Output::default())
        } else {
            Err(problems(found, |word| word_of(parsed, word)))
        }
    }

    /// All edits, or none and what is wrong with them.
    pub async fn edit_all(&mut self, edits: Vec<api::Edit>) -> Result<Vec<api::Problem>, CliError> {
        let configuring = self.candidate()?;
        let request = api::EditRequest {
            candidate: configuring.candidate.clone(),
            at: configuring.at.clone(),
            edits,
        };
        Ok(self
            .service()
            .await?
            .edit(request)
            .await?
            .into_inner()
            .problems)
    }

    pub(super) async fn go_into(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let configuring = self.candidate()?;
        let before = configuring.at.len();
        let mut at = configuring.at.clone();
        let range = parsed.location(0);
        let start = range.start;
        at.extend(texts(words, range));
        // There need be nothing yet, but there must be such a place.
        let request = api::GetRequest {
            source: Some(api::Source {
                which: Some(source::Which::Candidate(configuring.candidate.clone())),
            }),
            at: at.clone(),
            format: Format::Set.into(),
            defaults: false,
        };
        let reply = self.service().await?.get(request).await?.into_inner();
        if !reply.problems.is_empty() {
            return Err(problems(reply.problems, |word| {
                (start + word).saturating_sub(before)
            }));
        }
        if !self.can_hold_more(&at).await? {
            return Err(CliError::Usage(Mistake {
                word: words.len().saturating_sub(1),
                message: "this is a value: `set` changes it".to_owned(),
            }));
        }
        if let Some(configuring) = &mut self.configuring {
            configuring.at = at;
        }
        Ok(Output::default())
    }

    /// Whether a place is a part with fields or items, and not a leaf.
    async fn can_hold_more(&mut self, place: &[String]) -> Result<bool, CliError> {
        for (verb, items) in [(Verb::Set, false), (Verb::Location, true)] {
            let request = api::CompleteRequest {
                candidate: self.candidate()?.candidate.clone(),
                at: Vec::new(),
                verb: verb.into(),
                words: place.to_vec(),
                partial: String::new(),
            };
            let reply = self.service().await?.complete(request).await?.into_inner();
            let holds = |completion: &api::Completion| {
                items || completion.kind() == api::completion::Kind::Keyword
            };
            if reply.completions.iter().any(holds) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn go_out(&mut self, levels: u64) -> Result<Output, CliError> {
        self.candidate()?;
        if let Some(configuring) = &mut self.configuring {
            let levels = usize::try_from(levels).unwrap_or(usize::MAX);
            let left = configuring.at.len().saturating_sub(levels);
            configuring.at.truncate(left);
        }
        Ok(Output::default())
    }

    pub(super) async fn compare(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
    ) -> Result<Output, CliError> {
        let candidate = self.candidate()?.candidate.clone();
        let from = self.revision_named(parsed, words).await?;
        self.differences(
            from.map(source::Which::Revision),
            source::Which::Candidate(candidate),
            json,
        )
        .await
    }

    pub(super) async fn roll_back(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        self.candidate()?;
        let number = self
            .revision_named(parsed, words)
            .await?
            .unwrap_or_default();
        let found = self
            .edit_all(vec![api::Edit {
                change: Some(edit::Change::Rollback(number)),
            }])
            .await?;
        if !found.is_empty() {
            return Err(CliError::Problems(found));
        }
        Ok(Output::note(format!(
            "the candidate is as revision {number} was: `commit` makes it run"
        )))
    }

    pub(super) async fn load(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        self.candidate()?;
        let text = match parsed.value("FILE", words) {
            None => match parsed.number("BYTES", words) {
                Some(bytes) => console.exactly(bytes)?,
                None => console.text()?,
            },
            Some(_) if !self.files => return Err(no_files("load merge terminal")),
            Some(name) => read(name)?,
        };
        let mut text = text;
        let sealed = text.trim_start().starts_with(SEALED);
        let is_json = text.trim_start().starts_with('{');
        let mut passphrase = if sealed {
            super::sealing::passphrase(console)?
        } else {
            Zeroizing::default()
        };
        let load = api::Load {
            mode: if parsed.has("override") {
                load::Mode::Override
            } else {
                load::Mode::Merge
            }
            .into(),
            format: match (sealed, is_json) {
                (true, _) => Format::Sealed,
                (false, true) => Format::Json,
                (false, false) => Format::Set,
            }
            .into(),
            text: std::mem::take(&mut *text),
            passphrase: std::mem::take(&mut *passphrase),
        };
        let found = self
            .edit_all(vec![api::Edit {
                change: Some(edit::Change::Load(load)),
            }])
            .await?;
        if json {
            Ok(programs::loaded(&found))
        } else if found.is_empty() {
            Ok(Output::note("loaded: `compare` shows what it changes"))
        } else {
            Err(CliError::Problems(found))
        }
    }

    pub(super) async fn save(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let source = self.what_is_saved();
        let name = parsed.value("FILE", words).unwrap_or_default().to_owned();
        if !self.files {
            return Err(no_files(if self.configuring.is_some() {
                "show | display set"
            } else {
                "show configuration | display set"
            }));
        }
        let format = if Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            Format::Json
        } else {
            Format::Set
        };
        let request = api::GetRequest {
            source: Some(source),
            at: Vec::new(),
            format: format.into(),
            defaults: false,
        };
        let reply = self.service().await?.get(request).await?.into_inner();
        write_new(&name, &reply.text)?;
        Ok(Output::note(format!(
            "written to {name}; in place of secrets there are digests"
        )))
    }

    /// The candidate, or what runs where there is none.
    pub(super) fn what_is_saved(&self) -> api::Source {
        let which = match &self.configuring {
            Some(configuring) => source::Which::Candidate(configuring.candidate.clone()),
            None => source::Which::Running(api::Running {}),
        };
        api::Source { which: Some(which) }
    }

    pub(super) async fn discard(&mut self) -> Result<Output, CliError> {
        let request = api::DiscardRequest {
            candidate: self.candidate()?.candidate.clone(),
            keep: true,
        };
        self.service().await?.discard(request).await?;
        Ok(Output::note(
            "the candidate is as the running configuration again",
        ))
    }

    /// Ends the candidate, whatever is in it.
    pub async fn drop_candidate(&mut self) -> Result<(), CliError> {
        if let Some(configuring) = self.configuring.take() {
            let request = api::DiscardRequest {
                candidate: configuring.candidate,
                keep: false,
            };
            self.service().await?.discard(request).await?;
        }
        Ok(())
    }

    /// How many leaves the candidate changes.
    pub async fn uncommitted(&mut self) -> Result<usize, CliError> {
        let Some(configuring) = &self.configuring else {
            return Ok(0);
        };
        let request = api::CompareRequest {
            from: None,
            to: Some(api::Source {
                which: Some(source::Which::Candidate(configuring.candidate.clone())),
            }),
            at: Vec::new(),
        };
        let reply = self.service().await?.compare(request).await?.into_inner();
        Ok(reply.differences.len())
    }

    pub(super) async fn leave_configuration(
        &mut self,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let candidate = self.candidate()?.candidate.clone();
        let changes = self.uncommitted().await?;
        if changes == 0 {
            self.drop_candidate().await?;
            return Ok(Output::default());
        }
        let question = format!(
            "{changes} changes are not committed. Discard them (yes), keep the candidate for later (keep), or stay (no)? [no] "
        );
        match console.ask(&question)?.as_deref().map(str::trim) {
            Some("yes" | "y") => {
                self.drop_candidate().await?;
                Ok(Output::note("discarded"))
            }
            Some("keep" | "k") => {
                self.configuring = None;
                Ok(Output::note(format!(
                    "kept: `configure candidate {candidate}` goes on with it"
                )))
            }
            Some(_) => Ok(Output::note("still in configuration mode")),
            None => Err(CliError::Not(format!(
                "{changes} changes are not committed: `commit` or `discard` first"
            ))),
        }
    }

    pub(super) async fn status(&mut self) -> Result<Output, CliError> {
        let configuring = self.candidate()?.clone();
        let changes = self.uncommitted().await?;
        let status = self
            .service()
            .await?
            .status(api::StatusRequest {})
            .await?
            .into_inner();
        let mut text = format!(
            "candidate {} on revision {}{}: {changes} changes\n",
            configuring.candidate,
            configuring.base,
            match (configuring.exclusive, &status.exclusive) {
                (_, Some(hold)) if hold.candidate == configuring.candidate => ", exclusive",
                (true, _) => ", no longer exclusive",
                (false, _) => "",
            }
        );
        text.push_str(&super::standing::status_text(&status));
        Ok(Output::text(text))
    }
}

/// Writes a file that was not there.
pub(super) fn write_new(name: &str, text: &str) -> Result<(), CliError> {
    let failed = || CliError::io(format!("cannot write {name}"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(name)
        .map_err(failed())?;
    file.write_all(text.as_bytes()).map_err(failed())?;
    file.sync_all().map_err(failed())
}

pub(super) fn no_files(instead: &str) -> CliError {
    CliError::Not(format!(
        "files of the gateway are for its local administrator: `{instead}` goes through this terminal"
    ))
}

fn read(name: &str) -> Result<Zeroizing<String>, CliError> {
    let failed = || CliError::io(format!("cannot read {name}"));
    let file = fs::File::open(name).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut text = Zeroizing::new(String::new());
    file.take(LARGEST_TEXT + 1)
        .read_to_string(&mut text)
        .map_err(failed())?;
    if text.len() as u64 > LARGEST_TEXT {
        // As mgmt says it.
        let length = length.max(text.len() as u64);
        return Err(CliError::Not(format!(
            "{name}: {length} bytes; at most {LARGEST_TEXT} are taken"
        )));
    }
    Ok(text)
}
