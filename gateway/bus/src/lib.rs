//! What Culvert's processes say to each other, and how: typed request/reply and publish/subscribe over nng.
//!
//! ```text
//!    iked-bridge                                   dataplane
//!   +-------------------+                        +---------------------+
//!   | Client -- call ---+--- bus/dataplane.sa ---+-> Server -> Router  |   must be acknowledged
//!   |        <- reply --+------------------------+--    (handlers)     |
//!   |                   |                        |                     |
//!   | Subscription <----+--- bus/dataplane.ev ---+-- Publisher         |   others may want to know
//!   |   snapshot by call|                        |   number, heartbeat |
//!   +-------------------+                        +---------------------+
//! ```
//!
//! The messages are those of [`culvert_model::bus`]; a request's type names its method and its reply
//! ([`Call`]). Every socket is a Unix socket of mode 0600 with a path of 107 bytes at most.
//!
//! # Asking
//!
//! [`Client::call`] sends a request with a deadline and gives the reply or a [`CallError`] that says what is known:
//! nobody there, no answer in time, refused and why, the process restarted. Many calls are under way at once. The
//! connection comes up, breaks and comes back without the caller's help; versions are compared in a greeting each
//! time the other process is a new one.
//!
//! A request that changes something is carried out once by one incarnation of the process or not at all: repeated
//! with its id it has the first answer again, and a process that has restarted in between refuses it. What reads
//! only is simply asked again.
//!
//! # Telling
//!
//! [`Publisher::publish`] numbers events; [`Subscription`] takes a snapshot by request, then delivers the events
//! after it in order. PUB loses messages silently: a gap in the numbers, seen at the next event or heartbeat,
//! another incarnation or three seconds of silence make it take the snapshot again.
//!
//! # Secrets
//!
//! Keys travel by a socket of their own, between [`Client::for_secrets`] and [`Server::bind_for_secrets`]. Every
//! buffer of this crate that held such a message is overwritten before it is freed; so is what nng hands out. The
//! message that nng itself sends is freed by nng as it is: it cannot be reached.
//!
//! # Processes and threads
//!
//! nng starts threads of its own with the first socket of a process. Capabilities and seccomp filters belong to
//! threads: drop privileges before. Callbacks of nng only hand a result to the waiting task; no thread of tokio
//! waits for nng.

mod address;
mod answers;
mod call;
mod client;
mod dialing;
mod door;
mod error;
mod follower;
mod incarnation;
mod lane;
mod publisher;
mod router;
mod server;
mod subscription;
mod wiped;

pub use address::PATH_LIMIT;
pub use call::Call;
pub use client::{Client, RequestId, Session};
pub use error::{BusError, CallError, Undecodable};
pub use follower::Resync;
pub use incarnation::Incarnation;
pub use publisher::{HEARTBEAT, Publisher};
pub use router::{Context, Router, refuse};
pub use server::{GRACE, Running, Server};
pub use subscription::{SILENCE, Snapshot, Subscription, Update};

/// Of the messages of `culvert.bus`: raised with each change that an older process would misunderstand.
pub const VERSION: u32 = 1;

/// The largest message, envelope included, in bytes. A longer one ends the connection it comes by.
pub const MESSAGE_LIMIT: usize = 16 << 20;
