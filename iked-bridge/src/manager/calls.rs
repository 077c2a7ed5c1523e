//! The calls of charon's plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_model::bus::{self, Direction};
use culvert_plugin_wire as wire;
use wire::{Answer, Call, Status};

use super::{Action, Entry, Expiry, Manager, Owner, Purpose, Request, State, Timer};
use crate::association::{self, AssociationError, SaName, Usage};
use crate::policy;

/// A call that waits for the dataplane is failed after this long: the plugin gives up at 10 s, and its answer should be
/// ours, which says why.
pub(super) const PATIENCE_MS: u64 = 9_000;

/// Counters younger than this answer `query_sa` at once: charon lists 500 tunnels with 1000 queries in a row.
const FRESH_MS: u64 = 200;

/// A query for which no fresh counters came is answered from memory.
const QUERY_PATIENCE_MS: u64 = 100;

/// How many answers are kept for calls that a reconnecting plugin repeats. It has at most as many under way as charon
/// has threads.
const ANSWERS_KEPT: usize = 1024;

/// Which calls of this epoch have been seen.
#[derive(Default)]
pub(super) struct Calls {
    under_way: BTreeSet<u64>,
    answered: BTreeMap<u64, Answer>,
    /// Until the dataplane has been seen: call, until when.
    held: Vec<(u64, u64, Call)>,
}

impl Calls {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A `query_sa` that waits for fresh counters.
pub(super) struct Query {
    id: u64,
    name: SaName,
    until_ms: u64,
}

/// New addresses of an SA.
pub(super) struct Change {
    source: SocketAddr,
    destination: SocketAddr,
    encap: bool,
    reqid: u32,
}

impl Manager {
    pub(super) fn call(&mut self, now_ms: u64, id: u64, call: Call) {
        if let Some(answer) = self.calls.answered.get(&id) {
            let answer = answer.clone();
            self.actions.push_back(Action::Answer { id, answer });
            return;
        }
        if !self.calls.under_way.insert(id) {
            return;
        }
        if self.adopted {
            self.carry_out(now_ms, id, call);
        } else {
            // What the dataplane holds is not known yet: which SPIs are free, which SAs exist.
            let until = now_ms + PATIENCE_MS;
            self.calls.held.push((id, until, call));
            self.arm(until, Timer::Held);
        }
    }

    pub(super) fn release_held(&mut self, now_ms: u64) {
        for (id, _, call) in std::mem::take(&mut self.calls.held) {
            self.carry_out(now_ms, id, call);
        }
    }

    pub(super) fn fail_held(&mut self, now_ms: u64) {
        let (over, held) = std::mem::take(&mut self.calls.held)
            .into_iter()
            .partition(|(_, until, _)| *until <= now_ms);
        self.calls.held = held;
        for (id, _, _) in over {
            self.fail(id, Status::Failed, &"the dataplane is not there");
        }
    }

    fn carry_out(&mut self, now_ms: u64, id: u64, call: Call) {
        match call {
            // The shell's affair; here it can only be a repetition.
            Call::Hello(_) => self.answer(id, Answer::done()),
            Call::GetSpi(_) => self.get_spi(now_ms, id),
            Call::AddSa(call) => self.add_sa(now_ms, id, call),
            Call::UpdateSa(call) => self.update_sa(now_ms, id, &call),
            Call::QuerySa(call) => self.query_sa(now_ms, id, &call),
            Call::DelSa(call) => self.del_sa(now_ms, id, &call),
            Call::FlushSas(_) => {
                let names: Vec<_> = self.entries.keys().copied().collect();
                for name in names {
                    self.remove(now_ms, name);
                }
                self.answer(id, Answer::done());
            }
            Call::AddPolicy(call) => {
                match policy::from_wire(call.id.as_ref(), call.manage.as_ref()) {
                    Ok((slot, rule)) => {
                        let key = self.stacks.add(slot, rule);
                        self.want_policy(now_ms, key, Some(id));
                    }
                    Err(error) => self.fail(id, Status::InvalidArgument, &error),
                }
            }
            Call::DelPolicy(call) => {
                match policy::from_wire(call.id.as_ref(), call.manage.as_ref()) {
                    Ok((slot, rule)) => self.del_policy(now_ms, id, slot, &rule),
                    Err(error) => self.fail(id, Status::InvalidArgument, &error),
                }
            }
            Call::FlushPolicies(_) => {
                for key in self.stacks.clear() {
                    self.want_policy(now_ms, key, None);
                }
                self.answer(id, Answer::done());
            }
        }
    }

