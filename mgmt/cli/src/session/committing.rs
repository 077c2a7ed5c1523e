//! Committing: check, commit, keep, take back; and what came of it, in words.

use std::fmt::Write as _;
use std::time::Duration;

use culvert_model::api::{self, commit_reply::Outcome, edit};
use indicatif::{ProgressBar, ProgressStyle};
use tonic::Code;

use super::standing::waiting_text;
use super::{Console, Output, Session, programs};
use crate::error::{CliError, sentence};
use crate::grammar::Parsed;
use crate::moment::Zone;
use crate::table::{span, table};
use crate::words::Word;

/// How long a revision is on probation when nobody says: as Junos has it.
const DEFAULT_MINUTES: u64 = 10;

impl Session {
    pub(super) async fn commit(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let minutes = parsed
            .has("confirmed")
            .then(|| parsed.number("MINUTES", words).unwrap_or(DEFAULT_MINUTES));
        // Whoever wants the answer as a message is a program, as `culvert remote` is.
        let face = if json {
            api::Face::Unspecified
        } else {
            api::Face::CommandLine
        };
        let request = api::CommitRequest {
            face: face.into(),
            candidate: self.candidate()?.candidate.clone(),
            comment: parsed.value("TEXT", words).unwrap_or_default().to_owned(),
            check: parsed.has("check"),
            confirm_seconds: minutes
                .map_or(0, |minutes| u32::try_from(minutes * 60).unwrap_or(u32::MAX)),
            confirmed: parsed.has("force"),
        };
        let plain = !request.check && minutes.is_none();
        let reply = self.send_commit(request, console).await?;
        let outcome = reply.outcome();
        // A plain commit within the window keeps what is on probation.
        if plain && outcome == Outcome::Unchanged && self.on_probation().await? {
            let mut output = self.confirm().await?;
            self.after_commit(parsed, &mut output).await?;
            return Ok(if json {
                programs::committed(&reply, &Ok(output))
            } else {
                output
            });
        }
        let zone = self.zone_for(&reply).await;
        let told = told(&reply, minutes, &zone);
        let mut output = if json {
            programs::committed(&reply, &told)
        } else {
            told?
        };
        if matches!(
            outcome,
            Outcome::Applied | Outcome::Pending | Outcome::Unchanged
        ) {
            self.after_commit(parsed, &mut output).await?;
        }
        Ok(output)
    }

    /// Only of a conflict a time is told.
    async fn zone_for(&mut self, reply: &api::CommitReply) -> Zone {
        if reply.outcome() == Outcome::Conflict {
            self.zone().await
        } else {
            Zone::utc()
        }
    }

    /// Asks whether it shall be done although it is dangerous.
    async fn send_commit(
        &mut self,
        mut request: api::CommitRequest,
        console: &mut dyn Console,
    ) -> Result<api::CommitReply, CliError> {
        let mut reply = self.wait_for_commit(request.clone()).await?;
        if reply.outcome() == Outcome::Dangerous {
            let warnings: Vec<String> = reply.problems.iter().map(sentence).collect();
            let question = format!("{}\nCommit nevertheless? [no] ", warnings.join("\n"));
            if matches!(
                console.ask(&question)?.as_deref().map(str::trim),
                Some("yes" | "y")
            ) {
                request.confirmed = true;
                reply = self.wait_for_commit(request).await?;
            }
        }
        Ok(reply)
    }

    async fn wait_for_commit(
        &mut self,
        request: api::CommitRequest,
    ) -> Result<api::CommitReply, CliError> {
        let spinner = self.progress.then(|| {
            let doing = if request.check {
                "checking"
            } else {
                "committing"
            };
            let spinner = ProgressBar::new_spinner().with_message(doing);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            Spinner(spinner)
        });
        let reply = self.service().await?.commit(request).await;
        drop(spinner);
        Ok(reply?.into_inner())
    }

