//! Drivers: what a port is made of. TAPs are in the crate of their own side, tap-inject.

pub mod af_packet;
pub mod af_xdp;
pub mod generator;
mod offload;

use thiserror::Error;

/// The largest MTU of which every frame fits an ordinary buffer, with two VLAN tags before and ESP's padding and ICV
/// behind.
pub const ORDINARY_MTU: u16 = 1836;
/// The largest MTU of which every frame fits a large buffer in the same way: that of every interface.
pub const JUMBO_MTU: u16 = 9216;
const _: () = assert!(14 + 8 + JUMBO_MTU as usize + 17 + 32 <= crate::buffer::LARGE_DATA);

/// The drivers of interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// `AF_PACKET`: works on every interface.
    #[default]
    AfPacket,
    /// `AF_XDP`: faster; for jumbo frames the kernel has to know frames in several buffers.
    AfXdp,
}

/// There is no driver of that name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no driver {0}; there are: af-packet, af-xdp")]
pub struct UnknownDriver(String);

impl std::fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AfPacket => "af-packet",
            Self::AfXdp => "af-xdp",
        })
    }
}

impl std::str::FromStr for DriverChoice {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        [Self::AfPacket, Self::AfXdp]
            .into_iter()
            .find(|driver| driver.to_string() == name)
            .ok_or_else(|| UnknownDriver(name.to_owned()))
    }
}
