//! Scripted lives of SAs, and random ones, against a dataplane and a charon that are models.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod charon_model;
mod dataplane_model;
mod lifetimes;
mod rekeys;
mod restarts;
mod script;
mod survival;
