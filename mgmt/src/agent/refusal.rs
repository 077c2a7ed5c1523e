//! Why mgmt does not do what it was asked.

use culvert_model::tree::TreeError;

use super::caller::{Role, Stranger};
use super::hands::HandsError;
use crate::store::StoreError;

/// A no, with what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody who is known.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// Somebody who may not.
    #[error("{name} is {} and may not; it takes {}", has.name(), takes.name())]
    Role {
        /// Who.
        name: String,
        /// What they are.
        has: Role,
        /// What it takes.
        takes: Role,
    },
    /// The candidate is not there, or that of somebody else.
    #[error(
        "there is no candidate {0:?} of yours: it was discarded or idle for too long; configure anew"
    )]
    NoCandidate(String),
    /// The request lacks what it must have, or says what it cannot.
    #[error("{0}")]
    Malformed(String),
    /// Somebody else holds the configuration.
    #[error("{0}")]
    Held(String),
    /// The session held the configuration, and does no more.
    #[error(
        "your exclusive hold of the configuration is over: it was not used for 30 minutes, or the gateway started anew; {}; the same again goes on without it",
        holder(now_of.as_deref())
    )]
    HoldOver {
        /// Who holds it instead.
        now_of: Option<String>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is no configuration of this version.
    #[error("revision {number} cannot be read: {source}")]
    Unreadable {
        /// Which.
        number: u64,
        /// Why.
        source: TreeError,
    },
    /// What was stored once no longer holds together.
    #[error("revision {number} is not valid any more: {reason}")]
    Invalid {
        /// Which.
        number: u64,
        /// Why.
        reason: String,
    },
    /// The gateway.
    #[error(transparent)]
    Hands(#[from] HandsError),
    /// A task of this process ended early.
    #[error("mgmt failed inside: {0}")]
    Inside(String),
}

fn holder(other: Option<&str>) -> String {
    match other {
        Some(name) => format!("{name} holds it now"),
        None => "others may have committed since".to_owned(),
    }
}
