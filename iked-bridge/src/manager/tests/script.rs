//! A manager with everything around it at hand, for tests that say step by step what happens.

use std::collections::VecDeque;
use std::net::SocketAddr;

use culvert_plugin_wire as wire;
use wire::{Answer, Call};

use super::dataplane_model::DataplaneModel;
use crate::association::SaName;
use crate::manager::{Action, CharonChild, Event, Manager, Outcome, Request, Ticket};
use crate::spi::Random;

pub const LOCAL: &str = "192.0.2.1";
pub const PEER: &str = "192.0.2.2";

/// Counts: every number once.
pub struct Counter(pub u32);

impl Random for Counter {
    fn next_u32(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// What happens to the dataplane's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// They come at once.
    Good,
    /// Requests arrive, answers are lost.
    LosesAnswers,
    /// Nothing arrives.
    Dead,
    /// Answers wait until the test lets them through.
    Waits,
}

pub struct Script {
    pub now: u64,
    pub manager: Manager,
    pub dataplane: DataplaneModel,
    pub line: Line,
    pub waiting: VecDeque<(Ticket, Request)>,
    pub answers: Vec<(u64, Answer)>,
    pub upcalls: Vec<Answer>,
    pub lists_wanted: usize,
    pub wanted: Vec<u32>,
    pub traps_lost: bool,
    inbox: VecDeque<Event>,
    pub last_call: u64,
    pub asked: Vec<(Ticket, Request)>,
    key: u32,
}

impl Script {
    /// Dataplane there, charon there.
    pub fn new() -> Self {
        let mut script = Self::bare();
        script.snapshot();
        script.session(1);
        script
    }

    /// Nobody there.
    pub fn bare() -> Self {
        Self {
            now: 1_000_000,
            manager: Manager::new(1_000_000, Box::new(Counter(0x1000))),
            dataplane: DataplaneModel::new(),
            line: Line::Good,
            waiting: VecDeque::new(),
            answers: Vec::new(),
            upcalls: Vec::new(),
            lists_wanted: 0,
            wanted: Vec::new(),
            traps_lost: false,
            inbox: VecDeque::new(),
            last_call: 0,
            asked: Vec::new(),
            key: 0,
        }
    }

    /// The bridge dies; its successor knows nothing.
    pub fn restart_bridge(&mut self) {
        self.manager = Manager::new(self.now, Box::new(Counter(0x9000)));
        self.dataplane.forget_tickets();
        self.waiting.clear();
    }

    pub fn handle(&mut self, event: Event) {
        self.manager.handle(self.now, event);
        self.pump();
    }

    pub fn snapshot(&mut self) {
        let dump = self.dataplane.dump();
        self.handle(Event::Snapshot(dump));
    }

    pub fn session(&mut self, epoch: u64) {
        self.handle(Event::SessionUp {
            epoch,
            charon_started_ms: None,
        });
    }

    /// Does what the manager says, until it says nothing more.
    pub fn pump(&mut self) {
        loop {
            while let Some(action) = self.manager.poll() {
                self.act(action);
            }
            let Some(event) = self.inbox.pop_front() else {
                return;
            };
            self.manager.handle(self.now, event);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Answer { id, answer } => self.answers.push((id, answer)),
            Action::Upcall(answer) => self.upcalls.push(answer),
            Action::Ask { ticket, request } => {
                self.asked.push((ticket, request.clone()));
                self.ask(ticket, request);
            }
            Action::Forget(_) => {}
            Action::ListCharon => self.lists_wanted += 1,
            Action::TrapsLost => self.traps_lost = true,
            Action::Wanted { if_id } => self.wanted.push(if_id),
        }
    }

    fn ask(&mut self, ticket: Ticket, request: Request) {
        match self.line {
            Line::Good => {
                let outcome = self.dataplane.carry_out(ticket, &request);
                self.answered(ticket, outcome);
            }
            Line::LosesAnswers => {
                self.dataplane.carry_out(ticket, &request);
                self.waiting.push_back((ticket, request));
            }
            Line::Dead | Line::Waits => self.waiting.push_back((ticket, request)),
        }
    }

    fn answered(&mut self, ticket: Ticket, outcome: Outcome) {
        let incarnation =
            (!matches!(outcome, Outcome::NoAnswer)).then_some(self.dataplane.incarnation);
        self.inbox.push_back(Event::Answered {
            ticket,
            incarnation,
            outcome,
        });
    }

