//! What ethtool's ioctls do for drivers: receive offloads are off while the dataplane owns an interface, and what it has
//! (queues, driver, MTU) is asked for.
//!
//! With GRO or LRO the kernel glues frames together that are larger than the MTU: a router must forward what was
//! sent. What only the sender can switch off (segmentation and checksum offload of a veth peer) is dealt with by the
//! driver: unfilled checksums are completed, larger frames are counted.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    others: [[u8; 32]; 4],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// What is a structure that begins with a command of ethtool's, which reads and writes that structure.
///
/// # Safety
///
/// The structure is the one that the kernel documents for each command that is put into it.
unsafe trait Command {}
// SAFETY: of the commands with one word of data.
unsafe impl Command for Value {}
// SAFETY: of ETHTOOL_GCHANNELS.
unsafe impl Command for Channels {}
// SAFETY: of ETHTOOL_GDRVINFO.
unsafe impl Command for DriverInfo {}

fn open_socket() -> Option<OwnedFd> {
    socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()
}

/// A request about an interface of the caller's network namespace.
fn request_for(device: &[u8]) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(device.iter().take(libc::IFNAMSIZ - 1))
    {
        *to = *from as libc::c_char;
    }
    request
}

fn ethtool<T: Command>(socket: &OwnedFd, device: &[u8], command: &mut T) -> bool {
    let mut request = request_for(device);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
    // SAFETY: the request and the structure it points to live until the call returns, and SIOCETHTOOL reads and writes
    // exactly that structure, as whoever implemented `Command` for it has promised.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    result == 0
}

/// Queues by which an interface receives; one where the driver does not say.
pub fn receive_queues(device: &str) -> u32 {
    let mut channels = Channels {
        command: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    let known =
        open_socket().is_some_and(|socket| ethtool(&socket, device.as_bytes(), &mut channels));
    if known {
        channels.receive.saturating_add(channels.combined).max(1)
    } else {
        1
    }
}

/// The kernel's driver of an interface.
pub fn driver(device: &str) -> Option<String> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        others: [[0; 32]; 4],
        reserved: [0; 12],
        counts: [0; 5],
    };
    ethtool(&open_socket()?, device.as_bytes(), &mut info).then(|| {
        String::from_utf8_lossy(&info.driver)
            .trim_end_matches('\0')
            .to_owned()
    })
}

/// Sets what [`mtu`] reads. It stays when the dataplane is gone: whoever moved the interface to it restores it.
pub fn set_mtu(device: &str, mtu: u32) -> std::io::Result<()> {
    let socket = open_socket().ok_or_else(std::io::Error::last_os_error)?;
    let mut request = request_for(device.as_bytes());
    request.ifr_ifru.ifru_mtu = mtu.cast_signed();
    // SAFETY: SIOCSIFMTU reads the name and the MTU; the request lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Bytes of the largest IP packet that the kernel sends by an interface.
pub fn mtu(device: &str) -> Option<u32> {
    let mut request = request_for(device.as_bytes());
    // SAFETY: SIOCGIFMTU reads the name and writes the MTU; the request lives until the call returns.
    let result = unsafe {
        libc::ioctl(
            open_socket()?.as_raw_fd(),
            libc::SIOCGIFMTU,
            &raw mut request,
        )
    };
    // SAFETY: the member that the call has written.
    (result == 0).then(|| unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
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
        let socket = open_socket()?;
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

    /// Leaves VLAN tags in the frames: a NIC that takes them out tells the kernel, and XDP has no place for it.
    pub fn leave_tags(device: &str) -> Option<Self> {
        let mut offloads = Self {
            socket: open_socket()?,
            device: CString::new(device).ok()?,
            restore: Vec::new(),
        };
        if let Some(features) = offloads.call(ETHTOOL_GFLAGS, 0)
            && features & ETH_FLAG_RXVLAN != 0
            && offloads
                .call(ETHTOOL_SFLAGS, features & !ETH_FLAG_RXVLAN)
                .is_some()
        {
            offloads.restore.push((ETHTOOL_SFLAGS, features));
        }
        Some(offloads)
    }

    fn call(&self, command: u32, data: u32) -> Option<u32> {
        let mut value = Value { command, data };
        ethtool(&self.socket, self.device.as_bytes(), &mut value).then_some(value.data)
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
