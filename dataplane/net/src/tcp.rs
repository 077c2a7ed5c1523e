//! TCP headers and the maximum segment size option (RFC 9293).
//!
//! The gateway reads ports and flags, and lowers the MSS of a SYN so that full segments fit the
//! tunnel: the option is changed in place and the checksum follows.

use crate::checksum;

/// Why bytes are no TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// Fewer than 20 bytes.
    #[error("{0} bytes are too few for a TCP header")]
    Truncated(usize),
    /// The data offset is below 5 words or over the end of the segment.
    #[error("TCP data offset of {0} words is impossible")]
    DataOffset(u8),
}

/// The flag bits of byte 13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(2);
    /// Reset the connection.
    pub const RST: Self = Self(4);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(16);

    /// All bits of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// A segment whose header, options included, fits the slice.
#[derive(Clone, Copy)]
pub struct TcpView<'a> {
    header: &'a [u8; 20],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Checks the lengths, not the checksum.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        let Some((header, rest)) = bytes.split_first_chunk::<20>() else {
            return Err(TcpError::Truncated(bytes.len()));
        };
        let words = header[12] >> 4;
        match (usize::from(words) * 4)
            .checked_sub(20)
            .and_then(|options| rest.split_at_checked(options))
        {
            Some((options, payload)) => Ok(Self {
                header,
                options,
                payload,
            }),
            None => Err(TcpError::DataOffset(words)),
        }
    }

    /// From which port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// To which port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The sequence number of the first payload byte (of the SYN, if there is one).
    #[inline]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes([
            self.header[4],
            self.header[5],
            self.header[6],
            self.header[7],
        ])
    }

    /// The flags.
    #[inline]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// The options, unparsed.
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What the segment carries.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The maximum segment size option, if there is one.
    #[inline]
    pub fn mss(&self) -> Option<u16> {
        find_mss(self.options).map(|(_, mss)| mss)
    }
}

/// Where in the options the two bytes of the MSS are, and their value.
fn find_mss(options: &[u8]) -> Option<(usize, u16)> {
    let mut at = 0;
    while let Some(rest) = options.get(at..) {
        match *rest {
            // No-operation.
            [1, ..] => at += 1,
            [2, 4, high, low, ..] => return Some((at + 2, u16::from_be_bytes([high, low]))),
            [kind, length, ..] if kind != 0 && kind != 2 && length >= 2 => {
                at += usize::from(length);
            }
            _ => return None,
        }
    }
    None
}

/// Lowers the MSS of a SYN to `max` and mends the checksum; the old value if it was changed.
///
/// `segment` starts at the TCP header. Anything but a SYN with a well-formed MSS option over
/// `max` is left as it is. A SYN without the option is left too: its receiver assumes 536 bytes
/// (1220 for IPv6), which every tunnel carries (RFC 9293 section 3.7.1).
#[inline]
pub fn clamp_mss(segment: &mut [u8], max: u16) -> Option<u16> {
    let view = TcpView::parse(segment).ok()?;
    if !view.flags().contains(TcpFlags::SYN) {
        return None;
    }
    let (at, old) = find_mss(view.options).filter(|(_, mss)| *mss > max)?;
    let at = 20 + at;
    let sum = checksum::update_at(
        u16::from_be_bytes([view.header[16], view.header[17]]),
        at,
        old,
        max,
    );
    *segment.get_mut(at..)?.first_chunk_mut::<2>()? = max.to_be_bytes();
    *segment.get_mut(16..)?.first_chunk_mut::<2>()? = sum.to_be_bytes();
    Some(old)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;
    use crate::Protocol;

    fn pseudo(length: usize) -> checksum::Sum {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        checksum::pseudo_v4(a, b, Protocol::TCP, length as u16)
    }

    fn segment(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0,
        ];
        bytes.extend(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[12] = ((bytes.len() / 4) << 4) as u8;
        bytes.extend(payload);
        let sum = pseudo(bytes.len()).add_bytes(&bytes).finish();
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn syn_is_clamped_and_its_checksum_holds_at_even_and_odd_places() {
        for options in [
            &[2, 4, 5, 0xb4][..],
            &[1, 2, 4, 5, 0xb4, 4, 2],
            &[8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4, 5, 0xb4],
        ] {
            let mut bytes = segment(2, options, b"odd");
            assert_eq!(clamp_mss(&mut bytes, 1360), Some(1460));
            assert_eq!(TcpView::parse(&bytes).unwrap().mss(), Some(1360));
            assert_eq!(pseudo(bytes.len()).add_bytes(&bytes).finish(), 0);
            let before = bytes.clone();
            assert_eq!(clamp_mss(&mut bytes, 1360), None);
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn what_is_no_syn_with_a_good_option_is_left() {
        for (flags, options) in [
            (16, &[2, 4, 5, 0xb4][..]),
            (2, &[]),
            (2, &[2, 3, 5, 0xb4]),
            (2, &[0, 2, 4, 5, 0xb4]),
            (2, &[3, 0, 2, 4, 5, 0xb4]),
            (2, &[3, 200, 2, 4, 5, 0xb4]),
        ] {
            let mut bytes = segment(flags, options, &[]);
            let before = bytes.clone();
            assert_eq!(clamp_mss(&mut bytes, 100), None, "{options:?}");
            assert_eq!(bytes, before);
        }
        assert_eq!(
            TcpView::parse(&[0; 19]).err(),
            Some(TcpError::Truncated(19))
        );
        let mut bytes = segment(2, &[2, 4, 5, 0xb4], &[]);
        assert!(TcpView::parse(&bytes[..20]).is_err());
        bytes[12] = 0x40;
        assert_eq!(TcpView::parse(&bytes).err(), Some(TcpError::DataOffset(4)));
    }

    proptest! {
        #[test]
        fn any_options_end_and_the_checksum_survives(options in proptest::collection::vec(0u8..12, 0..40), max: u16) {
            let mut bytes = segment(2, &options, &[7; 9]);
            let before = TcpView::parse(&bytes).unwrap().mss();
            let changed = clamp_mss(&mut bytes, max);
            prop_assert_eq!(changed, before.filter(|mss| *mss > max));
            prop_assert_eq!(TcpView::parse(&bytes).unwrap().mss(), before.map(|mss| mss.min(max)));
            prop_assert_eq!(pseudo(bytes.len()).add_bytes(&bytes).folded(), 0xffff);
        }
    }
}
