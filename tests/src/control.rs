//! What a test asks of a running gateway over its bus.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use culvert_bus::{Call, CallError, Client};
use culvert_model::bus::{
    ChildState, DumpSasReply, DumpSasRequest, IkeState, InitiateRequest, InterfaceState,
    RekeyRequest, ShowDropsRequest, ShowIkeReply, ShowIkeRequest, ShowInterfacesRequest,
    ShowNeighboursRequest, ShowPathsReply, ShowPathsRequest, TerminateRequest,
};
use tokio::runtime::{Builder, Runtime};

/// Any answer but that of a negotiation.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients of one gateway's processes. They connect again by themselves after a restart.
pub struct Control {
    bridge: Client,
    dataplane: Client,
    /// Its socket for SAs, where keys travel.
    sas: Client,
    runtime: Runtime,
}

impl Control {
    /// Of the gateway with this root.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let bus = root.join("run/bus");
        let bridge = Client::new(&bus.join("iked-bridge"))?;
        let dataplane = Client::new(&bus.join("dataplane"))?;
        let sas = Client::for_secrets(&bus.join("dataplane-sa"))?;
        drop(guard);
        Ok(Self {
            bridge,
            dataplane,
            sas,
            runtime,
        })
    }

    /// Every IKE_SA with its CHILD_SAs.
    pub fn ike(&self) -> Result<ShowIkeReply, CallError> {
        self.call(&self.bridge, &ShowIkeRequest {}, PATIENCE)
    }

    /// IKE_SAs that are established, of this connection.
    pub fn established(&self, connection: &str) -> Vec<IkeState> {
        let ikes = self.ike().map(|reply| reply.ikes).unwrap_or_default();
        ikes.into_iter()
            .filter(|ike| ike.connection == connection && ike.state == "ESTABLISHED")
            .collect()
    }

    /// CHILD_SAs of this name, those that wait for their deletion too.
    pub fn children(&self, child: &str) -> Vec<ChildState> {
        let ikes = self.ike().map(|reply| reply.ikes).unwrap_or_default();
        ikes.into_iter()
            .flat_map(|ike| ike.children)
            .filter(|state| state.name == child)
            .collect()
    }

    /// CHILD_SAs of this name that are installed and not replaced.
    pub fn installed(&self, child: &str) -> Vec<ChildState> {
        let mut children = self.children(child);
        children.retain(|state| state.state == "INSTALLED");
        children
    }

    /// Negotiates a CHILD_SA; answers when it is done.
    pub fn initiate(&self, child: &str, limit: Duration) -> Result<(), CallError> {
        let request = InitiateRequest {
            child: child.to_owned(),
            timeout_ms: limit.as_millis() as u32,
        };
        self.call(&self.bridge, &request, limit + PATIENCE)
            .map(drop)
    }

    /// Begins to rekey the CHILD_SAs of this name; answers how many.
    pub fn rekey_child(&self, child: &str) -> Result<u32, CallError> {
        let request = RekeyRequest {
            child: child.to_owned(),
            ..RekeyRequest::default()
        };
        Ok(self.call(&self.bridge, &request, PATIENCE)?.matches)
    }

    /// Begins to rekey the IKE_SAs of this connection; answers how many.
    pub fn rekey_ike(&self, connection: &str) -> Result<u32, CallError> {
        let request = RekeyRequest {
            ike: connection.to_owned(),
            ..RekeyRequest::default()
        };
        Ok(self.call(&self.bridge, &request, PATIENCE)?.matches)
    }

    /// Ends the IKE_SAs of this connection; answers how many.
    pub fn terminate_ike(&self, connection: &str) -> Result<u32, CallError> {
        let request = TerminateRequest {
            ike: connection.to_owned(),
            timeout_ms: 5000,
            ..TerminateRequest::default()
        };
        Ok(self.call(&self.bridge, &request, 2 * PATIENCE)?.matches)
    }

    /// SAs and policies of the dataplane.
    pub fn sas(&self) -> Result<DumpSasReply, CallError> {
        self.call(&self.sas, &DumpSasRequest {}, PATIENCE)
    }

    /// Dropped packets by reason, only reasons that occurred.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, CallError> {
        let reply = self.call(&self.dataplane, &ShowDropsRequest {}, PATIENCE)?;
        let occurred = reply.drops.into_iter().filter(|drop| drop.packets > 0);
        Ok(occurred.map(|drop| (drop.reason, drop.packets)).collect())
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: &str) -> Result<u64, CallError> {
        Ok(self.drops()?.get(reason).copied().unwrap_or(0))
    }

    /// An interface or tunnel with its counters.
    pub fn interface(&self, name: &str) -> Result<Option<InterfaceState>, CallError> {
        let reply = self.call(&self.dataplane, &ShowInterfacesRequest {}, PATIENCE)?;
        let mut interfaces = reply.interfaces.into_iter();
        Ok(interfaces.find(|interface| interface.name == name))
    }

    /// MAC addresses of the neighbours on an interface, as far as they are known.
    pub fn neighbours(&self, interface: &str) -> Result<BTreeMap<IpAddr, Vec<u8>>, CallError> {
        let reply = self.call(&self.dataplane, &ShowNeighboursRequest {}, PATIENCE)?;
        let there = reply
            .neighbours
            .into_iter()
            .filter(|neighbour| neighbour.interface == interface && !neighbour.mac.is_empty());
        Ok(there
            .filter_map(|neighbour| {
                let address = IpAddr::try_from(neighbour.address.as_ref()?).ok()?;
                Some((address, neighbour.mac))
            })
            .collect())
    }

    /// Paths to peers that take less than their link, and what became of messages that say so.
    pub fn paths(&self) -> Result<ShowPathsReply, CallError> {
        self.call(&self.dataplane, &ShowPathsRequest {}, PATIENCE)
    }

    /// Any request about SAs to the dataplane, as iked-bridge would make it.
    pub fn ask_dataplane<C: Call>(&self, request: &C) -> Result<C::Reply, CallError> {
        self.call(&self.sas, request, PATIENCE)
    }

    fn call<C: Call>(
        &self,
        client: &Client,
        request: &C,
        within: Duration,
    ) -> Result<C::Reply, CallError> {
        self.runtime.block_on(client.call(request, within))
    }
}
