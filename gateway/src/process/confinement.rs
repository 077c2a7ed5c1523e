//! System calls that our processes never make are closed to them, so that a fault in a parser finds fewer doors.
//!
//! The list names what is denied rather than what is allowed: libraries and kernels change which of several calls they
//! use, a process that ends because of that helps nobody. A denied call answers `EPERM`.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use thiserror::Error;

/// Why a process cannot be confined.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// Not one of the machines that seccompiler knows.
    #[error("system calls of this machine cannot be filtered")]
    Machine(#[source] seccompiler::BackendError),
    /// The list cannot be made a filter.
    #[error("the filter of system calls cannot be built")]
    Build(#[source] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("the kernel refused the filter of system calls")]
    Install(#[source] seccompiler::Error),
}

/// Become another program. charon does it once: it is started under the filter. sshd does it for each who comes.
const EXEC: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// What no process of a gateway does.
const NEVER: &[libc::c_long] = &[
    // Look into other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Change the file system's shape, or leave the namespaces it was born in.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // Change the kernel or the machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Parts of the kernel with a history of faults and no use here.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
];

/// Set the clock: chronyd does, unless it keeps its hands off it.
const CLOCK: &[libc::c_long] = &[
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
];

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confined {
    /// May load XDP programs.
    Dataplane,
    /// May start a program: itself.
    Charon,
    /// May start programs, itself and the account's shell, and change its root folder: it shuts in who is not known yet.
    Sshd,
    /// May start a program, itself, and set the clock.
    Chronyd,
    /// May do none of it.
    Other,
}

/// Closes the calls to every thread of this process, for good.
pub fn confine(process: Confined) -> Result<(), ConfinementError> {
    seccompiler::apply_filter_all_threads(&filter(process)?).map_err(ConfinementError::Install)
}

/// The filter alone, for a process that is yet to start.
pub fn filter(process: Confined) -> Result<BpfProgram, ConfinementError> {
    let machine: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(ConfinementError::Machine)?;
    let mut rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        NEVER.iter().map(|&call| (call, Vec::new())).collect();
    if process != Confined::Dataplane {
        rules.insert(libc::SYS_bpf, Vec::new());
    }
    if process == Confined::Sshd {
        rules.remove(&libc::SYS_chroot);
    }
    if process != Confined::Chronyd {
        rules.extend(CLOCK.iter().map(|&call| (call, Vec::new())));
    }
    if !matches!(
        process,
        Confined::Charon | Confined::Sshd | Confined::Chronyd
    ) {
        rules.extend(EXEC.iter().map(|&call| (call, Vec::new())));
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        machine,
    )
    .and_then(BpfProgram::try_from)
    .map_err(ConfinementError::Build)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::UdpSocket;
    use std::process::Command;
    use std::thread;

    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::time::TimeSpec;
    use nix::time::{ClockId, clock_settime};

    use super::*;

    /// For the thread alone: the other tests of this process go on as they are.
    fn on_confined_thread(process: Confined, body: impl FnOnce() + Send) {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    seccompiler::apply_filter(&filter(process).unwrap()).unwrap();
                    body();
                })
                .join()
                .unwrap();
        });
    }

    #[test]
    fn closed_calls_are_refused_and_the_others_work() {
        on_confined_thread(Confined::Other, || {
            assert_eq!(unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
            assert!(Command::new("/bin/true").status().is_err());
            UdpSocket::bind("127.0.0.1:0").unwrap();
            thread::spawn(|| {
                assert_eq!(unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
            })
            .join()
            .unwrap();
        });
        unshare(CloneFlags::empty()).unwrap();
    }

    #[test]
    fn a_program_starts_under_charons_filter_and_is_confined() {
        on_confined_thread(Confined::Charon, || {
            assert!(Command::new("/bin/true").status().unwrap().success());
            assert_eq!(unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
        });
    }

    #[test]
    fn only_chronyd_may_set_the_clock() {
        // A clock that there is not: who may call learns just that.
        let set = || {
            let none = ClockId::from_raw(9999);
            clock_settime(none, TimeSpec::new(0, 0)).unwrap_err()
        };
        for (process, may) in [
            (Confined::Chronyd, true),
            (Confined::Charon, false),
            (Confined::Sshd, false),
            (Confined::Dataplane, false),
            (Confined::Other, false),
        ] {
            on_confined_thread(process, || {
                let expected = if may { Errno::EINVAL } else { Errno::EPERM };
                assert_eq!(set(), expected, "{process:?}");
            });
        }
    }

    #[test]
    fn only_the_dataplane_may_load_programs() {
        let maps = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        for process in [Confined::Dataplane, Confined::Other] {
            on_confined_thread(process, || {
                assert!(maps().lines().any(|line| line == "Seccomp:\t2"));
            });
        }
        let program = |process| filter(process).unwrap().len();
        assert!(program(Confined::Other) > program(Confined::Dataplane));
    }
}
