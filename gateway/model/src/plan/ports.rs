//! Interfaces, loopbacks, tunnels and modems alike: what has a name, a VRF and addresses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;

use super::ip_tunnels::ip_tunnel_key;
use super::keys::{address_key, interface_key, linux_address_key};
use super::network::DEFAULT_MTU;
use super::{Key, PlanReason, Planner, vlan, wwan};
use crate::config::{Config, InterfaceAddress, Loopback};
use crate::decode::path;

/// Names that exist in every network namespace, that sysctl paths give a meaning, or that the plan itself uses.
const RESERVED_NAMES: [&str; 5] = ["lo", "all", "default", "tap", super::policies::TUNNEL];

/// An interface or a tunnel, as routes and connections see it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) vrf: String,
    /// Of its value in the dataplane.
    pub(super) key: Key,
    /// Its path in the configuration.
    pub(super) origin: String,
    pub(super) addresses: Vec<PortAddress>,
    /// Whether Linux has a TAP of it.
    pub(super) tap: bool,
}

impl Port {
    /// What comes out of it came in by another.
    pub(super) fn is_tunnel(&self) -> bool {
        let key = self.key.as_str();
        key.starts_with("tunnel/") || key.starts_with("ip_tunnel/")
    }
}

/// An address of a port, host bits included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PortAddress {
    pub(super) prefix: IpNet,
    pub(super) origin: String,
    /// Of its value in the dataplane.
    pub(super) key: Key,
    /// Of its value in Linux, if there is a TAP.
    pub(super) linux_key: Key,
}

type ByName = BTreeMap<String, Port>;

/// All ports by name, and by the networks of their addresses.
#[derive(Debug)]
pub(super) struct Ports {
    by_name: ByName,
    /// By VRF.
    on_link: HashMap<String, Networks>,
}

/// From the longest to the shortest: who has an address of each, as its name and the place among its addresses.
type Networks = BTreeMap<Reverse<u8>, HashMap<IpNet, Vec<(String, usize)>>>;

impl Ports {
    fn of(by_name: ByName) -> Self {
        let mut on_link: HashMap<String, Networks> = HashMap::new();
        for port in by_name.values() {
            for (place, address) in port.addresses.iter().enumerate() {
                let networks = on_link.entry(port.vrf.clone()).or_default();
                let length = networks
                    .entry(Reverse(address.prefix.prefix_len()))
                    .or_default();
                let who = length.entry(address.prefix.trunc()).or_default();
                who.push((port.name.clone(), place));
            }
        }
        Self { by_name, on_link }
    }

    /// The address of a VRF's ports by which `target` is on the link: the longest network that holds it.
    pub(super) fn connected(
        &self,
        vrf: &str,
        interface: Option<&str>,
        target: IpAddr,
    ) -> Option<(&Port, &PortAddress)> {
        let lengths = self.on_link.get(vrf)?.iter();
        lengths
            .filter_map(|(Reverse(length), networks)| {
                let network = IpNet::new(target, *length).ok()?.trunc();
                networks.get(&network)
            })
            .find_map(|who| {
                let (name, place) = who
                    .iter()
                    .rev()
                    .find(|(name, _)| interface.is_none_or(|interface| interface == name))?;
                let port = self.by_name.get(name)?;
                Some((port, port.addresses.get(*place)?))
            })
    }
}

/// What is found by networks is found by names.
impl PartialEq for Ports {
    fn eq(&self, other: &Self) -> bool {
        self.by_name == other.by_name
    }
}

impl Eq for Ports {}

/// The MTU of each port's TAP. It changes alone, and nothing else depends on it.
#[derive(Debug, Default)]
pub(super) struct Taps(HashMap<String, u32>);

impl Taps {
    /// Of a port's TAP, in bytes.
    pub(super) fn mtu(&self, port: &Port) -> u32 {
        self.0.get(&port.name).copied().unwrap_or(DEFAULT_MTU)
    }
}

impl Deref for Ports {
    type Target = ByName;

    fn deref(&self) -> &ByName {
        &self.by_name
    }
}

/// Fits every algorithm, family and encapsulation in an underlay of 1500, and is all that IPv6 asks for
/// (RFC 8200, section 5).
const TUNNEL_TAP_MTU: u32 = 1280;

