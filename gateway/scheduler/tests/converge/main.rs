//! Whatever happens, what the parts hold becomes what is planned, and nothing is sent needlessly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod properties;
mod rig;
mod two_plans;

use std::collections::BTreeMap;

use culvert_scheduler::{Failure, Scheduler, SetPlanError, Standing};

use rig::{OBTAINED, PARTS, Plan, Rig, Toy, Value, changed, plain, planned, small};

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
