//! DHCP in UDP in IPv4, made and taken apart by hand: Linux sends nothing from an address that it does not have.

use std::net::Ipv4Addr;

use culvert_net::checksum::{Sum, pseudo_v4};
use culvert_net::udp::{UdpHeader, UdpView};
use culvert_net::{Ipv4Error, Ipv4Header, Ipv4View, Protocol};

use crate::refusal::Refusal;

/// Of servers and relays.
const SERVER_PORT: u16 = 67;
/// Of clients.
pub const CLIENT_PORT: u16 = 68;
/// As other software of hosts has it.
const HOPS: u8 = 64;

/// The packet that carries `payload` to a server; none: it is too long for one.
pub fn wrap(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UdpHeader::LEN + payload.len()).ok()?;
    let header = Ipv4Header {
        traffic_class: 0,
        total_len: length.checked_add(Ipv4Header::LEN as u16)?,
        identification: 0,
        flags_fragment: Ipv4Header::DONT_FRAGMENT,
        ttl: HOPS,
        protocol: Protocol::UDP,
        source,
        destination,
    };
    let mut udp = UdpHeader {
        source: CLIENT_PORT,
        destination: SERVER_PORT,
        length,
        checksum: 0,
    };
    let mut bytes = [0; UdpHeader::LEN];
    udp.write(&mut bytes);
    let sum: Sum = pseudo_v4(source, destination, Protocol::UDP, length);
    udp.checksum = sum.add_bytes(&bytes).add_bytes(payload).finish_nonzero();
    udp.write(&mut bytes);
    let mut packet = Vec::with_capacity(usize::from(header.total_len));
    packet.extend(header.to_bytes());
    packet.extend(bytes);
    packet.extend(payload);
    Some(packet)
}

/// What a packet from a server carries; none: it is something else.
pub fn unwrap(packet: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let ip = Ipv4View::verify(packet).map_err(|error| match error {
        Ipv4Error::Checksum => Refusal::Checksum,
        _ => Refusal::Malformed,
    })?;
    if ip.protocol() != Protocol::UDP || ip.is_fragment() {
        return Ok(None);
    }
    let udp = UdpView::parse(ip.payload()).map_err(|_| Refusal::Malformed)?;
    if (udp.source_port(), udp.destination_port()) != (SERVER_PORT, CLIENT_PORT) {
        return Ok(None);
    }
    let length = udp.header().length;
    if !udp.checksum_holds(pseudo_v4(
        ip.source(),
        ip.destination(),
        Protocol::UDP,
        length,
    )) {
        return Err(Refusal::Checksum);
    }
    Ok(Some(udp.payload()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    /// As from a server: its ports the other way round.
    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut packet = wrap([192, 0, 2, 1].into(), Ipv4Addr::BROADCAST, payload).unwrap();
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(payload in prop::collection::vec(any::<u8>(), 0..1400)) {
            let packet = answer(&payload);
            prop_assert_eq!(unwrap(&packet), Ok(Some(payload.as_slice())));
            let sent = wrap([192, 0, 2, 1].into(), Ipv4Addr::BROADCAST, &payload).unwrap();
            prop_assert_eq!(unwrap(&sent), Ok(None));
        }

        #[test]
        fn a_changed_byte_is_seen(payload in prop::collection::vec(any::<u8>(), 1..100), at in 0usize..128, bit in 0u8..8) {
            let mut packet = answer(&payload);
            let at = at % packet.len();
            packet[at] ^= 1 << bit;
            // A checksum of zero is none (RFC 768).
            prop_assume!(packet[26..28] != [0, 0]);
            prop_assert!(!matches!(unwrap(&packet), Ok(Some(_))));
        }
    }
}
