//! The visits of packets to the nodes of a whole graph.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::headers::{Headers, Layer};
use super::trace::{Numbers, Outcome, Trace, Visit, Visits};
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::nodes::workbench::{
    FAR_IP, HOST_IP, LAN, WAN, Workbench, from_host, packet4, packet4_with,
};

fn arm(bench: &mut Workbench, filter: &str, interface: Option<u32>, packets: u32, room: usize) {
    let trace = Trace::new(
        Arc::new(filter.parse().unwrap()),
        interface,
        Arc::new(Numbers::new(100, packets)),
        Visits::with_room(room),
    );
    bench
        .graph
        .observe(|observer| observer.trace = Some(Box::new(trace)));
}

fn take(bench: &mut Workbench) -> Visits {
    bench.graph.observe(|observer| {
        let trace = observer.trace.as_mut().unwrap();
        trace.exchange(Visits::with_room(100))
    })
}

fn path(visits: &[Visit], packet: u32) -> Vec<(NodeId, Outcome)> {
    visits
        .iter()
        .filter(|visit| visit.packet == packet)
        .map(|visit| (visit.node, visit.outcome))
        .collect()
}

#[test]
fn each_node_of_a_forwarded_packet_is_seen() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, "udp", None, 2, 100);
    let wanted = packet4(HOST_IP, FAR_IP, 17, &[0; 20]);
    let other = packet4(HOST_IP, FAR_IP, 6, &[0; 20]);
    for packet in [&other, &wanted, &other, &wanted, &wanted] {
        bench.receive(LAN, &from_host(packet));
    }
    bench.run();
    let visits = take(&mut bench);
    assert_eq!(visits.missed, 0);
    let expected = [
        (NodeId::EthernetInput, Outcome::Next(NodeId::Ip4Input)),
        (NodeId::Ip4Input, Outcome::Next(NodeId::Ip4Lookup)),
        (NodeId::Ip4Lookup, Outcome::Next(NodeId::Ip4Rewrite)),
        (NodeId::Ip4Rewrite, Outcome::Next(NodeId::InterfaceOutput)),
        (NodeId::InterfaceOutput, Outcome::Port(WAN)),
    ];
    for packet in [100, 101] {
        assert_eq!(path(&visits.list, packet), expected);
    }
    assert_eq!(
        visits.list.len(),
        10,
        "the third packet is one more than asked for"
    );
    assert!(visits.list.iter().all(|visit| visit.vector == 5));
    let rewrite = visits
        .list
        .iter()
        .find(|visit| visit.node == NodeId::Ip4Rewrite)
        .unwrap();
    let hops = |view: &super::trace::View| Headers::of(view.bytes(), view.layer).hops;
    assert_eq!(hops(&rewrite.before), Some(64));
    let after = rewrite.after.unwrap();
    assert_eq!((hops(&after), after.layer), (Some(63), Layer::Link));
    assert_eq!((after.length, after.tx_interface), (54, WAN));
    bench.finish();
}

#[test]
fn a_refused_packet_goes_on_as_the_error_about_it() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, "host 10.1.0.2", Some(LAN), 10, 100);
    let expired = packet4_with(HOST_IP, FAR_IP, 17, &[0; 20], |header| header.ttl = 1);
    bench.receive(LAN, &from_host(&expired));
    bench.receive(WAN, &from_host(&expired));
    bench.receive(
        LAN,
        &from_host(&packet4(HOST_IP, [10, 66, 0, 1].into(), 17, &[])),
    );
    bench.run();
    let visits = take(&mut bench).list;
    assert_eq!(visits.iter().map(|visit| visit.packet).max(), Some(101));
    let nodes: Vec<_> = path(&visits, 100).iter().map(|(node, _)| *node).collect();
    assert_eq!(
        nodes[nodes.len() - 4..],
        [
            NodeId::IcmpError,
            NodeId::Ip4Lookup,
            NodeId::Ip4Rewrite,
            NodeId::InterfaceOutput
        ]
    );
    let error = visits
        .iter()
        .find(|visit| visit.node == NodeId::IcmpError)
        .unwrap();
    assert_eq!(error.reason, Some(DropReason::Ip4TtlExpired));
    assert_eq!(error.outcome, Outcome::Next(NodeId::Ip4Lookup));
    let dropped = visits.iter().rfind(|visit| visit.packet == 101).unwrap();
    assert_eq!(
        (dropped.node, dropped.outcome, dropped.reason),
        (
            NodeId::Ip4Lookup,
            Outcome::Dropped,
            Some(DropReason::RouteBlackhole)
        )
    );
    bench.finish();
}

