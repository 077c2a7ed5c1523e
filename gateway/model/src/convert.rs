//! Between the leaf messages of the wire and the address types of the standard library and `ipnet`.
//!
//! Parse at the edge: a message that came from elsewhere is converted once, and inside everything is
//! valid.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::types::{IpAddress, IpPrefix};

/// Why a leaf message is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// An address is neither IPv4 nor IPv6.
    #[error("an address has {length} bytes; it has 4 (IPv4) or 16 (IPv6)")]
    AddressLength {
        /// How many it has.
        length: usize,
    },
    /// A prefix without an address.
    #[error("a prefix has no address")]
    NoAddress,
    /// A prefix is longer than its address.
    #[error("a prefix of length {length} on an address of {bits} bits")]
    PrefixLength {
        /// As received.
        length: u32,
        /// Of the address family.
        bits: u32,
    },
}

impl From<IpAddr> for IpAddress {
    fn from(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Self { address }
    }
}

impl TryFrom<&IpAddress> for IpAddr {
    type Error = ConvertError;

    fn try_from(message: &IpAddress) -> Result<Self, ConvertError> {
        let bytes = message.address.as_slice();
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            Ok(IpAddr::from(v4))
        } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            Ok(IpAddr::from(v6))
        } else {
            Err(ConvertError::AddressLength {
                length: bytes.len(),
            })
        }
    }
}

impl From<IpNet> for IpPrefix {
    /// The address keeps its host bits.
    fn from(prefix: IpNet) -> Self {
        Self {
            address: Some(prefix.addr().into()),
            length: u32::from(prefix.prefix_len()),
        }
    }
}

impl TryFrom<&IpPrefix> for IpNet {
    type Error = ConvertError;

    /// The address keeps its host bits; `trunc()` gives the network.
    fn try_from(message: &IpPrefix) -> Result<Self, ConvertError> {
        let address = message.address.as_ref().ok_or(ConvertError::NoAddress)?;
        let address = IpAddr::try_from(address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let error = ConvertError::PrefixLength {
            length: message.length,
            bits,
        };
        let length = u8::try_from(message.length).map_err(|_| error.clone())?;
        match address {
            IpAddr::V4(v4) => Ipv4Net::new(v4, length).map(IpNet::V4),
            IpAddr::V6(v6) => Ipv6Net::new(v6, length).map(IpNet::V6),
        }
        .map_err(|_| error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_and_prefixes_survive_the_wire() {
        for text in ["192.0.2.1/24", "0.0.0.0/0", "2001:db8::1/64", "::/0"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(IpNet::try_from(&IpPrefix::from(prefix)).unwrap(), prefix);
        }
    }

    #[test]
    fn bad_leaves_are_refused() {
        let five = IpAddress {
            address: vec![1; 5],
        };
        assert_eq!(
            IpAddr::try_from(&five),
            Err(ConvertError::AddressLength { length: 5 })
        );
        let long = IpPrefix {
            address: Some(IpAddress {
                address: vec![10, 0, 0, 0],
            }),
            length: 33,
        };
        assert_eq!(
            IpNet::try_from(&long),
            Err(ConvertError::PrefixLength {
                length: 33,
                bits: 32
            })
        );
        assert_eq!(
            IpNet::try_from(&IpPrefix::default()),
            Err(ConvertError::NoAddress)
        );
    }
}
