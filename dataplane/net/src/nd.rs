//! Neighbour discovery (RFC 4861): solicitations and advertisements of neighbours and routers.
//!
//! Messages are read from and written to whole ICMPv6 messages. What section 6.1 and 7.1 ask of
//! the packet around them (hop limit 255, checksum) is the caller's to check: [`HOP_LIMIT`].
//!
//! ```text
//! | type 1 | code 1 | checksum 2 | flags 4 | target 16 | options: | type 1 | length/8 1 | ... | |
//! ```

use std::net::Ipv6Addr;

use crate::icmpv6::{self, Icmpv6Type, Icmpv6View};
use crate::{Icmpv6Error, Ipv6Prefix, MacAddr};

/// The hop limit of every message of neighbour discovery: proof that no router forwarded it.
pub const HOP_LIMIT: u8 = 255;

/// Every node on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Every router on the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The group in which a node listens for solicitations of `address` (RFC 4291 section 2.7.1).
#[inline]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Why bytes are no message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NdError {
    /// Shorter than the message's fixed part.
    #[error("{0} bytes are too few for a neighbour discovery message")]
    Truncated(usize),
    /// Another type, or a code other than zero.
    #[error("ICMPv6 type {kind} code {code} is not the expected message")]
    Kind {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
    /// An option of length zero, or over the end (section 6.1: such a message is dropped).
    #[error("neighbour discovery option {0} has an impossible length")]
    Option(u8),
    /// The target is a multicast address (section 7.1).
    #[error("target {0} is a multicast address")]
    Target(Ipv6Addr),
}

/// The option types that are read here.
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;

/// An option, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdOption {
    /// The sender's link-layer address.
    SourceLink(MacAddr),
    /// The target's link-layer address.
    TargetLink(MacAddr),
    /// A prefix of the link.
    Prefix(PrefixInformation),
    /// The link's MTU in bytes.
    Mtu(u32),
    /// Another type, skipped.
    Other(u8),
}

/// The prefix information option (section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixInformation {
    /// The prefix.
    pub prefix: Ipv6Prefix,
    /// Addresses of it are on the link.
    pub on_link: bool,
    /// Hosts may make addresses from it.
    pub autonomous: bool,
    /// Seconds; `u32::MAX` for ever.
    pub valid_lifetime: u32,
    /// Seconds; `u32::MAX` for ever.
    pub preferred_lifetime: u32,
}

/// Calls `see` with every option; the lengths of all are checked.
fn each_option(mut bytes: &[u8], mut see: impl FnMut(NdOption)) -> Result<(), NdError> {
    while let Some(&kind) = bytes.first() {
        let length = bytes.get(1).map_or(0, |words| usize::from(*words) * 8);
        let Some((option, rest)) = bytes.split_at_checked(length).filter(|_| length != 0) else {
            return Err(NdError::Option(kind));
        };
        bytes = rest;
        see(match (kind, option) {
            (SOURCE_LINK, &[_, _, a, b, c, d, e, f]) => {
                NdOption::SourceLink(MacAddr([a, b, c, d, e, f]))
            }
            (TARGET_LINK, &[_, _, a, b, c, d, e, f]) => {
                NdOption::TargetLink(MacAddr([a, b, c, d, e, f]))
            }
            (MTU, &[_, _, _, _, a, b, c, d]) => NdOption::Mtu(u32::from_be_bytes([a, b, c, d])),
            (
                PREFIX_INFORMATION,
                &[
                    _,
                    _,
                    length,
                    flags,
                    v0,
                    v1,
                    v2,
                    v3,
                    p0,
                    p1,
                    p2,
                    p3,
                    _,
                    _,
                    _,
                    _,
                    ref prefix @ ..,
                ],
            ) => {
                let prefix = prefix
                    .first_chunk::<16>()
                    .map(|octets| Ipv6Addr::from_octets(*octets));
                match prefix.and_then(|address| Ipv6Prefix::covering(address, length).ok()) {
                    Some(prefix) => NdOption::Prefix(PrefixInformation {
                        prefix,
                        on_link: flags & 0x80 != 0,
                        autonomous: flags & 0x40 != 0,
                        valid_lifetime: u32::from_be_bytes([v0, v1, v2, v3]),
                        preferred_lifetime: u32::from_be_bytes([p0, p1, p2, p3]),
                    }),
                    None => NdOption::Other(kind),
                }
            }
            _ => NdOption::Other(kind),
        });
    }
    Ok(())
}

