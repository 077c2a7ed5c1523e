//! What a new plan does to what is there, and whom it cuts off.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::api::PlannedChange;
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
pub fn interrupts(changes: &[PlannedChange], restarts: &[String]) -> Vec<String> {
    let mut sentences = Vec::new();
    if !restarts.is_empty() {
        sentences.push(format!(
            "other network interfaces: {} restart, nothing is forwarded for some seconds, and every tunnel is negotiated anew",
            restarts.join(" and ")
        ));
    }
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
            ("address", "delete") => format!("the address {name} goes"),
            _ => continue,
        };
        sentences.push(what);
    }
    sentences
}

/// Why a change needs a second word: it cuts off whoever makes it, or everybody.
pub fn dangers(old: &Config, new: &Config, entrance: Option<IpAddr>) -> Vec<String> {
    let mut dangers = Vec::new();
    if let Some(address) = entrance
        && has_address(old, address)
        && !has_address(new, address)
    {
        dangers.push(format!(
            "{address} is the address that this session came in by, and it goes"
        ));
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
    interfaces
        .chain(loopbacks)
        .chain(tunnels)
        .filter_map(|one| one.address().split('/').next())
        .any(|text| text.parse() == Ok(address))
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
        let sentences = interrupts(&changes, &[]);
        assert_eq!(sentences, ["the address wan/192.0.2.1/24 goes"]);
    }

    #[test]
    fn whoever_cuts_off_his_own_session_is_told() {
        let new = config(r#"{"interfaces": [{"name": "wan"}]}"#);
        let entrance = Some("192.0.2.1".parse().unwrap());
        assert_eq!(dangers(&config(ONE), &new, entrance).len(), 1);
        assert_eq!(dangers(&config(ONE), &config(ONE), entrance).len(), 0);
        assert_eq!(dangers(&config(ONE), &new, None).len(), 0);
    }
}
