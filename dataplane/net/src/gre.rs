//! The GRE header (RFC 2784, RFC 2890).
//!
//! ```text
//! | C 0 K S 0000 0000 0 version 3 bits | protocol 2 | checksum 2, 0 2 if C | key 4 if K | sequence 4 if S |
//! ```

use crate::EtherType;
use crate::checksum::Sum;

/// Why bytes are no GRE packet that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreError {
    /// Shorter than the header says.
    #[error("{0} bytes are too few for the GRE header")]
    Truncated(usize),
    /// Another version, or bits that RFC 2784 section 2.3 says to discard.
    #[error("GRE flags and version {0:#06x} are not known")]
    Unknown(u16),
    /// The checksum is there and wrong.
    #[error("the GRE checksum is wrong")]
    Checksum,
}

/// What a GRE header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreHeader {
    /// What is inside.
    pub protocol: EtherType,
    /// Tells apart several tunnels between the same two ends.
    pub key: Option<u32>,
}

/// There is a checksum.
const CHECKSUM: u16 = 0x8000;
/// There is a key.
const KEY: u16 = 0x2000;
/// There is a sequence number.
const SEQUENCE: u16 = 0x1000;

impl GreHeader {
    /// Bytes of the longest header that is written.
    pub const MAX: usize = 8;

    /// Reads the header of a whole GRE packet; gives its length, too. A checksum must be right; a sequence number is
    /// passed over, for who does not ask for order takes packets as they come.
    pub fn parse(packet: &[u8]) -> Result<(Self, usize), GreError> {
        let truncated = GreError::Truncated(packet.len());
        let &[f0, f1, p0, p1] = packet.first_chunk::<4>().ok_or(truncated)?;
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
            return Err(GreError::Unknown(flags));
        }
        let mut length = 4;
        if flags & CHECKSUM != 0 {
            length += 4;
        }
        let key = if flags & KEY == 0 {
            None
        } else {
            let key = packet.get(length..).and_then(<[u8]>::first_chunk::<4>);
            length += 4;
            Some(u32::from_be_bytes(*key.ok_or(truncated)?))
        };
        if flags & SEQUENCE != 0 {
            length += 4;
        }
        if packet.len() < length {
            return Err(truncated);
        }
        // The sum of all, its own field included, is zero.
        if flags & CHECKSUM != 0 && Sum::of(packet).finish() != 0 {
            return Err(GreError::Checksum);
        }
        let protocol = EtherType(u16::from_be_bytes([p0, p1]));
        Ok((Self { protocol, key }, length))
    }

    /// The key of a GRE packet, whatever else is right or wrong in it.
    pub fn key_of(packet: &[u8]) -> Option<u32> {
        let flags = u16::from_be_bytes(*packet.first_chunk()?);
        let at = if flags & CHECKSUM == 0 { 4 } else { 8 };
        let key = packet.get(at..)?.first_chunk()?;
        (flags & KEY != 0).then(|| u32::from_be_bytes(*key))
    }

    /// Bytes of the header as it is written: without checksum and sequence number.
    pub const fn len(&self) -> usize {
        Self::len_with(self.key)
    }

    /// Bytes of a header with this key or none.
    pub const fn len_with(key: Option<u32>) -> usize {
        if key.is_some() { 8 } else { 4 }
    }

    /// A header always has bytes.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header to the front of `to`; `None` if that is too short.
    pub fn write(&self, to: &mut [u8]) -> Option<()> {
        let flags = if self.key.is_some() { KEY } else { 0 };
        let (front, rest) = to.split_first_chunk_mut::<4>()?;
        let ([f0, f1], [p0, p1]) = (flags.to_be_bytes(), self.protocol.0.to_be_bytes());
        *front = [f0, f1, p0, p1];
        if let Some(key) = self.key {
            *rest.first_chunk_mut()? = key.to_be_bytes();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_combination_of_fields_is_read() {
        let plain = [0, 0, 8, 0, 9, 9];
        let ipv4 = |key| GreHeader {
            protocol: EtherType::IPV4,
            key,
        };
        assert_eq!(GreHeader::parse(&plain), Ok((ipv4(None), 4)));
        let keyed = [0x20, 0, 0x86, 0xdd, 1, 2, 3, 4];
        let (header, length) = GreHeader::parse(&keyed).unwrap();
        assert_eq!(
            (header.protocol, header.key, length),
            (EtherType::IPV6, Some(0x0102_0304), 8)
        );
        let sequenced = [0x30, 0, 8, 0, 0, 0, 0, 7, 0, 0, 0, 1, 9];
        assert_eq!(GreHeader::parse(&sequenced), Ok((ipv4(Some(7)), 12)));
        let mut summed = vec![0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 9, 8, 7];
        let sum = Sum::of(&summed).finish();
        summed[4..6].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(GreHeader::parse(&summed), Ok((ipv4(Some(7)), 16)));
        for at in 4..summed.len() {
            let mut bad = summed.clone();
            bad[at] ^= 4;
            assert_eq!(GreHeader::parse(&bad), Err(GreError::Checksum));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        // Version 1 (PPTP), routing (RFC 1701), strict source route, recursion.
        for flags in [0x0001, 0x4000, 0x0800, 0x0700, 0x0080] {
            let [a, b] = u16::to_be_bytes(flags);
            let error = GreHeader::parse(&[a, b, 8, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(error, Err(GreError::Unknown(flags)));
        }
        for (bytes, length) in [(&[0, 0, 8][..], 3), (&[0x20, 0, 8, 0, 1, 2, 3], 7)] {
            assert_eq!(GreHeader::parse(bytes), Err(GreError::Truncated(length)));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(protocol: u16, key: Option<u32>, payload: Vec<u8>) {
            let header = GreHeader { protocol: EtherType(protocol), key };
            let mut bytes = vec![0xee; header.len()];
            header.write(&mut bytes).unwrap();
            bytes.extend(payload);
            prop_assert_eq!(GreHeader::parse(&bytes), Ok((header, header.len())));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((_, length)) = GreHeader::parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
