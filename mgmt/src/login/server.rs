//! What sshd allows (`sshd_config(5)`): keys, a terminal, the forced command. All else is off, by name, whatever its default.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_model::config::Config;

use super::{ACCOUNT, BANNER, FOLDER, HOST_KEY, KEYS, LoginError, plain};

/// Defaults of the schema.
const PORT: u32 = 22;
const IDLE_TIMEOUT: u32 = 900;

/// Said at every start, in this order.
const ALWAYS: &str = "\
AllowUsers culvert
PermitRootLogin no
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
HostbasedAuthentication no
GSSAPIAuthentication no
KerberosAuthentication no
PermitEmptyPasswords no
UsePAM no
StrictModes yes
AuthorizedKeysCommand none
AuthorizedPrincipalsFile none
TrustedUserCAKeys none
RequiredRSASize 2048

PermitTTY yes
DisableForwarding yes
AllowTcpForwarding no
AllowStreamLocalForwarding no
AllowAgentForwarding no
X11Forwarding no
PermitTunnel no
PermitOpen none
PermitListen none
GatewayPorts no
PermitUserRC no
PermitUserEnvironment no
ExposeAuthInfo no
ChrootDirectory none
PrintMotd no
PrintLastLog no
VersionAddendum none

LoginGraceTime 30
MaxAuthTries 6
MaxSessions 4
MaxStartups 10:30:60
PerSourceMaxStartups 8
ClientAliveInterval 15
ClientAliveCountMax 4
TCPKeepAlive no
UseDNS no
LogLevel VERBOSE
";

/// What of a configuration sshd must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens; none: it does not.
    pub listen: Vec<IpAddr>,
    /// On which port.
    pub port: u16,
    /// What is shown before somebody logs in.
    pub banner: Option<String>,
    /// After how long without a word a session ends; zero: never.
    pub idle_timeout: Duration,
}

impl Settings {
    /// As configured.
    pub fn of(config: &Config) -> Result<Self, LoginError> {
        let system = config.system.clone().unwrap_or_default();
        let server = system.ssh_server.unwrap_or_default();
        let login = system.login.unwrap_or_default();
        let listen = server
            .listen_addresses
            .iter()
            .map(|listen| {
                listen.address().parse().map_err(|_| LoginError::Address {
                    address: listen.address().to_owned(),
                })
            })
            .collect::<Result<_, _>>()?;
        let port = server.port.unwrap_or(PORT);
        Ok(Self {
            listen,
            port: u16::try_from(port).map_err(|_| LoginError::Address {
                address: format!("port {port}"),
            })?,
            banner: login.banner.filter(|banner| !banner.is_empty()),
            idle_timeout: Duration::from_secs(u64::from(
                login.idle_timeout.unwrap_or(IDLE_TIMEOUT),
            )),
        })
    }
}

/// `sshd_config`; none where sshd is not to run, since without an address it would listen on every one.
///
/// There is no `Subsystem` and no `AcceptEnv`: sshd has neither unless told. A client that is gone is noticed after
/// a minute; one that says nothing is logged out by the command line, or, when it never gave it a line, by sshd.
pub fn sshd_config(settings: &Settings, root: &Path) -> Result<Option<String>, LoginError> {
    let root = PathBuf::from(plain(root)?);
    if settings.listen.is_empty() {
        return Ok(None);
    }
    let folder = root.join(FOLDER);
    let file = |name: &str| folder.join(name).display().to_string();
    let mut text =
        String::from("# Written by culvert mgmt from system.ssh_server: changes are lost.\n");
    let mut say = |keyword: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{keyword} {value}");
    };
    say("Port", &settings.port.to_string());
    for address in &settings.listen {
        say("ListenAddress", &address.to_string());
    }
    say("HostKey", &file(HOST_KEY));
    say("PidFile", &root.join("run/sshd.pid").display().to_string());
    say("AuthorizedKeysFile", &file(KEYS));
    match settings.banner {
        Some(_) => say("Banner", &file(BANNER)),
        None => say("Banner", "none"),
    }
    if settings.idle_timeout.is_zero() {
        say("ChannelTimeout", "none");
    } else {
        // Later than the command line, which can say why.
        let limit = settings.idle_timeout.as_secs() + 60;
        say("ChannelTimeout", &format!("session:*={limit}s"));
        say("UnusedConnectionTimeout", "60s");
    }
    debug_assert!(ALWAYS.contains(&format!("AllowUsers {ACCOUNT}\n")));
    text.push_str(ALWAYS);
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;

    use culvert_model::config::{ListenAddress, Login, SshServer, System};

    use super::*;

    fn config(addresses: &[&str]) -> Config {
        Config {
            system: Some(System {
                ssh_server: Some(SshServer {
                    listen_addresses: addresses
                        .iter()
                        .map(|address| ListenAddress {
                            address: Some((*address).to_owned()),
                        })
                        .collect(),
                    port: Some(2222),
                }),
                login: Some(Login {
                    banner: Some("Keep out".to_owned()),
                    idle_timeout: Some(300),
                }),
                ..System::default()
            }),
            ..Config::default()
        }
    }

    fn rendered(config: &Config) -> Option<String> {
        sshd_config(&Settings::of(config).unwrap(), Path::new("/r")).unwrap()
    }

    #[test]
    fn without_an_address_it_does_not_listen() {
        assert_eq!(rendered(&Config::default()), None);
        assert_eq!(rendered(&config(&[])), None);
    }

    #[test]
    fn it_listens_where_it_is_told() {
        let text = rendered(&config(&["192.0.2.1", "2001:db8::1"])).unwrap();
        for line in [
            "Port 2222",
            "ListenAddress 192.0.2.1",
            "ListenAddress 2001:db8::1",
            "HostKey /r/etc/ssh/ssh_host_ed25519_key",
            "AuthorizedKeysFile /r/etc/ssh/authorized_keys",
            "Banner /r/etc/ssh/banner",
            "ChannelTimeout session:*=360s",
            "DisableForwarding yes",
            // Who does not log in is slowed down, and keeps nobody else out.
            "LoginGraceTime 30",
            "MaxAuthTries 6",
            "MaxSessions 4",
            "MaxStartups 10:30:60",
            "PerSourceMaxStartups 8",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
    }

    #[test]
    fn the_schema_says_the_same_defaults() {
        let settings = Settings::of(&Config::default()).unwrap();
        assert_eq!(settings.port, 22);
        assert_eq!(settings.idle_timeout, Duration::from_mins(15));
        assert_eq!(settings.banner, None);
    }

    #[test]
    fn nothing_is_said_twice_and_nothing_is_opened() {
        let text = rendered(&config(&["192.0.2.1"])).unwrap();
        let mut seen = BTreeSet::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let keyword = line.split(' ').next().unwrap();
            // sshd takes the first of two.
            assert!(seen.insert(keyword), "{keyword}");
        }
        for keyword in [
            "Subsystem",
            "AcceptEnv",
            "SetEnv",
            "Include",
            "Match",
            "ForceCommand",
        ] {
            assert!(!seen.contains(keyword), "{keyword}");
        }
    }
}
