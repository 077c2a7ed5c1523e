//! The loop that joins the supervisor's decisions to processes, clocks and the bus.
//!
//! ```text
//!   ends of processes --+                    +--> spawn, signal
//!   probes -------------+--> Happened --> Gateway --> retrieve, apply (tasks)
//!   answers of parts ---+       ^            +--> status.json, systemd
//!   signals to us ------+       |
//!                               +-- the next deadline
//! ```
//!
//! Nothing here waits for anything but the next event: every question to another process is a task of its own that
//! reports back with the process' number, so that an answer of one that is gone is known as such.

mod asked;
mod follow;
mod services;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use culvert_model::bus;
use culvert_model::plan::Part;
use culvert_plugin_wire::EXIT_PLUGIN_MISSING;
use culvert_scheduler::BatchId;
use culvert_tap_inject::mirror::LearntRoute;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::children::{Children, Ended, Recipe};
use super::learnt;
use super::notify::{self, State};
use super::parts::{PartError, Parts};
use super::plan_calls::{self, Asked};
use super::ports::{Ports, Wanted};
use super::sessions::{self, Sessions};
use super::status::StatusFile;
use super::supervisor::{Action, Phase, Process, Supervisor};
use super::values::{Batch, Values};
use super::{RunError, charon, groups, login, ntp};

/// Between probes of a process that starts: its readiness is somebody's waiting time.
const EAGER: Duration = Duration::from_millis(50);
/// Between probes of a process that is ready.
const CALM: Duration = Duration::from_secs(1);
/// Calm rounds between two questions how charon is: its answer lists every SA there is.
const IKE_ROUNDS: u32 = 5;
/// Before a part that gave no answer is asked again.
const PART_PAUSE: Duration = Duration::from_millis(300);

/// What the loop is told.
enum Happened {
    /// A process was asked for its health.
    Probed {
        process: Process,
        pid: u32,
        healthy: bool,
    },
    /// A part told what it holds.
    Retrieved {
        part: Part,
        life: u64,
        outcome: Result<Vec<bus::KeyedValue>, PartError>,
    },
    /// A part carried out a batch, or did not answer.
    Applied {
        part: Part,
        life: u64,
        batch: BatchId,
        outcome: Result<Vec<bus::OperationResult>, PartError>,
    },
    /// It is time to ask a part that gave no answer again.
    AskAgain { part: Part, life: u64 },
    /// Duplicate address detection is over.
    AddressesReady,
    /// Routes of others in Linux, all of them.
    Learnt(Vec<LearntRoute>),
    /// How the DHCP clients stand.
    Leases(Vec<bus::DhcpClientState>),
    /// iked-bridge told how it stands to charon; none: no answer.
    Ike(Option<bus::ShowIkeReply>),
    /// By mgmt.
    Asked(Asked),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    LookAgain,
}

/// A running gateway.
pub struct Gateway {
    recipe: Recipe,
    /// Of the configuration that is followed; 0: none yet.
    revision: u64,
    /// mgmt asks here.
    plan_calls: Option<culvert_bus::Running>,
    supervisor: Supervisor,
    children: Children,
    ports: Ports,
    /// What the ports become when the dataplane has ended.
    next_ports: Option<Wanted>,
    parts: Parts,
    values: Values,
    /// Of each part that is up: counted on with each new life of its process.
    lives: BTreeMap<Part, u64>,
    next_life: u64,
    /// The parts that are being asked what they hold.
    asked: BTreeSet<Part>,
    status: StatusFile,
    /// What sshd was told last; none: there is to be none.
    told_sshd: Option<Vec<u8>>,
    /// What chronyd was told last; none: there is to be none.
    told_chronyd: Option<Vec<u8>>,
    sessions: Sessions,
    ike: Option<bus::ShowIkeReply>,
    addresses_asked: bool,
    addresses_ready: bool,
    was_ready: bool,
    stopping: bool,
    /// When it began.
    begun: Instant,
    /// The repeated questions to each process.
    probes: BTreeMap<Process, JoinHandle<()>>,
    /// What tells the dataplane of multicast groups.
    groups: Option<JoinHandle<Infallible>>,
    /// What asks for leases, while there is somebody to ask.
    leases: Option<JoinHandle<()>>,
    sender: mpsc::UnboundedSender<Happened>,
    events: mpsc::UnboundedReceiver<Happened>,
    ends: mpsc::UnboundedReceiver<Ended>,
}

