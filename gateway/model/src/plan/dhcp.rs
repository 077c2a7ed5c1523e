//! Interfaces that ask a DHCP server for an address.

use super::keys::{dhcp_client_key, link_key};
use super::ports::Ports;
use super::{Part, PlanReason, Planner};
use crate::bus::{self, value::Kind};
use crate::config::{Config, DhcpClient};
use crate::decode::path;

/// RFC 2132 section 9.14: the identifier is not a hardware address.
const TYPE_OTHER: u8 = 0;
/// Bytes of an identifier that is written as such; with its option it leaves room for all others.
const MOST_ID_BYTES: usize = 64;

/// Plans the clients that are enabled.
pub(super) fn plan(config: &Config, ports: &Ports, planner: &mut Planner) {
    for interface in &config.interfaces {
        let (Some(client), Some(port)) = (&interface.dhcp_client, ports.get(interface.name()))
        else {
            continue;
        };
        let origin = path::field(&port.origin, "dhcp_client");
        let client_id = client_id(client, &origin, planner);
        if !client.enabled() {
            continue;
        }
        if !port.tap {
            planner.refuse(origin, PlanReason::DhcpWithoutTap);
            continue;
        }
        let own_name = || config.system.as_ref()?.host_name.clone();
        let kind = Kind::DhcpClient(bus::DhcpClient {
            interface: port.name.clone(),
            tap: port.name.clone(),
            default_route: client.default_route.unwrap_or(true),
            dns: client.dns.unwrap_or(true),
            client_id,
            host_name: client
                .host_name
                .clone()
                .or_else(own_name)
                .unwrap_or_default(),
        });
        let key = dhcp_client_key(&port.name);
        planner.add(key, kind, Part::Dhcp, &origin).after =
            vec![port.key.clone(), link_key(&port.name)];
    }
}

/// As the option carries it: its type, then the text or the bytes.
fn client_id(client: &DhcpClient, origin: &str, planner: &mut Planner) -> Vec<u8> {
    let Some(text) = &client.client_id else {
        return Vec::new();
    };
    let Some(digits) = text.strip_prefix("0x") else {
        return std::iter::once(TYPE_OTHER).chain(text.bytes()).collect();
    };
    let bytes = bytes(digits).filter(|bytes| (1..=MOST_ID_BYTES).contains(&bytes.len()));
    if bytes.is_none() {
        let given = text.clone();
        planner.refuse(
            path::field(origin, "client_id"),
            PlanReason::ClientId { given },
        );
    }
    bytes.unwrap_or_default()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = digits
        .chars()
        .map(|digit| digit.to_digit(16).map(|value| value as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use crate::bus::{self, value::Kind};
    use crate::decode::config_from_json;
    use crate::plan::{DigestKey, Key, Part, Plan, PlanErrors, plan};

    fn planned(interface: &str) -> Result<Plan, PlanErrors> {
        let text = format!(
            r#"{{"system": {{"host_name": "branch"}}, "interfaces": [{{"name": "wan", {interface}}}]}}"#
        );
        plan(
            &config_from_json(text.as_bytes()).unwrap(),
            &DigestKey::new([0; 32]),
        )
    }

    fn client(settings: &str) -> Option<bus::DhcpClient> {
        let plan = planned(&format!(r#""dhcp_client": {{{settings}}}"#)).unwrap();
        let planned = plan.get(&Key::from("dhcp_client/wan"))?;
        assert_eq!(planned.part, Part::Dhcp);
        assert!(
            planned.needs.is_empty(),
            "a lease is not given back because a part is away"
        );
        let after = ["interface/wan", "linux/link/wan"].map(Key::from);
        assert_eq!(planned.after, after);
        match planned.value.kind.clone() {
            Some(Kind::DhcpClient(client)) => Some(client),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_is_planned_with_what_holds_unless_it_is_said() {
        let plain = bus::DhcpClient {
            interface: "wan".to_owned(),
            tap: "wan".to_owned(),
            default_route: true,
            dns: true,
            client_id: Vec::new(),
            host_name: "branch".to_owned(),
        };
        assert_eq!(client(r#""enabled": true"#), Some(plain.clone()));
        assert_eq!(client(r#""enabled": false"#), None);
        let other = client(
            r#""enabled": true, "default_route": false, "dns": false, "client_id": "me", "host_name": "gw""#,
        );
        assert_eq!(
            other,
            Some(bus::DhcpClient {
                default_route: false,
                dns: false,
                client_id: b"\0me".to_vec(),
                host_name: "gw".to_owned(),
                ..plain
            })
        );
        let id = |text: &str| {
            client(&format!(r#""enabled": true, "client_id": "{text}""#))
                .unwrap()
                .client_id
        };
        assert_eq!(id("0x01AbFf"), [1, 0xab, 0xff]);
    }

    #[test]
    fn a_client_that_hears_nothing_and_bytes_that_are_none_are_refused() {
        for (interface, expected) in [
            (
                r#""self_traffic": false, "dhcp_client": {"enabled": true}"#,
                "interfaces[wan].dhcp_client: needs the TAP that self_traffic false takes away",
            ),
            (
                r#""dhcp_client": {"enabled": true, "client_id": "0x123"}"#,
                "interfaces[wan].dhcp_client.client_id: \"0x123\" is not bytes: 0x is followed by pairs of hexadecimal digits, 1 to 64 of them",
            ),
        ] {
            assert_eq!(planned(interface).unwrap_err().to_string(), expected);
        }
        planned(r#""self_traffic": false, "dhcp_client": {"enabled": false}"#).unwrap();
        // Beside addresses of one's own.
        planned(r#""addresses": [{"address": "10.0.0.1/24"}], "dhcp_client": {"enabled": true}"#)
            .unwrap();
    }
}
