//! What workers know: interfaces, adjacencies, VRFs, tunnels, SAs and policies.
//!
//! The control thread keeps the newest [`Tables`], changes a clone and publishes it ([`Publisher`]); each worker
//! looks once a round ([`Reader`]) and uses one version for the whole round. Clones share what did not change.
//! Forwarding tables ([`Fib4`], [`Fib6`]) are too large for that: they are changed in place, entry by entry, by
//! atomic stores (see [`crate::fib`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use culvert_net::MacAddr;

use crate::chunked::Chunked;
use crate::drop_reason::DropReason;
use crate::encapsulation::Encapsulations;
use crate::fib::{Fib4, Fib6};
use crate::nodes::icmp_error::Rate;
use crate::path_mtu::PathMtus;
use crate::sa::{OuterRules, SaTables};
use crate::vlan::Vlans;

/// One version of everything that workers read.
#[derive(Clone, Default)]
pub struct Tables {
    /// Grows with each version.
    pub generation: u64,
    /// Until the first configuration has been applied whole, nothing is forwarded.
    pub forwarding: bool,
    /// Some interface checks source addresses: packets pass by the reverse-path node.
    pub reverse_path: bool,
    /// Some interface with a driver bounds the MSS of TCP: what comes in is looked at.
    pub mss_arriving: bool,
    /// Differs from box to box, so that the flows that one of them has sent this way do not all go one way at the next.
    pub spread_seed: u64,
    /// By interface index; tunnels are interfaces too. Index 0 is never used.
    pub interfaces: Chunked<Interface>,
    /// Which interfaces are sub-interfaces of which.
    pub vlans: Arc<Vlans>,
    /// By adjacency index; [`ADJACENCY_NO_ROUTE`] and [`ADJACENCY_LOCAL`] always exist.
    pub adjacencies: Chunked<Adjacency>,
    /// By VRF index; 0 is `default`.
    pub vrfs: Chunked<Vrf>,
    /// Neighbours that are resolved: what the neighbour-resolve node looks at to release packets.
    pub neighbours: Arc<Neighbours>,
    /// SAs and policies.
    pub sas: SaTables,
    /// Tunnels of GRE and IPIP.
    pub encapsulations: Encapsulations,
    /// How many fragments for the box may wait, and how long.
    pub reassembly: crate::reassembly::Limits,
    /// How many ICMP errors each worker sends.
    pub icmp_errors: Rate,
    /// What protects packets by policy where no route leads into a tunnel; `None`: nothing does, and no packet is asked.
    pub policy_based: Option<PolicyBased>,
    /// MTUs of the paths to peers, as far as they are smaller than the link's.
    pub path_mtus: PathMtus,
    /// Multicast groups that Linux has joined.
    pub groups: Groups,
}

/// The adjacency of what no route covers.
pub const ADJACENCY_NO_ROUTE: u32 = 0;
/// The adjacency of the box's own addresses.
pub const ADJACENCY_LOCAL: u32 = 1;
/// Not an adjacency: with the index of an interface in its low bits it stands, on an outer packet of that interface's
/// tunnel, for the SAs that protect it.
pub const PROTECTION: u32 = 1 << 31;
/// The VRF that always exists.
pub const VRF_DEFAULT: u32 = 0;

/// The tunnel of `if_id` 0: packets get into it because a policy covers them (RFC 4301 section 4.4.1), not by a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyBased {
    /// In this VRF every packet is looked for in the policies.
    pub vrf: u32,
    /// The adjacency of the tunnel.
    pub adjacency: u32,
}

