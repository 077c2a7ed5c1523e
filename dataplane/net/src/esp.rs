//! The ESP header (RFC 4303 section 2) and the trailer inside the ciphertext.
//!
//! ```text
//! | SPI 4 | sequence 4 | IV | payload ... | padding 1 2 3 ... | pad length 1 | next 1 | ICV |
//!   `----- header ----'      `------------ encrypted -----------------------'
//! ```
//!
//! How long IV, padding and ICV are is the cipher suite's business (`culvert-crypto`).

use crate::Protocol;

/// Why bytes are no ESP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EspError {
    /// Fewer than 8 bytes.
    #[error("{0} bytes are too few for an ESP header")]
    Truncated(usize),
    /// The decrypted trailer's pad length runs over the front of the payload.
    #[error("pad length {pad} does not fit a plaintext of {have} bytes")]
    PadLength {
        /// What the trailer says.
        pad: u8,
        /// How long the plaintext is.
        have: usize,
    },
    /// The padding is not 1, 2, 3 ... (RFC 4303 section 2.4).
    #[error("ESP padding is not 1, 2, 3 ...")]
    Padding,
}

/// SPI and sequence number as they stand on the wire.
///
/// The SPI is raw: a hostile packet may carry a reserved one, which no table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspHeader {
    /// Security parameters index.
    pub spi: u32,
    /// The low half of the sequence number.
    pub sequence: u32,
}

impl EspHeader {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// Reads the header at the front of `bytes`.
    #[inline]
    pub const fn parse(bytes: &[u8]) -> Result<Self, EspError> {
        match bytes.first_chunk::<8>() {
            Some(&[a, b, c, d, e, f, g, h]) => Ok(Self {
                spi: u32::from_be_bytes([a, b, c, d]),
                sequence: u32::from_be_bytes([e, f, g, h]),
            }),
            None => Err(EspError::Truncated(bytes.len())),
        }
    }

    /// Fills the header.
    #[inline]
    pub const fn write(&self, to: &mut [u8; Self::LEN]) {
        *to = ((self.spi as u64) << 32 | self.sequence as u64).to_be_bytes();
    }
}

/// Padding bytes 1, 2, 3 ... 255, to copy from and compare with.
const PADDING: [u8; 255] = {
    let mut bytes = [0; 255];
    let mut at = 0;
    while at < 255 {
        bytes[at] = at as u8 + 1;
        at += 1;
    }
    bytes
};

/// Padding of 0 to 3 bytes, pad length and next header, at the front of eight bytes: one store, whatever the length. What
/// is behind them is zero. `pad` is taken modulo 4.
#[inline(always)]
pub const fn short_trailer(pad: usize, next: Protocol) -> [u8; 8] {
    const PADS: [u64; 4] = [0, 0x0101, 0x02_0201, 0x0303_0201];
    let pad = pad & 3;
    (PADS[pad] | (next.0 as u64) << (8 * (pad + 1))).to_le_bytes()
}

/// Writes padding, pad length and next header into `to`, which is exactly as long as they are:
/// two bytes and the padding. More than 257 bytes, or fewer than two, are refused.
#[inline]
pub fn write_trailer(to: &mut [u8], next: Protocol) -> Result<(), EspError> {
    let have = to.len();
    match to {
        // What a suite with a block of 4 bytes ever needs, without a loop.
        [pad, last] => [*pad, *last] = [0, next.0],
        [a, pad, last] => [*a, *pad, *last] = [1, 1, next.0],
        [a, b, pad, last] => [*a, *b, *pad, *last] = [1, 2, 2, next.0],
        [a, b, c, pad, last] => [*a, *b, *c, *pad, *last] = [1, 2, 3, 3, next.0],
        [padding @ .., pad, last] => {
            let from = PADDING
                .get(..padding.len())
                .ok_or(EspError::PadLength { pad: u8::MAX, have })?;
            padding.copy_from_slice(from);
            [*pad, *last] = [from.len() as u8, next.0];
        }
        _ => return Err(EspError::PadLength { pad: 0, have }),
    }
    Ok(())
}

/// Reads the trailer of a decrypted payload: what it carries and how long that is.
///
/// The padding is compared as RFC 4303 section 2.4 asks of a receiver.
#[inline]
pub fn read_trailer(plaintext: &[u8]) -> Result<(Protocol, usize), EspError> {
    let have = plaintext.len();
    let Some((rest, &[pad, next])) = plaintext.split_last_chunk::<2>() else {
        return Err(EspError::PadLength { pad: 0, have });
    };
    let Some(length) = rest.len().checked_sub(usize::from(pad)) else {
        return Err(EspError::PadLength { pad, have });
    };
    let padding = rest.get(length..).unwrap_or_default();
    if padding
        .iter()
        .zip(&PADDING)
        .all(|(have, want)| have == want)
    {
        Ok((Protocol(next), length))
    } else {
        Err(EspError::Padding)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_comes_back() {
        let header = EspHeader {
            spi: 0xc123_4567,
            sequence: 0x89ab_cdef,
        };
        let mut bytes = [0; 9];
        header.write(bytes.first_chunk_mut().unwrap());
        assert_eq!(bytes[..8], [0xc1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(EspHeader::parse(&bytes), Ok(header));
        assert_eq!(EspHeader::parse(&bytes[..7]), Err(EspError::Truncated(7)));
    }

    #[test]
    fn short_trailers_are_what_long_ones_are() {
        for pad in 0..4 {
            let mut trailer = vec![0; pad + 2];
            write_trailer(&mut trailer, Protocol::IPV6).unwrap();
            trailer.resize(8, 0);
            assert_eq!(short_trailer(pad, Protocol::IPV6)[..], trailer);
        }
    }

    #[test]
    fn trailer_bounds() {
        assert_eq!(
            read_trailer(&[]),
            Err(EspError::PadLength { pad: 0, have: 0 })
        );
        assert_eq!(
            read_trailer(&[4]),
            Err(EspError::PadLength { pad: 0, have: 1 })
        );
        assert_eq!(read_trailer(&[0, 4]), Ok((Protocol::IPV4, 0)));
        assert_eq!(read_trailer(&[1, 1, 4]), Ok((Protocol::IPV4, 0)));
        assert_eq!(read_trailer(&[1, 2, 2, 41]), Ok((Protocol::IPV6, 0)));
        assert_eq!(read_trailer(&[1, 3, 2, 41]), Err(EspError::Padding));
        assert_eq!(
            read_trailer(&[1, 2, 4]),
            Err(EspError::PadLength { pad: 2, have: 3 })
        );
        assert!(write_trailer(&mut [0; 1], Protocol::IPV4).is_err());
        assert!(write_trailer(&mut [0; 257], Protocol::IPV4).is_ok());
        assert!(write_trailer(&mut [0; 258], Protocol::IPV4).is_err());
    }

    proptest! {
        #[test]
        fn trailer_comes_back_and_any_changed_padding_is_seen(
            payload in proptest::collection::vec(any::<u8>(), 0..64), pad in 0usize..=255, next: u8, at: usize, flip in 1u8..,
        ) {
            let mut bytes = payload.clone();
            bytes.resize(payload.len() + pad + 2, 0);
            write_trailer(&mut bytes[payload.len()..], Protocol(next)).unwrap();
            prop_assert_eq!(read_trailer(&bytes), Ok((Protocol(next), payload.len())));
            if pad > 0 {
                bytes[payload.len() + at % pad] ^= flip;
                prop_assert_eq!(read_trailer(&bytes), Err(EspError::Padding));
            }
        }
    }
}
