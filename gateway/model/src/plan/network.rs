//! What the dataplane holds: VRFs, interfaces, tunnels, addresses, and its limits.

use std::collections::HashMap;

use super::ip_tunnels;
use super::ports::{Ports, default_vrf};
use super::{Key, Part, PlanReason, Planner, vlan};
use crate::bus::{self, value::Kind};
use crate::config::{
    Config, DontFragment, Driver, Ecn, FlowLabel, Fragmentation, OuterHeader, PathMtu, ReversePath,
};
use crate::decode::path;

/// Of outer headers: that of the packet inside.
const DSCP_COPY: &str = "copy";
/// Of outer headers that name none.
const DEFAULT_HOP_LIMIT: u32 = 64;
/// Of an Ethernet interface that names none.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Plans all values of the dataplane but routes, policies and `forwarding`.
pub(super) fn plan(config: &Config, ports: &Ports, planner: &mut Planner) {
    plan_vrfs(config, planner);
    plan_interfaces(config, ports, planner);
    plan_loopbacks(config, ports, planner);
    let mut if_ids = plan_tunnels(config, ports, planner);
    ip_tunnels::plan(config, ports, &mut if_ids, planner);
    plan_addresses(ports, planner);
    plan_reassembly(config, planner);
    plan_icmp_errors(config, planner);
}

/// Without any, the dataplane's own limits hold, which are the defaults of the configuration.
fn plan_reassembly(config: &Config, planner: &mut Planner) {
    let Some(limits) = &config.reassembly else {
        return;
    };
    let kind = Kind::Reassembly(bus::Reassembly {
        packets: limits.packets.unwrap_or(1024),
        fragments: limits.fragments.unwrap_or(4096),
        timeout_ms: limits.timeout.unwrap_or(30) * 1000,
        timeout6_ms: limits.timeout.unwrap_or(60) * 1000,
    });
    planner.add(Key::from("reassembly"), kind, Part::Dataplane, "reassembly");
}

fn plan_icmp_errors(config: &Config, planner: &mut Planner) {
    let Some(limits) = &config.icmp_errors else {
        return;
    };
    let kind = Kind::IcmpErrors(bus::IcmpErrors {
        rate: limits.rate.unwrap_or(1000),
        burst: limits.burst.unwrap_or(50),
    });
    planner.add(
        Key::from("icmp-errors"),
        kind,
        Part::Dataplane,
        "icmp_errors",
    );
}

fn plan_vrfs(config: &Config, planner: &mut Planner) {
    for vrf in &config.vrfs {
        let name = vrf.name().to_owned();
        let origin = path::item("vrfs", std::slice::from_ref(&name), 0);
        let key = vrf_key(&name);
        planner.add(key, Kind::Vrf(bus::Vrf { name }), Part::Dataplane, &origin);
    }
    let name = default_vrf();
    let key = vrf_key(&name);
    planner.add(key, Kind::Vrf(bus::Vrf { name }), Part::Dataplane, "");
}

pub(super) fn vrf_key(name: &str) -> Key {
    Key::from(format!("vrf/{name}"))
}

/// As the bus says it: absent never, 0 what fits the MTU.
pub(super) fn mss_clamp(clamp: bool, mss: Option<u32>) -> Option<u32> {
    clamp.then(|| mss.unwrap_or(0))
}

pub(super) fn reverse_path(configured: ReversePath) -> bus::ReversePath {
    match configured {
        ReversePath::Unspecified | ReversePath::Off => bus::ReversePath::Off,
        ReversePath::Loose => bus::ReversePath::Loose,
        ReversePath::Strict => bus::ReversePath::Strict,
    }
}

pub(super) fn outer_header(
    outer: &OuterHeader,
    origin: &str,
    planner: &mut Planner,
) -> bus::OuterHeader {
    use bus::outer_header as on_bus;
    let dscp = outer.dscp.as_deref().unwrap_or(DSCP_COPY);
    let code_point = code_point(dscp);
    if code_point.is_none() && dscp != DSCP_COPY {
        planner.refuse(
            path::field(origin, "dscp"),
            PlanReason::Malformed {
                given: dscp.to_owned(),
                expected: "copy, clear, a name such as ef, cs5 or af41, or a number up to 63",
            },
        );
    }
    bus::OuterHeader {
        dscp: code_point,
        dscp_inward: outer.dscp_inward(),
        no_ecn: outer.ecn() == Ecn::Compatibility,
        dont_fragment: match outer.dont_fragment() {
            DontFragment::Unspecified | DontFragment::Copy => on_bus::DontFragment::Copy,
            DontFragment::Set => on_bus::DontFragment::Set,
            DontFragment::Clear => on_bus::DontFragment::Clear,
        }
        .into(),
        hop_limit: outer.hop_limit.unwrap_or(DEFAULT_HOP_LIMIT),
        flow_label: match outer.flow_label() {
            FlowLabel::Unspecified | FlowLabel::Zero => on_bus::FlowLabel::Zero,
            FlowLabel::Copy => on_bus::FlowLabel::Copy,
            FlowLabel::Hash => on_bus::FlowLabel::Hash,
        }
        .into(),
    }
}

