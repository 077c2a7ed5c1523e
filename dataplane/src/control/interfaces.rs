//! Interfaces and their addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use culvert_net::nd::solicited_node;
use culvert_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, MacAddr, Mtu};

use super::adjacency::Key;
use super::detection::{AddressId, Due};
use super::neighbour::NeighbourId;
use super::values::{AddressSpec, EncapsulationSpec, EthernetSpec, LoopbackSpec, TunnelSpec};
use super::{Action, ApplyError, ControlPlane};
use crate::counters::MAX_INTERFACES;
use crate::driver::{DriverChoice, ORDINARY_MTU};
use crate::encapsulation::Ends;
use crate::nodes::ip6_lookup::scoped;
use crate::nodes::link_frames::{self, LinkFrame, Listening};
use crate::port::tap_port;
use crate::sa::OuterRules;
use crate::tables::{
    Fragmentation, Interface, InterfaceAddress, InterfaceKind, MTU_AFTER, MssClamp, PolicyBased,
    ReversePath,
};
use crate::vlan::OnLink;

/// Interfaces of one box: the upper half of the indexes is that of their TAPs.
const MOST: u32 = MAX_INTERFACES as u32 / 2 - 1;
/// MTU of a tunnel before its first SA is there: what the largest overhead leaves of 1500 bytes, and a bit.
const TUNNEL_MTU: u16 = 1400;

/// The `if_id` of what is protected by policies alone: packets get into its tunnel without a route.
const POLICY_TUNNEL: u32 = 0;
/// What link-local addresses begin with (RFC 4291 section 2.5.6).
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
const LINK_LOCAL_LENGTH: u8 = 64;

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
    fn link_scope(&self) -> Option<u32> {
        let is_shared = matches!(self.kind, LocalKind::Encapsulation { .. });
        (is_shared && !self.tap.is_empty()).then_some(self.vrf)
    }

    /// An address to ask a neighbour from.
    fn source_for(&self, neighbour: IpAddr) -> Option<IpAddr> {
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

/// The prefix under which the routes of an address of a link lie.
pub(super) fn route_key(address: IpAddr, length: u8, interface: u32) -> Option<IpPrefix> {
    let address = match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            // The index of the interface stands in bits 16 to 47, so a shorter prefix would lose it.
            let length = length.max(64);
            return Ipv6Prefix::covering(scoped(address, interface), length)
                .ok()
                .map(IpPrefix::V6);
        }
        other => other,
    };
    IpPrefix::covering(address, length).ok()
}

impl ControlPlane {
    pub(super) fn is_ethernet(&self, index: u32) -> bool {
        self.interfaces
            .get(&index)
            .is_some_and(|interface| interface.mac().is_some())
    }

    /// The index of a name, which it keeps.
    pub(super) fn reserve_index(&mut self, name: &str) -> Result<u32, ApplyError> {
        if let Some(index) = self.names.get(name) {
            return Ok(*index);
        }
        let index = self.names.len() as u32 + 1;
        if index > MOST {
            return Err(ApplyError::TooManyInterfaces(MOST));
        }
        self.names.insert(name.to_owned(), index);
        Ok(index)
    }

    pub(super) fn set_ethernet(
        &mut self,
        spec: &EthernetSpec,
        device: &dyn Fn(&str) -> Option<MacAddr>,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let vrf = self.vrf_index(&spec.vrf)?;
        let on = self.sub_interface(spec)?;
        let mac = match on {
            None => device(&spec.device),
            Some(on) => self
                .interfaces
                .get(&on.place.parent)
                .and_then(LocalInterface::mac),
        };
        let mac = mac.ok_or_else(|| ApplyError::NoDevice(spec.device.clone()))?;
        let new = LocalInterface {
            name: spec.name.clone(),
            kind: LocalKind::Ethernet {
                device: spec.device.clone(),
                driver: spec.driver,
                mac,
                mtu: spec.mtu,
                on,
            },
            vrf,
            admin_up: spec.admin_up && on.is_none_or(|on| self.is_up(on.place.parent)),
            mss_clamp: spec.mss_clamp,
            reverse_path: spec.reverse_path,
            tap: spec.tap.clone(),
            addresses: Vec::new(),
        };
        self.set_interface(new, actions, now)?;
        self.follow_parent(&spec.name, actions, now)
    }

