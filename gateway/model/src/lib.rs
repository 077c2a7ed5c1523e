//! The schema of a Culvert gateway: what can be configured, what can be read, and what its processes say
//! to each other. It is the one source of truth; everything else is generated from it or walks it.
//!
//! ```text
//! proto/culvert/options.proto   the notation of fields               options
//! proto/culvert/types/v1        leaf types that all share            types
//! proto/culvert/config/v1       what can be set, nothing else        config
//! proto/culvert/state/v1        what can be read                     state
//! proto/culvert/api/v1          northbound services                  api
//! proto/culvert/bus             between processes, free to change    bus
//!
//!  JSON or binary --decode--> Config --plan--> key -> value, part, dependencies
//! ```

pub mod convert;
pub mod decode;
pub mod plan;
mod redaction;
pub mod rules;
pub mod schema;
mod wipe;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "written by prost-build from proto/"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/schema.rs"));
}

/// Between processes: not served, not in reflection, free to change.
pub mod bus {
    pub use crate::generated::culvert::bus::*;
}

/// Leaf types that all packages share.
pub mod types {
    pub use crate::generated::culvert::types::v1::*;
}

/// What can be set on a gateway, and nothing else. Enters through [`decode`] only.
pub mod config {
    pub use crate::generated::culvert::config::v1::*;
}

/// What can be read of a gateway; keyed like configuration, never accepted as input.
pub mod state {
    pub use crate::generated::culvert::state::v1::*;
}

/// The northbound service.
pub mod api {
    pub use crate::generated::culvert::api::v1::*;
}

/// The notation of fields: `(culvert.field)` and `(culvert.keyword)`.
pub mod options {
    pub use crate::generated::culvert::{Effect, FieldRules, FieldType};
}
