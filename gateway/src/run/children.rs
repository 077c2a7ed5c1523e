//! Running processes: their start, their end, and signals to them.
//!
//! Each has a task that waits for its end and is the only one to signal it, so that no signal reaches a stranger that
//! was given the number of a process already gone.

use std::collections::BTreeMap;
use std::ffi::NulError;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use culvert_plugin_wire::SOCKET_ENV;
use culvert_tap_inject::device::{INHERITED_VARIABLE, Tap, TapName, inherited_variable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seccompiler::BpfProgram;
use thiserror::Error;
use tokio::sync::mpsc;

use super::capabilities::Capabilities;
use super::charon::{CharonError, Installation};
use super::host_name::HostName;
use super::launch::{Launch, MountPlan};
use super::login::{Login, LoginError};
use super::namespace::Namespace;
use super::ntp::{Chronyd, NtpError};
use super::resolver;
use super::root::Root;
use super::supervisor::Process;
use crate::process::confinement::{Confined, ConfinementError, filter};

/// A commit takes much memory for a moment: glibc (mallopt(3)) gives it back instead of keeping it for the next one.
const GIVES_BACK: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "262144"),
    ("MALLOC_TRIM_THRESHOLD_", "1048576"),
];

/// Why a process does not start.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Its log cannot be opened.
    #[error("cannot open the log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not start it.
    #[error("cannot start {process}")]
    Start {
        /// Which one.
        process: Process,
        /// What the kernel said.
        source: io::Error,
    },
    /// Our own program cannot be found, or a descriptor not be copied.
    #[error("cannot prepare the start of {process}")]
    Prepare {
        /// Which one.
        process: Process,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be confined.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// A path of its file system.
    #[error("a path with a zero byte")]
    Path(#[from] NulError),
    /// Its file system cannot be laid out.
    #[error(transparent)]
    Charon(#[from] CharonError),
    /// What chronyd needs cannot be made.
    #[error(transparent)]
    Ntp(#[from] NtpError),
    /// What sshd needs cannot be made.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// How the processes of one gateway are started.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Of this gateway.
    pub root: Root,
    /// Of charon.
    pub charon: Installation,
    /// Of sshd.
    pub login: Login,
    /// Of chronyd.
    pub chronyd: Chronyd,
    /// Of all of them.
    pub host_name: HostName,
    /// Arguments of the dataplane besides `--root`.
    pub dataplane_arguments: Vec<String>,
}

/// A process ended.
#[derive(Debug)]
pub struct Ended {
    /// Which one.
    pub process: Process,
    /// Its number.
    pub pid: u32,
    /// How; none: that is not known.
    pub status: Option<ExitStatus>,
}

/// The running processes of one gateway.
#[derive(Debug)]
pub struct Children {
    running: BTreeMap<Process, Running>,
    ends: mpsc::UnboundedSender<Ended>,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Children {
    /// None yet; ends are told to the receiver.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (ends, receiver) = mpsc::unbounded_channel();
        let running = BTreeMap::new();
        (Self { running, ends }, receiver)
    }

    /// The number of a running process.
    pub fn pid(&self, process: Process) -> Option<u32> {
        self.running.get(&process).map(|running| running.pid)
    }

    /// Starts a process; on the main thread, with whose end the process dies.
    pub fn spawn(
        &mut self,
        process: Process,
        recipe: &Recipe,
        network: &Namespace,
        taps: &BTreeMap<TapName, Tap>,
    ) -> Result<u32, SpawnError> {
        let launch = recipe.launch(process, network, taps)?;
        let start = |source| SpawnError::Start { process, source };
        let mut child = launch.spawn().map_err(start)?;
        let pid = child
            .id()
            .ok_or_else(|| start(io::Error::from(io::ErrorKind::NotFound)))?;
        let pid_file = recipe.root.pid_file(process.name());
        if let Err(error) = fs::write(&pid_file, format!("{pid}\n")) {
            tracing::warn!(path = %pid_file.display(), %error, "cannot write");
        }
        let (signals, mut requests) = mpsc::unbounded_channel::<Signal>();
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.ok(),
                    Some(signal) = requests.recv() => {
                        // None: it ended, and the next turn says so.
                        if let Some(pid) = child.id()
                            && let Err(error) = kill(Pid::from_raw(pid.cast_signed()), signal)
                        {
                            tracing::error!(%process, %error, "cannot send {signal}");
                        }
                    }
                }
            };
            let _ = fs::remove_file(pid_file);
            // Nobody listens once the gateway is gone.
            let _ = ends.send(Ended {
                process,
                pid,
                status,
            });
        });
        self.running.insert(process, Running { pid, signals });
        Ok(pid)
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, process: Process, signal: Signal) {
        if let Some(running) = self.running.get(&process) {
            let _ = running.signals.send(signal);
        }
    }

    /// Takes note of an end that the receiver told.
    pub fn ended(&mut self, ended: &Ended) {
        if self.pid(ended.process) == Some(ended.pid) {
            self.running.remove(&ended.process);
        }
    }
}

