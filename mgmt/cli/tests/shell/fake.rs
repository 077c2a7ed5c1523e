//! A server of configurations that keeps none: it records what it is asked, and answers as it was told to.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_mgmt_api::{
    Configuration, ConfigurationServer, Gateway, GatewayServer, ORIGIN, PRINCIPAL, SEALED,
};
use culvert_model::api::complete_request::Verb;
use culvert_model::api::{self, Subject, commit_reply::Outcome, completion::Kind, edit};
use culvert_model::state;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What it was asked, and what it answers.
#[derive(Default)]
pub struct State {
    /// The lines that set the time zone.
    pub zone: &'static str,
    /// Names of the methods, in order; not those of completion and of the greeting.
    pub calls: Vec<&'static str>,
    /// For whom, and from where, it was last asked.
    pub caller: (Option<String>, Option<String>),
    /// As they came.
    pub opens: Vec<api::OpenRequest>,
    /// As they came.
    pub edits: Vec<api::EditRequest>,
    /// As they came.
    pub gets: Vec<api::GetRequest>,
    /// As they came.
    pub commits: Vec<api::CommitRequest>,
    /// As they came.
    pub discards: Vec<api::DiscardRequest>,
    /// As they came.
    pub exports: Vec<api::ExportRequest>,
    /// As they came.
    pub keys: Vec<api::GenerateKeyRequest>,
    /// As they came.
    pub wishes: Vec<api::RequestCertificateRequest>,
    /// Confirmations.
    pub confirms: u32,
    /// Revisions that are pinned.
    pub pinned: Vec<u64>,
    /// Changes of the candidate that are not committed.
    pub changes: usize,
    /// Answers to commits; when there are none it is applied.
    pub outcomes: VecDeque<api::CommitReply>,
    /// The newest revision is on probation.
    pub probation: bool,
    /// What the gateway was asked.
    pub shows: Vec<api::ShowRequest>,
    /// As they came.
    pub captures: Vec<api::CaptureRequest>,
    /// As they came.
    pub traces: Vec<api::TraceRequest>,
    /// As they came.
    pub pings: Vec<api::PingRequest>,
    /// As they came.
    pub logs: Vec<api::ReadLogRequest>,
    /// As they came.
    pub clears: Vec<api::ClearRequest>,
    /// Processes.
    pub restarts: Vec<String>,
    /// Commits take as long.
    pub delay: Duration,
    /// Others' candidates.
    pub others: Vec<api::Candidate>,
}