    async fn on_probation(&mut self) -> Result<bool, CliError> {
        let status = self
            .service()
            .await?
            .status(api::StatusRequest {})
            .await?
            .into_inner();
        Ok(status.probation_seconds.is_some())
    }

    /// The candidate goes on from the new revision, or is left.
    async fn after_commit(&mut self, parsed: &Parsed, output: &mut Output) -> Result<(), CliError> {
        if parsed.has("and-quit") {
            // It may be gone with the commit already.
            match self.drop_candidate().await {
                Err(CliError::Refused(status)) if status.code() == Code::NotFound => {}
                other => other?,
            }
            return Ok(());
        }
        let Some(configuring) = self.configuring.clone() else {
            return Ok(());
        };
        let again = |candidate: String| api::OpenRequest {
            candidate,
            exclusive: configuring.exclusive,
        };
        let service = self.service().await?;
        let reply = match service.open(again(configuring.candidate.clone())).await {
            Err(status) if status.code() == Code::NotFound => {
                service.open(again(String::new())).await
            }
            other => other,
        };
        match (reply, &mut self.configuring) {
            (Ok(reply), Some(now)) => {
                let reply = reply.into_inner();
                now.candidate = reply.candidate;
                now.base = reply.base;
            }
            (Err(status), _) => {
                // What was committed is committed: that the next candidate is not there yet is no failure of it.
                self.configuring = None;
                let said = format!("configuration mode is left: {}", status.message());
                output.note = Some(match output.note.take() {
                    Some(note) => format!("{note}\n{said}"),
                    None => said,
                });
            }
            (Ok(_), None) => {}
        }
        Ok(())
    }

    pub(super) async fn confirm(&mut self) -> Result<Output, CliError> {
        let reply = self
            .service()
            .await?
            .confirm(api::ConfirmRequest { revision: 0 })
            .await?
            .into_inner();
        Ok(Output::note(format!(
            "revision {} is confirmed",
            reply.revision
        )))
    }

    pub(super) async fn pin(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let request = api::PinRequest {
            revision: parsed.number("REVISION", words).unwrap_or_default(),
            off: parsed.has("off"),
        };
        self.service().await?.pin(request).await?;
        Ok(Output::note(if request.off {
            format!(
                "revision {} may go when the history is full",
                request.revision
            )
        } else {
            format!(
                "revision {} stays until `pin revision {} off`",
                request.revision, request.revision
            )
        }))
    }

    /// From operational mode: a candidate of its own, committed at once.
    pub(super) async fn roll_back_running(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let number = self
            .revision_named(parsed, words)
            .await?
            .unwrap_or_default();
        self.open().await?;
        let outcome = self.roll_back_to(number, console).await;
        let dropped = self.drop_candidate().await;
        match (outcome, dropped) {
            (Ok(output), Err(CliError::Refused(status))) if status.code() == Code::NotFound => {
                Ok(output)
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(output), Ok(())) => Ok(output),
        }
    }

    async fn roll_back_to(
        &mut self,
        number: u64,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let found = self
            .edit_all(vec![api::Edit {
                change: Some(edit::Change::Rollback(number)),
            }])
            .await?;
        if !found.is_empty() {
            return Err(CliError::Problems(found));
        }
        let changes = self.uncommitted().await?;
        if changes == 0 {
            return Ok(Output::note(format!(
                "what runs is as revision {number} was"
            )));
        }
        if console.is_person() {
            let question =
                format!("{changes} changes lead back to revision {number}. Commit them? [no] ");
            let answer = console.ask(&question)?;
            if !matches!(answer.as_deref().map(str::trim), Some("yes" | "y")) {
                return Ok(Output::note("nothing is changed"));
            }
        }
        let request = api::CommitRequest {
            candidate: self.candidate()?.candidate.clone(),
            comment: format!("back to revision {number}"),
            ..api::CommitRequest::default()
        };
        let reply = self.send_commit(request, console).await?;
        let zone = self.zone_for(&reply).await;
        told(&reply, None, &zone)
    }
}

