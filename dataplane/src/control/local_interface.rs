//! An interface as the control thread keeps it: what it is, where it belongs, and what a change of it means for its link.

use std::net::IpAddr;

use culvert_net::{IpPrefix, MacAddr, Mtu};

use super::Action;
use crate::driver::{DriverChoice, ORDINARY_MTU};
use crate::encapsulation::Ends;
use crate::port::tap_port;
use crate::sa::OuterRules;
use crate::tables::{Fragmentation, MssClamp, ReversePath};
use crate::vlan::OnLink;

/// An interface that exists.
#[derive(Clone, Debug)]
pub(super) struct LocalInterface {
    pub(super) name: String,
    pub(super) kind: LocalKind,
    pub(super) vrf: u32,
    pub(super) admin_up: bool,
    pub(super) mss_clamp: MssClamp,
    pub(super) reverse_path: ReversePath,
    pub(super) tap: String,
    pub(super) addresses: Vec<OwnAddress>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LocalKind {
    Ethernet {
        device: String,
        driver: Option<DriverChoice>,
        mac: MacAddr,
        mtu: u16,
        /// Of a sub-interface.
        on: Option<SubInterface>,
    },
    Loopback,
    Tunnel {
        if_id: u32,
        underlay_vrf: u32,
        mtu: Option<u16>,
        fragmentation: Fragmentation,
        learn_path_mtu: bool,
        outer: Option<OuterRules>,
    },
    Encapsulation {
        ends: Ends,
        mtu: Option<u16>,
        protection: Option<u32>,
        outer: OuterRules,
    },
}

/// Where a sub-interface is, and what it would be were its parent up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubInterface {
    pub(super) place: OnLink,
    pub(super) admin_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) address: IpAddr,
    pub(super) length: u8,
    pub(super) tentative: bool,
}

impl LocalInterface {
    pub(super) fn if_id(&self) -> Option<u32> {
        match self.kind {
            LocalKind::Tunnel { if_id, .. } => Some(if_id),
            LocalKind::Encapsulation { protection, .. } => protection,
            LocalKind::Ethernet { .. } | LocalKind::Loopback => None,
        }
    }

    pub(super) fn mac(&self) -> Option<MacAddr> {
        match self.kind {
            LocalKind::Ethernet { mac, .. } => Some(mac),
            LocalKind::Loopback | LocalKind::Tunnel { .. } | LocalKind::Encapsulation { .. } => {
                None
            }
        }
    }

    /// Where it is, if it is a sub-interface.
    pub(super) fn sub_interface(&self) -> Option<SubInterface> {
        match self.kind {
            LocalKind::Ethernet { on, .. } => on,
            _ => None,
        }
    }

    pub(super) fn uses_vrf(&self, vrf: u32) -> bool {
        let underlay = match self.kind {
            LocalKind::Ethernet { .. } | LocalKind::Loopback => None,
            LocalKind::Tunnel { underlay_vrf, .. } => Some(underlay_vrf),
            LocalKind::Encapsulation { ends, .. } => Some(ends.underlay_vrf),
        };
        self.vrf == vrf || underlay == Some(vrf)
    }

    /// The VRF in which every link-local destination of what it receives is for Linux. Of a tunnel of GRE or IPIP with a
    /// TAP: Linux chooses the address itself, and there is nobody else at this end.
    pub(super) fn link_scope(&self) -> Option<u32> {
        let is_shared = matches!(self.kind, LocalKind::Encapsulation { .. });
        (is_shared && !self.tap.is_empty()).then_some(self.vrf)
    }

    /// An address to ask a neighbour from.
    pub(super) fn source_for(&self, neighbour: IpAddr) -> Option<IpAddr> {
        let usable = |own: &&OwnAddress| !own.tentative;
        match neighbour {
            IpAddr::V4(_) => self
                .addresses
                .iter()
                .filter(usable)
                .filter(|own| own.address.is_ipv4())
                .max_by_key(|own| {
                    IpPrefix::covering(own.address, own.length)
                        .is_ok_and(|subnet| subnet.contains(neighbour))
                }),
            IpAddr::V6(_) => self
                .addresses
                .iter()
                .filter(usable)
                .filter(|own| own.address.is_ipv6())
                .max_by_key(|own| is_link_local(own.address)),
        }
        .map(|own| own.address)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The stations and addresses on the link have to be found out anew.
pub(super) fn changes_link(old: &LocalInterface, new: &LocalInterface) -> bool {
    let link = |one: &LocalInterface| {
        let place = one.sub_interface().map(|sub| sub.place);
        (one.vrf, one.mac(), one.admin_up, place)
    };
    link(old) != link(new)
}

/// What is to be closed and opened when an interface comes, changes or goes.
pub(super) fn port_changes(
    index: u32,
    old: Option<&LocalInterface>,
    new: Option<&LocalInterface>,
) -> Vec<Action> {
    /// With the MTU where frames of that size are a matter of the port.
    fn device(
        interface: &LocalInterface,
    ) -> Option<(&str, Option<DriverChoice>, Option<u16>, MacAddr)> {
        match &interface.kind {
            LocalKind::Ethernet {
                device,
                driver,
                mac,
                mtu,
                on: None,
            } => {
                let jumbo = (*mtu > ORDINARY_MTU).then_some(*mtu);
                Some((device, *driver, jumbo, *mac))
            }
            LocalKind::Ethernet { .. }
            | LocalKind::Loopback
            | LocalKind::Tunnel { .. }
            | LocalKind::Encapsulation { .. } => None,
        }
    }
    fn tap(interface: &LocalInterface) -> Option<&str> {
        Some(interface.tap.as_str()).filter(|tap| !tap.is_empty())
    }
    let mut actions = Vec::new();
    let (was, is) = (old.and_then(device), new.and_then(device));
    if was != is {
        actions.extend(was.map(|_| Action::ClosePort { port: index }));
        actions.extend(is.map(|(device, driver, jumbo, _)| Action::OpenPort {
            port: index,
            device: device.to_owned(),
            driver,
            mtu: jumbo.unwrap_or(Mtu::ETHERNET.get()),
        }));
    }
    let (was, is) = (old.and_then(tap), new.and_then(tap));
    if was != is {
        let port = tap_port(index);
        actions.extend(was.map(|_| Action::ClosePort { port }));
        actions.extend(is.map(|tap| Action::OpenTap {
            port,
            tap: tap.to_owned(),
        }));
    }
    actions
}
