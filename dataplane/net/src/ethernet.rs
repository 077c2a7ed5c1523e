//! Ethernet II frames and 802.1Q tags.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A 48-bit link-layer address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Why a text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address of the form 02:00:5e:10:00:01")]
pub struct MacAddrError(pub String);

impl MacAddr {
    /// Every station on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address, as in the target field of an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// Addressed to a group (broadcast included).
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Addressed to every station.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Can be a station's own address: neither a group nor all zeros.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// The group address of an IPv4 multicast address (RFC 1112 section 6.4).
    #[inline]
    pub const fn of_ipv4_multicast(group: Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast address (RFC 2464 section 7).
    #[inline]
    pub const fn of_ipv6_multicast(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }

    /// The modified EUI-64 interface identifier (RFC 4291 appendix A).
    pub const fn eui64(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    /// The link-local address that [`eui64`](Self::eui64) makes.
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f, g, h] = self.eui64();
        Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let refuse = || MacAddrError(text.to_owned());
        let mut parts = text.split(':');
        let mut octets = [0; 6];
        for octet in &mut octets {
            let part = parts.next().ok_or_else(refuse)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() {
            Err(refuse())
        } else {
            Ok(Self(octets))
        }
    }
}

/// The type of an Ethernet frame's payload (IANA "ieee-802-numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IEEE 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// Link-layer discovery.
    pub const LLDP: Self = Self(0x88cc);
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.write_str("ipv4"),
            Self::ARP => f.write_str("arp"),
            Self::VLAN => f.write_str("vlan"),
            Self::IPV6 => f.write_str("ipv6"),
            Self::SERVICE_VLAN => f.write_str("service-vlan"),
            Self::LLDP => f.write_str("lldp"),
            Self(number) => write!(f, "{number:#06x}"),
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes are no Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EthernetError {
    /// Shorter than the 14 bytes of the header.
    #[error("{0} bytes are too few for an Ethernet header")]
    Truncated(usize),
}

/// An Ethernet II header by value.
///
/// ```text
/// | destination 6 | source 6 | type 2 |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// To whom.
    pub destination: MacAddr,
    /// From whom.
    pub source: MacAddr,
    /// What follows.
    pub ether_type: EtherType,
}

impl EthernetHeader {
    /// Bytes of the header.
    pub const LEN: usize = 14;

    /// Fills the header.
    #[inline]
    pub const fn write(&self, to: &mut [u8; Self::LEN]) {
        let MacAddr([a, b, c, d, e, f]) = self.destination;
        let MacAddr([g, h, i, j, k, l]) = self.source;
        let [m, n] = self.ether_type.0.to_be_bytes();
        *to = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
    }

    /// The header as bytes, for a rewrite string that is kept with an adjacency.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        self.write(&mut bytes);
        bytes
    }
}

/// A frame whose header is there.
#[derive(Clone, Copy)]
pub struct EthernetView<'a> {
    header: &'a [u8; EthernetHeader::LEN],
    payload: &'a [u8],
}

impl<'a> EthernetView<'a> {
    /// Checks that the header is there.
    #[inline]
    pub const fn parse(frame: &'a [u8]) -> Result<Self, EthernetError> {
        match frame.split_first_chunk() {
            Some((header, payload)) => Ok(Self { header, payload }),
            None => Err(EthernetError::Truncated(frame.len())),
        }
    }

    /// To whom.
    #[inline]
    pub const fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// From whom.
    #[inline]
    pub const fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, _, _] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The type field as it stands: [`EtherType::VLAN`] for a tagged frame.
    #[inline]
    pub const fn ether_type(&self) -> EtherType {
        let [.., high, low] = *self.header;
        EtherType(u16::from_be_bytes([high, low]))
    }

    /// What follows the 14 bytes.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The 802.1Q tag, the type behind it and the payload behind that, when the frame is tagged.
    #[inline]
    pub const fn vlan(&self) -> Option<(VlanTag, EtherType, &'a [u8])> {
        match self.ether_type() {
            EtherType::VLAN | EtherType::SERVICE_VLAN => {
                match self.payload.split_first_chunk::<4>() {
                    Some((&[a, b, c, d], payload)) => Some((
                        VlanTag(u16::from_be_bytes([a, b])),
                        EtherType(u16::from_be_bytes([c, d])),
                        payload,
                    )),
                    None => None,
                }
            }
            _ => None,
        }
    }
}

/// The tag control information of IEEE 802.1Q.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// The VLAN identifier, 0 to 4095.
    #[inline]
    pub const fn id(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority code point, 0 to 7.
    #[inline]
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn mac_address_reads_what_it_writes_and_refuses_the_rest() {
        let mac: MacAddr = "02:00:5e:10:0A:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([0x02, 0x00, 0x5e, 0x10, 0x0a, 0xff]));
        assert_eq!(mac.to_string(), "02:00:5e:10:0a:ff");
        for wrong in [
            "",
            "02:00:5e:10:0a",
            "02:00:5e:10:0a:ff:00",
            "2:0:5e:10:a:ff",
            "+2:00:5e:10:0a:ff",
            "0g:00:00:00:00:00",
        ] {
            assert_eq!(
                wrong.parse::<MacAddr>(),
                Err(MacAddrError(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn group_addresses_follow_their_rfcs() {
        assert_eq!(
            MacAddr::of_ipv4_multicast(Ipv4Addr::new(224, 128, 64, 32)).0,
            [1, 0, 0x5e, 0, 64, 32]
        );
        let solicited: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(
            MacAddr::of_ipv6_multicast(solicited).0,
            [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]
        );
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(
            mac.link_local(),
            "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap()
        );
        assert!(
            MacAddr::BROADCAST.is_multicast() && !MacAddr::ZERO.is_unicast() && mac.is_unicast()
        );
    }

    #[test]
    fn header_comes_back_as_written() {
        let header = EthernetHeader {
            destination: MacAddr([1, 2, 3, 4, 5, 6]),
            source: MacAddr([7, 8, 9, 10, 11, 12]),
            ether_type: EtherType::IPV6,
        };
        let mut frame = header.to_bytes().to_vec();
        frame.push(0xaa);
        let view = EthernetView::parse(&frame).unwrap();
        assert_eq!(view.destination(), header.destination);
        assert_eq!(view.source(), header.source);
        assert_eq!(view.ether_type(), header.ether_type);
        assert_eq!(view.payload(), [0xaa]);
        assert_eq!(
            EthernetView::parse(&frame[..13]).err(),
            Some(EthernetError::Truncated(13))
        );
    }

    #[test]
    fn vlan_tag_is_read() {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0x00, 0xb0, 0x64, 0x08, 0x00, 0x45]);
        let (tag, inner, payload) = EthernetView::parse(&frame).unwrap().vlan().unwrap();
        assert_eq!(
            (tag.id(), tag.priority(), inner, payload),
            (100, 5, EtherType::IPV4, &[0x45][..])
        );
        assert!(EthernetView::parse(&frame[..17]).unwrap().vlan().is_none());
    }
}
