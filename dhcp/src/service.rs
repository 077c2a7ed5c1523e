//! What the process answers on the bus.

use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{Context, Router};
use culvert_model::bus;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::clients::{Clients, Shared};

/// So long before its caller stops waiting a watch is answered.
const EARLY: Duration = Duration::from_millis(500);

/// Everything.
pub fn router(shared: Arc<Shared>) -> Router {
    let clients = Arc::new(Mutex::new(Clients::new(Arc::clone(&shared))));
    let (to_apply, to_retrieve) = (Arc::clone(&clients), clients);
    let to_show = Arc::clone(&shared);
    Router::new("dhcp")
        .on(move |request: bus::ApplyRequest, _: Context| {
            let clients = Arc::clone(&to_apply);
            async move {
                let results = clients.lock().await.apply(request.operations).await;
                Ok(bus::ApplyReply { results })
            }
        })
        .on(move |_: bus::RetrieveRequest, _: Context| {
            let clients = Arc::clone(&to_retrieve);
            async move {
                let values = clients.lock().await.retrieve();
                Ok(bus::RetrieveReply { values })
            }
        })
        .on(move |_: bus::ShowDhcpRequest, _: Context| {
            let clients = to_show.clients();
            async move { Ok(bus::ShowDhcpReply { clients }) }
        })
        .on(move |request: bus::WatchDhcpRequest, context: Context| {
            let shared = Arc::clone(&shared);
            async move { Ok(watch(&shared, request.seen, context.deadline).await) }
        })
}

async fn watch(shared: &Shared, seen: u64, deadline: Instant) -> bus::WatchDhcpReply {
    let mut generation = shared.generation();
    let changed = generation.wait_for(|generation| *generation != seen);
    let until = deadline.checked_sub(EARLY).unwrap_or(deadline);
    let _ = timeout_at(until, changed).await;
    let generation = *generation.borrow();
    bus::WatchDhcpReply {
        generation,
        clients: shared.clients(),
    }
}
