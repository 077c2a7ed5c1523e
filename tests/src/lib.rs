//! Whole-box tests against software nobody here wrote, and what they share.
//!
//! ```text
//!   tests/esp_against_scapy   ESP packets both ways        our nodes in memory <-> scapy
//! ```
//!
//! Nothing is skipped: what a machine lacks is installed by `make setup`, or the test fails and says so.

pub mod esp_nodes;
pub mod scapy;
