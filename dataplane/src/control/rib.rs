//! One VRF: every reason for a route to be there, and the forwarding tables that hold the best.
//!
//! ```text
//!   10.1.0.1/32   local                        -> the box
//!   10.1.0.0/24   connected (by lan), static   -> connected wins
//!   10.2.0.0/24   static, learnt (by OSPF)   -> static wins
//!   10.1.0.9/32   host (a neighbour)           -> only where the route that covers it is the connected one
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_net::{IpPrefix, Ipv4Prefix, Ipv6Prefix};

use crate::fib::{Fib4Writer, Fib6Writer, PoolExhausted};
use crate::tables::{ADJACENCY_LOCAL, ADJACENCY_NO_ROUTE};

/// All reasons for a route to one prefix.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// Addresses (and broadcast addresses) of the box that it stands for.
    pub(super) local: u32,
    /// Link adjacencies by which the prefix is connected; the oldest counts.
    pub(super) connected: Vec<u32>,
    /// The adjacency of the configured route.
    pub(super) configured: Option<u32>,
    /// The adjacency of the route that someone else wrote into Linux.
    pub(super) learnt: Option<u32>,
    /// The adjacency of the neighbour that has this address.
    pub(super) host: Option<u32>,
}

impl Reasons {
    /// Of the configured route, or of the learnt one.
    pub(super) fn route(&mut self, learnt: bool) -> &mut Option<u32> {
        if learnt {
            &mut self.learnt
        } else {
            &mut self.configured
        }
    }

    /// What the prefix leads to, neighbours left out: the box's own addresses, then what is connected (it needs no
    /// router), then what is configured, then what was learnt.
    pub(super) fn without_host(&self) -> Option<u32> {
        (self.local > 0)
            .then_some(ADJACENCY_LOCAL)
            .or_else(|| self.connected.first().copied())
            .or(self.configured)
            .or(self.learnt)
    }

    fn best(&self) -> Option<u32> {
        self.without_host().or(self.host)
    }

    fn is_empty(&self) -> bool {
        self.local == 0
            && self.connected.is_empty()
            && self.configured.is_none()
            && self.learnt.is_none()
            && self.host.is_none()
    }
}

/// Routes of one VRF.
#[derive(Default)]
pub(super) struct Rib {
    pub(super) fib4: Fib4Writer,
    pub(super) fib6: Fib6Writer,
    reasons: HashMap<IpPrefix, Reasons>,
}

impl Rib {
    /// No route at all.
    pub(super) fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The reasons for a route.
    pub(super) fn reasons(&self, prefix: IpPrefix) -> Option<&Reasons> {
        self.reasons.get(&prefix)
    }

    /// Everything that there is a reason for, in no order.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpPrefix> {
        self.reasons.keys().copied()
    }

    /// What workers find for a prefix.
    pub(super) fn installed(&self, prefix: IpPrefix) -> Option<u32> {
        match prefix {
            IpPrefix::V4(prefix) => self.fib4.get(prefix),
            IpPrefix::V6(prefix) => self.fib6.get(prefix),
        }
    }

    /// The longest prefix that an address is found by.
    pub(super) fn longest(&self, address: IpAddr) -> Option<IpPrefix> {
        let host = IpPrefix::host(address);
        (0..=host.length())
            .rev()
            .filter_map(|length| covering(host, length))
            .find(|prefix| self.reasons.contains_key(prefix))
    }

    /// Changes the reasons for a route; workers see the outcome when it is [installed](Self::install).
    pub(super) fn change(&mut self, prefix: IpPrefix, change: impl FnOnce(&mut Reasons)) {
        let reasons = self.reasons.entry(prefix).or_default();
        change(reasons);
        if reasons.is_empty() {
            self.reasons.remove(&prefix);
        }
    }

    /// Brings the forwarding table in line with the reasons.
    pub(super) fn install(&mut self, prefix: IpPrefix) -> Result<(), PoolExhausted> {
        let best = self.reasons.get(&prefix).and_then(Reasons::best);
        match (prefix, best) {
            (IpPrefix::V4(prefix), Some(best)) if self.fib4.get(prefix) != Some(best) => {
                self.fib4.insert(prefix, best)
            }
            (IpPrefix::V6(prefix), Some(best)) if self.fib6.get(prefix) != Some(best) => {
                self.fib6.insert(prefix, best)
            }
            (_, Some(_)) => Ok(()),
            (IpPrefix::V4(prefix), None) => {
                self.fib4.remove(prefix);
                Ok(())
            }
            (IpPrefix::V6(prefix), None) => {
                self.fib6.remove(prefix);
                Ok(())
            }
        }
    }

    /// The adjacency by which a gateway is reached. The default route does not count: a gateway behind a tunnel that is
    /// gone must not be looked for in the clear.
    pub(super) fn lookup_gateway(&self, gateway: IpAddr) -> Option<u32> {
        let host = IpPrefix::host(gateway);
        (1..=host.length())
            .rev()
            .filter_map(|length| covering(host, length))
            .find_map(|prefix| self.reasons.get(&prefix)?.best())
    }

    /// Where a host would lead if no neighbour had its address.
    pub(super) fn lookup_without_host(&self, host: IpPrefix) -> u32 {
        (0..=host.length())
            .rev()
            .filter_map(|length| covering(host, length))
            .find_map(|prefix| self.reasons.get(&prefix)?.without_host())
            .unwrap_or(ADJACENCY_NO_ROUTE)
    }
}

fn covering(prefix: IpPrefix, length: u8) -> Option<IpPrefix> {
    match prefix {
        IpPrefix::V4(prefix) => Ipv4Prefix::covering(prefix.address(), length)
            .ok()
            .map(IpPrefix::V4),
        IpPrefix::V6(prefix) => Ipv6Prefix::covering(prefix.address(), length)
            .ok()
            .map(IpPrefix::V6),
    }
}

/// All addresses of `inner` are those of `outer` too.
pub(super) fn covers(outer: IpPrefix, inner: IpPrefix) -> bool {
    match (outer, inner) {
        (IpPrefix::V4(outer), IpPrefix::V4(inner)) => outer.covers(inner),
        (IpPrefix::V6(outer), IpPrefix::V6(inner)) => outer.covers(inner),
        _ => false,
    }
}
