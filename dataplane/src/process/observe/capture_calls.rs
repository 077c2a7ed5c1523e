//! `culvert capture`: packets as they pass an interface, reach a node, or are dropped.

use std::sync::Arc;

use culvert_bus::refuse;
use culvert_model::bus::start_capture_request::{Direction as Asked, Point as AskedPoint};
use culvert_model::bus::{self, Refusal, refusal::Code};
use tokio::time::Instant;

use super::describe::interface_name;
use super::{FORGOTTEN, answers, ask, filter, forget_in_time, interface, not_found};
use crate::graph::NodeId;
use crate::observe::Observer;
use crate::observe::capture::{Capture, Captured, Direction, Order, Point};
use crate::observe::headers::Layer;
use crate::process::state::{Shared, State};
use crate::tables::{InterfaceKind, Tables};

/// Bytes of packets for which all workers together have room between two readings: 50 ms at 160 MB/s, and a reply with
/// what is said of each packet stays below what a message may have.
const ROOM: usize = 8 << 20;
/// Bytes a packet, for the number of packets: fewer are rare.
const SMALL: usize = 96;

/// The capture that is under way.
pub(super) struct Session {
    id: u64,
    order: Arc<Order>,
    expires: Instant,
    room: usize,
    /// Memory that workers have given back, one a worker.
    spare: Vec<Option<Captured>>,
}

/// Arms every worker.
pub(in crate::process) async fn start_capture(
    shared: Arc<Shared>,
    request: bus::StartCaptureRequest,
) -> Result<bus::StartCaptureReply, Refusal> {
    let filter = filter(&request.filter)?;
    let reply = {
        let mut state = shared.state();
        let point = point(&state.publisher.current(), &request)?;
        if state.observations.capture.is_some() {
            let message = "another capture is under way; it ends with its reader";
            return Err(refuse(Code::Limit, message));
        }
        let id = state.observations.next_id();
        let reply = bus::StartCaptureReply {
            id,
            filter: filter.to_string(),
        };
        let snaplen = match request.snaplen {
            0 => u16::MAX,
            bytes => u16::try_from(bytes).unwrap_or(u16::MAX),
        };
        let packets = match request.packets {
            0 => u64::MAX,
            packets => packets,
        };
        let order = Arc::new(Order::new(point, filter, snaplen, packets));
        let room = ROOM / state.workers.len().max(1);
        for worker in &state.workers {
            let captured = Captured::with_room(room / SMALL, room);
            let capture = Box::new(Capture::new(Arc::clone(&order), captured));
            worker.observe(Box::new(move |observer| observer.capture = Some(capture)));
        }
        state.observations.capture = Some(Session {
            id,
            order,
            expires: Instant::now() + FORGOTTEN,
            room,
            spare: state.workers.iter().map(|_| None).collect(),
        });
        reply
    };
    let id = reply.id;
    forget_in_time(
        &shared,
        move |state| current(state, id).map(|session| session.expires),
        move |state| stop(state, id),
    );
    Ok(reply)
}

fn point(tables: &Tables, request: &bus::StartCaptureRequest) -> Result<Point, Refusal> {
    let direction = match request.direction() {
        Asked::Unspecified => None,
        Asked::In => Some(Direction::In),
        Asked::Out => Some(Direction::Out),
    };
    match &request.point {
        None => Err(refuse(Code::Malformed, "neither interface nor node")),
        Some(AskedPoint::Drops(_)) => Ok(Point::Drop),
        Some(AskedPoint::Node(name)) => NodeId::ALL
            .iter()
            .find(|node| node.name() == name)
            .map(|node| Point::Node(*node))
            .ok_or_else(|| {
                let names: Vec<_> = NodeId::ALL.iter().map(|node| node.name()).collect();
                let names = names.join(", ");
                refuse(
                    Code::NotFound,
                    format!("there is no node {name}; there is: drop, {names}"),
                )
            }),
        Some(AskedPoint::Interface(name)) => {
            let interface = interface(tables, name)?;
            match tables.interfaces.get(interface).map(|found| found.kind) {
                Some(InterfaceKind::Ethernet { .. }) if tables.vlans.place(interface).is_some() => {
                    Ok(Point::Vlan {
                        interface,
                        direction,
                    })
                }
                Some(InterfaceKind::Ethernet { .. }) => Ok(Point::Link {
                    interface,
                    direction,
                }),
                Some(InterfaceKind::Tunnel { .. } | InterfaceKind::Encapsulation { .. }) => {
                    Ok(Point::Tunnel {
                        interface,
                        direction,
                    })
                }
                Some(InterfaceKind::Loopback) | None => Err(refuse(
                    Code::Unsupported,
                    format!("no packet passes {name}: it only has addresses"),
                )),
            }
        }
    }
}

