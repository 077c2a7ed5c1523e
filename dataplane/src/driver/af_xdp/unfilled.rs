//! Finds checksums that a sender on this machine has left to the hardware, where no driver says so.
//!
//! A veth hands frames over as its peer's kernel made them, and that may leave the L4 checksum to a NIC that is not
//! there: the field then holds the sum of the pseudo header alone. XDP has no place to say so. A checksum that *is*
//! that sum by chance (one in 65,536) loses nothing: completing it gives the same checksum again.

use culvert_net::{Protocol, checksum};

/// Where the checksum covers from and where it stands from there, if it has been left out of this frame.
pub fn unfilled(frame: &[u8]) -> Option<(u16, u16)> {
    let mut at = 12;
    // Tags: customer, service, customer again.
    for _ in 0..3 {
        match frame.get(at..at + 2)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            _ => break,
        }
    }
    let packet = frame.get(at + 2..)?;
    let (header, protocol, pseudo) = match frame.get(at..at + 2)? {
        [0x08, 0x00] => {
            let fixed = packet.first_chunk::<20>()?;
            let header = usize::from(fixed[0] & 0x0f) * 4;
            let total = u16::from_be_bytes([fixed[2], fixed[3]]);
            // The sums of fragments are filled in by whoever cuts.
            if fixed[6] & 0x3f != 0 || fixed[7] != 0 {
                return None;
            }
            let length = total.checked_sub(header as u16)?;
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
            let protocol = Protocol(fixed[9]);
            let sum = checksum::pseudo_v4(
                [s0, s1, s2, s3].into(),
                [d0, d1, d2, d3].into(),
                protocol,
                length,
            );
            (header, protocol, sum.finish())
        }
        [0x86, 0xdd] => {
            let fixed = packet.first_chunk::<40>()?;
            let length = u16::from_be_bytes([fixed[4], fixed[5]]);
            let source: [u8; 16] = *fixed.get(8..)?.first_chunk()?;
            let destination: [u8; 16] = *fixed.get(24..)?.first_chunk()?;
            let protocol = Protocol(fixed[6]);
            let sum = checksum::pseudo_v6(
                source.into(),
                destination.into(),
                protocol,
                u32::from(length),
            );
            (40, protocol, sum.finish())
        }
        _ => return None,
    };
    let field = match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return None,
    };
    let place = packet.get(header + field..header + field + 2)?;
    // `finish` gives the complement, as it stands in a packet.
    let left_out = u16::from_be_bytes(*place.first_chunk()?) == !pseudo;
    left_out.then_some(((at + 2 + header) as u16, field as u16))
}
