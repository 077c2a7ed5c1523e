//! Requests to the dataplane, how they end, and what it publishes.

use std::collections::BTreeSet;

use culvert_model::bus::{self, Direction, refusal, sa_event};
use culvert_plugin_wire as wire;
use wire::{Answer, Status};

use super::calls::Change;
use super::{
    Action, Expiry, Manager, Outcome, Owner, Pending, Purpose, Reply, Request, State, Ticket, Timer,
};
use crate::association::SaName;
use crate::policy::Key;
use crate::selector::Selector;

/// DESIGN: acquire once per policy in 5 s.
const ACQUIRE_PAUSE_MS: u64 = 5_000;

/// The dataplane reports a mapping at most once a second and SA; the same one is not reported sooner than this, since
/// charon may be about to answer with an update.
const MAPPING_PAUSE_MS: u64 = 1_000;

/// How long after an unanswered request was given up the table is compared with the dataplane.
const VERIFY_PAUSE_MS: u64 = 2_000;

/// An ended SA that charon does not remove is forgotten after this long. charon needs at most one exchange with its
/// retransmissions (165 s) to remove it.
const TOMBSTONE_MS: u64 = 180_000;

impl Manager {
    pub(super) fn ask(
        &mut self,
        purpose: Purpose,
        request: Request,
        call: Option<u64>,
        give_up_ms: Option<u64>,
    ) -> Ticket {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.actions.push_back(Action::Ask {
            ticket,
            request: request.clone(),
        });
        self.pending.insert(
            ticket,
            Pending {
                purpose,
                request,
                call,
                give_up_ms,
            },
        );
        ticket
    }

    pub(super) fn answered(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        incarnation: Option<u64>,
        outcome: Outcome,
    ) {
        // An answer of a dataplane we have not met tells of a restart before the snapshot does.
        if let (Outcome::Done(_) | Outcome::Refused { .. }, Some(incarnation)) =
            (&outcome, incarnation)
        {
            self.dataplane_is(now_ms, incarnation);
        }
        let Some(pending) = self.pending.remove(&ticket) else {
            return;
        };
        let repeatable = !matches!(pending.purpose, Purpose::Poll);
        if matches!(outcome, Outcome::NoAnswer)
            && repeatable
            && pending.give_up_ms.is_none_or(|give_up| now_ms < give_up)
        {
            self.actions.push_back(Action::Ask {
                ticket,
                request: pending.request.clone(),
            });
            self.pending.insert(ticket, pending);
            return;
        }
        self.actions.push_back(Action::Forget(ticket));
        let Pending { purpose, call, .. } = pending;
        match purpose {
            Purpose::Install { name, fresh } => {
                self.install_ended(now_ms, name, fresh, call, incarnation, outcome);
            }
            Purpose::Update { name, change } => self.update_ended(name, &change, call, outcome),
            Purpose::Delete { name } => self.delete_ended(now_ms, name, &outcome),
            Purpose::Policy { key } => self.policy_ended(now_ms, key, incarnation, outcome),
            Purpose::Poll => self.poll_ended(now_ms, outcome),
            Purpose::Verify { asked_ms } => match outcome {
                Outcome::Done(Reply::Dump(dump)) => self.compare(now_ms, asked_ms, &dump),
                _ => self.arm_once(now_ms + VERIFY_PAUSE_MS, Timer::Verify),
            },
        }
    }

    fn install_ended(
        &mut self,
        now_ms: u64,
        name: SaName,
        fresh: bool,
        call: Option<u64>,
        incarnation: Option<u64>,
        outcome: Outcome,
    ) {
        let failure = match outcome {
            Outcome::Done(_) if incarnation == self.incarnation => None,
            Outcome::Done(_) | Outcome::Restarted => Some("the dataplane restarted".to_owned()),
            Outcome::Refused { message, .. } => Some(message),
            Outcome::NoAnswer => {
                // It may have it or not: make sure that it has not.
                self.arm_once(now_ms + VERIFY_PAUSE_MS, Timer::Verify);
                Some("no answer from the dataplane".to_owned())
            }
        };
        if fresh {
            if let (None, Some(entry)) = (&failure, self.entries.get_mut(&name)) {
                entry.incarnation = incarnation;
                entry.acknowledged_ms = now_ms;
                if entry.state == State::Installing {
                    entry.state = State::Installed;
                }
                // A byte limit of 1, or a dataplane that took longer than the SA may live.
                let over = entry.hard != Expiry::Pending;
                let keep = entry.owner == Owner::Charon && entry.deleters.is_empty() && !over;
                tracing::debug!(sa = %name, "SA installed");
                if keep {
                    self.arm_limits(name);
                    self.arm_poll(now_ms);
                } else {
                    // charon died, changed its mind, or the SA is over already.
                    self.remove(now_ms, name);
                }
            }
            if failure.is_some() {
                let deleters = self
                    .entries
                    .remove(&name)
                    .map_or(Vec::new(), |entry| entry.deleters);
                self.spis.released(name.spi);
                for id in deleters {
                    self.answer(id, Answer::done());
                }
            }
        }
        match (call, failure) {
            (Some(id), None) => self.answer(id, Answer::done()),
            (Some(id), Some(why)) => {
                tracing::warn!(sa = %name, why, "SA not installed");
                self.fail(id, Status::Failed, &format!("SA {name}: {why}"));
            }
            (None, _) => {}
        }
    }

