//! The management plane of a Culvert gateway: it keeps the configuration, and nothing but it changes it.
//!
//! ```text
//!   command line ──┐                        ┌── store ──── revisions, candidates, secrets, audit trail on the disk
//!   REST, gRPC ────┼── ROOT/run/api ── service ── agent
//!   remote ────────┘   (who is that?)  │    └── hands ──── culvert run: follows the plan, says how far it is
//!                                      └──── observe ───── dataplane, iked-bridge, run: what they do
//! ```
//!
//! - [`store`]: what a power cut leaves is a whole revision.
//! - [`login`]: who may come in over SSH, and to what.
//! - [`agent`]: sessions, commits, and the way back.
//! - [`observe`]: what the gateway does, asked of its processes.
//! - the service gives each request a name and a role by the socket's peer, and each refusal a status.
//!
//! When mgmt dies everything goes on as it was; it comes back, tells `run` the same plan, and nothing is touched.

pub mod agent;
mod connections;
pub mod login;
pub mod observe;
mod operating;
mod pki;
mod process;
mod sealed;
mod service;
pub mod store;
mod syslog;

pub use process::{Import, Options, ProcessError, STORE, run};
