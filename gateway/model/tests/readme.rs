//! The configuration that the README shows is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use culvert_model::decode::config_from_json;
use culvert_model::plan::{DigestKey, plan};

#[test]
fn the_readme_shows_a_configuration_that_is_accepted() {
    let readme = include_str!("../../../README.md");
    let configurations: Vec<_> = readme
        .split("```json\n")
        .skip(1)
        .map(|rest| {
            let (text, _) = rest.split_once("```").unwrap();
            config_from_json(text.as_bytes()).unwrap()
        })
        .collect();
    // Two are whole: that of a new box, and one with a tunnel. What follows adds to it.
    let digests = DigestKey::new([7; 32]);
    plan(&configurations[0], &digests).unwrap();
    let plan = plan(&configurations[1], &digests).unwrap();
    for key in [
        "route/default/10.2.0.0/24",
        "connection/hq",
        "credential/hq",
        "forwarding",
    ] {
        assert!(
            plan.iter().any(|(own, _)| own.to_string() == key),
            "{key} is not planned"
        );
    }
}
