//! Links, addresses and routes of one namespace, over rtnetlink.
//!
//! [`Namespace::netlink`] gives a closure a [`Netlink`] whose socket is inside that namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, State, Stats64},
    },
};

use crate::namespace::{Namespace, NamespaceError};

/// Why a link, an address or a route could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No netlink socket, or no runtime for it.
    #[error("netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// No link has this name.
    #[error("there is no link {0}")]
    NoLink(String),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

/// One end of a virtual Ethernet pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Where the end lives.
    pub namespace: &'a Namespace,
    /// Its name there.
    pub name: &'a str,
}

/// What the kernel counts of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames received and dropped.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that were to be sent and dropped.
    pub tx_dropped: u64,
}

/// A netlink socket inside a namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Namespace {
    /// Runs `work` with a netlink socket of this namespace.
    pub fn netlink<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Netlink) -> Result<T, NetlinkError> + Send,
    ) -> Result<T, NetlinkError> {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let connection = tokio::spawn(connection);
                let netlink = Netlink { handle };
                let result = work(&netlink).await;
                connection.abort();
                result
            })
        })?
    }
}

/// Makes a pair of virtual Ethernet devices, each end in its own namespace, both down.
pub fn add_veth(one: VethEnd<'_>, other: VethEnd<'_>, mtu: u32) -> Result<(), NetlinkError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(other.name)
        .mtu(mtu)
        .setns_by_fd(other.namespace.as_fd().as_raw_fd())
        .build();
    let message = LinkMessageBuilder::<LinkVeth>::new(one.name, other.name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(mtu)
        .build();
    let what = format!(
        "make {} in {} with peer {}",
        one.name,
        one.namespace.name(),
        other.name
    );
    one.namespace.netlink(async |netlink| {
        netlink
            .handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| NetlinkError::Refused { what, source })
    })
}

impl Netlink {
    /// Whether a link of this name exists.
    pub async fn has_link(&self, name: &str) -> Result<bool, NetlinkError> {
        match self.link(name).await {
            Ok(_) => Ok(true),
            Err(NetlinkError::NoLink(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the link is up and has its carrier.
    pub async fn is_running(&self, name: &str) -> Result<bool, NetlinkError> {
        let link = self.link(name).await?;
        let operational = link
            .attributes
            .contains(&LinkAttribute::OperState(State::Up));
        Ok(link.header.flags.contains(LinkFlags::Up) && operational)
    }

    /// Whether the link is administratively up.
    pub async fn is_up(&self, name: &str) -> Result<bool, NetlinkError> {
        Ok(self.link(name).await?.header.flags.contains(LinkFlags::Up))
    }

    /// Switches the link up.
    pub async fn set_up(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?)
            .up()
            .build();
        self.change(message, format!("set {name} up")).await
    }

    /// Switches the link down; its routes and its non-static v6 addresses go.
    pub async fn set_down(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?)
            .down()
            .build();
        self.change(message, format!("set {name} down")).await
    }

    /// Bytes of the largest IP packet that the link sends.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?)
            .mtu(mtu)
            .build();
        self.change(message, format!("set the MTU of {name}")).await
    }

    /// Removes the link, and the peer of a pair with it.
    pub async fn remove_link(&self, name: &str) -> Result<(), NetlinkError> {
        let index = self.index(name).await?;
        refused(self.handle.link().del(index).execute().await, || {
            format!("remove {name}")
        })
    }

    /// Gives the link an address, without duplicate detection; one that is there already stays.
    pub async fn add_address(&self, name: &str, address: IpNet) -> Result<(), NetlinkError> {
        let index = self.index(name).await?;
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len())
            .replace();
        if address.addr().is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        refused(request.execute().await, || {
            format!("add {address} to {name}")
        })
    }

    /// Takes every address from the link that was given to it (link-local ones stay).
    pub async fn remove_addresses(&self, name: &str) -> Result<(), NetlinkError> {
        let index = self.index(name).await?;
        let what = || format!("remove the addresses of {name}");
        let addresses: Vec<_> = refused(
            self.handle
                .address()
                .get()
                .set_link_index_filter(index)
                .execute()
                .try_collect()
                .await,
            what,
        )?;
        for message in addresses {
            let link_local = message.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Address(IpAddr::V6(address)) if address.is_unicast_link_local())
            });
            if !link_local {
                refused(self.handle.address().del(message).execute().await, what)?;
            }
        }
        Ok(())
    }

    /// Adds or replaces a route through a next hop.
    pub async fn add_route(&self, destination: IpNet, via: IpAddr) -> Result<(), NetlinkError> {
        let message = match (destination, via) {
            (IpNet::V4(net), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(via)
                .build(),
            (IpNet::V6(net), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(via)
                .build(),
            (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => {
                return Err(NetlinkError::Refused {
                    what: format!("route {destination} via {via}: the families differ"),
                    source: rtnetlink::Error::RequestFailed,
                });
            }
        };
        refused(
            self.handle.route().add(message).replace().execute().await,
            || format!("route {destination} via {via}"),
        )
    }

    /// What the kernel has counted of the link so far.
    pub async fn counters(&self, name: &str) -> Result<LinkCounters, NetlinkError> {
        let link = self.link(name).await?;
        let stats = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(*stats),
                _ => None,
            });
        Ok(stats.map_or_else(LinkCounters::default, LinkCounters::from))
    }

    /// The hardware address of the link.
    pub async fn hardware_address(&self, name: &str) -> Result<[u8; 6], NetlinkError> {
        let link = self.link(name).await?;
        let address = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                _ => None,
            });
        address.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// Moves the link into another namespace; it arrives down and without addresses.
    pub async fn move_link(&self, name: &str, to: &Namespace) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?)
            .setns_by_fd(to.as_fd().as_raw_fd())
            .build();
        self.change(message, format!("move {name} to {}", to.name()))
            .await
    }

    async fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        Ok(self.link(name).await?.header.index)
    }

    async fn link(&self, name: &str) -> Result<LinkMessage, NetlinkError> {
        match self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await
        {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(NetlinkError::NoLink(name.to_owned())),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => {
                Err(NetlinkError::NoLink(name.to_owned()))
            }
            Err(source) => Err(NetlinkError::Refused {
                what: format!("read {name}"),
                source,
            }),
        }
    }

    async fn change(&self, message: LinkMessage, what: String) -> Result<(), NetlinkError> {
        refused(self.handle.link().set(message).execute().await, || what)
    }
}

impl From<Stats64> for LinkCounters {
    fn from(stats: Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_dropped: stats.rx_dropped,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
        }
    }
}

fn refused<T>(
    result: Result<T, rtnetlink::Error>,
    what: impl FnOnce() -> String,
) -> Result<T, NetlinkError> {
    result.map_err(|source| NetlinkError::Refused {
        what: what(),
        source,
    })
}
