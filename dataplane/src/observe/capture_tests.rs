//! Packets of a whole graph as a capture keeps them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::capture::{Capture, Captured, Direction, Head, Order, Point};
use super::headers::Layer;
use crate::buffer::flags;
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::nodes::workbench::{
    FAR_IP, HOST_IP, HOST_MAC, LAN, TUNNEL, WAN, Workbench, frame, from_host, packet4, packet4_with,
};
use crate::vlan::{OnLink, Tags, VlanId, Vlans};

fn arm(bench: &mut Workbench, point: Point, filter: &str, snaplen: u16, packets: u64) {
    let order = Order::new(point, filter.parse().unwrap(), snaplen, packets);
    let capture = Capture::new(Arc::new(order), Captured::with_room(100, 4000));
    bench
        .graph
        .observe(|observer| observer.capture = Some(Box::new(capture)));
}

fn take(bench: &mut Workbench) -> Captured {
    bench.graph.observe(|observer| {
        let capture = observer.capture.as_mut().unwrap();
        capture.exchange(Captured::with_room(100, 4000))
    })
}

fn kept(captured: &Captured) -> Vec<(Head, Vec<u8>)> {
    captured
        .packets()
        .map(|(head, bytes)| (*head, bytes.to_vec()))
        .collect()
}

fn link(interface: u32, direction: Option<Direction>) -> Point {
    Point::Link {
        interface,
        direction,
    }
}

#[test]
fn an_interface_shows_frames_as_they_come_and_as_they_leave() {
    let mut bench = Workbench::layer3();
    let packet = packet4(HOST_IP, FAR_IP, 17, &[7; 20]);
    let received = from_host(&packet);
    for (point, seen) in [
        (link(LAN, None), 1),
        (link(LAN, Some(Direction::Out)), 0),
        (link(WAN, Some(Direction::Out)), 1),
        (link(WAN, Some(Direction::In)), 0),
    ] {
        arm(&mut bench, point, "udp", u16::MAX, 10);
        bench.receive(LAN, &received);
        bench.run();
        let captured = take(&mut bench);
        let kept = kept(&captured);
        assert_eq!(kept.len(), seen, "{point:?}");
        let Some((head, bytes)) = kept.first() else {
            continue;
        };
        assert_eq!((head.layer, head.reason), (Layer::Link, None));
        assert_eq!(usize::from(head.length), received.len());
        if point == link(LAN, None) {
            assert_eq!((head.direction, head.interface), (Direction::In, LAN));
            assert_eq!(bytes, &received);
        } else {
            assert_eq!((head.direction, head.interface), (Direction::Out, WAN));
            assert_eq!(bytes, bench.sent(WAN).last().unwrap());
        }
    }
    bench.finish();
}

#[test]
fn a_tunnel_shows_what_is_inside() {
    let mut bench = Workbench::layer3();
    let point = Point::Tunnel {
        interface: TUNNEL,
        direction: None,
    };
    arm(&mut bench, point, "", u16::MAX, 10);
    let packet = packet4(HOST_IP, FAR_IP, 17, &[7; 20]);
    bench.put(NodeId::Ip4Input, TUNNEL, &packet, |meta| {
        meta.flags |= flags::DECRYPTED;
    });
    bench.put(NodeId::Ip4Input, LAN, &packet, |_| {});
    bench.put(NodeId::EspEncrypt, LAN, &packet, |meta| {
        meta.tx_interface = TUNNEL;
    });
    bench.run();
    let captured = take(&mut bench);
    let ways: Vec<_> = captured
        .packets()
        .map(|(head, bytes)| {
            assert_eq!(bytes, packet);
            (head.direction, head.layer, head.node)
        })
        .collect();
    assert_eq!(
        ways,
        [
            (Direction::In, Layer::Network, NodeId::Ip4Input),
            (Direction::Out, Layer::Network, NodeId::EspEncrypt)
        ]
    );
    bench.finish();
}

