//! Policies: a stack for each selector pair, and what of it the dataplane is to hold.
//!
//! While an SA is rekeyed charon installs the policies of the new one before it removes those of the old one: the same
//! selectors, another SPI. So policies are kept as stacks, told apart by SPI, and the newest that protects wins. A
//! responder installs the new outbound *SA* long before the new outbound *policy*: the policy decides.
//!
//! ```text
//!   slot (out, if_id 7, 10.1/24 -> 10.2/24)          the dataplane holds
//!     protect spi c1  <- newest                 ->   key spi c1: protect    (the newest key wins)
//!     protect spi b7                            ->   key spi b7: protect
//!     trap            (class 2)                 ->   key spi 0:  the best of what has no SPI, here the trap
//!     drop            (class 3, temporary)
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_model::bus::{self, policy::Action, policy_key};
use culvert_plugin_wire as wire;

use crate::selector::{Selector, SelectorError};

/// A policy that the bridge cannot take as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The message lacks what a policy must have.
    #[error("a policy without {0}")]
    Missing(&'static str),
    /// A selector that is none.
    #[error("a policy with {0}")]
    Selector(#[from] SelectorError),
    /// An address that is none.
    #[error("a policy with {0}")]
    Address(#[from] wire::AddressError),
    /// charon deletes what it never added.
    #[error("no such policy")]
    NotFound,
}

/// Direction of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyDirection {
    /// To the box.
    In,
    /// From the box or through it, towards the peer.
    Out,
    /// Through the box, from the peer.
    Forward,
}

/// What a stack of policies is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// Direction.
    pub direction: PolicyDirection,
    /// Tunnel interface; 0: none.
    pub if_id: u32,
    /// Source of the packets.
    pub source: Selector,
    /// Destination of the packets.
    pub destination: Selector,
}

impl Slot {
    /// A slot as the dataplane names it: a packet has one protocol, so a protocol of one half holds for both; ports 0 to
    /// 0 are any.
    pub fn new(
        direction: PolicyDirection,
        if_id: u32,
        mut source: Selector,
        mut destination: Selector,
    ) -> Self {
        if source.protocol == 0 {
            source.protocol = destination.protocol;
        } else if destination.protocol == 0 {
            destination.protocol = source.protocol;
        }
        for half in [&mut source, &mut destination] {
            if half.ports == (0, 0) {
                half.ports = (0, u16::MAX);
            }
        }
        Self {
            direction,
            if_id,
            source,
            destination,
        }
    }
}

/// What the dataplane tells policies apart by: a slot and an SPI (0: no SA of its own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Which stack.
    pub slot: Slot,
    /// Which SA; 0: none.
    pub spi: u32,
}

impl Slot {
    /// Every key that there can be of it.
    pub fn keys(self) -> std::ops::RangeInclusive<Key> {
        let of = |spi| Key { slot: self, spi };
        of(0)..=of(u32::MAX)
    }
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Protect by an SA.
    Protect,
    /// Let through in the clear.
    Bypass,
    /// Discard.
    Discard,
}

/// One policy of charon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What to do.
    pub verdict: Verdict,
    /// charon's class (0 pass, 1 of an SA, 2 trap, 3 fallback); the lower one wins.
    pub class: u32,
    /// The SA that protects; 0: a trap.
    pub spi: u32,
    /// Ties it to SAs.
    pub reqid: u32,
    /// Outer source of its SAs.
    pub tunnel_source: Option<IpAddr>,
    /// Outer destination of its SAs.
    pub tunnel_destination: Option<IpAddr>,
}

impl Rule {
    /// The SPI under which the dataplane holds it: only what protects by an SA has one of its own.
    pub fn key_spi(&self) -> u32 {
        if self.verdict == Verdict::Protect {
            self.spi
        } else {
            0
        }
    }

    fn same_as(&self, other: &Self) -> bool {
        (self.verdict, self.class, self.spi) == (other.verdict, other.class, other.spi)
    }
}

