//! Debian's strongSwan in the place of a gateway, unmodified, with the ESP of its own `kernel-libipsec`.
//!
//! ```text
//!   gateway-b:  lan0 10.2.0.1 --- kernel routes --- ipsec0 (TUN) --- charon --- wan0 198.51.100.2
//! ```
//!
//! Its ESP runs in UDP only, in tunnel mode, without extended sequence numbers. The kernel has no other way to the far
//! LAN than into the TUN device.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use culvert_netlab::addressing::{Family, Place, Side};
use culvert_netlab::namespace::{Namespace, set_kernel_setting};
use culvert_netlab::process::{Interrupt, ProcessIdentity, run};

use crate::configuration::{CHILD, CONNECTION, SECRET, identity};
use crate::laboratory::{Laboratory, wait_for};

/// Answers of its control tool, negotiations included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How both sides prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The same secret.
    Psk,
    /// Certificates, whose files are in the folder `pki` of the laboratory.
    Certificate,
    /// A side by this method of EAP, the other by what the method asks for.
    Eap(Side, &'static str),
}

impl Proof {
    /// Whether there are certificates.
    fn certificates(self) -> bool {
        matches!(self, Self::Certificate | Self::Eap(_, "eap-tls"))
    }
}

/// The user name of EAP with a password.
pub const USER: &str = "branch-7";
/// The password of that.
pub const PASSWORD: &str = "whole-box passwords protect nothing";

/// A CHILD_SA of its one connection, as its own configuration names things.
#[derive(Clone, Debug)]
pub struct Protected {
    /// Of both sides.
    pub name: String,
    /// Its side, as a selector.
    pub local: String,
    /// The side of gateway a.
    pub remote: String,
    /// Algorithms for ESP.
    pub proposal: String,
}

impl Protected {
    /// Both LANs.
    fn lans() -> Self {
        Self {
            name: CHILD.to_owned(),
            local: Side::B.addresses().lan_network(Family::V4).to_string(),
            remote: Side::A.addresses().lan_network(Family::V4).to_string(),
            proposal: "aes128gcm16".to_owned(),
        }
    }
}

/// A running strongSwan.
pub struct Stock {
    folder: PathBuf,
    namespace: Namespace,
    child: Child,
}

impl Stock {
    /// Starts it in the place of gateway b, with the connection loaded, waiting to be called.
    pub fn start(laboratory: &Laboratory, proof: Proof) -> anyhow::Result<Self> {
        Self::start_for(laboratory, proof, &[Protected::lans()])
    }

    /// The same with other CHILD_SAs.
    pub fn start_for(
        laboratory: &Laboratory,
        proof: Proof,
        children: &[Protected],
    ) -> anyhow::Result<Self> {
        let namespace = laboratory.open(Place::GatewayB);
        let folder = laboratory.folder().join("stock");
        for part in ["swanctl/x509", "swanctl/x509ca", "swanctl/private"] {
            fs::create_dir_all(folder.join(part))?;
        }
        forward(&namespace)?;
        if proof.certificates() {
            let pki = laboratory.folder().join("pki");
            for (from, to) in [
                ("b.pem", "x509/b.pem"),
                ("ca.pem", "x509ca/ca.pem"),
                ("b.key", "private/b.key"),
            ] {
                fs::copy(pki.join(from), folder.join("swanctl").join(to))?;
            }
        }
        fs::write(
            folder.join("swanctl/swanctl.conf"),
            connections(proof, children),
        )?;
        fs::write(
            folder.join("strongswan.conf"),
            format!(
                "charon {{
  load_modular = no
  load = openssl random nonce aes sha1 sha2 hmac gcm ctr kdf pem pkcs1 pkcs8 x509 revocation constraints pubkey kernel-libipsec kernel-netlink socket-default vici updown eap-identity eap-mschapv2 eap-tls eap-md5 md5
  install_routes = yes
  filelog {{ stock {{ path = {0}/charon.log
    flush_line = yes
    default = 1 }} }}
  plugins {{
    kernel-libipsec {{ allow_peer_ts = yes }}
    vici {{ socket = unix://{0}/vici }}
  }}
}}
",
                folder.display()
            ),
        )?;
        let output = File::create(folder.join("output.log"))?;
        // Its own /run: process number and sockets of another charon are not touched.
        let child = namespace.spawn(
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c"])
                .arg("mount -t tmpfs tmpfs /run && exec /usr/lib/ipsec/charon")
                .env("STRONGSWAN_CONF", folder.join("strongswan.conf"))
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output),
        )?;
        let this = Self {
            folder,
            namespace,
            child,
        };
        wait_for("the stock strongSwan", Duration::from_secs(20), || {
            this.folder.join("vici").exists().then_some(())
        })?;
        this.swanctl(&["--load-all"])?;
        Ok(this)
    }

    /// Runs its control tool.
    pub fn swanctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("swanctl");
        command
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}/vici", self.folder.display()))
            .env("SWANCTL_DIR", self.folder.join("swanctl"))
            .env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"));
        run(
            &self.namespace,
            &mut command,
            &[],
            PATIENCE,
            &Interrupt::default(),
        )
        .with_context(|| format!("swanctl {arguments:?}"))
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("charon.log")).unwrap_or_default()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if let Some(process) = ProcessIdentity::of(self.child.id()) {
            process.end(Duration::from_secs(5));
        }
        let _ = self.child.wait();
    }
}

