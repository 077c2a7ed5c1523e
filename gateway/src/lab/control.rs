//! What a laboratory asks of a running gateway over its bus, and what it shows of the answers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_bus::{BusError, Call, CallError, Client};
use culvert_model::bus::{
    ChildState, IkeState, InitiateRequest, RekeyRequest, ShowDropsRequest, ShowIkeReply,
    ShowIkeRequest, ShowInterfacesRequest, ShowNodesReply, ShowNodesRequest,
};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

/// Any answer but that of a negotiation.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a gateway did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No runtime for the bus.
    #[error("runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The socket could not be opened.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The process refused, or did not answer in time.
    #[error("{process} of {root}: {source}", root = root.display())]
    Call {
        /// Which process.
        process: &'static str,
        /// Of which gateway.
        root: PathBuf,
        /// Its answer.
        source: CallError,
    },
}

/// Two clients to the processes of one gateway.
pub struct Control {
    root: PathBuf,
    bridge: Client,
    dataplane: Client,
    runtime: Runtime,
}

/// What one node of the graph has cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeCost {
    /// Its name.
    pub node: String,
    /// Packets it was given.
    pub packets: u64,
    /// How many at a time, on average.
    pub packets_per_vector: f64,
    /// Clocks of the time stamp counter for each packet.
    pub clocks_per_packet: f64,
}

impl Control {
    /// Clients of the gateway with this root. It need not run yet.
    pub fn new(root: &Path) -> Result<Self, ControlError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(ControlError::Runtime)?;
        let guard = runtime.enter();
        let bus = root.join("run").join("bus");
        let bridge = Client::new(&bus.join("iked-bridge"))?;
        let dataplane = Client::new(&bus.join("dataplane"))?;
        drop(guard);
        Ok(Self {
            root: root.to_owned(),
            bridge,
            dataplane,
            runtime,
        })
    }

    /// Every IKE_SA with its CHILD_SAs.
    pub fn ike(&self) -> Result<ShowIkeReply, ControlError> {
        self.call("iked-bridge", &self.bridge, &ShowIkeRequest {}, PATIENCE)
    }

    /// Negotiates the CHILD_SA, and the IKE_SA for it if there is none. Answers when it is done.
    pub fn initiate(&self, child: &str, limit: Duration) -> Result<(), ControlError> {
        let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let request = InitiateRequest {
            child: child.to_owned(),
            timeout_ms,
        };
        self.call("iked-bridge", &self.bridge, &request, limit + PATIENCE)
            .map(drop)
    }

    /// Begins to rekey the CHILD_SAs of this name; answers how many.
    pub fn rekey_child(&self, child: &str) -> Result<u32, ControlError> {
        let request = RekeyRequest {
            child: child.to_owned(),
            ..RekeyRequest::default()
        };
        Ok(self
            .call("iked-bridge", &self.bridge, &request, PATIENCE)?
            .matches)
    }

    /// Begins to rekey the IKE_SAs of this connection; answers how many.
    pub fn rekey_ike(&self, connection: &str) -> Result<u32, ControlError> {
        let request = RekeyRequest {
            ike: connection.to_owned(),
            ..RekeyRequest::default()
        };
        Ok(self
            .call("iked-bridge", &self.bridge, &request, PATIENCE)?
            .matches)
    }

    /// What the nodes have cost since the counters were last set to zero, which this does again.
    pub fn take_node_costs(&self) -> Result<Vec<NodeCost>, ControlError> {
        let reply = self.call(
            "dataplane",
            &self.dataplane,
            &ShowNodesRequest { reset: true },
            PATIENCE,
        )?;
        Ok(node_costs(&reply))
    }

    /// Dropped packets by reason, only reasons that occurred.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, ControlError> {
        let reply = self.call("dataplane", &self.dataplane, &ShowDropsRequest {}, PATIENCE)?;
        let occurred = reply.drops.into_iter().filter(|drop| drop.packets > 0);
        Ok(occurred.map(|drop| (drop.reason, drop.packets)).collect())
    }

    /// How the frames of each Ethernet interface come and go now, as `culvert show interfaces` says it: also why not as
    /// was asked for.
    pub fn drivers(&self) -> Result<BTreeMap<String, String>, ControlError> {
        let reply = self.call(
            "dataplane",
            &self.dataplane,
            &ShowInterfacesRequest {},
            PATIENCE,
        )?;
        let driven = reply
            .interfaces
            .into_iter()
            .filter(|interface| !interface.driver.is_empty());
        Ok(driven
            .map(|interface| (interface.name, interface.driver))
            .collect())
    }

    fn call<C: Call>(
        &self,
        process: &'static str,
        client: &Client,
        request: &C,
        within: Duration,
    ) -> Result<C::Reply, ControlError> {
        self.runtime
            .block_on(client.call(request, within))
            .map_err(|source| ControlError::Call {
                process,
                root: self.root.clone(),
                source,
            })
    }
}

