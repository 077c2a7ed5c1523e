//! Counters that one worker writes and anybody reads: no lock, no locked instruction.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop_reason::DropReason;
use crate::graph::NodeId;

/// A number that only its worker writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`; only the owning worker calls this, so a load and a store are enough.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// Makes it a level instead; only the owning worker calls this.
    #[inline]
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a node has done on one worker.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct NodeCounters {
    /// Dispatches.
    pub vectors: Counter,
    /// Packets of all dispatches.
    pub packets: Counter,
    /// Processor clocks of all dispatches.
    pub clocks: Counter,
}

/// What an interface has carried on one worker.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct InterfaceCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received.
    pub rx_bytes: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes sent.
    pub tx_bytes: Counter,
    /// Packets dropped that came in by it or were to leave by it.
    pub drops: Counter,
}

/// Interfaces that one process can have, tunnels and TAPs included: bounds the counters, which never move. Half of it is
/// for the TAPs, the other half holds ten thousand tunnels and every link beside them.
pub const MAX_INTERFACES: usize = 1 << 15;

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    nodes: Box<[NodeCounters]>,
    drops: Box<[Counter]>,
    interfaces: Box<[InterfaceCounters]>,
    /// Fragments made.
    pub fragments: Counter,
    /// Packets of which fragments wait now.
    pub reassembly_packets: Counter,
    /// Fragments that wait now.
    pub reassembly_fragments: Counter,
    /// Packets on their way in fragments of which the ports are known, or awaited.
    pub ports_packets: Counter,
    /// Fragments that wait for the one that shows their ports.
    pub ports_fragments: Counter,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        fn all<T: Default>(count: usize) -> Box<[T]> {
            std::iter::repeat_with(T::default).take(count).collect()
        }
        Self {
            nodes: all(NodeId::COUNT),
            drops: all(DropReason::ALL.len()),
            interfaces: all(MAX_INTERFACES),
            fragments: Counter::default(),
            reassembly_packets: Counter::default(),
            reassembly_fragments: Counter::default(),
            ports_packets: Counter::default(),
            ports_fragments: Counter::default(),
        }
    }
}

impl WorkerCounters {
    /// Of one node.
    #[inline(always)]
    pub fn node(&self, node: NodeId) -> &NodeCounters {
        &self.nodes[node as usize % NodeId::COUNT]
    }

    /// Packets dropped for this reason.
    #[inline(always)]
    pub fn drop(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize % DropReason::ALL.len()]
    }

    /// Of one interface or tunnel; an index outside the table is counted at its last place.
    #[inline(always)]
    pub fn interface(&self, index: u32) -> &InterfaceCounters {
        &self.interfaces[(index as usize).min(MAX_INTERFACES - 1)]
    }
}
