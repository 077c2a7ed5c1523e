//! Whatever happens, what the parts hold becomes what is planned, and nothing is sent needlessly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use culvert_scheduler::{
    Batch, Change, Domain, Failure, Planned, Scheduler, SetPlanError, Standing,
};
use proptest::prelude::*;
use proptest::sample::Index;

/// Keys are numbers, the part of a key is what is left of it by three.
#[derive(Debug, Clone, Copy)]
enum Toy {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    /// Can be changed in place.
    content: u8,
    /// Cannot.
    class: u8,
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

type Plan = culvert_scheduler::Plan<Toy>;

const PARTS: u8 = 3;
/// Of values that come from nobody's configuration.
const OBTAINED: u8 = 200;

/// What the parts really hold, with what each value was made to need.
#[derive(Default)]
struct World {
    held: BTreeMap<u8, (Value, Vec<u8>)>,
    up: BTreeSet<u8>,
    /// Results of the next operations; then all succeed.
    troubles: Vec<bool>,
    /// What is done to this one fails each time.
    jinxed: Option<u8>,
    operations: usize,
}

impl World {
    fn of(&self, part: u8) -> Vec<(u8, Value)> {
        self.held
            .iter()
            .filter(|(key, _)| *key % PARTS == part)
            .map(|(key, (value, _))| (*key, *value))
            .collect()
    }

