//! The Linux side of configured interfaces: what the dataplane has, Linux must know to talk through the TAPs.
//!
//! ```text
//!   LinuxLink     MAC, MTU, up      -> TAP
//!   LinuxAddress  address/length    -> TAP
//!   LinuxRoute    prefix via gateway dev TAP
//! ```
//!
//! The other way come [learnt routes](LearntRoute): what others wrote into Linux, for the dataplane.
//!
//! Addresses and routes carry a protocol number of our own ([`PROTOCOL`]), so that what a DHCP client or a routing
//! daemon wrote is neither counted as ours nor removed. Everything here works in the network namespace of the thread
//! that called [`Mirror::open`].

mod address;
mod learnt;
mod link;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::Handle;
use thiserror::Error;
use tokio::task::JoinHandle;

use crate::device::TapName;

pub use learnt::{LearntHop, LearntRoute, LearntWay, RouteWatch};

/// Marks addresses (`IFA_PROTO`, Linux 5.18) and routes (`rtm_protocol`) as ours. No number of
/// `/etc/iproute2/rt_protos` or of a routing daemon in Debian 12.
pub const PROTOCOL: u8 = 213;

/// What goes wrong between us and Linux.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// No netlink socket.
    #[error("cannot open a route netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a request or the socket failed.
    #[error("Linux refused to {action}: {source}")]
    Netlink {
        /// What was asked for.
        action: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// No such device in this namespace.
    #[error("there is no device {0}")]
    NoDevice(TapName),
    /// A per-interface switch in `/proc/sys` cannot be written.
    #[error("cannot write {value} to {path}")]
    Switch {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Gateway and destination are of two families.
    #[error("route {destination}: the gateway {gateway} is of another family")]
    Family {
        /// Of the route.
        destination: IpNet,
        /// Of the route.
        gateway: IpAddr,
    },
}

impl MirrorError {
    /// Whether the same request may succeed later without a change of configuration.
    pub fn is_retriable(&self) -> bool {
        !matches!(self, Self::Family { .. })
    }

    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink {
                source: rtnetlink::Error::NetlinkError(message),
                ..
            } => Some(-message.raw_code()),
            Self::Switch { source, .. } | Self::Open(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

/// How a TAP should look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Of the device.
    pub tap: TapName,
    /// The dataplane interface's; none: whatever Linux gave the TAP.
    pub mac: Option<[u8; 6]>,
    /// Bytes of an IP packet.
    pub mtu: u32,
}

/// An address on a TAP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapAddress {
    /// The device that has it.
    pub tap: TapName,
    /// Address and length of the network part.
    pub address: IpNet,
}

/// A route through a TAP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapRoute {
    /// Where to.
    pub destination: IpNet,
    /// None: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The device that leads there.
    pub tap: TapName,
}

/// A device as Linux has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Of the device, in this namespace.
    pub index: u32,
    /// Empty for a device without one.
    pub mac: Vec<u8>,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Takes every multicast frame.
    pub all_multicast: bool,
}

/// A netlink session with one network namespace.
#[derive(Debug)]
pub struct Mirror {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Mirror {
    /// Opens a session with the network namespace of the calling thread; to be called within a tokio runtime.
    pub fn open() -> Result<Self, MirrorError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(MirrorError::Open)?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Every device of the namespace by name.
    pub async fn links(&self) -> Result<BTreeMap<String, LinkState>, MirrorError> {
        let mut messages = self.handle.link().get().execute();
        let mut links = BTreeMap::new();
        while let Some(message) = messages
            .try_next()
            .await
            .map_err(|source| refused("list the devices", source))?
        {
            let mut name = None;
            let mut state = LinkState {
                index: message.header.index,
                mac: Vec::new(),
                mtu: 0,
                up: message.header.flags.contains(LinkFlags::Up),
                all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
            };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(value) => name = Some(value),
                    LinkAttribute::Address(value) => state.mac = value,
                    LinkAttribute::Mtu(value) => state.mtu = value,
                    _ => {}
                }
            }
            if let Some(name) = name {
                links.insert(name, state);
            }
        }
        Ok(links)
    }

    async fn index_of(&self, tap: &TapName) -> Result<u32, MirrorError> {
        self.links()
            .await?
            .get(tap.as_str())
            .map(|state| state.index)
            .ok_or_else(|| MirrorError::NoDevice(tap.clone()))
    }

    /// TAP names by index, of those given that exist.
    async fn indexes(&self, taps: &[TapName]) -> Result<BTreeMap<u32, TapName>, MirrorError> {
        let links = self.links().await?;
        Ok(taps
            .iter()
            .filter_map(|tap| Some((links.get(tap.as_str())?.index, tap.clone())))
            .collect())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn refused(action: impl Into<String>, source: rtnetlink::Error) -> MirrorError {
    MirrorError::Netlink {
        action: action.into(),
        source,
    }
}
