//! The outer header of a tunnel: prepared once an SA, finished with a few stores a packet.

use std::net::IpAddr;

use culvert_net::checksum::Sum;
use culvert_net::{Ipv4Header, Ipv6Header, Protocol, UdpHeader};

use super::outer_rules::HOPS;

/// Ports of UDP encapsulation (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPorts {
    /// Of the sender.
    pub source: u16,
    /// Of the receiver.
    pub destination: u16,
}

/// Largest outer header: IPv6 and UDP.
pub const OUTER_MAX: usize = Ipv6Header::LEN + UdpHeader::LEN;

/// What an outer header has that its SA alone does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// DSCP and ECN as one byte.
    pub traffic_class: u8,
    /// The don't-fragment bit; an IPv6 header has none.
    pub dont_fragment: bool,
    /// IPv4 identification of a packet that may be fragmented (RFC 6864).
    pub identification: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Flow label of an outer IPv6 header: 20 bits.
    pub flow_label: u32,
}

impl Default for Inherited {
    fn default() -> Self {
        Self {
            traffic_class: 0,
            dont_fragment: false,
            identification: 0,
            hop_limit: HOPS,
            flow_label: 0,
        }
    }
}

/// The outer header of one SA.
#[derive(Clone, Debug)]
pub struct OuterHeader {
    template: [u8; OUTER_MAX],
    /// The first 20 bytes of the template as numbers: 8, 8 and 4 bytes.
    words: [u64; 3],
    length: usize,
    /// Of the IPv4 template: its checksum's sum before length, identification, class, flags and TTL are known.
    sum: u16,
    v6: bool,
    udp: bool,
}