/// Checks the type and splits the fixed part of `N` bytes from the options.
fn split<const N: usize>(message: &[u8], kind: Icmpv6Type) -> Result<(&[u8; N], &[u8]), NdError> {
    let (fixed, options) = message
        .split_first_chunk()
        .ok_or(NdError::Truncated(message.len()))?;
    match Icmpv6View::parse(message).map(|view| view.kind()) {
        Ok(is) if is == kind => Ok((fixed, options)),
        Ok(is) => Err(NdError::Kind {
            kind: is.kind,
            code: is.code,
        }),
        Err(Icmpv6Error::Truncated(_) | Icmpv6Error::Checksum) => {
            Err(NdError::Truncated(message.len()))
        }
    }
}

fn target_of(fixed: &[u8; 24]) -> Result<Ipv6Addr, NdError> {
    let octets = fixed
        .last_chunk::<16>()
        .ok_or(NdError::Truncated(fixed.len()))?;
    let target = Ipv6Addr::from_octets(*octets);
    if target.is_multicast() {
        Err(NdError::Target(target))
    } else {
        Ok(target)
    }
}

/// Who has the target address? (section 4.3)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourSolicit {
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The sender's link-layer address; none when it asks from `::` (duplicate detection).
    pub source_link: Option<MacAddr>,
}

impl NeighbourSolicit {
    /// Bytes of a message that carries the sender's link-layer address.
    pub const LEN: usize = 32;

    /// Reads an ICMPv6 message.
    #[inline]
    pub fn parse(message: &[u8]) -> Result<Self, NdError> {
        let (fixed, options) = split::<24>(message, Icmpv6Type::NEIGHBOUR_SOLICIT)?;
        let mut read = Self {
            target: target_of(fixed)?,
            source_link: None,
        };
        each_option(options, |option| {
            if let NdOption::SourceLink(mac) = option {
                read.source_link = Some(mac);
            }
        })?;
        Ok(read)
    }

    /// Fills `to` with the whole ICMPv6 message; how many bytes of it are the message (24 or 32).
    #[inline]
    pub fn write(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        to: &mut [u8; Self::LEN],
    ) -> usize {
        let link = self.source_link.map(|mac| (SOURCE_LINK, mac));
        write_neighbour(
            Icmpv6Type::NEIGHBOUR_SOLICIT,
            0,
            self.target,
            link,
            source,
            destination,
            to,
        )
    }
}

/// I have the target address (section 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourAdvert {
    /// The address that the sender has.
    pub target: Ipv6Addr,
    /// Its link-layer address.
    pub target_link: Option<MacAddr>,
    /// The sender is a router.
    pub router: bool,
    /// Answers a solicitation.
    pub solicited: bool,
    /// Replaces what the receiver knew.
    pub overrides: bool,
}

impl NeighbourAdvert {
    /// Bytes of a message that carries the target's link-layer address.
    pub const LEN: usize = 32;

    /// Reads an ICMPv6 message.
    #[inline]
    pub fn parse(message: &[u8]) -> Result<Self, NdError> {
        let (fixed, options) = split::<24>(message, Icmpv6Type::NEIGHBOUR_ADVERT)?;
        let flags = fixed[4];
        let mut read = Self {
            target: target_of(fixed)?,
            target_link: None,
            router: flags & 0x80 != 0,
            solicited: flags & 0x40 != 0,
            overrides: flags & 0x20 != 0,
        };
        each_option(options, |option| {
            if let NdOption::TargetLink(mac) = option {
                read.target_link = Some(mac);
            }
        })?;
        Ok(read)
    }

    /// Fills `to` with the whole ICMPv6 message; how many bytes of it are the message (24 or 32).
    #[inline]
    pub fn write(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        to: &mut [u8; Self::LEN],
    ) -> usize {
        let flags = (u32::from(self.router) << 31)
            | (u32::from(self.solicited) << 30)
            | (u32::from(self.overrides) << 29);
        let link = self.target_link.map(|mac| (TARGET_LINK, mac));
        write_neighbour(
            Icmpv6Type::NEIGHBOUR_ADVERT,
            flags,
            self.target,
            link,
            source,
            destination,
            to,
        )
    }
}

fn write_neighbour(
    kind: Icmpv6Type,
    flags: u32,
    target: Ipv6Addr,
    link: Option<(u8, MacAddr)>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    to: &mut [u8; 32],
) -> usize {
    to[8..24].copy_from_slice(&target.octets());
    let length = match link {
        Some((option, MacAddr([a, b, c, d, e, f]))) => {
            to[24..].copy_from_slice(&[option, 1, a, b, c, d, e, f]);
            32
        }
        None => 24,
    };
    finish(&mut to[..length], kind, flags, source, destination);
    length
}

/// Every message written here is longer than the header that [`icmpv6::seal`] asks for.
fn finish(
    message: &mut [u8],
    kind: Icmpv6Type,
    rest: u32,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) {
    let sealed = icmpv6::seal(message, kind, rest, source, destination);
    debug_assert!(sealed.is_ok());
}