    fn is_up(&self, index: u32) -> bool {
        self.interfaces
            .get(&index)
            .is_some_and(|interface| interface.admin_up)
    }

    /// Where a sub-interface is to be; nobody else may be there.
    fn sub_interface(&self, spec: &EthernetSpec) -> Result<Option<SubInterface>, ApplyError> {
        let Some((parent, tags)) = &spec.on else {
            return Ok(None);
        };
        let unknown = || ApplyError::UnknownInterface(parent.clone());
        let index = self.interface_index(parent).ok_or_else(unknown)?;
        let carrier = self.interfaces.get(&index).ok_or_else(unknown)?;
        if carrier.mac().is_none() || carrier.sub_interface().is_some() {
            return Err(ApplyError::OtherKind(parent.clone()));
        }
        let place = OnLink {
            parent: index,
            tags: *tags,
        };
        let rival = self
            .interfaces
            .sub_interfaces()
            .find(|(_, sub, other)| other.name != spec.name && sub.place == place);
        match rival {
            Some((_, _, rival)) => Err(ApplyError::InUse {
                what: format!("VLAN {} of {parent}", tags.vlan.get()),
                by: rival.name.clone(),
            }),
            None => Ok(Some(SubInterface {
                place,
                admin_up: spec.admin_up,
            })),
        }
    }

    /// Sub-interfaces have the MAC address of their parent, and are up only while it is.
    fn follow_parent(
        &mut self,
        parent: &str,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let Some(index) = self.interface_index(parent) else {
            return Ok(());
        };
        let Some((up, is)) = self
            .interfaces
            .get(&index)
            .and_then(|interface| Some((interface.admin_up, interface.mac()?)))
        else {
            return Ok(());
        };
        let changed: Vec<LocalInterface> = self
            .interfaces
            .sub_interfaces()
            .filter(|(_, sub, _)| sub.place.parent == index)
            .filter_map(|(_, sub, interface)| {
                let mut new = interface.clone();
                new.admin_up = sub.admin_up && up;
                if let LocalKind::Ethernet { mac, .. } = &mut new.kind {
                    *mac = is;
                }
                changes_link(interface, &new).then_some(new)
            })
            .collect();
        for new in changed {
            self.set_interface(new, actions, now)?;
        }
        Ok(())
    }

    pub(super) fn set_tunnel(
        &mut self,
        spec: &TunnelSpec,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let vrf = self.vrf_index(&spec.vrf)?;
        let underlay_vrf = self.vrf_index(&spec.underlay_vrf)?;
        let holder = self.interfaces.tunnel(spec.if_id);
        let rival = holder.and_then(|index| self.interfaces.get(&index));
        if let Some(rival) = rival.filter(|rival| rival.name != spec.name) {
            return Err(ApplyError::IfIdTaken {
                if_id: spec.if_id,
                tunnel: rival.name.clone(),
            });
        }
        let new = LocalInterface {
            name: spec.name.clone(),
            kind: LocalKind::Tunnel {
                if_id: spec.if_id,
                underlay_vrf,
                mtu: spec.mtu,
                fragmentation: spec.fragmentation,
                learn_path_mtu: spec.learn_path_mtu,
                outer: spec.outer,
            },
            vrf,
            admin_up: spec.admin_up,
            mss_clamp: spec.mss_clamp,
            reverse_path: spec.reverse_path,
            tap: spec.tap.clone(),
            addresses: Vec::new(),
        };
        self.set_interface(new, actions, now)
    }

