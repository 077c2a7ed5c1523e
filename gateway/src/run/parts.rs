//! The parts that hold configured values, all asked the same two things: apply this batch, tell what you hold.
//!
//! ```text
//!   Part::Dataplane   bus socket dataplane
//!   Part::Linux       in this process
//!   Part::Dhcp        bus socket dhcp
//!   Part::Iked        bus sockets iked-bridge (connections), iked-bridge-secrets (credentials)
//!   Part::Lte         nobody: no part of this gateway has modems
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{BusError, CallError, Client, Session};
use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::Part;
use culvert_tap_inject::device::TapName;
use culvert_tap_inject::mirror::MirrorError;
use thiserror::Error;
use tokio::sync::Mutex;

use super::host_name::HostName;
use super::linux::{Linux, LinuxError};
use super::ntp::{Chronyd, NtpError, NtpFile};
use super::resolver::{ResolverError, ResolverFile};
use super::root::Root;
use super::supervisor::Process;

/// A batch may be a full table of routes.
const APPLY: Duration = Duration::from_secs(30);
const RETRIEVE: Duration = Duration::from_secs(30);
/// A healthy process answers a greeting or a short question in a few milliseconds.
const ANSWER: Duration = Duration::from_secs(2);
/// News of leases are waited for so long, then asked for again.
const WATCH: Duration = Duration::from_secs(20);

/// Why a part did not answer. What it did of what was asked is not known: it is to be asked what it holds.
#[derive(Debug, Error)]
pub enum PartError {
    /// Over the bus.
    #[error(transparent)]
    Call(#[from] CallError),
    /// In this process.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// Another number of results than of operations.
    #[error("{part} answered {results} results to {operations} operations")]
    Count {
        /// Who.
        part: Part,
        /// Asked for.
        operations: usize,
        /// Got.
        results: usize,
    },
}

/// Why the parts cannot be reached at all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A socket of the bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Netlink.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// Where names are looked up.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// What chronyd was told.
    #[error(transparent)]
    Ntp(#[from] NtpError),
}

/// The parts of one gateway. Clones share the connections.
#[derive(Clone)]
pub struct Parts {
    dataplane: Client,
    dhcp: Client,
    bridge: Client,
    secrets: Client,
    mgmt: Client,
    linux: Arc<Mutex<Linux>>,
}

impl Parts {
    /// The processes need not run yet.
    pub fn open(root: &Root, chronyd: &Chronyd, host_name: HostName) -> Result<Self, OpenError> {
        // What charon sees has to be there before it.
        let resolver = ResolverFile::at(root.resolver());
        resolver.write(None)?;
        // Of the gateway before.
        let ntp = NtpFile::of(root, chronyd);
        ntp.write(None)?;
        Ok(Self {
            dataplane: Client::new(&root.bus("dataplane"))?,
            dhcp: Client::new(&root.bus("dhcp"))?,
            bridge: Client::new(&root.bus("iked-bridge"))?,
            secrets: Client::for_secrets(&root.bus("iked-bridge-secrets"))?,
            mgmt: Client::new(&root.bus("mgmt"))?,
            linux: Arc::new(Mutex::new(Linux::open(resolver, ntp, host_name)?)),
        })
    }

    /// The MAC addresses that TAPs shall have.
    pub async fn set_macs(&self, macs: BTreeMap<TapName, [u8; 6]>) {
        self.linux.lock().await.set_macs(macs);
    }

    /// What a part holds.
    pub async fn retrieve(&self, part: Part) -> Result<Vec<bus::KeyedValue>, PartError> {
        let request = bus::RetrieveRequest {};
        Ok(match part {
            Part::Dataplane => self.dataplane.call(&request, RETRIEVE).await?.values,
            Part::Linux => self.linux.lock().await.retrieve().await?,
            Part::Dhcp => self.dhcp.call(&request, RETRIEVE).await?.values,
            // So that a modem is what is missing, and not somebody who could tell of it.
            Part::Lte => Vec::new(),
            Part::Iked => {
                let mut values = self.bridge.call(&request, RETRIEVE).await?.values;
                let secrets = self.secrets.call(&request, RETRIEVE).await?.values;
                // Should both tell of the same one, once is enough.
                values.retain(|value| secrets.iter().all(|other| other.key != value.key));
                values.extend(secrets);
                values
            }
        })
    }

