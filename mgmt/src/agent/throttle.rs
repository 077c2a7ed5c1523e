//! How often refusals are written down: the first ones each, then how many more there were.
//!
//! ```text
//!   refusals   x x x x x x x x x x x x x x x x              x
//!   entries    1 2 3 ... 10               "6 more ..." (a minute later)
//! ```
//!
//! An entry is durable, and the trail is bounded: who is refused a thousand times a second would keep the disk busy and
//! drive out what others did.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Written one by one within a window.
const EACH: u32 = 10;
/// From the first refusal on.
const WINDOW: Duration = Duration::from_mins(1);
/// Of whom is counted apart; all others together. A configuration has 64 users.
const KNOWN: usize = 80;
/// Whoever is not counted apart.
const OTHERS: &str = "others";

/// Counts by whom was refused.
#[derive(Debug, Default)]
pub struct Throttle {
    windows: BTreeMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    more: u64,
}

impl Throttle {
    /// Whether this refusal is written down by itself.
    pub fn writes(&mut self, who: &str, now: Instant) -> bool {
        let who = if self.windows.contains_key(who) || self.windows.len() < KNOWN {
            who
        } else {
            OTHERS
        };
        let window = self.windows.entry(who.to_owned()).or_insert(Window {
            began: now,
            written: 0,
            more: 0,
        });
        if window.written < EACH {
            window.written += 1;
            true
        } else {
            window.more += 1;
            false
        }
    }

    /// How many more there were in windows that are over, by whom; they begin anew.
    pub fn over(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        self.windows.retain(|who, window| {
            let open = now.saturating_duration_since(window.began) < WINDOW;
            if !open && window.more > 0 {
                counts.push((who.clone(), window.more));
            }
            open
        });
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_written_and_the_rest_is_counted() {
        let begin = Instant::now();
        let mut throttle = Throttle::default();
        let written = (0..1000)
            .filter(|_| throttle.writes("uid 1000", begin))
            .count();
        assert_eq!(written, EACH as usize);
        assert!(throttle.writes("alice", begin), "each apart");
        assert!(throttle.over(begin + WINDOW / 2).is_empty());
        let counts = throttle.over(begin + WINDOW);
        assert_eq!(counts, [("uid 1000".to_owned(), 1000 - u64::from(EACH))]);
        assert!(throttle.writes("uid 1000", begin + WINDOW), "anew");
        assert!(throttle.over(begin + 3 * WINDOW).is_empty());
    }

    #[test]
    fn many_names_are_one() {
        let begin = Instant::now();
        let mut throttle = Throttle::default();
        for number in 0..100_000 {
            throttle.writes(&format!("name {number}"), begin);
        }
        assert_eq!(throttle.windows.len(), KNOWN + 1);
        let counts = throttle.over(begin + WINDOW);
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].0, OTHERS);
    }
}
