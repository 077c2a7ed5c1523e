//! No core dumps: what a process had in memory when it crashed are keys and passwords among other things.
//!
//! | how the kernel would write one | what keeps it from that |
//! | --- | --- |
//! | a file in the working directory | a limit below the smallest file there is |
//! | a program that it starts (`core_pattern` with a bar) asks for no limit | a limit of exactly 1 byte, at which the kernel starts none |
//! | either, and ptrace, by anybody of the same user | the process is not dumpable |
//!
//! The limit passes to every process that is started, charon and sshd among them, and none can raise it again. Whether a
//! process is dumpable is forgotten when it becomes another program: each of ours says it for itself.
//!
//! A debugger that root attaches still sees everything.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// See the page: of 0 bytes a program that collects dumps would not care.
pub const LIMIT: u64 = 1;

/// This process, and those that it starts, leave no dump when they crash. Says so where they may.
pub fn limit() -> io::Result<()> {
    lower()?;
    let found = getrlimit(Resource::Core).current;
    if found != Some(LIMIT) {
        tracing::warn!(
            found,
            "a program that collects core dumps (kernel.core_pattern) gets those of charon, sshd and chronyd: the limit of \
             core dumps cannot be made 1 byte; start culvert with LimitCORE=1, or as root with all capabilities"
        );
    }
    Ok(())
}

fn lower() -> io::Result<()> {
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    match setrlimit(Resource::Core, limit) {
        // A lower one was set by who started it, and this process may not raise it.
        Err(rustix::io::Errno::PERM) => Ok(()),
        outcome => outcome.map_err(io::Error::from),
    }
}

/// The same, and nobody but root looks into this process. For one that holds secrets.
pub fn forbid() -> io::Result<()> {
    lower()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell that kills itself by a signal for which the kernel would write a dump.
    fn crash(folder: &Path, signal: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("ulimit -c; kill -{signal} $$")])
            .current_dir(folder)
            .stdout(Stdio::piped());
        command
    }

    #[test]
    fn a_crash_leaves_nothing_behind() {
        for signal in ["ABRT", "SEGV", "BUS"] {
            let place = tempfile::tempdir().unwrap();
            let mut command = crash(place.path(), signal);
            // SAFETY: system calls only.
            #[allow(unsafe_code)]
            unsafe {
                command.pre_exec(forbid);
            }
            let output = command.output().unwrap();
            assert!(output.status.signal().is_some(), "{output:?}");
            assert!(!output.status.core_dumped(), "{signal}");
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{signal}");
        }
    }
}