impl Recipe {
    fn launch(
        &self,
        process: Process,
        network: &Namespace,
        taps: &BTreeMap<TapName, Tap>,
    ) -> Result<Launch, SpawnError> {
        let prepare = |source| SpawnError::Prepare { process, source };
        let mut launch = Launch {
            command: match process {
                Process::Charon => Command::new(&self.charon.program),
                Process::Sshd => Command::new(&self.login.program),
                Process::Chronyd => Command::new(&self.chronyd.program),
                Process::Mgmt | Process::Dataplane | Process::Dhcp | Process::IkedBridge => {
                    let mut command = Command::new(own_program().map_err(prepare)?);
                    command
                        .arg(process.name())
                        .arg("--root")
                        .arg(self.root.folder());
                    command
                }
            },
            network: None,
            mounts: None,
            descriptors: Vec::new(),
            capabilities: Capabilities::NONE,
            changes_user: false,
            filter: BpfProgram::new(),
            sheds_profile: matches!(process, Process::Charon | Process::Chronyd),
        };
        launch
            .command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for passed in ["CULVERT_LOG", "RUST_BACKTRACE", "TZ"] {
            if let Some(value) = std::env::var_os(passed) {
                launch.command.env(passed, value);
            }
        }
        match process {
            Process::Dataplane => {
                launch.command.args(&self.dataplane_arguments);
                let numbers = taps
                    .iter()
                    .map(|(name, tap)| (name, tap.as_fd().as_raw_fd()));
                launch.descriptors = numbers.clone().map(|(_, number)| number).collect();
                launch
                    .command
                    .env(INHERITED_VARIABLE, inherited_variable(numbers));
                launch.capabilities = Capabilities::DATAPLANE;
                let network: OwnedFd = network.as_fd().try_clone_to_owned().map_err(prepare)?;
                launch.network = Some(network);
            }
            Process::Mgmt => {
                let account = self.login.uid.to_string();
                launch.command.args(["--login-account", &account]);
                launch.command.envs(GIVES_BACK);
                let mut mounts = MountPlan::default();
                resolver::hide_daemons(&mut mounts);
                resolver::graft(&self.root, &mut mounts)?;
                launch.mounts = Some(mounts);
            }
            // In the namespace of the TAPs.
            Process::Dhcp => launch.capabilities = Capabilities::DHCP,
            Process::IkedBridge => {}
            Process::Sshd => {
                let shell = mountable_program(&self.root).map_err(prepare)?;
                launch.mounts = Some(self.login.prepare(&self.root, &shell)?);
                // In the foreground, with its log on standard error.
                launch
                    .command
                    .args(["-D", "-e", "-f"])
                    .arg(self.root.sshd_config());
                launch.capabilities = Capabilities::SSHD;
                launch.changes_user = true;
                launch.filter = filter(Confined::Sshd)?;
            }
            Process::Chronyd => self.sets_the_clock(&mut launch)?,
            Process::Charon => {
                launch
                    .command
                    .env("STRONGSWAN_CONF", self.root.strongswan_conf())
                    // Its log has times in UTC, like the others.
                    .env("TZ", "UTC")
                    .env(SOCKET_ENV, self.root.plugin_socket());
                launch.mounts = Some(self.charon.mounts(&self.root)?);
                launch.capabilities = Capabilities::CHARON;
                launch.filter = filter(Confined::Charon)?;
            }
        }
        // charon writes its own log; what it says before that, and what the loader says, goes beside it.
        let name = match process {
            Process::Charon => "charon.stderr",
            other => other.name(),
        };
        let log = self.open_log(name)?;
        let copy = log.try_clone().map_err(prepare)?;
        launch
            .command
            .stdout(Stdio::from(copy))
            .stderr(Stdio::from(log));
        Ok(launch)
    }

    fn sets_the_clock(&self, launch: &mut Launch) -> Result<(), SpawnError> {
        launch.mounts = Some(self.chronyd.prepare(&self.root)?);
        // In the foreground, with its log on standard error, and as the user that it is started as.
        launch
            .command
            .args(["-d", "-u", "root", "-f"])
            .arg(self.root.chrony_conf());
        let confined = if self.chronyd.keeps_clock {
            launch.command.arg("-x");
            Confined::Charon
        } else {
            launch.capabilities = Capabilities::CHRONYD;
            Confined::Chronyd
        };
        launch.filter = filter(confined)?;
        Ok(())
    }

    fn open_log(&self, name: &str) -> Result<File, SpawnError> {
        let path = self.root.log(name);
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)
            .map_err(|source| SpawnError::Log { path, source })
    }
}

/// Leads to the file that was started, also when it has no name any more.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The program this process runs, for a child that is still a copy of it: also when its file was replaced by an update.
/// The link of this process' number would be closed to a child with less capabilities.
fn own_program() -> io::Result<PathBuf> {
    let link = PathBuf::from(OWN_PROGRAM);
    let named = fs::read_link(&link)?;
    Ok(if named.exists() { named } else { link })
}

/// A file of it that can be mounted somewhere: the kernel mounts none without a name. After an update a copy, so that
/// those who log in speak to mgmt as those did before.
fn mountable_program(root: &Root) -> io::Result<PathBuf> {
    let program = own_program()?;
    if program != Path::new(OWN_PROGRAM) {
        return Ok(program);
    }
    let copy = root.program_copy();
    // Sessions may run the last one.
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(program, &copy)?;
    Ok(copy)
}
