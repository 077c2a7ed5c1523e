//! `culvert trace` and `culvert capture`: what happens inside a running gateway, while it happens.
//!
//! ```text
//!   start --> read, read, read ... (batches of what was seen) --> enough, time is up, or Ctrl-C --> stop
//! ```
//!
//! The dataplane ends by itself what is no longer read: a client that is killed leaves nothing behind.

pub mod capture;
pub mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use culvert_bus::{BusError, Call, CallError, Client};
use culvert_dataplane::observe::{Filter, FilterError};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::show::{ShowError, socket_of};

/// A gateway that does not answer within it is busy beyond help.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two readings.
const INTERVAL: Duration = Duration::from_millis(50);

/// Which packets of which gateway.
#[derive(Debug, Args)]
pub struct Which {
    /// Which packets, as in pcap-filter(7): `host 10.0.0.1 and udp port 53`, `net 10.1.0.0/16`, `esp`, `icmp`,
    /// `spi 0xc1d2e3f4`, with `not`, `and`, `or` and parentheses; none: every packet.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// The folder of the gateway.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/culvert")]
    root: PathBuf,
}

impl Which {
    /// The text of the filter, when it is one.
    fn filter(&self) -> Result<String, ObserveError> {
        let text = self.filter.join(" ");
        text.parse::<Filter>()?;
        Ok(text)
    }
}

/// Why nothing is seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The filter is none.
    #[error("this filter cannot be understood: {0}")]
    Filter(#[from] FilterError),
    /// No gateway runs there.
    #[error(transparent)]
    Gateway(#[from] ShowError),
    /// The socket cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The dataplane refused, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No runtime for the bus, or no signals.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    /// What was seen cannot be written.
    #[error("cannot write")]
    Write(#[source] std::io::Error),
    /// The file cannot be made.
    #[error("cannot write to {file}", file = file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody can read a capture from a terminal.
    #[error("a capture is no text; name a file with --write, or let another program read it")]
    Terminal,
}

/// The dataplane of a gateway.
struct Dataplane {
    client: Client,
    interrupt: Signal,
    terminate: Signal,
}

impl Dataplane {
    /// Runs `work` with the dataplane of the gateway in `root`.
    fn with<R>(
        root: &Path,
        work: impl AsyncFnOnce(&mut Self) -> Result<R, ObserveError>,
    ) -> Result<R, ObserveError> {
        let path = socket_of(root, "dataplane")?;
        runtime()?.block_on(async {
            let mut this = Self {
                client: Client::new(&path)?,
                interrupt: signal(SignalKind::interrupt()).map_err(ObserveError::Runtime)?,
                terminate: signal(SignalKind::terminate()).map_err(ObserveError::Runtime)?,
            };
            work(&mut this).await
        })
    }

    async fn call<C: Call>(&self, request: &C) -> Result<C::Reply, ObserveError> {
        Ok(self.client.call(request, PATIENCE).await?)
    }

    /// Waits until something new may have been seen. False: it is enough, somebody has ended it.
    async fn wait(&mut self, until: Option<Instant>) -> bool {
        let next = Instant::now() + INTERVAL;
        tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
            () = tokio::time::sleep_until(until.map_or(next, |until| until.min(next))) => true,
        }
    }
}

fn runtime() -> Result<Runtime, ObserveError> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(ObserveError::Runtime)
}

/// A pipe that is read no further is an end like any other: false.
fn is_open(outcome: std::io::Result<()>) -> Result<bool, ObserveError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ObserveError::Write(error)),
    }
}
