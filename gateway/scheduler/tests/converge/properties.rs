//! Whatever happens, in whatever order.

use std::collections::BTreeSet;
use std::time::Duration;

use culvert_scheduler::{Change, Failure, Scheduler};
use proptest::prelude::*;
use proptest::sample::Index;

use super::rig::{PARTS, Plan, Rig, Value, plain, planned};

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
