//! What the supervisor asks: interfaces, addresses, routes, tunnels.

use std::sync::Arc;

use culvert_model::bus::{self, Refusal};

use super::state::{Shared, State};
use crate::clock;
use crate::driver::af_packet::hardware_address;

/// Carries out a batch, one result an operation.
pub(super) fn apply(
    state: &mut State,
    request: &bus::ApplyRequest,
) -> Result<bus::ApplyReply, Refusal> {
    let results = request
        .operations
        .iter()
        .map(|operation| bus::OperationResult {
            error: one(state, operation).err(),
        })
        .collect();
    state.wake();
    Ok(bus::ApplyReply { results })
}

/// Gives back everything that was applied.
pub(super) fn retrieve(
    state: &mut State,
    _: &bus::RetrieveRequest,
) -> Result<bus::RetrieveReply, Refusal> {
    Ok(bus::RetrieveReply {
        values: state.plane.retrieve(),
    })
}

fn one(state: &mut State, operation: &bus::Operation) -> Result<(), bus::OperationError> {
    let now = clock::monotonic_nanoseconds();
    let device = |name: &str| hardware_address(name).ok();
    let actions = state
        .plane
        .apply(operation, &device, now)
        .map_err(|error| bus::OperationError {
            retriable: error.is_retriable(),
            message: error.to_string(),
        })?;
    state.perform(actions).map_err(|error| {
        // Nothing half done: the value is taken back, to be tried again.
        let undo = bus::Operation {
            verb: bus::operation::Verb::Delete.into(),
            key: operation.key.clone(),
            value: None,
        };
        if let Ok(actions) = state.plane.apply(&undo, &device, now) {
            state.perform_or_report(actions);
        }
        bus::OperationError {
            retriable: true,
            message: error.to_string(),
        }
    })
}

/// Wakes the control loop: a timer may be due earlier now.
pub(super) fn then_look_at_timers<C: 'static, R: 'static>(
    shared: &Arc<Shared>,
    handle: fn(&mut State, &C) -> Result<R, Refusal>,
) -> impl Fn(C, culvert_bus::Context) -> std::future::Ready<Result<R, Refusal>> + Send + Sync + 'static
{
    let shared = Arc::clone(shared);
    move |request, _| {
        let reply = handle(&mut shared.state(), &request);
        shared.timers.notify_one();
        std::future::ready(reply)
    }
}
