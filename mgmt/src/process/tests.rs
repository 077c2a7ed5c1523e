//! The northbound socket as others meet it: sessions, too many of them, and those that stay without a word.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_mgmt_api::{ConfigurationClient, GatewayClient, ORIGIN, PRINCIPAL, connect};
use culvert_model::api;
use culvert_model::bus::{ShowGraphReply, ShowPlanReply, Transaction};
use culvert_model::plan::Plan;
use culvert_model::tree::Location;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::*;
use crate::agent::{Caller, HandsError, Role};

/// A deadline, not a measurement.
const DEADLINE: Duration = Duration::from_mins(1);

/// Follows whatever it is told, after a while, and is always done.
#[derive(Default)]
struct Quiet(AtomicU64);

/// Of a commit: for a client to go away in it.
const WHILE: Duration = Duration::from_millis(300);

impl Hands for Quiet {
    async fn follow(
        &self,
        revision: u64,
        _: &Arc<Plan>,
        check: bool,
    ) -> Result<Vec<String>, HandsError> {
        tokio::time::sleep(WHILE).await;
        if !check {
            self.0.store(revision, Ordering::Relaxed);
        }
        Ok(Vec::new())
    }

    async fn standing(&self) -> Result<ShowPlanReply, HandsError> {
        Ok(ShowPlanReply {
            revision: self.0.load(Ordering::Relaxed),
            settled: true,
            ..ShowPlanReply::default()
        })
    }

    async fn resynchronise(&self) -> Result<(), HandsError> {
        Ok(())
    }

    async fn transactions(&self, _: u32) -> Result<Vec<Transaction>, HandsError> {
        Ok(Vec::new())
    }

    async fn graph(&self, _: &str, _: u32) -> Result<ShowGraphReply, HandsError> {
        Ok(ShowGraphReply::default())
    }
}

