//! The table of SAs and policies, as a state machine without sockets or clocks.
//!
//! Everything that happens comes in as an [`Event`] together with the time; everything to be done comes out as an
//! [`Action`]. The shell around it owns the sockets, so that a test replays a rekey, a restart of any neighbour or a
//! lost acknowledgement in microseconds.
//!
//! ```text
//!   plugin: calls, session  ──┐                  ┌──> answers, upcalls
//!   dataplane: answers, dump, ├─ handle(now, e) ─┼──> requests to the dataplane
//!     limits, acquires        │        ^         │
//!   VICI: list of CHILD SAs ──┘   next_timer()   └──> ask VICI for the list
//! ```
//!
//! Rules that hold whatever fails:
//! - An SA is announced to charon only after the dataplane acknowledged it. An acknowledgement that does not come is
//!   asked for again under the same ticket; a ticket is never carried over to another incarnation of the dataplane.
//! - Keys live here only until the dataplane has answered. Nothing is ever installed from the table: a dataplane that
//!   restarted gets policies, never keys, and charon is told that the SAs are at their end.
//! - An expiry is reported once, soft and hard. charon drops one that meets a CHILD SA in the middle of its set-up: when its
//!   list shows, seconds later, that it did nothing, it is told once more, and never a third time.

mod calls;
mod dataplane;
mod lifetime;
mod orphans;
mod policies;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use culvert_model::bus::{self, Direction, refusal};
use culvert_plugin_wire as wire;

use crate::association::{Installation, SaName, Usage};
use crate::policy::{Key, Stacks};
use crate::spi::{Random, SpiPool};

/// Names a request to the dataplane. Asking again under the same ticket repeats the same request, it is not a new one.
pub type Ticket = u64;

/// What happened.
#[allow(clippy::large_enum_variant)] // Calls are its commonest variant and its largest.
#[derive(Debug)]
pub enum Event {
    /// A charon's plugin is connected.
    SessionUp {
        /// Drawn once in the life of a charon.
        epoch: u64,
        /// When that charon started, `CLOCK_BOOTTIME` milliseconds, where the system tells.
        charon_started_ms: Option<u64>,
    },
    /// The plugin's connection is gone.
    SessionDown,
    /// charon calls its backend.
    Call {
        /// Unique in its epoch; a repeated one is the same call.
        id: u64,
        /// What it asks.
        call: wire::Call,
    },
    /// The dataplane is there (again), or events of it were lost.
    Snapshot(bus::DumpSasReply),
    /// A request to the dataplane came to its end.
    Answered {
        /// Which.
        ticket: Ticket,
        /// Who answered, where somebody did.
        incarnation: Option<u64>,
        /// How.
        outcome: Outcome,
    },
    /// The dataplane publishes something.
    Published(bus::SaEvent),
    /// charon's list of CHILD SAs, as [`Action::ListCharon`] asked for.
    CharonSas(Vec<CharonChild>),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Answer a call of the plugin, if it is still connected.
    Answer {
        /// Of the call.
        id: u64,
        /// The answer.
        answer: wire::Answer,
    },
    /// Tell charon something.
    Upcall(wire::Answer),
    /// Ask the dataplane; the end of it comes back as [`Event::Answered`].
    Ask {
        /// Names it. Seen before: repeat that request.
        ticket: Ticket,
        /// What.
        request: Request,
    },
    /// The ticket is not used again.
    Forget(Ticket),
    /// List charon's CHILD SAs by VICI and bring [`Event::CharonSas`]; keep trying while the session is up.
    ListCharon,
    /// The dataplane holds no policy: traps that charon installed before this bridge's time are to be installed again.
    TrapsLost,
    /// Traffic wants the tunnel of this `if_id`, and no policy of charon's knows of it.
    Wanted {
        /// Of the tunnel.
        if_id: u32,
    },
}

/// A request to the dataplane.
#[derive(Debug, Clone)]
pub enum Request {
    /// Install an SA.
    AddSa(Installation),
    /// Change addresses of an SA.
    UpdateSa(bus::UpdateSaRequest),
    /// Remove an SA.
    DelSa(bus::DelSaRequest),
    /// Counters of all SAs.
    QuerySas,
    /// Everything it holds.
    DumpSas,
    /// Add or replace a policy.
    AddPolicy(bus::AddPolicyRequest),
    /// Remove a policy.
    DelPolicy(bus::DelPolicyRequest),
}

