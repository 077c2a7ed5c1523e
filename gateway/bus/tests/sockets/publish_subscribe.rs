//! Followers: nothing lost that they are not told of, nothing twice, nothing out of order.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_bus::{
    CallError, Client, Incarnation, Publisher, Resync, Running, Server, Snapshot, Subscription,
    Update,
};
use culvert_model::bus::{
    Acquire, DumpSasReply, DumpSasRequest, Policy, Publication, SaEvent, sa_event,
};
use futures::StreamExt as _;
use nng::{Protocol, Socket};
use prost::Message as _;
use tokio::time::timeout;

use crate::{LONG, socket};

type Following = Subscription<Vec<u32>, SaEvent>;

fn event(n: u32) -> SaEvent {
    SaEvent {
        event: Some(sa_event::Event::Acquire(Acquire {
            reqid: n,
            ..Acquire::default()
        })),
    }
}

fn number_of(event: &SaEvent) -> u32 {
    match &event.event {
        Some(sa_event::Event::Acquire(acquire)) => acquire.reqid,
        other => panic!("{other:?}"),
    }
}

/// A process whose state is a list of numbers that it tells of one by one.
struct Process {
    publisher: Arc<Publisher<SaEvent>>,
    state: Arc<Mutex<Vec<u32>>>,
    running: Running,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let publisher = Arc::new(Publisher::bind(&folder.join("events")).unwrap());
        let state = Arc::new(Mutex::new(Vec::new()));
        let (numbers, telling) = (Arc::clone(&state), Arc::clone(&publisher));
        let router = culvert_bus::Router::new("process").on(move |_: DumpSasRequest, _| {
            let last = telling.last_number();
            let policies = numbers
                .lock()
                .unwrap()
                .iter()
                .map(|n| Policy {
                    reqid: *n,
                    ..Policy::default()
                })
                .collect();
            let incarnation = telling.incarnation().get();
            async move {
                Ok(DumpSasReply {
                    policies,
                    published: last,
                    incarnation,
                    ..DumpSasReply::default()
                })
            }
        });
        let running = Server::bind(&folder.join("requests"), router)
            .unwrap()
            .spawn()
            .unwrap();
        Self {
            publisher,
            state,
            running,
        }
    }

    fn tell(&self, n: u32) {
        self.state.lock().unwrap().push(n);
        self.publisher.publish(&event(n));
    }

    async fn stop(self) {
        self.running.stop().await;
        Arc::into_inner(self.publisher).unwrap().close().await;
    }
}

fn follow(folder: &Path) -> Following {
    let client = Client::new(&folder.join("requests")).unwrap();
    Subscription::follow(&folder.join("events"), move || {
        let client = client.clone();
        async move {
            let dump = client
                .call(&DumpSasRequest {}, Duration::from_secs(1))
                .await?;
            let state = dump.policies.iter().map(|policy| policy.reqid).collect();
            Ok::<_, CallError>(Snapshot {
                state,
                published: dump.published,
                incarnation: dump.incarnation,
            })
        }
    })
    .unwrap()
}

/// Takes updates until the follower knows `count` numbers; tells how many were snapshots.
async fn learn(following: &mut Following, known: &mut Vec<u32>, count: usize) -> usize {
    let mut snapshots = 0;
    let all = async {
        while known.len() < count || snapshots == 0 && known.is_empty() {
            match following.next().await {
                Update::Snapshot(state) => {
                    snapshots += 1;
                    *known = state;
                }
                Update::Event(event) => {
                    // What is in the snapshot already may come once more: it is there before it is told.
                    let number = number_of(&event);
                    assert!(number as usize <= known.len(), "a gap before {number}");
                    if number as usize == known.len() {
                        known.push(number);
                    }
                }
            }
        }
    };
    timeout(LONG, all).await.unwrap();
    assert!(known.iter().enumerate().all(|(i, n)| i == *n as usize));
    snapshots
}

