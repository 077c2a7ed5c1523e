//! Which packets of a tunnel get which SA (RFC 4301 section 4.4.1).
//!
//! In a rekey old and new policy stand side by side with the same selector: the newest one wins, and names the SA by
//! its SPI. The outbound SA of a responder is there before its policy is: it is used only when the policy says so.

use culvert_net::{AddressRange, Flow, Selector};

/// What a policy does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyAction {
    /// It is encrypted by the policy's SA.
    Protect,
    /// It would leave as it is; a tunnel never lets it.
    Bypass,
    /// It is dropped.
    Discard,
}

/// One outbound policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutPolicy {
    /// Number of the policy, never used again: what events name it by.
    pub number: u32,
    /// Which packets.
    pub selector: Selector,
    /// What is done with them.
    pub action: PolicyAction,
    /// Lower comes first.
    pub priority: u32,
    /// SPI of the SA; 0: none yet, ask for one.
    pub spi: u32,
    /// Index of that SA, while it exists.
    pub sa: Option<u32>,
    /// charon's number for policy and SA together.
    pub reqid: u32,
}

/// The outbound policies of one `if_id`, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Vec<OutPolicy>,
    /// The first policies that cover every IPv4, every IPv6 packet: no packet need be parsed for them.
    all_v4: bool,
    all_v6: bool,
}

/// What was chosen for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'p> {
    /// Encrypt by the SA of this index.
    Sa(u32),
    /// Ask the peer for an SA.
    Acquire(&'p OutPolicy),
    /// Drop: a policy says so.
    Discard,
    /// Drop: no policy covers it.
    None,
}

impl PolicySet {
    /// Puts a policy where its priority and age say.
    pub fn insert(&mut self, policy: OutPolicy) {
        // Newest first among equals; one without SPI (a trap) after those that have an SA.
        let rank = |policy: &OutPolicy| {
            (
                policy.priority,
                policy.spi == 0,
                std::cmp::Reverse(policy.number),
            )
        };
        let place = self
            .policies
            .partition_point(|other| rank(other) < rank(&policy));
        self.policies.insert(place, policy);
        self.summarise();
    }

    /// Takes away the newest policy with this selector, SPI and action.
    pub fn remove(&mut self, selector: &Selector, spi: u32) -> Option<OutPolicy> {
        let place = self
            .policies
            .iter()
            .position(|policy| policy.selector == *selector && policy.spi == spi)?;
        let policy = self.policies.remove(place);
        self.summarise();
        Some(policy)
    }

    /// Tells every policy with this SPI where its SA is now.
    pub fn resolve(&mut self, spi: u32, sa: Option<u32>) -> bool {
        let mut changed = false;
        for policy in self
            .policies
            .iter_mut()
            .filter(|policy| policy.spi == spi && policy.sa != sa)
        {
            policy.sa = sa;
            changed = true;
        }
        changed
    }

    /// In the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &OutPolicy> {
        self.policies.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What is done with a packet. `flow` is read only if a policy looks at more than the family.
    #[inline(always)]
    pub fn choose(&self, v6: bool, flow: impl FnOnce() -> Option<Flow>) -> Choice<'_> {
        if if v6 { self.all_v6 } else { self.all_v4 } {
            let policy = self
                .policies
                .iter()
                .find(|policy| covers_family(&policy.selector, v6));
            return policy.map_or(Choice::None, choice);
        }
        let Some(flow) = flow() else {
            return Choice::None;
        };
        self.policies
            .iter()
            .find(|policy| policy.selector.matches(&flow))
            .map_or(Choice::None, choice)
    }

    fn summarise(&mut self) {
        let first = |v6: bool| {
            self.policies
                .iter()
                .find(|policy| matches!(policy.selector.source, AddressRange::V6 { .. }) == v6)
                .is_some_and(|policy| covers_family(&policy.selector, v6))
        };
        (self.all_v4, self.all_v6) = (first(false), first(true));
    }
}

