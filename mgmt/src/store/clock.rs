//! The two clocks of a deadline.
//!
//! The wall clock is what people read, and it may be set back or forward at any time. The other clock counts since the
//! machine started, also while it slept, and cannot be set; it means something only together with the boot that it
//! belongs to. So a moment has both, and the store decides by the second one.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::error::StoreError;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which start of the machine; the kernel draws one at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId([u8; 16]);

impl BootId {
    /// A boot id from its bytes; the kernel's own comes with [`Moment::now`].
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A boot that no machine is ever in.
    pub(super) const NEVER: Self = Self([0; 16]);

    pub(super) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Milliseconds since 1970 by the wall clock: to be shown, not to be decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// A point in time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock.
    pub wall: WallTime,
    /// In which boot.
    pub boot: BootId,
    /// Since that boot, including sleep.
    pub since_boot: Duration,
}

impl Moment {
    /// Reads the clocks.
    pub fn now() -> Result<Self, StoreError> {
        static BOOT: OnceLock<BootId> = OnceLock::new();
        let boot = if let Some(boot) = BOOT.get() {
            *boot
        } else {
            let text =
                fs::read_to_string(BOOT_ID).map_err(|source| StoreError::file(BOOT_ID, source))?;
            let boot = parse_boot_id(&text)
                .ok_or_else(|| StoreError::damaged(format!("{BOOT_ID}: not a boot id")))?;
            *BOOT.get_or_init(|| boot)
        };
        Ok(Self {
            wall: WallTime(as_millis(duration_of(ClockId::Realtime))),
            boot,
            since_boot: duration_of(ClockId::Boottime),
        })
    }

    /// How long ago `earlier` was: by the unsettable clock within one boot, else by the wall clock, and nothing if that
    /// one was set back.
    pub fn since(&self, earlier: &Self) -> Duration {
        if self.boot == earlier.boot {
            self.since_boot.saturating_sub(earlier.since_boot)
        } else {
            Duration::from_millis(self.wall.0.saturating_sub(earlier.wall.0))
        }
    }

    /// What is left until this deadline; nothing in any other boot than its own.
    pub(super) fn remaining(&self, now: &Self) -> Duration {
        if self.boot == now.boot {
            self.since_boot.saturating_sub(now.since_boot)
        } else {
            Duration::ZERO
        }
    }

    /// The deadline that is `window` after this moment.
    pub(super) fn after(&self, window: Duration) -> Self {
        Self {
            wall: WallTime(self.wall.0.saturating_add(as_millis(window))),
            boot: self.boot,
            since_boot: self.since_boot.saturating_add(window),
        }
    }
}

pub(super) fn as_millis(duration: Duration) -> u64 {
    // The columns of the database are signed.
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(i64::MAX as u64)
}

fn duration_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // A wall clock before 1970 reads as 1970.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn parse_boot_id(text: &str) -> Option<BootId> {
    let digits: Vec<u8> = text
        .trim()
        .bytes()
        .filter(|&byte| byte != b'-')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    (digits.len() == 32).then_some(BootId(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_kernel_tells_both_clocks_and_one_boot() {
        let (one, two) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert_eq!(one.boot, two.boot);
        assert_ne!(one.boot, BootId::NEVER);
        assert!(one.since_boot <= two.since_boot);
    }

    #[test]
    fn a_boot_id_is_sixteen_bytes_of_hexadecimal() {
        assert_eq!(
            parse_boot_id("00112233-4455-6677-8899-aabbccddeeff\n"),
            Some(BootId([
                0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
                0xee, 0xff
            ]))
        );
        assert_eq!(parse_boot_id("0011"), None);
        assert_eq!(parse_boot_id("zz112233-4455-6677-8899-aabbccddeeff"), None);
        assert_eq!(
            parse_boot_id("00112233-4455-6677-8899-aabbccddeeff00"),
            None
        );
    }

    #[test]
    fn a_deadline_is_not_moved_by_the_wall_clock() {
        let boot = BootId([1; 16]);
        let start = Moment {
            wall: WallTime(90_000_000_000),
            boot,
            since_boot: Duration::from_secs(100),
        };
        let deadline = start.after(Duration::from_mins(10));
        let a_day_back = Moment {
            wall: WallTime(start.wall.0 - 86_400_000),
            since_boot: Duration::from_secs(400),
            ..start
        };
        assert_eq!(deadline.remaining(&a_day_back), Duration::from_mins(5));
        let other_boot = Moment {
            boot: BootId([2; 16]),
            ..start
        };
        assert_eq!(deadline.remaining(&other_boot), Duration::ZERO);
    }
}
