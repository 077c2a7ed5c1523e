//! ESP in transport mode (RFC 4303 section 3.1.1): the packet keeps its IP header, and only what is behind it is
//! encrypted.
//!
//! ```text
//!   before:  | IP header, IPv6: extension headers | TCP, GRE ... |
//!   after:   | IP header, IPv6: extension headers | UDP? | SPI seq | IV | TCP, GRE ... | trailer | ICV |
//!              protocol, length, checksum mended    ^ put in here       ^ stays where it is in the buffer
//! ```
//!
//! Of IPv6 extension headers those stay outside that are read on the way ([`HeaderPlace::of_transport_esp`]). What is
//! cut is the ESP packet, never what goes into it. Behind a NAT (RFC 3948 section 3.1.2) the checksums of TCP and UDP
//! are of other addresses: they are made anew, which takes nothing away, for the ICV has vouched for every byte.

use std::net::IpAddr;

use culvert_crypto::SealOp;
use culvert_net::{HeaderPlace, Ipv4View, Ipv6View, Protocol, UdpHeader, checksum, esp};

use crate::buffer::{BufferPool, Metadata, Packet, flags};
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::nodes::esp_encrypt::OF_INNER;
use crate::sa::{Endpoints, Sa};

/// Whether a packet may travel in transport mode: whole, and between the SA's own two addresses.
pub(super) fn admit(endpoints: &Endpoints, data: &[u8]) -> Result<(), DropReason> {
    let bad = DropReason::EspBadInner;
    let (source, destination, fragment): (IpAddr, IpAddr, bool) =
        if data.first().is_some_and(|byte| byte >> 4 == 6) {
            let view = Ipv6View::parse(data).map_err(|_| bad)?;
            let fragment = view.upper_layer().map_err(|_| bad)?.fragment;
            (
                view.source().into(),
                view.destination().into(),
                fragment.is_some_and(|fragment| fragment.more || fragment.offset != 0),
            )
        } else {
            let view = Ipv4View::parse(data).map_err(|_| bad)?;
            let cut = view.more_fragments() || view.fragment_offset() != 0;
            (view.source().into(), view.destination().into(), cut)
        };
    if endpoints.source != source || endpoints.destination != destination {
        return Err(DropReason::EspNotEndpoint);
    }
    if fragment {
        return Err(DropReason::EspTransportFragment);
    }
    Ok(())
}

/// Makes an ESP packet of a packet, but for its encryption. `None` if it does not fit its buffer.
pub(super) fn prepare<'b>(
    buffers: &'b BufferPool,
    sa: &'b Sa,
    packet: &'b mut Packet,
    seq: u64,
    underlay_vrf: u32,
) -> Option<SealOp<'b>> {
    let suite = sa.state.key().suite();
    let (meta, area) = buffers.area_mut(packet);
    let (start, end) = (meta.offset(), meta.offset() + meta.len());
    let header = Header::for_esp(area.get(start..end)?)?;
    let payload = end.checked_sub(start + header.length)?;
    let sealed = suite.sealed_len(payload);
    let around = sa.endpoints.udp.map_or(0, |_| UdpHeader::LEN);
    let esp = (start + header.length).checked_sub(suite.header_len())?;
    let front = esp.checked_sub(around + header.length)?;
    esp::write_trailer(
        area.get_mut(end..esp + sealed - suite.icv_len())?,
        header.next,
    )
    .ok()?;
    area.copy_within(start..start + header.length, front);
    let total = header.length + around + sealed;
    let outside = if around == 0 {
        Protocol::ESP
    } else {
        Protocol::UDP
    };
    header.mend(area.get_mut(front..)?, outside, total)?;
    if let Some(ports) = sa.endpoints.udp {
        let udp = UdpHeader {
            source: ports.source,
            destination: ports.destination,
            length: u16::try_from(around + sealed).ok()?,
            checksum: 0,
        };
        udp.write(area.get_mut(front + header.length..)?.first_chunk_mut()?);
    }
    meta.set_view(front, total).ok()?;
    meta.l3_offset = front as u16;
    meta.l4_offset = (front + header.length) as u16;
    meta.flags = meta.flags & !OF_INNER | flags::ENCRYPTED;
    meta.vrf = underlay_vrf;
    meta.adjacency = meta.scratch as u32;
    let packet = area.get_mut(esp..esp + sealed)?;
    *packet.first_chunk_mut::<4>()? = sa.spi.get().to_be_bytes();
    Some(SealOp::new(sa.state.key(), seq, packet))
}