/// Reads all ports, and checks what must hold among them.
pub(super) fn read(config: &Config, planner: &mut Planner) -> (Ports, Taps) {
    let mut ports = ByName::new();
    let mut taps = HashMap::new();
    for interface in &config.interfaces {
        let name = interface.name();
        let origin = path::item("interfaces", &[name.to_owned()], 0);
        check_mss(
            interface.mss,
            interface.mss_clamp.unwrap_or(false),
            &origin,
            planner,
        );
        let mtu = vlan::mtu(config, interface);
        vlan::check(config, interface, &origin, planner);
        let addresses = addresses(name, &interface.addresses, &origin, planner);
        check_mtu(Some(mtu), &addresses, &origin, planner);
        let port = Port {
            name: name.to_owned(),
            vrf: interface.vrf.clone().unwrap_or_else(default_vrf),
            key: interface_key(name),
            origin,
            addresses,
            tap: interface.self_traffic.unwrap_or(true),
        };
        taps.insert(port.name.clone(), mtu);
        insert(port, &mut ports, planner);
    }
    for loopback in &config.loopbacks {
        let port = read_loopback(loopback, planner);
        insert(port, &mut ports, planner);
    }
    for tunnel in &config.tunnels {
        let name = tunnel.name();
        let origin = path::item("tunnels", &[name.to_owned()], 0);
        check_mss(
            tunnel.mss,
            tunnel.mss_clamp.unwrap_or(true),
            &origin,
            planner,
        );
        let addresses = addresses(name, &tunnel.addresses, &origin, planner);
        check_mtu(tunnel.mtu, &addresses, &origin, planner);
        let port = Port {
            name: name.to_owned(),
            vrf: tunnel.vrf.clone().unwrap_or_else(default_vrf),
            key: Key::from(format!("tunnel/{name}")),
            origin,
            tap: !addresses.is_empty(),
            addresses,
        };
        taps.insert(port.name.clone(), tunnel.mtu.unwrap_or(TUNNEL_TAP_MTU));
        insert(port, &mut ports, planner);
    }
    for tunnel in &config.ip_tunnels {
        let name = tunnel.name();
        let origin = path::item("ip_tunnels", &[name.to_owned()], 0);
        let clamp = tunnel.mss_clamp.unwrap_or(true);
        check_mss(tunnel.mss, clamp, &origin, planner);
        let addresses = addresses(name, &tunnel.addresses, &origin, planner);
        check_mtu(tunnel.mtu, &addresses, &origin, planner);
        let port = Port {
            name: name.to_owned(),
            vrf: tunnel.vrf.clone().unwrap_or_else(default_vrf),
            key: ip_tunnel_key(name),
            origin,
            tap: !addresses.is_empty(),
            addresses,
        };
        taps.insert(port.name.clone(), tunnel.mtu.unwrap_or(TUNNEL_TAP_MTU));
        insert(port, &mut ports, planner);
    }
    for interface in &config.wwan_interfaces {
        let port = wwan::port(interface);
        check_mss(interface.mss, interface.mss_clamp(), &port.origin, planner);
        insert(port, &mut ports, planner);
    }
    check_addresses(&ports, planner);
    (Ports::of(ports), Taps(taps))
}

fn read_loopback(loopback: &Loopback, planner: &mut Planner) -> Port {
    let name = loopback.name();
    let origin = path::item("loopbacks", &[name.to_owned()], 0);
    let addresses = addresses(name, &loopback.addresses, &origin, planner);
    for address in &addresses {
        let prefix = address.prefix;
        if prefix.prefix_len() != prefix.max_prefix_len() {
            planner.refuse(
                &*address.origin,
                PlanReason::LoopbackNetwork {
                    address: prefix.to_string(),
                    whole: prefix.max_prefix_len(),
                },
            );
        }
    }
    Port {
        name: name.to_owned(),
        vrf: loopback.vrf.clone().unwrap_or_else(default_vrf),
        key: Key::from(format!("loopback/{name}")),
        origin,
        addresses,
        tap: loopback.self_traffic.unwrap_or(true),
    }
}

/// The VRF of what names none.
pub(super) fn default_vrf() -> String {
    "default".to_owned()
}

fn insert(port: Port, ports: &mut ByName, planner: &mut Planner) {
    if RESERVED_NAMES.contains(&port.name.as_str()) {
        planner.refuse(
            format!("{}.name", port.origin),
            PlanReason::ReservedName {
                name: port.name.clone(),
            },
        );
    }
    if let Some(other) = ports.get(&port.name) {
        planner.refuse(
            format!("{}.name", port.origin),
            PlanReason::Taken {
                what: port.name,
                other: other.origin.clone(),
            },
        );
        return;
    }
    ports.insert(port.name.clone(), port);
}

