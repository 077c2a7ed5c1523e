//! The orders in which charon installs and removes, as initiator and as responder, and when things go wrong.

use culvert_plugin_wire as wire;
use wire::{Answer, Call, PolicyDirection, Status};

use super::script::{ALL, Child, Line, PEER, Script, child, host};
use crate::manager::Request;

/// SPIs that outbound traffic may be protected by, as the dataplane sees it.
fn outbound_policies(script: &Script) -> Vec<u32> {
    script
        .dataplane
        .policies
        .keys()
        .filter(|key| key.slot.direction == crate::policy::PolicyDirection::Out && key.spi != 0)
        .map(|key| key.spi)
        .collect()
}

fn successor(script: &mut Script, spi_out: u32) -> Child {
    Child {
        spi_in: script.get_spi(),
        ..child(spi_out)
    }
}

#[test]
fn an_initiator_rekeys_and_never_is_without_a_policy() {
    let mut script = Script::new();
    let old = script.establish(child(0x4b1));
    let new = successor(&mut script, 0x4b2);
    script.add_in(&new);
    script.add_out(&new);
    assert_eq!(outbound_policies(&script), [0x4b1]);
    script.policies(&new, &ALL, true);
    assert_eq!(outbound_policies(&script), [0x4b1, 0x4b2]);
    script.policies(&old, &[PolicyDirection::Out], false);
    script.done(old.del(false));
    // It is not the newest any more; for a moment it stays all the same.
    assert_eq!(outbound_policies(&script), [0x4b1, 0x4b2]);
    script.pass(200);
    assert_eq!(outbound_policies(&script), [0x4b2]);
    assert_eq!(script.spis(), [0x4b2, old.spi_in, new.spi_in]);
    script.pass(5_000);
    script.policies(
        &old,
        &[PolicyDirection::In, PolicyDirection::Forward],
        false,
    );
    script.done(old.del(true));
    // What is on its way is still received.
    assert_eq!(script.spis(), [0x4b2, old.spi_in, new.spi_in]);
    assert_eq!(script.spis_later(), [0x4b2, new.spi_in]);
    assert_eq!(script.dataplane.policies.len(), 3);
    assert!(script.upcalls.is_empty());
}

#[test]
fn a_responder_whose_peer_deletes_late_goes_on_sending_on_the_old_sa() {
    let mut script = Script::new();
    let old = script.establish(child(0x4b1));
    let new = successor(&mut script, 0x4b2);
    script.add_in(&new);
    script.add_out(&new);
    script.policies(&new, &[PolicyDirection::In, PolicyDirection::Forward], true);
    // The peer takes its time; both SAs are there, the old one protects.
    script.pass(60_000);
    assert_eq!(outbound_policies(&script), [0x4b1]);
    assert_eq!(script.spis().len(), 4);
    script.policies(&new, &[PolicyDirection::Out], true);
    script.policies(&old, &ALL, false);
    script.done(old.del(false));
    script.done(old.del(true));
    script.pass(200);
    assert_eq!(outbound_policies(&script), [0x4b2]);
    assert_eq!(script.spis_later(), [0x4b2, new.spi_in]);
}

#[test]
fn both_ends_rekey_at_once_and_one_new_sa_goes_again() {
    let mut script = Script::new();
    let old = script.establish(child(0x4b1));
    let ours = successor(&mut script, 0x4b2);
    script.add_in(&ours);
    script.add_out(&ours);
    let theirs = successor(&mut script, 0x4b3);
    script.add_in(&theirs);
    script.add_out(&theirs);
    script.policies(
        &theirs,
        &[PolicyDirection::In, PolicyDirection::Forward],
        true,
    );
    script.policies(&ours, &ALL, true);
    // Ours won: theirs is removed before it ever had an outbound policy.
    script.policies(
        &theirs,
        &[PolicyDirection::In, PolicyDirection::Forward],
        false,
    );
    script.done(theirs.del(false));
    script.done(theirs.del(true));
    script.policies(&old, &ALL, false);
    script.done(old.del(false));
    script.done(old.del(true));
    script.pass(200);
    assert_eq!(outbound_policies(&script), [0x4b2]);
    assert_eq!(script.spis_later(), [0x4b2, ours.spi_in]);
    assert_eq!(script.dataplane.policies.len(), 3);
}

