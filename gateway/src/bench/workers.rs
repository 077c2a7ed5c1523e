//! Two workers against one, beside two loops of ring's seal against one on the same two cores.
//!
//! ```text
//!   a round, both threads in step:   graph on core 0 | graph on core 1 | graph on both |
//!                                    seal on core 0  | seal on core 1  | seal on both
//! ```
//!
//! Before each of the six both make the packets of it, and begin together when both are ready: nobody makes packets while
//! the other is measured. Scaling is the sum over both workers of their speed together over their speed alone; the goal is
//! the graph's over the seal's. A round counts only if the kernel took neither core away in it, and if what both did
//! together they began together.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_crypto::{Portable, Suite};
use culvert_dataplane::clock;
use culvert_dataplane::driver::generator::Source;
use culvert_dataplane::graph::{VECTOR, Vector};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::BenchError;
use super::measure::{MeasureError, Rig, Setup, UNDISTURBED_NS, median, times};
use super::plan::{Plan, Work};
use super::report::Scaling;
use super::row::Bench;
use super::scene::{Protection, SHARED_WINDOW, Scene, Shape};
use super::traffic::{Destinations, Examiner, Pattern, Plain, Sealed, Seen};
use super::yardstick::{self, Yardstick};

/// Bytes of the inner packets.
const BYTES: usize = 1400;
/// Vectors of a section: both workers' fit the replay window, whoever is first.
const VECTORS: usize = 4;
/// Rounds without disturbance that a figure needs.
const ROUNDS: usize = 15;
/// Sections of a round: graph and seal, each by the first, by the second, by both.
const SECTIONS: usize = 6;
/// As long as a row, so many times: a round is six slices.
const TIMES: f64 = 4.0;
/// How much longer a busy machine is tried.
const PATIENCE: u32 = 8;
/// Looks at the other's arrival before the core is offered to somebody else.
const SPINS: u32 = 50_000;
/// What of a section both workers share at least to have worked together: all but one of so many parts.
const OVERLAP: u64 = 10;

/// What both workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Encrypt, each for an SA of its own.
    OwnSas,
    /// Encrypt for the same SA.
    EncryptOneSa,
    /// Decrypt packets of the same SA.
    DecryptOneSa,
}

impl Pair {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OwnSas, Self::EncryptOneSa, Self::DecryptOneSa];

    /// As in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnSas => "two workers, two SAs, encrypt 1400",
            Self::EncryptOneSa => "two workers, one SA, encrypt 1400",
            Self::DecryptOneSa => "two workers, one SA, decrypt 1400",
        }
    }

    const fn plan(self) -> Plan {
        let suite = Suite::AES128GCM16;
        match self {
            Self::OwnSas => Plan {
                shape: Shape::gateway(2),
                ..Plan::encrypt(suite, BYTES)
            },
            Self::EncryptOneSa => Plan::encrypt(suite, BYTES),
            Self::DecryptOneSa => Plan {
                shape: Shape {
                    window: SHARED_WINDOW,
                    ..Shape::gateway(1)
                },
                ..Plan::decrypt(suite, BYTES)
            },
        }
    }

    /// Where the packets of a worker go.
    const fn destinations(self, worker: u32) -> Destinations {
        match self {
            Self::OwnSas => Destinations::Tunnel(worker),
            Self::EncryptOneSa => Destinations::Far,
            Self::DecryptOneSa => Destinations::Near,
        }
    }
}

/// What a worker found in a section.
#[derive(Clone, Copy, Debug, Default)]
struct Section {
    packets: u64,
    clocks: u64,
    /// By the time-stamp counter, which is the same on both cores.
    began: u64,
    disturbed: bool,
}

impl Section {
    fn speed(self) -> f64 {
        self.packets as f64 / self.clocks.max(1) as f64
    }
}

type Round = [Section; SECTIONS];

/// Nobody was disturbed, and sections of both began at the same time.
fn counts([one, other]: &[Round; 2]) -> bool {
    let undisturbed = one.iter().chain(other).all(|section| !section.disturbed);
    let together = |(one, other): (&Section, &Section)| {
        one.packets == 0
            || other.packets == 0
            || one.began.abs_diff(other.began) < one.clocks.min(other.clocks) / OVERLAP
    };
    undisturbed && one.iter().zip(other).all(together)
}

