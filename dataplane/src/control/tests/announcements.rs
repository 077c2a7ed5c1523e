//! What stations say of themselves without being asked.

use super::*;

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
