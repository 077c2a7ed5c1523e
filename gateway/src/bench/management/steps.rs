//! From text to parts: each step with the result of the one before. The parts are in memory and do what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::keys::interface_key;
use culvert_model::plan::{Assembled, Assembly, Base, DigestKey, Key, Part, Plan, pieces, plan};
use culvert_model::tree::Tree;
use culvert_scheduler::{Change, GatewayScheduler};

use super::{Table, Times};

const PARTS: [Part; 4] = [Part::Dataplane, Part::Linux, Part::Iked, Part::Dhcp];

/// Measures all of them, and gives the tree.
pub fn measure(text: &str, rounds: u16, table: &mut Table<'_>) -> anyhow::Result<Tree> {
    let digests = DigestKey::new([7; 32]);
    let mut times: [Times; 6] = Default::default();
    let [parse, validate, planning, apply, resync, one] = &mut times;
    let mut together = Times::default();
    let mut tree = Tree::default();
    for _ in 0..rounds {
        tree = parse.take(|| Tree::from_json(text.as_bytes()))?;
        let made = together.take(|| {
            let config = validate.take(|| {
                tree.validate()?;
                tree.to_config().map_err(anyhow::Error::from)
            })?;
            planning
                .take(|| plan(&config, &digests))
                .map_err(anyhow::Error::from)
        })?;
        let other = with_one_change(&made)?;
        let (mut link, told) = Link::new(made)?;
        let mut parts = Parts::new();
        apply.take(|| parts.follow(&told))?;
        let sent = resync.take(|| parts.resynchronise());
        ensure!(sent == 0, "{sent} operations where nothing was wrong");
        one.take(|| parts.follow(&*link.tell(&other)?))?;
    }
    let [parse, validate, planning, apply, resync, one] = times;
    table.time("parse", parse, "");
    table.time("validate", validate, "");
    table.time("plan", planning, "");
    table.time("validate and plan", together, "300 ms");
    table.time(
        "apply, parts in memory",
        apply,
        "10 s with charon and dataplane",
    );
    table.time("resync, nothing wrong", resync, "");
    table.time("one line: tell and apply, parts in memory", one, "");
    Ok(tree)
}

fn with_one_change(plan: &Plan) -> anyhow::Result<Plan> {
    let mut plan = plan.clone();
    let wan = plan.get_mut(&interface_key("wan"));
    match wan.and_then(|wan| Arc::make_mut(wan).value.kind.as_mut()) {
        Some(Kind::Interface(wan)) => wan.mtu -= 1,
        _ => bail!("no interface to change"),
    }
    Ok(plan)
}

/// How mgmt tells a plan: both ends.
struct Link {
    near: Base,
    far: Assembly,
}

impl Link {
    /// By which this plan was told already; gives what arrived, too.
    fn new(plan: Plan) -> anyhow::Result<(Self, Arc<Plan>)> {
        let mut far = Assembly::new();
        let told = take(&mut far, pieces(&plan, None, 1, false))?;
        let near = Base {
            number: told.number,
            plan: Arc::new(plan),
        };
        Ok((Self { near, far }, told.plan))
    }

    /// Gives what arrives.
    fn tell(&mut self, plan: &Plan) -> anyhow::Result<Arc<Plan>> {
        let pieces = pieces(plan, Some(&self.near), 2, false);
        Ok(take(&mut self.far, pieces)?.plan)
    }
}

fn take(far: &mut Assembly, pieces: Vec<bus::SetPlanRequest>) -> anyhow::Result<Assembled> {
    let mut told = None;
    for piece in pieces {
        told = far.take(piece)?;
    }
    told.context("a plan without an end")
}

/// Parts that do what they are told.
struct Parts {
    scheduler: GatewayScheduler,
    held: BTreeMap<Part, BTreeMap<Key, bus::Value>>,
}

impl Parts {
    fn new() -> Self {
        let mut scheduler = GatewayScheduler::new();
        for part in PARTS {
            scheduler.part_up(part);
        }
        Self {
            scheduler,
            held: BTreeMap::new(),
        }
    }

    fn follow(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.scheduler.set_plan(plan)?;
        self.drive();
        ensure!(
            self.scheduler.is_converged(),
            "not everything that is planned is there"
        );
        Ok(())
    }

    fn resynchronise(&mut self) -> usize {
        for part in PARTS {
            self.scheduler.resynchronise(part);
        }
        self.drive()
    }

    /// Until nothing is to be done; gives how many operations that took.
    fn drive(&mut self) -> usize {
        let mut operations = 0;
        loop {
            for part in self.scheduler.parts_to_retrieve() {
                let values = self.held.get(&part).cloned().unwrap_or_default();
                self.scheduler.retrieved(part, values);
            }
            let batches = self.scheduler.next_batches(Duration::ZERO);
            if batches.is_empty() {
                return operations;
            }
            for batch in batches {
                let held = self.held.entry(batch.part).or_default();
                let count = batch.operations.len();
                operations += count;
                for operation in batch.operations {
                    match operation.change {
                        Change::Create(value) | Change::Update(value) => {
                            held.insert(operation.key, value);
                        }
                        Change::Delete => {
                            held.remove(&operation.key);
                        }
                    }
                }
                let results = std::iter::repeat_n(Ok(()), count);
                self.scheduler.completed(batch.id, results, Duration::ZERO);
            }
        }
    }
}
