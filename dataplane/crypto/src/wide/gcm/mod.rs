//! AES-GCM for ESP (RFC 4106) with keys and ICVs of every length.

mod bits256;
mod bits512;
mod job;
mod key;
mod tables;

pub(super) use key::GcmKey;

use super::Level;
use crate::engine::{OpenOp, SealOp};
use crate::suite::KeyBits;
use job::{Direction, Open, Seal};

/// Seals a run of packets whose keys have all this length.
pub(super) fn seal(level: Level, bits: KeyBits, run: &mut [&mut SealOp<'_>]) {
    each::<Seal>(level, bits, run);
}

/// Opens a run of packets whose keys have all this length.
pub(super) fn open(level: Level, bits: KeyBits, run: &mut [&mut OpenOp<'_>]) {
    each::<Open>(level, bits, run);
}

/// The kernel for this level and key length.
fn each<D: Direction>(level: Level, bits: KeyBits, run: &mut [&mut D::Op<'_>]) {
    match (level, bits) {
        (Level::Bits512(cpu), KeyBits::B128) => bits512::run::<D, 10>(cpu, run),
        (Level::Bits512(cpu), KeyBits::B192) => bits512::run::<D, 12>(cpu, run),
        (Level::Bits512(cpu), KeyBits::B256) => bits512::run::<D, 14>(cpu, run),
        (Level::Bits256(cpu), KeyBits::B128) => bits256::run::<D, 10>(cpu, run),
        (Level::Bits256(cpu), KeyBits::B192) => bits256::run::<D, 12>(cpu, run),
        (Level::Bits256(cpu), KeyBits::B256) => bits256::run::<D, 14>(cpu, run),
    }
}
