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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn following(number: u64, incarnation: u64) -> Follower {
        let mut follower = Follower::new();
        follower.snapshot(number, incarnation);
        follower
    }

    #[test]
    fn events_after_the_snapshot_are_delivered_and_those_before_dropped() {
        let mut follower = following(5, 1);
        assert_eq!(follower.heard(4, 1, true), Verdict::Drop);
        assert_eq!(follower.heard(5, 1, true), Verdict::Drop);
        assert_eq!(follower.heard(6, 1, true), Verdict::Deliver);
        assert_eq!(follower.heard(6, 1, true), Verdict::Drop);
        assert_eq!(follower.heard(6, 1, false), Verdict::Drop);
        assert_eq!(follower.heard(7, 1, true), Verdict::Deliver);
    }

    #[test]
    fn the_loss_of_the_last_event_shows_in_the_heartbeat() {
        let mut follower = following(5, 1);
        assert_eq!(follower.heard(6, 1, false), Verdict::TakeSnapshot);
        let why = Resync::Gap {
            expected: 6,
            got: 6,
        };
        assert_eq!(follower, Follower::NeedsSnapshot { why, left: Some(1) });
    }

    #[test]
    fn what_is_left_of_the_old_incarnation_does_not_disturb_the_new_one() {
        let mut follower = following(5, 1);
        assert_eq!(follower.heard(1, 2, true), Verdict::TakeSnapshot);
        follower.snapshot(1, 2);
        assert_eq!(follower.heard(6, 1, true), Verdict::Drop);
        assert_eq!(follower.heard(2, 2, true), Verdict::Deliver);
        assert_eq!(follower.heard(1, 3, false), Verdict::TakeSnapshot);
    }

    /// What the publisher and the channel do, in turns.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        /// An event; `true`: it reaches the subscriber's queue.
        Publish(bool),
        Heartbeat(bool),
        Restart,
        /// The subscriber takes up the oldest message of its queue, or asks for a snapshot if it needs one.
        Take,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let turn = prop_oneof![
            4 => prop::bool::weighted(0.8).prop_map(Turn::Publish),
            1 => prop::bool::weighted(0.5).prop_map(Turn::Heartbeat),
            1 => Just(Turn::Restart),
            6 => Just(Turn::Take),
        ];
        prop::collection::vec(turn, 0..200)
    }

    proptest! {
        /// The subscriber's state is always one that the publisher was in, never goes back within an incarnation,
        /// and is the publisher's own once everything is quiet and one heartbeat has come through.
        #[test]
        fn the_state_is_never_wrong_and_ends_right(turns in turns()) {
            // The publisher's state is its list of events; an event is its own number and incarnation.
            let mut state: Vec<(u64, u64)> = Vec::new();
            let mut incarnation = 1;
            let mut number = 0;
            let mut queue = std::collections::VecDeque::new();
            let mut follower = Follower::new();
            let mut seen: Vec<(u64, u64)> = Vec::new();

            let quiet = [Turn::Heartbeat(true)];
            let drain = std::iter::repeat_n(Turn::Take, turns.len() * 2 + 4);
            for turn in turns.iter().copied().chain(quiet).chain(drain) {
                match turn {
                    Turn::Publish(arrives) => {
                        number += 1;
                        state.push((incarnation, number));
                        if arrives {
                            queue.push_back((number, incarnation, true));
                        }
                    }
                    Turn::Heartbeat(arrives) => {
                        if arrives {
                            queue.push_back((number, incarnation, false));
                        }
                    }
                    Turn::Restart => {
                        incarnation += 1;
                        number = 0;
                        state.clear();
                    }
                    Turn::Take => {
                        if matches!(follower, Follower::NeedsSnapshot { .. }) {
                            seen = state.clone();
                            follower.snapshot(number, incarnation);
                        } else if let Some((heard, of, event)) = queue.pop_front()
                            && follower.heard(heard, of, event) == Verdict::Deliver
                        {
                            let before = seen.last().copied();
                            prop_assert!(before.is_none_or(|(i, n)| i == of && n + 1 == heard));
                            seen.push((of, heard));
                        }
                    }
                }
                prop_assert!(seen.iter().enumerate().all(|(i, (_, n))| *n == i as u64 + 1));
            }
            prop_assert_eq!(&seen, &state);
        }
    }
}
