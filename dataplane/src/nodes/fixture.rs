//! For the tests of nodes: a worker without threads, whose last nodes keep what reaches them.

use std::sync::{Arc, Mutex};

use culvert_crypto::Portable;

use crate::buffer::{BufferPool, Metadata, Packet};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::event::{self, Event, EventReceiver, EventSender};
use crate::graph::{Context, Graph, Node, NodeId, NodeSpec, Surroundings, Vector};
use crate::port::Ports;
use crate::tables::Tables;

/// What reached the end of the graph: at which node, with what metadata and bytes.
pub type Arrivals = Vec<(NodeId, Metadata, Vec<u8>)>;

struct Collect {
    spec: &'static NodeSpec,
    arrivals: Arc<Mutex<Arrivals>>,
}

impl Node for Collect {
    fn spec(&self) -> &'static NodeSpec {
        self.spec
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.drain(..) {
            let arrival = (
                self.spec.id,
                *context.buffers.meta(&packet),
                context.buffers.data(&packet).to_vec(),
            );
            self.arrivals.lock().unwrap().push(arrival);
            context.buffers.free(packet);
        }
    }
}

/// A worker in a test.
pub struct Bench {
    pub buffers: BufferPool,
    pub tables: Tables,
    pub counters: WorkerCounters,
    pub ports: Ports,
    pub now: u64,
    pub events: EventReceiver,
    sender: EventSender,
    graph: Graph,
    arrivals: Arc<Mutex<Arrivals>>,
}

impl Bench {
    /// A graph of these nodes; packets for any other node are kept.
    pub fn new(nodes: Vec<Box<dyn Node>>) -> Self {
        let arrivals = Arc::<Mutex<Arrivals>>::default();
        let collectors = NodeId::ALL.iter().map(|id| {
            let spec = Box::leak(Box::new(NodeSpec { id: *id, next: &[] }));
            Box::new(Collect {
                spec,
                arrivals: Arc::clone(&arrivals),
            }) as Box<dyn Node>
        });
        let graph = Graph::new(collectors.chain(nodes));
        let (sender, events) = event::channel();
        Self {
            buffers: BufferPool::new(2048).unwrap(),
            tables: Tables::default(),
            counters: WorkerCounters::default(),
            ports: Ports::default(),
            now: 1_000_000_000,
            events,
            sender,
            graph,
            arrivals,
        }
    }

    /// A packet with these bytes as its view.
    pub fn packet(&mut self, bytes: &[u8], change: impl FnOnce(&mut Metadata)) -> Packet {
        let mut packet = self.buffers.allocate().unwrap();
        self.buffers
            .meta_mut(&mut packet)
            .set_len(bytes.len())
            .unwrap();
        let (meta, data) = self.buffers.parts_mut(&mut packet);
        data.copy_from_slice(bytes);
        change(meta);
        packet
    }

    /// Runs packets from `node` on, then gives what arrived. Every buffer must have come back, but those held.
    pub fn run(&mut self, node: NodeId, packets: Vec<Packet>) -> Arrivals {
        self.with_graph(|graph, around| {
            let mut packets = packets.into_iter().peekable();
            while packets.peek().is_some() {
                let mut vector: Vector = packets.by_ref().take(crate::graph::VECTOR).collect();
                graph.enqueue(node, &mut vector, around);
                graph.run(around);
            }
        })
    }

    /// Lets nodes see new tables or later times.
    pub fn tick(&mut self) -> Arrivals {
        self.with_graph(Graph::tick)
    }

    fn with_graph(&mut self, act: impl FnOnce(&mut Graph, &mut Surroundings<'_>)) -> Arrivals {
        let mut around = Surroundings {
            buffers: &mut self.buffers,
            tables: &self.tables,
            counters: &self.counters,
            ports: &mut self.ports,
            events: &self.sender,
            engine: &Portable,
            now: self.now,
            worker: 0,
        };
        act(&mut self.graph, &mut around);
        self.ports.flush(&mut self.buffers, &self.counters);
        assert_eq!(
            self.buffers.available() + self.graph.held(),
            self.buffers.capacity(),
            "a buffer was lost"
        );
        std::mem::take(&mut self.arrivals.lock().unwrap())
    }

    /// Packets dropped for this reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drop(reason).get()
    }

    /// What the nodes told the control thread since the last look.
    pub fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}
