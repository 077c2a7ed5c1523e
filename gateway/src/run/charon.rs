//! charon as one gateway sees it: its configuration, its own file system, and whether it listens.
//!
//! ```text
//!   file system of the machine        file system of this charon
//!   /run/*                            /run            empty, so that charon.pid is its own
//!   ROOT (perhaps below /run)         ROOT            the same
//!   /usr/lib/ipsec/plugins/*.so       .../plugins/    the ones it loads
//!   libstrongswan_culvert.so          .../plugins/libstrongswan-culvert.so
//!   ROOT/etc/resolv.conf              /etc/resolv.conf
//! ```
//!
//! charon is the distribution's, unmodified. Two gateways on one machine have each their own charon: its process
//! number, sockets and plugins are below their own roots or in their own file systems.

use std::collections::BTreeSet;
use std::ffi::{CString, NulError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use culvert_plugin_wire::{CharonConf, LOAD, PLUGIN_FILE, PLUGIN_FOLDER};
use culvert_tap_inject::device::TapName;
use thiserror::Error;

use super::launch::{Kept, MountPlan};
use super::resolver;
use super::root::Root;

/// The name of our plugin in the load line.
const OUR_PLUGIN: &str = "culvert";

/// Without these charon cannot do its work. The others are second sources of algorithms that openssl has too.
const NEEDED: &[&str] = &[
    "openssl",
    "random",
    "nonce",
    "x509",
    "pubkey",
    "pkcs1",
    "pkcs8",
    "pem",
    "kernel-netlink",
    "socket-default",
    "eap-identity",
    "eap-mschapv2",
    "eap-tls",
    "vici",
];

/// Worker threads of charon: one waits while the dataplane installs an SA.
const THREADS: u16 = 32;

/// What this gateway wants otherwise than charon by itself.
const SETTINGS: &[(&str, &str)] = &[
    // A reauthentication overlaps the old IKE_SA instead of leaving a gap.
    ("make_before_break", "yes"),
    // Packets on the way under the old SA still get in (RFC 7296 section 2.8); the default, which rekeying without loss
    // stands on.
    ("delete_rekeyed_delay", "5"),
    // Waits of 2, 3.2, 5.1, 8.2, 13.1 and 21 s: a lost packet costs little, and a dead peer is known after 53 s instead
    // of 165 s.
    ("retransmit_timeout", "2.0"),
    ("retransmit_base", "1.6"),
    ("retransmit_tries", "5"),
    // Two gateways that call each other at once after a power cut do not stay in step.
    ("retransmit_jitter", "10"),
    // Hundreds of tunnels: find an IKE_SA without walking a list.
    ("ikesa_table_size", "256"),
    ("ikesa_table_segments", "8"),
];

/// Why charon cannot be started.
#[derive(Debug, Error)]
pub enum CharonError {
    /// The distribution's charon or a plugin of it is not installed.
    #[error(
        "{} is missing: install strongswan-charon, libstrongswan-standard-plugins, libcharon-extra-plugins and libcharon-extauth-plugins", .0.display()
    )]
    Missing(PathBuf),
    /// Our plugin was not found.
    #[error("charon's plugin {} is missing; say where it is with --charon-plugin", .0.display())]
    NoPlugin(PathBuf),
    /// A path has a zero byte.
    #[error("a path with a zero byte")]
    Path(#[from] NulError),
    /// The configuration cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Where the pieces of charon are on this machine.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The program.
    pub program: PathBuf,
    /// Our plugin.
    pub plugin: PathBuf,
}

impl Installation {
    /// Checks that everything is there, before anything is started.
    pub fn check(&self) -> Result<(), CharonError> {
        let exists = |path: &Path| path.exists();
        if !exists(&self.program) {
            return Err(CharonError::Missing(self.program.clone()));
        }
        if !exists(&self.plugin) {
            return Err(CharonError::NoPlugin(self.plugin.clone()));
        }
        match NEEDED
            .iter()
            .map(|name| library(name))
            .find(|path| !exists(path))
        {
            Some(path) => Err(CharonError::Missing(path)),
            None => Ok(()),
        }
    }

    /// The file system of this gateway's charon.
    pub fn mounts(&self, root: &Root) -> Result<MountPlan, CharonError> {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
        let mut plan = MountPlan {
            blanks: vec![c"/run".to_owned(), CString::new(PLUGIN_FOLDER)?],
            ..MountPlan::default()
        };
        for path in theirs()
            .map(|name| library(&name))
            .filter(|path| path.exists())
        {
            let path = text(&path)?;
            plan.files.push(path.clone());
            plan.grafts.push((path.clone(), path));
        }
        let ours = text(&Path::new(PLUGIN_FOLDER).join(PLUGIN_FILE))?;
        plan.files.push(ours.clone());
        plan.grafts.push((text(&self.plugin)?, ours));
        plan.keep(root.folder(), Kept::Folder)?;
        resolver::graft(root, &mut plan)?;
        Ok(plan)
    }
}

