//! Time on the packet path: processor clocks for counters, and one monotonic reading a loop for everything else.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// The processor's time-stamp counter, in clocks.
#[inline(always)]
pub fn clocks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        monotonic_nanoseconds()
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline]
pub fn monotonic_nanoseconds() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

/// Nanoseconds since 1970, `CLOCK_REALTIME`: for people and files, never for timers.
#[inline]
pub fn realtime_nanoseconds() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

/// Clocks a second, measured against the monotonic clock for 20 ms.
pub fn clocks_per_second() -> u64 {
    let (began, first) = (Instant::now(), clocks());
    std::thread::sleep(Duration::from_millis(20));
    let (spent, last) = (began.elapsed(), clocks());
    (last.wrapping_sub(first) as f64 / spent.as_secs_f64()) as u64
}
