//! The management plane of a Culvert gateway.
//!
//! - [`login`]: who may come in over SSH, and to what.
//! - [`store`]: revisions, candidates, secrets and the audit trail on the disk.

pub mod login;
pub mod store;
