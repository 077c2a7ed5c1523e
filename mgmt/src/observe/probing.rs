//! Ping and traceroute: what is looked up, sent and told, on a thread of their own that may wait.

use std::net::{IpAddr, ToSocketAddrs as _};
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

/// The longest name (RFC 1035 section 2.3.4), written.
const LONGEST_NAME: usize = 253;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// Where to, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ends {
    to: Host,
    from: Option<IpAddr>,
}

impl Ends {
    fn parse(destination: &str, source: &str) -> Result<Self, ObserveError> {
        let from = match source {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                ObserveError::Question(format!("{source:?} is no address of this gateway"))
            })?),
        };
        let to = match destination.parse::<IpAddr>() {
            Ok(address) => {
                if from.is_some_and(|from| from.is_ipv4() != address.is_ipv4()) {
                    return Err(ObserveError::Question(format!(
                        "{source} and {destination} are of two families"
                    )));
                }
                if !is_host(address) {
                    return Err(ObserveError::Question(format!(
                        "{destination} is not the address of one host"
                    )));
                }
                Host::Address(address)
            }
            Err(_) if is_name(destination) => Host::Name(destination.to_owned()),
            Err(_) => {
                return Err(ObserveError::Question(format!(
                    "{destination:?} is neither an address nor a name"
                )));
            }
        };
        Ok(Self { to, from })
    }

    /// The address that is asked. A name is looked up as the C library does: it may take as long as its servers do not
    /// answer, and the first address is that to which the best way leads (RFC 6724).
    fn look_up(&self) -> Result<IpAddr, ObserveError> {
        let name = match &self.to {
            Host::Address(address) => return Ok(*address),
            Host::Name(name) => name,
        };
        let found = (name.as_str(), 0)
            .to_socket_addrs()
            .map_err(|source| ObserveError::Name {
                name: name.clone(),
                source,
            })?;
        found
            .map(|found| found.ip())
            .filter(|found| {
                self.from
                    .is_none_or(|from| from.is_ipv4() == found.is_ipv4())
            })
            .find(|found| is_host(*found))
            .ok_or_else(|| {
                ObserveError::Question(format!("{name} has no address that can be asked from here"))
            })
    }
}

fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// And cannot be meant as an address.
fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let last = text.trim_end_matches('.').rsplit('.').next();
    text.len() <= LONGEST_NAME
        && text.bytes().all(known)
        && !text.starts_with(['-', '.'])
        && last.is_some_and(|last| last.bytes().any(|byte| !byte.is_ascii_digit()))
}

/// Echo requests as they are asked for, within bounds.
#[derive(Debug, Clone)]
pub struct Asking {
    ends: Ends,
    size: u32,
    count: u32,
    interval: Duration,
}

impl Asking {
    /// What a request asks for.
    pub fn of(request: &api::PingRequest) -> Result<Self, ObserveError> {
        let ends = Ends::parse(&request.destination, &request.source)?;
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
            ends,
            size,
            count,
            interval: Duration::from_millis(interval.into()),
        })
    }

    /// Looks its destination up, then sends and tells until every request is answered or given up, or nobody reads any
    /// more.
    pub fn run(self, outlet: &Outlet<PingReply>) -> Result<(), ObserveError> {
        let to = self.ends.look_up()?;
        let ping = Ping {
            echo: Echo::open(to, self.ends.from)?,
            to,
            size: self.size,
            schedule: Schedule::new(self.count, self.interval, PATIENCE, Instant::now()),
        };
        ping.run(outlet);
        Ok(())
    }
}

/// Echo requests that are under way.
struct Ping {
    echo: Echo,
    to: IpAddr,
    size: u32,
    schedule: Schedule,
}

impl Ping {
    fn run(mut self, outlet: &Outlet<PingReply>) {
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

/// A way as it is asked for, within bounds.
#[derive(Debug, Clone)]
pub struct Seeking {
    ends: Ends,
    hops: u32,
}

impl Seeking {
    /// What a request asks for.
    pub fn of(request: &api::TracerouteRequest) -> Result<Self, ObserveError> {
        let ends = Ends::parse(&request.destination, &request.source)?;
        let hops = match request.hops {
            0 => HOPS,
            hops => hops.min(FARTHEST),
        };
        Ok(Self { ends, hops })
    }

    /// Looks its destination up, then tells of one hop after the other.
    pub fn run(&self, outlet: &Outlet<TracerouteReply>) -> Result<(), ObserveError> {
        let to = self.ends.look_up()?;
        let way = Traceroute {
            echo: Echo::open(to, self.ends.from)?,
            to,
            hops: self.hops,
        };
        way.run(outlet)
    }
}

/// A way that is being gone.
struct Traceroute {
    echo: Echo,
    to: IpAddr,
    hops: u32,
}

impl Traceroute {
    fn run(self, outlet: &Outlet<TracerouteReply>) -> Result<(), ObserveError> {
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
        let name = Ends::parse("host-1.example", "192.0.2.2").unwrap();
        assert_eq!(name.to, Host::Name("host-1.example".to_owned()));
        let address = Ends::parse("2001:db8::1", "").unwrap();
        assert_eq!(address.look_up().unwrap().to_string(), "2001:db8::1");
        for (to, from) in [
            ("192.0.2.1", "192.0.2.2"),
            ("localhost", ""),
            ("a.b.", ""),
            ("3com", "::1"),
        ] {
            assert!(Ends::parse(to, from).is_ok(), "{to} {from}");
        }
        for (to, from) in [
            ("", ""),
            ("two words", ""),
            ("-n", ""),
            (".", ""),
            ("10.1", ""),
            ("a;b", ""),
            (&"a".repeat(254), ""),
            ("192.0.2.1", "2001:db8::1"),
            ("224.0.0.1", ""),
            ("::", ""),
            ("192.0.2.1", "wan"),
        ] {
            assert!(Ends::parse(to, from).is_err(), "{to} {from}");
        }
    }

    #[test]
    fn a_name_has_an_address_of_the_family_that_is_asked_from() {
        let find = |name: &str, from: &str| Ends::parse(name, from).unwrap().look_up();
        assert_eq!(
            find("localhost", "127.0.0.1").unwrap().to_string(),
            "127.0.0.1"
        );
        // Longer than a label may be: it is not even asked for.
        let error = find(&"a".repeat(64), "").unwrap_err();
        assert!(error.to_string().contains("aaaa is not found"), "{error}");
    }
}
