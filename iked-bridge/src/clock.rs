//! The two things a state machine cannot have of its own: time and chance.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::spi::Random;

/// `CLOCK_BOOTTIME` in milliseconds: it goes on while the machine sleeps, as the lifetimes of keys do, and all processes
/// of the machine agree on it.
pub fn boot_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let time = Duration::from(time);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

/// When a process started, on the same clock. `None` where the system does not tell.
pub fn process_started_ms(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    // The second field is the program's name in parentheses and may contain anything; field 22 counts clock ticks.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let per_second = u64::try_from(per_second).ok().filter(|ticks| *ticks > 0)?;
    Some(ticks.checked_mul(1000)? / per_second)
}

/// The system's random numbers. The file stays open, so that it works after privileges were dropped.
pub struct SystemRandom {
    file: File,
    /// What is left when the system fails: never the same sequence, and the table refuses what is in use.
    fallback: u64,
}

impl SystemRandom {
    /// Opens the generator.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/dev/urandom")?,
            fallback: boot_ms(),
        })
    }
}

impl Random for SystemRandom {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        if self.file.read_exact(&mut bytes).is_ok() {
            return u32::from_ne_bytes(bytes);
        }
        self.fallback = self
            .fallback
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.fallback >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn this_process_started_before_now_and_after_boot() {
        let started = process_started_ms(std::process::id()).unwrap();
        assert!(started > 0 && started <= boot_ms());
        assert_eq!(process_started_ms(u32::MAX), None);
    }

    #[test]
    fn random_numbers_differ() {
        let mut random = SystemRandom::open().unwrap();
        let drawn: std::collections::BTreeSet<u32> = (0..64).map(|_| random.next_u32()).collect();
        assert!(drawn.len() > 60);
    }
}