    pub(super) fn set_loopback(
        &mut self,
        spec: &LoopbackSpec,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let new = LocalInterface {
            name: spec.name.clone(),
            kind: LocalKind::Loopback,
            vrf: self.vrf_index(&spec.vrf)?,
            admin_up: true,
            mss_clamp: MssClamp::Off,
            reverse_path: ReversePath::Off,
            tap: spec.tap.clone(),
            addresses: Vec::new(),
        };
        self.set_interface(new, actions, now)
    }

    pub(super) fn set_encapsulation(
        &mut self,
        spec: &EncapsulationSpec,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let vrf = self.vrf_index(&spec.vrf)?;
        let ends = Ends {
            underlay_vrf: self.vrf_index(&spec.underlay_vrf)?,
            local: spec.local,
            remote: spec.remote,
            mode: spec.mode,
        };
        let holder = spec
            .protection
            .and_then(|if_id| self.interfaces.tunnel(if_id));
        let rival = holder.and_then(|index| self.interfaces.get(&index));
        if let (Some(rival), Some(if_id)) = (rival, spec.protection)
            && rival.name != spec.name
        {
            return Err(ApplyError::IfIdTaken {
                if_id,
                tunnel: rival.name.clone(),
            });
        }
        let twin = self.publisher.current().encapsulations.find(&ends);
        if let Some(twin) = twin.and_then(|index| self.interfaces.get(&index))
            && twin.name != spec.name
        {
            return Err(ApplyError::EndsTaken {
                remote: spec.remote,
                tunnel: twin.name.clone(),
            });
        }
        let new = LocalInterface {
            name: spec.name.clone(),
            kind: LocalKind::Encapsulation {
                ends,
                mtu: spec.mtu,
                protection: spec.protection,
                outer: spec.outer,
            },
            vrf,
            admin_up: spec.admin_up,
            mss_clamp: spec.mss_clamp,
            reverse_path: spec.reverse_path,
            tap: spec.tap.clone(),
            addresses: Vec::new(),
        };
        self.set_interface(new, actions, now)
    }

    /// What workers see of the ends of a tunnel of GRE or IPIP.
    pub(super) fn published_ends(&self, index: u32) -> Option<Ends> {
        match self.interfaces.get(&index)?.kind {
            LocalKind::Encapsulation { ends, .. } => Some(ends),
            LocalKind::Ethernet { .. } | LocalKind::Loopback | LocalKind::Tunnel { .. } => None,
        }
    }

    /// Makes an interface, or makes one what it should be; its addresses stay.
    fn set_interface(
        &mut self,
        mut new: LocalInterface,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let index = self.reserve_index(&new.name)?;
        let scope = new.link_scope();
        let scope_before = self
            .interfaces
            .get(&index)
            .and_then(LocalInterface::link_scope);
        if let Some(old) = self.interfaces.get(&index) {
            if std::mem::discriminant(&old.kind) != std::mem::discriminant(&new.kind) {
                return Err(ApplyError::OtherKind(new.name));
            }
            // While their routes are still where they are looked for.
            if changes_link(old, &new) {
                self.forget_neighbours(index, now);
            }
        }
        if let Some(old) = self.interfaces.remove(&index) {
            actions.extend(port_changes(index, Some(&old), Some(&new)));
            let moved = old.vrf != new.vrf;
            let relinked = changes_link(&old, &new);
            // The link-local address is that of the MAC address.
            let mut left = old.addresses.clone();
            if let (Some(was), Some(is)) = (old.mac(), new.mac())
                && was != is
            {
                left.retain(|own| own.address != IpAddr::V6(was.link_local()));
                left.insert(0, automatic(is));
            }
            if moved || old.addresses != left {
                for own in &old.addresses {
                    self.remove_address_routes(index, old.vrf, *own, now);
                    self.detection.end((index, own.address));
                }
                for own in &left {
                    self.add_address_routes(index, new.vrf, *own, now);
                }
            }
            new.addresses = left;
            self.interfaces.insert(index, new);
            if relinked {
                self.restart_detection(index, now);
            }
        } else {
            actions.extend(port_changes(index, None, Some(&new)));
            let (vrf, mac) = (new.vrf, new.mac());
            self.interfaces.insert(index, new);
            if let Some(mac) = mac {
                let own = automatic(mac);
                if let Some(interface) = self.interfaces.get_mut(&index) {
                    interface.addresses.push(own);
                }
                self.add_address_routes(index, vrf, own, now);
                self.restart_detection(index, now);
            }
        }
        self.change_link_scope(index, scope_before, scope, now);
        self.hold_policy_tunnel(now);
        self.stage_interface(index);
        Ok(())
    }

