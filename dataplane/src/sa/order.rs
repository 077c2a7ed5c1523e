//! Which policy comes first where policies alone decide (`if_id` 0; RFC 4301 section 4.4.1).
//!
//! ```text
//!   1 .. 65,535   configured policies, by their priority
//!   1 << 24       charon's that let packets through
//!   2 << 24       charon's with an SA, and its traps: the narrower selector first, then an SA before a trap
//!   3 << 24       charon's that drop while it reconnects
//!   u32::MAX      guards: what the configuration wants protected, whether charon is there or not
//! ```
//!
//! A narrow trap comes before a wide SA: what has a peer of its own waits for it and does not go to another.

use culvert_net::{AddressRange, Selector};

use super::policy::PolicyAction;

/// Of a guard: behind everything else.
const GUARD: u32 = u32::MAX;

/// A policy that the configuration holds, for packets of both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfiguredPolicy {
    /// Packets that go out; those that come in have source and destination exchanged.
    pub selector: Selector,
    /// What is done with them.
    pub action: PolicyAction,
    /// Lower comes first; 1 to 65,535.
    pub priority: u16,
}

/// What is to be protected by SAs that charon negotiates, from before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Packets that go out.
    pub selector: Selector,
}

/// What the configuration holds under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configured {
    /// Policies that stand for themselves.
    Policies(Vec<ConfiguredPolicy>),
    /// Those that wait for charon's.
    Guards(Vec<Guard>),
}

impl Configured {
    /// How many they are.
    pub fn count(&self) -> usize {
        match self {
            Self::Policies(policies) => policies.len(),
            Self::Guards(guards) => guards.len(),
        }
    }

    /// Selector, action and place of each.
    pub(super) fn all(&self) -> Vec<(Selector, PolicyAction, u32)> {
        match self {
            Self::Policies(policies) => policies
                .iter()
                .map(|policy| (policy.selector, policy.action, policy.priority.into()))
                .collect(),
            Self::Guards(guards) => guards
                .iter()
                .map(|guard| (guard.selector, PolicyAction::Protect, GUARD))
                .collect(),
        }
    }
}

/// The place of one of charon's policies among all of `if_id` 0; of the others, `class` itself.
pub(super) fn negotiated(if_id: u32, class: u32, selector: &Selector) -> u32 {
    if if_id != 0 {
        return class;
    }
    let group = match class {
        0 => 1,
        1 | 2 => 2,
        _ => 3,
    };
    group << 24 | width(selector) << 2 | class.min(3)
}

/// Grows with the packets that a selector takes: addresses count most, then the protocol, then ports.
fn width(selector: &Selector) -> u32 {
    let ports = [selector.source_ports, selector.destination_ports];
    let any_ports = ports.iter().filter(|ports| ports.is_any()).count() as u32;
    let addresses = bits(&selector.source) + bits(&selector.destination);
    addresses << 3 | u32::from(selector.protocol.is_none()) << 2 | any_ports
}

/// Bits that differ within a range.
fn bits(range: &AddressRange) -> u32 {
    match range {
        AddressRange::V4 { first, last } => {
            u32::BITS - (last.to_bits() - first.to_bits()).leading_zeros()
        }
        AddressRange::V6 { first, last } => {
            u128::BITS - (last.to_bits() - first.to_bits()).leading_zeros()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{IpPrefix, PortRange, Protocol};

    use super::*;

    fn between(from: &str, to: &str) -> Selector {
        let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
        Selector::between(prefix(from), prefix(to))
    }

    #[test]
    fn narrow_comes_before_wide_and_an_sa_before_its_trap() {
        let wide = between("10.0.0.0/8", "0.0.0.0/0");
        let narrow = between("10.1.0.0/16", "10.2.0.0/16");
        let one_protocol = Selector {
            protocol: Some(Protocol::TCP),
            ..narrow
        };
        let one_port = Selector {
            destination_ports: PortRange::one(443),
            ..one_protocol
        };
        let order = [
            negotiated(0, 0, &wide),
            negotiated(0, 1, &one_port),
            negotiated(0, 1, &one_protocol),
            negotiated(0, 1, &narrow),
            negotiated(0, 2, &narrow),
            negotiated(0, 1, &wide),
            negotiated(0, 2, &wide),
            negotiated(0, 1, &between("::/0", "::/0")),
            negotiated(0, 3, &one_port),
            GUARD,
        ];
        assert!(order.is_sorted_by(|one, next| one < next), "{order:?}");
        assert!(order[0] > u32::from(u16::MAX));
        assert_eq!(negotiated(7, 2, &wide), 2);
    }
}
