//! Routes, what they lead to, and neighbours as routes.

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_net::{EtherType, EthernetHeader, IpPrefix, MacAddr};

use super::addresses::route_key;
use super::adjacency::Key;
use super::local_interface::LocalKind;
use super::neighbour::NeighbourId;
use super::rib::{Reasons, Rib, covers};
use super::values::{Hop, RouteSpec};
use super::{ApplyError, ControlPlane};
use crate::drop_reason::DropReason;
use crate::tables::{Adjacency, AdjacencyKind};

/// Gateways behind gateways, however many ways lead to each: more than any sane network has; a loop ends there.
const MOST_GATEWAYS: u32 = 4;

/// By adjacency and gateways before it: the MTU, if packets may be spread to it.
type Known = HashMap<(u32, u32), Option<u16>>;

impl ControlPlane {
    /// Makes a configured or learnt route, or leads it elsewhere without a gap.
    pub(super) fn set_route(&mut self, spec: &RouteSpec, now: u64) -> Result<(), ApplyError> {
        let vrf = self.vrf_index(&spec.vrf)?;
        let mut keys = Vec::with_capacity(spec.hops.len());
        for hop in &spec.hops {
            keys.push(match hop {
                // An interface that is not there (any more) holds its routes: what they cover is dropped, not sent
                // by another way.
                Hop::Interface(name) => Key::Link(self.reserve_index(name)?),
                Hop::Neighbour(name, gateway) => {
                    Key::Neighbour(self.reserve_index(name)?, *gateway)
                }
                Hop::Gateway(None, gateway) => Key::Gateway(vrf, *gateway),
                Hop::Gateway(Some(other), gateway) => {
                    Key::Gateway(self.vrf_index(other)?, *gateway)
                }
                Hop::Lookup(other) => Key::Lookup(self.vrf_index(other)?),
            });
        }
        let mut members: Vec<u32> = keys.into_iter().map(|key| self.acquire(key, now)).collect();
        members.sort_unstable();
        let adjacency = match *members.as_slice() {
            [] => self.acquire(Key::Drop(spec.otherwise), now),
            [only] => only,
            _ => self.acquire(Key::Multipath(members), now),
        };
        let mut before = None;
        self.change_route(vrf, spec.destination, now, |reasons| {
            before = reasons.route(spec.learnt).replace(adjacency);
        });
        if let Some(before) = before {
            self.adjacencies.release(before, now);
        }
        Ok(())
    }

    pub(super) fn remove_route(&mut self, spec: &RouteSpec, now: u64) {
        let Ok(vrf) = self.vrf_index(&spec.vrf) else {
            return;
        };
        let mut before = None;
        self.change_route(vrf, spec.destination, now, |reasons| {
            before = reasons.route(spec.learnt).take();
        });
        if let Some(before) = before {
            self.adjacencies.release(before, now);
        }
    }

    /// One more user of an adjacency.
    pub(super) fn acquire(&mut self, key: Key, now: u64) -> u32 {
        let (index, is_new) = self.adjacencies.acquire(key, now);
        if is_new {
            self.staged.adjacencies.insert(index);
        }
        index
    }

    /// Changes the reasons for a route, and sees to the neighbours whose addresses it covers.
    pub(super) fn change_route(
        &mut self,
        vrf: u32,
        prefix: IpPrefix,
        now: u64,
        change: impl FnOnce(&mut Reasons),
    ) {
        if let Some(rib) = self.ribs.get_mut(&vrf) {
            let is_link = |rib: &Rib| {
                rib.reasons(prefix)
                    .is_some_and(|reasons| !reasons.connected.is_empty())
            };
            let was_link = is_link(rib);
            rib.change(prefix, change);
            let concerns_hosts = was_link || is_link(rib) || self.is_on_a_link(vrf, prefix);
            self.staged.prefixes.insert((vrf, prefix));
            if concerns_hosts {
                self.reconsider_hosts(prefix, now);
            }
        }
    }

