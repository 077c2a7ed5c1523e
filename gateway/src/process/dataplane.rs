//! `culvert dataplane`: forwards packets.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use culvert_dataplane::port::Port;
use culvert_dataplane::process::{DriverChoice, EngineChoice, Options, TapOpener, run};
use culvert_tap_inject::device::{INHERITED_VARIABLE, inherited};
use culvert_tap_inject::port::TapPort;
use tokio_util::sync::CancellationToken;

use super::confinement::{Confined, confine};

/// What `culvert dataplane` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder of this gateway.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Threads that forward.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// The cipher engine: auto (the fastest of this CPU), portable, wide, or wide-256 (256-bit registers only).
    #[arg(long, value_name = "NAME", default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// How frames come and go.
    #[arg(long, value_name = "NAME", default_value_t = DriverChoice::AfPacket)]
    driver: DriverChoice,
}

/// Runs the subcommand.
pub fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Before any thread starts.
    confine(Confined::Dataplane)?;
    let taps = inherited(&std::env::var(INHERITED_VARIABLE).unwrap_or_default())?;
    let taps: std::collections::BTreeMap<String, Arc<_>> = taps
        .into_iter()
        .map(|(name, tap)| (name.to_string(), Arc::new(tap)))
        .collect();
    let open_tap: TapOpener = Box::new(move |name, worker| {
        let tap = taps
            .get(name)
            .ok_or_else(|| format!("no TAP named {name} was handed to the dataplane"))?;
        // One worker reads: self-traffic keeps its order.
        let port: Box<dyn Port> = if worker == 0 {
            Box::new(TapPort::reader(Arc::clone(tap)))
        } else {
            Box::new(
                TapPort::writer(Arc::clone(tap)).map_err(|error| format!("TAP {name}: {error}"))?,
            )
        };
        Ok(port)
    });
    let options = Options {
        root: arguments.root.clone(),
        workers: arguments.workers,
        engine: arguments.engine,
        driver: arguments.driver,
        nodes: culvert_tap_inject::nodes::nodes,
        open_tap,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(async {
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::spawn(async move {
                terminate.recv().await;
                stopped.cancel();
            });
            run(options, stop).await.map_err(anyhow::Error::from)
        })?;
    Ok(ExitCode::SUCCESS)
}
