//! `culvert iked-bridge`: joins charon to the dataplane.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::confinement::{Confined, confine};

/// What `culvert iked-bridge` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder of this gateway.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
}

/// Runs the subcommand.
pub fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // Before any thread starts.
    confine(Confined::Other)?;
    let options = culvert_iked_bridge::Options {
        root: arguments.root,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(culvert_iked_bridge::run(options))?;
    Ok(ExitCode::SUCCESS)
}
