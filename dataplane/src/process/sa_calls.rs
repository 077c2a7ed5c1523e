//! What iked-bridge asks: SAs and policies. Keys come in here, on a socket of their own, and go no further than the
//! cipher engine.

use std::sync::Arc;

use culvert_bus::{Router, refuse};
use culvert_model::bus::{self, Refusal, refusal::Code};

use super::state::{Shared, State};
use crate::sa::service::{
    dump, id_from_bus, policy_from_bus, policy_id_from_bus, policy_to_bus, sa_from_bus,
    udp_from_bus, usage_to_bus,
};
use crate::sa::{SaError, SpecError};

/// The handlers of the socket `dataplane-sa`.
pub fn router(shared: &Arc<Shared>) -> Router {
    Router::new("dataplane")
        .on(on(shared, add_sa))
        .on(on(shared, update_sa))
        .on(on(shared, delete_sa))
        .on(on(shared, query_sas))
        .on(on(shared, dump_sas))
        .on(on(shared, add_policy))
        .on(on(shared, delete_policy))
        .on(on(shared, flush))
}

/// Makes a handler of a function on the state: short work, done under its lock.
pub(super) fn on<C, R>(
    shared: &Arc<Shared>,
    handle: fn(&mut State, &C) -> Result<R, Refusal>,
) -> impl Fn(C, culvert_bus::Context) -> std::future::Ready<Result<R, Refusal>> + Send + Sync + 'static
where
    C: 'static,
    R: 'static,
{
    let shared = Arc::clone(shared);
    move |request, _| std::future::ready(handle(&mut shared.state(), &request))
}

fn add_sa(state: &mut State, request: &bus::AddSaRequest) -> Result<bus::AddSaReply, Refusal> {
    let sa = request
        .sa
        .as_ref()
        .ok_or(SpecError::Missing("sa"))
        .map_err(|error| refuse_spec(&error))?;
    let keys = request
        .keys
        .as_ref()
        .ok_or(SpecError::Missing("keys"))
        .map_err(|error| refuse_spec(&error))?;
    let spec = sa_from_bus(sa).map_err(|error| refuse_spec(&error))?;
    let id = spec.id;
    let suite = spec.suite;
    let State { sas, publisher, .. } = state;
    publisher
        .update(|tables| sas.add(&mut tables.sas, spec, &keys.encryption, &keys.integrity))
        .map_err(|error| refuse_sa(&error))?;
    tracing::debug!(%id, %suite, "SA installed");
    state.measure_tunnel(sa.if_id);
    state.wake();
    Ok(bus::AddSaReply {})
}

fn update_sa(
    state: &mut State,
    request: &bus::UpdateSaRequest,
) -> Result<bus::UpdateSaReply, Refusal> {
    let id = id_from_bus(request.key.as_ref()).map_err(|error| refuse_spec(&error))?;
    let address = |field, message: Option<&_>| {
        crate::sa::service::address(field, message).map_err(|error| refuse_spec(&error))
    };
    let source = address("new_source", request.new_source.as_ref())?;
    let destination = address("new_destination", request.new_destination.as_ref())?;
    let udp = udp_from_bus(request.new_udp.as_ref()).map_err(|error| refuse_spec(&error))?;
    let State { sas, publisher, .. } = state;
    publisher
        .update(|tables| sas.update(&mut tables.sas, id, source, destination, udp))
        .map_err(|error| refuse_sa(&error))?;
    tracing::debug!(%id, "SA moved");
    state.wake();
    Ok(bus::UpdateSaReply {})
}

fn delete_sa(state: &mut State, request: &bus::DelSaRequest) -> Result<bus::DelSaReply, Refusal> {
    let id = id_from_bus(request.key.as_ref()).map_err(|error| refuse_spec(&error))?;
    let State { sas, publisher, .. } = state;
    let usage = publisher
        .update(|tables| sas.delete(&mut tables.sas, id))
        .map_err(|error| refuse_sa(&error))?;
    tracing::debug!(%id, "SA deleted");
    Ok(bus::DelSaReply {
        usage: Some(usage_to_bus(id, usage)),
    })
}

