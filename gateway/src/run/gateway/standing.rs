//! How the gateway stands, for the status file and systemd.

use std::collections::BTreeMap;

use culvert_model::plan::Part;

use super::super::notify::{self, State};
use super::super::status::{ProcessStatus, Status};
use super::super::supervisor::{Phase, Process};
use super::Gateway;

impl Gateway {
    pub(super) fn write_status(&mut self) {
        let processes: BTreeMap<&'static str, ProcessStatus> = Process::ALL
            .into_iter()
            .filter(|process| match process {
                Process::Sshd => self.told_sshd.is_some(),
                Process::Chronyd => self.told_chronyd.is_some(),
                Process::Dhcp => self.values.is_configured(Part::Dhcp),
                _ => true,
            })
            .map(|process| {
                let state = match self.supervisor.phase(process) {
                    Phase::Blocked => "blocked",
                    Phase::Waiting { .. } => "waiting",
                    Phase::Starting { .. } => "starting",
                    Phase::Ready { .. } => "ready",
                    Phase::Ending { .. } => "ending",
                    Phase::Stopped => "stopped",
                };
                let status = ProcessStatus {
                    state,
                    pid: self.children.pid(process),
                    restarts: self.supervisor.restarts(process),
                };
                (process.name(), status)
            })
            .collect();
        let ike = self.ike.as_ref();
        let plugin_session = ike.is_some_and(|ike| ike.plugin_session);
        let reconciled = ike.is_some_and(|ike| ike.reconciled);
        // Packets do not wait for these.
        let aside = [Process::Sshd, Process::Chronyd, Process::Dhcp].map(Process::name);
        let ready = |(&name, process): (&&str, &ProcessStatus)| {
            process.state == "ready" || aside.contains(&name)
        };
        let forwards = !self.stopping
            && reconciled
            && plugin_session
            && processes.iter().all(ready)
            && self.revision > 0
            && self.values.is_converged();
        let healthy = forwards && processes.values().all(|process| process.state == "ready");
        if forwards && !self.was_ready {
            self.was_ready = true;
            tracing::info!("ready");
            notify::tell(State::Ready);
        }
        self.status.write(Status {
            pid: std::process::id(),
            ready: self.was_ready,
            healthy,
            stopping: self.stopping,
            processes,
            plugin_session,
            reconciled,
            values: self.values.status(),
        });
    }
}
