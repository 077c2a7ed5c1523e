//! The dataplane as the manager sees it: it holds SAs and policies, answers, and sometimes dies.

use std::collections::BTreeMap;

use culvert_model::bus::{self, refusal::Code};

use crate::association::SaName;
use crate::manager::{Outcome, Reply, Request, Ticket};
use crate::policy::{self, Key, Rule};

/// One dataplane process after another.
pub struct DataplaneModel {
    pub incarnation: u64,
    pub alive: bool,
    pub sas: BTreeMap<SaName, (bus::Sa, Vec<u8>)>,
    pub policies: BTreeMap<Key, Rule>,
    /// How often each key was installed, over all incarnations.
    pub installed: BTreeMap<Vec<u8>, u32>,
    pub usage: BTreeMap<SaName, bus::SaUsage>,
    /// What was answered to a ticket, and by whom it may have been carried out.
    answered: BTreeMap<Ticket, u64>,
    /// Counts requests that changed something.
    pub changes: usize,
}

impl DataplaneModel {
    pub fn new() -> Self {
        Self {
            incarnation: 1,
            alive: true,
            sas: BTreeMap::new(),
            policies: BTreeMap::new(),
            installed: BTreeMap::new(),
            usage: BTreeMap::new(),
            answered: BTreeMap::new(),
            changes: 0,
        }
    }

    /// The process dies, everything it held with it.
    pub fn kill(&mut self) {
        self.alive = false;
        self.sas.clear();
        self.policies.clear();
        self.usage.clear();
    }

    /// The next process.
    pub fn start(&mut self) {
        self.kill();
        self.alive = true;
        self.incarnation += 1;
    }

    /// A bridge that restarted draws tickets anew.
    pub fn forget_tickets(&mut self) {
        self.answered.clear();
    }

    pub fn dump(&self) -> bus::DumpSasReply {
        bus::DumpSasReply {
            sas: self
                .sas
                .iter()
                .map(|(name, (sa, _))| bus::SaDump {
                    sa: Some(sa.clone()),
                    usage: self.usage.get(name).cloned(),
                    fingerprint: vec![],
                    cleared: None,
                })
                .collect(),
            policies: self
                .policies
                .iter()
                .map(|(key, rule)| policy::to_bus(*key, rule))
                .collect(),
            published: 0,
            incarnation: self.incarnation,
        }
    }

    /// Carries a request out, as the bus would: once for a ticket, never by a successor.
    pub fn carry_out(&mut self, ticket: Ticket, request: &Request) -> Outcome {
        if !self.alive {
            return Outcome::NoAnswer;
        }
        let changes = !matches!(request, Request::QuerySas | Request::DumpSas);
        if let Some(by) = self.answered.get(&ticket)
            && changes
        {
            return if *by == self.incarnation {
                // Only successes are asked for again in these tests.
                Outcome::Done(Reply::Done)
            } else {
                Outcome::Restarted
            };
        }
        self.answered.insert(ticket, self.incarnation);
        self.changes += usize::from(changes);
        match request {
            Request::AddSa(installation) => {
                let sa = installation.sa.clone().unwrap();
                let key = installation.keys.as_ref().unwrap().encryption.clone();
                let (name, _) = SaName::from_bus(sa.key.as_ref()).unwrap();
                match self.sas.get(&name) {
                    Some((_, other)) if *other == key => Outcome::Done(Reply::Done),
                    Some(_) => refused(Code::Exists),
                    None => {
                        *self.installed.entry(key.clone()).or_default() += 1;
                        self.sas.insert(name, (sa, key));
                        Outcome::Done(Reply::Done)
                    }
                }
            }
            Request::UpdateSa(update) => {
                let (name, direction) = SaName::from_bus(update.key.as_ref()).unwrap();
                let Some((mut sa, key)) = self.sas.remove(&name) else {
                    return refused(Code::NotFound);
                };
                let new = SaName {
                    spi: name.spi,
                    destination: std::net::IpAddr::try_from(
                        update.new_destination.as_ref().unwrap(),
                    )
                    .unwrap(),
                };
                sa.key = Some(new.to_bus(direction));
                sa.source.clone_from(&update.new_source);
                sa.udp = update.new_udp;
                self.sas.insert(new, (sa, key));
                Outcome::Done(Reply::Done)
            }
            Request::DelSa(request) => {
                let (name, _) = SaName::from_bus(request.key.as_ref()).unwrap();
                match self.sas.remove(&name) {
                    Some(_) => Outcome::Done(Reply::Deleted(self.usage.remove(&name))),
                    None => refused(Code::NotFound),
                }
            }
            Request::QuerySas => {
                Outcome::Done(Reply::Usages(self.usage.values().cloned().collect()))
            }
            Request::DumpSas => Outcome::Done(Reply::Dump(self.dump())),
            Request::AddPolicy(request) => {
                let (key, rule) = policy::from_bus(request.policy.as_ref().unwrap()).unwrap();
                self.policies.insert(key, rule);
                Outcome::Done(Reply::Done)
            }
            Request::DelPolicy(request) => {
                let (key, _) = policy::from_bus(&bus::Policy {
                    key: request.key.clone(),
                    ..bus::Policy::default()
                })
                .unwrap();
                match self.policies.remove(&key) {
                    Some(_) => Outcome::Done(Reply::Done),
                    None => refused(Code::NotFound),
                }
            }
        }
    }
}

fn refused(code: Code) -> Outcome {
    Outcome::Refused {
        code,
        message: format!("{code:?}"),
    }
}
