//! The table of bad input by every entrance: the same words, the place, and nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use culvert_mgmt_api::{ConfigurationClient, MESSAGE_LIMIT, connect};
use culvert_model::api::{self, Problem, commit_reply::Outcome, edit::Change, load::Mode, source};
use culvert_tests::bad_input::{BAD, Bad, When};
use culvert_tests::gateway::program;
use culvert_tests::laboratory::wait_for;
use tonic::transport::Channel;

/// What is there before.
const BEFORE: &[&str] = &[
    "interfaces wan addresses 192.0.2.9/24",
    "system host_name before",
];

/// `culvert mgmt` alone: there is no gateway to be changed.
struct Keeper {
    place: tempfile::TempDir,
    child: Child,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Keeper {
    fn start() -> Self {
        let place = tempfile::Builder::new()
            .prefix("culvert-test-")
            .tempdir()
            .unwrap();
        for folder in ["run/bus", "var"] {
            fs::create_dir_all(place.path().join(folder)).unwrap();
        }
        let log = fs::File::create(place.path().join("mgmt.log")).unwrap();
        let child = Command::new(program().unwrap())
            .args(["mgmt", "--root"])
            .arg(place.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { place, child };
        let socket = this.path().join("run/api");
        wait_for("the socket of mgmt", Duration::from_mins(1), || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        })
        .unwrap();
        this
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    /// What lines at the command line come to.
    fn lines(&self, lines: &[u8]) -> Output {
        let mut child = Command::new(program().unwrap())
            .args(["cli", "--root"])
            .arg(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may have seen enough before the end.
        let _ = input.write_all(lines);
        drop(input);
        child.wait_with_output().unwrap()
    }
}

struct Api {
    client: ConfigurationClient<Channel>,
    candidate: String,
}

impl Api {
    async fn open(keeper: &Keeper) -> Self {
        let channel = connect(&keeper.path().join("run/api")).await.unwrap();
        let mut client = ConfigurationClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let reply = client.open(api::OpenRequest::default()).await.unwrap();
        let candidate = reply.into_inner().candidate;
        let mut this = Self { client, candidate };
        let before = this.set(BEFORE.iter().map(|line| (*line).to_owned())).await;
        assert_eq!(before, []);
        this
    }

    async fn edit(&mut self, changes: Vec<Change>) -> Vec<Problem> {
        let edits = changes.into_iter().map(|change| api::Edit {
            change: Some(change),
        });
        let request = api::EditRequest {
            candidate: self.candidate.clone(),
            at: Vec::new(),
            edits: edits.collect(),
        };
        match self.client.edit(request).await {
            Ok(reply) => reply.into_inner().problems,
            Err(status) => vec![Problem {
                message: status.message().to_owned(),
                ..Problem::default()
            }],
        }
    }

    async fn set(&mut self, lines: impl Iterator<Item = String>) -> Vec<Problem> {
        let changes = lines.map(|line| {
            Change::Set(api::Words {
                words: words_of(&line),
            })
        });
        self.edit(changes.collect()).await
    }

    async fn load(&mut self, mode: Mode, format: api::Format, text: &str) -> Vec<Problem> {
        let mut load = api::Load {
            text: text.to_owned(),
            ..api::Load::default()
        };
        load.set_mode(mode);
        load.set_format(format);
        self.edit(vec![Change::Load(load)]).await
    }

    /// The problems of a commit; the candidate is as before afterwards.
    async fn commit(&mut self) -> Vec<Problem> {
        let request = api::CommitRequest {
            candidate: self.candidate.clone(),
            ..api::CommitRequest::default()
        };
        let reply = self.client.commit(request).await.unwrap().into_inner();
        assert_eq!(reply.outcome(), Outcome::Refused);
        let request = api::DiscardRequest {
            candidate: self.candidate.clone(),
            keep: true,
        };
        self.client.discard(request).await.unwrap();
        assert_eq!(
            self.set(BEFORE.iter().map(|line| (*line).to_owned())).await,
            []
        );
        reply.problems
    }

    async fn text(&mut self, which: source::Which) -> String {
        let request = api::GetRequest {
            source: Some(api::Source { which: Some(which) }),
            format: api::Format::Set.into(),
            ..api::GetRequest::default()
        };
        self.client.get(request).await.unwrap().into_inner().text
    }

    async fn candidate(&mut self) -> String {
        self.text(source::Which::Candidate(self.candidate.clone()))
            .await
    }
}

/// The words of a line of the table; quotes hold one together.
fn words_of(line: &str) -> Vec<String> {
    match line.split_once('"') {
        None => line.split(' ').map(str::to_owned).collect(),
        Some((before, quoted)) => {
            let words = before.split_whitespace().map(str::to_owned);
            words
                .chain([quoted.trim_end_matches('"').to_owned()])
                .collect()
        }
    }
}

/// What the entrances said that they should not have.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn problems(&mut self, bad: &Bad, entrance: &str, place: &str, problems: &[Problem]) {
        let found = problems
            .iter()
            .any(|one| one.message.contains(bad.words) && one.path.contains(place));
        if !found {
            let name = bad.name;
            self.0.push(format!(
                "{name}, {entrance}: {:?} at {place:?}, not {problems:.300?}",
                bad.words
            ));
        }
    }

    fn text(&mut self, bad: &Bad, entrance: &str, place: &str, said: &str) {
        if !said.contains(bad.words) || !said.contains(place) {
            let name = bad.name;
            let said: String = said.chars().take(300).collect();
            self.0.push(format!(
                "{name}, {entrance}: {:?} at {place:?}, not {said:?}",
                bad.words
            ));
        }
    }

    fn same(&mut self, bad: &Bad, entrance: &str, before: &str, after: &str) {
        if before != after {
            self.0.push(format!(
                "{}, {entrance}: the candidate was {before:?} and is {after:?}",
                bad.name
            ));
        }
    }
}

async fn over_the_api(api: &mut Api, bad: &Bad, report: &mut Report) {
    let before = api.candidate().await;
    // What is no text cannot be said over the API.
    let Ok(text) = String::from_utf8((bad.json)()) else {
        return;
    };
    for mode in [Mode::Override, Mode::Merge] {
        let mut problems = api.load(mode, api::Format::Json, &text).await;
        if bad.when == When::Commit {
            assert_eq!(problems, [], "{}", bad.name);
            problems = api.commit().await;
        }
        // A digest is looked for in the tree, where places are written as words.
        let place = if bad.place.0.is_empty() {
            bad.place.1
        } else {
            bad.place.0
        };
        report.problems(
            bad,
            &format!("JSON over the API, {mode:?}"),
            place,
            &problems,
        );
        report.same(bad, "JSON over the API", &before, &api.candidate().await);
    }
    let lines = (bad.lines)();
    if lines.is_empty() {
        return;
    }
    let mut problems = api.set(lines.iter().cloned()).await;
    if bad.when == When::Commit {
        assert_eq!(problems, [], "{}", bad.name);
        problems = api.commit().await;
    } else {
        let number = problems.first().and_then(|one| one.edit);
        assert_eq!(
            number,
            Some(lines.len() as u32 - 1),
            "{}: {problems:?}",
            bad.name
        );
    }
    report.problems(bad, "set over the API", bad.place.1, &problems);
    report.same(bad, "set over the API", &before, &api.candidate().await);
    let text = format!("set {}\n", lines.join("\nset "));
    let mut problems = api.load(Mode::Merge, api::Format::Set, &text).await;
    if bad.when == When::Commit {
        problems = api.commit().await;
        report.problems(bad, "lines over the API", bad.place.1, &problems);
    } else {
        report.problems(bad, "lines over the API", "", &problems);
    }
    report.same(bad, "lines over the API", &before, &api.candidate().await);
}

fn at_the_command_line(keeper: &Keeper, bad: &Bad, report: &mut Report) {
    let json = (bad.json)();
    let file = keeper.path().join("bad.json");
    fs::write(&file, &json).unwrap();
    let by_name = format!("load override {}\ncommit\n", file.display()).into_bytes();
    let pasted = [b"load merge terminal\n".as_slice(), &json, b"\n.\ncommit\n"].concat();
    let place = if bad.place.0.is_empty() {
        bad.place.1
    } else {
        bad.place.0
    };
    for (entrance, lines) in [("a file at the command line", by_name), ("pasted", pasted)] {
        let output = keeper.lines(&lines);
        assert!(!output.status.success(), "{}, {entrance}", bad.name);
        report.text(
            bad,
            entrance,
            place,
            &String::from_utf8_lossy(&output.stderr),
        );
    }
    let lines = (bad.lines)();
    if lines.is_empty() {
        return;
    }
    let text = format!("set {}\n", lines.join("\nset "));
    let output = keeper.lines(format!("{text}commit\n").as_bytes());
    assert!(!output.status.success(), "{}", bad.name);
    let said = String::from_utf8_lossy(&output.stderr);
    let number = lines.len() + usize::from(bad.when == When::Commit);
    report.text(
        bad,
        "lines at the command line",
        &format!("line {number}: "),
        &said,
    );
}

fn as_the_first_file(bad: &Bad, report: &mut Report) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("gateway.json");
    fs::write(&file, (bad.json)()).unwrap();
    let output = Command::new(program().unwrap())
        .args(["run", "--root"])
        .arg(place.path().join("root"))
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", bad.name);
    let said = String::from_utf8_lossy(&output.stderr);
    report.text(bad, "culvert run --config", bad.place.0, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entrance_says_the_same_and_changes_nothing() {
    let keeper = Keeper::start();
    let mut api = Api::open(&keeper).await;
    let mut report = Report::default();
    for bad in BAD {
        over_the_api(&mut api, bad, &mut report).await;
        at_the_command_line(&keeper, bad, &mut report);
        as_the_first_file(bad, &mut report);
    }
    assert!(
        report.0.is_empty(),
        "{}:\n{}",
        report.0.len(),
        report.0.join("\n")
    );
    assert_eq!(api.text(source::Which::Running(api::Running {})).await, "");
    let secrets = fs::read_to_string(keeper.path().join("mgmt.log")).unwrap();
    assert!(!secrets.contains("0xabc"), "{secrets}");
}
