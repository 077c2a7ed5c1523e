//! Where everything is in a [`crate::topology::Topology`], and which addresses it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// One of the five namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The host on gateway a's LAN.
    HostA,
    /// Where gateway a runs.
    GatewayA,
    /// The router between the gateways.
    Wan,
    /// Where gateway b runs.
    GatewayB,
    /// The host on gateway b's LAN.
    HostB,
}

impl Place {
    /// From left to right.
    pub const ALL: [Self; 5] = [
        Self::HostA,
        Self::GatewayA,
        Self::Wan,
        Self::GatewayB,
        Self::HostB,
    ];

    /// As it ends the namespace's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostA => "host-a",
            Self::GatewayA => "gateway-a",
            Self::Wan => "wan",
            Self::GatewayB => "gateway-b",
            Self::HostB => "host-b",
        }
    }
}

/// The two ends, which mirror each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Host and gateway a.
    A,
    /// Host and gateway b.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The opposite one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Where its gateway runs.
    pub const fn gateway(self) -> Place {
        match self {
            Self::A => Place::GatewayA,
            Self::B => Place::GatewayB,
        }
    }

    /// Where its host is.
    pub const fn host(self) -> Place {
        match self {
            Self::A => Place::HostA,
            Self::B => Place::HostB,
        }
    }

    /// The router's link towards it.
    pub const fn router_link(self) -> &'static str {
        match self {
            Self::A => "wan-a",
            Self::B => "wan-b",
        }
    }

    /// The addresses of this side.
    pub const fn addresses(self) -> SideAddresses {
        let (lan4, lan6, wan4, wan6) = match self {
            Self::A => ([10, 1, 0], [0xfd00, 1], [192, 0, 2], [0x2001, 0xdb8, 0xa]),
            Self::B => (
                [10, 2, 0],
                [0xfd00, 2],
                [198, 51, 100],
                [0x2001, 0xdb8, 0xb],
            ),
        };
        SideAddresses {
            lan4,
            lan6,
            wan4,
            wan6,
        }
    }
}

/// The networks of a side by their leading parts; the rest is the host number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideAddresses {
    lan4: [u8; 3],
    lan6: [u16; 2],
    wan4: [u8; 3],
    wan6: [u16; 3],
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791
    V4,
    /// RFC 8200
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl SideAddresses {
    /// The host: number 10 of its LAN.
    pub fn host(self, family: Family) -> IpNet {
        self.lan(family, 10, 0x10)
    }

    /// The gateway on its LAN: number 1.
    pub fn gateway_lan(self, family: Family) -> IpNet {
        self.lan(family, 1, 1)
    }

    /// The gateway on the untrusted side: number 2.
    pub fn gateway_wan(self, family: Family) -> IpNet {
        self.wan(family, 2)
    }

    /// The router: number 1.
    pub fn router(self, family: Family) -> IpNet {
        self.wan(family, 1)
    }

    /// The LAN itself.
    pub fn lan_network(self, family: Family) -> IpNet {
        self.lan(family, 0, 0).trunc()
    }

    /// The untrusted network itself.
    pub fn wan_network(self, family: Family) -> IpNet {
        self.wan(family, 0).trunc()
    }

    fn lan(self, family: Family, number4: u8, number6: u16) -> IpNet {
        match family {
            Family::V4 => network4(self.lan4, number4),
            Family::V6 => {
                let [first, second] = self.lan6;
                network6([first, second, 0], number6)
            }
        }
    }

    fn wan(self, family: Family, number: u8) -> IpNet {
        match family {
            Family::V4 => network4(self.wan4, number),
            Family::V6 => network6(self.wan6, number.into()),
        }
    }
}

fn network4([first, second, third]: [u8; 3], number: u8) -> IpNet {
    with_length(Ipv4Addr::new(first, second, third, number).into(), 24)
}

fn network6([first, second, third]: [u16; 3], number: u16) -> IpNet {
    with_length(
        Ipv6Addr::new(first, second, third, 0, 0, 0, 0, number).into(),
        64,
    )
}

/// Lengths here are constants that fit their family; a host route stands in for what cannot happen.
fn with_length(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn both_sides_mirror_each_other() {
        let a = Side::A.addresses();
        let b = Side::B.addresses();
        assert_eq!(a.host(Family::V4).to_string(), "10.1.0.10/24");
        assert_eq!(a.gateway_wan(Family::V6).to_string(), "2001:db8:a::2/64");
        assert_eq!(b.lan_network(Family::V6).to_string(), "fd00:2::/64");
        assert_eq!(b.wan_network(Family::V4).to_string(), "198.51.100.0/24");
        assert_eq!(b.router(Family::V4).to_string(), "198.51.100.1/24");
        assert_eq!(Side::A.other().gateway(), Place::GatewayB);
    }
}
