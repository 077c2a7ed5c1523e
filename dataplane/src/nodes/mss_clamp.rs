//! Bounds the MSS of TCP SYNs, so that full segments fit the way out (RFC 6691, RFC 9293 section 3.7.1).

use culvert_net::{Protocol, tcp};

/// Lowers the MSS in a TCP SYN to `max`; leaves every other IP packet as it is. A fragment that is not the first,
/// and TCP behind IPv6 extension headers, are left too.
#[inline(always)]
pub fn clamp(packet: &mut [u8], v6: bool, max: u16) {
    let header = if v6 {
        match packet {
            [_, _, _, _, _, _, next, ..] if *next == Protocol::TCP.0 => 40,
            _ => return,
        }
    } else {
        match packet {
            [first, _, _, _, _, _, flags, low, _, protocol, ..]
                if *protocol == Protocol::TCP.0 && *flags & 0x1f == 0 && *low == 0 =>
            {
                usize::from(*first & 0x0f) * 4
            }
            _ => return,
        }
    };
    if let Some(segment) = packet.get_mut(header..)
        // Few segments are SYNs: look before the options are walked.
        && segment.get(13).is_some_and(|flags| flags & 0x02 != 0)
    {
        tcp::clamp_mss(segment, max);
    }
}
