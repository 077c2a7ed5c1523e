//! The command line without a gateway: what `show` tells is made up. Tests run it, on a terminal of their own.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use culvert_cli::{Answer, Arguments, Operations, Question, Topic, execute};

struct MadeUp;

impl Operations for MadeUp {
    fn answer(&self, question: &Question) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let text = match question.topic {
            // More than a page.
            Topic::Interfaces => {
                let lines: Vec<String> = (1..=100).map(|n| format!("interface {n}")).collect();
                lines.join("\n") + "\n"
            }
            // Longer than anybody waits.
            Topic::Nodes => {
                thread::sleep(Duration::from_mins(10));
                String::new()
            }
            Topic::Drops => return Err("the dataplane is away".into()),
            _ if question.json => "{}\n".to_owned(),
            _ => format!("{question:?}\nsecond line\n"),
        };
        let note = (question.topic == Topic::Routes).then(|| "there are more".to_owned());
        Ok(Answer { text, note })
    }
}

fn main() -> ExitCode {
    execute(Arguments::parse(), Arc::new(MadeUp)).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
