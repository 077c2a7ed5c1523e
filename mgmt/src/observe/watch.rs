//! Packets while they pass: captures and traces of the dataplane, handed on to whoever reads.
//!
//! ```text
//!   start ──> read, read, read ... ──> enough, time is up, or the reader is gone ──> stop
//! ```
//!
//! The dataplane has one capture and one trace at a time, and ends what nobody reads: if this process dies in between,
//! nothing is left behind.

use std::time::Duration;

use culvert_model::api;
use culvert_model::bus;
use tokio::time::Instant;

use super::outlet::Outlet;
use super::{ObserveError, Observer};

/// Between two readings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Of one reply: a reader who is slow keeps so much of each that waits.
const PART: usize = 256 << 10;
/// Visits of one reply.
const VISITS: usize = 500;
/// Unless the request says otherwise.
const SECONDS: u32 = 60;
const PACKETS: u32 = 1000;
const FOLLOWED: u32 = 10;
const LONGEST_FILTER: usize = 4096;
/// At most.
const MOST_SECONDS: u32 = 3600;
const MOST_PACKETS: u32 = 1_000_000;
const MOST_FOLLOWED: u32 = 1000;
/// Packets that a node keeps are waited for so long after the last one has come.
const LINGER: Duration = Duration::from_secs(2);

fn bounded(asked: u32, usual: u32, most: u32) -> u32 {
    match asked {
        0 => usual,
        asked => asked.min(most),
    }
}

/// What is longer is no filter of a person's.
fn short(filter: &str) -> Result<(), ObserveError> {
    if filter.len() <= LONGEST_FILTER {
        return Ok(());
    }
    Err(ObserveError::Question(format!(
        "a filter has at most {LONGEST_FILTER} characters"
    )))
}

fn end_after(seconds: u32) -> Instant {
    Instant::now() + Duration::from_secs(bounded(seconds, SECONDS, MOST_SECONDS).into())
}

/// A capture that the dataplane has begun.
pub struct Capture {
    id: u64,
    filter: String,
    until: Instant,
}

/// A trace that it has begun.
pub struct Trace {
    id: u64,
    packets: u32,
    until: Instant,
}

impl Observer {
    /// Begins a capture.
    pub async fn start_capture(
        &self,
        request: api::CaptureRequest,
    ) -> Result<Capture, ObserveError> {
        use api::capture_request::{Direction, Point};
        use bus::start_capture_request as start;
        let point = match request.point.clone() {
            Some(Point::Interface(name)) => start::Point::Interface(name),
            Some(Point::Node(name)) => start::Point::Node(name),
            Some(Point::Drops(_)) => start::Point::Drops(true),
            None => {
                return Err(ObserveError::Question(
                    "name an interface, a node, or what is dropped".to_owned(),
                ));
            }
        };
        let direction = match request.direction() {
            Direction::In => start::Direction::In,
            Direction::Out => start::Direction::Out,
            Direction::Unspecified => start::Direction::Unspecified,
        };
        short(&request.filter)?;
        let until = end_after(request.seconds);
        let started = self
            .dataplane(&bus::StartCaptureRequest {
                point: Some(point),
                direction: direction.into(),
                packets: bounded(request.packets, PACKETS, MOST_PACKETS).into(),
                snaplen: request.snaplen,
                filter: request.filter,
            })
            .await?;
        Ok(Capture {
            id: started.id,
            filter: started.filter,
            until,
        })
    }

    /// Hands on what is captured until the end, which it then tells the dataplane.
    pub async fn record(
        &self,
        capture: Capture,
        outlet: &Outlet<api::CaptureReply>,
    ) -> Result<(), ObserveError> {
        let outcome = self.hand_on(&capture, outlet).await;
        let stop = bus::StopCaptureRequest { id: capture.id };
        let stopped = self.dataplane(&stop).await;
        outcome.and(stopped.map(drop))
    }

    async fn hand_on(
        &self,
        capture: &Capture,
        outlet: &Outlet<api::CaptureReply>,
    ) -> Result<(), ObserveError> {
        let first = api::CaptureReply {
            filter: capture.filter.clone(),
            ..api::CaptureReply::default()
        };
        if !outlet.tell(first).await {
            return Ok(());
        }
        loop {
            let ending = !pause(outlet, capture.until).await;
            let mut read = self
                .dataplane(&bus::ReadCaptureRequest { id: capture.id })
                .await?;
            // Workers take turns.
            read.packets.sort_by_key(|packet| packet.time_ns);
            for reply in replies(read.packets, read.missed) {
                if !outlet.tell(reply).await {
                    return Ok(());
                }
            }
            if ending || read.complete {
                return Ok(());
            }
        }
    }

    /// Begins a trace.
    pub async fn start_trace(&self, request: api::TraceRequest) -> Result<Trace, ObserveError> {
        short(&request.filter)?;
        let packets = bounded(request.packets, FOLLOWED, MOST_FOLLOWED);
        let until = end_after(request.seconds);
        let started = self
            .dataplane(&bus::StartTraceRequest {
                filter: request.filter,
                packets,
                interface: request.interface,
                bytes: request.bytes,
            })
            .await?;
        Ok(Trace {
            id: started.id,
            packets,
            until,
        })
    }

