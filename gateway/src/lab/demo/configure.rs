//! How an operator configures both gateways: over SSH from the hosts beside them, as a box that comes from the factory is.
//!
//! ```text
//!   host-a ── ssh culvert@10.1.0.1 <<lines ──> lan of gateway-a ── dataplane ── TAP ── sshd ── culvert cli ── mgmt
//!   host-b ── culvert remote config push ────> lan of gateway-b ── the same
//! ```
//!
//! A first configuration knows one admin and the LAN alone. All else comes the two ways that people have: `set` lines through
//! Debian's ssh, a file through `culvert remote`. Both believe a gateway by its host key only, and nothing of it crosses
//! the untrusted side.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use culvert_model::tree::{Location, Show, Tree, TreeError};
use culvert_netlab::{
    addressing::{Family, Side},
    namespace::Namespace,
    process::{self, Interrupt},
};
use serde::Serialize;
use serde_json::Value;

use super::DemoError;

/// The one whose key the gateways know from the factory.
pub const OPERATOR: &str = "operator";
/// The Unix account of everybody.
const ACCOUNT: &str = "culvert";
/// Of whatever is done once over SSH: a commit waits for the parts of the gateway.
const LIMIT: Duration = Duration::from_mins(1);
/// A gateway is ready a moment before its sshd listens.
const LISTENING: Duration = Duration::from_secs(20);

/// One change of a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// gateway-a or gateway-b.
    pub gateway: &'static str,
    /// What for.
    pub what: &'static str,
    /// How, and from where.
    pub by: String,
    /// From the start of the client until it knew that the gateway had applied it.
    pub ms: f64,
}

/// Who configures, with which key.
#[derive(Debug)]
pub struct Operator {
    folder: PathBuf,
    public_key: String,
}

impl Operator {
    /// With a new key, in the folder of the laboratory.
    pub fn new(folder: &Path) -> Result<Self, DemoError> {
        let this = Self {
            folder: folder.to_owned(),
            public_key: String::new(),
        };
        let key = this.key();
        for file in [&key, &key.with_extension("pub"), &this.known_hosts()] {
            match fs::remove_file(file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(file)(source));
                }
                _ => {}
            }
        }
        let output = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "laboratory", "-f"])
            .arg(&key)
            .output()
            .map_err(failed(Path::new("ssh-keygen")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(&key)(io::Error::other(said)));
        }
        let public = key.with_extension("pub");
        let text = fs::read_to_string(&public).map_err(failed(&public))?;
        Ok(Self {
            public_key: text.trim().to_owned(),
            ..this
        })
    }

    /// The public half of the key.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Waits until a gateway can be logged in to, and takes its host key from where the label of a box would have it.
    pub fn meet(
        &self,
        side: Side,
        host: &Namespace,
        root: &Path,
        interrupt: &Interrupt,
    ) -> Result<(), DemoError> {
        let label = root
            .join(culvert_mgmt::login::FOLDER)
            .join(culvert_mgmt::login::HOST_KEY)
            .with_extension("pub");
        let address = SocketAddr::new(side.addresses().gateway_lan(Family::V4).addr(), 22);
        let until = Instant::now() + LISTENING;
        loop {
            let reached = host.enter(|| TcpStream::connect_timeout(&address, LISTENING / 10))?;
            if reached.is_ok() && label.exists() {
                break;
            }
            if Instant::now() >= until {
                return Err(DemoError::NoLogin(side.gateway().name()));
            }
            interrupt.sleep(Duration::from_millis(20))?;
        }
        let key = fs::read_to_string(&label).map_err(failed(&label))?;
        let file = self.known_hosts();
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&file)
            .and_then(|mut opened| writeln!(opened, "{} {}", address.ip(), key.trim()))
            .map_err(failed(&file))
    }

    /// Lines to the command line of a gateway, through Debian's ssh.
    pub fn by_ssh(
        &self,
        side: Side,
        host: &Namespace,
        lines: &str,
        interrupt: &Interrupt,
    ) -> Result<String, DemoError> {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-T"]);
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=20",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command
            .arg("-o")
            .arg(format!(
                "UserKnownHostsFile={}",
                self.known_hosts().display()
            ))
            .arg("-i")
            .arg(self.key())
            .arg(format!("{ACCOUNT}@{}", address(side)))
            .env_remove("SSH_AUTH_SOCK");
        Ok(process::run_with(
            host,
            &mut command,
            lines.as_bytes(),
            &[],
            LIMIT,
            interrupt,
        )?)
    }

    /// `culvert remote` to a gateway.
    pub fn by_remote(
        &self,
        side: Side,
        host: &Namespace,
        arguments: &[&str],
        interrupt: &Interrupt,
    ) -> Result<String, DemoError> {
        let program = std::env::current_exe().map_err(failed(Path::new("/proc/self/exe")))?;
        let mut command = Command::new(program);
        command
            .args(["remote", "--host", &address(side), "--identity"])
            .arg(self.key())
            .arg("--known-hosts")
            .arg(self.known_hosts())
            .args(arguments)
            .env_remove("SSH_AUTH_SOCK");
        Ok(process::run(host, &mut command, &[], LIMIT, interrupt)?)
    }

    /// A file that is pushed.
    pub fn write(&self, side: Side, configuration: &Value) -> Result<PathBuf, DemoError> {
        let file = self
            .folder
            .join(format!("{}-pushed.json", side.gateway().name()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&file)
            .and_then(|mut opened| writeln!(opened, "{configuration:#}"))
            .map_err(failed(&file))?;
        Ok(file)
    }

    fn key(&self) -> PathBuf {
        self.folder.join(OPERATOR)
    }

    fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }
}

