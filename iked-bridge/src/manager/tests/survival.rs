//! Random lives: neighbours die at any moment, answers come late or never. Whatever happened, some time after the last
//! blow everybody agrees again.
//!
//! - No key is ever installed again once charon was told that it is in use.
//! - The dataplane holds exactly the SAs that charon believes in, and the policies that go with them.
//! - Every tunnel is up.
//! - No limit of an SA is reported more than twice (once, and once more when charon did not hear).

use std::collections::{BTreeMap, VecDeque};

use culvert_plugin_wire::Answer;
use proptest::prelude::*;

use super::charon_model::CharonModel;
use super::dataplane_model::DataplaneModel;
use super::script::Counter;
use crate::manager::{Action, Event, Manager, Outcome, Request, Ticket};
use crate::policy::PolicyDirection;

const TUNNELS: [u8; 3] = [1, 2, 3];

#[derive(Debug, Clone, Copy)]
enum Blow {
    KillDataplane {
        away_ms: u64,
    },
    KillCharon {
        away_ms: u64,
    },
    KillBridge {
        away_ms: u64,
    },
    /// The plugin's connection breaks and comes back.
    BreakSession,
    /// Answers of the dataplane are lost for so many requests.
    LoseAnswers(usize),
    /// The subscription takes a snapshot for no reason.
    Gap,
    Rekey(u8),
    Wait {
        ms: u64,
    },
}

fn blow() -> impl Strategy<Value = Blow> {
    let away = prop_oneof![Just(0_u64), 1_u64..300, 300_u64..12_000];
    prop_oneof![
        2 => away.clone().prop_map(|away_ms| Blow::KillDataplane { away_ms }),
        2 => away.clone().prop_map(|away_ms| Blow::KillCharon { away_ms }),
        2 => away.prop_map(|away_ms| Blow::KillBridge { away_ms }),
        1 => Just(Blow::BreakSession),
        2 => (1_usize..6).prop_map(Blow::LoseAnswers),
        1 => Just(Blow::Gap),
        3 => (1_u8..4).prop_map(Blow::Rekey),
        6 => prop_oneof![1_u64..50, 50_u64..3_000, 3_000_u64..70_000]
            .prop_map(|ms| Blow::Wait { ms }),
    ]
}