/// Is there a router? (section 4.1)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterSolicit {
    /// The sender's link-layer address; none when it asks from `::`.
    pub source_link: Option<MacAddr>,
}

impl RouterSolicit {
    /// Bytes of a message that carries the sender's link-layer address.
    pub const LEN: usize = 16;

    /// Reads an ICMPv6 message.
    #[inline]
    pub fn parse(message: &[u8]) -> Result<Self, NdError> {
        let (_, options) = split::<8>(message, Icmpv6Type::ROUTER_SOLICIT)?;
        let mut read = Self { source_link: None };
        each_option(options, |option| {
            if let NdOption::SourceLink(mac) = option {
                read.source_link = Some(mac);
            }
        })?;
        Ok(read)
    }

    /// Fills `to` with the whole ICMPv6 message; how many bytes of it are the message (8 or 16).
    #[inline]
    pub fn write(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        to: &mut [u8; Self::LEN],
    ) -> usize {
        let length = match self.source_link {
            Some(MacAddr([a, b, c, d, e, f])) => {
                to[8..].copy_from_slice(&[SOURCE_LINK, 1, a, b, c, d, e, f]);
                16
            }
            None => 8,
        };
        finish(
            &mut to[..length],
            Icmpv6Type::ROUTER_SOLICIT,
            0,
            source,
            destination,
        );
        length
    }
}

/// I am a router (section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvert {
    /// What hosts should start with; zero for no opinion.
    pub hop_limit: u8,
    /// Addresses come from DHCPv6.
    pub managed: bool,
    /// Other configuration comes from DHCPv6.
    pub other: bool,
    /// Seconds as a default router; zero for none.
    pub router_lifetime: u16,
    /// Milliseconds that a neighbour counts as reachable; zero for no opinion.
    pub reachable_time: u32,
    /// Milliseconds between solicitations; zero for no opinion.
    pub retransmit_timer: u32,
    /// The router's link-layer address.
    pub source_link: Option<MacAddr>,
    /// The link's MTU in bytes.
    pub mtu: Option<u32>,
    /// Prefixes of the link; what does not fit is left out.
    pub prefixes: [Option<PrefixInformation>; Self::MAX_PREFIXES],
}

impl RouterAdvert {
    /// How many prefixes one message gives or takes.
    pub const MAX_PREFIXES: usize = 4;
    /// Bytes of the longest message: fixed part, link-layer address, MTU, prefixes.
    pub const MAX_LEN: usize = 16 + 8 + 8 + 32 * Self::MAX_PREFIXES;

    /// Reads an ICMPv6 message.
    pub fn parse(message: &[u8]) -> Result<Self, NdError> {
        let (fixed, options) = split::<16>(message, Icmpv6Type::ROUTER_ADVERT)?;
        let &[_, _, _, _, hop_limit, flags, l0, l1, a, b, c, d, e, f, g, h] = fixed;
        let mut read = Self {
            hop_limit,
            managed: flags & 0x80 != 0,
            other: flags & 0x40 != 0,
            router_lifetime: u16::from_be_bytes([l0, l1]),
            reachable_time: u32::from_be_bytes([a, b, c, d]),
            retransmit_timer: u32::from_be_bytes([e, f, g, h]),
            source_link: None,
            mtu: None,
            prefixes: [None; Self::MAX_PREFIXES],
        };
        each_option(options, |option| match option {
            NdOption::SourceLink(mac) => read.source_link = Some(mac),
            NdOption::Mtu(mtu) => read.mtu = Some(mtu),
            NdOption::Prefix(prefix) => {
                if let Some(free) = read.prefixes.iter_mut().find(|slot| slot.is_none()) {
                    *free = Some(prefix);
                }
            }
            NdOption::TargetLink(_) | NdOption::Other(_) => {}
        })?;
        Ok(read)
    }

