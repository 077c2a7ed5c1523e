//! What a policy looks at in a packet: addresses, protocol, ports (RFC 4301 section 4.4.1.1).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{GreHeader, Ipv4Error, Ipv4View, Ipv6Error, Ipv6View, Protocol};

/// Both addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// From whom.
        source: Ipv4Addr,
        /// To whom.
        destination: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// From whom.
        source: Ipv6Addr,
        /// To whom.
        destination: Ipv6Addr,
    },
}

/// What a policy looks at in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// From whom to whom.
    pub addresses: Addresses,
    /// The transport, behind IPv6's extension headers.
    pub protocol: Protocol,
    /// Source and destination port. For ICMP both are type and code, in the high and low byte: IKE names
    /// them on both sides or on either (RFC 7296 section 3.13.1), whichever way the packet goes. `None`
    /// for what has no ports, for a fragment that is not the first ("opaque") and for a header that is
    /// cut short.
    pub ports: Option<(u16, u16)>,
}

/// Why a packet has no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// No byte at all, or a version other than 4 and 6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// A bad IPv4 packet.
    #[error(transparent)]
    Ipv4(#[from] Ipv4Error),
    /// A bad IPv6 packet.
    #[error(transparent)]
    Ipv6(#[from] Ipv6Error),
}

impl Flow {
    /// Reads a whole IP packet of either family.
    #[inline]
    pub fn of(packet: &[u8]) -> Result<Self, FlowError> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Ok(Self::of_ipv4(&Ipv4View::parse(packet)?)),
            Some(6) => Ok(Self::of_ipv6(&Ipv6View::parse(packet)?)?),
            _ => Err(FlowError::Version),
        }
    }

    /// [`Flow::spread`] of a whole IP packet; of ESP and GRE with SPI and key ([`Flow::spread_with`]). All fragments of a
    /// packet, the first one too, have that of their addresses alone, so that they take one path: only the first shows
    /// ports, and of IPv6 perhaps only it shows the transport.
    pub fn spread_of(packet: &[u8]) -> Result<u32, FlowError> {
        let mut flow = Self::of(packet)?;
        let (fragment, payload) = match flow.addresses {
            Addresses::V4 { .. } => {
                let view = Ipv4View::parse(packet)?;
                let fragment = view.more_fragments() || view.fragment_offset() != 0;
                (fragment, view.payload())
            }
            Addresses::V6 { .. } => {
                let layer = Ipv6View::parse(packet)?.upper_layer()?;
                let fragment = layer
                    .fragment
                    .is_some_and(|fragment| fragment.more || fragment.offset != 0);
                (fragment, layer.payload)
            }
        };
        if fragment {
            (flow.protocol, flow.ports) = (Protocol(0), None);
            return Ok(flow.spread());
        }
        let number = match flow.protocol {
            Protocol::ESP => payload.first_chunk().copied().map(u32::from_be_bytes),
            Protocol::GRE => GreHeader::key_of(payload),
            _ => None,
        };
        Ok(number.map_or_else(|| flow.spread(), |number| flow.spread_with(number)))
    }

    /// [`Flow::spread`] of packets without ports that a number tells apart: the SPI of ESP, the key of GRE (RFC 2890).
    #[must_use]
    pub fn spread_with(&self, number: u32) -> u32 {
        let ports = Some(((number >> 16) as u16, number as u16));
        Self { ports, ..*self }.spread()
    }

    /// A number that is the same for all packets of the flow and spreads flows evenly over its 32 bits (RFC 2992).
    pub fn spread(&self) -> u32 {
        let mut hash = u64::from(self.protocol.0);
        let mut mix = |value: u64| {
            // Multiplication by an odd constant moves every bit upwards, the shift brings the high ones down again.
            hash = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        };
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => mix(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())),
            Addresses::V6 {
                source,
                destination,
            } => {
                for bits in [source.to_bits(), destination.to_bits()] {
                    mix((bits >> 64) as u64);
                    mix(bits as u64);
                }
            }
        }
        if let Some((source, destination)) = self.ports {
            mix(u64::from(source) << 16 | u64::from(destination));
        }
        mix(0);
        hash as u32
    }

    /// Packets of the transport have ports, or what stands for them.
    pub const fn has_ports(protocol: Protocol) -> bool {
        matches!(
            protocol,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6
        )
    }

    /// Reads an IPv4 packet.
    #[inline]
    pub fn of_ipv4(packet: &Ipv4View<'_>) -> Self {
        let protocol = packet.protocol();
        let payload = (packet.fragment_offset() == 0).then(|| packet.payload());
        Self {
            addresses: Addresses::V4 {
                source: packet.source(),
                destination: packet.destination(),
            },
            protocol,
            ports: payload.and_then(|payload| ports(protocol, payload)),
        }
    }

    /// Reads an IPv6 packet.
    #[inline]
    pub fn of_ipv6(packet: &Ipv6View<'_>) -> Result<Self, Ipv6Error> {
        let layer = packet.upper_layer()?;
        let payload = layer.has_transport_header().then_some(layer.payload);
        Ok(Self {
            addresses: Addresses::V6 {
                source: packet.source(),
                destination: packet.destination(),
            },
            protocol: layer.protocol,
            ports: payload.and_then(|payload| ports(layer.protocol, payload)),
        })
    }
}

