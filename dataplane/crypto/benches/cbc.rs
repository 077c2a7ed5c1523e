//! Prints what the engines' suites of a cipher and an HMAC cost in clocks for each packet: AES-CBC and AES-CTR.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench cbc [-- TEXT]
//! ```
//!
//! The ratio is to the portable engine. `x4`: four packets in a call. With a text only what has it in its title or name:
//! `aes128-sha1`, `x4,`, `wide-512`. What the HMAC is of it prints the benchmark `hmac`.

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
    let print = |name: &str, packets, sas| {
        Scene {
            suite: name.parse().expect("a suite's name"),
            yardstick: None,
            packets,
            sas,
        }
        .print(&only, &columns);
    };
    for name in [
        "aes128-sha1",
        "aes256-sha256",
        "aes256-sha384",
        "aes256-sha512",
        "aes128ctr-sha1",
    ] {
        print(name, BATCH, 1);
    }
    for name in ["aes128-sha1", "aes256-sha256", "aes256-sha512"] {
        print(name, BATCH, 1000);
        for packets in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32] {
            print(name, packets, 1);
        }
        for packets in [2, 3, 4, 6, 8] {
            print(name, packets, 8);
        }
    }
}
