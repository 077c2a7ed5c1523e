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
//!  set lines, JSON, stored bytes <--tree--> Config: what people and programs change, compare and merge
//! ```
//!
//! ```
//! use culvert_model::decode::config_from_json;
//! use culvert_model::plan::{DigestKey, Key, Part, plan};
//!
//! let config = config_from_json(
//!     br#"{
//!       "interfaces": [
//!         { "name": "lan0", "addresses": [{ "address": "10.1.0.1/24" }] },
//!         { "name": "wan0", "addresses": [{ "address": "192.0.2.1/24" }] }
//!       ],
//!       "routes": [{ "destination": "0.0.0.0/0", "next_hops": [{ "gateway": "192.0.2.254" }] }]
//!     }"#,
//! )?;
//! let plan = plan(&config, &DigestKey::new([7; 32]))?;
//! let route = &plan[&Key::from("route/default/0.0.0.0/0")];
//! assert_eq!(route.part, Part::Dataplane);
//! assert!(route.needs.contains(&Key::from("address/wan0/192.0.2.1/24")));
//! assert_eq!(route.origins, ["routes[default,0.0.0.0/0]"]);
//!
//! let errors = config_from_json(br#"{ "interfaces": [{ "name": "lan0", "mut": 1400 }] }"#);
//! assert_eq!(
//!     errors.unwrap_err().to_string(),
//!     r#"interfaces[lan0].mut: no such field; is "mtu" meant?"#
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod convert;
pub mod decode;
pub mod golden;
pub mod large;
pub mod plan;
mod redaction;
pub mod rules;
pub mod schema;
pub mod tree;
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
