//! IPv6 headers and extension headers (RFC 8200).
//!
//! ```text
//! | version 4 bits, class 8 bits, flow 20 bits | payload length 2 | next 1 | hops 1 |
//! | source 16 | destination 16 |
//! ```

use std::net::Ipv6Addr;

use crate::Protocol;

/// Why bytes are no IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv6Error {
    /// Fewer than the 40 bytes of the header.
    #[error("{0} bytes are too few for an IPv6 header")]
    Truncated(usize),
    /// The version nibble is not 6.
    #[error("IP version {0} is not 6")]
    Version(u8),
    /// The payload length is more than what arrived.
    #[error("IPv6 payload length {payload} does not fit {have} bytes")]
    PayloadLength {
        /// What the header says.
        payload: u16,
        /// What is there behind the header.
        have: usize,
    },
    /// An extension header runs over the end of the packet.
    #[error("IPv6 extension header {0} runs over the end of the packet")]
    Extension(Protocol),
    /// More extension headers than anybody needs.
    #[error("more than {MAX_EXTENSIONS} IPv6 extension headers")]
    TooManyExtensions,
}

/// How many extension headers are walked before a packet is refused.
///
/// RFC 8200 section 4.1 lists six, of which one may come twice.
pub const MAX_EXTENSIONS: usize = 8;

/// A packet whose header is there and whose payload length fits the slice. What lies behind the
/// payload (link padding) is cut off. A payload length of zero is an empty payload: jumbograms
/// (RFC 2675) do not exist on links of ours.
#[derive(Clone, Copy)]
pub struct Ipv6View<'a> {
    header: &'a [u8; 40],
    payload: &'a [u8],
}

impl<'a> Ipv6View<'a> {
    /// Checks version and length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let Some((header, rest)) = bytes.split_first_chunk::<40>() else {
            return Err(Ipv6Error::Truncated(bytes.len()));
        };
        if header[0] >> 4 != 6 {
            return Err(Ipv6Error::Version(header[0] >> 4));
        }
        let length = u16::from_be_bytes([header[4], header[5]]);
        match rest.get(..usize::from(length)) {
            Some(payload) => Ok(Self { header, payload }),
            None => Err(Ipv6Error::PayloadLength {
                payload: length,
                have: rest.len(),
            }),
        }
    }

    /// Traffic class: DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// The flow label, 20 bits.
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Bytes behind the header.
    #[inline]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Bytes of the whole packet, header included.
    #[inline]
    pub const fn total_len(&self) -> usize {
        40 + self.payload.len()
    }

    /// What comes first behind the header: a transport or an extension header.
    #[inline]
    pub const fn next_header(&self) -> Protocol {
        Protocol(self.header[6])
    }

    /// Hops left.
    #[inline]
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// From whom.
    #[inline]
    pub const fn source(&self) -> Ipv6Addr {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.header;
        match rest.first_chunk::<16>() {
            Some(octets) => Ipv6Addr::from_octets(*octets),
            None => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// To whom.
    #[inline]
    pub const fn destination(&self) -> Ipv6Addr {
        match self.header.last_chunk::<16>() {
            Some(octets) => Ipv6Addr::from_octets(*octets),
            None => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// What is behind the header, extension headers included.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks the extension headers to what the packet carries.
    #[inline]
    pub fn upper_layer(&self) -> Result<UpperLayer<'a>, Ipv6Error> {
        match self.next_header() {
            next @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6 | Protocol::ESP) => {
                Ok(UpperLayer {
                    protocol: next,
                    offset: 0,
                    payload: self.payload,
                    fragment: None,
                    hop_by_hop: false,
                })
            }
            next => walk(next, self.payload),
        }
    }

    /// The header by value.
    pub const fn to_header(&self) -> Ipv6Header {
        Ipv6Header {
            traffic_class: self.traffic_class(),
            flow_label: self.flow_label(),
            payload_len: self.payload_len(),
            next_header: self.next_header(),
            hop_limit: self.hop_limit(),
            source: self.source(),
            destination: self.destination(),
        }
    }
}

/// What stands behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer<'a> {
    /// The transport; for a fragment that is not the first, what its first one carries.
    pub protocol: Protocol,
    /// Bytes of extension headers before it.
    pub offset: usize,
    /// From the transport's header on (in a later fragment: a piece of its middle).
    pub payload: &'a [u8],
    /// The fragment header, if there is one. An "atomic" fragment (RFC 6946) has offset 0 and no
    /// more to come: it is a whole packet.
    pub fragment: Option<Ipv6Fragment>,
    /// There are hop-by-hop options.
    pub hop_by_hop: bool,
}

