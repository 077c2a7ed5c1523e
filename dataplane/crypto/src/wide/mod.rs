//! The wide engine: many packets at once in registers of 512 or 256 bits.
//!
//! ```text
//!   batch   | gcm128 | cbc | gcm128 | chacha | gmac | gcm128 |   as the dataplane has it
//!              |        |      |        |       |       |
//!              '--------|------+--------|-------|-------'-> gcm kernel      one call for each family
//!                       '---------------|-------|---------> cbc kernel
//!                                       '-------|---------> chacha kernel
//!                                               '---------> portable        what has no kernel
//! ```
//!
//! A *family* is what one kernel takes together: packets of different SAs, lengths and ICVs, but of the same steps.
//!
//! # What makes it fast
//!
//! An AES instruction takes four clocks, and two of them begin in each; one packet's blocks of counters are too few, and
//! its hash is one chain. So:
//!
//! *Packets lie side by side.* A register has four blocks, four packets of 64 bytes go through the rounds together, each
//! with the round keys of its own SA from memory. Where a mode chains blocks (CBC, SHA, Poly1305), each lane has another
//! packet. Packets are sorted by length first, so that lanes end together.
//!
//! ```text
//!   packet 1 | mask text text text | text text len  -  |   \
//!   packet 2 | mask text text text | text text len  -  |    | round 1, round 2 ... round 10: eight registers at once,
//!   packet 3 | mask text text text | text text len  -  |    | no instruction waits for the one before
//!   packet 4 | mask text text text | text text len  -  |   /
//! ```
//!
//! ```text
//!              lane 1     lane 2     lane 3    ...  lane 16
//!   step 1   | packet 1 | packet 2 | packet 3 | ... | packet 16 |    the first block of each
//!   step 2   | packet 1 | packet 2 | packet 3 | ... | packet 16 |    the second, which needs the first
//!   step 3   | packet 1 | packet 2 |    -     | ... |     -     |    the short ones have ended
//! ```
//!
//! *Work of different kinds is mixed.* Of a long packet, one chunk is hashed between the rounds that encrypt the next; the
//! AES unit, the multiplier and the adders are different parts of a CPU.
//!
//! *The hash is a sum.* A packet's blocks are multiplied by powers of the SA's hash key, which are kept, and their
//! products are added as they are; only the sum is reduced, once for up to 640 bytes. The powers stand in memory in
//! descending order: a packet starts reading at the power of its length and always ends at the first, so that no length is
//! a special case, and tails are nothing but masks.
//!
//! With one SA a packet everything is in the first cache. With thousands, what a packet needs of its key is asked for eight
//! packets ahead.
//!
//! A [`SaKey`] holds the portable expansion always, and behind it what a kernel needs, if this CPU has one: each engine
//! works with each key.

#[cfg(test)]
mod agreement;
mod cbc;
mod cbc_hmac;
#[cfg(test)]
mod cbc_hmac_tests;
mod chacha;
mod cpu;
mod direction;
mod gcm;
mod sha;
mod transpose;

use arrayvec::ArrayVec;

use crate::engine::{Engine, OpenOp, SealOp};
use crate::key::{KeyError, KeyMaterial, SaKey};
use crate::portable::Portable;
use crate::suite::{Cipher, KeyBits};
use direction::{Direction, Open, Seal};

/// Operations that are handed to a kernel at once.
const BATCH: usize = 256;

/// The wide engine, of one of its levels.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    level: Level,
}

/// How wide.
#[derive(Clone, Copy, Debug)]
enum Level {
    Bits256(cpu::Bits256),
    Bits512(cpu::Bits512),
}

impl Wide {
    /// The widest that this CPU has; `None` if it has neither.
    pub fn detect() -> Option<Self> {
        Self::levels().pop()
    }

    /// All that this CPU has, the widest last.
    pub fn levels() -> Vec<Self> {
        let levels = [
            cpu::Bits256::detect().map(Level::Bits256),
            cpu::Bits512::detect().map(Level::Bits512),
        ];
        levels
            .into_iter()
            .flatten()
            .map(|level| Self { level })
            .collect()
    }
}

