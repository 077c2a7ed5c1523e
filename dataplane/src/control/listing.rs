//! Routes as workers see them: what each leads to, whether it is the one that counts, and what keeps it from leading
//! anywhere.
//!
//! ```text
//!   10.9.0.0/16   configured   active   203.0.113.2%wan 02:00:00:00:02:02   resolved
//!   10.8.0.0/16   configured   active   198.51.100.1                        no-route
//! ```
//!
//! A table may have a million routes: they are given in pages, in order. A page costs one look at each route of its VRF.

use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv6Addr};

use culvert_net::{IpPrefix, Ipv6Prefix, MacAddr};

use super::ControlPlane;
use super::adjacency::Key;
use super::rib::{Rib, covers};
use crate::tables::{ADJACENCY_LOCAL, AdjacencyKind, Tables};

/// Where a route is, and where the next page begins: behind it.
pub type RouteKey = (u32, IpPrefix);

/// Which routes are asked for.
#[derive(Clone, Debug, Default)]
pub struct RouteFilter {
    /// Of this VRF.
    pub vrf: Option<String>,
    /// Within this prefix.
    pub within: Option<IpPrefix>,
    /// The one by which this address is reached.
    pub towards: Option<IpAddr>,
}

/// Why a route is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// An address of the box.
    Local,
    /// A subnet of an interface.
    Connected,
    /// The configuration.
    Configured,
    /// Someone else wrote it into Linux.
    Learnt,
    /// A neighbour that has answered.
    Neighbour,
}

/// One reason for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its VRF.
    pub vrf: String,
    /// As it is written: without the mark of the link that a link-local one bears in the tables.
    pub destination: IpPrefix,
    /// Why it is there.
    pub source: RouteSource,
    /// Packets take it: no other reason for the same prefix stands above.
    pub active: bool,
    /// Where it leads; none: to the box.
    pub hops: Vec<RouteHop>,
}

/// One way of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteHop {
    /// Who takes the packets.
    pub gateway: Option<IpAddr>,
    /// By which they leave, as far as that is known.
    pub interface: Option<String>,
    /// In whose routes the way is looked for, where that is another VRF.
    pub vrf: Option<String>,
    /// Of the neighbour that takes them.
    pub mac: Option<MacAddr>,
    /// What becomes of packets now.
    pub state: &'static str,
}

/// Some routes in order, and where more of them begin.
#[derive(Clone, Debug, Default)]
pub struct RoutePage {
    /// Those of this page.
    pub routes: Vec<Route>,
    /// There are more behind this one.
    pub next: Option<RouteKey>,
}

impl ControlPlane {
    /// The routes of at most `most` prefixes behind `after`.
    pub fn routes(&self, filter: &RouteFilter, after: Option<RouteKey>, most: usize) -> RoutePage {
        let tables = self.publisher.current();
        let mut page = RoutePage::default();
        let mut room = most.max(1);
        let first = after.map_or(0, |(vrf, _)| vrf);
        for (index, rib) in self.ribs.range(first..) {
            let vrf = tables.vrfs.get(*index).map_or("", |vrf| &*vrf.name);
            if filter.vrf.as_deref().is_some_and(|wanted| wanted != vrf) {
                continue;
            }
            let behind = after.filter(|(vrf, _)| vrf == index).map(|key| key.1);
            let mut prefixes = select(rib, filter, behind, room + 1);
            let more = prefixes.len() > room;
            prefixes.truncate(room);
            room -= prefixes.len();
            for prefix in &prefixes {
                self.describe(&tables, vrf, rib, *prefix, &mut page.routes);
            }
            if let (true, Some(last)) = (more || room == 0, prefixes.last()) {
                page.next = Some((*index, *last));
                return page;
            }
        }
        page
    }

    fn describe(
        &self,
        tables: &Tables,
        vrf: &str,
        rib: &Rib,
        prefix: IpPrefix,
        routes: &mut Vec<Route>,
    ) {
        let Some(reasons) = rib.reasons(prefix) else {
            return;
        };
        let installed = rib.installed(prefix);
        let local = (reasons.local > 0).then_some(ADJACENCY_LOCAL);
        let all = local
            .into_iter()
            .map(|way| (RouteSource::Local, way))
            .chain(
                reasons
                    .connected
                    .iter()
                    .map(|way| (RouteSource::Connected, *way)),
            )
            .chain(reasons.configured.map(|way| (RouteSource::Configured, way)))
            .chain(reasons.learnt.map(|way| (RouteSource::Learnt, way)))
            .chain(reasons.host.map(|way| (RouteSource::Neighbour, way)));
        let mut found = false;
        for (source, adjacency) in all {
            let active = !found && installed == Some(adjacency);
            found |= active;
            let mut hops = Vec::new();
            self.hops(tables, vrf, adjacency, &mut hops);
            routes.push(Route {
                vrf: vrf.to_owned(),
                destination: written(prefix),
                source,
                active,
                hops,
            });
        }
    }