impl UpperLayer<'_> {
    /// The transport's header is there: not a later fragment.
    #[inline]
    pub fn has_transport_header(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0)
    }
}

/// The fields of a fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// Where this fragment's payload belongs, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Which packet it is part of.
    pub identification: u32,
}

impl Ipv6Fragment {
    /// Bytes of a fragment header.
    pub const LEN: usize = 8;

    /// Reads the second pair of bytes, offset and flag, and the identification behind it.
    #[inline]
    const fn read(offset: [u8; 2], identification: [u8; 4]) -> Self {
        let word = u16::from_be_bytes(offset);
        Self {
            offset: word & 0xfff8,
            more: word & 1 == 1,
            identification: u32::from_be_bytes(identification),
        }
    }

    /// Fills the header; `next` is what the first fragment's payload begins with.
    #[inline]
    pub const fn write(&self, next: Protocol, to: &mut [u8; Self::LEN]) {
        let [o0, o1] = ((self.offset & 0xfff8) | self.more as u16).to_be_bytes();
        let [a, b, c, d] = self.identification.to_be_bytes();
        *to = [next.0, 0, o0, o1, a, b, c, d];
    }
}

/// A place in the chain of headers of an IPv6 packet: where a header stands, or could be put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderPlace {
    /// Offset, from the start of the packet, of the byte that names this header.
    pub named_at: usize,
    /// Offset, from the start of the packet, of the header itself.
    pub offset: usize,
    /// What it is.
    pub protocol: Protocol,
    /// The fragment header that was passed, if there was one.
    pub fragment: Option<Ipv6Fragment>,
}

impl HeaderPlace {
    /// Walks from the front of `packet` over every extension header of which `passes` (told its protocol and offset)
    /// says that it stays behind. Lengths are held against `packet` alone, not against its payload length.
    pub fn find(
        packet: &[u8],
        mut passes: impl FnMut(Protocol, usize) -> bool,
    ) -> Result<Self, Ipv6Error> {
        let first = packet.get(6).ok_or(Ipv6Error::Truncated(packet.len()))?;
        let mut place = Self {
            named_at: 6,
            offset: Ipv6Header::LEN,
            protocol: Protocol(*first),
            fragment: None,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let overrun = Ipv6Error::Extension(place.protocol);
            let header = packet.get(place.offset..).ok_or(overrun)?;
            if !is_extension(place.protocol) || !passes(place.protocol, place.offset) {
                return Ok(place);
            }
            let length = extension_len(place.protocol, header).ok_or(overrun)?;
            let header = header.get(..length).ok_or(overrun)?;
            let [next, _, o0, o1, a, b, c, d] = *header.first_chunk::<8>().ok_or(overrun)?;
            if place.protocol == Protocol::FRAGMENT {
                place.fragment = Some(Ipv6Fragment::read([o0, o1], [a, b, c, d]));
            }
            place.protocol = Protocol(next);
            place.named_at = place.offset;
            place.offset += header.len();
            if place.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return Ok(place);
            }
        }
        Err(Ipv6Error::TooManyExtensions)
    }

    /// Where ESP of transport mode goes (RFC 4303 section 3.1.1): behind what is read on the way, which is hop-by-hop
    /// options, destination options ahead of a routing header, routing and fragment headers. Destination options
    /// behind a routing or fragment header are for the receiver alone and are encrypted; without either of them they
    /// stay outside, as Linux does it.
    pub fn of_transport_esp(packet: &[u8]) -> Result<Self, Ipv6Error> {
        let mut routed = false;
        Self::find(packet, |protocol, _| match protocol {
            Protocol::HOP_BY_HOP => true,
            Protocol::ROUTING | Protocol::FRAGMENT => {
                routed = true;
                true
            }
            Protocol::DESTINATION_OPTIONS => !routed,
            _ => false,
        })
    }
}

