//! Keys and certificates: keys are made here and never leave, an authority is asked for certificates of them, and what is there
//! is read for people.
//!
//! ```text
//!   generate private-key ──> [key] ──> candidate, as a secret
//!                                          │
//!   generate certificate-request <── [request] signs with it ──> PEM for an authority
//!                                                                     │
//!   show certificates <── [listing] <── certificates, keys <── set ... pem
//! ```

mod key;
mod listing;
mod request;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use key::{Algorithm, generate};
pub use listing::list;
pub use request::{Wish, request};

/// Why a key or a request was not made.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The library that makes keys said no.
    #[error("the key could not be made")]
    Generate,
    /// A key of another kind than can be used here.
    #[error("not a private key of RSA (2048 bits or more), ECDSA (P-256, P-384) or Ed25519")]
    Key,
    /// A distinguished name.
    #[error("{given:?} is not {expected}")]
    Name {
        /// The part that is wrong.
        given: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A request that cannot be written.
    #[error("the request could not be made: {0}")]
    Request(#[from] rcgen::Error),
}
