//! A NAT between the gateways: the router masquerades what gateway a sends in UDP.
//!
//! ```text
//!   gateway-a --- wan-a [ router: from 192.0.2.2:4500 to its own 198.51.100.1:port ] wan-b --- gateway-b
//! ```
//!
//! Nothing of the untrusted side but the router's own address reaches gateway b, and what comes back finds gateway a as
//! long as the kernel remembers the connection.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::Namespace;
use culvert_netlab::process::{Interrupt, run};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::laboratory::Laboratory;

const PATIENCE: Duration = Duration::from_secs(10);
/// `IPCTNL_MSG_CT_DELETE` of ctnetlink, which without a tuple forgets all of them.
const FORGET_CONNECTIONS: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const WITH_ANSWER: u16 = 1 | 4;

/// A NAT in the router of a laboratory, as long as that lives.
pub struct Nat {
    wan: Namespace,
    script: std::path::PathBuf,
}

impl Nat {
    /// Hides gateway a behind ports of the router.
    pub fn begin(laboratory: &Laboratory, ports: &RangeInclusive<u16>) -> anyhow::Result<Self> {
        let this = Self {
            wan: laboratory.open(Place::Wan),
            script: laboratory.folder().join("nat.nft"),
        };
        this.nft(
            "add table ip nat\n\
             add chain ip nat behind { type nat hook postrouting priority srcnat; }\n",
        )?;
        this.map(ports)?;
        Ok(this)
    }

    /// Lets every connection come from another port from now on, as a NAT does that was started anew.
    pub fn map(&self, ports: &RangeInclusive<u16>) -> anyhow::Result<()> {
        let private = Side::A.addresses().gateway_wan(Family::V4).addr();
        let (first, last) = (ports.start(), ports.end());
        self.nft(&format!(
            "flush chain ip nat behind\n\
             add rule ip nat behind ip saddr {private} meta l4proto udp masquerade to :{first}-{last}\n"
        ))?;
        self.wan
            .enter(forget_connections)?
            .context("the kernel does not forget connections")
    }

    fn nft(&self, script: &str) -> anyhow::Result<()> {
        fs::write(&self.script, script)?;
        let mut command = Command::new("nft");
        command.arg("-f").arg(&self.script);
        run(
            &self.wan,
            &mut command,
            &[],
            PATIENCE,
            &Interrupt::default(),
        )?;
        Ok(())
    }
}

/// What `conntrack -F` does, in the namespace of the calling thread.
fn forget_connections() -> anyhow::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // nlmsghdr: length, type, flags, number, port; nfgenmsg: any family, version 0, no resource.
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend(FORGET_CONNECTIONS.to_ne_bytes());
    request.extend(WITH_ANSWER.to_ne_bytes());
    request.extend([0; 12]);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(length >= 20, "half an answer");
    let error = answer
        .get(16..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    ensure!(error == 0, io::Error::from_raw_os_error(-error));
    Ok(())
}