/// The address that it has after it has moved, which nothing gives it by itself.
pub fn moved() -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 3)
}

/// A router in the kernel that knows the untrusted side and its own LAN.
fn forward(namespace: &Namespace) -> anyhow::Result<()> {
    let own = Side::B.addresses();
    let far = Side::A.addresses();
    namespace.enter(|| {
        for (setting, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Its kernel would speak of IPv6 groups on the untrusted side.
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ] {
            set_kernel_setting(setting, value)?;
        }
        std::io::Result::Ok(())
    })??;
    namespace.netlink(async |netlink| {
        for device in ["lan0", "wan0"] {
            netlink.set_up(device).await?;
        }
        let v4 = Family::V4;
        netlink.add_address("lan0", own.gateway_lan(v4)).await?;
        netlink.add_address("wan0", own.gateway_wan(v4)).await?;
        netlink
            .add_route(far.wan_network(v4), own.router(v4).addr())
            .await
    })?;
    Ok(())
}

fn connections(proof: Proof, children: &[Protected]) -> String {
    let children: Vec<String> = children
        .iter()
        .map(|child| {
            format!(
                "{} {{
    local_ts = {}
    remote_ts = {}
    esp_proposals = {}
  }}",
                child.name, child.local, child.remote, child.proposal
            )
        })
        .collect();
    let (own, far) = (Side::B.addresses(), Side::A.addresses());
    let v4 = Family::V4;
    let side = |side: Side| match proof {
        Proof::Certificate if side == Side::B => {
            format!("auth = pubkey\n certs = b.pem\n id = {}", identity(side))
        }
        Proof::Certificate => format!("auth = pubkey\n cacerts = ca.pem\n id = {}", identity(side)),
        Proof::Eap(client, method) if side == client => {
            let user = match (method, client) {
                ("eap-tls", Side::A) => "cacerts = ca.pem".to_owned(),
                ("eap-tls", Side::B) => "certs = b.pem".to_owned(),
                (_, Side::A) => "eap_id = %any".to_owned(),
                (_, Side::B) => format!("eap_id = {USER}"),
            };
            format!("auth = {method}\n id = {}\n {user}", identity(side))
        }
        Proof::Eap(_, "eap-tls") if side == Side::B => {
            format!("auth = pubkey\n certs = b.pem\n id = {}", identity(side))
        }
        Proof::Eap(_, "eap-tls") => {
            format!("auth = pubkey\n cacerts = ca.pem\n id = {}", identity(side))
        }
        Proof::Psk | Proof::Eap(..) => format!("auth = psk\n id = {}", identity(side)),
    };
    format!(
        "connections {{ {CONNECTION} {{
  version = 2
  local_addrs = {}, {}
  remote_addrs = {}
  encap = yes
  proposals = aes256gcm16-prfsha384-ecp384
  local {{ {} }}
  remote {{ {} }}
  children {{ {} }}
}} }}
secrets {{ ike-test {{
  id-a = {}
  id-b = {}
  secret = \"{SECRET}\"
}}
eap-test {{
  id = {USER}
  secret = \"{PASSWORD}\"
}} }}
",
        own.gateway_wan(v4).addr(),
        moved(),
        far.gateway_wan(v4).addr(),
        side(Side::B),
        side(Side::A),
        children.join("\n"),
        identity(Side::A),
        identity(Side::B),
    )
}
