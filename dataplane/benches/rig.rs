//! Measures one node: a graph in which only that node, and those that must come before it, do their work.
//!
//! ```text
//!   writer -> [nodes before] -> node -> catch          clocks of the node, as the graph counts them for `show`
//!   writer -> touch -> catch                           the yardstick: the lines of headers and metadata, read and written
//! ```
//!
//! Both take turns, and the median counts. Every packet that went in must have arrived where it should. The nodes of other
//! crates are measured by it, too.

use std::sync::Arc;

use culvert_crypto::Engine;
use culvert_dataplane::buffer::{BufferPool, Packet};
use culvert_dataplane::clock;
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::driver::generator::{Sink, Taken};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::event::{self, EventReceiver, EventSender};
use culvert_dataplane::graph::{
    Context, Graph, Node, NodeId, NodeSpec, Surroundings, VECTOR, Vector,
};
use culvert_dataplane::port::Ports;
use culvert_dataplane::tables::Tables;

/// Buffers of a worker.
const BUFFERS: usize = 16_384;
/// Rounds of which the median is taken.
const ROUNDS: usize = 201;
/// Packets that each takes in its turn, in vectors of whatever size.
const TURN: usize = 256;
/// Turns before the first that counts.
const WARM_UP: usize = 20;

/// Writes packets into empty buffers.
pub type Writer = Box<dyn FnMut(&BufferPool, &mut [Packet])>;

/// Where packets must arrive.
#[derive(Clone, Copy)]
pub enum Out {
    /// At this node.
    Node(NodeId),
    /// At the driver of the WAN.
    Port,
    /// Nowhere: they make room for the next.
    Dropped(DropReason),
}

/// What is measured.
pub struct Row {
    /// As it is printed.
    pub name: String,
    /// Whose clocks count. Of the nodes that work the last one.
    pub node: NodeId,
    /// The nodes that work; packets enter by the first.
    pub nodes: Vec<NodeId>,
    /// All nodes that there are, of which these are taken.
    pub all: fn() -> Vec<Box<dyn Node>>,
    /// What they look at.
    pub tables: Tables,
    /// The port that drivers' packets leave by.
    pub port: u32,
    /// Makes the packets.
    pub writer: Writer,
    /// Where they arrive.
    pub out: Out,
    /// So many arrive for so many that went in.
    pub share: (u64, u64),
}

/// Clocks a packet.
#[derive(Clone, Copy)]
struct Figure {
    /// Of the node.
    clocks: f64,
    /// Of the yardstick.
    touch: f64,
}

/// Gives buffers back.
struct Catch(&'static NodeSpec);

impl Node for Catch {
    fn spec(&self) -> &'static NodeSpec {
        self.0
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        context.buffers.free_all(vector.drain(..));
    }
}

const TOUCH: NodeSpec = NodeSpec {
    id: NodeId::EthernetInput,
    next: &[NodeId::Punt],
};

/// The least that a node does: it looks at the first line of each packet, and writes to its metadata.
struct Touch;

impl Node for Touch {
    fn spec(&self) -> &'static NodeSpec {
        &TOUCH
    }

    fn process(&mut self, context: &mut Context<'_>, vector: &mut Vector) {
        for packet in vector.iter_mut() {
            let (meta, data) = context.buffers.parts_mut(packet);
            meta.scratch = u64::from(data.first().copied().unwrap_or(0));
        }
        context.send_all(NodeId::Punt, vector);
    }
}

/// A graph with its counters, between a writer and a sink.
struct Stand {
    graph: Graph,
    counters: WorkerCounters,
    ports: Ports,
    taken: Arc<Taken>,
    entry: NodeId,
    node: NodeId,
    sent: u64,
}

impl Stand {
    fn new(working: Vec<Box<dyn Node>>, entry: NodeId, node: NodeId, port: u32) -> Self {
        let there: Vec<_> = working.iter().map(|node| node.spec().id).collect();
        let absent = NodeId::ALL.iter().filter(|id| !there.contains(id));
        let catches = absent.map(|id| {
            let spec = NodeSpec { id: *id, next: &[] };
            Box::new(Catch(Box::leak(Box::new(spec)))) as Box<dyn Node>
        });
        let graph = Graph::new(working.into_iter().chain(catches));
        let sink = Sink::new(0, 1);
        let taken = Arc::clone(sink.taken());
        let mut ports = Ports::default();
        ports.insert(port, Box::new(sink));
        Self {
            graph,
            counters: WorkerCounters::default(),
            ports,
            taken,
            entry,
            node,
            sent: 0,
        }
    }

    fn of(row: &Row) -> Self {
        let all = (row.all)().into_iter();
        let working = all.filter(|node| row.nodes.contains(&node.spec().id));
        Self::new(working.collect(), row.nodes[0], row.node, row.port)
    }