/// An interface of the box: Ethernet, loopback or tunnel.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its index: that of its port, counters and adjacencies.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: InterfaceKind,
    /// Index of the VRF of packets that come in by it.
    pub vrf: u32,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Packets pass.
    pub admin_up: bool,
    /// How the MSS of TCP SYNs that leave or come in by it is bounded.
    pub mss_clamp: MssClamp,
    /// How the source addresses of what comes in by it are checked.
    pub reverse_path: ReversePath,
    /// Port index of the TAP that takes its self-traffic.
    pub tap: Option<u32>,
    /// Its IPv4 addresses.
    pub addresses4: Arc<[InterfaceAddress<Ipv4Addr>]>,
    /// Its IPv6 addresses, the link-local one among them.
    pub addresses6: Arc<[InterfaceAddress<Ipv6Addr>]>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress<A> {
    /// The address.
    pub address: A,
    /// Bits of the network part.
    pub length: u8,
    /// Duplicate address detection is not over: it is defended but not used (RFC 5227, RFC 4862).
    pub tentative: bool,
}

/// How an interface moves packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Frames of a driver.
    Ethernet {
        /// Its MAC address.
        mac: MacAddr,
    },
    /// None: only the box's own addresses are there.
    Loopback,
    /// ESP of the SAs with this `if_id`.
    Tunnel {
        /// Binds policies and SAs to the interface.
        if_id: u32,
        /// Index of the VRF in which the ESP packets travel.
        underlay_vrf: u32,
        /// Fixed by configuration; else it follows from underlay and SA.
        fixed_mtu: Option<u16>,
        /// Where packets larger than the underlay takes are cut.
        fragmentation: Fragmentation,
        /// What routers say about the size of its ESP packets is believed.
        learn_path_mtu: bool,
        /// What crosses between inner and outer headers; else the SA says.
        outer: Option<OuterRules>,
    },
    /// IP in GRE or in IP, between the ends that [`Tables::encapsulations`] has.
    Encapsulation {
        /// Index of the VRF in which the outer packets travel.
        underlay_vrf: u32,
        /// Fixed by configuration; else it follows from underlay and SA.
        fixed_mtu: Option<u16>,
        /// The outer packets travel in ESP of the SAs with this `if_id`, or not at all.
        protection: Option<u32>,
        /// What crosses between inner and outer headers.
        outer: OuterRules,
    },
}

impl InterfaceKind {
    /// What binds SAs and policies to the interface: a tunnel of ESP, or another one that is protected.
    pub const fn if_id(&self) -> Option<u32> {
        match self {
            Self::Ethernet { .. } | Self::Loopback => None,
            Self::Tunnel { if_id, .. } => Some(*if_id),
            Self::Encapsulation { protection, .. } => *protection,
        }
    }
}

/// MTU of tunnels that cut after encryption, unless configured: what an Ethernet carries goes through whole.
pub const MTU_AFTER: u16 = 1500;

/// Where packets that the underlay cannot carry in one piece are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragmentation {
    /// Before encryption: the far end forwards the fragments, their receiver puts them together. What must not be cut
    /// is refused with the MTU that would fit.
    #[default]
    Before,
    /// After encryption: the far end puts the ESP packet together and sends what came in here, byte for byte.
    After,
}

/// How source addresses are checked against the routes (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReversePath {
    /// They are not.
    #[default]
    Off,
    /// A route that does not drop leads to the source, the default route too (RFC 3704 section 2.4).
    Loose,
    /// The best route to the source, or one of its next hops, leaves by the interface that the packet came in by
    /// (RFC 3704 section 2.2).
    Strict,
}

/// How the MSS of TCP SYNs is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// It is left alone.
    #[default]
    Off,
    /// By the MTU of the way out.
    FromMtu,
    /// By this value.
    Fixed(u16),
}

impl Interface {
    /// The first usable IPv4 address, the source of errors that leave by it.
    pub fn source4(&self) -> Option<Ipv4Addr> {
        self.addresses4
            .iter()
            .find(|own| !own.tentative)
            .map(|own| own.address)
    }

    /// The first usable global IPv6 address.
    pub fn source6(&self) -> Option<Ipv6Addr> {
        self.addresses6
            .iter()
            .find(|own| !own.tentative && !own.address.is_unicast_link_local())
            .map(|own| own.address)
    }

