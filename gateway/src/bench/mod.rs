//! `culvert bench`: what the packet path costs, in clocks a packet.
//!
//! ```text
//!   generator -> ip4-input -> ip4-lookup -> tunnel-output -> esp-encrypt -> ip4-rewrite -> interface-output -> sink
//!     left out   '------------------------ counted: one worker, one thread ----------------------------'   left out
//! ```
//!
//! No kernel and no wire: packets are made in memory and freed in memory. Every row has a yardstick in the same run,
//! since clocks differ between machines and ratios hardly do: ring's own seal or open where ring has the cipher, else
//! the portable engine's batch. One of a hundred packets that come out is opened and compared with what went in.

mod machine;
mod measure;
mod report;
mod scene;
mod traffic;
mod yardstick;

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use clap::Args;
use culvert_crypto::{
    ChoiceError, Cipher, Engine, EngineChoice, Integrity, KeyBits, KeyError, Portable, Suite,
    SuiteError,
};
use culvert_dataplane::driver::generator::Source;
use culvert_dataplane::graph::VECTOR;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

use machine::{Machine, stolen};
use measure::{MeasureError, Rig};
use report::{Report, Row};
use scene::{Protection, Scene, SceneError};
use traffic::{Destinations, Examiner, Pattern, Plain, Sealed};
use yardstick::Yardstick;

/// Bytes of the IP packets.
const SIZES: [usize; 3] = [64, 512, 1400];
/// Routes of the forwarding rows.
const ROUTES: [u32; 3] = [1, 100_000, 1_000_000];

/// What `culvert bench` takes.
#[derive(Debug, Args)]
pub struct Arguments {
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
    /// Only rows whose name (such as `encrypt aes128gcm16 1400`) contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
    /// Print the clocks of each node, too.
    #[arg(long)]
    nodes: bool,
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
    /// The outer header of the peer could not be made.
    #[error("the peer's addresses are of different families")]
    Peer,
    /// A worker's thread panicked.
    #[error("a worker ended early")]
    Worker,
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

/// One line of the table, to be measured.
#[derive(Clone, Copy)]
enum Plan {
    Encrypt(Suite, usize),
    Decrypt(Suite, usize),
    /// Each packet into a random one of so many tunnels.
    Tunnels(Suite, usize, u32),
    Forward(u32),
}

impl Plan {
    fn all(tunnels: u32) -> Result<Vec<Self>, SuiteError> {
        let cbc = |bits, integrity| Suite::new(Cipher::AesCbc(bits), integrity);
        let suites = [
            Suite::AES128GCM16,
            Suite::AES256GCM16,
            Suite::CHACHA20POLY1305,
            cbc(KeyBits::B128, Integrity::HmacSha1_96)?,
            cbc(KeyBits::B256, Integrity::HmacSha2_256_128)?,
        ];
        let mut all = Vec::new();
        for suite in suites {
            all.extend(SIZES.map(|bytes| Self::Encrypt(suite, bytes)));
            all.extend(SIZES.map(|bytes| Self::Decrypt(suite, bytes)));
        }
        all.extend(SIZES.map(|bytes| Self::Tunnels(Suite::AES128GCM16, bytes, tunnels)));
        all.extend(ROUTES.map(Self::Forward));
        Ok(all)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Encrypt(..) | Self::Tunnels(..) => "encrypt",
            Self::Decrypt(..) => "decrypt",
            Self::Forward(_) => "forward",
        }
    }

    fn algorithm(self) -> String {
        match self {
            Self::Encrypt(suite, _) | Self::Decrypt(suite, _) => suite.to_string(),
            Self::Tunnels(suite, _, 1) => format!("{suite}, 1 tunnel"),
            Self::Tunnels(suite, _, tunnels) => format!("{suite}, {tunnels} tunnels"),
            Self::Forward(1) => "1 route".to_owned(),
            Self::Forward(routes) => format!("{routes} routes"),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Encrypt(_, bytes) | Self::Decrypt(_, bytes) | Self::Tunnels(_, bytes, _) => bytes,
            Self::Forward(_) => 64,
        }
    }

    fn name(self) -> String {
        format!("{} {} {}", self.path(), self.algorithm(), self.bytes())
    }
}

