//! VLANs on the link of an interface.

use super::*;
use crate::vlan::{OnLink, Tags, VlanId};

/// On the link of `wan`.
fn sub_interface(name: &str, outer_vlan: u32, vlan: u32) -> (String, Kind) {
    let (key, mut kind) = interface(name);
    if let Kind::Interface(value) = &mut kind {
        value.device = "wan-device".into();
        value.parent = "wan".into();
        value.vlan = vlan;
        value.outer_vlan = outer_vlan;
    }
    (key, kind)
}

fn wan(admin_up: bool) -> (String, Kind) {
    let (key, mut kind) = interface("wan");
    if let Kind::Interface(wan) = &mut kind {
        wan.admin_up = admin_up;
    }
    (key, kind)
}

fn place(gateway: &Box, outer: Option<u32>, vlan: u32) -> OnLink {
    OnLink {
        parent: gateway.index("wan"),
        tags: Tags {
            outer: outer.map(|number| VlanId::new(number).unwrap()),
            vlan: VlanId::new(vlan).unwrap(),
        },
    }
}

#[test]
fn a_sub_interface_is_an_interface_on_the_port_of_its_parent() {
    let mut gateway = Box::network();
    let early = gateway.tables.current();
    assert!(early.vlans.is_empty());
    let actions = gateway.create(sub_interface("wan.100", 0, 100));
    gateway.create(sub_interface("wan.5.100", 5, 100));
    let (single, double) = (gateway.index("wan.100"), gateway.index("wan.5.100"));
    assert_eq!(
        actions,
        [Action::OpenTap {
            port: tap_port(single),
            tap: "wan.100".into()
        }]
    );
    let tables = gateway.tables.current();
    assert_eq!(tables.vlans.place(single), Some(place(&gateway, None, 100)));
    assert_eq!(
        tables.vlans.place(double),
        Some(place(&gateway, Some(5), 100))
    );
    // Its frames begin with the parent's address; duplicates are looked for on its own link.
    gateway.create(address("wan.100", "192.0.2.1/24"));
    let asked: Vec<_> = gateway
        .wait(5 * SECOND)
        .into_iter()
        .filter_map(|action| match action {
            Action::Emit { interface, frame } => Some((interface, frame[6..12].to_vec())),
            _ => None,
        })
        .collect();
    assert!(asked.contains(&(single, WAN_MAC.0.to_vec())), "{asked:?}");
    assert!(gateway.plane.addresses_ready(single));
    assert_eq!(gateway.adjacency("192.0.2.9").interface, single);
    gateway.seen("wan.100", "192.0.2.9", ROUTER_MAC, true);
    assert_eq!(gateway.kind("192.0.2.9"), rewrite(ROUTER_MAC, WAN_MAC));
    // Nobody else may have its place, and the parent stays while it is there.
    let (key, rival) = sub_interface("other", 0, 100);
    assert!(matches!(
        gateway.operate(Verb::Create, &key, Some(rival)),
        Err(ApplyError::InUse { .. })
    ));
    for name in ["wan", "wan.100"] {
        for address in ["203.0.113.1/24", "2001:db8:ff::1/64", "192.0.2.1/24"] {
            gateway.delete(&format!("address/{name}/{address}"));
        }
    }
    assert_eq!(
        gateway.operate(Verb::Delete, "interface/wan", None),
        Err(ApplyError::InUse {
            what: "interface wan".into(),
            by: "sub-interface wan.100".into()
        })
    );
    gateway.delete("interface/wan.100");
    gateway.delete("interface/wan.5.100");
    assert!(gateway.tables.current().vlans.is_empty());
    gateway.delete("interface/wan");
}

#[test]
fn a_sub_interface_is_down_while_its_parent_is() {
    let mut gateway = Box::network();
    gateway.create(sub_interface("wan.100", 0, 100));
    gateway.create(address("wan.100", "192.0.2.1/24"));
    gateway.wait(5 * SECOND);
    let index = gateway.index("wan.100");
    let is_up = |gateway: &Box| {
        let tables = gateway.tables.current();
        let published = tables.interfaces.get(index).unwrap();
        (published.admin_up, published.source4().is_some())
    };
    assert_eq!(is_up(&gateway), (true, true));
    gateway.create(wan(false));
    assert_eq!(is_up(&gateway), (false, false));
    // Addresses are checked anew on a link that is back.
    gateway.create(wan(true));
    assert_eq!(is_up(&gateway), (true, false));
    gateway.wait(5 * SECOND);
    assert_eq!(is_up(&gateway), (true, true));
    assert!(!gateway.tables.current().vlans.is_empty());
}

#[test]
fn what_cannot_be_a_sub_interface_is_refused() {
    let mut gateway = Box::network();
    gateway.create(sub_interface("wan.100", 0, 100));
    gateway.create(tunnel("ipsec0", 1));
    for (parent, vlan, outer) in [
        ("nowhere", 7, 0),
        ("wan.100", 7, 0),
        ("ipsec0", 7, 0),
        ("wan", 0, 0),
        ("wan", 4095, 0),
        ("wan", 7, 4095),
    ] {
        let (key, mut kind) = sub_interface("odd", outer, vlan);
        if let Kind::Interface(value) = &mut kind {
            value.parent = parent.into();
        }
        let outcome = gateway.operate(Verb::Create, &key, Some(kind));
        assert!(outcome.is_err(), "{parent} {vlan} {outer}");
    }
}
