//! What every node does with a packet, for the next packets that match a filter.
//!
//! ```text
//!   ethernet-input, inject, ip4-input, ip6-input: does it match? -> flag and number in its metadata
//!   every node: a packet with the flag?  view before | node | view after, where it went -> one Visit
//! ```
//!
//! The number goes where the metadata goes: fragments, the packet inside a tunnel and the ICMP error about a packet carry
//! that of the packet they come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::filter::Filter;
use super::headers::Layer;
use super::{layer_at, layer_in};
use crate::buffer::{BufferPool, IcmpCause, Packet, flags};
use crate::clock;
use crate::drop_reason::DropReason;
use crate::graph::{NodeId, Queues, VECTOR, Vector};
use crate::port::{Ports, interface_of_tap};

/// Bytes of a packet that a view keeps: all headers of a packet in a tunnel.
pub const SEEN: usize = 128;

/// A packet at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where its bytes begin.
    pub layer: Layer,
    /// Bytes of the packet.
    pub length: u16,
    kept: u8,
    /// Index of the interface by which it came in.
    pub rx_interface: u32,
    /// Index of the interface by which it leaves.
    pub tx_interface: u32,
    /// Index of its VRF.
    pub vrf: u32,
    /// Index of its adjacency.
    pub adjacency: u32,
    /// Index of its SA.
    pub sa: u32,
    /// See [`flags`].
    pub flags: u32,
    /// The ICMP error that it has caused.
    pub icmp: IcmpCause,
    bytes: [u8; SEEN],
}

impl View {
    fn of(packet: &Packet, layer: Layer, buffers: &BufferPool) -> Self {
        let meta = buffers.meta(packet);
        let data = buffers.data(packet);
        let mut bytes = [0; SEEN];
        let kept = data.len().min(SEEN);
        bytes
            .iter_mut()
            .zip(data)
            .for_each(|(to, from)| *to = *from);
        Self {
            layer,
            length: meta.len() as u16,
            kept: kept as u8,
            rx_interface: meta.rx_interface,
            tx_interface: meta.tx_interface,
            vrf: meta.vrf,
            adjacency: meta.adjacency,
            sa: meta.sa,
            flags: meta.flags,
            icmp: meta.icmp,
            bytes,
        }
    }

    /// The first bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.kept)).unwrap_or_default()
    }
}

/// Where a packet went from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To another node.
    Next(NodeId),
    /// To the driver of the port with this index: an interface, or the TAP of one.
    Port(u32),
    /// Nowhere: see [`Visit::reason`].
    Dropped,
    /// The node keeps it for later.
    Held,
    /// Nowhere: the node has used it up.
    Gone,
}

/// One packet at one node.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Number of the packet, the same for all that comes of it.
    pub packet: u32,
    /// Number of its buffer: tells fragments of a packet apart.
    pub buffer: u32,
    /// Where.
    pub node: NodeId,
    /// Packets that the node was given at once; 0: it was called by the clock.
    pub vector: u16,
    /// Processor clocks when the node began.
    pub began: u64,
    /// Clocks that the node took for the whole vector.
    pub took: u64,
    /// As it came.
    pub before: View,
    /// As it went.
    pub after: Option<View>,
    /// Where it went.
    pub outcome: Outcome,
    /// Why it was given up; it may go on as the ICMP error that says so.
    pub reason: Option<DropReason>,
}

/// Numbers of packets of one trace, over all workers.
#[derive(Debug)]
pub struct Numbers {
    first: u32,
    count: u32,
    taken: AtomicU32,
}

impl Numbers {
    /// `count` numbers from `first`.
    pub fn new(first: u32, count: u32) -> Self {
        Self {
            first,
            count,
            taken: AtomicU32::new(0),
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed).min(self.count)
    }

    /// Whether all are.
    pub fn is_complete(&self) -> bool {
        self.taken() == self.count
    }

    fn take(&self) -> Option<u32> {
        if self.is_complete() {
            return None;
        }
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        (taken < self.count).then(|| self.first.wrapping_add(taken))
    }

    fn contains(&self, number: u32) -> bool {
        number.wrapping_sub(self.first) < self.count
    }
}

/// What a worker has written.
pub struct Visits {
    /// In the order of time.
    pub list: Vec<Visit>,
    /// Visits for which there was no room.
    pub missed: u64,
}

impl Visits {
    /// Room for so many.
    pub fn with_room(visits: usize) -> Self {
        Self {
            list: Vec::with_capacity(visits),
            missed: 0,
        }
    }
}

/// A trace on one worker.
pub struct Trace {
    filter: Arc<Filter>,
    /// Only packets that come in by this interface.
    interface: Option<u32>,
    numbers: Arc<Numbers>,
    visits: Visits,
    /// Of the node that runs now: place of its visits in the list.
    open: Vec<usize>,
    node: NodeId,
    began: u64,
}

impl Trace {
    /// Traces what `filter` takes, by `interface` if there is one, until `numbers` are used up.
    pub fn new(
        filter: Arc<Filter>,
        interface: Option<u32>,
        numbers: Arc<Numbers>,
        visits: Visits,
    ) -> Self {
        Self {
            filter,
            interface,
            numbers,
            visits,
            open: Vec::with_capacity(VECTOR),
            node: NodeId::EthernetInput,
            began: 0,
        }
    }

