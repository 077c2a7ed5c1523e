//! charon as the manager sees it: it makes CHILD SAs, rekeys them, deletes them, and reacts to expiries. Every job is a
//! list of calls, one after the other; jobs run side by side.

use std::collections::{BTreeMap, VecDeque};

use culvert_plugin_wire as wire;
use wire::{Answer, Call, PolicyDirection};

use super::script::{ALL, Child, LOCAL, child};
use crate::manager::CharonChild;

/// A CHILD SA and what has been installed of it.
#[derive(Debug, Clone)]
pub struct Tracked {
    pub child: Child,
    /// Listed as INSTALLED.
    pub up: bool,
    /// A successor is being made, or is there.
    pub replaced: bool,
    pub dying: bool,
}

/// What a job does next.
#[derive(Debug, Clone)]
enum Step {
    GetSpi,
    AddIn,
    AddOut,
    Add(PolicyDirection),
    Up,
    /// The new one is there: the old one goes.
    Retire(u32),
    Remove(PolicyDirection),
    DelOut,
    DelIn,
    Forget,
}

struct Job {
    child: u32,
    steps: VecDeque<Step>,
    call: Option<u64>,
}

/// One charon process.
pub struct CharonModel {
    pub epoch: u64,
    pub children: BTreeMap<u32, Tracked>,
    /// Keys of SAs that were acknowledged.
    pub acknowledged: Vec<Vec<u8>>,
    jobs: Vec<Job>,
    /// Calls without an answer, as the plugin keeps them: id, call, since when.
    pub open: BTreeMap<u64, (Call, u64)>,
    last_call: u64,
    /// Shared over epochs, so that nothing is ever the same.
    pub numbers: u32,
}

impl CharonModel {
    pub fn new(epoch: u64, numbers: u32) -> Self {
        Self {
            epoch,
            children: BTreeMap::new(),
            acknowledged: Vec::new(),
            jobs: Vec::new(),
            open: BTreeMap::new(),
            last_call: 0,
            numbers,
        }
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// Negotiates a CHILD SA for a tunnel; it replaces another one.
    pub fn create(&mut self, tunnel: u8, replaces: Option<u32>) {
        let id = self.number();
        // The peer's SPI: far from those that are drawn here.
        let spi_out = 0x8000_0000 + self.number();
        let child = Child {
            reqid: u32::from(tunnel),
            if_id: u32::from(tunnel),
            soft_s: 40,
            hard_s: 60,
            ..child(spi_out)
        };
        self.children.insert(
            id,
            Tracked {
                child,
                up: false,
                replaced: false,
                dying: false,
            },
        );
        let mut steps: VecDeque<Step> = [Step::GetSpi, Step::AddIn, Step::AddOut].into();
        steps.extend(ALL.map(Step::Add));
        steps.push_back(Step::Up);
        if let Some(old) = replaces {
            self.children.get_mut(&old).unwrap().replaced = true;
            steps.push_back(Step::Retire(old));
        }
        self.jobs.push(Job {
            child: id,
            steps,
            call: None,
        });
    }

    pub fn delete(&mut self, id: u32) {
        let Some(tracked) = self.children.get_mut(&id) else {
            return;
        };
        if tracked.dying {
            return;
        }
        (tracked.dying, tracked.up) = (true, false);
        self.jobs.retain(|job| job.child != id);
        let mut steps: VecDeque<Step> = VecDeque::new();
        steps.push_back(Step::Remove(PolicyDirection::Out));
        steps.push_back(Step::DelOut);
        steps.push_back(Step::Remove(PolicyDirection::In));
        steps.push_back(Step::Remove(PolicyDirection::Forward));
        steps.push_back(Step::DelIn);
        steps.push_back(Step::Forget);
        self.jobs.push(Job {
            child: id,
            steps,
            call: None,
        });
    }

    pub fn tunnels_up(&self, tunnel: u8) -> usize {
        self.children
            .values()
            .filter(|tracked| tracked.up && tracked.child.if_id == u32::from(tunnel))
            .count()
    }

    /// Nothing under way.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.open.is_empty()
    }

