//! Whole frames of ARP (RFC 826), neighbour discovery (RFC 4861) and multicast listener discovery (RFC 3810) that the box
//! sends: questions, answers, announcements, reports. Written by the nodes into buffers and by the control thread into frames that a worker sends.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use culvert_net::nd::{self, NeighbourAdvert, NeighbourSolicit};
use culvert_net::{
    ArpPacket, EtherType, EthernetHeader, Icmpv6Type, Ipv6Header, MacAddr, Protocol, icmpv6,
};

use crate::buffer::{HEADROOM, NoRoom, Packet, flags};
use crate::graph::Context;

/// Bytes of the longest of these frames: Ethernet, IPv6, neighbour solicitation with a link-layer address.
const LONGEST: usize = 14 + 40 + 32;

/// A frame.
pub type LinkFrame = ArrayVec<u8, LONGEST>;

fn begin(destination: MacAddr, source: MacAddr, ether_type: EtherType) -> LinkFrame {
    let header = EthernetHeader {
        destination,
        source,
        ether_type,
    };
    header.to_bytes().into_iter().collect()
}

/// An ARP packet from the station that it names as its sender.
pub fn arp(destination: MacAddr, packet: &ArpPacket) -> LinkFrame {
    let mut frame = begin(destination, packet.sender_mac, EtherType::ARP);
    let mut body = [0; ArpPacket::LEN];
    packet.write(&mut body);
    frame.extend(body);
    frame
}

/// "Who has `target`?"; to one station to see whether it is still there, else to all. From 0.0.0.0 it is a probe
/// (RFC 5227 section 2.1.1).
pub fn arp_request(
    mac: MacAddr,
    source: Ipv4Addr,
    target: Ipv4Addr,
    to: Option<MacAddr>,
) -> LinkFrame {
    let packet = ArpPacket::request(mac, source, target);
    arp(to.unwrap_or(MacAddr::BROADCAST), &packet)
}

/// "I have `address`", to all (RFC 5227 section 2.3).
pub fn arp_announcement(mac: MacAddr, address: Ipv4Addr) -> LinkFrame {
    arp_request(mac, address, address, None)
}

fn nd(
    destination_mac: MacAddr,
    mac: MacAddr,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> LinkFrame {
    let mut frame = begin(destination_mac, mac, EtherType::IPV6);
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: message.len() as u16,
        next_header: Protocol::ICMPV6,
        hop_limit: nd::HOP_LIMIT,
        source,
        destination,
    };
    frame.extend(header.to_bytes());
    frame.extend(message.iter().copied());
    frame
}

/// "Who has `target`?"; to one station to see whether it is still there, else to the target's solicited-node group.
/// From `::` it is part of duplicate address detection (RFC 4862 section 5.4.2) and names no link-layer address.
pub fn solicitation(
    mac: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<MacAddr>,
) -> LinkFrame {
    let group = nd::solicited_node(target);
    let (destination_mac, destination) = to
        .map_or((MacAddr::of_ipv6_multicast(group), group), |station| {
            (station, target)
        });
    let mut message = [0; NeighbourSolicit::LEN];
    let length = NeighbourSolicit {
        target,
        source_link: (!source.is_unspecified()).then_some(mac),
    }
    .write(source, destination, &mut message);
    let message = message.get(..length).unwrap_or_default();
    nd(destination_mac, mac, source, destination, message)
}

/// "I have `target`": the answer to a solicitation by `asker`, or, to nobody in particular, an announcement to all nodes.
pub fn advertisement(
    mac: MacAddr,
    target: Ipv6Addr,
    asker: Option<(Ipv6Addr, MacAddr)>,
) -> LinkFrame {
    let (destination, destination_mac) =
        asker.unwrap_or((nd::ALL_NODES, MacAddr::of_ipv6_multicast(nd::ALL_NODES)));
    let mut message = [0; NeighbourAdvert::LEN];
    let length = NeighbourAdvert {
        target,
        target_link: Some(mac),
        router: true,
        solicited: asker.is_some(),
        overrides: true,
    }
    .write(target, destination, &mut message);
    let message = message.get(..length).unwrap_or_default();
    nd(destination_mac, mac, target, destination, message)
}

/// Groups that one report names: what fits into the smallest MTU of IPv6.
const REPORTED: usize = 60;
/// Hop-by-hop options before a report: router alert (RFC 2711), and padding to 8 bytes.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
/// Where reports go (RFC 3810 section 5.2.14).
const ALL_MLD2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// What a report says of its groups (RFC 3810 section 5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// In answer to a query: `MODE_IS_EXCLUDE`, every source is welcome.
    Still = 2,
    /// From now on: `CHANGE_TO_EXCLUDE_MODE`.
    Now = 4,
}

