//! A scheduler of a world of numbers, driven until nothing more happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use culvert_scheduler::{Batch, Change, Domain, Failure, Planned, Scheduler, Standing};

/// Keys are numbers, the part of a key is what is left of it by three.
#[derive(Debug, Clone, Copy)]
pub enum Toy {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Can be changed in place.
    pub content: u8,
    /// Cannot.
    pub class: u8,
}

impl Domain for Toy {
    type Key = u8;
    type Part = u8;
    type Value = Value;

    fn same(planned: &Value, held: &Value) -> bool {
        planned == held
    }

    fn is_obtained(value: &Value) -> bool {
        value.class == OBTAINED
    }

    fn updates_in_place(held: &Value, planned: &Value) -> bool {
        held.class == planned.class
    }

    fn rank(key: &u8) -> u32 {
        u32::from(*key)
    }
}

pub type Plan = culvert_scheduler::Plan<Toy>;

pub const PARTS: u8 = 3;
/// Of values that come from nobody's configuration.
pub const OBTAINED: u8 = 200;

/// What the parts really hold, with what each value was made to need.
#[derive(Default)]
pub struct World {
    pub held: BTreeMap<u8, (Value, Vec<u8>)>,
    pub up: BTreeSet<u8>,
    /// Results of the next operations; then all succeed.
    pub troubles: Vec<bool>,
    /// What is done to this one fails each time.
    pub jinxed: Option<u8>,
    pub operations: usize,
}

impl World {
    pub fn of(&self, part: u8) -> Vec<(u8, Value)> {
        self.held
            .iter()
            .filter(|(key, _)| *key % PARTS == part)
            .map(|(key, (value, _))| (*key, *value))
            .collect()
    }

    /// Does a batch as a part would, and checks that it may be done. `plans`: all plans since the batch
    /// was decided on.
    pub fn run(&mut self, batch: &Batch<Toy>, plan: &Plan) -> Vec<Result<(), Failure>> {
        let mut results = Vec::new();
        for operation in &batch.operations {
            self.operations += 1;
            assert_eq!(operation.key % PARTS, batch.part);
            let jinx = (self.jinxed == Some(operation.key)).then_some(true);
            if let Some(retriable) = jinx.or_else(|| self.troubles.pop()) {
                results.push(Err(Failure {
                    retriable,
                    message: "trouble".to_owned(),
                    ..Failure::default()
                }));
                continue;
            }
            match operation.change {
                Change::Create(value) => {
                    let needs = &plan[&operation.key].needs;
                    for need in needs {
                        assert!(
                            self.held.contains_key(need),
                            "{} created before {need}",
                            operation.key
                        );
                    }
                    let before = self.held.insert(operation.key, (value, needs.clone()));
                    assert_eq!(before, None, "{} created twice", operation.key);
                }
                Change::Update(value) => {
                    let needs = plan[&operation.key].needs.clone();
                    let before = self.held.insert(operation.key, (value, needs)).unwrap();
                    assert_eq!(before.0.class, value.class, "{} updated", operation.key);
                }
                Change::Delete => {
                    let dependents = self
                        .held
                        .iter()
                        .find(|(_, (_, needs))| needs.contains(&operation.key));
                    assert_eq!(dependents, None, "{} deleted before it", operation.key);
                    self.held.remove(&operation.key).unwrap();
                }
            }
            results.push(Ok(()));
        }
        results
    }
}

/// A scheduler with its world, driven until nothing more happens.
pub struct Rig {
    pub scheduler: Scheduler<Toy>,
    pub world: World,
    pub plan: Plan,
    pub now: Duration,
    /// Batches whose results were not told yet, with the plan they were decided under.
    pub underway: Vec<(Batch<Toy>, Plan)>,
}

impl Rig {
    pub fn new() -> Self {
        let mut rig = Self {
            scheduler: Scheduler::new(),
            world: World::default(),
            plan: Plan::new(),
            now: Duration::ZERO,
            underway: Vec::new(),
        };
        for part in 0..PARTS {
            rig.up(part);
        }
        rig
    }

    pub fn up(&mut self, part: u8) {
        self.underway.retain(|(batch, _)| batch.part != part);
        self.world.up.insert(part);
        self.scheduler.part_up(part);
    }

    pub fn set_plan(&mut self, plan: Plan) {
        // What is right already needs what the new plan says.
        for (key, (value, needs)) in &mut self.world.held {
            if let Some(planned) = plan.get(key).filter(|planned| planned.value == *value) {
                needs.clone_from(&planned.needs);
            }
        }
        self.scheduler.set_plan(&plan).unwrap();
        self.plan = plan;
    }

    /// Asks and decides, without telling results.
    pub fn send(&mut self) {
        for part in self.scheduler.parts_to_retrieve() {
            let values = self.world.of(part);
            self.scheduler.retrieved(part, values);
        }
        for batch in self.scheduler.next_batches(self.now) {
            assert!(!batch.operations.is_empty());
            self.underway.push((batch, self.plan.clone()));
        }
    }

    pub fn finish(&mut self, which: usize) {
        let (batch, plan) = self.underway.remove(which);
        let results = self.world.run(&batch, &plan);
        self.scheduler.completed(batch.id, results, self.now);
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.send();
            if !self.underway.is_empty() {
                self.finish(0);
            } else if let Some(wakeup) = self.scheduler.next_wakeup() {
                self.now = self.now.max(wakeup);
            } else if self.scheduler.is_at_end() {
                return;
            }
        }
        let status: Vec<_> = self.scheduler.status().collect();
        panic!("does not settle: {status:?}");
    }

    pub fn assert_converged(&self) {
        let planned: BTreeMap<u8, Value> = self
            .plan
            .iter()
            .map(|(key, planned)| (*key, planned.value))
            .collect();
        let held: BTreeMap<u8, Value> = self
            .world
            .held
            .iter()
            .map(|(key, (value, _))| (*key, *value))
            .collect();
        assert_eq!(planned, held);
        assert!(self.scheduler.is_converged());
        for status in self.scheduler.status() {
            assert_eq!(status.standing, Standing::Configured, "{}", status.key);
        }
    }

    /// How many operations it takes until all is well again.
    pub fn operations(&mut self, what: impl FnOnce(&mut Self)) -> usize {
        let before = self.world.operations;
        what(self);
        self.settle();
        self.world.operations - before
    }
}

pub fn planned(key: u8, value: Value, needs: &[u8], after: &[u8]) -> (u8, Arc<Planned<Toy>>) {
    let planned = Planned::<Toy> {
        value,
        part: key % PARTS,
        needs: needs.to_vec(),
        after: after.to_vec(),
        origins: vec![format!("things[{key}]")],
    };
    (key, Arc::new(planned))
}

pub fn changed(plan: &mut Plan, key: u8) -> &mut Planned<Toy> {
    Arc::make_mut(plan.get_mut(&key).unwrap())
}

pub fn plain(content: u8) -> Value {
    Value { content, class: 0 }
}

/// 0 <- 3 <- 6 (needs), 7 after all of them, 1 needs 6.
pub fn small() -> Plan {
    BTreeMap::from([
        planned(0, plain(0), &[], &[]),
        planned(3, plain(3), &[0], &[]),
        planned(6, plain(6), &[3], &[]),
        planned(1, plain(1), &[6], &[]),
        planned(7, plain(7), &[], &[0, 3, 6]),
    ])
}
