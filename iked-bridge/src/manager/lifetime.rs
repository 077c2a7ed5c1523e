//! Limits of SAs: time is kept here, bytes and packets are counted by the dataplane; and its counters for charon.

use culvert_model::bus;
use culvert_plugin_wire as wire;
use wire::Answer;

use super::{Action, Expiry, Manager, Outcome, Owner, Purpose, Reply, Request, State, Timer};
use crate::association::{SaName, limits_reached};

/// Counters are fetched this often, in one request for all SAs.
const POLL_MS: u64 = 1_000;

/// A CHILD SA that charon still lists as if nothing had been said so long after an expiry was not heard of. A rekey
/// begins within milliseconds; what was being set up is set up by then.
const UNHEARD_MS: u64 = 2_500;

/// charon gets the protocol number it knows ESP by.
const ESP: u32 = wire::algorithm::PROTO_ESP;

impl Manager {
    pub(super) fn arm_limits(&mut self, name: SaName) {
        let Some(entry) = self.entries.get(&name) else {
            return;
        };
        let pending =
            |expiry: Expiry, at: u64| Some(at).filter(|at| *at != 0 && expiry == Expiry::Pending);
        let soft = pending(entry.soft, entry.sa.soft_expires_at_ms);
        let hard = pending(entry.hard, entry.sa.hard_expires_at_ms);
        if let Some(at) = soft {
            self.arm(at, Timer::Soft(name));
        }
        if let Some(at) = hard {
            self.arm(at, Timer::Hard(name));
        }
    }

    pub(super) fn time_is_up(&mut self, now_ms: u64, name: SaName, hard: bool) {
        // The SPI may have been used again under the same name: the limit counts, not the timer.
        let limit = self.entries.get(&name).map_or(0, |entry| {
            if hard {
                entry.sa.hard_expires_at_ms
            } else {
                entry.sa.soft_expires_at_ms
            }
        });
        if limit != 0 && limit <= now_ms {
            self.expired(now_ms, name, hard);
        }
    }

    /// An SA reached a limit, of whatever kind.
    pub(super) fn expired(&mut self, now_ms: u64, name: SaName, hard: bool) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        if matches!(entry.state, State::Ended) {
            return;
        }
        let expiry = if hard {
            &mut entry.hard
        } else {
            &mut entry.soft
        };
        if *expiry != Expiry::Pending {
            return;
        }
        *expiry = Expiry::Due;
        self.report_expiry(now_ms, name);
        if hard {
            // RFC 4301 section 4.4.2.1: a hard limit ends the SA, whether charon is there or not.
            self.remove(now_ms, name);
        }
    }

    /// Tells charon what is due, if it is there and knows the SA.
    pub(super) fn report_expiry(&mut self, now_ms: u64, name: SaName) {
        let session = self.session;
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        if !session || entry.owner != Owner::Charon {
            return;
        }
        let hard = entry.hard == Expiry::Due;
        let soft = entry.soft == Expiry::Due && entry.hard == Expiry::Pending;
        let sent = Expiry::Sent {
            at_ms: now_ms,
            repeated: false,
        };
        if hard {
            entry.hard = sent;
        }
        if soft {
            entry.soft = sent;
        }
        if hard || soft {
            tracing::debug!(sa = %name, hard, "SA expires");
            self.expire(now_ms, name, hard);
        }
    }

    /// charon lists the SA's CHILD SA as if nothing had been said. Whether it is to be said once more is decided here.
    pub(super) fn repeat_expiry(&mut self, now_ms: u64, name: SaName) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        let hard = entry.hard != Expiry::Pending;
        let expiry = if hard {
            &mut entry.hard
        } else {
            &mut entry.soft
        };
        if let Expiry::Sent {
            at_ms,
            repeated: false,
        } = *expiry
            && now_ms >= at_ms + UNHEARD_MS
        {
            *expiry = Expiry::Sent {
                at_ms: now_ms,
                repeated: true,
            };
            tracing::info!(sa = %name, hard, "charon did not hear that an SA expires");
            self.expire(now_ms, name, hard);
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64, name: SaName, hard: bool) {
        let upcall = wire::Expire {
            protocol: ESP,
            spi: name.spi,
            dst: Some(std::net::SocketAddr::new(name.destination, 0).into()),
            hard,
        };
        self.actions
            .push_back(Action::Upcall(Answer::Expire(upcall)));
        self.arm(now_ms + UNHEARD_MS, Timer::Recheck);
    }

    pub(super) fn arm_poll(&mut self, now_ms: u64) {
        self.arm_once(now_ms + POLL_MS, Timer::Poll);
    }

    pub(super) fn poll_usage(&mut self, now_ms: u64) {
        let any = self
            .entries
            .values()
            .any(|entry| entry.state == State::Installed);
        if any {
            self.ask_usage(now_ms);
            self.arm_poll(now_ms);
        }
    }

    pub(super) fn ask_usage(&mut self, _now_ms: u64) {
        if !self.polling {
            self.polling = true;
            self.ask(Purpose::Poll, Request::QuerySas, None, Some(0));
        }
    }

    pub(super) fn poll_ended(&mut self, now_ms: u64, outcome: Outcome) {
        self.polling = false;
        let Outcome::Done(Reply::Usages(usages)) = outcome else {
            return;
        };
        self.sampled_ms = Some(now_ms);
        for usage in &usages {
            self.sample(now_ms, usage);
        }
        self.answer_queries(now_ms, true);
    }

    /// Takes one SA's counters. A limit they passed is reported even if its event was lost.
    pub(super) fn sample(&mut self, now_ms: u64, usage: &bus::SaUsage) {
        let Ok((name, _)) = SaName::from_bus(usage.key.as_ref()) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        entry.usage.merge(usage);
        let (soft, hard) = limits_reached(entry.sa.limits.as_ref(), entry.usage);
        if hard {
            self.expired(now_ms, name, true);
        } else if soft {
            self.expired(now_ms, name, false);
        }
    }
}