    /// Does a batch as a part would, and checks that it may be done. `plans`: all plans since the batch
    /// was decided on.
    fn run(&mut self, batch: &Batch<Toy>, plan: &Plan) -> Vec<Result<(), Failure>> {
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
struct Rig {
    scheduler: Scheduler<Toy>,
    world: World,
    plan: Plan,
    now: Duration,
    /// Batches whose results were not told yet, with the plan they were decided under.
    underway: Vec<(Batch<Toy>, Plan)>,
}

impl Rig {
    fn new() -> Self {
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

    fn up(&mut self, part: u8) {
        self.underway.retain(|(batch, _)| batch.part != part);
        self.world.up.insert(part);
        self.scheduler.part_up(part);
    }

    fn set_plan(&mut self, plan: Plan) {
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
    fn send(&mut self) {
        for part in self.scheduler.parts_to_retrieve() {
            let values = self.world.of(part);
            self.scheduler.retrieved(part, values);
        }
        for batch in self.scheduler.next_batches(self.now) {
            assert!(!batch.operations.is_empty());
            self.underway.push((batch, self.plan.clone()));
        }
    }

    fn finish(&mut self, which: usize) {
        let (batch, plan) = self.underway.remove(which);
        let results = self.world.run(&batch, &plan);
        self.scheduler.completed(batch.id, results, self.now);
    }

    fn settle(&mut self) {
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

    fn assert_converged(&self) {
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
    fn operations(&mut self, what: impl FnOnce(&mut Self)) -> usize {
        let before = self.world.operations;
        what(self);
        self.settle();
        self.world.operations - before
    }
}

fn planned(key: u8, value: Value, needs: &[u8], after: &[u8]) -> (u8, Arc<Planned<Toy>>) {
    let planned = Planned::<Toy> {
        value,
        part: key % PARTS,
        needs: needs.to_vec(),
        after: after.to_vec(),
        origins: vec![format!("things[{key}]")],
    };
    (key, Arc::new(planned))
}

fn changed(plan: &mut Plan, key: u8) -> &mut Planned<Toy> {
    Arc::make_mut(plan.get_mut(&key).unwrap())
}

fn plain(content: u8) -> Value {
    Value { content, class: 0 }
}

/// 0 <- 3 <- 6 (needs), 7 after all of them, 1 needs 6.
fn small() -> Plan {
    BTreeMap::from([
        planned(0, plain(0), &[], &[]),
        planned(3, plain(3), &[0], &[]),
        planned(6, plain(6), &[3], &[]),
        planned(1, plain(1), &[6], &[]),
        planned(7, plain(7), &[], &[0, 3, 6]),
    ])
}

#[test]
fn values_are_created_in_order_and_deleted_in_the_reverse() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    let mut order = Vec::new();
    let mut run = |rig: &mut Rig| {
        loop {
            rig.send();
            if rig.underway.is_empty() {
                break;
            }
            order.extend(
                rig.underway[0]
                    .0
                    .operations
                    .iter()
                    .map(|operation| operation.key),
            );
            rig.finish(0);
        }
        std::mem::take(&mut order)
    };
    let created = run(&mut rig);
    let place = |list: &[u8], key: u8| list.iter().position(|other| *other == key).unwrap();
    assert_eq!(created.len(), 5);
    for (first, then) in [(0, 3), (3, 6), (6, 1), (6, 7)] {
        assert!(
            place(&created, first) < place(&created, then),
            "{created:?}"
        );
    }
    rig.set_plan(Plan::new());
    let deleted = run(&mut rig);
    assert_eq!(deleted.len(), 5);
    for (first, then) in [(0, 3), (3, 6), (6, 1), (6, 7)] {
        assert!(
            place(&deleted, first) > place(&deleted, then),
            "{deleted:?}"
        );
    }
    assert_eq!(rig.scheduler.status().count(), 0);
}

#[test]
fn a_value_waits_for_what_is_missing_and_says_so() {
    let mut rig = Rig::new();
    // 3 fails for good; what needs it waits, and 7 comes after it.
    rig.world.troubles = vec![false];
    let mut plan = small();
    plan.remove(&0);
    changed(&mut plan, 3).needs.clear();
    changed(&mut plan, 7).after = vec![3];
    rig.set_plan(plan);
    rig.settle();
    let standing = |rig: &Rig, key: u8| {
        let mut status = rig.scheduler.status();
        let status = status.find(|status| *status.key == key).unwrap();
        assert_eq!(status.origins, [format!("things[{key}]")]);
        status.standing
    };
    assert_eq!(
        standing(&rig, 3),
        Standing::Failed {
            message: "trouble".to_owned()
        }
    );
    assert_eq!(standing(&rig, 6), Standing::Pending { missing: vec![3] });
    assert_eq!(standing(&rig, 1), Standing::Pending { missing: vec![6] });
    assert_eq!(standing(&rig, 7), Standing::Pending { missing: vec![3] });
    assert!(!rig.scheduler.is_converged());
    assert!(rig.scheduler.is_at_end());
    // Another value for it is another chance.
    let mut plan = rig.plan.clone();
    changed(&mut plan, 3).value = plain(33);
    rig.set_plan(plan);
    rig.settle();
    rig.assert_converged();
}

#[test]
fn states_tell_where_a_value_comes_from_and_what_became_of_it() {
    let mut rig = Rig::new();
    let value = |class| Value { content: 0, class };
    // 9 is there before anybody plans anything.
    rig.world.held.insert(9, (value(0), Vec::new()));
    rig.set_plan(BTreeMap::from([
        planned(0, value(0), &[], &[]),
        planned(3, value(OBTAINED), &[], &[]),
        planned(1, value(0), &[], &[]),
    ]));
    let standings = |rig: &Rig| -> BTreeMap<u8, &str> {
        let status = rig.scheduler.status().chain(rig.scheduler.removed());
        status.map(|one| (*one.key, one.standing.name())).collect()
    };
    for part in 0..PARTS {
        let values = rig.world.of(part);
        rig.scheduler.retrieved(part, values);
    }
    let before = BTreeMap::from([
        (0, "applying"),
        (1, "applying"),
        (3, "applying"),
        (9, "discovered"),
    ]);
    assert_eq!(standings(&rig), before);
    // The part of 1 refuses it for good, and says what it is.
    let [first, second] = <[_; 2]>::try_from(rig.scheduler.next_batches(rig.now)).unwrap();
    assert_eq!((first.part, second.part), (0, 1));
    let results = rig.world.run(&first, &rig.plan.clone());
    rig.scheduler.completed(first.id, results, rig.now);
    let invalid = Failure {
        retriable: false,
        message: "too large".to_owned(),
        fields: vec!["content".to_owned()],
    };
    rig.scheduler.completed(second.id, [Err(invalid)], rig.now);
    rig.settle();
    let after = BTreeMap::from([
        (0, "configured"),
        (1, "invalid"),
        (3, "obtained"),
        (9, "removed"),
    ]);
    assert_eq!(standings(&rig), after);
    let one = rig.scheduler.status().find(|one| *one.key == 1).unwrap();
    assert_eq!(
        one.standing,
        Standing::Invalid {
            fields: vec!["content".to_owned()],
            message: "too large".to_owned()
        }
    );
    // What is planned again is not gone any longer.
    rig.set_plan(BTreeMap::from([planned(9, value(0), &[], &[])]));
    rig.settle();
    let removed: Vec<u8> = rig.scheduler.removed().map(|one| *one.key).collect();
    assert_eq!(removed, [3, 0]);
    rig.assert_converged();
}

#[test]
fn a_value_that_needs_what_is_in_no_plan_is_not_held() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.settle();
    let mut plan = small();
    plan.remove(&3);
    rig.set_plan(plan);
    rig.settle();
    let held: Vec<u8> = rig.world.held.keys().copied().collect();
    // 7 only came after them: it stays.
    assert_eq!(held, [0, 7]);
}

#[test]
fn retries_wait_twice_as_long_each_time() {
    let mut rig = Rig::new();
    rig.world.troubles = vec![true; 12];
    rig.set_plan(BTreeMap::from([planned(0, plain(1), &[], &[])]));
    let mut waits = Vec::new();
    loop {
        rig.send();
        if rig.underway.is_empty() {
            break;
        }
        rig.finish(0);
        if let Some(wakeup) = rig.scheduler.next_wakeup() {
            // Not earlier.
            assert!(rig.scheduler.next_batches(rig.now).is_empty());
            waits.push(wakeup.saturating_sub(rig.now).as_millis());
            rig.now = wakeup;
        }
    }
    assert_eq!(
        waits,
        [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000
        ]
    );
    rig.assert_converged();
}

#[test]
fn a_part_that_restarts_empty_gets_its_values_and_the_others_nothing() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.settle();
    rig.world.held.retain(|key, _| key % PARTS != 0);
    rig.scheduler.part_down(0);
    assert_eq!(rig.operations(|_| {}), 0);
    assert_eq!(rig.operations(|rig| rig.up(0)), 3);
    rig.assert_converged();
}

#[test]
fn a_part_that_restarts_with_its_values_gets_nothing() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.settle();
    for part in 0..PARTS {
        assert_eq!(rig.operations(|rig| rig.up(part)), 0);
    }
}

#[test]
fn building_anew_takes_what_needs_it_along() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.settle();
    let mut plan = small();
    changed(&mut plan, 3).value.class = 1;
    // 3, 6 and 1 go and come; 7 stays.
    assert_eq!(rig.operations(|rig| rig.set_plan(plan)), 6);
    rig.assert_converged();
}

#[test]
fn values_that_wait_for_each_other_are_refused() {
    let mut scheduler = Scheduler::<Toy>::new();
    let plan = BTreeMap::from([
        planned(0, plain(0), &[1], &[]),
        planned(1, plain(0), &[], &[2]),
        planned(2, plain(0), &[0], &[]),
        planned(3, plain(0), &[], &[]),
    ]);
    assert_eq!(
        scheduler.set_plan(&plan),
        Err(SetPlanError::Circle {
            keys: vec![0, 1, 2]
        })
    );
}

#[test]
fn values_of_two_plans_that_hold_each_other_up_still_go() {
    let mut rig = Rig::new();
    rig.set_plan(BTreeMap::from([
        planned(0, plain(0), &[], &[]),
        planned(3, plain(0), &[0], &[]),
    ]));
    rig.settle();
    // 3 cannot be updated for now, so that it still needs 0, which by now needs 3.
    rig.set_plan(BTreeMap::from([
        planned(0, plain(1), &[3], &[]),
        planned(3, plain(1), &[], &[]),
    ]));
    rig.send();
    let keys: Vec<u8> = rig.underway[0]
        .0
        .operations
        .iter()
        .map(|operation| operation.key)
        .collect();
    assert_eq!(keys, [0, 3]);
    let (batch, _) = rig.underway.remove(0);
    let failure = Failure {
        retriable: true,
        message: "later".to_owned(),
        ..Failure::default()
    };
    rig.scheduler
        .completed(batch.id, [Ok(()), Err(failure)], rig.now);
    rig.world.held.insert(0, (plain(1), Vec::new()));
    rig.world.held.insert(3, (plain(0), Vec::new()));
    rig.set_plan(Plan::new());
    rig.settle();
    rig.assert_converged();
}

/// 11 needed 1 and is to need 4, which comes after the new 1: it cannot stay while 1 is built anew.
#[test]
fn a_value_between_two_plans_is_built_anew() {
    let mut rig = Rig::new();
    let value = |content, class| Value { content, class };
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 0), &[], &[]),
        planned(11, value(0, 0), &[1], &[]),
    ]));
    rig.settle();
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 1), &[], &[]),
        planned(4, value(0, 0), &[], &[1]),
        planned(11, value(1, 0), &[4], &[]),
    ]));
    rig.settle();
    rig.assert_converged();
}

