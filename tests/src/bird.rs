//! Debian's BIRD, a routing daemon, beside a gateway: it speaks OSPF over the TAPs and writes what it learns into Linux.
//!
//! ```text
//!   gateway-a:  lan (stub) --- bird --- gre0 ===== gre0 --- bird --- lan (stub)  :gateway-b
//!                                |
//!                                '--> Linux, main table, protocol bird
//! ```

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use culvert_netlab::addressing::Side;
use culvert_netlab::namespace::Namespace;
use culvert_netlab::process::{Interrupt, run};

use crate::laboratory::{Laboratory, wait_for};

/// Answers of its control tool.
const PATIENCE: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(20);

/// A running BIRD; it ends with this value.
pub struct Bird {
    folder: PathBuf,
    namespace: Namespace,
    child: Child,
}

impl Bird {
    /// Starts it in the namespace of a gateway that runs, with OSPF of both families over `gre0`. The LAN is announced.
    pub fn start(laboratory: &Laboratory, side: Side) -> anyhow::Result<Self> {
        let namespace = laboratory.open(side.gateway());
        let folder = laboratory
            .folder()
            .join(format!("bird-{}", side.gateway().name()));
        fs::create_dir_all(&folder)?;
        let number = match side {
            Side::A => 1,
            Side::B => 2,
        };
        fs::write(folder.join("bird.conf"), configuration(number))?;
        let log = File::create(folder.join("bird.log"))?;
        let child = namespace
            .spawn(
                Command::new("bird")
                    .arg("-f")
                    .arg("-c")
                    .arg(folder.join("bird.conf"))
                    .arg("-s")
                    .arg(folder.join("control"))
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log),
            )
            .context("BIRD does not start; run `make setup`")?;
        let this = Self {
            folder,
            namespace,
            child,
        };
        wait_for("BIRD", START, || {
            this.control(&["show", "status"]).ok().map(drop)
        })?;
        Ok(this)
    }

    /// Runs its control tool.
    pub fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("birdc");
        command
            .arg("-s")
            .arg(self.folder.join("control"))
            .args(arguments);
        Ok(run(
            &self.namespace,
            &mut command,
            &[],
            PATIENCE,
            &Interrupt::default(),
        )?)
    }

    /// Whether this OSPF has a neighbour whose whole database it knows.
    pub fn is_adjacent(&self, protocol: &str) -> bool {
        self.control(&["show", "ospf", "neighbors", protocol])
            .is_ok_and(|text| text.contains("Full"))
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(number: u8) -> String {
    let ospf = |version: u8, family: &str| {
        format!(
            "protocol kernel {{
    {family} {{ import none; export where source ~ [ RTS_OSPF, RTS_OSPF_IA, RTS_OSPF_EXT1, RTS_OSPF_EXT2 ]; }};
}}
protocol ospf v{version} ospf{version} {{
    {family} {{ import all; export none; }};
    area 0 {{
        interface \"gre0\" {{ type ptp; hello 1; dead 30; retransmit 2; }};
        interface \"lan\" {{ stub yes; }};
    }};
}}
"
        )
    };
    format!(
        "log stderr all;
router id 10.255.0.{number};
protocol device {{ }}
{}{}",
        ospf(2, "ipv4"),
        ospf(3, "ipv6")
    )
}
