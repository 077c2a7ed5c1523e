//! sshd, chronyd and the DHCP client run while there is something for them to do.

use std::time::Instant;

use culvert_model::plan::Part;
use nix::sys::signal::Signal;

use super::super::supervisor::{Phase, Process};
use super::super::{login, ntp};
use super::{Gateway, Happened, PART_PAUSE};

impl Gateway {
    /// mgmt has written what sshd is told before it says what to follow.
    pub(super) fn follow_login(&mut self, now: Instant) {
        let told = login::told(&self.recipe.root);
        if told == self.told_sshd {
            return;
        }
        if told.is_none() {
            tracing::info!("nobody is to log in over SSH any more");
            self.supervisor.withdraw(Process::Sshd, now);
        } else {
            match self.supervisor.phase(Process::Sshd) {
                // It reads its file again, and whoever is in stays.
                Phase::Starting { .. } | Phase::Ready { .. } => {
                    self.children.signal(Process::Sshd, Signal::SIGHUP);
                }
                Phase::Waiting { .. } => self.supervisor.try_again(Process::Sshd, now),
                Phase::Blocked | Phase::Ending { .. } | Phase::Stopped => {
                    self.supervisor.allow(Process::Sshd, now);
                }
            }
        }
        self.told_sshd = told;
    }

    /// The Linux part has written what chronyd is told, or taken it away.
    pub(super) fn follow_ntp(&mut self, now: Instant) {
        let told = ntp::told(&self.recipe.root);
        if told == self.told_chronyd {
            return;
        }
        match (&told, self.supervisor.phase(Process::Chronyd)) {
            (None, _) => {
                tracing::info!("nobody is to set the clock any more");
                self.supervisor.withdraw(Process::Chronyd, now);
            }
            // It reads its file at the start alone, and knows the clock's speed from then on.
            (Some(_), Phase::Starting { .. } | Phase::Ready { .. }) => {
                self.supervisor.restart(Process::Chronyd, now);
            }
            (Some(_), Phase::Waiting { .. }) => self.supervisor.try_again(Process::Chronyd, now),
            (Some(_), Phase::Blocked | Phase::Ending { .. } | Phase::Stopped) => {
                self.supervisor.allow(Process::Chronyd, now);
            }
        }
        self.told_chronyd = told;
    }

    /// The process that speaks DHCP runs while there is something for it to do, and until it has given back what it had.
    pub(super) fn follow_dhcp(&mut self, now: Instant) {
        if let Err(error) = self.values.expire_leases(now) {
            tracing::error!(%error, "leases that are over are not taken away");
        }
        if self.values.is_configured(Part::Dhcp) {
            self.supervisor.allow(Process::Dhcp, now);
        } else if self.supervisor.phase(Process::Dhcp) != Phase::Blocked
            && self.values.is_settled(Part::Dhcp)
        {
            self.supervisor.withdraw(Process::Dhcp, now);
        }
    }

    /// Asks for leases until the process is not wanted any more; those that are known stay while it is away.
    pub(super) fn watch_leases(&mut self) {
        if self.leases.is_some() {
            return;
        }
        let (parts, sender) = (self.parts.clone(), self.sender.clone());
        self.leases = Some(tokio::spawn(async move {
            let mut seen = 0;
            loop {
                match parts.watch_dhcp(seen).await {
                    Some(reply) if reply.generation == seen => {}
                    Some(reply) => {
                        seen = reply.generation;
                        if sender.send(Happened::Leases(reply.clients)).is_err() {
                            return;
                        }
                    }
                    None => {
                        seen = 0;
                        tokio::time::sleep(PART_PAUSE).await;
                    }
                }
            }
        }));
    }

    pub(super) fn dhcp_ended(&mut self) {
        self.part_down(Part::Dhcp);
        if self.values.is_configured(Part::Dhcp) {
            return;
        }
        if let Some(task) = self.leases.take() {
            task.abort();
        }
        if let Err(error) = self.values.set_leases(Vec::new(), Instant::now()) {
            tracing::error!(%error, "leases are not taken away");
        }
    }
}
