//! Network namespaces by name, as `ip netns` keeps them.
//!
//! A namespace is a file under `/run/netns` onto which the kernel's own file is bind-mounted; it lives
//! as long as the mount, a process or a descriptor holds it. Code runs *in* a namespace on a thread of
//! its own that enters it and then ends, so that no other thread ever notices.
//!
//! ```text
//!   /run/netns/culvert-lab-host-a  <- bind mount -  /proc/thread-self/ns/net of a thread that unshared
//! ```

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A name is 1 to 64 of `A-Z a-z 0-9 - _ .` and does not start with a dot.
    #[error("{0:?} is not a name for a network namespace")]
    Name(String),
    /// There is no such namespace.
    #[error("there is no network namespace {0}")]
    Missing(String),
    /// A system call was refused.
    #[error("network namespace {name}: {call}: {source}")]
    System {
        /// The namespace.
        name: String,
        /// What was tried.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An open network namespace with a name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

/// Which namespace a process is in: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// Opens the namespace of this name, and makes it first when it is missing. A new one has its
    /// loopback interface down and nothing else.
    pub fn ensure(name: &str) -> Result<Self, NamespaceError> {
        match Self::open(name) {
            Err(NamespaceError::Missing(_)) => Self::create(name),
            other => other,
        }
    }

    /// Opens an existing namespace.
    pub fn open(name: &str) -> Result<Self, NamespaceError> {
        let path = path_of(name)?;
        let failed = |call| {
            move |source| NamespaceError::System {
                name: name.to_owned(),
                call,
                source,
            }
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NamespaceError::Missing(name.to_owned()));
            }
            Err(error) => return Err(failed("open")(error)),
        };
        // A crash between making the file and mounting onto it leaves an ordinary empty file.
        let device = file.metadata().map_err(failed("stat"))?.dev();
        if device == fs::metadata(DIRECTORY).map_err(failed("stat"))?.dev() {
            fs::remove_file(&path).map_err(failed("unlink"))?;
            return Err(NamespaceError::Missing(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Names of all namespaces that start with `prefix`, in order.
    pub fn list(prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(DIRECTORY)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names
    }

    /// Takes the name away; the namespace itself goes when its last process does. Answers whether
    /// there was one.
    pub fn remove(name: &str) -> Result<bool, NamespaceError> {
        let path = path_of(name)?;
        let failed = |call, source| NamespaceError::System {
            name: name.to_owned(),
            call,
            source,
        };
        if !path.exists() {
            return Ok(false);
        }
        // Bounded: somebody may have mounted onto the name more than once.
        for _ in 0..16 {
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(errno) => return Err(failed("umount", errno.into())),
            }
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(failed("unlink", error)),
        }
    }

    /// The name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compares equal to [`NamespaceId::of_process`] of everything that runs in here.
    pub fn id(&self) -> Result<NamespaceId, NamespaceError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|source| self.failed("stat", source))?;
        Ok(NamespaceId {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets opened there stay in the
    /// namespace and may be carried out; processes started there are in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok(work())
                })
                .join()
        });
        match outcome {
            Ok(result) => result.map_err(|errno: Errno| self.failed("setns", errno.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a process inside.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, NamespaceError> {
        self.enter(|| command.spawn())?
            .map_err(|source| self.failed("spawn", source))
    }

    /// Process ids of everything that runs inside now.
    pub fn processes(&self) -> Result<Vec<u32>, NamespaceError> {
        let own = self.id()?;
        let entries = fs::read_dir("/proc").map_err(|source| self.failed("read /proc", source))?;
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| NamespaceId::of_process(*pid) == Some(own))
            .collect())
    }

    fn create(name: &str) -> Result<Self, NamespaceError> {
        let path = path_of(name)?;
        let failed = |call| {
            move |source| NamespaceError::System {
                name: name.to_owned(),
                call,
                source,
            }
        };
        prepare_directory().map_err(failed("prepare /run/netns"))?;
        File::create(&path).map_err(failed("create"))?;
        let mounted = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    let own: &Path = Path::new("/proc/thread-self/ns/net");
                    mount(
                        Some(own),
                        &path,
                        None::<&str>,
                        MsFlags::MS_BIND,
                        None::<&str>,
                    )
                })
                .join()
        });
        match mounted {
            Ok(Ok(())) => Self::open(name),
            Ok(Err(errno)) => {
                let _ = fs::remove_file(&path);
                Err(failed("unshare and mount")(errno.into()))
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn failed(&self, call: &'static str, source: io::Error) -> NamespaceError {
        NamespaceError::System {
            name: self.name.clone(),
            call,
            source,
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NamespaceId {
    /// The namespace of a running process; `None` when it is gone.
    pub fn of_process(pid: u32) -> Option<Self> {
        let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Writes a kernel setting of the calling thread's network namespace, for example
/// `net/ipv4/ip_forward`. Call it inside [`Namespace::enter`].
pub fn set_kernel_setting(path: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(path), value)
}

fn path_of(name: &str) -> Result<PathBuf, NamespaceError> {
    let good = (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if good {
        Ok(Path::new(DIRECTORY).join(name))
    } else {
        Err(NamespaceError::Name(name.to_owned()))
    }
}

/// Makes the folder a shared mount of its own, as `ip netns` does: without that a mount made here would
/// keep the namespace alive in every mount namespace copied before its removal.
fn prepare_directory() -> io::Result<()> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory)?;
    let share = || {
        mount(
            None::<&str>,
            directory,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => {
            mount(
                Some(directory),
                directory,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn interfaces() -> String {
        fs::read_to_string("/proc/thread-self/net/dev").unwrap()
    }

    #[test]
    fn a_namespace_is_made_entered_and_removed() {
        let name = format!("culvert-unit-{}-enter", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        let inside = namespace.enter(interfaces).unwrap();
        assert!(inside.contains("lo:"), "{inside}");
        assert_eq!(
            inside.lines().count(),
            3,
            "a new namespace holds nothing but lo: {inside}"
        );
        let again = Namespace::ensure(&name).unwrap();
        assert_eq!(again.id().unwrap(), namespace.id().unwrap());
        assert_ne!(
            NamespaceId::of_process(std::process::id()),
            Some(namespace.id().unwrap())
        );
        assert!(Namespace::list(&name).contains(&name));
        assert!(Namespace::remove(&name).unwrap());
        assert!(!Namespace::remove(&name).unwrap());
        assert!(matches!(
            Namespace::open(&name),
            Err(NamespaceError::Missing(_))
        ));
    }

    #[test]
    fn a_process_started_inside_is_found_there() {
        let name = format!("culvert-unit-{}-spawn", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        let mut child = namespace.spawn(Command::new("sleep").arg("30")).unwrap();
        assert_eq!(namespace.processes().unwrap(), vec![child.id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        Namespace::remove(&name).unwrap();
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for name in ["", "../x", "a/b", ".hidden", "white space"] {
            assert!(
                matches!(Namespace::ensure(name), Err(NamespaceError::Name(_))),
                "{name}"
            );
        }
    }
}
