//! The command line's questions, answered as `culvert show` answers: over the bus, and from what `culvert run` says of itself.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use culvert_cli::{Answer, Operations, Question, Topic as Asked};
use serde::Serialize;
use serde_json::Value;

use super::table::{Row, render};
use super::{Arguments, ShowError, Topic, answer};

/// Rows of a table unless the question says otherwise.
const ROWS: usize = 1000;

/// Answers for the gateway of a folder.
#[derive(Debug, Clone)]
pub struct OverTheBus {
    root: PathBuf,
}

impl OverTheBus {
    /// Of the gateway that runs there.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn arguments(&self, topic: Topic, question: &Question) -> Result<Arguments, ShowError> {
        Ok(Arguments {
            topic,
            root: self.root.clone(),
            json: question.json,
            all: question.all,
            vrf: question.vrf.clone(),
            prefix: parsed(question.prefix.as_deref(), "network")?,
            to: parsed(question.towards.as_deref(), "address")?,
            limit: question.limit.unwrap_or(ROWS),
        })
    }

    /// What `culvert run` keeps beside its sockets.
    fn system(&self, json: bool) -> Result<String, ShowError> {
        let path = self.root.join("run/status.json");
        let text = fs::read_to_string(&path).map_err(|source| ShowError::Status {
            root: self.root.clone(),
            path,
            source,
        })?;
        if json {
            return Ok(text + "\n");
        }
        let status: Value = serde_json::from_str(&text)
            .map_err(|error| ShowError::Question(format!("the status cannot be read: {error}")))?;
        Ok(system_text(&status))
    }
}

impl Operations for OverTheBus {
    fn answer(&self, question: &Question) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let topic = match question.topic {
            Asked::System => {
                return Ok(Answer {
                    text: self.system(question.json)?,
                    note: None,
                });
            }
            Asked::Interfaces => Topic::Interfaces,
            Asked::Routes => Topic::Routes,
            Asked::Neighbours => Topic::Neighbours,
            Asked::Ike => Topic::Ike,
            Asked::Children => Topic::Children,
            Asked::Sas => Topic::Sas,
            Asked::Policies => Topic::Policies,
            Asked::Reassembly => Topic::Reassembly,
            Asked::Paths => Topic::Paths,
            Asked::TooBig => Topic::TooBig,
            Asked::Drops => Topic::Drops,
            Asked::Nodes => Topic::Nodes,
        };
        let (text, note) = answer(&self.arguments(topic, question)?)?;
        Ok(Answer {
            text,
            // The same words without the dashes are those of the command line.
            note: note.map(|note| note.replace("--", "")),
        })
    }
}

fn parsed<T: FromStr>(text: Option<&str>, what: &str) -> Result<Option<T>, ShowError> {
    text.map(|text| {
        text.parse()
            .map_err(|_| ShowError::Question(format!("{text:?} is no {what}")))
    })
    .transpose()
}

/// A process of the gateway.
#[derive(Serialize)]
struct Process {
    name: String,
    state: String,
    pid: String,
    restarts: u64,
}

impl Row for Process {
    const HEADINGS: &'static [&'static str] = &["process", "state", "#pid", "#restarts"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.state.clone(),
            self.pid.clone(),
            self.restarts.to_string(),
        ]
    }
}

fn system_text(status: &Value) -> String {
    let processes: Vec<Process> = status["processes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, process)| Process {
            name: name.clone(),
            state: process["state"].as_str().unwrap_or_default().to_owned(),
            pid: process["pid"]
                .as_u64()
                .map_or_else(String::new, |pid| pid.to_string()),
            restarts: process["restarts"].as_u64().unwrap_or_default(),
        })
        .collect();
    let said = |name: &str| status[name].as_bool().unwrap_or_default();
    let state = match (said("stopping"), said("ready"), said("healthy")) {
        (true, ..) => "stopping",
        (false, false, _) => "starting",
        (false, true, false) => "running, not everything is as configured",
        (false, true, true) => "running, everything is as configured",
    };
    let values = &status["values"];
    let number = |name: &str| values[name].as_u64().unwrap_or_default();
    let mut text = format!(
        "{state}\n{} of {} values are as configured\n\n",
        number("applied"),
        number("wanted")
    );
    text.push_str(&render(&processes));
    for (key, reason) in values["pending"].as_object().into_iter().flatten() {
        let _ = write!(text, "\n{key}: {}", reason.as_str().unwrap_or_default());
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_system_is_told_in_lines() {
        let status = serde_json::json!({
            "ready": true, "healthy": false, "stopping": false,
            "processes": { "dataplane": { "state": "ready", "pid": 7, "restarts": 1 } },
            "values": { "wanted": 3, "applied": 2, "pending": { "route/x": "no such interface" } },
        });
        assert_eq!(
            system_text(&status),
            "running, not everything is as configured\n2 of 3 values are as configured\n\n\
             process    state  pid  restarts\ndataplane  ready    7         1\n\nroute/x: no such interface\n"
        );
    }

    #[test]
    fn a_gateway_that_does_not_run_says_so() {
        let nowhere = OverTheBus::new("/nonexistent".into());
        for topic in [Asked::System, Asked::Interfaces, Asked::Ike] {
            let error = nowhere
                .answer(&Question::about(topic))
                .unwrap_err()
                .to_string();
            assert!(error.contains("no gateway runs in /nonexistent"), "{error}");
        }
    }
}
