//! What came of a load or a commit, as JSON on one line: for programs, which read no sentences.
//!
//! ```text
//!   load override terminal bytes 812 | display json    {"outcome":"loaded","problems":[]}
//!   commit | display json                              {"outcome":"applied","revision":8,"message":"applied: revision 8",...}
//! ```
//!
//! `message` is what a person would have been told. The exit status of a script says the same as `outcome`.

use culvert_model::api::{self, commit_reply::Outcome};
use serde_json::{Value, json};

use super::Output;
use crate::error::{CliError, sentence};

/// Of a load, and what is wrong with the text.
pub fn loaded(found: &[api::Problem]) -> Output {
    let message: Vec<String> = found.iter().map(sentence).collect();
    line(
        &json!({
            "outcome": if found.is_empty() { "loaded" } else { "refused" },
            "message": message.join("\n"),
            "problems": problems(found),
        }),
        !found.is_empty(),
    )
}

/// Of a commit, and what a person is told.
pub fn committed(reply: &api::CommitReply, told: &Result<Output, CliError>) -> Output {
    let message = match told {
        Ok(output) => output.note.clone().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    let conflicts: Vec<Value> = reply
        .conflicts
        .iter()
        .map(|conflict| {
            json!({
                "path": conflict.path,
                "theirs": conflict.theirs,
                "ours": conflict.ours,
                "author": conflict.author,
                "revision": conflict.revision,
                "unix_ms": conflict.unix_ms,
            })
        })
        .collect();
    let waiting: Vec<Value> = reply
        .waiting
        .iter()
        .map(|value| {
            json!({
                "value": value.key,
                "standing": value.standing,
                "reason": value.reason,
                "origins": value.origins,
            })
        })
        .collect();
    let changes: Vec<Value> = reply
        .changes
        .iter()
        .map(|change| json!({ "verb": change.verb, "value": change.key }))
        .collect();
    line(
        &json!({
            "outcome": name(reply.outcome()),
            "revision": reply.revision,
            "message": message,
            "problems": problems(&reply.problems),
            "conflicts": conflicts,
            "waiting": waiting,
            "changes": changes,
            "interrupts": reply.interrupts,
        }),
        told.is_err(),
    )
}

fn line(value: &Value, failed: bool) -> Output {
    Output {
        text: format!("{value}\n"),
        no_more: true,
        failed,
        ..Output::default()
    }
}

fn problems(found: &[api::Problem]) -> Vec<Value> {
    found
        .iter()
        .map(|problem| {
            json!({ "path": problem.path, "message": problem.message, "line": problem.line })
        })
        .collect()
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "unknown",
        Outcome::Applied => "applied",
        Outcome::Pending => "pending",
        Outcome::Reverted => "reverted",
        Outcome::Refused => "refused",
        Outcome::Conflict => "conflict",
        Outcome::Unchanged => "unchanged",
        Outcome::Checked => "checked",
        Outcome::Dangerous => "dangerous",
    }
}
