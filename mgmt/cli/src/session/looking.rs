//! Looking: what the gateway answers, and texts and lists of configurations.

use culvert_model::api::{self, Format, source};

use super::{Output, Session, problems};
use crate::error::CliError;
use crate::grammar::Parsed;
use crate::pipes::Pipes;
use crate::table::{span, table};
use crate::views::{self, Question, Topic};
use crate::words::{Word, join, lex, quote, texts};

impl Session {
    pub(super) async fn ask_gateway(
        &mut self,
        topic: Topic,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
    ) -> Result<Output, CliError> {
        let json = match pipes.format {
            None | Some(Format::Text) => false,
            Some(Format::Json) => true,
            Some(_) => {
                return Err(CliError::Not(
                    "what the gateway shows is displayed as text or json".to_owned(),
                ));
            }
        };
        let text = |name| parsed.value(name, words).map(str::to_owned);
        let limit = parsed
            .number("LIMIT", words)
            .and_then(|limit| usize::try_from(limit).ok());
        let question = Question {
            all: parsed.has("all"),
            vrf: text("VRF"),
            prefix: text("NETWORK"),
            towards: text("ADDRESS"),
            limit: limit.unwrap_or(views::ROUTES),
            ..Question::about(topic)
        };
        let mut gateway = self.client.operations().await?;
        let answer = question
            .ask(async |request| {
                let reply = gateway.show(request).await.map_err(CliError::from)?;
                Ok::<_, CliError>(reply.into_inner())
            })
            .await?;
        Ok(Output {
            text: if json {
                question.json(&answer.state)
            } else {
                question.text(&answer.state)
            },
            note: answer.more.then(|| {
                format!(
                    "There are more than {} routes: vrf, prefix and to choose, limit shows more.",
                    question.limit
                )
            }),
            ..Output::default()
        })
    }

    /// Of what runs, or ran.
    pub(super) async fn text_of(
        &mut self,
        which: source::Which,
        words: &[Word],
        parsed: &Parsed,
        pipes: &Pipes,
    ) -> Result<Output, CliError> {
        let range = parsed.location(0);
        let start = range.start;
        let reply = self.get(which, texts(words, range), pipes).await?;
        if !reply.problems.is_empty() {
            return Err(problems(reply.problems, |word| start + word));
        }
        Ok(Output::text(with_end_of_line(reply.text)))
    }

    /// Of the candidate, from where it stands.
    pub(super) async fn text_of_candidate(
        &mut self,
        words: &[Word],
        parsed: &Parsed,
        pipes: &Pipes,
    ) -> Result<Output, CliError> {
        let configuring = self.candidate()?;
        let which = source::Which::Candidate(configuring.candidate.clone());
        let mut at = configuring.at.clone();
        let before = at.len();
        let range = parsed.location(0);
        let start = range.start;
        at.extend(texts(words, range));
        let reply = self.get(which, at, pipes).await?;
        if !reply.problems.is_empty() {
            return Err(problems(reply.problems, |word| {
                (start + word).saturating_sub(before)
            }));
        }
        Ok(Output::text(with_end_of_line(reply.text)))
    }

    async fn get(
        &mut self,
        which: source::Which,
        at: Vec<String>,
        pipes: &Pipes,
    ) -> Result<api::GetReply, CliError> {
        let request = api::GetRequest {
            source: Some(api::Source { which: Some(which) }),
            at,
            format: pipes.format.unwrap_or(Format::Text).into(),
            defaults: pipes.defaults,
        };
        Ok(self.service().await?.get(request).await?.into_inner())
    }

