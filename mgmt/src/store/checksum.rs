//! SHA-256 over the fields of a row, each with its length before it, so that no two different rows read the same.
//!
//! `SQLite` finds pages that do not fit together, not values that changed within a page. So every row carries a sum
//! over its fields, and rows that follow each other (revisions, audit entries) hold the sum of the one before.

use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Sum = [u8; 32];

/// What the first link of a chain has before it.
pub(super) const NO_SUM: Sum = [0; 32];

/// Collects the fields of one row.
pub(super) struct Fields(Sha256);

impl Fields {
    /// Starts with the kind of row, so that a row of one table is never taken for one of another.
    pub(super) fn of(kind: &str) -> Self {
        Self(Sha256::new()).bytes(kind.as_bytes())
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.update((value.len() as u64).to_be_bytes());
        self.0.update(value);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(super) fn number(mut self, value: u64) -> Self {
        self.0.update(value.to_be_bytes());
        self
    }

    pub(super) fn flag(self, value: bool) -> Self {
        self.number(u64::from(value))
    }

    pub(super) fn sum(self) -> Sum {
        self.0.finalize().into()
    }
}

/// The SHA-256 of one run of bytes.
pub(super) fn sha256(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}
