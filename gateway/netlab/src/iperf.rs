//! TCP and UDP throughput between two namespaces, measured by Debian's `iperf3`.

use std::{
    fs,
    net::IpAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    namespace::Namespace,
    process::{Guarded, Interrupt, ProcessError, run},
};

/// iperf3's own.
const PORT: u16 = 5201;
/// A server that does not listen by then never will.
const START: Duration = Duration::from_secs(5);

/// Why there is no throughput to report.
#[derive(Debug, thiserror::Error)]
pub enum IperfError {
    /// A process failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The server did not listen in time.
    #[error("iperf3 does not listen on {0}")]
    NotListening(u16),
    /// What it wrote is not a report.
    #[error("iperf3: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// What it reported instead.
    #[error("iperf3: {0}")]
    Reported(String),
}

/// Which way the stream runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Client to server.
    Forth,
    /// Server to client.
    Back,
}

/// What runs over IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One stream.
    Tcp,
    /// Datagrams as fast as the sender can, of [`DATAGRAM`] bytes each.
    Udp,
}

/// Payload of a datagram: fits a tunnel's MTU, so that nothing is fragmented.
pub const DATAGRAM: u32 = 1300;

/// What one stream reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Megabits (10^6) a second of payload that arrived.
    pub mbit: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// A TCP stream of `seconds` between a client and a server at `address`.
pub fn measure(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
    way: Way,
    seconds: u32,
    interrupt: &Interrupt,
) -> Result<Throughput, IperfError> {
    let tcp = Transport::Tcp;
    measure_over(tcp, client, server, address, way, seconds, interrupt)
}

/// The same over either transport.
pub fn measure_over(
    transport: Transport,
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
    way: Way,
    seconds: u32,
    interrupt: &Interrupt,
) -> Result<Throughput, IperfError> {
    let port = PORT.to_string();
    let mut listen = Command::new("iperf3");
    listen
        .args(["-s", "-1", "-p", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _server = Guarded::start(server, &mut listen)?;
    wait_for_listener(server, interrupt)?;
    let mut command = Command::new("iperf3");
    command.args([
        "-c",
        &address.to_string(),
        "-p",
        &port,
        "-t",
        &seconds.to_string(),
    ]);
    // A tunnel that passes nothing must not hold the client for minutes.
    command.args(["-J", "--connect-timeout", "5000"]);
    if way == Way::Back {
        command.arg("-R");
    }
    if transport == Transport::Udp {
        command.args(["-u", "-b", "0", "-l", &DATAGRAM.to_string()]);
    }
    // 1: the report says what went wrong.
    let text = run(
        client,
        &mut command,
        &[1],
        Duration::from_secs(u64::from(seconds) + 30),
        interrupt,
    )?;
    parse(&text)
}

fn wait_for_listener(namespace: &Namespace, interrupt: &Interrupt) -> Result<(), IperfError> {
    let until = Instant::now() + START;
    let listens = || {
        let open = format!(":{PORT:04X}");
        ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
            .iter()
            .any(|path| {
                let table = fs::read_to_string(path).unwrap_or_default();
                table.lines().any(|line| {
                    let mut fields = line.split_ascii_whitespace().skip(1);
                    // 0A: TCP_LISTEN
                    fields.next().is_some_and(|local| local.ends_with(&open))
                        && fields.nth(1) == Some("0A")
                })
            })
    };
    loop {
        let found = namespace
            .enter(listens)
            .map_err(|source| ProcessError::Start {
                program: "iperf3".to_owned(),
                source,
            })?;
        if found {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(IperfError::NotListening(PORT));
        }
        interrupt.sleep(Duration::from_millis(10))?;
    }
}

fn parse(text: &str) -> Result<Throughput, IperfError> {
    #[derive(Deserialize)]
    struct Report {
        error: Option<String>,
        #[serde(default)]
        end: End,
    }
    #[derive(Default, Deserialize)]
    struct End {
        sum_sent: Option<Sum>,
        sum_received: Option<Sum>,
    }
    #[derive(Deserialize)]
    struct Sum {
        bits_per_second: f64,
        retransmits: Option<u64>,
    }
    let report: Report = serde_json::from_str(text)?;
    if let Some(error) = report.error {
        return Err(IperfError::Reported(error));
    }
    match (report.end.sum_received, report.end.sum_sent) {
        (Some(received), Some(sent)) => Ok(Throughput {
            mbit: received.bits_per_second / 1e6,
            retransmits: sent.retransmits.unwrap_or(0),
        }),
        _ => Err(IperfError::Reported("the report has no sums".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn reports_are_read() {
        let text = r#"{"start":{},"end":{"sum_sent":{"bits_per_second":2e9,"retransmits":7},
            "sum_received":{"bits_per_second":1.5e9}}}"#;
        assert_eq!(
            parse(text).unwrap(),
            Throughput {
                mbit: 1500.0,
                retransmits: 7
            }
        );
        let error = r#"{"start":{},"end":{},"error":"unable to connect to server"}"#;
        assert!(matches!(parse(error), Err(IperfError::Reported(text)) if text.contains("unable")));
        assert!(matches!(parse("no JSON"), Err(IperfError::Unreadable(_))));
    }

    #[test]
    fn both_ways_over_loopback() {
        let name = format!("culvert-unit-{}-iperf", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        namespace
            .netlink(async |netlink| netlink.set_up("lo").await)
            .unwrap();
        for (way, address) in [
            (Way::Forth, IpAddr::from([127, 0, 0, 1])),
            (Way::Back, "::1".parse().unwrap()),
        ] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let result = measure_over(
                    transport,
                    &namespace,
                    &namespace,
                    address,
                    way,
                    1,
                    &Interrupt::default(),
                )
                .unwrap();
                assert!(result.mbit > 10.0, "{transport:?}: {result:?}");
            }
        }
        assert!(namespace.processes().unwrap().is_empty());
        Namespace::remove(&name).unwrap();
    }
}