impl Gateway {
    /// Without a plan: it takes nothing of the machine, and no process runs yet.
    pub async fn prepare(recipe: Recipe) -> Result<Self, RunError> {
        let (children, ends) = Children::new();
        let (sender, events) = mpsc::unbounded_channel();
        let parts = Parts::open(&recipe.root, &recipe.chronyd, recipe.host_name.clone())?;
        let mut gateway = Self {
            revision: 0,
            plan_calls: None,
            supervisor: Supervisor::new(),
            children,
            ports: Ports::new()?,
            next_ports: None,
            parts,
            values: Values::new(Instant::now()),
            lives: BTreeMap::new(),
            next_life: 0,
            asked: BTreeSet::new(),
            status: StatusFile::new(recipe.root.clone()),
            told_sshd: None,
            told_chronyd: None,
            sessions: Sessions::default(),
            ike: None,
            addresses_asked: false,
            addresses_ready: false,
            was_ready: false,
            stopping: false,
            begun: Instant::now(),
            probes: BTreeMap::new(),
            groups: None,
            leases: None,
            sender,
            events,
            ends,
            recipe,
        };
        if let Err(error) = gateway.change_ports(Wanted::default()).await {
            if let Err(error) = gateway.ports.release().await {
                tracing::error!(%error, "cannot give back");
            }
            return Err(error);
        }
        Ok(gateway)
    }

    /// Runs until told to stop, then leaves the machine as it was.
    pub async fn run(mut self) -> Result<(), RunError> {
        let outcome = match self.listen_to_signals() {
            Ok(()) => self.listen_to_mgmt(),
            refused => refused,
        };
        if outcome.is_ok() {
            self.live().await;
        }
        for probe in self.probes.values() {
            probe.abort();
        }
        if let Some(groups) = &self.groups {
            groups.abort();
        }
        if let Some(leases) = &self.leases {
            leases.abort();
        }
        self.sessions.end(sessions::End::AtOnce);
        self.ports.release().await?;
        tracing::info!("stopped");
        outcome
    }

