//! Memory straight from the kernel, for what is too large or too long-lived for the allocator: packet buffers and the
//! nodes of forwarding tables.
//!
//! Both are walked in random order, so they ask for huge pages: with 4 KiB pages a packet costs some 60 to 90 clk more.
//! Under Miri, which knows no mappings, the memory is the allocator's: what is built on it is checked there.
#![allow(unsafe_code)]

use std::ptr::NonNull;

/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// Pages that a mapping is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Huge ones, and all memory at once; if the kernel has none left, ordinary ones that it may join.
    Huge,
    /// Ordinary ones that the kernel must not join: to compare with.
    Small,
    /// Addresses only; memory comes with the first touch, in ordinary pages that the kernel may join.
    Reserved,
}

/// A range of zeroed memory, read and written by whoever owns it, given back when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    huge: bool,
}

// SAFETY: it is plain memory; who may touch which part is decided by its owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; it gives no way to its bytes but an address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least `bytes`, aligned to a page.
    pub(crate) fn new(bytes: usize, pages: Pages) -> Result<Self, nix::Error> {
        system::map(bytes.max(1), pages).map(|(base, bytes, huge)| Self { base, bytes, huge })
    }

    /// Its first byte.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the kernel had huge pages left for it.
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge
    }

    /// Keeps it for the life of the process.
    pub(crate) fn leak(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and size are those of `map`, and whoever reached the memory did so through this owner, which goes.
        unsafe { system::unmap(self.base, self.bytes) };
    }
}

#[cfg(not(miri))]
mod system {
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::{HUGE, Pages};

    pub(super) fn map(
        bytes: usize,
        pages: Pages,
    ) -> Result<(NonNull<u8>, usize, bool), nix::Error> {
        let bytes = bytes
            .checked_next_multiple_of(HUGE)
            .ok_or(nix::Error::ENOMEM)?;
        let length = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL)?;
        let map = |flags: MapFlags| {
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
            unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE | flags) }
        };
        if pages == Pages::Huge
            && let Ok(base) = map(MapFlags::MAP_HUGETLB | MapFlags::MAP_POPULATE)
        {
            return Ok((base.cast(), bytes, true));
        }
        let base = map(match pages {
            Pages::Huge | Pages::Small => MapFlags::empty(),
            Pages::Reserved => MapFlags::MAP_NORESERVE,
        })?;
        let advice = match pages {
            Pages::Huge | Pages::Reserved => MmapAdvise::MADV_HUGEPAGE,
            Pages::Small => MmapAdvise::MADV_NOHUGEPAGE,
        };
        // SAFETY: the range is the mapping just made; the advice does not change its contents.
        let _ = unsafe { madvise(base, bytes, advice) };
        Ok((base.cast(), bytes, false))
    }

    /// # Safety
    /// The range is one that `map` made, and nobody touches it again.
    pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        // SAFETY: as the caller promises.
        let _ = unsafe { munmap(base.cast(), bytes) };
    }
}

#[cfg(miri)]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    use super::Pages;

    const PAGE: usize = 4096;

    pub(super) fn map(bytes: usize, _: Pages) -> Result<(NonNull<u8>, usize, bool), nix::Error> {
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| nix::Error::ENOMEM)?;
        // SAFETY: there is at least one byte.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(nix::Error::ENOMEM)?;
        Ok((base, bytes, false))
    }

    /// # Safety
    /// As that of the mapping.
    pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, PAGE) {
            // SAFETY: it was allocated by `map` with this layout.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }
}
