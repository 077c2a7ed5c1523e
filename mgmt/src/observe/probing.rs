//! Ping and traceroute: what is sent and told, on a thread of their own that may wait.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_model::api::{self, PingReply, Probe, TracerouteReply};

use super::ObserveError;
use super::echo::{Came, Echo, LARGEST, Schedule};
use super::outlet::Outlet;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one hop.
const HOP: Duration = Duration::from_secs(1);
/// Between two looks whether anybody still reads.
const LOOK: Duration = Duration::from_millis(200);
const PROBES: u32 = 3;
/// Unless the request says otherwise, as ping(8) and traceroute(8) have them.
const COUNT: u32 = 5;
const SIZE: u32 = 56;
const INTERVAL: u32 = 1000;
const HOPS: u32 = 30;
/// At most, and at least.
const MOST: u32 = 10_000;
const SHORTEST: u32 = 10;
const LONGEST: u32 = 60_000;
const FARTHEST: u32 = 64;

/// Where to, and from where.
fn ends(destination: &str, source: &str) -> Result<(IpAddr, Option<IpAddr>), ObserveError> {
    let address = |text: &str| {
        text.parse::<IpAddr>()
            .map_err(|_| ObserveError::Question(format!("{text:?} is no address")))
    };
    let to = address(destination)?;
    let from = match source {
        "" => None,
        text => Some(address(text)?),
    };
    if from.is_some_and(|from| from.is_ipv4() != to.is_ipv4()) {
        return Err(ObserveError::Question(format!(
            "{source} and {destination} are of two families"
        )));
    }
    if to.is_unspecified() || to.is_multicast() {
        return Err(ObserveError::Question(format!(
            "{destination} is not the address of one host"
        )));
    }
    Ok((to, from))
}

/// Echo requests that are yet to be sent.
pub struct Ping {
    echo: Echo,
    to: IpAddr,
    size: u32,
    schedule: Schedule,
}

impl Ping {
    /// What a request asks for, within bounds.
    pub fn begin(request: &api::PingRequest) -> Result<Self, ObserveError> {
        let (to, from) = ends(&request.destination, &request.source)?;
        let size = request.size.unwrap_or(SIZE);
        if size > LARGEST {
            return Err(ObserveError::Question(format!(
                "an echo request has at most {LARGEST} bytes"
            )));
        }
        let count = match request.count {
            0 => COUNT,
            count => count.min(MOST),
        };
        let interval = match request.interval_ms {
            0 => INTERVAL,
            interval => interval.clamp(SHORTEST, LONGEST),
        };
        Ok(Self {
            echo: Echo::open(to, from)?,
            to,
            size,
            schedule: Schedule::new(
                count,
                Duration::from_millis(interval.into()),
                PATIENCE,
                Instant::now(),
            ),
        })
    }

    /// Sends and tells until every request is answered or given up, or nobody reads any more.
    pub fn run(mut self, outlet: &Outlet<PingReply>) {
        while let Some(deadline) = self.schedule.deadline() {
            let mut told = Vec::new();
            while let Some(came) = self.echo.receive() {
                told.extend(self.came(came));
            }
            let now = Instant::now();
            told.extend(
                self.schedule
                    .lost(now)
                    .into_iter()
                    .map(|sequence| PingReply {
                        sequence,
                        ..PingReply::default()
                    }),
            );
            if let Some(sequence) = self.schedule.due(now)
                && let Err(error) = self.echo.send(sequence as u16, self.size)
            {
                self.schedule.unsent(sequence);
                told.push(PingReply {
                    sequence,
                    reason: error.to_string(),
                    ..PingReply::default()
                });
            }
            if outlet.is_closed() || !told.into_iter().all(|reply| outlet.tell_blocking(reply)) {
                return;
            }
            let deadline = self.schedule.deadline().unwrap_or(deadline);
            self.echo.wait(deadline.min(now + LOOK));
        }
    }

