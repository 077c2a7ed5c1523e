//! What a new plan does to what is there, and whom it cuts off.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::api::PlannedChange;
use culvert_model::bus::value::Kind;
use culvert_model::config::{self, Config};
use culvert_model::plan::{Key, Plan, same, updates_in_place};

/// The values that the parts are told of, by key.
pub fn changes(old: &Plan, new: &Plan) -> Vec<PlannedChange> {
    let mut rest = old.iter().peekable();
    let mut changes = Vec::new();
    let mut change = |key: &Key, verb: &str| {
        changes.push(PlannedChange {
            key: key.to_string(),
            verb: verb.to_owned(),
        });
    };
    for (key, planned) in new {
        while let Some((gone, _)) = rest.next_if(|(old, _)| *old < key) {
            change(gone, "delete");
        }
        match rest.next_if(|(old, _)| *old == key) {
            None => change(key, "create"),
            Some((_, old)) if Arc::ptr_eq(old, planned) => {}
            Some((_, old)) if same(&planned.value, &old.value) => {}
            Some((_, old)) if updates_in_place(&old.value, &planned.value) => {
                change(key, "update");
            }
            Some(_) => change(key, "recreate"),
        }
    }
    for (gone, _) in rest {
        change(gone, "delete");
    }
    changes
}

/// What traffic notices of it, in sentences.
pub fn interrupts(changes: &[PlannedChange], old: &Plan, new: &Plan) -> Vec<String> {
    let mut sentences = Vec::new();
    for change in changes {
        let Some((kind, name)) = change.key.split_once('/') else {
            continue;
        };
        let what = match (kind, change.verb.as_str()) {
            ("interface" | "loopback", "delete") => format!("interface {name} goes"),
            ("interface" | "loopback", "recreate") => format!("interface {name} is built anew"),
            ("tunnel" | "ip_tunnel", "delete") => format!("tunnel {name} goes"),
            ("tunnel" | "ip_tunnel", "recreate") => format!("tunnel {name} is built anew"),
            ("connection", "delete") => format!("the IKE SAs of connection {name} end"),
            ("connection", "update") => {
                let left: BTreeSet<&str> = children(new, &change.key).collect();
                let gone = children(old, &change.key).filter(|child| !left.contains(child));
                sentences.extend(
                    gone.map(|child| format!("the CHILD SAs {child} of connection {name} end")),
                );
                continue;
            }
            ("address", "delete") => format!("the address {name} goes"),
            _ => continue,
        };
        sentences.push(what);
    }
    sentences
}

/// What everybody notices: processes that start anew.
pub fn restarting(processes: &[String]) -> Option<String> {
    (!processes.is_empty()).then(|| {
        format!(
            "other network interfaces: {} restart, nothing is forwarded for some seconds, and every tunnel is negotiated anew",
            processes.join(" and ")
        )
    })
}

/// Of a connection.
fn children<'a>(plan: &'a Plan, key: &str) -> impl Iterator<Item = &'a str> {
    let planned = plan.get(&Key::from(key.to_owned()));
    let connection = planned.and_then(|planned| match &planned.value.kind {
        Some(Kind::Connection(connection)) => Some(connection),
        _ => None,
    });
    let children = connection.map(|connection| connection.children.as_slice());
    children
        .unwrap_or_default()
        .iter()
        .map(|child| child.name.as_str())
}

/// Why a change needs a second word: it cuts off whoever makes it, or everybody.
pub fn dangers(old: &Config, new: &Config, entrance: Option<IpAddr>) -> Vec<String> {
    let mut dangers = Vec::new();
    if let Some(address) = entrance
        && !has_address(new, address)
    {
        if has_address(old, address) {
            dangers.push(format!(
                "{address} is the address that this session came in by, and it goes"
            ));
        } else {
            dangers.extend(lost_leases(old, new, address));
        }
    }
    if has_admin_key(old) && !has_admin_key(new) {
        dangers.push("no administrator with an SSH key would be left".to_owned());
    }
    dangers
}

