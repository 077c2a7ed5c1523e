//! What the dataplane holds: VRFs, interfaces, tunnels, addresses, routes, and leave to forward.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::ip_tunnels;
use super::ports::{Ports, connected, default_vrf, is_link_local};
use super::{Key, Part, PlanReason, Planner, vlan};
use crate::bus::{self, value::Kind};
use crate::config::{
    Config, DontFragment, Driver, Ecn, FlowLabel, Fragmentation, NextHop, OuterHeader, PathMtu,
    ReversePath, Route, RouteAction,
};
use crate::decode::path;

/// Of outer headers: that of the packet inside.
const DSCP_COPY: &str = "copy";
/// Of outer headers that name none.
const DEFAULT_HOP_LIMIT: u32 = 64;
/// Of an Ethernet interface that names none.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Plans all values of the dataplane but `forwarding`.
pub(super) fn plan(
    config: &Config,
    ports: &Ports,
    routes: &StaticRoutes<'_>,
    planner: &mut Planner,
) {
    plan_vrfs(config, planner);
    plan_interfaces(config, ports, planner);
    plan_loopbacks(config, ports, planner);
    let mut if_ids = plan_tunnels(config, ports, planner);
    ip_tunnels::plan(config, ports, &mut if_ids, planner);
    plan_addresses(ports, planner);
    plan_routes(ports, routes, planner);
    plan_reassembly(config, planner);
    plan_icmp_errors(config, planner);
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

/// Without any, the dataplane's own limits hold, which are the defaults of the configuration.
fn plan_reassembly(config: &Config, planner: &mut Planner) {
    let Some(limits) = &config.reassembly else {
        return;
    };
    let kind = Kind::Reassembly(bus::Reassembly {
        packets: limits.packets.unwrap_or(1024),
        fragments: limits.fragments.unwrap_or(4096),
        timeout_ms: limits.timeout.unwrap_or(30) * 1000,
        timeout6_ms: limits.timeout.unwrap_or(60) * 1000,
    });
    planner.add(Key::from("reassembly"), kind, Part::Dataplane, "reassembly");
}

fn plan_icmp_errors(config: &Config, planner: &mut Planner) {
    let Some(limits) = &config.icmp_errors else {
        return;
    };
    let kind = Kind::IcmpErrors(bus::IcmpErrors {
        rate: limits.rate.unwrap_or(1000),
        burst: limits.burst.unwrap_or(50),
    });
    planner.add(
        Key::from("icmp-errors"),
        kind,
        Part::Dataplane,
        "icmp_errors",
    );
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

pub(super) fn vrf_key(name: &str) -> Key {
    Key(format!("vrf/{name}"))
}

/// As the bus says it: absent never, 0 what fits the MTU.
pub(super) fn mss_clamp(clamp: bool, mss: Option<u32>) -> Option<u32> {
    clamp.then(|| mss.unwrap_or(0))
}

pub(super) fn reverse_path(configured: ReversePath) -> bus::ReversePath {
    match configured {
        ReversePath::Unspecified | ReversePath::Off => bus::ReversePath::Off,
        ReversePath::Loose => bus::ReversePath::Loose,
        ReversePath::Strict => bus::ReversePath::Strict,
    }
}

pub(super) fn outer_header(
    outer: &OuterHeader,
    origin: &str,
    planner: &mut Planner,
) -> bus::OuterHeader {
    use bus::outer_header as on_bus;
    let dscp = outer.dscp.as_deref().unwrap_or(DSCP_COPY);
    let code_point = code_point(dscp);
    if code_point.is_none() && dscp != DSCP_COPY {
        planner.refuse(
            path::field(origin, "dscp"),
            PlanReason::Malformed {
                given: dscp.to_owned(),
                expected: "copy, clear, a name such as ef, cs5 or af41, or a number up to 63",
            },
        );
    }
    bus::OuterHeader {
        dscp: code_point,
        dscp_inward: outer.dscp_inward(),
        no_ecn: outer.ecn() == Ecn::Compatibility,
        dont_fragment: match outer.dont_fragment() {
            DontFragment::Unspecified | DontFragment::Copy => on_bus::DontFragment::Copy,
            DontFragment::Set => on_bus::DontFragment::Set,
            DontFragment::Clear => on_bus::DontFragment::Clear,
        }
        .into(),
        hop_limit: outer.hop_limit.unwrap_or(DEFAULT_HOP_LIMIT),
        flow_label: match outer.flow_label() {
            FlowLabel::Unspecified | FlowLabel::Zero => on_bus::FlowLabel::Zero,
            FlowLabel::Copy => on_bus::FlowLabel::Copy,
            FlowLabel::Hash => on_bus::FlowLabel::Hash,
        }
        .into(),
    }
}

/// A DSCP by its name (RFC 2474, 2597, 3246) or number; `None` for `copy` and what is none.
fn code_point(text: &str) -> Option<u32> {
    let digit = |at: usize| text.chars().nth(at).and_then(|digit| digit.to_digit(10));
    let known = match text {
        "clear" | "be" => 0,
        "ef" => 46,
        _ if text.starts_with("cs") && text.len() == 3 => digit(2)? * 8,
        _ if text.starts_with("af") && text.len() == 4 => digit(2)? * 8 + digit(3)? * 2,
        _ => text.parse().ok()?,
    };
    (known < 64).then_some(known)
}

fn plan_interfaces(config: &Config, ports: &Ports, planner: &mut Planner) {
    let mut devices: HashMap<String, String> = HashMap::new();
    for interface in &config.interfaces {
        let Some(port) = ports.get(interface.name()) else {
            continue;
        };
        let device = vlan::device(config, interface).to_owned();
        if interface.parent.is_none()
            && let Some(other) = devices.insert(device.clone(), port.origin.clone())
        {
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
            mtu: vlan::mtu(config, interface),
            admin_up: interface.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(interface.mss_clamp.unwrap_or(false), interface.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
            reverse_path: reverse_path(interface.reverse_path()).into(),
            driver: match interface.driver() {
                Driver::Unspecified => bus::interface::Driver::Default,
                Driver::AfPacket => bus::interface::Driver::AfPacket,
                Driver::AfXdp => bus::interface::Driver::AfXdp,
            }
            .into(),
            parent: interface.parent.clone().unwrap_or_default(),
            vlan: interface.vlan.unwrap_or(0),
            outer_vlan: interface.outer_vlan.unwrap_or(0),
        });
        let mut needs = vec![vrf_key(&port.vrf)];
        if let Some(parent) = interface.parent.as_deref().and_then(|name| ports.get(name)) {
            needs.push(parent.key.clone());
        }
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = needs;
    }
}

fn plan_loopbacks(config: &Config, ports: &Ports, planner: &mut Planner) {
    for loopback in &config.loopbacks {
        let Some(port) = ports
            .get(loopback.name())
            .filter(|port| port.key.as_str().starts_with("loopback/"))
        else {
            continue;
        };
        let kind = Kind::Loopback(bus::Loopback {
            name: port.name.clone(),
            vrf: port.vrf.clone(),
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

/// Gives who has which `if_id`.
fn plan_tunnels(config: &Config, ports: &Ports, planner: &mut Planner) -> HashMap<u32, String> {
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
            fragment_after: tunnel.fragmentation() == Fragmentation::After,
            ignore_path_mtu: tunnel.path_mtu() == PathMtu::Ignore,
            admin_up: tunnel.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(tunnel.mss_clamp.unwrap_or(true), tunnel.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
            reverse_path: reverse_path(tunnel.reverse_path()).into(),
            outer_header: tunnel.outer_header.as_ref().map(|outer| {
                outer_header(outer, &path::field(&port.origin, "outer_header"), planner)
            }),
        });
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = needs;
    }
    if_ids
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
                obtained: false,
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
    action: bus::route::Action,
    pub(super) origin: String,
}

/// A next hop, its texts parsed.
pub(super) struct Hop<'a> {
    /// Its path in the configuration.
    origin: String,
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<&'a str>,
    /// In which gateway and interface are.
    pub(super) vrf: String,
}

impl Hop<'_> {
    /// The destination is looked up in the VRF of the hop.
    pub(super) fn is_lookup(&self) -> bool {
        self.gateway.is_none() && self.interface.is_none()
    }
}

/// The static routes of a configuration, found by what they lead to.
pub(super) struct StaticRoutes<'a> {
    pub(super) all: Vec<StaticRoute<'a>>,
    /// VRF, length and network to the place in `all`.
    by_network: HashMap<String, HashMap<IpNet, usize>>,
}

impl<'a> StaticRoutes<'a> {
    /// Those whose texts can be parsed; the others are refused.
    pub(super) fn read(config: &'a Config, planner: &mut Planner) -> Self {
        let all: Vec<StaticRoute<'a>> = config
            .routes
            .iter()
            .filter_map(|route| static_route(route, planner))
            .collect();
        let mut by_network: HashMap<String, HashMap<IpNet, usize>> = HashMap::new();
        for (place, route) in all.iter().enumerate() {
            let networks = by_network.entry(route.vrf.clone()).or_default();
            networks.insert(route.destination, place);
        }
        Self { all, by_network }
    }

    /// The longest route of a VRF that leads to `target`, other than `except`.
    pub(super) fn longest(
        &self,
        vrf: &str,
        target: IpAddr,
        except: Option<IpNet>,
    ) -> Option<&StaticRoute<'a>> {
        let networks = self.by_network.get(vrf)?;
        let bits = if target.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .rev()
            .filter_map(|length| IpNet::new(target, length).ok())
            .map(|prefix| prefix.trunc())
            .filter(|network| Some(*network) != except)
            .find_map(|network| self.all.get(*networks.get(&network)?))
    }
}