    pub(super) fn answer(&mut self, id: u64, answer: Answer) {
        self.calls.under_way.remove(&id);
        self.calls.answered.insert(id, answer.clone());
        while self.calls.answered.len() > ANSWERS_KEPT {
            self.calls.answered.pop_first();
        }
        self.actions.push_back(Action::Answer { id, answer });
    }

    pub(super) fn fail(&mut self, id: u64, status: Status, why: &dyn ToString) {
        self.answer(id, Answer::failed(status, why.to_string()));
    }

    fn get_spi(&mut self, now_ms: u64, id: u64) {
        let entries = &self.entries;
        let in_use = |spi| knows_spi(entries, spi);
        match self.spis.draw(now_ms, self.random.as_mut(), in_use) {
            Some(spi) => self.answer(id, Answer::Spi(wire::Spi { spi })),
            None => self.fail(id, Status::OutOfResources, &"no free SPI"),
        }
    }

    fn add_sa(&mut self, now_ms: u64, id: u64, call: wire::AddSa) {
        let (name, installation) = match association::installation(call, now_ms) {
            Ok(installation) => installation,
            Err(error) => {
                let status = match error {
                    AssociationError::Algorithm(_)
                    | AssociationError::Mode(_)
                    | AssociationError::Protocol(_)
                    | AssociationError::Compression(_) => Status::NotSupported,
                    _ => Status::InvalidArgument,
                };
                tracing::warn!(%error, "an SA of charon's cannot be installed");
                return self.fail(id, status, &error);
            }
        };
        let Some(sa) = installation.sa.clone() else {
            return self.fail(id, Status::Failed, &"an SA without content");
        };
        let direction = SaName::from_bus(sa.key.as_ref()).map_or(Direction::In, |(_, way)| way);
        let fresh = match self.entries.get(&name) {
            None => true,
            // A bridge that restarted may be asked again for what the dataplane acknowledged to its predecessor: the
            // dataplane alone can tell whether it is the same SA.
            Some(entry) if entry.state == State::Installed => false,
            Some(_) => {
                return self.fail(
                    id,
                    Status::Failed,
                    &format!("SA {name} exists and is changing"),
                );
            }
        };
        // The SPI of an outbound SA is its peer's choice; an inbound one is found by its SPI alone.
        let taken = fresh
            && direction == Direction::In
            && entries_of(&self.entries, name.spi).any(|other| other.direction == Direction::In);
        if taken {
            return self.fail(
                id,
                Status::Failed,
                &format!("inbound SPI {:08x} is in use", name.spi),
            );
        }
        if fresh {
            self.spis.installed(name.spi);
            let entry = Entry {
                sa,
                direction,
                owner: Owner::Charon,
                state: State::Installing,
                incarnation: None,
                acknowledged_ms: now_ms,
                usage: Usage::default(),
                soft: Expiry::Pending,
                hard: Expiry::Pending,
                deleters: Vec::new(),
                unknown_since_ms: None,
                reported_mapping: None,
            };
            self.entries.insert(name, entry);
        }
        self.ask(
            Purpose::Install { name, fresh },
            Request::AddSa(installation),
            Some(id),
            Some(now_ms + PATIENCE_MS),
        );
    }

    fn update_sa(&mut self, now_ms: u64, id: u64, call: &wire::UpdateSa) {
        let end = |host: &Option<wire::Host>, which| {
            let host = host.as_ref().ok_or(AssociationError::Missing(which))?;
            Ok::<_, AssociationError>(host.socket_addr()?)
        };
        let parsed = SaName::from_wire(call.id.as_ref()).and_then(|name| {
            let change = Change {
                source: end(&call.new_src, "a new source")?,
                destination: end(&call.new_dst, "a new destination")?,
                encap: call.new_encap,
                reqid: call.new_reqid,
            };
            Ok((name, change))
        });
        let (name, change) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.fail(id, Status::InvalidArgument, &error),
        };
        let Some(direction) = self
            .entries
            .get(&name)
            .filter(|entry| entry.state == State::Installed)
            .map(|entry| entry.direction)
        else {
            return self.fail(id, Status::NotFound, &format!("no SA {name}"));
        };
        let request = bus::UpdateSaRequest {
            key: Some(name.to_bus(direction)),
            new_source: Some(change.source.ip().into()),
            new_destination: Some(change.destination.ip().into()),
            new_udp: change.encap.then(|| bus::UdpEncapsulation {
                source_port: change.source.port().into(),
                destination_port: change.destination.port().into(),
            }),
        };
        self.ask(
            Purpose::Update { name, change },
            Request::UpdateSa(request),
            Some(id),
            Some(now_ms + PATIENCE_MS),
        );
    }

