//! What Linux holds in the namespace of the TAPs, so that the gateway's own traffic leaves as it should.
//!
//! Routes are those of the underlay VRF: a route of the dataplane becomes one of Linux when the interface
//! that it leaves by has a TAP. Of several next hops Linux gets the first.

use std::net::IpAddr;

use ipnet::IpNet;

use super::network::{StaticRoute, StaticRoutes, address_key};
use super::ports::{Port, Ports, connected};
use super::{Key, Part, Planner};
use crate::bus::{self, value::Kind};

/// How many static routes may lead from one to the next to reach a gateway.
const MAX_RECURSION: usize = 8;

/// Plans TAPs, their addresses and the routes of `underlay`.
pub(super) fn plan(
    ports: &Ports,
    routes: &StaticRoutes<'_>,
    underlay: &str,
    planner: &mut Planner,
) {
    for port in ports.values().filter(|port| port.tap) {
        plan_port(port, underlay, planner);
    }
    for route in routes.all.iter().filter(|route| route.vrf == underlay) {
        plan_route(route, routes, ports, planner);
    }
}

/// The key of a TAP.
pub(super) fn link_key(tap: &str) -> Key {
    Key(format!("linux/link/{tap}"))
}

/// The key of an address of a TAP.
pub(super) fn linux_address_key(tap: &str, prefix: IpNet) -> Key {
    Key(format!("linux/address/{tap}/{prefix}"))
}

/// The key of a route of Linux.
pub(super) fn linux_route_key(destination: IpNet) -> Key {
    Key(format!("linux/route/{destination}"))
}

fn plan_port(port: &Port, underlay: &str, planner: &mut Planner) {
    let kind = Kind::LinuxLink(bus::LinuxLink {
        tap: port.name.clone(),
        // The supervisor learns it from the device.
        mac: Vec::new(),
        mtu: port.tap_mtu,
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
        let key = linux_address_key(&port.name, address.prefix);
        let entry = planner.add(key, kind, Part::Linux, &address.origin);
        entry.needs = vec![link_key(&port.name)];
        entry.after = vec![address_key(&port.name, address.prefix)];
    }
}

fn plan_route(
    route: &StaticRoute<'_>,
    routes: &StaticRoutes<'_>,
    ports: &Ports,
    planner: &mut Planner,
) {
    let Some(exit) = exit(route, routes, ports) else {
        return;
    };
    if !exit.port.tap {
        return;
    }
    let mut needs = vec![link_key(&exit.port.name)];
    if let Some(address) = exit.address {
        needs.push(linux_address_key(&exit.port.name, address));
    }
    let kind = Kind::LinuxRoute(bus::LinuxRoute {
        destination: Some(route.destination.into()),
        gateway: exit.gateway.map(Into::into),
        tap: exit.port.name.clone(),
        obtained: false,
    });
    let entry = planner.add(
        linux_route_key(route.destination),
        kind,
        Part::Linux,
        &route.origin,
    );
    entry.needs = needs;
}

/// The address that Linux sends from to reach `remote`, as far as the configuration tells.
pub(super) fn source_address(
    ports: &Ports,
    routes: &StaticRoutes<'_>,
    vrf: &str,
    remote: IpAddr,
) -> Option<Key> {
    let (port, prefix) = match connected(ports, vrf, None, remote) {
        Some((port, address)) => (port, address.prefix),
        None => {
            let exit = exit(routes.longest(vrf, remote, None)?, routes, ports)?;
            (exit.port, exit.address?)
        }
    };
    port.tap.then(|| linux_address_key(&port.name, prefix))
}

/// Where packets of a route leave.
struct Exit<'a> {
    port: &'a Port,
    gateway: Option<IpAddr>,
    /// The address of the port whose network the gateway is on; without a gateway the first of the
    /// family, which Linux sends from.
    address: Option<IpNet>,
}

fn exit<'a>(
    route: &StaticRoute<'_>,
    routes: &StaticRoutes<'_>,
    ports: &'a Ports,
) -> Option<Exit<'a>> {
    let mut route = route;
    for _ in 0..MAX_RECURSION {
        let hop = route.hops.first()?;
        if hop.is_lookup() {
            // What Linux is told is where most of it leaves; the dataplane looks each packet up itself.
            let target = route.destination.addr();
            if let Some((port, address)) = connected(ports, &hop.vrf, None, target) {
                return Some(Exit {
                    port,
                    gateway: None,
                    address: Some(address.prefix),
                });
            }
            route = routes.longest(&hop.vrf, target, None)?;
            continue;
        }
        let Some(gateway) = hop.gateway else {
            let port = ports.get(hop.interface?)?;
            let ipv4 = route.destination.addr().is_ipv4();
            let address = port
                .addresses
                .iter()
                .map(|address| address.prefix)
                .find(|prefix| prefix.addr().is_ipv4() == ipv4);
            return Some(Exit {
                port,
                gateway: None,
                address,
            });
        };
        if let Some((port, address)) = connected(ports, &hop.vrf, hop.interface, gateway) {
            return Some(Exit {
                port,
                gateway: Some(gateway),
                address: Some(address.prefix),
            });
        }
        if let Some(name) = hop.interface {
            return Some(Exit {
                port: ports.get(name)?,
                gateway: Some(gateway),
                address: None,
            });
        }
        // By way of the longest other route that holds the gateway.
        let itself = (hop.vrf == route.vrf).then_some(route.destination);
        route = routes.longest(&hop.vrf, gateway, itself)?;
    }
    None
}
