//! sshd as one gateway starts it: what it is told, its host key, and the file system that it and every session see.
//!
//! ```text
//!   file system of the machine        file system of sshd and of all who log in
//!   /etc/passwd                       /etc/passwd            ROOT/etc/passwd: the machine's, with the account
//!   /run/*                            /run                   empty, but for
//!   ROOT/etc/resolv.conf              /etc/resolv.conf
//!   this program                      /run/login/culvert     the account's shell, wherever it is installed
//!                                     /run/sshd              where sshd shuts in who is not known yet
//!   ROOT (perhaps below /run)         ROOT                   the same
//! ```
//!
//! sshd is the distribution's, unmodified. mgmt writes what it reads (`culvert_mgmt::login`) before it says what to follow;
//! no `sshd_config`: no sshd. Who comes in is the account [`ACCOUNT`], on the machine or not: it gets down to
//! `ROOT/run/api`, and nothing else below the root opens to it but what sshd reads on its behalf.

use std::ffi::{CString, NulError};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_mgmt::login::{ACCOUNT, FOLDER, HOST_KEY};
use nix::unistd::User;
use thiserror::Error;

use super::charon::own_sockets;
use super::launch::{Kept, MountPlan};
use super::resolver;
use super::root::Root;

/// Of the account where the machine has none of this name: in none of the ranges that Debian, systemd or containers give
/// out numbers of (65520 to 65533, systemd's list of UIDs), so that nobody else is taken for it.
const ACCOUNT_NUMBER: u32 = 65531;
/// sshd's own, compiled into Debian's.
const SHUT_IN: &str = "/run/sshd";
/// The account's shell, as sshd sees it.
const SHELL_FOLDER: &str = "/run/login";
const SHELL: &str = "/run/login/culvert";
const PASSWD: &str = "/etc/passwd";
/// Larger than any machine's.
const LONGEST_PASSWD: u64 = 16 << 20;

/// Why sshd does not start.
#[derive(Debug, Error)]
pub enum LoginError {
    /// Not installed.
    #[error("{} is missing: install openssh-server", .0.display())]
    Missing(PathBuf),
    /// Whoever logs in would not get to mgmt's socket.
    #[error(
        "the account {ACCOUNT} cannot pass {}, where the root is: chmod o+x it, or choose another --root",
        .0.display()
    )]
    Impassable(PathBuf),
    /// The root does not fit into a line of passwd.
    #[error("{} cannot be the home of the account {ACCOUNT}", .0.display())]
    Home(PathBuf),
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
    /// No host key.
    #[error("ssh-keygen makes no host key: {0}")]
    HostKey(String),
}

/// sshd and the account on this machine.
#[derive(Clone, Debug)]
pub struct Login {
    /// sshd; by its whole path, since it starts itself anew.
    pub program: PathBuf,
    /// Of the account.
    pub uid: u32,
    /// Of its group.
    pub gid: u32,
}

impl Login {
    /// With the machine's own account, if it has one.
    pub fn of_machine() -> Self {
        let account = User::from_name(ACCOUNT).ok().flatten();
        let (uid, gid) = account.map_or((ACCOUNT_NUMBER, ACCOUNT_NUMBER), |account| {
            (account.uid.as_raw(), account.gid.as_raw())
        });
        Self {
            program: PathBuf::from("/usr/sbin/sshd"),
            uid,
            gid,
        }
    }

    /// Makes what sshd needs before it starts, and the file system that it sees with this program as the shell.
    pub fn prepare(&self, root: &Root, shell: &Path) -> Result<MountPlan, LoginError> {
        if !self.program.exists() {
            return Err(LoginError::Missing(self.program.clone()));
        }
        check_passable(root.folder())?;
        make_host_key(&root.folder().join(FOLDER))?;
        let passwd = self.write_passwd(root)?;
        mounts(root, shell, &passwd)
    }

    /// The machine's file with the account as it is here: the passwords of others are in files that nobody reads as the
    /// account.
    fn write_passwd(&self, root: &Root) -> Result<PathBuf, LoginError> {
        let machine = match fs::metadata(PASSWD) {
            Ok(found) if found.len() > LONGEST_PASSWD => {
                Err(io::Error::from(io::ErrorKind::FileTooLarge))
            }
            _ => fs::read_to_string(PASSWD),
        }
        .map_err(failed(Path::new(PASSWD)))?;
        let text = self.passwd(&machine, root.folder())?;
        let path = root.folder().join("etc/passwd");
        replace(&path, &text, 0o644).map_err(failed(&path))?;
        Ok(path)
    }

    /// No password opens the account (`*`), and none locks it (`!`).
    fn passwd(&self, machine: &str, home: &Path) -> Result<String, LoginError> {
        let home = home
            .to_str()
            .filter(|home| !home.contains([':', '\n']))
            .ok_or_else(|| LoginError::Home(home.to_owned()))?;
        let ours = format!("{ACCOUNT}:");
        let mut text = String::with_capacity(machine.len() + 128);
        for line in machine.lines().filter(|line| !line.starts_with(&ours)) {
            text.push_str(line);
            text.push('\n');
        }
        let Self { uid, gid, .. } = self;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{ACCOUNT}:*:{uid}:{gid}:Culvert operators:{home}:{SHELL}"
        );
        Ok(text)
    }
}