    /// Moves the route of link-local destinations of a tunnel from one VRF to another.
    fn change_link_scope(&mut self, index: u32, from: Option<u32>, to: Option<u32>, now: u64) {
        if from == to {
            return;
        }
        let Some(all) = route_key(LINK_LOCAL, LINK_LOCAL_LENGTH, index) else {
            return;
        };
        if let Some(vrf) = from {
            self.change_route(vrf, all, now, |reasons| {
                reasons.local = reasons.local.saturating_sub(1);
            });
        }
        if let Some(vrf) = to {
            self.change_route(vrf, all, now, |reasons| reasons.local += 1);
        }
    }

    /// No route leads into the tunnel of policies: its adjacency is there as long as it is.
    fn hold_policy_tunnel(&mut self, now: u64) {
        let wanted = self.interfaces.tunnel(POLICY_TUNNEL);
        let held = std::mem::replace(&mut self.policy_tunnel, wanted);
        if held == wanted {
            return;
        }
        if let Some(index) = wanted {
            self.acquire(Key::Link(index), now);
        }
        let left = held.and_then(|index| self.adjacencies.index(&Key::Link(index)));
        if let Some(adjacency) = left {
            self.adjacencies.release(adjacency, now);
        }
    }

    /// What workers see of it.
    pub(super) fn policy_based(&self) -> Option<PolicyBased> {
        let index = self.policy_tunnel?;
        Some(PolicyBased {
            vrf: self.interfaces.get(&index)?.vrf,
            adjacency: self.adjacencies.index(&Key::Link(index))?,
        })
    }

    pub(super) fn delete_interface(
        &mut self,
        name: &str,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        let Some(index) = self.interface_index(name) else {
            return Ok(());
        };
        let Some(interface) = self.interfaces.get(&index) else {
            return Ok(());
        };
        let made = interface.mac().map(|mac| IpAddr::V6(mac.link_local()));
        let configured = interface
            .addresses
            .iter()
            .find(|own| Some(own.address) != made);
        let on_it = self
            .interfaces
            .sub_interfaces()
            .find(|(_, sub, _)| sub.place.parent == index);
        let by = configured
            .map(|own| format!("address {}", own.address))
            .or_else(|| on_it.map(|(_, _, other)| format!("sub-interface {}", other.name)));
        if let Some(by) = by {
            return Err(ApplyError::InUse {
                what: format!("interface {name}"),
                by,
            });
        }
        self.forget_neighbours(index, now);
        if let Some(ends) = self.published_ends(index) {
            self.encapsulation_mtus.remove(&ends);
        }
        if let Some(gone) = self.interfaces.remove(&index) {
            self.change_link_scope(index, gone.link_scope(), None, now);
            for own in &gone.addresses {
                self.remove_address_routes(index, gone.vrf, *own, now);
                self.detection.end((index, own.address));
            }
            actions.extend(port_changes(index, Some(&gone), None));
        }
        self.hold_policy_tunnel(now);
        self.stage_interface(index);
        Ok(())
    }

