//! Processes of a laboratory: started inside a namespace, bounded in time, and never left behind.

use std::{
    fs, io,
    io::{Read, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    time::ClockId,
    unistd::{Pid, SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

use crate::namespace::{Namespace, NamespaceError};

/// How often a waiting thread looks again.
const POLL: Duration = Duration::from_millis(10);

/// Why a process did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started inside its namespace.
    #[error("{program}: {source}")]
    Start {
        /// What was to run.
        program: String,
        /// Why not.
        source: NamespaceError,
    },
    /// It could not be waited for.
    #[error("{program}: {source}")]
    Wait {
        /// What runs.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {limit:?}")]
    Late {
        /// What ran.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// It ended with another status than 0.
    #[error("{program}: {status}: {output}")]
    Failed {
        /// What ran.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote, both streams.
        output: String,
    },
    /// The person who watches asked for an end.
    #[error("interrupted")]
    Interrupted,
}

/// Set once, by a signal, to end everything that waits.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks everything that waits to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether an end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Fails when an end was asked for.
    pub fn check(&self) -> Result<(), ProcessError> {
        if self.is_set() {
            Err(ProcessError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Sleeps, unless an end is asked for.
    pub fn sleep(&self, duration: Duration) -> Result<(), ProcessError> {
        let until = Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }
}

/// What a process has calculated, and what the kernel has for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessorTimes {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

/// Names one process for good: its number may be given to another one later, its start time not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Clock ticks between the start of the machine and that of the process.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Of a running process; `None` when there is none, or it is a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            // Field 22 of proc_pid_stat(5).
            start_ticks: *stat_numbers(pid)?.get(22 - FIRST_NUMBER)?,
        })
    }

    /// Processor time that it has used so far, in user and system mode, all threads together; to the nanosecond, for an
    /// idle process uses less in a second than the steps in which `/proc` counts. `None` when it is gone.
    pub fn processor_time(self) -> Option<Duration> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?);
        let used = ClockId::pid_cpu_clock_id(pid).ok()?.now().ok()?;
        self.is_running().then_some(used.into())
    }

    /// The same, told apart, in the steps of 10 ms in which `/proc` counts: for a process that is busy.
    pub fn processor_times(self) -> Option<ProcessorTimes> {
        let numbers = stat_numbers(self.pid)?;
        let per_second = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??)
            .ok()
            .filter(|ticks| *ticks > 0)?;
        // Fields 14 and 15, and 22 again.
        let time = |field: usize| {
            let ticks = numbers.get(field - FIRST_NUMBER)?;
            Some(Duration::from_secs(*ticks) / per_second)
        };
        let times = ProcessorTimes {
            user: time(14)?,
            system: time(15)?,
        };
        (*numbers.get(22 - FIRST_NUMBER)? == self.start_ticks).then_some(times)
    }

    /// Whether this very process still runs.
    pub fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still is this very process. Answers whether it was.
    pub fn signal(self, signal: Signal) -> bool {
        self.is_running()
            && i32::try_from(self.pid).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// Waits until it is gone; answers whether it is.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// Asks it to end, and kills it when it has not after `grace`. Answers whether it is gone.
    pub fn end(self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        if self.wait_gone(grace) {
            return true;
        }
        self.signal(Signal::SIGKILL);
        self.wait_gone(Duration::from_secs(5))
    }
}

/// The first of the numbers below; what comes before it is text.
const FIRST_NUMBER: usize = 4;

/// `/proc/PID/stat` from its fourth field on; `None` when the process is gone or a zombie.
fn stat_numbers(pid: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold anything, parentheses and blanks too; the last parenthesis ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Some are negative (the terminal's group, the niceness), and none of those is asked for.
    Some(
        fields
            .map(|field| field.parse().unwrap_or_default())
            .collect(),
    )
}

/// Processes that carry `argument`, as a whole, after `option` on their command line.
pub fn with_argument(option: &str, argument: &str) -> Vec<ProcessIdentity> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            Some((
                ProcessIdentity::of(pid)?,
                fs::read(format!("/proc/{pid}/cmdline")).ok()?,
            ))
        })
        .filter(|(_, line)| {
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words
                .windows(2)
                .any(|pair| pair == [option.as_bytes(), argument.as_bytes()])
        })
        .map(|(identity, _)| identity)
        .collect()
}

