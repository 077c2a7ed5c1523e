//! Network laboratories on one machine: namespaces, virtual Ethernet pairs, captures and probes.
//!
//! `culvert lab` is built of these parts, and so are the whole-box tests. Everything needs root, makes
//! only namespaces whose names the caller gives, and touches no interface outside them.
//!
//! ```text
//!   namespace   names under /run/netns, threads and processes inside
//!   netlink     links, addresses, routes of one namespace
//!   offload     what a veth leaves undone, switched off
//!   process     programs inside, bounded in time, never left behind
//!   ping, iperf what Debian's tools measure
//!   knock       when a path opens
//!   probe       numbered UDP: lost, duplicated, reordered
//!   capture     every frame of a namespace, classified and kept
//!   canary      secrets of tests, and whether they stand anywhere
//!   topology    two hosts, two places for gateways and a router, of all these
//! ```

pub mod addressing;
pub mod canary;
pub mod capture;
pub mod classify;
pub mod iperf;
pub mod knock;
pub mod namespace;
pub mod netlink;
pub mod offload;
pub mod packet_socket;
pub mod pcap;
pub mod ping;
pub mod probe;
pub mod process;
pub mod topology;
