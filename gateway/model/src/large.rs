//! A configuration of any size, for what is counted and measured: routes to gateways and into tunnels, each tunnel with a
//! connection, a CHILD_SA and a key of its own.
//!
//! ```text
//!   wan 192.0.2.1 -- 192.0.2.254 -- 198.18.0.1, 198.18.0.2 ...   peers, one a tunnel (RFC 2544's networks)
//!   10.0.0.0/24 ... into the tunnels, one each; 20.0.0.0/24 ... to 192.0.2.2
//! ```

use std::fmt::Write as _;

/// As JSON. The first routes lead into the tunnels, one each. At most 65,536 of each fit into their networks.
pub fn configuration(routes: u16, tunnels: u16) -> String {
    let mut text = String::from(
        r#"{"interfaces": [{"name": "wan", "device": "wan0", "addresses": [{"address": "192.0.2.1/24"}]}],
"routes": [{"destination": "198.18.0.0/15", "next_hops": [{"gateway": "192.0.2.254"}]}"#,
    );
    for number in 1..routes {
        let [high, low] = (number - 1).to_be_bytes();
        let _ = if number <= tunnels {
            write!(
                text,
                ",\n{{\"destination\": \"10.{high}.{low}.0/24\", \"next_hops\": [{{\"interface\": \"ipsec{number}\"}}]}}"
            )
        } else {
            write!(
                text,
                ",\n{{\"destination\": \"20.{high}.{low}.0/24\", \"next_hops\": [{{\"gateway\": \"192.0.2.2\"}}]}}"
            )
        };
    }
    let list = |text: &mut String, name: &str, item: &dyn Fn(u16) -> String| {
        let items: Vec<String> = (1..=tunnels).map(item).collect();
        let _ = write!(text, "],\n\"{name}\": [{}", items.join(",\n"));
    };
    list(&mut text, "tunnels", &|number| {
        format!(r#"{{"name": "ipsec{number}", "if_id": {number}}}"#)
    });
    list(&mut text, "connections", &|number| {
        let [high, low] = number.to_be_bytes();
        format!(
            r#"{{"name": "peer{number}", "local_address": "192.0.2.1", "remote_address": "198.18.{high}.{low}",
"proposals": [{{"proposal": "aes128gcm16-prfsha256-ecp256"}}],
"local": {{"method": "psk", "identity": "box.example"}},
"remote": {{"method": "psk", "identity": "peer{number}.example"}},
"children": [{{"name": "net{number}", "tunnel": "ipsec{number}", "proposals": [{{"proposal": "aes128gcm16"}}],
"start_action": "none"}}]}}"#
        )
    });
    text.push_str("],\n\"credentials\": {\"unused\": [");
    list(&mut text, "pre_shared_keys", &|number| {
        format!(
            r#"{{"name": "key{number}", "identities": [{{"identity": "box.example"}}, {{"identity": "peer{number}.example"}}],
"secret": "measured with, protects nothing {number}"}}"#
        )
    });
    text.push_str("]}}\n");
    text.replace("\"unused\": [],\n", "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::config_from_json;
    use crate::plan::{DigestKey, plan};

    #[test]
    fn it_is_a_configuration() {
        for (routes, tunnels) in [(1, 0), (50, 20), (10_000, 1_000)] {
            let config = config_from_json(configuration(routes, tunnels).as_bytes()).unwrap();
            let plan = plan(&config, &DigestKey::new([1; 32])).unwrap();
            let count = |kind: &str| plan.keys().filter(|key| key.kind() == kind).count();
            assert_eq!(count("route"), usize::from(routes));
            for kind in ["tunnel", "connection", "credential"] {
                assert_eq!(count(kind), usize::from(tunnels), "{kind}");
            }
        }
    }
}