/// The ports of a transport that has some; for ICMP type and code, twice.
#[inline]
fn ports(protocol: Protocol, payload: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = payload.first_chunk::<4>()?;
    let first = u16::from_be_bytes([a, b]);
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => Some((first, u16::from_be_bytes([c, d]))),
        Protocol::ICMP | Protocol::ICMPV6 => Some((first, first)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::{Ipv4Header, Ipv6Header};

    fn v4(protocol: Protocol, flags_fragment: u16, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            traffic_class: 0,
            total_len: 20 + payload.len() as u16,
            identification: 1,
            flags_fragment,
            ttl: 64,
            protocol,
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
        };
        [&header.to_bytes()[..], payload].concat()
    }

    #[test]
    fn all_fragments_of_a_packet_take_one_path_and_flows_take_several() {
        let spread = |packet: &[u8]| Flow::spread_of(packet).unwrap();
        let four = |flags, ports: [u8; 4]| spread(&v4(Protocol::UDP, flags, &ports));
        let first = four(0x2000, [1, 2, 3, 4]);
        for later in [0x2001, 0x0064, 0x2000] {
            assert_eq!(four(later, [9, 9, 9, 9]), first);
        }
        assert_ne!(four(0, [1, 2, 3, 4]), four(0x4000, [1, 2, 3, 5]));
        assert_eq!(four(0, [1, 2, 3, 4]), four(0x4000, [1, 2, 3, 4]));
        let six = |next: u8, word: [u8; 2], payload: &[u8]| {
            let rest = [&[next, 0, word[0], word[1], 0, 0, 0, 7], payload].concat();
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: rest.len() as u16,
                next_header: Protocol::FRAGMENT,
                hop_limit: 64,
                source: "2001:db8::1".parse().unwrap(),
                destination: "2001:db8::2".parse().unwrap(),
            };
            spread(&[&header.to_bytes()[..], &rest].concat())
        };
        // Behind destination options, which a later fragment does not show.
        let options = [17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 0, 8, 0, 0];
        assert_eq!(six(60, [0, 1], &options), six(60, [0, 16], &[5; 8]));
        assert_eq!(six(17, [0, 1], &[7; 8]), six(17, [0, 9], &[6; 8]));
        // An atomic fragment is whole (RFC 6946).
        assert_ne!(six(17, [0, 0], &[7; 8]), six(17, [0, 0], &[6; 8]));
    }

    #[test]
    fn tunnels_between_the_same_ends_spread_by_spi_and_key() {
        let spread = |protocol, payload: &[u8]| {
            let packet = v4(protocol, 0x4000, payload);
            let flow = Flow::of(&packet).unwrap();
            (Flow::spread_of(&packet).unwrap(), flow)
        };
        let (one, flow) = spread(Protocol::ESP, &[0xc0, 0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(flow.ports, None, "no policy takes an SPI for ports");
        assert_eq!(one, flow.spread_with(0xc000_0001));
        assert_eq!(spread(Protocol::ESP, &[0xc0, 0, 0, 1, 9, 9, 9, 9]).0, one);
        assert_ne!(spread(Protocol::ESP, &[0xc0, 0, 0, 2, 0, 0, 0, 7]).0, one);
        let (keyed, flow) = spread(Protocol::GRE, &[0x20, 0, 8, 0, 0, 0, 0, 5]);
        assert_eq!(keyed, flow.spread_with(5));
        // Behind a checksum.
        let summed = [0xa0, 0, 8, 0, 1, 2, 3, 4, 0, 0, 0, 5];
        assert_eq!(spread(Protocol::GRE, &summed).0, keyed);
        for plain in [&[0, 0, 8, 0, 0, 0, 0, 5][..], &[0x20, 0, 8, 0, 0], &[]] {
            assert_eq!(spread(Protocol::GRE, plain).0, flow.spread());
        }
    }

    #[test]
    fn ports_are_read_where_there_are_some() {
        let transport = [0x12, 0x34, 0x56, 0x78];
        let ports = |packet: &[u8]| Flow::of(packet).unwrap().ports;
        assert_eq!(
            ports(&v4(Protocol::TCP, 0, &transport)),
            Some((0x1234, 0x5678))
        );
        assert_eq!(
            ports(&v4(Protocol::UDP, 0x2000, &transport)),
            Some((0x1234, 0x5678))
        );
        assert_eq!(
            ports(&v4(Protocol::UDP, 0x2001, &transport)),
            None,
            "a later fragment is opaque"
        );
        assert_eq!(ports(&v4(Protocol::UDP, 0, &transport[..3])), None);
        assert_eq!(
            ports(&v4(Protocol::ICMP, 0, &[8, 0, 1, 2])),
            Some((0x0800, 0x0800))
        );
        assert_eq!(ports(&v4(Protocol::ESP, 0, &transport)), None);
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: 12,
            next_header: Protocol::DESTINATION_OPTIONS,
            hop_limit: 64,
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::UNSPECIFIED,
        };
        let flow = Flow::of(
            &[
                &header.to_bytes()[..],
                &[6, 0, 1, 4, 0, 0, 0, 0],
                &transport,
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(
            (flow.protocol, flow.ports),
            (Protocol::TCP, Some((0x1234, 0x5678)))
        );
        assert_eq!(
            flow.addresses,
            Addresses::V6 {
                source: Ipv6Addr::LOCALHOST,
                destination: Ipv6Addr::UNSPECIFIED
            }
        );
        assert_eq!(Flow::of(&[]), Err(FlowError::Version));
        assert_eq!(Flow::of(&[0x50; 40]), Err(FlowError::Version));
        assert_eq!(
            Flow::of(&[0x45; 19]),
            Err(FlowError::Ipv4(Ipv4Error::Truncated(19)))
        );
    }
}
