//! iked-bridge: the SA and policy manager between strongSwan's charon and the dataplane.
//!
//! charon negotiates, the dataplane encrypts, and neither knows the other. The bridge keeps the table of security
//! associations and policies, owns every lifetime timer, installs keys in the dataplane and gives charon its
//! connections and credentials.
//!
//! ```text
//!               ROOT/run/charon-plugin.sock                     ROOT/run/bus/dataplane-sa[.events]
//!  charon ── plugin ═══════ calls, upcalls ═══════╗   ╔════════ install, query, dump; limits, acquires ══ dataplane
//!     ╚═════ VICI: connections, credentials, ═════ bridge
//!            list-sas, events                     ║   ╚════════ Apply, Retrieve, ShowIke, Initiate ... ══ supervisor
//!            ROOT/run/charon.vici                              ROOT/run/bus/iked-bridge[-secrets]
//! ```

pub mod algorithm;
pub mod association;
pub mod charon;
pub mod clock;
mod dataplane;
pub mod manager;
mod plugin_socket;
pub mod policy;
pub mod selector;
mod services;
mod shell;
pub mod spi;

use std::path::PathBuf;

use culvert_bus::BusError;

/// Where the bridge works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's root: sockets live in its `run/`.
    pub root: PathBuf,
}

/// Why the bridge stopped.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A socket for charon's plugin could not be opened.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A socket of the bus could not be opened.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// No random numbers, no signals: the system does not give what every process has.
    #[error("{what}: {source}")]
    System {
        /// What it is about.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// Neighbours may come and go: the bridge waits for charon and the dataplane, and reconciles with each that returns.
pub async fn run(options: Options) -> Result<(), BridgeError> {
    let mut terminate = signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(options, stop).await
}

/// As [`run`], until `stop` ends.
pub async fn run_until(
    options: Options,
    stop: impl Future<Output = ()>,
) -> Result<(), BridgeError> {
    shell::run(&options.root.join("run"), stop).await
}

fn signal(
    kind: tokio::signal::unix::SignalKind,
) -> Result<tokio::signal::unix::Signal, BridgeError> {
    tokio::signal::unix::signal(kind).map_err(|source| BridgeError::System {
        what: "signals",
        source,
    })
}
