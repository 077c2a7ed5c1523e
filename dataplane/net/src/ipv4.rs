//! IPv4 headers (RFC 791).
//!
//! ```text
//! | ver/ihl 1 | dscp/ecn 1 | total length 2 | id 2 | flags/fragment 2 |
//! | ttl 1 | protocol 1 | checksum 2 | source 4 | destination 4 | options 0-40 |
//! ```

use std::net::Ipv4Addr;

use crate::{Protocol, checksum};

/// Why bytes are no IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4Error {
    /// Fewer than the 20 bytes of the shortest header.
    #[error("{0} bytes are too few for an IPv4 header")]
    Truncated(usize),
    /// The version nibble is not 4.
    #[error("IP version {0} is not 4")]
    Version(u8),
    /// The header length is below 5 words or runs over the total length.
    #[error("IPv4 header length of {0} words is impossible")]
    HeaderLength(u8),
    /// The total length is more than what arrived, or less than the header.
    #[error("IPv4 total length {total} does not fit {have} bytes")]
    TotalLength {
        /// What the header says.
        total: u16,
        /// What is there.
        have: usize,
    },
    /// The header checksum is wrong (only from [`Ipv4View::verify`]).
    #[error("IPv4 header checksum is wrong")]
    Checksum,
}

/// A packet whose lengths all hold: version 4, header inside the total length, total length
/// inside the slice. What lies behind the total length (link padding) is cut off.
#[derive(Clone, Copy)]
pub struct Ipv4View<'a> {
    header: &'a [u8; 20],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Checks version and lengths, not the checksum.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let Some(header) = bytes.first_chunk::<20>() else {
            return Err(Ipv4Error::Truncated(bytes.len()));
        };
        let version_ihl = header[0];
        if version_ihl >> 4 != 4 {
            return Err(Ipv4Error::Version(version_ihl >> 4));
        }
        let ihl = version_ihl & 0x0f;
        let header_len = usize::from(ihl) * 4;
        if header_len < 20 {
            return Err(Ipv4Error::HeaderLength(ihl));
        }
        let total = u16::from_be_bytes([header[2], header[3]]);
        let Some(packet) = bytes.get(..usize::from(total)) else {
            return Err(Ipv4Error::TotalLength {
                total,
                have: bytes.len(),
            });
        };
        let (Some(options), Some(payload)) = (packet.get(20..header_len), packet.get(header_len..))
        else {
            return Err(if packet.len() < 20 {
                Ipv4Error::TotalLength {
                    total,
                    have: bytes.len(),
                }
            } else {
                Ipv4Error::HeaderLength(ihl)
            });
        };
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// Like [`parse`](Self::parse), and the header checksum must hold.
    #[inline]
    pub fn verify(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let view = Self::parse(bytes)?;
        let right = if view.options.is_empty() {
            checksum::ipv4_header(view.header) == 0
        } else {
            checksum::Sum::of(view.header)
                .add_bytes(view.options)
                .finish()
                == 0
        };
        if right {
            Ok(view)
        } else {
            Err(Ipv4Error::Checksum)
        }
    }

    /// Bytes of the header with its options: 20 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        20 + self.options.len()
    }

    /// Bytes of the whole packet.
    #[inline]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// DSCP and ECN together, as they stand in the second byte (RFC 2474, RFC 3168).
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        self.header[1]
    }

    /// The identification of a fragmented packet.
    #[inline]
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// The sender forbids fragmentation.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.header[6] & 0x40 != 0
    }

    /// More fragments follow.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.header[6] & 0x20 != 0
    }

    /// Where this fragment's payload belongs, in bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6] & 0x1f, self.header[7]]) << 3
    }

    /// Part of a fragmented packet, the first part included.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.header[6] & 0x3f, self.header[7]]) != 0
    }

    /// Hops left.
    #[inline]
    pub const fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// What the payload is.
    #[inline]
    pub const fn protocol(&self) -> Protocol {
        Protocol(self.header[9])
    }

    /// The header checksum as it stands.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    /// From whom.
    #[inline]
    pub const fn source(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// To whom.
    #[inline]
    pub const fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// The options, 0 to 40 bytes, unparsed.
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What the packet carries, up to the total length.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header by value, options left out.
    pub const fn to_header(&self) -> Ipv4Header {
        Ipv4Header {
            traffic_class: self.traffic_class(),
            total_len: self.total_len(),
            identification: self.identification(),
            flags_fragment: u16::from_be_bytes([self.header[6], self.header[7]]),
            ttl: self.ttl(),
            protocol: self.protocol(),
            source: self.source(),
            destination: self.destination(),
        }
    }
}

/// A header that is changed in place; the checksum follows by RFC 1624.
///
/// Nothing is checked again: parse the packet first.
pub struct Ipv4Mut<'a> {
    header: &'a mut [u8; 20],
}

