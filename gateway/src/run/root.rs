//! Where a gateway keeps its things: every path below `--root DIR`, and the lock that makes the folder one gateway's.
//!
//! ```text
//!   ROOT/etc/strongswan.conf       written at each start
//!   ROOT/etc/passwd                the machine's, with the account that people log in as; for sshd
//!   ROOT/etc/ssh                   mgmt's: what sshd reads; and the host key, made once
//!   ROOT/run/lock                  held while the gateway runs
//!   ROOT/run/status.json           parts, process ids, readiness
//!   ROOT/run/pids/NAME             process ids
//!   ROOT/run/culvert               this program, once its file was replaced
//!   ROOT/run/bus/NAME              sockets between our processes
//!   ROOT/run/api                   mgmt's, for every face of the gateway
//!   ROOT/run/charon.vici           charon's control socket
//!   ROOT/run/charon-plugin.sock    charon's plugin to iked-bridge
//!   ROOT/var/log/NAME.log          what each process says
//!   ROOT/var/dhcp                  leases that interfaces have been lent
//!   ROOT/var/mgmt                  mgmt's: revisions of the configuration
//! ```
//!
//! Who logs in over SSH is not root: it passes through ROOT, `run` and `var` without seeing what is in them, to the names
//! that it knows and that are open to it: `run/api`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// `sun_path` has 108 bytes, the last of them zero.
pub const LONGEST_SOCKET_PATH: usize = 107;

/// The sockets of the bus, by name.
const BUS_SOCKETS: [&str; 9] = [
    "dataplane",
    "dataplane.events",
    "dataplane-sa",
    "dataplane-sa.events",
    "dhcp",
    "iked-bridge",
    "iked-bridge-secrets",
    "mgmt",
    "run",
];

/// Why a folder cannot be a gateway's root.
#[derive(Debug, Error)]
pub enum RootError {
    /// A socket would not fit into `sun_path`.
    #[error(
        "{} is too long for a socket: {length} bytes of at most {LONGEST_SOCKET_PATH}; choose a shorter --root",
        path.display()
    )]
    TooLong {
        /// Of the socket.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// The path does not lead anywhere.
    #[error("cannot use {} as root", path.display())]
    Unusable {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A folder or file cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Someone holds the lock.
    #[error("another gateway runs on this root: {} is locked", path.display())]
    Taken {
        /// The lock.
        path: PathBuf,
    },
}

/// The paths of one gateway.
#[derive(Clone, Debug)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// Makes the folders below `folder` and checks that every socket's path fits.
    pub fn prepare(folder: &Path) -> Result<Self, RootError> {
        fs::create_dir_all(folder).map_err(|source| RootError::Make {
            path: folder.to_owned(),
            source,
        })?;
        let folder = folder
            .canonicalize()
            .map_err(|source| RootError::Unusable {
                path: folder.to_owned(),
                source,
            })?;
        let root = Self { folder };
        for path in root.sockets() {
            let length = path.as_os_str().as_bytes().len();
            if length > LONGEST_SOCKET_PATH {
                return Err(RootError::TooLong { path, length });
            }
        }
        for (name, mode) in [
            ("", 0o711),
            ("etc", 0o711),
            ("run", 0o711),
            ("run/bus", 0o700),
            ("run/pids", 0o700),
            ("var", 0o711),
            ("var/log", 0o750),
        ] {
            let path = root.folder.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
                .map_err(|source| RootError::Make { path, source })?;
        }
        Ok(root)
    }

    /// The folder itself, absolute.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What charon reads.
    pub fn strongswan_conf(&self) -> PathBuf {
        self.folder.join("etc/strongswan.conf")
    }

    /// Where the gateway's own processes look names up.
    pub fn resolver(&self) -> PathBuf {
        self.folder.join("etc/resolv.conf")
    }

    /// What chronyd is told.
    pub fn chrony_conf(&self) -> PathBuf {
        self.folder.join("etc/chrony.conf")
    }

    /// Where chronyd and whoever asks it have their sockets.
    pub fn ntp_sockets(&self) -> PathBuf {
        self.folder.join("run/ntp")
    }

    /// chronyd's control socket.
    pub fn ntp_socket(&self) -> PathBuf {
        self.ntp_sockets().join("chronyd.sock")
    }

    /// What chronyd has learnt.
    pub fn ntp_state(&self) -> PathBuf {
        self.folder.join("var/ntp")
    }

    /// What sshd is told; mgmt writes it.
    pub fn sshd_config(&self) -> PathBuf {
        self.folder.join("etc/ssh/sshd_config")
    }

    /// For people, the lab and tests.
    pub fn status(&self) -> PathBuf {
        self.folder.join("run/status.json")
    }

    /// This program, once its file was replaced.
    pub fn program_copy(&self) -> PathBuf {
        self.folder.join("run/culvert")
    }

    /// charon's control socket.
    pub fn vici(&self) -> PathBuf {
        self.folder.join("run/charon.vici")
    }

    /// Where mgmt serves every face of the gateway.
    pub fn api(&self) -> PathBuf {
        self.folder.join("run/api")
    }

    /// Where iked-bridge awaits charon's plugin.
    pub fn plugin_socket(&self) -> PathBuf {
        self.folder.join("run/charon-plugin.sock")
    }

    /// Where a process' messages go.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("var/log").join(format!("{name}.log"))
    }

    /// Where a process' number is written.
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.folder.join("run/pids").join(name)
    }

    /// A socket of the bus.
    pub fn bus(&self, name: &str) -> PathBuf {
        self.folder.join("run/bus").join(name)
    }

    fn sockets(&self) -> impl Iterator<Item = PathBuf> {
        BUS_SOCKETS.iter().map(|name| self.bus(name)).chain([
            self.vici(),
            self.plugin_socket(),
            self.api(),
            self.ntp_socket(),
            // chronyc's own, with the largest process number of Linux.
            self.ntp_sockets().join("chronyc.4194304.sock"),
        ])
    }

    /// Makes this process the only gateway on the root, until the lock is dropped or the process ends.
    pub fn lock(&self) -> Result<Lock, RootError> {
        let path = self.folder.join("run/lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| RootError::Make {
                path: path.clone(),
                source,
            })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock { _file: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(RootError::Taken { path }),
            Err((_, errno)) => Err(RootError::Make {
                path,
                source: errno.into(),
            }),
        }
    }

    /// Removes what a running gateway leaves in `run`: sockets, process numbers, status and so on. For the holder of the lock,
    /// before the start (the gateway before may have been killed) and at the end.
    pub fn sweep(&self, _lock: &Lock) {
        let folders = ["run/pids", "run/bus", "run/ntp"].map(|name| self.folder.join(name));
        let found = folders
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flat_map(Iterator::flatten)
            .map(|entry| entry.path());
        let others = [self.status(), self.program_copy()];
        for path in self.sockets().chain(found).chain(others) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove");
                }
                _ => {}
            }
        }
    }
}