    fn update_ended(&mut self, name: SaName, change: &Change, call: Option<u64>, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Done(_) => {
                self.updated(name, change);
                None
            }
            Outcome::Refused {
                code: refusal::Code::NotFound,
                message,
            } => Some((Status::NotFound, message)),
            Outcome::Refused { message, .. } => Some((Status::Failed, message)),
            Outcome::NoAnswer => Some((Status::Failed, "no answer from the dataplane".to_owned())),
            Outcome::Restarted => Some((Status::NotFound, "the dataplane restarted".to_owned())),
        };
        match (call, failure) {
            (Some(id), None) => self.answer(id, Answer::done()),
            (Some(id), Some((status, why))) => self.fail(id, status, &format!("SA {name}: {why}")),
            (None, _) => {}
        }
    }

    /// Has the dataplane remove an SA, once.
    pub(super) fn remove(&mut self, _now_ms: u64, name: SaName) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        match entry.state {
            // The end of the installation comes here again.
            State::Installing | State::Deleting => return,
            State::Ended => return self.bury(name),
            State::Installed => entry.state = State::Deleting,
        }
        let key = Some(name.to_bus(entry.direction));
        self.ask(
            Purpose::Delete { name },
            Request::DelSa(bus::DelSaRequest { key }),
            None,
            None,
        );
    }

    /// Removes what is in the dataplane and not in the table.
    pub(super) fn remove_stranger(&mut self, name: SaName, direction: Direction) {
        let already = self.pending.values().any(
            |pending| matches!(pending.purpose, Purpose::Delete { name: other } if other == name),
        );
        if already {
            return;
        }
        tracing::info!(sa = %name, "removing an SA that charon does not know");
        let key = Some(name.to_bus(direction));
        self.ask(
            Purpose::Delete { name },
            Request::DelSa(bus::DelSaRequest { key }),
            None,
            None,
        );
    }

    fn delete_ended(&mut self, now_ms: u64, name: SaName, outcome: &Outcome) {
        if let Outcome::Refused { code, message } = outcome
            && *code != refusal::Code::NotFound
        {
            tracing::warn!(sa = %name, message, "the dataplane did not remove an SA");
            self.arm_once(now_ms + VERIFY_PAUSE_MS, Timer::Verify);
        }
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        if let Outcome::Done(Reply::Deleted(Some(usage))) = outcome {
            entry.usage.merge(usage);
        }
        self.gone_from_dataplane(now_ms, name);
    }

    /// The dataplane does not have the SA any more.
    pub(super) fn gone_from_dataplane(&mut self, now_ms: u64, name: SaName) {
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        entry.state = State::Ended;
        let deleters = std::mem::take(&mut entry.deleters);
        let expected = entry.owner == Owner::Charon && entry.hard != Expiry::Pending;
        if !deleters.is_empty() || !expected {
            self.bury(name);
        } else {
            self.arm(now_ms + TOMBSTONE_MS, Timer::Tombstone(name));
        }
        for id in deleters {
            self.answer(id, Answer::done());
        }
    }

    /// Forgets an SA that is nowhere any more.
    pub(super) fn bury(&mut self, name: SaName) {
        if self
            .entries
            .get(&name)
            .is_some_and(|entry| entry.state == State::Ended)
            && let Some(entry) = self.entries.remove(&name)
        {
            self.spis.released(name.spi);
            for id in entry.deleters {
                self.answer(id, Answer::done());
            }
        }
    }

    /// Whoever answers or publishes is this incarnation. Another one than before: all SAs are gone with the old one.
    ///
    /// Their keys must never be used again (a nonce would repeat), and are not known here any more: charon is told that
    /// every CHILD SA is at its hard end, and renegotiates. Policies hold no secrets: they are installed again, so that
    /// what they cover stays covered.
    pub(super) fn dataplane_is(&mut self, now_ms: u64, incarnation: u64) {
        if self.incarnation == Some(incarnation) || self.past_incarnations.contains(&incarnation) {
            return;
        }
        let Some(past) = self.incarnation.replace(incarnation) else {
            return;
        };
        self.past_incarnations.insert(past);
        tracing::warn!(
            incarnation,
            "the dataplane restarted: every SA is renegotiated"
        );
        let lost: Vec<SaName> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                entry.state == State::Installed && entry.incarnation != Some(incarnation)
            })
            .map(|(name, _)| *name)
            .collect();
        self.lost_in_dataplane(now_ms, &lost);
        self.policies_are_gone(now_ms);
        self.reconcile(now_ms);
    }

    /// These SAs are not in the dataplane although nobody removed them: charon is to make new ones.
    ///
    /// A CHILD SA has an inbound SA as long as it exists. Its outbound SA is reported on its own only where the table
    /// does not have the inbound one: a second expiry of the same CHILD SA would cost charon an empty exchange.
    pub(super) fn lost_in_dataplane(&mut self, now_ms: u64, lost: &[SaName]) {
        let inbound: BTreeSet<(u32, u32)> = lost
            .iter()
            .filter_map(|name| self.entries.get(name))
            .filter(|entry| entry.direction == Direction::In)
            .map(|entry| (entry.sa.reqid, entry.sa.if_id))
            .collect();
        for name in lost {
            let covered = self.entries.get(name).is_some_and(|entry| {
                entry.direction == Direction::Out
                    && inbound.contains(&(entry.sa.reqid, entry.sa.if_id))
            });
            let Some(entry) = self.entries.get_mut(name) else {
                continue;
            };
            entry.state = State::Ended;
            if entry.hard == Expiry::Pending {
                entry.hard = if covered {
                    Expiry::Partners
                } else {
                    Expiry::Due
                };
            }
            self.gone_from_dataplane(now_ms, *name);
            self.report_expiry(now_ms, *name);
        }
    }

    pub(super) fn published(&mut self, now_ms: u64, event: bus::SaEvent) {
        match event.event {
            Some(sa_event::Event::Limit(limit)) => match SaName::from_bus(limit.key.as_ref()) {
                Ok((name, _)) => self.expired(now_ms, name, limit.hard),
                Err(error) => tracing::warn!(%error, "an event of the dataplane is refused"),
            },
            Some(sa_event::Event::Acquire(acquire)) => self.acquire(now_ms, &acquire),
            Some(sa_event::Event::Mapping(mapping)) => self.mapping(now_ms, mapping),
            None => {}
        }
    }

    fn acquire(&mut self, now_ms: u64, acquire: &bus::Acquire) {
        let key = (acquire.reqid, acquire.if_id);
        self.acquired
            .retain(|_, at| now_ms.saturating_sub(*at) < ACQUIRE_PAUSE_MS);
        if self.acquired.contains_key(&key) {
            return;
        }
        if acquire.reqid == 0 {
            self.acquired.insert(key, now_ms);
            let if_id = acquire.if_id;
            self.actions.push_back(Action::Wanted { if_id });
            return;
        }
        if !self.session {
            // charon installs its traps anew; the next packet asks again.
            return;
        }
        self.acquired.insert(key, now_ms);
        if acquire.if_id != 0 {
            // charon knows nothing of the reqid of a CHILD SA that is gone; the keeper knows its interface.
            let if_id = acquire.if_id;
            self.actions.push_back(Action::Wanted { if_id });
        }
        let selector = |selector: &Option<culvert_model::types::Selector>| {
            let selector = Selector::from_bus(selector.as_ref()?).ok()?;
            Some(selector.to_wire())
        };
        let (src_ts, dst_ts) = (selector(&acquire.source), selector(&acquire.destination));
        let upcall = wire::Acquire {
            reqid: acquire.reqid,
            src_ts,
            dst_ts,
        };
        self.actions
            .push_back(Action::Upcall(Answer::Acquire(upcall)));
    }

    fn mapping(&mut self, now_ms: u64, mapping: bus::MappingChanged) {
        let Ok((name, _)) = SaName::from_bus(mapping.key.as_ref()) else {
            return;
        };
        let session = self.session;
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        let known = entry.sa.source == mapping.source
            && entry
                .sa
                .udp
                .is_some_and(|udp| udp.source_port == mapping.source_port);
        let told = entry.reported_mapping.as_ref().is_some_and(|(last, at)| {
            *last == mapping && now_ms.saturating_sub(*at) < MAPPING_PAUSE_MS
        });
        let source = mapping
            .source
            .as_ref()
            .and_then(|source| std::net::IpAddr::try_from(source).ok());
        let (Some(source), Ok(port)) = (source, u16::try_from(mapping.source_port)) else {
            return;
        };
        if known || told || !session || entry.owner != Owner::Charon {
            return;
        }
        let port_of_ours = entry.sa.udp.map_or(0, |udp| udp.destination_port);
        let upcall = wire::Mapping {
            reqid: entry.sa.reqid,
            spi: name.spi,
            dst: Some(
                std::net::SocketAddr::new(
                    name.destination,
                    u16::try_from(port_of_ours).unwrap_or(0),
                )
                .into(),
            ),
            remote: Some(std::net::SocketAddr::new(source, port).into()),
            protocol: wire::algorithm::PROTO_ESP,
        };
        entry.reported_mapping = Some((mapping, now_ms));
        self.actions
            .push_back(Action::Upcall(Answer::Mapping(upcall)));
    }

    /// The SA a protecting outbound policy points at is in use: orphans that it replaces may go.
    pub(super) fn policy_is_held(&mut self, now_ms: u64, key: Key) {
        if key.spi != 0 {
            self.replace_orphans(now_ms, key);
        }
    }
}
