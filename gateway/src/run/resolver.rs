//! Where the gateway itself looks names up: `etc/resolv.conf` below its root, which its processes see as `/etc/resolv.conf`.
//!
//! ```text
//!   system.dns_servers --plan--> linux/resolver --+                                 +--> charon   peers
//!   leases of DHCP clients ----------(without)----+
//!   /etc/resolv.conf of the machine --(without)---+--> ROOT/etc/resolv.conf --graft-+--> mgmt     ping, syslog
//!                                                                                   +--> sshd
//! ```
//!
//! The machine's own resolver daemons (systemd-resolved, nscd), which the C library may ask before it looks into that file,
//! are out of sight of them.
//!
//! The file is rewritten in place: a mount shows the file that was mounted, not one that took its name. The C library reads it
//! again when it has changed.

use std::ffi::{CStr, NulError};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use culvert_model::bus;
use thiserror::Error;

use super::launch::{Kept, MountPlan};
use super::root::Root;

/// Where the C library looks.
const OF_THE_MACHINE: &str = "/etc/resolv.conf";
/// Where the machine's resolver daemons have their sockets.
const DAEMONS: [&CStr; 2] = [c"/run/systemd/resolve", c"/run/nscd"];

/// Why names are not looked up where they shall be.
#[derive(Debug, Error)]
pub enum ResolverError {
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No process would see it.
    #[error(
        "the machine had no {0} when the gateway started, or a link that leads nowhere: make it, even empty, and start the \
         gateway again"
    )]
    Placeless(&'static str),
}

/// The file of one gateway.
#[derive(Clone, Debug)]
pub struct ResolverFile {
    path: PathBuf,
    /// There is a file that it is mounted upon: looked for once, since processes that run see none that is made later.
    has_place: bool,
}

impl ResolverFile {
    /// At this path; nothing is written yet.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            has_place: place().is_some(),
        }
    }

    /// Makes it say what is configured, or with nothing configured what the machine's own says now.
    pub fn write(&self, wanted: Option<&bus::Resolver>) -> Result<(), ResolverError> {
        let text = match wanted {
            Some(_) if !self.has_place => return Err(ResolverError::Placeless(OF_THE_MACHINE)),
            Some(resolver) => text(resolver),
            None => fs::read_to_string(OF_THE_MACHINE).unwrap_or_default(),
        };
        self.rewrite(&text).map_err(|source| ResolverError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// Whether it says what is configured.
    pub fn says(&self, wanted: &bus::Resolver) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == text(wanted))
    }

    fn rewrite(&self, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&self.path)?;
        // In this order there is no moment at which it is empty.
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }
}

/// A process with this file system looks names up as the gateway does; where `/run` is not covered, [`hide_daemons`] too.
pub fn graft(root: &Root, plan: &mut MountPlan) -> Result<(), NulError> {
    // Without a place no servers but those of the machine are taken.
    place().map_or(Ok(()), |place| {
        plan.show(&root.resolver(), &place, Kept::File)
    })
}

/// The machine's own, if there is one, is often a link to below /run.
fn place() -> Option<PathBuf> {
    fs::canonicalize(OF_THE_MACHINE).ok()
}

/// Covers those of the machine's resolver daemons that there are.
pub fn hide_daemons(plan: &mut MountPlan) {
    let there = DAEMONS
        .into_iter()
        .filter(|folder| folder.to_str().is_ok_and(|path| Path::new(path).is_dir()));
    plan.blanks.extend(there.map(CStr::to_owned));
}

fn text(resolver: &bus::Resolver) -> String {
    let source = if resolver.obtained {
        "DHCP"
    } else {
        "system.dns_servers"
    };
    let mut text = format!("# Written by culvert from {source}.\n");
    if !resolver.domains.is_empty() {
        let _ = writeln!(text, "search {}", resolver.domains.join(" "));
    }
    for server in &resolver.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_nobody_would_see_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = ResolverFile {
            path: folder.path().join("resolv.conf"),
            has_place: false,
        };
        file.write(None).unwrap();
        let before = fs::read_to_string(&file.path).unwrap();
        let resolver = bus::Resolver {
            servers: vec!["192.0.2.53".into()],
            ..bus::Resolver::default()
        };
        let error = file.write(Some(&resolver)).unwrap_err().to_string();
        assert!(error.contains("/etc/resolv.conf"), "{error}");
        assert_eq!(fs::read_to_string(&file.path).unwrap(), before);
    }

    #[test]
    fn it_is_rewritten_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let file = ResolverFile {
            path: path.clone(),
            has_place: true,
        };
        file.write(None).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            fs::read_to_string(OF_THE_MACHINE).unwrap_or_default()
        );
        let mut resolver = bus::Resolver {
            servers: vec!["192.0.2.53".into(), "2001:db8::53".into()],
            domains: vec!["branch.example.com".into(), "example.com".into()],
            obtained: false,
        };
        assert!(!file.says(&resolver));
        file.write(Some(&resolver)).unwrap();
        assert!(file.says(&resolver));
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# Written by culvert from system.dns_servers.\nsearch branch.example.com example.com\nnameserver 192.0.2.53\n\
             nameserver 2001:db8::53\n"
        );
        resolver.servers.pop();
        resolver.domains.clear();
        assert!(!file.says(&resolver));
        // Shorter: nothing of the longer text is left.
        file.write(Some(&resolver)).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .ends_with("nameserver 192.0.2.53\n")
        );
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }
}
