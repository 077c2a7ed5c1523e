//! The command line from outside: as a process, on a terminal or without one, before a server that records what it is asked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod conversation;
mod fake;
mod scripts;
mod terminal;
