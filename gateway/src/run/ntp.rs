//! chronyd as one gateway starts it: what it is told, and the file system that it sees.
//!
//! ```text
//!   system.ntp_servers --plan--> linux/ntp --> ROOT/etc/chrony.conf --> chronyd --> the machine's clock
//!
//!   file system of the machine        file system of this chronyd
//!   /run/*                            /run            empty, so that its process number is its own
//!   ROOT (perhaps below /run)         ROOT            the same
//!   ROOT/run/ntp                      /run/chrony     its control socket, for `chronyc`
//!   ROOT/var/ntp                      /run/ntp        how fast this machine's clock is, learnt over the years
//!   ROOT/etc/resolv.conf              /etc/resolv.conf
//! ```
//!
//! chronyd is the distribution's, unmodified. It runs while there are servers, asks them and answers nobody: it has no port of
//! its own, and takes commands by its socket alone. A laboratory has it keep its hands off the clock, and the kernel sees to
//! that as well (no capability, no system call).

use std::ffi::NulError;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use culvert_model::bus;
use thiserror::Error;

use super::charon::own_sockets;
use super::launch::{Kept, MountPlan};
use super::resolver;
use super::root::Root;

/// The distribution's.
const PROGRAM: &str = "/usr/sbin/chronyd";
/// As chronyd sees it.
const SOCKET_FOLDER: &str = "/run/chrony";
const SOCKET: &str = "/run/chrony/chronyd.sock";
const STATE_FOLDER: &str = "/run/ntp";

/// Why the clock is not set.
#[derive(Debug, Error)]
pub enum NtpError {
    /// Not installed.
    #[error("{} is missing: install chrony", .0.display())]
    Missing(PathBuf),
    /// A path has a zero byte.
    #[error("a path with a zero byte")]
    Path(#[from] NulError),
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// chronyd on this machine.
#[derive(Clone, Debug)]
pub struct Chronyd {
    /// By its whole path.
    pub program: PathBuf,
    /// It asks the servers and tells what it would do.
    pub keeps_clock: bool,
}

impl Chronyd {
    /// The distribution's.
    pub fn of_machine(keeps_clock: bool) -> Self {
        Self {
            program: PathBuf::from(PROGRAM),
            keeps_clock,
        }
    }

    /// Makes what it needs before it starts, and the file system that it sees.
    pub fn prepare(&self, root: &Root) -> Result<MountPlan, NtpError> {
        if !self.program.exists() {
            return Err(NtpError::Missing(self.program.clone()));
        }
        let mut plan = MountPlan {
            blanks: vec![c"/run".to_owned()],
            ..MountPlan::default()
        };
        plan.keep(root.folder(), Kept::Folder)?;
        for (source, place) in [
            (root.ntp_sockets(), SOCKET_FOLDER),
            (root.ntp_state(), STATE_FOLDER),
        ] {
            // chronyd wants it closed to others.
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&source);
            made.map_err(failed(&source))?;
            plan.show(&source, Path::new(place), Kept::Folder)?;
        }
        resolver::graft(root, &mut plan)?;
        Ok(plan)
    }
}

/// What chronyd is told, below the root of one gateway.
#[derive(Clone, Debug)]
pub struct NtpFile {
    path: PathBuf,
    program: PathBuf,
}

impl NtpFile {
    /// Of this gateway; nothing is written yet.
    pub fn of(root: &Root, chronyd: &Chronyd) -> Self {
        Self {
            path: root.chrony_conf(),
            program: chronyd.program.clone(),
        }
    }

    /// Makes it say what is configured; with nothing configured there is none.
    pub fn write(&self, wanted: Option<&bus::Ntp>) -> Result<(), NtpError> {
        let outcome = match wanted {
            Some(_) if !self.program.exists() => {
                return Err(NtpError::Missing(self.program.clone()));
            }
            Some(ntp) => self.replace(&text(ntp)),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        outcome.map_err(failed(&self.path))
    }

    /// Whether it says what is configured.
    pub fn says(&self, wanted: &bus::Ntp) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == text(wanted))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, &self.path)
    }
}

/// What chronyd is told; none: there is to be no chronyd.
pub fn told(root: &Root) -> Option<Vec<u8>> {
    fs::read(root.chrony_conf()).ok()
}

/// Whether process `pid` takes commands.
pub fn listens(pid: u32) -> bool {
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/unix")) else {
        return false;
    };
    let own = own_sockets(pid);
    bound(&table).any(|inode| own.contains(&inode))
}