#[test]
fn a_vlan_shows_frames_without_tags_and_its_parent_with_them() {
    const SUB: u32 = 9;
    let mut bench = Workbench::layer3();
    let tags = Tags {
        outer: None,
        vlan: VlanId::new(77).unwrap(),
    };
    let place = OnLink { parent: LAN, tags };
    bench.tables.vlans = Arc::new(Vlans::new([(SUB, place)]));
    let mut interface = bench.tables.interfaces.get(LAN).unwrap().as_ref().clone();
    interface.index = SUB;
    bench.tables.interfaces.set(SUB, Some(Arc::new(interface)));
    let packet = packet4(HOST_IP, FAR_IP, 17, &[7; 20]);
    let plain = from_host(&packet);
    let tagged = [&plain[..12], &[0x81, 0, 0, 77], &plain[12..]].concat();
    let vlan = Point::Vlan {
        interface: SUB,
        direction: None,
    };
    for (point, seen) in [(vlan, &plain), (link(LAN, None), &tagged)] {
        arm(&mut bench, point, "udp", u16::MAX, 10);
        // Another's is not shown.
        bench.receive(WAN, &plain);
        bench.receive(LAN, &tagged);
        bench.put(NodeId::InterfaceOutput, LAN, &plain, |meta| {
            meta.tx_interface = SUB;
        });
        bench.run();
        let captured = take(&mut bench);
        let ways: Vec<_> = captured
            .packets()
            .map(|(head, bytes)| {
                assert_eq!((head.layer, bytes), (Layer::Link, &seen[..]));
                head.direction
            })
            .collect();
        assert_eq!(ways, [Direction::In, Direction::Out], "{point:?}");
        assert_eq!(bench.sent(LAN).pop().unwrap(), tagged);
    }
    bench.finish();
}

#[test]
fn what_is_dropped_is_kept_with_its_reason() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, Point::Drop, "", u16::MAX, 10);
    let blackholed = packet4(HOST_IP, [10, 66, 0, 1].into(), 17, &[1; 8]);
    let expired = packet4_with(HOST_IP, FAR_IP, 17, &[0; 20], |header| header.ttl = 1);
    let other = frame([2, 9, 9, 9, 9, 9], HOST_MAC.0, 0x0800, &blackholed);
    let unknown = frame([255; 6], HOST_MAC.0, 0x88cc, &[1, 2, 3]);
    let arp = frame([255; 6], HOST_MAC.0, 0x0806, &[9; 28]);
    let fine = packet4(HOST_IP, FAR_IP, 17, &[7; 20]);
    let expected = [
        (
            from_host(&blackholed),
            Some(blackholed.clone()),
            DropReason::RouteBlackhole,
        ),
        (
            from_host(&expired),
            Some(expired.clone()),
            DropReason::Ip4TtlExpired,
        ),
        (other.clone(), None, DropReason::EthernetNotForUs),
        (unknown.clone(), None, DropReason::EthernetUnknownType),
        (arp.clone(), None, DropReason::ArpMalformed),
    ];
    for (received, network, reason) in expected {
        bench.receive(LAN, &received);
        bench.receive(LAN, &from_host(&fine));
        bench.run();
        let captured = take(&mut bench);
        let kept = kept(&captured);
        assert_eq!(kept.len(), 1, "{}", reason.name());
        let (head, bytes) = &kept[0];
        assert_eq!((head.reason, head.interface), (Some(reason), LAN));
        match network {
            Some(packet) => assert_eq!((head.layer, bytes), (Layer::Network, &packet)),
            None => assert_eq!((head.layer, bytes), (Layer::Link, &received)),
        }
    }
    bench.finish();
}

#[test]
fn a_node_shows_what_it_is_given_as_long_as_was_asked_for() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, Point::Node(NodeId::Ip4Rewrite), "", 24, 3);
    let packet = packet4(HOST_IP, FAR_IP, 17, &[7; 20]);
    for _ in 0..5 {
        bench.receive(LAN, &from_host(&packet));
    }
    bench.run();
    let captured = take(&mut bench);
    assert_eq!((captured.matched, captured.missed), (3, 0));
    for (head, bytes) in captured.packets() {
        assert_eq!((head.length, bytes), (40, &packet[..24]));
        assert_eq!(head.node, NodeId::Ip4Rewrite);
    }
    bench.receive(LAN, &from_host(&packet));
    bench.run();
    assert_eq!(take(&mut bench).packets().count(), 0, "three are enough");
    bench.finish();
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, link(LAN, None), "", u16::MAX, 1000);
    let packet = from_host(&packet4(HOST_IP, FAR_IP, 17, &[7; 966]));
    for _ in 0..10 {
        bench.receive(LAN, &packet);
    }
    bench.run();
    let captured = take(&mut bench);
    let count = captured.packets().count() as u64;
    assert!((4..10).contains(&count), "{count} of 1000 bytes each");
    assert_eq!((captured.matched, captured.missed), (10, 10 - count));
    bench.finish();
}
