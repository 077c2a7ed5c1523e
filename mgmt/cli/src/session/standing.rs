//! Where the gateway stands with its configuration: states, what was done and why, what depends on what.

use std::fmt::Write as _;

use culvert_model::api;

use super::{Output, Session};
use crate::error::CliError;
use crate::grammar::Parsed;
use crate::moment::Zone;
use crate::table::{span, table};
use crate::views;
use crate::words::Word;

impl Session {
    pub(super) async fn show_status(&mut self, json: bool) -> Result<Output, CliError> {
        let status = self
            .service()
            .await?
            .status(api::StatusRequest {})
            .await?
            .into_inner();
        Ok(Output::text(if json {
            views::json::answer("StatusReply", &status)
        } else {
            status_text(&status)
        }))
    }

    pub(super) async fn show_transactions(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        json: bool,
    ) -> Result<Output, CliError> {
        let limit = parsed.number("NUMBER", words).unwrap_or(20);
        let request = api::ListTransactionsRequest {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let service = self.service().await?;
        let reply = service.list_transactions(request).await?.into_inner();
        if json {
            return Ok(Output::text(views::json::answer(
                "ListTransactionsReply",
                &reply,
            )));
        }
        let zone = self.zone().await;
        Ok(Output::text(transactions_text(&reply.transactions, &zone)))
    }

    pub(super) async fn show_graph(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let limit = parsed.number("LIMIT", words).unwrap_or_default();
        let request = api::GraphRequest {
            prefix: parsed.value("KEY", words).unwrap_or_default().to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let reply = self.service().await?.graph(request).await?.into_inner();
        let note = (reply.shown < reply.matching).then(|| {
            format!(
                "{} of {} values: `prefix` chooses",
                reply.shown, reply.matching
            )
        });
        Ok(Output {
            text: reply.dot,
            note,
            ..Output::default()
        })
    }

    pub(super) async fn resynchronise(&mut self) -> Result<Output, CliError> {
        let service = self.service().await?;
        service.resynchronise(api::ResynchroniseRequest {}).await?;
        Ok(Output::note(
            "all parts are asked: `show configuration transactions` tells what was put right",
        ))
    }
}

pub(super) fn status_text(status: &api::StatusReply) -> String {
    let mut text = format!("revision {}", status.revision);
    if let Some(seconds) = status.probation_seconds {
        let _ = write!(
            text,
            ", on probation: taken back in {} unless confirmed",
            span(seconds)
        );
    }
    let _ = write!(
        text,
        "\n{} of {} values are as configured{}\n",
        status.applied,
        status.wanted,
        match (status.ready, status.settled) {
            (false, _) => "; the gateway is starting",
            (true, false) => "; more is being applied",
            (true, true) => "",
        }
    );
    if !status.standings.is_empty() {
        let counts = status.standings.iter();
        let counts: Vec<_> = counts
            .map(|one| format!("{} {}", one.count, one.standing))
            .collect();
        let _ = writeln!(text, "values: {}", counts.join(", "));
    }
    if let Some(hold) = &status.exclusive {
        let _ = writeln!(
            text,
            "exclusive: {} keeps all others from committing with candidate {}; that ends in {} unless it is used",
            hold.principal,
            hold.candidate,
            span(hold.seconds)
        );
    }
    if !status.store_warning.is_empty() {
        let _ = writeln!(text, "store: {}", status.store_warning);
    }
    if !status.waiting.is_empty() {
        text.push('\n');
        text.push_str(&waiting_text(&status.waiting));
    }
    text
}

/// What waits, and for what.
pub(super) fn waiting_text(waiting: &[api::Waiting]) -> String {
    let rows: Vec<_> = waiting
        .iter()
        .map(|value| {
            [
                value.key.clone(),
                value.standing.clone(),
                value.reason.clone(),
                value.origins.join(", "),
            ]
        })
        .collect();
    table(["value", "is", "because", "configured by"], &rows)
}

/// What was done, a line for each cause.
fn transactions_text(transactions: &[api::Transaction], zone: &Zone) -> String {
    let rows: Vec<_> = transactions
        .iter()
        .map(|one| {
            let mut cause = one.cause.clone();
            if one.repeats > 0 {
                let _ = write!(cause, " ({} times)", one.repeats.saturating_add(1));
            }
            [
                one.number.to_string(),
                zone.moment(one.unix_ms),
                cause,
                operations(&one.operations),
                result(one),
                took(one.took_us),
            ]
        })
        .collect();
    table(
        [
            "number",
            "when",
            "because of",
            "operations",
            "result",
            "took",
        ],
        &rows,
    )
}

/// `create 3 address, 10000 route; delete 1 route`
fn operations(tallies: &[api::Tally]) -> String {
    let mut verbs: Vec<(&str, Vec<String>)> = Vec::new();
    for tally in tallies {
        let kind = format!("{} {}", tally.sent, tally.kind);
        match verbs.iter_mut().find(|(verb, _)| *verb == tally.verb) {
            Some((_, kinds)) => kinds.push(kind),
            None => verbs.push((&tally.verb, vec![kind])),
        }
    }
    let verbs: Vec<_> = verbs
        .into_iter()
        .map(|(verb, kinds)| format!("{verb} {}", kinds.join(", ")))
        .collect();
    if verbs.is_empty() {
        "none".to_owned()
    } else {
        verbs.join("; ")
    }
}

fn result(one: &api::Transaction) -> String {
    let sum = |of: fn(&api::Tally) -> u32| -> u32 { one.operations.iter().map(of).sum() };
    let (sent, done, failed) = (
        sum(|tally| tally.sent),
        sum(|tally| tally.done),
        sum(|tally| tally.failed),
    );
    if failed > 0 {
        return format!("{failed} failed: {}", one.messages.join("; "));
    }
    match (one.finished, done == sent) {
        (true, true) => "done".to_owned(),
        // Its part ended before it answered, and was asked anew.
        (true, false) => format!("{done} of {sent} answered"),
        (false, _) => format!("{done} of {sent} done, then something else came up"),
    }
}

fn took(microseconds: u64) -> String {
    format!(
        "{}.{:03} s",
        microseconds / 1_000_000,
        microseconds / 1000 % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(kind: &str, verb: &str, sent: u32, failed: u32) -> api::Tally {
        api::Tally {
            kind: kind.to_owned(),
            verb: verb.to_owned(),
            sent,
            done: sent - failed,
            failed,
        }
    }

    #[test]
    fn a_transaction_is_a_line() {
        let one = api::Transaction {
            number: 12,
            cause: "revision 7".to_owned(),
            took_us: 1_250_000,
            finished: true,
            operations: vec![
                tally("address", "create", 3, 0),
                tally("route", "create", 10_000, 0),
                tally("route", "delete", 1, 0),
            ],
            ..api::Transaction::default()
        };
        let failed = api::Transaction {
            number: 11,
            cause: "retry".to_owned(),
            operations: vec![tally("connection", "update", 1, 1)],
            messages: vec!["charon says no".to_owned()],
            repeats: 4,
            finished: true,
            ..api::Transaction::default()
        };
        let text = transactions_text(&[one, failed], &Zone::utc());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        for part in [
            "12 ",
            "revision 7",
            "create 3 address, 10000 route; delete 1 route",
            "done",
            "1.250 s",
        ] {
            assert!(lines[1].contains(part), "{text}");
        }
        assert!(
            lines[2].contains("retry (5 times)") && lines[2].contains("1 failed: charon says no")
        );
    }

    #[test]
    fn states_are_counted() {
        let status = api::StatusReply {
            revision: 3,
            ready: true,
            settled: true,
            standings: vec![
                api::StandingCount {
                    standing: "configured".to_owned(),
                    count: 40,
                },
                api::StandingCount {
                    standing: "obtained".to_owned(),
                    count: 2,
                },
            ],
            exclusive: Some(api::ExclusiveHold {
                candidate: "00ff".to_owned(),
                principal: "ann".to_owned(),
                seconds: 1740,
            }),
            ..api::StatusReply::default()
        };
        let text = status_text(&status);
        assert!(
            text.contains("exclusive: ann") && text.contains("ends in 29 min"),
            "{text}"
        );
        assert!(text.contains("values: 40 configured, 2 obtained"), "{text}");
    }
}