    async fn live(&mut self) {
        let sender = self.sender.clone();
        let learning = tokio::spawn(learnt::follow(move |routes| {
            sender.send(Happened::Learnt(routes)).is_ok()
        }));
        self.supervisor.allow(Process::Mgmt, Instant::now());
        loop {
            self.act();
            self.write_status();
            if self.supervisor.is_stopped() {
                learning.abort();
                return;
            }
            let deadline = [self.supervisor.deadline(), self.values.deadline()]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                Some(ended) = self.ends.recv() => self.ended(&ended).await,
                Some(event) = self.events.recv() => self.happened(event).await,
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn listen_to_mgmt(&mut self) -> Result<(), RunError> {
        let sender = self.sender.clone();
        let running = plan_calls::serve(&self.recipe.root.bus("run"), move |asked| {
            sender.send(Happened::Asked(asked)).is_ok()
        });
        self.plan_calls = Some(running.map_err(super::parts::OpenError::from)?);
        Ok(())
    }

    fn listen_to_signals(&self) -> Result<(), RunError> {
        use tokio::signal::unix::{SignalKind, signal};
        for (kind, event) in [
            (
                SignalKind::terminate(),
                (|| Happened::Stop) as fn() -> Happened,
            ),
            (SignalKind::interrupt(), || Happened::Stop),
            (SignalKind::hangup(), || Happened::LookAgain),
        ] {
            let mut signals = signal(kind).map_err(RunError::Signals)?;
            let sender = self.sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if sender.send(event()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    /// Does what is due now.
    fn act(&mut self) {
        let now = Instant::now();
        if !self.stopping {
            self.open_gates(now);
            self.follow_dhcp(now);
            for part in self.values.parts_to_retrieve() {
                self.retrieve(part);
            }
            for batch in self.values.next_batches(now) {
                self.apply(batch);
            }
        }
        // A start that fails is an end, which may make more due at once.
        loop {
            let actions = self.supervisor.poll(Instant::now());
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Spawn(process) => self.spawn(process),
                    Action::Terminate(process) => {
                        tracing::info!(%process, "ending");
                        self.children.signal(process, Signal::SIGTERM);
                    }
                    Action::Kill(process) => {
                        tracing::warn!(%process, "does not end: killing");
                        self.children.signal(process, Signal::SIGKILL);
                    }
                }
            }
        }
    }

    /// Interfaces, addresses, TAPs and routes first, then the bridge, then charon.
    fn open_gates(&mut self, now: Instant) {
        // Before there is a plan nothing waits, but nothing is in place either.
        let planned = self.supervisor.phase(Process::Dataplane) != Phase::Blocked;
        if planned
            && self.supervisor.phase(Process::IkedBridge) == Phase::Blocked
            && self.values.is_settled(Part::Dataplane)
            && self.values.is_settled(Part::Linux)
        {
            if self.addresses_ready {
                tracing::info!("interfaces, addresses and routes are in place");
                self.supervisor.allow(Process::IkedBridge, now);
            } else if !self.addresses_asked {
                self.addresses_asked = true;
                let (parts, sender) = (self.parts.clone(), self.sender.clone());
                tokio::spawn(async move {
                    while !parts.addresses_ready().await {
                        tokio::time::sleep(EAGER).await;
                    }
                    let _ = sender.send(Happened::AddressesReady);
                });
            }
        }
        if self.supervisor.is_ready(Process::IkedBridge) && self.next_ports.is_none() {
            self.supervisor.allow(Process::Charon, now);
        }
    }

    fn spawn(&mut self, process: Process) {
        let spawned = self.children.spawn(
            process,
            &self.recipe,
            self.ports.namespace(),
            self.ports.taps(),
        );
        let now = Instant::now();
        match spawned {
            Ok(pid) => {
                tracing::info!(%process, pid, "started");
                self.supervisor.spawned(process, now);
                self.probe(process, pid);
                match process {
                    Process::Dataplane => self.tell_groups(),
                    Process::Sshd => self.sessions.of(pid),
                    Process::Dhcp => self.watch_leases(),
                    Process::Mgmt | Process::IkedBridge | Process::Charon | Process::Chronyd => {}
                }
            }
            Err(error) => {
                tracing::error!(%process, error = &error as &dyn std::error::Error, "cannot start");
                self.supervisor.exited(process, now);
            }
        }
    }

    /// Lets a new dataplane know what Linux listens to.
    fn tell_groups(&mut self) {
        let task = tokio::spawn(groups::tell(self.parts.clone()));
        if let Some(old) = self.groups.replace(task) {
            old.abort();
        }
    }

    /// Asks a process for its health for as long as it runs.
    fn probe(&mut self, process: Process, pid: u32) {
        let (parts, sender) = (self.parts.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let mut pause = EAGER;
            let mut rounds = 0u32;
            loop {
                let healthy = match process {
                    Process::Charon => charon::listens(pid),
                    Process::Sshd => login::listens(pid),
                    Process::Chronyd => ntp::listens(pid),
                    other => parts
                        .greet(other)
                        .await
                        .is_some_and(|session| session.pid == pid),
                };
                if healthy {
                    pause = CALM;
                }
                let probed = Happened::Probed {
                    process,
                    pid,
                    healthy,
                };
                if sender.send(probed).is_err() {
                    return;
                }
                if healthy && process == Process::IkedBridge && rounds == 0 {
                    let ike = parts.show_ike().await;
                    if ike.as_ref().is_some_and(|ike| ike.reconciled) {
                        rounds = IKE_ROUNDS;
                    } else {
                        // The last step of a start is worth looking at more often.
                        pause = EAGER;
                        rounds = 1;
                    }
                    if sender.send(Happened::Ike(ike)).is_err() {
                        return;
                    }
                }
                rounds = rounds.saturating_sub(1);
                tokio::time::sleep(pause).await;
            }
        });
        if let Some(old) = self.probes.insert(process, task) {
            old.abort();
        }
    }

    async fn ended(&mut self, ended: &Ended) {
        let process = ended.process;
        self.children.ended(ended);
        if let Some(probe) = self.probes.remove(&process) {
            probe.abort();
        }
        let status = ended
            .status
            .map_or("unknown".to_owned(), |status| status.to_string());
        if matches!(self.supervisor.phase(process), Phase::Ending { .. }) {
            tracing::info!(%process, pid = ended.pid, status, "ended");
        } else {
            tracing::warn!(%process, pid = ended.pid, status, "ended by itself");
        }
        match process {
            Process::Dataplane => self.part_down(Part::Dataplane),
            Process::Dhcp => self.dhcp_ended(),
            Process::IkedBridge => self.part_down(Part::Iked),
            Process::Mgmt | Process::Sshd | Process::Chronyd => {}
            Process::Charon => {
                let code = ended.status.and_then(|status| status.code());
                if code == Some(EXIT_PLUGIN_MISSING) {
                    tracing::error!("charon cannot load its culvert plugin: see charon.log");
                }
            }
        }
        // Whatever ended, what the bridge said of charon and the dataplane no longer holds: look again soon.
        self.ike = None;
        if let Some(pid) = self.children.pid(Process::IkedBridge)
            && self.supervisor.is_ready(Process::IkedBridge)
        {
            self.probe(Process::IkedBridge, pid);
        }
        if process == Process::Dataplane
            && let Some(wanted) = self.next_ports.take()
            && let Err(error) = self.change_ports(wanted).await
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "interfaces are not as configured"
            );
        }
        self.supervisor.exited(process, Instant::now());
    }

