//! The Internet checksum (RFC 1071): whole, incremental (RFC 1624) and with pseudo headers.
//!
//! A [`Sum`] is a running one's-complement sum. It is kept in the machine's own byte order (the
//! sum does not care, RFC 1071 section 2B) and turned round once, in [`Sum::finish`].

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Protocol;

/// A running one's-complement sum of 16-bit words.
///
/// Holds without overflow for more than 2^32 words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self(0)
    }

    /// The sum of `bytes`; an odd last byte counts as if a zero followed it.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self::new().add_bytes(bytes)
    }

    /// Adds `bytes`. Only the last piece of a message may have an odd length.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut total = self.0;
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(total + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one 16-bit field, given as its value.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds one 32-bit field, given as its value.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, value: u32) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// The sum folded to 16 bits, not complemented: what a partial checksum field holds.
    #[inline]
    pub const fn folded(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the folded sum.
    ///
    /// Over a message that contains its own correct checksum the result is 0.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.folded()
    }

    /// The checksum for UDP, where a computed zero is sent as `0xffff` (RFC 768).
    #[inline]
    pub const fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The checksum of a 20-byte IPv4 header; 0 when the header carries a correct one.
#[inline]
pub fn ipv4_header(header: &[u8; 20]) -> u16 {
    let (words, _) = header.as_chunks::<4>();
    let mut total = 0;
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    Sum(total).finish()
}

/// Whether a 20-byte IPv4 header carries a correct checksum. Eight bytes are added at once, and each carry comes in again
/// at the low end; then one half is added to the other until 16 bits are left.
#[inline(always)]
pub fn ipv4_header_holds(header: &[u8; 20]) -> bool {
    let (words, rest) = header.as_chunks::<8>();
    let mut sum = rest
        .first_chunk::<4>()
        .map_or(0, |last| u64::from(u32::from_ne_bytes(*last)));
    for word in words {
        let (next, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
        sum = next + u64::from(carry);
    }
    // The upper half of a sum with its own halves turned round: both halves and the carry.
    let half = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    half.wrapping_add(half.rotate_left(16)) >> 16 == 0xffff
}

/// The checksum after one aligned 16-bit field changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The checksum after an aligned 32-bit field changed from `old` to `new`.
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    let checksum = update(checksum, (old >> 16) as u16, (new >> 16) as u16);
    update(checksum, old as u16, new as u16)
}

/// The checksum after a 16-bit field that starts at byte `at` of the message changed.
///
/// TCP options need not be aligned: at an odd place the field's bytes fall into two words, which
/// in one's-complement arithmetic is the same as the byte-swapped value at an even place.
#[inline]
pub const fn update_at(checksum: u16, at: usize, old: u16, new: u16) -> u16 {
    if at.is_multiple_of(2) {
        update(checksum, old, new)
    } else {
        update(checksum, old.swap_bytes(), new.swap_bytes())
    }
}

/// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1); `length` in bytes.
#[inline]
pub const fn pseudo_v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: Protocol,
    length: u16,
) -> Sum {
    Sum::new()
        .add_u32(u32::from_be_bytes(source.octets()))
        .add_u32(u32::from_be_bytes(destination.octets()))
        .add_u16(protocol.0 as u16)
        .add_u16(length)
}

/// The pseudo header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200 section 8.1); `length` in bytes.
#[inline]
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: Protocol, length: u32) -> Sum {
    Sum::of(&source.octets())
        .add_bytes(&destination.octets())
        .add_u32(length)
        .add_u16(u16::from(protocol.0))
}

/// Why a checksum that the sender left to the hardware could not be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompleteError {
    /// The two bytes of the checksum field are not inside the packet.
    #[error("checksum field at {start} + {offset} is outside of a packet of {length} bytes")]
    FieldOutside {
        /// Where the checksummed part starts.
        start: usize,
        /// Where the field is from there.
        offset: usize,
        /// How long the packet is.
        length: usize,
    },
}

