//! Numbers with a meaning: SPI, sequence number, MTU, IP protocol.

use std::fmt;

/// An IP protocol number, or the next-header value of IPv6 (IANA "protocol-numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// IPv6 hop-by-hop options; in a selector, zero means any protocol.
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// IPv4 inside IP (tunnel mode's next header for an IPv4 packet).
    pub const IPV4: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 inside IP (tunnel mode's next header for an IPv6 packet).
    pub const IPV6: Self = Self(41);
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// Generic routing encapsulation.
    pub const GRE: Self = Self(47);
    /// Encapsulating security payload.
    pub const ESP: Self = Self(50);
    /// Authentication header.
    pub const AH: Self = Self(51);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// IPv6: nothing follows. Inside ESP: a dummy packet (RFC 4303 section 2.6).
    pub const NO_NEXT: Self = Self(59);
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// IPv6 mobility header.
    pub const MOBILITY: Self = Self(135);
    /// Host identity protocol.
    pub const HIP: Self = Self(139);
    /// Shim6.
    pub const SHIM6: Self = Self(140);
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::ICMP => "icmp",
            Self::IPV4 => "ipv4",
            Self::TCP => "tcp",
            Self::UDP => "udp",
            Self::IPV6 => "ipv6",
            Self::ESP => "esp",
            Self::AH => "ah",
            Self::ICMPV6 => "icmpv6",
            Self::SCTP => "sctp",
            Self(number) => return write!(f, "{number}"),
        };
        f.write_str(name)
    }
}

/// A security parameters index that may name an SA on the wire (RFC 4303 section 2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(u32);

/// Why a number is no SPI of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiError {
    /// Zero stays on the machine: it means "no SA" (RFC 4303 section 2.1).
    #[error("SPI 0 is for local use and never on the wire")]
    Local,
    /// 1 to 255 are reserved by IANA.
    #[error("SPI {0} is reserved by IANA (1-255)")]
    Reserved(u32),
}

impl Spi {
    /// The lowest SPI that may be allocated.
    pub const MIN: Self = Self(256);
    /// The highest SPI.
    pub const MAX: Self = Self(u32::MAX);

    /// Checks that `number` is neither zero nor reserved.
    #[inline]
    pub const fn new(number: u32) -> Result<Self, SpiError> {
        match number {
            0 => Err(SpiError::Local),
            1..=255 => Err(SpiError::Reserved(number)),
            _ => Ok(Self(number)),
        }
    }

    /// The number, in the machine's order.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Spi {
    type Error = SpiError;

    fn try_from(number: u32) -> Result<Self, SpiError> {
        Self::new(number)
    }
}

impl From<Spi> for u32 {
    fn from(spi: Spi) -> Self {
        spi.0
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An ESP sequence number, extended to 64 bits (RFC 4303 section 2.2.1).
///
/// Without ESN the high half stays zero. The first packet of an SA carries 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The half that is on the wire.
    #[inline]
    pub const fn low(self) -> u32 {
        self.0 as u32
    }

    /// The half that is only covered by the ICV.
    #[inline]
    pub const fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The largest IP packet that an interface or a path carries, in bytes from the IP header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16);

/// Why a number is no MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MtuError {
    /// Every IPv4 link carries 68 bytes (RFC 791 section 3.2).
    #[error("MTU {0} is below 68, the least that IPv4 allows")]
    TooSmall(u32),
    /// An IPv4 packet cannot be longer than 65,535 bytes.
    #[error("MTU {0} is over 65535, the longest IP packet")]
    TooLarge(u32),
}

impl Mtu {
    /// The least for IPv4 (RFC 791 section 3.2).
    pub const MIN: Self = Self(68);
    /// The least for IPv6 (RFC 8200 section 5).
    pub const MIN_IPV6: Self = Self(1280);
    /// Ethernet's own.
    pub const ETHERNET: Self = Self(1500);

    /// Checks the bounds of RFC 791.
    #[inline]
    pub const fn new(bytes: u32) -> Result<Self, MtuError> {
        match bytes {
            0..68 => Err(MtuError::TooSmall(bytes)),
            68..=65_535 => Ok(Self(bytes as u16)),
            _ => Err(MtuError::TooLarge(bytes)),
        }
    }

    /// In bytes.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = MtuError;

    fn try_from(bytes: u32) -> Result<Self, MtuError> {
        Self::new(bytes)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
