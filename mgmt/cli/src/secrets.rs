//! Which lines hold a secret: they are in no history, and nobody repeats them.
//!
//! The schema says which leaves are secret. A line is taken to hold one as soon as a word of it is the name of such a leaf, or might be
//! meant as one; it makes no difference whether the line is right. What is not kept in vain is typed again.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use culvert_model::{rules, schema};

/// What people call secrets, whatever the schema does.
const OTHER_NAMES: [&str; 6] = [
    "psk",
    "password",
    "passphrase",
    "passwd",
    "private-key",
    "key-data",
];

/// An option of `save`, behind which no secret stands.
const OPTION: &str = "with-secrets";

/// Whether a line may hold a secret.
pub fn may_hold_secret(line: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .filter(|word| word.len() >= 3)
        .map(|word| word.to_lowercase().replace('_', "-"))
        .filter(|word| word != OPTION)
        .any(|word| {
            // `psk` is a keyword, too: that it is dropped from history in vain costs nothing.
            names()
                .iter()
                .any(|name| name.starts_with(&word) || word.contains(name.as_str()))
        })
        // A key in PEM, wherever it stands.
        || line.contains("-----BEGIN")
}

/// Names of secret leaves, as the command line writes them.
fn names() -> &'static BTreeSet<String> {
    static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names: BTreeSet<String> = OTHER_NAMES.map(str::to_owned).into();
        for message in schema::pool().all_messages() {
            for field in message.fields() {
                if message.package_name() == "culvert.config.v1" && rules::of(&field).field.secret {
                    names.insert(field.name().replace('_', "-"));
                }
            }
        }
        names
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_schema_says_what_is_secret() {
        assert!(names().contains("secret"), "{:?}", names());
        assert!(names().contains("pem"), "{:?}", names());
    }

    #[test]
    fn lines_with_secrets_are_told_from_others() {
        for line in [
            "set credentials pre-shared-keys hq secret hunter2",
            "set credentials pre_shared_keys hq \"secret\" hunter2",
            "set secret 'a b",
            "set cred pre hq sec hunter2",
            "set SECRET x",
            "set credentials private-keys k pem \"-----BEGIN PRIVATE KEY-----\"",
            "blah -----BEGIN",
            "password: x",
        ] {
            assert!(may_hold_secret(line), "{line}");
        }
        for line in [
            "show configuration credentials",
            "save backup with-secrets",
            "set interfaces wan0 mtu 1400",
            "commit confirmed 5 comment 'new uplink'",
            "show ipsec sas",
            "set connections hq remote-address 192.0.2.1",
        ] {
            assert!(!may_hold_secret(line), "{line}");
        }
    }
}
