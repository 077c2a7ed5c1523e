//! Until when something has to be done: what every wait for a gateway is cut to.

use std::time::{Duration, Instant};

use ssh2::ErrorCode;

/// `LIBSSH2_ERROR_TIMEOUT`
const TIMED_OUT: ErrorCode = ErrorCode::Session(-9);

/// A point in time, and how long it was away at first.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    until: Instant,
    limit: Duration,
}

/// It is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub struct Late(pub Duration);

impl Deadline {
    /// From now.
    pub fn after(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
            limit,
        }
    }

    /// This long from now, but no later than this one.
    pub fn at_most(self, limit: Duration) -> Self {
        let own = Self::after(limit);
        if own.until < self.until { own } else { self }
    }

    /// What is left of it.
    pub fn left(self) -> Result<Duration, Late> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Late(self.limit)),
            left => Ok(left),
        }
    }

    /// As libssh2 and poll(2) count: milliseconds, at least one.
    pub fn milliseconds(self) -> Result<u32, Late> {
        let left = self.left()?.as_millis().max(1);
        Ok(u32::try_from(left)
            .unwrap_or(u32::MAX >> 1)
            .min(u32::MAX >> 1))
    }

    /// What a wait that failed means: that it was too long, where it was. libssh2 counts for itself.
    pub fn late(self, error: &ssh2::Error) -> Option<Late> {
        (error.code() == TIMED_OUT)
            .then_some(Late(self.limit))
            .or(self.left().err())
    }
}