    /// The prefix is part of what a link connects.
    fn is_on_a_link(&self, vrf: u32, prefix: IpPrefix) -> bool {
        self.interfaces.links(vrf).any(|(index, interface)| {
            interface.addresses.iter().any(|own| {
                route_key(own.address, own.length, index).is_some_and(|link| covers(link, prefix))
            })
        })
    }

    /// A route to a link, or to part of it, decides over the neighbours there.
    fn reconsider_hosts(&mut self, prefix: IpPrefix, now: u64) {
        let affected: Vec<NeighbourId> = self
            .neighbours
            .iter()
            .map(|(id, _)| id)
            .filter(|id| host_prefix(*id).is_some_and(|host| covers(prefix, host)))
            .collect();
        for id in affected {
            self.update_host(id, now);
        }
    }

    /// The MAC address of a neighbour has come, changed or gone.
    pub(super) fn neighbour_changed(&mut self, id: NeighbourId, now: u64) {
        self.staged.neighbours.insert(id);
        self.staged.gateways = true;
        let known = self.adjacencies.index(&Key::Neighbour(id.0, id.1));
        self.staged.adjacencies.extend(known);
        self.update_host(id, now);
    }

    /// A neighbour has shown its MAC address; where its table is full, another may have to go.
    pub(super) fn neighbour_seen(
        &mut self,
        id: NeighbourId,
        mac: MacAddr,
        solicited: bool,
        now: u64,
    ) {
        let Self {
            neighbours,
            adjacencies,
            ..
        } = self;
        let stays = |(interface, address)| adjacencies.is_next_hop(interface, address);
        if neighbours.seen(id, mac, solicited, now, stays) {
            self.neighbour_changed(id, now);
        }
        for evicted in self.neighbours.take_evicted() {
            self.neighbour_changed(evicted, now);
        }
    }

    pub(super) fn forget_neighbours(&mut self, interface: u32, now: u64) {
        for id in self.neighbours.forget(|id| id.0 == interface) {
            self.neighbour_changed(id, now);
        }
    }

    /// A known neighbour has a route of its own where the link's own route covers it. Not where another route does: an
    /// ARP packet must not take traffic out of a tunnel.
    fn update_host(&mut self, id: NeighbourId, now: u64) {
        let (Some(interface), Some(prefix)) = (self.interfaces.get(&id.0), host_prefix(id)) else {
            return;
        };
        let vrf = interface.vrf;
        let Some(rib) = self.ribs.get(&vrf) else {
            return;
        };
        let link = self.adjacencies.index(&Key::Link(id.0));
        let wanted = self.neighbours.mac(&id).is_some()
            && link.is_some_and(|link| rib.lookup_without_host(prefix) == link);
        let key = Key::Neighbour(id.0, id.1);
        let held = rib.reasons(prefix).and_then(|reasons| reasons.host);
        let is_ours = held.is_some_and(|held| self.adjacencies.key(held) == Some(&key));
        if wanted == is_ours {
            return;
        }
        let host = wanted.then(|| self.acquire(key, now));
        if let Some(rib) = self.ribs.get_mut(&vrf) {
            rib.change(prefix, |reasons| reasons.host = host);
            self.staged.prefixes.insert((vrf, prefix));
        }
        if let Some(held) = held {
            self.adjacencies.release(held, now);
        }
    }

    /// What is done with the packets of an adjacency, as things stand.
    pub(super) fn content(&self, key: &Key) -> Adjacency {
        self.content_behind(key, 0, &mut HashMap::new())
    }

