//! Real charons for tests, each in namespaces of its own.
//!
//! ```text
//!   Host a ── network and mount namespace, tmpfs on /run, a copy of charon's plugin folder
//!     │ veth "wan" 192.0.2.1/24
//!     │ veth "wan" 192.0.2.2/24
//!   Host b
//! ```
//!
//! The namespaces have no names: they exist as long as a process does, and every process dies with the test that
//! started it. Nothing is left behind, however the test ends.
#![allow(dead_code)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Debian's charon.
pub const PROGRAM: &str = "/usr/lib/ipsec/charon";

const PLUGINS: &str = "/usr/lib/ipsec/plugins";

/// Plugins that every charon of these tests loads; the IPsec backend comes before them.
const LOAD: &str = "openssl random nonce aes sha1 sha2 hmac gcm ccm ctr chapoly curve25519 kdf drbg pem pkcs1 pkcs8 x509 \
                    revocation constraints pubkey kernel-netlink socket-default vici updown";

/// A network and mount namespace, held open by a process that sleeps.
pub struct Host {
    holder: Child,
    directory: tempfile::TempDir,
}

impl Host {
    /// Makes the namespaces; `extra` plugin files are put into charon's plugin folder.
    pub fn new(extra: &[(&str, &Path)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("culvert-test-").tempdir()?;
        let holder = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sleep",
                "600",
            ])
            .stdin(Stdio::null())
            .spawn()
            .context("setpriv and unshare (util-linux) are needed, and root")?;
        let host = Self { holder, directory };
        host.await_namespaces()?;
        let folder = host.path("plugins");
        host.run(&["cp", "-a", PLUGINS, text(&folder)])?;
        for (name, file) in extra {
            host.run(&["cp", text(file), text(&folder.join(name))])?;
        }
        host.run(&["mount", "--bind", text(&folder), PLUGINS])?;
        host.run(&["mount", "-t", "tmpfs", "tmpfs", "/run"])?;
        host.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// Joins two hosts by a veth pair named `wan`, 192.0.2.1 here and 192.0.2.2 there; behind them are 10.1.0.1 and
    /// 10.2.0.1 (kernel-libipsec's routes want an address inside the local selector).
    pub fn join(&self, other: &Self) -> Result<()> {
        let pid = other.holder.id().to_string();
        self.run(&[
            "ip", "link", "add", "wan", "type", "veth", "peer", "name", "wan", "netns", &pid,
        ])?;
        for (host, address, inner) in [
            (self, "192.0.2.1/24", "10.1.0.1/16"),
            (other, "192.0.2.2/24", "10.2.0.1/16"),
        ] {
            host.run(&["ip", "address", "add", address, "dev", "wan"])?;
            host.run(&["ip", "link", "set", "wan", "up"])?;
            host.run(&[
                "ip", "link", "add", "lan", "type", "veth", "peer", "name", "lan-end",
            ])?;
            host.run(&["ip", "address", "add", inner, "dev", "lan"])?;
            host.run(&["ip", "link", "set", "lan", "up"])?;
            host.run(&["ip", "link", "set", "lan-end", "up"])?;
        }
        Ok(())
    }

    /// A path in this host's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command that runs in the namespaces.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "nsenter",
                "--net",
                "--mount",
                "--target",
            ])
            .arg(self.holder.id().to_string())
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command in the namespaces to its end, which must be good.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let (program, arguments) = arguments.split_first().context("no command")?;
        let output = self.command(program).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the holder is in namespaces of its own.
    fn await_namespaces(&self) -> Result<()> {
        let theirs = format!("/proc/{}/ns/mnt", self.holder.id());
        let ours = std::fs::read_link("/proc/self/ns/mnt")?;
        within(Duration::from_secs(5), "namespaces", || {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", self.holder.id()))?;
            Ok((std::fs::read_link(&theirs)? != ours && comm.trim() == "sleep").then_some(()))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running charon.
pub struct Charon {
    process: Child,
    log: PathBuf,
    /// Its VICI socket.
    pub vici: PathBuf,
}

impl Charon {
    /// Starts charon on a host with an IPsec backend (`kernel-libipsec!`, `culvert!`) and waits until VICI listens.
    pub fn start(host: &Host, backend: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::spawn(host, backend, environment)?.ready()
    }

    /// Starts charon and waits for nothing.
    pub fn spawn(host: &Host, backend: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let vici = host.path("vici");
        let conf = format!(
            "charon {{\n load_modular = no\n load = {backend} {LOAD}\n install_routes = no\n \
             install_virtual_ip = no\n filelog {{\n  stderr {{\n   default = 1\n   flush_line = yes\n  }}\n }}\n \
             plugins {{\n  vici {{\n   socket = unix://{}\n  }}\n  kernel-libipsec {{\n   allow_peer_ts = yes\n  }}\n \
             }}\n}}\n",
            vici.display(),
        );
        Self::spawn_program(host, PROGRAM, &conf, environment)
    }

    /// Starts a program as charon, with a configuration that has VICI at `vici` in the host's folder.
    pub fn spawn_program(
        host: &Host,
        program: &str,
        conf: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let (conf_file, log, vici) = (
            host.path("strongswan.conf"),
            host.path("charon.log"),
            host.path("vici"),
        );
        let _ = std::fs::remove_file(&vici);
        std::fs::write(&conf_file, conf)?;
        let output = std::fs::File::create(&log)?;
        let process = host
            .command(program)
            .env("STRONGSWAN_CONF", &conf_file)
            .envs(environment.iter().copied())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self { process, log, vici })
    }

    /// Waits until VICI listens.
    pub fn ready(self) -> Result<Self> {
        within(Duration::from_secs(15), "charon's VICI socket", || {
            Ok(std::os::unix::net::UnixStream::connect(&self.vici)
                .is_ok()
                .then_some(()))
        })
        .with_context(|| self.log())?;
        Ok(self)
    }

    /// What charon wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Waits for its end: the exit status, or the number of the signal.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        let status = within(limit, "charon's end", || Ok(self.process.try_wait()?))?;
        status
            .code()
            .or_else(|| status.signal())
            .context("neither status nor signal")
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// `kill -TERM`.
    pub fn terminate(&self) -> Result<()> {
        let status = Command::new("kill")
            .arg(self.process.id().to_string())
            .status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Tries until there is a value, or the time is over.
pub fn within<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(Some(value)) => return Ok(value),
            other if Instant::now() > deadline => {
                other?;
                bail!("no {what} within {limit:?}");
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
