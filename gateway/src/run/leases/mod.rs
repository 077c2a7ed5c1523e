//! What DHCP servers have lent, as values beside the plan: addresses, routes, name servers.
//!
//! ```text
//!   culvert dhcp --leases--> Leases --> dataplane: address/wan/..., obtained/VRF/PREFIX
//!                               |  '--> Linux: linux/address/wan/..., linux/route/PREFIX, linux/resolver
//!                               '-- what is configured, what a routing daemon has learnt: that comes first
//! ```
//!
//! A server is anybody on the link, and a route is stronger than another the longer its prefix: so nothing of a lease is
//! taken that would lead packets away from where the configuration, a routing daemon or an older lease leads them.
//!
//! - A lease is not used whose address is on the network of another interface, or is led to by a configured route; nor one
//!   whose network is part of another interface's or has it in it, or is led to as a whole by a configured or learnt route.
//!   A default route does not count here, as a link has to be somewhere; but beside one that leads into a tunnel the link
//!   has to be a small one.
//! - A route is left out that a configured or learnt one covers, be it the default, or another interface's network, or an
//!   older lease; one to the link that has another interface's network in it; and one whose gateway is not on the link.
//! - Of two leases the older comes first; addresses of all of them come before routes of any.
//!
//! The process that speaks DHCP may die and come back: what it does not speak of stays, until its time is over.

mod planning;
mod ways;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert_model::bus::{self, dhcp_client_state::State};
use culvert_model::plan::Plan;
use culvert_model::plan::keys::dhcp_client_key;

use planning::Refusal;

/// What all origins of values of leases begin with.
pub const ORIGIN: &str = "DHCP";
/// The client says that a lease is over before this does.
const GRACE: Duration = Duration::from_secs(5);

/// Of each interface.
#[derive(Debug, Default)]
pub struct Leases {
    by_interface: BTreeMap<String, Lease>,
    /// How many there have been.
    taken: u64,
    /// By their interfaces, those of the last plan that are not used.
    refused: BTreeMap<String, Refusal>,
}

#[derive(Debug)]
struct Lease {
    /// Without its times.
    terms: bus::DhcpLease,
    over: Instant,
    /// Which one it was of all that there have been: the older comes first.
    age: u64,
}

impl Leases {
    /// Takes in how the clients stand; whether anything is different now.
    pub fn heard(
        &mut self,
        clients: Vec<bus::DhcpClientState>,
        configured: &Plan,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        let spoken: Vec<String> = clients.iter().map(|one| one.interface.clone()).collect();
        for client in clients {
            let rebooting = client.state() == State::Rebooting;
            match client.lease {
                Some(lease) => changed |= self.put(client.interface, lease, now),
                // Whether it holds is being asked.
                None if rebooting => {}
                None => changed |= self.by_interface.remove(&client.interface).is_some(),
            }
        }
        let before = self.by_interface.len();
        self.by_interface.retain(|interface, _| {
            spoken.contains(interface) || configured.contains_key(&dhcp_client_key(interface))
        });
        changed || self.by_interface.len() != before
    }

    fn put(&mut self, interface: String, lease: bus::DhcpLease, now: Instant) -> bool {
        let over = now + Duration::from_secs(lease.expire_s.into()) + GRACE;
        let terms = bus::DhcpLease {
            duration_s: 0,
            renew_s: 0,
            rebind_s: 0,
            expire_s: 0,
            ..lease
        };
        let old = self.by_interface.get(&interface);
        let changed = old.is_none_or(|old| old.terms != terms);
        // Other terms are another lease: nobody keeps his place by what he lent first.
        let age = match old {
            Some(old) if !changed => old.age,
            _ => {
                self.taken += 1;
                self.taken
            }
        };
        self.by_interface
            .insert(interface, Lease { terms, over, age });
        changed
    }

    /// Forgets what is over; whether anything was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.by_interface.len();
        self.by_interface.retain(|_, lease| lease.over > now);
        self.by_interface.len() != before
    }

    /// When the next one is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.by_interface.values().map(|lease| lease.over).min()
    }

    /// The values of all leases beside what is configured and what was learnt.
    pub fn plan(&mut self, configured: &Plan, learnt: &Plan) -> Plan {
        let mut leases: Vec<(&String, &Lease)> = self.by_interface.iter().collect();
        leases.sort_by_key(|(_, lease)| lease.age);
        let leases = leases.iter();
        let leases = leases.map(|(interface, lease)| (interface.as_str(), &lease.terms));
        let (values, refused) = planning::plan(leases, configured, learnt);
        for (interface, refusal) in &refused {
            if self.refused.get(interface) != Some(refusal) {
                let Refusal { network, by } = refusal;
                tracing::error!(interface, %network, %by, "the lease is not used: its network is taken");
            }
        }
        self.refused = refused;
        values
    }
}

#[cfg(test)]
mod tests;