impl<'a> Ipv4Mut<'a> {
    /// The header at the front of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a mut [u8]) -> Result<Self, Ipv4Error> {
        let have = bytes.len();
        match bytes.first_chunk_mut() {
            Some(header) => Ok(Self { header }),
            None => Err(Ipv4Error::Truncated(have)),
        }
    }

    /// The header itself.
    #[inline]
    pub const fn from_array(header: &'a mut [u8; 20]) -> Self {
        Self { header }
    }

    #[inline]
    const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    #[inline]
    const fn set_checksum(&mut self, value: u16) {
        [self.header[10], self.header[11]] = value.to_be_bytes();
    }

    /// One hop less, and how many are left: `None`, and nothing changed, when none was.
    #[inline]
    pub const fn decrement_ttl(&mut self) -> Option<u8> {
        let ttl = self.header[8];
        if ttl == 0 {
            return None;
        }
        self.header[8] = ttl - 1;
        // RFC 1624, equation 3: the sum of the word's complement and the new word is the same for every TTL.
        let sum = !self.checksum() as u32 + 0xfeff;
        self.set_checksum(!((sum & 0xffff) + (sum >> 16)) as u16);
        Some(ttl - 1)
    }

    /// Sets how many hops are left.
    #[inline]
    pub const fn set_ttl(&mut self, ttl: u8) {
        let protocol = self.header[9];
        let old = u16::from_be_bytes([self.header[8], protocol]);
        let new = u16::from_be_bytes([ttl, protocol]);
        self.header[8] = ttl;
        self.set_checksum(checksum::update(self.checksum(), old, new));
    }

    /// Sets DSCP and ECN together.
    #[inline]
    pub const fn set_traffic_class(&mut self, value: u8) {
        let first = self.header[0];
        let old = u16::from_be_bytes([first, self.header[1]]);
        let new = u16::from_be_bytes([first, value]);
        self.header[1] = value;
        self.set_checksum(checksum::update(self.checksum(), old, new));
    }

    /// Sets total length and identification: what differs from packet to packet in an outer
    /// header that is otherwise copied from its SA.
    #[inline]
    pub const fn set_length_and_id(&mut self, total_len: u16, identification: u16) {
        let old = u32::from_be_bytes([
            self.header[2],
            self.header[3],
            self.header[4],
            self.header[5],
        ]);
        let new = (total_len as u32) << 16 | identification as u32;
        [
            self.header[2],
            self.header[3],
            self.header[4],
            self.header[5],
        ] = new.to_be_bytes();
        self.set_checksum(checksum::update_u32(self.checksum(), old, new));
    }

    /// Sets flags and fragment offset as they stand on the wire.
    #[inline]
    pub const fn set_flags_fragment(&mut self, value: u16) {
        let old = u16::from_be_bytes([self.header[6], self.header[7]]);
        [self.header[6], self.header[7]] = value.to_be_bytes();
        self.set_checksum(checksum::update(self.checksum(), old, value));
    }

    /// Sets the source; checksums of the transport are the caller's.
    #[inline]
    pub const fn set_source(&mut self, address: Ipv4Addr) {
        let old = u32::from_be_bytes([
            self.header[12],
            self.header[13],
            self.header[14],
            self.header[15],
        ]);
        [
            self.header[12],
            self.header[13],
            self.header[14],
            self.header[15],
        ] = address.octets();
        self.set_checksum(checksum::update_u32(
            self.checksum(),
            old,
            address.to_bits(),
        ));
    }

    /// Sets the destination; checksums of the transport are the caller's.
    #[inline]
    pub const fn set_destination(&mut self, address: Ipv4Addr) {
        let old = u32::from_be_bytes([
            self.header[16],
            self.header[17],
            self.header[18],
            self.header[19],
        ]);
        [
            self.header[16],
            self.header[17],
            self.header[18],
            self.header[19],
        ] = address.octets();
        self.set_checksum(checksum::update_u32(
            self.checksum(),
            old,
            address.to_bits(),
        ));
    }
}

/// A header without options, by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Header and payload, in bytes.
    pub total_len: u16,
    /// Identification.
    pub identification: u16,
    /// Flags (`0x4000` DF, `0x2000` MF) and fragment offset in units of 8 bytes.
    pub flags_fragment: u16,
    /// Hops.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// From whom.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
}

impl Ipv4Header {
    /// Bytes of a header without options.
    pub const LEN: usize = 20;
    /// The flag "don't fragment" in `flags_fragment`.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The flag "more fragments" in `flags_fragment`.
    pub const MORE_FRAGMENTS: u16 = 0x2000;

    /// Fills the header, checksum included.
    #[inline]
    pub fn write(&self, to: &mut [u8; Self::LEN]) {
        let first = 0x4500_0000 | u32::from(self.traffic_class) << 16 | u32::from(self.total_len);
        let second = u32::from(self.identification) << 16 | u32::from(self.flags_fragment);
        let third = u32::from(self.ttl) << 24 | u32::from(self.protocol.0) << 16;
        let (source, destination) = (self.source.to_bits(), self.destination.to_bits());
        let sum = checksum::Sum::new()
            .add_u32(first)
            .add_u32(second)
            .add_u32(third)
            .add_u32(source)
            .add_u32(destination);
        let words = [
            first,
            second,
            third | u32::from(sum.finish()),
            source,
            destination,
        ];
        let (to, _) = to.as_chunks_mut::<4>();
        for (to, word) in to.iter_mut().zip(words) {
            *to = word.to_be_bytes();
        }
    }

