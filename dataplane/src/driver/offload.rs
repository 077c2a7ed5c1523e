//! Switches an interface's receive offloads off while the dataplane owns it (ethtool's ioctls).
//!
//! With GRO or LRO the kernel glues frames together that are larger than the MTU: a router must forward what was
//! sent. What only the sender can switch off (segmentation and checksum offload of a veth peer) is dealt with by the
//! driver: unfilled checksums are completed, larger frames are counted.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// What was changed on an interface; changed back when dropped.
pub struct Offloads {
    socket: OwnedFd,
    device: CString,
    restore: Vec<(u32, u32)>,
}

impl Offloads {
    /// Switches GRO and LRO off. A device that knows neither is left alone.
    pub fn switch_off(device: &str) -> Option<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .ok()?;
        let mut offloads = Self {
            socket,
            device: CString::new(device).ok()?,
            restore: Vec::new(),
        };
        if let Some(gro) = offloads.call(ETHTOOL_GGRO, 0)
            && gro != 0
            && offloads.call(ETHTOOL_SGRO, 0).is_some()
        {
            offloads.restore.push((ETHTOOL_SGRO, gro));
        }
        if let Some(features) = offloads.call(ETHTOOL_GFLAGS, 0)
            && features & ETH_FLAG_LRO != 0
            && offloads
                .call(ETHTOOL_SFLAGS, features & !ETH_FLAG_LRO)
                .is_some()
        {
            offloads.restore.push((ETHTOOL_SFLAGS, features));
        }
        Some(offloads)
    }

    fn call(&self, command: u32, data: u32) -> Option<u32> {
        let mut value = Value { command, data };
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request
            .ifr_name
            .iter_mut()
            .zip(self.device.as_bytes().iter().take(libc::IFNAMSIZ - 1))
        {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value it points to live until the call returns, and SIOCETHTOOL with one of the
        // commands above reads and writes exactly a `struct ethtool_value` there.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        (result == 0).then_some(value.data)
    }
}

impl Drop for Offloads {
    fn drop(&mut self) {
        for (command, data) in &self.restore {
            // An interface that is gone has nothing to restore.
            let _ = self.call(*command, *data);
        }
    }
}
