//! Packets as the nodes get them: each different from the one before, none of them random in what a node decides by.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use culvert_crypto::{Engine, SealOp};
use culvert_dataplane::buffer::{HEADROOM, Metadata};
use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::sa::{Inherited, OuterHeader};
use culvert_net::nd::{NeighbourSolicit, solicited_node};
use culvert_net::{
    ArpPacket, EtherType, EthernetHeader, Ipv4Header, Ipv6Header, MacAddr, Protocol, UdpHeader, esp,
};

use crate::network::{
    FAR, HOST_IP6, HOST_MAC, LAN, LAN_IP, LAN_IP6, LAN_MAC, OURS, PEERS, WAN, host4, peers_key,
};
use crate::rig::Writer;

/// Bytes of the shortest packets, and of the longest that a tunnel takes.
pub const SHORT: usize = 64;
pub const LONG: usize = 1400;

/// Ports of UDP and of TCP.
const FROM: u16 = 1024;
const TO: u16 = 53;
/// Hop limit of neighbour discovery.
const ON_LINK: u8 = 255;

/// Packets of one length, each written by its number.
pub fn each(
    length: usize,
    mut write: impl FnMut(u64, &mut [u8], &mut Metadata) + 'static,
) -> Writer {
    let mut number = 0;
    Box::new(move |buffers, packets| {
        for packet in packets {
            let meta = buffers.meta_mut(packet);
            meta.set_len(length).expect("the packet fits its buffer");
            let (meta, data) = buffers.parts_mut(packet);
            meta.l3_offset = meta.offset() as u16;
            meta.rx_interface = LAN;
            write(number, data, meta);
            number += 1;
        }
    })
}

/// An IPv4 packet of UDP, as long as `to`.
pub fn udp4(number: u64, to: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr) {
    ip4(
        number,
        to,
        Protocol::UDP,
        source,
        destination,
        Ipv4Header::DONT_FRAGMENT,
    );
    udp(number, &mut to[Ipv4Header::LEN..]);
}

/// An IPv4 header.
pub fn ip4(
    number: u64,
    to: &mut [u8],
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    flags_fragment: u16,
) {
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: to.len() as u16,
        identification: number as u16,
        flags_fragment,
        ttl: 64,
        protocol,
        source,
        destination,
    };
    header.write(
        to.first_chunk_mut()
            .expect("a packet is longer than its header"),
    );
}

/// An IPv6 packet of UDP, as long as `to`.
pub fn udp6(number: u64, to: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    ip6(to, Protocol::UDP, 64, source, destination);
    udp(number, &mut to[Ipv6Header::LEN..]);
}

fn ip6(
    to: &mut [u8],
    next_header: Protocol,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: (to.len() - Ipv6Header::LEN) as u16,
        next_header,
        hop_limit,
        source,
        destination,
    };
    header.write(
        to.first_chunk_mut()
            .expect("a packet is longer than its header"),
    );
}

fn udp(number: u64, to: &mut [u8]) {
    let header = UdpHeader {
        source: FROM + (number & 0xff) as u16,
        destination: TO,
        length: to.len() as u16,
        checksum: 0,
    };
    header.write(
        to.first_chunk_mut()
            .expect("a datagram is longer than its header"),
    );
}

/// From hosts of the LAN to a host behind the tunnel.
pub fn to_far(length: usize, change: impl Fn(u64, &mut Metadata) + 'static) -> Writer {
    each(length, move |number, to, meta| {
        udp4(number, to, host4(number as u8), FAR);
        change(number, meta);
    })
}

/// The same, with addresses in IPv6.
pub fn to_far6(change: impl Fn(u64, &mut Metadata) + 'static) -> Writer {
    each(SHORT, move |number, to, meta| {
        udp6(number, to, HOST_IP6, far6(number));
        change(number, meta);
    })
}

fn far6(number: u64) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number as u16)
}

