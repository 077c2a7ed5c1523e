//! Limits, counters and what the dataplane publishes.

use culvert_model::bus::{self, Direction, sa_event};
use culvert_plugin_wire as wire;
use wire::{Answer, Call};

use super::script::{Child, LOCAL, Line, Script, child};
use crate::manager::{Event, Request};

fn publish(script: &mut Script, event: sa_event::Event) {
    script.handle(Event::Published(bus::SaEvent { event: Some(event) }));
}

fn usage_of(child: &Child, bytes: u64, last_use_s: u64) -> bus::SaUsage {
    bus::SaUsage {
        key: Some(child.name_in().to_bus(Direction::In)),
        packets: bytes / 100,
        bytes,
        last_use_s,
        ..bus::SaUsage::default()
    }
}

#[test]
fn time_limits_are_reported_once_each_and_the_hard_one_ends_the_sa() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.pass(599_000);
    assert!(script.expiries().is_empty());
    script.pass(1_000);
    assert_eq!(script.expiries().len(), 2);
    script.pass(59_000);
    assert_eq!(script.expiries().len(), 2);
    assert_eq!(script.spis().len(), 2);
    script.pass(1_000);
    let mut expiries = script.expiries();
    expiries.sort_unstable();
    assert_eq!(
        expiries,
        [
            (0x4b1, false),
            (0x4b1, true),
            (one.spi_in, false),
            (one.spi_in, true)
        ]
    );
    // Whether charon does something or not: nothing is sent with it any more.
    assert!(script.spis().is_empty());
    script.pass(1_000_000);
    assert_eq!(script.expiries().len(), 4);
}

#[test]
fn charon_may_remove_what_expired_and_gets_its_last_counters() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script
        .dataplane
        .usage
        .insert(one.name_in(), usage_of(&one, 5_000, 42));
    script.pass(660_000);
    assert!(script.spis().is_empty());
    match script.call(one.query(true)) {
        Answer::Usage(usage) => assert_eq!((usage.bytes, usage.use_time), (5_000, 42)),
        other => panic!("{other:?}"),
    }
    script.done(one.del(true));
    script.done(one.del(false));
    assert!(matches!(script.call(one.del(true)), Answer::Failed(_)));
}

#[test]
fn a_limit_of_bytes_comes_from_the_dataplane_and_is_reported_once() {
    let mut script = Script::new();
    let one = script.establish(Child {
        bytes: (10_000, 20_000),
        ..child(0x4b1)
    });
    let limit = |hard| {
        sa_event::Event::Limit(bus::SaLimitReached {
            key: Some(one.name_in().to_bus(Direction::In)),
            hard,
        })
    };
    publish(&mut script, limit(false));
    publish(&mut script, limit(false));
    assert_eq!(script.expiries(), [(one.spi_in, false)]);
    publish(&mut script, limit(true));
    assert_eq!(script.expiries(), [(one.spi_in, false), (one.spi_in, true)]);
    assert_eq!(script.spis(), [0x4b1]);
}

#[test]
fn a_limit_whose_event_was_lost_is_seen_in_the_counters() {
    let mut script = Script::new();
    let one = script.establish(Child {
        bytes: (10_000, 20_000),
        ..child(0x4b1)
    });
    script
        .dataplane
        .usage
        .insert(one.name_in(), usage_of(&one, 10_000, 1));
    script.pass(2_000);
    assert_eq!(script.expiries(), [(one.spi_in, false)]);
}