    /// The usable link-local IPv6 address.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses6
            .iter()
            .find(|own| !own.tentative && own.address.is_unicast_link_local())
            .map(|own| own.address)
    }

    /// The MAC address, of an Ethernet interface.
    pub fn mac(&self) -> Option<MacAddr> {
        match self.kind {
            InterfaceKind::Ethernet { mac } => Some(mac),
            InterfaceKind::Loopback
            | InterfaceKind::Tunnel { .. }
            | InterfaceKind::Encapsulation { .. } => None,
        }
    }
}

/// What is done with a packet that a route covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// What is done.
    pub kind: AdjacencyKind,
    /// Index of the interface by which the packet leaves (0: none).
    pub interface: u32,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// What is done with a packet that a route covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdjacencyKind {
    /// It is dropped.
    Drop(DropReason),
    /// It is for the box.
    Local,
    /// Its destination is on the link and not known yet: the neighbour is the destination itself.
    Glean,
    /// The next hop is this neighbour, whose MAC address is not known yet.
    Unresolved(IpAddr),
    /// The next hop is known: the Ethernet header to write.
    Rewrite([u8; 14]),
    /// It goes to every listener on the link (multicast, broadcast).
    Multicast,
    /// It goes into the tunnel whose interface this is.
    Tunnel,
    /// It goes into the GRE or IPIP tunnel whose interface this is.
    Encapsulation,
    /// One of these adjacencies, chosen by the hash of the flow.
    Multipath(Arc<[u32]>),
    /// The destination is looked up in the VRF of this index.
    Lookup(u32),
}

/// One routing table for each family.
#[derive(Clone)]
pub struct Vrf {
    /// Its name.
    pub name: Arc<str>,
    /// IPv4 routes: address to adjacency.
    pub fib4: Arc<Fib4>,
    /// IPv6 routes: address to adjacency.
    pub fib6: Arc<Fib6>,
}

/// How often a route may lead on to another one: into another VRF, or to one of several next hops.
pub const MOST_STEPS: u32 = 8;

impl Tables {
    /// The adjacency of the longest route of a VRF that covers an address.
    pub fn lookup(&self, vrf: u32, address: IpAddr) -> u32 {
        let Some(vrf) = self.vrfs.get(vrf) else {
            return ADJACENCY_NO_ROUTE;
        };
        match address {
            IpAddr::V4(address) => vrf.fib4.lookup(address),
            IpAddr::V6(address) => vrf.fib6.lookup(address),
        }
    }

    /// From the adjacency of a route to the one that says what is done with a packet: into the tables of other VRFs, and
    /// by the hash of its flow to one of several next hops. `None`: there is no end to it.
    pub fn follow(
        &self,
        adjacency: u32,
        destination: IpAddr,
        flow_hash: impl Fn() -> u32,
    ) -> Option<u32> {
        let mut index = adjacency;
        for step in 0..=MOST_STEPS {
            index = match self.adjacencies.get(index).map(|found| &found.kind) {
                Some(AdjacencyKind::Lookup(vrf)) => self.lookup(*vrf, destination),
                Some(AdjacencyKind::Multipath(members)) => {
                    let hash = mixed(flow_hash(), self.spread_seed, step);
                    // The high half of the product spreads a 32-bit hash evenly over any number of members.
                    let place = (u64::from(hash) * members.len() as u64) >> 32;
                    members
                        .get(place as usize)
                        .copied()
                        .unwrap_or(ADJACENCY_NO_ROUTE)
                }
                _ => return Some(index),
            };
        }
        None
    }
}

/// Another hash of the flow for each box and each step, none of which says anything about another: the bits that chose
/// before are the same for all flows that have come this far (the finaliser of `SplitMix64`).
fn mixed(hash: u32, seed: u64, step: u32) -> u32 {
    let mut bits = u64::from(hash) ^ seed.wrapping_add(u64::from(step) << 32);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ bits >> 31) as u32
}

/// Multicast groups of more than link scope that Linux has joined, by interface. Nothing is forwarded between them: what
/// comes by an interface for a group that was joined there goes to Linux, and all else nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Arc<BTreeSet<(u32, IpAddr)>>);

