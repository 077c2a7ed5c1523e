//! Addresses and traffic selectors as they cross the socket.
//!
//! Both travel as bytes and are checked when they are read, so that a message which decodes but lies about an address
//! is refused with the bytes it carried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// An address or a range that no peer of ours would send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither 4 nor 16 bytes.
    #[error("an address of {0} bytes")]
    Length(usize),
    /// A port, or a number in a port's place, above 65535.
    #[error("port {0} is above 65535")]
    Port(u32),
    /// First and last address of a range are of different families or in the wrong order.
    #[error("no range from {first} to {last}")]
    Range {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: IpAddr,
    },
    /// A protocol number above 255.
    #[error("protocol {0} is above 255")]
    Protocol(u32),
    /// A message that must carry an address carried none.
    #[error("no {0}")]
    Missing(&'static str),
}

/// An address with a UDP port: one end of an SA. The port is 0 where it has no meaning.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Host {
    /// 4 or 16 bytes in network order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// In host order.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

impl Host {
    /// The address and port as they are used everywhere else.
    pub fn socket_addr(&self) -> Result<SocketAddr, AddressError> {
        Ok(SocketAddr::new(
            ip_from_bytes(&self.address)?,
            port(self.port)?,
        ))
    }

    /// The address alone.
    pub fn ip(&self) -> Result<IpAddr, AddressError> {
        ip_from_bytes(&self.address)
    }
}

impl From<SocketAddr> for Host {
    fn from(from: SocketAddr) -> Self {
        Self {
            address: ip_to_bytes(from.ip()),
            port: from.port().into(),
        }
    }
}

/// A traffic selector of RFC 7296 section 3.13.1: a range of addresses, a protocol and a range of ports.
///
/// ICMP and ICMPv6 carry type (high byte) and code (low byte) in the ports. A selector for OPAQUE ports (RFC 7296) has
/// `from_port` 65535 and `to_port` 0.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Selector {
    /// First address, 4 or 16 bytes in network order.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// Last address, of the same length.
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
    /// IP protocol number; 0: any.
    #[prost(uint32, tag = "3")]
    pub protocol: u32,
    /// First port.
    #[prost(uint32, tag = "4")]
    pub from_port: u32,
    /// Last port.
    #[prost(uint32, tag = "5")]
    pub to_port: u32,
}

impl Selector {
    /// All protocols and ports between two addresses, both included.
    pub fn addresses(first: IpAddr, last: IpAddr) -> Self {
        Self {
            from: ip_to_bytes(first),
            to: ip_to_bytes(last),
            protocol: 0,
            from_port: 0,
            to_port: u16::MAX.into(),
        }
    }

    /// The checked range of addresses.
    pub fn address_range(&self) -> Result<RangeInclusive<IpAddr>, AddressError> {
        let (first, last) = (ip_from_bytes(&self.from)?, ip_from_bytes(&self.to)?);
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(AddressError::Range { first, last });
        }
        Ok(first..=last)
    }

    /// The checked ports, first and last; first above last is OPAQUE.
    pub fn ports(&self) -> Result<(u16, u16), AddressError> {
        Ok((port(self.from_port)?, port(self.to_port)?))
    }

    /// The checked protocol; 0: any.
    pub fn ip_protocol(&self) -> Result<u8, AddressError> {
        u8::try_from(self.protocol).map_err(|_| AddressError::Protocol(self.protocol))
    }
}

fn port(port: u32) -> Result<u16, AddressError> {
    u16::try_from(port).map_err(|_| AddressError::Port(port))
}

fn ip_from_bytes(bytes: &[u8]) -> Result<IpAddr, AddressError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(Ipv6Addr::from(v6).into()),
        Err(_) => Err(AddressError::Length(bytes.len())),
    }
}

fn ip_to_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_host_survives_the_way_there_and_back() {
        for text in ["192.0.2.1:4500", "[2001:db8::1]:500"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Host::from(address).socket_addr(), Ok(address));
        }
    }

    #[test]
    fn lying_addresses_are_refused_with_what_they_carried() {
        assert_eq!(
            Host {
                address: vec![1, 2, 3],
                port: 0
            }
            .ip(),
            Err(AddressError::Length(3))
        );
        assert_eq!(
            Host {
                address: vec![1; 4],
                port: 65536
            }
            .socket_addr(),
            Err(AddressError::Port(65536))
        );
        let (first, last) = ("10.0.0.9".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(
            Selector::addresses(first, last).address_range(),
            Err(AddressError::Range { first, last })
        );
        let (first, last) = ("10.0.0.9".parse().unwrap(), "::1".parse().unwrap());
        assert!(Selector::addresses(first, last).address_range().is_err());
        assert!(Selector::addresses(last, last).address_range().is_ok());
    }
}
