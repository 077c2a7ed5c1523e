//! The README's first hour, as somebody on the LAN types it: each line of the README at the prompt that stands before it,
//! and what the README shows must be what comes.
//!
//! ```text
//!   host-a: ssh -tt ── lan0 ── gateway-a, from the README's first file ── wan ── gateway-b: headquarters
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use culvert_netlab::addressing::{Place, Side};
use culvert_tests::configuration::gateway;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::ssh_key::make_key;
use serde_json::{Value, json};

const README: &str = include_str!("../../README.md");
const PATIENCE: Duration = Duration::from_mins(1);

/// What the README says.
struct Hour {
    /// What a box comes with.
    first: Value,
    /// In order.
    steps: Vec<Step>,
}

/// A line to type, and lines that must come of it.
#[derive(Debug)]
struct Step {
    /// `$` of the host's shell, or the gateway's.
    prompt: String,
    line: String,
    shown: Vec<String>,
}

impl Hour {
    fn of_readme() -> Self {
        let (_, hour) = README.split_once("\n## The first hour\n").unwrap();
        let (hour, _) = hour.split_once("\n## ").unwrap();
        let blocks = |kind: &str| -> Vec<&str> {
            let opening = format!("```{kind}\n");
            let rest = hour.split(opening.as_str()).skip(1);
            rest.map(|rest| rest.split_once("```").unwrap().0).collect()
        };
        let mut steps: Vec<Step> = Vec::new();
        for line in blocks("console").into_iter().flat_map(str::lines) {
            let typed = [">", "#", "$", "? [no]"].iter().find_map(|sign| {
                let (before, typed) = line.split_once(&format!("{sign} "))?;
                let prompt = before.is_empty() || before == "alice@branch" || sign.starts_with('?');
                prompt.then(|| (format!("{before}{sign} "), typed.to_owned()))
            });
            match typed {
                Some((prompt, line)) => steps.push(Step {
                    prompt,
                    line,
                    shown: Vec::new(),
                }),
                None => steps.last_mut().unwrap().shown.push(words(line)),
            }
        }
        Self {
            first: serde_json::from_str(blocks("json")[0]).unwrap(),
            steps,
        }
    }
}

/// Tables are as wide as what is in them.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `ssh -tt`: a terminal at the gateway, pipes here.
struct Terminal {
    ssh: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    seen: usize,
}

