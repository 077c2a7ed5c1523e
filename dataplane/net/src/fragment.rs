//! Fragments: how an IP packet is cut, and where a fragment belongs (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! ```text
//!   | header | payload .................. |          MTU
//!   | header | 8n bytes |  | header | 8n bytes |  | header | rest |
//! ```
//!
//! A fragment may be cut again: offsets add up, and the last piece of a middle fragment is no last fragment.

use crate::{Ipv4Header, Ipv4View, Ipv6Fragment, Ipv6Header, Ipv6View, Protocol, checksum};

/// Bytes of the longest IPv4 header.
const HEADER4_MAX: usize = 60;
/// Bytes of fragment header and IPv6 header before a fragment's payload.
const HEADER6: usize = Ipv6Header::LEN + Ipv6Fragment::LEN;

/// Why a packet cannot be cut, or a fragment be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// Not an IP packet, or an IPv6 packet with extension headers that each fragment would have to repeat.
    #[error("the packet has no header that fragments could have")]
    Header,
    /// An MTU that leaves no room for 8 bytes behind the header.
    #[error("an MTU of {0} bytes holds no fragment")]
    Mtu(u16),
    /// Not the last fragment, and its payload is not made of whole units of 8 bytes; or it has none at all.
    #[error("a fragment of {0} bytes")]
    Length(usize),
    /// It ends behind byte 65,535 of the packet.
    #[error("a fragment that ends at byte {0}")]
    Beyond(usize),
}

/// One fragment of a cut: which bytes of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin.
    pub start: usize,
    /// How many they are.
    pub length: usize,
    /// The payload ends with them.
    pub last: bool,
}

/// The pieces of a payload: the first of at most `first` bytes, the others of at most `others`.
fn pieces(payload: usize, first: usize, others: usize) -> impl Iterator<Item = Piece> + Clone {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = payload - start;
        let room = if start == 0 { first } else { others };
        let piece = Piece {
            start,
            length: left.min(room),
            last: left <= room,
        };
        start += piece.length;
        (piece.length > 0).then_some(piece)
    })
}

/// Whole units of 8 bytes that fit behind a header.
fn room(mtu: u16, header: usize) -> Result<usize, FragmentError> {
    match usize::from(mtu).saturating_sub(header) & !7 {
        0 => Err(FragmentError::Mtu(mtu)),
        room => Ok(room),
    }
}

/// How an IPv4 packet is cut.
#[derive(Clone)]
pub struct Ipv4Cut<'a> {
    view: Ipv4View<'a>,
    /// Of every fragment but the first: only options with the copied flag (RFC 791 section 3.1).
    later: [u8; HEADER4_MAX],
    later_len: usize,
    first: usize,
    others: usize,
}

impl<'a> Ipv4Cut<'a> {
    /// Cuts a packet into fragments of at most `mtu` bytes. Whether it may be cut (its DF bit) is the caller's matter.
    pub fn new(packet: &'a [u8], mtu: u16) -> Result<Self, FragmentError> {
        let view = Ipv4View::parse(packet).map_err(|_| FragmentError::Header)?;
        let end = usize::from(view.fragment_offset()) + view.payload().len();
        if end > usize::from(u16::MAX) {
            return Err(FragmentError::Beyond(end));
        }
        let mut later = [0; HEADER4_MAX];
        let mut later_len = Ipv4Header::LEN;
        let fixed = packet
            .first_chunk::<{ Ipv4Header::LEN }>()
            .ok_or(FragmentError::Header)?;
        later[..Ipv4Header::LEN].copy_from_slice(fixed);
        let mut options = view.options();
        while let Some((&kind, rest)) = options.split_first() {
            let length = match kind {
                0 => break,
                1 => 1,
                _ => rest.first().map_or(0, |length| usize::from(*length)),
            };
            // An option that runs over the header ends them.
            let Some((option, more)) = options.split_at_checked(length).filter(|_| length > 0)
            else {
                break;
            };
            if kind & 0x80 != 0
                && let Some(to) = later.get_mut(later_len..later_len + length)
            {
                to.copy_from_slice(option);
                later_len += length;
            }
            options = more;
        }
        let later_len = later_len.next_multiple_of(4).min(HEADER4_MAX);
        Ok(Self {
            first: room(mtu, view.header_len())?,
            others: room(mtu, later_len)?,
            view,
            later,
            later_len,
        })
    }

