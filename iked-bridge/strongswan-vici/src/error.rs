//! What can go wrong between a caller and charon.

use std::io;
use std::time::Duration;

use crate::message::MessageError;
use crate::packet::PacketError;
use crate::sa::SaError;

/// Why a command, or a stream of events, did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ViciError {
    /// Nobody listens on the socket.
    #[error("no connection to charon")]
    Connect(#[source] io::Error),
    /// charon closed the connection: it died, or it refused a packet.
    #[error("charon closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection to charon failed")]
    Io(#[source] io::Error),
    /// No answer in time. What the command does goes on in charon.
    #[error("no answer to {command} within {after:?}")]
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// charon does not know the command.
    #[error("charon does not know the command {0}")]
    UnknownCommand(String),
    /// charon does not know the event.
    #[error("charon does not know the event {0}")]
    UnknownEvent(String),
    /// charon answered `success = no`.
    #[error("charon refused {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// charon's `errmsg`.
        message: String,
    },
    /// A packet longer than VICI allows, sent or received.
    #[error("a packet of {0} bytes, more than {max}", max = crate::MAX_FRAME)]
    TooLong(usize),
    /// A packet that is not one.
    #[error("a packet that does not decode")]
    Packet(#[from] PacketError),
    /// A message that cannot be sent as it is.
    #[error("a message that cannot be encoded")]
    Message(#[from] MessageError),
    /// A packet of a kind that has no place here.
    #[error("an unexpected packet while waiting for {0}")]
    Unexpected(&'static str),
    /// An answer without a field it must have, or with one that cannot be read.
    #[error("an answer to {command} without a readable {field}")]
    Field {
        /// The command.
        command: &'static str,
        /// The field.
        field: &'static str,
    },
    /// An SA in a listing or an event that cannot be read.
    #[error("an SA that cannot be read")]
    Sa(#[from] SaError),
    /// An earlier command on this session was abandoned half-way, so that its answer may still come: open another.
    #[error("the session was left in the middle of a command")]
    Abandoned,
}

impl ViciError {
    /// Whether charon could not be reached, or went away: worth another try when it is back.
    pub fn is_disconnect(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::Closed | Self::Io(_) | Self::Abandoned
        )
    }
}
