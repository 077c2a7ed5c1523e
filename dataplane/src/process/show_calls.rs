//! What the dataplane shows of itself: nodes, drops, interfaces, neighbours, reassembly.

use std::net::IpAddr;

use culvert_bus::refuse;
use culvert_model::bus::refusal::Code;
use culvert_model::bus::{self, Refusal};
use culvert_model::types;

use super::cleared::Carried;
use super::state::State;
use crate::clock;
use crate::control::NeighbourState;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::path_mtu::Verdict;
use crate::tables::Interface;

/// Clocks and packets of every node on every worker.
pub(super) fn nodes(
    state: &mut State,
    request: &bus::ShowNodesRequest,
) -> Result<bus::ShowNodesReply, Refusal> {
    let mut nodes = Vec::new();
    for (worker, counters) in state
        .workers
        .iter()
        .map(crate::worker::Worker::counters)
        .enumerate()
    {
        for (place, node) in NodeId::ALL.iter().enumerate() {
            let now = counters.node(*node);
            let now = [now.vectors.get(), now.packets.get(), now.clocks.get()];
            let Some(base) = state.node_bases.get_mut(worker * NodeId::COUNT + place) else {
                continue;
            };
            let [vectors, packets, clocks] = std::array::from_fn(|at| now[at] - base[at]);
            if request.reset {
                *base = now;
            }
            nodes.push(bus::NodeCounters {
                name: node.name().to_owned(),
                worker: worker as u32,
                vectors,
                packets,
                clocks,
            });
        }
    }
    Ok(bus::ShowNodesReply {
        nodes,
        tsc_hz: state.clocks_per_second,
    })
}

/// Packets dropped, by reason.
pub(super) fn drops(
    state: &mut State,
    _: &bus::ShowDropsRequest,
) -> Result<bus::ShowDropsReply, Refusal> {
    let drops = DropReason::ALL
        .iter()
        .map(|reason| bus::DropCounter {
            reason: reason.name().to_owned(),
            packets: total(state, |counters| counters.drop(*reason).get()),
            meaning: reason.meaning().to_owned(),
            cleared: state.cleared.drop(*reason),
        })
        .collect();
    Ok(bus::ShowDropsReply { drops })
}

/// Interfaces with their state and counters.
pub(super) fn interfaces(
    state: &mut State,
    _: &bus::ShowInterfacesRequest,
) -> Result<bus::ShowInterfacesReply, Refusal> {
    let tables = state.publisher.current();
    let interfaces = tables
        .interfaces
        .iter()
        .map(|(_, interface)| interface_state(state, interface))
        .collect();
    Ok(bus::ShowInterfacesReply {
        interfaces,
        published: state.events.last_number(),
        incarnation: state.events.incarnation().get(),
    })
}

fn interface_state(state: &State, interface: &Interface) -> bus::InterfaceState {
    let carried = Carried::of(state.counters(), interface.index);
    let tentative = interface.addresses4.iter().any(|own| own.tentative)
        || interface.addresses6.iter().any(|own| own.tentative);
    bus::InterfaceState {
        name: interface.name.to_string(),
        mac: interface
            .mac()
            .map(|mac| mac.0.to_vec())
            .unwrap_or_default(),
        mtu: u32::from(interface.mtu),
        link_up: true,
        admin_up: interface.admin_up,
        rx_packets: carried.rx_packets,
        rx_bytes: carried.rx_bytes,
        tx_packets: carried.tx_packets,
        tx_bytes: carried.tx_bytes,
        drops: carried.drops,
        cleared: state.cleared.interface(interface.index).map(Into::into),
        addresses_ready: !tentative,
        driver: state
            .drivers
            .get(&interface.index)
            .cloned()
            .unwrap_or_default(),
        addresses: addresses(interface),
    }
}

fn addresses(interface: &Interface) -> Vec<types::IpPrefix> {
    let four = interface.addresses4.iter();
    let four = four.map(|own| (IpAddr::V4(own.address), own.length));
    let six = interface.addresses6.iter();
    let six = six.map(|own| (IpAddr::V6(own.address), own.length));
    four.chain(six)
        .map(|(address, length)| types::IpPrefix {
            address: Some(address.into()),
            length: length.into(),
        })
        .collect()
}