    /// The fragments, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + use<> {
        pieces(self.view.payload().len(), self.first, self.others)
    }

    /// Writes one fragment into `to` and gives its length; `None` when `to` is too short.
    pub fn write(&self, packet: &[u8], piece: Piece, to: &mut [u8]) -> Option<usize> {
        let header = if piece.start == 0 {
            packet.get(..self.view.header_len())?
        } else {
            self.later.get(..self.later_len)?
        };
        let payload = self
            .view
            .payload()
            .get(piece.start..piece.start + piece.length)?;
        let total = header.len() + payload.len();
        let to = to.get_mut(..total)?;
        let (head, body) = to.split_at_mut(header.len());
        head.copy_from_slice(header);
        body.copy_from_slice(payload);
        let offset = self.view.fragment_offset() + piece.start as u16;
        let more = self.view.more_fragments() || !piece.last;
        let fixed = head.first_chunk_mut::<{ Ipv4Header::LEN }>()?;
        fixed[0] = 0x40 | (header.len() / 4) as u8;
        [fixed[2], fixed[3]] = (total as u16).to_be_bytes();
        let flag = if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
        let word = (offset / 8) | flag;
        [fixed[6], fixed[7]] = word.to_be_bytes();
        [fixed[10], fixed[11]] = [0; 2];
        let sum = checksum::Sum::of(head).finish();
        head.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
        Some(total)
    }
}

/// How an IPv6 packet is cut, by the node that sends it: nobody else may.
#[derive(Clone)]
pub struct Ipv6Cut<'a> {
    view: Ipv6View<'a>,
    identification: u32,
    room: usize,
}

impl<'a> Ipv6Cut<'a> {
    /// Cuts a packet without extension headers before its payload into fragments of at most `mtu` bytes.
    pub fn new(packet: &'a [u8], mtu: u16, identification: u32) -> Result<Self, FragmentError> {
        let view = Ipv6View::parse(packet).map_err(|_| FragmentError::Header)?;
        if matches!(
            view.next_header(),
            Protocol::HOP_BY_HOP | Protocol::ROUTING | Protocol::FRAGMENT
        ) {
            return Err(FragmentError::Header);
        }
        Ok(Self {
            view,
            identification,
            room: room(mtu, HEADER6)?,
        })
    }

    /// The fragments, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + use<> {
        pieces(self.view.payload().len(), self.room, self.room)
    }

    /// Writes one fragment into `to` and gives its length; `None` when `to` is too short.
    pub fn write(&self, piece: Piece, to: &mut [u8]) -> Option<usize> {
        let payload = self
            .view
            .payload()
            .get(piece.start..piece.start + piece.length)?;
        let total = HEADER6 + payload.len();
        let (ip, rest) = to.get_mut(..total)?.split_first_chunk_mut()?;
        let (fragment, body) = rest.split_first_chunk_mut()?;
        Ipv6Header {
            payload_len: (Ipv6Fragment::LEN + payload.len()) as u16,
            next_header: Protocol::FRAGMENT,
            ..self.view.to_header()
        }
        .write(ip);
        Ipv6Fragment {
            offset: piece.start as u16,
            more: !piece.last,
            identification: self.identification,
        }
        .write(self.view.next_header(), fragment);
        body.copy_from_slice(payload);
        Some(total)
    }
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where its payload begins in the packet's, in bytes.
    pub offset: u16,
    /// Bytes of its payload.
    pub length: u16,
    /// More fragments follow.
    pub more: bool,
    /// Which packet it is part of.
    pub identification: u32,
    /// What the packet carries: of IPv6, what the fragment header says.
    pub protocol: Protocol,
    /// Bytes before the payload: headers, and of IPv6 the fragment header at their end.
    pub header: u16,
}