    /// The dataplane has the new addresses: the SA's name changes with them.
    pub(super) fn updated(&mut self, name: SaName, change: &Change) {
        let Some(mut entry) = self.entries.remove(&name) else {
            return;
        };
        let new = SaName {
            spi: name.spi,
            destination: change.destination.ip(),
        };
        entry.sa.key = Some(new.to_bus(entry.direction));
        entry.sa.source = Some(change.source.ip().into());
        entry.sa.udp = change.encap.then(|| bus::UdpEncapsulation {
            source_port: change.source.port().into(),
            destination_port: change.destination.port().into(),
        });
        if change.reqid != 0 {
            entry.sa.reqid = change.reqid;
        }
        entry.reported_mapping = None;
        self.entries.insert(new, entry);
        self.arm_limits(new);
        for query in &mut self.queries {
            if query.name == name {
                query.name = new;
            }
        }
    }

    fn query_sa(&mut self, now_ms: u64, id: u64, call: &wire::QuerySa) {
        let name = match SaName::from_wire(call.id.as_ref()) {
            Ok(name) => name,
            Err(error) => return self.fail(id, Status::InvalidArgument, &error),
        };
        let Some(entry) = self.entries.get(&name) else {
            return self.fail(id, Status::NotFound, &format!("no SA {name}"));
        };
        let fresh = self
            .sampled_ms
            .is_some_and(|sampled| now_ms.saturating_sub(sampled) <= FRESH_MS);
        if fresh || entry.state != State::Installed {
            let usage = entry.usage.to_wire();
            return self.answer(id, Answer::Usage(usage));
        }
        let until_ms = now_ms + QUERY_PATIENCE_MS;
        self.queries.push(Query { id, name, until_ms });
        self.arm(until_ms, Timer::Query);
        self.ask_usage(now_ms);
    }

    /// Answers the queries that waited long enough, or all since the counters are fresh.
    pub(super) fn answer_queries(&mut self, now_ms: u64, all: bool) {
        let (ready, waiting) = std::mem::take(&mut self.queries)
            .into_iter()
            .partition::<Vec<_>, _>(|query| all || query.until_ms <= now_ms);
        self.queries = waiting;
        for query in ready {
            match self.entries.get(&query.name) {
                Some(entry) => {
                    let usage = entry.usage.to_wire();
                    self.answer(query.id, Answer::Usage(usage));
                }
                None => self.fail(query.id, Status::NotFound, &format!("no SA {}", query.name)),
            }
        }
    }

    pub(super) fn forget_calls(&mut self) {
        self.calls.clear();
        self.queries.clear();
        for pending in self.pending.values_mut() {
            pending.call = None;
        }
        for held in self.policies.values_mut() {
            held.waiting.clear();
        }
        for entry in self.entries.values_mut() {
            entry.deleters.clear();
        }
    }

    fn del_sa(&mut self, now_ms: u64, id: u64, call: &wire::DelSa) {
        let name = match SaName::from_wire(call.id.as_ref()) {
            Ok(name) => name,
            Err(error) => return self.fail(id, Status::InvalidArgument, &error),
        };
        let Some(entry) = self.entries.get_mut(&name) else {
            // charon also gives back SPIs that it never used.
            if self.spis.is_reserved(name.spi) {
                self.spis.released(name.spi);
                return self.answer(id, Answer::done());
            }
            return self.fail(id, Status::NotFound, &format!("no SA {name}"));
        };
        if entry.state == State::Ended {
            self.bury(name);
            return self.answer(id, Answer::done());
        }
        if entry.state == State::Installed && entry.owner == Owner::Charon {
            // charon has it out of its books; the dataplane goes on for a moment.
            self.linger(now_ms, name);
            return self.answer(id, Answer::done());
        }
        entry.deleters.push(id);
        self.remove(now_ms, name);
    }
}

/// Whether any SA, in either direction, has this SPI.
fn knows_spi(entries: &BTreeMap<SaName, Entry>, spi: u32) -> bool {
    entries_of(entries, spi).next().is_some()
}

/// The SAs of an SPI: one inbound at most, outbound ones by peer.
pub(super) fn entries_of(
    entries: &BTreeMap<SaName, Entry>,
    spi: u32,
) -> impl Iterator<Item = &Entry> {
    let named = |destination| SaName { spi, destination };
    let lowest = named(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let highest = named(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
    entries.range(lowest..=highest).map(|(_, entry)| entry)
}