/// As before, and 14 needed 11: once 11 has to go, 14 cannot stay either.
#[test]
fn values_between_two_plans_that_need_each_other_are_built_anew() {
    let mut rig = Rig::new();
    let value = |content, class| Value { content, class };
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 0), &[], &[]),
        planned(11, value(0, 0), &[1], &[]),
        planned(14, value(0, 0), &[11], &[]),
    ]));
    rig.settle();
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 1), &[], &[]),
        planned(4, value(0, 0), &[], &[1]),
        planned(11, value(1, 0), &[4], &[]),
        planned(14, value(1, 0), &[4], &[]),
    ]));
    rig.settle();
    rig.assert_converged();
}

/// What is tried again for ever keeps nobody else between two plans.
#[test]
fn a_value_that_fails_again_and_again_holds_up_no_other() {
    let mut rig = Rig::new();
    let value = |content, class| Value { content, class };
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 0), &[], &[]),
        planned(11, value(0, 0), &[1], &[]),
    ]));
    rig.settle();
    rig.world.jinxed = Some(3);
    rig.set_plan(BTreeMap::from([
        planned(1, value(0, 1), &[], &[]),
        planned(3, value(0, 0), &[], &[]),
        planned(4, value(0, 0), &[], &[1]),
        planned(11, value(1, 0), &[4], &[]),
    ]));
    for _ in 0..50 {
        rig.send();
        if !rig.underway.is_empty() {
            rig.finish(0);
        } else if let Some(wakeup) = rig.scheduler.next_wakeup() {
            rig.now = rig.now.max(wakeup);
        }
    }
    let held: Vec<(u8, Value)> = rig
        .world
        .held
        .iter()
        .map(|(key, (value, _))| (*key, *value))
        .collect();
    assert_eq!(
        held,
        [(1, value(0, 1)), (4, value(0, 0)), (11, value(1, 0))]
    );
    rig.world.jinxed = None;
    rig.settle();
    rig.assert_converged();
}

