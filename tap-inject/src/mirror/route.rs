//! Routes through TAPs.

use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{Mirror, MirrorError, PROTOCOL, TapRoute, refused};
use crate::device::TapName;

impl Mirror {
    /// Adds a route; the same one again is done, one of ours to the same destination is replaced.
    pub async fn add_route(&self, wanted: &TapRoute) -> Result<(), MirrorError> {
        let index = self.index_of(&wanted.tap).await?;
        let message = message_of(wanted, index)?;
        self.handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(|source| {
                refused(
                    format!(
                        "add the route to {} through {}",
                        wanted.destination, wanted.tap
                    ),
                    source,
                )
            })
    }

    /// Removes a route of ours; one that is not there is done, and so is a TAP that is not there.
    pub async fn delete_route(&self, unwanted: &TapRoute) -> Result<(), MirrorError> {
        let index = match self.index_of(&unwanted.tap).await {
            Err(MirrorError::NoDevice(_)) => return Ok(()),
            other => other?,
        };
        let message = message_of(unwanted, index)?;
        let outcome = self.handle.route().del(message).execute().await;
        let outcome = outcome.map_err(|source| {
            refused(
                format!(
                    "delete the route to {} through {}",
                    unwanted.destination, unwanted.tap
                ),
                source,
            )
        });
        match outcome {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Our routes through these TAPs.
    pub async fn routes(&self, taps: &[TapName]) -> Result<Vec<TapRoute>, MirrorError> {
        let indexes = self.indexes(taps).await?;
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let messages: Vec<RouteMessage> = self
                .handle
                .route()
                .get(question)
                .execute()
                .try_collect()
                .await
                .map_err(|source| refused("list the routes", source))?;
            for message in messages {
                if message.header.protocol == RouteProtocol::Other(PROTOCOL)
                    && let Some((index, destination, gateway)) = read(&message)
                    && let Some(tap) = indexes.get(&index)
                {
                    routes.push(TapRoute {
                        destination,
                        gateway,
                        tap: tap.clone(),
                    });
                }
            }
        }
        Ok(routes)
    }
}

fn message_of(route: &TapRoute, index: u32) -> Result<RouteMessage, MirrorError> {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.gateway.is_some() || route.destination.addr().is_ipv6() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes.push(RouteAttribute::Destination(
        route.destination.network().into(),
    ));
    message.attributes.push(RouteAttribute::Oif(index));
    if let Some(gateway) = route.gateway {
        if gateway.is_ipv4() != route.destination.addr().is_ipv4() {
            return Err(MirrorError::Family {
                destination: route.destination,
                gateway,
            });
        }
        message
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
    }
    Ok(message)
}

fn read(message: &RouteMessage) -> Option<(u32, IpNet, Option<IpAddr>)> {
    let mut index = None;
    let mut gateway = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(value) => index = Some(*value),
            RouteAttribute::Gateway(value) => gateway = plain(value),
            _ => {}
        }
    }
    Some((index?, destination(message)?, gateway))
}

pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let written = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(value) => plain(value),
            _ => None,
        });
    // A default route carries no destination.
    let address = written.or(match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::from([0u8; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0u8; 16])),
        _ => None,
    })?;
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

pub(super) fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