/// Whether a header is an extension header: something stands behind it.
const fn is_extension(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::HOP_BY_HOP
            | Protocol::ROUTING
            | Protocol::DESTINATION_OPTIONS
            | Protocol::MOBILITY
            | Protocol::HIP
            | Protocol::SHIM6
            | Protocol::FRAGMENT
            | Protocol::AH
    )
}

/// Bytes of an extension header; `None` if it is too short to tell.
fn extension_len(protocol: Protocol, header: &[u8]) -> Option<usize> {
    let units = header.get(1).copied().map(usize::from)?;
    Some(match protocol {
        Protocol::FRAGMENT => Ipv6Fragment::LEN,
        // RFC 4302 section 2.2: in units of 4 bytes, minus 2.
        Protocol::AH => units * 4 + 8,
        _ => units * 8 + 8,
    })
}

fn walk(first: Protocol, payload: &[u8]) -> Result<UpperLayer<'_>, Ipv6Error> {
    let mut layer = UpperLayer {
        protocol: first,
        offset: 0,
        payload,
        fragment: None,
        hop_by_hop: false,
    };
    for _ in 0..=MAX_EXTENSIONS {
        if !layer.has_transport_header() {
            return Ok(layer);
        }
        if !is_extension(layer.protocol) {
            return Ok(layer);
        }
        let length = extension_len(layer.protocol, layer.payload);
        let overrun = Ipv6Error::Extension(layer.protocol);
        let (header, rest) = layer
            .payload
            .split_at_checked(length.ok_or(overrun)?)
            .ok_or(overrun)?;
        let [next, _, o0, o1, a, b, c, d] = *header.first_chunk::<8>().ok_or(overrun)?;
        match layer.protocol {
            Protocol::HOP_BY_HOP => layer.hop_by_hop = true,
            Protocol::FRAGMENT => {
                layer.fragment = Some(Ipv6Fragment::read([o0, o1], [a, b, c, d]));
            }
            _ => {}
        }
        layer.protocol = Protocol(next);
        layer.offset += header.len();
        layer.payload = rest;
    }
    Err(Ipv6Error::TooManyExtensions)
}

/// A header that is changed in place. IPv6 has no header checksum.
///
/// Nothing is checked again: parse the packet first.
pub struct Ipv6Mut<'a> {
    header: &'a mut [u8; 40],
}

impl<'a> Ipv6Mut<'a> {
    /// The header at the front of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a mut [u8]) -> Result<Self, Ipv6Error> {
        let have = bytes.len();
        match bytes.first_chunk_mut() {
            Some(header) => Ok(Self { header }),
            None => Err(Ipv6Error::Truncated(have)),
        }
    }

    /// The header itself.
    #[inline]
    pub const fn from_array(header: &'a mut [u8; 40]) -> Self {
        Self { header }
    }

    /// One hop less, and how many are left: `None`, and nothing changed, when none was.
    #[inline]
    pub const fn decrement_hop_limit(&mut self) -> Option<u8> {
        match self.header[7].checked_sub(1) {
            Some(left) => {
                self.header[7] = left;
                Some(left)
            }
            None => None,
        }
    }

    /// Sets how many hops are left.
    #[inline]
    pub const fn set_hop_limit(&mut self, hops: u8) {
        self.header[7] = hops;
    }

    /// Sets DSCP and ECN together.
    #[inline]
    pub const fn set_traffic_class(&mut self, class: u8) {
        self.header[0] = 0x60 | class >> 4;
        self.header[1] = class << 4 | self.header[1] & 0x0f;
    }

    /// Sets the number of bytes behind the header.
    #[inline]
    pub const fn set_payload_len(&mut self, bytes: u16) {
        [self.header[4], self.header[5]] = bytes.to_be_bytes();
    }

    /// Sets what comes first behind the header.
    #[inline]
    pub const fn set_next_header(&mut self, next: Protocol) {
        self.header[6] = next.0;
    }
}

