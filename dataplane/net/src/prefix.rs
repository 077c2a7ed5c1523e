//! Address prefixes: an address and how many of its leading bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why something is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Longer than the address.
    #[error("prefix length {length} is over {max}")]
    Length {
        /// What was given.
        length: u8,
        /// 32 or 128.
        max: u8,
    },
    /// Bits behind the prefix are set.
    #[error("{address}/{length} has bits set behind the prefix")]
    HostBits {
        /// The address.
        address: IpAddr,
        /// The length.
        length: u8,
    },
    /// Not of the form `10.0.0.0/8`.
    #[error("{0:?} is not an address prefix")]
    Syntax(String),
}

macro_rules! prefix {
    ($(#[$doc:meta])* $name:ident, $address:ty, $bits:ty, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            bits: $bits,
            length: u8,
        }

        impl $name {
            /// Every address.
            pub const ALL: Self = Self { bits: 0, length: 0 };

            /// The longest prefix length.
            pub const MAX_LENGTH: u8 = $max;

            /// Refuses a length over the address's and bits behind the prefix.
            pub fn new(address: $address, length: u8) -> Result<Self, PrefixError> {
                let prefix = Self::covering(address, length)?;
                if prefix.bits == address.to_bits() {
                    Ok(prefix)
                } else {
                    Err(PrefixError::HostBits { address: address.into(), length })
                }
            }

            /// The prefix of this length that contains `address`.
            #[inline]
            pub const fn covering(address: $address, length: u8) -> Result<Self, PrefixError> {
                if length > $max {
                    return Err(PrefixError::Length { length, max: $max });
                }
                Ok(Self { bits: address.to_bits() & Self::mask(length), length })
            }

            /// The one address.
            #[inline]
            pub const fn host(address: $address) -> Self {
                Self { bits: address.to_bits(), length: $max }
            }

            #[inline]
            const fn mask(length: u8) -> $bits {
                match <$bits>::MAX.checked_shl($max - length as u32) {
                    Some(mask) => mask,
                    None => 0,
                }
            }

            /// The lowest address.
            #[inline]
            pub const fn address(self) -> $address {
                <$address>::from_bits(self.bits)
            }

            /// How many leading bits count.
            #[inline]
            pub const fn length(self) -> u8 {
                self.length
            }

            /// The highest address.
            #[inline]
            pub const fn last(self) -> $address {
                <$address>::from_bits(self.bits | !Self::mask(self.length))
            }

            /// `address` is one of the prefix's.
            #[inline]
            pub const fn contains(self, address: $address) -> bool {
                (address.to_bits() ^ self.bits) & Self::mask(self.length) == 0
            }

            /// All addresses of `other` are this prefix's too.
            #[inline]
            pub const fn covers(self, other: Self) -> bool {
                self.length <= other.length && self.contains(other.address())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.address(), self.length)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = PrefixError;

            /// `address/length`; an address alone is the prefix of that one address.
            fn from_str(text: &str) -> Result<Self, PrefixError> {
                let refuse = || PrefixError::Syntax(text.to_owned());
                let (address, length) = match text.split_once('/') {
                    Some((address, digits)) => {
                        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                            return Err(refuse());
                        }
                        (address, digits.parse().map_err(|_| refuse())?)
                    }
                    None => (text, $max),
                };
                Self::new(address.parse().map_err(|_| refuse())?, length)
            }
        }
    };
}

prefix!(
    /// An IPv4 prefix, 0 to 32 bits; the bits behind it are zero.
    Ipv4Prefix, Ipv4Addr, u32, 32
);
prefix!(
    /// An IPv6 prefix, 0 to 128 bits; the bits behind it are zero.
    Ipv6Prefix, Ipv6Addr, u128, 128
);

/// A prefix of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpPrefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

