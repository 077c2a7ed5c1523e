//! What the dataplane holds: VRFs, interfaces, tunnels, addresses, routes, and leave to forward.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::ports::{Ports, connected, default_vrf, is_link_local};
use super::{Key, Part, PlanReason, Planner};
use crate::bus::{self, value::Kind};
use crate::config::{Config, NextHop, Route};
use crate::decode::path;

/// Of an Ethernet interface that names none.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Plans all values of the dataplane but `forwarding`.
pub(super) fn plan(config: &Config, ports: &Ports, planner: &mut Planner) {
    plan_vrfs(config, planner);
    plan_interfaces(config, ports, planner);
    plan_tunnels(config, ports, planner);
    plan_addresses(ports, planner);
    plan_routes(config, ports, planner);
}

/// Plans leave to forward, after all else of the dataplane has been planned.
pub(super) fn plan_forwarding(planner: &mut Planner) {
    let all: Vec<Key> = planner
        .values
        .iter()
        .filter(|(_, planned)| planned.part == Part::Dataplane)
        .map(|(key, _)| key.clone())
        .collect();
    let kind = Kind::Forwarding(bus::Forwarding { enabled: true });
    planner
        .add(Key::from("forwarding"), kind, Part::Dataplane, "")
        .after = all;
}

fn plan_vrfs(config: &Config, planner: &mut Planner) {
    for vrf in &config.vrfs {
        let name = vrf.name().to_owned();
        let origin = path::item("vrfs", std::slice::from_ref(&name), 0);
        let key = vrf_key(&name);
        planner.add(key, Kind::Vrf(bus::Vrf { name }), Part::Dataplane, &origin);
    }
    let name = default_vrf();
    let key = vrf_key(&name);
    planner.add(key, Kind::Vrf(bus::Vrf { name }), Part::Dataplane, "");
}

fn vrf_key(name: &str) -> Key {
    Key(format!("vrf/{name}"))
}

/// As the bus says it: absent never, 0 what fits the MTU.
fn mss_clamp(clamp: bool, mss: Option<u32>) -> Option<u32> {
    clamp.then(|| mss.unwrap_or(0))
}

fn plan_interfaces(config: &Config, ports: &Ports, planner: &mut Planner) {
    let mut devices: HashMap<String, String> = HashMap::new();
    for interface in &config.interfaces {
        let Some(port) = ports.get(interface.name()) else {
            continue;
        };
        let device = interface.device.as_deref().unwrap_or(&port.name).to_owned();
        if let Some(other) = devices.insert(device.clone(), port.origin.clone()) {
            let at = path::field(&port.origin, "device");
            planner.refuse(
                at,
                PlanReason::Taken {
                    what: device.clone(),
                    other,
                },
            );
        }
        let kind = Kind::Interface(bus::Interface {
            name: port.name.clone(),
            device,
            vrf: port.vrf.clone(),
            mtu: interface.mtu.unwrap_or(DEFAULT_MTU),
            admin_up: interface.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(interface.mss_clamp.unwrap_or(false), interface.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
        });
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = vec![vrf_key(&port.vrf)];
    }
}

fn plan_tunnels(config: &Config, ports: &Ports, planner: &mut Planner) {
    let mut if_ids: HashMap<u32, String> = HashMap::new();
    for tunnel in &config.tunnels {
        let Some(port) = ports
            .get(tunnel.name())
            .filter(|port| port.key.as_str().starts_with("tunnel/"))
        else {
            continue;
        };
        if let Some(other) = if_ids.insert(tunnel.if_id(), port.origin.clone()) {
            let what = tunnel.if_id().to_string();
            planner.refuse(
                path::field(&port.origin, "if_id"),
                PlanReason::Taken { what, other },
            );
        }
        let underlay_vrf = tunnel.underlay_vrf.clone().unwrap_or_else(default_vrf);
        let mut needs = vec![vrf_key(&port.vrf)];
        if underlay_vrf != port.vrf {
            needs.push(vrf_key(&underlay_vrf));
        }
        let kind = Kind::Tunnel(bus::Tunnel {
            name: port.name.clone(),
            if_id: tunnel.if_id(),
            vrf: port.vrf.clone(),
            underlay_vrf,
            mtu: tunnel.mtu,
            admin_up: tunnel.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(tunnel.mss_clamp.unwrap_or(true), tunnel.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
        });
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = needs;
    }
}

/// The key of an address of the dataplane.
pub(super) fn address_key(port: &str, prefix: IpNet) -> Key {
    Key(format!("address/{port}/{prefix}"))
}

fn plan_addresses(ports: &Ports, planner: &mut Planner) {
    for port in ports.values() {
        for address in &port.addresses {
            let kind = Kind::Address(bus::Address {
                interface: port.name.clone(),
                address: Some(address.prefix.into()),
            });
            let key = address_key(&port.name, address.prefix);
            planner
                .add(key, kind, Part::Dataplane, &address.origin)
                .needs = vec![port.key.clone()];
        }
    }
}

/// A static route, its texts parsed.
pub(super) struct StaticRoute<'a> {
    pub(super) vrf: String,
    pub(super) destination: IpNet,
    pub(super) hops: Vec<Hop<'a>>,
    pub(super) origin: String,
}

/// A next hop, its texts parsed.
pub(super) struct Hop<'a> {
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<&'a str>,
}