/// Held by the one gateway of a root.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_root_too_deep_for_its_sockets_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let spare = LONGEST_SOCKET_PATH - "/run/ntp/chronyc.4194304.sock".len();
        let parent = place.path().canonicalize().unwrap();
        let name = spare - parent.as_os_str().len() - 1;
        let fits = parent.join("x".repeat(name));
        Root::prepare(&fits).unwrap();
        let error = Root::prepare(&parent.join("x".repeat(name + 1))).unwrap_err();
        let RootError::TooLong { path, length } = &error else {
            panic!("{error}");
        };
        assert!(path.starts_with(parent.join("x".repeat(name + 1))));
        assert_eq!(*length, 108);
        assert!(!parent.join("x".repeat(name + 1)).join("run").exists());
    }

    #[test]
    fn one_gateway_a_root() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::prepare(place.path()).unwrap();
        let lock = root.lock().unwrap();
        assert!(matches!(root.lock(), Err(RootError::Taken { .. })));
        drop(lock);
        root.lock().unwrap();
    }

    #[test]
    fn sweeping_leaves_no_socket() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::prepare(place.path()).unwrap();
        let lock = root.lock().unwrap();
        fs::create_dir_all(root.ntp_sockets()).unwrap();
        for path in [
            root.bus("dataplane"),
            root.vici(),
            root.ntp_sockets().join("chronyc.4711.sock"),
            root.pid_file("charon"),
            root.status(),
            root.program_copy(),
        ] {
            fs::write(path, "").unwrap();
        }
        fs::write(root.log("charon"), "kept").unwrap();
        root.sweep(&lock);
        for folder in ["run/bus", "run/pids", "run/ntp"] {
            assert_eq!(fs::read_dir(place.path().join(folder)).unwrap().count(), 0);
        }
        for path in [root.vici(), root.status(), root.program_copy()] {
            assert!(!path.exists(), "{}", path.display());
        }
        assert!(root.log("charon").exists());
    }
}
