//! The wide engine: many packets at once in registers of 512 or 256 bits.
//!
//! ```text
//!   batch   | gcm128 | cbc | gcm128 | chacha | gcm128 |          as the dataplane has it
//!              |        |      |        |        |
//!              '--------|------+--------|--------'-> gcm kernel     one call for each family
//!                       '---------------|----------> cbc kernel
//!                                       '----------> portable       what has no kernel
//! ```
//!
//! A *family* is what one kernel takes together: packets of different SAs, lengths and ICVs, but of the same steps. The
//! kernels say how they fill their registers.
//!
//! A [`SaKey`] holds the portable expansion always, and behind it what a kernel needs, if this CPU has one: each engine
//! works with each key.

#[cfg(target_arch = "x86_64")]
mod cbc;
#[cfg(target_arch = "x86_64")]
mod cbc_hmac;
#[cfg(all(test, target_arch = "x86_64"))]
mod cbc_hmac_tests;
#[cfg(target_arch = "x86_64")]
mod cpu;
#[cfg(target_arch = "x86_64")]
mod sha;

use arrayvec::ArrayVec;

use crate::engine::{Engine, OpenOp, SealOp};
use crate::key::{KeyError, KeyMaterial, SaKey};
use crate::portable::Portable;

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
    #[cfg(target_arch = "x86_64")]
    Bits256(cpu::Bits256),
    #[cfg(target_arch = "x86_64")]
    Bits512(cpu::Bits512),
}

impl Wide {
    /// The widest that this CPU has; `None` if it has neither.
    pub fn detect() -> Option<Self> {
        Self::levels().pop()
    }

    /// All that this CPU has, the widest last.
    pub fn levels() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let levels = [
            cpu::Bits256::detect().map(Level::Bits256),
            cpu::Bits512::detect().map(Level::Bits512),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let levels = [const { None::<Level> }; 0];
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
    #[cfg(target_arch = "x86_64")]
    Hmac(Box<cbc_hmac::Key>),
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Family {
    Portable,
    Hmac,
}

impl Family {
    const ALL: [Self; 2] = [Self::Portable, Self::Hmac];

    #[inline]
    const fn of(key: &SaKey) -> Self {
        match key.wide {
            WideKey::None => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            WideKey::Hmac(_) => Self::Hmac,
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
            #[cfg(target_arch = "x86_64")]
            Level::Bits256(_) => "wide-256",
            #[cfg(target_arch = "x86_64")]
            Level::Bits512(_) => "wide-512",
        }
    }

    fn key(&self, material: &KeyMaterial<'_>) -> Result<SaKey, KeyError> {
        let portable = Portable.key(material)?;
        Ok(SaKey {
            wide: cbc_hmac::Key::new(self.level, material, portable.portable.iv_key())
                .map_or(WideKey::None, |key| WideKey::Hmac(Box::new(key))),
            ..portable
        })
    }

    fn seal_batch(&self, ops: &mut [SealOp<'_>]) {
        for ops in ops.chunks_mut(BATCH) {
            let present = ops.iter().fold(0, |all, op| all | Family::of(op.key).bit());
            for family in Family::ALL {
                if present & family.bit() == 0 {
                    continue;
                }
                if family == Family::Portable && present == family.bit() {
                    Portable.seal_batch(ops);
                    continue;
                }
                let mut run: ArrayVec<&mut SealOp<'_>, BATCH> = ops
                    .iter_mut()
                    .filter(|op| Family::of(op.key) == family)
                    .collect();
                match family {
                    Family::Portable => {
                        for op in &mut run {
                            op.result = op.key.portable.seal(op);
                        }
                    }
                    Family::Hmac => cbc_hmac::seal(self.level, &mut run),
                }
            }
        }
    }

    fn open_batch(&self, ops: &mut [OpenOp<'_>]) {
        for ops in ops.chunks_mut(BATCH) {
            let present = ops.iter().fold(0, |all, op| all | Family::of(op.key).bit());
            for family in Family::ALL {
                if present & family.bit() == 0 {
                    continue;
                }
                if family == Family::Portable && present == family.bit() {
                    Portable.open_batch(ops);
                    continue;
                }
                let mut run: ArrayVec<&mut OpenOp<'_>, BATCH> = ops
                    .iter_mut()
                    .filter(|op| Family::of(op.key) == family)
                    .collect();
                match family {
                    Family::Portable => {
                        for op in &mut run {
                            op.result = op.key.portable.open(op);
                        }
                    }
                    Family::Hmac => cbc_hmac::open(self.level, &mut run),
                }
            }
        }
    }
}