/// Fragments that wait on each worker.
pub(super) fn reassembly(
    state: &mut State,
    _: &bus::ShowReassemblyRequest,
) -> Result<bus::ShowReassemblyReply, Refusal> {
    let limits = state.publisher.current().reassembly;
    let workers = state
        .workers
        .iter()
        .map(crate::worker::Worker::counters)
        .zip(0..)
        .map(|(counters, worker)| bus::ReassemblyState {
            worker,
            packets: counters.reassembly_packets.get(),
            fragments: counters.reassembly_fragments.get(),
            reassembled: counters.drop(DropReason::Reassembled).get(),
            ports_packets: counters.ports_packets.get(),
            ports_fragments: counters.ports_fragments.get(),
        })
        .collect();
    Ok(bus::ShowReassemblyReply {
        workers,
        most_packets: limits.packets,
        most_fragments: limits.fragments,
        timeout_ms: (limits.timeout4 / 1_000_000) as u32,
        timeout6_ms: (limits.timeout6 / 1_000_000) as u32,
    })
}

/// Paths that take less than their link, and what became of the messages that said so.
pub(super) fn paths(
    state: &mut State,
    _: &bus::ShowPathsRequest,
) -> Result<bus::ShowPathsReply, Refusal> {
    let tables = state.publisher.current();
    let now = clock::monotonic_nanoseconds();
    let mut paths: Vec<_> = state.paths.iter().collect();
    paths.sort_by_key(|(key, _)| *key);
    let paths = paths
        .into_iter()
        .map(|((vrf, peer), path)| bus::PathState {
            vrf: tables
                .vrfs
                .get(vrf)
                .map_or_else(String::new, |vrf| vrf.name.to_string()),
            peer: Some(peer.into()),
            mtu: u32::from(path.mtu),
            age_s: (now.saturating_sub(path.learnt_at) / 1_000_000_000) as u32,
        })
        .collect();
    let verdicts = Verdict::ALL
        .iter()
        .map(|verdict| bus::PathVerdict {
            verdict: verdict.name().to_owned(),
            messages: state.paths.messages(*verdict),
            meaning: verdict.meaning().to_owned(),
            cleared: state.cleared.verdict(*verdict),
        })
        .collect();
    Ok(bus::ShowPathsReply { paths, verdicts })
}

/// Neighbours, those that are being resolved too.
pub(super) fn neighbours(
    state: &mut State,
    _: &bus::ShowNeighboursRequest,
) -> Result<bus::ShowNeighboursReply, Refusal> {
    use bus::neighbour_state::State as Shown;
    let tables = state.publisher.current();
    let now = clock::monotonic_nanoseconds();
    let mut neighbours: Vec<_> = state
        .plane
        .neighbours()
        .map(|(interface, address, neighbour)| bus::NeighbourState {
            interface: tables
                .interfaces
                .get(interface)
                .map_or_else(String::new, |found| found.name.to_string()),
            address: Some(address.into()),
            mac: neighbour
                .state
                .mac()
                .map(|mac| mac.0.to_vec())
                .unwrap_or_default(),
            state: match neighbour.state {
                NeighbourState::Incomplete => Shown::Incomplete,
                NeighbourState::Reachable(_) => Shown::Reachable,
                NeighbourState::Delay(_) => Shown::Delay,
                NeighbourState::Probe { .. } => Shown::Probe,
            }
            .into(),
            age_s: (now.saturating_sub(neighbour.since) / 1_000_000_000) as u32,
        })
        .collect();
    neighbours
        .sort_by(|a, b| (&a.interface, address_bytes(a)).cmp(&(&b.interface, address_bytes(b))));
    Ok(bus::ShowNeighboursReply { neighbours })
}

/// Forgets neighbours; those that are wanted are asked for anew.
pub(super) fn clear_neighbours(
    state: &mut State,
    request: &bus::ClearNeighboursRequest,
) -> Result<bus::ClearNeighboursReply, Refusal> {
    let interface =
        match request.interface.as_str() {
            "" => None,
            name => Some(state.plane.interface_index(name).ok_or_else(|| {
                refuse(Code::NotFound, format!("there is no interface {name:?}"))
            })?),
        };
    let address = request
        .address
        .as_ref()
        .map(IpAddr::try_from)
        .transpose()
        .map_err(|error| refuse(Code::Malformed, error.to_string()))?;
    let now = clock::monotonic_nanoseconds();
    let matches = state.plane.clear_neighbours(interface, address, now);
    state.wake();
    Ok(bus::ClearNeighboursReply { matches })
}

fn address_bytes(neighbour: &bus::NeighbourState) -> &[u8] {
    neighbour
        .address
        .as_ref()
        .map_or(&[], |address| &address.address)
}

pub(super) fn total(state: &State, read: impl Fn(&WorkerCounters) -> u64) -> u64 {
    state.counters().map(read).sum()
}
