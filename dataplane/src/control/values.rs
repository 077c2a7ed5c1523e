//! The values of the bus, read once and checked; from here on everything is valid.

use std::net::IpAddr;

use culvert_model::bus::{self, value::Kind};
use culvert_net::{IpPrefix, Mtu};

use super::error::ApplyError;
use crate::driver::DriverChoice;
use crate::drop_reason::DropReason;
use crate::encapsulation::Mode;
use crate::nodes::icmp_error::Rate;
use crate::reassembly::Limits;
use crate::sa::Configured;
use crate::sa::service::configured_from_bus;
use crate::sa::{DontFragment, FlowLabel, OuterRules};
use crate::tables::{Fragmentation, MssClamp, ReversePath};
use crate::vlan::{Tags, VlanId};

/// A value of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    Vrf(String),
    Ethernet(EthernetSpec),
    Loopback(LoopbackSpec),
    Tunnel(TunnelSpec),
    Encapsulation(EncapsulationSpec),
    Address(AddressSpec),
    Route(RouteSpec),
    Forwarding(bool),
    Reassembly(Limits),
    IcmpErrors(Rate),
    Policy(String, Configured),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EthernetSpec {
    pub(super) name: String,
    /// Of a sub-interface: on whose link, and with which tags.
    pub(super) on: Option<(String, Tags)>,
    pub(super) device: String,
    pub(super) driver: Option<DriverChoice>,
    pub(super) vrf: String,
    pub(super) mtu: u16,
    pub(super) admin_up: bool,
    pub(super) mss_clamp: MssClamp,
    pub(super) reverse_path: ReversePath,
    pub(super) tap: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoopbackSpec {
    pub(super) name: String,
    pub(super) vrf: String,
    pub(super) tap: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TunnelSpec {
    pub(super) name: String,
    pub(super) if_id: u32,
    pub(super) vrf: String,
    pub(super) underlay_vrf: String,
    pub(super) mtu: Option<u16>,
    pub(super) fragmentation: Fragmentation,
    pub(super) learn_path_mtu: bool,
    pub(super) outer: Option<OuterRules>,
    pub(super) admin_up: bool,
    pub(super) mss_clamp: MssClamp,
    pub(super) reverse_path: ReversePath,
    pub(super) tap: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EncapsulationSpec {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) protection: Option<u32>,
    pub(super) vrf: String,
    pub(super) underlay_vrf: String,
    pub(super) mtu: Option<u16>,
    pub(super) outer: OuterRules,
    pub(super) admin_up: bool,
    pub(super) mss_clamp: MssClamp,
    pub(super) reverse_path: ReversePath,
    pub(super) tap: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddressSpec {
    pub(super) interface: String,
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteSpec {
    pub(super) vrf: String,
    pub(super) destination: IpPrefix,
    /// Someone else wrote it into Linux.
    pub(super) learnt: bool,
    pub(super) hops: Vec<Hop>,
    /// Why its packets are dropped when it has no hops.
    pub(super) otherwise: DropReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    Interface(String),
    Neighbour(String, IpAddr),
    /// In this VRF; none: that of the route.
    Gateway(Option<String>, IpAddr),
    /// By the routes of this VRF.
    Lookup(String),
}

impl Spec {
    /// Reads the value of `key`.
    pub(super) fn read(key: &str, value: &bus::Value) -> Result<Self, ApplyError> {
        let kind = value
            .kind
            .as_ref()
            .ok_or_else(|| ApplyError::NoValue(key.to_owned()))?;
        let named = |name: &str| {
            if name.is_empty() {
                Err(ApplyError::NoName(key.to_owned()))
            } else {
                Ok(name.to_owned())
            }
        };
        Ok(match kind {
            Kind::Vrf(vrf) => Self::Vrf(named(&vrf.name)?),
            Kind::Interface(interface) => Self::Ethernet(EthernetSpec {
                name: named(&interface.name)?,
                on: on_link(interface)?,
                device: named(&interface.device)?,
                driver: match interface.driver() {
                    bus::interface::Driver::Default => None,
                    bus::interface::Driver::AfPacket => Some(DriverChoice::AfPacket),
                    bus::interface::Driver::AfXdp => Some(DriverChoice::AfXdp),
                },
                vrf: named(&interface.vrf)?,
                mtu: Mtu::new(interface.mtu)?.get(),
                admin_up: interface.admin_up,
                mss_clamp: mss_clamp(interface.mss_clamp)?,
                reverse_path: reverse_path(interface.reverse_path()),
                tap: interface.tap.clone(),
            }),
            Kind::Loopback(loopback) => Self::Loopback(LoopbackSpec {
                name: named(&loopback.name)?,
                vrf: named(&loopback.vrf)?,
                tap: loopback.tap.clone(),
            }),
            Kind::Tunnel(tunnel) => Self::Tunnel(TunnelSpec {
                name: named(&tunnel.name)?,
                if_id: tunnel.if_id,
                vrf: named(&tunnel.vrf)?,
                underlay_vrf: named(&tunnel.underlay_vrf)?,
                mtu: tunnel.mtu.map(Mtu::new).transpose()?.map(Mtu::get),
                fragmentation: if tunnel.fragment_after {
                    Fragmentation::After
                } else {
                    Fragmentation::Before
                },
                learn_path_mtu: !tunnel.ignore_path_mtu,
                outer: tunnel
                    .outer_header
                    .as_ref()
                    .map(|outer| outer_rules(key, outer))
                    .transpose()?,
                admin_up: tunnel.admin_up,
                mss_clamp: mss_clamp(tunnel.mss_clamp)?,
                reverse_path: reverse_path(tunnel.reverse_path()),
                tap: tunnel.tap.clone(),
            }),
            Kind::IpTunnel(tunnel) => Self::Encapsulation(read_encapsulation(key, tunnel)?),
            Kind::Address(address) => {
                let (own, length) = prefix(key, address.address.as_ref())?;
                if own.is_unspecified() || own.is_multicast() || own.is_loopback() {
                    return Err(ApplyError::BadAddress(own.to_string()));
                }
                Self::Address(AddressSpec {
                    interface: named(&address.interface)?,
                    address: own,
                    length,
                })
            }
            Kind::Route(route) => Self::Route(read_route(key, route)?),
            Kind::Forwarding(forwarding) => Self::Forwarding(forwarding.enabled),
            Kind::Policy(policy) => {
                Self::Policy(named(&policy.name)?, configured_from_bus(policy)?)
            }
            Kind::Reassembly(limits) => Self::Reassembly(Limits {
                packets: limits.packets,
                fragments: limits.fragments,
                timeout4: u64::from(limits.timeout_ms) * 1_000_000,
                timeout6: u64::from(limits.timeout6_ms) * 1_000_000,
            }),
            Kind::IcmpErrors(limits) => Self::IcmpErrors(Rate {
                // A rate of nothing is none that can be configured.
                rate: limits.rate.max(1),
                burst: limits.burst.max(1),
            }),
            _ => return Err(ApplyError::NotOurs(key.to_owned())),
        })
    }

    /// An update from one to the other changes one thing in place.
    pub(super) fn is_same_thing(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vrf(one), Self::Vrf(two)) | (Self::Policy(one, _), Self::Policy(two, _)) => {
                one == two
            }
            (Self::Ethernet(one), Self::Ethernet(two)) => one.name == two.name,
            (Self::Loopback(one), Self::Loopback(two)) => one.name == two.name,
            (Self::Tunnel(one), Self::Tunnel(two)) => one.name == two.name,
            (Self::Encapsulation(one), Self::Encapsulation(two)) => one.name == two.name,
            (Self::Address(one), Self::Address(two)) => one == two,
            (Self::Route(one), Self::Route(two)) => {
                one.vrf == two.vrf && one.destination == two.destination && one.learnt == two.learnt
            }
            (Self::Forwarding(_), Self::Forwarding(_))
            | (Self::Reassembly(_), Self::Reassembly(_))
            | (Self::IcmpErrors(_), Self::IcmpErrors(_)) => true,
            _ => false,
        }
    }
}

fn on_link(interface: &bus::Interface) -> Result<Option<(String, Tags)>, ApplyError> {
    if interface.parent.is_empty() {
        return Ok(None);
    }
    let outer = (interface.outer_vlan != 0)
        .then(|| VlanId::new(interface.outer_vlan))
        .transpose()?;
    let vlan = VlanId::new(interface.vlan)?;
    Ok(Some((interface.parent.clone(), Tags { outer, vlan })))
}

fn read_encapsulation(key: &str, tunnel: &bus::IpTunnel) -> Result<EncapsulationSpec, ApplyError> {
    use bus::ip_tunnel::Mode as BusMode;
    let missing = || ApplyError::NoValue(key.to_owned());
    let named = |name: &str| {
        Some(name.to_owned())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| ApplyError::NoName(key.to_owned()))
    };
    let end = |address: &Option<culvert_model::types::IpAddress>| -> Result<IpAddr, ApplyError> {
        let address = IpAddr::try_from(address.as_ref().ok_or_else(missing)?)?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(ApplyError::BadAddress(address.to_string()));
        }
        Ok(address)
    };
    let (local, remote) = (end(&tunnel.local)?, end(&tunnel.remote)?);
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(ApplyError::Family(key.to_owned()));
    }
    Ok(EncapsulationSpec {
        name: named(&tunnel.name)?,
        mode: match tunnel.mode() {
            BusMode::Gre => Mode::Gre(tunnel.key),
            BusMode::Ipip => Mode::IpIp,
            BusMode::Unspecified => return Err(missing()),
        },
        local,
        remote,
        protection: tunnel.if_id,
        vrf: named(&tunnel.vrf)?,
        underlay_vrf: named(&tunnel.underlay_vrf)?,
        mtu: tunnel.mtu.map(Mtu::new).transpose()?.map(Mtu::get),
        outer: tunnel
            .outer_header
            .as_ref()
            .map(|outer| outer_rules(key, outer))
            .transpose()?
            .unwrap_or_default(),
        admin_up: tunnel.admin_up,
        mss_clamp: mss_clamp(tunnel.mss_clamp)?,
        reverse_path: reverse_path(tunnel.reverse_path()),
        tap: tunnel.tap.clone(),
    })
}

