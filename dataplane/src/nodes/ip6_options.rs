//! What an IPv6 packet for the box says in extension headers, where no Linux looks at it (RFC 8200 sections 4.2 to 4.6).
//!
//! ```text
//!   | IPv6 | hop-by-hop: options | destination: options | routing: type, segments left | ESP, UDP, ICMPv6 ...
//!                         |                      |                        '-- segments left: somebody else's
//!                         '----------------------'-- unknown: what its two highest bits say
//! ```
//!
//! Packets that are punted are looked at by Linux, which answers for itself.

use culvert_net::{Icmpv6Type, Ipv6View, Protocol};

use crate::buffer::IcmpCause;
use crate::drop_reason::DropReason;

/// Extension headers that are walked; who sends more of them wants no answer.
const MOST_HEADERS: usize = 8;

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// Its sender is told.
    Told(IcmpCause),
    /// Nobody is told.
    Silent(DropReason),
}

impl Objection {
    fn problem(code: u8, pointer: usize) -> Self {
        Self::Told(IcmpCause::parameter_problem(code, pointer as u16))
    }
}

/// What is wrong with the extension headers of a packet up to its fragment header or transport.
#[cold]
pub(super) fn objection(packet: &[u8]) -> Option<Objection> {
    let view = Ipv6View::parse(packet).ok()?;
    let many = view.destination().is_multicast();
    let (mut next, mut at) = (view.next_header(), 40);
    for _ in 0..MOST_HEADERS {
        let header = packet.get(at..)?;
        let [following, words, _, left, ..] = *header.first_chunk::<8>()?;
        let length = usize::from(words) * 8 + 8;
        match next {
            Protocol::HOP_BY_HOP | Protocol::DESTINATION_OPTIONS => {
                if let Some(found) = unknown_option(header.get(..length)?, at, many) {
                    return Some(found);
                }
            }
            // Whatever the type: the box is nobody's waypoint (RFC 8200 section 4.4, RFC 5095).
            Protocol::ROUTING if left != 0 => {
                return Some(Objection::problem(0, at + 2));
            }
            Protocol::ROUTING => {}
            _ => return None,
        }
        next = Protocol(following);
        at += length;
    }
    Some(Objection::Silent(DropReason::Ip6Malformed))
}

/// The first option that is unknown and must not be skipped. `at` is where the header stands in the packet.
fn unknown_option(header: &[u8], at: usize, many: bool) -> Option<Objection> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    let mut place = 2;
    while let Some(kind) = header.get(place).copied() {
        if kind == PAD1 {
            place += 1;
            continue;
        }
        let Some(length) = header.get(place + 1) else {
            return Some(Objection::problem(0, at + place));
        };
        match kind >> 6 {
            _ if kind == PADN => {}
            0 => {}
            1 => return Some(Objection::Silent(DropReason::Ip6ParameterProblem)),
            3 if many => return Some(Objection::Silent(DropReason::Ip6ParameterProblem)),
            _ => {
                let code = Icmpv6Type::UNKNOWN_OPTION.code;
                return Some(Objection::problem(code, at + place));
            }
        }
        place += 2 + usize::from(*length);
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::nodes::workbench::{ROUTER_IP6, WAN_IP6, packet6};

    fn told(code: u8, pointer: u16) -> Objection {
        Objection::Told(IcmpCause::parameter_problem(code, pointer))
    }

    const SILENT: Option<Objection> = Some(Objection::Silent(DropReason::Ip6ParameterProblem));

    #[test]
    fn an_unknown_option_does_what_its_highest_bits_say() {
        let group = "ff02::1:ff00:1".parse().unwrap();
        for (options, alone, many) in [
            ([1, 4, 0, 0, 0, 0], None, None),
            ([0, 0, 0, 0, 0, 0], None, None),
            ([5, 2, 0, 0, 1, 0], None, None),
            ([0x1e, 4, 9, 9, 9, 9], None, None),
            ([0x41, 4, 9, 9, 9, 9], SILENT, SILENT),
            ([0x81, 4, 9, 9, 9, 9], Some(told(2, 42)), Some(told(2, 42))),
            ([0, 0, 0xc1, 2, 9, 9], Some(told(2, 44)), SILENT),
            ([0, 0, 0, 0, 0, 5], Some(told(0, 47)), Some(told(0, 47))),
        ] {
            for kind in [0, 60] {
                let payload = [&[50, 0], &options[..], &[0; 16]].concat();
                let packet = packet6(ROUTER_IP6, WAN_IP6, kind, 64, &payload);
                assert_eq!(objection(&packet), alone, "{options:?}");
                let packet = packet6(ROUTER_IP6, group, kind, 64, &payload);
                assert_eq!(objection(&packet), many, "{options:?}");
            }
        }
    }

    #[test]
    fn later_headers_are_looked_at_and_a_fragment_header_ends_it() {
        let pad = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let bad = |next: u8| [next, 0, 0x81, 4, 0, 0, 0, 0];
        let packet = |headers: &[[u8; 8]]| {
            let payload = [&headers.concat()[..], &[0; 16]].concat();
            objection(&packet6(ROUTER_IP6, WAN_IP6, 60, 64, &payload))
        };
        assert_eq!(packet(&[pad(60), bad(50)]), Some(told(2, 50)));
        assert_eq!(packet(&[pad(44), [60, 0, 0, 0, 0, 0, 0, 1], bad(50)]), None);
        // Routing headers: of any type, as long as we are the end.
        assert_eq!(packet(&[pad(43), [50, 0, 0, 0, 0, 0, 0, 0]]), None);
        assert_eq!(
            packet(&[pad(43), [50, 0, 4, 1, 0, 0, 0, 0]]),
            Some(told(0, 50))
        );
        let many = [pad(60); MOST_HEADERS];
        assert_eq!(
            packet(&many),
            Some(Objection::Silent(DropReason::Ip6Malformed))
        );
        assert_eq!(
            objection(&packet6(ROUTER_IP6, WAN_IP6, 50, 64, &[0; 8])),
            None
        );
    }
}