/// How a request to the dataplane ended.
#[derive(Debug)]
pub enum Outcome {
    /// It did what it should.
    Done(Reply),
    /// The dataplane refused.
    Refused {
        /// Why, for us.
        code: refusal::Code,
        /// Why, for people.
        message: String,
    },
    /// No answer: it may have been carried out or not.
    NoAnswer,
    /// The dataplane that may have carried it out is gone.
    Restarted,
}

/// What the dataplane answered.
#[derive(Debug)]
pub enum Reply {
    /// Nothing but success.
    Done,
    /// Last counters of a removed SA.
    Deleted(Option<bus::SaUsage>),
    /// Counters.
    Usages(Vec<bus::SaUsage>),
    /// Everything.
    Dump(bus::DumpSasReply),
}

/// A CHILD SA as charon lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharonChild {
    /// Inbound SPI.
    pub spi_in: u32,
    /// Outbound SPI.
    pub spi_out: u32,
    /// Our end.
    pub local: IpAddr,
    /// Both SAs are expected to be installed: INSTALLED, or REKEYING and not yet replaced.
    pub installed: bool,
    /// A rekey of it is under way.
    pub rekeying: bool,
}

/// Who an SA belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The running charon.
    Charon,
    /// Found in the dataplane; whether charon knows it is not yet known.
    Adopted,
    /// Nobody any more: a charon that is gone, or that deleted it. It carries traffic until then.
    Orphan { until_ms: u64 },
}

/// Where an SA is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The dataplane has been asked.
    Installing,
    /// The dataplane has it.
    Installed,
    /// The dataplane has been asked to remove it.
    Deleting,
    /// Not in the dataplane any more; charon has been told and has not removed it yet.
    Ended,
}

/// Whether an expiry has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expiry {
    /// Its time has not come.
    Pending,
    /// To be reported as soon as charon is there.
    Due,
    /// The inbound SA of its CHILD SA is reported instead, as far as that can be told.
    Partners,
    /// Reported, once or twice, last then.
    Sent { at_ms: u64, repeated: bool },
}

struct Entry {
    sa: bus::Sa,
    direction: Direction,
    owner: Owner,
    state: State,
    /// Which dataplane acknowledged it.
    incarnation: Option<u64>,
    acknowledged_ms: u64,
    usage: Usage,
    soft: Expiry,
    hard: Expiry,
    /// Calls of `del_sa` that wait for the dataplane.
    deleters: Vec<u64>,
    /// Missing in charon's list, once.
    unknown_since_ms: Option<u64>,
    reported_mapping: Option<(bus::MappingChanged, u64)>,
}

enum Purpose {
    Install { name: SaName, fresh: bool },
    Update { name: SaName, change: calls::Change },
    Delete { name: SaName },
    Policy { key: Key },
    Poll,
    Verify { asked_ms: u64 },
}

struct Pending {
    purpose: Purpose,
    request: Request,
    /// The plugin's call that waits for it.
    call: Option<u64>,
    /// When the call is to be failed.
    give_up_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Soft(SaName),
    Hard(SaName),
    /// What was added after a removed outbound policy takes over.
    Successors(Key),
    /// A removed outbound policy goes, before its SA does.
    Policy(Key),
    /// A drained or timed-out orphan goes.
    Orphan(SaName),
    /// charon never removed an ended SA.
    Tombstone(SaName),
    /// Policies that a dead charon left go.
    OrphanPolicies,
    /// No charon for too long.
    Absent,
    Poll,
    /// Calls of `query_sa` that waited long enough for fresh counters.
    Query,
    /// Calls that wait for the dataplane.
    Held,
    /// List charon's SAs once more.
    Recheck,
    /// Compare with the dataplane once more.
    Verify,
}

