//! Values and what they depend on, drawn for Graphviz.
//!
//! ```text
//!   digraph values {
//!     "route/default/10.2.0.0/24" -> "tunnel/ipsec0";                  it cannot exist without
//!     "forwarding" -> "route/default/10.2.0.0/24" [style=dashed];      it comes after
//!   }
//! ```
//!
//! Keys and states only: no value is told, and so no secret.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use culvert_model::bus::ShowGraphReply;
use culvert_model::plan::Key;
use culvert_scheduler::{GatewayScheduler, Standing};

/// More than this nobody looks at, and no message takes.
const MOST: usize = 2000;
/// Edges of a drawing: `forwarding` comes after everything.
const MOST_EDGES: usize = 20_000;

/// Draws the values whose keys begin so, at most so many, and those that they depend on.
pub fn draw(scheduler: &GatewayScheduler, prefix: &str, limit: usize) -> ShowGraphReply {
    let values: Vec<_> = scheduler.status().chain(scheduler.removed()).collect();
    let matching = values
        .iter()
        .filter(|value| value.key.as_str().starts_with(prefix))
        .count();
    let mut dot = String::from("digraph values {\n  rankdir=LR;\n  node [shape=box];\n");
    let mut drawn = BTreeSet::new();
    let mut needed = BTreeSet::new();
    let mut edges = String::new();
    let mut count = 0;
    let chosen = values
        .iter()
        .filter(|value| value.key.as_str().starts_with(prefix))
        .take(limit.min(MOST));
    for value in chosen {
        node(&mut dot, value.key, &value.standing, "");
        drawn.insert(value.key.clone());
        let dependencies = scheduler.dependencies(value.key);
        let needs = dependencies.needs.into_iter().map(|key| (key, ""));
        let after = dependencies.after.into_iter();
        for (key, style) in needs.chain(after.map(|key| (key, " [style=dashed]"))) {
            if count == MOST_EDGES {
                break;
            }
            count += 1;
            let _ = writeln!(
                edges,
                "  {} -> {}{style};",
                quoted(value.key.as_str()),
                quoted(key.as_str())
            );
            needed.insert(key);
        }
    }
    // What the others depend on, whether it was asked for or not.
    for value in &values {
        if needed.remove(value.key) && !drawn.contains(value.key) {
            node(&mut dot, value.key, &value.standing, ", style=dotted");
        }
    }
    for key in needed.difference(&drawn) {
        let _ = writeln!(
            dot,
            "  {} [label={}, color=red, style=dotted];",
            quoted(key.as_str()),
            quoted(&format!("{key}\nmissing"))
        );
    }
    dot.push_str(&edges);
    dot.push_str("}\n");
    ShowGraphReply {
        dot,
        shown: drawn.len() as u32,
        matching: matching as u32,
    }
}

fn node(dot: &mut String, key: &Key, standing: &Standing<Key>, style: &str) {
    let colour = match standing {
        Standing::Configured | Standing::Obtained => "darkgreen",
        Standing::Applying | Standing::Removing | Standing::Discovered => "blue",
        Standing::PartAway | Standing::Removed => "gray",
        Standing::Pending { .. } | Standing::Retrying { .. } => "orange",
        Standing::Failed { .. } | Standing::Invalid { .. } => "red",
    };
    let _ = writeln!(
        dot,
        "  {} [label={}, color={colour}{style}];",
        quoted(key.as_str()),
        quoted(&format!("{key}\n{}", standing.name()))
    );
}

/// A string of the language: names of a configuration hold no quotation marks, and nothing depends on that here.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use culvert_model::decode::config_from_json;
    use culvert_model::plan::{DigestKey, Part, plan};

    use super::*;

    /// Two routes by one interface; the dataplane is up and does as it is told, Linux is away.
    fn scheduler() -> GatewayScheduler {
        let config = config_from_json(
            br#"{"interfaces": [{"name": "wan", "addresses": [{"address": "192.0.2.1/24"}]}],
                "routes": [{"destination": "10.1.0.0/16", "next_hops": [{"gateway": "192.0.2.2"}]},
                           {"destination": "10.2.0.0/16", "next_hops": [{"gateway": "192.0.2.2"}]}]}"#,
        )
        .unwrap();
        let plan = plan(&config, &DigestKey::new([1; 32])).unwrap();
        let mut scheduler = GatewayScheduler::new();
        scheduler.set_plan(&plan).unwrap();
        scheduler.part_up(Part::Dataplane);
        scheduler.retrieved(Part::Dataplane, []);
        loop {
            let batches = scheduler.next_batches(Duration::ZERO);
            if batches.is_empty() {
                return scheduler;
            }
            for batch in batches {
                let results = vec![Ok(()); batch.operations.len()];
                scheduler.completed(batch.id, results, Duration::ZERO);
            }
        }
    }

    #[test]
    fn values_are_drawn_with_their_states_and_what_they_need() {
        let reply = draw(&scheduler(), "route/", usize::MAX);
        assert_eq!((reply.shown, reply.matching), (2, 2));
        let lines: Vec<&str> = reply.dot.lines().map(str::trim).collect();
        for line in [
            r#""route/default/10.1.0.0/16" [label="route/default/10.1.0.0/16\nconfigured", color=darkgreen];"#,
            r#""route/default/10.1.0.0/16" -> "interface/wan";"#,
            r#""interface/wan" [label="interface/wan\nconfigured", color=darkgreen, style=dotted];"#,
        ] {
            let found = lines.iter().filter(|one| **one == line).count();
            assert_eq!(found, 1, "{line}\n{}", reply.dot);
        }
        assert!(!reply.dot.contains("linux/"));
        let away = draw(&scheduler(), "linux/link", usize::MAX).dot;
        assert!(away.contains(r"linux/link/wan\naway"), "{away}");
    }

    #[test]
    fn no_more_is_drawn_than_was_asked_for() {
        let reply = draw(&scheduler(), "route/", 1);
        assert_eq!((reply.shown, reply.matching), (1, 2));
        assert!(!reply.dot.contains("10.2.0.0"));
    }

    #[test]
    fn no_name_leaves_its_string() {
        assert_eq!(quoted("a\"b\\"), r#""a\"b\\""#);
    }
}
