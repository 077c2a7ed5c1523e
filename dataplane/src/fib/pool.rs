//! Memory for the nodes of forwarding tables: equal pieces of one reserved range of addresses.
//!
//! ```text
//!   base | node | node | node | ...          reserved at once, backed by memory when first touched
//!          ^ node number * stride lines      a slot names a node by its first cache line: base + 64 * line
//! ```
//!
//! Nodes never move, so workers reach one with one addition. All memory is read and written through atomics, and
//! every line number that was ever stored in a slot is inside the range: a reader that is late reads stale routes,
//! never foreign memory.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use super::epoch;
use crate::mapping::{Mapping, Pages};

/// Bytes of a cache line.
const LINE: usize = 64;

/// No node is left: the table has reached the limit of routes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the forwarding tables are full")]
pub struct PoolExhausted;

/// A node, by its first cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line(pub(super) u32);

/// Where nodes lie; as small as a pointer, copied into each table.
#[derive(Clone, Copy)]
pub(super) struct Base(NonNull<u8>);

// SAFETY: the range lives as long as the process and is reached through atomics only.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Base {
    /// The `N` words at `line`.
    #[inline(always)]
    pub(super) fn words<const N: usize>(self, line: Line) -> &'static [AtomicU32; N] {
        // SAFETY: a `Line` is made in `Pool::allocate` only, or read from a slot that one was stored in; each is inside
        // the range with its whole node, which has at least N words where it is used so (`ip4`, `ip6`). The range is
        // never unmapped, zero-filled at first, and read and written through atomics only.
        unsafe { self.0.add(line.0 as usize * LINE).cast().as_ref() }
    }

    /// The `N` double words at `line`.
    #[inline(always)]
    pub(super) fn longs<const N: usize>(self, line: Line) -> &'static [AtomicU64; N] {
        // SAFETY: as in `words`; lines are aligned to more than 8 bytes, and no place is used in two sizes.
        unsafe { self.0.add(line.0 as usize * LINE).cast().as_ref() }
    }

    /// The `N` bytes from `offset` bytes behind `line` on.
    #[inline(always)]
    pub(super) fn bytes<const N: usize>(self, line: Line, offset: usize) -> &'static [AtomicU8; N] {
        // SAFETY: as in `words`; no place is used in two sizes (`ip4`, `ip6`).
        unsafe { self.0.add(line.0 as usize * LINE + offset).cast().as_ref() }
    }
}

#[derive(Default)]
struct Free {
    /// Numbers of nodes that were given back and may be used again.
    ready: Vec<u32>,
    /// Unlinked nodes, each with the epoch that must have passed.
    retired: VecDeque<(u64, u32)>,
    /// The first node that was never used.
    fresh: u32,
}

/// A pool of nodes of one size.
pub(super) struct Pool {
    base: Base,
    stride: u32,
    capacity: u32,
    free: Mutex<Free>,
}

impl Pool {
    /// Reserves addresses for `capacity` nodes of `stride` cache lines each.
    pub(super) fn reserve(stride: u32, capacity: u32) -> Result<Self, PoolExhausted> {
        // Miri looks at each byte that there could be.
        let capacity = if cfg!(miri) {
            capacity.min(1024)
        } else {
            capacity
        };
        let bytes = stride as usize * LINE * capacity as usize;
        let mapping = Mapping::new(bytes, Pages::Reserved).map_err(|_| PoolExhausted)?;
        Ok(Self {
            // Never unmapped: pools are statics, and workers keep references.
            base: Base(mapping.leak()),
            stride,
            capacity,
            free: Mutex::default(),
        })
    }

    /// Where the nodes lie.
    pub(super) fn base(&self) -> Base {
        self.base
    }

    /// Bytes of the nodes that tables have now; those that wait for a grace period are not counted.
    pub(super) fn bytes_in_use(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = free.ready.len() + free.retired.len();
        (free.fresh as usize).saturating_sub(waiting) * self.stride as usize * LINE
    }

    /// A node with whatever its last user left in it.
    pub(super) fn allocate(&self) -> Result<Line, PoolExhausted> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.ready.is_empty() && !free.retired.is_empty() {
            let oldest = epoch::oldest();
            while let Some((_, node)) = free.retired.pop_front_if(|(tag, _)| *tag <= oldest) {
                free.ready.push(node);
            }
        }
        let node = match free.ready.pop() {
            Some(node) => node,
            None if free.fresh < self.capacity => {
                free.fresh += 1;
                free.fresh - 1
            }
            None => return Err(PoolExhausted),
        };
        Ok(Line(node * self.stride))
    }

    /// Takes back a node that no slot leads to any more; it is used again after a grace period.
    pub(super) fn retire(&self, line: Line) {
        let tag = epoch::advance();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.retired.push_back((tag, line.0 / self.stride));
    }

    /// Takes back a node that nobody can be reading.
    pub(super) fn free(&self, line: Line) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.ready.push(line.0 / self.stride);
    }
}
