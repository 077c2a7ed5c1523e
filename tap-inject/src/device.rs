//! TAP devices: made by the supervisor, handed to the dataplane by descriptor number.
//!
//! ```text
//!   supervisor: Tap::create("wan") --- descriptor 5, CULVERT_FDS="tap:wan=5" ---> dataplane: inherited()
//! ```
//!
//! A TAP lives as long as one descriptor of it is open. The supervisor keeps its own, so a TAP (and with it the
//! addresses, routes and sockets on it) outlives the dataplane process.
//!
//! Every frame is preceded by a `virtio_net_hdr` of [`VNET_HEADER_BYTES`] bytes. No offload is switched on: the kernel
//! writes whole frames with finished checksums, and the header of a frame for the kernel may be all zeros.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;

use thiserror::Error;

/// Bytes of the `virtio_net_hdr` before each frame: the kernel's default, without `num_buffers`.
pub const VNET_HEADER_BYTES: usize = 10;

/// The environment variable that names inherited descriptors: `tap:NAME=NUMBER`, separated by commas.
pub const INHERITED_VARIABLE: &str = "CULVERT_FDS";

/// What goes wrong with a TAP.
#[derive(Debug, Error)]
pub enum TapError {
    /// The name cannot be a Linux interface name.
    #[error("{0:?} is no interface name: 1 to 15 bytes without space, '/', ':', ',' or '='")]
    Name(String),
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun")]
    Open(#[source] io::Error),
    /// The kernel refused to make the device.
    #[error("cannot make TAP {name}")]
    Create {
        /// Of the device.
        name: TapName,
        /// `EBUSY`: another device of that name exists or is in use.
        source: io::Error,
    },
    /// The new device cannot be found.
    #[error("TAP {name} has no index")]
    Index {
        /// Of the device.
        name: TapName,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry of [`INHERITED_VARIABLE`] is not `tap:NAME=NUMBER`.
    #[error("{0:?} in CULVERT_FDS is not tap:NAME=NUMBER")]
    Inherited(String),
    /// An inherited number is no open descriptor.
    #[error("descriptor {number} of TAP {name} is not open")]
    Closed {
        /// Of the device.
        name: TapName,
        /// As given.
        number: RawFd,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A name that Linux accepts for an interface, and that can stand in [`INHERITED_VARIABLE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapName(String);

impl TapName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TapName {
    type Err = TapError;

    fn from_str(name: &str) -> Result<Self, TapError> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:,=%".contains(&byte);
        // IFNAMSIZ is 16 with the final zero.
        let fits = (1..libc::IFNAMSIZ).contains(&name.len());
        if fits && name.bytes().all(allowed) && name != "." && name != ".." {
            Ok(Self(name.to_owned()))
        } else {
            Err(TapError::Name(name.to_owned()))
        }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One end of a TAP device, non-blocking, closed on exec.
#[derive(Debug)]
pub struct Tap {
    name: TapName,
    descriptor: OwnedFd,
}

impl Tap {
    /// Makes a TAP in the network namespace of the calling thread. It is down and without carrier until someone sets
    /// it up; it vanishes when the last descriptor of it closes.
    pub fn create(name: TapName) -> Result<Self, TapError> {
        let descriptor: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TapError::Open)?
            .into();
        // SAFETY: an all-zero ifreq is a valid value of that C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // TapName is shorter than ifr_name, so that the last byte stays zero.
        for (place, byte) in request.ifr_name.iter_mut().zip(name.0.bytes()) {
            *place = byte.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives over the call.
        let outcome = unsafe {
            libc::ioctl(
                descriptor.as_raw_fd(),
                libc::TUNSETIFF,
                std::ptr::from_mut(&mut request),
            )
        };
        if outcome < 0 {
            return Err(TapError::Create {
                name,
                source: io::Error::last_os_error(),
            });
        }
        Ok(Self { name, descriptor })
    }

    /// Of the device.
    pub fn name(&self) -> &TapName {
        &self.name
    }

    /// The interface index in the network namespace of the calling thread.
    pub fn index(&self) -> Result<u32, TapError> {
        nix::net::if_::if_nametoindex(self.name.as_str()).map_err(|errno| TapError::Index {
            name: self.name.clone(),
            source: errno.into(),
        })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.descriptor
    }
}

/// The value of [`INHERITED_VARIABLE`] for these names and descriptor numbers.
pub fn inherited_variable<'a>(taps: impl IntoIterator<Item = (&'a TapName, RawFd)>) -> String {
    let entries: Vec<String> = taps
        .into_iter()
        .map(|(name, number)| format!("tap:{name}={number}"))
        .collect();
    entries.join(",")
}

/// Takes over the TAPs that the parent process handed on: the value of [`INHERITED_VARIABLE`].
///
/// To be called once, at the start of the process: it takes ownership of the named descriptors.
pub fn inherited(variable: &str) -> Result<BTreeMap<TapName, Tap>, TapError> {
    let mut numbers: BTreeMap<TapName, RawFd> = BTreeMap::new();
    for entry in variable.split(',').filter(|entry| !entry.is_empty()) {
        let refused = || TapError::Inherited(entry.to_owned());
        let (name, number) = entry
            .strip_prefix("tap:")
            .and_then(|rest| rest.split_once('='))
            .ok_or_else(refused)?;
        let number: RawFd = number.parse().map_err(|_| refused())?;
        if number < 0 || numbers.values().any(|&taken| taken == number) {
            return Err(refused());
        }
        numbers.insert(name.parse()?, number);
    }
    let mut taps = BTreeMap::new();
    for (name, number) in numbers {
        // SAFETY: F_SETFD touches no memory; a closed number answers EBADF.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(TapError::Closed {
                name,
                number,
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: the descriptor is open (checked above), named once only, and the parent passed it for this process
        // alone to own.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        taps.insert(name.clone(), Tap { name, descriptor });
    }
    Ok(taps)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names_that_linux_refuses_are_refused() {
        for name in [
            "",
            "a/b",
            "a b",
            "sixteen-letters!",
            "a:b",
            "a,b",
            "a=b",
            "..",
            "tap%d",
        ] {
            assert!(matches!(name.parse::<TapName>(), Err(TapError::Name(given)) if given == name));
        }
        assert_eq!(
            "wan-0.100".parse::<TapName>().unwrap().as_str(),
            "wan-0.100"
        );
    }

    #[test]
    fn descriptors_pass_by_number() {
        let (one, two) = nix::unistd::pipe().unwrap();
        let wan: TapName = "wan".parse().unwrap();
        let lan: TapName = "lan".parse().unwrap();
        let variable = inherited_variable([(&wan, one.as_raw_fd()), (&lan, two.as_raw_fd())]);
        assert_eq!(
            variable,
            format!("tap:wan={},tap:lan={}", one.as_raw_fd(), two.as_raw_fd())
        );
        let (one, two) = (
            std::os::fd::IntoRawFd::into_raw_fd(one),
            std::os::fd::IntoRawFd::into_raw_fd(two),
        );
        let taps = inherited(&variable).unwrap();
        assert_eq!(taps[&wan].as_fd().as_raw_fd(), one);
        assert_eq!(taps[&lan].as_fd().as_raw_fd(), two);
    }

    #[test]
    fn a_wrong_variable_is_refused() {
        for variable in [
            "wan=5",
            "tap:wan",
            "tap:wan=x",
            "tap:wan=-1",
            "tap:a=9,tap:b=9",
        ] {
            assert!(
                matches!(inherited(variable), Err(TapError::Inherited(_))),
                "{variable}"
            );
        }
        assert!(matches!(
            inherited("tap:wan=1000000"),
            Err(TapError::Closed {
                number: 1_000_000,
                ..
            })
        ));
        assert!(inherited("").unwrap().is_empty());
    }
}