fn has_address(config: &Config, address: IpAddr) -> bool {
    let interfaces = config.interfaces.iter().flat_map(|one| &one.addresses);
    let loopbacks = config.loopbacks.iter().flat_map(|one| &one.addresses);
    let tunnels = config.tunnels.iter().flat_map(|one| &one.addresses);
    let ip_tunnels = config.ip_tunnels.iter().flat_map(|one| &one.addresses);
    interfaces
        .chain(loopbacks)
        .chain(tunnels)
        .chain(ip_tunnels)
        .filter_map(|one| one.address().split('/').next())
        .any(|text| text.parse() == Ok(address))
}

/// What no list of addresses names somebody else has given: any DHCP client that goes may be the one it was given to.
fn lost_leases(old: &Config, new: &Config, address: IpAddr) -> Vec<String> {
    // DHCP leases are of IPv4, and no session comes in from outside by a loopback address.
    if !address.is_ipv4() || address.is_loopback() {
        return Vec::new();
    }
    let left = dhcp_clients(new);
    let lost = dhcp_clients(old)
        .into_iter()
        .filter(|name| !left.contains(name));
    lost.map(|name| {
        format!(
            "the address {address} that this session came in by may be a leased one, and the DHCP client of {name} goes"
        )
    })
    .collect()
}

/// The interfaces that ask for leases.
fn dhcp_clients(config: &Config) -> BTreeSet<&str> {
    let down: BTreeSet<&str> = config
        .interfaces
        .iter()
        .filter(|one| !is_up(one))
        .map(config::Interface::name)
        .collect();
    let asking = config.interfaces.iter().filter(|one| {
        is_up(one)
            && !one
                .parent
                .as_deref()
                .is_some_and(|parent| down.contains(parent))
            && one
                .dhcp_client
                .as_ref()
                .is_some_and(config::DhcpClient::enabled)
    });
    asking.map(config::Interface::name).collect()
}

/// Unless it says otherwise it is.
fn is_up(interface: &config::Interface) -> bool {
    interface.enabled.unwrap_or(true)
}

