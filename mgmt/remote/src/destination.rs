//! Which gateway: an address or name, and the port that its sshd listens on.

use std::fmt;
use std::str::FromStr;

/// What ssh listens on unless told.
const PORT: u16 = 22;

/// `ADDR`, `ADDR:PORT` or `[ADDR]:PORT`; an IPv6 address with a port needs the brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a text names no gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Not a name, not an address.
    #[error("{0:?} is no address: write ADDR, ADDR:PORT or [ADDR]:PORT")]
    Host(String),
    /// Not a port.
    #[error("{0:?} is no port: it is a number from 1 to 65535")]
    Port(String),
    /// Whoever that is.
    #[error("everybody is the user `culvert`, and the key tells who speaks: write {0:?}")]
    User(String),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if let Some((_, rest)) = text.rsplit_once('@') {
            return Err(DestinationError::User(rest.to_owned()));
        }
        let wrong = || DestinationError::Host(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or_else(wrong)?;
                match behind.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if behind.is_empty() => (host, None),
                    None => return Err(wrong()),
                }
            }
            None => match text.split_once(':') {
                // Several colons: IPv6.
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'%')
        };
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(wrong());
        }
        let port = match port {
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| DestinationError::Port(port.to_owned()))?,
        };
        Ok(Self {
            // As names are in files of known hosts.
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl Destination {
    /// As a file of known hosts calls it (sshd(8)): the name, with the port if that is another than 22.
    pub fn name(&self) -> String {
        if self.port == PORT {
            self.host.clone()
        } else {
            format!("[{}]:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_and_names_with_and_without_a_port() {
        for (text, host, port, name) in [
            ("10.1.0.1", "10.1.0.1", 22, "10.1.0.1"),
            ("10.1.0.1:2222", "10.1.0.1", 2222, "[10.1.0.1]:2222"),
            ("Box.Example:22", "box.example", 22, "box.example"),
            ("2001:db8::1", "2001:db8::1", 22, "2001:db8::1"),
            (
                "[2001:db8::1]:2222",
                "2001:db8::1",
                2222,
                "[2001:db8::1]:2222",
            ),
            ("[fe80::1%lan0]", "fe80::1%lan0", 22, "fe80::1%lan0"),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!((destination.host.as_str(), destination.port), (host, port));
            assert_eq!(destination.name(), name);
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_is_right() {
        for text in [
            "",
            ":22",
            "[::1",
            "[::1]22",
            "a b",
            "-oProxyCommand=x y",
            "a:0",
            "a:70000",
            "a:ssh",
        ] {
            text.parse::<Destination>().unwrap_err();
        }
        assert!(
            "root@box"
                .parse::<Destination>()
                .unwrap_err()
                .to_string()
                .contains("\"box\"")
        );
    }
}
