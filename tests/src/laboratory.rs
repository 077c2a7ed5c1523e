//! Namespaces, gateways and their files for one whole-box test, one at a time on a machine.
//!
//! ```text
//!   host-a --- gateway-a --- wan --- gateway-b --- host-b      culvert-test-*, see culvert_netlab::topology
//!               culvert run           culvert run or a stock strongSwan
//! ```
//!
//! Whatever a crashed run has left is removed at the start; whatever this one makes, at the end, panic or not.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::canary::{self, Report};
use culvert_netlab::knock::Knock;
use culvert_netlab::namespace::Namespace;
use culvert_netlab::process::Interrupt;
use culvert_netlab::topology::Topology;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::Gateway;
use crate::wire::MARKER;

/// Whoever holds it has the namespaces `culvert-test-*` for itself, in whatever checkout it runs.
const LOCK: &str = "/run/culvert-test.lock";
/// Lines of each log that a failed test shows.
const LAST_LINES: usize = 40;
/// The port of the knocking.
const KNOCK: u16 = 7900;

/// One laboratory; it is gone when this is dropped.
pub struct Laboratory {
    topology: Topology,
    gateways: [Option<Gateway>; 2],
    folder: Option<TempDir>,
    _lock: Flock<File>,
}

impl Laboratory {
    /// Waits until no other test has one, removes what a crash left, and builds hosts and router.
    pub fn build() -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "whole-box tests make network namespaces: run them as root"
        );
        let file = File::create(LOCK).context(LOCK)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let topology = Topology::new("test")?;
        topology.remove()?;
        let folder = tempfile::Builder::new().prefix("culvert-test-").tempdir()?;
        // Who logs in passes through it.
        fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
        let this = Self {
            topology,
            gateways: [None, None],
            folder: Some(folder),
            _lock: lock,
        };
        this.topology.build()?;
        Ok(this)
    }

    /// Where the files of this test are.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new("/"), TempDir::path)
    }

    /// One of the five namespaces.
    pub fn open(&self, place: Place) -> Namespace {
        match self.topology.open(place) {
            Ok(namespace) => namespace,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts a gateway and waits until it is ready.
    pub fn start(&mut self, side: Side, configuration: &Value) -> anyhow::Result<()> {
        self.launch(side, configuration)?;
        self.wait_ready(side)
    }

    /// Starts a gateway with this configuration, whatever was committed before, without waiting.
    pub fn launch(&mut self, side: Side, configuration: &Value) -> anyhow::Result<()> {
        let namespace = self.topology.open(side.gateway())?;
        let path = self.folder().join(side.gateway().name());
        let gateway = Gateway::start(&namespace, &path, configuration)?;
        self.gateways[usize::from(side == Side::B)] = Some(gateway);
        Ok(())
    }

    /// Starts a gateway as it was left, and waits until it is ready.
    pub fn start_again(&mut self, side: Side) -> anyhow::Result<()> {
        let namespace = self.topology.open(side.gateway())?;
        let path = self.folder().join(side.gateway().name());
        let gateway = Gateway::start_again(&namespace, &path)?;
        self.gateways[usize::from(side == Side::B)] = Some(gateway);
        self.wait_ready(side)
    }

    /// Waits until a gateway that was launched is ready.
    pub fn wait_ready(&mut self, side: Side) -> anyhow::Result<()> {
        match &mut self.gateways[usize::from(side == Side::B)] {
            Some(gateway) => gateway.wait_ready(),
            None => bail!("{} was not started", side.gateway().name()),
        }
    }

    /// The running gateway of this side.
    pub fn gateway(&self, side: Side) -> &Gateway {
        match &self.gateways[usize::from(side == Side::B)] {
            Some(gateway) => gateway,
            None => panic!("{} was not started", side.gateway().name()),
        }
    }

    /// Waits until packets pass from host to host and back.
    pub fn wait_open(&self, family: Family, limit: Duration) -> anyhow::Result<()> {
        let host = |side: Side| (self.open(side.host()), side.addresses().host(family).addr());
        let ((from, source), (to, destination)) = (host(Side::A), host(Side::B));
        let knock = Knock::start(
            &from,
            SocketAddr::new(source, KNOCK),
            &to,
            SocketAddr::new(destination, KNOCK),
            MARKER,
        )?;
        let opened = knock.wait(limit, &Interrupt::default())?;
        ensure!(opened.is_some(), "no packet passed within {limit:?}");
        Ok(())
    }

    /// Stops a gateway in order; answers how long that took.
    pub fn stop(&mut self, side: Side) -> anyhow::Result<Duration> {
        match self.gateways[usize::from(side == Side::B)].take() {
            Some(gateway) => gateway.stop(),
            None => bail!("{} was not started", side.gateway().name()),
        }
    }

    /// Looks for the secrets of the tests in all that its gateways and others have left, if that is wanted.
    fn search(&self) -> std::io::Result<()> {
        let (Some(reports), Some(folder)) = (std::env::var_os(canary::REPORTS), &self.folder)
        else {
            return Ok(());
        };
        let folder = folder.path();
        // What gateways and their peers are told: configurations, and keys in files.
        let is_input = |path: &Path| {
            let written =
                path.parent() == Some(folder) && path.extension().is_some_and(|end| end == "json");
            written || path == folder.join("pki") || path == folder.join("stock/swanctl")
        };
        let mut report = Report::default();
        report.search(folder, &is_input)?;
        report.save(Path::new(&reports)).map(|_| ())
    }

    /// Files that end in `.log`, wherever they are in the folder.
    fn logs(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.folder().to_owned()];
        let mut logs = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    logs.push(path);
                }
            }
        }
        logs.sort();
        logs
    }
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in self.logs() {
                let text = fs::read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                let first = lines.len().saturating_sub(LAST_LINES);
                eprintln!(
                    "---- {}\n{}",
                    log.display(),
                    lines.get(first..).unwrap_or_default().join("\n")
                );
            }
            if std::env::var_os("CULVERT_TEST_KEEP").is_some()
                && let Some(folder) = self.folder.take()
            {
                eprintln!("kept: {}", folder.keep().display());
            }
        }
        for gateway in &mut self.gateways {
            *gateway = None;
        }
        if let Err(error) = self.search() {
            eprintln!("the laboratory was not searched: {error}");
        }
        if let Err(error) = self.topology.remove() {
            eprintln!("the laboratory was not removed: {error}");
        }
    }
}

/// Looks again and again until `look` finds something; fails, saying what was waited for.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
