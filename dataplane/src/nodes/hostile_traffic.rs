//! Frames that a gateway meets, damaged: the sources of [`super::whole_graph_tests`].
//!
//! Every frame starts out right, so that damage reaches the inner layers: an ESP packet has the peer's real keys and
//! the next sequence number, and what is wrong in it may be under the ICV.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_crypto::{Engine, KeyMaterial, Portable, SaKey, SealOp};
use culvert_net::nd::{self, NeighbourAdvert, NeighbourSolicit, RouterAdvert, RouterSolicit};
use culvert_net::{
    ArpPacket, EtherType, EthernetHeader, Ipv4Header, Ipv6Header, MacAddr, Protocol, UdpHeader,
    checksum, esp, icmpv4, icmpv6,
};

use super::workbench::{
    FAR_IP, FAR_IP6, HOST_IP, HOST_IP6, HOST_MAC, LAN, LAN_IP, LAN_IP6, LAN_MAC, ROUTER_IP,
    ROUTER_IP6, ROUTER_MAC, WAN, WAN_IP, WAN_IP6, WAN_MAC, packet4_with, packet6,
};
use crate::buffer::{BufferPool, DATA, LARGE_DATA, Packet, flags};
use crate::driver::generator::{Random, Source};
use crate::sa::{Inherited, OuterHeader, SaSpec};

/// Behind the peer.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
/// Behind the peer, and only a trap covers it.
pub const REMOTE_WITHOUT_SA: Ipv4Addr = Ipv4Addr::new(10, 2, 9, 10);
/// Behind the peer.
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
/// By a neighbour on a sub-interface.
pub const BEHIND_TAGS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// ESP packets that may be sent again.
const REPLAYS: usize = 512;

/// The other end of an inbound SA.
pub struct Peer {
    key: SaKey,
    outer: OuterHeader,
    spi: u32,
    seq: u64,
    v6: bool,
}

impl Peer {
    /// Of an SA of ours, with its keys.
    pub fn new(spec: &SaSpec, encryption: &[u8], integrity: &[u8]) -> Self {
        let material = KeyMaterial {
            suite: spec.suite,
            encryption,
            integrity,
            esn: spec.esn,
        };
        Self {
            key: Portable.key(&material).unwrap(),
            outer: OuterHeader::new(spec.source, spec.id.destination, spec.udp).unwrap(),
            spi: spec.id.spi.get(),
            seq: 0,
            v6: spec.source.is_ipv6(),
        }
    }

    /// An ESP packet around `plaintext`, whose trailer is there already and makes it a multiple of the block.
    fn seal(&mut self, plaintext: &[u8], class: u8) -> Vec<u8> {
        self.seq += 1;
        let suite = self.key.suite();
        let sealed = suite.header_len() + plaintext.len() + suite.icv_len();
        let mut packet = vec![0; self.outer.len() + sealed];
        let (outer, esp) = packet.split_at_mut(self.outer.len());
        let inherited = Inherited {
            traffic_class: class,
            dont_fragment: true,
            identification: 1,
            ..Inherited::default()
        };
        self.outer.write(outer, sealed, inherited);
        esp[..4].copy_from_slice(&self.spi.to_be_bytes());
        esp[suite.header_len()..][..plaintext.len()].copy_from_slice(plaintext);
        let mut ops = [SealOp::new(&self.key, self.seq, esp)];
        Portable.seal_batch(&mut ops);
        ops[0].result.unwrap();
        packet
    }
}

/// Damaged frames for one interface.
pub struct Hostile {
    interface: u32,
    random: Random,
    peers: Vec<Peer>,
    sent: VecDeque<Vec<u8>>,
    left: usize,
    /// The frame that is made now may be a jumbo frame.
    jumbo: bool,
}

impl Hostile {
    /// `count` frames for `interface`, those of `peers` among them.
    pub fn new(interface: u32, peers: Vec<Peer>, seed: u64, count: usize) -> Self {
        Self {
            interface,
            random: Random::new(seed),
            peers,
            sent: VecDeque::new(),
            left: count,
            jumbo: false,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len() as u64) as usize]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    fn length(&mut self) -> usize {
        let largest = if self.jumbo { 9600 } else { 1480 };
        let limit = self.pick(&[8, 64, 600, largest]);
        self.random.below(limit) as usize
    }

