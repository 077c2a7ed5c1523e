//! `culvert dhcp`: gets addresses for interfaces.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::confinement::{Confined, confine};

/// What `culvert dhcp` takes.
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
    let options = culvert_dhcp::Options {
        root: arguments.root,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(culvert_dhcp::run(options))?;
    Ok(ExitCode::SUCCESS)
}
