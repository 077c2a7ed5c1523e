//! The values of a gateway: what `culvert_model::plan` plans, ready for the scheduler.

use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::{self, Key, Part};

use crate::{Domain, Scheduler};

/// Keys, parts and values of a gateway.
#[derive(Debug, Clone, Copy)]
pub enum Gateway {}

/// The scheduler of a gateway.
pub type GatewayScheduler = Scheduler<Gateway>;

impl Domain for Gateway {
    type Key = Key;
    type Part = Part;
    type Value = bus::Value;

    fn same(planned: &bus::Value, held: &bus::Value) -> bool {
        plan::same(planned, held)
    }

    fn updates_in_place(held: &bus::Value, planned: &bus::Value) -> bool {
        plan::updates_in_place(held, planned)
    }

    /// Routes that others wrote into Linux, and what DHCP servers have lent.
    fn is_obtained(value: &bus::Value) -> bool {
        match &value.kind {
            Some(Kind::Route(route)) => route.learnt,
            Some(Kind::Address(address)) => address.obtained,
            Some(Kind::LinuxAddress(address)) => address.obtained,
            Some(Kind::LinuxRoute(route)) => route.obtained,
            Some(Kind::Resolver(resolver)) => resolver.obtained,
            _ => false,
        }
    }

    fn rank(key: &Key) -> u32 {
        const ORDER: [&str; 12] = [
            "vrf/",
            "interface/",
            "tunnel/",
            "address/",
            "route/",
            "linux/link/",
            "linux/address/",
            "linux/route/",
            "credential/",
            "connection/",
            "dhcp_client/",
            "forwarding",
        ];
        let place = ORDER
            .iter()
            .position(|kind| key.as_str().starts_with(kind))
            .unwrap_or(ORDER.len());
        place as u32
    }
}
