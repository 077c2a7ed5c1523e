//! Who leads where: what is configured, what was learnt, and what older leases have brought.

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::keys::interface_key;
use culvert_model::plan::{Key, Plan};
use culvert_model::types;
use ipnet::IpNet;

/// The shortest prefix of a link where all else goes into a tunnel.
const SMALL: u8 = 16;

/// Routes by where they lead, addresses by the networks that they are on.
pub struct Ways<'a> {
    configured: &'a Plan,
    /// By VRF and destination, the first to lead there; but for default routes.
    routes: HashMap<(&'a str, IpNet), Way>,
    defaults: Vec<DefaultRoute<'a>>,
    links: Vec<Link<'a>>,
}

struct Way {
    key: Key,
    configured: bool,
}

struct DefaultRoute<'a> {
    key: Key,
    vrf: &'a str,
    /// Everything of one family.
    destination: IpNet,
    /// None: it is of a lease.
    route: Option<&'a bus::Route>,
}

/// The network that an address is on.
struct Link<'a> {
    key: Key,
    interface: &'a str,
    network: IpNet,
}

impl<'a> Ways<'a> {
    /// Of what comes before all leases.
    pub fn new(configured: &'a Plan, learnt: &'a Plan) -> Self {
        let mut ways = Self {
            configured,
            routes: HashMap::new(),
            defaults: Vec::new(),
            links: Vec::new(),
        };
        for (key, planned) in configured.iter().chain(learnt) {
            match &planned.value.kind {
                Some(Kind::Route(route)) => ways.add_planned_route(key, route),
                Some(Kind::Address(address)) => {
                    if let Some(network) = network_of(address.address.as_ref()) {
                        ways.add_link(key.clone(), &address.interface, network);
                    }
                }
                _ => {}
            }
        }
        ways
    }

    fn add_planned_route(&mut self, key: &Key, route: &'a bus::Route) {
        let Some(destination) = network_of(route.destination.as_ref()) else {
            return;
        };
        let key = key.clone();
        if destination.prefix_len() == 0 {
            self.defaults.push(DefaultRoute {
                key,
                vrf: &route.vrf,
                destination,
                route: Some(route),
            });
        } else {
            let configured = !route.learnt;
            let way = self.routes.entry((&route.vrf, destination));
            way.or_insert(Way { key, configured });
        }
    }

    /// A route of a lease.
    pub fn add_route(&mut self, key: Key, vrf: &'a str, destination: IpNet) {
        if destination.prefix_len() == 0 {
            self.defaults.push(DefaultRoute {
                key,
                vrf,
                destination,
                route: None,
            });
        } else {
            let configured = false;
            let way = self.routes.entry((vrf, destination));
            way.or_insert(Way { key, configured });
        }
    }

    /// An address on this network.
    pub fn add_link(&mut self, key: Key, interface: &'a str, network: IpNet) {
        self.links.push(Link {
            key,
            interface,
            network,
        });
    }

    /// Another interface whose network this address is on, or a configured route of the VRF that leads to it. One that
    /// leads everywhere does not count: it has the links beside it.
    pub fn to_address(&self, interface: &str, vrf: &'a str, address: IpAddr) -> Option<&Key> {
        let others = self.links_of_others(interface);
        let links = others
            .filter(|link| link.network.contains(&address))
            .map(|link| &link.key);
        let host = IpNet::from(address);
        let ways = self.covering(vrf, host).filter(|way| way.configured);
        links.chain(ways.map(|way| &way.key)).next()
    }

    /// Who leads to all of this network already, which is on the link of this interface or behind a gateway there.
    pub fn to_network(
        &self,
        interface: &str,
        vrf: &'a str,
        network: IpNet,
        on_link: bool,
    ) -> Option<&Key> {
        let ways = self.covering(vrf, network).map(|way| &way.key);
        let defaults = self.defaults.iter().filter(|default| {
            default.vrf == vrf
                && default.destination.contains(&network)
                && match default.route {
                    _ if network.prefix_len() == 0 => true,
                    // Beside a way out there are links.
                    Some(route) if on_link => network.prefix_len() < SMALL && self.protects(route),
                    Some(_) => true,
                    None => false,
                }
        });
        let links = self.links_of_others(interface).filter(|link| {
            network.prefix_len() > 0
                && (link.network.contains(&network)
                    // A part of that link would be lost.
                    || (on_link && link.network.prefix_len() < 32 && network.contains(&link.network)))
        });
        ways.chain(defaults.map(|default| &default.key))
            .chain(links.map(|link| &link.key))
            .next()
    }

    fn links_of_others(&self, interface: &str) -> impl Iterator<Item = &Link<'a>> {
        let links = self.links.iter();
        links.filter(move |link| link.interface != interface)
    }

    /// The routes of a VRF that have all of this network in them, the longest first; default routes are none of them.
    fn covering(&self, vrf: &'a str, network: IpNet) -> impl Iterator<Item = &Way> {
        (1..=network.prefix_len()).rev().filter_map(move |length| {
            let destination = IpNet::new(network.addr(), length).ok()?.trunc();
            self.routes.get(&(vrf, destination))
        })
    }

    /// Whether packets by this route do not all leave by an Ethernet interface as they are. What a lease says does not
    /// count: it would judge itself.
    fn protects(&self, route: &bus::Route) -> bool {
        let is_ethernet = |name: &str| self.configured.contains_key(&interface_key(name));
        let of_ethernet = |gateway: IpAddr| {
            let mut links = self.links.iter();
            links.any(|link| {
                self.configured.contains_key(&link.key)
                    && is_ethernet(link.interface)
                    && link.network.contains(&gateway)
            })
        };
        let leaves = |hop: &bus::NextHop| match hop.gateway.as_ref().map(IpAddr::try_from) {
            _ if is_ethernet(&hop.interface) => true,
            Some(Ok(gateway)) if hop.interface.is_empty() => of_ethernet(gateway),
            _ => false,
        };
        route.next_hops.is_empty() || !route.next_hops.iter().all(leaves)
    }
}

/// Of a prefix on the bus, without its host bits.
pub fn network_of(prefix: Option<&types::IpPrefix>) -> Option<IpNet> {
    Some(IpNet::try_from(prefix?).ok()?.trunc())
}