struct Socket {
    place: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Socket {
    fn serve(limits: Limits, alive: Duration) -> Self {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap().store;
        let records = Records::begin(store, None, &Moment::now().unwrap()).unwrap();
        let accounts = Accounts {
            own: getuid().as_raw(),
            shell: None,
        };
        let agent = Arc::new(Agent::new(
            records,
            Quiet::default(),
            accounts,
            String::new(),
        ));
        fs::create_dir_all(place.path().join("run/bus")).unwrap();
        let observer = Arc::new(Observer::new(place.path()).unwrap());
        let listener = listen(&place.path().join("api")).unwrap();
        let serving = tokio::spawn(async move {
            serve(
                agent,
                observer,
                listener,
                limits,
                alive,
                std::future::pending(),
            )
            .await
            .unwrap();
        });
        Self { place, serving }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("api")
    }

    async fn client(&self) -> ConfigurationClient<Channel> {
        ConfigurationClient::new(connect(&self.path()).await.unwrap())
    }

    /// What the trail says of a session from there, oldest first.
    async fn sessions(&self, from: &str) -> Vec<String> {
        let reply = self
            .client()
            .await
            .list_audit(api::ListAuditRequest::default())
            .await
            .unwrap()
            .into_inner();
        let entries = reply.entries.into_iter();
        let sessions = entries.filter(|entry| entry.what == "session" && entry.from == from);
        sessions.map(|entry| entry.result).collect()
    }

    async fn wait_for_end(&self, from: &str) {
        let end = Instant::now() + DEADLINE;
        while self.sessions(from).await != ["opened as admin", "ended"] {
            assert!(Instant::now() < end, "{:?}", self.sessions(from).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn who_am_i(from: &str) -> Request<api::WhoAmIRequest> {
    let mut request = Request::new(api::WhoAmIRequest {});
    request.metadata_mut().insert(ORIGIN, from.parse().unwrap());
    request
}

#[tokio::test]
async fn the_trail_knows_when_sessions_begin_and_end() {
    let socket = Socket::serve(Limits::default(), ALIVE);
    let mut client = socket.client().await;
    for _ in 0..3 {
        let reply = client.who_am_i(who_am_i("192.0.2.7 1 192.0.2.1 22")).await;
        let reply = reply.unwrap().into_inner();
        assert_eq!(
            (reply.principal.as_str(), reply.role.as_str()),
            ("root", "admin")
        );
    }
    assert_eq!(socket.sessions("192.0.2.7").await, ["opened as admin"]);
    drop(client);
    socket.wait_for_end("192.0.2.7").await;
}

#[tokio::test]
async fn too_many_are_told_so_and_find_a_seat_later() {
    let limits = Limits {
        all: 3,
        farewell: Duration::from_millis(200),
        ..Limits::default()
    };
    let socket = Socket::serve(limits, ALIVE);
    let mut seated = Vec::new();
    for number in 0..3 {
        let mut client = socket.client().await;
        client
            .who_am_i(who_am_i(&number.to_string()))
            .await
            .unwrap();
        seated.push(client);
    }
    let refused = socket
        .client()
        .await
        .who_am_i(who_am_i("x"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("3 connections already"),
        "{refused:?}"
    );
    seated.pop();
    let end = Instant::now() + DEADLINE;
    while socket.client().await.who_am_i(who_am_i("x")).await.is_err() {
        assert!(Instant::now() < end, "no seat is free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_says_nothing_goes() {
    let limits = Limits {
        silence: Duration::from_millis(200),
        ..Limits::default()
    };
    let socket = Socket::serve(limits, ALIVE);
    let mut silent = UnixStream::connect(socket.path()).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    // The beginning of HTTP/2, and then the end.
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        silent.read_to_end(&mut bytes).map(|_| ())
    });
    read.await.unwrap().unwrap();
    // Who has said who he is may be silent for longer.
    let mut client = socket.client().await;
    client.who_am_i(who_am_i("192.0.2.8")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.who_am_i(who_am_i("192.0.2.8")).await.unwrap();
    assert_eq!(socket.sessions("192.0.2.8").await, ["opened as admin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_reading_holds_nothing() {
    let socket = Socket::serve(Limits::default(), Duration::from_millis(300));
    let path = socket.path();
    let (stopped, wait) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let stuck = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async {
            let mut client = ConfigurationClient::new(connect(&path).await.unwrap());
            client.who_am_i(who_am_i("192.0.2.9")).await.unwrap();
            let candidate = client.open(api::OpenRequest::default()).await.unwrap();
            // Asked, and never waited for.
            let mut asking = client.clone();
            tokio::spawn(async move { asking.get(api::GetRequest::default()).await });
            tokio::task::yield_now().await;
            (client, candidate)
        });
        // From here on nobody moves the connection.
        stopped.send(()).unwrap();
        left.recv().unwrap();
        drop(client);
    });
    tokio::task::spawn_blocking(move || wait.recv().unwrap())
        .await
        .unwrap();
    // Others go on meanwhile, and it is not waited for.
    let mut other = socket.client().await;
    other.open(api::OpenRequest::default()).await.unwrap();
    socket.wait_for_end("192.0.2.9").await;
    leave.send(()).unwrap();
    stuck.join().unwrap();
}

async fn open_and_set(client: &mut ConfigurationClient<Channel>, words: &str) -> String {
    let reply = client.open(api::OpenRequest::default()).await.unwrap();
    let candidate = reply.into_inner().candidate;
    let words = api::Words {
        words: words.split(' ').map(str::to_owned).collect(),
    };
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![api::Edit {
            change: Some(api::edit::Change::Set(words)),
        }],
    };
    let reply = client.edit(request).await.unwrap().into_inner();
    assert_eq!(reply.problems, []);
    candidate
}

fn commit(candidate: String) -> api::CommitRequest {
    api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    }
}

async fn running(client: &mut ConfigurationClient<Channel>) -> String {
    let request = api::GetRequest {
        format: api::Format::Set.into(),
        ..api::GetRequest::default()
    };
    client.get(request).await.unwrap().into_inner().text
}

#[tokio::test]
async fn who_dies_in_the_middle_of_a_commit_leaves_it_to_its_end() {
    let socket = Socket::serve(Limits::default(), ALIVE);
    let path = socket.path();
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = ConfigurationClient::new(connect(&path).await.unwrap());
            let candidate = open_and_set(&mut client, "system host_name after").await;
            let committing = client.commit(commit(candidate));
            // Long enough to be asked, and not to be answered.
            let outcome = tokio::time::timeout(WHILE / 3, committing).await;
            assert!(outcome.is_err(), "{outcome:?}");
        });
        // The connection goes with it.
        drop(runtime);
    });
    tokio::task::spawn_blocking(move || dying.join().unwrap())
        .await
        .unwrap();
    let mut client = socket.client().await;
    assert_eq!(running(&mut client).await, "", "not yet");
    let end = Instant::now() + DEADLINE;
    while running(&mut client).await != "set system host_name after\n" {
        assert!(Instant::now() < end, "the commit is lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_two_who_commit_at_once_none_is_lost() {
    use api::commit_reply::Outcome;
    let socket = Socket::serve(Limits::default(), ALIVE);
    let (mut one, mut other) = (socket.client().await, socket.client().await);
    // Different places: both.
    let first = open_and_set(&mut one, "system host_name both").await;
    let second = open_and_set(&mut other, "vrfs blue").await;
    let (first, second) = tokio::join!(one.commit(commit(first)), other.commit(commit(second)));
    let mut revisions = [first, second].map(|reply| {
        let reply = reply.unwrap().into_inner();
        assert!(
            matches!(reply.outcome(), Outcome::Applied | Outcome::Pending),
            "{reply:?}"
        );
        reply.revision
    });
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3]);
    let text = running(&mut one).await;
    assert!(
        text.contains("host_name both") && text.contains("vrfs blue"),
        "{text}"
    );
    // The same place: one of them, and the other is told who was faster.
    let first = open_and_set(&mut one, "system host_name first").await;
    let second = open_and_set(&mut other, "system host_name second").await;
    let replies = tokio::join!(one.commit(commit(first)), other.commit(commit(second)));
    let replies = [replies.0, replies.1].map(|reply| reply.unwrap().into_inner());
    let conflicts: Vec<_> = replies.iter().flat_map(|reply| &reply.conflicts).collect();
    assert_eq!(conflicts.len(), 1, "{replies:?}");
    assert_eq!(
        (conflicts[0].author.as_str(), conflicts[0].revision),
        ("root", 4)
    );
    let winner = conflicts[0].theirs.clone().unwrap();
    let text = running(&mut one).await;
    assert!(text.contains(&format!("host_name {winner}\n")), "{text}");
}

