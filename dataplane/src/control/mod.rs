//! The control plane of layer 3: from configured values and workers' news to the tables that workers read.
//!
//! ```text
//!   operations (bus) --apply--> +--------------+ --publish--> Tables: interfaces, adjacencies, VRFs, neighbours
//!   events of workers -handle-> | ControlPlane | --store----> forwarding tables, route by route
//!   the clock ---------tick---> +--------------+ --actions--> open and close ports, send a frame
//!                                    '-retrieve-> the same values again
//! ```
//!
//! One thread, no I/O, no clock of its own: `now` is `CLOCK_MONOTONIC` in nanoseconds, handed in. What is to be done
//! outside comes back as [`Action`]s.
//!
//! The order in which workers see a change is part of it: an adjacency is published before a route leads to it, and
//! routes to a neighbour lead past the question before the packets that wait for it are set free.

mod addresses;
mod adjacency;
mod commit;
mod detection;
mod error;
mod interface_table;
mod interfaces;
mod listing;
mod local_interface;
mod neighbour;
mod rib;
mod routes;
mod timers;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::bus;
use culvert_net::MacAddr;

pub use self::detection::DetectionTiming;
pub use self::error::ApplyError;
pub use self::listing::{Route, RouteFilter, RouteHop, RouteKey, RoutePage, RouteSource};
pub use self::neighbour::{Neighbour, NeighbourState};

use self::adjacency::Adjacencies;
use self::commit::Staged;
use self::detection::Detection;
use self::interface_table::InterfaceTable;
use self::neighbour::NeighbourTable;
use self::rib::Rib;
use self::values::Spec;
use crate::driver::DriverChoice;
use crate::drop_reason::DropReason;
use crate::encapsulation::Ends;
use crate::event::Event;
use crate::nodes::icmp_error::Rate;
use crate::reassembly::Limits;
use crate::sa::Configured;
use crate::tables::{
    ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE, Adjacency, AdjacencyKind, Publisher, VRF_DEFAULT, Vrf,
};

/// VRFs of one box.
const MOST_VRFS: u32 = 4096;

/// Multicast groups that Linux may have joined, on all interfaces.
const MOST_GROUPS: usize = 4096;
/// Between two answers to listener queries of one link: routers ask each two minutes (RFC 3810 section 9.2), and within
/// a second whoever asks gets the same answer.
const REPORT_NS: u64 = 1_000_000_000;

/// What the caller is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take over a Linux device and give each worker a port of it at this index, which is the interface's.
    OpenPort {
        /// Where the port stands.
        port: u32,
        /// The device.
        device: String,
        /// How its frames are to come and go; `None`: as for every other.
        driver: Option<DriverChoice>,
        /// The largest IP packet that it has to take.
        mtu: u16,
    },
    /// Give a worker the TAP of this name at this index ([`crate::port::tap_port`] of the interface).
    OpenTap {
        /// Where the port stands.
        port: u32,
        /// The TAP.
        tap: String,
    },
    /// Close a device or TAP.
    ClosePort {
        /// Where the port stands.
        port: u32,
    },
    /// Let a policy of the configuration stand, or take it away.
    Configure {
        /// Its name.
        name: String,
        /// `None`: it is there no more.
        policy: Option<Configured>,
    },
    /// Send a frame, as it is.
    Emit {
        /// By which interface.
        interface: u32,
        /// From the Ethernet header on.
        frame: Vec<u8>,
    },
}

/// See the module.
pub struct ControlPlane {
    publisher: Publisher,
    /// As they were applied, by key: what [`ControlPlane::retrieve`] gives.
    values: BTreeMap<String, bus::Value>,
    /// An index stays its name's for ever, so a route by a tunnel that is made anew finds it again.
    names: HashMap<String, u32>,
    interfaces: InterfaceTable,
    /// MTU of tunnels by `if_id`, as the SAs in use have it.
    tunnel_mtus: HashMap<u32, u16>,
    /// MTU of tunnels of GRE and IPIP, as underlay and SAs leave it.
    encapsulation_mtus: HashMap<Ends, u16>,
    vrf_names: HashMap<String, u32>,
    ribs: BTreeMap<u32, Rib>,
    adjacencies: Adjacencies,
    neighbours: NeighbourTable,
    detection: Detection,
    /// The tunnel of policies, while its adjacency is held.
    policy_tunnel: Option<u32>,
    staged: Staged,
    /// Multicast groups that Linux has joined, by TAP.
    groups: Vec<(String, IpAddr)>,
    /// When the listener query of an interface is answered again.
    reported: HashMap<u32, u64>,
}

