//! The interfaces that exist, found by index, by `if_id` and by VRF: a box has ten thousand tunnels and few links.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::local_interface::{LocalInterface, SubInterface};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InterfaceTable {
    all: BTreeMap<u32, LocalInterface>,
    /// Tunnels by `if_id`.
    tunnels: HashMap<u32, u32>,
    /// Links by VRF.
    links: HashMap<u32, BTreeSet<u32>>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // It is used as the map that it keeps up.
impl InterfaceTable {
    pub(super) fn get(&self, index: &u32) -> Option<&LocalInterface> {
        self.all.get(index)
    }

    /// For its addresses: what it is found by does not change in place.
    pub(super) fn get_mut(&mut self, index: &u32) -> Option<&mut LocalInterface> {
        self.all.get_mut(index)
    }

    pub(super) fn contains_key(&self, index: &u32) -> bool {
        self.all.contains_key(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &LocalInterface)> {
        self.all
            .iter()
            .map(|(index, interface)| (*index, interface))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &LocalInterface> {
        self.all.values()
    }

    /// The tunnel of an `if_id`.
    pub(super) fn tunnel(&self, if_id: u32) -> Option<u32> {
        self.tunnels.get(&if_id).copied()
    }

    /// The links of a VRF: what has a MAC address.
    pub(super) fn links(&self, vrf: u32) -> impl Iterator<Item = (u32, &LocalInterface)> {
        let indexes = self.links.get(&vrf).into_iter().flatten();
        indexes.filter_map(|index| Some((*index, self.all.get(index)?)))
    }

    /// Every sub-interface, with its place.
    pub(super) fn sub_interfaces(
        &self,
    ) -> impl Iterator<Item = (u32, SubInterface, &LocalInterface)> {
        self.links.values().flatten().filter_map(|index| {
            let interface = self.all.get(index)?;
            Some((*index, interface.sub_interface()?, interface))
        })
    }

    pub(super) fn insert(&mut self, index: u32, interface: LocalInterface) {
        self.remove(&index);
        if let Some(if_id) = interface.if_id() {
            self.tunnels.insert(if_id, index);
        }
        if interface.mac().is_some() {
            self.links.entry(interface.vrf).or_default().insert(index);
        }
        self.all.insert(index, interface);
    }

    pub(super) fn remove(&mut self, index: &u32) -> Option<LocalInterface> {
        let interface = self.all.remove(index)?;
        if let Some(if_id) = interface.if_id()
            && self.tunnels.get(&if_id) == Some(index)
        {
            self.tunnels.remove(&if_id);
        }
        if let Some(links) = self.links.get_mut(&interface.vrf) {
            links.remove(index);
        }
        Some(interface)
    }
}