fn query_sas(
    state: &mut State,
    request: &bus::QuerySasRequest,
) -> Result<bus::QuerySasReply, Refusal> {
    let tables = state.publisher.current();
    let usages = if request.keys.is_empty() {
        tables
            .sas
            .sas
            .iter()
            .map(|(_, sa)| usage_to_bus(sa.spec.id, sa.state.usage()))
            .collect()
    } else {
        let mut usages = Vec::with_capacity(request.keys.len());
        for key in &request.keys {
            let id = id_from_bus(Some(key)).map_err(|error| refuse_spec(&error))?;
            // One that is gone meanwhile is left out.
            if let Some(sa) = state.sas.get(&tables.sas, id) {
                usages.push(usage_to_bus(sa.spec.id, sa.state.usage()));
            }
        }
        usages
    };
    Ok(bus::QuerySasReply { usages })
}

fn dump_sas(state: &mut State, _: &bus::DumpSasRequest) -> Result<bus::DumpSasReply, Refusal> {
    let tables = state.publisher.current();
    Ok(bus::DumpSasReply {
        sas: tables
            .sas
            .sas
            .iter()
            .map(|(_, sa)| {
                let cleared = state.cleared.sa(sa);
                bus::SaDump {
                    cleared: cleared.map(|usage| usage_to_bus(sa.spec.id, usage)),
                    ..dump(sa)
                }
            })
            .collect(),
        policies: state.sas.policies().map(policy_to_bus).collect(),
        published: state.sa_events.last_number(),
        incarnation: state.sa_events.incarnation().get(),
    })
}

fn add_policy(
    state: &mut State,
    request: &bus::AddPolicyRequest,
) -> Result<bus::AddPolicyReply, Refusal> {
    let policy = request
        .policy
        .as_ref()
        .ok_or(SpecError::Missing("policy"))
        .map_err(|error| refuse_spec(&error))?;
    let spec = policy_from_bus(policy).map_err(|error| refuse_spec(&error))?;
    let State { sas, publisher, .. } = state;
    publisher
        .update(|tables| sas.add_policy(&mut tables.sas, spec))
        .map_err(|error| refuse_sa(&error))?;
    state.measure_tunnel(spec.id.if_id);
    state.wake();
    Ok(bus::AddPolicyReply {})
}

fn delete_policy(
    state: &mut State,
    request: &bus::DelPolicyRequest,
) -> Result<bus::DelPolicyReply, Refusal> {
    let id = policy_id_from_bus(request.key.as_ref()).map_err(|error| refuse_spec(&error))?;
    let State { sas, publisher, .. } = state;
    publisher
        .update(|tables| sas.delete_policy(&mut tables.sas, id))
        .map_err(|error| refuse_sa(&error))?;
    state.wake();
    Ok(bus::DelPolicyReply {})
}

fn flush(state: &mut State, _: &bus::FlushSasRequest) -> Result<bus::FlushSasReply, Refusal> {
    let State { sas, publisher, .. } = state;
    let (associations, policies) = publisher.update(|tables| sas.flush(&mut tables.sas));
    tracing::info!(sas = associations, policies, "all SAs and policies removed");
    state.wake();
    Ok(bus::FlushSasReply {
        sas: associations as u32,
        policies: policies as u32,
    })
}

fn refuse_spec(error: &SpecError) -> Refusal {
    let code = match error {
        SpecError::Unsupported(_) => Code::Unsupported,
        SpecError::TooManySelectors(_) => Code::Limit,
        _ => Code::Malformed,
    };
    refuse(code, error.to_string())
}

fn refuse_sa(error: &SaError) -> Refusal {
    match error {
        SaError::Spec(error) => refuse_spec(error),
        SaError::Exists(_) | SaError::KeysUsed(_) => refuse(Code::Exists, error.to_string()),
        SaError::NoSa(_) | SaError::NoPolicy => refuse(Code::NotFound, error.to_string()),
        SaError::Full(_) => refuse(Code::Limit, error.to_string()),
    }
}