impl OuterHeader {
    /// Prepares the header of packets from `source` to `destination`; `None` if the families differ.
    pub fn new(source: IpAddr, destination: IpAddr, udp: Option<UdpPorts>) -> Option<Self> {
        let mut template = [0; OUTER_MAX];
        let protocol = if udp.is_some() {
            Protocol::UDP
        } else {
            Protocol::ESP
        };
        let (ip_length, v6) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    traffic_class: 0,
                    total_len: 0,
                    identification: 0,
                    flags_fragment: 0,
                    ttl: 0,
                    protocol,
                    source,
                    destination,
                };
                header.write(template.first_chunk_mut()?);
                template[10..12].fill(0);
                (Ipv4Header::LEN, false)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: 0,
                    next_header: protocol,
                    hop_limit: 0,
                    source,
                    destination,
                };
                header.write(template.first_chunk_mut()?);
                (Ipv6Header::LEN, true)
            }
            _ => return None,
        };
        let sum = Sum::of(template.get(..ip_length)?).folded();
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let words = [0..8, 8..16, 16..20].map(|place| number(&template[place]));
        let mut length = ip_length;
        if let Some(ports) = udp {
            // Checksum zero, for IPv6 too: RFC 3948 section 2.1, RFC 6935.
            let header = UdpHeader {
                source: ports.source,
                destination: ports.destination,
                length: 0,
                checksum: 0,
            };
            header.write(template.get_mut(length..)?.first_chunk_mut()?);
            length += UdpHeader::LEN;
        }
        Some(Self {
            template,
            words,
            length,
            sum,
            v6,
            udp: udp.is_some(),
        })
    }

    /// Bytes of the header.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the header has no bytes; it always has some.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The outer packets are IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// Writes the header in front of `payload` bytes, which follow it. `to` is exactly [`OuterHeader::len`] long; a
    /// shorter one is left alone.
    #[inline(always)]
    pub fn write(&self, to: &mut [u8], payload: usize, inherited: Inherited) {
        let total = (self.length + payload) as u16;
        match (self.v6, self.udp) {
            (false, udp) => {
                let Some((ip, rest)) = to.split_first_chunk_mut::<20>() else {
                    return;
                };
                self.write_v4(ip, total, inherited);
                if udp && let Some(to) = rest.first_chunk_mut::<8>() {
                    // Ports, length and a checksum of zero.
                    let length = (payload as u16 + 8).to_be_bytes();
                    let [.., a, b, c, d, _, _, _, _] = self.template[..28] else {
                        return;
                    };
                    *to = [a, b, c, d, length[0], length[1], 0, 0];
                }
            }
            (true, udp) => {
                let Some(to) = to.get_mut(..self.length) else {
                    return;
                };
                to.copy_from_slice(&self.template[..self.length]);
                let Some((ip, rest)) = to.split_first_chunk_mut::<40>() else {
                    return;
                };
                ip[0] |= inherited.traffic_class >> 4;
                let [_, l0, l1, l2] = inherited.flow_label.to_be_bytes();
                ip[1] |= inherited.traffic_class << 4 | l0;
                [ip[2], ip[3], ip[7]] = [l1, l2, inherited.hop_limit];
                [ip[4], ip[5]] = (total - 40).to_be_bytes();
                if udp && let Some(udp) = rest.first_chunk_mut::<8>() {
                    [udp[4], udp[5]] = (payload as u16 + 8).to_be_bytes();
                }
            }
        }
    }

    /// In two long stores and a short one: bytes that are stored one by one are slow to load as a whole.
    #[inline(always)]
    fn write_v4(&self, to: &mut [u8; 20], total: u16, inherited: Inherited) {
        let flags = u16::from(inherited.dont_fragment) << 14;
        let sum = u32::from(self.sum)
            + u32::from(inherited.traffic_class)
            + u32::from(total)
            + u32::from(inherited.identification)
            + u32::from(flags)
            + (u32::from(inherited.hop_limit) << 8);
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        let [first, second, third] = self.words;
        let first = first
            | u64::from(inherited.traffic_class) << 48
            | u64::from(total) << 32
            | u64::from(inherited.identification) << 16
            | u64::from(flags);
        let second = second | u64::from(inherited.hop_limit) << 56 | u64::from(checksum) << 32;
        let (front, destination) = to.split_at_mut(16);
        let (front, middle) = front.split_at_mut(8);
        front.copy_from_slice(&first.to_be_bytes());
        middle.copy_from_slice(&second.to_be_bytes());
        destination.copy_from_slice(&(third as u32).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Ipv4View, Ipv6View, UdpView};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn v4_headers_are_valid(source: [u8; 4], destination: [u8; 4], class: u8, df: bool, id: u16, hops: u8, payload in 8usize..1480, ports: Option<(u16, u16)>) {
            let udp = ports.map(|(source, destination)| UdpPorts { source, destination });
            let outer = OuterHeader::new(source.into(), destination.into(), udp).unwrap();
            let mut packet = vec![0x55; outer.len() + payload];
            outer.write(&mut packet[..outer.len()], payload, Inherited { traffic_class: class, dont_fragment: df, identification: id, hop_limit: hops, flow_label: 0 });
            let view = Ipv4View::verify(&packet).unwrap();
            prop_assert_eq!(view.source().octets(), source);
            prop_assert_eq!(view.destination().octets(), destination);
            prop_assert_eq!((view.traffic_class(), view.dont_fragment(), view.identification(), view.ttl()), (class, df, id, hops));
            prop_assert_eq!(usize::from(view.total_len()), packet.len());
            if let Some(ports) = udp {
                let view = UdpView::parse(view.payload()).unwrap();
                prop_assert_eq!((view.source_port(), view.destination_port()), (ports.source, ports.destination));
                prop_assert_eq!(view.payload().len(), payload);
                prop_assert_eq!(view.header().checksum, 0);
            } else {
                prop_assert_eq!(view.protocol(), Protocol::ESP);
                prop_assert_eq!(view.payload().len(), payload);
            }
        }

        #[test]
        fn v6_headers_are_valid(source: [u8; 16], destination: [u8; 16], class: u8, label in 0u32..1 << 20, hops: u8, payload in 8usize..1440, udp: bool) {
            let ports = udp.then_some(UdpPorts { source: 4500, destination: 40_000 });
            let outer = OuterHeader::new(source.into(), destination.into(), ports).unwrap();
            let mut packet = vec![0x55; outer.len() + payload];
            outer.write(&mut packet[..outer.len()], payload, Inherited { traffic_class: class, hop_limit: hops, flow_label: label, ..Inherited::default() });
            let view = Ipv6View::parse(&packet).unwrap();
            prop_assert_eq!((view.source().octets(), view.destination().octets()), (source, destination));
            prop_assert_eq!((view.traffic_class(), view.flow_label(), view.hop_limit()), (class, label, hops));
            prop_assert_eq!(view.total_len(), packet.len());
            prop_assert_eq!(view.next_header(), if udp { Protocol::UDP } else { Protocol::ESP });
        }
    }
}