/// A process that is killed when this goes out of scope.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts a process inside a namespace.
    pub fn start(namespace: &Namespace, command: &mut Command) -> Result<Self, ProcessError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = namespace
            .spawn(command)
            .map_err(|source| ProcessError::Start { program, source })?;
        Ok(Self { child })
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program inside a namespace to its end and gives what it wrote to its standard output.
/// Statuses in `accepted` are as good as 0.
pub fn run(
    namespace: &Namespace,
    command: &mut Command,
    accepted: &[i32],
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String, ProcessError> {
    run_with(namespace, command, &[], accepted, limit, interrupt)
}

/// The same with something to read on its standard input.
pub fn run_with(
    namespace: &Namespace,
    command: &mut Command,
    input: &[u8],
    accepted: &[i32],
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String, ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Guarded::start(namespace, command)?;
    if let Some(mut stdin) = process.child().stdin.take() {
        let input = input.to_owned();
        // It may have read enough before the end.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let reader = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(
        process
            .child()
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    );
    let err = reader(
        process
            .child()
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    );
    let until = Instant::now() + limit;
    let status = loop {
        interrupt.check()?;
        match process.child().try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() >= until => {
                return Err(ProcessError::Late { program, limit });
            }
            Ok(None) => thread::sleep(POLL),
            Err(source) => return Err(ProcessError::Wait { program, source }),
        }
    };
    let out = out.join().unwrap_or_default();
    let err = err.join().unwrap_or_default();
    if status.success() || status.code().is_some_and(|code| accepted.contains(&code)) {
        Ok(out)
    } else {
        let output = format!("{} {}", err.trim(), out.trim()).trim().to_owned();
        Err(ProcessError::Failed {
            program,
            status,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_identity_names_one_process_only() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        assert!(identity.is_running());
        let other = ProcessIdentity {
            start_ticks: identity.start_ticks + 1,
            ..identity
        };
        assert!(
            !other.signal(Signal::SIGKILL),
            "another process of the same number is not touched"
        );
        assert!(identity.is_running());
        assert!(identity.signal(Signal::SIGKILL));
        assert!(
            identity.wait_gone(Duration::from_secs(5)),
            "a zombie counts as gone"
        );
        child.wait().unwrap();
    }

    #[test]
    fn processor_time_grows_with_work() {
        let mut child = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while identity.processor_time().unwrap() < Duration::from_millis(50) {
            assert!(Instant::now() < until, "a busy loop uses its processor");
            thread::sleep(POLL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(identity.processor_time(), None);
    }

    #[test]
    fn a_process_is_found_by_its_argument() {
        let mark = format!("/nowhere/{}", std::process::id());
        // It starts no process of its own, which would have its arguments until it has become another program.
        let mut child = Command::new("sh")
            .args(["-c", "read line; true", "--root", &mark])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while with_argument("--root", &mark).is_empty() && Instant::now() < until {
            thread::sleep(POLL);
        }
        let found: Vec<u32> = with_argument("--root", &mark)
            .iter()
            .map(|identity| identity.pid)
            .collect();
        assert_eq!(found, vec![child.id()]);
        assert!(with_argument("--root", "/nowhere").is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_has_its_time_and_its_status() {
        let name = format!("culvert-unit-{}-run", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        let interrupt = Interrupt::default();
        let shell = |script: &str, limit| {
            run(
                &namespace,
                Command::new("sh").args(["-c", script]),
                &[3],
                Duration::from_millis(limit),
                &interrupt,
            )
        };
        assert_eq!(
            shell("echo out; echo err >&2; exit 3", 5000).unwrap(),
            "out\n"
        );
        assert!(matches!(shell("echo why >&2; exit 4", 5000),
            Err(ProcessError::Failed { output, .. }) if output == "why"));
        assert!(matches!(
            shell("exec sleep 30", 100),
            Err(ProcessError::Late { .. })
        ));
        interrupt.set();
        assert!(matches!(
            shell("exec sleep 30", 60_000),
            Err(ProcessError::Interrupted)
        ));
        assert!(
            namespace.processes().unwrap().is_empty(),
            "nothing is left behind"
        );
        Namespace::remove(&name).unwrap();
    }
}
