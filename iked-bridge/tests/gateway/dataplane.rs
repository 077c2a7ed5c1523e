//! A dataplane without packets: it holds SAs and policies, answers on the real bus, and can die.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use culvert_bus::{Call, Publisher, Router, Running, Server, refuse};
use culvert_model::bus::{self, refusal::Code};

/// What one dataplane process holds. SAs by SPI: these tests have one peer.
#[derive(Default)]
pub struct State {
    pub sas: BTreeMap<u32, bus::Sa>,
    pub policies: Vec<bus::Policy>,
    keys: BTreeMap<u32, Vec<u8>>,
}

type Shared = Arc<Mutex<State>>;

/// Where each key was installed: number of the process, SPI.
type Installed = Arc<Mutex<BTreeMap<Vec<u8>, Vec<(u32, u32)>>>>;

/// Dataplanes, one after the other.
pub struct DataplaneProcess {
    run: PathBuf,
    state: Shared,
    running: Option<(Running, Publisher<bus::SaEvent>)>,
    /// Every key that was ever installed.
    pub installed: Installed,
    number: u32,
}

impl DataplaneProcess {
    /// Starts the first one.
    pub fn start(run: &Path) -> Self {
        let mut process = Self {
            run: run.join("bus"),
            state: Arc::default(),
            running: None,
            installed: Arc::default(),
            number: 0,
        };
        process.restart();
        process
    }

    /// The old one is gone with all it held; a new one answers.
    pub fn restart(&mut self) {
        self.number += 1;
        std::fs::create_dir_all(&self.run).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        self.state = Arc::clone(&state);
        let publisher = Publisher::bind(&self.run.join("dataplane-sa.events")).unwrap();
        let incarnation = publisher.incarnation().get();
        let router = self.router(&state, incarnation);
        let server = Server::bind_for_secrets(&self.run.join("dataplane-sa"), router).unwrap();
        self.running = Some((server.spawn().unwrap(), publisher));
    }

    /// It dies.
    pub async fn kill(&mut self) {
        if let Some((server, publisher)) = self.running.take() {
            server.stop().await;
            publisher.close().await;
        }
    }

    pub fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap())
    }

    pub fn spis(&self) -> Vec<u32> {
        self.with(|state| state.sas.keys().copied().collect())
    }

    pub fn publish(&self, event: bus::sa_event::Event) {
        let event = bus::SaEvent { event: Some(event) };
        self.running.as_ref().unwrap().1.publish(&event);
    }

    fn router(&self, state: &Shared, incarnation: u64) -> Router {
        let installed = Arc::clone(&self.installed);
        let number = self.number;
        let router = Router::new("dataplane");
        let router = on(router, state, move |state, request: bus::AddSaRequest| {
            add_sa(state, &installed, number, &request)
        });
        let router = on(router, state, update_sa);
        let router = on(router, state, delete_sa);
        let router = on(router, state, |state, _: bus::QuerySasRequest| {
            let usages = state.sas.values().map(usage).collect();
            Ok(bus::QuerySasReply { usages })
        });
        let router = on(router, state, move |state, _: bus::DumpSasRequest| {
            Ok(bus::DumpSasReply {
                incarnation,
                ..dump(state)
            })
        });
        let router = on(router, state, |state, request: bus::AddPolicyRequest| {
            let policy = request.policy.unwrap();
            state.policies.retain(|other| other.key != policy.key);
            state.policies.push(policy);
            Ok(bus::AddPolicyReply {})
        });
        on(router, state, |state, request: bus::DelPolicyRequest| {
            let before = state.policies.len();
            state.policies.retain(|other| other.key != request.key);
            if state.policies.len() == before {
                return Err(refuse(Code::NotFound, "no policy"));
            }
            Ok(bus::DelPolicyReply {})
        })
    }
}

/// A handler that works on the state.
fn on<C: Call>(
    router: Router,
    state: &Shared,
    work: impl Fn(&mut State, C) -> Result<C::Reply, bus::Refusal> + Send + Sync + 'static,
) -> Router {
    let (state, work) = (Arc::clone(state), Arc::new(work));
    router.on(move |request: C, _| {
        let (state, work) = (Arc::clone(&state), Arc::clone(&work));
        async move { work(&mut state.lock().unwrap(), request) }
    })
}

fn add_sa(
    state: &mut State,
    installed: &Installed,
    number: u32,
    request: &bus::AddSaRequest,
) -> Result<bus::AddSaReply, bus::Refusal> {
    let sa = request.sa.clone().unwrap();
    let name = sa.key.as_ref().unwrap();
    let key = request.keys.as_ref().unwrap().encryption.clone();
    match state.keys.get(&name.spi) {
        Some(old) if *old == key => return Ok(bus::AddSaReply {}),
        Some(_) => return Err(refuse(Code::Exists, "exists")),
        None => {}
    }
    let mut key_and_direction = key.clone();
    key_and_direction.push(u8::from(name.direction() == bus::Direction::In));
    let mut installed = installed.lock().unwrap();
    let places = installed.entry(key_and_direction).or_default();
    places.push((number, name.spi));
    state.keys.insert(name.spi, key);
    state.sas.insert(name.spi, sa);
    Ok(bus::AddSaReply {})
}

fn update_sa(
    state: &mut State,
    request: bus::UpdateSaRequest,
) -> Result<bus::UpdateSaReply, bus::Refusal> {
    let spi = request.key.as_ref().unwrap().spi;
    let Some(sa) = state.sas.get_mut(&spi) else {
        return Err(refuse(Code::NotFound, "no SA"));
    };
    sa.source = request.new_source;
    sa.key.as_mut().unwrap().destination = request.new_destination;
    sa.udp = request.new_udp;
    Ok(bus::UpdateSaReply {})
}

#[allow(clippy::needless_pass_by_value)] // A handler.
fn delete_sa(
    state: &mut State,
    request: bus::DelSaRequest,
) -> Result<bus::DelSaReply, bus::Refusal> {
    let spi = request.key.as_ref().unwrap().spi;
    state.keys.remove(&spi);
    match state.sas.remove(&spi) {
        Some(_) => Ok(bus::DelSaReply { usage: None }),
        None => Err(refuse(Code::NotFound, "no SA")),
    }
}

fn dump(state: &State) -> bus::DumpSasReply {
    let sas = state.sas.values().map(|sa| bus::SaDump {
        sa: Some(sa.clone()),
        usage: Some(usage(sa)),
        fingerprint: vec![],
        cleared: None,
    });
    bus::DumpSasReply {
        sas: sas.collect(),
        policies: state.policies.clone(),
        ..bus::DumpSasReply::default()
    }
}

fn usage(sa: &bus::Sa) -> bus::SaUsage {
    bus::SaUsage {
        key: sa.key.clone(),
        packets: 3,
        bytes: 300,
        last_use_s: 1,
        ..bus::SaUsage::default()
    }
}