/// The state machine. See the module's text.
pub struct Manager {
    random: Box<dyn Random>,
    spis: SpiPool,
    entries: BTreeMap<SaName, Entry>,
    /// Those that were made orphans, and perhaps some that are gone since.
    orphans: BTreeSet<SaName>,
    stacks: Stacks,
    policies: BTreeMap<Key, policies::Held>,
    /// Outbound policies that charon removed a moment ago.
    lingering: BTreeMap<Key, policies::Lingering>,
    pending: BTreeMap<Ticket, Pending>,
    last_ticket: Ticket,
    calls: calls::Calls,
    queries: Vec<calls::Query>,
    timers: BTreeSet<(u64, Timer)>,
    actions: VecDeque<Action>,
    incarnation: Option<u64>,
    /// Dataplanes that are gone: an answer of theirs may still be on its way.
    past_incarnations: BTreeSet<u64>,
    /// The dataplane's content has been taken over.
    adopted: bool,
    session: bool,
    epoch: Option<u64>,
    charon_started_ms: Option<u64>,
    /// Since when no charon is connected.
    session_lost_ms: u64,
    reconciled: bool,
    sampled_ms: Option<u64>,
    polling: bool,
    acquired: BTreeMap<(u32, u32), u64>,
}

impl Manager {
    /// An empty table. `now_ms` is `CLOCK_BOOTTIME`, as in every call.
    pub fn new(now_ms: u64, random: Box<dyn Random>) -> Self {
        Self {
            random,
            spis: SpiPool::default(),
            entries: BTreeMap::new(),
            orphans: BTreeSet::new(),
            stacks: Stacks::default(),
            policies: BTreeMap::new(),
            lingering: BTreeMap::new(),
            pending: BTreeMap::new(),
            last_ticket: 0,
            calls: calls::Calls::default(),
            queries: Vec::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            incarnation: None,
            past_incarnations: BTreeSet::new(),
            adopted: false,
            session: false,
            epoch: None,
            charon_started_ms: None,
            session_lost_ms: now_ms,
            reconciled: false,
            sampled_ms: None,
            polling: false,
            acquired: BTreeMap::new(),
        }
    }

    /// Takes in what happened, and whatever time has brought since.
    pub fn handle(&mut self, now_ms: u64, event: Event) {
        match event {
            Event::SessionUp {
                epoch,
                charon_started_ms,
            } => self.session_up(now_ms, epoch, charon_started_ms),
            Event::SessionDown => self.session_down(now_ms),
            Event::Call { id, call } => self.call(now_ms, id, call),
            Event::Snapshot(dump) => self.snapshot(now_ms, dump),
            Event::Answered {
                ticket,
                incarnation,
                outcome,
            } => self.answered(now_ms, ticket, incarnation, outcome),
            Event::Published(event) => self.published(now_ms, event),
            Event::CharonSas(list) => self.charon_sas(now_ms, &list),
            Event::Tick => {}
        }
        self.fire(now_ms);
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Tick`] is wanted next, `CLOCK_BOOTTIME` milliseconds.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether charon's plugin is connected.
    pub fn has_session(&self) -> bool {
        self.session
    }

    /// Whether table, dataplane and charon agreed when they were last compared, and nobody left since.
    pub fn is_reconciled(&self) -> bool {
        self.reconciled
    }

    fn arm(&mut self, at_ms: u64, timer: Timer) {
        self.timers.insert((at_ms, timer));
    }

    /// Arms a timer of which there is one at most.
    fn arm_once(&mut self, at_ms: u64, timer: Timer) {
        if !self.timers.iter().any(|(_, armed)| *armed == timer) {
            self.arm(at_ms, timer);
        }
    }

    fn fire(&mut self, now_ms: u64) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now_ms {
                return;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Soft(name) => self.time_is_up(now_ms, name, false),
                Timer::Hard(name) => self.time_is_up(now_ms, name, true),
                Timer::Successors(key) => self.successors_take_over(now_ms, key),
                Timer::Policy(key) => self.policy_is_over(now_ms, key),
                Timer::Orphan(name) => self.orphan_is_over(now_ms, name),
                Timer::Tombstone(name) => self.bury(name),
                Timer::OrphanPolicies => self.drop_orphan_policies(now_ms),
                Timer::Absent => self.charon_is_absent(now_ms),
                Timer::Poll => self.poll_usage(now_ms),
                Timer::Query => self.answer_queries(now_ms, false),
                Timer::Held => self.fail_held(now_ms),
                Timer::Recheck => self.list_charon(),
                Timer::Verify => self.verify(now_ms),
            }
        }
    }
}
