//! A row: the box of its plan, the packets, the yardstick, and what must come out, put together and measured.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use culvert_crypto::{Engine, KeyError, Portable, SaKey};
use culvert_dataplane::driver::generator::Source;
use culvert_dataplane::fib;

use super::measure::{Figure, MeasureError, Rig, Setup};
use super::plan::{Plan, Work};
use super::report::Row;
use super::scene::{Protection, Scene};
use super::traffic::{Examiner, Pattern, Plain, Sealed};
use super::yardstick::{self, Yardstick};
use super::{Arguments, BenchError};

/// How often a row is measured whose clocks do not add up, until it has no figure.
const ATTEMPTS: usize = 3;

/// Where workers wait for each other, once: also one that fails or panics before its start lets the others go.
pub struct Start<'a> {
    barrier: &'a Barrier,
    passed: Cell<bool>,
}

impl Start<'_> {
    fn pass(&self) {
        if !self.passed.replace(true) {
            self.barrier.wait();
        }
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.pass();
    }
}

/// What the rows have in common.
pub struct Bench<'a> {
    /// Seals and opens.
    pub engine: &'a Arc<dyn Engine>,
    /// What the user wants.
    pub arguments: &'a Arguments,
    /// Clocks a second, in millions.
    pub megahertz: f64,
}

impl Bench<'_> {
    /// One row, by as many workers as asked for.
    pub fn row(&self, plan: Plan) -> Result<Row, BenchError> {
        let workers = self.arguments.workers.get();
        let barrier = Barrier::new(workers);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|worker| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let start = Start {
                            barrier,
                            passed: Cell::new(false),
                        };
                        self.figure(plan, self.arguments.vector, worker as u32, &start)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| BenchError::Worker)?)
                .collect()
        });
        let mut rows = Vec::with_capacity(workers);
        for result in results {
            let (figure, name) = result?;
            let row = Row::new(
                plan.path(),
                plan.algorithm(),
                plan.bytes,
                name,
                &figure,
                self.megahertz,
            );
            rows.push(row);
        }
        Row::of_all(&rows).ok_or(BenchError::Worker)
    }

    /// The figure of a plan alone, with vectors of so many packets.
    pub fn alone(&self, plan: Plan, vector: usize) -> Result<Figure, BenchError> {
        let barrier = Barrier::new(1);
        let start = Start {
            barrier: &barrier,
            passed: Cell::new(false),
        };
        Ok(self.figure(plan, vector, 0, &start)?.0)
    }

    /// With the yardstick's name.
    fn figure(
        &self,
        plan: Plan,
        vector: usize,
        worker: u32,
        start: &Start<'_>,
    ) -> Result<(Figure, Option<&'static str>), BenchError> {
        let pattern = Pattern::new(plan.bytes, plan.shape.v6, plan.destinations());
        let setup = Setup {
            vector,
            small_pages: plan.small_pages,
            input: plan.input(),
            decrypts: matches!(plan.work, Work::Decrypt(_)),
            worker,
        };
        match plan.work {
            Work::Encrypt(suite) => {
                let protection = Protection::new(suite);
                let scene = Scene::new(self.engine, Some(&protection), plan.shape)?;
                let measured = Measured {
                    plan,
                    scene: &scene,
                    setup,
                    yardstick: yardstick::seal(&protection, 0, pattern.length()),
                    examiner: Examiner::Encrypted(
                        pattern.clone(),
                        plan.shape,
                        protection.clone(),
                        Arc::new(Portable),
                    ),
                };
                self.measure(measured, || Ok(Plain::new(pattern.clone())), start)
            }
            Work::Decrypt(suite) => {
                let protection = Protection::new(suite);
                let scene = Scene::new(self.engine, Some(&protection), plan.shape)?;
                let outer = plan.shape.peers_outer_header().ok_or(BenchError::Peer)?;
                let skip = outer.len();
                let measured = Measured {
                    plan,
                    scene: &scene,
                    setup,
                    // With many keys, no one key opens them all: the yardstick seals instead.
                    yardstick: if plan.shape.tunnels > 1 {
                        yardstick::seal(&protection, skip, pattern.length())
                    } else {
                        yardstick::open(&protection, plan.shape.esn, skip)
                    },
                    examiner: Examiner::Forwarded(pattern.clone()),
                };
                let source = || {
                    Ok(Sealed::new(
                        pattern.clone(),
                        Arc::clone(self.engine),
                        self.keys(&protection, plan)?,
                        outer.clone(),
                        Arc::new(AtomicU64::new(0)),
                    ))
                };
                self.measure(measured, source, start)
            }
            Work::Forward => {
                let bytes = || fib::node_bytes4() + fib::node_bytes6();
                let before = bytes();
                let scene = Scene::new(self.engine, None, plan.shape)?;
                let measured = Measured {
                    plan,
                    scene: &scene,
                    setup,
                    yardstick: Some(yardstick::chase(bytes().saturating_sub(before))),
                    examiner: Examiner::Forwarded(pattern.clone()),
                };
                self.measure(measured, || Ok(Plain::new(pattern.clone())), start)
            }
        }
    }

    /// Of each tunnel, as the peer has it.
    pub fn keys(&self, protection: &Protection, plan: Plan) -> Result<Vec<SaKey>, KeyError> {
        (0..plan.shape.tunnels)
            .map(|number| {
                let protection = protection.of_tunnel(number);
                protection.key(self.engine.as_ref(), plan.shape.esn)
            })
            .collect()
    }

    fn measure<S: Source>(
        &self,
        measured: Measured<'_>,
        source: impl Fn() -> Result<S, KeyError>,
        start: &Start<'_>,
    ) -> Result<(Figure, Option<&'static str>), BenchError> {
        let Measured {
            plan,
            scene,
            setup,
            mut yardstick,
            examiner,
        } = measured;
        let failed = |source| BenchError::Measure {
            row: plan.name(),
            source,
        };
        let time = Duration::try_from_secs_f64(self.arguments.seconds).unwrap_or_default();
        let sources = [source()?, source()?];
        let mut rig = Rig::new(scene, self.engine.as_ref(), sources, setup).map_err(failed)?;
        let name = yardstick.as_ref().map(|yardstick| yardstick.name());
        start.pass();
        let mut attempt = 1;
        loop {
            let yardstick = yardstick
                .as_mut()
                .map(|yardstick| &mut **yardstick as &mut dyn Yardstick);
            match rig.measure(time, yardstick, &examiner) {
                Err(MeasureError::Wall(_)) if attempt < ATTEMPTS => attempt += 1,
                result => {
                    let figure = result.map_err(failed)?;
                    return Ok((
                        Figure {
                            huge_pages: rig.huge_pages(),
                            ..figure
                        },
                        name,
                    ));
                }
            }
        }
    }
}

/// What is measured, but for its packets.
struct Measured<'a> {
    plan: Plan,
    scene: &'a Scene,
    setup: Setup,
    yardstick: Option<Box<dyn Yardstick>>,
    examiner: Examiner,
}
