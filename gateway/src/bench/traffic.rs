//! What the generator writes, and how its remains are recognised behind the graph.
//!
//! Every packet carries its number; headers and payload follow from it, so that a packet that comes out can be
//! compared with the one that went in, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use culvert_crypto::{Engine, OpenOp, SaKey, SealOp};
use culvert_dataplane::buffer::{BufferPool, HEADROOM, Packet};
use culvert_dataplane::driver::generator::{Random, Source};
use culvert_dataplane::graph::VECTOR;
use culvert_dataplane::sa::{Inherited, OuterHeader};
use culvert_net::{
    Ipv4Header, Ipv4Mut, Ipv4View, Ipv6Header, Ipv6Mut, Ipv6View, Protocol, UdpHeader, UdpView, esp,
};

use super::scene::{self, Protection, Shape};

/// Bytes of random payload to cut from.
const NOISE: usize = 16 << 10;
/// Bytes of the UDP header and of the number behind it.
const BEHIND_IP: usize = UdpHeader::LEN + 8;
/// Bytes of the link header in front of what a sink takes.
const LINK: usize = 14;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// From the host behind the box to the one behind its peer.
    Far,
    /// The other way.
    Near,
    /// To random addresses of so many networks.
    Networks(u32),
    /// To random addresses behind so many tunnels.
    Tunnels(u32),
    /// To random addresses behind the tunnel of a number.
    Tunnel(u32),
    /// To the host behind the box, through a random one of so many tunnels.
    FromTunnels(u32),
}

/// A host of a network.
fn host_of(network: IpAddr, random: &mut Random) -> IpAddr {
    let host = 1 + random.below(254) as u32;
    match network {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + host).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + u128::from(host)).into(),
    }
}

/// Packets of one length.
#[derive(Clone)]
pub struct Pattern {
    length: usize,
    v6: bool,
    destinations: Destinations,
    noise: Arc<[u8]>,
}

impl Pattern {
    /// IP packets of `length` bytes, at least 36 or, of IPv6, 56.
    pub fn new(length: usize, v6: bool, destinations: Destinations) -> Self {
        let mut noise = vec![0; NOISE];
        Random::new(length as u64).fill(&mut noise);
        let ip = if v6 { Ipv6Header::LEN } else { Ipv4Header::LEN };
        Self {
            length: length.max(ip + BEHIND_IP),
            v6,
            destinations,
            noise: noise.into(),
        }
    }

    /// Bytes of each packet.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The tunnel that the packet of a number goes through, and the rest of its random numbers.
    fn tunnel(&self, number: u64) -> (u32, Random) {
        let mut random = Random::new(number);
        let tunnel = match self.destinations {
            Destinations::Tunnels(tunnels) | Destinations::FromTunnels(tunnels) => {
                random.below(u64::from(tunnels)) as u32
            }
            Destinations::Tunnel(tunnel) => tunnel,
            _ => 0,
        };
        (tunnel, random)
    }

    fn addresses(&self, number: u64) -> ([IpAddr; 2], Random) {
        let (near, far): (IpAddr, IpAddr) = if self.v6 {
            (scene::NEAR6.into(), scene::FAR6.into())
        } else {
            (scene::NEAR.into(), scene::FAR.into())
        };
        let (tunnel, mut random) = self.tunnel(number);
        let pair = match self.destinations {
            Destinations::Far => [near, far],
            Destinations::Near | Destinations::FromTunnels(_) => [far, near],
            Destinations::Networks(networks) => {
                let network = random.below(u64::from(networks)) as u32;
                let network = scene::network_of(self.v6, network);
                [near, host_of(network, &mut random)]
            }
            Destinations::Tunnels(_) | Destinations::Tunnel(_) => {
                let network = scene::network_behind(self.v6, tunnel);
                [near, host_of(network, &mut random)]
            }
        };
        (pair, random)
    }

    /// Writes the packet of a number; `to` is as long as the packet.
    pub fn write(&self, number: u64, to: &mut [u8]) {
        let (addresses, mut random) = self.addresses(number);
        let Some((udp_length, rest)) = self.write_ip(addresses, number, to) else {
            return;
        };
        let udp = UdpHeader {
            source: 1024 + (number & 0xff) as u16,
            destination: 9,
            length: udp_length as u16,
            checksum: 0,
        };
        let Some((to_udp, rest)) = rest.split_first_chunk_mut() else {
            return;
        };
        udp.write(to_udp);
        let Some((to_number, payload)) = rest.split_first_chunk_mut() else {
            return;
        };
        *to_number = number.to_be_bytes();
        let start = random.below((NOISE - payload.len()) as u64) as usize;
        if let Some(noise) = self.noise.get(start..start + payload.len()) {
            payload.copy_from_slice(noise);
        }
    }

