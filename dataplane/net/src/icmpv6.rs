//! ICMP for IPv6 (RFC 4443): echo, unreachable, packet too big, time exceeded.
//!
//! Its checksum covers the pseudo header too. Neighbour discovery is in [`nd`](crate::nd).

use std::net::Ipv6Addr;

use crate::Protocol;
use crate::checksum::{self, Sum};

/// Type and code together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmpv6Type {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
}

impl Icmpv6Type {
    /// No route.
    pub const NO_ROUTE: Self = Self { kind: 1, code: 0 };
    /// A policy forbids it.
    pub const PROHIBITED: Self = Self { kind: 1, code: 1 };
    /// The host does not answer.
    pub const ADDRESS_UNREACHABLE: Self = Self { kind: 1, code: 3 };
    /// Nobody listens on the port.
    pub const PORT_UNREACHABLE: Self = Self { kind: 1, code: 4 };
    /// Too long; the next hop's MTU is the second word.
    pub const PACKET_TOO_BIG: Self = Self { kind: 2, code: 0 };
    /// No hops left.
    pub const HOP_LIMIT_EXCEEDED: Self = Self { kind: 3, code: 0 };
    /// A fragment never came.
    pub const REASSEMBLY_EXCEEDED: Self = Self { kind: 3, code: 1 };
    /// A field of a header is wrong; the second word says where it stands.
    pub const BAD_FIELD: Self = Self { kind: 4, code: 0 };
    /// An option of an extension header is unknown; the second word says where it stands.
    pub const UNKNOWN_OPTION: Self = Self { kind: 4, code: 2 };
    /// An echo request.
    pub const ECHO_REQUEST: Self = Self { kind: 128, code: 0 };
    /// The answer to an echo request.
    pub const ECHO_REPLY: Self = Self { kind: 129, code: 0 };
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICIT: Self = Self { kind: 133, code: 0 };
    /// Router advertisement (RFC 4861).
    pub const ROUTER_ADVERT: Self = Self { kind: 134, code: 0 };
    /// Neighbour solicitation (RFC 4861).
    pub const NEIGHBOUR_SOLICIT: Self = Self { kind: 135, code: 0 };
    /// Neighbour advertisement (RFC 4861).
    pub const NEIGHBOUR_ADVERT: Self = Self { kind: 136, code: 0 };

    /// Reports an error, so must never be answered with one (RFC 4443 section 2.4).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.kind < 128
    }

    /// A message of neighbour discovery, redirect included.
    #[inline]
    pub const fn is_neighbour_discovery(self) -> bool {
        matches!(self.kind, 133..=137)
    }
}

/// Why bytes are no ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Icmpv6Error {
    /// Fewer than 8 bytes.
    #[error("{0} bytes are too few for an ICMPv6 header")]
    Truncated(usize),
    /// The checksum is wrong.
    #[error("ICMPv6 checksum is wrong")]
    Checksum,
}

/// A message whose header is there.
#[derive(Clone, Copy)]
pub struct Icmpv6View<'a> {
    header: &'a [u8; 8],
    body: &'a [u8],
}

impl<'a> Icmpv6View<'a> {
    /// Checks the length, not the checksum.
    #[inline]
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, Icmpv6Error> {
        match bytes.split_first_chunk() {
            Some((header, body)) => Ok(Self { header, body }),
            None => Err(Icmpv6Error::Truncated(bytes.len())),
        }
    }

    /// Checks length and checksum, for a message between these addresses.
    #[inline]
    pub fn verify(
        bytes: &'a [u8],
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> Result<Self, Icmpv6Error> {
        let view = Self::parse(bytes)?;
        if sum(bytes, source, destination).finish() == 0 {
            Ok(view)
        } else {
            Err(Icmpv6Error::Checksum)
        }
    }

    /// Type and code.
    #[inline]
    pub const fn kind(&self) -> Icmpv6Type {
        Icmpv6Type {
            kind: self.header[0],
            code: self.header[1],
        }
    }

    /// The second word: identifier and sequence of an echo, MTU of "packet too big".
    #[inline]
    pub const fn rest(&self) -> u32 {
        u32::from_be_bytes([
            self.header[4],
            self.header[5],
            self.header[6],
            self.header[7],
        ])
    }

    /// What follows the 8 bytes: echo data, or the packet an error is about.
    #[inline]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

fn sum(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> Sum {
    checksum::pseudo_v6(source, destination, Protocol::ICMPV6, message.len() as u32)
        .add_bytes(message)
}

/// Writes type, code, the second word and the checksum into `message`, whose body is in place.
#[inline]
pub fn seal(
    message: &mut [u8],
    kind: Icmpv6Type,
    rest: u32,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Result<(), Icmpv6Error> {
    let have = message.len();
    let header = message
        .first_chunk_mut::<8>()
        .ok_or(Icmpv6Error::Truncated(have))?;
    let [a, b, c, d] = rest.to_be_bytes();
    *header = [kind.kind, kind.code, 0, 0, a, b, c, d];
    let sum = sum(message, source, destination).finish();
    if let Some(header) = message.first_chunk_mut::<4>() {
        [header[2], header[3]] = sum.to_be_bytes();
    }
    Ok(())
}

/// Turns an echo request into its reply in place; `false`, and nothing changed, for anything
/// else. Swapping the addresses does not change the checksum.
#[inline]
pub fn echo_reply(message: &mut [u8]) -> bool {
    match message.first_chunk_mut::<8>() {
        Some([kind @ 128, 0, high, low, ..]) => {
            *kind = 129;
            [*high, *low] =
                checksum::update(u16::from_be_bytes([*high, *low]), 0x8000, 0x8100).to_be_bytes();
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn echo_request_becomes_its_reply() {
        let (a, b): (Ipv6Addr, Ipv6Addr) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        );
        let mut message = [0, 0, 0, 0, 0, 0, 0, 0, b'p', b'i', b'n'];
        seal(&mut message, Icmpv6Type::ECHO_REQUEST, 0x1234_0001, a, b).unwrap();
        assert_eq!(
            Icmpv6View::verify(&message, a, b).unwrap().kind(),
            Icmpv6Type::ECHO_REQUEST
        );
        assert!(echo_reply(&mut message));
        let view = Icmpv6View::verify(&message, b, a).unwrap();
        assert_eq!(
            (view.kind(), view.rest(), view.body()),
            (Icmpv6Type::ECHO_REPLY, 0x1234_0001, &b"pin"[..])
        );
        assert!(!echo_reply(&mut message), "a reply is not answered");
        assert_eq!(
            Icmpv6View::verify(&message, b, b).err(),
            Some(Icmpv6Error::Checksum)
        );
        assert!(!echo_reply(&mut message[..7]));
    }
}
