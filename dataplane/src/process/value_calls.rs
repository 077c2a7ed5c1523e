//! What the supervisor asks: interfaces, addresses, routes, tunnels.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_bus::refuse;
use culvert_model::bus::refusal::Code;
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

/// Takes in which multicast groups Linux has joined.
pub(super) fn set_groups(
    state: &mut State,
    request: &bus::SetGroupsRequest,
) -> Result<bus::SetGroupsReply, Refusal> {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in &request.groups {
        let address = group.address.as_ref().map(IpAddr::try_from);
        let Some(Ok(address)) = address else {
            let message = format!("a group of {} is no address", group.tap);
            return Err(refuse(Code::Malformed, message));
        };
        groups.push((group.tap.clone(), address));
    }
    state.plane.set_groups(groups);
    state.wake();
    Ok(bus::SetGroupsReply {})
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
            fields: error.fields().into_iter().map(str::to_owned).collect(),
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
            fields: Vec::new(),
        }
    })
}
