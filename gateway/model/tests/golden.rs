//! Today's schema reads what every released one wrote.
//!
//! On a release: `cargo run -p culvert-model --example schema > gateway/model/schemas/VERSION.txt`, and a line
//! below. A file that is there is never written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use culvert_model::{golden, schema};
use sha2::{Digest as _, Sha256};

/// Each released schema: version, text, SHA-256 of the text.
const RELEASED: &[(&str, &str, &str)] = &[(
    "0.1",
    include_str!("../schemas/0.1.txt"),
    "10dfa8141bbd1962fc7ec3c0cc907475683f872a2b361a72b887d54df5293ffa",
)];

#[test]
fn todays_schema_reads_every_released_one() {
    let today = golden::render(schema::pool());
    for (version, text, _) in RELEASED {
        let breaches = golden::breaches(text, &today);
        assert!(
            breaches.is_empty(),
            "since {version}:\n{}",
            breaches.join("\n")
        );
    }
}

#[test]
fn released_schemas_are_as_they_were() {
    let mut files: Vec<String> = std::fs::read_dir("schemas")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let listed: Vec<String> = RELEASED
        .iter()
        .map(|(version, ..)| format!("{version}.txt"))
        .collect();
    assert_eq!(files, listed);
    for (version, text, hash) in RELEASED {
        let digest: Vec<String> = Sha256::digest(text.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest.concat(), *hash, "schemas/{version}.txt was changed");
    }
}
