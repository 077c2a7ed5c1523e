//! ICMP errors about packets of our tunnels: ESP (RFC 4301 section 8.2), GRE and IPIP (RFC 2003 section 4); known by what
//! they quote.
//!
//! ```text
//!   | IP | ICMP type code | IP header of ours | ESP: SPI sequence ... |            as much as the router quotes
//!                                             | UDP 4500 -> ... | SPI sequence ... |
//!                                             | GRE: key ... |, or nothing
//! ```
//!
//! "Too big" goes to the control thread, who knows all SAs and tunnels and decides what it is worth (see [`crate::path_mtu`]). Every
//! other error is counted only: nobody can tell whether it is true, and that a peer is gone is for IKE to find out. What
//! quotes anything else is for Linux.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_net::{
    GreHeader, HeaderPlace, Icmpv4Type, Icmpv4View, Icmpv6Type, Icmpv6View, Protocol,
};

use super::ip4_local::NAT_TRAVERSAL;
use super::token_bucket::TokenBucket;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Encapsulations, Ends, Mode};
use crate::event::{Event, EventSender};
use crate::path_mtu::{QuotedEsp, TooBig, TunnelTooBig};
use crate::sa::UdpPorts;

/// Messages a second and worker that the control thread looks at: a route change under hundreds of tunnels is over in
/// seconds (routers repeat themselves for every packet), and a flood of forgeries costs it nothing.
const RATE: u64 = 200;
/// Messages at once after a pause.
const BURST: u64 = 64;

/// Of one worker and family.
pub(super) struct EspErrors {
    bucket: TokenBucket,
}

impl Default for EspErrors {
    fn default() -> Self {
        Self {
            bucket: TokenBucket::new(RATE, BURST),
        }
    }
}

/// Where a message came, and what it may be about.
pub(super) struct Surroundings<'a> {
    pub(super) events: &'a EventSender,
    pub(super) tunnels: &'a Encapsulations,
    pub(super) vrf: u32,
    pub(super) now: u64,
}

impl EspErrors {
    /// Looks at an ICMP message for the box. Why it goes no further; `None` if it is not about a tunnel.
    #[cold]
    pub(super) fn take4(
        &mut self,
        around: &Surroundings<'_>,
        message: &[u8],
    ) -> Option<DropReason> {
        let view = Icmpv4View::parse(message).ok()?;
        let about = About::find(&quoted4(view.body())?, around)?;
        let too_big = view.kind() == Icmpv4Type::FRAGMENTATION_NEEDED;
        let mtu = too_big.then(|| u32::from(view.next_hop_mtu()));
        // One that is damaged says nothing, whatever it looks like.
        Icmpv4View::verify(message).ok()?;
        Some(self.tell(around, about, mtu))
    }

    /// The same for an ICMPv6 message from `source` to `destination`.
    #[cold]
    pub(super) fn take6(
        &mut self,
        around: &Surroundings<'_>,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        message: &[u8],
    ) -> Option<DropReason> {
        let view = Icmpv6View::verify(message, source, destination).ok()?;
        let about = About::find(&quoted6(view.body())?, around)?;
        let too_big = view.kind().kind == Icmpv6Type::PACKET_TOO_BIG.kind;
        Some(self.tell(around, about, too_big.then(|| view.rest())))
    }

    /// `mtu`: the message is that the packet was too big for such a link.
    fn tell(&mut self, around: &Surroundings<'_>, about: About, mtu: Option<u32>) -> DropReason {
        let (error, told, limited) = match about {
            About::Esp(_) => (
                DropReason::EspIcmpError,
                DropReason::EspTooBig,
                DropReason::EspTooBigLimited,
            ),
            About::Tunnel { .. } => (
                DropReason::TunnelIcmpError,
                DropReason::TunnelTooBig,
                DropReason::TunnelTooBigLimited,
            ),
        };
        let Some(mtu) = mtu else {
            return error;
        };
        let event = match about {
            About::Esp(packet) => Event::TooBig(TooBig {
                vrf: around.vrf,
                mtu,
                packet,
            }),
            About::Tunnel { ends, length } => {
                Event::TunnelTooBig(TunnelTooBig { mtu, ends, length })
            }
        };
        // What is lost here the router says again, of the next packet.
        if self.bucket.take(around.now) && around.events.try_send(event).is_ok() {
            told
        } else {
            limited
        }
    }
}

