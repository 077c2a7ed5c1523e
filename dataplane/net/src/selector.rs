//! Traffic selectors (RFC 4301 section 4.4.1.1, RFC 7296 section 3.13).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Addresses, Flow, IpPrefix, Protocol};

/// Why a range is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// First and last address are of different families.
    #[error("{0} and {1} are of different families")]
    Family(IpAddr, IpAddr),
    /// The last address comes before the first.
    #[error("address range {0} to {1} is empty")]
    Addresses(IpAddr, IpAddr),
    /// The last port comes before the first.
    #[error("port range {0} to {1} is empty")]
    Ports(u16, u16),
}

/// Addresses of one family from a first to a last one, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressRange {
    /// IPv4.
    V4 {
        /// The first.
        first: Ipv4Addr,
        /// The last.
        last: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// The first.
        first: Ipv6Addr,
        /// The last.
        last: Ipv6Addr,
    },
}

impl AddressRange {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self::V4 {
        first: Ipv4Addr::UNSPECIFIED,
        last: Ipv4Addr::BROADCAST,
    };
    /// Every IPv6 address.
    pub const ALL_V6: Self = Self::V6 {
        first: Ipv6Addr::UNSPECIFIED,
        last: Ipv6Addr::from_bits(u128::MAX),
    };

    /// Refuses an empty range and mixed families.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        match (first, last) {
            _ if first.is_ipv4() != last.is_ipv4() => Err(RangeError::Family(first, last)),
            _ if first > last => Err(RangeError::Addresses(first, last)),
            (IpAddr::V4(first), IpAddr::V4(last)) => Ok(Self::V4 { first, last }),
            (IpAddr::V6(first), IpAddr::V6(last)) => Ok(Self::V6 { first, last }),
            _ => Err(RangeError::Family(first, last)),
        }
    }

    /// The first address.
    pub const fn first(&self) -> IpAddr {
        match self {
            Self::V4 { first, .. } => IpAddr::V4(*first),
            Self::V6 { first, .. } => IpAddr::V6(*first),
        }
    }

    /// The last address.
    pub const fn last(&self) -> IpAddr {
        match self {
            Self::V4 { last, .. } => IpAddr::V4(*last),
            Self::V6 { last, .. } => IpAddr::V6(*last),
        }
    }

    /// `address` is of the same family and in the range.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4 { first, last }, IpAddr::V4(address)) => (*first..=*last).contains(&address),
            (Self::V6 { first, last }, IpAddr::V6(address)) => (*first..=*last).contains(&address),
            _ => false,
        }
    }

    /// The prefix whose addresses these are, if there is one.
    pub fn prefix(&self) -> Option<IpPrefix> {
        let length = match self {
            Self::V4 { first, last } => (first.to_bits() ^ last.to_bits()).leading_zeros(),
            Self::V6 { first, last } => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        };
        IpPrefix::new(self.first(), length as u8)
            .ok()
            .filter(|prefix| Self::from(*prefix) == *self)
    }

    /// All addresses of `other` are in this range too.
    pub fn covers(&self, other: &Self) -> bool {
        self.contains(other.first()) && self.contains(other.last())
    }
}

