//! What a frame on the untrusted side of a gateway is.
//!
//! The classes are narrow on purpose: what is not proved to be one of the allowed kinds is
//! [`WanClass::Cleartext`], and so is any allowed kind that carries the marker of the inner packets.
//!
//! ```text
//!   Ethernet ─┬─ ARP ───────────────────────────────────────────── Arp
//!             ├─ IPv4 ─┬─ protocol 50 ──────────────────────────── Esp
//!             │        └─ UDP ─┬─ 500 to 500 ────── IKE header ─── Ike
//!             │                └─ 4500 ─┬─ ff, one byte ────────── Keepalive
//!             │                         ├─ four zero bytes, IKE ── Ike
//!             │                         └─ SPI, sequence ───────── Esp
//!             └─ IPv6 ─┬─ as IPv4
//!                      ├─ router alert, ICMPv6, to ff02::16 ──── report of groups ── Neighbour
//!                      └─ ICMPv6, hop limit 255 ─ 133 to 136 ───── Neighbour, Router
//! ```

/// The kinds of frames that may cross the untrusted side, and everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WanClass {
    /// RFC 826
    Arp,
    /// Neighbour solicitation or advertisement, RFC 4861, or which groups somebody listens to for them, RFC 3810.
    Neighbour,
    /// Router solicitation or advertisement, RFC 4861.
    Router,
    /// RFC 7296, on 500, or on 4500 behind the non-ESP marker of RFC 3948.
    Ike,
    /// RFC 4303, native or in UDP 4500.
    Esp,
    /// NAT keepalive, RFC 3948 section 2.3.
    Keepalive,
    /// Everything else.
    Cleartext,
}

const ETHERNET_HEADER: usize = 14;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const PROTOCOL_ICMPV6: u8 = 58;
/// A hop-by-hop header before ICMPv6 that asks every router to look (RFC 2711), as MLD has it.
const ROUTER_ALERT: [u8; 8] = [PROTOCOL_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
/// `ff02::16`
const LISTENER_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
const LISTENER_REPORT: u8 = 143;
const PORT_IKE: u16 = 500;
const PORT_IKE_NAT: u16 = 4500;
/// SPIs up to 255 are reserved (RFC 4303 section 2.1).
const FIRST_SPI: u32 = 256;
/// SPI, sequence, and at least an ICV of 8 bytes with 4 of payload.
const SHORTEST_ESP: usize = 8 + 12;
/// RFC 7296 section 3.1.
const IKE_HEADER: usize = 28;

/// Classifies a whole Ethernet frame. `marker`, unless empty, is a byte string that only packets from
/// inside carry: a frame that has it anywhere is in the clear.
pub fn classify(frame: &[u8], marker: &[u8]) -> WanClass {
    if !marker.is_empty() && frame.windows(marker.len()).any(|window| window == marker) {
        return WanClass::Cleartext;
    }
    let kind = (|| {
        let payload = frame.get(ETHERNET_HEADER..)?;
        match read_u16(frame, 12)? {
            0x0806 => arp(payload),
            0x0800 => ipv4(payload),
            0x86dd => ipv6(payload),
            _ => None,
        }
    })();
    kind.unwrap_or(WanClass::Cleartext)
}

fn arp(packet: &[u8]) -> Option<WanClass> {
    // Ethernet, IPv4, 6 and 4 bytes: nothing else is ARP here.
    (packet.get(..6)? == [0, 1, 8, 0, 6, 4] && packet.len() >= 28).then_some(WanClass::Arp)
}

fn ipv4(packet: &[u8]) -> Option<WanClass> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(read_u16(packet, 2)?);
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    let payload = packet.get(header..total)?;
    let fragment = read_u16(packet, 6)?;
    let protocol = *packet.get(9)?;
    if fragment & 0x1fff != 0 {
        // A later piece of an ESP packet; of anything else it could carry anything.
        return (protocol == PROTOCOL_ESP).then_some(WanClass::Esp);
    }
    transport(protocol, payload)
}

fn ipv6(packet: &[u8]) -> Option<WanClass> {
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let total = 40 + usize::from(read_u16(packet, 4)?);
    let payload = packet.get(40..total)?;
    let next = *packet.get(6)?;
    if next == PROTOCOL_ICMPV6 {
        // Hop limit 255 proves that it was not forwarded (RFC 4861 section 7.1).
        let on_link = *packet.get(7)? == 255;
        return match *payload.first()? {
            133 | 134 if on_link => Some(WanClass::Router),
            135 | 136 if on_link => Some(WanClass::Neighbour),
            _ => None,
        };
    }
    if payload.starts_with(&ROUTER_ALERT) && next == 0 {
        // Hop limit 1: no router sends it on (RFC 3810 section 5).
        let is_report = *packet.get(7)? == 1
            && packet.get(24..40)? == LISTENER_ROUTERS
            && *payload.get(ROUTER_ALERT.len())? == LISTENER_REPORT;
        return is_report.then_some(WanClass::Neighbour);
    }
    transport(next, payload)
}

fn transport(protocol: u8, payload: &[u8]) -> Option<WanClass> {
    match protocol {
        PROTOCOL_ESP => esp(payload),
        PROTOCOL_UDP => {
            let ports = [read_u16(payload, 0)?, read_u16(payload, 2)?];
            let data = payload.get(8..usize::from(read_u16(payload, 4)?))?;
            if ports == [PORT_IKE, PORT_IKE] {
                ike(data)
            } else if ports.contains(&PORT_IKE_NAT) {
                encapsulated(data)
            } else {
                None
            }
        }
        _ => None,
    }
}

fn encapsulated(data: &[u8]) -> Option<WanClass> {
    if data == [0xff] {
        return Some(WanClass::Keepalive);
    }
    match data.get(..4)? {
        [0, 0, 0, 0] => ike(data.get(4..)?),
        _ => esp(data),
    }
}

