//! What policies alone protect: the tunnel of `if_id` 0, guards of what its `CHILD_SA`s are to carry, and the
//! configuration's own policies.

use super::network::{mss_clamp, vrf_key};
use super::{Key, Part, PlanReason, Planner};
use crate::bus::traffic_policy::Action;
use crate::bus::{self, value::Kind};
use crate::config::{Child, Config, Connection, Policy, PolicyAction, TrafficSelector};
use crate::decode::{address_range, path};
use crate::types;

/// The tunnel of everything that is protected by policies alone; no interface of the configuration is called so.
pub(super) const TUNNEL: &str = "policies";

/// Of a policy that says nothing else.
const DEFAULT_PRIORITY: u32 = 1000;
/// Both families.
const ALL_TRAFFIC: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Plans all of it, in the VRF that IKE runs in; nothing where nothing is protected so.
pub(super) fn plan(config: &Config, underlay: &str, planner: &mut Planner) {
    let guarded: Vec<(&Connection, &Child)> = config
        .connections
        .iter()
        .flat_map(|connection| {
            connection
                .children
                .iter()
                .map(move |child| (connection, child))
        })
        .filter(|(_, child)| child.tunnel.is_none())
        .collect();
    let Some(origin) = guarded
        .first()
        .map(|(connection, child)| child_path(connection, child))
        .or_else(|| config.policies.first().map(policy_path))
    else {
        return;
    };
    let kind = Kind::Tunnel(bus::Tunnel {
        name: TUNNEL.to_owned(),
        vrf: underlay.to_owned(),
        underlay_vrf: underlay.to_owned(),
        admin_up: true,
        mss_clamp: mss_clamp(true, None),
        ..bus::Tunnel::default()
    });
    let tunnel = Key::from(format!("tunnel/{TUNNEL}"));
    planner
        .add(tunnel.clone(), kind, Part::Dataplane, &origin)
        .needs = vec![vrf_key(underlay)];
    for (connection, child) in guarded {
        let guard = bus::TrafficPolicy {
            name: format!("child {}", child.name()),
            action: Action::Protect.into(),
            priority: 0,
            local: halves(&child.local_selectors, connection.local_address.as_deref()),
            remote: halves(
                &child.remote_selectors,
                connection.remote_address.as_deref(),
            ),
        };
        let key = Key::from(format!("guard/{}", child.name()));
        let origin = child_path(connection, child);
        planner
            .add(key, Kind::Policy(guard), Part::Dataplane, &origin)
            .needs = vec![tunnel.clone()];
    }
    for policy in &config.policies {
        let origin = policy_path(policy);
        for (list, field) in [
            (&policy.local_selectors, "local_selectors"),
            (&policy.remote_selectors, "remote_selectors"),
        ] {
            for selector in list {
                if half(selector.selector(), None).is_none() {
                    let (given, expected) = (
                        selector.selector().to_owned(),
                        "a network or a range: policies belong to no IKE_SA",
                    );
                    let at = path::field(&origin, field);
                    planner.refuse(at, PlanReason::Malformed { given, expected });
                }
            }
        }
        let value = bus::TrafficPolicy {
            name: policy.name().to_owned(),
            action: match policy.action() {
                PolicyAction::Bypass => Action::Bypass,
                PolicyAction::Unspecified | PolicyAction::Discard => Action::Discard,
            }
            .into(),
            priority: policy.priority.unwrap_or(DEFAULT_PRIORITY),
            local: halves(&policy.local_selectors, None),
            remote: halves(&policy.remote_selectors, None),
        };
        let key = Key::from(format!("policy/{}", policy.name()));
        planner
            .add(key, Kind::Policy(value), Part::Dataplane, &origin)
            .needs = vec![tunnel.clone()];
    }
}

fn child_path(connection: &Connection, child: &Child) -> String {
    let connection = path::item("connections", &[connection.name().to_owned()], 0);
    let list = path::field(&connection, "children");
    path::item(&list, &[child.name().to_owned()], 0)
}

fn policy_path(policy: &Policy) -> String {
    path::item("policies", &[policy.name().to_owned()], 0)
}

/// The selectors of one side; none: everything. What is to be the address of an `IKE_SA` that nobody knows yet is left
/// out.
fn halves(list: &[TrafficSelector], own: Option<&str>) -> Vec<types::Selector> {
    if list.is_empty() {
        return ALL_TRAFFIC
            .iter()
            .filter_map(|all| half(all, None))
            .collect();
    }
    list.iter()
        .filter_map(|item| half(item.selector(), own))
        .collect()
}

