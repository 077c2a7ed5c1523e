//! One row: a path with an algorithm and a packet size, measured beside its yardstick.
//!
//! ```text
//!   a round:  graph slice       generator -> nodes -> sink      clocks of the nodes, wall clocks of it all
//!             yardstick slice   generator -> cipher alone -> sink   clocks of the cipher
//!             bare slice        generator -> sink               wall clocks
//!   a window: rounds for a fifteenth of the time; a row: the median of 15 windows
//! ```
//!
//! The three alternate within a millisecond or so, so that a busy neighbour or a changed processor clock meets them
//! alike. A slice in which the kernel took the processor away is thrown away and counted: wall clock and processor time
//! tell.
//!
//! What a row must not be bought with is tried before it is measured and looked at while it is: a damaged IP header and a
//! packet that comes twice must be dropped for what they are, what comes out is opened by the portable engine, its
//! sequence numbers are consecutive, and the clocks of the nodes are those of the wall.

use std::time::{Duration, Instant};

use culvert_crypto::Engine;
use culvert_dataplane::buffer::{BufferPool, RegionError};
use culvert_dataplane::clock;
use culvert_dataplane::counters::WorkerCounters;
use culvert_dataplane::driver::generator::{Generator, Sink, Source, Taken};
use culvert_dataplane::drop_reason::DropReason;
use culvert_dataplane::event::{self, EventReceiver, EventSender};
use culvert_dataplane::graph::{Graph, Node, NodeId, Surroundings, VECTOR, Vector};
use culvert_dataplane::nodes;
use culvert_dataplane::port::{Port, Ports};
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use thiserror::Error;

use super::scene::{LAN, Scene, WAN};
use super::traffic::{Examiner, Seen};
use super::yardstick::Yardstick;

/// Windows of a row.
pub const WINDOWS: usize = 15;
/// Buffers of the pool that the generator takes from.
pub const BUFFERS: usize = 16_384;
/// Vectors of a slice, at most: well below a scheduler's time slice.
const SLICE: usize = 4;
/// Packets of a slice of small vectors, at least.
const SLICE_PACKETS: usize = 256;
/// How far the wall clock may be from the sum of the nodes, in percent of it.
const WALL_TOLERANCE: f64 = 5.0;
/// Rounds that a window has at least.
const ROUNDS: usize = 3;
/// Time that the kernel may take for itself within a slice (a timer interrupt), in nanoseconds.
pub const UNDISTURBED_NS: u64 = 15_000;
/// 655 of 65,536 frames are examined: one of a hundred.
const SAMPLE: u16 = 655;
/// Slices thrown away in a row before it is said that this machine cannot measure.
const PATIENCE: u32 = 10_000;

/// Why a row has no figure.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// No memory for packets.
    #[error(transparent)]
    Buffers(#[from] RegionError),
    /// Packets went lost on the way.
    #[error("{lost} packets did not come out; dropped for: {reasons}")]
    Lost {
        /// How many.
        lost: u64,
        /// By the graph's own count.
        reasons: String,
    },
    /// What came out is not what must come out.
    #[error("{wrong} of {examined} examined packets are wrong")]
    Wrong {
        /// How many.
        wrong: usize,
        /// Of how many.
        examined: usize,
    },
    /// A packet that must be dropped was not, or for another reason.
    #[error("{0} is not looked at")]
    Unchecked(&'static str),
    /// Sequence numbers do not follow each other.
    #[error("sequence numbers are not consecutive")]
    Sequence,
    /// Clocks went elsewhere than into the nodes, or were counted there and did not pass.
    #[error("the wall clock is {0:+.1} % from the sum of the nodes")]
    Wall(f64),
    /// The yardstick failed.
    #[error("the {0} failed")]
    Yardstick(&'static str),
    /// The processor is never left to us for long enough.
    #[error("this machine is too busy: {0} slices in a row were interrupted")]
    Busy(u32),
}

/// What a row has come to, medians over the windows.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// Clocks a packet, summed over the nodes.
    pub clocks: f64,
    /// Clocks a packet of the yardstick.
    pub yardstick: Option<f64>,
    /// Clocks over the yardstick.
    pub over: Option<f64>,
    /// Clocks as a share of the yardstick's.
    pub ratio: Option<f64>,
    /// How far wall clocks less those of a generator-to-sink run are from the sum of the nodes, in percent of it.
    pub wall_difference: f64,
    /// Clocks a packet of each node.
    pub nodes: Vec<(NodeId, f64)>,
    /// Packets of the undisturbed slices.
    pub packets: u64,
    /// Packets of the graph's output that were examined.
    pub examined: usize,
    /// Slices thrown away.
    pub disturbed: u32,
    /// The packets lay in huge pages of their own.
    pub huge_pages: bool,
}

/// What a rig is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Packets that are made at once.
    pub vector: usize,
    /// Packets lie in pages of 4 KiB, whatever the kernel has.
    pub small_pages: bool,
    /// Where packets enter the graph.
    pub input: NodeId,
    /// They are ESP packets for this box: a copy of one must be dropped.
    pub decrypts: bool,
    /// Number of the worker.
    pub worker: u32,
}