/// Taken from the screen however the waiting ends.
struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What came of a commit.
fn told(reply: &api::CommitReply, minutes: Option<u64>, zone: &Zone) -> Result<Output, CliError> {
    let problems = || -> String {
        let lines: Vec<String> = reply.problems.iter().map(sentence).collect();
        lines.join("\n")
    };
    let revision = reply.revision;
    let probation = minutes.map_or_else(String::new, |minutes| {
        format!(
            "; it is taken back in {} unless `confirm` or `commit` follows",
            span(minutes * 60)
        )
    });
    match reply.outcome() {
        Outcome::Applied => Ok(Output {
            text: warnings(reply),
            note: Some(format!("applied: revision {revision}{probation}")),
            ..Output::default()
        }),
        Outcome::Pending => Ok(Output {
            text: warnings(reply) + &waiting_text(&reply.waiting),
            note: Some(format!(
                "applied: revision {revision}{probation}; {} wait for what is not there yet",
                values(reply.waiting.len())
            )),
            ..Output::default()
        }),
        Outcome::Reverted => Err(CliError::Not(format!(
            "reverted: the old configuration is back as revision {revision}, because\n{}{}",
            problems(),
            waiting_text_if_any(&reply.waiting)
        ))),
        Outcome::Refused => Err(CliError::Problems(reply.problems.clone())),
        Outcome::Conflict => Err(CliError::Not(conflicts(&reply.conflicts, zone))),
        Outcome::Unchanged => Ok(Output::note(
            "nothing is to be committed: what runs is the same",
        )),
        Outcome::Checked => Ok(checked(reply)),
        Outcome::Dangerous => Err(CliError::Not(format!(
            "{}\nnothing is changed: `commit force` does it nevertheless, `commit confirmed` takes it back unless confirmed",
            problems()
        ))),
        Outcome::Unspecified => Err(CliError::Not(
            "mgmt does not say what came of it: `show configuration revisions` tells".to_owned(),
        )),
    }
}

/// What is dangerous about what was done, or would be.
fn warnings(reply: &api::CommitReply) -> String {
    let mut text = String::new();
    for problem in &reply.problems {
        let _ = writeln!(text, "! {}", sentence(problem));
    }
    text
}

fn checked(reply: &api::CommitReply) -> Output {
    let rows: Vec<_> = reply
        .changes
        .iter()
        .map(|change| [change.verb.clone(), change.key.clone()])
        .collect();
    let mut text = if rows.is_empty() {
        String::new()
    } else {
        table(["does", "to"], &rows)
    };
    for interrupt in &reply.interrupts {
        let _ = writeln!(text, "! {interrupt}");
    }
    text.push_str(&warnings(reply));
    Output {
        text,
        note: Some(format!(
            "the configuration is right: {} would change",
            values(reply.changes.len())
        )),
        ..Output::default()
    }
}

fn conflicts(conflicts: &[api::Conflict], zone: &Zone) -> String {
    let mut text = "nothing is changed: somebody else changed the same meanwhile".to_owned();
    for conflict in conflicts {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let _ = write!(
            text,
            "\n{}: {} by {} in revision {} at {}, {} here",
            conflict.path,
            value(&conflict.theirs),
            conflict.author,
            conflict.revision,
            zone.moment(conflict.unix_ms),
            value(&conflict.ours)
        );
    }
    text.push_str("\n`discard` begins anew from what runs");
    text
}

fn waiting_text_if_any(waiting: &[api::Waiting]) -> String {
    if waiting.is_empty() {
        String::new()
    } else {
        format!("\n{}", waiting_text(waiting).trim_end())
    }
}

fn values(number: usize) -> String {
    match number {
        1 => "1 value".to_owned(),
        _ => format!("{number} values"),
    }
}
