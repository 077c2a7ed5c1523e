//! Traces and captures as people ask for them over the bus: started, read, stopped; forgotten ones end by themselves.
//!
//! ```text
//!   start -- observer of each worker is armed        nobody reads for ten seconds: disarmed
//!   read  -- each worker gives what it has written and goes on in fresh memory --> reply
//!   stop  -- each worker gives everything back
//! ```

mod capture_calls;
mod describe;
mod trace_calls;

use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{Context, refuse};
use culvert_model::bus::{Refusal, refusal::Code};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) use self::capture_calls::{read_capture, start_capture, stop_capture};
pub(super) use self::trace_calls::{read_trace, start_trace, stop_trace};
use super::state::{Shared, State};
use crate::observe::{Filter, Observer};
use crate::tables::Tables;
use crate::worker::Worker;

/// A trace or capture that nobody reads for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// A worker that does not answer within it has stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is being watched: one trace and one capture at a time.
#[derive(Default)]
pub struct Observations {
    last_id: u64,
    /// Numbers of traced packets so far: a packet that is still marked is never taken for one of a later trace.
    numbered: u32,
    trace: Option<trace_calls::Session>,
    capture: Option<capture_calls::Session>,
}

impl Observations {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// Makes a handler that may wait for workers.
pub(super) fn waits<C, R, F>(
    shared: &Arc<Shared>,
    handle: fn(Arc<Shared>, C) -> F,
) -> impl Fn(C, Context) -> F + Send + Sync + 'static
where
    C: 'static,
    R: 'static,
    F: Future<Output = Result<R, Refusal>> + Send + 'static,
{
    let shared = Arc::clone(shared);
    move |request, _| handle(Arc::clone(&shared), request)
}

/// A filter that does not parse is refused with what is wrong with it.
fn filter(text: &str) -> Result<Filter, Refusal> {
    text.parse()
        .map_err(|error: crate::observe::FilterError| refuse(Code::Malformed, error.to_string()))
}

/// The index of an interface or tunnel.
fn interface(tables: &Tables, name: &str) -> Result<u32, Refusal> {
    tables
        .interfaces
        .iter()
        .find(|(_, interface)| &*interface.name == name)
        .map(|(index, _)| index)
        .ok_or_else(|| {
            let mut names: Vec<_> = tables
                .interfaces
                .iter()
                .map(|(_, interface)| interface.name.to_string())
                .collect();
            names.sort();
            let names = names.join(", ");
            refuse(
                Code::NotFound,
                format!("there is no interface {name}; there is: {names}"),
            )
        })
}

/// Lets each worker do something to its observer; answers come between two of its rounds.
fn ask<T: Send + 'static>(
    workers: &[Worker],
    mut order: impl FnMut(usize) -> Box<dyn FnOnce(&mut Observer) -> T + Send>,
) -> Vec<oneshot::Receiver<T>> {
    workers
        .iter()
        .enumerate()
        .map(|(number, worker)| {
            let (sender, receiver) = oneshot::channel();
            let order = order(number);
            worker.observe(Box::new(move |observer| {
                // Nobody waits any more: nothing is lost but what was to be shown.
                let _ = sender.send(order(observer));
            }));
            receiver
        })
        .collect()
}

/// The answers of all workers that gave one in time.
async fn answers<T>(receivers: Vec<oneshot::Receiver<T>>) -> Vec<Option<T>> {
    let until = Instant::now() + PATIENCE;
    let mut all = Vec::with_capacity(receivers.len());
    for receiver in receivers {
        all.push(
            tokio::time::timeout_at(until, receiver)
                .await
                .ok()
                .and_then(Result::ok),
        );
    }
    all
}

/// Ends what nobody reads any more. `due`: when that is, of what is still the same; `stop`: ends it.
fn forget_in_time(
    shared: &Arc<Shared>,
    due: impl Fn(&State) -> Option<Instant> + Send + 'static,
    stop: impl FnOnce(&mut State) + Send + 'static,
) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        loop {
            let Some(due) = due(&shared.state()) else {
                return;
            };
            if due <= Instant::now() {
                break;
            }
            tokio::time::sleep_until(due).await;
        }
        stop(&mut shared.state());
    });
}

fn not_found(what: &str) -> Refusal {
    let message = format!("this {what} has ended: stopped, or not read for too long");
    refuse(Code::NotFound, message)
}