#[tokio::test]
async fn the_snapshot_comes_first_and_the_events_after_it() {
    let (folder, _) = socket();
    let process = Process::start(folder.path());
    (0..10).for_each(|n| process.tell(n));
    let mut following = follow(folder.path());
    let mut known = Vec::new();
    assert_eq!(learn(&mut following, &mut known, 10).await, 1);
    assert_eq!(following.last_resync(), Resync::First);
    tokio::time::sleep(Duration::from_millis(300)).await;
    (10..1000).for_each(|n| process.tell(n));
    assert_eq!(learn(&mut following, &mut known, 1000).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_snapshot_and_events() {
    let (folder, _) = socket();
    let process = Arc::new(Process::start(folder.path()));
    let telling = Arc::clone(&process);
    let teller = tokio::spawn(async move {
        for n in 0..2000 {
            telling.tell(n);
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let followers: Vec<_> = (0..5)
        .map(|n| {
            let folder = folder.path().to_owned();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 30)).await;
                let mut known = Vec::new();
                learn(&mut follow(&folder), &mut known, 2000).await;
            })
        })
        .collect();
    teller.await.unwrap();
    for follower in followers {
        follower.await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_lags_takes_the_snapshot_again() {
    let (folder, _) = socket();
    let process = Process::start(folder.path());
    process.tell(0);
    let mut following = follow(folder.path());
    let mut known = Vec::new();
    learn(&mut following, &mut known, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // More than nng keeps for us on both sides together.
    (1..20_000).for_each(|n| process.tell(n));
    assert_eq!(learn(&mut following, &mut known, 20_000).await, 1);
    assert!(
        matches!(following.last_resync(), Resync::Gap { .. }),
        "{:?}",
        following.last_resync()
    );
}

#[tokio::test]
async fn a_publisher_that_restarts_is_followed_again() {
    let (folder, _) = socket();
    let mut following = follow(folder.path());
    let mut known = Vec::new();
    for round in 0..3 {
        let process = Process::start(folder.path());
        (0..5).for_each(|n| process.tell(n));
        let begin = Instant::now();
        if round > 0 {
            let update = timeout(LONG, following.next()).await.unwrap();
            assert!(
                matches!(&update, Update::Snapshot(state) if state.len() == 5),
                "{update:?}"
            );
            assert_eq!(following.last_resync(), Resync::Restarted);
            // Seen by the greeting heartbeat, not by three seconds of silence.
            assert!(
                begin.elapsed() < Duration::from_secs(2),
                "{:?}",
                begin.elapsed()
            );
            known = (0..5).collect();
        } else {
            learn(&mut following, &mut known, 5).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        process.tell(5);
        assert_eq!(learn(&mut following, &mut known, 6).await, 0);
        process.stop().await;
    }
}

#[tokio::test]
async fn an_event_before_the_connection_is_not_missed() {
    let (folder, _) = socket();
    let process = Process::start(folder.path());
    // The snapshot is taken, then something happens, and only then the socket connects: played by a stale answer.
    let asked = Arc::new(Mutex::new(0));
    let (count, incarnation) = (Arc::clone(&asked), process.publisher.incarnation().get());
    process.tell(0);
    let mut following: Following = Subscription::follow(&folder.path().join("events"), move || {
        let mut count = count.lock().unwrap();
        *count += 1;
        let published = u64::from(*count > 1);
        let state = vec![0; usize::from(*count > 1)];
        async move {
            Ok::<_, Infallible>(Snapshot {
                state,
                published,
                incarnation,
            })
        }
    })
    .unwrap();
    assert_eq!(following.next().await, Update::Snapshot(vec![]));
    let begin = Instant::now();
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Snapshot(vec![0])
    );
    assert!(
        begin.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        following.last_resync(),
        Resync::Gap {
            expected: 1,
            got: 1
        }
    );
}

/// A PUB socket that says what the test wants.
struct FakePublisher(Socket);

impl FakePublisher {
    fn bind(path: &Path) -> Self {
        let socket = Socket::new(Protocol::Pub0).unwrap();
        socket.listen(&format!("ipc://{}", path.display())).unwrap();
        Self(socket)
    }

    fn say(&self, number: u64, event: Option<SaEvent>) {
        let body = event.map(|event| event.encode_to_vec());
        let publication = Publication {
            number,
            incarnation: 1,
            body,
        };
        self.0.send(publication.encode_to_vec().as_slice()).unwrap();
    }
}

/// Follows a fake; each snapshot is how many were taken, as of publication 10 of incarnation 1.
fn follow_fake(path: &Path) -> Subscription<u32, SaEvent> {
    let mut taken = 0;
    Subscription::follow(path, move || {
        taken += 1;
        let state = taken;
        async move {
            Ok::<_, Infallible>(Snapshot {
                state,
                published: 10,
                incarnation: 1,
            })
        }
    })
    .unwrap()
}

#[tokio::test]
async fn the_loss_of_the_last_event_is_noticed_at_the_heartbeat() {
    let (_folder, path) = socket();
    let fake = FakePublisher::bind(&path);
    let mut following = follow_fake(&path);
    assert_eq!(following.next().await, Update::Snapshot(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.say(10, None);
    fake.say(11, Some(event(11)));
    fake.say(11, Some(event(11)));
    fake.say(12, None);
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Event(event(11))
    );
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Snapshot(2)
    );
    assert_eq!(
        following.last_resync(),
        Resync::Gap {
            expected: 12,
            got: 12
        }
    );
}

#[tokio::test]
async fn three_seconds_of_silence_end_in_a_snapshot() {
    let (_folder, path) = socket();
    let _fake = FakePublisher::bind(&path);
    let mut following = follow_fake(&path);
    assert_eq!(following.next().await, Update::Snapshot(1));
    let begin = Instant::now();
    // Whoever waits in a select gives up often; the silence counts on.
    let update = loop {
        if let Ok(update) = timeout(Duration::from_millis(70), following.next()).await {
            break update;
        }
    };
    assert_eq!(update, Update::Snapshot(2));
    assert_eq!(following.last_resync(), Resync::Silence);
    let waited = begin.elapsed();
    assert!(
        waited > Duration::from_millis(2900) && waited < Duration::from_secs(4),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_living_publisher_is_not_silent() {
    let (folder, _) = socket();
    let _process = Process::start(folder.path());
    let mut following = follow(folder.path());
    assert_eq!(following.next().await, Update::Snapshot(vec![]));
    let quiet = timeout(Duration::from_millis(4500), following.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn publications_that_do_not_decode_end_in_a_snapshot() {
    let (_folder, path) = socket();
    let fake = FakePublisher::bind(&path);
    let mut following = follow_fake(&path);
    assert_eq!(following.next().await, Update::Snapshot(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.0.send(&b"\xff\xff\xff"[..]).unwrap();
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Snapshot(2)
    );
    assert_eq!(following.last_resync(), Resync::Undecodable);
    let body = Some(b"\x0a\xff".to_vec());
    let publication = Publication {
        number: 11,
        incarnation: 1,
        body,
    };
    fake.0.send(publication.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Snapshot(3)
    );
    fake.say(11, Some(event(11)));
    assert_eq!(
        timeout(LONG, following.next()).await.unwrap(),
        Update::Event(event(11))
    );
}

#[tokio::test]
async fn a_snapshot_that_fails_is_asked_for_again() {
    let (folder, _) = socket();
    let mut stream = Box::pin(follow(folder.path()).into_stream());
    let nothing = timeout(Duration::from_millis(500), stream.next()).await;
    assert!(nothing.is_err());
    let process = Process::start(folder.path());
    process.tell(0);
    let first = timeout(LONG, stream.next()).await.unwrap().unwrap();
    assert_eq!(first, Update::Snapshot(vec![0]));
}

#[test]
fn incarnations_differ() {
    assert_ne!(Incarnation::draw(), Incarnation::draw());
}
