//! Inbound SPIs: random, never one in use, never one of lately.
//!
//! The dataplane finds an inbound SA by its SPI alone, so an SPI is unique for the whole box. A packet of a removed SA
//! may still be on its way: its SPI is not given out again soon, so that such a packet meets no other key.

use std::collections::{BTreeMap, VecDeque};

/// RFC 4303 section 2.1: 1 to 255 are reserved by IANA, 0 never appears on the wire.
const FIRST: u32 = 256;

/// An SPI that charon asked for and did not use: longer than an exchange is retransmitted (165 s with charon's
/// defaults), then it may be drawn again.
const RESERVATION_MS: u64 = 200_000;

/// How many released SPIs are remembered. At 500 tunnels rekeyed each hour that is more than four hours.
const REMEMBERED: usize = 4096;

/// Draws no SPI from more than this many random numbers. The table would have to hold most of the 2^32 SPIs first.
const ATTEMPTS: usize = 1000;

/// Where random numbers come from: the system's generator, or a scripted one in tests.
pub trait Random: Send {
    /// 32 random bits.
    fn next_u32(&mut self) -> u32;
}

/// The SPIs that may not be drawn although no SA has them.
#[derive(Default)]
pub struct SpiPool {
    reserved: BTreeMap<u32, u64>,
    recent: VecDeque<u32>,
}

impl SpiPool {
    /// Draws an SPI that `in_use` does not know. `None` when randomness does not hit a free one.
    pub fn draw(
        &mut self,
        now_ms: u64,
        random: &mut dyn Random,
        in_use: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        self.reserved.retain(|_, until| *until > now_ms);
        let spi = (0..ATTEMPTS).map(|_| random.next_u32()).find(|spi| {
            *spi >= FIRST
                && !self.reserved.contains_key(spi)
                && !self.recent.contains(spi)
                && !in_use(*spi)
        })?;
        self.reserved.insert(spi, now_ms + RESERVATION_MS);
        Some(spi)
    }

    /// An SA has the SPI now: the table knows it.
    pub fn installed(&mut self, spi: u32) {
        self.reserved.remove(&spi);
    }

    /// The SPI's SA is gone, or never came.
    pub fn released(&mut self, spi: u32) {
        self.reserved.remove(&spi);
        if !self.recent.contains(&spi) {
            self.recent.push_back(spi);
        }
        while self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// Whether charon was given this SPI and has not installed it yet.
    pub fn is_reserved(&self, spi: u32) -> bool {
        self.reserved.contains_key(&spi)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    struct Script(VecDeque<u32>);

    impl Random for Script {
        fn next_u32(&mut self) -> u32 {
            self.0.pop_front().unwrap_or(0)
        }
    }

    #[test]
    fn reserved_numbers_used_and_recent_spis_are_passed_over() {
        let mut random = Script([0, 255, 300, 301, 302, 303, 304].into());
        let mut pool = SpiPool::default();
        pool.released(302);
        assert_eq!(pool.draw(0, &mut random, |spi| spi == 300), Some(301));
        assert!(pool.is_reserved(301));
        assert_eq!(pool.draw(0, &mut random, |_| false), Some(303));
        assert_eq!(pool.draw(0, &mut Script([301].into()), |_| false), None);
        // Given back by time.
        assert_eq!(
            pool.draw(RESERVATION_MS, &mut Script([301].into()), |_| false),
            Some(301)
        );
    }

    #[test]
    fn memory_of_released_spis_is_bounded() {
        let mut pool = SpiPool::default();
        for spi in 256..256 + 2 * REMEMBERED as u32 {
            pool.released(spi);
        }
        assert_eq!(pool.recent.len(), REMEMBERED);
        assert_eq!(
            pool.draw(0, &mut Script([256].into()), |_| false),
            Some(256)
        );
    }
}