    /// Carries out operations: one result each, in their order.
    pub async fn apply(
        &self,
        part: Part,
        operations: Vec<bus::Operation>,
    ) -> Result<Vec<bus::OperationResult>, PartError> {
        match part {
            Part::Dataplane => apply(part, &self.dataplane, operations).await,
            Part::Linux => Ok(self.linux.lock().await.apply(&operations).await),
            Part::Dhcp => apply(part, &self.dhcp, operations).await,
            Part::Lte => Ok(operations.iter().map(|_| no_modem()).collect()),
            Part::Iked => {
                // The batch has no order between its operations; their results have.
                let (secret, plain): (Vec<_>, Vec<_>) = operations
                    .into_iter()
                    .enumerate()
                    .partition(|(_, operation)| is_secret(operation));
                let mut results = BTreeMap::new();
                for (client, share) in [(&self.secrets, secret), (&self.bridge, plain)] {
                    if share.is_empty() {
                        continue;
                    }
                    let (places, share): (Vec<usize>, Vec<bus::Operation>) =
                        share.into_iter().unzip();
                    let answers = apply(part, client, share).await?;
                    results.extend(places.into_iter().zip(answers));
                }
                Ok(results.into_values().collect())
            }
        }
    }

    /// Who answers in the place of a process; charon, sshd and chronyd do not speak the bus.
    pub async fn greet(&self, process: Process) -> Option<Session> {
        let client = match process {
            Process::Mgmt => &self.mgmt,
            Process::Dataplane => &self.dataplane,
            Process::Dhcp => &self.dhcp,
            Process::IkedBridge => &self.bridge,
            Process::Charon | Process::Sshd | Process::Chronyd => return None,
        };
        client.hello(ANSWER).await.ok()
    }

    /// Whether duplicate address detection is over for every address of the dataplane.
    pub async fn addresses_ready(&self) -> bool {
        let request = bus::ShowInterfacesRequest {};
        match self.dataplane.call(&request, ANSWER).await {
            Ok(reply) => reply
                .interfaces
                .iter()
                .all(|interface| interface.addresses_ready),
            Err(_) => false,
        }
    }

    /// Tells the dataplane which multicast groups Linux has joined, by device; whether it knows now.
    pub async fn set_groups(&self, joined: &BTreeSet<(String, IpAddr)>) -> bool {
        let groups = joined.iter().map(|(tap, group)| bus::Group {
            tap: tap.clone(),
            address: Some((*group).into()),
        });
        let request = bus::SetGroupsRequest {
            groups: groups.collect(),
        };
        self.dataplane.call(&request, ANSWER).await.is_ok()
    }

    /// How the DHCP clients stand, once that is not what was seen, or after a while.
    pub async fn watch_dhcp(&self, seen: u64) -> Option<bus::WatchDhcpReply> {
        let request = bus::WatchDhcpRequest { seen };
        self.dhcp.call(&request, WATCH).await.ok()
    }

    /// How iked-bridge and charon stand to each other.
    pub async fn show_ike(&self) -> Option<bus::ShowIkeReply> {
        self.bridge.call(&bus::ShowIkeRequest {}, ANSWER).await.ok()
    }
}

/// What can be done without a modem.
fn no_modem() -> bus::OperationResult {
    bus::OperationResult {
        error: Some(bus::OperationError {
            retriable: false,
            message: "this gateway has no part for modems".to_owned(),
            fields: Vec::new(),
        }),
    }
}

async fn apply(
    part: Part,
    client: &Client,
    operations: Vec<bus::Operation>,
) -> Result<Vec<bus::OperationResult>, PartError> {
    let count = operations.len();
    let request = bus::ApplyRequest { operations };
    let results = client.call(&request, APPLY).await?.results;
    if results.len() == count {
        Ok(results)
    } else {
        Err(PartError::Count {
            part,
            operations: count,
            results: results.len(),
        })
    }
}

/// A delete carries no value: its key says the kind.
fn is_secret(operation: &bus::Operation) -> bool {
    match operation
        .value
        .as_ref()
        .and_then(|value| value.kind.as_ref())
    {
        Some(kind) => matches!(kind, Kind::Credential(_)),
        None => operation.key.starts_with("credential/"),
    }
}