    fn hops(&self, tables: &Tables, vrf: &str, adjacency: u32, hops: &mut Vec<RouteHop>) {
        let name = |index: u32| {
            let found = tables.vrfs.get(index).map(|vrf| vrf.name.to_string());
            found.filter(|name| name != vrf)
        };
        let (gateway, other) = match self.adjacencies.key(adjacency) {
            None => return,
            Some(Key::Multipath(members)) => {
                for member in members {
                    self.hops(tables, vrf, *member, hops);
                }
                return;
            }
            Some(Key::Link(_) | Key::Drop(_)) => (None, None),
            Some(Key::Neighbour(_, gateway)) => (Some(*gateway), None),
            Some(Key::Gateway(other, gateway)) => (Some(*gateway), name(*other)),
            Some(Key::Lookup(other)) => (None, name(*other)),
        };
        let content = tables.adjacencies.get(adjacency);
        let index = content.map_or(0, |content| content.interface);
        let interface = tables.interfaces.get(index);
        let down = interface.is_some_and(|interface| !interface.admin_up);
        let (mac, state) = match content.map(|content| &content.kind) {
            None => (None, "unknown"),
            Some(AdjacencyKind::Drop(reason)) => (None, reason.name()),
            Some(_) if down => (None, "interface-down"),
            Some(AdjacencyKind::Rewrite(header)) => (
                header.first_chunk().map(|octets| MacAddr(*octets)),
                "resolved",
            ),
            Some(AdjacencyKind::Unresolved(_)) => (None, "unresolved"),
            Some(AdjacencyKind::Glean | AdjacencyKind::Multicast) => (None, "on-link"),
            Some(AdjacencyKind::Tunnel | AdjacencyKind::Encapsulation) => (None, "tunnel"),
            Some(AdjacencyKind::Lookup(_)) => (None, "lookup"),
            Some(AdjacencyKind::Multipath(_)) => (None, "spread"),
            Some(AdjacencyKind::Local) => (None, "local"),
        };
        // A route holds on to the name of an interface that is gone.
        let gone = || {
            let mut names = self.names.iter().filter(|_| index != 0);
            let (name, _) = names.find(|(_, known)| **known == index)?;
            Some(name.clone())
        };
        hops.push(RouteHop {
            gateway,
            interface: interface
                .map(|interface| interface.name.to_string())
                .or_else(gone),
            vrf: other,
            mac,
            state,
        });
    }
}

/// At most `most` prefixes, the lowest, in order.
fn select(rib: &Rib, filter: &RouteFilter, behind: Option<IpPrefix>, most: usize) -> Vec<IpPrefix> {
    let wanted = |prefix: IpPrefix| {
        behind.is_none_or(|behind| prefix > behind)
            && filter
                .within
                .is_none_or(|within| covers(within, written(prefix)))
    };
    if let Some(address) = filter.towards {
        return rib
            .longest(address)
            .filter(|prefix| wanted(*prefix))
            .into_iter()
            .collect();
    }
    let mut lowest = BinaryHeap::new();
    for prefix in rib.prefixes() {
        let full = lowest.len() == most;
        if full && lowest.peek().is_some_and(|highest| prefix > *highest) || !wanted(prefix) {
            continue;
        }
        if full {
            lowest.pop();
        }
        lowest.push(prefix);
    }
    lowest.into_sorted_vec()
}

/// Without the index of the link that stands in link-local prefixes (`scoped`).
fn written(prefix: IpPrefix) -> IpPrefix {
    const LINK: u128 = (u32::MAX as u128) << 80;
    match prefix {
        IpPrefix::V6(scoped) if scoped.address().is_unicast_link_local() => {
            let address = Ipv6Addr::from_bits(scoped.address().to_bits() & !LINK);
            Ipv6Prefix::covering(address, scoped.length()).map_or(prefix, IpPrefix::V6)
        }
        other => other,
    }
}
