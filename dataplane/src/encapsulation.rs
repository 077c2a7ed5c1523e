//! Tunnels that carry IP in GRE or straight in IP: their ends, and what they take of a packet.
//!
//! ```text
//!   GRE:   | outer IP | GRE, with a key or without | inner IP packet |     RFC 2784, RFC 2890
//!   IPIP:  | outer IP | inner IP packet |                                  RFC 2003, RFC 2473
//! ```
//!
//! Either family inside, either family outside. A tunnel may be protected: its packets then travel in ESP of the SAs of
//! its `if_id`, or not at all, and what comes in without ESP is dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_net::{Addresses, Flow, GreHeader, Ipv4Header, Ipv6Header, Protocol};

use crate::chunked::Chunked;
use crate::nodes::tunnel_output::underlay;
use crate::sa::Choice;
use crate::tables::Tables;

/// Bytes by which ESP grows a packet at most, while there is no SA that says it: UDP 8, header 8, IV 16, padding and
/// trailer 17, ICV 32, and in tunnel mode an IPv6 header.
const ESP_MOST: u16 = 8 + 8 + 16 + 17 + 32 + 40;

/// What stands between the outer and the inner header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// GRE, with this key or none.
    Gre(Option<u32>),
    /// Nothing.
    IpIp,
}

impl Mode {
    /// Bytes between outer and inner header.
    pub const fn len(self) -> usize {
        match self {
            Self::Gre(key) => GreHeader::len_with(key),
            Self::IpIp => 0,
        }
    }

    /// Whether nothing stands between.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What the outer header says is inside.
    pub const fn protocol(self, inner_v6: bool) -> Protocol {
        match self {
            Self::Gre(_) => Protocol::GRE,
            Self::IpIp if inner_v6 => Protocol::IPV6,
            Self::IpIp => Protocol::IPV4,
        }
    }
}

/// What makes packets those of one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Index of the VRF in which the outer packets travel.
    pub underlay_vrf: u32,
    /// The outer source of what leaves.
    pub local: IpAddr,
    /// The outer destination of what leaves.
    pub remote: IpAddr,
    /// How it is carried.
    pub mode: Mode,
}

impl Ends {
    /// Bytes by which a packet grows, without protection.
    pub const fn overhead(&self) -> usize {
        let outer = match self.local {
            IpAddr::V4(_) => Ipv4Header::LEN,
            IpAddr::V6(_) => Ipv6Header::LEN,
        };
        outer + self.mode.len()
    }

    /// The outer packet as policies see it; `None` for ends of two families.
    pub const fn flow(&self, inner_v6: bool) -> Option<Flow> {
        let addresses = match (self.local, self.remote) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 {
                source,
                destination,
            },
            (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 {
                source,
                destination,
            },
            _ => return None,
        };
        Some(Flow {
            addresses,
            protocol: self.mode.protocol(inner_v6),
            ports: None,
        })
    }

    /// Chooses among several next hops for the outer packets, as [`Flow::spread_of`] would.
    pub fn spread(&self, inner_v6: bool) -> u32 {
        self.flow(inner_v6).map_or(0, |flow| match self.mode {
            Mode::Gre(Some(key)) => flow.spread_with(key),
            Mode::Gre(None) | Mode::IpIp => flow.spread(),
        })
    }

    /// Bytes of the largest packet that goes through whole, as the underlay and the SA in use leave them.
    pub fn inner_mtu(&self, tables: &Tables, protection: Option<u32>, inner_v6: bool) -> u16 {
        let spread = || self.spread(inner_v6);
        let (_, mut room) = underlay(tables, self.underlay_vrf, self.remote, spread);
        if let Some(path) = tables.path_mtus.get(self.underlay_vrf, self.remote) {
            room = room.min(path);
        }
        if let Some(if_id) = protection {
            let choice = tables
                .sas
                .policies
                .get(if_id)
                .map(|policies| policies.choose(self.local.is_ipv6(), || self.flow(inner_v6)));
            let sa = match choice {
                Some(Choice::Sa(index)) => tables.sas.sas.get(index),
                _ => None,
            };
            room = sa.map_or(room.saturating_sub(ESP_MOST), |sa| sa.inner_mtu(room));
        }
        let overhead = u16::try_from(self.overhead()).unwrap_or(u16::MAX);
        room.saturating_sub(overhead)
    }
}

