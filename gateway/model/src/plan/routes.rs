//! Static routes: a value in the dataplane each and, where Linux shall know of them, one in Linux.
//!
//! A configuration may have many thousands, and a change is mostly one of something else. What depends on nothing that
//! changed is taken over from the plan before.
//!
//! ```text
//!   the same route ---+
//!   the same ports ---+--> its values of before       anything else --> planned anew
//!   no other route's  |
//!   business ---------+
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::network::vrf_key;
use super::ports::{Ports, is_link_local};
use super::static_routes::{Hop, StaticRoute, StaticRoutes, Ways};
use super::{Before, Entry, Key, Part, PlanReason, Planned, Planner, linux, unchanged};
use crate::bus::{self, value::Kind};
use crate::config::{Config, Route};
use crate::decode::path;

/// All static routes, with their values.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) known: StaticRoutes,
    /// Of each route, in the same order.
    values: Vec<Values>,
    /// They are those of the plan before, and so are the ports.
    pub(super) as_before: bool,
}

/// What one route comes to.
#[derive(Debug, Clone)]
struct Values {
    /// Other routes have a say in it.
    depends: bool,
    dataplane: Entry,
    linux: Option<Entry>,
}

impl Routes {
    /// The key of the route of Linux by which `target` is reached, if there is one.
    pub(super) fn linux_key(&self, vrf: &str, target: IpAddr) -> Option<Key> {
        let place = self.known.longest(vrf, target, None)?;
        let (key, _) = self.values.get(place)?.linux.as_ref()?;
        Some(key.clone())
    }
}

fn name(route: &Route) -> (Option<&str>, Option<&str>) {
    (route.vrf.as_deref(), route.destination.as_deref())
}

/// Plans the routes of the dataplane, and those of Linux in the VRF `underlay`.
pub(super) fn plan(
    config: &Config,
    ports: &Ports,
    underlay: &str,
    before: Option<Before<'_>>,
    planner: &mut Planner,
) -> Routes {
    let old = before.map_or(&[][..], |before| &before.config.routes);
    let same: Vec<Option<usize>> = unchanged(old, &config.routes, name).collect();
    let read = |(route, same): (&Route, &Option<usize>)| {
        let known = before
            .zip(*same)
            .and_then(|(before, place)| before.kept.routes.known.all.get(place));
        match known {
            Some(known) => Some(Arc::clone(known)),
            None => StaticRoute::read(route, planner).map(Arc::new),
        }
    };
    let known = StaticRoutes::of(config.routes.iter().zip(&same).filter_map(read).collect());
    let complete = known.all.len() == config.routes.len();
    // Values of before count where their surroundings are those of before.
    let kept = before.filter(|before| {
        complete && before.kept.ports == *ports && before.kept.underlay == underlay
    });
    let as_before = kept.is_some() && old.len() == same.len() && same.iter().all(Option::is_some);
    let connected = connected_networks(ports);
    let ways = Ways::new(ports, &known);
    let mut values = Vec::with_capacity(known.all.len());
    let same = same.into_iter().chain(std::iter::repeat(None));
    for (route, same) in known.all.iter().zip(same) {
        let taken_over = kept
            .zip(same)
            .and_then(|(before, place)| before.kept.routes.values.get(place))
            .filter(|values| as_before || !values.depends);
        let own = match taken_over {
            Some(values) => values.clone(),
            None => {
                if let Some(interface) = connected.get(&(route.vrf.as_str(), route.destination)) {
                    planner.refuse(
                        path::field(&route.origin, "destination"),
                        PlanReason::Connected {
                            network: route.destination.to_string(),
                            interface: (*interface).to_owned(),
                        },
                    );
                }
                plan_route(route, underlay, &ways, planner)
            }
        };
        values.push(own);
    }
    // Each kind for itself: both are sorted then, and a plan is soon made of them.
    for own in &values {
        planner.share(&own.dataplane);
    }
    for linux in values.iter().filter_map(|own| own.linux.as_ref()) {
        planner.share(linux);
    }
    Routes {
        known,
        values,
        as_before,
    }
}

/// The networks of links, each with the interface that is on it.
fn connected_networks(ports: &Ports) -> HashMap<(&str, IpNet), &str> {
    let networks = ports.values().flat_map(|port| {
        let addresses = port.addresses.iter();
        addresses.map(|address| {
            let network = (port.vrf.as_str(), address.prefix.trunc());
            (network, port.name.as_str())
        })
    });
    networks.collect()
}

fn plan_route(
    route: &StaticRoute,
    underlay: &str,
    ways: &Ways<'_>,
    planner: &mut Planner,
) -> Values {
    ways.take_asked();
    let mut needs = vec![vrf_key(&route.vrf)];
    for hop in &route.hops {
        if let Err(reason) = add_needs(route, hop, ways, &mut needs) {
            planner.refuse(&*hop.origin, reason);
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
                interface: hop.interface.clone().unwrap_or_default(),
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
    let own = Planned {
        needs,
        ..Planned::new(kind, Part::Dataplane, &route.origin)
    };
    let key = Key::from(format!("route/{}/{}", route.vrf, route.destination));
    let linux = if route.vrf == underlay {
        linux::route(route, ways)
    } else {
        None
    };
    Values {
        dataplane: (key, Arc::new(own)),
        linux: linux.map(|(key, own)| (key, Arc::new(own))),
        depends: ways.take_asked(),
    }
}

/// What a next hop needs to be there: its interface, and the address its gateway is on the link of.
fn add_needs(
    route: &StaticRoute,
    hop: &Hop,
    ways: &Ways<'_>,
    needs: &mut Vec<Key>,
) -> Result<(), PlanReason> {
    if hop.vrf != route.vrf {
        needs.push(vrf_key(&hop.vrf));
    }
    if let Some(name) = &hop.interface {
        let port = ways
            .ports
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
        return Ok(());
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
        return Ok(());
    }
    match ways.connected(&hop.vrf, hop.interface.as_deref(), gateway) {
        Some((port, address)) => {
            needs.push(port.key.clone());
            needs.push(address.key.clone());
        }
        // A gateway on a named interface outside of its networks is taken to be on the link.
        None if hop.interface.is_some() => {}
        None => {
            // By way of another route; the dataplane resolves it when it is written.
            let itself = (hop.vrf == route.vrf).then_some(route.destination);
            if ways.longest(&hop.vrf, gateway, itself).is_none() {
                return Err(PlanReason::Unreachable {
                    gateway: gateway.to_string(),
                    vrf: hop.vrf.clone(),
                });
            }
        }
    }
    Ok(())
}