/// Reads a policy of charon's.
pub fn from_wire(
    id: Option<&wire::PolicyId>,
    manage: Option<&wire::ManagePolicy>,
) -> Result<(Slot, Rule), PolicyError> {
    let id = id.ok_or(PolicyError::Missing("a name"))?;
    let manage = manage.ok_or(PolicyError::Missing("content"))?;
    let selector = |selector: &Option<wire::Selector>, which| {
        let selector = selector.as_ref().ok_or(PolicyError::Missing(which))?;
        Ok::<_, PolicyError>(Selector::from_wire(selector)?)
    };
    let direction = match id.direction() {
        wire::PolicyDirection::In => PolicyDirection::In,
        wire::PolicyDirection::Out => PolicyDirection::Out,
        wire::PolicyDirection::Forward => PolicyDirection::Forward,
    };
    let slot = Slot::new(
        direction,
        id.if_id,
        selector(&id.src_ts, "a source")?,
        selector(&id.dst_ts, "a destination")?,
    );
    let sa = manage.sa.unwrap_or_default();
    let rule = Rule {
        verdict: match manage.policy_type() {
            wire::PolicyType::Ipsec => Verdict::Protect,
            wire::PolicyType::Pass => Verdict::Bypass,
            // What is not understood does not let packets out.
            wire::PolicyType::Drop | wire::PolicyType::Unspecified => Verdict::Discard,
        },
        // An unknown class reads as the first one: compare what was sent, not what it decodes to.
        class: u32::try_from(manage.priority).unwrap_or(u32::MAX),
        spi: sa.esp.filter(|esp| esp.used).map_or(0, |esp| esp.spi),
        reqid: sa.reqid,
        tunnel_source: manage.src.as_ref().map(wire::Host::ip).transpose()?,
        tunnel_destination: manage.dst.as_ref().map(wire::Host::ip).transpose()?,
    };
    Ok((slot, rule))
}

/// As the dataplane reads it.
pub fn to_bus(key: Key, rule: &Rule) -> bus::Policy {
    bus::Policy {
        key: Some(key_to_bus(key)),
        action: match rule.verdict {
            Verdict::Protect => Action::Protect,
            Verdict::Bypass => Action::Bypass,
            Verdict::Discard => Action::Discard,
        }
        .into(),
        priority: rule.class,
        reqid: rule.reqid,
        tunnel_source: rule.tunnel_source.map(Into::into),
        tunnel_destination: rule.tunnel_destination.map(Into::into),
    }
}

/// As the dataplane names it.
pub fn key_to_bus(key: Key) -> bus::PolicyKey {
    bus::PolicyKey {
        direction: match key.slot.direction {
            PolicyDirection::In => policy_key::Direction::In,
            PolicyDirection::Out => policy_key::Direction::Out,
            PolicyDirection::Forward => policy_key::Direction::Forward,
        }
        .into(),
        if_id: key.slot.if_id,
        source: Some(key.slot.source.to_bus()),
        destination: Some(key.slot.destination.to_bus()),
        spi: key.spi,
    }
}

/// Reads a policy of a dump.
pub fn from_bus(policy: &bus::Policy) -> Result<(Key, Rule), PolicyError> {
    let key = policy.key.as_ref().ok_or(PolicyError::Missing("a key"))?;
    let selector = |selector: &Option<culvert_model::types::Selector>, which| {
        let selector = selector.as_ref().ok_or(PolicyError::Missing(which))?;
        Ok::<_, PolicyError>(Selector::from_bus(selector)?)
    };
    let direction = match key.direction() {
        policy_key::Direction::In => PolicyDirection::In,
        policy_key::Direction::Out => PolicyDirection::Out,
        policy_key::Direction::Forward => PolicyDirection::Forward,
        policy_key::Direction::Unspecified => return Err(PolicyError::Missing("a direction")),
    };
    let slot = Slot::new(
        direction,
        key.if_id,
        selector(&key.source, "a source")?,
        selector(&key.destination, "a destination")?,
    );
    let address = |address: &Option<culvert_model::types::IpAddress>| {
        address
            .as_ref()
            .and_then(|address| IpAddr::try_from(address).ok())
    };
    let rule = Rule {
        verdict: match policy.action() {
            Action::Protect => Verdict::Protect,
            Action::Bypass => Verdict::Bypass,
            Action::Discard | Action::Unspecified => Verdict::Discard,
        },
        class: policy.priority,
        spi: key.spi,
        reqid: policy.reqid,
        tunnel_source: address(&policy.tunnel_source),
        tunnel_destination: address(&policy.tunnel_destination),
    };
    Ok((Key { slot, spi: key.spi }, rule))
}