/// 7 leaves together with the 0 that it is to need. 0 is gone first; nothing is built on 7 meanwhile.
#[test]
fn nothing_is_built_on_what_is_being_deleted() {
    let mut rig = Rig::new();
    let value = |content, class| Value { content, class };
    rig.set_plan(BTreeMap::from([
        planned(0, value(0, 1), &[], &[]),
        planned(7, value(0, 0), &[], &[]),
    ]));
    rig.settle();
    rig.set_plan(BTreeMap::from([
        planned(0, value(0, 0), &[], &[]),
        planned(7, value(1, 0), &[0], &[]),
        planned(8, value(0, 0), &[7], &[]),
    ]));
    rig.send();
    assert_eq!(rig.underway.len(), 2);
    rig.finish(0);
    rig.send();
    rig.finish(0);
    rig.settle();
    rig.assert_converged();
}

/// 1 is being made on 0 when a new plan wants both gone: 0 waits until that is over.
#[test]
fn what_is_being_built_on_is_not_deleted() {
    let mut rig = Rig::new();
    rig.set_plan(BTreeMap::from([
        planned(0, plain(0), &[], &[]),
        planned(1, plain(0), &[0], &[]),
    ]));
    rig.send();
    rig.finish(0);
    rig.send();
    assert_eq!(rig.underway.len(), 1);
    rig.set_plan(Plan::new());
    assert!(rig.scheduler.next_batches(rig.now).is_empty());
    rig.finish(0);
    rig.settle();
    rig.assert_converged();
}

#[test]
fn results_of_a_part_that_went_away_are_passed_over() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.send();
    let (batch, _) = rig.underway.remove(0);
    rig.scheduler.part_down(batch.part);
    rig.scheduler.completed(batch.id, [Ok(())], rig.now);
    rig.up(batch.part);
    rig.settle();
    rig.assert_converged();
}

#[test]
fn a_batch_without_an_answer_is_found_out_about() {
    let mut rig = Rig::new();
    rig.set_plan(small());
    rig.send();
    // It was done, but nobody heard.
    let (batch, plan) = rig.underway.remove(0);
    rig.world.run(&batch, &plan);
    rig.scheduler.batch_lost(batch.id);
    assert_eq!(rig.scheduler.parts_to_retrieve(), [batch.part]);
    rig.settle();
    rig.assert_converged();
}

