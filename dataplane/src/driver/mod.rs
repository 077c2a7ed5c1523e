//! Drivers: what a port is made of. TAPs are in the crate of their own side, tap-inject.

pub mod af_packet;
pub mod generator;
mod offload;
