//! iked-bridge: the SA and policy manager between strongSwan's charon and the dataplane.
//!
//! charon negotiates, the dataplane encrypts, and neither knows the other. The bridge keeps the table of security
//! associations and policies, owns every lifetime timer, installs keys in the dataplane and gives charon its
//! connections and credentials.
//!
//! ```text
//!               ROOT/run/charon-plugin.sock                     ROOT/run/bus/dataplane-sa[.events]
//!  charon ── plugin ═══════ calls, upcalls ═══════╗   ╔════════ install, query, dump; limits, acquires ══ dataplane
//!     ╚═════ VICI: connections, credentials, ═════ bridge
//!            list-sas, events                     ║   ╚════════ Apply, Retrieve, ShowIke, Initiate ... ══ supervisor
//!            ROOT/run/charon.vici                              ROOT/run/bus/iked-bridge[-secrets]
//! ```

use std::path::PathBuf;

/// Where the bridge works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's root: sockets live in its `run/`.
    pub root: PathBuf,
}

/// Why the bridge stopped.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A socket of its own could not be opened.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Runs until the process is told to stop.
///
/// Neighbours may come and go: the bridge waits for charon and the dataplane, and reconciles with each that returns.
#[allow(clippy::unused_async)]
pub async fn run(options: Options) -> Result<(), BridgeError> {
    let path = options.root.join("run");
    std::fs::create_dir_all(&path).map_err(|source| BridgeError::Listen { path, source })
}
