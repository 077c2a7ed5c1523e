//! Today's schema reads what every released one wrote, and answers what every released one asks.
//!
//! On a release: `cargo run -p culvert-model --example schema > gateway/model/schemas/VERSION.txt`, the same with `api`
//! for `schemas/api/VERSION.txt`, and a line for each below. A file that is there is never written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use culvert_model::golden::{self, Part};
use culvert_model::schema;
use sha2::{Digest as _, Sha256};

/// Each released schema: part, version, text, SHA-256 of the text.
const RELEASED: &[(Part, &str, &str, &str)] = &[
    (
        Part::Configuration,
        "0.1",
        include_str!("../schemas/0.1.txt"),
        "ceda5280e4ee69ff0009f5353311d52eb8d43fe587f75160f803050d7fc9cc9f",
    ),
    (
        Part::Api,
        "0.1",
        include_str!("../schemas/api/0.1.txt"),
        "2b93334657f085ae5cd0693ad7dbffe87f6e05d285cfca8dd15ba648f60b8ee0",
    ),
];

#[test]
fn todays_schema_reads_every_released_one() {
    for (part, version, text, _) in RELEASED {
        let today = golden::render(schema::pool(), *part);
        let breaches = golden::breaches(text, &today);
        assert!(
            breaches.is_empty(),
            "since {part:?} {version}:\n{}",
            breaches.join("\n")
        );
    }
}

#[test]
fn released_schemas_are_as_they_were() {
    for (part, folder) in [(Part::Configuration, "schemas"), (Part::Api, "schemas/api")] {
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> = RELEASED
            .iter()
            .filter(|(of, ..)| *of == part)
            .map(|(_, version, ..)| format!("{version}.txt"))
            .collect();
        assert_eq!(files, listed, "{folder}");
    }
    for (part, version, text, hash) in RELEASED {
        let digest: Vec<String> = Sha256::digest(text.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest.concat(), *hash, "{part:?} {version} was changed");
    }
}