/// A gateway's folder, with the server on its socket.
pub struct Fake {
    pub root: TempDir,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

impl Fake {
    pub fn start() -> Self {
        let root = tempfile::Builder::new()
            .prefix("culvert-cli-")
            .tempdir()
            .unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = Service(Arc::clone(&state));
        let gateway = Service(Arc::clone(&state));
        let guard = runtime.enter();
        let listener = UnixListener::bind(root.path().join("run/api")).unwrap();
        drop(guard);
        runtime.spawn(async move {
            Server::builder()
                .add_service(ConfigurationServer::new(service))
                .add_service(GatewayServer::new(gateway))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
        });
        Self {
            root,
            state,
            _runtime: runtime,
        }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The words of all lines that were set, in order.
    pub fn set(&self) -> Vec<String> {
        let state = self.state();
        let edits = state.edits.iter().flat_map(|request| &request.edits);
        edits
            .filter_map(|edit| match edit.change.as_ref()? {
                edit::Change::Set(words) => Some(words.words.join(" ")),
                _ => None,
            })
            .collect()
    }

    /// The next commit comes to this.
    pub fn next_outcome(&self, outcome: Outcome, fill: impl FnOnce(&mut api::CommitReply)) {
        let mut reply = api::CommitReply {
            revision: 8,
            ..api::CommitReply::default()
        };
        reply.set_outcome(outcome);
        fill(&mut reply);
        self.state().outcomes.push_back(reply);
    }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    fn record<T>(&self, name: &'static str, request: &Request<T>) -> MutexGuard<'_, State> {
        let text = |name: &str| {
            let value = request.metadata().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut state = self.0.lock().unwrap();
        state.calls.push(name);
        state.caller = (text(PRINCIPAL), text(ORIGIN));
        state
    }
}

/// The word that is never right.
fn wrong(words: &[String]) -> Option<api::Problem> {
    let word = words.iter().position(|word| word == "wrong")?;
    Some(api::Problem {
        path: words[..word].join(" "),
        message: "\"wrong\" is not known here; is \"right\" meant?".into(),
        word: Some(word as u32),
        ..api::Problem::default()
    })
}

fn offers(request: &api::CompleteRequest) -> Vec<(Kind, &'static str, &'static str)> {
    let words: Vec<&str> = request
        .at
        .iter()
        .chain(&request.words)
        .map(String::as_str)
        .collect();
    match words.as_slice() {
        [] => vec![
            (Kind::Keyword, "interfaces", "links of the gateway"),
            (Kind::Keyword, "ip_tunnels", "tunnels of GRE and IPIP"),
            (Kind::Keyword, "routes", "static routes"),
        ],
        ["interfaces"] => vec![
            (Kind::Name, "lan0", "the office"),
            (Kind::Name, "wan0", "the uplink"),
            (Kind::Hint, "<name of an interface>", "what it is called"),
        ],
        ["interfaces", _] => vec![
            (Kind::Keyword, "addresses", "addresses of the gateway"),
            (Kind::Keyword, "mtu", "largest packet"),
        ],
        ["interfaces", _, "mtu"] if request.verb() == Verb::Location => Vec::new(),
        ["interfaces", _, "mtu"] => vec![(Kind::Hint, "<68..9216 bytes>", "largest packet")],
        _ => Vec::new(),
    }
}

#[tonic::async_trait]
impl Configuration for Service {
    /// Nobody is ever removed.
    async fn attend(
        &self,
        _: Request<api::AttendRequest>,
    ) -> Result<Response<api::AttendReply>, Status> {
        std::future::pending().await
    }

    async fn open(
        &self,
        request: Request<api::OpenRequest>,
    ) -> Result<Response<api::OpenReply>, Status> {
        let mut state = self.record("open", &request);
        let request = request.into_inner();
        if request.candidate == "gone" {
            return Err(Status::not_found("there is no candidate gone"));
        }
        let candidate = if request.candidate.is_empty() {
            "c1".to_owned()
        } else {
            request.candidate.clone()
        };
        state.opens.push(request);
        Ok(Response::new(api::OpenReply {
            candidate,
            base: 7,
            others: state.others.clone(),
        }))
    }

    async fn edit(
        &self,
        request: Request<api::EditRequest>,
    ) -> Result<Response<api::EditReply>, Status> {
        let mut state = self.record("edit", &request);
        let request = request.into_inner();
        let mut problems = Vec::new();
        for (number, edit) in request.edits.iter().enumerate() {
            let problem = match edit.change.as_ref().unwrap() {
                edit::Change::Set(words) | edit::Change::Delete(words) => wrong(&words.words),
                edit::Change::Rename(moved) | edit::Change::Copy(moved) => wrong(&moved.from),
                edit::Change::Deactivate(words) | edit::Change::Activate(words) => {
                    wrong(&words.words)
                }
                edit::Change::Annotate(note) => wrong(&note.words),
                edit::Change::Insert(moved) => wrong(&moved.words),
                edit::Change::Load(load) => load.text.contains("wrong").then(|| api::Problem {
                    line: Some(2),
                    message: "that is not right".into(),
                    ..api::Problem::default()
                }),
                edit::Change::Rollback(_) => None,
            };
            problems.extend(problem.map(|problem| api::Problem {
                edit: Some(number as u32),
                ..problem
            }));
        }
        if problems.is_empty() {
            state.changes += request.edits.len();
        }
        state.edits.push(request);
        Ok(Response::new(api::EditReply { problems }))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetReply>, Status> {
        let mut state = self.record("get", &request);
        let request = request.into_inner();
        let problems: Vec<_> = wrong(&request.at).into_iter().collect();
        let text = match request.format() {
            api::Format::Set if request.at == ["system", "time_zone"] => state.zone.to_owned(),
            api::Format::Json => "{ \"interfaces\": [] }".to_owned(),
            api::Format::Set => "set interfaces wan0 mtu 1400".to_owned(),
            _ => "interfaces {\n  wan0 {\n    mtu 1400\n  }\n}\n".to_owned(),
        };
        state.gets.push(request);
        Ok(Response::new(api::GetReply {
            text,
            problems,
            revision: 7,
            hash: Vec::new(),
        }))
    }

    async fn compare(
        &self,
        request: Request<api::CompareRequest>,
    ) -> Result<Response<api::CompareReply>, Status> {
        let state = self.record("compare", &request);
        let difference = api::Difference {
            words: vec!["interfaces".into(), "wan0".into(), "mtu".into()],
            before: Some("1500".into()),
            after: Some("1400".into()),
            ..api::Difference::default()
        };
        Ok(Response::new(api::CompareReply {
            differences: vec![difference; state.changes],
        }))
    }

    async fn complete(
        &self,
        request: Request<api::CompleteRequest>,
    ) -> Result<Response<api::CompleteReply>, Status> {
        let request = request.into_inner();
        let completions = offers(&request)
            .into_iter()
            .filter(|(kind, text, _)| match kind {
                Kind::Hint => request.partial.is_empty(),
                _ => text.starts_with(&request.partial.replace('-', "_")),
            })
            .map(|(kind, text, help)| api::Completion {
                kind: kind.into(),
                text: text.into(),
                help: help.into(),
            })
            .collect();
        Ok(Response::new(api::CompleteReply { completions }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitRequest>,
    ) -> Result<Response<api::CommitReply>, Status> {
        let delay = {
            let mut state = self.record("commit", &request);
            state.commits.push(request.into_inner());
            state.delay
        };
        tokio::time::sleep(delay).await;
        let mut state = self.0.lock().unwrap();
        let reply = state.outcomes.pop_front().unwrap_or_else(|| {
            let mut reply = api::CommitReply {
                revision: 8,
                ..api::CommitReply::default()
            };
            reply.set_outcome(Outcome::Applied);
            reply
        });
        if matches!(reply.outcome(), Outcome::Applied | Outcome::Pending) {
            state.changes = 0;
        }
        Ok(Response::new(reply))
    }

    async fn confirm(
        &self,
        request: Request<api::ConfirmRequest>,
    ) -> Result<Response<api::ConfirmReply>, Status> {
        let mut state = self.record("confirm", &request);
        if !state.probation {
            return Err(Status::invalid_argument("no revision is on probation"));
        }
        state.probation = false;
        state.confirms += 1;
        Ok(Response::new(api::ConfirmReply { revision: 7 }))
    }

    async fn discard(
        &self,
        request: Request<api::DiscardRequest>,
    ) -> Result<Response<api::DiscardReply>, Status> {
        let mut state = self.record("discard", &request);
        state.changes = 0;
        state.discards.push(request.into_inner());
        Ok(Response::new(api::DiscardReply {}))
    }

    async fn list_revisions(
        &self,
        request: Request<api::ListRevisionsRequest>,
    ) -> Result<Response<api::ListRevisionsReply>, Status> {
        let pinned = self.record("list_revisions", &request).pinned.clone();
        let limit = request.into_inner().limit as usize;
        let revisions = [7, 6, 4]
            .into_iter()
            .take(limit)
            .map(|number| api::Revision {
                number,
                author: "ada".into(),
                source: "cli".into(),
                unix_ms: 1_735_689_600_000,
                comment: format!("comment {number}"),
                pinned: pinned.contains(&number),
                ..api::Revision::default()
            })
            .collect();
        Ok(Response::new(api::ListRevisionsReply { revisions }))
    }

    async fn pin(
        &self,
        request: Request<api::PinRequest>,
    ) -> Result<Response<api::PinReply>, Status> {
        let mut state = self.record("pin", &request);
        let api::PinRequest { revision, off } = request.into_inner();
        if ![7, 6, 4].contains(&revision) {
            return Err(Status::not_found(format!(
                "there is no revision {revision}"
            )));
        }
        state.pinned.retain(|one| *one != revision);
        if !off {
            state.pinned.push(revision);
        }
        Ok(Response::new(api::PinReply {}))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusReply>, Status> {
        let state = self.record("status", &request);
        Ok(Response::new(api::StatusReply {
            revision: 7,
            settled: true,
            ready: true,
            wanted: 9,
            applied: 9,
            probation_seconds: state.probation.then_some(90),
            ..api::StatusReply::default()
        }))
    }

    async fn list_transactions(
        &self,
        request: Request<api::ListTransactionsRequest>,
    ) -> Result<Response<api::ListTransactionsReply>, Status> {
        drop(self.record("list_transactions", &request));
        Ok(Response::new(api::ListTransactionsReply {
            transactions: vec![api::Transaction {
                number: 4,
                cause: "revision 7".to_owned(),
                finished: true,
                ..api::Transaction::default()
            }],
        }))
    }

    async fn graph(
        &self,
        request: Request<api::GraphRequest>,
    ) -> Result<Response<api::GraphReply>, Status> {
        drop(self.record("graph", &request));
        let request = request.into_inner();
        Ok(Response::new(api::GraphReply {
            dot: format!(
                "digraph values {{\n  // {} {}\n}}\n",
                request.prefix, request.limit
            ),
            shown: 1,
            matching: 3,
        }))
    }

    async fn resynchronise(
        &self,
        request: Request<api::ResynchroniseRequest>,
    ) -> Result<Response<api::ResynchroniseReply>, Status> {
        drop(self.record("resynchronise", &request));
        Ok(Response::new(api::ResynchroniseReply {}))
    }

    async fn list_audit(
        &self,
        request: Request<api::ListAuditRequest>,
    ) -> Result<Response<api::ListAuditReply>, Status> {
        drop(self.record("list_audit", &request));
        Err(Status::permission_denied(
            "the audit trail is for operators; ada is read-only",
        ))
    }

    async fn export(
        &self,
        request: Request<api::ExportRequest>,
    ) -> Result<Response<api::ExportReply>, Status> {
        let mut state = self.record("export", &request);
        state.exports.push(request.into_inner());
        let text = format!("{SEALED}\nAAAA\n{}\n", SEALED.replace("BEGIN", "END"));
        Ok(Response::new(api::ExportReply { text }))
    }

    async fn generate_key(
        &self,
        request: Request<api::GenerateKeyRequest>,
    ) -> Result<Response<api::EditReply>, Status> {
        self.record("generate_key", &request)
            .keys
            .push(request.into_inner());
        Ok(Response::new(api::EditReply::default()))
    }

    async fn request_certificate(
        &self,
        request: Request<api::RequestCertificateRequest>,
    ) -> Result<Response<api::RequestCertificateReply>, Status> {
        let mut state = self.record("request_certificate", &request);
        state.wishes.push(request.into_inner());
        Ok(Response::new(api::RequestCertificateReply {
            pem: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
                .to_owned(),
            problems: Vec::new(),
        }))
    }

    async fn list_certificates(
        &self,
        request: Request<api::ListCertificatesRequest>,
    ) -> Result<Response<api::ListCertificatesReply>, Status> {
        drop(self.record("list_certificates", &request));
        Ok(Response::new(api::ListCertificatesReply {
            certificates: vec![api::CertificateInfo {
                name: "branch".into(),
                subject: "CN=branch".into(),
                issuer: "CN=authority".into(),
                serial: "01".into(),
                not_after_unix_ms: 1_735_689_600_000,
                key: "own".into(),
                warning: "expired".into(),
                ..api::CertificateInfo::default()
            }],
        }))
    }

    async fn rotate_key(
        &self,
        request: Request<api::RotateKeyRequest>,
    ) -> Result<Response<api::RotateKeyReply>, Status> {
        drop(self.record("rotate_key", &request));
        Ok(Response::new(api::RotateKeyReply { generation: 3 }))
    }

    async fn who_am_i(
        &self,
        request: Request<api::WhoAmIRequest>,
    ) -> Result<Response<api::WhoAmIReply>, Status> {
        let principal = request.metadata().get(PRINCIPAL);
        let principal = principal.and_then(|name| name.to_str().ok());
        if principal == Some("nobody") {
            return Err(Status::unauthenticated(
                "\"nobody\" is no user of this gateway",
            ));
        }
        Ok(Response::new(api::WhoAmIReply {
            principal: principal.unwrap_or_default().to_owned(),
            role: "admin".into(),
            host_name: "branch.example".into(),
        }))
    }
}

/// A gateway with a hundred neighbours, five routes, and a dataplane that is away or slow when asked about something else.
#[tonic::async_trait]
impl Gateway for Service {
    async fn show(
        &self,
        request: Request<api::ShowRequest>,
    ) -> Result<Response<api::ShowReply>, Status> {
        self.record("show", &request)
            .shows
            .push(request.get_ref().clone());
        let request = request.into_inner();
        let mut reply = api::ShowReply::default();
        let mut told = state::State::default();
        for subject in request.subjects() {
            match subject {
                // More than a page.
                Subject::Neighbours => {
                    told.neighbours = (1..=100)
                        .map(|number| state::NeighbourState {
                            interface: Some(format!("interface {number}")),
                            ..state::NeighbourState::default()
                        })
                        .collect();
                }
                Subject::Ike => {
                    told.ikes = vec![state::IkeState {
                        connection: Some("hq-1".into()),
                        ..state::IkeState::default()
                    }];
                }
                Subject::Children => {
                    told.children = vec![state::ChildState {
                        connection: Some("hq-1".into()),
                        ..state::ChildState::default()
                    }];
                }
                Subject::Routes => {
                    let choice = request.routes.clone().unwrap_or_default();
                    let vrf = choice.vrf.clone();
                    told.routes = (0..choice.limit.min(5))
                        .map(|number| state::RouteState {
                            vrf: Some(vrf.clone()),
                            destination: Some(format!("10.0.{number}.0/24")),
                            ..state::RouteState::default()
                        })
                        .collect();
                    if choice.limit < 5 {
                        reply.more_routes = b"more".to_vec();
                    }
                }
                // Longer than anybody waits.
                Subject::Nodes => tokio::time::sleep(Duration::from_mins(10)).await,
                Subject::Drops => {
                    return Err(Status::unavailable("the dataplane does not answer"));
                }
                Subject::System => {
                    told.system = Some(state::SystemState {
                        host_name: Some("branch".into()),
                        version: Some("9.8.7".into()),
                        ..state::SystemState::default()
                    });
                }
                _ => {}
            }
        }
        reply.state = Some(told);
        Ok(Response::new(reply))
    }

    type ReadLogStream = Replies<api::ReadLogReply>;

    /// Ten lines a second for as long as somebody follows.
    async fn read_log(
        &self,
        request: Request<api::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        self.record("read_log", &request)
            .logs
            .push(request.get_ref().clone());
        let request = request.into_inner();
        if request.process == "nobody" {
            return Err(Status::not_found("\"nobody\" has no log"));
        }
        let (sender, replies) = channel();
        tokio::spawn(async move {
            for number in 1_u32.. {
                let line = api::LogLine {
                    process: "dataplane".into(),
                    text: format!("line {number}"),
                };
                let reply = api::ReadLogReply { lines: vec![line] };
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
                if !request.follow && number == 3 {
                    return;
                }
                if request.follow {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        Ok(replies)
    }

    type PingStream = Replies<api::PingReply>;

    /// Every second one is answered.
    async fn ping(
        &self,
        request: Request<api::PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        self.record("ping", &request)
            .pings
            .push(request.get_ref().clone());
        let request = request.into_inner();
        let (sender, replies) = channel();
        tokio::spawn(async move {
            for sequence in 1..=request.count.max(1) {
                let reply = api::PingReply {
                    sequence,
                    from: request.destination.clone(),
                    round_trip_us: (sequence % 2 == 0).then_some(1500),
                    reason: if sequence % 2 == 0 {
                        ""
                    } else {
                        "host unreachable"
                    }
                    .into(),
                    bytes: 64,
                };
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
                if request.count > 100 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        Ok(replies)
    }

    type TracerouteStream = Replies<api::TracerouteReply>;

    async fn traceroute(
        &self,
        request: Request<api::TracerouteRequest>,
    ) -> Result<Response<Self::TracerouteStream>, Status> {
        drop(self.record("traceroute", &request));
        let (sender, replies) = channel();
        let reply = api::TracerouteReply {
            hop: 1,
            probes: vec![api::Probe {
                from: request.into_inner().destination,
                round_trip_us: 900,
                reason: String::new(),
            }],
            last: true,
        };
        let _ = sender.send(Ok(reply)).await;
        Ok(replies)
    }

    type CaptureStream = Replies<api::CaptureReply>;

    /// One packet.
    async fn capture(
        &self,
        request: Request<api::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        self.record("capture", &request)
            .captures
            .push(request.into_inner());
        let (sender, replies) = channel();
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 50, 0, 0];
        bytes.extend([192, 0, 2, 1, 192, 0, 2, 2, 0, 0, 1, 0, 0, 0, 0, 5]);
        let reply = api::CaptureReply {
            packets: vec![api::CapturedPacket {
                interface: "wan0".into(),
                length: 28,
                bytes,
                ..api::CapturedPacket::default()
            }],
            ..api::CaptureReply::default()
        };
        let _ = sender.send(Ok(reply)).await;
        Ok(replies)
    }

    type TraceStream = Replies<api::TraceReply>;

    async fn trace(
        &self,
        request: Request<api::TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        self.record("trace", &request)
            .traces
            .push(request.into_inner());
        let (sender, replies) = channel();
        let reply = api::TraceReply {
            visits: vec![api::TraceVisit {
                packet: 1,
                node: "ip4-input".into(),
                next: "ip4-lookup".into(),
                before: Some(api::TracedPacket {
                    source: "10.1.0.1".into(),
                    destination: "10.2.0.1".into(),
                    protocol: "icmp".into(),
                    ..api::TracedPacket::default()
                }),
                ..api::TraceVisit::default()
            }],
            packets: 1,
            missed: 0,
        };
        let _ = sender.send(Ok(reply)).await;
        Ok(replies)
    }

    async fn clear(
        &self,
        request: Request<api::ClearRequest>,
    ) -> Result<Response<api::ClearReply>, Status> {
        self.record("clear", &request)
            .clears
            .push(request.into_inner());
        Ok(Response::new(api::ClearReply { matches: 2 }))
    }

    async fn restart(
        &self,
        request: Request<api::RestartRequest>,
    ) -> Result<Response<api::RestartReply>, Status> {
        self.record("restart", &request)
            .restarts
            .push(request.into_inner().process);
        Ok(Response::new(api::RestartReply {}))
    }
}

type Replies<T> = ReceiverStream<Result<T, Status>>;
type Sender<T> = tokio::sync::mpsc::Sender<Result<T, Status>>;

fn channel<T>() -> (Sender<T>, Response<Replies<T>>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    (sender, Response::new(ReceiverStream::new(receiver)))
}