    /// Gives what is behind the header, and how long it is.
    fn write_ip<'a>(
        &self,
        addresses: [IpAddr; 2],
        number: u64,
        to: &'a mut [u8],
    ) -> Option<(usize, &'a mut [u8])> {
        match addresses {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                let ip = Ipv4Header {
                    traffic_class: 0,
                    total_len: self.length as u16,
                    identification: number as u16,
                    flags_fragment: Ipv4Header::DONT_FRAGMENT,
                    ttl: 64,
                    protocol: Protocol::UDP,
                    source,
                    destination,
                };
                let (to_ip, rest) = to.split_first_chunk_mut()?;
                ip.write(to_ip);
                Some((self.length - Ipv4Header::LEN, rest))
            }
            [IpAddr::V6(source), IpAddr::V6(destination)] => {
                let payload = self.length - Ipv6Header::LEN;
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: payload as u16,
                    next_header: Protocol::UDP,
                    hop_limit: 64,
                    source,
                    destination,
                };
                let (to_ip, rest) = to.split_first_chunk_mut()?;
                ip.write(to_ip);
                Some((payload, rest))
            }
            _ => None,
        }
    }

    /// The number of a packet, if it is the one of its number one hop later.
    pub fn number_one_hop_later(&self, packet: &[u8]) -> Option<u64> {
        let ip = if self.v6 {
            Ipv6Header::LEN
        } else {
            Ipv4Header::LEN
        };
        let number = packet.get(ip + UdpHeader::LEN..)?.first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        let mut expected = vec![0; self.length];
        self.write(number, &mut expected);
        if self.v6 {
            Ipv6Mut::new(&mut expected).ok()?.decrement_hop_limit();
        } else {
            Ipv4Mut::new(&mut expected).ok()?.decrement_ttl();
        }
        (packet == expected).then_some(number)
    }
}

/// Packets in the clear.
pub struct Plain {
    pattern: Pattern,
    next: u64,
}

impl Plain {
    /// Numbers from 0 on.
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, next: 0 }
    }
}

impl Source for Plain {
    fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize {
        for (at, packet) in packets.iter_mut().enumerate() {
            let length = self.pattern.length;
            if buffers.meta_mut(packet).set_len(length).is_err() {
                return at;
            }
            self.pattern.write(self.next, buffers.data_mut(packet));
            self.next += 1;
        }
        packets.len()
    }
}

/// ESP packets as the peer makes them, with consecutive sequence numbers.
pub struct Sealed {
    pattern: Pattern,
    engine: Arc<dyn Engine>,
    /// Of each tunnel: its key, and the sequence number of its last packet.
    tunnels: Vec<(SaKey, u64)>,
    outer: OuterHeader,
    spi: u32,
    next: Arc<AtomicU64>,
}

impl Sealed {
    /// Numbers from what `next` says on, which several may share: then each takes as many as it writes at once. With one
    /// tunnel sequence numbers are one more, with several they count from 1 in each.
    pub fn new(
        pattern: Pattern,
        engine: Arc<dyn Engine>,
        keys: Vec<SaKey>,
        outer: OuterHeader,
        next: Arc<AtomicU64>,
    ) -> Self {
        Self {
            pattern,
            engine,
            tunnels: keys.into_iter().map(|key| (key, 0)).collect(),
            outer,
            spi: scene::inbound_spi(),
            next,
        }
    }
}

impl Source for Sealed {
    fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize {
        let mut ops = ArrayVec::<SealOp<'_>, VECTOR>::new();
        let length = self.pattern.length;
        let numbers = self.next.fetch_add(packets.len() as u64, Ordering::Relaxed)..;
        let mut places = ArrayVec::<(u32, u64), VECTOR>::new();
        let one = self.tunnels.len() == 1;
        for number in numbers.clone().take(packets.len().min(VECTOR)) {
            let tunnel = if one {
                0
            } else {
                self.pattern.tunnel(number).0
            };
            let Some((_, last)) = self.tunnels.get_mut(tunnel as usize) else {
                break;
            };
            *last = if one { number } else { *last } + 1;
            places.push((tunnel, *last));
        }
        for ((packet, number), (tunnel, sequence)) in packets.iter_mut().zip(numbers).zip(places) {
            let Some((key, _)) = self.tunnels.get(tunnel as usize) else {
                break;
            };
            let (meta, area) = buffers.area_mut(packet);
            let sealed = key.suite().sealed_len(length);
            if meta.set_view(HEADROOM, self.outer.len() + sealed).is_err() {
                break;
            }
            let Some(whole) = area.get_mut(HEADROOM..HEADROOM + self.outer.len() + sealed) else {
                break;
            };
            let (outer, esp) = whole.split_at_mut(self.outer.len());
            let inherited = Inherited {
                dont_fragment: true,
                ..Inherited::default()
            };
            self.outer.write(outer, sealed, inherited);
            let next = inner_protocol(self.pattern.v6);
            if lay_out(key, self.spi + tunnel, next, length, esp, |inner| {
                self.pattern.write(number, inner);
            })
            .is_none()
            {
                break;
            }
            ops.push(SealOp::new(key, sequence, esp));
        }
        self.engine.seal_batch(&mut ops);
        ops.iter().take_while(|op| op.result.is_ok()).count()
    }
}

