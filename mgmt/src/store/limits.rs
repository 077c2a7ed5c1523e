//! How much of everything there may be.

use super::error::StoreError;

/// The bounds of a store. The default is what a gateway has; tests have smaller ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many revisions are kept.
    pub revisions: u64,
    /// How many bytes their contents and sealed secrets may have together.
    pub bytes: u64,
    /// How many bytes one revision or candidate may have: the largest configuration that the decoder takes.
    pub content: u64,
    /// How many revisions may be pinned; together they may have half of `bytes`.
    pub pinned: u64,
    /// How many sessions may have a candidate.
    pub candidates: u64,
    /// How many bytes all candidates may have together.
    pub candidate_bytes: u64,
    /// How many audit entries are kept.
    pub audit: u64,
    /// How many revisions are exported beside the database.
    pub exports: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            revisions: 1000,
            bytes: 256 << 20,
            content: 16 << 20,
            pinned: 64,
            candidates: 32,
            candidate_bytes: 64 << 20,
            audit: 50_000,
            exports: 10,
        }
    }
}

impl Limits {
    /// Bytes of the name of a principal or a session.
    pub(super) const NAME: usize = 256;
    /// Bytes of a comment.
    pub(super) const COMMENT: usize = 4096;
}

/// Refuses a text that is too long.
pub(super) fn check_text(field: &'static str, text: &str, limit: usize) -> Result<(), StoreError> {
    let bytes = text.len();
    if bytes > limit {
        return Err(StoreError::TextTooLong {
            field,
            bytes,
            limit,
        });
    }
    Ok(())
}
