//! What Linux holds in the namespace of the TAPs, so that the gateway's own traffic leaves as it should.
//!
//! Routes are those of the underlay VRF: a route of the dataplane becomes one of Linux when the interface
//! that it leaves by has a TAP. Of several next hops Linux gets the first.

use std::net::IpAddr;

use super::keys::{link_key, linux_route_key};
use super::ports::{Port, PortAddress, Ports, Taps};
use super::static_routes::{StaticRoute, Ways};
use super::{Key, Part, Planned, Planner};
use crate::bus::{self, value::Kind};

/// How many static routes may lead from one to the next to reach a gateway.
const MAX_RECURSION: usize = 8;

/// Plans TAPs and their addresses.
pub(super) fn plan(ports: &Ports, taps: &Taps, underlay: &str, planner: &mut Planner) {
    for port in ports.values().filter(|port| port.tap) {
        plan_port(port, taps, underlay, planner);
    }
}

fn plan_port(port: &Port, taps: &Taps, underlay: &str, planner: &mut Planner) {
    let kind = Kind::LinuxLink(bus::LinuxLink {
        tap: port.name.clone(),
        // The supervisor learns it from the device.
        mac: Vec::new(),
        mtu: taps.mtu(port),
        interface: port.name.clone(),
        underlay: port.vrf == underlay && !port.is_tunnel(),
    });
    planner
        .add(link_key(&port.name), kind, Part::Linux, &port.origin)
        .after = vec![port.key.clone()];
    for address in &port.addresses {
        let kind = Kind::LinuxAddress(bus::LinuxAddress {
            tap: port.name.clone(),
            address: Some(address.prefix.into()),
            obtained: false,
        });
        let entry = planner.add(
            address.linux_key.clone(),
            kind,
            Part::Linux,
            &address.origin,
        );
        entry.needs = vec![link_key(&port.name)];
        entry.after = vec![address.key.clone()];
    }
}

/// The value of a route of the underlay, if Linux is to know of it.
pub(super) fn route(route: &StaticRoute, ways: &Ways<'_>) -> Option<(Key, Planned)> {
    let exit = exit(route, ways).filter(|exit| exit.port.tap)?;
    let mut needs = vec![link_key(&exit.port.name)];
    needs.extend(exit.address.map(|address| address.linux_key.clone()));
    let kind = Kind::LinuxRoute(bus::LinuxRoute {
        destination: Some(route.destination.into()),
        gateway: exit.gateway.map(Into::into),
        tap: exit.port.name.clone(),
        obtained: false,
    });
    let planned = Planned {
        needs,
        ..Planned::new(kind, Part::Linux, &route.origin)
    };
    Some((linux_route_key(route.destination), planned))
}

/// The address that Linux sends from to reach `remote`, as far as the configuration tells.
pub(super) fn source_address(ways: &Ways<'_>, vrf: &str, remote: IpAddr) -> Option<Key> {
    let (port, address) = match ways.connected(vrf, None, remote) {
        Some(found) => found,
        None => {
            let exit = exit(ways.longest(vrf, remote, None)?, ways)?;
            (exit.port, exit.address?)
        }
    };
    port.tap.then(|| address.linux_key.clone())
}

/// Where packets of a route leave.
struct Exit<'a> {
    port: &'a Port,
    gateway: Option<IpAddr>,
    /// The address of the port whose network the gateway is on; without a gateway the first of the
    /// family, which Linux sends from.
    address: Option<&'a PortAddress>,
}

fn exit<'a>(route: &StaticRoute, ways: &Ways<'a>) -> Option<Exit<'a>> {
    let mut route = route;
    for _ in 0..MAX_RECURSION {
        let hop = route.hops.first()?;
        if hop.is_lookup() {
            // What Linux is told is where most of it leaves; the dataplane looks each packet up itself.
            let target = route.destination.addr();
            if let Some((port, address)) = ways.connected(&hop.vrf, None, target) {
                return Some(Exit {
                    port,
                    gateway: None,
                    address: Some(address),
                });
            }
            route = ways.longest(&hop.vrf, target, None)?;
            continue;
        }
        let Some(gateway) = hop.gateway else {
            let port = ways.ports.get(hop.interface.as_ref()?)?;
            let ipv4 = route.destination.addr().is_ipv4();
            let address = port
                .addresses
                .iter()
                .find(|address| address.prefix.addr().is_ipv4() == ipv4);
            return Some(Exit {
                port,
                gateway: None,
                address,
            });
        };
        if let Some((port, address)) = ways.connected(&hop.vrf, hop.interface.as_deref(), gateway) {
            return Some(Exit {
                port,
                gateway: Some(gateway),
                address: Some(address),
            });
        }
        if let Some(name) = &hop.interface {
            return Some(Exit {
                port: ways.ports.get(name)?,
                gateway: Some(gateway),
                address: None,
            });
        }
        // By way of the longest other route that holds the gateway.
        let itself = (hop.vrf == route.vrf).then_some(route.destination);
        route = ways.longest(&hop.vrf, gateway, itself)?;
    }
    None
}