impl ControlPlane {
    /// Takes over tables that have nothing of layer 3 in them yet.
    pub fn new(publisher: Publisher, timing: DetectionTiming) -> Self {
        let mut this = Self {
            publisher,
            values: BTreeMap::new(),
            names: HashMap::new(),
            interfaces: InterfaceTable::default(),
            tunnel_mtus: HashMap::new(),
            encapsulation_mtus: HashMap::new(),
            vrf_names: HashMap::new(),
            ribs: BTreeMap::new(),
            adjacencies: Adjacencies::default(),
            neighbours: NeighbourTable::default(),
            detection: Detection::new(timing),
            policy_tunnel: None,
            staged: Staged::default(),
            groups: Vec::new(),
            reported: HashMap::new(),
        };
        this.add_vrf("default", VRF_DEFAULT);
        let fixed = |kind| {
            Some(Arc::new(Adjacency {
                kind,
                interface: 0,
                mtu: u16::MAX,
            }))
        };
        this.publisher.update(|tables| {
            let no_route = AdjacencyKind::Drop(DropReason::NoRoute);
            tables.adjacencies.set(ADJACENCY_NO_ROUTE, fixed(no_route));
            tables
                .adjacencies
                .set(ADJACENCY_LOCAL, fixed(AdjacencyKind::Local));
        });
        this
    }

    /// Carries out one operation, whole or not at all. `device` tells the MAC address of a Linux device.
    ///
    /// A create of what is there is an update, an update of what is not there is a create, a delete of it is done:
    /// an operation whose acknowledgement was lost can be repeated.
    pub fn apply(
        &mut self,
        operation: &bus::Operation,
        device: &dyn Fn(&str) -> Option<MacAddr>,
        now: u64,
    ) -> Result<Vec<Action>, ApplyError> {
        let key = &operation.key;
        let old = self.values.get(key).cloned();
        let new = match operation.verb() {
            bus::operation::Verb::Create | bus::operation::Verb::Update => Some(
                operation
                    .value
                    .clone()
                    .ok_or_else(|| ApplyError::NoValue(key.clone()))?,
            ),
            bus::operation::Verb::Delete => None,
            bus::operation::Verb::Unspecified => return Err(ApplyError::NoVerb(key.clone())),
        };
        if old == new {
            return Ok(Vec::new());
        }
        let old_spec = old
            .as_ref()
            .map(|value| Spec::read(key, value))
            .transpose()?;
        let new_spec = new
            .as_ref()
            .map(|value| Spec::read(key, value))
            .transpose()?;
        let mut actions = Vec::new();
        self.change(
            old_spec.as_ref(),
            new_spec.as_ref(),
            device,
            &mut actions,
            now,
        )?;
        if let Err(full) = self.commit() {
            // Back to what was there, which needs no more room than it had.
            let _ = self.change(
                new_spec.as_ref(),
                old_spec.as_ref(),
                device,
                &mut Vec::new(),
                now,
            );
            let _ = self.commit();
            return Err(full.into());
        }
        match new {
            Some(value) => self.values.insert(key.clone(), value),
            None => self.values.remove(key),
        };
        Ok(actions)
    }

    /// Every value that is there, as it was applied.
    pub fn retrieve(&self) -> Vec<bus::KeyedValue> {
        self.values
            .iter()
            .map(|(key, value)| bus::KeyedValue {
                key: key.clone(),
                value: Some(value.clone()),
            })
            .collect()
    }

