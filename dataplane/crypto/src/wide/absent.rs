//! The wide engine where there is none: its kernels are for x86-64.

use crate::engine::{Engine, OpenOp, SealOp};
use crate::key::{KeyError, KeyMaterial, SaKey};

/// No such engine.
#[derive(Clone, Copy, Debug)]
pub enum Wide {}

impl Wide {
    /// `None`.
    pub const fn detect() -> Option<Self> {
        None
    }

    /// None.
    pub const fn levels() -> Vec<Self> {
        Vec::new()
    }
}

impl Engine for Wide {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn key(&self, _: &KeyMaterial<'_>) -> Result<SaKey, KeyError> {
        match *self {}
    }

    fn seal_batch(&self, _: &mut [SealOp<'_>]) {
        match *self {}
    }

    fn open_batch(&self, _: &mut [OpenOp<'_>]) {
        match *self {}
    }
}

/// What a kernel needs of an SA's keys.
pub(crate) enum WideKey {
    /// Nothing.
    None,
}
