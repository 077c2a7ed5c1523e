//! `culvert trace`: what each node does with the next packets that match.

use std::sync::Arc;

use culvert_bus::refuse;
use culvert_model::bus::{self, Refusal, refusal::Code};
use tokio::time::Instant;

use super::describe::{Clock, visit};
use super::{FORGOTTEN, answers, ask, filter, forget_in_time, interface, not_found};
use crate::observe::Observer;
use crate::observe::trace::{Numbers, Trace, Visits};
use crate::process::state::{Shared, State};

/// Packets of one trace at most.
const MOST_PACKETS: u32 = 1000;
/// Visits of a packet for which there is room: twice the way through a tunnel.
const VISITS: usize = 32;
/// Visits for which a worker has room between two readings at most.
const MOST_VISITS: usize = 8192;

/// The trace that is under way.
pub(super) struct Session {
    id: u64,
    numbers: Arc<Numbers>,
    first: u32,
    bytes: bool,
    room: usize,
    expires: Instant,
    clock: Clock,
    /// Memory that workers have given back, one a worker.
    spare: Vec<Option<Visits>>,
}

/// Arms every worker.
pub(in crate::process) async fn start_trace(
    shared: Arc<Shared>,
    request: bus::StartTraceRequest,
) -> Result<bus::StartTraceReply, Refusal> {
    let filter = filter(&request.filter)?;
    if request.packets == 0 || request.packets > MOST_PACKETS {
        let message = format!(
            "{} packets cannot be traced at once; 1 to {MOST_PACKETS} can",
            request.packets
        );
        return Err(refuse(Code::Limit, message));
    }
    let reply = {
        let mut state = shared.state();
        let only = match request.interface.as_str() {
            "" => None,
            name => Some(interface(&state.publisher.current(), name)?),
        };
        if state.observations.trace.is_some() {
            let message = "another trace is under way; it ends with its reader";
            return Err(refuse(Code::Limit, message));
        }
        let id = state.observations.next_id();
        let first = state.observations.numbered;
        state.observations.numbered = first.wrapping_add(request.packets);
        let numbers = Arc::new(Numbers::new(first, request.packets));
        let room = (request.packets as usize * VISITS).min(MOST_VISITS);
        let reply = bus::StartTraceReply {
            id,
            filter: filter.to_string(),
        };
        let filter = Arc::new(filter);
        for worker in &state.workers {
            let trace = Box::new(Trace::new(
                Arc::clone(&filter),
                only,
                Arc::clone(&numbers),
                Visits::with_room(room),
            ));
            worker.observe(Box::new(move |observer| observer.trace = Some(trace)));
        }
        state.observations.trace = Some(Session {
            id,
            numbers,
            first,
            bytes: request.bytes,
            room,
            expires: Instant::now() + FORGOTTEN,
            clock: Clock::now(state.clocks_per_second),
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

/// Takes what the workers have written so far.
pub(in crate::process) async fn read_trace(
    shared: Arc<Shared>,
    request: bus::ReadTraceRequest,
) -> Result<bus::ReadTraceReply, Refusal> {
    // Counted before the workers are asked: of these packets everything has been written when they answer.
    let (packets, receivers) = {
        let mut state = shared.state();
        let State {
            observations,
            workers,
            ..
        } = &mut *state;
        let session = observations
            .trace
            .as_mut()
            .filter(|session| session.id == request.id)
            .ok_or_else(|| not_found("trace"))?;
        session.expires = Instant::now() + FORGOTTEN;
        let receivers = ask(workers, |number| {
            let fresh = session.spare.get_mut(number).and_then(Option::take);
            let fresh = fresh.unwrap_or_else(|| Visits::with_room(session.room));
            Box::new(|observer: &mut Observer| match &mut observer.trace {
                Some(trace) => trace.exchange(fresh),
                None => fresh,
            })
        });
        (session.numbers.taken(), receivers)
    };
    let written = answers(receivers).await;
    let mut state = shared.state();
    let tables = state.publisher.current();
    let mut reply = bus::ReadTraceReply {
        packets,
        ..bus::ReadTraceReply::default()
    };
    let Some(session) = state
        .observations
        .trace
        .as_mut()
        .filter(|session| session.id == request.id)
    else {
        return Err(not_found("trace"));
    };
    for (worker, visits) in written.into_iter().enumerate() {
        let Some(mut visits) = visits else { continue };
        reply.missed += visits.missed;
        reply.visits.extend(visits.list.drain(..).map(|seen| {
            let number = seen.packet.wrapping_sub(session.first) + 1;
            let mut shown = visit(&seen, number, &tables, session.clock, session.bytes);
            shown.worker = worker as u32;
            shown
        }));
        visits.missed = 0;
        if let Some(spare) = session.spare.get_mut(worker) {
            *spare = Some(visits);
        }
    }
    Ok(reply)
}

/// Disarms every worker.
pub(in crate::process) fn stop_trace(
    state: &mut State,
    request: &bus::StopTraceRequest,
) -> Result<bus::StopTraceReply, Refusal> {
    stop(state, request.id);
    Ok(bus::StopTraceReply {})
}

fn current(state: &State, id: u64) -> Option<&Session> {
    let session = state.observations.trace.as_ref()?;
    (session.id == id).then_some(session)
}

fn stop(state: &mut State, id: u64) {
    if current(state, id).is_none() {
        return;
    }
    state.observations.trace = None;
    let given_back = ask(&state.workers, |_| {
        Box::new(|observer: &mut Observer| observer.trace.take())
    });
    // Memory is freed here, not by a worker.
    tokio::spawn(answers(given_back));
}