/// Writes `etc/strongswan.conf` for a charon that uses these TAPs.
pub fn write_configuration<'a>(
    root: &Root,
    taps: impl IntoIterator<Item = &'a TapName>,
) -> Result<(), CharonError> {
    let path = root.strongswan_conf();
    fs::write(&path, configuration(root, taps)).map_err(|source| CharonError::Write {
        path: path.clone(),
        source,
    })
}

fn configuration<'a>(root: &Root, taps: impl IntoIterator<Item = &'a TapName>) -> String {
    let conf = CharonConf {
        vici_socket: root.vici(),
        interfaces: taps
            .into_iter()
            .map(|tap| tap.as_str().to_owned())
            .collect(),
        threads: THREADS,
        flood_protection: true,
        log_file: Some(root.log("charon")),
        settings: SETTINGS.to_vec(),
    };
    format!("# Written by culvert at each start: changes here are lost.\n{conf}")
}

fn theirs() -> impl Iterator<Item = String> {
    LOAD.split_whitespace()
        .map(|name| name.trim_end_matches('!'))
        .filter(|name| *name != OUR_PLUGIN)
        .map(str::to_owned)
}

fn library(name: &str) -> PathBuf {
    Path::new(PLUGIN_FOLDER).join(format!("libstrongswan-{name}.so"))
}

/// Whether process `pid` has IKE's two ports: charon runs on, and answers VICI, when it could not bind them.
pub fn listens(pid: u32) -> bool {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/udp")) else {
        return false;
    };
    let own = own_sockets(pid);
    [500, 4500]
        .into_iter()
        .all(|port| bound(&table, port).any(|inode| own.contains(&inode)))
}

/// Inodes of sockets that are bound to a local port, of the text of `/proc/net/udp`.
fn bound(table: &str, port: u16) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(move |line| {
        let mut columns = line.split_whitespace();
        let (_, local) = columns.nth(1)?.rsplit_once(':')?;
        let inode = columns.nth(7)?.parse().ok()?;
        (u16::from_str_radix(local, 16).ok()? == port).then_some(inode)
    })
}

/// Inodes of the sockets that a process has.
pub fn own_sockets(pid: u32) -> BTreeSet<u64> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_configuration_says_what_the_gateway_stands_on() {
        let place = tempfile::tempdir().unwrap();
        let odd = place.path().join("a \"b\\ # {");
        let root = Root::prepare(&odd).unwrap();
        let taps: Vec<TapName> = ["wan", "lan"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        write_configuration(&root, &taps).unwrap();
        let text = fs::read_to_string(root.strongswan_conf()).unwrap();
        for line in [
            "  install_routes = no",
            "  interfaces_use = \"wan,lan\"",
            "  delete_rekeyed_delay = \"5\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains(r#"a \"b\\ # {/run/charon.vici""#), "{text}");
    }

    #[test]
    fn what_is_needed_is_loaded_and_installed_here() {
        for name in NEEDED {
            assert!(theirs().any(|loaded| loaded == *name), "{name}");
            assert!(library(name).exists(), "{}", library(name).display());
        }
    }

    #[test]
    fn a_root_below_run_stays_visible() {
        let place = tempfile::tempdir_in("/run").unwrap();
        let root = Root::prepare(&place.path().join("deep/er")).unwrap();
        let installation = Installation {
            program: "/usr/lib/ipsec/charon".into(),
            plugin: "/tmp/libstrongswan_culvert.so".into(),
        };
        let plan = installation.mounts(&root).unwrap();
        let name = place.path().to_str().unwrap();
        let made: Vec<&str> = plan
            .folders
            .iter()
            .map(|folder| folder.to_str().unwrap())
            .collect();
        assert!(made.starts_with(&[name, &format!("{name}/deep"), &format!("{name}/deep/er")]));
        let kept = CString::new(format!("{name}/deep/er")).unwrap();
        assert!(plan.grafts.contains(&(kept.clone(), kept)));
    }

    #[test]
    fn a_bound_port_is_found_by_its_owner() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/self/net/udp").unwrap();
        let own = own_sockets(std::process::id());
        assert!(bound(&table, port).any(|inode| own.contains(&inode)));
        drop(socket);
        // A child of another test has it as well, until it becomes its program.
        let is_bound = || {
            let table = fs::read_to_string("/proc/self/net/udp").unwrap();
            bound(&table, port).count() != 0
        };
        let end = Instant::now() + Duration::from_secs(10);
        while is_bound() {
            assert!(Instant::now() < end, "{port} is still bound");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!listens(std::process::id()));
    }
}
