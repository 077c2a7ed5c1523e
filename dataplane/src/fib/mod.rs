//! Forwarding tables: longest-prefix match that workers read while the control thread writes.
//!
//! ```text
//!   control thread                          workers
//!   Fib4Writer / Fib6Writer                 Fib4 / Fib6: lookup(address) -> adjacency index
//!        |  atomic stores, one slot each         |  loads, no lock, no read-modify-write
//!        v                                       v
//!   +-------------------- pool of nodes (one for each family and process) -------------------+
//!        |  unlinked nodes wait here until ...   ^  ... every worker has passed a quiescent point
//!        +--------- epoch ----------------------+
//! ```
//!
//! Tables are changed in place, slot by slot: a lookup sees a route either as it was or as it is. A node is filled
//! before the slot that leads to it is stored, and comes back to its pool only after a grace period ([`epoch`]).
//! Until then a worker that is still on it reads old, but consistent, routes.
//!
//! IPv4 ([`Fib4`]) is a trie of four 8-bit strides with routes pushed to the leaves: one to four dependent loads.
//! IPv6 ([`Fib6`]) is a path-compressed trie of 4-bit strides: a step for each place where routes differ.

pub mod epoch;
mod ip4;
mod ip6;
mod pool;

pub use ip4::{Fib4, Fib4Writer, node_bytes4};
pub use ip6::{Fib6, Fib6Writer, node_bytes6};
pub use pool::PoolExhausted;

use std::sync::atomic::{AtomicU64, Ordering};

/// Changes of all tables of the process so far.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Grows with every change of any table. What was looked up since a call holds for as long as later calls give the same
/// number.
#[inline(always)]
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// A change is under way; when it is over, it counts.
struct Change;

impl Drop for Change {
    fn drop(&mut self) {
        // Whoever reads the new number reads what was stored before.
        CHANGES.fetch_add(1, Ordering::Release);
    }
}