    /// `known` has what is behind each member of several ways, so that ways that meet again cost nothing.
    fn content_behind(&self, key: &Key, gateways: u32, known: &mut Known) -> Adjacency {
        let drop = |reason| Adjacency {
            kind: AdjacencyKind::Drop(reason),
            interface: 0,
            mtu: u16::MAX,
        };
        match key {
            Key::Drop(reason) => drop(*reason),
            Key::Link(index) => self.by_link(*index, None),
            Key::Neighbour(index, address) => self.by_link(*index, Some(*address)),
            Key::Lookup(vrf) => Adjacency {
                kind: AdjacencyKind::Lookup(*vrf),
                interface: 0,
                mtu: u16::MAX,
            },
            Key::Gateway(..) if gateways >= MOST_GATEWAYS => drop(DropReason::NoRoute),
            Key::Gateway(vrf, gateway) => {
                let found = self
                    .ribs
                    .get(vrf)
                    .and_then(|rib| self.adjacencies.key(rib.lookup_gateway(*gateway)?));
                match found {
                    None => drop(DropReason::NoRoute),
                    Some(Key::Link(index)) => self.by_link(*index, Some(*gateway)),
                    Some(Key::Lookup(other)) => {
                        let there = Key::Gateway(*other, *gateway);
                        self.content_behind(&there, gateways + 1, known)
                    }
                    Some(other) => self.content_behind(other, gateways + 1, known),
                }
            }
            Key::Multipath(members) => {
                let mut mtu = u16::MAX;
                let mut alive = Vec::with_capacity(members.len());
                for member in members {
                    // None of them is itself spread: only a gateway leads on, and counts.
                    let usable = match known.get(&(*member, gateways)) {
                        Some(usable) => *usable,
                        None => {
                            let key = self.adjacencies.key(*member);
                            let behind = key.map(|key| self.content_behind(key, gateways, known));
                            let usable = behind
                                .filter(|behind| self.is_alive(behind))
                                .map(|behind| behind.mtu);
                            known.insert((*member, gateways), usable);
                            usable
                        }
                    };
                    if let Some(usable) = usable {
                        alive.push(*member);
                        mtu = mtu.min(usable);
                    }
                }
                if alive.is_empty() {
                    return drop(DropReason::NoRoute);
                }
                Adjacency {
                    kind: AdjacencyKind::Multipath(alive.into()),
                    interface: 0,
                    mtu,
                }
            }
        }
    }

    /// Straight out of an interface, or by a neighbour on it. A tunnel has no neighbours.
    fn by_link(&self, index: u32, neighbour: Option<IpAddr>) -> Adjacency {
        let Some(interface) = self.interfaces.get(&index) else {
            return Adjacency {
                kind: AdjacencyKind::Drop(DropReason::InterfaceDown),
                interface: index,
                mtu: u16::MAX,
            };
        };
        let kind = match (&interface.kind, neighbour) {
            (LocalKind::Loopback, _) => AdjacencyKind::Drop(DropReason::NoRoute),
            (LocalKind::Tunnel { .. }, _) => AdjacencyKind::Tunnel,
            (LocalKind::Encapsulation { .. }, _) => AdjacencyKind::Encapsulation,
            (LocalKind::Ethernet { .. }, None) => AdjacencyKind::Glean,
            (LocalKind::Ethernet { mac, .. }, Some(address)) => {
                match self.neighbours.mac(&(index, address)) {
                    None => AdjacencyKind::Unresolved(address),
                    Some(destination) => AdjacencyKind::Rewrite(
                        EthernetHeader {
                            destination,
                            source: *mac,
                            ether_type: if address.is_ipv4() {
                                EtherType::IPV4
                            } else {
                                EtherType::IPV6
                            },
                        }
                        .to_bytes(),
                    ),
                }
            }
        };
        Adjacency {
            kind,
            interface: index,
            mtu: self.mtu(interface),
        }
    }

    /// Packets may be spread to it.
    fn is_alive(&self, adjacency: &Adjacency) -> bool {
        match adjacency.kind {
            AdjacencyKind::Drop(_) => false,
            AdjacencyKind::Multipath(_) | AdjacencyKind::Lookup(_) => true,
            _ => self
                .interfaces
                .get(&adjacency.interface)
                .is_some_and(|interface| interface.admin_up),
        }
    }
}

fn host_prefix((interface, address): NeighbourId) -> Option<IpPrefix> {
    let whole = if address.is_ipv4() { 32 } else { 128 };
    route_key(address, whole, interface)
}
