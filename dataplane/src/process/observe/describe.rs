//! From indexes and bytes to names and words: what a visit of a packet to a node was.

use std::fmt::Write as _;

use culvert_model::bus;
use culvert_net::{MacAddr, Protocol};

use crate::buffer::IcmpCause;
use crate::clock;
use crate::graph::NodeId;
use crate::observe::headers::{Family, Headers};
use crate::observe::trace::{Outcome, View, Visit};
use crate::port::interface_of_tap;
use crate::tables::{AdjacencyKind, Tables};

/// NAT traversal (RFC 3948): ESP in UDP.
const NAT_TRAVERSAL: u16 = 4500;

/// From processor clocks to time.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    clocks: u64,
    nanoseconds: u64,
    per_second: u64,
}

impl Clock {
    /// Both clocks now.
    pub(super) fn now(per_second: u64) -> Self {
        Self {
            clocks: clock::clocks(),
            nanoseconds: clock::realtime_nanoseconds(),
            per_second: per_second.max(1),
        }
    }

    fn span(self, clocks: u64) -> u64 {
        (u128::from(clocks) * 1_000_000_000 / u128::from(self.per_second)) as u64
    }

    /// Nanoseconds since 1970.
    fn time(self, clocks: u64) -> u64 {
        // Before it, too: a worker's counter may be a little behind.
        match clocks.checked_sub(self.clocks) {
            Some(after) => self.nanoseconds + self.span(after),
            None => self.nanoseconds - self.span(self.clocks - clocks).min(self.nanoseconds),
        }
    }
}

/// A visit of the packet with this number in its trace.
pub(super) fn visit(
    seen: &Visit,
    number: u32,
    tables: &Tables,
    clock: Clock,
    bytes: bool,
) -> bus::TraceVisit {
    let (mut next, mut port, mut drop) = (String::new(), String::new(), String::new());
    match seen.outcome {
        Outcome::Next(node) => node.name().clone_into(&mut next),
        Outcome::Port(index) => port = port_name(tables, index),
        Outcome::Dropped | Outcome::Held | Outcome::Gone => {}
    }
    if let Some(reason) = seen.reason {
        reason.name().clone_into(&mut drop);
    }
    bus::TraceVisit {
        packet: number,
        buffer: seen.buffer,
        worker: 0,
        node: seen.node.name().to_owned(),
        vector: u32::from(seen.vector),
        time_ns: clock.time(seen.began),
        took_ns: clock.span(seen.took),
        took_clocks: seen.took,
        before: Some(packet(&seen.before, tables, bytes)),
        after: seen.after.as_ref().map(|view| packet(view, tables, bytes)),
        next,
        port,
        drop,
        held: seen.outcome == Outcome::Held,
        details: details(seen, tables),
    }
}

pub(super) fn interface_name(tables: &Tables, index: u32) -> String {
    tables
        .interfaces
        .get(index)
        .map_or_else(String::new, |interface| interface.name.to_string())
}

fn port_name(tables: &Tables, index: u32) -> String {
    match interface_of_tap(index) {
        Some(interface) => format!("tap of {}", interface_name(tables, interface)),
        None => interface_name(tables, index),
    }
}

fn packet(view: &View, tables: &Tables, bytes: bool) -> bus::TracedPacket {
    let headers = Headers::of(view.bytes(), view.layer);
    let ports = headers.ports();
    bus::TracedPacket {
        length: u32::from(view.length),
        rx_interface: port_name(tables, view.rx_interface),
        tx_interface: interface_name(tables, view.tx_interface),
        vrf: tables
            .vrfs
            .get(view.vrf)
            .map_or_else(String::new, |vrf| vrf.name.to_string()),
        link: headers.link.map_or_else(String::new, |link| {
            format!(
                "{} > {} {:#06x}",
                link.source, link.destination, link.ether_type.0
            )
        }),
        source: headers
            .source
            .map_or_else(String::new, |address| address.to_string()),
        destination: headers
            .destination
            .map_or_else(String::new, |address| address.to_string()),
        protocol: protocol(&headers),
        source_port: ports.map(|(source, _)| u32::from(source)),
        destination_port: ports.map(|(_, destination)| u32::from(destination)),
        hops: headers.hops.map(u32::from),
        about: about(&headers),
        bytes: if bytes {
            view.bytes().to_vec()
        } else {
            Vec::new()
        },
    }
}

fn protocol(headers: &Headers<'_>) -> String {
    match (headers.family, headers.protocol) {
        (Some(Family::Arp), _) => "arp".to_owned(),
        (_, Some(protocol)) => protocol.to_string(),
        (Some(Family::Ip4), None) => "ipv4".to_owned(),
        (Some(Family::Ip6), None) => "ipv6".to_owned(),
        (None, None) => String::new(),
    }
}

/// What the protocol's own header says.
fn about(headers: &Headers<'_>) -> String {
    let mut text = String::new();
    if headers.family == Some(Family::Arp) {
        let kind = match headers.transport.get(6..8) {
            Some([0, 1]) => "request",
            Some([0, 2]) => "reply",
            _ => "",
        };
        return kind.to_owned();
    }
    if let Some(place) = headers.fragment {
        let more = if place.more { "+" } else { "" };
        let _ = write!(
            text,
            "fragment {:#x} at {}{more} ",
            place.identification, place.offset
        );
    }
    let encapsulated = headers
        .ports()
        .is_none_or(|(source, destination)| [source, destination].contains(&NAT_TRAVERSAL));
    let _ = match (headers.protocol, headers.transport) {
        (Some(Protocol::ICMP), [8, _, _, _, rest @ ..])
        | (Some(Protocol::ICMPV6), [128, _, _, _, rest @ ..]) => echo(&mut text, "request", rest),
        (Some(Protocol::ICMP), [0, _, _, _, rest @ ..])
        | (Some(Protocol::ICMPV6), [129, _, _, _, rest @ ..]) => echo(&mut text, "reply", rest),
        (Some(Protocol::ICMP | Protocol::ICMPV6), [kind, code, ..]) => {
            write!(text, "type {kind} code {code}")
        }
        (Some(Protocol::TCP), segment) => tcp(&mut text, segment),
        _ => match headers.esp() {
            Some((spi, sequence)) if encapsulated => {
                write!(text, "spi {spi:#010x} seq {sequence}")
            }
            _ => Ok(()),
        },
    };
    text.trim_end().to_owned()
}

