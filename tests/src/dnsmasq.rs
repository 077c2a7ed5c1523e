//! Debian's dnsmasq, a DHCP server, on the router between the gateways.
//!
//! ```text
//!   gateway-a, wan0 ------ wan-a, dnsmasq :router      lends one address, a default route and a name server
//! ```

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use culvert_netlab::addressing::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::laboratory::Laboratory;

/// A running dnsmasq; it ends with this value.
pub struct Dnsmasq {
    log: PathBuf,
    child: Child,
}

impl Dnsmasq {
    /// Starts it on the link to gateway A, with no lease that it remembers, and this one address to lend. `more` are
    /// options as its manual has them.
    pub fn start(laboratory: &Laboratory, address: &str, more: &[&str]) -> anyhow::Result<Self> {
        let folder = laboratory.folder().join("dnsmasq");
        fs::create_dir_all(&folder)?;
        let leases = folder.join("leases");
        let _ = fs::remove_file(&leases);
        let log = folder.join(format!("{address}.log"));
        let output = File::create(&log)?;
        let child = laboratory
            .open(Place::Wan)
            .spawn(
                Command::new("dnsmasq")
                    .args([
                        "--keep-in-foreground",
                        "--conf-file=/dev/null",
                        "--user=root",
                    ])
                    .args([
                        "--port=0",
                        "--interface=wan-a",
                        "--bind-interfaces",
                        "--no-ping",
                    ])
                    .args(["--dhcp-authoritative", "--log-dhcp", "--log-facility=-"])
                    .arg(format!("--pid-file={}", folder.join("pid").display()))
                    .arg(format!("--dhcp-leasefile={}", leases.display()))
                    .arg(format!("--dhcp-range={address},{address},255.255.255.0,2m"))
                    .args(more)
                    .stdin(Stdio::null())
                    .stdout(output.try_clone()?)
                    .stderr(output),
            )
            .context("dnsmasq does not start; run `make setup`")?;
        Ok(Self { log, child })
    }

    /// Messages of this kind that it has received or sent: `DHCPACK`, say.
    pub fn count(&self, kind: &str) -> usize {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let word = format!(" {kind}(");
        text.lines().filter(|line| line.contains(&word)).count()
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.child.wait();
    }
}
