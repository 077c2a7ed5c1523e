//! What a server lends, checked: an address that an interface can have, for a time that can be renewed.

use std::net::Ipv4Addr;
use std::time::Duration;

use culvert_model::bus;
use ipnet::{IpNet, Ipv4Net};

use crate::refusal::Refusal;

/// A lease. Times are from when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The address and its network.
    pub address: Ipv4Net,
    /// Who lends it.
    pub server: Ipv4Addr,
    /// Until it is over.
    pub duration: Duration,
    /// T1: until the server is asked for another term.
    pub renew: Duration,
    /// T2: until any server is.
    pub rebind: Duration,
    /// Routes that came with it, at most [`MOST_ROUTES`].
    pub routes: Vec<Route>,
    /// Name servers that came with it, at most [`MOST_SERVERS`].
    pub dns_servers: Vec<Ipv4Addr>,
    /// The domain of the hosts on the link; empty: none.
    pub domain: String,
}

/// A route of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub destination: Ipv4Net,
    /// None: it is on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// Of one lease.
pub const MOST_ROUTES: usize = 64;
/// Of one lease; a resolver asks no more (resolv.conf(5)).
pub const MOST_SERVERS: usize = 3;
/// A shorter lease would be renewed all the time.
const SHORTEST: u32 = 10;
/// A longer one, or one without end (RFC 2131 section 3.3), is used for a day: whoever lent it is asked again by then, and
/// one that nobody on the link knows of ends.
const LONGEST: u32 = 86_400;
/// A server that wants to be asked again sooner than after this, and this part of the lease, is not obeyed.
const SOONEST_RENEWAL: u32 = 60;
const SOONEST_PART: u32 = 32;
/// In no case sooner.
const SHORTEST_RENEWAL: u32 = 2;
/// A network of more addresses than this leaves is on no link; it would make much of the world a neighbour.
const SHORTEST_PREFIX: u8 = 8;

/// What a server says, as it stands in its message.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// `yiaddr`
    pub address: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 1.
    pub mask: Option<Ipv4Addr>,
    /// Option 51, in seconds.
    pub duration: Option<u32>,
    /// Option 58, in seconds.
    pub renew: Option<u32>,
    /// Option 59, in seconds.
    pub rebind: Option<u32>,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 121; it stands for all routes, option 3 means nothing beside it (RFC 3442).
    pub routes: Option<Vec<(Ipv4Net, Ipv4Addr)>>,
    /// Option 6.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: String,
}

impl Offered {
    /// Checks it. What may be left out of a lease and is not right is left out.
    pub fn check(self) -> Result<Terms, Refusal> {
        let server = self.server.filter(|server| is_host(*server));
        let server = server.ok_or(Refusal::OtherServer)?;
        let address = self.address.filter(|address| is_host(*address));
        let address = network(address.ok_or(Refusal::BadAddress)?, self.mask)?;
        let seconds = self.duration.filter(|seconds| *seconds >= SHORTEST);
        let seconds = seconds.ok_or(Refusal::BadTime)?.min(LONGEST);
        let soonest = SOONEST_RENEWAL
            .min(seconds / SOONEST_PART)
            .max(SHORTEST_RENEWAL);
        let (renew, rebind) = match (self.renew, self.rebind) {
            (Some(renew), Some(rebind))
                if soonest <= renew && renew < rebind && rebind < seconds =>
            {
                (u64::from(renew) * 1000, u64::from(rebind) * 1000)
            }
            // RFC 2131 section 4.4.5.
            _ => (u64::from(seconds) * 500, u64::from(seconds) * 875),
        };
        let routes = match self.routes {
            Some(routes) => classless(&routes, address),
            None => by_router(&self.routers, address),
        };
        let dns_servers = self.dns_servers.into_iter().filter(|one| is_host(*one));
        Ok(Terms {
            address,
            server,
            duration: Duration::from_secs(seconds.into()),
            renew: Duration::from_millis(renew),
            rebind: Duration::from_millis(rebind),
            routes,
            dns_servers: dns_servers.take(MOST_SERVERS).collect(),
            domain: domain(&self.domain),
        })
    }
}

