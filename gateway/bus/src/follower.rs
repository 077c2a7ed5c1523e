//! What a subscriber does with the numbers: pure, no socket and no clock.
//!
//! ```text
//!            +------------- gap, other incarnation, silence, garbage -------------+
//!            v                                                                    |
//!      [needs snapshot] -- snapshot(number n, incarnation i) --> [following n of i]
//!                                                                 | n+1: deliver
//!                                                                 | <= n: drop
//! ```

use std::fmt;

/// Why the snapshot was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resync {
    /// The subscription has just begun.
    First,
    /// Publications were lost.
    Gap {
        /// The number that should have come next.
        expected: u64,
        /// The number that was heard of.
        got: u64,
    },
    /// The publisher is another one than that of the last snapshot.
    Restarted,
    /// Not even a heartbeat came for three seconds.
    Silence,
    /// Something came that is no publication, or no event.
    Undecodable,
}

impl fmt::Display for Resync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the subscription begins"),
            Self::Gap { expected, got } => {
                write!(f, "publication {expected} is missing, {got} is there")
            }
            Self::Restarted => f.write_str("the publisher is a new one"),
            Self::Silence => f.write_str("the publisher is silent"),
            Self::Undecodable => f.write_str("a publication does not decode"),
        }
    }
}

/// Where a subscriber stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Follower {
    /// `left`: the incarnation that was followed before.
    NeedsSnapshot { why: Resync, left: Option<u64> },
    /// All up to `number` of `incarnation` is known. What still comes from the one that was `left` is old.
    Following {
        number: u64,
        incarnation: u64,
        left: Option<u64>,
    },
}

/// What to do with a publication.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The next event.
    Deliver,
    /// Known already, or nothing but a heartbeat.
    Drop,
    /// Something was missed.
    TakeSnapshot,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Self::NeedsSnapshot {
            why: Resync::First,
            left: None,
        }
    }

    pub(crate) fn snapshot(&mut self, number: u64, incarnation: u64) {
        let (Self::NeedsSnapshot { left, .. } | Self::Following { left, .. }) = *self;
        let left = left.filter(|left| *left != incarnation);
        *self = Self::Following {
            number,
            incarnation,
            left,
        };
    }

    pub(crate) fn lost(&mut self, why: Resync) {
        // The first reason is the one that is told.
        if let Self::Following { incarnation, .. } = *self {
            *self = Self::NeedsSnapshot {
                why,
                left: Some(incarnation),
            };
        }
    }

    /// `event`: it carries one, and is no heartbeat.
    pub(crate) fn heard(&mut self, number: u64, incarnation: u64, event: bool) -> Verdict {
        let Self::Following {
            number: known,
            incarnation: followed,
            left,
        } = *self
        else {
            return Verdict::TakeSnapshot;
        };
        if incarnation != followed {
            if left == Some(incarnation) {
                return Verdict::Drop;
            }
            self.lost(Resync::Restarted);
            return Verdict::TakeSnapshot;
        }
        let expected = known.saturating_add(1);
        if number <= known {
            Verdict::Drop
        } else if event && number == expected {
            *self = Self::Following {
                number,
                incarnation,
                left,
            };
            Verdict::Deliver
        } else {
            self.lost(Resync::Gap {
                expected,
                got: number,
            });
            Verdict::TakeSnapshot
        }
    }
}
