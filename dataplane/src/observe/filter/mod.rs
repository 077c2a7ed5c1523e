//! Which packets: a small language that people know, a part of pcap-filter(7).
//!
//! ```text
//!   host 10.0.0.1 and udp port 53          net 10.1.0.0/16 or 2001:db8::/32        not (arp or icmp6)
//!   src host 10.0.0.1                      tcp dst portrange 8000-8080             port 500 or 4500
//!   esp        spi 0xc1d2e3f4              ip proto 47                             greater 1400
//! ```
//!
//! As there, `and` and `or` bind equally and from left to right, and `not` binds tightest; a value alone takes the
//! qualifiers of the one before (`port 500 or 4500`). `spi` is ours: ESP with this SPI, native or in UDP.
//!
//! A [`Filter`] is made by parsing only and is bounded in size and depth; asking it about a packet neither allocates nor
//! fails.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use culvert_net::{IpPrefix, PortRange, Protocol};
use thiserror::Error;

use super::headers::{Family, Headers, Layer};

/// Bytes of an expression's text at most.
pub const LONGEST_TEXT: usize = 1024;
/// Tests in one expression at most.
pub const MOST_TESTS: usize = 64;
/// Parentheses and negations within each other at most.
pub const DEEPEST: usize = 32;

/// Which packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Option<Expression>);

/// Why a text is no filter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// More than [`LONGEST_TEXT`].
    #[error("the filter has {0} bytes; {LONGEST_TEXT} are allowed")]
    TooLong(usize),
    /// More than [`MOST_TESTS`] or [`DEEPEST`].
    #[error("the filter is too large: {MOST_TESTS} tests, {DEEPEST} deep, are allowed")]
    TooComplex,
    /// The text ends too early.
    #[error("the filter ends where {0} should stand")]
    Ends(&'static str),
    /// Something else stands there.
    #[error("{found:?} stands where {wanted} should")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// The qualifiers do not go together.
    #[error("{first} and {second} do not go together")]
    Mismatch {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Is(Test),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// Which of source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
    Both,
}

impl Side {
    #[inline]
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source || destination,
            Self::Both => source && destination,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Source => "src ",
            Self::Destination => "dst ",
            Self::Either => "",
            Self::Both => "src and dst ",
        }
    }
}

/// A transport with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Family(Family),
    Protocol(Option<Family>, Protocol),
    Net(Option<Family>, Side, IpPrefix),
    Port(Option<Transport>, Side, PortRange),
    Spi(u32),
    /// At most so many bytes.
    Less(u32),
    /// At least so many bytes.
    Greater(u32),
}

impl Filter {
    /// Every packet.
    pub const ALL: Self = Self(None);

    /// Whether the packet is one of them.
    #[inline]
    pub fn matches(&self, bytes: &[u8], layer: Layer) -> bool {
        match &self.0 {
            None => true,
            Some(expression) => expression.holds(&Headers::of(bytes, layer), bytes.len()),
        }
    }

    /// Whether it takes every packet.
    pub const fn is_all(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    /// A text without words takes every packet.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(Self)
    }
}

impl Expression {
    /// Recursion is bounded by what the parser lets through.
    fn holds(&self, headers: &Headers<'_>, length: usize) -> bool {
        match self {
            Self::Is(test) => test.holds(headers, length),
            Self::Not(inner) => !inner.holds(headers, length),
            Self::And(first, second) => {
                first.holds(headers, length) && second.holds(headers, length)
            }
            Self::Or(first, second) => {
                first.holds(headers, length) || second.holds(headers, length)
            }
        }
    }
}

impl Test {
    #[inline]
    fn holds(self, headers: &Headers<'_>, length: usize) -> bool {
        let is = |family: Option<Family>| family.is_none() || headers.family == family;
        match self {
            Self::Family(family) => headers.family == Some(family),
            Self::Protocol(family, protocol) => is(family) && headers.protocol == Some(protocol),
            Self::Net(family, side, prefix) => {
                let inside =
                    |address: Option<IpAddr>| address.is_some_and(|it| prefix.contains(it));
                is(family) && side.holds(inside(headers.source), inside(headers.destination))
            }
            Self::Port(transport, side, range) => {
                let wanted = transport.map(Transport::protocol);
                (wanted.is_none() || headers.protocol == wanted)
                    && headers.ports().is_some_and(|(source, destination)| {
                        side.holds(range.contains(source), range.contains(destination))
                    })
            }
            Self::Spi(spi) => headers.esp().is_some_and(|(found, _)| found == spi),
            Self::Less(most) => length <= most as usize,
            Self::Greater(least) => length >= least as usize,
        }
    }
}

const fn family_word(family: Family) -> &'static str {
    match family {
        Family::Ip4 => "ip",
        Family::Ip6 => "ip6",
        Family::Arp => "arp",
    }
}

/// As it was understood; read again it is the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|expression| expression.fmt(f))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(test) => test.fmt(f),
            Self::Not(inner) => write!(f, "not {}", Operand(inner)),
            Self::And(first, second) => write!(f, "{first} and {}", Operand(second)),
            Self::Or(first, second) => write!(f, "{first} or {}", Operand(second)),
        }
    }
}

/// What binds tighter than `and` and `or`.
struct Operand<'e>(&'e Expression);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            expression @ (Expression::And(..) | Expression::Or(..)) => write!(f, "({expression})"),
            expression => expression.fmt(f),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Family(family) => f.write_str(family_word(family)),
            Self::Protocol(family, protocol) => {
                if let Some(family) = family {
                    write!(f, "{} ", family_word(family))?;
                }
                write!(f, "proto {}", protocol.0)
            }
            Self::Net(family, side, prefix) => {
                if let Some(family) = family {
                    write!(f, "{} ", family_word(family))?;
                }
                if prefix == IpPrefix::host(prefix.address()) {
                    write!(f, "{}host {}", side.word(), prefix.address())
                } else {
                    write!(f, "{}net {prefix}", side.word())
                }
            }
            Self::Port(transport, side, range) => {
                if let Some(transport) = transport {
                    write!(f, "{} ", transport.word())?;
                }
                if range.first() == range.last() {
                    write!(f, "{}port {}", side.word(), range.first())
                } else {
                    write!(
                        f,
                        "{}portrange {}-{}",
                        side.word(),
                        range.first(),
                        range.last()
                    )
                }
            }
            Self::Spi(spi) => write!(f, "spi {spi:#010x}"),
            Self::Less(most) => write!(f, "less {most}"),
            Self::Greater(least) => write!(f, "greater {least}"),
        }
    }
}