/// A plan over some of 24 keys in which each depends on lower ones only.
fn plans() -> impl Strategy<Value = Plan> {
    let entry = (0_u8..4, 0_u8..2, any::<u32>(), any::<u32>());
    proptest::collection::btree_map(0_u8..24, entry, 0..24).prop_map(|entries| {
        let keys: Vec<u8> = entries.keys().copied().collect();
        entries
            .into_iter()
            .map(|(key, (content, class, needs, after))| {
                let lower = |bits: u32| -> Vec<u8> {
                    keys.iter()
                        .copied()
                        .filter(|other| *other < key && bits >> (other % 32) & 5 == 5)
                        .collect()
                };
                planned(key, Value { content, class }, &lower(needs), &lower(after))
            })
            .collect()
    })
}

#[derive(Debug, Clone)]
enum Event {
    Plan(Plan),
    Down(u8),
    /// Whether it lost its values.
    Up(u8, bool),
    /// The scheduler begins anew, knowing the plan alone; the parts go on.
    Begin,
    Resynchronise(u8),
    Trouble(Vec<bool>),
    Send,
    Finish(Index),
    Lose(Index),
    /// Somebody else changed what a part holds.
    Remove(Index),
    Alter(Index, u8),
    Insert(u8),
    Later(u16),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => plans().prop_map(Event::Plan),
        1 => (0..PARTS).prop_map(Event::Down),
        2 => (0..PARTS, any::<bool>()).prop_map(|(part, lost)| Event::Up(part, lost)),
        1 => Just(Event::Begin),
        1 => (0..PARTS).prop_map(Event::Resynchronise),
        1 => proptest::collection::vec(proptest::bool::weighted(0.8), 0..5).prop_map(Event::Trouble),
        8 => Just(Event::Send),
        8 => any::<Index>().prop_map(Event::Finish),
        1 => any::<Index>().prop_map(Event::Lose),
        1 => any::<Index>().prop_map(Event::Remove),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(index, content)| Event::Alter(index, content)),
        1 => (24_u8..40).prop_map(Event::Insert),
        2 => any::<u16>().prop_map(Event::Later),
    ]
}

/// Drives a rig without the world's checks of order: what others change behind the scheduler's back makes
/// operations that were right when they were decided wrong.
struct Rough(Rig);

impl Rough {
    fn event(&mut self, event: Event) {
        let rig = &mut self.0;
        match event {
            Event::Plan(plan) => rig.set_plan(plan),
            Event::Down(part) => {
                rig.underway.retain(|(batch, _)| batch.part != part);
                rig.world.up.remove(&part);
                rig.scheduler.part_down(part);
            }
            Event::Up(part, lost) => {
                if lost {
                    rig.world.held.retain(|key, _| key % PARTS != part);
                }
                rig.up(part);
            }
            Event::Begin => {
                rig.underway.clear();
                rig.scheduler = Scheduler::new();
                rig.scheduler.set_plan(&rig.plan).unwrap();
                for part in &rig.world.up {
                    rig.scheduler.part_up(*part);
                }
            }
            Event::Resynchronise(part) => rig.scheduler.resynchronise(part),
            Event::Trouble(troubles) => rig.world.troubles = troubles,
            Event::Send => rig.send(),
            Event::Finish(index) if !rig.underway.is_empty() => {
                let which = index.index(rig.underway.len());
                self.finish(which);
            }
            Event::Lose(index) if !rig.underway.is_empty() => {
                let which = index.index(rig.underway.len());
                let (batch, _) = rig.underway.remove(which);
                rig.scheduler.batch_lost(batch.id);
            }
            Event::Remove(index) if !rig.world.held.is_empty() => {
                let which = index.index(rig.world.held.len());
                let key = *rig.world.held.keys().nth(which).unwrap();
                rig.world.held.remove(&key);
            }
            Event::Alter(index, content) if !rig.world.held.is_empty() => {
                let which = index.index(rig.world.held.len());
                rig.world.held.values_mut().nth(which).unwrap().0.content = content;
            }
            Event::Insert(key) => {
                rig.world.held.insert(key, (plain(0), Vec::new()));
            }
            Event::Later(ms) => rig.now += Duration::from_millis(u64::from(ms)),
            Event::Finish(_) | Event::Lose(_) | Event::Remove(_) | Event::Alter(..) => {}
        }
    }

