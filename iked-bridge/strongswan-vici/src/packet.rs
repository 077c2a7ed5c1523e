//! The packets of VICI: a type, sometimes a name, sometimes a message.

use zeroize::Zeroizing;

use crate::error::ViciError;
use crate::message::{Message, MessageError};

const CMD_REQUEST: u8 = 0;
const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_UNREGISTER: u8 = 4;
const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;

/// Why bytes are not a packet of charon's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No bytes at all, or a name cut short.
    #[error("the packet is cut short")]
    Truncated,
    /// A type that charon does not send.
    #[error("packet type {0}")]
    Type(u8),
    /// A name that is not text.
    #[error("a name that is not text")]
    Name,
    /// A message that is none.
    #[error("in the packet's message: {0}")]
    Message(#[from] MessageError),
}

/// What a client sends.
#[derive(Debug)]
pub(crate) enum Outgoing<'a> {
    Request {
        command: &'a str,
        message: &'a Message,
    },
    Register {
        event: &'a str,
    },
    Unregister {
        event: &'a str,
    },
}

impl Outgoing<'_> {
    /// The packet with its length before it, ready to write. Wiped when dropped.
    pub(crate) fn frame(&self, max: usize) -> Result<Zeroizing<Vec<u8>>, ViciError> {
        let (kind, name, message) = match self {
            Self::Request { command, message } => (CMD_REQUEST, command, Some(message)),
            Self::Register { event } => (EVENT_REGISTER, event, None),
            Self::Unregister { event } => (EVENT_UNREGISTER, event, None),
        };
        let name_length =
            u8::try_from(name.len()).map_err(|_| MessageError::TooLong(name.len()))?;
        let length = 2 + name.len() + message.map_or(0, |message| message.encoded_len());
        let header = u32::try_from(length).map_err(|_| ViciError::TooLong(length))?;
        if length > max {
            return Err(ViciError::TooLong(length));
        }
        // At its full size from the start, so that growing leaves no copy of a secret behind.
        let mut out = Zeroizing::new(Vec::with_capacity(4 + length));
        out.extend_from_slice(&header.to_be_bytes());
        out.push(kind);
        out.push(name_length);
        out.extend_from_slice(name.as_bytes());
        if let Some(message) = message {
            message.encode(&mut out)?;
        }
        Ok(out)
    }
}

/// What charon sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// To a command.
    Response(Message),
    /// There is no such command.
    UnknownCommand,
    /// Events are (no longer) sent.
    EventConfirmed,
    /// There is no such event.
    UnknownEvent,
    /// Something has happened.
    Event {
        /// What.
        name: String,
        /// The details.
        message: Message,
    },
}

impl Incoming {
    /// Reads a packet without the length that stands before it.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let (kind, rest) = bytes.split_first().ok_or(PacketError::Truncated)?;
        match *kind {
            CMD_RESPONSE => Ok(Self::Response(Message::decode(rest)?)),
            CMD_UNKNOWN => Ok(Self::UnknownCommand),
            EVENT_CONFIRM => Ok(Self::EventConfirmed),
            EVENT_UNKNOWN => Ok(Self::UnknownEvent),
            EVENT => {
                let (length, rest) = rest.split_first().ok_or(PacketError::Truncated)?;
                let (name, rest) = rest
                    .split_at_checked((*length).into())
                    .ok_or(PacketError::Truncated)?;
                let name = std::str::from_utf8(name)
                    .map_err(|_| PacketError::Name)?
                    .to_owned();
                Ok(Self::Event {
                    name,
                    message: Message::decode(rest)?,
                })
            }
            other => Err(PacketError::Type(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_carries_its_length_type_name_and_message() {
        let message = Message::new().with("k", "v");
        let frame = Outgoing::Request {
            command: "version",
            message: &message,
        }
        .frame(1024)
        .unwrap();
        assert_eq!(
            &frame[..],
            b"\x00\x00\x00\x0f\x00\x07version\x03\x01k\x00\x01v"
        );
        let frame = Outgoing::Register { event: "log" }.frame(1024).unwrap();
        assert_eq!(&frame[..], b"\x00\x00\x00\x05\x03\x03log");
        let frame = Outgoing::Unregister { event: "log" }.frame(1024).unwrap();
        assert_eq!(&frame[..], b"\x00\x00\x00\x05\x04\x03log");
    }

    #[test]
    fn a_request_over_the_bound_is_not_sent() {
        let message = Message::new().with("k", [0; 100]);
        let result = Outgoing::Request {
            command: "load-key",
            message: &message,
        }
        .frame(100);
        assert!(matches!(result, Err(ViciError::TooLong(115))), "{result:?}");
    }

    #[test]
    fn packets_from_charon_decode() {
        assert_eq!(
            Incoming::decode(b"\x01"),
            Ok(Incoming::Response(Message::new()))
        );
        assert_eq!(Incoming::decode(b"\x05"), Ok(Incoming::EventConfirmed));
        let event = Incoming::Event {
            name: "log".into(),
            message: Message::new().with("a", "b"),
        };
        assert_eq!(
            Incoming::decode(b"\x07\x03log\x03\x01a\x00\x01b"),
            Ok(event)
        );
        assert_eq!(
            Incoming::decode(b"\x07\x09log"),
            Err(PacketError::Truncated)
        );
        assert_eq!(Incoming::decode(b""), Err(PacketError::Truncated));
        assert_eq!(Incoming::decode(b"\x00"), Err(PacketError::Type(0)));
    }

    proptest! {
        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Incoming::decode(&junk);
        }
    }
}
