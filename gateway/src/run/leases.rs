//! What DHCP servers have lent, as values beside the plan: addresses, routes, name servers.
//!
//! ```text
//!   culvert dhcp --leases--> Leases --> dataplane: address/wan/..., obtained/VRF/PREFIX
//!                               |  '--> Linux: linux/address/wan/..., linux/route/PREFIX, linux/resolver
//!                               '-- what is configured, what a routing daemon has learnt: that comes first
//! ```
//!
//! A server is anybody on the link, and a route is stronger than another the longer its prefix: so nothing of a lease is
//! taken that would lead packets away from where the configuration, a routing daemon or an older lease leads them.
//!
//! - An address is not used whose network another interface is on, or a configured or learnt route leads to or has in it.
//!   Of a default route that leads into a tunnel that is not asked, as a link has to be somewhere, but then the network is a
//!   small one.
//! - A route that a configured or learnt one covers is left out, be it the default, and so is one whose gateway is not on
//!   the link.
//! - Of two leases the older comes first.
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

/// What all origins of values of leases begin with.
pub const ORIGIN: &str = "DHCP";
/// The client says that a lease is over before this does.
const GRACE: Duration = Duration::from_secs(5);
/// The shortest prefix of a link where all else goes into a tunnel.
const SMALL: u8 = 16;
/// Name servers of all leases together; a resolver asks no more (resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// Of each interface.
#[derive(Debug, Default)]
pub struct Leases {
    by_interface: BTreeMap<String, Lease>,
    /// How many there have been.
    taken: u64,
}