fn addresses(
    port: &str,
    list: &[InterfaceAddress],
    at: &str,
    planner: &mut Planner,
) -> Vec<PortAddress> {
    let mut addresses = Vec::with_capacity(list.len());
    for item in list {
        let text = item.address();
        let list_path = path::field(at, "addresses");
        let Ok(prefix) = text.parse::<IpNet>() else {
            let given = text.to_owned();
            let expected = "an address with the length of its network";
            planner.refuse(
                path::item(&list_path, std::slice::from_ref(&given), 0),
                PlanReason::Malformed { given, expected },
            );
            continue;
        };
        let origin = path::item(&list_path, &[prefix.to_string()], 0);
        if let Some(what) = unfit(prefix) {
            let address = prefix.to_string();
            planner.refuse(
                &*origin,
                PlanReason::NotAnInterfaceAddress { address, what },
            );
            continue;
        }
        addresses.push(PortAddress {
            prefix,
            origin,
            key: address_key(port, prefix),
            linux_key: linux_address_key(port, prefix),
        });
    }
    addresses
}

/// Why no interface can have this address.
fn unfit(prefix: IpNet) -> Option<&'static str> {
    let address = prefix.addr();
    if address.is_unspecified() {
        return Some("no address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    let IpNet::V4(v4) = prefix else { return None };
    // RFC 3021: a /31 has neither.
    if v4.prefix_len() < 31 && v4.addr() == v4.network() {
        return Some("the address of the network itself");
    }
    if v4.prefix_len() < 31 && v4.addr() == v4.broadcast() || v4.addr().is_broadcast() {
        return Some("a broadcast address");
    }
    None
}

fn check_mss(mss: Option<u32>, clamp: bool, origin: &str, planner: &mut Planner) {
    if mss.is_some() && !clamp {
        planner.refuse(path::field(origin, "mss"), PlanReason::MssWithoutClamp);
    }
}

fn check_mtu(mtu: Option<u32>, addresses: &[PortAddress], origin: &str, planner: &mut Planner) {
    let ipv6 = addresses
        .iter()
        .any(|address| address.prefix.addr().is_ipv6());
    if let Some(mtu) = mtu.filter(|mtu| ipv6 && *mtu < 1280) {
        planner.refuse(path::field(origin, "mtu"), PlanReason::MtuBelowIpv6 { mtu });
    }
}

/// Each address once in a VRF, no two networks of a VRF over each other, nor two that Linux sees.
fn check_addresses(ports: &ByName, planner: &mut Planner) {
    let all: Vec<(&Port, &PortAddress)> = ports
        .values()
        .flat_map(|port| port.addresses.iter().map(move |address| (port, address)))
        .collect();
    // Sorted by first address, a network that overlaps others begins within the one before it that
    // reaches furthest; comparing neighbours of a stack of open networks finds every overlap.
    let mut sorted = all;
    sorted.sort_by_key(|(_, address)| {
        let network = address.prefix.trunc();
        (network.addr(), network.prefix_len())
    });
    let mut open: Vec<(&Port, &PortAddress)> = Vec::new();
    for (port, address) in sorted {
        open.retain(|(_, other)| other.prefix.trunc().contains(&address.prefix.trunc()));
        for (other_port, other) in &open {
            if let Some(reason) = conflict((port, address), (other_port, other)) {
                planner.refuse(&*address.origin, reason);
                break;
            }
        }
        open.push((port, address));
    }
}

fn conflict(
    (port, address): (&Port, &PortAddress),
    (other_port, other): (&Port, &PortAddress),
) -> Option<PlanReason> {
    let (network, other_network) = (address.prefix.trunc(), other.prefix.trunc());
    let same_address = address.prefix.addr() == other.prefix.addr();
    let link_local = is_link_local(address.prefix.addr());
    if port.name == other_port.name {
        return same_address.then(|| PlanReason::Taken {
            what: address.prefix.addr().to_string(),
            other: other.origin.clone(),
        });
    }
    // The same link-local network is on every link, and the same address may be.
    if link_local {
        return None;
    }
    let host = |prefix: IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    let overlap = same_address || !(host(network) || host(other_network));
    if port.vrf == other_port.vrf {
        return overlap.then(|| PlanReason::Overlap {
            network: network.to_string(),
            other_network: other_network.to_string(),
            other: other.origin.clone(),
        });
    }
    (overlap && port.tap && other_port.tap).then(|| PlanReason::LinuxOverlap {
        network: network.to_string(),
        other: other.origin.clone(),
    })
}

/// Of `fe80::/10`, which is on every link (RFC 4291, section 2.5.6).
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