fn echo(text: &mut String, kind: &str, rest: &[u8]) -> std::fmt::Result {
    write!(text, "echo {kind}")?;
    if let Some(&[i0, i1, s0, s1]) = rest.first_chunk::<4>() {
        let (id, sequence) = (u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1]));
        write!(text, " id {id} seq {sequence}")?;
    }
    Ok(())
}

fn tcp(text: &mut String, segment: &[u8]) -> std::fmt::Result {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let Some(bits) = segment.get(13) else {
        return Ok(());
    };
    let set = NAMES
        .iter()
        .enumerate()
        .filter(|(at, _)| bits >> at & 1 == 1);
    let names: Vec<_> = set.map(|(_, name)| *name).collect();
    text.write_str(&names.join(" "))
}

/// What the node has decided, as far as the packet's metadata tells.
fn details(seen: &Visit, tables: &Tables) -> Vec<String> {
    let mut details = Vec::new();
    let after = seen.after.as_ref().unwrap_or(&seen.before);
    match seen.node {
        NodeId::Ip4Lookup | NodeId::Ip6Lookup => {
            let vrf = tables.vrfs.get(seen.before.vrf);
            details.extend(vrf.map(|vrf| format!("vrf {}", vrf.name)));
            let decided = matches!(seen.outcome, Outcome::Next(node) if node != NodeId::IcmpError);
            if decided {
                details.extend(adjacency(tables, after.adjacency));
            }
        }
        NodeId::Ip4Rewrite | NodeId::Ip6Rewrite => {
            details.extend(adjacency(tables, seen.before.adjacency));
        }
        NodeId::NeighbourResolve if seen.outcome == Outcome::Held => {
            details.extend(adjacency(tables, seen.before.adjacency));
        }
        NodeId::TunnelOutput | NodeId::PolicyOutput => {
            if seen.node == NodeId::TunnelOutput {
                let tunnel = interface_name(tables, after.tx_interface);
                details.push(format!("tunnel {tunnel}"));
            }
            if seen.outcome == Outcome::Next(NodeId::EspEncrypt) {
                details.extend(outbound(tables, after.sa));
            }
        }
        NodeId::Encapsulate => {
            details.push(format!(
                "tunnel {}",
                interface_name(tables, after.tx_interface)
            ));
        }
        NodeId::Decapsulate => {
            details.push(format!(
                "tunnel {}",
                interface_name(tables, after.rx_interface)
            ));
        }
        NodeId::EspEncrypt => details.extend(outbound(tables, seen.before.sa)),
        NodeId::EspDecrypt => details.extend(inbound(tables, &seen.before)),
        _ => {}
    }
    if seen.node == NodeId::Inject {
        details.push("from Linux".to_owned());
    }
    if seen.outcome == Outcome::Next(NodeId::IcmpError) {
        details.push(cause(after.icmp));
    } else if seen.node == NodeId::IcmpError {
        details.push(cause(seen.before.icmp));
    }
    details
}

fn adjacency(tables: &Tables, index: u32) -> Option<String> {
    let adjacency = tables.adjacencies.get(index)?;
    let interface = interface_name(tables, adjacency.interface);
    let mtu = adjacency.mtu;
    Some(match &adjacency.kind {
        AdjacencyKind::Drop(reason) => format!("drop {}", reason.name()),
        AdjacencyKind::Local => "for the box".to_owned(),
        AdjacencyKind::Glean => format!("neighbour on {interface}, not known yet"),
        AdjacencyKind::Unresolved(address) => {
            format!("neighbour {address} on {interface}, not known yet")
        }
        AdjacencyKind::Rewrite([d0, d1, d2, d3, d4, d5, ..]) => {
            let mac = MacAddr([*d0, *d1, *d2, *d3, *d4, *d5]);
            format!("via {interface} to {mac}, mtu {mtu}")
        }
        AdjacencyKind::Multicast => format!("all on {interface}, mtu {mtu}"),
        AdjacencyKind::Tunnel | AdjacencyKind::Encapsulation => {
            format!("into {interface}, mtu {mtu}")
        }
        AdjacencyKind::Lookup(vrf) => {
            let vrf = tables.vrfs.get(*vrf).map_or("", |vrf| &*vrf.name);
            format!("looked up again in vrf {vrf}")
        }
        AdjacencyKind::Multipath(members) => format!("one of {} ways", members.len()),
    })
}

fn outbound(tables: &Tables, index: u32) -> Option<String> {
    let sa = tables.sas.sas.get(index)?;
    Some(format!("{}, {}", sa.spec.id, sa.spec.suite))
}

fn inbound(tables: &Tables, view: &View) -> Option<String> {
    let (spi, _) = Headers::of(view.bytes(), view.layer).esp()?;
    let index = tables.sas.inbound.get(spi)?;
    outbound(tables, *index)
}

fn cause(cause: IcmpCause) -> String {
    let IcmpCause { kind, code, mtu } = cause;
    if mtu == 0 {
        format!("icmp type {kind} code {code}")
    } else {
        format!("icmp type {kind} code {code}, mtu {mtu}")
    }
}
