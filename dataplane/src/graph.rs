//! The graph: nodes, the queues between them, and the loop that runs each node over a whole vector.
//!
//! ```text
//!   ports --rx--> ethernet-input -> ip4-input -> ip4-lookup -+-> ip4-rewrite -> interface-output --tx--> ports
//!                       |               ^            ^       +-> ip4-local -> punt | esp-decrypt
//!                       +-> arp-input   |            |       +-> tunnel-output -> esp-encrypt --+
//!                                       +--- esp-decrypt     +<---------------------------------+
//! ```
//!
//! A node takes up to 256 packets that wait for it, and sends each on to another node. Which nodes there are and
//! where each may send is data ([`NodeSpec`]), printed by [`Graph::describe`]. The loop always runs the first
//! waiting node in the order of [`NodeId`]: that order follows the way of a packet, so vectors stay full.

use arrayvec::ArrayVec;
use culvert_crypto::Engine;

use crate::buffer::{BufferPool, Packet};
use crate::clock;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::EventSender;
use crate::observe::Observer;
use crate::port::Ports;
use crate::tables::Tables;

/// Packets that a node is given at once.
pub const VECTOR: usize = 256;
/// Packets that may wait for one node beyond a vector: what nodes that multiply packets (fragmentation, released
/// neighbour queues) can send in one dispatch.
const OVERFLOW: usize = 8 * VECTOR;

/// So few packets are moved one by one, more with the whole vector around them.
const FEW: usize = 16;

/// Packets on their way from one node to the next.
pub type Vector = ArrayVec<Packet, VECTOR>;

/// Moves all packets of a vector to another, which is empty.
#[inline(always)]
pub(crate) fn empty_into(from: &mut Vector, to: &mut Vector) {
    if from.len() <= FEW {
        to.extend(from.drain(..));
    } else {
        *to = std::mem::take(from);
    }
}