    /// Hands on what is seen until the end, which it then tells the dataplane.
    pub async fn follow(
        &self,
        trace: Trace,
        outlet: &Outlet<api::TraceReply>,
    ) -> Result<(), ObserveError> {
        let stop = bus::StopTraceRequest { id: trace.id };
        let outcome = self.hand_on_visits(trace, outlet).await;
        let stopped = self.dataplane(&stop).await;
        outcome.and(stopped.map(drop))
    }

    async fn hand_on_visits(
        &self,
        mut trace: Trace,
        outlet: &Outlet<api::TraceReply>,
    ) -> Result<(), ObserveError> {
        let mut complete = false;
        let mut kept = std::collections::BTreeMap::new();
        loop {
            let ending = !pause(outlet, trace.until).await;
            let read = self
                .dataplane(&bus::ReadTraceRequest { id: trace.id })
                .await?;
            let mut visits = read.visits;
            visits.sort_by_key(|visit| (visit.packet, visit.time_ns));
            for visit in &visits {
                kept.insert(visit.packet, visit.held);
            }
            let (mut missed, mut rest) = (read.missed, visits.into_iter().map(visit).peekable());
            while rest.peek().is_some() || missed > 0 {
                let reply = api::TraceReply {
                    visits: rest.by_ref().take(VISITS).collect(),
                    packets: read.packets,
                    missed: std::mem::take(&mut missed),
                };
                if !outlet.tell(reply).await {
                    return Ok(());
                }
            }
            if read.packets >= trace.packets && !complete {
                complete = true;
                trace.until = trace.until.min(Instant::now() + LINGER);
            }
            if ending || (complete && !kept.values().any(|held| *held)) {
                return Ok(());
            }
        }
    }
}

/// Waits until something new may have been seen. False: it is over.
async fn pause<T>(outlet: &Outlet<T>, until: Instant) -> bool {
    let next = (Instant::now() + INTERVAL).min(until);
    tokio::select! {
        () = outlet.closed() => false,
        () = tokio::time::sleep_until(next) => Instant::now() < until && !outlet.is_closed(),
    }
}

/// Replies of a size that may wait for a slow reader.
fn replies(packets: Vec<bus::CapturedPacket>, mut missed: u64) -> Vec<api::CaptureReply> {
    let mut replies = Vec::new();
    let mut reply = api::CaptureReply::default();
    let mut size = 0;
    for packet in packets {
        size += packet.bytes.len() + 64;
        reply.packets.push(captured(packet));
        if size >= PART {
            reply.missed = std::mem::take(&mut missed);
            replies.push(std::mem::take(&mut reply));
            size = 0;
        }
    }
    reply.missed = missed;
    if !reply.packets.is_empty() || reply.missed > 0 {
        replies.push(reply);
    }
    replies
}

fn captured(packet: bus::CapturedPacket) -> api::CapturedPacket {
    api::CapturedPacket {
        time_ns: packet.time_ns,
        interface: packet.interface,
        outbound: packet.outbound,
        ethernet: packet.ethernet,
        length: packet.length,
        bytes: packet.bytes,
        node: packet.node,
        drop: packet.drop,
        worker: packet.worker,
    }
}

/// What was seen of a packet, as it is told.
pub fn visit(visit: bus::TraceVisit) -> api::TraceVisit {
    api::TraceVisit {
        packet: visit.packet,
        buffer: visit.buffer,
        worker: visit.worker,
        node: visit.node,
        vector: visit.vector,
        time_ns: visit.time_ns,
        took_ns: visit.took_ns,
        took_clocks: visit.took_clocks,
        before: visit.before.map(seen),
        after: visit.after.map(seen),
        next: visit.next,
        port: visit.port,
        drop: visit.drop,
        details: visit.details,
        held: visit.held,
    }
}

fn seen(packet: bus::TracedPacket) -> api::TracedPacket {
    api::TracedPacket {
        length: packet.length,
        rx_interface: packet.rx_interface,
        tx_interface: packet.tx_interface,
        vrf: packet.vrf,
        link: packet.link,
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        hops: packet.hops,
        about: packet.about,
        bytes: packet.bytes,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_large_reading_is_told_in_parts() {
        let packet = |number| bus::CapturedPacket {
            time_ns: number,
            bytes: vec![0; 9000],
            ..bus::CapturedPacket::default()
        };
        let replies = replies((0..100).map(packet).collect(), 7);
        assert!(replies.len() >= 3, "{}", replies.len());
        let times: Vec<u64> = replies
            .iter()
            .flat_map(|reply| reply.packets.iter().map(|packet| packet.time_ns))
            .collect();
        assert_eq!(times, (0..100).collect::<Vec<_>>());
        assert_eq!(replies.iter().map(|reply| reply.missed).sum::<u64>(), 7);
        let largest = replies.iter().map(|reply| reply.packets.len()).max();
        assert!(largest.unwrap() <= 30);
    }
}