/// Takes what the workers have captured so far.
pub(in crate::process) async fn read_capture(
    shared: Arc<Shared>,
    request: bus::ReadCaptureRequest,
) -> Result<bus::ReadCaptureReply, Refusal> {
    let (complete, receivers) = {
        let mut state = shared.state();
        let State {
            observations,
            workers,
            ..
        } = &mut *state;
        let session = observations
            .capture
            .as_mut()
            .filter(|session| session.id == request.id)
            .ok_or_else(|| not_found("capture"))?;
        session.expires = Instant::now() + FORGOTTEN;
        // Asked before the workers are: then these packets have been written when they answer.
        let complete = session.order.taken() == session.order.packets;
        let receivers = ask(workers, |number| {
            let fresh = session.spare.get_mut(number).and_then(Option::take);
            let fresh =
                fresh.unwrap_or_else(|| Captured::with_room(session.room / SMALL, session.room));
            Box::new(|observer: &mut Observer| match &mut observer.capture {
                Some(capture) => capture.exchange(fresh),
                None => fresh,
            })
        });
        (complete, receivers)
    };
    let written = answers(receivers).await;
    let tables = shared.state().publisher.current();
    let mut reply = bus::ReadCaptureReply {
        complete,
        ..bus::ReadCaptureReply::default()
    };
    let mut spare = Vec::with_capacity(written.len());
    for (worker, captured) in written.into_iter().enumerate() {
        spare.push(captured.map(|mut captured| {
            reply.matched += captured.matched;
            reply.missed += captured.missed;
            reply
                .packets
                .extend(captured.packets().map(|(head, bytes)| {
                    bus::CapturedPacket {
                        time_ns: head.time,
                        interface: interface_name(&tables, head.interface),
                        outbound: head.direction == Direction::Out,
                        ethernet: head.layer == Layer::Link,
                        length: u32::from(head.length),
                        bytes: bytes.to_vec(),
                        node: head.node.name().to_owned(),
                        drop: head
                            .reason
                            .map_or_else(String::new, |reason| reason.name().to_owned()),
                        worker: worker as u32,
                    }
                }));
            captured.clear();
            captured
        }));
    }
    if let Some(session) = &mut shared.state().observations.capture
        && session.id == request.id
    {
        session.spare = spare;
    }
    Ok(reply)
}

/// Disarms every worker.
pub(in crate::process) fn stop_capture(
    state: &mut State,
    request: &bus::StopCaptureRequest,
) -> Result<bus::StopCaptureReply, Refusal> {
    stop(state, request.id);
    Ok(bus::StopCaptureReply {})
}

fn current(state: &State, id: u64) -> Option<&Session> {
    let session = state.observations.capture.as_ref()?;
    (session.id == id).then_some(session)
}

fn stop(state: &mut State, id: u64) {
    if current(state, id).is_none() {
        return;
    }
    state.observations.capture = None;
    let given_back = ask(&state.workers, |_| {
        Box::new(|observer: &mut Observer| observer.capture.take())
    });
    // Memory is freed here, not by a worker.
    tokio::spawn(answers(given_back));
}
