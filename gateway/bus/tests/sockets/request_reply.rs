//! Calls that go well, go wrong, and go on.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use culvert_bus::{CallError, MESSAGE_LIMIT};
use culvert_bus::{Client, Context, Router, Server, Undecodable, VERSION};
use culvert_model::bus::{
    self, DumpSasReply, DumpSasRequest, HelloReply, InitiateRequest, RekeyReply, RekeyRequest,
    SaDump, ShowIkeRequest, ShowNeighboursRequest, TerminateRequest, refusal, reply,
};
use nng::options::{Options, RecvTimeout};
use nng::{Protocol, Socket};
use prost::Message as _;

use crate::{LONG, SHORT, rekey, router, socket};

fn serve(path: &Path) -> culvert_bus::Running {
    Server::bind(path, router()).unwrap().spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_in_flight_each_get_their_own_reply() {
    let (_folder, path) = socket();
    let _running = serve(&path);
    let client = Client::new(&path).unwrap();
    let begin = Instant::now();
    let calls = (0..1000_u32).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            // The later the call the sooner its reply: order on the wire is not order of replies.
            let reply = client
                .call(&rekey(1000 - u64::from(n) / 2, n), LONG)
                .await
                .unwrap();
            assert_eq!(reply.matches, n);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    // One after another they would take more than twelve minutes.
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_busy_handler_does_not_outlast_the_callers_patience() {
    let (_folder, path) = socket();
    let _running = serve(&path);
    let client = Client::new(&path).unwrap();
    client.hello(LONG).await.unwrap();
    let begin = Instant::now();
    let error = client.call(&rekey(5000, 1), SHORT).await.unwrap_err();
    assert!(error.leaves_outcome_unknown(), "{error:?}");
    assert!(
        matches!(
            error,
            CallError::TimedOut {
                method: "Rekey",
                ..
            } | CallError::Refused {
                code: refusal::Code::Deadline,
                ..
            }
        ),
        "{error:?}"
    );
    // Milliseconds are rounded down on their way to the server.
    let waited = begin.elapsed();
    assert!(
        waited > SHORT * 9 / 10 && waited < Duration::from_secs(2),
        "{waited:?}"
    );
    // The wire that was given up on serves again.
    assert_eq!(client.call(&rekey(0, 2), LONG).await.unwrap().matches, 2);
}

#[tokio::test]
async fn the_server_says_when_the_deadline_has_passed() {
    let (_folder, path) = socket();
    let running = serve(&path);
    let request = bus::Request {
        id: 77,
        deadline_ms: 100,
        method: "Rekey".into(),
        body: rekey(5000, 1).encode_to_vec(),
        incarnation: running.incarnation().get(),
    };
    let reply = ask_raw(&path, request.encode_to_vec()).await;
    assert_eq!(reply.id, 77);
    assert_eq!(refused(&reply), refusal::Code::Deadline);
}

#[tokio::test]
async fn calls_wait_for_a_server_that_comes_up() {
    let (_folder, path) = socket();
    let client = Client::new(&path).unwrap();
    let call = tokio::spawn(async move { client.call(&rekey(0, 3), LONG).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _running = serve(&path);
    let begin = Instant::now();
    assert_eq!(call.await.unwrap().unwrap().matches, 3);
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn nobody_there_is_said() {
    let (_folder, path) = socket();
    let client = Client::new(&path).unwrap();
    match client.call(&rekey(0, 3), SHORT).await {
        Err(
            error @ CallError::Unreachable {
                method: "Rekey", ..
            },
        ) => {
            assert!(!error.leaves_outcome_unknown());
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let (_folder, path) = socket();
    let client = Client::new(&path).unwrap();
    for _ in 0..5 {
        let running = serve(&path);
        // It reads: what was sent into a connection whose end had not been noticed yet is simply sent again.
        client.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
        let session = client.session().unwrap();
        assert_eq!(session.incarnation, running.incarnation().get());
        assert_eq!(
            (session.process.as_str(), session.pid),
            ("test", std::process::id())
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn what_a_dead_server_may_have_done_is_not_done_again_by_the_next() {
    let (_folder, path) = socket();
    let client = Client::new(&path).unwrap();
    let first = serve(&path);
    client.hello(LONG).await.unwrap();
    let caller = client.clone();
    let in_flight = tokio::spawn(async move { caller.call(&rekey(5000, 1), LONG).await });
    tokio::time::sleep(SHORT).await;
    first.stop().await;
    let _second = serve(&path);
    match in_flight.await.unwrap() {
        Err(CallError::Restarted { method: "Rekey" }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(client.call(&rekey(0, 2), LONG).await.unwrap().matches, 2);
}

#[tokio::test]
async fn a_call_that_reads_is_asked_again() {
    let (_folder, path) = socket();
    let client = Client::new(&path).unwrap();
    let slow = Router::new("slow").on(|_: ShowNeighboursRequest, _| async move {
        tokio::time::sleep(Duration::from_mins(1)).await;
        Ok(bus::ShowNeighboursReply::default())
    });
    let first = Server::bind(&path, slow).unwrap().spawn().unwrap();
    let caller = client.clone();
    let in_flight = tokio::spawn(async move { caller.call(&ShowNeighboursRequest {}, LONG).await });
    tokio::time::sleep(SHORT).await;
    first.stop().await;
    let _second = serve(&path);
    in_flight.await.unwrap().unwrap();
    assert_eq!(client.session().unwrap().process, "test");
}

/// Counts how often it is carried out, and says the count.
fn counting(count: Arc<AtomicU32>, takes: Duration) -> Router {
    Router::new("counting").on(move |_: RekeyRequest, _: Context| {
        let count = Arc::clone(&count);
        async move {
            let matches = count.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(takes).await;
            Ok(RekeyReply { matches })
        }
    })
}

#[tokio::test]
async fn a_repeated_request_has_the_first_answer_again() {
    let (_folder, path) = socket();
    let count = Arc::new(AtomicU32::new(0));
    let router = counting(Arc::clone(&count), Duration::from_millis(500));
    let running = Server::bind(&path, router).unwrap().spawn().unwrap();
    let client = Client::new(&path).unwrap();
    let mut id = client.draw_id();
    let request = rekey(0, 0);
    // Lost twice: the work goes on, and the third time its end is told. The fourth time it is told again.
    for _ in 0..2 {
        let error = client
            .call_as(&mut id, &request, Duration::from_millis(150))
            .await
            .unwrap_err();
        assert!(error.leaves_outcome_unknown(), "{error:?}");
    }
    for _ in 0..2 {
        assert_eq!(
            client
                .call_as(&mut id, &request, LONG)
                .await
                .unwrap()
                .matches,
            1
        );
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // A new id is a new request.
    assert_eq!(client.call(&request, LONG).await.unwrap().matches, 2);

    let clash = client.call_as(&mut id, &rekey(0, 9), LONG).await;
    assert!(
        matches!(
            clash,
            Err(CallError::Refused {
                code: refusal::Code::Malformed,
                ..
            })
        ),
        "{clash:?}"
    );

    running.stop().await;
    let router = counting(Arc::clone(&count), Duration::ZERO);
    let _running = Server::bind(&path, router).unwrap().spawn().unwrap();
    let error = client.call_as(&mut id, &request, LONG).await.unwrap_err();
    assert!(matches!(error, CallError::Restarted { .. }), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn calls_that_are_dropped_half_way_leave_nothing_behind() {
    let (_folder, path) = socket();
    let _running = serve(&path);
    let client = Client::new(&path).unwrap();
    client.hello(LONG).await.unwrap();
    for n in 0..200_u32 {
        let request = rekey(u64::from(n % 3), n);
        let call = client.call(&request, LONG);
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(n) * 20), call).await;
        let reply = client.call(&rekey(0, 10_000 + n), LONG).await.unwrap();
        assert_eq!(reply.matches, 10_000 + n);
    }
}

#[tokio::test]
async fn refusals_carry_their_reason() {
    let (_folder, path) = socket();
    let _running = serve(&path);
    let client = Client::new(&path).unwrap();
    match client.call(&InitiateRequest::default(), LONG).await {
        Err(CallError::Refused {
            code: refusal::Code::NotFound,
            message,
            method: "Initiate",
        }) => {
            assert_eq!(message, "no such child");
        }
        other => panic!("{other:?}"),
    }
    match client.call(&ShowIkeRequest {}, LONG).await {
        Err(CallError::Refused {
            code: refusal::Code::UnknownMethod,
            message,
            ..
        }) => {
            assert!(message.contains("ShowIke"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    match client.call(&TerminateRequest::default(), LONG).await {
        Err(CallError::Refused {
            code: refusal::Code::Internal,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    client.call(&ShowNeighboursRequest {}, LONG).await.unwrap();
}

#[tokio::test]
async fn no_bytes_bring_a_server_down() {
    let (_folder, path) = socket();
    let running = serve(&path);
    for bytes in [
        &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x08",
        b"\x12\xff\xff\x03",
    ] {
        let reply = ask_raw(&path, bytes.to_vec()).await;
        assert_eq!((reply.id, refused(&reply)), (0, refusal::Code::Malformed));
    }
    let request = bus::Request {
        id: 5,
        deadline_ms: 1000,
        method: "Rekey".into(),
        body: b"\x0a\x05ab".to_vec(),
        incarnation: running.incarnation().get(),
    };
    let reply = ask_raw(&path, request.encode_to_vec()).await;
    assert_eq!((reply.id, refused(&reply)), (5, refusal::Code::Malformed));
    let Some(reply::Outcome::Refusal(refusal)) = reply.outcome else {
        panic!()
    };
    assert!(refusal.message.contains("Rekey"), "{}", refusal.message);

    // No nng at all: noise on the bare socket, and a message that claims to be longer than allowed.
    for noise in [
        &[0x5a_u8; 4096][..],
        &[0; 64],
        b"\0SP\0\0\x30\0\0\x01\x7f\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(noise);
    }

    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..500 {
        let bytes: Vec<u8> = (0..state % 40)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        refused(&ask_raw(&path, bytes).await);
    }

    let client = Client::new(&path).unwrap();
    assert_eq!(client.call(&rekey(0, 8), LONG).await.unwrap().matches, 8);
}

#[tokio::test]
async fn replies_that_are_none_are_errors_of_the_call() {
    let call = |path: &Path| {
        let client = Client::new(path).unwrap();
        async move { client.call(&rekey(0, 1), LONG).await.unwrap_err() }
    };

    let (_folder, path) = socket();
    let _fake = fake_server(&path, |_| b"\xff\xff\xff".to_vec());
    let error = call(&path).await;
    assert!(
        matches!(
            error,
            CallError::Undecodable {
                reason: Undecodable::Bytes(_),
                ..
            }
        ),
        "{error:?}"
    );

    let (_folder, path) = socket();
    let _fake = fake_server(&path, |request| {
        if request.method == "Hello" {
            return greeting(&request, VERSION);
        }
        bus::Reply {
            id: request.id,
            outcome: None,
        }
        .encode_to_vec()
    });
    let error = call(&path).await;
    assert!(
        matches!(
            error,
            CallError::Undecodable {
                reason: Undecodable::NoOutcome,
                ..
            }
        ),
        "{error:?}"
    );

    let (_folder, path) = socket();
    let _fake = fake_server(&path, |mut request| {
        if request.method != "Hello" {
            request.id += 1;
        }
        greeting(&request, VERSION)
    });
    let error = call(&path).await;
    assert!(
        matches!(
            error,
            CallError::Undecodable {
                reason: Undecodable::AnotherRequest { .. },
                ..
            }
        ),
        "{error:?}"
    );

    let (_folder, path) = socket();
    let _fake = fake_server(&path, |request| {
        if request.method == "Hello" {
            return greeting(&request, VERSION);
        }
        let outcome = Some(reply::Outcome::Body(b"\x0a\xff".to_vec()));
        bus::Reply {
            id: request.id,
            outcome,
        }
        .encode_to_vec()
    });
    let error = call(&path).await;
    assert!(
        matches!(
            error,
            CallError::Undecodable {
                method: "Rekey",
                reason: Undecodable::Bytes(_)
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_version_is_named() {
    let (_folder, path) = socket();
    let _fake = fake_server(&path, |request| greeting(&request, VERSION + 1));
    let client = Client::new(&path).unwrap();
    match client.call(&rekey(0, 1), LONG).await {
        Err(CallError::Version { ours, theirs, .. }) => {
            assert_eq!((ours, theirs), (VERSION, VERSION + 1));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_too_large_are_refused_before_they_are_sent() {
    let (_folder, path) = socket();
    let router = router().on(|_: DumpSasRequest, _| async move {
        let sas = vec![
            SaDump {
                fingerprint: vec![1; 1 << 20],
                ..SaDump::default()
            };
            17
        ];
        Ok(DumpSasReply {
            sas,
            ..DumpSasReply::default()
        })
    });
    let _running = Server::bind(&path, router).unwrap().spawn().unwrap();
    let client = Client::new(&path).unwrap();
    let request = RekeyRequest {
        ike: "0".repeat(MESSAGE_LIMIT),
        child: "1".into(),
    };
    match client.call(&request, LONG).await {
        Err(CallError::TooLarge { bytes, .. }) => assert!(bytes > MESSAGE_LIMIT),
        other => panic!("{other:?}"),
    }
    match client.call(&DumpSasRequest {}, LONG).await {
        Err(CallError::Refused {
            code: refusal::Code::Limit,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    // The largest that is allowed passes.
    let request = RekeyRequest {
        ike: "0".repeat(MESSAGE_LIMIT - 2000),
        child: "4".into(),
    };
    assert_eq!(client.call(&request, LONG).await.unwrap().matches, 4);
}

#[tokio::test]
async fn sockets_for_secrets_carry_the_same() {
    let (_folder, path) = socket();
    let server = Server::bind_for_secrets(&path, router()).unwrap();
    let _running = server.spawn().unwrap();
    let client = Client::for_secrets(&path).unwrap();
    for n in 0..100 {
        assert_eq!(client.call(&rekey(0, n), LONG).await.unwrap().matches, n);
    }
}

fn refused(reply: &bus::Reply) -> refusal::Code {
    match &reply.outcome {
        Some(reply::Outcome::Refusal(refusal)) => refusal.code(),
        _ => panic!("not refused: id {}", reply.id),
    }
}

/// Sends any bytes as a request and gives what comes back. Noise on a socket may have cost it its door: then once
/// more.
async fn ask_raw(path: &Path, bytes: Vec<u8>) -> bus::Reply {
    let url = format!("ipc://{}", path.display());
    let ask = move || {
        let socket = Socket::new(Protocol::Req0)?;
        socket.set_opt::<RecvTimeout>(Some(Duration::from_secs(2)))?;
        socket.dial_async(&url)?;
        socket.send(bytes.as_slice())?;
        socket.recv()
    };
    let message = tokio::task::spawn_blocking(move || {
        (0..5)
            .find_map(|_| ask().ok())
            .expect("no reply to raw bytes")
    });
    bus::Reply::decode(message.await.unwrap().as_slice()).unwrap()
}

/// Answers every request with what `answer` makes of it.
fn fake_server(
    path: &Path,
    answer: impl Fn(bus::Request) -> Vec<u8> + Send + 'static,
) -> FakeServer {
    let socket = Socket::new(Protocol::Rep0).unwrap();
    socket.listen(&format!("ipc://{}", path.display())).unwrap();
    let served = socket.clone();
    std::thread::spawn(move || {
        while let Ok(message) = served.recv() {
            let request = bus::Request::decode(message.as_slice()).unwrap();
            if served.send(answer(request).as_slice()).is_err() {
                break;
            }
        }
    });
    FakeServer(socket)
}

struct FakeServer(Socket);

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn greeting(request: &bus::Request, version: u32) -> Vec<u8> {
    let hello = HelloReply {
        version,
        process: "fake".into(),
        pid: 1,
        incarnation: 9,
    };
    let outcome = Some(reply::Outcome::Body(hello.encode_to_vec()));
    bus::Reply {
        id: request.id,
        outcome,
    }
    .encode_to_vec()
}
