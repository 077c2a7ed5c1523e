//! Interfaces and addresses as they come, change and go.

use super::*;

#[test]
fn an_interface_brings_its_port_its_routes_and_its_addresses_when_nobody_has_them() {
    let mut gateway = Box::empty();
    let actions = gateway.create(interface("wan"));
    let wan = gateway.index("wan");
    assert_eq!(
        actions,
        [
            Action::OpenPort {
                port: wan,
                device: "wan-device".into(),
                driver: None,
                mtu: 1500,
            },
            Action::OpenTap {
                port: tap_port(wan),
                tap: "wan".into()
            }
        ]
    );
    gateway.wait(5 * SECOND);
    gateway.create(address("wan", "203.0.113.1/24"));
    assert_eq!(gateway.kind("203.0.113.1"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("203.0.113.255"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("203.0.113.9"), AdjacencyKind::Glean);
    assert_eq!(gateway.adjacency("203.0.113.9").mtu, 1500);
    assert_eq!(
        gateway.kind(&format!("fe80:0:{wan:x}::9")),
        AdjacencyKind::Glean
    );
    assert!(!gateway.plane.addresses_ready(wan));
    let started = gateway.now;
    let frames: Vec<_> = gateway
        .wait(SECOND)
        .into_iter()
        .map(|action| match action {
            Action::Emit { interface, frame } if interface == wan => {
                ArpPacket::parse(EthernetView::parse(&frame).unwrap().payload()).unwrap()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(gateway.now - started, SECOND);
    assert_eq!(frames.len(), 4);
    assert!(frames[..3].iter().all(ArpPacket::is_probe));
    assert!(frames[3].is_announcement() && frames[3].sender_mac == WAN_MAC);
    assert!(gateway.plane.addresses_ready(wan));
    let tables = gateway.tables.current();
    let published = tables.interfaces.get(wan).unwrap();
    assert_eq!(published.source4(), Some([203, 0, 113, 1].into()));
    assert_eq!(published.link_local(), Some(WAN_MAC.link_local()));
    assert_eq!(published.tap, Some(tap_port(wan)));
    assert_eq!(published.mss_clamp, MssClamp::FromMtu);
    assert!(tables.mss_arriving);
    let (key, mut kind) = interface("wan");
    if let Kind::Interface(wan) = &mut kind {
        wan.mss_clamp = None;
    }
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert!(!gateway.tables.current().mss_arriving);
}

#[test]
fn an_address_that_another_has_is_never_used() {
    let mut gateway = Box::empty();
    gateway.create(interface("wan"));
    gateway.create(address("wan", "203.0.113.1/24"));
    let wan = gateway.index("wan");
    let conflict = Event::AddressConflict {
        interface: wan,
        address: ip("203.0.113.1"),
        mac: ROUTER_MAC,
    };
    assert!(gateway.plane.handle([&conflict], gateway.now).is_empty());
    gateway.wait(10 * SECOND);
    assert!(!gateway.plane.addresses_ready(wan));
    assert_eq!(
        gateway
            .tables
            .current()
            .interfaces
            .get(wan)
            .unwrap()
            .source4(),
        None
    );
    gateway.wait(60 * SECOND);
    assert!(gateway.plane.addresses_ready(wan));
    // From now on it is defended.
    let actions = gateway.plane.handle([&conflict], gateway.now);
    let own = link_frames::arp_announcement(WAN_MAC, [203, 0, 113, 1].into());
    assert_eq!(
        actions,
        [Action::Emit {
            interface: wan,
            frame: own.to_vec()
        }]
    );
}

#[test]
fn an_interface_that_moves_to_another_vrf_takes_its_routes_along() {
    let mut gateway = Box::network();
    gateway.seen("lan", "10.1.0.2", ROUTER_MAC, true);
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(lan) = &mut kind {
        lan.vrf = "blue".into();
    }
    assert_eq!(
        gateway.operate(Verb::Update, &key, Some(kind.clone())),
        Err(ApplyError::UnknownVrf("blue".into()))
    );
    gateway.create((
        "vrf/blue".into(),
        Kind::Vrf(bus::Vrf {
            name: "blue".into(),
        }),
    ));
    gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    for to in ["10.1.0.1", "10.1.0.2", "10.1.0.9"] {
        assert_eq!(
            gateway.kind(to),
            AdjacencyKind::Drop(DropReason::NoRoute),
            "{to}"
        );
    }
    let blue = gateway.plane.vrf_names["blue"];
    let tables = gateway.tables.current();
    let fib = &tables.vrfs.get(blue).unwrap().fib4;
    assert_eq!(fib.lookup([10, 1, 0, 1].into()), ADJACENCY_LOCAL);
    assert_ne!(fib.lookup([10, 1, 0, 2].into()), ADJACENCY_NO_ROUTE);
    assert!(matches!(
        gateway.operate(Verb::Delete, "vrf/blue", None),
        Err(ApplyError::InUse { .. })
    ));
}

#[test]
fn a_new_device_gets_a_new_port_and_a_new_link_local_address() {
    let mut gateway = Box::network();
    let lan = gateway.index("lan");
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(interface) = &mut kind {
        interface.device = "wan-device".into();
        interface.tap = String::new();
    }
    let actions = gateway.operate(Verb::Update, &key, Some(kind)).unwrap();
    assert_eq!(
        actions,
        [
            Action::ClosePort { port: lan },
            Action::OpenPort {
                port: lan,
                device: "wan-device".into(),
                driver: None,
                mtu: 1500,
            },
            Action::ClosePort {
                port: tap_port(lan)
            }
        ]
    );
    assert!(!gateway.plane.addresses_ready(lan));
    gateway.wait(2 * SECOND);
    let tables = gateway.tables.current();
    let published = tables.interfaces.get(lan).unwrap();
    assert_eq!(published.link_local(), Some(WAN_MAC.link_local()));
    assert_eq!(published.addresses6.len(), 1);
    assert_eq!(published.source4(), Some([10, 1, 0, 1].into()));
}

#[test]
fn a_tunnel_says_what_its_outer_headers_are_like() {
    use crate::sa::{DontFragment, FlowLabel, OuterRules};
    let mut gateway = Box::network();
    let with = |header: bus::OuterHeader| {
        let (key, mut kind) = tunnel("ipsec7", 77);
        if let Kind::Tunnel(tunnel) = &mut kind {
            tunnel.outer_header = Some(header);
        }
        (key, kind)
    };
    let header = bus::OuterHeader {
        dscp: Some(46),
        dscp_inward: true,
        no_ecn: true,
        dont_fragment: bus::outer_header::DontFragment::Set.into(),
        hop_limit: 200,
        flow_label: bus::outer_header::FlowLabel::Copy.into(),
    };
    gateway.create(with(header));
    let tables = gateway.tables.current();
    let index = gateway.index("ipsec7");
    let InterfaceKind::Tunnel { outer, .. } = tables.interfaces.get(index).unwrap().kind else {
        panic!("no tunnel");
    };
    assert_eq!(
        outer,
        Some(OuterRules {
            class_kept: 0,
            class_set: 46 << 2,
            dont_fragment: DontFragment::Set,
            hop_limit: 200,
            flow_label: FlowLabel::Copy,
            dscp_inward: true,
        })
    );
    for (wrong, message) in [
        (
            bus::OuterHeader {
                dscp: Some(64),
                ..header
            },
            "64 is no DSCP",
        ),
        (
            bus::OuterHeader {
                hop_limit: 0,
                ..header
            },
            "0 is no hop limit",
        ),
    ] {
        let (key, kind) = with(wrong);
        let value = bus::Value { kind: Some(kind) };
        let refused = super::values::Spec::read(&key, &value).unwrap_err();
        assert!(refused.to_string().contains(message), "{refused}");
    }
}

#[test]
fn a_loopback_is_up_at_once_and_leads_nowhere() {
    let mut gateway = Box::network();
    let loopback = Kind::Loopback(bus::Loopback {
        name: "lo0".into(),
        vrf: "default".into(),
        tap: "lo0".into(),
    });
    let actions = gateway.create(("loopback/lo0".into(), loopback));
    let index = gateway.index("lo0");
    assert_eq!(
        actions,
        [Action::OpenTap {
            port: tap_port(index),
            tap: "lo0".into()
        }]
    );
    gateway.create(address("lo0", "198.51.100.7/32"));
    gateway.create(address("lo0", "2001:db8::7/128"));
    assert!(gateway.plane.addresses_ready(index));
    assert_eq!(gateway.kind("198.51.100.7"), AdjacencyKind::Local);
    assert_eq!(gateway.kind("2001:db8::7"), AdjacencyKind::Local);
    let published = gateway.tables.current();
    let published = published.interfaces.get(index).unwrap();
    assert!(published.admin_up);
    assert_eq!(published.source4(), Some([198, 51, 100, 7].into()));
    assert_eq!(published.link_local(), None);
    gateway.create(route("192.0.2.0/24", &["%lo0"]));
    assert_eq!(
        gateway.kind("192.0.2.1"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
    gateway.delete("address/lo0/198.51.100.7/32");
    gateway.delete("address/lo0/2001:db8::7/128");
    gateway.delete("loopback/lo0");
    assert_eq!(
        gateway.kind("198.51.100.7"),
        AdjacencyKind::Drop(DropReason::NoRoute)
    );
}

#[test]
fn an_index_is_its_names_while_nothing_has_it() {
    let mut gateway = Box::empty();
    gateway.create(tunnel("ipsec0", 1));
    let index = gateway.index("ipsec0");
    gateway.delete("tunnel/ipsec0");
    assert_eq!(gateway.plane.interface_index("ipsec0"), None);
    gateway.create(tunnel("ipsec1", 2));
    let mut known: Vec<u32> = gateway.plane.interface_indexes().collect();
    known.sort_unstable();
    assert_eq!(known, [index, gateway.index("ipsec1")]);
    gateway.create(tunnel("ipsec0", 1));
    assert_eq!(gateway.index("ipsec0"), index);
    assert_eq!(gateway.plane.interface_indexes().count(), 2);
}
