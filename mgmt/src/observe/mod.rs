//! What the gateway is doing: asked of its processes over the bus, told as `culvert.state.v1`.
//!
//! ```text
//!   Gateway.Show ──┐             ┌── dataplane      interfaces, routes, neighbours, drops, nodes ...
//!   culvert show ──┴── Observer ─┼── dataplane-sa   SAs and policies (keys travel there inwards only)
//!                      bounded   ├── iked-bridge    IKE_SAs, CHILD_SAs
//!                                ├── dhcp           leases
//!                                └── run            processes, values that are not as planned
//! ```
//!
//! Who may ask is not decided here. Questions are few at a time and each has its deadline: a process that does not answer
//! costs whoever asks a few seconds, and nobody else anything.

pub mod echo;
pub mod log;
mod names;
pub mod outlet;
pub mod probing;
mod state;
mod watch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_bus::{BusError, Call, CallError, Client};
use culvert_model::api::{self, RouteChoice, Subject};
use culvert_model::{bus, state as told};
use ipnet::IpNet;
use tokio::sync::Semaphore;

use self::echo::EchoError;
use self::log::Logs;
pub use self::watch::visit;

/// A process that does not answer within it is busy beyond help.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the other end may take to agree that it is over.
const NEGOTIATION: Duration = Duration::from_secs(5);
/// Questions at a time; more wait for their turn.
const AT_ONCE: usize = 8;
/// For a turn.
const TURN: Duration = Duration::from_secs(10);
/// Routes of one reply: some hundred bytes each, far below the largest message.
const MOST_ROUTES: u32 = 20_000;
/// Subjects of one request: more than there are.
const MOST_SUBJECTS: usize = 32;

/// Why the gateway is not seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The question makes no sense.
    #[error("{0}")]
    Question(String),
    /// Too many ask.
    #[error("too many questions at a time: try again")]
    Busy,
    /// Nobody knows the address of a name, or who would know does not answer.
    #[error("{name} is not found: {source}")]
    Name {
        /// As asked for.
        name: String,
        /// What the C library said.
        source: std::io::Error,
    },
    /// No echo requests.
    #[error(transparent)]
    Echo(#[from] EchoError),
    /// The process refused, or did not answer.
    #[error("{process} does not answer: {source}")]
    Call {
        /// Which.
        process: &'static str,
        /// How.
        source: CallError,
    },
}

/// Asks the processes of one gateway. Connections come up when they are needed.
pub struct Observer {
    dataplane: Client,
    sas: Client,
    bridge: Client,
    dhcp: Client,
    run: Client,
    logs: Logs,
    /// Where names are looked up.
    resolver: PathBuf,
    turns: Semaphore,
}

