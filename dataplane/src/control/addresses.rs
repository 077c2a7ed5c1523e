//! Addresses of interfaces: their routes, whether somebody else has them, and who is told of them.
//!
//! ```text
//!   add_address --> routes: its own, broadcast, subnet
//!              `--> detection --Due--> carry_out --> probe, announcement, groups that are listened to
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use culvert_net::nd::solicited_node;
use culvert_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix, MacAddr};

use super::adjacency::Key;
use super::detection::{AddressId, Due};
use super::local_interface::OwnAddress;
use super::neighbour::NeighbourId;
use super::values::AddressSpec;
use super::{Action, ApplyError, ControlPlane};
use crate::nodes::ip6_lookup::scoped;
use crate::nodes::link_frames::{self, LinkFrame, Listening};

/// What link-local addresses begin with (RFC 4291 section 2.5.6).
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
const LINK_LOCAL_LENGTH: u8 = 64;

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
    /// Moves the route of link-local destinations of a tunnel from one VRF to another.
    pub(super) fn change_link_scope(
        &mut self,
        index: u32,
        from: Option<u32>,
        to: Option<u32>,
        now: u64,
    ) {
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

    pub(super) fn add_address_routes(&mut self, index: u32, vrf: u32, own: OwnAddress, now: u64) {
        let (local, subnet) = Self::address_prefixes(index, own);
        for prefix in local {
            self.change_route(vrf, prefix, now, |reasons| reasons.local += 1);
        }
        if let Some(subnet) = subnet {
            let link = self.acquire(Key::Link(index), now);
            self.change_route(vrf, subnet, now, |reasons| reasons.connected.push(link));
        }
    }

    pub(super) fn remove_address_routes(
        &mut self,
        index: u32,
        vrf: u32,
        own: OwnAddress,
        now: u64,
    ) {
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
    pub(super) fn restart_detection(&mut self, index: u32, now: u64) {
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
}

/// The link-local address of a MAC address (RFC 4862 section 5.3).
pub(super) fn automatic(mac: MacAddr) -> OwnAddress {
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
