//! The management plane of a Culvert gateway.
//!
//! - [`store`]: revisions, candidates, secrets and the audit trail on the disk.

pub mod store;
