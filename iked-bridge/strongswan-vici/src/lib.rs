//! An asynchronous client of strongSwan's control interface, VICI.
//!
//! VICI is how a program loads connections and credentials into charon, starts and stops tunnels, lists them and hears
//! what happens to them. Requests and answers are small trees ([`Message`]) in length-prefixed packets on a Unix
//! stream socket.
//!
//! ```text
//!               ┌── Session ── one command at a time ──┐
//!   Vici ───────┼── Session                            ├──> charon.vici
//!   (a pool)    └── Session                            │
//!   EventStream ──── events only, a connection apart ──┘
//! ```
//!
//! VICI has no request numbers, so one connection carries one command at a time; [`Vici`] opens as many connections as
//! commands are under way and keeps a few for the next ones. Events have connections of their own ([`EventStream`]), so
//! that a slow reader of events never holds up a command, and a command never swallows an event.
//!
//! charon may die at any moment. What is under way then fails with [`ViciError::Closed`] (or [`ViciError::Io`]) at
//! once, and the next command on the same [`Vici`] connects anew. An [`EventStream`] ends; the caller opens the next
//! one, then takes a listing, since what happened in between was not heard.
//!
//! Everything that arrives is bounded (512 KiB a packet, [`MAX_DEPTH`] levels) and parsed totally. Values may be
//! secrets: they are wiped when dropped and never formatted.

mod command;
mod connection;
mod error;
mod event;
mod message;
mod packet;
mod sa;
mod session;

pub use command::{
    Certificate, CertificateFlag, CertificateType, Initiate, KeyType, Rekey, SaFilter, SharedKey,
    SharedKeyType, Stats, Terminate, Terminated, Version,
};
pub use connection::MAX_FRAME;
pub use error::ViciError;
pub use event::{Event, EventStream, SA_EVENTS, SaEvent};
pub use message::{Element, MAX_DEPTH, Message, MessageError};
pub use packet::{Incoming, PacketError};
pub use sa::{ChildSa, IkeSa, SaError};
pub use session::{Session, Vici};