macro_rules! node_ids {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// The nodes, in the order in which a packet meets them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum NodeId {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl NodeId {
            /// All nodes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Name as shown, for example `esp-encrypt`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

node_ids! {
    /// Frames of a driver: MAC filter, `EtherType`.
    EthernetInput = "ethernet-input",
    /// Frames that Linux wrote to a TAP.
    Inject = "inject",
    /// ARP packets (RFC 826).
    ArpInput = "arp-input",
    /// ESP for us, native or in UDP (RFC 4303, RFC 3948).
    EspDecrypt = "esp-decrypt",
    /// Finds the ports of fragments, for policies and selectors (RFC 4301 section 7).
    FragmentPorts = "fragment-ports",
    /// IPv4 packets that are not yet trusted.
    Ip4Input = "ip4-input",
    /// IPv6 packets that are not yet trusted.
    Ip6Input = "ip6-input",
    /// May it come in the clear (RFC 4301)?
    PolicyInput = "policy-input",
    /// Is there a way back to the source (RFC 3704)?
    ReversePath = "reverse-path",
    /// Longest-prefix match in the packet's VRF.
    Ip4Lookup = "ip4-lookup",
    /// Longest-prefix match in the packet's VRF.
    Ip6Lookup = "ip6-lookup",
    /// IPv4 packets for the box.
    Ip4Local = "ip4-local",
    /// IPv6 packets for the box.
    Ip6Local = "ip6-local",
    /// Fragments for the box, put together.
    IpReassembly = "ip-reassembly",
    /// Neighbour discovery (RFC 4861).
    NdInput = "nd-input",
    /// GRE and IPIP for us (RFC 2784, RFC 2003).
    Decapsulate = "decapsulate",
    /// May it leave in the clear (RFC 4301)?
    PolicyOutput = "policy-output",
    /// GRE and IPIP out.
    Encapsulate = "encapsulate",
    /// Packets that a route sends into a tunnel: MTU, MSS, policy, SA.
    TunnelOutput = "tunnel-output",
    /// Cuts what is larger than its way out.
    IpFragment = "ip-fragment",
    /// ESP out (RFC 4303).
    EspEncrypt = "esp-encrypt",
    /// Turns a packet into the ICMP error about it (RFC 792, RFC 4443).
    IcmpError = "icmp-error",
    /// Packets whose next hop's MAC address is not known yet.
    NeighbourResolve = "neighbour-resolve",
    /// Writes the link header, checks the MTU, takes one off the TTL.
    Ip4Rewrite = "ip4-rewrite",
    /// Writes the link header, checks the MTU, takes one off the hop limit.
    Ip6Rewrite = "ip6-rewrite",
    /// Hands frames to the driver.
    InterfaceOutput = "interface-output",
    /// Hands the box's own traffic to Linux.
    Punt = "punt",
}

const _: () = assert!(NodeId::COUNT <= 64, "waiting nodes are the bits of a u64");

/// What a node is and where it may send.
#[derive(Debug)]
pub struct NodeSpec {
    /// The node.
    pub id: NodeId,
    /// The nodes that it sends to.
    pub next: &'static [NodeId],
}

/// One node on one worker.
pub trait Node: Send {
    /// What it is and where it may send.
    fn spec(&self) -> &'static NodeSpec;

    /// Takes every packet out of `vector` and sends it on, drops it or holds it.
    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector);

    /// Called after the tables have changed and at least every [`Node::next_tick`].
    fn tick(&mut self, _context: &mut Context<'_>) {}

    /// When `tick` must be called next, in nanoseconds of the worker's clock; `None`: only when tables change.
    fn next_tick(&self) -> Option<u64> {
        None
    }

    /// Packets that the node holds back.
    fn held(&self) -> usize {
        0
    }

    /// Gives up all packets that the node holds back, at the end of the worker.
    fn release(&mut self, _buffers: &mut BufferPool) {}
}

/// What a node sees of its worker.
pub struct Context<'w> {
    /// The worker's buffers.
    pub buffers: &'w mut BufferPool,
    /// Interfaces, routes, neighbours and SAs, as the control thread last published them.
    pub tables: &'w Tables,
    /// The worker's counters.
    pub counters: &'w WorkerCounters,
    /// The worker's ports.
    pub ports: &'w mut Ports,
    /// To the control thread.
    pub events: &'w EventSender,
    /// The cipher engine.
    pub engine: &'w dyn Engine,
    /// `CLOCK_MONOTONIC` at the start of this round, in nanoseconds.
    pub now: u64,
    /// Number of the worker.
    pub worker: u32,
    queues: &'w mut Queues,
    /// While something is to be seen.
    observer: Option<&'w mut Observer>,
}

impl Context<'_> {
    /// Sends a packet to a node.
    #[inline(always)]
    pub fn send(&mut self, node: NodeId, packet: Packet) {
        if let Err(packet) = self.queues.push(node, packet) {
            self.drop(packet, DropReason::GraphCongestion);
        }
    }

    /// Sends all packets of a vector to a node, in order; the vector is empty after. Cheaper than one by one.
    #[inline]
    pub fn send_all(&mut self, node: NodeId, vector: &mut Vector) {
        if !self.queues.hand_over(node, vector) {
            for packet in vector.drain(..) {
                self.send(node, packet);
            }
        }
    }

    /// Drops a packet for a reason, which is counted.
    #[inline]
    pub fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.counters.drop(reason).add(1);
        self.counters
            .interface(self.buffers.meta(&packet).rx_interface)
            .drops
            .add(1);
        self.note_drop(&packet, reason);
        self.buffers.free(packet);
    }

    /// Lets it be seen that a packet is given up for a reason that the caller counts.
    #[inline]
    pub fn note_drop(&mut self, packet: &Packet, reason: DropReason) {
        if let Some(observer) = &mut self.observer {
            observer.dropped(packet, reason, self.buffers);
        }
    }
}

struct Queue {
    vector: Box<Vector>,
    overflow: Vec<Packet>,
}

