//! NICs: from the box's namespace to the dataplane's, and back as they were.
//!
//! ```text
//!   self namespace   eth0 (up, 1500, 192.0.2.9/24)  --- take --->  eth0 (up, no address)   dataplane namespace
//!                    eth0 (up, 1500, 192.0.2.9/24)  <-- give back ---
//! ```
//!
//! A supervisor that is killed cannot give back. Linux then moves a physical NIC to the first namespace of the machine
//! when the dataplane's one ends; a veth is gone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use culvert_tap_inject::mirror::{LinkState, Mirror, MirrorError};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::{Handle, LinkUnspec};
use thiserror::Error;

use super::namespace::{Namespace, NamespaceError};

/// The largest that an interface can be configured with, in bytes of an IP packet.
const LARGEST_MTU: u32 = 1500;

/// Why a NIC cannot be taken or given back.
#[derive(Debug, Error)]
pub enum NicError {
    /// The configuration names devices that are not there.
    #[error("there is no device {}", .0.join(", "))]
    Missing(Vec<String>),
    /// The devices cannot be listed.
    #[error(transparent)]
    List(#[from] MirrorError),
    /// The kernel refused.
    #[error("cannot {action} {device}: {source}")]
    Netlink {
        /// What was asked for.
        action: &'static str,
        /// Of the NIC.
        device: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// No netlink socket.
    #[error("cannot open a route netlink socket")]
    Open(#[source] std::io::Error),
    /// The namespace cannot be worked in.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// A NIC as it was before it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    device: String,
    before: LinkState,
    addresses: Vec<IpNet>,
}

impl Nic {
    /// The name in Linux.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// None: it has no Ethernet address.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.before.mac.as_slice().try_into().ok()
    }
}

/// Moves devices of the calling thread's namespace into `there`: all or none.
pub async fn take(devices: &[String], there: &Namespace) -> Result<Vec<Nic>, NicError> {
    let links = Mirror::open()?.links().await?;
    let missing: Vec<String> = devices
        .iter()
        .filter(|device| !links.contains_key(*device))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(NicError::Missing(missing));
    }
    let handle = open()?;
    let mut addresses = addresses(&handle).await?;
    let mut taken = Vec::new();
    for device in devices {
        let Some(before) = links.get(device) else {
            continue;
        };
        let nic = Nic {
            device: device.clone(),
            before: before.clone(),
            addresses: addresses.remove(&before.index).unwrap_or_default(),
        };
        let moved = handle
            .link()
            .set(
                LinkUnspec::new_with_index(before.index)
                    .setns_by_fd(there.as_fd().as_raw_fd())
                    .build(),
            )
            .execute()
            .await;
        match moved {
            Ok(()) => taken.push(nic),
            Err(source) => {
                undo(&taken, there).await;
                return Err(NicError::Netlink {
                    action: "take",
                    device: device.clone(),
                    source,
                });
            }
        }
    }
    match there.run(async || open_up(&taken).await) {
        Ok(Ok(())) => Ok(taken),
        Ok(Err(error)) => {
            undo(&taken, there).await;
            Err(error)
        }
        Err(error) => {
            undo(&taken, there).await;
            Err(error.into())
        }
    }
}

/// In the dataplane's namespace: whether an interface sends and receives, and how much at a time, is decided by the
/// dataplane for each packet; the NIC is ready for all of it.
async fn open_up(nics: &[Nic]) -> Result<(), NicError> {
    let links = Mirror::open()?.links().await?;
    let handle = open()?;
    for nic in nics {
        let Some(link) = links.get(&nic.device) else {
            return Err(NicError::Missing(vec![nic.device.clone()]));
        };
        // Neighbour solicitations come by multicast to groups that Linux, without IPv6, has not joined.
        let message = LinkUnspec::new_with_index(link.index)
            .mtu(nic.before.mtu.max(LARGEST_MTU))
            .allmulticast(true)
            .up()
            .build();
        let outcome = handle.link().set(message).execute().await;
        outcome.map_err(|source| NicError::Netlink {
            action: "set up",
            device: nic.device.clone(),
            source,
        })?;
    }
    Ok(())
}

async fn undo(taken: &[Nic], there: &Namespace) {
    if let Err(error) = give_back(taken, there).await {
        tracing::error!(%error, "cannot undo");
    }
}

/// Moves NICs back into the calling thread's namespace and makes them as they were. One that fails does not keep the
/// others; the first error is the answer. A NIC that is gone (unplugged) is none.
pub async fn give_back(nics: &[Nic], there: &Namespace) -> Result<(), NicError> {
    let here = Namespace::current()?;
    let mut first = Ok(());
    let moved = there.run(async || {
        let mirror = Mirror::open()?;
        let handle = open()?;
        let links = mirror.links().await?;
        let mut outcomes = Vec::new();
        for nic in nics {
            let Some(link) = links.get(&nic.device) else {
                tracing::warn!(device = nic.device, "is gone");
                continue;
            };
            let message = LinkUnspec::new_with_index(link.index)
                .down()
                .setns_by_fd(here.as_fd().as_raw_fd())
                .build();
            let outcome = handle.link().set(message).execute().await;
            outcomes.push((nic, outcome));
        }
        Ok::<_, NicError>(outcomes)
    })??;
    let links = Mirror::open()?.links().await?;
    let handle = open()?;
    for (nic, outcome) in moved {
        let restored = match outcome {
            Ok(()) => restore(nic, &links, &handle).await,
            Err(source) => Err(NicError::Netlink {
                action: "give back",
                device: nic.device.clone(),
                source,
            }),
        };
        if first.is_ok() {
            first = restored;
        }
    }
    first
}

async fn restore(
    nic: &Nic,
    links: &BTreeMap<String, LinkState>,
    handle: &Handle,
) -> Result<(), NicError> {
    let refused = |action| {
        move |source| NicError::Netlink {
            action,
            device: nic.device.clone(),
            source,
        }
    };
    let Some(link) = links.get(&nic.device) else {
        return Err(NicError::Missing(vec![nic.device.clone()]));
    };
    let mut message = LinkUnspec::new_with_index(link.index)
        .mtu(nic.before.mtu)
        .allmulticast(nic.before.all_multicast);
    if link.mac != nic.before.mac {
        message = message.address(nic.before.mac.clone());
    }
    if nic.before.up {
        message = message.up();
    }
    handle
        .link()
        .set(message.build())
        .execute()
        .await
        .map_err(refused("restore"))?;
    for address in &nic.addresses {
        handle
            .address()
            .add(link.index, address.addr(), address.prefix_len())
            .replace()
            .execute()
            .await
            .map_err(refused("restore an address of"))?;
    }
    Ok(())
}

/// By device index, without those that Linux makes by itself.
async fn addresses(handle: &Handle) -> Result<BTreeMap<u32, Vec<IpNet>>, NicError> {
    let mut all: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    let mut messages = handle.address().get().execute();
    while let Some(message) = messages
        .try_next()
        .await
        .map_err(|source| NicError::Netlink {
            action: "list the addresses of",
            device: "every device".to_owned(),
            source,
        })?
    {
        if message.header.scope == AddressScope::Link {
            continue;
        }
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
        let plain = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
        if let Some(address) = local.or(plain)
            && let Ok(prefix) = IpNet::new(address, message.header.prefix_len)
        {
            all.entry(message.header.index).or_default().push(prefix);
        }
    }
    Ok(all)
}

fn open() -> Result<Handle, NicError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NicError::Open)?;
    // Ends when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::Command;

    use super::*;

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_nic_goes_and_comes_back_as_it_was() {
        let here = Namespace::quiet().unwrap();
        let there = Namespace::quiet().unwrap();
        here.run(async || {
            ip("link add eth7 type veth peer name far");
            ip("link set eth7 mtu 1400 address 02:00:00:00:00:07 up");
            ip("address add 192.0.2.9/24 dev eth7");
            let missing = take(&["eth7".into(), "eth8".into(), "eth9".into()], &there).await;
            assert_eq!(
                missing.unwrap_err().to_string(),
                "there is no device eth8, eth9"
            );
            assert!(ip("link show").contains("eth7"));

            let nics = take(&["eth7".into()], &there).await.unwrap();
            assert_eq!(nics[0].mac(), Some([2, 0, 0, 0, 0, 7]));
            assert!(!ip("link show").contains("eth7@"));
            let inside = there.run(async || ip("address show eth7")).unwrap();
            assert!(
                inside.contains(",UP") && !inside.contains("inet"),
                "{inside}"
            );
            assert!(
                inside.contains("ALLMULTI") && inside.contains("mtu 1500"),
                "{inside}"
            );
            there.run(async || ip("link set eth7 mtu 1300")).unwrap();

            give_back(&nics, &there).await.unwrap();
            let after = ip("address show eth7");
            assert!(
                after.contains("mtu 1400") && after.contains("192.0.2.9/24"),
                "{after}"
            );
            assert!(
                after.contains(",UP") && !after.contains("ALLMULTI"),
                "{after}"
            );
            assert!(
                !there
                    .run(async || ip("link show"))
                    .unwrap()
                    .contains("eth7")
            );
        })
        .unwrap();
    }
}