    async fn happened(&mut self, event: Happened) {
        let now = Instant::now();
        match event {
            Happened::Probed {
                process,
                pid,
                healthy,
            } => self.probed(process, pid, healthy, now),
            Happened::Retrieved {
                part,
                life,
                outcome,
            } if self.lives.get(&part) == Some(&life) => match outcome {
                Ok(values) => {
                    self.asked.remove(&part);
                    self.values.retrieved(part, values);
                    // What was done is told here where the answer that told it was lost.
                    if part == Part::Linux {
                        self.follow_ntp(now);
                    }
                }
                Err(error) => self.ask_again(part, life, &error),
            },
            Happened::Applied {
                part,
                life,
                batch,
                outcome,
            } if self.lives.get(&part) == Some(&life) => match outcome {
                Ok(results) => {
                    self.values.completed(batch, &results, now);
                    if part == Part::Linux {
                        self.follow_ntp(now);
                    }
                }
                Err(error) => {
                    tracing::warn!(%part, %error, "gave no answer");
                    self.values.lost(batch);
                }
            },
            Happened::AskAgain { part, life } if self.lives.get(&part) == Some(&life) => {
                self.asked.remove(&part);
            }
            Happened::Retrieved { .. } | Happened::Applied { .. } | Happened::AskAgain { .. } => {}
            Happened::AddressesReady => self.addresses_ready = true,
            Happened::Learnt(routes) => {
                tracing::debug!(routes = routes.len(), "routes of others in Linux");
                if let Err(error) = self.values.set_learnt(routes) {
                    tracing::error!(%error, "routes of others are not taken over");
                }
            }
            Happened::Leases(clients) => {
                if let Err(error) = self.values.set_leases(clients, now) {
                    tracing::error!(%error, "leases are not taken over");
                }
            }
            Happened::Ike(ike) => self.ike = ike,
            Happened::Asked(asked) => self.asked(asked, now).await,
            Happened::Stop => self.stop(),
            Happened::LookAgain => self.look_again(),
        }
    }

    fn probed(&mut self, process: Process, pid: u32, healthy: bool, now: Instant) {
        if self.children.pid(process) != Some(pid) {
            return;
        }
        let before = self.supervisor.is_ready(process);
        self.supervisor.probed(process, healthy, now);
        if !before && self.supervisor.is_ready(process) {
            tracing::info!(%process, pid, "ready");
            match process {
                Process::Dataplane => self.part_up(Part::Dataplane),
                Process::Dhcp => self.part_up(Part::Dhcp),
                Process::IkedBridge => self.part_up(Part::Iked),
                Process::Mgmt | Process::Charon | Process::Sshd | Process::Chronyd => {}
            }
        }
    }

    fn part_up(&mut self, part: Part) {
        self.next_life += 1;
        self.lives.insert(part, self.next_life);
        self.asked.remove(&part);
        self.values.part_up(part);
    }

    fn part_down(&mut self, part: Part) {
        if self.lives.remove(&part).is_some() {
            self.values.part_down(part);
        }
    }

    fn retrieve(&mut self, part: Part) {
        let Some(&life) = self.lives.get(&part) else {
            return;
        };
        if !self.asked.insert(part) {
            return;
        }
        let (parts, sender) = (self.parts.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = parts.retrieve(part).await;
            let _ = sender.send(Happened::Retrieved {
                part,
                life,
                outcome,
            });
        });
    }

    fn ask_again(&mut self, part: Part, life: u64, error: &PartError) {
        tracing::warn!(%part, %error, "gave no answer");
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PART_PAUSE).await;
            let _ = sender.send(Happened::AskAgain { part, life });
        });
    }

    fn apply(&mut self, batch: Batch) {
        let Batch {
            id,
            part,
            operations,
        } = batch;
        let Some(&life) = self.lives.get(&part) else {
            return;
        };
        tracing::debug!(%part, operations = operations.len(), "applying");
        let (parts, sender) = (self.parts.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = parts.apply(part, operations).await;
            let _ = sender.send(Happened::Applied {
                part,
                life,
                batch: id,
                outcome,
            });
        });
    }

    fn stop(&mut self) {
        if self.stopping {
            tracing::warn!("told to stop twice: killing what still runs");
            for process in Process::ALL {
                self.children.signal(process, Signal::SIGKILL);
            }
            return;
        }
        tracing::info!("stopping");
        notify::tell(State::Stopping);
        self.stopping = true;
        self.sessions.end(sessions::End::InOrder);
        self.supervisor.stop();
    }

    /// What someone else changed meanwhile is found and put right.
    fn look_again(&mut self) {
        tracing::info!("asking every part what it holds");
        self.values.resynchronise(self.lives.keys().copied());
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
