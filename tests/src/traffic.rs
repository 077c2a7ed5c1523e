//! Marked packets between the two hosts, both ways, numbered and counted.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::probe::{Probe, ProbeReport, ProbeSettings};

use crate::laboratory::Laboratory;
use crate::wire::MARKER;

/// Packets a second each way: a gap of 5 ms shows.
pub const RATE: u32 = 200;
/// How long packets under way are waited for.
const SETTLE: Duration = Duration::from_millis(500);

/// A stream each way.
pub struct Traffic {
    forth: Probe,
    back: Probe,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// From host a to host b.
    pub forth: ProbeReport,
    /// From host b to host a.
    pub back: ProbeReport,
}

impl Traffic {
    /// Starts both streams at [`RATE`]; `port` tells several of them apart.
    pub fn start(laboratory: &Laboratory, family: Family, port: u16) -> anyhow::Result<Self> {
        Self::start_at(laboratory, family, port, RATE)
    }

    /// Starts both streams with this many packets a second each.
    pub fn start_at(
        laboratory: &Laboratory,
        family: Family,
        port: u16,
        rate: u32,
    ) -> anyhow::Result<Self> {
        let [forth, back] = Side::BOTH.map(|side| {
            let address =
                |side: Side, port| SocketAddr::new(side.addresses().host(family).addr(), port);
            let settings = ProbeSettings {
                source: address(side, port),
                destination: address(side.other(), port + 1),
                rate,
                size: 200,
                marker: MARKER.to_vec(),
            };
            Probe::start(
                &laboratory.open(side.host()),
                &laboratory.open(side.other().host()),
                &settings,
            )
        });
        Ok(Self {
            forth: forth?,
            back: back?,
        })
    }

    /// Packets sent so far, both ways together.
    pub fn sent(&self) -> u64 {
        self.forth.sent() + self.back.sent()
    }

    /// Ends both and counts.
    pub fn stop(self) -> anyhow::Result<Delivered> {
        Ok(Delivered {
            forth: self.forth.stop(SETTLE)?,
            back: self.back.stop(SETTLE)?,
        })
    }
}

impl Delivered {
    /// Every packet came, once.
    pub fn assert_nothing_lost(&self) {
        for (way, report) in [("a to b", &self.forth), ("b to a", &self.back)] {
            assert!(report.sent > 100, "{way}: hardly any traffic: {report:?}");
            assert_eq!(
                (report.lost(), report.duplicated),
                (0, 0),
                "{way}: {report:?}"
            );
        }
    }

    /// The longest time without any packet, of both ways.
    pub fn longest_silence(&self) -> Duration {
        self.forth.longest_silence.max(self.back.longest_silence)
    }
}
