//! The XDP program: every frame goes to the socket of the queue that it came in by.
//!
//! ```text
//!   r2 = context->rx_queue_index
//!   r1 = sockets                       XSKMAP: queue -> socket
//!   r3 = XDP_DROP                      what becomes of frames of a queue without a socket
//!   return bpf_redirect_map(r1, r2, r3)
//! ```
//!
//! Six instructions need no compiler: they are written down here and loaded by `bpf(2)`. What attaches the program to
//! the interface is a link, which ends with its last descriptor, so also when the process is killed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROGRAM_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const REDIRECT_MAP: i32 = 51;
const XDP_DROP: i32 = 1;
/// Where `rx_queue_index` is in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;
const FLAGS_GENERIC: u32 = 1 << 1;
const FLAGS_NATIVE: u32 = 1 << 2;
/// The program takes frames in several buffers. Since Linux 5.18.
const PROGRAM_HAS_FRAGMENTS: u32 = 1 << 5;

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// In the NIC's driver, before the kernel has made anything of the frame.
    Native,
    /// In the kernel's common receive path: works with every driver, and saves little.
    Generic,
}

/// The program, attached to an interface.
pub struct Redirect {
    map: OwnedFd,
    attachment: Attachment,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half (of machines whose bytes are little-endian).
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

fn program(map: &OwnedFd) -> [Instruction; 6] {
    [
        instruction(0x61, 0x12, RX_QUEUE_INDEX, 0),
        instruction(0x18, 0x11, 0, map.as_raw_fd()),
        Instruction::default(),
        instruction(0xb7, 0x03, 0, XDP_DROP),
        instruction(0x85, 0, 0, REDIRECT_MAP),
        instruction(0x95, 0, 0, 0),
    ]
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attachment: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attachment: u32,
    flags: u32,
}

/// `bpf(2)`.
///
/// # Safety
///
/// `T` is the beginning of the kernel's `union bpf_attr` for this command, and what it points to lives through the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes live through the call and are as long as said; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for commands that make a descriptor.
///
/// # Safety
///
/// As of [`bpf`]; and the command's result is a new descriptor.
unsafe fn make<T>(command: libc::c_long, mut attributes: T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let result = unsafe { bpf(command, &mut attributes) }?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

impl Redirect {
    /// Attaches the program to the interface of this index, which has so many queues: in its driver if that can, else
    /// in the common path. `scattered`: frames may be in several buffers. An error says at what it failed.
    pub fn attach(
        interface: u32,
        queues: u32,
        scattered: bool,
    ) -> Result<Self, (&'static str, io::Error)> {
        let create = MapCreate {
            kind: MAP_TYPE_XSKMAP,
            key_bytes: 4,
            value_bytes: 4,
            entries: queues,
        };
        // SAFETY: bpf_attr begins like this for BPF_MAP_CREATE, which makes a descriptor.
        let map = unsafe { make(MAP_CREATE, create) }.map_err(|error| ("make an XSKMAP", error))?;
        let instructions = program(&map);
        let load = ProgramLoad {
            kind: PROGRAM_TYPE_XDP,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: if scattered { PROGRAM_HAS_FRAGMENTS } else { 0 },
            name: *b"culvert_redirect",
            interface: 0,
            expected_attachment: ATTACH_XDP,
        };
        let load = ProgramLoad {
            // Ends with a zero.
            name: {
                let mut name = load.name;
                name[15] = 0;
                name
            },
            ..load
        };
        // SAFETY: bpf_attr begins like this for BPF_PROG_LOAD, which makes a descriptor; the instructions and the
        // license live until the end of this function.
        let program =
            unsafe { make(PROGRAM_LOAD, load) }.map_err(|error| ("load the XDP program", error))?;
        let link = |flags| {
            let create = LinkCreate {
                program: program.as_raw_fd().cast_unsigned(),
                interface,
                attachment: ATTACH_XDP,
                flags,
            };
            // SAFETY: bpf_attr begins like this for BPF_LINK_CREATE, which makes a descriptor.
            unsafe { make(LINK_CREATE, create) }
        };
        let (link, attachment) = match link(FLAGS_NATIVE) {
            Ok(link) => (link, Attachment::Native),
            Err(error) if is_busy(&error) => return Err(("attach the XDP program", error)),
            Err(native) => match link(FLAGS_GENERIC) {
                Ok(link) => (link, Attachment::Generic),
                Err(error) if is_busy(&error) => return Err(("attach the XDP program", error)),
                // What the driver says of it tells more.
                Err(_) => return Err(("attach the XDP program", native)),
            },
        };
        Ok(Self {
            map,
            attachment,
            _program: program,
            _link: link,
        })
    }

    /// Where it runs.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Lets the frames of a queue go to this socket.
    pub fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd();
        let mut update = MapUpdate {
            map: self.map.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        // SAFETY: bpf_attr begins like this for BPF_MAP_UPDATE_ELEM; key and value are the four bytes that the map was
        // made for, and live through the call.
        unsafe { bpf(MAP_UPDATE, &mut update) }.map(|_| ())
    }
}

/// Another program, or another socket, is still there: after a restart for a while that of the process before.
pub fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
