//! What the nodes of the packet graph did with packets, packet by packet.
//!
//! ```text
//!   packet 1  10.1.0.10 > 10.2.0.10 icmp echo request id 7 seq 1, hops 64, 98 bytes in by lan
//!        +0.0 us  ethernet-input    -> ip4-input       84 bytes
//!        +0.4 us  ip4-input         -> ip4-lookup
//!        +0.6 us  ip4-lookup        -> tunnel-output   vrf default, into ipsec0, mtu 1438
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use culvert_model::api;
use serde::Serialize;

use super::packets::time_of_day;

/// The packets of some visits: as tables, or a packet a line as JSON.
pub fn text(visits: Vec<api::TraceVisit>, json: bool) -> String {
    let mut text = String::new();
    for (number, visits) in &in_order(visits) {
        if json {
            let packet = Packet {
                packet: *number,
                visits,
            };
            // What it is made of can be written.
            text.push_str(&serde_json::to_string(&packet).unwrap_or_default());
            text.push('\n');
        } else {
            table(&mut text, *number, visits);
        }
    }
    text
}

/// A packet with its visits, as JSON.
#[derive(Serialize)]
struct Packet<'v> {
    packet: u32,
    visits: &'v [Visit],
}

/// One packet at one node; see `TraceVisit` of the service.
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

/// The packet at one moment; see `TracedPacket` of the service.
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
    fn new(visit: api::TraceVisit) -> Self {
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
    fn new(packet: api::TracedPacket) -> Self {
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
fn in_order(visits: Vec<api::TraceVisit>) -> BTreeMap<u32, Vec<Visit>> {
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
