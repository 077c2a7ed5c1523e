//! Tunnels of GRE and IPIP.

use std::collections::HashMap;
use std::net::IpAddr;

use super::keys::address_key;
use super::network::{mss_clamp, outer_header, reverse_path, vrf_key};
use super::ports::{Ports, default_vrf};
use super::{Key, Part, PlanReason, Planner};
use crate::bus::{self, value::Kind};
use crate::config::{Config, IpTunnel, IpTunnelMode};
use crate::decode::path;

/// The key of such a tunnel.
pub(super) fn ip_tunnel_key(name: &str) -> Key {
    Key::from(format!("ip_tunnel/{name}"))
}

/// Plans all of them. `if_ids` are those of the IPsec tunnels, with their paths.
pub(super) fn plan(
    config: &Config,
    ports: &Ports,
    if_ids: &mut HashMap<u32, String>,
    planner: &mut Planner,
) {
    // By all that tells their packets apart.
    let mut ends: HashMap<(String, IpAddr, IpAddr, IpTunnelMode, Option<u32>), String> =
        HashMap::new();
    for tunnel in &config.ip_tunnels {
        let key = ip_tunnel_key(tunnel.name());
        let Some(port) = ports.get(tunnel.name()).filter(|port| port.key == key) else {
            continue;
        };
        let origin = &port.origin;
        if let Some(if_id) = tunnel.if_id
            && let Some(other) = if_ids.insert(if_id, origin.clone())
        {
            let what = if_id.to_string();
            planner.refuse(
                path::field(origin, "if_id"),
                PlanReason::Taken { what, other },
            );
        }
        if tunnel.mode() == IpTunnelMode::Ipip && tunnel.key.is_some() {
            planner.refuse(path::field(origin, "key"), PlanReason::KeyWithoutGre);
        }
        let underlay_vrf = tunnel.underlay_vrf.clone().unwrap_or_else(default_vrf);
        let Some((local, remote)) = addresses(tunnel, origin, planner) else {
            continue;
        };
        let marks = (
            underlay_vrf.clone(),
            local,
            remote,
            tunnel.mode(),
            tunnel.key,
        );
        if let Some(other) = ends.insert(marks, origin.clone()) {
            let what = "the pair of addresses, with mode and key,".to_owned();
            planner.refuse(
                path::field(origin, "remote_address"),
                PlanReason::Taken { what, other },
            );
        }
        let own = own_address(ports, &underlay_vrf, local);
        if let Err(reason) = &own {
            planner.refuse(path::field(origin, "local_address"), reason.clone());
        }
        let mut needs = vec![vrf_key(&port.vrf)];
        if underlay_vrf != port.vrf {
            needs.push(vrf_key(&underlay_vrf));
        }
        let outer_header = tunnel
            .outer_header
            .as_ref()
            .map(|outer| outer_header(outer, &path::field(origin, "outer_header"), planner));
        let kind = Kind::IpTunnel(bus::IpTunnel {
            name: port.name.clone(),
            mode: match tunnel.mode() {
                IpTunnelMode::Gre => bus::ip_tunnel::Mode::Gre,
                IpTunnelMode::Ipip => bus::ip_tunnel::Mode::Ipip,
                IpTunnelMode::Unspecified => bus::ip_tunnel::Mode::Unspecified,
            }
            .into(),
            local: Some(local.into()),
            remote: Some(remote.into()),
            key: tunnel.key,
            if_id: tunnel.if_id,
            vrf: port.vrf.clone(),
            underlay_vrf,
            mtu: tunnel.mtu,
            admin_up: tunnel.enabled.unwrap_or(true),
            mss_clamp: mss_clamp(tunnel.mss_clamp.unwrap_or(true), tunnel.mss),
            tap: if port.tap {
                port.name.clone()
            } else {
                String::new()
            },
            reverse_path: reverse_path(tunnel.reverse_path()).into(),
            outer_header,
        });
        let entry = planner.add(port.key.clone(), kind, Part::Dataplane, origin);
        entry.needs = needs;
        entry.after = own.into_iter().collect();
    }
}

/// Both outer addresses.
fn addresses(tunnel: &IpTunnel, origin: &str, planner: &mut Planner) -> Option<(IpAddr, IpAddr)> {
    let mut read = |text: &str, field| {
        let address: Option<IpAddr> = text.parse().ok();
        let fit = |address: &IpAddr| {
            !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
        };
        if address.as_ref().is_none_or(|address| !fit(address)) {
            let (given, expected) = (text.to_owned(), "an address of one host");
            planner.refuse(
                path::field(origin, field),
                PlanReason::Malformed { given, expected },
            );
            return None;
        }
        address
    };
    let local = read(tunnel.local_address(), "local_address");
    let remote = read(tunnel.remote_address(), "remote_address");
    let (local, remote) = (local?, remote?);
    if local.is_ipv4() != remote.is_ipv4() {
        planner.refuse(
            path::field(origin, "remote_address"),
            PlanReason::OtherFamily {
                gateway: remote.to_string(),
                destination: local.to_string(),
            },
        );
        return None;
    }
    Some((local, remote))
}

/// The key of the address of an interface of this VRF.
fn own_address(ports: &Ports, vrf: &str, local: IpAddr) -> Result<Key, PlanReason> {
    let all = || {
        ports
            .values()
            .filter(|port| port.vrf == vrf)
            .flat_map(|port| port.addresses.iter().map(move |address| (port, address)))
    };
    all()
        .find(|(_, address)| address.prefix.addr() == local)
        .map(|(port, address)| address_key(&port.name, address.prefix))
        .ok_or_else(|| PlanReason::NoSuchAddress {
            address: local.to_string(),
            vrf: vrf.to_owned(),
            known: all()
                .map(|(_, address)| address.prefix.addr().to_string())
                .collect(),
        })
}