#[derive(Debug)]
struct Lease {
    /// Without its times.
    terms: bus::DhcpLease,
    over: Instant,
    /// Which one it was of all that there have been: the older comes first.
    age: u64,
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
        let old = self.by_interface.get(&interface);
        let changed = old.is_none_or(|old| old.terms != terms);
        // Other terms are another lease: nobody keeps his place by what he lent first.
        let age = match old {
            Some(old) if !changed => old.age,
            _ => {
                self.taken += 1;
                self.taken
            }
        };
        self.by_interface
            .insert(interface, Lease { terms, over, age });
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
        let mut leases: Vec<(&String, &Lease)> = self.by_interface.iter().collect();
        leases.sort_by_key(|(_, lease)| lease.age);
        let places: Vec<(Place<'_>, &bus::DhcpLease)> = leases
            .into_iter()
            .filter_map(|(interface, lease)| planning.address(interface, &lease.terms))
            .collect();
        // An address of any lease is stronger than a route of another.
        for (place, terms) in &places {
            planning.routes(place, terms);
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

impl<'a> Planning<'a> {
    /// Plans the address of a lease, if it can be used where it was obtained.
    fn address<'b>(
        &mut self,
        interface: &'b str,
        terms: &'b bus::DhcpLease,
    ) -> Option<(Place<'b>, &'b bus::DhcpLease)>
    where
        'a: 'b,
    {
        let key = Key::from(format!("interface/{interface}"));
        let configured = self.configured;
        let Some(Kind::Interface(port)) = kind(configured, &key) else {
            return None;
        };
        let prefix = IpNet::try_from(terms.address.as_ref()?).ok()?;
        let place = Place {
            interface,
            key,
            vrf: &port.vrf,
            underlay: matches!(
                kind(configured, &link_key(interface)),
                Some(Kind::LinuxLink(link)) if link.underlay
            ),
            own: prefix,
            origin: format!("{ORIGIN} on {interface}"),
        };
        let has = self.has(&place);
        if let Some(other) = has
            .as_ref()
            .or_else(|| self.leads(&place, prefix.trunc(), true))
        {
            tracing::error!(interface, network = %prefix.trunc(), %other, "the lease is not used: its network is taken");
            return None;
        }
        self.plan_address(&place);
        Some((place, terms))
    }

    /// Who has the address of a lease, or the network that it is of.
    fn has(&self, place: &Place<'_>) -> Option<Key> {
        let address = place.own.addr();
        let all = self.configured.iter().chain(&self.values);
        let mut others = all.filter(|(_, planned)| match &planned.value.kind {
            Some(Kind::Address(other)) if other.interface != place.interface => {
                network_of(other.address.as_ref()).is_some_and(|other| other.contains(&address))
            }
            // One that leads everywhere has the links beside it.
            Some(Kind::Route(route)) if route.vrf == place.vrf && !route.learnt => {
                network_of(route.destination.as_ref())
                    .is_some_and(|other| other.prefix_len() > 0 && other.contains(&address))
            }
            _ => false,
        });
        others.next().map(|(key, _)| key.clone())
    }

    fn plan_address(&mut self, place: &Place<'_>) {
        let (key, linux) = (address_key(place), linux_address_key(place));
        let value = Kind::Address(bus::Address {
            interface: place.interface.to_owned(),
            address: Some(place.own.into()),
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
            address: Some(place.own.into()),
            obtained: true,
        });
        let needs = vec![link_key(place.interface)];
        self.add(linux.clone(), value, Part::Linux, place, needs);
        if let Some(planned) = self.values.get_mut(&linux) {
            Arc::make_mut(planned).after = vec![key];
        }
    }

    /// Plans the routes of a lease, and remembers whom it names.
    fn routes(&mut self, place: &Place<'_>, terms: &bus::DhcpLease) {
        // None: it is about to be given back.
        let configured = self.configured;
        let Some(Kind::DhcpClient(client)) = kind(configured, &client_key(place.interface)) else {
            return;
        };
        for route in &terms.routes {
            let Some(destination) = network_of(route.destination.as_ref()) else {
                continue;
            };
            if destination.prefix_len() == 0 && !client.default_route {
                continue;
            }
            let gateway = route.gateway.as_ref();
            let gateway = gateway.and_then(|gateway| IpAddr::try_from(gateway).ok());
            let reached =
                |gateway| place.own.contains(&gateway) || self.on_link(place, gateway).is_some();
            if gateway.is_none_or(reached) {
                self.route(place, destination, gateway);
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

    /// The destination of the route of this lease that has a gateway beside its network on the link.
    fn on_link(&self, place: &Place<'_>, gateway: IpAddr) -> Option<IpNet> {
        self.values
            .values()
            .filter_map(|planned| match &planned.value.kind {
                Some(Kind::Route(route)) if route.vrf == place.vrf => Some(route),
                _ => None,
            })
            .filter(|route| match route.next_hops.as_slice() {
                [hop] => hop.gateway.is_none() && hop.interface == place.interface,
                _ => false,
            })
            .filter_map(|route| network_of(route.destination.as_ref()))
            .find(|network| network.contains(&gateway))
    }

    /// Who leads to this network already, which is on the link, or behind a gateway there.
    fn leads(&self, place: &Place<'_>, network: IpNet, on_link: bool) -> Option<&Key> {
        let covers = |planned: &Planned, lent: bool| match &planned.value.kind {
            Some(Kind::Route(other)) if other.vrf == place.vrf => {
                network_of(other.destination.as_ref()).is_some_and(|destination| {
                    let counts = match destination.prefix_len() {
                        0 if network.prefix_len() == 0 => true,
                        // Beside a way out there are links.
                        0 if on_link => network.prefix_len() < SMALL && self.protects(other),
                        0 => !lent,
                        _ => true,
                    };
                    counts && destination.contains(&network)
                })
            }
            // A part of another link would be lost.
            Some(Kind::Address(other)) if other.interface != place.interface => {
                network_of(other.address.as_ref()).is_some_and(|other| {
                    network.prefix_len() > 0
                        && (other.contains(&network)
                            || (on_link && other.prefix_len() < 32 && network.contains(&other)))
                })
            }
            _ => false,
        };
        let before = self.configured.iter().chain(self.learnt);
        let before = before.filter(|(_, planned)| covers(planned, false));
        let leases = self.values.iter();
        let leases = leases.filter(|(_, planned)| covers(planned, true));
        before.chain(leases).map(|(key, _)| key).next()
    }

    /// Whether packets by this route do not all leave by an Ethernet interface as they are.
    fn protects(&self, route: &bus::Route) -> bool {
        let is_ethernet = |name: &str| {
            self.configured
                .contains_key(&Key::from(format!("interface/{name}")))
        };
        let of_ethernet = |gateway: IpAddr| {
            self.configured
                .values()
                .any(|planned| match &planned.value.kind {
                    Some(Kind::Address(address)) => {
                        is_ethernet(&address.interface)
                            && network_of(address.address.as_ref())
                                .is_some_and(|network| network.contains(&gateway))
                    }
                    _ => false,
                })
        };
        let leaves = |hop: &bus::NextHop| match hop.gateway.as_ref().map(IpAddr::try_from) {
            _ if is_ethernet(&hop.interface) => true,
            Some(Ok(gateway)) if hop.interface.is_empty() => of_ethernet(gateway),
            _ => false,
        };
        route.next_hops.is_empty() || !route.next_hops.iter().all(leaves)
    }

    /// A route of a lease, unless another leads there; without a gateway one to the link.
    fn route(&mut self, place: &Place<'_>, destination: IpNet, gateway: Option<IpAddr>) {
        if let Some(other) = self.leads(place, destination, gateway.is_none()) {
            tracing::debug!(interface = place.interface, %destination, %other, "a route of the lease is not taken");
            return;
        }
        let beside = gateway.filter(|gateway| !place.own.contains(gateway));
        let by = beside.and_then(|gateway| self.on_link(place, gateway));
        let hop = gateway.map(Into::into);
        let value = Kind::Route(bus::Route {
            vrf: place.vrf.to_owned(),
            destination: Some(destination.into()),
            next_hops: vec![bus::NextHop {
                gateway: hop.clone(),
                interface: place.interface.to_owned(),
                vrf: String::new(),
            }],
            action: bus::route::Action::Forward.into(),
            learnt: true,
        });
        let key = |destination: IpNet| Key::from(format!("obtained/{}/{destination}", place.vrf));
        let linux = |destination: IpNet| Key::from(format!("linux/route/{destination}"));
        let mut needs = vec![place.key.clone(), address_key(place)];
        needs.extend(by.map(key));
        self.add(key(destination), value, Part::Dataplane, place, needs);
        if !place.underlay {
            return;
        }
        let mut needs = vec![link_key(place.interface), linux_address_key(place)];
        needs.extend(by.map(linux));
        let value = Kind::LinuxRoute(bus::LinuxRoute {
            destination: Some(destination.into()),
            gateway: hop,
            tap: place.interface.to_owned(),
            obtained: true,
        });
        self.add(linux(destination), value, Part::Linux, place, needs);
    }

    /// Unless name servers are configured.
    fn resolver(&mut self) {
        let key = Key::from("linux/resolver");
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

fn network_of(prefix: Option<&types::IpPrefix>) -> Option<IpNet> {
    Some(IpNet::try_from(prefix?).ok()?.trunc())
}

fn client_key(interface: &str) -> Key {
    Key::from(format!("dhcp_client/{interface}"))
}

fn link_key(interface: &str) -> Key {
    Key::from(format!("linux/link/{interface}"))
}

fn address_key(place: &Place<'_>) -> Key {
    Key::from(format!("address/{}/{}", place.interface, place.own))
}

fn linux_address_key(place: &Place<'_>) -> Key {
    Key::from(format!("linux/address/{}/{}", place.interface, place.own))
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
                "obtained/default/0.0.0.0/0",
            ]
        );
        // Configured name servers come first.
        let dns = r#", "system": {"dns_servers": [{"address": "8.8.8.8"}]}"#;
        assert_eq!(of(&[], dns), own);
        // A gateway that nothing of the lease has on the link is none.
        assert_eq!(of(&[("10.9.0.0/16", "10.9.0.1")], dns), own);
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
    }

    #[test]
    fn a_network_of_a_lease_is_nobody_elses() {
        let tunnel = configured(
            r#", "routes": [{"destination": "10.2.0.0/16", "next_hops": [{"interface": "ipsec0"}]}]"#,
        );
        let of = |own: &str, learnt: &Plan| {
            let mut all = keys(client(own, &[]), &tunnel, learnt);
            all.retain(|key| key != "linux/resolver");
            all
        };
        let none = Plan::new();
        // Of the tunnel's networks, and of the LAN: no address at all.
        assert!(of("10.2.0.10/24", &none).is_empty());
        assert!(of("10.2.0.10/8", &none).is_empty());
        assert!(of("10.1.0.10/25", &none).is_empty());
        assert!(of("10.0.0.10/8", &none).is_empty());
        assert_eq!(of("10.3.0.10/24", &none).len(), 2);
        // Within what was learnt.
        let key = Key::from("route/default/10.2.0.0/16");
        let mut learnt = tunnel[&key].as_ref().clone();
        if let Some(Kind::Route(route)) = &mut learnt.value.kind {
            route.destination = Some(prefix("10.7.0.0/16"));
            route.learnt = true;
        }
        let learnt = Plan::from([(Key::from("learnt/default/10.7.0.0/16"), Arc::new(learnt))]);
        assert!(of("10.7.3.10/24", &learnt).is_empty());
        // Where all goes into the tunnel a link is small; beside another way out in the clear it need not be.
        let by = |port: &str| {
            configured(&format!(
                r#", "routes": [{{"destination": "0.0.0.0/0", "next_hops": [{{"interface": "{port}"}}]}}]"#
            ))
        };
        let used = |own: &str, plan: &Plan| !keys(client(own, &[]), plan, &none).is_empty();
        assert!(used("172.16.0.10/16", &by("ipsec0")));
        assert!(!used("172.16.0.10/15", &by("ipsec0")));
        assert!(used("172.16.0.10/15", &by("lan")));
    }

    #[test]
    fn of_two_leases_the_older_comes_first() {
        let text = r#"{"interfaces": [
            {"name": "guest", "dhcp_client": {"enabled": true}},
            {"name": "wan", "dhcp_client": {"enabled": true}}
        ]}"#;
        let config = decode::config_from_json(text.as_bytes()).unwrap();
        let both = plan_configured(&config, &DigestKey::new([0; 32])).unwrap();
        let of = |interface: &str, own: &str, routes: &[(&str, &str)]| bus::DhcpClientState {
            interface: interface.to_owned(),
            ..client(own, routes)
        };
        let wan = of("wan", "192.0.2.10/24", &[DEFAULT]);
        let now = Instant::now();
        let obtained = |guest: bus::DhcpClientState| {
            let mut leases = Leases::default();
            assert!(leases.heard(vec![wan.clone()], &both, now));
            assert!(leases.heard(vec![guest, wan.clone()], &both, now));
            let plan = leases.plan(&both, &Plan::new());
            plan.iter()
                .filter(|(_, planned)| planned.origins == ["DHCP on guest"])
                .map(|(key, _)| key.to_string())
                .filter(|key| !key.starts_with("linux/"))
                .collect::<Vec<_>>()
        };
        for taken in [
            "192.0.2.66/24",
            "192.0.2.10/24",
            "192.0.2.66/25",
            "192.0.1.66/16",
        ] {
            assert!(obtained(of("guest", taken, &[])).is_empty(), "{taken}");
        }
        let told = [
            ("192.0.2.0/25", "198.51.100.1"),
            ("0.0.0.0/0", "198.51.100.1"),
            ("203.0.113.0/24", "198.51.100.1"),
        ];
        assert_eq!(
            obtained(of("guest", "198.51.100.9/24", &told)),
            [
                "address/guest/198.51.100.9/24",
                "obtained/default/203.0.113.0/24"
            ]
        );
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