/// What a worker found in all.
struct Found {
    seen: Vec<Seen>,
    wrong: usize,
    lost: u64,
    drops: String,
}

/// Both threads in step; one that ends early lets the other go.
#[derive(Default)]
struct Together {
    arrived: AtomicUsize,
    ended: AtomicBool,
    /// The round that runs is the last one.
    enough: AtomicBool,
    rounds: Mutex<[Vec<Round>; 2]>,
}

impl Together {
    /// Waits for the other; false if it is gone.
    fn step(&self) -> bool {
        let ours = self.arrived.fetch_add(1, Ordering::AcqRel) + 1;
        let both = ours.next_multiple_of(2);
        let mut spins = 0;
        while self.arrived.load(Ordering::Acquire) < both {
            if self.ended.load(Ordering::Relaxed) {
                return false;
            }
            spins += 1;
            if spins < SPINS {
                hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        true
    }

    /// Keeps what a worker found in a round; gives how many count that both have told of.
    fn keep(&self, worker: usize, round: Round) -> usize {
        let mut all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(worker) {
            own.push(round);
        }
        let [one, other] = &*all;
        let both = one.iter().zip(other).map(|(one, other)| [*one, *other]);
        both.filter(counts).count()
    }

    /// The rounds of both.
    fn both(&self) -> Vec<[Round; 2]> {
        let all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let [one, other] = &*all;
        let both = one.iter().zip(other).map(|(one, other)| [*one, *other]);
        both.collect()
    }
}

/// Says so when its thread ends, however.
struct Ending<'a>(&'a Together);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Measures one of them.
pub fn measure(bench: &Bench<'_>, pair: Pair) -> Result<Scaling, BenchError> {
    let failed = |source| BenchError::Measure {
        row: pair.name().to_owned(),
        source,
    };
    let cores = cores();
    let [first, second, ..] = cores.as_slice() else {
        return Err(BenchError::Incomplete("two workers need two cores"));
    };
    let plan = pair.plan();
    let (Work::Encrypt(suite) | Work::Decrypt(suite)) = plan.work else {
        return Err(BenchError::Incomplete("two workers do not forward"));
    };
    let protection = Protection::new(suite);
    let scene = Scene::new(bench.engine, Some(&protection), plan.shape)?;
    let together = Together::default();
    let numbers = Arc::new(AtomicU64::new(0));
    let both = Both {
        bench,
        pair,
        protection: &protection,
        scene: &scene,
        together: &together,
        numbers: &numbers,
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = [*first, *second]
            .into_iter()
            .enumerate()
            .map(|(worker, core)| {
                let both = &both;
                scope.spawn(move || {
                    let _ending = Ending(both.together);
                    pin(core);
                    both.work(worker)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| BenchError::Worker)?)
            .collect()
    });
    let found = results.into_iter().collect::<Result<Vec<Found>, _>>()?;
    let [one, other] = found.as_slice() else {
        return Err(BenchError::Worker);
    };
    let (wrong, examined) = (one.wrong + other.wrong, one.seen.len() + other.seen.len());
    if wrong > 0 || examined == 0 {
        return Err(failed(MeasureError::Wrong {
            wrong,
            examined: examined + wrong,
        }));
    }
    if !distinct(one.seen.iter().chain(&other.seen)) {
        return Err(failed(MeasureError::Sequence));
    }
    // What the window did not take is no failure of the measurement: it is said.
    let lost = one.lost + other.lost;
    if lost > 0 && pair != Pair::DecryptOneSa {
        let reasons = format!("{}; {}", one.drops, other.drops);
        return Err(failed(MeasureError::Lost { lost, reasons }));
    }
    let rounds = together.both();
    let well: Vec<[Round; 2]> = rounds
        .iter()
        .filter(|round| counts(round))
        .copied()
        .collect();
    if well.len() < ROUNDS {
        let disturbed = rounds.len() - well.len();
        return Err(failed(MeasureError::Busy(disturbed as u32)));
    }
    Ok(scaling(pair, &well, lost, rounds.len()))
}

/// No sequence number of an SA was given twice.
fn distinct<'a>(seen: impl Iterator<Item = &'a Seen>) -> bool {
    let mut all = std::collections::HashSet::new();
    seen.filter_map(|seen| seen.sequence)
        .all(|sequence| all.insert(sequence))
}

fn scaling(pair: Pair, rounds: &[[Round; 2]], lost: u64, tried: usize) -> Scaling {
    let of = |round: &[Round; 2], first: usize| {
        let [[one, other], together] = [
            [round[0][first], round[1][first + 1]],
            [round[0][first + 2], round[1][first + 2]],
        ];
        together[0].speed() / one.speed() + together[1].speed() / other.speed()
    };
    let median_of = |value: &dyn Fn(&[Round; 2]) -> f64| median(rounds.iter().map(value).collect());
    let clocks = |section: Section| section.clocks as f64 / section.packets.max(1) as f64;
    Scaling {
        name: pair.name(),
        clk_alone: median_of(&|round| f64::midpoint(clocks(round[0][0]), clocks(round[1][1]))),
        clk_together: median_of(&|round| f64::midpoint(clocks(round[0][2]), clocks(round[1][2]))),
        speedup: median_of(&|round| of(round, 0)),
        ring_speedup: median_of(&|round| of(round, 3)),
        ratio_to_ring: median_of(&|round| of(round, 0) / of(round, 3)),
        lost_to_window: lost,
        rounds: rounds.len(),
        disturbed_rounds: tried - rounds.len(),
    }
}

/// What both threads have.
struct Both<'a> {
    bench: &'a Bench<'a>,
    pair: Pair,
    protection: &'a Protection,
    scene: &'a Scene,
    together: &'a Together,
    /// Of the packets of the peer: each takes a vector's worth of numbers at a time.
    numbers: &'a Arc<AtomicU64>,
}

