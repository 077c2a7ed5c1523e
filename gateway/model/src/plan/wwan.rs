//! Interfaces to mobile networks.
//!
//! ```text
//!   wwan/wwan0 --needs--> modem/wwan0     held by the part that finds the modem
//!              --needs--> vrf/default
//! ```
//!
//! No plan has a modem, since nobody configures one: on a box where no part has found it the interface stays pending,
//! and says which modem it waits for.

use std::collections::HashMap;

use super::network::{mss_clamp, vrf_key};
use super::ports::{Port, Ports, default_vrf};
use super::{DigestKey, Key, Part, PlanReason, Planner, vlan};
use crate::bus::{self, value::Kind, wwan};
use crate::config::{Config, WwanAuthentication, WwanFamily, WwanInterface};
use crate::decode::path;

/// The interface among all others. Its addresses come from the network.
pub(super) fn port(interface: &WwanInterface) -> Port {
    let name = interface.name().to_owned();
    Port {
        vrf: interface.vrf.clone().unwrap_or_else(default_vrf),
        key: key(&name),
        origin: path::item("wwan_interfaces", std::slice::from_ref(&name), 0),
        addresses: Vec::new(),
        // Who has the modem makes it, with the addresses.
        tap: false,
        name,
    }
}

fn key(name: &str) -> Key {
    Key::from(format!("wwan/{name}"))
}

fn modem_key(device: &str) -> Key {
    Key::from(format!("modem/{device}"))
}

/// Plans all of them.
pub(super) fn plan(config: &Config, ports: &Ports, digests: &DigestKey, planner: &mut Planner) {
    if config.wwan_interfaces.is_empty() {
        return;
    }
    let ethernet = config.interfaces.iter().filter(|one| one.parent.is_none());
    let mut devices: HashMap<String, String> = ethernet
        .filter_map(|one| {
            let origin = ports.get(one.name())?.origin.clone();
            Some((vlan::device(config, one).to_owned(), origin))
        })
        .collect();
    for interface in &config.wwan_interfaces {
        let key = key(interface.name());
        let Some(port) = ports.get(interface.name()).filter(|port| port.key == key) else {
            continue;
        };
        let device = interface.device.as_ref().unwrap_or(&port.name).clone();
        if let Some(other) = devices.insert(device.clone(), port.origin.clone()) {
            planner.refuse(
                path::field(&port.origin, "device"),
                PlanReason::Taken {
                    what: device.clone(),
                    other,
                },
            );
        }
        check(interface, &port.origin, planner);
        let needs = vec![modem_key(&device), vrf_key(&port.vrf)];
        let value = value(interface, port, device, digests);
        planner
            .add(key, Kind::Wwan(value), Part::Lte, &port.origin)
            .needs = needs;
    }
}

/// What must hold among the fields of one.
fn check(interface: &WwanInterface, origin: &str, planner: &mut Planner) {
    let logs_in = matches!(
        interface.authentication(),
        WwanAuthentication::Pap | WwanAuthentication::Chap
    );
    let given = [
        ("user_name", interface.user_name.is_some()),
        ("password", interface.password.is_some()),
    ];
    for (field, given) in given {
        let reason = match (logs_in, given) {
            (true, false) => PlanReason::NoLogin,
            (false, true) => PlanReason::Without("an authentication of pap or chap"),
            _ => continue,
        };
        planner.refuse(path::field(origin, field), reason);
    }
    if let Some(mtu) = interface.mtu
        && mtu < 1280
        && family(interface) != wwan::Family::Ipv4
    {
        planner.refuse(path::field(origin, "mtu"), PlanReason::MtuBelowIpv6 { mtu });
    }
}

fn family(interface: &WwanInterface) -> wwan::Family {
    match interface.ip_family() {
        WwanFamily::Ipv4 => wwan::Family::Ipv4,
        WwanFamily::Ipv6 => wwan::Family::Ipv6,
        WwanFamily::Both | WwanFamily::Unspecified => wwan::Family::Both,
    }
}

