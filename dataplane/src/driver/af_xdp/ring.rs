//! The rings that an `AF_XDP` socket shares with the kernel: one side writes entries, the other takes them.
//!
//! ```text
//!   consumer ---.            .--- producer        both count on and on; the entry is number & mask
//!   | taken     | waits ...  | free               whoever owns a counter stores it last (release),
//!                                                 the other side loads it first (acquire)
//! ```
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A ring that is mapped.
struct Mapping<T> {
    base: NonNull<u8>,
    bytes: usize,
    offsets: libc::xdp_ring_offset,
    mask: u32,
    _entries: PhantomData<T>,
}

// SAFETY: the mapping belongs to the one port that holds it; nothing else in the process knows its address.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Mapping::new` with this length, and unreachable from now on.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A `u32` or `u64` of the kernel's, or a descriptor of a frame.
pub trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for libc::xdp_desc {}

impl<T: Entry> Mapping<T> {
    /// Maps a ring of `entries`, a power of two, that was made on the socket.
    fn new(
        socket: &OwnedFd,
        page: u64,
        entries: u32,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let bytes = offsets.desc as usize + entries as usize * size_of::<T>();
        // SAFETY: a new shared mapping at an address of the kernel's choice, of the size that the ring was made with.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page.cast_signed(),
            )
        };
        match NonNull::new(base.cast()) {
            Some(found) if base != libc::MAP_FAILED => Ok(Self {
                base: found,
                bytes,
                offsets,
                mask: entries - 1,
                _entries: PhantomData,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel said that an aligned u32 of the ring is there, and both sides access it atomically.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset as usize).cast()) }
    }

    #[inline(always)]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    #[inline(always)]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    #[inline(always)]
    #[allow(
        clippy::cast_ptr_alignment,
        reason = "the kernel aligns entries to a cache line"
    )]
    fn entry(&self, number: u32) -> *mut T {
        let offset = self.offsets.desc as usize + (number & self.mask) as usize * size_of::<T>();
        // SAFETY: the mask keeps the number below that of the entries for which `new` mapped room.
        unsafe { self.base.as_ptr().add(offset).cast() }
    }
}

/// A ring that we write: fill or transmit.
pub struct Producer<T> {
    ring: Mapping<T>,
    next: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps it.
    pub fn new(
        socket: &OwnedFd,
        page: u64,
        entries: u32,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Mapping::new(socket, page, entries, offsets)?,
            next: 0,
        })
    }

    /// Entries that the kernel has not taken yet, with those that it has not been shown.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.next
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Entries for which there is room.
    #[inline]
    pub fn room(&self) -> u32 {
        (self.ring.mask + 1).saturating_sub(self.waiting())
    }

    /// Writes an entry; only when there is room. The kernel sees it after [`Producer::submit`].
    #[inline]
    pub fn push(&mut self, entry: T) {
        debug_assert!(self.room() > 0);
        // SAFETY: inside the mapping; the kernel does not read it before the producer's counter says so.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was written.
    #[inline]
    pub fn submit(&self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel goes on only after a system call.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring
            .word(self.ring.offsets.flags)
            .load(Ordering::Relaxed)
            & libc::XDP_RING_NEED_WAKEUP
            != 0
    }

    /// Changes every entry that the kernel has not taken. Only where the kernel reads in our own system calls alone.
    pub fn change_waiting(&mut self, mut change: impl FnMut(&mut T)) {
        let waiting = self.waiting();
        for back in (1..=waiting).rev() {
            // SAFETY: inside the mapping, and written by us before; nobody else reads it now, as the caller promises.
            // Were the kernel to read at the same time, it would see an old or a new value: it trusts neither.
            change(unsafe { &mut *self.ring.entry(self.next.wrapping_sub(back)) });
        }
    }
}

/// A ring that we read: received or completed.
pub struct Consumer<T> {
    ring: Mapping<T>,
    next: u32,
    /// The producer's counter as it was last seen.
    known: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps it.
    pub fn new(
        socket: &OwnedFd,
        page: u64,
        entries: u32,
        offsets: libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Mapping::new(socket, page, entries, offsets)?,
            next: 0,
            known: 0,
        })
    }

    /// Takes an entry; its place is free after [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.known {
            self.known = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.known {
                return None;
            }
        }
        // SAFETY: inside the mapping; the kernel has written it, since its counter is beyond, and does not write it again
        // before ours is.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of the entries taken back to the kernel.
    #[inline]
    pub fn release(&self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
