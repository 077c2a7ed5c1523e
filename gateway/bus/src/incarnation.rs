//! Numbers that tell one start of something from every other.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// One life of a server or publisher: drawn at random when it is bound, never 0.
///
/// Numbers of publications and remembered answers are worth something within one incarnation only.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Incarnation(u64);

impl Incarnation {
    /// A new one.
    pub fn draw() -> Self {
        Self(random_number().max(1))
    }

    /// As it travels.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// 64 bits that differ from call to call and from process to process. The standard library seeds its hash keys
/// from the system's random numbers; that is enough to tell things apart, and for nothing else.
pub(crate) fn random_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let drawn: HashSet<u64> = (0..10_000).map(|_| Incarnation::draw().get()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(!drawn.contains(&0));
    }
}