impl Place {
    /// Of an IPv4 fragment.
    pub fn of_ipv4(packet: &[u8]) -> Result<Self, FragmentError> {
        let view = Ipv4View::parse(packet).map_err(|_| FragmentError::Header)?;
        Self {
            offset: view.fragment_offset(),
            length: view.payload().len() as u16,
            more: view.more_fragments(),
            identification: view.identification().into(),
            protocol: view.protocol(),
            header: view.header_len() as u16,
        }
        .checked()
    }

    /// Of an IPv6 fragment: the first fragment header counts, whatever it carries.
    pub fn of_ipv6(packet: &[u8]) -> Result<Self, FragmentError> {
        let view = Ipv6View::parse(packet).map_err(|_| FragmentError::Header)?;
        let (mut next, mut rest) = (view.next_header(), view.payload());
        let mut header = Ipv6Header::LEN;
        loop {
            let [following, words, o0, o1, a, b, c, d] =
                *rest.first_chunk().ok_or(FragmentError::Header)?;
            let length = match next {
                Protocol::FRAGMENT => {
                    let word = u16::from_be_bytes([o0, o1]);
                    let payload = rest.get(Ipv6Fragment::LEN..).unwrap_or_default();
                    return Self {
                        offset: word & 0xfff8,
                        length: payload.len() as u16,
                        more: word & 1 != 0,
                        identification: u32::from_be_bytes([a, b, c, d]),
                        protocol: Protocol(following),
                        header: (header + Ipv6Fragment::LEN) as u16,
                    }
                    .checked();
                }
                Protocol::HOP_BY_HOP | Protocol::ROUTING | Protocol::DESTINATION_OPTIONS => {
                    usize::from(words) * 8 + 8
                }
                _ => return Err(FragmentError::Header),
            };
            rest = rest.get(length..).ok_or(FragmentError::Header)?;
            header += length;
            next = Protocol(following);
        }
    }

    /// Byte of the packet's payload behind the fragment's.
    pub fn end(&self) -> usize {
        usize::from(self.offset) + usize::from(self.length)
    }

