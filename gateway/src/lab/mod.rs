//! `culvert lab`: two gateways back to back on one machine.
//!
//! ```text
//!  host-a ──── gateway-a ──── wan ──── gateway-b ──── host-b
//!  10.1.0.10   .1   192.0.2.2   router   198.51.100.2   .1   10.2.0.10
//! ```

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// What `culvert lab` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what of the lab is there.
    Status,
}

/// Why a lab could not be built, driven or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {}

/// Runs the subcommand.
#[allow(clippy::unnecessary_wraps)]
pub fn execute(arguments: Arguments) -> Result<ExitCode, LabError> {
    match arguments.action {
        Action::Status => Ok(ExitCode::SUCCESS),
    }
}