fn static_route<'a>(route: &'a Route, planner: &mut Planner) -> Option<StaticRoute<'a>> {
    let vrf = route.vrf.clone().unwrap_or_else(default_vrf);
    let Ok(destination) = route.destination().parse::<IpNet>() else {
        let given = route.destination().to_owned();
        let at = path::item("routes", &[vrf, given.clone()], 0);
        let expected = "a network";
        planner.refuse(at, PlanReason::Malformed { given, expected });
        return None;
    };
    let destination = destination.trunc();
    let origin = path::item("routes", &[vrf.clone(), destination.to_string()], 0);
    let mut hops = Vec::with_capacity(route.next_hops.len());
    for next_hop in &route.next_hops {
        hops.push(hop(next_hop, &vrf, &origin, planner)?);
    }
    let action = match route.action() {
        RouteAction::Unspecified | RouteAction::Forward => bus::route::Action::Forward,
        RouteAction::Blackhole => bus::route::Action::Blackhole,
        RouteAction::Unreachable => bus::route::Action::Unreachable,
        RouteAction::Prohibit => bus::route::Action::Prohibit,
    };
    let wrong = match (action, hops.is_empty()) {
        (bus::route::Action::Forward, true) => Some(PlanReason::NoNextHop),
        (bus::route::Action::Forward, false) | (_, true) => None,
        (_, false) => Some(PlanReason::IdleNextHops),
    };
    if let Some(reason) = wrong {
        planner.refuse(path::field(&origin, "next_hops"), reason);
        return None;
    }
    Some(StaticRoute {
        vrf,
        destination,
        hops,
        action,
        origin,
    })
}