/// An address that a host can have, on whatever network.
fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    (1..224).contains(&first) && !address.is_loopback() && !address.is_link_local()
}

/// The address with the length of its network; without a mask that of its class, as before there were masks.
fn network(address: Ipv4Addr, mask: Option<Ipv4Addr>) -> Result<Ipv4Net, Refusal> {
    let length = match (mask, address.octets()) {
        (Some(mask), _) => {
            let bits = mask.to_bits();
            if bits.leading_ones() + bits.trailing_zeros() != 32 {
                return Err(Refusal::BadMask);
            }
            bits.leading_ones() as u8
        }
        (None, [..128, ..]) => 8,
        (None, [..192, ..]) => 16,
        (None, _) => 24,
    };
    if length < SHORTEST_PREFIX {
        return Err(Refusal::BadMask);
    }
    let network = Ipv4Net::new(address, length).map_err(|_| Refusal::BadMask)?;
    // RFC 3021: a /31 has neither.
    if length < 31 && (address == network.network() || address == network.broadcast()) {
        return Err(Refusal::BadAddress);
    }
    Ok(network)
}

/// Another host can have this address as far as the network of `own` goes: not those of the network itself (RFC 3021: a
/// /31 has neither).
fn is_neighbour(address: Ipv4Addr, own: Ipv4Net) -> bool {
    let reserved =
        own.prefix_len() < 31 && (address == own.network() || address == own.broadcast());
    is_host(address) && address != own.addr() && !reserved
}

/// The first router that is on the link.
fn by_router(routers: &[Ipv4Addr], own: Ipv4Net) -> Vec<Route> {
    let on_link = |router: &&Ipv4Addr| own.contains(*router) && is_neighbour(**router, own);
    let router = routers.iter().find(on_link);
    let route = router.map(|router| Route {
        destination: Ipv4Net::default(),
        gateway: Some(*router),
    });
    route.into_iter().collect()
}

/// Those to networks that can be routed, by routers on the link: in the network of the address, or in one that another of
/// these routes puts there.
fn classless(told: &[(Ipv4Net, Ipv4Addr)], own: Ipv4Net) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let (direct, indirect): (Vec<_>, Vec<_>) = told
        .iter()
        .take(MOST_ROUTES)
        .map(|(destination, router)| (destination.trunc(), *router))
        .filter(|(destination, router)| is_routable(*destination, router.is_unspecified()))
        .partition(|(_, router)| router.is_unspecified());
    // The networks on the link first.
    for (destination, router) in direct.into_iter().chain(indirect) {
        let gateway = (!router.is_unspecified()).then_some(router);
        let mut links = routes.iter().filter(|route| route.gateway.is_none());
        let reachable = gateway.is_none_or(|gateway| {
            is_neighbour(gateway, own)
                && (own.contains(&gateway) || links.any(|link| link.destination.contains(&gateway)))
        });
        let known = routes.iter().any(|route| route.destination == destination);
        // That of the address is there without.
        if reachable && !known && destination != own.trunc() {
            routes.push(Route {
                destination,
                gateway,
            });
        }
    }
    routes
}

/// Halves and quarters of the world would stand before the default route of the configuration, and none of them is on a
/// link.
fn is_routable(destination: Ipv4Net, on_link: bool) -> bool {
    if destination.prefix_len() < SHORTEST_PREFIX {
        return destination.prefix_len() == 0 && !on_link;
    }
    let network = destination.network();
    !(network.is_loopback()
        || network.is_multicast()
        || network.is_link_local()
        || network.octets()[0] >= 240)
}

/// What is no host name is none: it comes to stand in a file.
fn domain(told: &str) -> String {
    let name = told.trim_end_matches(['\0', '.']);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= 253 && name.split('.').all(is_label) {
        name.to_ascii_lowercase()
    } else {
        String::new()
    }
}

