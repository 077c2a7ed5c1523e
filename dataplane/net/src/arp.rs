//! ARP for IPv4 over Ethernet (RFC 826), probes and announcements (RFC 5227).

use std::net::Ipv4Addr;

use crate::MacAddr;

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// Why bytes are no ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArpError {
    /// Shorter than 28 bytes.
    #[error("{0} bytes are too few for an ARP packet")]
    Truncated(usize),
    /// The address types and lengths are not those of Ethernet and IPv4.
    #[error("ARP for other than IPv4 over Ethernet")]
    Kind,
    /// Neither request nor reply.
    #[error("ARP operation {0} is neither request nor reply")]
    Operation(u16),
}

/// An ARP packet by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Who speaks.
    pub sender_mac: MacAddr,
    /// Under which address; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// Zero in a request.
    pub target_mac: MacAddr,
    /// Which address it is about.
    pub target_ip: Ipv4Addr,
}

/// Ethernet, IPv4, their address lengths: the six bytes that every packet of ours begins with.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

impl ArpPacket {
    /// Bytes of the packet.
    pub const LEN: usize = 28;

    /// Reads a packet; link padding behind it is ignored.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, ArpError> {
        let Some((kind, rest)) = bytes.split_first_chunk::<6>() else {
            return Err(ArpError::Truncated(bytes.len()));
        };
        let Some(
            &[
                o,
                p,
                a,
                b,
                c,
                d,
                e,
                f,
                s0,
                s1,
                s2,
                s3,
                g,
                h,
                i,
                j,
                k,
                l,
                t0,
                t1,
                t2,
                t3,
            ],
        ) = rest.first_chunk::<22>()
        else {
            return Err(ArpError::Truncated(bytes.len()));
        };
        if *kind != KIND {
            return Err(ArpError::Kind);
        }
        let operation = match u16::from_be_bytes([o, p]) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            other => return Err(ArpError::Operation(other)),
        };
        Ok(Self {
            operation,
            sender_mac: MacAddr([a, b, c, d, e, f]),
            sender_ip: Ipv4Addr::new(s0, s1, s2, s3),
            target_mac: MacAddr([g, h, i, j, k, l]),
            target_ip: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }

    /// Fills the packet.
    #[inline]
    pub const fn write(&self, to: &mut [u8; Self::LEN]) {
        let operation = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        let MacAddr([a, b, c, d, e, f]) = self.sender_mac;
        let [s0, s1, s2, s3] = self.sender_ip.octets();
        let MacAddr([g, h, i, j, k, l]) = self.target_mac;
        let [t0, t1, t2, t3] = self.target_ip.octets();
        *to = [
            0, 1, 8, 0, 6, 4, 0, operation, a, b, c, d, e, f, s0, s1, s2, s3, g, h, i, j, k, l, t0,
            t1, t2, t3,
        ];
    }

    /// The question "who has `target`?" from `sender`.
    pub const fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: ArpOperation::Request,
            sender_mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip: target,
        }
    }

    /// The answer to this request from the station `mac` that has the target address.
    #[must_use]
    pub const fn reply_from(&self, mac: MacAddr) -> Self {
        Self {
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// A probe for an address that nobody may have yet (RFC 5227 section 2.1.1).
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::Request && self.sender_ip.is_unspecified()
    }

    /// Sender and target are the same address: an announcement (RFC 5227 section 2.3).
    #[inline]
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn request_and_its_reply_cross_the_wire() {
        let asks = MacAddr([2, 0, 0, 0, 0, 1]);
        let has = MacAddr([2, 0, 0, 0, 0, 2]);
        let request =
            ArpPacket::request(asks, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut bytes = [0; 60];
        request.write(bytes.first_chunk_mut().unwrap());
        assert_eq!(bytes[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(bytes[8..18], [2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        assert_eq!(bytes[18..28], [0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        assert_eq!(ArpPacket::parse(&bytes), Ok(request));
        let reply = request.reply_from(has);
        assert_eq!(
            (reply.sender_ip, reply.sender_mac),
            (request.target_ip, has)
        );
        assert_eq!(
            (reply.target_ip, reply.target_mac),
            (request.sender_ip, asks)
        );
        assert!(!request.is_probe() && !request.is_announcement());
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_is_refused() {
        let mut bytes = [0; 28];
        ArpPacket::request(
            MacAddr::ZERO,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::new(1, 2, 3, 4),
        )
        .write(&mut bytes);
        assert!(ArpPacket::parse(&bytes).unwrap().is_probe());
        for short in 0..28 {
            assert_eq!(
                ArpPacket::parse(&bytes[..short]),
                Err(ArpError::Truncated(short))
            );
        }
        for at in 0..6 {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(ArpPacket::parse(&wrong), Err(ArpError::Kind));
        }
        bytes[7] = 3;
        assert_eq!(ArpPacket::parse(&bytes), Err(ArpError::Operation(3)));
    }
}
