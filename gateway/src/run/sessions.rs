//! Who is logged in: everything that sshd has started, whatever became of sshd meanwhile.
//!
//! Each sshd has a mount namespace of its own, and what it starts is born into that: this is how sessions are known
//! from strangers. A session outlives the sshd that began it, so that a new one disturbs nobody; it ends with the gateway.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other end hears of it.
    InOrder,
    /// By the kernel.
    AtOnce,
}

/// The mount namespaces of every sshd that may have left a session. An open one cannot be mistaken for another: its number
/// is not given out again.
#[derive(Debug, Default)]
pub struct Sessions {
    namespaces: Vec<File>,
}

impl Sessions {
    /// Those that a new sshd will start, too.
    pub fn of(&mut self, sshd: u32) {
        let inhabited: Vec<_> = numbers().filter_map(identity).collect();
        self.namespaces.retain(|namespace| {
            namespace
                .metadata()
                .is_ok_and(|found| inhabited.contains(&(found.dev(), found.ino())))
        });
        match File::open(format!("/proc/{sshd}/ns/mnt")) {
            Ok(namespace) => self.namespaces.push(namespace),
            // It is gone already, and started nothing.
            Err(error) => tracing::debug!(sshd, %error, "sessions cannot be told"),
        }
    }

    /// Ends all of them.
    pub fn end(&self, how: End) {
        let namespaces: Vec<_> = self
            .namespaces
            .iter()
            .filter_map(|namespace| namespace.metadata().ok())
            .map(|found| (found.dev(), found.ino()))
            .collect();
        if namespaces.is_empty() {
            return;
        }
        for number in numbers() {
            // Held before it is looked at: the number then stays its own.
            let Some(process) = number.try_into().ok().and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else {
                continue;
            };
            if identity(number).is_some_and(|found| namespaces.contains(&found)) {
                let signal = match how {
                    End::InOrder => Signal::TERM,
                    End::AtOnce => Signal::KILL,
                };
                // Gone meanwhile is what was wanted.
                let _ = pidfd_send_signal(process, signal);
            }
        }
    }
}

/// Of every process that can be seen.
fn numbers() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Of a process' mount namespace.
fn identity(pid: u32) -> Option<(u64, u64)> {
    let found = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    fn elsewhere() -> Child {
        let mut child = Command::new("unshare")
            .args(["--mount", "sleep", "60"])
            .spawn()
            .unwrap();
        let own = identity(std::process::id());
        for _ in 0..1000 {
            if identity(child.id()) != own {
                return child;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("it stays where it was");
    }

    #[test]
    fn what_lives_in_the_namespace_ends_and_nothing_else() {
        let (mut one, mut two, mut other) = (elsewhere(), elsewhere(), elsewhere());
        let mut sessions = Sessions::default();
        sessions.end(End::AtOnce);
        sessions.of(one.id());
        sessions.of(two.id());
        assert_eq!(sessions.namespaces.len(), 2);
        sessions.end(End::InOrder);
        for child in [&mut one, &mut two] {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        }
        assert!(other.try_wait().unwrap().is_none());
        // What is empty is held no longer.
        sessions.of(other.id());
        assert_eq!(sessions.namespaces.len(), 1);
        sessions.end(End::AtOnce);
        assert_eq!(other.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