impl Groups {
    /// Takes no notice of groups that need not be joined here, for all of their packets go to Linux.
    pub fn new(joined: impl IntoIterator<Item = (u32, IpAddr)>) -> Self {
        let wide = |group: IpAddr| match group {
            IpAddr::V4(group) => group.is_multicast() && group.octets()[..3] != [224, 0, 0],
            IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0x0f > 2,
        };
        let joined = joined.into_iter().filter(|(_, group)| wide(*group));
        Self(Arc::new(joined.collect()))
    }

    /// What comes by this interface for this group goes to Linux.
    #[cold]
    pub fn contains(&self, interface: u32, group: IpAddr) -> bool {
        self.0.contains(&(interface, group))
    }
}

/// Resolved neighbours by interface and address.
pub type Neighbours = std::collections::HashMap<(u32, IpAddr), MacAddr>;

/// Where the control thread publishes.
#[derive(Clone)]
pub struct Publisher(Arc<ArcSwap<Tables>>);

impl Publisher {
    /// Begins with these tables.
    pub fn new(tables: Tables) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(tables)))
    }

    /// Makes `tables` what workers see from their next round on.
    pub fn publish(&self, tables: Tables) {
        self.0.store(Arc::new(tables));
    }

    /// Changes a clone of what was published last and publishes it as the next generation. One thread only.
    pub fn update<R>(&self, change: impl FnOnce(&mut Tables) -> R) -> R {
        let mut tables = Tables::clone(&self.0.load());
        tables.generation += 1;
        let result = change(&mut tables);
        self.publish(tables);
        result
    }

    /// What was published last.
    pub fn current(&self) -> Arc<Tables> {
        self.0.load_full()
    }

    /// A worker's view.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

/// A worker's view of the tables: looking costs one load when nothing has changed.
pub struct Reader(Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>);

impl Reader {
    /// The newest version.
    #[inline]
    pub fn current(&mut self) -> &Arc<Tables> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Two ways, each of which is two ways again; 20, 21, 22 and 23 are the ends.
    fn two_levels(seed: u64) -> Tables {
        let mut tables = Tables {
            spread_seed: seed,
            ..Tables::default()
        };
        for (index, members) in [(10, [11, 12]), (11, [20, 21]), (12, [22, 23])] {
            let adjacency = Adjacency {
                kind: AdjacencyKind::Multipath(members.into()),
                interface: 0,
                mtu: 1500,
            };
            tables.adjacencies.set(index, Some(Arc::new(adjacency)));
        }
        tables
    }

    fn ends(tables: &Tables, hash: impl Fn(u32) -> u32) -> Vec<u32> {
        let to = IpAddr::from([192, 0, 2, 1]);
        let end = |flow| tables.follow(10, to, || hash(flow)).unwrap();
        (0..4000).map(end).collect()
    }

    fn counts(ends: impl IntoIterator<Item = u32>) -> [u32; 4] {
        let mut counts = [0; 4];
        for end in ends {
            counts[end as usize - 20] += 1;
        }
        counts
    }

    #[test]
    fn each_level_of_ways_is_chosen_anew_and_each_box_chooses_for_itself() {
        for hash in [
            |flow: u32| flow.wrapping_mul(0x9e37_79b1),
            // Hashes that differ in few bits, as those of neighbouring flows may.
            |flow: u32| flow,
            |flow: u32| flow << 20,
        ] {
            let first = ends(&two_levels(1), hash);
            assert_eq!(
                first,
                ends(&two_levels(1), hash),
                "a flow stays where it is"
            );
            let second = ends(&two_levels(0xfeed_0000_0000_0002), hash);
            for counts in [
                counts(first.iter().copied()),
                counts(second.iter().copied()),
                // Those that another box has sent by one way.
                counts(
                    first
                        .iter()
                        .zip(&second)
                        .filter(|(end, _)| **end == 20)
                        .map(|(_, end)| *end),
                ),
            ] {
                let all: u32 = counts.iter().sum();
                assert!(
                    counts
                        .iter()
                        .all(|count| count * 5 > all && count * 3 < all),
                    "{counts:?}"
                );
            }
        }
    }
}
