//! Self-traffic: how packets for the gateway itself reach Linux, and how Linux's own packets leave.
//!
//! ```text
//!                dataplane namespace          |            self namespace
//!   NIC <-> graph <-> punt / inject nodes <-- TAP descriptor --> TAP <-> Linux <-> charon, sshd ...
//!                                             |                   ^
//!                                             |     mirror: addresses and routes (netlink)
//! ```
//!
//! Every dataplane interface with self-traffic has a TAP with its MAC address, MTU and addresses. The descriptor
//! crosses the border between the namespaces, no packet of the kernel does: the kernel never handles a frame of an
//! interface that the dataplane owns.
//!
//! - [`device`] makes TAPs and hands their descriptors to another process.
//! - [`port`] makes a TAP a port of the graph, [`nodes`] are the two nodes between them.
//! - [`mirror`] writes links, addresses and routes to Linux and reads back what is there, and what routes others wrote.

pub mod device;
pub mod mirror;
pub mod nodes;
pub mod port;