struct World {
    now: u64,
    manager: Option<Manager>,
    bridges: u32,
    dataplane: DataplaneModel,
    charon: Option<CharonModel>,
    /// Outcomes on their way to the bridge: when, ticket, incarnation, outcome.
    on_the_way: VecDeque<(u64, Ticket, Option<u64>, Outcome)>,
    lose: usize,
    snapshot_due: bool,
    list_due: Option<u64>,
    session: bool,
    revive: BTreeMap<&'static str, u64>,
    epoch: u64,
    numbers: u32,
    /// Told to charon: epoch, bridge, SPI, hard; how often.
    told: BTreeMap<(u64, u32, u32, bool), u32>,
    acknowledged: Vec<Vec<u8>>,
    /// Spreads delays without a generator.
    ticks: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: 1_000_000,
            manager: None,
            bridges: 0,
            dataplane: DataplaneModel::new(),
            charon: None,
            on_the_way: VecDeque::new(),
            lose: 0,
            snapshot_due: false,
            list_due: None,
            session: false,
            revive: BTreeMap::new(),
            epoch: 0,
            numbers: 0,
            told: BTreeMap::new(),
            acknowledged: Vec::new(),
            ticks: 0,
        };
        world.start_bridge();
        world.start_charon();
        world.snapshot_due = true;
        world
    }

    fn start_bridge(&mut self) {
        self.bridges += 1;
        let random = Counter(0x1000 + self.bridges * 0x10_0000);
        self.manager = Some(Manager::new(self.now, Box::new(random)));
        self.dataplane.forget_tickets();
        self.on_the_way.clear();
        self.snapshot_due = true;
        self.session = false;
        self.list_due = None;
    }

    fn start_charon(&mut self) {
        self.epoch += 1;
        self.charon = Some(CharonModel::new(self.epoch, self.numbers));
        self.session = false;
    }

    fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::KillDataplane { away_ms } => {
                self.dataplane.kill();
                self.revive.insert("dataplane", self.now + away_ms);
            }
            Blow::KillCharon { away_ms } => {
                if let Some(charon) = self.charon.take() {
                    self.numbers = charon.numbers;
                    self.acknowledged.extend(charon.acknowledged);
                }
                self.end_session();
                self.revive.insert("charon", self.now + away_ms);
            }
            Blow::KillBridge { away_ms } => {
                self.manager = None;
                self.session = false;
                self.revive.insert("bridge", self.now + away_ms);
            }
            Blow::BreakSession => self.end_session(),
            Blow::LoseAnswers(count) => self.lose = count,
            Blow::Gap => self.snapshot_due = true,
            Blow::Rekey(tunnel) => {
                if let Some(charon) = &mut self.charon {
                    let found = charon
                        .children
                        .iter()
                        .find(|(_, tracked)| {
                            tracked.up
                                && !tracked.replaced
                                && tracked.child.if_id == u32::from(tunnel)
                        })
                        .map(|(id, _)| *id);
                    if let Some(id) = found {
                        charon.create(tunnel, Some(id));
                    }
                }
            }
            Blow::Wait { ms } => self.pass(ms),
        }
        self.pass(1);
    }

    fn end_session(&mut self) {
        if std::mem::take(&mut self.session) {
            self.handle(Event::SessionDown);
        }
    }

    /// Time passes in small steps; in each everything that is due happens.
    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            let step = if ms > 5_000 { 100 } else { 10 };
            self.now = (self.now + step).min(until);
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let due: Vec<&str> = self
            .revive
            .iter()
            .filter(|(_, at)| **at <= self.now)
            .map(|(who, _)| *who)
            .collect();
        for who in due {
            self.revive.remove(who);
            match who {
                "dataplane" => {
                    self.dataplane.start();
                    self.snapshot_due = true;
                }
                "charon" => self.start_charon(),
                _ => self.start_bridge(),
            }
        }
        if self.snapshot_due && self.dataplane.alive && self.manager.is_some() {
            self.snapshot_due = false;
            let dump = self.dataplane.dump();
            self.handle(Event::Snapshot(dump));
        }
        self.connect();
        self.deliver();
        if self.list_due.is_some_and(|at| at <= self.now)
            && self.session
            && let Some(charon) = &self.charon
        {
            self.list_due = None;
            let list = charon.list();
            self.handle(Event::CharonSas(list));
        }
        self.handle(Event::Tick);
        self.charon_works();
    }

    fn connect(&mut self) {
        if self.session || self.manager.is_none() {
            return;
        }
        let Some(charon) = &self.charon else { return };
        self.session = true;
        let epoch = charon.epoch;
        // The plugin repeats what had no answer.
        let open: Vec<_> = charon
            .open
            .iter()
            .map(|(id, (call, _))| (*id, call.clone()))
            .collect();
        self.handle(Event::SessionUp {
            epoch,
            charon_started_ms: None,
        });
        for (id, call) in open {
            self.handle(Event::Call { id, call });
        }
    }

    fn deliver(&mut self) {
        let waiting = std::mem::take(&mut self.on_the_way);
        for (at, ticket, incarnation, outcome) in waiting {
            if at <= self.now {
                self.handle(Event::Answered {
                    ticket,
                    incarnation,
                    outcome,
                });
            } else {
                self.on_the_way
                    .push_back((at, ticket, incarnation, outcome));
            }
        }
    }

    fn charon_works(&mut self) {
        let now = self.now;
        let Some(charon) = &mut self.charon else {
            return;
        };
        for id in charon.impatient(now) {
            charon.answered(
                id,
                &Answer::failed(culvert_plugin_wire::Status::Failed, "time"),
            );
        }
        // What the configuration wants up and is not: the keeper initiates.
        for tunnel in TUNNELS {
            let any = charon
                .children
                .values()
                .any(|tracked| !tracked.dying && tracked.child.if_id == u32::from(tunnel));
            if !any {
                charon.create(tunnel, None);
            }
        }
        for (id, call) in charon.work(now) {
            if self.session {
                self.handle(Event::Call { id, call });
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        let Some(manager) = &mut self.manager else {
            return;
        };
        manager.handle(now, event);
        let mut actions = Vec::new();
        while let Some(action) = manager.poll() {
            actions.push(action);
        }
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Answer { id, answer } => {
                if self.session
                    && let Some(charon) = &mut self.charon
                {
                    charon.answered(id, &answer);
                }
            }
            Action::Upcall(Answer::Expire(expire)) => {
                assert!(self.session, "an upcall without a session");
                let key = (self.epoch, self.bridges, expire.spi, expire.hard);
                let told = self.told.entry(key).or_default();
                *told += 1;
                assert!(*told <= 2, "told {told} times: {key:?}");
                if let Some(charon) = &mut self.charon {
                    charon.expire(&expire);
                }
            }
            Action::Upcall(_) | Action::Forget(_) | Action::TrapsLost | Action::Wanted { .. } => {}
            Action::ListCharon => self.list_due = Some(self.now + 50 * (1 + self.ticks % 4)),
            Action::Ask { ticket, request } => self.ask(ticket, &request),
        }
    }

    fn ask(&mut self, ticket: Ticket, request: &Request) {
        self.check_key(request);
        let outcome = self.dataplane.carry_out(ticket, request);
        let lost = self.lose > 0;
        self.lose = self.lose.saturating_sub(1);
        let (delay, outcome) = if lost || matches!(outcome, Outcome::NoAnswer) {
            (1_000, Outcome::NoAnswer)
        } else {
            (20 * (self.ticks % 3), outcome)
        };
        let incarnation = match outcome {
            Outcome::NoAnswer => None,
            _ => Some(self.dataplane.incarnation),
        };
        self.on_the_way
            .push_back((self.now + delay, ticket, incarnation, outcome));
    }

    /// An SA that charon was told is there is never sent to a dataplane that does not hold it.
    fn check_key(&self, request: &Request) {
        if let Request::AddSa(installation) = request {
            let key = &installation.keys.as_ref().unwrap().encryption;
            let known = self.charon.iter().flat_map(|charon| &charon.acknowledged);
            let mut acknowledged = known.chain(&self.acknowledged);
            let held = self.dataplane.sas.values().any(|(_, other)| other == key);
            assert!(
                held || !acknowledged.any(|other| other == key),
                "a key in use is installed again"
            );
        }
    }

    fn check_settled(&self) {
        let charon = self.charon.as_ref().unwrap();
        assert!(charon.is_idle(), "charon still has calls under way");
        let mut expected: Vec<String> = charon
            .children
            .values()
            .flat_map(|tracked| [tracked.child.name_in(), tracked.child.name_out()])
            .map(|name| name.to_string())
            .collect();
        let mut held: Vec<String> = self.dataplane.sas.keys().map(ToString::to_string).collect();
        expected.sort();
        held.sort();
        assert_eq!(held, expected, "SAs of dataplane and charon");
        for tunnel in TUNNELS {
            assert_eq!(charon.tunnels_up(tunnel), 1, "tunnel {tunnel}");
        }
        let mut policies: Vec<u32> = self
            .dataplane
            .policies
            .keys()
            .filter(|key| key.slot.direction == PolicyDirection::Out)
            .map(|key| key.spi)
            .collect();
        let mut outbound: Vec<u32> = charon
            .children
            .values()
            .map(|tracked| tracked.child.spi_out)
            .collect();
        policies.sort_unstable();
        outbound.sort_unstable();
        assert_eq!(policies, outbound, "outbound policies");
        assert_eq!(self.dataplane.policies.len(), 3 * outbound.len());
        assert!(self.manager.as_ref().unwrap().is_reconciled());
    }
}