fn hop<'a>(
    next_hop: &'a NextHop,
    vrf: &str,
    route: &str,
    planner: &mut Planner,
) -> Option<Hop<'a>> {
    let texts = next_hop.gateway.iter().chain(&next_hop.interface);
    let keys: Vec<String> = texts.chain(&next_hop.vrf).cloned().collect();
    let origin = path::item(&path::field(route, "next_hops"), &keys, 0);
    let gateway = match &next_hop.gateway {
        None => None,
        Some(text) => {
            let Ok(gateway) = text.parse::<IpAddr>() else {
                let (given, expected) = (text.clone(), "an address");
                planner.refuse(origin, PlanReason::Malformed { given, expected });
                return None;
            };
            Some(gateway)
        }
    };
    let hop = Hop {
        origin,
        gateway,
        interface: next_hop.interface.as_deref(),
        vrf: next_hop.vrf.clone().unwrap_or_else(|| vrf.to_owned()),
    };
    if hop.is_lookup() && hop.vrf == vrf {
        planner.refuse(hop.origin, PlanReason::LeadsNowhere);
        return None;
    }
    Some(hop)
}

fn plan_routes(ports: &Ports, routes: &StaticRoutes<'_>, planner: &mut Planner) {
    let mut on_link: HashMap<(&str, IpNet), &str> = HashMap::new();
    for port in ports.values() {
        for address in &port.addresses {
            on_link.insert((&port.vrf, address.prefix.trunc()), &port.name);
        }
    }
    for route in &routes.all {
        let connected_by = on_link.get(&(route.vrf.as_str(), route.destination));
        if let Some(interface) = connected_by {
            planner.refuse(
                path::field(&route.origin, "destination"),
                PlanReason::Connected {
                    network: route.destination.to_string(),
                    interface: (*interface).to_owned(),
                },
            );
        }
        let mut needs = vec![vrf_key(&route.vrf)];
        for hop in &route.hops {
            match hop_needs(route, hop, routes, ports) {
                Ok(keys) => needs.extend(keys),
                Err(reason) => planner.refuse(&*hop.origin, reason),
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
                    vrf: if hop.vrf == route.vrf {
                        String::new()
                    } else {
                        hop.vrf.clone()
                    },
                })
                .collect(),
            action: route.action.into(),
            learnt: false,
        });
        let key = Key(format!("route/{}/{}", route.vrf, route.destination));
        planner.add(key, kind, Part::Dataplane, &route.origin).needs = needs;
    }
}

