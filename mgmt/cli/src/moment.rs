//! Moments as people read them: in the time zone of the gateway, with what that is off UTC, so that nobody has to guess.
//!
//! ```text
//!   2026-07-01T14:03:09+02:00      Europe/Zurich
//!   2026-07-01T12:03:09Z           UTC, or nothing configured
//! ```

use jiff::Timestamp;
use jiff::tz::{self, TimeZone};

/// How times are shown.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// As the tz database calls it; a name that this program does not know is UTC, which the moments say.
    pub fn named(name: &str) -> Self {
        Self(tz::db().get(name).unwrap_or(TimeZone::UTC))
    }

    /// The zone of a configuration, given as the lines that set it.
    pub fn of_configuration(lines: &str) -> Self {
        lines
            .lines()
            .find_map(|line| line.strip_prefix("set system time_zone "))
            .map_or_else(Self::utc, |name| Self::named(name.trim().trim_matches('"')))
    }

    /// A moment as RFC 3339 writes it.
    pub fn moment(&self, unix_ms: u64) -> String {
        // Later than the calendar goes is its last day.
        let moment = i64::try_from(unix_ms)
            .ok()
            .and_then(|unix_ms| Timestamp::from_millisecond(unix_ms).ok())
            .unwrap_or(Timestamp::MAX);
        let format = if self.0 == TimeZone::UTC {
            "%Y-%m-%dT%H:%M:%SZ"
        } else {
            "%Y-%m-%dT%H:%M:%S%:z"
        };
        moment.to_zoned(self.0.clone()).strftime(format).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let utc = Zone::utc();
        assert_eq!(utc.moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc.moment(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(utc.moment(1_709_251_199_999), "2024-02-29T23:59:59Z");
        assert_eq!(utc.moment(1_735_689_600_000), "2025-01-01T00:00:00Z");
        assert_eq!(utc.moment(4_107_542_400_000), "2100-03-01T00:00:00Z");
        assert!(utc.moment(u64::MAX).starts_with("9999-12-3"));
    }

    #[test]
    fn a_zone_has_its_summer() {
        let zurich = Zone::of_configuration("set system time_zone Europe/Zurich\n");
        assert_eq!(
            zurich.moment(1_735_689_600_000),
            "2025-01-01T01:00:00+01:00"
        );
        assert_eq!(
            zurich.moment(1_751_328_000_000),
            "2025-07-01T02:00:00+02:00"
        );
        let quoted = Zone::of_configuration("set system time_zone \"Asia/Kolkata\"\n");
        assert_eq!(quoted.moment(0), "1970-01-01T05:30:00+05:30");
        for none in [
            "",
            "set interfaces wan0 mtu 1400",
            "set system time_zone Mars/Olympus",
        ] {
            assert_eq!(
                Zone::of_configuration(none).moment(0),
                "1970-01-01T00:00:00Z"
            );
        }
        assert_eq!(Zone::named("UTC").moment(0), "1970-01-01T00:00:00Z");
    }
}
