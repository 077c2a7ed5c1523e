//! Makes changes visible to workers, in the order that never leads a packet astray.
//!
//! ```text
//!   1. tables: interfaces and adjacencies        a route may lead to them from now on
//!   2. forwarding tables: routes
//!   3. tables: gateways that the routes have moved
//!   4. tables: neighbours                        what waits for them goes through 1 and 2
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::neighbour::NeighbourId;
use super::{Changed, ControlPlane};
use crate::fib::PoolExhausted;
use crate::nodes::icmp_error::Rate;
use crate::nodes::mss_clamp::clamps_arriving;
use crate::reassembly::Limits;
use crate::tables::{Adjacency, Groups, Interface, ReversePath, Tables};
use crate::vlan::Vlans;

/// What has changed since workers saw it last.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) interfaces: BTreeSet<u32>,
    /// Adjacencies whose content may be another.
    pub(super) adjacencies: BTreeSet<u32>,
    /// That of gateways may be.
    pub(super) gateways: bool,
    pub(super) prefixes: Changed,
    pub(super) neighbours: BTreeSet<NeighbourId>,
    pub(super) forwarding: Option<bool>,
    pub(super) reassembly: Option<Limits>,
    pub(super) icmp_errors: Option<Rate>,
    /// What Linux has joined is another.
    pub(super) groups: bool,
}

impl ControlPlane {
    /// Makes everything staged visible. Routes for which there is no room are left out.
    pub(super) fn commit(&mut self) -> Result<(), PoolExhausted> {
        let staged = std::mem::take(&mut self.staged);
        let contents = self.changed_contents(staged.adjacencies);
        let interfaces: Vec<_> = staged
            .interfaces
            .iter()
            .map(|index| (*index, self.published(*index), self.published_ends(*index)))
            .collect();
        let vlans = staged
            .interfaces
            .iter()
            .any(|index| self.moves_on_a_link(*index))
            .then(|| Arc::new(self.vlans()));
        let settings = staged.forwarding.is_some()
            || staged.reassembly.is_some()
            || staged.icmp_errors.is_some()
            || staged.groups;
        let has_groups = !self.groups.is_empty() && !interfaces.is_empty();
        let groups = (staged.groups || has_groups).then(|| self.joined());
        let policy_based = self.policy_based();
        if !contents.is_empty() || !interfaces.is_empty() || settings {
            self.publisher.update(|tables| {
                let (mut checked, mut clamped) = (false, false);
                for (index, interface, ends) in interfaces {
                    tables.encapsulations.set(index, ends);
                    checked |= interface.as_deref().is_some_and(checks_sources);
                    clamped |= interface.as_deref().is_some_and(clamps_arriving);
                    set_interface(tables, index, interface);
                }
                // Only where the check was on before does it take a look at all interfaces to see that it is off.
                tables.reverse_path = checked
                    || tables.reverse_path
                        && tables.interfaces.iter().any(|(_, one)| checks_sources(one));
                tables.mss_arriving = clamped
                    || tables.mss_arriving
                        && tables
                            .interfaces
                            .iter()
                            .any(|(_, one)| clamps_arriving(one));
                set_all(tables, contents);
                tables.policy_based = policy_based;
                if let Some(vlans) = vlans {
                    tables.vlans = vlans;
                }
                if let Some(groups) = groups {
                    tables.groups = groups;
                }
                tables.forwarding = staged.forwarding.unwrap_or(tables.forwarding);
                tables.reassembly = staged.reassembly.unwrap_or(tables.reassembly);
                tables.icmp_errors = staged.icmp_errors.unwrap_or(tables.icmp_errors);
            });
        }
        let mut outcome = Ok(());
        for (vrf, prefix) in &staged.prefixes {
            if let Some(rib) = self.ribs.get_mut(vrf) {
                outcome = outcome.and(rib.install(*prefix));
            }
        }
        if staged.gateways || !staged.prefixes.is_empty() {
            self.refresh_gateways();
        }
        if !staged.neighbours.is_empty() {
            self.publish_neighbours(&staged.neighbours);
        }
        outcome
    }