/// Measures and prints; the exit status is that of success only if every row has its figure.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, BenchError> {
    let engine = arguments.engine.engine()?;
    let plans: Vec<_> = Plan::all(arguments.tunnels)?
        .into_iter()
        .filter(|plan| plan.name().contains(&arguments.rows))
        .collect();
    let machine = Machine::look();
    let before = stolen();
    let progress = ProgressBar::new(plans.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    let mut rows = Vec::with_capacity(plans.len());
    let mut huge_pages = false;
    for plan in plans {
        progress.set_message(plan.name());
        let (row, huge) = measure_all(plan, &engine, arguments, machine.megahertz)?;
        if arguments.nodes {
            progress.suspend(|| println!("{}: {}", plan.name(), row.nodes()));
        }
        huge_pages = huge;
        rows.push(row);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let after = stolen();
    let report = Report {
        machine,
        engine: engine.name(),
        vector: arguments.vector.clamp(1, VECTOR),
        workers: arguments.workers,
        huge_pages,
        stolen_percent: (after.0 - before.0) as f64 * 100.0 / (after.1 - before.1).max(1) as f64,
        rows,
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.rows)?;
        std::fs::write(path, text).map_err(|source| BenchError::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One row, by as many workers as asked for.
fn measure_all(
    plan: Plan,
    engine: &Arc<dyn Engine>,
    arguments: &Arguments,
    megahertz: f64,
) -> Result<(Row, bool), BenchError> {
    let workers = arguments.workers.get();
    let barrier = Barrier::new(workers);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    measure(&Bench {
                        plan,
                        engine,
                        arguments,
                        megahertz,
                        start: Start {
                            barrier: &barrier,
                            passed: Cell::new(false),
                        },
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| BenchError::Worker)?)
            .collect()
    });
    let mut rows = Vec::with_capacity(workers);
    let mut huge_pages = true;
    for result in results {
        let (row, huge) = result?;
        huge_pages &= huge;
        rows.push(row);
    }
    let row = Row::of_all(&rows).ok_or(BenchError::Worker)?;
    Ok((row, huge_pages))
}

/// Where workers wait for each other, once: also one that fails or panics before its start lets the others go.
struct Start<'a> {
    barrier: &'a Barrier,
    passed: Cell<bool>,
}

impl Start<'_> {
    fn pass(&self) {
        if !self.passed.replace(true) {
            self.barrier.wait();
        }
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.pass();
    }
}

fn measure(bench: &Bench<'_>) -> Result<(Row, bool), BenchError> {
    let Bench { plan, engine, .. } = *bench;
    match plan {
        Plan::Encrypt(suite, bytes) => {
            let protection = Protection::new(suite);
            let scene = Scene::new(engine, Some(&protection), 0)?;
            let pattern = Pattern::new(bytes, Destinations::Far);
            let examiner =
                Examiner::Encrypted(pattern.clone(), protection.clone(), Arc::new(Portable));
            let yardstick = yardstick::seal(&protection, pattern.length());
            bench.row(&scene, Plain::new(pattern), yardstick, &examiner)
        }
        Plan::Decrypt(suite, bytes) => {
            let protection = Protection::new(suite);
            let scene = Scene::new(engine, Some(&protection), 0)?;
            let pattern = Pattern::new(bytes, Destinations::Near);
            let source = Sealed::new(
                pattern.clone(),
                Arc::clone(engine),
                protection.key(engine.as_ref())?,
                scene::peers_outer_header().ok_or(BenchError::Peer)?,
                scene::inbound_spi(),
            );
            let yardstick = yardstick::open(&protection);
            bench.row(&scene, source, yardstick, &Examiner::Forwarded(pattern))
        }
        Plan::Tunnels(suite, bytes, tunnels) => {
            let protection = Protection::new(suite);
            let scene = Scene::with_tunnels(engine, &protection, tunnels)?;
            let pattern = Pattern::new(bytes, Destinations::Tunnels(tunnels));
            let examiner =
                Examiner::Encrypted(pattern.clone(), protection.clone(), Arc::new(Portable));
            let yardstick = yardstick::seal(&protection, pattern.length());
            bench.row(&scene, Plain::new(pattern), yardstick, &examiner)
        }
        Plan::Forward(routes) => {
            let scene = Scene::new(engine, None, routes)?;
            let pattern = Pattern::new(64, Destinations::Networks(routes));
            let examiner = Examiner::Forwarded(pattern.clone());
            bench.row(&scene, Plain::new(pattern), None, &examiner)
        }
    }
}

/// What the rows have in common.
struct Bench<'a> {
    plan: Plan,
    engine: &'a Arc<dyn Engine>,
    arguments: &'a Arguments,
    megahertz: f64,
    start: Start<'a>,
}

impl Bench<'_> {
    fn row<S: Source>(
        &self,
        scene: &Scene,
        source: S,
        mut yardstick: Option<Box<dyn Yardstick>>,
        examiner: &Examiner,
    ) -> Result<(Row, bool), BenchError> {
        let plan = self.plan;
        let failed = |source| BenchError::Measure {
            row: plan.name(),
            source,
        };
        let time = Duration::try_from_secs_f64(self.arguments.seconds).unwrap_or_default();
        let mut rig =
            Rig::new(scene, self.engine.as_ref(), source, self.arguments.vector).map_err(failed)?;
        let name = yardstick.as_ref().map(|yardstick| yardstick.name());
        let borrowed = yardstick
            .as_mut()
            .map(|yardstick| &mut **yardstick as &mut dyn Yardstick);
        self.start.pass();
        let figure = rig.measure(time, borrowed, examiner).map_err(failed)?;
        let row = Row::new(
            plan.path(),
            plan.algorithm(),
            plan.bytes(),
            name,
            &figure,
            self.megahertz,
        );
        Ok((row, rig.huge_pages()))
    }
}