#[test]
fn two_child_sas_of_one_interface_do_not_disturb_each_other() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    let two = script.establish(Child {
        reqid: 2,
        nets: (1, 3),
        ..child(0x4b2)
    });
    assert_eq!(outbound_policies(&script), [0x4b1, 0x4b2]);
    script.policies(&one, &ALL, false);
    script.done(one.del(false));
    script.done(one.del(true));
    script.pass(200);
    assert_eq!(outbound_policies(&script), [0x4b2]);
    assert_eq!(script.spis_later(), [0x4b2, two.spi_in]);
}

#[test]
fn an_sa_is_announced_only_when_the_dataplane_has_it() {
    let mut script = Script::new();
    let mut one = child(0x4b1);
    one.spi_in = script.get_spi();
    script.line = Line::Waits;
    let first = script.send(Call::AddSa(one.inbound(1)));
    let second = script.send(Call::AddSa(one.outbound(2)));
    assert!(script.answer_to(first).is_none() && script.answer_to(second).is_none());
    // Both are under way at once.
    assert_eq!(script.waiting.len(), 2);
    script.let_through();
    assert_eq!(script.answer_to(first), Some(&Answer::done()));
    assert_eq!(script.answer_to(second), Some(&Answer::done()));
}

#[test]
fn a_lost_acknowledgement_repeats_the_same_request() {
    let mut script = Script::new();
    let mut one = child(0x4b1);
    one.spi_in = script.get_spi();
    script.line = Line::LosesAnswers;
    let id = script.send(Call::AddSa(one.inbound(1)));
    script.now += 1000;
    script.time_out();
    assert!(script.answer_to(id).is_none());
    script.let_through();
    assert_eq!(script.answer_to(id), Some(&Answer::done()));
    let tickets: Vec<_> = script
        .asked
        .iter()
        .filter(|(_, request)| matches!(request, Request::AddSa(_)))
        .map(|(ticket, _)| *ticket)
        .collect();
    assert!(tickets.len() >= 2 && tickets.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(script.dataplane.installed.values().all(|count| *count == 1));
}

#[test]
fn what_is_never_acknowledged_fails_in_time_and_leaves_nothing() {
    let mut script = Script::new();
    let mut one = child(0x4b1);
    one.spi_in = script.get_spi();
    script.line = Line::LosesAnswers;
    let id = script.send(Call::AddSa(one.inbound(1)));
    for _ in 0..10 {
        script.now += 1000;
        script.time_out();
    }
    assert!(matches!(script.answer_to(id), Some(Answer::Failed(_))));
    // It had arrived: a comparison finds and removes it.
    script.let_through();
    assert_eq!(script.spis(), [one.spi_in]);
    script.pass(5_000);
    assert!(script.spis().is_empty());
}

#[test]
fn a_repeated_call_has_the_first_answer_again() {
    let mut script = Script::new();
    let spi = script.get_spi();
    let id = script.last_call;
    script.handle(crate::manager::Event::SessionDown);
    script.session(1);
    script.answers.clear();
    script.handle(crate::manager::Event::Call {
        id,
        call: Call::GetSpi(wire::GetSpi::default()),
    });
    assert_eq!(script.answers, [(id, Answer::Spi(wire::Spi { spi }))]);
}

#[test]
fn the_same_spi_is_not_installed_over_itself() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    let before = script.dataplane.sas.clone();
    let key = script.new_key();
    let answer = script.call(Call::AddSa(one.inbound(key)));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert!(script.dataplane.sas.keys().eq(before.keys()));
    assert!(script.dataplane.sas[&one.name_in()].1 == before[&one.name_in()].1);
    // The same SPI to another of our addresses is refused, too: inbound SAs are found by SPI alone.
    let mut elsewhere = one.inbound(key);
    elsewhere.id.as_mut().unwrap().dst = Some(host("192.0.2.99", 4500));
    let answer = script.call(Call::AddSa(elsewhere));
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert_eq!(script.spis().len(), 2);
}