fn address(side: Side) -> String {
    side.addresses().gateway_lan(Family::V4).addr().to_string()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DemoError {
    let path = path.to_owned();
    move |source| DemoError::File { path, source }
}

/// The lines by which one configuration becomes another, in which all that is missing is items of lists.
pub fn lines(from: &Value, to: &Value) -> Result<String, TreeError> {
    let written = |configuration: &Value| -> Result<Vec<String>, TreeError> {
        let tree = Tree::from_json(configuration.to_string().as_bytes())?;
        let text = tree.to_set_lines(&Location::root(), &Show::PLAIN);
        Ok(text.lines().map(str::to_owned).collect())
    };
    let (from, to) = (written(from)?, written(to)?);
    let mut lines = String::new();
    for line in from.iter().filter(|line| !to.contains(line)) {
        if let Some(rest) = line.strip_prefix("set ") {
            lines.push_str("delete ");
            lines.push_str(rest);
            lines.push('\n');
        }
    }
    for line in to.iter().filter(|line| !from.contains(line)) {
        lines.push_str(line);
        lines.push('\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::lab::configuration::{Admin, Path as Way, Start, first, managed};

    #[test]
    fn the_lines_make_one_configuration_of_another() {
        let admin = Admin {
            name: OPERATOR,
            public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x",
        };
        let text = |tree: &Tree| tree.to_set_lines(&Location::root(), &Show::PLAIN);
        let tree = |value: &Value| Tree::from_json(value.to_string().as_bytes()).unwrap();
        for side in Side::BOTH {
            let factory = first(side, admin);
            let clear = managed(side, Way::Clear, admin);
            let tunnel = managed(side, Way::Tunnel(Start::OnRequest), admin);
            for (from, to) in [(&factory, &clear), (&clear, &tunnel)] {
                let lines = lines(from, to).unwrap();
                let after = tree(from).load(&lines, &Location::root()).unwrap();
                assert_eq!(*text(&after), *text(&tree(to)), "{lines}");
                // Whoever does it stays in.
                assert!(
                    !lines.contains("system") && !lines.contains("interfaces lan"),
                    "{lines}"
                );
            }
        }
    }
}