fn inner_protocol(v6: bool) -> Protocol {
    if v6 { Protocol::IPV6 } else { Protocol::IPV4 }
}

/// Puts SPI, inner packet and trailer where an engine expects them.
pub fn lay_out(
    key: &SaKey,
    spi: u32,
    next: Protocol,
    length: usize,
    esp: &mut [u8],
    write: impl FnOnce(&mut [u8]),
) -> Option<()> {
    let suite = key.suite();
    *esp.first_chunk_mut()? = spi.to_be_bytes();
    let end = esp.len().checked_sub(suite.icv_len())?;
    let (inner, trailer) = esp
        .get_mut(suite.header_len()..end)?
        .split_at_mut_checked(length)?;
    write(inner);
    esp::write_trailer(trailer, next).ok()
}

/// Looks at what a sink has taken: is it what must have become of a packet of the pattern?
pub enum Examiner {
    /// The packet itself, one hop later.
    Forwarded(Pattern),
    /// An ESP packet with it inside, of the keys that its SPI says.
    Encrypted(Pattern, Shape, Protection, Arc<dyn Engine>),
}

/// What a frame that is right says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of the packet.
    pub number: u64,
    /// Of an ESP packet: its SPI and sequence number.
    pub sequence: Option<(u32, u32)>,
}

impl Examiner {
    /// Headers, checksum, ICV, trailer and content; `None` if anything of it is wrong.
    pub fn accept(&self, frame: &[u8]) -> Option<Seen> {
        let packet = frame.get(LINK..)?;
        match self {
            Self::Forwarded(pattern) => {
                if !pattern.v6 {
                    Ipv4View::verify(packet).ok()?;
                }
                let number = pattern.number_one_hop_later(packet)?;
                Some(Seen {
                    number,
                    sequence: None,
                })
            }
            Self::Encrypted(pattern, shape, protection, reference) => {
                let mut esp = unwrap_outer(packet, *shape)?.to_vec();
                let (spi, rest) = esp.split_first_chunk()?;
                let (spi, sequence) = (
                    u32::from_be_bytes(*spi),
                    u32::from_be_bytes(*rest.first_chunk()?),
                );
                let tunnel = spi.checked_sub(scene::PEER_SPI)?;
                let key = protection.of_tunnel(tunnel);
                let key = key.key(reference.as_ref(), shape.esn).ok()?;
                let length = esp.len();
                // Few enough packets that the high half is zero.
                let mut ops = [OpenOp::new(&key, u64::from(sequence), &mut esp)];
                reference.open_batch(&mut ops);
                if ops.iter().any(|op| op.result.is_err()) {
                    return None;
                }
                let plain = esp.get(key.suite().ciphertext(length)?)?;
                let (next, length) = esp::read_trailer(plain).ok()?;
                let number = pattern.number_one_hop_later(plain.get(..length)?)?;
                (next == inner_protocol(pattern.v6)).then_some(Seen {
                    number,
                    sequence: Some((spi, sequence)),
                })
            }
        }
    }

    /// Whether sequence numbers grow with the packets' numbers, one each.
    pub fn is_consecutive(&self) -> bool {
        matches!(self, Self::Encrypted(pattern, ..) if !matches!(pattern.destinations, Destinations::Tunnels(_)))
    }
}

/// The ESP packet behind the outer headers, if those are right.
fn unwrap_outer(packet: &[u8], shape: Shape) -> Option<&[u8]> {
    let (source, destination, protocol, payload): (IpAddr, IpAddr, _, _) = if shape.v6 {
        let view = Ipv6View::parse(packet).ok()?;
        (
            view.source().into(),
            view.destination().into(),
            view.next_header(),
            view.payload(),
        )
    } else {
        let view = Ipv4View::verify(packet).ok()?;
        (
            view.source().into(),
            view.destination().into(),
            view.protocol(),
            view.payload(),
        )
    };
    if (source, destination) != (shape.ours(), shape.peers()) {
        return None;
    }
    if !shape.udp {
        return (protocol == Protocol::ESP).then_some(payload);
    }
    let udp = UdpView::parse(payload).ok()?;
    let ports = (udp.source_port(), udp.destination_port());
    let expected = (scene::NAT_T.source, scene::NAT_T.destination);
    (protocol == Protocol::UDP && ports == expected).then_some(udp.payload())
}
