//! `culvert mgmt`: keeps the configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::confinement::{Confined, confine};

/// What `culvert mgmt` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder of this gateway.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Number of the Unix account that sshd starts the command line as; without it nobody logs in.
    #[arg(long, value_name = "UID")]
    login_account: Option<u32>,
}

/// Runs the subcommand.
pub fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // Before any thread starts.
    confine(Confined::Other)?;
    let options = culvert_mgmt::Options {
        root: arguments.root,
        login_account: arguments.login_account,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(culvert_mgmt::run(options))?;
    Ok(ExitCode::SUCCESS)
}