/// Inodes of sockets of chronyds, of the text of `/proc/net/unix`.
fn bound(table: &str) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        let inode = columns.nth(6)?.parse().ok()?;
        (columns.next()? == SOCKET).then_some(inode)
    })
}

/// Hosts are names or addresses: the decoder lets nothing else in.
fn text(ntp: &bus::Ntp) -> String {
    let mut text = String::from("# Written by culvert from system.ntp_servers.\n");
    for server in &ntp.servers {
        // Four requests at once at the start: the clock is right after seconds, not minutes.
        let prefer = if server.prefer { " prefer" } else { "" };
        let _ = writeln!(text, "server {} iburst{prefer}", server.host);
    }
    let _ = write!(
        text,
        "driftfile {STATE_FOLDER}/drift\n\
         # By more than a second in the first three updates only: later it is never set back.\n\
         makestep 1.0 3\n\
         rtcsync\n\
         port 0\n\
         cmdport 0\n\
         bindcmdaddress {SOCKET}\n\
         pidfile /run/chronyd.pid\n"
    );
    text
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> NtpError {
    let path = path.to_owned();
    move |source| NtpError::File { path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn ntp(servers: &[(&str, bool)]) -> bus::Ntp {
        let server = |&(host, prefer): &(&str, bool)| bus::NtpSource {
            host: host.to_owned(),
            prefer,
        };
        bus::Ntp {
            servers: servers.iter().map(server).collect(),
        }
    }

    fn chronyd(program: &str) -> Chronyd {
        Chronyd {
            program: program.into(),
            keeps_clock: true,
        }
    }

    #[test]
    fn chronyd_is_told_its_servers_and_to_answer_nobody() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::prepare(place.path()).unwrap();
        let file = NtpFile::of(&root, &chronyd("/bin/true"));
        let wanted = ntp(&[
            ("192.0.2.1", false),
            ("ntp.example.com", true),
            ("2001:db8::1", false),
        ]);
        assert!(!file.says(&wanted) && told(&root).is_none());
        file.write(Some(&wanted)).unwrap();
        assert!(file.says(&wanted) && !file.says(&ntp(&[("192.0.2.1", false)])));
        let expected = "# Written by culvert from system.ntp_servers.\n\
            server 192.0.2.1 iburst\n\
            server ntp.example.com iburst prefer\n\
            server 2001:db8::1 iburst\n\
            driftfile /run/ntp/drift\n\
            # By more than a second in the first three updates only: later it is never set back.\n\
            makestep 1.0 3\n\
            rtcsync\n\
            port 0\n\
            cmdport 0\n\
            bindcmdaddress /run/chrony/chronyd.sock\n\
            pidfile /run/chronyd.pid\n";
        assert_eq!(told(&root).unwrap(), expected.as_bytes());
        file.write(None).unwrap();
        file.write(None).unwrap();
        assert!(told(&root).is_none());
    }

    #[test]
    fn what_is_not_installed_is_named() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::prepare(place.path()).unwrap();
        let chronyd = chronyd("/nowhere/chronyd");
        let file = NtpFile::of(&root, &chronyd);
        let error = file.write(Some(&ntp(&[("192.0.2.1", false)]))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere/chronyd is missing: install chrony"
        );
        assert!(told(&root).is_none());
        // To want none needs none.
        file.write(None).unwrap();
        assert!(matches!(chronyd.prepare(&root), Err(NtpError::Missing(_))));
    }

    #[test]
    fn its_folders_are_closed_to_others() {
        let place = tempfile::tempdir().unwrap();
        let root = Root::prepare(place.path()).unwrap();
        let plan = chronyd("/bin/true").prepare(&root).unwrap();
        for folder in [root.ntp_sockets(), root.ntp_state()] {
            let mode = fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
        let places: Vec<&str> = plan
            .grafts
            .iter()
            .map(|(_, place)| place.to_str().unwrap())
            .collect();
        assert!(places.starts_with(&[SOCKET_FOLDER, STATE_FOLDER]));
    }

    #[test]
    fn a_command_socket_is_found_by_its_owner() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 4242 /run/chrony/chronyd.sock\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 4243 /run/chrony/chronyd.sock.old\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 4244\n";
        assert_eq!(bound(table).collect::<Vec<_>>(), [4242]);
        let place = tempfile::tempdir().unwrap();
        let _other = UnixDatagram::bind(place.path().join("chronyd.sock")).unwrap();
        assert!(!listens(std::process::id()));
    }
}