    /// The header as bytes, for an outer header that is kept with its SA.
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        self.write(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    /// The example header of RFC 1071's many explanations: checksum b861.
    const KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];

    fn header() -> impl Strategy<Value = Ipv4Header> {
        (
            any::<[u8; 3]>(),
            any::<[u16; 2]>(),
            any::<[u32; 2]>(),
            20u16..2000,
        )
            .prop_map(|(bytes, words, addresses, len)| Ipv4Header {
                traffic_class: bytes[0],
                total_len: len,
                identification: words[0],
                flags_fragment: words[1],
                ttl: bytes[1],
                protocol: Protocol(bytes[2]),
                source: addresses[0].into(),
                destination: addresses[1].into(),
            })
    }

    #[test]
    fn known_header_is_written_and_verified() {
        let header = Ipv4Header {
            traffic_class: 0,
            total_len: 0x73,
            identification: 0,
            flags_fragment: Ipv4Header::DONT_FRAGMENT,
            ttl: 64,
            protocol: Protocol::UDP,
            source: Ipv4Addr::new(192, 168, 0, 1),
            destination: Ipv4Addr::new(192, 168, 0, 199),
        };
        assert_eq!(header.to_bytes(), KNOWN);
        let mut packet = KNOWN.to_vec();
        packet.resize(0x73 + 7, 0xee);
        let view = Ipv4View::verify(&packet).unwrap();
        assert_eq!(view.to_header(), header);
        assert_eq!(
            view.payload().len(),
            0x73 - 20,
            "link padding is no payload"
        );
        assert!(view.dont_fragment() && !view.is_fragment());
        packet[8] -= 1;
        assert_eq!(Ipv4View::verify(&packet).err(), Some(Ipv4Error::Checksum));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let mut packet = KNOWN.to_vec();
        packet.resize(0x73, 0);
        assert_eq!(
            Ipv4View::parse(&packet[..0x72]).err(),
            Some(Ipv4Error::TotalLength {
                total: 0x73,
                have: 0x72
            })
        );
        assert_eq!(
            Ipv4View::parse(&packet[..19]).err(),
            Some(Ipv4Error::Truncated(19))
        );
        packet[0] = 0x44;
        assert_eq!(
            Ipv4View::parse(&packet).err(),
            Some(Ipv4Error::HeaderLength(4))
        );
        packet[0] = 0x65;
        assert_eq!(Ipv4View::parse(&packet).err(), Some(Ipv4Error::Version(6)));
        packet[0] = 0x4f;
        packet[3] = 59;
        assert_eq!(
            Ipv4View::parse(&packet).err(),
            Some(Ipv4Error::HeaderLength(15))
        );
        packet[3] = 60;
        assert_eq!(Ipv4View::parse(&packet).unwrap().options().len(), 40);
        packet[0] = 0x45;
        packet[3] = 19;
        assert_eq!(
            Ipv4View::parse(&packet).err(),
            Some(Ipv4Error::TotalLength {
                total: 19,
                have: 0x73
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), first in 0x40u8..0x50) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() { *byte = first; }
            if let Ok(view) = Ipv4View::parse(&bytes) {
                prop_assert_eq!(view.header_len() + view.payload().len(), usize::from(view.total_len()));
                prop_assert!(usize::from(view.total_len()) <= bytes.len());
            }
        }

        #[test]
        fn every_setter_keeps_the_checksum(
            header in header(), ttl: u8, class: u8, length in 20u16..2000, id: u16, flags: u16, addresses: [u32; 2],
        ) {
            let mut packet = header.to_bytes().to_vec();
            packet.resize(2000, 0);
            let mut edit = Ipv4Mut::new(&mut packet).unwrap();
            edit.set_ttl(ttl);
            edit.set_traffic_class(class);
            edit.set_length_and_id(length, id);
            edit.set_flags_fragment(flags);
            edit.set_source(addresses[0].into());
            edit.set_destination(addresses[1].into());
            let left = edit.decrement_ttl();
            prop_assert_eq!(left, ttl.checked_sub(1));
            let view = Ipv4View::verify(&packet).unwrap();
            prop_assert_eq!(view.to_header(), Ipv4Header {
                traffic_class: class, total_len: length, identification: id, flags_fragment: flags,
                ttl: ttl.saturating_sub(1), protocol: header.protocol,
                source: addresses[0].into(), destination: addresses[1].into(),
            });
            prop_assert_eq!(usize::from(view.fragment_offset()), usize::from(flags & 0x1fff) * 8);
            prop_assert_eq!(view.is_fragment(), flags & 0x3fff != 0);
        }
    }
}
