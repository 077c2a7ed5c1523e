//! What the gateway is called, for all its processes and for nobody else on the machine.
//!
//! ```text
//!   system.host_name --plan--> linux/host_name --> UTS namespace of `culvert run` and all that it starts: sshd, chronyd ...
//!                                                  any other process: what the machine is called, as before
//! ```
//!
//! So that any number of gateways on one machine have each their own name.

use std::io;

use culvert_model::bus;
use nix::sched::{CloneFlags, unshare};
use rustix::system::{sethostname, uname};
use thiserror::Error;

/// `__NEW_UTS_LEN` of linux/utsname.h.
const LONGEST: usize = 64;

/// The name cannot be set.
#[derive(Debug, Error)]
pub enum HostNameError {
    /// No namespace for it.
    #[error("no host name of its own: {0}")]
    Namespace(#[source] io::Error),
    /// Refused.
    #[error("the host name is not set: {0}")]
    Set(#[source] io::Error),
}

/// The name in the namespace of the calling thread, and of those that it starts from now on.
#[derive(Clone, Debug)]
pub struct HostName {
    /// What the machine is called.
    machine: String,
}

impl HostName {
    /// Leaves the machine's namespace: before any other thread, and any process, is started.
    pub fn of_its_own() -> Result<Self, HostNameError> {
        unshare(CloneFlags::CLONE_NEWUTS)
            .map_err(|errno| HostNameError::Namespace(errno.into()))?;
        Ok(Self { machine: now() })
    }

    /// As configured, or with nothing configured as the machine was called at the start.
    pub fn write(&self, wanted: Option<&bus::HostName>) -> Result<(), HostNameError> {
        let name = wanted.map_or(self.machine.as_str(), |wanted| fitting(&wanted.name));
        sethostname(name.as_bytes()).map_err(|errno| HostNameError::Set(errno.into()))
    }

    /// Whether it is as configured.
    #[allow(clippy::unused_self)]
    pub fn says(&self, wanted: &bus::HostName) -> bool {
        now() == fitting(&wanted.name)
    }
}

fn now() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// Of a name that is longer than Linux has room for, the first label (RFC 1035: at most 63 bytes).
fn fitting(name: &str) -> &str {
    if name.len() <= LONGEST {
        return name;
    }
    name.split('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn named(name: &str) -> bus::HostName {
        bus::HostName {
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_name_is_seen_by_what_is_started_and_by_nobody_else() {
        let before = now();
        std::thread::spawn(|| {
            let host_name = HostName::of_its_own().unwrap();
            host_name.write(Some(&named("branch-7"))).unwrap();
            assert!(host_name.says(&named("branch-7")) && !host_name.says(&named("branch-8")));
            let output = std::process::Command::new("uname").arg("-n").output();
            assert_eq!(output.unwrap().stdout, b"branch-7\n");
            host_name.write(None).unwrap();
            assert!(host_name.says(&named(&host_name.machine)));
        })
        .join()
        .unwrap();
        assert_eq!(now(), before);
    }

    #[test]
    fn of_a_name_without_room_the_first_label_is_taken() {
        let label = "a".repeat(63);
        for (name, fits) in [
            ("branch-7", "branch-7"),
            (&format!("{label}.b"), &label),
            (&format!("{label}."), &format!("{label}.")),
        ] {
            assert_eq!(fitting(name), fits);
        }
    }
}
