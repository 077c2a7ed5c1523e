//! The `culvert` binary: one subcommand for each process of a gateway, and the tools around them.
//!
//! ```text
//!   culvert run          parent of a gateway's processes
//!   culvert mgmt         keeps the configuration     (started by `run`)
//!   culvert dataplane    forwards packets            (started by `run`)
//!   culvert iked-bridge  joins charon to the dataplane (started by `run`)
//!   culvert cli          the command line: configure it, look at it
//!   culvert remote       a gateway from another machine, over SSH
//!   culvert show         what a running gateway knows
//!   culvert trace        what its nodes do with chosen packets
//!   culvert capture      packets as they pass, as pcapng
//!   culvert lab          two gateways on one machine
//!   culvert bench        clocks a packet
//! ```
//!
//! As the shell of the account that people log in as (`culvert -c ...`) it is `culvert cli` and nothing else.
//!
//! A subcommand is a module with its `Arguments` and one `execute` that returns the exit status.

mod bench;
mod lab;
mod login_shell;
mod observe;
mod process;
mod run;
mod show;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::process::dumps;

/// Culvert, an IPsec VPN gateway.
#[derive(Debug, Parser)]
#[command(name = "culvert", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway: its processes, from start to orderly stop.
    Run(run::Arguments),
    /// Keep the configuration; started by `run`.
    Mgmt(process::mgmt::Arguments),
    /// Forward packets; started by `run`.
    Dataplane(process::dataplane::Arguments),
    /// Get addresses by DHCP; started by `run`.
    Dhcp(process::dhcp::Arguments),
    /// Join charon to the dataplane; started by `run`.
    #[command(name = "iked-bridge")]
    IkedBridge(process::iked_bridge::Arguments),
    /// The command line of a gateway: configure it, look at it, roll it back.
    Cli(culvert_cli::Arguments),
    /// A gateway from another machine, over SSH: look, pull and push its configuration, collect what support wants to see.
    Remote(culvert_remote::Arguments),
    /// What a running gateway knows: interfaces, SAs, drops and more.
    Show(show::Arguments),
    /// What each node of a running gateway does with the next packets that match.
    Trace(observe::trace::Arguments),
    /// Packets of a running gateway as they pass an interface, reach a node or are dropped, as pcapng.
    Capture(observe::capture::Arguments),
    /// Two gateways back to back on this machine, in network namespaces of their own.
    Lab(lab::Arguments),
    /// What the packet path costs, in clocks a packet, beside a yardstick.
    Bench(bench::Arguments),
    /// Write a completion script for a shell to standard output.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// A crash writes no key down, neither of this process nor of those that it starts.
    fn keep_secrets(&self) -> std::io::Result<()> {
        match self {
            // Its children look for the program that it runs in its folder of /proc.
            Self::Run(_) => dumps::limit(),
            Self::Mgmt(_)
            | Self::Dataplane(_)
            | Self::IkedBridge(_)
            | Self::Cli(_)
            | Self::Remote(_) => dumps::forbid(),
            Self::Dhcp(_)
            | Self::Show(_)
            | Self::Trace(_)
            | Self::Capture(_)
            | Self::Lab(_)
            | Self::Bench(_)
            | Self::Completion { .. } => Ok(()),
        }
    }
}

/// What clap ends with, too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match login_shell::arguments(std::env::args_os().collect()) {
        Ok(arguments) => Cli::parse_from(arguments),
        Err(error) => {
            eprintln!("culvert: {error}");
            return ExitCode::from(USAGE);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("CULVERT_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = cli.command.keep_secrets() {
        eprintln!("culvert: core dumps cannot be switched off: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match cli.command {
        Command::Run(arguments) => run::execute(&arguments).map_err(anyhow::Error::from),
        Command::Mgmt(arguments) => process::mgmt::execute(arguments),
        Command::Dataplane(arguments) => process::dataplane::execute(&arguments),
        Command::Dhcp(arguments) => process::dhcp::execute(arguments),
        Command::IkedBridge(arguments) => process::iked_bridge::execute(arguments),
        Command::Cli(arguments) => culvert_cli::execute(arguments).map_err(anyhow::Error::from),
        Command::Remote(arguments) => Ok(culvert_remote::execute(&arguments)),
        Command::Show(arguments) => show::execute(&arguments).map_err(anyhow::Error::from),
        Command::Trace(arguments) => {
            observe::trace::execute(&arguments).map_err(anyhow::Error::from)
        }
        Command::Capture(arguments) => {
            observe::capture::execute(&arguments).map_err(anyhow::Error::from)
        }
        Command::Lab(arguments) => lab::execute(&arguments).map_err(anyhow::Error::from),
        Command::Bench(arguments) => bench::execute(&arguments).map_err(anyhow::Error::from),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "culvert",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("culvert: {error:#}");
            ExitCode::FAILURE
        }
    }
}
