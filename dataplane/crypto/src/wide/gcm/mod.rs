//! AES-GCM for ESP (RFC 4106) with keys and ICVs of every length.

mod bits256;
mod bits512;
mod front;
mod job;
mod key;
mod tables;

pub(super) use key::GcmKey;

use super::Level;
use super::direction::Direction;
use crate::suite::KeyBits;

/// Works through a run of packets whose keys have all this length; `same_key`: they all have one.
pub(super) fn run<D: Direction>(
    level: Level,
    bits: KeyBits,
    same_key: bool,
    run: &mut [&mut D::Op<'_>],
) {
    // FIPS 197 section 5. What the compiler knows of the number it uses to unroll loops over rounds, badly: see
    // `bits512::middle_rounds`.
    let rounds = std::hint::black_box(match bits {
        KeyBits::B128 => 10,
        KeyBits::B192 => 12,
        KeyBits::B256 => 14,
    });
    match level {
        Level::Bits512(cpu) => bits512::run::<D>(cpu, rounds, same_key, run),
        Level::Bits256(cpu) => bits256::run::<D>(cpu, rounds, same_key, run),
    }
}
