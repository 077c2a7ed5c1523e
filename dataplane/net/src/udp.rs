//! UDP (RFC 768) and the ESP-in-UDP encapsulation's marker (RFC 3948).

use crate::checksum::Sum;

/// Why bytes are no UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// Fewer than 8 bytes.
    #[error("{0} bytes are too few for a UDP header")]
    Truncated(usize),
    /// The length field is below 8 or more than what arrived.
    #[error("UDP length {length} does not fit {have} bytes")]
    Length {
        /// What the header says.
        length: u16,
        /// What is there.
        have: usize,
    },
}

/// A UDP header by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// From which port.
    pub source: u16,
    /// To which port.
    pub destination: u16,
    /// Header and payload, in bytes.
    pub length: u16,
    /// The checksum; zero for none (UDP-encapsulated ESP sends none: RFC 3948 section 2.1,
    /// for IPv6 RFC 6935).
    pub checksum: u16,
}

impl UdpHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// Fills the header.
    #[inline]
    pub const fn write(&self, to: &mut [u8; Self::LEN]) {
        let [a, b] = self.source.to_be_bytes();
        let [c, d] = self.destination.to_be_bytes();
        let [e, f] = self.length.to_be_bytes();
        let [g, h] = self.checksum.to_be_bytes();
        *to = [a, b, c, d, e, f, g, h];
    }
}

/// A datagram whose length fits the slice; what lies behind it is cut off.
#[derive(Clone, Copy)]
pub struct UdpView<'a> {
    header: UdpHeader,
    datagram: &'a [u8],
    payload: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Checks the lengths, not the checksum.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UdpError> {
        let Some(&[a, b, c, d, e, f, g, h]) = bytes.first_chunk::<8>() else {
            return Err(UdpError::Truncated(bytes.len()));
        };
        let length = u16::from_be_bytes([e, f]);
        let wrong = UdpError::Length {
            length,
            have: bytes.len(),
        };
        let datagram = bytes.get(..usize::from(length)).ok_or(wrong)?;
        let payload = datagram.get(8..).ok_or(wrong)?;
        let header = UdpHeader {
            source: u16::from_be_bytes([a, b]),
            destination: u16::from_be_bytes([c, d]),
            length,
            checksum: u16::from_be_bytes([g, h]),
        };
        Ok(Self {
            header,
            datagram,
            payload,
        })
    }

    /// The header by value.
    #[inline]
    pub const fn header(&self) -> UdpHeader {
        self.header
    }

    /// From which port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        self.header.source
    }

    /// To which port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        self.header.destination
    }

    /// What the datagram carries.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum holds; `pseudo` from [`checksum::pseudo_v4`](crate::checksum::pseudo_v4)
    /// or its sibling, with this datagram's length. A field of zero means none and holds.
    #[inline]
    pub fn checksum_holds(&self, pseudo: Sum) -> bool {
        self.header.checksum == 0 || pseudo.add_bytes(self.datagram).finish() == 0
    }
}

/// What a datagram on port 4500 is (RFC 3948 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatTraversal<'a> {
    /// One byte `0xff`: keeps a NAT mapping alive, to be dropped.
    Keepalive,
    /// IKE behind the four zero bytes of the non-ESP marker.
    Ike(&'a [u8]),
    /// ESP, from its header on.
    Esp(&'a [u8]),
    /// Too short for any of them.
    Malformed,
}

impl<'a> NatTraversal<'a> {
    /// Tells them apart; `payload` is what the datagram carries.
    #[inline]
    pub const fn of(payload: &'a [u8]) -> Self {
        match payload.split_first_chunk::<4>() {
            Some(([0, 0, 0, 0], ike)) => Self::Ike(ike),
            Some(_) if payload.len() >= 8 => Self::Esp(payload),
            None => match payload {
                [0xff] => Self::Keepalive,
                _ => Self::Malformed,
            },
            Some(_) => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn header_comes_back_and_lengths_are_checked() {
        let header = UdpHeader {
            source: 500,
            destination: 4500,
            length: 11,
            checksum: 0xbeef,
        };
        let mut bytes = [0xaa; 14];
        header.write(bytes.first_chunk_mut().unwrap());
        let view = UdpView::parse(&bytes).unwrap();
        assert_eq!((view.header(), view.payload()), (header, &[0xaa; 3][..]));
        assert_eq!(
            UdpView::parse(&bytes[..10]).err(),
            Some(UdpError::Length {
                length: 11,
                have: 10
            })
        );
        assert_eq!(
            UdpView::parse(&bytes[..7]).err(),
            Some(UdpError::Truncated(7))
        );
        bytes[5] = 7;
        assert_eq!(
            UdpView::parse(&bytes).err(),
            Some(UdpError::Length {
                length: 7,
                have: 14
            })
        );
    }

    #[test]
    fn port_4500_is_told_apart() {
        assert_eq!(NatTraversal::of(&[0xff]), NatTraversal::Keepalive);
        assert_eq!(NatTraversal::of(&[0xfe]), NatTraversal::Malformed);
        assert_eq!(NatTraversal::of(&[]), NatTraversal::Malformed);
        assert_eq!(NatTraversal::of(&[0, 0, 0, 0, 1]), NatTraversal::Ike(&[1]));
        assert_eq!(NatTraversal::of(&[0, 0, 1, 0, 1]), NatTraversal::Malformed);
        let esp = [0, 0, 1, 0, 0, 0, 0, 1, 9];
        assert_eq!(NatTraversal::of(&esp), NatTraversal::Esp(&esp));
    }
}
