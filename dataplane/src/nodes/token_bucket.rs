//! A limit of so many a second.

/// A bucket of tokens that fills with time; nanoseconds.
pub(crate) struct TokenBucket {
    interval: u64,
    burst: u64,
    full_at: u64,
}

impl TokenBucket {
    /// Full: `burst` tokens at once, `rate` a second (neither is 0).
    pub(crate) const fn new(rate: u64, burst: u64) -> Self {
        Self {
            interval: 1_000_000_000 / rate,
            burst,
            full_at: 0,
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        if full_at - now > self.burst * self.interval {
            return false;
        }
        self.full_at = full_at;
        true
    }
}
