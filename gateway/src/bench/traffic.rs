//! What the generator writes, and how its remains are recognised behind the graph.
//!
//! Every packet carries its number; headers and payload follow from it, so that a packet that comes out can be
//! compared with the one that went in, byte for byte.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use culvert_crypto::{Engine, OpenOp, SaKey, SealOp};
use culvert_dataplane::buffer::{BufferPool, HEADROOM, Packet};
use culvert_dataplane::driver::generator::{Random, Source};
use culvert_dataplane::graph::VECTOR;
use culvert_dataplane::sa::{Inherited, OuterHeader};
use culvert_net::{Ipv4Header, Ipv4Mut, Ipv4View, Protocol, UdpHeader, esp};

use super::scene::{self, Protection};

/// Bytes of random payload to cut from.
const NOISE: usize = 16 << 10;
/// Bytes of IPv4 and UDP headers and of the number behind them.
const HEADERS: usize = Ipv4Header::LEN + UdpHeader::LEN + 8;
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
}

/// A random host of one of so many /24 networks.
fn host_behind(first: Ipv4Addr, networks: u32, random: &mut Random) -> Ipv4Addr {
    let network = random.below(u64::from(networks)) as u32;
    let host = 1 + random.below(254) as u32;
    Ipv4Addr::from_bits(first.to_bits() + (network << 8) + host)
}

/// Packets of one length.
#[derive(Clone)]
pub struct Pattern {
    length: usize,
    destinations: Destinations,
    noise: Arc<[u8]>,
}

impl Pattern {
    /// IPv4 packets of `length` bytes, at least 36.
    pub fn new(length: usize, destinations: Destinations) -> Self {
        let mut noise = vec![0; NOISE];
        Random::new(length as u64).fill(&mut noise);
        Self {
            length: length.max(HEADERS),
            destinations,
            noise: noise.into(),
        }
    }

    /// Bytes of each packet.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes the packet of a number; `to` is as long as the packet.
    pub fn write(&self, number: u64, to: &mut [u8]) {
        let mut random = Random::new(number);
        let (source, destination) = match self.destinations {
            Destinations::Far => (scene::NEAR, scene::FAR),
            Destinations::Near => (scene::FAR, scene::NEAR),
            Destinations::Networks(networks) => (
                scene::NEAR,
                host_behind(scene::NETWORKS, networks, &mut random),
            ),
            Destinations::Tunnels(tunnels) => (
                scene::NEAR,
                host_behind(scene::BEHIND_TUNNELS, tunnels, &mut random),
            ),
        };
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
        let udp = UdpHeader {
            source: 1024 + (number & 0xff) as u16,
            destination: 9,
            length: (self.length - Ipv4Header::LEN) as u16,
            checksum: 0,
        };
        let Some((to_ip, rest)) = to.split_first_chunk_mut() else {
            return;
        };
        ip.write(to_ip);
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

    /// Whether this is the packet of its number, one hop later.
    pub fn is_mine_one_hop_later(&self, packet: &[u8]) -> bool {
        let number = packet
            .get(HEADERS - 8..)
            .and_then(|rest| rest.first_chunk::<8>());
        let Some(number) = number else { return false };
        let mut expected = vec![0; self.length];
        self.write(u64::from_be_bytes(*number), &mut expected);
        if let Ok(mut header) = Ipv4Mut::new(&mut expected) {
            header.decrement_ttl();
        }
        packet == expected
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
    key: SaKey,
    outer: OuterHeader,
    spi: u32,
    next: u64,
}

impl Sealed {
    /// Numbers from 0 on, sequence numbers from 1 on.
    pub fn new(
        pattern: Pattern,
        engine: Arc<dyn Engine>,
        key: SaKey,
        outer: OuterHeader,
        spi: u32,
    ) -> Self {
        Self {
            pattern,
            engine,
            key,
            outer,
            spi,
            next: 0,
        }
    }
}

impl Source for Sealed {
    fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize {
        let mut ops = ArrayVec::<SealOp<'_>, VECTOR>::new();
        let (suite, length) = (self.key.suite(), self.pattern.length);
        for packet in packets.iter_mut().take(VECTOR) {
            let number = self.next;
            let (meta, area) = buffers.area_mut(packet);
            let sealed = suite.sealed_len(length);
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
            if lay_out(&self.key, self.spi, length, esp, |inner| {
                self.pattern.write(number, inner);
            })
            .is_none()
            {
                break;
            }
            self.next += 1;
            ops.push(SealOp::new(&self.key, self.next, esp));
        }
        self.engine.seal_batch(&mut ops);
        ops.iter().take_while(|op| op.result.is_ok()).count()
    }
}

/// Puts SPI, inner packet and trailer where an engine expects them.
pub fn lay_out(
    key: &SaKey,
    spi: u32,
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
    esp::write_trailer(trailer, Protocol::IPV4).ok()
}

/// Looks at what a sink has taken: is it what must have become of a packet of the pattern?
pub enum Examiner {
    /// The packet itself, one hop later.
    Forwarded(Pattern),
    /// An ESP packet with it inside, of the keys that its SPI says.
    Encrypted(Pattern, Protection, Arc<dyn Engine>),
}

impl Examiner {
    /// Whether the frame is right: headers, checksum, ICV, trailer and content.
    pub fn accepts(&self, frame: &[u8]) -> bool {
        let Some(packet) = frame.get(LINK..) else {
            return false;
        };
        match self {
            Self::Forwarded(pattern) => {
                Ipv4View::verify(packet).is_ok() && pattern.is_mine_one_hop_later(packet)
            }
            Self::Encrypted(pattern, protection, reference) => {
                let Ok(outer) = Ipv4View::verify(packet) else {
                    return false;
                };
                let addresses = (outer.source(), outer.destination());
                if addresses != (scene::OURS, scene::PEERS) || outer.protocol() != Protocol::ESP {
                    return false;
                }
                let mut esp = outer.payload().to_vec();
                let number = esp
                    .first_chunk()
                    .and_then(|spi| u32::from_be_bytes(*spi).checked_sub(scene::PEER_SPI));
                let key = number.map(|number| protection.of_tunnel(number).key(reference.as_ref()));
                let Some(Ok(key)) = &key else {
                    return false;
                };
                let length = esp.len();
                let mut ops = [OpenOp::new(key, 0, &mut esp)];
                reference.open_batch(&mut ops);
                if ops.iter().any(|op| op.result.is_err()) {
                    return false;
                }
                key.suite()
                    .ciphertext(length)
                    .and_then(|range| esp.get(range))
                    .and_then(|plain| Some((plain, esp::read_trailer(plain).ok()?)))
                    .is_some_and(|(plain, (next, length))| {
                        next == Protocol::IPV4
                            && plain
                                .get(..length)
                                .is_some_and(|inner| pattern.is_mine_one_hop_later(inner))
                    })
            }
        }
    }
}
