//! The processes of a gateway that `culvert run` starts from this same binary, one subcommand each.
//!
//! They are born where they belong and with no more capabilities than they need; what is left to them is to shut the
//! door on system calls they never make ([`confinement`]), to leave no dump of their memory ([`dumps`]) and to call their library.

pub mod confinement;
pub mod dataplane;
pub mod dhcp;
pub mod dumps;
pub mod iked_bridge;
pub mod mgmt;
