//! Prints what the engines' AES-GCM costs in clocks for each packet, beside ring's own seal.
//!
//! ```text
//! cargo bench -p culvert-crypto --bench gcm [-- TEXT]
//! ```
//!
//! Batches are of packets of one length, of lengths mixed as on the Internet, or of random ones; with many SAs each packet
//! is of a random one. `x4`: four packets in a call. With a text only what has it in its title or name: `x1,`, `wide-256`.

#![allow(clippy::expect_used, clippy::cast_precision_loss)]

mod race;

use culvert_crypto::{Cipher, Integrity, KeyBits, Suite};
use race::{BATCH, Scene};
use ring::aead::{AES_128_GCM, AES_256_GCM};

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
    for (bits, yardstick) in [
        (KeyBits::B128, Some(&AES_128_GCM)),
        (KeyBits::B192, None),
        (KeyBits::B256, Some(&AES_256_GCM)),
    ] {
        let suite =
            Suite::new(Cipher::AesGcm16(bits), Integrity::Aead).expect("GCM needs nothing else");
        for (packets, sas) in [(BATCH, 1), (BATCH, 10_000), (1, 1), (2, 1), (4, 1), (8, 1)] {
            Scene {
                suite,
                yardstick,
                packets,
                sas,
            }
            .print(&only, &columns);
        }
    }
}