/// All static routes whose texts can be parsed, those that cannot left out.
pub(super) fn static_routes(config: &Config) -> Vec<StaticRoute<'_>> {
    config.routes.iter().filter_map(static_route).collect()
}

fn static_route(route: &Route) -> Option<StaticRoute<'_>> {
    let destination: IpNet = route.destination().parse().ok()?;
    let destination = destination.trunc();
    let vrf = route.vrf.clone().unwrap_or_else(default_vrf);
    let origin = path::item("routes", &[vrf.clone(), destination.to_string()], 0);
    Some(StaticRoute {
        vrf,
        destination,
        hops: route.next_hops.iter().map(hop).collect(),
        origin,
    })
}

fn hop(next_hop: &NextHop) -> Hop<'_> {
    Hop {
        gateway: next_hop.gateway.as_ref().and_then(|text| text.parse().ok()),
        interface: next_hop.interface.as_deref(),
    }
}

fn plan_routes(config: &Config, ports: &Ports, planner: &mut Planner) {
    let routes = static_routes(config);
    for (route, written) in routes.iter().zip(&config.routes) {
        let connected_by = ports.values().find(|port| {
            port.vrf == route.vrf
                && port
                    .addresses
                    .iter()
                    .any(|address| address.prefix.trunc() == route.destination)
        });
        if let Some(port) = connected_by {
            planner.refuse(
                path::field(&route.origin, "destination"),
                PlanReason::Connected {
                    network: route.destination.to_string(),
                    interface: port.name.clone(),
                },
            );
        }
        let mut needs = vec![vrf_key(&route.vrf)];
        for (hop, written) in route.hops.iter().zip(&written.next_hops) {
            let keys: Vec<String> = written
                .gateway
                .iter()
                .chain(&written.interface)
                .cloned()
                .collect();
            let at = path::item(&path::field(&route.origin, "next_hops"), &keys, 0);
            match hop_needs(route, hop, &routes, ports) {
                Ok(keys) => needs.extend(keys),
                Err(reason) => planner.refuse(at, reason),
            }
        }
        needs.sort();
        needs.dedup();
        let kind = Kind::Route(bus::Route {
            vrf: route.vrf.clone(),
            destination: Some(route.destination.into()),
            next_hops: route
                .hops
                .iter()
                .map(|hop| bus::NextHop {
                    gateway: hop.gateway.map(Into::into),
                    interface: hop.interface.unwrap_or_default().to_owned(),
                })
                .collect(),
        });
        let key = Key(format!("route/{}/{}", route.vrf, route.destination));
        planner.add(key, kind, Part::Dataplane, &route.origin).needs = needs;
    }
}

/// What a next hop needs to be there: its interface, and the address its gateway is on the link of.
fn hop_needs(
    route: &StaticRoute<'_>,
    hop: &Hop<'_>,
    routes: &[StaticRoute<'_>],
    ports: &Ports,
) -> Result<Vec<Key>, PlanReason> {
    let mut needs = Vec::new();
    if let Some(name) = hop.interface {
        let port = ports.get(name).ok_or_else(|| PlanReason::Malformed {
            given: name.to_owned(),
            expected: "an interface or tunnel",
        })?;
        if port.vrf != route.vrf {
            return Err(PlanReason::OtherVrf {
                interface: name.to_owned(),
                actual: port.vrf.clone(),
                expected: route.vrf.clone(),
            });
        }
        needs.push(port.key.clone());
    }
    let Some(gateway) = hop.gateway else {
        return Ok(needs);
    };
    if gateway.is_ipv4() != route.destination.addr().is_ipv4() {
        return Err(PlanReason::OtherFamily {
            gateway: gateway.to_string(),
            destination: route.destination.to_string(),
        });
    }
    if is_link_local(gateway) {
        if hop.interface.is_none() {
            return Err(PlanReason::LinkLocalGateway {
                gateway: gateway.to_string(),
            });
        }
        return Ok(needs);
    }
    match connected(ports, &route.vrf, hop.interface, gateway) {
        Some((port, address)) => {
            needs.push(port.key.clone());
            needs.push(address_key(&port.name, address.prefix));
        }
        // A gateway on a named interface outside of its networks is taken to be on the link.
        None if hop.interface.is_some() => {}
        None => {
            // By way of another route; the dataplane resolves it when it is written.
            let reached = routes.iter().any(|other| {
                other.vrf == route.vrf
                    && other.destination != route.destination
                    && other.destination.contains(&gateway)
            });
            if !reached {
                return Err(PlanReason::Unreachable {
                    gateway: gateway.to_string(),
                    vrf: route.vrf.clone(),
                });
            }
        }
    }
    Ok(needs)
}
