//! Making table, dataplane and charon agree again after one of them was away.
//!
//! ```text
//!   in the dataplane, not in charon    -> delete (after charon's list missed it twice)
//!   in charon, not in the dataplane    -> expire hard, charon renegotiates
//!   in the table, not in the dataplane -> the same
//! ```

use std::collections::{BTreeMap, BTreeSet};

use culvert_model::bus;

use super::calls::entries_of;
use super::policies::Held;
use super::{
    Action, CharonChild, Entry, Event, Expiry, Manager, Owner, Purpose, Request, State, Timer,
};
use crate::association::{SaName, Usage};
use crate::policy;

use super::orphans::CARRY_MS;
use culvert_model::bus::Direction;

/// An SA younger than this may belong to a CHILD SA that charon is still putting together and does not list yet; the
/// plugin holds calls for up to 10 s while the bridge is away.
const YOUNG_MS: u64 = 15_000;

/// charon moves CHILD SAs from one IKE SA to the next while it lists them: what a list lacks is looked for again.
const RECHECK_MS: u64 = 2_000;

impl Manager {
    pub(super) fn session_up(&mut self, now_ms: u64, epoch: u64, charon_started_ms: Option<u64>) {
        let known = self.epoch;
        self.session = true;
        self.epoch = Some(epoch);
        self.charon_started_ms = charon_started_ms;
        if known != Some(epoch) {
            self.forget_calls();
            if known.is_some() {
                tracing::info!(
                    sas = self.entries.len(),
                    "a new charon: SAs of the old one are orphans"
                );
                self.orphan_all(now_ms, self.session_lost_ms);
                // Its policies come anew; what is left of the old ones has to go even if their time passed before.
                self.arm(now_ms + CARRY_MS, Timer::OrphanPolicies);
            }
        }
        let names: Vec<SaName> = self.entries.keys().copied().collect();
        for name in names {
            self.report_expiry(now_ms, name);
        }
        self.reconcile(now_ms);
    }

    pub(super) fn session_down(&mut self, now_ms: u64) {
        self.session = false;
        self.reconciled = false;
        self.session_lost_ms = now_ms;
        self.arm(now_ms + CARRY_MS, Timer::Absent);
    }

    pub(super) fn list_charon(&mut self) {
        if self.session && self.adopted {
            self.actions.push_back(Action::ListCharon);
        }
    }

    /// Somebody is new: lists charon's SAs now, and again when CHILD SAs that are being put together now are in the list.
    pub(super) fn reconcile(&mut self, now_ms: u64) {
        self.reconciled = false;
        self.list_charon();
        self.arm(now_ms + RECHECK_MS, Timer::Recheck);
        self.arm(now_ms + YOUNG_MS, Timer::Recheck);
    }

    pub(super) fn snapshot(&mut self, now_ms: u64, dump: bus::DumpSasReply) {
        self.dataplane_is(now_ms, dump.incarnation);
        if self.adopted {
            for sa in &dump.sas {
                if let Some(usage) = &sa.usage {
                    self.sample(now_ms, usage);
                }
            }
            self.verify(now_ms);
        } else {
            if dump.policies.is_empty() {
                // A charon that outlived both bridge and dataplane does not install its traps again by itself.
                self.actions.push_back(Action::TrapsLost);
            }
            self.adopt(now_ms, dump);
            self.adopted = true;
            self.release_held(now_ms);
            self.reconcile(now_ms);
        }
    }

