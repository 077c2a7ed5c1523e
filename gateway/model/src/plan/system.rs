//! The gateway itself: what it is called, where it looks names up, whom its clock is set by, and in which zone its times are shown.

use jiff::tz;

use super::keys::{NTP, RESOLVER};
use super::{Key, Part, PlanReason, Planner};
use crate::bus::{self, value::Kind};
use crate::config::{Config, System};

/// Below this they are not alike (Jaro-Winkler).
const ALIKE: f64 = 0.8;
/// What is said of a zone that is like none.
const ANY_ZONE: &str = "UTC, Europe/Zurich, America/New_York ...";

/// Plans what the configuration says of it.
pub(super) fn plan(config: &Config, planner: &mut Planner) {
    let Some(system) = &config.system else {
        return;
    };
    plan_host_name(system, planner);
    plan_resolver(system, planner);
    plan_ntp(system, planner);
    if let Some(zone) = &system.time_zone
        && tz::db().get(zone).is_err()
    {
        let reason = PlanReason::NoTimeZone {
            given: zone.clone(),
            near: like(zone),
        };
        planner.refuse("system.time_zone", reason);
    }
}

fn plan_host_name(system: &System, planner: &mut Planner) {
    if system.host_name().is_empty() {
        return;
    }
    let kind = Kind::HostName(bus::HostName {
        name: system.host_name().to_owned(),
    });
    let key = Key::from("linux/host_name");
    planner.add(key, kind, Part::Linux, "system.host_name");
}

fn plan_resolver(system: &System, planner: &mut Planner) {
    if system.dns_servers.is_empty() {
        if !system.search_domains.is_empty() {
            planner.refuse("system.search_domains", PlanReason::Without("dns_servers"));
        }
        return;
    }
    let servers = system.dns_servers.iter();
    let domains = system.search_domains.iter();
    let resolver = bus::Resolver {
        servers: servers.map(|server| server.address().to_owned()).collect(),
        domains: domains.map(|domain| domain.domain().to_owned()).collect(),
        obtained: false,
    };
    let entry = planner.add(
        Key::from(RESOLVER),
        Kind::Resolver(resolver),
        Part::Linux,
        "system.dns_servers",
    );
    if !system.search_domains.is_empty() {
        entry.origins.push("system.search_domains".to_owned());
    }
}

fn plan_ntp(system: &System, planner: &mut Planner) {
    if system.ntp_servers.is_empty() {
        return;
    }
    let servers = system.ntp_servers.iter().map(|server| bus::NtpSource {
        host: server.host().to_owned(),
        prefer: server.prefer(),
    });
    let kind = Kind::Ntp(bus::Ntp {
        servers: servers.collect(),
    });
    planner.add(Key::from(NTP), kind, Part::Linux, "system.ntp_servers");
}

/// The zone whose name is most like this one.
fn like(given: &str) -> String {
    tz::db()
        .available()
        .map(|name| (strsim::jaro_winkler(name.as_str(), given), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map_or_else(|| ANY_ZONE.to_owned(), |(_, name)| name.to_string())
}
