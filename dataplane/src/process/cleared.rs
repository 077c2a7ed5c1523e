//! Where counters stood when somebody cleared them.
//!
//! ```text
//!   workers count on ----> since the start   exporters, limits of SAs
//!                    '---> less where it stood when it was cleared   people
//! ```
//!
//! Nothing is written that a worker counts in: clearing takes no lock from it, and what lives by the counters in this
//! process (limits of SAs, alarms) sees them grow for as long as it runs. Whoever asks by `show`, also with `--json`, gets
//! them less where they stood.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use culvert_model::bus::{self, Refusal};

use super::show_calls::total;
use super::state::State;
use crate::counters::{InterfaceCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::path_mtu::Verdict;
use crate::port::tap_port;
use crate::sa::{Sa, SaKeyId, SaState, Usage};
use crate::tables::InterfaceKind;

/// What counters showed when they were cleared last.
#[derive(Debug, Default)]
pub(super) struct Cleared {
    /// By reason.
    drops: Vec<u64>,
    /// By index.
    interfaces: HashMap<u32, Carried>,
    /// With the SA that counted: another one may have its name later.
    sas: HashMap<SaKeyId, (Weak<SaState>, Usage)>,
    /// By verdict.
    verdicts: Vec<u64>,
}

/// What an interface has carried, on all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) rx_packets: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_packets: u64,
    pub(super) tx_bytes: u64,
    pub(super) drops: u64,
}

impl Carried {
    /// By an interface and its TAP.
    pub(super) fn of<'a>(workers: impl Iterator<Item = &'a WorkerCounters>, index: u32) -> Self {
        workers.fold(Self::default(), |sum, counters| {
            let own: &InterfaceCounters = counters.interface(index);
            let tap = counters.interface(tap_port(index));
            Self {
                rx_packets: sum.rx_packets + own.rx_packets.get(),
                rx_bytes: sum.rx_bytes + own.rx_bytes.get(),
                tx_packets: sum.tx_packets + own.tx_packets.get(),
                tx_bytes: sum.tx_bytes + own.tx_bytes.get(),
                drops: sum.drops + own.drops.get() + tap.drops.get(),
            }
        })
    }
}

impl From<Carried> for bus::InterfaceCounters {
    fn from(carried: Carried) -> Self {
        Self {
            rx_packets: carried.rx_packets,
            rx_bytes: carried.rx_bytes,
            tx_packets: carried.tx_packets,
            tx_bytes: carried.tx_bytes,
            drops: carried.drops,
        }
    }
}

impl Cleared {
    /// Packets dropped for this reason.
    pub(super) fn drop(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }

    /// Messages of which this became.
    pub(super) fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict as usize).copied().unwrap_or(0)
    }

    /// By the interface of this index.
    pub(super) fn interface(&self, index: u32) -> Option<Carried> {
        self.interfaces.get(&index).copied()
    }

    /// By this SA.
    pub(super) fn sa(&self, sa: &Sa) -> Option<Usage> {
        let (counted, usage) = self.sas.get(&sa.spec.id)?;
        std::ptr::eq(counted.as_ptr(), Arc::as_ptr(&sa.state)).then_some(*usage)
    }

    fn clear_drops(&mut self, now: impl Fn(DropReason) -> u64) -> usize {
        self.drops = vec![0; DropReason::ALL.len()];
        for reason in DropReason::ALL {
            if let Some(base) = self.drops.get_mut(*reason as usize) {
                *base = now(*reason);
            }
        }
        DropReason::ALL.len()
    }

    fn clear_verdicts(&mut self, now: impl Fn(Verdict) -> u64) -> usize {
        self.verdicts = vec![0; Verdict::ALL.len()];
        for verdict in Verdict::ALL {
            if let Some(base) = self.verdicts.get_mut(*verdict as usize) {
                *base = now(*verdict);
            }
        }
        Verdict::ALL.len()
    }

    fn clear_interfaces(&mut self, now: impl Iterator<Item = (u32, Carried)>) -> usize {
        now.map(|(index, carried)| self.interfaces.insert(index, carried))
            .count()
    }

    fn clear_sas<'a>(&mut self, all: impl Iterator<Item = &'a Arc<Sa>>) -> usize {
        self.sas = all
            .map(|sa| {
                let counted = (Arc::downgrade(&sa.state), sa.state.usage());
                (sa.spec.id, counted)
            })
            .collect();
        self.sas.len()
    }
}

