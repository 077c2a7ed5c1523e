//! `culvert bench`: what the packet path costs, in clocks a packet.
//!
//! ```text
//!   generator -> ip4-input -> ip4-lookup -> tunnel-output -> esp-encrypt -> ip4-rewrite -> interface-output -> sink
//!     left out   '------------------------ counted: one worker, one thread ----------------------------'   left out
//! ```
//!
//! Rows come in sets ([`plan::Set`]): the main table and its variants, a sweep over vector sizes, two workers against
//! one, and the forwarding tables alone. No kernel and no wire: packets are made in memory and freed in memory. Every row has a yardstick in the same run,
//! since clocks differ between machines and ratios hardly do: ring's own seal or open where ring has the cipher, else
//! the portable engine's batch. One of a hundred packets that come out is opened and compared with what went in.

mod machine;
mod management;
mod measure;
mod plan;
mod report;
mod row;
mod scene;
mod tables;
mod traffic;
mod workers;
mod yardstick;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use culvert_crypto::{ChoiceError, EngineChoice, KeyError, SuiteError};
use culvert_dataplane::fib::PoolExhausted;
use culvert_dataplane::graph::VECTOR;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

use machine::{Machine, stolen};
use measure::MeasureError;
use plan::{Plan, Set, VECTORS};
use report::{Report, Sweep};
use row::Bench;
use scene::SceneError;
use tables::Load;
use workers::Pair;

/// What `culvert bench` takes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Instead of the packet path.
    #[command(subcommand)]
    other: Option<Other>,
    /// Write the rows to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds for each row.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.6)]
    seconds: f64,
    /// Cipher engine: auto (the fastest of this CPU), portable, wide, or wide-256 (256-bit registers only).
    #[arg(long, value_name = "NAME", default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Packets of a vector, 1 to 256.
    #[arg(long, value_name = "PACKETS", default_value_t = VECTOR)]
    vector: usize,
    /// Workers at the same time, each on a thread and with a tunnel of its own; figures are means of a worker, Gbit/s the
    /// sum of all.
    #[arg(long, value_name = "N", default_value = "1")]
    workers: NonZeroUsize,
    /// Tunnels of the rows in which each packet goes into a random one.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    tunnels: u32,
    /// What to measure, all of it unless said: main (every suite, both ways, and forwarding), variants (IPv6, UDP
    /// encapsulation, ESN, many tunnels, 4 KiB pages), sweep (vectors of 256 to one packet), workers (two against one,
    /// which takes two cores), tables (loading, memory and lookup of forwarding tables).
    #[arg(
        long,
        value_name = "SET,...",
        value_delimiter = ',',
        hide_possible_values = true,
        default_value = "main,variants,sweep,workers,tables"
    )]
    sets: Vec<Set>,
    /// Only rows whose name (such as `encrypt aes128gcm16 1400`) contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
    /// Print the clocks of each node, too.
    #[arg(long)]
    nodes: bool,
}