/// As a user of the gateway, for whom root speaks.
fn speaking<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(PRINCIPAL, name.parse().unwrap());
    metadata.insert(ORIGIN, "192.0.2.7 1 192.0.2.1 22".parse().unwrap());
    request
}

/// Commits a user of each role below admin.
async fn with_users(root: &mut ConfigurationClient<Channel>) {
    use culvert_model::api::{Edit, Words, edit::Change};
    let candidate = root
        .open(api::OpenRequest::default())
        .await
        .unwrap()
        .into_inner()
        .candidate;
    let edits = [("rita", "read-only"), ("olga", "operator")].map(|(name, role)| Edit {
        change: Some(Change::Set(Words {
            words: ["system", "users", name, "role", role]
                .map(str::to_owned)
                .to_vec(),
        })),
    });
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: edits.to_vec(),
    };
    assert_eq!(root.edit(request).await.unwrap().into_inner().problems, []);
    let request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    root.commit(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_changes_nothing_and_is_written_down() {
    use culvert_model::bus;
    let socket = Socket::serve(Limits::default(), ALIVE);
    let mut root = socket.client().await;
    with_users(&mut root).await;

    // What stands in the places of dataplane and `culvert run`, and counts.
    let changed = Arc::new(AtomicU64::new(0));
    let router = Router::new("dataplane")
        .on({
            let changed = Arc::clone(&changed);
            move |_: bus::ClearNeighboursRequest, _| {
                changed.fetch_add(1, Ordering::Relaxed);
                async { Ok(bus::ClearNeighboursReply { matches: 3 }) }
            }
        })
        .on(|_: bus::ShowNeighboursRequest, _| async { Ok(bus::ShowNeighboursReply::default()) });
    let path = socket.place.path().join("run/bus");
    let _dataplane = Server::bind(&path.join("dataplane"), router)
        .unwrap()
        .spawn()
        .unwrap();
    let router = Router::new("run").on({
        let changed = Arc::clone(&changed);
        move |_: bus::RestartProcessRequest, _| {
            changed.fetch_add(1, Ordering::Relaxed);
            async { Ok(bus::RestartProcessReply {}) }
        }
    });
    let _run = Server::bind_for_secrets(&path.join("run"), router)
        .unwrap()
        .spawn()
        .unwrap();

    let mut gateway = GatewayClient::new(connect(&socket.path()).await.unwrap());
    let look = api::ShowRequest {
        subjects: vec![api::Subject::Neighbours.into()],
        routes: None,
    };
    gateway.show(speaking("rita", look.clone())).await.unwrap();
    let nobody = gateway.show(speaking("mallory", look)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let clear = || api::ClearRequest {
        what: Some(api::clear_request::What::Neighbours(
            api::clear_request::Neighbours::default(),
        )),
    };
    let restart = || api::RestartRequest {
        process: "charon".to_owned(),
    };
    let refused = [
        gateway.clear(speaking("rita", clear())).await.unwrap_err(),
        gateway
            .restart(speaking("rita", restart()))
            .await
            .unwrap_err(),
        gateway
            .capture(speaking("rita", api::CaptureRequest::default()))
            .await
            .unwrap_err(),
        gateway
            .trace(speaking("rita", api::TraceRequest::default()))
            .await
            .unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
    assert_eq!(changed.load(Ordering::Relaxed), 0);
    let reply = gateway.clear(speaking("olga", clear())).await.unwrap();
    assert_eq!(reply.into_inner().matches, 3);
    gateway.restart(speaking("olga", restart())).await.unwrap();
    assert_eq!(changed.load(Ordering::Relaxed), 2);
    // What has no name is not cleared, and what is no host is not asked.
    let nothing = gateway
        .clear(speaking("olga", api::ClearRequest::default()))
        .await;
    assert_eq!(nothing.unwrap_err().code(), Code::InvalidArgument);
    let request = api::PingRequest {
        destination: "224.0.0.1".to_owned(),
        ..api::PingRequest::default()
    };
    let nowhere = gateway.ping(speaking("rita", request)).await;
    assert_eq!(nowhere.unwrap_err().code(), Code::InvalidArgument);

    let trail = root.list_audit(api::ListAuditRequest::default()).await;
    let entries = trail.unwrap().into_inner().entries;
    for (who, what, result) in [
        ("rita", "clear neighbours", "refused"),
        ("rita", "restart \"charon\"", "refused"),
        ("olga", "clear neighbours", "done"),
        ("olga", "restart \"charon\"", "done"),
    ] {
        let found = entries.iter().any(|entry| {
            entry.principal == who
                && entry.what.starts_with(what)
                && entry.result.starts_with(result)
        });
        assert!(found, "{who} {what}: {entries:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_followed_and_a_reader_who_is_gone_leaves_a_place() {
    let socket = Socket::serve(Limits::default(), ALIVE);
    let folder = socket.place.path().join("var/log");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("charon.log"), "one\ntwo\n").unwrap();
    let request = api::ReadLogRequest {
        process: "charon".to_owned(),
        last: 1,
        follow: true,
    };
    // More often than there are places.
    for round in 0..12 {
        let mut gateway = GatewayClient::new(connect(&socket.path()).await.unwrap());
        let end = Instant::now() + DEADLINE;
        let mut lines = loop {
            match gateway.read_log(request.clone()).await {
                Ok(reply) => break reply.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{round}");
                    assert!(Instant::now() < end, "{round}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let first = lines.message().await.unwrap().unwrap().lines;
        assert_eq!(first[0].text, if round == 0 { "two" } else { "three" });
        if round == 0 {
            let mut file = fs::File::options()
                .append(true)
                .open(folder.join("charon.log"))
                .unwrap();
            std::io::Write::write_all(&mut file, b"three\n").unwrap();
            let next = lines.message().await.unwrap().unwrap().lines;
            assert_eq!(next[0].text, "three");
        }
    }
    let mut gateway = GatewayClient::new(connect(&socket.path()).await.unwrap());
    let request = api::ReadLogRequest {
        process: "../store".to_owned(),
        ..api::ReadLogRequest::default()
    };
    let end = Instant::now() + DEADLINE;
    let code = loop {
        match gateway.read_log(request.clone()).await.unwrap_err().code() {
            // The last of those who are gone has not been missed yet.
            Code::ResourceExhausted if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            code => break code,
        }
    };
    assert_eq!(code, Code::NotFound);
}

#[tokio::test]
async fn a_store_that_came_back_from_its_exports_is_told_of() {
    let place = tempfile::tempdir().unwrap();
    let now = Moment::now().unwrap();
    let store = Store::open(place.path()).unwrap().store;
    let lines = "set interfaces wan mtu 1400\n";
    let tree = Tree::default().load(lines, &Location::root()).unwrap();
    let mut records = Records::begin(store, Some(&tree), &now).unwrap();
    records.store.maintain().unwrap();
    drop(records);
    fs::write(place.path().join("store.db"), b"not a database at all").unwrap();
    let _ = fs::remove_file(place.path().join("store.db-wal"));

    let opened = Store::open(place.path()).unwrap();
    let warning = warning(&opened);
    assert!(
        warning.starts_with("the store was damaged and exports took its place"),
        "{warning}"
    );
    let records = Records::begin(opened.store, None, &now).unwrap();
    assert_eq!(records.running.tree, tree);
    let accounts = Accounts {
        own: getuid().as_raw(),
        shell: None,
    };
    let agent = Agent::new(records, Quiet::default(), accounts, warning.clone());
    let caller = Caller {
        name: "rita".to_owned(),
        role: Role::ReadOnly,
        origin: "console".to_owned(),
    };
    let status = agent.status(&caller, api::StatusRequest {}).await.unwrap();
    assert_eq!(status.store_warning, warning);
}
