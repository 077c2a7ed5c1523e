//! The gateway itself, in lines.

use std::fmt::Write as _;

use culvert_model::state::{Standing, State, SystemState};

use super::rows::processes;
use crate::table::span;

/// Whether it runs, how far it is, what it consists of, and what is not as configured.
pub(super) fn text(state: &State) -> String {
    let Some(system) = &state.system else {
        return "nothing is known\n".to_owned();
    };
    let standing = match (system.stopping(), system.ready(), system.healthy()) {
        (true, ..) => "stopping",
        (false, false, _) => "starting",
        (false, true, false) => "running, not everything is as configured",
        (false, true, true) => "running, everything is as configured",
    };
    let mut text = format!(
        "{}: {standing}, for {}\nrevision {}, {} of {} values are as configured\n",
        system.host_name(),
        span(system.uptime()),
        system.revision(),
        system.applied(),
        system.wanted()
    );
    text.push_str(&names(system));
    text.push_str(&processes(state));
    for value in &state.values {
        let _ = write!(text, "\n{}: {}", value.key(), standing_of(value.standing()));
        if !value.fields.is_empty() {
            let _ = write!(text, " ({})", value.fields.join(", "));
        }
        if !value.reason().is_empty() {
            let _ = write!(text, ", {}", value.reason());
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Where it looks names up.
fn names(system: &SystemState) -> String {
    let mut text = if system.name_servers.is_empty() {
        String::new()
    } else {
        format!("names are looked up by {}", system.name_servers.join(", "))
    };
    if !text.is_empty() && !system.search_domains.is_empty() {
        let _ = write!(text, " in {}", system.search_domains.join(", "));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push('\n');
    text
}

fn standing_of(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => "-",
        Standing::Configured => "configured",
        Standing::Pending => "pending",
        Standing::Retrying => "retrying",
        Standing::Failed => "failed",
        Standing::Applying => "applying",
        Standing::Removing => "removing",
        Standing::Away => "away",
        Standing::Invalid => "invalid",
        Standing::Discovered => "discovered",
        Standing::Obtained => "obtained",
        Standing::Removed => "removed",
    }
}

/// Which firmware runs on what.
pub(super) fn version(state: &State) -> String {
    let Some(system) = &state.system else {
        return "nothing is known\n".to_owned();
    };
    format!(
        "Culvert {}\nLinux {}\n{} has run for {}\n",
        system.version(),
        system.kernel(),
        system.host_name(),
        span(system.uptime())
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::state::{ProcessState, ValueState};

    use super::*;

    #[test]
    fn the_system_is_told_in_lines() {
        let state = State {
            system: Some(SystemState {
                host_name: Some("branch-7".to_owned()),
                version: Some("1.2.3".to_owned()),
                kernel: Some("6.12".to_owned()),
                uptime: Some(61),
                ready: Some(true),
                healthy: Some(false),
                stopping: Some(false),
                revision: Some(9),
                wanted: Some(3),
                applied: Some(2),
                processes: vec![ProcessState {
                    name: Some("dataplane".to_owned()),
                    state: Some("ready".to_owned()),
                    pid: Some(7),
                    restarts: Some(1),
                }],
                name_servers: vec!["192.0.2.53".to_owned(), "192.0.2.54".to_owned()],
                search_domains: vec!["example.com".to_owned()],
            }),
            values: vec![
                ValueState {
                    key: Some("route/x".to_owned()),
                    standing: Some(Standing::Pending.into()),
                    reason: Some("waits for interface/y".to_owned()),
                    ..ValueState::default()
                },
                ValueState {
                    key: Some("tunnel/z".to_owned()),
                    standing: Some(Standing::Invalid.into()),
                    reason: Some("too small".to_owned()),
                    fields: vec!["mtu".to_owned()],
                    ..ValueState::default()
                },
            ],
            ..State::default()
        };
        assert_eq!(
            text(&state),
            "branch-7: running, not everything is as configured, for 1 min 1 s\n\
             revision 9, 2 of 3 values are as configured\n\
             names are looked up by 192.0.2.53, 192.0.2.54 in example.com\n\n\
             process    state  pid  restarts\ndataplane  ready    7         1\n\n\
             route/x: pending, waits for interface/y\n\
             tunnel/z: invalid (mtu), too small\n"
        );
        assert_eq!(names(&SystemState::default()), "\n");
        assert!(version(&state).starts_with("Culvert 1.2.3\nLinux 6.12\n"));
        let json = super::super::json::state(&state);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["values"][0]["standing"], "pending");
        assert_eq!(json["system"]["processes"][0]["pid"], 7);
        assert!(json.get("routes").is_none());
    }
}