/// A worker without a thread, between a generator and two sinks.
pub struct Rig<'s, S> {
    scene: &'s Scene,
    engine: &'s dyn Engine,
    setup: Setup,
    graph: Graph,
    buffers: BufferPool,
    counters: WorkerCounters,
    ports: Ports,
    events: (EventSender, EventReceiver),
    /// For the graph, and for the other slices: both write the same, and the graph sees each number.
    generators: [Generator<S>; 2],
    bare: Sink,
    taken: [Arc<Taken>; 2],
    sent: u64,
    /// Of those sent, how many were made to be dropped.
    spoiled: u64,
    disturbed: u32,
}

/// Clocks of the undisturbed slices of one window.
#[derive(Default)]
struct Window {
    packets: u64,
    nodes: Vec<u64>,
    wall: u64,
    yardstick: (u64, u64),
    bare: (u64, u64),
}

impl<'s, S: Source> Rig<'s, S> {
    /// Puts it together; both sources write the same packets.
    pub fn new(
        scene: &'s Scene,
        engine: &'s dyn Engine,
        sources: [S; 2],
        setup: Setup,
    ) -> Result<Self, MeasureError> {
        let sinks = [Sink::new(SAMPLE, 1), Sink::new(SAMPLE, 2)];
        let taken = sinks.each_ref().map(|sink| Arc::clone(sink.taken()));
        let mut ports = Ports::default();
        for (interface, sink) in [LAN, WAN].into_iter().zip(sinks) {
            ports.insert(interface, Box::new(sink));
        }
        let mut nodes: Vec<Box<dyn Node>> = nodes::layer3();
        nodes.push(Box::<nodes::tunnel_output::TunnelOutput>::default());
        nodes.push(Box::<nodes::esp_encrypt::EspEncrypt>::default());
        nodes.push(Box::<nodes::esp_decrypt::EspDecrypt>::default());
        Ok(Self {
            scene,
            engine,
            setup,
            graph: Graph::new(nodes),
            buffers: if setup.small_pages {
                BufferPool::in_small_pages(BUFFERS)?
            } else {
                BufferPool::new(BUFFERS)?
            },
            counters: WorkerCounters::default(),
            ports,
            events: event::channel(),
            generators: sources.map(|source| Generator::new(source, setup.input, setup.vector)),
            bare: Sink::new(SAMPLE, 3),
            taken,
            sent: 0,
            spoiled: 0,
            disturbed: 0,
        })
    }

    /// Whether the packets lie in huge pages of their own.
    pub fn huge_pages(&self) -> bool {
        self.buffers.huge_pages()
    }