/// "I listen to these groups", so that switches that watch such reports let their frames through (RFC 3810 section 5.2).
/// `source` is the link-local address, or `::` while there is none yet. More groups than `REPORTED` need several.
pub fn listener_reports(
    mac: MacAddr,
    source: Ipv6Addr,
    groups: &[Ipv6Addr],
    listening: Listening,
) -> Vec<Vec<u8>> {
    groups
        .chunks(REPORTED)
        .map(|groups| {
            let mut message = vec![0; 8];
            for group in groups {
                message.extend([listening as u8, 0, 0, 0]);
                message.extend(group.octets());
            }
            let kind = Icmpv6Type { kind: 143, code: 0 };
            // It holds a header, so there is nothing to refuse.
            let _ = icmpv6::seal(
                &mut message,
                kind,
                groups.len() as u32,
                source,
                ALL_MLD2_ROUTERS,
            );
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0,
                payload_len: (ROUTER_ALERT.len() + message.len()) as u16,
                next_header: Protocol::HOP_BY_HOP,
                hop_limit: 1,
                source,
                destination: ALL_MLD2_ROUTERS,
            };
            let to = MacAddr::of_ipv6_multicast(ALL_MLD2_ROUTERS);
            let mut frame = begin(to, mac, EtherType::IPV6).to_vec();
            frame.extend(header.to_bytes());
            frame.extend(ROUTER_ALERT);
            frame.extend(message);
            frame
        })
        .collect()
}

/// Puts a frame in the place of whatever the packet held.
pub(super) fn put(
    context: &Context<'_>,
    packet: &mut Packet,
    interface: u32,
    frame: &LinkFrame,
) -> Result<(), NoRoom> {
    let meta = context.buffers.meta_mut(packet);
    meta.set_view(HEADROOM, frame.len())?;
    meta.flags = flags::ORIGINATED;
    meta.tx_interface = interface;
    for (to, from) in context.buffers.data_mut(packet).iter_mut().zip(frame) {
        *to = *from;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{EthernetView, Icmpv6View, Ipv6View};

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_report_is_what_rfc_3810_says() {
        let groups: Vec<Ipv6Addr> = (1..=61u16)
            .map(|last| [0xff02, 0, 0, 0, 0, 1, 0xff00, last].into())
            .collect();
        let frames = listener_reports(MAC, MAC.link_local(), &groups, Listening::Now);
        assert_eq!(frames.len(), 2);
        let view = EthernetView::parse(&frames[1]).unwrap();
        assert_eq!(view.destination(), MacAddr([0x33, 0x33, 0, 0, 0, 0x16]));
        let ip = Ipv6View::parse(view.payload()).unwrap();
        assert_eq!((ip.hop_limit(), ip.source()), (1, MAC.link_local()));
        assert_eq!(ip.destination(), "ff02::16".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            (ip.next_header(), &ip.payload()[..8]),
            (Protocol(0), &ROUTER_ALERT[..])
        );
        let message =
            Icmpv6View::verify(&ip.payload()[8..], ip.source(), ip.destination()).unwrap();
        assert_eq!((message.kind().kind, message.rest()), (143, 1));
        let mut record = vec![4, 0, 0, 0];
        record.extend(groups[60].octets());
        assert_eq!(message.body(), record);
        assert_eq!(frames[0].len(), 14 + 40 + 8 + 8 + 60 * 20);
        let still = listener_reports(MAC, Ipv6Addr::UNSPECIFIED, &groups[..1], Listening::Still);
        assert_eq!(still[0][14 + 40 + 8 + 8], 2);
        assert!(listener_reports(MAC, MAC.link_local(), &[], Listening::Now).is_empty());
    }

    #[test]
    fn solicitations_go_to_the_group_of_their_target_and_advertisements_to_all() {
        let target: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        for (frame, link, to, kind, from) in [
            (
                solicitation(MAC, Ipv6Addr::UNSPECIFIED, target, None),
                [0x33, 0x33, 0xff, 0x12, 0x34, 0x56],
                "ff02::1:ff12:3456",
                135,
                Ipv6Addr::UNSPECIFIED,
            ),
            (
                solicitation(MAC, MAC.link_local(), target, Some(MacAddr([9; 6]))),
                [9; 6],
                "2001:db8::12:3456",
                135,
                MAC.link_local(),
            ),
            (
                advertisement(MAC, target, None),
                [0x33, 0x33, 0, 0, 0, 1],
                "ff02::1",
                136,
                target,
            ),
        ] {
            let view = EthernetView::parse(&frame).unwrap();
            assert_eq!(view.destination(), MacAddr(link));
            let ip = Ipv6View::parse(view.payload()).unwrap();
            assert_eq!(ip.hop_limit(), 255);
            assert_eq!((ip.source(), ip.destination()), (from, to.parse().unwrap()));
            let message = Icmpv6View::verify(ip.payload(), ip.source(), ip.destination()).unwrap();
            assert_eq!(message.kind().kind, kind);
            // A probe names no link-layer address.
            assert_eq!(ip.payload().len() == 24, from.is_unspecified());
        }
    }
}
