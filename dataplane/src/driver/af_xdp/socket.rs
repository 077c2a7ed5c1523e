//! One `AF_XDP` socket: the four rings of one queue, and the memory in which the kernel reads and writes frames.
//!
//! ```text
//!              fill: buffers to write to -->           --> transmit: frames to send
//!   us <----                             kernel, NIC                                ----> us
//!          <-- received: frames in them                <-- completion: buffers sent
//! ```
//!
//! Every socket registers the whole memory of its worker's buffers for itself: each can have its own mode (copy or zero
//! copy), none depends on another to stay open, and the kernel touches only what the socket has lent it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::ring::{Consumer, Producer};
use crate::buffer::{AREA, Memory};

/// Entries of the rings of frames received and of buffers to receive into, as of `AF_PACKET`'s ring.
pub const RECEIVE: u32 = 4096;
/// Entries of the ring of frames to send.
pub const TRANSMIT: u32 = 2048;
/// Entries of the ring of buffers sent: with room for what was sent and not reaped.
pub const COMPLETION: u32 = 4096;
/// Bytes before a frame that the kernel keeps free for XDP programs.
const XDP_HEADROOM: usize = 256;
/// Bytes of the largest frame.
pub const LARGEST: usize = AREA - XDP_HEADROOM;
/// Frames that one system call may send in copy mode; kernels that do not know it send 32.
const MAX_TX_SKB_BUDGET: (i32, u32) = (9, TRANSMIT);
/// Bytes under way in the kernel in copy mode.
const SEND_BYTES: i32 = 8 << 20;

/// See the module. Fields are dropped in order: the memory outlives the kernel's use of it.
pub struct Socket {
    /// Buffers to receive into.
    pub fill: Producer<u64>,
    /// Frames received.
    pub received: Consumer<libc::xdp_desc>,
    /// Frames to send.
    pub transmit: Producer<libc::xdp_desc>,
    /// Buffers sent.
    pub completed: Consumer<u64>,
    fd: OwnedFd,
    zero_copy: bool,
    /// Frames may be in several buffers.
    scattered: bool,
    _memory: Memory,
}

/// What the kernel has counted.
#[derive(Clone, Copy, Default)]
pub struct Statistics {
    /// Frames for which there was no buffer or no room in the ring.
    pub no_room: u64,
    /// Frames that a buffer does not take.
    pub refused: u64,
    /// Descriptors of ours that the kernel found wrong.
    pub invalid: u64,
}

type Step<T> = Result<T, (&'static str, io::Error)>;

impl Socket {
    /// Opens the socket of a queue of an interface: without copies if the NIC can and the memory is made for it. With the
    /// memory of large buffers frames may be in several buffers.
    pub fn open(interface: u32, queue: u32, memory: &Memory) -> Step<Self> {
        if memory.huge_pages()
            && let Ok(socket) = Self::open_as(interface, queue, memory, libc::XDP_ZEROCOPY)
        {
            return Ok(socket);
        }
        Self::open_as(interface, queue, memory, libc::XDP_COPY)
    }

    fn open_as(interface: u32, queue: u32, memory: &Memory, mode: u16) -> Step<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_XDP,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        if fd < 0 {
            return Err(("open an AF_XDP socket", io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let register = libc::xdp_umem_reg {
            addr: memory.start().as_ptr() as u64,
            len: memory.bytes() as u64,
            chunk_size: AREA as u32,
            headroom: 0,
            flags: libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
            tx_metadata_len: 0,
        };
        set(&fd, libc::XDP_UMEM_REG, &register)
            .map_err(|error| ("register packet buffers", error))?;
        for (option, entries) in [
            (libc::XDP_UMEM_FILL_RING, RECEIVE),
            (libc::XDP_UMEM_COMPLETION_RING, COMPLETION),
            (libc::XDP_RX_RING, RECEIVE),
            (libc::XDP_TX_RING, TRANSMIT),
        ] {
            set(&fd, option, &entries).map_err(|error| ("make a ring", error))?;
        }
        // Without them fewer frames are sent a call.
        let _ = set(&fd, MAX_TX_SKB_BUDGET.0, &MAX_TX_SKB_BUDGET.1);
        let _ = set_at(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BYTES);
        let offsets = offsets(&fd).map_err(|error| ("read where rings are", error))?;
        let mapped = |error| ("map a ring", error);
        let fill = Producer::new(&fd, libc::XDP_UMEM_PGOFF_FILL_RING, RECEIVE, offsets.fr)
            .map_err(mapped)?;
        let completed = Consumer::new(
            &fd,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            COMPLETION,
            offsets.cr,
        )
        .map_err(mapped)?;
        let received = Consumer::new(
            &fd,
            libc::XDP_PGOFF_RX_RING.cast_unsigned(),
            RECEIVE,
            offsets.rx,
        )
        .map_err(mapped)?;
        let transmit = Producer::new(
            &fd,
            libc::XDP_PGOFF_TX_RING.cast_unsigned(),
            TRANSMIT,
            offsets.tx,
        )
        .map_err(mapped)?;
        let scattered = memory.has_large();
        // Since Linux 6.6.
        let scatter = if scattered { libc::XDP_USE_SG } else { 0 };
        let flags = mode | libc::XDP_USE_NEED_WAKEUP | scatter;
        bind(&fd, interface, queue, flags).map_err(|error| ("bind to a queue", error))?;
        Ok(Self {
            fill,
            received,
            transmit,
            completed,
            fd,
            zero_copy: mode == libc::XDP_ZEROCOPY,
            scattered,
            _memory: memory.clone(),
        })
    }

    /// Whether the NIC reads and writes the buffers itself.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Lets the kernel send what is in the transmit ring.
    pub fn send(&self) -> io::Result<()> {
        // SAFETY: no data and no address: what is sent is in the ring.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Lets the kernel see that there are buffers again.
    pub fn wake_receiver(&self) {
        // SAFETY: no data and no address, as in `send`.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }

    /// What the kernel has counted since the socket was opened.
    pub fn statistics(&self) -> Option<Statistics> {
        // SAFETY: an all-zero structure of counters is a valid one.
        let mut counted: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        get(&self.fd, libc::XDP_STATISTICS, &mut counted).ok()?;
        let (dropped, no_buffer) = (counted.rx_dropped, counted.rx_fill_ring_empty_descs);
        // In copy mode a frame without a buffer is counted in both, but one that found fewer buffers than it needs is
        // not; and none is too large then.
        let (no_buffer, refused) = if self.scattered {
            (no_buffer.max(dropped), 0)
        } else {
            (no_buffer, dropped.saturating_sub(no_buffer))
        };
        Some(Statistics {
            no_room: counted.rx_ring_full + no_buffer,
            refused,
            invalid: counted.rx_invalid_descs + counted.tx_invalid_descs,
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set<T>(fd: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    set_at(fd, libc::SOL_XDP, option, value)
}

fn set_at<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value lives through the call and is as long as said; each caller passes the type that the kernel
    // documents for the option.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn get<T>(fd: &OwnedFd, option: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives through the call, the length is its own, and each caller passes a structure of plain
    // numbers, the one that the kernel documents for the option.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: an all-zero structure of offsets is a valid one.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    get(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

fn bind(fd: &OwnedFd, interface: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the address is a whole sockaddr_xdp and lives through the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
