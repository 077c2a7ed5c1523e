//! What the supervisor asks: interfaces, addresses, routes, tunnels.

use std::sync::Arc;

use culvert_model::bus::{self, Refusal};

use super::state::{Shared, State};
use crate::clock;
use crate::driver::af_packet::hardware_address;

/// Operations of a batch that are carried out at once. A batch may be a full table of routes; between two slices comes
/// whatever else waits: a neighbour that was found, an SA to install.
pub const SLICE: usize = 256;

/// Carries out a batch, one result an operation.
pub(super) async fn apply(
    shared: Arc<Shared>,
    request: bus::ApplyRequest,
) -> Result<bus::ApplyReply, Refusal> {
    let mut results = Vec::with_capacity(request.operations.len());
    for slice in request.operations.chunks(SLICE) {
        {
            let mut state = shared.state();
            results.extend(slice.iter().map(|operation| bus::OperationResult {
                error: one(&mut state, operation).err(),
            }));
            state.wake();
        }
        // A timer may be due earlier now.
        shared.timers.notify_one();
        tokio::task::yield_now().await;
    }
    {
        let mut state = shared.state();
        state.measure_encapsulations();
        state.wake();
    }
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
    if actions.is_empty() {
        return Ok(());
    }
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
