//! `culvert run`: the parent of a gateway's processes.
//!
//! ```text
//!                                  culvert run
//!            mgmt -> plan -> scheduler -> batches        supervisor: start, health, restart, stop
//!                                          |                   |
//!        +---------------------------------+-------------------+----------+
//!        |                                 |                              |
//!   dataplane                        Linux mirror   dhcp   iked-bridge   charon   sshd   chronyd
//!   (own network namespace: NICs)    (TAPs, addresses, routes)    (the box's namespace)
//! ```
//!
//! `run` opens what needs privilege (namespace, NICs, TAPs), hands it on, and never touches a packet. Each process dies
//! alone: what the others hold goes on, and the one that comes back is told exactly what it lacks (retrieve, compare,
//! apply).
//!
//! The configuration is mgmt's, in numbered revisions; a file is only what an empty root begins with. mgmt says what to
//! follow, and nothing is forwarded before; when it dies what was said goes on.
//!
//! Routes that others write into Linux (routing daemons) and what DHCP servers lend are values, too, beside those of the
//! plan.
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGTERM, SIGINT | stop in order: chronyd, sshd and sessions, charon, iked-bridge, dhcp, dataplane, mgmt; NICs go back; a second one kills |
//! | SIGHUP | ask every part what it holds, and put right what somebody else has changed |
//!
//! | exit status | meaning |
//! | --- | --- |
//! | 0 | stopped in order |
//! | 1 | could not start or stop as it should |
//! | 2 | the configuration in FILE was refused, or there is one already; nothing was started |

mod capabilities;
mod charon;
mod children;
mod clock;
mod configuration;
mod gateway;
mod graph;
mod groups;
mod history;
mod host_name;
mod launch;
mod learnt;
mod leases;
mod linux;
mod login;
mod namespace;
mod nics;
mod notify;
mod ntp;
mod parts;
mod plan_calls;
mod ports;
mod resolver;
mod root;
mod sessions;
mod status;
mod supervisor;
mod switches;
mod values;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use culvert_crypto::EngineChoice;
use culvert_mgmt::Import;

use charon::Installation;
use children::Recipe;
use gateway::Gateway;
use host_name::HostName;
use login::Login;
use ntp::Chronyd;
use ports::{Ports, PortsError, Wanted};
use root::Root;
use switches::Switches;

/// What `culvert run` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder of this gateway: state, sockets, logs.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Makes the configuration in this file, in JSON, the first revision of a root that has none yet. Without it the
    /// gateway runs as it was committed last.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Worker threads of the dataplane.
    #[arg(long, value_name = "N")]
    workers: Option<u16>,
    /// Cipher engine of the dataplane: auto, portable, wide or wide-256 [default: auto].
    #[arg(long, value_name = "NAME")]
    engine: Option<EngineChoice>,
    /// How the dataplane reaches its NICs.
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
    /// strongSwan's IKE daemon.
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/ipsec/charon")]
    charon: PathBuf,
    /// Our plugin for it; if not given, the one beside this program or the installed one.
    #[arg(long, value_name = "FILE")]
    charon_plugin: Option<PathBuf>,
    /// For laboratories: NTP servers are asked, and the machine's clock is left alone.
    #[arg(long)]
    keep_clock: bool,
}

/// The status after a configuration that was not taken.
const REFUSED: u8 = 2;
/// The plugin's file, beside the program or installed.
const PLUGIN_FILE: &str = "libstrongswan_culvert.so";
const PLUGIN_INSTALLED: &str = "/usr/lib/culvert/libstrongswan_culvert.so";

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder cannot be used.
    #[error(transparent)]
    Root(#[from] root::RootError),
    /// The plan cannot be followed.
    #[error(transparent)]
    Plan(#[from] culvert_scheduler::SetPlanError<culvert_model::plan::Key>),
    /// charon cannot be started here.
    #[error(transparent)]
    Charon(#[from] charon::CharonError),
    /// The box's namespace.
    #[error(transparent)]
    Switch(#[from] switches::SwitchError),
    /// What it is called.
    #[error(transparent)]
    HostName(#[from] host_name::HostNameError),
    /// NICs and TAPs.
    #[error(transparent)]
    Ports(#[from] ports::PortsError),
    /// The bus or netlink.
    #[error(transparent)]
    Parts(#[from] parts::OpenError),
    /// The runtime did not start.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}

/// Runs the subcommand.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, RunError> {
    let first = match &arguments.config {
        None => None,
        Some(path) => match configuration::load(path) {
            Ok((config, plan)) => Some((path, config, plan)),
            Err(error) => {
                eprintln!("culvert: {error}");
                return Ok(ExitCode::from(REFUSED));
            }
        },
    };
    let root = Root::prepare(&arguments.root)?;
    let lock = root.lock()?;
    root.sweep(&lock);
    let installation = Installation {
        plugin: arguments.charon_plugin.clone().unwrap_or_else(find_plugin),
        program: arguments.charon.clone(),
    };
    installation.check()?;
    if let Some((path, config, plan)) = first {
        let refused = |error| {
            eprintln!("culvert: {} is not imported: {error}", path.display());
            Ok(ExitCode::from(REFUSED))
        };
        let import = match Import::begin(root.folder()) {
            Ok(import) => import,
            Err(error) => return refused(error),
        };
        // Once it is stored this command line is refused: what would end this start ends it before.
        Ports::new()?.check(&Wanted::of(&plan).map_err(PortsError::from)?)?;
        if let Err(error) = import.finish(&config) {
            return refused(error);
        }
    }
    let recipe = Recipe {
        root: root.clone(),
        charon: installation,
        login: Login::of_machine(),
        chronyd: Chronyd::of_machine(arguments.keep_clock),
        host_name: HostName::of_its_own()?,
        dataplane_arguments: dataplane_arguments(arguments),
    };
    // One thread: children die with the thread that starts them, and this one lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let switches = Switches::set()?;
    let outcome = runtime.block_on(async { Gateway::prepare(recipe).await?.run().await });
    drop(switches);
    root.sweep(&lock);
    outcome.map(|()| ExitCode::SUCCESS)
}

fn dataplane_arguments(arguments: &Arguments) -> Vec<String> {
    let workers = arguments.workers.map(|workers| workers.to_string());
    let engine = arguments.engine.map(|engine| engine.to_string());
    [
        ("--workers", &workers),
        ("--engine", &engine),
        ("--driver", &arguments.driver),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some([name.to_owned(), value.clone()?]))
    .flatten()
    .collect()
}

fn find_plugin() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(PLUGIN_FILE)));
    match beside {
        Some(path) if path.exists() => path,
        _ => PathBuf::from(PLUGIN_INSTALLED),
    }
}