fn read_route(key: &str, route: &bus::Route) -> Result<RouteSpec, ApplyError> {
    let (address, length) = prefix(key, route.destination.as_ref())?;
    let destination = IpPrefix::covering(address, length)?;
    let mut hops = Vec::with_capacity(route.next_hops.len());
    for hop in &route.next_hops {
        let gateway = hop.gateway.as_ref().map(IpAddr::try_from).transpose()?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
            return Err(ApplyError::Family(key.to_owned()));
        }
        let vrf = Some(&hop.vrf)
            .filter(|vrf| !vrf.is_empty() && **vrf != route.vrf)
            .cloned();
        hops.push(match (gateway, hop.interface.is_empty()) {
            (None, true) => Hop::Lookup(vrf.ok_or_else(|| ApplyError::NoName(key.to_owned()))?),
            (None, false) => Hop::Interface(hop.interface.clone()),
            (Some(gateway), false) => Hop::Neighbour(hop.interface.clone(), gateway),
            // On which link would it be?
            (Some(IpAddr::V6(gateway)), true) if gateway.is_unicast_link_local() => {
                return Err(ApplyError::NoName(key.to_owned()));
            }
            (Some(gateway), true) => Hop::Gateway(vrf, gateway),
        });
    }
    let otherwise = match route.action() {
        bus::route::Action::Unreachable => DropReason::RouteUnreachable,
        bus::route::Action::Prohibit => DropReason::RouteProhibited,
        bus::route::Action::Forward | bus::route::Action::Blackhole => DropReason::RouteBlackhole,
    };
    Ok(RouteSpec {
        vrf: route.vrf.clone(),
        destination,
        learnt: route.learnt,
        hops,
        otherwise,
    })
}

