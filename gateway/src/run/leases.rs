//! What DHCP servers have lent, as values beside the plan: addresses, routes, name servers.
//!
//! ```text
//!   culvert dhcp --leases--> Leases --> dataplane: address/wan/..., obtained/VRF/PREFIX
//!                               |  '--> Linux: linux/address/wan/..., linux/route/PREFIX, linux/resolver
//!                               '-- what is configured, what a routing daemon has learnt: that comes first
//! ```
//!
//! A server is anybody on the link, and a route is stronger than another the longer its prefix: so nothing of a lease is
//! taken that would lead packets away from where the configuration or a routing daemon leads them. A network of a lease
//! that lies within a configured route, or over a network of another interface, is none to be on; a route of a lease that
//! another route covers is left out.
//!
//! The process that speaks DHCP may die and come back: what it does not speak of stays, until its time is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_model::bus::{self, dhcp_client_state::State, value::Kind};
use culvert_model::plan::{Key, Part, Plan, Planned};
use culvert_model::types;
use ipnet::IpNet;

/// The client says that a lease is over before this does.
const GRACE: Duration = Duration::from_secs(5);
/// Name servers of all leases together; a resolver asks no more (resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// Of each interface.
#[derive(Debug, Default)]
pub struct Leases {
    by_interface: BTreeMap<String, Lease>,
}

#[derive(Debug)]
struct Lease {
    /// Without its times.
    terms: bus::DhcpLease,
    over: Instant,
}

impl Leases {
    /// Takes in how the clients stand; whether anything is different now.
    pub fn heard(
        &mut self,
        clients: Vec<bus::DhcpClientState>,
        configured: &Plan,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        let spoken: Vec<String> = clients.iter().map(|one| one.interface.clone()).collect();
        for client in clients {
            let rebooting = client.state() == State::Rebooting;
            match client.lease {
                Some(lease) => changed |= self.put(client.interface, lease, now),
                // Whether it holds is being asked.
                None if rebooting => {}
                None => changed |= self.by_interface.remove(&client.interface).is_some(),
            }
        }
        let before = self.by_interface.len();
        self.by_interface.retain(|interface, _| {
            spoken.contains(interface) || configured.contains_key(&client_key(interface))
        });
        changed || self.by_interface.len() != before
    }

    fn put(&mut self, interface: String, lease: bus::DhcpLease, now: Instant) -> bool {
        let over = now + Duration::from_secs(lease.expire_s.into()) + GRACE;
        let terms = bus::DhcpLease {
            duration_s: 0,
            renew_s: 0,
            rebind_s: 0,
            expire_s: 0,
            ..lease
        };
        let new = Lease { terms, over };
        let changed = |old: &Lease| old.terms != new.terms;
        let changed = self.by_interface.get(&interface).is_none_or(changed);
        self.by_interface.insert(interface, new);
        changed
    }

    /// Forgets what is over; whether anything was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.by_interface.len();
        self.by_interface.retain(|_, lease| lease.over > now);
        self.by_interface.len() != before
    }

    /// When the next one is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.by_interface.values().map(|lease| lease.over).min()
    }

    /// The values of all leases beside what is configured and what was learnt.
    pub fn plan(&self, configured: &Plan, learnt: &Plan) -> Plan {
        let mut planning = Planning {
            configured,
            learnt,
            values: Plan::new(),
            domains: Vec::new(),
            servers: Vec::new(),
        };
        for (interface, lease) in &self.by_interface {
            planning.lease(interface, &lease.terms);
        }
        planning.resolver();
        planning.values
    }
}

struct Planning<'a> {
    configured: &'a Plan,
    learnt: &'a Plan,
    values: Plan,
    domains: Vec<String>,
    servers: Vec<String>,
}

/// Where a lease is used.
struct Place<'a> {
    interface: &'a str,
    key: Key,
    vrf: &'a str,
    /// In the VRF that Linux has routes of.
    underlay: bool,
    /// Where the values come from.
    origin: String,
}

