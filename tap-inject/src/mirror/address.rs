//! Addresses on TAPs.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol,
};

use super::{Mirror, MirrorError, PROTOCOL, TapAddress, refused};
use crate::device::TapName;

impl Mirror {
    /// Puts an address on a TAP; one that is there already is done.
    ///
    /// The dataplane has detected duplicates by then: Linux uses the address at once.
    pub async fn add_address(&self, wanted: &TapAddress) -> Result<(), MirrorError> {
        let index = self.index_of(&wanted.tap).await?;
        let mut request = self
            .handle
            .address()
            .add(index, wanted.address.addr(), wanted.address.prefix_len())
            .replace();
        let message = request.message_mut();
        if wanted.address.addr().is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        request.execute().await.map_err(|source| {
            refused(
                format!("add address {} to {}", wanted.address, wanted.tap),
                source,
            )
        })
    }

    /// Takes an address off a TAP; one that is not there is done, and so is a TAP that is not there.
    pub async fn delete_address(&self, unwanted: &TapAddress) -> Result<(), MirrorError> {
        let index = match self.index_of(&unwanted.tap).await {
            Err(MirrorError::NoDevice(_)) => return Ok(()),
            other => other?,
        };
        for message in self.address_messages().await? {
            if message.header.index == index && prefix_of(&message) == Some(unwanted.address) {
                let outcome = self.handle.address().del(message).execute().await;
                let outcome = outcome.map_err(|source| {
                    refused(
                        format!("delete address {} of {}", unwanted.address, unwanted.tap),
                        source,
                    )
                });
                match outcome {
                    Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Our addresses on these TAPs.
    pub async fn addresses(&self, taps: &[TapName]) -> Result<Vec<TapAddress>, MirrorError> {
        let indexes = self.indexes(taps).await?;
        let messages = self.address_messages().await?;
        Ok(messages
            .iter()
            .filter(|message| {
                message
                    .attributes
                    .contains(&AddressAttribute::Protocol(AddressProtocol::Other(
                        PROTOCOL,
                    )))
            })
            .filter_map(|message| {
                Some(TapAddress {
                    tap: indexes.get(&message.header.index)?.clone(),
                    address: prefix_of(message)?,
                })
            })
            .collect())
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>, MirrorError> {
        self.handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| refused("list the addresses", source))
    }
}

/// `IFA_LOCAL` is the box's own address where a peer address exists (IPv4); IPv6 has `IFA_ADDRESS` alone.
fn prefix_of(message: &AddressMessage) -> Option<IpNet> {
    let find = |local: bool| -> Option<IpAddr> {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    let address = match message.header.family {
        AddressFamily::Inet => find(true).or_else(|| find(false))?,
        AddressFamily::Inet6 => find(false)?,
        _ => return None,
    };
    IpNet::new(address, message.header.prefix_len).ok()
}
