//! The vector packet processor of a gateway.
//!
//! ```text
//!            control thread (bus: apply, retrieve, SAs, show)
//!                 | publishes Tables            ^ Events
//!                 v                             |
//!   worker 0..N:  ports --rx--> graph of nodes, 256 packets at a time --tx--> ports
//! ```
//!
//! A worker takes up to 256 packets from a port and runs each node of the graph over all of them before the next
//! node, so that code stays in the instruction cache and data is prefetched ([`graph`]). Packets lie in buffers of
//! one region ([`buffer`]). What nodes look up is published by the control thread and read without locks
//! ([`tables`], [`fib`]). What becomes of a packet on its way can be looked at while it runs ([`observe`]).

pub mod buffer;
pub mod chunked;
pub mod clock;
pub mod control;
pub mod counters;
pub mod driver;
pub mod drop_reason;
pub mod encapsulation;
pub mod event;
pub mod fib;
pub mod graph;
mod mapping;
pub mod nodes;
pub mod observe;
pub mod path_mtu;
pub mod port;
mod prefetch;
pub mod process;
pub mod reassembly;
pub mod sa;
pub mod sharded;
pub mod tables;
pub mod vlan;
pub mod worker;