/// A rule in its stack.
#[derive(Debug, Clone)]
struct Stacked {
    rule: Rule,
    /// Of a charon that is gone.
    orphan: bool,
}

/// All stacks.
#[derive(Debug, Default)]
pub struct Stacks {
    slots: BTreeMap<Slot, Vec<Stacked>>,
}

impl Stacks {
    /// charon adds a policy, on top of its stack. One of the same kind that a dead charon left is replaced.
    pub fn add(&mut self, slot: Slot, rule: Rule) -> Key {
        let stack = self.slots.entry(slot).or_default();
        stack.retain(|other| !(other.orphan && other.rule.same_as(&rule)));
        stack.push(Stacked {
            rule,
            orphan: false,
        });
        Key {
            slot,
            spi: rule.key_spi(),
        }
    }

    /// charon removes a policy: the newest of the same kind.
    pub fn remove(&mut self, slot: Slot, rule: &Rule) -> Result<Key, PolicyError> {
        let stack = self.slots.get_mut(&slot).ok_or(PolicyError::NotFound)?;
        let at = stack
            .iter()
            .rposition(|other| other.rule.same_as(rule))
            .ok_or(PolicyError::NotFound)?;
        let removed = stack.remove(at);
        if stack.is_empty() {
            self.slots.remove(&slot);
        }
        Ok(Key {
            slot,
            spi: removed.rule.key_spi(),
        })
    }

    /// What the dataplane is to hold under this key.
    pub fn wanted(&self, key: Key) -> Option<Rule> {
        let stack = self.slots.get(&key.slot)?;
        let of_key = stack
            .iter()
            .filter(|stacked| stacked.rule.key_spi() == key.spi);
        // The lowest class wins, among equals the newest: `min_by_key` keeps the first of equals, so newest first.
        of_key
            .rev()
            .min_by_key(|stacked| stacked.rule.class)
            .map(|stacked| stacked.rule)
    }

