//! How a process comes to be where it belongs with no more rights than it needs.
//!
//! Between fork and exec the child, still a copy of the supervisor, does in this order:
//!
//! ```text
//!   enter the network namespace      as CAP_SYS_ADMIN
//!   arrange its own file system      as CAP_SYS_ADMIN
//!   keep the descriptors it inherits
//!   keep the distribution's AppArmor profile off its program
//!   drop capabilities, lock securebits (root regains nothing on exec), no_new_privs
//!   close the system calls that it never makes, where it cannot do so itself
//!   ask for SIGKILL when the supervisor dies
//! ```
//!
//! Everything it needs is made before the fork: the child allocates nothing, because another thread may have held the
//! allocator's lock when it was copied.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, NulError};
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use seccompiler::BpfProgram;

use super::capabilities::Capabilities;

/// What a process is given.
#[derive(Debug)]
pub struct Launch {
    /// Program, arguments, environment, standard streams.
    pub command: Command,
    /// None: the supervisor's own.
    pub network: Option<OwnedFd>,
    /// None: the supervisor's own.
    pub mounts: Option<MountPlan>,
    /// Kept open over exec under the same number.
    pub descriptors: Vec<RawFd>,
    /// All that it may ever have.
    pub capabilities: Capabilities,
    /// It changes its user: then whoever it becomes has none of them.
    pub changes_user: bool,
    /// For a program that does not confine itself; empty: none.
    pub filter: BpfProgram,
    /// The distribution has an `AppArmor` profile for its program that does not know our folders.
    pub sheds_profile: bool,
}

/// A file system of its own for one process, made of pieces of the supervisor's.
///
/// Each of `blanks` is covered by an empty one in memory, in which `folders` and `files` are made, on which
/// the sources of `grafts` appear.
#[derive(Debug, Default)]
pub struct MountPlan {
    /// Covered by an empty file system.
    pub blanks: Vec<CString>,
    /// Made below the blanks, in this order.
    pub folders: Vec<CString>,
    /// Made empty below the blanks.
    pub files: Vec<CString>,
    /// Source as the supervisor sees it, place in the new file system.
    pub grafts: Vec<(CString, CString)>,
}

/// What stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A folder with all that is in it.
    Folder,
    /// A file alone.
    File,
}

/// Covered in the file system of a process that has its own.
const RUN: &str = "/run";
/// `AppArmor`'s own files (Linux 5.8): the label of a process, and that of its next program.
const APPARMOR_LABEL: &str = "/proc/self/attr/apparmor/current";
const APPARMOR_EXEC: &CStr = c"/proc/thread-self/attr/apparmor/exec";
/// More pieces than any process here has.
const MOST_GRAFTS: usize = 128;

impl Launch {
    /// Starts the process. To be called on a thread that lives as long as the supervisor: the child is killed when the
    /// *thread* that started it ends.
    pub fn spawn(self) -> io::Result<tokio::process::Child> {
        let Self {
            mut command,
            network,
            mounts,
            descriptors,
            capabilities,
            changes_user,
            filter,
            sheds_profile,
        } = self;
        if mounts
            .as_ref()
            .is_some_and(|plan| plan.grafts.len() > MOST_GRAFTS)
        {
            return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
        }
        // A group of its own: Ctrl-C at a terminal reaches the supervisor alone, which stops the others in order.
        command.stdin(Stdio::null()).process_group(0);
        let parent = std::process::id();
        // Of a supervisor with a profile of its own somebody wanted that.
        let sheds_profile = sheds_profile
            && fs::read(APPARMOR_LABEL).is_ok_and(|label| label.starts_with(b"unconfined"));
        let prepare = move || {
            if let Some(network) = &network {
                enter_network(network)?;
            }
            // Folders that are made for others to pass.
            // SAFETY: umask cannot fail and touches no memory.
            unsafe { libc::umask(0o022) };
            if let Some(plan) = &mounts {
                plan.arrange()?;
            }
            for &descriptor in &descriptors {
                // SAFETY: F_SETFD touches no memory.
                check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) })?;
            }
            // SAFETY: umask cannot fail and touches no memory.
            unsafe { libc::umask(0o077) };
            if sheds_profile {
                shed_profile();
            }
            if changes_user {
                capabilities.reduce_root()?;
            } else {
                capabilities.reduce()?;
            }
            die_with(parent)?;
            if !filter.is_empty() {
                // Its own error may allocate.
                seccompiler::apply_filter(&filter)
                    .map_err(|_| io::Error::from_raw_os_error(libc::EACCES))?;
            }
            Ok(())
        };
        // SAFETY: `prepare` makes system calls only: it neither allocates nor takes locks, and owns what it uses.
        unsafe { command.pre_exec(prepare) };
        tokio::process::Command::from(command).spawn()
    }
}

