//! What a reader of the figures must know of the machine they come from.

use std::fs;
use std::hint::black_box;

use culvert_dataplane::clock;

/// The machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// As the processor calls itself.
    pub processor: String,
    /// Clocks of the time-stamp counter a second, in millions.
    pub megahertz: f64,
    /// Clocks of the time-stamp counter for one clock of the core.
    pub clock_ratio: f64,
    /// Version of the yardstick's library.
    pub ring: &'static str,
}

impl Machine {
    /// Asks it.
    pub fn look() -> Self {
        Self {
            processor: processor(),
            megahertz: clock::clocks_per_second() as f64 / 1e6,
            clock_ratio: clock_ratio(),
            ring: ring_version(),
        }
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
            .map_or("?", str::trim)
            .to_owned()
    };
    format!(
        "{} (family {}, model {}, stepping {})",
        field("model name"),
        field("cpu family"),
        field("model"),
        field("stepping")
    )
}

/// A chain of multiplications and exclusive ors, which take three clocks of the core and one on every x86-64 processor
/// since 2008; the ors keep the compiler from multiplying factors with each other beforehand.
fn clock_ratio() -> f64 {
    const STEPS: u64 = 200_000;
    const LATENCY: u64 = 4;
    let mut best = u64::MAX;
    for _ in 0..20 {
        let (mut number, factor) = (black_box(3_u64), black_box(0x9e37_79b9_7f4a_7c15_u64));
        let before = clock::clocks();
        for _ in 0..STEPS {
            number = (number ^ 0x55).wrapping_mul(factor);
        }
        black_box(number);
        best = best.min(clock::clocks().wrapping_sub(before));
    }
    best as f64 / (STEPS * LATENCY) as f64
}

/// The share of time that the hypervisor gave to others, so far: stolen and all clock ticks.
pub fn stolen() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    (
        ticks.get(7).copied().unwrap_or(0),
        ticks.iter().take(8).sum(),
    )
}

fn ring_version() -> &'static str {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    LOCK.split("[[package]]")
        .filter_map(|package| {
            package
                .trim_start()
                .strip_prefix("name = \"ring\"\nversion = \"")
        })
        .find_map(|rest| rest.split('"').next())
        .unwrap_or("?")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    #[test]
    fn the_yardsticks_version_is_known() {
        assert!(
            super::ring_version().starts_with("0."),
            "{}",
            super::ring_version()
        );
    }
}