/// What an ICMP error quotes, behind IP header and what transport mode leaves outside.
struct Quote<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    transport: &'a [u8],
    /// Bytes of the IP packet, by its header.
    length: u32,
}

/// Which packet of ours a message is about.
#[derive(Clone, Copy)]
enum About {
    Esp(QuotedEsp),
    Tunnel { ends: Ends, length: u32 },
}

impl About {
    fn find(quote: &Quote<'_>, around: &Surroundings<'_>) -> Option<Self> {
        if let Some(esp) = esp(quote) {
            return Some(Self::Esp(esp));
        }
        let mode = match quote.protocol {
            Protocol::IPV4 | Protocol::IPV6 => Mode::IpIp,
            // No checksum is written, so nothing of it depends on what is not quoted.
            Protocol::GRE => {
                let header = quote
                    .transport
                    .get(..GreHeader::MAX.min(quote.transport.len()))?;
                Mode::Gre(GreHeader::parse(header).ok()?.0.key)
            }
            _ => return None,
        };
        let ends = Ends {
            underlay_vrf: around.vrf,
            local: quote.source,
            remote: quote.destination,
            mode,
        };
        let length = quote.length;
        around.tunnels.find(&ends)?;
        Some(Self::Tunnel { ends, length })
    }
}

/// The packet that an ICMP error for IPv4 quotes.
fn quoted4(body: &[u8]) -> Option<Quote<'_>> {
    let header = body.first_chunk::<20>()?;
    let [
        first,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = *header;
    let header_len = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_len < 20 || f0 & 0x1f != 0 || f1 != 0 {
        return None;
    }
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    Some(Quote {
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        protocol: Protocol(protocol),
        transport: body.get(header_len..)?,
        length: u32::from(u16::from_be_bytes([l0, l1])),
    })
}

/// The packet that an ICMP error for IPv6 quotes: behind a fragment header of ours, or what transport mode leaves
/// outside.
fn quoted6(body: &[u8]) -> Option<Quote<'_>> {
    let [first, _, _, _, l0, l1, _, _, addresses @ ..] = *body.first_chunk::<40>()?;
    if first >> 4 != 6 {
        return None;
    }
    let place = HeaderPlace::find(body, |_, _| true).ok()?;
    if place.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return None;
    }
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    Some(Quote {
        source: IpAddr::V6(Ipv6Addr::from(*source)),
        destination: IpAddr::V6(Ipv6Addr::from(*destination.first_chunk::<16>()?)),
        protocol: place.protocol,
        transport: body.get(place.offset..)?,
        length: 40 + u32::from(u16::from_be_bytes([l0, l1])),
    })
}

