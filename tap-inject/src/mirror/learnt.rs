//! Routes that others than we wrote into Linux: a routing daemon, a DHCP client, a person.
//!
//! ```text
//!   bird, dhclient, ip route ----> main table of Linux ----> learnt_routes ----> the dataplane
//!                                        '--> RouteWatch: look again
//! ```
//!
//! What the kernel made of addresses is left out, and what we wrote ourselves ([`PROTOCOL`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteType,
};
use rtnetlink::MulticastGroup;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::route::{destination, plain};
use super::{Mirror, MirrorError, PROTOCOL, refused};

/// A route of someone else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearntRoute {
    /// Where to.
    pub destination: IpNet,
    /// What is done with its packets.
    pub way: LearntWay,
}

/// What a route of someone else's says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LearntWay {
    /// They leave by one of these; in the order of device and gateway.
    Hops(Vec<LearntHop>),
    /// They are dropped silently.
    Blackhole,
    /// They are dropped, and the sender is told.
    Unreachable,
    /// They are forbidden, and the sender is told.
    Prohibit,
}

/// One next hop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearntHop {
    /// Of Linux: a TAP, or a device that is none of ours.
    pub device: String,
    /// None: the destination is on the link. One of the other family than the destination's counts as none.
    pub gateway: Option<IpAddr>,
}

impl Mirror {
    /// Every route of others in the main table, one for each destination: that with the least metric, as Linux prefers
    /// it. In the order of destinations.
    pub async fn learnt_routes(&self) -> Result<Vec<LearntRoute>, MirrorError> {
        let devices: BTreeMap<u32, String> = self
            .links()
            .await?
            .into_iter()
            .map(|(name, state)| (state.index, name))
            .collect();
        let mut best: BTreeMap<IpNet, (u32, LearntWay)> = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let mut messages = self.handle.route().get(question).execute();
            while let Some(message) = messages
                .try_next()
                .await
                .map_err(|source| refused("list the routes", source))?
            {
                let Some((destination, metric, way)) = read(&message, &devices) else {
                    continue;
                };
                let known = best.get(&destination);
                if known.is_none_or(|(known, _)| metric < *known) {
                    best.insert(destination, (metric, way));
                }
            }
        }
        Ok(best
            .into_iter()
            .map(|(destination, (_, way))| LearntRoute { destination, way })
            .collect())
    }
}

/// Notices that routes, or what they depend on, have changed.
#[derive(Debug)]
pub struct RouteWatch {
    changes: watch::Receiver<()>,
    tasks: [JoinHandle<()>; 2],
}

impl RouteWatch {
    /// Of the network namespace of the calling thread; to be called within a tokio runtime.
    pub fn open() -> Result<Self, MirrorError> {
        // A device that goes down takes its IPv4 routes along without a word about them.
        let groups = [
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
        ];
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(MirrorError::Open)?;
        let (sender, changes) = watch::channel(());
        let relay = async move {
            while messages.next().await.is_some() {
                sender.send_replace(());
            }
        };
        Ok(Self {
            changes,
            tasks: [tokio::spawn(connection), tokio::spawn(relay)],
        })
    }

    /// Waits for a change since the last one that was waited for. False: there will be none any more, because the kernel
    /// had more to say than it could keep; look once more and open another one.
    pub async fn changed(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn read(
    message: &RouteMessage,
    devices: &BTreeMap<u32, String>,
) -> Option<(IpNet, u32, LearntWay)> {
    let header = &message.header;
    let ours = matches!(
        header.protocol,
        RouteProtocol::IcmpRedirect | RouteProtocol::Kernel | RouteProtocol::Other(PROTOCOL)
    );
    if ours
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.source_prefix_length != 0
        || header.tos != 0
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    let way = match header.kind {
        RouteType::Unicast => {
            let mut hops = hops(message, devices);
            hops.sort();
            hops.dedup();
            (!hops.is_empty()).then_some(LearntWay::Hops(hops))?
        }
        RouteType::BlackHole => LearntWay::Blackhole,
        RouteType::Unreachable => LearntWay::Unreachable,
        RouteType::Prohibit => LearntWay::Prohibit,
        _ => return None,
    };
    Some((destination(message)?, metric.unwrap_or(0), way))
}

fn hops(message: &RouteMessage, devices: &BTreeMap<u32, String>) -> Vec<LearntHop> {
    let hop = |index: Option<u32>, attributes: &[RouteAttribute]| {
        let gateway = attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => plain(gateway),
            _ => None,
        });
        Some(LearntHop {
            device: devices.get(&index?)?.clone(),
            gateway,
        })
    };
    let index = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
    let several = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        })
        .flatten()
        .filter(|one| !one.flags.contains(RouteNextHopFlags::Dead))
        .filter_map(|one| hop(Some(one.interface_index), &one.attributes));
    several.chain(hop(index, &message.attributes)).collect()
}
