//! Each neighbour dies and comes back, at a chosen point.

use culvert_plugin_wire as wire;
use wire::{Answer, Call, PolicyDirection};

use super::script::{ALL, Child, Line, Script, child};
use crate::manager::{Event, Request};

fn installs(script: &Script) -> usize {
    script
        .asked
        .iter()
        .filter(|(_, request)| matches!(request, Request::AddSa(_)))
        .count()
}

/// charon renegotiates what it was told is at its end.
fn renegotiate(script: &mut Script, old: &Child, spi_out: u32) -> Child {
    script.policies(old, &ALL, false);
    script.done(old.del(false));
    script.done(old.del(true));
    script.establish(child(spi_out))
}

#[test]
fn a_new_dataplane_gets_policies_but_never_a_key_again() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    let two = script.establish(Child {
        reqid: 2,
        nets: (1, 3),
        ..child(0x4b2)
    });
    let before = installs(&script);
    script.dataplane.start();
    script.snapshot();
    // Each CHILD SA once, by its inbound SPI.
    let mut expiries = script.expiries();
    expiries.sort_unstable();
    assert_eq!(expiries, [(one.spi_in, true), (two.spi_in, true)]);
    assert_eq!(installs(&script), before);
    assert!(script.spis().is_empty());
    assert_eq!(script.dataplane.policies.len(), 6);
    let new = renegotiate(&mut script, &one, 0x4c1);
    assert_eq!(script.spis(), [0x4c1, new.spi_in]);
    script.list(&[&new, &two]);
    script.pass(1_000_000);
    assert!(script.dataplane.installed.values().all(|count| *count == 1));
}

#[test]
fn a_restart_is_seen_in_the_first_answer_too() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.dataplane.start();
    // The poll of the counters, before the subscription has noticed.
    script.pass(1_000);
    assert_eq!(script.expiries(), [(one.spi_in, true)]);
    script.snapshot();
    assert_eq!(script.expiries(), [(one.spi_in, true)]);
}

#[test]
fn an_installation_is_not_carried_over_to_the_next_dataplane() {
    let mut script = Script::new();
    let mut one = child(0x4b1);
    one.spi_in = script.get_spi();
    script.line = Line::LosesAnswers;
    let id = script.send(Call::AddSa(one.outbound(1)));
    script.dataplane.start();
    script.line = Line::Good;
    script.time_out();
    assert!(matches!(script.answer_to(id), Some(Answer::Failed(_))));
    assert!(script.spis().is_empty());
    assert!(script.dataplane.installed.values().all(|count| *count == 1));
}

#[test]
fn a_new_bridge_takes_over_with_timers_and_traffic_undisturbed() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.pass(100_000);
    let (sas, policies) = (script.spis(), script.dataplane.policies.clone());
    script.restart_bridge();
    script.pass(3_000);
    script.snapshot();
    script.session(1);
    script.list(&[&one]);
    assert!(script.manager.is_reconciled());
    script.pass(60_000);
    assert_eq!(
        (script.spis(), &script.dataplane.policies),
        (sas, &policies)
    );
    assert!(script.expiries().is_empty());
    // 600 s after it was installed, by whomever.
    script.pass(600_000 - 163_000 - 1);
    assert!(script.expiries().is_empty());
    script.pass(1);
    assert_eq!(script.expiries().len(), 2);
    script.policies(&one, &ALL, false);
    script.done(one.del(true));
    script.done(one.del(false));
    assert!(script.spis_later().is_empty() && script.dataplane.policies.is_empty());
}

#[test]
fn a_new_bridge_deletes_what_charon_does_not_know_and_expires_what_the_dataplane_lacks() {
    let mut script = Script::new();
    let known = script.establish(child(0x4b1));
    let unknown = script.establish(Child {
        reqid: 2,
        nets: (1, 3),
        ..child(0x4b2)
    });
    script.pass(60_000);
    script.restart_bridge();
    script.snapshot();
    script.session(1);
    let missing = Child {
        spi_in: 0x7777,
        ..child(0x4b3)
    };
    script.list(&[&known, &missing]);
    assert_eq!(script.expiries(), [(0x7777, true)]);
    // Missing in one list may be a list's mistake.
    assert_eq!(script.spis().len(), 4);
    let lists = script.lists_wanted;
    script.pass(2_000);
    assert_eq!(script.lists_wanted, lists + 1);
    script.list(&[&known]);
    assert_eq!(script.spis(), [0x4b1, known.spi_in]);
    assert_eq!(script.expiries(), [(0x7777, true)]);
    let _ = unknown;
}

#[test]
fn a_child_sa_in_the_making_survives_the_bridges_restart() {
    let mut script = Script::new();
    let mut one = child(0x4b1);
    one.spi_in = script.get_spi();
    script.add_in(&one);
    // The bridge dies between the two SAs; the plugin holds the second call.
    script.restart_bridge();
    script.snapshot();
    script.session(1);
    script.list(&[]);
    script.add_out(&one);
    script.policies(&one, &ALL, true);
    script.pass(2_500);
    script.list(&[&one]);
    script.pass(60_000);
    script.list(&[&one]);
    assert_eq!(script.spis(), [0x4b1, one.spi_in]);
    assert!(script.expiries().is_empty());
}

#[test]
fn an_expiry_that_came_due_without_a_bridge_is_reported_unless_charon_acted() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.pass(590_000);
    script.restart_bridge();
    script.now += 20_000;
    script.snapshot();
    script.session(1);
    assert!(script.expiries().is_empty());
    script.list(&[&one]);
    let mut expiries = script.expiries();
    expiries.sort_unstable();
    assert_eq!(expiries, [(0x4b1, false), (one.spi_in, false)]);
}

