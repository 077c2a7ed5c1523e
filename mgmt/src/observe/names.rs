//! Where the gateway looks names up: what `culvert run` has written for all its processes, of the configuration, of others or
//! of the machine.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use culvert_model::state::SystemState;

/// Below the root; resolv.conf(5).
pub const FILE: &str = "etc/resolv.conf";
/// Nobody's is longer.
const LONGEST: u64 = 64 << 10;
/// The C library takes no more (`MAXNS` and `MAXDNSRCH` of resolv.h, of which newer ones drop the second).
const MOST_SERVERS: usize = 3;
const MOST_DOMAINS: usize = 6;

/// Adds what the file says.
pub fn tell(path: &Path, system: &mut SystemState) {
    let mut bytes = Vec::new();
    // Nothing said is nothing known.
    let _ = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    system.name_servers = servers(&text);
    system.search_domains = domains(&text);
}

/// The one to be asked first before the others.
fn servers(text: &str) -> Vec<String> {
    settings(text, "nameserver")
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|server| {
            // Of a link: fe80::1%eth0.
            let address = server.split('%').next().unwrap_or_default();
            address.parse::<IpAddr>().is_ok()
        })
        .take(MOST_SERVERS)
        .map(str::to_owned)
        .collect()
}

/// The last line counts.
fn domains(text: &str) -> Vec<String> {
    let last = settings(text, "search").last().unwrap_or_default();
    let domains = last.split_whitespace().take(MOST_DOMAINS);
    domains.map(str::to_owned).collect()
}

fn settings<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(keyword)?;
        rest.starts_with([' ', '\t']).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_c_library_takes_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut system = SystemState::default();
        tell(&path, &mut system);
        assert!(system.name_servers.is_empty());
        std::fs::write(
            &path,
            "# nameserver 192.0.2.9\nnameserver 192.0.2.53\nnameserver\t2001:db8::53 # second\nsearch old.example\n\
             search branch.example.com example.com\nnameserver nobody\nnameservers 192.0.2.8\noptions rotate\n\
             nameserver fe80::1%wan\nnameserver 192.0.2.4\n\u{fffd}",
        )
        .unwrap();
        tell(&path, &mut system);
        assert_eq!(
            system.name_servers,
            ["192.0.2.53", "2001:db8::53", "fe80::1%wan"]
        );
        assert_eq!(system.search_domains, ["branch.example.com", "example.com"]);
    }
}
