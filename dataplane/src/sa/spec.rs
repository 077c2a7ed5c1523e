//! What an SA is asked to be, checked.

use std::net::IpAddr;

use culvert_crypto::{KeyError, Suite};
use culvert_model::convert::ConvertError;
use culvert_net::{Selector, Spi, SpiError};
use thiserror::Error;

use super::outer::UdpPorts;

/// Which way the packets of an SA go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaDirection {
    /// To us: decrypted.
    In,
    /// From us: encrypted.
    Out,
}

/// What names an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaKeyId {
    /// Its number, chosen by the receiver.
    pub spi: Spi,
    /// Which way.
    pub direction: SaDirection,
    /// The outer destination.
    pub destination: IpAddr,
}

impl std::fmt::Display for SaKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.direction {
            SaDirection::In => "in",
            SaDirection::Out => "out",
        };
        write!(
            f,
            "SA {way} {:#010x} to {}",
            self.spi.get(),
            self.destination
        )
    }
}

/// How much an SA may carry; `u64::MAX` where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes at which a new SA is asked for.
    pub soft_bytes: u64,
    /// Bytes at which it ends.
    pub hard_bytes: u64,
    /// Packets at which a new SA is asked for.
    pub soft_packets: u64,
    /// Packets at which it ends.
    pub hard_packets: u64,
}

impl Limits {
    /// No limit but the sequence number's.
    pub const NONE: Self = Self {
        soft_bytes: u64::MAX,
        hard_bytes: u64::MAX,
        soft_packets: u64::MAX,
        hard_packets: u64::MAX,
    };
}

/// What an SA encrypts (RFC 4301 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaMode {
    /// Whole packets, which get a header of the SA's own.
    #[default]
    Tunnel,
    /// What stands behind the IP header of packets between the SA's own two addresses.
    Transport,
}

/// Everything about an SA but its keys.
#[derive(Clone, Debug)]
pub struct SaSpec {
    /// What names it.
    pub id: SaKeyId,
    /// The outer source.
    pub source: IpAddr,
    /// What it encrypts.
    pub mode: SaMode,
    /// Algorithms.
    pub suite: Suite,
    /// Extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Packets of the replay window; 0: off.
    pub replay_window: u32,
    /// UDP encapsulation (RFC 3948).
    pub udp: Option<UdpPorts>,
    /// The tunnel interface it belongs to.
    pub if_id: u32,
    /// Which packets it carries, as they stand in the packet.
    pub selectors: Vec<Selector>,
    /// How much it may carry.
    pub limits: Limits,
    /// The outer header takes the inner don't-fragment bit (else it is clear).
    pub copy_df: bool,
    /// The outer header takes the inner ECN bits (RFC 6040).
    pub copy_ecn: bool,
    /// The outer header takes the inner DSCP.
    pub copy_dscp: bool,
    /// Inner packets are padded to so many bytes, as far as the MTU of the path allows (RFC 4303 section 2.7); 0: not.
    pub tfc_padding: u32,
    /// charon's number for policy and SA together.
    pub reqid: u32,
    /// When it was installed and when it ends, softly and hard, in `CLOCK_BOOTTIME` milliseconds: kept for
    /// iked-bridge, who owns time.
    pub timers: [u64; 3],
}

/// Why a request for an SA or a policy makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The SPI is reserved.
    #[error(transparent)]
    Spi(#[from] SpiError),
    /// An address is not 4 or 16 bytes long.
    #[error("{field}: {source}")]
    Address {
        /// Where.
        field: &'static str,
        /// How it is wrong.
        source: ConvertError,
    },
    /// Source and destination are of different families.
    #[error("source and destination are of different families")]
    Family,
    /// A port is 0 or above 65535.
    #[error("{0} is no UDP port")]
    Port(u32),
    /// An algorithm that we do not have.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The key does not fit the algorithm.
    #[error(transparent)]
    Key(KeyError),
    /// A range that is empty or of mixed families.
    #[error("selector: {0}")]
    Selector(String),
    /// More selectors than are kept.
    #[error("{0} selectors are too many")]
    TooManySelectors(usize),
    /// A policy's priority is 0 or above 65535.
    #[error("a priority of {0}; 1 to 65535 are possible")]
    Priority(u32),
    /// A replay window that is larger than we keep.
    #[error("a replay window of {0} packets is too large; at most 4096")]
    ReplayWindow(u32),
}
