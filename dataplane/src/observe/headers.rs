//! What the headers of a packet say, as far as they are there: for filters, and for people.
//!
//! ```text
//!   | Ethernet (VLAN tags) | IPv4, IPv6 (extensions), ARP | TCP, UDP, SCTP, ICMP, ESP |
//! ```
//!
//! Forwarding checks packets; this only looks. It takes what is cut short or malformed as far as it makes sense, never
//! fails and never allocates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_net::{EtherType, MacAddr, Protocol};

/// Bytes of an Ethernet header.
const LINK: usize = 14;
/// VLAN tags that are passed over.
const TAGS: usize = 2;
/// Extension headers that are passed over.
const EXTENSIONS: usize = 8;

/// Where the bytes of a packet begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// With an Ethernet header.
    Link,
    /// With the header of IPv4, IPv6 or ARP.
    #[default]
    Network,
}

/// What a packet is at the network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
    /// ARP (RFC 826).
    Arp,
}

/// The Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// To whom.
    pub destination: MacAddr,
    /// From whom.
    pub source: MacAddr,
    /// What follows, behind VLAN tags.
    pub ether_type: EtherType,
}

/// A fragment's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlace {
    /// Bytes of payload before it.
    pub offset: u16,
    /// Others follow.
    pub more: bool,
    /// Of the whole packet.
    pub identification: u32,
}

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// The Ethernet header.
    pub link: Option<Link>,
    /// IPv4, IPv6 or ARP.
    pub family: Option<Family>,
    /// Source; of ARP the sender's protocol address.
    pub source: Option<IpAddr>,
    /// Destination; of ARP the target's protocol address.
    pub destination: Option<IpAddr>,
    /// TTL or hop limit.
    pub hops: Option<u8>,
    /// Bytes of the IP packet, as its header says.
    pub length: Option<usize>,
    /// Of a fragment.
    pub fragment: Option<FragmentPlace>,
    /// The transport, behind IPv6's extension headers; of a fragment that of the whole packet.
    pub protocol: Option<Protocol>,
    /// The transport's header and what follows; empty for a fragment that is not the first. Of ARP its bytes.
    pub transport: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Looks at the headers of a packet.
    #[inline]
    pub fn of(bytes: &'a [u8], layer: Layer) -> Self {
        let mut this = Self::default();
        let network = match layer {
            Layer::Link => match this.read_link(bytes) {
                Some(network) => network,
                None => return this,
            },
            Layer::Network => bytes,
        };
        match (this.link.map(|link| link.ether_type), network.first()) {
            // The node of ARP has the packet without its link header; it begins with the hardware type.
            (Some(EtherType::ARP), _) | (None, Some(0)) => this.read_arp(network),
            (None | Some(EtherType::IPV4), Some(first)) if first >> 4 == 4 => {
                this.read_ip4(network);
            }
            (None | Some(EtherType::IPV6), Some(first)) if first >> 4 == 6 => {
                this.read_ip6(network);
            }
            _ => {}
        }
        this
    }

    /// Source and destination port.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let &[a, b, c, d] = self.transport.first_chunk::<4>()?;
        matches!(
            self.protocol?,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP
        )
        .then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// SPI and sequence number of ESP, native or in UDP. Any UDP packet may be ESP: the ports are not fixed (RFC 3948
    /// section 2.1, behind a NAT); what begins with zero is IKE or a keepalive.
    #[inline]
    pub fn esp(&self) -> Option<(u32, u32)> {
        let at = match self.protocol? {
            Protocol::ESP => 0,
            Protocol::UDP => 8,
            _ => return None,
        };
        let &[s0, s1, s2, s3, n0, n1, n2, n3] = self.transport.get(at..)?.first_chunk::<8>()?;
        let spi = u32::from_be_bytes([s0, s1, s2, s3]);
        (spi != 0).then(|| (spi, u32::from_be_bytes([n0, n1, n2, n3])))
    }

    #[inline]
    fn read_link(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let header = bytes.first_chunk::<LINK>()?;
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = header;
        let mut ether_type = EtherType(u16::from_be_bytes([t0, t1]));
        let mut rest = &bytes[LINK..];
        for _ in 0..TAGS {
            if !matches!(ether_type, EtherType::VLAN | EtherType::SERVICE_VLAN) {
                break;
            }
            let Some((&[_, _, t0, t1], behind)) = rest.split_first_chunk::<4>() else {
                break;
            };
            ether_type = EtherType(u16::from_be_bytes([t0, t1]));
            rest = behind;
        }
        self.link = Some(Link {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            ether_type,
        });
        Some(rest)
    }

    #[inline]
    fn read_arp(&mut self, bytes: &'a [u8]) {
        self.family = Some(Family::Arp);
        self.transport = bytes;
        let address = |at: usize| {
            let octets = bytes.get(at..)?.first_chunk::<4>()?;
            Some(IpAddr::V4(Ipv4Addr::from(*octets)))
        };
        self.source = address(14);
        self.destination = address(24);
    }

    #[inline]
    fn read_ip4(&mut self, bytes: &'a [u8]) {
        self.family = Some(Family::Ip4);
        let Some(header) = bytes.first_chunk::<20>() else {
            return;
        };
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        self.source = Some([s0, s1, s2, s3].into());
        self.destination = Some([d0, d1, d2, d3].into());
        self.hops = Some(header[8]);
        self.protocol = Some(Protocol(header[9]));
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        self.length = Some(total);
        let place = u16::from_be_bytes([header[6], header[7]]);
        let (offset, more) = ((place & 0x1fff) << 3, place & 0x2000 != 0);
        if offset > 0 || more {
            self.fragment = Some(FragmentPlace {
                offset,
                more,
                identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            });
        }
        if offset == 0 {
            let start = usize::from(header[0] & 0x0f) * 4;
            self.transport = upto(bytes, start.max(20), total);
        }
    }

    #[inline]
    fn read_ip6(&mut self, bytes: &'a [u8]) {
        self.family = Some(Family::Ip6);
        let Some(header) = bytes.first_chunk::<40>() else {
            return;
        };
        let address = |at: usize| {
            let octets = header.get(at..)?.first_chunk::<16>()?;
            Some(IpAddr::V6(Ipv6Addr::from(*octets)))
        };
        self.source = address(8);
        self.destination = address(24);
        self.hops = Some(header[7]);
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        self.length = Some(total);
        let (mut next, mut at) = (Protocol(header[6]), 40);
        for _ in 0..EXTENSIONS {
            let Some(&extension) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
                break;
            };
            let units = usize::from(extension[1]);
            match next {
                Protocol::HOP_BY_HOP | Protocol::ROUTING | Protocol::DESTINATION_OPTIONS => {
                    at += units * 8 + 8;
                }
                Protocol::AH => at += units * 4 + 8,
                Protocol::FRAGMENT => {
                    let [_, _, p0, p1, i0, i1, i2, i3] = extension;
                    let place = u16::from_be_bytes([p0, p1]);
                    let fragment = FragmentPlace {
                        offset: place & 0xfff8,
                        more: place & 1 != 0,
                        identification: u32::from_be_bytes([i0, i1, i2, i3]),
                    };
                    self.fragment = Some(fragment);
                    if fragment.offset > 0 {
                        self.protocol = Some(Protocol(extension[0]));
                        return;
                    }
                    at += 8;
                }
                _ => break,
            }
            next = Protocol(extension[0]);
        }
        self.protocol = Some(next);
        self.transport = upto(bytes, at, total);
    }
}