/// The CHILD_SA that carries traffic: the newest of those installed.
pub fn installed_child<'a>(
    reply: &'a ShowIkeReply,
    name: &str,
) -> Option<(&'a IkeState, &'a ChildState)> {
    let children = reply
        .ikes
        .iter()
        .flat_map(|ike| ike.children.iter().map(move |child| (ike, child)));
    children
        .filter(|(_, child)| child.name == name && child.state == "INSTALLED")
        .max_by_key(|(_, child)| child.unique_id)
}

/// The IKE_SA of this connection: the newest of those established.
pub fn established_ike<'a>(reply: &'a ShowIkeReply, connection: &str) -> Option<&'a IkeState> {
    reply
        .ikes
        .iter()
        .filter(|ike| ike.connection == connection && ike.state == "ESTABLISHED")
        .max_by_key(|ike| ike.unique_id)
}

/// Sums the workers, and leaves out nodes that did nothing.
fn node_costs(reply: &ShowNodesReply) -> Vec<NodeCost> {
    let mut order = Vec::new();
    let mut sums: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for node in &reply.nodes {
        let [vectors, packets, clocks] = sums.entry(&node.name).or_insert_with(|| {
            order.push(node.name.as_str());
            [0; 3]
        });
        *vectors += node.vectors;
        *packets += node.packets;
        *clocks += node.clocks;
    }
    let cost = |name: &str| {
        let [vectors, packets, clocks] = sums.get(name).copied()?;
        (packets > 0).then(|| NodeCost {
            node: name.to_owned(),
            packets,
            packets_per_vector: ratio(packets, vectors),
            clocks_per_packet: ratio(clocks, packets),
        })
    };
    order.into_iter().filter_map(cost).collect()
}

/// Counters stay far below 2^52, where a double is exact.
#[allow(clippy::cast_precision_loss)]
fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 {
        0.0
    } else {
        numerator as f64 / denominator as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::bus::NodeCounters;

    use super::*;

    fn child(unique_id: u64, state: &str) -> ChildState {
        ChildState {
            name: "lans".to_owned(),
            unique_id,
            state: state.to_owned(),
            ..ChildState::default()
        }
    }

    #[test]
    fn the_newest_installed_child_is_the_one_in_use() {
        let reply = ShowIkeReply {
            ikes: vec![IkeState {
                children: vec![
                    child(3, "INSTALLED"),
                    child(4, "INSTALLED"),
                    child(5, "REKEYING"),
                ],
                ..IkeState::default()
            }],
            ..ShowIkeReply::default()
        };
        assert_eq!(installed_child(&reply, "lans").unwrap().1.unique_id, 4);
        assert!(installed_child(&reply, "other").is_none());
    }

    #[test]
    fn node_costs_sum_the_workers() {
        let node = |name: &str, worker, vectors, packets, clocks| NodeCounters {
            name: name.to_owned(),
            worker,
            vectors,
            packets,
            clocks,
        };
        let reply = ShowNodesReply {
            nodes: vec![
                node("rx", 0, 1, 10, 100),
                node("idle", 0, 0, 0, 9),
                node("rx", 1, 3, 30, 900),
            ],
            tsc_hz: 1,
        };
        let costs = node_costs(&reply);
        assert_eq!(costs.len(), 1);
        assert_eq!((costs[0].node.as_str(), costs[0].packets), ("rx", 40));
        assert!((costs[0].clocks_per_packet - 25.0).abs() < 1e-9);
        assert!((costs[0].packets_per_vector - 10.0).abs() < 1e-9);
    }
}