impl Planning<'_> {
    fn lease(&mut self, interface: &str, terms: &bus::DhcpLease) {
        let key = Key::from(format!("interface/{interface}"));
        let configured = self.configured;
        let Some(Kind::Interface(port)) = kind(configured, &key) else {
            return;
        };
        let Some(Ok(prefix)) = terms.address.as_ref().map(IpNet::try_from) else {
            return;
        };
        let place = Place {
            interface,
            key,
            vrf: &port.vrf,
            underlay: matches!(
                kind(configured, &link_key(interface)),
                Some(Kind::LinuxLink(link)) if link.underlay
            ),
            origin: format!("DHCP on {interface}"),
        };
        if let Some(other) = self.stands_in_the_way(&place, prefix) {
            tracing::error!(interface, network = %prefix.trunc(), %other, "the lease is not used: its network is taken");
            return;
        }
        self.address(&place, prefix);
        // None: it is about to be given back.
        let Some(Kind::DhcpClient(client)) = kind(configured, &client_key(interface)) else {
            return;
        };
        for route in &terms.routes {
            self.route(&place, prefix, route, client.default_route);
        }
        if client.dns {
            let servers = terms.dns_servers.iter();
            let servers = servers.filter_map(|server| IpAddr::try_from(server).ok());
            self.servers
                .extend(servers.map(|server| server.to_string()));
            if !terms.domain.is_empty() {
                self.domains.push(terms.domain.clone());
            }
        }
    }

    /// What the network of a lease may not be over.
    fn stands_in_the_way(&self, place: &Place<'_>, prefix: IpNet) -> Option<Key> {
        let network = prefix.trunc();
        let all = self.configured.iter().chain(&self.values);
        let mut others = all.filter(|(_, planned)| match &planned.value.kind {
            Some(Kind::Address(address)) if address.interface != place.interface => {
                network_of(address.address.as_ref())
                    .is_some_and(|other| other.contains(&network) || network.contains(&other))
            }
            // One that leads everywhere has the links beside it.
            Some(Kind::Route(route)) if route.vrf == place.vrf && !route.learnt => {
                network_of(route.destination.as_ref())
                    .is_some_and(|other| other.prefix_len() > 0 && other.contains(&network))
            }
            _ => false,
        });
        others.next().map(|(key, _)| key.clone())
    }

    fn address(&mut self, place: &Place<'_>, prefix: IpNet) {
        let (key, linux) = (address_key(place, prefix), linux_address_key(place, prefix));
        let value = Kind::Address(bus::Address {
            interface: place.interface.to_owned(),
            address: Some(prefix.into()),
            obtained: true,
        });
        self.add(
            key.clone(),
            value,
            Part::Dataplane,
            place,
            vec![place.key.clone()],
        );
        let value = Kind::LinuxAddress(bus::LinuxAddress {
            tap: place.interface.to_owned(),
            address: Some(prefix.into()),
            obtained: true,
        });
        let needs = vec![link_key(place.interface)];
        self.add(linux.clone(), value, Part::Linux, place, needs);
        if let Some(planned) = self.values.get_mut(&linux) {
            Arc::make_mut(planned).after = vec![key];
        }
    }

    fn route(
        &mut self,
        place: &Place<'_>,
        own: IpNet,
        route: &bus::DhcpRoute,
        default_route: bool,
    ) {
        let Some(destination) = network_of(route.destination.as_ref()) else {
            return;
        };
        if destination.prefix_len() == 0 && !default_route {
            return;
        }
        let covers = |planned: &Planned| match &planned.value.kind {
            Some(Kind::Route(other)) if other.vrf == place.vrf => {
                network_of(other.destination.as_ref())
                    .is_some_and(|other| other.contains(&destination))
            }
            // A part of another link would be lost.
            Some(Kind::Address(other)) => network_of(other.address.as_ref())
                .is_some_and(|other| destination.prefix_len() > 0 && other.contains(&destination)),
            _ => false,
        };
        let mut before = self.configured.iter().chain(self.learnt);
        if let Some((other, _)) = before.find(|(_, planned)| covers(planned)) {
            tracing::info!(interface = place.interface, %destination, %other, "a route of the lease is not taken");
            return;
        }
        let key = Key::from(format!("obtained/{}/{destination}", place.vrf));
        // Of two leases the first.
        if self.values.contains_key(&key) {
            return;
        }
        let gateway = route.gateway.as_ref();
        let value = Kind::Route(bus::Route {
            vrf: place.vrf.to_owned(),
            destination: Some(destination.into()),
            next_hops: vec![bus::NextHop {
                gateway: gateway.cloned(),
                interface: place.interface.to_owned(),
                vrf: String::new(),
            }],
            action: bus::route::Action::Forward.into(),
            learnt: true,
        });
        let needs = vec![place.key.clone(), address_key(place, own)];
        self.add(key, value, Part::Dataplane, place, needs);
        if !place.underlay {
            return;
        }
        let mut needs = vec![link_key(place.interface), linux_address_key(place, own)];
        // A gateway elsewhere is on the link by a route before this one.
        let gateway_address = gateway.and_then(|gateway| IpAddr::try_from(gateway).ok());
        if let Some(gateway) = gateway_address.filter(|gateway| !own.contains(gateway)) {
            let holds = |planned: &Planned| match &planned.value.kind {
                Some(Kind::LinuxRoute(other)) => network_of(other.destination.as_ref())
                    .is_some_and(|other| other.contains(&gateway)),
                _ => false,
            };
            let by = self.values.iter().find(|(_, planned)| holds(planned));
            needs.extend(by.map(|(key, _)| key.clone()));
        }
        let value = Kind::LinuxRoute(bus::LinuxRoute {
            destination: Some(destination.into()),
            gateway: gateway.cloned(),
            tap: place.interface.to_owned(),
            obtained: true,
        });
        let key = Key::from(format!("linux/route/{destination}"));
        self.add(key, value, Part::Linux, place, needs);
    }

    /// Unless name servers are configured.
    fn resolver(&mut self) {
        let key = Key::from("linux/resolver");
        if self.servers.is_empty() || self.configured.contains_key(&key) {
            return;
        }
        let mut resolver = bus::Resolver {
            servers: std::mem::take(&mut self.servers),
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
            origins: vec!["DHCP".to_owned()],
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

fn network_of(prefix: Option<&types::IpPrefix>) -> Option<IpNet> {
    Some(IpNet::try_from(prefix?).ok()?.trunc())
}

fn client_key(interface: &str) -> Key {
    Key::from(format!("dhcp_client/{interface}"))
}

fn link_key(interface: &str) -> Key {
    Key::from(format!("linux/link/{interface}"))
}

fn address_key(place: &Place<'_>, prefix: IpNet) -> Key {
    Key::from(format!("address/{}/{prefix}", place.interface))
}

fn linux_address_key(place: &Place<'_>, prefix: IpNet) -> Key {
    Key::from(format!("linux/address/{}/{prefix}", place.interface))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::decode;
    use culvert_model::plan::{DigestKey, plan as plan_configured};

    use super::*;

    fn configured(more: &str) -> Plan {
        let text = format!(
            r#"{{"interfaces": [
                {{"name": "wan", "dhcp_client": {{"enabled": true}}}},
                {{"name": "lan", "addresses": [{{"address": "10.1.0.1/24"}}]}}
            ], "tunnels": [{{"name": "ipsec0", "if_id": 1}}] {more}}}"#
        );
        let config = decode::config_from_json(text.as_bytes()).unwrap();
        plan_configured(&config, &DigestKey::new([0; 32])).unwrap()
    }

    fn prefix(text: &str) -> types::IpPrefix {
        text.parse::<IpNet>().unwrap().into()
    }

    fn address(text: &str) -> types::IpAddress {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn client(own: &str, routes: &[(&str, &str)]) -> bus::DhcpClientState {
        bus::DhcpClientState {
            interface: "wan".to_owned(),
            state: State::Bound.into(),
            lease: Some(bus::DhcpLease {
                address: Some(prefix(own)),
                server: Some(address("192.0.2.1")),
                routes: routes
                    .iter()
                    .map(|(destination, gateway)| bus::DhcpRoute {
                        destination: Some(prefix(destination)),
                        gateway: (!gateway.is_empty()).then(|| address(gateway)),
                    })
                    .collect(),
                dns_servers: vec![address("9.9.9.9")],
                domain: "example.com".to_owned(),
                expire_s: 60,
                ..bus::DhcpLease::default()
            }),
            ..bus::DhcpClientState::default()
        }
    }

    fn keys(client: bus::DhcpClientState, configured: &Plan, learnt: &Plan) -> Vec<String> {
        let mut leases = Leases::default();
        assert!(leases.heard(vec![client], configured, Instant::now()));
        let plan = leases.plan(configured, learnt);
        for planned in plan.values() {
            for need in &planned.needs {
                assert!(
                    configured.contains_key(need) || plan.contains_key(need),
                    "{need}"
                );
            }
        }
        plan.keys().map(Key::to_string).collect()
    }

    const DEFAULT: (&str, &str) = ("0.0.0.0/0", "192.0.2.1");

    #[test]
    fn a_lease_is_an_address_routes_and_name_servers() {
        let of = |routes: &[(&str, &str)], more: &str| {
            keys(
                client("192.0.2.10/24", routes),
                &configured(more),
                &Plan::new(),
            )
        };
        let own = [
            "address/wan/192.0.2.10/24",
            "linux/address/wan/192.0.2.10/24",
        ];
        assert_eq!(of(&[], ""), [own[0], own[1], "linux/resolver"]);
        assert_eq!(
            of(&[DEFAULT], ""),
            [
                own[0],
                own[1],
                "linux/resolver",
                "linux/route/0.0.0.0/0",
                "obtained/default/0.0.0.0/0"
            ]
        );
        // Configured name servers come first.
        let dns = r#", "system": {"dns_servers": [{"address": "8.8.8.8"}]}"#;
        assert_eq!(of(&[], dns), own);
    }

    #[test]
    fn no_route_of_a_lease_leads_away_what_another_route_leads() {
        let route = |to: &str, by: &str| {
            format!(
                r#", "routes": [{{"destination": "{to}", "next_hops": [{{"interface": "{by}"}}]}}]"#
            )
        };
        let tunnel = configured(&route("10.2.0.0/16", "ipsec0"));
        let told = [
            ("10.2.0.0/16", "192.0.2.1"),
            ("10.2.3.0/24", "192.0.2.1"),
            ("10.1.0.128/25", "192.0.2.1"),
            ("10.3.0.0/16", "192.0.2.1"),
        ];
        let taken = |configured: &Plan, learnt: &Plan| {
            let all = keys(client("192.0.2.10/24", &told), configured, learnt);
            all.into_iter()
                .filter(|key| key.starts_with("obtained/"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            taken(&tunnel, &Plan::new()),
            ["obtained/default/10.3.0.0/16"]
        );
        // Everything goes by the tunnel.
        let everything = configured(&route("0.0.0.0/0", "ipsec0"));
        assert!(taken(&everything, &Plan::new()).is_empty());
        // A routing daemon knows better, too.
        let key = Key::from("route/default/10.2.0.0/16");
        let learnt = Plan::from([(key.clone(), tunnel[&key].clone())]);
        assert_eq!(
            taken(&configured(""), &learnt),
            ["obtained/default/10.3.0.0/16"]
        );
        // Nor does the network of the address itself.
        assert!(keys(client("10.2.0.10/24", &[]), &tunnel, &Plan::new()).is_empty());
        assert!(keys(client("10.1.0.10/25", &[]), &tunnel, &Plan::new()).is_empty());
        assert!(keys(client("10.0.0.10/8", &[]), &tunnel, &Plan::new()).is_empty());
    }

    #[test]
    fn a_lease_stays_while_nothing_is_said_and_goes_with_its_time() {
        let now = Instant::now();
        let plan = configured("");
        let mut leases = Leases::default();
        let lease = client("192.0.2.10/24", &[DEFAULT]);
        assert!(leases.heard(vec![lease.clone()], &plan, now));
        // The same again, renewed.
        assert!(!leases.heard(vec![lease.clone()], &plan, now + GRACE));
        // The process is new: first it has no client yet, then one that asks whether the lease holds.
        assert!(!leases.heard(Vec::new(), &plan, now));
        let without = |state: State| bus::DhcpClientState {
            state: state.into(),
            lease: None,
            ..lease.clone()
        };
        assert!(!leases.heard(vec![without(State::Rebooting)], &plan, now));
        assert!(leases.heard(vec![without(State::Init)], &plan, now));
        assert!(leases.heard(vec![lease.clone()], &plan, now));
        // Nobody wants it any more.
        assert!(leases.heard(Vec::new(), &Plan::new(), now));
        assert!(leases.heard(vec![lease], &plan, now));
        let over = leases.deadline().unwrap();
        assert_eq!(over, now + Duration::from_mins(1) + GRACE);
        assert!(!leases.expire(now + Duration::from_mins(1)));
        assert!(leases.expire(over));
        assert!(leases.plan(&plan, &Plan::new()).is_empty());
    }
}