/// What mgmt tells sshd; none: there is to be no sshd.
pub fn told(root: &Root) -> Option<Vec<u8>> {
    fs::read(root.sshd_config()).ok()
}

/// Whether process `pid` waits for connections.
pub fn listens(pid: u32) -> bool {
    let own = own_sockets(pid);
    ["tcp", "tcp6"].into_iter().any(|table| {
        fs::read_to_string(format!("/proc/{pid}/net/{table}"))
            .is_ok_and(|table| listening(&table).any(|inode| own.contains(&inode)))
    })
}

/// Inodes of sockets that wait for connections, of the text of `/proc/net/tcp`.
fn listening(table: &str) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        let state = columns.nth(3)?;
        // TCP_LISTEN of include/net/tcp_states.h.
        (state == "0A").then(|| columns.nth(5)?.parse().ok())?
    })
}

fn mounts(root: &Root, shell: &Path, passwd: &Path) -> Result<MountPlan, LoginError> {
    let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
    let mut plan = MountPlan {
        blanks: vec![c"/run".to_owned()],
        folders: vec![CString::new(SHUT_IN)?, CString::new(SHELL_FOLDER)?],
        files: vec![CString::new(SHELL)?],
        grafts: vec![
            (text(shell)?, CString::new(SHELL)?),
            (text(passwd)?, CString::new(PASSWD)?),
        ],
    };
    plan.keep(root.folder(), Kept::Folder)?;
    resolver::graft(root, &mut plan)?;
    Ok(plan)
}

/// Folders below `/run` are made anew for sshd.
fn check_passable(root: &Path) -> Result<(), LoginError> {
    for folder in root.ancestors().filter(|folder| {
        root == *folder || !(root.starts_with("/run") && folder.starts_with("/run"))
    }) {
        let found = fs::metadata(folder).map_err(failed(folder))?;
        if found.mode() & 0o001 == 0 {
            return Err(LoginError::Impassable(folder.to_owned()));
        }
    }
    Ok(())
}

/// The key by which the gateway is known: made once, then kept.
///
/// The loop waits for it some milliseconds, once in the life of a gateway.
fn make_host_key(folder: &Path) -> Result<(), LoginError> {
    let path = folder.join(HOST_KEY);
    if path.exists() {
        return Ok(());
    }
    let at = |ending: &str| folder.join(format!("{HOST_KEY}{ending}"));
    let (new, new_public) = (at(".new"), at(".new.pub"));
    for left in [&new, &new_public] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(left)(error));
            }
            _ => {}
        }
    }
    let output = Command::new("ssh-keygen")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&new)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| LoginError::HostKey(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(LoginError::HostKey(said.trim().to_owned()));
    }
    for (new, path, mode) in [
        (&new_public, &at(".pub"), 0o644),
        // Last: whoever finds it finds both.
        (&new, &path, 0o600),
    ] {
        fs::set_permissions(new, Permissions::from_mode(mode))
            .and_then(|()| File::open(new)?.sync_all())
            .and_then(|()| fs::rename(new, path))
            .map_err(failed(path))?;
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(folder))?;
    tracing::info!(path = %path.display(), "made the host key");
    Ok(())
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> LoginError {
    let path = path.to_owned();
    move |source| LoginError::File { path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::TcpListener;

    use super::*;

    fn login() -> Login {
        Login {
            program: PathBuf::from("/usr/sbin/sshd"),
            uid: 4321,
            gid: 4322,
        }
    }

    #[test]
    fn the_account_is_in_passwd_once_and_the_others_stay() {
        let machine =
            "root:x:0:0:root:/root:/bin/bash\nculvert:x:9:9::/:/bin/sh\nculverts:x:8:8::/:/bin/sh";
        let text = login()
            .passwd(machine, Path::new("/var/lib/culvert"))
            .unwrap();
        assert_eq!(
            text,
            "root:x:0:0:root:/root:/bin/bash\nculverts:x:8:8::/:/bin/sh\n\
             culvert:*:4321:4322:Culvert operators:/var/lib/culvert:/run/login/culvert\n"
        );
        for home in ["/a:b", "/a\nroot::0:0::/:/bin/sh"] {
            let refused = login().passwd(machine, Path::new(home));
            assert!(matches!(refused, Err(LoginError::Home(_))), "{home:?}");
        }
    }

    #[test]
    fn the_host_key_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        // What a power cut in the middle has left.
        fs::write(place.path().join("ssh_host_ed25519_key.new"), "half").unwrap();
        make_host_key(place.path()).unwrap();
        let path = place.path().join(HOST_KEY);
        let key = fs::read_to_string(&path).unwrap();
        assert!(key.contains("OPENSSH PRIVATE KEY"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let public = fs::read_to_string(place.path().join("ssh_host_ed25519_key.pub")).unwrap();
        assert!(public.starts_with("ssh-ed25519 "), "{public}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
        make_host_key(place.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), key);
    }

    #[test]
    fn a_folder_that_the_account_cannot_pass_is_named() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        let mode = |mode| fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        let refused = check_passable(&root);
        assert!(
            matches!(&refused, Err(LoginError::Impassable(folder)) if folder == place.path()),
            "{refused:?}"
        );
        mode(0o711);
        check_passable(&root).unwrap();
    }

    #[test]
    fn a_socket_that_waits_is_found() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listens(std::process::id()));
        drop(socket);
    }
}
