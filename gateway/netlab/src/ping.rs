//! Debian's `ping`, run inside a namespace and read.

use std::{net::IpAddr, process::Command, time::Duration};

use crate::{
    namespace::Namespace,
    process::{Interrupt, ProcessError, run},
};

/// Why a ping gave no result.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// It did not run to its end.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It wrote what this module cannot read.
    #[error("ping wrote no summary: {0:?}")]
    Unreadable(String),
}

/// What to send.
#[derive(Debug, Clone)]
pub struct Ping<'a> {
    /// Where it goes to.
    pub destination: IpAddr,
    /// How many requests.
    pub count: u32,
    /// Between two requests.
    pub interval: Duration,
    /// How long the last answers are waited for.
    pub patience: Duration,
    /// Bytes of payload.
    pub size: u16,
    /// Fills the payload, over and over; up to 16 bytes.
    pub marker: &'a [u8],
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Mean round trip, milliseconds; 0 when nothing was answered.
    pub average_ms: f64,
    /// Longest round trip, milliseconds.
    pub maximum_ms: f64,
}

impl PingReport {
    /// Requests without an answer, in percent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 {
            100.0
        } else {
            100.0 * f64::from(self.sent - self.received.min(self.sent)) / f64::from(self.sent)
        }
    }
}

impl Ping<'_> {
    /// Sends it all from `namespace` and waits for the summary.
    pub fn run(
        &self,
        namespace: &Namespace,
        interrupt: &Interrupt,
    ) -> Result<PingReport, PingError> {
        let seconds = |duration: Duration| format!("{:.3}", duration.as_secs_f64());
        let mut command = Command::new("ping");
        command
            .args([
                "-n",
                "-q",
                "-c",
                &self.count.to_string(),
                "-i",
                &seconds(self.interval),
            ])
            .args(["-W", &seconds(self.patience), "-s", &self.size.to_string()]);
        if !self.marker.is_empty() {
            let digits = |byte: &u8| format!("{byte:02x}");
            let pattern = self
                .marker
                .iter()
                .take(16)
                .map(digits)
                .collect::<Vec<_>>()
                .concat();
            command.args(["-p", &pattern]);
        }
        command.arg(self.destination.to_string());
        let limit = self.interval * self.count + self.patience + Duration::from_secs(10);
        // 1: nothing, or not everything, was answered.
        let text = run(namespace, &mut command, &[1], limit, interrupt)?;
        parse(&text).ok_or(PingError::Unreadable(text))
    }
}

/// ```text
/// 20 packets transmitted, 20 received, 0% packet loss, time 190ms
/// rtt min/avg/max/mdev = 0.023/0.031/0.050/0.006 ms
/// ```
fn parse(text: &str) -> Option<PingReport> {
    let summary = text
        .lines()
        .find(|line| line.contains(" packets transmitted"))?;
    let mut numbers = summary
        .split(", ")
        .map(|part| part.split_whitespace().next());
    let sent = numbers.next()??.parse().ok()?;
    let received = numbers.next()??.parse().ok()?;
    let times = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let (average_ms, maximum_ms) = match times {
        Some(times) => {
            let mut fields = times.split('/').skip(1);
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)
        }
        None if received == 0 => (0.0, 0.0),
        None => return None,
    };
    Some(PingReport {
        sent,
        received,
        average_ms,
        maximum_ms,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn summaries_are_read() {
        let good = "PING 10.2.0.10 (10.2.0.10) 56(84) bytes of data.\n\n--- 10.2.0.10 ping statistics ---\n\
            20 packets transmitted, 19 received, 5% packet loss, time 190ms\n\
            rtt min/avg/max/mdev = 0.023/0.031/0.050/0.006 ms\n";
        let report = parse(good).unwrap();
        assert_eq!((report.sent, report.received), (20, 19));
        assert!(
            (report.average_ms - 0.031).abs() < 1e-9 && (report.maximum_ms - 0.050).abs() < 1e-9
        );
        assert!((report.loss_percent() - 5.0).abs() < 1e-9);
        let errors =
            "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2029ms\n";
        assert!((parse(errors).unwrap().loss_percent() - 100.0).abs() < 1e-9);
        assert!(parse("ping: connect: Network is unreachable").is_none());
    }

    #[test]
    fn loopback_answers_everything() {
        let name = format!("culvert-unit-{}-ping", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        namespace
            .netlink(async |netlink| netlink.set_up("lo").await)
            .unwrap();
        let ping = Ping {
            destination: IpAddr::from([127, 0, 0, 1]),
            count: 5,
            interval: Duration::from_millis(10),
            patience: Duration::from_secs(1),
            size: 64,
            marker: b"marker",
        };
        let report = ping.run(&namespace, &Interrupt::default()).unwrap();
        assert_eq!((report.sent, report.received), (5, 5));
        Namespace::remove(&name).unwrap();
    }
}
