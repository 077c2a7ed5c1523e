//! The command line without a gateway: tests run it, on a terminal of their own, before a mgmt that is made up.

use std::process::ExitCode;

use clap::Parser as _;
use culvert_cli::{Arguments, execute};

fn main() -> ExitCode {
    execute(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
