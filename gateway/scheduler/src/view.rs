//! What holds of all values at one moment, and what can be done to each.
//!
//! ```text
//! unsupported   planned, but what it needs is in no plan
//! leaving       held, and to be deleted or on its way: in no plan, unsupported, to be built anew,
//!               or in need of something that is leaving
//! delete        leaving, and nothing held that depends on it is still to leave or to be updated
//! update        held in another form, and all that it needs is there to stay
//! create        not held, and all that it needs and comes after is there
//! ```
//!
//! Values are numbered in the order of their keys, so that walks over a full table of routes touch arrays
//! and not keys.

use std::collections::{BTreeMap, HashMap};

use crate::entry::{Attempt, Difference, Entry, Held};
use crate::{Change, Domain};

/// See the module's page.
pub(crate) struct View<'a, D: Domain> {
    pub(crate) nodes: Vec<Node<'a, D>>,
    numbers: HashMap<&'a D::Key, usize>,
}

/// One value.
pub(crate) struct Node<'a, D: Domain> {
    pub(crate) key: &'a D::Key,
    pub(crate) entry: &'a Entry<D>,
    pub(crate) leaving: bool,
    pub(crate) difference: Difference,
    unsupported: bool,
    /// The values that are planned to need this one.
    needed_by: Vec<usize>,
    /// The values that were made, or are being made, to depend on this one.
    holds_up: Vec<usize>,
}

impl<'a, D: Domain> View<'a, D> {
    pub(crate) fn new(entries: &'a BTreeMap<D::Key, Entry<D>>) -> Self {
        let numbers = entries
            .keys()
            .enumerate()
            .map(|(number, key)| (key, number));
        let numbers: HashMap<&D::Key, usize> = numbers.collect();
        let nodes = entries.iter().map(|(key, entry)| Node {
            key,
            entry,
            leaving: false,
            difference: entry.difference(),
            unsupported: false,
            needed_by: Vec::new(),
            holds_up: Vec::new(),
        });
        let mut view = Self {
            nodes: nodes.collect(),
            numbers,
        };
        let unsupported = view.link(entries);
        view.spread(unsupported, |node| {
            !std::mem::replace(&mut node.unsupported, true)
        });
        let leaving = view.numbers_of(Node::leaves_by_itself);
        view.spread(leaving, |node| {
            node.entry.is_present() && !std::mem::replace(&mut node.leaving, true)
        });
        view
    }

    /// Links each value to what depends on it. Gives those that need what is in no plan.
    fn link(&mut self, entries: &'a BTreeMap<D::Key, Entry<D>>) -> Vec<usize> {
        let mut unsupported = Vec::new();
        for (number, entry) in entries.values().enumerate() {
            for need in entry.planned.iter().flat_map(|planned| &planned.needs) {
                let needed = self.number(need).and_then(|at| self.nodes.get_mut(at));
                match needed {
                    Some(node) if node.entry.planned.is_some() => node.needed_by.push(number),
                    _ => unsupported.push(number),
                }
            }
            for dependency in entry.dependencies_now() {
                let node = self
                    .number(dependency)
                    .and_then(|at| self.nodes.get_mut(at));
                if let Some(node) = node {
                    node.holds_up.push(number);
                }
            }
        }
        unsupported
    }

    /// Whether no value needs what is in no plan.
    pub(crate) fn is_supported(&self) -> bool {
        !self.nodes.iter().any(|node| node.unsupported)
    }

    fn number(&self, key: &D::Key) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    fn get(&self, key: &D::Key) -> Option<&Node<'a, D>> {
        self.nodes.get(self.number(key)?)
    }

    fn numbers_of(&self, which: impl Fn(&Node<'a, D>) -> bool) -> Vec<usize> {
        let numbers = self.nodes.iter().enumerate();
        numbers
            .filter(|(_, node)| which(node))
            .map(|(number, _)| number)
            .collect()
    }

    /// Marks these and all that is planned to need them, going on from those that are marked newly.
    fn spread(&mut self, mut queue: Vec<usize>, mark: impl Fn(&mut Node<'a, D>) -> bool) {
        while let Some(number) = queue.pop() {
            if let Some(node) = self.nodes.get_mut(number)
                && mark(node)
            {
                queue.extend_from_slice(&node.needed_by);
            }
        }
    }

    /// Whether something that exists may go on needing this.
    fn stays(&self, key: &D::Key) -> bool {
        self.get(key)
            .is_some_and(|node| !matches!(node.entry.held, Held::Absent) && !node.leaving)
    }

    /// Whether something new may be built on this.
    fn is_there(&self, key: &D::Key) -> bool {
        self.get(key)
            .is_some_and(|node| node.entry.is_present() && !node.leaving)
    }

    /// The values that must go or change before this one can go.
    pub(crate) fn blockers<'b>(
        &'b self,
        node: &'b Node<'a, D>,
    ) -> impl Iterator<Item = &'b Node<'a, D>> {
        node.holds_up
            .iter()
            .filter_map(|number| self.nodes.get(*number))
            .filter(move |other| other.key != node.key)
            .filter(|other| {
                !other.entry.is_failed()
                    && (other.leaving
                        || other.entry.is_underway()
                        || other.difference != Difference::None)
            })
    }

    /// What can be done to a value now.
    pub(crate) fn change(&self, node: &Node<'a, D>) -> Option<Change<()>> {
        if node.leaving {
            let free = self.blockers(node).next().is_none();
            return free.then_some(Change::Delete);
        }
        let planned = node.entry.planned.as_ref()?;
        if node.unsupported {
            return None;
        }
        match node.entry.held {
            Held::AsPlanned(_) | Held::Found(_) if node.difference == Difference::Update => {
                let supported = planned.needs.iter().all(|need| self.stays(need));
                supported.then_some(Change::Update(()))
            }
            Held::Absent => {
                let mut waits = planned.needs.iter().chain(&planned.after);
                let ready = waits.all(|other| self.is_there(other));
                ready.then_some(Change::Create(()))
            }
            Held::AsPlanned(_) | Held::Found(_) | Held::Unknown => None,
        }
    }
}

impl<D: Domain> Node<'_, D> {
    /// Whether it has to go for its own sake, and not because of what it needs.
    fn leaves_by_itself(&self) -> bool {
        self.entry.is_present()
            && (self.entry.planned.is_none()
                || self.entry.is_being_deleted()
                || self.unsupported
                || (self.difference == Difference::Recreate && !self.entry.is_failed()))
    }

    /// Whether nothing stands against an operation on it but what it depends on.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.entry.attempt, Attempt::Ready)
    }
}
