//! A worker: one thread that polls its ports, runs the graph, and sleeps when nothing comes.
//!
//! ```text
//!   loop: quiescent -> tables -> each port: receive, graph -> ticks -> transmit
//!                         '--- after some empty rounds: sleep in poll(ports, wake) until a frame, a command or a tick
//! ```

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use culvert_crypto::Engine;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use crate::buffer::{BufferPool, Memory, RegionError, flags};
use crate::clock;
use crate::counters::WorkerCounters;
use crate::event::EventSender;
use crate::fib::epoch::Participant;
use crate::graph::{Graph, Node, NodeId, Surroundings, VECTOR, Vector};
use crate::observe::Observer;
use crate::port::{Port, Ports};
use crate::tables::{Publisher, Reader};

/// Packet buffers of one worker: receive rings are copied from at once, so what is in use is what the graph, the held
/// packets of resolution and negotiation, and one vector a port need.
pub const BUFFERS: usize = 16_384;
/// Rounds without a packet before the worker sleeps. Few: the machine may have no core to spare for spinning.
const EMPTY_ROUNDS: u32 = 4;

/// Something the control thread wants of a worker.
enum Command {
    Insert(u32, Box<dyn Port>),
    Remove(u32),
    Transmit(u32, Vec<u8>),
    Observe(Order),
}

