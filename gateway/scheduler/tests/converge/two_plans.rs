//! Values that were made from one plan and are wanted by another.

use std::collections::BTreeMap;

use culvert_scheduler::Failure;

use super::rig::{Plan, Rig, Value, plain, planned};

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

const fn value(content: u8, class: u8) -> Value {
    Value { content, class }
}

/// 11 needs 1.
fn before() -> Plan {
    BTreeMap::from([
        planned(1, value(0, 0), &[], &[]),
        planned(11, value(0, 0), &[1], &[]),
    ])
}

/// 11 is to need 4, which comes after another 1: it cannot stay while 1 is built anew.
fn after() -> Plan {
    BTreeMap::from([
        planned(1, value(0, 1), &[], &[]),
        planned(4, value(0, 0), &[], &[1]),
        planned(11, value(1, 0), &[4], &[]),
    ])
}

#[test]
fn a_value_between_two_plans_is_built_anew() {
    let mut rig = Rig::new();
    rig.set_plan(before());
    rig.settle();
    rig.set_plan(after());
    rig.settle();
    rig.assert_converged();
}

/// 14 needed 11: once 11 has to go, 14 cannot stay either.
#[test]
fn values_between_two_plans_that_need_each_other_are_built_anew() {
    let mut rig = Rig::new();
    let mut plan = before();
    plan.extend([planned(14, value(0, 0), &[11], &[])]);
    rig.set_plan(plan);
    rig.settle();
    let mut plan = after();
    plan.extend([planned(14, value(1, 0), &[4], &[])]);
    rig.set_plan(plan);
    rig.settle();
    rig.assert_converged();
}

/// What is tried again for ever keeps nobody else between two plans.
#[test]
fn a_value_that_fails_again_and_again_holds_up_no_other() {
    let mut rig = Rig::new();
    rig.set_plan(before());
    rig.settle();
    rig.world.jinxed = Some(3);
    let mut plan = after();
    plan.extend([planned(3, value(0, 0), &[], &[])]);
    rig.set_plan(plan);
    for _ in 0..50 {
        rig.send();
        if !rig.underway.is_empty() {
            rig.finish(0);
        } else if let Some(wakeup) = rig.scheduler.next_wakeup() {
            rig.now = rig.now.max(wakeup);
        }
    }
    let held = rig.world.held.iter();
    let held: BTreeMap<u8, Value> = held.map(|(key, (value, _))| (*key, *value)).collect();
    let wanted = after()
        .into_iter()
        .map(|(key, planned)| (key, planned.value));
    assert_eq!(held, wanted.collect());
    rig.world.jinxed = None;
    rig.settle();
    rig.assert_converged();
}

/// 7 leaves together with the 0 that it is to need. 0 is gone first; nothing is built on 7 meanwhile.
#[test]
fn nothing_is_built_on_what_is_being_deleted() {
    let mut rig = Rig::new();
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