fn has_admin_key(config: &Config) -> bool {
    let users = config.system.iter().flat_map(|system| &system.users);
    users
        .into_iter()
        .any(|user| user.role() == config::Role::Admin && !user.ssh_keys.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::decode::config_from_json;
    use culvert_model::plan::{DigestKey, plan};

    use super::*;

    fn config(text: &str) -> Config {
        config_from_json(text.as_bytes()).unwrap()
    }

    fn plan_of(text: &str) -> Plan {
        plan(&config(text), &DigestKey::new([1; 32])).unwrap()
    }

    const ONE: &str =
        r#"{"interfaces": [{"name": "wan", "addresses": [{"address": "192.0.2.1/24"}]}]}"#;

    #[test]
    fn only_what_differs_changes() {
        let old = plan_of(ONE);
        assert_eq!(changes(&old, &old), []);
        let new = plan_of(
            r#"{"interfaces": [{"name": "wan", "mtu": 1400, "addresses": [{"address": "192.0.2.2/24"}]}]}"#,
        );
        let changes = changes(&old, &new);
        let verb = |key: &str| {
            let found = changes.iter().find(|change| change.key == key);
            found.map(|change| change.verb.as_str())
        };
        assert_eq!(verb("interface/wan"), Some("update"));
        assert_eq!(verb("address/wan/192.0.2.1/24"), Some("delete"));
        assert_eq!(verb("address/wan/192.0.2.2/24"), Some("create"));
        let sentences = interrupts(&changes, &old, &new);
        assert_eq!(sentences, ["the address wan/192.0.2.1/24 goes"]);
    }

    #[test]
    fn what_a_connection_carries_no_longer_is_told() {
        let hub = |children: &str| {
            plan_of(&format!(
                r#"{{
                    "tunnels": [{{"name": "ipsec0", "if_id": 7}}, {{"name": "ipsec1", "if_id": 8}}],
                    "connections": [{{
                        "name": "hub", "remote_address": "192.0.2.2",
                        "local": {{"method": "psk"}}, "remote": {{"method": "psk"}},
                        "children": [{children}]
                    }}],
                    "credentials": {{"pre_shared_keys": [
                        {{"name": "hub", "identities": [{{"identity": "192.0.2.2"}}], "secret": "0123456789abcdef"}}
                    ]}}
                }}"#
            ))
        };
        let (one, two) = (
            r#"{"name": "one", "tunnel": "ipsec0"}"#,
            r#"{"name": "two", "tunnel": "ipsec1"}"#,
        );
        let both = hub(&format!("{one}, {two}"));
        let told = |old: &Plan, new: &Plan| interrupts(&changes(old, new), old, new);
        assert_eq!(
            told(&both, &hub(one)),
            ["the CHILD SAs two of connection hub end"]
        );
        assert_eq!(told(&hub(one), &both), [""; 0]);
        let later = r#"{"name": "two", "tunnel": "ipsec1", "rekey_time": 60}"#;
        let otherwise = hub(&format!("{one}, {later}"));
        assert_eq!(told(&both, &otherwise), [""; 0]);
    }

    #[test]
    fn whoever_cuts_off_his_own_session_is_told() {
        let new = config(r#"{"interfaces": [{"name": "wan"}]}"#);
        let entrance = Some("192.0.2.1".parse().unwrap());
        assert_eq!(dangers(&config(ONE), &new, entrance).len(), 1);
        assert_eq!(dangers(&config(ONE), &config(ONE), entrance).len(), 0);
        assert_eq!(dangers(&config(ONE), &new, None).len(), 0);
    }

    #[test]
    fn an_address_of_any_kind_of_interface_is_missed() {
        let entrance = Some("192.0.2.1".parse().unwrap());
        let gre =
            r#""mode": "gre", "local_address": "198.51.100.1", "remote_address": "198.51.100.2""#;
        for (kind, more) in [
            ("interfaces", ""),
            ("loopbacks", ""),
            ("tunnels", r#", "if_id": 7"#),
            ("ip_tunnels", &format!(", {gre}")),
        ] {
            let with = |addresses: &str| {
                config(&format!(
                    r#"{{"{kind}": [{{"name": "one", "addresses": [{addresses}]{more}}}]}}"#
                ))
            };
            let old = with(r#"{"address": "192.0.2.1/24"}"#);
            assert_eq!(dangers(&old, &with(""), entrance).len(), 1, "{kind}");
            assert_eq!(dangers(&old, &old, entrance).len(), 0, "{kind}");
        }
    }

    #[test]
    fn a_dhcp_client_that_goes_may_take_the_session_along() {
        let wan = |more: &str| {
            config(&format!(
                r#"{{"interfaces": [
                    {{"name": "lan", "addresses": [{{"address": "10.0.0.1/24"}}]}},
                    {{"name": "wan"{more}}}
                ]}}"#
            ))
        };
        let old = wan(r#", "dhcp_client": {"enabled": true}"#);
        let without = config(r#"{"interfaces": [{"name": "lan"}]}"#);
        let told =
            |new: &Config, entrance: &str| dangers(&old, new, Some(entrance.parse().unwrap()));
        let off = wan(r#", "dhcp_client": {"enabled": false}"#);
        let down = wan(r#", "enabled": false, "dhcp_client": {"enabled": true}"#);
        for new in [&off, &down, &wan(""), &without] {
            assert_eq!(
                told(new, "203.0.113.9"),
                [
                    "the address 203.0.113.9 that this session came in by may be a leased one, and the DHCP client of wan goes"
                ]
            );
        }
        // It came in by an address of another interface, by none of this family, or not at all.
        assert_eq!(told(&off, "10.0.0.1"), [""; 0]);
        assert_eq!(told(&off, "2001:db8::9"), [""; 0]);
        assert_eq!(told(&off, "127.0.0.1"), [""; 0]);
        assert_eq!(dangers(&old, &off, None), [""; 0]);
        // What was leased is configured from now on.
        let taken = wan(r#", "addresses": [{"address": "203.0.113.9/24"}]"#);
        assert_eq!(told(&taken, "203.0.113.9"), [""; 0]);
        // The client stays.
        let longer = wan(r#", "mtu": 1400, "dhcp_client": {"enabled": true}"#);
        assert_eq!(told(&longer, "203.0.113.9"), [""; 0]);
        // With its link a VLAN goes, too.
        let vlan = |up: bool| {
            config(&format!(
                r#"{{"interfaces": [
                    {{"name": "wan", "enabled": {up}}},
                    {{"name": "wan.7", "parent": "wan", "vlan": 7, "dhcp_client": {{"enabled": true}}}}
                ]}}"#
            ))
        };
        let entrance = Some("203.0.113.9".parse().unwrap());
        assert_eq!(dangers(&vlan(true), &vlan(false), entrance).len(), 1);
    }
}
