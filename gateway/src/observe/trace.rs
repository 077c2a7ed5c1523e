//! `culvert trace`: the next packets that match, and what every node does with them.
//!
//! ```text
//!   packet 1  10.1.0.10 > 10.2.0.10 icmp echo request id 7 seq 1, hops 64, 98 bytes in by lan
//!        +0.0 us  ethernet-input    -> ip4-input       84 bytes
//!        +0.4 us  ip4-input         -> ip4-lookup
//!        +0.6 us  ip4-lookup        -> tunnel-output   vrf default, into ipsec0, mtu 1438
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use culvert_model::bus;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::{Dataplane, ObserveError, Which, is_open};

/// Packets that a node keeps are waited for so long after the last one has come.
const LINGER: Duration = Duration::from_secs(2);

/// What is traced. Exit status 1: no packet matched.
#[derive(Debug, Parser)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// End after so many packets.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// End after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Only packets that come in by this interface or tunnel.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    interface: String,
    /// The first bytes of each packet at each node: they may be what people say to each other.
    #[arg(long)]
    hex: bool,
    /// Write JSON, a packet a line; what becomes of it after a node has kept it is a line of its own.
    #[arg(long)]
    json: bool,
}

/// Traces.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, ObserveError> {
    let filter = arguments.which.filter()?;
    let packets = Dataplane::with(&arguments.which.root, async |dataplane| {
        let request = bus::StartTraceRequest {
            filter,
            packets: arguments.count,
            interface: arguments.interface.clone(),
            bytes: arguments.hex,
        };
        let id = dataplane.call(&request).await?.id;
        let outcome = follow(dataplane, id, arguments).await;
        let stopped = dataplane.call(&bus::StopTraceRequest { id }).await;
        let packets = outcome?;
        stopped?;
        Ok(packets)
    })?;
    Ok(ExitCode::from(u8::from(packets == 0)))
}

/// Reads until it is enough; gives the packets that matched.
async fn follow(
    dataplane: &mut Dataplane,
    id: u64,
    arguments: &Arguments,
) -> Result<u32, ObserveError> {
    let mut until = Instant::now() + Duration::from_secs(arguments.timeout);
    let progress = ProgressBar::new(arguments.count.into()).with_style(
        ProgressStyle::with_template("{spinner} {pos} of {len} packets, {elapsed}, Ctrl-C ends")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (mut missed, mut visits, mut complete) = (0, 0, false);
    let mut kept = BTreeMap::new();
    loop {
        let goes_on = dataplane.wait(Some(until)).await;
        let ending = !goes_on || Instant::now() >= until;
        let reply = dataplane.call(&bus::ReadTraceRequest { id }).await?;
        missed += reply.missed;
        visits += reply.visits.len();
        let packets = in_order(reply.visits);
        for (number, visits) in &packets {
            let last = visits.last();
            kept.insert(*number, last.is_some_and(|visit| visit.held));
        }
        progress.set_position(reply.packets.into());
        progress.tick();
        let mut text = String::new();
        for (number, visits) in &packets {
            if arguments.json {
                let packet = Packet {
                    packet: *number,
                    visits,
                };
                text.push_str(&serde_json::to_string(&packet).unwrap_or_default());
                text.push('\n');
            } else {
                table(&mut text, *number, visits);
            }
        }
        let open = progress.suspend(|| is_open(std::io::stdout().write_all(text.as_bytes())))?;
        if reply.packets >= arguments.count && !complete {
            complete = true;
            until = until.min(Instant::now() + LINGER);
        }
        let settled = complete && !kept.values().any(|kept| *kept);
        if ending || settled || !open {
            progress.finish_and_clear();
            let lost = if missed > 0 {
                format!("; {missed} more found no room")
            } else {
                String::new()
            };
            eprintln!("{} packets, {visits} visits{lost}", reply.packets);
            return Ok(reply.packets);
        }
    }
}

/// A packet with its visits, as JSON.
#[derive(Serialize)]
struct Packet<'v> {
    packet: u32,
    visits: &'v [Visit],
}

/// One packet at one node; see `TraceVisit` of the bus.
#[derive(Debug, Serialize)]
struct Visit {
    node: String,
    worker: u32,
    buffer: u32,
    vector: u32,
    time_ns: u64,
    took_ns: u64,
    took_clocks: u64,
    before: View,
    after: Option<View>,
    next: Option<String>,
    port: Option<String>,
    drop: Option<String>,
    held: bool,
    details: Vec<String>,
}