/// What waits for each node.
pub struct Queues {
    queues: Box<[Queue]>,
    waiting: u64,
}

impl Default for Queues {
    fn default() -> Self {
        let queue = || Queue {
            vector: Box::default(),
            overflow: Vec::with_capacity(OVERFLOW),
        };
        Self {
            queues: std::iter::repeat_with(queue).take(NodeId::COUNT).collect(),
            waiting: 0,
        }
    }
}

impl Queues {
    #[inline(always)]
    fn push(&mut self, node: NodeId, packet: Packet) -> Result<(), Packet> {
        let queue = &mut self.queues[node as usize % NodeId::COUNT];
        self.waiting |= 1 << node as u8;
        match queue.vector.try_push(packet) {
            Ok(()) => Ok(()),
            Err(full) if queue.overflow.len() < OVERFLOW => {
                queue.overflow.push(full.element());
                Ok(())
            }
            Err(full) => Err(full.element()),
        }
    }

    /// Lets a whole vector wait for a node, if nothing waits there yet.
    #[inline(always)]
    fn hand_over(&mut self, node: NodeId, vector: &mut Vector) -> bool {
        let queue = &mut self.queues[node as usize % NodeId::COUNT];
        if vector.is_empty() || !queue.vector.is_empty() || !queue.overflow.is_empty() {
            return false;
        }
        self.waiting |= 1 << node as u8;
        empty_into(vector, &mut queue.vector);
        true
    }

    /// The packets that wait, each with its node.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (NodeId, &Packet)> {
        let all = NodeId::ALL.iter().zip(&self.queues);
        let filled = all.filter(|(node, _)| self.waiting & 1 << **node as u8 != 0);
        filled.flat_map(|(node, queue)| {
            let packets = queue.vector.iter().chain(&queue.overflow);
            packets.map(|packet| (*node, packet))
        })
    }

    /// The first node with waiting packets; they are moved to `vector`, which was empty.
    fn take(&mut self, vector: &mut Box<Vector>) -> Option<NodeId> {
        let node = *NodeId::ALL.get(self.waiting.trailing_zeros() as usize)?;
        let queue = &mut self.queues[node as usize % NodeId::COUNT];
        std::mem::swap(&mut queue.vector, vector);
        let more = queue.overflow.len().min(VECTOR);
        queue.vector.extend(queue.overflow.drain(..more));
        if queue.vector.is_empty() {
            self.waiting &= !(1 << node as u8);
        }
        Some(node)
    }
}

/// What a [`Context`] borrows from its worker, apart from the graph's own queues.
pub struct Surroundings<'w> {
    /// See [`Context::buffers`].
    pub buffers: &'w mut BufferPool,
    /// See [`Context::tables`].
    pub tables: &'w Tables,
    /// See [`Context::counters`].
    pub counters: &'w WorkerCounters,
    /// See [`Context::ports`].
    pub ports: &'w mut Ports,
    /// See [`Context::events`].
    pub events: &'w EventSender,
    /// See [`Context::engine`].
    pub engine: &'w dyn Engine,
    /// See [`Context::now`].
    pub now: u64,
    /// See [`Context::worker`].
    pub worker: u32,
}

/// All nodes of one worker and the queues between them.
pub struct Graph {
    nodes: Box<[Option<Box<dyn Node>>]>,
    queues: Queues,
    spare: Box<Vector>,
    observer: Box<Observer>,
    /// The observer has something to look for: asked once a vector.
    observed: bool,
}

impl Graph {
    /// Puts nodes together; of two with the same id the later one stands.
    pub fn new(nodes: impl IntoIterator<Item = Box<dyn Node>>) -> Self {
        let mut places: Box<[Option<Box<dyn Node>>]> = NodeId::ALL.iter().map(|_| None).collect();
        for node in nodes {
            let place = node.spec().id as usize % NodeId::COUNT;
            places[place] = Some(node);
        }
        Self {
            nodes: places,
            queues: Queues::default(),
            spare: Box::default(),
            observer: Box::default(),
            observed: false,
        }
    }

