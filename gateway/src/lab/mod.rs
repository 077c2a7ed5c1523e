//! `culvert lab`: two gateways back to back on one machine.
//!
//! ```text
//!  host-a ──── gateway-a ──── wan ──── gateway-b ──── host-b
//!  10.1.0.10   .1   192.0.2.2   router   198.51.100.2   .1   10.2.0.10
//! ```
//!
//! Each is a network namespace `culvert-TAG-...`; `ip netns exec` enters it. Everything a laboratory
//! makes carries its tag, so that several exist side by side.

mod configuration;
mod control;
mod demo;
mod gateway;
mod laboratory;

use std::{
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use culvert_crypto::EngineChoice;
use culvert_netlab::addressing::Side;
use culvert_netlab::process::Interrupt;
use tokio::signal::unix::{SignalKind, signal};

use configuration::{CHILD, Path, Start};
use control::{Control, ControlError, installed_child};
use gateway::{GatewayError, RunOptions};
use laboratory::{Laboratory, LaboratoryError};

/// A gateway that is not ready yet misses the first message; charon sends it again after 4 and after 7 more seconds.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What `culvert lab` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Tells this laboratory from others on the machine: namespaces are called culvert-TAG-...
    #[arg(long, default_value = "lab", global = true)]
    tag: String,
    /// Where its files are [default: /run/culvert-TAG]
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build it and start both gateways; make whatever of it is missing.
    Up(UpArguments),
    /// Stop the gateways and remove everything, also after a crash.
    Down,
    /// Show what of it is there. Status 0: all of it, and both gateways are ready.
    Status,
    /// Show everything it can do, prove it, and tear it down.
    Demo(demo::Arguments),
}

#[derive(Debug, Args)]
struct UpArguments {
    /// Only namespaces and links, no gateways.
    #[arg(long)]
    bare: bool,
    /// Plain routes between the LANs instead of a tunnel.
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    run: RunArguments,
}

/// What is passed on to both gateways.
#[derive(Debug, Clone, Args)]
struct RunArguments {
    /// Cipher engine of both gateways: auto, portable, wide or wide-256 [default: auto, the fastest of this CPU]
    #[arg(long, value_name = "NAME")]
    engine: Option<EngineChoice>,
    /// Forwarding threads of each gateway [default: the dataplane's choice]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How frames come and go: af-packet or af-xdp [default: the dataplane's choice]
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
}

/// Why a laboratory could not be built, driven or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The laboratory itself.
    #[error(transparent)]
    Laboratory(#[from] LaboratoryError),
    /// The demonstration could not run to its end.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// A gateway's answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Both gateways are ready, and there is no CHILD_SA.
    #[error("gateway-a has not negotiated a tunnel after {NEGOTIATION:?}")]
    NoTunnel,
    /// Signals could not be caught.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the subcommand.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, LabError> {
    let folder = arguments.folder.as_deref();
    let open = || Laboratory::open(&arguments.tag, folder);
    match &arguments.action {
        Action::Up(up) => {
            let mut laboratory = open()?;
            let interrupt = interrupt_on_signals()?;
            bring_up(&mut laboratory, up, &interrupt).inspect_err(|_| {
                // Half a laboratory is none.
                let _ = laboratory.tear_down();
            })?;
            show(&laboratory);
            Ok(ExitCode::SUCCESS)
        }
        Action::Down => {
            open()?.remove()?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Status => Ok(status(show(&Laboratory::look(&arguments.tag, folder)?))),
        Action::Demo(demo) => {
            let mut laboratory = open()?;
            let interrupt = interrupt_on_signals()?;
            let held = demo::run(&mut laboratory, demo, &interrupt);
            if !demo.keep || interrupt.is_set() {
                laboratory.tear_down()?;
            }
            let held = held?;
            Ok(if interrupt.is_set() {
                ExitCode::from(INTERRUPTED)
            } else {
                status(held)
            })
        }
    }
}

fn status(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn bring_up(
    laboratory: &mut Laboratory,
    up: &UpArguments,
    interrupt: &Interrupt,
) -> Result<(), LabError> {
    laboratory.build()?;
    if up.bare || laboratory.is_ready() {
        return Ok(());
    }
    // One that runs without being ready does not become it by waiting for the other.
    laboratory.stop_gateways();
    laboratory.build()?;
    let options = up.run.options();
    if up.clear {
        Ok(laboratory.start_gateways(Path::Clear, &options, interrupt)?)
    } else {
        start_tunnel(laboratory, &options, interrupt)
    }
}

/// Starts both gateways and waits until gateway a has negotiated.
fn start_tunnel(
    laboratory: &mut Laboratory,
    options: &RunOptions,
    interrupt: &Interrupt,
) -> Result<(), LabError> {
    laboratory.start_gateways(Path::Tunnel(Start::GatewayA), options, interrupt)?;
    let control = Control::new(&laboratory.root(Side::A))?;
    let until = Instant::now() + NEGOTIATION;
    while installed_child(&control.ike()?, CHILD).is_none() {
        if Instant::now() >= until {
            return Err(LabError::NoTunnel);
        }
        interrupt
            .sleep(Duration::from_millis(50))
            .map_err(GatewayError::from)
            .map_err(LaboratoryError::from)?;
    }
    Ok(())
}

/// Answers whether all of it is there.
fn show(laboratory: &Laboratory) -> bool {
    let presence = laboratory.presence();
    for name in &presence.namespaces {
        println!("{name:<32} there");
    }
    for name in &presence.missing {
        println!("{name:<32} missing");
    }
    for (name, running, ready) in presence.gateways {
        let state = match (running, ready) {
            (_, true) => "ready",
            (true, false) => "starting",
            (false, false) => "not running",
        };
        println!("{name:<32} {state}");
    }
    if presence.orphans > 0 {
        println!(
            "{} processes were left behind by a crash; culvert lab down ends them",
            presence.orphans
        );
    }
    presence.missing.is_empty() && presence.gateways.iter().all(|(_, _, ready)| *ready)
}

/// Catches the signals by which people and their tools end a program.
fn interrupt_on_signals() -> Result<Interrupt, LabError> {
    let interrupt = Interrupt::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::Signals)?;
    let guard = runtime.enter();
    let mut signals = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        signals.push(signal(kind).map_err(LabError::Signals)?);
    }
    drop(guard);
    let seen = interrupt.clone();
    thread::spawn(move || {
        runtime.block_on(async {
            futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())))
                .await;
            seen.set();
        });
    });
    Ok(interrupt)
}

impl RunArguments {
    fn options(&self) -> RunOptions {
        RunOptions {
            engine: self.engine,
            workers: self.workers,
            driver: self.driver.clone(),
        }
    }
}