    fn arrived(&self, out: Out) -> u64 {
        match out {
            Out::Node(node) => self.counters.node(node).packets.get(),
            Out::Port => self.taken.frames(),
            Out::Dropped(reason) => self.counters.drop(reason).get(),
        }
    }

    /// Everything that came out, for who has to find out why it is wrong.
    fn account(&self) -> String {
        let nodes = NodeId::ALL
            .iter()
            .map(|id| (id.name(), self.counters.node(*id).packets.get()));
        let drops = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.counters.drop(*reason).get()));
        let all = nodes.chain(drops).filter(|(_, count)| *count > 0);
        all.map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What all rows share: buffers, events and the engine.
pub struct Rig {
    buffers: BufferPool,
    events: (EventSender, EventReceiver),
    engine: Arc<dyn Engine>,
}

impl Rig {
    /// With this cipher engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            buffers: BufferPool::new(BUFFERS).expect("there is memory for packets"),
            events: event::channel(),
            engine,
        }
    }

    /// Measures the rows whose name contains what was asked for, and prints each.
    pub fn print(&mut self, rows: Vec<Row>) {
        let only = std::env::args()
            .skip(1)
            .find(|argument| argument != "--bench")
            .unwrap_or_default();
        println!(
            "clocks for each packet, ratio to touching its header and its metadata; engine {}, {}",
            self.engine.name(),
            if self.buffers.huge_pages() {
                "huge pages"
            } else {
                "no huge pages of its own"
            }
        );
        println!("{:<51}{:>24}{:>26}", "", "vectors of 256", "vectors of one");
        println!(
            "{:<51}{:>9}{:>8}{:>7}{:>11}{:>8}{:>7}",
            "node", "clocks", "touch", "ratio", "clocks", "touch", "ratio"
        );
        for mut row in rows.into_iter().filter(|row| row.name.contains(&only)) {
            print!("{:<51}", row.name);
            for (size, width) in [(VECTOR, 9), (1, 11)] {
                let figure = self.measure(&mut row, size);
                let ratio = figure.clocks / figure.touch;
                print!(
                    "{:>width$.1}{:>8.1}{ratio:>7.2}",
                    figure.clocks, figure.touch
                );
            }
            println!();
        }
    }

    /// Measures a row with vectors of this size.
    fn measure(&mut self, row: &mut Row, size: usize) -> Figure {
        let mut node = Stand::of(row);
        let mut touch = Stand::new(vec![Box::new(Touch)], TOUCH.id, TOUCH.id, row.port);
        self.around(&mut node, &row.tables, Graph::tick);
        for _ in 0..WARM_UP {
            self.turn(&mut node, row, size);
            self.turn(&mut touch, row, size);
        }
        let mut clocks = Vec::with_capacity(ROUNDS);
        let mut yardstick = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            clocks.push(self.turn(&mut node, row, size));
            yardstick.push(self.turn(&mut touch, row, size));
        }
        let held = node.graph.held() as u64;
        let arrived = node.arrived(row.out) + held;
        let (some, of) = row.share;
        assert!(
            arrived * of == node.sent * some,
            "{}: of {} packets {arrived} are where they should be; {}",
            row.name,
            node.sent,
            node.account()
        );
        node.graph.release(&mut self.buffers);
        assert_eq!(
            self.buffers.available(),
            self.buffers.capacity(),
            "{}: buffers are lost",
            row.name
        );
        Figure {
            clocks: median(clocks),
            touch: median(yardstick),
        }
    }

    /// Clocks a packet of the node, over a few packets.
    fn turn(&mut self, stand: &mut Stand, row: &mut Row, size: usize) -> f64 {
        let counters = |stand: &Stand| {
            let counters = stand.counters.node(stand.node);
            (counters.clocks.get(), counters.packets.get())
        };
        let before = counters(stand);
        for _ in 0..TURN / size {
            let mut vector = Vector::new();
            vector.extend((0..size).filter_map(|_| self.buffers.allocate()));
            (row.writer)(&self.buffers, &mut vector);
            stand.sent += vector.len() as u64;
            let entry = stand.entry;
            self.around(stand, &row.tables, |graph, around| {
                graph.enqueue(entry, &mut vector, around);
                graph.run(around);
                around.ports.flush(around.buffers, around.counters);
            });
        }
        while self.events.1.try_recv().is_ok() {}
        let after = counters(stand);
        (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
    }

    fn around(
        &mut self,
        stand: &mut Stand,
        tables: &Tables,
        act: impl FnOnce(&mut Graph, &mut Surroundings<'_>),
    ) {
        act(
            &mut stand.graph,
            &mut Surroundings {
                buffers: &mut self.buffers,
                tables,
                counters: &stand.counters,
                ports: &mut stand.ports,
                events: &self.events.0,
                engine: self.engine.as_ref(),
                now: clock::monotonic_nanoseconds(),
                worker: 0,
            },
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
