//! What the control thread holds, and how requests, workers and timers change it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_bus::Publisher as Announcer;
use culvert_model::bus;
use thiserror::Error;
use tokio::sync::Notify;

use super::TapOpener;
use super::cleared::Cleared;
use super::observe::Observations;
use crate::clock;
use crate::control::{Action, ControlPlane};
use crate::counters::WorkerCounters;
use crate::driver::DriverChoice;
use crate::driver::af_packet::{AfPacket, Device, OpenError, make_mtu};
use crate::driver::af_xdp::AfXdp;
use crate::event::Event;
use crate::nodes::tunnel_output::underlay;
use crate::path_mtu::{Known, PathMtuTable, TooBig, TunnelTooBig, Verdict};
use crate::sa::service::sa_event;
use crate::sa::{Sa, SaError, SaManager};
use crate::tables::{InterfaceKind, Publisher, Tables, VRF_DEFAULT};
use crate::worker::Worker;

/// One acquire a policy in this time, over all workers.
const ACQUIRE_INTERVAL: Duration = Duration::from_secs(5);

/// The state, shared by the tasks of the control thread.
pub struct Shared {
    state: Mutex<State>,
    /// Something has changed that may have brought the next timer forward.
    pub(super) timers: Notify,
}

/// What the control thread holds.
pub struct State {
    pub(super) publisher: Publisher,
    pub(super) plane: ControlPlane,
    pub(super) sas: SaManager,
    pub(super) workers: Vec<Worker>,
    pub(super) tap_opener: TapOpener,
    /// Of interfaces that do not say it themselves.
    pub(super) driver: DriverChoice,
    /// How each device was opened, by port, as it is shown.
    pub(super) drivers: HashMap<u32, String>,
    pub(super) events: Announcer<bus::DataplaneEvent>,
    pub(super) sa_events: Announcer<bus::SaEvent>,
    /// Other counters when they were cleared.
    pub(super) cleared: Cleared,
    /// Node counters at the last reset, by worker and node.
    pub(super) node_bases: Vec<[u64; 3]>,
    pub(super) clocks_per_second: u64,
    pub(super) acquired: HashMap<u32, Duration>,
    pub(super) paths: PathMtuTable,
    pub(super) observations: Observations,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            timers: Notify::new(),
        }
    }

    /// The state; whoever has it does not wait for anything.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A handler that panicked has left whole versions of the tables behind: they are published whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something could not be done.
