//! Offloads of a virtual Ethernet device, by the ethtool ioctls.
//!
//! A veth pair has no wire, so its kernel leaves undone what a wire would force: checksums stay unfilled
//! and segments stay glued together in one "packet" of up to 64 KiB. Whoever reads raw frames at the
//! other end sees both. A network that stands for real cables therefore switches off, at *every* end:
//!
//! | offload | what it would do to the frames of a raw reader |
//! | --- | --- |
//! | TX checksum | leave TCP and UDP checksums unfilled |
//! | TSO | send one frame of many TCP segments |
//! | GSO | the same, segmented as late as the driver, and for UDP |
//! | GRO | glue received segments together before they are forwarded |
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Why an offload could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// Longer than the kernel's 15 bytes, or empty.
    #[error("{0:?} is not a name for a device")]
    Name(String),
    /// No socket to ask through.
    #[error("socket: {0}")]
    Socket(#[source] io::Error),
    /// The device refused.
    #[error("{device}: {offload:?}: {source}")]
    Refused {
        /// The device.
        device: String,
        /// The offload.
        offload: Offload,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What a device may do for its kernel, and should not in a laboratory of raw frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Fills the checksums of TCP and UDP.
    TxChecksum,
    /// Cuts TCP streams into segments.
    TcpSegmentation,
    /// Segmentation put off until the driver.
    GenericSegmentation,
    /// Glues received segments together.
    GenericReceive,
}

impl Offload {
    /// All of them, in an order in which each can be switched off.
    pub const ALL: [Self; 4] = [
        Self::TcpSegmentation,
        Self::GenericSegmentation,
        Self::GenericReceive,
        Self::TxChecksum,
    ];

    /// `ETHTOOL_G...` and `ETHTOOL_S...` of linux/ethtool.h.
    const fn commands(self) -> (u32, u32) {
        match self {
            Self::TxChecksum => (0x16, 0x17),
            Self::TcpSegmentation => (0x1e, 0x1f),
            Self::GenericSegmentation => (0x23, 0x24),
            Self::GenericReceive => (0x2b, 0x2c),
        }
    }
}

/// `struct ethtool_value`
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ifreq` with the member of its union that SIOCETHTOOL reads.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut c_void,
    rest_of_union: [u8; 16],
}

/// Switches every offload of [`Offload::ALL`] off, for a device of the calling thread's namespace.
pub fn switch_off_all(device: &str) -> Result<(), OffloadError> {
    Offload::ALL
        .into_iter()
        .try_for_each(|offload| set(device, offload, false))
}

/// Switches one offload of a device of the calling thread's namespace.
pub fn set(device: &str, offload: Offload, on: bool) -> Result<(), OffloadError> {
    exchange(
        device,
        offload,
        EthtoolValue {
            command: offload.commands().1,
            data: u32::from(on),
        },
    )
    .map(drop)
}

/// Whether an offload of a device of the calling thread's namespace is on.
pub fn get(device: &str, offload: Offload) -> Result<bool, OffloadError> {
    Ok(exchange(
        device,
        offload,
        EthtoolValue {
            command: offload.commands().0,
            data: 0,
        },
    )? != 0)
}

fn exchange(device: &str, offload: Offload, mut value: EthtoolValue) -> Result<u32, OffloadError> {
    let mut name = [0_u8; libc::IFNAMSIZ];
    let bytes = device.as_bytes();
    match name.get_mut(..bytes.len()) {
        Some(room) if !bytes.is_empty() && bytes.len() < libc::IFNAMSIZ => {
            room.copy_from_slice(bytes);
        }
        _ => return Err(OffloadError::Name(device.to_owned())),
    }
    let socket: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| OffloadError::Socket(errno.into()))?;
    let mut request = InterfaceRequest {
        name,
        data: (&raw mut value).cast(),
        rest_of_union: [0; 16],
    };
    // SAFETY: the request is a whole `struct ifreq` (40 bytes) and its data points to a whole
    // `struct ethtool_value`; both live across the call, which writes to nothing else.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        let source = io::Error::last_os_error();
        return Err(OffloadError::Refused {
            device: device.to_owned(),
            offload,
            source,
        });
    }
    Ok(value.data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        namespace::Namespace,
        netlink::{VethEnd, add_veth},
    };

    #[test]
    fn the_request_has_the_size_of_ifreq() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn offloads_of_a_pair_go_off_and_stay_off() {
        let name = format!("culvert-unit-{}-offload", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        let end = |name| VethEnd {
            namespace: &namespace,
            name,
        };
        add_veth(end("one"), end("two"), 1500).unwrap();
        namespace
            .enter(|| {
                assert!(
                    get("one", Offload::TxChecksum).unwrap(),
                    "veth starts with it on"
                );
                switch_off_all("one").unwrap();
                for offload in Offload::ALL {
                    assert!(!get("one", offload).unwrap(), "{offload:?}");
                }
                assert!(matches!(
                    get("none", Offload::TxChecksum),
                    Err(OffloadError::Refused { .. })
                ));
                assert!(matches!(
                    get("a-name-too-long-for-it", Offload::TxChecksum),
                    Err(OffloadError::Name(_))
                ));
            })
            .unwrap();
        Namespace::remove(&name).unwrap();
    }
}