    fn came(&mut self, came: Came) -> Option<PingReply> {
        let (sequence, reply) = match came {
            Came::Reply { sequence, bytes } => {
                let reply = PingReply {
                    from: self.to.to_string(),
                    bytes: bytes as u32,
                    ..PingReply::default()
                };
                (sequence, reply)
            }
            Came::Error {
                sequence,
                from,
                reason,
                ..
            } => {
                let reply = PingReply {
                    from: from.map_or_else(String::new, |from| from.to_string()),
                    reason,
                    ..PingReply::default()
                };
                (sequence, reply)
            }
        };
        let (number, took) = self.schedule.came(sequence, Instant::now())?;
        Some(PingReply {
            sequence: number,
            round_trip_us: reply.reason.is_empty().then_some(took.as_micros() as u64),
            ..reply
        })
    }
}

/// A way that is yet to be gone.
pub struct Traceroute {
    echo: Echo,
    to: IpAddr,
    hops: u32,
}

impl Traceroute {
    /// What a request asks for, within bounds.
    pub fn begin(request: &api::TracerouteRequest) -> Result<Self, ObserveError> {
        let (to, from) = ends(&request.destination, &request.source)?;
        let hops = match request.hops {
            0 => HOPS,
            hops => hops.min(FARTHEST),
        };
        Ok(Self {
            echo: Echo::open(to, from)?,
            to,
            hops,
        })
    }

    /// Tells of one hop after the other.
    pub fn run(self, outlet: &Outlet<TracerouteReply>) -> Result<(), ObserveError> {
        for hop in 1..=self.hops {
            let reply = self.hop(hop, outlet)?;
            let last = reply.last;
            if !outlet.tell_blocking(reply) || last {
                return Ok(());
            }
        }
        Ok(())
    }

    fn hop(
        &self,
        hop: u32,
        outlet: &Outlet<TracerouteReply>,
    ) -> Result<TracerouteReply, ObserveError> {
        self.echo.set_hops(hop as u8)?;
        let first = (hop - 1) * PROBES;
        let mut probes = vec![Probe::default(); PROBES as usize];
        let mut last = false;
        // One after the other: some who answer do it only so often.
        for (number, probe) in (1..).zip(&mut probes) {
            let sequence = (first + number) as u16;
            let begun = Instant::now();
            if let Err(error) = self.echo.send(sequence, SIZE) {
                probe.reason = error.to_string();
                last = true;
                continue;
            }
            let until = begun + HOP;
            while Instant::now() < until && !outlet.is_closed() {
                let Some(came) = self.echo.receive() else {
                    self.echo.wait(until.min(Instant::now() + LOOK));
                    continue;
                };
                let took = begun.elapsed().as_micros() as u64;
                match came {
                    Came::Reply { sequence: of, .. } if of == sequence => {
                        probe.from = self.to.to_string();
                        probe.round_trip_us = took;
                        last = true;
                        break;
                    }
                    Came::Error {
                        sequence: of,
                        from,
                        expired,
                        reason,
                    } if of == sequence => {
                        probe.from = from.map_or_else(String::new, |from| from.to_string());
                        probe.round_trip_us = took;
                        if !expired {
                            probe.reason = reason;
                            last = true;
                        }
                        break;
                    }
                    // Late, of a probe before.
                    _ => {}
                }
            }
        }
        Ok(TracerouteReply { hop, probes, last })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_one_host_of_one_family_is_asked() {
        assert!(ends("192.0.2.1", "192.0.2.2").is_ok());
        assert!(ends("2001:db8::1", "").is_ok());
        for (to, from) in [
            ("", ""),
            ("host.example", ""),
            ("192.0.2.1", "2001:db8::1"),
            ("224.0.0.1", ""),
            ("::", ""),
            ("192.0.2.1", "wan"),
        ] {
            assert!(ends(to, from).is_err(), "{to} {from}");
        }
    }
}