#[test]
fn orphans_carry_until_a_new_child_sa_covers_them() {
    let mut script = Script::new();
    let old = script.establish(child(0x4b1));
    script.pass(10_000);
    script.handle(Event::SessionDown);
    script.pass(5_000);
    script.session(2);
    script.list(&[]);
    script.pass(10_000);
    assert_eq!(script.spis(), [0x4b1, old.spi_in]);
    assert_eq!(script.dataplane.policies.len(), 3);
    let new = script.establish(child(0x4c1));
    // What was sent to us before the peer switched still arrives.
    assert_eq!(script.spis(), [0x4c1, old.spi_in, new.spi_in]);
    script.pass(2_000);
    assert_eq!(script.spis(), [0x4c1, new.spi_in]);
    assert_eq!(script.dataplane.policies.len(), 3);
    // charon knows nothing of the old ones and is not bothered.
    assert!(script.expiries().is_empty());
}

#[test]
fn a_narrower_child_sa_does_not_end_an_orphan_but_time_does() {
    let mut script = Script::new();
    let wide = script.establish(child(0x4b1));
    script.handle(Event::SessionDown);
    script.session(2);
    let other = script.establish(Child {
        reqid: 2,
        nets: (1, 3),
        ..child(0x4c1)
    });
    script.pass(119_000);
    assert_eq!(script.spis().len(), 4);
    script.pass(1_000);
    assert_eq!(script.spis(), [0x4c1, other.spi_in]);
    assert_eq!(script.dataplane.policies.len(), 3);
    let _ = wide;
}

#[test]
fn orphans_end_with_their_hard_lifetime_if_that_comes_first() {
    let mut script = Script::new();
    script.establish(Child {
        soft_s: 30,
        hard_s: 40,
        ..child(0x4b1)
    });
    script.handle(Event::SessionDown);
    script.session(2);
    script.pass(39_000);
    assert_eq!(script.spis().len(), 2);
    script.pass(1_000);
    assert!(script.spis().is_empty() && script.expiries().is_empty());
}

#[test]
fn without_any_charon_sas_go_after_two_minutes_and_policies_stay() {
    let mut script = Script::new();
    script.establish(child(0x4b1));
    script.handle(Event::SessionDown);
    script.pass(119_000);
    assert_eq!(script.spis().len(), 2);
    script.pass(2_000);
    assert!(script.spis().is_empty());
    // What they cover must not leave in the clear.
    assert_eq!(script.dataplane.policies.len(), 3);
    script.session(2);
    script.pass(125_000);
    assert!(script.dataplane.policies.is_empty());
}

#[test]
fn the_same_charon_coming_back_finds_everything_as_it_was() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.handle(Event::SessionDown);
    script.pass(30_000);
    script.session(1);
    script.list(&[&one]);
    script.pass(300_000);
    assert_eq!(script.spis().len(), 2);
    assert!(script.expiries().is_empty());
}

#[test]
fn traps_outlive_the_dataplane() {
    let mut script = Script::new();
    let (id, mut manage) = child(0).policy(PolicyDirection::Out);
    manage.priority = wire::PolicyPriority::Routed.into();
    script.done(Call::AddPolicy(wire::AddPolicy {
        id: Some(id),
        manage: Some(manage),
    }));
    script.dataplane.start();
    script.snapshot();
    assert_eq!(script.dataplane.policies.len(), 1);
}

#[test]
fn traps_that_nobody_remembers_are_asked_for_again() {
    let mut script = Script::new();
    script.establish(child(0x4b1));
    script.traps_lost = false;
    script.restart_bridge();
    script.snapshot();
    assert!(!script.traps_lost);
    script.restart_bridge();
    script.dataplane.start();
    script.snapshot();
    assert!(script.traps_lost);
}

#[test]
fn a_policy_lost_in_the_dataplane_comes_back_with_the_next_comparison() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.dataplane.policies.clear();
    script.dataplane.sas.remove(&one.name_out());
    script.pass(10);
    // The subscription had a gap.
    script.snapshot();
    assert_eq!(script.dataplane.policies.len(), 3);
    assert_eq!(script.expiries(), [(0x4b1, true)]);
}

#[test]
fn an_answer_of_a_dead_dataplane_that_comes_late_disturbs_nobody() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.dataplane.start();
    script.snapshot();
    let new = renegotiate(&mut script, &one, 0x4c1);
    let count = script.expiries().len();
    script.handle(Event::Answered {
        ticket: 9_999,
        incarnation: Some(1),
        outcome: crate::manager::Outcome::Done(crate::manager::Reply::Done),
    });
    assert_eq!(script.expiries().len(), count);
    assert_eq!(script.spis(), [0x4c1, new.spi_in]);
}

#[test]
fn a_thousand_tunnels_are_told_once_each() {
    let mut script = Script::new();
    let children: Vec<Child> = (0..1000)
        .map(|tunnel| {
            script.establish(Child {
                reqid: tunnel + 1,
                if_id: tunnel + 1,
                ..child(0x1_0000 + tunnel)
            })
        })
        .collect();
    script.list(&children.iter().collect::<Vec<_>>());
    assert!(script.expiries().is_empty());
    script.dataplane.start();
    script.snapshot();
    let mut told: Vec<u32> = script.expiries().into_iter().map(|(spi, _)| spi).collect();
    told.sort_unstable();
    let expected: Vec<u32> = children.iter().map(|child| child.spi_in).collect();
    assert_eq!(told, expected);
    assert_eq!(script.dataplane.policies.len(), 3000);
}
