//! `culvert run`: the parent of a gateway's processes.
//!
//! ```text
//!                                  culvert run
//!            FILE -> plan -> scheduler -> batches        supervisor: start, health, restart, stop
//!                                          |                   |
//!        +---------------------------------+-------------------+----------+
//!        |                                 |                              |
//!   dataplane                        Linux mirror                 iked-bridge   charon
//!   (own network namespace: NICs)    (TAPs, addresses, routes)    (the box's namespace)
//! ```
//!
//! `run` opens what needs privilege (namespace, NICs, TAPs), hands it on, and never touches a packet. Each process dies
//! alone: what the others hold goes on, and the one that comes back is told exactly what it lacks (retrieve, compare,
//! apply).

mod capabilities;
mod charon;
mod children;
mod launch;
mod linux;
mod namespace;
mod nics;
mod notify;
mod root;
mod status;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What `culvert run` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder of this gateway: state, sockets, logs.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The configuration, in JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder cannot be used.
    #[error(transparent)]
    Root(#[from] root::RootError),
}

/// Runs the subcommand.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, RunError> {
    let root = root::Root::prepare(&arguments.root)?;
    let lock = root.lock()?;
    root.sweep(&lock);
    Ok(ExitCode::SUCCESS)
}
