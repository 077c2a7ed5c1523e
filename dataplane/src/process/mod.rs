//! The dataplane as a process: workers, and a control thread that answers the bus.
//!
//! ```text
//!   bus/dataplane          apply, retrieve, show ----.
//!   bus/dataplane-sa       SAs, policies (secrets) --+--> control thread --tables--> workers
//!   bus/dataplane.events,                            |        ^   |
//!   bus/dataplane-sa.events  <-----------------------'        '---'-- timers, events
//! ```
#![allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    reason = "handlers of the bus are all of one shape"
)]

mod cleared;
mod observe;
mod route_calls;
mod sa_calls;
mod show_calls;
mod state;
mod value_calls;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{BusError, Publisher as Announcer, Router, Server};
pub use culvert_crypto::EngineChoice;
use culvert_crypto::{ChoiceError, KeyError};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::observe::waits;
use self::sa_calls::on;
use self::state::{Shared, State};
pub use self::value_calls::SLICE;
use crate::clock;
use crate::control::{ControlPlane, DetectionTiming};
pub use crate::driver::DriverChoice;
use crate::event;
use crate::graph::{Node, NodeId};
use crate::nodes;
use crate::path_mtu::PathMtuTable;
use crate::port::Port;
use crate::sa::SaManager;
use crate::tables::{Publisher, Tables};
use crate::worker::{Common, Worker, WorkerError};

/// Opens the TAP of this name for the worker of this number; the error says what is wrong with it.
pub type TapOpener = Box<dyn Fn(&str, u32) -> Result<Box<dyn Port>, String> + Send>;

/// What the dataplane is started with.
pub struct Options {
    /// The folder of this gateway.
    pub root: PathBuf,
    /// Threads that forward.
    pub workers: u32,
    /// The cipher engine.
    pub engine: EngineChoice,
    /// How frames of interfaces come and go that do not say it themselves.
    pub driver: DriverChoice,
    /// Nodes of other crates (punt and inject), made anew for each worker.
    pub nodes: fn() -> Vec<Box<dyn Node>>,
    /// Where TAPs come from.
    pub open_tap: TapOpener,
}

/// Why the dataplane does not run.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// Its sockets.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Its workers.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] KeyError),
    /// This CPU does not run the engine that was asked for.
    #[error(transparent)]
    Engine(#[from] ChoiceError),
}

/// Runs until `stop`.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), ProcessError> {
    let socket = |name: &str| options.root.join("run/bus").join(name);
    let (sender, mut receiver) = event::channel();
    let engine = options.engine.engine()?;
    let engine_name = engine.name();
    let publisher = Publisher::new(Tables {
        // Keys of the standard library's hash tables come from the system's random numbers.
        spread_seed: RandomState::new().hash_one(std::process::id()),
        ..Tables::default()
    });
    let plane = ControlPlane::new(publisher.clone(), DetectionTiming::default());
    let common = Common {
        tables: publisher.clone(),
        events: sender,
        engine: Arc::clone(&engine),
    };
    let count = options.workers.max(1);
    let workers = (0..count)
        .map(|number| {
            let all = nodes::layer3()
                .into_iter()
                .chain(nodes::tunnels())
                .chain((options.nodes)())
                .collect();
            Worker::start(number, &common, all)
        })
        .collect::<Result<Vec<_>, _>>()?;
    say_which_pages(&workers);
    let shared = Arc::new(Shared::new(State {
        publisher,
        plane,
        sas: SaManager::new(engine)?,
        cleared: cleared::Cleared::default(),
        node_bases: vec![[0; 3]; workers.len() * NodeId::COUNT],
        workers,
        tap_opener: options.open_tap,
        driver: options.driver,
        drivers: std::collections::HashMap::new(),
        events: Announcer::bind(&socket("dataplane.events"))?,
        sa_events: Announcer::bind(&socket("dataplane-sa.events"))?,
        clocks_per_second: clock::clocks_per_second(),
        acquired: std::collections::HashMap::new(),
        paths: PathMtuTable::default(),
        observations: observe::Observations::default(),
    }));
    let values = Router::new("dataplane")
        .on(waits(&shared, value_calls::apply))
        .on(on(&shared, value_calls::retrieve))
        .on(on(&shared, value_calls::set_groups))
        .on(on(&shared, show_calls::nodes))
        .on(on(&shared, show_calls::drops))
        .on(on(&shared, show_calls::interfaces))
        .on(on(&shared, show_calls::reassembly))
        .on(on(&shared, show_calls::paths))
        .on(on(&shared, show_calls::neighbours))
        .on(on(&shared, show_calls::clear_neighbours))
        .on(on(&shared, cleared::clear_counters))
        .on(on(&shared, route_calls::routes))
        .on(waits(&shared, observe::start_trace))
        .on(waits(&shared, observe::read_trace))
        .on(on(&shared, observe::stop_trace))
        .on(waits(&shared, observe::start_capture))
        .on(waits(&shared, observe::read_capture))
        .on(on(&shared, observe::stop_capture));
    let sa_server =
        Server::bind_for_secrets(&socket("dataplane-sa"), sa_calls::router(&shared))?.spawn()?;
    let value_server = Server::bind(&socket("dataplane"), values)?.spawn()?;
    tracing::info!(workers = count, engine = engine_name, "dataplane ready");
    loop {
        let due = shared.state().next_timer();
        let due =
            due.map(|due| Duration::from_nanos(due.saturating_sub(clock::monotonic_nanoseconds())));
        let timer = async {
            match due {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.timers.notified() => {}
            () = timer => {
                let mut state = shared.state();
                let actions = state.plane.tick(clock::monotonic_nanoseconds());
                state.perform_or_report(actions);
                state.forget_paths();
            }
            Some(event) = receiver.recv() => shared.state().hear(&event),
        }
    }
    value_server.stop().await;
    sa_server.stop().await;
    Ok(())
}

/// Says whether packets lie in huge pages, and what to do if not.
fn say_which_pages(workers: &[Worker]) {
    let huge = workers.iter().filter(|one| one.memory().huge_pages());
    let huge = huge.count();
    if huge == workers.len() {
        tracing::info!(workers = huge, "packets lie in huge pages");
    } else {
        tracing::info!(
            workers = workers.len() - huge,
            "no huge pages are left for packets: ordinary ones, which the kernel may join; vm.nr_hugepages reserves some"
        );
    }
}
