//! DHCP for a gateway: its clients, by which interfaces get an IPv4 address from whoever runs the link (RFC 2131, RFC 2132).
//!
//! ```text
//!            plan: dhcp_client/wan                       leases, as they change
//!  culvert run ------- Apply, Retrieve ----> clients -------- WatchDhcp ----> culvert run: address, routes,
//!                                               |                             name servers, as values obtained
//!                                          one task each
//!                                               |
//!    store (SQLite) <---- lease ---- client ----+---- machine: states, times, no I/O
//!    ROOT/var/dhcp                      |                 |
//!                              packet socket           message, terms: what a server may say
//!                                       |
//!                      TAP wan <-> dataplane <-> link <-> DHCP server
//! ```
//!
//! The process decides about leases and nothing else: `culvert run` merges them into what it brings about, so that a
//! process that dies takes no address away. Started again, it asks whether its leases still hold (RFC 2131 section 3.2);
//! meanwhile they do.
//!
//! A server is anybody on the link. Whatever it sends is checked ([`terms`]) and counted by reason when it is taken no
//! notice of ([`refusal`]); which of its routes are taken beside those of the configuration is decided where both are known.
//!
//! The client asks for its answers by broadcast as long as it has no address. It does not probe an address by itself: the
//! dataplane probes each that it is given, and does not use it while somebody else does. There is no DHCPDECLINE yet, so the
//! server is not told of that, and goes on lending such an address. Option 26 (MTU) is not asked for: how large packets may
//! be is configured.

pub mod client;
pub mod clients;
pub mod frame;
pub mod machine;
pub mod message;
pub mod moment;
mod packet_socket;
pub mod refusal;
mod service;
pub mod store;
pub mod terms;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use culvert_bus::{BusError, Server};
use tokio::signal::unix::{SignalKind, signal};

/// Where the process works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's root: sockets live in its `run/`, leases in its `var/dhcp`.
    pub root: PathBuf,
}

/// Why the process stopped.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// Its socket of the bus cannot be opened.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Leases cannot be kept, not even in memory.
    #[error("leases cannot be kept")]
    Store(#[from] store::StoreError),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT. Leases are kept then: whoever starts it again goes on with them.
pub async fn run(options: Options) -> Result<(), DhcpError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DhcpError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DhcpError::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(options, stop).await
}

/// As [`run`], until `stop` ends.
pub async fn run_until(options: Options, stop: impl Future<Output = ()>) -> Result<(), DhcpError> {
    let store = store::Store::open_or_in_memory(&options.root.join("var/dhcp"))?;
    let shared = Arc::new(clients::Shared::new(store));
    let socket = options.root.join("run/bus/dhcp");
    let server = Server::bind(&socket, service::router(shared))?.spawn()?;
    tracing::info!("dhcp is up");
    stop.await;
    server.stop().await;
    Ok(())
}