impl MountPlan {
    /// What is below `/run`, where that is covered, is there nevertheless.
    pub fn keep(&mut self, path: &Path, kind: Kept) -> Result<(), NulError> {
        if path.starts_with(RUN) {
            self.show(path, path, kind)?;
        }
        Ok(())
    }

    /// `source` appears at `place`: below `/run`, which is covered, or over what is there already.
    pub fn show(&mut self, source: &Path, place: &Path, kind: Kept) -> Result<(), NulError> {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
        if place.starts_with(RUN) {
            let below = match kind {
                Kept::Folder => Some(place),
                Kept::File => place.parent(),
            };
            let mut folders: Vec<&Path> = below
                .into_iter()
                .flat_map(Path::ancestors)
                .take_while(|folder| *folder != Path::new(RUN))
                .collect();
            folders.reverse();
            for folder in folders {
                self.folders.push(text(folder)?);
            }
            if kind == Kept::File {
                self.files.push(text(place)?);
            }
        }
        self.grafts.push((text(source)?, text(place)?));
        Ok(())
    }

    fn arrange(&self) -> io::Result<()> {
        let root = c"/";
        let none = std::ptr::null();
        // SAFETY: unshare touches no memory.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        // SAFETY: the target is a C string; source, type and data may be null for a change of propagation.
        check(unsafe {
            libc::mount(
                none,
                root.as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            )
        })?;
        // Every source is picked up before a blank may hide it.
        let mut pieces: [RawFd; MOST_GRAFTS] = [-1; MOST_GRAFTS];
        for (piece, (source, _)) in pieces.iter_mut().zip(&self.grafts) {
            *piece = pick_up(source)?;
        }
        for blank in &self.blanks {
            // SAFETY: all are C strings; tmpfs reads its data as one.
            check(unsafe {
                libc::mount(
                    c"tmpfs".as_ptr(),
                    blank.as_ptr(),
                    c"tmpfs".as_ptr(),
                    libc::MS_NOSUID | libc::MS_NODEV,
                    c"mode=0755,size=4m".as_ptr().cast(),
                )
            })?;
        }
        for folder in &self.folders {
            // SAFETY: the path is a C string.
            if unsafe { libc::mkdir(folder.as_ptr(), 0o755) } < 0 {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EEXIST) {
                    return Err(error);
                }
            }
        }
        for file in &self.files {
            // SAFETY: the path is a C string.
            let descriptor = check(unsafe {
                libc::open(
                    file.as_ptr(),
                    libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC,
                    0o644,
                )
            })?;
            // SAFETY: opened just above and used nowhere else.
            unsafe { libc::close(descriptor) };
        }
        for (&piece, (_, place)) in pieces.iter().zip(&self.grafts) {
            put_down(piece, place)?;
        }
        Ok(())
    }
}

/// A detached copy of the mount tree at `source`; its descriptor is closed on exec.
fn pick_up(source: &CString) -> io::Result<RawFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: open_tree reads a C string and touches no other memory.
    let outcome =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(outcome as RawFd)
}

