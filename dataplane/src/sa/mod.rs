//! Security associations and policies (RFC 4301, RFC 4303).
//!
//! ```text
//!   iked-bridge --bus--> service -> SaManager (control thread) -> SaTables --published--> workers
//!                                                                    |
//!                            Sa { endpoints, outer header } -> SaState { key, sequence, window, counters }
//! ```
//!
//! What changes with traffic ([`SaState`]) is one allocation that every version of the tables points to: it is
//! never copied, so neither a sequence number nor a window ever goes back. What changes by request (addresses and
//! ports of [`Sa`]) is replaced whole.

mod association;
mod classifier;
mod manager;
mod order;
mod outer;
mod outer_rules;
mod policy;
pub mod service;
mod spec;

pub use association::{Endpoints, LimitKind, Reservation, Sa, SaState, Usage};
pub use manager::{PolicyId, PolicySpec, SaError, SaManager};
pub use order::{Configured, ConfiguredPolicy, Guard};
pub use outer::{Inherited, OuterHeader, UdpPorts};
pub use outer_rules::{DontFragment, FlowLabel, OuterRules};
pub use policy::{Choice, OutPolicy, PolicyAction, PolicySet};
pub use spec::{Limits, SaDirection, SaKeyId, SaMode, SaSpec, SpecError};

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::sharded::Sharded;

/// Every link carries IPv6 packets of so many bytes (RFC 8200 section 5).
pub const IPV6_MINIMUM_MTU: u16 = 1280;

/// One version of the SAs and policies.
#[derive(Clone, Default)]
pub struct SaTables {
    /// All SAs by index.
    pub sas: Chunked<Sa>,
    /// Inbound SAs: SPI to index. We choose the SPI, so it alone names the SA (RFC 4301 section 4.1).
    pub inbound: Sharded<u32>,
    /// Outbound policies by `if_id`.
    pub policies: Sharded<Arc<PolicySet>>,
    /// What must not come in the clear, by the policies of `if_id` 0.
    pub inbound_policies: PolicySet,
    /// Tunnel interfaces: `if_id` to interface index.
    pub tunnels: Sharded<u32>,
    /// There is, or was, an SA or a policy that looks at ports: those of fragments are found out.
    pub looks_at_ports: bool,
}