    /// Gives what was written so far, and goes on in `fresh`.
    pub fn exchange(&mut self, fresh: Visits) -> Visits {
        self.open.clear();
        std::mem::replace(&mut self.visits, fresh)
    }

    pub(super) fn before(&mut self, node: NodeId, vector: &mut Vector, buffers: &BufferPool) {
        self.begin(node);
        let entry = matches!(
            node,
            NodeId::EthernetInput | NodeId::Inject | NodeId::Ip4Input | NodeId::Ip6Input
        ) && !self.numbers.is_complete();
        let count = vector.len() as u16;
        for packet in vector.iter_mut() {
            if self.is_traced(packet, buffers)
                || entry && self.wants(node, packet, buffers) && self.mark(packet, buffers)
            {
                self.open_visit(packet, count, layer_at(node), buffers);
            }
        }
    }

    pub(super) fn tick(&mut self, node: NodeId) {
        self.begin(node);
    }

    pub(super) fn dropped(&mut self, packet: &Packet, reason: DropReason, buffers: &BufferPool) {
        if !self.is_traced(packet, buffers) {
            return;
        }
        if self.find(packet, buffers).is_none() {
            // Held until now.
            let layer = layer_in(self.node, buffers.meta(packet));
            self.open_visit(packet, 0, layer, buffers);
        }
        if let Some(visit) = self.find(packet, buffers) {
            visit.reason = Some(reason);
            visit.outcome = Outcome::Dropped;
        }
    }

    pub(super) fn after(
        &mut self,
        held: bool,
        queues: &Queues,
        ports: &Ports,
        buffers: &BufferPool,
    ) {
        if self.open.is_empty() {
            return;
        }
        let took = clock::clocks().wrapping_sub(self.began);
        for (node, packet) in queues.waiting() {
            if let Some(visit) = self.find(packet, buffers) {
                visit.outcome = Outcome::Next(node);
                visit.after = Some(View::of(packet, layer_at(node), buffers));
            }
        }
        for (port, packet) in ports.pending() {
            if let Some(visit) = self.find(packet, buffers) {
                visit.outcome = Outcome::Port(port);
                visit.after = Some(View::of(packet, Layer::Link, buffers));
            }
        }
        for at in self.open.drain(..) {
            if let Some(visit) = self.visits.list.get_mut(at) {
                visit.took = took;
                // A full port has sent on the way.
                match (visit.node, visit.outcome) {
                    (NodeId::InterfaceOutput, Outcome::Gone) => {
                        visit.outcome = Outcome::Port(visit.before.tx_interface);
                    }
                    (_, Outcome::Gone) if held => visit.outcome = Outcome::Held,
                    _ => {}
                }
            }
        }
    }

    fn begin(&mut self, node: NodeId) {
        self.open.clear();
        self.node = node;
        self.began = clock::clocks();
    }

    /// Packets that were held since an earlier trace do not count.
    #[inline]
    fn is_traced(&self, packet: &Packet, buffers: &BufferPool) -> bool {
        let meta = buffers.meta(packet);
        meta.flags & flags::TRACED != 0 && self.numbers.contains(meta.trace)
    }

    /// A packet is asked for where it comes in; what came out of a tunnel comes in by it.
    fn wants(&self, node: NodeId, packet: &Packet, buffers: &BufferPool) -> bool {
        let meta = buffers.meta(packet);
        let came_by = match node {
            NodeId::Inject => interface_of_tap(meta.rx_interface).unwrap_or(meta.rx_interface),
            NodeId::Ip4Input | NodeId::Ip6Input if meta.flags & flags::DECRYPTED == 0 => {
                return false;
            }
            _ => meta.rx_interface,
        };
        self.interface.is_none_or(|wanted| wanted == came_by)
            && self.filter.matches(buffers.data(packet), layer_at(node))
    }

    fn mark(&self, packet: &mut Packet, buffers: &BufferPool) -> bool {
        let Some(number) = self.numbers.take() else {
            return false;
        };
        let meta = buffers.meta_mut(packet);
        meta.flags |= flags::TRACED;
        meta.trace = number;
        true
    }

    fn open_visit(&mut self, packet: &Packet, vector: u16, layer: Layer, buffers: &BufferPool) {
        let Visits { list, missed } = &mut self.visits;
        if list.len() == list.capacity() || self.open.len() == self.open.capacity() {
            *missed += 1;
            return;
        }
        self.open.push(list.len());
        list.push(Visit {
            packet: buffers.meta(packet).trace,
            buffer: packet.number(),
            node: self.node,
            vector,
            began: self.began,
            took: 0,
            before: View::of(packet, layer, buffers),
            after: None,
            outcome: Outcome::Gone,
            reason: None,
        });
    }

    /// The visit of a packet to the node that runs now.
    fn find(&mut self, packet: &Packet, buffers: &BufferPool) -> Option<&mut Visit> {
        let meta = buffers.meta(packet);
        if meta.flags & flags::TRACED == 0 {
            return None;
        }
        let (number, buffer) = (meta.trace, packet.number());
        let list = &self.visits.list;
        let at = self.open.iter().copied().find(|at| {
            list.get(*at)
                .is_some_and(|visit| visit.packet == number && visit.buffer == buffer)
        })?;
        self.visits.list.get_mut(at)
    }
}