impl Both<'_> {
    fn work(&self, worker: usize) -> Result<Found, BenchError> {
        let plan = self.pair.plan();
        let pattern = Pattern::new(BYTES, false, self.pair.destinations(worker as u32));
        match plan.work {
            Work::Decrypt(_) => {
                let outer = plan.shape.peers_outer_header().ok_or(BenchError::Peer)?;
                let skip = outer.len();
                let source = |numbers: &Arc<AtomicU64>| -> Result<_, BenchError> {
                    Ok(Sealed::new(
                        pattern.clone(),
                        Arc::clone(self.bench.engine),
                        self.bench.keys(self.protection, plan)?,
                        outer.clone(),
                        Arc::clone(numbers),
                    ))
                };
                // What only the yardstick sees has numbers of its own.
                let sources = [source(self.numbers)?, source(&Arc::default())?];
                self.run(worker, sources, skip, &Examiner::Forwarded(pattern.clone()))
            }
            _ => {
                let examiner = Examiner::Encrypted(
                    pattern.clone(),
                    plan.shape,
                    self.protection.clone(),
                    Arc::new(Portable),
                );
                let sources = [Plain::new(pattern.clone()), Plain::new(pattern)];
                self.run(worker, sources, 0, &examiner)
            }
        }
    }

    fn run<S: Source>(
        &self,
        worker: usize,
        sources: [S; 2],
        skip: usize,
        examiner: &Examiner,
    ) -> Result<Found, BenchError> {
        let failed = |source| BenchError::Measure {
            row: self.pair.name().to_owned(),
            source,
        };
        let plan = self.pair.plan();
        let setup = Setup {
            vector: VECTOR,
            small_pages: false,
            input: plan.input(),
            // The other worker's packets come between: what is tried alone elsewhere is not tried here.
            decrypts: false,
            worker: worker as u32,
        };
        let engine = self.bench.engine.as_ref();
        let mut rig = Rig::new(self.scene, engine, sources, setup).map_err(failed)?;
        let mut seal =
            yardstick::seal(self.protection, skip, BYTES).ok_or(BenchError::Incomplete(
                "two workers are measured against ring, which does not have this cipher",
            ))?;
        let mut found = Found {
            seen: Vec::new(),
            wrong: 0,
            lost: 0,
            drops: String::new(),
        };
        // One after the other, lest one run ahead of the other's window.
        for turn in 0..2 {
            if turn == worker {
                rig.warm_up().map_err(failed)?;
            }
            if !self.together.step() {
                return Err(BenchError::Worker);
            }
        }
        let time = Duration::try_from_secs_f64(self.bench.arguments.seconds * TIMES);
        let time = time.unwrap_or_default();
        let began = Instant::now();
        loop {
            let round = self.round(worker, &mut rig, seal.as_mut())?;
            for frame in rig.sample() {
                match examiner.accept(&frame) {
                    Some(seen) => found.seen.push(seen),
                    None => found.wrong += 1,
                }
            }
            let count = self.together.keep(worker, round);
            let late = began.elapsed() > time * PATIENCE;
            if worker == 0 && (late || (count >= ROUNDS && began.elapsed() > time)) {
                self.together.enough.store(true, Ordering::Release);
            }
            if !self.together.step() {
                return Err(BenchError::Worker);
            }
            if self.together.enough.load(Ordering::Acquire) {
                break;
            }
            // Nobody says that it is enough before the other has looked.
            if !self.together.step() {
                return Err(BenchError::Worker);
            }
        }
        found.lost = rig.lost();
        found.drops = rig.drops();
        Ok(found)
    }

    fn round<S: Source>(
        &self,
        worker: usize,
        rig: &mut Rig<'_, S>,
        seal: &mut dyn Yardstick,
    ) -> Result<Round, BenchError> {
        let mut round = Round::default();
        for (number, section) in round.iter_mut().enumerate() {
            let graph = number < SECTIONS / 2;
            let mine = number % 3 == worker || number % 3 == 2;
            let vectors: Vec<Vector> = (0..if mine { VECTORS } else { 0 })
                .map(|_| rig.make(usize::from(!graph)))
                .collect();
            if !self.together.step() {
                return Err(BenchError::Worker);
            }
            section.began = clock::clocks();
            let (before, clocks) = (times(), rig.clocks());
            for vector in vectors {
                if graph {
                    section.packets += rig.pass(vector);
                } else {
                    let (packets, clocks) = rig
                        .yardstick_on(vector, seal)
                        .ok_or(BenchError::Incomplete("the yardstick failed"))?;
                    section.packets += packets;
                    section.clocks += clocks;
                }
            }
            let after = times();
            if graph {
                section.clocks = rig.clocks() - clocks;
            }
            let away = (after.0 - before.0).saturating_sub(after.1 - before.1);
            section.disturbed = away >= UNDISTURBED_NS;
            if !self.together.step() {
                return Err(BenchError::Worker);
            }
        }
        Ok(round)
    }
}

