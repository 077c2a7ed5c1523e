//! What the bridge answers on the bus: its share of the plan, and what people ask of charon.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use culvert_bus::{Context, Router, refuse};
use culvert_model::bus::{self, Refusal, refusal::Code, value};

use crate::charon::{Control, ControlError, Which};

/// How long a person waits for a negotiation when they do not say.
const NEGOTIATION: Duration = Duration::from_secs(30);

/// What the bridge knows of its neighbours, for readiness and `show`.
#[derive(Debug, Default)]
pub struct Status {
    /// charon's plugin is connected.
    pub plugin_session: AtomicBool,
    /// Table, charon and dataplane agreed when they were last compared.
    pub reconciled: AtomicBool,
    /// 0: none.
    pub charon_pid: AtomicU32,
}

/// Everything but secrets.
pub fn router(control: &Control, status: Arc<Status>) -> Router {
    Router::new("iked-bridge")
        .on(handler(
            control,
            |control, request: bus::ApplyRequest, context| async move {
                only(&request, false)?;
                let results = control.apply(request, context.deadline.into_std()).await;
                Ok(bus::ApplyReply { results })
            },
        ))
        .on(handler(
            control,
            |control, _: bus::RetrieveRequest, _| async move {
                let values = control.retrieve(false).await;
                Ok(bus::RetrieveReply { values })
            },
        ))
        .on(handler(
            control,
            move |control, _: bus::ShowIkeRequest, _| {
                let status = Arc::clone(&status);
                async move {
                    // Readiness is asked for while there is no charon, too.
                    let ikes = match control.ikes().await {
                        Ok(ikes) => ikes,
                        Err(ControlError::Absent) => Vec::new(),
                        Err(error) => return Err(refused(&error)),
                    };
                    Ok(bus::ShowIkeReply {
                        ikes,
                        plugin_session: status.plugin_session.load(Ordering::Relaxed),
                        reconciled: status.reconciled.load(Ordering::Relaxed),
                        charon_pid: status.charon_pid.load(Ordering::Relaxed),
                    })
                }
            },
        ))
        .on(handler(
            control,
            |control, request: bus::InitiateRequest, _| async move {
                if request.child.is_empty() {
                    return Err(refuse(Code::Malformed, "no child to initiate"));
                }
                control
                    .initiate(&request.child, within(request.timeout_ms))
                    .await
                    .map_err(|error| refused(&error))?;
                Ok(bus::InitiateReply {})
            },
        ))
        .on(handler(
            control,
            |control, request: bus::RekeyRequest, _| async move {
                let which = which(request.ike, request.child)?;
                let matches = control
                    .rekey(&which)
                    .await
                    .map_err(|error| refused(&error))?;
                Ok(bus::RekeyReply { matches })
            },
        ))
        .on(handler(
            control,
            |control, request: bus::TerminateRequest, _| async move {
                let which = which(request.ike, request.child)?;
                let matches = control
                    .terminate(&which, within(request.timeout_ms))
                    .await
                    .map_err(|error| refused(&error))?;
                Ok(bus::TerminateReply { matches })
            },
        ))
}

/// Credentials, on a socket of their own.
pub fn secrets_router(control: &Control) -> Router {
    Router::new("iked-bridge-secrets")
        .on(handler(
            control,
            |control, request: bus::ApplyRequest, context| async move {
                only(&request, true)?;
                let results = control.apply(request, context.deadline.into_std()).await;
                Ok(bus::ApplyReply { results })
            },
        ))
        .on(handler(
            control,
            |control, _: bus::RetrieveRequest, _| async move {
                let values = control.retrieve(true).await;
                Ok(bus::RetrieveReply { values })
            },
        ))
}

/// A handler with a way to charon of its own.
fn handler<C, F, H>(control: &Control, work: H) -> impl Fn(C, Context) -> F + Send + Sync + 'static
where
    H: Fn(Control, C, Context) -> F + Send + Sync + 'static,
    F: Future + Send + 'static,
{
    let control = control.clone();
    move |request, context| work(control.clone(), request, context)
}

/// Secrets travel on their own socket only, and nothing else does.
fn only(request: &bus::ApplyRequest, credentials: bool) -> Result<(), Refusal> {
    let stray = request.operations.iter().find(|operation| {
        let kind = operation
            .value
            .as_ref()
            .and_then(|value| value.kind.as_ref());
        kind.is_some_and(|kind| matches!(kind, value::Kind::Credential(_)) != credentials)
    });
    match stray {
        Some(operation) => Err(refuse(
            Code::Unsupported,
            format!("{:?} does not belong on this socket", operation.key),
        )),
        None => Ok(()),
    }
}

fn which(ike: String, child: String) -> Result<Which, Refusal> {
    match (ike.is_empty(), child.is_empty()) {
        (false, true) => Ok(Which::Ike(ike)),
        (true, false) => Ok(Which::Child(child)),
        _ => Err(refuse(Code::Malformed, "one of ike and child is to be set")),
    }
}

fn within(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => NEGOTIATION,
        timeout_ms => Duration::from_millis(timeout_ms.into()),
    }
}

fn refused(error: &ControlError) -> Refusal {
    let code = match error {
        ControlError::Absent => Code::Unavailable,
        ControlError::Refused(_) => Code::Internal,
        ControlError::NotFound(_) => Code::NotFound,
    };
    refuse(code, error.to_string())
}
