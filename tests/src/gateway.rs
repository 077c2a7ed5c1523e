//! One `culvert run` and its processes, seen and disturbed from outside.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use culvert_netlab::namespace::Namespace;
use culvert_netlab::process::{ProcessIdentity, with_argument};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::control::Control;
use crate::laboratory::wait_for;

/// A start on a busy machine: duplicate address detection alone takes more than a second.
const START: Duration = Duration::from_mins(1);
/// What an orderly stop may take.
const STOP: Duration = Duration::from_secs(20);

/// The binary under test: `CULVERT_BIN`, or the one that `make test` builds.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("CULVERT_BIN").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/debug/culvert"
            ))
        },
        PathBuf::from,
    );
    ensure!(
        path.is_file(),
        "{} is missing; run `make test`, or `cargo build -p culvert -p culvert-charon-plugin --features culvert/fingerprint`",
        path.display()
    );
    Ok(path)
}

/// What `run/status.json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Of `culvert run`.
    pub pid: u32,
    /// The start is over.
    pub ready: bool,
    /// Everything is as configured now.
    pub healthy: bool,
    /// By name.
    pub processes: BTreeMap<String, ProcessStatus>,
    /// iked-bridge, charon and the dataplane agree on the SAs.
    pub reconciled: bool,
}

/// One process of it.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessStatus {
    /// blocked, waiting, starting, ready, ending, stopped
    pub state: String,
    /// While it runs.
    pub pid: Option<u32>,
    /// Starts after the first.
    pub restarts: u64,
}

/// A running gateway. Dropped, it is stopped, and what is left of it killed.
pub struct Gateway {
    root: PathBuf,
    child: Child,
    control: Control,
}

impl Gateway {
    /// `culvert run` with root `path` and configuration `path.json`, whatever was committed there before.
    pub fn start(
        namespace: &Namespace,
        path: &Path,
        configuration: &Value,
    ) -> anyhow::Result<Self> {
        let file = path.with_extension("json");
        fs::write(&file, format!("{configuration:#}\n"))?;
        match fs::remove_dir_all(path.join("var/mgmt")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Self::spawn(namespace, path, &[OsStr::new("--config"), file.as_os_str()])
    }

    /// `culvert run` with root `path` as it was left.
    pub fn start_again(namespace: &Namespace, path: &Path) -> anyhow::Result<Self> {
        Self::spawn(namespace, path, &[])
    }

    fn spawn(namespace: &Namespace, path: &Path, arguments: &[&OsStr]) -> anyhow::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(path.with_extension("log"))?;
        let mut command = Command::new(program()?);
        command
            .arg("run")
            .arg("--root")
            .arg(path)
            .arg("--keep-clock")
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self {
            root: path.to_owned(),
            child: namespace.spawn(&mut command)?,
            control: Control::new(path)?,
        })
    }

    /// Commits another configuration in place of the one it has.
    pub fn reload(&self, configuration: &Value) -> anyhow::Result<()> {
        self.operate(&format!(
            "load override terminal\n{configuration:#}\n.\ncommit\n"
        ))
        .map(drop)
    }

    /// What an operator's lines come to, as from a heredoc: the exit status is that of success, or this is an error with
    /// what was complained about.
    pub fn operate(&self, lines: &str) -> anyhow::Result<String> {
        let mut child = Command::new(program()?)
            .arg("cli")
            .arg("--root")
            .arg(&self.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.success(),
            "{}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Where its state is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Requests over its bus.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Of `culvert run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says of itself.
    pub fn status(&self) -> Option<Status> {
        let text = fs::read(self.root.join("run/status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until the start is over.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            if self.status().is_some_and(|status| status.ready) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("culvert run ended: {status}");
            }
            ensure!(
                Instant::now() < until,
                "not ready after {START:?}: {}",
                fs::read_to_string(self.root.join("run/status.json")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until everything is as configured again after a disturbance.
    pub fn wait_healthy(&self, limit: Duration) -> anyhow::Result<()> {
        wait_for("a healthy gateway", limit, || {
            self.status()?.healthy.then_some(())
        })
    }

    /// A process of it: `dataplane`, `iked-bridge`, `charon`.
    pub fn process(&self, name: &str) -> anyhow::Result<ProcessIdentity> {
        let pid = self
            .status()
            .and_then(|status| status.processes.get(name)?.pid)
            .with_context(|| format!("{name} does not run"))?;
        ProcessIdentity::of(pid).with_context(|| format!("{name} ({pid}) is gone"))
    }

    /// Sends a signal to a process of it.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<ProcessIdentity> {
        let process = self.process(name)?;
        ensure!(process.signal(signal), "{name} was gone");
        Ok(process)
    }

    /// SIGTERM, and waits; fails if it did not end by itself with status 0. Answers how long it took.
    pub fn stop(mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let process = ProcessIdentity::of(self.pid()).context("culvert run is gone")?;
        process.signal(Signal::SIGTERM);
        let status = wait_for("an orderly stop", STOP, || self.child.try_wait().ok()?)?;
        ensure!(status.success(), "culvert run ended: {status}");
        Ok(begin.elapsed())
    }

    /// Everything that was started with this root.
    pub fn processes(&self) -> Vec<ProcessIdentity> {
        with_argument("--root", &self.root.to_string_lossy())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(process) = ProcessIdentity::of(self.pid()) {
            process.end(STOP);
        }
        for process in self.processes() {
            process.end(Duration::ZERO);
        }
        let _ = self.child.wait();
    }
}