    /// The shell's time-out of everything that got no answer.
    pub fn time_out(&mut self) {
        for (ticket, _) in std::mem::take(&mut self.waiting) {
            self.answered(ticket, Outcome::NoAnswer);
        }
        self.pump();
    }

    /// Lets requests that wait through.
    pub fn let_through(&mut self) {
        self.line = Line::Good;
        for (ticket, request) in std::mem::take(&mut self.waiting) {
            let outcome = self.dataplane.carry_out(ticket, &request);
            self.answered(ticket, outcome);
        }
        self.pump();
    }

    pub fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.manager.next_timer()
            && at <= until
        {
            self.now = self.now.max(at);
            self.handle(Event::Tick);
        }
        self.now = until;
        self.handle(Event::Tick);
    }

    /// Sends a call; gives its id.
    pub fn send(&mut self, call: Call) -> u64 {
        self.last_call += 1;
        let id = self.last_call;
        self.handle(Event::Call { id, call });
        id
    }

    pub fn answer_to(&self, id: u64) -> Option<&Answer> {
        self.answers
            .iter()
            .find(|(answered, _)| *answered == id)
            .map(|(_, answer)| answer)
    }

    /// Calls and takes the answer.
    pub fn call(&mut self, call: Call) -> Answer {
        let id = self.send(call);
        self.answer_to(id).cloned().expect("no answer")
    }

    pub fn done(&mut self, call: Call) {
        let answer = self.call(call);
        assert_eq!(answer, Answer::done());
    }

    pub fn get_spi(&mut self) -> u32 {
        match self.call(Call::GetSpi(wire::GetSpi::default())) {
            Answer::Spi(spi) => spi.spi,
            other => panic!("{other:?}"),
        }
    }

    /// A key that no other SA of this test has.
    pub fn new_key(&mut self) -> u32 {
        self.key += 1;
        self.key
    }

    pub fn add_in(&mut self, child: &Child) {
        let key = self.new_key();
        self.done(Call::AddSa(child.inbound(key)));
    }

    pub fn add_out(&mut self, child: &Child) {
        let key = self.new_key();
        self.done(Call::AddSa(child.outbound(key)));
    }

    pub fn policies(&mut self, child: &Child, directions: &[wire::PolicyDirection], add: bool) {
        for direction in directions {
            let (id, manage) = child.policy(*direction);
            let (id, manage) = (Some(id), Some(manage));
            self.done(if add {
                Call::AddPolicy(wire::AddPolicy { id, manage })
            } else {
                Call::DelPolicy(wire::DelPolicy { id, manage })
            });
        }
    }

    /// A CHILD SA as the initiator installs it.
    pub fn establish(&mut self, mut child: Child) -> Child {
        child.spi_in = self.get_spi();
        self.add_in(&child);
        self.add_out(&child);
        self.policies(&child, &ALL, true);
        child
    }

    pub fn expiries(&self) -> Vec<(u32, bool)> {
        self.upcalls
            .iter()
            .filter_map(|upcall| match upcall {
                Answer::Expire(expire) => Some((expire.spi, expire.hard)),
                _ => None,
            })
            .collect()
    }

    /// SPIs in the dataplane, once deleted inbound SAs do not linger any more.
    pub fn spis_later(&mut self) -> Vec<u32> {
        self.pass(crate::manager::orphans::LINGER_MS);
        self.spis()
    }

    /// SPIs in the dataplane.
    pub fn spis(&self) -> Vec<u32> {
        self.dataplane.sas.keys().map(|name| name.spi).collect()
    }

    pub fn list(&mut self, children: &[&Child]) {
        let list = children
            .iter()
            .map(|child| CharonChild {
                spi_in: child.spi_in,
                spi_out: child.spi_out,
                local: LOCAL.parse().unwrap(),
                installed: true,
                rekeying: false,
            })
            .collect();
        self.handle(Event::CharonSas(list));
    }
}

pub const ALL: [wire::PolicyDirection; 3] = [
    wire::PolicyDirection::In,
    wire::PolicyDirection::Forward,
    wire::PolicyDirection::Out,
];

/// A CHILD SA as charon holds it.
#[derive(Debug, Clone)]
pub struct Child {
    pub spi_in: u32,
    pub spi_out: u32,
    pub reqid: u32,
    pub if_id: u32,
    /// Third byte of our and the peer's /24.
    pub nets: (u8, u8),
    pub soft_s: u64,
    pub hard_s: u64,
    pub bytes: (u64, u64),
}

