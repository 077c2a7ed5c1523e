//! ICMP for IPv4 (RFC 792): echo, unreachable, time exceeded.
//!
//! ```text
//! | type 1 | code 1 | checksum 2 | rest 4 | body ... |
//! ```

use crate::checksum::{self, Sum};

/// Type and code together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmpv4Type {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
}

impl Icmpv4Type {
    /// The answer to an echo request.
    pub const ECHO_REPLY: Self = Self { kind: 0, code: 0 };
    /// No route to the network.
    pub const NET_UNREACHABLE: Self = Self { kind: 3, code: 0 };
    /// The host does not answer.
    pub const HOST_UNREACHABLE: Self = Self { kind: 3, code: 1 };
    /// The host does not speak the protocol.
    pub const PROTOCOL_UNREACHABLE: Self = Self { kind: 3, code: 2 };
    /// Nobody listens on the port.
    pub const PORT_UNREACHABLE: Self = Self { kind: 3, code: 3 };
    /// Too long, and may not be fragmented; the next hop's MTU is in the low half of the rest
    /// (RFC 1191 section 4).
    pub const FRAGMENTATION_NEEDED: Self = Self { kind: 3, code: 4 };
    /// A policy forbids it (RFC 1812 section 5.2.7.1).
    pub const PROHIBITED: Self = Self { kind: 3, code: 13 };
    /// An echo request.
    pub const ECHO_REQUEST: Self = Self { kind: 8, code: 0 };
    /// No hops left.
    pub const TTL_EXCEEDED: Self = Self { kind: 11, code: 0 };
    /// A fragment never came.
    pub const REASSEMBLY_EXCEEDED: Self = Self { kind: 11, code: 1 };

    /// Reports an error, so must never be answered with one (RFC 1122 section 3.2.2).
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(self.kind, 3 | 4 | 5 | 11 | 12)
    }
}

/// Why bytes are no ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Icmpv4Error {
    /// Fewer than 8 bytes.
    #[error("{0} bytes are too few for an ICMP header")]
    Truncated(usize),
    /// The checksum is wrong.
    #[error("ICMP checksum is wrong")]
    Checksum,
}

/// A message whose header is there.
#[derive(Clone, Copy)]
pub struct Icmpv4View<'a> {
    header: &'a [u8; 8],
    body: &'a [u8],
}

impl<'a> Icmpv4View<'a> {
    /// Checks the length, not the checksum.
    #[inline]
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, Icmpv4Error> {
        match bytes.split_first_chunk() {
            Some((header, body)) => Ok(Self { header, body }),
            None => Err(Icmpv4Error::Truncated(bytes.len())),
        }
    }

    /// Checks length and checksum.
    #[inline]
    pub fn verify(bytes: &'a [u8]) -> Result<Self, Icmpv4Error> {
        let view = Self::parse(bytes)?;
        if Sum::of(bytes).finish() == 0 {
            Ok(view)
        } else {
            Err(Icmpv4Error::Checksum)
        }
    }

    /// Type and code.
    #[inline]
    pub const fn kind(&self) -> Icmpv4Type {
        Icmpv4Type {
            kind: self.header[0],
            code: self.header[1],
        }
    }

    /// The second word: identifier and sequence of an echo, MTU of "fragmentation needed".
    #[inline]
    pub const fn rest(&self) -> u32 {
        u32::from_be_bytes([
            self.header[4],
            self.header[5],
            self.header[6],
            self.header[7],
        ])
    }

    /// The next hop's MTU of "fragmentation needed"; zero from an old router.
    #[inline]
    pub const fn next_hop_mtu(&self) -> u16 {
        self.rest() as u16
    }

    /// What follows the 8 bytes: echo data, or the packet an error is about.
    #[inline]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Writes type, code, the second word and the checksum into `message`, whose body is in place.
#[inline]
pub fn seal(message: &mut [u8], kind: Icmpv4Type, rest: u32) -> Result<(), Icmpv4Error> {
    let have = message.len();
    let header = message
        .first_chunk_mut::<8>()
        .ok_or(Icmpv4Error::Truncated(have))?;
    let [a, b, c, d] = rest.to_be_bytes();
    *header = [kind.kind, kind.code, 0, 0, a, b, c, d];
    let sum = Sum::of(message).finish();
    if let Some(header) = message.first_chunk_mut::<4>() {
        [header[2], header[3]] = sum.to_be_bytes();
    }
    Ok(())
}

/// Turns an echo request into its reply in place; `false`, and nothing changed, for anything else.
#[inline]
pub fn echo_reply(message: &mut [u8]) -> bool {
    match message.first_chunk_mut::<8>() {
        Some([kind @ 8, 0, high, low, ..]) => {
            *kind = 0;
            [*high, *low] =
                checksum::update(u16::from_be_bytes([*high, *low]), 0x0800, 0).to_be_bytes();
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
        let mut message = [0, 0, 0, 0, 0, 0, 0, 0, b'p', b'i', b'n'];
        seal(&mut message, Icmpv4Type::ECHO_REQUEST, 0x1234_0001).unwrap();
        let view = Icmpv4View::verify(&message).unwrap();
        assert_eq!(
            (view.kind(), view.rest(), view.body()),
            (Icmpv4Type::ECHO_REQUEST, 0x1234_0001, &b"pin"[..])
        );
        assert!(echo_reply(&mut message));
        let view = Icmpv4View::verify(&message).unwrap();
        assert_eq!(
            (view.kind(), view.rest(), view.body()),
            (Icmpv4Type::ECHO_REPLY, 0x1234_0001, &b"pin"[..])
        );
        assert!(!echo_reply(&mut message), "a reply is not answered");
        message[9] ^= 1;
        assert_eq!(
            Icmpv4View::verify(&message).err(),
            Some(Icmpv4Error::Checksum)
        );
        assert!(!echo_reply(&mut message[..7]));
        assert_eq!(
            seal(&mut message[..7], Icmpv4Type::ECHO_REQUEST, 0),
            Err(Icmpv4Error::Truncated(7))
        );
    }

    #[test]
    fn errors_are_known_as_such() {
        assert!(Icmpv4Type::FRAGMENTATION_NEEDED.is_error() && Icmpv4Type::TTL_EXCEEDED.is_error());
        assert!(!Icmpv4Type::ECHO_REQUEST.is_error() && !Icmpv4Type::ECHO_REPLY.is_error());
        let mut message = [0; 36];
        seal(&mut message, Icmpv4Type::FRAGMENTATION_NEEDED, 1400).unwrap();
        assert_eq!(Icmpv4View::verify(&message).unwrap().next_hop_mtu(), 1400);
    }
}
