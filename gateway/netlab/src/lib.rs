//! Network laboratories on one machine: namespaces, virtual Ethernet pairs, captures and probes.
//!
//! `culvert lab` is built of these parts, and so are the whole-box tests.

pub mod namespace;
pub mod netlink;
pub mod offload;
