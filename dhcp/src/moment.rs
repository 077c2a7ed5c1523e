//! Times that outlive the process: by the clock of this boot, which nobody sets, and by the clock on the wall, which is
//! all that is left after another boot.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// One moment, by both clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Which boot; empty: the kernel does not tell.
    pub boot: String,
    /// Since it: `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
    pub since_boot: Duration,
    /// Since 1970, as far as the wall clock knows.
    pub unix: Duration,
}

/// How long ago a moment was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// So long, as far as the clocks know.
    Known(Duration),
    /// The wall clock is behind it: it tells nothing.
    Unknown,
}

static BOOT: LazyLock<String> = LazyLock::new(|| {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|id| id.trim().to_owned()).unwrap_or_default()
});

impl Moment {
    /// This one.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        Self {
            boot: if since_boot.is_ok() {
                BOOT.clone()
            } else {
                String::new()
            },
            since_boot: since_boot.unwrap_or_default(),
            unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    /// The moment so long before.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self {
            since_boot: self.since_boot.saturating_sub(by),
            unix: self.unix.saturating_sub(by),
            ..self
        }
    }

    /// How long `before` is over. The wall clock counts only for a moment of another boot: it may have been set since.
    pub fn since(&self, before: &Self) -> Age {
        let same = !self.boot.is_empty() && self.boot == before.boot;
        let age = if same {
            self.since_boot.checked_sub(before.since_boot)
        } else {
            self.unix.checked_sub(before.unix)
        };
        age.map_or(Age::Unknown, Age::Known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_clock_of_this_boot_counts_and_goes_on() {
        let before = Moment::now();
        assert_eq!(before.boot.len(), 36, "{before:?}");
        let Age::Known(age) = Moment::now().since(&before) else {
            panic!("the clock went back");
        };
        assert!(age < Duration::from_mins(1), "{age:?}");
        let hour = Duration::from_hours(1);
        let earlier = before.clone().earlier(Duration::from_millis(1));
        assert_eq!(before.since(&earlier), Age::Known(Duration::from_millis(1)));
        // The wall clock was set, forward or back: that is nothing to a moment of this boot.
        for unix in [before.unix + 9 * hour, before.unix.saturating_sub(hour)] {
            let now = Moment {
                unix,
                ..before.clone()
            };
            assert_eq!(now.since(&before), Age::Known(Duration::ZERO));
        }
    }

    #[test]
    fn the_wall_clock_counts_for_another_boot_unless_it_is_behind() {
        let at = |boot: &str, since_boot, unix| Moment {
            boot: boot.to_owned(),
            since_boot: Duration::from_secs(since_boot),
            unix: Duration::from_secs(unix),
        };
        let before = at("one", 5000, 90_000);
        assert_eq!(
            at("two", 10, 90_100).since(&before),
            Age::Known(Duration::from_secs(100))
        );
        assert_eq!(at("two", 6000, 89_999).since(&before), Age::Unknown);
        // A kernel that does not say which boot: never the same.
        assert_eq!(
            at("", 10, 90_100).since(&at("", 5, 90_000)),
            Age::Known(Duration::from_secs(100))
        );
    }
}