    /// Measures for about `time`.
    pub fn measure(
        &mut self,
        time: Duration,
        mut yardstick: Option<&mut dyn Yardstick>,
        examiner: &Examiner,
    ) -> Result<Figure, MeasureError> {
        self.warm_up()?;
        let mut windows = Vec::with_capacity(WINDOWS);
        let mut seen = Vec::new();
        let mut looked_at = 0;
        for _ in 0..WINDOWS {
            windows.push(self.window(time / WINDOWS as u32, &mut yardstick)?);
            for frame in self.sample() {
                looked_at += 1;
                seen.extend(examiner.accept(&frame));
            }
            drop(self.bare.taken().sample());
        }
        let lost = self.lost();
        if lost > 0 {
            return Err(MeasureError::Lost {
                lost,
                reasons: self.drops(),
            });
        }
        if seen.len() < looked_at || looked_at == 0 {
            return Err(MeasureError::Wrong {
                wrong: looked_at - seen.len(),
                examined: looked_at,
            });
        }
        if examiner.is_consecutive() && !consecutive(&seen) {
            return Err(MeasureError::Sequence);
        }
        let small = self.setup.vector < VECTOR;
        let figure = figure(&windows, small);
        let unexplained = if small {
            // What nodes do not count is in the figure.
            -figure.wall_difference
        } else {
            figure.wall_difference.abs()
        };
        if unexplained > WALL_TOLERANCE {
            return Err(MeasureError::Wall(figure.wall_difference));
        }
        Ok(Figure {
            examined: looked_at,
            disturbed: self.disturbed,
            ..figure
        })
    }

    /// The first touch of every buffer and of every line of code, and of what must be dropped.
    pub fn warm_up(&mut self) -> Result<(), MeasureError> {
        self.try_checks()?;
        for _ in 0..BUFFERS / self.setup.vector.max(1) {
            self.graph_vector();
        }
        drop(self.sample());
        Ok(())
    }

    /// Whether what may not pass is dropped for what it is.
    fn try_checks(&mut self) -> Result<(), MeasureError> {
        let dropped = |rig: &Self, reason| rig.counters.drop(reason).get();
        if self.setup.input == NodeId::Ip4Input {
            let before = dropped(self, DropReason::Ip4BadChecksum);
            let mut vector = self.make(0);
            if let Some(byte) = vector
                .first_mut()
                .and_then(|packet| self.buffers.data_mut(packet).get_mut(10))
            {
                *byte ^= 0xff;
            }
            self.pass(vector);
            self.spoiled += 1;
            if dropped(self, DropReason::Ip4BadChecksum) != before + 1 {
                return Err(MeasureError::Unchecked("the checksum of IP headers"));
            }
        }
        if self.setup.decrypts {
            let before = dropped(self, DropReason::EspReplayed);
            let vector = self.make(0);
            let copy = vector
                .first()
                .map(|packet| self.buffers.data(packet).to_vec())
                .unwrap_or_default();
            self.pass(vector);
            let mut vector = self.make(0);
            if let Some(packet) = vector.first_mut() {
                self.buffers.data_mut(packet).copy_from_slice(&copy);
            }
            self.pass(vector);
            self.spoiled += 1;
            if dropped(self, DropReason::EspReplayed) != before + 1 {
                return Err(MeasureError::Unchecked("the replay window"));
            }
        }
        Ok(())
    }

    /// Frames that came out since the last look, one of a hundred.
    pub fn sample(&self) -> Vec<Vec<u8>> {
        let samples = self.taken.iter().flat_map(|taken| taken.sample());
        samples.collect()
    }

    /// Packets that should have come out and did not.
    pub fn lost(&self) -> u64 {
        let out: u64 = self.taken.iter().map(|taken| taken.frames()).sum();
        (self.sent - self.spoiled).abs_diff(out)
    }

    /// Vectors of a slice.
    fn slice(&self) -> usize {
        SLICE.max(SLICE_PACKETS / self.setup.vector.max(1))
    }

