//! To see inside: what every node does with a packet ([`trace`]), and packets as they pass ([`capture`]).
//!
//! ```text
//!   control thread -- arm, exchange buffers, disarm (a worker's command) --> Observer of each graph
//!   graph: take a vector -> [before] -> node -> [after]       only while something is armed
//!                             |           '- drop -> [dropped]
//!                             '--> records in memory that was made before
//! ```
//!
//! While nothing is armed a vector costs one branch more. While something is, a worker still neither allocates nor
//! waits: it writes into memory that came with the order, counts what does not fit, and gives the memory away whole when
//! the control thread has brought other.

pub mod capture;
#[cfg(test)]
mod capture_tests;
pub mod filter;
pub mod headers;
pub mod trace;
#[cfg(test)]
mod trace_tests;

use self::capture::Capture;
pub use self::filter::{Filter, FilterError};
use self::headers::Layer;
use self::trace::Trace;
use crate::buffer::{BufferPool, Metadata, Packet};
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, Queues, Vector};
use crate::port::Ports;
use crate::tables::Tables;

/// What watches the graph of one worker.
#[derive(Default)]
pub struct Observer {
    /// What a trace is written to.
    pub trace: Option<Box<Trace>>,
    /// Where packets are captured.
    pub capture: Option<Box<Capture>>,
}

impl Observer {
    /// Something is to be seen.
    pub fn is_armed(&self) -> bool {
        self.trace.is_some() || self.capture.is_some()
    }

    /// A node is about to get a vector.
    #[cold]
    #[inline(never)]
    pub(crate) fn before(
        &mut self,
        node: NodeId,
        vector: &mut Vector,
        buffers: &BufferPool,
        tables: &Tables,
    ) {
        if let Some(trace) = &mut self.trace {
            trace.before(node, vector, buffers);
        }
        if let Some(capture) = &mut self.capture {
            capture.before(node, vector, buffers, tables);
        }
    }

    /// The node has sent on, dropped or kept all of it; `held`: it keeps more packets than before.
    #[cold]
    #[inline(never)]
    pub(crate) fn after(
        &mut self,
        held: bool,
        queues: &Queues,
        ports: &Ports,
        buffers: &BufferPool,
    ) {
        if let Some(trace) = &mut self.trace {
            trace.after(held, queues, ports, buffers);
        }
    }

    /// A node is about to be called without packets: it may release or drop what it holds.
    #[cold]
    #[inline(never)]
    pub(crate) fn tick(&mut self, node: NodeId) {
        if let Some(trace) = &mut self.trace {
            trace.tick(node);
        }
        if let Some(capture) = &mut self.capture {
            capture.tick(node);
        }
    }

    /// A packet is given up.
    #[cold]
    #[inline(never)]
    pub(crate) fn dropped(&mut self, packet: &Packet, reason: DropReason, buffers: &BufferPool) {
        if let Some(trace) = &mut self.trace {
            trace.dropped(packet, reason, buffers);
        }
        if let Some(capture) = &mut self.capture {
            capture.dropped(packet, reason, buffers);
        }
    }
}

/// Whether the view of a packet that waits for `node` begins with a link header.
const fn layer_at(node: NodeId) -> Layer {
    match node {
        NodeId::EthernetInput | NodeId::Inject | NodeId::InterfaceOutput => Layer::Link,
        _ => Layer::Network,
    }
}

/// The same for a packet inside `node`, which may have taken its link header away already.
fn layer_in(node: NodeId, meta: &Metadata) -> Layer {
    if usize::from(meta.l3_offset) == meta.offset() {
        Layer::Network
    } else {
        layer_at(node)
    }
}