    /// Takes notice of what workers have told; events of other matters are left alone.
    pub fn handle<'e>(
        &mut self,
        events: impl IntoIterator<Item = &'e Event>,
        now: u64,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for event in events {
            match *event {
                Event::NeighbourSeen {
                    interface,
                    address,
                    mac,
                    solicited,
                } if self.is_ethernet(interface) => {
                    self.neighbour_seen((interface, address), mac, solicited, now);
                }
                Event::NeighbourWanted { interface, address } if self.is_ethernet(interface) => {
                    self.neighbours.wanted((interface, address), now);
                }
                Event::AddressConflict {
                    interface,
                    address,
                    mac,
                } => {
                    let due = self.detection.conflict((interface, address), mac, now);
                    actions.extend(due.into_iter().flat_map(|due| self.carry_out(due)));
                }
                Event::ListenerQuery { interface } => {
                    let due = self.reported.get(&interface).copied().unwrap_or(0);
                    if now >= due && self.is_ethernet(interface) {
                        self.reported.insert(interface, now + REPORT_NS);
                        actions.extend(self.answer_listener_query(interface));
                    }
                }
                _ => {}
            }
        }
        self.commit_or_report();
        actions
    }

    /// When [`ControlPlane::tick`] has something to do.
    pub fn next_timer(&self) -> Option<u64> {
        [self.neighbours.next(), self.detection.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(due) = self.neighbours.due(now) {
            match due {
                neighbour::Due::Ask(id, mac) => actions.extend(self.ask(id, mac)),
                neighbour::Due::Gone(id) => self.neighbour_changed(id, now),
            }
        }
        while let Some(due) = self.detection.due(now) {
            actions.extend(self.carry_out(due));
        }
        self.commit_or_report();
        actions
    }

    /// The multicast groups that Linux has joined, by TAP: all of them, those of before are forgotten.
    pub fn set_groups(&mut self, mut joined: Vec<(String, IpAddr)>) {
        if joined.len() > MOST_GROUPS {
            tracing::warn!(groups = joined.len(), "Linux has joined too many groups");
            joined.truncate(MOST_GROUPS);
        }
        self.groups = joined;
        self.staged.groups = true;
        self.commit_or_report();
    }

    /// The inner MTU that the SAs in use leave to the tunnel of this `if_id`, in bytes. A configured MTU stands above it.
    pub fn set_tunnel_mtu(&mut self, if_id: u32, mtu: u16) {
        if self.tunnel_mtus.insert(if_id, mtu) != Some(mtu)
            && let Some(index) = self.tunnel_index(if_id)
        {
            self.stage_interface(index);
            self.commit_or_report();
        }
    }

    /// The inner MTU that the underlay, and the SAs in use, leave to a tunnel of GRE or IPIP, in bytes. A configured MTU
    /// stands above it.
    pub fn set_encapsulation_mtu(&mut self, interface: u32, ends: Ends, mtu: u16) {
        if self.encapsulation_mtus.insert(ends, mtu) != Some(mtu) {
            self.stage_interface(interface);
            self.commit_or_report();
        }
    }

    /// The tunnel interface of an `if_id`.
    pub fn tunnel_index(&self, if_id: u32) -> Option<u32> {
        self.interfaces.tunnel(if_id)
    }

    /// The index of an interface that exists.
    pub fn interface_index(&self, name: &str) -> Option<u32> {
        let index = *self.names.get(name)?;
        self.interfaces.contains_key(&index).then_some(index)
    }

    /// The indexes of all interfaces that exist or did: each is kept for its name.
    pub fn interface_indexes(&self) -> impl Iterator<Item = u32> + use<'_> {
        self.names.values().copied()
    }

    /// Duplicate address detection is over for every address of the interface.
    pub fn addresses_ready(&self, index: u32) -> bool {
        self.interfaces
            .get(&index)
            .is_some_and(|interface| interface.addresses.iter().all(|own| !own.tentative))
    }

    /// Every neighbour: the index of its interface, its address, what is known of it.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, IpAddr, &Neighbour)> {
        self.neighbours
            .iter()
            .map(|((interface, address), neighbour)| (interface, address, neighbour))
    }

    /// Forgets neighbours, of one interface or of one address where they are given; says how many.
    pub fn clear_neighbours(
        &mut self,
        interface: Option<u32>,
        address: Option<IpAddr>,
        now: u64,
    ) -> u32 {
        let of = |id: &neighbour::NeighbourId| {
            interface.is_none_or(|index| id.0 == index)
                && address.is_none_or(|address| id.1 == address)
        };
        let count = self.neighbours.iter().filter(|(id, _)| of(id)).count();
        for id in self.neighbours.forget(of) {
            self.neighbour_changed(id, now);
        }
        self.commit_or_report();
        count as u32
    }

    /// From the old form of a value to the new one.
    fn change(
        &mut self,
        old: Option<&Spec>,
        new: Option<&Spec>,
        device: &dyn Fn(&str) -> Option<MacAddr>,
        actions: &mut Vec<Action>,
        now: u64,
    ) -> Result<(), ApplyError> {
        match (old, new) {
            // One value that has become another thing.
            (Some(gone), Some(come)) if !gone.is_same_thing(come) => {
                self.change(Some(gone), None, device, actions, now)?;
                let outcome = self.change(None, Some(come), device, actions, now);
                if outcome.is_err() {
                    self.change(None, Some(gone), device, actions, now)?;
                }
                outcome
            }
            (_, Some(Spec::Vrf(name))) => self.create_vrf(name),
            (_, Some(Spec::Ethernet(spec))) => self.set_ethernet(spec, device, actions, now),
            (_, Some(Spec::Loopback(spec))) => self.set_loopback(spec, actions, now),
            (_, Some(Spec::Tunnel(spec))) => self.set_tunnel(spec, actions, now),
            (_, Some(Spec::Encapsulation(spec))) => self.set_encapsulation(spec, actions, now),
            (_, Some(Spec::Address(spec))) => self.add_address(spec, now),
            (_, Some(Spec::Route(spec))) => self.set_route(spec, now),
            (_, Some(Spec::Forwarding(enabled))) => {
                self.staged.forwarding = Some(*enabled);
                Ok(())
            }
            (_, Some(Spec::Reassembly(limits))) => {
                self.staged.reassembly = Some(*limits);
                Ok(())
            }
            (_, Some(Spec::IcmpErrors(rate))) => {
                self.staged.icmp_errors = Some(*rate);
                Ok(())
            }
            (_, Some(Spec::Policy(name, policy))) => {
                actions.push(Action::Configure {
                    name: name.clone(),
                    policy: Some(policy.clone()),
                });
                Ok(())
            }
            (Some(Spec::Policy(name, _)), None) => {
                actions.push(Action::Configure {
                    name: name.clone(),
                    policy: None,
                });
                Ok(())
            }
            (Some(Spec::Vrf(name)), None) => self.delete_vrf(name),
            (Some(Spec::Ethernet(spec)), None) => self.delete_interface(&spec.name, actions, now),
            (Some(Spec::Loopback(spec)), None) => self.delete_interface(&spec.name, actions, now),
            (Some(Spec::Tunnel(spec)), None) => self.delete_interface(&spec.name, actions, now),
            (Some(Spec::Encapsulation(spec)), None) => {
                self.delete_interface(&spec.name, actions, now)
            }
            (Some(Spec::Address(spec)), None) => {
                self.remove_address(spec, now);
                Ok(())
            }
            (Some(Spec::Route(spec)), None) => {
                self.remove_route(spec, now);
                Ok(())
            }
            (Some(Spec::Forwarding(_)), None) => {
                self.staged.forwarding = Some(false);
                Ok(())
            }
            (Some(Spec::Reassembly(_)), None) => {
                self.staged.reassembly = Some(Limits::default());
                Ok(())
            }
            (Some(Spec::IcmpErrors(_)), None) => {
                self.staged.icmp_errors = Some(Rate::default());
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn create_vrf(&mut self, name: &str) -> Result<(), ApplyError> {
        if self.vrf_names.contains_key(name) {
            return Ok(());
        }
        let index = (0..MOST_VRFS)
            .find(|index| !self.ribs.contains_key(index))
            .ok_or(ApplyError::TooManyVrfs(MOST_VRFS))?;
        self.add_vrf(name, index);
        Ok(())
    }

    fn add_vrf(&mut self, name: &str, index: u32) {
        let rib = Rib::default();
        let vrf = Vrf {
            name: name.into(),
            fib4: Arc::clone(rib.fib4.fib()),
            fib6: Arc::clone(rib.fib6.fib()),
        };
        self.publisher
            .update(|tables| tables.vrfs.set(index, Some(Arc::new(vrf))));
        self.ribs.insert(index, rib);
        self.vrf_names.insert(name.to_owned(), index);
    }

    fn delete_vrf(&mut self, name: &str) -> Result<(), ApplyError> {
        let Some(index) = self.vrf_names.get(name).copied() else {
            return Ok(());
        };
        // The default VRF is there for ever; its value may come and go.
        if index == VRF_DEFAULT {
            return Ok(());
        }
        let by_interface = self
            .interfaces
            .values()
            .find(|interface| interface.uses_vrf(index));
        let by = match (by_interface, self.ribs.get(&index)) {
            (Some(interface), _) => Some(format!("interface {}", interface.name)),
            (None, Some(rib)) if !rib.is_empty() => Some("its routes".to_owned()),
            _ if self.adjacencies.lead_into(index) => Some("routes of other VRFs".to_owned()),
            _ => None,
        };
        if let Some(by) = by {
            return Err(ApplyError::InUse {
                what: format!("VRF {name}"),
                by,
            });
        }
        self.publisher.update(|tables| tables.vrfs.set(index, None));
        self.ribs.remove(&index);
        self.vrf_names.remove(name);
        Ok(())
    }

    fn vrf_index(&self, name: &str) -> Result<u32, ApplyError> {
        self.vrf_names
            .get(name)
            .copied()
            .ok_or_else(|| ApplyError::UnknownVrf(name.to_owned()))
    }

    fn commit_or_report(&mut self) {
        if let Err(error) = self.commit() {
            tracing::error!(%error, "cannot install routes to neighbours");
        }
    }
}

/// Prefixes of a VRF whose routes have changed.
type Changed = BTreeSet<(u32, culvert_net::IpPrefix)>;