impl From<IpPrefix> for AddressRange {
    fn from(prefix: IpPrefix) -> Self {
        match prefix {
            IpPrefix::V4(prefix) => Self::V4 {
                first: prefix.address(),
                last: prefix.last(),
            },
            IpPrefix::V6(prefix) => Self::V6 {
                first: prefix.address(),
                last: prefix.last(),
            },
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(prefix) => write!(f, "{prefix}"),
            None => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ports from a first to a last one, both included.
///
/// For ICMP the type is the high and the code the low byte (RFC 7296 section 3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, and packets of which the port is not known or that have none.
    pub const ANY: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Refuses an empty range. IKE's "opaque" (65535 to 0) is no range: it selects nothing here.
    pub const fn new(first: u16, last: u16) -> Result<Self, RangeError> {
        if first <= last {
            Ok(Self { first, last })
        } else {
            Err(RangeError::Ports(first, last))
        }
    }

    /// The one port.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// All ports: matches packets without ports too.
    #[inline]
    pub const fn is_any(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// `port` is in the range.
    #[inline]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Which packets an SA or a policy is for. Source and destination are those of the packet, so an
/// inbound SA's selector is its outbound sibling's [`reversed`](Selector::reversed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Source addresses.
    pub source: AddressRange,
    /// Destination addresses.
    pub destination: AddressRange,
    /// The transport; `None` for any.
    pub protocol: Option<Protocol>,
    /// Source ports.
    pub source_ports: PortRange,
    /// Destination ports.
    pub destination_ports: PortRange,
}

impl Selector {
    /// From one prefix to another, any protocol, any port.
    pub fn between(source: IpPrefix, destination: IpPrefix) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            protocol: None,
            source_ports: PortRange::ANY,
            destination_ports: PortRange::ANY,
        }
    }

    /// The selector of the other direction.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_ports: self.destination_ports,
            destination_ports: self.source_ports,
        }
    }

    /// Not every port will do.
    #[inline]
    pub const fn looks_at_ports(&self) -> bool {
        !(self.source_ports.is_any() && self.destination_ports.is_any())
    }

    /// The packet is one of those. Without known ports only [`PortRange::ANY`] matches.
    #[inline]
    pub fn matches(&self, flow: &Flow) -> bool {
        // Without short cuts: what decides differs from packet to packet, and a branch that is
        // guessed wrong costs more than all comparisons together.
        let addresses = match (&self.source, &self.destination, &flow.addresses) {
            (
                AddressRange::V4 {
                    first: s0,
                    last: s1,
                },
                AddressRange::V4 {
                    first: d0,
                    last: d1,
                },
                Addresses::V4 {
                    source,
                    destination,
                },
            ) => {
                inside_v4(source.to_bits(), s0.to_bits(), s1.to_bits())
                    & inside_v4(destination.to_bits(), d0.to_bits(), d1.to_bits())
            }
            (
                AddressRange::V6 {
                    first: s0,
                    last: s1,
                },
                AddressRange::V6 {
                    first: d0,
                    last: d1,
                },
                Addresses::V6 {
                    source,
                    destination,
                },
            ) => {
                inside_v6(source.to_bits(), s0.to_bits(), s1.to_bits())
                    & inside_v6(destination.to_bits(), d0.to_bits(), d1.to_bits())
            }
            _ => false,
        };
        let ports = match flow.ports {
            Some((source, destination)) => {
                self.source_ports.contains(source) & self.destination_ports.contains(destination)
            }
            None => self.source_ports.is_any() & self.destination_ports.is_any(),
        };
        addresses
            & ports
            & self
                .protocol
                .is_none_or(|protocol| protocol == flow.protocol)
    }
}

/// `first <= bits <= last` in one comparison, as `first <= last`.
#[inline]
const fn inside_v4(bits: u32, first: u32, last: u32) -> bool {
    bits.wrapping_sub(first) <= last.wrapping_sub(first)
}