/// What is measured instead of the packet path.
#[derive(Debug, Subcommand)]
enum Other {
    /// What a large configuration costs on its way from a text to the parts.
    Mgmt(management::Arguments),
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The box could not be set up.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// This CPU does not run the engine that was asked for.
    #[error(transparent)]
    Engine(#[from] ChoiceError),
    /// A key was refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no such suite.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// A row has no figure.
    #[error("{row}: {source}")]
    Measure {
        /// Which.
        row: String,
        /// Why.
        source: MeasureError,
    },
    /// A set of rows has no figure.
    #[error("{0}")]
    Incomplete(&'static str),
    /// The routes do not fit.
    #[error(transparent)]
    Routes(#[from] PoolExhausted),
    /// The outer header of the peer could not be made.
    #[error("the peer's addresses are of different families")]
    Peer,
    /// A worker's thread panicked.
    #[error("a worker ended early")]
    Worker,
    /// Of the management plane.
    #[error("{0:#}")]
    Management(anyhow::Error),
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The rows could not be put into JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a run has found, while it runs.
struct Run<'a> {
    bench: Bench<'a>,
    arguments: &'a Arguments,
    progress: ProgressBar,
    report: Report,
}

/// Measures and prints; the exit status is that of success only if every row has its figure.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, BenchError> {
    if let Some(Other::Mgmt(arguments)) = &arguments.other {
        return management::execute(arguments).map_err(BenchError::Management);
    }
    let engine = arguments.engine.engine()?;
    let machine = Machine::look();
    let before = stolen();
    let progress = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    let mut run = Run {
        bench: Bench {
            engine: &engine,
            arguments,
            megahertz: machine.megahertz,
        },
        arguments,
        progress,
        report: Report::new(
            machine,
            engine.name(),
            arguments.vector.clamp(1, VECTOR),
            arguments.workers,
        ),
    };
    for set in [
        Set::Main,
        Set::Variants,
        Set::Sweep,
        Set::Workers,
        Set::Tables,
    ] {
        if arguments.sets.contains(&set) {
            run.set(set)?;
        }
    }
    run.progress.finish_and_clear();
    let after = stolen();
    let mut report = run.report;
    report.stolen_percent =
        (after.0 - before.0) as f64 * 100.0 / (after.1 - before.1).max(1) as f64;
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(path, text).map_err(|source| BenchError::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Run<'_> {
    fn wanted(&self, name: &str) -> bool {
        name.contains(&self.arguments.rows)
    }

    /// Says what is measured now, and keeps why it has no figure.
    fn one<T>(
        &mut self,
        name: &str,
        measure: impl FnOnce(&Bench<'_>) -> Result<T, BenchError>,
    ) -> Option<T> {
        self.progress.set_message(name.to_owned());
        let result = measure(&self.bench);
        self.progress.inc(1);
        result
            .map_err(|error| self.report.failures.push(error.to_string()))
            .ok()
    }

    fn set(&mut self, set: Set) -> Result<(), BenchError> {
        match set {
            Set::Main | Set::Variants => self.rows(&Plan::all(set, self.arguments.tunnels)?),
            Set::Sweep => self.sweep(),
            Set::Workers => self.workers(),
            Set::Tables => self.tables(),
        }
        Ok(())
    }

    fn rows(&mut self, plans: &[Plan]) {
        let wanted = |plan: &&Plan| plan.name().contains(&self.arguments.rows);
        let plans: Vec<_> = plans.iter().filter(wanted).copied().collect();
        self.progress.inc_length(plans.len() as u64);
        for plan in plans {
            let Some(row) = self.one(&plan.name(), |bench| bench.row(plan)) else {
                continue;
            };
            if self.arguments.nodes {
                let text = format!("{}: {}", plan.name(), row.nodes());
                self.progress.suspend(|| println!("{text}"));
            }
            self.report.rows.push(row);
        }
    }

    fn sweep(&mut self) {
        for plan in Plan::swept() {
            let name = format!("sweep {}", plan.name());
            if !self.wanted(&name) {
                continue;
            }
            self.progress.inc_length(VECTORS.len() as u64);
            let clocks = VECTORS.map(|vector| {
                let name = format!("{name} by {vector}");
                let figure = self.one(&name, |bench| bench.alone(plan, vector));
                figure.map(|figure| figure.clocks)
            });
            self.report.sweeps.push(Sweep::new(plan, clocks));
        }
    }

    fn workers(&mut self) {
        for pair in Pair::ALL {
            if self.wanted(pair.name()) {
                self.progress.inc_length(1);
                let scaling = self.one(pair.name(), |bench| workers::measure(bench, pair));
                self.report.scalings.extend(scaling);
            }
        }
    }

    fn tables(&mut self) {
        for load in Load::ALL {
            if self.wanted(load.name()) {
                self.progress.inc_length(1);
                let loaded = self.one(load.name(), |_| load.measure());
                self.report.loads.extend(loaded);
            }
        }
    }
}