impl Observer {
    /// Of the gateway with this root; none of its processes need run yet.
    pub fn new(root: &Path) -> Result<Self, BusError> {
        let bus = root.join("run/bus");
        Ok(Self {
            dataplane: Client::new(&bus.join("dataplane"))?,
            sas: Client::for_secrets(&bus.join("dataplane-sa"))?,
            bridge: Client::new(&bus.join("iked-bridge"))?,
            dhcp: Client::new(&bus.join("dhcp"))?,
            run: Client::for_secrets(&bus.join("run"))?,
            logs: Logs::new(root),
            resolver: root.join(names::FILE),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    /// What the processes write down.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Ends what has been learnt, counted or negotiated; says how many it were.
    pub async fn clear(&self, request: &api::ClearRequest) -> Result<u32, ObserveError> {
        use api::clear_request::What;
        let ended = |ike: &str, child: &str| bus::TerminateRequest {
            ike: ike.to_owned(),
            child: child.to_owned(),
            timeout_ms: NEGOTIATION.as_millis() as u32,
        };
        Ok(match &request.what {
            Some(What::Counters(which)) => {
                let request = bus::ClearCountersRequest {
                    interfaces: which.interfaces,
                    drops: which.drops,
                    nodes: which.nodes,
                    tunnels: which.tunnels,
                };
                self.dataplane(&request).await?.matches
            }
            Some(What::Neighbours(which)) => {
                let address = parsed::<IpAddr>(&which.address, "address")?;
                let request = bus::ClearNeighboursRequest {
                    interface: which.interface.clone(),
                    address: address.map(Into::into),
                };
                self.dataplane(&request).await?.matches
            }
            Some(What::Ike(name)) if !name.is_empty() => self.terminate(ended(name, "")).await?,
            Some(What::Ipsec(name)) if !name.is_empty() => self.terminate(ended("", name)).await?,
            _ => {
                return Err(ObserveError::Question(
                    "name what is to be cleared".to_owned(),
                ));
            }
        })
    }

    async fn terminate(&self, request: bus::TerminateRequest) -> Result<u32, ObserveError> {
        let reply = self.bridge.call(&request, NEGOTIATION + PATIENCE).await;
        let reply = reply.map_err(|source| ObserveError::Call {
            process: "iked-bridge",
            source,
        })?;
        Ok(reply.matches)
    }

    /// Ends a process, which `culvert run` then starts again.
    pub async fn restart(&self, process: &str) -> Result<(), ObserveError> {
        let request = bus::RestartProcessRequest {
            process: process.to_owned(),
        };
        self.run(&request).await.map(drop)
    }

    /// The parts of the state that are asked for.
    pub async fn show(&self, request: &api::ShowRequest) -> Result<api::ShowReply, ObserveError> {
        if request.subjects.is_empty() || request.subjects.len() > MOST_SUBJECTS {
            return Err(ObserveError::Question(
                "name what is to be shown, each part once".to_owned(),
            ));
        }
        let _turn = tokio::time::timeout(TURN, self.turns.acquire())
            .await
            .map_err(|_| ObserveError::Busy)?;
        let mut reply = api::ShowReply::default();
        let mut state = told::State::default();
        let mut seen = 0_u64;
        for subject in request.subjects() {
            // A second time would say the same.
            let bit = 1 << (subject as u64 & 63);
            if seen & bit != 0 {
                continue;
            }
            seen |= bit;
            match subject {
                Subject::Unspecified => {
                    return Err(ObserveError::Question(
                        "there is no such part of the state".to_owned(),
                    ));
                }
                Subject::System => state.system = Some(self.system().await?),
                Subject::Interfaces => {
                    let reply = self.dataplane(&bus::ShowInterfacesRequest {}).await?;
                    state.interfaces = state::interfaces(reply);
                }
                Subject::Routes => {
                    let choice = request.routes.clone().unwrap_or_default();
                    (state.routes, reply.more_routes) = self.routes(&choice).await?;
                }
                Subject::Neighbours => {
                    let reply = self.dataplane(&bus::ShowNeighboursRequest {}).await?;
                    state.neighbours = state::neighbours(reply);
                }
                Subject::Ike => state.ikes = state::ikes(&self.ike().await?),
                Subject::Children => state.children = state::children(self.ike().await?),
                Subject::Sas => state.sas = state::sas(&self.sas().await?),
                Subject::Policies => state.policies = state::policies(&self.sas().await?),
                Subject::Reassembly => {
                    let reply = self.dataplane(&bus::ShowReassemblyRequest {}).await?;
                    state.reassembly = state::reassembly(&reply);
                }
                Subject::Paths => {
                    let reply = self.dataplane(&bus::ShowPathsRequest {}).await?;
                    state.paths = state::paths(&reply);
                }
                Subject::TooBig => {
                    let reply = self.dataplane(&bus::ShowPathsRequest {}).await?;
                    state.too_big = state::too_big(reply);
                }
                Subject::Drops => {
                    let reply = self.dataplane(&bus::ShowDropsRequest {}).await?;
                    state.drops = state::drops(reply);
                }
                Subject::Nodes => {
                    let request = bus::ShowNodesRequest { reset: false };
                    state.nodes = state::nodes(self.dataplane(&request).await?);
                }
                Subject::Clock => {
                    let reply = self.run(&bus::ShowClockRequest {}).await?;
                    state.clock = Some(state::clock(reply));
                }
                Subject::Dhcp => state.dhcp_clients = state::dhcp(self.dhcp().await?),
                Subject::Values => {
                    let reply = self.run(&bus::ShowPlanRequest {}).await?;
                    state.values = state::values(reply.unsettled);
                }
            }
        }
        reply.state = Some(state);
        Ok(reply)
    }

    async fn system(&self) -> Result<told::SystemState, ObserveError> {
        let processes = self.run(&bus::ShowProcessesRequest {}).await?;
        let plan = self.run(&bus::ShowPlanRequest {}).await?;
        let mut system = state::system(processes, &plan);
        names::tell(&self.resolver, &mut system);
        Ok(system)
    }

    /// Routes, page by page, up to as many as are asked for and fit, and behind what there are more.
    async fn routes(
        &self,
        choice: &RouteChoice,
    ) -> Result<(Vec<told::RouteState>, Vec<u8>), ObserveError> {
        let within = parsed::<IpNet>(&choice.prefix, "network")?;
        let towards = parsed::<IpAddr>(&choice.towards, "address")?;
        let mut after = match choice.after.as_slice() {
            [] => None,
            place => Some(place_from(place)?),
        };
        let limit = match choice.limit {
            0 => MOST_ROUTES,
            limit => limit.min(MOST_ROUTES),
        };
        let mut routes = Vec::new();
        loop {
            let room = limit.saturating_sub(u32::try_from(routes.len()).unwrap_or(u32::MAX));
            let request = bus::ShowRoutesRequest {
                vrf: choice.vrf.clone(),
                within: within.map(Into::into),
                towards: towards.map(Into::into),
                after,
                most: room,
            };
            let reply = self.dataplane(&request).await?;
            routes.extend(reply.routes);
            after = reply.next;
            // A prefix may have several routes: the last page may be a little more than was asked for.
            if after.is_none() || routes.len() >= limit as usize {
                let more = after.as_ref().map(place_of).unwrap_or_default();
                return Ok((state::routes(routes), more));
            }
        }
    }

    /// It runs only where an interface has a client.
    async fn dhcp(&self) -> Result<bus::ShowDhcpReply, ObserveError> {
        let processes = self.run(&bus::ShowProcessesRequest {}).await?.processes;
        if processes.iter().any(|process| process.name == "dhcp") {
            ask("dhcp", &self.dhcp, &bus::ShowDhcpRequest {}).await
        } else {
            Ok(bus::ShowDhcpReply::default())
        }
    }

    async fn ike(&self) -> Result<bus::ShowIkeReply, ObserveError> {
        ask("iked-bridge", &self.bridge, &bus::ShowIkeRequest {}).await
    }

    async fn sas(&self) -> Result<bus::DumpSasReply, ObserveError> {
        ask("dataplane", &self.sas, &bus::DumpSasRequest {}).await
    }

    async fn dataplane<C: Call>(&self, request: &C) -> Result<C::Reply, ObserveError> {
        ask("dataplane", &self.dataplane, request).await
    }

    async fn run<C: Call>(&self, request: &C) -> Result<C::Reply, ObserveError> {
        ask("run", &self.run, request).await
    }
}

async fn ask<C: Call>(
    process: &'static str,
    client: &Client,
    request: &C,
) -> Result<C::Reply, ObserveError> {
    client
        .call(request, PATIENCE)
        .await
        .map_err(|source| ObserveError::Call { process, source })
}

fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, ObserveError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ObserveError::Question(format!("{text:?} is no {what}")))
}

/// A place between routes, as whoever asked carries it.
fn place_of(key: &bus::RouteKey) -> Vec<u8> {
    let prefix = key
        .destination
        .as_ref()
        .and_then(|prefix| IpNet::try_from(prefix).ok());
    prefix.map_or_else(Vec::new, |prefix| {
        format!("{} {prefix}", key.vrf).into_bytes()
    })
}

fn place_from(bytes: &[u8]) -> Result<bus::RouteKey, ObserveError> {
    let key = std::str::from_utf8(bytes).ok().and_then(|text| {
        let (vrf, prefix) = text.split_once(' ')?;
        Some(bus::RouteKey {
            vrf: vrf.parse().ok()?,
            destination: Some(prefix.parse::<IpNet>().ok()?.into()),
        })
    });
    key.ok_or_else(|| ObserveError::Question("this is no place between routes".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use culvert_bus::{Router, Server};

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/bus")).unwrap();
        root
    }

    fn route(third: u8) -> bus::RouteState {
        bus::RouteState {
            vrf: "default".to_owned(),
            destination: Some(
                format!("10.0.{third}.0/24")
                    .parse::<IpNet>()
                    .unwrap()
                    .into(),
            ),
            active: true,
            ..bus::RouteState::default()
        }
    }

    fn choice(limit: u32, after: Vec<u8>) -> api::ShowRequest {
        api::ShowRequest {
            subjects: vec![Subject::Routes.into()],
            routes: Some(RouteChoice {
                limit,
                after,
                ..RouteChoice::default()
            }),
        }
    }

    #[test]
    fn a_place_between_routes_is_carried_and_nothing_else_is_one() {
        let key = bus::RouteKey {
            vrf: 7,
            destination: Some("2001:db8::/32".parse::<IpNet>().unwrap().into()),
        };
        assert_eq!(place_from(&place_of(&key)).unwrap(), key);
        for wrong in ["", "7", "x 10.0.0.0/8", "7 10.0.0.0", "7 10.0.0.0/8 9"] {
            assert!(place_from(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(place_from(&[0xff, 0x20]).is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn routes_come_page_by_page_up_to_what_is_asked_for() {
        let root = root();
        // A dataplane that gives two at a time of six.
        let router = Router::new("dataplane").on(|request: bus::ShowRoutesRequest, _| async move {
            let begin = request.after.map_or(0, |after| {
                let net = IpNet::try_from(&after.destination.unwrap()).unwrap();
                let IpAddr::V4(address) = net.addr() else {
                    panic!("{net}")
                };
                address.octets()[2] + 1
            });
            let end = (begin + 2.min(request.most as u8)).min(6);
            Ok(bus::ShowRoutesReply {
                routes: (begin..end).map(route).collect(),
                next: (end < 6).then(|| bus::RouteKey {
                    vrf: 0,
                    destination: route(end - 1).destination,
                }),
            })
        });
        let path = root.path().join("run/bus/dataplane");
        let _server = Server::bind(&path, router).unwrap().spawn().unwrap();
        let observer = Observer::new(root.path()).unwrap();
        let destinations = |reply: &api::ShowReply| -> Vec<String> {
            let state = reply.state.as_ref().unwrap();
            let found = state.routes.iter();
            found.map(|route| route.destination().to_owned()).collect()
        };
        let first = observer.show(&choice(3, Vec::new())).await.unwrap();
        assert_eq!(
            destinations(&first),
            ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
        );
        let second = observer.show(&choice(0, first.more_routes)).await.unwrap();
        assert_eq!(destinations(&second).first().unwrap(), "10.0.3.0/24");
        assert_eq!(destinations(&second).len(), 3);
        assert!(second.more_routes.is_empty());
        let wrong = observer.show(&choice(0, b"junk".to_vec())).await;
        assert!(matches!(wrong, Err(ObserveError::Question(_))), "{wrong:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_does_not_run_is_named() {
        let root = root();
        let observer = Observer::new(root.path()).unwrap();
        let request = api::ShowRequest {
            subjects: vec![Subject::Ike.into()],
            routes: None,
        };
        let error = observer.show(&request).await.unwrap_err().to_string();
        assert!(error.starts_with("iked-bridge does not answer"), "{error}");
        let nothing = api::ShowRequest::default();
        assert!(observer.show(&nothing).await.is_err());
    }
}