/// Reads `10.1.0.0/24[tcp/443]` or `10.1.0.5-10.1.0.20`; `own` is what `dynamic` means.
fn half(text: &str, own: Option<&str>) -> Option<types::Selector> {
    let (network, rest) = match text.split_once('[') {
        Some((network, rest)) => (network, rest.strip_suffix(']')?),
        None => (text, "any"),
    };
    let network = if network == "dynamic" { own? } else { network };
    let (first, last) = address_range(network)?;
    let (protocol, port) = rest.split_once('/').unwrap_or((rest, "any"));
    let protocol = protocol_number(protocol)?;
    let (first_port, last_port) = port_range(protocol, port)?;
    Some(types::Selector {
        first: Some(first.into()),
        last: Some(last.into()),
        protocol,
        first_port: first_port.into(),
        last_port: last_port.into(),
    })
}

/// Reads `443`, `5000-5010` or `any`. Of ICMP type * 256 + code, and what is less than 256 is a type alone, with code 0.
fn port_range(protocol: u32, text: &str) -> Option<(u16, u16)> {
    if text == "any" {
        return Some((0, u16::MAX));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let of_icmp = |number: u16| if number < 256 { number << 8 } else { number };
    Some(match protocol {
        1 | 58 => (of_icmp(first), of_icmp(last)),
        6 | 17 | 132 => (first, last),
        // Of no port: every packet has it.
        _ if (first, last) == (0, 0) => (0, u16::MAX),
        _ => (first, last),
    })
}

fn protocol_number(text: &str) -> Option<u32> {
    Some(match text {
        "any" => 0,
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "ipv6-icmp" => 58,
        "sctp" => 132,
        number => number.parse::<u8>().ok()?.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn selectors_are_read_as_charon_reads_them() {
        let read = |text: &str| {
            half(text, Some("192.0.2.1")).map(|half| {
                let address = |address: Option<types::IpAddress>| {
                    IpAddr::try_from(&address.unwrap()).unwrap().to_string()
                };
                let range = format!("{}-{}", address(half.first), address(half.last));
                (range, half.protocol, half.first_port, half.last_port)
            })
        };
        for (text, range, protocol, first, last) in [
            ("10.1.0.0/24", "10.1.0.0-10.1.0.255", 0, 0, 65535),
            ("10.1.0.7", "10.1.0.7-10.1.0.7", 0, 0, 65535),
            ("10.1.0.5-10.1.0.20", "10.1.0.5-10.1.0.20", 0, 0, 65535),
            (
                "2001:db8::5-2001:db8::1:0[udp/53]",
                "2001:db8::5-2001:db8::1:0",
                17,
                53,
                53,
            ),
            (
                "2001:db8::/127[tcp/443]",
                "2001:db8::-2001:db8::1",
                6,
                443,
                443,
            ),
            (
                "10.0.0.0/8[udp/5000-5010]",
                "10.0.0.0-10.255.255.255",
                17,
                5000,
                5010,
            ),
            ("10.0.0.0/8[89]", "10.0.0.0-10.255.255.255", 89, 0, 65535),
            ("dynamic[gre/0]", "192.0.2.1-192.0.2.1", 47, 0, 65535),
            ("10.1.0.7[tcp/0]", "10.1.0.7-10.1.0.7", 6, 0, 0),
            ("10.1.0.7[icmp]", "10.1.0.7-10.1.0.7", 1, 0, 65535),
            ("10.1.0.7[icmp/0]", "10.1.0.7-10.1.0.7", 1, 0, 0),
            ("10.1.0.7[icmp/8]", "10.1.0.7-10.1.0.7", 1, 0x800, 0x800),
            ("::1[ipv6-icmp/769-1023]", "::1-::1", 58, 0x301, 0x3ff),
        ] {
            assert_eq!(
                read(text),
                Some((range.to_owned(), protocol, first, last)),
                "{text}"
            );
        }
        for text in [
            "10.1.0.0/24[tcp",
            "x",
            "10.1.0.0/24[tcp/x]",
            "10.1.0.9-10.1.0.8",
            "10.1.0.9-::1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(half("dynamic", None), None);
        assert_eq!(halves(&[], None).len(), 2);
    }
}
