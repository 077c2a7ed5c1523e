//! The client against a bridge played by the test: answers out of order, absence, repetition, closing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::net::UnixListener;

use culvert_plugin_wire::{DelSa, GetSpi, SaId, Spi, Status};

use super::*;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Daemon for Recorder {
    fn acquire(&self, acquire: &Acquire) {
        assert_ne!(acquire.reqid, 666, "the panic that must stay inside");
        self.0
            .lock()
            .unwrap()
            .push(format!("acquire {}", acquire.reqid));
    }
    fn expire(&self, expire: &Expire) {
        self.0
            .lock()
            .unwrap()
            .push(format!("expire {:x} {}", expire.spi, expire.hard));
    }
    fn mapping(&self, mapping: &Mapping) {
        self.0
            .lock()
            .unwrap()
            .push(format!("mapping {:x}", mapping.spi));
    }
    fn log(&self, _: &str) {}
}

struct Fixture {
    directory: tempfile::TempDir,
    client: Arc<Client>,
    daemon: Arc<Recorder>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Arc::new(Recorder::default());
        let client = Client::new(directory.path().join("bridge"), 42, "5.9.8", daemon.clone());
        client.start().unwrap();
        Self {
            directory,
            client,
            daemon,
        }
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.directory.path().join("bridge")).unwrap()
    }

    fn stop_listening(&self, listener: UnixListener) {
        drop(listener);
        std::fs::remove_file(self.directory.path().join("bridge")).unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.client.close();
    }
}

/// The bridge's end of one accepted and greeted connection.
struct Bridge(UnixStream);

impl Bridge {
    fn accept(listener: &UnixListener) -> Self {
        let mut bridge = Self(listener.accept().unwrap().0);
        let (id, call) = bridge.hear();
        let Call::Hello(hello) = call else {
            panic!("{call:?} before Hello")
        };
        assert_eq!(
            (hello.epoch, hello.protocol_version),
            (42, PROTOCOL_VERSION)
        );
        bridge.say(&ToPlugin::answer(id, Answer::done()));
        bridge
    }

    fn hear(&mut self) -> (u64, Call) {
        self.0
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let ToBridge { id, call } = read_frame(&mut self.0).unwrap();
        (id, call.unwrap())
    }

    fn say(&mut self, message: &ToPlugin) {
        write_frame(&mut self.0, message).unwrap();
    }
}

fn get_spi() -> Call {
    Call::GetSpi(GetSpi {
        src: None,
        dst: None,
        protocol: 50,
    })
}

fn del_sa(spi: u32) -> Call {
    Call::DelSa(DelSa {
        id: Some(SaId {
            spi,
            ..SaId::default()
        }),
    })
}

fn spi_of(call: &Call) -> u32 {
    match call {
        Call::DelSa(DelSa { id: Some(id) }) => id.spi,
        other => panic!("{other:?} is no delete"),
    }
}

#[test]
fn calls_are_in_flight_together_and_answers_may_come_in_any_order() {
    let fixture = Fixture::new();
    let listener = fixture.listen();
    let mut bridge = Bridge::accept(&listener);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    fixture
                        .client
                        .call(get_spi(), CALL_TIMEOUT, WhenAway::Wait)
                        .unwrap()
                })
            })
            .collect();
        let mut ids: Vec<u64> = (0..8).map(|_| bridge.hear().0).collect();
        ids.reverse();
        for id in &ids {
            bridge.say(&ToPlugin::answer(
                *id,
                Answer::Spi(Spi {
                    spi: u32::try_from(*id).unwrap(),
                }),
            ));
        }
        let mut spis: Vec<u64> = callers
            .into_iter()
            .map(|caller| match caller.join().unwrap() {
                Answer::Spi(Spi { spi }) => spi.into(),
                other => panic!("{other:?}"),
            })
            .collect();
        spis.sort_unstable();
        ids.sort_unstable();
        assert_eq!(spis, ids);
    });
    assert!(fixture.client.lock().pending.is_empty());
}

#[test]
fn without_a_bridge_calls_fail_in_time_and_queries_at_once() {
    let fixture = Fixture::new();
    let begun = Instant::now();
    assert_eq!(
        fixture
            .client
            .call(get_spi(), QUERY_TIMEOUT, WhenAway::Fail),
        Err(CallError::Away)
    );
    assert!(begun.elapsed() < Duration::from_millis(100));
    let limit = Duration::from_millis(300);
    assert_eq!(
        fixture.client.call(get_spi(), limit, WhenAway::Wait),
        Err(CallError::Timeout)
    );
    assert!(
        (limit..limit * 3).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        fixture.client.lock().pending.is_empty(),
        "a call given up is forgotten, its key with it"
    );
}