impl Terms {
    /// With what is left of its times.
    pub fn on_the_bus(
        &self,
        renew: Duration,
        rebind: Duration,
        expire: Duration,
    ) -> bus::DhcpLease {
        let seconds = |time: Duration| time.as_secs() as u32;
        bus::DhcpLease {
            address: Some(IpNet::V4(self.address).into()),
            server: Some(std::net::IpAddr::V4(self.server).into()),
            routes: self
                .routes
                .iter()
                .map(|route| bus::DhcpRoute {
                    destination: Some(IpNet::V4(route.destination).into()),
                    gateway: route
                        .gateway
                        .map(|gateway| std::net::IpAddr::V4(gateway).into()),
                })
                .collect(),
            dns_servers: self
                .dns_servers
                .iter()
                .map(|server| std::net::IpAddr::V4(*server).into())
                .collect(),
            domain: self.domain.clone(),
            duration_s: seconds(self.duration),
            renew_s: seconds(renew),
            rebind_s: seconds(rebind),
            expire_s: seconds(expire),
        }
    }

    /// From what was stored: checked like what a server says.
    pub fn from_stored(lease: &bus::DhcpLease) -> Option<Self> {
        let four = |address: &culvert_model::types::IpAddress| match address.try_into().ok()? {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        };
        let net = |prefix: &culvert_model::types::IpPrefix| match prefix.try_into().ok()? {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        };
        let address = net(lease.address.as_ref()?)?;
        let routes = lease.routes.iter().filter_map(|route| {
            let gateway = match &route.gateway {
                Some(gateway) => four(gateway)?,
                None => Ipv4Addr::UNSPECIFIED,
            };
            Some((net(route.destination.as_ref()?)?, gateway))
        });
        Offered {
            address: Some(address.addr()),
            server: four(lease.server.as_ref()?),
            mask: Some(address.netmask()),
            duration: Some(lease.duration_s),
            renew: Some(lease.renew_s),
            rebind: Some(lease.rebind_s),
            routers: Vec::new(),
            routes: Some(routes.collect()),
            dns_servers: lease.dns_servers.iter().filter_map(four).collect(),
            domain: lease.domain.clone(),
        }
        .check()
        .ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn offered() -> Offered {
        Offered {
            address: Some(Ipv4Addr::new(192, 0, 2, 10)),
            server: Some(Ipv4Addr::new(192, 0, 2, 1)),
            mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            duration: Some(3600),
            ..Offered::default()
        }
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_by_the_rule_where_the_servers_make_no_sense() {
        let times = |renew, rebind| {
            let terms = Offered {
                renew,
                rebind,
                ..offered()
            }
            .check()
            .unwrap();
            (terms.renew.as_secs(), terms.rebind.as_secs())
        };
        assert_eq!(times(Some(60), Some(61)), (60, 61));
        assert_eq!(times(Some(600), Some(3599)), (600, 3599));
        for wrong in [
            (None, None),
            (Some(200), Some(100)),
            (Some(100), Some(100)),
            (Some(0), Some(100)),
            (Some(1), Some(2)),
            // It would be asked all the time.
            (Some(59), Some(100)),
            (Some(100), Some(3600)),
            (Some(100), None),
        ] {
            assert_eq!(times(wrong.0, wrong.1), (1800, 3150), "{wrong:?}");
        }
        let time = |duration| {
            Offered {
                duration,
                ..offered()
            }
            .check()
            .map(|terms| terms.duration.as_secs())
        };
        for wrong in [None, Some(0), Some(9)] {
            assert_eq!(time(wrong), Err(Refusal::BadTime));
        }
        assert_eq!(time(Some(10)), Ok(10));
        for long in [86_400, 86_401, u32::MAX] {
            assert_eq!(time(Some(long)), Ok(86_400));
        }
        // Sooner where the lease is short.
        let renewed = |duration, renew| {
            let offered = Offered {
                duration: Some(duration),
                renew: Some(renew),
                rebind: Some(renew + 1),
                ..offered()
            };
            offered.check().unwrap().renew.as_secs()
        };
        assert_eq!((renewed(120, 3), renewed(120, 2)), (3, 60));
        assert_eq!((renewed(10, 2), renewed(10, 1)), (2, 5));
        // The server's times are of the whole lease, a day of it is used.
        let week = 7 * 86_400;
        assert_eq!(renewed(week, 59), 43_200);
        assert_eq!(renewed(week, 60), 60);
        assert_eq!(renewed(week, week / 2), 43_200);
    }

    #[test]
    fn only_what_an_interface_can_have_is_taken() {
        let take = |address: [u8; 4], mask: [u8; 4]| {
            Offered {
                address: Some(address.into()),
                mask: Some(mask.into()),
                ..offered()
            }
            .check()
            .map(|terms| terms.address.to_string())
        };
        let whole = [255, 255, 255, 0];
        for wrong in [
            [0, 0, 0, 0],
            [127, 0, 0, 1],
            [169, 254, 1, 1],
            [224, 0, 0, 1],
            [240, 0, 0, 1],
            [255, 255, 255, 255],
            [192, 0, 2, 0],
            [192, 0, 2, 255],
        ] {
            assert_eq!(take(wrong, whole), Err(Refusal::BadAddress), "{wrong:?}");
        }
        for wrong in [
            [255, 0, 255, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 255],
            [254, 0, 0, 0],
        ] {
            assert_eq!(
                take([192, 0, 2, 9], wrong),
                Err(Refusal::BadMask),
                "{wrong:?}"
            );
        }
        let of = |length: u8| {
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length)
                .unwrap()
                .netmask()
        };
        for length in 8..=32 {
            let taken = take([10, 99, 98, 97], of(length).octets()).unwrap();
            assert_eq!(taken, format!("10.99.98.97/{length}"));
        }
        let class = |address: [u8; 4]| {
            let offered = Offered {
                address: Some(address.into()),
                mask: None,
                ..offered()
            };
            offered.check().unwrap().address.prefix_len()
        };
        assert_eq!(class([10, 1, 1, 1]), 8);
        assert_eq!(class([172, 16, 1, 1]), 16);
        assert_eq!(class([192, 168, 1, 1]), 24);
    }

    #[test]
    fn routes_lead_by_routers_on_the_link_and_option_121_stands_before_option_3() {
        let routes = |routers: &[[u8; 4]], routes: Option<&[(&str, [u8; 4])]>| {
            Offered {
                routers: routers.iter().map(|router| (*router).into()).collect(),
                routes: routes.map(|routes| {
                    let one = |(to, by): &(&str, [u8; 4])| (net(to), (*by).into());
                    routes.iter().map(one).collect()
                }),
                ..offered()
            }
            .check()
            .unwrap()
            .routes
            .iter()
            .map(|route| match route.gateway {
                Some(gateway) => format!("{} {gateway}", route.destination),
                None => route.destination.to_string(),
            })
            .collect::<Vec<_>>()
        };
        let (far, own, near) = ([198, 51, 100, 1], [192, 0, 2, 10], [192, 0, 2, 1]);
        assert_eq!(routes(&[far, own, near], None), ["0.0.0.0/0 192.0.2.1"]);
        assert!(routes(&[far], None).is_empty());
        assert!(routes(&[near], Some(&[])).is_empty());
        let [network, broadcast] = [[192, 0, 2, 0], [192, 0, 2, 255]];
        assert_eq!(
            routes(&[network, broadcast, near], None),
            ["0.0.0.0/0 192.0.2.1"]
        );
        let told = [
            ("192.0.0.0/16", [0; 4]),
            ("10.0.0.0/8", network),
            ("11.0.0.0/8", broadcast),
        ];
        assert_eq!(routes(&[], Some(&told)), ["192.0.0.0/16"]);
        // Shorter ones than any network's, but for the default route; on the link not even that.
        let told = [
            ("0.0.0.0/0", near),
            ("0.0.0.0/1", near),
            ("128.0.0.0/1", near),
            ("10.0.0.0/7", near),
            ("12.0.0.0/8", near),
        ];
        assert_eq!(
            routes(&[], Some(&told)),
            ["0.0.0.0/0 192.0.2.1", "12.0.0.0/8 192.0.2.1"]
        );
        let told = [
            ("0.0.0.0/0", [0; 4]),
            ("0.0.0.0/1", [0; 4]),
            ("198.0.0.0/7", [0; 4]),
            ("13.0.0.0/8", far),
        ];
        assert!(routes(&[], Some(&told)).is_empty());
        let told = [
            ("0.0.0.0/0", far),
            ("10.1.2.3/8", near),
            ("10.0.0.0/8", near),
            ("127.0.0.0/8", near),
            ("224.0.0.0/4", near),
            ("240.0.0.0/4", near),
            ("169.254.0.0/16", near),
            ("192.0.2.0/24", [0; 4]),
            ("11.0.0.0/8", [203, 0, 113, 1]),
        ];
        assert_eq!(routes(&[near], Some(&told)), ["10.0.0.0/8 192.0.2.1"]);
        let direct = [("0.0.0.0/0", far), ("198.51.100.1/32", [0; 4])];
        assert_eq!(
            routes(&[], Some(&direct)),
            ["198.51.100.1/32", "0.0.0.0/0 198.51.100.1"]
        );
        let many: Vec<(Ipv4Net, Ipv4Addr)> = (0..200u8)
            .map(|one| {
                (
                    Ipv4Net::new([10, one, 0, 0].into(), 16).unwrap(),
                    near.into(),
                )
            })
            .collect();
        let offered = Offered {
            routes: Some(many),
            ..offered()
        };
        assert_eq!(offered.check().unwrap().routes.len(), MOST_ROUTES);
        // Both addresses of a /31 are hosts.
        let point_to_point = Offered {
            address: Some(Ipv4Addr::new(192, 0, 2, 1)),
            mask: Some(Ipv4Addr::new(255, 255, 255, 254)),
            routers: vec![Ipv4Addr::new(192, 0, 2, 0)],
            ..self::offered()
        };
        assert_eq!(point_to_point.check().unwrap().routes.len(), 1);
    }

    #[test]
    fn names_are_names_and_name_servers_are_hosts() {
        for (told, taken) in [
            ("Branch.Example.com.", "branch.example.com"),
            ("example.com\0", "example.com"),
            ("", ""),
            ("a b", ""),
            ("evil\nnameserver 192.0.2.66", ""),
            ("a..b", ""),
            ("-a", ""),
        ] {
            assert_eq!(domain(told), taken, "{told:?}");
        }
        let dns = [
            [0, 0, 0, 0],
            [9, 9, 9, 9],
            [224, 0, 0, 1],
            [8, 8, 8, 8],
            [1, 1, 1, 1],
            [4, 4, 4, 4],
        ];
        let offered = Offered {
            dns_servers: dns.map(Ipv4Addr::from).to_vec(),
            ..offered()
        };
        let taken = offered.check().unwrap().dns_servers;
        assert_eq!(
            taken,
            [[9, 9, 9, 9], [8, 8, 8, 8], [1, 1, 1, 1]].map(Ipv4Addr::from)
        );
    }

    #[test]
    fn what_is_stored_comes_back() {
        let terms = Offered {
            routes: Some(vec![
                (net("198.51.100.1/32"), Ipv4Addr::UNSPECIFIED),
                (net("0.0.0.0/0"), Ipv4Addr::new(198, 51, 100, 1)),
            ]),
            dns_servers: vec![Ipv4Addr::new(9, 9, 9, 9)],
            domain: "example.com".to_owned(),
            ..offered()
        }
        .check()
        .unwrap();
        let stored = terms.on_the_bus(terms.renew, terms.rebind, terms.duration);
        assert_eq!(Terms::from_stored(&stored), Some(terms));
        assert_eq!(Terms::from_stored(&bus::DhcpLease::default()), None);
    }
}