    /// Changes what is to be seen.
    pub fn observe<R>(&mut self, change: impl FnOnce(&mut Observer) -> R) -> R {
        let result = change(&mut self.observer);
        self.observed = self.observer.is_armed();
        result
    }

    /// The graph as text, a line a node: `esp-encrypt -> ip4-lookup ip6-lookup`.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for spec in self.nodes.iter().flatten().map(|node| node.spec()) {
            text.push_str(spec.id.name());
            text.push_str(" ->");
            for next in spec.next {
                text.push(' ');
                text.push_str(next.name());
            }
            text.push('\n');
        }
        text
    }

    /// Lets `packets` wait for `node`; those that find no room are dropped and counted.
    pub fn enqueue(&mut self, node: NodeId, packets: &mut Vector, around: &mut Surroundings<'_>) {
        if self.queues.hand_over(node, packets) {
            return;
        }
        for packet in packets.drain(..) {
            if let Err(packet) = self.queues.push(node, packet) {
                around.counters.drop(DropReason::GraphCongestion).add(1);
                around.buffers.free(packet);
            }
        }
    }

    /// Runs nodes until nothing waits any more. Gives the number of packets processed, each once a node.
    pub fn run(&mut self, around: &mut Surroundings<'_>) -> u64 {
        let mut processed = 0;
        let mut before = clock::clocks();
        while let Some(id) = self.queues.take(&mut self.spare) {
            let count = self.spare.len() as u64;
            if self.observed {
                self.observer
                    .before(id, &mut self.spare, around.buffers, around.tables);
            }
            let observer = self.observed.then_some(&mut *self.observer);
            let mut context = context(around, &mut self.queues, observer);
            if let Some(node) = &mut self.nodes[id as usize % NodeId::COUNT] {
                let held = if self.observed { node.held() } else { 0 };
                node.process(&mut context, &mut self.spare);
                debug_assert!(self.spare.is_empty(), "{} left packets behind", id.name());
                if self.observed {
                    let more = node.held() > held;
                    self.observer
                        .after(more, &self.queues, around.ports, around.buffers);
                }
            }
            around.buffers.free_all(self.spare.drain(..));
            let after = clock::clocks();
            let counters = around.counters.node(id);
            counters.vectors.add(1);
            counters.packets.add(count);
            counters.clocks.add(after.wrapping_sub(before));
            before = after;
            processed += count;
        }
        processed
    }

    /// Calls every node's tick, then runs what that has set free.
    pub fn tick(&mut self, around: &mut Surroundings<'_>) {
        for node in self.nodes.iter_mut().flatten() {
            if self.observed {
                self.observer.tick(node.spec().id);
            }
            let observer = self.observed.then_some(&mut *self.observer);
            node.tick(&mut context(around, &mut self.queues, observer));
        }
        self.run(around);
    }

    /// When [`Graph::tick`] is due, in nanoseconds of the worker's clock.
    pub fn next_tick(&self) -> Option<u64> {
        self.nodes
            .iter()
            .flatten()
            .filter_map(|node| node.next_tick())
            .min()
    }

    /// Packets that nodes hold back.
    pub fn held(&self) -> usize {
        self.nodes.iter().flatten().map(|node| node.held()).sum()
    }

    /// Frees what nodes hold back.
    pub fn release(&mut self, buffers: &mut BufferPool) {
        for node in self.nodes.iter_mut().flatten() {
            node.release(buffers);
        }
    }
}

#[inline(always)]
fn context<'c>(
    around: &'c mut Surroundings<'_>,
    queues: &'c mut Queues,
    observer: Option<&'c mut Observer>,
) -> Context<'c> {
    Context {
        observer,
        buffers: around.buffers,
        tables: around.tables,
        counters: around.counters,
        ports: around.ports,
        events: around.events,
        engine: around.engine,
        now: around.now,
        worker: around.worker,
        queues,
    }
}