/// What is counted is shown from zero again.
pub(super) fn clear_counters(
    state: &mut State,
    request: &bus::ClearCountersRequest,
) -> Result<bus::ClearCountersReply, Refusal> {
    let one = request.interfaces || request.drops || request.nodes || request.tunnels;
    let asked = |this: bool| this || !one;
    let tables = state.publisher.current();
    let mut cleared = std::mem::take(&mut state.cleared);
    let mut rows = 0;
    if asked(request.interfaces) || request.tunnels {
        let chosen = tables.interfaces.iter().filter(|(_, interface)| {
            asked(request.interfaces)
                || matches!(
                    interface.kind,
                    InterfaceKind::Tunnel { .. } | InterfaceKind::Encapsulation { .. }
                )
        });
        let carried = |index: u32| (index, Carried::of(state.counters(), index));
        rows += cleared.clear_interfaces(chosen.map(|(_, interface)| carried(interface.index)));
        // Counters stay with a name: one that is gone for now shall not come back with what it carried before.
        let gone = state.plane.interface_indexes();
        let gone = gone.filter(|index| tables.interfaces.get(*index).is_none());
        cleared.clear_interfaces(gone.map(carried));
    }
    if asked(request.tunnels) {
        rows += cleared.clear_sas(tables.sas.sas.iter().map(|(_, sa)| sa));
        rows += cleared.clear_verdicts(|verdict| state.paths.messages(verdict));
    }
    if asked(request.drops) {
        rows += cleared.clear_drops(|reason| total(state, |counters| counters.drop(reason).get()));
    }
    state.cleared = cleared;
    if asked(request.nodes) {
        let reset = bus::ShowNodesRequest { reset: true };
        rows += super::show_calls::nodes(state, &reset)?.nodes.len();
    }
    Ok(bus::ClearCountersReply {
        matches: rows as u32,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_interface_is_summed_over_workers_with_its_tap() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        workers[0].interface(3).rx_packets.add(2);
        workers[1].interface(3).rx_packets.add(5);
        workers[1].interface(3).tx_bytes.add(700);
        workers[0].interface(3).drops.add(1);
        workers[1].interface(tap_port(3)).drops.add(4);
        workers[1].interface(4).rx_packets.add(100);
        let carried = Carried::of(workers.iter(), 3);
        assert_eq!(
            carried,
            Carried {
                rx_packets: 7,
                tx_bytes: 700,
                drops: 5,
                ..Carried::default()
            }
        );
    }

    #[test]
    fn what_was_never_cleared_is_shown_whole_and_counters_go_on() {
        let workers = [WorkerCounters::default()];
        let mut cleared = Cleared::default();
        assert_eq!(cleared.drop(DropReason::ALL[0]), 0);
        assert_eq!(cleared.interface(3), None);
        workers[0].interface(3).rx_packets.add(9);
        workers[0].drop(DropReason::ALL[1]).add(6);
        let now = Carried::of(workers.iter(), 3);
        assert_eq!(cleared.clear_interfaces(std::iter::once((3, now))), 1);
        let drops = |reason| workers[0].drop(reason).get();
        assert_eq!(cleared.clear_drops(drops), DropReason::ALL.len());
        workers[0].interface(3).rx_packets.add(2);
        workers[0].drop(DropReason::ALL[1]).add(1);

        assert_eq!(cleared.interface(3).unwrap().rx_packets, 9);
        assert_eq!(Carried::of(workers.iter(), 3).rx_packets, 11);
        assert_eq!(cleared.drop(DropReason::ALL[1]), 6);
        assert_eq!(drops(DropReason::ALL[1]), 7);
        assert_eq!(cleared.drop(DropReason::ALL[0]), 0);
        let messages = |verdict: Verdict| verdict as u64 + 1;
        cleared.clear_verdicts(messages);
        for verdict in Verdict::ALL {
            assert_eq!(cleared.verdict(*verdict), messages(*verdict));
        }
    }
}