#[inline(always)]
fn choice(policy: &OutPolicy) -> Choice<'_> {
    match (policy.action, policy.sa) {
        (PolicyAction::Protect, Some(sa)) => Choice::Sa(sa),
        (PolicyAction::Protect, None) => Choice::Acquire(policy),
        (PolicyAction::Discard | PolicyAction::Bypass, _) => Choice::Discard,
    }
}

/// The selector takes every packet of a family.
pub(super) fn covers_family(selector: &Selector, v6: bool) -> bool {
    let all = if v6 {
        AddressRange::ALL_V6
    } else {
        AddressRange::ALL_V4
    };
    selector.source == all
        && selector.destination == all
        && selector.protocol.is_none()
        && selector.source_ports.is_any()
        && selector.destination_ports.is_any()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_net::{Addresses, IpPrefix, PortRange, Protocol};

    use super::*;

    fn any() -> Selector {
        Selector {
            source: AddressRange::ALL_V4,
            destination: AddressRange::ALL_V4,
            protocol: None,
            source_ports: PortRange::ANY,
            destination_ports: PortRange::ANY,
        }
    }

    fn policy(number: u32, selector: Selector, spi: u32, sa: Option<u32>) -> OutPolicy {
        OutPolicy {
            number,
            selector,
            action: PolicyAction::Protect,
            priority: 1,
            spi,
            sa,
            reqid: 1,
        }
    }

    fn flow(source: [u8; 4], destination: [u8; 4]) -> Flow {
        Flow {
            addresses: Addresses::V4 {
                source: source.into(),
                destination: destination.into(),
            },
            protocol: Protocol::UDP,
            ports: Some((1000, 2000)),
        }
    }

    #[test]
    fn the_newest_of_a_rekey_wins_and_the_old_one_comes_back() {
        let mut set = PolicySet::default();
        set.insert(policy(1, any(), 0x1000, Some(10)));
        set.insert(policy(2, any(), 0x2000, Some(20)));
        assert_eq!(set.choose(false, || None), Choice::Sa(20));
        assert_eq!(set.choose(true, || None), Choice::None);
        set.remove(&any(), 0x2000).unwrap();
        assert_eq!(set.choose(false, || None), Choice::Sa(10));
    }

    #[test]
    fn a_trap_stands_back_and_asks() {
        let mut set = PolicySet::default();
        set.insert(policy(1, any(), 0x1000, Some(10)));
        set.insert(OutPolicy {
            priority: 2,
            ..policy(2, any(), 0, None)
        });
        assert_eq!(set.choose(false, || None), Choice::Sa(10));
        set.remove(&any(), 0x1000).unwrap();
        assert!(
            matches!(set.choose(false, || None), Choice::Acquire(policy) if policy.number == 2)
        );
    }

    #[test]
    fn selectors_narrower_than_a_family_are_looked_at() {
        let narrow = Selector::between(
            IpPrefix::new([10, 1, 0, 0].into(), 24).unwrap(),
            IpPrefix::new([10, 2, 0, 0].into(), 24).unwrap(),
        );
        let mut set = PolicySet::default();
        set.insert(policy(1, any(), 0x1000, Some(10)));
        set.insert(policy(2, narrow, 0x2000, Some(20)));
        assert_eq!(
            set.choose(false, || Some(flow([10, 1, 0, 9], [10, 2, 0, 9]))),
            Choice::Sa(20)
        );
        assert_eq!(
            set.choose(false, || Some(flow([10, 9, 0, 9], [10, 2, 0, 9]))),
            Choice::Sa(10)
        );
        assert_eq!(set.choose(false, || None), Choice::None);
        set.insert(OutPolicy {
            action: PolicyAction::Discard,
            priority: 0,
            ..policy(3, narrow, 0, None)
        });
        assert_eq!(
            set.choose(false, || Some(flow([10, 1, 0, 9], [10, 2, 0, 9]))),
            Choice::Discard
        );
    }
}
