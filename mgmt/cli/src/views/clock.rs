//! The clock, in lines: whether it follows a server, and how the servers are.

use culvert_model::state::{ClockState, NtpServerState, State};

use crate::table::{span, table};

/// Servers as `chronyc sources` has them.
pub(super) fn text(state: &State) -> String {
    let Some(clock) = &state.clock else {
        return "nothing is known\n".to_owned();
    };
    if clock.ntp_servers.is_empty() {
        return "there are no NTP servers: the clock is not set\n".to_owned();
    }
    let headings = [
        "server", "state", "stratum", "reach", "heard", "offset", "error",
    ];
    let rows: Vec<_> = clock.ntp_servers.iter().map(row).collect();
    format!("{}\n\n{}", standing(clock), table(headings, &rows))
}

fn standing(clock: &ClockState) -> String {
    if !clock.synchronised() {
        return "the clock follows no server".to_owned();
    }
    let side = if clock.ahead() { "ahead" } else { "behind" };
    format!(
        "the clock follows {}, at stratum {}, {} {side}",
        clock.source(),
        clock.stratum(),
        short(clock.offset())
    )
}

fn row(server: &NtpServerState) -> [String; 7] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let sign = if server.ahead() { '+' } else { '-' };
    [
        server.host().to_owned(),
        server.state().to_owned(),
        known(server.stratum.map(|stratum| stratum.to_string())),
        // In octal, as everywhere.
        format!("{:o}", server.reach()),
        known(server.last_heard.map(span)),
        known(
            server
                .offset
                .map(|offset| format!("{sign}{}", short(offset))),
        ),
        known(server.error.map(short)),
    ]
}

/// Nanoseconds, with three digits behind the point.
fn short(nanoseconds: u64) -> String {
    let (unit, name) = match nanoseconds {
        0..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let rest = nanoseconds % unit * 1000 / unit;
    format!("{}.{rest:03} {name}", nanoseconds / unit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_clock_is_told_in_lines() {
        let mut state = State {
            clock: Some(ClockState {
                synchronised: Some(true),
                source: Some("ntp.example.com".to_owned()),
                stratum: Some(3),
                offset: Some(978),
                ahead: Some(true),
                ntp_servers: vec![
                    NtpServerState {
                        host: Some("ntp.example.com".to_owned()),
                        state: Some("selected".to_owned()),
                        stratum: Some(2),
                        reach: Some(0o377),
                        last_heard: Some(61),
                        offset: Some(1_500_000),
                        ahead: Some(false),
                        error: Some(2_000_000_001),
                    },
                    NtpServerState {
                        host: Some("192.0.2.9".to_owned()),
                        state: Some("unusable".to_owned()),
                        reach: Some(0),
                        ..NtpServerState::default()
                    },
                ],
            }),
            ..State::default()
        };
        assert_eq!(
            text(&state),
            "the clock follows ntp.example.com, at stratum 3, 0.978 us ahead\n\n\
             server           state     stratum  reach  heard      offset     error\n\
             ntp.example.com  selected  2        377    1 min 1 s  -1.500 ms  2.000 s\n\
             192.0.2.9        unusable  -        0      -          -          -\n"
        );
        let json = super::super::json::state(&state);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["clock"]["ntp_servers"][0]["reach"], 255);
        state.clock.as_mut().unwrap().synchronised = Some(false);
        assert!(text(&state).starts_with("the clock follows no server\n\nserver "));
        state.clock = Some(ClockState::default());
        assert!(text(&state).contains("not set"));
        assert!(text(&State::default()).contains("nothing"));
    }
}
