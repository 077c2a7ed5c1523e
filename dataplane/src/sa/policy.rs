//! Which packets of a tunnel get which SA (RFC 4301 section 4.4.1).
//!
//! In a rekey old and new policy stand side by side with the same selector: the newest one wins, and names the SA by
//! its SPI. The outbound SA of a responder is there before its policy is: it is used only when the policy says so.

use std::cmp::Reverse;
use std::sync::Arc;

use culvert_net::{AddressRange, Flow, PortRange, Selector};

use super::classifier::{Classifier, Rank, Selects};

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

/// The outbound policies of one `if_id`; a clone shares everything.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    policies: Classifier<OutPolicy>,
    /// The first policies of IPv4 and of IPv6, if they cover every packet: no packet need be parsed for them.
    all_v4: Option<Arc<OutPolicy>>,
    all_v6: Option<Arc<OutPolicy>>,
    /// Those that look at ports and let nothing through, as if they did not look at them: a packet that does not show its
    /// ports may be one of theirs.
    of_ports: Classifier<OutPolicy>,
    /// How many look at ports.
    about_ports: usize,
}

impl Selects for OutPolicy {
    fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Newest first among equals; one without SPI (a trap) after those that have an SA.
    fn rank(&self) -> Rank {
        Rank {
            priority: self.priority,
            last: self.spi == 0,
            number: Reverse(self.number),
        }
    }
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
        let about_ports = policy.selector.looks_at_ports();
        self.about_ports += usize::from(about_ports);
        if policy.action != PolicyAction::Bypass && about_ports {
            self.of_ports.insert(&Arc::new(OutPolicy {
                selector: any_port(&policy.selector),
                ..policy.clone()
            }));
        }
        self.policies.insert(&Arc::new(policy));
        self.summarise();
    }

    /// Takes away the policy with this selector and number.
    pub fn remove(&mut self, selector: &Selector, number: u32) -> Option<Arc<OutPolicy>> {
        let is_it = |policy: &OutPolicy| policy.number == number;
        let policy = self.policies.remove(selector, is_it)?;
        self.about_ports -= usize::from(selector.looks_at_ports());
        self.of_ports.remove(&any_port(selector), is_it);
        self.summarise();
        Some(policy)
    }

    /// Tells the policies with this selector and SPI where their SA is now.
    pub fn resolve(&mut self, selector: &Selector, spi: u32, sa: Option<u32>) {
        let elsewhere = |policy: &OutPolicy| policy.spi == spi && policy.sa != sa;
        while let Some(policy) = self.policies.remove(selector, elsewhere) {
            let policy = OutPolicy {
                sa,
                ..OutPolicy::clone(&policy)
            };
            self.policies.insert(&Arc::new(policy));
        }
        self.summarise();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What is done with a packet of this family may depend on its ports.
    #[inline(always)]
    pub fn looks_at_ports(&self, v6: bool) -> bool {
        let all = if v6 { &self.all_v6 } else { &self.all_v4 };
        self.about_ports > 0 && all.is_none()
    }

    /// What is done with a packet. `flow` is read only if a policy looks at more than the family.
    #[inline(always)]
    pub fn choose(&self, v6: bool, flow: impl FnOnce() -> Option<Flow>) -> Choice<'_> {
        if let Some(policy) = if v6 { &self.all_v6 } else { &self.all_v4 } {
            return choice(policy);
        }
        flow()
            .and_then(|flow| self.policies.find(&flow))
            .map_or(Choice::None, |policy| choice(policy))
    }

    /// What is done with a packet that no route leads into a tunnel; `None`: no policy covers it. A packet that does not
    /// show its ports (a fragment that is not the first) is discarded if a policy may cover it that comes first.
    #[inline]
    pub fn action(&self, flow: &Flow) -> Option<PolicyAction> {
        let found = self.policies.find(flow);
        if flow.ports.is_none()
            && let Some(hidden) = self.of_ports.find(flow)
            && found.is_none_or(|found| hidden.rank() < found.rank())
        {
            return Some(PolicyAction::Discard);
        }
        found.map(|policy| policy.action)
    }

    fn summarise(&mut self) {
        let first = |v6: bool| {
            self.policies
                .first(v6)
                .filter(|policy| covers_family(&policy.selector, v6))
                .cloned()
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

/// The selector with every port.
fn any_port(selector: &Selector) -> Selector {
    Selector {
        source_ports: PortRange::ANY,
        destination_ports: PortRange::ANY,
        ..*selector
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
    use culvert_net::{Addresses, IpPrefix, Protocol};

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
        set.remove(&any(), 2).unwrap();
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
        set.remove(&any(), 1).unwrap();
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

    #[test]
    fn what_hides_its_ports_is_not_let_through_where_ports_decide() {
        let of_port = |port| Selector {
            protocol: Some(Protocol::UDP),
            destination_ports: PortRange::one(port),
            ..any()
        };
        let bypass = |number, priority, selector| OutPolicy {
            action: PolicyAction::Bypass,
            priority,
            ..policy(number, selector, 0, None)
        };
        let mut set = PolicySet::default();
        set.insert(policy(1, of_port(2000), 0x1000, Some(10)));
        set.insert(bypass(2, 5, any()));
        let first = flow([10, 1, 0, 1], [10, 2, 0, 1]);
        let later = Flow {
            ports: None,
            ..first
        };
        assert_eq!(set.action(&first), Some(PolicyAction::Protect));
        assert_eq!(set.action(&later), Some(PolicyAction::Discard));
        set.insert(bypass(3, 0, any()));
        assert_eq!(set.action(&later), Some(PolicyAction::Bypass));
        set.remove(&any(), 3).unwrap();
        set.remove(&of_port(2000), 1).unwrap();
        assert_eq!(set.action(&later), Some(PolicyAction::Bypass));
        set.remove(&any(), 2).unwrap();
        assert_eq!(set.action(&later), None);
        assert!(set.is_empty());
    }
}