    /// Fills `to` with the whole ICMPv6 message; how many bytes of it are the message.
    pub fn write(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        to: &mut [u8; Self::MAX_LEN],
    ) -> usize {
        let [l0, l1] = self.router_lifetime.to_be_bytes();
        let flags = u8::from(self.managed) << 7 | u8::from(self.other) << 6;
        to[8..12].copy_from_slice(&self.reachable_time.to_be_bytes());
        to[12..16].copy_from_slice(&self.retransmit_timer.to_be_bytes());
        let mut length = 16;
        let mut put = |bytes: &[u8]| {
            if let Some(room) = to.get_mut(length..length + bytes.len()) {
                room.copy_from_slice(bytes);
                length += bytes.len();
            }
        };
        if let Some(MacAddr([a, b, c, d, e, f])) = self.source_link {
            put(&[SOURCE_LINK, 1, a, b, c, d, e, f]);
        }
        if let Some(mtu) = self.mtu {
            put(&[MTU, 1, 0, 0]);
            put(&mtu.to_be_bytes());
        }
        for prefix in self.prefixes.iter().flatten() {
            let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
            put(&[PREFIX_INFORMATION, 4, prefix.prefix.length(), flags]);
            put(&prefix.valid_lifetime.to_be_bytes());
            put(&prefix.preferred_lifetime.to_be_bytes());
            put(&[0; 4]);
            put(&prefix.prefix.address().octets());
        }
        let rest = u32::from_be_bytes([self.hop_limit, flags, l0, l1]);
        finish(
            &mut to[..length],
            Icmpv6Type::ROUTER_ADVERT,
            rest,
            source,
            destination,
        );
        length
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn addresses() -> (Ipv6Addr, Ipv6Addr, Ipv6Addr) {
        (
            "fe80::1".parse().unwrap(),
            "fe80::2".parse().unwrap(),
            "2001:db8::3".parse().unwrap(),
        )
    }

    #[test]
    fn solicitation_and_advertisement_cross_the_wire() {
        let (source, destination, target) = addresses();
        let mut bytes = [0xee; 32];
        for source_link in [None, Some(MAC)] {
            let solicit = NeighbourSolicit {
                target,
                source_link,
            };
            let length = solicit.write(source, destination, &mut bytes);
            Icmpv6View::verify(&bytes[..length], source, destination).unwrap();
            assert_eq!(NeighbourSolicit::parse(&bytes[..length]), Ok(solicit));
            assert_eq!(
                NeighbourAdvert::parse(&bytes[..length]),
                Err(NdError::Kind { kind: 135, code: 0 })
            );
        }
        let advert = NeighbourAdvert {
            target,
            target_link: Some(MAC),
            router: true,
            solicited: true,
            overrides: false,
        };
        let length = advert.write(source, destination, &mut bytes);
        Icmpv6View::verify(&bytes[..length], source, destination).unwrap();
        assert_eq!(bytes[4..8], [0xc0, 0, 0, 0]);
        assert_eq!(NeighbourAdvert::parse(&bytes), Ok(advert));
        for cut in 0..32 {
            assert_eq!(
                NeighbourAdvert::parse(&bytes[..cut]).is_ok(),
                cut == 24,
                "cut at {cut}"
            );
        }
        bytes[25] = 0;
        assert_eq!(NeighbourAdvert::parse(&bytes), Err(NdError::Option(2)));
        bytes[8] = 0xff;
        assert!(matches!(
            NeighbourAdvert::parse(&bytes),
            Err(NdError::Target(_))
        ));
    }

    #[test]
    fn router_messages_cross_the_wire() {
        let (source, destination, _) = addresses();
        let mut bytes = [0xee; RouterAdvert::MAX_LEN];
        let prefix = PrefixInformation {
            prefix: Ipv6Prefix::new("2001:db8:1::".parse().unwrap(), 64).unwrap(),
            on_link: true,
            autonomous: true,
            valid_lifetime: 86_400,
            preferred_lifetime: 14_400,
        };
        for prefixes in [
            [None; 4],
            [Some(prefix), None, None, None],
            [Some(prefix); 4],
        ] {
            let advert = RouterAdvert {
                hop_limit: 64,
                managed: false,
                other: true,
                router_lifetime: 1800,
                reachable_time: 30_000,
                retransmit_timer: 1_000,
                source_link: Some(MAC),
                mtu: Some(1500),
                prefixes,
            };
            let length = advert.write(source, destination, &mut bytes);
            Icmpv6View::verify(&bytes[..length], source, destination).unwrap();
            assert_eq!(RouterAdvert::parse(&bytes[..length]), Ok(advert));
        }
        let mut bytes = [0xee; 16];
        let solicit = RouterSolicit {
            source_link: Some(MAC),
        };
        assert_eq!(solicit.write(source, ALL_ROUTERS, &mut bytes), 16);
        Icmpv6View::verify(&bytes, source, ALL_ROUTERS).unwrap();
        assert_eq!(RouterSolicit::parse(&bytes), Ok(solicit));
    }

    #[test]
    fn solicited_node_group_keeps_the_last_three_bytes() {
        let address = "2001:db8::aa12:3456".parse().unwrap();
        assert_eq!(
            solicited_node(address),
            "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 133u8..137) {
            if let Some([first, second, ..]) = bytes.get_mut(..2) {
                *first = kind;
                *second = 0;
            }
            let _ = NeighbourSolicit::parse(&bytes);
            let _ = NeighbourAdvert::parse(&bytes);
            let _ = RouterSolicit::parse(&bytes);
            let _ = RouterAdvert::parse(&bytes);
        }
    }
}
