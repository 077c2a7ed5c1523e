//! The nodes of the graph, one a file.

pub mod esp_decrypt;
pub mod esp_encrypt;
pub mod mss_clamp;
pub mod tunnel_output;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod esp_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod fixture;