    fn window(
        &mut self,
        time: Duration,
        yardstick: &mut Option<&mut dyn Yardstick>,
    ) -> Result<Window, MeasureError> {
        let mut window = Window {
            nodes: vec![0; NodeId::COUNT],
            ..Window::default()
        };
        let began = Instant::now();
        let mut rounds = 0;
        while rounds < ROUNDS || began.elapsed() < time {
            rounds += 1;
            let (packets, wall, nodes) = self.undisturbed(|rig| {
                rig.graph_vector();
                let before = rig.node_clocks();
                let start = clock::clocks();
                let packets: u64 = (0..rig.slice()).map(|_| rig.graph_vector()).sum();
                let wall = clock::clocks().wrapping_sub(start);
                let nodes = rig.node_clocks().into_iter().zip(before);
                let nodes: Vec<u64> = nodes.map(|(after, before)| after - before).collect();
                (packets, wall, nodes)
            })?;
            window.packets += packets;
            window.wall += wall;
            for (sum, clocks) in window.nodes.iter_mut().zip(nodes) {
                *sum += clocks;
            }
            if let Some(yardstick) = yardstick {
                let (packets, clocks) = self.undisturbed(|rig| {
                    rig.yardstick_vector(&mut **yardstick);
                    (0..rig.slice())
                        .map(|_| rig.yardstick_vector(&mut **yardstick))
                        .try_fold((0, 0), |sum, vector| {
                            vector.map(|vector| (sum.0 + vector.0, sum.1 + vector.1))
                        })
                        .ok_or(MeasureError::Yardstick(yardstick.name()))
                })??;
                window.yardstick.0 += packets;
                window.yardstick.1 += clocks;
            }
            let (packets, clocks) = self.undisturbed(|rig| {
                rig.bare_vector();
                let start = clock::clocks();
                let packets: u64 = (0..rig.slice()).map(|_| rig.bare_vector()).sum();
                (packets, clock::clocks().wrapping_sub(start))
            })?;
            window.bare.0 += packets;
            window.bare.1 += clocks;
        }
        Ok(window)
    }

    /// Repeats a slice until the processor was ours all the time.
    fn undisturbed<R>(&mut self, mut slice: impl FnMut(&mut Self) -> R) -> Result<R, MeasureError> {
        let mut failures = 0;
        loop {
            let before = times();
            let result = slice(self);
            let after = times();
            let (wall, processor) = (
                after.0.saturating_sub(before.0),
                after.1.saturating_sub(before.1),
            );
            if wall.saturating_sub(processor) < UNDISTURBED_NS {
                return Ok(result);
            }
            self.disturbed += 1;
            failures += 1;
            if failures == PATIENCE {
                return Err(MeasureError::Busy(failures));
            }
        }
    }

    /// One vector through the graph; gives its packets.
    fn graph_vector(&mut self) -> u64 {
        let vector = self.make(0);
        self.pass(vector)
    }

    /// A vector of one of both generators.
    pub fn make(&mut self, generator: usize) -> Vector {
        let mut vector = Vector::new();
        let [graph, other] = &mut self.generators;
        let generator = if generator == 0 { graph } else { other };
        generator.receive(&mut self.buffers, &self.counters, &mut vector);
        for packet in &mut vector {
            self.buffers.meta_mut(packet).rx_interface = LAN;
        }
        vector
    }

    /// Sends a vector through the graph; gives its packets.
    pub fn pass(&mut self, mut vector: Vector) -> u64 {
        let packets = vector.len() as u64;
        self.sent += packets;
        let mut around = Surroundings {
            buffers: &mut self.buffers,
            tables: &self.scene.tables,
            counters: &self.counters,
            ports: &mut self.ports,
            events: &self.events.0,
            engine: self.engine,
            now: 1_000_000_000,
            worker: self.setup.worker,
        };
        self.graph
            .enqueue(self.setup.input, &mut vector, &mut around);
        self.graph.run(&mut around);
        self.ports.flush(&mut self.buffers, &self.counters);
        packets
    }

    fn bare_vector(&mut self) -> u64 {
        let mut vector = self.make(1);
        let packets = vector.len() as u64;
        self.bare
            .transmit(&mut self.buffers, &self.counters, &mut vector);
        packets
    }

    /// The yardstick on a vector of the second generator; packets and clocks.
    fn yardstick_vector(&mut self, yardstick: &mut dyn Yardstick) -> Option<(u64, u64)> {
        let vector = self.make(1);
        self.yardstick_on(vector, yardstick)
    }

    /// The yardstick on a vector that was made here; packets and clocks.
    pub fn yardstick_on(
        &mut self,
        mut vector: Vector,
        yardstick: &mut dyn Yardstick,
    ) -> Option<(u64, u64)> {
        let packets = vector.len() as u64;
        let clocks = yardstick.run(&self.buffers, &mut vector);
        self.bare
            .transmit(&mut self.buffers, &self.counters, &mut vector);
        Some((packets, clocks?))
    }

    /// Clocks of all nodes so far.
    pub fn clocks(&self) -> u64 {
        self.node_clocks().into_iter().sum()
    }