/// Bytes from `start`, without what pads the frame behind `end`.
#[inline]
fn upto(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end.min(bytes.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::Flow;
    use proptest::prelude::*;

    use super::*;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, frame, packet4, packet4_with, packet6,
    };

    #[test]
    fn headers_are_found_behind_tags_and_extensions() {
        let inner = packet4(
            HOST_IP,
            FAR_IP,
            17,
            &[0x12, 0x34, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4],
        );
        let mut tagged = vec![0, 7, 0x81, 0, 0, 9, 8, 0];
        tagged.extend(&inner);
        let bytes = frame([2; 6], [4; 6], 0x88a8, &tagged);
        let headers = Headers::of(&bytes, Layer::Link);
        assert_eq!(headers.link.unwrap().source, MacAddr([4; 6]));
        assert_eq!(headers.source, Some(HOST_IP.into()));
        assert_eq!(headers.ports(), Some((0x1234, 53)));
        assert_eq!(headers.esp(), None, "the payload is too short");

        let payload = [50, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 1, 0, 0, 0, 9];
        let bytes = packet6(HOST_IP6, FAR_IP6, 60, 63, &payload);
        let headers = Headers::of(&bytes, Layer::Network);
        assert_eq!(headers.protocol, Some(Protocol::ESP));
        assert_eq!(headers.esp(), Some((0xc000_0001, 9)));
        assert_eq!(headers.hops, Some(63));
    }

    #[test]
    fn a_later_fragment_has_no_ports_and_padding_is_no_payload() {
        let whole = packet4_with(HOST_IP, FAR_IP, 17, &[1; 16], |header| {
            header.flags_fragment = 0x2000 | 4;
        });
        let headers = Headers::of(&whole, Layer::Network);
        assert_eq!(headers.ports(), None);
        let place = headers.fragment.unwrap();
        assert_eq!((place.offset, place.more), (32, true));
        let mut padded = packet4(HOST_IP, FAR_IP, 6, &[0, 80]);
        padded.resize(46, 9);
        assert_eq!(Headers::of(&padded, Layer::Network).ports(), None);
    }

    proptest! {
        /// Where the checking parser finds a flow, this finds the same.
        #[test]
        fn whole_packets_are_read_as_forwarding_reads_them(
            v6: bool, protocol in prop_oneof![Just(6u8), Just(17), Just(50), Just(0), Just(60), Just(44), any::<u8>()],
            payload in prop::collection::vec(any::<u8>(), 0..64), place in 0u16..4
        ) {
            let bytes = if v6 {
                packet6(HOST_IP6, FAR_IP6, protocol, 64, &payload)
            } else {
                packet4_with(HOST_IP, FAR_IP, protocol, &payload, |header| header.flags_fragment = place)
            };
            let headers = Headers::of(&bytes, Layer::Network);
            if let Ok(flow) = Flow::of(&bytes) {
                prop_assert_eq!(headers.protocol, Some(flow.protocol));
                if !matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6) {
                    prop_assert_eq!(headers.ports(), flow.ports);
                }
            }
        }

        #[test]
        fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            for layer in [Layer::Link, Layer::Network] {
                let headers = Headers::of(&bytes, layer);
                let _ = (headers.ports(), headers.esp());
            }
        }
    }
}