pub fn child(spi_out: u32) -> Child {
    Child {
        spi_in: 0,
        spi_out,
        reqid: 1,
        if_id: 7,
        nets: (1, 2),
        soft_s: 600,
        hard_s: 660,
        bytes: (0, 0),
    }
}

impl Child {
    pub fn name_in(&self) -> SaName {
        SaName {
            spi: self.spi_in,
            destination: LOCAL.parse().unwrap(),
        }
    }

    pub fn name_out(&self) -> SaName {
        SaName {
            spi: self.spi_out,
            destination: PEER.parse().unwrap(),
        }
    }

    fn near(&self) -> wire::Selector {
        net(self.nets.0)
    }

    fn far(&self) -> wire::Selector {
        net(self.nets.1)
    }

    pub fn id(&self, inbound: bool) -> wire::SaId {
        let (src, dst, spi) = if inbound {
            (PEER, LOCAL, self.spi_in)
        } else {
            (LOCAL, PEER, self.spi_out)
        };
        wire::SaId {
            src: Some(host(src, 4500)),
            dst: Some(host(dst, 4500)),
            spi,
            protocol: 50,
            mark: None,
            if_id: self.if_id,
        }
    }

    pub fn del(&self, inbound: bool) -> Call {
        Call::DelSa(wire::DelSa {
            id: Some(self.id(inbound)),
        })
    }

    pub fn query(&self, inbound: bool) -> Call {
        Call::QuerySa(wire::QuerySa {
            id: Some(self.id(inbound)),
        })
    }

    pub fn inbound(&self, key: u32) -> wire::AddSa {
        self.add(true, key_bytes(key))
    }

    pub fn outbound(&self, key: u32) -> wire::AddSa {
        self.add(false, key_bytes(key))
    }

    pub fn add(&self, inbound: bool, key: Vec<u8>) -> wire::AddSa {
        let (src, dst) = if inbound {
            (self.far(), self.near())
        } else {
            (self.near(), self.far())
        };
        wire::AddSa {
            id: Some(self.id(inbound)),
            reqid: self.reqid,
            mode: wire::Mode::Tunnel.into(),
            src_ts: vec![src],
            dst_ts: vec![dst],
            lifetimes: Some(wire::Lifetimes {
                time: Some(wire::Limit {
                    rekey: self.soft_s,
                    life: self.hard_s,
                }),
                bytes: Some(wire::Limit {
                    rekey: self.bytes.0,
                    life: self.bytes.1,
                }),
                packets: None,
            }),
            encryption: 20,
            integrity: 1024,
            keys: Some(wire::SaKeys {
                encryption: key,
                integrity: vec![],
            }),
            replay_window: 64,
            encap: true,
            inbound,
            ..wire::AddSa::default()
        }
    }

    pub fn policy(&self, direction: wire::PolicyDirection) -> (wire::PolicyId, wire::ManagePolicy) {
        let out = direction == wire::PolicyDirection::Out;
        let (src_ts, dst_ts) = if out {
            (self.near(), self.far())
        } else {
            (self.far(), self.near())
        };
        let (src, dst, spi) = if out {
            (LOCAL, PEER, self.spi_out)
        } else {
            (PEER, LOCAL, self.spi_in)
        };
        let id = wire::PolicyId {
            direction: direction.into(),
            src_ts: Some(src_ts),
            dst_ts: Some(dst_ts),
            mark: None,
            if_id: self.if_id,
            interface: String::new(),
        };
        let manage = wire::ManagePolicy {
            policy_type: wire::PolicyType::Ipsec.into(),
            priority: wire::PolicyPriority::Default.into(),
            manual_priority: 0,
            src: Some(host(src, 0)),
            dst: Some(host(dst, 0)),
            sa: Some(wire::SaCfg {
                mode: wire::Mode::Tunnel.into(),
                reqid: self.reqid,
                policy_count: 1,
                esp: Some(wire::EspOrAh { used: true, spi }),
                ah: None,
                ipcomp: 0,
            }),
        };
        (id, manage)
    }
}

fn key_bytes(key: u32) -> Vec<u8> {
    key.to_be_bytes().repeat(5)
}

fn net(third: u8) -> wire::Selector {
    wire::Selector::addresses([10, 0, third, 0].into(), [10, 0, third, 255].into())
}

pub fn host(address: &str, port: u16) -> wire::Host {
    SocketAddr::new(address.parse().unwrap(), port).into()
}