#[test]
fn an_unknown_algorithm_is_refused_by_name_and_asks_nobody() {
    let mut script = Script::new();
    let mut call = child(0x4b1).outbound(1);
    call.encryption = 23;
    let before = script.dataplane.changes;
    match script.call(Call::AddSa(call)) {
        Answer::Failed(failed) => {
            assert_eq!(failed.status(), Status::NotSupported);
            assert!(failed.message.contains("Camellia"), "{}", failed.message);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(script.dataplane.changes, before);
}

#[test]
fn a_peer_that_moves_keeps_its_sas() {
    let mut script = Script::new();
    let mut one = script.establish(child(0x4b1));
    one.soft_s = 600;
    let update = |inbound: bool| {
        let (new_src, new_dst) = if inbound {
            (host("198.51.100.7", 1024), host("192.0.2.1", 4500))
        } else {
            (host("192.0.2.1", 4500), host("198.51.100.7", 1024))
        };
        Call::UpdateSa(wire::UpdateSa {
            id: Some(one.id(inbound)),
            new_src: Some(new_src),
            new_dst: Some(new_dst),
            encap: true,
            new_encap: true,
            new_reqid: 0,
        })
    };
    script.done(update(false));
    script.done(update(true));
    let names: Vec<String> = script
        .dataplane
        .sas
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "000004b1@198.51.100.7",
            &format!("{:08x}@192.0.2.1", one.spi_in)
        ]
    );
    assert!(script.dataplane.installed.values().all(|count| *count == 1));
    // The old name is gone, its timers came along.
    assert!(matches!(script.call(one.query(false)), Answer::Failed(_)));
    script.pass(600_000);
    assert_eq!(script.expiries(), [(0x4b1, false), (one.spi_in, false)]);
    let moved = wire::SaId {
        dst: Some(host("198.51.100.7", 1024)),
        ..one.id(false)
    };
    script.done(Call::DelSa(wire::DelSa { id: Some(moved) }));
    assert_eq!(script.spis_later(), [one.spi_in]);
    let _ = PEER;
}

#[test]
fn a_narrower_child_sa_after_an_acquire_is_what_is_installed() {
    let mut script = Script::new();
    // The trap covers what is configured, the peer narrows it.
    let trap = Child {
        spi_in: 0,
        spi_out: 0,
        ..child(0)
    };
    let (id, mut manage) = trap.policy(PolicyDirection::Out);
    manage.priority = wire::PolicyPriority::Routed.into();
    let mut wide = id;
    wide.dst_ts = Some(wire::Selector::addresses(
        "10.0.0.0".parse().unwrap(),
        "10.255.255.255".parse().unwrap(),
    ));
    script.done(Call::AddPolicy(wire::AddPolicy {
        id: Some(wide),
        manage: Some(manage),
    }));
    let narrow = script.establish(child(0x4b1));
    assert_eq!(outbound_policies(&script), [0x4b1]);
    // The trap is still there for what the narrow one does not cover.
    assert_eq!(script.dataplane.policies.len(), 4);
    script.policies(&narrow, &ALL, false);
    script.pass(200);
    assert_eq!(script.dataplane.policies.len(), 1);
}

#[test]
fn a_peer_that_starts_anew_finds_no_moment_without_an_outbound_sa() {
    let mut script = Script::new();
    let old = script.establish(child(0x4b1));
    // INITIAL_CONTACT: everything old goes before anything new is there.
    script.policies(&old, &ALL, false);
    script.done(old.del(false));
    script.done(old.del(true));
    for _ in 0..10 {
        script.pass(10);
        assert_eq!(outbound_policies(&script), [0x4b1]);
        assert_eq!(script.spis(), [0x4b1, old.spi_in]);
    }
    // We answer: the peer does not have its end yet when we have ours.
    let new = script.establish(child(0x4c1));
    assert_eq!(outbound_policies(&script), [0x4b1]);
    assert_eq!(script.spis(), [0x4b1, 0x4c1, old.spi_in, new.spi_in]);
    script.pass(25);
    assert_eq!(outbound_policies(&script), [0x4b1, 0x4c1]);
    assert_eq!(script.spis_later(), [0x4c1, new.spi_in]);
    assert_eq!(outbound_policies(&script), [0x4c1]);
    assert_eq!(script.dataplane.policies.len(), 3);
}

#[test]
fn the_policy_of_an_update_is_never_away() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.policies(&one, &[PolicyDirection::Out], false);
    assert_eq!(outbound_policies(&script), [0x4b1]);
    script.policies(&one, &[PolicyDirection::Out], true);
    script.pass(1_000);
    assert_eq!(outbound_policies(&script), [0x4b1]);
}