/// As [`inside_v4`].
#[inline]
const fn inside_v6(bits: u128, first: u128, last: u128) -> bool {
    bits.wrapping_sub(first) <= last.wrapping_sub(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn range(a: u8, b: u8) -> AddressRange {
        AddressRange::new(
            Ipv4Addr::new(10, 0, 0, a.min(b)).into(),
            Ipv4Addr::new(10, 0, 0, a.max(b)).into(),
        )
        .unwrap()
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let (low, high): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let six: IpAddr = "::1".parse().unwrap();
        assert_eq!(
            AddressRange::new(high, low),
            Err(RangeError::Addresses(high, low))
        );
        assert_eq!(
            AddressRange::new(low, six),
            Err(RangeError::Family(low, six))
        );
        assert_eq!(
            AddressRange::new(six, high),
            Err(RangeError::Family(six, high))
        );
        assert_eq!(PortRange::new(2, 1), Err(RangeError::Ports(2, 1)));
        assert!(AddressRange::ALL_V4.contains(low) && !AddressRange::ALL_V4.contains(six));
        assert!(AddressRange::ALL_V6.contains(six) && !AddressRange::ALL_V6.contains(low));
        let prefix: IpPrefix = "10.0.0.0/24".parse().unwrap();
        assert_eq!(AddressRange::from(prefix).to_string(), "10.0.0.0/24");
        assert_eq!(range(0, 127).to_string(), "10.0.0.0/25");
        assert_eq!(range(0, 128).to_string(), "10.0.0.0-10.0.0.128");
        assert_eq!(AddressRange::ALL_V6.to_string(), "::/0");
        assert!(
            AddressRange::from(prefix).covers(&range(3, 9)) && !range(3, 9).covers(&prefix.into())
        );
    }

    /// RFC 7296 section 3.13.1: type and code stand on both sides, or on one where the other takes any. Echo
    /// requests are those of such a selector whichever way they go, and replies are not.
    #[test]
    fn icmp_is_matched_by_type_and_code_whichever_side_names_them() {
        let request = PortRange::one(0x0800);
        let unreachable = PortRange::new(0x0300, 0x03ff).unwrap();
        let all = |ports: (PortRange, PortRange)| Selector {
            source: AddressRange::ALL_V4,
            destination: AddressRange::ALL_V4,
            protocol: Some(Protocol::ICMP),
            source_ports: ports.0,
            destination_ports: ports.1,
        };
        let packet = |kind: u8, code: u8| {
            let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
            packet.extend([10, 0, 0, 1, 10, 0, 0, 2, kind, code, 0, 0, 0, 0, 0, 0]);
            Flow::of(&packet).unwrap()
        };
        for ports in [
            (request, request),
            (request, PortRange::ANY),
            (PortRange::ANY, request),
        ] {
            for selector in [all(ports), all(ports).reversed()] {
                assert!(selector.matches(&packet(8, 0)), "{selector:?}");
                assert!(!selector.matches(&packet(0, 0)), "{selector:?}");
                assert!(!selector.matches(&packet(8, 1)), "{selector:?}");
            }
        }
        assert!(all((unreachable, unreachable)).matches(&packet(3, 13)));
        assert!(!all((unreachable, request)).matches(&packet(3, 13)));
    }

    #[test]
    fn families_do_not_match_each_other() {
        let all = |range| Selector {
            source: range,
            destination: range,
            protocol: None,
            source_ports: PortRange::ANY,
            destination_ports: PortRange::ANY,
        };
        let addresses = Addresses::V4 {
            source: Ipv4Addr::LOCALHOST,
            destination: Ipv4Addr::LOCALHOST,
        };
        let flow = Flow {
            addresses,
            protocol: Protocol::ESP,
            ports: None,
        };
        assert!(
            all(AddressRange::ALL_V4).matches(&flow) && !all(AddressRange::ALL_V6).matches(&flow)
        );
    }

    proptest! {
        #[test]
        fn matching_is_the_conjunction_of_its_parts(
            s: [u8; 3], d: [u8; 3], protocols in (proptest::option::of(0u8..3), 0u8..3),
            sp in (0u16..9, 0u16..9), dp in (0u16..9, 0u16..9), any_ports: bool, ports in proptest::option::of((0u16..9, 0u16..9)),
        ) {
            let port_range = |(a, b): (u16, u16)| {
                if any_ports { PortRange::ANY } else { PortRange::new(a.min(b), a.max(b)).unwrap() }
            };
            let selector = Selector {
                source: range(s[0], s[1]), destination: range(d[0], d[1]), protocol: protocols.0.map(Protocol),
                source_ports: port_range(sp), destination_ports: port_range(dp),
            };
            let (source, destination) = (Ipv4Addr::new(10, 0, 0, s[2]), Ipv4Addr::new(10, 0, 0, d[2]));
            let flow = Flow { addresses: Addresses::V4 { source, destination }, protocol: Protocol(protocols.1), ports };
            let slow = (s[0].min(s[1])..=s[0].max(s[1])).any(|a| a == s[2])
                && (d[0].min(d[1])..=d[0].max(d[1])).any(|a| a == d[2])
                && protocols.0.unwrap_or(protocols.1) == protocols.1
                && (any_ports || ports.is_some_and(|(a, b)| {
                    (sp.0.min(sp.1)..=sp.0.max(sp.1)).any(|p| p == a) && (dp.0.min(dp.1)..=dp.0.max(dp.1)).any(|p| p == b)
                }));
            prop_assert_eq!(selector.matches(&flow), slow);
            let back = Flow {
                addresses: Addresses::V4 { source: destination, destination: source },
                protocol: flow.protocol,
                ports: ports.map(|(a, b)| (b, a)),
            };
            prop_assert_eq!(selector.reversed().matches(&back), slow);
        }
    }
}