fn reverse_path(value: bus::ReversePath) -> ReversePath {
    match value {
        bus::ReversePath::Off => ReversePath::Off,
        bus::ReversePath::Loose => ReversePath::Loose,
        bus::ReversePath::Strict => ReversePath::Strict,
    }
}

fn outer_rules(key: &str, outer: &bus::OuterHeader) -> Result<OuterRules, ApplyError> {
    use bus::outer_header as on_bus;
    let refused = |field, value| ApplyError::OuterHeader {
        key: key.to_owned(),
        field,
        value,
    };
    let dscp = outer
        .dscp
        .map(|dscp| match u8::try_from(dscp) {
            Ok(dscp @ ..64) => Ok(dscp),
            _ => Err(refused("DSCP", dscp)),
        })
        .transpose()?;
    let Ok(hop_limit @ 1..) = u8::try_from(outer.hop_limit) else {
        return Err(refused("hop limit", outer.hop_limit));
    };
    Ok(OuterRules {
        dont_fragment: match outer.dont_fragment() {
            on_bus::DontFragment::Copy => DontFragment::Copy,
            on_bus::DontFragment::Set => DontFragment::Set,
            on_bus::DontFragment::Clear => DontFragment::Clear,
        },
        hop_limit,
        flow_label: match outer.flow_label() {
            on_bus::FlowLabel::Zero => FlowLabel::Zero,
            on_bus::FlowLabel::Copy => FlowLabel::Copy,
            on_bus::FlowLabel::Hash => FlowLabel::Hash,
        },
        dscp_inward: outer.dscp_inward,
        ..OuterRules::default().dscp(dscp).ecn(!outer.no_ecn)
    })
}

/// Absent: never; zero: from the MTU.
fn mss_clamp(value: Option<u32>) -> Result<MssClamp, ApplyError> {
    Ok(match value {
        None => MssClamp::Off,
        Some(0) => MssClamp::FromMtu,
        Some(mss) => {
            MssClamp::Fixed(u16::try_from(mss).map_err(|_| culvert_net::MtuError::TooLarge(mss))?)
        }
    })
}

fn prefix(
    key: &str,
    prefix: Option<&culvert_model::types::IpPrefix>,
) -> Result<(IpAddr, u8), ApplyError> {
    let prefix = prefix.ok_or_else(|| ApplyError::NoValue(key.to_owned()))?;
    let address = prefix
        .address
        .as_ref()
        .ok_or_else(|| ApplyError::NoValue(key.to_owned()))?;
    let address = IpAddr::try_from(address)?;
    // A length over 255 is too long for either family, like 255.
    let length = u8::try_from(prefix.length).unwrap_or(u8::MAX);
    IpPrefix::covering(address, length)?;
    Ok((address, length))
}