    fn node_clocks(&self) -> Vec<u64> {
        NodeId::ALL
            .iter()
            .map(|id| self.counters.node(*id).clocks.get())
            .collect()
    }

    /// Why packets were dropped so far.
    pub fn drops(&self) -> String {
        let counts = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.counters.drop(*reason).get()))
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// Wall clock and this thread's processor time, in nanoseconds.
pub fn times() -> (u64, u64) {
    let processor = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    });
    (clock::monotonic_nanoseconds(), processor)
}

/// Whether the packets of each SA have sequence numbers as they follow each other.
fn consecutive(seen: &[Seen]) -> bool {
    let mut offsets = seen
        .iter()
        .filter_map(|seen| Some(u64::from(seen.sequence?.1).wrapping_sub(seen.number)));
    let first = offsets.next();
    first.is_some_and(|first| offsets.all(|offset| offset == first))
}

/// Of small vectors also what it costs to go from node to node counts, which whole ones share among their packets: the
/// clocks of the wall, less those of generator and sink, if they are more.
fn figure(windows: &[Window], small: bool) -> Figure {
    let over = |clocks: u64, packets: u64| clocks as f64 / packets.max(1) as f64;
    let median_of = |value: &dyn Fn(&Window) -> f64| median(windows.iter().map(value).collect());
    let nodes = |window: &Window| over(window.nodes.iter().sum(), window.packets);
    let inside =
        |window: &Window| over(window.wall, window.packets) - over(window.bare.1, window.bare.0);
    let cost = |window: &Window| {
        let nodes = nodes(window);
        if small {
            inside(window).max(nodes)
        } else {
            nodes
        }
    };
    let yardstick = |window: &Window| over(window.yardstick.1, window.yardstick.0);
    let measured = windows.iter().all(|window| window.yardstick.0 > 0);
    let with_yardstick = |value: &dyn Fn(&Window) -> f64| measured.then(|| median_of(value));
    Figure {
        clocks: median_of(&cost),
        yardstick: with_yardstick(&yardstick),
        over: with_yardstick(&|window| cost(window) - yardstick(window)),
        ratio: with_yardstick(&|window| cost(window) / yardstick(window)),
        wall_difference: median_of(&|window| (inside(window) / nodes(window) - 1.0) * 100.0),
        nodes: NodeId::ALL
            .iter()
            .enumerate()
            .map(|(at, id)| {
                let clocks = median_of(&|window| {
                    over(window.nodes.get(at).copied().unwrap_or(0), window.packets)
                });
                (*id, clocks)
            })
            .filter(|(_, clocks)| *clocks > 0.0)
            .collect(),
        packets: windows.iter().map(|window| window.packets).sum(),
        ..Figure::default()
    }
}

/// The one in the middle; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_row_is_the_median_of_its_windows() {
        let window = |nodes: u64, ring: u64| Window {
            packets: 10,
            nodes: vec![nodes * 10, 0],
            wall: (nodes + 100) * 10,
            yardstick: (5, ring * 5),
            bare: (20, 100 * 20),
        };
        let mut windows: Vec<_> = (0..14).map(|at| window(300 + at, 200)).collect();
        windows.push(window(90_000, 80_000));
        let figure = figure(&windows, false);
        assert!((figure.clocks - 307.0).abs() < 1e-9);
        assert!((figure.yardstick.unwrap() - 200.0).abs() < 1e-9);
        assert!((figure.over.unwrap() - 107.0).abs() < 1e-9);
        assert!(figure.wall_difference.abs() < 1e-9);
        assert_eq!(figure.nodes.len(), 1);
        assert_eq!(figure.packets, 150);
    }

    #[test]
    fn small_vectors_cost_what_the_wall_says_if_that_is_more() {
        let window = |wall: u64| Window {
            packets: 10,
            nodes: vec![2000],
            wall: (wall + 100) * 10,
            yardstick: (0, 0),
            bare: (20, 100 * 20),
        };
        let clocks = |wall, small| figure(&[window(wall)], small).clocks;
        assert!((clocks(240, true) - 240.0).abs() < 1e-9);
        assert!((clocks(190, true) - 200.0).abs() < 1e-9);
        assert!((clocks(240, false) - 200.0).abs() < 1e-9);
    }
}
