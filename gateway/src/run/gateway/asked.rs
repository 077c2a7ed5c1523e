//! Answers to mgmt.

use std::time::Instant;

use culvert_model::bus;
use culvert_model::plan::Part;

use super::super::clock;
use super::super::plan_calls::Asked;
use super::super::supervisor::Phase;
use super::Gateway;

impl Gateway {
    /// mgmt has given up waiting where nobody takes the answer.
    pub(super) async fn asked(&mut self, asked: Asked, now: Instant) {
        match asked {
            Asked::Follow { plan, answer } => {
                let outcome = self.follow(plan, now).await;
                let _ = answer.send(outcome.map_err(|error| format!("{error:#}")));
            }
            Asked::Show { answer } => {
                let status = self.values.status();
                let parts = [
                    Part::Dataplane,
                    Part::Linux,
                    Part::Iked,
                    Part::Dhcp,
                    Part::Lte,
                ];
                let _ = answer.send(bus::ShowPlanReply {
                    revision: self.revision,
                    settled: parts.into_iter().all(|part| self.values.is_settled(part))
                        && self.next_ports.is_none(),
                    wanted: status.wanted as u32,
                    applied: status.applied as u32,
                    unsettled: self.values.unsettled(),
                    ready: self.was_ready,
                    standings: self.values.standings(),
                });
            }
            Asked::Resynchronise { answer } => {
                self.look_again();
                let _ = answer.send(bus::ResynchroniseReply {});
            }
            Asked::Transactions { limit, answer } => {
                let _ = answer.send(bus::ShowTransactionsReply {
                    transactions: self.values.transactions(limit),
                });
            }
            Asked::Graph {
                prefix,
                limit,
                answer,
            } => {
                let _ = answer.send(self.values.graph(&prefix, limit));
            }
            Asked::Processes { answer } => {
                let status = self.status.last().cloned().unwrap_or_default();
                let _ = answer.send(bus::ShowProcessesReply {
                    processes: status
                        .processes
                        .into_iter()
                        .map(|(name, process)| bus::ProcessState {
                            name: name.to_owned(),
                            state: process.state.to_owned(),
                            pid: process.pid,
                            restarts: process.restarts,
                        })
                        .collect(),
                    ready: status.ready,
                    healthy: status.healthy,
                    stopping: status.stopping,
                    uptime_s: self.begun.elapsed().as_secs(),
                });
            }
            Asked::Clock { answer } => {
                if self.told_chronyd.is_none() {
                    let _ = answer.send(Ok(bus::ShowClockReply::default()));
                    return;
                }
                let root = self.recipe.root.clone();
                tokio::spawn(async move {
                    let clock = clock::ask(&root).await;
                    let _ = answer.send(clock.map_err(|error| error.to_string()));
                });
            }
            Asked::Restart { process, answer } => {
                let runs = matches!(
                    self.supervisor.phase(process),
                    Phase::Starting { .. } | Phase::Ready { .. }
                );
                let outcome = match (self.stopping, runs) {
                    (true, _) => Err("the gateway is stopping".to_owned()),
                    (false, false) => Err(format!("{process} does not run now")),
                    (false, true) => {
                        tracing::warn!(%process, "restarting, as asked");
                        self.supervisor.restart(process, now);
                        Ok(())
                    }
                };
                let _ = answer.send(outcome);
            }
        }
    }
}
