//! What the bridge tells the plugin: answers to calls, and upcalls of its own.

use crate::address::{Host, Selector};

/// An answer (`id` of its call) or an upcall (`id` 0).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToPlugin {
    /// The call's id; 0: an upcall.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is said.
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub answer: Option<Answer>,
}

impl ToPlugin {
    /// The answer to call `id`.
    pub fn answer(id: u64, answer: Answer) -> Self {
        Self {
            id,
            answer: Some(answer),
        }
    }

    /// An upcall.
    pub fn upcall(answer: Answer) -> Self {
        Self {
            id: 0,
            answer: Some(answer),
        }
    }
}

/// Everything the bridge can say.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Answer {
    /// The call did what it should.
    #[prost(message, tag = "2")]
    Done(Done),
    /// Answer to `GetSpi`.
    #[prost(message, tag = "3")]
    Spi(Spi),
    /// Answer to `QuerySa`.
    #[prost(message, tag = "4")]
    Usage(Usage),
    /// The call did not do what it should.
    #[prost(message, tag = "5")]
    Failed(Failed),
    /// Upcall: traffic wants an SA.
    #[prost(message, tag = "6")]
    Acquire(Acquire),
    /// Upcall: an SA reached a limit.
    #[prost(message, tag = "7")]
    Expire(Expire),
    /// Upcall: the peer's address or port changed.
    #[prost(message, tag = "8")]
    Mapping(Mapping),
}

impl Answer {
    /// `Done`, spelt short.
    pub fn done() -> Self {
        Self::Done(Done {})
    }

    /// A failure with a reason for charon's log.
    pub fn failed(status: Status, message: impl Into<String>) -> Self {
        Self::Failed(Failed {
            status: status.into(),
            message: message.into(),
        })
    }
}

/// Success without a value.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Done {}

/// An allocated SPI.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Spi {
    /// In host order, above 255.
    #[prost(uint32, tag = "1")]
    pub spi: u32,
}

/// What an SA carried. Counts never go back.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Usage {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Packets.
    #[prost(uint64, tag = "2")]
    pub packets: u64,
    /// `CLOCK_MONOTONIC` seconds of the last packet; 0: none yet.
    #[prost(uint64, tag = "3")]
    pub use_time: u64,
}

/// How a call failed, numbered as charon's `status_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Not set; the plugin reads it as `Failed`.
    Unspecified = 0,
    /// Failed.
    Failed = 1,
    /// Out of resources.
    OutOfResources = 2,
    /// Done before.
    AlreadyDone = 3,
    /// Not supported.
    NotSupported = 4,
    /// Invalid argument.
    InvalidArgument = 5,
    /// No such SA or policy.
    NotFound = 6,
}

/// A failure.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// For charon.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
    /// For the person who reads charon's log.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Traffic met a trap, or a policy without an SA.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Acquire {
    /// Of the policy.
    #[prost(uint32, tag = "1")]
    pub reqid: u32,
    /// Of the packet; absent: charon takes the policy's.
    #[prost(message, optional, tag = "2")]
    pub src_ts: Option<Selector>,
    /// Of the packet.
    #[prost(message, optional, tag = "3")]
    pub dst_ts: Option<Selector>,
}

/// An SA reached a limit.
///
/// charon takes it as a hint: it looks the SA up by protocol, SPI and destination, and forgets the event if it finds
/// none, as it does in the moment before a CHILD SA that it has installed is listed. Raise it again until the SA is
/// replaced or deleted; repetitions are harmless.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Expire {
    /// 50 or 51.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// In host order.
    #[prost(uint32, tag = "2")]
    pub spi: u32,
    /// Outer destination of the SA, as charon last set it.
    #[prost(message, optional, tag = "3")]
    pub dst: Option<Host>,
    /// The SA is at its end, not only due for replacement.
    #[prost(bool, tag = "4")]
    pub hard: bool,
}

/// Authenticated packets of an SA come from a new address or port. Looked up and forgotten as [`Expire`] is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mapping {
    /// Of the SA.
    #[prost(uint32, tag = "1")]
    pub reqid: u32,
    /// Inbound SPI in host order.
    #[prost(uint32, tag = "2")]
    pub spi: u32,
    /// Outer destination of the inbound SA: our end.
    #[prost(message, optional, tag = "3")]
    pub dst: Option<Host>,
    /// Where the peer is now, with its port.
    #[prost(message, optional, tag = "4")]
    pub remote: Option<Host>,
    /// 50 or 51; 0: ESP.
    #[prost(uint32, tag = "5")]
    pub protocol: u32,
}
