//! Rekeying under traffic: from each side in turn, CHILD_SA and IKE_SA, while numbered datagrams run
//! both ways.

use std::time::{Duration, Instant};

use culvert_netlab::addressing::Side;

use super::{Demo, DemoError, MARKER, measure::Hosts, report::RekeyFacts};
use crate::lab::{
    configuration::{CHILD, connection},
    control::{Control, established_ike, installed_child},
};

/// Of CHILD_SAs from each side, and of IKE_SAs.
const CHILD_REKEYS: u32 = 3;
const IKE_REKEYS: u32 = 2;
/// A rekeying is one or two exchanges; a busy machine is given more.
const LIMIT: Duration = Duration::from_secs(10);
/// charon removes an old inbound SA that long after its rekeying (`delete_rekeyed_delay`), and one
/// second more.
const OLD_SAS: Duration = Duration::from_secs(6);
/// For what is under way when the senders stop.
const SETTLE: Duration = Duration::from_millis(300);
/// Between two rekeyings, for the answering side to be done with the one before.
const BETWEEN: Duration = Duration::from_millis(150);

/// What tells one pair of SAs from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    ike: u64,
    spi_in: u32,
    spi_out: u32,
}

impl Demo<'_> {
    /// Rekeys and counts. Answers how many packets were sent inside.
    pub(super) fn rekey(
        &mut self,
        hosts: &Hosts,
        controls: &[Control; 2],
    ) -> Result<u64, DemoError> {
        self.progress.step("rekeying under traffic");
        let probes = hosts.probes(MARKER)?;
        let mut facts = RekeyFacts::default();
        let order = Side::BOTH
            .into_iter()
            .zip(controls)
            .zip(facts.child.iter_mut().zip(&mut facts.ike));
        for ((side, control), (child, ike)) in order {
            let far = match (side, controls) {
                (Side::A, [_, far]) | (Side::B, [far, _]) => far,
            };
            for _ in 0..CHILD_REKEYS {
                self.progress
                    .detail(&format!("CHILD_SA, from {}", side.gateway().name()));
                let before = self.agreed(side, control, far, "CHILD_SA", |_| true)?;
                control.rekey_child(CHILD)?;
                self.agreed(side, control, far, "CHILD_SA", |now| {
                    now.spi_in != before.spi_in
                })?;
                *child += 1;
                self.interrupt.sleep(BETWEEN)?;
            }
            for _ in 0..IKE_REKEYS {
                self.progress
                    .detail(&format!("IKE_SA, from {}", side.gateway().name()));
                let before = self.agreed(side, control, far, "IKE_SA", |_| true)?;
                control.rekey_ike(&connection(side))?;
                self.agreed(side, control, far, "IKE_SA", |now| now.ike != before.ike)?;
                *ike += 1;
                self.interrupt.sleep(BETWEEN)?;
            }
        }
        self.progress.detail("old SAs go");
        self.interrupt.sleep(OLD_SAS)?;
        let [forth, back] = probes;
        let reports = [forth.stop(SETTLE)?, back.stop(SETTLE)?];
        let sum = |count: &dyn Fn(&culvert_netlab::probe::ProbeReport) -> u64| {
            reports.iter().map(count).sum::<u64>()
        };
        let lost = sum(&|report| report.lost());
        facts.sent = sum(&|report| report.sent);
        facts.duplicated = sum(&|report| report.duplicated);
        facts.reordered = sum(&|report| report.reordered);
        let silence = reports
            .iter()
            .map(|report| report.longest_silence)
            .max()
            .unwrap_or_default();
        facts.longest_silence_ms = silence.as_secs_f64() * 1e3;
        self.report.rekey_lost_packets = Some(lost);
        let held = self
            .report
            .check("no packet is lost by rekeying", lost == 0)
            & self
                .report
                .check("no packet comes twice", facts.duplicated == 0);
        let mut text = format!(
            "{lost} of {} packets lost\n{} CHILD_SA and {} IKE_SA from each side; \
             {} packets reordered, longest silence {:.1} ms",
            facts.sent, CHILD_REKEYS, IKE_REKEYS, facts.reordered, facts.longest_silence_ms
        );
        for (side, report) in Side::BOTH.into_iter().zip(&reports) {
            for gap in &report.gaps {
                let line = format!(
                    "\nfrom {}: {} lost from number {}",
                    side.host().name(),
                    gap.count,
                    gap.first
                );
                text.push_str(&line);
            }
        }
        self.progress.end_as(held, &text);
        let sent = facts.sent;
        self.report.rekeys = Some(facts);
        Ok(sent)
    }

    /// Waits until both gateways use the same pair of SAs, and it is one that was waited for.
    fn agreed(
        &self,
        side: Side,
        own: &Control,
        far: &Control,
        what: &'static str,
        wanted: impl Fn(Pair) -> bool,
    ) -> Result<Pair, DemoError> {
        let until = Instant::now() + LIMIT;
        loop {
            if let (Some(here), Some(there)) = (pair(side, own)?, pair(side.other(), far)?)
                && (here.spi_in, here.spi_out) == (there.spi_out, there.spi_in)
                && wanted(here)
            {
                return Ok(here);
            }
            if Instant::now() >= until {
                return Err(DemoError::NotRekeyed(what, side.gateway().name()));
            }
            self.interrupt.sleep(Duration::from_millis(20))?;
        }
    }
}

fn pair(side: Side, control: &Control) -> Result<Option<Pair>, DemoError> {
    let reply = control.ike()?;
    let ike = established_ike(&reply, &connection(side));
    Ok(ike
        .zip(installed_child(&reply, CHILD))
        .map(|(ike, (_, child))| Pair {
            ike: ike.unique_id,
            spi_in: child.spi_in,
            spi_out: child.spi_out,
        }))
}