impl Terminal {
    fn open(lab: &Laboratory, destination: &str) -> Self {
        let folder = lab.folder();
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-tt", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=accept-new", "-o"])
            .arg(format!(
                "UserKnownHostsFile={}",
                folder.join("known_hosts").display()
            ))
            .args(["-o", "IdentitiesOnly=yes", "-i"])
            .arg(folder.join("laptop"))
            .arg(destination)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut ssh = lab.open(Place::HostA).spawn(&mut command).unwrap();
        let mut from = ssh.stdout.take().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut part) {
                written.lock().unwrap().extend_from_slice(&part[..length]);
            }
        });
        Self {
            ssh,
            screen,
            reader: Some(reader),
            seen: 0,
        }
    }

    /// What came since it was last looked at, without what moves the cursor.
    fn unread(&self) -> String {
        let screen = self.screen.lock().unwrap();
        let text = String::from_utf8_lossy(&screen[self.seen..]).into_owned();
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some((before, behind)) = rest.split_once('\x1b') {
            plain.push_str(before);
            let end = behind.find(|c: char| c.is_ascii_alphabetic());
            rest = end.map_or("", |end| &behind[end + 1..]);
        }
        plain.push_str(rest);
        plain
    }

    /// Waits until this prompt stands in the last line; gives the lines before it.
    fn prompt(&mut self, prompt: &str, behind_echo: bool) -> Vec<String> {
        let text = wait_for(&format!("{prompt:?}"), PATIENCE, || {
            let text = self.unread();
            // Behind it the cursor is put in its place.
            let last = text.trim_end_matches('\r').rsplit(['\n', '\r']).next()?;
            let stands = last == prompt && (!behind_echo || text.contains('\n'));
            stands.then_some(text)
        })
        .unwrap_or_else(|error| panic!("{error}; there is {:?}", self.unread()));
        self.seen = self.screen.lock().unwrap().len();
        text.lines().map(words).collect()
    }

    fn press(&mut self, line: &str) {
        let keys = self.ssh.stdin.as_mut().unwrap();
        keys.write_all(format!("{line}\r").as_bytes()).unwrap();
        keys.flush().unwrap();
    }

    fn end(mut self) {
        let status = wait_for("the end of the session", PATIENCE, || {
            self.ssh.try_wait().unwrap()
        });
        assert!(status.unwrap().success(), "{}", self.unread());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The other end of the tunnel, which waits.
fn headquarters() -> Value {
    let mut configuration = gateway(Side::B);
    configuration["routes"].as_array_mut().unwrap().push(json!(
        { "destination": "10.1.0.0/24", "next_hops": [{ "interface": "ipsec0" }] }
    ));
    let routes = configuration["routes"].as_array_mut().unwrap();
    let mut known = Vec::new();
    routes.retain(|route| {
        let new = !known.contains(&route["destination"]);
        known.push(route["destination"].clone());
        new
    });
    configuration["connections"] = json!([{
        "name": "branch",
        "local_address": "198.51.100.2",
        "remote_address": "192.0.2.2",
        "local": { "method": "psk", "identity": "hq" },
        "remote": { "method": "psk", "identity": "branch" },
        "children": [{ "name": "lans", "tunnel": "ipsec0" }],
    }]);
    configuration["credentials"] = json!({ "pre_shared_keys": [
        { "name": "branch", "identities": [{ "identity": "branch" }, { "identity": "hq" }], "secret": "change me" },
    ]});
    configuration
}

#[test]
fn the_first_hour_goes_as_the_readme_says() {
    let hour = Hour::of_readme();
    let mut lab = Laboratory::build().unwrap();
    let mut first = hour.first;
    // The one thing that is somebody's own.
    first["system"]["users"][0]["ssh_keys"][0]["public_key"] =
        json!(make_key(&lab.folder().join("laptop")).unwrap());
    lab.launch(Side::B, &headquarters()).unwrap();
    lab.start(Side::A, &first).unwrap();
    lab.wait_ready(Side::B).unwrap();
    wait_for("sshd", PATIENCE, || {
        let status = lab.gateway(Side::A).status()?;
        (status.processes.get("sshd")?.state == "ready").then_some(())
    })
    .unwrap();

    let (begin, steps) = hour.steps.split_first().unwrap();
    let destination = begin.line.strip_prefix("ssh ").unwrap();
    let mut terminal = Terminal::open(&lab, destination);
    let mut prompts = steps.iter().map(|step| step.prompt.as_str());
    terminal.prompt(prompts.next().unwrap(), false);
    for step in steps {
        let next = prompts.next();
        // What needs the tunnel is asked again until IKE is done, as one would.
        let until = Instant::now() + PATIENCE;
        loop {
            terminal.press(&step.line);
            let Some(next) = next else {
                break;
            };
            let came = terminal.prompt(next, true);
            let comes = |shown: &&String| came.iter().any(|line| line.contains(shown.as_str()));
            let Some(lacks) = step.shown.iter().find(|shown| !comes(shown)) else {
                break;
            };
            assert!(
                step.line.starts_with("run ") && Instant::now() < until,
                "{}{}: {lacks:?} is not shown, but {came:#?}",
                step.prompt,
                step.line
            );
        }
    }
    terminal.end();

    // It was not only said.
    let gateway = lab.gateway(Side::A);
    let now = gateway
        .operate("show configuration | display set\n")
        .unwrap();
    assert!(now.contains("set interfaces wan device wan0"), "{now}");
    assert!(!now.contains("tunnels"), "{now}");
    let revisions = gateway.operate("show configuration revisions\n").unwrap();
    for text in ["the way out", "the tunnel to headquarters", "alice"] {
        assert!(revisions.contains(text), "{revisions}");
    }
}