    /// A bridge that has just started takes over what its predecessor installed, with its timers.
    fn adopt(&mut self, now_ms: u64, dump: bus::DumpSasReply) {
        for dumped in dump.sas {
            let Some(sa) = dumped.sa else { continue };
            let (name, direction) = match SaName::from_bus(sa.key.as_ref()) {
                Ok(parsed) => parsed,
                Err(error) => {
                    tracing::warn!(%error, "the dataplane's dump holds an SA that is none");
                    continue;
                }
            };
            let mut usage = Usage::default();
            if let Some(sample) = &dumped.usage {
                usage.merge(sample);
            }
            let entry = Entry {
                sa,
                direction,
                owner: Owner::Adopted,
                state: State::Installed,
                incarnation: self.incarnation,
                acknowledged_ms: now_ms,
                usage,
                soft: Expiry::Pending,
                hard: Expiry::Pending,
                deleters: Vec::new(),
                unknown_since_ms: None,
                reported_mapping: None,
            };
            self.entries.insert(name, entry);
            self.arm_limits(name);
            if let Some(usage) = &dumped.usage {
                self.sample(now_ms, usage);
            }
        }
        for policy in &dump.policies {
            match policy::from_bus(policy) {
                Ok((key, rule)) => {
                    self.stacks.add(key.slot, rule);
                    self.policies.entry(key).or_default().rule = Some(rule);
                }
                Err(error) => {
                    tracing::warn!(%error, "the dataplane's dump holds a policy that is none");
                }
            }
        }
        if !self.entries.is_empty() {
            self.arm_poll(now_ms);
            self.arm(self.session_lost_ms + CARRY_MS, Timer::Absent);
        }
    }

    /// Fetches what the dataplane holds, to compare.
    pub(super) fn verify(&mut self, now_ms: u64) {
        let under_way = self
            .pending
            .values()
            .any(|pending| matches!(pending.purpose, Purpose::Verify { .. }));
        if self.adopted && !under_way {
            let asked_ms = now_ms;
            self.ask(
                Purpose::Verify { asked_ms },
                Request::DumpSas,
                None,
                Some(now_ms),
            );
        }
    }

    /// Compares with a dump that was asked for at `asked_ms`.
    pub(super) fn compare(&mut self, now_ms: u64, asked_ms: u64, dump: &bus::DumpSasReply) {
        if self.incarnation != Some(dump.incarnation) {
            return;
        }
        let mut there = BTreeSet::new();
        for dumped in &dump.sas {
            let Some(Ok((name, direction))) = dumped
                .sa
                .as_ref()
                .map(|sa| SaName::from_bus(sa.key.as_ref()))
            else {
                continue;
            };
            there.insert(name);
            match self.entries.get(&name).map(|entry| entry.state) {
                None | Some(State::Ended) => self.remove_stranger(name, direction),
                Some(_) => {}
            }
            if let Some(usage) = &dumped.usage {
                self.sample(now_ms, usage);
            }
        }
        let lost: Vec<SaName> = self
            .entries
            .iter()
            .filter(|(name, entry)| {
                entry.state == State::Installed
                    && entry.acknowledged_ms < asked_ms
                    && !there.contains(name)
            })
            .map(|(name, _)| *name)
            .collect();
        if !lost.is_empty() {
            tracing::warn!(count = lost.len(), "SAs are missing in the dataplane");
        }
        self.lost_in_dataplane(now_ms, &lost);
        self.compare_policies(now_ms, dump);
    }

    fn compare_policies(&mut self, now_ms: u64, dump: &bus::DumpSasReply) {
        let there: BTreeMap<_, _> = dump
            .policies
            .iter()
            .filter_map(|policy| policy::from_bus(policy).ok())
            .collect();
        for (key, rule) in &there {
            if !self.policies.contains_key(key) {
                self.policies.insert(
                    *key,
                    Held {
                        rule: Some(*rule),
                        ..Held::default()
                    },
                );
            }
        }
        let keys: Vec<_> = self.policies.keys().copied().collect();
        for key in keys {
            if let Some(held) = self.policies.get_mut(&key)
                && held.asked.is_none()
                && !there.contains_key(&key)
            {
                held.rule = None;
            }
            self.settle_policy(now_ms, key);
        }
    }

