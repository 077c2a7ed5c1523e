//! What a trace and a capture see of packets that go into and come out of tunnels.

use std::sync::Arc;

use super::esp_tests::{Tunnel, inner4, payloads, spec};
use super::workbench::WAN;
use crate::buffer::flags;
use crate::drop_reason::DropReason;
use crate::graph::NodeId;
use crate::observe::Filter;
use crate::observe::capture::{Capture, Captured, Order, Point};
use crate::observe::trace::{Numbers, Outcome, Trace, Visits};

#[test]
fn what_fails_to_authenticate_is_captured_as_it_came() {
    for suite in ["aes128gcm16", "aes256-sha256", "chacha20poly1305"] {
        let suite = suite.parse().unwrap();
        let mut tunnel = Tunnel::looped(spec(suite, false, false, false, 0xc000_0001));
        let mut sent = payloads(&tunnel.send(&[inner4(200, 0, true), inner4(100, 0, true)]));
        let last = sent[1].len() - 1;
        sent[1][last] ^= 1;
        let order = Order::new(Point::Drop, Filter::ALL, u16::MAX, 10);
        let capture = Capture::new(Arc::new(order), Captured::with_room(10, 4000));
        tunnel
            .bench
            .graph
            .observe(|observer| observer.capture = Some(Box::new(capture)));
        tunnel.receive(&sent);
        let captured = tunnel.bench.graph.observe(|observer| {
            let capture = observer.capture.as_mut().unwrap();
            capture.exchange(Captured::with_room(0, 0))
        });
        let bad: Vec<_> = captured
            .packets()
            .filter(|(head, _)| head.reason == Some(DropReason::EspBadIcv))
            .collect();
        assert_eq!(bad.len(), 1);
        assert_eq!(
            (bad[0].0.node, bad[0].0.interface),
            (NodeId::EspDecrypt, WAN)
        );
        assert_eq!(bad[0].1, sent[1], "{suite}");
        tunnel.bench.finish();
    }
}

#[test]
fn a_trace_goes_on_with_the_packet_inside() {
    let suite = "aes128gcm16".parse().unwrap();
    let mut tunnel = Tunnel::looped(spec(suite, false, false, false, 0xc000_0001));
    let sent = payloads(&tunnel.send(&[inner4(200, 0, true)]));
    let trace = Trace::new(
        Arc::new(Filter::ALL),
        None,
        Arc::new(Numbers::new(5, 1)),
        Visits::with_room(10),
    );
    tunnel
        .bench
        .graph
        .observe(|observer| observer.trace = Some(Box::new(trace)));
    tunnel.bench.put(NodeId::EspDecrypt, WAN, &sent[0], |meta| {
        meta.l4_offset = (meta.offset() + 20) as u16;
        meta.flags |= flags::TRACED;
        meta.trace = 5;
    });
    tunnel.bench.run();
    let visits = tunnel.bench.graph.observe(|observer| {
        let trace = observer.trace.as_mut().unwrap();
        trace.exchange(Visits::with_room(0)).list
    });
    let path: Vec<_> = visits
        .iter()
        .map(|visit| (visit.packet, visit.node, visit.outcome))
        .collect();
    assert_eq!(
        path,
        [
            (5, NodeId::EspDecrypt, Outcome::Next(NodeId::Ip4Input)),
            (5, NodeId::Ip4Input, Outcome::Dropped)
        ]
    );
    assert_eq!(visits[0].before.bytes(), &sent[0][..128]);
    assert_eq!(visits[0].after.unwrap().length, 200);
    assert_eq!(visits[1].before.bytes()[12..16], [10, 1, 0, 10]);
    tunnel.bench.finish();
}