    /// Every key something is wanted under, oldest first in each stack.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for (slot, stack) in &self.slots {
            let of_slot = keys.len();
            for stacked in stack {
                let spi = stacked.rule.key_spi();
                let known = keys.iter().skip(of_slot).any(|key| key.spi == spi);
                if !known {
                    keys.push(Key { slot: *slot, spi });
                }
            }
        }
        keys
    }

    /// The charon that added all of it is gone.
    pub fn orphan_all(&mut self) {
        for stacked in self.slots.values_mut().flatten() {
            stacked.orphan = true;
        }
    }

    /// Takes away what a charon that is gone left. Gives the keys that changed.
    pub fn drop_orphans(&mut self) -> Vec<Key> {
        self.drop_if(|stacked| stacked.orphan)
    }

    /// Takes away what protects by SAs that are nowhere: `gone` tells by SPI. Gives the keys that changed.
    pub fn drop_protected_by(&mut self, gone: impl Fn(u32) -> bool) -> Vec<Key> {
        self.drop_if(|stacked| {
            let spi = stacked.rule.key_spi();
            spi != 0 && gone(spi)
        })
    }

    fn drop_if(&mut self, which: impl Fn(&Stacked) -> bool) -> Vec<Key> {
        let mut changed = Vec::new();
        for (slot, stack) in &mut self.slots {
            stack.retain(|stacked| {
                let goes = which(stacked);
                if goes {
                    changed.push(Key {
                        slot: *slot,
                        spi: stacked.rule.key_spi(),
                    });
                }
                !goes
            });
        }
        self.slots.retain(|_, stack| !stack.is_empty());
        changed
    }

    /// Takes everything away. Gives the keys that were held.
    pub fn clear(&mut self) -> Vec<Key> {
        let keys = self.keys();
        self.slots.clear();
        keys
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn slot() -> Slot {
        let selector = |last: &str| Selector {
            first: "10.0.0.0".parse().unwrap(),
            last: last.parse().unwrap(),
            protocol: 0,
            ports: (0, 65535),
        };
        Slot {
            direction: PolicyDirection::Out,
            if_id: 7,
            source: selector("10.0.0.255"),
            destination: selector("10.0.255.255"),
        }
    }

    fn rule(verdict: Verdict, class: u32, spi: u32) -> Rule {
        Rule {
            verdict,
            class,
            spi,
            reqid: 1,
            tunnel_source: None,
            tunnel_destination: Some("192.0.2.2".parse().unwrap()),
        }
    }

    #[test]
    fn a_rekey_holds_both_policies_until_the_old_one_goes() {
        let mut stacks = Stacks::default();
        let old = stacks.add(slot(), rule(Verdict::Protect, 1, 0xb7));
        let new = stacks.add(slot(), rule(Verdict::Protect, 1, 0xc1));
        assert_eq!(stacks.keys(), [old, new]);
        assert_eq!(
            stacks.remove(slot(), &rule(Verdict::Protect, 1, 0xb7)),
            Ok(old)
        );
        assert_eq!(stacks.keys(), [new]);
        assert_eq!(stacks.wanted(old), None);
        assert_eq!(stacks.wanted(new).unwrap().spi, 0xc1);
    }

    #[test]
    fn trap_and_temporary_drop_share_the_key_without_an_spi() {
        let mut stacks = Stacks::default();
        // charon names the SA in the temporary drop, too.
        let drop = stacks.add(slot(), rule(Verdict::Discard, 3, 0xc1));
        assert_eq!(drop.spi, 0);
        assert_eq!(stacks.wanted(drop).unwrap().verdict, Verdict::Discard);
        let trap = stacks.add(slot(), rule(Verdict::Protect, 2, 0));
        assert_eq!(trap, drop);
        assert_eq!(stacks.wanted(drop).unwrap().class, 2);
        stacks
            .remove(slot(), &rule(Verdict::Discard, 3, 0xc1))
            .unwrap();
        assert_eq!(stacks.wanted(drop).unwrap().class, 2);
        let pass = stacks.add(slot(), rule(Verdict::Bypass, 0, 0));
        assert_eq!(stacks.wanted(pass).unwrap().verdict, Verdict::Bypass);
        assert_eq!(
            stacks.remove(slot(), &rule(Verdict::Discard, 3, 0xc1)),
            Err(PolicyError::NotFound)
        );
    }

    #[test]
    fn a_policy_added_twice_goes_with_the_second_removal() {
        let mut stacks = Stacks::default();
        let one = rule(Verdict::Protect, 1, 0xc1);
        let key = stacks.add(slot(), one);
        stacks.add(slot(), one);
        stacks.remove(slot(), &one).unwrap();
        assert!(stacks.wanted(key).is_some());
        stacks.remove(slot(), &one).unwrap();
        assert!(stacks.wanted(key).is_none() && stacks.keys().is_empty());
    }

    #[test]
    fn a_new_charon_takes_over_the_trap_of_the_old_one() {
        let mut stacks = Stacks::default();
        let trap = rule(Verdict::Protect, 2, 0);
        let key = stacks.add(slot(), trap);
        let old = stacks.add(slot(), rule(Verdict::Protect, 1, 0xb7));
        stacks.orphan_all();
        stacks.add(slot(), trap);
        assert_eq!(stacks.drop_orphans(), [old]);
        assert!(stacks.wanted(key).is_some());
    }

    #[test]
    fn a_protocol_of_one_half_holds_for_both() {
        let (mut source, destination) = (slot().source, slot().destination);
        (source.protocol, source.ports) = (6, (0, 0));
        let slot = Slot::new(PolicyDirection::Out, 7, source, destination);
        assert_eq!((slot.source.protocol, slot.destination.protocol), (6, 6));
        assert_eq!(slot.source.ports, (0, 65535));
        let again = Slot::new(PolicyDirection::Out, 7, slot.source, slot.destination);
        assert_eq!(slot, again);
    }

    #[test]
    fn a_policy_survives_the_dump() {
        let rule = rule(Verdict::Protect, 1, 0xc1);
        let key = Key {
            slot: slot(),
            spi: 0xc1,
        };
        assert_eq!(from_bus(&to_bus(key, &rule)), Ok((key, rule)));
    }
}