    pub(super) fn charon_sas(&mut self, now_ms: u64, list: &[CharonChild]) {
        if !self.session || !self.adopted {
            return;
        }
        let inbound: BTreeMap<u32, &CharonChild> =
            list.iter().map(|child| (child.spi_in, child)).collect();
        let outbound: BTreeMap<u32, &CharonChild> =
            list.iter().map(|child| (child.spi_out, child)).collect();
        let names: Vec<SaName> = self.entries.keys().copied().collect();
        let mut unsettled = None;
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            let child = match entry.direction {
                Direction::In => inbound.get(&name.spi),
                _ => outbound.get(&name.spi),
            };
            match (child, entry.owner) {
                (Some(child), Owner::Adopted) => {
                    entry.owner = Owner::Charon;
                    entry.unknown_since_ms = None;
                    // The predecessor told charon, or nobody did: charon's state says which.
                    let rekeyed = child.rekeying || !child.installed;
                    if entry.soft == Expiry::Due && rekeyed {
                        entry.soft = Expiry::Sent {
                            at_ms: now_ms,
                            repeated: true,
                        };
                    }
                    self.report_expiry(now_ms, name);
                }
                (Some(child), _) => {
                    entry.unknown_since_ms = None;
                    if child.installed && !child.rekeying {
                        self.repeat_expiry(now_ms, name);
                    }
                }
                (None, Owner::Orphan { .. }) => {}
                (None, Owner::Adopted)
                    if self
                        .charon_started_ms
                        .is_some_and(|started| started > entry.sa.installed_at_ms) =>
                {
                    self.orphan(now_ms, name, now_ms);
                }
                (None, _) if entry.state == State::Installed => {
                    let since = *entry.unknown_since_ms.get_or_insert(now_ms);
                    let young_until = entry.sa.installed_at_ms + YOUNG_MS;
                    let due = young_until.max(since + RECHECK_MS);
                    if now_ms >= due {
                        // Nobody is told: charon does not know it.
                        entry.owner = Owner::Orphan { until_ms: now_ms };
                        self.orphans.insert(name);
                        self.orphan_is_over(now_ms, name);
                    } else {
                        unsettled = Some(unsettled.map_or(due, |at: u64| at.min(due)));
                    }
                }
                (None, _) => {}
            }
        }
        for child in list.iter().filter(|child| child.installed) {
            self.expire_unless_held(now_ms, child);
        }
        self.sweep_policies(now_ms, &inbound, &outbound);
        if let Some(due) = unsettled {
            self.arm_once(due, Timer::Recheck);
        }
        self.reconciled = true;
    }

    /// Policies that name SAs which neither charon nor the table has: what a charon left that died while no bridge was
    /// there to see it.
    fn sweep_policies(
        &mut self,
        now_ms: u64,
        inbound: &BTreeMap<u32, &CharonChild>,
        outbound: &BTreeMap<u32, &CharonChild>,
    ) {
        let table: BTreeSet<u32> = self.entries.keys().map(|name| name.spi).collect();
        let gone = |spi: u32| {
            !table.contains(&spi) && !inbound.contains_key(&spi) && !outbound.contains_key(&spi)
        };
        for key in self.stacks.drop_protected_by(gone) {
            self.want_policy(now_ms, key, None);
        }
    }

    /// A CHILD SA that charon believes in and the dataplane does not have is expired hard, once for each list at most.
    fn expire_unless_held(&mut self, now_ms: u64, child: &CharonChild) {
        let of = |direction: Direction, spi: u32| {
            entries_of(&self.entries, spi)
                .filter(|entry| entry.direction == direction)
                .collect::<Vec<_>>()
        };
        let (inbound, outbound) = (
            of(Direction::In, child.spi_in),
            of(Direction::Out, child.spi_out),
        );
        let held = |entries: &[&Entry]| {
            entries
                .iter()
                .any(|entry| matches!(entry.state, State::Installing | State::Installed))
        };
        let told = inbound.iter().chain(&outbound).any(|entry| {
            matches!(entry.hard, Expiry::Due | Expiry::Sent { .. })
                || entry.state == State::Deleting
        });
        if told || (held(&inbound) && held(&outbound)) {
            return;
        }
        tracing::warn!(
            spi_in = format_args!("{:08x}", child.spi_in),
            "charon has a CHILD SA that the dataplane does not have"
        );
        let name = SaName {
            spi: child.spi_in,
            destination: child.local,
        };
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.hard = Expiry::Sent {
                at_ms: now_ms,
                repeated: false,
            };
        }
        self.expire(now_ms, name, true);
    }
}

impl From<bus::SaEvent> for Event {
    fn from(event: bus::SaEvent) -> Self {
        Self::Published(event)
    }
}