fn put_down(piece: RawFd, place: &CString) -> io::Result<()> {
    // SAFETY: move_mount reads two C strings and touches no other memory.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            piece,
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn enter_network(namespace: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: setns touches no memory.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// The kernel shall choose no profile by the program's path. Our own confinement stays, and whatever fails here leaves
/// things as they are. Written after the kernel's documentation: no test has `AppArmor`.
fn shed_profile() {
    let text = b"exec unconfined";
    // SAFETY: the path is a C string.
    let descriptor =
        unsafe { libc::open(APPARMOR_EXEC.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if descriptor < 0 {
        return;
    }
    // SAFETY: the text is as long as is said; the descriptor was opened just above and is used nowhere else.
    unsafe {
        libc::write(descriptor, text.as_ptr().cast(), text.len());
        libc::close(descriptor);
    }
}

fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a number and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // It may have died before it was asked for its death signal.
    // SAFETY: getppid cannot fail.
    if unsafe { libc::getppid() }.cast_unsigned() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::*;
    use crate::run::namespace::Namespace;

    fn launch(script: &str) -> Launch {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Launch {
            command,
            network: None,
            mounts: None,
            descriptors: Vec::new(),
            capabilities: Capabilities::NONE,
            changes_user: false,
            filter: BpfProgram::new(),
            sheds_profile: false,
        }
    }

    fn output(launch: Launch) -> String {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let output = launch.spawn().unwrap().wait_with_output().await.unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            })
    }

    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap()
    }

    #[test]
    fn root_keeps_what_it_is_given_over_exec_and_no_more() {
        let mut given = launch("exec cat /proc/self/status");
        given.capabilities = Capabilities::CHARON;
        let status = output(given);
        // NET_BIND_SERVICE 10, NET_ADMIN 12, NET_RAW 13.
        for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(&status, set), "0000000000003400", "{set}");
        }
        assert_eq!(field(&status, "NoNewPrivs:"), "1");

        let status = output(launch("exec cat /proc/self/status"));
        for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
    }

    #[test]
    fn who_changes_his_user_leaves_everything_behind() {
        let mut given = launch(
            "cat /proc/self/status; exec setpriv --reuid 65531 --clear-groups cat /proc/self/status",
        );
        given.capabilities = Capabilities::SSHD;
        given.changes_user = true;
        let both = output(given);
        let at = both.match_indices("Name:").nth(1).unwrap().0;
        let (root, other) = both.split_at(at);
        // CHOWN 0, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10, SYS_CHROOT 18, AUDIT_WRITE 29.
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(root, set), "00000000200404e9", "{set}");
        }
        assert_eq!(field(other, "Uid:"), "65531");
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(other, set), "0000000000000000", "{set}");
        }
        assert_eq!(field(other, "NoNewPrivs:"), "1");
    }

    #[test]
    fn a_process_is_born_in_its_network_namespace() {
        let namespace = Namespace::quiet().unwrap();
        let inside = namespace
            .run(async || fs::read_link("/proc/thread-self/ns/net").unwrap())
            .unwrap();
        let mut given = launch("readlink /proc/self/ns/net");
        given.network = Some(
            std::os::fd::AsFd::as_fd(&namespace)
                .try_clone_to_owned()
                .unwrap(),
        );
        assert_eq!(output(given).trim(), inside.to_str().unwrap());
    }

    #[test]
    fn descriptors_pass_and_others_do_not() {
        let (passed, _writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let (other, _other_writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut given = launch(&format!(
            "test -e /proc/self/fd/{} && ! test -e /proc/self/fd/{} && echo right",
            passed.as_raw_fd(),
            other.as_raw_fd()
        ));
        given.descriptors.push(passed.as_raw_fd());
        assert_eq!(output(given), "right\n");
    }

    #[test]
    fn a_process_sees_its_own_file_system_and_nobody_else_does() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let text = |name: &str| CString::new(path(name).to_str().unwrap()).unwrap();
        fs::create_dir_all(path("blank/kept")).unwrap();
        fs::write(path("blank/kept/file"), "kept").unwrap();
        fs::write(path("blank/hidden"), "hidden").unwrap();
        fs::write(path("plugin"), "plugin").unwrap();
        let mut given = launch(&format!(
            "cd {} && cat kept/file library && test ! -e hidden && echo new > written",
            path("blank").display()
        ));
        given.mounts = Some(MountPlan {
            blanks: vec![text("blank")],
            folders: vec![text("blank/kept")],
            files: vec![text("blank/library")],
            grafts: vec![
                (text("blank/kept"), text("blank/kept")),
                (text("plugin"), text("blank/library")),
            ],
        });
        assert_eq!(output(given), "keptplugin");
        assert!(path("blank/hidden").exists() && !path("blank/written").exists());
    }

    #[test]
    fn a_process_dies_with_the_thread_that_started_it() {
        let number = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async {
                    let child = launch("exec sleep 60").spawn().unwrap();
                    child.id().unwrap()
                })
        })
        .join()
        .unwrap();
        let gone = || match fs::read_to_string(format!("/proc/{number}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        for _ in 0..100 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {number} lives on");
    }
}