impl IpPrefix {
    /// Refuses a length over the address's and bits behind the prefix.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        match address {
            IpAddr::V4(address) => Ipv4Prefix::new(address, length).map(Self::V4),
            IpAddr::V6(address) => Ipv6Prefix::new(address, length).map(Self::V6),
        }
    }

    /// The prefix of this length that contains `address`.
    pub fn covering(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        match address {
            IpAddr::V4(address) => Ipv4Prefix::covering(address, length).map(Self::V4),
            IpAddr::V6(address) => Ipv6Prefix::covering(address, length).map(Self::V6),
        }
    }

    /// The one address.
    pub const fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Ipv4Prefix::host(address)),
            IpAddr::V6(address) => Self::V6(Ipv6Prefix::host(address)),
        }
    }

    /// The lowest address.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::V4(prefix) => IpAddr::V4(prefix.address()),
            Self::V6(prefix) => IpAddr::V6(prefix.address()),
        }
    }

    /// How many leading bits count.
    pub const fn length(self) -> u8 {
        match self {
            Self::V4(prefix) => prefix.length(),
            Self::V6(prefix) => prefix.length(),
        }
    }

    /// `address` is of the same family and one of the prefix's.
    #[inline]
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Self::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            _ => false,
        }
    }
}

impl From<Ipv4Prefix> for IpPrefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self::V4(prefix)
    }
}

impl From<Ipv6Prefix> for IpPrefix {
    fn from(prefix: Ipv6Prefix) -> Self {
        Self::V6(prefix)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => fmt::Display::fmt(prefix, f),
            Self::V6(prefix) => fmt::Display::fmt(prefix, f),
        }
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        if text.contains(':') {
            text.parse().map(Self::V6)
        } else {
            text.parse().map(Self::V4)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_read_and_bad_text_refused() {
        for good in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.3/32",
            "::/0",
            "2001:db8::/32",
            "::1/128",
        ] {
            assert_eq!(good.parse::<IpPrefix>().unwrap().to_string(), good);
        }
        assert_eq!(
            "10.1.2.3".parse::<IpPrefix>().unwrap().to_string(),
            "10.1.2.3/32"
        );
        assert!(matches!(
            "10.0.0.1/8".parse::<IpPrefix>(),
            Err(PrefixError::HostBits { .. })
        ));
        assert_eq!(
            "10.0.0.0/33".parse::<IpPrefix>(),
            Err(PrefixError::Length {
                length: 33,
                max: 32
            })
        );
        assert_eq!(
            "::/129".parse::<IpPrefix>(),
            Err(PrefixError::Length {
                length: 129,
                max: 128
            })
        );
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::g/8",
            "10.0.0.0/256",
        ] {
            assert_eq!(
                bad.parse::<IpPrefix>(),
                Err(PrefixError::Syntax(bad.to_owned()))
            );
        }
    }

    proptest! {
        #[test]
        fn contains_compares_bit_by_bit(address: u32, other: u32, flip in 0u32..32, length in 0u8..=32) {
            let prefix = Ipv4Prefix::covering(address.into(), length).unwrap();
            for other in [other, address ^ (1 << flip)] {
                let slow = (0..length).all(|bit| (address >> (31 - bit)) & 1 == (other >> (31 - bit)) & 1);
                prop_assert_eq!(prefix.contains(other.into()), slow);
            }
            prop_assert!(prefix.contains(prefix.address()) && prefix.contains(prefix.last()));
            prop_assert!(u32::from(prefix.last()).checked_add(1).is_none_or(|next| !prefix.contains(next.into())));
        }

        #[test]
        fn contains_compares_bit_by_bit_v6(address: u128, flip in 0u32..128, length in 0u8..=128) {
            let prefix = Ipv6Prefix::covering(address.into(), length).unwrap();
            prop_assert_eq!(prefix.contains((address ^ (1 << flip)).into()), 127 - flip >= u32::from(length));
            prop_assert!(prefix.covers(Ipv6Prefix::host(prefix.last())));
        }
    }
}