/// Fills in a transport checksum that its sender left to the hardware.
///
/// `start` and `offset` are `csum_start` and `csum_offset` of the kernel's `virtio_net_hdr`: the
/// checksum covers `packet[start..]`, its field is `offset` bytes behind `start` and already
/// holds the folded pseudo-header sum. A result of zero is stored as `0xffff`, as Linux does for
/// every protocol. Cut the packet to its IP length first: link padding must not be covered.
#[inline]
pub fn complete_l4(packet: &mut [u8], start: usize, offset: usize) -> Result<(), CompleteError> {
    let length = packet.len();
    let outside = CompleteError::FieldOutside {
        start,
        offset,
        length,
    };
    let covered = packet.get_mut(start..).ok_or(outside)?;
    let sum = Sum::of(covered).finish_nonzero();
    let field = covered
        .get_mut(offset..)
        .and_then(<[u8]>::first_chunk_mut::<2>)
        .ok_or(outside)?;
    *field = sum.to_be_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word with the carry added at once.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), 0xddf2);
        assert_eq!(Sum::of(&bytes).finish(), 0x220d);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: header 0xDD2F, 0x5555 becomes 0x3285, and the sum is 0x0000 (not 0xffff).
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    /// Sums with every pattern of carries, and each right header with every bit of it turned round.
    #[test]
    fn a_header_holds_where_its_sum_is_zero() {
        const ENDS: [u32; 5] = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        for number in 0..5usize.pow(5) {
            let mut header = [0; 20];
            for (place, word) in header.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = ENDS[number / 5usize.pow(place as u32) % 5].to_ne_bytes();
            }
            assert_eq!(
                ipv4_header_holds(&header),
                ipv4_header(&header) == 0,
                "{header:x?}"
            );
            header[10..12].fill(0);
            let right = ipv4_header(&header).to_be_bytes();
            header[10..12].copy_from_slice(&right);
            // Nothing but zeros has the sum of ones, which no header does.
            assert_eq!(ipv4_header_holds(&header), ipv4_header(&header) == 0);
            for bit in 0..160 {
                let mut wrong = header;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(ipv4_header_holds(&wrong), slow(&wrong) == 0);
            }
        }
    }

    #[test]
    fn zero_is_sent_as_ones_where_zero_means_none() {
        assert_eq!(Sum::new().add_u16(0xffff).finish(), 0);
        assert_eq!(Sum::new().add_u16(0xffff).finish_nonzero(), 0xffff);
        assert_eq!(Sum::new().add_u16(0xfffe).finish_nonzero(), 1);
    }

    #[test]
    fn partial_checksum_bounds() {
        let mut packet = [0; 10];
        assert_eq!(complete_l4(&mut packet, 4, 4), Ok(()));
        for (start, offset) in [(4, 5), (11, 0), (10, 0), (usize::MAX, 1), (1, usize::MAX)] {
            let outside = CompleteError::FieldOutside {
                start,
                offset,
                length: 10,
            };
            assert_eq!(complete_l4(&mut packet, start, offset), Err(outside));
        }
    }

    proptest! {
        #[test]
        fn sum_is_the_slow_one(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cut: usize) {
            prop_assert_eq!(Sum::of(&bytes).finish(), slow(&bytes));
            let cut = (cut % (bytes.len() + 1)) & !1;
            prop_assert_eq!(Sum::of(&bytes[..cut]).add_bytes(&bytes[cut..]).finish(), slow(&bytes));
        }

        #[test]
        fn fields_count_as_their_bytes(a: u16, b: u32) {
            let bytes = [&a.to_be_bytes()[..], &b.to_be_bytes()].concat();
            prop_assert_eq!(Sum::new().add_u16(a).add_u32(b).finish(), slow(&bytes));
        }

        #[test]
        fn incremental_update_is_the_full_one(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64), at: usize, new: u16,
        ) {
            let before = Sum::of(&bytes).finish();
            let at = at % (bytes.len() - 1);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let updated = update_at(before, at, old, new);
            let full = Sum::of(&bytes).finish();
            // Both zeros of one's complement mean the same sum.
            prop_assert!(updated == full || (updated ^ full == 0xffff && (full == 0 || full == 0xffff)));
        }

        #[test]
        fn ipv4_header_is_the_slow_one(header: [u8; 20]) {
            prop_assert_eq!(ipv4_header(&header), slow(&header));
        }

        #[test]
        fn partial_checksum_completes(
            segment in proptest::collection::vec(any::<u8>(), 18..1500), a: u32, b: u32, front in 0usize..60, odd: bool,
        ) {
            let field = if odd { 6 } else { 16 };
            let pseudo = pseudo_v4(a.into(), b.into(), Protocol::UDP, segment.len() as u16);
            let mut packet = vec![0x5a; front];
            packet.extend(&segment);
            packet[front + field..front + field + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
            complete_l4(&mut packet, front, field).unwrap();
            let mut whole = [a.to_be_bytes(), b.to_be_bytes()].concat();
            whole.extend([0, 17]);
            whole.extend((segment.len() as u16).to_be_bytes());
            whole.extend(&packet[front..]);
            prop_assert_eq!(slow(&whole), 0);
            prop_assert!(packet[front + field..front + field + 2] != [0, 0]);
        }

        #[test]
        fn pseudo_header_v6_is_the_rfcs(a: u128, b: u128, length: u32) {
            let mut whole = [a.to_be_bytes(), b.to_be_bytes()].concat();
            whole.extend(length.to_be_bytes());
            whole.extend([0, 0, 0, 58]);
            prop_assert_eq!(pseudo_v6(a.into(), b.into(), Protocol::ICMPV6, length).finish(), slow(&whole));
        }
    }
}
