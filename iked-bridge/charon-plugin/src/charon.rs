//! The charon that loaded the plugin: its symbols, its log, and the events it can be told of.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_void};
use std::ffi::CString;
use std::net::IpAddr;

use culvert_plugin_wire as wire;

use crate::abi_5_9_8 as abi;
use crate::client::Daemon;

/// Why the plugin does not load into a charon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CharonError {
    /// A symbol of libcharon or libstrongswan is not there.
    #[error("no symbol {0:?}: this is not charon")]
    Symbol(&'static CStr),
    /// charon's executable cannot be read.
    #[error("charon's executable cannot be read: {0}")]
    Executable(#[from] std::io::Error),
    /// charon is of another version than the plugin.
    #[error("this charon is not strongSwan {0}, which the plugin was built for")]
    Version(&'static str),
}

/// Pointers into libcharon and libstrongswan, which outlive the plugin.
pub(crate) struct Charon {
    /// The variable `charon`, a pointer to the daemon.
    daemon: *mut *mut abi::Daemon,
    /// The variable `dbg`, a pointer to the function that logs now.
    dbg: *mut abi::Dbg,
    host_create: abi::HostCreateFromChunk,
    selector_create: abi::TrafficSelectorCreateFromBytes,
    /// The function `kernel_ipsec_register`, which is only passed on.
    pub(crate) kernel_ipsec_register: *const c_void,
}

// SAFETY: the pointers are to code and to variables of libraries that stay loaded. What they point to is charon's own
// shared state, which charon makes safe to use from any thread (its log and its kernel interface lock).
unsafe impl Send for Charon {}
// SAFETY: as above.
unsafe impl Sync for Charon {}

impl Charon {
    /// Finds the charon that this process is, and refuses any but the version of [`abi`].
    pub(crate) fn find() -> Result<Self, CharonError> {
        let charon = Self {
            daemon: symbol(c"charon")?.cast(),
            dbg: symbol(c"dbg")?.cast(),
            // SAFETY: libstrongswan exports a function of this name and, in the version checked below, of this type.
            host_create: unsafe {
                core::mem::transmute::<*mut c_void, abi::HostCreateFromChunk>(symbol(
                    c"host_create_from_chunk",
                )?)
            },
            // SAFETY: as above.
            selector_create: unsafe {
                core::mem::transmute::<*mut c_void, abi::TrafficSelectorCreateFromBytes>(symbol(
                    c"traffic_selector_create_from_bytes",
                )?)
            },
            kernel_ipsec_register: symbol(c"kernel_ipsec_register")?,
        };
        // charon exports no version, but its executable has it as a string, and Debian ties executable and libraries to
        // the same build.
        let executable = std::fs::read("/proc/self/exe")?;
        let marker = [b"\0", abi::VERSION.as_bytes(), b"\0"].concat();
        if executable
            .windows(marker.len())
            .any(|window| window == marker)
        {
            Ok(charon)
        } else {
            Err(CharonError::Version(abi::VERSION))
        }
    }

    fn kernel(&self) -> Option<*mut abi::KernelInterface> {
        // SAFETY: `daemon` is the address of charon's global; it is null only before charon initialises and after it
        // ends, and the client's gate closes before the latter.
        let kernel = unsafe { (*self.daemon).as_ref()?.kernel };
        (!kernel.is_null()).then_some(kernel)
    }

    /// A host of charon's, freed when dropped.
    fn host(&self, host: Option<&wire::Host>) -> Option<OwnedHost> {
        let address = host?.socket_addr().ok()?;
        let mut bytes = AddressBytes::new(address.ip());
        // SAFETY: the function copies the bytes the chunk points to and checks their count against the family.
        let raw = unsafe { (self.host_create)(bytes.family(), bytes.chunk(), address.port()) };
        (!raw.is_null()).then_some(OwnedHost(raw))
    }

    /// A traffic selector of charon's, freed when dropped.
    fn selector(&self, selector: Option<&wire::Selector>) -> Option<OwnedSelector> {
        let selector = selector?;
        let range = selector.address_range().ok()?;
        let (from_port, to_port) = selector.ports().ok()?;
        let protocol = selector.ip_protocol().ok()?;
        let (mut from, mut to) = (
            AddressBytes::new(*range.start()),
            AddressBytes::new(*range.end()),
        );
        let kind = match range.start() {
            IpAddr::V4(_) => abi::TS_IPV4_ADDR_RANGE,
            IpAddr::V6(_) => abi::TS_IPV6_ADDR_RANGE,
        };
        // SAFETY: the function copies the bytes both chunks point to.
        let raw = unsafe {
            (self.selector_create)(protocol, kind, from.chunk(), from_port, to.chunk(), to_port)
        };
        (!raw.is_null()).then_some(OwnedSelector(raw))
    }
}

impl Daemon for Charon {
    fn acquire(&self, acquire: &wire::Acquire) {
        let Some(kernel) = self.kernel() else { return };
        let (src, dst) = (
            self.selector(acquire.src_ts.as_ref()),
            self.selector(acquire.dst_ts.as_ref()),
        );
        let mut data = abi::AcquireData {
            src: src
                .as_ref()
                .map_or(core::ptr::null_mut(), |selector| selector.0),
            dst: dst
                .as_ref()
                .map_or(core::ptr::null_mut(), |selector| selector.0),
            label: core::ptr::null_mut(),
        };
        // SAFETY: the kernel interface is alive (see `kernel`); its listeners copy what they keep of the data, whose
        // selectors live until the end of this function.
        unsafe { ((*kernel).acquire)(kernel, acquire.reqid, &raw mut data) }
    }

    fn expire(&self, expire: &wire::Expire) {
        let (Some(kernel), Some(dst)) = (self.kernel(), self.host(expire.dst.as_ref())) else {
            return self.log("an expire without an address was ignored");
        };
        // SAFETY: as in `acquire`.
        unsafe {
            ((*kernel).expire)(
                kernel,
                protocol(expire.protocol),
                expire.spi.to_be(),
                dst.0,
                expire.hard,
            );
        }
    }

    fn mapping(&self, mapping: &wire::Mapping) {
        let (Some(kernel), Some(dst), Some(remote)) = (
            self.kernel(),
            self.host(mapping.dst.as_ref()),
            self.host(mapping.remote.as_ref()),
        ) else {
            return self.log("a mapping without addresses was ignored");
        };
        // SAFETY: as in `acquire`.
        unsafe {
            ((*kernel).mapping)(
                kernel,
                protocol(mapping.protocol),
                mapping.spi.to_be(),
                dst.0,
                remote.0,
            );
        }
    }

    fn log(&self, line: &str) {
        let Ok(line) = CString::new(line) else { return };
        // SAFETY: `dbg` is the address of libstrongswan's variable, never null; it takes a format and what that needs.
        unsafe { (*self.dbg)(abi::DBG_KNL, 1, c"culvert: %s".as_ptr(), line.as_ptr()) }
    }
}

fn protocol(protocol: u32) -> u8 {
    u8::try_from(protocol)
        .ok()
        .filter(|protocol| *protocol != 0)
        .unwrap_or(libc::IPPROTO_ESP as u8)
}

fn symbol(name: &'static CStr) -> Result<*mut c_void, CharonError> {
    // SAFETY: the name is a C string; the result is only compared with null here.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        Err(CharonError::Symbol(name))
    } else {
        Ok(address)
    }
}

struct OwnedHost(*mut abi::Host);

impl Drop for OwnedHost {
    fn drop(&mut self) {
        // SAFETY: charon made it for us and nobody else has it.
        unsafe { ((*self.0).destroy)(self.0) }
    }
}

struct OwnedSelector(*mut abi::TrafficSelector);

impl Drop for OwnedSelector {
    fn drop(&mut self) {
        // SAFETY: charon made it for us and nobody else has it.
        unsafe { ((*self.0).destroy)(self.0) }
    }
}

/// The bytes of an address, for a function that wants to be pointed at them.
struct AddressBytes {
    bytes: [u8; 16],
    length: usize,
}

impl AddressBytes {
    fn new(address: IpAddr) -> Self {
        let mut bytes = [0; 16];
        let length = match address {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                4
            }
            IpAddr::V6(v6) => {
                bytes = v6.octets();
                16
            }
        };
        Self { bytes, length }
    }

    fn family(&self) -> i32 {
        if self.length == 4 {
            libc::AF_INET
        } else {
            libc::AF_INET6
        }
    }

    fn chunk(&mut self) -> abi::Chunk {
        abi::Chunk {
            ptr: self.bytes.as_mut_ptr(),
            len: self.length,
        }
    }
}
