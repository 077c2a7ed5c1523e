//! Prints what the engines' ChaCha20-Poly1305 costs in clocks for each packet, beside ring's own seal.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench chacha20 [-- TEXT]
//! ```
//!
//! As the benchmark `gcm`; `x3`: three packets in a call.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

mod race;

use culvert_crypto::Suite;
use race::{BATCH, Scene};
use ring::aead::CHACHA20_POLY1305;

fn main() {
    let only = race::only();
    let columns = [
        ("64 B", race::all(64)),
        ("512 B", race::all(512)),
        ("1400 B", race::all(1400)),
        ("mixed", race::mixed()),
        ("0-1400 B", race::any()),
    ];
    race::head(&columns);
    for (packets, sas) in [(BATCH, 1), (BATCH, 10_000)]
        .into_iter()
        .chain([1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32].map(|packets| (packets, 1)))
    {
        Scene {
            suite: Suite::CHACHA20POLY1305,
            yardstick: Some(&CHACHA20_POLY1305),
            packets,
            sas,
        }
        .print(&only, &columns);
    }
}