    /// An interface is another one now: so may be what leads out of it, by way of a gateway or among others, too.
    pub(super) fn stage_interface(&mut self, index: u32) {
        let Self {
            staged,
            adjacencies,
            ..
        } = self;
        staged.interfaces.insert(index);
        staged.gateways = true;
        let of_interface = adjacencies.of_interface(index);
        for way in of_interface.chain(adjacencies.gateways().iter().copied()) {
            staged.adjacencies.insert(way);
            staged.adjacencies.extend(adjacencies.spread_over(way));
        }
    }

    /// The interface is a sub-interface where workers know none, or the other way round.
    fn moves_on_a_link(&self, index: u32) -> bool {
        let is = self
            .interfaces
            .get(&index)
            .and_then(|interface| Some(interface.sub_interface()?.place));
        self.publisher.current().vlans.place(index) != is
    }

    /// What Linux has joined, on interfaces that there are.
    fn joined(&self) -> Groups {
        let taps: HashMap<&str, u32> = self
            .interfaces
            .iter()
            .map(|(index, interface)| (interface.tap.as_str(), index))
            .collect();
        let joined = self.groups.iter();
        Groups::new(joined.filter_map(|(tap, group)| Some((*taps.get(tap.as_str())?, *group))))
    }

    fn vlans(&self) -> Vlans {
        Vlans::new(
            self.interfaces
                .sub_interfaces()
                .map(|(index, sub, _)| (index, sub.place)),
        )
    }

    /// A gateway may be found elsewhere now, and another one by way of it.
    fn refresh_gateways(&mut self) {
        let mut contents = self.changed_contents(self.adjacencies.gateways().clone());
        if contents.is_empty() {
            return;
        }
        let spread = contents
            .iter()
            .flat_map(|(gateway, _)| self.adjacencies.spread_over(*gateway))
            .collect();
        contents.extend(self.changed_contents(spread));
        self.publisher.update(|tables| set_all(tables, contents));
    }

    /// The contents of those that are not what workers see.
    fn changed_contents(&self, indexes: BTreeSet<u32>) -> Vec<(u32, Adjacency)> {
        if indexes.is_empty() {
            return Vec::new();
        }
        let current = self.publisher.current();
        indexes
            .into_iter()
            .filter_map(|index| Some((index, self.content(self.adjacencies.key(index)?))))
            .filter(|(index, content)| {
                current.adjacencies.get(*index).map(AsRef::as_ref) != Some(content)
            })
            .collect()
    }

    fn publish_neighbours(&mut self, changed: &BTreeSet<NeighbourId>) {
        let news: Vec<_> = changed
            .iter()
            .map(|id| (*id, self.neighbours.mac(id)))
            .collect();
        self.publisher.update(|tables| {
            let neighbours = Arc::make_mut(&mut tables.neighbours);
            for (id, mac) in news {
                match mac {
                    Some(mac) => neighbours.insert(id, mac),
                    None => neighbours.remove(&id),
                };
            }
        });
    }
}

fn checks_sources(interface: &Interface) -> bool {
    interface.reverse_path != ReversePath::Off
}

/// With the name by which SAs know a tunnel.
fn set_interface(tables: &mut Tables, index: u32, interface: Option<Arc<Interface>>) {
    let if_id = |interface: &Interface| interface.kind.if_id();
    let is = interface.as_deref().and_then(if_id);
    let was = tables
        .interfaces
        .set(index, interface)
        .and_then(|old| if_id(&old));
    if was == is {
        return;
    }
    let tunnels = &mut tables.sas.tunnels;
    if let Some(was) = was.filter(|was| tunnels.get(*was) == Some(&index)) {
        tunnels.set(was, None);
    }
    if let Some(is) = is {
        tunnels.set(is, Some(index));
    }
}

fn set_all(tables: &mut Tables, contents: Vec<(u32, Adjacency)>) {
    for (index, content) in contents {
        tables.adjacencies.set(index, Some(Arc::new(content)));
    }
}