#[test]
fn fragments_have_the_number_of_their_packet() {
    let mut bench = Workbench::layer3();
    bench.change_interface(WAN, |interface| interface.mtu = 576);
    let mut adjacency = bench
        .tables
        .adjacencies
        .get(crate::nodes::workbench::TO_ROUTER)
        .unwrap()
        .as_ref()
        .clone();
    adjacency.mtu = 576;
    bench.set_adjacency(crate::nodes::workbench::TO_ROUTER, adjacency);
    arm(&mut bench, "", None, 1, 100);
    bench.receive(LAN, &from_host(&packet4(HOST_IP, FAR_IP, 17, &[7; 1400])));
    bench.run();
    let visits = take(&mut bench).list;
    let cut = visits
        .iter()
        .find(|visit| visit.node == NodeId::IpFragment)
        .unwrap();
    assert_eq!(cut.outcome, Outcome::Dropped);
    assert_eq!(cut.reason, Some(DropReason::Fragmented));
    let mut sent: Vec<_> = visits
        .iter()
        .filter(|visit| visit.outcome == Outcome::Port(WAN))
        .map(|visit| visit.buffer)
        .collect();
    sent.sort_unstable();
    sent.dedup();
    assert_eq!(sent.len(), 3);
    bench.finish();
}

#[test]
fn what_is_held_is_seen_again_when_it_goes_on() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, "icmp", None, 1, 100);
    let unknown = [10, 1, 0, 77].into();
    bench.receive(LAN, &from_host(&packet4(HOST_IP, unknown, 1, &[8; 20])));
    bench.run();
    let visits = take(&mut bench).list;
    let last = visits.last().unwrap();
    assert_eq!(
        (last.node, last.outcome),
        (NodeId::NeighbourResolve, Outcome::Held)
    );
    // Nobody answers: after three questions the sender is told.
    bench.now += 5_000_000_000;
    bench.tick();
    let visits = take(&mut bench).list;
    assert_eq!(visits[0].node, NodeId::IcmpError);
    assert_eq!(visits[0].reason, Some(DropReason::NeighbourUnresolved));
    bench.finish();
}

#[test]
fn what_finds_no_room_is_counted_and_nothing_is_seen_after() {
    let mut bench = Workbench::layer3();
    arm(&mut bench, "", None, 50, 7);
    let packet = from_host(&packet4(HOST_IP, FAR_IP, 17, &[0; 20]));
    for _ in 0..4 {
        bench.receive(LAN, &packet);
    }
    bench.run();
    let visits = take(&mut bench);
    assert!(visits.list.len() >= 7 && visits.list.len() + visits.missed as usize == 20);
    bench.graph.observe(|observer| observer.trace = None);
    // A packet that still has the mark of that trace is none of the next.
    bench.receive_with(LAN, &packet, |meta| {
        meta.flags |= crate::buffer::flags::TRACED;
        meta.trace = 100;
    });
    let numbers = Arc::new(Numbers::new(200, 1));
    let trace = Trace::new(
        Arc::new("tcp".parse().unwrap()),
        None,
        Arc::clone(&numbers),
        Visits::with_room(9),
    );
    bench
        .graph
        .observe(|observer| observer.trace = Some(Box::new(trace)));
    bench.run();
    assert!(take(&mut bench).list.is_empty());
    assert_eq!(numbers.taken(), 0);
    bench.finish();
}
