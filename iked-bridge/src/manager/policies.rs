//! Keeping the dataplane's policies equal to what the stacks want.
//!
//! For each key one request at most is under way; when it ends, what is wanted then is compared with what is held. So
//! two calls that touch the same key can never overtake each other, and a lost answer is nothing special.

use culvert_model::bus::{self, refusal};
use culvert_plugin_wire as wire;
use wire::{Answer, Status};

use super::orphans::{FIRST_MS, SENDING_MS};
use super::{Manager, Outcome, Purpose, Request, Timer};
use crate::policy::{self, Key, PolicyDirection, Rule, Slot};

/// What the dataplane holds under one key.
#[derive(Default)]
pub(super) struct Held {
    pub(super) rule: Option<Rule>,
    /// What it will hold when the request under way is done.
    pub(super) asked: Option<Asked>,
    /// Calls that are answered once it holds what is wanted.
    pub(super) waiting: Vec<u64>,
}

/// An outbound policy that charon removed a moment ago.
pub(super) struct Lingering {
    rule: Rule,
    /// It is still preferred to what was added since.
    first: bool,
}

/// A request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Add(Rule),
    Delete,
}

impl Asked {
    fn rule(self) -> Option<Rule> {
        match self {
            Self::Add(rule) => Some(rule),
            Self::Delete => None,
        }
    }
}

impl Manager {
    /// The stack of this key changed, by that call.
    pub(super) fn want_policy(&mut self, now_ms: u64, key: Key, call: Option<u64>) {
        self.policies.entry(key).or_default().waiting.extend(call);
        self.settle_policy(now_ms, key);
    }

    /// charon removes a policy. An outbound one that protects stays for a moment, see [`super::orphans`].
    pub(super) fn del_policy(&mut self, now_ms: u64, id: u64, slot: Slot, rule: &Rule) {
        let before = self.stacks.wanted(Key {
            slot,
            spi: rule.key_spi(),
        });
        let key = match self.stacks.remove(slot, rule) {
            Ok(key) => key,
            Err(error) => return self.fail(id, Status::NotFound, &error),
        };
        if slot.direction == PolicyDirection::Out
            && key.spi != 0
            && self.stacks.wanted(key).is_none()
            && self
                .policies
                .get(&key)
                .is_some_and(|held| held.rule.is_some())
            && let Some(before) = before
        {
            let lingering = Lingering {
                rule: before,
                first: true,
            };
            self.lingering.insert(key, lingering);
            self.arm(now_ms + FIRST_MS, Timer::Successors(key));
            self.arm(now_ms + SENDING_MS, Timer::Policy(key));
        }
        self.want_policy(now_ms, key, Some(id));
    }

    /// What was added after a removed outbound policy takes over.
    pub(super) fn successors_take_over(&mut self, now_ms: u64, key: Key) {
        if let Some(lingering) = self.lingering.get_mut(&key) {
            lingering.first = false;
            let of_slot: Vec<Key> = self
                .policies
                .range(key.slot.keys())
                .map(|(other, _)| *other)
                .collect();
            for other in of_slot {
                self.settle_policy(now_ms, other);
            }
        }
    }

    /// A removed outbound policy has stayed long enough.
    pub(super) fn policy_is_over(&mut self, now_ms: u64, key: Key) {
        if self.lingering.remove(&key).is_some() {
            self.want_policy(now_ms, key, None);
        }
    }

    /// Whether a policy that was removed a moment ago goes first. A responder has its end of a CHILD SA before the
    /// initiator has the other: what it sends on it at once is lost.
    fn waits(&self, key: Key) -> bool {
        key.spi != 0
            && self
                .lingering
                .range(key.slot.keys())
                .any(|(other, lingering)| lingering.first && *other != key)
    }

    pub(super) fn settle_policy(&mut self, now_ms: u64, key: Key) {
        let wanted = self
            .stacks
            .wanted(key)
            .or_else(|| self.lingering.get(&key).map(|lingering| lingering.rule));
        let waits = wanted.is_some() && self.waits(key);
        let Some(held) = self.policies.get_mut(&key) else {
            return;
        };
        if held.asked.is_some() {
            return;
        }
        if held.rule == wanted {
            let waiting = std::mem::take(&mut held.waiting);
            if held.rule.is_none() {
                self.policies.remove(&key);
            } else {
                self.policy_is_held(now_ms, key);
            }
            for id in waiting {
                self.answer(id, Answer::done());
            }
            return;
        }
        if waits && held.rule.is_none() {
            // It comes within a moment, and nothing is without protection until then.
            for id in std::mem::take(&mut held.waiting) {
                self.answer(id, Answer::done());
            }
            return;
        }
        held.asked = Some(wanted.map_or(Asked::Delete, Asked::Add));
        let request = match wanted {
            Some(rule) => Request::AddPolicy(bus::AddPolicyRequest {
                policy: Some(policy::to_bus(key, &rule)),
            }),
            None => Request::DelPolicy(bus::DelPolicyRequest {
                key: Some(policy::key_to_bus(key)),
            }),
        };
        self.ask(Purpose::Policy { key }, request, None, None);
    }

    pub(super) fn policy_ended(
        &mut self,
        now_ms: u64,
        key: Key,
        incarnation: Option<u64>,
        outcome: Outcome,
    ) {
        let Some(held) = self.policies.get_mut(&key) else {
            return;
        };
        let Some(asked) = held.asked.take() else {
            return;
        };
        match outcome {
            Outcome::Done(_) if incarnation == self.incarnation => held.rule = asked.rule(),
            // What was to go is not there.
            Outcome::Refused {
                code: refusal::Code::NotFound,
                ..
            } if asked == Asked::Delete => held.rule = None,
            Outcome::Refused { message, .. } => {
                tracing::warn!(message, "the dataplane refused a policy");
                // Held as asked, so that it is not tried for ever; the calls learn of it.
                held.rule = asked.rule();
                for id in std::mem::take(&mut held.waiting) {
                    self.fail(id, Status::Failed, &message);
                }
            }
            Outcome::Done(_) | Outcome::Restarted => held.rule = None,
            // Not given up.
            Outcome::NoAnswer => {}
        }
        self.settle_policy(now_ms, key);
    }

    /// A new dataplane holds none.
    pub(super) fn policies_are_gone(&mut self, now_ms: u64) {
        // Their SAs are gone.
        self.lingering.clear();
        for held in self.policies.values_mut() {
            if held.asked.is_none() {
                held.rule = None;
            }
        }
        // In the order of the stacks: the newest is to be the newest there, too.
        for key in self.stacks.keys() {
            self.policies.entry(key).or_default();
            self.settle_policy(now_ms, key);
        }
        let idle: Vec<Key> = self.policies.keys().copied().collect();
        for key in idle {
            self.settle_policy(now_ms, key);
        }
    }
}
