//! A dataplane without packets: it holds SAs and policies, answers on the real bus, and can die.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use culvert_bus::{Publisher, Router, Running, Server, refuse};
use culvert_model::bus::{self, refusal::Code};

/// What one dataplane process holds. SAs by SPI: these tests have one peer.
#[derive(Default)]
pub struct State {
    pub sas: BTreeMap<u32, bus::Sa>,
    pub policies: Vec<bus::Policy>,
    keys: BTreeMap<u32, Vec<u8>>,
}

/// Dataplanes, one after the other.
pub struct DataplaneProcess {
    run: PathBuf,
    state: Arc<Mutex<State>>,
    running: Option<(Running, Publisher<bus::SaEvent>)>,
    /// Every key that was ever installed: process number, SPI.
    pub installed: Arc<Mutex<BTreeMap<Vec<u8>, Vec<(u32, u32)>>>>,
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
        let router = self.router(state, incarnation);
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

    fn router(&self, state: Arc<Mutex<State>>, incarnation: u64) -> Router {
        let installed = Arc::clone(&self.installed);
        let number = self.number;
        let add = {
            let state = Arc::clone(&state);
            move |request: bus::AddSaRequest, _| {
                let (state, installed) = (Arc::clone(&state), Arc::clone(&installed));
                async move {
                    let sa = request.sa.clone().unwrap();
                    let spi = sa.key.as_ref().unwrap().spi;
                    let key = request.keys.as_ref().unwrap().encryption.clone();
                    let mut state = state.lock().unwrap();
                    match state.keys.get(&spi) {
                        Some(old) if *old == key => return Ok(bus::AddSaReply {}),
                        Some(_) => return Err(refuse(Code::Exists, "exists")),
                        None => {}
                    }
                    let direction = sa.key.as_ref().unwrap().direction();
                    let mut name = key.clone();
                    name.push(u8::from(direction == bus::Direction::In));
                    installed
                        .lock()
                        .unwrap()
                        .entry(name)
                        .or_default()
                        .push((number, spi));
                    state.keys.insert(spi, key);
                    state.sas.insert(spi, sa);
                    Ok(bus::AddSaReply {})
                }
            }
        };
        let on = |state: &Arc<Mutex<State>>| Arc::clone(state);
        let (update, delete, query, dump, add_policy, del_policy) = (
            on(&state),
            on(&state),
            on(&state),
            on(&state),
            on(&state),
            on(&state),
        );
        Router::new("dataplane")
            .on(add)
            .on(move |request: bus::UpdateSaRequest, _| {
                let state = Arc::clone(&update);
                async move {
                    let spi = request.key.as_ref().unwrap().spi;
                    let mut state = state.lock().unwrap();
                    let Some(sa) = state.sas.get_mut(&spi) else {
                        return Err(refuse(Code::NotFound, "no SA"));
                    };
                    sa.source = request.new_source;
                    sa.key.as_mut().unwrap().destination = request.new_destination;
                    sa.udp = request.new_udp;
                    Ok(bus::UpdateSaReply {})
                }
            })
            .on(move |request: bus::DelSaRequest, _| {
                let state = Arc::clone(&delete);
                async move {
                    let spi = request.key.as_ref().unwrap().spi;
                    let mut state = state.lock().unwrap();
                    state.keys.remove(&spi);
                    match state.sas.remove(&spi) {
                        Some(_) => Ok(bus::DelSaReply { usage: None }),
                        None => Err(refuse(Code::NotFound, "no SA")),
                    }
                }
            })
            .on(move |_: bus::QuerySasRequest, _| {
                let state = Arc::clone(&query);
                async move {
                    let usages = state.lock().unwrap().sas.values().map(usage).collect();
                    Ok(bus::QuerySasReply { usages })
                }
            })
            .on(move |_: bus::DumpSasRequest, _| {
                let state = Arc::clone(&dump);
                async move {
                    let state = state.lock().unwrap();
                    Ok(bus::DumpSasReply {
                        sas: state
                            .sas
                            .values()
                            .map(|sa| bus::SaDump {
                                sa: Some(sa.clone()),
                                usage: Some(usage(sa)),
                                fingerprint: vec![],
                            })
                            .collect(),
                        policies: state.policies.clone(),
                        published: 0,
                        incarnation,
                    })
                }
            })
            .on(move |request: bus::AddPolicyRequest, _| {
                let state = Arc::clone(&add_policy);
                async move {
                    let policy = request.policy.unwrap();
                    let mut state = state.lock().unwrap();
                    state.policies.retain(|other| other.key != policy.key);
                    state.policies.push(policy);
                    Ok(bus::AddPolicyReply {})
                }
            })
            .on(move |request: bus::DelPolicyRequest, _| {
                let state = Arc::clone(&del_policy);
                async move {
                    let mut state = state.lock().unwrap();
                    let before = state.policies.len();
                    state.policies.retain(|other| other.key != request.key);
                    if state.policies.len() == before {
                        return Err(refuse(Code::NotFound, "no policy"));
                    }
                    Ok(bus::DelPolicyReply {})
                }
            })
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