/// Runs a life to its peaceful end.
fn live(blows: Vec<Blow>) {
    let mut world = World::new();
    world.pass(2_000);
    for blow in blows {
        world.strike(blow);
    }
    world.lose = 0;
    // Orphans live two minutes at most; then wait for a moment in which no rekey is under way.
    world.pass(160_000);
    for _ in 0..200 {
        let charon = world.charon.as_ref().unwrap();
        let settled = charon.is_idle()
            && TUNNELS.iter().all(|tunnel| charon.tunnels_up(*tunnel) == 1)
            && charon.children.len() == TUNNELS.len()
            // Deleted inbound SAs linger for a moment.
            && world.dataplane.sas.len() <= 2 * TUNNELS.len();
        if settled && world.on_the_way.is_empty() {
            break;
        }
        world.pass(300);
    }
    world.check_settled();
}

#[test]
fn a_quiet_life_rekeys_and_stays_whole() {
    live(vec![Blow::Wait { ms: 400_000 }]);
}

#[test]
fn each_neighbour_dies_at_each_point_of_a_rekey() {
    for victim in 0..3 {
        for delay in 0..12 {
            for away_ms in [0, 500, 11_000] {
                let kill = match victim {
                    0 => Blow::KillDataplane { away_ms },
                    1 => Blow::KillCharon { away_ms },
                    _ => Blow::KillBridge { away_ms },
                };
                live(vec![
                    Blow::Rekey(1),
                    Blow::Wait { ms: 1 + delay * 10 },
                    kill,
                ]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_everybody_agrees_in_the_end(blows in proptest::collection::vec(blow(), 1..14)) {
        live(blows);
    }
}