    fn finish(&mut self, which: usize) {
        let rig = &mut self.0;
        let (batch, _) = rig.underway.remove(which);
        let mut results = Vec::new();
        for operation in &batch.operations {
            if let Some(retriable) = rig.world.troubles.pop() {
                let message = "trouble".to_owned();
                results.push(Err(Failure {
                    retriable,
                    message,
                    ..Failure::default()
                }));
                continue;
            }
            match operation.change {
                Change::Create(value) | Change::Update(value) => {
                    rig.world.held.insert(operation.key, (value, Vec::new()));
                }
                Change::Delete => {
                    rig.world.held.remove(&operation.key);
                }
            }
            results.push(Ok(()));
        }
        rig.scheduler.completed(batch.id, results, rig.now);
    }

    /// Everything comes back, nothing fails any longer, everybody is asked once more.
    fn recover(&mut self) {
        self.0.world.troubles.clear();
        while !self.0.underway.is_empty() {
            self.finish(0);
        }
        for part in 0..PARTS {
            self.0.up(part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Plans change while batches are under way and fail: the order always holds, and the end is right.
    #[test]
    fn plans_and_failures_keep_the_order_and_converge(
        steps in proptest::collection::vec(
            prop_oneof![
                2 => plans().prop_map(Event::Plan),
                1 => proptest::collection::vec(Just(true), 0..5).prop_map(Event::Trouble),
                4 => Just(Event::Send),
                4 => any::<Index>().prop_map(Event::Finish),
                2 => any::<u16>().prop_map(Event::Later),
            ],
            0..60
        )
    ) {
        let mut rig = Rig::new();
        for step in steps {
            match step {
                Event::Plan(plan) => {
                    // A batch under way is done under the plan that it was decided under.
                    while !rig.underway.is_empty() {
                        rig.finish(0);
                    }
                    rig.set_plan(plan);
                }
                Event::Trouble(troubles) => rig.world.troubles = troubles,
                Event::Send => rig.send(),
                Event::Finish(index) if !rig.underway.is_empty() => {
                    let which = index.index(rig.underway.len());
                    rig.finish(which);
                }
                Event::Later(ms) => rig.now += Duration::from_millis(u64::from(ms)),
                _ => {}
            }
        }
        rig.world.troubles.clear();
        rig.settle();
        rig.assert_converged();
    }

    /// Anything at all, in any order.
    #[test]
    fn everything_at_once_converges(
        steps in proptest::collection::vec(events(), 0..80)
    ) {
        let mut rough = Rough(Rig::new());
        for step in steps {
            rough.event(step);
        }
        rough.recover();
        for _ in 0..10_000 {
            rough.0.send();
            if !rough.0.underway.is_empty() {
                rough.finish(0);
            } else if let Some(wakeup) = rough.0.scheduler.next_wakeup() {
                rough.0.now = rough.0.now.max(wakeup);
            } else {
                break;
            }
        }
        rough.0.assert_converged();
        // Asked again with nothing wrong: nothing is sent.
        let again = rough.0.operations(|rig| (0..PARTS).for_each(|part| rig.scheduler.resynchronise(part)));
        prop_assert_eq!(again, 0);
    }

    /// With k values changed behind its back, exactly k are put right.
    #[test]
    fn exactly_what_was_tampered_with_is_put_right(
        plan in plans(),
        which in proptest::collection::vec((any::<Index>(), any::<bool>()), 0..6),
        strangers in proptest::collection::btree_set(24_u8..40, 0..4),
    ) {
        prop_assume!(!plan.is_empty());
        let mut rig = Rig::new();
        rig.set_plan(plan);
        rig.settle();
        rig.assert_converged();
        let mut tampered = BTreeSet::new();
        for (index, remove) in which {
            let keys: Vec<u8> = rig.plan.keys().copied().collect();
            let key = keys[index.index(keys.len())];
            if !tampered.insert(key) {
                continue;
            }
            if remove {
                rig.world.held.remove(&key);
            } else {
                rig.world.held.get_mut(&key).unwrap().0.content += 100;
            }
        }
        for key in &strangers {
            rig.world.held.insert(*key, (plain(0), Vec::new()));
        }
        let operations = rig.operations(|rig| (0..PARTS).for_each(|part| rig.scheduler.resynchronise(part)));
        prop_assert_eq!(operations, tampered.len() + strangers.len());
        rig.assert_converged();
    }
}