fn esp(data: &[u8]) -> Option<WanClass> {
    (data.len() >= SHORTEST_ESP && read_u32(data, 0)? >= FIRST_SPI).then_some(WanClass::Esp)
}

fn ike(data: &[u8]) -> Option<WanClass> {
    let version_two = *data.get(17)? >> 4 == 2;
    // IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL
    let exchange = (34..=37).contains(data.get(18)?);
    let length = usize::try_from(read_u32(data, 24)?).ok()?;
    (data.len() >= IKE_HEADER && version_two && exchange && length == data.len())
        .then_some(WanClass::Ike)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(payload);
        // An Ethernet trailer must not confuse the lengths.
        frame.resize(frame.len().max(60), 0);
        frame
    }

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[
            0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 2, 198, 51, 100, 2,
        ]);
        packet.extend_from_slice(payload);
        ethernet(0x0800, &packet)
    }

    fn v6(next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[next, hop_limit]);
        packet.extend_from_slice(&[0x20; 32]);
        packet.extend_from_slice(payload);
        ethernet(0x86dd, &packet)
    }

    fn udp(ports: [u16; 2], data: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for word in [ports[0], ports[1], 8 + data.len() as u16, 0] {
            datagram.extend_from_slice(&word.to_be_bytes());
        }
        datagram.extend_from_slice(data);
        datagram
    }

    fn ike_message() -> Vec<u8> {
        let mut message = vec![7; 16];
        message.extend_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0]);
        message.extend_from_slice(&40_u32.to_be_bytes());
        message.resize(40, 9);
        message
    }

    fn esp_packet() -> Vec<u8> {
        [
            &0xc0de_0001_u32.to_be_bytes()[..],
            &[0, 0, 0, 1],
            &[0x5a; 40],
        ]
        .concat()
    }

    #[test]
    fn each_allowed_kind_is_recognised() {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.resize(28, 0);
        assert_eq!(classify(&ethernet(0x0806, &arp), b""), WanClass::Arp);
        for class in [
            classify(&v4(50, &esp_packet()), b""),
            classify(&v6(50, 64, &esp_packet()), b""),
            classify(&v4(17, &udp([4500, 4500], &esp_packet())), b""),
            classify(&v4(17, &udp([4500, 31_001], &esp_packet())), b""),
        ] {
            assert_eq!(class, WanClass::Esp);
        }
        assert_eq!(
            classify(&v4(17, &udp([500, 500], &ike_message())), b""),
            WanClass::Ike
        );
        let marked = [&[0; 4][..], &ike_message()].concat();
        assert_eq!(
            classify(&v4(17, &udp([4500, 4500], &marked)), b""),
            WanClass::Ike
        );
        assert_eq!(
            classify(&v4(17, &udp([4500, 4500], &[0xff])), b""),
            WanClass::Keepalive
        );
        assert_eq!(
            classify(&v6(58, 255, &[135, 0, 0, 0, 0, 0, 0, 0]), b""),
            WanClass::Neighbour
        );
        assert_eq!(
            classify(&v6(58, 255, &[134, 0, 0, 0, 0, 0, 0, 0]), b""),
            WanClass::Router
        );
    }

    #[test]
    fn everything_else_is_in_the_clear() {
        for frame in [
            v4(1, &[8, 0, 0, 0, 1, 2, 3, 4]),
            v4(
                17,
                &udp(
                    [500, 500],
                    b"not IKE at all, however long it is, on the right port",
                ),
            ),
            v4(17, &udp([500, 501], &ike_message())),
            v4(17, &udp([53, 53], &esp_packet())),
            v4(4, &esp_packet()),
            v4(
                50,
                &[
                    0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                ],
            ),
            v6(58, 64, &[135, 0, 0, 0]),
            v6(58, 255, &[143, 0, 0, 0]),
            v6(0, 64, &esp_packet()),
            ethernet(0x8100, &[0; 60]),
            ethernet(0x88cc, &[0; 60]),
            Vec::new(),
        ] {
            assert_eq!(classify(&frame, b""), WanClass::Cleartext, "{frame:02x?}");
        }
    }

    #[test]
    fn a_report_of_groups_is_allowed_only_where_no_router_sends_it_on() {
        let report = |hop_limit, group: u8, kind| {
            let mut frame = v6(
                0,
                hop_limit,
                &[&ROUTER_ALERT[..], &[kind, 0, 0, 0, 0, 0, 0, 0]].concat(),
            );
            frame[38..54].copy_from_slice(&LISTENER_ROUTERS);
            frame[53] = group;
            classify(&frame, b"")
        };
        assert_eq!(report(1, 0x16, LISTENER_REPORT), WanClass::Neighbour);
        for (hop_limit, group, kind) in [(64, 0x16, 143), (1, 0x17, 143), (1, 0x16, 128)] {
            assert_eq!(report(hop_limit, group, kind), WanClass::Cleartext);
        }
    }

    #[test]
    fn a_marker_inside_an_allowed_packet_is_in_the_clear() {
        let leaking = v4(50, &[&esp_packet()[..], b"MARK", &[0; 4]].concat());
        assert_eq!(classify(&leaking, b""), WanClass::Esp);
        assert_eq!(classify(&leaking, b"MARK"), WanClass::Cleartext);
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = classify(&frame, b"marker");
        }

        #[test]
        fn a_cut_ike_message_is_never_ike(cut in 1_usize..40) {
            let message = ike_message();
            let frame = v4(17, &udp([500, 500], &message[..message.len() - cut]));
            prop_assert_eq!(classify(&frame, b""), WanClass::Cleartext);
        }
    }
}