    fn frame(&mut self) -> Vec<u8> {
        let kinds = if self.peers.is_empty() { 70 } else { 120 };
        let mut frame = match self.random.below(kinds) {
            0..4 => self.arp(),
            4..10 => self.neighbour_discovery(),
            10..14 => self.box_traffic4(),
            14..40 => self.through4(),
            40..60 => self.through6(),
            60..64 => self.junk(),
            64..67 => self.fragment(),
            67 => self.fragment6(),
            68..70 => self.about_esp(),
            _ => self.peer_traffic(),
        };
        if self.chance(70) {
            self.damage(&mut frame);
        }
        frame.truncate(if self.jumbo { LARGE_DATA } else { DATA });
        frame
    }

    fn link(&mut self, ether_type: EtherType, packet: &[u8]) -> Vec<u8> {
        let (own, other) = if self.interface == LAN {
            (LAN_MAC, HOST_MAC)
        } else {
            (WAN_MAC, ROUTER_MAC)
        };
        let destination = match self.random.below(100) {
            0 => MacAddr::BROADCAST,
            1 => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
            2 => MacAddr([2, 9, 9, 9, 9, 9]),
            _ => own,
        };
        let header = EthernetHeader {
            destination,
            source: other,
            ether_type,
        };
        let frame = [&header.to_bytes()[..], packet].concat();
        if !self.chance(6) {
            return frame;
        }
        // Of a sub-interface, of none, with a priority only, and more of them than there may be.
        let tags: &[u8] = self.pick(&[
            &[0x81, 0, 0, 100],
            &[0x81, 0, 0xe0, 100],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 100],
            &[0x81, 0, 0, 0],
            &[0x81, 0, 0, 101],
            &[0x88, 0xa8, 0, 5],
            &[0x81, 0, 0, 5, 0x81, 0, 0, 100],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 100, 0x81, 0, 0, 100],
        ]);
        [&frame[..12], tags, &frame[12..]].concat()
    }

    fn arp(&mut self) -> Vec<u8> {
        let (other_mac, other, own) = if self.interface == LAN {
            (HOST_MAC, HOST_IP, LAN_IP)
        } else {
            (ROUTER_MAC, ROUTER_IP, WAN_IP)
        };
        let target = self.pick(&[own, own, FAR_IP, Ipv4Addr::UNSPECIFIED]);
        let sender = self.pick(&[other, other, own, Ipv4Addr::UNSPECIFIED]);
        let mut packet = ArpPacket::request(other_mac, sender, target);
        if self.chance(40) {
            packet = ArpPacket::request(
                if self.interface == LAN {
                    LAN_MAC
                } else {
                    WAN_MAC
                },
                own,
                other,
            )
            .reply_from(other_mac);
        }
        let mut bytes = [0; ArpPacket::LEN];
        packet.write(&mut bytes);
        self.link(EtherType::ARP, &bytes)
    }

    fn neighbour_discovery(&mut self) -> Vec<u8> {
        let (mac, other, own) = if self.interface == LAN {
            (HOST_MAC, HOST_IP6, LAN_IP6)
        } else {
            (ROUTER_MAC, ROUTER_IP6, WAN_IP6)
        };
        let target = self.pick(&[own, own, other, FAR_IP6]);
        let destination = self.pick(&[own, nd::solicited_node(target), nd::ALL_NODES]);
        let source = self.pick(&[other, other, Ipv6Addr::UNSPECIFIED, own]);
        let link = (!source.is_unspecified()).then_some(mac);
        let message = match self.random.below(4) {
            0 | 1 => {
                let mut bytes = [0; 32];
                let solicit = NeighbourSolicit {
                    target,
                    source_link: link,
                };
                let length = solicit.write(source, destination, &mut bytes);
                bytes[..length].to_vec()
            }
            2 => {
                let mut bytes = [0; 32];
                let advert = NeighbourAdvert {
                    target: other,
                    target_link: Some(mac),
                    router: self.chance(50),
                    solicited: self.chance(50),
                    overrides: self.chance(50),
                };
                let length = advert.write(source, destination, &mut bytes);
                bytes[..length].to_vec()
            }
            _ if self.chance(50) => {
                let mut bytes = [0; 16];
                let length =
                    RouterSolicit { source_link: link }.write(source, destination, &mut bytes);
                bytes[..length].to_vec()
            }
            _ => {
                let mut bytes = [0; RouterAdvert::MAX_LEN];
                let advert = RouterAdvert {
                    hop_limit: 64,
                    managed: false,
                    other: false,
                    router_lifetime: 9,
                    reachable_time: 0,
                    retransmit_timer: 0,
                    source_link: link,
                    mtu: Some(1500),
                    prefixes: [None; 4],
                };
                let length = advert.write(source, destination, &mut bytes);
                bytes[..length].to_vec()
            }
        };
        let hops = self.pick(&[255, 255, 255, 64]);
        let packet = packet6(source, destination, 58, hops, &message);
        self.link(EtherType::IPV6, &packet)
    }

    /// A transport header with something behind it, and its protocol.
    fn transport(&mut self) -> (u8, Vec<u8>) {
        let length = self.length();
        let payload = self.bytes(length);
        match self.random.below(5) {
            0 => {
                let mut segment = self.bytes(32);
                // A SYN with options, the MSS among them, which the tunnel clamps.
                segment[12] = 0x80;
                segment[13] = 0x02;
                segment[20..32].copy_from_slice(&[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 0]);
                segment.extend(payload);
                (6, segment)
            }
            1 => {
                let mut echo = self.bytes(8);
                echo.extend(payload);
                let kind = self.pick(&[
                    icmpv4::Icmpv4Type::ECHO_REQUEST,
                    icmpv4::Icmpv4Type::HOST_UNREACHABLE,
                ]);
                icmpv4::seal(&mut echo, kind, 1).unwrap();
                (1, echo)
            }
            _ => {
                let ports = [500, 4500, 4500, 53, 9];
                let header = UdpHeader {
                    source: self.pick(&ports),
                    destination: self.pick(&ports),
                    length: (8 + payload.len()) as u16,
                    checksum: 0,
                };
                let mut bytes = vec![0; 8];
                header.write(bytes.first_chunk_mut().unwrap());
                bytes.extend(payload);
                (17, bytes)
            }
        }
    }

    fn box_traffic4(&mut self) -> Vec<u8> {
        let (other, own) = if self.interface == LAN {
            (HOST_IP, LAN_IP)
        } else {
            (ROUTER_IP, WAN_IP)
        };
        let (protocol, mut payload) = self.transport();
        if protocol == 17 && self.chance(50) {
            // Port 4500: IKE with its marker, a keepalive, or what has neither.
            payload.truncate(8);
            let rest: &[u8] = self.pick(&[
                &[0, 0, 0, 0, 1, 2, 3, 4],
                &[0xff],
                &[0xfe],
                &[],
                &[0, 0, 1, 0, 1],
            ]);
            payload[2..4].copy_from_slice(&4500_u16.to_be_bytes());
            payload[4..6].copy_from_slice(&(8 + rest.len() as u16).to_be_bytes());
            payload.extend(rest);
        }
        let packet = packet4_with(other, own, protocol, &payload, |_| {});
        self.link(EtherType::IPV4, &packet)
    }

    fn through4(&mut self) -> Vec<u8> {
        let unknown = Ipv4Addr::new(10, 1, 0, 3 + self.random.below(200) as u8);
        let destination = self.pick(&[
            FAR_IP,
            HOST_IP,
            REMOTE,
            REMOTE,
            REMOTE_WITHOUT_SA,
            unknown,
            Ipv4Addr::new(10, 66, 0, 1),
            Ipv4Addr::new(172, 31, 0, 1),
            BEHIND_TAGS,
            Ipv4Addr::new(224, 0, 0, 18),
            Ipv4Addr::new(239, 1, 1, 1),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::BROADCAST,
        ]);
        let source = self.pick(&[
            HOST_IP,
            HOST_IP,
            HOST_IP,
            HOST_IP,
            Ipv4Addr::new(10, 9, 9, 9),
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::LOCALHOST,
        ]);
        let (protocol, payload) = self.transport();
        let (ttl, df) = (self.pick(&[64, 64, 64, 1, 0]), self.chance(60));
        let packet = packet4_with(source, destination, protocol, &payload, |header| {
            header.ttl = ttl;
            header.flags_fragment = if df { Ipv4Header::DONT_FRAGMENT } else { 0 };
        });
        self.link(EtherType::IPV4, &packet)
    }

    fn through6(&mut self) -> Vec<u8> {
        let unknown =
            Ipv6Addr::from_bits(HOST_IP6.to_bits() + 3 + u128::from(self.random.below(200)));
        let destination = self.pick(&[
            FAR_IP6,
            HOST_IP6,
            REMOTE6,
            REMOTE6,
            LAN_IP6,
            WAN_IP6,
            unknown,
            Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1),
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb),
            Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1),
        ]);
        let source = self.pick(&[
            HOST_IP6,
            HOST_IP6,
            HOST_IP6,
            nd::ALL_NODES,
            HOST_MAC.link_local(),
        ]);
        let (mut protocol, mut payload) = self.transport();
        if protocol == 1 {
            protocol = 58;
            let _ = icmpv6::seal(
                &mut payload,
                icmpv6::Icmpv6Type::ECHO_REQUEST,
                1,
                source,
                destination,
            );
        }
        for _ in 0..self.pick(&[0, 0, 0, 1, 2, 5]) {
            let kind = self.pick(&[0, 43, 44, 60, 51]);
            let mut header = vec![protocol, 0, 1, 4, 0, 0, 0, 0];
            if kind == 44 {
                header[3] = self.random.below(256) as u8;
            }
            header.extend(payload);
            (protocol, payload) = (kind, header);
        }
        let hops = self.pick(&[64, 64, 64, 1, 0]);
        let packet = packet6(source, destination, protocol, hops, &payload);
        self.link(EtherType::IPV6, &packet)
    }

    /// A valid Ethernet header and anything behind it.
    fn junk(&mut self) -> Vec<u8> {
        let ether_type = self.pick(&[
            0x0800, 0x0800, 0x86dd, 0x86dd, 0x0806, 0x8100, 0x88cc, 0x0000,
        ]);
        let length = self.length();
        let mut bytes = self.bytes(length);
        if let (Some(first), true) = (bytes.first_mut(), self.chance(80)) {
            *first = if ether_type == 0x0800 { 0x45 } else { 0x60 };
        }
        self.link(EtherType(ether_type), &bytes)
    }

    fn fragment(&mut self) -> Vec<u8> {
        let own = if self.interface == LAN {
            LAN_IP
        } else {
            WAN_IP
        };
        let destination = self.pick(&[own, FAR_IP, REMOTE]);
        let (mut protocol, payload) = self.transport();
        if self.chance(30) {
            protocol = 50;
        }
        let bits = self.pick(&[0x2000, 0x2001, 0x0001, 0x00b9, 0x3fff]);
        let packet = packet4_with(HOST_IP, destination, protocol, &payload, |header| {
            header.flags_fragment = bits;
        });
        self.link(EtherType::IPV4, &packet)
    }

    /// A fragment for the box, also of lengths and at places that none has, or with options before it.
    fn fragment6(&mut self) -> Vec<u8> {
        let length = self.length();
        let word = self
            .pick(&[1_u16, 0, 9, 800, 801, 0xfff8, 0xfff9])
            .to_be_bytes();
        let mut rest = vec![self.pick(&[50, 17, 58]), 0, word[0], word[1], 0, 0, 0];
        rest.push(self.random.below(8) as u8);
        rest.extend(self.bytes(length));
        let option = self.pick(&[1, 1, 0x1e, 0x41, 0x81, 0xc1]);
        let mut next = 44;
        if self.chance(30) {
            rest.splice(..0, [next, 0, option, 4, 0, 0, 0, 0]);
            next = self.pick(&[0, 60, 43]);
        }
        let own = self.pick(&[
            if self.interface == LAN {
                LAN_IP6
            } else {
                WAN_IP6
            },
            FAR_IP6,
        ]);
        let packet = packet6(HOST_IP6, own, next, 64, &rest);
        self.link(EtherType::IPV6, &packet)
    }

    /// An ICMP error about what may have been ESP of ours.
    fn about_esp(&mut self) -> Vec<u8> {
        let mut quoted = vec![0, 0, 0x10, self.random.below(4) as u8, 0, 0, 0, 1];
        quoted.extend(self.bytes(20));
        let mut protocol = 50;
        if self.chance(40) {
            quoted.splice(..0, [0x11, 0x94, 0x11, 0x94, 0, 36, 0, 0]);
            protocol = 17;
        }
        let mut message = vec![0; 8];
        let mtu = self.random.below(1600) as u32;
        let too_big = self.chance(60);
        if self.chance(50) {
            message.extend(packet4_with(
                WAN_IP,
                ROUTER_IP,
                protocol,
                &quoted,
                |header| {
                    header.flags_fragment = Ipv4Header::DONT_FRAGMENT;
                },
            ));
            let kind = if too_big {
                icmpv4::Icmpv4Type::FRAGMENTATION_NEEDED
            } else {
                icmpv4::Icmpv4Type::PROTOCOL_UNREACHABLE
            };
            icmpv4::seal(&mut message, kind, mtu).unwrap();
            let packet = packet4_with(ROUTER_IP, WAN_IP, 1, &message, |_| {});
            self.link(EtherType::IPV4, &packet)
        } else {
            message.extend(packet6(WAN_IP6, ROUTER_IP6, protocol, 64, &quoted));
            let kind = if too_big {
                icmpv6::Icmpv6Type::PACKET_TOO_BIG
            } else {
                icmpv6::Icmpv6Type::ADDRESS_UNREACHABLE
            };
            icmpv6::seal(&mut message, kind, mtu, ROUTER_IP6, WAN_IP6).unwrap();
            let packet = packet6(ROUTER_IP6, WAN_IP6, 58, 64, &message);
            self.link(EtherType::IPV6, &packet)
        }
    }

    /// An ESP packet of one of the peers: right, wrong under the ICV, or one that was here before.
    fn peer_traffic(&mut self) -> Vec<u8> {
        if self.chance(10)
            && let Some(before) = self.sent.get(self.random.below(REPLAYS as u64) as usize)
        {
            return before.clone();
        }
        let inner = self.inner();
        let which = self.random.below(self.peers.len() as u64) as usize;
        let next = match (
            inner.first().map_or(0, |first| first >> 4),
            self.random.below(20),
        ) {
            (_, 0) => Protocol::NO_NEXT,
            (_, 1) => Protocol::UDP,
            (6, 3..) | (4, 2) => Protocol::IPV6,
            _ => Protocol::IPV4,
        };
        let suite = self.peers[which].key.suite();
        let mut plain = inner.clone();
        plain.resize(inner.len() + suite.pad_len(inner.len()) + 2, 0);
        esp::write_trailer(&mut plain[inner.len()..], next).unwrap();
        match self.random.below(20) {
            0 => {
                // The pad length says more, or less, than there is.
                let at = plain.len() - 2;
                plain[at] = self.random.bits() as u8;
            }
            1 if plain.len() > inner.len() + 2 => plain[inner.len()] ^= 0x40,
            2 => {
                let whole = self.length() / suite.block() * suite.block() + suite.block();
                plain = self.bytes(whole);
            }
            _ => {}
        }
        let class = self.pick(&[0, 0, 0, 1, 2, 3]);
        // Now and then a gap: the window moves on.
        if self.chance(2) {
            self.peers[which].seq += self.random.below(100);
        }
        let peer = &mut self.peers[which];
        let packet = peer.seal(&plain, class);
        let v6 = peer.v6;
        let kind = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let frame = self.link(kind, &packet);
        if self.sent.len() == REPLAYS {
            self.sent.pop_front();
        }
        self.sent.push_back(frame.clone());
        frame
    }

    /// A packet as it comes out of a tunnel: mostly one that is forwarded.
    fn inner(&mut self) -> Vec<u8> {
        let (protocol, mut payload) = self.transport();
        payload.truncate(1300);
        match self.random.below(20) {
            0 => {
                let length = self.length().min(1300);
                self.bytes(length)
            }
            1 => packet4_with(
                Ipv4Addr::new(10, 77, 0, 1),
                HOST_IP,
                protocol,
                &payload,
                |_| {},
            ),
            2 => packet4_with(REMOTE, LAN_IP, protocol, &payload, |_| {}),
            3..8 => packet6(
                REMOTE6,
                HOST_IP6,
                if protocol == 1 { 17 } else { protocol },
                64,
                &payload,
            ),
            8 => packet4_with(REMOTE, HOST_IP, protocol, &payload, |header| {
                header.traffic_class = 1;
            }),
            _ => packet4_with(REMOTE, HOST_IP, protocol, &payload, |_| {}),
        }
    }

    /// Changes lengths, bits and fields; most headers get a right checksum again, so that the next node sees them.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.random.below(2) {
            let length = frame.len() as u64;
            let at = self.random.below(length) as usize;
            match self.random.below(12) {
                0 => frame.truncate(at),
                1 => {
                    let more = 1 + self.random.below(60) as usize;
                    let padding = self.bytes(more);
                    frame.extend(padding);
                }
                2 | 3 => frame[at] ^= 1 << self.random.below(8),
                4 => frame[at] = self.random.bits() as u8,
                // The IP header, and what is behind it.
                5 | 6 => {
                    let at = 14 + self.random.below(48) as usize;
                    let value = self.pick(&[0, 1, 0x45, 0x7f, 0x80, 0xff, 0x46, 0x4f]);
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = value;
                    }
                }
                // Both lengths of IP.
                7 => {
                    let at = self.pick(&[16, 18]);
                    let value = self.pick(&[0, 1, 19, 20, 21, 39, 40, 60, 1500, 2000, 0xffff]);
                    if let Some(field) = frame.get_mut(at..at + 2) {
                        field.copy_from_slice(&u16::to_be_bytes(value));
                    }
                }
                // The end: ICV and padding.
                8 => {
                    let back = 1 + self.random.below(40) as usize;
                    if let Some(at) = frame.len().checked_sub(back) {
                        frame[at] ^= 1 + self.random.below(255) as u8;
                    }
                }
                // The ESP header: SPI and sequence number.
                9 => {
                    let at = self.pick(&[34, 37, 38, 41, 42, 45, 54, 57, 61, 62]);
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = byte.wrapping_add(self.random.below(3) as u8);
                    }
                }
                10 => frame.truncate(self.random.below(64) as usize),
                _ => {}
            }
            if frame.is_empty() {
                return;
            }
        }
        if self.chance(70)
            && let Some(header) = frame.get_mut(14..34)
            && header[0] == 0x45
        {
            header[10..12].fill(0);
            let sum = checksum::ipv4_header(header.first_chunk().unwrap());
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

impl Source for Hostile {
    fn fill(&mut self, buffers: &BufferPool, packets: &mut [Packet]) -> usize {
        let count = packets.len().min(self.left);
        self.left -= count;
        for packet in &mut packets[..count] {
            self.jumbo = buffers.is_large(packet);
            let frame = self.frame();
            let meta = buffers.meta_mut(packet);
            meta.set_len(frame.len()).unwrap();
            if self.chance(3) {
                // What a driver says of an unfilled checksum may be as wrong as the frame.
                meta.flags |= flags::CHECKSUM_PARTIAL;
                meta.checksum_start = self.pick(&[34, 54, 14, 0, 60, 2000, 0xffff]);
                meta.checksum_offset = self.pick(&[6, 16, 2, 0, 1500, 0xffff]);
            }
            buffers.data_mut(packet).copy_from_slice(&frame);
        }
        count
    }
}

/// Addresses and encapsulations of the peers, to make SAs for: outer source and destination, UDP.
pub const PEERS: [(IpAddr, IpAddr, bool); 4] = [
    (IpAddr::V4(FAR_IP), IpAddr::V4(WAN_IP), false),
    (IpAddr::V4(FAR_IP), IpAddr::V4(WAN_IP), true),
    (IpAddr::V6(FAR_IP6), IpAddr::V6(WAN_IP6), false),
    (IpAddr::V6(FAR_IP6), IpAddr::V6(WAN_IP6), true),
];

const _: () = assert!(WAN > LAN && Ipv6Header::LEN == 40);