/// What a next hop needs to be there: its interface, and the address its gateway is on the link of.
fn hop_needs(
    route: &StaticRoute<'_>,
    hop: &Hop<'_>,
    routes: &StaticRoutes<'_>,
    ports: &Ports,
) -> Result<Vec<Key>, PlanReason> {
    let mut needs = vec![vrf_key(&hop.vrf)];
    if let Some(name) = hop.interface {
        let port = ports
            .get(name)
            .filter(|port| !port.key.as_str().starts_with("loopback/"))
            .ok_or_else(|| PlanReason::Malformed {
                given: name.to_owned(),
                expected: "an interface or tunnel",
            })?;
        if port.vrf != hop.vrf {
            return Err(PlanReason::OtherVrf {
                interface: name.to_owned(),
                actual: port.vrf.clone(),
                expected: hop.vrf.clone(),
            });
        }
        let has_neighbours = port.key.as_str().starts_with("interface/");
        if hop.vrf != route.vrf && hop.gateway.is_none() && has_neighbours {
            return Err(PlanReason::LeakWithoutGateway {
                interface: name.to_owned(),
                vrf: hop.vrf.clone(),
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
    match connected(ports, &hop.vrf, hop.interface, gateway) {
        Some((port, address)) => {
            needs.push(port.key.clone());
            needs.push(address_key(&port.name, address.prefix));
        }
        // A gateway on a named interface outside of its networks is taken to be on the link.
        None if hop.interface.is_some() => {}
        None => {
            // By way of another route; the dataplane resolves it when it is written.
            let itself = (hop.vrf == route.vrf).then_some(route.destination);
            if routes.longest(&hop.vrf, gateway, itself).is_none() {
                return Err(PlanReason::Unreachable {
                    gateway: gateway.to_string(),
                    vrf: hop.vrf.clone(),
                });
            }
        }
    }
    Ok(needs)
}