#[derive(Debug, Error)]
pub enum PerformError {
    /// The driver.
    #[error(transparent)]
    Device(#[from] OpenError),
    /// The TAP.
    #[error("{0}")]
    Tap(String),
    /// The policies.
    #[error(transparent)]
    Policies(#[from] SaError),
}

impl State {
    /// What each worker has counted.
    pub(super) fn counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.workers.iter().map(Worker::counters)
    }

    /// Lets workers see what was published.
    pub(super) fn wake(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// Does what the control plane asks for.
    pub(super) fn perform(&mut self, actions: Vec<Action>) -> Result<(), PerformError> {
        for action in actions {
            match action {
                Action::Emit { interface, frame } => {
                    if let Some(worker) = self.workers.first() {
                        worker.transmit(interface, frame);
                    }
                }
                Action::Configure { name, policy } => {
                    let Self { sas, publisher, .. } = self;
                    publisher
                        .update(|tables| sas.configure(&mut tables.sas, &name, policy.as_ref()))?;
                }
                Action::OpenPort {
                    port,
                    device,
                    driver,
                    mtu,
                } => self.open_device(port, &device, driver.unwrap_or(self.driver), mtu)?,
                Action::OpenTap { port, tap } => self.open_tap(port, &tap)?,
                Action::ClosePort { port } => {
                    self.drivers.remove(&port);
                    for worker in &self.workers {
                        worker.remove(port);
                    }
                }
            }
        }
        self.wake();
        Ok(())
    }

    /// Opens a device by the driver that is wanted, or by the one that always works.
    fn open_device(
        &mut self,
        port: u32,
        device: &str,
        driver: DriverChoice,
        mtu: u16,
    ) -> Result<(), PerformError> {
        make_mtu(device, mtu, driver)?;
        let mut shown = DriverChoice::AfPacket.to_string();
        if driver == DriverChoice::AfXdp {
            let memories: Vec<_> = self
                .workers
                .iter()
                .map(|worker| worker.memory().clone())
                .collect();
            match AfXdp::open(device, &memories) {
                Ok((ports, mode)) => {
                    for (worker, opened) in self.workers.iter().zip(ports) {
                        worker.insert(port, Box::new(opened));
                    }
                    self.drivers.insert(port, format!("{driver} ({mode})"));
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(device, %error, "af-xdp does not work here; af-packet is used");
                    shown = format!("{shown} ({error})");
                }
            }
        }
        let device = Arc::new(Device::take(device)?);
        let workers = self.workers.len() as u32;
        for worker in &self.workers {
            worker.insert(port, Box::new(AfPacket::open(&device, workers, mtu)?));
        }
        self.drivers.insert(port, shown);
        Ok(())
    }

    fn open_tap(&self, port: u32, tap: &str) -> Result<(), PerformError> {
        for (number, worker) in self.workers.iter().enumerate() {
            let opened = (self.tap_opener)(tap, number as u32).map_err(PerformError::Tap)?;
            worker.insert(port, opened);
        }
        Ok(())
    }

    /// Tells a tunnel what its newest SA leaves of the underlay's MTU.
    pub(super) fn measure_tunnel(&mut self, if_id: u32) {
        // Peers by the thousand share the tunnel of policies: each packet finds the MTU of its own SA.
        if if_id == 0 {
            return;
        }
        let tables = self.publisher.current();
        let Some(interface) = tables
            .sas
            .tunnels
            .get(if_id)
            .and_then(|index| tables.interfaces.get(*index))
        else {
            return;
        };
        let InterfaceKind::Tunnel {
            underlay_vrf,
            learn_path_mtu,
            ..
        } = interface.kind
        else {
            let index = interface.index;
            return self.measure_encapsulation(&tables, index);
        };
        let smallest = self
            .sas
            .in_use(if_id)
            .filter_map(|index| tables.sas.sas.get(index))
            .map(|sa| {
                let peer = sa.endpoints.destination;
                let link = underlay(&tables, underlay_vrf, peer, || sa.spread).1;
                let path = tables.path_mtus.get(underlay_vrf, peer);
                sa.inner_mtu(
                    path.filter(|_| learn_path_mtu)
                        .map_or(link, |path| path.min(link)),
                )
            })
            .min();
        if let Some(mtu) = smallest {
            self.plane.set_tunnel_mtu(if_id, mtu);
        }
    }

    /// Tells every tunnel of GRE and IPIP what routes and SAs leave of the underlay's MTU.
    pub(super) fn measure_encapsulations(&mut self) {
        let tables = self.publisher.current();
        for index in tables.encapsulations.interfaces() {
            self.measure_encapsulation(&tables, index);
        }
    }

    fn measure_encapsulation(&mut self, tables: &Tables, index: u32) {
        if let Some(interface) = tables.interfaces.get(index)
            && let Some(ends) = tables.encapsulations.get(index)
        {
            let mtu = ends.inner_mtu(tables, interface.kind.if_id(), false);
            self.plane.set_encapsulation_mtu(index, *ends, mtu);
        }
    }

    /// Takes in what a worker has told.
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::NeighbourSeen { .. }
            | Event::NeighbourWanted { .. }
            | Event::AddressConflict { .. }
            | Event::ListenerQuery { .. } => {
                let actions = self.plane.handle([event], clock::monotonic_nanoseconds());
                self.perform_or_report(actions);
            }
            Event::TooBig(message) => self.hear_too_big(message),
            Event::TunnelTooBig(message) => self.hear_tunnel_too_big(message),
            Event::Acquire { policy, .. } if !self.may_acquire(*policy) => {}
            Event::SaLimit { .. } | Event::Acquire { .. } | Event::MappingChanged { .. } => {
                let message = sa_event(event, |number| self.sas.policy(number).copied());
                if let Some(message) = message {
                    self.sa_events.publish(&message);
                }
            }
        }
    }

