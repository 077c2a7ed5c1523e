//! What a person sees while a demonstration runs: a spinner on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

/// Shows one step at a time.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    terminal: bool,
    step: Option<(String, ProgressBar)>,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self {
            begin: Instant::now(),
            terminal: stdout().is_terminal(),
            step: None,
        }
    }

    /// Begins a step.
    pub fn step(&mut self, what: &str) {
        let bar = if self.terminal {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        } else {
            ProgressBar::hidden()
        };
        self.step = Some((what.to_owned(), bar));
    }

    /// Says more of the step that goes on, on a terminal only.
    pub fn detail(&self, text: &str) {
        if let Some((what, bar)) = &self.step {
            bar.set_message(format!("{what}: {text}"));
        }
    }

    /// Ends the step with its result; further lines follow below it.
    pub fn done(&mut self, result: &str) {
        self.end('✓', result);
    }

    /// Ends the step: what it was to show did not hold.
    pub fn failed(&mut self, result: &str) {
        self.end('✗', result);
    }

    /// Ends the step either way.
    pub fn end_as(&mut self, held: bool, result: &str) {
        if held {
            self.done(result);
        } else {
            self.failed(result);
        }
    }

    fn end(&mut self, sign: char, result: &str) {
        if let Some((what, bar)) = self.step.take() {
            bar.finish_and_clear();
            let mut lines = result.lines();
            let first = lines.next().unwrap_or_default();
            println!(
                "{sign} {:>5.1} s  {what}: {first}",
                self.begin.elapsed().as_secs_f64()
            );
            for line in lines {
                println!("             {line}");
            }
        }
    }
}
