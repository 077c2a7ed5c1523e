//! What a packet looks like: header types over byte slices, checksums and addresses.
//!
//! A leaf crate without I/O, without allocation and without `unsafe`. The graph nodes of the
//! dataplane read and write packets through it, so everything here is cheap enough to run once
//! for each packet, and total: no input makes it panic.
//!
//! ```text
//!   frame: | Ethernet | IPv4 or IPv6 (+ extensions) | UDP, TCP, ICMP, ESP | payload ... |
//!            ethernet   ipv4, ipv6                    udp, tcp, icmpv4,
//!            arp                                      icmpv6 + nd, esp
//! ```
//!
//! Three shapes repeat in every protocol module:
//!
//! * a *view* (`Ipv4View::parse(&[u8])`), which checks every length once and then reads fields
//!   with accessors that cannot fail;
//! * a *mutable view* (`Ipv4Mut`), where a field is changed in place and the checksum follows
//!   incrementally (RFC 1624);
//! * a *header by value* (`Ipv4Header`), whose `write` fills a fixed-size array, so that a
//!   builder has no length to get wrong. `<[u8]>::first_chunk_mut` gives that array.
//!
//! Numbers with a meaning are types: [`Spi`], [`SeqNo`], [`Mtu`], [`EtherType`], [`Protocol`],
//! [`MacAddr`], [`IpPrefix`], [`Selector`].

#![forbid(unsafe_code)]
// Bytes that only pass from a field to its place in a header have no names of their own.
#![allow(clippy::many_single_char_names)]

pub mod arp;
pub mod checksum;
pub mod esp;
pub mod ethernet;
pub mod flow;
pub mod fragment;
pub mod gre;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
mod number;
pub mod prefix;
pub mod selector;
pub mod tcp;
pub mod udp;

pub use arp::{ArpError, ArpOperation, ArpPacket};
pub use esp::{EspError, EspHeader};
pub use ethernet::{EtherType, EthernetError, EthernetHeader, EthernetView, MacAddr, MacAddrError};
pub use flow::{Addresses, Flow, FlowError};
pub use gre::{GreError, GreHeader};
pub use icmpv4::{Icmpv4Error, Icmpv4Type, Icmpv4View};
pub use icmpv6::{Icmpv6Error, Icmpv6Type, Icmpv6View};
pub use ipv4::{Ipv4Error, Ipv4Header, Ipv4Mut, Ipv4View};
pub use ipv6::{HeaderPlace, Ipv6Error, Ipv6Fragment, Ipv6Header, Ipv6Mut, Ipv6View};
pub use number::{Mtu, MtuError, Protocol, SeqNo, Spi, SpiError};
pub use prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix, PrefixError};
pub use selector::{AddressRange, PortRange, RangeError, Selector};
pub use tcp::{TcpError, TcpFlags, TcpView};
pub use udp::{UdpError, UdpHeader, UdpView};