/// A header by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits; higher bits are ignored.
    pub flow_label: u32,
    /// Bytes behind the header.
    pub payload_len: u16,
    /// What comes first behind it.
    pub next_header: Protocol,
    /// Hops.
    pub hop_limit: u8,
    /// From whom.
    pub source: Ipv6Addr,
    /// To whom.
    pub destination: Ipv6Addr,
}

impl Ipv6Header {
    /// Bytes of the header.
    pub const LEN: usize = 40;

    /// Fills the header.
    #[inline]
    pub fn write(&self, to: &mut [u8; Self::LEN]) {
        *to = self.to_bytes();
    }

    /// The header as bytes, for an outer header that is kept with its SA.
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&first.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        bytes[6] = self.next_header.0;
        bytes[7] = self.hop_limit;
        bytes[8..24].copy_from_slice(&self.source.octets());
        bytes[24..].copy_from_slice(&self.destination.octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn packet(next: Protocol, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 0xb8,
            flow_label: 0xf_1234,
            payload_len: payload.len() as u16,
            next_header: next,
            hop_limit: 64,
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8:0:1::2".parse().unwrap(),
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(payload);
        let view = Ipv6View::parse(&bytes).unwrap();
        assert_eq!(view.to_header(), header);
        assert_eq!(
            bytes[..8],
            [0x6b, 0x8f, 0x12, 0x34, 0, payload.len() as u8, next.0, 64]
        );
        bytes
    }

    #[test]
    fn header_fields_are_where_the_rfc_says() {
        let mut bytes = packet(Protocol::UDP, &[1, 2, 3]);
        bytes.push(0xee);
        let view = Ipv6View::parse(&bytes).unwrap();
        assert_eq!(view.payload(), [1, 2, 3], "link padding is no payload");
        assert_eq!(
            Ipv6View::parse(&bytes[..42]).err(),
            Some(Ipv6Error::PayloadLength {
                payload: 3,
                have: 2
            })
        );
        assert_eq!(
            Ipv6View::parse(&bytes[..39]).err(),
            Some(Ipv6Error::Truncated(39))
        );
        let mut edit = Ipv6Mut::new(&mut bytes).unwrap();
        edit.set_traffic_class(0x01);
        edit.set_payload_len(2);
        edit.set_hop_limit(1);
        assert_eq!(
            (edit.decrement_hop_limit(), edit.decrement_hop_limit()),
            (Some(0), None)
        );
        let view = Ipv6View::parse(&bytes).unwrap();
        assert_eq!(
            (view.traffic_class(), view.flow_label(), view.payload()),
            (1, 0xf_1234, &[1, 2][..])
        );
        bytes[0] = 0x45;
        assert_eq!(Ipv6View::parse(&bytes).err(), Some(Ipv6Error::Version(4)));
    }

    #[test]
    fn extension_headers_are_walked_to_the_transport() {
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([17, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef]);
        payload.extend([9, 9, 9, 9]);
        let bytes = packet(Protocol::HOP_BY_HOP, &payload);
        let layer = Ipv6View::parse(&bytes).unwrap().upper_layer().unwrap();
        assert_eq!(
            (layer.protocol, layer.offset, layer.hop_by_hop),
            (Protocol::UDP, 32, true)
        );
        assert_eq!(layer.payload, [9, 9, 9, 9]);
        assert_eq!(
            layer.fragment,
            Some(Ipv6Fragment {
                offset: 0,
                more: true,
                identification: 0xdead_beef
            })
        );
        assert!(layer.has_transport_header());
        for cut in 0..32 {
            let bytes = packet(Protocol::HOP_BY_HOP, &payload[..cut]);
            assert!(
                matches!(
                    Ipv6View::parse(&bytes).unwrap().upper_layer(),
                    Err(Ipv6Error::Extension(_))
                ),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn later_fragment_is_not_read_as_headers() {
        let mut header = [0; 8];
        Ipv6Fragment {
            offset: 1480,
            more: false,
            identification: 7,
        }
        .write(Protocol::DESTINATION_OPTIONS, &mut header);
        let mut payload = header.to_vec();
        payload.extend([0xff; 4]);
        let bytes = packet(Protocol::FRAGMENT, &payload);
        let layer = Ipv6View::parse(&bytes).unwrap().upper_layer().unwrap();
        assert_eq!(
            (layer.protocol, layer.payload),
            (Protocol::DESTINATION_OPTIONS, &[0xff; 4][..])
        );
        assert!(!layer.has_transport_header());
        assert_eq!(layer.fragment.unwrap().offset, 1480);
    }

    #[test]
    fn transport_esp_goes_behind_what_is_read_on_the_way() {
        let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let place = |chain: &[u8]| {
            let mut payload = Vec::new();
            for (at, _) in chain.iter().enumerate() {
                payload.extend(options(chain.get(at + 1).copied().unwrap_or(6)));
            }
            payload.extend([7; 20]);
            let first = chain.first().copied().unwrap_or(6);
            HeaderPlace::of_transport_esp(&packet(Protocol(first), &payload)).unwrap()
        };
        // 0 hop-by-hop, 60 destination options, 43 routing; the fragment header here is no atomic one but goes the same.
        for (chain, headers, next) in [
            (&[][..], 0, 6),
            (&[0], 1, 6),
            (&[60], 1, 6),
            (&[43], 1, 6),
            (&[43, 60], 1, 60),
            (&[0, 60, 43], 3, 6),
            (&[0, 60, 43, 60], 3, 60),
            (&[51], 0, 51),
        ] {
            let found = place(chain);
            assert_eq!(
                (found.offset, found.protocol),
                (40 + 8 * headers, Protocol(next)),
                "{chain:?}"
            );
            let named_at = if headers == 0 {
                6
            } else {
                40 + 8 * (headers - 1)
            };
            assert_eq!(found.named_at, named_at, "{chain:?}");
        }
        let fragment = place(&[44, 60]);
        assert_eq!((fragment.offset, fragment.protocol), (48, Protocol(60)));
        assert!(fragment.fragment.is_some());
        let cut = packet(Protocol::ROUTING, &[6, 9, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            HeaderPlace::of_transport_esp(&cut),
            Err(Ipv6Error::Extension(Protocol::ROUTING))
        );
    }

    #[test]
    fn endless_chain_is_refused() {
        let mut payload = Vec::new();
        for _ in 0..MAX_EXTENSIONS {
            payload.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        }
        let chain = |last: u8| {
            let mut payload = payload.clone();
            payload[MAX_EXTENSIONS * 8 - 8] = last;
            payload.extend([59, 0, 1, 4, 0, 0, 0, 0]);
            let bytes = packet(Protocol::DESTINATION_OPTIONS, &payload);
            Ipv6View::parse(&bytes)
                .unwrap()
                .upper_layer()
                .map(|layer| layer.protocol)
        };
        assert_eq!(chain(17), Ok(Protocol::UDP));
        assert_eq!(chain(60), Err(Ipv6Error::TooManyExtensions));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u16..160, next in 0u8..62,
        ) {
            if let Some(header) = bytes.first_chunk_mut::<40>() {
                header[0] = 0x60;
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header[6] = next;
            }
            if let Ok(place) = HeaderPlace::of_transport_esp(&bytes) {
                prop_assert!(place.named_at < place.offset && place.offset <= bytes.len());
                prop_assert_eq!(bytes[place.named_at], place.protocol.0);
            }
            if let Ok(view) = Ipv6View::parse(&bytes) && let Ok(layer) = view.upper_layer() {
                    prop_assert_eq!(layer.offset + layer.payload.len(), view.payload().len());
            }
        }
    }
}
