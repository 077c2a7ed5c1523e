//! Switches of the box's own network namespace: set while the gateway runs, put back at its end.
//!
//! Linux behind the TAPs is only the box's own sockets. It forwards nothing (the dataplane does), and takes a packet
//! from whichever TAP the dataplane hands it to: the effective reverse path filter is the stricter of `all` and the
//! device's own, so that the one of `all` must be off. sshd listens on the addresses it is told, whether they are there
//! yet (duplicate detection takes a second) or come later: it would not look again. mgmt, which has no privilege, may send
//! echo requests: its group is that of this process.

use std::fs;
use std::io;

use thiserror::Error;

const SWITCHES: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv4/ip_forward", "0"),
    ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
    ("/proc/sys/net/ipv6/conf/all/forwarding", "0"),
    ("/proc/sys/net/ipv4/ip_nonlocal_bind", "1"),
    ("/proc/sys/net/ipv6/ip_nonlocal_bind", "1"),
    // From group, to group.
    ("/proc/sys/net/ipv4/ping_group_range", "0\t0"),
];

/// A switch cannot be set.
#[derive(Debug, Error)]
#[error("cannot write {value} to {path}")]
pub struct SwitchError {
    path: &'static str,
    value: &'static str,
    source: io::Error,
}

/// What the switches were before.
#[derive(Debug)]
pub struct Switches {
    before: Vec<(&'static str, String)>,
}

impl Switches {
    /// Sets them in the network namespace of the calling thread.
    pub fn set() -> Result<Self, SwitchError> {
        let mut switches = Self { before: Vec::new() };
        for &(path, value) in SWITCHES {
            // A kernel without IPv6 has nothing to switch off.
            let Ok(before) = fs::read_to_string(path) else {
                continue;
            };
            if before.trim() != value {
                fs::write(path, value).map_err(|source| SwitchError {
                    path,
                    value,
                    source,
                })?;
                switches.before.push((path, before));
            }
        }
        Ok(switches)
    }
}

impl Drop for Switches {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            if let Err(error) = fs::write(path, value) {
                tracing::warn!(path, %error, "cannot put back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::run::namespace::Namespace;

    #[test]
    fn switches_go_back_to_what_they_were() {
        let path = "/proc/sys/net/ipv4/ip_forward";
        Namespace::quiet()
            .unwrap()
            .run(async || {
                fs::write(path, "1").unwrap();
                let switches = Switches::set().unwrap();
                assert_eq!(fs::read_to_string(path).unwrap(), "0\n");
                drop(switches);
                assert_eq!(fs::read_to_string(path).unwrap(), "1\n");
            })
            .unwrap();
    }
}