/// What a kernel needs of an SA's keys.
pub(crate) enum WideKey {
    /// No kernel takes this suite.
    None,
    /// A cipher and an HMAC.
    Hmac(Box<cbc_hmac::Key>),
    /// AES-GCM with a key of this length.
    Gcm(KeyBits, Box<gcm::GcmKey>),
    /// ChaCha20-Poly1305.
    ChaCha(Box<chacha::ChaChaKey>),
}

impl WideKey {
    /// What there is for a suite, beside its portable expansion.
    fn new(level: Level, material: &KeyMaterial<'_>, portable: &SaKey) -> Self {
        match material.suite.cipher() {
            Cipher::AesGcm16(bits) | Cipher::AesGcm12(bits) | Cipher::AesGcm8(bits) => {
                gcm::GcmKey::new(level, material).map_or(Self::None, |key| Self::Gcm(bits, key))
            }
            Cipher::ChaCha20Poly1305 => {
                chacha::ChaChaKey::new(level, material).map_or(Self::None, Self::ChaCha)
            }
            _ => cbc_hmac::Key::new(level, material, portable.portable.iv_key())
                .map_or(Self::None, |key| Self::Hmac(Box::new(key))),
        }
    }

    /// The one of AES-GCM.
    #[inline]
    fn gcm(&self) -> Option<&gcm::GcmKey> {
        match self {
            Self::Gcm(_, key) => Some(key),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Family {
    Portable,
    Hmac,
    Gcm128,
    Gcm192,
    Gcm256,
    ChaCha,
}

impl Family {
    const ALL: [Self; 6] = [
        Self::Portable,
        Self::Hmac,
        Self::Gcm128,
        Self::Gcm192,
        Self::Gcm256,
        Self::ChaCha,
    ];

    #[inline]
    const fn of(key: &SaKey) -> Self {
        match key.wide {
            WideKey::None => Self::Portable,
            WideKey::Hmac(_) => Self::Hmac,
            WideKey::Gcm(KeyBits::B128, _) => Self::Gcm128,
            WideKey::Gcm(KeyBits::B192, _) => Self::Gcm192,
            WideKey::Gcm(KeyBits::B256, _) => Self::Gcm256,
            WideKey::ChaCha(_) => Self::ChaCha,
        }
    }

    /// A set of this one.
    #[inline]
    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

impl Engine for Wide {
    fn name(&self) -> &'static str {
        match self.level {
            Level::Bits256(_) => "wide-256",
            Level::Bits512(_) => "wide-512",
        }
    }

    fn key(&self, material: &KeyMaterial<'_>) -> Result<SaKey, KeyError> {
        let portable = Portable.key(material)?;
        Ok(SaKey {
            wide: WideKey::new(self.level, material, &portable),
            ..portable
        })
    }

    fn seal_batch(&self, ops: &mut [SealOp<'_>]) {
        self.batch::<Seal>(ops);
    }

    fn open_batch(&self, ops: &mut [OpenOp<'_>]) {
        self.batch::<Open>(ops);
    }
}

impl Wide {
    /// Hands each family of a batch to its kernel.
    fn batch<D: Direction>(self, ops: &mut [D::Op<'_>]) {
        for ops in ops.chunks_mut(BATCH) {
            let Some(first) = ops.first().map(D::key) else {
                break;
            };
            let (mut present, mut same_key) = (0, true);
            for op in ops.iter() {
                same_key &= std::ptr::eq(D::key(op), first);
                present |= Family::of(D::key(op)).bit();
            }
            for family in Family::ALL {
                if present & family.bit() == 0 {
                    continue;
                }
                // Most often they are all alike.
                let alone = present == family.bit();
                let run = ops
                    .iter_mut()
                    .filter(|op| alone || Family::of(D::key(op)) == family);
                if family == Family::Portable {
                    run.for_each(D::portable);
                    continue;
                }
                let mut run: ArrayVec<&mut D::Op<'_>, BATCH> = run.collect();
                match family {
                    Family::Portable => {}
                    Family::Hmac => cbc_hmac::run::<D>(self.level, &mut run),
                    Family::Gcm128 => gcm::run::<D>(self.level, KeyBits::B128, same_key, &mut run),
                    Family::Gcm192 => gcm::run::<D>(self.level, KeyBits::B192, same_key, &mut run),
                    Family::Gcm256 => gcm::run::<D>(self.level, KeyBits::B256, same_key, &mut run),
                    Family::ChaCha => chacha::run::<D>(&mut run),
                }
            }
        }
    }
}