/// The packet at one moment; see `TracedPacket` of the bus.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct View {
    length: u32,
    rx_interface: Option<String>,
    tx_interface: Option<String>,
    vrf: Option<String>,
    link: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    protocol: Option<String>,
    source_port: Option<u32>,
    destination_port: Option<u32>,
    hops: Option<u32>,
    about: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl Visit {
    fn new(visit: bus::TraceVisit) -> Self {
        Self {
            node: visit.node,
            worker: visit.worker,
            buffer: visit.buffer,
            vector: visit.vector,
            time_ns: visit.time_ns,
            took_ns: visit.took_ns,
            took_clocks: visit.took_clocks,
            before: View::new(visit.before.unwrap_or_default()),
            after: visit.after.map(View::new),
            next: some(visit.next),
            port: some(visit.port),
            drop: some(visit.drop),
            held: visit.held,
            details: visit.details,
        }
    }
}

impl View {
    fn new(packet: bus::TracedPacket) -> Self {
        let hex = packet.bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self {
            length: packet.length,
            rx_interface: some(packet.rx_interface),
            tx_interface: some(packet.tx_interface),
            vrf: some(packet.vrf),
            link: some(packet.link),
            source: some(packet.source),
            destination: some(packet.destination),
            protocol: some(packet.protocol),
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            hops: packet.hops,
            about: some(packet.about),
            bytes: some(hex),
        }
    }

    /// What the headers say, in one line.
    fn headers(&self) -> String {
        let end = |address: &Option<String>, port: Option<u32>| {
            let address = address.as_deref().unwrap_or("?");
            match port {
                Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                Some(port) => format!("{address}:{port}"),
                None => address.to_owned(),
            }
        };
        let mut text = match (&self.source, &self.link) {
            (None, Some(link)) => link.clone(),
            _ => format!(
                "{} > {}",
                end(&self.source, self.source_port),
                end(&self.destination, self.destination_port)
            ),
        };
        for part in [&self.protocol, &self.about].into_iter().flatten() {
            text.push(' ');
            text.push_str(part);
        }
        if let Some(hops) = self.hops {
            let _ = write!(text, ", hops {hops}");
        }
        text
    }
}

/// Visits by packet, each packet's in the order of time.
fn in_order(visits: Vec<bus::TraceVisit>) -> BTreeMap<u32, Vec<Visit>> {
    let mut packets: BTreeMap<u32, Vec<Visit>> = BTreeMap::new();
    for visit in visits {
        packets
            .entry(visit.packet)
            .or_default()
            .push(Visit::new(visit));
    }
    for visits in packets.values_mut() {
        visits.sort_by_key(|visit| visit.time_ns);
    }
    packets
}

fn table(text: &mut String, number: u32, visits: &[Visit]) {
    let Some(first) = visits.first() else { return };
    let _ = write!(
        text,
        "packet {number}  {}  {}, {} bytes",
        time_of_day(first.time_ns),
        first.before.headers(),
        first.before.length
    );
    if let Some(interface) = &first.before.rx_interface {
        let _ = write!(text, " in by {interface}");
    }
    let _ = writeln!(text, ", worker {}", first.worker);
    // Fragments take turns: each line of one says which.
    let several = visits.iter().any(|visit| visit.buffer != first.buffer);
    for visit in visits {
        let since = visit.time_ns.saturating_sub(first.time_ns) as f64 / 1000.0;
        let _ = write!(
            text,
            "  {since:>+9.1} us  {:<17} {:<22}",
            visit.node,
            visit.way()
        );
        let mut said = visit.details.clone();
        let after = visit.after.as_ref().unwrap_or(&visit.before);
        if after.length != visit.before.length {
            said.push(format!("{} -> {} bytes", visit.before.length, after.length));
        }
        if several {
            said.push(format!("buffer {}", visit.buffer));
        }
        let _ = writeln!(text, " {}", said.join("; "));
        if after.headers() != visit.before.headers() {
            let _ = writeln!(text, "{:34}now {}", "", after.headers());
        }
        if let Some(bytes) = &visit.before.bytes {
            let _ = writeln!(text, "{:34}{bytes}", "");
        }
    }
    let end = text.trim_end().len();
    text.truncate(end);
    text.push_str("\n\n");
}

impl Visit {
    /// Where the packet went.
    fn way(&self) -> String {
        match (&self.next, &self.port, &self.drop) {
            (Some(next), _, Some(drop)) => format!("{drop}, -> {next}"),
            (Some(next), ..) => format!("-> {next}"),
            (_, Some(port), _) => format!("sent: {port}"),
            (.., Some(drop)) => format!("dropped: {drop}"),
            _ if self.held => "held".to_owned(),
            _ => "done".to_owned(),
        }
    }
}

/// UTC.
fn time_of_day(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        nanoseconds / 1000 % 1_000_000
    )
}