    pub(super) fn add_address(&mut self, spec: &AddressSpec, now: u64) -> Result<(), ApplyError> {
        let unknown = || ApplyError::UnknownInterface(spec.interface.clone());
        let index = self.interface_index(&spec.interface).ok_or_else(unknown)?;
        let interface = self.interfaces.get_mut(&index).ok_or_else(unknown)?;
        let id = (index, spec.address);
        let is_link = interface.mac().is_some();
        let checked = is_link && interface.admin_up;
        let own = OwnAddress {
            address: spec.address,
            length: spec.length,
            tentative: is_link,
        };
        // The one that was made from the MAC address may be configured too.
        if interface
            .addresses
            .iter()
            .any(|other| (other.address, other.length) == (own.address, own.length))
        {
            return Ok(());
        }
        interface.addresses.push(own);
        let vrf = interface.vrf;
        self.add_address_routes(index, vrf, own, now);
        if checked {
            self.detection.begin(id, now);
        }
        self.staged.interfaces.insert(index);
        Ok(())
    }

    pub(super) fn remove_address(&mut self, spec: &AddressSpec, now: u64) {
        let Some(index) = self.interface_index(&spec.interface) else {
            return;
        };
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let made = interface.mac().map(|mac| IpAddr::V6(mac.link_local()));
        if made == Some(spec.address) {
            return;
        }
        let vrf = interface.vrf;
        let place = interface
            .addresses
            .iter()
            .position(|own| (own.address, own.length) == (spec.address, spec.length));
        if let Some(place) = place {
            let own = interface.addresses.remove(place);
            self.remove_address_routes(index, vrf, own, now);
            self.detection.end((index, own.address));
            self.staged.interfaces.insert(index);
        }
    }

    /// The prefixes of an address: its own, the broadcast address of its subnet, and the subnet.
    fn address_prefixes(index: u32, own: OwnAddress) -> (Vec<IpPrefix>, Option<IpPrefix>) {
        let whole = if own.address.is_ipv4() { 32 } else { 128 };
        let mut local: Vec<_> = route_key(own.address, whole, index).into_iter().collect();
        let subnet = (own.length < whole)
            .then(|| route_key(own.address, own.length, index))
            .flatten();
        // RFC 3021: a subnet of two addresses has no broadcast address.
        if let Some(IpPrefix::V4(subnet)) = subnet
            && subnet.length() <= 30
        {
            local.push(IpPrefix::V4(Ipv4Prefix::host(subnet.last())));
        }
        (local, subnet)
    }

    fn add_address_routes(&mut self, index: u32, vrf: u32, own: OwnAddress, now: u64) {
        let (local, subnet) = Self::address_prefixes(index, own);
        for prefix in local {
            self.change_route(vrf, prefix, now, |reasons| reasons.local += 1);
        }
        if let Some(subnet) = subnet {
            let link = self.acquire(Key::Link(index), now);
            self.change_route(vrf, subnet, now, |reasons| reasons.connected.push(link));
        }
    }

    fn remove_address_routes(&mut self, index: u32, vrf: u32, own: OwnAddress, now: u64) {
        let (local, subnet) = Self::address_prefixes(index, own);
        for prefix in local {
            self.change_route(vrf, prefix, now, |reasons| {
                reasons.local = reasons.local.saturating_sub(1);
            });
        }
        let link = self.adjacencies.index(&Key::Link(index));
        if let (Some(subnet), Some(link)) = (subnet, link) {
            self.change_route(vrf, subnet, now, |reasons| {
                let place = reasons.connected.iter().position(|other| *other == link);
                if let Some(place) = place {
                    reasons.connected.remove(place);
                }
            });
            self.adjacencies.release(link, now);
        }
    }

