//! Sub-interfaces: VLANs on the link of another interface.
//!
//! ```text
//!   wan0 (device eth1) <-- parent -- wan0.100 (vlan 100), wan0.5.100 (outer_vlan 5, vlan 100)
//! ```

use super::network::DEFAULT_MTU;
use super::{PlanReason, Planner};
use crate::config::{Config, Interface};
use crate::decode::path;

/// Bytes that two tags take of what a frame carries. For one there is room beyond the MTU everywhere; a frame that begins
/// with a service tag Linux only lets through a packet socket if it is no longer than one without tags.
const TWO_TAGS: u32 = 8;

fn parent<'a>(config: &'a Config, interface: &Interface) -> Option<&'a Interface> {
    let name = interface.parent.as_deref()?;
    config.interfaces.iter().find(|other| other.name() == name)
}

/// The Linux device that carries the frames of an interface.
pub(super) fn device<'a>(config: &'a Config, interface: &'a Interface) -> &'a str {
    let carrier = parent(config, interface).unwrap_or(interface);
    carrier.device.as_deref().unwrap_or(carrier.name())
}

/// Bytes of the longest IP packet of an interface.
pub(super) fn mtu(config: &Config, interface: &Interface) -> u32 {
    interface.mtu.unwrap_or_else(|| most(config, interface))
}

/// Of what its link carries.
fn most(config: &Config, interface: &Interface) -> u32 {
    let outer = interface.outer_vlan.map_or(0, |_| TWO_TAGS);
    parent(config, interface).map_or(DEFAULT_MTU, |parent| {
        parent.mtu.unwrap_or(DEFAULT_MTU).saturating_sub(outer)
    })
}

/// Refuses what makes no sub-interface.
pub(super) fn check(config: &Config, interface: &Interface, origin: &str, planner: &mut Planner) {
    let mut refuse = |field: &str, reason| planner.refuse(path::field(origin, field), reason);
    let Some(parent) = parent(config, interface) else {
        if interface.vlan.is_some() || interface.outer_vlan.is_some() {
            refuse("vlan", PlanReason::Without("parent"));
        }
        return;
    };
    let name = parent.name().to_owned();
    if interface.vlan.is_none() {
        refuse("parent", PlanReason::Without("vlan"));
    }
    if parent.parent.is_some() {
        let parent = name.clone();
        refuse("parent", PlanReason::NestedVlan { parent });
    }
    if interface.device.is_some() {
        let parent = name.clone();
        refuse("device", PlanReason::DeviceOfSubInterface { parent });
    }
    if interface.driver.is_some() {
        let parent = name.clone();
        refuse("driver", PlanReason::DeviceOfSubInterface { parent });
    }
    let most = most(config, interface);
    if let Some(mtu) = interface.mtu.filter(|mtu| *mtu > most) {
        let parent = name;
        refuse("mtu", PlanReason::MtuAboveParent { mtu, parent, most });
    }
    let place = |one: &Interface| (one.parent.clone(), one.outer_vlan, one.vlan);
    let rival = config
        .interfaces
        .iter()
        .take_while(|other| other.name() != interface.name())
        .find(|other| place(other) == place(interface));
    if let Some(rival) = rival {
        let tags: Vec<String> = interface
            .outer_vlan
            .iter()
            .chain(&interface.vlan)
            .map(u32::to_string)
            .collect();
        let reason = PlanReason::Taken {
            what: tags.join("."),
            other: path::item("interfaces", &[rival.name().to_owned()], 0),
        };
        refuse("vlan", reason);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use crate::bus::value::Kind;
    use crate::decode::config_from_json;
    use crate::plan::{DigestKey, Key, PlanErrors, plan};

    const TRUNK: &str = r#"{
      "vrfs": [{ "name": "guests" }],
      "interfaces": [
        { "name": "wan0", "device": "eth1" },
        { "name": "wan0.100", "parent": "wan0", "vlan": 100, "vrf": "guests",
          "addresses": [{ "address": "192.0.2.1/24" }] },
        { "name": "wan0.5.100", "parent": "wan0", "outer_vlan": 5, "vlan": 100 }
      ]
    }"#;

    fn plan_of(text: &str) -> Result<crate::plan::Plan, PlanErrors> {
        let config = config_from_json(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        plan(&config, &DigestKey::new([7; 32]))
    }

    #[test]
    fn a_sub_interface_uses_the_device_of_its_parent_and_needs_it() {
        let plan = plan_of(TRUNK).unwrap();
        let planned = &plan[&Key::from("interface/wan0.100")];
        let needs: Vec<_> = planned.needs.iter().map(Key::as_str).collect();
        assert_eq!(needs, ["vrf/guests", "interface/wan0"]);
        let place = |key: &str| match &plan[&Key::from(key)].value.kind {
            Some(Kind::Interface(one)) => (
                one.device.clone(),
                one.parent.clone(),
                one.outer_vlan,
                one.vlan,
                one.mtu,
            ),
            other => panic!("{other:?}"),
        };
        let of = |parent: &str, outer, vlan, mtu| {
            ("eth1".to_owned(), parent.to_owned(), outer, vlan, mtu)
        };
        assert_eq!(place("interface/wan0"), of("", 0, 0, 1500));
        assert_eq!(place("interface/wan0.100"), of("wan0", 0, 100, 1500));
        assert_eq!(place("interface/wan0.5.100"), of("wan0", 5, 100, 1492));
        assert!(plan.contains_key(&Key::from("linux/address/wan0.100/192.0.2.1/24")));
    }

    #[test]
    fn what_cannot_be_a_sub_interface_is_refused() {
        let double = r#""outer_vlan": 5, "vlan": 100 }"#;
        for (to, expected) in [
            (
                r#""vlan": 100 }"#,
                "interfaces[wan0.5.100].vlan: 100 is also that of interfaces[wan0.100]; each has its own",
            ),
            (
                r#""outer_vlan": 5 }"#,
                "interfaces[wan0.5.100].parent: has an effect only together with vlan",
            ),
            (
                r#""outer_vlan": 5, "vlan": 100, "mtu": 1500 }"#,
                "interfaces[wan0.5.100].mtu: 1500 bytes do not fit wan0, which takes 1492 with these tags",
            ),
            (
                r#""outer_vlan": 5, "vlan": 100, "device": "eth2" }"#,
                "interfaces[wan0.5.100].device: a sub-interface uses the device of its parent wan0 and how that is driven; leave this out",
            ),
            (
                r#""vlan": 9 }, { "name": "deep", "parent": "wan0.100", "vlan": 7 }"#,
                "interfaces[deep].parent: wan0.100 is a VLAN itself; name its parent, and its vlan as outer_vlan where frames have two tags",
            ),
            (
                r#""vlan": 9 }, { "name": "alone", "vlan": 7 }"#,
                "interfaces[alone].vlan: has an effect only together with parent",
            ),
        ] {
            let text = TRUNK.replace(double, to);
            assert_ne!(text, TRUNK);
            let errors = plan_of(&text).unwrap_err().0;
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, [expected]);
        }
    }
}
