//! Network namespaces: one without a name for the dataplane, and work inside one.
//!
//! ```text
//!   thread: unshare -> /proc/thread-self/ns/net -> descriptor     the thread ends, the namespace stays
//!   thread: setns(descriptor) -> work -> answer                   no other thread changes place
//! ```
//!
//! A namespace lives as long as a descriptor of it, or a process in it: nothing is left behind in `/run/netns`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

/// What goes wrong with a namespace.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// Making one needs `CAP_SYS_ADMIN`.
    #[error("cannot make a network namespace")]
    Make(#[source] io::Error),
    /// Entering one needs `CAP_SYS_ADMIN` too.
    #[error("cannot enter the network namespace")]
    Enter(#[source] io::Error),
    /// The namespace's own cannot be opened.
    #[error("cannot open the network namespace of this process")]
    Open(#[source] io::Error),
    /// A switch in `/proc/sys`.
    #[error("cannot write {value} to {path}")]
    Switch {
        /// The file.
        path: &'static str,
        /// What was to be written.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread for the work, or its runtime, did not come up or did not end well.
    #[error("cannot work in the network namespace")]
    Work(#[source] io::Error),
}

/// In the dataplane's namespace Linux is to be deaf and dumb: no address of its own, no IPv6, nothing forwarded, no ARP
/// answered (it has no address to answer for, and `arp_ignore` 8 would not answer even so).
const QUIET: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/all/forwarding", "0"),
    ("/proc/sys/net/ipv4/ip_forward", "0"),
    ("/proc/sys/net/ipv4/conf/all/arp_ignore", "8"),
    ("/proc/sys/net/ipv4/conf/default/arp_ignore", "8"),
];

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// A new one, in which Linux stays quiet.
    pub fn quiet() -> Result<Self, NamespaceError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NamespaceError::Make(errno.into()))?;
            let namespace = Self::current()?;
            for &(path, value) in QUIET {
                // A kernel without IPv6 has nothing to switch off.
                if path.contains("/ipv6/") && !fs::exists("/proc/sys/net/ipv6").unwrap_or(true) {
                    continue;
                }
                fs::write(path, value).map_err(|source| NamespaceError::Switch {
                    path,
                    value,
                    source,
                })?;
            }
            Ok(namespace)
        })?
    }

    /// The one of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        let file = File::open("/proc/thread-self/ns/net").map_err(NamespaceError::Open)?;
        Ok(Self {
            descriptor: file.into(),
        })
    }

    /// Runs `work` inside, on a thread of its own with a runtime of its own, and waits for the answer.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_thread(|| {
            setns(&self.descriptor, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NamespaceError::Enter(errno.into()))?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(NamespaceError::Work)?;
            Ok(runtime.block_on(work()))
        })?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)
            .map_err(NamespaceError::Work)?
            .join()
            .map_err(|_| NamespaceError::Work(io::Error::other("the thread ended early")))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn own() -> std::path::PathBuf {
        fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn work_happens_inside_and_this_thread_stays_where_it_was() {
        let before = own();
        let namespace = Namespace::quiet().unwrap();
        let (inside, forward, ipv6) = namespace
            .run(async || {
                (
                    own(),
                    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
                    fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6").unwrap(),
                )
            })
            .unwrap();
        assert_ne!(inside, before);
        assert_eq!((forward.trim(), ipv6.trim()), ("0", "1"));
        assert_eq!(own(), before);
    }
}
