//! The process `culvert mgmt`: opens the store, serves the northbound socket, and tells `culvert run` what to follow.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{BusError, Router, Server};
use culvert_mgmt_api::{ConfigurationServer, GatewayServer, MESSAGE_LIMIT};
use culvert_model::config::Config;
use culvert_model::tree::{Tree, TreeError};
use nix::unistd::getuid;
use tokio::net::UnixListener;
use tokio::sync::mpsc::unbounded_channel;

use crate::agent::{Accounts, Agent, Hands, Records, Refusal, Run};
use crate::connections::{House, Limits, incoming};
use crate::login::Writer;
use crate::observe::Observer;
use crate::observe::outlet::Places;
use crate::operating::Operating;
use crate::service::Service;
use crate::store::{Condition, Moment, Opened, Store, StoreError};
use crate::syslog::{self, Syslog};

/// The store's folder, below the root.
pub const STORE: &str = "var/mgmt";
/// Everybody may connect; who it is decides the rest.
const SOCKET_MODE: u32 = 0o666;

/// At a time, of one connection.
const REQUESTS: usize = 16;
/// A connection over which nothing comes is asked whether anybody is there; and so long he has to answer.
const ALIVE: Duration = Duration::from_secs(20);

/// Where mgmt works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's root.
    pub root: PathBuf,
    /// Number of the Unix account that sshd starts the command line as ([`crate::login::ACCOUNT`]).
    pub login_account: Option<u32>,
}

/// Why mgmt stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A folder or socket.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// A socket of the bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What was to be imported is no configuration.
    #[error(transparent)]
    Import(#[from] TreeError),
    /// There is something already.
    #[error(
        "this gateway has a configuration already (revision {newest}): start it without --config, which is for an empty \
         root; to have the file instead, load it by the command line (`load override FILE`, `commit`)"
    )]
    NotEmpty {
        /// The newest revision.
        newest: u64,
    },
    /// Signals cannot be listened to.
    #[error("signals: {0}")]
    Signals(#[source] io::Error),
    /// The northbound socket ended.
    #[error("the northbound socket: {0}")]
    Served(#[source] tonic::transport::Error),
}

/// A root without a configuration, about to be given its first.
pub struct Import {
    store: Store,
}

impl Import {
    /// Refused where there is a configuration already. No mgmt may run there.
    pub fn begin(root: &Path) -> Result<Self, ProcessError> {
        let store = Store::open(&root.join(STORE))?.store;
        match store.newest()? {
            Some(newest) => Err(ProcessError::NotEmpty {
                newest: newest.number.get(),
            }),
            None => Ok(Self { store }),
        }
    }

    /// Makes a configuration, which is to be valid, the first revision.
    pub fn finish(self, config: &Config) -> Result<(), ProcessError> {
        let tree = Tree::from_config(config)?;
        let mut records = Records::begin(self.store, Some(&tree), &Moment::now()?)?;
        records.store.maintain()?;
        Ok(())
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), ProcessError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ProcessError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProcessError::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let opened = Store::open(&options.root.join(STORE))?;
    let warning = warning(&opened);
    let mut records = Records::begin(opened.store, None, &Moment::now()?)?;
    match Syslog::start(syslog::LOCAL.into()) {
        Ok(syslog) => records = records.with_syslog(syslog),
        Err(error) => tracing::error!(%error, "syslog is told nothing"),
    }
    let bus = options.root.join("run/bus");
    let hands = Run::new(&bus.join("run"))?;
    let accounts = Accounts {
        own: getuid().as_raw(),
        shell: options.login_account,
    };
    let agent = Arc::new(
        Agent::new(records, hands, accounts, warning).with_login(Writer::new(&options.root)),
    );
    // Only a greeting: who supervises asks whether this process is well.
    let _greeting = Server::bind(&bus.join("mgmt"), Router::new("mgmt"))?.spawn()?;
    let watching = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.watch().await }
    });
    let listener = listen(&options.root.join("run/api"))?;
    let observer = Arc::new(Observer::new(&options.root)?);
    let served = serve(agent, observer, listener, Limits::default(), ALIVE, stop).await;
    watching.abort();
    served.map_err(ProcessError::Served)
}

/// Answers whoever connects, until `stop`.
async fn serve<H: Hands>(
    agent: Arc<Agent<H>>,
    observer: Arc<Observer>,
    listener: UnixListener,
    limits: Limits,
    alive: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (ended, sessions) = unbounded_channel();
    let house = House::new(agent.accounts(), limits, ended);
    let keeping = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.keep_trail(sessions).await }
    });
    let places = Places::default();
    let gateway = Operating::new(Arc::clone(&agent), observer, places.clone());
    let gateway = GatewayServer::new(gateway)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let dismissing = Arc::clone(&agent);
    let stop = async move {
        stop.await;
        // Its end would wait for theirs.
        dismissing.dismiss();
        places.end();
    };
    let service = ConfigurationServer::new(Service::new(agent))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let served = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(REQUESTS)
        .max_concurrent_streams(Some(REQUESTS as u32))
        // Whoever does not read does not answer this either, and goes with all that was kept for him.
        .http2_keepalive_interval(Some(alive))
        .http2_keepalive_timeout(Some(alive))
        .add_service(service)
        .add_service(gateway)
        .serve_with_incoming_shutdown(incoming(listener, house), stop)
        .await;
    keeping.abort();
    served
}

fn listen(path: &Path) -> Result<UnixListener, ProcessError> {
    let failed = |source| ProcessError::File {
        path: path.to_owned(),
        source,
    };
    // Whoever holds the store's lock is the only mgmt of this root: what lies here is left over.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

/// What an operator must know of the store.
fn warning(opened: &Opened) -> String {
    match &opened.condition {
        Condition::New | Condition::Sound => String::new(),
        Condition::Completed(replacement) => {
            tracing::error!(?replacement, "the end of the store's log was damaged");
            format!(
                "the end of the store's log was damaged and came back from exports: {}",
                replacement.cause
            )
        }
        Condition::Replaced(replacement) => {
            tracing::error!(?replacement, "the store was damaged");
            format!(
                "the store was damaged and exports took its place, audit trail and candidates are lost: {}",
                replacement.cause
            )
        }
    }
}

#[cfg(test)]
mod tests;
