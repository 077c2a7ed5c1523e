//! One gateway of a laboratory: `culvert run` inside its namespace, known by pid and start time.
//!
//! ```text
//!   FOLDER/gateway-a.json   configuration that it begins with
//!   FOLDER/gateway-a.pid    process id and start time of `culvert run`
//!   FOLDER/gateway-a.log    what it writes
//!   FOLDER/gateway-a/       its --root
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use culvert_crypto::EngineChoice;
use culvert_netlab::{
    addressing::Side,
    namespace::{Namespace, NamespaceError},
    process::{Interrupt, ProcessError, ProcessIdentity, with_argument},
};
use serde::Deserialize;
use serde_json::Value;

/// Interfaces, charon, credentials and the first reconciliation: a second or two; a busy machine is given more.
const START: Duration = Duration::from_mins(1);
/// An orderly stop says goodbye to the peer, and waits for charon.
const STOP: Duration = Duration::from_secs(20);
/// After it, what an orphan has not ended by is a kill.
const ORPHAN: Duration = Duration::from_secs(2);
/// Lines of the log that an error quotes.
const LAST_LINES: usize = 15;

/// Why a gateway could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A file of the laboratory could not be written or read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Its namespace is missing or cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// It ended before it was ready.
    #[error("{name} ended before it was ready; the end of {log}:\n{last}", log = log.display())]
    Ended {
        /// The gateway.
        name: &'static str,
        /// Where it wrote to.
        log: PathBuf,
        /// What it wrote last.
        last: String,
    },
    /// It was not ready in time.
    #[error("{name} was not ready after {START:?}; it says:\n{status}\nthe end of {log}:\n{last}", log = log.display())]
    NotReady {
        /// The gateway.
        name: &'static str,
        /// Where it wrote to.
        log: PathBuf,
        /// Its status file.
        status: String,
        /// What it wrote last.
        last: String,
    },
    /// Somebody asked for an end.
    #[error(transparent)]
    Interrupted(#[from] ProcessError),
}

/// What `culvert run` is told beyond root and configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The cipher engine; absent: the best one of this CPU.
    pub engine: Option<EngineChoice>,
    /// Forwarding threads; absent: the dataplane's choice.
    pub workers: Option<u32>,
    /// How frames come and go; absent: the dataplane's choice.
    pub driver: Option<String>,
}

/// One gateway, running or not.
#[derive(Debug)]
pub struct Gateway {
    side: Side,
    folder: PathBuf,
    child: Option<Child>,
}

/// The part of `run/status.json` that a laboratory waits for.
#[derive(Debug, Deserialize)]
struct Status {
    pid: u32,
    ready: bool,
}

impl Gateway {
    /// The gateway of this side, whose files are in `folder`.
    pub fn new(side: Side, folder: &Path) -> Self {
        Self {
            side,
            folder: folder.to_owned(),
            child: None,
        }
    }

    /// Its `--root`.
    pub fn root(&self) -> PathBuf {
        self.folder.join(self.name())
    }

    /// Whether `culvert run` is running.
    pub fn is_running(&self) -> bool {
        self.recorded().is_some_and(ProcessIdentity::is_running)
    }

    /// Whether it runs and says that its start is over.
    pub fn is_ready(&self) -> bool {
        self.recorded().is_some_and(|process| {
            process.is_running()
                && self
                    .status()
                    .is_some_and(|status| status.ready && status.pid == process.pid)
        })
    }

    /// Starts it with this configuration, whatever was committed in an earlier life. [`Gateway::wait_ready`] tells when it
    /// forwards.
    pub fn start(
        &mut self,
        namespace: &Namespace,
        configuration: &Value,
        options: &RunOptions,
    ) -> Result<(), GatewayError> {
        let root = self.root();
        let path = self.file("json");
        create_folder(&root)?;
        let store = root.join(culvert_mgmt::STORE);
        if let Err(source) = fs::remove_dir_all(&store)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&store)(source));
        }
        fs::write(&path, format!("{configuration:#}\n")).map_err(failed(&path))?;
        let status = self.status_file();
        if let Err(source) = fs::remove_file(&status)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&status)(source));
        }
        let log_path = self.file("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(failed(&log_path))?;
        let errors = log.try_clone().map_err(failed(&log_path))?;
        let program = std::env::current_exe().map_err(failed(Path::new("/proc/self/exe")))?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--root")
            .arg(&root)
            .arg("--config")
            .arg(&path)
            .arg("--keep-clock");
        if let Some(engine) = options.engine {
            command.args(["--engine", engine.keyword()]);
        }
        if let Some(workers) = options.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(driver) = &options.driver {
            command.args(["--driver", driver]);
        }
        // A group of its own: an interrupt from the keyboard is for the laboratory, which stops its
        // gateways in order.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = namespace.spawn(&mut command)?;
        if let Some(identity) = ProcessIdentity::of(child.id()) {
            let path = self.file("pid");
            let text =
                serde_json::to_string(&identity).map_err(|error| failed(&path)(error.into()))?;
            fs::write(&path, text).map_err(failed(&path))?;
        }
        self.child = Some(child);
        Ok(())
    }

    /// Waits until everything is as configured.
    pub fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<(), GatewayError> {
        let until = Instant::now() + START;
        while !self.is_ready() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait().is_ok_and(|status| status.is_some()),
                None => !self.is_running(),
            };
            if ended {
                return Err(GatewayError::Ended {
                    name: self.name(),
                    log: self.file("log"),
                    last: self.last_lines(),
                });
            }
            if Instant::now() >= until {
                return Err(GatewayError::NotReady {
                    name: self.name(),
                    log: self.file("log"),
                    status: fs::read_to_string(self.status_file())
                        .unwrap_or_else(|_| "nothing".to_owned()),
                    last: self.last_lines(),
                });
            }
            interrupt.sleep(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Stops it in order, and ends whatever of it is left. Answers whether the order was kept.
    pub fn stop(&mut self) -> bool {
        let orderly = self.recorded().is_none_or(|process| {
            !process.is_running() || {
                process.signal(nix::sys::signal::Signal::SIGTERM);
                process.wait_gone(STOP)
            }
        });
        let left = self.left_over();
        for process in &left {
            process.end(ORPHAN);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.file("pid"));
        orderly && left.is_empty()
    }

    /// Processes that were started with this root, `culvert run` itself included.
    pub fn left_over(&self) -> Vec<ProcessIdentity> {
        with_argument("--root", &self.root().to_string_lossy())
    }

    fn name(&self) -> &'static str {
        self.side.gateway().name()
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(self.name()).with_extension(extension)
    }

    fn status_file(&self) -> PathBuf {
        self.root().join("run").join("status.json")
    }

    fn status(&self) -> Option<Status> {
        serde_json::from_slice(&fs::read(self.status_file()).ok()?).ok()
    }

    fn recorded(&self) -> Option<ProcessIdentity> {
        serde_json::from_slice(&fs::read(self.file("pid")).ok()?).ok()
    }

    fn last_lines(&self) -> String {
        let text = fs::read(self.file("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_LINES);
        lines.get(first..).unwrap_or_default().join("\n")
    }
}

/// Makes a folder and its parents. Who logs in to a gateway passes through them, and sees nothing of what is in them.
pub fn create_folder(path: &Path) -> Result<(), GatewayError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> GatewayError {
    let path = path.to_owned();
    move |source| GatewayError::File {
        path: path.clone(),
        source,
    }
}