/// All tunnels of this kind, by interface and by what their packets show.
#[derive(Clone, Debug, Default)]
pub struct Encapsulations {
    by_interface: Chunked<Ends>,
    by_ends: Arc<HashMap<Ends, u32>>,
}

impl Encapsulations {
    /// The ends of the tunnel whose interface this is.
    #[inline]
    pub fn get(&self, interface: u32) -> Option<&Ends> {
        self.by_interface.get(interface).map(AsRef::as_ref)
    }

    /// The interface of the tunnel with these ends.
    #[inline]
    pub fn find(&self, ends: &Ends) -> Option<u32> {
        self.by_ends.get(ends).copied()
    }

    /// The interfaces of all of them.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.by_interface.iter().map(|(interface, _)| interface)
    }

    /// There is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_ends.is_empty()
    }

    /// Puts a tunnel in the place of what its interface was before, or takes it away.
    pub fn set(&mut self, interface: u32, ends: Option<Ends>) {
        if self.get(interface) == ends.as_ref() {
            return;
        }
        let by_ends = Arc::make_mut(&mut self.by_ends);
        if let Some(old) = self.by_interface.set(interface, ends.map(Arc::new))
            && by_ends.get(&*old) == Some(&interface)
        {
            by_ends.remove(&*old);
        }
        if let Some(ends) = ends {
            by_ends.insert(ends, interface);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn ends(last: u8, mode: Mode) -> Ends {
        Ends {
            underlay_vrf: 0,
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, last].into(),
            mode,
        }
    }

    #[test]
    fn a_tunnel_is_found_by_what_its_packets_show_and_by_nothing_else() {
        let mut all = Encapsulations::default();
        assert!(all.is_empty());
        all.set(7, Some(ends(2, Mode::Gre(None))));
        all.set(8, Some(ends(2, Mode::Gre(Some(0)))));
        all.set(9, Some(ends(2, Mode::IpIp)));
        let older = all.clone();
        for (mode, interface) in [
            (Mode::Gre(None), Some(7)),
            (Mode::Gre(Some(0)), Some(8)),
            (Mode::Gre(Some(1)), None),
            (Mode::IpIp, Some(9)),
        ] {
            assert_eq!(all.find(&ends(2, mode)), interface);
            assert_eq!(all.find(&ends(3, mode)), None);
        }
        // One takes over the ends of another before that one is gone.
        all.set(10, Some(ends(2, Mode::IpIp)));
        all.set(9, None);
        assert_eq!(all.find(&ends(2, Mode::IpIp)), Some(10));
        all.set(7, Some(ends(3, Mode::IpIp)));
        assert_eq!(all.find(&ends(2, Mode::Gre(None))), None);
        for interface in [7, 8, 10] {
            all.set(interface, None);
        }
        assert!(all.is_empty());
        assert_eq!(older.find(&ends(2, Mode::IpIp)), Some(9));
    }

    #[test]
    fn overheads_are_those_of_the_headers() {
        assert_eq!(ends(2, Mode::IpIp).overhead(), 20);
        assert_eq!(ends(2, Mode::Gre(None)).overhead(), 24);
        assert_eq!(ends(2, Mode::Gre(Some(1))).overhead(), 28);
        let six = Ends {
            local: [0xfd; 16].into(),
            remote: [0xfe; 16].into(),
            ..ends(2, Mode::Gre(Some(1)))
        };
        assert_eq!(six.overhead(), 48);
    }
}
