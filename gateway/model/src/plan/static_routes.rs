//! The static routes of a configuration, their texts parsed, and where they lead.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::ports::{Port, PortAddress, Ports, default_vrf};
use super::{PlanReason, Planner};
use crate::bus;
use crate::config::{NextHop, Route, RouteAction};
use crate::decode::path;

/// A static route, its texts parsed.
#[derive(Debug)]
pub(super) struct StaticRoute {
    pub(super) vrf: String,
    pub(super) destination: IpNet,
    pub(super) hops: Vec<Hop>,
    pub(super) action: bus::route::Action,
    /// Its path in the configuration.
    pub(super) origin: String,
}

/// A next hop, its texts parsed.
#[derive(Debug)]
pub(super) struct Hop {
    /// Its path in the configuration.
    pub(super) origin: String,
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<String>,
    /// In which gateway and interface are.
    pub(super) vrf: String,
}

impl Hop {
    /// The destination is looked up in the VRF of the hop.
    pub(super) fn is_lookup(&self) -> bool {
        self.gateway.is_none() && self.interface.is_none()
    }
}

impl StaticRoute {
    /// One whose texts can be parsed; another is refused.
    pub(super) fn read(route: &Route, planner: &mut Planner) -> Option<Self> {
        let vrf = route.vrf.clone().unwrap_or_else(default_vrf);
        let Ok(destination) = route.destination().parse::<IpNet>() else {
            let given = route.destination().to_owned();
            let at = path::item("routes", &[&vrf, &given], 0);
            let expected = "a network";
            planner.refuse(at, PlanReason::Malformed { given, expected });
            return None;
        };
        let destination = destination.trunc();
        let origin = path::item("routes", &[&vrf, &destination.to_string()], 0);
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
        Some(Self {
            vrf,
            destination,
            hops,
            action,
            origin,
        })
    }
}

fn hop(next_hop: &NextHop, vrf: &str, route: &str, planner: &mut Planner) -> Option<Hop> {
    let texts = next_hop.gateway.iter().chain(&next_hop.interface);
    let keys: Vec<&str> = texts.chain(&next_hop.vrf).map(String::as_str).collect();
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
        interface: next_hop.interface.clone(),
        vrf: next_hop.vrf.clone().unwrap_or_else(|| vrf.to_owned()),
    };
    if hop.is_lookup() && hop.vrf == vrf {
        planner.refuse(hop.origin, PlanReason::LeadsNowhere);
        return None;
    }
    Some(hop)
}

/// The static routes of a configuration, found by what they lead to.
#[derive(Debug, Default)]
pub(super) struct StaticRoutes {
    pub(super) all: Vec<Arc<StaticRoute>>,
    /// VRF, and network to the place in `all`.
    by_network: HashMap<String, HashMap<IpNet, usize>>,
}

impl StaticRoutes {
    pub(super) fn of(all: Vec<Arc<StaticRoute>>) -> Self {
        let mut by_network: HashMap<String, HashMap<IpNet, usize>> = HashMap::new();
        for (place, route) in all.iter().enumerate() {
            if !by_network.contains_key(&route.vrf) {
                by_network.insert(route.vrf.clone(), HashMap::with_capacity(all.len()));
            }
            if let Some(networks) = by_network.get_mut(&route.vrf) {
                networks.insert(route.destination, place);
            }
        }
        Self { all, by_network }
    }

    /// The place of the longest route of a VRF that leads to `target`, other than `except`.
    pub(super) fn longest(
        &self,
        vrf: &str,
        target: IpAddr,
        except: Option<IpNet>,
    ) -> Option<usize> {
        let networks = self.by_network.get(vrf)?;
        let bits = if target.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .rev()
            .filter_map(|length| IpNet::new(target, length).ok())
            .map(|prefix| prefix.trunc())
            .filter(|network| Some(*network) != except)
            .find_map(|network| networks.get(&network).copied())
    }
}

/// Where packets go: by links and static routes.
pub(super) struct Ways<'a> {
    pub(super) ports: &'a Ports,
    routes: &'a StaticRoutes,
    /// Whether anything depended on what static routes there are, since this was last taken.
    asked: Cell<bool>,
}

impl<'a> Ways<'a> {
    pub(super) fn new(ports: &'a Ports, routes: &'a StaticRoutes) -> Self {
        let asked = Cell::new(false);
        Self {
            ports,
            routes,
            asked,
        }
    }

    /// The address of a VRF's ports by which `target` is on the link: the longest network that holds it.
    pub(super) fn connected(
        &self,
        vrf: &str,
        interface: Option<&str>,
        target: IpAddr,
    ) -> Option<(&'a Port, &'a PortAddress)> {
        self.ports.connected(vrf, interface, target)
    }

    /// The longest static route of a VRF that leads to `target`, other than `except`.
    pub(super) fn longest(
        &self,
        vrf: &str,
        target: IpAddr,
        except: Option<IpNet>,
    ) -> Option<&'a StaticRoute> {
        self.asked.set(true);
        let place = self.routes.longest(vrf, target, except)?;
        self.routes.all.get(place).map(AsRef::as_ref)
    }

    /// Whether [`Ways::longest`] was asked since the last time.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.take()
    }
}
