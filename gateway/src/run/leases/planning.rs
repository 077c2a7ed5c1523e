//! From leases to values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::keys::{
    RESOLVER, address_key, dhcp_client_key, interface_key, link_key, linux_address_key,
    linux_route_key,
};
use culvert_model::plan::{Key, Part, Plan, Planned};
use ipnet::IpNet;

use super::ORIGIN;
use super::ways::{Ways, network_of};

/// Name servers of all leases together; a resolver asks no more (resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// A lease that is not used, as somebody has its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub network: IpNet,
    pub by: Key,
}

/// The values of these leases, the first of which comes first, and those that are not used, by their interfaces.
pub fn plan<'a>(
    leases: impl Iterator<Item = (&'a str, &'a bus::DhcpLease)>,
    configured: &'a Plan,
    learnt: &'a Plan,
) -> (Plan, BTreeMap<String, Refusal>) {
    let mut leases = leases.peekable();
    if leases.peek().is_none() {
        return (Plan::new(), BTreeMap::new());
    }
    let mut planning = Planning {
        configured,
        ways: Ways::new(configured, learnt),
        values: Plan::new(),
        refused: BTreeMap::new(),
        domains: Vec::new(),
        servers: Vec::new(),
    };
    let places: Vec<(Place<'_>, &bus::DhcpLease)> = leases
        .filter_map(|(interface, terms)| Some((planning.address(interface, terms)?, terms)))
        .collect();
    // An address of any lease is stronger than a route of another.
    for (place, terms) in &places {
        planning.routes(place, terms);
    }
    planning.resolver();
    (planning.values, planning.refused)
}

struct Planning<'a> {
    configured: &'a Plan,
    ways: Ways<'a>,
    values: Plan,
    refused: BTreeMap<String, Refusal>,
    domains: Vec<String>,
    /// Of each lease.
    servers: Vec<Vec<String>>,
}

/// Where a lease is used.
struct Place<'a> {
    interface: &'a str,
    key: Key,
    vrf: &'a str,
    /// In the VRF that Linux has routes of.
    underlay: bool,
    /// The address, with its network.
    own: IpNet,
    /// Where the values come from.
    origin: String,
}

impl Place<'_> {
    fn address_key(&self) -> Key {
        address_key(self.interface, self.own)
    }

    fn linux_address_key(&self) -> Key {
        linux_address_key(self.interface, self.own)
    }

    fn route_key(&self, destination: IpNet) -> Key {
        Key::from(format!("obtained/{}/{destination}", self.vrf))
    }
}

/// Networks that the routes of a lease have put on its link.
type OnLink = Vec<IpNet>;