/// What the control thread does to the observer of a worker's graph, between two rounds of the worker.
pub type Order = Box<dyn FnOnce(&mut Observer) + Send>;

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// No memory for its packets.
    #[error(transparent)]
    Buffers(#[from] RegionError),
    /// No descriptor to wake it by.
    #[error("cannot make an event descriptor: {0}")]
    Wake(nix::Error),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// The control thread's end of a worker. The worker ends when this is dropped.
pub struct Worker {
    commands: Mutex<mpsc::Sender<Command>>,
    shared: Arc<Shared>,
    memory: Memory,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wake: EventFd,
    stop: AtomicBool,
    counters: WorkerCounters,
}

/// What every worker is made of.
#[derive(Clone)]
pub struct Common {
    /// Where it reads its tables.
    pub tables: Publisher,
    /// Where it tells the control thread.
    pub events: EventSender,
    /// The cipher engine.
    pub engine: Arc<dyn Engine>,
}

impl Worker {
    /// Starts a worker with these nodes and no port.
    pub fn start(
        number: u32,
        common: &Common,
        nodes: Vec<Box<dyn Node>>,
    ) -> Result<Self, WorkerError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(WorkerError::Wake)?;
        let shared = Arc::new(Shared {
            wake,
            stop: AtomicBool::new(false),
            counters: WorkerCounters::default(),
        });
        let (commands, receiver) = mpsc::channel();
        let buffers = BufferPool::new(BUFFERS)?;
        let memory = buffers.memory();
        let state = Loop {
            number,
            buffers,
            ports: Ports::default(),
            graph: Graph::new(nodes),
            reader: common.tables.reader(),
            events: common.events.clone(),
            engine: Arc::clone(&common.engine),
            commands: receiver,
            shared: Arc::clone(&shared),
            generation: u64::MAX,
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || state.run())
            .map_err(WorkerError::Thread)?;
        Ok(Self {
            commands: Mutex::new(commands),
            shared,
            memory,
            thread: Some(thread),
        })
    }

    /// Gives it a port.
    pub fn insert(&self, interface: u32, port: Box<dyn Port>) {
        self.command(Command::Insert(interface, port));
    }

    /// Takes the port of an interface away and closes it.
    pub fn remove(&self, interface: u32) {
        self.command(Command::Remove(interface));
    }

    /// Lets it send a frame of the control thread's.
    pub fn transmit(&self, interface: u32, frame: Vec<u8>) {
        self.command(Command::Transmit(interface, frame));
    }

    /// Changes what is to be seen of its graph. The order is dropped unread if the worker has ended.
    pub fn observe(&self, order: Order) {
        self.command(Command::Observe(order));
    }

    /// Wakes it, so that it sees new tables.
    pub fn wake(&self) {
        // Full is awake enough.
        let _ = self.shared.wake.write(1);
    }

    /// The memory of its packet buffers, for ports that share it with the kernel.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What it has counted.
    pub fn counters(&self) -> &WorkerCounters {
        &self.shared.counters
    }

    fn command(&self, command: Command) {
        // A worker that is gone has nothing to do any more.
        let _ = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(command);
        self.wake();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the worker has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

struct Loop {
    number: u32,
    buffers: BufferPool,
    ports: Ports,
    graph: Graph,
    reader: Reader,
    events: EventSender,
    engine: Arc<dyn Engine>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    /// Of the tables that the nodes have last been told of.
    generation: u64,
}

impl Loop {
    fn run(mut self) {
        let participant = Participant::register();
        let mut empty = 0;
        while !self.shared.stop.load(Ordering::Acquire) {
            participant.quiescent();
            self.obey();
            if self.round() == 0 {
                empty += 1;
            } else {
                empty = 0;
            }
            if empty >= EMPTY_ROUNDS {
                participant.sleep();
                self.sleep();
            }
        }
        self.graph.release(&mut self.buffers);
        self.ports.release(&mut self.buffers);
    }

    /// One pass over the ports; gives the packets received.
    fn round(&mut self) -> usize {
        let tables = self.reader.current();
        let changed = tables.generation != self.generation;
        self.generation = tables.generation;
        let counters = &self.shared.counters;
        let now = clock::monotonic_nanoseconds();
        let mut received = 0;
        let mut vector = Vector::new();
        for place in 0..self.ports.len() {
            let node = self
                .ports
                .receive(place, &mut self.buffers, counters, &mut vector);
            let Some(node) = node else { continue };
            received += vector.len();
            let mut around = Surroundings {
                buffers: &mut self.buffers,
                tables,
                counters,
                ports: &mut self.ports,
                events: &self.events,
                engine: self.engine.as_ref(),
                now,
                worker: self.number,
            };
            self.graph.enqueue(node, &mut vector, &mut around);
            self.graph.run(&mut around);
        }
        if changed || self.graph.next_tick().is_some_and(|due| due <= now) {
            self.graph.tick(&mut Surroundings {
                buffers: &mut self.buffers,
                tables,
                counters,
                ports: &mut self.ports,
                events: &self.events,
                engine: self.engine.as_ref(),
                now,
                worker: self.number,
            });
        }
        self.ports.flush(&mut self.buffers, counters);
        received
    }

    /// Waits for a frame, a wake-up or the next tick.
    fn sleep(&mut self) {
        let timeout = match self.graph.next_tick() {
            None => PollTimeout::NONE,
            Some(due) => {
                let wait = due
                    .saturating_sub(clock::monotonic_nanoseconds())
                    .div_ceil(1_000_000);
                PollTimeout::try_from(wait.min(60_000) as i32).unwrap_or(PollTimeout::ZERO)
            }
        };
        let descriptors: Vec<Option<BorrowedFd<'_>>> = self
            .ports
            .iter()
            .map(|(_, port)| port.descriptor())
            .collect();
        if descriptors.iter().any(Option::is_none) {
            // A port without a descriptor is polled all the time.
            return;
        }
        let mut polled: Vec<_> = descriptors
            .iter()
            .flatten()
            .copied()
            .chain([self.shared.wake.as_fd()])
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        // Interrupted or not: the next round looks anyway.
        let _ = poll(&mut polled, timeout);
        let _ = self.shared.wake.read();
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Insert(interface, port) => {
                    if let Some(old) = self.ports.insert(interface, port) {
                        old.release(&mut self.buffers);
                    }
                }
                Command::Remove(interface) => {
                    if let Some(port) = self.ports.remove(interface, &mut self.buffers) {
                        port.release(&mut self.buffers);
                    }
                }
                Command::Transmit(interface, frame) => self.transmit(interface, &frame),
                Command::Observe(order) => self.graph.observe(order),
            }
        }
    }

    /// By way of the graph, for the interface may be one whose frames need tags.
    fn transmit(&mut self, interface: u32, frame: &[u8]) {
        let Some(mut packet) = self.buffers.allocate() else {
            return;
        };
        let meta = self.buffers.meta_mut(&mut packet);
        if meta.set_len(frame.len()).is_err() {
            return self.buffers.free(packet);
        }
        meta.tx_interface = interface;
        meta.flags = flags::ORIGINATED;
        self.buffers.data_mut(&mut packet).copy_from_slice(frame);
        let mut vector = Vector::new();
        vector.push(packet);
        let mut around = Surroundings {
            buffers: &mut self.buffers,
            tables: self.reader.current(),
            counters: &self.shared.counters,
            ports: &mut self.ports,
            events: &self.events,
            engine: self.engine.as_ref(),
            now: clock::monotonic_nanoseconds(),
            worker: self.number,
        };
        self.graph
            .enqueue(NodeId::InterfaceOutput, &mut vector, &mut around);
        self.graph.run(&mut around);
        self.ports.flush(&mut self.buffers, &self.shared.counters);
    }
}

const _: () = assert!(BUFFERS > 16 * VECTOR);