/// A DSCP by its name (RFC 2474, 2597, 3246) or number; `None` for `copy` and what is none.
fn code_point(text: &str) -> Option<u32> {
    let digit = |at: usize| text.chars().nth(at).and_then(|digit| digit.to_digit(10));
    let known = match text {
        "clear" | "be" => 0,
        "ef" => 46,
        _ if text.starts_with("cs") && text.len() == 3 => digit(2)? * 8,
        _ if text.starts_with("af") && text.len() == 4 => digit(2)? * 8 + digit(3)? * 2,
        _ => text.parse().ok()?,
    };
    (known < 64).then_some(known)
}

fn plan_interfaces(config: &Config, ports: &Ports, planner: &mut Planner) {
    let mut devices: HashMap<String, String> = HashMap::new();
    for interface in &config.interfaces {
        let Some(port) = ports.get(interface.name()) else {
            continue;
        };
        let device = vlan::device(config, interface).to_owned();
        if interface.parent.is_none()
            && let Some(other) = devices.insert(device.clone(), port.origin.clone())
        {
            let at = path::field(&port.origin, "device");
            planner.refuse(
                at,
                PlanReason::Taken {
                    what: device.clone(),
                    other,
                },
            );
        }
        let kind = Kind::Interface(bus::Interface {
            name: port.name.clone(),
            device,
            vrf: port.vrf.clone(),
            mtu: vlan::mtu(config, interface),
            admin_up: interface.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(interface.mss_clamp.unwrap_or(false), interface.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
            reverse_path: reverse_path(interface.reverse_path()).into(),
            driver: match interface.driver() {
                Driver::Unspecified => bus::interface::Driver::Default,
                Driver::AfPacket => bus::interface::Driver::AfPacket,
                Driver::AfXdp => bus::interface::Driver::AfXdp,
            }
            .into(),
            parent: interface.parent.clone().unwrap_or_default(),
            vlan: interface.vlan.unwrap_or(0),
            outer_vlan: interface.outer_vlan.unwrap_or(0),
        });
        let mut needs = vec![vrf_key(&port.vrf)];
        if let Some(parent) = interface.parent.as_deref().and_then(|name| ports.get(name)) {
            needs.push(parent.key.clone());
        }
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = needs;
    }
}

fn plan_loopbacks(config: &Config, ports: &Ports, planner: &mut Planner) {
    for loopback in &config.loopbacks {
        let Some(port) = ports
            .get(loopback.name())
            .filter(|port| port.key.as_str().starts_with("loopback/"))
        else {
            continue;
        };
        let kind = Kind::Loopback(bus::Loopback {
            name: port.name.clone(),
            vrf: port.vrf.clone(),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
        });
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = vec![vrf_key(&port.vrf)];
    }
}

/// Gives who has which `if_id`.
fn plan_tunnels(config: &Config, ports: &Ports, planner: &mut Planner) -> HashMap<u32, String> {
    let mut if_ids: HashMap<u32, String> = HashMap::new();
    for tunnel in &config.tunnels {
        let Some(port) = ports
            .get(tunnel.name())
            .filter(|port| port.key.as_str().starts_with("tunnel/"))
        else {
            continue;
        };
        if let Some(other) = if_ids.insert(tunnel.if_id(), port.origin.clone()) {
            let what = tunnel.if_id().to_string();
            planner.refuse(
                path::field(&port.origin, "if_id"),
                PlanReason::Taken { what, other },
            );
        }
        let underlay_vrf = tunnel.underlay_vrf.clone().unwrap_or_else(default_vrf);
        let mut needs = vec![vrf_key(&port.vrf)];
        if underlay_vrf != port.vrf {
            needs.push(vrf_key(&underlay_vrf));
        }
        let kind = Kind::Tunnel(bus::Tunnel {
            name: port.name.clone(),
            if_id: tunnel.if_id(),
            vrf: port.vrf.clone(),
            underlay_vrf,
            mtu: tunnel.mtu,
            fragment_after: tunnel.fragmentation() == Fragmentation::After,
            ignore_path_mtu: tunnel.path_mtu() == PathMtu::Ignore,
            admin_up: tunnel.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(tunnel.mss_clamp.unwrap_or(true), tunnel.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
            reverse_path: reverse_path(tunnel.reverse_path()).into(),
            outer_header: tunnel.outer_header.as_ref().map(|outer| {
                outer_header(outer, &path::field(&port.origin, "outer_header"), planner)
            }),
        });
        planner
            .add(port.key.clone(), kind, Part::Dataplane, &port.origin)
            .needs = needs;
    }
    if_ids
}

fn plan_addresses(ports: &Ports, planner: &mut Planner) {
    for port in ports.values() {
        for address in &port.addresses {
            let kind = Kind::Address(bus::Address {
                interface: port.name.clone(),
                address: Some(address.prefix.into()),
                obtained: false,
            });
            planner
                .add(address.key.clone(), kind, Part::Dataplane, &address.origin)
                .needs = vec![port.key.clone()];
        }
    }
}
