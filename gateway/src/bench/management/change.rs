//! A change of one line in a large configuration, through mgmt's agent, and the memory that mgmt takes for it all.
//!
//! The store of the change lies in memory: the disk is not waited for. The parts are done at once.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use culvert_mgmt::agent::{Accounts, Agent, Caller, Hands, HandsError, Records, Role};
use culvert_mgmt::store::{Moment, Store};
use culvert_model::api::{self, commit_reply::Outcome, edit::Change};
use culvert_model::bus::{ShowGraphReply, ShowPlanReply, Transaction};
use culvert_model::plan::Plan;
use culvert_model::tree::Tree;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Figure, Table, Times};

/// A file system without a disk.
const MEMORY: &str = "/dev/shm";
/// For mgmt to read a large store.
const START: Duration = Duration::from_mins(1);

/// Takes every plan, and is done.
#[derive(Default)]
struct Obedient(AtomicU64);

impl Hands for Obedient {
    async fn follow(
        &self,
        revision: u64,
        _plan: &Arc<Plan>,
        check: bool,
    ) -> Result<Vec<String>, HandsError> {
        if !check {
            self.0.store(revision, Ordering::Relaxed);
        }
        Ok(Vec::new())
    }

    async fn standing(&self) -> Result<ShowPlanReply, HandsError> {
        Ok(ShowPlanReply {
            revision: self.0.load(Ordering::Relaxed),
            settled: true,
            ready: true,
            ..ShowPlanReply::default()
        })
    }

    async fn resynchronise(&self) -> Result<(), HandsError> {
        Ok(())
    }

    async fn transactions(&self, _limit: u32) -> Result<Vec<Transaction>, HandsError> {
        Ok(Vec::new())
    }

    async fn graph(&self, _prefix: &str, _limit: u32) -> Result<ShowGraphReply, HandsError> {
        Ok(ShowGraphReply::default())
    }
}

/// Edits and commits one line, again and again.
pub fn measure(tree: &Tree, rounds: u16, table: &mut Table<'_>) -> anyhow::Result<()> {
    let place = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir_in(MEMORY)?;
    let store = Store::open(&place.path().join("mgmt"))?.store;
    let records = Records::begin(store, Some(tree), &Moment::now()?)?;
    let accounts = Accounts {
        own: 0,
        shell: None,
    };
    let agent = Agent::new(records, Obedient::default(), accounts, String::new());
    let caller = Caller {
        name: "bench".to_owned(),
        role: Role::Admin,
        origin: "console".to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (mut edit, mut commit, mut both) = (Times::default(), Times::default(), Times::default());
    for round in 0..rounds {
        let open = agent.open(&caller, api::OpenRequest::default());
        let candidate = runtime.block_on(open)?.candidate;
        let mtu = (1400 + round % 2).to_string();
        let words = ["interfaces", "wan", "mtu", &mtu].map(str::to_owned);
        let request = api::EditRequest {
            candidate: candidate.clone(),
            at: Vec::new(),
            edits: vec![api::Edit {
                change: Some(Change::Set(api::Words {
                    words: words.to_vec(),
                })),
            }],
        };
        let outcome = both.take(|| {
            let edited = edit.take(|| runtime.block_on(agent.edit(&caller, request)))?;
            ensure!(edited.problems.is_empty(), "{:?}", edited.problems);
            let request = api::CommitRequest {
                candidate: candidate.clone(),
                ..api::CommitRequest::default()
            };
            let reply = commit.take(|| runtime.block_on(agent.commit(&caller, request)))?;
            Ok(reply.outcome())
        })?;
        ensure!(outcome == Outcome::Applied, "it was {outcome:?}");
        let request = api::DiscardRequest {
            candidate,
            keep: false,
        };
        runtime.block_on(agent.discard(&caller, request))?;
    }
    table.time("one line: edit, without a disk", edit, "");
    table.time("one line: commit, without a disk", commit, "");
    table.time("one line: edit and commit, without a disk", both, "50 ms");
    Ok(())
}

/// Starts mgmt with the configuration, and looks how much it takes.
pub fn memory(tree: &Tree, table: &mut Table<'_>) -> anyhow::Result<()> {
    let place = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir_in(MEMORY)?;
    let root = place.path();
    for folder in ["run/bus", "var"] {
        fs::create_dir_all(root.join(folder))?;
    }
    {
        let store = Store::open(&root.join(culvert_mgmt::STORE))?.store;
        Records::begin(store, Some(tree), &Moment::now()?)?
            .store
            .maintain()?;
    }
    let child = Command::new(std::env::current_exe()?)
        .args(["mgmt", "--root"])
        .arg(root)
        .env("CULVERT_LOG", "error")
        .stdin(Stdio::null())
        .spawn()?;
    let mut mgmt = Mgmt(child);
    let taken = mgmt.taken(&root.join("run/api"))?;
    let [resident, most] = taken;
    table.add("memory of mgmt", Figure::Memory(resident), None, "100 MB");
    table.add("memory of mgmt, at most", Figure::Memory(most), None, "");
    Ok(())
}

/// Ends with this.
struct Mgmt(Child);

impl Mgmt {
    /// Resident bytes once it serves, and the most it had.
    fn taken(&mut self, socket: &Path) -> anyhow::Result<[u64; 2]> {
        let until = Instant::now() + START;
        while !socket.exists() {
            if let Some(status) = self.0.try_wait()? {
                bail!("mgmt ended: {status}");
            }
            ensure!(Instant::now() < until, "mgmt does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            let kibibytes: u64 = number.context("no memory in /proc")?.parse()?;
            anyhow::Ok(kibibytes * 1024)
        };
        Ok([bytes("VmRSS:")?, bytes("VmHWM:")?])
    }
}

impl Drop for Mgmt {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}