    /// Begins duplicate detection for all addresses of a link that is up, and makes them tentative in any case.
    fn restart_detection(&mut self, index: u32, now: u64) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        if interface.mac().is_none() {
            return;
        }
        for own in &mut interface.addresses {
            own.tentative = true;
            let id = (index, own.address);
            if interface.admin_up {
                self.detection.begin(id, now);
            } else {
                self.detection.end(id);
            }
        }
        self.staged.interfaces.insert(index);
    }

    /// Does what duplicate detection asks for. Before each message about an IPv6 address it says that its solicited-node
    /// group is listened to, for switches that watch (RFC 4862 section 5.4.2), and so again when a link-local address
    /// can be the source (RFC 3590).
    pub(super) fn carry_out(&mut self, due: Due) -> Vec<Action> {
        let (Due::Probe(id) | Due::Ready(id) | Due::Announce(id)) = due;
        let frame = self.message_about(due);
        let groups = match id.1 {
            IpAddr::V6(own) if matches!(due, Due::Ready(_)) && own.is_unicast_link_local() => {
                self.groups(id.0)
            }
            IpAddr::V6(own) if frame.is_some() => vec![solicited_node(own)],
            _ => Vec::new(),
        };
        let mut actions = self.report_groups(id.0, &groups, Listening::Now);
        actions.extend(frame);
        actions
    }

    /// Answers a question who listens to what on an interface.
    pub(super) fn answer_listener_query(&self, index: u32) -> Vec<Action> {
        self.report_groups(index, &self.groups(index), Listening::Still)
    }

    /// The solicited-node groups of its addresses.
    fn groups(&self, index: u32) -> Vec<Ipv6Addr> {
        let groups: BTreeSet<Ipv6Addr> = self
            .interfaces
            .get(&index)
            .into_iter()
            .flat_map(|interface| &interface.addresses)
            .filter_map(|own| match own.address {
                IpAddr::V6(own) => Some(solicited_node(own)),
                IpAddr::V4(_) => None,
            })
            .collect();
        groups.into_iter().collect()
    }

    fn report_groups(&self, index: u32, groups: &[Ipv6Addr], listening: Listening) -> Vec<Action> {
        let Some(interface) = self.interfaces.get(&index) else {
            return Vec::new();
        };
        let Some(mac) = interface.mac().filter(|_| interface.admin_up) else {
            return Vec::new();
        };
        let link_local = interface
            .addresses
            .iter()
            .find_map(|own| match own.address {
                IpAddr::V6(address) if address.is_unicast_link_local() && !own.tentative => {
                    Some(address)
                }
                _ => None,
            });
        let source = link_local.unwrap_or(Ipv6Addr::UNSPECIFIED);
        link_frames::listener_reports(mac, source, groups, listening)
            .into_iter()
            .map(|frame| Action::Emit {
                interface: index,
                frame,
            })
            .collect()
    }

    fn message_about(&mut self, due: Due) -> Option<Action> {
        let (Due::Probe(id) | Due::Ready(id) | Due::Announce(id)) = due;
        let interface = self.interfaces.get_mut(&id.0)?;
        let mac = interface.mac()?;
        if let Due::Ready(_) = due {
            for own in &mut interface.addresses {
                if own.address == id.1 {
                    own.tentative = false;
                }
            }
            self.staged.interfaces.insert(id.0);
        }
        let frame = match (due, id.1) {
            (Due::Probe(_), IpAddr::V4(own)) => {
                link_frames::arp_request(mac, std::net::Ipv4Addr::UNSPECIFIED, own, None)
            }
            (Due::Probe(_), IpAddr::V6(own)) => {
                link_frames::solicitation(mac, Ipv6Addr::UNSPECIFIED, own, None)
            }
            (_, IpAddr::V4(own)) => link_frames::arp_announcement(mac, own),
            (_, IpAddr::V6(own)) => link_frames::advertisement(mac, own, None),
        };
        Some(emit(id, &frame))
    }

    /// Asks a neighbour, at its last known MAC address, whether it is still there.
    pub(super) fn ask(&self, id: NeighbourId, at: MacAddr) -> Option<Action> {
        let interface = self.interfaces.get(&id.0)?;
        let mac = interface.mac()?;
        let frame = match (interface.source_for(id.1)?, id.1) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                link_frames::arp_request(mac, source, target, Some(at))
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                link_frames::solicitation(mac, source, target, Some(at))
            }
            _ => return None,
        };
        Some(emit(id, &frame))
    }

    /// What workers see of an interface.
    pub(super) fn published(&self, index: u32) -> Option<Arc<Interface>> {
        let interface = self.interfaces.get(&index)?;
        let kind = match interface.kind {
            LocalKind::Ethernet { mac, .. } => InterfaceKind::Ethernet { mac },
            LocalKind::Loopback => InterfaceKind::Loopback,
            LocalKind::Encapsulation {
                ends,
                mtu,
                protection,
                outer,
            } => InterfaceKind::Encapsulation {
                underlay_vrf: ends.underlay_vrf,
                fixed_mtu: mtu,
                protection,
                outer,
            },
            LocalKind::Tunnel {
                if_id,
                underlay_vrf,
                mtu,
                fragmentation,
                learn_path_mtu,
                outer,
            } => InterfaceKind::Tunnel {
                if_id,
                underlay_vrf,
                fixed_mtu: mtu,
                fragmentation,
                learn_path_mtu,
                outer,
            },
        };
        let mut addresses4 = Vec::new();
        let mut addresses6 = Vec::new();
        for own in &interface.addresses {
            let (length, tentative) = (own.length, own.tentative);
            match own.address {
                IpAddr::V4(address) => addresses4.push(InterfaceAddress {
                    address,
                    length,
                    tentative,
                }),
                IpAddr::V6(address) => addresses6.push(InterfaceAddress {
                    address,
                    length,
                    tentative,
                }),
            }
        }
        Some(Arc::new(Interface {
            index,
            name: interface.name.as_str().into(),
            kind,
            vrf: interface.vrf,
            mtu: self.mtu(interface),
            admin_up: interface.admin_up,
            mss_clamp: interface.mss_clamp,
            reverse_path: interface.reverse_path,
            tap: (!interface.tap.is_empty()).then(|| tap_port(index)),
            addresses4: addresses4.into(),
            addresses6: addresses6.into(),
        }))
    }

    /// Bytes of the largest IP packet.
    pub(super) fn mtu(&self, interface: &LocalInterface) -> u16 {
        match interface.kind {
            LocalKind::Ethernet { mtu, .. } => mtu,
            LocalKind::Loopback => u16::MAX,
            LocalKind::Tunnel {
                mtu,
                fragmentation: Fragmentation::After,
                ..
            } => mtu.unwrap_or(MTU_AFTER),
            LocalKind::Encapsulation { mtu, ends, .. } => mtu
                .or_else(|| self.encapsulation_mtus.get(&ends).copied())
                .unwrap_or(TUNNEL_MTU),
            LocalKind::Tunnel { mtu, if_id, .. } => mtu
                .or_else(|| self.tunnel_mtus.get(&if_id).copied())
                .unwrap_or(TUNNEL_MTU),
        }
    }
}

/// The link-local address of a MAC address (RFC 4862 section 5.3).
fn automatic(mac: MacAddr) -> OwnAddress {
    OwnAddress {
        address: mac.link_local().into(),
        length: 64,
        tentative: true,
    }
}

fn emit((interface, _): AddressId, frame: &LinkFrame) -> Action {
    Action::Emit {
        interface,
        frame: frame.to_vec(),
    }
}

/// The stations and addresses on the link have to be found out anew.
fn changes_link(old: &LocalInterface, new: &LocalInterface) -> bool {
    let link = |one: &LocalInterface| {
        let place = one.sub_interface().map(|sub| sub.place);
        (one.vrf, one.mac(), one.admin_up, place)
    };
    link(old) != link(new)
}

/// What is to be closed and opened when an interface comes, changes or goes.
fn port_changes(
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
