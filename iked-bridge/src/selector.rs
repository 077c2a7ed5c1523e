//! Traffic selectors (RFC 7296 section 3.13.1) as the table compares them.
//!
//! The plugin and the bus each carry selectors of their own; both are checked once, here, and inside the bridge a
//! selector is always a valid range.

use std::net::IpAddr;

use culvert_model::types;
use culvert_plugin_wire as wire;

/// A selector that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The plugin's message carries no valid range.
    #[error("a selector of the plugin: {0}")]
    Plugin(#[from] wire::AddressError),
    /// The bus message carries no valid range.
    #[error("a selector of the dataplane without a valid {0}")]
    Bus(&'static str),
}

/// An inclusive range of addresses, a protocol and a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family.
    pub last: IpAddr,
    /// 0: any.
    pub protocol: u8,
    /// First and last port; first above last is OPAQUE.
    pub ports: (u16, u16),
}

impl Selector {
    /// Whether every packet that `other` matches is matched by this selector as well.
    pub fn covers(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.first <= other.first
            && other.last <= self.last
            && (self.protocol == 0 || self.protocol == other.protocol)
            && (self.ports == (0, u16::MAX)
                || self.ports == other.ports
                || (self.ports.0 <= other.ports.0
                    && other.ports.0 <= other.ports.1
                    && other.ports.1 <= self.ports.1))
    }

    /// From a call of the plugin.
    pub fn from_wire(selector: &wire::Selector) -> Result<Self, SelectorError> {
        let range = selector.address_range()?;
        Ok(Self {
            first: *range.start(),
            last: *range.end(),
            protocol: selector.ip_protocol()?,
            ports: selector.ports()?,
        })
    }

    /// As the plugin reads it.
    pub fn to_wire(self) -> wire::Selector {
        wire::Selector {
            protocol: self.protocol.into(),
            from_port: self.ports.0.into(),
            to_port: self.ports.1.into(),
            ..wire::Selector::addresses(self.first, self.last)
        }
    }

    /// From a dump or an event of the dataplane.
    pub fn from_bus(selector: &types::Selector) -> Result<Self, SelectorError> {
        let address = |address: &Option<types::IpAddress>, which| {
            address
                .as_ref()
                .and_then(|address| IpAddr::try_from(address).ok())
                .ok_or(SelectorError::Bus(which))
        };
        let port = |port, which| u16::try_from(port).map_err(|_| SelectorError::Bus(which));
        let selector = Self {
            first: address(&selector.first, "first address")?,
            last: address(&selector.last, "last address")?,
            protocol: u8::try_from(selector.protocol)
                .map_err(|_| SelectorError::Bus("protocol"))?,
            ports: (
                port(selector.first_port, "first port")?,
                port(selector.last_port, "last port")?,
            ),
        };
        if selector.first.is_ipv4() != selector.last.is_ipv4() || selector.first > selector.last {
            return Err(SelectorError::Bus("range"));
        }
        Ok(selector)
    }

    /// As the dataplane reads it.
    pub fn to_bus(self) -> types::Selector {
        types::Selector {
            first: Some(self.first.into()),
            last: Some(self.last.into()),
            protocol: self.protocol.into(),
            first_port: self.ports.0.into(),
            last_port: self.ports.1.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn selector(first: &str, last: &str, protocol: u8, ports: (u16, u16)) -> Selector {
        Selector {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            protocol,
            ports,
        }
    }

    #[test]
    fn a_selector_survives_both_edges() {
        for one in [
            selector("10.0.0.0", "10.0.0.255", 0, (0, 65535)),
            selector("2001:db8::", "2001:db8::ffff", 6, (80, 443)),
            selector("10.0.0.1", "10.0.0.1", 17, (65535, 0)),
        ] {
            assert_eq!(Selector::from_wire(&one.to_wire()).unwrap(), one);
            assert_eq!(Selector::from_bus(&one.to_bus()).unwrap(), one);
        }
    }

    #[test]
    fn what_covers_what() {
        let wide = selector("10.0.0.0", "10.0.255.255", 0, (0, 65535));
        let narrow = selector("10.0.1.0", "10.0.1.255", 6, (80, 80));
        let opaque = selector("10.0.1.0", "10.0.1.255", 6, (65535, 0));
        assert!(wide.covers(&wide) && wide.covers(&narrow) && wide.covers(&opaque));
        assert!(!narrow.covers(&wide) && !narrow.covers(&opaque));
        assert!(opaque.covers(&opaque));
        assert!(!wide.covers(&selector("10.0.255.0", "10.1.0.0", 0, (0, 65535))));
        assert!(!wide.covers(&selector("::", "::", 0, (0, 65535))));
        let other_protocol = selector("10.0.1.0", "10.0.1.255", 17, (80, 80));
        assert!(!narrow.covers(&other_protocol));
    }

    #[test]
    fn a_range_the_wrong_way_round_is_refused() {
        let mut bus = selector("10.0.0.0", "10.0.0.255", 0, (0, 65535)).to_bus();
        std::mem::swap(&mut bus.first, &mut bus.last);
        assert_eq!(Selector::from_bus(&bus), Err(SelectorError::Bus("range")));
    }
}