    /// The next calls to make.
    pub fn work(&mut self, now: u64) -> Vec<(u64, Call)> {
        let mut calls = Vec::new();
        let mut retired = Vec::new();
        for at in 0..self.jobs.len() {
            while self.jobs[at].call.is_none() {
                let Some(step) = self.jobs[at].steps.front().cloned() else {
                    break;
                };
                let id = self.jobs[at].child;
                let Some(tracked) = self.children.get_mut(&id) else {
                    self.jobs[at].steps.clear();
                    break;
                };
                let child = tracked.child.clone();
                let call = match step {
                    Step::GetSpi => Call::GetSpi(wire::GetSpi::default()),
                    Step::AddIn => Call::AddSa(child.add(true, key(id, true))),
                    Step::AddOut => Call::AddSa(child.add(false, key(id, false))),
                    Step::Add(direction) => {
                        let (id, manage) = child.policy(direction);
                        let (id, manage) = (Some(id), Some(manage));
                        Call::AddPolicy(wire::AddPolicy { id, manage })
                    }
                    Step::Remove(direction) => {
                        let (id, manage) = child.policy(direction);
                        let (id, manage) = (Some(id), Some(manage));
                        Call::DelPolicy(wire::DelPolicy { id, manage })
                    }
                    Step::DelOut => child.del(false),
                    Step::DelIn => child.del(true),
                    Step::Up => {
                        tracked.up = true;
                        self.jobs[at].steps.pop_front();
                        continue;
                    }
                    Step::Retire(old) => {
                        retired.push(old);
                        self.jobs[at].steps.pop_front();
                        continue;
                    }
                    Step::Forget => {
                        self.children.remove(&id);
                        self.jobs[at].steps.clear();
                        continue;
                    }
                };
                self.last_call += 1;
                self.jobs[at].call = Some(self.last_call);
                self.open.insert(self.last_call, (call.clone(), now));
                calls.push((self.last_call, call));
            }
        }
        self.jobs.retain(|job| !job.steps.is_empty());
        for old in retired {
            self.delete(old);
        }
        calls
    }

    /// The bridge's answer, or the plugin's own after 10 s.
    pub fn answered(&mut self, call: u64, answer: &Answer) {
        let Some((made, _)) = self.open.remove(&call) else {
            return;
        };
        if let (Call::AddSa(add), Answer::Done(_)) = (&made, answer) {
            self.acknowledged
                .push(add.keys.as_ref().unwrap().encryption.clone());
        }
        let Some(job) = self.jobs.iter_mut().find(|job| job.call == Some(call)) else {
            return;
        };
        job.call = None;
        let step = job.steps.pop_front().unwrap();
        let id = job.child;
        match (step, answer) {
            (Step::GetSpi, Answer::Spi(spi)) => {
                self.children.get_mut(&id).unwrap().child.spi_in = spi.spi;
            }
            (Step::GetSpi, _) => {
                // Nothing has been installed yet.
                self.jobs.retain(|job| job.child != id);
                self.children.remove(&id);
                self.unreplace();
            }
            (Step::AddIn | Step::AddOut | Step::Add(_), Answer::Failed(_)) => {
                self.delete(id);
                self.unreplace();
            }
            _ => {}
        }
    }

    /// A rekey that failed leaves the old CHILD SA as it was.
    fn unreplace(&mut self) {
        let successors: Vec<u32> = self
            .jobs
            .iter()
            .flat_map(|job| &job.steps)
            .filter_map(|step| match step {
                Step::Retire(old) => Some(*old),
                _ => None,
            })
            .collect();
        for (id, tracked) in &mut self.children {
            tracked.replaced &= successors.contains(id) || tracked.dying;
        }
    }

    /// Calls that waited for the bridge longer than the plugin does.
    pub fn impatient(&self, now: u64) -> Vec<u64> {
        self.open
            .iter()
            .filter(|(_, (call, since))| {
                now >= since + 10_000 && !matches!(call, Call::DelSa(_) | Call::DelPolicy(_))
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// An expiry: a soft one rekeys, a hard one deletes and makes anew. What is being set up is not found.
    pub fn expire(&mut self, expire: &wire::Expire) {
        let found = self
            .children
            .iter()
            .find(|(_, tracked)| {
                tracked.up && [tracked.child.spi_in, tracked.child.spi_out].contains(&expire.spi)
            })
            .map(|(id, tracked)| (*id, tracked.child.if_id as u8, tracked.replaced));
        let Some((id, tunnel, replaced)) = found else {
            return;
        };
        if expire.hard {
            self.delete(id);
            if !replaced {
                self.create(tunnel, None);
            }
        } else if !replaced {
            self.create(tunnel, Some(id));
        }
    }

    pub fn list(&self) -> Vec<CharonChild> {
        self.children
            .values()
            .filter(|tracked| tracked.up || tracked.dying)
            .map(|tracked| CharonChild {
                spi_in: tracked.child.spi_in,
                spi_out: tracked.child.spi_out,
                local: LOCAL.parse().unwrap(),
                installed: tracked.up,
                rekeying: tracked.replaced,
            })
            .collect()
    }
}

fn key(child: u32, inbound: bool) -> Vec<u8> {
    let mut key = child.to_be_bytes().to_vec();
    key.resize(19, 0);
    key.push(u8::from(inbound));
    key
}
