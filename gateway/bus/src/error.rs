//! What can go wrong at a socket ([`BusError`]) and in a call ([`CallError`]).

use std::path::PathBuf;
use std::time::Duration;

use culvert_model::bus::refusal;

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The path does not fit into a socket address.
    #[error("socket path {path:?} is {bytes} bytes long; the system allows {limit}")]
    PathTooLong {
        /// As given.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest that is allowed.
        limit: usize,
    },
    /// The path cannot be written as an address of nng: not UTF-8, empty, or with a NUL in it.
    #[error("socket path {path:?} is not usable as an address")]
    PathUnusable {
        /// As given.
        path: PathBuf,
    },
    /// Another process, alive, listens on the path.
    #[error("{path:?} is in use by another process")]
    InUse {
        /// As given.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way; it is left alone.
    #[error("{path:?} exists and is not a socket")]
    NotASocket {
        /// As given.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{path:?}: {source}")]
    File {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The call must be made inside a tokio runtime, for the tasks it starts.
    #[error("no tokio runtime to run the tasks of {path:?} in")]
    NoRuntime {
        /// As given.
        path: PathBuf,
    },
    /// nng refused.
    #[error("{path:?}: {source}")]
    Socket {
        /// As given.
        path: PathBuf,
        /// Why.
        source: nng::Error,
    },
}

/// A call has no reply of its type.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request left, and no reply came in time. Whether it was carried out is not known: asking again with
    /// the same [`RequestId`](crate::RequestId) gets the first answer. (The process may say it a moment earlier
    /// itself: a refusal with `CODE_DEADLINE`.)
    #[error("{method}: no reply within {within:?}")]
    TimedOut {
        /// What was called.
        method: &'static str,
        /// How long the caller was ready to wait.
        within: Duration,
    },
    /// No process answered at the path in time. The request was not carried out.
    #[error("{method}: nobody answers at {path:?}")]
    Unreachable {
        /// What was called.
        method: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The process that had the request is gone and another one is in its place. Whether the old one carried it
    /// out is not known; the new one was not asked.
    #[error("{method}: the process restarted while it had the request")]
    Restarted {
        /// What was called.
        method: &'static str,
    },
    /// The process said no.
    #[error("{method}: refused ({code:?}): {message}")]
    Refused {
        /// What kind of no.
        code: refusal::Code,
        /// In words.
        message: String,
        /// What was called.
        method: &'static str,
    },
    /// The reply is not what the method's reply should be.
    #[error("{method}: the reply does not decode: {reason}")]
    Undecodable {
        /// What was called.
        method: &'static str,
        /// What is wrong with it.
        reason: Undecodable,
    },
    /// The process speaks another version of the bus.
    #[error("the process at {path:?} speaks bus version {theirs}, this one {ours}")]
    Version {
        /// Where.
        path: PathBuf,
        /// Of this process: [`VERSION`](crate::VERSION).
        ours: u32,
        /// As it said.
        theirs: u32,
    },
    /// The request is larger than a message may be; it was not sent.
    #[error("{method}: a request of {bytes} bytes; {limit} are allowed")]
    TooLarge {
        /// What was called.
        method: &'static str,
        /// Of the encoded request.
        bytes: usize,
        /// [`MESSAGE_LIMIT`](crate::MESSAGE_LIMIT).
        limit: usize,
    },
    /// nng failed.
    #[error("{method}: {source}")]
    Socket {
        /// What was called.
        method: &'static str,
        /// Why.
        source: nng::Error,
    },
}

impl CallError {
    /// The request may have been carried out, or may be yet. A repetition with the same
    /// [`RequestId`](crate::RequestId) is safe; one with a new id may do it twice.
    pub fn leaves_outcome_unknown(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code == refusal::Code::Deadline,
            Self::TimedOut { .. }
            | Self::Restarted { .. }
            | Self::Undecodable { .. }
            | Self::Socket { .. } => true,
            Self::Unreachable { .. } | Self::Version { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// Why a reply is not one.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The bytes are not the expected message.
    #[error(transparent)]
    Bytes(#[from] prost::DecodeError),
    /// Neither a body nor a refusal.
    #[error("it has no outcome")]
    NoOutcome,
    /// It answers another request.
    #[error("it answers request {got}, not {expected}")]
    AnotherRequest {
        /// The id that was asked with.
        expected: u64,
        /// The id that came back.
        got: u64,
    },
}