fn esp(quote: &Quote<'_>) -> Option<QuotedEsp> {
    let (udp, esp) = match quote.protocol {
        Protocol::ESP => (None, quote.transport),
        Protocol::UDP => {
            let (header, rest) = quote.transport.split_first_chunk::<8>()?;
            let [s0, s1, d0, d1, ..] = *header;
            let ports = UdpPorts {
                source: u16::from_be_bytes([s0, s1]),
                destination: u16::from_be_bytes([d0, d1]),
            };
            if ports.source != NAT_TRAVERSAL {
                return None;
            }
            (Some(ports), rest)
        }
        _ => return None,
    };
    let (spi, rest) = esp.split_first_chunk::<4>()?;
    let spi = u32::from_be_bytes(*spi);
    // The non-ESP marker: IKE, for Linux.
    (spi != 0).then(|| QuotedEsp {
        source: quote.source,
        destination: quote.destination,
        udp,
        spi,
        sequence: rest
            .first_chunk::<4>()
            .map(|bytes| u32::from_be_bytes(*bytes)),
        length: quote.length,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{icmpv4, icmpv6};

    use super::*;
    use crate::graph::NodeId;
    use crate::nodes::ip4_local::Ip4Local;
    use crate::nodes::ip6_local::Ip6Local;
    use crate::nodes::workbench::{
        FAR_IP, FAR_IP6, LAN, ROUTER_IP, ROUTER_IP6, WAN_IP, WAN_IP6, Workbench, packet4,
        packet4_with, packet6,
    };

    const ESP: [u8; 12] = [0, 0, 0x12, 0x34, 0, 0, 0, 9, 1, 2, 3, 4];

    fn udp(source: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = source.to_be_bytes().to_vec();
        bytes.extend([0x12, 0x34, 0, 8 + payload.len() as u8, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn error4(kind: Icmpv4Type, mtu: u32, quoted: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 8];
        message.extend(quoted);
        icmpv4::seal(&mut message, kind, mtu).unwrap();
        packet4(ROUTER_IP, WAN_IP, 1, &message)
    }

    fn error6(kind: Icmpv6Type, mtu: u32, quoted: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 8];
        message.extend(quoted);
        icmpv6::seal(&mut message, kind, mtu, ROUTER_IP6, WAN_IP6).unwrap();
        packet6(ROUTER_IP6, WAN_IP6, 58, 64, &message)
    }

    /// Where a message goes, or why not, and what the control thread hears.
    fn outcome(bytes: &[u8]) -> (Option<NodeId>, Option<DropReason>, Option<TooBig>) {
        let v6 = bytes[0] >> 4 == 6;
        let (mut bench, node) = if v6 {
            (
                Workbench::only(Box::<Ip6Local>::default()),
                NodeId::Ip6Local,
            )
        } else {
            (
                Workbench::only(Box::<Ip4Local>::default()),
                NodeId::Ip4Local,
            )
        };
        bench.put(node, LAN, bytes, |_| {});
        bench.run();
        let reached = bench.arrived().first().map(|arrived| arrived.node);
        let dropped = DropReason::ALL
            .iter()
            .copied()
            .find(|reason| *reason != DropReason::Sink && bench.drops(*reason) > 0);
        let heard = bench.events().into_iter().find_map(|event| match event {
            Event::TooBig(message) => Some(message),
            _ => None,
        });
        bench.finish();
        (reached, dropped, heard)
    }

    #[test]
    fn what_routers_say_of_esp_is_heard() {
        let native = packet4(WAN_IP, FAR_IP, 50, &ESP);
        // As little as RFC 792 has routers quote.
        let (reached, dropped, heard) = outcome(&error4(
            Icmpv4Type::FRAGMENTATION_NEEDED,
            1400,
            &native[..28],
        ));
        assert_eq!(
            (reached, dropped, heard.unwrap()),
            (
                None,
                Some(DropReason::EspTooBig),
                TooBig {
                    vrf: 0,
                    mtu: 1400,
                    packet: QuotedEsp {
                        source: WAN_IP.into(),
                        destination: FAR_IP.into(),
                        udp: None,
                        spi: 0x1234,
                        sequence: Some(9),
                        length: 32,
                    },
                },
            )
        );
        let encapsulated = packet4(WAN_IP, FAR_IP, 17, &udp(4500, &ESP));
        let heard = outcome(&error4(
            Icmpv4Type::FRAGMENTATION_NEEDED,
            0,
            &encapsulated[..32],
        ))
        .2
        .unwrap();
        let ports = UdpPorts {
            source: 4500,
            destination: 0x1234,
        };
        assert_eq!(heard.packet.udp, Some(ports));
        assert_eq!((heard.packet.spi, heard.packet.sequence), (0x1234, None));
        for (next, payload, udp) in [
            (50, ESP.to_vec(), None),
            (17, udp(4500, &ESP), Some(ports)),
            (44, [&[50, 0, 0, 1, 0, 0, 0, 7], &ESP[..]].concat(), None),
            (0, [&[50, 0, 1, 4, 0, 0, 0, 0], &ESP[..]].concat(), None),
        ] {
            let quoted = packet6(WAN_IP6, FAR_IP6, next, 64, &payload);
            let (_, dropped, heard) = outcome(&error6(Icmpv6Type::PACKET_TOO_BIG, 1300, &quoted));
            let heard = heard.unwrap();
            assert_eq!(dropped, Some(DropReason::EspTooBig));
            assert_eq!(
                (heard.mtu, heard.packet.udp, heard.packet.sequence),
                (1300, udp, Some(9))
            );
            assert_eq!(heard.packet.length as usize, quoted.len());
        }
    }

    #[test]
    fn other_errors_about_esp_are_counted_and_all_else_is_for_linux() {
        let four = |payload: &[u8], protocol| packet4(WAN_IP, FAR_IP, protocol, payload);
        let six = |payload: &[u8], next| packet6(WAN_IP6, FAR_IP6, next, 64, payload);
        let marked = udp(4500, &[0, 0, 0, 0, 1, 2, 3, 4]);
        let later = packet4_with(WAN_IP, FAR_IP, 50, &ESP, |header| header.flags_fragment = 9);
        let too_big = Icmpv4Type::FRAGMENTATION_NEEDED;
        let counted = (None, Some(DropReason::EspIcmpError), None);
        let punted = (Some(NodeId::Punt), None, None);
        for (number, (bytes, expected)) in [
            (
                error4(Icmpv4Type::PORT_UNREACHABLE, 0, &four(&ESP, 50)),
                counted,
            ),
            (
                error4(Icmpv4Type::TTL_EXCEEDED, 0, &four(&udp(4500, &ESP), 17)),
                counted,
            ),
            (error6(Icmpv6Type::NO_ROUTE, 0, &six(&ESP, 50)), counted),
            (error4(too_big, 1400, &four(&marked, 17)), punted),
            (
                error4(too_big, 1400, &four(&udp(4500, &ESP), 17)[..28]),
                punted,
            ),
            (error4(too_big, 1400, &four(&udp(500, &ESP), 17)), punted),
            (error4(too_big, 1400, &four(&ESP, 6)), punted),
            (error4(too_big, 1400, &later), punted),
            (error4(too_big, 1400, &four(&ESP, 50)[..23]), punted),
            (error4(too_big, 1400, &[]), punted),
            (error4(Icmpv4Type::ECHO_REQUEST, 0, &four(&ESP, 50)), punted),
            (
                error6(Icmpv6Type::PACKET_TOO_BIG, 1300, &six(&marked, 17)),
                punted,
            ),
            (error6(Icmpv6Type::ECHO_REQUEST, 0, &six(&ESP, 50)), punted),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(outcome(&bytes), expected, "case {number}");
        }
        let mut damaged = error4(too_big, 1400, &four(&ESP, 50));
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(outcome(&damaged), punted, "Linux counts it");
    }

    #[test]
    fn a_flood_costs_the_control_thread_little() {
        let mut bench = Workbench::only(Box::<Ip4Local>::default());
        let quoted = packet4(WAN_IP, FAR_IP, 50, &ESP);
        let message = error4(Icmpv4Type::FRAGMENTATION_NEEDED, 1400, &quoted);
        let mut heard = 0;
        for _ in 0..10 {
            for _ in 0..100 {
                bench.put(NodeId::Ip4Local, LAN, &message, |_| {});
            }
            bench.run();
            heard += bench.events().len() as u64;
            bench.now += 10_000_000;
        }
        assert_eq!(heard, BURST + 9 * RATE / 100);
        assert_eq!(bench.drops(DropReason::EspTooBig), heard);
        assert_eq!(bench.drops(DropReason::EspTooBigLimited), 1000 - heard);
        bench.finish();
    }
}
