//! A plan comes: the ports that it needs, and what is to be as it says.

use std::time::Instant;

use culvert_model::plan::{Assembled, Part};

use super::super::ports::{PortsError, Wanted};
use super::super::supervisor::{Phase, Process};
use super::super::{RunError, charon};
use super::Gateway;

impl Gateway {
    /// Follows mgmt's plan from now on; what is already as planned is not touched.
    pub(super) async fn follow(
        &mut self,
        asked: Assembled,
        now: Instant,
    ) -> Result<Vec<String>, anyhow::Error> {
        let wanted = Wanted::of(&asked.plan).map_err(PortsError::from)?;
        self.ports.check(&wanted)?;
        let first = self.supervisor.phase(Process::Dataplane) == Phase::Blocked;
        let restarts = !first && self.restarts_for(&wanted);
        if !asked.check && !self.stopping {
            if first {
                self.change_ports(wanted).await?;
                self.values.set_plan(asked.revision, asked.plan)?;
                self.begin_to_follow(now);
            } else {
                self.values.set_plan(asked.revision, asked.plan)?;
                if restarts {
                    self.restart_for(wanted, now).await?;
                }
            }
            self.follow_login(now);
            self.revision = asked.revision;
            tracing::info!(revision = self.revision, "following");
        }
        Ok(if restarts {
            vec![
                Process::Dataplane.name().to_owned(),
                Process::Charon.name().to_owned(),
            ]
        } else {
            Vec::new()
        })
    }

    /// There is a plan to follow.
    fn begin_to_follow(&mut self, now: Instant) {
        self.part_up(Part::Linux);
        self.part_up(Part::Lte);
        self.supervisor.allow(Process::Dataplane, now);
    }

    /// Whether these ports are others than there are, or are about to be.
    fn restarts_for(&self, wanted: &Wanted) -> bool {
        self.next_ports.as_ref().unwrap_or(self.ports.wanted()) != wanted
    }

    /// Descriptors are inherited at the start only, and charon chooses its interfaces then: it comes back when the file
    /// that names them is written.
    async fn restart_for(&mut self, wanted: Wanted, now: Instant) -> Result<(), RunError> {
        tracing::warn!("other interfaces: restarting the dataplane and charon");
        self.supervisor.withdraw(Process::Charon, now);
        if let Phase::Waiting { .. } = self.supervisor.phase(Process::Dataplane) {
            // It has ended already, and nobody holds the old ones.
            return self.change_ports(wanted).await;
        }
        self.next_ports = Some(wanted);
        self.supervisor.restart(Process::Dataplane, now);
        Ok(())
    }

    pub(super) async fn change_ports(&mut self, wanted: Wanted) -> Result<(), RunError> {
        self.ports.change(wanted).await?;
        self.parts.set_macs(self.ports.macs()).await;
        charon::write_configuration(&self.recipe.root, self.ports.wanted().underlay_taps())?;
        if self.lives.contains_key(&Part::Linux) {
            // New TAPs are bare.
            self.part_up(Part::Linux);
        }
        Ok(())
    }
}