    fn checked(self) -> Result<Self, FragmentError> {
        if self.length == 0 || self.more && !self.length.is_multiple_of(8) {
            Err(FragmentError::Length(self.length.into()))
        } else if self.end() > usize::from(u16::MAX) {
            Err(FragmentError::Beyond(self.end()))
        } else {
            Ok(self)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn packet4(options: &[u8], payload: &[u8], flags_fragment: u16) -> Vec<u8> {
        let header = Ipv4Header {
            traffic_class: 0xb9,
            total_len: (20 + options.len() + payload.len()) as u16,
            identification: 0x1234,
            flags_fragment,
            ttl: 63,
            protocol: Protocol::UDP,
            source: [10, 1, 0, 2].into(),
            destination: [10, 2, 0, 2].into(),
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = 0x40 | (5 + options.len() / 4) as u8;
        bytes.extend(options);
        bytes[10..12].fill(0);
        let sum = checksum::Sum::of(&bytes).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn cut4(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let cut = Ipv4Cut::new(packet, mtu).unwrap();
        cut.pieces()
            .map(|piece| {
                let mut to = vec![0; usize::from(mtu)];
                let length = cut.write(packet, piece, &mut to).unwrap();
                to.truncate(length);
                to
            })
            .collect()
    }

    #[test]
    fn options_without_the_copied_flag_stay_in_the_first_fragment() {
        // Record route (7, not copied), no-operation, loose source route (131, copied).
        let options = [7, 3, 4, 1, 131, 7, 4, 1, 2, 3, 4, 0];
        let packet = packet4(&options, &[7; 100], 0);
        let fragments = cut4(&packet, 72);
        let first = Ipv4View::verify(&fragments[0]).unwrap();
        assert_eq!(first.options(), options);
        for later in &fragments[1..] {
            let view = Ipv4View::verify(later).unwrap();
            assert_eq!(view.options(), [131, 7, 4, 1, 2, 3, 4, 0]);
        }
    }

    #[test]
    fn a_fragment_that_ends_beyond_any_packet_is_not_cut() {
        let packet = packet4(&[], &[0; 100], 0x1ff8);
        assert_eq!(
            Ipv4Cut::new(&packet, 68).err(),
            Some(FragmentError::Beyond(0x1ff8 * 8 + 100))
        );
    }

    #[test]
    fn an_mtu_without_room_is_refused() {
        let packet = packet4(&[], &[0; 100], 0);
        assert_eq!(
            Ipv4Cut::new(&packet, 27).err(),
            Some(FragmentError::Mtu(27))
        );
        assert!(Ipv4Cut::new(&packet, 28).is_ok());
    }

    proptest! {
        #[test]
        fn ipv4_fragments_make_the_packet_again(
            payload in prop::collection::vec(any::<u8>(), 1..4000),
            words in 0usize..=10,
            mtu in 96u16..1600,
            before in 0u16..1000,
            more: bool,
        ) {
            let word = before | if more { Ipv4Header::MORE_FRAGMENTS } else { 0 };
            let packet = packet4(&vec![1; words * 4], &payload, word);
            let mut made = Vec::new();
            let fragments = cut4(&packet, mtu);
            for (number, fragment) in fragments.iter().enumerate() {
                prop_assert!(fragment.len() <= usize::from(mtu));
                let view = Ipv4View::verify(fragment).unwrap();
                prop_assert_eq!((view.identification(), view.ttl(), view.traffic_class()), (0x1234, 63, 0xb9));
                prop_assert_eq!(usize::from(view.fragment_offset()), usize::from(before) * 8 + made.len());
                let last = number + 1 == fragments.len();
                prop_assert_eq!(view.more_fragments(), more || !last);
                prop_assert!(last || view.payload().len().is_multiple_of(8));
                made.extend_from_slice(view.payload());
            }
            prop_assert_eq!(made, payload);
        }

        #[test]
        fn ipv6_fragments_make_the_packet_again(payload in prop::collection::vec(any::<u8>(), 1..4000), mtu in 1280u16..1600, id: u32) {
            let header = Ipv6Header {
                traffic_class: 3,
                flow_label: 0xabcde,
                payload_len: payload.len() as u16,
                next_header: Protocol::ESP,
                hop_limit: 64,
                source: [1; 16].into(),
                destination: [2; 16].into(),
            };
            let mut packet = header.to_bytes().to_vec();
            packet.extend(&payload);
            let cut = Ipv6Cut::new(&packet, mtu, id).unwrap();
            let mut made = Vec::new();
            for piece in cut.pieces() {
                let mut to = vec![0; usize::from(mtu)];
                let length = cut.write(piece, &mut to).unwrap();
                let fragment = &to[..length];
                let place = Place::of_ipv6(fragment).unwrap();
                prop_assert_eq!(usize::from(place.offset), made.len());
                prop_assert_eq!((place.identification, place.protocol, place.header), (id, Protocol::ESP, 48));
                prop_assert_eq!(place.more, !piece.last);
                made.extend_from_slice(&fragment[48..]);
            }
            prop_assert_eq!(made, payload);
        }

        #[test]
        fn any_bytes_have_a_place_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for place in [Place::of_ipv4(&bytes), Place::of_ipv6(&bytes)].into_iter().flatten() {
                prop_assert!(usize::from(place.header) + usize::from(place.length) <= bytes.len());
            }
        }
    }
}