    fn hear_too_big(&mut self, message: &TooBig) {
        let tables = self.publisher.current();
        let sa = message
            .packet
            .sa()
            .and_then(|id| self.sas.get(&tables.sas, id));
        let known = sa.map(|sa| {
            let (vrf, learn) = underlay_of(&tables, sa);
            let link_mtu = underlay(&tables, vrf, sa.endpoints.destination, || sa.spread).1;
            Known {
                sa,
                vrf,
                link_mtu,
                learn,
            }
        });
        let verdict = self
            .paths
            .hear(message, known, clock::monotonic_nanoseconds());
        tracing::debug!(?verdict, peer = %message.packet.destination, mtu = message.mtu, "ESP packet too big");
        let if_id = sa.map(|sa| sa.spec.if_id);
        if let (Verdict::Learnt, Some(if_id)) = (verdict, if_id) {
            self.publish_paths([if_id]);
        }
    }

    fn hear_tunnel_too_big(&mut self, message: &TunnelTooBig) {
        let tables = self.publisher.current();
        let ends = &message.ends;
        let in_the_clear = tables
            .encapsulations
            .find(ends)
            .and_then(|index| tables.interfaces.get(index))
            .is_some_and(|interface| interface.kind.if_id().is_none());
        let link_mtu = in_the_clear.then(|| {
            underlay(&tables, ends.underlay_vrf, ends.remote, || {
                ends.spread(false)
            })
            .1
        });
        let now = clock::monotonic_nanoseconds();
        let verdict = self.paths.hear_tunnel(message, link_mtu, now);
        tracing::debug!(?verdict, peer = %ends.remote, mtu = message.mtu, "packet of a tunnel too big");
        if verdict == Verdict::Learnt {
            self.publish_paths(tables.sas.tunnels.iter().map(|(if_id, _)| if_id));
        }
    }

    /// When something is due, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn next_timer(&self) -> Option<u64> {
        let timers = [self.plane.next_timer(), self.paths.next_timer()];
        timers.into_iter().flatten().min()
    }

    /// Forgets path MTUs that were learnt long ago.
    pub(super) fn forget_paths(&mut self) {
        if self.paths.expire(clock::monotonic_nanoseconds()) {
            let tables = self.publisher.current();
            self.publish_paths(tables.sas.tunnels.iter().map(|(if_id, _)| if_id));
        }
    }

    fn publish_paths(&mut self, tunnels: impl IntoIterator<Item = u32>) {
        let path_mtus = self.paths.published();
        self.publisher.update(|tables| tables.path_mtus = path_mtus);
        for if_id in tunnels {
            self.measure_tunnel(if_id);
        }
        self.measure_encapsulations();
        self.wake();
    }

    /// What timers and events cause opens no port and cannot fail.
    pub(super) fn perform_or_report(&mut self, actions: Vec<Action>) {
        if let Err(error) = self.perform(actions) {
            tracing::error!(%error, "cannot carry out what the control plane asks for");
        }
    }

    fn may_acquire(&mut self, policy: u32) -> bool {
        let now = Duration::from_nanos(clock::monotonic_nanoseconds());
        self.acquired
            .retain(|_, at| now.saturating_sub(*at) < ACQUIRE_INTERVAL);
        let fresh = !self.acquired.contains_key(&policy);
        if fresh {
            self.acquired.insert(policy, now);
        }
        fresh
    }
}

/// Index of the VRF in which the packets of an SA travel, and whether its tunnel believes what routers say of their size.
fn underlay_of(tables: &Tables, sa: &Sa) -> (u32, bool) {
    let tunnel = tables.sas.tunnels.get(sa.spec.if_id);
    match tunnel
        .and_then(|index| tables.interfaces.get(*index))
        .map(|interface| interface.kind)
    {
        Some(InterfaceKind::Tunnel {
            underlay_vrf,
            learn_path_mtu,
            ..
        }) => (underlay_vrf, learn_path_mtu),
        Some(InterfaceKind::Encapsulation { underlay_vrf, .. }) => (underlay_vrf, true),
        _ => (VRF_DEFAULT, true),
    }
}
