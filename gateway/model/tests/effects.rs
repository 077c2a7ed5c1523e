//! What a field is said to do to what is there is what a change of it does to the plan.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use culvert_model::plan::{DigestKey, Plan, plan, updates_in_place};
use culvert_model::tree::{Location, Purpose, Tree, complete};

const BASE: &str = "
    set vrfs blue
    set interfaces wan device wan
    set interfaces wan addresses 192.0.2.1/24
    set interfaces lan device lan
    set interfaces lan.7 parent lan
    set interfaces lan.7 vlan 7
    set loopbacks lo0 addresses 10.9.0.1/32
    set loopbacks lo1 addresses 10.9.0.2/32
    set loopbacks lo1 addresses 10.9.0.3/32
    set tunnels ipsec0 if_id 7
    set tunnels ipsec0 addresses 10.9.1.1/31
    set ip_tunnels gre0 mode gre
    set ip_tunnels gre0 local_address 10.9.0.2
    set ip_tunnels gre0 remote_address 192.0.2.9
    set wwan_interfaces lte0 device cdc-wdm0
    set wwan_interfaces lte0 apn internet
    set connections hub remote_address 192.0.2.2
    set connections hub local method psk
    set connections hub remote method psk
    set connections hub children net tunnel ipsec0
    set credentials pre_shared_keys hub identities 192.0.2.2
    set credentials pre_shared_keys hub identities 192.0.2.4
    set credentials pre_shared_keys hub identities hub
    set credentials pre_shared_keys hub secret 0123456789abcdef
";

/// A field, and a value that it has not in the base.
const CHANGES: [(&str, &str); 36] = [
    ("interfaces wan device", "wan1"),
    ("interfaces wan vrf", "blue"),
    ("interfaces wan mtu", "1400"),
    ("interfaces wan enabled", "false"),
    ("interfaces wan self_traffic", "false"),
    ("interfaces wan description", "out"),
    ("interfaces lan.7 parent", "wan"),
    ("interfaces lan.7 vlan", "8"),
    ("interfaces lan.7 mtu", "1400"),
    ("loopbacks lo0 vrf", "blue"),
    ("loopbacks lo0 self_traffic", "false"),
    ("tunnels ipsec0 if_id", "8"),
    ("tunnels ipsec0 vrf", "blue"),
    ("tunnels ipsec0 underlay_vrf", "blue"),
    ("tunnels ipsec0 mtu", "1300"),
    ("tunnels ipsec0 enabled", "false"),
    ("tunnels ipsec0 fragmentation", "after"),
    ("tunnels ipsec0 reverse_path", "strict"),
    ("ip_tunnels gre0 mode", "ipip"),
    ("ip_tunnels gre0 local_address", "10.9.0.3"),
    ("ip_tunnels gre0 remote_address", "192.0.2.8"),
    ("ip_tunnels gre0 key", "5"),
    ("ip_tunnels gre0 vrf", "blue"),
    ("ip_tunnels gre0 mtu", "1300"),
    ("wwan_interfaces lte0 device", "cdc-wdm1"),
    ("wwan_interfaces lte0 apn", "office"),
    ("wwan_interfaces lte0 vrf", "blue"),
    ("wwan_interfaces lte0 mtu", "1300"),
    ("connections hub remote_address", "192.0.2.4"),
    ("connections hub mobike", "false"),
    ("connections hub force_encap", "true"),
    ("connections hub dpd_delay", "5"),
    ("connections hub remote identity", "hub"),
    ("connections hub children net rekey_time", "60"),
    (
        "connections hub children net remote_selectors",
        "10.2.0.0/24",
    ),
    ("system host_name", "elsewhere"),
];

fn loaded(text: &str) -> Tree {
    let none = Tree::default();
    none.load(text, &Location::root()).unwrap()
}

fn planned(tree: &Tree) -> Plan {
    plan(&tree.to_config().unwrap(), &DigestKey::new([0; 32])).unwrap()
}

/// What is there is taken away, for good or until the other comes.
fn builds_anew(before: &Plan, after: &Plan) -> bool {
    before.iter().any(|(key, old)| {
        after
            .get(key)
            .is_none_or(|new| old.value != new.value && !updates_in_place(&old.value, &new.value))
    })
}

#[test]
fn a_field_says_what_a_change_of_it_does() {
    let tree = loaded(BASE);
    let before = planned(&tree);
    for (field, value) in CHANGES {
        let after = planned(&loaded(&format!("{BASE}set {field} {value}\n")));
        let mut words: Vec<&str> = field.split(' ').collect();
        let name = words.pop().unwrap();
        let found = complete(&words, name, &Location::root(), &tree, Purpose::Set);
        let found = found.iter().find(|one| one.text == name).unwrap();
        assert_eq!(
            builds_anew(&before, &after),
            found.help.ends_with("(a change builds it anew)"),
            "{field}: {}",
            found.help
        );
    }
}