#[test]
fn counters_are_fetched_once_for_all_and_never_go_back() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script
        .dataplane
        .usage
        .insert(one.name_in(), usage_of(&one, 700, 99));
    script.asked.clear();
    script.now += 500;
    for _ in 0..50 {
        match script.call(one.query(true)) {
            Answer::Usage(usage) => assert_eq!((usage.bytes, usage.use_time), (700, 99)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(script.asked.len(), 1);
    script
        .dataplane
        .usage
        .insert(one.name_in(), usage_of(&one, 600, 98));
    script.now += 500;
    match script.call(one.query(true)) {
        Answer::Usage(usage) => assert_eq!((usage.bytes, usage.use_time), (700, 99)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_is_answered_from_memory_when_the_dataplane_is_slow() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.now += 500;
    script.line = Line::Dead;
    let id = script.send(one.query(true));
    assert!(script.answer_to(id).is_none());
    script.pass(100);
    assert!(matches!(script.answer_to(id), Some(Answer::Usage(_))));
}

#[test]
fn an_acquire_reaches_charon_once_in_five_seconds() {
    let mut script = Script::new();
    let acquire = |reqid| {
        sa_event::Event::Acquire(bus::Acquire {
            reqid,
            if_id: 7,
            source: None,
            destination: None,
        })
    };
    for _ in 0..10 {
        publish(&mut script, acquire(3));
        script.now += 400;
    }
    assert_eq!(script.upcalls.len(), 1);
    publish(&mut script, acquire(4));
    assert_eq!(script.upcalls.len(), 2);
    script.now += 1_000;
    publish(&mut script, acquire(3));
    assert_eq!(script.upcalls.len(), 3);
    // No policy of charon's: the tunnel's keeper is to hurry.
    publish(&mut script, acquire(0));
    assert_eq!(
        (script.upcalls.len(), script.wanted.as_slice()),
        (3, &[7, 7, 7, 7][..])
    );
}

#[test]
fn a_peers_new_port_is_reported_once_until_charon_has_answered() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    let mapping = |port: u32| {
        sa_event::Event::Mapping(bus::MappingChanged {
            key: Some(one.name_in().to_bus(Direction::In)),
            source: Some("192.0.2.2".parse::<std::net::IpAddr>().unwrap().into()),
            source_port: port,
        })
    };
    publish(&mut script, mapping(4500));
    assert!(script.upcalls.is_empty());
    publish(&mut script, mapping(1024));
    publish(&mut script, mapping(1024));
    assert_eq!(script.upcalls.len(), 1);
    match &script.upcalls[0] {
        Answer::Mapping(mapping) => {
            assert_eq!(mapping.spi, one.spi_in);
            let remote = mapping.remote.as_ref().unwrap().socket_addr().unwrap();
            assert_eq!(remote.to_string(), "192.0.2.2:1024");
            let ours = mapping.dst.as_ref().unwrap().ip().unwrap();
            assert_eq!(ours.to_string(), LOCAL);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_negotiated_while_no_dataplane_has_been_seen() {
    let mut script = Script::bare();
    script.session(1);
    let early = script.send(Call::GetSpi(wire::GetSpi::default()));
    script.pass(5_000);
    let later = script.send(Call::GetSpi(wire::GetSpi::default()));
    assert!(script.answer_to(early).is_none());
    script.pass(4_000);
    assert!(matches!(script.answer_to(early), Some(Answer::Failed(_))));
    script.snapshot();
    assert!(matches!(script.answer_to(later), Some(Answer::Spi(_))));
    assert!(
        !script
            .asked
            .iter()
            .any(|(_, request)| matches!(request, Request::AddSa(_)))
    );
}

#[test]
fn what_charon_did_not_hear_is_said_once_more() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.dataplane.start();
    script.snapshot();
    assert_eq!(script.expiries(), [(one.spi_in, true)]);
    let mut lists = script.lists_wanted;
    for said in [2, 2, 2] {
        script.pass(3_000);
        script.list(&[&one]);
        assert_eq!(script.expiries().len(), said);
        lists = script.lists_wanted.max(lists);
    }
    assert!(lists >= 2);
}

#[test]
fn a_soft_limit_that_charon_did_not_hear_of_is_said_once_more() {
    let mut script = Script::new();
    let one = script.establish(child(0x4b1));
    script.pass(600_000);
    assert_eq!(script.expiries().len(), 2);
    script.list(&[&one]);
    assert_eq!(script.expiries().len(), 2);
    for _ in 0..5 {
        script.pass(3_000);
        script.list(&[&one]);
        assert_eq!(script.expiries().len(), 4);
    }
}
