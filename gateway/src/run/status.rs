//! `ROOT/run/status.json`: what runs and how far it is, for people, the lab and tests.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::Serialize;

use super::root::Root;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Of `culvert run`.
    pub pid: u32,
    /// Everything was once as configured: the start is over.
    pub ready: bool,
    /// Everything is as configured now.
    pub healthy: bool,
    /// The orderly stop has begun.
    pub stopping: bool,
    /// By name.
    pub processes: BTreeMap<&'static str, ProcessStatus>,
    /// charon's plugin talks to iked-bridge.
    pub plugin_session: bool,
    /// iked-bridge, charon and the dataplane agree on the SAs.
    pub reconciled: bool,
    /// Of the configuration.
    pub values: ValuesStatus,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// blocked, waiting, starting, ready, ending, stopped
    pub state: &'static str,
    /// While it runs.
    pub pid: Option<u32>,
    /// Starts after the first.
    pub restarts: u64,
}

/// How much of the configuration is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ValuesStatus {
    /// All that the configuration asks for.
    pub wanted: usize,
    /// Done.
    pub applied: usize,
    /// What waits or failed, by key, and for what or why.
    pub pending: BTreeMap<String, String>,
}

/// Writes the file when it has changed.
#[derive(Debug)]
pub struct StatusFile {
    root: Root,
    last: Option<Status>,
}

impl StatusFile {
    /// Of a gateway; nothing is written yet.
    pub fn new(root: Root) -> Self {
        Self { root, last: None }
    }

    /// What was written last.
    pub fn last(&self) -> Option<&Status> {
        self.last.as_ref()
    }

    /// Whole or not at all: a reader never sees half a file.
    pub fn write(&mut self, status: Status) {
        if self.last.as_ref() == Some(&status) {
            return;
        }
        if let Err(error) = self.replace(&status) {
            tracing::warn!(path = %self.root.status().display(), %error, "cannot write");
        }
        self.last = Some(status);
    }

    fn replace(&self, status: &Status) -> io::Result<()> {
        let path = self.root.status();
        let new = path.with_extension("json.new");
        fs::write(&new, serde_json::to_vec_pretty(status)?)?;
        fs::rename(new, path)
    }
}
