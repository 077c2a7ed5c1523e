//! The sockets and the clock around the [`Manager`]: one task that feeds it and does what it says.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_bus::Server;
use culvert_plugin_wire::ToPlugin;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::BridgeError;
use crate::charon::{Actor, Control};
use crate::clock::{SystemRandom, boot_ms, process_started_ms};
use crate::dataplane::{Dataplane, FromDataplane};
use crate::manager::{Action, Event, Manager};
use crate::plugin_socket::{ConnectionId, FromPlugin, PluginSocket};
use crate::services::{Status, router, secrets_router};

/// With no timer armed: look at the clock now and then.
const IDLE: Duration = Duration::from_mins(1);

/// Opens the sockets under `run` and works until `stop` ends.
pub async fn run(run: &Path, stop: impl Future<Output = ()>) -> Result<(), BridgeError> {
    let bus = run.join("bus");
    std::fs::create_dir_all(&bus).map_err(|source| BridgeError::Listen {
        path: bus.clone(),
        source,
    })?;
    let random = SystemRandom::open().map_err(|source| BridgeError::System {
        what: "random numbers",
        source,
    })?;
    let path = run.join("charon-plugin.sock");
    let socket =
        PluginSocket::bind(&path).map_err(|source| BridgeError::Listen { path, source })?;
    let (list_sender, lists) = mpsc::unbounded_channel();
    let (actor, control) = Actor::new(&run.join("charon.vici"), list_sender);
    let status = Arc::new(Status::default());
    let server = Server::bind(
        &bus.join("iked-bridge"),
        router(&control, Arc::clone(&status)),
    )?;
    let secrets =
        Server::bind_for_secrets(&bus.join("iked-bridge-secrets"), secrets_router(&control))?;
    let (dataplane_sender, from_dataplane) = mpsc::unbounded_channel();
    let dataplane = Dataplane::connect(&bus, dataplane_sender)?;
    let (plugin_sender, from_plugin) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(socket.serve(plugin_sender));
    tasks.spawn(actor.run());
    let (server, secrets) = (server.spawn()?, secrets.spawn()?);
    let desk = Desk {
        manager: Manager::new(boot_ms(), Box::new(random)),
        dataplane,
        control,
        status,
        session: None,
    };
    tracing::info!("iked-bridge is up");
    tokio::select! {
        () = desk.work(from_plugin, from_dataplane, lists) => {}
        () = stop => {}
    }
    server.stop().await;
    secrets.stop().await;
    tasks.shutdown().await;
    Ok(())
}

struct Desk {
    manager: Manager,
    dataplane: Dataplane,
    control: Control,
    status: Arc<Status>,
    session: Option<Session>,
}

struct Session {
    connection: ConnectionId,
    answers: mpsc::UnboundedSender<ToPlugin>,
}

impl Desk {
    async fn work(
        mut self,
        mut plugin: mpsc::UnboundedReceiver<FromPlugin>,
        mut dataplane: mpsc::UnboundedReceiver<FromDataplane>,
        mut lists: mpsc::UnboundedReceiver<Vec<crate::manager::CharonChild>>,
    ) {
        loop {
            let now = boot_ms();
            let pause = self
                .manager
                .next_timer()
                .map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now)));
            let event = tokio::select! {
                Some(message) = plugin.recv() => self.plugin_says(message),
                Some(message) = dataplane.recv() => Some(self.dataplane_says(message)),
                Some(list) = lists.recv() => Some(Event::CharonSas(list)),
                () = tokio::time::sleep(pause) => Some(Event::Tick),
                else => return,
            };
            if let Some(event) = event {
                self.manager.handle(boot_ms(), event);
                while let Some(action) = self.manager.poll() {
                    self.act(action);
                }
                let relaxed = Ordering::Relaxed;
                self.status
                    .plugin_session
                    .store(self.manager.has_session(), relaxed);
                self.status
                    .reconciled
                    .store(self.manager.is_reconciled(), relaxed);
            }
        }
    }

    fn plugin_says(&mut self, message: FromPlugin) -> Option<Event> {
        match message {
            FromPlugin::Up {
                connection,
                epoch,
                pid,
                answers,
            } => {
                // A session that this one replaces loses its way back, which closes it.
                self.session = Some(Session {
                    connection,
                    answers,
                });
                self.status.charon_pid.store(pid, Ordering::Relaxed);
                Some(Event::SessionUp {
                    epoch,
                    charon_started_ms: process_started_ms(pid),
                })
            }
            FromPlugin::Call {
                connection,
                id,
                call,
            } => self
                .is_current(connection)
                .then_some(Event::Call { id, call }),
            FromPlugin::Down { connection } => {
                if !self.is_current(connection) {
                    return None;
                }
                self.session = None;
                self.status.charon_pid.store(0, Ordering::Relaxed);
                tracing::warn!("charon's plugin is gone");
                Some(Event::SessionDown)
            }
        }
    }

    fn is_current(&self, connection: ConnectionId) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.connection == connection)
    }

    fn dataplane_says(&mut self, message: FromDataplane) -> Event {
        match message {
            FromDataplane::Snapshot(dump) => Event::Snapshot(dump),
            FromDataplane::Published(event) => Event::Published(event),
            FromDataplane::Answered {
                ticket,
                incarnation,
                outcome,
                id,
            } => {
                self.dataplane.keep(ticket, id);
                Event::Answered {
                    ticket,
                    incarnation,
                    outcome,
                }
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Answer { id, answer } => self.tell(ToPlugin::answer(id, answer)),
            Action::Upcall(answer) => self.tell(ToPlugin::upcall(answer)),
            Action::Ask { ticket, request } => self.dataplane.ask(ticket, request),
            Action::Forget(ticket) => self.dataplane.forget(ticket),
            Action::ListCharon => self.control.list(),
            Action::TrapsLost => self.control.traps_lost(),
            Action::Wanted { if_id } => self.control.wanted(if_id),
        }
    }

    fn tell(&self, message: ToPlugin) {
        if let Some(session) = &self.session {
            let _ = session.answers.send(message);
        }
    }
}
