//! SAs that charon does not know any more and that still carry traffic: those of a charon that died, and, for a moment,
//! those it deleted.
//!
//! A peer that restarts its charon, as this gateway may, says so (`INITIAL_CONTACT`, RFC 7296 section 2.4) while it still
//! uses its old SAs. charon deletes them at once, and only then makes the new ones. So an inbound SA that is deleted goes
//! on receiving for [`LINGER_MS`]; an outbound one goes on sending for [`SENDING_MS`], no longer than packets that
//! were sent before may be on their way, and for [`FIRST_MS`] of that even before a new one.
//!
//! The SAs of a charon that died have no such notice.
//! Their peers know nothing of it and go on sending. So they carry traffic until the next charon has made a CHILD SA
//! that covers their selectors, at most for [`CARRY_MS`] or their hard lifetime, and then go. Outbound ones go at once
//! when they are replaced; inbound ones stay [`DRAIN_MS`] longer for packets that are on their way.

use culvert_model::bus::Direction;

use super::calls::entries_of;
use super::{Entry, Manager, Owner, State, Timer};
use crate::association::{SaName, selector_pairs};
use crate::policy::{Key, PolicyDirection};

/// DESIGN: orphans carry traffic for 120 s at most.
pub(super) const CARRY_MS: u64 = 120_000;

/// A replaced inbound SA stays for packets that are on their way: charon, too, keeps a rekeyed one, for 5 s; an orphan
/// has already been replaced for as long as its peer needed to notice.
const DRAIN_MS: u64 = 2_000;

/// How long a deleted inbound SA goes on receiving: two round trips around the world and the time in which a new CHILD
/// SA is installed on a busy box.
pub(super) const LINGER_MS: u64 = 1_000;

/// How long a deleted outbound policy goes on protecting: one round trip over a continent. Its SA goes
/// [`AFTER_POLICY_MS`] later.
pub(super) const SENDING_MS: u64 = 150;

const AFTER_POLICY_MS: u64 = 50;

/// How long of that it goes before a newer one: the way of an answer of ours to the peer, and the peer's work on it.
pub(super) const FIRST_MS: u64 = 120;

impl Manager {
    /// charon deleted an SA.
    pub(super) fn linger(&mut self, now_ms: u64, name: SaName) {
        if let Some(entry) = self.entries.get_mut(&name) {
            let until_ms = now_ms
                + match entry.direction {
                    Direction::In => LINGER_MS,
                    _ => SENDING_MS + AFTER_POLICY_MS,
                };
            entry.owner = Owner::Orphan { until_ms };
            self.orphans.insert(name);
            self.arm(until_ms, Timer::Orphan(name));
        }
    }

    /// Everything in the table belongs to a charon that is gone since `lost_ms`.
    pub(super) fn orphan_all(&mut self, now_ms: u64, lost_ms: u64) {
        let names: Vec<SaName> = self.entries.keys().copied().collect();
        for name in names {
            self.orphan(now_ms, name, lost_ms);
        }
        self.stacks.orphan_all();
        self.arm(now_ms.max(lost_ms + CARRY_MS), Timer::OrphanPolicies);
    }

    pub(super) fn orphan(&mut self, now_ms: u64, name: SaName, lost_ms: u64) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        if entry.state == State::Ended {
            return self.bury(name);
        }
        if matches!(entry.owner, Owner::Orphan { .. }) {
            return;
        }
        let hard = Some(entry.sa.hard_expires_at_ms).filter(|hard| *hard != 0);
        let until_ms = hard.map_or(lost_ms + CARRY_MS, |hard| hard.min(lost_ms + CARRY_MS));
        entry.owner = Owner::Orphan { until_ms };
        let installed = entry.state == State::Installed;
        self.orphans.insert(name);
        if installed {
            self.arm(until_ms.max(now_ms), Timer::Orphan(name));
        }
    }

    pub(super) fn orphan_is_over(&mut self, now_ms: u64, name: SaName) {
        let over = self.entries.get(&name).is_some_and(
            |entry| matches!(entry.owner, Owner::Orphan { until_ms } if until_ms <= now_ms),
        );
        if over {
            tracing::debug!(sa = %name, "removing an SA that charon does not know any more");
            self.remove(now_ms, name);
            if self.session {
                self.drop_policies_of(now_ms, name.spi);
            }
        }
    }

    /// While no charon is there, policies stay: what they cover must not leave in the clear.
    pub(super) fn drop_orphan_policies(&mut self, now_ms: u64) {
        if self.session {
            for key in self.stacks.drop_orphans() {
                self.want_policy(now_ms, key, None);
            }
        }
    }

    fn drop_policies_of(&mut self, now_ms: u64, spi: u32) {
        for key in self.stacks.drop_protected_by(|other| other == spi) {
            self.want_policy(now_ms, key, None);
        }
    }

    /// An outbound policy of the running charon is in place: orphans whose traffic it takes over go.
    pub(super) fn replace_orphans(&mut self, now_ms: u64, key: Key) {
        if key.slot.direction != PolicyDirection::Out {
            return;
        }
        let new = entries_of(&self.entries, key.spi).find(|entry| {
            entry.direction == Direction::Out
                && entry.owner == Owner::Charon
                && entry.sa.if_id == key.slot.if_id
        });
        let Some(new) = new.map(|entry| selector_pairs(&entry.sa, Direction::Out)) else {
            return;
        };
        let entries = &self.entries;
        let is_orphan = |entry: &Entry| matches!(entry.owner, Owner::Orphan { .. });
        self.orphans
            .retain(|name| entries.get(name).is_some_and(is_orphan));
        let covered: Vec<(SaName, Direction)> = self
            .orphans
            .iter()
            .filter_map(|name| Some((name, entries.get(name)?)))
            .filter(|(_, entry)| entry.sa.if_id == key.slot.if_id)
            .filter(|(_, entry)| {
                selector_pairs(&entry.sa, entry.direction)
                    .iter()
                    .all(|(near, far)| {
                        new.iter()
                            .any(|pair| pair.0.covers(near) && pair.1.covers(far))
                    })
            })
            .map(|(name, entry)| (*name, entry.direction))
            .collect();
        for (name, direction) in covered {
            let at = now_ms
                + if direction == Direction::Out {
                    0
                } else {
                    DRAIN_MS
                };
            if let Some(entry) = self.entries.get_mut(&name)
                && let Owner::Orphan { until_ms } = &mut entry.owner
                && *until_ms > at
            {
                *until_ms = at;
                self.arm(at, Timer::Orphan(name));
            }
        }
    }

    /// No charon for as long as orphans may live: they go, whatever comes later.
    pub(super) fn charon_is_absent(&mut self, now_ms: u64) {
        if !self.session && now_ms >= self.session_lost_ms + CARRY_MS {
            self.orphan_all(now_ms, self.session_lost_ms);
        }
    }
}
