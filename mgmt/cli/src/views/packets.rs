//! A captured packet in a line, as people read it.
//!
//! ```text
//!   16:17:10.123456 wan in   192.0.2.1 > 192.0.2.2 esp spi c1d2e3f4 seq 7, 146 bytes
//! ```
//!
//! Packets are what strangers send: whatever their bytes are, a line comes of it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_model::api::CapturedPacket;

/// Bytes that a line is made of: link header, headers of IP and of what it carries.
pub const HEADERS: u32 = 192;
/// Extension headers that are looked behind.
const MOST_EXTENSIONS: usize = 8;

/// The line.
pub fn line(packet: &CapturedPacket) -> String {
    let mut text = format!(
        "{} {} {:<3} {}, {} bytes",
        time_of_day(packet.time_ns),
        packet.interface,
        if packet.outbound { "out" } else { "in" },
        describe(packet),
        packet.length
    );
    if !packet.drop.is_empty() {
        let _ = write!(text, ", dropped: {} at {}", packet.drop, packet.node);
    } else if !packet.node.is_empty() {
        let _ = write!(text, ", {}", packet.node);
    }
    text
}

/// UTC, to the microsecond.
pub fn time_of_day(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        nanoseconds / 1000 % 1_000_000
    )
}

fn describe(packet: &CapturedPacket) -> String {
    let bytes = packet.bytes.as_slice();
    let whole = if packet.ethernet {
        ethernet(bytes)
    } else {
        internet(bytes)
    };
    whole.unwrap_or_else(|| "too short to be read".to_owned())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let part = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(part.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(part.try_into().ok()?))
}

fn mac(bytes: &[u8], at: usize) -> Option<String> {
    let octets: Vec<String> = bytes
        .get(at..at + 6)?
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    Some(octets.join(":"))
}

fn ethernet(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut at = 12;
    let mut kind = half(bytes, at)?;
    // Tags in tags.
    while matches!(kind, 0x8100 | 0x88a8) && at < 20 {
        let _ = write!(text, "vlan {} ", half(bytes, at + 2)? & 0xfff);
        at += 4;
        kind = half(bytes, at)?;
    }
    let inside = bytes.get(at + 2..)?;
    let carried = match kind {
        0x0806 => arp(inside)?,
        0x0800 | 0x86dd => internet(inside)?,
        other => format!("{} > {} type {other:04x}", mac(bytes, 6)?, mac(bytes, 0)?),
    };
    Some(text + &carried)
}

fn arp(bytes: &[u8]) -> Option<String> {
    let (sender, target) = (word(bytes, 14)?, word(bytes, 24)?);
    let (sender, target) = (Ipv4Addr::from(sender), Ipv4Addr::from(target));
    Some(match half(bytes, 6)? {
        1 => format!("arp who has {target}, tell {sender}"),
        2 => format!("arp {sender} is at {}", mac(bytes, 8)?),
        other => format!("arp operation {other}"),
    })
}

fn internet(bytes: &[u8]) -> Option<String> {
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes.first()? & 0xf) * 4;
            let address = |at| Some(IpAddr::from(Ipv4Addr::from(word(bytes, at)?)));
            let (from, to) = (address(12)?, address(16)?);
            let offset = usize::from(half(bytes, 6)? & 0x1fff) * 8;
            let protocol = *bytes.get(9)?;
            Some(carried(
                from,
                to,
                protocol,
                bytes.get(header.max(20)..),
                offset,
            ))
        }
        6 => {
            let address = |at: usize| {
                let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::from(Ipv6Addr::from(octets)))
            };
            let (from, to) = (address(8)?, address(24)?);
            let (mut next, mut at, mut offset) = (*bytes.get(6)?, 40, 0);
            for _ in 0..MOST_EXTENSIONS {
                let length = match next {
                    0 | 43 | 60 => (usize::from(*bytes.get(at + 1)?) + 1) * 8,
                    44 => {
                        offset = usize::from(half(bytes, at + 2)? & 0xfff8);
                        8
                    }
                    _ => break,
                };
                next = *bytes.get(at)?;
                at += length;
            }
            Some(carried(from, to, next, bytes.get(at..), offset))
        }
        other => Some(format!("version {other} of IP")),
    }
}

