//! `culvert bench mgmt`: what a large configuration costs on its way from a text to the parts, each step on its own.
//!
//! ```text
//!   JSON -- parse --> tree -- validate --> configuration -- plan --> values -- apply --> parts (in memory) -- resync
//!                      |-- store --> disk, beside a bare SQLite transaction of the same bytes
//!                      '-- change: one line edited and committed, from mgmt's door to its answer
//! ```
//!
//! Medians. How often the disk is waited for, and how many operations are sent, is what tests count.

mod change;
mod steps;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use culvert_model::large::configuration;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// What `culvert bench mgmt` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Write the rows to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Routes of the configuration.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    routes: u16,
    /// Tunnels of the configuration, each with a connection and a secret.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    tunnels: u16,
    /// How often each step is taken.
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// A folder of the disk that the store is measured on.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    folder: PathBuf,
}

/// One step.
#[derive(Debug)]
struct Row {
    name: &'static str,
    figure: Figure,
    /// Of the median to that of the yardstick in the same run.
    ratio: Option<f64>,
    /// What it is to stay below, in words.
    goal: &'static str,
}

#[derive(Debug)]
enum Figure {
    /// A median.
    Time(Duration),
    /// In bytes.
    Memory(u64),
}

impl Figure {
    fn json(&self) -> Value {
        match self {
            Self::Time(time) => json!({ "ms": time.as_secs_f64() * 1000.0 }),
            Self::Memory(bytes) => json!({ "bytes": bytes }),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = match self.figure {
            Figure::Time(time) => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
            Figure::Memory(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        };
        write!(f, "{:<48}{figure:>14}", self.name)?;
        match self.ratio {
            Some(ratio) => write!(f, "{ratio:>8.2}")?,
            None => write!(f, "{:8}", "")?,
        }
        write!(f, "  {}", self.goal)
    }
}

/// The rows so far.
struct Table<'a> {
    rows: Vec<Row>,
    progress: &'a ProgressBar,
}

impl Table<'_> {
    fn add(&mut self, name: &'static str, figure: Figure, ratio: Option<f64>, goal: &'static str) {
        let row = Row {
            name,
            figure,
            ratio,
            goal,
        };
        self.progress.suspend(|| println!("{row}"));
        self.rows.push(row);
    }

    fn time(&mut self, name: &'static str, times: Times, goal: &'static str) {
        self.add(name, Figure::Time(times.median()), None, goal);
    }
}

/// How long something took, each time.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.0.push(begin.elapsed());
        result
    }

    fn median(mut self) -> Duration {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

/// Measures and prints.
pub fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let text = configuration(arguments.routes, arguments.tunnels);
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut table = Table {
        rows: Vec::new(),
        progress: &progress,
    };
    println!(
        "{} routes, {} tunnels, {} bytes of JSON; medians of {}",
        arguments.routes,
        arguments.tunnels,
        text.len(),
        arguments.rounds
    );
    println!("{:<48}{:>14}{:>8}  goal", "", "", "ratio");
    progress.set_message("parse, validate, plan, apply, resync");
    let tree = steps::measure(&text, arguments.rounds, &mut table)?;
    progress.set_message("store");
    store::measure(&tree, arguments.rounds, &arguments.folder, &mut table)?;
    progress.set_message("a change of one line");
    change::measure(&tree, arguments.rounds, &mut table)?;
    progress.set_message("memory");
    change::memory(&tree, &mut table)?;
    progress.finish_and_clear();
    if let Some(path) = &arguments.json {
        let rows: Vec<Value> = table
            .rows
            .iter()
            .map(|row| json!({ "name": row.name, "figure": row.figure.json(), "ratio": row.ratio, "goal": row.goal }))
            .collect();
        let report = json!({
            "routes": arguments.routes, "tunnels": arguments.tunnels, "rounds": arguments.rounds, "rows": rows,
        });
        std::fs::write(path, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
