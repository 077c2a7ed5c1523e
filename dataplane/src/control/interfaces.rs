//! Interfaces as they come, change and go, and what workers see of them.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_net::MacAddr;

use super::addresses::automatic;
use super::adjacency::Key;
use super::local_interface::{LocalInterface, LocalKind, SubInterface, changes_link, port_changes};
use super::values::{EncapsulationSpec, EthernetSpec, LoopbackSpec, TunnelSpec};
use super::{Action, ApplyError, ControlPlane};
use crate::counters::MAX_INTERFACES;
use crate::encapsulation::Ends;
use crate::port::tap_port;
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