fn value(interface: &WwanInterface, port: &Port, device: String, digests: &DigestKey) -> bus::Wwan {
    let (password, pin) = (interface.password(), interface.pin());
    bus::Wwan {
        name: port.name.clone(),
        device,
        vrf: port.vrf.clone(),
        apn: interface.apn().to_owned(),
        authentication: match interface.authentication() {
            WwanAuthentication::Pap => wwan::Authentication::Pap,
            WwanAuthentication::Chap => wwan::Authentication::Chap,
            WwanAuthentication::None | WwanAuthentication::Unspecified => {
                wwan::Authentication::None
            }
        }
        .into(),
        user_name: interface.user_name().to_owned(),
        password: password.to_owned(),
        pin: pin.to_owned(),
        family: family(interface).into(),
        mtu: interface.mtu,
        admin_up: interface.enabled.unwrap_or(true),
        mss_clamp: mss_clamp(interface.mss_clamp(), interface.mss),
        default_route: interface.default_route.unwrap_or(true),
        digest: digests.secrets([("password", password.as_bytes()), ("pin", pin.as_bytes())]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::decode::config_from_json;
    use crate::plan::{Plan, PlanErrors, same, updates_in_place};

    const PASSWORD: &str = "walrus-and-carpenter";
    const PIN: &str = "83619";

    fn plan_of(text: &str) -> Result<Plan, PlanErrors> {
        let config = config_from_json(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        crate::plan::plan(&config, &DigestKey::new([7; 32]))
    }

    fn modem(fields: &str) -> String {
        format!(
            r#"{{ "interfaces": [{{ "name": "lan", "device": "eth1" }}],
                 "wwan_interfaces": [{{ "name": "mobile", "device": "wwan0" {fields} }}] }}"#
        )
    }

    fn login() -> String {
        modem(&format!(
            r#", "apn": "internet.example", "authentication": "chap", "user_name": "branch",
               "password": "{PASSWORD}", "pin": "{PIN}", "ip_family": "ipv4", "mtu": 1358, "mss_clamp": true"#
        ))
    }

    fn errors(text: &str) -> Vec<String> {
        let errors = plan_of(text).unwrap_err().0;
        errors.iter().map(ToString::to_string).collect()
    }

    fn value_of(text: &str) -> bus::Value {
        plan_of(text).unwrap()[&Key::from("wwan/mobile")]
            .value
            .clone()
    }

    #[test]
    fn it_waits_for_a_modem_and_nothing_waits_for_it() {
        let plan = plan_of(&login()).unwrap();
        let planned = &plan[&Key::from("wwan/mobile")];
        let needs: Vec<&str> = planned.needs.iter().map(Key::as_str).collect();
        assert_eq!(needs, ["modem/wwan0", "vrf/default"]);
        assert_eq!((planned.part, planned.after.len()), (Part::Lte, 0));
        assert_eq!(planned.origins, ["wwan_interfaces[mobile]"]);
        let keys: Vec<&str> = plan.keys().map(Key::as_str).collect();
        assert_eq!(
            keys,
            [
                "forwarding",
                "interface/lan",
                "linux/link/lan",
                "vrf/default",
                "wwan/mobile"
            ]
        );
        for other in plan.values() {
            let mut waits = other.needs.iter().chain(&other.after);
            assert!(waits.all(|key| key.kind() != "wwan"), "{other:?}");
        }
        let Some(Kind::Wwan(value)) = &planned.value.kind else {
            panic!("{planned:?}");
        };
        assert_eq!(
            (value.apn.as_str(), value.user_name.as_str()),
            ("internet.example", "branch")
        );
        assert_eq!(
            (value.password.as_str(), value.pin.as_str()),
            (PASSWORD, PIN)
        );
        assert_eq!((value.mtu, value.mss_clamp), (Some(1358), Some(0)));
        assert!(value.admin_up && value.default_route);

        let Some(Kind::Wwan(bare)) = value_of(&modem("")).kind else {
            panic!("another kind");
        };
        assert_eq!(
            (bare.family(), bare.mtu, bare.mss_clamp),
            (wwan::Family::Both, None, None)
        );
    }

    #[test]
    fn no_route_leads_by_what_may_never_come() {
        let text = modem("").replace(
            "\"wwan_interfaces\"",
            r#""routes": [{ "destination": "0.0.0.0/0", "next_hops": [{ "interface": "mobile" }] }], "wwan_interfaces""#,
        );
        let told = config_from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(told.contains("\"mobile\" is not in interfaces"), "{told}");
    }

    #[test]
    fn names_and_devices_have_one_owner() {
        let two = |name: &str, device: &str| {
            format!(
                r#"{{ "interfaces": [{{ "name": "lan", "device": "eth1" }}],
                     "wwan_interfaces": [{{ "name": "one", "device": "wwan0" }}, {{ "name": "{name}", "device": "{device}" }}] }}"#
            )
        };
        plan_of(&two("two", "wwan1")).unwrap();
        assert_eq!(
            errors(&two("lan", "wwan1")),
            ["wwan_interfaces[lan].name: lan is also that of interfaces[lan]; each has its own"]
        );
        assert_eq!(
            errors(&two("two", "wwan0")),
            [
                "wwan_interfaces[two].device: wwan0 is also that of wwan_interfaces[one]; each has its own"
            ]
        );
        assert_eq!(
            errors(&two("two", "eth1")),
            ["wwan_interfaces[two].device: eth1 is also that of interfaces[lan]; each has its own"]
        );
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert_eq!(
            errors(&modem(
                r#", "authentication": "pap", "user_name": "branch""#
            )),
            [
                "wwan_interfaces[mobile].password: must be given: pap and chap prove a user name by a password"
            ]
        );
        assert_eq!(
            errors(&modem(r#", "user_name": "branch""#)),
            [
                "wwan_interfaces[mobile].user_name: has an effect only together with an authentication of pap or chap"
            ]
        );
        assert_eq!(
            errors(&modem(r#", "mtu": 1000"#)),
            [
                "wwan_interfaces[mobile].mtu: 1000 bytes with an IPv6 address; IPv6 needs at least 1280"
            ]
        );
        plan_of(&modem(r#", "mtu": 1000, "ip_family": "ipv4""#)).unwrap();
        assert_eq!(
            errors(&modem(r#", "mss": 1200"#)),
            ["wwan_interfaces[mobile].mss: has no effect without mss_clamp; set mss_clamp to true"]
        );
    }

    #[test]
    fn a_wrong_pin_is_not_repeated() {
        for wrong in ["12x4", "123", "123456789"] {
            let text = modem(&format!(r#", "pin": "{wrong}""#));
            let errors = config_from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(errors.contains("wwan_interfaces[mobile].pin"), "{errors}");
            assert!(!errors.contains(wrong), "{errors}");
        }
    }

    #[test]
    fn secrets_are_compared_by_digest_and_never_shown() {
        let planned = value_of(&login());
        let shown = format!("{planned:?}");
        assert!(!shown.contains(PASSWORD) && !shown.contains(PIN), "{shown}");
        let mut held = planned.clone();
        if let Some(Kind::Wwan(value)) = &mut held.kind {
            value.password.clear();
            value.pin.clear();
        }
        assert!(same(&planned, &held));
        for (from, to) in [(PASSWORD, "walrus"), (PIN, "1234")] {
            let other = value_of(&login().replace(from, to));
            assert!(!same(&other, &held), "{to}");
            assert!(!updates_in_place(&held, &other), "{to}");
        }
        let smaller = value_of(&login().replace("1358", "1300"));
        assert!(!same(&smaller, &held));
        assert!(updates_in_place(&held, &smaller));
        let elsewhere = value_of(&login().replace("internet.example", "vpn.example"));
        assert!(!updates_in_place(&held, &elsewhere));
    }
}
