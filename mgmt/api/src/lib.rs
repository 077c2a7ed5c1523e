//! The northbound service as code: what mgmt serves and what every face of it calls, over one Unix socket.
//!
//! ```text
//!   command line ──┐                                  ┌── ConfigurationServer ── sessions, store, plan
//!   REST, gRPC ────┼── connect() ═══ ROOT/run/api ════┤
//!   remote ────────┘     gRPC over a Unix socket      └── GatewayServer ──────── state
//! ```
//!
//! The messages are those of [`culvert_model::api`]. Who is at the other end is told by the kernel, not by the message.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "written by tonic-prost-build from the schema"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/culvert.api.v1.rs"));
}

pub use generated::configuration_client::ConfigurationClient;
pub use generated::configuration_server::{Configuration, ConfigurationServer};
pub use generated::gateway_client::GatewayClient;
pub use generated::gateway_server::{Gateway, GatewayServer};

/// The largest message in bytes: that of a configuration, and what says so around it.
pub const MESSAGE_LIMIT: usize = 17 << 20;

/// Name of the metadata that says for whom a login shell speaks. mgmt believes it of those only whom it may believe.
pub const PRINCIPAL: &str = "culvert-principal";

/// Name of the metadata that says where that one came from: both ends as `SSH_CONNECTION` has them, or `console`.
pub const ORIGIN: &str = "culvert-origin";

/// Name of the metadata that says which of their SSH keys that one came in with, by its fingerprint. The session ends
/// when the key goes.
pub const KEY: &str = "culvert-key";

/// How a text begins that is a configuration sealed with a passphrase.
pub const SEALED: &str = "-----BEGIN CULVERT SEALED CONFIGURATION-----";

/// Why mgmt is not reached.
#[derive(Debug, thiserror::Error)]
#[error("mgmt does not answer on {}: is the gateway running?", path.display())]
pub struct ConnectError {
    /// The socket.
    path: PathBuf,
    /// What is wrong with it.
    source: tonic::transport::Error,
}

/// Connects to mgmt by its Unix socket.
pub async fn connect(path: &Path) -> Result<Channel, ConnectError> {
    let socket = path.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(socket).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The address is never used: the connector knows where to go.
    Endpoint::from_static("http://mgmt")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError {
            path: path.to_owned(),
            source,
        })
}