/// Puts the IP header of a decrypted packet before its payload, `length` bytes at `start`, and checks the packet
/// against the SA.
pub(super) fn deliver(
    meta: &mut Metadata,
    area: &mut [u8],
    sa: &Sa,
    start: usize,
    length: usize,
    next: Protocol,
) -> Result<NodeId, DropReason> {
    let truncated = DropReason::EspTruncated;
    if next == Protocol::NO_NEXT {
        return Err(DropReason::EspDummy);
    }
    let (l3, l4) = (meta.offset(), usize::from(meta.l4_offset));
    let headers = area.get(l3..l4).ok_or(truncated)?;
    let header = Header::of_esp(headers).ok_or(truncated)?;
    let front = start.checked_sub(header.length).ok_or(truncated)?;
    let total = header.length + length;
    area.copy_within(l3..l4, front);
    let packet = area.get_mut(front..front + total).ok_or(truncated)?;
    header.mend(packet, next, total).ok_or(truncated)?;
    if sa.endpoints.udp.is_some() {
        renew_checksum(packet);
    }
    let v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    if !sa.carries(v6, || culvert_net::Flow::of(packet).ok()) {
        return Err(DropReason::EspSelectorMismatch);
    }
    meta.set_view(front, total).map_err(|_| truncated)?;
    meta.l3_offset = front as u16;
    meta.sa = sa.index;
    meta.flags = meta.flags & flags::TRACED | flags::DECRYPTED;
    Ok(if v6 {
        NodeId::Ip6Input
    } else {
        NodeId::Ip4Input
    })
}

/// The headers of a packet that stay outside.
#[derive(Clone, Copy)]
struct Header {
    /// Bytes of them.
    length: usize,
    /// What comes behind them now.
    next: Protocol,
    /// Where they name it.
    named_at: usize,
}

impl Header {
    /// Of a packet that is to be encrypted.
    fn for_esp(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 == 6 {
            HeaderPlace::of_transport_esp(packet).ok().map(Self::v6)
        } else {
            Self::v4(packet)
        }
    }

    /// Of an ESP packet; `headers` end where ESP, or the UDP header around it, begins.
    fn of_esp(headers: &[u8]) -> Option<Self> {
        if headers.first()? >> 4 == 6 {
            let place = HeaderPlace::find(headers, |_, offset| offset < headers.len()).ok()?;
            (place.offset == headers.len()).then(|| Self::v6(place))
        } else {
            Self::v4(headers)
        }
    }

    fn v4(packet: &[u8]) -> Option<Self> {
        const PROTOCOL: usize = 9;
        Some(Self {
            length: usize::from(packet.first()? & 0x0f) * 4,
            next: Protocol(*packet.get(PROTOCOL)?),
            named_at: PROTOCOL,
        })
    }

    fn v6(place: HeaderPlace) -> Self {
        Self {
            length: place.offset,
            next: place.protocol,
            named_at: place.named_at,
        }
    }

    /// Lets the headers at the front of `packet` say that `next` follows them and that they are part of `total` bytes.
    fn mend(&self, packet: &mut [u8], next: Protocol, total: usize) -> Option<()> {
        let header = packet.get_mut(..self.length)?;
        *header.get_mut(self.named_at)? = next.0;
        if header.first()? >> 4 == 6 {
            let bytes = u16::try_from(total.checked_sub(40)?).ok()?;
            *header.get_mut(4..)?.first_chunk_mut()? = bytes.to_be_bytes();
        } else {
            let total = u16::try_from(total).ok()?;
            *header.get_mut(2..)?.first_chunk_mut()? = total.to_be_bytes();
            header.get_mut(10..12)?.fill(0);
            let sum = checksum::Sum::of(header).finish();
            *header.get_mut(10..)?.first_chunk_mut()? = sum.to_be_bytes();
        }
        Some(())
    }
}

/// Makes the checksum of TCP or UDP one of the addresses that the packet has now. A UDP checksum of zero, which IPv4
/// has for none, stays.
fn renew_checksum(packet: &mut [u8]) {
    let Some((protocol, at, sum)) = transport(packet) else {
        return;
    };
    let field = match protocol {
        Protocol::TCP => at + 16,
        Protocol::UDP => at + 6,
        _ => return,
    };
    let Some(old) = packet
        .get_mut(field..)
        .and_then(<[u8]>::first_chunk_mut::<2>)
    else {
        return;
    };
    if protocol == Protocol::UDP && *old == [0, 0] {
        return;
    }
    *old = [0, 0];
    let covered = packet.get(at..).unwrap_or_default();
    let new = sum.add_bytes(covered).finish_nonzero().to_be_bytes();
    if let Some(place) = packet
        .get_mut(field..)
        .and_then(<[u8]>::first_chunk_mut::<2>)
    {
        *place = new;
    }
}

/// The transport of a whole packet: what it is, where it begins, and the sum of its pseudo header.
fn transport(packet: &[u8]) -> Option<(Protocol, usize, checksum::Sum)> {
    if packet.first()? >> 4 == 6 {
        let view = Ipv6View::parse(packet).ok()?;
        let layer = view.upper_layer().ok()?;
        let length = u32::try_from(layer.payload.len()).ok()?;
        let sum = checksum::pseudo_v6(view.source(), view.destination(), layer.protocol, length);
        Some((layer.protocol, 40 + layer.offset, sum))
    } else {
        let view = Ipv4View::parse(packet).ok()?;
        let length = u16::try_from(view.payload().len()).ok()?;
        let sum = checksum::pseudo_v4(view.source(), view.destination(), view.protocol(), length);
        Some((view.protocol(), view.header_len(), sum))
    }
}