fn carried(from: IpAddr, to: IpAddr, protocol: u8, bytes: Option<&[u8]>, offset: usize) -> String {
    let plain = |name: &str| format!("{from} > {to} {name}");
    if offset > 0 {
        return plain(&format!("fragment at {offset} of protocol {protocol}"));
    }
    let known = bytes.and_then(|bytes| match protocol {
        6 | 17 => {
            let end = |address: IpAddr, port: u16| match address {
                IpAddr::V4(four) => format!("{four}:{port}"),
                IpAddr::V6(six) => format!("[{six}]:{port}"),
            };
            let (source, destination) = (half(bytes, 0)?, half(bytes, 2)?);
            let ends = format!("{} > {}", end(from, source), end(to, destination));
            Some(if protocol == 17 {
                format!("{ends} udp")
            } else {
                format!("{ends} tcp {}", flags(*bytes.get(13)?))
            })
        }
        50 => Some(plain(&format!(
            "esp spi {:08x} seq {}",
            word(bytes, 0)?,
            word(bytes, 4)?
        ))),
        1 | 58 => {
            let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
            let name = if protocol == 1 { "icmp" } else { "icmpv6" };
            Some(plain(&match (protocol, kind) {
                (1, 8) | (58, 128) => format!("{name} echo request seq {}", half(bytes, 6)?),
                (1, 0) | (58, 129) => format!("{name} echo reply seq {}", half(bytes, 6)?),
                (1, 11) | (58, 3) => format!("{name} time exceeded"),
                (1, 3) | (58, 1) => format!("{name} unreachable, code {code}"),
                (58, 2) => format!("{name} packet too big"),
                (58, 135) => format!("{name} neighbour solicitation"),
                (58, 136) => format!("{name} neighbour advertisement"),
                _ => format!("{name} type {kind} code {code}"),
            }))
        }
        _ => None,
    });
    known.unwrap_or_else(|| plain(&format!("protocol {protocol}")))
}

fn flags(bits: u8) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg"];
    let set = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn packet(ethernet: bool, bytes: &[u8]) -> CapturedPacket {
        CapturedPacket {
            time_ns: 3_723_000_001_000,
            interface: "wan".to_owned(),
            ethernet,
            length: bytes.len() as u32,
            bytes: bytes.to_vec(),
            ..CapturedPacket::default()
        }
    }

    fn ip4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn headers_are_told() {
        let esp = ip4(50, &[0xc1, 0xd2, 0xe3, 0xf4, 0, 0, 0, 7]);
        assert_eq!(
            line(&packet(false, &esp)),
            "01:02:03.000001 wan in  192.0.2.1 > 192.0.2.2 esp spi c1d2e3f4 seq 7, 28 bytes"
        );
        let mut tcp = [0; 20];
        tcp[..4].copy_from_slice(&[0x1f, 0x90, 0, 22]);
        tcp[13] = 0x12;
        let mut frame = vec![2; 12];
        frame.extend([0x81, 0, 0, 10, 8, 0]);
        frame.extend(ip4(6, &tcp));
        let mut dropped = packet(true, &frame);
        dropped.drop = "no-route".to_owned();
        dropped.node = "ip4-lookup".to_owned();
        assert_eq!(
            line(&dropped),
            "01:02:03.000001 wan in  vlan 10 192.0.2.1:8080 > 192.0.2.2:22 tcp syn,ack, 58 bytes, \
             dropped: no-route at ip4-lookup"
        );
        let mut six = vec![0x60, 0, 0, 0, 0, 8, 0, 64];
        six.extend([0; 15].iter().chain(&[1]));
        six.extend([0; 15].iter().chain(&[2]));
        // Hop-by-hop options before the message.
        six.extend([58, 0, 0, 0, 0, 0, 0, 0]);
        six.extend([128, 0, 0, 0, 0, 9, 0, 3]);
        assert!(line(&packet(false, &six)).contains("::1 > ::2 icmpv6 echo request seq 3"));
    }

    proptest! {
        #[test]
        fn a_line_comes_of_any_bytes(ethernet: bool, bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let text = line(&packet(ethernet, &bytes));
            prop_assert!(!text.contains('\n') && text.len() < 400);
        }

        #[test]
        fn a_line_comes_of_any_bytes_behind_a_header(first in 0x40..0x70u8, rest in proptest::collection::vec(any::<u8>(), 39..128)) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            line(&packet(false, &bytes));
        }
    }
}