/// Those that this process may use.
fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

/// This thread stays on a core; where that is refused, the kernel places it.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Sections of a worker that takes `alone` clocks for a packet, `together` beside the other; the seal takes 100.
    fn round(worker: usize, alone: u64, together: u64) -> Round {
        let mut round = Round::default();
        for (number, section) in round.iter_mut().enumerate() {
            let clocks = match number {
                0 | 1 => alone,
                2 => together,
                _ => 100,
            };
            if number % 3 == worker || number % 3 == 2 {
                section.packets = 1000;
                section.clocks = clocks * 1000;
            }
        }
        round
    }

    #[test]
    fn scaling_is_two_workers_speed_over_ones() {
        let rounds = vec![[round(0, 300, 400), round(1, 300, 400)]; 3];
        let scaling = scaling(Pair::EncryptOneSa, &rounds, 7, 5);
        assert!((scaling.speedup - 1.5).abs() < 1e-9);
        assert!((scaling.ring_speedup - 2.0).abs() < 1e-9);
        assert!((scaling.ratio_to_ring - 0.75).abs() < 1e-9);
        assert!((scaling.clk_alone - 300.0).abs() < 1e-9);
        assert!((scaling.clk_together - 400.0).abs() < 1e-9);
        assert_eq!((scaling.lost_to_window, scaling.disturbed_rounds), (7, 2));
    }

    #[test]
    fn only_what_was_done_together_counts() {
        let well = [round(0, 300, 400), round(1, 300, 400)];
        assert!(counts(&well));
        let mut late = well;
        late[1][2].began = 100_000;
        assert!(!counts(&late));
        let mut disturbed = well;
        disturbed[0][4].disturbed = true;
        assert!(!counts(&disturbed));
        let mut elsewhere = well;
        elsewhere[1][0].began = 100_000;
        assert!(
            counts(&elsewhere),
            "who has no part in a section is not late"
        );
    }

    #[test]
    fn no_sequence_number_may_come_twice() {
        let seen = |number, sequence| Seen {
            number,
            sequence: Some((1, sequence)),
        };
        assert!(distinct([seen(1, 1), seen(2, 2)].iter()));
        assert!(!distinct([seen(1, 1), seen(2, 1)].iter()));
    }
}