impl<'a> Planning<'a> {
    /// Plans the address of a lease, if it can be used where it was obtained.
    fn address(&mut self, interface: &'a str, terms: &bus::DhcpLease) -> Option<Place<'a>> {
        let key = interface_key(interface);
        let Some(Kind::Interface(port)) = kind(self.configured, &key) else {
            return None;
        };
        let own = IpNet::try_from(terms.address.as_ref()?).ok()?;
        let place = Place {
            interface,
            key,
            vrf: &port.vrf,
            underlay: matches!(
                kind(self.configured, &link_key(interface)),
                Some(Kind::LinuxLink(link)) if link.underlay
            ),
            own,
            origin: format!("{ORIGIN} on {interface}"),
        };
        let network = own.trunc();
        let (ways, vrf) = (&self.ways, place.vrf);
        let by = ways
            .to_address(interface, vrf, own.addr())
            .or_else(|| ways.to_network(interface, vrf, network, true));
        if let Some(by) = by.cloned() {
            self.refused
                .insert(interface.to_owned(), Refusal { network, by });
            return None;
        }
        self.ways.add_link(place.address_key(), interface, network);
        self.plan_address(&place);
        Some(place)
    }

    fn plan_address(&mut self, place: &Place<'_>) {
        let value = Kind::Address(bus::Address {
            interface: place.interface.to_owned(),
            address: Some(place.own.into()),
            obtained: true,
        });
        let needs = vec![place.key.clone()];
        self.add(place.address_key(), value, Part::Dataplane, place, needs);
        let value = Kind::LinuxAddress(bus::LinuxAddress {
            tap: place.interface.to_owned(),
            address: Some(place.own.into()),
            obtained: true,
        });
        let linux = place.linux_address_key();
        let needs = vec![link_key(place.interface)];
        self.add(linux.clone(), value, Part::Linux, place, needs);
        if let Some(planned) = self.values.get_mut(&linux) {
            Arc::make_mut(planned).after = vec![place.address_key()];
        }
    }

    /// Plans the routes of a lease, and remembers whom it names.
    fn routes(&mut self, place: &Place<'a>, terms: &bus::DhcpLease) {
        // None: it is about to be given back.
        let client = kind(self.configured, &dhcp_client_key(place.interface));
        let Some(Kind::DhcpClient(client)) = client else {
            return;
        };
        let mut on_link = OnLink::new();
        for route in &terms.routes {
            let Some(destination) = network_of(route.destination.as_ref()) else {
                continue;
            };
            if destination.prefix_len() > 0 || client.default_route {
                let gateway = route.gateway.as_ref();
                let gateway = gateway.and_then(|gateway| IpAddr::try_from(gateway).ok());
                self.route(place, destination, gateway, &mut on_link);
            }
        }
        // charon, mgmt and whoever else asks them do so in this VRF.
        if client.dns && place.underlay {
            let servers = terms.dns_servers.iter();
            let servers = servers.filter_map(|server| IpAddr::try_from(server).ok());
            self.servers
                .push(servers.map(|server| server.to_string()).collect());
            if !terms.domain.is_empty() {
                self.domains.push(terms.domain.clone());
            }
        }
    }

    /// A route of a lease, unless another leads there; without a gateway one to the link.
    fn route(
        &mut self,
        place: &Place<'a>,
        destination: IpNet,
        gateway: Option<IpAddr>,
        on_link: &mut OnLink,
    ) {
        // The route to the gateway, where that is not on the network of the address.
        let beside = match gateway {
            Some(gateway) if !place.own.contains(&gateway) => {
                match on_link.iter().find(|network| network.contains(&gateway)) {
                    Some(network) => Some(*network),
                    None => return,
                }
            }
            _ => None,
        };
        let (interface, vrf) = (place.interface, place.vrf);
        let ways = &self.ways;
        if let Some(other) = ways.to_network(interface, vrf, destination, gateway.is_none()) {
            tracing::debug!(interface, %destination, %other, "a route of the lease is not taken");
            return;
        }
        if gateway.is_none() {
            on_link.push(destination);
        }
        let key = place.route_key(destination);
        self.ways.add_route(key.clone(), vrf, destination);
        self.plan_route(place, key, destination, gateway, beside);
        if place.underlay {
            self.plan_linux_route(place, destination, gateway, beside);
        }
    }

    fn plan_route(
        &mut self,
        place: &Place<'_>,
        key: Key,
        destination: IpNet,
        gateway: Option<IpAddr>,
        beside: Option<IpNet>,
    ) {
        let value = Kind::Route(bus::Route {
            vrf: place.vrf.to_owned(),
            destination: Some(destination.into()),
            next_hops: vec![bus::NextHop {
                gateway: gateway.map(Into::into),
                interface: place.interface.to_owned(),
                vrf: String::new(),
            }],
            action: bus::route::Action::Forward.into(),
            learnt: true,
        });
        let mut needs = vec![place.key.clone(), place.address_key()];
        needs.extend(beside.map(|beside| place.route_key(beside)));
        self.add(key, value, Part::Dataplane, place, needs);
    }

    fn plan_linux_route(
        &mut self,
        place: &Place<'_>,
        destination: IpNet,
        gateway: Option<IpAddr>,
        beside: Option<IpNet>,
    ) {
        let value = Kind::LinuxRoute(bus::LinuxRoute {
            destination: Some(destination.into()),
            gateway: gateway.map(Into::into),
            tap: place.interface.to_owned(),
            obtained: true,
        });
        let mut needs = vec![link_key(place.interface), place.linux_address_key()];
        needs.extend(beside.map(linux_route_key));
        self.add(
            linux_route_key(destination),
            value,
            Part::Linux,
            place,
            needs,
        );
    }

    /// Unless name servers are configured.
    fn resolver(&mut self) {
        let key = Key::from(RESOLVER);
        if self.servers.iter().all(Vec::is_empty) || self.configured.contains_key(&key) {
            return;
        }
        // The first of each before the second of any.
        let mut servers = Vec::new();
        for place in 0..MOST_SERVERS {
            servers.extend(self.servers.iter().filter_map(|of| of.get(place)).cloned());
        }
        let mut resolver = bus::Resolver {
            servers,
            domains: std::mem::take(&mut self.domains),
            obtained: true,
        };
        resolver.servers.truncate(MOST_SERVERS);
        resolver.domains.truncate(1);
        let planned = Planned {
            value: bus::Value {
                kind: Some(Kind::Resolver(resolver)),
            },
            part: Part::Linux,
            needs: Vec::new(),
            after: Vec::new(),
            origins: vec![ORIGIN.to_owned()],
        };
        self.values.insert(key, Arc::new(planned));
    }

    /// What is configured already stays as it is.
    fn add(&mut self, key: Key, kind: Kind, part: Part, place: &Place<'_>, needs: Vec<Key>) {
        if self.configured.contains_key(&key) {
            return;
        }
        self.values.entry(key).or_insert_with(|| {
            Arc::new(Planned {
                value: bus::Value { kind: Some(kind) },
                part,
                needs,
                after: Vec::new(),
                origins: vec![place.origin.clone()],
            })
        });
    }
}

fn kind<'a>(plan: &'a Plan, key: &Key) -> Option<&'a Kind> {
    plan.get(key)?.value.kind.as_ref()
}
