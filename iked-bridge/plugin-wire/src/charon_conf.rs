//! The `strongswan.conf` of a charon that uses the plugin.
//!
//! One charon has one such file, named by `STRONGSWAN_CONF` in its environment, with `CULVERT_PLUGIN_SOCKET`
//! ([`crate::SOCKET_ENV`]) beside it. Connections and credentials are not in it: they come by VICI.

use std::fmt;
use std::path::PathBuf;

/// Value of `charon.load` that Debian 12's charon (5.9.8) was seen to run with.
///
/// `openssl` is first since the first plugin that offers an algorithm provides it and OpenSSL's are the fast ones. The
/// `!` behind `culvert` makes charon exit with status 66 if the plugin does not load; without it `kernel-netlink` would
/// quietly give the keys to the Linux kernel. What EAP-MSCHAPv2 needs of old algorithms (MD4, DES) is OpenSSL's, of its legacy
/// provider.
pub const LOAD: &str = "openssl random nonce aes sha1 sha2 hmac gcm ccm ctr chapoly curve25519 kdf drbg \
     pem pkcs1 pkcs8 x509 revocation constraints pubkey culvert! kernel-netlink socket-default eap-identity \
     eap-mschapv2 eap-tls eap-md5 md5 vici";

/// Name under which the plugin's file must stand in charon's plugin folder.
pub const PLUGIN_FILE: &str = "libstrongswan-culvert.so";

/// Folder where Debian's charon looks for plugins. It is compiled in: no setting changes it.
pub const PLUGIN_FOLDER: &str = "/usr/lib/ipsec/plugins";

/// Exit status of a charon whose critical plugin did not load.
pub const EXIT_PLUGIN_MISSING: i32 = 66;

/// What differs between one charon's `strongswan.conf` and another's. [`fmt::Display`] writes the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharonConf {
    /// Where charon offers VICI: an absolute path, at most 107 bytes.
    pub vici_socket: PathBuf,
    /// Interfaces whose addresses IKE may use: the TAPs. Empty: all.
    pub interfaces: Vec<String>,
    /// Worker threads. A thread waits while the dataplane installs an SA, and six are always taken. With 32, two charons
    /// on two cores set up 100 tunnels in 0.6 s where every call took 1 ms.
    pub threads: u16,
    /// Cookies and limits on half-open IKE SAs for each address. Off only where one address stands for many peers, as in
    /// a load test.
    pub flood_protection: bool,
    /// Where charon writes what happens: an absolute path; none: its standard error.
    pub log_file: Option<PathBuf>,
    /// Further settings of the section `charon`, as strongswan.conf(5) names them.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl fmt::Display for CharonConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vici = format!("unix://{}", self.vici_socket.display());
        writeln!(f, "charon {{")?;
        writeln!(f, "  load_modular = no\n  load = {LOAD}")?;
        writeln!(f, "  threads = {}", self.threads)?;
        // Routes and addresses are the dataplane's; table 0 means that no rule for a table of charon's is made.
        writeln!(
            f,
            "  install_routes = no\n  install_virtual_ip = no\n  routing_table = 0"
        )?;
        if !self.interfaces.is_empty() {
            writeln!(
                f,
                "  interfaces_use = {}",
                quoted(&self.interfaces.join(","))
            )?;
        }
        if !self.flood_protection {
            writeln!(
                f,
                "  dos_protection = no\n  block_threshold = 0\n  cookie_threshold = 0"
            )?;
        }
        for (name, value) in &self.settings {
            writeln!(f, "  {name} = {}", quoted(value))?;
        }
        // Level 1 tells what happens; from level 3 on charon prints buffers, from 4 on keys.
        let path = match &self.log_file {
            None => "stderr".to_owned(),
            Some(path) => path.display().to_string(),
        };
        writeln!(
            f,
            "  filelog {{\n    culvert {{\n      path = {}\n      time_format = \"%FT%T\"\n      ike_name = yes\n      \
             append = yes\n      flush_line = yes\n      default = 1\n    }}\n  }}",
            quoted(&path)
        )?;
        writeln!(
            f,
            "  syslog {{\n    daemon {{\n      default = -1\n    }}\n    auth {{\n      default = -1\n    }}\n  }}"
        )?;
        writeln!(
            f,
            "  plugins {{\n    vici {{\n      socket = {}\n    }}\n  }}\n}}",
            quoted(&vici)
        )
    }
}

/// A value in double quotes, for names that are not plain.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_plugin_is_critical_and_comes_before_the_kernel() {
        let plugins: Vec<_> = LOAD.split_whitespace().collect();
        let place = |name: &str| plugins.iter().position(|plugin| *plugin == name).unwrap();
        assert_eq!(place("openssl"), 0);
        assert!(place("culvert!") < place("kernel-netlink"));
    }

    #[test]
    fn values_cannot_break_out_of_their_line() {
        let conf = CharonConf {
            vici_socket: "/run/a\"b/vici".into(),
            interfaces: vec!["wan0".into(), "wan1".into()],
            threads: 32,
            flood_protection: true,
            log_file: Some("/var/log/a b".into()),
            settings: vec![("retransmit_tries", "5")],
        };
        let text = conf.to_string();
        assert!(
            text.contains("socket = \"unix:///run/a\\\"b/vici\"\n"),
            "{text}"
        );
        assert!(text.contains("interfaces_use = \"wan0,wan1\"\n"), "{text}");
        assert!(!text.contains("dos_protection"), "{text}");
        assert!(text.contains("path = \"/var/log/a b\"\n"), "{text}");
        assert!(text.contains("  retransmit_tries = \"5\"\n"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
