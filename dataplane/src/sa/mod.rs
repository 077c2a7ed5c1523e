//! Security associations and policies as workers see them.

/// SAs and policies.
#[derive(Clone, Default)]
pub struct SaTables;