#[test]
fn a_call_waits_for_the_bridge_to_come_back() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fixture.client.call(get_spi(), CALL_TIMEOUT, WhenAway::Wait));
        std::thread::sleep(Duration::from_millis(250));
        let listener = fixture.listen();
        let mut bridge = Bridge::accept(&listener);
        let (id, _) = bridge.hear();
        bridge.say(&ToPlugin::answer(id, Answer::Spi(Spi { spi: 7 })));
        assert_eq!(caller.join().unwrap(), Ok(Answer::Spi(Spi { spi: 7 })));
    });
}

#[test]
fn an_unanswered_call_is_repeated_under_its_id() {
    let fixture = Fixture::new();
    let listener = fixture.listen();
    let mut first = Bridge::accept(&listener);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fixture.client.call(get_spi(), CALL_TIMEOUT, WhenAway::Wait));
        let (id, call) = first.hear();
        drop(first);
        let mut second = Bridge::accept(&listener);
        assert_eq!(second.hear(), (id, call));
        second.say(&ToPlugin::answer(
            id,
            Answer::failed(Status::NotSupported, "no"),
        ));
        assert!(matches!(caller.join().unwrap(), Ok(Answer::Failed(_))));
    });
}

#[test]
fn deletes_made_while_the_bridge_is_away_reach_the_next_one_in_order() {
    let fixture = Fixture::new();
    let listener = fixture.listen();
    let mut first = Bridge::accept(&listener);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            fixture
                .client
                .call(del_sa(1), CALL_TIMEOUT, WhenAway::Remember)
        });
        assert_eq!(spi_of(&first.hear().1), 1);
        fixture.stop_listening(listener);
        drop(first);
        assert_eq!(caller.join().unwrap(), Ok(Answer::done()));
    });
    let begun = Instant::now();
    for spi in 2..500 {
        assert_eq!(
            fixture
                .client
                .call(del_sa(spi), CALL_TIMEOUT, WhenAway::Remember),
            Ok(Answer::done())
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "a delete does not wait for a bridge that is away"
    );
    let listener = fixture.listen();
    let mut second = Bridge::accept(&listener);
    for spi in 1..500 {
        let (id, call) = second.hear();
        assert_eq!(spi_of(&call), spi);
        second.say(&ToPlugin::answer(id, Answer::done()));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !fixture.client.lock().pending.is_empty() {
        assert!(
            Instant::now() < deadline,
            "answered deletes are still remembered"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn upcalls_reach_charon_and_a_panic_in_one_does_not_end_the_session() {
    let fixture = Fixture::new();
    let listener = fixture.listen();
    let mut bridge = Bridge::accept(&listener);
    for reqid in [666, 5] {
        bridge.say(&ToPlugin::upcall(Answer::Acquire(Acquire {
            reqid,
            src_ts: None,
            dst_ts: None,
        })));
    }
    bridge.say(&ToPlugin::upcall(Answer::Expire(Expire {
        protocol: 50,
        spi: 0xc0ff_ee01,
        dst: None,
        hard: true,
    })));
    bridge.say(&ToPlugin::upcall(Answer::Mapping(Mapping {
        spi: 0x1000,
        ..Mapping::default()
    })));
    let deadline = Instant::now() + Duration::from_secs(5);
    while fixture.daemon.0.lock().unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", fixture.daemon.0);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        *fixture.daemon.0.lock().unwrap(),
        ["acquire 5", "expire c0ffee01 true", "mapping 1000"]
    );
}

#[test]
fn junk_from_the_other_end_costs_a_connection_and_no_more() {
    let fixture = Fixture::new();
    let listener = fixture.listen();
    let mut junk = Bridge::accept(&listener);
    io::Write::write_all(&mut junk.0, &[0xff; 64]).unwrap();
    let mut bridge = Bridge::accept(&listener);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fixture.client.call(get_spi(), CALL_TIMEOUT, WhenAway::Wait));
        let (id, _) = bridge.hear();
        bridge.say(&ToPlugin::answer(id, Answer::Spi(Spi { spi: 9 })));
        assert_eq!(caller.join().unwrap(), Ok(Answer::Spi(Spi { spi: 9 })));
    });
}

#[test]
fn closing_frees_every_waiting_thread() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fixture.client.call(get_spi(), CALL_TIMEOUT, WhenAway::Wait));
        std::thread::sleep(Duration::from_millis(100));
        fixture.client.close();
        assert_eq!(caller.join().unwrap(), Err(CallError::Closing));
    });
    assert_eq!(
        fixture.client.call(get_spi(), CALL_TIMEOUT, WhenAway::Wait),
        Err(CallError::Closing)
    );
}