/// TCP SYNs with an MSS of 1460.
pub fn syns(change: impl Fn(u64, &mut Metadata) + 'static) -> Writer {
    each(SHORT, move |number, to, meta| {
        ip4(number, to, Protocol::TCP, host4(number as u8), FAR, 0);
        let segment = &mut to[Ipv4Header::LEN..];
        segment.fill(0);
        segment[..2].copy_from_slice(&FROM.to_be_bytes());
        segment[2..4].copy_from_slice(&TO.to_be_bytes());
        segment[4..8].copy_from_slice(&(number as u32).to_be_bytes());
        // Six words of header, SYN; then the option.
        segment[12..14].copy_from_slice(&[6 << 4, 2]);
        segment[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
        change(number, meta);
    })
}

/// Frames around IPv4 packets.
pub fn frames() -> Writer {
    each(SHORT, |number, to, meta| {
        meta.l3_offset = 0;
        let packet = link(to, LAN_MAC, EtherType::IPV4);
        udp4(number, packet, host4(number as u8), FAR);
    })
}

fn link(to: &mut [u8], destination: MacAddr, ether_type: EtherType) -> &mut [u8] {
    let header = EthernetHeader {
        destination,
        source: HOST_MAC,
        ether_type,
    };
    let (front, rest) = to
        .split_first_chunk_mut()
        .expect("a frame is longer than its header");
    header.write(front);
    rest
}

/// Frames of hosts that ask who has the box's address.
pub fn arp_requests() -> Writer {
    each(EthernetHeader::LEN + ArpPacket::LEN, |number, to, meta| {
        meta.l3_offset = 0;
        let packet = link(to, MacAddr::BROADCAST, EtherType::ARP);
        let request = ArpPacket::request(HOST_MAC, host4(number as u8), LAN_IP);
        request.write(packet.first_chunk_mut().expect("there is room for it"));
    })
}

/// Packets, behind their link headers, of a host that asks the same in IPv6.
pub fn neighbour_solicitations() -> Writer {
    let before = EthernetHeader::LEN + Ipv6Header::LEN;
    each(before + NeighbourSolicit::LEN, |_, to, meta| {
        let group = solicited_node(LAN_IP6);
        let packet = link(to, MacAddr::of_ipv6_multicast(group), EtherType::IPV6);
        ip6(packet, Protocol::ICMPV6, ON_LINK, HOST_IP6, group);
        let solicit = NeighbourSolicit {
            target: LAN_IP6,
            source_link: Some(HOST_MAC),
        };
        let message = packet[Ipv6Header::LEN..].first_chunk_mut();
        solicit.write(HOST_IP6, group, message.expect("there is room for it"));
        meta.pull_front(EthernetHeader::LEN)
            .expect("the frame is longer");
        meta.l3_offset = meta.offset() as u16;
    })
}

/// Both fragments of packets, one after the other: the first has 40 bytes behind its header, the second what there is.
pub fn fragments(
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    change: impl Fn(&mut Metadata) + 'static,
) -> Writer {
    const FIRST: usize = 40;
    const MORE: u16 = 0x2000;
    each(Ipv4Header::LEN + FIRST, move |number, to, meta| {
        let place = if number % 2 == 0 {
            MORE
        } else {
            FIRST as u16 / 8
        };
        ip4(number / 2, to, protocol, source, destination, place);
        if number % 2 == 0 && protocol == Protocol::UDP {
            udp(number / 2, &mut to[Ipv4Header::LEN..]);
        }
        change(meta);
    })
}

/// Packets in GRE from the peer.
pub fn in_gre() -> Writer {
    const GRE: [u8; 4] = [0, 0, 8, 0];
    let before = Ipv4Header::LEN + GRE.len();
    each(before + SHORT, move |number, to, meta| {
        ip4(number, to, Protocol::GRE, PEERS, OURS, 0);
        to[Ipv4Header::LEN..before].copy_from_slice(&GRE);
        udp4(number, &mut to[before..], FAR, host4(number as u8));
        meta.rx_interface = WAN;
    })
}

/// ESP packets from the peer, with consecutive sequence numbers, whose inner packets have this length.
pub fn sealed(length: usize, spi: u32, engine: &Arc<dyn Engine>) -> Writer {
    let (engine, key) = (Arc::clone(engine), peers_key(engine.as_ref(), spi));
    let outer = OuterHeader::new(PEERS.into(), OURS.into(), None).expect("ends of one family");
    let mut number = 0;
    Box::new(move |buffers, packets| {
        let (suite, sealed) = (key.suite(), key.suite().sealed_len(length));
        let mut ops = Vec::with_capacity(packets.len());
        for packet in packets {
            let (meta, area) = buffers.area_mut(packet);
            meta.set_view(HEADROOM, outer.len() + sealed)
                .expect("the packet fits its buffer");
            meta.l3_offset = HEADROOM as u16;
            meta.rx_interface = WAN;
            let whole = &mut area[HEADROOM..HEADROOM + outer.len() + sealed];
            let (front, esp) = whole.split_at_mut(outer.len());
            outer.write(front, sealed, Inherited::default());
            esp[..4].copy_from_slice(&spi.to_be_bytes());
            let text = esp.len() - suite.icv_len();
            let (inner, trailer) = esp[suite.header_len()..text].split_at_mut(length);
            udp4(number, inner, FAR, host4(number as u8));
            esp::write_trailer(trailer, Protocol::IPV4).expect("the padding is short");
            number += 1;
            ops.push(SealOp::new(&key, number, esp));
        }
        engine.seal_batch(&mut ops);
        assert!(
            ops.iter().all(|op| op.result.is_ok()),
            "a packet was not sealed"
        );
    })
}

/// From a host of the LAN to random addresses.
pub fn to_random4(vrf: u32, mut address: impl FnMut(&mut Random) -> Ipv4Addr + 'static) -> Writer {
    let mut random = Random::new(u64::from(vrf));
    each(SHORT, move |number, to, meta| {
        udp4(number, to, host4(number as u8), address(&mut random));
        meta.vrf = vrf;
    })
}

/// From a host of the LAN to random addresses.
pub fn to_random6(vrf: u32, mut address: impl FnMut(&mut Random) -> Ipv6Addr + 'static) -> Writer {
    let mut random = Random::new(u64::from(vrf));
    each(SHORT, move |number, to, meta| {
        udp6(number, to, HOST_IP6, address(&mut random));
        meta.vrf = vrf;
    })
}