    pub(super) async fn list_revisions(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
    ) -> Result<Output, CliError> {
        let limit = parsed.number("NUMBER", words).unwrap_or(20);
        let request = api::ListRevisionsRequest {
            before: 0,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let reply = self
            .service()
            .await?
            .list_revisions(request)
            .await?
            .into_inner();
        if json {
            return Ok(Output::text(views::json::answer(
                "ListRevisionsReply",
                &reply,
            )));
        }
        let zone = self.zone().await;
        let rows: Vec<_> = reply
            .revisions
            .into_iter()
            .map(|revision| {
                let mut comment = revision.comment;
                if let Some(seconds) = revision.probation_seconds {
                    comment = format!("[on probation, {} left] {comment}", span(seconds));
                }
                if revision.pinned {
                    comment.insert_str(0, "[pinned] ");
                }
                [
                    revision.number.to_string(),
                    zone.moment(revision.unix_ms),
                    revision.author,
                    revision.source,
                    comment,
                ]
            })
            .collect();
        Ok(Output::text(table(
            ["revision", "when", "who", "by", "comment"],
            &rows,
        )))
    }

    /// The number of the revision that is so many commits back; 0: the newest.
    pub(super) async fn revision_back(&mut self, steps: u64) -> Result<u64, CliError> {
        let wanted = usize::try_from(steps).unwrap_or(usize::MAX);
        let request = api::ListRevisionsRequest {
            before: 0,
            limit: u32::try_from(steps.saturating_add(1)).unwrap_or(u32::MAX),
        };
        let reply = self
            .service()
            .await?
            .list_revisions(request)
            .await?
            .into_inner();
        match (reply.revisions.get(wanted), reply.revisions.len()) {
            (Some(revision), _) => Ok(revision.number),
            (None, there) => Err(CliError::Not(format!(
                "there are {there} revisions only: `show configuration revisions` lists them"
            ))),
        }
    }

    /// The revision that a line names, by number or by steps back.
    pub(super) async fn revision_named(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Option<u64>, CliError> {
        if let Some(number) = parsed.number("REVISION", words) {
            return Ok(Some(number));
        }
        match parsed.number("STEPS", words) {
            Some(steps) => self.revision_back(steps).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn show_differences(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
    ) -> Result<Output, CliError> {
        let from = match parsed.number("REVISION", words) {
            Some(number) => number,
            None => self.revision_back(1).await?,
        };
        self.differences(
            Some(source::Which::Revision(from)),
            source::Which::Running(api::Running {}),
            json,
        )
        .await
    }

    pub(super) async fn differences(
        &mut self,
        from: Option<source::Which>,
        to: source::Which,
        json: bool,
    ) -> Result<Output, CliError> {
        let request = api::CompareRequest {
            from: from.map(|which| api::Source { which: Some(which) }),
            to: Some(api::Source { which: Some(to) }),
            at: Vec::new(),
        };
        let reply = self.service().await?.compare(request).await?.into_inner();
        if json {
            return Ok(Output::text(views::json::answer("CompareReply", &reply)));
        }
        if reply.differences.is_empty() {
            return Ok(Output::note("nothing differs"));
        }
        Ok(Output {
            text: reply.differences.iter().map(lines_of).collect(),
            changes: true,
            ..Output::default()
        })
    }

    pub(super) async fn show_audit(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
    ) -> Result<Output, CliError> {
        let limit = parsed.number("NUMBER", words).unwrap_or(20);
        let request = api::ListAuditRequest {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let service = self.service().await?;
        let mut reply = service.list_audit(request).await?.into_inner();
        reply.entries.sort_by_key(|entry| entry.number);
        if json {
            return Ok(Output::text(views::json::answer("ListAuditReply", &reply)));
        }
        let entries = reply.entries;
        let zone = self.zone().await;
        let rows: Vec<_> = entries
            .into_iter()
            .map(|entry| {
                [
                    entry.number.to_string(),
                    zone.moment(entry.unix_ms),
                    entry.principal,
                    entry.from,
                    entry.what,
                    entry.result,
                ]
            })
            .collect();
        Ok(Output::text(table(
            ["entry", "when", "who", "from", "what", "result"],
            &rows,
        )))
    }
}

/// One difference: a line for what was, one for what is.
fn lines_of(difference: &api::Difference) -> String {
    if !difference.lines.is_empty() {
        let mut text = difference.lines.join("\n");
        text.push('\n');
        return text;
    }
    let path = join(&difference.words);
    match (&difference.before, &difference.after) {
        (Some(_), Some(_)) if difference.secret => {
            return format!("~ {path} (a secret: changed)\n");
        }
        (None, None) => return format!("~ {path}\n"),
        _ => {}
    }
    let line = |sign: char, value: &Option<String>| match value {
        None => String::new(),
        Some(_) if difference.secret => format!("{sign} {path} (a secret)\n"),
        Some(value) if value.is_empty() => format!("{sign} {path}\n"),
        Some(value) => format!("{sign} {path} {}\n", as_written(value)),
    };
    line('-', &difference.before) + &line('+', &difference.after)
}

/// A value in a line: one word, or what is written as one.
fn as_written(value: &str) -> String {
    match lex(value) {
        Ok(line) if line.words.len() == 1 && line.pipes.is_empty() => value.to_owned(),
        _ => quote(value),
    }
}

fn with_end_of_line(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn difference(before: Option<&str>, after: Option<&str>, secret: bool) -> api::Difference {
        api::Difference {
            words: vec!["interfaces".into(), "wan 0".into(), "mtu".into()],
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            secret,
            lines: Vec::new(),
        }
    }

    #[test]
    fn a_difference_is_written_as_it_would_be_typed() {
        assert_eq!(
            lines_of(&difference(Some("1400"), Some("a b"), false)),
            "- interfaces \"wan 0\" mtu 1400\n+ interfaces \"wan 0\" mtu \"a b\"\n"
        );
        assert_eq!(
            lines_of(&difference(None, Some(""), false)),
            "+ interfaces \"wan 0\" mtu\n"
        );
    }

    #[test]
    fn a_secret_is_never_told() {
        let all = [
            difference(Some("hunter2"), Some("hunter3"), true),
            difference(None, Some("hunter2"), true),
            difference(Some("hunter2"), None, true),
        ];
        let text: String = all.iter().map(lines_of).collect();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains("hunter"), "{text}");
    }
}
