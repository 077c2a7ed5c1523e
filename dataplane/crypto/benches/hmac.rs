//! Prints what the engines' HMACs cost in clocks for each packet: suites that encrypt nothing.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench hmac [-- TEXT]
//! ```
//!
//! As the benchmark `cbc`: the difference to a suite there is what the cipher costs.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

mod race;

use race::{BATCH, Scene};

fn main() {
    let only = race::only();
    let columns = [
        ("64 B", race::all(64)),
        ("512 B", race::all(512)),
        ("1400 B", race::all(1400)),
    ];
    race::head(&columns);
    for name in ["null-sha1", "null-sha256", "null-sha384", "null-sha512"] {
        for (packets, sas) in [
            (BATCH, 1),
            (BATCH, 1000),
            (1, 1),
            (2, 1),
            (4, 1),
            (8, 1),
            (16, 1),
            (32, 1),
        ] {
            Scene {
                suite: name.parse().expect("a suite's name"),
                yardstick: None,
                packets,
                sas,
            }
            .print(&only, &columns);
        }
    }
}
