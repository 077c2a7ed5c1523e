//! What stations say of themselves without being asked.

use super::*;
use crate::nodes::link_frames::Listening;

const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 9]);

/// A gratuitous ARP (RFC 5227 section 3) of a router that has taken over another one's address.
#[test]
fn an_announcement_moves_the_traffic_of_a_known_neighbour_and_makes_no_new_one() {
    let mut gateway = Box::network();
    gateway.create(route("0.0.0.0/0", &["203.0.113.2"]));
    gateway.seen("wan", "203.0.113.2", ROUTER_MAC, true);
    assert_eq!(gateway.kind("8.8.8.8"), rewrite(ROUTER_MAC, WAN_MAC));
    gateway.seen("wan", "203.0.113.2", OTHER_MAC, false);
    assert_eq!(gateway.kind("8.8.8.8"), rewrite(OTHER_MAC, WAN_MAC));
    // Whether it is true is asked within seconds, at the new address; nobody there: it is looked for anew.
    let asked = gateway.wait(6 * SECOND);
    let wan = gateway.index("wan");
    assert!(asked.iter().any(|action| matches!(
        action,
        Action::Emit { interface, frame } if *interface == wan && frame[..6] == OTHER_MAC.0
    )));
    gateway.wait(5 * SECOND);
    assert_eq!(
        gateway.kind("8.8.8.8"),
        AdjacencyKind::Unresolved(ip("203.0.113.2"))
    );
    // One that nobody wanted to reach is not taken in.
    gateway.seen("lan", "10.1.0.66", OTHER_MAC, false);
    assert_eq!(gateway.kind("10.1.0.66"), AdjacencyKind::Glean);
}

/// RFC 5227 section 2.3, RFC 4861 section 7.2.6: whoever had the address before is forgotten by all at once.
#[test]
fn an_address_is_announced_when_it_is_ready_and_when_its_link_comes_back() {
    let mut gateway = Box::network();
    let announced = |actions: Vec<Action>| {
        let own = link_frames::arp_announcement(WAN_MAC, [203, 0, 113, 1].into()).to_vec();
        let own6 = link_frames::advertisement(WAN_MAC, "2001:db8:ff::1".parse().unwrap(), None);
        let count = |frame: &[u8]| {
            actions
                .iter()
                .filter(
                    |action| matches!(action, Action::Emit { frame: sent, .. } if sent == frame),
                )
                .count()
        };
        (count(&own), count(&own6))
    };
    let down = |admin_up| {
        let (key, mut kind) = interface("wan");
        if let Kind::Interface(wan) = &mut kind {
            wan.admin_up = admin_up;
        }
        (key, kind)
    };
    gateway.create(down(false));
    assert_eq!(announced(gateway.wait(10 * SECOND)), (0, 0));
    gateway.create(down(true));
    let (four, six) = announced(gateway.wait(10 * SECOND));
    assert_eq!(four, 2, "ANNOUNCE_NUM of RFC 5227");
    assert!(six >= 1);
}

/// RFC 4862 section 5.4.2: a switch that watches reports lets nothing through to a group before one has been sent.
#[test]
fn each_address_joins_its_group_before_it_is_asked_for_and_routers_are_told_again() {
    let mut gateway = Box::empty();
    let (key, mut kind) = interface("lan");
    if let Kind::Interface(lan) = &mut kind {
        lan.tap = String::new();
    }
    gateway.create((key, kind));
    gateway.create(address("lan", "2001:db8:1::1/64"));
    let lan = gateway.index("lan");
    let frames = |actions: Vec<Action>| -> Vec<Vec<u8>> {
        let frame = |action| match action {
            Action::Emit { interface, frame } if interface == lan => frame,
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(frame).collect()
    };
    let report = |source: std::net::Ipv6Addr, groups: &[&str], listening| {
        let groups: Vec<_> = groups.iter().map(|group| group.parse().unwrap()).collect();
        link_frames::listener_reports(LAN_MAC, source, &groups, listening).remove(0)
    };
    let none = std::net::Ipv6Addr::UNSPECIFIED;
    let own: std::net::Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    let joined = report(none, &["ff02::1:ff00:1"], Listening::Now);
    let sent = frames(gateway.wait(SECOND / 2));
    let question = link_frames::solicitation(LAN_MAC, none, own, None).to_vec();
    let place = |frame: &Vec<u8>| sent.iter().position(|sent| sent == frame).unwrap();
    assert_eq!(place(&joined) + 1, place(&question));
    // With a link-local address routers listen, too (RFC 3590).
    let both = ["ff02::1:ff00:1", "ff02::1:ff00:101"];
    let joined = report(LAN_MAC.link_local(), &both, Listening::Now);
    let sent = frames(gateway.wait(10 * SECOND));
    assert!(sent.contains(&joined), "{sent:02x?}");
    let query = Event::ListenerQuery { interface: lan };
    let still = report(LAN_MAC.link_local(), &both, Listening::Still);
    let now = gateway.now;
    assert_eq!(frames(gateway.plane.handle([&query, &query], now)), [still]);
    assert!(gateway.plane.handle([&query], now + SECOND / 2).is_empty());
    assert_eq!(gateway.plane.handle([&query], now + SECOND).len(), 1);
}

#[test]
fn groups_of_linux_follow_its_taps() {
    let mut gateway = Box::empty();
    let joined =
        |gateway: &Box, group: &str| gateway.tables.current().groups.contains(1, ip(group));
    let told = [
        "239.1.1.1",
        "224.0.0.251",
        "ff05::2",
        "ff02::fb",
        "192.0.2.1",
    ];
    let told: Vec<_> = told
        .iter()
        .map(|group| ("wan".to_owned(), ip(group)))
        .collect();
    gateway.plane.set_groups(told.clone());
    assert!(!joined(&gateway, "239.1.1.1"));
    gateway.create(interface("wan"));
    assert!(joined(&gateway, "239.1.1.1") && joined(&gateway, "ff05::2"));
    for other in ["224.0.0.251", "ff02::fb", "192.0.2.1"] {
        assert!(!joined(&gateway, other), "{other}");
    }
    gateway.plane.set_groups(told[2..].to_vec());
    assert!(!joined(&gateway, "239.1.1.1") && joined(&gateway, "ff05::2"));
    gateway.delete("interface/wan");
    assert!(!joined(&gateway, "ff05::2"));
    gateway
        .plane
        .set_groups(vec![told[0].clone(); 2 * MOST_GROUPS]);
    assert_eq!(gateway.plane.groups.len(), MOST_GROUPS);
}
